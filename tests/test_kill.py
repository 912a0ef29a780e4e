"""``kill -9`` at ten random moments of ``slopewatch run``, then the same command to its end."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from region import ROOT, environment, last_json, run_command, simulate_small, tree_hash

KILLS = 10


@pytest.mark.slow
def test_ten_kills_and_a_rerun_give_the_undisturbed_workspace(tmp_path: Path) -> None:
    sim = simulate_small(tmp_path / "simulated")
    start = time.monotonic()
    last_json(run_command(sim, tmp_path / "calm"), tmp_path / "home-calm")
    duration = time.monotonic() - start
    calm = tree_hash(tmp_path / "calm")

    rng = random.Random(20260101)
    home = tmp_path / "home"
    workspace = tmp_path / "ws"
    killed = 0
    while killed < KILLS:
        # Starting the server takes a while in which nothing is written: kill after it.
        wait = rng.uniform(0.3, 0.9) * duration
        process = subprocess.Popen(
            run_command(sim, workspace),
            cwd=ROOT,
            env=environment(home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        else:
            # It has come to its end between kills: begin anew, so that later kills hit work.
            assert process.returncode == 0
            assert tree_hash(workspace) == calm
            workspace = tmp_path / f"ws{killed}"
    last_json(run_command(sim, workspace), home)
    assert tree_hash(workspace) == calm
