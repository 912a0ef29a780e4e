"""Accuracy against speed: weights at hand on the same simulated test tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.evaluation.compare import (
    COUNT_FN,
    COUNT_TP,
    SIZE,
    SPEED,
    TEST_SEED,
    Outcome,
    Setting,
    card_of,
    filled,
    frame_of,
    made_test_tiles,
    speed,
    write_experiment,
)
from components.evaluation.experiments import Column
from components.evaluation.intervals import draw_weights, interval
from components.evaluation.tile_figures import FIGURES, INTERVAL, figures, per_group
from components.evaluation.trainings import Trained, Work, count_once
from components.progress import Progress, no_progress
from components.training import scenes, tiletest
from models.weights import file_sha256


def frontier(
    s: Setting, weights: Sequence[tuple[str, Path]], progress: Progress = no_progress
) -> Outcome:
    """Accuracy against speed of weights at hand.

    Parameters
    ----------
    s : Setting
        Of the run.
    weights : sequence of (str, Path)
        Name and file.
    progress : Progress
        Told of tests.

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        SW-701 without weights.
    ModelError
        SW-401 for unusable weights.
    """
    if not weights:
        raise InputError("SW-701", "the frontier needs weights", remedy="Give --weights NAME=FILE.")
    cards = [card_of(path) for _, path in weights]
    made = {preset: made_test_tiles(s, preset) for preset in {c["preset"] for c in cards}}
    groups = next(iter(made.values()))[2]
    draws = draw_weights(len(set(groups)))
    rows: list[dict[str, Any]] = []
    sums = []
    for (name, path), card in zip(weights, cards, strict=True):
        tiles, identity, _ = made[card["preset"]]
        cfg = s.config.train.model_copy(update={"model": card["form"]})
        # Counts are kept beside the trainings, not beside files that may lie anywhere.
        keep = s.root / f"given-{file_sha256(path)[:12]}"
        keep.mkdir(parents=True, exist_ok=True)
        trained = Trained(Work(name, cfg), path, 0, 0.0, fresh=False)
        table = per_group(count_once(trained, tiles, identity, progress, keep), groups)
        sums.append(table)
        values = figures(table, draws)
        rows.append(
            {
                "label": name,
                "form": card["form"],
                **{k: interval(v) for k, v in values.items()},
                "km2s": speed(s, trained, tiles),
                "parameters": card["parameters"] / 1e6,
                "sha256": card["sha256"][:12],
            }
        )
    columns = [Column(key="form", label="form"), *FIGURES, SPEED, SIZE]
    frame = frame_of(
        s, "frontier", "Accuracy against speed", 50,
        "Weights at hand on the same simulated test tiles; km²/s of ground is network and pasting of masks "
        "without the overlap of windows, on the machine named below, in the fastest numbers that "
        "machine and weights allow (integers of 8 bits, bfloat16).",
        columns,
    )  # fmt: skip
    references = int(sums[0][:, [COUNT_TP, COUNT_FN]].sum())
    text = f"{len(groups)} test tiles of {len(set(groups))} scenes, {references} references"
    versions = f"Versions: scenes {scenes.ALGORITHM}, test {tiletest.ALGORITHM}."
    shown = ", ".join(f"{r['label']} {r['sha256']}" for r in rows)
    update = {"rows": rows, "n": text, "seeds": [TEST_SEED]}
    update["interval"] = INTERVAL.replace(" of the mean over training seeds", "")
    update["notes"] = [versions, f"Weights (sha256): {shown}."]
    experiment = filled(frame, update)
    path = s.out / "frontier.json"
    write_experiment(path, experiment)
    return Outcome(experiment, path, 0, len(rows))
