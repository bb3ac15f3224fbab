"""Measures of agreement, their intervals, and where in the brain the errors lie.

n rows, K classes, G clusters (sections or brains), B bootstrap draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann.samples import stream
from brodmann.tasks._score import Estimate

DRAWS = 1000

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Bootstrap:
    """Draws of whole clusters with replacement, shared by every value that is compared.

    Parameters
    ----------
    cluster : ndarray (n,) int64
        Cluster number of each held-out row.
    times : ndarray (B, G) float64
        How often each draw holds each cluster.
    """

    cluster: Codes
    times: NDArray[np.float64]

    @classmethod
    def of(cls, names: NDArray[Any], seed: int) -> Bootstrap:
        """Draw clusters, as many as there are, `DRAWS` times; whole numbers from 0 are names, too."""
        if names.dtype.kind in "iu":
            held = np.flatnonzero(np.bincount(names))
            # numbers in the order of their text, as any other names
            order = np.empty(int(held[-1]) + 1, dtype=np.int64)
            order[held[np.argsort(held.astype(str))]] = np.arange(len(held))
            number = order[names]
        else:
            _, number = np.unique(names.astype(str), return_inverse=True)
        count = int(number.max()) + 1
        rng = stream(seed, "bootstrap", count)
        times = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
        return cls(number.reshape(-1).astype(np.int64), times)

    def confusions(self, truth: Codes, predicted: Codes, n_classes: int) -> NDArray[np.float64]:
        """Confusion matrix of each draw: (B, K, K), rows truth."""
        size = self.times.shape[1]
        flat = (self.cluster * n_classes + truth) * n_classes + predicted
        per_cluster = np.bincount(flat, minlength=size * n_classes**2).reshape(size, -1)
        return (self.times @ per_cluster).reshape(-1, n_classes, n_classes)


def confusion(truth: Codes, predicted: Codes, n_classes: int) -> NDArray[np.int64]:
    """Confusion matrix (K, K), rows truth."""
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def per_class_f1(matrix: NDArray[np.number]) -> NDArray[np.float64]:
    """F1 = 2 TP / (2 TP + FP + FN) of each class: (..., K); NaN for classes absent from the truth."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    true, said = matrix.sum(axis=-1), matrix.sum(axis=-2)
    return np.where(true > 0, 2 * right / np.maximum(true + said, 1e-12), np.nan)


def per_class(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and n of each class by name, of a confusion matrix (K, K); NaN where there are no rows."""
    right = np.diag(matrix).astype(float)
    true, said = matrix.sum(axis=1), matrix.sum(axis=0)
    f1 = per_class_f1(matrix)
    return {
        name: {
            "precision": float(right[i] / said[i]) if said[i] else float("nan"),
            "recall": float(right[i] / true[i]) if true[i] else float("nan"),
            "f1": float(f1[i]),
            "n": int(true[i]),
        }
        for i, name in enumerate(classes)
    }


def macro_f1(matrix: NDArray[np.number]) -> NDArray[np.float64]:
    """Mean F1 over the classes that occur in the truth: (...,)."""
    return _over_known(per_class_f1(matrix))


def balanced_accuracy(matrix: NDArray[np.number]) -> NDArray[np.float64]:
    """Mean recall over the classes that occur in the truth: (...,)."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    true = matrix.sum(axis=-1)
    return _over_known(np.where(true > 0, right / np.maximum(true, 1e-12), np.nan))


def _over_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is not NaN; NaN where nothing is, such as a draw without any known class."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.where(known.any(axis=-1), total / np.maximum(known.sum(axis=-1), 1), np.nan)


def accuracy(matrix: NDArray[np.number]) -> NDArray[np.float64]:
    """Fraction right: (...,)."""
    return np.trace(matrix, axis1=-2, axis2=-1) / np.maximum(matrix.sum(axis=(-2, -1)), 1e-12)


def estimate(value: float, draws: NDArray[np.float64], note: str = "") -> Estimate:
    """Value with the 2.5th and 97.5th percentile of its draws."""
    finite = draws[np.isfinite(draws)]
    if len(finite) < 2:
        return Estimate(value, note=note)
    low, high = np.percentile(finite, [2.5, 97.5])
    return Estimate(value, float(low), float(high), note)


def coordinates(places: pd.DataFrame) -> tuple[NDArray[np.float64], str]:
    """Where rows lie, mm: on the cortical sheet (n, 2) where every row knows it, else in space (n, 3); and which."""
    if {"u_mm", "v_mm"} <= set(places.columns):
        sheet = places[["u_mm", "v_mm"]].to_numpy(dtype=np.float64)
        if np.isfinite(sheet).all():
            return sheet, "sheet"
    return places[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64), "space"


def spacing(where: NDArray[np.float64], brain: NDArray[np.object_]) -> float:
    """Median distance to the nearest other place of the same brain, mm."""
    nearest: list[NDArray[np.float64]] = []
    for who in np.unique(brain.astype(str)):
        mine = where[brain.astype(str) == who]
        if len(mine) > 1:
            nearest.append(cast("NDArray[np.float64]", KDTree(mine).query(mine, k=2)[0])[:, 1])
    return float(np.median(np.concatenate(nearest))) if nearest else 0.0


def border_distance(
    where: NDArray[np.float64], brain: NDArray[np.object_], labels: Codes, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Distance from each of ``rows`` to the nearest place of the same brain with another label.

    Parameters
    ----------
    where : ndarray (n, 2 or 3) float64
        Places of all labelled rows, mm.
    brain : ndarray (n,)
        Brain of each row.
    labels : ndarray (n,) int64
        True label of each row.
    rows : ndarray (m,) int64
        Rows to answer for.

    Returns
    -------
    ndarray (m,) float64
        mm; infinity where the brain holds one label only.
    """
    result = np.full(len(rows), np.inf)
    for who in np.unique(brain[rows].astype(str)):
        mine = np.flatnonzero(brain.astype(str) == who)
        asked = np.flatnonzero(brain[rows].astype(str) == who)
        for label in np.unique(labels[rows[asked]]):
            other = mine[labels[mine] != label]
            if len(other):
                some = asked[labels[rows[asked]] == label]
                result[some] = KDTree(where[other]).query(where[rows[some]])[0]
    return result


def class_distance(
    where: NDArray[np.float64],
    brain: NDArray[np.object_],
    labels: Codes,
    rows: NDArray[np.int64],
    said: Codes,
) -> NDArray[np.float64]:
    """Distance from each of ``rows`` to the nearest place of the same brain whose true label is the one said.

    Returns
    -------
    ndarray (m,) float64
        mm; 0 where the row itself carries that label, infinity where the brain does not hold it.
    """
    result = np.full(len(rows), np.inf)
    for who in np.unique(brain[rows].astype(str)):
        mine = np.flatnonzero(brain.astype(str) == who)
        asked = np.flatnonzero(brain[rows].astype(str) == who)
        for label in np.unique(said[asked]):
            there = mine[labels[mine] == label]
            if len(there):
                some = asked[said[asked] == label]
                result[some] = KDTree(where[there]).query(where[rows[some]])[0]
    return result
