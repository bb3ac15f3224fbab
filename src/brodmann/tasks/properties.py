"""Properties: whether a number that is known of every row can be read out of features the readout never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import splits
from brodmann.errors import Refused, Usage
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _numbers as numbers
from brodmann.tasks import _rows, _spectrum
from brodmann.tasks import _unrelated as unrelated
from brodmann.tasks._drawn import drawn
from brodmann.tasks._probe import fit_predict
from brodmann.tasks._score import Estimate, Score

Real = NDArray[np.float64]
Rows = NDArray[np.int64]
Parts = list[tuple[Rows, Rows]]


@dataclass(frozen=True, eq=False)
class _Judge:
    """Turns predictions of the held-out rows into R^2 and its draws."""

    truth: Real
    level: Real
    """Mean of the training rows of each held-out row's fold."""
    boot: metrics.Bootstrap

    def value(self, said: Real) -> float:
        return r_squared(self.truth, said, self.level)

    def draws(self, said: Real) -> Real:
        size = self.boot.times.shape[1]
        left, all_ = (np.bincount(self.boot.cluster, (self.truth - other) ** 2, size) for other in (said, self.level))
        whole = self.boot.times @ all_
        return 1 - np.divide(self.boot.times @ left, whole, out=np.full(len(whole), np.nan), where=whole > 0)

    def against(self, own: float, draws: Real, said: Real, note: str = "") -> tuple[Estimate, Estimate]:
        """Value of a rival, and the gain over it, paired over the draws."""
        value, drawn_ = self.value(said), self.draws(said)
        return metrics.estimate(value, drawn_, note), metrics.estimate(own - value, draws - drawn_)


def properties(
    table: AnnData,
    target: str,
    split: Split,
    *,
    seed: int = 0,
    compare: bool = True,
    extra_tables: Mapping[str, AnnData] | None = None,
    folds: Sequence[Fold] | None = None,
) -> Score:
    """Score how well ridge regression on the features tells a number of held-out rows.

    The headline is R^2 over all held-out rows of all folds together: 1 minus the squared error over that of the mean
    of each fold's training rows, so that 0 is as good as knowing that mean. The penalty is chosen on training groups
    that are left out of training. Every rival goes through the same folds: position alone, the features that came
    with the table, other tables, and a spatial null.

    Parameters
    ----------
    table : AnnData
        Feature table; ``obs`` with id, subject, section, x_mm, y_mm, z_mm and the target.
    target : str
        A numeric column of ``obs``; rows where it is missing take no part.
    split : Split
        What is held out whole.
    seed : int
        Key of every draw.
    compare : bool
        False computes the headline alone.
    extra_tables : mapping of str to AnnData, optional
        Rivals embedded from the same samples, by name.
    folds : sequence of Fold, optional
        Use these folds; they are proven against ``split`` first.

    Returns
    -------
    Score
        With predictions for the held-out rows.

    Raises
    ------
    Leak
        Train and test share a group or a buffered neighbourhood.
    Refused
        Fewer than twenty known numbers, a constant one, a fold without known rows to learn from, features that are
        not finite, or a rival that lacks rows.
    Usage
        No such column, or one that does not hold numbers.
    """
    obs = _rows.places(table)
    made = _rows.check_folds(table, split, None if folds is None else list(folds))
    if target in numbers.WRAPPED and target in obs:
        raise Usage(
            "properties are numbers on a line.", found=f"'{target}', an angle whose two ends are one.",
            do=f"ask `{'shortcuts' if target == 'angle_deg' else 'tuning'}`, or give its sine and cosine as columns.",
        )  # fmt: skip
    y, remarks = numbers.known(obs, target)
    parts = numbers.parts(made, y)
    tested = np.concatenate([test for _, test in parts])
    if float(np.ptp(y[tested])) == 0:
        raise Refused(f"'{target}' should differ between held-out rows.", found=f"{y[tested][0]:g} everywhere.")
    inner = numbers.inner(obs, split)
    x = _rows.features(table)

    def read_out(features: NDArray[np.float32]) -> Real:
        return np.concatenate(
            [fit_predict("ridge", features[a], y[a], inner(a), features[b], seed)[0] for a, b in parts]
        )

    cluster, unit, limits = drawn(table, split, tested)
    level = np.concatenate([np.full(len(test), y[train].mean()) for train, test in parts])
    judge = _Judge(y[tested], level, metrics.Bootstrap.of(cluster, seed))
    said = read_out(x)
    value, draws = judge.value(said), judge.draws(said)
    overall = metrics.estimate(value, draws)
    more = {
        "correlation": Estimate(_correlation(said, y[tested]), note="Pearson, over all held-out rows"),
        "median absolute error": Estimate(
            float(np.median(np.abs(said - y[tested]))), note=f"in the unit of {target}; SD {float(y[tested].std()):.3g}"
        ),
    }
    for count, kept in _spectrum.read_out(x, y, parts, inner).items():
        name = f"{count} principal component{'s' * (count > 1)}"
        more[name] = metrics.estimate(judge.value(kept), judge.draws(kept), "R^2; components of the training rows")
    remarks += [*limits, _rows.exposure(table, split)]
    against: dict[str, Estimate] = {}
    gains: dict[str, Estimate] = {}
    if compare:
        given = {**_rows.baselines(table)}
        for name, other in (extra_tables or {}).items():
            given[name] = _rows.aligned(table, other, name)
            remarks.append(_rows.exposure(other, split, f"the encoder of '{name}'"))
        where, kind = metrics.coordinates(obs)
        placed = bool(np.isfinite(where).all() and np.ptp(where, axis=0).any())
        if placed:
            forms = numbers.from_position(where, kind, y, parts, inner, seed)
            form = max(forms, key=lambda name: judge.value(forms[name]))
            note = f"best form on the held-out rows: {form}"
            against["coordinates only"], gains["coordinates only"] = judge.against(value, draws, forms[form], note)
            if against["coordinates only"].value >= value:
                remarks.append("position alone tells this number at least as well as the features do")
            together = numbers.joined(x, where, y, parts, inner, seed)
            own, drawn_ = judge.value(together), judge.draws(together)
            _, gain = judge.against(own, drawn_, forms[form])
            note = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over coordinates only"
            more["coordinates + features"] = metrics.estimate(own, drawn_, note)
            brain = _rows.numbers(obs["subject"])[0]
            null = unrelated.of_numbers(x, where, brain, y, parts, seed=seed)
            estimates = null.estimates()
            against["spatial null"] = estimates.pop("spatial null")
            more |= estimates
            remarks += null.remarks()
        else:
            remarks.append("not all places are known: nothing is compared with position")
        for name, features in given.items():
            against[name], gains[name] = judge.against(value, draws, read_out(features))
    names, about = _rows.ids(table)[tested], _rows.about(table)
    index = pd.Index(names, name="id", dtype=object)
    return Score(
        task="properties", target=target, metric="R^2", value=value, interval=(overall.low, overall.high),
        n=len(tested), n_groups=judge.boot.times.shape[1], cluster=unit, what=str(about.get("system", "rows")),
        split=splits.describe(split, made), folds=tuple(fold.name for fold in made), probe="ridge", seed=seed,
        baselines=against, gains=gains, more=more, predicted=pd.Series(said, index=index, name="predicted"),
        truth=pd.Series(y[tested], index=index, name="truth"), recipe_hash=str(about.get("recipe_hash", "")),
        data_fingerprint=str(about.get("data_fingerprint", "")), remarks=tuple(text for text in remarks if text),
    )  # fmt: skip


def r_squared(truth: Real, said: Real, level: Real) -> float:
    """One minus the squared error over that of ``level``, which was known before: NaN if that has none."""
    whole = float(((truth - level) ** 2).sum())
    return 1 - float(((truth - said) ** 2).sum()) / whole if whole > 0 else float("nan")


def _correlation(a: Real, b: Real) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")
