"""What the planted animals see: natural scenes, and the kinds of stimulus that no model is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.phantom.chance import compiled

Array = NDArray[np.float64]
Image = NDArray[np.float32]
Video = NDArray[np.uint8]

VIEW_DEG = 120.0
"""Angle that the screen's width spans. The screen is taken as flat in angle: every pixel spans the same angle."""
GREY = 127.5
"""Value of the screen between stimuli; the screen holds no half steps, so 127 is shown."""
_LEAVES = 260
_LIFETIME_S = 0.4


@dataclass(frozen=True)
class Screen:
    """Size of the video in pixels, and its rate."""

    height_px: int
    width_px: int
    rate_hz: float

    @property
    def degree_px(self) -> float:
        """Pixels per degree."""
        return self.width_px / VIEW_DEG

    def mesh(self) -> tuple[Array, Array]:
        """Place of every pixel, x to the right and y down, degrees from the middle of the screen; (H, W) each."""
        x = (np.arange(self.width_px) - (self.width_px - 1) / 2) / self.degree_px
        y = (np.arange(self.height_px) - (self.height_px - 1) / 2) / self.degree_px
        whole = np.zeros((self.height_px, self.width_px))
        return whole + x, whole + y[:, None]

    def pieces(self, rng: np.random.Generator, frames: int, shortest_s: float, longest_s: float) -> list[range]:
        """Cut ``frames`` into runs of a random length each."""
        found: list[range] = []
        start = 0
        while start < frames:
            length = max(1, round(rng.uniform(shortest_s, longest_s) * self.rate_hz))
            found.append(range(start, min(start + length, frames)))
            start += length
        return found


def natural(rng: np.random.Generator, frames: int, screen: Screen) -> Video:
    """Scenes of 2 to 4 s, cut one after the other, with a moving camera and objects that move in front.

    A scene is a world of occluding leaves (Lee, Mumford & Huang 2001), whose radii follow r^-3, with shading and a 1/f
    texture; the camera drifts, zooms and rolls over it. Brightness and contrast differ between scenes.

    Returns
    -------
    (frames, H, W) uint8
    """
    video = np.empty((frames, screen.height_px, screen.width_px), np.uint8)
    for piece in screen.pieces(rng, frames, 2.0, 4.0):
        world = _world(rng, screen)
        still = rng.random() < 0.2
        camera = _camera(rng, len(piece), screen, 0.0 if still else 1.0)
        _shoot(world, camera, _objects(rng, len(piece), screen), video[piece.start : piece.stop])
    return video


def static(rng: np.random.Generator, frames: int, screen: Screen) -> Video:
    """Natural images that stand still for 0.5 s, with 0.15 s of grey before each; (frames, H, W) uint8."""
    video = np.full((frames, screen.height_px, screen.width_px), int(GREY), np.uint8)
    blank = max(1, round(0.15 * screen.rate_hz))
    for piece in screen.pieces(rng, frames, 0.65, 0.65):
        shot = np.empty((1, screen.height_px, screen.width_px), np.uint8)
        _shoot(_world(rng, screen), _camera(rng, 1, screen, 0.0), np.zeros((0, 1, 9)), shot)
        video[piece.start + blank : piece.stop] = shot
    return video


def gabors(rng: np.random.Generator, frames: int, screen: Screen) -> Video:
    """One to three drifting Gabor patches for 0.5 to 1 s, then others; (frames, H, W) uint8."""
    x, y = screen.mesh()
    video = np.empty((frames, screen.height_px, screen.width_px), np.uint8)
    for piece in screen.pieces(rng, frames, 0.5, 1.0):
        time = np.arange(len(piece)) / screen.rate_hz
        total = np.zeros((len(piece), *x.shape))
        for _ in range(int(rng.integers(1, 4))):
            px, py, sd = rng.uniform(x.min(), x.max()), rng.uniform(y.min(), y.max()), rng.uniform(6, 15)
            sf, tf = np.exp(rng.uniform(np.log([0.02, 0.7]), np.log([0.15, 6.0])))
            angle, phase, contrast = rng.uniform(0, 1, 3) * (2 * np.pi, 2 * np.pi, 0.5) + (0, 0, 0.5)
            along = (x - px) * np.cos(angle) + (y - py) * np.sin(angle)
            wave = np.cos(2 * np.pi * (sf * along - tf * time[:, None, None]) + phase)
            total += contrast * wave * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sd**2))
        video[piece.start : piece.stop] = _shown(total)
    return video


def dots(rng: np.random.Generator, frames: int, screen: Screen) -> Video:
    """Three to six bright or dark Gaussian dots, flashed together for 0.3 s; (frames, H, W) uint8."""
    x, y = screen.mesh()
    video = np.empty((frames, screen.height_px, screen.width_px), np.uint8)
    for piece in screen.pieces(rng, frames, 0.3, 0.3):
        total = np.zeros(x.shape)
        for _ in range(int(rng.integers(3, 7))):
            px, py, sd = rng.uniform(x.min(), x.max()), rng.uniform(y.min(), y.max()), rng.uniform(2.5, 6)
            total += rng.choice([-1.0, 1.0]) * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sd**2))
        video[piece.start : piece.stop] = _shown(total)
    return video


def noise(rng: np.random.Generator, frames: int, screen: Screen) -> Video:
    """Pink noise in a band of orientations, drifting across them; a new direction every second.

    Amplitude falls as 1/f between 0.015 and 0.25 cycles per degree, within 15 degrees (SD) of the direction of motion.

    Returns
    -------
    (frames, H, W) uint8
    """
    shape = (screen.height_px, screen.width_px)
    fx = np.fft.rfftfreq(shape[1], 1 / screen.degree_px)
    fy = np.fft.fftfreq(shape[0], 1 / screen.degree_px)[:, None]
    sf, turn = np.hypot(fx, fy), np.arctan2(fy, fx + 0 * fy)
    pink = np.where((sf > 0.015) & (sf < 0.25), 1 / np.maximum(sf, 1e-9), 0.0)
    video = np.empty((frames, *shape), np.uint8)
    for piece in screen.pieces(rng, frames, 1.0, 1.0):
        direction, speed = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(8), np.log(60)))
        off = (turn - direction + np.pi / 2) % np.pi - np.pi / 2
        spectrum = np.fft.rfft2(rng.normal(size=shape)) * pink * np.exp(-(off**2) / (2 * np.deg2rad(15) ** 2))
        step = speed / screen.rate_hz * (fx * np.cos(direction) + fy * np.sin(direction))
        phase = np.exp(-2j * np.pi * step * np.arange(len(piece))[:, None, None])
        total = np.fft.irfft2(spectrum * phase, s=shape)
        video[piece.start : piece.stop] = _shown(0.35 * rng.uniform(0.6, 1.2) * total / total.std())
    return video


def rdk(rng: np.random.Generator, frames: int, screen: Screen) -> Video:
    """Random-dot kinematograms: bright and dark discs, a share of which moves together.

    Direction, speed and share (coherence) change every second; discs live for 0.4 s and are then placed anew
    (Britten et al. 1992).

    Returns
    -------
    (frames, H, W) uint8
    """
    high, wide = screen.height_px, screen.width_px
    n = max(8, round(0.0105 * VIEW_DEG**2 * high / wide))
    place = rng.uniform(0, 1, (n, 2)) * (wide, high)
    colour, radius = np.where(np.arange(n) % 2, -1.0, 1.0), 2.3 * screen.degree_px
    age = rng.integers(0, max(1, round(_LIFETIME_S * screen.rate_hz)), n)
    video = np.empty((frames, high, wide), np.uint8)
    for piece in screen.pieces(rng, frames, 1.0, 1.0):
        direction, speed, share = rng.uniform(0, 2 * np.pi), rng.uniform(15, 50), rng.choice([0.3, 0.6, 1.0])
        heading = np.where(rng.random(n) < share, direction, rng.uniform(0, 2 * np.pi, n))
        step = speed * screen.degree_px / screen.rate_hz * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        for frame in piece:
            age += 1
            old = age >= _LIFETIME_S * screen.rate_hz
            age[old] = 0
            place = np.where(old[:, None], rng.uniform(0, 1, (n, 2)) * (wide, high), (place + step) % (wide, high))
            _discs(place, colour, radius, video[frame])
    return video


DOMAINS: dict[str, Callable[[np.random.Generator, int, Screen], Video]] = {
    "natural": natural, "gabors": gabors, "dots": dots, "noise": noise, "rdk": rdk, "static": static,
}  # fmt: skip
"""Every kind of stimulus; models are trained on the first."""
UNSEEN = tuple(DOMAINS)[1:]


def _shown(contrast: Array) -> Video:
    """Contrast in [-1, 1] as grey values; what is beyond is cut off."""
    return np.rint(GREY + GREY * np.clip(contrast, -1, 1)).astype(np.uint8)


def _pink(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Periodic 1/f noise of SD 1."""
    f = np.hypot(np.fft.rfftfreq(shape[1]), np.fft.fftfreq(shape[0])[:, None])
    f[0, 0] = np.inf
    image = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) / f, s=shape)
    return image / image.std()


def _world(rng: np.random.Generator, screen: Screen) -> Image:
    """A periodic image three screens wide and high, grey in [0, 1] but for its tails."""
    shape = (3 * screen.height_px, 3 * screen.width_px)
    least, most = 4.0 * screen.degree_px, 28 * screen.degree_px
    # Radii follow r^-3: u is the share of leaves that are larger.
    radius = 1 / np.sqrt(1 / most**2 + rng.random(_LEAVES) * (1 / least**2 - 1 / most**2))
    leaves = np.stack([
        rng.uniform(0, shape[1], _LEAVES), rng.uniform(0, shape[0], _LEAVES), radius,
        radius * rng.uniform(0.3, 1.0, _LEAVES), rng.uniform(0, np.pi, _LEAVES), rng.normal(0, 1, _LEAVES),
        rng.normal(0, 0.4, _LEAVES), (rng.random(_LEAVES) < 0.3).astype(float),
    ], axis=1)  # fmt: skip
    leaves[: _LEAVES // 8, 2:4] = (most * rng.uniform(0.5, 1.0, (_LEAVES // 8, 1))) * (1.0, 0.8)
    world = _pink(rng, shape)
    _paint(leaves, world)
    world += 0.3 * _pink(rng, shape)
    world = (world - world.mean()) / world.std()
    # Scenes differ in brightness and contrast, as under clouds and in the sun.
    contrast = np.exp(rng.normal(np.log(0.19), 0.35))
    return (rng.uniform(0.38, 0.62) + contrast * world).astype(np.float32)


def _camera(rng: np.random.Generator, frames: int, screen: Screen, moves: float) -> Array:
    """Path of the camera over the world, (frames, 4): x, y in pixels, roll in radians, zoom."""
    time = np.arange(frames) / screen.rate_hz
    speed, heading = moves * np.exp(rng.normal(np.log(14), 0.8)) * screen.degree_px, rng.uniform(0, 2 * np.pi)
    curve, roll, zoom = rng.normal(0, 0.5), moves * rng.normal(0, 0.25), moves * rng.normal(0, 0.15)
    pace = speed * (1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.2, 0.8) * time + rng.uniform(0, 2 * np.pi)))
    x, y = (np.cumsum(pace * turn(heading + curve * time)) / screen.rate_hz for turn in (np.cos, np.sin))
    start = rng.uniform(0, 1, 4) * (3 * screen.width_px, 3 * screen.height_px, 2 * np.pi, 0.0)
    return start + np.stack([x, y, roll * time, np.exp(rng.normal(0, 0.15) + zoom * time)], axis=1)


def _objects(rng: np.random.Generator, frames: int, screen: Screen) -> Array:
    """Objects in front, (objects, frames, 9): place, half sizes (px), angle, kind, where textured, brightness."""
    time = np.arange(frames)[:, None] / screen.rate_hz
    found: list[Array] = []
    for _ in range(int(rng.integers(0, 4))):
        middle = rng.uniform(0.1, 0.9, 2) * (screen.width_px, screen.height_px)
        velocity = rng.normal(0, 18, 2) * screen.degree_px
        own = np.empty((frames, 9))
        own[:, :2] = middle + velocity * (time - time.mean())
        own[:, 2:4] = np.exp(rng.normal(np.log([7, 5]), 0.4)) * screen.degree_px
        own[:, 4:5] = rng.uniform(0, np.pi) + rng.normal(0, 0.8) * time
        own[:, 5] = rng.random() < 0.5
        own[:, 6:8] = rng.uniform(0, 3 * screen.height_px, 2)
        own[:, 8] = rng.normal(0, 0.2)
        found.append(own)
    return np.stack(found) if found else np.zeros((0, frames, 9))


@compiled
def _paint(leaves: Any, world: Any) -> None:
    """Lay leaves over a periodic world (h, w), one on the other; rows: x, y, half axes, angle, grey, shading, box."""
    high, wide = world.shape
    for k in range(leaves.shape[0]):
        x0, y0, a, b = leaves[k, 0], leaves[k, 1], leaves[k, 2], leaves[k, 3]
        c, s = np.cos(leaves[k, 4]), np.sin(leaves[k, 4])
        box = leaves[k, 7] > 0.5
        reach = int(np.ceil(1.42 * a)) + 1
        for j in range(int(y0) - reach, int(y0) + reach + 1):
            for i in range(int(x0) - reach, int(x0) + reach + 1):
                p, q = ((i - x0) * c + (j - y0) * s) / a, ((j - y0) * c - (i - x0) * s) / b
                away = max(abs(p), abs(q)) if box else np.sqrt(p * p + q * q)
                cover = min(max((1.0 - away) * b + 0.5, 0.0), 1.0)
                if cover > 0.0:
                    value = leaves[k, 5] + leaves[k, 6] * p
                    jj, ii = j % high, i % wide
                    world[jj, ii] += cover * (value - world[jj, ii])


@compiled
def _sample(world: Any, x: float, y: float) -> float:
    """Bilinear value of a periodic world at (x, y) px."""
    high, wide = world.shape
    i, j = int(np.floor(x)), int(np.floor(y))
    a, b = x - i, y - j
    i0, j0 = i % wide, j % high
    i1, j1 = (i0 + 1) % wide, (j0 + 1) % high
    near = (1 - a) * world[j0, i0] + a * world[j0, i1]
    return (1 - b) * near + b * ((1 - a) * world[j1, i0] + a * world[j1, i1])


@compiled
def _shoot(world: Any, camera: Any, objects: Any, video: Any) -> None:
    """Film a world along a camera's path, objects in front; video (f, H, W) uint8 is filled."""
    frames, high, wide = video.shape
    for f in range(frames):
        c, s, zoom = np.cos(camera[f, 2]), np.sin(camera[f, 2]), camera[f, 3]
        for j in range(high):
            for i in range(wide):
                p, q = (i - wide / 2) * zoom, (j - high / 2) * zoom
                value = _sample(world, camera[f, 0] + c * p - s * q, camera[f, 1] + s * p + c * q)
                for k in range(objects.shape[0]):
                    dx, dy, a, b = i - objects[k, f, 0], j - objects[k, f, 1], objects[k, f, 2], objects[k, f, 3]
                    co, so = np.cos(objects[k, f, 4]), np.sin(objects[k, f, 4])
                    p, q = dx * co + dy * so, dy * co - dx * so
                    away = np.sqrt((p / a) ** 2 + (q / b) ** 2)
                    if objects[k, f, 5] > 0.5:
                        away = max(abs(p / a), abs(q / b))
                    cover = min(max((1.0 - away) * min(a, b) + 0.5, 0.0), 1.0)
                    if cover > 0.0:
                        own = _sample(world, objects[k, f, 6] + p, objects[k, f, 7] + q) + objects[k, f, 8]
                        value += cover * (own - value)
                video[f, j, i] = np.uint8(min(max(255.0 * value + 0.5, 0.0), 255.0))


@compiled
def _discs(place: Any, colour: Any, radius: float, frame: Any) -> None:
    """Draw discs (n, 2) px of contrast +-1 on grey, the screen being periodic; frame (H, W) uint8 is filled."""
    high, wide = frame.shape
    frame[:] = 127
    reach = int(np.ceil(radius)) + 1
    for k in range(place.shape[0]):
        x, y = place[k, 0], place[k, 1]
        for j in range(int(y) - reach, int(y) + reach + 1):
            for i in range(int(x) - reach, int(x) + reach + 1):
                away = np.sqrt((i - x) ** 2 + (j - y) ** 2)
                cover = min(max(radius - away + 0.5, 0.0), 1.0)
                old = frame[j % high, i % wide]
                frame[j % high, i % wide] = np.uint8(old + cover * (127.5 + 127.5 * colour[k] - old))
