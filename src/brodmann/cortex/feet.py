"""The nearest place of a surface to any place."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann.cortex._laplace import compiled
from brodmann.cortex.mesh import Array, Index, Mesh
from brodmann.errors import Refused

_NEAREST = 16


class Feet(NamedTuple):
    """Nearest places of a surface.

    Attributes
    ----------
    xyz_mm : (n, 3) float64
    away_mm : (n,) float64
        Distance.
    face : (n,) int64
        Triangle.
    share : (n, 3) float64
        Barycentric: what its three vertices count, together 1.
    """

    xyz_mm: Array
    away_mm: Array
    face: Index
    share: Array

    def carry(self, mesh: Mesh, values: Array) -> Array:
        """Values of vertices, (n,) or (n, k), at the feet."""
        near = np.asarray(values)[mesh.faces[self.face]]
        return (near * self.share.reshape(*self.share.shape, *([1] * (near.ndim - 2)))).sum(axis=1)


def feet(mesh: Mesh, xyz_mm: NDArray[np.floating]) -> Feet:
    """Nearest place on a surface, inside triangles, not only at vertices.

    Parameters
    ----------
    mesh : Mesh
    xyz_mm : (n, 3) float
        Places in the space of the mesh, mm.

    Raises
    ------
    Refused
        If places are not (n, 3) finite numbers.
    """
    places = np.ascontiguousarray(xyz_mm, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 3 or not np.isfinite(places).all():
        raise Refused(
            "Places should be (n, 3) finite mm.", found=f"shape {places.shape}, or numbers that are not finite."
        )
    corners = mesh.vertices[mesh.faces]
    middle = corners.mean(axis=1)
    reach = float(np.linalg.norm(corners - middle[:, None], axis=2).max())
    tree = KDTree(middle)
    face, share = np.zeros(len(places), dtype=np.int64), np.zeros((len(places), 3))
    away = np.full(len(places), np.inf)
    todo, count = np.arange(len(places)), min(_NEAREST, len(middle))
    while len(todo):
        far, near = cast("tuple[Array, Index]", tree.query(places[todo], k=np.arange(count) + 1))
        face[todo], share[todo], away[todo] = _closest(places[todo], corners, near)
        # A triangle whose middle is farther off than this cannot be nearer.
        todo = todo[(far[:, -1] - reach < away[todo])] if count < len(middle) else todo[:0]
        count = min(4 * count, len(middle))
    xyz = (corners[face] * share[..., None]).sum(axis=1)
    return Feet(xyz, away, face, share)


@compiled
def _dot(ax: float, ay: float, az: float, bx: float, by: float, bz: float) -> float:
    return ax * bx + ay * by + az * bz


@compiled
def _closest(places: Any, corners: Any, near: Any) -> Any:
    """Nearest of some triangles to each place: triangle, barycentric shares, distance.

    By the region of the triangle's plane that a place lies above (Ericson 2005, Real-Time Collision Detection, p 141).
    """
    face, away = np.zeros(len(places), np.int64), np.full(len(places), np.inf)
    share = np.zeros((len(places), 3))
    for p in range(len(places)):
        x, y, z = places[p, 0], places[p, 1], places[p, 2]
        for n in range(near.shape[1]):
            t = corners[near[p, n]]
            bx, by, bz = t[1, 0] - t[0, 0], t[1, 1] - t[0, 1], t[1, 2] - t[0, 2]
            cx, cy, cz = t[2, 0] - t[0, 0], t[2, 1] - t[0, 1], t[2, 2] - t[0, 2]
            px, py, pz = x - t[0, 0], y - t[0, 1], z - t[0, 2]
            bb, bc, cc = _dot(bx, by, bz, bx, by, bz), _dot(bx, by, bz, cx, cy, cz), _dot(cx, cy, cz, cx, cy, cz)
            d1, d2 = _dot(bx, by, bz, px, py, pz), _dot(cx, cy, cz, px, py, pz)
            d3, d4, d5, d6 = d1 - bb, d2 - bc, d1 - bc, d2 - cc
            va, vb, vc = d3 * d6 - d5 * d4, d5 * d2 - d1 * d6, d1 * d4 - d3 * d2
            if d1 <= 0 and d2 <= 0:
                v, w = 0.0, 0.0
            elif d3 >= 0 and d4 <= d3:
                v, w = 1.0, 0.0
            elif d6 >= 0 and d5 <= d6:
                v, w = 0.0, 1.0
            elif vc <= 0 and d1 >= 0 and d3 <= 0:
                v, w = d1 / (d1 - d3), 0.0
            elif vb <= 0 and d2 >= 0 and d6 <= 0:
                v, w = 0.0, d2 / (d2 - d6)
            elif va <= 0 and d4 - d3 >= 0 and d5 - d6 >= 0:
                w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
                v = 1.0 - w
            else:
                v, w = vb / (va + vb + vc), vc / (va + vb + vc)
            ex, ey, ez = px - v * bx - w * cx, py - v * by - w * cy, pz - v * bz - w * cz
            gap = _dot(ex, ey, ez, ex, ey, ez)
            if gap < away[p]:
                away[p], face[p] = gap, near[p, n]
                share[p, 0], share[p, 1], share[p, 2] = 1.0 - v - w, v, w
    return face, share, np.sqrt(away)
