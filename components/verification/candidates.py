"""What weights detect on simulated scenes, its traits, and whether it is a landslide.

A scene depends on (seed, number) alone. Scenes are worked on by several processes in parts; a finished
part is a file, so that a run that was killed goes on with the parts that are missing.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

from components.dataset.presets import render
from components.errors import ProcessingError, WorkspaceError
from components.inference.instances import ARRAY_ERRORS, Instance
from components.inference.predict import Predictor, RawDetection
from components.inference.traits import TRAITS, traits
from components.progress import Progress, no_progress
from components.simulation.fields import stream
from components.training.scenes import draw_scene
from components.workspace import coded_os_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.config import VerifierConfig
    from components.simulation.scene import Scene

#: Raised when the same settings give other candidates.
ALGORITHM: Final = "candidates-1"

#: Scenes of a part.
PART: Final = 4

#: Every so many scenes one is large and of the reference conditions: what lies high among mountains can
#: only be told where there are mountains.
_LARGE_EVERY: Final = 4

#: Detections of fewer pixels have no traits worth the name.
_LEAST_PX: Final = 4

#: A detection is a hit from this IoU on; below it, one whose ground is ignored to this share is left out.
_IOU: Final = 0.5
_IGNORED: Final = 0.5

#: Mask probability of a landslide pixel.
_MASK: Final = 0.5


class Candidates(NamedTuple):
    """Detections on simulated scenes.

    Parameters
    ----------
    values : ndarray of float64, shape (n, T)
        Traits.
    hits : ndarray of bool, shape (n,)
        Whether it is a landslide, with an IoU of 0.5 or more to the visible part.
    scores : ndarray of float64, shape (n,)
        Of the network.
    sizes : ndarray of int64, shape (n,)
        Pixels.
    scenes : ndarray of int64, shape (n,)
        Number of the scene.
    ignored : int
        Further detections, left out: mostly on landslides that cannot be seen or that nobody would draw.
    """

    values: NDArray[np.float64]
    hits: NDArray[np.bool_]
    scores: NDArray[np.float64]
    sizes: NDArray[np.int64]
    scenes: NDArray[np.int64]
    ignored: int


def collect(
    weights: Path, cfg: VerifierConfig, work: Path, progress: Progress = no_progress
) -> Candidates:
    """Detect on all scenes.

    Parameters
    ----------
    weights : Path
        The ``.safetensors`` file with its card beside it.
    cfg : VerifierConfig
        Scenes and processes.
    work : Path
        Folder of finished parts, of these weights and settings alone.
    progress : Progress
        Step ``candidates``, in scenes.

    Returns
    -------
    Candidates
        In the order of the scenes; independent of the number of processes.

    Raises
    ------
    ModelError
        SW-401 for unusable weights.
    ProcessingError
        SW-506 where memory does not do for the scenes at once.
    WorkspaceError
        SW-201, SW-202 where the disk is full or not writable; SW-206 where a part has gone meanwhile.
    """
    with coded_os_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    parts = {
        work / f"part-{first:05d}.npz": range(first, min(first + PART, cfg.scenes))
        for first in range(0, cfg.scenes, PART)
    }
    found = {path: _load(path) for path in parts}
    missing = [path for path, part in found.items() if part is None]
    done = cfg.scenes - sum(len(parts[p]) for p in missing)
    progress("candidates", done, cfg.scenes)
    for path in _computed(weights, cfg, {p: parts[p] for p in missing}):
        found[path] = _load(path)
        done += len(parts[path])
        progress("candidates", done, cfg.scenes)
    whole = [part for part in found.values() if part is not None]
    if len(whole) < len(parts):
        raise WorkspaceError("SW-206", "a finished part has gone during the run", path=work)
    return joined(whole)


def _computed(weights: Path, cfg: VerifierConfig, parts: dict[Path, range]) -> Iterator[Path]:
    """Compute parts, in this process or in several; yields each that is stored."""
    jobs = [(path, cfg.seed, cfg.side, list(numbers)) for path, numbers in parts.items()]
    workers = min(cfg.workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        if jobs:
            _begin(weights)
        yield from map(_part, jobs)
        return
    # Torch's threads do not outlive a fork.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, _begin, (weights,)) as pool:
            yield from pool.map(_part, jobs)
    except BrokenProcessPool as e:
        raise ProcessingError(
            "SW-506",
            f"one of {workers} processes was killed, most likely for want of memory",
            path=weights,
            remedy="Lower `verifier.workers` or `verifier.side`; finished scenes are kept.",
        ) from e


_predictor: list[Predictor] = []


def _begin(weights: Path) -> None:
    """Of every process: read the network once."""
    torch.set_num_threads(1)
    _predictor[:] = [Predictor(weights, "cpu", threads=1)]


def _part(job: tuple[Path, int, int, list[int]]) -> Path:
    path, seed, side, numbers = job
    [predictor] = _predictor
    _save(path, [scene_candidates(seed, n, side, predictor) for n in numbers])
    return path


def scene_candidates(seed: int, number: int, side: int, predictor: Predictor) -> Candidates:
    """Detections on one scene.

    Parameters
    ----------
    seed, number : int
        Which scene.
    side : int
        Of a large scene [px]; others have two fifths of it.
    predictor : Predictor
        The network; its card says preset and pixel size.

    Returns
    -------
    Candidates
        In the order of the network.
    """
    rng = stream(seed, "verifier", "scene", number)
    large = number % _LARGE_EVERY == 0
    card = predictor.card
    drawn = draw_scene(
        rng, side if large else 2 * side // 5, float(card["pixel_size_m"]), wide=not large
    )
    image = render(card["preset"], drawn.layers, drawn.sigma_velocity)
    truth = _Truth.of(drawn.scene)
    values, hits, scores, sizes, ignored = [], [], [], [], 0
    for detection in predictor.predict(image[None])[0]:
        instance = _instance(detection)
        if instance is None:
            continue
        hit = truth.judge(instance)
        if hit is None:
            ignored += 1
            continue
        values.append(traits(instance, drawn.layers, 0, 0))
        hits.append(hit)
        scores.append(instance.score)
        sizes.append(instance.area_px)
    count = len(hits)
    return Candidates(
        np.array(values, np.float64).reshape(count, len(TRAITS)),
        np.array(hits, bool),
        np.array(scores, np.float64),
        np.array(sizes, np.int64),
        np.full(count, number, np.int64),
        ignored,
    )


class _Truth(NamedTuple):
    """Landslides of a scene, as judging needs them."""

    visible: NDArray[np.int32]  # slide of the visible part, 0 outside
    pixels: NDArray[np.int64]  # of the visible part, by slide
    drawn: NDArray[np.bool_]  # an interpreter would draw it, by slide
    ignored: NDArray[np.bool_]  # ground of the other landslides

    @classmethod
    def of(cls, scene: Scene) -> _Truth:
        """Of a scene."""
        count = max(int(scene.footprints.max()), int(scene.visible.max())) + 1
        drawn = np.zeros(count, bool)
        drawn[[label.slide_id for label in scene.labels if not label.ignore]] = True
        pixels = np.bincount(scene.visible.ravel(), minlength=count)
        ignored = (scene.footprints > 0) & ~drawn[scene.footprints]
        return cls(scene.visible, pixels, drawn, ignored)

    def judge(self, i: Instance) -> bool | None:
        """Whether a detection is a landslide; None for what is neither hit nor false alarm."""
        view = (
            slice(i.row, i.row + i.mask.shape[0]),
            slice(i.col, i.col + i.mask.shape[1]),
        )
        shared = np.bincount(self.visible[view][i.mask], minlength=len(self.pixels))
        shared[0] = 0
        iou = shared / np.maximum(i.area_px + self.pixels - shared, 1)
        best = int(iou.argmax())
        if iou[best] >= _IOU:
            return True if self.drawn[best] else None
        return None if self.ignored[view][i.mask].mean() >= _IGNORED else False


def _instance(d: RawDetection) -> Instance | None:
    """A detection as the stitcher would hand it on; None where it is too small."""
    mask = d.prob >= _MASK
    if mask.sum() < _LEAST_PX:
        return None
    rows, cols = (np.flatnonzero(mask.any(axis=1 - k)) for k in (0, 1))
    cut = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    return Instance(
        d.category,
        d.score,
        d.row + int(rows[0]),
        d.col + int(cols[0]),
        mask[cut],
        d.prob[cut],
        1,
        1,
    )


def _save(path: Path, found: list[Candidates]) -> None:
    part = path.with_suffix(".part")
    whole = joined(found)
    with coded_os_errors(path), part.open("wb") as f:
        np.savez(
            f,
            values=whole.values,
            hits=whole.hits,
            scores=whole.scores,
            sizes=whole.sizes,
            scenes=whole.scenes,
            ignored=np.array(whole.ignored),
        )
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)


def _load(path: Path) -> Candidates | None:
    """A finished part; None where it is missing or damaged, and is to be computed again."""
    try:
        with np.load(path) as f:
            arrays = (f[name] for name in ("values", "hits", "scores", "sizes", "scenes"))
            values, hits, scores, sizes, scenes = arrays
            return Candidates(values, hits, scores, sizes, scenes, int(f["ignored"]))
    except ARRAY_ERRORS:
        return None


def joined(found: Sequence[Candidates]) -> Candidates:
    """Candidates of several scenes or parts.

    Parameters
    ----------
    found : sequence of Candidates
        At least one.

    Returns
    -------
    Candidates
        In order.
    """
    return Candidates(
        np.concatenate([c.values for c in found]),
        np.concatenate([c.hits for c in found]),
        np.concatenate([c.scores for c in found]),
        np.concatenate([c.sizes for c in found]),
        np.concatenate([c.scenes for c in found]),
        sum(c.ignored for c in found),
    )
