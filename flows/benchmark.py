"""Flows `benchmark-accuracy` and `benchmark-real`: how good weights are, on simulated and real maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect import flow

from components.config import Config
from components.cube.read import list_cubes
from components.errors import InputError
from components.evaluation import simv1
from components.evaluation.accuracy import publish_accuracy, read_accuracy
from components.evaluation.accuracy_report import write_accuracy
from components.evaluation.calibrate import write_card
from components.evaluation.kept_maps import RegionMaps, find_map, keep_map
from components.evaluation.real import LIKELY, REAL_MAPS, describe, small_picture
from components.inference.instance_file import load_instances
from components.inference.predict import read_card
from components.inference.run import INSTANCES
from components.workspace import Artefact, Workspace, make_folder, read_artefact, write_json
from flows.inference import infer
from flows.ingest import ingest
from flows.pipeline import map_products
from flows.progress import report
from flows.simulate import simulate
from flows.tasks import open_workspace, run_stage, stage_task

SplitChoice = Literal["all", "val", "test", "null"]

#: The model's name among the methods.
MODEL = "model"


@dataclass(frozen=True)
class AccuracyResult:
    """What a run of the benchmark ends with.

    Parameters
    ----------
    document, metrics_file : Path
        Markdown and JSON.
    metrics : dict
        Content of the JSON.
    calibrated : tuple of Path
        Cards that were written.
    """

    document: Path
    metrics_file: Path
    metrics: dict[str, Any]
    calibrated: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON form: files, and the headline of each method by split.

        Returns
        -------
        dict
        """
        return {
            "document": str(self.document),
            "metrics_file": str(self.metrics_file),
            "benchmark": self.metrics["benchmark"],
            "methods": self.metrics["methods"],
            "splits": {
                split: {name: m["figures"] for name, m in found["methods"].items()}
                for split, found in self.metrics["splits"].items()
            },
            "calibrated": [str(p) for p in self.calibrated],
        }


def check_accuracy(weights: Path, against: dict[str, Path]) -> dict[str, Path]:
    """Networks by name, each looked at before anything heavy begins.

    Parameters
    ----------
    weights : Path
        The model.
    against : dict of str to Path
        Others.

    Returns
    -------
    dict of str to Path
        The model first.

    Raises
    ------
    ModelError
        SW-401 for unusable weights.
    InputError
        SW-701 for a name that is taken.
    """
    if MODEL in against:
        raise InputError("SW-701", f"`{MODEL}` is the name of the weights that are measured")
    networks = {MODEL: weights, **against}
    for path in networks.values():
        read_card(path)
    return networks


@stage_task("measure-accuracy")
def measure_all(
    workspace: str,
    regions: list[dict[str, Any]],
    keys: list[str],  # noqa: ARG001 - part of the cache key
    weights: dict[str, str],
    cards: dict[str, Any],  # noqa: ARG001 - part of the cache key
    benchmark: str,
    splits: list[str],
    refit: bool,
    min_pixels: int,
    alarms: float | None,
) -> Artefact:
    """Score all methods on all maps."""
    ws = open_workspace(workspace)
    with ws.lock():
        return publish_accuracy(
            ws,
            [
                RegionMaps(
                    r["name"],
                    r["split"],
                    Path(r["workspace"]),
                    Path(r["labels"]),
                    Path(r["truth"]),
                    {name: Path(p) for name, p in r["maps"].items()},
                )
                for r in regions
            ],
            {name: Path(p) for name, p in weights.items()},
            benchmark=benchmark,
            splits=splits,
            refit=refit,
            min_pixels=min_pixels,
            alarms=alarms,
            progress=report,
        )


def _region(
    folder: Path, region: simv1.Region, networks: dict[str, Path], config: Config
) -> tuple[dict[str, Any], list[str]]:
    """Simulate, ingest and map one region with every network; what is there is left."""
    settings = config.model_copy(update={"simulate": region.config})
    sim = simulate(folder / region.name / "simulated", settings)
    workspace = folder / region.name / "workspace"
    ingest(workspace, list(sim.products), settings)
    ws = open_workspace(workspace)
    [cube] = list_cubes(ws)
    maps: dict[str, str] = {}
    keys = [cube.key]
    for name, weights in networks.items():
        kept = find_map(ws, cube, weights, settings.infer)
        if kept is None:
            with_weights = settings.infer.model_copy(update={"weights": weights})
            [found] = infer(workspace, settings.model_copy(update={"infer": with_weights}))
            with ws.lock():
                kept = keep_map(ws, cube, weights, settings.infer, found)
        maps[name] = str(kept.folder / INSTANCES)
        keys.append(kept.key)
    facts = {
        "name": region.name,
        "split": region.split,
        "workspace": str(workspace),
        "labels": str(sim.labels),
        "truth": str(sim.truth),
        "maps": maps,
    }
    return facts, keys


@flow(name="benchmark-accuracy")
def benchmark_accuracy(
    workspace: Path,
    weights: Path,
    config: Config = Config(),
    against: dict[str, Path] | None = None,
    split: SplitChoice = "all",
    regions: int | None = None,
    side: int = simv1.SIDE,
    out: Path = Path("docs/accuracy.md"),
    calibrate: bool = False,
    alarms: float | None = None,
) -> AccuracyResult:
    """Measure weights on the public benchmark sim-v1, beside baselines and other weights.

    Args:
        workspace: Folder of the benchmark; what is there is used again.
        weights: The model.
        config: Sections `ingest`, `infer` and `inventory` are used.
        against: Other weights by name.
        split: Split to report; thresholds are fixed on `val` in any case.
        regions: The first so many regions of each split only: a trial.
        side: Side of a region [px]; any other than 2048 is a trial.
        out: The document.
        calibrate: Fit anew and write calibration and threshold into the cards.
        alarms: With `calibrate`: the model's threshold leaves at most so many false alarms per 1,000 km² of
            the split val; without, it is that of the best F1.
    """
    networks = check_accuracy(weights, against or {})
    make_folder(out.parent)  # before hours of work
    splits: tuple[simv1.Split, ...] = ("val", "test", "null") if split == "all" else (split,)
    chosen = simv1.regions(("val", *splits), regions, side)
    done = [_region(workspace / "regions", r, networks, config) for r in chosen]
    found = run_stage(
        measure_all,
        workspace=str(workspace),
        regions=[facts for facts, _ in done],
        keys=[k for _, keys in done for k in keys],
        weights={name: str(p) for name, p in networks.items()},
        cards={name: read_card(p) for name, p in networks.items()},
        benchmark=simv1.identity(regions, side),
        splits=[s for s in ("test", "val", "null") if s in splits],
        refit=calibrate,
        min_pixels=config.inventory.min_pixels,
        alarms=alarms if calibrate else None,
    )
    metrics = read_accuracy(found)
    write_accuracy(metrics, out, _command(networks, split, regions, side))
    cards = tuple(
        write_card(networks[name], used["calibration"], used["score_threshold"])
        for name, used in found.meta["networks"].items()
        if calibrate
    )
    return AccuracyResult(out, found.folder / "metrics.json", metrics, cards)


def _command(networks: dict[str, Path], split: str, regions: int | None, side: int) -> str:
    """The command that makes the document again, without this machine's folders."""
    parts = ["slopewatch benchmark accuracy --workspace benchmark"]
    parts += [f"--weights {networks[MODEL].name}"]
    parts += [f"--against {k}={v.name}" for k, v in networks.items() if k != MODEL]
    parts += [f"--split {split}"] if split != "all" else []
    parts += [f"--regions {regions}"] if regions is not None else []
    parts += [f"--side {side}"] if side != simv1.SIDE else []
    return " ".join(parts)


@flow(name="benchmark-real")
def benchmark_real(
    workspace: Path,
    weights: Path,
    data: Path,
    config: Config = Config(),
    out: Path = Path("docs/experiments"),
) -> dict[str, Any]:
    """Map real rasters without known landslides, count detections, and draw each.

    Args:
        workspace: Folder of the maps; what is there is used again.
        weights: The model.
        data: Folder of the real rasters.
        config: Sections `region`, `ingest`, `infer` and `inventory` are used.
        out: Folder of the pictures and of `real.json`.
    """
    card = read_card(weights)
    infer_config = config.infer.model_copy(update={"weights": weights})
    settings = config.model_copy(update={"infer": infer_config})
    products = {real.name: describe(real, data, workspace / "products") for real in REAL_MAPS}
    make_folder(out)
    rows: list[dict[str, Any]] = []
    pictures: list[dict[str, str]] = []
    for real in REAL_MAPS:
        folder = workspace / real.name
        map_products(folder, [products[real.name]], settings)
        inventory = read_artefact(folder / "inventory")
        if inventory is None:
            raise InputError("SW-702", "the map was not published", path=folder)
        n, km2 = inventory.meta["n_landslides"], inventory.meta["mapped_km2"]
        rate = 1000 * n / km2 if km2 else None
        [detections] = Workspace(folder).artefacts("detections")
        likely = sum(
            i.score >= LIKELY and i.area_px >= config.inventory.min_pixels
            for i in load_instances(detections.folder / INSTANCES)
        )
        rows.append(
            {"label": real.about, "km2": km2, "n": n, "per_1000km2": rate, "likely": likely}
        )
        [picture] = sorted(inventory.folder.glob("map_*.png"))
        target = out / f"real-{real.name}.jpg"
        small_picture(picture, target)
        caption = f"{real.about}: {n} detection{'' if n == 1 else 's'} on {km2:,.0f} km²."
        pictures.append({"path": f"{out.name}/{target.name}", "caption": caption})
    threshold = config.inventory.score_min or card.get("score_threshold")
    experiment = {
        "name": "real",
        "title": "Real rasters",
        "order": 10,
        "definition": "Detections from the operating threshold on, on real deformation maps where no "
        "landslide is known: domes, bowls and atmosphere. A detection is a false alarm or something to "
        "look at; nobody has looked on the ground.",
        "columns": [
            {"key": "km2", "label": "measured km²", "digits": 0},
            {"key": "n", "label": "detections"},
            {"key": "per_1000km2", "label": "per 1,000 km²", "digits": 1},
            {"key": "likely", "label": f"from a score of {LIKELY:g} on"},
        ],
        "rows": rows,
        "n": f"{len(rows)} maps",
        "seeds": [],
        "interval": "none",
        "commands": [
            f"slopewatch benchmark real --weights {weights.name} --workspace real --data FOLDER"
        ],
        "device": f"form {card['form']}, threshold {threshold}",
        "notes": [
            "Maps of other pixel sizes are brought to the weights' own.",
            (
                "None of these files brings terrain: slope, LOS sensitivity and relative height are unknown "
                "to the network."
            ),
        ],
        "pictures": pictures,
    }
    write_json(out / "real.json", experiment)
    return experiment
