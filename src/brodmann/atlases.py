"""What can be asked by name: columns of a table, and atlases, whose labels are taken at the places of rows."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import features
from brodmann.errors import Refused, SpaceMismatch, Usage
from brodmann.space import CCF_V3, Space
from brodmann.spaces import HUMAN

CCF_LEVELS = {
    "ccf": "areas", "ccf-divisions": "divisions", "ccf-layers": "layers", "ccf-structures": "structures",
}  # fmt: skip
NAMES = (*CCF_LEVELS, "brainglobe:NAME", "julich")
"""How targets name an atlas; ``brainglobe:NAME:2`` asks for the second level of its ontology, the root being 0."""
INSTALLED = Path("~/.brainglobe")
"""Where BrainGlobe's own tools leave what they download."""
_BRAINGLOBE = re.compile(r"brainglobe:(?P<name>[A-Za-z0-9_.+-]+)(:(?P<level>\d+))?")

Areas = Callable[[NDArray[np.float64], Space], NDArray[np.object_]]


def targets(table: ad.AnnData) -> list[str]:
    """Columns of a table that name classes: what `score areas` can be asked."""
    known = {"id", "subject", "section", "x_um", "y_um", "angle_deg", "x_mm", "y_mm", "z_mm", "u_mm", "v_mm"}
    obs = cast("pd.DataFrame", table.obs)
    return [name for name in obs.columns if name not in known and not pd.api.types.is_numeric_dtype(obs[name])]


def named(target: str) -> bool:
    """Whether a target names an atlas."""
    return _atlas(target) is not None


def at(
    xyz_mm: NDArray[np.float64], target: str, *, space: Space, atlas: str | Path | None = None
) -> NDArray[np.object_]:
    """What an atlas says of places.

    Parameters
    ----------
    xyz_mm : (n, 3) float64
        Places in ``space``, mm.
    target : str
        Names the atlas, see `label`.
    space : Space
        The atlas's.
    atlas : path, optional
        Folder of its files, see `label`.

    Returns
    -------
    ndarray (n,) of str
        Empty where it says nothing.

    Raises
    ------
    SpaceMismatch, Usage, Refused
        See `label`.
    """
    areas = _atlas(target)
    if areas is None:
        raise Usage("a target should name an atlas.", found=f"'{target}'.", do=f"choose one of {', '.join(NAMES)}.")
    found = areas(space, Path(atlas) if atlas else None)(xyz_mm, space)
    if not (found != "").any():
        raise Refused(
            f"some rows should lie in a region of '{target}'.", found=f"none of {len(xyz_mm):,}.",
            cause="places whose origin is not that of the space they name, or an annotation of another part.",
        )  # fmt: skip
    return found


def label(table: ad.AnnData, target: str, *, atlas: str | Path | None = None) -> None:
    """Add an atlas's labels as a column ``target``, if that is what the target names.

    Parameters
    ----------
    table : AnnData
        In the atlas's space.
    target : str
        A column (nothing is done), or an atlas: ``ccf``, ``ccf-divisions``, ``ccf-layers``, ``ccf-structures``;
        ``brainglobe:NAME``, ``brainglobe:NAME:LEVEL``; ``julich``.
    atlas : path, optional
        Folder of its files. By default the CCF's lie where ``BRODMANN_DATA`` points, BrainGlobe's in ``~/.brainglobe``,
        and Julich-Brain is asked of siibra.

    Raises
    ------
    SpaceMismatch
        If the table is not in the atlas's space.
    Usage
        If the target is neither a column nor an atlas, or the atlas's folder is not known.
    Refused
        Files that hold no such atlas, or not one row that lies in it.
    """
    obs = cast("pd.DataFrame", table.obs)
    if atlas is not None and not named(target):
        raise Usage(
            "an atlas serves the targets that name one.",
            found=f"'{target}' is a column of the table." if target in obs else f"'{target}'.",
            do=f"leave it out, or choose one of {', '.join(NAMES)}.",
        )
    if target in obs:
        return
    if not named(target):
        near = difflib.get_close_matches(target, [*targets(table), *NAMES], n=1)
        raise Usage(
            f"'{target}' should be a label column or an atlas.",
            found=f"columns {', '.join(targets(table)) or 'none'}; atlases {', '.join(NAMES)}.",
            do=f"did you mean '{near[0]}'?" if near else "name one with --target; without it 'area' is asked for.",
        )
    xyz = np.asarray(cast("Any", table.obsm)["xyz"], np.float64)
    obs[target] = pd.Categorical(at(xyz, target, space=features.space_of(table), atlas=atlas))


def _atlas(target: str) -> Callable[[Space, Path | None], Areas] | None:
    """What finds the labels of an atlas, given the table's space and the folder; None if the target names none."""
    if target in CCF_LEVELS:
        return lambda space, folder: _ccf(target, space, folder)
    if (match := _BRAINGLOBE.fullmatch(target)) is not None:
        level = None if match["level"] is None else int(match["level"])
        return lambda space, folder: _brainglobe(match["name"], level, space, folder)
    return _julich if target == "julich" else None


def _ccf(target: str, space: Space, folder: Path | None) -> Areas:
    from brodmann.datasets import ccf

    CCF_V3.require(space)
    root = os.environ.get("BRODMANN_DATA")
    home = folder or (Path(root) / "sections" / "mouse_glt1" if root else None)
    if home is None or not (home / ccf.REGIONS).is_file():
        raise Usage(
            f"target '{target}' needs the CCFv3 annotation ({ccf.VOLUME}, {ccf.REGIONS}).",
            found="no folder for it." if home is None else f"neither in {home}.",
            do="let BRODMANN_DATA name the folder with sections/mouse_glt1 in it; `score` also takes --atlas FOLDER.",
        )  # fmt: skip
    return lambda xyz, _: ccf.areas(xyz, level=cast("Any", CCF_LEVELS[target]), folder=home)


def _brainglobe(name: str, level: int | None, space: Space, folder: Path | None) -> Areas:
    from brodmann.datasets import brainglobe

    atlas = brainglobe.open(_installed(name, folder))
    atlas.space.require(space)
    return lambda xyz, own: atlas.regions(xyz, space=own, level=level)


def _installed(name: str, folder: Path | None) -> Path:
    """Folder of an atlas of BrainGlobe: the given one, or what lies in it or in BrainGlobe's own, the newest."""
    home = (folder or INSTALLED).expanduser()
    there = _there(home)
    mine = [path for title, path in there if title == name]
    if mine:
        return max(mine, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name.rpartition("v")[2])])
    names = sorted({title for title, _ in there})
    near = difflib.get_close_matches(name, names, n=1)
    raise Usage(
        f"'{name}' should be an atlas of BrainGlobe in {home}.", found=f"{', '.join(names) or 'no atlas'}.",
        do=f"did you mean 'brainglobe:{near[0]}'?" if near else "install it with BrainGlobe's tools (pip install "
        f"brainglobe-atlasapi; brainglobe install -a {name}); `score` also takes --atlas FOLDER.",
    )  # fmt: skip


def _there(home: Path) -> list[tuple[str, Path]]:
    """Atlases at a place and in it, as (name, folder): ``<name>_v<version>``, and ``atlases/<name>/<version>``."""
    found: list[tuple[str, Path]] = []
    if home.is_dir():
        found += [(path.parent.name.rpartition("_v")[0], path.parent) for path in home.glob("*_v*/metadata.json")]
        for pattern in ("atlases/*/*/manifest.json", "*/manifest.json"):
            found += [(path.parent.parent.name, path.parent) for path in home.glob(pattern)]
    if (home / "metadata.json").is_file():
        found.append((home.name.rpartition("_v")[0] or home.name, home))
    if (home / "manifest.json").is_file():
        found.append((home.absolute().parent.name, home))
    return found


def _julich(space: Space, folder: Path | None) -> Areas:
    from brodmann.datasets import julich

    known = {one.name: one for one in HUMAN}
    if space.name not in known:
        raise SpaceMismatch(
            f"Julich-Brain is mapped in {', '.join(known)}.", found=f"a table in '{space.name}'.",
            do="register the sections to one of these, and name it in sections.json.",
        )  # fmt: skip
    if folder is None:
        return lambda xyz, own: julich.areas(xyz, space=own)
    pairs = _label_maps(folder, space, tuple(known))

    def areas(xyz: NDArray[np.float64], own: Space) -> NDArray[np.object_]:
        found = np.full(len(xyz), "", object)
        for volume, names in pairs:
            # maps of single hemispheres complete each other
            found = np.where(found == "", julich.areas_in(xyz, space=own, volume=volume, names=names), found)
        return found

    return areas


def _label_maps(folder: Path, space: Space, known: tuple[str, ...]) -> list[tuple[Path, Path]]:
    """Label maps of a folder with the names that belong to each: of the same stem, or the folder's only ones."""
    volumes = sorted([*folder.glob("*.nii"), *folder.glob("*.nii.gz")]) if folder.is_dir() else []
    lists = sorted([*folder.glob("*.csv"), *folder.glob("*.json")]) if folder.is_dir() else []
    # a file does not say where it lies, but the names of published maps do
    other = [
        path.name
        for path in volumes
        if any(name in path.name.lower() for name in known) and space.name not in path.name.lower()
    ]
    if volumes and len(other) == len(volumes):
        raise SpaceMismatch(
            f"the label map should lie in '{space.name}', as the table does.", found=", ".join(other) + ".",
            do=f"give the map of {space.name}.",
        )  # fmt: skip
    pairs: list[tuple[Path, Path]] = []
    for volume in (path for path in volumes if path.name not in other):
        stem = volume.name.removesuffix(".gz").removesuffix(".nii")
        names = [path for path in lists if path.stem == stem] or lists
        if len(names) == 1:
            pairs.append((volume, names[0]))
    if not pairs or len(pairs) < len(volumes) - len(other):
        raise Usage(
            "--atlas should hold a label map (.nii, .nii.gz) and what its labels mean (.csv or .json of its name).",
            found=f"{len(volumes) - len(other)} label maps of {space.name} and {len(lists)} lists in {folder}.",
            do="put one of each there: columns label and name, or {\"1\": \"Area ...\"}.",
        )  # fmt: skip
    return pairs
