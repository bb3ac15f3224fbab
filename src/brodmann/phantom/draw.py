"""Optical density of a section: stained cell bodies, neuropil and vessels, antialiased at any pixel size."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.phantom import areas
from brodmann.phantom.brain import Brain
from brodmann.phantom.cells import Cells, between, cyto_at
from brodmann.phantom.chance import compiled, ripple
from brodmann.phantom.cut import STEP_UM, Geometry
from brodmann.phantom.sheet import MARGIN_MM, STEP_MM

Raster = NDArray[np.float32]
Labels = Literal["layers", "areas"]

_NEUROPIL, _WHITE = 0.085, 0.12


def density(
    geometry: Geometry, cells: Cells, vessels: NDArray[np.float64], shape: tuple[int, int], pixel_um: float, seed: int
) -> Raster:
    """Optical density (h, w) float32 at ``pixel_um``.

    Parameters
    ----------
    vessels : (n, 6) float64
        Pieces of tubes in um: x0, y0, x1, y1, radius of the lumen, thickness of the wall.
    """
    od = cast("Raster", _tissue(geometry.field, shape[0], shape[1], pixel_um, np.uint64(seed)))
    _cells(od, cells, pixel_um)
    _vessels(od, vessels, pixel_um)
    return od


def labels(
    geometry: Geometry, brain: Brain, shape: tuple[int, int], pixel_um: float, what: Labels
) -> NDArray[np.uint8]:
    """Label image (h, w) uint8: layers (0 background, 1-6, 7 white matter) or areas (0, else 1 + index)."""
    area = brain.area if what == "areas" else brain.area[:0]
    args = (geometry.field, brain.cyto, areas.EDGES.start, areas.LAYER_OF, area, shape[0], shape[1], pixel_um)
    return cast("NDArray[np.uint8]", _labels(*args))


@compiled
def _tissue(field: Any, height: int, width: int, pixel_um: float, seed: Any) -> Any:
    """Neuropil with a soft mottle; edges are soft over one pixel."""
    od = np.zeros((height, width), np.float32)
    q = np.empty(8)
    soft = 1000.0 / pixel_um
    for y in range(height):
        for x in range(width):
            fx, fy = (x + 0.5) * pixel_um / STEP_UM, (y + 0.5) * pixel_um / STEP_UM
            between(field, fx, fy, q)
            inside = min(min(q[3] - q[2], q[7]) * soft + 0.5, 1.0)
            if inside <= 0.0:
                continue
            white = min(max((-q[3] - q[2]) / 0.25 + 0.5, 0.0), 1.0)
            mottle = ripple(seed, fx * STEP_UM / 45.0, fy * STEP_UM / 45.0)
            od[y, x] = inside * (_NEUROPIL + (_WHITE - _NEUROPIL) * white) * (1.0 + 0.22 * mottle)
    return od


@compiled
def _stamp(x: float, y: float, taper: float, nucleus: float) -> float:
    """Darkness of a body at (x across, y along the apex) in radii: a disc, or a pyramid with its apical dendrite."""
    if taper < 0.05:
        rr = x * x + y * y
        if rr > 1.0:
            return 0.0
        return 1.0
    long, wide = 1.0 + 0.35 * taper, 1.0 - 0.18 * taper
    v = y / long
    if v > 1.0:
        if v < 2.4 and abs(x) < 0.13 * taper * (2.6 - v):
            return 0.45 * taper
        return 0.0
    if v < -1.0:
        return 0.0
    half = wide * np.sqrt(1.0 - v * v) * (1.0 - 0.50 * taper * v)
    if v > 0.0:
        half = max(half, 0.2 * taper)
    if abs(x) > half:
        return 0.0
    if nucleus > 0.0:
        rr = x * x + (y + 0.1) ** 2
        if rr < 0.03:
            return 1.25
        if rr < 0.22:
            return 0.62
    return 1.0


@compiled
def _cells(od: Any, cells: Any, pixel_um: float) -> None:
    height, width = od.shape
    per = 1.0 / pixel_um
    for c in range(cells.shape[0]):
        x, y, r = cells[c, 0] * per - 0.5, cells[c, 1] * per - 0.5, cells[c, 2] * per
        taper, ux, uy = cells[c, 3], cells[c, 4], cells[c, 5]
        dark = 1.25 * cells[c, 6] * (1.15 if cells[c, 7] < 0 else 1.0)
        if r < 0.7:
            # Smaller than a pixel: spread its mass over the four nearest pixels.
            mass = dark * np.pi * r * r * (1.0 + 0.15 * taper)
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            a, b = x - x0, y - y0
            for j in range(2):
                for i in range(2):
                    if 0 <= x0 + i < width and 0 <= y0 + j < height:
                        od[y0 + j, x0 + i] += mass * (a if i else 1 - a) * (b if j else 1 - b)
            continue
        fine = 4 if r < 2.0 else 3 if r < 5.0 else 2
        nucleus = 1.0 if r > 3.0 and taper > 0.4 else 0.0
        span = r * (1.0 + (2.6 if taper > 0.4 else 0.5) * taper) + 1.0
        share = dark / (fine * fine)
        for j in range(max(int(y - span), 0), min(int(y + span) + 2, height)):
            for i in range(max(int(x - span), 0), min(int(x + span) + 2, width)):
                total = 0.0
                for sj in range(fine):
                    dy = (j + (sj + 0.5) / fine - 0.5 - y) / r
                    for si in range(fine):
                        dx = (i + (si + 0.5) / fine - 0.5 - x) / r
                        total += _stamp(-dx * uy + dy * ux, dx * ux + dy * uy, taper, nucleus)
                od[j, i] += share * total


@compiled
def _vessels(od: Any, vessels: Any, pixel_um: float) -> None:
    """Lay all walls, then clear all lumens, so that the pieces of a tube join; coverage falls off over one pixel."""
    height, width = od.shape
    for turn in range(2):
        for c in range(vessels.shape[0]):
            x0, y0, x1, y1, r, wall = vessels[c]
            outer = r + wall if turn == 0 else r
            reach = outer + pixel_um
            dx, dy = x1 - x0, y1 - y0
            square = max(dx * dx + dy * dy, 1e-9)
            top, bottom = int((min(y0, y1) - reach) / pixel_um), int((max(y0, y1) + reach) / pixel_um) + 2
            left, right = int((min(x0, x1) - reach) / pixel_um), int((max(x0, x1) + reach) / pixel_um) + 2
            for j in range(max(top, 0), min(bottom, height)):
                for i in range(max(left, 0), min(right, width)):
                    px, py = (i + 0.5) * pixel_um, (j + 0.5) * pixel_um
                    f = min(max(((px - x0) * dx + (py - y0) * dy) / square, 0.0), 1.0)
                    d = np.hypot(px - x0 - f * dx, py - y0 - f * dy)
                    cover = min(max((outer - d) / pixel_um + 0.5, 0.0), 1.0)
                    od[j, i] = od[j, i] * (1.0 - cover) + (0.42 if turn == 0 else 0.02) * cover


@compiled
def _labels(
    field: Any, cyto: Any, edge0: int, layer_of: Any, area: Any, height: int, width: int, pixel_um: float
) -> Any:
    out = np.zeros((height, width), np.uint8)
    q = np.empty(8)
    row = np.empty(cyto.shape[2])
    for y in range(height):
        for x in range(width):
            between(field, (x + 0.5) * pixel_um / STEP_UM, (y + 0.5) * pixel_um / STEP_UM, q)
            if q[7] < 0 or q[2] > q[3]:
                continue
            if len(area):
                if q[2] >= -q[3]:
                    i = min(max(int((q[0] + MARGIN_MM) / STEP_MM + 0.5), 0), area.shape[0] - 1)
                    j = min(max(int((q[1] + MARGIN_MM) / STEP_MM + 0.5), 0), area.shape[1] - 1)
                    out[y, x] = 1 + area[i, j]
                continue
            if q[2] < -q[3]:
                out[y, x] = 7
                continue
            cyto_at(cyto, q[0], q[1], row)
            k = 0
            while k < len(layer_of) - 1 and q[4] > row[edge0 + k]:
                k += 1
            out[y, x] = layer_of[k]
    return out
