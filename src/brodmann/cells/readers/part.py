"""One file's cells as every format gives them: names, columns, places, and counts that are read by rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cells.columns import LIMIT_NAMES, is_number
from brodmann.cells.counts import Rows
from brodmann.errors import Corrupt, Refused

_ENTRIES = 1 << 23
LIMIT_TURNED = 400_000_000
"""Entries of a matrix stored by columns that are turned into rows in memory (about 6 GB)."""


class Table(Protocol):
    """Counts of one file, read by rows."""

    width: int

    def __len__(self) -> int: ...

    def stop(self, start: int) -> int:
        """End of the block that begins at ``start``."""
        ...

    def rows(self, start: int, stop: int) -> Rows:
        """Rows ``start .. stop - 1``."""
        ...


@dataclass
class Part:
    """Cells of one file.

    Parameters
    ----------
    name : str
        The file, for messages.
    stem : str
        Name of its section when no column says it.
    ids : ndarray (n,) of bytes
        Names of the cells, UTF-8.
    columns : DataFrame
        n rows: text as categories, numbers.
    arrays : dict of ndarray (n, 2 or 3)
        Where coordinates may be, by name, the likeliest first.
    tables : dict of (Table, DataFrame)
        Where raw counts may be, the likeliest first, each with its genes (index: names).
    hint : {"um", "mm"} or None
        Unit of coordinates by definition of the format.
    keep : ndarray (n,) bool or None
        Rows to read; all by default.
    notes : list of str
        Remarks on how the file was read.
    close : callable
        Lets go of the file.
    """

    name: str
    stem: str
    ids: NDArray[np.bytes_]
    columns: pd.DataFrame
    arrays: dict[str, NDArray[np.float64]] = field(default_factory=dict[str, Any])
    tables: dict[str, tuple[Table, pd.DataFrame]] = field(default_factory=dict[str, Any])
    hint: Literal["um", "mm"] | None = None
    keep: NDArray[np.bool_] | None = None
    notes: list[str] = field(default_factory=list[str])
    close: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        n = len(self.ids)
        held = {"columns": len(self.columns), **{name: len(array) for name, array in self.arrays.items()}}
        held |= {name: len(table) for name, (table, _) in self.tables.items()}
        held |= {f"genes of {name}": n + len(v) - t.width for name, (t, v) in self.tables.items()}
        wrong = [name for name, length in held.items() if length != n]
        if wrong:
            raise Corrupt(f"{self.name} should hold {n:,} cells throughout.", found=f"{', '.join(wrong)} differ.")

    def __len__(self) -> int:
        return len(self.ids)


class Sparse:
    """CSR on disk (h5 or zarr); only ``indptr`` is loaded."""

    def __init__(self, indptr: Any, indices: Any, data: Any, *, width: int, name: str) -> None:
        self._indptr = np.asarray(indptr[:], np.int64)
        self._indices, self._data, self.width = indices, data, width
        entries = int(indices.shape[0])
        ends = self._indptr
        if not len(ends) or ends[0] != 0 or ends[-1] != entries or (np.diff(ends) < 0).any():
            raise Corrupt(f"{name} should be CSR.", found="indptr that does not fit its entries.")
        if int(data.shape[0]) != entries:
            raise Corrupt(f"{name} should be CSR.", found=f"{data.shape[0]:,} values of {entries:,} entries.")

    def __len__(self) -> int:
        return len(self._indptr) - 1

    def stop(self, start: int) -> int:
        """End of a block of about eight million entries."""
        found = int(np.searchsorted(self._indptr, self._indptr[start] + _ENTRIES, side="right")) - 1
        return min(max(found, start + 1), start + (1 << 18), len(self))

    def rows(self, start: int, stop: int) -> Rows:
        """Rows, read from disk."""
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        column, value = self._indices[first:last], self._data[first:last]
        return Rows(self._indptr[start : stop + 1] - first, np.asarray(column), np.asarray(value))


class Dense:
    """A dense array (h5, zarr or memory), cells along rows, or along columns as in loom."""

    def __init__(self, array: Any, *, cells_last: bool = False) -> None:
        self._array, self._cells_last = array, cells_last
        n, self.width = array.shape[::-1] if cells_last else array.shape
        self._n = int(n)

    def __len__(self) -> int:
        return self._n

    def stop(self, start: int) -> int:
        """End of a block of about eight million values."""
        return min(start + max(_ENTRIES // max(self.width, 1), 64), self._n)

    def rows(self, start: int, stop: int) -> Rows:
        """Rows without their zeros."""
        block = np.asarray(self._array[:, start:stop]).T if self._cells_last else np.asarray(self._array[start:stop])
        row, column = np.nonzero(block)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=stop - start))])
        return Rows(indptr.astype(np.int64), column.astype(np.int32), block[row, column])


class Loaded:
    """A scipy matrix in memory, or anything whose slices of rows are one."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix.tocsr() if getattr(matrix, "format", "") not in {"csr", ""} else matrix
        self._n, self.width = map(int, matrix.shape)

    def __len__(self) -> int:
        return self._n

    def stop(self, start: int) -> int:
        """End of a block of about eight million values, were they dense."""
        return min(start + max(_ENTRIES // max(self.width, 1), 64), self._n)

    def rows(self, start: int, stop: int) -> Rows:
        """Rows of the matrix."""
        block = self._matrix[start:stop].tocsr()
        block.sum_duplicates()
        return Rows(np.asarray(block.indptr, np.int64), block.indices, block.data)


def turned(indptr: Any, indices: Any, data: Any, *, shape: tuple[int, int], name: str) -> Loaded:
    """CSC on disk, turned into rows in memory.

    Raises
    ------
    Refused
        If it is too large for that.
    """
    from scipy import sparse

    entries = int(indices.shape[0])
    if entries > LIMIT_TURNED:
        raise Refused(
            f"{name} should be stored by rows (CSR).",
            found=f"columns (CSC) with {entries:,} entries.",
            do="save it with adata.X = adata.X.tocsr() on a machine with memory for it.",
        )
    return Loaded(sparse.csc_matrix((data[:], indices[:], indptr[:]), shape=shape).tocsr())


def tidy(columns: dict[str, Any], notes: list[str], *, name: str, n: int) -> pd.DataFrame:
    """Columns as categories and numbers; columns of identifiers and of anything else are left out and noted."""
    kept: dict[str, Any] = {}
    for key, values in columns.items():
        series = pd.Series(values).reset_index(drop=True)
        kind = series.dtype
        if isinstance(kind, pd.CategoricalDtype):
            series = series.cat.remove_unused_categories()
        elif not is_number(series):
            try:
                text = cast("Any", series.astype(object)).where(series.notna(), None)
                series = text.map(_text, na_action="ignore").astype("category")
            except TypeError:
                notes.append(f"{name}: column '{key}' is neither text nor numbers; left out")
                continue
        if isinstance(series.dtype, pd.CategoricalDtype) and len(series.cat.categories) > LIMIT_NAMES:
            notes.append(f"{name}: column '{key}' holds {len(series.cat.categories):,} different names; left out")
            continue
        kept[str(key)] = series
    return pd.DataFrame(kept, index=range(n), copy=False)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
