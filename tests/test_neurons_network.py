"""The network of the neurons system: what comes later, other animals and the way of computing change no number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from brodmann.errors import Usage
from brodmann.neurons import encoder as encoding
from brodmann.neurons.encoder import Encoder
from brodmann.neurons.readout import Readout
from brodmann.neurons.recipe import Network

SMALL = Network(
    streams=2, retina_px=(16, 28), channels=(4, 8), pools=(2, 1), layers=2, hidden=8, common=16, recurrent_groups=4,
    outputs=8, modulation=4,
)  # fmt: skip
FORMS = [
    {"recurrent": "none"},
    {"recurrent": "conv-lstm"},
    {"recurrent": "conv-lstm", "recurrent_groups": 1},
    {"recurrent": "cvt-lstm"},
    {"recurrent": "none", "perspective": False},
    {"recurrent": "cvt-lstm", "perspective": False, "modulation": 0},
    {"recurrent": "none", "modulation": 0, "layers": 3},
    {"recurrent": "conv-lstm", "modulation": 0, "input_kernel": 3, "input_stride": 1},
]
FRAMES = 13  # more than one block, the last of them short
CLIPS = [2, 0]  # animals


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form.values())))
def network(request: pytest.FixtureRequest) -> Encoder:
    return made(**request.param)


def made(*, dtype: torch.dtype = torch.float64, **changes: Any) -> Encoder:
    """A small network far from where training starts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Encoder(replace(SMALL, **changes), 3, 20, height_px=18, width_px=32, rate_hz=30.0).to(dtype).eval()
        with torch.no_grad():
            for value in network.parameters():
                value.add_(torch.randn_like(value) * 0.2)
    return network


def clips(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(0, 256, (len(CLIPS), FRAMES, 18, 32), generator=generator, dtype=torch.uint8)
    pupil, behaviour = torch.randn(2, len(CLIPS), FRAMES, 2, generator=generator, dtype=torch.float64).to(dtype)
    return video, pupil, behaviour, torch.tensor(CLIPS)


def streamed(network: Encoder, *, stream: int | None = None) -> Tensor:
    video, pupil, behaviour, animal = clips(network.readout.mu.dtype)
    prepared, state = network.prepare(animal, stream=stream, rows=slice(3, 15)), network.start()
    found = []
    for at in range(FRAMES):
        given = video[:, at], pupil[:, at], behaviour[:, at]
        rates, state = network.step(*given, state, animal=animal, prepared=prepared)
        found.append(rates)
    return torch.stack(found, dim=1)


@torch.no_grad()
def test_a_clip_at_once_and_frame_by_frame_give_the_same_log_rates(network: Encoder) -> None:
    whole = network(*clips(), rows=slice(3, 15))
    assert whole.shape == (2, FRAMES, 12)
    assert whole.std() > 0.01
    assert (streamed(network) - whole).abs().max() < 1e-10


@torch.no_grad()
def test_float32_agrees_with_float64_batched_and_streamed(network: Encoder) -> None:
    wanted = network(*clips(), rows=slice(3, 15))
    single = network.float()
    for found in (single(*clips(torch.float32), rows=slice(3, 15)), streamed(single)):
        assert found.dtype == torch.float32
        assert (found - wanted).abs().max() < 1e-4


@torch.no_grad()
def test_what_comes_later_changes_nothing_before(network: Encoder) -> None:
    video, pupil, behaviour, animal = clips()
    before = network(video, pupil, behaviour, animal)
    video, pupil, behaviour = video.clone(), pupil.clone(), behaviour.clone()
    video[:, 7:], pupil[:, 7:], behaviour[:, 7:] = 255 - video[:, 7:], -pupil[:, 7:], behaviour[:, 7:] + 1
    after = network(video, pupil, behaviour, animal)
    assert (after[:, :7] - before[:, :7]).abs().max() < 1e-12
    assert (after[:, 7] - before[:, 7]).abs().max() > 1e-4


@torch.no_grad()
def test_bfloat16_is_close_and_rates_stay_float32(network: Encoder) -> None:
    network.float()
    given = clips(torch.float32)
    wanted, core = network(*given), network.features(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, rough = network(*given), network.features(*given)
        assert (streamed(network) - network(*given, rows=slice(3, 15))).abs().max() < 0.05 * wanted.std()
    assert (found.dtype, rough.dtype) == (torch.float32, torch.bfloat16)
    assert 0 < (rough - core).abs().max() < 0.1 * core.std()
    assert (found - wanted).abs().max() < 0.1 * wanted.std()


def test_the_gradient_reaches_every_parameter(network: Encoder) -> None:
    video, pupil, behaviour, _ = clips()
    every = torch.arange(3)
    video, pupil, behaviour = (torch.cat([one, one[:1]]) for one in (video, pupil, behaviour))
    network.train()
    network(video, pupil, behaviour, every).square().mean().backward()
    for name, value in network.named_parameters():
        assert value.grad is not None, name
        assert bool((value.grad.flatten(1).abs().sum(1) > 0 if value.ndim > 1 else value.grad.abs() > 0).all()), name


def test_the_first_gradient_reaches_the_core() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Encoder(SMALL, 3, 20, height_px=18, width_px=32, rate_hz=30.0)
    network(*clips(torch.float32)).exp().mean().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in network.core.parameters())


def test_computing_again_instead_of_keeping_gives_the_same_gradients(
    network: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (1 << 40, 0):
        monkeypatch.setattr(encoding, "KEEP_BYTES", size)
        network.train().zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network(*clips()).square().mean().backward()
        found.append([value.grad.clone() for value in network.parameters() if value.grad is not None])
    assert len(found[0]) == len(list(network.parameters()))
    for kept, again in zip(*found, strict=True):
        assert (kept - again).abs().max() <= 1e-12 * max(1, float(kept.abs().max()))


def test_the_memory_that_a_step_keeps_decides_how_many_blocks_are_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = made(recurrent="cvt-lstm")
    calls = []
    monkeypatch.setattr(encoding, "checkpoint", lambda work, *given, **_: calls.append(1) or work(*given))
    prepared = network.prepare(torch.tensor(CLIPS))
    block = (network.core.kept(8) + network.recurrent.kept(8)) * 2 * 2 * encoding.BLOCK_FRAMES
    assert prepared.dtype == torch.float64
    for budget, wanted in ((0, 2), (block, 1), (2 * block, 0)):
        monkeypatch.setattr(encoding, "KEEP_BYTES", budget)
        calls.clear()
        network.features(*clips())
        assert len(calls) == wanted


def test_animals_do_not_influence_each_other(network: Encoder) -> None:
    video, pupil, behaviour, animal = clips()
    together = network(video, pupil, behaviour, animal)
    alone = network(video[1:], pupil[1:], behaviour[1:], animal[1:])
    assert (together[1:] - alone).abs().max() < 1e-12
    alone.sum().backward()
    own = [
        (name, value)
        for name, value in network.named_parameters()
        if name.startswith(("perspective", "modulation.read"))
    ]
    assert bool(own) == bool(network.settings.perspective or network.settings.modulation)
    for name, value in own:
        assert value.grad is not None, name
        assert value.grad[0].abs().sum() > 0, name
        assert value.grad[1:].abs().sum() == 0, name


@torch.no_grad()
def test_all_streams_are_the_streams_side_by_side_and_their_log_rates_the_mean(network: Encoder) -> None:
    whole = network.features(*clips())
    single = [network.features(*clips(), stream=stream) for stream in range(2)]
    assert (torch.cat(single, dim=2) - whole).abs().max() < 1e-12
    rates = [network.log_rates(one, stream=stream) for stream, one in enumerate(single)]
    assert (torch.stack(rates).mean(0) - network.log_rates(whole)).abs().max() < 1e-12
    assert (streamed(network, stream=1) - rates[1][:, :, 3:15]).abs().max() < 1e-10
    chosen = torch.tensor([7, 2, 11])
    assert (network.log_rates(whole, chosen) - network.log_rates(whole)[:, :, chosen]).abs().max() < 1e-12


@torch.no_grad()
def test_missing_behaviour_reads_as_its_mean_and_grey_values_may_be_numbers_of_any_kind(network: Encoder) -> None:
    video, pupil, behaviour, animal = clips()
    pupil[0, 3:5], behaviour[1, 4:6, 0] = 0, 0
    wanted = network(video, pupil, behaviour, animal)
    pupil[0, 3:5], behaviour[1, 4:6, 0] = torch.nan, torch.nan
    assert torch.equal(network(video, pupil, behaviour, animal), wanted)
    assert (network(video.double(), pupil, behaviour, animal) - wanted).abs().max() < 1e-10


@torch.no_grad()
def test_a_state_dict_carries_the_whole_network(network: Encoder) -> None:
    other = Encoder(network.settings, 3, 20, height_px=18, width_px=32, rate_hz=30.0).double().eval()
    assert not torch.equal(other(*clips()), network(*clips()))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(*clips()), network(*clips()))


@pytest.mark.parametrize("size", [(5, 7), (1, 6), (4, 1), (1, 1)])
def test_neurons_read_the_grid_as_bilinear_interpolation_with_held_edges_does(size: tuple[int, int]) -> None:
    drawing = torch.Generator().manual_seed(0)
    readout = Readout(200, 2, 6).double().eval()
    features = torch.randn(2, 3, 12, *size, generator=drawing, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        readout.mu.normal_(0, 1.5, generator=drawing)
        readout.mu[:8] = torch.tensor([[x, y] for x in (-9.0, 0.0, 9.0, 0.3) for y in (9.0, -9.0)])
    found = readout(features, slice(None), stream=None)
    at = readout.mu.tanh()[None, None].expand(6, -1, -1, -1)
    seen = F.grid_sample(features.flatten(0, 1), at, padding_mode="border", align_corners=False)[:, :, 0]
    seen = seen.unflatten(0, (2, 3)).unflatten(2, (2, 6))
    wanted = torch.einsum("btscn,nsc->btn", seen, readout.weight) / 2 + readout.bias.mean(1)
    assert (found - wanted).abs().max() < 1e-12
    inputs = features, readout.mu, readout.weight, readout.bias
    ours, theirs = (torch.autograd.grad(one.square().sum(), inputs) for one in (found, wanted))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() < 1e-9


def test_positions_are_drawn_once_per_clip_while_training_and_stay_on_the_grid() -> None:
    readout = Readout(5000, 1, 4).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.no_grad():
            readout.sigma.copy_(torch.tensor([[0.4, 0.0], [0.3, 0.2]]))
        places = readout.positions(slice(None), 2)
        assert places.shape == (2, 5000, 2)
        assert not torch.equal(places[0], places[1])
        assert places.abs().max() <= 1
        spread = torch.cov(places[0].atanh().T)
        assert (spread - readout.sigma[0] @ readout.sigma[0].T).abs().max() < 0.02
        constant = torch.ones(2, 6, 4, 3, 3) * torch.arange(3.0)
        rates = readout(constant, slice(None), stream=0).detach()
    assert rates[0].std() > 0
    assert (rates - rates[:, :1]).abs().max() < 1e-6  # the same place in every frame
    readout.jitter = False
    assert torch.equal(readout.positions(slice(None), 2)[0], readout.mu.tanh())


def test_behaviour_and_eye_say_nothing_before_training_and_monitors_move_in_training_only() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Encoder(SMALL, 3, 20, height_px=18, width_px=32, rate_hz=30.0)
        video, pupil, behaviour, animal = clips(torch.float32)
        shown = network.eval().features(video, pupil, behaviour, animal)
        assert torch.equal(network.features(video, -pupil, 2 * behaviour, animal), shown)
        same = video[:1].expand(2, -1, -1, -1), pupil[:1].expand(2, -1, -1), behaviour[:1].expand(2, -1, -1), animal
        first, second = network.features(*same)
        assert (first - second).abs().max() < 1e-6  # animals start alike
        first, second = network.train().features(*same)
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": (4, 8, 16)}, "a number for each block"),
        ({"input_kernel": 5}, "input_kernel"),
        ({"channels": (4, 7), "groups": 2}, "multiples of their groups"),
        ({"pools": (2, 16)}, "leave something"),
        ({"recurrent": "conv-lstm", "hidden": 9}, r"encoder\.hidden"),
        ({"recurrent": "cvt-lstm", "common": 18}, r"encoder\.common"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Usage, match=said):
        made(**changes)
