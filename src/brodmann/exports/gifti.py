"""GIFTI: what was found, on the vertices of a mesh of the same space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from brodmann.cortex import gifti
from brodmann.errors import Usage
from brodmann.exports import record
from brodmann.exports.answers import Found
from brodmann.maps import meshes


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
    mesh, brains = gifti.read(onto), found.brains()
    names = record.stems(f"{answer.name}_{brain}" for brain, _ in brains)
    for (brain, rows), stem in zip(brains, names.values(), strict=True):
        at = meshes.project(found.table, mesh, rows, within_mm, what=f"{onto.name}, {brain}")
        blank = int((at.row < 0).sum())
        about = {"space": found.space.name, "within_mm": f"{within_mm:g}", "unit": answer.unit}
        if isinstance(answer.values, np.ndarray):
            path = out / f"{stem}.shape.gii"
            gifti.write_values(path, at.of(answer.values, np.nan), names=[answer.name], meta=about)
        else:
            path = out / f"{stem}.label.gii"
            values = at.of(answer.key.values(answer.values), 0)
            gifti.write_labels(path, values, answer.key.mapping, name=answer.name, meta=about)
        listed[brain] = {
            "file": path.name, "mesh": onto.name, "within_mm": within_mm, "vertices": len(at.row), "blank": blank,
        }  # fmt: skip
        near = f"{len(at.row) - blank:,} of {len(at.row):,} vertices"
        found.say(f"{path.name}: {near} within {within_mm:g} mm of a place")
    return {"brains": listed}
