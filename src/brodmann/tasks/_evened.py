"""Features of patches without what the cut and the folding of cortex put into them.

A patch shows more than its cytoarchitecture: layers that are compressed on one side of a fold, a cut that is oblique.
Within an area these change more than anything else does, and fast: from crown to bank within millimetres, as at a
border between areas. Where the table tells them, they can be taken out.

n rows, p components, E numbers that explain.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from scipy.spatial.distance import cdist
from sklearn.preprocessing import SplineTransformer

from brodmann.tasks import _rows, _surroundings

Codes = NDArray[np.int64]
Real = NDArray[np.float64]

CUT = ("curvature", "cutting_angle_deg")
"""Columns that say how cortex is folded and cut at a row; those that a table has are used."""

_COMPONENTS = 40
_KNOTS = 6
_AROUND_MM = (1.0, 2.5)
_RIDGE = 1e-2
_MOST = 4000


def components(features: NDArray[np.floating[Any]]) -> Real:
    """Principal components of standardised features that hold nearly all of their variance: (n, p)."""
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(axis=0)
    x /= np.maximum(x.std(axis=0), 1e-9)
    value, axes = np.linalg.eigh(x.T @ x / len(x))
    kept = np.argsort(-value)[:_COMPONENTS]
    return x @ axes[:, kept[value[kept] > 1e-9]]


def cut(table: AnnData) -> tuple[Real, tuple[str, ...]]:
    """Smooth functions of how cortex is folded and cut at and around every row, and the columns that told it.

    A cubic spline of each column and their product; of the curvature also its mean around a row, a wider one less that,
    and how fast it changes along the section (both signs alike: a mirrored patch is the same patch).

    Returns
    -------
    (ndarray (n, E) float64, tuple of str)
        Without columns where the table has none of `CUT`.
    """
    obs = _rows.places(table)
    told = tuple(name for name in CUT if name in obs and np.isfinite(obs[name].to_numpy(dtype=np.float64)).all())
    if not told:
        return np.zeros((len(obs), 0)), ()
    value = obs[list(told)].to_numpy(dtype=np.float64)
    value = np.clip((value - value.mean(axis=0)) / np.maximum(value.std(axis=0), 1e-12), -3, 3)
    made = [_spline(one) for one in value.T] + [value.prod(axis=1, keepdims=True)]
    if told[0] == CUT[0]:
        made.append(_around(value[:, 0], table))
    found = np.hstack(made)
    return found - found.mean(axis=0), told


def _spline(value: Real) -> Real:
    knots = np.unique(np.quantile(value, np.linspace(0, 1, _KNOTS)))
    if len(knots) < 2:
        return np.zeros((len(value), 0))
    made = SplineTransformer(degree=3, knots=cast("Any", knots[:, None]), extrapolation="linear", include_bias=False)
    return np.asarray(made.fit_transform(value[:, None]), dtype=np.float64)


def _around(value: Real, table: AnnData) -> Real:
    """Mean around each row within its section, a wider one less it, and the steepness of the narrower: (n, 3)."""
    where, section = _surroundings.positions(table) / 1000, _surroundings.sections(table)
    found = np.zeros((len(value), 3))
    for rows in _surroundings.each(section):
        if not 2 < len(rows) <= _MOST:
            continue
        squared = cdist(where[rows], where[rows], "sqeuclidean")
        close, wide = (_mean(np.exp(-squared / (2 * mm**2)), value[rows]) for mm in _AROUND_MM)
        found[rows] = np.column_stack([close, wide - close, np.abs(np.gradient(close))])
    return (found - found.mean(axis=0)) / np.maximum(found.std(axis=0), 1e-12)


def _mean(weight: Real, values: Real) -> Real:
    return weight @ values / weight.sum(axis=1)


def evened(values: Real, region: Codes, shared: Real) -> Real:
    """Values (n, p) less what ``shared`` (n, E) explains beside a level of every region (n,), and less these levels."""
    return without(values, cast("Any", hstack([_levels(region), csr_matrix(shared)])).tocsr())


def without(values: Real, explained: Any) -> Real:
    """Values (n, p) less what ``explained`` (n, E), dense or sparse, says of them."""
    gram, right = explained.T @ explained, explained.T @ values
    gram = gram.toarray() if hasattr(gram, "toarray") else gram
    return values - explained @ np.linalg.solve(gram + _RIDGE * np.eye(len(gram)), right)


def _levels(codes: Codes) -> csr_matrix:
    numbers = pd.factorize(codes)[0]
    return csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), numbers)))
