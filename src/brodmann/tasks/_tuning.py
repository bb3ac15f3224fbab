"""Tuning from responses to known stimuli: orientation, direction, and the place a neuron looks at.

n neurons, D directions of motion, T frames, (H, W) pixels, p parameters of a fit, m numbers that are fitted. An
orientation here is a direction modulo 180 degrees, in the convention of the directions given: who compares it with
the orientation of bars turns one of them by 90 degrees first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused

Real = NDArray[np.float64]
Model = Callable[[Real], tuple[Real, Real]]
"""Of parameters (n, p): values (n, m) and their derivatives (n, m, p)."""

_SHARPEST = 20.0
_BROADEST = 0.1
_STEPS = 60
_VALUES = 2**22


@dataclass(frozen=True, eq=False)
class Selectivity:
    """How far responses depend on orientation and direction, without a model.

    Parameters
    ----------
    gosi, gdsi : ndarray (n,) float64
        Global orientation and direction selectivity, |sum r e^{2i theta}| / sum r and |sum r e^{i theta}| / sum r;
        NaN where responses sum to nothing.
    orientation, direction : ndarray (n,) float64
        Angles of these sums, degrees in [0, 180) and [0, 360).
    """

    gosi: Real
    gdsi: Real
    orientation: Real
    direction: Real


@dataclass(frozen=True, eq=False)
class Peaks:
    """Two von Mises peaks 180 degrees apart, of one width, on an offset.

    r(theta) = offset + a1 exp(k (cos(theta - phi) - 1)) + a2 exp(k (cos(theta - phi - 180) - 1)), a1 >= a2 >= 0.

    Parameters
    ----------
    direction, orientation : ndarray (n,) float64
        phi in [0, 360), and modulo 180, degrees.
    width : ndarray (n,) float64
        Half width at half height of a peak, degrees; 180 where a peak never falls to half.
    offset, first, second : ndarray (n,) float64
        offset, a1 and a2, in the units of the responses.
    explained : ndarray (n,) float64
        Share of the variance of the curve; NaN where it is constant.
    """

    direction: Real
    orientation: Real
    width: Real
    offset: Real
    first: Real
    second: Real
    explained: Real


@dataclass(frozen=True, eq=False)
class Fields:
    """Round Gaussians fitted to maps of the visual field, in pixels of the map.

    Parameters
    ----------
    x, y : ndarray (n,) float64
        Centre: column and row.
    sd : ndarray (n,) float64
    peak : ndarray (n,) float64
        Height, negative for a field that darkness drives.
    explained : ndarray (n,) float64
        Share of the variance of the map; NaN where it is constant.
    """

    x: Real
    y: Real
    sd: Real
    peak: Real
    explained: Real


def selectivity(curves: NDArray[np.floating[Any]], directions_deg: NDArray[np.floating[Any]]) -> Selectivity:
    """Selectivity of mean responses (n, D) to directions (D,) that are spread evenly over 360 degrees.

    Raises
    ------
    Refused
        As `angles`; responses that are negative or not finite.
    """
    theta = angles(curves, directions_deg)
    r = np.asarray(curves, np.float64)
    if not np.isfinite(r).all() or (r < 0).any():
        raise Refused("mean responses should be finite and not negative.", found="NaN or negative numbers.",
                      cause="responses with their mean taken off.", do="give rates.")  # fmt: skip
    total = r.sum(axis=1)
    twice, once = r @ np.exp(2j * theta), r @ np.exp(1j * theta)
    some = np.where(total > 0, total, np.nan)
    return Selectivity(
        np.abs(twice) / some,
        np.abs(once) / some,
        np.degrees(np.angle(twice)) / 2 % 180,
        np.degrees(np.angle(once)) % 360,
    )


def angles(curves: NDArray[np.floating[Any]], directions_deg: NDArray[np.floating[Any]]) -> Real:
    """Directions (D,) in radians.

    Raises
    ------
    Refused
        Not one direction per column, fewer than five, or directions that are not spread evenly over 360 degrees.
    """
    theta = np.asarray(directions_deg, np.float64)
    if curves.ndim != 2 or theta.shape != curves.shape[1:] or len(theta) < 5:
        raise Refused(
            "curves should be (n, D) with at least five directions (D,).",
            found=f"curves {curves.shape}, directions {theta.shape}.",
        )
    gaps = np.diff(np.sort(theta % 360), append=np.min(theta % 360) + 360)
    if np.abs(gaps - 360 / len(theta)).max() > 1:
        raise Refused("directions should be spread evenly over 360 degrees.", found=f"{np.sort(theta).tolist()}.",
                      cause="orientations, which span 180 degrees only.")  # fmt: skip
    return np.radians(theta)


def peaks(curves: NDArray[np.floating[Any]], directions_deg: NDArray[np.floating[Any]]) -> Peaks:
    """Fit two von Mises peaks to each curve (n, D): best start on a grid of place and width, then Levenberg-Marquardt.

    At each place and width of the grid the three heights are a linear problem, solved for all neurons at once.

    Raises
    ------
    Refused
        As `angles`.
    """
    theta = angles(curves, directions_deg)
    r = np.asarray(curves, np.float64)
    scale = np.maximum(np.abs(r).max(axis=1, keepdims=True, initial=0), 1e-300)
    start = _grid(r / scale, theta)

    def model(at: Real) -> tuple[Real, Real]:
        phi, k, offset, a, b = (column[:, None] for column in at.T)
        away = theta - phi
        cos, sin = np.cos(away), np.sin(away)
        first, second = np.exp(k * (cos - 1)), np.exp(-k * (cos + 1))
        slopes = [
            k * sin * (a * first - b * second), a * first * (cos - 1) - b * second * (cos + 1),
            np.ones_like(cos), first, second,
        ]  # fmt: skip
        return offset + a * first + b * second, np.stack(slopes, axis=2)

    low = np.array([-np.inf, _BROADEST, -np.inf, 0, 0])
    high = np.array([np.inf, _SHARPEST, np.inf, np.inf, np.inf])
    at, explained = levenberg(model, r / scale, start, low, high)
    phi, k, offset, a, b = at.T
    direction = np.degrees(np.where(a >= b, phi, phi + np.pi)) % 360
    half = 1 - np.log(2) / k
    width = np.where(half > -1, np.degrees(np.arccos(np.clip(half, -1, 1))), 180.0)
    one = scale[:, 0]
    return Peaks(
        direction, direction % 180, width, offset * one, np.maximum(a, b) * one, np.minimum(a, b) * one, explained
    )


def _grid(r: Real, theta: Real) -> Real:
    """Best of a grid of places and widths: (n, 5)."""
    best, found = np.full(len(r), np.inf), np.zeros((len(r), 5))
    for k in (0.5, 1, 2, 4, 8, 16):
        for phi in np.arange(0, np.pi, np.pi / 24):
            cos = np.cos(theta - phi)
            design = np.column_stack([np.ones_like(cos), np.exp(k * (cos - 1)), np.exp(-k * (cos + 1))])
            heights = r @ np.linalg.pinv(design).T
            # a height below zero is set to zero: a start only has to be near
            heights[:, 1:] = np.maximum(heights[:, 1:], 0)
            heights[:, 0] = (r - heights[:, 1:] @ design[:, 1:].T).mean(axis=1)
            loss = ((r - heights @ design.T) ** 2).sum(axis=1)
            better = loss < best
            best[better] = loss[better]
            found[better] = np.column_stack([np.full(len(r), phi), np.full(len(r), float(k)), heights])[better]
    return found


def circular_error(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]], *, period_deg: float = 180.0) -> Real:
    """Absolute difference of angles, in [0, period / 2] degrees."""
    away = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)) % period_deg
    return np.minimum(away, period_deg - away)


def triggered(stimulus: NDArray[Any], responses: NDArray[np.floating[Any]], *, lags: Sequence[int] = (0,)) -> Real:
    """Response-weighted average of the stimulus about its mean, averaged over lags: (n, H, W) float64.

    Parameters
    ----------
    stimulus : ndarray (T, H, W)
        Frames of flashing dots.
    responses : ndarray (T, n) floating
        Rates of the same frames; not negative.
    lags : sequence of int
        Frames by which the response follows the stimulus.

    Returns
    -------
    ndarray (n, H, W) float64
        sum_t r(t) (s(t - lag) - mean s) / sum_t r(t); 0 for a neuron that never answers.

    Raises
    ------
    Refused
        Unequal numbers of frames, or a lag that is negative or not shorter than the stimulus.
    """
    frames = len(stimulus)
    if len(responses) != frames or stimulus.ndim != 3 or responses.ndim != 2:
        raise Refused(
            "the stimulus (T, H, W) and the responses (T, n) should have equally many frames.",
            found=f"{stimulus.shape} and {responses.shape}.",
        )
    if not lags or min(lags) < 0 or max(lags) >= frames:
        raise Refused("lags should lie between 0 and the length of the stimulus.", found=f"{list(lags)}.")
    pixels = np.asarray(stimulus, np.float32).reshape(frames, -1)
    pixels = pixels - pixels.mean(axis=0)
    r = np.asarray(responses, np.float32)
    total = np.zeros((r.shape[1], pixels.shape[1]))
    for lag in lags:
        late = r[lag:]
        weight = late.sum(axis=0, dtype=np.float64)
        total += (late.T @ pixels[: frames - lag]) / np.where(weight > 0, weight, 1)[:, None]
    return (total / len(lags)).reshape(-1, *stimulus.shape[1:])


def fields(maps: NDArray[np.floating[Any]]) -> Fields:
    """Fit a round Gaussian on an offset to each map (n, H, W), from its strongest pixel and the best of four sizes."""
    n, height, width = maps.shape
    y, x = (axis.ravel().astype(np.float64) for axis in np.mgrid[:height, :width])
    z = np.asarray(maps, np.float64).reshape(n, -1)
    scale = np.maximum(np.abs(z).max(axis=1, keepdims=True, initial=0), 1e-300)
    z = z / scale
    level = np.median(z, axis=1)
    where = np.abs(z - level[:, None]).argmax(axis=1)
    peak = z[np.arange(n), where] - level

    def model(at: Real) -> tuple[Real, Real]:
        cx, cy, sd, high, offset = (column[:, None] for column in at.T)
        dx, dy = (x - cx) / sd, (y - cy) / sd
        bump = np.exp(-(dx**2 + dy**2) / 2)
        slopes = [high * bump * dx / sd, high * bump * dy / sd, high * bump * (dx**2 + dy**2) / sd, bump]
        return offset + high * bump, np.stack([*slopes, np.ones_like(bump)], axis=2)

    low = np.array([-0.5, -0.5, 0.3, -np.inf, -np.inf])
    high = np.array([width - 0.5, height - 0.5, float(max(height, width)), np.inf, np.inf])
    best, least = np.zeros((n, 5)), np.full(n, np.inf)
    for size in (1.0, 2.0, 4.0, 8.0):
        start = np.column_stack([x[where], y[where], np.full(n, min(size, high[2])), peak, level])
        loss = np.array([((z[i] - model(start[i : i + 1])[0][0]) ** 2).sum() for i in range(n)])
        best[loss < least] = start[loss < least]
        least = np.minimum(loss, least)
    best, explained = levenberg(model, z, best, low, high)
    return Fields(best[:, 0], best[:, 1], best[:, 2], best[:, 3] * scale[:, 0], explained)


def levenberg(model: Model, data: Real, start: Real, low: Real, high: Real) -> tuple[Real, Real]:
    """Least squares for many small problems at once, by Levenberg and Marquardt, within bounds.

    Parameters
    ----------
    model : callable
        Of parameters (b, p): values (b, m) and derivatives (b, m, p).
    data : ndarray (n, m) float64
    start : ndarray (n, p) float64
    low, high : ndarray (p,) float64
        Bounds; a step that leaves them ends on them.

    Returns
    -------
    ndarray (n, p) float64, ndarray (n,) float64
        Parameters, and the share of variance explained (NaN for constant data).
    """
    found, loss = np.clip(start, low, high), np.empty(len(data))
    block = max(1, _VALUES // (data.shape[1] * start.shape[1]))
    for first in range(0, len(data), block):
        some = slice(first, first + block)
        found[some], loss[some] = _descend(model, data[some], found[some], low, high)
    spread = ((data - data.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return found, np.where(spread > 1e-20, 1 - loss / np.maximum(spread, 1e-300), np.nan)


def _descend(model: Model, data: Real, start: Real, low: Real, high: Real) -> tuple[Real, Real]:
    p = start.shape[1]
    found, loss = start.copy(), np.zeros(len(start))
    rows, at = np.arange(len(start)), start
    damping = np.full(len(start), 1e-2)
    values, slopes = model(at)
    now = ((data - values) ** 2).sum(axis=1)
    for _ in range(_STEPS):
        turned = slopes.transpose(0, 2, 1)
        curves, gradient = turned @ slopes, (turned @ (data[rows] - values)[:, :, None])[:, :, 0]
        # a parameter at its bound that wants to leave it stays, so that the others are free to move
        held = ((at <= low) & (gradient < 0)) | ((at >= high) & (gradient > 0))
        diagonal = np.diagonal(curves, axis1=1, axis2=2)
        weight = np.where(held, 1.0, damping[:, None] * np.maximum(diagonal, 1e-8) + 1e-12)
        curves = np.where(held[:, :, None] | held[:, None, :], 0.0, curves)
        curves[:, np.arange(p), np.arange(p)] += weight
        moved = np.clip(at + np.linalg.solve(curves, np.where(held, 0.0, gradient)[:, :, None])[:, :, 0], low, high)
        new_values, new_slopes = model(moved)
        new = ((data[rows] - new_values) ** 2).sum(axis=1)
        better = new <= now
        done = (better & (now - new <= 1e-9 * now)) | (damping > 1e8)
        at = np.where(better[:, None], moved, at)
        now = np.where(better, new, now)
        found[rows], loss[rows] = at, now
        if done.all():
            break
        left = ~done
        values = np.where(better[:, None], new_values, values)[left]
        slopes = np.where(better[:, None, None], new_slopes, slopes)[left]
        damping = np.where(better, damping / 5, damping * 5)[left]
        rows, at, now = rows[left], at[left], now[left]
    return found, loss
