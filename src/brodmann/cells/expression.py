"""Expression of one gene at a time, for pictures: what was counted in the cells of a feature table."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cells.source import Source

PER = 1000.0
"""Counts are given per so many of the cell, so that a deeply read cell does not glow in every gene."""
_BLOCK = 1 << 16
UNIT = f"log(1 + counts per {PER:,.0f} of the cell)"


class Expression:
    """Genes of a source, read for the rows of a table.

    Parameters
    ----------
    source : Source
    ids : sequence of str, length n
        Cells of the table, in any order; what the source does not hold is NaN.
    """

    unit = UNIT

    def __init__(self, source: Source, ids: Any) -> None:
        self._source, self._ids = source, ids
        self._rows: NDArray[np.int64] | None = None
        self.names: tuple[str, ...] = tuple(source.panel.genes) if len(source.gene) else ()

    def column(self, name: str) -> NDArray[np.float32]:
        """Expression (n,) float32 of one gene, log(1 + counts per 1,000 of the cell); NaN where nothing was counted.

        Raises
        ------
        ValueError
            If the source has no such gene.
        """
        source = self._source
        counted = np.zeros(len(source), np.uint16)
        _one(source.indptr, source.gene, source.count, self.names.index(name), counted)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.log1p(PER * counted / np.asarray(source.total_counts, np.float32)).astype(np.float32)
        rows = self._found()
        return np.where(rows >= 0, share[rows], np.float32(np.nan))

    def _found(self) -> NDArray[np.int64]:
        """Row of the source for each row of the table; -1 for none."""
        if self._rows is None and self._same():
            self._rows = np.arange(len(self._source))
        if self._rows is None:
            known = pd.Index(self._source.ids())
            self._rows = np.asarray(known.get_indexer(pd.Index(self._ids)), np.int64)
        return self._rows

    def _same(self) -> bool:
        """Whether the table holds the cells of the source in its order: ten million names are then not looked up."""
        n = len(self._source)
        starts = range(0, n, _BLOCK)
        return len(self._ids) == n and all(
            list(self._ids[at : at + _BLOCK]) == self._source.ids(slice(at, at + _BLOCK)) for at in starts
        )


@numba.njit(cache=True, nogil=True)
def _one(indptr: Any, gene: Any, count: Any, wanted: int, out: Any) -> None:
    for row in range(len(out)):
        for at in range(indptr[row], indptr[row + 1]):
            if gene[at] == wanted:
                out[row] = count[at]
