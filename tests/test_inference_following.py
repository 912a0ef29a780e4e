"""Stitching that follows the windows: order, errors on either side, and nothing left behind."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_cube import CFG, content, copy, make_cube, write_weights

from components.errors import ModelError, WorkspaceError
from components.inference import following as module
from components.inference.following import Following, stitch_shards
from components.inference.instance_file import load_instances
from components.inference.plan import make_plan
from components.inference.run import INSTANCES, infer_cube
from components.inference.shards import load_shard, save_shard, shard_path


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A workspace with one cube, and weights; tests work on copies."""
    folder = tmp_path_factory.mktemp("region")
    make_cube(folder / "ws", folder / "product")
    return folder / "ws", write_weights(folder / "weights.safetensors")


@given(st.permutations(range(9)))
def test_shards_are_worked_on_in_their_order_whenever_they_come(order: list[int]) -> None:
    with Following(9, list) as following:
        for number in order:
            following.ready(number)
        assert following.result() == list(range(9))


def test_work_goes_on_while_shards_are_made() -> None:
    begun = threading.Event()

    def work(shards: Iterator[int]) -> int:
        first = next(shards)
        begun.set()
        return first + sum(shards)

    with Following(3, work) as following:
        following.ready(0)
        assert begun.wait(20)  # before the others are there
        following.ready(2)
        following.ready(1)
        assert following.result() == 3


def test_an_error_of_the_work_ends_the_making_of_shards() -> None:
    def work(shards: Iterator[int]) -> None:
        next(shards)
        raise WorkspaceError("SW-202", "full")

    made: list[int] = []

    def make() -> None:
        with Following(10_000, work) as following:
            for number in range(10_000):
                following.ready(number)
                made.append(number)
                time.sleep(0.001)

    with pytest.raises(WorkspaceError) as e:
        make()
    assert e.value.code == "SW-202"
    assert len(made) < 10_000


def test_work_is_left_when_the_other_side_fails() -> None:
    left: list[BaseException] = []

    def work(shards: Iterator[int]) -> None:
        try:
            list(shards)
        except BaseException as e:
            left.append(e)
            raise

    def make() -> None:
        with Following(3, work) as following:
            following.ready(0)
            raise ModelError("SW-401", "gone")

    threads = threading.active_count()
    with pytest.raises(ModelError):
        make()
    assert len(left) == 1
    assert threading.active_count() == threads


def test_a_shard_that_vanishes_before_it_is_stitched_is_a_coded_error(
    region: tuple[Path, Path], tmp_path: Path
) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    infer_cube(ws, cube, region[1], CFG)
    plan = make_plan(ws, cube, region[1], CFG)
    shard_path(plan.work, len(plan.shards) - 1).unlink()
    with pytest.raises(WorkspaceError) as e:
        stitch_shards(ws, plan, None, None, tmp_path / "x.npz", range(len(plan.shards)))
    assert e.value.code == "SW-206"
    assert not list(tmp_path.glob("*x.npz*"))


def test_an_error_in_stitching_ends_the_run_and_publishes_nothing(
    region: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, cube = copy(region, tmp_path / "ws")

    def full(*_: object) -> None:
        raise WorkspaceError("SW-202", "no space left")

    with monkeypatch.context() as m:
        m.setattr(module.InstanceWriter, "extend", full)
        with pytest.raises(WorkspaceError) as e:
            infer_cube(ws, cube, region[1], CFG)
    assert e.value.code == "SW-202"
    assert ws.artefacts("detections") == []
    assert not list(ws.staging.iterdir())
    assert infer_cube(ws, cube, region[1], CFG).meta["n_instances"] > 0


def test_shards_in_any_order_give_the_same_bytes(
    region: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some shards stored before, some slow: the artefact is that of an undisturbed run."""
    ws, cube = copy(region, tmp_path / "one")
    whole = content(infer_cube(ws, cube, region[1], CFG))
    plan = make_plan(ws, cube, region[1], CFG)
    assert len(plan.shards) > 1
    other, cube = copy(region, tmp_path / "two")
    again = make_plan(other, cube, region[1], CFG)
    again.work.mkdir(parents=True)
    last = len(plan.shards) - 1
    stored = load_shard(shard_path(plan.work, last), plan.shards[last])
    assert stored is not None
    save_shard(shard_path(again.work, last), stored)
    load = module.load_shard

    def slow(*args: object) -> object:
        time.sleep(random.random() / 10)
        return load(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "load_shard", slow)
    found = infer_cube(other, cube, region[1], CFG)
    assert content(found) == whole
    assert len(load_instances(found.folder / INSTANCES)) > 0
