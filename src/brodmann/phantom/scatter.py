"""Put typed cells into a section: where each lies, in which domain, and of which type it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.phantom import areas, types
from brodmann.phantom.brain import Brain
from brodmann.phantom.cells import between, cyto_at, modulation
from brodmann.phantom.chance import compiled, normal, uniform
from brodmann.phantom.cut import STEP_UM, Geometry
from brodmann.phantom.domains import SEEN, WHITE_MM, Plan, margin, parcel
from brodmann.phantom.sheet import LENGTH_MM, MARGIN_MM, STEP_MM, WIDTH_MM

Array = NDArray[np.float64]

BAND_MM = 0.6
"""White matter imaged below the cortex."""
LEAST_UM = 5.0
"""Least distance between two centres."""
_BIN_UM = 6.0
_EXCLUDED = np.pi * (LEAST_UM / 1000) ** 2
_STRAY_MM, _STRAY_DEEP_MM = 0.12, 0.03
_MENINGES_MM, _WALL_UM = 0.035, 7.0
_LUMEN, _WALL = -2, -3
_ENDOTHELIUM = types.TYPE_NAMES.index("endothelium")
_MUSCLE = types.TYPE_NAMES.index("smooth muscle")
_MENINGEAL = types.TYPE_NAMES.index("leptomeningeal")


@dataclass(frozen=True)
class Scatter:
    """Cells of one section, one row each, in the order in which they were placed.

    Attributes
    ----------
    xy_um : (n, 2) float32
    place : (n, 5) float32
        Sheet s, t (mm); equivolumetric depth; template u, v (mm).
    axis : (n, 2) float32
        Sensory-association axis: of the place, and as it acts on expression (0.5 in the uniform region).
    area, layer, domain, kind : (n,) int16
        Area; layer (0-5: I-VI, 6 white matter); fine domain; type.
    """

    xy_um: NDArray[np.float32]
    place: NDArray[np.float32]
    axis: NDArray[np.float32]
    area: NDArray[np.int16]
    layer: NDArray[np.int16]
    domain: NDArray[np.int16]
    kind: NDArray[np.int16]


def scatter(
    brain: Brain, geometry: Geometry, plan: Plan, tubes: Array, *, reach_mm: tuple[float, float], density: float,
    seed: int, texture_seed: int,
) -> Scatter:  # fmt: skip
    """Draw the cells of one section: Poisson with a least distance, in cortex and `BAND_MM` of white matter.

    Parameters
    ----------
    tubes : (n, 6) float64
        Vessels, as `stain.vessels` gives them: no cells within, vascular cells along their walls.
    reach_mm : (float, float)
        First and last sheet coordinate s that is imaged.
    density : float
        Scales the number of cells.
    texture_seed : int
        Of columns, islands and clumps, which run through all sections of a brain.
    """
    own = np.stack([brain.axis, margin(brain)], axis=-1)
    table = np.concatenate([brain.cyto, brain.true_mm, own], axis=-1).astype(np.float32)
    layout = (areas.EDGES.start, areas.DENSITY.start, areas.TEXTURE.start)
    support = np.concatenate([types.SUPPORT_PER_MM2, types.WHITE_NEURONS_PER_MM2])
    share = np.cumsum(plan.mixture, axis=-1)
    share /= share[..., -1:]
    drawn = _scatter(
        geometry.field, table, layout, brain.area, areas.LAYER_OF, support, plan.domain_of, plan.uniform, share,
        tubes, reach_mm[0], reach_mm[1], density, np.uint64(seed), np.uint64(texture_seed),
    )  # fmt: skip
    real, whole = drawn
    return Scatter(
        xy_um=real[:, :2].copy(), place=real[:, 2:7].copy(), axis=real[:, 7:9].copy(),
        area=whole[:, 0].copy(), layer=whole[:, 1].copy(), domain=whole[:, 2].copy(), kind=whole[:, 3].copy(),
    )  # fmt: skip


def take(cells: Scatter, order: NDArray[np.int64]) -> Scatter:
    """The same cells in another order."""
    return Scatter(**{name: values[order] for name, values in vars(cells).items()})


def per_mm(brain: Brain, st_mm: Array) -> Array:
    """Cells per mm of cortical line and mm of height expected at sheet places (n, 2) mm, where the cut is square."""
    cyto = brain.at(brain.cyto, st_mm)
    share = np.diff(cyto[:, areas.EDGES], axis=1, prepend=0.0)
    grain = cyto[:, areas.TEXTURE][:, 4]
    grey = SEEN * np.exp(cyto[:, areas.DENSITY]) / grain[:, None] + types.SUPPORT_PER_MM2[:-2]
    white = types.SUPPORT_PER_MM2[-2:] + types.WHITE_NEURONS_PER_MM2
    return cyto[:, 0] * (share * grey).sum(axis=1) + white[0] * WHITE_MM + white[1] * (BAND_MM - WHITE_MM)


@compiled
def _nearest(table: Any, s: float, t: float) -> int:
    """Value at the node nearest to sheet (s, t) mm."""
    i = min(max(int(np.rint((s + MARGIN_MM) / STEP_MM)), 0), table.shape[0] - 1)
    j = min(max(int(np.rint((t + MARGIN_MM) / STEP_MM)), 0), table.shape[1] - 1)
    return table[i, j]


@compiled
def _zone(row: Any, edge0: int, sub: int, depth: float, below: float) -> int:
    """Index into `types.ZONES`; ``below`` is the distance below cortex, mm, negative within."""
    if below > 0.0:
        return sub if below < WHITE_MM else sub + 1
    k = 0
    while k < sub - 1 and depth > row[edge0 + k]:
        k += 1
    return k


@compiled
def _drill(bins: Any, tubes: Any) -> None:
    """Mark the bins in lumens and walls of vessels."""
    for k in range(tubes.shape[0]):
        x0, y0, x1, y1, radius = tubes[k, 0], tubes[k, 1], tubes[k, 2], tubes[k, 3], tubes[k, 4]
        reach = radius + _WALL_UM
        dx, dy = x1 - x0, y1 - y0
        square = max(dx * dx + dy * dy, 1e-9)
        left = max(int((min(x0, x1) - reach) / _BIN_UM), 0)
        right = min(int((max(x0, x1) + reach) / _BIN_UM) + 1, bins.shape[1])
        top = max(int((min(y0, y1) - reach) / _BIN_UM), 0)
        bottom = min(int((max(y0, y1) + reach) / _BIN_UM) + 1, bins.shape[0])
        for j in range(top, bottom):
            for i in range(left, right):
                px, py = (i + 0.5) * _BIN_UM, (j + 0.5) * _BIN_UM
                f = min(max(((px - x0) * dx + (py - y0) * dy) / square, 0.0), 1.0)
                away = np.hypot(px - x0 - f * dx, py - y0 - f * dy)
                if away < radius:
                    bins[j, i] = _LUMEN
                elif away < reach and bins[j, i] == -1:
                    bins[j, i] = _WALL


@compiled
def _free(bins: Any, real: Any, x: float, y: float) -> bool:
    """Whether no placed cell is nearer than `LEAST_UM`."""
    bx, by = int(x / _BIN_UM), int(y / _BIN_UM)
    for j in range(max(by - 1, 0), min(by + 2, bins.shape[0])):
        for i in range(max(bx - 1, 0), min(bx + 2, bins.shape[1])):
            c = bins[j, i]
            if c >= 0:
                dx, dy = real[c, 0] - x, real[c, 1] - y
                if dx * dx + dy * dy < LEAST_UM * LEAST_UM:
                    return False
    return True


@compiled
def _pick(share: Any, u: float) -> int:
    """First index whose cumulated share exceeds ``u``."""
    low, high = 0, share.shape[0] - 1
    while low < high:
        middle = (low + high) // 2
        if share[middle] > u:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def _scatter(
    field: Any, table: Any, layout: Any, area_of: Any, layer_of: Any, support: Any, domain_of: Any, uniform_domain: int,
    share: Any, tubes: Any, first: float, last: float, density: float, seed: Any, texture_seed: Any,
) -> Any:  # fmt: skip
    edge0, dens0, tex0 = layout
    height, width = field.shape[0] - 1, field.shape[1] - 1
    bins = np.full((int(height * STEP_UM / _BIN_UM) + 2, int(width * STEP_UM / _BIN_UM) + 2), -1, np.int32)
    _drill(bins, tubes)
    state = np.zeros(1, np.uint64)
    state[0] = seed
    limit, n = 1 << 15, 0
    real = np.empty((limit, 9), np.float32)
    whole = np.empty((limit, 4), np.int16)
    q, row = np.empty(8), np.empty(table.shape[2])
    sub, last_of = len(layer_of), table.shape[2] - 1
    block_mm2 = (STEP_UM / 1000.0) ** 2
    for by in range(height):
        for bx in range(width):
            between(field, bx + 0.5, by + 0.5, q)
            if q[7] < -0.1 or q[2] > q[3] + 0.15 or q[2] < -q[3] - BAND_MM - 0.1:
                continue
            if q[0] < first - 0.2 or q[0] > last + 0.2:
                continue
            cyto_at(table, q[0], q[1], row)
            slack = 0.06 / q[3] + 0.04
            densest = 0.0
            for k in range(sub):
                above = row[edge0 + k - 1] if k else 0.0
                if above <= q[4] + slack and row[edge0 + k] >= q[4] - slack:
                    densest = max(densest, SEEN * np.exp(row[dens0 + k]))
            densest *= 1.08 * (1 + max(row[tex0], row[tex0 + 1], row[tex0 + 2])) / row[tex0 + 4]
            peak = densest + 700.0
            if q[2] < -q[3] + 0.15:
                peak = max(peak, 1350.0)
            # Candidates that find a neighbour too close are made up for.
            peak *= density * 1.35
            mean = peak * block_mm2
            count = int(mean) + (1 if uniform(state) < mean - int(mean) else 0)
            for _ in range(count):
                fx, fy = bx + uniform(state), by + uniform(state)
                between(field, fx, fy, q)
                below = -q[3] - q[2]
                if q[7] < 0.0 or q[2] > q[3] or below > BAND_MM:
                    continue
                if not (first <= q[0] <= last and 0.0 <= q[0] <= LENGTH_MM and 0.0 <= q[1] <= WIDTH_MM):
                    continue
                x, y = fx * STEP_UM, fy * STEP_UM
                here = bins[int(y / _BIN_UM), int(x / _BIN_UM)]
                # One cell to a bin at most, so that none is forgotten.
                if here == _LUMEN or here >= 0:
                    continue
                cyto_at(table, q[0], q[1], row)
                k = _zone(row, edge0, sub, q[4], below)
                if k >= sub:
                    rate = support[k] + support[k + 2]
                else:
                    rate = support[k] + SEEN * np.exp(row[dens0 + k]) * modulation(row, tex0, k, q, texture_seed)
                rate *= density
                crowded = min(_EXCLUDED * rate, 0.7)
                thinned = uniform(state) * peak > -np.log(1.0 - crowded) / _EXCLUDED
                # Walls are lined with cells: none is left out there.
                if (thinned and here != _WALL) or not _free(bins, real, x, y):
                    continue
                area = _nearest(area_of, q[0], q[1])
                u, v, axis, away = row[last_of - 3], row[last_of - 2], row[last_of - 1], row[last_of]
                acting = axis
                domain = domain_of[parcel(area, u, v, away), k]
                drawn_from = domain
                if domain == uniform_domain:
                    acting = 0.5
                else:
                    # Types stray over borders, as cells do; the domain of a place does not.
                    ds, dt, dd = (normal(state), normal(state), _STRAY_DEEP_MM * normal(state))
                    ds, dt = _STRAY_MM * ds, _STRAY_MM * dt
                    depth = min(max(q[4] - 0.5 * dd / q[3], 0.0), 1.0)
                    zone = _zone(row, edge0, sub, depth, below - dd)
                    there = _nearest(area_of, q[0] + ds, q[1] + dt)
                    drawn_from = domain_of[parcel(there, u + ds, v + dt, away - ds), zone]
                end = 1 if uniform(state) < acting else 0
                kind = _pick(share[drawn_from, end], uniform(state))
                if here == _WALL:
                    if uniform(state) < 0.8:
                        kind = _ENDOTHELIUM if uniform(state) < 0.6 else _MUSCLE
                elif q[2] > q[3] - _MENINGES_MM and uniform(state) < 0.5:
                    kind = _MENINGEAL
                if n == limit:
                    wide_real, wide_whole = np.empty((2 * limit, 9), np.float32), np.empty((2 * limit, 4), np.int16)
                    wide_real[:limit], wide_whole[:limit] = real, whole
                    real, whole = wide_real, wide_whole
                    limit *= 2
                real[n, 0], real[n, 1], real[n, 2], real[n, 3] = x, y, q[0], q[1]
                real[n, 4], real[n, 5], real[n, 6], real[n, 7], real[n, 8] = q[4], u, v, axis, acting
                whole[n, 0], whole[n, 1] = area, layer_of[k] - 1 if k < sub else 6
                whole[n, 2], whole[n, 3] = domain, kind
                bins[int(y / _BIN_UM), int(x / _BIN_UM)] = n
                n += 1
    return real[:n].copy(), whole[:n].copy()


def morton(xy_um: NDArray[np.float32], step_um: float = 25.0) -> NDArray[np.int64]:
    """Order along a Z-shaped curve through a grid of ``step_um`` (Morton 1966); cells of one square keep theirs."""
    if not len(xy_um):
        return np.zeros(0, np.int64)
    square = np.floor((xy_um.astype(np.float64) - xy_um.min(axis=0)) / step_um).astype(np.uint64)
    key = np.zeros(len(xy_um), np.uint64)
    for bit in range(20):
        for axis in range(2):
            key |= ((square[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(2 * bit + axis)
    return np.argsort(key, kind="stable").astype(np.int64)
