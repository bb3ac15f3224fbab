"""Agreement of a clustering with labels, and its coherence in tissue: each means little without the other.

n rows, K classes, k clusters, B draws.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _surroundings

Codes = NDArray[np.int64]

_ROWS = 100_000
_CELLS = 10_000


def contingency(truth: Codes, said: Codes) -> NDArray[np.float64]:
    """Rows of each class in each cluster: (K, k) float64."""
    k = int(said.max()) + 1
    return np.bincount(truth * k + said, minlength=(int(truth.max()) + 1) * k).reshape(-1, k).astype(np.float64)


def rand_index(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted Rand index (Hubert and Arabie 1985, eq. 5) of contingency tables (..., K, k): (...,)."""

    def pairs(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return (counts * (counts - 1) / 2).sum(axis=-1)

    both = pairs(table.reshape(*table.shape[:-2], -1))
    rows, columns = pairs(table.sum(axis=-1)), pairs(table.sum(axis=-2))
    n = table.sum(axis=(-2, -1))
    expected = rows * columns / np.maximum(n * (n - 1) / 2, 1e-12)
    most = (rows + columns) / 2
    # One class and one cluster agree perfectly, though nothing could have gone wrong.
    return np.where(most - expected > 1e-12, (both - expected) / np.maximum(most - expected, 1e-12), 1.0)


def ari(truth: Codes, said: Codes) -> float:
    """Adjusted Rand index."""
    return float(rand_index(contingency(truth, said)))


def counts(truth: Codes, said: NDArray[np.integer[Any]], boot: metrics.Bootstrap) -> NDArray[np.float64]:
    """Rows of each class in each cluster, for each unit of the bootstrap: (U, K, k); (1, K, k) if that would not fit.

    One pass over the rows: their sum is the table of all rows, products with draws are the tables of draws.
    """
    rows, columns = int(truth.max()) + 1, int(said.max()) + 1
    if rows * columns > _CELLS:
        return contingency(truth, said.astype(np.int64))[None]
    flat = (boot.cluster * rows + truth) * columns
    flat += said
    units = boot.times.shape[1]
    return np.bincount(flat, minlength=units * rows * columns).reshape(units, rows, columns).astype(np.float64)


def drawn(counted: NDArray[np.float64], boot: metrics.Bootstrap) -> NDArray[np.float64]:
    """Adjusted Rand index under each draw of whole units, from their `counts`: (B,), or none if they are not apart."""
    units, rows, columns = counted.shape
    if units < boot.times.shape[1]:
        return np.empty(0)
    return rand_index((boot.times @ counted.reshape(units, -1)).reshape(-1, rows, columns))


def draws(truth: Codes, said: Codes, boot: metrics.Bootstrap) -> NDArray[np.float64]:
    """Adjusted Rand index under each draw of whole units: (B,); none where the tables would not fit in memory."""
    return drawn(counts(truth, said, boot), boot)


def information(truth: Codes, said: Codes) -> tuple[float, float]:
    """Normalised and adjusted mutual information (arithmetic mean; Vinh et al. 2010)."""
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    some = slice(None, None, max(1, len(truth) // _ROWS))
    a, b = truth[some], said[some]
    return float(normalized_mutual_info_score(a, b)), float(adjusted_mutual_info_score(a, b))


def coherence(
    labels: NDArray[np.integer[Any]],
    where: NDArray[np.float64],
    section: NDArray[np.int64],
    near: NDArray[np.integer[Any]] | None = None,
) -> dict[str, float]:
    """How whole domains are in the tissue; smoothing alone makes all three good.

    Parameters
    ----------
    labels : ndarray (n,) int
        Rows with -1 take no part.
    where : ndarray (n, 2 or 3) float64
    section : ndarray (n,) int64
    near : ndarray (n, >= 10) int, optional
        Neighbours; looked up when not given.

    Returns
    -------
    dict
        ``same``: share of the 6 nearest with the same label. ``PAS``: share of rows of whose 10 nearest at least 6
        carry another label. ``CHAOS``: mean distance to the nearest row of the same domain, in standard deviations of
        the section (Shang and Zhou 2022). Lower is better for the last two.
    """
    labels = np.asarray(labels)
    near = _surroundings.neighbours(where, section, 10) if near is None else near
    there = (near[:, :10] >= 0) & (labels[near[:, :10]] >= 0)
    equal = there & (labels[near[:, :10]] == labels[:, None])
    known = labels >= 0
    six = there[known, :6].sum(axis=1)
    other = there[known].sum(axis=1) - equal[known].sum(axis=1)
    total, count = 0.0, 0
    for rows in _surroundings.each(section):
        z = where[rows]
        z = (z - z.mean(axis=0)) / max(float(np.sqrt(z.var(axis=0).mean())), 1e-12)
        for label in np.unique(labels[rows][labels[rows] >= 0]):
            own = z[labels[rows] == label]
            if len(own) > 2:
                total += float(cast("NDArray[np.float64]", KDTree(own).query(own, k=2)[0])[:, 1].sum())
                count += len(own)
    return {
        "same": float((equal[known, :6].sum(axis=1) / np.maximum(six, 1)).mean()),
        "PAS": float((other >= 0.6 * np.maximum(there[known].sum(axis=1), 1)).mean()),
        "CHAOS": total / max(count, 1),
    }
