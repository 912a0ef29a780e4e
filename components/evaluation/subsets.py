"""Some tiles of a COCO folder, drawn at random, as a COCO folder of its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from components.errors import InputError
from components.evaluation.trainings import write_whole

#: Seed of the draw of tiles.
SUBSET_SEED: Final = 636


def known_subset(out: Path, key: str) -> dict[str, int] | None:
    """Counts of a subset that was made before.

    Parameters
    ----------
    out : Path
        Its folder; may be missing.
    key : str
        What it was asked to be made of.

    Returns
    -------
    dict or None
        None where it must be made.
    """
    try:
        found = json.loads((out / "subset.json").read_text())
    except (OSError, ValueError):
        return None
    counts: dict[str, int] = found["counts"]
    return counts if found["key"] == key else None


def subset(
    dataset: Path,
    out: Path,
    key: str,
    tiles: Mapping[str, int] | None = None,
    landslides: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Some tiles of a COCO folder, drawn at random, as a COCO folder.

    Parameters
    ----------
    dataset : Path
        Of `components.dataset.coco.build_dataset`.
    out : Path
        Folder to make anew; images are linked, where links are possible.
    key : str
        Names what is asked for, see `known_subset`.
    tiles : mapping of str to int, optional
        Fold → tiles; folds that are not named stay empty.
    landslides : mapping of str to int, optional
        Fold → landslides: tiles are taken until they show so many different ones, never more.

    Returns
    -------
    dict
        ``<fold>_tiles`` and ``<fold>_landslides`` of the folds, and ``shared_landslides``: landslides
        of test tiles that training or validation tiles show too.

    Raises
    ------
    InputError
        SW-306 where there are too few tiles or landslides.
    """
    shutil.rmtree(out, ignore_errors=True)
    (out / "annotations").mkdir(parents=True)
    (out / "images").mkdir()
    counts: dict[str, int] = {}
    shown: dict[str, set[int]] = {}
    for k, fold in enumerate(("train", "val", "test")):
        content = json.loads((dataset / "annotations" / f"{fold}.json").read_text())
        by_image: dict[int, list[dict[str, Any]]] = {i["id"]: [] for i in content["images"]}
        for a in content["annotations"]:
            by_image[a["image_id"]].append(a)
        order = np.random.default_rng((SUBSET_SEED, k)).permutation(len(content["images"]))
        images = [content["images"][i] for i in order]
        if landslides is None:
            chosen = images[: (tiles or {}).get(fold, 0)]
            if len(chosen) < (tiles or {}).get(fold, 0):
                raise InputError(
                    "SW-306",
                    f"{len(images)} {fold} tiles, {(tiles or {})[fold]} needed",
                    path=dataset,
                )
        else:
            chosen = _until(images, by_image, landslides.get(fold, 0), dataset)
        kept = {i["id"] for i in chosen}
        content["images"] = sorted(chosen, key=lambda i: i["id"])
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        (out / "annotations" / f"{fold}.json").write_text(json.dumps(content) + "\n")
        for image in chosen:
            _link(dataset / "images" / image["file_name"], out / "images" / image["file_name"])
        shown[fold] = _landslides(a for a in content["annotations"])
        counts |= {f"{fold}_tiles": len(chosen), f"{fold}_landslides": len(shown[fold])}
    counts["shared_landslides"] = len(shown["test"] & (shown["train"] | shown["val"]))
    info = json.loads((dataset / "dataset.json").read_text())
    info["counts"] = {"subset": counts, "of": info["counts"]}
    write_whole(out / "dataset.json", info)
    write_whole(out / "subset.json", {"key": key, "counts": counts})
    return counts


def _landslides(annotations: Any) -> set[int]:
    return {int(a["slide_id"]) for a in annotations if not a["iscrowd"]}


def _until(
    images: Sequence[dict[str, Any]],
    by_image: Mapping[int, list[dict[str, Any]]],
    limit: int,
    dataset: Path,
) -> list[dict[str, Any]]:
    """Tiles in their order until they show so many landslides; those that would exceed it are passed over."""
    chosen: list[dict[str, Any]] = []
    known: set[int] = set()
    passed_over = False
    for image in images:
        if len(known) == limit:
            break
        more = known | _landslides(by_image[image["id"]])
        if len(more) > limit:
            passed_over = True
            continue
        known = more
        chosen.append(image)
    if len(known) < limit and not passed_over:
        raise InputError("SW-306", f"{len(known)} landslides, {limit} needed", path=dataset)
    return chosen


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
