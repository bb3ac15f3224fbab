"""Neurons that lie side by side look side by side: what a plane of neurons says of where each of its neurons looks.

With a minute of data most single neurons cannot be placed; their neighbours together can. Every imaging plane is given
an affine map from cortex to the screen, with scatter, fitted by expectation maximisation to what all neurons say of
their places (Dempster, Laird & Rubin 1977); a share of neurons may look anywhere.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

INDEPENDENT = 30
"""Frames that count as one: responses and video change slowly, so that errors of neighbouring frames are alike."""
ANYWHERE = 0.1
"""Share of neurons that do not follow the map of their plane."""
ROUNDS = 40
_FIRST, _LEAST = 0.4, 0.06  # scatter at the start, and at least; half widths of the screen
_FEWEST = 20  # neurons of a plane that can bear a slope


class Where(NamedTuple):
    """Where neurons lie in cortex: ``plane`` (n,) int64 and ``xy_um`` (n, 2) in it; None where places are not known."""

    plane: Tensor
    xy_um: Tensor | None


def believed(explained: Tensor, frames: float, places: Tensor, where: Where) -> Tensor:
    """The most probable place of every neuron, given what it and its neighbours say.

    Parameters
    ----------
    explained : (P, n) float32
        Share of left-out variance that a readout at each place predicts.
    frames : float
        Frames it was judged on.
    places : (P, 2)
        In half widths of the screen.
    where : Where

    Returns
    -------
    (n,) int64
    """
    likely = -(frames / INDEPENDENT / 2) * (1 - explained).clamp_min(1e-3).log()
    return posterior(likely, places, where).argmax(0)


def posterior(likely: Tensor, places: Tensor, where: Where | None) -> Tensor:
    """Probability (P, n) of every place, from its log likelihood (P, n) for each neuron by itself.

    Parameters
    ----------
    likely : (P, n) float32
    places : (P, 2)
        In half widths of the screen.
    where : Where or None
        Without it, neurons say nothing of each other.
    """
    if where is None:
        return likely.softmax(0)
    found = torch.zeros_like(likely)
    for number in where.plane.unique():
        own = torch.nonzero(where.plane == number)[:, 0]
        found[:, own] = _posterior(likely[:, own], places, _design(where, own))
    return found


def _design(where: Where, own: Tensor) -> Tensor:
    """Terms (n, 1 or 3) of the map: a constant, and the places in cortex where they are known."""
    one = torch.ones(len(own), 1)
    if where.xy_um is None or len(own) < _FEWEST:
        return one
    xy = where.xy_um[own].float()
    return torch.cat([one, (xy - xy.mean(0)) / xy.std(0).clamp_min(1e-6)], dim=1)


def _posterior(likely: Tensor, places: Tensor, design: Tensor) -> Tensor:
    """Probability (P, n) of every place, after the map and its scatter have been fitted."""
    held = torch.diag(torch.tensor([1e-3, 2.0, 2.0])[: design.shape[1]])
    posterior, scatter = likely.softmax(0), _FIRST
    for _ in range(ROUNDS):
        unsure = -(posterior * posterior.clamp_min(1e-12).log()).sum(0) / math.log(len(places))
        weight = (1 - unsure).clamp_min(1e-3)[:, None]
        line = torch.linalg.solve((design * weight).T @ design + held, (design * weight).T @ (posterior.T @ places))
        square = torch.cdist(places, design @ line).square()
        spread = (posterior * square).sum(0)
        scatter = max(_LEAST, float((spread * weight[:, 0]).sum() / (2 * weight.sum())) ** 0.5)
        near = (-square / (2 * scatter**2)).softmax(0)
        posterior = (likely + ((1 - ANYWHERE) * near + ANYWHERE / len(places)).log()).softmax(0)
    return posterior
