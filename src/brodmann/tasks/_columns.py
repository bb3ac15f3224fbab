"""Where a column of pixels passes from one layer to the next.

n patches, H rows from the pia down, W columns, K classes in the order of depth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]


def border_errors(told: Plane, truth: Plane, n_classes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How far told borders lie from true ones, along the columns of upright patches.

    Judged is the run of each column about its middle (where an upright patch has mid-cortex) in which the true class
    only grows downwards: the other bank of a sulcus takes no part. A true border is where class k meets class k + 1.
    The told one is the row that parts the run best into told classes up to k and told classes beyond, so that stray
    pixels do not move it and a border that is not told at all lies at the run's end.

    Parameters
    ----------
    told, truth : ndarray (n, H, W) uint8
        255 in the truth ends a run.
    n_classes : int

    Returns
    -------
    away : ndarray (n, K - 1) float64
        Pixels between told and true border, summed over columns.
    columns : ndarray (n, K - 1) int64
        Columns that have the true border.
    """
    n, high, _ = truth.shape
    start, stop = runs(truth)
    row = np.arange(high)[None, :, None]
    inside = (row >= start[:, None]) & (row < stop[:, None])
    away, columns = np.zeros((n, n_classes - 1)), np.zeros((n, n_classes - 1), dtype=np.int64)
    both = inside[:, :-1] & inside[:, 1:]
    for k in range(n_classes - 1):
        meets = both & (truth[:, :-1] == k) & (truth[:, 1:] == k + 1)
        at, has = meets.argmax(axis=1) + 1, meets.any(axis=1)
        if has.any():
            found = best_step(told <= k, inside, start)
            away[:, k] = np.where(has, np.abs(found - at), 0).sum(axis=1)
            columns[:, k] = has.sum(axis=1)
    return away, columns


def runs(truth: Plane) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row, and row after the last, of the run about each column's middle; (n, W) each, equal if it is empty."""
    high = truth.shape[1]
    middle = high // 2
    known = truth != 255
    # a step between rows r and r + 1 that goes back towards the pia, or into what is not known
    breaks = (truth[:, 1:] < truth[:, :-1]) | ~known[:, 1:] | ~known[:, :-1]
    above, below = breaks[:, :middle], breaks[:, middle:]
    start = np.where(above.any(axis=1), middle - above[:, ::-1].argmax(axis=1), 0)
    stop = np.where(below.any(axis=1), middle + 1 + below.argmax(axis=1), high)
    return start.astype(np.int64), np.where(known[:, middle], stop, start).astype(np.int64)


def best_step(upper: NDArray[np.bool_], inside: NDArray[np.bool_], start: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row at which each column is best parted into ``upper`` above and not ``upper`` below: (n, W).

    Parameters
    ----------
    upper : ndarray (n, H, W) bool
    inside : ndarray (n, H, W) bool
        Rows that count; one run per column.
    start : ndarray (n, W) int64
        First row of the run; the answer is this where nothing inside is ``upper``, the highest row of equals otherwise.
    """
    n, high, wide = upper.shape
    gain = np.zeros((n, high + 1, wide), dtype=np.int16 if high < 30000 else np.int64)
    np.cumsum(np.where(inside, np.where(upper, 1, -1), 0), axis=1, out=gain[:, 1:])
    return np.maximum(gain.argmax(axis=1), start)
