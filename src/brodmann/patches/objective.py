"""SpatialNCE: patches that lie near each other in the brain are positives. SimCLR is its limit at reach 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from brodmann.compute import gather
from brodmann.contrast import Pairs, spatial_nce
from brodmann.errors import Usage
from brodmann.patches.recipe import Partners, SpatialNCE
from brodmann.samples import Batch


def pairs(anchors: Batch, others: Batch, partners: Partners, objective: SpatialNCE) -> Pairs:
    """Weights of positives and the mask of the denominator.

    Parameters
    ----------
    anchors, others : dict of Tensor
        ``row`` (n,) place in the global batch, ``index`` (n,) sample, ``coordinates`` (n, 3) mm in the recipe's
        metric, ``subject`` and ``section`` (n,) codes.

    Notes
    -----
    With distance d in mm, a pair is *near* when d <= reach. It is *allowed* when it is another view of the same
    sample or satisfies ``scope`` and ``same_section``. Near and allowed: positive, with weight 1 (hard) or
    exp(-d^2 / 2 reach^2) (soft, which extends beyond the reach). Near but not allowed, inside the exclusion band,
    or of unknown distance: left out of the denominator, because calling such a neighbour a stranger would be false.
    """
    distance = torch.cdist(anchors["coordinates"].double(), others["coordinates"].double())

    def same(key: str) -> Tensor:
        return anchors[key][:, None] == others[key][None, :]

    itself, sample = same("row"), same("index")
    section, subject = same("section"), same("subject")
    everywhere = torch.ones_like(sample)
    scope = {"section": section, "within": subject, "across": ~subject, "both": everywhere}[partners.scope]
    known = section if partners.scope == "section" else everywhere
    allowed = scope if partners.same_section else scope & ~section
    reach = partners.reach_mm
    near = (distance <= reach) & known & (reach > 0)
    if objective.kernel == "soft" and reach > 0:
        weight = torch.exp(-(distance**2) / (2 * reach**2)) * (allowed & known)
        weight = torch.where(weight < 1e-3, 0.0, weight)
    else:
        weight = (near & allowed).double()
    weight = torch.where(sample, 1.0, weight).masked_fill(itself, 0.0)
    band = known & (distance <= objective.exclusion_mm)
    ignored = ((near & ~allowed) | band) & (weight == 0)
    return Pairs(weight, ~(itself | ignored | ~known) | sample & ~itself)


def contrast(z: Tensor, batch: Batch, partners: Partners, objective: SpatialNCE) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of this process's rows against the gathered batch, and what to log of it.

    Raises
    ------
    Usage
        If no anchor of the global batch has a positive: the sampler and the objective disagree.
    """
    z = F.normalize(z.float(), dim=1)
    keys = ("row", "index", "coordinates", "subject", "section")
    others = {key: gather(batch[key]) for key in keys}
    z_others = gather(z)
    pair = pairs(batch, others, partners, objective)
    loss = spatial_nce(z, z_others, pair, objective.temperature)
    with torch.no_grad():
        positive = pair.weight > 0
        paired = positive.any(dim=1)
        if not bool(gather(paired).any()):
            raise Usage(
                f"a batch of {len(others['row'])} patches should hold positives within {partners.reach_mm} mm.",
                found="none.",
                cause="scope or same_section rules out every pair that the batch was drawn with.",
                do="loosen [partners], or raise fit.batch.",
            )
        similarity = (z @ z_others.T).masked_fill(~pair.compared & ~positive, -torch.inf)
        best = similarity.argmax(dim=1, keepdim=True)
        top1 = positive.gather(1, best).float()[paired].mean() if bool(paired.any()) else torch.tensor(0.0)
        parts = {"positives": positive.sum(dim=1).float().mean(), "top1": top1}
    return loss, parts
