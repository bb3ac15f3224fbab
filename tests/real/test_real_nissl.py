"""Outlined cells of rat cortex: outlines lie on stain, densities are those of tissue, tiles do not overlap."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from brodmann.datasets import rat_nissl
from brodmann.patches import readers

DATA = os.environ.get("BRODMANN_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="needs public data: set BRODMANN_DATA")


@pytest.fixture(scope="module")
def folder() -> Path:
    path = Path(str(DATA)) / "sections" / "rat_nissl"
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


def test_the_files_own_pixel_size_is_the_stated_one(folder: Path) -> None:
    for path in sorted((folder / "Raw").iterdir()):
        (section,) = readers.read(path).sections
        assert section.native_um == pytest.approx(rat_nissl.PIXEL_UM, rel=1e-3)
        assert section.width_um == pytest.approx(177, abs=1)


def test_outlines_lie_on_stain_and_turned_ones_do_not(folder: Path) -> None:
    every = rat_nissl.cells(folder)
    source = rat_nissl.open(folder)
    assert len(source.sections) >= 2
    for section in source.sections:
        assert section.dark_stain
        grey = section.overview(rat_nissl.PIXEL_UM).astype(float).mean(0)
        own = every[(every["section"] == section.id) & (every["by"] == "GT")]
        row, column = ((own[name] / rat_nissl.PIXEL_UM).astype(int) for name in ("y_um", "x_um"))
        at = grey[row, column].mean()
        assert at < grey.mean() - 5, section.id
        # the measure can fail: the same places on the tile turned by 90 degrees are no darker than the tile
        assert np.rot90(grey)[row, column].mean() > at + 5, section.id


def test_cells_have_the_size_and_density_of_cortex(folder: Path) -> None:
    every = rat_nissl.cells(folder)
    hand = every[(every["by"] == "GT") & every["whole"]]
    diameter_um = 2 * np.sqrt(hand["area_um2"] / np.pi)
    assert 6 < diameter_um.median() < 14
    assert diameter_um.max() < 35
    tile_mm2 = (512 * rat_nissl.PIXEL_UM / 1000) ** 2
    density = every[every["by"] == "GT"].groupby("section").size() / tile_mm2
    assert density.between(1500, 8000).all()


def test_crops_side_by_side_hold_all_cells_and_models_err_as_seen(folder: Path) -> None:
    every = rat_nissl.cells(folder)
    source = rat_nissl.open(folder, step_um=rat_nissl.CROP_UM)
    for section in source.sections:
        points = section.points
        assert points is not None
        own = every[every["section"] == section.id]
        for by, column in (("GT", "count"), ("cyto2", "count_cyto2"), ("v2", "count_v2")):
            assert points[column].sum() == (own["by"] == by).sum()
        # on a look at the tiles: cyto2 merges and misses small cells, v2 misses a few
        assert points["count_cyto2"].sum() < 0.65 * points["count"].sum()
        assert 0.7 < points["count_v2"].sum() / points["count"].sum() <= 1.0


def test_tiles_do_not_overlap_in_appearance(folder: Path) -> None:
    """Two tiles of one slide must not be the same tissue: a whole tile held out would then be no test."""
    grey = [
        section.overview(4 * rat_nissl.PIXEL_UM).astype(float).mean(0) for section in rat_nissl.open(folder).sections
    ]
    for i, one in enumerate(grey):
        for other in grey[:i]:
            a, b = ((tile - tile.mean()) / tile.std() / tile.size**0.5 for tile in (one, other))
            # correlation at every shift, also of a quarter of the tile that both hold
            peak = np.fft.ifft2(np.fft.fft2(a) * np.conj(np.fft.fft2(b))).real.max()
            assert peak < 0.25
    shifted = np.roll(grey[0], 40, axis=0)
    a, b = ((tile - tile.mean()) / tile.std() / tile.size**0.5 for tile in (grey[0], shifted))
    assert np.fft.ifft2(np.fft.fft2(a) * np.conj(np.fft.fft2(b))).real.max() > 0.9
