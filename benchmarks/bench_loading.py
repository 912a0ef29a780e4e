"""Does loading starve the network? Step rate with real loading against tiles that lie in memory.

Run: ``python benchmarks/bench_loading.py [--form FORM] [--steps N] [--workers 0 1 2]``. One line a number of
loader processes: steps a second as trained, and with batches made beforehand, step by step in turn; the
ratio is the share of the cached rate that training reaches. Without loader processes, the ratio of
processor times says the same on a busy machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle

from components.config import TrainConfig
from components.dataset.presets import CHANNELS
from components.training.order import ALONE
from components.training.schedule import CosineSchedule
from components.training.sources import coco_source
from models.build import build_model
from models.forms import FORMS

#: Tiles of the dataset, their side [px], objects in half of them.
TILES, SIDE, OBJECTS = 64, 256, 6


def write_dataset(folder: Path, preset: str) -> Path:
    """A COCO folder of noise with ellipses, compressed as the dataset stage compresses it."""
    rng = np.random.default_rng(0)
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
    images, annotations = [], []
    y, x = np.mgrid[:SIDE, :SIDE]
    for number in range(1, TILES + 1):
        image = rng.normal(0, 0.3, (len(CHANNELS[preset]), SIDE, SIDE)).astype(np.float16)
        for _ in range(OBJECTS if number % 2 else 0):
            row, col, a, b = rng.uniform((20, 20, 4, 3), (236, 236, 16, 9))
            mask = (((y - row) / a) ** 2 + ((x - col) / b) ** 2 < 1).astype(np.uint8)
            image[0][mask == 1] += 2
            code = rle.encode(np.asfortranarray(mask))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    "iscrowd": 0,
                    "pixels_in_all": int(mask.sum()),
                }
            )
        name = f"{number:06d}.npz"
        np.savez_compressed(folder / "images" / name, image=image)
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
    for split, chosen in (("train", images), ("val", [])):
        content = {"images": chosen, "annotations": annotations if chosen else []}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    info = {
        "preset": preset,
        "channels": list(CHANNELS[preset]),
        "categories": [{"id": 1, "name": "landslide"}],
        "pixel_size_m": 25.0,
        "upsample": 1,
        "min_visible": 0.3,
        "min_pixels": 6,
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


class Trainer:
    """Steps of training as the loop takes them: losses, gradient, optimiser."""

    def __init__(self, form: str, channels: int, device: str) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = build_model(FORMS[form], channels, 2).to(device)
        schedule = CosineSchedule(
            learning_rate=1e-3, weight_decay=1e-2, warmup_steps=0, total_steps=1000
        )
        self.optimizer = schedule.optimizer(self.model)

    def step(self, batch: Any) -> None:
        """One optimiser step on a batch."""
        images, targets = batch
        images = [i.to(self.device, non_blocking=True) for i in images]
        targets = [{k: v.to(self.device, non_blocking=True) for k, v in t.items()} for t in targets]
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = torch.stack(list(self.model(images, targets).values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def timed(trainer: Trainer, batches: Iterator[Any]) -> tuple[float, float]:
    """Wall and processor seconds of one step of this process, waiting for its batch counted."""
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.step(next(batches))
    if trainer.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", default="demo", choices=sorted(FORMS))
    parser.add_argument("--preset", default="multi", choices=sorted(CHANNELS))
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = write_dataset(Path(folder) / "coco", args.preset)
        print(
            f"form {args.form}, preset {args.preset}, {args.batch} crops of {args.crop} px a step"
        )
        print(f"{args.device}, {torch.get_num_threads()} threads")
        for workers in args.workers:
            cfg = TrainConfig(batch_size=args.batch, crop=args.crop, workers=workers)
            source = coco_source(data, cfg)
            loader = source.loader(itertools.count().__next__, ALONE)
            real = (batch for _ in itertools.count() for batch in loader)
            cached = itertools.cycle(list(itertools.islice(real, 4)))
            trainer = Trainer(args.form, len(CHANNELS[args.preset]), args.device)
            for _ in range(2):
                timed(trainer, cached)  # warm
            # Step by step in turn, so that other load on the machine falls on both.
            pairs = [(timed(trainer, real), timed(trainer, cached)) for _ in range(args.steps)]
            wall, cpu = (
                [statistics.median(pair[k][i] for pair in pairs) for k in range(2)]
                for i in range(2)
            )
            print(
                f"{workers} loader processes, medians of {args.steps} steps: "
                f"{1 / wall[0]:.2f} steps/s as trained, {1 / wall[1]:.2f} from memory, "
                f"ratio {wall[1] / wall[0]:.1%} (processor time of this process: {cpu[1] / cpu[0]:.1%})"
            )


if __name__ == "__main__":
    main()
