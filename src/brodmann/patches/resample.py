"""Resampling that keeps its promise: a crop at exactly the pixel size asked for.

Legend: C channels, H rows, W columns. Coordinates are edge based: pixel (row 0, column 0) covers 0..1 along both
axes, so its centre lies at 0.5. A position in a reduced level is therefore a pure division by the reduction.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Image as (C, H, W) uint8, C-contiguous."""


def crop_affine(
    image: Pixels, x_px: float, y_px: float, size_px: int, scale: float, angle_deg: float, fill: Pixels
) -> Pixels:
    """Square crop, each output pixel covering ``scale`` input pixels; releases the GIL.

    Upright and shrinking (``scale > 1``): exact average over the square that an output pixel covers. Turned and
    shrinking: mean of ``ceil(scale)`` squared bilinear samples spread evenly over that square. Enlarging: bilinear
    at pixel centres (which equals the box average at ``scale = 1``). Outside the image the value is ``fill``.

    Parameters
    ----------
    image : (C, H, W) uint8, C-contiguous
    x_px, y_px : float
        Centre of the crop in the image's pixels, edge based.
    size_px : int
        Side of the output.
    scale : float
        Input pixels per output pixel.
    angle_deg : float
        Direction of the crop's up vector: ``(sin a, -cos a)`` with x right and y down.
    fill : (C,) uint8

    Returns
    -------
    (C, size_px, size_px) uint8
    """
    if angle_deg == 0.0 and scale >= 1.0:
        return cast("Pixels", _box(image, x_px, y_px, size_px, scale, fill))
    turn = math.radians(angle_deg)
    return cast("Pixels", _turned(image, x_px, y_px, size_px, scale, math.sin(turn), math.cos(turn), fill))


def crop_labels(
    plane: Pixels, x_px: float, y_px: float, size_px: int, scale: tuple[float, float], angle_deg: float
) -> Pixels:
    """Square crop of a label plane: the label under the centre of each pixel that `crop_affine` would give.

    Parameters
    ----------
    plane : (H, W) uint8
    x_px, y_px : float
        Centre of the crop in the plane's pixels, edge based.
    size_px : int
        Side of the output.
    scale : (float, float)
        Input pixels per output pixel, across and down.
    angle_deg : float
        As in `crop_affine`.

    Returns
    -------
    (size_px, size_px) uint8; 0 outside the plane
    """
    turn = math.radians(angle_deg)
    return cast("Pixels", _nearest(plane, x_px, y_px, size_px, *scale, math.sin(turn), math.cos(turn)))


def halve(image: Pixels) -> Pixels:
    """Next level of a pyramid: mean of 2 x 2 pixels, odd last rows and columns averaged over what there is.

    Parameters
    ----------
    image : (C, H, W) uint8

    Returns
    -------
    (C, ceil(H / 2), ceil(W / 2)) uint8
    """
    return cast("Pixels", _halve(np.ascontiguousarray(image)))


_compile: Any = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@_compile
def _taps(centre: float, size_px: int, scale: float, length: int) -> Any:
    """Per output pixel: first input pixel, number of input pixels and their weights (sum 1 with the outside)."""
    most = math.ceil(scale) + 1
    first = np.zeros(size_px, np.int64)
    count = np.zeros(size_px, np.int64)
    weight = np.zeros((size_px, most), np.float32)
    for i in range(size_px):
        lo = centre + (i - 0.5 * size_px) * scale
        hi = lo + scale
        a = max(math.floor(lo), 0)
        b = min(math.ceil(hi), length)
        first[i] = a
        n = 0
        for j in range(a, b):
            part = min(hi, j + 1.0) - max(lo, float(j))
            if n < most and part > 0.0:
                if n == 0:
                    first[i] = j
                weight[i, n] = part / scale
                n += 1
        count[i] = n
    return first, count, weight


@_compile
def _box(image: Any, x_px: float, y_px: float, size_px: int, scale: float, fill: Any) -> Any:
    channels, height, width = image.shape
    out = np.empty((channels, size_px, size_px), np.uint8)
    x_first, x_count, x_weight = _taps(x_px, size_px, scale, width)
    y_first, y_count, y_weight = _taps(y_px, size_px, scale, height)
    mass_x = np.zeros(size_px, np.float32)
    for j in range(size_px):
        for t in range(x_count[j]):
            mass_x[j] += x_weight[j, t]
    row_sum = np.empty(width, np.float32)
    lo = width
    hi = 0
    for j in range(size_px):
        if x_count[j]:
            lo = min(lo, x_first[j])
            hi = max(hi, x_first[j] + x_count[j])
    for c in range(channels):
        for i in range(size_px):
            mass_y = np.float32(0.0)
            for k in range(lo, hi):
                row_sum[k] = 0.0
            # Rows first: this inner loop is contiguous and vectorises; the gather along x comes after, once per row.
            for t in range(y_count[i]):
                w = y_weight[i, t]
                mass_y += w
                row = image[c, y_first[i] + t]
                for k in range(lo, hi):
                    row_sum[k] += w * np.float32(row[k])
            for j in range(size_px):
                value = np.float32(0.0)
                at = x_first[j]
                for t in range(x_count[j]):
                    value += x_weight[j, t] * row_sum[at + t]
                value += (np.float32(1.0) - mass_x[j] * mass_y) * np.float32(fill[c])
                out[c, i, j] = np.uint8(min(max(value + np.float32(0.5), np.float32(0.0)), np.float32(255.0)))
    return out


@_compile
def _turned(image: Any, x_px: float, y_px: float, size_px: int, scale: float, sin: float, cos: float, fill: Any) -> Any:
    channels, height, width = image.shape
    out = np.empty((channels, size_px, size_px), np.uint8)
    samples = max(math.ceil(scale - 1e-9), 1)
    step = scale / samples
    share = np.float32(1.0 / (samples * samples))
    reach = 0.5 * size_px * scale * (abs(sin) + abs(cos)) + 1.0
    inside = x_px >= reach and y_px >= reach and x_px + reach <= width and y_px + reach <= height
    for c in range(channels):
        plane = image[c]
        for i in range(size_px):
            for j in range(size_px):
                total = np.float32(0.0)
                for si in range(samples):
                    down = (i - 0.5 * size_px) * scale + (si + 0.5) * step
                    x_row = x_px - down * sin - 0.5
                    y_row = y_px + down * cos - 0.5
                    for sj in range(samples):
                        right = (j - 0.5 * size_px) * scale + (sj + 0.5) * step
                        x = x_row + right * cos
                        y = y_row + right * sin
                        if inside:
                            # Positive here, so truncation is floor, and no neighbour can lie outside; the indices
                            # are unsigned, which spares the check for negative ones.
                            x0, y0 = np.uint32(np.int32(x)), np.uint32(np.int32(y))
                            x1, y1 = x0 + np.uint32(1), y0 + np.uint32(1)
                            fx, fy = np.float32(x - x0), np.float32(y - y0)
                            above = np.float32(plane[y0, x0])
                            below = np.float32(plane[y1, x0])
                            above += fx * (np.float32(plane[y0, x1]) - above)
                            below += fx * (np.float32(plane[y1, x1]) - below)
                            total += above + fy * (below - above)
                        else:
                            total += _near_border(plane, x, y, np.float32(fill[c]))
                value = total * share + np.float32(0.5)
                out[c, i, j] = np.uint8(min(max(value, np.float32(0.0)), np.float32(255.0)))
    return out


@_compile
def _near_border(plane: Any, x: float, y: float, fill: Any) -> Any:
    """Sample bilinearly; neighbours outside the image count as ``fill``."""
    height, width = plane.shape
    x0 = math.floor(x)
    y0 = math.floor(y)
    fx = np.float32(x - x0)
    fy = np.float32(y - y0)
    value = np.float32(0.0)
    for dy in range(2):
        wy = fy if dy else np.float32(1.0) - fy
        for dx in range(2):
            wx = fx if dx else np.float32(1.0) - fx
            within = 0 <= x0 + dx < width and 0 <= y0 + dy < height
            value += wx * wy * (np.float32(plane[y0 + dy, x0 + dx]) if within else fill)
    return value


@_compile
def _nearest(
    plane: Any, x_px: float, y_px: float, size_px: int, across: float, down: float, sin: float, cos: float
) -> Any:
    height, width = plane.shape
    out = np.zeros((size_px, size_px), np.uint8)
    for i in range(size_px):
        below = i + 0.5 - 0.5 * size_px
        for j in range(size_px):
            right = j + 0.5 - 0.5 * size_px
            column = math.floor(x_px + (right * cos - below * sin) * across)
            row = math.floor(y_px + (right * sin + below * cos) * down)
            if 0 <= row < height and 0 <= column < width:
                out[i, j] = plane[row, column]
    return out


@_compile
def _halve(image: Any) -> Any:
    channels, height, width = image.shape
    out = np.empty((channels, (height + 1) // 2, (width + 1) // 2), np.uint8)
    for c in range(channels):
        for i in range(out.shape[1]):
            y1 = min(2 * i + 1, height - 1)
            for j in range(out.shape[2]):
                x1 = min(2 * j + 1, width - 1)
                total = np.uint32(image[c, 2 * i, 2 * j]) + image[c, 2 * i, x1] + image[c, y1, 2 * j] + image[c, y1, x1]
                out[c, i, j] = (total + 2) // 4
    return out
