"""Laplace's equation between pia and white matter on the pixels of a section, and its streamlines."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Raster = NDArray[np.float32]
Kinds = NDArray[np.uint8]

OUTSIDE, CORTEX, WHITE, CUT = 0, 1, 2, 3
"""What a pixel is; at a cut there is neither pia nor white matter, and streamlines run along it."""

compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")
_NEAREST = 0.05
_STEP = 1.0
_EVERY = 3
_CLOSE = 0.1
_TOLERANCE = 2e-6
_SMALL = 8.0


class Field(NamedTuple):
    """The potential on the working grid.

    Attributes
    ----------
    u : (h, w) float64
        0 at the pia, 1 at white matter; continued two pixels beyond both, NaN farther off.
    right, down : (h, w) float64
        Its derivatives per pixel; NaN where they cannot be formed.
    """

    u: Array
    right: Array
    down: Array


def shares(mask: NDArray[np.integer], kind_of: Kinds, k: int) -> Raster:
    """Share of each kind in blocks of k x k pixels: (4, h, w) float32; blocks at the rim count what they have."""
    return cast("Raster", _shares(mask, kind_of, k))


def counts(mask: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """Number of pixels of each label below ``size``."""
    return cast("NDArray[np.int64]", _counts(mask, size))


def solve(share: Raster, kind: Kinds, width_px: float) -> Field:
    """Potential between pia and white matter.

    Boundaries lie between pixels, where two kinds have equal shares; the stencil that meets them there is second-order
    accurate (Gibou et al. 2002, J Comput Phys 176:205). Relaxed red and black from coarse to fine.

    Parameters
    ----------
    share : (4, h, w) float32
        Soft shares of the four kinds.
    kind : (h, w) uint8
    width_px : float
        Typical thickness of cortex in pixels; sets over-relaxation.
    """
    u = _potential(share, kind, width_px)
    known = np.where(kind == CORTEX, 1, 0).astype(np.uint8)
    u[known == 0] = np.nan
    _continue(u, known)
    _continue(u, known)
    right, down = _slopes(u)
    return Field(u, right, down)


def _potential(share: Raster, kind: Kinds, width_px: float) -> Array:
    h, w = kind.shape
    start = np.zeros((h + 2, w + 2))
    inside = kind == CORTEX
    start[1:-1, 1:-1][inside] = 0.5
    if width_px > _SMALL and min(h, w) > 8:
        coarse = _halve(share)
        # Where cortex is lost on the coarse grid the fine one starts in the middle.
        rough = coarse.argmax(axis=0).astype(np.uint8)
        below = _potential(coarse, rough, width_px / 2)
        below[rough != CORTEX] = np.nan
        fine = below.repeat(2, axis=0).repeat(2, axis=1)[:h, :w]
        known = inside & np.isfinite(fine)
        start[1:-1, 1:-1][known] = fine[known]
    cells, diagonal, source = _stencil(share, kind)
    omega = 2 / (1 + np.sin(np.pi / max(1.5 * width_px, 4.0)))
    _relax(start.ravel(), w + 2, cells[0], cells[1], diagonal, source, omega, _TOLERANCE, int(60 + 30 * width_px))
    return start[1:-1, 1:-1].copy()


def _halve(share: Raster) -> Raster:
    _, h, w = share.shape
    even = np.pad(share, ((0, 0), (0, h % 2), (0, w % 2)), mode="edge")
    return (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / np.float32(4)


def _stencil(share: Raster, kind: Kinds) -> tuple[list[NDArray[np.int64]], Array, Array]:
    """Pixels of cortex by colour, as flat places in the padded grid, with diagonal and source of each."""
    row, column = np.nonzero(kind == CORTEX)
    flat = (row + 1) * (kind.shape[1] + 2) + column + 1
    red = (row + column) % 2 == 0
    diagonal, source = (np.zeros((kind.shape[0] + 2) * (kind.shape[1] + 2)) for _ in range(2))
    _weigh(share, kind, diagonal, source)
    return [flat[red], flat[~red]], diagonal, source


@compiled
def _counts(mask: Any, size: int) -> Any:
    out = np.zeros(size, np.int64)
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            out[mask[i, j]] += 1
    return out


@compiled
def _shares(mask: Any, kind_of: Any, k: int) -> Any:
    h, w = (mask.shape[0] + k - 1) // k, (mask.shape[1] + k - 1) // k
    out = np.zeros((4, h, w), np.float32)
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            out[kind_of[mask[i, j]], i // k, j // k] += 1.0
    for i in range(h):
        for j in range(w):
            total = out[0, i, j] + out[1, i, j] + out[2, i, j] + out[3, i, j]
            for c in range(4):
                out[c, i, j] /= total
    return out


@compiled
def _weigh(share: Any, kind: Any, diagonal: Any, source: Any) -> None:
    h, w = kind.shape
    for i in range(h):
        for j in range(w):
            if kind[i, j] != 1:
                continue
            p = (i + 1) * (w + 2) + j + 1
            for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                y, x = i + a, j + b
                if y < 0 or y >= h or x < 0 or x >= w:
                    continue
                other = kind[y, x]
                if other == 1:
                    diagonal[p] += 1.0
                elif other != 3:
                    here = share[1, i, j] - share[other, i, j]
                    there = share[1, y, x] - share[other, y, x]
                    gap = max(here / max(here - there, 1e-6), _NEAREST)
                    diagonal[p] += 1.0 / gap
                    if other == 2:
                        source[p] += 1.0 / gap
            if diagonal[p] == 0.0:
                diagonal[p] = 1.0


@compiled
def _relax(
    u: Any, w: int, red: Any, black: Any, diagonal: Any, source: Any, omega: float, tolerance: float, most: int
) -> int:
    for sweep in range(most):
        change = 0.0
        for colour in range(2):
            cells = red if colour == 0 else black
            for n in range(len(cells)):
                p = cells[n]
                step = (u[p - 1] + u[p + 1] + u[p - w] + u[p + w] + source[p]) / diagonal[p] - u[p]
                u[p] += omega * step
                change = max(change, abs(step))
        if change < tolerance:
            return sweep
    return most


@compiled
def _continue(u: Any, known: Any) -> None:
    """Continue values linearly by one pixel beyond what is known."""
    h, w = u.shape
    for i in range(h):
        for j in range(w):
            if known[i, j] != 0:
                continue
            total, count, flat, level = 0.0, 0, 0.0, 0
            for a in range(-1, 2):
                for b in range(-1, 2):
                    y, x = i + a, j + b
                    if (a == 0 and b == 0) or y < 0 or y >= h or x < 0 or x >= w or known[y, x] != 1:
                        continue
                    flat += u[y, x]
                    level += 1
                    z, v = i + 2 * a, j + 2 * b
                    if 0 <= z < h and 0 <= v < w and known[z, v] == 1:
                        total += 2.0 * u[y, x] - u[z, v]
                        count += 1
            if count > 0:
                u[i, j], known[i, j] = total / count, 2
            elif level > 0:
                u[i, j], known[i, j] = flat / level, 2
    for i in range(h):
        for j in range(w):
            if known[i, j] == 2:
                known[i, j] = 1


@compiled
def _slopes(u: Any) -> Any:
    h, w = u.shape
    right, down = np.full((h, w), np.nan), np.full((h, w), np.nan)
    for i in range(h):
        for j in range(w):
            if np.isnan(u[i, j]):
                continue
            a = u[i, j - 1] if j > 0 else np.nan
            b = u[i, j + 1] if j < w - 1 else np.nan
            if np.isnan(a):
                a, b = 2.0 * u[i, j] - b, b
            elif np.isnan(b):
                b = 2.0 * u[i, j] - a
            c = u[i - 1, j] if i > 0 else np.nan
            d = u[i + 1, j] if i < h - 1 else np.nan
            if np.isnan(c):
                c, d = 2.0 * u[i, j] - d, d
            elif np.isnan(d):
                d = 2.0 * u[i, j] - c
            right[i, j], down[i, j] = 0.5 * (b - a), 0.5 * (d - c)
    return right, down


@compiled
def between(values: Any, x: float, y: float) -> float:
    """Bilinear value at a place in pixels (centres at whole numbers); NaN beside what is unknown."""
    h, w = values.shape
    # A ribbon that touches the rim of the picture is read up to the rim.
    x, y = min(max(x, 0.0), w - 1.0), min(max(y, 0.0), h - 1.0)
    j, i = min(int(x), w - 2), min(int(y), h - 2)
    a, b = x - j, y - i
    top = (1.0 - a) * values[i, j] + a * values[i, j + 1]
    return float((1.0 - b) * top + b * ((1.0 - a) * values[i + 1, j] + a * values[i + 1, j + 1]))


@compiled
def follow(u: Any, right: Any, down: Any, x: float, y: float, sign: float, path: Any) -> Any:
    """One streamline from a place to the pia (``sign`` -1) or to white matter (1), by the midpoint rule.

    Returns its length and its content per unit of flux (the integral of 1 / |gradient|: what lies between it and its
    neighbour), and the number of points written to ``path`` (m, 4: x, y, length, content); length NaN where it ends
    nowhere.
    """
    goal = 0.0 if sign < 0 else 1.0
    level = between(u, x, y)
    length, content, count = 0.0, 0.0, 1
    path[0, 0], path[0, 1], path[0, 2], path[0, 3] = x, y, 0.0, 0.0
    if np.isnan(level):
        return np.nan, np.nan, count
    # A place between the last pixel of cortex and the boundary, or just beyond it.
    if (level - goal) * sign >= 0.0:
        return 0.0, 0.0, count
    while count < len(path):
        gx, gy = between(right, x, y), between(down, x, y)
        norm = np.sqrt(gx * gx + gy * gy)
        if not norm > 1e-9:
            return np.nan, np.nan, count
        half = 0.5 * _STEP * sign / norm
        gx, gy = between(right, x + half * gx, y + half * gy), between(down, x + half * gx, y + half * gy)
        norm = np.sqrt(gx * gx + gy * gy)
        if not norm > 1e-9:
            return np.nan, np.nan, count
        to_x, to_y = x + _STEP * sign * gx / norm, y + _STEP * sign * gy / norm
        after = between(u, to_x, to_y)
        # Beyond the last pixel there is nothing to read; a streamline that goes there has left the ribbon.
        if np.isnan(after):
            return np.nan, np.nan, count
        # At the tip of a sulcus one pixel wide the potential turns before it reaches 0.
        if (after - level) * sign <= 0.0:
            if abs(level - goal) > _CLOSE:
                return np.nan, np.nan, count
            return length, content, count
        part = 1.0
        if (after - goal) * sign >= 0.0:
            part = (goal - level) / (after - level)
        x, y = x + part * (to_x - x), y + part * (to_y - y)
        length += part * _STEP
        content += part * _STEP / norm
        path[count, 0], path[count, 1], path[count, 2], path[count, 3] = x, y, length, content
        count += 1
        if (after - goal) * sign >= 0.0:
            return length, content, count
        level = after
    return np.nan, np.nan, count


@compiled
def feet(u: Any, right: Any, down: Any, places: Any, most: int) -> Any:
    """Both streamlines of each place (n, 2) px: (n, 6).

    Lengths and contents towards the pia and to white matter, and the gradient.
    """
    out = np.empty((len(places), 6))
    path = np.empty((most, 4))
    for p in range(len(places)):
        out[p, 0], out[p, 1], _ = follow(u, right, down, places[p, 0], places[p, 1], -1.0, path)
        out[p, 2], out[p, 3], _ = follow(u, right, down, places[p, 0], places[p, 1], 1.0, path)
        out[p, 4], out[p, 5] = between(right, places[p, 0], places[p, 1]), between(down, places[p, 0], places[p, 1])
    return out


@compiled
def depths(u: Any, right: Any, down: Any, kind: Any, most: int) -> Any:
    """Equi-area depth of every pixel of cortex, (h, w) float32, NaN elsewhere.

    Followed at every third pixel and interpolated between, but at its edges, where every pixel is followed.
    """
    h, w = kind.shape
    out = np.full((h, w), np.nan, np.float32)
    path = np.empty((most, 4))
    for turn in range(2):
        for i in range(h):
            for j in range(w):
                if kind[i, j] != 1 or (turn == 0) != (i % _EVERY == 0 and j % _EVERY == 0):
                    continue
                value = np.nan
                y, x = i - i % _EVERY, j - j % _EVERY
                if turn == 1 and y + _EVERY < h and x + _EVERY < w:
                    whole = True
                    for a in range(_EVERY + 1):
                        for b in range(_EVERY + 1):
                            whole = whole and kind[y + a, x + b] == 1
                    if whole:
                        a, b = (i - y) / _EVERY, (j - x) / _EVERY
                        top = (1.0 - b) * out[y, x] + b * out[y, x + _EVERY]
                        value = (1.0 - a) * top + a * ((1.0 - b) * out[y + _EVERY, x] + b * out[y + _EVERY, x + _EVERY])
                if np.isnan(value):
                    _, above, _ = follow(u, right, down, float(j), float(i), -1.0, path)
                    _, below, _ = follow(u, right, down, float(j), float(i), 1.0, path)
                    value = above / (above + below)
                out[i, j] = value
    return out


@compiled
def lines(u: Any, right: Any, down: Any, places: Any, at: Any, column: int, most: int) -> Any:
    """Streamlines through places (n, 2) px, read at shares ``at`` from the pia, of length (column 2) or content (3).

    Returns (n, m, 2) px, thickness (n,) px, content (n,), and the slope at each place (n,).
    """
    out = np.full((len(places), len(at), 2), np.nan)
    thick, held, slope = np.full(len(places), np.nan), np.full(len(places), np.nan), np.full(len(places), np.nan)
    up, low = np.empty((most, 4)), np.empty((most, 4))
    for p in range(len(places)):
        x, y = places[p, 0], places[p, 1]
        a, c, n = follow(u, right, down, x, y, -1.0, up)
        b, d, m = follow(u, right, down, x, y, 1.0, low)
        if np.isnan(a) or np.isnan(b):
            continue
        thick[p], held[p] = a + b, c + d
        gx, gy = between(right, x, y), between(down, x, y)
        slope[p] = np.sqrt(gx * gx + gy * gy)
        above = c if column == 3 else a
        total = held[p] if column == 3 else thick[p]
        for k in range(len(at)):
            away = at[k] * total - above
            path, last = (up, n) if away < 0 else (low, m)
            away = abs(away)
            s = 0
            while s < last - 2 and path[s + 1, column] < away:
                s += 1
            if last == 1:
                out[p, k, 0], out[p, k, 1] = path[0, 0], path[0, 1]
                continue
            width = path[s + 1, column] - path[s, column]
            f = min(max((away - path[s, column]) / max(width, 1e-12), 0.0), 1.0)
            out[p, k, 0] = path[s, 0] + f * (path[s + 1, 0] - path[s, 0])
            out[p, k, 1] = path[s, 1] + f * (path[s + 1, 1] - path[s, 1])
    return out, thick, held, slope
