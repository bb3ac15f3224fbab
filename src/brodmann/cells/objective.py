r"""Likelihood of raw counts: how likely a cell's transcripts are, given what its surroundings predict.

.. math:: \mathrm{NB}(x;\mu,\theta) = \frac{\Gamma(x+\theta)}{\Gamma(\theta)\,x!}
          \left(\frac{\theta}{\theta+\mu}\right)^{\theta} \left(\frac{\mu}{\theta+\mu}\right)^{x}

with mean mu = softmax(logits) x library and inverse dispersion theta (variance mu + mu^2 / theta; Robinson & Smyth
2008). Zero inflation mixes in zeros with probability pi (Lopez et al. 2018, eq. 4 of the methods). Legend: n cells,
G genes. All of it is float32, or float64 where the arguments are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TABLE = 256


def nb(counts: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    """Log probability of counts under the negative binomial, entry by entry.

    Parameters
    ----------
    counts : Tensor (n, G)
        Whole numbers, of any type.
    mean, theta : Tensor
        Positive, of a shape that broadcasts to (n, G).

    Returns
    -------
    Tensor (n, G)
    """
    x, mean, theta = torch.broadcast_tensors(counts.to(mean.dtype), mean, theta)
    # most counts are zero, for which both gamma functions cancel
    some = torch.nonzero(x > 0, as_tuple=True)
    # float64: near the Poisson limit these are differences of large logarithms
    few, inverse = x[some].double(), theta[some].double()
    constant = torch.lgamma(few + inverse) - torch.lgamma(inverse) - few * inverse.log() - torch.lgamma(few + 1)
    return _varying(x, mean, theta).index_put(some, constant.to(mean.dtype), accumulate=True)


def zinb(counts: Tensor, mean: Tensor, theta: Tensor, gate: Tensor) -> Tensor:
    """Log probability under the zero-inflated negative binomial, entry by entry.

    Parameters
    ----------
    counts, mean, theta : Tensor
        As for `nb`.
    gate : Tensor
        Logit of the probability that a count is zero whatever its mean; broadcasts to (n, G).

    Returns
    -------
    Tensor (n, G)
    """
    plain = nb(counts, mean, theta)
    return torch.where(counts.expand_as(plain) > 0, plain, torch.logaddexp(gate, plain)) - F.softplus(gate)


def total(counts: Tensor, log_mean: Tensor, log_theta: Tensor, gate: Tensor | None = None) -> Tensor:
    """Sum over all entries of `nb`, or of `zinb` with a gate, for dispersions that belong to genes.

    The gamma functions of a whole count are a sum of logarithms, log Gamma(x + t) - log Gamma(t) = sum over k < x of
    log(t + k), so their sum over cells needs, per gene, only how many cells have more than k counts: a table of
    G x 256 instead of special functions at each entry.

    Parameters
    ----------
    counts : Tensor (n, G)
        Whole numbers, of any type.
    log_mean : Tensor (n, G)
        Finite.
    log_theta : Tensor (G,)
    gate : Tensor (n, G), optional
        As in `zinb`.

    Returns
    -------
    Tensor
        Scalar.
    """
    x, theta = counts.to(log_mean.dtype), log_theta.exp()
    if gate is not None:
        varying = _varying(x, log_mean.exp(), theta)
        varying = torch.where(x > 0, varying, torch.logaddexp(gate, varying)) - F.softplus(gate)
        return varying.sum() + _constant(x, theta)
    # log(1 + mean / theta) in one pass over the table, and a sum per gene of what its dispersion multiplies
    more = F.softplus(log_mean - log_theta)
    return (x * (log_mean - more)).sum() - (theta * more.sum(0)).sum() + _constant(x, theta)


def _varying(x: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    """What depends on the mean, divided by theta to the power of the count: finite up to the Poisson limit."""
    log_mean = mean.log()
    # a count of zero adds nothing even where its mean is zero
    powers = torch.where(x > 0, x * log_mean, 0.0)
    return powers - (x + theta) * torch.log1p(mean / theta)


def _constant(x: Tensor, theta: Tensor) -> Tensor:
    """Sum over entries of log Gamma(x + t) - log Gamma(t) - x log t - log x!, from a table of counts per gene."""
    genes = len(theta)
    cell, gene = torch.nonzero(x > 0, as_tuple=True)
    few = x[cell, gene]
    if not len(few):
        return theta.sum() * 0
    size = min(int(few.max()), _TABLE)
    held = torch.bincount(gene * (size + 1) + few.long().clamp_max(size), minlength=genes * (size + 1))
    # cells with more than k counts, for k = 0 .. size - 1
    more = held.view(genes, size + 1)[:, 1:].flip(1).cumsum(1).flip(1).to(theta.dtype)
    k = torch.arange(size, device=theta.device, dtype=theta.dtype)
    found = (more * (torch.log1p(k / theta[:, None]) - torch.log1p(k))).sum()
    large = few > size
    if bool(large.any()):
        # float64: differences of large logarithms
        y, t = few[large].double(), theta[gene[large]].double()
        rest = torch.lgamma(y + t) - torch.lgamma(size + t) - (y - size) * t.log()
        found = found + (rest - torch.lgamma(y + 1) + torch.lgamma(y.new_tensor(size + 1.0))).sum().to(theta.dtype)
    return found
