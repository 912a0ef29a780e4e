"""SAHI's side of `bench_sahi.py`; runs in an environment that has SAHI.

SAHI knows torchvision's Mask R-CNN (`TorchVisionDetectionModel`). Its wrapper is used as it is, with one
difference: our network gives masks on a grid that fills the box, as torchvision's does before its
last step, and they are pasted into the slice here, by the same function that slopewatch uses.

SAHI's documents speak of RGB images of 8 bits, but an array passes through its slicing untouched. The
network therefore reads the same float32 channels as in slopewatch, and no precision is lost on the way.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import process
import torch
from sahi.models.torchvision import TorchVisionDetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction
from sahi.utils.cv import get_coco_segmentation_from_bool_mask

from models.build import detect
from models.inference import InferenceNetwork, detect_batch
from models.paste import paste_masks
from models.weights import load_weights

#: What SAHI does by default with the detections of all slices.
POSTPROCESS = {
    "postprocess_type": "GREEDYNMM",
    "postprocess_match_metric": "IOS",
    "postprocess_match_threshold": 0.5,
    "verbose": 0,
}


class MapNetwork(TorchVisionDetectionModel):
    """slopewatch's network as a detection model of SAHI."""

    def perform_inference(self, image: np.ndarray[Any, Any], image_size: int | None = None) -> None:
        """Run the network on one slice ``[H, W, C]`` and paste its masks."""
        del image_size
        height, width = image.shape[:2]
        batch = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        prepared = isinstance(self.model, InferenceNetwork)
        (found,) = detect_batch(self.model, batch) if prepared else detect(self.model, batch)
        keep, masks = [], []
        for k, pasted in enumerate(paste_masks(found.masks, found.boxes, (height, width))):
            rows, cols = pasted.prob.shape
            mask = torch.zeros((height, width))
            mask[pasted.row : pasted.row + rows, pasted.col : pasted.col + cols] = pasted.prob
            # SAHI raises an error for a mask that has no outline of three points.
            if get_coco_segmentation_from_bool_mask((mask > self.mask_threshold).numpy()):
                keep.append(k)
                masks.append(mask)
        self._original_predictions = [
            {
                "boxes": found.boxes[keep],
                "labels": found.labels[keep],
                "scores": found.scores[keep],
                "masks": torch.stack(masks) if masks else torch.zeros((0, height, width)),
            }
        ]


class Oracle(TorchVisionDetectionModel):
    """A detector without error: what is drawn in the slice, one detection for each value."""

    def perform_inference(self, image: np.ndarray[Any, Any], image_size: int | None = None) -> None:
        """See the objects of one slice ``[H, W, 1]``."""
        del image_size
        values = [v for v in np.unique(image).tolist() if v]
        masks = [torch.from_numpy(image[..., 0] == v).float() for v in values]
        keep = [m for m in masks if get_coco_segmentation_from_bool_mask(m.numpy() > 0)]
        boxes = [_box(m) for m in keep]
        self._original_predictions = [
            {
                "boxes": torch.tensor(boxes).reshape(-1, 4),
                "labels": torch.ones(len(keep), dtype=torch.int64),
                "scores": torch.full((len(keep),), 0.9),
                "masks": torch.stack(keep) if keep else torch.zeros((0, *image.shape[:2])),
            }
        ]


def _box(mask: torch.Tensor) -> list[float]:
    rows, cols = np.nonzero(mask.numpy())
    return [float(cols.min()), float(rows.min()), float(cols.max() + 1), float(rows.max() + 1)]


def count_objects(task: dict[str, Any]) -> dict[str, Any]:
    """SAHI's objects of an oracle, painted with their numbers: the picture and the count."""
    drawn = np.load(task["drawn"])
    oracle = Oracle(model=torch.nn.Identity(), category_mapping={"1": "landslide"}, device="cpu")
    found = _sliced(drawn[..., None], oracle, task)
    painted = np.zeros(drawn.shape, np.int32)
    for k, p in enumerate(found, start=1):
        painted[p.mask.bool_mask] = k
    np.save(task["painted"], painted)
    return {"objects": len(found)}


def map_once(task: dict[str, Any]) -> dict[str, Any]:
    """Map an image of float channels; time, objects and memory, or how far it came in its memory."""
    if task["memory_gib"]:
        size = int(task["memory_gib"] * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    model, _ = load_weights(
        Path(task["weights"]), max_detections=task["max_detections"], score_min=task["score_min"]
    )
    network = (
        InferenceNetwork(model, getattr(torch, task["prepared"])) if task["prepared"] else model
    )
    network = MapNetwork(
        model=network, confidence_threshold=task["score_min"], device="cpu",
        category_mapping={"1": "landslide"},
    )  # fmt: skip
    before_mib = process.peak_mib()
    cpu = time.process_time()
    begin = time.perf_counter()
    image = np.load(task["image"])
    landslides, lacking = None, ""
    try:
        landslides = len(_sliced(image, network, task))
    except (MemoryError, RuntimeError) as e:
        if not isinstance(e, MemoryError) and "can't allocate memory" not in str(e):
            raise
        lacking = str(e).splitlines()[0]
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu,
        "landslides": landslides,
        "lacking": lacking,
        "image_mib": image.nbytes / 2**20,
        "start_mib": before_mib,
        "peak_mib": process.peak_mib(),
    }


def _sliced(
    image: np.ndarray[Any, Any], network: TorchVisionDetectionModel, task: dict[str, Any]
) -> list[ObjectPrediction]:
    result = get_sliced_prediction(
        image, network, slice_height=task["window"], slice_width=task["window"],
        overlap_height_ratio=task["overlap"], overlap_width_ratio=task["overlap"],
        perform_standard_pred=task.get("whole_pass", False), **{**POSTPROCESS, **task.get("postprocess", {})},
    )  # fmt: skip
    return list(result.object_prediction_list)


if __name__ == "__main__":
    facts = json.loads(sys.argv[sys.argv.index("--task") + 1])
    print(json.dumps(count_objects(facts) if "drawn" in facts else map_once(facts)))
