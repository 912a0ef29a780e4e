"""Verbs that make, list and convert networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import show
from flows.cli import verb
from flows.options import Given, WindowOption, WorkspaceOption


@verb("train", show.artefacts)
def train(given: Given, workspace: WorkspaceOption) -> object:
    """Train a network on the dataset; a killed run goes on from its last checkpoint.

    Example: slopewatch train --workspace jinsha --set train.model=resnet18-s2
    """
    cfg = given.config()
    from flows.training import train as flow

    return flow(workspace.resolve(), cfg)


@verb("pretrain", show.training)
def pretrain(
    given: Given,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for weights and checkpoints.")],
) -> object:
    """Train on endless simulated tiles, without any data; a killed run goes on.

    Example: slopewatch pretrain --out model --set train.model=slopewatch-s2 --set train.epochs=24
    """
    cfg = given.config()
    from components.simulation.reserved import refuse_reserved
    from components.training.loop import check_form
    from flows.training import pretrain as flow

    check_form(cfg.train.model)  # before Prefect's server starts
    refuse_reserved(cfg.pretrain.seed, "`pretrain.seed`")
    return flow(out.resolve(), cfg)


@verb("verifier", show.verifier)
def verifier(
    given: Given,
    weights: Annotated[Path, typer.Option("--weights", help="Weights (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the new weights.")],
) -> object:
    """Fit the second look of weights on simulated scenes; a killed run goes on.

    The new weights need a calibration: slopewatch benchmark accuracy --calibrate.

    Example: slopewatch verifier --weights model/weights.safetensors --out verified
    """
    cfg = given.config()
    from components.inference.predict import read_card
    from components.simulation.reserved import refuse_reserved
    from flows.training import verifier as flow

    read_card(weights)  # before Prefect's server starts
    refuse_reserved(cfg.verifier.seed, "`verifier.seed`")
    return flow(weights.resolve(), out.resolve(), cfg)


@verb("models", show.forms, reads=())
def models_command(
    _given: Given,
    channels: Annotated[int, typer.Option("--channels", min=1, help="Channels of the image.")] = 7,
    size: Annotated[int, typer.Option("--size", min=64, help="Side of the image [px].")] = 256,
) -> object:
    """List the network forms with their parameters, operations and strides.

    Example: slopewatch models --channels 7 --size 512
    """
    from flows.forms import list_forms

    return list_forms(channels, size)


@verb("export", show.onnx)
def export(
    given: Given,
    weights: Annotated[Path, typer.Option("--weights", help="Weights (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.onnx).")],
    window: WindowOption = None,
) -> object:
    """Write weights as an ONNX graph for one window, to be run without torch.

    Example: slopewatch export --weights model.safetensors --out model.onnx --window 256
    """
    cfg = given.config({"infer.weights": weights, "infer.window": window})
    from components.inference.onnx_export import export_weights

    return export_weights(weights.resolve(), out.resolve(), cfg.infer)
