"""A read-out learned on labelled rows, asked at other places: what a dense map shows between the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann import splits
from brodmann.errors import Refused, SpaceMismatch
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks import _rows
from brodmann.tasks._probe import fit_predict

Rows = NDArray[np.int64]
_BLOCK = 200_000
"""Places predicted at once: their features are float32 while they are looked at."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What read-outs say of places.

    Parameters
    ----------
    predicted : Series
        Class names or numbers by id, of the places that lie in held-out units; others are left out.
    sure : ndarray (n,) float32
        Probability of the class that was named; NaN for numbers.
    learned : str
        On how many labelled rows, in words.
    """

    predicted: pd.Series
    sure: NDArray[np.float32]
    learned: str


def predict(
    table: AnnData,
    target: str,
    split: Split,
    at: AnnData,
    *,
    probe: Literal["linear", "knn", "ridge"] = "linear",
    seed: int = 0,
    min_per_class: int = 30,
) -> Reading:
    """Predict a target at the places of another table, each by a read-out that saw nothing of its unit.

    For every fold the read-out is learned on the labelled training rows of ``table``, and asked about the places of
    ``at`` that lie in the fold's held-out units (brains, sections, blocks). With a buffer, training rows that near to
    one of these places are dropped, as splits do.

    Parameters
    ----------
    table : AnnData
        Feature table with the target.
    target : str
        Column of names, or of numbers for ``ridge``; rows without one are not learned from.
    split : Split
        Of ``table``; ``split.fold`` picks one fold, and only its units are predicted.
    at : AnnData
        Features of the same encoder at other places of the same space.
    probe : {"linear", "knn", "ridge"}
    seed : int
    min_per_class : int
        Classes with fewer rows are not learned, see `brodmann.tasks.areas.areas`.

    Returns
    -------
    Reading

    Raises
    ------
    Leak
        A place shares its unit, or its buffer, with a training row.
    Refused
        Features of another width, no labelled row to learn from, or no place in a held-out unit.
    SpaceMismatch
        The tables are of different spaces.
    """
    mine, other = _rows.places(table), _rows.places(at)
    _comparable(table, at)
    values, take = _values(table, target, split, probe, min_per_class)
    both = cast("pd.DataFrame", pd.concat([mine[_PLACE], other[_PLACE]], ignore_index=True))
    group = splits.groups(both, split)
    here, there = group[: len(mine)], group[len(mine) :]
    x, name = _rows.features(table), _rows.ids(at)
    rows: list[Rows] = []
    said: list[NDArray[Any]] = []
    sure: list[NDArray[np.float32]] = []
    learned: list[int] = []
    for fold in splits.folds(mine, split):
        asked = np.flatnonzero(np.isin(there, np.unique(here[fold.test])))
        train = fold.train[take[fold.train]]
        if not len(asked) or not len(train):
            continue
        train = _apart(both, train, asked + len(mine), split.buffer_mm)
        splits.prove(both, Fold(train, asked + len(mine), fold.name), split)
        if not len(train):
            raise Refused(
                f"{fold.name} should leave labelled rows to learn from.", found="none outside the buffer.",
                do="use a smaller buffer_mm.",
            )  # fmt: skip
        inner = here[train] if len(np.unique(here[train])) > 1 else mine["section"].astype(str).to_numpy()[train]
        for start in range(0, len(asked), _BLOCK):
            some = asked[start : start + _BLOCK]
            features = np.asarray(cast("Any", at.X)[some], dtype=np.float32)
            # learned anew for every block, to the same numbers: seconds, where all places at once would be gigabytes
            answer, share = fit_predict(probe, x[train], values[train], inner, features, seed)
            rows.append(some)
            said.append(answer)
            sure.append(share.max(axis=1) if share.shape[1] else np.full(len(some), np.nan, np.float32))
        learned.append(len(train))
    if not rows:
        raise Refused(
            "some places should lie in units that are held out.",
            found=f"none of {len(other):,}, in a split by {split.by}.",
            cause="other brains or sections than the labelled table has, or labels only in what is tested.",
        )
    order = np.argsort(np.concatenate(rows), kind="stable")
    at_rows = np.concatenate(rows)[order]
    index = pd.Index(name[at_rows], name="id", dtype=object)
    counted = f"{min(learned):,}" if min(learned) == max(learned) else f"{min(learned):,} to {max(learned):,}"
    return Reading(
        pd.Series(np.concatenate(said)[order], index=index, name="predicted"),
        np.concatenate(sure)[order],
        f"{counted} labelled rows",
    )


_PLACE = ["subject", "section", *splits.AXES]


def _comparable(table: AnnData, at: AnnData) -> None:
    """Refuse tables of other widths or spaces."""
    if table.n_vars != at.n_vars:
        raise Refused(
            "both tables should be of one encoder.", found=f"{table.n_vars} and {at.n_vars} features.",
            do="embed the places with the run that made the labelled table.",
        )  # fmt: skip
    spaces = [cast("dict[str, Any]", one.uns.get("space", {})).get("name") for one in (table, at)]
    if spaces[0] != spaces[1]:
        raise SpaceMismatch("both tables should be in one space.", found=f"'{spaces[0]}' and '{spaces[1]}'.")


def _values(
    table: AnnData, target: str, split: Split, probe: str, min_per_class: int
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Target of every row, and which rows can be learned from."""
    if probe != "ridge":
        known = _rows.labelled(table, target, split, min_per_class=min_per_class)
        return np.array([*known.classes, ""], dtype=object)[known.codes], known.codes >= 0
    column = _rows.places(table)[target]
    if not pd.api.types.is_numeric_dtype(column):
        raise Refused(f"'{target}' should be a column of numbers.", found="names.", do="ask for classes.")
    y = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return y, np.isfinite(y)


def _apart(both: pd.DataFrame, train: Rows, asked: Rows, buffer_mm: float) -> Rows:
    """Training rows farther than the buffer from every place that is asked about, in the same brain."""
    if buffer_mm <= 0:
        return train
    xyz, brain = splits.positions(both), both["subject"].astype(str).to_numpy(dtype=object)
    near = np.zeros(len(train), dtype=bool)
    for who in np.unique(brain[asked]):
        here = np.flatnonzero(brain[train] == who)
        away, _ = KDTree(xyz[asked[brain[asked] == who]]).query(xyz[train[here]])
        near[here] = np.asarray(away) <= buffer_mm
    return train[~near]
