"""What questions about classes share: rows that are learned and tested, and how predictions are judged together.

n held-out rows, K classes, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.splits import Fold
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._score import Estimate

Codes = NDArray[np.int64]
Real = NDArray[np.float64]
Parts = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True, eq=False)
class Judge:
    """Turns predictions of the held-out rows into a value and its draws, the same draws for all that is compared.

    Parameters
    ----------
    truth : ndarray (n,) int64
        Class numbers, folds after one another.
    size : int
        Number of classes.
    boot : Bootstrap
    measure : callable
        Confusion matrices (..., K, K), rows truth, to values (...,).
    """

    truth: Codes
    size: int
    boot: metrics.Bootstrap
    measure: Callable[[NDArray[np.number]], Real]

    def value(self, said: Codes) -> float:
        """Value of predictions (n,)."""
        return float(self.measure(metrics.confusion(self.truth, said, self.size)))

    def draws(self, said: Codes) -> Real:
        """Value in each draw: (B,)."""
        return self.measure(self.boot.confusions(self.truth, said, self.size))

    def estimate(self, said: Codes, note: str = "") -> Estimate:
        """Value with its interval."""
        return metrics.estimate(self.value(said), self.draws(said), note)

    def gain(self, said: Codes, rival: Codes, note: str = "") -> Estimate:
        """Value of one minus that of the other, paired over the draws."""
        return metrics.estimate(self.value(said) - self.value(rival), self.draws(said) - self.draws(rival), note)

    def best(self, forms: Mapping[str, Codes]) -> str:
        """Name the form with the largest value: choosing it on the held-out rows favours it."""
        values = {name: self.value(said) for name, said in forms.items()}
        return max(values, key=lambda name: values[name])


def parts(made: Sequence[Fold], codes: Codes) -> Parts:
    """Labelled training and test rows of each fold that can be learned and tested.

    Raises
    ------
    Refused
        A fold has no labelled row to learn from, or none has one to test.
    """
    found = [(fold.train[codes[fold.train] >= 0], fold.test[codes[fold.test] >= 0]) for fold in made]
    found = [(train, test) for train, test in found if len(test)]
    bare = [fold.name for fold in made if not (codes[fold.train] >= 0).any()]
    if not found or bare:
        raise Refused(
            "every fold should hold labelled rows to learn from, and some to test.",
            found=f"none to learn from with {bare[0]}." if bare else "no labelled row is held out.",
            do="choose another fold, or a split whose groups are labelled.",
        )
    return found


def series(classes: tuple[str, ...], codes: Codes, names: NDArray[np.object_], title: str) -> pd.Series:
    """Class names of rows, by their ids."""
    return pd.Series(np.array(classes, dtype=object)[codes], index=pd.Index(names, name="id"), name=title, dtype=object)
