"""How many directions of the features hold a number: ridge regression on their first principal components.

n rows, d features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brodmann.tasks._numbers import Groups, Parts, Real
from brodmann.tasks._probe import ridge_components


def counts(d: int) -> tuple[int, ...]:
    """Numbers of components: 1, 2, 4 ... below d, and d itself, which is the readout of all features."""
    return (*(2**k for k in range(d.bit_length()) if 2**k < d), d)


def read_out(x: NDArray[np.float32], y: Real, parts: Parts, inner: Groups) -> dict[int, Real]:
    """Predictions of the test rows, folds after one another, by the number of components kept.

    Components are those of each fold's training rows, standardised as for every readout, the most variable first; the
    penalty is chosen for each number of them, on training groups left out. Ridge regression is diagonal along
    components, so that all numbers together cost what one does.

    Parameters
    ----------
    x : ndarray (n, d) float32
    y : ndarray (n,) float64
        Known in all rows of ``parts``.
    parts : list of (train, test)
    inner : callable
        Groups of rows.

    Returns
    -------
    dict of int to ndarray (m,) float64
    """
    asked = counts(x.shape[1])
    said = [ridge_components(x[train], y[train], inner(train), x[test], asked) for train, test in parts]
    return {count: np.concatenate([one[k] for one in said]) for k, count in enumerate(asked)}
