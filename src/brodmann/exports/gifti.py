"""GIFTI: what was found, on the vertices of a mesh of the same space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from nibabel.gifti.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable, GiftiMetaData
from numpy.typing import NDArray

from brodmann.cortex import gifti
from brodmann.errors import Refused, Usage
from brodmann.exports import record
from brodmann.exports.answers import Answer, Found
from brodmann.maps import volume
from brodmann.maps.colours import rgb


def write(found: Found, out: Path, *, onto: Path | None, within_mm: float | None) -> dict[str, Any]:
    """Write ``<target>_<brain>.label.gii`` (numbers: ``.shape.gii``) into a folder: a value for each vertex.

    A vertex has what the nearest place within ``within_mm`` has; the others are blank (0, or NaN).

    Parameters
    ----------
    found : Found
        With one answer.
    out : Path
    onto : Path
        The mesh (``.surf.gii``): RAS mm about the origin of the run's space.
    within_mm : float

    Raises
    ------
    Usage
        No mesh, or no distance.
    Refused
        No vertex has a place within reach.
    """
    if onto is None or within_mm is None:
        raise Usage(
            "GIFTI needs a mesh, and how far from a vertex a place may lie.", found="not both.",
            do=f"give --onto FILE.surf.gii (RAS mm in space '{found.space.name}') and --within-mm.",
        )  # fmt: skip
    answer, listed = found.one(), dict[str, Any]()
    surface, brains = gifti.read(onto), found.brains()
    names = record.stems(f"{answer.name}_{brain}" for brain, _ in brains)
    for (brain, rows), stem in zip(brains, names.values(), strict=True):
        row, away = nearest(surface.vertices, ras(found)[rows], within_mm)
        if (row < 0).all():
            raise Refused(
                f"some vertex should have a place of '{brain}' within {within_mm:g} mm.",
                found=f"the nearest two are {away.min():.2f} mm apart.",
                cause="a mesh of another space, or too small a reach.",
                do=f"give a mesh in RAS mm about the origin of '{found.space.name}' ({found.space.origin}).",
            )  # fmt: skip
        ending = "shape" if answer.numeric else "label"
        path = out / f"{stem}.{ending}.gii"
        values = np.where(row >= 0, rows[row], -1)
        path.write_bytes(_image(found, answer, values, within_mm))
        listed[brain] = {
            "file": path.name, "mesh": onto.name, "within_mm": within_mm, "vertices": len(row),
            "blank": int((row < 0).sum()),
        }  # fmt: skip
        found.say(f"{path.name}: {int((row >= 0).sum()):,} of {len(row):,} vertices within {within_mm:g} mm of a place")
    return {"brains": listed}


def ras(found: Found) -> NDArray[np.float64]:
    """Places of all rows, (n, 3) RAS mm about the origin of their space."""
    turned = volume.affine(found.space, np.zeros(3), 1.0)[:3, :3]
    return found.xyz.astype(np.float64) @ turned.T


def nearest(
    vertices: NDArray[np.float64], places: NDArray[np.float64], within_mm: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nearest place of each vertex and its distance, mm; -1 where none lies within reach."""
    from scipy import spatial

    away, row = cast("Any", spatial).cKDTree(places).query(vertices)
    return np.where(away <= within_mm, row, -1), away


def _image(found: Found, answer: Answer, rows: NDArray[np.int64], within_mm: float) -> bytes:
    """Values of the rows of the vertices as a GIFTI file."""
    about = {"Name": answer.name, "space": found.space.name, "within_mm": f"{within_mm:g}", "unit": answer.unit}
    meta = cast("Any", GiftiMetaData)(about)
    if isinstance(answer.values, np.ndarray):
        numbers = np.append(answer.values, np.nan)[rows].astype(np.float32)
        part = GiftiDataArray(numbers, intent="NIFTI_INTENT_SHAPE", meta=meta)
        return cast("Any", GiftiImage)(darrays=[part]).to_bytes()
    table = GiftiLabelTable()
    key = answer.key
    shown = [("???", (0.0, 0.0, 0.0, 0.0))]
    shown += [(name, (*(rgb(colour) / 255).tolist(), 1.0)) for name, colour in zip(key.names, key.colours, strict=True)]
    for value, (name, colour) in enumerate(shown):
        label: Any = cast("Any", GiftiLabel)(value, *colour)
        label.label = name
        table.labels.append(label)
    values = np.append(key.values(answer.values), 0)[rows].astype(np.int32)
    part = GiftiDataArray(values, intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32", meta=meta)
    return cast("Any", GiftiImage)(darrays=[part], labeltable=table).to_bytes()
