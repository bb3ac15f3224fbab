"""Readout: where a neuron looks and what it listens to.

Gaussian readout (Lurz et al., 2021, arXiv 2006.12186), as published by Wang et al., 2025: a position drawn from a
learned Gaussian while training, bounded by tanh, read by bilinear interpolation; weights of the features there are the
neuron's functional barcode. n neurons, S streams, C features, B clips, T frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_SPREAD = 0.4  # initial standard deviation of a position, in half widths of the grid before the bound
_BYTES = 1 << 26  # of corners copied at a time


class Taps(NamedTuple):
    """The four grid points around each position: upper left, upper right, lower left, lower right."""

    place: Tensor
    """(..., 4) int64 in the flattened grid."""
    share: Tensor
    """(..., 4), summing to 1."""


class Reading(NamedTuple):
    """Neurons ordered by the square of grid points that they look into, with what they make of its corners.

    Neurons of one square read it in one product; that is an order of magnitude less to move than four points for each.
    """

    squares: list[int]
    """Squares that hold a neuron, numbered row by row."""
    weights: list[Tensor]
    """For each, (4 S C, neurons): barcodes times the share of each corner."""
    back: Tensor
    """(n,) int64: where each neuron is among them."""


class Readout(nn.Module):
    """Position, barcode and bias of every neuron of every animal, a row each.

    Parameters
    ----------
    neurons, streams, features : int
    """

    def __init__(self, neurons: int, streams: int, features: int) -> None:
        super().__init__()
        self.jitter = True
        """Whether training draws positions; their spread has no gradient otherwise."""
        self.mu = nn.Parameter(torch.zeros(neurons, 2))
        self.sigma = nn.Parameter((torch.eye(2) * _SPREAD).repeat(neurons, 1, 1))
        # zero weights would leave the core without a gradient at first
        self.weight = nn.Parameter(torch.randn(neurons, streams, features) * 0.1 * features**-0.5)
        self.bias = nn.Parameter(torch.zeros(neurons, streams))

    def positions(self, rows: slice | Tensor, clips: int) -> Tensor:
        """Where neurons look, x and y from -1 to 1: (1, n, 2), or while training one draw per clip, (B, n, 2)."""
        mu, sigma = self.mu[rows], self.sigma[rows]
        if not (self.training and self.jitter):
            return mu[None].tanh()
        noise = torch.randn(clips, *mu.shape, dtype=mu.dtype, device=mu.device)
        return (mu + torch.einsum("ncd,bnd->bnc", sigma, noise)).tanh()

    def reading(
        self, rows: slice | Tensor, positions: Tensor, size_px: tuple[int, int], dtype: torch.dtype, stream: int | None
    ) -> Reading:
        """Prepare to read some neurons at positions (n, 2) on a grid of some height and width."""
        height, width = size_px
        one = slice(None) if stream is None else slice(stream, stream + 1)
        place, share = bilinear(positions, height, width)
        corner = place[:, 0]
        square = corner - corner // width if width > 1 else corner  # a row has one square fewer than points
        order = square.argsort(stable=True)
        weight = self.weight[rows][:, one]
        reads = (share[:, :, None] * (weight / weight.shape[1]).flatten(1)[:, None]).flatten(1)
        squares, counts = square[order].unique_consecutive(return_counts=True)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return Reading(squares.tolist(), list(reads.to(dtype)[order].T.split(counts.tolist(), dim=1)), back)

    def forward(self, features: Tensor, rows: slice | Tensor, *, stream: int | None) -> Tensor:
        """Log rates of some neurons.

        Parameters
        ----------
        features : (B, T, S C or C, h, w)
            Of all streams, or of one.
        rows : slice or (n,) int64
            Which neurons.
        stream : int or None
            The stream that the features are of; None: all, whose log rates are averaged.

        Returns
        -------
        (B, T, n), float32 or wider
        """
        size_px = features.shape[3], features.shape[4]
        places = self.positions(rows, len(features))
        found: list[Tensor] = []
        reading = None
        for clip, grid in enumerate(features):
            if reading is None or len(places) > 1:  # at rest, all clips are read at the same places
                reading = self.reading(rows, places[min(clip, len(places) - 1)], size_px, features.dtype, stream)
            found.append(self.read(grid, reading))
        return torch.stack(found) + self.base(rows, stream)

    def base(self, rows: slice | Tensor, stream: int | None) -> Tensor:
        """Biases (n,) of some neurons: of a stream, or their mean."""
        bias = self.bias[rows]
        return bias.mean(1) if stream is None else bias[:, stream]

    def read(self, features: Tensor, reading: Reading) -> Tensor:
        """Products (T, n) of barcodes and the features (T, S C, h, w) of one clip, without biases."""
        frames, channels, height, width = features.shape
        grid = features.permute(2, 3, 0, 1)  # (h, w, T, S C)
        grid = grid if height > 1 else grid.repeat(2, 1, 1, 1)
        grid = grid if width > 1 else grid.repeat(1, 2, 1, 1)
        step = max(1, _BYTES // (8 * height * width * channels))
        found: list[Tensor] = []
        for start in range(0, frames, step):
            some = grid[:, :, start : start + step]
            four = torch.cat([some[:-1, :-1], some[:-1, 1:], some[1:, :-1], some[1:, 1:]], dim=3).flatten(0, 1).unbind()
            read = [four[square] @ weight for square, weight in zip(reading.squares, reading.weights, strict=True)]
            found.append(torch.cat(read, dim=1))
        return torch.cat(found)[:, reading.back].to(self.bias.dtype)


def bilinear(positions: Tensor, height: int, width: int) -> Taps:
    """The grid points around positions (..., 2), x and y from -1 to 1, and what each of them counts.

    -1 and 1 are the outer edges of the outer points, whose values reach to them.
    """
    size = positions.new_tensor([width, height])
    at = (((positions + 1) * size - 1) / 2).clamp(min=torch.zeros_like(size), max=size - 1)
    low = at.detach().floor().minimum((size - 2).clamp_min(0))
    (right, down), (x, y) = (at - low).unbind(-1), low.long().unbind(-1)
    corner, beside, below = y * width + x, min(1, width - 1), width * min(1, height - 1)
    place = torch.stack([corner, corner + beside, corner + below, corner + below + beside], dim=-1)
    share = torch.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], dim=-1)
    return Taps(place, share)
