"""Layers that users draw: the label under a pixel is the one of the tissue that the pixel shows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from brodmann import phantom
from brodmann.errors import BrodmannError, Refused
from brodmann.patches import readers
from brodmann.patches.layerrows import LayerTruth
from brodmann.patches.samples import PatchSamples
from brodmann.patches.source import LAYERS, UNLABELLED
from brodmann.phantom import files
from brodmann.verbs import recipe

PLACES = [(0.0, 32.0), (33.0, 32.0), (90.0, 32.0), (-151.7, 24.0), (180.0, 48.0), (12.5, 96.0)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A phantom of one brain and two sections, and the folder that it was written to."""
    source = phantom.sections(brains=1, sections_per_brain=2, native_um=32.0)
    folder = tmp_path_factory.mktemp("layers") / "sections"
    files.write(source, folder)
    return source, folder


def drawn(folder, plane, name="drawn.tif", **stated):
    """A section whose image is the label plane itself (40 grey levels a class), beside that plane as its layers."""
    import tifffile

    folder.mkdir(exist_ok=True)
    Image.fromarray((plane * 40).astype(np.uint8)).save(folder / "a.png")
    tifffile.imwrite(folder / name, plane)
    content = {"pixel_um": 10.0, **stated, "sections": [{"file": "a.png", "layers": name}]}
    (folder / "sections.json").write_text(json.dumps(content))
    return readers.read(folder).sections[0]


def blobs(height=150, width=200):
    """Classes 0 to 3 in pieces much larger than a pixel."""
    y, x = np.mgrid[:height, :width]
    return (np.sin(x / 17) + np.sin(y / 23 + x / 60) > 0).astype(np.uint8) + 2 * (y + 0.3 * x > 110).astype(np.uint8)


@pytest.mark.parametrize(("angle", "pixel_um"), [(0.0, 10.0), (37.0, 10.0), (-120.0, 10.0), (90.0, 5.0), (200.0, 20.0)])
def test_labels_lie_where_the_image_lies_however_it_is_turned(tmp_path, angle, pixel_um):
    section = drawn(tmp_path / "s", blobs())
    asked = {"size_px": 48, "pixel_um": pixel_um, "angle_deg": angle}
    for x_um, y_um in ((1000.0, 700.0), (990.0, 763.0), (1041.0, 731.5)):
        labels = section.crop_mask(x_um, y_um, **asked)
        shown = section.crop(x_um, y_um, **asked)[0] / 40
        # away from edges a pixel shows one class alone; within a pixel of one, any of the neighbours'
        alone = np.abs(shown - shown.round()) < 0.02
        around = np.stack([np.roll(labels, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)])
        inside = np.zeros_like(alone)
        inside[1:-1, 1:-1] = True
        assert (inside & alone).sum() > 1000
        # but for the odd pixel in which two classes make the grey of a third
        assert (around == shown.round()).any(0)[inside & alone].mean() > 0.998
        # and nearly always the very pixel, so nothing is shifted by even one
        assert (labels == shown.round())[inside & alone].mean() > 0.995


def test_a_label_image_of_another_pixel_size_gives_the_same_labels(tmp_path):
    plane = blobs()
    fine, coarse = drawn(tmp_path / "fine", plane), drawn(tmp_path / "coarse", plane)
    Image.fromarray(plane.repeat(3, 0).repeat(3, 1)).save(tmp_path / "coarse" / "threefold.png")
    content = json.loads((tmp_path / "coarse" / "sections.json").read_text())
    content["sections"][0]["layers"] = "threefold.png"
    (tmp_path / "coarse" / "sections.json").write_text(json.dumps(content))
    coarse = readers.read(tmp_path / "coarse").sections[0]
    for angle in (0.0, 30.0):
        asked = {"size_px": 40, "pixel_um": 10.0, "angle_deg": angle}
        np.testing.assert_array_equal(fine.crop_mask(903.0, 701.0, **asked), coarse.crop_mask(903.0, 701.0, **asked))


def test_a_written_phantom_is_read_back_with_the_same_layers(planted):
    source, folder = planted
    read = readers.read(folder)
    assert len(read.sections) == len(source.sections) == 2
    for section, truth in zip(read.sections, source.sections, strict=True):
        assert section.id == truth.id
        assert section.layer_names == truth.layer_names == LAYERS
        row = truth.points.iloc[len(truth.points) // 2]
        for angle, pixel_um in PLACES:
            asked = {"size_px": 64, "pixel_um": pixel_um, "angle_deg": row["angle_deg"] + angle}
            labels = section.crop_mask(row["x_um"], row["y_um"], **asked)
            np.testing.assert_array_equal(labels, truth.crop_mask(row["x_um"], row["y_um"], **asked))
            assert len(np.unique(labels)) >= 5


def test_planted_labels_lie_where_the_planted_image_lies_however_it_is_turned(planted):
    section = planted[0].sections[0]
    for row in section.points.iloc[10::40].itertuples():
        # about the pia, so that slide and tissue share the patch
        turn = np.deg2rad(row.angle_deg)
        x_um, y_um = row.x_um + 1300 * np.sin(turn), row.y_um - 1300 * np.cos(turn)
        for angle in (0.0, 60.0, 135.0):
            asked = {"size_px": 48, "pixel_um": 32.0, "angle_deg": row.angle_deg + angle}
            slide = section.crop_mask(x_um, y_um, **asked) == 0
            bright = section.crop(x_um, y_um, **asked)[0] > 225
            assert 0.1 < slide.mean() < 0.9
            assert (slide == bright).mean() > 0.95, (row.Index, angle, (slide == bright).mean())


def test_layers_stand_upright_under_samples(planted):
    source, _ = planted
    samples = PatchSamples(source, recipe("patches-tiny", {"samples.size_px": 64, "samples.pixel_um": 64.0}))
    truth = LayerTruth(samples)
    assert truth.classes == LAYERS
    rows = truth.rows[:: max(len(truth.rows) // 40, 1)]
    labels = truth.read(rows)
    depth = [np.nonzero(labels[:, 16:48, 24:40] == k)[1].mean() for k in range(1, 7)]
    assert (np.diff(depth) > 0).all()
    # the middle of a patch is the middle of cortex
    assert np.isin(labels[:, 32, 32], [2, 3, 4, 5]).mean() > 0.9


def test_the_sidecar_says_which_value_is_which_layer(tmp_path):
    named = {"supragranular": [3, 1], "white matter": [0], "background": [2]}
    section = drawn(tmp_path / "s", blobs(), layer_labels=named)
    assert section.layer_names == ("background", "supragranular", "white matter")
    plane, asked = blobs(), {"size_px": 32, "pixel_um": 10.0}
    found = section.crop_mask(1000.0, 700.0, **asked)
    np.testing.assert_array_equal(found, np.array([2, 1, 0, 1])[plane[54:86, 84:116]])
    some = drawn(tmp_path / "t", blobs(), layer_labels={"I": [1]}).crop_mask(1000.0, 700.0, **asked)
    np.testing.assert_array_equal(some, np.array([0, 1, UNLABELLED, UNLABELLED])[plane[54:86, 84:116]])


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"I": [1], "II": [1]}, "named before"),
        ({"I": [0]}, "named before"),
        ({"I": [-1]}, "-1 of 'I'"),
        ({"background": [0]}, "at least one layer"),
    ],
)
def test_layer_names_that_cannot_be_are_refused(tmp_path, stated, says):
    with pytest.raises(Refused, match=says):
        drawn(tmp_path / "s", blobs(), layer_labels=stated)


@pytest.mark.parametrize(
    ("name", "made", "says"),
    [
        ("absent.png", None, "should exist"),
        ("colours.png", np.zeros((150, 200, 3), np.uint8), "whole numbers"),
        ("wide.png", np.ones((150, 900), np.uint8), "shape of its image"),
        ("../elsewhere.png", None, "inside"),
    ],
)
def test_label_images_that_cannot_be_are_named_before_work_begins(tmp_path, name, made, says):
    drawn(tmp_path / "s", blobs())
    if made is not None:
        Image.fromarray(made).save(tmp_path / "s" / name)
    content = json.loads((tmp_path / "s" / "sections.json").read_text())
    content["sections"][0]["layers"] = name
    (tmp_path / "s" / "sections.json").write_text(json.dumps(content))
    with pytest.raises(BrodmannError, match=says):
        readers.read(tmp_path / "s")


def test_labels_of_a_store_that_points_elsewhere_are_refused(planted, tmp_path):
    import shutil

    folder = tmp_path / "copied"
    shutil.copytree(planted[1], folder)
    (tmp_path / "secret").write_bytes(b"not yours")
    (folder / "B1_s00.ome.zarr" / "labels" / "layers" / "0" / "stray").symlink_to(tmp_path / "secret")
    content = json.loads((folder / "sections.json").read_text())
    content["sections"] = content["sections"][:1]
    (folder / "sections.json").write_text(json.dumps(content))
    with pytest.raises(Refused, match="link"):
        readers.read(folder)


def test_labels_do_not_change_what_the_samples_are(planted, tmp_path):
    """Layers may be drawn after an encoder was trained: its data stay the same data."""
    _, folder = planted
    content = json.loads((folder / "sections.json").read_text())
    for entry in content["sections"]:
        del entry["layers"]
    (folder / "bare.json").write_text(json.dumps(content))
    bare = readers.read(folder / "bare.json")
    assert bare.fingerprint == readers.read(folder).fingerprint
    assert bare.sections[0].layer_names == ()
    with pytest.raises(Refused, match="should have layers"):
        bare.sections[0].crop_mask(1000.0, 1000.0, size_px=32, pixel_um=32.0)
