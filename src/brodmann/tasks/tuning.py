"""Tuning: whether a model's neurons prefer the orientations that the neurons themselves prefer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann.errors import Refused
from brodmann.samples import stream
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._medians import Units, median, summary
from brodmann.tasks._score import Estimate, Score
from brodmann.tasks._tuning import circular_error, peaks, selectivity

Real = NDArray[np.float64]

TUNED = 0.25
"""Global orientation selectivity from which a neuron counts as tuned."""
_SHUFFLES = 200
_FEWEST = 10


def tuning(
    curves: NDArray[np.floating[Any]],
    directions_deg: NDArray[np.floating[Any]],
    orientation_deg: NDArray[np.floating[Any]] | None,
    ids: NDArray[Any],
    *,
    subjects: NDArray[Any] | None = None,
    positions: NDArray[np.floating[Any]] | None = None,
    target: str = "orientation",
    tuned: float = TUNED,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> Score:
    """Score the orientation that a model's responses to known stimuli prefer: median absolute error, lower is better.

    The preferred orientation is that of two von Mises peaks 180 degrees apart, fitted to each curve. A neuron is
    judged where its curve is tuned (global orientation selectivity of at least ``tuned``) and its true orientation is
    known. Without a truth the headline is the share of tuned neurons.

    Parameters
    ----------
    curves : ndarray (n, D) floating
        Mean responses of the model to D directions of motion; not negative.
    directions_deg : ndarray (D,)
        Directions, spread evenly over 360 degrees.
    orientation_deg : ndarray (n,) or None
        True preferred orientation, in the convention of ``directions_deg`` modulo 180; NaN where it is not known.
    ids : ndarray (n,) of str
    subjects : ndarray (n,) of str, optional
        Animal of each neuron; by default one animal.
    positions : ndarray (n, 2 or 3) floating, optional
        Places of the neurons, in any unit: how far the nearest neuron of the same animal tells the orientation.
    target : str
        For the name of the score.
    tuned : float
        Least selectivity of a neuron that is judged.
    seed : int
        Key of every draw.
    about : mapping, optional
        ``recipe_hash`` and ``data_fingerprint`` of what predicted.

    Returns
    -------
    Score
        ``predicted`` and ``truth``: degrees in [0, 180), of the neurons that were judged; without a truth, of the
        tuned ones.

    Raises
    ------
    Refused
        Curves or directions that cannot be, arrays of other lengths, or fewer than ten neurons to judge.
    """
    n = len(curves)
    who = np.full(n, "one", dtype=object) if subjects is None else np.asarray(subjects).astype(str).astype(object)
    given = {"ids": ids, "subjects": who, "orientations": orientation_deg, "positions": positions}
    for name, values in given.items():
        if values is not None and len(values) != n:
            raise Refused(f"{name} should be one per curve.", found=f"{len(values)} for {n} curves.")
    plain = selectivity(curves, directions_deg)
    fitted = peaks(curves, directions_deg)
    chosen = plain.gosi >= tuned
    names = np.asarray(ids).astype(str).astype(object)
    silent = int(np.isnan(plain.gosi).sum())
    remarks = [f"tuned: global orientation selectivity of at least {tuned:g}"]
    if silent:
        remarks.append(f"{silent:,} neurons never answer: they are not tuned")
    known = np.ones(n, bool) if orientation_deg is None else np.isfinite(np.asarray(orientation_deg, np.float64))
    judged = np.flatnonzero(chosen & known)
    more = {
        "share of tuned neurons": _share(chosen, Units.of(who, seed), f"{int(chosen.sum()):,} of {n:,} neurons"),
        "median gOSI": Estimate(median(plain.gosi), note="all neurons"),
        "median gDSI": Estimate(median(plain.gdsi), note="all neurons"),
    }
    recipe_hash, fingerprint = (str((about or {}).get(name, "")) for name in ("recipe_hash", "data_fingerprint"))
    if orientation_deg is None:
        share = more.pop("share of tuned neurons")
        units = Units.of(who, seed)
        remarks += [units.remark] if units.remark else []
        return Score(
            task="tuning", target=target, metric="share of tuned neurons", value=share.value,
            interval=(share.low, share.high), n=n, n_groups=units.count, cluster=units.word, what="neurons",
            scored="responses of the model", split="no truth", seed=seed, more=more,
            predicted=_column(names[judged], fitted.orientation[judged], "predicted"),
            truth=_column(names[:0], fitted.orientation[:0], "truth"), remarks=tuple(remarks),
            recipe_hash=recipe_hash, data_fingerprint=fingerprint,
        )  # fmt: skip
    if len(judged) < _FEWEST:
        raise Refused(
            f"at least {_FEWEST} neurons should be tuned and have a known orientation.",
            found=f"{len(judged)}: {int(chosen.sum())} of {n} tuned, {int(known.sum())} known.",
        )
    if not known.all():
        remarks.append(f"{int((chosen & ~known).sum()):,} tuned neurons have no known orientation and are not judged")
    truth, said = np.asarray(orientation_deg, np.float64)[judged] % 180, fitted.orientation[judged]
    units = Units.of(who[judged], seed)
    errors = {"model": circular_error(said, truth)}
    errors["vector sum"] = circular_error(plain.orientation[judged], truth)
    if positions is not None:
        errors["coordinates only"] = _nearest(np.asarray(positions, np.float64)[judged], who[judged], truth)
    draws = units.medians(errors)
    value, overall = median(errors["model"]), summary(errors["model"], draws["model"])
    note = "median error of the vector sum of responses instead of the fit"
    more["error of the vector sum, deg"] = summary(errors["vector sum"], draws["vector sum"], note)
    more["share within 15 deg"] = _share(errors["model"] <= 15, units, "of judged neurons")
    more["explained by the fit"] = Estimate(median(fitted.explained[judged]), note="median share of a curve's variance")
    shuffled = _shuffled(said, truth, seed)
    low, high = (float(end) for end in np.percentile(shuffled, [2.5, 97.5]))
    by_chance = f"orientations dealt anew among neurons, {_SHUFFLES} times; 45 where they are even"
    baselines = {"shuffled neurons": Estimate(float(shuffled.mean()), low, high, by_chance)}
    gains = {"shuffled neurons": metrics.estimate(value - float(shuffled.mean()), draws["model"] - shuffled.mean())}
    if positions is not None:
        place = summary(errors["coordinates only"], draws["coordinates only"], "true orientation of the nearest neuron")
        baselines["coordinates only"] = place
        gains["coordinates only"] = metrics.estimate(value - place.value, draws["model"] - draws["coordinates only"])
    remarks += [text for text in ("lower is better: a gain below zero favours the model", units.remark) if text]
    return Score(
        task="tuning", target=target, metric="median orientation error, deg", value=value,
        interval=(overall.low, overall.high), n=len(judged), n_groups=units.count, cluster=units.word, what="neurons",
        scored="responses of the model", split=f"tuned neurons, {len(judged):,} of {n:,}", seed=seed,
        baselines=baselines, gains=gains, more=more, predicted=_column(names[judged], said, "predicted"),
        truth=_column(names[judged], truth, "truth"), remarks=tuple(remarks),
        recipe_hash=recipe_hash, data_fingerprint=fingerprint,
    )  # fmt: skip


def _column(ids: NDArray[Any], values: Real, name: str) -> pd.Series:
    return pd.Series(values, index=pd.Index(ids, name="id", dtype=object), name=name)


def _share(which: NDArray[np.bool_], units: Units, note: str) -> Estimate:
    """Share of neurons, with an interval over the units."""
    draws = np.array([which[rows].mean() for rows in units.draws()])
    return metrics.estimate(float(which.mean()), draws, note)


def _nearest(where: Real, who: NDArray[Any], truth: Real) -> Real:
    """Error of the true orientation of the nearest other neuron of the same animal; NaN where it is the only one."""
    errors = np.full(len(where), np.nan)
    for name in np.unique(who.astype(str)):
        mine = np.flatnonzero(who.astype(str) == name)
        if len(mine) > 1:
            found = cast("Any", KDTree(where[mine]).query(where[mine], k=2))[1]
            # at places that coincide the first may be another neuron than oneself
            other = np.where(found[:, 0] == np.arange(len(mine)), found[:, 1], found[:, 0])
            errors[mine] = circular_error(truth[mine][other], truth[mine])
    return errors


def _shuffled(said: Real, truth: Real, seed: int) -> Real:
    """Median error of orientations that belong to other neurons, in each draw."""
    rng = stream(seed, "shuffled neurons", len(said))
    return np.array([median(circular_error(rng.permutation(said), truth)) for _ in range(_SHUFFLES)])
