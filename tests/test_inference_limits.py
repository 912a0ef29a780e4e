"""Where a run meets its limits: memory of the device, of reading and of the stitcher; impossible settings."""

from __future__ import annotations

import threading
import tracemalloc
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from small_cube import CFG, content, copy, make_cube, write_weights

from components.errors import ModelError, ProcessingError, SlopewatchError
from components.grid.windows import Window
from components.inference import predict as prediction
from components.inference import read as reading
from components.inference import stitch as stitching
from components.inference.instances import Detection
from components.inference.plan import MIN_OVERLAP_PX, make_plan, planned_windows
from components.inference.predict import Predictor
from components.inference.run import infer_cube
from components.inference.stitch import Stitcher
from components.workspace import Workspace
from models.build import Detections


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A workspace with one cube, and weights; tests work on copies."""
    folder = tmp_path_factory.mktemp("region")
    make_cube(folder / "ws", folder / "product")
    return folder / "ws", write_weights(folder / "weights.safetensors")


class Layer:
    """What a pass keeps in the device's memory until its frames are gone."""

    lock = threading.Lock()
    room = 0.0
    alive: ClassVar[weakref.WeakSet[Layer]] = weakref.WeakSet()

    def __init__(self, windows: float) -> None:
        with self.lock:
            if sum(layer.windows for layer in self.alive) + windows > self.room:
                msg = "CUDA error: not enough memory"
                raise RuntimeError(msg)
            self.windows = windows
            self.alive.add(self)


class Small(Predictor):
    """A device with room for the layers of so many windows, taken layer by layer."""

    def _detect(self, batch: torch.Tensor) -> list[Detections]:
        kept = []
        for _ in range(10):
            kept.append(Layer(len(batch) / 10))  # noqa: PERF401 - a frame keeps what has a name
        return super()._detect(batch)


@pytest.mark.parametrize(("batch", "room"), [(8, 5.5), (8, 3.5), (16, 4.5), (3, 1.5)])
@pytest.mark.parametrize("threads", [1, 3])
def test_half_a_batch_finds_the_memory_that_the_whole_one_had_taken(
    region: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    room: float,
    threads: int,
) -> None:
    monkeypatch.setattr(prediction, "Predictor", Small)
    monkeypatch.setattr(Layer, "room", room)
    ws, cube = copy(region, tmp_path / "ws")
    cfg = CFG.model_copy(update={"batch_size": batch, "threads": threads})
    assert infer_cube(ws, cube, region[1], cfg).meta["windows"]["failed"] == 0
    assert not Layer.alive


def test_a_window_for_which_there_is_no_memory_to_read_is_a_coded_error(
    region: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, cube = copy(region, tmp_path / "ws")

    def full(*_: object) -> dict[str, Any]:
        raise MemoryError

    with monkeypatch.context() as m:
        m.setattr(reading, "read_layers", full)
        with pytest.raises(ProcessingError) as e:
            infer_cube(ws, cube, region[1], CFG)
    assert e.value.code == "SW-506"
    assert ws.artefacts("detections") == []
    assert infer_cube(ws, cube, region[1], CFG).meta["windows"]["failed"] == 0


def test_large_masks_are_stitched_before_they_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side, n = 200, 400
    monkeypatch.setattr(stitching, "STEP_PX", 20 * side**2)
    windows = {i: Window(0, i * 256, 256, 256) for i in range(n)}
    stitcher = Stitcher(windows, (256, n * 256))
    tracemalloc.start()
    done = 0
    for i, w in windows.items():
        mask = np.ones((side, side), np.float32)
        done += len(list(stitcher.add(i, [Detection(i, 1, 0.9, 20, w.col + 20, mask)])))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert done > n - 60
    assert peak < 150 * mask.nbytes  # all of them are 400
    assert done + len(list(stitcher.finish())) == n


def test_another_process_may_take_the_lock_while_a_run_without_it_goes_on(
    region: tuple[Path, Path], tmp_path: Path
) -> None:
    ws, cube = copy(region, tmp_path / "ws")

    def take(*_: object) -> None:
        with Workspace(ws.root).lock():  # empties the folder of what is being published
            pass

    found = infer_cube(ws, cube, region[1], CFG, take)
    other, cube = copy(region, tmp_path / "other")
    assert content(found) == content(infer_cube(other, cube, region[1], CFG))


@pytest.mark.parametrize("window", [64, 600, 1700])
def test_the_remedy_for_too_little_overlap_is_enough(window: int) -> None:
    cfg = CFG.model_copy(update={"window": window, "context": window, "overlap": 0.0})
    with pytest.raises(ProcessingError) as e:
        planned_windows((4000, 4000), cfg)
    assert e.value.code == "SW-502"
    words = (e.value.remedy or "").split()
    overlap = float(words[words.index("to") + 1])
    assert overlap <= 0.01 + (MIN_OVERLAP_PX + 1) / window
    assert planned_windows((4000, 4000), cfg.model_copy(update={"overlap": overlap}))


@pytest.mark.parametrize("size", [0, -25.0, "25 m", None, float("inf")])
def test_a_card_without_a_pixel_size_is_refused(
    region: tuple[Path, Path], tmp_path: Path, size: object
) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    weights = write_weights(tmp_path / "w.safetensors", ground_pixel_size_m=size)
    with pytest.raises(SlopewatchError) as e:
        make_plan(ws, cube, weights, CFG)
    assert e.value.code == "SW-401"
    assert isinstance(e.value, ModelError)
