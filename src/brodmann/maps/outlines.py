"""Told layers as drawings: labels of patches joined on their section, and outlines of each class as GeoJSON.

n patches, K classes, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused

Plane = NDArray[np.uint8]
Real = NDArray[np.float64]

UNTOLD = 255


def joined(
    labels: Plane,
    places: NDArray[np.floating],
    *,
    pixel_um: float,
    width_um: float,
    height_um: float,
) -> Plane:
    """One label image of a section from overlapping patches: each pixel is told by the patch whose centre is nearest.

    Parameters
    ----------
    labels : ndarray (n, H, H) uint8
        Classes under square patches.
    places : ndarray (n, 3) float
        ``x_um``, ``y_um`` of the centres and ``angle_deg``, as a table of samples has them.
    pixel_um : float
        Pixel size of the patches, and of what is returned.
    width_um, height_um : float
        Size of the section.

    Returns
    -------
    ndarray (ceil(height), ceil(width)) uint8
        255 where no patch lies.
    """
    if labels.ndim != 3 or labels.shape[1] != labels.shape[2] or places.shape != (len(labels), 3):
        raise Refused(
            "patches should be square, each with x_um, y_um and angle_deg.", found=f"{labels.shape}, {places.shape}."
        )
    rows, columns = (max(int(np.ceil(um / pixel_um - 1e-6)), 1) for um in (height_um, width_um))
    out = np.full((rows, columns), UNTOLD, np.uint8)
    nearest = np.full((rows, columns), np.inf, np.float32)
    side = labels.shape[1]
    for label, (x_um, y_um, angle) in zip(labels, np.asarray(places, np.float64), strict=True):
        x, y, turn = x_um / pixel_um, y_um / pixel_um, np.deg2rad(angle)
        sin, cos = np.sin(turn), np.cos(turn)
        reach = 0.5 * side * (abs(sin) + abs(cos)) + 1
        top, bottom = max(int(y - reach), 0), min(int(y + reach) + 1, rows)
        left, right = max(int(x - reach), 0), min(int(x + reach) + 1, columns)
        if top >= bottom or left >= right:
            continue
        dy, dx = np.arange(top, bottom)[:, None] + 0.5 - y, np.arange(left, right)[None] + 0.5 - x
        # the inverse of a crop: where in the patch a pixel of the section lies
        across = np.floor(dx * cos + dy * sin + 0.5 * side).astype(np.int64)
        down = np.floor(dy * cos - dx * sin + 0.5 * side).astype(np.int64)
        away = (dx**2 + dy**2).astype(np.float32)
        window = slice(top, bottom), slice(left, right)
        mine = (across >= 0) & (across < side) & (down >= 0) & (down < side) & (away < nearest[window])
        out[window][mine] = label[down[mine], across[mine]]
        nearest[window][mine] = away[mine]
    return out


def outlines(
    labels: Plane,
    classes: Sequence[str],
    *,
    pixel_um: float,
    place: tuple[float, float, float] | None = None,
    least_mm2: float = 0.0,
    properties: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Outline of each class as a GeoJSON ``FeatureCollection``, in micrometres of the section.

    Parameters
    ----------
    labels : ndarray (H, W) uint8
        Of a section (`joined`), or of one patch.
    classes : sequence of str
        Names of the values; others are not drawn.
    pixel_um : float
    place : (float, float, float), optional
        ``x_um``, ``y_um`` of the centre of a patch and its ``angle_deg``; by default the labels begin at the section's
        top left corner.
    least_mm2 : float
        Smaller pieces are left out.
    properties : dict, optional
        Added to those of every feature, such as the id of the patch.

    Returns
    -------
    dict
        A feature for each class that occurs, a ``MultiPolygon`` whose rings are closed, x right and y down from the
        section's corner; ``properties``: ``layer``, ``area_mm2``. Plain data, ready for JSON.
    """
    features: list[dict[str, Any]] = []
    for number, name in enumerate(classes):
        polygons: list[list[list[list[float]]]] = []
        total = 0.0
        for rings in _polygons(labels == number):
            um = [_placed(ring, labels.shape, pixel_um, place) for ring in rings]
            area = (_area(um[0]) - sum(_area(hole) for hole in um[1:])) / 1e6
            if area >= least_mm2:
                total += area
                polygons.append([np.round(ring, 2).tolist() for ring in um])
        if polygons:
            shape = {"type": "MultiPolygon", "coordinates": polygons}
            about = {"layer": name, "area_mm2": round(total, 6), **(properties or {})}
            features.append({"type": "Feature", "properties": about, "geometry": shape})
    return {"type": "FeatureCollection", "features": features}


def _polygons(mask: NDArray[np.bool_]) -> list[list[Real]]:
    """Rings of every piece, the outer one first: (m, 2) x, y in pixels from the corner."""
    if not mask.any():
        return []
    # a rim of nothing closes what runs to the edge
    field = np.pad(mask.astype(np.float64), 1)
    at = [np.arange(size) - 0.5 for size in field.shape]
    kind = contourpy.FillType.OuterOffset
    found: Any = contourpy.contour_generator(at[1], at[0], field, fill_type=kind).filled(0.5, 2.0)
    return [
        [np.asarray(piece[a:b], np.float64) for a, b in pairwise(offset)] for piece, offset in zip(*found, strict=True)
    ]


def _placed(ring: Real, shape: tuple[int, ...], pixel_um: float, place: tuple[float, float, float] | None) -> Real:
    if place is None:
        return ring * pixel_um
    turn = np.deg2rad(place[2])
    right, down = ((ring - np.array([shape[1], shape[0]]) / 2) * pixel_um).T
    x = place[0] + right * np.cos(turn) - down * np.sin(turn)
    return np.column_stack([x, place[1] + right * np.sin(turn) + down * np.cos(turn)])


def _area(ring: Real) -> float:
    """Area of a closed ring, whichever way it turns (shoelace)."""
    x, y = ring.T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2
