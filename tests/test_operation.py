"""A server, a worker and the deployments on this machine, as ``deployments/local.sh`` starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from region import ROOT


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.slow
def test_a_deployment_runs_on_a_worker(tmp_path: Path) -> None:
    port = free_port()
    env = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "SLOPEWATCH_BIN": str(Path(sys.executable).parent),
    }
    log = (tmp_path / "local.log").open("w+")
    local = subprocess.Popen(
        [ROOT / "deployments" / "local.sh", str(port)],
        env=env,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while f"slopewatch: http://127.0.0.1:{port}" not in Path(log.name).read_text():
            assert local.poll() is None, Path(log.name).read_text()[-3000:]
            assert time.monotonic() < deadline, Path(log.name).read_text()[-3000:]
            time.sleep(1)
        config = {"simulate": {"height": 256, "width": 256, "periods": 1}}
        command = [
            *(
                str(Path(sys.executable).parent / "prefect"),
                "deployment",
                "run",
                "simulate/simulate",
            ),
            *("--param", f"out={json.dumps(str(tmp_path / 'sim'))}"),
            *("--param", f"config={json.dumps(config)}", "--watch"),
        ]
        client = {**env, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
        done = subprocess.run(
            command, env=client, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert list((tmp_path / "sim" / "products").glob("S1AA_*"))
    finally:
        local.send_signal(signal.SIGTERM)
        try:
            local.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(local.pid, signal.SIGKILL)
        log.close()
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", port)) != 0, "the server outlived the script"
