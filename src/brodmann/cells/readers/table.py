"""CSV: a row per cell with coordinates, types and labels; counts in a second file, or none.

Files of the Single Cell Portal carry a second header row that begins with ``TYPE`` and says ``numeric`` or ``group``.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cells.columns import as_bytes
from brodmann.cells.readers import sidecar
from brodmann.cells.readers.part import Loaded, Part, tidy
from brodmann.cells.readers.sidecar import Stated
from brodmann.errors import Corrupt, Refused

CHUNK = 250_000
_IDS = ("cell_label", "cell_id", "cell", "name", "entityid", "id", "barcode", "cell_name", "index", "", "unnamed: 0")


def read(path: Path, stated: Stated) -> Part:
    """Open a table of cells.

    Raises
    ------
    Refused
        No such columns, or counts of other cells.
    Corrupt
        Not a CSV table.
    """
    notes: list[str] = []
    ids, columns = load(path, key=stated.id, notes=notes)
    part = Part(path.name, path.name.removesuffix(".gz").removesuffix(".csv"), ids, columns, notes=notes)
    if stated.counts is not None:
        _with_counts(part, sidecar.inside(path.parent, stated.counts))
    return part


def load(path: Path, *, key: str | None = None, notes: list[str]) -> tuple[NDArray[np.bytes_], pd.DataFrame]:
    """Names of cells, and their columns: text as categories, numbers as such; read in pieces.

    Parameters
    ----------
    path : Path
    key : str, optional
        Column with the names; a known one by default, else cells are numbered.
    notes : list of str
        Grows by what was left out.
    """
    header, second = _head(path)
    if key is not None and key not in header:
        raise Refused(f"{path.name} should have column '{key}'.", found=", ".join(header[:12]))
    known = {name.lower(): name for name in reversed(header)}
    key = key if key is not None else next((known[name] for name in _IDS if name in known), None)
    typed = bool(second) and second[0].upper() == "TYPE"
    kinds: dict[Any, Any] = {}
    if typed:
        kinds = {name: str for name, kind in zip(header, second, strict=False) if kind.lower() == "group"}
    if key is not None:
        kinds[key or f"Unnamed: {header.index(key)}"] = str
    pieces: list[pd.DataFrame] = []
    try:
        reader: Any = cast("Any", pd).read_csv(
            path, chunksize=CHUNK, dtype=kinds, skiprows=[1] if typed else None, low_memory=False
        )
        for piece in reader:
            pieces.append(piece)
            text = [name for name in piece if piece[name].dtype == object and str(name) != str(key)]
            pieces[-1] = piece.astype(dict.fromkeys(text, "category"))
    except (ValueError, OSError, EOFError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path.name} should be a CSV table.", found=str(error)[:200]) from error
    if not pieces or not sum(map(len, pieces)):
        raise Refused(f"{path.name} should hold cells.", found="a header only.")
    own = None if key is None else pieces[0].columns[header.index(key)]
    n = sum(map(len, pieces))
    if own is None:
        stem = path.name.split(".")[0]
        ids = as_bytes([f"{stem}/{row}" for row in range(n)])
        notes.append(f"{path.name}: no column names the cells; they are numbered")
    else:
        ids = np.concatenate([as_bytes(piece[own].astype(str).tolist()) for piece in pieces])
    columns = {name: _joined([piece[name] for piece in pieces]) for name in pieces[0].columns if name != own}
    return ids, tidy(columns, notes, name=path.name, n=n)


def _joined(pieces: list[Any]) -> Any:
    """One column of all pieces; text in one of them makes it text in all."""
    if not any(isinstance(piece.dtype, pd.CategoricalDtype) for piece in pieces):
        return pd.concat(pieces, ignore_index=True)
    coded = [
        piece
        if isinstance(piece.dtype, pd.CategoricalDtype)
        else piece.astype(object).where(piece.notna(), None).map(str, na_action="ignore").astype("category")
        for piece in pieces
    ]
    texts = [piece.cat.rename_categories(list(map(str, piece.cat.categories))) for piece in coded]
    return pd.api.types.union_categoricals(cast("Any", texts))


def _head(path: Path) -> tuple[list[str], list[str]]:
    """Header and first row."""
    try:
        with _text(path) as file:
            rows = csv.reader(file)
            header = next(rows, [])
            return [name.strip("\ufeff") for name in header], next(rows, [])
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise Corrupt(f"{path.name} should be a CSV table.", found=str(error)[:200]) from error


def _text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8", newline=""))
    return path.open(encoding="utf-8", newline="")


def _with_counts(part: Part, path: Path) -> None:
    """Counts from a table of cells x genes (Vizgen: ``cell_by_gene.csv``), first column the names of cells."""
    from scipy import sparse

    header, _ = _head(path)
    ids: list[NDArray[np.bytes_]] = []
    blocks: list[Any] = []
    step = max(1, 30_000_000 // max(len(header), 1))
    try:
        for piece in cast("Any", pd).read_csv(path, chunksize=step, dtype={header[0] or 0: str}, low_memory=False):
            ids.append(as_bytes(piece.iloc[:, 0].astype(str).tolist()))
            blocks.append(sparse.csr_matrix(piece.iloc[:, 1:].to_numpy(np.float32)))
    except (ValueError, OSError, EOFError) as error:
        raise Corrupt(f"{path.name} should be a table of numbers.", found=str(error)[:200]) from error
    if not blocks:
        raise Refused(f"{path.name} should hold counts.", found="a header only.")
    names = np.concatenate(ids)
    order = np.argsort(names, kind="stable")
    place = np.minimum(np.searchsorted(names[order], part.ids), len(names) - 1)
    rows = order[place]
    lacking = names[rows] != part.ids
    if lacking.any():
        raise Refused(
            f"{path.name} should hold the counts of every cell of {part.name}.",
            found=f"{int(lacking.sum()):,} of {len(part):,} are not there, e.g. '{part.ids[lacking][0].decode()}'.",
        )
    part.tables["X"] = (
        Loaded(cast("Any", sparse.vstack(blocks, format="csr"))[rows]),
        pd.DataFrame(index=pd.Index(header[1:])),
    )
