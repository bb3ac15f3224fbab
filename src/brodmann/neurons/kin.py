"""Which known neurons a new one is like, and where it looks: every known barcode is tried at every place.

Minutes of responses are too few to learn a readout from, but enough to recognise one. The core's features at a place,
read by a known neuron's barcode, are a rate; how probable the responses are under the rates of all places and barcodes
is a posterior over both, which neighbours in cortex sharpen through their common map (`retinotopy`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from brodmann.neurons import retinotopy
from brodmann.neurons.retinotopy import Where

BANK = 512
"""Known neurons that are tried, at most; evenly spread over all of them."""
FRAMES = 3600
"""Frames, evenly spread, that are looked at."""
LAGS_S = 2.0
"""How far apart responses are still alike."""
_VALUES = 1 << 26  # numbers held at a time


class Kin(NamedTuple):
    """What is believed of n new neurons."""

    place: Tensor
    """(n,) int64: number of the most probable place."""
    barcode: Tensor
    """(n, C) float32: mean of the known barcodes, weighted by how probable each is."""


def recognised(
    features: Tensor,
    responses: Tensor,
    bank: Tensor,
    *,
    at: Callable[[Tensor], Tensor],
    places: Tensor,
    where: Where | None,
    rate_hz: float,
) -> Kin:
    """Posterior over places and barcodes of neurons that share a recording.

    The log likelihood is that of a Poisson rate exp(w f + b) with the best b, divided by how much more the responses
    scatter than Poisson counts do (quasi-likelihood, Wedderburn 1974) and by the frames that tell as much as one.

    Parameters
    ----------
    features : (p, T, C) tensor
        Of the core, at the pixels of its grid, row by row.
    responses : (T, n) tensor
    bank : (K, C) tensor
        Barcodes of known neurons; at most `BANK` are used.
    at : callable
        Maps (a, b, p) on the core's grid -> what they are at the P places, (P, a, b).
    places : (P, 2) tensor
        In half widths of the screen.
    where : Where or None
        Where the new neurons lie; without it each is placed by itself.
    rate_hz : float
        Of frames.
    """
    thin = -(-len(responses) // FRAMES)
    features, responses = features[:, ::thin], responses[::thin].float()
    bank = bank[torch.linspace(0, len(bank) - 1, min(BANK, len(bank))).round().long()]
    sums = _log_sums(features, bank, at, len(places))
    sure = _scatter(responses) * _alike(responses, round(LAGS_S * rate_hz / thin))

    def likely(some: Tensor) -> Tensor:
        """Log likelihoods (P, n, K) of some neurons."""
        y = responses[:, some]
        cross = torch.stack([one.float().mT @ y for one in features])
        told = at(torch.einsum("pcn,kc->nkp", cross, bank))
        return (told - y.sum(0)[None, :, None] * sums[:, None]) / sure[some, None]

    # made twice, a few neurons at a time, since all at once may not fit
    parts = torch.arange(responses.shape[1]).split(max(1, _VALUES // sums.numel()))
    alone = torch.cat([likely(some).logsumexp(2) for some in parts], dim=1)
    belief = retinotopy.posterior(alone, places, where)
    barcodes = [torch.einsum("pn,pnk->nk", belief[:, some], likely(some).softmax(2)) @ bank for some in parts]
    return Kin(belief.argmax(0), torch.cat(barcodes))


def _log_sums(features: Tensor, bank: Tensor, at: Callable[[Tensor], Tensor], places: int) -> Tensor:
    """Log of the sum over frames of the rate of each barcode at each place, (P, K)."""
    chunk = max(1, _VALUES // (len(bank) * places))
    found = [at(torch.einsum("ptc,kc->tkp", some.float(), bank)).logsumexp(1) for some in features.split(chunk, dim=1)]
    return torch.stack(found).logsumexp(0)


def _scatter(responses: Tensor) -> Tensor:
    """Variance over mean (n,): 1 for Poisson counts."""
    return (responses.var(0) / responses.mean(0).clamp_min(1e-6)).clamp_min(1e-6)


def _alike(responses: Tensor, lags: int) -> Tensor:
    """Frames that tell as much as one (n,): the sum of autocorrelations, distant ones counted less (Bartlett)."""
    off = responses - responses.mean(0)
    power, found = off.square().mean(0).clamp_min(1e-12), torch.ones(responses.shape[1])
    for lag in range(1, min(lags, len(off))):
        found += 2 * (1 - lag / lags) * (off[lag:] * off[:-lag]).mean(0) / power
    return found.clamp_min(1.0)
