"""Poisson regression of counts within clusters: each cluster's total is given, its sharing out is what is modelled.

P rows, k columns of a design, G clusters of rows, B draws. A Poisson regression with a free level for each cluster is
the same as a multinomial one given each total; an offset of the log of the total alone would be wrong wherever the
mean rate of candidates differs between clusters, and would flatten every slope a little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.samples import stream
from brodmann.tasks import _metrics as metrics

Real = NDArray[np.float64]

_STEPS = 100
_RIDGE = 1e-9


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts in clusters.

    Parameters
    ----------
    counts : ndarray (P,) float64
    offset : ndarray (P,) float64
        Log of the exposure; a constant of a cluster makes no difference.
    cluster : ndarray (P,) int64
        Numbers from 0; some may be absent.
    """

    counts: Real
    offset: Real
    cluster: NDArray[np.int64]

    def among(self, rows: NDArray[np.bool_]) -> Counts:
        """Some rows, of whole clusters."""
        return Counts(self.counts[rows], self.offset[rows], self.cluster[rows])

    def sums(self, values: Real) -> Real:
        """Sum of values (P,) in each cluster: (G,)."""
        return np.bincount(self.cluster, values).astype(np.float64)


def rate(given: Counts, design: Real, coefficients: Real) -> Real:
    """Expected counts (P,), which add up to the total of each cluster."""
    level = given.offset + design @ coefficients
    share = np.exp(level - level.max())
    factor = np.divide(given.sums(given.counts), total := given.sums(share), out=np.zeros_like(total), where=total > 0)
    return share * factor[given.cluster]


def fit(given: Counts, design: Real) -> Real:
    """Coefficients of ``log E[count] = level of the cluster + offset + design @ b``, by Newton's method.

    Parameters
    ----------
    given : Counts
    design : ndarray (P, k) float64
        Standardised columns.

    Returns
    -------
    ndarray (k,) float64

    Raises
    ------
    Refused
        No counts at all, or no optimum after 100 steps: a column that separates zeros from the rest.
    """
    if given.counts.sum() <= 0:
        raise Refused("a Poisson regression needs counts.", found=f"none in {len(given.counts):,} rows.")
    at = np.zeros(design.shape[1])
    value = _likelihood(given, design, at)
    for _ in range(_STEPS):
        expected = rate(given, design, at)
        inner = centred(given, design, expected)
        curvature = inner.T @ (inner * expected[:, None])
        # a column of zeros, such as a constant that was standardised, keeps a coefficient of zero
        curvature[np.diag_indices_from(curvature)] += _RIDGE * (1 + np.diag(curvature))
        gradient = design.T @ (given.counts - expected)
        step = np.linalg.solve(curvature, gradient)
        # half of this is what the step gains at most
        if float(gradient @ step) < 1e-10 * (1 + abs(value)):
            return at + step
        moved = _likelihood(given, design, at + step)
        while moved < value and np.abs(step).max() > 1e-12:
            step = step / 2
            moved = _likelihood(given, design, at + step)
        at, value = at + step, moved
    raise Refused(
        "a Poisson regression should have an optimum.", found=f"none after {_STEPS} steps.",
        cause="a feature that separates pairs with synapses from all others.", do="leave that feature out.",
    )  # fmt: skip


def centred(given: Counts, design: Real, expected: Real) -> Real:
    """Columns about their mean in each cluster, weighted by what is expected: (P, k)."""
    total = np.maximum(given.sums(expected), 1e-300)
    result = np.empty_like(design)
    for column in range(design.shape[1]):
        mean = given.sums(design[:, column] * expected) / total
        result[:, column] = design[:, column] - mean[given.cluster]
    return result


def deviance(counts: Real, expected: Real) -> Real:
    """Deviance of each row, 2 (y log(y / mu) - (y - mu)): (P,)."""
    ratio = np.divide(counts, expected, out=np.ones_like(counts), where=counts > 0)
    return 2 * (counts * np.log(ratio) - (counts - expected))


def redrawn(given: Counts, design: Real, fitted: Real, seed: int) -> Real:
    """Coefficients in draws of whole clusters: one Newton step each from the fit to all rows, (B, k).

    The step uses gradient and curvature of the drawn clusters, so that a draw costs nothing of the size of the data
    (Moulton and Zeger 1991, the one-step bootstrap of generalised linear models).
    """
    expected = rate(given, design, fitted)
    inner, k = centred(given, design, expected), design.shape[1]
    slopes = np.stack([given.sums(design[:, a] * (given.counts - expected)) for a in range(k)], axis=1)
    curves = np.empty((len(slopes), k, k))
    for a in range(k):
        weighted = inner[:, a] * expected
        for b in range(a, k):
            curves[:, a, b] = curves[:, b, a] = given.sums(weighted * inner[:, b])
    size = len(slopes)
    rng = stream(seed, "poisson draws", size)
    times = rng.multinomial(size, np.full(size, 1 / size), metrics.DRAWS).astype(np.float64)
    curvature = np.tensordot(times, curves, 1) + _RIDGE * np.eye(k)
    return fitted + np.linalg.solve(curvature, (times @ slopes)[:, :, None])[:, :, 0]


def _likelihood(given: Counts, design: Real, at: Real) -> float:
    level = given.offset + design @ at
    top = float(level.max())
    total = given.sums(np.exp(level - top))
    counts = given.sums(given.counts)
    return float(given.counts @ (level - top) - counts @ np.log(np.maximum(total, 1e-300)))
