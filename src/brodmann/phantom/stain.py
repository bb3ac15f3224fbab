"""What a section suffers on its way to the slide: vessels, folds, tears, uneven stain, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from brodmann.phantom.brain import Brain
from brodmann.phantom.chance import compiled, white
from brodmann.phantom.cut import Plane
from brodmann.phantom.sheet import Waves

Array = NDArray[np.float64]
SLIDE = 238
"""Brightness of the empty slide."""


@dataclass(frozen=True)
class Ribbon:
    """The cortical line of one section in its plane, every 50 um.

    Attributes
    ----------
    xy_um, up : (n, 2) float64
        Mid-cortical places, and unit vectors towards the pia within the section.
    half_um : (n,) float64
        Half the thickness as it appears on the section, stretched where the cut is oblique.
    cosine : (n,) float64
        Cosine of the angle between the cortical normal and the section.
    """

    line_mm: Array
    xy_um: Array
    up: Array
    half_um: Array
    cosine: Array


def ribbon(brain: Brain, plane: Plane) -> Ribbon:
    """Project the cortical line and its normals onto the section."""
    here = brain.at(brain.surface, plane.line_mm)
    normal = here[:, 9:12] / np.linalg.norm(here[:, 9:12], axis=1, keepdims=True)
    flat = normal @ plane.to_mm[:, :2] * 1000
    cosine = np.linalg.norm(flat, axis=1)
    half = 500 * brain.at(brain.cyto[..., 0], plane.line_mm) / cosine
    return Ribbon(plane.line_mm, plane.project(here[:, :3]), flat / cosine[:, None], half, cosine)


def vessels(line: Ribbon, rng: np.random.Generator, nuisance: float) -> Array:
    """Vessels of one section as pieces of tubes, (n, 6) um: x0, y0, x1, y1, radius, wall.

    Their number varies between sections and along each: a shortcut for whoever looks for one.
    """
    pieces: list[Array] = []
    n = len(line.xy_um)
    where = np.arange(n) * 0.05
    crowd = np.exp(0.9 * np.sin(where * 2 * np.pi / rng.uniform(9, 30) + rng.uniform(0, 6.3)) + rng.normal(0, 0.4))
    crowd /= crowd.mean()

    def starts(per_mm: float) -> NDArray[np.int64]:
        return np.flatnonzero(rng.random(n) < per_mm * 0.05 * nuisance * rate * crowd)

    rate = float(np.exp(rng.normal(0, 0.45)))
    for k in starts(0.5):  # penetrating arterioles and venules, winding down from the pia
        depth = float(line.half_um[k]) * rng.uniform(0.2, 1.1) * rng.uniform(0.6, 2.0)
        along = np.arange(0, depth, 45.0)
        bend = gaussian_filter1d(rng.normal(0, 60, len(along) + 8), 4.0)[4 : len(along) + 4]
        side = bend - bend[0] + 0.15 * rng.normal() * along
        start = line.xy_um[k] + line.up[k] * line.half_um[k]
        across = np.array([-line.up[k, 1], line.up[k, 0]])
        path = start - along[:, None] * line.up[k] + side[:, None] * across
        radius = np.exp(rng.normal(2.3, 0.45)) * np.linspace(1.2, 0.5, len(path))
        pieces.append(np.column_stack([path[:-1], path[1:], radius[1:], 3.0 + 0.12 * radius[1:]]))
    for k in starts(14.0):  # cross and oblique cuts
        at = line.xy_um[k] + line.up[k] * line.half_um[k] * rng.uniform(-1.9, 0.98)
        radius = np.exp(rng.normal(2.0, 0.5))
        angle, length = rng.uniform(0, 6.3), radius * rng.exponential(2.5)
        to = at + length * np.array([np.cos(angle), np.sin(angle)])
        pieces.append(np.concatenate([at, to, [radius, 2.5 + 0.12 * radius]])[None])
    for k in starts(0.22):  # pial vessels
        radius = np.exp(rng.normal(4.2, 0.4))
        at = line.xy_um[k] + line.up[k] * (line.half_um[k] + 0.9 * radius)
        pieces.append(np.concatenate([at, at, [radius, 8.0 + 0.1 * radius]])[None])
    return np.concatenate(pieces) if pieces else np.empty((0, 6))


def spoil(od: NDArray[np.float32], pixel_um: float, rng: np.random.Generator, dye: float, nuisance: float) -> Any:
    """Turn optical density (h, w) into a brightfield image (h, w) uint8 with a section's own faults.

    Parameters
    ----------
    dye : float
        Log strength of the brain's stain.
    nuisance : float
        Scales every fault; 0 leaves a perfect slide.
    """
    height, width = od.shape
    mm = pixel_um / 1000
    gain = np.exp(dye + nuisance * rng.normal(0, 0.16))
    broad, blotch = Waves.draw(rng, 9, 40, 10), Waves.draw(rng, 1.5, 6, 24)
    light = Waves.draw(rng, 20, 60, 8)
    y, x = np.meshgrid(np.arange(0, height * mm + 0.4, 0.4), np.arange(0, width * mm + 0.4, 0.4), indexing="ij")
    uneven = np.exp(nuisance * (0.15 * broad(x, y) + 0.09 * blotch(x, y)))
    lamp = 1 + nuisance * 0.02 * light(x, y)
    haze = nuisance * abs(rng.normal(0, 0.05))
    folds = [_crease(rng, width * mm, height * mm) for _ in range(rng.poisson(1.2 * nuisance))]
    tears = [_crease(rng, width * mm, height * mm) for _ in range(rng.poisson(1.0 * nuisance))]
    for path in folds:
        _mark(od, path / mm, rng.uniform(0.04, 0.12) / mm, 1.9, int(rng.integers(1 << 60)))
    for path in tears:
        _mark(od, path / mm, rng.uniform(0.03, 0.10) / mm, 0.02, int(rng.integers(1 << 60)))
    blur = (1.5 + nuisance * abs(rng.normal(0, 4.0))) / pixel_um
    if blur > 0.15:
        od = cast("NDArray[np.float32]", gaussian_filter(od, blur, truncate=3.0))
    noise = 0.8 + nuisance * rng.uniform(0.8, 2.6)
    args = (uneven.astype(np.float32), lamp.astype(np.float32), mm / 0.4, gain, haze, noise)
    return _expose(od, *args, np.uint64(rng.integers(1 << 62)))


def _crease(rng: np.random.Generator, width_mm: float, height_mm: float) -> Array:
    """Draw a wandering line across part of the section, (n, 2) mm."""
    n = int(rng.uniform(3, 14) / 0.2)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.09, n))
    start = rng.uniform(0, 1, 2) * [width_mm, height_mm]
    return start + 0.2 * np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)


@compiled
def _mark(od: Any, path: Any, half_px: float, factor: float, seed: int) -> None:
    """Multiply density within a ragged band around ``path`` (n, 2) px by ``factor``; ends taper."""
    reach = int(half_px * 2 + 2)
    left, right = max(int(path[:, 0].min()) - reach, 0), min(int(path[:, 0].max()) + reach + 1, od.shape[1])
    top, bottom = max(int(path[:, 1].min()) - reach, 0), min(int(path[:, 1].max()) + reach + 1, od.shape[0])
    if left >= right or top >= bottom:
        return
    weight = np.zeros((bottom - top, right - left), np.float32)
    n = len(path)
    for k in range(n - 1):
        taper = min(1.0, 0.15 + 4.0 * min(k, n - 2 - k) / n)
        half = half_px * taper * (1.0 + 0.35 * white(seed, k))
        x0, y0, x1, y1 = path[k, 0], path[k, 1], path[k + 1, 0], path[k + 1, 1]
        dx, dy = x1 - x0, y1 - y0
        square = max(dx * dx + dy * dy, 1e-9)
        for j in range(max(int(min(y0, y1)) - reach, top), min(int(max(y0, y1)) + reach + 1, bottom)):
            for i in range(max(int(min(x0, x1)) - reach, left), min(int(max(x0, x1)) + reach + 1, right)):
                f = min(max(((i - x0) * dx + (j - y0) * dy) / square, 0.0), 1.0)
                d = np.hypot(i - x0 - f * dx, j - y0 - f * dy)
                cover = min(max(half - d + 0.5, 0.0), 1.0)
                weight[j - top, i - left] = max(weight[j - top, i - left], cover)
    for j in range(top, bottom):
        for i in range(left, right):
            od[j, i] *= 1.0 + (factor - 1.0) * weight[j - top, i - left]


@compiled
def _expose(od: Any, uneven: Any, lamp: Any, step: float, gain: float, haze: float, noise: float, seed: Any) -> Any:
    """Beer-Lambert, then noise that grows with the light."""
    height, width = od.shape
    out = np.empty((height, width), np.uint8)
    for y in range(height):
        fy = (y + 0.5) * step
        j = min(int(fy), uneven.shape[0] - 2)
        b = fy - j
        for x in range(width):
            fx = (x + 0.5) * step
            i = min(int(fx), uneven.shape[1] - 2)
            a = fx - i
            w00, w01, w10, w11 = (1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b
            stain = w00 * uneven[j, i] + w01 * uneven[j, i + 1] + w10 * uneven[j + 1, i] + w11 * uneven[j + 1, i + 1]
            shine = w00 * lamp[j, i] + w01 * lamp[j, i + 1] + w10 * lamp[j + 1, i] + w11 * lamp[j + 1, i + 1]
            d = od[y, x]
            depth = d * gain * stain + (haze if d > 0.02 else 0.0)
            value = SLIDE * shine * np.exp(-depth)
            value += noise * np.sqrt(0.3 + value / 255.0) * white(seed, y * width + x)
            out[y, x] = np.uint8(min(max(value + 0.5, 0.0), 255.0))
    return out
