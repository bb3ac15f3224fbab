"""How many domains: those that come back when other rows are clustered.

For each k, k-means is fitted to random halves and predicts all rows; the mean agreement of the predictions is the
stability of k (Ben-Hur et al. 2002; Lange et al. 2004). Information criteria say nothing here: rows are correlated
in space.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Usage
from brodmann.samples import stream
from brodmann.tasks import _agreement
from brodmann.tasks._cluster import Rows, assign, kmeans

ROWS = 100_000
"""Rows that take part."""

REPEATS = 5
"""Halves for each number of clusters."""

_FEW = 100


@dataclass(frozen=True)
class Stability:
    """Stability over k, beside what smoothing alone gives.

    Parameters
    ----------
    k : tuple of int
        Numbers of clusters tried, rising.
    mean, sd : tuple of float
        Mean pairwise adjusted Rand index, and its standard deviation over pairs.
    null : tuple of float
        The same of smoothed noise; empty where there was none.
    maxima : tuple of int
        Local maxima of ``mean``.
    picks : tuple of int
        Maxima above the null, most stable first: offered as levels. The best k over the null if there is none.
    """

    k: tuple[int, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    null: tuple[float, ...]
    maxima: tuple[int, ...]
    picks: tuple[int, ...]

    def at(self, k: int) -> float:
        """Stability of the tried number nearest to ``k``."""
        return self.mean[int(np.abs(np.log(np.array(self.k) / k)).argmin())]


def grid(rows: int, *, most: int | None = None, points: int = 16) -> tuple[int, ...]:
    """Whole numbers evenly spread on a log scale, from 2 to ``most`` (by default as many as 50 rows each allow)."""
    top = max(3, min(1500, rows // 50) if most is None else most)
    return tuple(int(k) for k in np.unique(np.geomspace(2, top, points).round().astype(int)))


def stability(
    x: Rows,
    ks: Sequence[int],
    *,
    null: Rows | None = None,
    repeats: int = REPEATS,
    rows: int = ROWS,
    seed: int = 0,
    done: Callable[[str], object] | None = None,
) -> Stability:
    """Measure the stability of each number of clusters.

    Parameters
    ----------
    x : ndarray (n, d) floating
    ks : sequence of int
    null : ndarray (n, e) floating, optional
        Smoothed noise of the same rows.
    repeats : int
        Halves per k.
    rows : int
        At most so many random rows take part.
    seed : int
    done : callable, optional
        Told when a number of clusters was measured.

    Returns
    -------
    Stability

    Raises
    ------
    Usage
        No k, or one that halves of the rows cannot hold.
    """
    some = np.sort(stream(seed, "stability", len(x)).permutation(len(x))[:rows])
    tried = tuple(sorted({int(k) for k in ks}))
    if not tried or tried[0] < 2 or tried[-1] > len(some) // 2:
        raise Usage(
            f"numbers of domains should lie between 2 and {len(some) // 2} for {len(some):,} rows.",
            found=", ".join(map(str, tried)) or "none.",
        )
    taken, found = np.asarray(x[some], dtype=np.float32), list[NDArray[np.float64]]()
    for k in tried:
        found.append(_pairs(taken, k, repeats, seed))
        if done is not None:
            done(f"stability at {k}")
    mean = tuple(float(pairs.mean()) for pairs in found)
    flat: tuple[float, ...] = ()
    if null is not None:
        flat = tuple(float(_pairs(np.asarray(null[some], np.float32), k, repeats, seed).mean()) for k in tried)
    maxima = _maxima(tried, mean)
    above = dict(zip(tried, np.subtract(mean, flat or 0.0), strict=True))
    value = dict(zip(tried, mean, strict=True))
    picks = tuple(sorted((k for k in maxima if above[k] > 0), key=lambda k: -value[k]))
    if not picks:
        picks = (max(tried, key=lambda k: above[k]),)
    return Stability(tried, mean, tuple(float(pairs.std()) for pairs in found), flat, maxima, picks)


def _pairs(x: NDArray[np.float32], k: int, repeats: int, seed: int) -> NDArray[np.float64]:
    """Agreement of every two of the predictions: (repeats choose 2,)."""
    said: list[NDArray[np.int64]] = []
    for repeat in range(repeats):
        half = np.sort(stream(seed, "half", k, repeat).permutation(len(x))[: len(x) // 2])
        # with many clusters one start ends where another does, and three would take minutes
        starts = 3 if k <= _FEW else 1
        fitted = kmeans(x[half], k, seed=int(stream(seed, "start", k, repeat).integers(2**31)), n_init=starts)
        said.append(assign(x, fitted.centres)[0].astype(np.int64))
    return np.array([_agreement.ari(a, b) for a, b in itertools.combinations(said, 2)])


def _maxima(k: Sequence[int], mean: Sequence[float]) -> tuple[int, ...]:
    """Inner points higher than both neighbours; the ends of a grid are no maxima."""
    inner = range(1, len(k) - 1)
    return tuple(k[i] for i in inner if mean[i] > mean[i - 1] and mean[i] >= mean[i + 1])
