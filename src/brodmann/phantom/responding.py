"""How the planted neurons answer: eye, receptive field, normalisation, behaviour, slow shared noise, spikes, trace.

Frame by frame: the video as the turned eye sees it, two Gabor filters in quadrature in space and two in time (Adelson &
Bergen 1985), division by local contrast (Heeger 1992), a half-rectified power for simple cells, the root of the energy
for complex ones, the size of a smooth difference of Gaussians for broad ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import signal

from brodmann.phantom.chance import compiled, scramble, uniform, white
from brodmann.phantom.population import TYPES
from brodmann.phantom.videos import GREY, Screen, Video, natural
from brodmann.samples import stream

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

MEMORY_S = 0.36
"""Length of the temporal filters: what a neuron remembers of the video."""
KERNEL_S = (0.05, 0.17)
"""Decay and length of what one spike leaves in the trace."""
MOST = 15.0
"""No response to video is larger than so many times its mean."""
_CONTRAST_S = 0.1
_REFERENCE_S = 60.0


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What one animal did, per frame; ``T`` frames.

    Attributes
    ----------
    gaze_deg : (T, 2) float32
        Where the eye points, x to the right and y down, degrees from its mean.
    pupil : (T, 2) float32
        Centre of the pupil in the picture of the eye, px; linear in the gaze, and noise of 0.2 px.
    radius, running : (T,) float32
        Radius of the pupil, px; speed on the wheel, cm/s.
    state : (T, 2) float32
        What rates follow: running, late and saturating, and the pupil, both about one SD wide.
    """

    gaze_deg: Floats
    pupil: Floats
    radius: Floats
    running: Floats
    state: Floats


def behave(rng: np.random.Generator, frames: int, rate_hz: float, gaze_sd_deg: float = 3.0) -> Behaviour:
    """Draw eye movements and behaviour; camera and eye differ a little between calls."""
    jumps = np.cumsum(rng.random(frames) < 0.35 / rate_hz)
    targets = rng.normal(0, 1, (jumps[-1] + 1, 2)) * (1.1, 0.7)
    gaze = gaze_sd_deg * (0.85 * targets[jumps] + 0.5 * np.stack([_slow(rng, frames, 8 * rate_hz) for _ in "xy"], 1))
    angle, gain = np.deg2rad(rng.normal(0, 8)), 3.0 * np.exp(rng.normal(0, 0.1))
    turn = gain * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pupil = rng.uniform((140, 100), (180, 140)) + gaze @ turn.T + rng.normal(0, 0.2, (frames, 2))
    runs = _slow(rng, frames, 12 * rate_hz) + 0.35 * _slow(rng, frames, 1.5 * rate_hz) > 0.45
    pace = runs * np.maximum(14 + 5 * _slow(rng, frames, 2 * rate_hz), 2)
    running = np.maximum(_late(pace, 0.4 * rate_hz) + 0.05 * np.abs(rng.normal(0, 1, frames)), 0)
    late = np.tanh(_late(running, 0.6 * rate_hz) / 10)
    wide = _slow(rng, frames, 6 * rate_hz) + 1.2 * (_late(running, 1.5 * rate_hz) / 14 - 0.35)
    radius = np.maximum(24 + 4 * wide + rng.normal(0, 0.15, frames), 4)
    state = np.stack([2.2 * (late - 0.35), wide], axis=1)
    return Behaviour(*(np.ascontiguousarray(part, np.float32) for part in (gaze, pupil, radius, running, state)))


def drift(rng: np.random.Generator, frames: int, rate_hz: float) -> Floats:
    """Slow factors that many neurons share, (T, 3) float32, SD 1, lasting 0.7, 4 and 30 s."""
    return np.stack([_slow(rng, frames, length * rate_hz) for length in (0.7, 4, 30)], axis=1).astype(np.float32)


def _slow(rng: np.random.Generator, frames: int, length: float) -> Array:
    """Smooth noise of SD 1: two first-order filters in a row; starts in its steady state."""
    warm = round(6 * length)
    a = np.exp(-2 / max(length, 2.0))
    noise = rng.normal(0, 1, frames + warm)
    smooth = np.asarray(signal.lfilter([(1 - a) ** 2], [1, -2 * a, a * a], noise), np.float64)[warm:]
    # Variance of the two filters in a row.
    return smooth / np.sqrt((1 - a) ** 4 * (1 + a * a) / (1 - a * a) ** 3)


def _late(values: NDArray[Any], length: float) -> Array:
    """Causal exponential mean over about ``length`` frames."""
    a = np.exp(-1 / max(length, 1e-3))
    return np.asarray(signal.lfilter([1 - a], [1, -a], values), np.float64)


@compiled
def look(video: Any, gaze_px: Any, retina: Any) -> None:
    """What falls on the retina: the video (f, H, W) moved against the gaze (f, 2) px, bilinear, grey beyond.

    ``retina`` (f, H * W) float32 is filled with contrast in [-1, 1].
    """
    frames, high, wide = video.shape
    for f in range(frames):
        dx, dy = gaze_px[f, 0], gaze_px[f, 1]
        i0, j0 = int(np.floor(dx)), int(np.floor(dy))
        a, b = dx - i0, dy - j0
        for j in range(high):
            for i in range(wide):
                total = 0.0
                for q in range(2):
                    for p in range(2):
                        jj, ii = j + j0 + q, i + i0 + p
                        if 0 <= jj < high and 0 <= ii < wide:
                            share = (a if p else 1 - a) * (b if q else 1 - b)
                            total += share * (float(video[f, jj, ii]) - GREY)
                retina[f, j * wide + i] = total / GREY


class Neurons:
    """The planted neurons of one animal as filters.

    Parameters
    ----------
    planted : DataFrame
        See `population.plant`.
    screen : Screen
    seed : int
        Of the natural video (60 s, the same for all animals) against which thresholds and gains are set.
    """

    def __init__(self, planted: pd.DataFrame, screen: Screen, *, seed: int) -> None:
        self.planted, self.screen = planted, screen
        self._space, self._pool = _spatial(planted, screen)
        self._time = _temporal(planted, screen)
        self._kind = planted["type"].cat.codes.to_numpy(np.int64)
        columns = planted[["phase", "saturation", "threshold", "power", "direction_selectivity"]].to_numpy(np.float64)
        self._shape = np.ascontiguousarray(columns)
        frames = round(_REFERENCE_S * screen.rate_hz)
        reference = natural(stream(seed, "phantom", "neurons", "reference"), frames, screen)
        drive = self._drive(reference, np.zeros((frames, 2), np.float32))
        self._width = drive.std(axis=0)
        self._mean = np.ones(len(planted))
        self._mean = np.maximum(self._fire(drive).mean(axis=0), 1e-3)

    @property
    def memory(self) -> int:
        """Frames of video that an answer depends on."""
        return len(self._time)

    def visual(self, video: Video, gaze_deg: NDArray[np.floating] | None = None) -> Floats:
        """Answers to a video (f, H, W) that follows a long grey screen, mean 1 to natural video; (f, n) float32.

        ``gaze_deg`` (f, 2) is where the eye points, straight ahead by default. Undriven neurons answer 1 throughout.
        """
        gaze = np.zeros((len(video), 2), np.float32) if gaze_deg is None else np.asarray(gaze_deg, np.float32)
        answers = self._fire(self._drive(video, gaze))
        answers[:, ~self.planted["driven"].to_numpy(dtype=bool)] = 1.0
        return answers.astype(np.float32)

    def rates(self, video: Video, gaze_deg: NDArray[np.floating] | None, state: Floats) -> Floats:
        """Expected spikes per second given video, gaze and behaviour (`Behaviour.state`), (f, n) float32."""
        own = self.planted
        base = own["spontaneous"].to_numpy()
        gain = np.exp(np.clip(state @ own[["running_gain", "pupil_gain"]].to_numpy(np.float32).T, -1.5, 1.5))
        return (own["rate_hz"].to_numpy() * (base + (1 - base) * self.visual(video, gaze_deg)) * gain).astype(
            np.float32
        )

    def _fire(self, drive: Array) -> Array:
        """Threshold and power, (f, n); then relative to the mean over natural video."""
        over = np.maximum(drive / self._width - self._shape[:, 2], 0)
        return np.minimum(over ** self._shape[:, 3] / self._mean, MOST)

    def _drive(self, video: Video, gaze: Floats) -> Array:
        """Normalised output of the filters, (f, n)."""
        retina = np.empty((len(video), self.screen.height_px * self.screen.width_px), np.float32)
        look(video, (gaze * self.screen.degree_px).astype(np.float64), retina)
        filtered, energy = retina @ self._space, retina**2 @ self._pool
        keep = float(np.exp(-1 / (_CONTRAST_S * self.screen.rate_hz)))
        out = np.empty((len(video), len(self._kind)))
        _respond(filtered, energy, self._time, self._kind, self._shape, keep, out)
        return out


def _spatial(planted: pd.DataFrame, screen: Screen) -> tuple[Floats, Floats]:
    """Gabors in quadrature side by side (H * W, 2 n), and the pools (H * W, n) of local contrast, which sum to 1."""
    x, y = (part.reshape(-1, 1) for part in screen.mesh())
    own = {name: planted[name].to_numpy(np.float64) for name in planted.columns if planted[name].dtype == np.float64}
    dx, dy, sd = x - own["rf_x_deg"], y - own["rf_y_deg"], own["rf_deg"] / (2 * np.sqrt(2 * np.log(2)))
    angle = np.deg2rad(own["direction_deg"])
    along = 2 * np.pi * own["sf_cpd"] * (dx * np.cos(angle) + dy * np.sin(angle))
    square = dx**2 + dy**2
    window = np.exp(-square / (2 * sd**2))
    even, odd = window * np.cos(along), window * np.sin(along)
    # An even Gabor would answer to plain brightness; so much of its window is taken off that it does not.
    even -= window * (even.sum(axis=0) / window.sum(axis=0))
    wide = np.exp(-square / (2 * (2 * sd) ** 2))
    ring = window / window.sum(axis=0) - 0.8 * wide / wide.sum(axis=0)
    broad = (planted["type"] == "broad").to_numpy()
    even, odd = np.where(broad, ring, even), np.where(broad, 0.0, odd)
    size = np.sqrt((even**2).sum(axis=0))
    pool = np.exp(-square / (2 * (1.5 * sd) ** 2))
    both = np.concatenate([even / size, odd / size], axis=1)
    return both.astype(np.float32), (pool / pool.sum(axis=0)).astype(np.float32)


def _temporal(planted: pd.DataFrame, screen: Screen) -> Array:
    """Two causal filters in quadrature per neuron, (lags, 2, n), each of energy 1."""
    lag = (np.arange(max(3, round(MEMORY_S * screen.rate_hz))) / screen.rate_hz)[:, None]
    tf = planted["tf_hz"].to_numpy(np.float64)
    # Fast neurons also answer sooner.
    peak = np.clip(0.22 / tf, 0.05, 0.12)
    window = (lag / peak) ** 2 * np.exp(2 * (1 - lag / peak))
    wave = 2 * np.pi * tf * (lag - peak)
    filters = np.stack([window * np.cos(wave), window * np.sin(wave)], axis=1)
    return np.ascontiguousarray(filters / np.sqrt((filters**2).sum(axis=0)))


@compiled
def _respond(
    filtered: Any, energy: Any, time: Any, kind: Any, shape: Any, keep: float, out: Any
) -> None:  # fmt: skip
    """From filtered video (f, 2 n) and local energy (f, n) to answers (f, n), before threshold and power."""
    frames, n = out.shape
    lags = time.shape[0]
    for k in range(n):
        contrast = 0.0
        for f in range(frames):
            contrast = keep * contrast + (1 - keep) * energy[f, k]
            even_1, even_2, odd_1, odd_2 = 0.0, 0.0, 0.0, 0.0
            for lag in range(min(lags, f + 1)):
                even, odd = filtered[f - lag, k], filtered[f - lag, n + k]
                even_1 += time[lag, 0, k] * even
                even_2 += time[lag, 1, k] * even
                odd_1 += time[lag, 0, k] * odd
                odd_2 += time[lag, 1, k] * odd
            side = shape[k, 4]
            a, b = even_1 - side * odd_2, odd_1 + side * even_2
            if kind[k] == 0:
                value = a * np.cos(shape[k, 0]) + b * np.sin(shape[k, 0])
            elif kind[k] == 1:
                value = np.sqrt(a * a + b * b)
            else:
                value = abs(even_1)
            out[f, k] = value / (shape[k, 1] + np.sqrt(contrast))


assert TYPES == ("simple", "complex", "broad")


@compiled
def observe(rates: Any, unit: Any, blur: Any, kernel: Any, per_frame: float, grain: float, seed: Any, out: Any) -> None:
    """Draw spikes and what is seen of them: rates (f, n) Hz -> trace (f, n) float32, not negative.

    ``grain`` scales the variance of counts (1: Poisson; 0: no chance, and none in the observation). Chance is counted
    by neuron and frame, so that a rate that differs in its last bit changes nothing else.
    """
    frames, n = rates.shape
    state = np.zeros(1, np.uint64)
    count = np.zeros(frames)
    for k in range(n):
        state[0] = scramble(np.uint64(seed) ^ scramble(np.uint64(k)))
        for f in range(frames):
            mean = rates[f, k] * per_frame
            if grain == 0.0:
                count[f] = mean
                continue
            lam = mean / grain
            u, spikes = uniform(state), 0
            chance = np.exp(-lam)
            total = chance
            while u > total and spikes < 200:
                spikes += 1
                chance *= lam / spikes
                total += chance
            count[f] = spikes * grain
        for f in range(frames):
            value = 0.0
            for lag in range(min(len(kernel), f + 1)):
                value += kernel[lag] * count[f - lag]
            value = unit[k] * value + grain * blur[k] * white(state[0], f)
            out[f, k] = max(value, 0.0)


def kernel(rate_hz: float) -> Array:
    """What one spike leaves in the trace, per frame, sum 1."""
    decay, length = KERNEL_S
    values = np.exp(-np.arange(max(1, round(length * rate_hz))) / (decay * rate_hz))
    return values / values.sum()
