"""Surrogate numbers: random maps as smooth and as rough as the true one, which know nothing of it.

n rows. The variogram of the true numbers (half the mean squared difference of two rows, by their distance) is fitted by
a sum of Gaussian ones and a nugget, all at least 0; a surrogate is a sum of random functions of place with these
variances and of noise, and takes the true values in the order of its own. This is the idea of Burt et al. (2020),
NeuroImage 220:117038, with random Fourier features (Rahimi & Recht 2007) in place of a matrix of all distances, and one
thing added: as much of the map is common to all brains as two brains share at one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.spatial import KDTree
from scipy.special import ndtri
from scipy.stats import rankdata

from brodmann.samples import stream

Codes = NDArray[np.int64]
Real = NDArray[np.float64]

_WAVES = 200
_PAIRS, _LOOK = 40_000, 3000
_RANKS = (2, 3, 5, 9, 17, 33)
"""Neighbours with which a row is paired: close pairs are rare among random ones."""
_BINS, _LENGTHS = 24, 9
_REACH, _OVERALL = 0.25, 5.0
"""Pairs up to this quantile of distances are fitted, as in Burt et al.: one map says little of far ones."""


@dataclass(frozen=True, eq=False)
class Field:
    """Maps like that of ``values`` over ``where``.

    Parameters
    ----------
    where : ndarray (n, 2 or 3) float64
        Places in one common space, mm.
    values : ndarray (n,) float64
        True numbers, all known.
    brain : ndarray (n,) int64
        Brain of each row.
    lengths_mm, variances : ndarray (L,) float64
        SD of the Gaussian by which each part is correlated, and how much of the variance it is (of normal scores).
    nugget : float
        Variance of what differs between neighbours.
    shared : float
        How much of the smooth part is the same in all brains, 0 to 1.
    """

    where: Real
    values: Real
    brain: Codes
    lengths_mm: Real
    variances: Real
    nugget: float
    shared: float

    @classmethod
    def fit(cls, where: Real, values: Real, brain: Codes, seed: int) -> Field:
        """Fit the variogram of pairs within a brain, and what pairs of two brains have in common.

        Parameters
        ----------
        where, values, brain
            As above.
        seed : int
            Key of the pairs.
        """
        n = len(values)
        rng = stream(seed, "field pairs", n)
        z = ndtri((rankdata(values) - 0.5) / n)
        a, b = _pairs(where, brain, rng)
        distance, half = np.linalg.norm(where[a] - where[b], axis=1), (z[a] - z[b]) ** 2 / 2
        every, reach = distance[-_PAIRS:], float(np.quantile(distance[-_PAIRS:], _REACH))
        if reach <= 0:
            return cls(where, values, brain, np.ones(1), np.zeros(1), 1.0, 0.0)
        whole = float(half[-_PAIRS:].mean())
        some = (distance <= reach) & (a != b)
        a, b, distance, half = a[some], b[some], distance[some], half[some]
        bin_, h = _binned(distance)
        count = np.bincount(bin_, minlength=len(h))
        # what is shorter than the closest pairs are apart is nugget
        lengths = np.geomspace(min(h[0], reach), 2 * reach, _LENGTHS)
        overall = np.array([1.0, *((1 - np.exp(-(every**2) / (2 * length**2))).mean() for length in lengths)])
        rise = np.column_stack([np.ones(len(h)), 1 - np.exp(-(h[:, None] ** 2) / (2 * lengths**2))])
        # surrogates take the true values and so their variance: what pairs differ by altogether must fit first of all
        aim = np.append(np.bincount(bin_, half, len(h)) / count, _OVERALL * whole)
        weights = cast("Real", nnls(np.vstack([rise, _OVERALL * overall]), aim)[0])
        nugget, variances = float(weights[0]), weights[1:]
        if variances.sum() <= 0:
            return cls(where, values, brain, lengths, np.zeros(_LENGTHS), 1.0, 0.0)
        alike = np.bincount(bin_, z[a] * z[b], len(h)) / count
        return cls(where, values, brain, lengths, variances, nugget, _shared(where, brain, z, h, alike, rng))

    def draw(self, rng: np.random.Generator) -> Real:
        """One map: (n,) the true values in another order."""
        total = float(self.variances.sum())
        z = np.sqrt(self.nugget) * rng.standard_normal(len(self.values))
        if total > 0:
            length = rng.choice(self.lengths_mm, size=_WAVES, p=self.variances / total)
            angle = self.where @ (rng.standard_normal((self.where.shape[1], _WAVES)) / length)
            size = int(self.brain.max()) + 2 if self.shared < 1 else 1
            # all brains share the waves, which is what costs, and differ in their weights
            height = np.cos(angle) @ rng.standard_normal((_WAVES, size))
            height += np.sin(angle) @ rng.standard_normal((_WAVES, size))
            own = np.take_along_axis(height, self.brain[:, None] + 1, axis=1)[:, 0] if size > 1 else 0.0
            smooth = np.sqrt(self.shared) * height[:, 0] + np.sqrt(1 - self.shared) * own
            z += np.sqrt(total / _WAVES) * smooth
        result = np.empty(len(z))
        result[np.argsort(z, kind="stable")] = np.sort(self.values)
        return result

    @property
    def length_mm(self) -> float:
        """Length of the smooth part: mean over its variances; 0 where there is none."""
        total = float(self.variances.sum())
        return float(self.lengths_mm @ self.variances) / total if total > 0 else 0.0


def _pairs(where: Real, brain: Codes, rng: np.random.Generator) -> tuple[Codes, Codes]:
    """Rows of the same brain: some neighbours, then random pairs (the last `_PAIRS`)."""
    first: list[Codes] = []
    second: list[Codes] = []
    order = rng.permutation(len(where))
    for who in np.unique(brain):
        rows = order[brain[order] == who]
        ranks = [rank for rank in _RANKS if rank <= len(rows)]
        if ranks:
            asked = rows[: max(_LOOK * len(rows) // len(where), 1)]
            index = cast("Any", KDTree(where[rows])).query(where[asked], k=ranks)[1]
            first.append(np.repeat(asked, len(ranks)))
            second.append(rows[index].ravel())
    a = rng.integers(0, len(where), _PAIRS)
    # a partner from the same brain: rows sorted by brain, and a random one of its stretch
    by = np.argsort(brain, kind="stable")
    start, size = np.searchsorted(brain[by], np.arange(brain.max() + 1)), np.bincount(brain)
    b = by[start[brain[a]] + (rng.random(_PAIRS) * size[brain[a]]).astype(np.int64)]
    return np.concatenate([*first, a]), np.concatenate([*second, b])


def _binned(distance: Real) -> tuple[Codes, Real]:
    """Bin of each pair, each with as many, and the mean distance of each bin."""
    ends = np.unique(np.quantile(distance, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bin_ = np.searchsorted(ends, distance)
    held, bin_ = np.unique(bin_, return_inverse=True)
    bin_ = bin_.reshape(-1).astype(np.int64)
    return bin_, np.bincount(bin_, distance, len(held)) / np.bincount(bin_, minlength=len(held))


def _shared(where: Real, brain: Codes, z: Real, h: Real, alike: Real, rng: np.random.Generator) -> float:
    """Likeness of rows of two brains that lie close to each other over that of rows of one brain as far apart."""
    names = np.unique(brain)
    if len(names) < 2:
        return 1.0
    products: list[Real] = []
    expected: list[Real] = []
    for who in names:
        mine, others = np.flatnonzero(brain == who), np.flatnonzero(brain != who)
        mine = rng.permutation(mine)[: max(_LOOK // len(names), 1)]
        far, index = KDTree(where[others]).query(where[mine])
        near = far <= h[-1]
        products.append(z[mine][near] * z[others[index]][near])
        expected.append(np.interp(far[near], h, alike))
    whole = float(np.concatenate(expected).sum())
    return float(np.clip(np.concatenate(products).sum() / whole, 0, 1)) if whole > 0 else 0.0
