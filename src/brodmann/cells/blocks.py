"""Block attention: runs of consecutive cells look at one short list of cells that holds the neighbours of all.

Consecutive cells of a section lie side by side, so 32 of them have most neighbours in common. A list of keys per run
turns attention over a graph into small dense products. Legend: n cells, b blocks, Q cells of a block, K keys.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numba
import numpy as np
from numpy.typing import NDArray

QUERIES = 32
"""Cells of a block; embedding is a fifth faster than with 64, which share more keys but need fewer of them."""
BINS = 33
"""Classes of distance: the cell itself, and 32 equal steps up to the radius."""
NOBODY = 255
"""Stands in place of a class where a key is no neighbour."""
_WHOLE = 32  # the number of keys is a multiple of this, which matrix products like


class Blocks(NamedTuple):
    """Who attends to whom, as dense blocks.

    Attributes
    ----------
    keys : array (b, K) int64
        Cells that a block can see; places beyond the last repeat cell 0 and are nobody's neighbour.
    bins : array (b, Q, K) uint8
        Class of the distance between cell ``Q * block + q`` and each key, `NOBODY` where it is no neighbour.
    edge : array (edges,) int64
        Flat places of ``bins`` that are not `NOBODY`.
    """

    keys: NDArray[np.int64]
    bins: NDArray[np.uint8]
    edge: NDArray[np.int64]


def blocks(
    indptr: NDArray[np.int64],
    index: NDArray[np.int32],
    distance_um: NDArray[np.float32],
    *,
    radius_um: float,
    neighbours: int,
) -> Blocks:
    """Cut a neighbour graph into blocks; every cell is its own neighbour, so that nobody attends to nothing.

    Parameters
    ----------
    indptr, index, distance_um : arrays (n + 1,) int64, (edges,) int32, (edges,) float32
        As in `brodmann.near.neighbours.Graph`, nearest first.
    radius_um : float
        Largest distance, the upper end of the last class.
    neighbours : int
        Most neighbours of a cell; a block has room for six times as many keys, half as many again as it mostly needs.

    Returns
    -------
    Blocks
        Of ``ceil(n / 32)`` blocks. Keys are admitted in order of rank (all cells of the block, then all nearest
        neighbours, then all second nearest ...), so that what does not fit is what is farthest.
    """
    n = len(indptr) - 1
    count = -(-n // QUERIES)
    room = -(-(QUERIES + 6 * neighbours) // _WHOLE) * _WHOLE
    keys = np.zeros((count, room), np.int64)
    bins = np.full((count, QUERIES, room), NOBODY, np.uint8)
    most = int(_fill(indptr, index, distance_um, np.float32((BINS - 1) / radius_um), keys, bins)) if n else 0
    width = min(room, -(-most // _WHOLE) * _WHOLE)
    bins = np.ascontiguousarray(bins[:, :, :width])
    edge = cast("NDArray[np.int64]", _places(bins.reshape(-1)))
    return Blocks(np.ascontiguousarray(keys[:, :width]), bins, edge)


_compile: Any = numba.njit(nogil=True, cache=True)


@_compile
def _fill(indptr: Any, index: Any, distance: Any, scale: Any, keys: Any, bins: Any) -> int:
    n = len(indptr) - 1
    place = np.full(n, -1, np.int64)
    seen = np.full(n, -1, np.int64)
    most, room = 0, keys.shape[1]
    for b in range(len(keys)):
        first = b * QUERIES
        stop = min(first + QUERIES, n)
        used = 0
        deepest = 0
        for i in range(first, stop):
            keys[b, used] = i
            bins[b, i - first, used] = 0
            place[i] = used
            seen[i] = b
            used += 1
            deepest = max(deepest, indptr[i + 1] - indptr[i])
        for rank in range(deepest):
            for i in range(first, stop):
                at = indptr[i] + rank
                if at >= indptr[i + 1]:
                    continue
                j = index[at]
                if seen[j] != b:
                    if used == room:
                        continue
                    keys[b, used] = j
                    place[j] = used
                    seen[j] = b
                    used += 1
                bins[b, i - first, place[j]] = 1 + min(int(distance[at] * scale), BINS - 2)
        # rows beyond the last cell look at key 0, or their softmax would be over nothing
        for q in range(stop - first, QUERIES):
            bins[b, q, 0] = 0
        most = max(most, used)
    return most


@_compile
def _places(bins: Any) -> Any:
    count = 0
    for value in bins:
        count += value != NOBODY
    found = np.empty(count, np.int64)
    at = 0
    for i in range(len(bins)):
        if bins[i] != NOBODY:
            found[at] = i
            at += 1
    return found
