"""A small cube, weights for it, and what a run made of it: for the tests of inference."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from components.config import InferConfig, IngestConfig, RegionConfig
from components.cube.ingest import ingest_product
from components.dataset.presets import CHANNELS
from components.inference import verifier
from components.inference.traits import TRAITS
from components.products.base import LayerSource, Product
from components.workspace import Artefact, Workspace
from models.build import build_model
from models.forms import FORMS
from models.weights import VERIFIER, add_tensors, save_weights

SHAPE = (380, 350)
GRID = GeoBox(SHAPE, Affine(25.0, 0, 400_000.0, 0, -25.0, 4_000_000.0), "EPSG:32647")
CFG = InferConfig(
    window=64,
    context=64,
    overlap=0.33,
    batch_size=3,
    max_detections=6,
    score_min=0.3,
    threads=1,
    device="cpu",
)
#: Two corners without data.
EMPTY = (slice(0, 100), slice(0, 130))


def write_weights(path: Path, preset: str = "rate", seed: int = 0, **card: Any) -> Path:
    torch.manual_seed(seed)
    model = build_model(FORMS["demo"], len(CHANNELS[preset]), 2)
    facts = {
        "form": "demo",
        "classes": ["landslide"],
        "preset": preset,
        "channels": list(CHANNELS[preset]),
        "upsample": 1,
        "pixel_size_m": 25.0,
        "ground_pixel_size_m": 25.0,
        "score_threshold": 0.5,
    }
    save_weights(path, model, {**facts, **card})
    return path


def add_verifier(path: Path, seed: int = 0, **entries: Any) -> Path:
    """Give weights a second look of random numbers."""
    rng = np.random.default_rng(seed)
    layers = tuple(
        (rng.normal(0, 0.5, (wide, n)), rng.normal(0, 0.5, wide))
        for wide, n in ((5, 2 * len(TRAITS)), (1, 5))
    )
    look = verifier.Verifier(np.zeros(len(TRAITS)), np.ones(len(TRAITS)), (layers,))
    tensors = verifier.to_tensors(look)
    card = {"algorithm": verifier.ALGORITHM, "traits": list(TRAITS), **entries}
    numbers = {n: torch.from_numpy(t.astype(np.float32)) for n, t in tensors.items()}
    add_tensors(path, path, VERIFIER, numbers, {verifier.CARD_KEY: card})
    return path


def landslides() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Displacement [m] with noise, a dozen small landslides and two corners without data."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    displacement = rng.normal(0, 0.004, SHAPE)
    for r, c in rng.uniform(0, 300, (12, 2)):
        displacement -= 0.05 * np.exp(-((y - r) ** 2 + (x - c) ** 2) / 60)
    displacement[EMPTY] = np.nan
    return displacement


def make_cube(
    root: Path, folder: Path, displacement: np.ndarray[Any, np.dtype[np.float64]] | None = None
) -> Artefact:
    """Ingest a displacement map of `SHAPE`; `landslides` where none is given."""
    if displacement is None:
        displacement = landslides()
    coherence = np.random.default_rng(1).uniform(0.5, 1.0, SHAPE)
    layers = {"los_displacement": displacement, "coherence": coherence}
    sources = {}
    folder.mkdir()
    for name, values in layers.items():
        path = folder / f"{name}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=SHAPE[0], width=SHAPE[1], count=1,
            dtype="float32", crs="EPSG:32647", transform=GRID.affine, nodata=np.nan,
        ) as dst:  # fmt: skip
            dst.write(values.astype(np.float32), 1)
        sources[name] = LayerSource(str(path), kind="linear")
    product = Product(
        path=folder,
        reader="plain",
        track="descending",
        orbit_direction="descending",
        date_start=date(2023, 1, 1),
        date_end=date(2023, 7, 1),
        geobox=GRID,
        wavelength_m=0.055465763,
        looks=20.0,
        layers=sources,
        files=tuple(sorted(Path(s.path) for s in sources.values())),
    )
    return ingest_product(
        Workspace(root), product, IngestConfig(chunk=64, shard=64), RegionConfig()
    )


def copy(region: tuple[Path, Path], to: Path) -> tuple[Workspace, Artefact]:
    shutil.copytree(region[0], to)
    ws = Workspace(to)
    (cube,) = ws.artefacts("cube")
    return ws, cube


def content(artefact: Artefact) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(artefact.folder.iterdir())}
