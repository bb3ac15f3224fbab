"""Recurrent cores: what the feed-forward core found, remembered over time on the same grid of positions.

``cvt-lstm`` is the published core (Wang et al., 2025, Methods, "Recurrent module"): an LSTM whose gates see a
convolution and an attention over all positions. ``conv-lstm`` is its simpler relative (Shi et al., 2015,
arXiv 1506.04214): gates are convolutions. Both split their channels into groups that exchange through one dense map.

B clips, T frames, S streams, G groups, P positions, C channels. Memory is laid out (B, S G, C, P), so that a group's
map is one batched product, a convolution needs no copy, and so do exchanges between groups. What does not wait for the
memory is done for all frames at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brodmann.errors import Usage
from brodmann.neurons.modulation import State, doubled, lstm
from brodmann.neurons.recipe import Network
from brodmann.neurons.standardised import Standardised

_SIDE = 3  # pixels of the convolution
_CACHED = 1 << 20  # bytes of scores worked on at a time
_LARGEST = 60.0  # exp of it, times the number of positions, is a number in every precision


class Ready(NamedTuple):
    """Weights of the streams in use, in the precision of the work; those of batched products once per clip, (B S ...).

    What enters and the candidate gate come doubled, see `brodmann.neurons.modulation.lstm`.
    """

    features: Tensor
    features_bias: Tensor
    modulation: Tensor | None
    mix: Tensor | None
    conv: Tensor
    conv_bias: Tensor | None
    qkv: Tensor | None
    scale: Tensor | None
    bounded: bool
    """No score of the attention can be so large that its exponential overflows."""
    gates: Tensor | None
    gates_bias: Tensor | None
    out: Tensor
    out_bias: Tensor


class Recurrent(nn.Module):
    """A convolutional LSTM, with attention over positions if the recipe says so.

    Parameters
    ----------
    settings : Network
    size_px : tuple of int
        Height and width of the grid.

    Raises
    ------
    Usage
        Channels that do not divide into their groups.
    """

    def __init__(self, settings: Network, size_px: tuple[int, int]) -> None:
        super().__init__()
        groups, streams = settings.recurrent_groups, settings.streams
        self.attends = settings.recurrent == "cvt-lstm"
        for name, channels in (("hidden", settings.hidden), ("common", settings.common if self.attends else groups)):
            if channels % groups:
                raise Usage(
                    f"encoder.{name} should be a multiple of encoder.recurrent_groups.",
                    found=f"{channels} and {groups}",
                )
        self.size_px, self.groups, self.hidden = size_px, groups, settings.hidden
        width, common = settings.hidden // groups, settings.common // groups
        parts = 1 + (groups > 1) + (settings.modulation > 0)
        share = parts**-0.5  # what comes in is a sum of so many parts
        self.features = Standardised((streams, settings.hidden), (settings.outputs,), gain=share)
        self.modulation, self.mix, self.scale, self.qkv = None, None, None, None
        if settings.modulation:
            self.modulation = Standardised((streams, settings.hidden), (settings.modulation,), gain=share, bias=None)
        if groups > 1:
            self.mix = Standardised((streams, groups, width), (groups - 1, width), gain=share, bias=None)
        seen = (2 * width, _SIDE, _SIDE)
        if self.attends:
            self.conv = Standardised((streams, groups, common), seen, gain=None, bias=None)
            self.qkv = Standardised((streams, groups, 3 * common), (common,), gain=None, bias=None)
            self.scale = nn.Parameter(torch.ones(streams, groups, common))
            self.gates = Standardised((streams, groups, 4 * width), (2 * common,))
        else:
            self.conv, self.gates = None, Standardised((streams, groups, 4 * width), seen)
        with torch.no_grad():
            self.gates.shift()[..., :width] = -1  # input gate, half shut
            self.gates.shift()[..., width : 2 * width] = 1  # forget gate, half open
        self.out = Standardised((streams, settings.outputs), (settings.hidden,))

    def ready(self, stream: int | None, dtype: torch.dtype, clips: int) -> Ready:
        """Weights of one stream or of all for some clips, standardised once for all frames."""
        one = slice(None) if stream is None else slice(stream, stream + 1)

        def batched(weight: Tensor) -> Tensor:  # (S, G, outputs, inputs) -> (B S G, outputs, inputs)
            return weight.flatten(0, -3).to(dtype).repeat(clips, 1, 1)

        opened = _doubled(self.gates.ready(one))
        bias = _doubled(self.gates.shift(one)).flatten(0, 1)
        seen = opened if self.conv is None else self.conv.ready(one)
        return Ready(
            features=2 * self.features.ready(one).to(dtype),
            features_bias=2 * self.features.shift(one)[..., None].to(dtype),
            modulation=None if self.modulation is None else 2 * self.modulation.ready(one),
            mix=None if self.mix is None else batched(2 * _dense(self.mix.ready(one))),
            conv=seen.flatten(0, 2).to(dtype),
            conv_bias=None if self.attends else bias.flatten().to(dtype),
            qkv=None if self.qkv is None else batched(self.qkv.ready(one)),
            scale=None if self.scale is None else self.scale[one].flatten(0, 1)[..., None].to(dtype),
            bounded=self.scale is not None and float(self.scale.detach()[one].abs().max()) < _LARGEST,
            gates=batched(opened) if self.attends else None,
            gates_bias=batched(bias[..., None]) if self.attends else None,
            out=self.out.ready(one).transpose(1, 2).to(dtype),
            out_bias=self.out.shift(one)[:, None].to(dtype),
        )

    def kept(self, itemsize: int) -> int:
        """About the bytes that the gradient of one frame of one clip and stream needs kept."""
        places = math.prod(self.size_px)
        common = 0 if self.scale is None else 10 * self.scale.shape[2] * self.groups + 2 * self.groups * places
        return places * (itemsize * (common + 6 * self.hidden) + 4 * 10 * self.hidden)

    def forward(
        self, features: Sequence[Tensor], modulation: Tensor | None, ready: Ready, state: State | None
    ) -> tuple[Tensor, State]:
        """Features with memory, for a block of frames.

        Parameters
        ----------
        features : sequence of (B, T, h, w, C)
            Of each stream.
        modulation : (B, T, S, M), or None
        ready : Ready
            Weights, from `ready`.
        state : pair of (B, S G, C, P), or None
            What is remembered of earlier frames; None starts afresh.

        Returns
        -------
        (B, T, h, w, S, C)
        state
        """
        streams, groups = len(features), self.groups
        clips, frames, height, width, _ = features[0].shape
        # (T, B, S, C, P)
        ahead = torch.stack([
            torch.addmm(bias, weight, seen.flatten(0, 3).T).unflatten(1, (clips, frames, height * width))
            for seen, weight, bias in zip(features, ready.features, ready.features_bias, strict=True)
        ]).permute(3, 2, 0, 1, 4)  # fmt: skip
        if modulation is not None and ready.modulation is not None:
            told = torch.einsum("btsm,scm->tbsc", modulation, ready.modulation).to(ahead.dtype)
            ahead = ahead + told[..., None]
        ahead = ahead.reshape(frames, clips, streams * groups, -1, height * width)
        if state is None:
            zero = ahead.new_zeros(ahead.shape[1:])
            state = zero, zero.to(self.out.weight.dtype)
        hidden, cell = state
        said: list[Tensor] = []
        for entering in ahead:
            if ready.mix is not None:
                told = torch.bmm(ready.mix, hidden.reshape(clips * streams, self.hidden, -1))
                entering = entering + told.view_as(hidden)
            entering = 2 * entering.to(cell.dtype).sigmoid() - 1
            seen = torch.cat([entering.to(hidden.dtype), hidden], dim=2).view(clips, -1, height, width)
            gates = F.conv2d(seen, ready.conv, ready.conv_bias, padding=_SIDE // 2, groups=streams * groups)
            gates = gates.reshape(clips, streams * groups, -1, height * width)
            if self.attends:
                both = torch.cat([gates, _attention(gates, ready)], dim=2).flatten(0, 1)
                gates = torch.baddbmm(cast("Tensor", ready.gates_bias), cast("Tensor", ready.gates), both)
                gates = gates.unflatten(0, (clips, -1))
            hidden, cell = lstm(gates.to(cell.dtype), cell, dim=2)
            hidden = hidden.to(gates.dtype)
            said.append(hidden)
        spoken = torch.stack(said, dim=1).view(clips, frames, streams, self.hidden, -1)
        out = torch.matmul(spoken.transpose(3, 4), ready.out) + ready.out_bias
        return out.permute(0, 1, 3, 2, 4).unflatten(2, (height, width)), (hidden, cell)


def _doubled(gates: Tensor) -> Tensor:
    return doubled(gates.flatten(0, 1)).view_as(gates)


def _dense(weight: Tensor) -> Tensor:
    """Weights (S, G, C, G - 1, C) between groups as one map (S, outputs, inputs) with nothing within a group."""
    streams, groups, width = weight.shape[:3]
    full = weight.new_zeros(groups, groups, streams, width, width)
    to, of = (~torch.eye(groups, dtype=torch.bool, device=weight.device)).nonzero(as_tuple=True)
    full = full.index_put((to, of), weight.permute(1, 3, 0, 2, 4).flatten(0, 1))  # (to, from, S, out, in)
    return full.permute(2, 0, 3, 1, 4).reshape(streams, groups * width, groups * width)


def _attention(common: Tensor, ready: Ready) -> Tensor:
    """What every position gathers from all, within its group and clip, (B, S G, C, P).

    Queries and keys have unit norm over channels; scores are scaled channel by channel. Plain products are faster here
    than the fused attention of a processor.
    """
    parts = torch.bmm(cast("Tensor", ready.qkv), common.flatten(0, 1))
    query, key, value = parts.unflatten(0, common.shape[:2]).chunk(3, dim=2)
    query = (_unit(query) * cast("Tensor", ready.scale)).flatten(0, 1)
    key, value = _unit(key).flatten(0, 1), value.flatten(0, 1)
    if torch.is_grad_enabled() or not ready.bounded:
        score = torch.bmm(query.transpose(1, 2), key)
        return torch.bmm(value, score.softmax(dim=2).transpose(1, 2)).view_as(common)
    # a few groups at a time, whose scores stay in a processor's cache and become exponentials where they are
    step = max(1, _CACHED // (query.shape[2] ** 2 * query.element_size())) if query.device.type == "cpu" else len(query)
    gathered = torch.empty_like(value)
    for start in range(0, len(query), step):
        some = slice(start, start + step)
        score = torch.bmm(query[some].transpose(1, 2), key[some]).exp_()
        torch.bmm(value[some], score.transpose(1, 2), out=gathered[some])
        gathered[some] /= score.sum(dim=2)[:, None]
    return gathered.view_as(common)


def _unit(parts: Tensor) -> Tensor:
    """Channels (B, S G, C, P) of unit norm; several times faster than the library's in bfloat16."""
    return parts * parts.square().sum(dim=2, keepdim=True).clamp_min(torch.finfo(parts.dtype).tiny).rsqrt()
