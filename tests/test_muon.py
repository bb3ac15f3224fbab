"""Orthogonal steps for kernels, AdamW's for all else; a state that goes on as if it had never been put away."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from brodmann.errors import Usage
from brodmann.muon import MOMENTUM, PACE, Muon, orthogonal
from brodmann.settings import Fit
from brodmann.train import _optimizer


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(2, 8, 30), (1, 30, 8), (3, 5, 5)])
def test_singular_values_are_taken_to_about_one_and_vectors_are_kept(shape):
    matrices = drawn(*shape) * 1e-3
    found = orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert found.shape == shape
    # the iteration is a quick one; the small values of square matrices lag behind
    assert values.max() < 1.25
    assert values[:, : shape[1] // 2].min() > 0.6
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.cosine_similarity(found.flatten(1), (left @ right).flatten(1)).min() > 0.93


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(drawn(2, 4, 3, 3, 3))
        self.other = nn.Parameter(drawn(6, 3, seed=1))
        self.bias = nn.Parameter(drawn(6, seed=2))

    def kernels(self) -> list[nn.Parameter]:
        return [self.kernel]

    def pull(self, step: int) -> None:
        loss = (self.kernel * drawn(2, 4, 3, 3, 3, seed=step)).sum() + (self.other * drawn(6, 3, seed=50 + step)).sum()
        (loss + self.bias.square().sum()).backward()


PLAN = Fit(optimizer="muon", lr=3e-3, weight_decay=0.1)


def test_kernels_take_orthogonal_steps_and_all_else_those_of_adamw():
    model = Two()
    twin = copy.deepcopy(model)
    turned, plain = _optimizer(model, PLAN), _optimizer(twin, Fit(optimizer="adamw", lr=3e-3, weight_decay=0.1))
    before, past = model.kernel.detach().clone(), torch.zeros(2, 4, 3, 3, 3)
    for step in range(3):
        for one, optimizer in ((model, turned), (twin, plain)):
            one.pull(step)
            optimizer.step()
            optimizer.zero_grad()
        gradient = drawn(2, 4, 3, 3, 3, seed=step)
        past = MOMENTUM * past + gradient
        before = before - PACE * 3e-3 * orthogonal((gradient + MOMENTUM * past).flatten(2)).view_as(before)
    assert torch.equal(model.other, twin.other)
    assert torch.equal(model.bias, twin.bias)
    assert torch.allclose(model.kernel, before, atol=1e-6)
    assert not torch.allclose(model.kernel, twin.kernel, atol=1e-3)


def test_each_map_of_a_stack_is_turned_by_itself_and_its_scale_does_not_matter():
    model = Two()
    start = model.kernel.detach().clone()
    scale = torch.tensor([1.0, 1e-4])[:, None, None, None, None]
    optimizer = _optimizer(model, PLAN)
    (model.kernel * drawn(1, 4, 3, 3, 3, seed=4) * scale).sum().backward()
    optimizer.step()
    moved = model.kernel.detach() - start
    assert torch.allclose(moved[0], moved[1], atol=1e-5)
    assert moved.flatten(2).norm(dim=(1, 2)) == pytest.approx(PACE * 3e-3 * 4**0.5, rel=0.25)


def test_a_state_put_away_goes_on_as_if_it_had_not_been():
    model = Two()
    optimizer = _optimizer(model, PLAN)
    for step in range(2):
        model.pull(step)
        optimizer.step()
        optimizer.zero_grad()
    twin = copy.deepcopy(model)
    other = _optimizer(twin, PLAN)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, own in ((model, optimizer), (twin, other)):
        one.pull(2)
        own.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_kernels_without_a_gradient_stay():
    model = Two()
    optimizer = _optimizer(model, PLAN)
    before = model.kernel.detach().clone()
    model.other.sum().backward()
    optimizer.step()
    assert isinstance(optimizer, Muon)
    assert torch.equal(model.kernel, before)


def test_a_model_that_names_no_kernels_is_refused():
    with pytest.raises(Usage, match="kernels"):
        _optimizer(nn.Linear(3, 3), PLAN)
