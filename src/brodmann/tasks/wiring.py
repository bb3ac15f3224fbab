"""Wiring: whether neurons with similar features are connected beyond what their distance says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.samples import stream
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _poisson as poisson
from brodmann.tasks import _rows
from brodmann.tasks._pairs import FOLDS, Pairs, candidates, check_enough, similarity, standard
from brodmann.tasks._poisson import Counts
from brodmann.tasks._score import Estimate, Score

Real = NDArray[np.float64]
Codes = NDArray[np.int64]

SHUFFLES, LIKE = 200, 50
"""Rewired draws; candidates at like distance among which partners are dealt anew."""


@dataclass(frozen=True, eq=False)
class _Held:
    """A model on held-out pre-synaptic neurons: deviance of each pair, and its coefficients in each fold."""

    deviance: Real
    fits: list[Real]


# numbers beyond the range of floats are refused with their cause
@np.errstate(over="ignore", divide="ignore", invalid="ignore")
def wiring(
    table: AnnData,
    synapses: pd.DataFrame,
    *,
    extra_tables: Mapping[str, AnnData] | None = None,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> Score:
    """Score how far similarity of features tells synapses between candidate pairs, beyond distance.

    Counts of synapses are a Poisson regression (log link) on the cosine of the features of the two neurons, with
    distance and, where known, distance of receptive fields as control: each linear and with two bends (restricted
    cubic splines), so that similarity that merely follows distance gains nothing. Rows of features are brought to
    length one with signs kept, and are not centred. Each pre-synaptic neuron's total over its candidates is given,
    and its sharing out (by ``exposure``, where there is one) is what is modelled: which partner, not how many.

    Headline: share of the control's deviance that similarity explains on pre-synaptic neurons held out in five folds.
    Its interval draws pre-synaptic neurons; post-synaptic neurons, which pairs share as well, are not drawn.

    Rivals go through the same folds: rewired partners (synapses of each pre-synaptic neuron dealt anew among
    candidates at like distance, its degree kept), similarity of coordinates and of the baselines of the table, and
    node features alone (how often each post-synaptic neuron is chosen by the pre-synaptic neurons of the other
    folds).

    Parameters
    ----------
    table : AnnData
        Features of the neurons, with ids.
    synapses : DataFrame
        A row per candidate pair: ``pre``, ``post`` (ids), ``synapses`` (count, 0 where looked at and not connected),
        ``distance_um``; optionally ``rf_distance_deg``, and ``exposure`` (such as the length of axon near dendrite).
    extra_tables : mapping of str to AnnData, optional
        Rivals embedded from the same neurons.
    shuffles : int
        Rewired draws.
    seed : int
        Key of every draw.

    Returns
    -------
    Score
        ``more`` holds the slopes with their intervals; ``predicted`` is empty.

    Raises
    ------
    Usage
        A column is missing.
    Refused
        Counts or distances that cannot be, a pair given twice, fewer than ten pre-synaptic neurons with synapses, too
        few connected pairs, or none that are not connected.
    """
    pairs = candidates(table, synapses, seed)
    size = int(pairs.given.cluster.max()) + 1
    times = stream(seed, "pre-synaptic neurons", size).multinomial(size, np.full(size, 1 / size), metrics.DRAWS)
    control = _held_out(pairs, pairs.control)
    against = pairs.given.sums(control.deviance)

    def gain(model: _Held, over: Real = against) -> tuple[float, Real]:
        """Share of deviance explained, and its draws."""
        own = pairs.given.sums(model.deviance)
        return 1 - float(own.sum() / over.sum()), 1 - (times @ own) / (times @ over)

    x = _rows.features(table)
    similar = similarity(x, pairs.pre, pairs.post)
    z, sd = standard(similar)
    design = np.column_stack([pairs.control, z])
    value, draws = gain(_held_out(pairs, design))
    overall = metrics.estimate(value, draws)
    given = {**_coordinates(table), **_rows.baselines(table)}
    given |= {name: _rows.aligned(table, other, name) for name, other in (extra_tables or {}).items()}
    baselines: dict[str, Estimate] = {}
    gains: dict[str, Estimate] = {}
    for name, features in given.items():
        rival, _ = standard(similarity(features, pairs.pre, pairs.post))
        own, drawn = gain(_held_out(pairs, np.column_stack([pairs.control, rival])))
        baselines[f"similarity of {name}"] = metrics.estimate(own, drawn)
        gains[f"similarity of {name}"] = metrics.estimate(value - own, draws - drawn)
    nodes = _popular(pairs)
    node = _held_out(pairs, *(np.column_stack([pairs.control, column]) for column in nodes))
    own, drawn = gain(node)
    note = "in-degree from other folds; the out-degree is in every model"
    baselines["node features alone"] = metrics.estimate(own, drawn, note)
    gains["node features alone"] = metrics.estimate(value - own, draws - drawn)
    moved, slopes = _rewired(pairs, z, control, shuffles, seed)
    _check_finite(pairs, moved, slopes)
    low, high = (float(end) for end in np.percentile(moved, [2.5, 97.5]))
    note = f"partners dealt anew at like distance, {shuffles} times; mean and 95 % band"
    baselines["rewired"] = Estimate(float(moved.mean()), low, high, note)
    gains["rewired"] = metrics.estimate(value - float(moved.mean()), draws - float(moved.mean()))
    beyond = _held_out(pairs, *(np.column_stack([pairs.control, column, z]) for column in nodes))
    own, drawn = gain(beyond, pairs.given.sums(node.deviance))
    more = {
        **_slopes(pairs, design, sd, seed),
        "slope of similarity, rewired": metrics.estimate(float(slopes.mean() / sd), slopes / sd, "mean, 95 % band"),
        "beyond distance and node features": metrics.estimate(own, drawn, "share of the deviance that these leave"),
        "deviance explained by distance": Estimate(_by_distance(pairs, control), note="on the same held-out pairs"),
    }
    remarks = list(pairs.remarks)
    if value <= high:
        remarks.append("rewired partners do as well: nothing here says that similar neurons are connected")
    if size < 50:
        remarks.append(f"an interval from {size} pre-synaptic neurons is rough")
    about = _rows.about(table)
    return Score(
        task="wiring", target="synapses", metric="deviance explained beyond distance", value=value,
        interval=(overall.low, overall.high), n=len(pairs.fold), n_groups=size, cluster="pre-synaptic neurons",
        what="pairs", scored="similarity of features", split=f"{FOLDS} folds by pre-synaptic neuron",
        folds=tuple(f"fold {k}" for k in range(FOLDS)), probe="poisson regression", seed=seed, baselines=baselines,
        gains=gains, more=more, recipe_hash=str(about.get("recipe_hash", "")),
        data_fingerprint=str(about.get("data_fingerprint", "")), remarks=tuple(remarks),
    )  # fmt: skip


def _held_out(pairs: Pairs, *designs: Real) -> _Held:
    """Fit each fold's training pairs and judge its test pairs; one design serves all folds, or each has its own."""
    result = np.empty(len(pairs.fold))
    fits: list[Real] = []
    for k in range(FOLDS):
        design, test = designs[k % len(designs)], pairs.fold == k
        fits.append(poisson.fit(pairs.given.among(~test), design[~test]))
        expected = poisson.rate(pairs.given.among(test), design[test], fits[-1])
        result[test] = poisson.deviance(pairs.given.counts[test], expected)
    _check_finite(pairs, result)
    return _Held(result, fits)


def _check_finite(pairs: Pairs, *values: Real) -> None:
    fitted = all(bool(np.isfinite(one).all()) for one in values)
    check_enough(pairs.given.counts, int(pairs.given.cluster.max()) + 1, pairs.control.shape[1] + 1, fitted=fitted)


def _by_distance(pairs: Pairs, control: _Held) -> float:
    even = poisson.rate(pairs.given, pairs.control[:, :0], np.zeros(0))
    return 1 - float(control.deviance.sum() / poisson.deviance(pairs.given.counts, even).sum())


def _popular(pairs: Pairs) -> list[Real]:
    """Log in-degree over expectation of each pair's post-synaptic neuron, for each fold that is held out.

    Counts of the held-out fold and of the pair's own fold are left out, so that no pair tells of itself.
    """
    n = int(pairs.post.max()) + 1
    key = pairs.fold * n + pairs.post
    seen = np.bincount(key, pairs.given.counts, FOLDS * n).reshape(FOLDS, n)
    expected = np.bincount(key, np.exp(pairs.given.offset), FOLDS * n).reshape(FOLDS, n)
    columns: list[Real] = []
    for held in range(FOLDS):
        column = np.empty(len(pairs.post))
        for own in range(FOLDS):
            rows = pairs.fold == own
            others = [k for k in range(FOLDS) if k not in {held, own}]
            ratio = (seen[others].sum(axis=0) + 1) / (expected[others].sum(axis=0) + 1)
            column[rows] = np.log(ratio)[pairs.post[rows]]
        columns.append(standard(column)[0])
    return columns


def _rewired(pairs: Pairs, z: Real, control: _Held, shuffles: int, seed: int) -> tuple[Real, Real]:
    """Gain over the control, and slope per SD, with similarities dealt anew among like candidates: (shuffles,) each.

    To deal a neuron's synapses anew among candidates at like distance is to deal the similarities of these candidates.
    Groups are kept large, because a group's mean similarity goes on telling of its synapses: 1 / `LIKE` of the slope.
    Each fold takes one Newton step from the control's fit, which is exact to first order where the slope is small.
    """
    given = pairs.given
    group = _alike(given.cluster)
    folds: list[tuple[NDArray[np.bool_], Counts, Counts, Real, Real, Real]] = []
    for k, fitted in enumerate(control.fits):
        train, test = pairs.fold != k, pairs.fold == k
        expected = poisson.rate(given, pairs.control, fitted)
        inner = poisson.centred(given, pairs.control, expected)[train]
        # what of a similarity the control takes over: its coefficients, from the weighted sums
        takes = np.linalg.pinv(inner.T @ (inner * expected[train][:, None])) @ (inner * expected[train][:, None]).T
        folds.append((train, given.among(train), given.among(test), expected, inner, takes))
    values, slopes = np.zeros(shuffles), np.zeros(shuffles)
    total = float(control.deviance.sum())
    for draw in range(shuffles):
        # groups are numbered in order, so that sorting keeps each in its place
        dealt = z[np.argsort(group + stream(seed, "rewired", draw).random(len(z)))]
        for train, learned, judged, expected, inner, takes in folds:
            mu, test = expected[train], ~train
            s = poisson.centred(learned, dealt[train][:, None], mu)[:, 0]
            taken = takes @ s
            rest = s - inner @ taken
            slope = float(rest @ (learned.counts - mu)) / max(float((mu * rest) @ rest), 1e-12)
            moved = slope * (dealt[test] - pairs.control[test] @ taken)
            # the counts of a neuron keep their total
            grown = judged.sums(expected[test] * np.exp(moved)) / np.maximum(judged.sums(expected[test]), 1e-300)
            lost = judged.sums(judged.counts) @ np.log(np.where(grown > 0, grown, 1))
            values[draw] += 2 * float(judged.counts @ moved - lost) / total
            slopes[draw] += slope / FOLDS
    return values, slopes


def _alike(cluster: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the group of like distance of each pair: about `LIKE` candidates of one pre-synaptic neuron each."""
    size = np.bincount(cluster)
    groups = np.maximum(size // LIKE, 1)
    first, start = (np.cumsum(each) - each for each in (size, groups))
    rank = np.arange(len(cluster)) - first[cluster]
    return start[cluster] + rank * groups[cluster] // size[cluster]


def _slopes(pairs: Pairs, design: Real, sd: float, seed: int) -> dict[str, Estimate]:
    """Slopes of the model of all pairs, with intervals over pre-synaptic neurons."""
    fitted = poisson.fit(pairs.given, design)
    draws = poisson.redrawn(pairs.given, design, fitted, seed)
    note = f"log rate per unit of cosine; {fitted[-1]:+.2f} per SD of {sd:.3f}"
    found = {"slope of similarity": metrics.estimate(float(fitted[-1] / sd), draws[:, -1] / sd, note)}
    per = {"distance": (100.0, "um"), "receptive-field distance": (10.0, "deg")}
    for column, (name, spread) in enumerate(pairs.spread.items()):
        factor = per[name][0] / spread
        key = f"slope of {name}, per {per[name][0]:g} {per[name][1]}"
        found[key] = metrics.estimate(float(fitted[column] * factor), draws[:, column] * factor, "linear part")
    return found


def _coordinates(table: AnnData) -> dict[str, Real]:
    """Places about their mean, where all are known."""
    obs = _rows.places(table)
    for columns in (["x_mm", "y_mm", "z_mm"], ["x_um", "y_um"]):
        if set(columns) <= set(obs.columns):
            where = cast("Real", obs[columns].to_numpy(dtype=np.float64))
            if np.isfinite(where).all() and where.std() > 0:
                return {"coordinates": where - where.mean(axis=0)}
    return {}
