"""ONNX export, for users without torch.

One graph for one window size and a batch of one. For Mask R-CNN the graph holds everything up to the
detections, suppression included; for a U-Net it gives the probability map, since cutting it into
components is a loop of unknown length that ONNX's exporter cannot trace.

The exporter is torch's older one, which traces: torchvision's suppression has sizes that depend on the
data, which the newer one (torch.export) refuses.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.build import Detector
from models.unet import ComponentUNet

#: Operator set: the last that torch's tracing exporter writes.
OPSET: Final = 20

_DEFORM: Final = "torchvision::deform_conv2d"

#: First operator set with DeformConv.
_DEFORM_OPSET: Final = 19

#: Outputs of a graph by kind of network.
OUTPUTS: Final = {
    "mask-rcnn": ("boxes", "labels", "scores", "masks"),
    "unet": ("probability",),
}


class OnnxError(RuntimeError):
    """The graph cannot be made or written."""


class _Plain(nn.Module):
    """A network as ONNX sees it: one tensor in, a tuple of tensors out."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.model, ComponentUNet):
            batch, _ = self.model.transform(image, None)
            height, width = image.shape[-2:]
            return (self.model.segment(batch.tensors)[0, :, :height, :width].sigmoid(),)
        found = self.model(image)[0]
        return found["boxes"], found["labels"], found["scores"], found["masks"][:, 0]


def export_onnx(model: Detector, path: Path, card: dict[str, Any], size: int) -> tuple[str, ...]:
    """Write a network as an ONNX graph; the file appears whole or not at all.

    Parameters
    ----------
    model : SmallObjectMaskRCNN or ComponentUNet
        The network; put into evaluation mode and onto the CPU.
    path : Path
        The ``.onnx`` file; its folder must exist.
    card : dict
        Card of the weights; goes into the graph's metadata as JSON under ``card``.
    size : int
        Side of the window [px].

    Returns
    -------
    tuple of str
        Outputs of the graph. Its input is ``image``, float32 [1, C, size, size], normalised. For Mask
        R-CNN: ``boxes`` float32 [n, 4] (x1, y1, x2, y2 in pixel edges), ``labels`` int64 [n],
        ``scores`` float32 [n] and ``masks`` float32 [n, M, M], as `models.build.Detections`. For
        U-Net: ``probability`` float32 [classes, size, size].

    Raises
    ------
    OnnxError
        Where the package onnx is missing, or the exporter refuses the network.
    """
    try:
        import onnx
    except ImportError as e:
        msg = "the package `onnx` is not installed (pip install 'slopewatch[onnx]')"
        raise OnnxError(msg) from e
    outputs = OUTPUTS[model.spec.network]
    plain = _Plain(model.cpu()).eval()
    # Noise, so that there is something to detect: suppression of nothing would be traced as nothing.
    generator = torch.Generator().manual_seed(0)
    example = torch.randn((1, model.in_channels, size, size), generator=generator)
    part = path.with_name(path.name + ".part")
    dynamic = {name: {0: "detections"} for name in outputs if name != "probability"}
    try:
        with _deformable_symbolic(), _quiet(), torch.no_grad():
            torch.onnx.export(
                plain,
                (example,),
                str(part),
                dynamo=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=list(outputs),
                dynamic_axes=dynamic,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as e:
        part.unlink(missing_ok=True)
        msg = f"torch's exporter refuses the network: {str(e).splitlines()[0]}"
        raise OnnxError(msg) from e
    graph = onnx.load(str(part))
    meta = graph.metadata_props.add()
    meta.key, meta.value = "card", json.dumps(card, sort_keys=True, ensure_ascii=False)
    part.write_bytes(graph.SerializeToString(deterministic=True))
    part.replace(path)
    return outputs


@contextmanager
def _deformable_symbolic() -> Iterator[None]:
    """Teach the exporter torchvision's deformable convolution: ONNX's DeformConv is the same."""
    register: Any = torch.onnx  # its stubs leave out what its documentation offers
    helper = torch.onnx.symbolic_helper

    @helper.parse_args(*("v",) * 5, *("i",) * 8, "b")
    def symbolic(
        g: Any, x: Any, weight: Any, offset: Any, mask: Any, bias: Any,
        stride_h: int, stride_w: int, pad_h: int, pad_w: int, dilation_h: int, dilation_w: int,
        groups: int, offset_groups: int, use_mask: bool,
    ) -> Any:  # fmt: skip
        inputs = [x, weight, offset, bias, *([mask] if use_mask else [])]
        return g.op(
            "DeformConv",
            *inputs,
            dilations_i=[dilation_h, dilation_w],
            group_i=groups,
            kernel_shape_i=helper._get_tensor_sizes(weight)[2:],
            offset_group_i=offset_groups,
            pads_i=[pad_h, pad_w, pad_h, pad_w],
            strides_i=[stride_h, stride_w],
        )

    register.register_custom_op_symbolic(_DEFORM, symbolic, _DEFORM_OPSET)
    try:
        yield
    finally:
        register.unregister_custom_op_symbolic(_DEFORM, _DEFORM_OPSET)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice away: tracing fixes the window's size, which is what is wanted."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
