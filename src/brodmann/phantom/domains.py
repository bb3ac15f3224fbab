"""Planted tissue domains: some follow areas and layers, some cross areas, some are borders that no atlas shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brodmann.phantom import areas, types
from brodmann.phantom.brain import Brain
from brodmann.phantom.chance import compiled
from brodmann.phantom.sheet import STEP_MM
from brodmann.phantom.types import ZONES
from brodmann.samples import stream

Array = NDArray[np.float64]
Index = NDArray[np.int16]

LAYERS = ("I", "II", "III", "IV", "V", "VI", "white matter")
UNIFORM = "S2 III"
"""The known region whose cells are all drawn from one mixture, whatever their place: every border in it is false."""
SEEN = 2.0 / 3.0
"""Profiles per mm2 in a section 10 um thick over those in the stained sections of 20 um.

The number of profiles grows as section thickness plus cell diameter (Abercrombie 1946): (10 + 10) / (20 + 10).
"""
WHITE_MM = 0.25
"""Depth of the superficial white matter."""

PARCELS = (*areas.NAMES, "M1 lateral", "S1 barrels", "P1 rostral", "P2 patch", *(f"{a} belt" for a in areas.NAMES[8:]))
"""Areas as an atlas has them, and parts of them with a composition of their own."""
PARCEL_AREA: Index = np.array([*range(12), 1, 2, 6, 7, 8, 9, 10, 11], dtype=np.int16)
ROSTRAL_MM = 2.0
"""The part of P1 that lies nearer to S2 differs from the rest."""
_BARREL_MM = 0.9
_M1, _S1, _S2, _P1, _P2, _FRONT = (areas.NAMES.index(name) for name in ("M1", "S1", "S2", "P1", "P2", "F1"))


def margin(brain: Brain) -> Array:
    """Distance to area S2 along the sheet, mm, at every node of a brain's tables (n_u, n_v)."""
    return cast("Array", ndimage.distance_transform_edt(brain.area != _S2)) * STEP_MM


@compiled
def parcel(area: int, u: float, v: float, margin_mm: float) -> int:
    """Parcel at template place (u, v) mm of an ``area``, ``margin_mm`` from S2; an index into `PARCELS`."""
    if area == _M1 and v > 33.5:
        return 12
    if area == _S1:
        # Discs on a hexagonal lattice fill half of the plane.
        high = _BARREL_MM * 0.8660254
        j = int(np.floor(v / high))
        for row in range(j, j + 2):
            shift = 0.5 * _BARREL_MM * (row % 2)
            x = u - shift - np.rint((u - shift) / _BARREL_MM) * _BARREL_MM
            y = v - row * high
            if x * x + y * y < (0.37 * _BARREL_MM) ** 2:
                return 13
    if area == _P1 and margin_mm < ROSTRAL_MM:
        return 14
    if area == _P2 and (u - 16.5) ** 2 + (v - 33.0) ** 2 < 2.3**2:
        return 15
    if area >= _FRONT and 47.8 < u < 50.2:
        return 16 + area - _FRONT
    return area


def _group(area: str) -> str:
    return area.rstrip("12")


_BROAD = {"V": "posterior", "P": "posterior", "T": "posterior", "S": "central", "M": "central", "F": "anterior",
          "Fp": "anterior"}  # fmt: skip
_DEEP = {"V": "visual", "P": "temporo-parietal", "T": "temporo-parietal", "S": "central", "M": "central",
         "F": "anterior", "Fp": "anterior"}  # fmt: skip


def _domain(part: str, zone: int) -> tuple[str, str]:
    """Fine domain and division of a zone of a parcel."""
    area, _, own = part.partition(" ")
    group = _group(area)
    broad = _BROAD[group]
    if zone >= len(areas.SUBLAYERS):
        return ZONES[zone], "white matter"
    sub, layer = ZONES[zone], LAYERS[areas.LAYER_OF[zone] - 1]
    if layer == "IV" and area == "M1":
        layer = "III"  # a blend at its rim; M1 has no layer IV
    if layer == "I":
        return f"I {broad}", "layer I"
    if own == "belt" and layer in {"II", "III"}:
        return "II-III belt", "upper anterior"
    if own == "patch" and layer in {"III", "IV"}:
        return "III-IV P2 patch", "upper posterior"
    division = f"upper {broad}" if layer in {"II", "III"} else "layer IV" if layer == "IV" else f"deep {broad}"
    if own == "rostral":
        return f"{layer} P1 rostral", division
    if layer == "II":
        return f"II {group}", division
    if layer == "III":
        if own == "lateral":
            return "III M1 lateral", division
        return ("IIIb F" if group == "F" and sub == "IIIb" else f"III {area}"), division
    if layer == "IV":
        if area == "V1":
            return f"{sub} V1", division
        return ("IV S1 barrels" if own == "barrels" else f"IV {area}"), division
    if layer == "V":
        if own == "lateral":
            return "V M1 lateral", division
        return (f"{sub} T" if group == "T" else f"V {group}"), division
    return ("VIb P" if group == "P" and sub == "VIb" else f"VI {_DEEP[group]}"), division


@dataclass(frozen=True)
class Plan:
    """Where each domain lies and what it holds.

    Attributes
    ----------
    fine, divisions, known, hidden : tuple of str
        Names of domains, of the coarse domains that they are parts of, of the regions that an atlas gives (area and
        layer), and of the hidden borders (domains that meet inside a known region).
    domain_of : (parcels, zones) int16
    division_of : (fine,) int16
    known_of : (areas, 7) int16
        By area and layer (I-VI, white matter).
    hidden_of : (known,) int16
        The border hidden in each known region, an index into ``hidden``; 0 is "none".
    mixture : (fine, 2, types) float64
        Shares of types at both ends of the sensory-association axis; between them the mixture changes linearly.
    uniform : int
        The domain without gradient: all of `UNIFORM` and nothing else.
    """

    fine: tuple[str, ...]
    divisions: tuple[str, ...]
    known: tuple[str, ...]
    hidden: tuple[str, ...]
    domain_of: Index
    division_of: Index
    known_of: Index
    hidden_of: Index
    mixture: Array
    uniform: int


def plan(seed: int, domain_effect: float) -> Plan:
    """Domains of phantom ``seed``; ``domain_effect`` scales by how much their mixtures differ beyond layer and area."""
    pairs = [[_domain(part, zone) for zone in range(len(ZONES))] for part in PARCELS]
    flat = [pair for zone in range(len(ZONES)) for pair in (row[zone] for row in pairs)]
    fine = tuple(dict.fromkeys(name for name, _ in flat))
    divisions = tuple(dict.fromkeys(name for _, name in flat))
    division_of = dict(flat)
    domain_of = np.array([[fine.index(name) for name, _ in row] for row in pairs], dtype=np.int16)
    known, known_of = _atlas()
    hidden, hidden_of = _hidden(domain_of, fine, known, known_of)
    return Plan(
        fine=fine, divisions=divisions, known=known, hidden=hidden, domain_of=domain_of,
        division_of=np.array([divisions.index(division_of[name]) for name in fine], dtype=np.int16),
        known_of=known_of, hidden_of=hidden_of, mixture=_mixture(seed, domain_of, fine, domain_effect),
        uniform=fine.index("III S2"),
    )  # fmt: skip


def _atlas() -> tuple[tuple[str, ...], Index]:
    """Known regions: every area's layers, and white matter without parts."""
    names = [f"{area} {layer}" for area in areas.NAMES for layer in LAYERS[:-1]]
    known = (*names, "white matter")
    of = np.arange(len(names), dtype=np.int16).reshape(len(areas.NAMES), -1)
    return known, np.concatenate([of, np.full((len(of), 1), len(names), np.int16)], axis=1)


def _hidden(domain_of: Index, fine: tuple[str, ...], known: tuple[str, ...], known_of: Index) -> tuple[Any, Index]:
    """Known regions that hold several domains, named by these domains."""
    held: list[dict[int, None]] = [{} for _ in known]
    layer_of = np.append(areas.LAYER_OF, [7, 7]) - 1
    for row, area in zip(domain_of, PARCEL_AREA, strict=True):
        for zone, domain in enumerate(row):
            if not (areas.NAMES[area] == "M1" and layer_of[zone] == 3):
                held[known_of[area, layer_of[zone]]][int(domain)] = None
    named = [" | ".join(fine[k] for k in one) if len(one) > 1 else "none" for one in held]
    hidden = tuple(dict.fromkeys(["none", *named]))
    return hidden, np.array([hidden.index(name) for name in named], dtype=np.int16)


def _mixture(seed: int, domain_of: Index, fine: tuple[str, ...], effect: float) -> Array:
    """Mean mixture of every place of a domain, then its own taste, then the tilt along the axis."""
    out = np.zeros((len(fine), 2, len(types.TYPES)))
    white = len(areas.SUBLAYERS)
    for row, index in zip(domain_of, PARCEL_AREA, strict=True):
        area = areas.AREAS[index]
        for zone, domain in enumerate(row):
            neurons, rest = types.mixture(zone, _group(area.name))
            inside = zone < white
            dense = SEEN * area.density[zone] if inside else types.WHITE_NEURONS_PER_MM2[zone - white]
            size = area.share[zone] * area.thickness_mm if inside else 0.25
            out[domain] += size * (dense * neurons + types.SUPPORT_PER_MM2[zone] * rest)
    for k, name in enumerate(fine):
        # Keyed by name, so that a domain keeps its taste when others are added.
        rng = stream(seed, "phantom", "domain", name)
        strength = np.where(types.NEURON, 0.6, 0.25) * effect
        taste = strength * rng.normal(size=len(types.TYPES))
        tilt = np.where(types.NEURON, 0.45, 0.15) * rng.normal(size=len(types.TYPES))
        if name == "III S2":
            tilt[:] = 0.0
        for end, side in enumerate((-1, 1)):
            out[k, end] *= np.exp(taste + side * tilt)
    return out / out.sum(axis=-1, keepdims=True)
