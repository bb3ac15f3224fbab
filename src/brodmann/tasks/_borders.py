"""A border drawn from one half of a region's rows and judged by the other half, which had no part in drawing it.

n rows of one region, p numbers known of each, E other regions beside it, K parts. Lengths are in spacings: a section's
median distance to the sixth neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from scipy.stats import t as student

from brodmann.near import smooth
from brodmann.samples import stream
from brodmann.tasks import _agreement, _surroundings
from brodmann.tasks._cluster import kmeans

Codes = NDArray[np.int64]
Array = NDArray[np.float64]

WIDTH = 3.0
"""Width of the Gaussian under which surroundings are averaged, spacings."""
REACH = 40.0
"""Distance from a border, spacings, up to which rows say whether it is a step or a slope."""
_EDGE = 1.5
_DIRECTIONS = 3
_TOUCH = 2.0
_TOUCHING = 10
_SHARE = 0.01
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Region:
    """Rows of one known region.

    Parameters
    ----------
    rows : ndarray (n,) int64
        Their numbers in the table.
    where : ndarray (n, 2) float64
        Places in the plane of the section, um.
    section, animal : ndarray (n,) int64
    own : ndarray (n, p) float64
        What is known of each row by itself.
    beside : ndarray (n, E) float64
        Share of each other region in a row's close surroundings.
    """

    rows: Codes
    where: Array
    section: Codes
    animal: Codes
    own: Array
    beside: Array

    def part(self, some: Codes) -> Region:
        """Some of the rows."""
        return Region(
            self.rows[some],
            self.where[some],
            self.section[some],
            self.animal[some],
            self.own[some],
            self.beside[some],
        )


@dataclass(frozen=True, eq=False)
class Border:
    """What the judges say of the border between two parts.

    Parameters
    ----------
    step : float
        How much single rows change at the border, beyond their slopes on both sides, in standard deviations along the
        direction in which the parts differ.
    error : float
        Its standard error.
    p : float
        Chance of as large a step where there is none (one-sided: the direction was drawn by others).
    animals : ndarray (A,) float64
        The step over its error within each animal; NaN where an animal has too few rows.
    """

    step: float
    error: float
    p: float
    animals: Array


@dataclass(frozen=True, eq=False)
class Cut:
    """A region in parts: labels (n,), drawn from all rows; the borders; agreement of what the two halves draw."""

    labels: Codes
    borders: dict[tuple[int, int], Border]
    agreement: float


def beside(where: Array, region: Codes, rows: Codes, sections: Sequence[Codes]) -> Array:
    """Share of other regions in the close surroundings of ``rows``, all of one region: (n, E) float64.

    Rows stray over the borders of regions, and atlases are not exact: what such edges explain is not new.

    Parameters
    ----------
    where : ndarray (N, 2) float64
        Places of all rows of the table, um.
    region : ndarray (N,) int64
        -1 is no region: one of its own here.
    rows : ndarray (n,) int64
        Sorted.
    sections : sequence of ndarray of int64
        All rows of each section that has some of ``rows``.
    """
    names = np.unique(region)
    shares = np.zeros((len(rows), len(names)))
    for every in sections:
        some = np.searchsorted(rows, every[region[every] == region[rows[0]]])
        mine = where[rows[some]]
        sigma = _EDGE * _surroundings.spacing(mine)
        others = every[region[every] != region[rows[0]]]
        reach = cast("Any", KDTree(mine)).query(where[others], distance_upper_bound=smooth.CUT * sigma)[0]
        others = others[np.isfinite(reach)]
        near, code = np.unique(np.searchsorted(names, region[others]), return_inverse=True)
        if not len(near):
            continue
        value = np.zeros((len(mine) + len(others), len(near)), dtype=np.float32)
        value[len(mine) + np.arange(len(others)), code.reshape(-1)] = 1
        tissue = smooth.tissue(np.concatenate([mine, where[others]]), reach_um=smooth.CUT * sigma)
        shares[some[:, None], near] = smooth.means(tissue, value[tissue.order], mine, (sigma,))
    return shares[:, shares.mean(axis=0) > _SHARE]


def cut(region: Region, parts: int, *, least: int, seed: int) -> Cut | None:
    """Split a region, and judge each border; None if a part would have fewer than ``least`` rows.

    The rows are dealt into two halves. Each half in turn draws borders from its rows' surroundings, and the rows of the
    other half, of which the border knows nothing, say whether they differ across it. In uniform tissue they do not,
    however well the border looks. A slope is no border either: what counts is the step at the border when the change
    with the distance from it, on either side, is allowed for, and so is the nearness of other regions. Slopes are
    straight lines up to `REACH` spacings: a change from one level to another that is complete well within them is a
    border however gentle, and so is the rim of patches that lie elsewhere in each animal.

    Parameters
    ----------
    region : Region
    parts : int
    least : int
    seed : int
    """
    labels = _drawn(region, _plain(region)[0], parts, least, seed)
    if np.bincount(labels, minlength=parts).min() < least:
        return None
    half = stream(seed, "halves", len(labels)).permutation(len(labels)) % 2
    said: list[dict[tuple[int, int], _Verdict]] = []
    both: list[Codes] = []
    for side in (0, 1):
        draw, judge = (region.part(np.flatnonzero((half == side) == wanted)) for wanted in (True, False))
        own, white = _plain(draw)
        drawn = _drawn(draw, own, parts, least // 2, seed)
        table = _agreement.contingency(labels[half == side], drawn)
        kept, found = linear_sum_assignment(-table)
        name = np.full(max(parts, table.shape[1]), -1)
        name[found] = kept
        drawn = name[drawn]
        around = _nearest(draw, judge)
        every = np.empty_like(labels)
        every[half == side], every[half != side] = drawn, drawn[around]
        both.append(every)
        value = judge.own @ white
        said.append(_verdicts(draw, own, drawn, judge, value, drawn[around], parts, least))
    borders = {pair: _together(said[0][pair], said[1][pair]) for pair in said[0] if pair in said[1]}
    return Cut(labels, borders, _agreement.ari(*both))


def _plain(region: Region) -> tuple[Array, Array]:
    """Own values without levels of sections and what other regions explain, white: (n, p); and what makes them so."""
    own = without(region.beside, region.own, region.section)
    value, axes = np.linalg.eigh(own.T @ own / len(own))
    # a direction without variance is left alone
    white = axes / np.sqrt(np.maximum(value, 1e-3 * value.mean() + _TINY))
    return own @ white, white


def _drawn(region: Region, own: Array, parts: int, least: int, seed: int) -> Codes:
    """Parts of a region by its rows' surroundings, (n,), from their `_plain` values.

    Directions are those in which rows resemble their surroundings most (the product of a row's values and the mean
    around it, as in Dray et al. 2008, J Veg Sci 19); pieces too small to judge go to what is around them.
    """
    mean = _around(region, own)
    along = own.T @ mean
    directions = np.linalg.eigh(along + along.T)[1][:, ::-1][:, :_DIRECTIONS]
    labels = kmeans((mean @ directions).astype(np.float32), parts, seed=seed, n_init=3).labels.astype(np.int64)
    return _tidy(region, labels, parts, least)


def _around(region: Region, values: Array) -> Array:
    """Gaussian means within sections: (n, p)."""
    found = np.empty_like(values)
    for rows in _surroundings.each(region.section):
        where = region.where[rows]
        found[rows] = smooth.at_cells(values[rows], where, (WIDTH * _surroundings.spacing(where),))
    return found


def _tidy(region: Region, labels: Codes, parts: int, least: int) -> Codes:
    """Pieces of fewer than ``least`` rows take the label of most of their neighbours, from their rims inwards."""
    labels = labels.copy()
    i, j = pairs(region)
    while True:
        piece = pieces(labels, i, j)
        small = np.bincount(piece)[piece] < least
        votes = np.zeros((len(labels), parts))
        told = small[i] & ~small[j]
        np.add.at(votes, (i[told], labels[j[told]]), 1)
        changed = votes.any(axis=1)
        if not changed.any():
            return labels
        labels[changed] = votes[changed].argmax(axis=1)


def pairs(region: Region) -> tuple[Codes, Codes]:
    """Rows and their six nearest of the same section, pair by pair: (pairs,) each."""
    near = _surroundings.neighbours(region.where, region.section, 6)
    there = near >= 0
    return np.nonzero(there)[0], near[there].astype(np.int64)


def pieces(labels: Codes, i: NDArray[Any], j: NDArray[Any]) -> Codes:
    """Number of the connected piece of each row, where rows ``i`` and ``j`` are neighbours: (n,)."""
    same = labels[i] == labels[j]
    graph = csr_matrix((np.ones(int(same.sum()), dtype=np.int8), (i[same], j[same])), shape=(len(labels),) * 2)
    return np.asarray(cast("Any", connected_components)(graph, directed=False)[1], dtype=np.int64)


def _nearest(draw: Region, judge: Region) -> Codes:
    """Row of ``draw`` next to each row of ``judge``, of the same section; 0 where that has none."""
    found = np.zeros(len(judge.rows), dtype=np.int64)
    for rows in _surroundings.each(judge.section):
        theirs = np.flatnonzero(draw.section == judge.section[rows[0]])
        if len(theirs):
            found[rows] = theirs[cast("Any", KDTree(draw.where[theirs])).query(judge.where[rows])[1]]
    return found


@dataclass(frozen=True, eq=False)
class _Verdict:
    """Sums over the judges of one half: products of residuals, squares of the step's, the variance of the former."""

    gain: float
    size: float
    variance: float
    blocks: int
    animals: Array


def _verdicts(
    draw: Region, own: Array, drawn: Codes, judge: Region, value: Array, labels: Codes, parts: int, least: int
) -> dict[tuple[int, int], _Verdict]:
    """What the judges say of every two parts that touch: values of those who drew, and of those who judge, alike."""
    result: dict[tuple[int, int], _Verdict] = {}
    for a in range(parts):
        for b in range(a + 1, parts):
            if not ((drawn == a).any() and (drawn == b).any()):
                continue
            away = _signed(draw, drawn, judge, labels, a, b)
            some = np.flatnonzero(np.isin(labels, (a, b)) & (np.abs(away) <= REACH))
            close = np.bincount(labels[some][np.abs(away[some]) <= _TOUCH] == b, minlength=2)
            if close.min() < _TOUCHING:
                continue
            toward = own[drawn == b].mean(axis=0) - own[drawn == a].mean(axis=0)
            one = value[some] @ (toward / np.linalg.norm(toward))
            result[a, b] = _verdict(judge.part(some), away[some], labels[some] == b, one, least)
    return result


def _verdict(judge: Region, away: Array, far: NDArray[np.bool_], value: Array, least: int) -> _Verdict:
    """The step in ``value`` (n,), given slopes of its own on either side."""
    slopes = np.column_stack([np.maximum(away, 0), np.minimum(away, 0), judge.beside])
    both = without(slopes, np.column_stack([far.astype(np.float64), value]), judge.section)
    step, rest = both.T
    gain = step * rest
    # rows of one block of tissue are not independent where something was left out
    blocks = np.bincount(_surroundings.blocks(judge.where, judge.section), weights=gain)
    animals = np.full(int(judge.animal.max()) + 1, np.nan)
    for animal in range(len(animals)):
        mine = judge.animal == animal
        if min((mine & far).sum(), (mine & ~far).sum()) >= least // 4:
            animals[animal] = gain[mine].sum() / max(np.sqrt((gain[mine] ** 2).sum()), _TINY)
    variance = max(len(gain) * gain.var(), len(blocks) * blocks.var(ddof=1)) if len(blocks) > 1 else np.inf
    return _Verdict(gain.sum(), max((step**2).sum(), _TINY), max(variance, _TINY), len(blocks), animals)


def _together(one: _Verdict, other: _Verdict) -> Border:
    """Both halves; neither had a part in what the other judged, so that their sums are uncorrelated."""
    gain, size, error = one.gain + other.gain, one.size + other.size, np.sqrt(one.variance + other.variance)
    animals = np.full((2, max(len(one.animals), len(other.animals))), np.nan)
    for row, verdict in zip(animals, (one, other), strict=True):
        row[: len(verdict.animals)] = verdict.animals
    p = float(student.sf(gain / error, min(one.blocks, other.blocks) - 1))
    return Border(gain / size, error / size, p, animals.sum(axis=0) / np.sqrt(2))


def _signed(draw: Region, drawn: Codes, judge: Region, labels: Codes, a: int, b: int) -> Array:
    """Distance of each judge from the border, spacings: negative in ``a``; infinite in sections without one."""
    away = np.full(len(labels), np.inf)
    for rows in _surroundings.each(judge.section):
        theirs = np.flatnonzero(draw.section == judge.section[rows[0]])
        sides = [draw.where[theirs[drawn[theirs] == side]] for side in (a, b)]
        if not (len(sides[0]) and len(sides[1])):
            continue
        unit = _surroundings.spacing(draw.where[theirs])
        to = [cast("Any", KDTree(side)).query(judge.where[rows])[0] / unit for side in sides]
        away[rows] = np.where(labels[rows] == a, -to[1], to[0])
    return away


def without(explained: Array, values: Array, section: Codes) -> Array:
    """Values (n, q) less the means of their sections and what is ``explained`` (n, E) within sections, linearly."""
    both = np.column_stack([explained, values]).astype(np.float64)
    for rows in _surroundings.each(section):
        both[rows] -= both[rows].mean(axis=0)
    known, rest = both[:, : explained.shape[1]], both[:, explained.shape[1] :]
    return rest - known @ np.linalg.lstsq(known, rest, rcond=1e-6)[0]
