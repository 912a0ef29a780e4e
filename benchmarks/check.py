"""Benchmarks in one go, their ratios checked against recorded bounds: ``make bench`` and ``make bench-all``.

Ratios of figures of one run hold on any machine; seconds do not. ``bounds.json`` says of each what it is,
which way is better, what is recorded, and by what share it may be worse. The exit code is 1 where one is
worse than that, or could not be measured although it was asked for.

    python benchmarks/check.py --weights model.safetensors
    python benchmarks/check.py --weights model.safetensors --sahi sahi-env/bin/python --all
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent

#: Set → benchmark → arguments. The quick ones take some ten minutes on two free cores.
RUNS: Final[dict[str, dict[str, list[str]]]] = {
    "quick": {
        "bench_growth": ["--base", "1024", "--sides", "1024", "2048"],
        # At 1,024 px one landslide would be 0.017 of F1 (59 of them): more than the bound leaves.
        "bench_seams": ["--base", "1536", "--windows", "256", "512", "--overlaps", "0.2"],
        "bench_sahi": ["--base", "1024", "--side", "1024"],
    },
    "all": {
        "bench_growth": ["--sides", "2048", "8192", "32768", "--every", "2"],
        "bench_seams": [
            "--base",
            "1536",
            "--windows",
            "256",
            "512",
            "--overlaps",
            "0.2",
            "0.33",
            "0.5",
        ],
        "bench_sahi": ["--base", "2048", "--side", "8192"],
    },
}


def limit(bound: dict[str, Any]) -> float:
    """The worst value that passes."""
    share = 1 - bound["tolerance"] if bound["better"] == "higher" else 1 + bound["tolerance"]
    return float(bound["recorded"] * share)


def passes(bound: dict[str, Any], value: float) -> bool:
    """Whether a measured ratio is no worse than its bound; NaN is worse."""
    return value >= limit(bound) if bound["better"] == "higher" else value <= limit(bound)


def verdicts(
    bounds: dict[str, dict[str, Any]], ratios: dict[str, float], benchmarks: set[str]
) -> tuple[list[str], bool]:
    """A line for each bound of the benchmarks that were run, and whether all pass."""
    lines, fine = [], True
    for name, bound in bounds.items():
        if bound["benchmark"] not in benchmarks:
            lines.append(f"{name:>22} left out")
            continue
        value = ratios.get(name, float("nan"))
        good = passes(bound, value)
        fine &= good
        sign = ">=" if bound["better"] == "higher" else "<="
        lines.append(
            f"{name:>22} {value:8.3f}  {sign} {limit(bound):.3f}  "
            f"(recorded {bound['recorded']:g})  {'pass' if good else 'WORSE'}"
        )
    return lines, fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--sahi", help="python of an environment with SAHI 0.12; else left out")
    parser.add_argument("--all", action="store_true", help="the long runs")
    parser.add_argument("--keep", type=Path, help="folder for the maps, used again by a next run")
    args = parser.parse_args()
    chosen = "all" if args.all else "quick"
    ratios: dict[str, float] = {}
    done = set()
    with tempfile.TemporaryDirectory(prefix="slopewatch-") as scratch:
        keep = args.keep or Path(scratch)
        for name, options in RUNS[chosen].items():
            extra = ["--weights", str(args.weights), "--keep", str(keep)]
            if name == "bench_sahi":
                if not args.sahi:
                    continue
                extra += ["--sahi", args.sahi]
            out = Path(scratch) / f"{name}.json"
            print(f"== {name} {' '.join(options)}", flush=True)
            command = [sys.executable, str(HERE / f"{name}.py"), *options, *extra]
            subprocess.run([*command, "--json", str(out)], check=False)
            done.add(name)
            if out.exists():
                ratios |= json.loads(out.read_text())["ratios"]
    bounds = json.loads((HERE / "bounds.json").read_text())[chosen]
    lines, fine = verdicts(bounds, ratios, done)
    print("\n".join(lines))
    if not fine:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
