"""One brain: the sheet warped, sized, folded into 3-D, with its cytoarchitecture at every place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brodmann.phantom import areas, sheet
from brodmann.phantom.sheet import MARGIN_MM, STEP_MM, Sheet, Waves
from brodmann.samples import stream

Array = NDArray[np.float64]

BLEND_MM = 0.35
"""SD of the blend of cell parameters over a border: 10 to 90 % within 0.9 mm."""
LIMITS_MM = (1.9, 4.6)
"""Thinnest and thickest cortex."""


@dataclass(frozen=True)
class Brain:
    """Tables over the individual sheet, all of shape (n_u, n_v, ...), spacing `STEP_MM`, margin included.

    Attributes
    ----------
    surface : (n_u, n_v, 18) float64
        Mid-cortical surface in mm: position, its derivatives along both sheet axes, unit normal (towards the pia),
        and the normal's derivatives.
    curvature : (n_u, n_v, 2) float64
        Mean (1/mm, positive on crowns) and Gaussian curvature (1/mm2) of the mid-surface.
    cyto : (n_u, n_v, parameters) float64
        Thickness, sublayer edges, log density, log size, texture: see `areas.Area.row`.
    true_mm, registered_mm : (n_u, n_v, 2) float64
        Template coordinates, and what a registration believes them to be.
    border_mm : (n_u, n_v) float64
        Distance along the sheet to the nearest border between areas.
    """

    name: str
    area: NDArray[np.int16]
    network: NDArray[np.int16]
    axis: Array
    surface: Array
    curvature: Array
    cyto: Array
    true_mm: Array
    registered_mm: Array
    border_mm: Array

    def at(self, table: Array, st_mm: Array) -> Array:
        """Linear interpolation of a ``table`` (n_u, n_v[, k]) at sheet places (n, 2) mm -> (n[, k])."""
        where = (st_mm + MARGIN_MM) / STEP_MM
        i, j = (where[:, k].astype(int).clip(0, table.shape[k] - 2) for k in range(2))
        a, b = ((where[:, k] - low).clip(0, 1).reshape(-1, *([1] * (table.ndim - 2))) for k, low in enumerate((i, j)))
        near = (1 - b) * table[i, j] + b * table[i, j + 1]
        return (1 - a) * near + a * ((1 - b) * table[i + 1, j] + b * table[i + 1, j + 1])

    def nearest(self, table: NDArray[np.int16], st_mm: Array) -> NDArray[np.int16]:
        """Value of an integer ``table`` at the nearest node of sheet places (n, 2) mm -> (n,)."""
        where = np.rint((st_mm + MARGIN_MM) / STEP_MM).astype(int)
        return table[where[:, 0].clip(0, table.shape[0] - 1), where[:, 1].clip(0, table.shape[1] - 1)]


def grow(
    template: Sheet, *, seed: int, index: int, registration_mm: float, networks: str = "areas", gradients: float = 1.0
) -> Brain:
    """Grow brain ``index`` of phantom ``seed`` from the template.

    Parameters
    ----------
    registration_mm : float
        Length (rms over the sheet, mm) of the smooth error of the registered coordinates.
    networks : {"areas", "place"}
        What networks follow, see `Sheet.network`.
    gradients : float
        Scales smooth change of cells and thickness within areas; at 0 areas are uniform, and only folds bend them.
    """
    name = f"B{index + 1}"
    rng = stream(seed, "phantom", name)
    s, t = sheet.grid()
    wu, wv, gain = sheet.displacement(rng, 3.0, 32, 70)
    u, v = s + gain * wu(s, t), t + gain * wv(s, t)
    area = template.area(u, v, rng.normal(0, 22, len(areas.NAMES)))
    onehot = np.stack([(area == k).astype(np.float64) for k in range(len(areas.NAMES))])
    weights = np.stack([_smooth(w, BLEND_MM / STEP_MM) for w in onehot])
    axis = template.axis(u, v)
    near = np.stack([_smooth(w, 2.0 / STEP_MM) for w in onehot])
    network = template.network(near, u, v, areas=float(networks == "areas"))
    surface, curvature = _fold(rng, s, t)
    cyto = _cyto(rng, template, onehot, weights, axis, u, v, curvature, gradients)
    ru, rv, gain = sheet.displacement(stream(seed, "phantom", name, "registration"), registration_mm, 50, 110)
    true_mm = np.stack([u, v], axis=-1)
    registered = np.stack([u + gain * ru(u, v), v + gain * rv(u, v)], axis=-1)
    border = (
        np.stack([cast("Array", ndimage.distance_transform_edt(area == k)) for k in range(len(areas.NAMES))]).max(
            axis=0
        )
        * STEP_MM
    )
    return Brain(name, area, network, axis, surface, curvature, cyto, true_mm, registered, border)


def _smooth(values: Array, sigma: float) -> Array:
    return cast("Array", ndimage.gaussian_filter(values, sigma, mode="nearest"))


def _cyto(
    rng: np.random.Generator, template: Sheet, onehot: Array, weights: Array, axis: Array, u: Array, v: Array,
    curvature: Array, gradients: float,
) -> Array:  # fmt: skip
    """Blend the areas' parameters, then add gradients, the brain's own scales, and what folding does to thickness."""
    cyto = np.einsum("auv,ap->uvp", weights, areas.rows()) / weights.sum(axis=0)[..., None]
    g = [gradients * wave(u, v) for wave in template.gradients]
    along = gradients * (axis - 0.5)
    dense, large = slice(areas.DENSITY.start, areas.DENSITY.stop), slice(areas.SIZE.start, areas.SIZE.stop)
    own = Waves.draw(rng, 20, 45)
    cyto[..., dense] += (0.08 * g[0] + 0.05 * gradients * own(u, v) + rng.normal(0, 0.07))[..., None]
    cyto[..., large] += (0.03 * g[1] + rng.normal(0, 0.025))[..., None]
    # Away from primary areas granular layers thin out and supragranular pyramids grow.
    for k, layer in enumerate(areas.LAYER_OF):
        if layer == 4:
            cyto[..., dense.start + k] += 0.10 * g[2] - 0.16 * along
        if layer == 3:
            cyto[..., large.start + k] += 0.04 * g[3] + 0.08 * along
        if layer >= 5:
            cyto[..., dense.start + k] += 0.10 * g[4]
    # Thickness blends over a wider zone than cells, or borders would show as notches in the pia.
    wide = np.stack([_smooth(w, 1.4 / STEP_MM) for w in onehot])
    thick = np.einsum("auv,a->uv", wide, areas.rows()[:, 0]) / wide.sum(axis=0)
    thick = thick * np.exp(0.05 * g[5] + 0.04 * gradients * own(v, u) + rng.normal(0, 0.04))
    mean = curvature[..., 0]
    thick = thick * (1 + 0.20 * np.tanh(4.0 * mean))
    # The pia of a fundus must not fold into itself: half the thickness stays below the radius.
    bend = np.sqrt(np.maximum(mean**2 - curvature[..., 1], 0))
    room = 1.75 / np.maximum(bend - mean, 0.05)
    thick = (thick**-6 + room**-6) ** (-1 / 6)
    cyto[..., 0] = np.clip(thick, *LIMITS_MM)
    return cyto


def _fold(rng: np.random.Generator, s: Array, t: Array) -> tuple[Array, Array]:
    """Fold the sheet: along s a nearly isometric meander with steep sulcal banks, along t gentle undulation."""
    phase_noise, steep_noise, bump = Waves.draw(rng, 26, 60), Waves.draw(rng, 22, 50), Waves.draw(rng, 16, 26)
    period, oblique = rng.uniform(22, 26), rng.uniform(-0.35, 0.35)
    phase = 2 * np.pi * (s + oblique * (t - 20)) / period + 0.55 * phase_noise(s, t) + rng.uniform(0, 2 * np.pi)
    steep = 1.30 + 0.12 * np.tanh(steep_noise(s, t))
    # Fundi (phase 0) turn faster than crowns (phase pi): sulci are narrow, gyri broad.
    angle = steep * np.tanh(1.05 * np.sin(phase + 0.22 * np.sin(phase))) / np.tanh(1.05)
    angle = angle - 0.35 * (s - 30) / 30
    middle = s.shape[0] // 2

    def along(values: Array) -> Array:
        total = np.cumsum((values + np.roll(values, 1, axis=0)) / 2, axis=0) * STEP_MM
        return total - total[middle]

    x = along(np.cos(angle))
    z = along(np.sin(angle))
    # Without this every section would be pinned to the same height at the sheet's middle line.
    z = z - z.mean(axis=0) + 0.55 * bump(s, t) - (t - 20) ** 2 / 150
    position = np.stack([x, t - 20, z], axis=-1)
    position = np.stack([_smooth(position[..., k], 1.2) for k in range(3)], axis=-1)
    ds, dt = _slopes(position)
    normal = np.cross(ds, dt)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    ns, nt = _slopes(normal)
    surface = np.concatenate([position, ds, dt, normal, ns, nt], axis=-1)
    return surface, _curvature(ds, dt, ns, nt)


def _slopes(values: Array) -> tuple[Array, Array]:
    """Differentiate (n_u, n_v, 3) along both axes of the sheet, per mm."""
    along = np.asarray(np.gradient(values, STEP_MM, axis=0), dtype=np.float64)
    return along, np.asarray(np.gradient(values, STEP_MM, axis=1), dtype=np.float64)


def _curvature(ds: Array, dt: Array, ns: Array, nt: Array) -> Array:
    """Mean and Gaussian curvature from the two fundamental forms; positive mean on crowns."""
    e, f, g = (ds * ds).sum(-1), (ds * dt).sum(-1), (dt * dt).sum(-1)
    big_l, big_n = (ds * ns).sum(-1), (dt * nt).sum(-1)
    big_m = ((ds * nt).sum(-1) + (dt * ns).sum(-1)) / 2
    area = e * g - f * f
    mean = (e * big_n - 2 * f * big_m + g * big_l) / (2 * area)
    return np.stack([mean, (big_l * big_n - big_m**2) / area], axis=-1)
