"""Meshes that a map is painted onto as well: whose each is, which rows its vertices show; GIFTI files and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import spatial

from brodmann.cortex import bending, gifti
from brodmann.cortex.mesh import Mesh
from brodmann.errors import Refused, Usage
from brodmann.features import space_of
from brodmann.maps import drawing, surface, volume
from brodmann.maps.labels import Key, codes, column
from brodmann.maps.rendering import View
from brodmann.maps.surface import Projection
from brodmann.progress import Say
from brodmann.space import Space

_ENDING = ".surf.gii"
_BENT = ("flat", "inflated", "veryinflated", "sphere")
"""Words in names of surfaces whose places are not those of cortex."""
_DRAWN = 8
"""Surfaces that are drawn; files are written for all."""
_ROWS = 5_000
"""Rows from which the distance between neighbours is measured."""


@dataclass(frozen=True, eq=False)
class Given:
    """A mesh as it was read.

    Attributes
    ----------
    path : Path
    stem : str
        Its name in files that are made of it; each mesh has another.
    mesh : Mesh
        RAS mm about the origin of the table's space.
    """

    path: Path
    stem: str
    mesh: Mesh

    def brain(self, brains: Iterable[str]) -> str | None:
        """Which of the brains the file is of by its name (``B1.mid.surf.gii``, ``sub-B1_hemi-L``) or its folder's."""
        begins = [
            one
            for one in brains
            if self.path.parent.name in (one, f"sub-{one}")
            or re.match(rf"(sub-)?{re.escape(one)}(?![0-9A-Za-z])", self.path.name)
        ]
        return max(begins, key=len, default=None)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the vertices of a mesh show of one brain.

    Attributes
    ----------
    name : str
        Of its files, without their ending.
    brain : str
    given : Given
    at : Projection
    rows : int
        How many rows of the brain could be shown.
    """

    name: str
    brain: str
    given: Given
    at: Projection
    rows: int


def read(paths: Sequence[str | Path]) -> list[Given]:
    """Read meshes: GIFTI files, or folders (and the folders in them) with ``*.surf.gii``.

    Flat, inflated and spherical surfaces, which names tell, are left out of folders: their places are not those of the
    tissue.

    Raises
    ------
    Refused
        No such file, a folder without meshes, a file that holds none, or a surface that does not lie where cortex does.
    Corrupt
        Not a GIFTI file.
    Usage
        A mesh given twice.
    """
    files: list[Path] = []
    for one in map(Path, paths):
        if not one.is_dir():
            if bent := _bent(one):
                raise Refused(
                    f"{one.name} should lie where the cortex lies.", found=f"'{bent}' in its name.",
                    cause="a surface that was unfolded for looking at.",
                    do="give the surface in the middle of cortex, as mid or midthickness.",
                )  # fmt: skip
            files.append(one)
            continue
        inside = sorted([*one.glob(f"*{_ENDING}"), *one.glob(f"*/*{_ENDING}")])
        kept = [path for path in inside if not _bent(path)]
        if not kept:
            raise Refused(
                f"{one} should hold meshes (*{_ENDING}) of the cortex.",
                found=f"{', '.join(path.name for path in inside[:5])}: unfolded ones." if inside else "none.",
                do="give the files, or a folder that holds them.",
            )
        files += kept
    if len({path.resolve() for path in files}) < len(files):
        raise Usage("each mesh should be given once.", found=", ".join(str(path) for path in files))
    stems = [_plain(path.name.removesuffix(".gii").removesuffix(".surf")) for path in files]
    # lh/mid.surf.gii and rh/mid.surf.gii are told apart by their folders
    stems = [
        f"{_plain(path.absolute().parent.name)}_{stem}" if stems.count(stem) > 1 else stem
        for path, stem in zip(files, stems, strict=True)
    ]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise Usage("meshes should have names of their own.", found=f"several '{twice[0]}'.", do="rename them.")
    return [Given(path, stem, gifti.read(path)) for path, stem in zip(files, stems, strict=True)]


def turned(mesh: Mesh, space: Space) -> Mesh:
    """A mesh in RAS mm about the origin of a space, along the space's own axes.

    Raises
    ------
    Refused
        The space has no anatomical directions.
    """
    turn = volume.affine(space, np.zeros(3), 1.0)[:3, :3]
    mirrored = np.linalg.det(turn) < 0
    return Mesh(mesh.vertices @ turn, mesh.faces[:, ::-1] if mirrored else mesh.faces, mesh.remarks)


def project(table: AnnData, mesh: Mesh, rows: NDArray[np.int64], within_mm: float, *, what: str) -> Projection:
    """Nearest of some rows to each vertex of a mesh in RAS mm; refusals say of ``what``. See `surface.project`."""
    space = space_of(table)
    try:
        if space.name == "unregistered":
            raise Refused("a surface needs rows that share its space.", found="sections that were never registered.")
        return surface.project(table, turned(mesh, space), space, within_mm=within_mm, rows=rows)
    except Refused as error:
        raise Refused(f"{what}: {error.asked}", found=error.found, cause=error.cause, do=error.do) from error


def reach_mm(table: AnnData, rows: NDArray[np.int64]) -> float:
    """How far from a row of a brain a vertex may lie: three quarters of how far rows lie apart, mm, two digits.

    Along a section by the median distance to the nearest row, across by the median distance of neighbouring sections,
    measured along the normal that their rows share; together the diagonal of the two.
    """
    xyz = np.asarray(cast("Any", table.obsm)["xyz"], dtype=np.float64)[rows]
    section = codes(column(table, "section"))[rows]
    _, section, count = np.unique(section, return_inverse=True, return_counts=True)
    middle = np.stack([np.bincount(section, xyz[:, k]) / count for k in range(3)], axis=1)
    inside = xyz - middle[section]
    normal = np.linalg.eigh(inside.T @ inside)[1][:, 0]
    steps = np.diff(np.sort(middle @ normal))
    across = float(np.median(steps)) if len(steps) else 0.0
    largest = xyz[section == count.argmax()]
    some = largest[:: -(-len(largest) // _ROWS)]
    along = float(np.median(cast("Any", spatial).cKDTree(largest).query(some, k=2)[0][:, 1])) if len(some) > 1 else 0.0
    found = 0.75 * float(np.hypot(along, across))
    if not (np.isfinite(found) and found > 0):
        raise Refused("the reach of rows should follow from how far they lie apart.", found="a single row.",
                      do="state it with --within-mm.")  # fmt: skip
    return float(f"{found:.2g}")


def place(table: AnnData, given: Sequence[Given], within_mm: float | None, *, say: Say) -> list[Seen]:
    """Which rows the vertices of each mesh show: those of the brain it is named after, else of every brain in turn.

    Parameters
    ----------
    table : AnnData
        With a column ``predicted``; rows without a prediction are not shown.
    given : sequence of Given
    within_mm : float, optional
        By default, for each brain, `reach_mm`.
    say : Say

    Returns
    -------
    list of Seen

    Raises
    ------
    Refused
        Nothing can be seen on any mesh: another space or unit, no row near enough, brains without a value.
    """
    rows = np.flatnonzero(codes(column(table, "predicted")) >= 0)
    subject = column(table, "subject")
    own = codes(subject)[rows]
    brains = {str(name): rows[own == number] for number, name in enumerate(subject.categories)}
    held = [name for name, some in brains.items() if len(some)]
    found: list[Seen] = []
    failed: Refused | None = None
    reach: dict[str, float] = {}
    for one in given:
        named = one.brain(brains)
        for brain in [named] if named else held:
            if not len(brains[brain]):
                say(f"{one.path.name}: left out, nothing was predicted in {brain}")
                failed = failed or Refused(
                    f"{one.path.name} should be of a brain with predictions.", found=f"none in {brain}.",
                    cause="its rows were not held out.", do="give the mesh of another brain.",
                )  # fmt: skip
                continue
            if within_mm is None and brain not in reach:
                reach[brain] = reach_mm(table, brains[brain])
            most = reach[brain] if within_mm is None else within_mm
            try:
                at = project(table, one.mesh, brains[brain], most, what=f"{one.path.name}, {brain}")
            except Refused as error:
                if named or len(held) == 1:
                    raise
                say(f"{one.path.name}: left out for {brain}; {error.found}")
                failed = error
                continue
            name = one.stem if named else f"{_plain(brain)}_{one.stem}"
            found.append(Seen(name, brain, one, at, len(brains[brain])))
            say(f"{one.path.name}: {surface.summary(at, rows=len(brains[brain]))}")
    if failed is not None and not found:
        raise failed
    return found


def write(out: Path, table: AnnData, score: Any, key: Key, seen: Sequence[Seen]) -> None:
    """Write what was predicted at the vertices: ``<target>_<mesh>.label.gii`` and ``.func.gii``.

    The second holds ``distance_mm``, from a vertex to the row that stands for it, and, where the truth is known,
    ``error``: 1 where the prediction differs from it; NaN where a vertex is blank.
    """
    space = space_of(table)
    said, true = (codes(key_of) for key_of in (column(table, "predicted"), column(table, "truth")))
    names, known = ([str(n) for n in column(table, name).categories] for name in ("predicted", "truth"))
    wrong = np.array([*names, ""], dtype=object)[said] != np.array([*known, ""], dtype=object)[true]
    error = np.where((said >= 0) & (true >= 0), wrong, np.nan)
    for one in seen:
        stem = f"{_plain(score.target)}_{one.name}"
        values, _ = surface.labels_at(table, "predicted", one.at, key)
        about = {
            "space": space.name, "within_mm": f"{one.at.within_mm:g}", "brain": one.brain, "mesh": one.given.path.name,
            "score": _line(score), "split": str(score.split),
        }  # fmt: skip
        gifti.write_labels(out / f"{stem}.label.gii", values, key.mapping, name=score.target, meta=about)
        columns = {"error": error} if np.isfinite(error).any() else {}
        surface.write_numbers(out / f"{stem}.func.gii", columns, one.at)


def draw(
    out: Path, table: AnnData, score: Any, key: Key, seen: Sequence[Seen], *, title: str, home: str = ""
) -> list[tuple[str, str, str]]:
    """Draw the meshes with what was predicted, and what is known, beside it; title, caption and file of each."""
    shown: list[tuple[str, str, str]] = []
    for one in seen[:_DRAWN]:
        mesh = one.given.mesh
        paintings = [surface.classes(title, surface.labels_at(table, "predicted", one.at, key)[0], key)]
        if len(score.truth):
            paintings.append(
                surface.classes("Labels, where known", surface.labels_at(table, "truth", one.at, key)[0], key)
            )
        file = f"surface-{one.name}.png"
        told = surface.summary(one.at, rows=one.rows)
        figure = surface.draw(
            mesh, paintings, views=views(mesh), relief=bending.curvature(mesh).mean,
            title=f"{one.brain} on {one.given.path.name}", note=f"{_line(score)}  ·  {told}",
        )  # fmt: skip
        drawing.save(figure, out / file)
        text = f"{told[:1].upper()}{told[1:]}. {score.split[:1].upper()}{score.split[1:]}."
        if len(seen) > _DRAWN and one is seen[_DRAWN - 1]:
            text += f" {_DRAWN} of {len(seen)} surfaces are drawn; all are in {home}."
        shown.append((f"{one.brain} on its surface: {one.given.path.name}", text, file))
    return shown


def views(mesh: Mesh) -> tuple[View, ...]:
    """From where a mesh is seen: a closed one from both sides, a sheet from straight above itself and aslant."""
    facing = np.nansum(mesh.normals * mesh.areas[:, None], axis=0) / mesh.areas.sum()
    if np.linalg.norm(facing) < 0.3:
        return surface.SIDES
    up = float(np.rad2deg(np.arcsin(np.clip(facing[2] / np.linalg.norm(facing), -1, 1))))
    around = -90.0 if abs(up) > 80 else float(np.rad2deg(np.arctan2(facing[1], facing[0])))
    return View(around, up, "straight on"), View(around + 30, up - 50 if up > 0 else up + 50, "aslant")


def _bent(path: Path) -> str:
    """The word in a file's name that says that the surface was unfolded; empty if there is none."""
    return next((word for word in re.split(r"[^a-z]+", path.name.lower()) if word in _BENT), "")


def _line(score: Any) -> str:
    """Value, interval, size and rivals; remarks have their place in the report."""
    return str(score).partition("\n")[0]


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "_"
