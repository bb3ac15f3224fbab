"""Columns that grow on disk and are mapped when read: arrays, names as codes, labels of both kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused

LIMIT_NAMES = 32_767
"""Different values of a column of names; codes are int16."""
MISSING = frozenset({"", "nan", "NaN", "NA", "N/A", "None", "<NA>"})
"""What writers put where nothing is known."""


class Stream:
    """One array in a file, appended to; its hash grows with it.

    Parameters
    ----------
    folder : Path
    key : str
        Name of the file, without ``.bin``.
    kind : dtype
    shape : tuple of int
        Of one row.
    """

    def __init__(self, folder: Path, key: str, kind: Any, shape: tuple[int, ...] = ()) -> None:
        self._path, self._kind, self._shape = folder / f"{key}.bin", np.dtype(kind), shape
        self._file = self._path.open("wb")
        self._hash = hashlib.blake2b(digest_size=16)
        self.rows = 0

    def add(self, values: NDArray[Any]) -> None:
        """Append rows."""
        block = np.ascontiguousarray(values, self._kind)
        if block.size:
            view = memoryview(cast("Any", block)).cast("B")
            self._file.write(view)
            self._hash.update(view)
        self.rows += len(block)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def map(self) -> NDArray[Any]:
        """Open what was written."""
        if not self._file.closed:
            self._file.flush()
        return _mapped(self._path, self._kind, (self.rows, *self._shape))

    def about(self) -> list[Any]:
        """Type, shape and hash, for the manifest."""
        return [self._kind.str, [self.rows, *self._shape], self._hash.hexdigest()]

    @staticmethod
    def read(folder: Path, key: str, said: list[Any], *, verify: bool) -> NDArray[Any]:
        """Map an array after comparing its size, and its hash if asked."""
        kind, shape, expected = np.dtype(said[0]), tuple(map(int, said[1])), str(said[2])
        path = folder / f"{key}.bin"
        size, due = path.stat().st_size, kind.itemsize * int(np.prod(shape))
        if size != due:
            raise ValueError(f"{path.name} has {size:,} of {due:,} bytes")
        if verify:
            digest = hashlib.blake2b(digest_size=16)
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
            if digest.hexdigest() != expected:
                raise ValueError(f"{path.name} does not match its checksum")
        return _mapped(path, kind, shape)


class Names:
    """Numbers for names, in the order in which they appear; -1 where nothing is known."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.asked = False

    def codes(self, values: Any) -> NDArray[np.int16]:
        """Codes (n,) of a Series."""
        self.asked = True
        series = pd.Series(values)
        own = series.cat if isinstance(series.dtype, pd.CategoricalDtype) else series.astype("category").cat
        places = np.full(len(own.categories) + 1, -1, np.int16)
        for place, name in enumerate(map(str, own.categories)):
            if name in MISSING:
                continue
            if len(self.known) >= LIMIT_NAMES and name not in self.known:
                raise Refused(
                    f"a column of names should hold at most {LIMIT_NAMES:,} different ones.",
                    found=f"more in '{series.name}'.",
                    cause="a column of identifiers.",
                    do='leave it out: list the ones you need in "labels" of cells.json.',
                )
            places[place] = self.known.setdefault(name, len(self.known))
        return places[np.asarray(own.codes, np.int64)]


class Column:
    """One label of all cells: names as codes, or numbers.

    Parameters
    ----------
    folder : Path
    number : int
        Of its file; names of columns are not names of files.
    values : Series
        The first section's, which decide the kind.
    missing : int
        Rows before this section, of which nothing is known.
    """

    def __init__(self, folder: Path, number: int, values: pd.Series, *, missing: int) -> None:
        self.named = not is_number(values)
        self._names = Names()
        self._key = f"label-{number:03d}"
        self._kind = np.dtype(np.int16 if self.named else np.float32 if values.dtype == np.float32 else np.float64)
        self.stream = Stream(folder, self._key, self._kind)
        self.absent(missing)

    def add(self, values: pd.Series) -> None:
        """Append rows."""
        if self.named:
            self.stream.add(self._names.codes(values))
        elif is_number(values):
            self.stream.add(cast("Any", values).to_numpy(self._kind, na_value=np.nan))
        else:
            raise Refused(f"column '{values.name}' should be numbers in all sections.", found="text in some.")

    def absent(self, n: int) -> None:
        """Append rows of which nothing is known."""
        self.stream.add(np.full(n, -1 if self.named else np.nan))

    def about(self) -> Mapping[str, Any]:
        """File, categories and checksum, for the manifest."""
        return {
            "key": self._key,
            "categories": list(self._names.known) if self.named else None,
            "array": self.stream.about(),
        }

    @staticmethod
    def read(folder: Path, said: Mapping[str, Any], *, verify: bool) -> Callable[[], Any]:
        """Map a label; what is returned makes the pandas column."""
        values = Stream.read(folder, str(said["key"]), said["array"], verify=verify)
        if said["categories"] is None:
            return lambda: values
        kind = pd.CategoricalDtype(list(said["categories"]))
        return lambda: pd.Categorical.from_codes(cast("Any", values), dtype=kind)


def is_number(values: Any) -> bool:
    """Whether a column holds numbers (booleans are names)."""
    return bool(pd.api.types.is_numeric_dtype(values.dtype)) and not pd.api.types.is_bool_dtype(values.dtype)


def as_bytes(ids: Sequence[str] | NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Names of cells as UTF-8 of fixed width."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "S":
        return ids
    return np.array([str(name).encode() for name in ids], np.bytes_)


def _mapped(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if not all(shape):
        return np.empty(shape, kind)
    return np.asarray(np.memmap(path, kind, mode="r", shape=shape))


@numba.njit(cache=True, nogil=True)
def hashed(wide: Any, lengths: Any) -> Any:
    """64-bit FNV-1a of names (Fowler, Noll, Vo), bits mixed at the end."""
    out = np.empty(len(lengths), np.uint64)
    for i in range(len(lengths)):
        value = np.uint64(14695981039346656037)
        for j in range(lengths[i]):
            value = (value ^ np.uint64(wide[i, j])) * np.uint64(1099511628211)
        out[i] = value ^ (value >> np.uint64(32))
    return out
