"""Coded errors for operators: what is wrong, in which file, what to do.

Every error that a user can cause carries a code of the table below. The table is the single source
of ``docs/errors.md`` (a test compares the two).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

#: Code → (title, what the operator does about it).
CODES: Final[dict[str, tuple[str, str]]] = {
    # 1xx: input products
    "SW-101": (
        "Input file not found",
        "Check the path; mounts and typing errors are the usual causes.",
    ),
    "SW-102": (
        "Input file unreadable",
        "The file is truncated, corrupt or not of its claimed format: fetch it again.",
    ),
    "SW-103": (
        "Raster without CRS",
        "Assign the coordinate reference system (gdal_edit.py -a_srs EPSG:…).",
    ),
    "SW-104": (
        "Layers on different grids",
        "All layers of one product must share grid and shape: export them again.",
    ),
    "SW-105": (
        "Quantity, unit or sign not stated",
        "State quantity, unit, sign and wavelength in the YAML beside the file.",
    ),
    "SW-106": (
        "Dates missing or reversed",
        "The reference date must be older than the secondary date: correct names or YAML.",
    ),
    "SW-107": (
        "Period already ingested from another product",
        "Choose one product per track and period, or remove the published one first.",
    ),
    "SW-108": (
        "No valid pixel",
        "The product holds only nodata inside the region: check mask, nodata value and extent.",
    ),
    "SW-109": (
        "Not-a-number or infinite values where data were promised",
        "Mark missing pixels as nodata, not as infinity.",
    ),
    "SW-110": (
        "Coherence outside [0, 1]",
        "Give coherence as a fraction; a byte scale must be stated as unit.",
    ),
    "SW-111": (
        "Product format not recognised",
        "See docs/products.md for the layouts that are read; put a YAML beside a plain raster.",
    ),
    "SW-112": (
        "Mixed tracks or orbit directions",
        "Give the products of one track at a time, or state `track` for each.",
    ),
    "SW-113": (
        "Layer missing from a product",
        "The product lacks a file that the reader needs: fetch the complete product.",
    ),
    "SW-114": (
        "Product description file invalid",
        "Correct the YAML or parameter file: the message names the key.",
    ),
    "SW-115": (
        "Product outside the region",
        "The product does not overlap the region grid: check the region's bounds and CRS.",
    ),
    # 2xx: workspace, grid, cube
    "SW-201": ("Workspace not writable", "Choose a folder in which you may write."),
    "SW-202": (
        "Disk full",
        "Free space on the workspace's disk, then run the same command again: it resumes.",
    ),
    "SW-203": (
        "Workspace busy",
        "Another slopewatch process works in this workspace: wait for it, or stop it.",
    ),
    "SW-204": (
        "Region grid conflict",
        "A workspace holds one region grid: use another workspace for another grid.",
    ),
    "SW-205": ("Nothing ingested", "Run `slopewatch ingest` first."),
    "SW-206": (
        "Published artefact damaged",
        "A published folder lacks its manifest or files: delete it and run again.",
    ),
    "SW-207": (
        "Ledger unusable",
        "The ledger is corrupt or from another version: move it away; it is rebuilt from the manifests.",
    ),
    "SW-208": (
        "Output is a file of others",
        "Give another --out, or move the file away: replacing it would destroy what it holds.",
    ),
    # 3xx: labels and dataset
    "SW-301": ("Polygons without CRS", "Assign the layer's CRS (for a shapefile: the .prj file)."),
    "SW-302": (
        "No polygon inside the mapped area",
        "Check the CRS of polygons and region, and that they overlap.",
    ),
    "SW-303": (
        "Empty polygon layer",
        "The layer has no usable polygon: see the counts in the message.",
    ),
    "SW-304": (
        "Category missing or unknown",
        "Give the attribute that holds the category, and list its values in the config.",
    ),
    "SW-305": (
        "Split impossible without leakage",
        "The region is too small for this block size: lower block_km or tile size.",
    ),
    "SW-306": ("Dataset empty", "No tile passed the filters: see the counts in the message."),
    "SW-307": (
        "Dataset damaged",
        "Images and annotation file do not match: build the dataset again.",
    ),
    "SW-308": (
        "Ground kept for tests",
        "Train with another seed or region: seeds from 900000 to 999999 belong to benchmarks.",
    ),
    # 4xx: model, weights, training
    "SW-401": (
        "Weights file not found or unreadable",
        "Give the path of a .safetensors file with its card beside it.",
    ),
    "SW-402": (
        "Weights of another preset",
        "Use weights whose input preset, classes and pixel size match, or train new ones.",
    ),
    "SW-403": ("No weights", "Give --weights FILE, or install slopewatch again."),
    "SW-404": ("Training data unusable", "The message names the image and what is wrong with it."),
    "SW-405": (
        "Training diverged",
        "The loss is not finite: lower the learning rate; the last good checkpoint is kept.",
    ),
    "SW-406": ("Unknown model form", "`slopewatch models` lists the forms."),
    "SW-407": (
        "Checkpoint damaged",
        "Delete the checkpoint that the message names; training resumes from the one before.",
    ),
    "SW-408": (
        "Out of memory",
        "Halve train.batch_size (the message names the number), or free memory and run again.",
    ),
    "SW-409": (
        "Device or training process lost",
        "The last checkpoint is kept: run the same command again to go on.",
    ),
    "SW-410": (
        "ONNX export not possible",
        "Install the extra: pip install 'slopewatch[onnx]'; the message says what else is wrong.",
    ),
    "SW-411": (
        "Device or precision not available",
        "Set the setting that the message names to auto, or run on a machine that has it.",
    ),
    # 5xx: inference and stitching
    "SW-501": (
        "Windows failed",
        "Some windows could not be processed: the map has gaps; see the list, then run again.",
    ),
    "SW-502": (
        "Windows overlap too little, or by more than themselves",
        "Set `infer.overlap` in [0, 1), so that windows share 8 px or more.",
    ),
    "SW-503": (
        "Pixel size differs from the weights'",
        "Ingest at the weights' pixel size, or use other weights.",
    ),
    "SW-504": (
        "Input layer missing from the cube",
        "The preset needs a layer that this product does not have.",
    ),
    "SW-505": (
        "Detections and windows do not match",
        "Each detection must lie in a window that was run, with scores and probabilities in [0, 1].",
    ),
    "SW-506": (
        "Memory does not do for one window",
        "Lower `infer.window`, or use a device with more memory.",
    ),
    "SW-507": (
        "Dask cluster not usable",
        "Check that the scheduler of `infer.dask` and its workers run, and see their logs.",
    ),
    "SW-508": (
        "COCO images or results unusable",
        "The message names the entry: correct what writes the file; docs/stitch.md has the format.",
    ),
    "SW-509": (
        "Too few detections to fit the second look",
        "Raise `verifier.scenes`; weights that find next to nothing must be trained first.",
    ),
    # 6xx: inventory, evaluation, report
    "SW-601": (
        "No reference to evaluate against",
        "Give --labels FILE with the interpreters' polygons.",
    ),
    "SW-602": ("Nothing to inventory", "Run `slopewatch infer` first."),
    "SW-603": (
        "Metrics contradict each other",
        "A defect of slopewatch: report it with the message.",
    ),
    "SW-604": (
        "Experiment file unusable",
        "Correct the file that the message names; docs/metrics.md describes its form.",
    ),
    # 7xx: configuration and command line
    "SW-701": (
        "Configuration invalid",
        "Correct the key that the message names; `slopewatch config` writes a valid file.",
    ),
    "SW-702": ("Unknown period or track", "`slopewatch plan` lists what the workspace holds."),
    "SW-703": (
        "Prefect server not reachable",
        "Check PREFECT_API_URL, or unset it to use the embedded server.",
    ),
}


class SlopewatchError(Exception):
    """An error that an operator can act on.

    Parameters
    ----------
    code : str
        Key of `CODES`.
    what : str
        What is wrong, with the value received.
    path : path-like, optional
        The file or folder concerned.
    remedy : str, optional
        What to do; defaults to the table's general remedy.
    """

    def __init__(
        self, code: str, what: str, *, path: str | Path | None = None, remedy: str | None = None
    ) -> None:
        self.code = code
        self.title, general = CODES[code]
        self.what = what
        self.path = None if path is None else str(path)
        self.remedy = remedy or general
        where = f"\n  file: {self.path}" if self.path else ""
        super().__init__(f"[{code}] {self.title}: {what}{where}\n  do:   {self.remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # Prefect and Dask send exceptions between processes; keyword arguments need help.
        return (_rebuild, (type(self), self.code, self.what, self.path, self.remedy))


def _rebuild(
    cls: type[SlopewatchError], code: str, what: str, path: str | None, remedy: str
) -> SlopewatchError:
    return cls(code, what, path=path, remedy=remedy)


class InputError(SlopewatchError):
    """A product, label file or configuration that cannot be used (SW-1xx, SW-3xx, SW-7xx)."""


class WorkspaceError(SlopewatchError):
    """The workspace cannot be used (SW-2xx)."""


class ModelError(SlopewatchError):
    """Weights, network or training cannot go on (SW-4xx)."""


class ProcessingError(SlopewatchError):
    """Inference, stitching or inventory cannot go on (SW-5xx, SW-6xx)."""


def codes_markdown() -> str:
    """The table of codes as the page ``docs/errors.md``.

    Returns
    -------
    str
        Markdown.
    """
    rows = [f"| {code} | {title} | {remedy} |" for code, (title, remedy) in sorted(CODES.items())]
    head = [
        "# Error codes",
        "",
        "Every error that a user can cause names its code, what is wrong, in which file, and what to do.",
        "Written by `make docs` from `components/errors.py`.",
        "",
        "| code | what | do |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    sys.stdout.write(codes_markdown() + "\n")
