"""What plain statistics of the tissue around a cell say: the rivals of every network.

Legend: n cells of a section, m places, P components, S widths, T types. Places are cells of the section or any others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.cells.components import Components
from brodmann.cells.source import Source
from brodmann.near import neighbours
from brodmann.near.grid import around, compiled, room_for
from brodmann.near.smooth import CUT, Tissue, weights

NEAREST = 30
"""Cells that a neighbour mean is taken over, the cell itself among them."""
WIDTHS = (1.0, 1.5, 2.5)
"""Standard deviations of the Gaussian means, in median distances to the sixth neighbour."""
_CHUNK = 16_384


def scores(source: Source, rows: NDArray[np.int64], basis: Components) -> NDArray[np.float32]:
    """Components of log-normalised counts, straight from the sparse counts: nothing n x genes is made.

    Parameters
    ----------
    source : Source
        With the panel that ``basis`` was fitted to.
    rows : array (n,) int64
        Rows of the source, in any order.
    basis : Components

    Returns
    -------
    array (n, P) float32
        As `brodmann.cells.components.project` gives them of `logs`; a cell without counts lies at the mean, which is 0.
    """
    # float64: rounding must not depend on how many genes a cell shows
    axes = np.ascontiguousarray(basis.axes.numpy().T.astype(np.float64))
    offset = basis.mean.numpy().astype(np.float64) @ axes
    out = np.empty((len(rows), axes.shape[1]), np.float32)
    plain = (np.asarray(array) for array in (source.indptr, source.gene, source.count))
    _score(np.ascontiguousarray(rows, np.int64), *plain, float(basis.median), axes, offset, out)
    return out


def neighbour_mean(
    where: Tissue, values: NDArray[np.float32], xy_um: NDArray[np.floating], k: int = NEAREST
) -> NDArray[np.float32]:
    """Mean over the ``k`` nearest cells of each place; a place that is a cell counts itself.

    Parameters
    ----------
    where : Tissue
    values : array (n, P) float32
        In the order of ``where``: ``values_of_cells[where.order]``.
    xy_um : array (m, 2)
        Places, um.
    k : int
        Fewer where the section has fewer.

    Returns
    -------
    array (m, P) float32
    """
    out = np.empty((len(xy_um), values.shape[1]), np.float32)
    for start in range(0, len(xy_um), _CHUNK):
        part = slice(start, start + _CHUNK)
        _mean(neighbours.nearest(where.grid, xy_um[part], k)[0], values, out[part])
    return out


def composition(
    where: Tissue, kinds: NDArray[np.integer], types: int, xy_um: NDArray[np.floating], sigma_um: tuple[float, ...]
) -> NDArray[np.float32]:
    """Fractions of cell types around places, weighted as in `brodmann.near.smooth.means`.

    Parameters
    ----------
    where : Tissue
    kinds : array (n,) integer
        Type of each cell in the order of ``where``; -1, unknown, takes no part.
    types : int
        T.
    xy_um : array (m, 2)
        Places, um; zeros where no cell of known type lies within 3 sigma.
    sigma_um : tuple of float
        S widths, um.

    Returns
    -------
    array (m, S * T) float32
        Width by width; the T fractions of a width sum to 1.
    """
    out = np.zeros((len(xy_um), len(sigma_um) * types), np.float32)
    kinds = np.ascontiguousarray(kinds, np.int64)
    _tally(np.asarray(xy_um, np.float64), where.grid, kinds, types, np.array(sigma_um, np.float64), CUT, out)
    return out


@compiled
def _score(
    rows: Any, indptr: Any, gene: Any, count: Any, median: float, axes: Any, offset: Any, out: Any
) -> None:  # fmt: skip
    features = np.uint64(axes.shape[1])
    total = np.empty(features)
    for i in range(len(rows)):
        begin, end = np.uint64(indptr[rows[i]]), np.uint64(indptr[rows[i] + 1])
        library = 0.0
        for at in range(begin, end):
            library += count[at]
        if library == 0:
            out[i] = 0
            continue
        for f in range(features):
            total[f] = -offset[f]
        for at in range(begin, end):
            value = np.log1p(count[at] * (median / library))
            axis = np.uint64(gene[at])
            for f in range(features):
                total[f] += value * axes[axis, f]
        for f in range(features):
            out[i, f] = total[f]


@compiled
def _mean(near: Any, values: Any, out: Any) -> None:
    features = np.uint64(values.shape[1])
    for i in range(len(near)):
        for f in range(features):
            out[i, f] = 0
        for j in range(near.shape[1]):
            at = np.uint64(near[i, j])
            for f in range(features):
                out[i, f] += values[at, f]
        for f in range(features):
            out[i, f] /= np.float32(near.shape[1])


@compiled
def _tally(xy: Any, grid: Any, kinds: Any, types: int, sigma: Any, cut: float, out: Any) -> None:
    room = room_for(1024)
    for i in range(len(xy)):
        count, room = around(grid, xy[i, 0], xy[i, 1], cut * sigma.max(), -1, room)
        at, weight = room.keys, room.weight
        for s in range(len(sigma)):
            kept = np.uint64(weights(room, count, sigma[s], cut))
            base, total = np.int64(s) * types, np.float32(0)
            for j in range(kept):
                kind = kinds[at[j]]
                if kind >= 0:
                    out[i, base + kind] += weight[j]
                    total += weight[j]
            if total > 0:
                for t in range(types):
                    out[i, base + t] /= total
