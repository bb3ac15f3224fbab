"""Where cells come from: sections of cells with raw counts, memory-mapped, neighbours in space beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cells.panel import Panel
from brodmann.cells.recipe import Recipe
from brodmann.space import Space

if TYPE_CHECKING:
    from anndata import AnnData

    from brodmann.cells.readers.sidecar import Stated
    from brodmann.progress import Say

Rows = slice | NDArray[np.integer]


@dataclass(frozen=True)
class CellSection:
    """One section of one animal.

    Parameters
    ----------
    id : str
        Unique in its source.
    subject : str
        The animal.
    rows : range
        Its rows of the `Source`.
    """

    id: str
    subject: str
    rows: range


@dataclass(frozen=True, eq=False)
class Source:
    """Cells of one data set in one space; every array lies on disk and is mapped, not loaded.

    Rows are ordered by (subject, section id); within a section they follow a Morton curve of 25 um, so that
    consecutive rows are neighbours.

    Parameters
    ----------
    space : Space
        Space of ``xyz_mm``.
    name : str
        Name for messages and reports.
    fingerprint : str
        Hash of the content: counts, places, names, sections.
    sections : list of CellSection
    skipped : list of (str, str)
        Files and sections left out, and why.
    panel : Panel
        Genes of the count columns; empty for data that hold types only.
    xy_um : ndarray (N, 2) float32
        In the section's own plane, um.
    xyz_mm : ndarray (N, 3) float32
        In ``space``, mm.
    indptr, gene, count : ndarray (N + 1,) int64, (nnz,) uint16, (nnz,) uint16
        Raw counts as CSR, columns ascending within a row.
    total_counts : ndarray (N,) uint32
        Sum of counts.
    volume_um3 : ndarray (N,) float32 or None
    types : ndarray (N,) int16 or None
        Index into ``type_names``; -1 unknown.
    type_names : tuple of str
    unit : {"um", "arbitrary"}
        "arbitrary": coordinates of unknown scale, rescaled so that the median distance to the 6th neighbour is 30 um.
    remarks : list of str
        What the user should know about how the data were read.
    folder : Path
        Where the arrays lie.
    """

    space: Space
    name: str
    fingerprint: str
    sections: list[CellSection]
    skipped: list[tuple[str, str]]
    panel: Panel
    xy_um: NDArray[np.float32]
    xyz_mm: NDArray[np.float32]
    indptr: NDArray[np.int64]
    gene: NDArray[np.uint16]
    count: NDArray[np.uint16]
    total_counts: NDArray[np.uint32]
    volume_um3: NDArray[np.float32] | None
    types: NDArray[np.int16] | None
    type_names: tuple[str, ...]
    unit: Literal["um", "arbitrary"]
    remarks: list[str]
    folder: Path
    id_bytes: NDArray[np.uint8]
    """Names of all cells, UTF-8, one behind the other."""
    id_starts: NDArray[np.int64]
    """(N + 1,): where each name begins in ``id_bytes``."""
    read_labels: Callable[[], pd.DataFrame] = field(repr=False)

    def __len__(self) -> int:
        return len(self.total_counts)

    @cached_property
    def labels(self) -> pd.DataFrame:
        """What is known of each cell: N rows, categorical or float columns; opened when first asked for."""
        return self.read_labels()

    def ids(self, rows: Rows = slice(None)) -> list[str]:
        """Names of cells as in the user's file, unique.

        Parameters
        ----------
        rows : slice or ndarray of int
            Which rows; all by default (one Python string per cell).
        """
        index = np.arange(len(self))[rows]
        if not len(index):
            return []
        starts, stops = self.id_starts[index], self.id_starts[index + 1]
        first, last = int(starts.min()), int(stops.max())
        # a far-flung selection is read name by name, a run of rows in one piece
        if last - first > 64 * int((stops - starts).sum()) + 4096:
            return [bytes(self.id_bytes[a:b]).decode() for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
        held = self.id_bytes[first:last].tobytes()
        pairs = zip((starts - first).tolist(), (stops - first).tolist(), strict=True)
        return [held[a:b].decode() for a, b in pairs]

    def dense(self, rows: Rows) -> NDArray[np.uint16]:
        """Counts of some rows, (n, G) uint16; holds no interpreter lock while it gathers."""
        index = np.ascontiguousarray(np.arange(len(self))[rows] if isinstance(rows, slice) else rows, np.int64)
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"rows should lie within 0 .. {len(self) - 1:,}")
        out = np.zeros((len(index), len(self.panel)), np.uint16)
        if len(self.gene):
            _gather(index, self.indptr, self.gene, self.count, out)
        return out


def open(
    recipe: Recipe,
    data: str | Path | Sequence[str | Path] | AnnData | Source,
    *,
    stated: Stated | None = None,
    say: Say | None = None,
) -> Source:
    """Open cells: converts them once into a cache folder, afterwards maps that.

    The cache lies in ``$BRODMANN_CACHE`` or ``~/.cache/brodmann``; its name is a hash of the input's bytes and of how
    they are read, so that changed files are converted again. It may be deleted at any time.

    Parameters
    ----------
    recipe : Recipe
        Its settings do not change how data are read: models of any settings share one cache.
    data : path, sequence of paths, AnnData, or Source
        ``.h5ad``; a folder of them; an ABC Atlas folder; an AnnData or SpatialData ``.zarr``; ``.loom``; ``.csv``,
        ``.csv.gz``; a ``cells.json`` beside them; a pattern such as ``"slices/*.h5ad"``.
    stated : Stated, optional
        Stands in for ``cells.json``.
    say : Say, optional
        Where progress and remarks go; standard error by default.

    Raises
    ------
    Refused
        Nothing readable; no raw counts; no coordinates, or in a unit that contradicts the cells' spacing; too many
        rows without a place; cells named twice.
    NoRoom
        The cache does not fit on its disk.
    """
    del recipe
    if isinstance(data, Source):
        return data
    from brodmann.cells import readers
    from brodmann.progress import Say as Speaker

    return readers.read(cast("Any", data), stated=stated, say=say or Speaker())


@numba.njit(cache=True, nogil=True)
def _gather(rows: Any, indptr: Any, gene: Any, count: Any, out: Any) -> None:
    for i in range(len(rows)):
        for at in range(indptr[rows[i]], indptr[rows[i] + 1]):
            out[i, gene[at]] = count[at]
