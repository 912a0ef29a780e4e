"""The picture of validation tiles: what is shown, where, and the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_training_loop import CFG, TINY, make_dataset

from components.training.picture import (
    _GAP,
    _LINE,
    PANELS,
    WITH_OBJECTS,
    _panel,
    _Tile,
    chosen_tiles,
    draw_predictions,
)
from components.training.selection import Operating
from components.training.tiles import CheckedTiles, open_split
from models.build import Detections, build_model

CHANNELS = ("velocity", "coherence", "los_sensitivity")
WHITE, YELLOW, NO_DATA = (255, 255, 255), (255, 221, 51), (70, 70, 70)


def fold(folder: Path, tiles: int, without: set[int]) -> CheckedTiles:
    data = make_dataset(folder, {"val": tiles})
    path = data / "annotations" / "val.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in without]
    path.write_text(json.dumps(content))
    return open_split(data, "val", CFG, training=False)


@pytest.mark.parametrize(
    ("tiles", "without", "empty_shown"),
    [(20, {3, 8, 9, 15}, 2), (20, set(), 0), (5, {1, 2}, 2), (20, set(range(1, 21)), 6)],
)
def test_chosen_tiles(tmp_path: Path, tiles: int, without: set[int], empty_shown: int) -> None:
    val = fold(tmp_path, tiles, without)
    chosen = chosen_tiles(val)
    assert len(chosen) == min(tiles, PANELS)
    assert chosen == sorted(set(chosen))
    # Image ids count from 1.
    assert sum(i + 1 in without for i in chosen) == empty_shown
    assert chosen == chosen_tiles(val)
    assert WITH_OBJECTS + 2 == PANELS


def panel(score: float) -> np.ndarray:
    """A tile of 96 px, four times enlarged: a reference, a detection, ignored ground, a gap."""
    image = np.full((3, 96, 96), 0.5, np.float32)
    image[:, :, 80:] = 0
    reference = np.zeros((1, 96, 96), bool)
    reference[0, 10:20, 10:30] = True
    ignore = np.zeros((96, 96), bool)
    ignore[60:80, 10:30] = True
    found = Detections(
        torch.tensor([[40.0, 40.0, 56.0, 52.0]]),
        torch.tensor([1]),
        torch.tensor([score]),
        torch.ones(1, 28, 28),
    )
    picture = _panel(_Tile(image, reference, ignore, 7, found), CHANNELS, 0.5)
    return np.asarray(picture)[_LINE:]


def extent(where: np.ndarray) -> tuple[int, int, int, int]:
    rows, cols = np.nonzero(where)
    return int(rows.min()), int(rows.max()) + 1, int(cols.min()), int(cols.max()) + 1


def test_outlines_lie_where_the_objects_are() -> None:
    picture = panel(0.9)
    white = (picture == WHITE).all(axis=2)
    # Two pixels around the reference of rows 10 to 20 and columns 10 to 30.
    assert extent(white) == (38, 82, 38, 122)
    assert not white[40:80, 40:120].any()
    yellow = (picture == YELLOW).all(axis=2)
    box = yellow[4 * 40 : 4 * 52, 4 * 40 : 4 * 56]
    assert box[:2].all()
    assert box[:, :2].all()
    assert not box[2:-2, 2:-2].any()
    assert yellow[: 4 * 40].any()  # the score above it
    assert not yellow[4 * 52 :].any()
    hatched = (picture == 200).all(axis=2)
    assert extent(hatched) == (240, 320, 40, 120)
    assert 0.15 < hatched[240:320, 40:120].mean() < 0.35
    assert (picture[:, 320:] == NO_DATA).all()
    assert not (picture[:, :320] == NO_DATA).all(axis=2).any()


def test_detections_below_the_threshold_are_not_drawn() -> None:
    assert not (panel(0.4) == YELLOW).all(axis=2).any()


@pytest.mark.parametrize(
    ("channels", "toward", "away"),
    [
        (CHANNELS, (1.0, 0.5, 0.2), (-1.0, 0.5, 0.2)),
        (("coherence", "cos", "sin"), (0.5, 0.6, 0.8), (0.5, 0.6, -0.8)),
    ],
)
def test_signs_of_motion_have_their_colours(
    channels: tuple[str, ...], toward: tuple[float, ...], away: tuple[float, ...]
) -> None:
    image = np.zeros((3, 96, 96), np.float32)
    image[:, :48] = np.array(toward)[:, None, None]
    image[:, 48:] = np.array(away)[:, None, None]
    nothing = Detections(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 28, 28)
    )
    tile = _Tile(image, np.zeros((0, 96, 96), bool), np.zeros((96, 96), bool), 1, nothing)
    picture = np.asarray(_panel(tile, channels, 0.5))[_LINE:].astype(int)
    upper, lower = picture[90, 200], picture[300, 200]
    assert upper[2] > upper[0] + 100  # blue: toward the satellite
    assert lower[0] > lower[2] + 100  # red: away


def test_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    val = fold(tmp_path / "coco", 4, {2})
    torch.manual_seed(0)
    model = build_model(TINY, 3, 2)
    outcome = Operating(0.05, 0.1, 0.2, 0.13)
    for name in ("a.png", "b.png"):
        draw_predictions(model, val, CHANNELS, tmp_path / name, outcome, 3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (
            3 * (384 + _GAP) + _GAP,
            2 * _LINE + 2 * (384 + _LINE + _GAP) + 2 * _GAP,
        )
        assert sheet.info == {}  # no times, no paths
    assert [p.name for p in sorted(tmp_path.glob("*.p*"))] == ["a.png", "b.png"]
