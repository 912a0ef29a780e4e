"""Landslides on disk: exact, reproducible, in pieces, whole or not at all."""

from __future__ import annotations

import resource
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import natural_scene, oracle, same, window_map

from components.errors import WorkspaceError
from components.inference import instance_file
from components.inference.instance_file import InstanceWriter, load_instances, save_instances
from components.inference.instances import Instance, dequantise, quantise
from components.inference.stitch import stitch


def landslides(seed: int = 0) -> list[Instance]:
    """Some, in canonical order, with probabilities of all sizes."""
    truth = natural_scene(1)
    windows = window_map(truth.shape, 64, 0.4)
    rng = np.random.default_rng(seed)
    seen = [
        replace(d, score=float(rng.random()), prob=d.prob * np.float32(rng.uniform(0.5, 1)))
        for d in oracle(truth, windows, noise=1, rng=rng)
    ]
    return stitch(seen, windows, truth.shape).instances


def write(path: Path, batches: Sequence[Sequence[Instance]]) -> bytes:
    with InstanceWriter(path) as writer:
        for batch in batches:
            writer.extend(batch)
    return path.read_bytes()


def test_instances_are_stored_exactly_and_reproducibly(tmp_path: Path) -> None:
    found = landslides()
    save_instances(tmp_path / "a.npz", found)
    back = load_instances(tmp_path / "a.npz")
    assert len(back) == len(found) > 5
    same(found, back)
    save_instances(tmp_path / "none.npz", [])
    assert list(load_instances(tmp_path / "none.npz")) == []


def test_bytes_do_not_depend_on_order_or_batches(tmp_path: Path) -> None:
    found = landslides()
    twins = [*found, replace(found[0], n_windows=1), found[3]]  # equal in all that sorts them
    order = np.random.default_rng(1).permutation(len(twins)).tolist()
    one = write(tmp_path / "a.npz", [twins])
    other = write(
        tmp_path / "b.npz", [[twins[k]] for k in order if k != len(found)] + [[twins[len(found)]]]
    )
    assert one == other
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_pieces_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = landslides()
    monkeypatch.setattr(instance_file, "PIECE", 4)
    write(tmp_path / "a.npz", [found])
    names = zipfile.ZipFile(tmp_path / "a.npz").namelist()
    assert sum(n.startswith("prob-") for n in names) == -(-len(found) // 4) > 2
    back = load_instances(tmp_path / "a.npz")
    same(found, back)
    same(found[-3:][::-1], [back[-1], back[-2], back[-3]])
    same(found[2:9:2], back[2:9:2])
    with pytest.raises(IndexError):
        back[len(found)]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> None:
        with InstanceWriter(tmp_path / "a.npz") as writer:
            writer.extend(landslides())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_no_room_and_no_folder_are_coded_and_leave_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(WorkspaceError) as e:
            save_instances(tmp_path / "a.npz", landslides())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert e.value.code == "SW-202"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError) as e:
        save_instances(tmp_path / "file" / "a.npz", [])
    assert e.value.code == "SW-201"


def test_a_damaged_instance_file_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "a.npz", [landslides()])
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.npz").write_text("landslides")
    for name in ("a.npz", "text.npz", "absent.npz"):
        with pytest.raises(WorkspaceError) as e:
            load_instances(tmp_path / name)
        assert e.value.code == "SW-206"
    middle = data.index(b"prob-000000.npy") + 60
    (tmp_path / "a.npz").write_bytes(data[:middle] + bytes(40) + data[middle + 40 :])
    with pytest.raises(WorkspaceError) as e:  # the numbers are whole, the pixels are not
        load_instances(tmp_path / "a.npz")[0]
    assert e.value.code == "SW-206"


def test_bytes_of_probabilities_keep_the_threshold() -> None:
    parts = np.arange(255, dtype=np.uint8)
    np.testing.assert_array_equal(quantise(dequantise(parts)), parts)
    np.testing.assert_array_equal(
        dequantise(quantise(np.array([0, 0.5, 1], np.float32))), [0, 0.5, 1]
    )
