"""Windows that meet without common ground, and the names of methods, for `slopewatch stitch`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import window_map
from test_stitch_output import GRID, inputs

from components.errors import InputError
from components.grid.windows import Window
from components.inference.borders import unjoined
from components.inventory.external import stitch_external
from flows import show
from flows.stitch import check
from flows.stitch import stitch as flow

SIDE = 12


def by_pixels(windows: list[Window]) -> int:
    """The same, pixel pair by pixel pair."""
    if len(windows) < 2:
        return 0
    cut = {i for i, w in enumerate(windows) if not any(
        w.intersect(v) for k, v in enumerate(windows) if k != i)}  # fmt: skip
    for down, right in ((1, 0), (0, 1)):
        for r in range(SIDE - down):
            for c in range(SIDE - right):

                def holds(w: Window, y: int, x: int) -> bool:
                    return w.row <= y < w.row_end and w.col <= x < w.col_end

                here = {i for i, w in enumerate(windows) if holds(w, r, c)}
                there = {i for i, w in enumerate(windows) if holds(w, r + down, c + right)}
                if here and there and not here & there:
                    cut |= here | there
    return len(cut)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 9))
def test_unjoined_windows_are_those_of_the_pixels(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    # Coarse steps, so that borders meet often.
    low = rng.integers(0, 4, (n, 2)) * 3
    high = low + 3 * rng.integers(1, 3, (n, 2))
    windows = [Window(int(a), int(b), int(c - a), int(d - b)) for (a, b), (c, d) in zip(
        low, np.minimum(high, SIDE), strict=True)]  # fmt: skip
    assert unjoined(windows) == by_pixels(windows)


def test_maps_of_windows() -> None:
    shape = (500, 700)
    whole = unjoined(window_map(shape, 100, 0.0).values())
    assert whole == 35
    for overlap in (
        0.1,
        0.25,
        0.5,
        0.75,
    ):  # at 0.5 the next but one touches, and the next looks across
        assert unjoined(window_map(shape, 100, overlap).values()) == 0
    across = [Window(0, c, 500, 100) for c in range(0, 700, 50) if c <= 600]
    assert unjoined(across) == 0
    assert unjoined([]) == unjoined([Window(0, 0, 9, 9)]) == 0
    assert unjoined([Window(0, 0, 9, 9), Window(0, 12, 9, 9)]) == 2  # apart
    assert unjoined([*across, Window(500, 0, 20, 100)]) == 3  # one meets two from below


def pair(folder: Path, col: int) -> tuple[Path, Path]:
    images, results = inputs(folder, 4)
    data = json.loads(images.read_text())
    data["images"] = [
        {**data["images"][0], "id": k, "width": 100, "col_off": c} for k, c in ((1, 0), (2, col))
    ]
    images.write_text(json.dumps(data))
    return images, results


def test_windows_without_overlap_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for col, n in ((100, 2), (90, 0)):
        found = stitch_external(*pair(tmp_path, col), GRID, tmp_path / "a.gpkg")
        assert found.as_json()["unjoined_windows"] == n
        show.stitched(found)
        text = capsys.readouterr().out
        assert ("2 of 2 windows" in text) == ("cannot be joined" in text) == bool(n)


@pytest.mark.parametrize(
    ("written", "metric"),
    [
        ("GreedyNMM", "IOS"),
        ("GREEDYNMM", "iou"),
        ("greedy_nmm", "IoU"),
        ("NMM", "IOU"),
        ("NMS", "ios"),
        ("Seam", "ios"),
    ],
)
def test_methods_are_known_however_they_are_written(
    tmp_path: Path, written: str, metric: str
) -> None:
    images, results = inputs(tmp_path)
    rest = (images, results, tmp_path / "a.gpkg", None, [25, 0, 0, 0, -25, 0], "EPSG:32647")
    check(*rest, [200, 200], written, metric)
    for wrong in (("wbf", metric), (written, "giou")):
        with pytest.raises(InputError) as e:
            check(*rest, [200, 200], *wrong)
        assert e.value.code == "SW-701"


def test_the_flow_takes_names_of_other_programs(tmp_path: Path) -> None:
    found = flow.fn(
        *pair(tmp_path, 100),
        tmp_path / "a.gpkg",
        transform=[25, 0, 0, 0, -25, 0],
        crs="EPSG:32647",
        shape=[200, 200],
        method="GreedyNMM",
        metric="IOS",
    )
    assert (found.method, found.unjoined_windows) == ("greedy-nmm", 2)
    assert found.counts == {"detections": 4, "empty": 0}
