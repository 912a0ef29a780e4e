"""The table of network forms, with what they cost."""

from __future__ import annotations

from dataclasses import dataclass

from models.flops import count
from models.forms import FORMS, ModelSpec, Spec, least_channels


@dataclass(frozen=True)
class FormRow:
    """One form.

    Parameters
    ----------
    form : str
        Its name.
    trunk : str
        Blocks in each stage × their base widths; bottlenecks with b. For a U-Net, its widths.
    stages : tuple of str
        Kind of each stage: R ResNet, X ResNeXt; +D1, +D2 with deformable convolution v1, v2.
    attention : tuple of str
        On the pyramid level of each stage.
    strides : tuple of int
        Of the levels that propose, finest first [px].
    anchors : tuple of float
        Smallest and largest anchor side [px]; empty without anchors.
    channels : int
        Of the image with which it was counted.
    parameters : int
        Learned numbers.
    image_gflops, box_gflops, mask_gflops : float
        10⁹ operations an image, for all its proposals, and for one detection.
    """

    form: str
    trunk: str
    stages: tuple[str, ...]
    attention: tuple[str, ...]
    strides: tuple[int, ...]
    anchors: tuple[float, ...]
    channels: int
    parameters: int
    image_gflops: float
    box_gflops: float
    mask_gflops: float


@dataclass(frozen=True)
class FormTable:
    """All forms at one input.

    Parameters
    ----------
    channels, size : int
        Of the image [px].
    convention : str
        What is counted.
    rows : tuple of FormRow
        One a form.
    """

    channels: int
    size: int
    convention: str
    rows: tuple[FormRow, ...]


def list_forms(channels: int, size: int) -> FormTable:
    """Describe and count all forms, for one class.

    Parameters
    ----------
    channels : int
        Channels of the image; a form that needs more is counted with as many as it needs.
    size : int
        Side of the image [px].

    Returns
    -------
    FormTable
    """
    convention = (
        "one multiply-add is 2 FLOPs; convolutions, matrix products and attention; "
        "boxes: all proposals of an image; mask: one detection"
    )
    rows = tuple(_row(name, spec, channels, size) for name, spec in FORMS.items())
    return FormTable(channels, size, convention, rows)


def _row(name: str, spec: Spec, channels: int, size: int) -> FormRow:
    channels = max(channels, least_channels(spec))
    cost = count(spec, channels, 2, size)
    gflops = [f / 1e9 for f in (cost.image_flops, cost.box_flops, cost.mask_flops)]
    if isinstance(spec, ModelSpec):
        sides = [side for level in spec.anchor_sizes for side in level]
        kinds = zip(spec.groups, spec.deform, strict=True)
        levels = len(spec.depths) + spec.extra_level
        return FormRow(
            name,
            f"{'-'.join(map(str, spec.depths))} × {spec.widths[0]}–{spec.widths[-1]}"
            + (" b" if spec.block == "bottleneck" else ""),
            tuple(
                ("X" if groups > 1 else "R") + ("" if deform == "none" else f"+D{deform[-1]}")
                for groups, deform in kinds
            ),
            spec.attention,
            tuple(spec.finest_stride * 2**i for i in range(levels)),
            (min(sides), max(sides)),
            channels,
            cost.parameters,
            *gflops,
        )
    strides = tuple(2**i for i in range(len(spec.widths)))
    trunk = "-".join(map(str, spec.widths))
    return FormRow(name, trunk, (), (), strides, (), channels, cost.parameters, *gflops)
