"""docs/accuracy.md from the benchmark's figures and the experiments' files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from components.evaluation.accuracy_figures import draw_completeness, draw_reliability
from components.evaluation.accuracy_targets import targets_section
from components.evaluation.completeness import completeness_section
from components.evaluation.experiments import (
    NOTES,
    cell,
    experiment_markdown,
    read_experiments,
    table,
)
from components.evaluation.figures_of_merit import CLASSES, NAMES
from components.evaluation.labels import FIGURES, TUNED, USUAL, method_label, model_of
from components.evaluation.settling import OPERATING

#: Where the factor of a baseline's threshold comes from.
_FACTORS: Final = {
    USUAL: "is the customary one (Barra et al. 2017, doi:10.3390/rs9101002)",
    TUNED: "has the best object F1 on the split val",
}

#: Figures of splits that show fewer than all.
_SHOWN: Final = {
    "null": ("iou50.fp_per_1000km2",),
    "val": ("iou50.f1", "iou50.precision", "iou50.recall", "iou50.mean_matched_iou"),
}


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
    model = model_of(metrics)
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
        *targets_section(metrics),
        *_splits(metrics),
        *_classes(metrics),
        *completeness_section(metrics, pictures),
        *_score(metrics, pictures),
        *_thresholds(metrics),
        *_regions(metrics),
    ]
    parts += [experiment_markdown(e) for e in experiments]
    if notes.is_file():
        parts += ["## What was tried", notes.read_text(encoding="utf-8").strip()]
    parts += ["## Again", f"```\n{command}\n```"]
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return [out, *written]


def _head(metrics: Mapping[str, Any]) -> list[str]:
    s, model = metrics["settings"], metrics["methods"][model_of(metrics)]
    methods = []
    for name, m in metrics["methods"].items():
        if m["kind"] == "threshold":
            what = f"|v − median| > {m['sigma']:g}σ of the map and 8-connected clusters"
            factor = f"the factor {m['sigma']:g} {_FACTORS[name]}"
            methods.append(f"- **{method_label(name)}**: {what}; {factor}.")
        else:
            calibration = m["calibration"]["method"] if m["calibration"] else "none"
            chosen = (m["calibration"] or {}).get(OPERATING)
            rule = f": {chosen}" if chosen else ""
            look = "with a second look, " if m["verified"] else ""
            size = cell(m["parameters"]) if m["parameters"] else "unknown number of"
            methods.append(
                f"- **{method_label(name)}**: form `{m['form']}`, input `{m['preset']}`, {size} "
                f"parameters, {look}"
                f"sha256 `{m['sha256'][:12]}…`; threshold {m['score_min']:.4g} of the calibrated "
                f"score ({calibration}), both from {m['source']}{rule}."
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
        f"The model is **{method_label(model_of(metrics))}**"
        + (
            f"; its calibration was fitted on {model['validation']['n']} detections of the split val."
            if "validation" in model
            else "."
        ),
    ]


def _splits(metrics: Mapping[str, Any]) -> list[str]:
    out = []
    model = model_of(metrics)
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
    strata = test["methods"][model_of(metrics)]["strata"]
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


def _score(metrics: Mapping[str, Any], pictures: Mapping[str, str]) -> list[str]:
    test = metrics["splits"].get("test")
    if test is None:
        return []
    model = metrics["methods"][model_of(metrics)]
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


def _thresholds(metrics: Mapping[str, Any]) -> list[str]:
    model, splits = model_of(metrics), metrics["splits"]
    test = splits.get("test")
    if test is None:
        return []
    rows = test["methods"][model]["thresholds"]
    heads = ["`inventory.score_min`", "precision", "recall", "F1", "false alarms per 1,000 km²"]
    keys = [("precision", 3), ("recall", 3), ("f1", 3), ("fp_per_1000km2", 2)]
    cells = [
        [
            f"{r['score_min']:.4g}" + (" (operating)" if r["operating"] else ""),
            *(cell(r[k], digits) for k, digits in keys),
        ]
        for r in rows
    ]
    if null := splits.get("null"):
        heads.append("the same without landslides")
        for line, r in zip(cells, null["methods"][model]["thresholds"], strict=True):
            line.append(cell(r["fp_per_1000km2"], 2))
    return [
        "## Fewer false alarms, or fewer misses",
        (
            "What other thresholds of the calibrated score give on the test split, and on the null "
            "split. The inventory takes the operating one unless `inventory.score_min` says another."
        ),
        table(heads, cells),
    ]


def _regions(metrics: Mapping[str, Any]) -> list[str]:
    keys = (
        ("track", "track"), ("km2", "km²"), ("observable_km2", "observable km²"),
        ("landslides", "landslides"), ("not_visible", "not visible"),
        ("ignored_label", "barely visible"), ("small", "below 25 px"), ("counted", "references"),
    )  # fmt: skip
    rows = [[r["name"], *(cell(r[k], 0) for k, _ in keys)] for r in metrics["regions"]]
    return ["## Regions", table(["region", *(text for _, text in keys)], rows)]
