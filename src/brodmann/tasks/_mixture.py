"""Gaussian mixtures by expectation maximisation in blocks of rows, alone or smoothed over neighbours (Potts).

n rows, d features, k components, m neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from brodmann.errors import Refused
from brodmann.samples import stream
from brodmann.tasks._cluster import Rows, kmeans

Covariance = Literal["full", "tied", "diag"]

_BLOCK = 16_384
_TOLERANCE = 1e-4
_FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class Mixture:
    """A fitted mixture.

    Parameters
    ----------
    labels : ndarray (n,) int32
        Component of each row.
    weights : ndarray (k,) float64
    means : ndarray (k, d) float64
    factors : ndarray (k or 1, d, d) float64
        Upper factors U of the precisions, U U^T = covariance^-1; one for all when tied.
    log_likelihood : float
        Mean over rows of what was maximised.
    """

    labels: NDArray[np.int32]
    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    factors: NDArray[np.float64]
    log_likelihood: float

    def log_joint(self, x: Rows) -> NDArray[np.float64]:
        """Log density of each row with each component, weights included: (n, k) float64."""
        state = tuple(torch.from_numpy(part) for part in (self.weights, self.means, self.factors))
        parts = [_log_joint(_rows(x, i), *state).numpy() for i in range(0, len(x), _BLOCK)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.weights)))

    def predict(
        self, x: Rows, neighbours: NDArray[np.integer[Any]] | None = None, *, beta: float = 0.0
    ) -> NDArray[np.int32]:
        """Component of each row, smoothed over its neighbours when they are given: (n,) int32."""
        if neighbours is None or beta == 0:
            labels = np.empty(len(x), dtype=np.int32)
            for i in range(0, len(x), _BLOCK):
                labels[i : i + _BLOCK] = self.log_joint(x[i : i + _BLOCK]).argmax(axis=1)
            return labels
        joint = torch.from_numpy(self.log_joint(x))
        return _mean_field(joint, _graph(neighbours), beta, 20).argmax(dim=1).to(torch.int32).numpy()


def gmm(
    x: Rows,
    k: int,
    *,
    covariance: Covariance = "full",
    n_init: int = 5,
    seed: int = 0,
    iterations: int = 200,
    neighbours: NDArray[np.integer[Any]] | None = None,
    beta: float = 0.0,
) -> Mixture:
    """Fit a Gaussian mixture; the likeliest of ``n_init`` starts, each from a k-means of one start.

    With ``neighbours`` the posterior of a row is multiplied by exp(beta * mean posterior of its neighbours) in every
    E-step: a hidden Markov random field with a Potts prior in mean field (Zhang, Brady and Smith 2001, eq. 12; they
    use hard labels, ICM).

    Parameters
    ----------
    x : ndarray (n, d) floating
    k : int
    covariance : {"full", "tied", "diag"}
    n_init : int
        At least 5 in what is reported: with one start the agreement scatters by up to 0.16.
    seed : int
    iterations : int
    neighbours : ndarray (n, m) int, optional
        Rows near each row; -1 where there are fewer than m.
    beta : float
        Weight of the neighbours.

    Returns
    -------
    Mixture

    Raises
    ------
    Refused
        Fewer rows than components, or rows that are not finite.
    """
    if len(x) < k:
        raise Refused(f"{k} components should have at least as many rows.", found=f"{len(x):,} rows.")
    mean, spread = _moments(x)
    if not np.isfinite(spread).all():
        raise Refused("rows to cluster should be finite.", found="NaN or infinity among them.")
    # A floor relative to the features' own scale: smoothed features are nearly collinear.
    floor = _FLOOR * float(np.trace(spread)) / len(mean) + 1e-12
    graph = None if neighbours is None or beta == 0 else _graph(neighbours)
    best: Mixture | None = None
    for start in range(n_init):
        key = int(stream(seed, "mixture", k, start).integers(2**31))
        first = torch.from_numpy(kmeans(x, k, seed=key).labels).long()
        found = _fit(x, torch.nn.functional.one_hot(first, k).double(), covariance, floor, iterations, graph, beta)
        if best is None or found.log_likelihood > best.log_likelihood:
            best = found
    assert best is not None
    return best


def _fit(
    x: Rows,
    share: Tensor,
    covariance: Covariance,
    floor: float,
    iterations: int,
    graph: csr_matrix | None,
    beta: float,
) -> Mixture:
    previous, value = -np.inf, -np.inf
    weights = means = factors = torch.empty(0)
    for _ in range(iterations):
        weights, means, factors = _maximise(x, share, covariance, floor)
        value = 0.0
        joint = torch.empty_like(share) if graph is not None else None
        for i in range(0, len(x), _BLOCK):
            part = _log_joint(_rows(x, i), weights, means, factors)
            value += float(part.logsumexp(dim=1).sum())
            if joint is not None:
                joint[i : i + _BLOCK] = part
            else:
                share[i : i + _BLOCK] = part.softmax(dim=1)
        value /= len(x)
        if joint is not None and graph is not None:
            share = _mean_field(joint, graph, beta, 3, share)
            smooth = _neighbour_mean(share, graph)
            # Pseudo-likelihood under the field (Besag 1975): what starts are compared by.
            value = float(((joint + beta * smooth).logsumexp(1) - (beta * smooth).logsumexp(1)).mean())
        if abs(value - previous) < _TOLERANCE:
            break
        previous = value
    labels = share.argmax(dim=1).to(torch.int32).numpy()
    return Mixture(labels, weights.numpy(), means.numpy(), factors.numpy(), value)


def _maximise(x: Rows, share: Tensor, covariance: Covariance, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """M-step: weights, means, upper factors of the precisions."""
    k, d = share.shape[1], x.shape[1]
    count = share.sum(dim=0).clamp_min(1e-9)
    means = torch.zeros((k, d), dtype=torch.float64)
    for i in range(0, len(x), _BLOCK):
        means += share[i : i + _BLOCK].T @ _rows(x, i)
    means /= count[:, None]
    single = covariance == "tied"
    spread = torch.zeros((1 if single else k, d, d), dtype=torch.float64)
    for i in range(0, len(x), _BLOCK):
        rows, part = _rows(x, i), share[i : i + _BLOCK]
        if covariance == "diag":
            square = part.T @ rows.square() - 2 * means * (part.T @ rows) + part.sum(0)[:, None] * means.square()
            spread += torch.diag_embed(square)
        elif single:
            spread[0] += rows.T @ rows
        else:
            for j in range(k):
                away = (rows - means[j]) * part[:, j : j + 1].sqrt()
                spread[j] += away.T @ away
    spread = (spread[0] - (means.T * count) @ means)[None] / len(x) if single else spread / count[:, None, None]
    spread += floor * torch.eye(d, dtype=torch.float64)
    lower = torch.linalg.cholesky(spread)
    eye = torch.eye(d, dtype=torch.float64).expand_as(lower)
    return count / len(x), means, torch.linalg.solve_triangular(lower, eye, upper=False).transpose(1, 2).contiguous()


def _log_joint(rows: Tensor, weights: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """Log density of rows (b, d) with each component, weights included: (b, k)."""
    d = rows.shape[1]
    turned = torch.einsum("bd,kde->kbe", rows, factors)
    centre = torch.einsum("kd,kde->ke", means, factors.expand(len(means), d, d))
    if len(factors) == 1:
        away = torch.cdist(turned[0], centre).square()
    else:
        away = (turned - centre[:, None]).square().sum(dim=2).T
    scale = torch.diagonal(factors, dim1=1, dim2=2).log().sum(dim=1)
    return weights.log() + scale - 0.5 * (away + d * np.log(2 * np.pi))


def _graph(neighbours: NDArray[np.integer[Any]]) -> csr_matrix:
    """Weight of each neighbour, one over their number: (n, n)."""
    n, m = neighbours.shape
    there = neighbours >= 0
    weight = np.repeat(1 / np.maximum(there.sum(axis=1), 1), m)[there.ravel()]
    return csr_matrix((weight, (np.repeat(np.arange(n), m)[there.ravel()], neighbours[there])), shape=(n, n))


def _neighbour_mean(share: Tensor, graph: csr_matrix) -> Tensor:
    return torch.from_numpy(cast("Any", graph) @ share.numpy())


def _mean_field(joint: Tensor, graph: csr_matrix, beta: float, rounds: int, share: Tensor | None = None) -> Tensor:
    """Posterior of each row given its own features and its neighbours' posteriors: (n, k)."""
    share = joint.softmax(dim=1) if share is None else share
    for _ in range(rounds):
        share = (joint + beta * _neighbour_mean(share, graph)).softmax(dim=1)
    return share


def _rows(x: Rows, start: int) -> Tensor:
    return torch.from_numpy(np.asarray(x[start : start + _BLOCK], dtype=np.float64))


def _moments(x: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and covariance of all rows."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for i in range(0, len(x), _BLOCK):
        total += _rows(x, i).sum(dim=0)
    mean = total / len(x)
    spread = torch.zeros((x.shape[1], x.shape[1]), dtype=torch.float64)
    for i in range(0, len(x), _BLOCK):
        away = _rows(x, i) - mean
        spread += away.T @ away
    return mean.numpy(), (spread / len(x)).numpy()
