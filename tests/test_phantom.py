"""The phantom keeps what it promises: same bytes in any order, and a truth that fits the pictures."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from brodmann import phantom
from brodmann.errors import Usage
from brodmann.phantom import areas, cells
from brodmann.phantom.brain import grow
from brodmann.phantom.cut import solve
from brodmann.phantom.sheet import Sheet
from brodmann.space import PHANTOM


@pytest.fixture(scope="module")
def source():
    return phantom.sections(brains=2, sections_per_brain=6)


@pytest.fixture(scope="module")
def clean():
    """Perfect slides, to compare cell content."""
    return phantom.sections(brains=1, sections_per_brain=6, nuisance=0.0)


@pytest.fixture(scope="module")
def points(source):
    return pd.concat([s.points.assign(subject=s.subject) for s in source.sections], ignore_index=True)


def _straight(section, area):
    """Points amid an area where the cut is square and the cortex flat enough for a plain profile."""
    p = section.points
    return p[(p.area == area) & (p.border_mm > 1.2) & (p.cutting_angle_deg < 22) & (p.curvature.abs() < 0.2)]


def _profile(source, area):
    """Mean optical density at 50 equivolumetric depths, of all straight points of an area."""
    mean = []
    for section in source.sections[1:5]:
        chosen = _straight(section, area).iloc[::3]
        image = -np.log((section.overview(16.0)[0] + 1.0) / 239) if len(chosen) else np.empty((0, 0))
        for r in chosen.itertuples():
            half = r.thickness_mm * 500 / np.cos(np.deg2rad(r.cutting_angle_deg))
            turn = np.deg2rad(r.angle_deg)
            depth, side = np.meshgrid(np.linspace(-0.98, 0.98, 50) * half, np.arange(-320, 321, 16), indexing="ij")
            x = r.x_um - depth * np.sin(turn) + side * np.cos(turn)
            y = r.y_um + depth * np.cos(turn) + side * np.sin(turn)
            rows, columns = (np.floor(v / 16).astype(int) for v in (y, x))
            mean.append(image[rows.clip(0, image.shape[0] - 1), columns.clip(0, image.shape[1] - 1)].mean(axis=1))
    assert len(mean) >= 4, f"too few straight points in {area}"
    return np.mean(mean, axis=0)


@pytest.fixture(scope="module")
def drawn(clean):
    """Neurons and both label images of four sections."""
    return [(_neurons(s), s.mask("layers"), s.mask("areas")) for s in clean.sections[1:5]]


def _content(drawn, area):
    """Stained area per layer as shares of their sum, and variance / mean of counts in 112-um boxes of layer III."""
    stained, counts = np.zeros(7), []
    for placed, layer, area_of in drawn:
        where = area_of == 1 + areas.NAMES.index(area)
        row, column = (np.floor(placed[:, k] / 16).astype(int) for k in (1, 0))
        mine = where[row, column]
        mass = np.bincount(layer[row, column][mine], placed[mine, 2].astype(float) ** 2, minlength=8)[:7]
        stained += mass
        high, wide = (size // 7 * 7 for size in layer.shape)
        whole = (where & (layer == 3))[:high, :wide].reshape(high // 7, 7, wide // 7, 7).all(axis=(1, 3))
        count, _, _ = np.histogram2d(row, column, bins=[np.arange(0, high + 1, 7), np.arange(0, wide + 1, 7)])
        counts.append(count[whole])
    count = np.concatenate(counts)
    assert len(count) > 200, f"too little of {area}"
    return stained[1:] / stained.sum(), count.var() / count.mean()


def _neurons(section):
    placed = section.cells()
    keep = (placed[:, 7] >= 0) & (placed[:, 0] < section.width_um) & (placed[:, 1] < section.height_um)
    return placed[keep]


def test_same_bytes_in_any_order_and_thread(source) -> None:
    again = phantom.sections(brains=2, sections_per_brain=6, cache_mb=1)
    wanted = [2, 9]
    first = [source.sections[k].overview(32.0) for k in wanted]
    with ThreadPoolExecutor(2) as pool:
        second = list(pool.map(lambda k: again.sections[k].overview(32.0), reversed(wanted)))
    for a, b in zip(first, reversed(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert source.fingerprint == again.fingerprint
    other = phantom.sections(brains=1, sections_per_brain=6, seed=1)
    assert other.fingerprint != source.fingerprint
    assert not np.array_equal(other.sections[2].points.x_um, source.sections[2].points.x_um)


def test_a_brain_does_not_depend_on_how_many_there_are(source) -> None:
    alone = phantom.sections(brains=1, sections_per_brain=6)
    pd.testing.assert_frame_equal(alone.sections[3].points, source.sections[3].points)


def test_sections_lie_where_they_say(source) -> None:
    assert source.space == PHANTOM
    assert len({s.id for s in source.sections}) == 12
    for section in source.sections:
        p = section.points
        xyz = section.place(p[["x_um", "y_um"]].to_numpy())
        np.testing.assert_allclose(xyz, p[["x_mm", "y_mm", "z_mm"]], atol=1e-9)
        PHANTOM.check(xyz)
        # The mid-cortical line lies on the brain's own surface.
        on_sheet = section.brain.at(section.brain.surface[..., :3], p[["s_mm", "t_mm"]].to_numpy())
        assert np.abs(on_sheet - xyz).max() < 0.05
        assert p.x_um.between(0, section.width_um).all()
        assert p.y_um.between(0, section.height_um).all()


def test_registration_errs_by_what_was_asked() -> None:
    template = Sheet.plant(0)
    for wanted in (4.0, 1.0):
        for index in range(3):
            brain = grow(template, seed=0, index=index, registration_mm=wanted)
            inner = (slice(16, -16), slice(16, -16))
            error = np.linalg.norm(brain.registered_mm - brain.true_mm, axis=-1)[inner]
            assert np.sqrt(np.mean(error**2)) == pytest.approx(wanted, rel=0.2)
            # Neighbours err alike: 2 mm apart, errors differ by far less than they are.
            field = brain.registered_mm - brain.true_mm
            step = np.linalg.norm(field[8:] - field[:-8], axis=-1)
            assert np.sqrt(np.mean(step**2)) < 0.3 * wanted


def test_every_area_and_network_is_in_every_brain(points) -> None:
    for _, brain in points.groupby("subject"):
        assert set(brain.area) == set(areas.NAMES)
        assert brain.network.nunique() >= 5
    home = points.groupby("area").network.agg(lambda n: n.value_counts(normalize=True).iloc[0])
    assert 0.4 < home.mean() < 0.95, "networks should follow areas, but only partly"


def test_networks_of_place_alone_change_nothing_else(source, points) -> None:
    other = phantom.sections(brains=2, sections_per_brain=6, networks="place")
    there = pd.concat([s.points.assign(subject=s.subject) for s in other.sections], ignore_index=True)
    pd.testing.assert_frame_equal(there.drop(columns="network"), points.drop(columns="network"))
    assert (there.network != points.network).mean() > 0.3
    # borders of networks are more frequent near those of areas only where networks follow areas
    for one, other_one in zip(source.sections[::6], other.sections[::6], strict=True):
        near = one.brain.border_mm[1:] < 1.5
        edges = [brain.network[1:] != brain.network[:-1] for brain in (one.brain, other_one.brain)]
        followed, placed = (edge[near].mean() / edge[~near].mean() for edge in edges)
        assert followed > 2
        assert placed < 1.3
    assert phantom.sections(brains=2, sections_per_brain=6, networks="areas").fingerprint == source.fingerprint
    assert other.fingerprint != source.fingerprint
    with pytest.raises(Usage, match="one of areas, place"):
        phantom.sections(networks="taste")


def test_tilted_sections_cut_cortex_at_more_angles(source, points) -> None:
    other = phantom.sections(brains=2, sections_per_brain=6, tilt_deg=40)
    there = pd.concat([s.points for s in other.sections], ignore_index=True)
    assert there.cutting_angle_deg.median() > points.cutting_angle_deg.median() + 6
    assert there.cutting_angle_deg.between(0, 80).all()
    assert (there.area.value_counts() > 0).sum() == len(areas.NAMES)
    assert phantom.sections(brains=2, sections_per_brain=6, tilt_deg=14).fingerprint == source.fingerprint
    assert other.fingerprint != source.fingerprint
    # a tilted picture is still the tissue that its table describes
    section = other.sections[3]
    known = phantom.truth(section, section.points[["x_um", "y_um"]].to_numpy())
    assert (known["area"].to_numpy() == section.points.area.to_numpy()).mean() > 0.97
    with pytest.raises(Usage, match="0 to 45"):
        phantom.sections(tilt_deg=60)


def test_areas_without_gradients_are_uniform() -> None:
    template = Sheet.plant(0)
    one, bare = (grow(template, seed=0, index=0, registration_mm=4.0, gradients=size) for size in (1.0, 0.0))
    assert (one.area == bare.area).all()
    amid = bare.border_mm > 2.5
    for brain, least, most in ((one, 0.02, 1.0), (bare, 0.0, 1e-3)):
        spread = [brain.cyto[..., areas.DENSITY][amid & (brain.area == k)].std(axis=0).max() for k in range(12)]
        assert least <= min(spread)
        assert max(spread) < most


def test_properties_are_in_range_and_vary(points) -> None:
    assert points.thickness_mm.between(1.8, 4.7).all()
    assert points.thickness_mm.std() > 0.3
    assert points.cutting_angle_deg.between(0, 75).all()
    assert points.cutting_angle_deg.quantile(0.9) > 15
    assert points.curvature.quantile(0.05) < -0.1 < 0.1 < points.curvature.quantile(0.95)
    assert np.corrcoef(points.curvature, points.thickness_mm)[0, 1] > 0.1, "fundi are thinner than crowns"
    inside = points[points.border_mm > 1.5].groupby(["subject", "area"]).density_L3
    assert (inside.std() / inside.mean()).median() > 0.03, "areas should hold gradients"


def test_layers_are_ordered_from_pia_to_white_matter(source) -> None:
    section = source.sections[2]
    for r in _straight(section, "V1").iloc[::8].itertuples():
        patch = section.crop_mask(r.x_um, r.y_um, size_px=320, pixel_um=16.0, angle_deg=r.angle_deg)
        column = patch[:, 160].astype(int)
        # From the pia above the middle down to the end of white matter; another bank may lie beyond either.
        column = column[160 - np.argmin(column[160::-1] > 0) + 1 :]
        column = column[: np.argmax(np.diff(column) < 0) + 1] if (np.diff(column[:200]) < 0).any() else column
        assert (np.diff(column)[column[:-1] > 0] >= 0).all()
        assert set(range(1, 8)) <= set(column)
        cortex = np.isin(column, range(1, 7)).sum() * 0.016
        seen = r.thickness_mm / np.cos(np.deg2rad(r.cutting_angle_deg))
        assert cortex == pytest.approx(seen, rel=0.15)
    known = phantom.truth(section, section.points[["x_um", "y_um"]].to_numpy())
    assert known.layer.isin([2, 3, 4, 5]).all()
    np.testing.assert_allclose(known.thickness_mm, section.points.thickness_mm, atol=0.05)
    assert (known.area == section.points.area).mean() > 0.97
    assert phantom.truth(section, np.array([[5.0, 5.0]])).layer[0] == 0


def test_cells_are_as_many_as_the_truth_says(clean) -> None:
    section = clean.sections[3]
    neurons = _neurons(section)
    label = section.mask("layers")
    row, column = (np.floor(neurons[:, k] / 16).astype(int) for k in (1, 0))
    layer = label[row, column]
    for number, low, high in ((2, 1200, 3600), (3, 500, 2500), (6, 500, 2600)):
        measured = (layer == number).sum() / ((label == number).sum() * 0.016**2)
        told = section.points[f"density_L{number}"].mean()
        assert low < told < high
        assert measured == pytest.approx(told, rel=0.2)
    assert (section.cells()[:, 7] < 0).sum() > 1000, "glia"


def test_cells_keep_their_distance(clean) -> None:
    section = clean.sections[3]
    from scipy.spatial import KDTree

    placed = section.cells()[:60000].astype(float)
    gap, other = KDTree(placed[:, :2]).query(placed[:, :2], k=2)
    small = placed[:, 2] + placed[other[:, 1], 2] < 20
    assert (gap[small, 1] >= 0.6 * (placed[:, 2] + placed[other[:, 1], 2])[small] - 2.5).mean() > 0.999


def test_striate_band_is_pale_and_motor_has_giants_but_no_layer_four(clean) -> None:
    striate = _profile(clean, "V1")
    depth = np.linspace(0.01, 0.99, 50)
    part = {name: (low, high) for name, low, high in (("III", 0.18, 0.36), ("IVb", 0.44, 0.51), ("IVc", 0.56, 0.66))}
    dark = {name: striate[(depth > low) & (depth < high)].mean() for name, (low, high) in part.items()}
    assert dark["IVb"] < 0.85 * dark["III"]
    assert dark["IVb"] < 0.75 * dark["IVc"]
    motor = pd.concat([_straight(s, "M1") for s in clean.sections])
    assert (motor.density_L4 == 0).all()
    assert motor.size_L4.isna().all()
    section = max(clean.sections, key=lambda s: len(_straight(s, "M1")))
    placed = _neurons(section)
    big = placed[(placed[:, 7] == 8) & (placed[:, 2] > 21)]
    area = section.mask("areas")[np.floor(big[:, 1] / 16).astype(int), np.floor(big[:, 0] / 16).astype(int)]
    assert len(big) > 10
    assert (area == 1 + areas.NAMES.index("M1")).mean() > 0.8


@pytest.mark.parametrize(("plain", "textured"), [("S1", "S2"), ("P1", "P2")])
def test_twins_share_the_mean_profile_but_not_the_texture(drawn, plain, textured) -> None:
    layout = areas.rows()
    a, b = (layout[areas.NAMES.index(name)] for name in (plain, textured))
    np.testing.assert_array_equal(a[: areas.TEXTURE.start], b[: areas.TEXTURE.start])
    assert not np.array_equal(a[areas.TEXTURE], b[areas.TEXTURE])
    (share_a, rough_a), (share_b, rough_b) = (_content(drawn, name) for name in (plain, textured))
    np.testing.assert_allclose(share_a, share_b, atol=0.06)
    stranger, _ = _content(drawn, "M1")
    assert np.abs(share_a - stranger).max() > 0.12
    assert rough_b > 1.5 * rough_a


def test_nuisances_leave_the_cells_alone(clean) -> None:
    spoiled = phantom.sections(brains=1, sections_per_brain=6, nuisance=1.0)
    np.testing.assert_array_equal(clean.sections[1].cells(), spoiled.sections[1].cells())
    assert len(clean.sections[1].vessels) == 0
    assert spoiled.sections[1].points.vessel.std() > 0.001


def test_crop_turns_the_pia_up(clean) -> None:
    section = clean.sections[3]
    slide = section.background[0]
    for r in section.points[section.points.cutting_angle_deg < 15].iloc[::25].itertuples():
        patch = section.crop(r.x_um, r.y_um, size_px=128, pixel_um=48.0, angle_deg=r.angle_deg)[0].astype(float)
        above, below = patch[:24, 58:70].mean(), patch[92:, 58:70].mean()
        middle = patch[54:74, 58:70].mean()
        assert middle < slide - 30
        assert above > middle or below > middle


def test_places_between_banks_belong_to_one_of_them(clean) -> None:
    section = clean.sections[2]
    field = solve(section.brain, section.plane).field
    between = np.empty(8)
    for row in range(20, field.shape[0] - 2, 17):
        for column in range(2, field.shape[1] - 2, 17):
            cells.between(field, column + 0.5, row + 0.5, between)
            corner = field[row : row + 2, column : column + 2, :2].reshape(-1, 2)
            assert np.linalg.norm(corner - between[:2], axis=1).min() < 1.0


def test_files_are_ordinary(source, tmp_path) -> None:
    zarr = pytest.importorskip("zarr")
    few = phantom.sections(brains=1, sections_per_brain=2, native_um=32.0)
    sidecar = phantom.write(few, tmp_path / "phantom")
    said = json.loads(sidecar.read_text())
    entry = said["sections"][1]
    store = zarr.open_group(tmp_path / "phantom" / entry["file"], mode="r")
    section = few.sections[1]
    np.testing.assert_array_equal(store["0"][...], section.overview(32.0))
    np.testing.assert_array_equal(store["labels/layers/0"][...], section.mask("layers"))
    meta = store.attrs["ome"]["multiscales"][0]
    assert meta["datasets"][1]["coordinateTransformations"][0]["scale"] == [1.0, 64.0, 64.0]
    xy = section.points[["x_um", "y_um"]].to_numpy()
    exact = np.column_stack([xy, np.ones(len(xy))]) @ np.array(entry["to_mm"]).T
    np.testing.assert_allclose(exact, section.place(xy), atol=1e-9)
    with pytest.raises(Usage, match="empty folder"):
        phantom.write(few, tmp_path / "phantom")


def test_files_open_again_with_the_ordinary_reader(tmp_path) -> None:
    patches = pytest.importorskip("brodmann.patches.source")
    from brodmann.patches.recipe import Patches, Recipe

    few = phantom.sections(brains=1, sections_per_brain=2, native_um=32.0)
    phantom.write(few, tmp_path / "phantom", labels=False)
    again = patches.open(Recipe(samples=Patches(pixel_um=64.0, size_px=32, where="points")), tmp_path / "phantom")
    assert [s.id for s in again.sections] == [s.id for s in few.sections]
    a, b = few.sections[0], again.sections[0]
    r = a.points.iloc[len(a.points) // 2]
    asked = {"size_px": 32, "pixel_um": 64.0, "angle_deg": float(r.angle_deg)}
    np.testing.assert_array_equal(a.crop(r.x_um, r.y_um, **asked), b.crop(r.x_um, r.y_um, **asked))
    assert list(b.points.area) == list(a.points.area)


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(Usage, match="brains"):
        phantom.sections(brains=0)
    with pytest.raises(Usage, match="pixel size"):
        phantom.sections(brains=1, sections_per_brain=1).sections[0].crop(1.0, 1.0, size_px=8, pixel_um=0.0)
