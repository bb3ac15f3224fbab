"""Twelve planted areas: what each layer holds, and what sets twins apart that no mean profile can tell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

SUBLAYERS = ("I", "II", "IIIa", "IIIb", "IVa", "IVb", "IVc", "Va", "Vb", "VIa", "VIb")
"""Eleven sublayers from pia to white matter."""
LAYER_OF = np.array([1, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6])
"""Layer (1-6) of each sublayer."""
PYRAMID = np.array([0.0, 0.15, 0.75, 1.0, 0.1, 0.3, 0.0, 0.8, 1.0, 0.5, 0.3])
"""How pyramidal cells are, 0 (granule) to 1 (tapering along the normal); the same in every area."""


@dataclass(frozen=True, kw_only=True)
class Texture:
    """What differs between twins; each change keeps the mean optical density of every depth."""

    columns: float = 0.0
    """Depth of modulation by radial strings of cells, 0-1."""
    islands: float = 0.0
    """Depth of modulation of layer II into islands, 0-1."""
    clusters: float = 0.0
    """Depth of modulation by clumps of cells in layers III-VI, 0-1."""
    spread: float = 0.18
    """SD of log cell diameter."""
    grain: float = 1.0
    """Cell number is divided by this, and cell area multiplied by it."""
    giants: float = 0.0
    """Betz cells per mm2 of layer Vb."""


TEXTURES = ("columns", "islands", "clusters", "spread", "grain", "giants")


@dataclass(frozen=True, kw_only=True)
class Area:
    """One area: mean thickness, and per sublayer its share, cells per mm2 of section, and diameter."""

    name: str
    thickness_mm: float
    share: tuple[float, ...]
    density: tuple[float, ...]
    size_um: tuple[float, ...]
    texture: Texture

    def row(self) -> NDArray[np.float64]:
        """Every parameter in one vector: thickness, cumulated shares, log density, log size, texture."""
        share = np.asarray(self.share, dtype=np.float64)
        texture = [getattr(self.texture, name) for name in TEXTURES]
        edges = np.cumsum(share / share.sum())
        return np.concatenate([[self.thickness_mm], edges, np.log(self.density), np.log(self.size_um), texture])


def _twins(area: Area, names: tuple[str, str], **change: float) -> tuple[Area, Area]:
    """Make two areas with the same mean profile, the second with another texture."""
    return replace(area, name=names[0]), replace(area, name=names[1], texture=replace(area.texture, **change))


_KONIO = Area(
    name="", thickness_mm=2.5, texture=Texture(),
    share=(0.09, 0.08, 0.14, 0.13, 0.06, 0.06, 0.06, 0.08, 0.10, 0.12, 0.08),
    density=(300, 3000, 1500, 1150, 3900, 4000, 3900, 700, 800, 1700, 900),
    size_um=(8, 9.8, 11, 12.5, 9.6, 9.6, 9.6, 12, 14.5, 12, 11.5),
)  # fmt: skip
_TEMPORAL = Area(
    name="", thickness_mm=3.2, texture=Texture(),
    share=(0.10, 0.08, 0.15, 0.16, 0.03, 0.04, 0.03, 0.10, 0.11, 0.12, 0.08),
    density=(280, 3000, 1150, 850, 2900, 3000, 2900, 600, 750, 1450, 850),
    size_um=(8, 10, 12, 15, 10, 10, 10, 13, 16, 13, 12.5),
)  # fmt: skip
_PARIETAL = Area(
    name="", thickness_mm=2.9, texture=Texture(),
    share=(0.09, 0.07, 0.15, 0.15, 0.045, 0.05, 0.045, 0.09, 0.10, 0.125, 0.085),
    density=(280, 2900, 1300, 950, 3400, 3500, 3400, 620, 720, 1550, 850),
    size_um=(8, 10, 12, 14.5, 9.8, 9.8, 9.8, 13, 15.5, 12.5, 12),
)  # fmt: skip
_FRONTAL = Area(
    name="", thickness_mm=3.4, texture=Texture(),
    share=(0.10, 0.07, 0.17, 0.20, 0.015, 0.02, 0.015, 0.11, 0.13, 0.11, 0.06),
    density=(260, 2300, 1000, 720, 2200, 2300, 2200, 520, 600, 1150, 700),
    size_um=(8, 10.5, 13, 17, 10.5, 10.5, 10.5, 15, 19, 13.5, 13),
)  # fmt: skip
_POLAR = Area(
    name="", thickness_mm=3.0, texture=Texture(),
    share=(0.11, 0.07, 0.16, 0.15, 0.03, 0.04, 0.03, 0.09, 0.11, 0.13, 0.08),
    density=(260, 2500, 1050, 850, 2900, 3000, 2900, 600, 680, 1350, 800),
    size_um=(8, 10, 12, 14.5, 10, 10, 10, 13, 15, 13, 12),
)  # fmt: skip

AREAS: tuple[Area, ...] = (
    # Layer IV in three: IVb is the pale band of Gennari between the dense IVa and IVc.
    Area(
        name="V1", thickness_mm=2.3, texture=Texture(),
        share=(0.09, 0.07, 0.12, 0.10, 0.05, 0.10, 0.16, 0.06, 0.08, 0.11, 0.06),
        density=(320, 3200, 2400, 2000, 3000, 1000, 4400, 800, 950, 2600, 1300),
        size_um=(8, 9.5, 10, 11, 9.5, 11, 9.2, 11.5, 14, 11, 11),
    ),
    # No layer IV; giant pyramids in Vb.
    Area(
        name="M1", thickness_mm=3.7, texture=Texture(giants=16.0),
        share=(0.08, 0.06, 0.19, 0.22, 0.0, 0.0, 0.0, 0.11, 0.17, 0.11, 0.06),
        density=(230, 1700, 850, 650, 650, 650, 650, 500, 480, 850, 550),
        size_um=(8, 11, 14, 17, 15, 15, 15, 16, 18, 15, 14),
    ),
    *_twins(_KONIO, ("S1", "S2"), columns=0.55),
    *_twins(_TEMPORAL, ("T1", "T2"), islands=0.75),
    *_twins(_PARIETAL, ("P1", "P2"), clusters=0.55),
    *_twins(_FRONTAL, ("F1", "F2"), spread=0.42),
    *_twins(_POLAR, ("Fp1", "Fp2"), grain=1.5),
)  # fmt: skip

TWINS: tuple[tuple[str, str], ...] = (("S1", "S2"), ("T1", "T2"), ("P1", "P2"), ("F1", "F2"), ("Fp1", "Fp2"))
"""Pairs of areas with the same mean profile."""
NAMES = tuple(area.name for area in AREAS)

_N = len(SUBLAYERS)
EDGES = slice(1, 1 + _N)
DENSITY = slice(1 + _N, 1 + 2 * _N)
SIZE = slice(1 + 2 * _N, 1 + 3 * _N)
TEXTURE = slice(1 + 3 * _N, 1 + 3 * _N + len(TEXTURES))
"""Where the parts of `Area.row` lie."""


def rows() -> NDArray[np.float64]:
    """Parameters of all areas, (areas, parameters)."""
    return np.stack([area.row() for area in AREAS])
