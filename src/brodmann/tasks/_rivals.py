"""Rivals that know no image: position alone, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann.samples import stream
from brodmann.tasks._probe import fit_predict

Codes = NDArray[np.int64]

CENTRES = 200
SMOOTH = "smooth linear functions ({})"


def neighbours(
    where: NDArray[np.float64], codes: Codes, train: NDArray[np.int64], test: NDArray[np.int64], k: int, n_classes: int
) -> Codes:
    """Class with the most `votes`: (m,) class numbers."""
    return votes(where, codes, train, test, k, n_classes).argmax(axis=1).astype(np.int64)


def votes(
    where: NDArray[np.float64], codes: Codes, train: NDArray[np.int64], test: NDArray[np.int64], k: int, n_classes: int
) -> NDArray[np.float64]:
    """Votes of the ``k`` nearest training places, weighted by inverse distance: (m, n_classes), rows sum to one."""
    k = min(k, len(train))
    # A list of ranks, so that one neighbour still comes as a column.
    ranks = cast("Any", list(range(1, k + 1)))
    distance, index = KDTree(where[train]).query(where[test], k=ranks)
    found = np.zeros((len(test), n_classes))
    weight = 1 / np.maximum(distance, 1e-6)
    np.add.at(found, (np.repeat(np.arange(len(test)), k), codes[train][index].ravel()), weight.ravel())
    return found / found.sum(axis=1, keepdims=True)


def place_features(where: NDArray[np.float64], train: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """Smooth functions of position for a linear readout: quadratic polynomial and 200 Gaussian bumps: (n, p).

    Bumps sit on training places spread by farthest-point choice; their width is 1.5 times the distance between them.
    """
    mean, sd = where[train].mean(axis=0), np.maximum(where[train].std(axis=0), 1e-9)
    z = (where - mean) / sd
    d = z.shape[1]
    square = [z[:, i] * z[:, j] for i in range(d) for j in range(i, d)]
    rng = stream(seed, "bumps", len(train))
    pool = where[rng.permutation(train)[:5000]]
    centres = [pool[0]]
    gap = ((pool - pool[0]) ** 2).sum(axis=1)
    while len(centres) < min(CENTRES, len(pool)) and gap.max() > 0:
        centres.append(pool[gap.argmax()])
        gap = np.minimum(gap, ((pool - centres[-1]) ** 2).sum(axis=1))
    middle = np.array(centres)
    if len(middle) < 2:
        return np.column_stack([z, *square]).astype(np.float32)
    near = cast("NDArray[np.float64]", KDTree(middle).query(middle, k=2)[0])[:, 1]
    width = 1.5 * float(np.median(near))
    bumps = np.empty((len(where), len(middle)), dtype=np.float32)
    for i, centre in enumerate(middle):
        bumps[:, i] = np.exp(-((where - centre) ** 2).sum(axis=1) / (2 * width**2))
    return np.column_stack([z, *square, bumps]).astype(np.float32)


def from_position(
    where: dict[str, NDArray[np.float64]],
    codes: Codes,
    groups: NDArray[np.object_],
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    n_classes: int,
    seed: int,
) -> dict[str, Codes]:
    """Predictions from registered coordinates alone, in every form that is tried.

    Parameters
    ----------
    where : dict of str to ndarray (n, 2 or 3) float64
        Coordinates by name (``space``, ``sheet``), mm.
    codes, groups : ndarray (n,)
        Class numbers and groups of all rows.
    parts : sequence of (train, test)
        Row numbers of each fold.
    n_classes : int
        Number of classes.
    seed : int
        Key of the draws.

    Returns
    -------
    dict of str to ndarray
        Class numbers of the test rows, folds after one another, by form (``5 nearest places in space``, ...).
    """
    found: dict[str, Codes] = {}
    for name, xy in where.items():
        for k in (5, 15):
            said = [neighbours(xy, codes, train, test, k, n_classes) for train, test in parts]
            found[f"{k} nearest places ({name})"] = np.concatenate(said)
        smooth: list[Codes] = []
        for train, test in parts:
            x = place_features(xy, train, seed)
            smooth.append(fit_predict("linear", x[train], codes[train], groups[train], x[test], seed)[0])
        found[SMOOTH.format(name)] = np.concatenate(smooth)
    return found


def chance(codes: Codes, parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], seed: int) -> Codes:
    """Labels drawn with the class shares of the training rows: test rows, folds after one another."""
    rng = stream(seed, "chance")
    return np.concatenate([rng.choice(codes[train], size=len(test)) for train, test in parts])
