"""Cortex in one section: closed forms, the phantom's truth, and masks that are not what they should be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from brodmann import phantom
from brodmann.cortex import lines, profiles, ribbon
from brodmann.errors import Refused, Usage

PIXEL_UM = 20.0
CENTRE_UM = np.array([6013.0, 5993.0])


def ring(inner_mm=3.0, outer_mm=5.5, *, sulcus=False, pixel_um=PIXEL_UM):
    """White matter within cortex within background, or the other way round: one crown, or one fundus, all around."""
    n = int(12_000 / pixel_um)
    y, x = (np.indices((n, n)) + 0.5) * pixel_um
    radius = np.hypot(x - CENTRE_UM[0], y - CENTRE_UM[1]) / 1000
    mask = np.where(radius < inner_mm, 2, np.where(radius < outer_mm, 1, 0)).astype(np.uint8)
    return np.where(mask == 1, 1, 2 - mask).astype(np.uint8) if sulcus else mask


def around(n=400, inner_mm=3.0, outer_mm=5.5):
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * np.pi, n), rng.uniform(inner_mm + 0.03, outer_mm - 0.03, n)
    return angle, radius, CENTRE_UM + 1000 * radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def off(one, other):
    """Difference of angles in degrees."""
    return np.abs((np.asarray(one) - np.asarray(other) + 180) % 360 - 180)


# ------------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("sulcus", [False, True])
def test_a_ring_has_the_depths_thickness_and_angles_of_its_formula(sulcus):
    found = ribbon.ribbon(ring(sulcus=sulcus), PIXEL_UM)
    angle, radius, xy = around()
    known = found.places(xy)
    depth = (5.5**2 - radius**2) / (5.5**2 - 3.0**2)
    length = (5.5 - radius) / 2.5
    up = np.rad2deg(np.arctan2(np.cos(angle), -np.sin(angle))) + (180 if sulcus else 0)
    assert found.remarks == ()
    assert np.abs(known["depth"] - (1 - depth if sulcus else depth)).max() < 0.008
    assert np.abs(known["depth_length"] - (1 - length if sulcus else length)).max() < 0.006
    # By half the ring's length alone depths would be off by a tenth: the test can tell them apart.
    assert np.abs(known["depth_length"] - known["depth"]).max() > 0.05
    assert np.abs(known["thickness_mm"] - 2.5).max() < 0.02
    assert off(known["angle_deg"], up).max() < 4
    assert np.median(off(known["angle_deg"], up)) < 0.5


@pytest.mark.parametrize("sulcus", [False, True])
def test_the_midline_of_a_ring_is_a_closed_circle(sulcus):
    found = lines.midline(ribbon.ribbon(ring(sulcus=sulcus), PIXEL_UM), spacing_mm=0.25)
    away = (found[["x_um", "y_um"]].to_numpy() - CENTRE_UM) / 1000
    radius, angle = np.hypot(*away.T), np.arctan2(away[:, 1], away[:, 0])
    assert set(found["line"]) == {0}
    assert np.isinf(found["end_mm"]).all()
    assert len(found) == int(2 * np.pi * 4.25 / 0.25)
    np.testing.assert_allclose(radius, 4.25, atol=0.01)
    np.testing.assert_allclose(found["thickness_mm"], 2.5, atol=0.01)
    np.testing.assert_allclose(found["curvature"], (-1 if sulcus else 1) / 4.25, atol=0.02)
    np.testing.assert_allclose(np.diff(found["along_mm"]), 0.25, atol=1e-9)
    up = np.rad2deg(np.arctan2(np.cos(angle), -np.sin(angle))) + (180 if sulcus else 0)
    # Where the ring runs along rows of pixels, its edge is known to half a pixel only.
    assert off(found["angle_deg"], up).max() < 2.5
    assert np.median(off(found["angle_deg"], up)) < 0.3
    # Pia to the left when walking; y runs down.
    step = np.diff(found[["x_um", "y_um"]].to_numpy(), axis=0)
    turn = np.deg2rad(found["angle_deg"].to_numpy()[:-1])
    pia = np.column_stack([np.sin(turn), -np.cos(turn)])
    assert ((step[:, 0] * pia[:, 1] - step[:, 1] * pia[:, 0]) < 0).all()


def test_a_slab_at_any_tilt_and_pixel_size():
    for turn in (0.0, 17.0, 45.0, 80.0):
        for pixel_um in (10.0, 25.0, 50.0):
            n = int(10_000 / pixel_um)
            y, x = (np.indices((n, n)) + 0.5) * pixel_um / 1000 - 5.003
            rad = np.deg2rad(turn)
            height = x * np.sin(rad) - y * np.cos(rad)
            mask = np.where(height > 1.0, 0, np.where(height > -1.0, 1, 2)).astype(np.int16)
            found = lines.midline(ribbon.ribbon(mask, pixel_um))
            inner = found[found["end_mm"] > 1.0]
            assert len(inner) > 20
            np.testing.assert_allclose(inner["thickness_mm"], 2.0, atol=0.02)
            np.testing.assert_allclose(inner["curvature"], 0.0, atol=0.02)
            assert off(inner["angle_deg"], turn).max() < 1.5
            assert found["line"].max() == 0


def test_streamlines_of_a_ring_are_spokes_at_even_depths():
    found = ribbon.ribbon(ring(), PIXEL_UM)
    angle, _, xy = around(50)
    for equal in ("length", "area"):
        spokes = found.streamlines(xy, points=20, equal=equal) - CENTRE_UM
        at = (np.arange(20) + 0.5) / 20
        radius = 5.5 - 2.5 * at if equal == "length" else np.sqrt(5.5**2 - at * (5.5**2 - 9))
        np.testing.assert_allclose(np.hypot(*np.moveaxis(spokes, 2, 0)) / 1000, np.tile(radius, (50, 1)), atol=0.02)
        assert off(np.rad2deg(np.arctan2(spokes[..., 1], spokes[..., 0])), np.rad2deg(angle)[:, None]).max() < 1
    with pytest.raises(Usage, match="'length' or 'area'"):
        found.streamlines(xy, equal="volume")


def test_the_depth_map_is_the_depth_of_every_pixel():
    found = ribbon.ribbon(ring(), PIXEL_UM)
    whole = found.depth()
    row, column = np.nonzero(np.isfinite(whole))
    assert len(row) == (found.kind == 1).sum()
    pick = np.random.default_rng(0).choice(len(row), 500, replace=False)
    xy = (np.column_stack([column, row])[pick] + 0.5) * found.step_um
    np.testing.assert_allclose(whole[row[pick], column[pick]], found.places(xy)["depth"], atol=0.004)


def test_places_outside_cortex_are_unknown():
    found = ribbon.ribbon(ring(), PIXEL_UM)
    xy = np.array([CENTRE_UM, [10.0, 10.0], [-500.0, 99.0], [1e9, 0.0], [np.nan, 5000.0]])
    assert found.places(xy).isna().all(axis=None)
    assert len(found.places(np.empty((0, 2)))) == 0
    with pytest.raises(Usage, match=r"\(n, 2\) um"):
        found.places(np.zeros((4, 3)))


# ----------------------------------------------------------------------------------------------- what masks leave out


def arch(*, gap_mm, tilt=0.0):
    """Half a ring, crown up, whose two legs end at cut faces in the open or at the picture's edge."""
    mask, n = ring(), 600
    y, x = (np.indices((n, n)) + 0.5) * PIXEL_UM
    low = (y - CENTRE_UM[1] - np.tan(np.deg2rad(tilt)) * np.abs(x - CENTRE_UM[0])) / 1000
    mask[low > gap_mm] = 0
    return mask


@pytest.mark.parametrize("tilt", [0.0, 25.0, -20.0])
def test_cut_faces_in_the_open_are_neither_pia_nor_white_matter(tilt):
    found = ribbon.ribbon(arch(gap_mm=0.5, tilt=tilt), PIXEL_UM)
    assert found.remarks == ("2 cut faces found",)
    line = lines.midline(found)
    assert set(line["line"]) == {0}
    # A face taken for pia would make cortex beside it as thin as the face is near.
    near = line[line["end_mm"] < 1.5]
    assert len(near) >= 8
    assert np.abs(line["thickness_mm"] - 2.5).max() < (0.03 if tilt == 0 else 0.3)
    if tilt == 0:
        length = line["along_mm"].max() + line["end_mm"].iloc[-1]
        assert length == pytest.approx(4.25 * (np.pi + 2 * np.arcsin(0.5 / 4.25)), abs=0.12)


def test_cortex_that_leaves_the_picture_is_cut_there():
    half = np.ascontiguousarray(ring()[: int(5.993 / 0.02)])
    found = ribbon.ribbon(half, PIXEL_UM)
    assert found.remarks == ()
    line = lines.midline(found)
    np.testing.assert_allclose(line["thickness_mm"], 2.5, atol=0.03)
    assert line["along_mm"].max() + line["end_mm"].iloc[-1] == pytest.approx(np.pi * 4.25, abs=0.12)


def test_cut_labels_end_cortex():
    mask = ring()
    mask[: int(5.993 / 0.02)][mask[: int(5.993 / 0.02)] > 0] = 9
    line = lines.midline(ribbon.ribbon(mask, PIXEL_UM, cut=(9,)))
    np.testing.assert_allclose(line["thickness_mm"], 2.5, atol=0.03)
    with pytest.raises(Refused, match=r"unnamed labels \[9\]"):
        ribbon.ribbon(mask, PIXEL_UM)


def test_touching_banks_of_a_sulcus_are_opened():
    """White matter on both sides of 8 mm of cortex, with a cleft at its mouth only: two banks of 4 mm."""
    mask = np.full((600, 700), 1, np.uint8)
    mask[:, :150], mask[:, -150:], mask[-100:] = 2, 2, 2
    mask[:60, 200:-200], mask[60:65, 205:-205] = 0, 0
    mask[:40, :] = 0
    half = 0.5 * (700 - 300) * 0.02
    shut = ribbon.ribbon(mask, PIXEL_UM)
    assert any("touching sulcal banks opened" in remark for remark in shut.remarks)
    bank = shut.places(np.array([[3800.0, 5000.0], [10200.0, 5000.0], [3800.0, 3000.0]]))
    np.testing.assert_allclose(bank["thickness_mm"], half, rtol=0.08)
    assert off(bank["angle_deg"], [90, -90, 90]).max() < 6
    # Left shut, streamlines run up to the mouth of the sulcus.
    left = ribbon.ribbon(mask, PIXEL_UM, open_sulci=False)
    assert not (left.places(np.array([[3800.0, 5000.0]]))["thickness_mm"] < 1.5 * half).any()


def test_vessels_and_specks_do_not_count_as_pia_or_white_matter():
    mask = ring()
    rng = np.random.default_rng(1)
    for angle in rng.uniform(0, 2 * np.pi, 40):
        column, row = ((CENTRE_UM + 1000 * 4.2 * np.array([np.cos(angle), np.sin(angle)])) / PIXEL_UM).astype(int)
        mask[row - 4 : row + 5, column - 4 : column + 5] = rng.choice([0, 2])
    found = ribbon.ribbon(mask, PIXEL_UM)
    assert "small holes and spots within cortex filled" in found.remarks[0]
    np.testing.assert_allclose(lines.midline(found)["thickness_mm"], 2.5, atol=0.02)


def test_a_section_with_several_parts_has_several_lines():
    whole = np.zeros((650, 1500), np.uint8)
    whole[:600, :600] = ring()
    whole[:600, 700:1300] = ring(2.0, 4.0)
    whole[620:640, 30:80] = 1  # a scrap of cortex without white matter
    found = ribbon.ribbon(whole, PIXEL_UM)
    line = lines.midline(found)
    assert "without pia or white matter left out" in found.remarks[-1]
    assert line.groupby("line")["thickness_mm"].median().round(1).tolist() == [2.5, 2.0]
    assert (line["line"].diff().fillna(0) >= 0).all()


# ------------------------------------------------------------------------------------------------- the phantom's truth


@pytest.fixture(scope="module")
def measured():
    """Places on the mid-lines, and anywhere in cortex, of eight sections of four brains, with what is known of them."""
    on_line, anywhere = [], []
    source = phantom.sections(seed=5, brains=4, sections_per_brain=4, nuisance=0.0)
    for number, section in enumerate(source.sections):
        if number % 4 in (0, 3):
            continue
        mask = section.mask("layers", PIXEL_UM)
        found = ribbon.ribbon(mask, PIXEL_UM, **ribbon.LAYERS)
        line = lines.midline(found)
        known = phantom.truth(section, line[["x_um", "y_um"]].to_numpy())
        on_line.append(line.join(known.drop(columns=["x_um", "y_um"]), rsuffix="_true"))
        at = np.argwhere((mask > 0) & (mask < 7))
        xy = (np.random.default_rng(number).choice(at, 1500)[:, ::-1] + 0.5) * PIXEL_UM
        known = phantom.truth(section, xy)
        anywhere.append(found.places(xy).join(known, rsuffix="_true"))
    return pd.concat(on_line, ignore_index=True), pd.concat(anywhere, ignore_index=True)


def spread(error):
    return np.quantile(np.abs(error), [0.5, 0.95])


def test_thickness_of_the_phantom(measured):
    line = measured[0]
    line = line[(line["end_mm"] > 1.5) & (line["cutting_angle_deg"] < 30)]
    cosine = np.cos(np.deg2rad(line["cutting_angle_deg"]))
    assert len(line) > 1500
    median, high = spread(line["thickness_mm"] * cosine - line["thickness_mm_true"])
    assert median < 0.01
    assert high < 0.06
    # What an oblique cut adds is seen, and is what one over the cosine says.
    oblique = line["cutting_angle_deg"] > 20
    assert oblique.sum() > 100
    assert (line["thickness_mm"] - line["thickness_mm_true"])[oblique].median() > 0.15


def test_angles_and_curvature_of_the_phantom(measured):
    line = measured[0][measured[0]["end_mm"] > 1.5]
    median, high = spread(off(line["angle_deg"], line["angle_deg_true"]))
    assert median < 0.4
    assert high < 1.6
    # The phantom's folds hardly bend along the third axis: the line bends twice as much as the mean curvature.
    assert np.corrcoef(line["curvature"], line["curvature_true"])[0, 1] > 0.95
    median, high = spread(line["curvature"] / 2 - line["curvature_true"])
    assert median < 0.025
    assert high < 0.08


def test_depth_of_the_phantom(measured):
    inner = measured[1]
    inner = inner[inner["s_mm"].between(0, 60)]
    assert inner["depth"].isna().mean() < 0.02
    inner = inner.dropna(subset="depth")
    assert len(inner) > 8000
    median, high = spread(inner["depth"] - inner["depth_true"])
    assert median < 0.012
    assert high < 0.05
    # Depth by length, which ignores folding, is several times farther off.
    assert spread(inner["depth_length"] - inner["depth_true"])[0] > 3 * median


# --------------------------------------------------------------------------------------------------------- profiles


def test_profiles_read_what_lies_at_each_depth():
    """An image whose value is the radius: each profile is a straight line, or a root where depths have equal area."""
    found = ribbon.ribbon(ring(), PIXEL_UM)
    y, x = (np.indices((1200, 1200)) + 0.5) * 10.0
    image = np.hypot(x - CENTRE_UM[0], y - CENTRE_UM[1]) / 1000
    places = lines.midline(found, spacing_mm=2.0)
    at = (np.arange(50) + 0.5) / 50
    read = profiles.profiles(found, image, 10.0, places)
    np.testing.assert_allclose(read.mean, np.tile(5.5 - 2.5 * at, (len(places), 1)), atol=0.02)
    assert read.sd.max() < 0.02
    even = profiles.profiles(found, image, 10.0, places, equal="area")
    np.testing.assert_allclose(even.mean, np.tile(np.sqrt(5.5**2 - at * (5.5**2 - 9)), (len(places), 1)), atol=0.02)
    # Stripes along the traverse are no part of the mean, but of its SD.
    turned = np.arctan2(y - CENTRE_UM[1], x - CENTRE_UM[0])
    striped = profiles.profiles(found, image + np.sign(np.sin(400 * turned)), 10.0, places, width_um=600)
    np.testing.assert_allclose(striped.mean, read.mean, atol=0.3)
    assert striped.sd.mean() > 0.7


def test_shapes_of_profiles_are_moments():
    depth = (np.arange(200) + 0.5) / 200
    bell = np.exp(-((depth - 0.4) ** 2) / (2 * 0.08**2))
    rows = profiles.shape(np.stack([bell, np.ones(200), 2 * depth, np.zeros(200), np.full(200, np.nan)]))
    assert list(rows.columns) == [*profiles.SHAPE, *(f"d_{name}" for name in profiles.SHAPE)]
    np.testing.assert_allclose(rows.loc[0, ["centroid", "sd", "skewness", "kurtosis"]], [0.4, 0.08, 0, 3], atol=1e-3)
    assert rows.loc[0, "mean"] == pytest.approx(0.08 * np.sqrt(2 * np.pi), rel=1e-3)
    # The absolute slope of a bell is symmetric about its middle and sqrt(2) times as wide.
    np.testing.assert_allclose(rows.loc[0, ["d_centroid", "d_sd", "d_skewness"]], [0.4, 0.08 * 2**0.5, 0], atol=1e-3)
    np.testing.assert_allclose(rows.loc[1, ["mean", "centroid", "kurtosis"]], [1, 0.5, 1.8], atol=1e-3)
    np.testing.assert_allclose(rows.loc[2, ["centroid", "d_mean", "d_centroid"]], [2 / 3, 2, 0.5], atol=1e-3)
    assert rows.loc[2, "skewness"] == pytest.approx(-2 * 2**0.5 / 5, abs=1e-3)
    assert rows.loc[3, "centroid":"kurtosis"].isna().all()
    assert rows.loc[1, "d_centroid":].isna().all()
    assert rows.loc[4].isna().all()
    with pytest.raises(Refused, match="not be negative"):
        profiles.shape(np.full((2, 50), -1.0))
    with pytest.raises(Refused, match="three points"):
        profiles.shape(np.ones((2, 2)))


def test_profiles_of_another_image_are_refused():
    found = ribbon.ribbon(ring(), PIXEL_UM)
    places = lines.midline(found, spacing_mm=5.0)
    with pytest.raises(Refused, match="same section"):
        profiles.profiles(found, np.zeros((600, 600)), 10.0, places)
    with pytest.raises(Refused, match="one channel"):
        profiles.profiles(found, np.zeros((3, 600, 600)), 20.0, places)
    with pytest.raises(Usage, match="positive"):
        profiles.profiles(found, np.zeros((600, 600)), 0.0, places)


# --------------------------------------------------------------------------------------------------------- bad masks


@pytest.mark.parametrize("pixel_um", [None, 0, -20.0, np.nan, np.inf, "20", True])
def test_a_mask_needs_its_pixel_size(pixel_um):
    with pytest.raises(Usage, match="pixel size"):
        ribbon.ribbon(ring(), pixel_um)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda mask: np.where(mask == 2, 0, mask), "hold white matter"),
        (lambda mask: np.where(mask == 1, 0, mask), "hold cortex"),
        (lambda mask: np.where(mask == 0, 2, mask), "hold background"),
        (lambda mask: np.zeros_like(mask), "hold cortex"),
        (lambda mask: mask.astype(float), "whole numbers"),
        (lambda mask: mask > 0, "whole numbers"),
        (lambda mask: mask[None], r"plane \(h, w\)"),
        (lambda mask: mask[:2], "three pixels"),
        (lambda mask: np.where(mask == 0, 5, mask), r"unnamed labels \[5\]"),
        (lambda mask: mask.astype(np.int16) - 1, r"unnamed labels \[-1\]"),
        (lambda mask: mask.astype(np.int64) * 100_000, "unnamed labels"),
        (lambda mask: np.where(mask == 1, 2, np.where(mask == 2, 1, 0)), "between pia and white matter"),
    ],
)
def test_bad_masks_are_refused_with_what_they_lack(change, said):
    with pytest.raises(Refused, match=said):
        ribbon.ribbon(np.ascontiguousarray(change(ring())), PIXEL_UM)


def test_a_wrong_pixel_size_shows_in_thickness():
    with pytest.raises(Refused, match="pixels of the working grid"):
        ribbon.ribbon(np.ascontiguousarray(ring()[::40, ::40]), 800.0)
    with pytest.raises(Refused, match="mm thick"):
        ribbon.ribbon(ring(), 0.5)
    with pytest.raises(Refused, match="mm thick"):
        ribbon.ribbon(ring(), 200.0)
    with pytest.raises(Usage, match="different numbers"):
        ribbon.ribbon(ring(), PIXEL_UM, cortex=(1, 2), white=(2,))
    with pytest.raises(Usage, match="grid_um"):
        ribbon.ribbon(ring(), PIXEL_UM, grid_um=0)
    with pytest.raises(Usage, match="spacing_mm"):
        lines.midline(ribbon.ribbon(ring(), PIXEL_UM), spacing_mm=0)
    with pytest.raises(Refused, match="90 mm long"):
        lines.midline(ribbon.ribbon(ring(), PIXEL_UM), least_mm=90)


def test_labels_of_any_integer_type_and_layout():
    mask = ring()
    expected = ribbon.ribbon(mask, PIXEL_UM).places(around(20)[2])
    for other in (mask.astype(np.int64), np.asfortranarray(mask), (mask * 100).astype(np.uint16)):
        names = {"cortex": (100,), "white": (200,)} if other.max() > 2 else {}
        pd.testing.assert_frame_equal(ribbon.ribbon(other, PIXEL_UM, **names).places(around(20)[2]), expected)
