"""GeoJSON as QuPath reads it: predicted areas as polygons, in pixels of the section's full-resolution image.

QuPath takes pixels from the top left corner of the full-resolution image, y down, and for each feature
``classification`` with ``name`` and ``color`` (https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html).
"""

from __future__ import annotations

import json
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import contourpy
import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.exports import record
from brodmann.exports.answers import Answer, Found
from brodmann.exports.omezarr import finest
from brodmann.maps.colours import rgb
from brodmann.maps.labels import Picture, scaled
from brodmann.maps.raster import raster, reach_um, samples_of

Ring = list[list[float]]
_NAMES = uuid.UUID("6f3c1c0e-7a4f-5b8e-9d53-0a1909b0d3a4")
"""Names the features of the same export alike, so that a second import replaces and does not double."""


def write(found: Found, out: Path, *, pixel_um: float | None) -> dict[str, Any]:
    """Write ``<section>.geojson`` for each section into a folder: a feature for each class.

    Parameters
    ----------
    found : Found
        With one answer, of classes.
    out : Path
    pixel_um : float, optional
        Pixel size of the image that the polygons are to lie on; by default that of the section's own image. Cells have
        none: there pixels count from the origin of the cells' coordinates, and are 1 um by default.

    Raises
    ------
    Refused
        Numbers instead of classes, or sections of unknown scale.
    """
    answer, listed = found.one(), dict[str, Any]()
    answer.classes("GeoJSON")
    names = record.stems(picture.id for picture in found.pictures)
    for picture in found.pictures:
        if not scaled(picture):
            raise Refused(
                "polygons in pixels need sections of known scale.", found=f"'{picture.id}', whose unit is arbitrary.",
                do="state the unit in cells.json and fit again, or take ome-zarr.",
            )  # fmt: skip
        origin, own_um = frame(picture)
        pixel, step = pixel_um or own_um, finest(found, picture)
        features = _features(found, answer, picture, step_um=step, pixel_um=pixel, origin_um=origin)
        about = {
            "section": picture.id, "subject": picture.subject, "target": answer.name, "pixel_um": pixel,
            "unit": "px of the full-resolution image, from its top left corner, y down", "traced_at_um": step,
            "to_mm": record.to_mm(picture, origin), "space": found.space.name,
        }  # fmt: skip
        content = {"type": "FeatureCollection", "features": features, "properties": about}
        path = out / f"{names[picture.id]}.geojson"
        path.write_text(json.dumps(content, allow_nan=False, ensure_ascii=False), encoding="utf-8")
        listed[picture.id] = {"file": path.name, "features": len(features), **about}
        found.say(f"{path.name}: {len(features)} classes in pixels of {pixel:g} um")
    return {"sections": listed}


def frame(picture: Picture) -> tuple[tuple[float, float], float]:
    """Where a section's own image begins, um from the origin of its coordinates, and its pixel size (um).

    The picture of cells is no image: their coordinates begin elsewhere than its corner.
    """
    corner = getattr(picture, "origin_um", None)
    if corner is None:
        return (0.0, 0.0), float(cast("Any", picture).native_um)
    return (float(corner[0]), float(corner[1])), 1.0


def _features(
    found: Found, answer: Answer, picture: Picture, *, step_um: float, pixel_um: float, origin_um: tuple[float, float]
) -> list[dict[str, Any]]:
    xy, here = samples_of(found.table, answer.classes("GeoJSON"), picture)
    values = answer.key.values(here)
    shape = tuple(max(1, int(np.ceil(side / step_um - 1e-6))) for side in (picture.height_um, picture.width_um))
    drawn = raster(xy, values, cast("Any", shape), pixel_um=step_um, reach_um=reach_um(xy))
    made: list[dict[str, Any]] = []
    for value in np.unique(drawn[drawn > 0]).tolist():
        name, colour = answer.key.names[value - 1], answer.key.colours[value - 1]
        inside = drawn == value
        parts = [[_plain((ring * step_um + origin_um) / pixel_um) for ring in polygon] for polygon in polygons(inside)]
        single = len(parts) == 1
        made.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMES, f"{picture.id}\n{answer.name}\n{name}")),
                "geometry": {
                    "type": "Polygon" if single else "MultiPolygon",
                    "coordinates": parts[0] if single else parts,
                },
                "properties": {
                    "objectType": "annotation",
                    "name": name,
                    "classification": {"name": name, "color": rgb(colour).astype(int).tolist()},
                    "isLocked": False,
                    "measurements": {"samples": int((values == value).sum()), "pixel size um": pixel_um},
                },
            }
        )
    return made


def polygons(inside: NDArray[np.bool_]) -> list[list[NDArray[np.float64]]]:
    """Outlines of a mask: for each part its outer ring, then its holes; (k, 2) x and y in pixels, closed.

    Rings run half a pixel around pixel centres and cut corners, so that no two of them touch: every polygon is valid.
    Outer rings run counter-clockwise where y points up, holes clockwise (RFC 7946).
    """
    padded = np.pad(inside.astype(np.float64), 1)
    lines: Any = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset).filled(0.5, 2.0)
    found: list[list[NDArray[np.float64]]] = []
    for points, offsets in zip(*lines, strict=True):
        rings = [points[start:stop] - 0.5 for start, stop in pairwise(offsets)]
        found.append([_turned(_straight(ring), outer=not number) for number, ring in enumerate(rings)])
    return found


def _straight(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """A closed ring without the points in the middle of straight lines."""
    open_ring = ring[:-1]
    before, after = open_ring - np.roll(open_ring, 1, 0), np.roll(open_ring, -1, 0) - open_ring
    corner = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    kept = open_ring[corner]
    return np.concatenate([kept, kept[:1]])


def _turned(ring: NDArray[np.float64], *, outer: bool) -> NDArray[np.float64]:
    x, y = ring.T
    area = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())
    return ring if (area > 0) is outer else ring[::-1]


def _plain(ring: NDArray[np.float64]) -> Ring:
    return np.round(ring, 3).tolist()
