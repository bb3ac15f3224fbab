"""Feed-forward core: a densely connected network of convolutions in space and time that never looks ahead.

Wang et al., 2025, Methods, "Feedforward module"; dense connections: Huang et al., 2017, arXiv 1608.06993. B clips,
T frames, C channels, S streams. Every function works on a block of frames and hands on the few past frames that the
next block needs, so that a clip at once, a clip in pieces and a camera's frames one by one give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brodmann.errors import Usage
from brodmann.neurons.perspective import GELU_GAIN
from brodmann.neurons.recipe import Network
from brodmann.neurons.standardised import Standardised

_SMALL = 20480  # rows of pixels, times channels, up to which the library convolves float32 in time by a slow path
_SPAN = 3  # frames, and pixels to a side, of the convolutions within a block

Past = list[Tensor]


class Layer(NamedTuple):
    """Weights of one convolution in space and time, ready to use."""

    weight: Tensor
    bias: Tensor
    skip: Tensor | None


class Stage(NamedTuple):
    """Weights of one block: the way in, then its layers."""

    into: Tensor
    bias: Tensor
    layers: list[Layer]


class Ready(NamedTuple):
    """Standardised weights of one stream, in the precision and memory order of the work."""

    stages: list[Stage]
    out: Tensor
    bias: Tensor


class Block(nn.Module):
    """Weights of one block: the map into it, its convolutions, and skips from all earlier ones to each.

    Parameters
    ----------
    streams, incoming, channels, layers, groups : int
    kernel : int or None
        Side of the first map's kernel where it reads images; None maps pixel by pixel.
    """

    def __init__(
        self, streams: int, incoming: int, channels: int, layers: int, groups: int, kernel: int | None = None
    ) -> None:
        super().__init__()
        self.groups = groups
        width = channels // groups
        if kernel is None:
            self.into = Standardised((streams, channels), (incoming,))
        else:
            self.into = Standardised((streams, channels), (incoming, kernel, kernel), standardise=False)
        halves = [1.0] + [2**-0.5] * (layers - 1)  # from its second on, a layer is the sum of two parts
        self.layers = nn.ModuleList(
            Standardised((streams, channels), (width, _SPAN, _SPAN, _SPAN), gain=gain) for gain in halves
        )
        self.skips = nn.ModuleList(
            Standardised((streams, channels), (width * number,), gain=2**-0.5, bias=None) for number in range(1, layers)
        )

    def ready(self, stream: int, dtype: torch.dtype, pooled: int) -> Stage:
        """Weights of one stream; the map into the block finishes the mean over ``pooled`` pixels of a sum."""
        layers: list[Layer] = []
        for number, layer in enumerate(self.layers):
            # the gain of the nonlinearity before a convolution is multiplied into its weights
            weight = (_weights(layer, stream) * GELU_GAIN).to(dtype)
            skip = None
            if number:
                skip = _spread(_weights(self.skips[number - 1], stream) * GELU_GAIN, self.groups).T.to(dtype)
            layers.append(
                Layer(weight.contiguous(memory_format=torch.channels_last_3d), _biases(layer, stream).to(dtype), skip)
            )
        into = self.into.ready(stream)
        into = (into if into.ndim == 2 else into.mT.flatten(1)) / pooled  # windows go column by column
        return Stage(into.to(dtype), self.into.shift(stream).to(dtype), layers)


class Core(nn.Module):
    """From images to features, for each stream with weights of its own.

    The groups of a block's convolutions grow with its channels, so that a group keeps the width it has in the first.

    Parameters
    ----------
    settings : Network
    height_px, width_px : int
        Size of the images.

    Raises
    ------
    Usage
        Channels, groups, kernel and stride that do not fit each other, or pools that leave nothing of the image.
    """

    def __init__(self, settings: Network, height_px: int, width_px: int) -> None:
        super().__init__()
        if len(settings.channels) != len(settings.pools) or not settings.channels:
            raise Usage(
                "encoder.channels and encoder.pools should name a number for each block.",
                found=f"{len(settings.channels)} and {len(settings.pools)}",
            )
        if (settings.input_kernel - settings.input_stride) % 2 or settings.input_kernel < settings.input_stride:
            raise Usage(
                "encoder.input_kernel should be larger than input_stride by an even number, or equal.",
                found=f"{settings.input_kernel} and {settings.input_stride}",
            )
        self.settings = settings
        self.pad = (settings.input_kernel - settings.input_stride) // 2
        blocks: list[Block] = []
        numbers = 0  # that a layer of each block makes of a frame
        incoming, size = (
            1,
            [(side - settings.input_stride) // settings.input_stride + 1 for side in (height_px, width_px)],
        )
        for channels, pool in zip(settings.channels, settings.pools, strict=True):
            groups = max(1, settings.groups * channels // settings.channels[0])
            if channels % groups:
                raise Usage(
                    "encoder.channels should be multiples of their groups.",
                    found=f"{channels} channels in {groups} groups",
                    cause="groups grow with the channels of a block",
                    do="make channels multiples of the first block's, or groups 1",
                )
            kernel = None if blocks else settings.input_kernel
            blocks.append(Block(settings.streams, incoming, channels, settings.layers, groups, kernel))
            numbers += channels * math.prod(size)
            incoming, size = (settings.layers + 1) * channels, [side // pool for side in size]
        if min(size) < 1:
            raise Usage("encoder.pools should leave something of the image.", found=f"{height_px} x {width_px} pixels")
        self.size_px, self.numbers = (size[0], size[1]), numbers
        self.blocks = nn.ModuleList(blocks)
        self.out = Standardised((settings.streams, settings.outputs), (incoming,))

    def ready(self, stream: int, dtype: torch.dtype) -> Ready:
        """Weights of one stream, standardised once for all frames of a clip."""
        pooled = [1, *(size**2 for size in self.settings.pools)]
        stages = [
            block.ready(stream, dtype, size)
            for block, size in zip(self.blocks, pooled, strict=False)
            if isinstance(block, Block)
        ]
        out = self.out.ready(stream) / pooled[-1]
        return Ready(stages, out.to(dtype), self.out.shift(stream).to(dtype))

    def kept(self, itemsize: int) -> int:
        """About the bytes that the gradient of one frame of one clip and stream needs kept."""
        return itemsize * (4 * self.settings.layers + 1) * self.numbers

    def windows(self, images: Tensor) -> Tensor:
        """Pixels (B, T, h, w, K) under the first map's kernel, which all streams read; the edge is repeated."""
        kernel, stride = self.settings.input_kernel, self.settings.input_stride
        height, width = ((side // stride - 1) * stride + 1 for side in images.shape[2:])
        edged = F.pad(images, [self.pad] * 4, mode="replicate")
        # rows, then columns; the gradient of slices is faster than that of unfolding
        rows = torch.stack([edged[:, :, i : i + height : stride] for i in range(kernel)], dim=4)
        return torch.cat([rows[:, :, :, j : j + width : stride] for j in range(kernel)], dim=4)

    def forward(self, windows: Tensor, ready: Ready, past: Past | None) -> tuple[Tensor, Past]:
        """Features of a block of frames.

        Parameters
        ----------
        windows : (B, T, h, w, K)
            From `windows`.
        ready : Ready
            Weights, from `ready`; their type is the precision of the work.
        past : list of Tensor, or None
            Last inputs of every convolution in time; None: nothing was shown before, which reads as zero.

        Returns
        -------
        (B, T, h', w', C)
        past
        """
        shown, kept = windows, Past()
        given = iter(past) if past is not None else None
        for stage, pool in zip(ready.stages, self.settings.pools, strict=True):
            layers, last = _dense(F.linear(shown, stage.into, stage.bias), stage, given)
            kept += last
            shown = torch.cat([_summed(layer, pool) for layer in layers], dim=4)
        return F.linear(shown, ready.out, ready.bias), kept


def _dense(shown: Tensor, stage: Stage, past: Iterator[Tensor] | None) -> tuple[list[Tensor], Past]:
    """Outputs of a block's layers, with what came in as the first, and the last frames before each convolution.

    Channels lie side by side in memory: (B, T, h, w, C).
    """
    outputs, active, kept = [shown], list[Tensor](), Past()
    for layer in stage.layers:
        ready = F.gelu(outputs[-1])
        active.append(ready)
        before = ready.new_zeros(len(ready), _SPAN - 1, *ready.shape[2:]) if past is None else next(past)
        series = torch.cat([before, ready], dim=1)
        kept.append(series[:, -(_SPAN - 1) :])
        made = _convolved(series, layer)
        if layer.skip is not None:
            earlier = active[0] if len(active) == 2 else torch.cat(active[:-1], dim=4)
            made = torch.addmm(made.flatten(0, 3), earlier.flatten(0, 3), layer.skip).view(made.shape)
        outputs.append(made)
    return outputs, kept


def _convolved(series: Tensor, layer: Layer) -> Tensor:
    """Convolution in space and time, (B, T, h, w, C), of a series with two frames more."""
    width = layer.weight.shape[1]
    clips, frames, height, _, channels = series.shape
    groups = channels // width
    if series.dtype != torch.float32 or clips * frames * height * channels > _SMALL:
        made = F.conv3d(series.permute(0, 4, 1, 2, 3), layer.weight, layer.bias, padding=(0, 1, 1), groups=groups)
        return made.permute(0, 2, 3, 4, 1)
    # time among the channels: (B T, h, w, G 3 C)
    frames -= _SPAN - 1
    folded = torch.stack([series[:, at : at + frames].unflatten(4, (groups, width)) for at in range(_SPAN)], dim=5)
    folded = folded.flatten(4).flatten(0, 1).permute(0, 3, 1, 2)
    made = F.conv2d(folded, layer.weight.transpose(1, 2).flatten(1, 2), layer.bias, padding=1, groups=groups)
    return made.permute(0, 2, 3, 1).unflatten(0, (clips, frames))


def _spread(weight: Tensor, groups: int) -> Tensor:
    """Weights (C, C l / G) of skips within groups as one map (C, l C) of whole layers, zero between groups.

    A product with some zeros is faster than several small ones.
    """
    width = len(weight) // groups
    parts = weight.view(groups, width, -1, width)  # (group, to, layer, from)
    return torch.stack([torch.block_diag(*parts[:, :, layer]) for layer in range(parts.shape[2])], dim=1).flatten(1)


def _summed(images: Tensor, size: int) -> Tensor:
    """Sums over squares of ``size`` pixels of (B, T, h, w, C); rows and columns left over are dropped.

    Two sums of slices are faster than pooling in bfloat16; what follows divides.
    """
    if size == 1:
        return images
    clips, frames, height, width, channels = images.shape
    height, width = height // size, width // size
    rows = images[:, :, : height * size].unflatten(2, (height, size))
    columns = _total(rows, 3)[:, :, :, : width * size].unflatten(3, (width, size))
    return _total(columns, 4).view(clips, frames, height, width, channels)


def _total(images: Tensor, dim: int) -> Tensor:
    first, second, *others = images.unbind(dim)
    return sum(others, first + second)


def _weights(layer: nn.Module, stream: int) -> Tensor:
    assert isinstance(layer, Standardised)
    return layer.ready(stream)


def _biases(layer: nn.Module, stream: int) -> Tensor:
    assert isinstance(layer, Standardised)
    return layer.shift(stream)
