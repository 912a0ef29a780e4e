"""Two lines of sight tell sliding from heave; a blind track says nothing."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from components.config import InventoryConfig
from components.evaluation.footprints import Footprint
from components.grid import Window, geobox_to_dict
from components.inference.instances import Instance
from components.insar.geometry import downslope_sensitivity, los_from_angles
from components.inventory.attributes import Map
from components.inventory.lineage import sites
from components.inventory.rows import MapWork, ask_other_tracks, concatenate, tables
from components.inventory.selection import select
from components.inventory.tracks import (
    LAYERS,
    CrossTrack,
    Look,
    common_share,
    compare,
    look,
    motion,
    partners,
)
from components.progress import no_progress
from components.workspace import Artefact

ASCENDING = los_from_angles(39.0, -12.0)
DESCENDING = los_from_angles(39.0, -168.0)
SHAPE = (60, 70)
GRID = GeoBox(SHAPE, Affine(25, 0, 4e5, 0, -25, 4e6), "EPSG:32647")
MASK = np.zeros(SHAPE, bool)
MASK[22:38, 20:45] = True


def sensitivities(slope: float, aspect: float) -> tuple[float, float]:
    return tuple(
        float(downslope_sensitivity(slope, aspect, u.east, u.north, u.up))
        for u in (ASCENDING, DESCENDING)
    )


def view(velocity: float, c: float, up: float, seed: int = 0, offset: float = 0.0):
    """Layers of a track: a landslide of known velocity on noisy ground with a constant offset."""
    rng = np.random.default_rng(seed)
    v = offset + rng.normal(0, 2.0, SHAPE) + np.where(MASK, velocity, 0.0)
    return {
        "los_velocity": v.astype(np.float32),
        "valid": np.ones(SHAPE, bool),
        "los_sensitivity": np.full(SHAPE, c, np.float32),
        "los_up": np.full(SHAPE, up, np.float32),
    }


def test_a_look_measures_against_the_ring_and_not_the_reference() -> None:
    seen = look(view(-30.0, -0.6, 0.77, offset=12.0), MASK)
    assert seen is not None
    assert seen.velocity == pytest.approx(-30.0, abs=0.8)
    assert seen.sensitivity == pytest.approx(-0.6, abs=1e-6)
    assert seen.up == pytest.approx(0.77, abs=1e-6)
    # Noise of 2 mm/yr, 400 px of which nine share their noise.
    assert seen.sigma == pytest.approx(2.0 / np.sqrt(400 / 9), rel=0.2)


@pytest.mark.parametrize("hidden", ["inside", "ring", "geometry"])
def test_what_a_track_has_not_measured_it_does_not_judge(hidden: str) -> None:
    layers = view(-30.0, -0.6, 0.77)
    if hidden == "inside":
        layers["valid"][22:31] = False  # nine of sixteen rows
    elif hidden == "ring":
        layers["valid"] &= MASK
    else:
        layers["los_sensitivity"][:] = np.nan
    assert look(layers, MASK) is None


def test_a_hole_in_the_terrain_model_does_not_blind_a_track() -> None:
    layers = view(-30.0, -0.6, 0.77)
    layers["los_sensitivity"][25:28, 25:30] = np.nan
    seen = look(layers, MASK)
    assert seen is not None
    assert seen.sensitivity == pytest.approx(-0.6, abs=1e-6)


@given(
    slope=st.floats(10, 45),
    aspect=st.floats(0, 360),
    rate=st.floats(20, 200),
    up_rate=st.sampled_from([-60.0, -30.0, 30.0, 60.0]),
)
def test_the_true_motion_is_never_refused(
    slope: float, aspect: float, rate: float, up_rate: float
) -> None:
    c = sensitivities(slope, aspect)
    ups = (float(ASCENDING.up), float(DESCENDING.up))
    sliding = [Look(rate * c[k], 1.0, c[k], ups[k]) for k in range(2)]
    assert motion(sliding) in {"downslope", "unclear"}
    heaving = [Look(up_rate * ups[k], 1.0, c[k], ups[k]) for k in range(2)]
    assert motion(heaving) in {"vertical", "unclear"}


def test_slopes_that_face_a_satellite_are_told_from_heave() -> None:
    for aspect in (80.0, 100.0, 260.0, 280.0):
        c = sensitivities(25.0, aspect)
        assert motion([Look(60 * c[k], 1.0, c[k], 0.78) for k in range(2)]) == "downslope"
        assert motion([Look(-40 * 0.78, 1.0, c[k], 0.78) for k in range(2)]) == "vertical"
    # Where both tracks see sliding and sinking alike, no one can tell.
    c = sensitivities(30.0, 0.0)
    assert motion([Look(50 * c[k], 1.0, c[k], 0.78) for k in range(2)]) == "unclear"


def test_upslope_motion_is_not_sliding() -> None:
    c = sensitivities(25.0, 90.0)
    assert motion([Look(-60 * c[k], 1.0, c[k], 0.78) for k in range(2)]) == "neither"


def test_compare_finds_the_landslide_in_its_window() -> None:
    c = sensitivities(25.0, 90.0)
    ups = (float(ASCENDING.up), float(DESCENDING.up))
    views = [("a", view(80 * c[0], c[0], ups[0], 1)), ("d", view(80 * c[1], c[1], ups[1], 2))]
    window = Window(100, 200, *SHAPE)
    landslide = Footprint(122, 220, MASK[22:38, 20:45])
    assert compare(views, window, landslide) == CrossTrack("downslope", ("d",))
    heave = [("a", view(30 * ups[0], c[0], ups[0], 1)), ("d", view(30 * ups[1], c[1], ups[1], 2))]
    assert compare(heave, window, landslide).motion == "vertical"
    assert compare(views[:1], window, landslide) == CrossTrack()
    blind = {**views[1][1], "valid": np.zeros(SHAPE, bool)}
    assert compare([views[0], ("d", blind)], window, landslide) == CrossTrack()
    # At the edge of the map there is less ring, and the outline still lies on itself.
    cut = Window(115, 212, 45, 58)
    part = [(t, {n: layers[n][15:60, 12:70] for n in LAYERS}) for t, layers in views]
    assert compare(part, cut, landslide).motion == "downslope"


def test_partners_are_of_other_tracks_and_about_the_same_time() -> None:
    year = ("2023-01-01", "2023-07-01")
    others = [
        ("a", year),
        ("d", ("2022-07-01", "2023-01-05")),
        ("d", ("2023-01-07", "2023-07-07")),
        ("d", ("2023-03-01", "2023-09-01")),
        ("e", ("2024-01-01", "2024-07-01")),
    ]
    assert partners("a", year, others) == [2]
    assert common_share(year, year) == 1
    assert common_share(year, others[4][1]) == 0
    assert common_share(("2023-01-01", "2023-01-13"), year) == pytest.approx(12 / 181)


def instance(row: int, col: int, mask: np.ndarray) -> Instance:
    return Instance(1, 0.9, row, col, mask, mask.astype(np.float32), 1, 1)


def work(track: str, views: dict, instances: list[Instance], start: str) -> MapWork:
    """One map as the inventory has it, its layers from memory."""
    facts = Map(track, "p", start, "2023-07-01", 180, 2.0, "", "", "")
    grid = geobox_to_dict(GRID)
    selection = select(instances, track=track, period="p", grid=grid, score_min=0.3, min_pixels=12)
    artefact = Artefact("detections", "0" * 32, "nowhere", {})
    return MapWork(
        artefact, artefact, facts, 0.3, selection,
        lambda names, w: {n: views[n][w.slices] for n in names if n in views},
    )  # fmt: skip


@pytest.mark.parametrize("vertical", ["drop", "keep"])
def test_heave_is_left_out_and_counted_where_two_tracks_see_it(vertical: str) -> None:
    c = sensitivities(25.0, 90.0)
    ups = (float(ASCENDING.up), float(DESCENDING.up))
    heave = np.zeros(SHAPE, bool)
    heave[5:15, 50:62] = True
    seen = []
    for k in range(2):
        layers = view(80 * c[k], c[k], ups[k], seed=k)
        layers["los_velocity"][heave] += np.float32(35 * ups[k])
        seen.append(layers)
    slide = instance(22, 20, MASK[22:38, 20:45])
    bump = instance(5, 50, heave[5:15, 50:62])
    works = [
        work("ascending", seen[0], [slide, bump], "2023-01-01"),
        work("descending", seen[1], [slide], "2023-01-03"),
    ]
    cfg = InventoryConfig(vertical=vertical)
    first, second = ask_other_tracks(works, cfg, GRID, no_progress)
    [slide_there] = [x.id for x in works[1].selection.landslides]
    by_row = {x.instance.row: first.cross[x.id] for x in works[0].selection.landslides}
    assert by_row == {
        22: CrossTrack("downslope", ("descending",), 2, (slide_there,)),
        5: CrossTrack("vertical", ("descending",), 1),
    }
    table = concatenate(tables([first, second], cfg, GRID, no_progress), "EPSG:32647")
    of_slide = table[table["motion"] == "downslope"]
    assert len(of_slide) == 2
    assert of_slide["site_id"].nunique() == 1
    assert of_slide["lineage_id"].nunique() == 2
    left_out = vertical == "drop"
    assert [x.instance.row for x in first.selection.landslides] == ([22] if left_out else [5, 22])
    assert first.selection.counts["vertical"] == left_out
    assert first.selection.counts["kept"] == 2 - left_out
    assert second.selection.counts["vertical"] == 0
    # Without another track nobody is asked, and nothing is left out.
    [alone] = ask_other_tracks(works[:1], cfg, GRID, no_progress)
    assert alone.cross == {}
    assert len(alone.selection.landslides) == 2


def test_sites_join_what_pairs_link_in_any_order() -> None:
    names = ["LN-d", "LN-a", "LN-c", "LN-b", "LN-e"]
    links = [("LN-d", "LN-c"), ("LN-b", "LN-a"), ("LN-c", "LN-a")]
    one = sites(names, links)
    assert len({one[n] for n in names[:4]}) == 1
    assert one["LN-e"] != one["LN-a"]
    assert one == sites(names[::-1], [(b, a) for a, b in links[::-1]])
    assert all(name.startswith("ST-") and len(name) == 15 for name in one.values())
    assert len(set(sites(names, []).values())) == 5
