"""Weights to start from: which of them fit, which are made anew, and why.

The layers whose shape depends on the number of classes are made anew where that number differs: the
rest of the network is worth as much for other classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from components.errors import ModelError
from models.build import Detector, build_model
from models.pretrained import load_pretrained
from models.weights import WeightsError, file_sha256, read_card

if TYPE_CHECKING:
    from components.config import TrainConfig

#: Fields of a specification that shape no tensor and may differ.
_FREE: Final = frozenset({"proposals", "rpn_samples", "box_samples"})


def start_from(path: Path, model: Detector, form: str, info: dict[str, Any]) -> dict[str, Any]:
    """Load weights into a fresh network.

    Parameters
    ----------
    path : Path
        ``.safetensors`` with its card beside it.
    model : Detector
        Changed in place.
    form : str
        Its form, for messages.
    info : dict
        ``dataset.json``: ``preset`` and ``categories``.

    Returns
    -------
    dict
        For the card: ``sha256``, ``form``, ``classes`` of the weights, number of tensors ``loaded``,
        and names of those ``made_anew`` because the number of classes differs.

    Raises
    ------
    ModelError
        SW-401 where the files are missing, damaged or do not belong together; SW-402 where they are
        of another preset or form.
    """
    card, tensors = _read(path)
    if card.get("preset") != info["preset"]:
        raise ModelError(
            "SW-402",
            f"preset {card.get('preset')!r}, the dataset has {info['preset']!r}",
            path=path,
        )
    theirs, ours = card["spec"], _plain(model.spec.as_dict())
    differ = sorted(
        k for k in theirs.keys() | ours.keys() if k not in _FREE and theirs.get(k) != ours.get(k)
    )
    if differ:
        raise ModelError(
            "SW-402",
            f"form {card['form']!r}, train.model is {form!r}; they differ in {', '.join(differ)}",
            path=path,
            remedy=f"Set train.model to {card['form']}, or start from other weights.",
        )
    anew = _class_tensors(model) if len(card["classes"]) + 1 != model.num_classes else set()
    wanted = model.state_dict()
    odd = sorted(
        name
        for name in wanted.keys() | tensors.keys()
        if name not in anew
        and (name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape)
    )
    if odd:
        raise ModelError(
            "SW-402",
            f"{len(odd)} tensors do not fit the network, the first is `{odd[0]}`",
            path=path,
        )
    kept = {name: value for name, value in tensors.items() if name not in anew}
    model.load_state_dict(kept, strict=False)
    return {
        "sha256": card["sha256"],
        "form": card["form"],
        "classes": list(card["classes"]),
        "loaded": len(kept),
        "made_anew": sorted(anew),
    }


def start_from_torchvision(cfg: TrainConfig, model: Detector) -> dict[str, Any]:
    """Load torchvision's ImageNet or COCO weights as far as they fit.

    Parameters
    ----------
    cfg : TrainConfig
        ``pretrained`` (a name or a file) and ``allow_download``.
    model : SmallObjectMaskRCNN or ComponentUNet
        Changed in place.

    Returns
    -------
    dict
        For the card: ``source``, numbers of tensors ``loaded`` and ``untouched``, ``skipped`` by reason,
        and ``inflated``: input channels of the first convolution in the file and in the network.

    Raises
    ------
    ModelError
        SW-401 where the weights are missing, may not be fetched, or do not fit at all.
    """
    source = str(cfg.pretrained)
    try:
        report = load_pretrained(model, source, allow_download=cfg.allow_download)
    except WeightsError as e:
        raise ModelError(
            "SW-401",
            str(e),
            remedy="Give a local file as train.pretrained, or set train.allow_download.",
        ) from e
    return {
        "source": Path(report.source).name,
        "loaded": len(report.loaded),
        "untouched": len(report.untouched),
        "skipped": report.reasons(),
        "inflated": list(report.inflated),
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        card = read_card(path)
        if not path.is_file():
            msg = "no such file"
            raise WeightsError(msg)
        if file_sha256(path) != card["sha256"]:
            msg = "the file is not the one that its card describes (checksum differs)"
            raise WeightsError(msg)
        return card, load_file(path)
    except (WeightsError, SafetensorError, OSError) as e:
        raise ModelError("SW-401", str(e), path=path) from e


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _class_tensors(model: Detector) -> set[str]:
    """Tensors whose shape depends on the number of classes, found by building one with one more."""
    with torch.device("meta"):
        other = build_model(model.spec, model.in_channels, model.num_classes + 1).state_dict()
    return {k for k, v in model.state_dict().items() if other[k].shape != v.shape}
