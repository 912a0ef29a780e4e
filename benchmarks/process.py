"""Measurements in processes of their own; the standard library only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def in_process(script: Path, task: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """Run ``script --task JSON`` in a process of its own; its last line is the answer."""
    root = str(Path(__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [inherited, root]))}
    command = [python, str(script), "--task", json.dumps(task)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def peak_mib() -> float:
    """Largest resident memory of this process so far [MiB]."""
    status = Path("/proc/self/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) / 1024
