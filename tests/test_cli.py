"""The command line: help, configuration, coded errors, exit codes; no flow runs here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.config import Config
from components.config_file import load_config
from components.errors import InputError
from flows.options import Given

ROOT = Path(__file__).resolve().parents[1]
VERBS = (
    *("simulate", "ingest", "tile", "dataset", "train", "pretrain", "infer", "stitch"),
    *("evaluate", "inventory", "map", "run", "plan", "demo", "models", "export"),
    *("config", "version"),
)


def slopewatch(*arguments: str | Path, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300, **kwargs
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps_with_an_example(verb: str) -> None:
    from typer.testing import CliRunner

    from flows import verbs  # noqa: F401 - registers the verbs
    from flows.cli import app

    result = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Example: slopewatch " + verb in result.output


def test_config_is_written_with_comments_and_read_back(tmp_path: Path) -> None:
    result = slopewatch("config", "--set", "infer.overlap=0.4")
    assert result.returncode == 0
    path = tmp_path / "slopewatch.yaml"
    path.write_text(result.stdout)
    assert load_config(path) == Given(overrides=("infer.overlap=0.4",)).config() != Config()
    keys = [k for section in yaml.safe_load(result.stdout).values() for k in section]
    comments = [line for line in result.stdout.splitlines() if line.startswith("  # ")]
    assert len(comments) >= len(keys)


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("infer.windw=3", "infer.windw"),
        ("infr.window=3", "infr"),
        ("infer.overlap=1.5", "infer.overlap"),
        ("infer.window", "SECTION.KEY=VALUE"),
        ("tile.stride=300", "stride"),
    ],
)
def test_wrong_keys_and_values_are_refused_by_name(override: str, names: str) -> None:
    with pytest.raises(InputError) as caught:
        Given(overrides=(override,)).config()
    assert caught.value.code == "SW-701"
    assert names in str(caught.value)


def test_unknown_key_in_a_file_ends_with_a_coded_line_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("ingest:\n  coherence_minimum: 0.2\n")
    result = slopewatch("tile", "-w", tmp_path / "ws", "-c", path, "--json")
    assert result.returncode == 1
    assert "[SW-701]" in result.stderr
    assert str(path) in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["error"] == "SW-701"
    assert not (tmp_path / "ws").exists()


def test_map_without_products_is_a_clear_error_before_any_work(tmp_path: Path) -> None:
    result = slopewatch("map", tmp_path / "nothing", "-w", tmp_path / "ws", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout.splitlines()[-1])["error"] == "SW-101"
    assert not (tmp_path / "ws").exists()
    assert "Traceback" not in result.stderr


def test_unreachable_server_is_a_coded_error(tmp_path: Path) -> None:
    import os

    env = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path)}
    result = slopewatch("tile", "-w", tmp_path / "ws", env=env)
    assert result.returncode == 1
    assert "[SW-703]" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, flows.cli, flows.verbs; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    heavy = {"torch", "prefect", "geopandas", "rasterio", "xarray", "zarr", "matplotlib", "scipy"}
    assert not heavy & set(done.stdout.split())


def test_separated_ground_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from components.workspace import Artefact
    from flows import show

    meta = {
        "track": "t",
        "period": "p",
        "references": [{"km2": a} for a in (1545.4, 337.4, 299.9)],
        "components": {"total": 6, "small": 3},
    }
    show.artefacts(Artefact("cube", "key", "/somewhere", meta))
    assert "3 referenced apart (1,545, 337, 300 km²); 3 small with the nearest" in (
        capsys.readouterr().out
    )
    meta["components"] = {"total": 3, "small": 0}
    assert show.separated(meta) == "3 referenced apart (1,545, 337, 300 km²)"
    meta["references"] = [{"km2": 10.0 - i} for i in range(7)]
    meta["components"] = {"total": 8, "small": 1}
    told = "7 referenced apart (10, 9, 8, 7, 6, … km²); 1 small with the nearest"
    assert show.separated(meta) == told
    meta["references"] = [{"km2": 30.0}]
    meta["components"] = {"total": 2, "small": 1}
    assert show.separated(meta) == "1 referenced apart (30 km²); 1 small with the nearest"
    meta["components"] = {"total": 2, "small": 2}
    assert show.separated(meta) == "2 small components, one reference for all (30 km²)"
    # A map of one piece, and an artefact that is no cube.
    meta["components"] = {"total": 1, "small": 0}
    assert show.separated(meta) == ""
    assert show.separated({}) == ""
