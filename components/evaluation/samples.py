"""Small COCO sets: the leak of a random split, and the gain of pre-training.

The sets are cut from a dataset that the product's own path has built; what is known of independent ground is
measured on the tiles of another simulated region.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from components.dataset.torch_dataset import TileDataset
from components.evaluation.compare import (
    Outcome,
    Setting,
    card_of,
    facts,
    filled,
    frame_of,
    write_experiment,
)
from components.evaluation.experiments import Column, Experiment
from components.evaluation.intervals import SEED, draw_weights, interval
from components.evaluation.tile_figures import FIGURES, INTERVAL, mean_figures, per_group, row_cells
from components.evaluation.trainings import Trained, Work, count_once, train_once
from components.progress import Progress, no_progress
from components.provenance import digest
from models.weights import file_sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Side of the blocks of ground that the intervals draw [m].
BLOCK_M: Final = 10_000.0

#: Share of the labelled landslides at hand that choose the weights.
VALIDATION_SHARE: Final = 0.25


class _Ground:
    """Test tiles of a COCO folder with their blocks of ground."""

    def __init__(self, folder: Path) -> None:
        self.tiles = TileDataset(folder, "test")
        path = folder / "annotations" / "test.json"
        self.identity = digest(file_sha256(path), file_sha256(folder / "dataset.json"))
        side = max(1, round(BLOCK_M / float(self.tiles.info["ground_pixel_size_m"])))
        windows = {i["id"]: i["window"] for i in json.loads(path.read_text())["images"]}
        self.groups = [(windows[i][0] // side, windows[i][1] // side) for i in self.tiles.image_ids]

    def table(
        self, trained: Trained, progress: Progress, keep: Path | None = None
    ) -> NDArray[np.float64]:
        """Counts of a training by block."""
        counts = count_once(trained, self.tiles, self.identity, progress, keep)
        return per_group(counts, self.groups)


def coco_work(s: Setting, seed: int, label: str, dataset: Path, changes: dict[str, Any]) -> Work:
    """A training on a COCO folder for about the wanted number of steps.

    Parameters
    ----------
    s : Setting
        Of the run.
    seed : int
        Of first weights, order and augmentation.
    label : str
        Row.
    dataset : Path
        The folder.
    changes : dict
        Keys of `TrainConfig` that make the row.

    Returns
    -------
    Work
        Epochs are passes over the training tiles, so the steps are met within one epoch.
    """
    content = json.loads((dataset / "annotations" / "train.json").read_text())
    length = max(1, len(content["images"]) // s.config.train.batch_size)
    epochs = max(1, round(s.steps / length))
    train = {"epochs": epochs, "validate_every": max(1, epochs // 5), "seed": seed, **changes}
    return Work(label, s.config.train.model_copy(update=train), dataset=dataset)


def small_sample(
    s: Setting,
    sets: Mapping[str, tuple[Path, Mapping[str, int]]],
    independent: Path,
    progress: Progress = no_progress,
) -> Outcome:
    """Random split against block split: what a network scores on its own test tiles and elsewhere.

    Parameters
    ----------
    s : Setting
        Of the run.
    sets : mapping
        Split → folder and counts, as `subset` gives them.
    independent : Path
        COCO folder of another region.
    progress : Progress
        Told of steps, validations and tests.

    Returns
    -------
    Outcome
    """
    elsewhere = _Ground(independent)
    # The two grounds are drawn apart.
    far = draw_weights(len(set(elsewhere.groups)), seed=SEED + 1)
    rows: list[dict[str, Any]] = []
    done: list[Trained] = []
    for split, (folder, counts) in sets.items():
        own = _Ground(folder)
        near = draw_weights(len(set(own.groups)))
        trained = [
            train_once(coco_work(s, n, split, folder, {}), s.root, progress) for n in s.seed_list
        ]
        done += trained
        cells, here = row_cells([own.table(t, progress) for t in trained], near, None)
        there = mean_figures([elsewhere.table(t, progress) for t in trained], far)
        rows.append(
            {
                "label": f"{split} split",
                "own": cells["f1"],
                "range": cells["range"],
                "independent": interval(there["f1"]),
                "leak": interval(here["f1"] - there["f1"]),
                "own_iou": cells["matched_iou"],
                "independent_iou": interval(there["matched_iou"]),
                "shared": counts["shared_landslides"],
                "test_landslides": counts["test_landslides"],
            }
        )
    columns = [
        Column(key="own", label="F1 on its own test tiles"),
        Column(key="range", label="of the seeds"),
        Column(key="independent", label="F1 on an independent region"),
        Column(key="leak", label="optimism"),
        Column(key="own_iou", label="mean IoU of the matches, own"),
        Column(key="independent_iou", label="independent"),
        Column(key="test_landslides", label="landslides on test tiles"),
        Column(key="shared", label="of them on train or val tiles"),
    ]
    sizes = "/".join(map(str, s.config.experiments.sample))
    frame = frame_of(
        s, "small-sample", "Small sample: random split against blocks", 40,
        f"The paper's numbers of samples, {sizes} tiles of train, val and test, drawn from one simulated "
        "region: by a random split of the tiles, as the paper did, and by blocks of ground. The same "
        f"network, {s.config.train.model}, and schedule. Optimism is F1 on its own test tiles less F1 on all "
        "tiles of another region, at an IoU of 0.5.",
        columns,
    )  # fmt: skip
    notes = [
        "Two tracks and two periods of the same ground are four tiles; tiles overlap by a quarter.",
        "The leak of the random split is its optimism less what blocks, which share nothing, show too.",
        *facts(s, done),
    ]
    return _write(s, frame, rows, notes, len(elsewhere.groups), done, "blocks of 10 km")


def pretraining_gain(
    s: Setting,
    folder: Path,
    counts: Mapping[str, int],
    independent: Path,
    initial: Path,
    progress: Progress = no_progress,
) -> Outcome:
    """A small labelled set from random weights, and from weights trained on simulated scenes.

    Parameters
    ----------
    s : Setting
        Of the run.
    folder : Path
        COCO folder of the labelled landslides.
    counts : mapping
        Of `subset`.
    independent : Path
        COCO folder of another region.
    initial : Path
        Pretrained weights; their form is taken.
    progress : Progress
        Told of steps, validations and tests.

    Returns
    -------
    Outcome
    """
    card = card_of(initial)
    ground = _Ground(independent)
    draws = draw_weights(len(set(ground.groups)))
    form = {"model": card["form"]}
    starts = {"random weights": form, "pretrained": form | {"initial_weights": initial}}
    rows: list[dict[str, Any]] = []
    done: list[Trained] = []
    first = None
    for label, changes in starts.items():
        trained = [
            train_once(coco_work(s, n, label, folder, changes), s.root, progress)
            for n in s.seed_list
        ]
        done += trained
        cells, values = row_cells([ground.table(t, progress) for t in trained], draws, first)
        first = first or values
        rows.append({"label": label, **cells})
    keep = s.root / f"given-{card['sha256'][:12]}"
    keep.mkdir(parents=True, exist_ok=True)
    given = Trained(Work("given", s.config.train), initial, 0, 0.0, fresh=False)
    cells, _ = row_cells([ground.table(given, progress, keep)], draws, first)
    rows.append({"label": "pretrained, not trained further", **cells, "range": None})
    columns = [
        *FIGURES[:1],
        Column(key="range", label="of the seeds"),
        Column(key="difference", label="F1 less the first row's"),
        *FIGURES[1:],
    ]
    frame = frame_of(
        s, "pretraining", "Gain of pre-training", 45,
        f"{s.config.experiments.landslides} labelled landslides at hand, the paper's number, for training "
        "and choice of the weights; figures on all tiles of another region.",
        columns,
    )  # fmt: skip
    notes = [
        (
            f"Train: {counts['train_landslides']} landslides on {counts['train_tiles']} tiles; validation: "
            f"{counts['val_landslides']} on {counts['val_tiles']}."
        ),
        (
            f"Pretrained weights: form {card['form']}, sha256 {card['sha256'][:12]}. Both the labelled and "
            "the independent region are simulated by the program that made the scenes of the pre-training; "
            "on real ground the gain can be smaller."
        ),
        *facts(s, done),
    ]
    return _write(s, frame, rows, notes, len(ground.groups), done, "blocks of 10 km")


def _write(
    s: Setting,
    frame: Experiment,
    rows: list[dict[str, Any]],
    notes: list[str],
    tiles: int,
    done: Sequence[Trained],
    unit: str,
) -> Outcome:
    experiment = filled(
        frame,
        {
            "rows": rows,
            "notes": notes,
            "n": f"{tiles} tiles of the independent region",
            "seeds": s.seed_list,
            "interval": INTERVAL.replace("whole scenes", unit),
        },
    )
    path = s.out / f"{frame.name}.json"
    write_experiment(path, experiment)
    fresh = sum(t.fresh for t in done)
    return Outcome(experiment, path, fresh, len(done) - fresh)
