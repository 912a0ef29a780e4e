"""A small simulated region and the command that runs the whole chain on it, for several tests."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.config_file import load_config
from components.simulation.region import SimulationResult, simulate_region

ROOT = Path(__file__).resolve().parents[1]

#: Settings under which the whole chain takes seconds; what is learned in them does not matter.
SMALL = (
    "tile.size=128",
    "tile.stride=96",
    "dataset.block_km=3.2",
    "train.epochs=2",
    "train.validate_every=1",
    "train.threads=2",
    "infer.window=128",
    "infer.context=128",
    "infer.score_min=0.02",
    "inventory.score_min=0.02",
)


def simulate_small(out: Path, side: int = 512) -> SimulationResult:
    """Two periods of a few square kilometres, dense with landslides."""
    values = {
        "simulate.seed": 3,
        "simulate.height": side,
        "simulate.width": side,
        "simulate.landslides_per_1000km2": 1500,
    }
    return simulate_region(out, load_config(None, values).simulate)


def command(verb: str, *arguments: str | Path, settings: tuple[str, ...] = ()) -> list[str]:
    """Command line of a verb with ``--json``."""
    sets = [x for s in settings for x in ("--set", s)]
    return [sys.executable, "-m", "flows", verb, *map(str, arguments), *sets, "--json"]


def environment(home: Path) -> dict[str, str]:
    """Environment with an own Prefect home."""
    return {**os.environ, "PREFECT_HOME": str(home)}


def last_json(arguments: list[str], home: Path, *, expect: int = 0) -> dict[str, Any]:
    """Run a command to its end; its exit code must be as expected; the last line is JSON."""
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment(home),
        timeout=1500,
    )
    assert done.returncode == expect, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_command(sim: SimulationResult, workspace: Path) -> list[str]:
    """Command line of the whole chain on a simulated region."""
    arguments = (*sim.products, "--labels", sim.labels, "--workspace", workspace)
    return command("run", *arguments, settings=SMALL)


def tree_hash(workspace: Path) -> str:
    """Digest of every published file; the ledger and ``work`` hold times and are left out."""
    sha = hashlib.sha256()
    for path in sorted(p for p in workspace.rglob("*") if p.is_file()):
        name = path.relative_to(workspace)
        if name.parts[0] not in {"work", "ledger.sqlite", ".lock", "staging"}:
            sha.update(json.dumps(name.as_posix()).encode())
            sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()
