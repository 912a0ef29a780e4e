"""Torchvision's ImageNet and COCO weights into any form, as far as they fit.

Tensors go over block by block: a residual block is loaded whole or not at all, since a normalisation
without its convolution means nothing. So a ResNet file fills the ResNet stages of a form with ResNeXt
stages, a ResNeXt file the others, and a file of less depth the first blocks of a stage. A deformable
convolution takes the weights of the plain one. What was loaded, what was skipped and why, is reported.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import get_model_weights

from models.build import Detector
from models.weights import WeightsError

#: Torchvision models whose weights fit some form.
HUB_SOURCES: Final = (
    "resnet18", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d",
    "maskrcnn_resnet50_fpn",
)  # fmt: skip

#: Prefix of torchvision's detector → ours.
_DETECTOR: Final = "backbone.body."
_TRUNK: Final = "backbone.trunk."

_STEM: Final = ("backbone.trunk.conv1.", "backbone.trunk.bn1.")
_FIRST: Final = "backbone.trunk.conv1.weight"

#: What is loaded whole or not at all: a residual block; elsewhere the module that holds a tensor.
_BLOCK: Final = re.compile(r"^backbone\.trunk\.layer\d+\.\d+")

#: Channels of a colour image.
_RGB: Final = 3


@dataclass(frozen=True)
class Skipped:
    """A tensor of the file that was not used.

    Parameters
    ----------
    name : str
        Its name in the file.
    reason : str
        Why.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class LoadReport:
    """What came from a file.

    Parameters
    ----------
    source : str
        The file, or the name of torchvision's model.
    loaded : tuple of str
        Tensors of the network that were filled.
    skipped : tuple of Skipped
        Tensors of the file that were not used.
    untouched : tuple of str
        Tensors of the network that keep their initial values.
    inflated : tuple of int
        Input channels of the first convolution in the file and in the network; equal where nothing
        had to be changed; zeros where it was not loaded.
    """

    source: str
    loaded: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    untouched: tuple[str, ...]
    inflated: tuple[int, int]

    def reasons(self) -> dict[str, int]:
        """Number of skipped tensors by reason.

        Returns
        -------
        dict
            Most frequent first.
        """
        return dict(Counter(s.reason for s in self.skipped).most_common())


def load_pretrained(model: Detector, source: str | Path, *, allow_download: bool) -> LoadReport:
    """Fill a network with the weights of another as far as they fit.

    The first convolution takes any number of channels: of N ≠ 3, each gets the mean of the file's
    three, times 3 / N, so that N equal channels give the answer that a grey image gives
    (Carreira & Zisserman 2017, arXiv:1705.07750, section 2.3, inflate along time in the same way).

    Parameters
    ----------
    model : SmallObjectMaskRCNN or ComponentUNet
        Changed in place.
    source : str or Path
        A ``.safetensors`` or torch file (read with ``weights_only``: no code in it is run), or one of
        `HUB_SOURCES`.
    allow_download : bool
        Whether a model of `HUB_SOURCES` that is not in torch's cache may be fetched.

    Returns
    -------
    LoadReport

    Raises
    ------
    WeightsError
        Where the file is missing or unreadable, the weights are not in the cache and may not or cannot
        be fetched, or nothing in them fits the network.
    """
    if str(source) in HUB_SOURCES and not Path(source).exists():
        tensors = _read(_from_hub(str(source), allow_download=allow_download))
    else:
        tensors = _read(Path(source))
    wanted = model.state_dict()
    names = {_our_name(name): name for name in tensors}
    units: dict[str, list[str]] = defaultdict(list)
    for ours in names:
        units[_unit(ours)].append(ours)
    loaded: list[str] = []
    skipped: list[Skipped] = []
    inflated = (0, 0)
    for members in units.values():
        chosen, reasons = _choose(members, names, tensors, wanted)
        skipped += [Skipped(names[ours], reason) for ours, reason in reasons.items()]
        for ours in chosen:
            value = tensors[names[ours]]
            if ours == _FIRST:
                inflated = (value.shape[1], wanted[ours].shape[1])
                value = _inflate(value, wanted[ours].shape[1])
            with torch.no_grad():
                wanted[ours].copy_(value)  # the state dictionary shares the network's memory
            loaded.append(ours)
    if not loaded:
        why = next(iter(Counter(s.reason for s in skipped)), "the file is empty")
        msg = f"nothing in {source} fits this network ({why})"
        raise WeightsError(msg)
    order = {name: i for i, name in enumerate(wanted)}
    return LoadReport(
        str(source),
        tuple(sorted(loaded, key=order.__getitem__)),
        tuple(skipped),
        tuple(name for name in wanted if name not in set(loaded)),
        inflated,
    )


def _our_name(name: str) -> str:
    """Name in our networks of a tensor of torchvision's classifiers and detectors, or of ours."""
    if name.startswith(_DETECTOR):
        return _TRUNK + name.removeprefix(_DETECTOR)
    if re.match(r"(conv1|bn1|layer\d+)\.", name):
        return _TRUNK + name
    # Files from before torchvision 0.14 have one index less here.
    name = re.sub(r"^(backbone\.fpn\.\w+_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
    return re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)


def _unit(name: str) -> str:
    if name.startswith(_STEM):
        return "stem"
    block = _BLOCK.match(name)
    return block.group() if block else name.rpartition(".")[0]


def _choose(
    members: list[str], names: dict[str, str], tensors: dict[str, Tensor], wanted: dict[str, Tensor]
) -> tuple[list[str], dict[str, str]]:
    """Which tensors of a unit are taken, and why the others are not."""
    reasons: dict[str, str] = {}
    misfit = ""
    for ours in members:
        value = tensors[names[ours]]
        if ours not in wanted:
            reasons[ours] = _why_unknown(ours, wanted)
        elif _is_foreign_norm(ours, names, wanted):
            reasons[ours] = "scales of BatchNorm mean nothing to GroupNorm"
        elif not _fits(ours, value, wanted[ours]):
            have, need = tuple(value.shape), tuple(wanted[ours].shape)
            reasons[ours] = f"shape {have}, the network has {need}"
            misfit = misfit or ours.removeprefix(_unit(ours)).removeprefix(".")
    chosen = [ours for ours in members if ours not in reasons]
    if misfit:
        reasons |= dict.fromkeys(chosen, f"its block does not fit ({misfit} is of another shape)")
        chosen = []
    return chosen, reasons


def _fits(ours: str, value: Tensor, wanted: Tensor) -> bool:
    if ours == _FIRST and value.ndim == wanted.ndim:
        same = value.shape[0] == wanted.shape[0] and value.shape[2:] == wanted.shape[2:]
        return same and value.shape[1] in (_RGB, wanted.shape[1])
    return value.shape == wanted.shape


def _is_foreign_norm(ours: str, names: dict[str, str], wanted: dict[str, Tensor]) -> bool:
    mean = ours.rpartition(".")[0] + ".running_mean"
    return mean in names and mean not in wanted


def _why_unknown(ours: str, wanted: dict[str, Tensor]) -> str:
    if ours.startswith("fc."):
        return "classifier of images: no counterpart in a detector"
    unit = _unit(ours)
    if not any(name.startswith(f"{unit}.") for name in wanted) and unit != "stem":
        return "no such module in this form"
    if ours.endswith((".running_mean", ".running_var", ".num_batches_tracked")):
        return "statistics of BatchNorm: this form has another normalisation"
    if ours.endswith(".bias"):
        return "bias: the layer is normalised in this form"
    return "no such tensor in this form"


def _inflate(weight: Tensor, channels: int) -> Tensor:
    if weight.shape[1] == channels:
        return weight
    mean = weight.mean(dim=1, keepdim=True)
    return mean.expand(-1, channels, -1, -1) * (weight.shape[1] / channels)


def _from_hub(name: str, *, allow_download: bool) -> Path:
    """File of torchvision's weights in torch's cache, fetched where that is allowed."""
    entry = get_model_weights(name).DEFAULT
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(entry.url).name
    if path.is_file():
        return path
    if not allow_download:
        msg = (
            f"{path.name} is not in torch's cache ({folder}) and may not be fetched: allow the "
            "download, or give a local file"
        )
        raise WeightsError(msg)
    try:
        torch.hub.load_state_dict_from_url(
            entry.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as e:
        msg = (
            f"{entry.url} cannot be fetched ({e}): put the file into {folder}, or give a local one"
        )
        raise WeightsError(msg) from e
    return path


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        msg = f"no such file: {path}; torchvision's names are {', '.join(HUB_SOURCES)}"
        raise WeightsError(msg)
    content: Any
    if path.suffix == ".safetensors":
        try:
            content = load_file(path)
        except (SafetensorError, OSError) as e:
            msg = f"not a readable safetensors file: {e}"
            raise WeightsError(msg) from e
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as e:  # its reader of foreign bytes raises whatever comes
            msg = f"not a torch file of tensors: {str(e).splitlines()[0] if str(e) else e!r}"
            raise WeightsError(msg) from e
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        msg = "the file holds no dictionary of tensors"
        raise WeightsError(msg)
    return {str(name): value for name, value in content.items()}
