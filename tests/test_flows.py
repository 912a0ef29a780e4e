"""The whole chain through the command line on a small simulated region."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import pytest
from region import SMALL, command, last_json, run_command, simulate_small, tree_hash

from components.cube.read import list_cubes
from components.simulation.region import SimulationResult
from components.workspace import Workspace

SUMMARY = {
    "workspace",
    "inventory",
    "report",
    "n_landslides",
    "mapped_km2",
    "seconds",
    "inference_seconds",
    "windows",
}


class Chain(NamedTuple):
    sim: SimulationResult
    workspace: Path
    home: Path
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    root = tmp_path_factory.mktemp("chain")
    sim = simulate_small(root / "simulated")
    workspace, home = root / "ws", root / "home"
    yield Chain(sim, workspace, home, last_json(run_command(sim, workspace), home))
    shutil.rmtree(root)


def test_run_ends_with_its_summary_and_everything_it_names(chain: Chain) -> None:
    assert set(chain.summary) >= SUMMARY
    windows = chain.summary["windows"]
    assert windows["failed"] == 0
    assert windows["total"] == windows["done"] + windows["skipped"] > 0
    table = gpd.read_file(chain.summary["inventory"], layer="landslides")
    assert len(table) == chain.summary["n_landslides"] > 0
    assert set(table["track"]) == {"descending"}
    assert "<html" in Path(chain.summary["report"]).read_text()
    assert not (chain.workspace / "staging").exists() or not list(
        (chain.workspace / "staging").iterdir()
    )


def test_running_again_computes_nothing_and_changes_no_byte(chain: Chain) -> None:
    before = tree_hash(chain.workspace)
    again = last_json(run_command(chain.sim, chain.workspace), chain.home)
    assert again["reused"]["artefacts"] == again["reused"]["of"]
    assert again["n_landslides"] == chain.summary["n_landslides"]
    assert tree_hash(chain.workspace) == before


def test_an_artefact_that_was_deleted_is_made_again(chain: Chain) -> None:
    before = tree_hash(chain.workspace)
    shutil.rmtree(chain.workspace / "inventory")
    last_json(run_command(chain.sim, chain.workspace), chain.home)
    assert tree_hash(chain.workspace) == before


def test_map_with_the_weights_on_one_product_in_a_new_workspace(
    chain: Chain, tmp_path: Path
) -> None:
    weights = chain.workspace / "model" / "weights.safetensors"
    arguments = (chain.sim.products[1], "--workspace", tmp_path / "ws", "--weights", weights)
    done = last_json(command("map", *arguments, settings=SMALL), chain.home)
    assert set(done) >= SUMMARY
    ws = Workspace(tmp_path / "ws")
    [cube] = list_cubes(ws)
    [same] = [
        c for c in list_cubes(Workspace(chain.workspace)) if c.meta["period"] == cube.meta["period"]
    ]
    assert cube.meta["sha256"] == same.meta["sha256"]
    mine = gpd.read_file(done["inventory"]).drop(columns=["lineage_id"])
    theirs = gpd.read_file(chain.summary["inventory"]).drop(columns=["lineage_id"])
    theirs = theirs[theirs["period"] == cube.meta["period"]]
    assert sorted(mine["id"]) == sorted(theirs["id"]), "a period alone gives the same landslides"


def test_plan_tells_what_is_done_and_writes_nothing(chain: Chain, tmp_path: Path) -> None:
    arguments = (*chain.sim.products, "--labels", chain.sim.labels, "--workspace")
    before = tree_hash(chain.workspace)
    done = last_json(command("plan", *arguments, chain.workspace, settings=SMALL), chain.home)
    assert {s["state"] for s in done["steps"]} == {"done"}
    assert done["windows"]["done"] == done["windows"]["total"] > 0
    assert tree_hash(chain.workspace) == before
    todo = last_json(command("plan", *arguments, tmp_path / "new", settings=SMALL), chain.home)
    assert {s["state"] for s in todo["steps"]} == {"to do"}
    assert todo["windows"] == {"total": done["windows"]["total"], "done": 0}
    assert todo["seconds"] > 0
    assert not (tmp_path / "new").exists()


def test_prefect_shows_metrics_picture_and_links(chain: Chain) -> None:
    script = (
        "import asyncio, json\n"
        "from prefect.client.orchestration import get_client\n"
        "async def main():\n"
        "    async with get_client() as client:\n"
        "        found = await client.read_artifacts()\n"
        "    print(json.dumps([[a.key, a.type, str(a.data)[:4000000]] for a in found]))\n"
        "import flows\n"
        "asyncio.run(main())\n"
    )
    found = last_json([sys.executable, "-c", script], chain.home)
    kinds = {key: kind for key, kind, _ in found}
    assert kinds["training"] == kinds["metrics"] == "table"
    assert kinds["report-html"] == kinds["landslides-gpkg"] == "markdown"
    texts = [data for key, _, data in found if key == "inventory"]
    assert all("data:image/png;base64," in text for text in texts)
    count = f"{chain.summary['n_landslides']} landslide records"
    assert any(count in text for text in texts)


def test_evaluate_prints_the_metrics(chain: Chain) -> None:
    arguments = ("--labels", chain.sim.labels, "--workspace", chain.workspace)
    found = last_json(command("evaluate", *arguments, settings=SMALL), chain.home)
    for method in ("model", "baseline"):
        pixels = found[method]["pooled"]["pixels"]
        iou, f1 = pixels["iou_fg"], pixels["dice"]
        assert f1 == pytest.approx(2 * iou / (1 + iou), abs=1e-9)


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("dataset.category_attribute=kind", "SW-304"),
        ("train.model=resnet1001", "SW-406"),
        ("region.resolution_m=-1", "SW-701"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    chain: Chain, tmp_path: Path, setting: str, code: str
) -> None:
    arguments = run_command(chain.sim, tmp_path / "ws")
    error = last_json([*arguments[:-1], "--set", setting, "--json"], chain.home, expect=1)
    assert error["error"] == code
    assert not (tmp_path / "ws").exists()


def test_a_truncated_product_is_refused_before_anything_is_written(
    chain: Chain, tmp_path: Path
) -> None:
    product = Path(shutil.copytree(chain.sim.products[0], tmp_path / chain.sim.products[0].name))
    [raster] = product.glob("*_los_disp.tif")
    raster.write_bytes(raster.read_bytes()[: raster.stat().st_size // 2])
    weights = chain.workspace / "model" / "weights.safetensors"
    arguments = ("map", product, "--workspace", tmp_path / "ws", "--weights", weights)
    error = last_json(command(*arguments), chain.home, expect=1)
    assert error["error"] == "SW-102"
    assert raster.name in error["message"]
    assert not (tmp_path / "ws").exists()
