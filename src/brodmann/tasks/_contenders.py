"""What domains are compared with, one contender at a time: features, baselines, and noise that was merely smoothed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.samples import stream
from brodmann.tasks import _inputs, _surroundings
from brodmann.tasks._cluster import ROWS_PER_CENTRE, Rows, assign, kmeans
from brodmann.tasks._inputs import Inputs
from brodmann.tasks._mixture import gmm
from brodmann.tasks._smoothed import smoothed
from brodmann.tasks._surroundings import Tissue

Clusterer = Callable[[int, int], NDArray[np.int32]]
"""Cluster of each row, from a number of clusters and a seed."""

NOISE = "smoothed noise"
MEANS, MIXTURE, SMOOTHED = "k-means", "tied mixture", "smoothed k-means"

_GMM_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class Contender:
    """Something else that could be clustered, and how.

    Parameters
    ----------
    name : str
    rows : ndarray (m,) int64 or None
        Rows of the table whose clusters it tells, in order; None: all.
    x : array (l, d)
        What is clustered, or the random rows of it that clusters are learned from.
    cluster : callable
        Cluster of each of ``rows``, from a number of clusters and a seed.
    """

    name: str
    rows: NDArray[np.int64] | None
    x: Rows
    cluster: Clusterer


def names(given: Inputs, *, own: bool, kinds: Sequence[str]) -> list[str]:
    """Contenders in order: ``own`` leaves out smoothed features, which are then the value that is scored."""
    every = [(name, kind) for name in given for kind in kinds]
    return [*(f"{name}, {kind}" for name, kind in every if not own or (name, kind) != ("features", SMOOTHED)), NOISE]


def contenders(
    given: Inputs,
    tissue: Tissue,
    seed: int,
    *,
    own: bool,
    kinds: Sequence[str],
    size: int,
    judged: NDArray[np.int64] | None = None,
) -> Iterator[Contender]:
    """Go through contenders; the rows of one are let go before those of the next are read.

    Beyond a million rows a contender learns from random rows of the whole table, as k-means of the features does, and
    only rows of ``judged`` are given clusters: 168 numbers of each of ten million rows would be 7 GB. A smoothed one
    learns from these rows as well, since they are whole sections.

    Parameters
    ----------
    given : Inputs
    tissue : Tissue
    seed : int
    own : bool
        Whether smoothed features are the value that is scored, and so no contender.
    kinds : sequence of str
        Which clusterers take part: `MEANS`, `MIXTURE`, `SMOOTHED`.
    size : int
        The largest number of clusters that will be asked for.
    judged : ndarray (m,) int64, optional
        Rows of a large table that are compared, in order; by default those whose coherence is measured.

    Yields
    ------
    Contender
    """
    wanted = names(given, own=own, kinds=kinds)
    large = len(tissue.section) > _inputs.MANY
    for name in given:
        mine = [kind for kind in kinds if f"{name}, {kind}" in wanted]
        if not mine:
            continue
        if large:
            yield from _sampled(given, tissue, name, mine, tissue.look if judged is None else judged, size, seed)
            continue
        x = given[name]
        for kind in mine:
            if kind == SMOOTHED:
                x = smoothed(x, tissue.where, tissue.section, seed=seed)
            yield Contender(f"{name}, {kind}", None, x, _by_mixture(x) if kind == MIXTURE else by_kmeans(x))
        del x
    calm = noise(tissue, seed)
    yield Contender(NOISE, None if len(calm) == len(tissue.section) else tissue.look, calm, by_kmeans(calm))


def _sampled(
    given: Inputs, tissue: Tissue, name: str, kinds: list[str], judged: NDArray[np.int64], size: int, seed: int
) -> Iterator[Contender]:
    """Contenders of one baseline that learn from some rows and tell clusters of others."""
    total = len(given.animal)
    learned = _inputs.drawn(total, max(_inputs.LEARN, 2 * ROWS_PER_CENTRE * size), seed)
    rows = np.union1d(learned, judged)
    held = given.some(name, rows)
    learn, told = held[np.searchsorted(rows, learned)], held[np.searchsorted(rows, judged)]
    del held

    def means(k: int, s: int) -> NDArray[np.int32]:
        return assign(told, kmeans(learn, k, seed=s).centres)[0]

    def mixture(k: int, s: int) -> NDArray[np.int32]:
        return gmm(_few(learn, s), k, covariance="tied", seed=s).predict(told)

    for kind in kinds:
        if kind != SMOOTHED:
            yield Contender(f"{name}, {kind}", judged, learn, means if kind == MEANS else mixture)
    if SMOOTHED in kinds and len(judged):
        calm = smoothed(told, tissue.where[judged], tissue.section[judged], seed=seed)
        yield Contender(f"{name}, {SMOOTHED}", judged, calm, by_kmeans(calm))


def by_kmeans(x: Rows) -> Clusterer:
    """k-means of some rows, with ten starts where they are few."""
    starts = 10 if len(x) <= _inputs.SMALL else 1
    return lambda k, s: kmeans(x, k, seed=s, n_init=starts).labels


def _by_mixture(x: Rows) -> Clusterer:
    def cluster(k: int, s: int) -> NDArray[np.int32]:
        fitted = gmm(_few(x, s), k, covariance="tied", seed=s)
        return fitted.labels if len(x) <= _GMM_ROWS else fitted.predict(x)

    return cluster


def _few(x: Rows, s: int) -> NDArray[np.float32]:
    rows = np.sort(stream(s, "mixture rows", len(x)).permutation(len(x))[:_GMM_ROWS])
    return np.asarray(x[rows], np.float32)


def noise(tissue: Tissue, seed: int) -> NDArray[np.float32]:
    """Smoothed noise on the rows whose coherence is measured."""
    return _surroundings.smoothed_noise(tissue.where[tissue.look], tissue.section[tissue.look], seed)


def sections(tissue: Tissue, truth: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Rows on which contenders of a large table are compared: (m,) int64, in order.

    Whole sections: those whose coherence is measured, then random ones that carry labels, a million rows together.
    """
    looked = set(np.unique(tissue.section[tissue.look]).tolist())
    parts = [tissue.look]
    every = list(_surroundings.each(tissue.section))
    for i in stream(seed, "sections of rivals", len(every)).permutation(len(every)):
        rows = every[int(i)]
        if sum(map(len, parts)) >= _inputs.MANY:
            break
        if int(tissue.section[rows[0]]) not in looked and (truth[rows] >= 0).any():
            parts.append(rows)
    return np.sort(np.concatenate(parts))
