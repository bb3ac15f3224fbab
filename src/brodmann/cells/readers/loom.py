"""Loom (linnarssonlab.org/loompy/format): HDF5 with genes along rows and cells along columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cells.columns import as_bytes
from brodmann.cells.readers.part import Dense, Part, Table, tidy
from brodmann.cells.readers.sidecar import Stated
from brodmann.errors import Corrupt, Refused

_CELLS = ("CellID", "cell_id", "obs_names", "Cell", "ID")
_GENES = ("Gene", "gene", "Genes", "var_names", "Accession")


def read(path: Path, stated: Stated) -> Part:
    """Open a ``.loom``: attributes are loaded, counts stay on disk.

    Raises
    ------
    Corrupt
        Not a loom file.
    """
    import h5py

    try:
        file: Any = h5py.File(path, "r")
    except OSError as error:
        raise Corrupt(f"{path.name} should be an HDF5 file.", found=str(error)[:200]) from error
    try:
        if "matrix" not in file or "col_attrs" not in file or "row_attrs" not in file:
            raise Refused(f"{path.name} should be a loom file.", found=f"groups {', '.join(sorted(file))}.")
        return _part(file, path, stated)
    except BaseException:
        file.close()
        raise


def _part(file: Any, path: Path, stated: Stated) -> Part:
    n, width = int(file["matrix"].shape[1]), int(file["matrix"].shape[0])
    about = {key: _values(file["col_attrs"][key]) for key in file["col_attrs"]}
    rows = {key: _values(file["row_attrs"][key]) for key in file["row_attrs"]}
    key = next((key for key in (stated.id, *_CELLS) if key in about), None)
    ids = as_bytes([f"{path.stem}/{i}" for i in range(n)] if key is None else list(map(str, about[key])))
    named = next((name for name in (stated.gene_column, *_GENES) if name in rows and rows[name].ndim == 1), None)
    if named is None:
        raise Refused(
            f"{path.name} should name its genes.",
            found=f"row attributes {', '.join(rows) or 'none'}.",
            do='name one: "gene_column" in cells.json.',
        )
    var = pd.DataFrame(
        {key: rows[key] for key in rows if rows[key].ndim == 1}, index=pd.Index(list(map(str, rows[named])))
    )
    tables: dict[str, tuple[Table, pd.DataFrame]] = {}
    if width:
        tables["X"] = Dense(file["matrix"], cells_last=True), var
        for layer in file.get("layers", {}):
            tables[f"layers/{layer}"] = Dense(file["layers"][layer], cells_last=True), var
    if stated.counts is not None:
        if stated.counts not in tables:
            raise Refused(f"{path.name} should hold counts at '{stated.counts}'.", found=", ".join(tables) or "none.")
        tables = {stated.counts: tables[stated.counts]}
    notes: list[str] = []
    columns = tidy({k: v for k, v in about.items() if v.ndim == 1 and k != key}, notes, name=path.name, n=n)
    arrays = {k: v.astype(np.float64) for k, v in about.items() if v.ndim == 2 and v.shape[1] >= 2}
    return Part(path.name, path.stem, ids, columns, arrays, tables, notes=notes, close=file.close)


def _values(stored: Any) -> NDArray[Any]:
    values = np.asarray(stored[:])
    if values.dtype.kind in "SO":
        flat = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in values.ravel()]
        return np.array(flat, object).reshape(values.shape)
    return values
