"""Julich-Brain: cytoarchitectonic areas of the human brain at a place, from siibra or from a label map in a folder.

Two ways lead to the same column of names. `areas` asks siibra (``pip install 'brodmann[siibra]'``; it downloads maps
from EBRAINS when they are first used, which is why nothing else here calls it). `areas_in` reads a label map (NIfTI)
and its names from files, without siibra and without a connection.

siibra has maps of Julich-Brain 3.1 in MNI152 and Colin27; in the BigBrain space ask for another parcellation, such as
its cortical layers. A place that lies in no area gets an empty name: not every version covers the whole cortex. The
labelled map gives each voxel to its likeliest area.

Reference: Amunts et al. 2020, Science 369:988. Licence of the maps: CC BY-NC-SA 4.0 (EBRAINS); siibra: Apache-2.0.
"""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.datasets import ccf
from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.sidecar import strict_json
from brodmann.space import Space
from brodmann.spaces import HUMAN

CITATION = "Amunts et al. 2020, https://doi.org/10.1126/science.abb4588"
LICENSE = "CC-BY-NC-SA-4.0 (maps)"
PARCELLATION = "julich 3.1"
SPACES = {
    "mni152": "minds/core/referencespace/v1.0.0/dafcffc5-4826-4bf1-8ff6-46b8a31ff8e2",
    "colin27": "minds/core/referencespace/v1.0.0/7f39f7be-445b-47c0-9791-e971c0b6d992",
    "bigbrain": "minds/core/referencespace/v1.0.0/a1655b99-82f1-420f-a3c2-fe80fd4c8588",
}
"""EBRAINS identifiers of the spaces that siibra maps lie in."""
AT_ONCE = 50_000
"""Places that siibra is asked about together; it makes a row of each."""


def areas(
    xyz_mm: NDArray[np.floating],
    *,
    space: Space,
    parcellation: str = PARCELLATION,
    maps: Literal["labelled", "statistical"] = "labelled",
    spec: str = "",
    least: float = 0.0,
    siibra: Any = None,
) -> NDArray[np.object_]:
    """Name the area at each place, by siibra.

    Parameters
    ----------
    xyz_mm : ndarray (n, 3) float
        Places, mm.
    space : Space
        One of `brodmann.spaces.HUMAN`.
    parcellation : str
        As siibra names it.
    maps : {"labelled", "statistical"}
        One label a voxel, or the area of the highest probability.
    spec : str
        Words of the map's name, where siibra has several (it takes the first and says so).
    least : float
        Probability (statistical maps) that an area must exceed.
    siibra : module, optional
        Stands in for the installed one.

    Returns
    -------
    ndarray (n,) of str
        Names of areas with their hemisphere, e.g. ``Area hOc1 (V1, 17, CalcS) left``; empty where there is none.

    Raises
    ------
    Refused
        A space that siibra has no maps in, siibra missing, no such map, or no connection.
    """
    xyz = np.asarray(xyz_mm, np.float64)
    known = {named.name: named for named in HUMAN}
    if space.name not in known:
        raise Refused(
            "places should be in a space that Julich-Brain is mapped in.",
            found=f"'{space.name}'.",
            do=f"transform them to {', '.join(known)} first.",
        )
    known[space.name].require(space)
    space.check(xyz)
    library = siibra if siibra is not None else _siibra()
    names = np.full(len(xyz), "", object)
    try:
        kind = library.MapType[maps.upper()]
        atlas = library.get_map(parcellation, SPACES[space.name], kind, spec)
        if atlas is None:
            raise Refused(f"siibra should have a {maps} map of '{parcellation}' in {space.name}.", found="none.")
        for start in range(0, len(xyz), AT_ONCE):
            part = xyz[start : start + AT_ONCE]
            cloud = library.PointCloud(part.tolist(), space=SPACES[space.name], sigma_mm=0)
            names[start : start + AT_ONCE] = _likeliest(atlas.assign(cloud, lower_threshold=least), len(part), maps)
    except BrodmannError:
        raise
    except Exception as error:
        if "NotFound" in type(error).__name__:
            raise Refused(
                f"siibra should have a {maps} map of '{parcellation}' in {space.name}.", found=str(error)[:300]
            ) from error
        raise Refused(
            f"siibra should name areas of '{parcellation}' in {space.name}.",
            found=f"{type(error).__name__}: {error}"[:300],
            cause="no connection to EBRAINS, or another version of siibra than the tested 1.0.1a25.",
            do="try again with a connection, or use areas_in with a map that you downloaded.",
        ) from error
    return names


def _siibra() -> Any:
    try:
        return importlib.import_module("siibra")
    except ImportError as error:
        raise Refused(
            "naming areas of Julich-Brain needs the package siibra.",
            do="pip install 'brodmann[siibra]', or use areas_in with a map that you downloaded.",
        ) from error


def _likeliest(found: Any, count: int, maps: str) -> NDArray[np.object_]:
    """Name of the area with the highest value, per place, of siibra's table of assignments."""
    names = np.full(count, "", object)
    best = np.full(count, -np.inf)
    rows = zip(found["input structure"], found["region"], found["map value"], strict=True) if len(found) else ()
    for place, region, value in rows:
        # A label's number says nothing of how likely it is: the first stands.
        score = float(value) if maps == "statistical" else 0.0
        if score > best[place]:
            best[place] = score
            names[place] = str(getattr(region, "name", region))
    return names


def areas_in(
    xyz_mm: NDArray[np.floating], *, space: Space, volume: str | Path, names: str | Path
) -> NDArray[np.object_]:
    """Name the area at each place, by a label map on disk.

    Parameters
    ----------
    xyz_mm : ndarray (n, 3) float
        Places, mm.
    space : Space
        Of the places; the map must lie in the same one, which its file does not say.
    volume : path
        Label map: ``.nii`` or ``.nii.gz``, with its affine to mm.
    names : path
        What labels mean: JSON ``{"1": "Area ..."}``, or CSV with columns ``label`` and ``name``.

    Returns
    -------
    ndarray (n,) of str
        Empty where there is none.

    Raises
    ------
    Refused
        Files that are missing, labels without a name, or places that cannot be mm of the space.
    Corrupt
        Files cut short.
    """
    xyz = np.asarray(xyz_mm, np.float64)
    space.check(xyz)
    table = _names(Path(names))
    path = Path(volume)
    try:
        labels, affine = ccf.read(path)
    except (BrodmannError, MemoryError):
        raise
    except Exception as error:  # what nibabel and zlib raise
        raise Corrupt(f"{path.name} should be a readable volume.", found=str(error)[:200]) from error
    if labels.ndim != 3 or abs(float(np.linalg.det(affine[:3, :3]))) < 1e-12:
        raise Refused(
            f"{path.name} should hold one label a voxel.", found=f"shape {labels.shape}.", cause="a probability map."
        )
    ids = ccf.labels_at(labels, affine, xyz)
    present, inverse = np.unique(ids, return_inverse=True)
    if unknown := sorted(set(present.tolist()) - set(table) - {0}):
        raise Refused(
            f"{Path(names).name} should name every label of {path.name}.",
            found=f"{len(unknown)} that it lacks, e.g. {unknown[:3]}.",
            do="use the names that belong to this version of the map.",
        )
    return np.array([table.get(int(i), "") for i in present], dtype=object)[inverse.reshape(-1)]


def _names(path: Path) -> dict[int, str]:
    if not path.is_file():
        raise Refused(f"names of areas should be at {path}.", found="no such file.")
    try:
        if path.suffix == ".json":
            return {int(label): str(name) for label, name in cast("dict[str, Any]", strict_json(path)).items()}
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return {int(row["label"]): row["name"].strip() for row in csv.DictReader(lines)}
    except (KeyError, ValueError, AttributeError, TypeError, UnicodeDecodeError, csv.Error) as error:
        if isinstance(error, BrodmannError):
            raise
        raise Refused(
            f"{path.name} should list labels and names.", found=repr(error)[:200], do="write columns label and name."
        ) from error
