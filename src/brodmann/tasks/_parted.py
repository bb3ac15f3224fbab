"""An area of cortex in two parts: told apart by some brains, their border drawn and judged in others.

Patches overlap their neighbours in a section, change slowly along cortex, and faster with its folds; so neighbours in
one brain cannot tell a border from a steep slope. Other brains can: their folds, stains and borders of sections lie
elsewhere, and a border between areas does not.

n rows of one area, p components, B brains. Lengths are in spacings, see `Area`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from scipy.stats import t as student

from brodmann.samples import stream
from brodmann.tasks import _agreement, _surroundings
from brodmann.tasks._cluster import kmeans
from brodmann.tasks._surrogate import Surrogate

Codes = NDArray[np.int64]
Real = NDArray[np.float64]
Which = NDArray[np.bool_]

WIDTH = 1.2
"""Width of the Gaussian under which rows are averaged before a border is drawn, spacings."""
REACH = 12.0
"""Distance from a border up to which rows say whether it is a step or a slope, spacings."""
_RAMP, _GAP = 0.75, 0.3
_PAIR = 2.0
_CARRY = 2.0
_WHITE, _SMOOTHEST, _STARTS = 25, 15, (2, 3, 4, 6, 8)
_ROUNDS = 8
_SHRINK = 0.05
_SMALLEST = 0.1
_LEAST = 50
_MAPS, _EXCEEDING = 500, 20
_PLACED = 200
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Area:
    """Rows of one known area.

    Parameters
    ----------
    rows : ndarray (n,) int64
        Their numbers in the table.
    where : ndarray (n, 2 or 3) float64
        Places in a space that brains share, in spacings: a table's median distance to the sixth neighbour, or to the
        next section where that is farther.
    brain, section : ndarray (n,) int64
    value : ndarray (n, p) float64
        Features without what is no cytoarchitecture, see `_evened`.
    inner : ndarray (n,) bool
        Rows whose patch hardly shows another area.
    """

    rows: Codes
    where: Real
    brain: Codes
    section: Codes
    value: Real
    inner: Which


@dataclass(frozen=True, eq=False)
class Parted:
    """Two parts of an area, and what speaks for them.

    Parameters
    ----------
    part : ndarray (n,) int64
        0 or 1, by what all brains together tell.
    step, error : float
        Change of single rows at the border beyond smooth change (a cubic), SD of rows within parts; standard error.
    p : float
        Chance of as large a step where change is smooth; one-sided.
    brains : dict of int to float
        Step over its error in each brain.
    place, p_place : float
        Correlation of each brain's parts with those of the other brains at the same place, mean; chance of as much in
        brains whose parts are as patchy and know nothing of each other.
    agreement : float
        Adjusted Rand index of what either half of a brain's sections draws, mean over brains.
    """

    part: Codes
    step: float
    error: float
    p: float
    brains: dict[int, float]
    place: float
    p_place: float
    agreement: float


class _Near:
    """Gaussian means over the rows of the same brain."""

    def __init__(self, area: Area, width: float) -> None:
        self.weight = [
            (rows, np.exp(-cdist(area.where[rows], area.where[rows], "sqeuclidean") / (2 * width**2)))
            for rows in _surroundings.each(area.brain)
        ]

    def mean(self, values: Real, who: Which) -> Real:
        """Means (n, ...) of ``values`` over the rows ``who``; 0 in brains that have none of them."""
        found = np.zeros_like(values, dtype=np.float64)
        for rows, weight in self.weight:
            some = who[rows]
            if some.any():
                near = weight[:, some]
                found[rows] = (
                    near
                    @ values[rows[some]]
                    / np.maximum(near.sum(axis=1), _TINY).reshape(-1, *([1] * (values.ndim - 1)))
                )
        return found


def parted(area: Area, *, seed: int, unless: float = 1.0) -> Parted | None:
    """Split an area in two, and judge the border; None where no two parts can be drawn in two brains.

    For each brain in turn, all others tell in which direction of feature space two parts differ. Every other section of
    the brain then draws the border, and the sections between, which share no tissue with these, say whether rows change
    by a step there, beyond smooth change; and the other way round. Where the parts lie is compared between brains:
    nothing until then knew of their places in the common space.

    Parameters
    ----------
    area : Area
    seed : int
        Key of every draw.
    unless : float
        Places are not compared where the chance of the step is larger: ``p_place`` is 1 then.
    """
    near = _Near(area, WIDTH)
    reference = _direction(area, near, area.inner, seed)
    if reference is None:
        return None
    mean = near.mean(area.value @ reference, area.inner)
    upper = mean >= (mean[area.inner])[_halves(mean[area.inner])].min()
    covariance = np.cov(area.value.T)
    part = np.full(len(area.rows), -1, dtype=np.int64)
    agreement, said = list[float](), dict[int, list[_Judged]]()
    for rows in _surroundings.each(area.brain):
        brain = int(area.brain[rows[0]])
        mine = area.brain == brain
        toward = _direction(area, near, area.inner & ~mine, seed)
        if toward is None or (area.inner & mine).sum() < _LEAST:
            continue
        toward = toward if toward @ covariance @ reference >= 0 else -toward
        value = area.value @ toward
        drawn = _drawn(near, value, area.inner & mine, rows)
        if drawn is None:
            continue
        part[rows] = drawn
        order = np.unique(area.section[rows], return_inverse=True)[1]
        both = list[Codes]()
        for half in (0, 1):
            draws = np.zeros_like(mine)
            draws[rows] = area.inner[rows] & (order % 2 == half)
            drawn = _drawn(near, value, draws, rows)
            if drawn is None:
                continue
            both.append(drawn)
            judges = area.inner[rows] & (order % 2 != half)
            judged = _judge(area.where[rows], area.section[rows], value[rows], drawn, judges)
            if judged is not None:
                said.setdefault(brain, []).append(judged)
        agreement.append(_agreement.ari(*both) if len(both) == 2 else 0.0)
    if len(np.unique(area.brain[part >= 0])) < 2 or not said:
        return None
    step, error, blocks = _stepped([one for some in said.values() for one in some])
    p = float(student.sf(step / error, max(blocks - 1, 1)))
    place, p_place = _place(area, part, seed) if p <= unless else (float("nan"), 1.0)
    alone = {brain: _stepped(some) for brain, some in said.items()}
    brains = {brain: value / width for brain, (value, width, _) in alone.items()}
    return Parted(upper.astype(np.int64), step, error, p, brains, place, p_place, float(np.mean(agreement)))


def _direction(area: Area, near: _Near, who: Which, seed: int) -> Real | None:
    """Direction (p,) in which two parts of the rows ``who`` differ, in SD of rows within parts.

    Factors that differ least between places side by side in two sections come first (minimum noise fraction, Green et
    al. 1988, IEEE Trans Geosci Remote Sens 26:65), so that what is a section's own, its stain, counts as noise. From
    two clusters of surroundings in the first few, linear discriminant analysis and averaging over surroundings take
    turns; of several such starts the one is kept after which surroundings fall into two clusters best.
    """
    pairs = _across(area, who)
    if who.sum() < 2 * _LEAST or len(pairs) < _LEAST:
        return None
    rows = area.value[who]
    value, axes = np.linalg.eigh(np.cov(rows.T))
    kept = np.argsort(-value)[:_WHITE]
    white = axes[:, kept] / np.sqrt(np.maximum(value[kept], 1e-9 * value.max()))
    away = (area.value[pairs[:, 0]] - area.value[pairs[:, 1]]) @ white
    factors = white @ eigh(away.T @ away / len(away))[1][:, :_SMOOTHEST]
    x = (area.value - rows.mean(axis=0)) @ factors
    mean = near.mean(x, who)
    best, toward = 0.0, None
    for first in _STARTS:
        found = _refined(x, mean, who, kmeans(mean[who, :first].astype(np.float32), 2, seed=seed, n_init=2).labels == 1)
        if found is not None and found[0] > best:
            best, toward = found
    return None if toward is None else factors @ toward


def _refined(x: Real, mean: Real, who: Which, side: Which) -> tuple[float, Real] | None:
    """How well surroundings fall into two clusters (share of their variance), and the direction of these."""
    toward = np.zeros(x.shape[1])
    for _ in range(_ROUNDS):
        if not _SMALLEST <= side.mean() <= 1 - _SMALLEST:
            return None
        a, b = x[who][~side], x[who][side]
        within = (np.cov(a.T) * len(a) + np.cov(b.T) * len(b)) / who.sum()
        toward = np.linalg.solve(within + _SHRINK * np.eye(len(within)), b.mean(axis=0) - a.mean(axis=0))
        toward /= np.sqrt(max(toward @ within @ toward, _TINY))
        again = _halves((mean @ toward)[who])
        if (again == side).all():
            break
        side = again
    value = (mean @ toward)[who]
    gap = value[side].mean() - value[~side].mean() if 0 < side.sum() < len(side) else 0.0
    return side.mean() * (1 - side.mean()) * gap**2 / max(value.var(), _TINY), toward


def _across(area: Area, who: Which) -> Codes:
    """Rows and their nearest in another section of the same brain, (m, 2), no farther than two spacings."""
    found = list[Codes]()
    for rows in _surroundings.each(area.brain):
        rows = rows[who[rows]]
        for some in _surroundings.each(area.section[rows]):
            here, there = rows[some], np.setdiff1d(rows, rows[some])
            if len(there):
                away, at = cast("Any", KDTree(area.where[there])).query(area.where[here])
                found.append(np.column_stack([here, there[at]])[away <= _PAIR])
    return np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64)


def _halves(value: Real) -> Which:
    """Which of the numbers (n,) belong to the upper of two clusters: two-means, exact in one dimension."""
    order = np.argsort(value, kind="stable")
    total = np.cumsum(value[order])
    below = np.arange(1, len(value))
    between = (total[:-1] / below - (total[-1] - total[:-1]) / (len(value) - below)) ** 2 * below * (len(value) - below)
    upper = np.zeros(len(value), dtype=bool)
    upper[order[int(np.argmax(between)) + 1 :]] = True
    return upper


def _drawn(near: _Near, value: Real, who: Which, rows: Codes) -> Codes | None:
    """Parts of the rows of a brain, from the means of ``value`` over those of them that draw; None if one is tiny."""
    if who.sum() < _LEAST / 2:
        return None
    mean = near.mean(value, who)[rows]
    upper = _halves(mean)
    return upper.astype(np.int64) if _SMALLEST <= upper[who[rows]].mean() <= 1 - _SMALLEST else None


@dataclass(frozen=True, eq=False)
class _Judged:
    """Judges of a border: the step and their values less what smooth change explains; section and block of each."""

    step: Real
    value: Real
    section: Codes
    block: Codes


def _judge(where: Real, section: Codes, value: Real, part: Codes, judges: Which) -> _Judged | None:
    """What is left of a step, and of values, beside a cubic of the distance from the border; None with few judges.

    A slope that levels off on both sides, as a slow wave across an area does, is a cubic; a border is none.
    """
    away = np.zeros(len(part))
    for side in (0, 1):
        here, there = np.flatnonzero(part == side), np.flatnonzero(part != side)
        to = cast("Any", KDTree(where[there])).query(where[here])[0]
        away[here] = np.maximum(to - _GAP, 0) * (2 * side - 1)
    some = judges & (np.abs(away) < REACH)
    far = away[some] > 0
    if some.sum() < _LEAST / 2 or min(far.sum(), (~far).sum()) < _LEAST / 5:
        return None
    smooth = np.vander(away[some] / REACH, 4)
    both = np.column_stack([np.clip(away[some] / _RAMP, -1, 1) / 2, value[some]])
    step, rest = (both - smooth @ np.linalg.lstsq(smooth, both, rcond=None)[0]).T
    return _Judged(step, rest, section[some], _quarters(where)[some])


def _quarters(where: Real) -> Codes:
    """Number of the quarter of a brain's area that each row lies in: (n,)."""
    flat = where[:, np.argsort(-where.var(axis=0), kind="stable")[:2]]
    upper = np.argsort(np.argsort(flat, axis=0, kind="stable"), axis=0) * 2 // len(flat)
    return upper[:, 0] * 2 + upper[:, 1]


def _stepped(judged: list[_Judged]) -> tuple[float, float, int]:
    """Step, its standard error, and the number of blocks it is from.

    Rows of a section overlap, and what is left of smooth change is alike in neighbouring sections: the larger of the
    errors over sections and over quarters of the area in each brain.
    """
    size = max(sum(float(one.step @ one.step) for one in judged), _TINY)
    value = sum(float(one.step @ one.value) for one in judged) / size
    variance, count = [0.0, 0.0], 0
    for one in judged:
        left = one.step * (one.value - value * one.step)
        for k, names in enumerate((one.section, one.block)):
            unit = np.unique(names, return_inverse=True)[1]
            variance[k] += float((np.bincount(unit, weights=left) ** 2).sum())
        count += len(np.unique(one.block))
    return value, float(np.sqrt(max(*variance, _TINY))) / size, count


def _place(area: Area, part: Codes, seed: int) -> tuple[float, float]:
    """Whether brains agree where the parts lie: mean correlation, and its p under maps that are as patchy by chance.

    Maps are drawn until twenty agree as well, or five hundred are (Besag and Clifford 1991, Biometrika 78:301).
    """
    kept = [rows[part[rows] >= 0] for rows in _surroundings.each(area.brain)]
    kept = [np.sort(stream(seed, "placed", int(rows[0])).permutation(rows)[:_PLACED]) for rows in kept if len(rows)]
    where, own = [area.where[rows] for rows in kept], [part[rows] for rows in kept]
    carry = [
        np.hstack([np.exp(-cdist(here, there, "sqeuclidean") / (2 * _CARRY**2)) * (a != b) for b, there in
                   enumerate(where)])
        for a, here in enumerate(where)
    ]  # fmt: skip
    carry = [weight / np.maximum(weight.sum(axis=1, keepdims=True), _TINY) for weight in carry]

    def agreement(maps: list[Codes]) -> float:
        all_ = 2.0 * np.concatenate(maps) - 1
        return float(np.mean([_correlation(one, weight @ all_) for one, weight in zip(maps, carry, strict=True)]))

    observed = agreement(own)
    places, codes = np.concatenate(where), np.concatenate(own)
    number = np.repeat(np.arange(len(kept)), [len(rows) for rows in kept])
    length = Surrogate.fit(places, codes, number, seed).length_mm
    alike = [Surrogate(here, one, length) for here, one in zip(where, own, strict=True)]
    exceeding, drawn = 0, 0
    while exceeding < _EXCEEDING and drawn < _MAPS:
        maps = [one.draw(stream(seed, "place", drawn, b)) for b, one in enumerate(alike)]
        exceeding += agreement(maps) >= observed
        drawn += 1
    stopped = exceeding >= _EXCEEDING
    return observed, exceeding / drawn if stopped else (exceeding + 1) / (drawn + 1)


def _correlation(a: Any, b: Real) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), _TINY))
