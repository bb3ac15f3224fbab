"""Random numbers and smooth noise inside compiled loops: the same on every machine and in every thread."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


@compiled
def scramble(x: Any) -> Any:
    """Splitmix64: an even hash of a 64-bit integer."""
    x = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def uniform(state: Any) -> float:
    """Next number in [0, 1); ``state`` is (1,) uint64."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    return float(scramble(state[0]) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def normal(state: Any) -> float:
    """Next standard normal number (Box-Muller)."""
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform(state)))
    return radius * np.cos(2.0 * np.pi * uniform(state))


@compiled
def white(seed: Any, index: int) -> float:
    """Cheap bell-shaped noise of SD 1 for the pixel ``index``: four 16-bit numbers of one hash."""
    h = scramble(np.uint64(seed) + np.uint64(index))
    m = np.uint64(0xFFFF)
    total = (h & m) + ((h >> np.uint64(16)) & m) + ((h >> np.uint64(32)) & m) + (h >> np.uint64(48))
    return (float(total) - 131070.0) * (1.0 / 37836.6)


@compiled
def _corner(seed: Any, i: int, j: int) -> float:
    h = scramble(
        np.uint64(seed)
        ^ (np.uint64(i + 100000) * np.uint64(0x8DA6B343))
        ^ (np.uint64(j + 100000) * np.uint64(0xD8163841 << 16))
    )
    return float(h >> np.uint64(11)) * (2.0 / 9007199254740992.0) - 1.0


@compiled
def ripple(seed: Any, x: float, y: float) -> float:
    """Smooth lattice noise of the plane in [-1, 1] with mean 0 and lumps about one unit wide."""
    i, j = int(np.floor(x)), int(np.floor(y))
    a, b = x - i, y - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    near = (1 - a) * _corner(seed, i, j) + a * _corner(seed, i + 1, j)
    far = (1 - a) * _corner(seed, i, j + 1) + a * _corner(seed, i + 1, j + 1)
    return (1 - b) * near + b * far


@compiled
def lumps(seed: Any, x: float, y: float, z: float) -> float:
    """Smooth lattice noise of space, as `ripple`."""
    k = int(np.floor(z))
    c = z - k
    c = c * c * (3 - 2 * c)
    step = np.uint64(0xCB1AB31F << 32)
    low = ripple(np.uint64(seed) ^ (np.uint64(k + 100000) * step), x, y)
    return (1 - c) * low + c * ripple(np.uint64(seed) ^ (np.uint64(k + 100001) * step), x, y)
