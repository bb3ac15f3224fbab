"""Public sections: registered tissue lies in the brain, masks find tissue, spots find the slide's own scale."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from brodmann.datasets import dlpfc, glt1
from brodmann.inspection import validate
from brodmann.patches import readers, tissue

DATA = os.environ.get("BRODMANN_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="needs public data: set BRODMANN_DATA")


def folder(name: str) -> Path:
    path = Path(str(DATA)) / "sections" / name
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


def test_tissue_of_registered_sections_lies_inside_the_atlas() -> None:
    nrrd = pytest.importorskip("nrrd")
    home = folder("mouse_glt1")
    volume, _ = nrrd.read(str(home / "ccfv3_2017_annotation_25um.nrrd"))
    # This copy is stored in the order and directions of QuickNII: right, anterior, superior.
    brain = volume > 0
    assert brain.shape == (456, 528, 320)
    source = glt1.open(home)
    assert len(source.sections) == 30
    inside: dict[str, float] = {}
    flipped: list[float] = []
    for section in source.sections:
        overview = section.overview(50.0)
        points = tissue.grid(tissue.mask(overview), pixel_um=50.0, spacing_um=200.0, least=0.9)
        voxel = np.floor(section.place(points[["x_um", "y_um"]].to_numpy()) / 0.025).astype(int)

        def share(at: np.ndarray) -> float:
            good = ((at >= 0) & (at < brain.shape)).all(1)
            return float(brain[tuple(at[good].T)].sum() / len(at))

        inside[section.id] = share(voxel)
        flipped.append(share(np.array([0, 0, 319]) + voxel * [1, 1, -1]))
    assert min(inside.values()) > 0.85, min(inside, key=lambda name: inside[name])
    assert np.mean(list(inside.values())) > 0.95
    # The measure can fail: upside down, a tenth or more of the tissue lies outside.
    assert np.mean(flipped) < 0.9


def test_registration_and_stated_pixel_size_agree() -> None:
    derived = readers.read(folder("mouse_glt1")).sections[0].native_um
    assert derived == pytest.approx(glt1.PIXEL_UM, rel=0.01)


def test_spot_pitch_and_stated_pixel_size_agree() -> None:
    found = readers.read(folder("human_dlpfc_he"))
    assert len(found.sections) == 8
    for section in found.sections:
        assert section.native_um == pytest.approx(dlpfc.PIXEL_UM, rel=0.02)


def test_spots_lie_on_the_tissue_mask_and_fiducials_do_not() -> None:
    source = dlpfc.open(folder("human_dlpfc_he"))
    assert {section.subject for section in source.sections} == {"donor1", "donor2"}
    for section in source.sections:
        mask = tissue.mask(section.overview(30.0))
        points = section.points
        assert points is not None
        covered = tissue.tissue_fraction(
            mask, points["x_um"].to_numpy(), points["y_um"].to_numpy(), pixel_um=30.0, side_um=60.0
        )
        assert (covered > 0.5).mean() > 0.93, section.id
        assert 0.25 < mask.mean() < 0.8, section.id
        assert set(points["layer"].dropna()) <= {"L1", "L2", "L3", "L4", "L5", "L6", "WM"}


def test_validate_says_good_of_both(tmp_path: Path) -> None:
    for name in ("mouse_glt1", "human_dlpfc_he"):
        report = validate(folder(name))
        assert report.verdict == "good", str(report)
        assert "dark on bright" in str(report)
    assert report.picture(tmp_path / "sheet.png", limit=4).stat().st_size > 50_000
