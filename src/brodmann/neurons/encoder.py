"""The network: eye, body, core and readout; the same classes make the small network and the published one.

Wang et al., Nature 640, 2025. B clips, T frames, S streams, C features, A animals, n neurons, I quantities of
behaviour. A clip is worked through in blocks of frames, each of which needs a little of the one before: what a network
that is fed by a camera keeps between frames is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from brodmann.neurons import core, modulation, readout, recurrent
from brodmann.neurons.core import Core
from brodmann.neurons.modulation import Modulation
from brodmann.neurons.perspective import Perspective
from brodmann.neurons.readout import Readout
from brodmann.neurons.recipe import Network
from brodmann.neurons.recurrent import Recurrent
from brodmann.neurons.standardised import Standardised

BLOCK_FRAMES = 10
"""Frames worked on at a time: what lies between layers then stays in a processor's cache."""
KEEP_BYTES = 3 << 28
"""About the most memory for what a step on a processor keeps for its gradient; the rest is computed again."""


@dataclass(frozen=True)
class Prepared:
    """Weights in the precision of the work, and where the clips' monitors stand; from `Encoder.prepare`."""

    stream: int | None
    cores: list[core.Ready]
    recurrent: recurrent.Ready | None
    said: Tensor | None
    place: Tensor | None
    dtype: torch.dtype
    reading: readout.Reading | None
    base: Tensor | None


@dataclass(frozen=True)
class State:
    """What is remembered between blocks of frames; everything is None at the start of a clip."""

    body: modulation.State | None = None
    past: list[core.Past] | None = None
    memory: modulation.State | None = None


class Encoder(nn.Module):
    """Predicts the log rates of neurons from what their animal sees and does.

    Parameters
    ----------
    settings : Network
    animals : int
        Animals that have an eye and a body of their own.
    neurons : int
        Neurons of all animals, a row each.
    behaviour : int
        Quantities of behaviour.
    height_px, width_px : int
        Size of the video.
    rate_hz : float
        Frames per second, kept with the network.

    Raises
    ------
    Usage
        Sizes that do not fit each other.
    """

    def __init__(
        self,
        settings: Network,
        animals: int,
        neurons: int,
        behaviour: int = 2,
        *,
        height_px: int,
        width_px: int,
        rate_hz: float,
    ) -> None:
        super().__init__()
        self.settings, self.rate_hz, self.size_px = settings, rate_hz, (height_px, width_px)
        self.animals, self.neurons, self.behaviour = animals, neurons, behaviour
        self.perspective = None
        if settings.perspective:
            jitter = settings.monitor_jitter
            self.perspective = Perspective(animals, settings.retina_px, settings.view_deg, jitter=jitter)
        images = settings.retina_px if settings.perspective else (height_px, width_px)
        self.core = Core(settings, *images)
        self.modulation, self.recurrent, self.said = None, None, None
        if settings.modulation:
            self.modulation = Modulation(animals, settings.streams, behaviour, settings.modulation)
        if settings.recurrent != "none":
            self.recurrent = Recurrent(settings, self.core.size_px)
        elif settings.modulation:
            # without a recurrent core to enter, behaviour is added to what every position of the core says
            self.said = Standardised((settings.streams, settings.outputs), (settings.modulation,), bias=None)
        self.readout = Readout(neurons, settings.streams, settings.outputs)

    def forward(
        self, video: Tensor, pupil: Tensor, behaviour: Tensor, animal: Tensor, rows: slice | Tensor = slice(None)
    ) -> Tensor:
        """Log rates (B, T, n) of some neurons, averaged over streams; arguments as for `features`."""
        return self.log_rates(self.features(video, pupil, behaviour, animal), rows)

    def features(
        self, video: Tensor, pupil: Tensor, behaviour: Tensor, animal: Tensor, *, stream: int | None = None
    ) -> Tensor:
        """What the core says at every position and frame.

        Parameters
        ----------
        video : (B, T, H, W) uint8, or floating point from 0 to 255
        pupil : (B, T, 2) float
            Centre of the pupil in units of its spread; NaN or 0 where it is not known.
        behaviour : (B, T, I) float
            Likewise.
        animal : (B,) int64
        stream : int or None
            One stream, as training draws them, or all.

        Returns
        -------
        (B, T, S C or C, h, w)
            In the precision of the work: autocast's, or that of the weights.
        """
        prepared = self.prepare(animal, stream=stream)
        blocks = range(0, video.shape[1], BLOCK_FRAMES)
        again = len(blocks) - self._kept_blocks(video, prepared)
        found: list[Tensor] = []
        state = State()
        for number, start in enumerate(blocks):
            some = slice(start, start + BLOCK_FRAMES)
            given = video[:, some], pupil[:, some], behaviour[:, some], animal
            if torch.is_grad_enabled() and number < again:
                run = cast("Callable[..., tuple[Tensor, State]]", checkpoint)
                made, state = run(self.block, *given, prepared, state, use_reentrant=False, preserve_rng_state=False)
            else:
                made, state = self.block(*given, prepared, state)
            found.append(made)
        return torch.cat(found, dim=1).permute(0, 1, 4, 2, 3)

    def log_rates(self, features: Tensor, rows: slice | Tensor = slice(None), *, stream: int | None = None) -> Tensor:
        """Log rates (B, T, n) of some neurons from `features` of one stream or of all, which are averaged.

        Position noise is drawn once per call and clip while training: hand over whole clips.
        """
        with _plainly(features):
            return self.readout(features, rows, stream=stream)

    def prepare(self, animal: Tensor, *, stream: int | None = None, rows: slice | Tensor | None = None) -> Prepared:
        """Standardise the weights once for all blocks of frames, and put up the monitors of some clips.

        Parameters
        ----------
        animal : (B,) int64
        stream : int or None
        rows : slice or (n,) int64, optional
            Neurons that `step` shall read, at rest.
        """
        kept = self.core.out.weight
        where = kept.device.type
        dtype = torch.get_autocast_dtype(where) if torch.is_autocast_enabled(where) else kept.dtype
        with _plainly(kept):
            streams = range(self.settings.streams) if stream is None else [stream]
            one = slice(None) if stream is None else slice(stream, stream + 1)
            reading, base = None, None
            if rows is not None:
                at = self.readout.mu[rows].tanh()
                reading = self.readout.reading(rows, at, self.core.size_px, dtype, stream)
                base = self.readout.base(rows, stream)
            return Prepared(
                stream=stream,
                cores=[self.core.ready(number, dtype) for number in streams],
                recurrent=None if self.recurrent is None else self.recurrent.ready(stream, dtype, len(animal)),
                said=None if self.said is None else self.said.ready(one),
                place=None if self.perspective is None else self.perspective.place(animal),
                dtype=dtype,
                reading=reading,
                base=base,
            )

    def block(
        self, video: Tensor, pupil: Tensor, behaviour: Tensor, animal: Tensor, prepared: Prepared, state: State
    ) -> tuple[Tensor, State]:
        """Features (B, T, h, w, S C) of the next frames, and what the frames after them need."""
        with _plainly(video):
            if self.perspective is None:
                images = (video.to(self.core.out.weight.dtype) / 255 - 0.5) * 4  # grey is zero
            else:
                images = self.perspective(video, pupil.nan_to_num(), animal, prepared.place)
            told, body = None, None
            if self.modulation is not None:
                told, body = self.modulation(behaviour.nan_to_num(), animal, state.body, stream=prepared.stream)
            windows = self.core.windows(images.to(prepared.dtype))
            made, past = zip(
                *(
                    self.core(windows, ready, None if state.past is None else state.past[number])
                    for number, ready in enumerate(prepared.cores)
                ),
                strict=True,
            )
            memory = None
            if self.recurrent is not None:
                assert prepared.recurrent is not None
                seen, memory = self.recurrent(made, told, prepared.recurrent, state.memory)
            else:
                seen = torch.stack(made, dim=4)
                if told is not None and prepared.said is not None:
                    seen = seen + torch.einsum("btsm,scm->btsc", told, prepared.said).to(seen.dtype)[:, :, None, None]
            return seen.flatten(4), State(body, list(past), memory)

    def start(self) -> State:
        """Nothing seen yet."""
        return State()

    def step(
        self, frame: Tensor, pupil: Tensor, behaviour: Tensor, state: State, *, animal: Tensor, prepared: Prepared
    ) -> tuple[Tensor, State]:
        """Log rates after one more frame: the numbers that `forward` gives for a whole clip.

        Parameters
        ----------
        frame : (B, H, W)
        pupil : (B, 2)
        behaviour : (B, I)
        state : State
            From `start` or the step before.
        animal : (B,) int64
        prepared : Prepared
            From `prepare` with ``rows``, while the weights stay as they are.

        Returns
        -------
        (B, n)
        state
        """
        assert prepared.reading is not None, "prepare with rows"
        assert prepared.base is not None
        seen, state = self.block(frame[:, None], pupil[:, None], behaviour[:, None], animal, prepared, state)
        with _plainly(seen):
            read = [self.readout.read(clip.permute(0, 3, 1, 2), prepared.reading)[0] for clip in seen]
        return torch.stack(read) + prepared.base, state

    def _kept_blocks(self, video: Tensor, prepared: Prepared) -> int:
        """Blocks of a clip whose intermediate numbers are kept for the gradient; those of the others are made again."""
        if not torch.is_grad_enabled():
            return 0
        size = prepared.dtype.itemsize
        frame = self.core.kept(size) + (self.recurrent.kept(size) if self.recurrent is not None else 0)
        kept = torch.cuda.mem_get_info(video.device)[0] // 2 if video.is_cuda else KEEP_BYTES
        return kept // (frame * len(prepared.cores) * len(video) * BLOCK_FRAMES)


def _plainly(like: Tensor) -> torch.autocast:
    """Within: precision is chosen here, tensor by tensor, not by autocast."""
    return torch.autocast(like.device.type, enabled=False)
