"""Medians over neurons, and their draws by a bootstrap of whole animals, or of neurons where animals are few.

n neurons, m measures, B draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.samples import stream
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._score import Estimate

FEW_ANIMALS = 3


@dataclass(frozen=True, eq=False)
class Units:
    """What a bootstrap draws.

    Parameters
    ----------
    rows : tuple of ndarray of int64
        Rows of each animal.
    whole : bool
        Draw whole animals; otherwise neurons within each animal.
    seed : int
    """

    rows: tuple[NDArray[np.int64], ...]
    whole: bool
    seed: int

    @classmethod
    def of(cls, subject: NDArray[Any], seed: int, *, whole: bool | None = None) -> Units:
        """Units of neurons (n,) that belong to ``subject``: whole animals where there are three, by default."""
        names, number = np.unique(subject.astype(str), return_inverse=True)
        order = np.argsort(number.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(number.reshape(-1), minlength=len(names)))[:-1]
        whole = len(names) >= FEW_ANIMALS if whole is None else whole
        return cls(tuple(part.astype(np.int64) for part in np.split(order, ends)), whole, seed)

    @property
    def word(self) -> str:
        """What is drawn."""
        return "animals" if self.whole else "neurons"

    @property
    def count(self) -> int:
        """How many units there are."""
        return len(self.rows) if self.whole else sum(map(len, self.rows))

    @property
    def remark(self) -> str:
        """What the interval does not cover; empty if nothing."""
        if not self.whole:
            few = f"{len(self.rows)} animal{'s' if len(self.rows) > 1 else ''}"
            return f"{few}: the interval is over neurons, and says nothing about other animals"
        return f"an interval from {len(self.rows)} animals is rough" if len(self.rows) < 8 else ""

    def draws(self) -> Iterator[NDArray[np.int64]]:
        """Rows of each of `metrics.DRAWS` draws, the same in every call."""
        rng = stream(self.seed, "medians", self.count)
        for _ in range(metrics.DRAWS):
            if self.whole:
                yield np.concatenate([self.rows[g] for g in rng.integers(0, len(self.rows), len(self.rows))])
            else:
                yield np.concatenate([own[rng.integers(0, len(own), len(own))] for own in self.rows])

    def medians(self, values: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """Median of each measure (n,) in each draw: (B,) by name; what is NaN takes no part.

        One draw of rows serves every measure, so that differences of draws are paired.
        """
        found = {name: np.full(metrics.DRAWS, np.nan) for name in values}
        whole = {name: bool(np.isfinite(value).all()) for name, value in values.items()}
        for b, rows in enumerate(self.draws()):
            for name, value in values.items():
                some = value[rows]
                found[name][b] = median(some) if not whole[name] else np.median(some)
        return found


def median(values: NDArray[np.float64]) -> float:
    """Median of what is not NaN; NaN if nothing is left."""
    held = values[~np.isnan(values)]
    return float(np.median(held)) if len(held) else float("nan")


def summary(values: NDArray[np.float64], draws: NDArray[np.float64], note: str = "") -> Estimate:
    """Median with the interval of its draws."""
    return metrics.estimate(median(values), draws, note)
