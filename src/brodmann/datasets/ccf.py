"""Allen mouse atlas: areas, divisions and cortical layers at a place (CCFv3, Wang et al. 2020, Cell 181:936).

Annotation and names belong to the Allen Institute (non-commercial terms of use, https://alleninstitute.org/terms-of-use);
nothing of it is part of this package. Two files are read from a folder: the 2017 annotation volume at 25 um (NRRD) and
a table of regions (CSV with columns ``idx`` and ``name``, rows in depth-first order of the ontology).
"""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.space import CCF_V3

VOLUME = "ccfv3_2017_annotation_25um.nrrd"
REGIONS = "ccfv3_2017_regions.csv"
VOXEL_MM = 0.025
SOURCE = "http://download.alleninstitute.org/informatics-archive/current-release/mouse_ccf/annotation/ccf_2017/"

Level = Literal["areas", "divisions", "layers", "structures"]

CORTEX = {
    "FRP": 184, "MO": 500, "SS": 453, "GU": 1057, "VISC": 677, "AUD": 247, "VIS": 669, "ACA": 31, "PL": 972,
    "ILA": 44, "ORB": 714, "AI": 95, "RSP": 254, "PTLp": 22, "TEa": 541, "PERI": 922, "ECT": 895,
}  # fmt: skip
"""Isocortical areas: acronym and id in the Allen ontology."""

DIVISIONS = {
    "Isocortex": 315, "OLF": 698, "HPF": 1089, "CTXsp": 703, "STR": 477, "PAL": 803, "TH": 549, "HY": 1097,
    "MB": 313, "P": 771, "MY": 354, "CB": 512, "fiber tracts": 1009, "VS": 73,
}  # fmt: skip
"""Major divisions of the brain."""

PARENTS = {
    "root": 997, "grey": 8, "CH": 567, "CTX": 688, "CTXpl": 695, "CNU": 623, "BS": 343, "IB": 1129, "HB": 1065,
    "grooves": 1024, "retina": 304325711,
}  # fmt: skip
"""Rows that end the division before them without opening one: their own voxels carry no class."""


def areas(xyz_mm: NDArray[np.floating], *, level: Level = "areas", folder: str | Path) -> NDArray[np.object_]:
    """Name the atlas region at each place.

    Parameters
    ----------
    xyz_mm : ndarray (n, 3) float
        Places in `CCF_V3`: x left to right, y posterior to anterior, z inferior to superior, mm.
    level : {"areas", "divisions", "layers", "structures"}
        ``areas``: isocortical areas and, outside the isocortex, divisions; ``divisions``: the 14 major divisions;
        ``layers``: isocortical layer (1, 2/3, 4, 5, 6a, 6b); ``structures``: whatever the annotation tells apart.
    folder : path
        Holds the annotation volume and the table of regions.

    Returns
    -------
    ndarray (n,) of str
        Acronyms of the Allen ontology, of structures their names; empty outside the brain and where the level says
        nothing.

    Raises
    ------
    Refused
        A file is missing, is not this atlas, or the coordinates are not mm of this space.
    """
    xyz = np.asarray(xyz_mm, dtype=np.float64)
    CCF_V3.check(xyz)
    folder = Path(folder)
    table = regions(folder / REGIONS, level=level)
    volume, affine = _annotation(str(folder / VOLUME))
    ids = labels_at(volume, affine, xyz)
    unknown = sorted(set(np.unique(ids).tolist()) - set(table) - {0})
    if unknown:
        raise Refused(
            f"{REGIONS} should name every region of {VOLUME}.",
            found=f"{len(unknown)} ids that it does not list, e.g. {unknown[:3]}.",
            do="use the table that belongs to this version of the annotation.",
        )
    present, inverse = np.unique(ids, return_inverse=True)
    return np.array([table.get(int(i), "") for i in present], dtype=object)[inverse.reshape(-1)]


def regions(path: str | Path, *, level: Level) -> dict[int, str]:
    """Class of every region id at a level, from the depth-first list of regions.

    The table has no parents: a region belongs to the last opening row before it (the ontology is depth-first, and
    the openings are siblings or end one another).

    Raises
    ------
    Refused
        The table is missing, or lacks a row that opens a class.
    """
    path = Path(path)
    if not path.is_file():
        raise Refused(f"the table of regions should be at {path}.", found="no such file.")
    with path.open(newline="", encoding="utf-8-sig") as lines:
        rows = [(int(row["idx"]), row["name"].strip()) for row in csv.DictReader(lines)]
    opens = dict.fromkeys(PARENTS.values(), "")
    opens |= {number: name for name, number in DIVISIONS.items()}
    if level == "areas":
        opens |= {number: name for name, number in CORTEX.items()}
        opens[DIVISIONS["Isocortex"]] = ""
    missing = {number for number, name in opens.items() if name} - {number for number, _ in rows}
    if missing:
        raise Refused(f"{path.name} should list the Allen ontology.", found=f"no rows for ids {sorted(missing)}.")
    if level == "structures":
        return {number: "" if number == PARENTS["root"] else name for number, name in rows}
    result: dict[int, str] = {}
    current = ""
    for number, name in rows:
        current = opens.get(number, current)
        result[number] = current if level != "layers" else _layer(name) if current == "Isocortex" else ""
    return result


def read(path: str | Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Atlas volume and its affine from a NIfTI or NRRD file.

    Returns
    -------
    volume : ndarray (i, j, k)
        Integer labels.
    affine : ndarray (4, 4) float64
        From voxel index (of the voxel's centre) to mm. An NRRD header is taken at its word, microns being converted
        where it names them. (`areas` does not trust the header of the Allen file, which is wrong.)

    Raises
    ------
    Refused
        No such file, or a kind that is not read here.
    """
    path = Path(path)
    if not path.is_file():
        raise Refused(f"the atlas should be at {path}.", found="no such file.")
    if path.name.endswith((".nii", ".nii.gz")):
        import nibabel

        image = cast("Any", nibabel.load(path))  # pyright: ignore[reportPrivateImportUsage]
        return np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
    if path.suffix == ".nrrd":
        try:
            import nrrd  # pyright: ignore[reportMissingTypeStubs]
        except ImportError as error:
            raise Refused(
                f"reading {path.name} needs the package pynrrd.", do="pip install 'brodmann[atlas]'."
            ) from error
        volume, header = cast("Any", nrrd).read(str(path))
        affine = np.eye(4)
        if "space directions" in header:
            affine[:3, :3] = np.asarray(header["space directions"], dtype=np.float64).T
            affine[:3, 3] = np.asarray(header.get("space origin", (0, 0, 0)), dtype=np.float64)
            if any("mic" in str(unit) or str(unit) in {"um", "µm"} for unit in header.get("space units", ())):
                affine[:3] /= 1000
        return volume, affine
    raise Refused("an atlas should be .nii, .nii.gz or .nrrd.", found=f"'{path.name}'.")


def labels_at(volume: NDArray[Any], affine: NDArray[np.floating], xyz_mm: NDArray[np.floating]) -> NDArray[np.int64]:
    """Label of the voxel that contains each place.

    Parameters
    ----------
    volume : ndarray (i, j, k) of int
        Labels; 0 means none.
    affine : ndarray (4, 4) float
        From voxel index to mm; integer indices are voxel centres.
    xyz_mm : ndarray (n, 3) float
        Places, mm, in the space of the affine.

    Returns
    -------
    ndarray (n,) int64
        Labels; 0 outside the volume.
    """
    xyz = np.asarray(xyz_mm, dtype=np.float64)
    inverse = np.linalg.inv(np.asarray(affine, dtype=np.float64))
    # floor(. + 0.5), not rint: a place on the face between two voxels belongs to the upper one on every face.
    index = np.floor(xyz @ inverse[:3, :3].T + inverse[:3, 3] + 0.5)
    inside = np.isfinite(index).all(axis=1) & (index >= 0).all(axis=1) & (index < volume.shape[:3]).all(axis=1)
    result = np.zeros(len(xyz), dtype=np.int64)
    i, j, k = index[inside].astype(np.int64).T
    result[inside] = np.asarray(volume[i, j, k], dtype=np.int64)
    return result


@lru_cache(maxsize=1)
def _annotation(path: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Annotation in the axes of `CCF_V3`, from either of the two files that are in use."""
    if not Path(path).is_file():
        raise Refused(f"the annotation volume should be at {path}.", found="no such file.", do=f"get it from {SOURCE}.")
    volume, _ = read(path)
    if volume.shape == (528, 320, 456):
        # As the Allen Institute serves it: anterior to posterior, superior to inferior, left to right.
        volume = volume.transpose(2, 0, 1)[:, ::-1, ::-1]
    elif volume.shape != (456, 528, 320):
        raise Refused(
            "the annotation should be the 25-um CCFv3 volume, (456, 528, 320) or (528, 320, 456) voxels.",
            found=f"{volume.shape}.",
        )
    # The axes come from the shape alone: the header of the file that QuickNII's family of tools passes on claims
    # left-posterior-superior, but its second axis runs from the medulla to the olfactory bulb.
    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    affine[:3, 3] = VOXEL_MM / 2
    return volume, affine


def _layer(name: str) -> str:
    found = re.search(r"(?:layer|,)\s*(1|2/3|2|3|4|5|6a|6b|6)$", name, flags=re.IGNORECASE)
    if not found:
        return ""
    # A few agranular areas split layer 2 from 3; the annotation does so in no more than those.
    return {"2": "2/3", "3": "2/3", "6": "6a"}.get(found[1].lower(), found[1].lower())
