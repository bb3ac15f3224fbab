"""Which cells see each other: all within a radius, found on a grid and never by comparing all with all."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numba
import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused

CROWD = 50_000
"""Candidates per cell beyond which a radius can only be a mistake of units."""

_PER_RADIUS = 2.0
"""Grid squares per radius: a finer grid tests fewer strangers but walks more rows (2 was fastest of 1, 1.5, 2, 3)."""


class Graph(NamedTuple):
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


class Grid(NamedTuple):
    """Points of one section sorted into the squares of a grid.

    Attributes
    ----------
    origin_um : array (2,) float64
        Corner of the first square.
    step_um : float
        Side of a square, um.
    shape : (int, int)
        Rows and columns of squares.
    start : array (rows * columns + 1,) int64
        Points of square ``s`` are ``start[s] : start[s + 1]`` of ``order``.
    order : array (n,) int32
        Rows of the points, by square; inside a square in their own order.
    xy_um : array (n, 2) float64
        Positions in that order.
    slack_um : float
        More than rounding can move a point, less than any distance that matters.
    """

    origin_um: NDArray[np.float64]
    step_um: float
    shape: tuple[int, int]
    start: NDArray[np.int64]
    order: NDArray[np.int32]
    xy_um: NDArray[np.float64]
    slack_um: float


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
    xy = _checked(xy_um)
    if not len(xy):
        return np.zeros(0, np.int64)
    square = np.floor((xy - xy.min(0)) / step_um)
    # 2^31 squares a side are more than any section has; coordinates beyond share the last
    code = _spread(np.minimum(square, 2.0**31).astype(np.uint64))
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
    xy = _checked(xy_um)
    n = len(xy)
    if n < 2 or limit == 0:
        return Graph(np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    grid = sort(xy, radius_um)
    _refuse_crowds(grid, radius_um)
    indptr = np.zeros(n + 1, np.int64)
    cap = n if limit is None else min(limit, n)
    # room for what uniform cells would need; grown when tissue is denser than that
    room = int(min(cap, 4 + 1.5 * np.pi * (radius_um / grid.step_um) ** 2 * n / max(1, _filled(grid)))) * n
    index, distance = np.empty(room, np.int32), np.empty(room, np.float32)
    done = 0
    while True:
        done = _fill(xy, *_parts(grid), radius_um, cap, done, indptr, index, distance)
        if done == n:
            break
        room = max(int(len(index) * 1.5), int(indptr[done] * n / max(done, 1) * 1.05)) + n
        index, distance = _grown(index, room, indptr[done]), _grown(distance, room, indptr[done])
    edges = indptr[-1]
    return Graph(indptr, index[:edges].copy(), distance[:edges].copy())


def sort(xy_um: NDArray[np.float64], radius_um: float) -> Grid:
    """Points sorted into squares of about half a radius, never more squares than a few per point."""
    low, high = xy_um.min(0), xy_um.max(0)
    side = np.maximum(high - low, 1e-12)
    fewest = max(float(np.sqrt(side[0] * side[1] / (4 * len(xy_um) + 64))), float(side.max()) / (4 * len(xy_um) + 64))
    step = max(radius_um / _PER_RADIUS, fewest, 1e-12)
    shape = (int(side[1] / step) + 1, int(side[0] / step) + 1)
    start, order = _binned(xy_um, low, step, shape[0], shape[1])
    slack = 1e-12 * (radius_um + float(np.abs(xy_um).max()))
    return Grid(low, step, shape, start, order, xy_um[order], slack)


def _checked(xy_um: NDArray[np.floating]) -> NDArray[np.float64]:
    """Positions as float64, or an error that says which are not numbers."""
    xy = np.ascontiguousarray(xy_um, np.float64).reshape(-1, 2)
    finite = np.isfinite(xy).all(1)
    if not finite.all():
        raise Refused(
            "positions of cells should be finite numbers.",
            found=f"{int((~finite).sum()):,} of {len(xy):,} are not; the first is row {int(np.argmin(finite))}.",
            cause="cells without a place in the table.",
            do="leave these cells out.",
        )
    return xy


def _parts(grid: Grid) -> tuple[Any, ...]:
    """The grid as compiled loops take it."""
    x, y = grid.origin_um
    return x, y, grid.step_um, grid.shape[0], grid.shape[1], grid.start, grid.order, grid.xy_um, grid.slack_um


def _filled(grid: Grid) -> int:
    """Squares that hold points."""
    return int(np.count_nonzero(np.diff(grid.start)))


def _grown(array: NDArray[Any], room: int, used: int) -> NDArray[Any]:
    larger = np.empty(room, array.dtype)
    larger[:used] = array[:used]
    return larger


def _refuse_crowds(grid: Grid, radius_um: float) -> None:
    held = np.diff(grid.start).astype(np.float64)
    # a cell sees about pi (radius / side)^2 squares as full as its own, and never fewer than one
    seen = float((held * held).sum() / held.sum()) * max(1.0, np.pi * (radius_um / grid.step_um) ** 2)
    if seen > CROWD and held.sum() > CROWD:
        raise Refused(
            f"a radius of {radius_um:g} um should hold tens of cells, rarely thousands.",
            found=f"about {seen:,.0f} cells within it.",
            cause="positions in mm, or in another unit, that were read as um.",
            do="state the unit of the positions, or choose a smaller radius.",
        )


def _spread(square: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits of 32-bit numbers moved to the even places, so that two of them interleave."""
    masks = (0x0000FFFF0000FFFF, 0x00FF00FF00FF00FF, 0x0F0F0F0F0F0F0F0F, 0x3333333333333333, 0x5555555555555555)
    for shift, mask in zip((16, 8, 4, 2, 1), masks, strict=True):
        square = (square | (square << np.uint64(shift))) & np.uint64(mask)
    return square


@numba.njit(cache=True, nogil=True)
def _bin(value: float, origin: float, step: float, squares: int) -> int:
    """Number of the square along one axis; monotone in ``value``, so that ranges of squares lose no point."""
    number = int(np.floor((value - origin) / step))
    return min(max(number, 0), squares - 1)


@numba.njit(cache=True, nogil=True)
def _binned(xy: Any, low: Any, step: float, rows: int, columns: int) -> Any:
    """Counting sort of points by square."""
    n = len(xy)
    square = np.empty(n, np.int64)
    start = np.zeros(rows * columns + 1, np.int64)
    for i in range(n):
        square[i] = _bin(xy[i, 1], low[1], step, rows) * columns + _bin(xy[i, 0], low[0], step, columns)
        start[square[i] + 1] += 1
    for s in range(rows * columns):
        start[s + 1] += start[s]
    place, order = start[:-1].copy(), np.empty(n, np.int32)
    for i in range(n):
        order[place[square[i]]] = i
        place[square[i]] += 1
    return start, order


@numba.njit(cache=True, nogil=True)
def _fill(
    xy: Any, x0: float, y0: float, step: float, rows: int, columns: int, start: Any, order: Any, sorted_xy: Any,
    slack: float, radius: float, cap: int, first: int, indptr: Any, index: Any, distance: Any,
) -> int:  # fmt: skip
    """Neighbours of cells from ``first`` on, until the room is full; returns the first cell not done."""
    n = len(xy)
    square_of_radius = radius * radius
    found, squared = np.empty(256, np.int32), np.empty(256, np.float64)
    by_row, by_square = np.empty(256, np.int32), np.empty(256, np.float64)
    bucket, held = np.empty(256, np.int32), np.zeros(257, np.int32)
    at = indptr[first]
    for i in range(first, n):
        x, y = xy[i, 0], xy[i, 1]
        count = 0
        for row in range(_bin(y - radius - slack, y0, step, rows), _bin(y + radius + slack, y0, step, rows) + 1):
            away = max(0.0, y0 + row * step - y, y - y0 - (row + 1) * step) - slack
            # the last row also holds what rounding pushed beyond it
            away = away if away > 0 and row < rows - 1 else 0.0
            half = np.sqrt(max(square_of_radius - away * away, 0.0)) * (1 + 1e-9) + slack
            begin = start[row * columns + _bin(x - half, x0, step, columns)]
            end = start[row * columns + _bin(x + half, x0, step, columns) + 1]
            if count + end - begin > len(found):
                larger = 2 * (count + end - begin)
                grown_rows, grown_squares = np.empty(larger, np.int32), np.empty(larger, np.float64)
                grown_rows[:count], grown_squares[:count] = found[:count], squared[:count]
                found, squared = grown_rows, grown_squares
                by_row, by_square = np.empty(larger, np.int32), np.empty(larger, np.float64)
                bucket = np.empty(larger, np.int32)
            for j in range(begin, end):
                dx, dy = sorted_xy[j, 0] - x, sorted_xy[j, 1] - y
                far = dx * dx + dy * dy
                # written always, kept only if near: cheaper than a branch that nobody can predict
                found[count], squared[count] = order[j], far
                count += (far <= square_of_radius) & (order[j] != i)
        kept = min(count, cap)
        if at + kept > len(index):
            return i
        # cells fill area evenly, so squared distances fill buckets evenly and counting nearly sorts them
        buckets = min(count, 256)
        scale = buckets / square_of_radius if square_of_radius > 0 else 0.0
        held[: buckets + 1] = 0
        for k in range(count):
            bucket[k] = min(int(squared[k] * scale), buckets - 1)
            held[bucket[k] + 1] += 1
        fullest = 0
        for b in range(buckets):
            fullest = max(fullest, held[b + 1])
            held[b + 1] += held[b]
        for k in range(count):
            place = held[bucket[k]]
            held[bucket[k]] += 1
            by_row[place], by_square[place] = found[k], squared[k]
        if fullest > 64:
            ranks = np.argsort(by_row[:count])
            ranks = ranks[np.argsort(by_square[:count][ranks], kind="mergesort")]
            by_row[:count], by_square[:count] = by_row[:count][ranks], by_square[:count][ranks]
        else:
            # after a counting sort only the first `kept` buckets can matter, and each cell moves a few places
            for k in range(1, count):
                r, s, b = by_row[k], by_square[k], k
                while b > 0 and (by_square[b - 1] > s or (by_square[b - 1] == s and by_row[b - 1] > r)):
                    by_row[b], by_square[b] = by_row[b - 1], by_square[b - 1]
                    b -= 1
                by_row[b], by_square[b] = r, s
        for k in range(kept):
            index[at + k], distance[at + k] = by_row[k], np.sqrt(by_square[k])
        at += kept
        indptr[i + 1] = at
    return n
