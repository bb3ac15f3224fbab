"""How sure a classifier may be: one temperature (Guo et al. 2017), and the probability below which it should not name.

n rows, K classes. Everything here is fitted on labelled rows that were not learned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Real = NDArray[np.float64]

_LEAST_SHARE, _LEAST_ROWS = 0.1, 10


def surprise(logits: Real, codes: NDArray[np.int64], temperature: float = 1.0) -> float:
    """Mean negative log likelihood of the true classes, nats.

    Parameters
    ----------
    logits : (n, K) float64
    codes : (n,) int64
    temperature : float
        By which logits are divided.
    """
    found = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return -float(found[np.arange(len(codes)), codes].mean())


def temperature(logits: Real, codes: NDArray[np.int64]) -> float:
    """The temperature that makes the true classes least surprising; 1 if none does better (Guo et al. 2017, eq. 9).

    The likelihood has one optimum, because it is concave in 1 / T; it is searched between 0.05 and 20. No order of
    classes changes, so that accuracy stays as it is.

    Parameters
    ----------
    logits : (n, K) float64
    codes : (n,) int64
    """
    if not len(codes):
        return 1.0
    found = minimize_scalar(
        lambda log_t: surprise(logits, codes, float(np.exp(log_t))), bounds=(np.log(0.05), np.log(20)), method="bounded"
    )
    best = float(np.exp(found.x))
    return best if surprise(logits, codes, best) < surprise(logits, codes) else 1.0


def threshold(top: Real, right: NDArray[np.bool_], sure: float) -> float:
    """The lowest probability above which names are right as often as is wanted.

    Parameters
    ----------
    top : (n,) float64
        Calibrated probability of the most probable class.
    right : (n,) bool
        Whether that is the true one.
    sure : float
        Wanted accuracy of what is named.

    Returns
    -------
    float
        0 where everything may be named. Where no threshold gives the accuracy, the one that comes nearest to it and
        leaves at least a tenth of the rows (ten of them, if there are ten) with a name.
    """
    if not len(top):
        return 0.0
    order = np.argsort(-top, kind="stable")
    accuracy = np.cumsum(right[order]) / np.arange(1, len(top) + 1)
    # rows of one probability are named together
    last = np.flatnonzero(np.append(np.diff(top[order]) != 0, True))
    usable = last[last + 1 >= min(max(_LEAST_SHARE * len(top), _LEAST_ROWS), len(top))]
    enough = usable[accuracy[usable] >= sure]
    at = int(enough[-1]) if len(enough) else int(usable[np.argmax(accuracy[usable])])
    return 0.0 if at == len(top) - 1 else float(top[order][at])
