"""The contrast of places, which every system may use: what lies near is alike, what is compared and far is not.

B rows of the batch, A anchors (the rows of this process), d embedding width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Who counts as whose partner, and who is compared at all; both ``(A, B)``."""

    weight: Tensor
    compared: Tensor


def spatial_nce(z_anchors: Tensor, z_others: Tensor, pair: Pairs, temperature: float) -> Tensor:
    r"""Contrast of places.

    .. math:: L = -\frac1A \sum_i \sum_j \frac{w_{ij}}{\sum_k w_{ik}}
              \log \frac{\exp(s_{ij}/T)}{\sum_a m_{ia} \exp(s_{ia}/T)}

    Parameters
    ----------
    z_anchors, z_others : Tensor
        ``(A, d)`` and ``(B, d)`` unit vectors; s is their inner product.
    pair : Pairs
        Weights w and mask m.
    temperature : float
        T.

    Returns
    -------
    Tensor
        Scalar; the mean over all A anchors, to which an anchor without a positive adds 0.

    Notes
    -----
    Hard weights give the multi-positive form of supervised contrast (Khosla et al. 2020, eq. 2), soft weights the
    y-aware form (Dufumier et al. 2021), reach 0 with two views per patch exactly NT-Xent (Chen et al. 2020, eq. 1).
    The published system (Schiffer et al., arXiv 2511.01870) names the loss; this form is a reconstruction.
    """
    logits = (z_anchors @ z_others.T).float() / temperature
    compared = pair.compared | (pair.weight > 0)
    # finite, not -inf: an anchor that is compared with nobody would have a gradient of NaN
    log_sum = logits.masked_fill(~compared, -1e30).logsumexp(dim=1, keepdim=True)
    total = pair.weight.sum(dim=1, keepdim=True)
    share = (pair.weight / total.clamp_min(1e-12)).float()
    log_probability = torch.where(share > 0, logits - log_sum, 0.0)
    return -(share * log_probability).sum(dim=1).mean()
