"""What each animal's experiment does to each gene: probes bind and fade differently from one to the next.

Were it left in, the shortest way to predict a hidden cell's counts would be to recognise the animal, and features would
name donors before they name tissue. Each gene's share of an animal's counts is therefore compared with its share in the
data the model was trained on. The ratio divides the counts that are read and multiplies those that are predicted, so
nothing is left to be learned of it. This takes animals to show much the same tissue; where they do not,
``samples.equalise = false``.

A animals, G genes, n cells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brodmann.samples import stream

CELLS = 20_000
"""Cells of an animal that its shares are measured on, at most."""
PRIOR = 50.0
"""Counts per gene, in the proportions of the training data, that join an animal's own: few cells say little."""
_MOST = 3.0
_CHUNK = 4096


def totals(
    dense: Callable[[NDArray[np.int64]], NDArray[np.uint16]], runs: list[list[range]], genes: int, *, seed: int
) -> Tensor:
    """Counts of each gene over random cells of each animal.

    Parameters
    ----------
    dense : callable
        Raw counts (m, G) of m rows.
    runs : list of list of range
        Each animal's rows.
    genes : int
        G.
    seed : int

    Returns
    -------
    Tensor (A, G) float32
    """
    found = np.zeros((len(runs), genes), np.float64)
    for animal, parts in enumerate(runs):
        sizes = np.array([len(part) for part in parts])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        total = int(starts[-1])
        drawn = np.sort(stream(seed, "animal", animal, total).choice(total, min(CELLS, total), replace=False))
        part = np.searchsorted(starts, drawn, side="right") - 1
        first = np.array([run.start for run in parts], np.int64)
        rows = first[part] + drawn - starts[part]
        for at in range(0, len(rows), _CHUNK):
            found[animal] += dense(rows[at : at + _CHUNK]).sum(0, dtype=np.float64)
    return torch.from_numpy(found.astype(np.float32))


def log_factors(totals: Tensor, profile: Tensor, present: Tensor) -> Tensor:
    """How much more often each gene is seen in each animal than in the training data, as a logarithm.

    Parameters
    ----------
    totals : Tensor (A, G)
        Of `totals`.
    profile : Tensor (G,)
        Share of each gene in the training data.
    present : Tensor (G,) bool
        Genes that were measured; others have factor one.

    Returns
    -------
    Tensor (A, G) float32
        Within -3 .. 3.
    """
    share = profile * present
    share = share / share.sum()
    prior = PRIOR * float(present.sum())
    counted = totals * present
    own = (counted + prior * share) / (counted.sum(1, keepdim=True) + prior)
    return torch.where(present, (own / share.clamp_min(1e-12)).clamp_min(1e-12).log().clamp(-_MOST, _MOST), 0.0)
