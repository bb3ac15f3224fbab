"""Triangle meshes of cortical surfaces: checked once, then areas, normals, edges and pieces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from brodmann.errors import Refused

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_FLAT = 1e-12


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles; make one with `mesh` or `gifti.read`, which check it.

    Attributes
    ----------
    vertices : (n, 3) float64
        Places, mm.
    faces : (m, 3) int64
        Vertices of each triangle, against the clock as seen from outside (from the pia).
    remarks : tuple of str
        What a reader should know: open edges, pieces, unused vertices, what was turned.
    """

    vertices: Array
    faces: Index
    remarks: tuple[str, ...] = ()

    @cached_property
    def edges(self) -> Index:
        """Every edge once, (e, 2), the smaller vertex first."""
        return np.unique(np.sort(_sides(self.faces), axis=1), axis=0)

    @cached_property
    def rim(self) -> NDArray[np.bool_]:
        """Vertices on an open edge, (n,)."""
        pairs, count = np.unique(np.sort(_sides(self.faces), axis=1), axis=0, return_counts=True)
        out = np.zeros(len(self.vertices), dtype=bool)
        out[pairs[count == 1].ravel()] = True
        return out

    @cached_property
    def used(self) -> NDArray[np.bool_]:
        """Vertices that belong to a triangle, (n,)."""
        out = np.zeros(len(self.vertices), dtype=bool)
        out[self.faces.ravel()] = True
        return out

    @cached_property
    def piece(self) -> Index:
        """Connected piece of each vertex, (n,), the largest first; -1 where a vertex belongs to no triangle."""
        n = len(self.vertices)
        joined = sparse.coo_array((np.ones(len(self.edges)), tuple(self.edges.T)), shape=(n, n))
        _, label = cast("tuple[int, NDArray[np.int32]]", csgraph.connected_components(joined, directed=False))
        count = np.bincount(label[self.used], minlength=label.max() + 1)
        rank = np.empty(len(count), dtype=np.int64)
        rank[np.argsort(-count, kind="stable")] = np.arange(len(count))
        return np.where(self.used, rank[label], -1)

    @property
    def euler(self) -> int:
        """Euler characteristic: vertices in use less edges plus triangles; 2 for a closed surface without handles."""
        return int(self.used.sum()) - len(self.edges) + len(self.faces)

    @cached_property
    def crosses(self) -> Array:
        """Normal of each triangle, twice as long as its area is large, (m, 3)."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)

    @cached_property
    def angles(self) -> Array:
        """Angles of each triangle at its three vertices, radians, (m, 3)."""
        out = np.empty(self.faces.shape)
        for k in range(3):
            here, left, right = (self.vertices[self.faces[:, (k + j) % 3]] for j in range(3))
            one, other = left - here, right - here
            out[:, k] = np.arctan2(np.linalg.norm(np.cross(one, other), axis=1), (one * other).sum(axis=1))
        return out

    @cached_property
    def areas(self) -> Array:
        """Area of each vertex, mm2, (n,): a third of its triangles; their sum is the area of the surface."""
        return self.gather(np.repeat(np.linalg.norm(self.crosses, axis=1)[:, None] / 6, 3, axis=1))

    @cached_property
    def normals(self) -> Array:
        """Unit normal of each vertex, outwards, (n, 3); NaN where it belongs to no triangle.

        Normals of triangles weighted by their angle (Thuermer & Wuethrich 1998, J Graphics Tools 3:43).
        """
        unit = self.crosses / np.linalg.norm(self.crosses, axis=1)[:, None]
        total = np.stack([self.gather(self.angles * unit[:, k, None]) for k in range(3)], axis=1)
        length = np.linalg.norm(total, axis=1)
        return total / np.where(length > _FLAT, length, np.nan)[:, None]

    def gather(self, values: Array) -> Array:
        """Sum over triangles, by vertex, of what each gives to its three vertices, (m, 3) -> (n,)."""
        total = np.bincount(self.faces.ravel(), weights=values.ravel(), minlength=len(self.vertices))
        return total.astype(np.float64)

    def moved(self, vertices: Array) -> Mesh:
        """The same triangles at other places (n, 3) mm, checked."""
        if np.shape(vertices) != self.vertices.shape:
            raise Refused(
                "Two surfaces should have the same vertices.",
                found=f"{len(self.vertices)} and {np.shape(vertices)}.",
                cause="surfaces of different resolution, or of two hemispheres.",
            )
        return mesh(vertices, self.faces)


def mesh(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> Mesh:
    """Check a triangle mesh.

    Closed pieces whose triangles face inwards are turned. Triangles listed twice are kept once, and not at all where
    they face opposite sides: such fins, one vertex beside an edge, are left by programs that thin meshes. Open edges,
    several pieces and vertices without triangles are allowed. All is named in ``remarks``.

    Parameters
    ----------
    vertices : (n, 3) floating
        Places, mm.
    faces : (m, 3) integer
        Vertices of each triangle.

    Raises
    ------
    Refused
        If shapes, types or indices are wrong, a place is not finite, a triangle has no area, an edge belongs to more
        than two triangles, or neighbouring triangles face opposite sides.
    """
    places, corners = _checked(vertices, faces)
    corners, fins = _single(corners)
    # Relative to the mesh's own size: rounding of float32 files is far above, triangles of a real surface too.
    sides = _sides(corners)
    long = np.linalg.norm(places[sides[:, 0]] - places[sides[:, 1]], axis=1).reshape(3, -1).max(axis=0)
    a, b, c = (places[corners[:, k]] for k in range(3))
    flat = np.linalg.norm(np.cross(b - a, c - a), axis=1) <= 1e-7 * long**2
    if flat.any():
        raise Refused(
            "Every triangle of a mesh should have an area.",
            found=f"{int(flat.sum())} of {len(corners)} without; the first is number {int(np.argmax(flat))}.",
            cause="vertices named twice in a triangle, or two vertices at one place.",
            do="remove these triangles and merge their vertices.",
        )
    pairs, count = np.unique(np.sort(sides, axis=1), axis=0, return_counts=True)
    if (count > 2).any():
        raise Refused(
            "An edge of a mesh should belong to two triangles, or to one at an open edge.",
            found=f"{int((count > 2).sum())} edges belong to more, the first between vertices {pairs[count > 2][0]}.",
            cause="surfaces that touch.",
            do="separate the surfaces.",
        )
    if len(np.unique(sides, axis=0)) < len(sides):
        raise Refused(
            "Neighbouring triangles of a mesh should face the same side.",
            found=f"{len(sides) - len(np.unique(sides, axis=0))} edges run the same way in both their triangles.",
            cause="triangles whose vertices are listed in no common order.",
            do="order the vertices of every triangle against the clock as seen from outside.",
        )
    return _described(Mesh(places, corners), fins)


def _checked(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> tuple[Array, Index]:
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise Refused(
            "A mesh should have vertices (n, 3) in mm and faces (m, 3).",
            found=f"shapes {vertices.shape} and {faces.shape}.",
        )
    if not np.issubdtype(faces.dtype, np.integer) or not np.issubdtype(vertices.dtype, np.floating):
        raise Refused(
            "A mesh should have floating vertices and whole numbers as faces.",
            found=f"{vertices.dtype} and {faces.dtype}.",
            cause="vertices and faces swapped, or read from a text file without types.",
        )
    if not len(faces):
        raise Refused("A mesh should have a triangle.", found=f"{len(vertices)} vertices and no faces.")
    bad = ~np.isfinite(vertices).all(axis=1)
    if bad.any():
        raise Refused(
            "Vertices of a mesh should be finite.",
            found=f"{int(bad.sum())} of {len(vertices)} are not; the first is number {int(np.argmax(bad))}.",
            do="repair the surface; a vertex without a place has no neighbours either.",
        )
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise Refused(
            "Faces of a mesh should name its vertices.",
            found=f"numbers from {faces.min()} to {faces.max()} for {len(vertices)} vertices.",
            cause="counting from 1, or faces of another surface.",
        )
    return np.ascontiguousarray(vertices, dtype=np.float64), np.ascontiguousarray(faces, dtype=np.int64)


def _single(faces: Index) -> tuple[Index, int]:
    """Leave out triangles listed twice, both where they face opposite sides; how many were left out."""
    first = faces.argmin(axis=1)
    rolled = faces[np.arange(len(faces))[:, None], (first[:, None] + np.arange(3)) % 3]
    side = np.where(rolled[:, 1] < rolled[:, 2], 1, -1)
    _, start, same = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_inverse=True)
    if len(start) == len(faces):
        return faces, 0
    total = np.bincount(same.ravel(), weights=side)[same.ravel()]
    keep = np.zeros(len(faces), dtype=bool)
    for sign in (1, -1):
        rows = np.flatnonzero((side == sign) & (total * sign > 0))
        keep[rows[np.unique(same.ravel()[rows], return_index=True)[1]]] = True
    return faces[keep], int((~keep).sum())


def _described(given: Mesh, fins: int) -> Mesh:
    """Turn closed pieces that face inwards, and say what is unusual."""
    remarks = [f"{fins} triangles listed twice were left out"] if fins else []
    piece = given.piece[given.faces[:, 0]]
    count = int(piece.max()) + 1
    shifted = given.vertices - given.vertices.mean(axis=0)
    a, b, c = (shifted[given.faces[:, k]] for k in range(3))
    volume = np.bincount(piece, weights=(a * np.cross(b, c)).sum(axis=1))
    open_piece = np.zeros(count, dtype=bool)
    open_piece[given.piece[given.rim]] = True
    inward = (volume < 0) & ~open_piece
    faces = given.faces
    if inward.any():
        faces = np.where(inward[piece][:, None], faces[:, ::-1], faces)
        remarks.append(f"{int(inward.sum())} closed pieces faced inwards and were turned")
    if count > 1:
        remarks.append(f"{count} pieces that do not touch")
    if given.rim.any():
        remarks.append(f"open edges along {int(given.rim.sum())} vertices")
    if not given.used.all():
        remarks.append(f"{int((~given.used).sum())} vertices without triangles: nothing is known of them")
    return Mesh(given.vertices, faces, tuple(remarks))


def _sides(faces: Index) -> Index:
    """Directed edges of all triangles, (3 m, 2)."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
