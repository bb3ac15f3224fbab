"""The model: one core for all animals, a barcode for each neuron; learns from clips, describes neurons, predicts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from brodmann import compute
from brodmann.errors import Refused
from brodmann.neurons import adopt
from brodmann.neurons.encoder import Encoder
from brodmann.neurons.recipe import Recipe
from brodmann.neurons.samples import Clip, Kept, NeuronSamples, clips
from brodmann.progress import Say
from brodmann.samples import Batch, Loss

_ANOTHER = (
    "{} is known by its name and those of its neurons, but its responses do not begin as those that were learned: if "
    "this is another animal, or another day, give it another id"
)


_OF_A_NEURON = ("encoder.readout.", "dispersion")
_OF_AN_ANIMAL = ("encoder.perspective.", "encoder.modulation.read.")
"""First parts of names: parameters with a row for each neuron, or for each animal."""


class Known(NamedTuple):
    """A recording that the model has a readout for."""

    id: str
    neurons: tuple[str, ...]
    begins: str = ""
    """Hash of how its responses begin, see `NeuronSamples.known`; empty where nothing was recorded."""


class NeuronModel(nn.Module):
    """Predicts the responses of the neurons of some recordings; the core and its memory are shared by all.

    Parameters
    ----------
    recipe : Recipe
    known : sequence of Known
        Recordings in the order of their numbers, with the names of their neurons.
    """

    undecayed = ("gain", "bias", "mu", "sigma", "scale", "centre", "tilt", "logit", "contrast", "offset", "dispersion")
    """Last names of parameters that weight decay leaves alone: they have a scale of their own."""

    rows: Tensor
    spread: Tensor
    """(S C, S C), see `brodmann.neurons.adopt.spread`; of readouts that were never solved the identity."""

    def __init__(self, recipe: Recipe, known: Sequence[Known]) -> None:
        super().__init__()
        self.recipe = recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.encoder = self._encoder(known)
        self.dispersion = (
            nn.Parameter(torch.zeros(self.encoder.neurons)) if recipe.objective.likelihood == "nb" else None
        )
        self.settled = False
        self.register_buffer("spread", torch.eye(recipe.encoder.streams * recipe.encoder.outputs))
        self._name(known)

    def _encoder(self, known: Sequence[Known]) -> Encoder:
        size = self.recipe.samples
        encoder = Encoder(
            self.recipe.encoder,
            animals=len(known),
            neurons=sum(len(one.neurons) for one in known),
            height_px=size.height_px,
            width_px=size.width_px,
            rate_hz=size.rate_hz,
        )
        encoder.readout.jitter = self.recipe.objective.position_jitter
        # what never has a gradient must not be waited for by several processes
        encoder.readout.sigma.requires_grad_(self.recipe.objective.position_jitter)
        return encoder

    def _name(self, known: Sequence[Known]) -> None:
        self.known = tuple(known)
        # until samples say otherwise, the rows asked for are those of the readout
        self.rows = torch.arange(sum(len(one.neurons) for one in known))
        edges = np.cumsum([0, *(len(one.neurons) for one in known)]).tolist()
        self.slices = [slice(first, last) for first, last in itertools.pairwise(edges)]

    def config(self) -> dict[str, Any]:
        """What `rebuild` needs: the recordings and their neurons."""
        return {"recordings": [{**one._asdict(), "neurons": list(one.neurons)} for one in self.known]}

    def begin(self, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        """What it takes of a trained run: everything for the same recordings, else core, eye and behaviour.

        Another recording's neurons keep the places and readouts that they were built with, even if there are as many;
        its animal begins as the mean of the known ones, as one that is adopted does.
        """
        if _known(config) == self.known:
            # settled readouts lean on what the first steps will change: they are solved again before, to bear that
            self.settled = True
            return dict(state)
        shared = {name: value for name, value in state.items() if not name.startswith(_OF_A_NEURON)}
        for name in {name for name, _ in self.named_parameters() if name.startswith(_OF_AN_ANIMAL)} & set(shared):
            shared[name] = shared[name].mean(0).expand(len(self.known), *shared[name].shape[1:])
        return shared

    # ------------------------------------------------------------------------------------------------------- learning

    def loss(self, batch: Batch) -> Loss:
        """Negative log likelihood per neuron and frame of the batch's clips, after the burn-in.

        Parameters
        ----------
        batch : Batch
            From `NeuronSamples.batch`.
        """
        with _drawing(int(batch["seed"]), self.encoder.readout.mu.device):
            rates = self._log_rates(batch)
        total, count, start = torch.zeros((), device=batch["video"].device), 0, 0
        for number, log_rate in rates:
            size = log_rate.numel()
            observed = batch["responses"][start : start + size].view(log_rate.shape)
            start += size
            kept = slice(self._burn_in(log_rate.shape[1]), None)
            total = total + self._surprise(log_rate[:, kept], observed[:, kept], number).mean() * len(log_rate)
            count += len(log_rate)
        return Loss(total / count, {})

    def _log_rates(self, batch: Batch) -> list[tuple[int, Tensor]]:
        """Numbers of a batch's recordings, with log rates (clips, T, n) of clips that lie beside each other.

        While training each clip is shown to one stream, else to all.
        """
        shown = [batch[name] for name in ("video", "pupil", "behaviour", "animal")]
        parts: list[tuple[int | None, list[Tensor]]] = [(None, shown)]
        if self.training:
            found, counts = torch.unique_consecutive(batch["stream"], return_counts=True)
            cut = zip(*(one.split(counts.tolist()) for one in shown), strict=True)
            parts = [(stream, list(some)) for stream, some in zip(found.tolist(), cut, strict=True)]
        rates: list[tuple[int, Tensor]] = []
        for stream, some in parts:
            with compute.autocast(batch["video"].device, self.recipe.fit.precision):
                features = self.encoder.features(*some, stream=stream)
            numbers, counts = torch.unique_consecutive(some[-1], return_counts=True)
            for n, own in zip(numbers.tolist(), features.split(counts.tolist()), strict=True):
                rates.append((n, self.encoder.log_rates(own, self.slices[n], stream=stream).float()))
        return rates

    def _surprise(self, log_rate: Tensor, observed: Tensor, number: int) -> Tensor:
        """Negative log likelihood up to a constant; responses are in units of their mean, and need not be whole."""
        if self.dispersion is None:
            return log_rate.exp() - observed * log_rate
        # negative binomial with mean exp(log_rate) and size exp(dispersion), one for each neuron
        size = self.dispersion[self.slices[number]].exp()
        total = torch.logaddexp(log_rate, size.log())
        scaled = torch.lgamma(size) - torch.lgamma(observed + size)
        return scaled - observed * (log_rate - total) - size * (size.log() - total)

    def _burn_in(self, frames: int) -> int:
        return min(self.recipe.samples.burn_in, frames - 1)

    def judge(self, samples: NeuronSamples) -> float:
        """Loss on the validation trials of all recordings: what chooses the best checkpoint."""
        losses: list[float] = []
        for kept, number in zip(samples.kept, samples.order, strict=True):
            total, frames = 0.0, 0
            for clip in clips(kept.recording, "valid"):
                log_rate = self.log_rates(number, [clip])[0]
                observed = torch.from_numpy(clip.responses()[:, kept.columns]).to(log_rate.device)
                own = slice(self._burn_in(clip.frames), None)
                total += float(self._surprise(log_rate[own], observed[own], number).mean(1).sum())
                frames += clip.frames - self._burn_in(clip.frames)
            losses += [total / frames] if frames else []
        if not losses:
            raise Refused(
                'fit.keep = "best" needs validation trials to choose by.', found="none in any recording.",
                do='set fit.keep = "last", or mark trials as "valid".',
            )  # fmt: skip
        return math.fsum(losses) / len(losses)

    def renew(self, samples: NeuronSamples, step: int, say: Say) -> bool:
        """Solve the readouts anew where it is time, before ``step``; see `brodmann.neurons.adopt.renew`."""
        passed, odd = divmod(step, self.recipe.objective.solve_first or step + 1)
        passed = passed or int(self.settled and self.recipe.objective.solve_first > 0)
        # the slower the core learns, the longer its readouts stay right: once, twice, four times as many steps
        if odd or passed.bit_count() != 1:
            return False
        adopt.renew(self, samples, say)
        return True

    def settle(self, samples: NeuronSamples, say: Say) -> None:
        """After training: solve all readouts anew on the core, see `brodmann.neurons.adopt.settle`."""
        adopt.settle(self, samples, say)

    # ----------------------------------------------------------------------------------------------------- describing

    def suit(self, samples: NeuronSamples, say: Say | None = None) -> NeuronSamples:
        """Samples with this model's numbers; recordings it does not know are learned with the core kept as it is.

        See `brodmann.neurons.adopt`. A recording's neurons are known by name.
        """
        numbers = {one.id: number for number, one in enumerate(self.known)}
        new = [kept for kept in samples.kept if kept.recording.id not in numbers]
        for kept in samples.kept:
            if kept.recording.id in numbers and samples.named(kept) != self.known[numbers[kept.recording.id]].neurons:
                raise Refused(
                    f"neurons of {kept.recording.id} should be those that the model was trained on.",
                    found="other names, or another order.",
                    cause="another recording of the same name, or a changed file.",
                    do="rename it, or give the data of the run.",
                )
        begins = {one.id: one.begins for one in self.known}
        other = [
            kept.recording.id
            for kept in samples.kept
            if begins.get(kept.recording.id, "") not in {"", samples.known(kept)[2]}
        ]
        if new:
            adopt.recordings(self, samples, new, say or Say(quiet=True))
            numbers = {one.id: number for number, one in enumerate(self.known)}
        order = [numbers[kept.recording.id] for kept in samples.kept]
        rows = [torch.arange(self.slices[n].start, self.slices[n].stop) for n in order]
        self.rows = torch.cat([torch.zeros(0, dtype=torch.int64), *rows])
        return samples.ordered(order, [_ANOTHER.format(name) for name in other])

    def grow(self, more: Sequence[tuple[str, tuple[str, ...], str]]) -> None:
        """Make room for further recordings; what they share with none is the mean of what the known ones have."""
        old, count = self.encoder.state_dict(), (len(self.known), sum(len(one.neurons) for one in self.known))
        self._name([*self.known, *(Known(*one) for one in more)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            encoder = self._encoder(self.known)
        fresh = encoder.state_dict()
        for name, value in old.items():
            own = name.startswith("readout.")
            if own or fresh[name].shape != value.shape:
                fresh[name][: count[own]] = value
                if not own:
                    fresh[name][count[own] :] = value.mean(0)
            else:
                fresh[name] = value
        encoder.load_state_dict(fresh)
        device = self.encoder.readout.mu.device
        self.encoder = encoder.to(device).train(self.training)
        if self.dispersion is not None:
            more_rows = torch.zeros(encoder.neurons - len(self.dispersion), device=device)
            self.dispersion = nn.Parameter(torch.cat([self.dispersion.detach(), more_rows]))

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """Functional barcodes (m, S C) float32 of the neurons that `NeuronSamples.read` named: unit vectors.

        The readout's weights, in units of how much the features vary: their length tells how strongly a neuron is
        driven, their direction by what.
        """
        weight = self.encoder.readout.weight.detach()[self.rows[batch["index"].cpu()]].flatten(1).float().cpu()
        weight = weight @ self.spread.cpu()
        return (weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12)).numpy()

    # ----------------------------------------------------------------------------------------------------- predicting

    @torch.no_grad()
    def features(self, number: int, clip: Clip) -> Tensor:
        """Core features (T, S C, h, w) of one clip."""
        device = self.encoder.readout.mu.device
        shown = {name: torch.from_numpy(np.array(value))[None].to(device) for name, value in clip.inputs().items()}
        animal = torch.tensor([number], device=device)
        with compute.autocast(device, self.recipe.fit.precision):
            return self.encoder.features(shown["video"], shown["pupil"], shown["behaviour"], animal)[0]

    @torch.no_grad()
    def log_rates(self, number: int, some: Sequence[Clip]) -> list[Tensor]:
        """Log rates (T, n) of a recording's neurons to each clip, averaged over streams."""
        return [
            self.encoder.log_rates(self.features(number, clip)[None], self.slices[number])[0].float() for clip in some
        ]

    def predict(self, kept: Kept, clip: Clip) -> NDArray[np.float32]:
        """Predicted responses (T, n) of a recording's neurons to a clip, in units of their training mean."""
        number = next(n for n, one in enumerate(self.known) if one.id == kept.recording.id)
        with compute.resting(self):
            return self.log_rates(number, [clip])[0].exp().cpu().numpy()


@contextmanager
def _drawing(seed: int, device: torch.device) -> Generator[None]:
    """What the network draws depends on the batch alone; the process's own generator is left as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def build(recipe: Recipe, samples: NeuronSamples) -> NeuronModel:
    """The recipe's model for the neurons of some samples; every neuron starts where it is predicted best.

    Positions are searched on features of the untrained core, see `brodmann.neurons.search`.
    """
    model = NeuronModel(recipe, [Known(*samples.known(kept)) for kept in samples.kept])
    adopt.begin(model, samples)
    return model


def rebuild(recipe: Recipe, config: Mapping[str, Any]) -> NeuronModel:
    """The model of a trained run, before its weights are put back."""
    return NeuronModel(recipe, _known(config))


def _known(config: Mapping[str, Any]) -> tuple[Known, ...]:
    return tuple(
        Known(str(one["id"]), tuple(one["neurons"]), str(one.get("begins", ""))) for one in config["recordings"]
    )
