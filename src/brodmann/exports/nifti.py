"""NIfTI: a volume for each brain in its space, mm, with its orientation; for classes, a lookup table beside it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, cast

import numpy as np

from brodmann.exports import record, voxels
from brodmann.exports.answers import Found
from brodmann.maps import volume


def write(found: Found, out: Path, *, voxel_mm: float | None) -> dict[str, Any]:
    """Write ``<target>_<brain>.nii.gz`` into a folder, and ``.csv`` (value, name, colour) beside each of classes.

    The affine leads to RAS mm about the space's origin. Each voxel has the most frequent class of its samples, or the
    mean of their numbers; voxels without a sample that of the nearest one within a voxel.

    Parameters
    ----------
    found : Found
        With one answer.
    out : Path
    voxel_mm : float, optional
        By default the brain's longest side in 120.
    """
    answer, listed = found.one(), dict[str, Any]()
    brains = found.brains()
    names = record.stems(f"{answer.name}_{brain}".replace(".", "_") for brain, _ in brains)
    for (brain, rows), stem in zip(brains, names.values(), strict=True):
        mm = voxels.side_mm(found, rows, voxel_mm)
        path = out / f"{stem}.nii.gz"
        found.say(f"{path.name}: {len(rows):,} samples, voxels of {mm:g} mm")
        if answer.numeric:
            path.write_bytes(_numbers(found, voxels.filled(found, answer, rows, mm, reach_mm=mm)))
        else:
            volume.volume(
                found.table, answer.classes("a label volume"), found.space, mm, reach_mm=mm, rows=rows,
                key=answer.key, out=path,
            )  # fmt: skip
        listed[brain] = {"file": path.name, "voxel_mm": mm, "reach_mm": mm, "affine_to": "RAS mm about the origin"}
        if not answer.numeric:
            listed[brain]["lookup"] = f"{stem}.csv"
    return {"brains": listed}


def _numbers(found: Found, made: voxels.Voxels) -> bytes:
    """Numbers as float32, NaN where there is none."""
    import nibabel as nib

    image: Any = cast("Any", nib).Nifti1Image(made.data.astype(np.float32), made.affine)
    image.header.set_xyzt_units(xyz="mm")
    image.header["descrip"] = f"{found.one().name} {found.one().unit} in space {found.space.name}"[:79].encode()
    image.set_sform(image.affine, code="aligned")
    image.set_qform(image.affine, code="aligned")
    return gzip.compress(image.to_bytes(), 6, mtime=0)
