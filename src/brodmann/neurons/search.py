"""Where a neuron looks: for every place of the core's features, how well a linear readout there would predict it.

Positions are what gradient descent finds last and what decides when an animal has minutes of data. They are therefore
searched, not learned: all places of a grid are tried at once from sums over frames (moments), with the readouts of
other animals' neurons as the prior, and judged on frames that were left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from brodmann.neurons import retinotopy
from brodmann.neurons.retinotopy import Where

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Strengths of the prior that are tried, in units of the features' mean variance times the number of frames."""


def grid(height: int, width: int, finer: int) -> Tensor:
    """Places (P, 2) as x, y in -1 .. 1, the centres of the corner pixels at the ends: ``finer`` steps to a pixel."""
    y = torch.linspace(-1, 1, (height - 1) * finer + 1)
    x = torch.linspace(-1, 1, (width - 1) * finer + 1)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def at_places(features: Tensor, height: int, width: int, finer: int) -> Tensor:
    """Features (T, C, h, w) at the places of `grid`, bilinear: (P, T, C)."""
    size = ((height - 1) * finer + 1, (width - 1) * finer + 1)
    finer_map = F.interpolate(features, size=size, mode="bilinear", align_corners=True) if finer > 1 else features
    return finer_map.flatten(2).permute(2, 0, 1)


def around(positions: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Four pixels around positions (n, 2), -1 .. 1 edge to edge: numbers (n, 4) in the flat grid, shares (n, 4)."""
    size = torch.tensor([width, height])
    at = (((positions + 1) * size - 1) / 2).clamp_min(0).minimum(size - 1)
    low = at.floor().minimum((size - 2).clamp_min(0))
    (right, down), (x, y) = (at - low).unbind(-1), low.long().unbind(-1)
    corner, beside, below = y * width + x, min(1, width - 1), width * min(1, height - 1)
    places = torch.stack([corner, corner + beside, corner + below, corner + below + beside], dim=-1)
    share = torch.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], dim=-1)
    return places, share


@dataclass
class Moments:
    """Sums over the frames of ``K`` blocks of time, for P places, C features, n neurons.

    Attributes
    ----------
    gram : (K, P, C, C) float32
        Of features with a constant as the last of them.
    cross : (K, P, C, n) float32
    square : (K, n) float32
        Of responses.
    frames : (K,) float32
    """

    gram: Tensor
    cross: Tensor
    square: Tensor
    frames: Tensor

    @classmethod
    def gather(cls, blocks: Iterable[Iterable[tuple[Tensor, Tensor]]]) -> Moments:
        """Sum over blocks of chunks: features at places (P, t, C) and responses (t, n)."""
        grams: list[Tensor] = []
        crosses: list[Tensor] = []
        squares: list[Tensor] = []
        frames: list[float] = []
        for block in blocks:
            gram = cross = square = None
            count = 0
            for features, responses in block:
                one = F.pad(features.float(), (0, 1), value=1.0)
                g, c = one.mT @ one, one.mT @ responses.float()
                s = responses.float().square().sum(0)
                gram, cross, square = (g, c, s) if gram is None else (gram + g, cross + c, square + s)  # pyright: ignore
                count += len(responses)
            if gram is None or cross is None or square is None:
                continue
            grams.append(gram)
            crosses.append(cross)
            squares.append(square)
            frames.append(float(count))
        return cls(torch.stack(grams), torch.stack(crosses), torch.stack(squares), torch.tensor(frames))


@dataclass(frozen=True)
class Found:
    """What a search gives for n neurons.

    Attributes
    ----------
    place : (n,) int64
        Number of the best place.
    weights : (n, C) float32, intercept : (n,) float32
        Linear readout there, from all frames.
    explained : (n,) float32
        Share of the variance of left-out frames that it predicts; at most 1, negative where nothing is predicted.
    strength : (n,) float32
        Strength of the prior that predicted best.
    sd : (C,) float32
        Standard deviation of each feature, whatever the place.
    """

    place: Tensor
    weights: Tensor
    intercept: Tensor
    explained: Tensor
    strength: Tensor
    sd: Tensor


def search(
    moments: Moments,
    spread: Tensor | None = None,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
    places: Tensor | None = None,
    where: Where | None = None,
) -> Found:
    """The place and prior strength that predict left-out blocks best.

    Ridge regression in coordinates in which the prior of the weights is white; every block is left out once.

    Parameters
    ----------
    moments : Moments
        Of two or more blocks.
    spread : (C, C) tensor, optional
        A root L of the prior covariance L L' of weights; by default each feature on its own scale.
    strengths : tuple of float
    places, where : (P, 2) tensor and Where, optional
        Places in half widths of the screen, and where the neurons lie: neighbours then help to place each other, see
        `retinotopy`. By default every neuron is placed by itself.

    Returns
    -------
    Found
    """
    total_gram, total_cross = moments.gram.sum(0), moments.cross.sum(0)
    root = _scale(total_gram) if spread is None else _standard(spread, total_gram)
    explained = _explained(moments, root, strengths)
    if where is None or places is None:
        best, place = explained.amax(0).max(0)
    else:
        frames = float(moments.frames.sum())
        tried = [retinotopy.believed(one, frames, places, where) for one in explained]
        gained = [one.gather(0, place[None])[0] for one, place in zip(explained, tried, strict=True)]
        # one strength for all neurons: that with which the places found predict best
        chosen = int(torch.stack([gain.clamp_min(-0.05).mean() for gain in gained]).argmax())
        place = tried[chosen]
    here = explained[:, place, torch.arange(len(place))]
    best, which = here.max(0)
    weights, intercept = torch.zeros(len(place), len(root)), torch.zeros(len(place))
    for number in place.unique().tolist():
        own = torch.nonzero(place == number)[:, 0]
        fit_w, fit_b = _ridge(total_gram[number], total_cross[number][:, own], root, strengths)
        weights[own] = fit_w[which[own], :, torch.arange(len(own))]
        intercept[own] = fit_b[which[own], torch.arange(len(own))]
    return Found(place, weights, intercept, best, torch.tensor(strengths)[which], 1 / _scale(total_gram).diagonal())


def _explained(moments: Moments, root: Tensor, strengths: tuple[float, ...]) -> Tensor:
    """Share of left-out variance explained, (S, P, n)."""
    blocks, places = moments.gram.shape[:2]
    total_gram, total_cross = moments.gram.sum(0), moments.cross.sum(0)
    found = torch.zeros(len(strengths), places, moments.cross.shape[-1])
    variance = _variance(moments)
    for number in range(places):
        for block in range(blocks):
            gram, cross = moments.gram[block, number], moments.cross[block, number]
            weights, intercept = _ridge(total_gram[number] - gram, total_cross[number] - cross, root, strengths)
            found[:, number] += _error(weights, intercept, gram, cross, moments.square[block])
        found[:, number] = 1 - found[:, number] / variance
    return found


def _variance(moments: Moments) -> Tensor:
    """Sum of squares of responses around the mean of the other blocks, (n,): what a constant would leave."""
    sums = moments.cross[:, 0, -1]
    total, frames = sums.sum(0), moments.frames
    left = torch.zeros_like(total)
    for block in range(len(frames)):
        mean = (total - sums[block]) / (frames.sum() - frames[block])
        left += moments.square[block] - 2 * mean * sums[block] + frames[block] * mean.square()
    return left.clamp_min(1e-12)


def _centred(gram: Tensor, cross: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Covariances times frames: of features (C, C), with responses (C, n); means; frames."""
    frames = gram[-1, -1]
    mean_f, mean_y = gram[-1, :-1] / frames, cross[-1] / frames
    inner = gram[:-1, :-1] - frames * torch.outer(mean_f, mean_f)
    with_y = cross[:-1] - frames * torch.outer(mean_f, mean_y)
    return inner, with_y, mean_f, mean_y, frames


def _ridge(gram: Tensor, cross: Tensor, root: Tensor, strengths: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Weights (S, C, n) and intercepts (S, n) for every strength of the prior."""
    inner, with_y, mean_f, mean_y, frames = _centred(gram, cross)
    white = root.T @ inner @ root
    values, vectors = torch.linalg.eigh((white + white.T) / 2)
    turned = vectors.T @ (root.T @ with_y)
    scale = torch.tensor(strengths)[:, None, None] * frames
    solved = turned / (values.clamp_min(0)[:, None] + scale)
    weights = (root @ vectors) @ solved
    return weights, mean_y - torch.einsum("c,scn->sn", mean_f, weights)


def _error(weights: Tensor, intercept: Tensor, gram: Tensor, cross: Tensor, square: Tensor) -> Tensor:
    """Sum of squares (S, n) that the readouts leave in a block."""
    whole = torch.cat([weights, intercept[:, None]], dim=1)
    return square - 2 * (whole * cross).sum(1) + (whole * (gram @ whole)).sum(1)


def _scale(gram: Tensor) -> Tensor:
    """Prior without other animals: every feature on its own scale, (C, C) diagonal."""
    frames = gram[:, -1:, -1]
    variance = gram.diagonal(dim1=1, dim2=2)[:, :-1] / frames - (gram[:, -1, :-1] / frames).square()
    return torch.diag(variance.mean(0).clamp_min(1e-8).rsqrt())


def _standard(spread: Tensor, gram: Tensor) -> Tensor:
    """The prior's root, scaled so that features in its coordinates have a mean variance of one."""
    frames = gram[:, -1, -1]
    mean = gram[:, -1, :-1] / frames[:, None]
    inner = (gram[:, :-1, :-1] / frames[:, None, None] - mean[:, :, None] * mean[:, None]).mean(0)
    return spread / (torch.trace(spread.T @ inner @ spread) / len(inner)).clamp_min(1e-12).sqrt()
