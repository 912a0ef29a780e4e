"""Flow `plan`: a dry run. What would be read, what is done already, how many windows, how long."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from components.config import Config
from components.cube.read import list_cubes
from components.grid import tile_starts
from components.inference.plan import planned_windows
from components.inference.run import windows_done
from components.products.base import Product
from components.workspace import Artefact, Workspace, read_artefact
from flows.inference import weights_of
from flows.ingest import checked, grid_of

#: Seconds a unit of work where the workspace has no measurement of its own: two cores, no GPU. The
#: units are those of `flows.tasks.units_of`.
TYPICAL = {
    "cube": 1.0,
    "tiles": 0.04,
    "dataset": 0.04,
    "model": 1.2,
    "detections": 0.25,
    "evaluation": 6.0,
    "inventory": 10.0,
}


@dataclass(frozen=True)
class Step:
    """One line of the plan.

    Parameters
    ----------
    stage : str
        Kind of artefact.
    what : str
        Track and period, or the file.
    state : str
        ``done``, ``to do`` or why it cannot be done.
    amount : str
        How much, in words.
    seconds : float or None
        Expected wall time [s]; None for what is done.
    """

    stage: str
    what: str
    state: str
    amount: str
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Parameters
    ----------
    workspace : Path
        Folder of the region.
    steps : list of Step
        In the order of work.
    seconds : float
        Expected wall time of all that is to do [s].
    basis : str
        What the expectation rests on.
    windows : dict
        Inference windows: ``total``, ``done``.
    """

    workspace: Path
    steps: list[Step]
    seconds: float
    basis: str
    windows: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON form.

        Returns
        -------
        dict
        """
        return {**asdict(self), "workspace": str(self.workspace)}


@flow(name="plan")
def plan(workspace: Path, products: list[Path], config: Config = Config()) -> Plan:
    """Say what `run` or `map` would do, and change nothing.

    Args:
        workspace: Folder of the region; need not exist.
        products: Products that would be read.
        config: All sections.
    """
    ws = Workspace(workspace) if workspace.is_dir() else None
    rates = dict(TYPICAL)
    measured = {s: r for s in TYPICAL if ws is not None and (r := ws.ledger.rate(s)) is not None}
    rates |= measured
    found = checked(products, config.ingest) if products else []
    ingested = {} if ws is None else {c.meta["sha256"]: c for c in list_cubes(ws)}
    steps = [_ingest_step(p, p.sha256() in ingested, rates["cube"]) for p in found]
    grid = grid_of(workspace, found, config.region)
    if grid is not None:
        shape = (int(grid.shape[0]), int(grid.shape[1]))
        maps = _maps(found, ingested)
        if config.dataset.labels is not None:
            steps += _training_steps(workspace, shape, len(maps), config, rates)
        windows = _window_steps(ws, workspace, shape, maps, config, rates["detections"])
        steps += [s for s, _, _ in windows]
        if any(s.state != "done" for s in steps):
            seconds = rates["inventory"] * len(maps)
            steps.append(Step("inventory", "all maps", "to do", f"{len(maps)} maps", seconds))
        counts = {"total": sum(n for _, n, _ in windows), "done": sum(d for _, _, d in windows)}
    else:
        counts = {"total": 0, "done": 0}
    source = "rates of this workspace" if measured else "typical rates of two cores"
    return Plan(workspace, steps, sum(s.seconds or 0.0 for s in steps), source, counts)


def _ingest_step(product: Product, done: bool, rate: float) -> Step:
    height, width = (int(n) for n in product.geobox.shape)
    amount = f"{height} × {width} px"
    what = f"{product.track} {product.period}"
    seconds = None if done else rate * height * width / 1e6
    return Step("cube", what, "done" if done else "to do", amount, seconds)


def _maps(
    products: list[Product], ingested: dict[str, Artefact]
) -> dict[tuple[str, str], Artefact | None]:
    """Every map that would exist: (track, period) → its cube, where it is ingested."""
    maps: dict[tuple[str, str], Artefact | None] = {(p.track, p.period): None for p in products}
    maps |= {(c.meta["track"], c.meta["period"]): c for c in ingested.values()}
    return dict(sorted(maps.items()))


def _training_steps(
    workspace: Path, shape: tuple[int, int], maps: int, config: Config, rates: dict[str, float]
) -> list[Step]:
    tile, train = config.tile, config.train
    per_map = math.prod(len(tile_starts(n, tile.size, tile.stride)) for n in shape)
    tiles = per_map * maps
    n = train.epochs * math.ceil(config.dataset.fractions[0] * tiles / train.batch_size)
    rows = (
        ("tiles", "all maps", f"{tiles} tiles", tiles),
        ("dataset", "all maps", f"{tiles} images", tiles),
        ("model", train.model, f"{n} steps at most", n),
    )
    out = []
    for stage, what, amount, units in rows:
        # An artefact of other inputs counts as done here; when run, its key decides.
        done = read_artefact(workspace / stage) is not None
        seconds = None if done else rates[stage] * units
        out.append(Step(stage, what, "done" if done else "to do", amount, seconds))
    return out


def _window_steps(
    ws: Workspace | None,
    workspace: Path,
    shape: tuple[int, int],
    maps: dict[tuple[str, str], Artefact | None],
    config: Config,
    rate: float,
) -> list[tuple[Step, int, int]]:
    total = len(planned_windows(shape, config.infer))
    trains = config.dataset.labels is not None and config.infer.weights is None
    has_weights = trains and read_artefact(workspace / "model") is not None
    weights = weights_of(workspace, config.infer) if has_weights or not trains else None
    out = []
    for (track, period), cube in maps.items():
        done = 0
        if ws is not None and cube is not None and weights is not None:
            done = windows_done(ws, cube, weights, config.infer)
        todo = total - done
        state = "to do" if todo else "done"
        amount = f"{total} windows" + (f", {done} done" if 0 < done < total else "")
        step = Step("detections", f"{track} {period}", state, amount, rate * todo if todo else None)
        out.append((step, total, done))
    return out
