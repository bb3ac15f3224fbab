"""The spatial null of networks: what features are worth for unrelated maps that are as smooth as the true one.

n rows, K classes, R null maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.samples import stream
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _rivals as rivals
from brodmann.tasks import _rows
from brodmann.tasks._classes import Parts
from brodmann.tasks._probe import fit_predict
from brodmann.tasks._score import Estimate
from brodmann.tasks._spin import Matching, Sphere, carried, p_value
from brodmann.tasks._surrogate import Surrogate

Codes = NDArray[np.int64]
Real = NDArray[np.float64]

_PENALTY = 1e-2
_ROWS = 1500
"""Training rows of a fold, and rows that are tested, for each null map and, alike, for the true one."""


@dataclass(frozen=True, eq=False)
class Null:
    """Balanced accuracies under null maps and, by the same procedure, under the true one.

    Parameters
    ----------
    kind : str
        How maps were made, in words.
    values, gains : ndarray (R,) float64
        Of features; of coordinates and features together minus coordinates alone.
    observed, observed_gain : float
        The same of the true map.
    left_out : float
        Mean share of labelled rows that a null map leaves without a label.
    """

    kind: str
    values: Real
    gains: Real
    observed: float
    observed_gain: float
    left_out: float

    @property
    def p(self) -> float:
        """P value of the features."""
        return p_value(self.observed, self.values)

    @property
    def p_gain(self) -> float:
        """P value of what features add to coordinates."""
        return p_value(self.observed_gain, self.gains)

    def estimates(self) -> dict[str, Estimate]:
        """What a score tells of it: the null, the features under its procedure, and both p values."""
        times, cut = len(self.values), f"at most {_ROWS} training rows of a fold, one penalty"
        out = f"; {self.left_out:.0%} of rows left without a label" if self.left_out > 0 else ""
        low, high = np.percentile(self.values, [2.5, 97.5])
        gain_low, gain_high = np.percentile(self.gains, [2.5, 97.5])
        found = {
            "spatial null": Estimate(
                float(self.values.mean()),
                float(low),
                float(high),
                f"{self.kind}, {times} times; mean and 95 % of them{out}; p = {self.p:.3g}",
            ),
            "features, as the null": Estimate(self.observed, note=cut),
            "p, features": Estimate(self.p, note=f"(1 + null maps at least as good) / (1 + {times})"),
            "gain over coordinates, as the null": Estimate(
                self.observed_gain,
                note=f"smooth functions of place, with and without features; null {self.gains.mean():+.3f} "
                f"[{gain_low:+.3f}, {gain_high:+.3f}]",
            ),
            "p, gain over coordinates": Estimate(self.p_gain, note=f"(1 + null maps at least as good) / (1 + {times})"),
        }
        return found


def maps(
    table: AnnData, sphere: Sphere | None, where: Real, codes: Codes, seed: int, matching: Matching = "nearest"
) -> tuple[str, Callable[[np.random.Generator], Codes]]:
    """How null maps are made of a table, in words, and what makes one: spins where there is a sphere, else surrogates.

    Parameters
    ----------
    table : AnnData
    sphere : Sphere, optional
        Its rows on their spheres.
    where : ndarray (n, 2 or 3) float64
        Places for surrogates, mm; hemispheres folded onto each other.
    codes : ndarray (n,) int64
        True labels; -1 where there is none.
    seed : int
    matching : {"nearest", "assigned"}
        Of spins, see `Sphere.spin`.
    """
    if sphere is not None:
        labelled = np.flatnonzero(codes >= 0)

        def spun(rng: np.random.Generator) -> Codes:
            moved = carried(codes, sphere.spin(rng, matching))
            result = np.full_like(codes, -1)
            # what had no label in the true map takes none: its features are no cortex
            result[labelled] = moved[labelled]
            return result

        return f"labels spun on the sphere ({matching})", spun
    brain = pd.factorize(_rows.brains(table))[0]
    surrogate = Surrogate.fit(where, codes, brain, seed)
    return f"random maps as patchy as the labels (length {surrogate.length_mm:.2g} mm)", surrogate.draw


def null(
    x: NDArray[np.float32],
    where: Real,
    codes: Codes,
    parts: Parts,
    moved: tuple[str, Callable[[np.random.Generator], Codes]],
    *,
    size: int,
    repeats: int,
    seed: int,
) -> Null:
    """Read null maps out of the features as the true one, fold by fold.

    Parameters
    ----------
    x : ndarray (n, d) float32
        Features.
    where : ndarray (n, 2 or 3) float64
        Coordinates that features are added to.
    codes : ndarray (n,) int64
    parts : list of (train, test)
        Labelled rows of each fold.
    moved : (str, callable)
        See `maps`.
    size, repeats, seed : int
        Number of classes, number of null maps, key of the draws.
    """
    kind, make = moved
    rows: Parts = []
    plain: list[NDArray[np.float32]] = []
    for number, (train, test) in enumerate(parts):
        rng = stream(seed, "null rows", number)
        train, test = (np.sort(rng.permutation(some)[:_ROWS]) for some in (train, test))
        rows.append((train, test))
        plain.append(rivals.place_features(where, train, seed))
    joined = [np.hstack([smooth, x]) for smooth in plain]

    def value(features: list[NDArray[np.float32]], labels: Codes) -> float:
        matrix = np.zeros((size, size), dtype=np.int64)
        for own, (train, test) in zip(features, rows, strict=True):
            a, b = train[labels[train] >= 0], test[labels[test] >= 0]
            if len(a) and len(b):
                said, _ = fit_predict("linear", own[a], labels[a], a, own[b], seed, penalty=_PENALTY)
                matrix += metrics.confusion(labels[b], said, size)
        return float(metrics.balanced_accuracy(matrix))

    def both(labels: Codes) -> tuple[float, float]:
        return value([x] * len(rows), labels), value(joined, labels) - value(plain, labels)

    values, gains, kept = np.empty(repeats), np.empty(repeats), np.empty(repeats)
    known = codes >= 0
    for r in range(repeats):
        labels = make(stream(seed, "null map", r))
        kept[r] = (labels[known] >= 0).mean()
        values[r], gains[r] = both(labels)
    return Null(kind, values, gains, *both(codes), left_out=float(1 - kept.mean()))
