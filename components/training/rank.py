"""One further process of a training on several devices: ``python -m components.training.rank``.

Started by `components.training.ranks.started`, which writes one line of JSON into its standard input
and keeps the pipe open for as long as it lives.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from components.config import PretrainConfig, TrainConfig
from components.training.loop import take_part
from components.training.order import Share
from components.training.ranks import READY, Group
from components.training.sources import Source, coco_source, scene_source


def main() -> None:
    """Take part in the training that standard input describes."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_first, daemon=True).start()

    def ready() -> None:
        sys.stdout.write(READY + "\n")
        sys.stdout.flush()

    cfg = TrainConfig(**order["config"])
    take_part(
        _source(order["source"], cfg),
        Path(order["work_dir"]),
        cfg,
        Group(Share(order["rank"], order["world"]), order["port"]),
        ready,
    )


def _source(order: dict[str, Any], cfg: TrainConfig) -> Source:
    """What the first process reads, from `Source.order`."""
    if "scenes" in order:
        return scene_source(PretrainConfig(**order["scenes"]), cfg)
    return coco_source(Path(order["dataset_dir"]), cfg)


def _end_with_the_first() -> None:
    """The pipe closes with the process that holds it, also when that is killed."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
