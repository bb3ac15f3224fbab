"""Rivals that know no image: position alone, chance, and labels moved through the brain (the spatial null)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann.samples import stream
from brodmann.splits import Fold
from brodmann.tasks._probe import fit_predict

Codes = NDArray[np.int64]

CENTRES = 200
SMOOTH = "smooth linear functions ({})"
_AGREE = 0.3


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


def transported(
    where: NDArray[np.float64], brain: NDArray[np.object_], codes: Codes, rng: np.random.Generator
) -> Codes:
    """Labels carried to other places by one random movement of the common space: smooth as before, but elsewhere.

    Every place takes the label of the nearest labelled place of its brain to where the movement puts it. In space the
    movement is a rotation, half the time with a reflection, of the cloud scaled to unit variance along its principal
    axes (so that it lands on itself); on a sheet it is a shift that wraps around the edges. All brains move alike, so
    that position predicts the moved labels as well as the true ones. Movements that leave most labels in place are
    drawn again.

    Parameters
    ----------
    where : ndarray (n, 2 or 3) float64
        Places of labelled rows, mm.
    brain : ndarray (n,)
        Brain of each row.
    codes : ndarray (n,) int64
        True labels.
    rng : Generator
        Source of the movement.

    Returns
    -------
    ndarray (n,) int64
        Labels; the draw that agrees least with the truth (Cohen's kappa) when none agrees little.
    """
    centred = where - where.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov(centred.T))
    used = spread > 1e-6 * spread.max()
    z = centred @ axes[:, used] / np.sqrt(spread[used])
    who = brain.astype(str)
    trees = {name: (rows := np.flatnonzero(who == name), KDTree(z[rows])) for name in np.unique(who)}
    best, least = codes, np.inf
    for _ in range(10):
        target = _moved(z, rng)
        moved = np.empty_like(codes)
        for rows, tree in trees.values():
            moved[rows] = codes[rows][tree.query(target[rows])[1]]
        kappa = _kappa(codes, moved)
        if kappa < least:
            best, least = moved, kappa
        if kappa < _AGREE:
            break
    return best


def _moved(z: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    d = z.shape[1]
    if d == 3:
        q, r = np.linalg.qr(rng.standard_normal((3, 3)))
        return z @ (q * np.sign(np.diag(r)))
    low, span = z.min(axis=0), np.maximum(np.ptp(z, axis=0), 1e-9)
    flip = rng.integers(0, 2, d) == 1
    unit = np.where(flip, 1 - (z - low) / span, (z - low) / span)
    return (unit + rng.uniform(0.2, 0.8, d)) % 1.0 * span + low


def _kappa(a: Codes, b: Codes) -> float:
    """Cohen's kappa: agreement beyond what the class shares alone would give."""
    size = int(max(a.max(), b.max())) + 1
    chance = float((np.bincount(a, minlength=size) / len(a)) @ (np.bincount(b, minlength=size) / len(b)))
    return (float((a == b).mean()) - chance) / max(1 - chance, 1e-12)


def null_draws(
    value: Callable[[Codes, NDArray[np.int64], NDArray[np.int64]], float],
    where: NDArray[np.float64],
    brain: NDArray[np.object_],
    codes: Codes,
    folds: Sequence[Fold],
    *,
    repeats: int,
    rows: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Value under moved labels and, with the same small training sets, under the true ones.

    Repeat r trains on at most ``rows`` rows of one fold (r modulo the number of folds) and tests on that fold.

    Returns
    -------
    moved, true : ndarray (repeats,) float64
        Value of each repeat.
    """
    known = np.flatnonzero(codes >= 0)
    moved_values, true_values = np.empty(repeats), np.empty(repeats)
    for r in range(repeats):
        rng = stream(seed, "spatial null", r)
        moved = np.full_like(codes, -1)
        moved[known] = transported(where[known], brain[known], codes[known], rng)
        fold = folds[r % len(folds)]
        train = np.sort(rng.permutation(fold.train[codes[fold.train] >= 0])[:rows])
        test = fold.test[codes[fold.test] >= 0]
        moved_values[r] = value(moved, train, test)
        true_values[r] = value(codes, train, test)
    return moved_values, true_values


def chance(codes: Codes, parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], seed: int) -> Codes:
    """Labels drawn with the class shares of the training rows: test rows, folds after one another."""
    rng = stream(seed, "chance")
    return np.concatenate([rng.choice(codes[train], size=len(test)) for train, test in parts])
