"""Points of a section sorted into the squares of a grid, so that whatever is near is found by looking beside."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused

compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


class Grid(NamedTuple):
    """Points of one section by square; a plain tuple of arrays, as compiled loops take it.

    Attributes
    ----------
    x0_um, y0_um : float
        Corner of the first square.
    step_um : float
        Side of a square, um.
    rows, columns : int
        Squares down and across.
    start : array (rows * columns + 1,) int64
        Points of square ``s`` are ``start[s] : start[s + 1]`` of ``order``.
    order : array (n,) int32
        Rows of the points, by square; inside a square in their own order.
    x_um, y_um : array (n,) float64
        Positions in that order.
    slack_um : float
        More than rounding can move a point, less than any distance that matters.
    """

    x0_um: float
    y0_um: float
    step_um: float
    rows: int
    columns: int
    start: NDArray[np.int64]
    order: NDArray[np.int32]
    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    slack_um: float


class Room(NamedTuple):
    """Working memory for one place, used again for the next.

    Attributes
    ----------
    found : array int32
        Rows of the points near, by square.
    squared : array float64
        Their squared distances, um^2.
    far : array float64
        Squared distances before the choice.
    keys : array uint64
        For who ranks or chooses among them.
    weight : array float32
        For who weighs them.
    """

    found: NDArray[np.int32]
    squared: NDArray[np.float64]
    far: NDArray[np.float64]
    keys: NDArray[np.uint64]
    weight: NDArray[np.float32]


def sort(xy_um: NDArray[np.floating], step_um: float) -> Grid:
    """Points sorted into squares of ``step_um``, or larger: there are never more than a few squares per point.

    Parameters
    ----------
    xy_um : array (n, 2)
        Positions of at least one point, um.
    step_um : float
        Side of a square; about the radius that will be looked for.

    Raises
    ------
    Refused
        Positions that are not finite.
    """
    xy = checked(xy_um)
    n = len(xy)
    low = xy.min(0)
    width, height = (float(side) for side in xy.max(0) - low)
    most = 4 * n + 64
    step = max(step_um, float(np.sqrt(width * height / most)), max(width, height) / most, 1e-12)
    rows, columns = int(height / step) + 1, int(width / step) + 1
    start, order = _binned(xy, low[0], low[1], step, rows, columns)
    slack = 1e-12 * (step + float(np.abs(xy).max()))
    x, y = np.ascontiguousarray(xy[order, 0]), np.ascontiguousarray(xy[order, 1])
    return Grid(float(low[0]), float(low[1]), step, rows, columns, start, order, x, y, slack)


def checked(xy_um: NDArray[np.floating]) -> NDArray[np.float64]:
    """Positions (n, 2) as float64, or an error that says which are not numbers."""
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


@compiled
def _square(value: float, origin: float, per_um: float, squares: int) -> Any:
    """Number of the square along one axis; monotone in ``value``, so that ranges of squares lose no point."""
    return np.int64(min(max((value - origin) * per_um, 0.0), squares - 1.0))


@compiled
def _span(grid: Any, x: float, y: float, radius: float, row: int) -> tuple[int, int]:
    """Sorted points of one row of squares that may lie within ``radius`` of a place."""
    away = max(0.0, grid.y0_um + row * grid.step_um - y, y - grid.y0_um - (row + 1) * grid.step_um) - grid.slack_um
    # the last row also holds what rounding pushed beyond its edge
    away = away if away > 0 and row < grid.rows - 1 else 0.0
    half = np.sqrt(max(radius * radius - away * away, 0.0)) * (1 + 1e-9) + grid.slack_um + 1e-9 * radius
    first = row * grid.columns + _square(x - half, grid.x0_um, 1 / grid.step_um, grid.columns)
    last = row * grid.columns + _square(x + half, grid.x0_um, 1 / grid.step_um, grid.columns)
    return grid.start[first], grid.start[last + 1]


@compiled
def _rows_near(grid: Any, y: float, radius: float) -> tuple[int, int]:
    """First row of squares within reach of a place, and the one after the last."""
    reach = radius * (1 + 1e-9) + grid.slack_um
    first = _square(y - reach, grid.y0_um, 1 / grid.step_um, grid.rows)
    return first, _square(y + reach, grid.y0_um, 1 / grid.step_um, grid.rows) + 1


@compiled
def room_for(points: int) -> Any:
    """Working memory for places with up to so many points near."""
    return Room(
        np.empty(points, np.int32), np.empty(points), np.empty(points),
        np.empty(points, np.uint64), np.empty(points, np.float32),
    )  # fmt: skip


# a call of its own would count references to five arrays for every place
@numba.njit(nogil=True, error_model="numpy", inline="always")
def around(grid: Any, x: float, y: float, radius: float, itself: int, room: Any) -> Any:
    """Points within a radius of a place but for one: how many, and the memory they lie in, larger if it was full."""
    count = _near(grid, x, y, radius, itself, room.found, room.squared, room.far)
    while count < 0:
        room = room_for(2 * len(room.found))
        count = _near(grid, x, y, radius, itself, room.found, room.squared, room.far)
    return count, room


@compiled
def _near(grid: Any, x: float, y: float, radius: float, itself: int, found: Any, squared: Any, far: Any) -> Any:
    """Points within a radius of a place but for one, by square; returns how many, or -1 if there is no room."""
    count, most = np.uint64(0), radius * radius
    first, last = _rows_near(grid, y, radius)
    along, down, order = grid.x_um, grid.y_um, grid.order
    for row in range(first, last):
        bounds = _span(grid, x, y, radius, row)
        begin, points = np.uint64(bounds[0]), np.uint64(bounds[1] - bounds[0])
        if count + points > np.uint64(len(found)):
            return -1
        for j in range(points):
            dx, dy = along[begin + j] - x, down[begin + j] - y
            far[j] = dx * dx + dy * dy
        for j in range(points):
            # written always, kept only if near: cheaper than a branch that no processor can predict
            found[count], squared[count] = order[begin + j], far[j]
            count += np.uint64((far[j] <= most) & (order[begin + j] != itself))
    return np.int64(count)


@compiled
def _binned(xy: Any, x0: float, y0: float, step: float, rows: int, columns: int) -> Any:
    """Counting sort of points by square."""
    n = len(xy)
    at = np.empty(n, np.int64)
    start = np.zeros(rows * columns + 1, np.int64)
    for i in range(n):
        at[i] = _square(xy[i, 1], y0, 1 / step, rows) * columns + _square(xy[i, 0], x0, 1 / step, columns)
        start[at[i] + 1] += 1
    for s in range(rows * columns):
        start[s + 1] += start[s]
    place, order = start[:-1].copy(), np.empty(n, np.int32)
    for i in range(n):
        order[place[at[i]]] = i
        place[at[i]] += 1
    return start, order
