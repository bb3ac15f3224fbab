"""Answers of one brain as voxels of its space: classes by majority, numbers by their mean; shared by two formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.exports.answers import Answer, Found
from brodmann.maps import volume


@dataclass(frozen=True, eq=False)
class Voxels:
    """A volume along the axes of its space.

    Parameters
    ----------
    data : (X, Y, Z) uint16 or float32
        Values of the answer's key (0 is none), or numbers (NaN is none).
    low : (3,) int64
        Its first voxel, counted from the origin of the space: voxel i spans ``(low + i) * mm`` to ``+ mm``.
    mm : float
        Side of a voxel.
    affine : (4, 4) float64
        From voxel index to RAS mm about the space's origin.
    """

    data: NDArray[Any]
    low: NDArray[np.int64]
    mm: float
    affine: NDArray[np.float64]


def side_mm(found: Found, rows: NDArray[np.int64], asked: float | None) -> float:
    """Side of a voxel: what was asked for, or the longest side of the brain in 120 (0.05 to 1 mm)."""
    if asked is not None:
        return asked
    span = np.ptp(found.xyz[rows].astype(float), axis=0).max()
    return float(np.clip(np.round(span / 120, 2), 0.05, 1.0))


def filled(found: Found, answer: Answer, rows: NDArray[np.int64], mm: float, *, reach_mm: float) -> Voxels:
    """Voxels of some rows; those without a sample take what the nearest sample within ``reach_mm`` has."""
    if answer.numeric:
        return _numbers(found, answer, rows, mm, reach_mm=reach_mm)
    image: Any = volume.volume(
        found.table, answer.classes("a label volume"), found.space, mm, reach_mm=reach_mm, rows=rows, key=answer.key
    )
    turned = [volume.RAS[letter] for letter in found.space.orientation]
    centre = np.array([sign * image.affine[row, 3] for row, sign in turned])
    return Voxels(np.asarray(image.dataobj), np.round(centre / mm - 0.5).astype(np.int64), mm, image.affine)


def _numbers(found: Found, answer: Answer, rows: NDArray[np.int64], mm: float, *, reach_mm: float) -> Voxels:
    from scipy import spatial

    xyz = found.xyz[rows].astype(np.float64)
    found.space.check(xyz, what="obsm['xyz']")
    values = cast("NDArray[np.float64]", answer.values)[rows]
    pad = int(np.ceil(reach_mm / mm - 1e-9))
    cell = np.floor(xyz / mm + 1e-6).astype(np.int64)  # as `maps.volume`: float32 on a border falls no voxel short
    low = cell.min(0) - pad
    shape = tuple(int(side) for side in cell.max(0) - low + pad + 1)
    if float(np.prod(np.array(shape, float))) > volume.LARGEST:
        raise Refused(
            f"a volume should have at most {volume.LARGEST:,} voxels.",
            found=f"{' x '.join(map(str, shape))} at {mm} mm.", do="choose larger voxels: --voxel-mm.",
        )  # fmt: skip
    flat = np.ravel_multi_index(tuple((cell - low).T), shape)
    there, where = np.unique(flat, return_inverse=True)
    mean = np.bincount(where, values) / np.bincount(where)
    data = np.full(int(np.prod(shape)), np.nan, np.float32)
    data[there] = mean
    data = data.reshape(shape)
    if reach_mm > 0:
        tree: Any = cast("Any", spatial).cKDTree(xyz)
        padded, reach = np.append(values, np.nan), float(np.nextafter(reach_mm, np.inf))
        for i in range(shape[0]):
            empty = np.argwhere(np.isnan(data[i]))
            inside = np.column_stack([np.full(len(empty), i), empty])
            data[i][tuple(empty.T)] = padded[tree.query((inside + low + 0.5) * mm, distance_upper_bound=reach)[1]]
    return Voxels(data, low, mm, volume.affine(found.space, (low + 0.5) * mm, mm))
