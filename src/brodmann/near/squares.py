"""Which cells lie within square patches, turned or upright: how many, and how large on average."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann.errors import Refused

_BLOCK = 512
"""Patches looked at together: their cells, not those of all patches, are in memory."""


def tally(
    xy_um: NDArray[np.floating],
    sizes: NDArray[np.floating],
    centres_um: NDArray[np.floating],
    *,
    side_um: float,
    angle_deg: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count the cells whose centre lies in each patch, and average their sizes.

    A patch holds its upper and left edge, not its lower and right one: patches that tile a section count each cell
    once, so that a count over patch area is an unbiased density (Gundersen 1977's forbidden lines, for centres).

    Parameters
    ----------
    xy_um : (n, 2) float
        Centres of the cells, um right and down from the section's corner.
    sizes : (n,) float
        Any size of each cell; NaN for cells that count but whose size is not known (cut by the image's edge).
    centres_um : (m, 2) float
        Centres of the patches.
    side_um : float
        Side of the patches.
    angle_deg : (m,) float, optional
        Patch "up" points along ``(sin a, -cos a)``, as in `brodmann.patches.source.Section.crop`; 0 by default.

    Returns
    -------
    count : (m,) int64
    mean : (m,) float64
        NaN where no cell of known size lies.

    Raises
    ------
    Refused
        The side is not positive, or a place is not finite.
    """
    cells, centres = (np.asarray(array, np.float64).reshape(-1, 2) for array in (xy_um, centres_um))
    size = np.asarray(sizes, np.float64)
    if not (np.isfinite(side_um) and side_um > 0):
        raise Refused("patches should have a positive side.", found=f"{side_um} um.")
    if not (np.isfinite(cells).all() and np.isfinite(centres).all()):
        raise Refused("cells and patches should lie at finite places.", found="NaN or infinity.")
    turn = np.zeros(len(centres)) if angle_deg is None else np.deg2rad(np.asarray(angle_deg, np.float64))
    count, known, total = np.zeros(len(centres), np.int64), np.zeros(len(centres)), np.zeros(len(centres))
    if not len(cells):
        return count, np.full(len(centres), np.nan)
    tree: Any = KDTree(cells)
    half = side_um / 2
    for start in range(0, len(centres), _BLOCK):
        block = slice(start, start + _BLOCK)
        # the circle around the square, with room for rounding
        hits = cast("list[list[int]]", list(tree.query_ball_point(centres[block], half * 1.415)))
        patch = np.repeat(np.arange(len(hits)), [len(hit) for hit in hits])
        cell = np.concatenate([np.asarray(hit, np.int64) for hit in hits])
        across, down = (cells[cell] - centres[block][patch]).T
        cos, sin = np.cos(turn[block])[patch], np.sin(turn[block])[patch]
        right, below = across * cos + down * sin, down * cos - across * sin
        within = (right >= -half) & (right < half) & (below >= -half) & (below < half)
        patch, held = patch[within], size[cell[within]]
        sized = ~np.isnan(held)
        count[block] = np.bincount(patch, minlength=len(hits))
        known[block] = np.bincount(patch, sized, minlength=len(hits))
        total[block] = np.bincount(patch, np.where(sized, held, 0.0), minlength=len(hits))
    return count, np.divide(total, known, out=np.full(len(centres), np.nan), where=known > 0)
