"""Outlines of told layers: where they lie, what they enclose, and patches joined on their section."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.path import Path

from brodmann.errors import Refused
from brodmann.maps.outlines import joined, outlines
from brodmann.patches.resample import crop_labels


def bands(high=120, wide=160, thick=24):
    y, x = np.mgrid[:high, :wide]
    return ((y + 6 * np.sin(x / 15)) // thick % 5).astype(np.uint8)


def test_an_outline_encloses_its_pixels_and_leaves_out_holes():
    labels = np.zeros((30, 40), np.uint8)
    labels[5:25, 10:30] = 1
    labels[12:16, 18:24] = 2
    labels[0:3, 36:40] = 1
    made = outlines(labels, ("slide", "I", "II"), pixel_um=10.0)
    assert json.loads(json.dumps(made)) == made
    area = {f["properties"]["layer"]: f["properties"]["area_mm2"] for f in made["features"]}
    # corners are cut by an eighth of a pixel each
    for k, name in enumerate(("slide", "I", "II")):
        assert area[name] == pytest.approx((labels == k).sum() * 1e-4, rel=0.03)
    first = made["features"][1]["geometry"]
    assert first["type"] == "MultiPolygon"
    assert sorted(len(polygon) for polygon in first["coordinates"]) == [1, 2]
    for polygon in first["coordinates"]:
        for ring in polygon:
            assert ring[0] == ring[-1]
    square = np.array(max(first["coordinates"], key=len)[0])
    np.testing.assert_allclose(square.min(0), [100, 50])
    np.testing.assert_allclose(square.max(0), [300, 250])
    kept = outlines(labels, ("slide", "I", "II"), pixel_um=10.0, least_mm2=0.01)
    assert len(kept["features"][1]["geometry"]["coordinates"]) == 1


def test_an_outline_of_a_turned_patch_lies_on_the_section():
    plane, rng = bands(thick=9), np.random.default_rng(0)
    for angle in (0.0, 30.0, -100.0):
        patch = crop_labels(plane, 80.0, 60.0, 40, (1.0, 1.0), angle)
        made = outlines(patch, tuple("abcde"), pixel_um=10.0, place=(800.0, 600.0, angle), properties={"id": "p"})
        # places up to 15 px from the centre lie in the patch, however it is turned
        away, way = rng.uniform(0, 150, 400), rng.uniform(0, 2 * np.pi, 400)
        xy = np.column_stack([800 + away * np.cos(way), 600 + away * np.sin(way)])
        column, row = np.floor(xy / 10).astype(int).T
        found = np.full(len(xy), -1)
        for feature in made["features"]:
            assert feature["properties"]["id"] == "p"
            for polygon in feature["geometry"]["coordinates"]:
                within = Path(polygon[0]).contains_points(xy)
                assert (found[within] == -1).all()
                found[within] = "abcde".index(feature["properties"]["layer"])
        assert len(np.unique(found)) >= 3
        assert (found == plane[row, column]).mean() > 0.95


def test_patches_join_to_the_section_that_they_were_cut_from():
    plane = bands()
    rng = np.random.default_rng(0)
    places = np.column_stack([rng.uniform(0, 1600, 200), rng.uniform(0, 1200, 200), rng.uniform(-180, 180, 200)])
    cut = np.stack([crop_labels(plane, x / 10, y / 10, 32, (1.0, 1.0), a) for x, y, a in places])
    whole = joined(cut, places, pixel_um=10.0, width_um=1600, height_um=1200)
    assert whole.shape == plane.shape
    told = whole != 255
    assert told.mean() > 0.95
    # nearest labels twice over: off by a pixel at borders at most
    assert (whole == plane)[told].mean() > 0.97
    few = joined(cut[:3], places[:3], pixel_um=10.0, width_um=1600, height_um=1200)
    assert 0.02 < (few != 255).mean() < 0.2
    with pytest.raises(Refused, match="square"):
        joined(cut[:, :20], places, pixel_um=10.0, width_um=1600, height_um=1200)


def test_the_nearer_patch_tells():
    cut = np.stack([np.full((20, 20), k, np.uint8) for k in (1, 2)])
    whole = joined(cut, np.array([[100.0, 100, 0], [200.0, 100, 45]]), pixel_um=10.0, width_um=300, height_um=200)
    assert whole[10, 12] == 1
    assert whole[10, 17] == 2
