"""What barcodes are measured against: where a neuron looks, how it fires, simple filters, an untrained core."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brodmann import compute
from brodmann.neurons import adopt, head, search, statistics
from brodmann.neurons.model import Known, NeuronModel
from brodmann.neurons.recipe import Recipe
from brodmann.neurons.samples import Kept, NeuronSamples
from brodmann.samples import Batch

Floats = NDArray[np.float32]
Describe = Callable[[Batch], Floats]
LAGS_S = (1 / 30, 0.1, 1 / 3, 1.0)
_SHARE = 4  # one in so many clips teaches the readouts of the untrained core


def controls(recipe: Recipe, samples: NeuronSamples) -> dict[str, Describe]:
    """Rivals of the barcodes by name; each describes the rows that a batch names, recording by recording.

    ``position``: where simple filters find that a neuron looks. ``statistics``: of its responses, without the video.
    ``filters``: its linear readout of simple filters. ``untrained``: its readout of the recipe's core before training.
    Readouts are in units of how much the features vary, as barcodes are.
    """

    @cache
    def seen(number: int) -> tuple[search.Found, Tensor]:
        kept = samples.kept[number]
        return adopt.seen(kept, recipe.samples.burn_in, samples.where(kept))

    @cache
    def filters(number: int) -> Floats:
        found = seen(number)[0]
        return _unit((found.weights * found.sd).numpy())

    @cache
    def position(number: int) -> Floats:
        found, places = seen(number)
        return places[found.place].numpy().astype(np.float32)

    @cache
    def fired(number: int) -> Floats:
        return response_statistics(samples.kept[number])

    @cache
    def untrained(number: int) -> Floats:
        return _unit(_untrained(recipe, samples, samples.kept[number], *seen(number)))

    return {
        "untrained": _by_recording(samples, untrained),
        "statistics": _by_recording(samples, fired),
        "filters": _by_recording(samples, filters),
        "position": _by_recording(samples, position),
    }


def response_statistics(kept: Kept) -> Floats:
    """How each neuron fires (n, 12) float32 on training frames: nothing of it needs the video.

    Log mean and log coefficient of variation; skewness; share of silent frames; autocorrelation at `LAGS_S`;
    correlations with running, pupil radius and the mean of the other neurons; largest response in units of the mean.
    """
    rows = kept.recording.frames("train")
    raw = statistics.responses(kept.recording, rows)[:, kept.columns].astype(np.float64)
    level = np.asarray(statistics.of(kept.recording).mean)[kept.columns]
    centred = raw - raw.mean(0)
    sd = np.maximum(centred.std(0), 1e-6)
    z = centred / sd
    lags = [max(1, round(lag * kept.recording.rate_hz)) for lag in LAGS_S]
    behaviour, _ = statistics.standardised(kept.recording, rows)
    others = (z.sum(1, keepdims=True) - z) / max(1, z.shape[1] - 1)
    columns: list[NDArray[Any]] = [
        np.log(np.maximum(level, 1e-6)),
        np.log(sd),
        (z**3).mean(0),
        (raw == 0).mean(0),
        *((z[lag:] * z[:-lag]).mean(0) for lag in lags),
        *(z.T @ behaviour.astype(np.float64) / len(z)).T,
        (z * others).mean(0) / np.maximum(others.std(0), 1e-9),
        np.log(np.maximum(raw.max(0), 1e-6)),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _untrained(
    recipe: Recipe, samples: NeuronSamples, kept: Kept, found: search.Found, places: Tensor
) -> NDArray[np.float32]:
    """Barcodes of one recording on the recipe's core before training, solved as those of the trained core are."""
    model = NeuronModel(recipe, [Known(*samples.known(kept))]).to(compute.device())
    adopt.put(model, 0, found, places)
    width = recipe.encoder.outputs * recipe.encoder.streams
    with compute.resting(model):
        some = adopt.fewer(adopt.pieces(kept, recipe.samples.burn_in), _SHARE)
        shown = adopt.recalled(model, 0, kept, some)
        positions = model.encoder.readout.mu[model.slices[0]].tanh().cpu()
        adopt.read_out(model, 0, shown, positions, head.Prior(torch.zeros(width), torch.eye(width)))
    return (model.encoder.readout.weight.detach().flatten(1).cpu() @ adopt.spread(shown)).numpy()


def _by_recording(samples: NeuronSamples, describe: Callable[[int], Floats]) -> Describe:
    first = np.array([kept.first for kept in samples.kept])

    def rows(batch: Batch) -> Floats:
        index = batch["index"].cpu().numpy()
        number = np.searchsorted(first, index, side="right") - 1
        return np.stack([describe(int(n))[i - first[n]] for i, n in zip(index, number, strict=True)])

    return rows


def _unit(rows: NDArray[np.floating[Any]]) -> Floats:
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)
