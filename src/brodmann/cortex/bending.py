"""How a surface bends: mean and Gaussian curvature of every vertex."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from brodmann.cortex.mesh import Array, Mesh
from brodmann.errors import Usage


class Curvature(NamedTuple):
    """Curvatures of n vertices, NaN where they are not known.

    Attributes
    ----------
    mean : (n,) float64
        1/mm, positive on crowns.
    gaussian : (n,) float64
        1/mm2, negative on saddles.
    """

    mean: Array
    gaussian: Array


def curvature(mesh: Mesh, *, rings: int = 1) -> Curvature:
    """Mean and Gaussian curvature of each vertex and its surroundings.

    Curvature measures of the polyhedron that it is (Cohen-Steiner & Morvan 2003, Proc Symp Comput Geom 19:312): half
    the length of edges times the angle they turn by, and what is missing to a full turn around vertices, over the area.
    They add up to what the smooth surface has, however coarse the mesh.

    Parameters
    ----------
    mesh : Mesh
    rings : int
        Rings of neighbours that are averaged over; 0 takes the vertex alone, which tells integrals best and places
        worst.

    Returns
    -------
    Curvature
        NaN on open edges, where half the surface is missing.

    Raises
    ------
    Usage
        If ``rings`` is negative.
    """
    if rings < 0:
        raise Usage("curvature should average over no ring of neighbours, or more.", found=f"rings = {rings}.")
    n, known = len(mesh.vertices), mesh.used & ~mesh.rim
    total = np.where(known, np.stack([_turned(mesh), defect(mesh), mesh.areas]), 0)
    near = sparse.coo_array((np.ones(len(mesh.edges)), tuple(mesh.edges.T)), shape=(n, n)).tocsr()
    near = near + near.T + sparse.eye_array(n, format="csr")
    for _ in range(rings):
        total = np.asarray((near @ total.T).T)
    area = np.where(known, total[2], np.nan)
    return Curvature(total[0] / area, total[1] / area)


def defect(mesh: Mesh) -> Array:
    """What is missing to a full turn around each vertex, radians, (n,): the Gaussian curvature of its surroundings.

    On open edges what is missing to half a turn, so that the sum is always 2 pi times `Mesh.euler` (Gauss-Bonnet).
    """
    turn: NDArray[np.float64] = np.where(mesh.rim, np.pi, 2 * np.pi) - mesh.gather(mesh.angles)
    return np.where(mesh.used, turn, 0.0)


def _turned(mesh: Mesh) -> Array:
    """Mean curvature times area of each vertex: a quarter of length times angle of each of its edges, (n,) mm."""
    sides = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    face = np.tile(np.arange(len(mesh.faces)), 3)
    forward = sides[:, 0] < sides[:, 1]
    # Each edge runs forward in one of its triangles and backward in the other.
    code = sides.min(axis=1) * len(mesh.vertices) + sides.max(axis=1)
    _, one, other = np.intersect1d(code[forward], code[~forward], assume_unique=True, return_indices=True)
    left, right = face[forward][one], face[~forward][other]
    pair = sides[forward][one]
    unit = mesh.crosses / np.linalg.norm(mesh.crosses, axis=1)[:, None]
    edge = mesh.vertices[pair[:, 1]] - mesh.vertices[pair[:, 0]]
    length = np.linalg.norm(edge, axis=1)
    sine = (np.cross(unit[left], unit[right]) * edge).sum(axis=1) / length
    share = 0.25 * length * np.arctan2(sine, (unit[left] * unit[right]).sum(axis=1))
    return np.bincount(pair.ravel(), weights=share.repeat(2), minlength=len(mesh.vertices)).astype(np.float64)
