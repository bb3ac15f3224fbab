"""Weights of the public foundation model (github.com/cajal/fnn, version 2), put into our network by name.

Names and shapes of tensors were read there, with the sizes that its default network has; nothing else is taken from it.

A file that torch has pickled is a program, and is not opened here. Where you trust it, load its state dict with torch's
own loader (``weights_only=True``) and write it once with ``safetensors.torch.save_file``, each tensor contiguous.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from brodmann import weights
from brodmann.errors import Corrupt, Refused
from brodmann.neurons.encoder import Encoder
from brodmann.neurons.model import Known, NeuronModel
from brodmann.neurons.recipe import Clips, Network, Recipe
from brodmann.neurons.standardised import Standardised

NETWORK = Network(
    streams=4,
    perspective=True,
    retina_px=(128, 192),
    view_deg=75.0,
    input_kernel=6,
    input_stride=2,
    channels=(32, 64, 128),
    pools=(2, 2, 1),
    layers=2,
    groups=1,
    recurrent="cvt-lstm",
    hidden=256,
    common=512,
    recurrent_groups=8,
    outputs=128,
    modulation=16,
)
"""The default network of the public code."""
HEIGHT_PX, WIDTH_PX, RATE_HZ, BEHAVIOUR = 144, 256, 30.0, 2

_GATES = ("proj_i", "proj_f", "proj_g", "proj_o")  # input, forget, candidate, output
_FIXED = {"power": 1.7, "scale": 1.0, "offset": 0.0}  # of the monitor's pixels


def build(network: Network, neurons: int) -> Encoder:
    """A network for one animal in front of the public model's screen."""
    return Encoder(network, 1, neurons, BEHAVIOUR, height_px=HEIGHT_PX, width_px=WIDTH_PX, rate_hz=RATE_HZ)


def from_public(state: Mapping[str, Tensor], network: Network = NETWORK) -> tuple[Network, Encoder]:
    """The public model's weights in our network.

    Parameters
    ----------
    state : mapping of str to Tensor
        State dict of the public network, whole; its precision becomes the network's.
    network : Network
        Its sizes, if they are not the default ones; a recurrent core of several groups.

    Returns
    -------
    settings, encoder

    Raises
    ------
    Refused
        Tensors that are missing, unknown, of another shape or not finite, all of them named.
    """
    fit = _Fit(state, network)
    encoder = build(network, fit.neurons())
    encoder.to(fit.dtype())
    with torch.no_grad():
        fit.perspective(encoder)
        fit.modulation(encoder)
        fit.core(encoder)
        fit.recurrent(encoder)
        fit.readout(encoder)
    fit.done()
    return network, encoder.eval()


def read(path: Path) -> dict[str, Tensor]:
    """Named tensors of a ``.safetensors`` or ``.npz`` file.

    Raises
    ------
    Refused
        Another kind of file: pickles are not opened.
    Corrupt
        Not a whole file of its kind.
    """
    if path.suffix == ".safetensors":
        return weights.read(path)
    if path.suffix == ".npz":
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {name: torch.from_numpy(stored[name]) for name in stored.files}
        except (OSError, ValueError, TypeError, BadZipFile) as error:
            raise Corrupt(
                f"{path} should be an .npz file of the network's weights.", found=f"{error}.",
                cause="a damaged file, or one that holds something else.", do="save the state dict, an array a name.",
            ) from error  # fmt: skip
    raise Refused(
        f"{path} should be a .safetensors or .npz file.",
        found=f"a {path.suffix or 'nameless'} file",
        cause="a file of torch.save is a pickle: opening one may run anything.",
        do="where you trust it, read it once with torch's own loader (weights_only=True) as `state`, then "
        "safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, 'fnn.safetensors').",
    )


def public_model(source: Path, network: Network = NETWORK) -> NeuronModel:
    """The public model as one of ours, with its neurons as those of a recording named "public".

    Its core serves other animals: their recordings are learned with the core kept as it is.

    Parameters
    ----------
    source : Path
        Public weights, as `read` takes them.
    network : Network
        See `from_public`.

    Raises
    ------
    Refused
        See `read` and `from_public`.
    """
    _, encoder = from_public(read(source), network)
    size = Clips(rate_hz=RATE_HZ, height_px=HEIGHT_PX, width_px=WIDTH_PX, frames=100)
    names = tuple(f"public/{number:05d}" for number in range(encoder.neurons))
    model = NeuronModel(Recipe(samples=size, encoder=network), [Known("public", names)])
    model.encoder.load_state_dict(encoder.state_dict())
    return model


def card(encoder: Encoder) -> str:
    """Model card of the public weights."""
    return (
        "# Foundation model of neural activity, public weights\n\n"
        f"Weights of github.com/cajal/fnn (Wang et al., Nature 640, 2025) for {encoder.neurons:,} neurons of a mouse, "
        "under the names of this package; the numbers are unchanged, and so is their licence.\n\n"
        f"Input: video {HEIGHT_PX} x {WIDTH_PX} at {RATE_HZ:g} Hz, pupil position, pupil radius and running speed, "
        "z-scored.\n"
    )


class _Fit:
    """Takes tensors out of a public state dict one by one, and remembers what did not fit."""

    def __init__(self, state: Mapping[str, Tensor], network: Network) -> None:
        self.state, self.network, self.left, self.problems = state, network, set(state), list[str]()

    def neurons(self) -> int:
        mu = self.state.get("readout.position.mu")
        if mu is None or mu.ndim != 2:
            raise Refused(
                "weights should have the layout of the public foundation model.",
                found=f"{len(self.state)} tensors, without readout.position.mu of two columns.",
                cause="the weights of another network, or only a part of them.",
            )
        return len(mu)

    def dtype(self) -> torch.dtype:
        return self.state["readout.position.mu"].dtype

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor of the public layout; zeros where it does not fit, which is noted."""
        self.left.discard(name)
        found = self.state.get(name)
        if found is None:
            self.problems.append(f"{name} is missing")
        elif tuple(found.shape) != shape:
            self.problems.append(f"{name} is {_times(found.shape)}, not {_times(shape)}")
        elif not bool(torch.isfinite(found).all()):
            self.problems.append(f"{name} is not finite")
        else:
            return found
        return torch.zeros(shape, dtype=self.dtype())

    def constant(self, name: str, wanted: Tensor) -> Tensor:
        """A tensor that is the same in every public network of this size."""
        before = len(self.problems)
        found = self.take(name, *wanted.shape)
        if len(self.problems) == before and not torch.allclose(found.double(), wanted.double(), rtol=0, atol=1e-5):
            self.problems.append(f"{name} has other values than this network's")
        return found

    def streams(self, name: str, *shape: int) -> Tensor:
        """The same tensor of every stream, stacked."""
        return torch.stack([self.take(f"{name}.{stream}", *shape) for stream in range(self.network.streams)])

    def one(
        self, layer: nn.Module, name: str, shape: tuple[int, ...], groups: int = 1, *, copies: int | None = None
    ) -> None:
        """One convolution of the public code into one of our layers that keeps its order of outputs and inputs."""
        assert isinstance(layer, Standardised)
        streams = range(self.network.streams if copies is None else copies)
        outputs = shape[0]
        for kind, target in (("weights", layer.weight), ("gains", layer.gain), ("biases", layer.bias)):
            if target is not None:
                wanted = shape if kind == "weights" else (groups, outputs // groups)
                found = [self.take(f"{name}.{kind}.{stream}", *wanted) for stream in streams]
                target.copy_(torch.stack(found).reshape(target.shape))

    def several(self, layer: nn.Module, names: list[str], shape: tuple[int, ...], groups: int, rows: int) -> None:
        """Several grouped convolutions of the same input into one of our layers, side by side within each group."""
        assert isinstance(layer, Standardised)
        for kind, target in (("weights", layer.weight), ("gains", layer.gain), ("biases", layer.bias)):
            if target is not None:
                wanted = shape if kind == "weights" else (rows, shape[0] // rows)
                found = [self.streams(f"{name}.{kind}", *wanted) for name in names]
                split = [one.flatten(1, 2) if kind != "weights" else one for one in found]
                split = [one.unflatten(1, (groups, -1)) for one in split]
                target.copy_(torch.cat(split, dim=2).reshape(target.shape))

    def perspective(self, encoder: Encoder) -> None:
        ours = encoder.perspective
        assert ours is not None
        at = "perspective.mlp.linears"
        incoming = 2
        for number, layer in enumerate(ours.eye):
            outputs = cast("Tensor", layer.weight).shape[1]
            self.one(layer, f"{at}.{number}", (outputs, incoming, 1, 1, 1), copies=1)
            incoming = outputs
        ours.centre.copy_(self.take("perspective.monitor.center", 3))
        ours.tilt.copy_(self.take("perspective.monitor.angle", 3))
        for name in ("center_std", "angle_std"):  # of the jitter, which is a constant
            self.take(f"perspective.monitor.{name}", 3)
        for name, value in _FIXED.items():
            self.constant(f"perspective.monitor_pixel.{name}", torch.tensor(value))
        ours.rays.copy_(self.constant("perspective.retina.grid", ours.rays))
        for name, target in (("logit", ours.logit), ("scale", ours.contrast), ("offset", ours.offset)):
            target.copy_(self.take(f"perspective.retina_pixel.{name}", 1))

    def modulation(self, encoder: Encoder) -> None:
        ours, width = encoder.modulation, self.network.modulation
        assert ours is not None
        self.one(ours.read, "modulation.mlp.linears.0", (width, BEHAVIOUR, 1, 1, 1))
        gates = [f"modulation.lstm.{gate}" for gate in _GATES]
        self.several(ours.gates, gates, (width, 2 * width, 1, 1, 1), 1, 1)

    def core(self, encoder: Encoder) -> None:
        at, network = "core.feedforward", self.network
        incoming, kernel, before = 1, network.input_kernel, 1
        for number, (block, channels) in enumerate(zip(encoder.core.blocks, network.channels, strict=True)):
            ours, groups = block, cast("int", block.groups)
            width = channels // groups
            into = cast("Standardised", ours.into)
            self.one(into, f"{at}.inputs.{number}", (channels, incoming, 1, kernel, kernel), groups)
            _by_layer(into, network.layers + 1 if number else 1, before)
            for depth, layer in enumerate(cast("nn.ModuleList", ours.layers)):
                name = f"{at}.blocks.{number}"
                self.one(layer, f"{name}.convs.{depth}", (channels, width, 3, 3, 3), groups)
                if depth:
                    skip = cast("nn.ModuleList", ours.skips)[depth - 1]
                    self.one(skip, f"{name}.skips.{depth}", (channels, width * depth, 1, 1, 1), groups)
            incoming, kernel, before = channels * (network.layers + 1), 1, groups
        self.one(encoder.core.out, f"{at}.out", (network.outputs, incoming, 1, 1, 1))
        _by_layer(encoder.core.out, network.layers + 1, before)

    def recurrent(self, encoder: Encoder) -> None:
        ours, network, at = encoder.recurrent, self.network, "core.recurrent"
        assert ours is not None
        assert ours.mix is not None
        hidden, groups, outputs = network.hidden, network.recurrent_groups, network.outputs
        width, common = hidden // groups, network.common // groups
        self.constant(f"{at}.proj_x.0.mask", 1 - torch.eye(groups)[:, :, None, None])
        self.constant(f"{at}.proj_x.0.zero", torch.zeros(groups, groups, width, width))
        mixed = self.streams(f"{at}.proj_x.0.weights", groups, groups - 1, width, width)
        ours.mix.weight.copy_(mixed.transpose(2, 3))
        cast("Tensor", ours.mix.gain).copy_(self.streams(f"{at}.proj_x.0.gains", groups, width))
        self.one(ours.features, f"{at}.proj_x.1", (hidden, outputs, 1, 1, 1), groups)
        self.one(cast("nn.Module", ours.modulation), f"{at}.proj_x.2", (hidden, network.modulation, 1, 1, 1), groups)
        gates = [f"{at}.{gate}" for gate in _GATES]
        seen = (2 * width, 1, 3, 3)
        if ours.conv is not None:
            self.several(ours.conv, [f"{at}.conv"], (network.common, *seen), groups, groups)
            cast("Tensor", ours.scale).copy_(self.streams(f"{at}.scales", groups, common))
            qkv = [f"{at}.proj_{name}" for name in "qkv"]
            self.several(cast("nn.Module", ours.qkv), qkv, (network.common, common, 1, 1, 1), groups, groups)
            seen = (2 * common, 1, 1, 1)
        self.several(ours.gates, gates, (hidden, *seen), groups, groups)
        self.one(ours.out, f"{at}.out", (outputs, hidden, 1, 1, 1))

    def readout(self, encoder: Encoder) -> None:
        ours, outputs, neurons = encoder.readout, self.network.outputs, encoder.neurons
        ours.mu.copy_(self.take("readout.position.mu", neurons, 2))
        ours.sigma.copy_(self.take("readout.position.sigma", neurons, 2, 2))
        ours.weight.copy_(self.streams("readout.feature.weights", neurons, 1, outputs)[:, :, 0].transpose(0, 1))
        ours.bias.copy_(self.streams("readout.biases", neurons, 1)[:, :, 0].T)

    def done(self) -> None:
        found = [*self.problems, *(f"{name} is unknown" for name in sorted(self.left))]
        if found:
            raise Refused(
                "every tensor of the checkpoint should fit the public model's default layout.",
                found=f"{len(found)} do not: {'; '.join(found[:8])}{'; ...' if len(found) > 8 else ''}.",
                cause="another version or size of the public model, or a part of a checkpoint.",
                do="give the whole state dict of the default network of version 2, or its sizes as network=...",
            )


def _by_layer(layer: Standardised, layers: int, groups: int) -> None:
    """Reorder inputs from groups of all layers, as the public code joins them, to layers of all groups."""
    weight = layer.weight.data
    if groups > 1:
        shape = weight.shape
        layer.weight.data = weight.reshape(*shape[:2], groups, layers, -1).transpose(2, 3).reshape(shape).contiguous()


def _times(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"
