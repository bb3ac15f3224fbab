r"""What each animal's experiment does to each gene: probes bind and fade differently from one to the next.

Were it left in, the shortest way to predict a hidden cell's counts would be to recognise the animal, and features would
name donors before they name tissue. Cells of one kind are therefore compared between animals: the training data are cut
into groups of like cells, and an animal's factor of a gene is how many counts of it there are over how many its cells
would have, were they like the training data's cells of their groups,

.. math:: f_g = \sum_k x_{kg} \Big/ \sum_k t_k s_{kg}, \qquad t_k = \sum_g x_{kg} \Big/ \sum_g s_{kg} f_g

with x the counts of a group's cells and s the shares of its genes. Factors divide the counts that are read and multiply
those that are predicted, so nothing is left to be learned of them. Since like is compared with like, animals may show
different tissue; ``samples.equalise = false`` leaves everything as it was counted.

A animals, K groups, G genes, P components, n cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from brodmann.cells import components
from brodmann.cells.components import Components
from brodmann.samples import stream

Counts = NDArray[np.uint16 | np.float32]
Dense = Callable[[NDArray[np.int64]], Counts]

CELLS = 20_000
"""Cells of an animal that its factors are measured on, at most."""
PRIOR = 50.0
"""Counts per gene, in the proportions of the training data, that join an animal's own: few cells say little."""
_GROUPS = 60
_CELLS_PER_GROUP = 200
_ROUNDS = 3
_STEPS = 20
_MOST = 3.0
_CHUNK = 4096


class Groups(NamedTuple):
    """Like cells of the training data.

    Attributes
    ----------
    centres : Tensor (K, P) float32
        Mean standardised components.
    shares : Tensor (K, G) float32
        Share of each gene in a group's counts, as the middle one of all animals' experiments would see it.
    """

    centres: Tensor
    shares: Tensor


def draw(runs: list[list[range]], *, seed: int) -> list[NDArray[np.int64]]:
    """Random cells of each animal, at most `CELLS`, ascending.

    Parameters
    ----------
    runs : list of list of range
        Each animal's rows.
    seed : int

    Returns
    -------
    list of array (m,) int64
    """
    found: list[NDArray[np.int64]] = []
    for animal, parts in enumerate(runs):
        sizes = np.array([len(part) for part in parts])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        total = int(starts[-1])
        drawn = np.sort(stream(seed, "animal", animal, total).choice(total, min(CELLS, total), replace=False))
        part = np.searchsorted(starts, drawn, side="right") - 1
        first = np.array([run.start for run in parts], np.int64)
        found.append(first[part] + drawn - starts[part])
    return found


def learn(counts: NDArray[np.uint16], animal: NDArray[np.int64], count: int, *, seed: int) -> tuple[Components, Groups]:
    """Components and groups of training cells, as if all animals had gone through one experiment.

    Factors are made from groups, and groups from counts without factors, in turn.

    Parameters
    ----------
    counts : array (n, G) uint16
    animal : array (n,) int64
        0 .. A - 1.
    count : int
        P.
    seed : int

    Returns
    -------
    (Components, Groups)

    Raises
    ------
    Refused
        If no cell has counts.
    """
    animals, rows, profile = int(animal.max()) + 1, np.arange(len(counts)), _profile(counts)
    kinds = min(_GROUPS, max(len(counts) // _CELLS_PER_GROUP, 1))
    # as if all cells were alike, to begin with: else groups would be of one animal each
    log = _together(_sums(counts, animal, animals)[:, None], profile)[0]

    def evened(some: NDArray[np.int64]) -> NDArray[np.float32]:
        return counts[some] * np.exp(-log[animal[some]]).astype(np.float32)

    rounds = _ROUNDS if animals > 1 else 1
    while True:
        basis = components.fit(evened, rows, count, components.residuals)
        described = _described(evened, len(counts), basis, None)
        centres = _centres(described, kinds, seed)
        sums = _sums(counts, animal * kinds + _nearest(described, centres), animals * kinds)
        log, shares = _together(sums.reshape(animals, kinds, -1), profile)
        rounds -= 1
        if not rounds:
            return basis, Groups(torch.from_numpy(centres), torch.from_numpy(shares.astype(np.float32)))


def log_factors(
    dense: Dense, drawn: Sequence[NDArray[np.int64]], basis: Components, groups: Groups, present: Tensor
) -> Tensor:
    """How much more often each gene is seen in each animal than in like cells of the training data, as a logarithm.

    Parameters
    ----------
    dense : callable
        Raw counts (m, G) of m rows.
    drawn : sequence of array
        Rows of each animal, of `draw`.
    basis : Components
    groups : Groups
        Of the training data, as `basis`.
    present : Tensor (G,) bool
        Genes that were measured; others have factor one.

    Returns
    -------
    Tensor (A, G) float32
        Within -3 .. 3.
    """
    known = present.numpy()
    found = np.zeros((len(drawn), len(known)), np.float32)
    share, profile = groups.shares.numpy().astype(np.float64) * known, basis.profile.numpy().astype(np.float64) * known
    centres = groups.centres.numpy()
    for log, rows in zip(found, drawn, strict=True):
        counts = dense(rows)
        log[:] = _against(counts.sum(0, dtype=np.float64)[None] * known, profile[None], profile)
        for _ in range(_ROUNDS):
            less = np.exp(-log)
            described = _described(lambda some: counts[some] * less, len(counts), basis, present)  # noqa: B023
            sums = _sums(counts, _nearest(described, centres), len(centres)) * known
            log[:] = _against(sums, share, profile)
    return torch.from_numpy(found)


def _profile(counts: Counts) -> NDArray[np.float64]:
    total = counts.sum(0, dtype=np.float64) + 0.5
    return total / total.sum()


def _described(dense: Dense, cells: int, basis: Components, present: Tensor | None) -> NDArray[np.float32]:
    """Standardised components (n, P)."""
    chunks = [np.arange(at, min(at + _CHUNK, cells)) for at in range(0, cells, _CHUNK)]
    return np.concatenate([components.describe(torch.from_numpy(dense(c)), basis, present).numpy() for c in chunks])


def _centres(x: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Lloyd's k-means from random cells: groups need not be the best, only of like cells."""
    centres = x[stream(seed, "groups", count).choice(len(x), count, replace=False)]
    for _ in range(_STEPS):
        nearest = _nearest(x, centres)
        size = np.bincount(nearest, minlength=count)
        total = _one_hot(nearest, count) @ x
        centres = np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], centres).astype(np.float32)
    return centres


def _nearest(x: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    return (x @ centres.T - (centres**2).sum(1) / 2).argmax(1).astype(np.int64)


def _sums(counts: Counts, group: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    """Counts of each gene over the cells of each group, (groups, G)."""
    total = np.zeros((groups, counts.shape[1]))
    for at in range(0, len(counts), _CHUNK):
        total += _one_hot(group[at : at + _CHUNK], groups) @ counts[at : at + _CHUNK].astype(np.float64)
    return total


def _one_hot(group: NDArray[np.int64], groups: int) -> Any:
    one = np.ones(len(group), np.float32)
    return scipy.sparse.csr_array((one, (group, np.arange(len(group)))), shape=(groups, len(group)))


def _against(
    sums: NDArray[np.float64], share: NDArray[np.float64], profile: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log factors (G,) of one animal's counts (K, G), given each group's shares (K, G)."""
    observed, held = sums.sum(0), sums.sum(1)
    few = PRIOR * np.count_nonzero(profile) * profile / max(profile.sum(), 1e-12)
    log = np.zeros(sums.shape[1])
    for _ in range(_STEPS):
        expected = (held / np.maximum(share @ np.exp(log), 1e-12)) @ share
        log = np.log((observed + few + 1e-9) / (expected + few + 1e-9)).clip(-_MOST, _MOST)
    return log


def _together(
    sums: NDArray[np.float64], profile: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log factors (A, G) of all animals' counts (A, K, G), their mean zero, and the shares (K, G) that go with them."""
    log, held = np.zeros((len(sums), sums.shape[2])), sums.sum(2)
    share = np.broadcast_to(profile, sums.shape[1:])
    for _ in range(_STEPS):
        size = held / np.maximum(np.exp(log) @ share.T, 1e-12)
        # what few counts cannot say, the profile of all cells does
        share = (sums.sum(0) + profile) / (np.einsum("ak,ag->kg", size, np.exp(log)) + 1)
        size = held / np.maximum(np.exp(log) @ share.T, 1e-12)
        few = PRIOR * len(profile) * profile
        log = np.log((sums.sum(1) + few) / (size @ share + few)).clip(-_MOST, _MOST)
        log -= log.mean(0)
    return log, share / share.sum(1, keepdims=True)
