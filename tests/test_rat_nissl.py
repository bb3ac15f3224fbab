"""Made-up Nissl tiles: outlines become counts, areas and densities of crops; damaged or foreign folders are refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from brodmann import splits, verbs
from brodmann.datasets import rat_nissl
from brodmann.errors import Corrupt, Refused
from brodmann.patches.controls import dark_area
from brodmann.patches.samples import PatchSamples
from brodmann.settings import Split
from nissltiles import PIXEL_UM, draw, save, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rat")


@pytest.fixture(scope="module")
def planted(folder):
    return write(folder)


@pytest.fixture(scope="module")
def source(folder, planted):
    return rat_nissl.open(folder)


def test_a_crop_holds_the_planted_cells(source, planted):
    assert [section.id for section in source.sections] == [
        "FAKE_0000_01_R1_t1", "FAKE_0000_01_R1_t2", "FAKE_0001_01_R1_t1", "FAKE_0001_01_R1_t2",
    ]  # fmt: skip
    half = rat_nissl.CROP_UM / PIXEL_UM / 2
    for section, tile in zip(source.sections, planted, strict=True):
        points = section.points
        assert len(points) == 13 * 13
        for at, size in (("x_um", section.width_um), ("y_um", section.height_um)):
            assert points[at].min() == pytest.approx(rat_nissl.CROP_UM / 2)
            assert points[at].max() == pytest.approx(size - rat_nissl.CROP_UM / 2)
        for point in points.iloc[[0, 40, 84, 168]].itertuples():
            x, y = point.x_um / PIXEL_UM, point.y_um / PIXEL_UM
            within = (np.abs(tile.column - x) < half) & (np.abs(tile.row - y) < half)
            # a disc's drawn centre lies within a fraction of a pixel of its planted one
            near = np.abs(np.maximum(np.abs(tile.column - x), np.abs(tile.row - y)) - half) < 0.6
            assert within.sum() - near.sum() <= point.count <= within.sum() + near.sum()
            if within.any() and not near.any():
                area = np.pi * (tile.radius[within] * PIXEL_UM) ** 2
                assert point.area_um2 == pytest.approx(area.mean(), rel=0.03)
            assert point.density_per_mm2 == pytest.approx(point.count / 0.044288**2)


def test_crops_side_by_side_hold_every_cell_of_a_tile(folder, planted):
    tiled = rat_nissl.open(folder, step_um=rat_nissl.CROP_UM)
    every = rat_nissl.cells(folder)
    for section, tile in zip(tiled.sections, planted, strict=True):
        points = section.points
        assert len(points) == 16
        assert points["count"].sum() == len(tile.row) == points["count_v2"].sum()
        assert points["count_cyto2"].sum() == len(tile.row[::2])
        own = every[(every["section"] == section.id) & (every["by"] == "GT")]
        assert own["area_um2"].mean() == pytest.approx((np.pi * (tile.radius * PIXEL_UM) ** 2).mean(), rel=0.03)


def test_a_cell_that_the_edge_cuts_counts_but_has_no_area(tmp_path):
    write(tmp_path, tiles=1, models=False)
    (name,) = (path.name for path in (tmp_path / "GT").iterdir())
    # one disc cut by the top edge, one whole, in the same crop; labels in two pieces are one cell
    labels = draw(np.array([2.0, 60.0]), np.array([64.0, 64.0]), np.array([12.0, 10.0]))
    labels[100:104, 100:104] = 2
    save(tmp_path / "GT" / name, labels)
    (section,) = rat_nissl.open(tmp_path, step_um=rat_nissl.CROP_UM).sections
    corner = section.points.iloc[0]
    assert corner["count"] == 2
    assert corner["area_um2"] == pytest.approx(((labels == 2).sum()) * PIXEL_UM**2)
    assert np.isnan(section.points["area_um2"].iloc[1])
    assert "count_cyto2" not in section.points


def test_pixels_are_those_of_the_crop_and_a_tile_is_never_split(source):
    recipe = verbs.recipe("patches-nissl")
    assert recipe.samples.size_px * recipe.samples.pixel_um == pytest.approx(rat_nissl.CROP_UM)
    samples = PatchSamples(source, recipe)
    assert len(samples) == 4 * 169
    places = samples.places
    batch = samples.read(np.flatnonzero(places["section"] == "FAKE_0001_01_R1_t2")[:169])
    dark = (batch["image"].numpy() < 170).mean(axis=(1, 2, 3))
    count = samples.labels["count"][places["section"] == "FAKE_0001_01_R1_t2"]
    # more cells, more dark: planted cells have the size that their row gives them, hence not perfectly
    assert np.corrcoef(dark, count)[0, 1] > 0.5
    folds = splits.folds(places, recipe.split.__class__(by="section", folds=0))
    assert len(folds) == 4
    assert all(places["section"].iloc[fold.test].nunique() == 1 for fold in folds)
    # how many rats there are is not stated, so none is held out
    with pytest.raises(Refused, match="at least that many brains"):
        splits.folds(places, Split(by="brain", folds=0))


@pytest.mark.parametrize("channels", [1, 3])
def test_dark_area_is_that_of_optical_density(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, channels, 32, 32)).astype(np.uint8)
    level = np.tile(np.array([np.log(231.0), 0.5, 0.2], np.float32)[:, None], (5, 1, channels))
    told = dark_area({"image": torch.from_numpy(image), "level": torch.from_numpy(level)})
    stain = np.log(231.0) - np.log(image.astype(float) + 1)
    np.testing.assert_allclose(told[:, 0], ((stain - 0.5) / 0.2).mean(axis=(1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(told[:, 1], (stain > 0.25).mean(axis=(1, 2, 3)), atol=1e-6)


def test_what_crops_hold_is_part_of_the_fingerprint(folder, source, planted):
    assert rat_nissl.open(folder).fingerprint == source.fingerprint
    assert rat_nissl.open(folder, crop_um=30.0).fingerprint != source.fingerprint


def test_foreign_and_damaged_folders_are_refused(folder, planted, tmp_path, monkeypatch):
    with pytest.raises(Refused, match="should hold Raw and GT"):
        rat_nissl.open(tmp_path)
    home = tmp_path / "copy"
    shutil.copytree(folder, home)
    name = planted[0].name
    with pytest.raises(Refused, match="fit into a tile of 177 um"):
        rat_nissl.open(home, crop_um=200.0)
    monkeypatch.setitem(rat_nissl.SHA256, name, {"GT": "0" * 64})
    with pytest.raises(Corrupt, match=r"GT/FAKE.* SHA-256 0000"):
        rat_nissl.open(home)
    monkeypatch.delitem(rat_nissl.SHA256, name)
    (home / "v2" / name).write_bytes(b"II*\0 cut short")
    with pytest.raises(Corrupt, match="v2/FAKE"):
        rat_nissl.open(home)
    save(home / "v2" / name, np.zeros((64, 64), np.uint16))
    with pytest.raises(Refused, match="512 x 512 px as its tile"):
        rat_nissl.open(home)
    (home / "v2" / name).unlink()
    with pytest.raises(Refused, match="v2 should hold a label image of every tile"):
        rat_nissl.open(home)
