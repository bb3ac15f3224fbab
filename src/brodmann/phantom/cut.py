"""Cut a folded brain with a plane: the cortical line, and sheet coordinates of every place on the section."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import KDTree

from brodmann.phantom.brain import Brain
from brodmann.phantom.sheet import LENGTH_MM, MARGIN_MM, STEP_MM, WIDTH_MM
from brodmann.samples import stream

Array = NDArray[np.float64]

STEP_UM = 80.0
"""Spacing of the raster on which geometry is solved; finer places are interpolated."""
_RIM_MM = 3.0
_BELOW_MM = 3.5


@dataclass(frozen=True)
class Plane:
    """A section plane: ``origin`` is the top left corner, x runs right, y down.

    Attributes
    ----------
    to_mm : (3, 3) float64
        (x_um, y_um, 1) -> mm in the phantom's space; exact.
    line_mm : (n, 2) float64
        Sheet coordinates every 50 um along the mid-cortical line, from end to end.
    floor_um : float
        Lowest y of tissue.
    """

    to_mm: Array
    width_um: float
    height_um: float
    line_mm: Array
    floor_um: float

    @property
    def normal(self) -> Array:
        """Unit normal of the plane, (3,)."""
        normal = np.cross(self.to_mm[:, 0], self.to_mm[:, 1])
        return normal / np.linalg.norm(normal)

    def place(self, xy_um: Array) -> Array:
        """Section coordinates (n, 2) um -> (n, 3) mm in the phantom's space."""
        return xy_um @ self.to_mm[:, :2].T + self.to_mm[:, 2]

    def project(self, xyz_mm: Array) -> Array:
        """Foot points on the plane of (n, 3) mm -> (n, 2) um."""
        return (xyz_mm - self.to_mm[:, 2]) @ self.to_mm[:, :2] * 1e6


def planes(brain: Brain, *, seed: int, sections: int, tilt_deg: float = 14.0) -> list[Plane]:
    """Cut a brain into parallel sections tilted up to ``tilt_deg``, evenly spaced; each is mounted slightly askew."""
    rng = stream(seed, "phantom", brain.name, "planes")
    yaw, pitch = np.deg2rad(rng.uniform(-tilt_deg, tilt_deg, 2))
    offsets = np.linspace(-WIDTH_MM / 2, WIDTH_MM / 2, sections + 2)[1:-1]
    return [
        _plane(brain, stream(seed, "phantom", brain.name, "plane", k), yaw, pitch, o) for k, o in enumerate(offsets)
    ]


def _plane(brain: Brain, rng: np.random.Generator, yaw: float, pitch: float, offset: float) -> Plane:
    yaw, pitch = yaw + np.deg2rad(rng.normal(0, 1)), pitch + np.deg2rad(rng.normal(0, 1))
    m = np.array([np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
    through = m * offset
    ex = np.array([1.0, 0, 0]) - m[0] * m
    ex /= np.linalg.norm(ex)
    ey = np.cross(ex, m)
    if ey[2] > 0:
        ey = -ey
    roll = np.deg2rad(rng.normal(0, 4))
    ex, ey = np.cos(roll) * ex + np.sin(roll) * ey, np.cos(roll) * ey - np.sin(roll) * ex
    line = _line(brain, m, through)
    flat = (brain.at(brain.surface[..., :3], line) - through) @ np.stack([ex, ey], axis=1)
    low, high = flat.min(axis=0) - _RIM_MM, flat.max(axis=0) + _RIM_MM
    high[1] += _BELOW_MM
    origin = through + low[0] * ex + low[1] * ey
    to_mm = np.stack([ex / 1000, ey / 1000, origin], axis=1)
    width, height = np.ceil((high - low) * 1000 / 64) * 64
    return Plane(to_mm, float(width), float(height), line, float((high[1] - low[1] - 1.2) * 1000))


def _line(brain: Brain, m: Array, through: Array) -> Array:
    """Where the plane crosses the mid-surface, (n, 2) mm of the sheet, every 50 um of 3-D length."""
    f = (brain.surface[..., :3] - through) @ m
    s = np.arange(f.shape[0]) * STEP_MM - MARGIN_MM
    places: list[tuple[float, float]] = []
    for k in range(f.shape[0]):
        crossings = np.flatnonzero((f[k, :-1] <= 0) & (f[k, 1:] > 0))
        if len(crossings):
            j = int(crossings[0])
            places.append((s[k], (j + f[k, j] / (f[k, j] - f[k, j + 1])) * STEP_MM - MARGIN_MM))
    line = np.asarray(places)
    line[:, 1] = gaussian_filter1d(line[:, 1], 1.0)
    xyz = brain.at(brain.surface[..., :3], line)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(xyz, axis=0), axis=1))])
    even = np.arange(0, length[-1], 0.05)
    return np.stack([np.interp(even, length, line[:, k]) for k in range(2)], axis=1)


@dataclass(frozen=True)
class Geometry:
    """Sheet coordinates on a raster of `STEP_UM`; channels of ``field`` (h, w, 8) float32.

    0, 1: sheet s, t (mm); 2: signed distance from mid-cortex (mm, positive towards the pia); 3: half the thickness
    (mm); 4: equivolumetric depth (0 pia, 1 white); 5, 6: unit vector towards the pia in the section (x right, y down);
    7: distance inside the cut faces (mm, negative outside the block).
    """

    field: NDArray[np.float32]


def solve(brain: Brain, plane: Plane) -> Geometry:
    """Find for every raster place its foot point on the mid-surface and its equivolumetric depth.

    With W the shape operator, area at distance h above the mid-surface grows as 1 + 2 H h + K h2; the depth of a
    place is the share of volume between it and the pia (Waehnert et al. 2014).
    """
    n_x, n_y = int(plane.width_um / STEP_UM) + 2, int(plane.height_um / STEP_UM) + 2
    gy, gx = np.meshgrid(np.arange(n_y) * STEP_UM, np.arange(n_x) * STEP_UM, indexing="ij")
    xyz = plane.place(np.stack([gx.ravel(), gy.ravel()], axis=1).astype(np.float64))
    nodes, tree = _nodes(brain, plane)
    # Far from cortex only the side matters, so there a coarse search will do.
    far, rough = tree.query(xyz.reshape(n_y, n_x, 3)[::4, ::4])
    hit = rough.repeat(4, axis=0).repeat(4, axis=1)[:n_y, :n_x].ravel()
    close = (far.repeat(4, axis=0).repeat(4, axis=1)[:n_y, :n_x] < 3.4).ravel()
    hit[close] = tree.query(xyz[close])[1]
    start = nodes[hit].astype(np.float64) * STEP_MM - MARGIN_MM
    field = _feet(xyz, start, _table(brain), plane.to_mm[:, 0] * 1000, plane.to_mm[:, 1] * 1000)
    # White matter far below the sheet ends at the block's own faces, not where the sheet above it ends.
    ends = plane.project(brain.at(brain.surface[..., :3], plane.line_mm[[0, -1]]))[:, 0] / 1000
    block = np.minimum(gx.ravel() / 1000 - ends.min(), ends.max() - gx.ravel() / 1000)
    deep = field[:, 2] < -field[:, 3] - 0.3
    field[deep, 7] = np.maximum(field[deep, 7], block[deep])
    deeper = field[:, 2] < -field[:, 3] - 1.2
    field[deeper, 7] = block[deeper]
    field[:, 7] = np.minimum(field[:, 7], (plane.floor_um - gy.ravel()) / 1000)
    return Geometry(field.reshape(n_y, n_x, 8).astype(np.float32))


def feet(brain: Brain, plane: Plane, xy_um: Array) -> Array:
    """Exact geometry of single places (n, 2) um; columns as `Geometry.field`, (n, 8) float64."""
    xyz = plane.place(xy_um)
    nodes, tree = _nodes(brain, plane)
    start = nodes[tree.query(xyz)[1]].astype(np.float64) * STEP_MM - MARGIN_MM
    return _feet(xyz, start, _table(brain), plane.to_mm[:, 0] * 1000, plane.to_mm[:, 1] * 1000)


def _table(brain: Brain) -> Array:
    return np.concatenate([brain.surface, brain.curvature, brain.cyto[..., :1]], axis=-1)


def _nodes(brain: Brain, plane: Plane) -> tuple[NDArray[np.int64], KDTree]:
    """Every other node of the surface near the plane: where the search for foot points starts."""
    near = np.abs((brain.surface[..., :3] - plane.to_mm[:, 2]) @ plane.normal) < 6.0
    near[1::2] = False
    near[:, 1::2] = False
    nodes = np.argwhere(near)
    return nodes, KDTree(brain.surface[nodes[:, 0], nodes[:, 1], :3])


@njit(cache=True, nogil=True)
def _row(table: Array, s: float, t: float, out: Array) -> None:
    """Bilinear row of ``table`` at sheet (s, t) mm."""
    i = min(max((s + MARGIN_MM) / STEP_MM, 0.0), table.shape[0] - 1.001)
    j = min(max((t + MARGIN_MM) / STEP_MM, 0.0), table.shape[1] - 1.001)
    i0, j0 = int(i), int(j)
    a, b = i - i0, j - j0
    for k in range(out.shape[0]):
        out[k] = (1 - a) * ((1 - b) * table[i0, j0, k] + b * table[i0, j0 + 1, k]) + a * (
            (1 - b) * table[i0 + 1, j0, k] + b * table[i0 + 1, j0 + 1, k]
        )


@njit(cache=True, nogil=True)
def _feet(xyz: Array, start: Array, table: Array, ex: Array, ey: Array) -> Array:
    """Newton's method for p = S(s, t) + d n(s, t) at every place; see `Geometry` for the columns returned."""
    s_max, t_max = LENGTH_MM + MARGIN_MM, WIDTH_MM + MARGIN_MM
    out = np.empty((xyz.shape[0], 8))
    q = np.empty(21)
    for p in range(xyz.shape[0]):
        s, t = start[p, 0], start[p, 1]
        _row(table, s, t, q)
        d = 0.0
        for k in range(3):
            d += (xyz[p, k] - q[k]) * q[9 + k]
        if abs(d) < 0.5 * q[20] + 1.0:
            for _ in range(8):
                # Columns of the Jacobian: S_s + d n_s, S_t + d n_t, n; solved by Cramer's rule.
                a0, a1, a2 = q[3] + d * q[12], q[4] + d * q[13], q[5] + d * q[14]
                b0, b1, b2 = q[6] + d * q[15], q[7] + d * q[16], q[8] + d * q[17]
                n0, n1, n2 = q[9], q[10], q[11]
                r0 = xyz[p, 0] - q[0] - d * n0
                r1 = xyz[p, 1] - q[1] - d * n1
                r2 = xyz[p, 2] - q[2] - d * n2
                c0, c1, c2 = b1 * n2 - b2 * n1, b2 * n0 - b0 * n2, b0 * n1 - b1 * n0
                det = a0 * c0 + a1 * c1 + a2 * c2
                if abs(det) < 0.02:
                    break
                e0, e1, e2 = n1 * a2 - n2 * a1, n2 * a0 - n0 * a2, n0 * a1 - n1 * a0
                step_s = (r0 * c0 + r1 * c1 + r2 * c2) / det
                step_t = (r0 * e0 + r1 * e1 + r2 * e2) / det
                s += min(max(step_s, -0.6), 0.6)
                t += min(max(step_t, -0.6), 0.6)
                s = min(max(s, -MARGIN_MM), s_max)
                t = min(max(t, -MARGIN_MM), t_max)
                _row(table, s, t, q)
                d = (xyz[p, 0] - q[0]) * q[9] + (xyz[p, 1] - q[1]) * q[10] + (xyz[p, 2] - q[2]) * q[11]
                if abs(step_s) + abs(step_t) < 1e-4:
                    break
        half = 0.5 * q[20]
        mean, gauss = q[18], q[19]
        h = min(max(d, -half), half)
        top = half + mean * half * half + gauss * half**3 / 3
        bottom = -half + mean * half * half - gauss * half**3 / 3
        here = h + mean * h * h + gauss * h**3 / 3
        ux = q[9] * ex[0] + q[10] * ex[1] + q[11] * ex[2]
        uy = q[9] * ey[0] + q[10] * ey[1] + q[11] * ey[2]
        norm = max(np.sqrt(ux * ux + uy * uy), 1e-6)
        out[p, 0], out[p, 1], out[p, 2], out[p, 3] = s, t, d, half
        out[p, 4] = min(max((top - here) / max(top - bottom, 1e-6), 0.0), 1.0)
        out[p, 5], out[p, 6] = ux / norm, uy / norm
        # A foot that was held back at the rim lies outside the block, hence the small allowance.
        out[p, 7] = min(min(s + MARGIN_MM, s_max - s), min(t + MARGIN_MM, t_max - t)) - 0.05
    return out
