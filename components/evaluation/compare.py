"""Networks side by side on simulated tiles: forms and schedules.

All rows of a comparison see the same training tiles of a seed and the same test tiles. A seed decides both
the first weights and the training tiles. Test tiles are of a stream of their own, and the threshold of the
score was fixed on validation tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from components.errors import ModelError
from components.evaluation.experiments import Column, Experiment
from components.evaluation.intervals import draw_weights
from components.evaluation.paper import NOT_COMPARABLE, TABLE2
from components.evaluation.tile_figures import FIGURES, INTERVAL, per_group, row_cells
from components.evaluation.trainings import ALGORITHM as TRAININGS
from components.evaluation.trainings import (
    Trained,
    Work,
    count_once,
    epochs_of,
    speed_km2s,
    train_once,
    write_whole,
)
from components.progress import Progress, no_progress
from components.provenance import digest
from components.training import loop, scenes, tiletest
from components.training.scenes import TEST, FixedTiles, SceneTiles
from models.weights import WeightsError, read_card

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.config import Config

#: Seed of the test scenes, the same for every experiment.
TEST_SEED: Final = 4_100

#: Columns of hits and misses at an IoU of 0.5.
COUNT_TP: Final = tiletest.COLUMNS.index("tp50")
COUNT_FN: Final = tiletest.COLUMNS.index("fn50")

_RANGE: Final = Column(key="range", label="F1 of the seeds")
_DIFFERENCE: Final = Column(key="difference", label="F1 less the first row's")
#: Columns that the frontier shows too.
SPEED: Final = Column(key="km2s", label="km²/s", digits=1)
SIZE: Final = Column(key="parameters", label="parameters [M]", digits=2)


@dataclass(frozen=True)
class Setting:
    """What all experiments of a run share.

    Parameters
    ----------
    config : Config
        Sections `train`, `pretrain` and `experiments`.
    steps : int
        Optimiser steps of each training.
    seeds : int
        Trainings of each row.
    root : Path
        Folder of the trainings.
    out : Path
        Folder of the JSON files.
    command : str
        What makes the experiment again.
    """

    config: Config
    steps: int
    seeds: int
    root: Path
    out: Path
    command: str

    @property
    def seed_list(self) -> list[int]:
        """Seeds of the trainings."""
        return [self.config.train.seed + k for k in range(self.seeds)]


@dataclass(frozen=True)
class Outcome:
    """An experiment that is done.

    Parameters
    ----------
    experiment : Experiment
        As written.
    path : Path
        Its JSON file.
    trained, reused : int
        Trainings of this call, and those that were found done.
    """

    experiment: Experiment
    path: Path
    trained: int
    reused: int


def scene_work(s: Setting, seed: int, label: str, changes: dict[str, Any]) -> Work:
    """A training on simulated tiles.

    Parameters
    ----------
    s : Setting
        Of the run.
    seed : int
        Of the first weights and of the scenes.
    label : str
        Row.
    changes : dict
        Keys of `TrainConfig` that make the row.

    Returns
    -------
    Work
    """
    epochs, length = epochs_of(s.steps, s.config.experiments.epoch_steps)
    train = {"epochs": epochs, "validate_every": max(1, epochs // 5), "seed": seed, **changes}
    tiles = {"tiles_per_epoch": length * s.config.train.batch_size}
    tiles["seed"] = s.config.pretrain.seed + seed - s.config.train.seed
    return Work(
        label,
        s.config.train.model_copy(update=train),
        scenes=s.config.pretrain.model_copy(update=tiles),
    )


def five_rows_work(s: Setting) -> list[list[Work]]:
    """Trainings of the paper's five rows, by seed."""
    forms = [(r.label, r.form + s.config.experiments.suffix) for r in TABLE2]
    return [[scene_work(s, n, label, {"model": m}) for label, m in forms] for n in s.seed_list]


def baselines_work(s: Setting) -> list[list[Work]]:
    """Trainings of the baselines, by seed."""
    forms = s.config.experiments.baselines
    return [[scene_work(s, n, m, {"model": m}) for m in forms] for n in s.seed_list]


def schedules_work(s: Setting) -> list[list[Work]]:
    """Trainings of both schedules, by seed."""
    return [
        [scene_work(s, n, name, {"schedule": name}) for name in ("cosine", "paper")]
        for n in s.seed_list
    ]


def made_test_tiles(s: Setting, preset: str | None = None) -> tuple[FixedTiles, str, list[int]]:
    """Test tiles, the digest that names them, and the scene of each.

    The scenes are the same whatever the preset; only what a network sees of them differs.
    """
    preset = preset or s.config.pretrain.preset
    cfg = s.config.pretrain.model_copy(update={"seed": TEST_SEED, "preset": preset})
    count = s.config.experiments.test_tiles
    identity = digest(scenes.describe(cfg)["data"], TEST, count)
    tiles = SceneTiles(cfg, TEST)
    return FixedTiles(tiles, count), identity, [tiles.scene_of(i) for i in range(count)]


def compare(
    s: Setting, frame: Experiment, work: Sequence[Sequence[Work]], progress: Progress = no_progress
) -> Outcome:
    """Train, test and tabulate; the JSON is written anew after every seed.

    Parameters
    ----------
    s : Setting
        Of the run.
    frame : Experiment
        The experiment without rows; facts are added.
    work : sequence of sequence of Work
        By seed; in each the rows in their order, the first is what the others are compared with.
    progress : Progress
        Told of steps, validations and tests.

    Returns
    -------
    Outcome
    """
    for one in work[0]:
        loop.check_form(one.train.model)
    tiles, identity, groups = made_test_tiles(s)
    tables: list[list[NDArray[Any]]] = [[] for _ in work[0]]
    done: list[list[Trained]] = []
    speeds: list[float] = []
    path = s.out / f"{frame.name}.json"
    for number, row_works in enumerate(work):
        now = []
        for k, one in enumerate(row_works):
            trained = train_once(one, s.root, progress)
            counts = count_once(trained, tiles, identity, progress)
            tables[k].append(per_group(counts, groups))
            now.append(trained)
        done.append(now)
        if not speeds:
            speeds = [speed(s, t, tiles) for t in now]
        experiment = _tabulate(s, frame, tables, done, speeds, groups, number + 1)
        write_experiment(path, experiment)
    flat = [t for seed in done for t in seed]
    fresh = sum(t.fresh for t in flat)
    return Outcome(experiment, path, fresh, len(flat) - fresh)


def speed(s: Setting, trained: Trained, tiles: FixedTiles) -> float:
    """Speed of a training's network on the test tiles [km²/s]."""
    cfg = s.config.train
    return speed_km2s(
        trained.weights,
        tiles,
        s.config.pretrain.resolution_m,
        batch_size=cfg.batch_size,
        device=cfg.device,
        threads=cfg.threads,
    )


def _tabulate(
    s: Setting,
    frame: Experiment,
    tables: list[list[NDArray[Any]]],
    done: list[list[Trained]],
    speeds: list[float],
    groups: list[int],
    seeds: int,
) -> Experiment:
    draws = draw_weights(len(set(groups)))
    rows: list[dict[str, Any]] = []
    first = None
    for k, trained in enumerate(done[0]):
        cells, values = row_cells(tables[k], draws, first)
        first = first or values
        extra = frame.rows[k] if frame.rows else {}
        size = read_card(trained.weights)["parameters"] / 1e6
        row = {"label": trained.work.label, **cells, "km2s": speeds[k], "parameters": size}
        row |= {"form": trained.work.train.model, "steps": trained.steps, **extra}
        rows.append(row)
    references = int(tables[0][0][:, [COUNT_TP, COUNT_FN]].sum())
    return filled(
        frame,
        {
            "rows": rows,
            "n": f"{len(groups)} test tiles of {len(set(groups))} scenes, {references} references",
            "seeds": s.seed_list[:seeds],
            "notes": [*frame.notes, *facts(s, [t for seed in done for t in seed])],
        },
    )


def facts(s: Setting, done: Sequence[Trained]) -> list[str]:
    """What every experiment says of how it was made.

    Parameters
    ----------
    s : Setting
        Of the run.
    done : sequence of Trained
        Its trainings.

    Returns
    -------
    list of str
    """
    batch = s.config.train.batch_size
    steps = sorted({t.steps for t in done})
    text = " or ".join(f"{n:,}" for n in steps)
    tiles = " or ".join(f"{n * batch:,}" for n in steps)
    return [
        f"Each training: {text} steps of {batch} tiles, {tiles} tiles in all.",
        (
            f"Versions: experiment {TRAININGS}, training {loop.ALGORITHM}, scenes {scenes.ALGORITHM}, "
            f"test {tiletest.ALGORITHM}."
        ),
    ]


def frame_of(
    s: Setting, name: str, title: str, order: int, definition: str, columns: Sequence[Column]
) -> Experiment:
    """An experiment before its rows are known."""
    cfg = s.config.train
    on = tiletest.machine(cfg.device, cfg.threads)
    return Experiment(
        name=name,
        title=title,
        order=order,
        definition=definition,
        columns=list(columns),
        rows=[],
        n="",
        seeds=[],
        interval=INTERVAL,
        commands=[s.command],
        device=f"{on['device']}, {on['threads']} threads, torch {on['torch']}, precision {cfg.precision}",
    )


def filled(frame: Experiment, update: dict[str, Any]) -> Experiment:
    """An experiment with other fields, its form checked."""
    return Experiment.model_validate({**frame.model_dump(), **update})


def write_experiment(path: Path, experiment: Experiment) -> None:
    """Write an experiment whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, experiment.model_dump(mode="json"))


def five_rows(s: Setting, progress: Progress = no_progress) -> Outcome:
    """The paper's five networks, beside the paper's Table 2."""
    work = five_rows_work(s)
    columns = [Column(key="form", label="form"), *FIGURES[:1], _RANGE, _DIFFERENCE, *FIGURES[1:]]
    columns += [SPEED, SIZE, Column(key="paper_f1", label="paper: F1 [%]", digits=2)]
    columns += [Column(key="paper_miou", label="paper: mIoU [%]", digits=2)]
    frame = frame_of(
        s, "five-rows", "The five networks of the paper", 20,
        "The networks of the paper's Table 2 on the same simulated tiles and the same schedule, from random "
        "weights; figures on test tiles of other scenes. The paper's figures stand beside them.",
        columns,
    )  # fmt: skip
    rows: list[Any] = [{"paper_f1": r.f1, "paper_miou": r.miou} for r in TABLE2]
    notes = [f"Not comparable with the paper: {reason}" for reason in NOT_COMPARABLE]
    return compare(s, filled(frame, {"rows": rows, "notes": notes}), work, progress)


def baselines(s: Setting, progress: Progress = no_progress) -> Outcome:
    """U-Net and plain Mask R-CNN at the same schedule."""
    columns = [*FIGURES[:1], _RANGE, _DIFFERENCE, *FIGURES[1:], SPEED, SIZE]
    frame = frame_of(
        s, "baselines", "Plain Mask R-CNN and U-Net", 30,
        "Other networks on the same simulated tiles and the same schedule. `plain-small` is the first row "
        "without local contrast and footprint guide; `unet` cuts a probability map into components.",
        columns,
    )  # fmt: skip
    return compare(s, frame, baselines_work(s), progress)


def schedules(s: Setting, progress: Progress = no_progress) -> Outcome:
    """The modern schedule against the paper's, with the same tiles."""
    columns = [*FIGURES[:1], _RANGE, _DIFFERENCE, *FIGURES[1:]]
    frame = frame_of(
        s, "schedules", "Schedules", 60,
        f"`cosine`: AdamW, warm-up, cosine decay, averaged weights. `paper`: SGD, 0.01 for the heads, then "
        f"0.001 for all layers, half the steps each. The same network, {s.config.train.model}, on the same "
        "tiles from random weights.",
        columns,
    )  # fmt: skip
    note = "The paper's schedule was made for weights trained on COCO; from random weights it starts worse."
    return compare(s, filled(frame, {"notes": [note]}), schedules_work(s), progress)


def card_of(path: Path) -> dict[str, Any]:
    """Card of weights; SW-401 where there is none."""
    try:
        return read_card(path)
    except WeightsError as e:
        raise ModelError("SW-401", str(e), path=path) from e
