"""Gene panels of the phantom: what each type expresses, and how well each animal's probes bind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.phantom import types
from brodmann.samples import stream

Array = NDArray[np.float64]

UNIVERSE = 1322
"""Genes of the phantom; panels are runs of them."""
SHARED_FROM = 200
"""Panels of more than 500 genes begin here: those of 500 and of 1,122 genes share 300 by name."""
LARGEST = UNIVERSE - SHARED_FROM
BLANKS = 10
"""Probes without a target, behind the genes."""
BINS = 5
"""Steps of the sensory-association axis between which expression is drawn."""
_PROGRAMMES = 24
_AMBIENT = 0.03
_BLANK_MEAN = 0.02
# Roles of genes, mixed so that any run of them holds all: leaf marker, class marker, programme, broad, gradient.
_ROLES = "lcplbplglpcblpglpblc"


@dataclass(frozen=True)
class Genes:
    """Genes of one panel, blanks behind them.

    Attributes
    ----------
    names : tuple of str
        Genes, then `BLANKS` names such as "Blank-3".
    mean : (types, BINS, columns) float64
        Mean counts of a cell of each type at each step of the axis, in a perfect experiment.
    dispersion : (columns,) float64
        theta of the negative binomial: variance = mean + mean2 / theta.
    dropout : (columns,) float64
        Chance that all counts of a gene in a cell are lost.
    """

    names: tuple[str, ...]
    mean: Array
    dispersion: Array
    dropout: Array

    @property
    def genes(self) -> tuple[str, ...]:
        """Names without blanks."""
        return self.names[:-BLANKS]


def panel(seed: int, genes: int) -> Genes:
    """Panel of ``genes`` genes of phantom ``seed``: up to 500 from the first gene on, more from `SHARED_FROM` on.

    Genes of two panels with one name have the same programme.
    """
    start = 0 if genes <= 500 else SHARED_FROM
    chosen = slice(start, start + genes)
    rng = stream(seed, "phantom", "genes")
    mean = _expression(rng)[..., chosen]
    dispersion = np.exp(rng.normal(np.log(1.7), 0.6, UNIVERSE))[chosen]
    dropout = rng.beta(2.0, 38.0, UNIVERSE)[chosen]
    blank = np.full((*mean.shape[:2], BLANKS), _BLANK_MEAN) * rng.uniform(0.3, 2.0, BLANKS)
    names = (*(f"Pha{k + 1:04d}" for k in range(start, start + genes)), *(f"Blank-{k + 1}" for k in range(BLANKS)))
    return Genes(
        names=names, mean=np.concatenate([mean, blank], axis=-1),
        dispersion=np.append(dispersion, np.full(BLANKS, 5.0)), dropout=np.append(dropout, np.zeros(BLANKS)),
    )  # fmt: skip


def _expression(rng: np.random.Generator) -> Array:
    """Mean counts (types, BINS, UNIVERSE): broad genes, markers, programmes that types share, gradients."""
    n, parent = len(types.TYPES), types.CLASS_OF
    role = np.array([_ROLES[k % len(_ROLES)] for k in range(UNIVERSE)])
    level = {"l": (-3.6, 0.7), "c": (-3.2, 0.7), "p": (-1.6, 0.8), "b": (-0.3, 0.8), "g": (-1.2, 0.7)}
    base = np.array([rng.normal(*level[r]) for r in role])
    log = base + rng.normal(0, 0.30, (len(types.CLASSES), UNIVERSE))[parent] + rng.normal(0, 0.22, (n, UNIVERSE))
    marks = np.flatnonzero(role == "l")
    turns = np.concatenate([rng.permutation(n) for _ in range(len(marks) // n + 1)])[: len(marks)]
    for gene, kind in zip(marks, turns, strict=True):
        # Markers are rarely clean: some siblings of the class express them too, at a lower level.
        sibling = (parent == parent[kind]) & (rng.random(n) < 0.35)
        log[sibling, gene] += rng.normal(1.6, 0.6, int(sibling.sum()))
        log[kind, gene] = base[gene] + rng.normal(4.4, 0.6)
    marks = np.flatnonzero(role == "c")
    turns = np.concatenate([rng.permutation(len(types.CLASSES)) for _ in range(len(marks) // len(types.CLASSES) + 1)])
    for gene, one in zip(marks, turns, strict=False):
        mine = parent == one
        log[mine, gene] += rng.normal(3.9, 0.5) + rng.normal(0, 0.35, int(mine.sum()))
    loads = _loadings(rng)
    members = np.flatnonzero(role == "p")
    weight = rng.uniform(0.5, 1.3, len(members))
    log[:, members] += weight * loads[np.arange(len(members)) % _PROGRAMMES].T
    slope = np.zeros((n, UNIVERSE))
    steep = np.flatnonzero(role == "g")
    strength = rng.normal(0, 1.1, len(steep))
    slope[:, steep] = strength * np.where(types.GLUTAMATERGIC, 1.0, np.where(parent == 5, 0.4, 0.0))[:, None]
    axis = np.linspace(-0.5, 0.5, BINS)
    mean = np.exp(log[:, None] + axis[:, None] * slope[:, None])
    # Genes that are not measured still take part in the library: a panel sees its share of it.
    mean *= (types.LIBRARY[parent] * UNIVERSE / 500)[:, None, None] / mean.sum(axis=-1, keepdims=True)
    return (1 - _AMBIENT) * mean + _AMBIENT * mean.mean(axis=(0, 1))


def _loadings(rng: np.random.Generator) -> Array:
    """Loadings (programmes, types): a few that anatomists would name, and many that no taxonomy follows."""
    parent = types.CLASS_OF
    weights = np.array([one.weights for one in types.TYPES])
    depth = (weights @ np.arange(weights.shape[1])) / weights.sum(axis=1)
    named = [
        1.6 * types.GLUTAMATERGIC, 1.6 * types.GABAERGIC, 1.2 * types.NEURON, 1.3 * ~types.NEURON,
        1.0 * (parent == 5) + 0.8 * (parent == 7), 1.2 * (parent == 6) + 0.7 * (parent == 7),
        0.28 * (depth - 5.5) * types.NEURON, -0.28 * (depth - 5.5) * types.NEURON,
    ]  # fmt: skip
    free = _PROGRAMMES - len(named)
    drawn = rng.normal(0, 0.6, (free, len(types.CLASSES)))[:, parent] + rng.normal(0, 0.8, (free, len(parent)))
    return np.concatenate([np.array(named, dtype=np.float64), drawn])


@dataclass(frozen=True)
class Batch:
    """What an animal's experiment does to its counts and cells.

    Attributes
    ----------
    efficiency : (columns,) float64
        Factor of each gene's counts.
    depth, density : float
        Factors of all counts, and of the number of cells.
    """

    efficiency: Array
    depth: float
    density: float


def batch(seed: int, subject: str, genes: Genes, effect: float) -> Batch:
    """Draw the batch of one animal; ``effect`` 0 gives a perfect experiment.

    Genes are drawn by their place in the universe: two panels of one animal share what they share.
    """
    rng = stream(seed, "phantom", subject, "batch")
    depth, density = float(np.exp(effect * rng.normal(0, 0.25))), float(np.exp(effect * rng.normal(0, 0.06)))
    every = np.exp(effect * rng.normal(0, 0.35, UNIVERSE) - (0.35 * effect) ** 2 / 2)
    index = [int(name[3:]) - 1 for name in genes.genes]
    return Batch(np.append(every[index], np.ones(BLANKS)), depth, density)
