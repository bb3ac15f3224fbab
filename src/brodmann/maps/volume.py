"""Labels back in 3-D: a NIfTI label volume in the table's space, mm, with its orientation."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import atomic
from brodmann.errors import Refused
from brodmann.maps.labels import Key, Labels, aligned
from brodmann.space import Space

if TYPE_CHECKING:
    from anndata import AnnData
    from nibabel.nifti1 import Nifti1Image

LARGEST = 2**28
"""Voxels a volume may have (1 GiB in memory while it is made)."""
RAS = {"r": (0, 1), "l": (0, -1), "a": (1, 1), "p": (1, -1), "s": (2, 1), "i": (2, -1)}


def volume(
    table: AnnData,
    labels: Labels,
    space: Space,
    voxel_mm: float,
    *,
    reach_mm: float = 0.0,
    rows: NDArray[np.int64] | None = None,
    key: Key | None = None,
    out: Path | str | None = None,
) -> Nifti1Image:
    """Label volume of a table: each voxel has the most frequent label of the samples in it.

    Voxel borders lie at multiples of ``voxel_mm`` from the space's origin, so volumes of several tables overlay. The
    affine leads from voxel index to RAS mm about the space's origin; its codes are the space's orientation.

    Parameters
    ----------
    table : AnnData
        ``obsm["xyz"]``, (n, 3) float, mm in ``space``.
    labels : Labels
    space : Space
        Must be the one the table says (``uns["space"]["name"]``).
    voxel_mm : float
        Side of a voxel, mm.
    reach_mm : float
        Voxels without a sample take the label of the nearest sample up to this far (mm); 0 leaves them empty.
    rows : (m,) int64, optional
        Only these rows of the table, e.g. those of one brain.
    key : Key, optional
        Values and names; by default made from ``labels``.
    out : path, optional
        ``.nii`` or ``.nii.gz`` to write, with ``<stem>.csv`` (value, name, colour) beside it.

    Returns
    -------
    Nifti1Image
        uint16; 0 is no label. Units mm, intent "label".

    Raises
    ------
    Refused
        The sections are not registered, another space, nothing labelled, or more than 2^28 voxels.
    """
    import nibabel as nib

    _same_space(table, space)
    if not (np.isfinite(voxel_mm) and voxel_mm > 0):
        raise Refused("voxel_mm should be a positive number of mm.", found=str(voxel_mm))
    some = slice(None) if rows is None else rows
    xyz = np.asarray(np.asarray(cast("Any", table.obsm["xyz"]))[some], dtype=np.float64)
    space.check(xyz, what="obsm['xyz']")
    names = aligned(table, labels)
    key = key or Key.of(names)
    values = key.values(names[some])
    xyz, values = xyz[values > 0], values[values > 0]
    if not len(values):
        raise Refused("at least one sample should have a label.", found="none.")
    pad = int(np.ceil(reach_mm / voxel_mm - 1e-9))
    cell = np.floor(xyz / voxel_mm + 1e-6).astype(np.int64)  # float32 mm on a border must not fall a voxel short
    low = cell.min(0) - pad
    shape = cell.max(0) - low + pad + 1
    if float(np.prod(shape.astype(float))) > LARGEST:
        raise Refused(
            f"a volume should have at most {LARGEST:,} voxels.",
            found=f"{' x '.join(str(n) for n in shape)} at {voxel_mm} mm.",
            do=f"choose voxel_mm of about {voxel_mm * (float(np.prod(shape.astype(float))) / LARGEST) ** (1 / 3):.2g}.",
        )
    data = np.zeros(tuple(int(n) for n in shape), dtype=np.uint16)
    index, winner = majority(cell - low, values, (np.mod(xyz / voxel_mm, 1) - 0.5))
    data[tuple(index.T)] = winner
    if reach_mm > 0:
        _fill(data, xyz, values, low=low, voxel_mm=voxel_mm, reach_mm=reach_mm)
    image: Nifti1Image = cast("Any", nib).Nifti1Image(data, affine(space, (low + 0.5) * voxel_mm, voxel_mm))
    header: Any = image.header
    header.set_xyzt_units(xyz="mm")
    header.set_intent("label", name="brodmann")
    header["descrip"] = f"labels in space {space.name}"[:79].encode()
    cast("Any", image).set_sform(image.affine, code="aligned")
    cast("Any", image).set_qform(image.affine, code="aligned")
    if out is not None:
        path = Path(out)
        ending = ".nii.gz" if path.name.endswith(".nii.gz") else ".nii"
        content = cast("Any", image).to_bytes()
        atomic.write_bytes(path, gzip.compress(content, 6, mtime=0) if ending == ".nii.gz" else content)
        key.write(path.with_name(path.name.removesuffix(ending) + ".csv"))
    return image


def affine(space: Space, centre_mm: NDArray[np.float64], voxel_mm: float) -> NDArray[np.float64]:
    """(4, 4) from voxel index along the space's axes to RAS mm; ``centre_mm`` (3,) is voxel (0, 0, 0)'s centre."""
    if len(space.orientation) != 3 or len({RAS.get(c, (9, 0))[0] for c in space.orientation} & {0, 1, 2}) != 3:
        raise Refused(
            "a volume needs a space with anatomical directions.",
            found=f"space '{space.name}' with orientation '{space.orientation}'.",
            cause="the sections were never registered to a brain.",
            do="give each section its place (anchoring or affine), or export sections with label_image.",
        )
    result = np.zeros((4, 4))
    result[3, 3] = 1.0
    for axis, code in enumerate(space.orientation):
        row, sign = RAS[code]
        result[row, axis] = sign * voxel_mm
        result[row, 3] = sign * centre_mm[axis]
    return result


def majority(
    cell: NDArray[np.int64], values: NDArray[np.int64], offset: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Most frequent value per voxel; a tie goes to the value whose sample is nearest to the voxel's centre.

    Parameters
    ----------
    cell : (n, 3) int64
        Voxel of each sample.
    values : (n,) int64
    offset : (n, 3) float64
        Sample minus voxel centre, in voxels.

    Returns
    -------
    voxels : (m, 3) int64
    winners : (m,) int64
    """
    frame = pd.DataFrame({"i": cell[:, 0], "j": cell[:, 1], "k": cell[:, 2], "value": values})
    frame["away"] = (offset**2).sum(axis=1)
    groups = cast("Any", frame.groupby(["i", "j", "k", "value"], sort=True))["away"]
    tally = groups.agg(["size", "min"]).reset_index()
    best = tally.sort_values(["i", "j", "k", "size", "min", "value"], ascending=[True, True, True, False, True, True])
    best = best.drop_duplicates(["i", "j", "k"])
    return best[["i", "j", "k"]].to_numpy(), best["value"].to_numpy()


def _fill(
    data: NDArray[np.uint16],
    xyz: NDArray[np.float64],
    values: NDArray[np.int64],
    *,
    low: NDArray[np.int64],
    voxel_mm: float,
    reach_mm: float,
) -> None:
    """Give empty voxels the value of the nearest sample within reach, slab by slab."""
    from scipy import spatial

    tree: Any = cast("Any", spatial).cKDTree(xyz)
    padded = np.append(values, 0).astype(np.uint16)
    reach = float(np.nextafter(reach_mm, np.inf))  # the tree's bound is open, ours is closed
    for i in range(data.shape[0]):
        empty = np.argwhere(data[i] == 0)
        inside = np.column_stack([np.full(len(empty), i), empty])
        nearest = tree.query((inside + low + 0.5) * voxel_mm, distance_upper_bound=reach)[1]
        data[i][tuple(empty.T)] = padded[nearest]


def _same_space(table: AnnData, space: Space) -> None:
    """Refuse a table of another space; names alone are never matched."""
    from brodmann.errors import SpaceMismatch

    said = cast("dict[str, Any]", table.uns.get("space", {}))
    if said and (str(said.get("name")), str(said.get("orientation", space.orientation))) != (
        space.name,
        space.orientation,
    ):
        raise SpaceMismatch(
            f"the table should be in space '{space.name}' ({space.orientation}).",
            found=f"'{said.get('name')}' ({said.get('orientation')}).",
            do="ask for the table's own space, or transform the table first.",
        )
