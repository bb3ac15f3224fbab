"""Places that look like this one: exact cosine of every row, the place's own surroundings left out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_BLOCK = 65_536
_VALUES = 1 << 23
"""Values that are converted at once."""
_HELD_BYTES = 1 << 30
"""Features of up to so many bytes are held as float32 of unit length; larger ones are converted at each search."""
_KEPT = 4
_LOOKED = 4096

Among = Literal["brains", "sections", "all"]


@dataclass(frozen=True)
class Found:
    """Rows most like a query, best first.

    Parameters
    ----------
    rows : (k,) int64
    cosine, away_mm : (k,) float32
        Similarity, and distance from the query in the coordinates that were compared; NaN between brains that are not
        in a common space.
    """

    rows: NDArray[np.int64]
    cosine: NDArray[np.float32]
    away_mm: NDArray[np.float32]


class Alike:
    """Exact search of a feature table; answers any number of threads.

    Parameters
    ----------
    features : array (n, d), floating
    where_mm : (n, 2) or (n, 3) float
        Sheet or space coordinates.
    brain, section : (n,) int
        Number of each row's brain and section.
    registered : bool
        Whether distances between sections mean anything.
    """

    def __init__(
        self, features: Any, where_mm: NDArray[np.floating], brain: NDArray[Any], section: NDArray[Any], *,
        registered: bool = True,
    ) -> None:  # fmt: skip
        self._where, self._brain, self._section = np.asarray(where_mm, np.float32), brain, section
        self._registered = registered
        n, width = features.shape
        self._held = held = n * width * 4 <= _HELD_BYTES
        self._length = np.empty(n, np.float32)
        self._x: Any = np.empty((n, width), np.float32) if held else features
        for start in range(0, n, _BLOCK):
            x = np.asarray(features[start : start + _BLOCK], np.float32)
            length = np.maximum(np.linalg.norm(x, axis=1), 1e-12)
            self._length[start : start + _BLOCK] = 1.0 if held else length
            if held:
                self._x[start : start + _BLOCK] = x / length[:, None]
        self._scratch: NDArray[np.float32] | None = None
        self._kept: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._lock, self._turn = threading.Lock(), threading.Lock()

    @property
    def nbytes(self) -> int:
        """Memory that is held beyond the features."""
        return self._length.nbytes + self._where.nbytes + (self._x.nbytes if self._held else 0)

    def cosine(self, row: int) -> NDArray[np.float32]:
        """Cosine (n,) float32 of every row to one; that of the last few is kept."""
        with self._lock:
            if row in self._kept:
                self._kept.move_to_end(row)
                return self._kept[row]
        query = np.asarray(self._x[row], np.float32) / self._length[row]
        found = np.empty(len(self._length), np.float32)
        # few large steps: between steps a thread waits for its turn with all the others
        block = len(found) if self._held else max(_BLOCK, _VALUES // self._x.shape[1])
        for start in range(0, len(found), block):
            np.dot(np.asarray(self._x[start : start + block], np.float32), query, out=found[start : start + block])
        if not self._held:
            found /= self._length
        with self._lock:
            self._kept[row] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def find(self, row: int, *, k: int, exclude_mm: float = 0.0, among: Among = "all", apart: bool = False) -> Found:
        """Rows most like one; of many who ask at once each waits for its turn, so that tiles and memory do not suffer.

        Parameters
        ----------
        k : int
            How many.
        exclude_mm : float
            Rows of the query's own brain that are this near are left out, and the query itself always.
        among : {"brains", "sections", "all"}
            Look in other brains only, in other sections only, or everywhere.
        apart : bool
            Also leave out what lies within ``exclude_mm`` of a better one on the same brain: different places instead
            of ten patches of one.
        """
        with self._turn:
            return self._find(row, k, exclude_mm, among, apart)

    def _find(self, row: int, k: int, exclude_mm: float, among: Among, apart: bool) -> Found:  # noqa: FBT001
        cosine, n = self.cosine(row), len(self._length)
        allowed = np.ones(n, bool)
        if among == "brains":
            allowed &= self._brain != self._brain[row]
        elif among == "sections":
            allowed &= self._section != self._section[row]
        if exclude_mm > 0 and among != "brains":
            home = self._brain if self._registered else self._section
            mine = np.flatnonzero(allowed & (home == home[row]))
            allowed[mine[self._near(row, mine, exclude_mm)]] = False
        allowed[row] = False
        keep = min(_LOOKED if apart else k, int(np.count_nonzero(allowed)))
        if not keep:
            return Found(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32))
        # values are partitioned much faster than their indices, and in the same memory every time
        ranked = self._scratch = np.empty(n, np.float32) if self._scratch is None else self._scratch
        np.copyto(ranked, cosine)
        ranked[~allowed] = -np.inf
        ranked.partition(n - keep)
        top = np.flatnonzero((cosine >= ranked[n - keep]) & allowed)
        best = top[np.lexsort((top, -cosine[top]))][:keep]
        if apart and exclude_mm > 0:
            best = self._thinned(best, k, exclude_mm)
        best = best[:k]
        away = np.linalg.norm(self._where[best] - self._where[row], axis=1)
        if not self._registered:
            away = np.where(self._section[best] == self._section[row], away, np.nan)
        return Found(best, cosine[best], away.astype(np.float32))

    def _near(self, row: int, rows: NDArray[np.int64], reach_mm: float) -> NDArray[np.bool_]:
        """Which rows lie within reach of one, on its own brain; where sections are not aligned, on its own section."""
        if reach_mm <= 0:
            return np.zeros(len(rows), bool)
        home = self._brain if self._registered else self._section
        away = np.linalg.norm(self._where[rows] - self._where[row], axis=1)
        return (home[rows] == home[row]) & (away <= reach_mm)

    def _thinned(self, best: NDArray[np.int64], k: int, reach_mm: float) -> NDArray[np.int64]:
        kept: list[int] = []
        left = best
        while len(left) and len(kept) < k:
            kept.append(int(left[0]))
            left = left[~self._near(int(left[0]), left, reach_mm)]
        return np.array(kept, np.int64)
