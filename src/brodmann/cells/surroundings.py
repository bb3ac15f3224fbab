"""Batches of cells together with the cells around them, each read once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from brodmann.cells.source import Source
from brodmann.near import neighbours
from brodmann.samples import Batch

_GAP = 64  # rows this close together are searched in one go


def draw(cells: int, size: int, rng: np.random.Generator, *, together: int = 16) -> NDArray[np.int64]:
    """Rows of one training batch: runs of consecutive cells at random places.

    Consecutive rows are neighbours, so a run shares most of the cells that it reads; 16 runs or more a batch keep the
    gradient varied.

    Parameters
    ----------
    cells : int
        Cells to choose from.
    size : int
        Rows wanted; fewer if there are not so many cells.
    rng : Generator
        From `brodmann.samples.stream`.
    together : int
        Cells of a run.

    Returns
    -------
    array (size,) int64
        Without repeats.
    """
    size = min(size, cells)
    runs = -(-cells // together)
    chosen = rng.choice(runs, size=min(runs, -(-size // together) + 1), replace=False)
    rows = (chosen[:, None] * together + np.arange(together)).ravel()
    return rows[rows < cells][:size].astype(np.int64)


def batch(
    source: Source,
    rows: NDArray[np.int64],
    *,
    radius_um: float,
    limit: int,
    types: bool = False,
    columns: NDArray[np.int32] | None = None,
    codes: NDArray[np.int64] | None = None,
    among: NDArray[np.bool_] | None = None,
) -> Batch:
    """Cells and the cells around them, each read once.

    Parameters
    ----------
    source : Source
        Where counts and positions are.
    rows : array (R,) int64
        Reference cells, as rows of the source, in any order.
    radius_um, limit : float, int
        Neighbours are the nearest ``limit`` cells of the same section within ``radius_um``.
    types : bool
        Give each cell's type; otherwise all are of one type.
    columns : array (G,) int32, optional
        Column of the source for each gene of the model, -1 where there is none: `brodmann.cells.panel.Match`.
    codes : array (types + 1,) int64, optional
        Number that the model gives to each type of the source, and last to an unknown type.
    among : array (N,) bool, optional
        Cells that may be neighbours; the others stay unseen.

    Returns
    -------
    Batch
        ``index`` (R,) int64 rows of the source; ``counts`` (U, G) uint16 of all cells read, ``total_counts`` (U,)
        float32, ``type`` (U,) int64; ``reference`` (R,) and ``neighbour`` (E,) int64 positions among the U; ``start``
        (R + 1,) int64: neighbours of reference ``i`` are ``neighbour[start[i] : start[i + 1]]``.
    """
    size = np.zeros(len(rows), np.int64)
    parts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(rows)
    for section, where in _runs(source, rows):
        near = _near(source, section, rows[where], radius_um, among)
        graph = neighbours.graph(source.xy_um[near], radius_um=radius_um, limit=None if among is not None else limit)
        for slot, at in zip(where, np.searchsorted(near, rows[where]), strict=True):
            found = near[graph.index[graph.indptr[at] : graph.indptr[at + 1]]]
            parts[slot] = found if among is None else found[among[found]][:limit]
            size[slot] = len(parts[slot])
    edges = np.concatenate([np.zeros(0, np.int64), *parts])
    union, place = np.unique(np.concatenate([rows, edges]), return_inverse=True)
    kinds = np.zeros(len(union), np.int64)
    if types:
        codes = np.arange(len(source.type_names) + 1) if codes is None else codes
        # an unknown type is -1 in the source, which is the last code
        kinds = np.full(len(union), codes[-1]) if source.types is None else codes[source.types[union]]
    counts, library = source.dense(union), source.total_counts[union]
    if columns is not None:
        counts = np.where(columns >= 0, counts[:, columns], np.uint16(0))
        library = counts.sum(1)
    return {
        "index": torch.from_numpy(np.asarray(rows, np.int64)),
        "counts": torch.from_numpy(counts),
        "total_counts": torch.from_numpy(library.astype(np.float32)),
        "type": torch.from_numpy(kinds.astype(np.int64)),
        "reference": torch.from_numpy(place[: len(rows)]),
        "neighbour": torch.from_numpy(place[len(rows) :]),
        "start": torch.from_numpy(np.concatenate([[0], np.cumsum(size)])),
    }


def _runs(source: Source, rows: NDArray[np.int64]) -> Iterator[tuple[range, NDArray[np.int64]]]:
    """Positions in ``rows`` that lie close together in one section, with the rows of that section."""
    order = np.argsort(rows, kind="stable")
    ends = np.array([section.rows.stop for section in source.sections], np.int64)
    section = np.searchsorted(ends, rows[order], side="right")
    cut = np.flatnonzero((np.diff(rows[order]) > _GAP) | (np.diff(section) > 0)) + 1
    for where in np.split(order, cut) if len(order) else ():
        yield source.sections[int(np.searchsorted(ends, rows[where[0]], side="right"))].rows, where


def _near(
    source: Source, section: range, rows: NDArray[np.int64], radius_um: float, among: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """Rows of a section, ascending, that hold every cell within ``radius_um`` of ``rows``."""
    xy = source.xy_um[section.start : section.stop]
    here = xy[rows - section.start]
    # one um more than asked, so that rounding loses nobody; the exact comparison comes after
    low, high = here.min(0) - radius_um - 1, here.max(0) + radius_um + 1
    inside = (xy[:, 0] >= low[0]) & (xy[:, 0] <= high[0]) & (xy[:, 1] >= low[1]) & (xy[:, 1] <= high[1])
    if among is not None:
        inside &= among[section.start : section.stop]
        inside[rows - section.start] = True
    return np.flatnonzero(inside) + section.start
