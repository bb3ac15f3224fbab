"""Distances along a surface: shortest ways across triangles, from points on their edges to points on their edges."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from brodmann.cortex.mesh import Array, Index, Mesh
from brodmann.errors import Refused, Usage


class Geodesics:
    """Distances along one surface; what is laid out once serves every source.

    Every edge is given ``points`` places, and within each triangle all places on different edges are joined by straight
    lines (Lanthier, Maheshwari & Sack 2001, Algorithmica 30:527). Shortest ways on that graph (Dijkstra) are never too
    short, on sharp folds as on smooth ones; on a sphere of 10,242 vertices and with 5 places they are 0.2 % too long.

    Parameters
    ----------
    mesh : Mesh
    points : int
        Places on each edge; 0 follows edges only.

    Raises
    ------
    Usage
        If ``points`` is negative.
    """

    def __init__(self, mesh: Mesh, *, points: int = 5) -> None:
        if points < 0:
            raise Usage("Edges should be given no places or more.", found=f"points = {points}.")
        self._mesh, n = mesh, len(mesh.vertices)
        share = (np.arange(points) + 1) / (points + 1)
        one, other = mesh.vertices[mesh.edges[:, 0]], mesh.vertices[mesh.edges[:, 1]]
        between = one[:, None] + share[:, None] * (other - one)[:, None]
        self._places = np.concatenate([mesh.vertices, between.reshape(-1, 3)])
        # On each triangle: three corners, then the places of the sides across from them.
        code = mesh.edges[:, 0] * n + mesh.edges[:, 1]
        nodes: list[Index] = [mesh.faces]
        for k in range(3):
            pair = np.sort(mesh.faces[:, [(k + 1) % 3, (k + 2) % 3]], axis=1)
            edge = np.searchsorted(code, pair[:, 0] * n + pair[:, 1])
            nodes.append(n + edge[:, None] * points + np.arange(points))
        node = np.concatenate(nodes, axis=1)
        pairs = [(j, k) for j in range(node.shape[1]) for k in range(j) if _apart(j, k, points)]
        across = np.concatenate([node[:, list(pair)] for pair in pairs]) if points else np.empty((0, 2), dtype=np.int64)
        # Along edges: from each place to the next.
        chain = np.arange(len(mesh.edges))[:, None] * points + np.arange(points) + n
        chain = np.concatenate([mesh.edges[:, :1], chain, mesh.edges[:, 1:]], axis=1)
        ways = np.concatenate([across, np.stack([chain[:, :-1], chain[:, 1:]], axis=2).reshape(-1, 2)])
        length = np.linalg.norm(self._places[ways[:, 0]] - self._places[ways[:, 1]], axis=1)
        size = len(self._places)
        self._graph: Any = sparse.coo_array((length, tuple(ways.T)), shape=(size, size)).tocsr()

    def away(self, sources: NDArray[np.integer] | int, *, limit_mm: float = np.inf) -> Array:
        """Distance of every vertex from the nearest of ``sources``, mm.

        Parameters
        ----------
        sources : (k,) integer
            Vertices.
        limit_mm : float
            Farther vertices are not looked for, and infinitely far.

        Returns
        -------
        (n,) float64
            Infinite where no way leads, NaN where a vertex belongs to no triangle.

        Raises
        ------
        Refused
            If a source is no vertex, or belongs to no triangle.
        """
        start = np.unique(np.atleast_1d(np.asarray(sources)))
        n, used = len(self._mesh.vertices), self._mesh.used
        if not np.issubdtype(start.dtype, np.integer) or not len(start) or start[0] < 0 or start[-1] >= n:
            raise Refused(
                "Sources of distances should be numbers of vertices.", found=f"{start[:5]}, with {n} vertices."
            )
        if not used[start].all():
            raise Refused(
                "Distances should start at vertices of the surface.",
                found=f"vertex {start[~used[start]][0]}, which belongs to no triangle.",
            )
        found = csgraph.dijkstra(self._graph, directed=False, indices=start, min_only=True, limit=limit_mm)
        return np.where(used, cast("Array", found)[:n], np.nan)


def _apart(j: int, k: int, points: int) -> bool:
    """Whether two nodes of a triangle (corners 0-2, then the sides across from them) lie on no common side."""
    if j < 3 or points == 0:
        return False
    side = (j - 3) // points
    return k == side if k < 3 else (k - 3) // points != side
