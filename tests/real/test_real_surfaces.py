"""Public surfaces: BigBrain's pial meshes are closed, fold as a brain does, and carry their thickness to a section."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from brodmann.cortex import bending, geodesic, gifti, slices

DATA = os.environ.get("BRODMANN_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="needs public data: set BRODMANN_DATA")


def file(name: str) -> Path:
    path = Path(str(DATA)) / "surfaces" / "bigbrain" / name
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return path


@pytest.mark.parametrize(("hemisphere", "fins"), [("L", 28), ("R", 19)])
def test_bigbrain_surfaces_are_closed_and_fold_as_a_brain(hemisphere: str, fins: int) -> None:
    kind = f"tpl-bigbrain_hemi-{hemisphere}_desc-pial_downsampled"
    folded = gifti.read(file(f"{kind}_orig.surf.gii"))
    # The published meshes were thinned and hold vertices that hang on an edge by two triangles back to back.
    assert folded.remarks[0] == f"{2 * fins} triangles listed twice were left out"
    assert int((~folded.used).sum()) == fins
    assert not folded.rim.any()
    assert folded.euler == 2
    assert bending.defect(folded).sum() == pytest.approx(4 * np.pi, rel=1e-9)
    # Half of a human cortex, thinned to edges of 3 mm.
    assert 80_000 < folded.areas.sum() < 120_000
    bend = bending.curvature(folded)
    assert np.isfinite(bend.mean[folded.used]).all()
    assert np.quantile(np.abs(bend.mean[folded.used]), 0.99) < 1
    centre = np.nanmean(folded.vertices, axis=0)
    ball = gifti.read(file(f"{kind}_sphere.surf.gii"))
    assert ball.euler == 2
    # Its sphere of 100 mm holds folded triangles: the typical vertex bends a little less than the sphere does.
    assert 0.006 < np.median(bending.curvature(ball).mean[ball.used]) < 0.011
    outwards = ((folded.vertices - centre) * folded.normals).sum(axis=1)
    assert np.nanmedian(outwards) > 0
    puffed = gifti.read(file(f"{kind}_inflated.surf.gii"))
    assert np.nanmedian(np.abs(bending.curvature(puffed).mean)) < 0.6 * np.nanmedian(np.abs(bend.mean))


def test_distances_on_bigbrain() -> None:
    folded = gifti.read(file("tpl-bigbrain_hemi-L_desc-pial_downsampled_orig.surf.gii"))
    away, edges = (geodesic.Geodesics(folded, points=points).away(5) for points in (5, 0))
    ok = folded.used & (edges > 5)
    straight = np.linalg.norm(folded.vertices - folded.vertices[5], axis=1)
    assert np.isfinite(away[folded.used]).all()
    assert (away[ok] <= edges[ok] + 1e-9).all()
    assert (away[ok] >= straight[ok] - 1e-6).all()
    assert 0.85 < np.median(away[ok] / edges[ok]) < 0.97
    # From pole to pole along the folds, more than twice the hemisphere's length.
    assert 150 < np.nanmax(away) < 300


def test_a_section_through_bigbrain() -> None:
    folded = gifti.read(file("tpl-bigbrain_hemi-L_desc-pial_downsampled_orig.surf.gii"))
    coronal = np.array([[0.001, 0, -70], [0, 0, 0], [0, -0.001, 60.0]])
    line = slices.midline(folded, coronal, {"curvature": bending.curvature(folded).mean})
    inner = line.groupby("line")["along_mm"].max()
    assert inner.iloc[0] > 400
    assert line["x_um"].between(0, 80_000).all()
    # Normals of a closed outline turn once around in all; half of the cortex is cut at less than 45 degrees.
    assert line["cutting_angle_deg"].median() < 45
    outline = line[line["line"] == 0]
    out = outline[["x_um", "y_um"]].to_numpy() - outline[["x_um", "y_um"]].mean().to_numpy()
    turn = np.deg2rad(outline["angle_deg"])
    assert np.median(out[:, 0] * np.sin(turn) - out[:, 1] * np.cos(turn)) > 0
