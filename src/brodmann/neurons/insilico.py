"""Physiology on the model: gratings, flashing dots, and the video that drives a neuron most.

Every stimulus is shown to a resting eye (pupil at its mean) of an animal whose behaviour is at its mean, after grey.
How many degrees the screen spans is not known to the model: spatial frequency is in cycles per width of the screen.
Directions are those of motion, 0 to the right and 90 down, as pixels count; the bars of a grating stand at a right
angle to them.

B clips, T frames, (H, W) pixels of the screen, n neurons of a recording, D directions.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from brodmann import compute
from brodmann.errors import Usage
from brodmann.samples import stream

if TYPE_CHECKING:
    from brodmann.neurons.model import NeuronModel
    from brodmann.neurons.samples import NeuronSamples

Floats = NDArray[np.float32]

CYCLES = (3.0, 6.0, 12.0)
"""Spatial frequencies, cycles per width of the screen."""
DRIFT_HZ = (2.0, 4.0, 8.0)
"""Temporal frequencies: whole cycles in half a second."""
GREY = 127.5
GREY_FRAMES = 10
"""Frames of grey before every stimulus: the network fills its memory."""
CONTRAST = 0.8
_CLIPS = 8
_TAKE_FRAMES = 300


class Gratings(NamedTuple):
    """Mean predicted rates to full-screen drifting gratings."""

    rates: Floats
    """(spatial frequencies, temporal frequencies, D, n) in units of the training mean."""
    directions_deg: NDArray[np.float64]
    """(D,) of motion."""
    cycles: tuple[float, ...]
    drift_hz: tuple[float, ...]

    def best(self) -> NDArray[np.int64]:
        """(n, 3): numbers of the spatial frequency, temporal frequency and direction that each neuron prefers."""
        shape, neurons = self.rates.shape[:3], self.rates.shape[3]
        return np.stack(np.unravel_index(self.rates.reshape(-1, neurons).argmax(0), shape), axis=1)

    def curves(self) -> Floats:
        """(n, D): rate by direction at each neuron's best spatial and temporal frequency."""
        best = self.best()
        return self.rates[best[:, 0], best[:, 1], :, np.arange(len(best))]


class Dots(NamedTuple):
    """Flashing dots and the predicted rates to them, for a response-weighted average."""

    stimulus: NDArray[np.uint8]
    """(T, H, W)."""
    responses: Floats
    """(T, n)."""


class Exciting(NamedTuple):
    """The video that was found for one neuron."""

    video: NDArray[np.uint8]
    """(T, H, W)."""
    rate: float
    """Mean predicted rate over the second half of it, in units of the training mean."""
    grating: float
    """The same for the best grating, where the search began."""


def grating(
    direction_deg: float, cycles: float, drift_hz: float, *, frames: int, size_px: tuple[int, int], rate_hz: float
) -> Floats:
    """A grating (T, H, W) float32 of `CONTRAST`, 0 to 255, that moves towards ``direction_deg``."""
    height, width = size_px
    y, x = np.mgrid[:height, :width].astype(np.float64)
    angle = np.deg2rad(direction_deg)
    along = ((x - (width - 1) / 2) * np.cos(angle) + (y - (height - 1) / 2) * np.sin(angle)) / width
    phase = cycles * along - drift_hz / rate_hz * np.arange(frames)[:, None, None]
    return (GREY + GREY * CONTRAST * np.cos(2 * np.pi * phase)).astype(np.float32)


def gratings(
    model: NeuronModel,
    number: int,
    *,
    directions: int = 16,
    cycles: tuple[float, ...] = CYCLES,
    drift_hz: tuple[float, ...] = DRIFT_HZ,
    frames: int = 30,
) -> Gratings:
    """Show full-screen drifting gratings; the mean rate is that of the second half of each.

    Parameters
    ----------
    model : NeuronModel
    number : int
        Of the recording, in ``model.known``.
    directions : int
        Spread evenly over 360 degrees.
    cycles : tuple of float
        Spatial frequencies, cycles per width of the screen.
    drift_hz : tuple of float
        Temporal frequencies; whole cycles in the second half keep the phase out of the mean.
    frames : int
        Of a grating, after `GREY_FRAMES` of grey.

    Returns
    -------
    Gratings
    """
    size_px, rate_hz = _screen(model)
    angles = np.arange(directions) * 360 / directions
    shown = list(itertools.product(cycles, drift_hz, angles.tolist()))
    found: list[Tensor] = []
    with compute.resting(model):
        for start in range(0, len(shown), _CLIPS):
            some = [
                grating(angle, sf, tf, frames=frames, size_px=size_px, rate_hz=rate_hz)
                for sf, tf, angle in shown[start : start + _CLIPS]
            ]
            found.append(_second_half(_rates(model, number, torch.from_numpy(np.stack(some)))).cpu())
    rates = torch.cat(found).unflatten(0, (len(cycles), len(drift_hz), directions))
    return Gratings(rates.numpy(), angles, tuple(cycles), tuple(drift_hz))


def receptive_fields(
    model: NeuronModel, number: int, *, frames: int = 1800, hold: int = 4, dots: int = 4, seed: int = 0
) -> Dots:
    """Show bright and dark Gaussian dots that flash on grey, at random places.

    Parameters
    ----------
    model : NeuronModel
    number : int
        Of the recording, in ``model.known``.
    frames : int
        Of all.
    hold : int
        Frames for which dots stay.
    dots : int
        At a time; their SD is 1/24 of the screen's width.
    seed : int
        Key of the places.

    Returns
    -------
    Dots
        For `brodmann.tasks._tuning.triggered` and `fields`.
    """
    (height, width), _ = _screen(model)
    rng = stream(seed, "flashing dots", number, frames)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    video = np.empty((frames, height, width), np.uint8)
    sd = width / 24
    for start in range(0, frames, hold):
        total = np.zeros((height, width), np.float32)
        for _ in range(dots):
            px, py = rng.uniform(0, width - 1), rng.uniform(0, height - 1)
            total += rng.choice([-1.0, 1.0]) * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sd**2))
        video[start : start + hold] = np.rint(GREY + GREY * np.clip(total, -1, 1))
    with compute.resting(model):
        takes = [
            _rates(model, number, torch.from_numpy(video[None, start : start + _TAKE_FRAMES]))[0].cpu()
            for start in range(0, frames, _TAKE_FRAMES)
        ]
    return Dots(video, torch.cat(takes).numpy())


def most_exciting(
    model: NeuronModel,
    number: int,
    neuron: int,
    *,
    frames: int = 30,
    steps: int = 20,
    pace: float = 0.1,
    shown: Gratings | None = None,
) -> Exciting:
    """Climb from a neuron's best grating to a video that drives it more, at no more contrast.

    Gradient ascent on the mean rate over the second half (after Walker et al., Nature Neuroscience 22, 2019), each step
    a fixed share of the grating's norm along the smoothed gradient; the distance from grey never exceeds that of the
    grating, and values stay within 0 to 255.

    Parameters
    ----------
    model : NeuronModel
    number, neuron : int
        The recording in ``model.known``, and the neuron among its own.
    frames : int
        Length of the video, after `GREY_FRAMES` of grey.
    steps : int
    pace : float
        Length of a step, as a share of the norm.
    shown : Gratings, optional
        From `gratings` of this recording; by default they are shown first.

    Returns
    -------
    Exciting
        The best of all steps.

    Raises
    ------
    Usage
        There is no such neuron.
    """
    rows = model.slices[number]
    if not 0 <= neuron < rows.stop - rows.start:
        raise Usage(
            f"the neuron should be one of the {rows.stop - rows.start} of {model.known[number].id}.", found=f"{neuron}."
        )
    size_px, rate_hz = _screen(model)
    shown = shown or gratings(model, number, frames=frames)
    sf, tf, direction = shown.best()[neuron].tolist()
    angle, across, drift = float(shown.directions_deg[direction]), shown.cycles[sf], shown.drift_hz[tf]
    first = grating(angle, across, drift, frames=frames, size_px=size_px, rate_hz=rate_hz)
    away = torch.from_numpy(first) - GREY
    most = away.norm()
    own = slice(rows.start + neuron, rows.start + neuron + 1)

    def rate(video: Tensor) -> Tensor:
        return _second_half(_rates(model, number, video[None], own))[0, 0]

    best, highest = away, -np.inf
    with compute.resting(model):
        for _ in range(steps):
            with torch.enable_grad():
                here = away.clone().requires_grad_()
                value = rate(here + GREY)
                (slope,) = torch.autograd.grad(value, here)
            if float(value) > highest:
                best, highest = away, float(value)
            # neighbouring pixels move together: else the video fills with what only the network sees
            smooth = F.avg_pool2d(slope[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
            away = away + pace * most * smooth / smooth.norm().clamp_min(1e-20)
            away = (away * (most / away.norm()).clamp_max(1)).clamp(-GREY, GREY)
        last = max((best, away), key=lambda one: float(rate(one + GREY)))
        video = (last + GREY).round().to(torch.uint8)
        return Exciting(video.numpy(), float(rate(video)), float(rate(torch.from_numpy(first))))


def tunings(recipe: Any, model: NeuronModel, samples: NeuronSamples) -> dict[str, Any]:
    """Tuning curves of every neuron of some samples, as `brodmann.tasks.tuning.tuning` takes them.

    Parameters
    ----------
    recipe : Recipe
    model : NeuronModel
        That the samples suit.
    samples : NeuronSamples

    Returns
    -------
    dict
        ``curves`` (N, 16) float32, ``directions_deg`` (16,), ``ids``, ``subjects`` (N,) str, ``positions`` (N, 3) mm.
    """
    del recipe
    shown = [gratings(model, number) for number in samples.order]
    places = samples.places
    return {
        "curves": np.concatenate([one.curves() for one in shown]),
        "directions_deg": shown[0].directions_deg,
        "ids": places["id"].to_numpy(dtype=object),
        "subjects": places["subject"].astype(str).to_numpy(dtype=object),
        "positions": places[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float64),
    }


def _screen(model: NeuronModel) -> tuple[tuple[int, int], float]:
    size = model.recipe.samples
    return (size.height_px, size.width_px), size.rate_hz


def _rates(model: NeuronModel, number: int, video: Tensor, rows: slice | None = None) -> Tensor:
    """Predicted rates (B, T, n) to videos (B, T, H, W), after grey."""
    where = next(model.parameters()).device
    shown = F.pad(video.float(), (0, 0, 0, 0, GREY_FRAMES, 0), value=GREY).to(where)
    still = torch.zeros(*shown.shape[:2], 2, device=where)
    animal = torch.full((len(shown),), number, device=where)
    with compute.autocast(where, model.recipe.fit.precision):
        features = model.encoder.features(shown, still, still, animal)
    return model.encoder.log_rates(features[:, GREY_FRAMES:], rows or model.slices[number]).float().exp()


def _second_half(rates: Tensor) -> Tensor:
    return rates[:, rates.shape[1] // 2 :].mean(1)
