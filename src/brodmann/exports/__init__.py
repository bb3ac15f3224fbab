"""Exports: results in the tools that people already use. Each format is one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, get_args

from brodmann import atomic, verbs
from brodmann.errors import Usage
from brodmann.exports import answers, record
from brodmann.exports.answers import Found
from brodmann.progress import Say
from brodmann.run import Run

Format = Literal["csv", "geojson", "gifti", "h5ad", "nifti", "ome-zarr", "parquet", "precomputed", "vitessce"]

_USED: dict[str, tuple[str, ...]] = {
    "csv": ("features",), "geojson": ("pixel_um",), "gifti": ("onto", "within_mm"), "h5ad": ("onto",),
    "nifti": ("voxel_mm",), "ome-zarr": ("pixel_um",), "parquet": ("features",), "precomputed": ("voxel_mm", "url"),
    "vitessce": ("url",),
}  # fmt: skip
_FILES = ("csv", "parquet", "h5ad")
"""Formats of one file; others are folders, with a file for each section or brain."""
_MANY = ("csv", "parquet", "h5ad", "vitessce")
"""Formats that hold several targets."""


def export(
    run: Run | str | Path,
    to: Format,
    out: str | Path,
    *,
    target: str | None = None,
    onto: str | Path | None = None,
    pixel_um: float | None = None,
    voxel_mm: float | None = None,
    within_mm: float | None = None,
    features: bool = False,
    url: str | None = None,
    replace: bool = False,
    quiet: bool = False,
) -> Path:
    """Write what a run has found in a form that other tools read.

    Beside it, or in its folder, lies a record: the space with its unit and orientation, what each column or file is,
    and each answer's score with n, interval, split and baselines.

    Parameters
    ----------
    run : Run or path
        With a feature table and a score.
    to : {"csv", "geojson", "gifti", "h5ad", "nifti", "ome-zarr", "parquet", "precomputed", "vitessce"}
        ``ome-zarr``: a label pyramid for each section. ``nifti``: a volume for each brain, with a lookup table.
        ``gifti``: values of the vertices of a mesh. ``precomputed``: a neuroglancer segmentation for each brain, and
        the state that opens it. ``geojson``: polygons of each section, as QuPath reads them. ``h5ad``: features and
        answers in a copy of the file of cells. ``vitessce``: a view config and what it shows. ``csv``, ``parquet``: a
        table.
    out : path
        A file for csv, parquet and h5ad, else a folder.
    target : str, optional
        What was scored: a label, ``domain_<k>`` or ``domains``, ``novelty-<label>``, a property. Tables, h5ad and
        vitessce hold all by default; the others hold one.
    onto : path, optional
        h5ad: the file to copy (by default the run's own); gifti: the mesh.
    pixel_um : float, optional
        ome-zarr: pixel size of the finest level. geojson: that of the image for which the polygons are.
    voxel_mm : float, optional
        nifti, precomputed: side of a voxel.
    within_mm : float, optional
        gifti: how far from a vertex the place may lie whose value it takes.
    features : bool
        csv, parquet: also a column for each feature.
    url : str, optional
        precomputed, vitessce: where the folder will be served; by default ``http://localhost:8000``.
    replace : bool
        Replace an earlier export at ``out``; anything else there is never touched.
    quiet : bool
        Say nothing.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    Usage
        An unknown format, a setting that it does not use, several targets for a format of one, or something at ``out``.
    Refused
        What the format cannot hold: numbers as polygons, volumes of sections that share no space.
    """
    if to not in get_args(Format):
        raise Usage(f"'{to}' should be a format.", found="none of that name.", do=f"one of {', '.join(_USED)}.")
    given = {"onto": onto, "pixel_um": pixel_um, "voxel_mm": voxel_mm, "within_mm": within_mm, "url": url}
    idle = [name for name, value in {**given, "features": features or None}.items() if value is not None]
    if idle := [name for name in idle if name not in _USED[to]]:
        raise Usage(
            f"{to} takes no {', '.join(idle)}.",
            found="settings of another format.",
            do=f"leave it out; {to} takes {', '.join(_USED[to]) or 'none'}.",
        )
    for name, unit in (("pixel_um", "um"), ("voxel_mm", "mm"), ("within_mm", "mm")):
        record.positive(cast("Any", given[name]), name, unit)
    path = Path(out).absolute()
    record.admit(path, folder=to not in _FILES, replace=replace)
    say, run = Say(quiet=quiet), run if isinstance(run, Run) else verbs.load(run)
    table = verbs.table(run)
    found = Found(run, table, answers.chosen(run, table, target, one=to not in _MANY, say=say), say)
    other = Path(onto).absolute() if onto is not None else None
    if to in _FILES:
        _file(found, to, path, onto=other, features=features)
        return path
    with atomic.folder(path, what="the export") as partial:
        details = _folder(found, to, partial, given=given, onto=other)
        (partial / record.NAME).write_text(record.record(found, to, details), encoding="utf-8")
    return path


def _file(found: Found, to: str, path: Path, *, onto: Path | None, features: bool) -> None:
    """Write a format of one file, then its record."""
    if to == "h5ad":
        from brodmann.exports import h5ad

        details = h5ad.write(found, path, onto=onto)
    else:
        from brodmann.exports import tables

        details = tables.write(found, path, cast("Any", to), features=features)
    atomic.write_text(record.beside(path), record.record(found, to, details))


def _folder(found: Found, to: str, partial: Path, *, given: dict[str, Any], onto: Path | None) -> dict[str, Any]:
    """Write a format of several files into a folder; returns what the record says of them."""
    if to == "gifti":
        from brodmann.exports import gifti

        return gifti.write(found, partial, onto=onto, within_mm=given["within_mm"])
    if to == "vitessce":
        from brodmann.exports import vitessce

        return vitessce.write(found, partial, url=given["url"])
    if to == "precomputed":
        from brodmann.exports import precomputed

        return precomputed.write(found, partial, voxel_mm=given["voxel_mm"], url=given["url"])
    if to == "nifti":
        from brodmann.exports import nifti

        return nifti.write(found, partial, voxel_mm=given["voxel_mm"])
    if to == "geojson":
        from brodmann.exports import geojson

        return geojson.write(found, partial, pixel_um=given["pixel_um"])
    from brodmann.exports import omezarr

    return omezarr.write(found, partial, pixel_um=given["pixel_um"])
