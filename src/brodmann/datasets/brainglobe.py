"""BrainGlobe atlases: structures of many species at a place, from the folder that BrainGlobe's own tools downloaded.

Read directly, without the package: ``~/.brainglobe/<name>_<um>um_v<version>`` holds ``metadata.json``,
``structures.json``, ``annotation.tiff`` and, for atlases with two different halves, ``hemispheres.tiff`` (versions 1
and 2); version 3 has ``atlases/<name>/<version>/manifest.json``, a terminology (CSV) and an OME-Zarr annotation.
Nothing is downloaded: ``brainglobe install -a allen_mouse_25um`` does that; version 3 fetches the volume itself only
when ``BrainGlobeAtlas(...).annotation`` is first asked for.

An orientation code such as ``asr`` says where index 0 of each axis lies: anterior, superior, right.

Reference: Claudi et al. 2020, JOSS 5:2668; each atlas has its own paper and licence (`Atlas.citation`).
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from brodmann.datasets.ccf import labels_at
from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.patches.readers.chunks import Absent, Header, header, opener
from brodmann.sidecar import inside, strict_json
from brodmann.space import CCF_V3, Space

CITATION = "Claudi et al. 2020, https://doi.org/10.21105/joss.02668"
IN_CCF = ("allen_mouse",)
"""Atlases whose volume is that of the Allen CCFv3, so that their places are those of `brodmann.space.CCF_V3`."""
LIMIT_VOXELS = 4_000_000_000
_TOWARDS = {"l": (0, 1), "r": (0, -1), "p": (1, 1), "a": (1, -1), "i": (2, 1), "s": (2, -1)}
"""Of a letter that says where index 0 lies: axis among right, anterior, superior, and which way indices run on it."""
_MM = {"millimeter": 1.0, "micrometer": 1e-3, "nanometer": 1e-6, None: 1.0}


@dataclass(frozen=True)
class Structure:
    """One region of an ontology.

    Parameters
    ----------
    id : int
        Value in the annotation.
    acronym, name : str
    path : tuple of int
        Ids from the root to this structure.
    """

    id: int
    acronym: str
    name: str
    path: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Atlas:
    """An annotation with its ontology.

    Parameters
    ----------
    name, version, species, citation : str
    orientation : str
        Three letters: where index 0 of each axis lies.
    resolution_um : (float, float, float)
        Voxel size along each axis of the annotation.
    annotation : ndarray (i, j, k) of int
        Ids of structures; 0 is none.
    structures : dict of int to Structure
    halves : ndarray (i, j, k) of int or None
        1 left, 2 right; None: the volume is cut in its middle (BrainGlobe gives the middle voxel of an odd number of
        them to the left).
    """

    name: str
    version: str
    species: str
    citation: str
    orientation: str
    resolution_um: tuple[float, float, float]
    annotation: NDArray[Any]
    structures: dict[int, Structure]
    halves: NDArray[Any] | None = None

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4) from voxel index (centres) to mm rightwards, forwards and upwards from the volume's far corner.

        The corner is the left, posterior, inferior one, so that no place in the volume is negative.
        """
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, (letter, um, count) in enumerate(
            zip(self.orientation, self.resolution_um, self.annotation.shape, strict=True)
        ):
            to, way = _TOWARDS[letter]
            affine[to, axis] = way * um / 1000
            affine[to, 3] = (0.5 if way > 0 else count - 0.5) * um / 1000
        return affine

    @cached_property
    def space(self) -> Space:
        """Space of the places: `CCF_V3` for atlases in it, else one named after the atlas."""
        extent = self.annotation.shape @ np.abs(self.affine[:3, :3].T)
        extent_mm = tuple(float(round(mm, 6)) for mm in extent)
        if self.name.startswith(IN_CCF) and np.allclose(extent_mm, CCF_V3.extent_mm, atol=0.05):
            return CCF_V3
        return Space(
            name=f"brainglobe_{self.name}",
            orientation="ras",
            extent_mm=cast("tuple[float, float, float]", extent_mm),
            origin="left, posterior, inferior corner of the annotation volume",
        )

    def regions(
        self, xyz_mm: NDArray[np.floating], *, space: Space, level: int | None = None, under: tuple[str, ...] = ()
    ) -> NDArray[np.object_]:
        """Acronym of the structure at each place.

        Parameters
        ----------
        xyz_mm : ndarray (n, 3) float
            Places, mm.
        space : Space
            Their space; must be `Atlas.space`.
        level : int, optional
            Depth in the ontology (0 is the root): the ancestor there, or the structure itself where it lies higher.
            By default the structure that is drawn.
        under : tuple of str, optional
            Acronyms: the nearest of them among a structure and its ancestors, or empty. Instead of ``level``.

        Returns
        -------
        ndarray (n,) of str
            Empty outside the brain.

        Raises
        ------
        SpaceMismatch
            Places in another space.
        Refused
            Acronyms that the atlas lacks, or places that cannot be mm of this space.
        """
        ids = self._ids(xyz_mm, space)
        known = {structure.acronym for structure in self.structures.values()}
        if missing := sorted(set(under) - known):
            raise Refused(f"{self.name} should have the structures asked for.", found=f"no {', '.join(missing)}.")
        present, inverse = np.unique(ids, return_inverse=True)
        named = [self._named(int(number), level, under) for number in present]
        return np.array(named, dtype=object)[inverse.reshape(-1)]

    def columns(self, xyz_mm: NDArray[np.floating], *, space: Space) -> pd.DataFrame:
        """Label columns for a table of places, one row each.

        Returns
        -------
        DataFrame
            ``structure`` (acronym), ``structure_name``, ``structure_path`` (acronyms from the root, ``/`` between
            them) and ``hemisphere``; empty outside the brain.
        """
        ids = self._ids(xyz_mm, space)
        present, inverse = np.unique(ids, return_inverse=True)
        rows = {
            "structure": [self._named(int(number), None, ()) for number in present],
            "structure_name": [self.structures[int(n)].name if n else "" for n in present],
            "structure_path": ["/".join(self._acronyms(int(n))) for n in present],
        }
        found = pd.DataFrame({name: np.array(values, object)[inverse.reshape(-1)] for name, values in rows.items()})
        found["hemisphere"] = np.where(ids == 0, "", self._sides(np.asarray(xyz_mm, np.float64)))
        return found

    def _ids(self, xyz_mm: NDArray[np.floating], space: Space) -> NDArray[np.int64]:
        self.space.require(space)
        xyz = np.asarray(xyz_mm, np.float64)
        self.space.check(xyz)
        ids = labels_at(self.annotation, self.affine, xyz)
        unknown = sorted(set(np.unique(ids).tolist()) - set(self.structures) - {0})
        if unknown:
            raise Refused(
                f"structures of {self.name} should name every value of its annotation.",
                found=f"{len(unknown)} that they lack, e.g. {unknown[:3]}.",
                cause="files of two versions.",
                do="install the atlas again.",
            )
        return ids

    def _acronyms(self, number: int) -> list[str]:
        return [self.structures[ancestor].acronym for ancestor in self.structures[number].path] if number else []

    def _named(self, number: int, level: int | None, under: tuple[str, ...]) -> str:
        path = self._acronyms(number)
        if not path:
            return ""
        if under:
            return next((acronym for acronym in reversed(path) if acronym in under), "")
        return path[-1 if level is None else min(level, len(path) - 1)]

    def _sides(self, xyz: NDArray[np.float64]) -> NDArray[np.object_]:
        if self.halves is not None:
            return np.array(["", "left", "right"], object)[labels_at(self.halves, self.affine, xyz).clip(0, 2)]
        middle = abs(self.affine[0, :3]) @ self.annotation.shape / 2
        return np.where(xyz[:, 0] <= middle, "left", "right").astype(object)


@lru_cache(maxsize=2)
def _kept(folder: str, stamp: tuple[tuple[str, int, int], ...]) -> Atlas:
    path = Path(folder)
    return (_third if path.name == "manifest.json" else _first)(path)


def open(folder: str | Path) -> Atlas:
    """Atlas of a folder; the last two are kept in memory.

    Parameters
    ----------
    folder : path
        ``<name>_<um>um_v<version>``, or the ``manifest.json`` of an atlas of version 3, in its place.

    Raises
    ------
    Refused
        No atlas, an orientation that is none, or sizes that contradict each other.
    Corrupt
        Files cut short.
    """
    path = Path(folder)
    if (path / "manifest.json").is_file():
        path = path / "manifest.json"
    said = path if path.is_file() else path / "metadata.json"
    if not said.is_file():
        raise Refused(
            f"a BrainGlobe atlas should be at {path}.",
            found="neither metadata.json nor manifest.json.",
            do="install it with BrainGlobe's tools, and give its folder.",
        )
    stats = [(file.name, file.stat()) for file in sorted(said.parent.iterdir()) if file.is_file()]
    try:
        return _kept(str(path), tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))
    except BrodmannError:
        raise
    except FileNotFoundError as error:
        raise Refused(f"{path.name} should hold a whole atlas.", found=f"no {error.filename}.") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Corrupt(f"{said.name} of {path.name} should describe an atlas.", found=repr(error)[:200]) from error


def _first(folder: Path) -> Atlas:
    """Versions 1 and 2."""
    about = strict_json(folder / "metadata.json")
    resolution, code = _geometry(about, folder.name)
    annotation = _tiff(folder / "annotation.tiff", tuple(about["shape"]))
    rows = [
        Structure(int(row["id"]), str(row["acronym"]), str(row["name"]), tuple(map(int, row["structure_id_path"])))
        for row in strict_json(folder / "structures.json")
    ]
    halves = None if about["symmetric"] else _tiff(folder / "hemispheres.tiff", annotation.shape)
    return _atlas(about, code, resolution, annotation, rows, halves)


def _third(manifest: Path) -> Atlas:
    """Version 3: parts shared between atlases lie beside ``atlases/`` and are named in the manifest."""
    about = strict_json(manifest)
    root = manifest.parents[3]
    resolution, code = _geometry(about, manifest.parent.parent.name)
    table = inside(root, str(about["terminology"]["location"]).lstrip("/")) / "terminology.csv"
    if not table.is_file():
        raise Refused(f"the terminology should be at {table}.", found="no such file.")
    with table.open(newline="", encoding="utf-8") as lines:
        rows = [
            Structure(
                int(row["identifier"]),
                row["abbreviation"],
                row["name"],
                tuple(int(part) for part in row["root_identifier_path"].strip("[]").split(",") if part.strip()),
            )
            for row in csv.DictReader(lines)
        ]
    place = inside(root, str(about["annotation_set"]["location"]).lstrip("/"))
    annotation = _zarr(place / "annotations_compressed.ome.zarr", resolution)
    halves = None if about["symmetric"] else _zarr(place / "hemispheres.ome.zarr", resolution)
    return _atlas(about, code, resolution, annotation, rows, halves)


def _geometry(about: Any, title: str) -> tuple[tuple[float, float, float], str]:
    i, j, k = (float(um) for um in about["resolution"])
    code = str(about["orientation"]).lower()
    if sorted("".join({"l": "r", "p": "a", "i": "s"}.get(letter, letter) for letter in code)) != ["a", "r", "s"]:
        raise Refused(
            f"orientation of {title} should name one end of each of three axes, as asr does.", found=f"'{code[:20]}'."
        )
    if not all(math.isfinite(um) and 0.1 <= um <= 5000 for um in (i, j, k)):
        raise Refused(f"voxels of {title} should have sizes in um.", found=f"{(i, j, k)}.")
    return (i, j, k), code


def _atlas(
    about: Any,
    code: str,
    resolution: tuple[float, float, float],
    annotation: NDArray[Any],
    rows: list[Structure],
    halves: NDArray[Any] | None,
) -> Atlas:
    title, shape = str(about["name"]), tuple(about.get("shape", annotation.shape))
    if annotation.ndim != 3 or annotation.shape != shape or (halves is not None and halves.shape != shape):
        raise Refused(
            f"volumes of {title} should have the stated shape {shape}.",
            found=f"{annotation.shape}" + ("" if halves is None else f", halves {halves.shape}"),
        )
    structures = {row.id: row for row in rows}
    lost = [row for row in rows if not row.path or row.path[-1] != row.id or not set(row.path) <= set(structures)]
    if lost or not rows:
        raise Refused(
            f"structures of {title} should lead back to its root.",
            found=f"{len(lost)} of {len(rows)} do not" + (f", e.g. {lost[0].acronym}." if lost else "."),
        )
    version, species, citation = (str(about.get(key, "")) for key in ("version", "species", "citation"))
    return Atlas(title, version, species, citation, code, resolution, annotation, structures, halves)


def _tiff(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read a volume; its claimed size is checked before it is read."""
    if not path.is_file():
        raise Refused(f"a volume should be at {path}.", found="no such file.")
    try:
        with tifffile.TiffFile(path, _multifile=False) as tif:
            claimed = tuple(tif.series[0].shape)
            if claimed != tuple(shape) or math.prod(claimed) > LIMIT_VOXELS:
                raise Refused(f"{path.name} should be a volume of {shape} voxels.", found=f"{claimed}.")
            return np.asarray(tif.asarray())
    except (BrodmannError, OSError, MemoryError):
        raise
    except Exception as error:
        raise Corrupt(f"{path.name} should be a readable TIFF.", found=str(error)[:200]) from error


def _zarr(path: Path, resolution_um: tuple[float, float, float]) -> NDArray[Any]:
    """Read the level of an OME-Zarr volume that has the atlas's voxels."""
    about = path / ("zarr.json" if (path / "zarr.json").is_file() else ".zattrs")
    if not about.is_file():
        raise Refused(f"a volume should be at {path}.", found="no OME-Zarr.")
    content = strict_json(about)
    attributes = content.get("attributes", content)
    image = (attributes.get("ome") or attributes)["multiscales"][0]
    units = [_MM[axis.get("unit")] for axis in image["axes"][-3:]]
    for item in image["datasets"]:
        steps = [step["scale"] for step in item["coordinateTransformations"] if step["type"] == "scale"]
        um = [1000 * float(size) * unit for size, unit in zip(steps[0][-3:], units, strict=True)]
        if not np.allclose(um, resolution_um, rtol=1e-3):
            continue
        head = header(inside(path, str(item["path"])), store=path.name)
        if len(head.shape) != 3 or math.prod(head.shape) > LIMIT_VOXELS:
            raise Refused(f"{head.name} should be one volume.", found=f"{head.shape}.")
        return _volume(head)
    raise Refused(f"{path.name} should have a level of {resolution_um} um.", found="none.")


def _volume(head: Header) -> NDArray[Any]:
    """Read an array whole; writers leave out chunks of zeros, so that an absent one is background."""
    read, found = opener(head), 0
    values = np.zeros(head.shape, head.dtype)
    counts = [-(-size // side) for size, side in zip(head.shape, head.chunk, strict=True)]
    for place in np.ndindex(*counts):
        try:
            part = read(place)
        except Absent:
            continue
        found += 1
        values[tuple(slice(at * side, (at + 1) * side) for at, side in zip(place, head.chunk, strict=True))] = part
    if not found:
        raise Refused(f"{head.name} should hold its volume.", found="its description only: not yet downloaded.")
    return values
