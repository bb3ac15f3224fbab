"""Surrogate labels: random maps that are as patchy as the true one and know nothing of it, where no sphere can be spun.

n rows, K classes. Each class has a smooth random function of place, the largest one names the class; how smooth they
are is chosen so that two places at any distance share a label as often as in the true map, and their levels so that
every class is as common. This is the idea of surrogate maps with a matched variogram (Burt et al. 2020, NeuroImage
220:117038) for names instead of numbers: the share of equal pairs at each distance (join counts) takes the place of the
variogram, and random Fourier features (Rahimi & Recht 2007) that of a matrix of all distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.samples import stream

Codes = NDArray[np.int64]
Real = NDArray[np.float64]

_WAVES = 150
_PAIRS = 60_000
_BINS = 15
_LENGTHS = np.geomspace(0.04, 0.6, 12)
"""Lengths tried, in units of the root of the total variance of places."""
_TRIES = 6


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Maps like that of ``codes`` over ``where``.

    Parameters
    ----------
    where : ndarray (n, 2 or 3) float64
        Places of all rows in one common space, mm (hemispheres folded onto each other where maps are symmetric).
    codes : ndarray (n,) int64
        True labels; -1 where there is none.
    length_mm : float
        SD of the Gaussian by which the random functions are correlated.
    """

    where: Real
    codes: Codes
    length_mm: float

    @classmethod
    def fit(cls, where: Real, codes: Codes, brain: NDArray[np.int64], seed: int) -> Surrogate:
        """Choose the length at which surrogates are as patchy as the truth.

        Parameters
        ----------
        where, codes
            As above.
        brain : ndarray (n,) int64
            Brain of each row; pairs are of one brain, since registration errors part those of two.
        seed : int
            Key of the pairs and of the maps tried.
        """
        known = np.flatnonzero(codes >= 0)
        rng = stream(seed, "surrogate pairs", len(known))
        a = known[rng.integers(0, len(known), _PAIRS)]
        b = known[rng.integers(0, len(known), _PAIRS)]
        some = (a != b) & (brain[a] == brain[b])
        a, b = a[some], b[some]
        distance = np.linalg.norm(where[a] - where[b], axis=1)
        near = distance <= np.median(distance)
        a, b, distance = a[near], b[near], distance[near]
        ends = np.quantile(distance, np.linspace(0, 1, _BINS + 1)[1:-1])
        bin_ = np.searchsorted(ends, distance)
        total = np.maximum(np.bincount(bin_, minlength=_BINS), 1)

        def curve(labels: Codes) -> Real:
            return np.bincount(bin_, labels[a] == labels[b], _BINS) / total

        aim = curve(codes)
        scale = float(np.sqrt(where[known].var(axis=0).sum()))
        errors: list[float] = []
        for number, share in enumerate(_LENGTHS):
            tried = cls(where, codes, float(share) * scale)
            curves = [curve(tried.draw(stream(seed, "surrogate tried", number, k))) for k in range(_TRIES)]
            errors.append(float(((np.mean(curves, axis=0) - aim) ** 2).sum()))
        return cls(where, codes, float(_LENGTHS[int(np.argmin(errors))]) * scale)

    def draw(self, rng: np.random.Generator) -> Codes:
        """One map: (n,) class numbers, -1 where the true map has no label."""
        known = self.codes >= 0
        counts = np.bincount(self.codes[known])
        size = len(counts)
        # all classes share the waves, which is what costs, and differ in their weights: independent for many waves
        waves = rng.standard_normal((self.where.shape[1], _WAVES)) / self.length_mm
        angle = self.where[known] @ waves
        height = np.cos(angle) @ rng.standard_normal((_WAVES, size)) + np.sin(angle) @ rng.standard_normal(
            (_WAVES, size)
        )
        height /= np.sqrt(_WAVES)
        level = np.zeros(size)
        share = counts / counts.sum()
        said = height.argmax(axis=1)
        for step in range(30):
            off = share - np.bincount(said, minlength=size) / len(said)
            if np.abs(off).max() < 0.01:
                break
            level += off * (2.0 if step < 15 else 0.7)
            said = (height + level).argmax(axis=1)
        result = np.full(len(self.codes), -1, dtype=np.int64)
        result[known] = said
        return result
