"""Count likelihoods against scipy in float64, and their gradients."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import nbinom

from brodmann.cells import objective


def draw(n=40, genes=12, seed=0, *, largest=30.0):
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.5, largest, (n, genes)) + 1e-4
    theta = np.exp(rng.normal(0, 2, genes))
    counts = rng.poisson(mean * rng.gamma(theta, 1 / theta, (n, genes)))
    counts[0, 0], counts[1, 1] = 0, 40_000
    return counts, mean, theta


def scipy_nb(counts, mean, theta):
    return nbinom.logpmf(counts, theta, theta / (theta + mean))


def scipy_zinb(counts, mean, theta, gate):
    plain, pi = scipy_nb(counts, mean, theta), expit(gate)
    return np.where(counts > 0, np.log1p(-pi) + plain, np.log(pi + (1 - pi) * np.exp(plain)))


def as_torch(*arrays, dtype=torch.float64):
    return [torch.as_tensor(array, dtype=dtype) for array in arrays]


def test_entries_are_those_of_scipy():
    counts, mean, theta = draw()
    gate = np.random.default_rng(1).normal(-1, 2, counts.shape)
    x, m, t, g = as_torch(counts, mean, theta, gate)
    np.testing.assert_allclose(objective.nb(x, m, t), scipy_nb(counts, mean, theta), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(objective.zinb(x, m, t, g), scipy_zinb(counts, mean, theta, gate), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_sum_from_the_table_is_that_of_scipy(dtype, seed):
    counts, mean, theta = draw(seed=seed)
    gate = np.random.default_rng(1).normal(-1, 2, counts.shape)
    m, t, g = as_torch(np.log(mean), np.log(theta), gate, dtype=dtype)
    x = torch.from_numpy(counts.astype(np.uint16)).float()
    # rounding is that of the largest term: the count of 40,000 times logarithms
    largest = float(np.abs(counts * np.maximum(np.abs(np.log(mean)), np.log1p(mean / theta))).max())
    within = largest * (1e-12 if dtype == torch.float64 else 1.2e-7)
    plain, inflated = scipy_nb(counts, mean, theta).sum(), scipy_zinb(counts, mean, theta, gate).sum()
    assert float(objective.total(x, m, t)) == pytest.approx(plain, rel=1e-6, abs=within)
    assert float(objective.total(x, m, t, g)) == pytest.approx(inflated, rel=1e-6, abs=within)


@pytest.mark.parametrize("log_theta", [-12.0, 0.0, 15.0])
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 3000])
def test_single_precision_holds_from_geometric_tails_to_the_poisson_limit(log_theta, count):
    counts, log_mean = np.array([[count]]), np.log(np.array([[7.0]]))
    expected = scipy_nb(counts, np.exp(log_mean), np.exp(log_theta)).item()
    x, m, t = as_torch(counts, log_mean, [log_theta], dtype=torch.float32)
    for found in (objective.total(x, m, t), objective.nb(x, m.exp(), t.exp())):
        # rounding is that of the count times the logarithms
        assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-7 * count * 16 + 1e-6)


def test_gradients_are_those_of_finite_differences():
    counts, mean, theta = draw(n=5, genes=4, largest=4.0)
    counts[1, 1] = 300
    x, m, t = as_torch(counts, np.log(mean), np.log(theta))
    g = torch.linspace(-3, 2, x.numel(), dtype=torch.float64).view_as(x)
    for tensor in (m, t, g):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, t: objective.total(x, m, t), (m, t))
    assert torch.autograd.gradcheck(lambda m, t, g: objective.total(x, m, t, g), (m, t, g))
    assert torch.autograd.gradcheck(lambda m, t, g: objective.zinb(x, m.exp(), t.exp(), g), (m, t, g))


def test_nothing_counted_and_nobody_hidden_are_finite():
    m, t = torch.zeros(3, 4, requires_grad=True), torch.zeros(4, requires_grad=True)
    objective.total(torch.zeros(3, 4), m, t).backward()
    assert torch.isfinite(m.grad).all()
    assert torch.isfinite(t.grad).all()
    assert objective.total(torch.zeros(0, 4), m[:0], t).item() == 0.0
