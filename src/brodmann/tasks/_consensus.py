"""The path without a network: several descriptions of the surroundings, several clusterers, one vote.

No single description or clusterer is best everywhere; the vote of all is never far from the best of them and scatters
least. n rows, k clusters, P parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from brodmann.samples import stream
from brodmann.tasks import _surroundings
from brodmann.tasks._cluster import assign, kmeans
from brodmann.tasks._mixture import Mixture, gmm

AXES = (10, 20)
"""Principal axes on which mixtures are fitted: a covariance of more would be learned from too few rows."""

WORDS = "vote of k-means and smoothed tied mixtures over means and composition of the surroundings"
BETA = 2.0
NEIGHBOURS = 10
TYPES = 15
_STARTS = 10
_BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class Description:
    """What surrounds each row, in blocks that weigh the same.

    Parameters
    ----------
    blocks : mapping of str to ndarray (n, d) float32
        ``means``, ``composition`` and both together; whichever there are.
    spreads : mapping of str to ndarray (d,) float32
        Standard deviation within animals of each column of ``means`` and ``composition``.
    kinds : ndarray (15, p) float32, optional
        Centres of the types that were made because none were given.
    """

    blocks: Mapping[str, NDArray[np.float32]]
    spreads: Mapping[str, NDArray[np.float32]]
    kinds: NDArray[np.float32] | None


def describe(
    given: Mapping[str, NDArray[np.floating[Any]]],
    where: NDArray[np.float64],
    section: NDArray[np.int64],
    animal: NDArray[np.int64],
    *,
    seed: int = 0,
    like: Description | None = None,
) -> Description:
    """Describe the surroundings of rows, columns matched between animals, each block of total variance one.

    Parameters
    ----------
    given : mapping of str to ndarray (n, ...) floating
        Baselines of the table: ``means``, ``composition``, ``own``; what is missing is made from ``own``, a
        composition from 15 types that k-means finds among the rows' own components.
    where : ndarray (n, 2 or 3) float64
    section, animal : ndarray (n,) int64
    seed : int
    like : Description, optional
        Use the units and types of this one: for sections that come later.

    Returns
    -------
    Description
    """
    found = {name: np.asarray(given[name], dtype=np.float32) for name in ("means", "composition") if name in given}
    kinds: NDArray[np.float32] | None = None
    if "own" in given and len(found) < 2:
        around = _surroundings.kernels(where, section)
        own = np.asarray(given["own"], dtype=np.float32)
        found.setdefault("means", _surroundings.means(own, around))
        if "composition" not in found:
            start = like.kinds if like is not None else None
            kinds = kmeans(own, min(TYPES, len(own)), seed=seed, n_init=_STARTS).centres if start is None else start
            kind = assign(own, kinds)[0]
            found["composition"] = _surroundings.means(np.eye(len(kinds), dtype=np.float32)[kind], around)
    ready: dict[str, NDArray[np.float32]] = {}
    spreads: dict[str, NDArray[np.float32]] = {}
    for name, values in found.items():
        values, spread = matched(values, animal, None if like is None else like.spreads[name])
        ready[name], spreads[name] = values, spread
    if len(ready) == 2:
        ready["means + composition"] = np.hstack([ready["means"], ready["composition"]])
    return Description(ready, spreads, kinds)


def centred(values: NDArray[Any], animal: NDArray[np.int64]) -> NDArray[Any]:
    """Take off each animal's mean: detection differs between animals more than domains do."""
    if not len(values) or (animal == animal[0]).all():
        return values
    result = values.copy()
    for rows in _surroundings.each(animal):
        middle = result[rows].mean(axis=0, dtype=np.float64).astype(np.float32)
        for part in np.array_split(rows, -(-len(rows) // _BLOCK)):
            result[part] = result[part] - middle
    return result


def matched(
    values: NDArray[np.float32], animal: NDArray[np.int64], spread: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Give each animal's columns mean zero and a common spread, and the whole a total variance of one.

    Detection differs between animals gene by gene; animals should therefore show much the same tissue.

    Parameters
    ----------
    values : ndarray (n, d) float32
    animal : ndarray (n,) int64
    spread : ndarray (d,) float32 or None
        The common spread; None takes the root mean variance of the animals.

    Returns
    -------
    values : ndarray (n, d) float32
    spread : ndarray (d,) float32
    """
    groups = list(_surroundings.each(animal))
    own = np.array([values[rows].astype(np.float64).std(axis=0) for rows in groups])
    common = np.sqrt((own**2).mean(axis=0))
    wanted = spread if spread is not None else (common / max(float(np.linalg.norm(common)), 1e-12)).astype(np.float32)
    result = np.empty_like(values)
    for rows, sd in zip(groups, own, strict=True):
        # A column that says nothing of an animal stays silent.
        scale = np.where(sd > 1e-6 * own.max(), wanted / np.maximum(sd, 1e-12), 0)
        result[rows] = (values[rows] - values[rows].mean(axis=0, dtype=np.float64)) * scale
    return result, wanted


@dataclass(frozen=True, eq=False)
class Consensus:
    """A fitted vote: new sections are given domains without fitting anything again.

    Parameters
    ----------
    labels : ndarray (n,) int32
        Domain of each fitted row.
    votes : ndarray (n, k) float32
        Share of the parts that say so.
    parts : tuple
        For each part its block, its model, the principal axes (d, a) it works on, and its clusters' domains.
    """

    labels: NDArray[np.int32]
    votes: NDArray[np.float32]
    parts: tuple[tuple[str, NDArray[np.float32] | Mixture, NDArray[np.float32], NDArray[np.int64]], ...]

    def predict(
        self, given: Mapping[str, NDArray[np.float32]], neighbours: NDArray[np.integer[Any]]
    ) -> NDArray[np.int32]:
        """Domains of other rows, described by the same blocks in the same units: (m,) int32."""
        rows = len(neighbours)
        votes = np.zeros((rows, self.votes.shape[1]), dtype=np.float32)
        for name, model, axes, domain in self.parts:
            x = given[name] @ axes
            said = model.predict(x, neighbours, beta=BETA) if isinstance(model, Mixture) else assign(x, model)[0]
            votes[np.arange(rows), domain[said]] += 1
        return votes.argmax(axis=1).astype(np.int32)


def consensus(
    given: Mapping[str, NDArray[np.float32]], k: int, neighbours: NDArray[np.integer[Any]], seed: int
) -> Consensus:
    """Cluster every block by k-means (best of ten starts) and by tied mixtures with a Potts prior; let them vote.

    Parameters
    ----------
    given : mapping of str to ndarray (n, d) float32
        `Description.blocks`.
    k : int
    neighbours : ndarray (n, m) int
        Of each row, for the Potts prior; -1 where there are fewer.
    seed : int

    Returns
    -------
    Consensus
    """
    said: list[NDArray[np.int32]] = []
    models: list[tuple[str, NDArray[np.float32] | Mixture, NDArray[np.float32]]] = []
    for number, (name, x) in enumerate(given.items()):
        key = int(stream(seed, "part", number).integers(2**31))
        whole = kmeans(x, k, seed=key, n_init=_STARTS, rows_per_centre=None, engine="lloyd")
        models.append((name, whole.centres, np.eye(x.shape[1], dtype=np.float32)))
        said.append(whole.labels)
        turn = principal(x)
        for count in dict.fromkeys(min(count, x.shape[1]) for count in AXES):
            axes = turn[:, :count]
            fitted = gmm(x @ axes, k, covariance="tied", seed=key, neighbours=neighbours, beta=BETA)
            models.append((name, fitted, axes))
            said.append(fitted.labels)
    votes, domain = vote(said, k)
    parts = tuple((*model, numbers) for model, numbers in zip(models, domain, strict=True))
    return Consensus(settled(votes), votes, parts)


def principal(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Principal axes (d, d), by falling variance, each with its largest entry positive."""
    away = (x - x.mean(axis=0)).astype(np.float64)
    axes = np.linalg.eigh(away.T @ away)[1][:, ::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return (axes * np.where(largest < 0, -1, 1)).astype(np.float32)


def vote(
    parts: Sequence[NDArray[np.integer[Any]]], k: int, *, rounds: int = 5
) -> tuple[NDArray[np.float32], list[NDArray[np.int64]]]:
    """Give clusters of different clusterings common numbers, and count.

    Numbers are matched (Hungarian) to the clustering that agrees most with the others, then to the majority, a few
    times over.

    Parameters
    ----------
    parts : sequence of ndarray (n,) int
        Clusterings into k each.
    k : int

    Returns
    -------
    votes : ndarray (n, k) float32
        Share of clusterings.
    numbers : list of ndarray (k,) int64
        Common number of each cluster of each part.
    """
    coded = [np.asarray(part, dtype=np.int64) for part in parts]
    some = slice(None, None, max(1, len(coded[0]) // 20_000))
    agreement = [sum(float(adjusted_rand_score(a[some], b[some])) for b in coded) for a in coded]
    reference = coded[int(np.argmax(agreement))]
    votes = np.zeros((len(reference), k), dtype=np.float32)
    numbers: list[NDArray[np.int64]] = []
    for _ in range(rounds):
        numbers = [match(part, reference, k) for part in coded]
        votes[:] = 0
        for part, number in zip(coded, numbers, strict=True):
            votes[np.arange(len(part)), number[part]] += 1 / len(coded)
        majority = votes.argmax(axis=1)
        if (majority == reference).all():
            break
        reference = majority
    return votes, numbers


def settled(votes: NDArray[np.float32]) -> NDArray[np.int32]:
    """Domain with most votes: (n,) int32; a domain that wins nowhere is given the rows that it came nearest to winning.

    Such rows stay where they are if a domain would lose its last row by it.
    """
    labels = votes.argmax(axis=1).astype(np.int32)
    k = votes.shape[1]
    for domain in np.flatnonzero((np.bincount(labels, minlength=k) == 0) & (votes.max(axis=0) > 0)).tolist():
        behind = votes.max(axis=1) - votes[:, domain]
        rows = np.flatnonzero(behind <= behind.min() + 1e-6)
        changed = labels.copy()
        changed[rows] = domain
        if (np.bincount(changed, minlength=k)[np.bincount(labels, minlength=k) > 0] > 0).all():
            labels = changed
    return labels


def match(part: NDArray[np.int64], reference: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Number of the reference for each cluster, so that most rows agree (Kuhn 1955): (k,) int64."""
    shared = np.bincount(part * k + reference, minlength=k * k).reshape(k, k)
    return linear_sum_assignment(-shared)[1].astype(np.int64)
