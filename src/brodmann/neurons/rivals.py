"""What the network is measured against: a linear readout of simple filters at the place where each neuron looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brodmann.neurons import adopt, energies, search
from brodmann.neurons.answers import Predict

if TYPE_CHECKING:
    from brodmann.neurons.samples import Clip, Kept, NeuronSamples

LEAST = 0.01
"""Least rate that is predicted, in units of the training mean: rates are not negative."""


def linear(samples: NeuronSamples) -> Predict:
    """Ridge regression on local brightness, contrast, change and motion, see `brodmann.neurons.energies`.

    Place, weights and strength of the prior are those that predict left-out blocks of the training trials best, see
    `brodmann.neurons.adopt.seen`; fitted when a recording is first asked for. Pupil and running do not enter.

    Parameters
    ----------
    samples : NeuronSamples

    Returns
    -------
    callable
        Predicted responses (T, n) float32 of a recording's neurons to a clip, in units of their training mean.
    """
    fitted: dict[str, search.Found] = {}
    last: dict[tuple[str, int, int], NDArray[np.float32]] = {}

    def predict(kept: Kept, clip: Clip) -> NDArray[np.float32]:
        name = kept.recording.id
        if name not in fitted:
            fitted[name], _ = adopt.seen(kept, samples.recipe.samples.burn_in, samples.where(kept))
        # repeats of a video come one after the other, and the filters see nothing but the video
        key = (name, clip.video, clip.frames)
        if key not in last:
            last.clear()
            last[key] = _read(fitted[name], _maps(clip)).numpy()
        return last[key]

    return predict


def _maps(clip: Clip) -> Tensor:
    """Energies of a clip at the places that were tried, (P, T, C)."""
    height, width = energies.grid_px(*clip.recording.video.shape[1:])
    video = torch.from_numpy(np.array(clip.recording.video[clip.video : clip.video + clip.frames]))
    return search.at_places(energies.energies(video, clip.recording.rate_hz), height, width, adopt.FINER)


def _read(found: search.Found, maps: Tensor) -> Tensor:
    """Linear readout of every neuron at its place, (T, n)."""
    said = torch.empty(maps.shape[1], len(found.place))
    for place in found.place.unique().tolist():
        here = torch.nonzero(found.place == place)[:, 0]
        said[:, here] = maps[place] @ found.weights[here].T + found.intercept[here]
    return said.clamp_min(LEAST)
