"""New neurons recognised among known ones: planted places and barcodes, and what they should not be sure of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from brodmann.neurons import head, kin, search
from brodmann.neurons.retinotopy import Where

PLACES = search.grid(3, 4, 1)
BANK = 0.5 * torch.from_numpy(np.random.default_rng(9).standard_normal((40, 6)).astype(np.float32))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def at(maps: Tensor) -> Tensor:
    return search.at_places(maps.unflatten(2, (3, 4)), 3, 4, 1)


def recognised(features: Tensor, responses: Tensor, where: Where | None = None, bank: Tensor = BANK) -> kin.Kin:
    return kin.recognised(features, responses, bank, at=at, places=PLACES, where=where, rate_hz=30)


def counts(features: Tensor, place: Tensor, barcode: Tensor, level: float, seed: int = 2) -> Tensor:
    """Poisson counts (T, n) of neurons that read known barcodes at places."""
    log_rate = torch.einsum("ntc,nc->tn", features[place], barcode) + level
    return torch.from_numpy(np.random.default_rng(seed).poisson(log_rate.exp().numpy()).astype(np.float32))


@pytest.fixture(scope="module")
def shown() -> tuple[Tensor, Tensor, Tensor]:
    """Features (12, 400, 6) of a minute or so, places (60,) and numbers of barcodes (60,) of new neurons."""
    return drawn(12, 400, 6), torch.arange(60) % 12, (7 * torch.arange(60)) % 40


def test_place_and_barcode_are_recognised_where_a_search_is_lost(shown):
    features, place, who = shown
    features = features[:, :60]
    responses = counts(features, place, BANK[who], -2.0)
    found = recognised(features, responses)
    blocks = [[(f, y)] for f, y in zip(features.chunk(5, 1), responses.chunk(5), strict=True)]
    searched = search.search(search.Moments.gather(blocks), head.Prior.of(BANK).root)
    wrong = [float((some != place).float().mean()) for some in (found.place, searched.place)]
    assert wrong[0] < 0.3
    assert wrong[0] < 0.8 * wrong[1]
    like = torch.cosine_similarity(found.barcode, BANK[who])
    assert like.mean() > 0.75
    # no other neuron's barcode would do as well
    assert like.mean() > torch.cosine_similarity(found.barcode, BANK[who.roll(1)]).mean() + 0.5


def test_belief_is_that_of_the_formula(shown):
    features, place, who = shown
    responses = counts(features, place, BANK[who], -2.0)
    found = recognised(features, responses)
    for neuron in (0, 17, 59):
        y = responses[:, neuron].double().numpy()
        off = y - y.mean()
        lags = range(1, 60)
        alike = 1 + 2 * sum((1 - lag / 60) * (off[lag:] * off[:-lag]).mean() for lag in lags) / off.var()
        log_rate = np.einsum("ptc,kc->pkt", features.double().numpy(), BANK.double().numpy())
        # the best bias makes the rates' sum the responses' sum
        log_rate += np.log(y.sum() / np.exp(log_rate).sum(2, keepdims=True))
        likely = (y * log_rate - np.exp(log_rate)).sum(2) / (y.var(ddof=1) / y.mean() * max(alike, 1))
        belief = np.exp(likely - likely.max())
        belief /= belief.sum()
        assert int(found.place[neuron]) == belief.sum(1).argmax()
        assert np.allclose(found.barcode[neuron], belief.sum(0) @ BANK.double().numpy(), atol=2e-3)


def test_what_does_not_answer_is_like_all_that_are_known(shown):
    features, _, _ = shown
    noise = torch.from_numpy(np.random.default_rng(3).poisson(0.2, (400, 30)).astype(np.float32))
    found = recognised(features, noise)
    spread = (BANK - BANK.mean(0)).norm(dim=1).mean()
    assert (found.barcode - BANK.mean(0)).norm(dim=1).mean() < 0.45 * spread
    silent = recognised(features, torch.zeros(400, 2))
    assert torch.allclose(silent.barcode, BANK.mean(0).expand(2, -1), atol=1e-4)


def test_slow_and_scattered_responses_do_not_make_it_surer(shown):
    features, place, who = shown
    responses = counts(features, place, BANK[who], -2.0)
    once = recognised(features, responses)
    # every frame five times over tells nothing more
    held = recognised(features.repeat_interleave(5, 1), responses.repeat_interleave(5, 0))
    assert (held.barcode - once.barcode).norm(dim=1).mean() < 0.2 * once.barcode.norm(dim=1).mean()
    # nor does another unit
    other = recognised(features, 7 * responses)
    assert torch.allclose(other.barcode, once.barcode, atol=1e-3)
    # the same frames taken for independent ones would be believed too much
    alone = (PLACES[place] - PLACES[held.place]).norm(dim=1).mean()
    assert alone < 1.3 * (PLACES[place] - PLACES[once.place]).norm(dim=1).mean() + 0.05


def test_neighbours_help_each_other_plane_by_plane(shown):
    features, _, who = shown
    xy = torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, (60, 2))).float()
    turn = torch.where(torch.arange(60)[:, None] < 30, 0.9, -0.9)
    place = torch.cdist(xy * turn, PLACES).argmin(1)
    responses = counts(features[:, :150], place, BANK[who], -2.2)
    plane = (torch.arange(60) >= 30).long()
    off = [
        float((PLACES[recognised(features[:, :150], responses, where).place] - PLACES[place]).norm(dim=1).mean())
        for where in (None, Where(plane, 300 * xy), Where(torch.zeros_like(plane), 300 * xy))
    ]
    assert off[1] < 0.75 * off[0]
    assert off[1] < off[2] - 0.05


def test_many_neurons_frames_and_barcodes_are_taken_in_parts(shown, monkeypatch):
    features, place, who = shown
    responses = counts(features, place, BANK[who], -1.0)
    whole = recognised(features, responses)
    monkeypatch.setattr(kin, "_VALUES", 2000)
    parts = recognised(features, responses)
    assert torch.equal(whole.place, parts.place)
    assert torch.allclose(whole.barcode, parts.barcode, atol=1e-4)
    monkeypatch.setattr(kin, "FRAMES", 200)
    monkeypatch.setattr(kin, "BANK", 20)
    assert float((recognised(features, responses).place == place).float().mean()) > 0.5


def test_readouts_start_from_their_kin_where_the_prior_is_strong(shown):
    features, place, who = shown
    responses = counts(features, place, BANK[who], -1.0)
    prior, left_out = head.Prior.of(BANK), torch.arange(400) >= 320

    def evidence(centre: torch.Tensor | None) -> head.Evidence:
        return head.Evidence(lambda some: features[place[some]], responses, left_out, prior, centre)

    own = head.solve(evidence(BANK[who]), strengths=(1e8,), rounds=8)
    assert (own.weights - BANK[who]).abs().max() < 1e-3
    errors = [
        float((head.solve(evidence(centre)).weights - BANK[who]).square().mean())
        for centre in (BANK[who] + 0.05 * drawn(60, 6), None)
    ]
    assert errors[0] < 0.5 * errors[1]
