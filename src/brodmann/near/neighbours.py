"""Which cells see each other: all within a radius, or the nearest few; found on a grid, never all with all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.near.grid import Grid, around, checked, compiled, room_for, sort

_LOW = 0xFFFFFF
"""Bits of a sorting key that name a place."""
CROWD = 50_000
"""Cells within a radius, on average, beyond which it can only be a mistake of units."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Neighbours of ``n`` cells, without the cells themselves.

    Attributes
    ----------
    indptr : array (n + 1,) int64
        Neighbours of cell ``i`` are entries ``indptr[i] : indptr[i + 1]``.
    index : array (edges,) int32
        Rows of the neighbours, the nearest first; equal distances in order of rows.
    distance_um : array (edges,) float32
        Distances, um, in the plane of the section.
    """

    indptr: NDArray[np.int64]
    index: NDArray[np.int32]
    distance_um: NDArray[np.float32]


def morton(xy_um: NDArray[np.floating], step_um: float = 25.0) -> NDArray[np.int64]:
    """Order in which consecutive cells lie beside each other: the Z-curve over a grid (Morton 1966).

    Parameters
    ----------
    xy_um : array (n, 2)
        Positions in the section's plane, um.
    step_um : float
        Side of the grid's squares; cells of one square keep their order.

    Returns
    -------
    array (n,) int64
        Rows in the new order.
    """
    xy = checked(xy_um)
    if not len(xy):
        return np.zeros(0, np.int64)
    # 2^31 squares a side are more than any section has; coordinates beyond share the last
    code = _spread(np.minimum(np.floor((xy - xy.min(0)) / step_um), 2.0**31).astype(np.uint64))
    return np.argsort(code[:, 0] | (code[:, 1] << np.uint64(1)), kind="stable").astype(np.int64)


def graph(xy_um: NDArray[np.floating], *, radius_um: float, limit: int | None = None) -> Graph:
    """Neighbours of every cell within a radius, the same sets as ``scipy.spatial.cKDTree.query_ball_point``.

    Distances are compared in float64, also for float32 positions: a cell at exactly ``radius_um`` is a neighbour.
    Several threads may call this at once; it holds no interpreter lock while it works.

    Parameters
    ----------
    xy_um : array (n, 2) float32 or float64
        Positions of one section, um. Rows near each other in space make it several times faster (see `morton`).
    radius_um : float
        Farthest neighbour.
    limit : int or None
        Keep at most so many of the nearest; of equally distant ones, the first rows.

    Returns
    -------
    Graph

    Raises
    ------
    Refused
        Positions that are not finite, or a radius that holds more than `CROWD` cells on average.
    """
    xy = checked(xy_um)
    n = len(xy)
    if n < 2 or limit == 0:
        return Graph(np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    # squares of the radius, not smaller: fewer strangers would be tested, but more and shorter rows walked
    grid = sort(xy, radius_um)
    seen = _refuse_crowds(grid, radius_um)
    cap = n if limit is None else min(limit, n)
    indptr = np.zeros(n + 1, np.int64)
    room = int(min(cap, 4 + 1.2 * seen)) * n
    index, distance = np.empty(room, np.int32), np.empty(room, np.float32)
    done = 0
    while (done := int(_fill(xy, grid, radius_um, cap, done, indptr, index, distance))) < n:
        used = int(indptr[done])
        room = max(len(index) * 3 // 2, int(used * (n / max(done, 1)) * 1.05)) + n
        index, distance = _grown(index, room, used), _grown(distance, room, used)
    edges = int(indptr[-1])
    # views: room that was never written costs no memory
    return Graph(indptr, index[:edges], distance[:edges])


def nearest(grid: Grid, xy_um: NDArray[np.floating], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The ``k`` nearest points of a section to each of some places, however far.

    Parameters
    ----------
    grid : Grid
        The section's points.
    xy_um : array (m, 2)
        Places, um; a place that is a point finds itself first.
    k : int
        How many; fewer where the section has fewer.

    Returns
    -------
    index : array (m, min(k, n)) int32
        Rows of the section, the nearest first; equal distances in order of rows.
    distance_um : array (m, min(k, n)) float32
    """
    xy = checked(xy_um)
    k = min(k, len(grid.order))
    index, distance = np.empty((len(xy), k), np.int32), np.empty((len(xy), k), np.float32)
    if k and len(xy):
        held = np.diff(grid.start).astype(np.float64)
        # radius that holds twice k of what a point has around it; places in thinner tissue look farther by doubling
        per_um2 = float((held * held).sum() / held.sum()) / grid.step_um**2
        _fill_nearest(xy, grid, float(np.sqrt(2 * k / (np.pi * per_um2))), k, index, distance)
    return index, distance


def spacing(xy_um: NDArray[np.floating], *, neighbour: int = 6, most: int = 20_000) -> float:
    """Median distance (um) of a section's cells to their sixth neighbour: the tissue's own unit of length.

    Measured on at most ``most`` cells, evenly spread over the rows; the farthest there is in smaller sections, and
    never 0, so that it can serve as a width.
    """
    xy = checked(xy_um)
    if len(xy) < 2:
        return 1.0
    some = xy[np.linspace(0, len(xy) - 1, min(most, len(xy))).astype(np.int64)]
    area = float(np.prod(np.maximum(np.ptp(xy, axis=0), 1e-9)))
    grid = sort(xy, float(np.sqrt(area / len(xy) * (neighbour + 1))))
    return max(float(np.median(nearest(grid, some, neighbour + 1)[1][:, -1])), 1e-6)


def _grown(array: NDArray[Any], room: int, used: int) -> NDArray[Any]:
    larger = np.empty(room, array.dtype)
    larger[:used] = array[:used]
    return larger


def _refuse_crowds(grid: Grid, radius_um: float) -> float:
    """Points that the average point has within a radius, about, if that can be meant."""
    held = np.diff(grid.start).astype(np.float64)
    seen = min(float((held * held).sum() / held.sum()) * max(1.0, np.pi * (radius_um / grid.step_um) ** 2), held.sum())
    if seen > CROWD:
        raise Refused(
            f"a radius of {radius_um:g} um should hold tens of cells, rarely thousands.",
            found=f"about {seen:,.0f} cells within it.",
            cause="positions in mm, or in another unit, that were read as um.",
            do="state the unit of the positions, or choose a smaller radius.",
        )
    return seen


def _spread(square: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits of 32-bit numbers moved to the even places, so that two of them interleave."""
    masks = (0x0000FFFF0000FFFF, 0x00FF00FF00FF00FF, 0x0F0F0F0F0F0F0F0F, 0x3333333333333333, 0x5555555555555555)
    for shift, mask in zip((16, 8, 4, 2, 1), masks, strict=True):
        square = (square | (square << np.uint64(shift))) & np.uint64(mask)
    return square


@compiled
def _rank(count: int, cap: int, most: float, found: Any, squared: Any, held: Any, keys: Any) -> None:
    """Leave in ``keys`` (low 24 bits) the places of the ``cap`` nearest, by distance and then by row.

    Tissue fills area evenly, so squared distances fill buckets evenly: a counting sort nearly sorts them. Keys hold
    the distance in 40 bits above the place in 24; what these 40 bits cannot tell apart is compared exactly at the end.
    """
    one, low = np.uint64(1), np.uint64(_LOW)
    points, buckets = np.uint64(count), np.uint64(min(2 * count, len(held) - 1))
    scale = np.float64(buckets) / most * (1 - 1e-12) if most > 0 else 0.0
    fine = 2.0**39 / most if most > 0 else 0.0
    for b in range(buckets + one):
        held[b] = 0
    for k in range(points):
        held[np.uint64(squared[k] * scale) + one] += 1
    total, fullest = np.int32(0), np.int32(0)
    for b in range(buckets + one):
        fullest = max(fullest, held[b])
        total += held[b]
        held[b] = total
    if fullest > 64:
        ranks = np.argsort(found[:count], kind="mergesort")
        ranks = ranks[np.argsort(squared[:count][ranks], kind="mergesort")]
        for k in range(cap):
            keys[k] = ranks[k]
        return
    for k in range(points):
        b = np.uint64(squared[k] * scale)
        place = held[b]
        held[b] = place + 1
        keys[np.uint64(place)] = (np.uint64(squared[k] * fine) << np.uint64(24)) | k
    # buckets beyond that of the last one kept need no order
    needed = np.uint64(held[np.uint64(squared[keys[np.uint64(cap - 1)] & low] * scale)])
    for k in range(one, needed):
        key = keys[k]
        if key < keys[k - one]:
            b = k
            while b > np.uint64(0) and keys[b - one] > key:
                keys[b] = keys[b - one]
                b -= one
            keys[b] = key
    tied = False
    for k in range(one, needed):
        tied |= (keys[k] | low) == (keys[k - one] | low)
    if tied:
        _exactly(needed, found, squared, keys)


@compiled
def _exactly(needed: int, found: Any, squared: Any, keys: Any) -> None:
    """Order keys of equal 40 bits by their distance in float64, then by row."""
    one, low = np.uint64(1), np.uint64(_LOW)
    for k in range(one, needed):
        key, b = keys[k], k
        mine, row = squared[key & low], found[key & low]
        while b > np.uint64(0) and (keys[b - one] | low) == (key | low):
            other = keys[b - one] & low
            if squared[other] < mine or (squared[other] == mine and found[other] < row):
                break
            keys[b] = keys[b - one]
            b -= one
        keys[b] = key


@compiled
def _fill(xy: Any, grid: Any, radius: float, cap: int, first: int, indptr: Any, index: Any, distance: Any) -> int:
    """Neighbours of cells from ``first`` on, until the room is full; returns the first cell not done."""
    held = np.empty(1025, np.int32)
    room = room_for(1024)
    at = indptr[first]
    for i in range(first, len(xy)):
        count, room = around(grid, xy[i, 0], xy[i, 1], radius, i, room)
        found, squared, keys = room.found, room.squared, room.keys
        kept = min(count, cap)
        if at + kept > len(index):
            return i
        if kept:
            _rank(count, kept, radius * radius, found, squared, held, keys)
        for k in range(np.uint64(kept)):
            place = keys[k] & np.uint64(_LOW)
            index[np.uint64(at) + k] = found[place]
            distance[np.uint64(at) + k] = np.sqrt(squared[place])
        at += kept
        indptr[i + 1] = at
    return len(xy)


@compiled
def _fill_nearest(xy: Any, grid: Any, radius: float, k: int, index: Any, distance: Any) -> None:
    """The k nearest points of each place; the radius doubles until it holds that many."""
    held = np.empty(1025, np.int32)
    room = room_for(1024)
    for i in range(len(xy)):
        x, y, reach = xy[i, 0], xy[i, 1], radius
        count, room = around(grid, x, y, reach, -1, room)
        while count < k:
            reach *= 2
            count, room = around(grid, x, y, reach, -1, room)
        found, squared, keys = room.found, room.squared, room.keys
        _rank(count, k, reach * reach, found, squared, held, keys)
        for j in range(k):
            place = keys[j] & np.uint64(_LOW)
            index[i, j], distance[i, j] = found[place], np.sqrt(squared[place])
