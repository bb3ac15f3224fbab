"""The phantom's neurons are counted in patches, and counts, sizes and densities are read out of pictures of them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from brodmann import phantom
from brodmann.errors import Usage
from brodmann.patches.baselines import statistics
from brodmann.patches.source import Source
from brodmann.phantom.counted import counted
from brodmann.settings import Split
from brodmann.tasks.deviation import MEAN, deviation
from brodmann.tasks.properties import properties

SIZE_PX, PIXEL_UM = 96, 32.0
SIDE_UM = SIZE_PX * PIXEL_UM


@pytest.fixture(scope="module")
def whole():
    """Middle sections of two brains: four of ten are enough, and cells take seconds a section."""
    made = phantom.sections(brains=2, sections_per_brain=5, nuisance=0.5, spacing_mm=1.0)
    made.sections = [section for section in made.sections if section.id[-2:] in {"02", "03"}]
    return made


@pytest.fixture(scope="module")
def source(whole):
    return counted(whole, side_um=SIDE_UM)


@pytest.fixture(scope="module")
def table(source):
    """Hand-made statistics of upright patches instead of an encoder: nothing is trained here."""
    images, rows = [], []
    for section in source.sections:
        points = section.points
        images += [
            section.crop(p.x_um, p.y_um, size_px=SIZE_PX, pixel_um=PIXEL_UM, angle_deg=p.angle_deg)
            for p in points.itertuples()
        ]
        rows.append(points.assign(subject=section.subject, section=section.id))
    obs = pd.concat(rows, ignore_index=True)
    obs["id"] = [f"p{k}" for k in range(len(obs))]
    obs.index = obs["id"].to_numpy()
    return ad.AnnData(
        X=statistics(np.stack(images)), obs=obs, uns={"brodmann": {"system": "patches", "trained": False}}
    )


def test_counts_are_those_of_the_placed_cells(whole, source):
    before, after = whole.sections[0], source.sections[0]
    assert "count" not in before.points
    assert source.fingerprint != whole.fingerprint
    bodies = before.cells()
    neurons = bodies[bodies[:, 7] >= 0]
    for point in after.points.iloc[::17].itertuples():
        turn = np.deg2rad(point.angle_deg)
        away = neurons[:, :2] - [point.x_um, point.y_um]
        right = away @ [np.cos(turn), np.sin(turn)]
        up = away @ [np.sin(turn), -np.cos(turn)]
        inside = np.maximum(np.abs(right), np.abs(up)) < SIDE_UM / 2
        assert abs(point.count - inside.sum()) <= 1
        assert point.size_um == pytest.approx(2 * neurons[inside, 2].mean(), rel=1e-3)
        assert point.count_per_mm2 == pytest.approx(point.count / (SIDE_UM / 1000) ** 2)
    assert after.points["count"].std() / after.points["count"].mean() > 0.02


@pytest.mark.parametrize("target", ["count", "size_um", "density_L4", "size_L3"])
def test_counts_sizes_and_densities_are_read_out_of_pictures(table, target):
    found = properties(table, target, Split(by="section", folds=0), compare=False)
    assert found.value > 0.2, target
    shuffled = table.copy()
    shuffled.X = np.random.default_rng(0).permutation(table.X)
    assert properties(shuffled, target, Split(by="section", folds=0), compare=False).value < 0.1


def test_the_error_of_a_count_is_told_in_cells(table):
    found = deviation(table, "count", Split(by="section", folds=0))
    assert found.gains[MEAN].value < 0
    assert 0 < found.more["features, %"].value < 100 * found.baselines[MEAN].value / table.obs["count"].min()


def test_only_the_phantom_knows_its_cells(whole):
    with pytest.raises(Usage, match="sections of the phantom"):
        counted(Source(whole.space, [object()], "f", "other"), side_um=100.0)  # type: ignore[list-item]
