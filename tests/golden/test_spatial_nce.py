"""The loss against a loop in float64, and its identities."""

import math

import numpy as np
import pytest
import torch

from brodmann.contrast import spatial_nce
from brodmann.errors import Usage
from brodmann.patches.objective import contrast, pairs
from brodmann.patches.recipe import Partners, SpatialNCE


def make_batch(n=24, seed=0, brains=2, sections=4, span_mm=4.0):
    rng = np.random.default_rng(seed)
    section = rng.integers(0, sections, n)
    return {
        "row": torch.arange(n),
        "index": torch.arange(n),
        "coordinates": torch.from_numpy(rng.uniform(0, span_mm, (n, 3)) * [1, 1, 0]),
        "subject": torch.from_numpy(section % brains),
        "section": torch.from_numpy(section),
    }


def unit(n, d=8, seed=1):
    z = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))
    return torch.nn.functional.normalize(z, dim=1)


def slow_loss(z, batch, partners, objective):
    """The formula of the module's documentation, one pair at a time."""
    xyz, n, losses = batch["coordinates"].numpy(), len(z), []
    for i in range(n):
        weights, logits_compared, weighted = {}, [], []
        for j in range(n):
            if i == j:
                continue
            d = math.dist(xyz[i], xyz[j])
            same_section = bool(batch["section"][i] == batch["section"][j])
            same_brain = bool(batch["subject"][i] == batch["subject"][j])
            same_sample = bool(batch["index"][i] == batch["index"][j])
            scope = {"section": same_section, "within": same_brain, "across": not same_brain, "both": True}
            known = same_section if partners.scope == "section" else True
            allowed = scope[partners.scope] and (partners.same_section or not same_section)
            near = d <= partners.reach_mm and known and partners.reach_mm > 0
            if objective.kernel == "soft" and partners.reach_mm > 0:
                w = math.exp(-(d**2) / (2 * partners.reach_mm**2)) if allowed and known else 0.0
                w = 0.0 if w < 1e-3 else w
            else:
                w = 1.0 if near and allowed else 0.0
            w = 1.0 if same_sample else w
            left_out = w == 0 and ((near and not allowed) or (known and d <= objective.exclusion_mm) or not known)
            s = float(z[i] @ z[j]) / objective.temperature
            if not left_out:
                logits_compared.append(s)
            if w:
                weights[j] = w
                weighted.append((w, s))
        if not weights:
            losses.append(0.0)
            continue
        log_sum = math.log(sum(math.exp(s) for s in logits_compared))
        losses.append(-sum(w * (s - log_sum) for w, s in weighted) / sum(weights.values()))
    return sum(losses) / n


@pytest.mark.parametrize("scope", ["section", "within", "across", "both"])
@pytest.mark.parametrize("same_section", [False, True])
@pytest.mark.parametrize("kernel", ["hard", "soft"])
@pytest.mark.parametrize("exclusion_mm", [0.0, 2.0])
def test_loss_equals_the_slow_formula(scope, same_section, kernel, exclusion_mm):
    if scope == "section" and not same_section:
        pytest.skip("no pair of one section is a pair of two sections")
    batch, z = make_batch(), unit(24)
    partners = Partners(reach_mm=1.2, scope=scope, same_section=same_section)
    objective = SpatialNCE(temperature=0.2, kernel=kernel, exclusion_mm=exclusion_mm)
    got = spatial_nce(z, z, pairs(batch, batch, partners, objective), objective.temperature)
    assert float(got) == pytest.approx(slow_loss(z, batch, partners, objective), abs=2e-5)


def test_reach_zero_with_two_views_is_nt_xent():
    n, T = 12, 0.5
    batch = make_batch(2 * n)
    batch["index"] = torch.arange(n).repeat_interleave(2)
    batch["coordinates"] = batch["coordinates"][::2].repeat_interleave(2, dim=0)
    z = unit(2 * n)
    pair = pairs(batch, batch, Partners(reach_mm=0.0), SpatialNCE(temperature=T))
    logits = (z @ z.T / T).fill_diagonal_(-torch.inf)
    partner = torch.arange(2 * n) ^ 1
    assert float(spatial_nce(z, z, pair, T)) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, partner)), abs=1e-5
    )


def test_near_pairs_that_are_not_allowed_are_no_strangers():
    batch = make_batch(2)
    batch["coordinates"] = torch.zeros(2, 3, dtype=torch.float64)
    batch["section"] = torch.zeros(2, dtype=torch.long)
    pair = pairs(batch, batch, Partners(reach_mm=1.0, same_section=False), SpatialNCE())
    assert not pair.weight.any()
    assert not pair.compared.any()


def test_gradient_pulls_neighbours_together():
    batch = make_batch(16, span_mm=3.0)
    partners, objective = Partners(reach_mm=1.0, same_section=True), SpatialNCE(temperature=0.2)
    z = unit(16).float().requires_grad_()
    before, _ = contrast(z, batch, partners, objective)
    before.backward()
    after, _ = contrast(z - 0.5 * z.grad, batch, partners, objective)
    assert float(after.detach()) < float(before.detach())


def test_a_batch_without_any_positive_is_refused():
    batch = make_batch(6, span_mm=100.0)
    with pytest.raises(Usage, match="positives within"):
        contrast(unit(6).float(), batch, Partners(reach_mm=0.01), SpatialNCE())


def test_an_anchor_compared_with_nobody_has_a_finite_gradient():
    batch = make_batch(3)
    batch["coordinates"] = torch.tensor([[0.0, 0, 0], [0, 0, 0], [50, 0, 0]], dtype=torch.float64)
    batch["section"] = torch.tensor([0, 0, 1])
    z = unit(3).float().requires_grad_()
    pair = pairs(batch, batch, Partners(reach_mm=1.0, scope="section", same_section=True), SpatialNCE())
    spatial_nce(z, z, pair, 0.1).backward()
    assert torch.isfinite(z.grad).all()
