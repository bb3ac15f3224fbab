"""What lies around each row in its own section: neighbours, Gaussian means, and noise that was merely smoothed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import KDTree

from brodmann.near import smooth
from brodmann.samples import stream
from brodmann.tasks import _rows

SCALES = (1.0, 1.5, 2.5)
"""Widths of the Gaussian kernels, in median distances to the sixth neighbour."""

_CUT = 3.0
_NOISE = 20
_LOOK = 100_000
_PAIRS_ROWS = 20_000
"""Rows of a section beyond which pairs are not kept: at 300,000 rows they would be 17 GB."""


@dataclass(frozen=True, eq=False)
class Tissue:
    """Where the rows of a table lie, and what is next to what.

    Parameters
    ----------
    where : ndarray (n, 2 or 3) float64
        Places in the own section, um.
    section, animal : ndarray (n,) int64
    look : ndarray (m,) int64
        Rows on which coherence is measured: all, or whole random sections of 100,000 rows together.
    near : ndarray (m, 10) int32
        Neighbours of these rows, numbered among them; -1 where there are fewer.
    """

    where: NDArray[np.float64]
    section: NDArray[np.int64]
    animal: NDArray[np.int64]
    look: NDArray[np.int64]
    near: NDArray[np.int32]

    @classmethod
    def of(cls, table: AnnData, m: int) -> Tissue:
        """Tissue of a table, with ``m`` neighbours."""
        where, section = positions(table), sections(table)
        animal = _rows.numbers(_rows.places(table)["subject"])[0]
        look = np.arange(len(where))
        if len(where) > _LOOK:
            every, parts = list(each(section)), list[NDArray[np.int64]]()
            for i in stream(0, "look", len(where)).permutation(len(every)):
                parts.append(every[int(i)])
                if sum(map(len, parts)) >= _LOOK:
                    break
            look = np.sort(np.concatenate(parts))
        return cls(where, section, animal, look, neighbours(where[look], section[look], m))


def positions(table: AnnData) -> NDArray[np.float64]:
    """Where rows lie in their own section, um: (n, 2), or (n, 3) where only a place in space is known."""
    obs = _rows.places(table)
    if {"x_um", "y_um"} <= set(obs.columns):
        return obs[["x_um", "y_um"]].to_numpy(dtype=np.float64)
    return obs[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64) * 1000


def sections(table: AnnData) -> NDArray[np.int64]:
    """Number of the section of every row: (n,) int64."""
    return _rows.numbers(_rows.places(table)["section"])[0]


def neighbours(where: NDArray[np.float64], section: NDArray[np.int64], m: int) -> NDArray[np.int32]:
    """The ``m`` nearest rows of the same section, nearest first.

    Parameters
    ----------
    where : ndarray (n, 2 or 3) float64
    section : ndarray (n,) int64
    m : int

    Returns
    -------
    ndarray (n, m) int32
        Row numbers; -1 where a section has fewer rows.
    """
    found = np.full((len(where), m), -1, dtype=np.int32)
    for rows in each(section):
        if len(rows) > 1:
            ranks = cast("Any", list(range(1, min(m + 1, len(rows)) + 1)))
            index = cast("NDArray[np.int64]", KDTree(where[rows]).query(where[rows], k=ranks)[1])
            found[rows, : index.shape[1] - 1] = rows[_without_self(index)]
    return found


def kernels(
    where: NDArray[np.float64], section: NDArray[np.int64], scales: Sequence[float] = SCALES
) -> list[csr_matrix]:
    """Gaussian weights of the rows around each row of its section, itself included; rows sum to one: (n, n) each.

    Distances are measured in the section's own median distance to the sixth neighbour, so that tissues of any density
    and coordinates of any unit are treated alike.
    """
    shape = (len(where), len(where))
    parts: list[list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]] = [[] for _ in scales]
    for rows in each(section):
        unit = spacing(where[rows])
        tree = KDTree(where[rows])
        reach = _CUT * max(scales) * unit
        near = cast("Any", tree).sparse_distance_matrix(tree, reach, output_type="ndarray")
        i, j, distance = rows[near["i"]], rows[near["j"]], near["v"] / unit
        for slot, scale in enumerate(scales):
            some = distance <= _CUT * scale
            parts[slot].append((i[some], j[some], np.exp(-((distance[some] / scale) ** 2) / 2)))
    result: list[csr_matrix] = []
    for triples in parts:
        i, j, weight = (np.concatenate([triple[part] for triple in triples]) for part in range(3))
        weight /= np.bincount(i, weights=weight, minlength=len(where))[i]
        result.append(csr_matrix((weight, (i, j)), shape=shape))
    return result


def means(values: NDArray[np.floating[Any]], around: Sequence[csr_matrix]) -> NDArray[np.float32]:
    """Means of ``values`` (n, d) under each kernel, side by side: (n, d * kernels) float32."""
    return np.hstack([np.asarray(kernel @ values, dtype=np.float32) for kernel in around])


def noise(around: Sequence[csr_matrix], seed: int) -> NDArray[np.float32]:
    """White noise smoothed like the data, twenty numbers a row: what smoothing makes of nothing."""
    n = cast("tuple[int, int]", around[0].shape)[0]
    return means(stream(seed, "smoothed noise", n).standard_normal((n, _NOISE)), around)


def smoothed_noise(
    where: NDArray[np.float64], section: NDArray[np.int64], seed: int, scales: Sequence[float] = SCALES
) -> NDArray[np.float32]:
    """What `noise` gives under `kernels` of all rows, held for one section at a time: (n, 60) float32."""
    white = stream(seed, "smoothed noise", len(where)).standard_normal((len(where), _NOISE))
    result = np.empty((len(where), _NOISE * len(scales)), dtype=np.float32)
    for rows in each(section):
        if len(rows) <= _PAIRS_ROWS:
            result[rows] = means(white[rows], kernels(where[rows], section[rows], scales))
            continue
        unit = spacing(where[rows])
        result[rows] = smooth.at_cells(white[rows], plane(where[rows]), tuple(scale * unit for scale in scales))
    return result


def plane(where: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places of one section in two dimensions: the two axes along which it extends."""
    if where.shape[1] == 2:
        return where
    away = where - where.mean(axis=0)
    return away @ np.linalg.eigh(away.T @ away)[1][:, :0:-1]


def spacing(where: NDArray[np.float64]) -> float:
    """Median distance to the sixth neighbour (fewer in a tiny section); between places where rows coincide; else 1."""
    if len(where) < 2:
        return 1.0
    rank = cast("Any", [min(7, len(where))])
    found = float(np.median(KDTree(where).query(where, k=rank)[0]))
    if found > 0 or len(places := np.unique(where, axis=0)) == len(where):
        return found or 1.0
    return spacing(places)


def blocks(where: NDArray[np.float64], section: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number (n,) of the block of tissue of each row: four by four in each section, each strip with as many rows."""
    found = np.zeros(len(section), dtype=np.int64)
    for rows in each(section):
        flat = where[rows][:, np.argsort(-where[rows].var(axis=0), kind="stable")[:2]]
        rank = np.argsort(np.argsort(flat, axis=0, kind="stable"), axis=0) * 4 // len(rows)
        found[rows] = (section[rows] * 4 + rank[:, 0]) * 4 + rank[:, 1]
    return np.unique(found, return_inverse=True)[1].reshape(-1).astype(np.int64)


def each(section: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows of each section in turn."""
    order = np.argsort(section, kind="stable")
    yield from (part for part in np.split(order, np.flatnonzero(np.diff(section[order])) + 1) if len(part))


def _without_self(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop each row from its own neighbours; where rows coincide it need not come first."""
    own = index == np.arange(len(index))[:, None]
    # A row crowded out by more than m coincident rows gives up its last neighbour instead.
    own[~own.any(axis=1), -1] = True
    return index[~own].reshape(len(index), -1)
