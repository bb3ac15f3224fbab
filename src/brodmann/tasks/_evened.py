"""Features of patches without what their section, their cut and the folding of cortex put into them.

A patch shows more than its cytoarchitecture: stain and blur of its section, layers that are compressed on one side of a
fold, a cut that is oblique. Within an area these change more than anything else does, and they change fast: from crown
to bank within millimetres, as at a border between areas. Where the table tells them, they can be taken out.

n rows, p components, R regions in brains, S sections.
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
_KNOTS = 5
_AROUND_MM = (1.0, 2.5)
_RIDGE = 1e-2
_MOST = 4000
_REGIONS, _FEW, _ROUNDS = 3, 3, 6


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

    Of each column a cubic spline, its mean around a row less itself, and how fast that mean changes along the section
    (both signs alike: a mirrored patch is the same patch).

    Returns
    -------
    (ndarray (n, E) float64, tuple of str)
        Without columns where the table has none of `CUT`.
    """
    obs = _rows.places(table)
    told = tuple(name for name in CUT if name in obs and np.isfinite(obs[name].to_numpy(dtype=np.float64)).all())
    made: list[Real] = []
    for name in told:
        value = obs[name].to_numpy(dtype=np.float64)
        value = np.clip((value - value.mean()) / max(value.std(), 1e-12), -3, 3)
        made += [_spline(value), _beside(value, table)]
    return (np.hstack(made) if made else np.zeros((len(obs), 0))), told


def _spline(value: Real) -> Real:
    knots = np.unique(np.quantile(value, np.linspace(0, 1, _KNOTS)))
    if len(knots) < 2:
        return np.zeros((len(value), 0))
    made = SplineTransformer(degree=3, knots=cast("Any", knots[:, None]), extrapolation="linear", include_bias=False)
    return np.asarray(made.fit_transform(value[:, None]), dtype=np.float64)


def _beside(value: Real, table: AnnData) -> Real:
    """Mean around each row within its section less a wider one, and the steepness of the narrower: (n, 3)."""
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


def evened(values: Real, region: Codes, brain: Codes, section: Codes, shared: Real) -> Real:
    """Values less levels of sections and what ``shared`` explains, given a level of every region in every brain.

    The level of a section is the median over its regions (median polish, Tukey 1977): a border along the sections makes
    one region differ from the others there, and neither hides in the level nor leaves its ghost in the others. Sections
    of fewer than three regions keep theirs.

    Parameters
    ----------
    values : ndarray (n, p) float64
    region, brain, section : ndarray (n,) int64
        Rows with a region of -1 only learn what ``shared`` explains.
    shared : ndarray (n, E) float64

    Returns
    -------
    ndarray (n, p) float64
        With the levels of regions left in.
    """
    own = region + (int(region.max()) + 2) * brain
    levels = hstack([_levels(own), _levels(section)]).tocsr()
    explained = cast("Any", hstack([levels, csr_matrix(shared)])).tocsr()
    values = values - shared @ _coefficients(values, explained)[levels.shape[1] :]
    known = region >= 0
    home = pd.factorize(section)[0]
    return values - _polished(values[known], region[known], brain[known], home[known], int(home.max()) + 1)[home]


def _polished(values: Real, region: Codes, brain: Codes, section: Codes, sections: int) -> Real:
    """Levels of sections (sections, p), 0 where they show fewer than three regions."""
    regions = int(region.max()) + 1
    cell = section * regions + region
    names, cell, count = np.unique(cell, return_inverse=True, return_counts=True)
    mean = np.stack([np.bincount(cell, weights=one) for one in values.T], axis=1) / count[:, None]
    where, of = names // regions, names % regions
    unit = np.unique(of + regions * brain[np.unique(cell, return_index=True)[1]], return_inverse=True)[1]
    weight = np.where(count >= _FEW, count, 0.0)
    table = np.full((sections, regions, values.shape[1]), np.nan)
    many = np.bincount(where[weight > 0], minlength=sections) >= _REGIONS
    found = np.zeros((sections, values.shape[1]))
    for _ in range(_ROUNDS):
        left = (mean - found[where]) * weight[:, None]
        total = np.maximum(np.bincount(unit, weights=weight), 1e-12)
        level = np.stack([np.bincount(unit, weights=one) for one in left.T], axis=1) / total[:, None]
        table[where, of] = np.where(weight[:, None] > 0, mean - level[unit], np.nan)
        found[many] = np.nanmedian(table[many], axis=1)
    return found


def without(values: Real, explained: Any) -> Real:
    """Values (n, p) less what ``explained`` (n, E), dense or sparse, says of them."""
    return values - explained @ _coefficients(values, explained)


def _coefficients(values: Real, explained: Any) -> Real:
    gram, right = explained.T @ explained, explained.T @ values
    gram = gram.toarray() if hasattr(gram, "toarray") else gram
    return np.linalg.solve(gram + _RIDGE * np.eye(len(gram)), right)


def _levels(codes: Codes) -> csr_matrix:
    numbers = pd.factorize(codes)[0]
    return csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), numbers)))
