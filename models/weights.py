"""Weights on disk: safetensors and a JSON card, never a pickle.

The card says what the tensors mean: form, input channels, classes, and whatever the trainer adds
(preset, pixel size, metrics, hashes). It carries the sha256 of the tensor file, so that a card beside
the wrong file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.build import Detector, build_model
from models.forms import spec_from_dict

#: The weights that come with the package; their card says how they were trained.
RELEASED: Final = Path(__file__).with_name("released") / "slopewatch-s2.safetensors"

#: Version of the pair of files.
FORMAT: Final = 1

#: Tensors whose names begin with this are not the network's; see `components.inference.verifier`.
VERIFIER: Final = "verifier."

_OTHER_FILE: Final = "the file is not the one that its card describes (checksum differs)"

#: Keys without which a card cannot be used.
REQUIRED: Final = ("format", "form", "spec", "in_channels", "classes", "sha256")


class WeightsError(ValueError):
    """Weights or card cannot be read, or do not belong together."""


def card_path(path: Path) -> Path:
    """Where the card of a weights file lies.

    Parameters
    ----------
    path : Path
        The ``.safetensors`` file.

    Returns
    -------
    Path
        ``card.json`` beside ``weights.safetensors``; otherwise ``<name>.json`` beside
        ``<name>.safetensors``, so that several models can share a folder.
    """
    return path.with_name("card.json") if path.stem == "weights" else path.with_suffix(".json")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def save_weights(
    path: Path,
    model: Detector,
    card: dict[str, Any],
    *,
    dtype: Literal["float32", "float16"] = "float32",
) -> dict[str, Any]:
    """Write weights and card; each file appears whole or not at all, the card last.

    Parameters
    ----------
    path : Path
        The ``.safetensors`` file; its folder must exist.
    model : SmallObjectMaskRCNN or ComponentUNet
        The network; its ``spec`` and ``in_channels`` go into the card.
    card : dict
        JSON-able; must hold ``form`` (a name) and ``classes`` (names without background).
    dtype : {"float32", "float16"}
        Storage of floating-point tensors. float32 is exact; float16 halves the file.

    Returns
    -------
    dict
        The card as written.

    Raises
    ------
    WeightsError
        Where the card lacks a key, the classes do not fit the network, or a value is not finite in
        the chosen storage.
    """
    missing = [k for k in ("form", "classes") if k not in card]
    if missing:
        msg = f"the card lacks {missing}"
        raise WeightsError(msg)
    if len(card["classes"]) + 1 != model.num_classes:
        msg = f"{len(card['classes'])} classes in the card, {model.num_classes - 1} in the network"
        raise WeightsError(msg)
    kind = torch.float16 if dtype == "float16" else torch.float32
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        stored = value.detach().cpu().to(kind) if value.is_floating_point() else value.cpu()
        if stored.is_floating_point() and not bool(torch.isfinite(stored).all()):
            msg = f"`{name}` holds values that are not finite in {dtype}"
            raise WeightsError(msg)
        tensors[name] = stored.contiguous()
    full: dict[str, Any] = {
        **card,
        "format": FORMAT,
        "spec": model.spec.as_dict(),
        "in_channels": model.in_channels,
        "dtype": dtype,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return _write(path, tensors, full)


def add_tensors(
    path: Path, out: Path, prefix: str, tensors: dict[str, Tensor], entries: dict[str, Any]
) -> dict[str, Any]:
    """Write weights again with tensors that are not the network's, and what the card says of them.

    Parameters
    ----------
    path : Path
        The weights, with their card beside them.
    out : Path
        The ``.safetensors`` file to write, which may be the same; its folder must exist.
    prefix : str
        Ends with a dot. Begins the names of these tensors in the file; those of an earlier call give way.
    tensors : dict of str to Tensor
        Finite.
    entries : dict
        For the card, JSON-able; None takes a key out.

    Returns
    -------
    dict
        The card as written.

    Raises
    ------
    WeightsError
        Where weights or card cannot be read, or do not belong together.
    """
    card = read_card(path)
    if file_sha256(path) != card["sha256"]:
        raise WeightsError(_OTHER_FILE)
    kept = {k: v for k, v in _read(path).items() if not k.startswith(prefix)}
    added = {prefix + k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    full = {k: v for k, v in (card | entries).items() if v is not None}
    return _write(out, kept | added, full)


def _write(path: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> dict[str, Any]:
    """Write tensors and card, each whole or not at all, the card last and with the tensors' digest."""
    part = path.with_name(path.name + ".part")
    save_file(tensors, part)
    full = {**card, "sha256": file_sha256(part)}
    part.replace(path)
    beside = card_path(path)
    part = beside.with_name(beside.name + ".part")
    with part.open("w", encoding="utf-8") as f:
        f.write(json.dumps(full, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        f.flush()
        os.fsync(f.fileno())
    part.replace(beside)
    return full


def read_card(path: Path) -> dict[str, Any]:
    """Read and check the card of a weights file, without the weights.

    Parameters
    ----------
    path : Path
        The ``.safetensors`` file.

    Returns
    -------
    dict
        The card.

    Raises
    ------
    WeightsError
        Where the card is missing, not JSON, of another format version or lacks a key.
    """
    beside = card_path(path)
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"no card {beside.name} beside the weights"
        raise WeightsError(msg) from None
    except (OSError, ValueError) as e:
        msg = f"card {beside.name} unreadable: {e}"
        raise WeightsError(msg) from e
    missing = [k for k in REQUIRED if k not in card] if isinstance(card, dict) else list(REQUIRED)
    if missing:
        msg = f"card {beside.name} lacks {missing}"
        raise WeightsError(msg)
    if card["format"] != FORMAT:
        msg = f"card {beside.name} is of format {card['format']}, this program reads {FORMAT}"
        raise WeightsError(msg)
    out: dict[str, Any] = card
    return out


def load_weights(
    path: Path,
    *,
    max_detections: int = 200,
    score_min: float = 0.05,
    proposals: int | None = None,
) -> tuple[Detector, dict[str, Any]]:
    """Rebuild a network from its files.

    Parameters
    ----------
    path : Path
        The ``.safetensors`` file with its card beside it.
    max_detections : int
        Detections an image at most.
    score_min : float
        Detections of lower score are dropped, in [0, 1].
    proposals : int, optional
        Proposals an image instead of the form's.

    Returns
    -------
    model : SmallObjectMaskRCNN or ComponentUNet
        float32, on the CPU, in evaluation mode.
    card : dict
        The card.

    Raises
    ------
    WeightsError
        Where a file is missing, truncated or foreign, the checksum differs, or tensors and form do
        not match.
    """
    if not path.is_file():
        msg = "no such file"
        raise WeightsError(msg)
    card = read_card(path)
    if file_sha256(path) != card["sha256"]:
        raise WeightsError(_OTHER_FILE)
    try:
        spec = spec_from_dict(card["spec"])
        model = build_model(
            spec,
            int(card["in_channels"]),
            len(card["classes"]) + 1,
            max_detections=max_detections,
            score_min=score_min,
            proposals=proposals,
        )
    except (TypeError, ValueError) as e:
        msg = f"the card's specification does not make a network: {e}"
        raise WeightsError(msg) from e
    load_tensors(path, model)
    model.eval()
    return model, card


def load_tensors(path: Path, model: nn.Module) -> None:
    """Load a safetensors file into an existing network; every tensor of the network must fit.

    Parameters
    ----------
    path : Path
        The file.
    model : torch.nn.Module
        Receives the values, converted to its own precision.

    Raises
    ------
    WeightsError
        Where the file is unreadable, or a name or shape differs (the message names the first).
    """
    tensors = {k: v for k, v in _read(path).items() if not k.startswith(VERIFIER)}
    wanted = model.state_dict()
    odd = sorted(wanted.keys() ^ tensors.keys())
    odd += [k for k in wanted if k in tensors and wanted[k].shape != tensors[k].shape]
    if odd:
        msg = f"{len(odd)} tensors do not fit the network, the first is `{odd[0]}`"
        raise WeightsError(msg)
    model.load_state_dict(tensors)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as e:
        msg = f"not a readable safetensors file: {e}"
        raise WeightsError(msg) from e
    return tensors
