"""The same run on a Dask cluster: real processes, one of them killed, and the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import LocalCluster
from small_cube import CFG, content, copy, make_cube, write_weights

from components.errors import ProcessingError
from components.inference.distribute import _device, compute_shard
from components.inference.run import infer_cube
from components.workspace import Artefact, Workspace

# Half as far apart: windows enough for a dozen shards.
DENSE = CFG.model_copy(update={"overlap": 0.6, "threads": None})


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("region")
    make_cube(folder / "ws", folder / "product")
    return folder / "ws", write_weights(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def alone(region: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run without a cluster makes."""
    ws, cube = copy(region, tmp_path_factory.mktemp("alone") / "ws")
    return content(infer_cube(ws, cube, region[1], DENSE))


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made:
        yield made


def on(region: tuple[Path, Path], root: Path, dask: str) -> tuple[Workspace, Artefact]:
    ws, cube = copy(region, root)
    return ws, infer_cube(ws, cube, region[1], DENSE.model_copy(update={"dask": dask}))


def test_a_worker_killed_in_mid_run_loses_nothing(
    region: tuple[Path, Path], alone: dict[str, bytes], tmp_path: Path, cluster: LocalCluster
) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    victim = next(iter(cluster.workers.values()))
    killed: list[int] = []
    seen: list[int] = []

    def kill(step: str, done: int, _: int) -> None:
        if step == "infer":
            seen.append(done)
            if done and not killed:
                killed.append(victim.pid)
                os.kill(victim.pid, signal.SIGKILL)

    cfg = DENSE.model_copy(update={"dask": cluster.scheduler_address})
    found = infer_cube(ws, cube, region[1], cfg, kill)
    assert len(killed) == 1
    assert len(seen) > 6  # the cluster went on for several shards
    assert content(found) == alone
    total = found.meta["windows"]["total"]
    assert len(ws.ledger.windows(found.meta["window_key"])) == total


def test_a_scheduler_that_is_not_there_is_a_coded_error(
    region: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.inference.distribute.PATIENCE_S", 2)
    with pytest.raises(ProcessingError) as e:
        on(region, tmp_path / "ws", "tcp://127.0.0.1:9")
    assert e.value.code == "SW-507"
    assert Workspace(tmp_path / "ws").artefacts("detections") == []


@pytest.mark.parametrize(
    "address", ["tcp://nowhere", "tls://127.0.0.1:9", "127.0.0.1:0:0", "x://y:1"]
)
def test_an_address_that_is_none_is_a_coded_error(
    region: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr("components.inference.distribute.PATIENCE_S", 2)
    with pytest.raises(ProcessingError) as e:
        on(region, tmp_path / "ws", address)
    assert e.value.code == "SW-507"


def test_a_cluster_that_loses_all_workers_is_given_up(
    region: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cluster: LocalCluster,
) -> None:
    monkeypatch.setattr("components.inference.distribute.PATIENCE_S", 3)
    ws, cube = copy(region, tmp_path / "ws")

    def leave(step: str, done: int, _: int) -> None:
        if step == "infer" and done and cluster.workers:
            cluster.scale(0)

    cfg = DENSE.model_copy(update={"dask": cluster.scheduler_address})
    with pytest.raises(ProcessingError, match="no worker") as e:
        infer_cube(ws, cube, region[1], cfg, leave)
    assert e.value.code == "SW-507"
    assert ws.artefacts("detections") == []


@pytest.mark.slow
def test_two_workspaces_share_a_cluster(
    region: tuple[Path, Path], alone: dict[str, bytes], tmp_path: Path, cluster: LocalCluster
) -> None:
    """The windows are the same, but not the folders that they go to."""
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(
            lambda name: on(region, tmp_path / name, cluster.scheduler_address), ("one", "two")
        )
        assert [content(found) for _, found in made] == [alone, alone]


def test_a_worker_that_does_not_see_the_workspace_says_so(tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    with pytest.raises(ProcessingError, match="does not see") as e:
        compute_shard(str(root), "infer-0", "w", "{}", "{}", False, 0)
    assert e.value.code == "SW-507"
    assert not root.exists()


def test_workers_of_an_own_cluster_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(name=6))
    assert _device("auto", own=True) == "cuda:2"
    assert _device("cpu", own=True) == "cpu"
    assert _device("cuda", own=False) == "cuda"  # CUDA_VISIBLE_DEVICES is its affair
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert _device("auto", own=True) == "auto"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_number_of_workers_changes_no_byte(
    region: tuple[Path, Path], alone: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    _, found = on(region, tmp_path / "ws", f"local:{workers}")
    assert content(found) == alone


@pytest.mark.slow
def test_a_workers_coded_error_reaches_the_caller(
    region: tuple[Path, Path], tmp_path: Path
) -> None:
    ws, cube = copy(region, tmp_path / "ws")
    # Weights whose bytes are not those of their card: the plan reads the card only.
    weights = write_weights(tmp_path / "w.safetensors")
    weights.write_bytes(weights.read_bytes()[:-8] + bytes(8))
    with pytest.raises(Exception, match="SW-401"):
        infer_cube(ws, cube, weights, DENSE.model_copy(update={"dask": "local:2"}))
    assert ws.artefacts("detections") == []
