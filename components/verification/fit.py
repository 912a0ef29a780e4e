"""Fitting the verifier on candidates, and writing it into the weights it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from components.errors import ModelError, ProcessingError
from components.inference.predict import read_card
from components.inference.traits import TRAITS
from components.inference.verifier import ALGORITHM as VERIFIER_ALGORITHM
from components.inference.verifier import CARD_KEY, Verifier, prepared, to_tensors
from components.progress import Progress, no_progress
from components.provenance import digest
from components.simulation.reserved import refuse_reserved
from components.training.selection import Matches, best_operating_point
from components.verification.candidates import ALGORITHM as CANDIDATES_ALGORITHM
from components.verification.candidates import collect
from components.workspace import coded_os_errors
from models.weights import VERIFIER, WeightsError, add_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.config import VerifierConfig

#: Raised when the same candidates give another verifier.
ALGORITHM: Final = "fit-1"

#: One scene in so many is left out of the fit, and tells what the second look is worth.
_HELD_OUT: Final = 5

#: Recalls at which false alarms are compared.
_RECALLS: Final = (0.8, 0.9, 0.95)

#: Candidates of each kind without which there is nothing to fit.
_LEAST: Final = 50

_MEMBERS: Final = 3
_HIDDEN: Final = (64, 32)
_DROPOUT: Final = 0.1
_BATCH: Final = 256
_EPOCHS: Final = 60
_RATE: Final = 4e-3
_DECAY: Final = 1e-3


@dataclass(frozen=True)
class VerifierResult:
    """What fitting made.

    Parameters
    ----------
    weights : Path
        Network and verifier, with their card.
    facts : dict
        What the card says of it, less the names of the traits.
    """

    weights: Path
    facts: dict[str, Any]


def fit_verifier(
    weights: Path, out: Path, cfg: VerifierConfig, progress: Progress = no_progress
) -> VerifierResult:
    """Fit the verifier of weights on simulated scenes and write both into one file.

    Calibration and operating threshold of the card belonged to other scores: the one is taken out, the other
    becomes that of the best F1 on the scenes that were left out.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file with its card beside it.
    out : Path
        Folder for the new pair of files, of the same names, and for ``work/``; not that of `weights`.
    cfg : VerifierConfig
        Scenes, seed, processes.
    progress : Progress
        Steps ``candidates`` (scenes) and ``fit`` (perceptrons).

    Returns
    -------
    VerifierResult

    Raises
    ------
    InputError
        SW-308 for a seed that belongs to benchmarks.
    ModelError
        SW-401 for unusable weights or an `out` that holds them.
    ProcessingError
        SW-506 out of memory, SW-509 where too few candidates were found.
    WorkspaceError
        SW-201, SW-202 from writing.
    """
    refuse_reserved(cfg.seed, "`verifier.seed`")
    card = read_card(weights)
    target = out / weights.name
    if target.resolve() == weights.resolve():
        raise ModelError("SW-401", "the weights would overwrite themselves", path=weights)
    settings = cfg.model_dump(mode="json", exclude={"workers"})
    key = digest(CANDIDATES_ALGORITHM, card["sha256"], settings)
    found = collect(weights, cfg, out / "work" / key[:12], progress)
    held = found.scenes % _HELD_OUT == _HELD_OUT - 1
    for part, name in ((~held, "fitted on"), (held, "left out")):
        if min(found.hits[part].sum(), (~found.hits[part]).sum()) < _LEAST:
            raise ProcessingError(
                "SW-509",
                f"{int(found.hits[part].sum())} landslides and {int((~found.hits[part]).sum())} false "
                f"alarms among the detections {name}; {_LEAST} of each are needed",
                path=weights,
            )
    verifier = fit(found.values[~held], found.hits[~held], cfg.seed, progress)
    looked = verifier.probabilities(found.values[held])
    facts = {
        "algorithm": VERIFIER_ALGORITHM,
        "fitted": {"algorithm": ALGORITHM, "candidates": CANDIDATES_ALGORITHM, **settings},
        "n": {
            "landslides": int(found.hits.sum()),
            "false_alarms": int((~found.hits).sum()),
            "ignored": found.ignored,
        },
        "held_out": {
            "landslides": int(found.hits[held].sum()),
            "false_alarms_at_recall": {
                f"{recall:g}": {
                    "network": _alarms(found.scores[held], found.hits[held], recall),
                    "verifier": _alarms(looked, found.hits[held], recall),
                }
                for recall in _RECALLS
            },
        },
    }
    at = Matches(looked, found.hits[held], int(found.hits[held].sum()))
    entries = {
        CARD_KEY: {**facts, "traits": list(TRAITS)},
        "calibration": None,
        "score_threshold": best_operating_point(at).score_threshold,
    }
    tensors = to_tensors(verifier)
    try:
        with coded_os_errors(target):
            add_tensors(
                weights,
                target,
                VERIFIER,
                {n: torch.from_numpy(t.astype(np.float32)) for n, t in tensors.items()},
                entries,
            )
    except WeightsError as e:
        raise ModelError("SW-401", str(e), path=weights) from e
    return VerifierResult(target, facts)


def fit(
    values: NDArray[np.float64],
    hits: NDArray[np.bool_],
    seed: int,
    progress: Progress = no_progress,
) -> Verifier:
    """Fit a verifier: cross-entropy, AdamW, one rise and fall of the learning rate.

    Parameters
    ----------
    values : ndarray of float64, shape (n, T)
        Traits; NaN where unknown.
    hits : ndarray of bool, shape (n,)
        What is a landslide.
    seed : int
        Of first weights, batches and dropout; the same gives the same verifier on the same machine.
    progress : Progress
        Step ``fit``, in perceptrons.

    Returns
    -------
    Verifier
        Weights in whole float32 numbers.
    """
    some = np.isfinite(values).any(axis=0)
    centre, scale = np.zeros(values.shape[1]), np.ones(values.shape[1])
    centre[some] = np.nanmedian(values[:, some], axis=0)
    scale[some] = np.maximum(np.nanstd(values[:, some], axis=0), 1e-3)
    centre, scale = (a.astype(np.float32).astype(np.float64) for a in (centre, scale))
    x = torch.from_numpy(prepared(values, centre, scale).astype(np.float32))
    y = torch.from_numpy(hits.astype(np.float32))
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)  # sums in one order, whatever the machine's cores
        nets = []
        for member in range(_MEMBERS):
            progress("fit", member, _MEMBERS)
            nets.append(_train(x, y))
        progress("fit", _MEMBERS, _MEMBERS)
        torch.set_num_threads(threads)
    members = tuple(
        tuple(
            (_numbers(layer.weight), _numbers(layer.bias))
            for layer in net
            if isinstance(layer, nn.Linear)
        )
        for net in nets
    )
    return Verifier(centre, scale, members)


def _numbers(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().numpy().astype(np.float64)


def _train(x: torch.Tensor, y: torch.Tensor) -> nn.Sequential:
    modules: list[nn.Module] = []
    width = x.shape[1]
    for hidden in _HIDDEN:
        modules += [nn.Linear(width, hidden), nn.SiLU(), nn.Dropout(_DROPOUT)]
        width = hidden
    net = nn.Sequential(*modules, nn.Linear(width, 1))
    optimiser = torch.optim.AdamW(net.parameters(), _RATE, weight_decay=_DECAY)
    batches = -(-len(x) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=_EPOCHS * batches)
    for _ in range(_EPOCHS):
        for chosen in torch.split(torch.randperm(len(x)), _BATCH):
            loss = nn.functional.binary_cross_entropy_with_logits(net(x[chosen])[:, 0], y[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return net.eval()


def _alarms(scores: NDArray[np.float64], hits: NDArray[np.bool_], recall: float) -> int:
    """False alarms from the threshold on at which the given share of the hits is kept."""
    ordered = np.sort(scores[hits])[::-1]
    threshold = ordered[max(int(np.ceil(recall * len(ordered))) - 1, 0)]
    return int((scores[~hits] >= threshold).sum())
