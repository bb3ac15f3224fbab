"""Cells in patches are those a loop finds; patches that tile a section count each cell once."""

from __future__ import annotations

import numpy as np
import pytest

from brodmann.errors import Refused
from brodmann.near.squares import tally

RNG = np.random.default_rng(3)
XY = RNG.uniform(0, 1000, (3000, 2))
SIZE = np.where(RNG.random(3000) < 0.1, np.nan, RNG.uniform(5, 20, 3000))


def loop(xy, size, centre, side, angle):
    """Cells of one patch: the section turned back by the patch's angle."""
    a = np.deg2rad(angle)
    up, right = np.array([np.sin(a), -np.cos(a)]), np.array([np.cos(a), np.sin(a)])
    held = [
        k for k, place in enumerate(xy)
        if -side / 2 <= (place - centre) @ right < side / 2 and -side / 2 <= -((place - centre) @ up) < side / 2
    ]  # fmt: skip
    known = size[held][~np.isnan(size[held])]
    return len(held), known.mean() if len(known) else np.nan


def test_turned_patches_hold_the_cells_that_a_loop_finds():
    centres, angle = RNG.uniform(-50, 1050, (40, 2)), RNG.uniform(-180, 180, 40)
    count, mean = tally(XY, SIZE, centres, side_um=90.0, angle_deg=angle)
    expected = [loop(XY, SIZE, c, 90.0, a) for c, a in zip(centres, angle, strict=True)]
    assert count.tolist() == [n for n, _ in expected]
    np.testing.assert_allclose(mean, [m for _, m in expected])
    upright, _ = tally(XY, SIZE, centres, side_um=90.0)
    assert (upright != count).any()


def test_patches_that_tile_a_section_count_every_cell_once(monkeypatch):
    monkeypatch.setattr("brodmann.near.squares._BLOCK", 7)
    on_edges = np.array([[0.0, 0.0], [250.0, 500.0], [500.0, 250.0], [999.9, 0.0]])
    grid = np.stack(np.meshgrid(*[np.arange(125, 1000, 250.0)] * 2), axis=-1).reshape(-1, 2)
    count, mean = tally(np.vstack([XY, on_edges]), np.append(SIZE, [np.nan] * 4), grid, side_um=250.0)
    assert count.sum() == 3004
    assert np.isfinite(mean).all()


def test_nothing_there_is_zero_cells_of_no_size():
    count, mean = tally(XY, SIZE, np.array([[5000.0, 5000]]), side_um=90.0)
    assert count[0] == 0
    assert np.isnan(mean[0])
    count, mean = tally(np.empty((0, 2)), np.empty(0), np.array([[0.0, 0]]), side_um=90.0)
    assert count[0] == 0
    assert np.isnan(mean[0])
    with pytest.raises(Refused, match="positive side"):
        tally(XY, SIZE, XY, side_um=0.0)
    with pytest.raises(Refused, match="finite places"):
        tally(XY, SIZE, np.array([[np.nan, 0]]), side_um=9.0)
