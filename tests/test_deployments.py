"""Deployments: every entrypoint imports, is a flow, and takes what the deployment gives it."""

import importlib
import inspect
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_entrypoint_is_a_flow_of_that_name(deployment: dict) -> None:
    from prefect import Flow

    file, _, name = deployment["entrypoint"].partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    flow = getattr(module, name)
    assert isinstance(flow, Flow)
    assert flow.name == deployment["name"]
    known = set(inspect.signature(flow.fn).parameters)
    assert set(deployment.get("parameters", {})) <= known
    assert "config" in known


def test_there_is_a_deployment_and_a_verb_for_each_flow() -> None:
    from flows import verbs  # noqa: F401 - registers the verbs
    from flows.cli import app

    # Verbs that only tell or convert need no flow.
    plain = {"config", "version", "models", "export"}
    commands = {c.name for c in app.registered_commands} - plain
    commands |= {
        f"{group.name}-{c.name}"
        for group in app.registered_groups
        for c in group.typer_instance.registered_commands
    }
    assert {d["name"] for d in DEPLOYMENTS} == commands
