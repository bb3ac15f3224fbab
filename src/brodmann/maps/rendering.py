"""Triangle meshes as pictures: orthographic views with a depth buffer, so that a millimetre is as long everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FINER = 2
"""Samples of a pixel along each side; edges are smooth because they are averaged."""
_INSIDE = np.array([0.62, 0.63, 0.65])
"""Colour of an open surface seen from below: nothing is painted there."""
_STEP_MM = 1.2
"""Jump in depth at which an outline is drawn."""


@dataclass(frozen=True)
class View:
    """Where the eye is, seen from the middle of the surface; it looks at the surface from infinitely far.

    Parameters
    ----------
    azimuth_deg : float
        From the first axis of the space towards the second; in a space "ras" 0 is from the right, 90 from the front,
        180 from the left, -90 from behind.
    elevation_deg : float
        Towards the third axis; 90 looks from above, first axis to the right if the azimuth is -90.
    name : str
        Title of the picture.
    """

    azimuth_deg: float
    elevation_deg: float
    name: str = ""

    @property
    def axes(self) -> Array:
        """Right, up, and towards the eye: unit vectors, (3, 3), a row each."""
        a, e = np.deg2rad(self.azimuth_deg), np.deg2rad(self.elevation_deg)
        right = np.array([-np.sin(a), np.cos(a), 0.0])
        up = np.array([-np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)])
        return np.stack([right, up, np.cross(right, up)])


FLAT = View(-90.0, 90.0)
"""From above, first axis to the right and second axis up: how an unfolded sheet is seen."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A surface as pixels.

    Attributes
    ----------
    image : (H, W, 3) float64
        0 to 1; white where there is no surface.
    vertex : (H, W) int64
        Vertex whose colour the middle of each pixel has; -1 off the surface or on its underside.
    corner_mm : (2,) float64
        Right and up (mm) of the picture's lower left corner, in the view's axes.
    pixel_mm : float
    """

    image: Array
    vertex: NDArray[np.int64]
    corner_mm: Array
    pixel_mm: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top for ``imshow``: mm from the left, and downwards from the top."""
        return 0.0, self.image.shape[1] * self.pixel_mm, self.image.shape[0] * self.pixel_mm, 0.0


def render(
    vertices: Array,
    faces: NDArray[np.int64],
    rgb: Array,
    view: View,
    *,
    pixel_mm: float,
    shade: Array | None = None,
    region: NDArray[np.integer] | None = None,
    lit: bool = True,
    margin_mm: float = 0.5,
) -> Drawn:
    """Draw a surface whose vertices have colours.

    Every sample has the colour of a vertex of its triangle, the nearest, or one of the class that weighs most there:
    colours are never mixed, so that a class is not invented between two others. Light comes from the upper left;
    triangles seen from below are grey.

    Parameters
    ----------
    vertices : (n, 3) float64
        mm.
    faces : (m, 3) int64
        Against the clock as seen from outside.
    rgb : (n, 3) float64
        0 to 1.
    view : View
    pixel_mm : float
        Side of a pixel.
    shade : (n,) float64, optional
        Multiplies the colour, e.g. darker in sulci.
    region : (n,) integer, optional
        Class of each vertex: a thin line is drawn between classes.
    lit : bool
        Shade by the direction of the surface; not for flat maps.

    Returns
    -------
    Drawn
    """
    axes = view.axes
    seen = np.asarray(vertices, np.float64) @ axes.T
    used = seen[np.unique(faces)]
    low, high = used[:, :2].min(axis=0) - margin_mm, used[:, :2].max(axis=0) + margin_mm
    size = np.maximum(np.ceil((high - low) / pixel_mm).astype(int), 1)
    fine = pixel_mm / _FINER
    flat = np.column_stack([(seen[:, 0] - low[0]) / fine, (low[1] + size[1] * pixel_mm - seen[:, 1]) / fine])
    face, weight, depth = _rasterise(flat, seen[:, 2], faces, int(size[1]) * _FINER, int(size[0]) * _FINER)
    on = face >= 0
    corner = faces[face[on]]
    share = weight[on] if region is None else _shares(np.asarray(region)[corner], weight[on])
    nearest = corner[np.arange(len(corner)), share.argmax(axis=1)]
    colour = np.asarray(rgb, np.float64)[nearest]
    if shade is not None:
        smooth = (np.asarray(shade, np.float64)[corner] * weight[on]).sum(axis=1)
        colour = colour * smooth[:, None]
    above = _normals(seen, faces)[face[on], 2] > 0
    colour = np.where(above[:, None], colour, _INSIDE)
    if lit:
        colour = colour * _light(seen, faces, corner, weight[on], above)[:, None]
    whole = np.ones((*face.shape, 3))
    whole[on] = np.clip(colour, 0, 1)
    vertex = np.full(face.shape, -1, np.int64)
    vertex[on] = np.where(above, nearest, -1)
    line = _jumps(depth) if lit else np.zeros(face.shape, dtype=bool)
    whole[line] *= 0.45
    if region is not None:
        whole[_borders(vertex, np.asarray(region), depth)] *= 0.5
    image = whole.reshape(size[1], _FINER, size[0], _FINER, 3).mean(axis=(1, 3))
    middle = vertex[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER]
    return Drawn(image, middle, low, pixel_mm)


def _shares(classes: NDArray[np.integer], weight: Array) -> Array:
    """Weight of each corner's class, (k, 3): borders then run straight through triangles, not around vertices."""
    same = classes[:, :, None] == classes[:, None, :]
    return (same * weight[:, None, :]).sum(axis=2)


def _normals(places: Array, faces: NDArray[np.int64]) -> Array:
    a, b, c = (places[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    return cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-12)


def _light(
    seen: Array, faces: NDArray[np.int64], corner: NDArray[np.int64], weight: Array, above: NDArray[np.bool_]
) -> Array:
    """Brightness of each sample, (k,): a lamp at the upper left, and an even light so that nothing is black."""
    flat = _normals(seen, faces)
    spread, n = np.repeat(flat, 3, axis=0), len(seen)
    total = np.stack([np.bincount(faces.ravel(), weights=spread[:, k], minlength=n) for k in range(3)], axis=1)
    normal = (total[corner] * weight[:, :, None]).sum(axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    normal = np.where(above[:, None], normal, -normal)
    lamp = np.array([-0.45, 0.55, 0.70])
    return 0.50 + 0.42 * np.maximum(normal @ (lamp / np.linalg.norm(lamp)), 0) + 0.14 * np.maximum(normal[:, 2], 0)


def _jumps(depth: Array) -> NDArray[np.bool_]:
    """Samples behind which another part of the surface begins, farther from the eye."""
    found = np.zeros(depth.shape, dtype=bool)
    padded = np.pad(depth, 1, constant_values=-np.inf)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        beside = padded[rows : rows + depth.shape[0], columns : columns + depth.shape[1]]
        with np.errstate(invalid="ignore"):
            found |= np.isfinite(depth) & (depth - beside > _STEP_MM)
    return found


def _borders(vertex: NDArray[np.int64], region: NDArray[np.integer], depth: Array) -> NDArray[np.bool_]:
    """Samples whose right or lower neighbour, on the same sheet of the surface, is of another class."""
    value = np.where(vertex >= 0, region[vertex], -1)
    found = np.zeros(value.shape, dtype=bool)
    for one, other in (((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
                       ((slice(None, -1), slice(None)), (slice(1, None), slice(None)))):  # fmt: skip
        with np.errstate(invalid="ignore"):
            near = np.abs(depth[one] - depth[other]) < _STEP_MM
        step = (value[one] != value[other]) & (value[one] >= 0) & (value[other] >= 0) & near
        found[one] |= step
        found[other] |= step
    return found


def _rasterise(
    flat: Array, depth: Array, faces: NDArray[np.int64], height: int, width: int
) -> tuple[NDArray[np.int64], Array, Array]:
    """Triangle in front at each sample (-1 for none), weights (H, W, 3) of its corners, and its depth (-inf)."""
    face = np.full((height, width), -1, dtype=np.int64)
    front = np.full((height, width), -np.inf)
    weight = np.zeros((height, width, 3))
    cast("Any", _fill)(np.ascontiguousarray(flat), np.ascontiguousarray(depth), faces, face, front, weight)
    return face, weight, front


@numba.njit(cache=True, nogil=True)
def _fill(flat: Any, depth: Any, faces: Any, face: Any, front: Any, weight: Any) -> None:
    """Offer each triangle to the samples inside it; the one nearest to the eye stays."""
    height, width = face.shape
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, bx, by, cx, cy = flat[a, 0], flat[a, 1], flat[b, 0], flat[b, 1], flat[c, 0], flat[c, 1]
        twice = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if twice == 0.0:
            continue
        left = max(int(np.floor(min(ax, bx, cx) - 0.5)), 0)
        right = min(int(np.ceil(max(ax, bx, cx) - 0.5)) + 1, width)
        top = max(int(np.floor(min(ay, by, cy) - 0.5)), 0)
        bottom = min(int(np.ceil(max(ay, by, cy) - 0.5)) + 1, height)
        for row in range(top, bottom):
            y = row + 0.5
            for col in range(left, right):
                x = col + 0.5
                u = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / twice
                v = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / twice
                w = 1.0 - u - v
                if u < -1e-9 or v < -1e-9 or w < -1e-9:
                    continue
                z = u * depth[a] + v * depth[b] + w * depth[c]
                if z > front[row, col]:
                    front[row, col] = z
                    face[row, col] = f
                    weight[row, col, 0], weight[row, col, 1], weight[row, col, 2] = u, v, w
