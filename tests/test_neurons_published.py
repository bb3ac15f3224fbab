"""Weights of the public foundation model in ours: against its code where there is a checkout, else its formulas."""

from __future__ import annotations

import math
import os
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import brodmann
from brodmann import verbs
from brodmann.errors import Corrupt, Refused
from brodmann.neurons import published
from brodmann.neurons.recipe import Network

SMALL = replace(
    published.NETWORK, streams=2, retina_px=(24, 40), channels=(4, 8), pools=(2, 1), layers=3, hidden=8, common=16,
    recurrent_groups=4, outputs=8, modulation=4,
)  # fmt: skip
NEURONS, FRAMES = 11, 4
GAIN = 1.7015043497085571


def layout(network: Network, neurons: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public state dict, written down from its documentation of shapes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *shape: int, rows: int = 1, gain: bool = True, bias: bool = True, copies: int | None = None):
        for stream in range(network.streams if copies is None else copies):
            shapes[f"{name}.weights.{stream}"] = shape
            if gain:
                shapes[f"{name}.gains.{stream}"] = (rows, shape[0] // rows)
            if bias:
                shapes[f"{name}.biases.{stream}"] = (rows, shape[0] // rows)

    incoming, kernel = 1, network.input_kernel
    for block, channels in enumerate(network.channels):
        groups = channels // network.channels[0]
        at = f"core.feedforward.inputs.{block}"
        conv(at, channels, incoming, 1, kernel, kernel, rows=groups, gain=block > 0)
        for layer in range(network.layers):
            at = f"core.feedforward.blocks.{block}"
            conv(f"{at}.convs.{layer}", channels, channels // groups, 3, 3, 3, rows=groups)
            if layer:
                conv(f"{at}.skips.{layer}", channels, layer * channels // groups, 1, 1, 1, rows=groups, bias=False)
        incoming, kernel = (network.layers + 1) * channels, 1
    conv("core.feedforward.out", network.outputs, incoming, 1, 1, 1)
    at, groups = "core.recurrent", network.recurrent_groups
    width, common = network.hidden // groups, network.common // groups
    conv(f"{at}.conv", network.common, 2 * width, 1, 3, 3, gain=False, bias=False)
    for part in "qkv":
        conv(f"{at}.proj_{part}", network.common, common, 1, 1, 1, gain=False, bias=False)
    for gate in "ifgo":
        conv(f"{at}.proj_{gate}", network.hidden, 2 * common, 1, 1, 1, rows=groups)
    conv(f"{at}.proj_x.1", network.hidden, network.outputs, 1, 1, 1, rows=groups)
    conv(f"{at}.proj_x.2", network.hidden, network.modulation, 1, 1, 1, rows=groups, bias=False)
    conv(f"{at}.out", network.outputs, network.hidden, 1, 1, 1)
    shapes[f"{at}.proj_x.0.mask"] = (groups, groups, 1, 1)
    shapes[f"{at}.proj_x.0.zero"] = (groups, groups, width, width)
    for stream in range(network.streams):
        shapes[f"{at}.scales.{stream}"] = (groups, common)
        shapes[f"{at}.proj_x.0.weights.{stream}"] = (groups, groups - 1, width, width)
        shapes[f"{at}.proj_x.0.gains.{stream}"] = (groups, width)
        shapes[f"readout.feature.weights.{stream}"] = (neurons, 1, network.outputs)
        shapes[f"readout.biases.{stream}"] = (neurons, 1)
    for number, (outputs, inputs) in enumerate([(16, 2), (16, 16), (16, 16), (3, 16)]):
        conv(f"perspective.mlp.linears.{number}", outputs, inputs, 1, 1, 1, gain=number > 0, copies=1)
    for name in ("center", "angle", "center_std", "angle_std"):
        shapes[f"perspective.monitor.{name}"] = (3,)
    for name in ("power", "scale", "offset"):
        shapes[f"perspective.monitor_pixel.{name}"] = ()
    for name in ("logit", "scale", "offset"):
        shapes[f"perspective.retina_pixel.{name}"] = (1,)
    shapes["perspective.retina.grid"] = (*network.retina_px, 3)
    conv("modulation.mlp.linears.0", network.modulation, 2, 1, 1, 1, gain=False)
    for gate in "ifgo":
        conv(f"modulation.lstm.proj_{gate}", network.modulation, 2 * network.modulation, 1, 1, 1)
    shapes["readout.position.mu"] = (neurons, 2)
    shapes["readout.position.sigma"] = (neurons, 2, 2)
    return shapes


def drawn(network: Network, neurons: int = NEURONS) -> dict[str, Tensor]:
    """Random tensors of that layout, far from where training starts, in float64."""
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) * (0.3 if name.endswith("weights") else 0.5)
        for name, shape in layout(network, neurons).items()
    }
    for name, value in state.items():
        if ".gains." in name or ".scales." in name:
            state[name] = 1 + 0.3 * value
    groups = network.recurrent_groups
    state["core.recurrent.proj_x.0.mask"] = ~torch.eye(groups, dtype=torch.bool)[:, :, None, None]
    state["core.recurrent.proj_x.0.zero"] *= 0
    state["perspective.monitor.center"] = torch.tensor([0.1, -0.05, 0.6], dtype=torch.float64)
    state["perspective.monitor.angle"] = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
    for name, value in (("power", 1.7), ("scale", 1.0), ("offset", 0.0)):
        state[f"perspective.monitor_pixel.{name}"] = torch.tensor(value, dtype=torch.float64)
    state["perspective.retina.grid"] = rays(network)
    state["perspective.retina_pixel.scale"] = torch.tensor([2.5], dtype=torch.float64)
    state["perspective.mlp.linears.3.gains.0"] *= 0.2
    return state


def rays(network: Network) -> Tensor:
    """Directions of an azimuthal equidistant retina, ray by ray."""
    height, width = network.retina_px
    grid = torch.zeros(height, width, 3, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            x = (2 * column / (width - 1) - 1) * (width - 1) / width
            y = (2 * row / (height - 1) - 1) * height / width * (width - 1) / width
            angle = min(math.hypot(x, y) * math.radians(network.view_deg), math.pi / 2)
            around = math.atan2(y, x)
            grid[row, column] = torch.tensor(
                [math.sin(angle) * math.cos(around), math.sin(angle) * math.sin(around), math.cos(angle)]
            )
    return grid


class Plain:
    """The public network's formulas on its own tensors, frame by frame, written for reading, not for speed."""

    def __init__(self, state: dict[str, Tensor], network: Network) -> None:
        self.state, self.network = state, network
        self.memory: dict[tuple[str, int], Tensor] = {}

    def weight(self, name: str, stream: int, *, standardise: bool = True) -> Tensor:
        weight = self.state[f"{name}.weights.{stream}"]
        if not standardise:
            return weight
        flat = weight.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (
            flat.var(1, correction=0, keepdim=True) * flat.shape[1] + 1e-5
        ).sqrt()
        if f"{name}.gains.{stream}" in self.state:
            flat = flat * self.state[f"{name}.gains.{stream}"].flatten()[:, None]
        return flat.view_as(weight)

    def conv(
        self, name: str, x: Tensor, stream: int, *, groups: int = 1, standardise: bool = True, **how: int
    ) -> Tensor:
        """Convolution of one frame (C, h, w), of the frame and those before it if the kernel is longer than one."""
        weight = self.weight(name, stream, standardise=standardise)
        bias = self.state.get(f"{name}.biases.{stream}")
        before = self.memory.get((name, stream), torch.zeros(weight.shape[2] - 1, *x.shape, dtype=x.dtype))
        frames = torch.cat([before, x[None]])
        self.memory[name, stream] = frames[1:]
        made = sum(F.conv2d(frame[None], weight[:, :, at], groups=groups, **how)[0] for at, frame in enumerate(frames))
        return made if bias is None else made + bias.flatten()[:, None, None]

    def retina(self, frame: Tensor, pupil: Tensor) -> Tensor:
        """What falls on the retina (h, w): rays are traced one by one."""
        turned = pupil
        for number in range(4):
            at = f"perspective.mlp.linears.{number}"
            turned = self.weight(at, 0, standardise=number > 0).flatten(1) @ turned + self.state[f"{at}.biases.0"][0]
            turned = F.gelu(turned) * GAIN if number < 3 else turned
        eye, screen = turn(turned), turn(self.state["perspective.monitor.angle"])
        centre = self.state["perspective.monitor.center"]
        light = frame.double().div(255).pow(1.7)
        (high, wide), (height, width) = frame.shape, self.network.retina_px
        seen = torch.zeros(height, width, dtype=torch.float64)
        for row in range(height):
            for column in range(width):
                ray = eye @ self.state["perspective.retina.grid"][row, column]
                reach = (screen[:, 2] @ centre) / (screen[:, 2] @ ray).clamp_min(1e-5)
                x, y = screen[:, :2].T @ (ray * reach - centre)
                # the sampler's scale is of the retina, not of the image
                x = x * wide / (wide - 1) * (width - 1) / width
                y = y * wide / high * wide / (wide - 1) * (height - 1) / height
                x, y = ((x + 1) * wide - 1) / 2, ((y + 1) * high - 1) / 2
                for i in (int(y.floor()), int(y.floor()) + 1):
                    for j in (int(x.floor()), int(x.floor()) + 1):
                        if 0 <= i < high and 0 <= j < wide:
                            seen[row, column] += light[i, j] * (1 - (y - i).abs()) * (1 - (x - j).abs())
        power, scale, offset = (self.state[f"perspective.retina_pixel.{name}"] for name in ("logit", "scale", "offset"))
        return (seen + 1e-5).pow(power.sigmoid()) * scale + offset

    def behaviour(self, given: Tensor, stream: int) -> Tensor:
        at = "modulation.mlp.linears.0"
        weight = self.weight(at, stream, standardise=False).flatten(1)
        heard = F.gelu(weight @ given + self.state[f"{at}.biases.{stream}"][0]) * GAIN
        hidden, cell = (self.memory.get((f"modulation.{name}", stream), heard * 0) for name in ("hidden", "cell"))
        both = torch.cat([heard, hidden])
        gates = [f"modulation.lstm.proj_{gate}" for gate in "ifgo"]
        gates = [self.weight(at, stream).flatten(1) @ both + self.state[f"{at}.biases.{stream}"][0] for at in gates]
        return self.remember("modulation", gates, cell, stream)

    def remember(self, name: str, gates: list[Tensor], cell: Tensor, stream: int) -> Tensor:
        enter, forget, candidate, leave = gates
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        self.memory[f"{name}.cell", stream], self.memory[f"{name}.hidden", stream] = cell, hidden
        return hidden

    def feedforward(self, image: Tensor, stream: int) -> Tensor:
        at, network = "core.feedforward", self.network
        pad = (network.input_kernel - network.input_stride) // 2
        x = F.pad(image[None, None], [pad] * 4, mode="replicate")[0]
        for block, (channels, pool) in enumerate(zip(network.channels, network.pools, strict=True)):
            groups = channels // network.channels[0]
            x = self.conv(
                f"{at}.inputs.{block}", x, stream, standardise=block > 0, stride=1 if block else network.input_stride
            )
            layers, active = [x], []
            for layer in range(network.layers):
                active.append(F.gelu(layers[-1]) * GAIN)
                made = self.conv(f"{at}.blocks.{block}.convs.{layer}", active[-1], stream, groups=groups, padding=1)
                if layer:
                    made = made + self.conv(
                        f"{at}.blocks.{block}.skips.{layer}", joined(active[:-1], groups), stream, groups=groups
                    )
                layers.append(made)
            x = F.avg_pool2d(joined(layers, groups), pool)
        return self.conv(f"{at}.out", x, stream)

    def recurrent(self, found: Tensor, told: Tensor, stream: int) -> Tensor:
        at, groups = "core.recurrent", self.network.recurrent_groups
        zero = torch.zeros(self.network.hidden, *found.shape[1:], dtype=torch.float64)
        hidden, cell = (self.memory.get((f"recurrent.{name}", stream), zero) for name in ("hidden", "cell"))
        entering = self.conv(f"{at}.proj_x.1", found, stream)
        entering = entering + self.conv(f"{at}.proj_x.2", told[:, None, None], stream)
        between = self.state[f"{at}.proj_x.0.weights.{stream}"]  # (to, from, out, in) without those from itself
        heard = hidden.unflatten(0, (groups, -1))
        for to in range(groups):
            others = [group for group in range(groups) if group != to]
            flat = between[to].transpose(0, 1).flatten(1)
            flat = (flat - flat.mean(1, keepdim=True)) / (
                flat.var(1, correction=0, keepdim=True) * flat.shape[1] + 1e-5
            ).sqrt()
            flat = flat * self.state[f"{at}.proj_x.0.gains.{stream}"][to][:, None]
            rows = slice(to * len(flat), (to + 1) * len(flat))
            entering[rows] = entering[rows] + torch.einsum("oi,ihw->ohw", flat, heard[others].flatten(0, 1))
        common = self.conv(f"{at}.conv", joined([entering.tanh(), hidden], groups), stream, groups=groups, padding=1)
        query, key, value = (
            self.conv(f"{at}.proj_{part}", common, stream, groups=groups).unflatten(0, (groups, -1)).flatten(2)
            for part in "qkv"
        )
        gathered = torch.zeros_like(value)
        for group in range(groups):
            score = (F.normalize(query[group], dim=0) * self.state[f"{at}.scales.{stream}"][group][:, None]).T
            share = (score @ F.normalize(key[group], dim=0)).softmax(1)
            gathered[group] = value[group] @ share.T
        both = joined([common, gathered.flatten(0, 1).view_as(common)], groups)
        gates = [self.conv(f"{at}.proj_{gate}", both, stream, groups=groups) for gate in "ifgo"]
        return self.conv(f"{at}.out", self.remember("recurrent", gates, cell, stream), stream)

    def log_rates(self, video: Tensor, pupil: Tensor, behaviour: Tensor) -> Tensor:
        found = []
        for frame, centre, given in zip(video, pupil, behaviour, strict=True):
            image = self.retina(frame, centre)
            streams = []
            for stream in range(self.network.streams):
                core = self.recurrent(self.feedforward(image, stream), self.behaviour(given, stream), stream)
                at = self.state["readout.position.mu"].tanh()
                read = F.grid_sample(core[None], at[None, None], padding_mode="border", align_corners=False)[0, :, 0]
                streams.append((self.state[f"readout.feature.weights.{stream}"][:, 0] * read.T).sum(1))
                streams[-1] = streams[-1] + self.state[f"readout.biases.{stream}"][:, 0]
            found.append(torch.stack(streams).mean(0))
        return torch.stack(found)


def joined(parts: list[Tensor], groups: int) -> Tensor:
    """Channels of several images, group by group."""
    return torch.cat([part.unflatten(0, (groups, -1)) for part in parts], dim=1).flatten(0, 1)


def turn(angles: Tensor) -> Tensor:
    """Rotation about x, then y, then z."""
    (a, b, c), made = angles.tolist(), []
    made.append([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    made.append([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    made.append([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    x, y, z = (torch.tensor(one, dtype=torch.float64) for one in made)
    return z @ y @ x


def clip(height: int = 18, width: int = 32, frames: int = FRAMES) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(0, 256, (frames, height, width), generator=generator, dtype=torch.uint8)
    return video, *(torch.randn(frames, 2, generator=generator, dtype=torch.float64) for _ in range(2))


def ours(encoder: torch.nn.Module, video: Tensor, pupil: Tensor, behaviour: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder(video[None], pupil[None], behaviour[None], torch.zeros(1, dtype=torch.int64))[0]


def test_public_weights_give_what_the_published_formulas_give() -> None:
    state = drawn(SMALL)
    network, encoder = published.from_public(state, SMALL)
    assert network is SMALL
    wanted = Plain(state, SMALL).log_rates(*clip())
    assert wanted.std() > 0.05
    assert (ours(encoder, *clip()) - wanted).abs().max() < 1e-10


def test_the_default_network_has_the_published_number_of_weights() -> None:
    encoder = published.build(published.NETWORK, 8000)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in encoder.named_children()}
    assert parts["readout"] == 8000 * 522
    assert round((parts["core"] + parts["recurrent"]) / 1e6, 2) == 4.53
    # the monitor's jitter, six numbers that the public code keeps as weights, is a constant here
    assert round(sum(parts.values()) / 1e6, 2) == 8.71


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda state: state.pop("core.feedforward.out.gains.1"), "core.feedforward.out.gains.1 is missing"),
        (lambda state: state.update({"core.more": torch.zeros(2)}), "core.more is unknown"),
        (lambda state: state.update({"readout.biases.0": torch.zeros(3, 1)}), "readout.biases.0 is 3x1, not 11x1"),
        (lambda state: state["core.recurrent.scales.0"].fill_(math.nan), "core.recurrent.scales.0 is not finite"),
        (lambda state: state["perspective.monitor_pixel.power"].fill_(1.0), "monitor_pixel.power has other values"),
        (lambda state: state["perspective.retina.grid"].mul_(0.9), "retina.grid has other values"),
        (lambda state: state.pop("readout.position.mu"), "without readout.position.mu"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(spoil, said: str) -> None:
    state = drawn(SMALL)
    spoil(state)
    with pytest.raises(Refused, match=said):
        published.from_public(state, SMALL)


def test_files_of_numbers_are_read_and_pickles_are_not(tmp_path: Path) -> None:
    state = drawn(SMALL)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "fnn.safetensors")
    np.savez(tmp_path / "fnn.npz", **{name: value.numpy() for name, value in state.items()})
    for name in ("fnn.safetensors", "fnn.npz"):
        found = published.read(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)
    (tmp_path / "fnn.pt").write_bytes(b"anything")
    with pytest.raises(Refused, match="save_file"):
        published.read(tmp_path / "fnn.pt")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "fnn.npz").read_bytes()[:1000])
    with pytest.raises(Corrupt, match=r"cut\.npz"):
        published.read(tmp_path / "cut.npz")


def test_conversion_makes_a_run_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {name: value.float() if value.is_floating_point() else value for name, value in drawn(SMALL).items()}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "fnn.safetensors")
    monkeypatch.setattr(published.public_model, "__defaults__", (SMALL,))
    run = brodmann.convert("fnn", tmp_path / "fnn.safetensors", tmp_path / "run", quiet=True)
    recipe, model = verbs.trained(brodmann.load(run.path))
    assert (recipe.samples.height_px, model.encoder.neurons) == (144, NEURONS)
    _, encoder = published.from_public(state, SMALL)
    video, pupil, behaviour = clip()
    given = video, pupil.float(), behaviour.float()
    assert torch.equal(ours(model.encoder, *given), ours(encoder, *given))


@pytest.fixture
def public_network(monkeypatch: pytest.MonkeyPatch):
    where = os.environ.get("BRODMANN_FNN")
    if not where:
        pytest.skip("BRODMANN_FNN should name a checkout of github.com/cajal/fnn")
    monkeypatch.syspath_prepend(where)
    bench = Path(__file__).parents[1] / "benchmarks/bench_neurons_speed.py"
    return runpy.run_path(str(bench))["public_network"]


def test_our_network_is_the_public_code_s(public_network) -> None:
    theirs = public_network(40)
    drawing = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "_std" not in name:
                spread = value.std(correction=0).item() or 1.0
                value.add_(torch.randn(value.shape, generator=drawing) * 0.1 * spread)
        for weight in theirs.readout.feature.weights:
            weight.normal_(0, 0.3, generator=drawing)
        theirs.readout.position.mu.normal_(0, 0.8, generator=drawing)
    theirs = theirs.double().eval()
    _, encoder = published.from_public(theirs.state_dict())
    video, pupil, behaviour = clip(published.HEIGHT_PX, published.WIDTH_PX, 3)
    precision = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)  # the public code makes its zeros and unit matrices in it
        with torch.inference_mode():
            theirs.reset()
            wanted = torch.stack([
                theirs._raw(frame[None, None] / 255.0, at[None], given[None])[0, :, 0]
                for frame, at, given in zip(video, pupil, behaviour, strict=True)
            ])  # fmt: skip
    finally:
        torch.set_default_dtype(precision)
    error = (ours(encoder, video, pupil, behaviour) - wanted).abs().max()
    assert error < 1e-8 * wanted.abs().max(), f"{error:.2g} of {wanted.abs().max():.2g}"
