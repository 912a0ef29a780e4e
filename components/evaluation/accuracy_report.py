"""docs/accuracy.md from the benchmark's figures and the experiments' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from components.evaluation.accuracy import TUNED, USUAL
from components.evaluation.accuracy_figures import draw_completeness, draw_reliability
from components.evaluation.experiments import (
    NOTES,
    cell,
    experiment_markdown,
    read_experiments,
    table,
)
from components.evaluation.figures_of_merit import CLASSES, NAMES

#: Figure → what it is and how many decimals it is shown with. docs/metrics.md says it at length.
FIGURES: Final[dict[str, tuple[str, int]]] = {
    "iou50.f1": ("object F1, IoU ≥ 0.5", 3),
    "iou50.precision": ("object precision, IoU ≥ 0.5", 3),
    "iou50.recall": ("object recall, IoU ≥ 0.5", 3),
    "iou50.pq": ("panoptic quality", 3),
    "iou50.mean_matched_iou": ("mean IoU of the matches", 3),
    "iou25.f1": ("object F1, IoU ≥ 0.25", 3),
    "iou25.precision": ("object precision, IoU ≥ 0.25", 3),
    "iou25.recall": ("object recall, IoU ≥ 0.25", 3),
    "iou75.f1": ("object F1, IoU ≥ 0.75", 3),
    "iou75.precision": ("object precision, IoU ≥ 0.75", 3),
    "iou75.recall": ("object recall, IoU ≥ 0.75", 3),
    "iou50.fp_per_1000km2": ("false alarms per 1,000 km²", 2),
    "coco.ap": ("COCO AP (IoU 0.50:0.95), all scores", 3),
    "coco.ap50": ("COCO AP50", 3),
    "coco.ap75": ("COCO AP75", 3),
    "coco.ap_small": ("COCO AP-small (< 32² px)", 3),
    "pixels.iou_fg": ("pixel IoU", 3),
    "pixels.dice": ("pixel F1", 3),
    "pixels.precision": ("pixel precision", 3),
    "pixels.recall": ("pixel recall", 3),
    "boundary.f1_1px": ("boundary F1, 1 px", 3),
    "boundary.f1_2px": ("boundary F1, 2 px", 3),
    "area.bias": ("area bias of the matches", 3),
    "ece.before": ("ECE of the raw score", 3),
    "ece.after": ("ECE of the calibrated score", 3),
}

#: Figures of splits that show fewer than all.
_SHOWN: Final = {
    "null": ("iou50.fp_per_1000km2",),
    "val": ("iou50.f1", "iou50.precision", "iou50.recall", "iou50.mean_matched_iou"),
}

#: Split, figure, label, whether more is better, target.
TARGETS: Final = (
    ("test", "iou50.f1", "object F1 at IoU 0.5", True, 0.85),
    ("test", "iou50.mean_matched_iou", "mean IoU of the matches", True, 0.78),
    ("test", "pixels.iou_fg", "pixel IoU", True, 0.75),
    ("test", "iou50.fp_per_1000km2", "false alarms per 1,000 km²", False, 2.0),
    ("null", "iou50.fp_per_1000km2", "the same without landslides", False, 1.0),
)

#: Method, label, lead in object F1 that is aimed at.
LEADS: Final = (
    (USUAL, "lead over the 2σ threshold", 0.15),
    ("unet", "lead over U-Net and components", 0.05),
    ("plain-small", "lead over the plain Mask R-CNN", 0.02),
)

#: Methods by what they are; networks given by name speak for themselves.
_LABELS: Final = {USUAL: "2σ threshold", TUNED: "tuned threshold"}

_DECILE: Final = 0.9


def write_accuracy(metrics: Mapping[str, Any], out: Path, command: str) -> list[Path]:
    """Write the document and its pictures.

    Parameters
    ----------
    metrics : mapping
        Of `components.evaluation.accuracy.measure`, with ``benchmark``.
    out : Path
        The ``.md`` file; pictures lie beside it as ``<stem>-*.png``, experiments are read from
        ``experiments/`` beside it.
    command : str
        What makes the document again.

    Returns
    -------
    list of Path
        Files written.

    Raises
    ------
    ProcessingError
        SW-604 for an unusable experiment file.
    """
    experiments = read_experiments(out.parent / "experiments")
    notes = out.parent / "experiments" / NOTES
    model = _model(metrics)
    written: list[Path] = []
    pictures: dict[str, str] = {}
    test = metrics["splits"].get("test")
    if test is not None:
        found = test["methods"][model]
        pixel_km2 = metrics["settings"]["pixel_km2"]
        figures = found["figures"]
        ece = {k: figures[f"ece.{k}"] for k in ("before", "after")}
        for name in ("completeness", "reliability"):
            path = out.with_name(f"{out.stem}-{name}.png")
            if name == "completeness":
                draw_completeness(found["completeness"], path, pixel_km2)
            else:
                draw_reliability(found["reliability"], ece, path)
            pictures[name] = path.name
            written.append(path)
    parts = [
        *_head(metrics),
        *_targets(metrics),
        *_splits(metrics),
        *_classes(metrics),
        *_completeness(metrics, pictures),
        *_score(metrics, pictures),
        *_regions(metrics),
    ]
    parts += [experiment_markdown(e) for e in experiments]
    if notes.is_file():
        parts += ["## What was tried", notes.read_text(encoding="utf-8").strip()]
    parts += ["## Again", f"```\n{command}\n```"]
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [out, *written]


def _model(metrics: Mapping[str, Any]) -> str:
    name: str = metrics["settings"]["methods"][0]
    return name


def method_label(name: str) -> str:
    """A method's name for people.

    Parameters
    ----------
    name : str
        Key of ``methods``.

    Returns
    -------
    str
    """
    return _LABELS.get(name, name)


def _head(metrics: Mapping[str, Any]) -> list[str]:
    s, model = metrics["settings"], metrics["methods"][_model(metrics)]
    methods = []
    for name, m in metrics["methods"].items():
        if m["kind"] == "threshold":
            what = f"|v − median| > {m['sigma']:g}σ of the map and 8-connected clusters"
            methods.append(f"- **{method_label(name)}**: {what}; σ from {m['source']}.")
        else:
            calibration = m["calibration"]["method"] if m["calibration"] else "none"
            size = cell(m["parameters"]) if m["parameters"] else "unknown number of"
            methods.append(
                f"- **{method_label(name)}**: form `{m['form']}`, input `{m['preset']}`, {size} parameters, "
                f"sha256 `{m['sha256'][:12]}…`; threshold {m['score_min']:.2f} of the calibrated "
                f"score ({calibration}), both from {m['source']}."
            )
    return [
        "# How good",
        (
            f"Measured on **{metrics['benchmark']}**: simulated regions with terrain, geometry, "
            "atmosphere and seeds that no training has used, through the product's own path: simulate, "
            "ingest, infer in windows, stitch, compare the stitched map with the truth. Written by "
            "`slopewatch benchmark accuracy`. What the figures are is defined in "
            "[metrics.md](metrics.md). Simulated ground is not real ground: what these figures say about "
            "a real map is how the program does where its own picture of landslides, noise and "
            "atmosphere holds."
        ),
        (
            f"References are the visible parts (|d| ≥ 2σ of the local noise) of at least "
            f"{s['reference_pixels']} px; other landslides are neither hit nor false alarm. Detections "
            f"have at least {s['min_pixels']} px. Behind each figure stands its {100 * s['coverage']:.0f} % "
            f"interval: block bootstrap, {s['draws']:,} draws of blocks of about {s['block_km']:g} km, "
            f"seed {s['seed']}. It tells how much the choice of ground matters, not that of the training "
            "seed."
        ),
        "\n".join(methods),
        f"The model is **{method_label(_model(metrics))}**"
        + (
            f"; its calibration was fitted on {model['validation']['n']} detections of the split val."
            if "validation" in model
            else "."
        ),
    ]


def _verdict(value: float, target: float, more: bool) -> str:
    short = target - value if more else value - target
    return "met" if short <= 0 else f"missed by {cell(float(short))}"


def _targets(metrics: Mapping[str, Any]) -> list[str]:
    model = _model(metrics)
    rows = []
    for split, name, text, more, target in TARGETS:
        if split not in metrics["splits"]:
            continue
        figure = metrics["splits"][split]["methods"][model]["figures"][name]
        sign = "≥" if more else "≤"
        got = "–" if figure["value"] is None else _verdict(figure["value"], target, more)
        rows.append([text, f"{sign} {target:g}", cell(figure, FIGURES[name][1]), got])
    differences = metrics["splits"].get("test", {}).get("differences", {})
    for name, text, target in LEADS:
        if name in differences:
            figure = differences[name]["iou50.f1"]
            got = "–" if figure["value"] is None else _verdict(figure["value"], target, True)
            rows.append([f"{text}, F1", f"≥ {target:g}", cell(figure), got])
    if not rows:
        return []
    return ["## Against the targets", table(["", "target", "measured", ""], rows)]


def _splits(metrics: Mapping[str, Any]) -> list[str]:
    out = []
    model = _model(metrics)
    titles = {
        "test": "Test split",
        "val": "Validation split: threshold and calibration were fixed here",
        "null": "Null split: no landslides, all that can be taken for one",
    }
    for split, found in metrics["splits"].items():
        methods = found["methods"]
        counts = methods[model]["counts"]
        names = _SHOWN.get(split, tuple(FIGURES))
        rows = [
            [
                FIGURES[name][0],
                *(cell(m["figures"].get(name), FIGURES[name][1]) for m in methods.values()),
            ]
            for name in names
        ]
        numbers = ("detections", "ignored", "below_min_pixels")
        rows += [
            [text, *(cell(m["counts"][k]) for m in methods.values())]
            for k, text in zip(
                numbers,
                (
                    "n: detections at the threshold",
                    "n: of them on ignored landslides",
                    "n: left out as too small",
                ),
                strict=True,
            )
        ]
        out += [
            f"## {titles[split]}",
            (
                f"{counts['references']:,} references on {counts['km2']:,.0f} km² of observable ground, "
                f"{counts['blocks']} blocks."
            ),
            table(["", *map(method_label, methods)], rows),
        ]
        if split == "test" and found["differences"]:
            shown = [n for n in FIGURES if not n.startswith("ece")]
            difference_rows = [
                [
                    FIGURES[n][0],
                    *(cell(d.get(n), FIGURES[n][1]) for d in found["differences"].values()),
                ]
                for n in shown
            ]
            out += [
                "### Differences on the same maps",
                (
                    f"{method_label(model)} minus the other method, with the interval of the paired "
                    "difference: where it leaves out 0, the ground drawn does not explain the difference."
                ),
                table(["", *map(method_label, found["differences"])], difference_rows),
            ]
    return out


def _classes(metrics: Mapping[str, Any]) -> list[str]:
    test = metrics["splits"].get("test")
    if test is None:
        return []
    strata = test["methods"][_model(metrics)]["strata"]
    out = [
        "## By kind of landslide",
        "By visible size [px], references of every size, false alarms by their own size:",
        table(
            ["", "n", "precision", "recall", "F1", "mean IoU of the matches"],
            [
                [
                    row["class"],
                    cell(row["n"]),
                    *(cell(row[k]) for k in ("precision", "recall", "f1", "mean_matched_iou")),
                ]
                for row in strata["size"]
            ],
        ),
        (
            "XS below 25, S 25–99, M 100–399, L from 400 px. The following are recalls of the headline's "
            "references: false alarms have no such class."
        ),
    ]
    heads = {**{k: v[0] for k, v in CLASSES.items()}, **NAMES}
    for fact, head in heads.items():
        rows = [
            [
                row["class"],
                cell(row["n"]),
                *(cell(row[k]) for k in ("recall", "recall_iou25", "mean_matched_iou")),
            ]
            for row in strata[fact]
        ]
        columns = [head, "n", "recall, IoU ≥ 0.5", "recall, IoU ≥ 0.25", "mean IoU of the matches"]
        out.append(table(columns, rows))
    return out


def statement(cells: Sequence[Mapping[str, Any]]) -> list[tuple[int, float | None, int, int]]:
    """From which rate on landslides of a least size are found nine times in ten.

    Parameters
    ----------
    cells : sequence of mapping
        Of `components.evaluation.figures_of_merit.completeness`.

    Returns
    -------
    list of tuple
        Least size [px], least |LOS| rate [mm/yr] or None where no class reaches it (then of any
        rate), landslides of both and more, found of them.
    """
    out: list[tuple[int, float | None, int, int]] = []
    for size in sorted({c["size"][0] for c in cells}):
        larger = [c for c in cells if c["size"][0] >= size]
        answer: tuple[int, float | None, int, int] | None = None
        for rate in sorted({c["rate"][0] for c in cells}):
            of = [c for c in larger if c["rate"][0] >= rate]
            n, found = sum(c["n"] for c in of), sum(c["found"] for c in of)
            if n and found >= _DECILE * n:
                answer = (size, rate, n, found)
                break
        n, found = sum(c["n"] for c in larger), sum(c["found"] for c in larger)
        out.append(answer or (size, None, n, found))
    return out


def _completeness(metrics: Mapping[str, Any], pictures: Mapping[str, str]) -> list[str]:
    test = metrics["splits"].get("test")
    if test is None:
        return []
    cells = test["methods"][_model(metrics)]["completeness"]
    pixel_km2 = metrics["settings"]["pixel_km2"]
    rows = []
    for size, rate, n, found in statement(cells):
        area = f"{size} px ({size * pixel_km2:.3f} km²)" if size else "any size"
        start = "at no rate; of all" if rate is None else f"{rate:g} mm/yr"
        rows.append([area, start, cell(n), f"{found / n:.3f}" if n else "–"])
    return [
        "## Completeness of an inventory",
        (
            "Of all landslides on observable ground, seen by the radar or not: a landslide counts as found "
            "where a detection has an IoU of at least 0.1 with its whole footprint and one centroid lies in "
            "the other. Motion across the line of sight is slow along it."
        ),
        f"![Probability of detection by size and rate]({pictures['completeness']})",
        "Nine in ten are found from here on:",
        table(["least size", "from |LOS| rate", "n", "share found"], rows),
    ]


def _score(metrics: Mapping[str, Any], pictures: Mapping[str, str]) -> list[str]:
    test = metrics["splits"].get("test")
    if test is None:
        return []
    model = metrics["methods"][_model(metrics)]
    out = [
        "## The score as a probability",
        (
            "A calibrated score says how many of such detections are landslides. Detections of all scores, "
            "hit at IoU 0.5; the calibration was fitted on the split val and is measured here on the split "
            "test. It rises strictly and changes no ranking."
        ),
        f"![Share of true detections over the score]({pictures['reliability']})",
    ]
    if "validation" in model:
        ece = model["validation"]["ece"]
        text = ", ".join(f"{k} {cell(float(v))}" for k, v in ece.items())
        out.append(f"Calibration error on held-out blocks of the split val: {text}.")
    return out


def _regions(metrics: Mapping[str, Any]) -> list[str]:
    keys = (
        ("track", "track"), ("km2", "km²"), ("observable_km2", "observable km²"),
        ("landslides", "landslides"), ("not_visible", "not visible"),
        ("ignored_label", "barely visible"), ("small", "below 25 px"), ("counted", "references"),
    )  # fmt: skip
    rows = [[r["name"], *(cell(r[k], 0) for k, _ in keys)] for r in metrics["regions"]]
    return ["## Regions", table(["region", *(text for _, text in keys)], rows)]
