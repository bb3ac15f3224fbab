"""Gaussian means within a section: of features, so that maps are calm, and of counts, as rivals of a network.

Legend: n cells of a section, m places, F features, S widths. Places are cells of the section or any others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brodmann.near.grid import Grid, around, compiled, room_for, sort

CUT = 3.0
"""Standard deviations beyond which a Gaussian counts as zero."""
_PER_FWHM = 1 / (2 * (2 * np.log(2)) ** 0.5)


class Tissue(NamedTuple):
    """One section made ready: a grid whose points are numbered by square, so that what is near lies together.

    Attributes
    ----------
    grid : Grid
        Points of the section; ``order`` is 0, 1, ... n - 1.
    order : array (n,) int32
        Cell of the section that each of these numbers is.
    """

    grid: Grid
    order: NDArray[np.int32]


def tissue(xy_um: NDArray[np.floating], *, reach_um: float) -> Tissue:
    """Cells of one section, (n, 2) um, for means over cells up to ``reach_um`` away; at least one cell."""
    # squares of half the reach: few rows to walk, and few strangers in them
    found = sort(np.asarray(xy_um), reach_um / 2)
    return Tissue(found._replace(order=np.arange(len(found.order), dtype=np.int32)), found.order)


def means(
    where: Tissue, values: NDArray[np.float32], xy_um: NDArray[np.floating], sigma_um: tuple[float, ...]
) -> NDArray[np.float32]:
    """Means weighted by exp(-d^2 / 2 sigma^2) of the cells within 3 sigma, for each of some widths.

    Parameters
    ----------
    where : Tissue
    values : array (n, P) float32
        In the order of ``where``.
    xy_um : array (m, 2)
        Places, um; one without a cell within 3 sigma gets zeros.
    sigma_um : tuple of float
        S widths, um.

    Returns
    -------
    array (m, S * P) float32
        Width by width.
    """
    out = np.zeros((len(xy_um), len(sigma_um) * values.shape[1]), np.float32)
    _weigh(np.asarray(xy_um, np.float64), where.grid, values, np.array(sigma_um, np.float64), CUT, out)
    return out


def at_cells(
    values: NDArray[np.floating], xy_um: NDArray[np.floating], sigma_um: tuple[float, ...]
) -> NDArray[np.float32]:
    """`means` of one section's cells, (n, P) in their own order, at the cells themselves: (n, S * P)."""
    where = tissue(xy_um, reach_um=CUT * max(sigma_um))
    return means(where, np.asarray(values, np.float32)[where.order], xy_um, sigma_um)


def smooth(
    features: Any,
    xy_um: NDArray[np.floating],
    sections: Iterable[range],
    *,
    fwhm_um: float = 40.0,
    out: NDArray[np.floating] | None = None,
) -> NDArray[np.floating]:
    """Features smoothed within each section, never across: what lies at one place of two sections stays apart.

    The published width is 40 um (Lee et al., Nat Commun 16, 2025, Methods); its code took neighbours numbered within
    a section for rows of the whole table, so that all sections but the first were smoothed with other cells.

    Parameters
    ----------
    features : array-like (N, F) float16 or float32
        Anything that gives an array for a slice of rows; one section is in memory at a time.
    xy_um : array-like (N, 2)
        Positions in each section's own plane, um.
    sections : iterable of range
        Rows of each section.
    fwhm_um : float
        Full width of the Gaussian at half its height, um; cut off at 3 sigma.
    out : array (N, F), optional
        Where to put the result, such as a memory map; new float32 memory by default. Rows of no section stay as
        they are, or zero.

    Returns
    -------
    array (N, F)
        ``out``. Sums are float32, also of float16 features.
    """
    sigma_um = fwhm_um * _PER_FWHM
    out = np.zeros(features.shape, np.float32) if out is None else out
    for rows in sections:
        part = slice(rows.start, rows.stop)
        if not len(rows):
            continue
        out[part] = at_cells(features[part], np.asarray(xy_um[part], np.float64), (sigma_um,))
    return out


@compiled
def weights(room: Any, count: int, sigma: float, cut: float) -> Any:
    """Put those within ``cut`` sigma into ``keys`` and their Gaussian weights into ``weight``; returns how many.

    exp(-t) is p(t / 32)^32 with the Taylor polynomial of degree 5, right to 3e-6 for t <= 4.5: unlike `exp`, the
    processor does eight at once.
    """
    found, squared, at, weight = room.found, room.squared, room.keys, room.weight
    kept, most = np.uint64(0), (cut * sigma) ** 2
    for j in range(np.uint64(count)):
        at[kept], weight[kept] = found[j], squared[j]
        kept += np.uint64(squared[j] <= most)
    scale = np.float32(-1 / (64 * sigma * sigma))
    for j in range(kept):
        t = weight[j] * scale
        p = np.float32(1 / 24) + t * np.float32(1 / 120)
        p = np.float32(1 / 2) + t * (np.float32(1 / 6) + t * p)
        p = np.float32(1) + t * (np.float32(1) + t * p)
        p *= p
        p *= p
        p *= p
        p *= p
        weight[j] = p * p
    return np.int64(kept)


@compiled
def _weigh(xy: Any, grid: Any, values: Any, sigma: Any, cut: float, out: Any) -> None:
    features = np.uint64(values.shape[1])
    room = room_for(1024)
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for i in range(len(xy)):
        count, room = around(grid, xy[i, 0], xy[i, 1], cut * sigma.max(), -1, room)
        at, weight = room.keys, room.weight
        for s in range(len(sigma)):
            kept = np.uint64(weights(room, count, sigma[s], cut))
            base, total = np.uint64(s) * features, np.float32(0)
            for j in range(kept):
                total += weight[j]
            # four cells at a time: sums are loaded and stored a fourth as often
            fours = kept - kept % np.uint64(4)
            for j in range(np.uint64(0), fours, np.uint64(4)):
                a, b, c, d = at[j], at[j + one], at[j + two], at[j + three]
                wa, wb, wc, wd = weight[j], weight[j + one], weight[j + two], weight[j + three]
                for f in range(features):
                    pair = wa * values[a, f] + wb * values[b, f]
                    out[i, base + f] += pair + (wc * values[c, f] + wd * values[d, f])
            for j in range(fours, kept):
                for f in range(features):
                    out[i, base + f] += weight[j] * values[at[j], f]
            if total > 0:
                for f in range(features):
                    out[i, base + f] /= total
