"""`slopewatch stitch`: files that no well-behaved writer makes, and where the messages point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from components.errors import InputError
from components.inventory.external import External, Settings, stitch_external

GRID = GeoBox((64, 104), Affine(25, 0, 500_000, 0, -25, 3_400_000), "EPSG:32647")
IMAGES = [
    {"id": 1, "width": 64, "height": 64, "row_off": 0, "col_off": 0},
    {"id": 2, "width": 64, "height": 64, "row_off": 0, "col_off": 40},
]
SIZE = [64, 64]
SQUARE = {"size": SIZE, "counts": [100, 5, 64 * 64 - 105]}
BOM = b"\xef\xbb\xbf"


def result(**changes: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 3, "score": 0.5, "segmentation": SQUARE, **changes}


def run(
    folder: Path, results: Any, *, category: Any = 3, images: Any = IMAGES, **settings: Any
) -> External:
    """Values are written as JSON, bytes as they are."""
    given = {
        "images": images,
        "categories": [{"id": 3, "name": "a"}, {"id": category, "name": "b"}],
    }
    if category == 3:
        given["categories"].pop()
    paths = folder / "images.json", folder / "results.json"
    for path, value in zip(paths, (given, results), strict=True):
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return stitch_external(*paths, GRID, folder / "a.gpkg", Settings(**settings))


def refused(folder: Path, *args: Any, **kwargs: Any) -> tuple[str, str, str]:
    with pytest.raises(InputError) as e:
        run(folder, *args, **kwargs)
    assert not (folder / "a.gpkg").exists()
    return e.value.code, Path(e.value.path or "").name, e.value.what


# -- numbers and depths that are too large ---------------------------------------------------------


@pytest.mark.parametrize(
    "id_", [2**31, 2**53 + 1, -(2**31) - 1, 10**30, pytest.param(10**4000, id="long"), 1e300]
)
def test_category_ids_that_do_not_fit_are_named(tmp_path: Path, id_: float) -> None:
    code, name, what = refused(tmp_path, [result(category_id=id_)], category=id_)
    assert (code, name) == ("SW-508", "images.json")
    assert "category entry 1 has `id`" in what
    assert "32 bits" in what
    assert len(what) < 200


@pytest.mark.parametrize("id_", [2**31 - 1, -(2**31)])
def test_the_largest_category_ids_come_back(tmp_path: Path, id_: int) -> None:
    found = run(tmp_path, [result(category_id=id_)], category=id_)
    assert found.by_category == {"a": 0, "b": 1}


@pytest.mark.parametrize("id_", [2**63 - 1, -(2**63)])
def test_image_ids_are_names_of_64_bits(tmp_path: Path, id_: int) -> None:
    images = [{**IMAGES[0], "id": id_}]
    found = run(tmp_path, [result(image_id=id_)], images=images)
    assert found.landslides == 1
    found.out.unlink()
    code, name, what = refused(tmp_path, [], images=[{**IMAGES[0], "id": 2 * id_}])
    assert (code, name) == ("SW-508", "images.json")
    assert "image entry 0 has `id`" in what


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"segmentation": [[1, 1, 10**400, 1, 8, 9]]}, "too large"),
        ({"segmentation": [[1, 1, 5, 1, 8, -(10**400)]]}, "too large"),
        ({"segmentation": {"size": SIZE, "counts": [10**4299] * 20}}, "far too many px"),
        ({"segmentation": {"size": SIZE, "counts": "o" * 20_000 + "0"}}, "64 bits"),
        ({"segmentation": {"size": [10**4000, 64], "counts": []}}, "is of size"),
        ({"image_id": 10**4000}, "64 bits"),
        ({"score": 10**4000}, "has score"),
    ],
)
def test_numbers_that_are_too_large_are_named(tmp_path: Path, bad: Any, says: str) -> None:
    code, name, what = refused(tmp_path, [result(), result(**bad)])
    assert (code, name) == ("SW-508", "results.json")
    assert "result 1" in what
    assert says in what
    assert len(what) < 300


def test_deep_nesting_is_an_error_of_the_file(tmp_path: Path) -> None:
    deep = b"[" * 100_000
    code, name, what = refused(tmp_path, b'[{"a": 1}, ' + deep)
    assert (code, name) == ("SW-508", "results.json")  # the entry before it
    good = json.dumps(result()).encode()
    code, name, what = refused(tmp_path, b"[" + good + b", " + deep)
    assert (code, name) == ("SW-102", "results.json")
    assert f"entry 1 (counted from 0), byte {len(good) + 3}: it is nested too deeply" in what
    (tmp_path / "images.json").write_bytes(deep)
    with pytest.raises(InputError) as e:
        stitch_external(tmp_path / "images.json", tmp_path, GRID, tmp_path / "a.gpkg")
    assert e.value.code == "SW-102"
    assert "nested too deeply" in e.value.what
    # What Python just reads, it may not print.
    shallow: Any = []
    for _ in range(400):
        shallow = [shallow]
    for bad in ({"score": shallow}, {"image_id": shallow}, {"segmentation": {"size": shallow}}):
        assert refused(tmp_path, [result(**bad)])[0] == "SW-508"


# -- empty detections ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["seam", "nms", "nmm", "greedy-nmm"])
def test_detections_without_polygons_are_counted_as_empty(tmp_path: Path, method: Any) -> None:
    nothing = {"size": SIZE, "counts": [64 * 64]}
    rows = [result(), result(segmentation=[]), result(image_id=2, segmentation=nothing)]
    found = run(tmp_path, rows, method=method)
    assert found.detections == 3
    assert found.landslides == 1
    assert found.counts["empty"] == found.as_json()["counts"]["empty"] == 2


@pytest.mark.parametrize("bad", [None, {}, "", 0, False, [[]], [[], []], ...])
def test_other_empty_values_stay_errors(tmp_path: Path, bad: Any) -> None:
    row = {k: v for k, v in result(segmentation=bad).items() if v is not ...}
    code, _, what = refused(tmp_path, [result(), row])
    assert code == "SW-508"
    assert "result 1" in what


# -- where in the file -----------------------------------------------------------------------------


def test_errors_point_to_the_entry_and_the_byte_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.inference import json_list

    rows = [json.dumps(result(note="é" * (k % 7)), ensure_ascii=False) for k in range(300)]
    before = ("[\r\n" + ",\r\n".join(rows) + ",\r\n").encode()
    cases = [
        (b'{"a": 1,, }]', 8, "Expecting property name"),
        (b'{"a": 1', 7, "delimiter"),
        (b'"text', 0, "Unterminated string"),
        (b"9" * 5000 + b"]", 0, "4300 digits"),
        (b"", 0, "breaks off"),
    ]
    for chunk in (1 << 20, 997):
        monkeypatch.setattr(json_list, "_CHUNK", chunk)
        for mark in (b"", BOM):
            for tail, further, says in cases:
                code, name, what = refused(tmp_path, mark + before + tail)
                assert (code, name) == ("SW-102", "results.json")
                at = len(mark + before) + further
                assert f"entry 300 (counted from 0), byte {at}: " in what
                assert says in what
            code, _, what = refused(tmp_path, mark + before + b'{"a": "\xff"}]')
            assert code == "SW-102"
            assert f"byte {len(mark + before) + 7} is not UTF-8" in what
        _, _, what = refused(tmp_path, before[:-3] + b" {}]")
        assert f"entry 299 (counted from 0), byte {len(before) - 2}: `{{`" in what


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    rows = [result(), result(image_id=2)]
    plain = run(tmp_path, rows).out.read_bytes()
    images, results = (tmp_path / n for n in ("images.json", "results.json"))
    for path in (images, results):
        path.write_bytes(BOM + path.read_bytes())
    found = stitch_external(images, results, GRID, tmp_path / "b.gpkg")
    assert found.out.read_bytes() == plain
    (tmp_path / "empty.json").write_bytes(BOM + b"[]")
    assert stitch_external(images, tmp_path / "empty.json", GRID, found.out).detections == 0
