"""By how much a number that is read out of features is missed, in its own unit, beside methods that measured it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import splits
from brodmann.errors import Refused, Usage
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _rows
from brodmann.tasks._drawn import drawn
from brodmann.tasks._score import Estimate, Score
from brodmann.tasks.properties import properties, r_squared

Real = NDArray[np.float64]

MEAN = "training mean"
_OWN = "features"


@dataclass(frozen=True, eq=False)
class _Judge:
    """Errors of predictions, with draws of whole units; NaN in a prediction takes a row out of what it is part of."""

    truth: Real
    boot: metrics.Bootstrap

    def mean(self, values: Real, note: str = "") -> Estimate:
        """Mean over the rows where ``values`` is known."""
        known = np.isfinite(values)
        if not known.any():
            return Estimate(float("nan"), note=note)
        size = self.boot.times.shape[1]
        total, count = (np.bincount(self.boot.cluster, part, size) for part in (np.where(known, values, 0.0), known))
        rows = self.boot.times @ count
        draws = np.divide(self.boot.times @ total, rows, out=np.full(len(rows), np.nan), where=rows > 0)
        return metrics.estimate(float(values[known].mean()), draws, note)

    def missed(self, said: Real) -> Real:
        return np.abs(said - self.truth)

    def percent(self, said: Real) -> Estimate:
        counts = self.truth != 0
        share = np.full(len(said), np.nan)
        share[counts] = 100 * self.missed(said)[counts] / np.abs(self.truth[counts])
        n = int(np.isfinite(share).sum())
        return self.mean(share, f"mean absolute error in % of the truth, {n:,} rows where it is not 0")

    def said(self, said: Real) -> str:
        """Bias, and how many rows have no value, in words."""
        bias = self.mean(said - self.truth)
        text = f"bias {bias.value:+.3g} [{bias.low:+.3g}, {bias.high:+.3g}]"
        absent = int(np.isnan(said).sum())
        return text + (f"; {absent:,} rows have no value" if absent else "")


def deviation(
    table: AnnData | Sequence[AnnData], target: str, split: Split, *, measured: Sequence[str] = (), seed: int = 0
) -> Score:
    """Mean absolute error of a number read out of features of held-out rows, beside simple rivals and other methods.

    A companion of `properties`, for readers who ask "by how many cells is it off?": the same ridge regression, folds
    and choice of penalty. Rivals are the mean of each fold's training rows, the features that came with the table
    (``obsm["baseline_*"]``) through the same regression, and other methods' own measurements of the same rows: as they
    came, and after a line from them to the truth that is learned on training rows ("rescaled"), which takes off
    whatever such a method always misses.

    Parameters
    ----------
    table : AnnData or sequence of AnnData
        Feature table; or one per fold of the split, in order, where each fold has an encoder of its own that never saw
        it. All of the same rows.
    target : str
        A numeric column of ``obs``; rows where it is missing take no part.
    split : Split
        What is held out whole.
    measured : sequence of str
        Numeric columns of ``obs`` with the same number as other methods measure it, in the same unit; NaN where a
        method has no value. Compared on the rows where it has one.
    seed : int
        Key of every draw.

    Returns
    -------
    Score
        Lower is better. ``gains`` are the error minus that of each rival, over the same rows and draws: features are
        ahead where they lie below 0. ``more`` holds each error in percent of the truth, and R^2.

    Raises
    ------
    Leak
        Train and test share a group or a buffered neighbourhood.
    Refused
        As `properties`; or tables that do not fit the folds or each other.
    Usage
        No such column, or one that does not hold numbers.
    """
    tables = [table] if isinstance(table, AnnData) else list(table)
    first = tables[0]
    made = _rows.check_folds(first, split, None)
    parts = _paired(tables, made)
    said, truth = _read_out(parts, target, split, measured, seed)
    rows = pd.Index(_rows.ids(first)).get_indexer(truth.index)
    if len(rows) < 2 or (rows < 0).any():
        raise Refused("held-out rows should be rows of the table.", found=f"{int((rows < 0).sum())} that are not.")
    names, unit, limits = drawn(first, split, cast("NDArray[np.int64]", rows))
    judge = _Judge(truth.to_numpy(np.float64), metrics.Bootstrap.of(names, seed))
    own = said.pop(_OWN)
    value, level = judge.mean(judge.missed(own)), said[MEAN]
    against: dict[str, Estimate] = {}
    gains: dict[str, Estimate] = {}
    more = {f"{_OWN}, %": judge.percent(own)}
    for name, other in said.items():
        missed = judge.missed(other)
        against[name] = judge.mean(missed, judge.said(other))
        gains[name] = judge.mean(judge.missed(own) - missed)
        more[f"{name}, %"] = judge.percent(other)
    more["R^2"] = Estimate(r_squared(judge.truth, own, level), note="1: no error; 0: as good as the training mean")
    more["bias"] = judge.mean(own - judge.truth, f"in the unit of {target}; SD of the truth {judge.truth.std():.3g}")
    remarks = ["lower is better: a gain below 0 is an error smaller than the rival's"]
    if measured:
        learned = (
            "learned nothing from this table; what they learned elsewhere, perhaps from these rows, is not known here"
        )
        remarks.append(f"the methods behind {', '.join(measured)} {learned}")
    seen = [replace(split, fold=k) for k in range(len(tables))] if len(tables) > 1 else [split]
    remarks += [*limits, *dict.fromkeys(_rows.exposure(one, held) for one, held in zip(tables, seen, strict=True))]
    about = _rows.about(first)
    return Score(
        task="deviation", target=target, metric="mean absolute error", value=value.value,
        interval=(value.low, value.high), n=len(truth), n_groups=judge.boot.times.shape[1], cluster=unit,
        what=str(about.get("system", "rows")), split=splits.describe(split, made),
        folds=tuple(fold.name for fold in made), probe="ridge", seed=seed, baselines=against, gains=gains, more=more,
        predicted=pd.Series(own, index=truth.index, name="predicted"), truth=truth,
        recipe_hash=str(about.get("recipe_hash", "")), data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=tuple(text for text in remarks if text),
    )  # fmt: skip


def _paired(tables: list[AnnData], made: list[Fold]) -> list[tuple[AnnData, list[Fold]]]:
    """Which table is judged on which folds."""
    if len(tables) == 1:
        return [(tables[0], made)]
    if len(tables) != len(made):
        raise Refused("there should be one table, or one for each fold.", found=f"{len(tables)} and {len(made)} folds.")
    ids = _rows.ids(tables[0])
    if any(len(one) != len(ids) or (_rows.ids(one) != ids).any() for one in tables):
        raise Refused(
            "tables of one split should hold the same rows in the same order.", found="other ids.",
            do="embed all of them from the same samples.",
        )  # fmt: skip
    return [(one, [fold]) for one, fold in zip(tables, made, strict=True)]


def _read_out(
    parts: list[tuple[AnnData, list[Fold]]], target: str, split: Split, measured: Sequence[str], seed: int
) -> tuple[dict[str, Real], pd.Series]:
    """Predictions of the held-out rows by every method, and the truth of these rows."""
    said: dict[str, list[pd.Series]] = {}
    truth: list[pd.Series] = []
    for table, folds in parts:
        obs = _rows.places(table)
        inputs: dict[str, Any] = {_OWN: _rows.features(table), MEAN: np.zeros((len(obs), 1), np.float32)}
        inputs.update(_rows.baselines(table))
        columns = {name: _column(obs, name) for name in measured}
        for name, values in columns.items():
            known = np.isfinite(values)
            # where a method has no value, that it has none is what is known
            inputs[f"{name}, rescaled"] = np.column_stack([np.where(known, values, 0.0), known]).astype(np.float32)
        held = pd.Series(dtype=np.float64)
        for name, features in inputs.items():
            score = properties(_holding(table, features), target, split, seed=seed, compare=False, folds=folds)
            said.setdefault(name, []).append(score.predicted)
            held = score.truth
        for name, values in columns.items():
            said.setdefault(name, []).append(pd.Series(values, index=_rows.ids(table)).loc[held.index])
        truth.append(held)
    joined = {name: cast("Real", pd.concat(each).to_numpy(np.float64)) for name, each in said.items()}
    # a method as it came stands before the same, rescaled
    order = sorted(joined, key=lambda name: name.removesuffix(", rescaled") in measured)
    raw = [name for name in order if not name.endswith(", rescaled")]
    placed = [one for name in raw for one in (name, f"{name}, rescaled") if one in joined]
    return {name: joined[name] for name in placed}, pd.concat(truth)


def _holding(table: AnnData, features: NDArray[np.float32]) -> AnnData:
    return AnnData(X=features, obs=_rows.places(table), uns=dict(cast("Mapping[str, Any]", table.uns)))


def _column(obs: pd.DataFrame, name: str) -> Real:
    numeric = [str(column) for column in obs.columns if pd.api.types.is_numeric_dtype(obs[column])]
    if name not in numeric:
        raise Usage(
            f"what another method measured should be a numeric column of the table, not '{name}'.",
            found=f"{', '.join(numeric) or 'none'}.",
        )
    values = obs[name].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)
