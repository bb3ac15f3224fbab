"""Cortex drawn as a mask: sample points along its middle, upright, where the planted brain has them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import KDTree

from brodmann import phantom
from brodmann.errors import BrodmannError, Refused
from brodmann.patches import readers
from brodmann.patches.samples import PatchSamples
from brodmann.phantom import files
from brodmann.verbs import recipe

LAYERS = {"cortex_labels": [1, 2, 3, 4, 5, 6], "white_labels": [7]}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A phantom of one brain and two sections, and the folder that it was written to."""
    source = phantom.sections(brains=1, sections_per_brain=2, native_um=32.0)
    folder = tmp_path_factory.mktemp("masks") / "sections"
    files.write(source, folder)
    return source, folder


def stated(folder, mask, **more):
    """``sections.json`` without points, each section with a mask; ``mask`` names it."""
    content = json.loads((folder / "sections.json").read_text())
    for entry in content["sections"]:
        entry.pop("points", None)
        entry["mask"] = mask(entry)
    path = folder / "masked.json"
    path.write_text(json.dumps({**content, **LAYERS, **more}))
    return readers.read(path)


def labels(entry) -> str:
    return f"{entry['file']}/labels/layers"


def test_points_lie_along_the_planted_mid_line_and_stand_upright(planted):
    source, folder = planted
    read = stated(folder, labels)
    assert len(read.sections) == 2
    for section, truth in zip(read.sections, source.sections, strict=True):
        assert section.id == truth.id
        found = section.points
        planted_xy = truth.points[["x_um", "y_um"]].to_numpy()
        away, which = KDTree(planted_xy).query(found[["x_um", "y_um"]].to_numpy())
        # the planted points end where the sheet does; a mask's line may go on to the edge of tissue
        near = away < 400
        assert near.mean() > 0.8
        assert np.median(away[near]) < 150
        turned = found["angle_deg"].to_numpy()[near] - truth.points["angle_deg"].to_numpy()[which[near]]
        assert np.median(np.abs((turned + 180) % 360 - 180)) < 4
        # every planted point has one beside it
        assert np.quantile(KDTree(found[["x_um", "y_um"]].to_numpy()).query(planted_xy)[0], 0.9) < 400


def test_a_coarser_mask_of_another_format_gives_the_same_points(planted):
    _, folder = planted
    fine = stated(folder, labels).sections[0]
    original = files.__dict__["zarr"].open_group(folder / "B1_s00.ome.zarr/labels/layers", mode="r")["0"][...]
    Image.fromarray(original[::2, ::2]).save(folder / "half.png")
    content = json.loads((folder / "masked.json").read_text())
    content["sections"] = [{**content["sections"][0], "mask": "half.png"}]
    (folder / "masked.json").write_text(json.dumps(content))
    coarse = readers.read(folder / "masked.json").sections[0]
    away, _ = KDTree(fine.points[["x_um", "y_um"]].to_numpy()).query(coarse.points[["x_um", "y_um"]].to_numpy())
    assert np.median(away) < 64
    assert abs(len(coarse.points) / len(fine.points) - 1) < 0.05


def test_samples_are_taken_along_the_ribbon_of_a_mask(planted):
    _, folder = planted
    samples = PatchSamples(stated(folder, labels), recipe("patches-tiny", {"partners.metric": "space"}))
    assert len(samples) > 50
    assert {"thickness_mm", "bend"} <= set(samples.labels)
    assert samples.labels["thickness_mm"].between(1.0, 6.0).mean() > 0.95
    assert samples.read(np.arange(4))["image"].shape == (4, 1, 96, 96)


def test_the_mask_is_part_of_what_the_data_are(planted):
    _, folder = planted
    one, other = stated(folder, labels), stated(folder, labels, white_labels=[6, 7], cortex_labels=[1, 2, 3, 4, 5])
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("name", "made", "says"),
    [
        ("absent.png", None, "should exist"),
        ("colours.png", np.zeros((40, 60, 3), np.uint8), "whole numbers"),
        ("wide.png", np.ones((40, 400), np.uint8), "shape of its image"),
        ("text.png", b"no picture", "PNG, a TIFF"),
    ],
)
def test_masks_that_cannot_be_are_named(planted, name, made, says):
    _, folder = planted
    if isinstance(made, bytes):
        (folder / name).write_bytes(made)
    elif made is not None:
        Image.fromarray(made).save(folder / name)
    with pytest.raises(Refused, match=says):
        stated(folder, lambda _: name)


def test_a_mask_outside_the_folder_is_refused(planted):
    _, folder = planted
    with pytest.raises(BrodmannError):
        stated(folder, lambda _: "../elsewhere.png")
