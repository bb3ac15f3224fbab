"""What can be clustered: features and baselines of a table, read one at a time, each animal's mean taken off.

Ten million rows of one baseline are gigabytes, so that none is held that is not being measured, and none is copied
whole. n rows, d columns, A animals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.samples import stream
from brodmann.tasks import _consensus
from brodmann.tasks._cluster import Rows

SMALL = 20_000
"""Rows up to which everything is float32, and below which surroundings without a network are the default path."""

MANY = 1_000_000
"""Rows beyond which nothing is copied whole, and rivals are measured on whole sections of so many rows together."""

LEARN = 200_000
"""Random rows of all sections that such rivals learn from, or twice what k-means asks for where that is more."""

_BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class Centred:
    """Rows with their animal's mean taken off as they are read: nothing is copied.

    Parameters
    ----------
    raw : array (n, d)
        In memory, mapped, or on disk: only slices are read of what is not a numpy array.
    animal : ndarray (n,) int64
    middle : ndarray (A, d) float32 or None
        Mean of each animal; None where there is one animal only.
    """

    raw: Any
    animal: NDArray[np.int64]
    middle: NDArray[np.float32] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return tuple(self.raw.shape)

    def __len__(self) -> int:
        """Rows."""
        return len(self.animal)

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Rows of a slice, or with sorted numbers, in the type they are kept in."""
        if not isinstance(key, slice):
            return off(take(self.raw, key), self.animal[key], self.middle)
        return off(np.asarray(self.raw[key]), self.animal[key], self.middle)


def off(values: NDArray[Any], animal: NDArray[np.int64], middle: NDArray[np.float32] | None) -> NDArray[Any]:
    """Take each row's animal mean off, in float32, kept in the type of the values."""
    if middle is None or not len(values):
        return values
    one = bool((animal == animal[0]).all())
    away = middle[animal[0]] if one else middle[animal]
    if values.dtype != np.float16:
        return (values - away).astype(values.dtype, copy=False)
    # torch turns halves into floats and back several times faster than numpy, to the same bits
    wide = torch.from_numpy(np.array(values)).float()
    return wide.sub_(torch.from_numpy(np.ascontiguousarray(away))).half().numpy()


def take(raw: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows with sorted numbers; what lies on disk is read once, from the first block that holds one to the last."""
    if isinstance(raw, np.ndarray):
        return cast("NDArray[Any]", raw)[rows]
    parts = [values[rows[low:high] - start] for start, values, low, high in _holding(raw, rows)]
    return np.concatenate(parts) if parts else np.empty((0, raw.shape[1]), raw.dtype)


def read(raw: Any, animal: NDArray[np.int64], name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Some rows of a baseline, centred by the means of all rows: one pass, in which one block is held.

    Raises
    ------
    Refused
        Some number of the baseline is not finite.
    """
    totals = Totals(int(animal.max()) + 1, int(raw.shape[1]))
    kept = np.empty((len(rows), int(raw.shape[1])), raw.dtype)
    for start, values in blocks(raw):
        totals.add(values, animal[start : start + len(values)])
        low, high = np.searchsorted(rows, [start, start + len(values)])
        kept[low:high] = values[rows[low:high] - start]
    middle = totals.middle(name)
    for i in range(0, len(rows), _BLOCK):
        kept[i : i + _BLOCK] = off(kept[i : i + _BLOCK], animal[rows[i : i + _BLOCK]], middle)
    return kept


def blocks(raw: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """First row and values of each block, in order; whole chunks of what lies on disk, so that none is read twice."""
    size = _block(raw)
    for start in range(0, len_of(raw), size):
        yield start, np.asarray(raw[start : start + size])


def len_of(raw: Any) -> int:
    """Rows of an array that need not know ``len``."""
    return int(raw.shape[0])


def _block(raw: Any) -> int:
    chunk = int((getattr(raw, "chunks", None) or (1,))[0])
    return chunk * -(-_BLOCK // chunk)


def _holding(raw: Any, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[Any], int, int]]:
    """Blocks that hold some of the rows: first row, values, and which of the rows."""
    size = _block(raw)
    for start in np.unique(rows // size) * size:
        low, high = np.searchsorted(rows, [start, start + size])
        yield int(start), np.asarray(raw[int(start) : int(start) + size]), int(low), int(high)


class Totals:
    """Sums over each animal, block by block: what is not finite shows in them."""

    def __init__(self, animals: int, columns: int) -> None:
        self._sum = torch.zeros((animals, columns), dtype=torch.float64)
        self._count = np.zeros(animals, dtype=np.int64)

    def add(self, values: NDArray[Any], animal: NDArray[np.int64]) -> None:
        """Add the rows of a block."""
        wide = torch.from_numpy(np.array(values)).double()
        self._count += np.bincount(animal, minlength=len(self._count))
        if (animal == animal[0]).all():
            self._sum[int(animal[0])] += wide.sum(dim=0)
        else:
            self._sum.index_add_(0, torch.from_numpy(animal), wide)

    def middle(self, name: str) -> NDArray[np.float32] | None:
        """Mean of each animal; None if there is one only."""
        total = self._sum.numpy()
        if not np.isfinite(total).all():
            raise Refused(f"'{name}' should be finite.", found="NaN or infinity in the table.")
        if len(total) < 2:
            return None
        return (total / np.maximum(self._count, 1)[:, None]).astype(np.float32)


class Inputs(Mapping[str, Rows]):
    """Features and baselines by name, centred in each animal; each is read anew whenever it is asked for.

    Parameters
    ----------
    table : AnnData
        ``X`` and every ``obsm["baseline_*"]``, as arrays or as what zarr reads lazily.
    animal : ndarray (n,) int64
    """

    def __init__(self, table: AnnData, animal: NDArray[np.int64]) -> None:
        stored = cast("Mapping[str, Any]", table.obsm)
        self._table, self.animal = table, animal
        self._stored = {"features": ""} | {
            name.removeprefix("baseline_"): name for name in sorted(stored) if name.startswith("baseline_")
        }

    def __iter__(self) -> Iterator[str]:
        """Names, features first."""
        return iter(self._stored)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._stored)

    def __contains__(self, name: object) -> bool:
        """Whether the table has it: nothing is read."""
        return name in self._stored

    def __getitem__(self, name: str) -> Rows:
        """All rows: an array, or beyond a million rows what reads like one.

        Raises
        ------
        Refused
            Some number is not finite.
        """
        raw, rows = self._raw(name), len(self.animal)
        if rows > MANY:
            totals = Totals(int(self.animal.max()) + 1, int(raw.shape[1]))
            for start, values in blocks(raw):
                totals.add(values, self.animal[start : start + len(values)])
            return Centred(raw, self.animal, totals.middle(name))
        values = np.asarray(raw)
        # float16 stays float16: many rows would not fit twice.
        values = values if rows > SMALL else values.astype(np.float32)
        if not all(np.isfinite(values[i : i + _BLOCK]).all() for i in range(0, rows, _BLOCK)):
            raise Refused(f"'{name}' should be finite.", found="NaN or infinity in the table.")
        return _consensus.centred(values, self.animal)

    def some(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows, by their sorted numbers: what lies on disk is read in one pass.

        Raises
        ------
        Refused
            Some number is not finite.
        """
        return read(self._raw(name), self.animal, name, rows)

    def _raw(self, name: str) -> Any:
        stored = self._stored[name]
        return cast("Any", self._table.obsm)[stored] if stored else cast("Any", self._table).X


def drawn(rows: int, want: int, seed: int) -> NDArray[np.int64]:
    """Random rows in order: those that rivals of a large table learn from."""
    return np.sort(stream(seed, "rows of rivals", rows).choice(rows, size=min(want, rows), replace=False))
