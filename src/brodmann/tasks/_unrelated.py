"""What a readout of the features is worth for unrelated maps that are as patchy, or as smooth, as the true one.

n rows, K classes, R maps. Features of tissue are smooth in place and so is what is asked of them: two unrelated smooth
maps agree by chance far more often than shuffled ones. Each null map, and the true one alike, is learned and tested on
the same rows of the same folds, so that the true value is one more draw where the features tell nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.samples import stream
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._fields import Field
from brodmann.tasks._probe import Probe, fit_predict, ridge_all
from brodmann.tasks._score import Estimate
from brodmann.tasks._spin import p_value
from brodmann.tasks._surrogate import Surrogate

Codes = NDArray[np.int64]
Real = NDArray[np.float64]
Parts = list[tuple[Codes, Codes]]

CLASS_MAPS, NUMBER_MAPS = 39, 99
_FOLDS = 4
_TEST, _TRAIN = 1000, 1500
"""Rows that are tested, and rows that are learned from beside those of other folds' tests."""
_PENALTY = 1e-2


@dataclass(frozen=True, eq=False)
class Unrelated:
    """Values under null maps and, by the same procedure, under the true one.

    Parameters
    ----------
    kind : str
        How maps were made, in words.
    rows : int
        Rows that took part.
    values : ndarray (R,) float64
    observed : float
    """

    kind: str
    rows: int
    values: Real
    observed: float

    @property
    def p(self) -> float:
        """(1 + null maps at least as good) / (1 + R)."""
        return p_value(self.observed, self.values)

    def estimates(self) -> dict[str, Estimate]:
        """What a score tells of it: the null, the features by its procedure, and the p value."""
        low, high = limits(self.values)
        times, count = len(self.values), f"{self.rows:,} rows, one penalty"
        text = f"{self.kind}, {times} times; mean, 5th and 95th percentile"
        return {
            "spatial null": Estimate(float(np.nanmean(self.values)), low, high, text),
            "features, as the null": Estimate(self.observed, note=f"what to compare with the spatial null: {count}"),
            "p, features": Estimate(self.p, note=f"(1 + null maps at least as good) / (1 + {times})"),
        }

    def remarks(self) -> list[str]:
        """What the null allows to be said, where it forbids something."""
        if self.p <= 0.05:
            return []
        return [f"unrelated maps as smooth as this one are read out as well (p = {self.p:.2g})"]


def limits(values: Real) -> tuple[float, float]:
    """The 5th and 95th percentile, which one more draw passes with probability .05 each (rank / (R + 1))."""
    low, high = np.nanpercentile(values, [5, 95], method="weibull")
    return float(low), float(high)


def of_classes(
    x: NDArray[np.float32],
    where: Real,
    brain: Codes,
    codes: Codes,
    parts: Parts,
    *,
    probe: Probe,
    measure: Callable[[NDArray[np.number]], Real],
    seed: int,
    repeats: int = CLASS_MAPS,
) -> Unrelated:
    """Random maps of classes, `_surrogate.Surrogate`.

    Parameters
    ----------
    x : ndarray (n, d) float32
        Features.
    where : ndarray (n, 2 or 3) float64
        Places in one common space, mm.
    brain, codes : ndarray (n,) int64
        Brain and class of each row; class -1 where it takes no part.
    parts : list of (train, test)
        Rows of each fold.
    probe : {"linear", "knn"}
    measure : callable
        Confusion matrix (K, K), rows truth, to a value.
    seed, repeats : int
    """
    used, kept = _some(parts, seed)
    size, labels = int(codes.max()) + 1, codes[used]
    surrogate = Surrogate.fit(where[used], labels, brain[used], seed)
    x = x[used]

    def value(said_of: Codes) -> float:
        matrix = np.zeros((size, size), dtype=np.int64)
        for a, b in kept:
            said, _ = fit_predict(probe, x[a], said_of[a], a, x[b], seed, penalty=_PENALTY)
            matrix += metrics.confusion(said_of[b], said, size)
        return float(measure(matrix))

    values = np.array([value(surrogate.draw(stream(seed, "unrelated classes", r))) for r in range(repeats)])
    kind = f"random maps as patchy as the labels (length {surrogate.length_mm:.2g} mm)"
    return Unrelated(kind, len(used), values, value(labels))


def of_numbers(
    x: NDArray[np.float32],
    where: Real,
    brain: Codes,
    y: Real,
    parts: Parts,
    *,
    seed: int,
    repeats: int = NUMBER_MAPS,
) -> Unrelated:
    """R^2 of random maps of numbers, `_fields.Field`; all are regressed at once.

    Parameters
    ----------
    x, where, brain, parts
        As in `of_classes`.
    y : ndarray (n,) float64
        Numbers, known in all rows of ``parts``.
    seed, repeats : int
    """
    used, kept = _some(parts, seed)
    x, field = x[used], Field.fit(where[used], y[used], brain[used], seed)
    drawn = [field.draw(stream(seed, "unrelated numbers", r)) for r in range(repeats)]
    maps = np.column_stack([y[used], *drawn])
    left, whole = np.zeros(maps.shape[1]), np.zeros(maps.shape[1])
    for a, b in kept:
        left += ((maps[b] - ridge_all(x[a], maps[a], x[b], _PENALTY)) ** 2).sum(axis=0)
        whole += ((maps[b] - maps[a].mean(axis=0)) ** 2).sum(axis=0)
    values = 1 - np.divide(left, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    kind = (
        f"random maps as smooth as the numbers (length {field.length_mm:.2g} mm, {field.shared:.0%} shared by brains)"
    )
    return Unrelated(kind, len(used), values[1:], float(values[0]))


def _some(parts: Parts, seed: int) -> tuple[Codes, Parts]:
    """Rows that take part (m,), and the folds among them: a few folds, evenly drawn, and a few rows of each."""
    chosen = [parts[k] for k in np.unique(np.linspace(0, len(parts) - 1, min(len(parts), _FOLDS)).round().astype(int))]
    rng = stream(seed, "unrelated rows", len(chosen))
    tests = [np.sort(rng.permutation(test)[: _TEST // len(chosen)]) for _, test in chosen]
    pool = np.setdiff1d(np.unique(np.concatenate([train for train, _ in chosen])), np.concatenate(tests))
    used = np.unique(np.concatenate([*tests, rng.permutation(pool)[:_TRAIN]]))
    kept: Parts = []
    for (train, _), test in zip(chosen, tests, strict=True):
        kept.append((np.flatnonzero(np.isin(used, train)), np.searchsorted(used, test)))
    return used, [(a, b) for a, b in kept if len(a) and len(b)]
