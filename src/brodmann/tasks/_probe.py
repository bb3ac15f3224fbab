"""Simple readouts of features: linear, nearest neighbours, ridge.

n rows, d features, K classes. Everything that is learned (means, scales, strength of the penalty) is learned from the
training rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from brodmann.samples import stream
from brodmann.tasks._metrics import confusion, macro_f1

Probe = Literal["linear", "knn", "ridge"]

PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Strengths tried, strongest first so that each fit starts from a smoother one."""

NEIGHBOURS = 15
_GRID = np.logspace(-5, 2, 15)
"""Strengths tried for ridge regression."""
_CHOOSE_ROWS = 6000
_BLOCK = 4096


class _Solved(Protocol):
    def __call__(self, penalty: float, rows: NDArray[np.float32], count: int | None = None) -> NDArray[np.float64]: ...


def fit_predict(
    probe: Probe,
    x_train: NDArray[np.floating],
    y_train: NDArray[Any],
    groups_train: NDArray[Any],
    x_test: NDArray[np.floating],
    seed: int,
    *,
    penalty: float | None = None,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Learn a target from training rows and predict it for test rows.

    Parameters
    ----------
    probe : {"linear", "knn", "ridge"}
        ``linear``: multinomial logistic regression, rare classes weighted up, with an L2 penalty; ``knn``: vote of the
        15 most similar rows (cosine), class-balanced; ``ridge``: linear regression for numeric targets.
    x_train, x_test : ndarray (n, d) float
        Features; standardised here with the mean and SD of the training rows.
    y_train : ndarray (n,)
        Class names, or numbers for ``ridge``.
    groups_train : ndarray (n,)
        Sections or brains; the penalty is chosen on groups left out of training (one in four).
    x_test : ndarray (m, d) float
        Features to predict from.
    seed : int
        Key of the draw of rows on which the penalty is chosen.
    penalty : float, optional
        Use this strength instead of choosing one.

    Returns
    -------
    predicted : ndarray (m,)
        Class names or numbers.
    probabilities : ndarray (m, K) float32
        Columns in sorted order of class; for ``ridge`` an empty (m, 0).
    """
    train, test = _standardised(x_train, x_test)
    if probe == "ridge":
        return _ridge(train, np.asarray(y_train, dtype=np.float64), groups_train, test, seed, penalty)
    classes, codes = np.unique(np.asarray(y_train), return_inverse=True)
    codes = codes.reshape(-1).astype(np.int64)
    if len(classes) == 1:
        return np.repeat(classes, len(test)), np.ones((len(test), 1), dtype=np.float32)
    if probe == "knn":
        probability = _knn(train, codes, len(classes), test)
    else:
        if penalty is None:
            penalty = choose_penalty(train, codes, groups_train, seed)
        weights, bias = _logistic(train, codes, len(classes), [penalty])[0]
        probability = _softmax(test @ weights + bias)
    return classes[probability.argmax(axis=1)], probability


def directions(
    x_train: NDArray[np.floating],
    codes: NDArray[np.int64],
    n_classes: int,
    groups_train: NDArray[Any],
    seed: int,
    *,
    penalty: float | None = None,
) -> NDArray[np.float32]:
    """Directions in feature space along which the ``linear`` probe tells classes apart.

    Parameters
    ----------
    x_train, groups_train, seed, penalty
        As `fit_predict` takes them.
    codes : ndarray (n,) int64
        Class number of every training row.
    n_classes : int
        K, at least 2.

    Returns
    -------
    ndarray (K, d) float32
        For each class the weights of its logit minus the mean of the other classes', in units of the features as they
        are (not standardised): ``directions @ f`` plus a constant is what the probe weighs.
    """
    train, _, scale = _standard(x_train)
    if penalty is None:
        penalty = choose_penalty(train, codes, groups_train, seed)
    weights, _ = _logistic(train, codes, n_classes, [penalty])[0]
    others = (weights.sum(axis=1, keepdims=True) - weights) / (n_classes - 1)
    return ((weights - others) * scale[:, None]).T.astype(np.float32)


def ridge_all(
    x_train: NDArray[np.floating], y_train: NDArray[np.float64], x_test: NDArray[np.floating], penalty: float
) -> NDArray[np.float64]:
    """Ridge regression of many numbers (n, t) at once, each as `fit_predict` does it with this penalty: (m, t)."""
    train, test = _standardised(x_train, x_test)
    return _ridge_path(train, y_train)(penalty, test)


def _standardised(
    x_train: NDArray[np.floating], x_test: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    train, mean, scale = _standard(x_train)
    test = ((np.asarray(x_test, dtype=np.float32) - mean) * scale).astype(np.float32)
    # Far beyond anything seen in training a linear readout only extrapolates; artefacts end up here.
    np.clip(test, -20, 20, out=test)
    return train, test


def _standard(
    x_train: NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Training rows with mean 0 and SD 1, their mean, and one over their SD."""
    mean = np.asarray(x_train, dtype=np.float32).mean(axis=0, dtype=np.float64)
    sd = np.asarray(x_train, dtype=np.float32).std(axis=0, dtype=np.float64)
    # A feature that is constant in training tells nothing; dividing by its SD would make noise of it.
    scale = np.where(sd > 1e-7 * (np.abs(mean) + 1), 1 / np.maximum(sd, 1e-30), 0.0)
    return ((np.asarray(x_train, dtype=np.float32) - mean) * scale).astype(np.float32), mean, scale


def choose_penalty(x: NDArray[np.float32], codes: NDArray[np.int64], groups_train: NDArray[Any], seed: int) -> float:
    """Penalty with the best macro-F1 on inner groups that are left out (one in four)."""
    outer = _inner_test(groups_train)
    if outer is None:
        return 1e-2
    rng = stream(seed, "penalty", len(x))
    learn, judge = (
        np.sort(rng.permutation(rows)[:_CHOOSE_ROWS]) for rows in (np.flatnonzero(~outer), np.flatnonzero(outer))
    )
    present, inner = np.unique(codes[learn], return_inverse=True)
    known = np.isin(codes[judge], present)
    if len(present) < 2 or not known.any():
        return 1e-2
    judge = judge[known]
    scores: list[float] = []
    for weights, bias in _logistic(x[learn], inner.reshape(-1), len(present), PENALTIES):
        said = present[(x[judge] @ weights + bias).argmax(axis=1)]
        scores.append(float(macro_f1(confusion(codes[judge], said, int(codes.max()) + 1))))
    return PENALTIES[int(np.argmax(scores))]


def _inner_test(groups_train: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Every fourth group in sorted order; None when there is only one group."""
    names, number = np.unique(np.asarray(groups_train).astype(str), return_inverse=True)
    if len(names) < 2:
        return None
    return number.reshape(-1) % min(4, len(names)) == 1


def _logistic(
    x: NDArray[np.float32], codes: NDArray[np.int64], n_classes: int, penalties: Any
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Minimise weighted mean cross-entropy + penalty / 2 * |W|^2 (biases free), for each penalty in turn.

    A row weighs one over the square root of its class's size: between plain rows, which drown rare classes, and full
    balance, which buys their recall with everybody's precision; macro-F1 asks for both.

    Features are rotated to their principal axes and scaled by their variance before L-BFGS, which conditions the
    problem without changing its solution: the penalty is carried along into the new coordinates.
    """
    n, d = x.shape
    share = np.bincount(codes, minlength=n_classes)
    weight = (1 / np.sqrt(np.maximum(share, 1)))[codes].astype(np.float32)
    weight /= weight.sum()
    variance, axes = np.linalg.eigh((x.T @ x / n).astype(np.float64))
    variance = np.maximum(variance, 0)
    rows = np.arange(n)
    start = np.zeros((d + 1) * n_classes)
    result: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    previous: NDArray[np.float64] | None = None
    for penalty in penalties:
        stretch = 1 / np.sqrt(variance + penalty)
        to_features = axes * stretch
        z = x @ to_features.astype(np.float32)
        strength = penalty * stretch**2
        if previous is not None:
            start[: d * n_classes] = (previous / stretch[:, None]).ravel()

        def loss(
            theta: NDArray[np.float64],
            z: NDArray[np.float32] = z,
            strength: NDArray[np.float64] = strength,
        ) -> tuple[float, NDArray[np.float64]]:
            table = theta.reshape(d + 1, n_classes)
            logits = z @ table[:d].astype(np.float32) + table[d].astype(np.float32)
            logits -= logits.max(axis=1, keepdims=True)
            true = logits[rows, codes]
            np.exp(logits, out=logits)
            total = logits.sum(axis=1, keepdims=True)
            value = float(weight @ (np.log(total[:, 0]) - true))
            logits *= (weight / total[:, 0])[:, None]
            logits[rows, codes] -= weight
            gradient = np.empty_like(table)
            gradient[:d] = z.T @ logits + strength[:, None] * table[:d]
            gradient[d] = logits.sum(axis=0)
            return value + 0.5 * float((strength[:, None] * table[:d] ** 2).sum()), gradient.ravel()

        options = {"maxiter": 200, "ftol": 1e-6, "gtol": 1e-5, "maxcor": 10}
        found = cast("Any", minimize)(loss, start, jac=True, method="L-BFGS-B", options=options)
        start = np.asarray(found.x, dtype=np.float64)
        table = start.reshape(d + 1, n_classes)
        previous = stretch[:, None] * table[:d]
        result.append(((axes @ previous).astype(np.float32), table[d].astype(np.float32)))
        start = start.copy()
    return result


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _knn(
    train: NDArray[np.float32], codes: NDArray[np.int64], n_classes: int, test: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Votes of the most similar training rows, each class weighted by its rarity: (m, K)."""
    a, b = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (train, test))
    k = min(NEIGHBOURS, len(a))
    rarity = len(codes) / (n_classes * np.maximum(np.bincount(codes, minlength=n_classes), 1))
    votes = np.zeros((len(b), n_classes), dtype=np.float32)
    for start in range(0, len(b), _BLOCK // 4):
        similar = b[start : start + _BLOCK // 4] @ a.T
        near = np.argpartition(similar, -k, axis=1)[:, -k:]
        # Votes fall off with angle; the most similar row counts about twice the fifteenth in a typical table.
        closeness = np.exp((np.take_along_axis(similar, near, axis=1) - 1) / 0.1)
        block = np.arange(len(near)) + start
        np.add.at(votes, (np.repeat(block, k), codes[near].ravel()), (closeness * rarity[codes[near]]).ravel())
    total = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, total, out=np.full_like(votes, 1 / n_classes), where=total > 0)


def ridge_components(
    x_train: NDArray[np.floating],
    y_train: NDArray[np.float64],
    groups_train: NDArray[Any],
    x_test: NDArray[np.floating],
    counts: Sequence[int],
) -> NDArray[np.float64]:
    """Ridge regression on the first principal components of the training rows, a penalty for each number of them.

    Returns
    -------
    ndarray (len(counts), m) float64
        Predictions of the test rows; with all components those of `fit_predict`.
    """
    train, test = _standardised(x_train, x_test)
    inner = _inner_test(groups_train)
    penalties = [1e-2] * len(counts)
    if inner is not None:
        solve, learned = _ridge_path(train[~inner], y_train[~inner]), train[inner]
        for k, count in enumerate(counts):
            errors = [float(np.mean((solve(p, learned, count) - y_train[inner]) ** 2)) for p in _GRID]
            penalties[k] = float(_GRID[int(np.argmin(errors))])
    solve = _ridge_path(train, y_train)
    return np.array([solve(penalty, test, count) for penalty, count in zip(penalties, counts, strict=True)])


def _ridge(
    train: NDArray[np.float32],
    y: NDArray[np.float64],
    groups_train: NDArray[Any],
    test: NDArray[np.float32],
    seed: int,
    penalty: float | None,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Minimise mean squared error + penalty |w|^2; the penalty is chosen on inner groups."""
    del seed  # Nothing is drawn: all rows take part in the choice.
    inner = _inner_test(groups_train) if penalty is None else None
    if inner is not None:
        solve = _ridge_path(train[~inner], y[~inner])
        errors = [float(np.mean((solve(p, train[inner]) - y[inner]) ** 2)) for p in _GRID]
        penalty = float(_GRID[int(np.argmin(errors))])
    predicted = _ridge_path(train, y)(1e-2 if penalty is None else penalty, test)
    return predicted, np.empty((len(test), 0), dtype=np.float32)


def _ridge_path(x: NDArray[np.float32], y: NDArray[np.float64]) -> _Solved:
    """Predictions for a penalty, rows and a number of components (all if not given).

    ``y`` is one number (n,) or several (n, t), which share the decomposition.
    """
    centre, level = x.mean(axis=0, dtype=np.float64), y.mean(axis=0)
    variance, axes = np.linalg.eigh((x.T @ x / len(x)).astype(np.float64) - np.outer(centre, centre))
    # x.T @ (y - level) is already free of the mean of x, because y - level sums to zero.
    target = axes.T @ (x.T @ (y - level) / len(x))

    def predict(penalty: float, rows: NDArray[np.float32], count: int | None = None) -> NDArray[np.float64]:
        kept = slice(0 if count is None else len(variance) - count, None)
        weights = axes[:, kept] @ (target[kept].T / (np.maximum(variance[kept], 0) + penalty)).T
        return (rows - centre) @ weights + level

    return predict
