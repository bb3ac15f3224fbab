"""What questions about numbers share: rows that are learned and tested, groups for the penalty, and place as a rival.

n rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann import splits
from brodmann.errors import Refused, Usage
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks import _rivals as rivals
from brodmann.tasks._probe import fit_predict

Real = NDArray[np.float64]
Rows = NDArray[np.int64]
Parts = list[tuple[Rows, Rows]]
Groups = Callable[[Rows], NDArray[Any]]

FEWEST = 20
"""Known rows that a question needs, in all and in every fold."""
WRAPPED = ("orientation_deg", "direction_deg", "angle_deg")
"""Columns of angles whose two ends are one, which a line cannot fit."""
_NEIGHBOURS = (5, 15)
_PLACES = {"x_um", "y_um", "x_mm", "y_mm", "z_mm", "u_mm", "v_mm"}


def columns(obs: pd.DataFrame, *, wrapped: bool = False) -> list[str]:
    """Columns of numbers, known often enough, that vary: no places, no truth values.

    Without ``wrapped`` those that `properties` takes: no angles whose two ends are one.
    """
    found: list[str] = []
    for name in map(str, obs.columns):
        skipped = name in _PLACES or (name in WRAPPED and not wrapped) or pd.api.types.is_bool_dtype(obs[name])
        if not skipped and pd.api.types.is_numeric_dtype(obs[name]):
            y = obs[name].to_numpy(dtype=np.float64, na_value=np.nan)
            y = y[np.isfinite(y)]
            if len(y) >= FEWEST and np.ptp(y) > 0:
                found.append(name)
    return found


def known(obs: pd.DataFrame, target: str) -> tuple[Real, list[str]]:
    """The target of every row (n,), NaN where it is not known; and how many are not, in words.

    Raises
    ------
    Usage
        No such column, or not one of numbers.
    Refused
        Fewer than `FEWEST` known numbers.
    """
    numeric = [str(name) for name in obs.columns if pd.api.types.is_numeric_dtype(obs[name])]
    if target not in numeric or pd.api.types.is_bool_dtype(obs[target]):
        raise Usage(
            f"the target should be a numeric column of the table, not '{target}'.",
            found=f"{', '.join(numeric) or 'none'}.",
            do="ask `areas` about a column of names." if target in obs else "",
        )
    y = obs[target].to_numpy(dtype=np.float64, na_value=np.nan)
    y = np.where(np.isfinite(y), y, np.nan)
    count = int((~np.isnan(y)).sum())
    if count < FEWEST:
        raise Refused(f"'{target}' should be known of at least {FEWEST} rows.", found=f"{count} of {len(y)}.")
    return y, [f"{len(y) - count:,} of {len(y):,} rows have no '{target}'"] if count < len(y) else []


def parts(made: Sequence[Fold], y: Real) -> Parts:
    """Known training and test rows of each fold that tests some.

    Raises
    ------
    Refused
        A fold has fewer than `FEWEST` known rows to learn from, or none has one to test.
    """
    there = ~np.isnan(y)
    found = [(fold.train[there[fold.train]], fold.test[there[fold.test]]) for fold in made]
    found = [(train, test) for train, test in found if len(test)]
    if not found or min(len(train) for train, _ in found) < FEWEST:
        raise Refused(
            f"every fold should hold {FEWEST} known rows to learn from, and some fold known rows to test.",
            found=f"{min((len(train) for train, _ in found), default=0)} to learn from.",
            do="choose another fold, or a split whose groups are known.",
        )
    return found


def inner(obs: pd.DataFrame, split: Split) -> Groups:
    """Groups of training rows on which the penalty is chosen: those of the split; sections, where there is one."""
    group, fine = splits.groups(obs, split), splits.groups(obs, Split(by="section"))

    def of(rows: Rows) -> NDArray[Any]:
        return group[rows] if len(set(group[rows].tolist())) > 1 else fine[rows]

    return of


def from_position(where: Real, kind: str, y: Real, parts: Parts, inner: Groups, seed: int) -> dict[str, Real]:
    """Predictions from places alone, in every form that is tried: test rows, folds after one another."""
    found = {rivals.SMOOTH.format(kind): joined(np.empty((len(y), 0), np.float32), where, y, parts, inner, seed)}
    for k in _NEIGHBOURS:
        said: list[Real] = []
        for train, test in parts:
            # A list of ranks, so that one neighbour still comes as a column.
            ranks = cast("Any", list(range(1, min(k, len(train)) + 1)))
            distance, index = cast("Any", KDTree(where[train]).query(where[test], k=ranks))
            weight = 1 / np.maximum(distance, 1e-6)
            said.append((weight * y[train][index]).sum(axis=1) / weight.sum(axis=1))
        found[f"{k} nearest places ({kind})"] = np.concatenate(said)
    return found


def joined(x: NDArray[np.float32], where: Real, y: Real, parts: Parts, inner: Groups, seed: int) -> Real:
    """Predictions from smooth functions of position beside features."""
    said: list[Real] = []
    for train, test in parts:
        both = np.hstack([rivals.place_features(where, train, seed), x])
        said.append(fit_predict("ridge", both[train], y[train], inner(train), both[test], seed)[0])
    return np.concatenate(said)
