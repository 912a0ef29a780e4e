"""What a run shows in the Prefect interface: metrics table, map picture, links."""

from __future__ import annotations

import base64
import csv
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from components.workspace import Artefact

#: Largest picture embedded in an artifact [bytes]; Prefect stores it in its database.
_PICTURE_MAX = 3_000_000


def training_artifact(model: Artefact) -> None:
    """Table of the epochs.

    Parameters
    ----------
    model : Artefact
        Published weights with ``metrics.csv``.
    """
    path = model.folder / "metrics.csv"
    with path.open(newline="") as f:
        rows = list(csv.DictReader(f))
    create_table_artifact(key="training", table=rows, description=f"Training of {model.path}")


def metrics_artifact(metrics: dict[str, Any]) -> None:
    """Table of model and baseline on the same ground.

    Parameters
    ----------
    metrics : dict
        Content of ``metrics.json``.
    """
    names = ("precision", "recall", "f1", "mean_matched_iou", "pq")
    rows = [
        {
            "method": method,
            **{f"object {n}": metrics[method]["pooled"]["objects"][n] for n in names},
            "pixel IoU": metrics[method]["pooled"]["pixels"]["iou_fg"],
        }
        for method in ("model", "baseline")
    ]
    create_table_artifact(
        key="metrics", table=rows, description="Stitched map against reference polygons"
    )


def inventory_artifacts(inventory: Artefact) -> None:
    """Map picture and links to report and GeoPackage.

    Parameters
    ----------
    inventory : Artefact
        Published inventory.
    """
    meta = inventory.meta
    lines = [
        "# Landslide inventory",
        f"{meta['n_landslides']} landslide records, {meta['mapped_km2']:.0f} km² mapped.",
        f"Folder: `{inventory.path}`",
    ]
    for picture in sorted(inventory.folder.glob("map_*.png")):
        if picture.stat().st_size <= _PICTURE_MAX:
            data = base64.b64encode(picture.read_bytes()).decode()
            lines.append(f"![{picture.stem}](data:image/png;base64,{data})")
        else:
            lines.append(f"Picture `{picture}`")
    create_markdown_artifact(key="inventory", markdown="\n\n".join(lines))
    for name in ("report.html", "landslides.gpkg"):
        uri = (inventory.folder / name).as_uri()
        create_link_artifact(key=name.replace(".", "-"), link=uri, link_text=name)
