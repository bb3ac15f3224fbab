"""h5ad: features and answers written into a copy of the user's file, by the names of its cells; the rest stays."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import verbs
from brodmann.errors import Corrupt, Refused, Usage
from brodmann.exports import record, tables
from brodmann.exports.answers import Answer, Found
from brodmann.maps import labels

_write: Any = cast("Any", anndata).io.write_elem
_read: Any = cast("Any", anndata).io.read_elem
_ROWS = 65_536
_ENOUGH = 0.5
"""Share of the file's cells, or of the run's rows, that must have the same names."""


def write(found: Found, out: Path, *, onto: Path | None) -> dict[str, Any]:
    """Copy the file and add ``obsm["X_brodmann"]`` (float32), ``obs["brodmann_<target>"]``, ``uns["brodmann"]``.

    Counts are copied as bytes and never read. The order of cells is kept; cells that the run has no row for are NaN.

    Parameters
    ----------
    found : Found
        Of a run of cells.
    out : Path
    onto : Path, optional
        The user's file; by default what the run was made of, where that is one ``.h5ad``.

    Raises
    ------
    Usage
        No file, no run of cells, or a file that holds such an export.
    Refused
        Cells of other names, or links to other files.
    Corrupt
        No AnnData file.
    """
    import h5py

    if found.run.system != "cells":
        raise Usage(
            "h5ad serves runs of cells.", found=f"a run of {found.run.system}.", do="take csv, parquet or vitessce."
        )
    path = _source(found, onto)
    if path.resolve() == out.resolve():
        raise Usage("the copy should not take the place of the original.", found=f"{out} for both.")
    own = names(path)
    row = rows(found, own, path)
    columns = {f"brodmann_{answer.name}".replace("/", "_"): answer for answer in found.answers}
    hit = int((row >= 0).sum())
    details = {
        "copied_from": path.name, "cells": len(own), "cells_with_row": hit, "cells_without_row": len(own) - hit,
        "rows_without_cell": int(found.table.n_obs) - hit,
        "columns": {
            "obsm/X_brodmann": {"unit": "", "shape": [len(own), int(found.table.n_vars)]},
            **{f"obs/{name}": {"unit": answer.unit, "answer": answer.name} for name, answer in columns.items()},
        },
    }  # fmt: skip
    need = path.stat().st_size + 4 * len(own) * (int(found.table.n_vars) + len(columns))
    with record.file(out, what="the copy", need=need) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            taken = [name for name in columns if name in cast("Any", file["obs"])]
            taken += [place for place in ("obsm/X_brodmann", "uns/brodmann") if place in file]
            if taken:
                raise Usage(
                    f"{path.name} should not hold an export yet.", found=", ".join(taken),
                    do="give the file as it was before, with --onto.",
                )  # fmt: skip
            _add(file, found, columns, row, record.record(found, "h5ad", details))
    found.say(f"{hit:,} of {len(own):,} cells have a row; the others are NaN")
    if few := int(found.table.n_obs) - hit:
        found.say(f"{few:,} rows of the run are not in {path.name}")
    return details


def _source(found: Found, onto: Path | None) -> Path:
    """The file to copy."""
    made = cast("Mapping[str, Any]", found.table.uns["brodmann"])
    path = onto or Path(str(made.get("data") or "") or verbs.data_of(found.run))
    if path.suffix != ".h5ad" or not path.is_file():
        raise Usage(
            "the results should go into a copy of an .h5ad file.",
            found=f"{path}." if onto else f"a run made of {path.name}.", do="name the file with --onto FILE.h5ad.",
        )  # fmt: skip
    return path


def names(path: Path) -> pd.Index:
    """Names of a file's cells, in its order; nothing else of it is read.

    Raises
    ------
    Corrupt
        Not an AnnData file.
    Refused
        Data or links that lie in other files, an old layout, or names that repeat.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            for place in ("obs", "obsm", "uns"):
                _inside(file, place, path.name)
            if "obs" not in file or not hasattr(file["obs"], "keys"):
                raise Refused(
                    f"{path.name} should hold AnnData.", found="no group 'obs'.", cause="a file of before anndata 0.7.",
                    do="open it with anndata.read_h5ad and write it again.",
                )  # fmt: skip
            index = str(file["obs"].attrs.get("_index", "_index"))
            found = pd.Index(np.asarray(_read(cast("Any", file["obs"])[index])).astype(str))
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        raise Corrupt(f"{path.name} should be AnnData.", found=f"{type(error).__name__}: {str(error)[:200]}") from error
    if found.has_duplicates:
        raise Refused(
            f"cells of {path.name} should have names of their own.",
            found=f"'{found[found.duplicated()][0]}' more than once.", do="make them unique and fit again.",
        )  # fmt: skip
    return found


def _inside(group: Any, place: str, name: str) -> None:
    """Refuse what a file keeps elsewhere: a link or an external dataset could name any file of this machine."""
    import h5py

    link = group.get(place, getlink=True) if place in group or place in list(group) else None
    if isinstance(link, h5py.ExternalLink):
        raise Refused(f"{name} should hold its own data.", found=f"'{place}' is a link to another file.")
    if link is None:
        return
    member = group[place]
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise Refused(f"{name} should hold its own data.", found=f"'{place}' lies in another file.")
    if isinstance(member, h5py.Group):
        for inner in member:
            _inside(member, str(inner), name)


def rows(found: Found, own: pd.Index, path: Path) -> NDArray[np.int64]:
    """Row of the run for each cell of the file, -1 where there is none.

    Raises
    ------
    Refused
        Less than half of either side has a partner, or names are numbers and the cells lie elsewhere.
    """
    index = labels.ids(found.table)
    row = np.asarray(index.get_indexer(cast("Any", own)), np.int64)
    hit = int((row >= 0).sum())
    if hit < _ENOUGH * len(own) and hit < _ENOUGH * len(index):
        raise Refused(
            f"cells of {path.name} should have the names of the run's rows.",
            found=f"{hit:,} of {len(own):,} do: the file names '{own[0]}', the run '{index[0]}'.",
            cause="another file, or names that were changed since.", do="give the file that the run was made of.",
        )  # fmt: skip
    if all(str(name).isdigit() for name in own[:100]):
        _placed(found, row, path)
    return row


def _placed(found: Found, row: NDArray[np.int64], path: Path) -> None:
    """Refuse a file whose cells are numbered like the run's, and lie elsewhere: numbers fit every file."""
    import h5py

    with h5py.File(path, "r") as file:
        stored: Any = file.get("obsm/spatial")
        if not isinstance(stored, h5py.Dataset) or stored.ndim != 2 or stored.shape[1] < 2:
            found.say(f"{path.name} numbers its cells and has no obsm['spatial']: that they are the run's is unchecked")
            return
        xy = np.asarray(stored[:, :2], np.float64)[row >= 0]
    obs, here = found.obs.iloc[row[row >= 0]], labels.column(found.table, "section")[row[row >= 0]]
    for number, section in enumerate(here.categories):
        some = labels.codes(here) == number
        if some.sum() < 3:
            continue
        for axis, name in enumerate(("x_um", "y_um")):
            there, said = xy[some, axis], np.asarray(obs[name])[some].astype(np.float64)
            if np.ptp(said) and not (np.ptp(there) and np.corrcoef(there, said)[0, 1] > 0.99):
                raise Refused(
                    f"cells of {path.name} should lie where the run's rows of the same number lie.",
                    found=f"they do not, on section '{section}'.", cause="another file: numbers as names fit any.",
                    do="give the file that the run was made of.",
                )  # fmt: skip


def _add(file: Any, found: Found, columns: Mapping[str, Answer], row: NDArray[np.int64], about: str) -> None:
    """Write the new elements, and nothing else, into an open copy."""
    obs = file["obs"]
    listed = [str(name) for name in obs.attrs.get("column-order", [])]
    uns: dict[str, Any] = {"record": about}
    for name, answer in columns.items():
        values = tables.series(answer)
        if isinstance(values, np.ndarray):
            _write(obs, name, np.append(values, np.float32(np.nan))[row])
        else:
            code = np.append(labels.codes(values), -1)[row]
            _write(obs, name, pd.Categorical.from_codes(cast("Any", code), categories=values.categories))
            uns[f"{name}_colors"] = np.array([answer.palette[str(one)] for one in values.categories], dtype=object)
        listed.append(name)
    obs.attrs["column-order"] = np.array(listed, dtype=object)
    for group in ("obsm", "uns"):
        if group not in file:
            _write(file, group, {})
    _write(file["uns"], "brodmann", {"record": uns.pop("record")})
    for name, colours in uns.items():
        if name not in file["uns"]:
            _write(file["uns"], name, colours)
    x = cast("Any", found.table.X)
    stored = file["obsm"].create_dataset(
        "X_brodmann", shape=(len(row), x.shape[1]), dtype=np.float32, fillvalue=np.nan,
        chunks=(min(len(row), 4096), x.shape[1]),
    )  # fmt: skip
    stored.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start in range(0, len(row), _ROWS):
        some = row[start : start + _ROWS]
        block = np.asarray(x[np.maximum(some, 0)], np.float32)
        block[some < 0] = np.nan
        stored[start : start + _ROWS] = block
