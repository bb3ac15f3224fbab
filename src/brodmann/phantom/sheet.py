"""The template sheet: where the areas, the axis and the networks lie, in template millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.phantom.areas import NAMES
from brodmann.samples import stream

Array = NDArray[np.float64]

LENGTH_MM, WIDTH_MM = 60.0, 40.0
"""Extent of the sheet along u and v."""
STEP_MM = 0.25
"""Spacing of every table over the sheet."""
MARGIN_MM = 4.0
"""Cortex continues this far beyond the sheet, so that patches at its rim are whole."""
NETWORKS = ("visual", "motor", "attention", "salience", "control", "default")

# Centres (u, v) mm of the areas, occipital at the left, frontal pole at the right; twins partly adjacent.
_CENTRES = np.array(
    [
        (6.0, 20.0), (40.0, 33.0), (27.0, 33.0), (29.5, 20.0), (19.0, 6.0), (32.0, 6.0),
        (18.0, 20.0), (16.0, 34.0), (42.5, 19.5), (53.5, 33.5), (45.0, 6.5), (56.0, 16.0),
    ]
)  # fmt: skip
_HOME = np.array([0, 1, 1, 2, 5, 3, 2, 0, 4, 3, 4, 5])  # the network each area mostly belongs to
_SENSORY = np.array([0, 1, 2])  # where the sensory-association axis begins


def grid() -> tuple[Array, Array]:
    """Sheet coordinates of every table node, margin included, each of shape (n_u, n_v), mm."""
    u = np.arange(-MARGIN_MM, LENGTH_MM + MARGIN_MM + STEP_MM / 2, STEP_MM)
    v = np.arange(-MARGIN_MM, WIDTH_MM + MARGIN_MM + STEP_MM / 2, STEP_MM)
    uu, vv = np.meshgrid(u, v, indexing="ij")
    return uu, vv


@dataclass(frozen=True)
class Waves:
    """A smooth random function of the plane: plane waves of a range of wavelengths, mean 0 and rms about 1."""

    kx: Array
    ky: Array
    phase: Array
    gain: float

    @classmethod
    def draw(cls, rng: np.random.Generator, shortest_mm: float, longest_mm: float, n: int = 14) -> Waves:
        """Draw wave vectors with wavelengths between the two lengths."""
        length = rng.uniform(shortest_mm, longest_mm, n)
        # Angles are spread evenly, so that no draw is accidentally one-directional.
        angle = (np.arange(n) + rng.uniform(0, 1, n)) * np.pi / n
        k = 2 * np.pi / length
        return cls(k * np.cos(angle), k * np.sin(angle), rng.uniform(0, 2 * np.pi, n), float(np.sqrt(2 / n)))

    def __call__(self, x: Array, y: Array) -> Array:
        """Values at (x, y) mm, same shape."""
        total = np.zeros(np.broadcast(x, y).shape)
        for kx, ky, phase in zip(self.kx, self.ky, self.phase, strict=True):
            total += np.sin(kx * x + ky * y + phase)
        return total * self.gain


def displacement(
    rng: np.random.Generator, rms_mm: float, shortest_mm: float, longest_mm: float
) -> tuple[Waves, Waves, float]:
    """Two components of a smooth displacement, and the factor that makes its length ``rms_mm`` rms on the sheet."""
    a, b = Waves.draw(rng, shortest_mm, longest_mm), Waves.draw(rng, shortest_mm, longest_mm)
    uu, vv = np.meshgrid(np.arange(0, LENGTH_MM + 1), np.arange(0, WIDTH_MM + 1), indexing="ij")
    rms = float(np.sqrt(np.mean(a(uu, vv) ** 2 + b(uu, vv) ** 2)))
    return a, b, rms_mm / rms


@dataclass(frozen=True)
class Sheet:
    """What all brains of one phantom share: borders, gradients, axis and networks as functions of (u, v)."""

    bend_u: Waves
    bend_v: Waves
    gradients: tuple[Waves, ...]
    tastes: tuple[Waves, ...]

    @classmethod
    def plant(cls, seed: int) -> Sheet:
        """Draw the template of ``seed``; the layout of areas is fixed, their borders and gradients are drawn."""
        rng = stream(seed, "phantom", "sheet")
        bend = [Waves.draw(rng, 9, 30) for _ in range(2)]
        gradients = tuple(Waves.draw(rng, 28, 70) for _ in range(6))
        tastes = tuple(Waves.draw(rng, 22, 50) for _ in NETWORKS)
        return cls(bend[0], bend[1], gradients, tastes)

    def _distance(self, u: Array, v: Array, bend_mm: float) -> Array:
        """Squared distance to every area's centre after bending the plane, (areas, ...)."""
        x = u + bend_mm * self.bend_u(u, v)
        y = v + bend_mm * self.bend_v(u, v)
        return np.stack([(x - cu) ** 2 + (y - cv) ** 2 for cu, cv in _CENTRES])

    def area(self, u: Array, v: Array, power: Array) -> NDArray[np.int16]:
        """Area index at template coordinates: a bent power diagram; ``power`` (areas,) mm2 enlarges areas."""
        distance = self._distance(u, v, 1.3) - power.reshape(-1, *([1] * u.ndim))
        return distance.argmin(axis=0).astype(np.int16)

    def axis(self, u: Array, v: Array) -> Array:
        """Sensory-association axis, 0 at primary areas, 1 farthest from them; smooth across borders."""
        near = np.sqrt(self._distance(u, v, 0.5)[_SENSORY])
        soft = -4.0 * np.log(np.exp(-near / 4.0).sum(axis=0))
        return np.clip((soft + 2.0) / 24.0, 0.0, 1.0)

    def network(self, weights: Array, u: Array, v: Array, *, areas: float = 1.0) -> NDArray[np.int16]:
        """Functional network index; follows the areas' ``weights`` (areas, ...) in part, at ``areas=0`` not at all.

        Without areas a network is a function of place alone, which knows nothing of what cortex looks like there.
        """
        score = np.stack([0.9 * taste(u, v) for taste in self.tastes])
        for area, home in enumerate(_HOME):
            score[home] += 1.5 * areas * weights[area]
        return score.argmax(axis=0).astype(np.int16)


assert len(_CENTRES) == len(_HOME) == len(NAMES)
