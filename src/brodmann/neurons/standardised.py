"""Weights that are standardised before they are used, so that depth does not change the scale of what passes through.

Each output's weights have zero mean and unit norm, times a learned gain: weight standardisation (Qiao et al., 2019,
arXiv 1903.10520, equation 5) with the gain of Brock et al. (2021, arXiv 2101.08692, equation 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_EPSILON = 1e-5


class Standardised(nn.Module):
    """Weights, gains and biases of one linear map, kept in stacks (of animals, streams, groups).

    Parameters
    ----------
    rows : tuple of int
        Leading dimensions: which stack, which output.
    fan : tuple of int
        Trailing dimensions that an output sums over.
    gain : float or None
        Initial gain; None has no gain to learn.
    bias : float or None
        Initial bias; None has none.
    standardise : bool
        False uses the weights as they are, for inputs with units of their own; they have no gain.
    zero : bool
        Start from zero weights (only without standardisation).
    """

    def __init__(
        self,
        rows: tuple[int, ...],
        fan: tuple[int, ...],
        *,
        gain: float | None = 1.0,
        bias: float | None = 0.0,
        standardise: bool = True,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.standardise, self.dims = standardise, tuple(range(-len(fan), 0))
        bound = 0.0 if zero else ((1.0 if standardise else 3.0) / math.prod(fan)) ** 0.5
        self.weight = nn.Parameter(torch.empty(*rows, *fan).uniform_(-bound, bound))
        self.gain = nn.Parameter(torch.full(rows, gain)) if standardise and gain is not None else None
        self.bias = nn.Parameter(torch.full(rows, bias)) if bias is not None else None

    def ready(self, at: int | slice | Tensor = slice(None)) -> Tensor:
        """Weights to multiply with: those of one place of the first dimension, of several, or all; stacks as stored."""
        weight = self.weight[at]
        if not self.standardise:
            return weight
        weight = weight - weight.mean(self.dims, keepdim=True)
        scale = (weight.square().sum(self.dims, keepdim=True) + _EPSILON).rsqrt()
        return weight * (scale if self.gain is None else scale * self.gain[at].reshape(scale.shape))

    def shift(self, at: int | slice | Tensor = slice(None)) -> Tensor:
        """Biases, likewise; only where there are any."""
        assert self.bias is not None  # asked for by the module that made it with a bias
        return self.bias[at]
