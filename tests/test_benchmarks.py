"""The regression check of the benchmarks' ratios."""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", FOLDER / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bound(better: str, recorded: float = 2.0) -> dict[str, object]:
    return {"benchmark": "b", "better": better, "recorded": recorded, "tolerance": 0.1}


@pytest.mark.parametrize(
    ("better", "value", "good"),
    [
        ("higher", 1.81, True),
        ("higher", 1.79, False),
        ("higher", 9.0, True),
        ("lower", 2.19, True),
        ("lower", 2.21, False),
        ("lower", 0.1, True),
        ("higher", math.nan, False),
        ("lower", math.nan, False),
    ],
)
def test_a_ratio_passes_up_to_its_tolerance(
    check: ModuleType, better: str, value: float, good: bool
) -> None:
    assert check.passes(bound(better), value) is good


def test_a_ratio_that_is_missing_fails_and_one_not_asked_for_is_named(check: ModuleType) -> None:
    lines, fine = check.verdicts({"r": bound("higher")}, {}, {"b"})
    assert not fine
    assert "WORSE" in lines[0]
    lines, fine = check.verdicts({"r": bound("higher")}, {}, set())
    assert fine
    assert "left out" in lines[0]


def test_every_recorded_bound_can_be_checked(check: ModuleType) -> None:
    recorded = json.loads((FOLDER / "bounds.json").read_text())
    assert set(recorded) == set(check.RUNS)
    for chosen, bounds in recorded.items():
        for name, b in bounds.items():
            assert b["benchmark"] in check.RUNS[chosen]
            source = (FOLDER / f"{b['benchmark']}.py").read_text()
            assert f'"{name}"' in source
            assert b["better"] in {"higher", "lower"}
            assert b["tolerance"] >= 0
            assert b["definition"]
