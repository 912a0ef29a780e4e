"""From tiles and polygons to a COCO dataset that pycocotools loads unchanged.

Layout of the folder::

    images/000001.npz             float16 [C, H, W] under the key "image" (fringe_rgb: 000001.png)
    masks/000001.png              category ids, 0 background, 255 ignored
    annotations/{train,val,test}.json
    dataset.json                  what the images are: preset, channels, pixel size, split, counts
    split.gpkg                    the folds' ground as polygons
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image
from pycocotools import mask as rle

from components.dataset.drawing import LabelFinder, draw_all
from components.dataset.labels import Labels, for_picture, labels_sha256, read_labels
from components.dataset.presets import CHANNELS, REQUIRED_LAYERS, render
from components.dataset.splits import FOLDS, Split, split_blocks, split_random
from components.dataset.tiles import Tile, TileStore
from components.errors import InputError
from components.grid import Window, geobox_to_dict
from components.progress import Progress, no_progress
from components.workspace import Artefact, Workspace, stage_key, write_json

if TYPE_CHECKING:
    from components.config import DatasetConfig

ALGORITHM: Final = "1"

#: Value of ignored ground in the semantic masks.
IGNORE_VALUE: Final = 255

#: The oldest date that a ZIP entry can hold: archives must not depend on the clock.
_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)

_GPKG_DATE: Final = "1980-01-01T00:00:00.000Z"

#: Rendering and compression leave Python's lock for part of their time only.
_THREADS: Final = 2


@dataclass
class _Counts:
    """What became of tiles and labels."""

    tiles: Counter[str] = field(default_factory=Counter)
    annotations: Counter[str] = field(default_factory=Counter)


def build_dataset(
    ws: Workspace,
    tiles: Artefact,
    labels: Path,
    cfg: DatasetConfig,
    progress: Progress = no_progress,
) -> Artefact:
    """Build the COCO dataset of a workspace.

    Parameters
    ----------
    ws : Workspace
        Where it is published: ``dataset/``.
    tiles : Artefact
        Of `components.dataset.tiles.build_tiles`.
    labels : Path
        Polygon layer.
    cfg : DatasetConfig
        Preset, categories, split and the limits below which an object is ignored.
    progress : Progress
        Told of every image.

    Returns
    -------
    Artefact
        Stage ``dataset``; meta: ``preset``, ``channels``, ``counts``, ``folds``, ``labels_sha256``.

    Raises
    ------
    InputError
        SW-101, SW-102, SW-301 … SW-304 for the polygons (see `read_labels`); SW-302 where no polygon
        belongs to a mapped track and period; SW-305 where the region is too small for the split;
        SW-306 where no tile is left, or no landslide is left to train on.
    """
    labels = Path(labels)
    # The path says nothing about the content: a moved file must not build the dataset again.
    settings = cfg.model_dump(mode="json", exclude={"labels"})
    sha256 = labels_sha256(labels)
    key = stage_key("dataset", ALGORITHM, tiles.key, sha256, settings)
    final = ws.place("dataset")
    if found := ws.find(final, key):
        return found
    store = TileStore(tiles.folder)
    polygons = read_labels(labels, cfg, store.geobox)
    split = _split(store, cfg)
    meta: dict[str, Any] = {"preset": cfg.preset, "channels": list(CHANNELS[cfg.preset])}
    with ws.publish("dataset", final, key, meta) as folder:
        counts = _write_images(folder, store, polygons, split, cfg, labels, progress)
        description = _describe(store, polygons, split, cfg, counts)
        write_json(folder / "dataset.json", description)
        _write_split(folder / "split.gpkg", split, store.geobox)
        meta["counts"] = description["counts"]
        meta["folds"] = split.counts()
        meta["labels_sha256"] = polygons.sha256
    return Artefact("dataset", key, str(final), meta)


def _split(store: TileStore, cfg: DatasetConfig) -> Split:
    ground = [t.window for t in store.tiles]
    if cfg.split == "random":
        return split_random(ground, fractions=cfg.fractions, seed=cfg.seed)
    pixel_m = abs(float(store.geobox.resolution.x))
    return split_blocks(
        ground,
        (int(store.geobox.shape[0]), int(store.geobox.shape[1])),
        block_px=max(1, round(cfg.block_km * 1000.0 / pixel_m)),
        fractions=cfg.fractions,
        seed=cfg.seed,
    )


def _write_images(
    folder: Path,
    store: TileStore,
    labels: Labels,
    split: Split,
    cfg: DatasetConfig,
    path: Path,
    progress: Progress,
) -> _Counts:
    """Write images, masks and annotation files; return what became of tiles and labels."""
    counts = _Counts()
    drawn = draw_all(labels.frame.geometry, store.geobox.affine, store.upsample)
    counts.annotations["labels_without_pixel"] = sum(d.pixels == 0 for d in drawn)
    kept = [(t, f) for t, f in zip(store.tiles, split.fold, strict=True) if f]
    counts.tiles.update(read=len(store.tiles), left_out_by_split=split.left_out, kept=len(kept))
    pictures = sorted({(t.track, t.period) for t in store.tiles})
    used = {i for p in pictures for i in for_picture(labels.frame, *p)}
    counts.annotations["labels_of_other_pictures"] = len(labels.frame) - len(used)
    if not used:
        raise InputError(
            "SW-302",
            f"no polygon belongs to a mapped track and period {pictures}",
            path=path,
            remedy="Check the columns `track` and `period` of the polygons.",
        )
    for name in ("images", "masks", "annotations"):
        (folder / name).mkdir()
    finder = LabelFinder(labels, drawn, pictures)
    files: dict[str, dict[str, Any]] = {f: _coco_file(cfg) for f in FOLDS}

    def work(job: tuple[int, tuple[Tile, str]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        number, (tile, _) = job
        return _write_tile(folder, store, tile, number, finder, labels, cfg)

    progress("images", 0, len(kept))
    with ThreadPoolExecutor(_THREADS) as pool:
        # `map` keeps the order, so numbers do not depend on which thread is first.
        for n, (image, found) in enumerate(pool.map(work, enumerate(kept, start=1)), start=1):
            fold = kept[n - 1][1]
            target = files[fold]["annotations"]
            for annotation in found:
                annotation["id"] = len(target) + 1
                target.append(annotation)
                counts.annotations[f"{fold}_iscrowd" if annotation["iscrowd"] else fold] += 1
                for reason in annotation["ignored_for"]:
                    counts.annotations[f"ignored_for_{reason}"] += 1
            files[fold]["images"].append(image)
            counts.tiles[fold] += 1
            if not any(not a["iscrowd"] for a in found):
                counts.tiles[f"{fold}_negative"] += 1
            progress("images", n, len(kept))
    if cfg.fractions[0] > 0 and not counts.annotations["train"]:
        raise InputError(
            "SW-306",
            f"no landslide in the training tiles; tiles {dict(counts.tiles)}, "
            f"annotations {dict(counts.annotations)}",
            path=path,
        )
    for fold, content in files.items():
        write_json(folder / "annotations" / f"{fold}.json", content)
    return counts


def _write_tile(
    folder: Path,
    store: TileStore,
    tile: Tile,
    number: int,
    finder: LabelFinder,
    labels: Labels,
    cfg: DatasetConfig,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    names = tuple(dict.fromkeys((*REQUIRED_LAYERS[cfg.preset], "valid")))
    layers = store.read(tile, names)
    valid = layers["valid"].astype(bool)
    image = render(cfg.preset, layers, store.sigma_velocity[(tile.track, tile.period)])
    stem = f"{number:06d}"
    name = f"{stem}.png" if cfg.preset == "fringe_rgb" else f"{stem}.npz"
    target = folder / "images" / name
    if cfg.preset == "fringe_rgb":
        target.write_bytes(_png(np.rint(image.transpose(1, 2, 0) * 255.0).astype(np.uint8)))
    else:
        target.write_bytes(_npz({"image": image.astype(np.float16)}))
    fine = Window(*(store.upsample * n for n in tile.window[:2]), *valid.shape)
    semantic = np.zeros(valid.shape, dtype=np.uint8)
    annotations = []
    masks = []
    for row, mask in finder.cut((tile.track, tile.period), fine):
        annotation = _annotate(
            mask, valid, finder.drawn[row].pixels, labels.frame.iloc[row], number, cfg
        )
        annotations.append(annotation)
        masks.append(mask)
    # Largest first, so that a small landslide on a large one stays to be seen.
    for k in sorted(range(len(masks)), key=lambda k: -annotations[k]["area"]):
        crowd = annotations[k]["iscrowd"]
        semantic[masks[k]] = IGNORE_VALUE if crowd else annotations[k]["category_id"]
    (folder / "masks" / f"{stem}.png").write_bytes(_png(semantic))
    record = {
        "id": number,
        "file_name": name,
        "mask_file": f"{stem}.png",
        "height": int(valid.shape[0]),
        "width": int(valid.shape[1]),
        "track": tile.track,
        "period": tile.period,
        "window": list(tile.window),
        "valid_fraction": tile.valid_fraction,
    }
    return record, annotations


def _annotate(
    mask: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    pixels_in_all: int,
    label: Any,
    image_id: int,
    cfg: DatasetConfig,
) -> dict[str, Any]:
    area = int(mask.sum())
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(cols[0])
    visible = area / pixels_in_all
    observable = int((mask & valid).sum()) / area
    reasons = [
        reason
        for reason, applies in (
            ("label", bool(label["ignore"])),
            ("tile_edge", visible < cfg.min_visible),
            ("no_data", observable < cfg.min_visible),
            ("size", area < cfg.min_pixels),
        )
        if applies
    ]
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "image_id": image_id,
        "category_id": int(label["category_id"]),
        "slide_id": int(label["slide_id"]),
        "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode()},
        "area": area,
        "bbox": [left, top, int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        "iscrowd": int(bool(reasons)),
        "pixels_in_all": pixels_in_all,
        "visible_fraction": round(visible, 6),
        "observable_fraction": round(observable, 6),
        "ignored_for": reasons,
    }


def _coco_file(cfg: DatasetConfig) -> dict[str, Any]:
    return {
        "info": {"description": "slopewatch", "preset": cfg.preset},
        "licenses": [],
        "categories": _categories(cfg),
        "images": [],
        "annotations": [],
    }


def _categories(cfg: DatasetConfig) -> list[dict[str, Any]]:
    return [{"id": i, "name": n} for i, n in enumerate(cfg.categories, start=1)]


def _describe(
    store: TileStore, labels: Labels, split: Split, cfg: DatasetConfig, counts: _Counts
) -> dict[str, Any]:
    ground_m = abs(float(store.geobox.resolution.x))
    areas = {fold: [list(w) for w in windows] for fold, windows in split.areas.items()}
    return {
        "format": 1,
        "preset": cfg.preset,
        "channels": list(CHANNELS[cfg.preset]),
        "categories": _categories(cfg),
        "pixel_size_m": ground_m / store.upsample,
        "ground_pixel_size_m": ground_m,
        "upsample": store.upsample,
        "tile_size": store.size * store.upsample,
        "grid": geobox_to_dict(store.geobox),
        "sigma_velocity": {
            f"{track}/{period}": sigma for (track, period), sigma in store.sigma_velocity.items()
        },
        "min_visible": cfg.min_visible,
        "min_pixels": cfg.min_pixels,
        "ignore_value": IGNORE_VALUE,
        "split": {
            "method": split.method,
            "block_km": cfg.block_km,
            "fractions": list(cfg.fractions),
            "seed": cfg.seed,
            "leaking_tiles": split.leakage.leaking_tiles,
            "shared_tiles": split.leakage.shared_tiles,
        },
        "fold_areas": areas,
        "test_blocks": areas["test"],
        "labels_sha256": labels.sha256,
        "counts": {
            "labels": labels.counts,
            "tiles": dict(sorted(counts.tiles.items())),
            "annotations": dict(sorted(counts.annotations.items())),
        },
    }


def _write_split(path: Path, split: Split, geobox: GeoBox) -> None:
    rows = [(fold, w) for fold in FOLDS for w in split.areas[fold]]
    shapes = [
        shapely.Polygon(
            geobox.affine * corner
            for corner in (
                (w.col, w.row),
                (w.col_end, w.row),
                (w.col_end, w.row_end),
                (w.col, w.row_end),
            )
        )
        for _, w in rows
    ]
    frame = gpd.GeoDataFrame({"fold": [fold for fold, _ in rows]}, geometry=shapes, crs=geobox.crs)
    # A GeoPackage holds the day of its last change: a fixed one, so that equal splits are equal files.
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _GPKG_DATE})
    try:
        pyogrio.write_dataframe(frame, path, layer="split", driver="GPKG", geometry_type="Polygon")
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """NPZ without the time of writing, so that equal arrays are equal files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE), inner.getvalue())
    return out.getvalue()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", compress_level=1)
    return out.getvalue()
