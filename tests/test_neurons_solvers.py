"""Where neurons look and what they listen to: searches and solvers against planted answers and plain solutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from brodmann.neurons import head, retinotopy, search
from brodmann.neurons.energies import COUNT, energies
from brodmann.neurons.retinotopy import Where


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def gathered(features: Tensor, responses: Tensor, blocks: int = 5, chunk: int = 10_000) -> search.Moments:
    """Moments of features (P, T, C) and responses (T, n) in blocks of time."""
    return search.Moments.gather(
        [(f, y) for f, y in zip(own.split(chunk, 1), answers.split(chunk), strict=True)]
        for own, answers in zip(features.chunk(blocks, 1), responses.chunk(blocks), strict=True)
    )


# ------------------------------------------------------------------------------------------------------------ searching


@pytest.fixture(scope="module")
def planted() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (12, 1500, 4), responses (1500, 10), places (8,), weights (8, 4); the last two neurons are noise."""
    features = drawn(12, 1500, 4) * torch.tensor([0.3, 1.0, 3.0, 10.0]) + 2
    place, weights = torch.tensor([0, 3, 3, 5, 8, 9, 10, 11]), drawn(8, 4, seed=1) / torch.tensor([0.3, 1.0, 3.0, 10.0])
    driven = torch.einsum("ntc,nc->tn", features[place], weights) + 1.5
    return features, torch.cat([driven, torch.zeros(1500, 2)], 1) + drawn(1500, 10, seed=2), place, weights


def test_a_search_finds_the_planted_places_weights_and_share(planted):
    features, responses, place, weights = planted
    found = search.search(gathered(features, responses))
    assert torch.equal(found.place[:8], place)
    scale = torch.tensor([0.3, 1.0, 3.0, 10.0])
    assert ((found.weights[:8] - weights) * scale).abs().max() < 0.12
    driven = torch.einsum("ntc,nc->tn", features[found.place], found.weights) + found.intercept
    assert (driven.mean(0) - responses.mean(0)).abs().max() < 1e-3
    planted_share = 1 - 1 / responses[:, :8].var(0)
    assert (found.explained[:8] - planted_share).abs().max() < 0.04
    assert (responses - driven)[:, :8].var(0).mean() == pytest.approx(1, abs=0.1)


def test_noise_is_not_explained_since_it_is_judged_on_blocks_that_were_left_out(planted):
    features, responses, _, _ = planted
    short = gathered(features[:, :250], responses[:250])
    found = search.search(short, strengths=(1e-3,))
    taught = torch.zeros(12, 2)
    for place, seen in enumerate(features[:, :250]):
        one = F.pad(seen, (0, 1), value=1)
        left = responses[:250, 8:] - one @ torch.linalg.lstsq(one, responses[:250, 8:]).solution
        taught[place] = 1 - left.var(0) / responses[:250, 8:].var(0)
    # the very frames that teach are explained, though they are noise
    assert taught.max(0).values.min() > 0.03
    assert (found.explained[8:] < taught.max(0).values - 0.03).all()
    assert search.search(gathered(features, responses)).explained[8:].max() < 0.01
    assert found.explained[:8].min() > 0.2


def test_what_is_explained_is_what_readouts_fitted_without_a_block_leave_of_it():
    features, responses = drawn(2, 90, 3) + 1, drawn(90, 2, seed=1) + 3
    moments = gathered(features, responses, blocks=3)
    found = search.search(moments, torch.eye(3), strengths=(0.5,))
    left, around_mean = np.zeros((2, 2)), np.zeros(2)
    # the prior is scaled so that the features' mean variance is one
    scale = float(features.var(1, unbiased=False).mean())
    for block in np.array_split(np.arange(90), 3):
        rest = np.setdiff1d(np.arange(90), block)
        y = responses.numpy().astype(np.float64)
        around_mean += ((y[block] - y[rest].mean(0)) ** 2).sum(0)
        for place in range(2):
            x = features[place].numpy().astype(np.float64)
            centred = x[rest] - x[rest].mean(0)
            gram = centred.T @ centred + 0.5 * len(rest) * scale * np.eye(3)
            w = np.linalg.solve(gram, centred.T @ (y[rest] - y[rest].mean(0)))
            left[place] += ((y[block] - y[rest].mean(0) - (x[block] - x[rest].mean(0)) @ w) ** 2).sum(0)
    share = 1 - left / around_mean
    assert np.allclose(found.explained, share.max(0), atol=1e-4)
    assert np.array_equal(found.place, share.argmax(0))


def test_the_readouts_of_others_help_when_frames_are_few():
    rng = np.random.default_rng(4)
    directions = np.linalg.qr(rng.standard_normal((24, 24)))[0][:, :2]
    weights = torch.from_numpy((directions @ rng.standard_normal((2, 40))).astype(np.float32))
    features = drawn(6, 50, 24)
    place = torch.arange(40) % 6
    responses = torch.einsum("ntc,cn->tn", features[place], weights) + 1.5 * drawn(50, 40, seed=5)
    moments = gathered(features, responses)
    root = torch.from_numpy((directions @ directions.T).astype(np.float32)) + 0.03 * torch.eye(24)
    told, alone = search.search(moments, root), search.search(moments)
    right = [float((found.place == place).float().mean()) for found in (told, alone)]
    error = [float((found.weights.T - weights).square().mean()) for found in (told, alone)]
    assert right[0] > right[1] + 0.1
    assert error[0] < 0.4 * error[1]


def test_a_prior_may_be_given_in_any_unit():
    moments = gathered(drawn(3, 100, 4), drawn(100, 5, seed=1))
    root = drawn(4, 4, seed=2)
    one, other = search.search(moments, root), search.search(moments, 1000 * root)
    assert torch.equal(one.place, other.place)
    assert torch.allclose(one.weights, other.weights, atol=1e-5)


def test_moments_of_chunks_are_those_of_all_frames_at_once(planted):
    features, responses, _, _ = planted
    whole, pieces = gathered(features, responses), gathered(features, responses, chunk=77)
    assert whole.frames.tolist() == pieces.frames.tolist() == [300.0] * 5
    for name in ("gram", "cross", "square"):
        assert torch.allclose(getattr(whole, name), getattr(pieces, name), rtol=1e-4, atol=0.02), name
    one = F.pad(features[4, :300], (0, 1), value=1)
    assert torch.allclose(whole.gram[0, 4], one.T @ one, rtol=1e-4)
    assert torch.allclose(whole.cross[0, 4], one.T @ responses[:300], rtol=1e-3, atol=0.02)


def test_a_block_without_frames_is_no_block():
    some = (drawn(2, 30, 3), drawn(30, 1))
    moments = search.Moments.gather([[some], [], [some]])
    assert moments.frames.tolist() == [30.0, 30.0]


@pytest.mark.parametrize("size", [(5, 9), (1, 4), (3, 1), (2, 2)])
def test_around_a_position_lie_the_pixels_of_bilinear_interpolation_with_held_edges(size: tuple[int, int]):
    grid = drawn(1, 3, *size)
    positions = torch.cat([torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (200, 2))).float(),
                           torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])])  # fmt: skip
    places, share = search.around(positions, *size)
    assert places.min() >= 0
    assert places.max() < size[0] * size[1]
    assert torch.allclose(share.sum(1), torch.ones(len(share)))
    found = (grid.flatten(2)[0][:, places] * share).sum(-1)
    there = F.grid_sample(grid, positions[None, :, None], padding_mode="border", align_corners=False)[0, :, :, 0]
    assert torch.allclose(found, there, atol=1e-5)


@pytest.mark.parametrize("finer", [1, 2, 3])
def test_features_at_the_places_of_the_grid_are_those_sampled_there(finer: int):
    features = drawn(7, 3, 4, 6)
    places = search.grid(4, 6, finer)
    found = search.at_places(features, 4, 6, finer)
    assert found.shape == (len(places), 7, 3)
    sampled = F.grid_sample(features, places.expand(7, -1, -1)[:, :, None], align_corners=True)[..., 0]
    assert torch.allclose(found, sampled.permute(2, 0, 1), atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- neighbours

PLACES = search.grid(9, 17, 1) * torch.tensor([1.0, 9 / 17])
FRAMES = 3000.0


def told(true: Tensor, share: Tensor, seed: int = 0) -> Tensor:
    """Share explained (P, n) by a readout at each place: a bump around the true one, and errors of the estimate."""
    bump = torch.exp(-torch.cdist(PLACES, true).square() / (2 * 0.2**2))
    return share * bump + 0.008 * drawn(len(PLACES), len(true), seed=seed)


def off(chosen: Tensor, true: Tensor) -> Tensor:
    return (PLACES[chosen] - true).norm(dim=1)


@pytest.fixture(scope="module")
def plane() -> tuple[Tensor, Tensor]:
    """Places in cortex (80, 2) um of two planes, and where the neurons look: two affine maps, and scatter."""
    xy = torch.from_numpy(np.random.default_rng(0).uniform(0, 600, (80, 2))).float()
    at = (xy - 300) / 300
    turn = torch.tensor([[0.4, 0.15], [-0.2, 0.25]])
    first, second = at[:40] @ turn + torch.tensor([-0.3, 0.0]), at[40:] @ -turn + torch.tensor([0.3, 0.1])
    return xy, torch.cat([first, second]) + 0.04 * drawn(80, 2, seed=1)


TWO = (torch.arange(80) >= 40).long()


def test_neurons_that_are_unsure_are_placed_by_their_neighbours(plane):
    xy, true = plane
    unsure = torch.arange(80) % 2 == 1
    explained = told(true, torch.where(unsure, 0.008, 0.3))
    alone = off(explained.argmax(0), true)[unsure]
    helped = off(retinotopy.believed(explained, FRAMES, PLACES, Where(TWO, xy)), true)
    assert alone.mean() > 0.35
    assert helped[unsure].mean() < 0.15
    assert helped[~unsure].mean() < 0.1
    # the two planes look elsewhere for the same place in cortex: one map for both would be wrong
    mixed = off(retinotopy.believed(explained, FRAMES, PLACES, Where(torch.zeros_like(TWO), xy)), true)
    assert mixed[unsure].mean() > 1.5 * helped[unsure].mean()


def test_a_neuron_that_is_sure_of_another_place_is_let_be(plane):
    xy, true = plane
    true = true.clone()
    true[5], true[50] = PLACES[16], PLACES[-17]
    explained = told(true, torch.full((80,), 0.3))
    chosen = retinotopy.believed(explained, FRAMES, PLACES, Where(TWO, xy))
    assert off(chosen, true)[[5, 50]].max() < 0.13
    assert off(chosen, true).mean() < 0.08


def test_where_neighbours_do_not_agree_every_neuron_stays_where_it_says():
    true = PLACES[torch.from_numpy(np.random.default_rng(3).integers(0, len(PLACES), 80))]
    explained = told(true, torch.full((80,), 0.3))
    xy = drawn(80, 2) * 200
    chosen = retinotopy.believed(explained, FRAMES, PLACES, Where(TWO, xy))
    assert torch.equal(chosen, explained.argmax(0))


def test_planes_of_unknown_places_have_a_centre_in_common_and_no_slope():
    xy = torch.from_numpy(np.random.default_rng(0).uniform(0, 600, (60, 2))).float()
    sloped = (xy - 300) / 300 * torch.tensor([0.7, 0.3])
    near = torch.tensor([0.4, -0.2]) + 0.08 * drawn(60, 2)
    share, plane = torch.where(torch.arange(60) % 3 == 0, 0.006, 0.3), torch.zeros(60, dtype=torch.int64)
    unsure = share < 0.1
    explained = told(near, share)
    chosen = retinotopy.believed(explained, FRAMES, PLACES, Where(plane, None))
    assert off(chosen, near)[unsure].mean() < 0.2 < 0.4 < off(explained.argmax(0), near)[unsure].mean()
    # with a slope that nobody was told, neighbours in cortex cannot help, and those that are sure stay
    steep = told(sloped, share)
    known, unknown = (
        off(retinotopy.believed(steep, FRAMES, PLACES, Where(plane, given)), sloped) for given in (xy, None)
    )
    assert known[unsure].mean() < 0.6 * unknown[unsure].mean()
    assert unknown[~unsure].max() < 0.15


def test_few_neurons_do_not_bear_a_slope():
    xy = drawn(8, 2) * 100
    where = Where(torch.zeros(8, dtype=torch.int64), xy)
    explained = told(xy * torch.tensor([4e-3, 2e-3]), torch.where(torch.arange(8) < 6, 0.3, 0.004))
    assert torch.equal(
        retinotopy.believed(explained, FRAMES, PLACES, where),
        retinotopy.believed(explained, FRAMES, PLACES, where._replace(xy_um=None)),
    )


def test_the_search_takes_the_places_that_neighbours_agree_on():
    places = search.grid(4, 8, 1) * torch.tensor([1.0, 0.5])
    features = drawn(len(places), 240, 3)
    xy = torch.from_numpy(np.random.default_rng(7).uniform(-1, 1, (60, 2))).float()
    place = torch.cdist(xy * torch.tensor([0.8, 0.4]), places).argmin(1)
    share = torch.where(torch.arange(60) % 2 == 0, 1.0, 0.22)
    driven = torch.einsum("ntc,nc->tn", features[place], drawn(60, 3, seed=8)) * share
    moments = gathered(features, driven + drawn(240, 60, seed=9))
    where = Where(torch.zeros(60, dtype=torch.int64), xy * 300)
    alone, helped = search.search(moments), search.search(moments, places=places, where=where)
    weak = share < 1
    errors = [float((places[found.place] - places[place]).norm(dim=1)[weak].mean()) for found in (alone, helped)]
    assert errors[1] < 0.6 * errors[0]
    # what is said of a place is said of the place that was taken, not of the best one
    assert (helped.explained <= alone.explained + 1e-6).all()
    assert (helped.explained < alone.explained - 1e-3).any()


# ------------------------------------------------------------------------------------------------------------- readouts


@pytest.fixture(scope="module")
def spoken() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (9, 1200, 5), Poisson responses (1200, 9), weights (9, 5), biases (9,)."""
    features, weights = drawn(9, 1200, 5) + 0.3, 0.2 * drawn(9, 5, seed=1) + 0.1
    bias = torch.linspace(-1, 0.5, 9)
    rate = (torch.einsum("ntc,nc->nt", features, weights) + bias[:, None]).exp()
    counts = np.random.default_rng(2).poisson(rate.numpy()).astype(np.float32)
    return features, torch.from_numpy(counts).T, weights, bias


PRIOR = head.Prior(torch.tensor([0.2, 0.1, 0.0, -0.1, 0.3]), torch.linalg.cholesky(
    0.1 * torch.eye(5) + 0.05 * torch.ones(5, 5)
))  # fmt: skip
LAST = torch.arange(1200) >= 960


def said(features: torch.Tensor, responses: torch.Tensor, left_out: torch.Tensor, prior: head.Prior) -> head.Evidence:
    """Evidence of neurons that read features (n, T, C), one row each."""
    return head.Evidence(lambda some: features[some], responses, left_out, prior)


def test_readouts_recover_the_weights_of_poisson_neurons(spoken):
    features, responses, weights, bias = spoken
    solved = head.solve(said(features, responses, LAST, PRIOR))
    assert (solved.weights - weights).abs().max() < 0.15
    assert (solved.bias - bias).abs().max() < 0.25
    assert (solved.weights - weights).square().mean().sqrt() < 0.05
    assert solved.strength <= 10


@pytest.mark.parametrize("strength", [0.1, 3.0, 100.0])
def test_readouts_are_what_a_general_optimiser_finds_for_the_same_objective(spoken, strength: float):
    features, responses, _, _ = spoken
    solved = head.solve(said(features, responses, LAST, PRIOR), strengths=(strength,), group=4)
    assert solved.strength == strength
    mean, root = PRIOR.mean.double().numpy(), PRIOR.root.double().numpy()
    precision = strength * np.linalg.inv(root @ root.T)
    for neuron in (0, 4, 8):
        x, y = features[neuron].double().numpy(), responses[:, neuron].double().numpy()

        def objective(point, x=x, y=y):
            log_rate, away = x @ point[:-1] + point[-1], point[:-1] - mean
            slope = np.exp(log_rate) - y
            value = (np.exp(log_rate) - y * log_rate).sum() + 0.5 * away @ precision @ away
            return value, np.append(slope @ x + precision @ away, slope.sum())

        best = minimize(objective, np.zeros(6), jac=True, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-8})
        assert np.abs(solved.weights[neuron].numpy() - best.x[:-1]).max() < 3e-3
        assert abs(float(solved.bias[neuron]) - best.x[-1]) < 3e-3


def test_long_recordings_use_a_part_of_the_curvature_and_reach_the_same_readouts(spoken):
    features, responses, _, _ = spoken
    long = features.repeat(1, 4, 1)
    whole = head.solve(said(long, responses.repeat(4, 1), LAST.repeat(4), PRIOR), strengths=(4.0,), rounds=8)
    short = head.solve(said(features, responses, LAST, PRIOR), strengths=(1.0,))
    assert torch.allclose(whole.weights, short.weights, atol=4e-3)


def test_a_prior_that_is_strong_enough_is_believed_and_the_bias_is_free(spoken):
    features, responses, _, _ = spoken
    solved = head.solve(said(features, responses, LAST, PRIOR), strengths=(1e8,), rounds=8)
    assert (solved.weights - PRIOR.mean).abs().max() < 1e-3
    rate = (torch.einsum("ntc,c->nt", features, PRIOR.mean) + solved.bias[:, None]).exp()
    assert torch.allclose(rate.mean(1), responses.mean(0), rtol=1e-2)


def test_the_strength_of_the_prior_is_that_which_predicts_the_frames_left_out():
    """Readouts drawn from the prior want it near its own strength, whatever the training frames say alone."""
    features, weights = drawn(30, 60, 20), PRIOR_WIDE.mean + drawn(30, 20, seed=1) @ PRIOR_WIDE.root.T
    rate = torch.einsum("ntc,nc->nt", features, weights).clamp(-6, 3).exp()
    responses = torch.from_numpy(np.random.default_rng(2).poisson(rate.numpy()).astype(np.float32)).T
    left_out = torch.arange(60) % 3 == 2
    found = head.solve(said(features, responses, left_out, PRIOR_WIDE)).strength
    assert 0.3 <= found <= 10
    losses = []
    for strength in head.STRENGTHS:
        taught = head.solve(
            said(features[:, ~left_out], responses[~left_out], left_out[:40], PRIOR_WIDE),
            strengths=(strength,), rounds=6,
        )  # fmt: skip
        log_rate = torch.einsum("ntc,nc->tn", features[:, left_out], taught.weights) + taught.bias
        losses.append(float((log_rate.exp() - responses[left_out] * log_rate).mean()))
    assert losses[head.STRENGTHS.index(found)] < min(losses) + 0.02
    # frames that contradict the frames taught want little but the prior
    turned = responses.clone()
    turned[left_out] = turned[left_out].flip(0).flip(1)
    assert head.solve(said(features, turned, left_out, PRIOR_WIDE)).strength >= 30


PRIOR_WIDE = head.Prior(torch.zeros(20), 0.25 * torch.eye(20))


def test_a_prior_has_the_mean_and_covariance_of_the_readouts_it_is_of():
    weights = drawn(4000, 3) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.2]]) + torch.arange(3)
    prior = head.Prior.of(weights, floor=0.0)
    assert torch.allclose(prior.mean, weights.mean(0))
    assert torch.allclose(prior.root @ prior.root.T, torch.cov(weights.T), atol=1e-4)
    # fewer neurons than features leave no direction without a width
    few = head.Prior.of(weights[:2])
    assert torch.linalg.eigvalsh(few.root @ few.root.T).min() > 0.01 * torch.cov(weights[:2].T).trace() / 3


def test_silent_neurons_and_wild_features_give_finite_readouts():
    features = drawn(4, 300, 5) * torch.tensor([1.0, 30.0, 1.0, 1.0, 1.0])
    responses = torch.from_numpy(np.random.default_rng(0).poisson(1.0, (300, 4)).astype(np.float32))
    responses[:, 0], responses[40, 1] = 0, 500.0
    solved = head.solve(said(features, responses, torch.arange(300) >= 240, PRIOR))
    assert solved.weights.isfinite().all()
    assert solved.bias.isfinite().all()
    assert solved.bias[0] < -4


# ------------------------------------------------------------------------------------------------------- simple filters


def test_light_that_goes_on_is_seen_there_and_later_in_each_span_of_the_past():
    video = torch.zeros(45, 32, 64, dtype=torch.uint8)
    video[20:, 8:12, 24:28] = 255  # one cell of the filters' grid
    light = energies(video, 30.0)
    assert light.shape == (45, COUNT, 8, 16)
    for column, first, last in ((0, 1, 3), (8, 4, 6), (16, 7, 10)):
        cell = light[:, column, 2, 6] - light[:, column, 2, 7]
        for frame in range(45):
            lit = sum(frame - lag >= 20 for lag in range(first, last + 1)) / (last - first + 1)
            assert float(cell[frame]) == pytest.approx(lit, abs=1e-5)
        assert (light[30:, column, 2, 6] - light[30:, column, 2, 7] > 0.9).all()
        # the light itself is seen nowhere else
        elsewhere = light[40, column].clone()
        elsewhere[2, 6] = elsewhere[0, 0]
        assert torch.allclose(elsewhere, elsewhere[0, 0].expand(8, 16), atol=1e-5)


def grating(right: float, down: float, drift: float) -> Tensor:
    """A video (40, 32, 64) of a grating, cycles per pixel, that drifts by cycles per frame along them."""
    t, y, x = np.mgrid[:40, :32, :64]
    return torch.from_numpy((127 + 100 * np.sin(2 * np.pi * (right * x + down * y - drift * t))).astype(np.uint8))


@pytest.mark.parametrize(("right", "down", "column"), [(0.1, 0.0, 1), (0.0, 0.1, 2)])
def test_motion_is_told_from_motion_the_other_way_in_its_own_column(right: float, down: float, column: int):
    """Light that moves along an axis changes against its slope: the mean product is negative."""
    forth, back, still = (
        energies(grating(right, down, drift), 30.0)[20:, :8, 1:-1, 1:-1].mean((0, 2, 3)) for drift in (0.05, -0.05, 0.0)
    )
    other = 3 - column
    assert forth[column] < -0.02
    assert back[column] == pytest.approx(-float(forth[column]), rel=0.1)
    assert abs(float(still[column])) < 1e-3
    assert abs(float(forth[other])) < 0.05 * abs(float(forth[column]))


@pytest.mark.parametrize(
    ("right", "down", "most", "least"), [(0.1, 0, 3, 4), (0, 0.1, 4, 3), (0.07, 0.07, 5, 6), (0.07, -0.07, 6, 5)]
)
def test_contrast_is_told_along_the_direction_in_which_light_varies(right: float, down: float, most: int, least: int):
    seen = energies(grating(right, down, 0.0), 30.0)[20:, :8, 1:-1, 1:-1].mean((0, 2, 3))
    assert seen[most] > 10 * seen[least]
    assert seen[7] < 0.01  # nothing changes


def test_change_is_seen_only_where_something_changes():
    video = torch.full((40, 32, 64), 127, dtype=torch.uint8)
    video[::2, :16] = 160
    seen = energies(video, 30.0)[20:, 7].mean(0)
    assert seen[:3].min() == pytest.approx(33 / 255, rel=1e-3)
    assert seen[5:].max() < 1e-3


@pytest.mark.parametrize("rate_hz", [30.0, 10.0, 60.0])
def test_nothing_is_seen_of_what_comes_later(rate_hz: float):
    """Brightness is that above the mean of the clip: of it, differences between places are asked."""
    rng = np.random.default_rng(0)
    video = torch.from_numpy(rng.integers(0, 256, (60, 16, 32)).astype(np.uint8))
    other = video.clone()
    other[30:] = torch.from_numpy(rng.integers(0, 60, (30, 16, 32)).astype(np.uint8))
    one, two = energies(video, rate_hz), energies(other, rate_hz)
    light = list(range(0, COUNT, 8))
    rest = [column for column in range(COUNT) if column not in light]
    # the sums run over time in float32
    assert torch.allclose(one[:30, rest], two[:30, rest], atol=1e-5)
    there, then = (seen[:30, light] - seen[:30, light][..., :1, :1] for seen in (one, two))
    assert torch.allclose(there, then, atol=1e-5)
    assert not torch.allclose(one[31 + math.ceil(rate_hz / 30) :, rest], two[31 + math.ceil(rate_hz / 30) :, rest])


def test_brightness_of_a_place_does_not_depend_on_later_frames():
    dark = torch.zeros(40, 16, 32, dtype=torch.uint8)
    bright = dark.clone()
    bright[30:] = 255
    torch.testing.assert_close(energies(dark, 30.0)[:30], energies(bright, 30.0)[:30])


def test_with_nothing_left_out_the_prior_is_neither_strongest_nor_weakest():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 200, 3, generator=draw)
    y = torch.poisson((x @ torch.ones(3) * 0.5).exp(), generator=draw).T
    prior = head.Prior(torch.zeros(3), torch.eye(3))
    solved = head.solve(said(x, y, torch.zeros(200, dtype=torch.bool), prior))
    assert min(head.STRENGTHS) < solved.strength < max(head.STRENGTHS)
