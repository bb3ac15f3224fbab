"""Synapses between planted neurons: near and alike ones are wired; where their receptive fields lie is not asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

BASE, REACH_UM, FALL, LIKE, PARTNER_SD = 0.8, 120.0, 1.6, 1.6, 0.35
"""Synapses of a pair at distance 0; how far and how steeply (log-log) they fall; slope of log count against
`similarity`; spread (SD of log count) that is a neuron's own."""


def similarity(pre: pd.DataFrame, post: pd.DataFrame) -> Array:
    """How alike two tables of planted neurons are, row by row, (n,): -1 to 1, whatever their types.

    The mean of three parts: cosine of twice the difference in orientation; and for spatial and temporal frequency
    ``2 exp(-d^2 / 2) - 1`` with d the difference in units of 0.5 log. 0 where one of the two is not driven; broad cells
    have no orientation, whose part is then 0.
    """
    turn = np.deg2rad(pre["orientation_deg"].to_numpy() - post["orientation_deg"].to_numpy())
    tuned = (pre["type"].to_numpy() != "broad") & (post["type"].to_numpy() != "broad")
    total = np.where(tuned, np.cos(2 * turn), 0.0)
    for name in ("sf_cpd", "tf_hz"):
        apart = np.log(pre[name].to_numpy() / post[name].to_numpy()) / 0.5
        total = total + 2 * np.exp(-(apart**2) / 2) - 1
    return np.where(pre["driven"].to_numpy() & post["driven"].to_numpy(), total / 3, 0.0)


def wire(rng: np.random.Generator, planted: pd.DataFrame, ids: NDArray[Any], *, proofread: int = 40) -> pd.DataFrame:
    """Count synapses from some proofread neurons to all others of one animal.

    Counts are Poisson; their logarithm falls with distance, rises with `similarity`, and differs between neurons.

    Parameters
    ----------
    planted : DataFrame
        See `population.plant`.
    ids : (n,) str
    proofread : int
        Neurons whose axons were followed.

    Returns
    -------
    DataFrame
        ``pre, post`` (ids), ``synapses`` (int64, mostly 0), ``distance_um`` between the cells, ``rf_distance_deg``
        between their receptive fields (NaN where one has none).
    """
    n = len(planted)
    axons = np.sort(rng.permutation(n)[:proofread])
    pre, post = np.repeat(axons, n), np.tile(np.arange(n), len(axons))
    pre, post = pre[pre != post], post[pre != post]
    xyz_um = planted[["x_mm", "y_mm", "z_mm"]].to_numpy() * 1000
    distance = np.linalg.norm(xyz_um[pre] - xyz_um[post], axis=1)
    alike = similarity(planted.iloc[pre], planted.iloc[post])
    own = rng.normal(0, PARTNER_SD, (2, n))
    mean = BASE * (1 + distance / REACH_UM) ** -FALL * np.exp(LIKE * alike + own[0, pre] + own[1, post])
    place = planted[["rf_x_deg", "rf_y_deg"]].to_numpy().copy()
    place[~planted["driven"].to_numpy(dtype=bool)] = np.nan
    return pd.DataFrame({
        "pre": ids[pre], "post": ids[post], "synapses": rng.poisson(mean), "distance_um": distance,
        "rf_distance_deg": np.linalg.norm(place[pre] - place[post], axis=1),
    })  # fmt: skip
