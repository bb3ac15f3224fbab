"""Allen Brain Cell Atlas: expression matrices joined with tables of cells by ``cell_label``.

A folder with ``cell_metadata*.csv`` (brain_section_label, donor_label, x and y in mm of the section), any number of
``.h5ad`` of raw counts (one per data set or per section), and optionally ``ccf_coordinates.csv``, tables of cluster
annotation (by ``cluster_alias``) and of parcellation terms (by ``parcellation_index``).

Source: https://alleninstitute.github.io/abc_atlas_access; Yao et al. 2023, Zhang et al. 2023 (Nature 624).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cells.readers import h5ad, table
from brodmann.cells.readers.part import Part
from brodmann.cells.readers.sidecar import Stated
from brodmann.errors import BrodmannError, Refused

KEY = "cell_label"
_CCF = "ccf_coordinates"
_RENAMED = {"x": "x_ccf", "y": "y_ccf", "z": "z_ccf"}
_TERMS = ("parcellation_index", "cluster_alias")


def is_atlas(folder: Path) -> bool:
    """Whether a folder has the atlas' layout."""
    return any(_csv(folder, "cell_metadata*"))


def read(folder: Path, files: list[Path], stated: Stated, skipped: list[tuple[str, str]]) -> list[Part]:
    """Open the matrices of a folder, each with the rows of the table of cells that belong to it.

    Raises
    ------
    Refused
        No matrix holds cells of the table.
    """
    notes: list[str] = []
    labels, about = _cells(folder, notes)
    order = np.argsort(labels, kind="stable")
    ordered: Any = labels[order]
    if (twice := np.flatnonzero(ordered[1:] == ordered[:-1])).size:
        raise Refused(
            f"tables of cells in {folder.name} should list each {KEY} once.",
            found=f"{len(twice):,} occur again, e.g. '{ordered[twice[0]].decode()}'.",
        )
    parts: list[Part] = []
    seen = np.zeros(len(labels), bool)
    logs = {path.name.replace("-raw", "-log2") for path in files}
    for path in files:
        if path.suffix != ".h5ad":
            continue
        if path.name in logs and path.name != path.name.replace("-log2", "-raw"):
            skipped.append((path.name, "the same cells lie in the file of raw counts"))
            continue
        try:
            part = h5ad.read(path, stated)
        except BrodmannError as error:
            skipped.append((path.name, str(error)))
            continue
        place = np.minimum(np.searchsorted(ordered, part.ids), len(ordered) - 1)
        known = ordered[place] == part.ids
        if not known.any():
            part.close()
            skipped.append((path.name, "none of its cells is in the table of cells"))
            continue
        rows = np.where(known, order[place], 0)
        part.columns = about.iloc[rows].reset_index(drop=True)
        part.keep, part.arrays, part.hint = known, {}, "mm"
        if not known.all():
            part.notes.append(f"{path.name}: {int((~known).sum()):,} cells are not in the table of cells; left out")
        seen[rows[known]] = True
        parts.append(part)
    if not parts:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        raise Refused(
            f"{folder.name} should hold expression matrices of the cells in cell_metadata.csv.",
            found=reasons or "no .h5ad file.",
            do="put the -raw.h5ad files beside the tables.",
        )
    if not seen.all():
        notes.append(f"{int((~seen).sum()):,} of {len(labels):,} cells of the table have no counts here; left out")
    parts[0].notes[:0] = notes
    return parts


def _csv(folder: Path, pattern: str) -> list[Path]:
    return sorted({*folder.glob(f"{pattern}.csv"), *folder.glob(f"{pattern}.csv.gz")})


def _cells(folder: Path, notes: list[str]) -> tuple[NDArray[np.bytes_], pd.DataFrame]:
    """All that the folder's tables say of cells; the table with the most rows decides which cells there are."""
    tables = [(path, *table.load(path, key=KEY, notes=notes)) for path in _csv(folder, "cell_metadata*")]
    tables.sort(key=lambda item: -len(item[1]))
    for path in _csv(folder, f"{_CCF}*"):
        ids, columns = table.load(path, key=KEY, notes=notes)
        tables.append((path, ids, columns.rename(columns=_RENAMED)))
    _, labels, about = tables[0]
    for _, ids, columns in tables[1:]:
        about = _joined(about, columns, _rows(ids, labels))
    for term in _TERMS:
        if term not in about:
            continue
        for path in sorted(set(folder.glob("*.csv")) - {path for path, _, _ in tables}):
            with path.open(encoding="utf-8") as file:
                header = file.readline().strip().split(",")
            if header[0] != term or "color" in path.stem:
                continue
            ids, columns = table.load(path, key=term, notes=notes)
            wanted: Any = about[term].astype(object)
            keys = np.array(["" if pd.isna(value) else _plain(value) for value in wanted], np.bytes_)
            about = _joined(about, columns, _rows(ids, keys))
    drop = [name for name in about if str(name).endswith("_color")]
    return labels, about.drop(columns=drop)


def _plain(value: Any) -> bytes:
    return (str(int(value)) if isinstance(value, float) else str(value)).encode()


def _rows(ids: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Row of each wanted name; -1 where it is not there."""
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)
    return np.where(ids[order][place] == wanted, order[place], -1)


def _joined(about: pd.DataFrame, columns: pd.DataFrame, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Columns that are not known yet, put beside the known ones; missing where there is no row."""
    fresh: Any = columns[[name for name in columns if name not in about.columns]]
    taken = fresh.take(np.maximum(rows, 0)).reset_index(drop=True)
    lacking = rows < 0
    for name in taken.columns if lacking.any() else ():
        values = taken[name]
        if isinstance(values.dtype, pd.CategoricalDtype):
            codes = np.where(lacking, -1, values.cat.codes)
            taken[name] = pd.Categorical.from_codes(codes, dtype=values.dtype)
        else:
            taken[name] = values.where(~lacking)
    return pd.concat([about, taken], axis=1)
