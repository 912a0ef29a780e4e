"""Seeds of benchmarks: what is trained never sees their ground; benchmarks still make it."""

import ast
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from components.config import Config, PretrainConfig, SimulateConfig, TrainConfig
from components.dataset.ground import refuse_test_ground
from components.errors import InputError, WorkspaceError
from components.evaluation import simv1
from components.simulation import region as region_module
from components.simulation.fields import stream
from components.simulation.region import SimulationResult, simulate_region
from components.simulation.reserved import RESERVED
from components.training.loop import pretrain
from components.training.scenes import TEST, TRAINING, VALIDATION
from components.training.sources import scene_source


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    """A region of a seed that benchmarks keep."""
    out = tmp_path_factory.mktemp("kept") / "simulated"
    return simulate_region(out, SimulateConfig(seed=900_001, height=128, width=128, periods=1))


def test_a_region_of_the_same_seed_is_the_same_ground_whatever_else_is_set() -> None:
    draws = [stream(seed, "terrain").normal(size=8) for seed in (900_001, 900_001, 900_002)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_scenes_draw_from_other_streams_than_any_region() -> None:
    tree = ast.parse(Path(region_module.__file__).read_text())
    parts = {
        call.args[1].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "stream"
    }
    assert {"terrain", "landslides", "acquisition"} <= parts
    keys = {zlib.crc32(name.encode()) for name in (*parts, TRAINING, VALIDATION, TEST)}
    assert len(keys) == len(parts) + 3


@pytest.mark.parametrize("seed", [RESERVED.start, 900_001, 910_000, RESERVED.stop - 1])
def test_scenes_of_a_reserved_seed_are_refused_before_anything_is_made(
    tmp_path: Path, seed: int
) -> None:
    scenes = PretrainConfig(seed=seed, tile=64, tiles_per_epoch=2, validation_tiles=2)
    with pytest.raises(InputError) as caught:
        pretrain(tmp_path / "out", tmp_path / "work", TrainConfig(model="demo"), scenes)
    assert caught.value.code == "SW-308"
    assert str(seed) in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [RESERVED.start - 1, RESERVED.stop])
def test_seeds_beside_the_reserved_ones_are_not_refused(seed: int) -> None:
    scenes = PretrainConfig(seed=seed, tile=64, tiles_per_epoch=2, validation_tiles=0)
    assert scene_source(scenes, TrainConfig(model="demo")).order["scenes"]["seed"] == seed


def test_every_region_of_benchmarks_has_a_reserved_seed() -> None:
    experiments = Config().experiments.region_seed
    seeds = [r.config.seed for r in simv1.regions()] + [experiments, experiments + 1]
    assert all(seed in RESERVED for seed in seeds)
    assert SimulateConfig().seed not in RESERVED
    assert PretrainConfig().seed not in RESERVED
    with pytest.raises(ValueError, match="region_seed"):
        Config.model_validate({"experiments": {"region_seed": RESERVED.stop - 1}})


@pytest.mark.parametrize("what", ["labels", "labels_shp", "product", "file"])
def test_products_and_polygons_of_a_reserved_region_are_known(
    kept: SimulationResult, what: str
) -> None:
    [product] = kept.products
    chosen = {"product": product, "file": next(product.glob("*_unw_phase.tif"))}
    path = chosen.get(what) or getattr(kept, what)
    with pytest.raises(InputError) as caught:
        refuse_test_ground([path])
    assert caught.value.code == "SW-308"
    assert "900001" in str(caught.value)
    assert str(kept.dem.parent) in str(caught.value)


def test_other_ground_is_not_refused(kept: SimulationResult, tmp_path: Path) -> None:
    other = simulate_region(
        tmp_path / "simulated", SimulateConfig(seed=7, height=128, width=128, periods=1)
    )
    refuse_test_ground([other.labels, *other.products, tmp_path / "gone" / "labels.shp"])
    # Polygons alone say nothing of the seed; a broken manifest neither.
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "simulation.json").write_text("{")
    refuse_test_ground([Path(shutil.copy(kept.labels, tmp_path / "drawn"))])


def test_dataset_run_and_training_refuse_and_experiments_do_not(
    kept: SimulationResult, tmp_path: Path
) -> None:
    from flows.dataset import build, dataset
    from flows.pipeline import check_run
    from flows.tasks import open_workspace
    from flows.training import train

    ws = tmp_path / "ws"
    labels = Config().dataset.model_copy(update={"labels": kept.labels})
    config = Config().model_copy(update={"dataset": labels})
    drawn = tmp_path / "drawn.gpkg"
    shutil.copy(kept.labels, drawn)
    own = Config().model_copy(update={"dataset": labels.model_copy(update={"labels": drawn})})
    [product] = kept.products
    open_workspace(ws).ledger.record_product(
        sha256="0", path=product, reader="hyp3", track="t", dates=("a", "b"), cube_key="k"
    )
    refused = (
        lambda: dataset.fn(tmp_path / "empty", config),  # by its polygons
        lambda: dataset.fn(ws, own),  # by the products that were ingested
        lambda: check_run(tmp_path / "none", [product], own),
        lambda: train.fn(ws, config),
    )
    for work in refused:
        with pytest.raises(InputError) as caught:
            work()
        assert caught.value.code == "SW-308"
    # The experiments' door comes as far as the missing tiles.
    with pytest.raises(WorkspaceError) as found:
        build(ws, config)
    assert found.value.code == "SW-205"
