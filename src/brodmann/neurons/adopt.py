"""Neurons that the core has never seen: where they look and what they listen to, found with the core kept as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from brodmann import compute
from brodmann.errors import Refused
from brodmann.neurons import energies, head, kin, search
from brodmann.neurons.retinotopy import Where
from brodmann.neurons.samples import Clip, Kept, NeuronSamples, clips

if TYPE_CHECKING:
    from brodmann.neurons.model import NeuronModel
    from brodmann.progress import Say

BLOCKS = 5
"""Blocks of time, each left out once, that judge places."""
FINER = 2
"""Places tried per pixel of the core's grid, along each axis."""
PIECE = 300
"""Longest clip that the core is shown at once; every fifth one is left out together."""
CHUNK = 300
"""Frames of features that are looked at together."""
ENOUGH = 10_000
"""Frames, evenly spread, that are enough to find where a neuron looks."""
KEPT_BYTES = 4 << 30
"""Most that the core's features of one recording may take."""
WIDEST = 64
"""Directions of the features that the search for a place uses at most."""
SURE = 0.004
"""Share of left-out variance that simple filters must predict for the place they found to be believed."""
SHARP = 0.25
"""How much narrower a position that is known is drawn than one that is not."""
RENEWED = 20_000
"""Frames of a recording, about, that its readouts are solved from while the core still learns."""
NOISE = 0.01
"""What such readouts must bear: noise in every feature, as a share of the features' mean variance."""
BEARING = tuple(NOISE * more for more in (300.0, 100.0, 30.0, 10.0, 3.0, 1.0))
"""Strengths of their prior, in units of the features' mean variance times the number of frames."""


def begin(model: NeuronModel, samples: NeuronSamples) -> None:
    """Put every neuron of a new model where simple filters predict it best: an untrained core tells that less well."""
    for number, kept in enumerate(samples.kept):
        put(model, number, *seen(kept, model.recipe.samples.burn_in, samples.where(kept)))


def put(model: NeuronModel, number: int, found: search.Found, places: Tensor) -> None:
    """Put the neurons of recording ``number`` where `seen` found that they look."""
    readout, rows = model.encoder.readout, model.slices[number]
    mu = _before_bound(_on_grid(model, number, places[found.place]), model.encoder.core.size_px)
    sure = (found.explained > SURE)[:, None]
    with torch.no_grad():
        readout.mu[rows] = torch.where(sure, mu, torch.zeros_like(mu)).to(readout.mu)
        # where nothing was predicted the whole screen stays open
        readout.sigma[rows] *= torch.where(sure, SHARP, 1.0)[..., None].to(readout.mu)


def seen(kept: Kept, burn_in: int, where: Where | None) -> tuple[search.Found, Tensor]:
    """Where simple filters predict each neuron of a recording best, and the places tried, -1 .. 1 on the screen."""
    rate_hz, shape = kept.recording.rate_hz, kept.recording.video.shape
    height, width = energies.grid_px(shape[1], shape[2])

    def block(some: Sequence[Clip]) -> Iterator[tuple[Tensor, Tensor]]:
        for clip in some:
            own = min(burn_in, clip.frames - 1)
            maps = energies.energies(torch.from_numpy(np.array(clip.inputs()["video"])), rate_hz)[own:]
            yield search.at_places(maps, height, width, FINER), torch.from_numpy(clip.responses()[own:, kept.columns])

    shown = pieces(kept, burn_in)
    moments = search.Moments.gather(block(shown[number::BLOCKS]) for number in range(BLOCKS))
    places = _positions(height, width)
    return search.search(moments, places=_square(places, height / width), where=where), places


def _positions(height: int, width: int) -> Tensor:
    """Positions (P, 2) that are tried on a grid of pixels, -1 .. 1 from edge to edge."""
    return search.grid(height, width, FINER) * torch.tensor([(width - 1) / width, (height - 1) / height])


def _square(places: Tensor, aspect: float) -> Tensor:
    """Places in half widths along both axes."""
    return places * torch.tensor([1.0, aspect])


def _on_grid(model: NeuronModel, number: int, places: Tensor) -> Tensor:
    """Places on the screen (n, 2) as positions on the core's grid, -1 .. 1 from edge to edge, for an eye at rest."""
    eye = model.encoder.perspective
    if eye is None:
        return places
    with compute.resting(eye) as device:
        animal = torch.tensor([number], device=device)
        met = eye.meet(torch.zeros(1, 1, 2, device=device), animal, eye.place(animal))[0, 0].cpu().float()
    rows, columns = met.shape[:2]
    height, width = model.encoder.size_px
    # the monitor's half width is the unit of both axes
    on_screen = met * torch.tensor([1.0, width / height])
    nearest = torch.cdist(places, on_screen.reshape(-1, 2)).argmin(1)
    at = torch.stack([nearest % columns, nearest // columns], dim=1).float()
    return (2 * at + 1) / torch.tensor([columns, rows]) - 1


def _before_bound(positions: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Positions as the readout keeps them: tanh of what is kept lies within the outer pixels' centres."""
    limit = 1 - 1 / positions.new_tensor([size_px[1], size_px[0]])
    return positions.clamp(-limit, limit).atanh()


def recordings(model: NeuronModel, samples: NeuronSamples, new: Sequence[Kept], say: Say) -> None:
    """Give the model readouts of recordings that it does not know, from their training trials; the core stays as it is.

    Eye and body start as the mean of those of the known animals. Where a neuron looks, and which known ones it is like,
    is recognised (`kin`); with more minutes a search that knows no other neurons (`search`) places better. What
    predicts left-out frames better is taken, a recording at a time. The readout is then solved there, with the
    neuron's kin as the prior (`head`).

    Parameters
    ----------
    model : NeuronModel
        Changed in place.
    samples : NeuronSamples
    new : sequence of Kept
        Recordings of the samples.
    say : Say
    """
    bank, (height, width) = _barcodes(model), model.encoder.core.size_px
    prior, positions = head.Prior.of(bank), _positions(height, width)

    def at(maps: Tensor) -> Tensor:
        return search.at_places(maps.unflatten(2, (height, width)), height, width, FINER)

    first = len(model.known)
    model.grow([samples.known(kept) for kept in new])
    with (
        compute.resting(model),
        say.progress("learn new recordings", 0, len(new), enabled=compute.lead()) as progress,
    ):
        for number, kept in enumerate(new, start=first):
            shown = recalled(model, number, kept, pieces(kept, model.recipe.samples.burn_in))
            where = samples.where(kept)
            found = kin.recognised(
                shown.features,
                shown.responses,
                bank,
                at=at,
                places=_square(positions, height / width),
                where=where,
                rate_hz=kept.recording.rate_hz,
            )
            tried = positions[found.place], look_up(model, shown, prior, where)
            judged = [head.judge(evidence(model, shown, one, prior, found.barcode)) for one in tried]
            best = int(np.argmin([loss for _, loss in judged]))
            read_out(model, number, shown, tried[best], prior, found.barcode, (judged[best][0],))
            progress.advance(kept.recording.id)


def pieces(kept: Kept, burn_in: int) -> list[Clip]:
    """Training clips of a recording, cut so short that there are several for each of `BLOCKS`.

    Raises
    ------
    Refused
        Where there are not two.
    """
    trials = kept.recording.trials
    total = int(trials.loc[trials["part"] == "train", "frames"].sum())
    found = clips(kept.recording, "train", longest=max(1, min(PIECE, max(3 * burn_in, total // (2 * BLOCKS)))))
    if len(found) < 2:
        raise Refused(
            f"{kept.recording.id} should have training time to learn its neurons from.", found=f"{total} frames.",
            do="give more, or leave the recording out.",
        )  # fmt: skip
    return found


def fewer(some: Sequence[Clip], share: int) -> Sequence[Clip]:
    """One in ``share`` clips, evenly spread, but two for each of `BLOCKS` where there are so many."""
    return some[:: max(1, min(share, len(some) // (2 * BLOCKS)))]


def renew(model: NeuronModel, samples: NeuronSamples, say: Say) -> None:
    """Solve the readouts of all known neurons on the core as it is, so that it learns from better ones.

    Gradient steps see each neuron in few frames and leave its readout full of noise, from which the core then learns.
    A readout that is only solved leans on tiny differences between features, which the core's next step destroys;
    these are solved as if every feature carried noise (`NOISE`), and bear it.
    """
    say("solving the readouts on the core as it is")
    with compute.resting(model):
        for number, kept in zip(samples.order, samples.kept, strict=True):
            some = pieces(kept, model.recipe.samples.burn_in)
            shown = recalled(model, number, kept, fewer(some, sum(clip.frames for clip in some) // RENEWED))
            covariance = _covariance(shown.features)
            prior = head.Prior(torch.zeros(len(covariance)), torch.eye(len(covariance)))
            unit = float(covariance.diagonal().mean()) * len(shown.responses)
            places = look_up(model, shown, prior, samples.where(kept))
            read_out(model, number, shown, places, prior, strengths=tuple(unit * one for one in BEARING))


def settle(model: NeuronModel, samples: NeuronSamples, say: Say) -> None:
    """Solve the readouts of all known neurons anew on the trained core, twice: what they have in common is then known.

    Gradient steps move the core and its readouts together and leave both behind; solved readouts predict better, and
    their spread is the prior for neurons to come. The first pass takes part of the time, the second all of it.
    """
    total = 2 * len(samples.kept)
    with compute.resting(model), say.progress("settle", 0, total, enabled=compute.lead()) as progress:
        wide = _barcodes(model)
        prior = head.Prior(torch.zeros(wide.shape[1]), torch.eye(wide.shape[1]) * 3 * wide.square().mean().sqrt())
        for share in (4, 1):
            covariance = torch.zeros(wide.shape[1], wide.shape[1])
            for number, kept in zip(samples.order, samples.kept, strict=True):
                shown = recalled(model, number, kept, fewer(pieces(kept, model.recipe.samples.burn_in), share))
                covariance += _covariance(shown.features) / len(samples.kept)
                read_out(model, number, shown, look_up(model, shown, prior, samples.where(kept)), prior)
                progress.advance(kept.recording.id)
            prior = head.Prior.of(_barcodes(model))
        model.spread.copy_(_root(covariance))


def spread(shown: Recalled) -> Tensor:
    """Symmetric root (C, C) of the covariance of the core's features: times a readout's weights, what it is driven by.

    Features vary by very different amounts, and weights alone say little of those that hardly do: the cosine of two
    neurons' weights so multiplied is the correlation of what drives them, were they to look at one place.
    """
    return _root(_covariance(shown.features))


def _covariance(features: Tensor) -> Tensor:
    flat = features[:, :: max(1, features.shape[1] // CHUNK)].flatten(0, 1).float()
    return torch.cov(flat.T)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


class Recalled(NamedTuple):
    """What the core said to a recording's training clips."""

    features: Tensor
    """(P, T, C) bfloat16."""
    responses: Tensor
    """(T, n) float32."""
    block: Tensor
    """(T,) int64: block of time, 0 .. `BLOCKS` - 1."""

    @property
    def last(self) -> Tensor:
        """(T,) bool: frames that choose how strong a prior is."""
        return self.block == BLOCKS - 1


def recalled(model: NeuronModel, number: int, kept: Kept, some: Sequence[Clip]) -> Recalled:
    """Core features and responses of some clips, without their burn-in; of fewer, evenly spread, if memory is short."""
    height, width = model.encoder.core.size_px
    settings = model.recipe.encoder
    held = 2 * settings.streams * settings.outputs * height * width * sum(clip.frames for clip in some)
    some = fewer(some, math.ceil(held / KEPT_BYTES))
    burn, features, answers, block = model.recipe.samples.burn_in, list[Tensor](), list[Tensor](), list[Tensor]()
    for place, clip in enumerate(some):
        own = min(burn, clip.frames - 1)
        features.append(model.features(number, clip)[own:].flatten(2).permute(2, 0, 1).to(torch.bfloat16).cpu())
        answers.append(torch.from_numpy(clip.responses()[own:, kept.columns]))
        block.append(torch.full((clip.frames - own,), place % BLOCKS))
    return Recalled(torch.cat(features, dim=1), torch.cat(answers), torch.cat(block))


def look_up(model: NeuronModel, shown: Recalled, prior: head.Prior, where: Where | None) -> Tensor:
    """Best place of every neuron among those of the core's grid, (n, 2), -1 .. 1 from edge to edge."""
    height, width = model.encoder.core.size_px
    # the prior's leading directions, each as wide as the prior is along it
    vectors, values, _ = torch.linalg.svd(prior.root)
    turn = vectors[:, :WIDEST] * values[:WIDEST]

    thin = max(1, len(shown.block) // ENOUGH)

    def chunks(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        for some in torch.nonzero(shown.block == number)[::thin, 0].split(CHUNK):
            turned = (shown.features[:, some].float() @ turn).permute(1, 2, 0).unflatten(2, (height, width))
            yield search.at_places(turned, height, width, FINER), shown.responses[some]

    moments = search.Moments.gather(chunks(number) for number in range(BLOCKS))
    places = _positions(height, width)
    found = search.search(moments, torch.eye(turn.shape[1]), places=_square(places, height / width), where=where)
    return places[found.place]


def read_out(
    model: NeuronModel,
    number: int,
    shown: Recalled,
    positions: Tensor,
    prior: head.Prior,
    centre: Tensor | None = None,
    strengths: tuple[float, ...] = head.STRENGTHS,
) -> None:
    """Readout of every neuron of one recording at positions (n, 2) on the core's grid, -1 .. 1 from edge to edge."""
    readout, rows = model.encoder.readout, model.slices[number]
    solved = head.solve(evidence(model, shown, positions, prior, centre), strengths=strengths)
    with torch.no_grad():
        readout.mu[rows] = _before_bound(positions, model.encoder.core.size_px).to(readout.mu)
        # the log rate is the mean over streams
        streams = readout.weight.shape[1]
        readout.weight[rows] = (solved.weights * streams).unflatten(1, (streams, -1)).to(readout.weight)
        readout.bias[rows] = solved.bias[:, None].to(readout.bias)


def evidence(
    model: NeuronModel, shown: Recalled, positions: Tensor, prior: head.Prior, centre: Tensor | None = None
) -> head.Evidence:
    """What a recording tells of its neurons' readouts, were they at ``positions``."""
    taps, share = search.around(positions, *model.encoder.core.size_px)

    def features(some: Tensor) -> Tensor:
        found = torch.empty(len(some), *shown.features.shape[1:])
        # one neuron and corner after another: what is added lies in the cache
        for own, places, shares in zip(found, taps[some].tolist(), share[some].tolist(), strict=True):
            own.zero_()
            for place, part in zip(places, shares, strict=True):
                own.add_(shown.features[place].float(), alpha=part)
        return found

    return head.Evidence(features, shown.responses, shown.last, prior, centre)


def _barcodes(model: NeuronModel) -> Tensor:
    """Readout weights (N, S C) of all known neurons, as they enter the mean over streams."""
    weight = model.encoder.readout.weight.detach().cpu()
    return weight.flatten(1) / weight.shape[1]
