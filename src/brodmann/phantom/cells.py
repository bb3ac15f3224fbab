"""Put cells into a section: Poisson with a least distance, by layer, with the texture of each area."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.phantom import areas
from brodmann.phantom.brain import Brain
from brodmann.phantom.chance import compiled, lumps, normal, ripple, uniform
from brodmann.phantom.cut import STEP_UM, Geometry
from brodmann.phantom.sheet import MARGIN_MM, STEP_MM

Cells = NDArray[np.float32]
"""(n, 8): x, y (um), radius (um), pyramidality 0-1, direction of the apex (x, y), darkness, sublayer (-1 glia)."""

_BIN_UM = 8.0
_GLIA_CORTEX, _GLIA_WHITE = 420.0, 1150.0  # per mm2 of section
_GIANT_UM = 52.0
_COLUMN_MM, _ISLAND_MM, _CLUMP_MM = 0.11, 0.22, 0.15


def place(brain: Brain, geometry: Geometry, seed: int, texture_seed: int) -> Cells:
    """Draw the cells of one section.

    Parameters
    ----------
    seed : int
        Of this section's chance.
    texture_seed : int
        Of columns, islands and clumps, which run through all sections of a brain.
    """
    table = brain.cyto.astype(np.float32)
    layout = (areas.EDGES.start, areas.DENSITY.start, areas.SIZE.start, areas.TEXTURE.start)
    args = (geometry.field, table, layout, areas.PYRAMID, areas.LAYER_OF, np.uint64(seed), np.uint64(texture_seed))
    return cast("Cells", _place(*args))


@compiled
def between(field: Any, fx: float, fy: float, out: Any) -> None:
    """Geometry at raster position (fx, fy); nearest node where two banks meet and averages would lie on neither."""
    x0 = min(max(int(fx), 0), field.shape[1] - 2)
    y0 = min(max(int(fy), 0), field.shape[0] - 2)
    a, b = min(max(fx - x0, 0.0), 1.0), min(max(fy - y0, 0.0), 1.0)
    apart = 0.0
    for k in range(2):
        low = min(field[y0, x0, k], field[y0, x0 + 1, k], field[y0 + 1, x0, k], field[y0 + 1, x0 + 1, k])
        high = max(field[y0, x0, k], field[y0, x0 + 1, k], field[y0 + 1, x0, k], field[y0 + 1, x0 + 1, k])
        apart = max(apart, high - low)
    if apart > 0.7:
        xn, yn = x0 + int(a + 0.5), y0 + int(b + 0.5)
        for k in range(8):
            out[k] = field[yn, xn, k]
        return
    for k in range(8):
        out[k] = (1 - b) * ((1 - a) * field[y0, x0, k] + a * field[y0, x0 + 1, k]) + b * (
            (1 - a) * field[y0 + 1, x0, k] + a * field[y0 + 1, x0 + 1, k]
        )


@compiled
def cyto_at(table: Any, s: float, t: float, out: Any) -> None:
    """Cytoarchitecture at sheet (s, t) mm."""
    i = min(max((s + MARGIN_MM) / STEP_MM, 0.0), table.shape[0] - 1.001)
    j = min(max((t + MARGIN_MM) / STEP_MM, 0.0), table.shape[1] - 1.001)
    i0, j0 = int(i), int(j)
    a, b = i - i0, j - j0
    for k in range(table.shape[2]):
        out[k] = (1 - a) * ((1 - b) * table[i0, j0, k] + b * table[i0, j0 + 1, k]) + a * (
            (1 - b) * table[i0 + 1, j0, k] + b * table[i0 + 1, j0 + 1, k]
        )


@compiled
def modulation(row: Any, tex0: int, k: int, q: Any, texture_seed: Any) -> float:
    """What columns, islands and clumps do to the number of neurons; mean 1 over the size of the grain."""
    out = 1.0
    if k > 0 and row[tex0] > 0.02:
        v = ripple(texture_seed, q[0] / _COLUMN_MM, q[1] / _COLUMN_MM)
        out += row[tex0] * min(max(2.4 * v, -1.0), 1.0)
    if k == 1 and row[tex0 + 1] > 0.02:
        v = ripple(texture_seed + np.uint64(1), q[0] / _ISLAND_MM, q[1] / _ISLAND_MM)
        out += row[tex0 + 1] * min(max(3.0 * v, -1.0), 1.0)
    if k > 1 and row[tex0 + 2] > 0.02:
        v = lumps(texture_seed + np.uint64(2), q[0] / _CLUMP_MM, q[1] / _CLUMP_MM, q[2] / _CLUMP_MM)
        out += row[tex0 + 2] * min(max(2.8 * v, -1.0), 1.0)
    return max(out, 0.0) / row[tex0 + 4]


@compiled
def _free(bins: Any, cells: Any, x: float, y: float, r: float) -> bool:
    """Whether no placed cell is nearer than 0.6 of the summed radii."""
    bx, by = int(x / _BIN_UM), int(y / _BIN_UM)
    reach = 1 + int(0.6 * (r + 11.0) / _BIN_UM)
    for j in range(max(by - reach, 0), min(by + reach + 1, bins.shape[0])):
        for i in range(max(bx - reach, 0), min(bx + reach + 1, bins.shape[1])):
            c = bins[j, i]
            if c >= 0:
                dx, dy, need = cells[c, 0] - x, cells[c, 1] - y, 0.6 * (cells[c, 2] + r)
                if dx * dx + dy * dy < need * need:
                    return False
    return True


@compiled
def _put(bins: Any, cells: Any, n: int, x: float, y: float, r: float) -> None:
    """Enter a cell into the bins; a large one fills all bins it covers."""
    bins[int(y / _BIN_UM), int(x / _BIN_UM)] = n
    if r > 11.0:
        for j in range(max(int((y - r) / _BIN_UM), 0), min(int((y + r) / _BIN_UM) + 1, bins.shape[0])):
            for i in range(max(int((x - r) / _BIN_UM), 0), min(int((x + r) / _BIN_UM) + 1, bins.shape[1])):
                dx, dy = (i + 0.5) * _BIN_UM - x, (j + 0.5) * _BIN_UM - y
                if dx * dx + dy * dy < r * r:
                    bins[j, i] = n


@compiled
def _place(field: Any, table: Any, layout: Any, pyramid: Any, layer_of: Any, seed: Any, texture_seed: Any) -> Any:
    edge0, dens0, size0, tex0 = layout
    height, width = field.shape[0] - 1, field.shape[1] - 1
    block_mm2 = (STEP_UM / 1000.0) ** 2
    bins = np.full((int(height * STEP_UM / _BIN_UM) + 2, int(width * STEP_UM / _BIN_UM) + 2), -1, np.int32)
    state = np.zeros(1, np.uint64)
    state[0] = seed
    limit = 1 << 16
    cells = np.empty((limit, 8), np.float32)
    n = 0
    q = np.empty(8)
    row = np.empty(table.shape[2])
    sub = len(layer_of)
    # Giants first: a small cell gives way to a large one, never the other way round.
    for turn in range(2):
        for by in range(height):
            for bx in range(width):
                between(field, bx + 0.5, by + 0.5, q)
                if q[7] < -0.1 or q[2] > q[3] + 0.15:
                    continue
                white_only = q[2] < -q[3] - 0.15
                if turn == 0 and white_only:
                    continue
                densest = 0.0
                if not white_only:
                    cyto_at(table, q[0], q[1], row)
                    if turn == 0 and row[tex0 + 5] < 0.2:
                        continue
                    slack = 0.06 / q[3] + 0.04
                    for k in range(sub):
                        above = row[edge0 + k - 1] if k else 0.0
                        if above <= q[4] + slack and row[edge0 + k] >= q[4] - slack:
                            densest = max(densest, np.exp(row[dens0 + k]))
                    # Room for modulation by texture, and for candidates that find no free place.
                    densest = densest * (1 + max(row[tex0], row[tex0 + 1], row[tex0 + 2])) * 1.35
                peak = densest + (_GLIA_WHITE if q[2] < -q[3] + 0.4 else _GLIA_CORTEX)
                if turn == 0:
                    peak = row[tex0 + 5]
                mean = peak * block_mm2
                count = int(mean) + (1 if uniform(state) < mean - int(mean) else 0)
                for _ in range(count):
                    fx, fy = bx + uniform(state), by + uniform(state)
                    between(field, fx, fy, q)
                    x, y = fx * STEP_UM, fy * STEP_UM
                    if q[7] < 0.0 or q[2] > q[3]:
                        continue
                    chance = uniform(state) * peak
                    in_white = q[2] < -q[3]
                    if turn == 0:
                        if in_white or q[4] < row[edge0 + 7] or q[4] > row[edge0 + 8]:
                            continue
                        k, r, taper = 8, 0.5 * _GIANT_UM * np.exp(0.16 * normal(state)), 1.0
                    else:
                        glia = _GLIA_WHITE if in_white else _GLIA_CORTEX
                        if chance < glia:
                            k, r, taper = -1, 2.9 * np.exp(0.12 * normal(state)), 0.0
                        elif in_white:
                            continue
                        else:
                            # Layers give way to one another gradually, as cells stray over their edges.
                            depth = q[4] + 0.012 * normal(state)
                            k = 0
                            while k < sub - 1 and depth > row[edge0 + k]:
                                k += 1
                            rate = np.exp(row[dens0 + k])
                            grain = row[tex0 + 4]
                            rate *= modulation(row, tex0, k, q, texture_seed)
                            spread = row[tex0 + 3]
                            # E[diameter2] stays the same whatever the spread, so optical density does too.
                            r = 0.5 * np.exp(row[size0 + k] + spread * normal(state) - spread * spread) * np.sqrt(grain)
                            r = min(r, 20.0)
                            filled = rate * 1e-6 * np.pi * (1.2 * r) ** 2
                            rate *= min(1.0 + 0.5 * filled + 0.25 * filled * filled, 1.35)
                            if chance - glia > rate:
                                continue
                            taper = pyramid[k]
                    if not _free(bins, cells, x, y, r):
                        continue
                    if n == limit:
                        wider = np.empty((2 * limit, 8), np.float32)
                        wider[:limit] = cells
                        cells = wider
                        limit *= 2
                    sway = (0.10 if taper > 0.5 else 1.0 - taper) * normal(state)
                    cos, sin = np.cos(sway), np.sin(sway)
                    cells[n, 0], cells[n, 1], cells[n, 2], cells[n, 3] = x, y, r, taper
                    cells[n, 4], cells[n, 5] = cos * q[5] - sin * q[6], sin * q[5] + cos * q[6]
                    cells[n, 6] = max(0.3, 1.0 + 0.15 * normal(state))
                    cells[n, 7] = k
                    _put(bins, cells, n, x, y, r)
                    n += 1
    return cells[:n].copy()
