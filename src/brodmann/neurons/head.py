"""The readout of neurons on a core that is kept: maximum a posteriori, by Newton's method, without a learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 4.0
"""Log rates are kept within this while steps are taken: exp(4) is 55 times the mean response."""


@dataclass(frozen=True)
class Prior:
    """What other neurons' readouts say of a new one's: normal, mean ``mean`` (C,), covariance ``root root'`` (C, C)."""

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, weights: Tensor, *, floor: float = 0.02) -> Prior:
        """Of the readout weights (N, C) of other neurons; ``floor`` of the mean variance is added to each direction."""
        mean = weights.mean(0)
        centred = weights - mean
        covariance = centred.T @ centred / max(1, len(weights) - 1)
        jitter = floor * torch.trace(covariance) / len(covariance) + 1e-12
        return cls(mean, torch.linalg.cholesky(covariance + jitter * torch.eye(len(covariance))))


STRENGTHS = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
"""Of the prior, strong to weak; 1 would be right for neurons whose responses vary as Poisson counts do."""


JUDGES = 32
"""Neurons, evenly chosen, that decide for all how strong the prior is."""


@dataclass(frozen=True)
class Solved:
    """Readouts of n neurons.

    Attributes
    ----------
    weights : (n, C) float32, bias : (n,) float32
        Of log rates.
    strength : float
        Of the prior, the same for all neurons: chosen where it predicts left-out frames of all of them best.
    """

    weights: Tensor
    bias: Tensor
    strength: float


@dataclass(frozen=True)
class Evidence:
    """What the readouts of n neurons are found from.

    Attributes
    ----------
    features : callable
        Neurons (g,) int64 -> what they read (g, T, C) float32.
    responses : (T, n) tensor
        In units of their training mean.
    left_out : (T,) bool tensor
        Frames that choose how strong the prior is.
    prior : Prior
    centre : (n, C) tensor, optional
        Mean of the prior of each neuron; by default the same for all.
    """

    features: Callable[[Tensor], Tensor]
    responses: Tensor
    left_out: Tensor
    prior: Prior
    centre: Tensor | None = None

    def groups(self, chosen: Tensor, group: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Chosen neurons some at a time: numbers, features in the prior's coordinates, responses (g, T), centres."""
        # by default so many that their features take little memory
        for rows in chosen.split(group or max(1, 1024 // len(self.prior.mean))):
            centre = self.prior.mean.expand(len(rows), -1) if self.centre is None else self.centre[rows]
            # in these coordinates the prior is white and Newton's matrix is well conditioned
            yield rows, _white(self.features(rows), centre, self.prior.root), self.responses[:, rows].T, centre


def solve(
    evidence: Evidence, *, strengths: tuple[float, ...] = STRENGTHS, rounds: int = 3, group: int | None = None
) -> Solved:
    """Weights and biases of log rates that make responses most probable, given the prior.

    The rate is exp(w f + b), the likelihood Poisson. Strengths of the prior are walked from strong to weak, each from
    the last one's solution, for some neurons on the frames that are not left out; the one that predicts the frames left
    out best is then used for all neurons and frames.

    Parameters
    ----------
    evidence : Evidence
    strengths : tuple of float
        Of the prior, strong to weak.
    rounds : int
        Newton steps at the chosen strength.
    group : int
        Neurons solved together; by default so many that their features take little memory.

    Returns
    -------
    Solved
    """
    count = evidence.responses.shape[1]
    best = strengths[0] if len(strengths) == 1 else judge(evidence, strengths=strengths, group=group)[0]
    out_w, out_b = torch.zeros(count, len(evidence.prior.mean)), torch.zeros(count)
    for rows, f, y, centre in evidence.groups(torch.arange(count), group):
        w = _begin(f, y)
        # from a stronger prior first: fewer steps are lost on the way
        for strength in (10 * best, *([best] * rounds)):
            w = _newton(w, f, y, strength)
        out_w[rows], out_b[rows] = w[:, :-1] @ evidence.prior.root.T + centre, w[:, -1]
    return Solved(out_w, out_b, best)


def judge(
    evidence: Evidence, *, strengths: tuple[float, ...] = STRENGTHS, group: int | None = None
) -> tuple[float, float]:
    """The strength of the prior with which `JUDGES` neurons predict the frames left out best, and their Poisson loss.

    Parameters as for `solve`. Where no frames are left out, the middle strength, and a loss of 0.
    """
    left_out, count = evidence.left_out, evidence.responses.shape[1]
    if not left_out.any():
        return strengths[len(strengths) // 2], 0.0
    some = torch.linspace(0, count - 1, min(JUDGES, count)).round().long()
    losses = torch.zeros(len(strengths))
    for _, f, y, _ in evidence.groups(some, group):
        taught, judged = (f[:, ~left_out], y[:, ~left_out]), (f[:, left_out], y[:, left_out])
        w = _begin(f, y)
        for number, strength in enumerate(strengths):
            # two steps, since each strength starts where the last one ended
            for _ in range(2):
                w = _newton(w, *taught, strength)
            losses[number] += _loss(_linear(w, judged[0]), judged[1]).sum()
    best = int(losses.argmin())
    return strengths[best], float(losses[best]) / len(some)


def _begin(f: Tensor, responses: Tensor) -> Tensor:
    """The prior's mean, and the bias that then gives the mean response."""
    w = torch.zeros(len(responses), f.shape[-1] - 1)
    rate = f[..., -1].clamp(-2 * LIMIT, LIMIT).exp().mean(1)
    w[:, -1] = (responses.mean(1).clamp_min(1e-3) / rate).log()
    return w


def _white(features: Tensor, centre: Tensor, root: Tensor) -> Tensor:
    """Features (g, T, C) as (g, T, C + 2): in the prior's coordinates, one for the bias, what the prior's mean says."""
    told = (features @ centre[..., None])[..., 0]
    turned = features @ root
    return torch.cat([turned, torch.ones_like(told)[..., None], told[..., None]], dim=-1)


def _linear(w: Tensor, f: Tensor) -> Tensor:
    """Log rates before they are limited, (g, T)."""
    return (f[..., :-1] @ w[..., None])[..., 0] + f[..., -1]


def _loss(log_rate: Tensor, y: Tensor) -> Tensor:
    """Poisson loss per frame, (g,), of log rates that are limited here."""
    log_rate = log_rate.clamp(-2 * LIMIT, LIMIT)
    return (log_rate.exp() - y * log_rate).mean(1)


def _newton(w: Tensor, f: Tensor, y: Tensor, strength: float) -> Tensor:
    """One damped Newton step for each neuron of a group; the gradient is exact, the curvature is of every 4th frame."""
    x, linear = f[..., :-1], _linear(w, f)
    # beyond the limits the loss is flat, and so is its slope
    inside = (linear > -2 * LIMIT) & (linear < LIMIT)
    rate = linear.clamp(-2 * LIMIT, LIMIT).exp()
    penalty = torch.full((x.shape[-1],), strength)
    penalty[-1] = 0.0
    gradient = (((rate - y) * inside)[:, None] @ x)[:, 0] + penalty * w
    few = x[:, ::4] if x.shape[1] > 4000 else x
    share = x.shape[1] / few.shape[1]
    thin = rate[:, :: 4 if few is not x else 1]
    curvature = share * (few * thin[..., None]).mT @ few + torch.diag(penalty + 1e-3)
    step = torch.linalg.solve(curvature, gradient)
    # log rates are linear in the weights: shorter steps need no further look at the features
    moved = (x @ step[..., None])[..., 0]

    def objective(length: float) -> Tensor:
        point = w - length * step
        return _loss(linear - length * moved, y) * x.shape[1] + 0.5 * (penalty * point.square()).sum(1)

    before, done = objective(0.0), torch.zeros(len(w), dtype=torch.bool)
    result, length = w.clone(), 1.0
    for _ in range(5):
        better = (objective(length) <= before) & ~done
        result[better], done = (w - length * step)[better], done | better
        if bool(done.all()):
            break
        length /= 2
    return result
