"""Candidate pairs of neurons: synapses, distances as a smooth control, similarity of features.

P pairs, G pre-synaptic neurons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.errors import Refused, Usage
from brodmann.samples import stream
from brodmann.tasks import _rows
from brodmann.tasks._poisson import Counts

Real = NDArray[np.float64]
Codes = NDArray[np.int64]

FOLDS = 5
"""Folds of pre-synaptic neurons."""
_KNOTS = (5, 27.5, 50, 72.5, 95)
_BLOCK = 65_536
EVENTS = 5
"""Connected pairs for each coefficient: with fewer, slopes and their intervals are wrong (Vittinghoff and McCulloch,
Am J Epidemiol 165, 2007)."""
_NEEDED = ("pre", "post", "synapses", "distance_um")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Candidate pairs, ordered by pre-synaptic neuron and distance; P pairs, G pre-synaptic neurons.

    Parameters
    ----------
    pre, post : ndarray (P,) int64
        Rows of the table.
    given : Counts
        Synapses; log of what the pre-synaptic neuron's total gives each candidate; number of that neuron, 0 to G - 1.
    fold : ndarray (P,) int64
    control : ndarray (P, c) float64
        Distance, receptive-field distance if known (standardised), and bends of the two.
    spread : dict of str to float
        SD of each distance, in its own unit, in the order of columns.
    remarks : tuple of str
    """

    pre: Codes
    post: Codes
    given: Counts
    fold: Codes
    control: Real
    spread: dict[str, float]
    remarks: tuple[str, ...]


def similarity(features: NDArray[np.floating[Any]], pre: Codes, post: Codes) -> Real:
    """Cosine of the features (n, d) of the neurons of each pair, sign kept: (P,); 0 where a neuron has none."""
    rows = np.asarray(features, np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    result = np.empty(len(pre))
    for start in range(0, len(pre), _BLOCK):
        some = slice(start, start + _BLOCK)
        result[some] = np.einsum("pd,pd->p", rows[pre[some]], rows[post[some]])
    return result


def candidates(table: AnnData, synapses: pd.DataFrame, seed: int) -> Pairs:
    """Pairs whose neurons are in the table, in order, with what the control needs; as in `wiring`."""
    missing = [name for name in _NEEDED if name not in synapses]
    if missing:
        raise Usage(
            f"synapses should have columns {', '.join(_NEEDED)}.", found=f"{', '.join(map(str, synapses.columns))}.",
            do=f"add {', '.join(missing)}.",
        )  # fmt: skip
    index = {name: i for i, name in enumerate(_rows.ids(table).tolist())}
    ends = {side: np.array([index.get(str(name), -1) for name in synapses[side]], np.int64) for side in ("pre", "post")}
    counts, where = _numbers(synapses, "synapses"), _numbers(synapses, "distance_um")
    columns = {"distance": where}
    if "rf_distance_deg" in synapses and not np.isnan(apart := _numbers(synapses, "rf_distance_deg")).all():
        columns["receptive-field distance"] = apart
    exposure = _numbers(synapses, "exposure") if "exposure" in synapses else np.ones(len(counts))
    negative = any(np.less(each, 0).any() for each in (counts, where, exposure))
    if negative or not np.isfinite(counts).all():
        raise Refused("synapses, distances and exposures should not be negative, and counts should be known.",
                      found="negative numbers or NaN.")  # fmt: skip
    remarks: list[str] = []
    known = (ends["pre"] >= 0) & (ends["post"] >= 0)
    usable = known & (ends["pre"] != ends["post"]) & (exposure > 0) & np.isfinite(exposure)
    usable &= np.isfinite(np.column_stack(list(columns.values()))).all(axis=1)
    if not known.all():
        remarks.append(f"{int((~known).sum()):,} of {len(known):,} pairs have a neuron that is not in the table")
    if other := int((known & ~usable).sum()):
        remarks.append(f"{other:,} pairs left out: a neuron with itself, no exposure, or a distance that is not known")
    order = np.flatnonzero(usable)
    order = order[np.lexsort((where[order], ends["pre"][order]))]
    pre, post = ends["pre"][order], ends["post"][order]
    if len(np.unique(pre * len(index) + post)) < len(pre):
        raise Refused("a pair should be given once.", found="pairs of the same two neurons in the same direction.",
                      do="add up their synapses.")  # fmt: skip
    number = np.unique(pre, return_inverse=True)[1].reshape(-1)
    total = np.bincount(number, counts[order])
    silent = total[number] == 0
    if silent.any():
        remarks.append(f"{int((total == 0).sum())} pre-synaptic neurons have no synapse with a candidate: left out")
    order, pre, post = order[~silent], pre[~silent], post[~silent]
    cluster = np.unique(pre, return_inverse=True)[1].reshape(-1).astype(np.int64)
    size = int(cluster.max()) + 1 if len(cluster) else 0
    if size < 2 * FOLDS:
        raise Refused(
            f"wiring needs at least {2 * FOLDS} pre-synaptic neurons with synapses and features.",
            found=f"{size}{'; ' if remarks else ''}{'; '.join(remarks)}.",
        )
    share, total = exposure[order], np.bincount(cluster, counts[order])
    offset = np.log(share * (total / np.bincount(cluster, share))[cluster])
    linear: list[Real] = []
    bends: list[Real] = []
    spread: dict[str, float] = {}
    for name, values in columns.items():
        z, spread[name] = standard(values[order])
        linear.append(z)
        bends += _bends(z)
    control = np.column_stack([*linear, *bends])
    check_enough(counts[order], size, control.shape[1] + 1)
    fold = (stream(seed, "wiring folds", size).permutation(size) % FOLDS)[cluster]
    return Pairs(pre, post, Counts(counts[order], offset, cluster), fold, control, spread, tuple(remarks))


def check_enough(counts: Real, size: int, coefficients: int, *, fitted: bool = True) -> None:
    """Refuse pairs too few to fit, or whose fit says that synapses of held-out neurons are impossible.

    Parameters
    ----------
    counts : ndarray (P,) float64
        Synapses of each pair.
    size : int
        Pre-synaptic neurons.
    coefficients : int
        Of the largest model.
    fitted : bool
        Whether what was fitted is finite.

    Raises
    ------
    Refused
        With how many there are and how many are needed.
    """
    connected, need = int((counts > 0).sum()), EVENTS * coefficients
    found = (
        f"{connected:,} connected pairs of {len(counts):,}, with {counts.sum():,.0f} synapses of {size:,} "
        "pre-synaptic neurons"
    )
    if connected == len(counts):
        raise Refused(
            "wiring compares connected pairs with pairs that were looked at and are not connected.",
            found=f"{found}: all are connected.",
            do="add a row with 0 synapses for each pair of neurons that was looked at.",
        )
    if connected < need:
        raise Refused(
            f"wiring needs at least {need:,} connected pairs, {EVENTS} for each of {coefficients} coefficients.",
            found=f"{found}.",
            cause="too few neurons, or too few of them traced.",
            do="give more neurons or more pairs that were looked at.",
        )
    if not fitted:
        raise Refused(
            f"wiring needs connected pairs at all distances: at least {need:,}, and more where distances range widely.",
            found=f"{found}; those of some neurons lie where the others have none, so that nothing can be predicted.",
            cause="too few connected pairs for the range of distances.",
            do="give more neurons, or leave out pairs that lie too far apart to be connected.",
        )


def _numbers(synapses: pd.DataFrame, name: str) -> Real:
    try:
        return synapses[name].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Refused(f"column '{name}' of the synapses should hold numbers.", found=str(error)) from error


def standard(values: Real) -> tuple[Real, float]:
    """Values with mean 0 and SD 1, and the SD; zeros and 1 where they are constant."""
    sd = float(values.std())
    if sd <= 1e-9 * (1 + abs(float(values.mean()))):
        return np.zeros(len(values)), 1.0
    return (values - values.mean()) / sd, sd


def _bends(z: Real) -> list[Real]:
    """Restricted cubic spline (Harrell 2001) of five knots without its linear part, made orthogonal to it."""
    knots = np.unique(np.percentile(z, _KNOTS))
    if len(knots) < 3:
        return []
    last, before = knots[-1], knots[-2]

    def cube(knot: float) -> Real:
        return np.maximum(z - knot, 0) ** 3

    found: list[Real] = []
    kept = [np.ones(len(z)), z]
    for knot in knots[:-2]:
        column = cube(knot) - (cube(before) * (last - knot) - cube(last) * (before - knot)) / (last - before)
        for one in kept:
            column = column - one * (one @ column) / max(float(one @ one), 1e-12)
        column, _ = standard(column)
        if column.any():
            found.append(column)
            kept.append(column)
    return found
