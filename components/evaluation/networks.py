"""Experiments on networks: which there are, what they will cost, and the ones a bare machine can run.

``python -m components.evaluation.networks`` needs neither rasters nor Prefect: it runs the experiments on
simulated tiles, and trains weights for a release, where there is only PyTorch. The verb
``slopewatch benchmark networks`` runs all of them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.config_file import load_config, parse_overrides
from components.errors import InputError, SlopewatchError
from components.evaluation import compare
from components.evaluation.compare import Outcome, Setting
from components.evaluation.frontier import frontier
from components.evaluation.trainings import Work, done_trainings, epochs_of, is_done
from components.progress import Progress
from components.training import loop

#: All experiments, in the order in which they are run.
EXPERIMENTS: Final = (
    "five-rows",
    "baselines",
    "schedules",
    "small-sample",
    "pretraining",
    "frontier",
)

#: Those that need weights, and those that need regions.
NEED_WEIGHTS: Final = frozenset({"pretraining", "frontier"})
NEED_REGIONS: Final = frozenset({"small-sample", "pretraining"})

#: Seconds of training a megapixel of tiles on one core at 2.5 GHz in bfloat16, batches of 6 tiles of 192 px,
#: a second core simulating; a sixth more than the steps alone, for validation.
TYPICAL: Final[Mapping[str, float]] = {
    "baseline-small": 6.7,
    "resnext-small": 6.7,
    "resnext-dcb-small": 9.1,
    "resnext-dcb-cbam-small": 9.2,
    "resnext-dcb-sa-small": 9.8,
    "plain-small": 4.7,
    "unet": 2.8,
}

_SCENES: Final[Mapping[str, Callable[[Setting], list[list[Work]]]]] = {
    "five-rows": compare.five_rows_work,
    "baselines": compare.baselines_work,
    "schedules": compare.schedules_work,
}

_RUN: Final[Mapping[str, Callable[[Setting, Progress], Outcome]]] = {
    "five-rows": compare.five_rows,
    "baselines": compare.baselines,
    "schedules": compare.schedules,
}


@dataclass(frozen=True)
class Planned:
    """What a form costs in an experiment.

    Parameters
    ----------
    experiment, form : str
        Names.
    trainings, done : int
        Wanted, and of them there.
    steps : int
        Of each.
    seconds : float or None
        Expected for those that are not there; None where nobody has measured the form.
    """

    experiment: str
    form: str
    trainings: int
    done: int
    steps: int
    seconds: float | None


def check(only: Sequence[str], weights: Mapping[str, Path], s: Setting) -> tuple[str, ...]:
    """Experiments to run, looked at before anything heavy begins.

    Parameters
    ----------
    only : sequence of str
        Wanted; empty for all that the weights at hand allow.
    weights : mapping of str to Path
        Weights at hand.
    s : Setting
        Of the run.

    Returns
    -------
    tuple of str
        In the order in which they are run.

    Raises
    ------
    InputError
        SW-701 for an unknown experiment, or one that needs weights where none are given.
    ModelError
        SW-401 for unusable weights; SW-406 for an unknown form.
    """
    if strange := sorted(set(only) - set(EXPERIMENTS)):
        raise InputError(
            "SW-701", f"no experiment {strange[0]!r}; there are {', '.join(EXPERIMENTS)}"
        )
    asked = only or [e for e in EXPERIMENTS if weights or e not in NEED_WEIGHTS]
    for name in asked:
        if name in NEED_WEIGHTS and not weights:
            raise InputError(
                "SW-701", f"`{name}` needs weights", remedy="Give --weights NAME=FILE."
            )
        for row in _SCENES[name](s)[0] if name in _SCENES else []:
            loop.check_form(row.train.model)
    loop.check_form(s.config.train.model)
    for path in weights.values():
        compare.card_of(path)
    return tuple(e for e in EXPERIMENTS if e in asked)


def plan(names: Sequence[str], s: Setting, weights: Mapping[str, Path]) -> list[Planned]:
    """What will be trained, and how long it should take.

    Parameters
    ----------
    names : sequence of str
        Of `check`.
    s : Setting
        Of the run.
    weights : mapping of str to Path
        Weights at hand.

    Returns
    -------
    list of Planned
        One an experiment and form. Times come from trainings in this workspace where there are such, else
        from two cores. A training that two experiments share is counted in the first.
    """
    rates = {} if s.config.train.device == "cuda" else dict(TYPICAL)
    known: dict[str, list[tuple[float, float]]] = {}
    for done in done_trainings(s.root):
        known.setdefault(done["form"], []).append((done["seconds"], done["pixels"] / 1e6))
    for form, pairs in known.items():
        rates[form] = sum(t for t, _ in pairs) / max(sum(p for _, p in pairs), 1e-9)
    batch = s.config.train.batch_size
    seen: set[str] = set()
    out: dict[tuple[str, str], Planned] = {}

    def add(name: str, form: str, side: int, *, done: bool) -> None:
        epochs, length = epochs_of(s.steps, s.config.experiments.epoch_steps)
        steps = epochs * length
        cost = 0.0 if done else None
        if not done and form in rates:
            cost = rates[form] * steps * batch * side**2 / 1e6
        old = out.get((name, form), Planned(name, form, 0, 0, steps, 0.0))
        seconds = None if cost is None or old.seconds is None else old.seconds + cost
        out[(name, form)] = Planned(name, form, old.trainings + 1, old.done + done, steps, seconds)

    for name in names:
        for work in (w for seed in _SCENES[name](s) for w in seed) if name in _SCENES else ():
            there = work.key in seen or is_done(work, s.root)
            seen.add(work.key)
            add(name, work.train.model, work.side, done=there)
        if name in NEED_REGIONS:
            form = s.config.train.model
            if name == "pretraining":
                form = compare.card_of(next(iter(weights.values())))["form"]
            for _ in range(2 * s.seeds):
                add(name, form, s.config.train.crop or s.config.tile.size, done=False)
    return list(out.values())


def plan_lines(planned: Sequence[Planned]) -> list[list[str]]:
    """Cells of the plan for people.

    Parameters
    ----------
    planned : sequence of Planned
        Of `plan`.

    Returns
    -------
    list of list of str
        Experiment, form, trainings, done, steps, expected time; the last line is the sum.
    """
    lines = [
        [p.experiment, p.form, str(p.trainings), str(p.done), f"{p.steps:,}", _time(p.seconds)]
        for p in planned
    ]
    known = [p.seconds for p in planned if p.seconds is not None]
    total = _time(sum(known)) + ("" if len(known) == len(planned) else " and more")
    return [*lines, ["all", "", str(sum(p.trainings for p in planned)), "", "", total]]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def run_on_scenes(
    name: str, s: Setting, weights: Mapping[str, Path], progress: Progress
) -> Outcome:
    """Run an experiment that needs no region.

    Parameters
    ----------
    name : str
        Of `EXPERIMENTS`, not of `NEED_REGIONS`.
    s : Setting
        Of the run.
    weights : mapping of str to Path
        For the frontier.
    progress : Progress
        Told of steps, validations and tests.

    Returns
    -------
    Outcome
    """
    if name == "frontier":
        return frontier(s, list(weights.items()), progress)
    return _RUN[name](s, progress)


class _Log:
    """A line on standard error now and then."""

    def __init__(self, every_s: float = 20.0) -> None:
        self._every = every_s
        self._last = 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._last >= self._every:
            self._last = now
            sys.stderr.write(f"{step} {done}/{total}\n")
            sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run experiments on simulated tiles, or train weights for a release.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command line; empty: that of the process.

    Returns
    -------
    int
        0 on success, 1 after a coded error.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m components.evaluation.networks", description=main.__doc__
    )
    scenes = [e for e in EXPERIMENTS if e not in NEED_REGIONS]
    parser.add_argument("--only", action="append", choices=scenes, default=[])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--out", type=Path, help="folder of the JSON files")
    parser.add_argument("--release", type=Path, help="train weights into this folder instead")
    parser.add_argument("--plan", action="store_true", help="say what would be run, and end")
    a = parser.parse_args(given)
    try:
        config = load_config(a.config, parse_overrides(a.set))
        command = shlex.join(["python", "-m", "components.evaluation.networks", *given])
        s = Setting(config, a.steps, a.seeds, a.work, a.out or a.work / "experiments", command)
        if a.release is not None:
            _release(s, a.release)
            return 0
        weights = named_weights(a.weights)
        names = check(a.only or [e for e in scenes if weights or e not in NEED_WEIGHTS], weights, s)
        for line in plan_lines(plan(names, s, weights)):
            sys.stderr.write("  ".join(c.rjust(18) for c in line) + "\n")
        for name in () if a.plan else names:
            outcome = run_on_scenes(name, s, weights, _Log())
            sys.stdout.write(
                f"{outcome.path}: {outcome.trained} trained, {outcome.reused} reused\n"
            )
            sys.stdout.flush()
    except SlopewatchError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    return 0


def _release(s: Setting, folder: Path) -> None:
    """Train the configured form for a number of steps; a killed call goes on."""
    work = compare.scene_work(s, s.config.train.seed, "release", {})
    if work.scenes is None:
        return
    made = loop.pretrain(folder, folder / "work", work.train, work.scenes, _Log())
    sys.stdout.write(f"{made.weights}: {made.steps} steps, {made.metrics}\n")


def named_weights(items: Sequence[str]) -> dict[str, Path]:
    """``NAME=FILE`` options by name.

    Parameters
    ----------
    items : sequence of str
        As given.

    Returns
    -------
    dict of str to Path
        Absolute.

    Raises
    ------
    InputError
        SW-701 for another form, or a name that comes twice.
    """
    out: dict[str, Path] = {}
    for item in items:
        name, separator, path = item.partition("=")
        if not separator or not name or name in out:
            raise InputError(
                "SW-701", f"`--weights {item}` is not NAME=FILE with a name of its own"
            )
        out[name] = Path(path).resolve()
    return out


if __name__ == "__main__":
    sys.exit(main())
