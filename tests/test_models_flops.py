"""Operations and parameters of the forms against published and hand-made counts."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from models.backbone import ResNetTrunk
from models.build import build_model
from models.flops import count
from models.forms import FORMS, UNetSpec, staged

TINY = dataclasses.replace(
    FORMS["demo"], widths=(8, 16, 16, 16), fpn_channels=16, box_width=32, mask_layers=(16,),
    contrast_window=0, guide_width=0, attention_keys=8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("depths", "groups", "gmac", "parameters"),
    [((3, 4, 6, 3), 1, 4.089, 25557032), ((3, 4, 23, 3), 1, 7.801, 44549160),
     ((3, 4, 6, 3), 32, 4.23, 25028904)],
    ids=["resnet50", "resnet101", "resnext50"],
)  # fmt: skip
def test_trunks_have_the_published_numbers(
    depths: tuple[int, ...], groups: int, gmac: float, parameters: int
) -> None:
    """Torchvision's page of classification models, less the classifier of 2048 × 1000."""
    with torch.device("meta"):
        trunk = ResNetTrunk(
            3, "bottleneck", depths, (64, 128, 256, 512), groups=(groups,) * 4, group_width=4,
            deform=("none",) * 4, norm="batch", max_pool=True, contrast_window=0,
        )  # fmt: skip
        image = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        trunk(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac - 0.002, abs=0.006)
    assert sum(p.numel() for p in trunk.parameters()) == parameters - 2048 * 1000 - 1000


def test_deformable_stage_by_hand() -> None:
    """Offsets, modulation and bilinear samples of one basic block of 16 channels at 4 × 4."""
    plain = count(TINY, 1, 2, 64)
    for version, planes in (("v1", 18), ("v2", 27)):
        deformable = count(staged(TINY, dcn=(5,), version=version), 1, 2, 64)
        offsets = 16 * (16 * 9) * planes
        samples = 16 * 9 * 16 * 4
        assert deformable.image_flops - plain.image_flops == 2 * (offsets + samples)
        assert deformable.parameters - plain.parameters == 16 * 9 * planes + planes


def test_self_attention_by_hand() -> None:
    """Levels of 32, 16, 8 and 4 px: 8 × 8 keys at most, and 4 × 4 on the last."""
    plain = count(TINY, 1, 2, 64)
    attentive = count(staged(TINY, attention="sa"), 1, 2, 64)
    expected = 0
    for side in (32, 16, 8, 4):
        pixels, keys = side**2, min(side, 8) ** 2
        expected += pixels * 16 * 8 * 4 + 2 * pixels * keys * 8
    assert attentive.image_flops - plain.image_flops == 2 * expected


def test_heads_by_hand() -> None:
    cost = count(TINY, 1, 3, 64)
    box = TINY.proposals * (16 * 49 * 32 + 32 * 32 + 32 * 3 + 32 * 12)
    assert cost.box_flops == 2 * box
    mask = 14**2 * 9 * 16 * 16 + 14**2 * 16 * 16 * 4 + 28**2 * 16 * 3
    assert cost.mask_flops == 2 * mask
    assert cost.total_flops == cost.image_flops + cost.box_flops


def test_unet_by_hand() -> None:
    spec = UNetSpec(widths=(4, 8), norm="batch", contrast_window=0, threshold=0.5)
    fine, coarse = 64**2, 32**2
    macs = fine * 9 * (3 * 4 + 4 * 4) + coarse * 9 * (4 * 8 + 8 * 8)
    macs += coarse * 8 * 4 * 4 + fine * 9 * (8 * 4 + 4 * 4) + fine * 4
    cost = count(spec, 3, 2, 64)
    assert (cost.image_flops, cost.box_flops, cost.mask_flops) == (2 * macs, 0, 0)


def test_size_is_rounded_up_to_the_coarsest_stride() -> None:
    assert count(TINY, 1, 2, 50) == count(TINY, 1, 2, 64)


def test_the_small_rows_cost_about_the_same() -> None:
    """So that the ablation compares blocks, not sizes."""
    rows = ("baseline", "resnext", "resnext-dcb", "resnext-dcb-cbam", "resnext-dcb-sa")
    for suffix in ("", "-small"):
        costs = [count(FORMS[f"{row}{suffix}"], 3, 2, 256).total_flops for row in rows]
        assert max(costs) / min(costs) < 1.15
    baseline = count(FORMS["baseline-small"], 3, 2, 256).total_flops
    for other in ("plain-small", "unet"):
        assert count(FORMS[other], 3, 2, 256).total_flops == pytest.approx(baseline, rel=0.15)


def test_verb_lists_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    from flows import show, verbs  # noqa: F401 - registers the verbs
    from flows.cli import app
    from flows.forms import FormRow, FormTable

    result = CliRunner().invoke(app, ["models", "--channels", "2", "--size", "64", "--json"])
    assert result.exit_code == 0
    table = json.loads(result.output)
    assert [row["form"] for row in table["rows"]] == list(FORMS)
    assert "2 FLOPs" in table["convention"]
    rows = {row["form"]: row for row in table["rows"]}
    assert (rows["slopewatch-s2"]["channels"], rows["demo"]["channels"]) == (5, 2)
    for form in ("demo", "resnext-dcb-sa-small", "unet"):
        model = build_model(FORMS[form], 2, 2)
        assert rows[form]["parameters"] == sum(p.numel() for p in model.parameters())
    assert rows["resnext-dcb-cbam"]["stages"] == ["X", "X", "X", "R+D2"]
    assert rows["baseline"]["strides"] == [4, 8, 16, 32, 64]
    show.forms(FormTable(2, 64, table["convention"], tuple(FormRow(**r) for r in rows.values())))
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert set(FORMS) <= set(lines)
    assert "X X X R+D2" in lines["resnext-dcb-sa"]
    assert "…" not in text
