"""slopewatch against SAHI 0.12: the same network, windows, overlap and thresholds on the same map.

Two questions. How long and with how much memory do both map it? And with a detector without error,
how many objects does each make of landslides that are known?

SAHI wants an environment of its own:

    python3.11 -m venv sahi-env
    sahi-env/bin/pip install "sahi==0.12.*" torch torchvision safetensors
    python benchmarks/bench_sahi.py --sahi sahi-env/bin/python --weights model.safetensors --side 2048

What favours SAHI: its image is rendered beforehand, and the pass over the whole image that it adds by
default, for large objects, is left out unless ``--whole-pass`` is given (its memory grows with the map).
``--prepared`` gives it slopewatch's network as made ready for maps (`models.inference`) in place of the
trained one in float32; what is left of the difference is then slicing, masks and merging. With
``--memory-gib`` SAHI has that much address space, so that running out of it ends its run and not the
machine's; the ratios are then of what it had taken by then, which is less than it would have needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import bench_growth
import maps
import numpy as np
import process

from components.cube.read import cube_info, read_layers
from components.dataset.presets import CHANNELS, REQUIRED_LAYERS, render
from components.grid import block_windows
from components.grid.windows import plan_windows
from components.inference.instances import Detection, Instance
from components.inference.predict import read_card
from components.inference.stitch import stitch
from components.workspace import Workspace

ADAPTER: Final = Path(__file__).with_name("sahi_adapter.py").resolve()

#: Side of the map with known landslides [px].
KNOWN_SIDE: Final = 1280

#: How SAHI can join detections, beside its default.
METHODS: Final = ("GREEDYNMM", "NMM", "NMS")

Mask = np.ndarray[Any, np.dtype[np.int32]]


def rendered(ws: Workspace, weights: Path, path: Path) -> Path:
    """The whole map as the network's preset renders it: float32 ``[H, W, C]``, block by block."""
    cube, _ = maps.cube_and_km2(ws)
    info, preset = cube_info(cube), str(read_card(weights)["preset"])
    if path.exists():
        return path
    part = path.with_suffix(".part")
    shape = (*info.shape, len(CHANNELS[preset]))
    out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
    for w in block_windows(info.shape, maps.SHARD):
        layers = read_layers(ws, info.track, info.period, REQUIRED_LAYERS[preset], w)
        out[w.slices] = render(preset, layers, info.sigma_velocity).transpose(1, 2, 0)
    out.flush()
    part.replace(path)
    return path


def known_landslides(side: int, seed: int = 1) -> Mask:
    """Numbered landslides: long ones, close parallel neighbours, compact small ones.

    Each is a straight or bent band, or an ellipse, at least one pixel from the next. Those longer than a
    window and the pairs of neighbours are what box rules fail at.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    out = np.zeros((side, side), np.int32)

    def add(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> bool:
        grown = mask.copy()
        for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            grown |= np.roll(mask, shift, (0, 1))
        if out[grown].any() or mask.sum() < 12:
            return False
        out[mask] = out.max() + 1
        return True

    for k, (row, bend) in enumerate(((220, 60), (560, -80), (1010, 90))):
        centre = row + bend * np.sin((x - 130) / 160)
        add((np.abs(y - centre) < 14 + 4 * k) & (x > 130) & (x < side - 130))
    diagonal = (y - x) / np.sqrt(2)
    along = (y + x) / np.sqrt(2)
    for row, col in rng.uniform(120, side - 120, (60, 2)):
        middle, across = (row + col) / np.sqrt(2), (row - col) / np.sqrt(2)
        length = rng.uniform(35, 70)
        inside = np.abs(along - middle) < length
        first = inside & (np.abs(diagonal - across) < 6)
        second = inside & (np.abs(diagonal - across - 19) < 6)  # a gap of 7 px
        if not out[first | second].any() and add(first):
            add(second)
    for row, col, long, thin in zip(
        *rng.uniform(20, side - 20, (2, 90)), *rng.uniform(4, 16, (2, 90)), strict=True
    ):
        add(((y - row) / long) ** 2 + ((x - col) / thin) ** 2 < 1)
    return out


def oracle(drawn: Mask, window: int, overlap: float) -> list[Instance]:
    """Slopewatch's landslides where the detector makes no error."""
    windows = dict(enumerate(plan_windows(drawn.shape, window, overlap)))
    return stitch(list(_seen(drawn, windows)), windows, drawn.shape).instances


def _seen(drawn: Mask, windows: dict[int, Any]) -> Iterator[Detection]:
    for i, w in windows.items():
        part = drawn[w.slices]
        for value in np.unique(part[part > 0]).tolist():
            rows, cols = np.nonzero(part == value)
            r, c = int(rows.min()), int(cols.min())
            prob = (part[r : rows.max() + 1, c : cols.max() + 1] == value).astype(np.float32)
            yield Detection(i, 1, 0.9, w.row + r, w.col + c, prob)


def painted(instances: list[Instance], shape: tuple[int, int]) -> Mask:
    """Landslides with their numbers."""
    out = np.zeros(shape, np.int32)
    for k, i in enumerate(instances, start=1):
        height, width = i.mask.shape
        out[i.row : i.row + height, i.col : i.col + width][i.mask] = k
    return out


def whole(found: Mask, drawn: Mask) -> int:
    """Known landslides that one object covers by nine tenths, and that object hardly anything else."""
    n = 0
    for value in range(1, int(drawn.max()) + 1):
        here = drawn == value
        numbers, counts = np.unique(found[here], return_counts=True)
        best = int(numbers[counts.argmax()])
        union = np.count_nonzero(here | (found == best))
        n += int(best > 0 and counts.max() >= 0.9 * union)
    return n


def count(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Objects of both, and the picture."""
    drawn = known_landslides(KNOWN_SIDE)
    np.save(folder / "drawn.npy", drawn)
    ours = painted(oracle(drawn, args.window, args.overlap), drawn.shape)
    panels = {"known": drawn, "slopewatch": ours}
    table = {"known": (int(drawn.max()),) * 2, "slopewatch": (int(ours.max()), whole(ours, drawn))}
    for method in METHODS:
        task = {
            "drawn": str(folder / "drawn.npy"), "painted": str(folder / "painted.npy"),
            "window": args.window, "overlap": args.overlap,
            "postprocess": {"postprocess_type": method},
        }  # fmt: skip
        n = process.in_process(ADAPTER, task, args.sahi)["objects"]
        found = np.load(folder / "painted.npy")
        table[f"SAHI {method}"] = (n, whole(found, drawn))
        panels.setdefault("SAHI 0.12", found)
    print(f"\n{'':>16} {'objects':>8} {'of them whole and alone':>24}")
    for name, (n, right) in table.items():
        print(f"{name:>16} {n:>8} {right:>24}")
    if args.picture:
        draw(panels, table, args.picture)
    return {name: {"objects": n, "right": right} for name, (n, right) in table.items()}


def draw(panels: dict[str, Mask], table: dict[str, tuple[int, int]], path: Path) -> None:
    """Three maps side by side, each object in a colour of its own."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rng = np.random.default_rng(1)
    n = max(int(p.max()) for p in panels.values())
    colours = mpl.colors.hsv_to_rgb(
        np.c_[rng.permutation(n) / n, rng.uniform(0.55, 1, n), rng.uniform(0.6, 0.95, n)]
    )
    colours = np.vstack([[1, 1, 1], colours])
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.9), layout="constrained")
    for axis, (name, numbers) in zip(axes, panels.items(), strict=True):
        key = "SAHI GREEDYNMM" if name.startswith("SAHI") else name
        axis.imshow(colours[numbers], interpolation="nearest")
        axis.set_title(f"{name}: {table[key][0]} objects, {table[key][1]} right")
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 80})
    plt.close(figure)


def speed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both on one map, in turns; seconds, memory, landslides."""
    base = maps.base_workspace(folder, args.base)
    ws = maps.repeated(base, folder, args.side)
    weights = args.weights.resolve()
    image = rendered(ws, weights, ws.root / f"{read_card(weights)['preset']}.npy")
    # SAHI shows the network its slices and no ground around them.
    settings = {"window": args.window, "context": args.window, "overlap": args.overlap}
    settings["score_min"] = 0.3
    settings["max_detections"] = 200
    bench_growth.forget(ws)
    ours = process.in_process(
        Path(bench_growth.__file__).resolve(),
        {
            "workspace": str(ws.root), "weights": str(weights),
            "config": {**settings, "quiet_sigma": 0.0, "device": "cpu"},
        },
    )  # fmt: skip
    task = {**settings, "weights": str(weights), "image": str(image), "prepared": args.prepared}
    task["whole_pass"] = args.whole_pass
    task["memory_gib"] = args.memory_gib
    theirs = process.in_process(ADAPTER, task, args.sahi)
    km2 = ours["km2"]
    print(f"{args.side} x {args.side} px, {km2:.0f} km², window {args.window}, ", end="")
    print(f"overlap {args.overlap:g}, SAHI's network: {args.prepared or 'as trained, float32'}")
    print(f"{'':>12} {'s':>8} {'km²/s':>8} {'cpu s':>8} {'peak MiB':>9} {'landslides':>11}")
    for name, r in (("slopewatch", ours), ("SAHI", theirs)):
        print(
            f"{name:>12} {r['seconds']:>8.1f} {km2 / r['seconds']:>8.1f} {r['cpu_seconds']:>8.1f} "
            f"{r['peak_mib']:>9.0f} {r['landslides'] or 'none':>11}"
        )
    if theirs["lacking"]:
        print(f"SAHI ran out of {args.memory_gib:g} GiB and mapped nothing: {theirs['lacking']}")
    print(f"SAHI's image alone: {theirs['image_mib']:.0f} MiB")
    return {"slopewatch": ours, "SAHI": theirs}


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Speed, memory and count."""
    pace = speed(args, folder)
    objects = count(args, folder)
    ours, theirs = pace["slopewatch"], pace["SAHI"]
    known = objects["known"]["objects"]
    return {
        **pace,
        "objects": objects,
        "ratios": {
            "sahi_speed": theirs["seconds"] / ours["seconds"],
            "sahi_cpu": theirs["cpu_seconds"] / ours["cpu_seconds"],
            "sahi_memory": theirs["peak_mib"] / ours["peak_mib"],
            "oracle_right": objects["slopewatch"]["right"] / known,
            "sahi_oracle_right": objects["SAHI GREEDYNMM"]["right"] / known,
        },
    }


def main() -> None:
    parser = maps.common_arguments(__doc__)
    parser.add_argument("--sahi", required=True, help="python of an environment with SAHI 0.12")
    parser.add_argument("--side", type=int, default=2048, help="side of the map [px]")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--prepared", default="", choices=("", "float32", "bfloat16"))
    parser.add_argument("--whole-pass", action="store_true", help="SAHI's default, see above")
    parser.add_argument("--memory-gib", type=float, help="address space that SAHI is given")
    parser.add_argument("--picture", type=Path, help="JPEG of the known landslides")
    args = parser.parse_args()
    maps.run(args, lambda _: {}, measure)


if __name__ == "__main__":
    main()
