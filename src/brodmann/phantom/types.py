"""Fifty-six planted cell types in ten classes, and the layers and areas in which each is at home."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.phantom.areas import SUBLAYERS

Array = NDArray[np.float64]

ZONES = (*SUBLAYERS, "white superficial", "white deep")
"""Sublayers of cortex, and two depths of the white matter below it."""
CLASSES = (
    "IT glutamatergic", "ET glutamatergic", "NP-CT-L6b glutamatergic", "CGE GABAergic", "MGE GABAergic",
    "astrocytes", "oligodendrocytes", "OPC", "immune", "vascular",
)  # fmt: skip
"""Classes, after the taxonomy of the whole mouse brain (Yao et al. 2023)."""
_ABROAD = 0.1
"""Weight of a type outside its own areas, relative to at home."""
_SHORT = {"1": "I", "2": "II", "3a": "IIIa", "3b": "IIIb", "4a": "IVa", "4b": "IVb", "4c": "IVc", "5a": "Va",
          "5b": "Vb", "6a": "VIa", "6b": "VIb", "w": "white superficial", "d": "white deep"}  # fmt: skip


@dataclass(frozen=True)
class CellType:
    """A leaf type: ``weights`` over `ZONES` within its kind, and the groups of areas where it is at home."""

    name: str
    parent: str
    weights: tuple[float, ...]
    home: tuple[str, ...]


def _rows(parent: str, text: str) -> list[CellType]:
    """Read lines of "name | zone:weight ... | groups of areas"; no groups: everywhere."""
    found: list[CellType] = []
    for line in text.strip().splitlines():
        name, zones, home = (part.strip() for part in line.split("|"))
        at = dict(pair.split(":") for pair in zones.split())
        weight = {_SHORT[zone]: float(value) for zone, value in at.items()}
        found.append(CellType(name, parent, tuple(weight.get(zone, 0.0) for zone in ZONES), tuple(home.split())))
    return found


_IT = """
L2 IT posterior | 2:1 3a:.35 1:.03 | V P T
L2 IT central | 2:1 3a:.35 1:.03 | S M
L2 IT anterior | 2:1 3a:.35 1:.03 | F Fp
L3 IT visual | 2:.2 3a:1 3b:.9 4a:.15 | V
L3 IT parietal | 2:.2 3a:1 3b:.9 4a:.15 | P
L3 IT temporal | 2:.2 3a:1 3b:.9 4a:.15 | T
L3 IT central | 2:.2 3a:1 3b:.9 4a:.15 | S M
L3 IT anterior | 2:.2 3a:1 3b:.9 4a:.15 | F Fp
L3 IT large | 3a:.12 3b:.6 5a:.08 | M F T
L4 IT visual | 3b:.1 4a:.8 4b:.2 4c:1 | V
L4 IT stellate | 4a:.1 4b:1 | V
L4 IT somatic | 3b:.12 4a:1 4b:1 4c:1 5a:.05 | S M
L4 IT association | 3b:.12 4a:1 4b:1 4c:1 5a:.05 | T P F Fp
L5 IT posterior | 4c:.06 5a:1 5b:.55 6a:.04 | V P T
L5 IT central | 4c:.06 5a:1 5b:.55 6a:.04 | S M
L5 IT anterior | 4c:.06 5a:1 5b:.55 6a:.04 | F Fp
L6 IT | 5b:.08 6a:.8 6b:.3 w:.2 |
L6 IT Car3 | 5b:.03 6a:.25 6b:.2 | T P F Fp
"""
_ET = """
L5 ET | 5a:.08 5b:.38 |
L5 ET giant | 5b:.25 | M
"""
_CT = """
L5/6 NP | 5a:.06 5b:.22 6a:.05 |
L5/6 NP anterior | 5a:.04 5b:.18 6a:.05 | F Fp
L6 CT sensory | 6a:.8 6b:.25 | V S
L6 CT motor | 6a:.7 6b:.25 | M F Fp
L6 CT association | 6a:.7 6b:.25 | T P
L6b | 6a:.05 6b:.6 w:1 d:.3 |
L6b anterior | 6b:.4 w:.5 d:.2 | F Fp T
"""
_CGE = """
Lamp5 | 1:1 2:.35 3a:.2 3b:.15 4a:.1 4b:.1 4c:.1 5a:.1 5b:.1 6a:.15 6b:.2 w:.2 |
Lamp5 Lhx6 | 1:.1 2:.1 5b:.15 6a:.3 6b:.4 w:.3 |
Vip bipolar | 1:.1 2:1 3a:.6 3b:.35 4a:.3 4b:.3 4c:.3 5a:.1 5b:.1 6a:.1 |
Vip multipolar | 1:.1 2:.7 3a:.5 3b:.2 4a:.15 4b:.15 4c:.1 5a:.05 5b:.05 6a:.05 | V S M
Vip association | 1:.1 2:.7 3a:.5 3b:.2 4a:.15 4b:.15 4c:.1 5a:.05 5b:.05 6a:.05 | T P F Fp
Vip deep | 4c:.1 5a:.2 5b:.25 6a:.25 6b:.25 |
Sncg | 1:.3 2:.3 3a:.2 3b:.12 4a:.05 4b:.05 4c:.05 5a:.1 5b:.1 6a:.06 |
Pax6 | 1:1 2:.1 |
"""
_MGE = """
Sst upper | 2:.4 3a:.5 3b:.4 4a:.2 4b:.2 4c:.15 |
Sst middle | 3b:.25 4a:.5 4b:.5 4c:.5 5a:.5 5b:.2 |
Sst deep | 5a:.5 5b:.7 6a:.5 6b:.3 |
Sst deep anterior | 5a:.3 5b:.5 6a:.6 6b:.5 w:.2 | M F Fp
Sst Chodl | 2:.03 5b:.05 6a:.06 6b:.2 w:1 d:1 |
Pvalb upper | 2:.3 3a:.7 3b:.7 4a:.4 4b:.3 4c:.3 |
Pvalb granular | 3b:.15 4a:.9 4b:.9 4c:1 5a:.15 | V S
Pvalb deep | 4c:.1 5a:.7 5b:.9 6a:.5 6b:.15 |
Pvalb chandelier | 2:.12 3a:.06 5b:.05 6a:.05 |
"""
_GLIA = {
    "astrocytes": """
astrocytes grey | 1:.12 2:.36 3a:.36 3b:.36 4a:.34 4b:.34 4c:.34 5a:.3 5b:.28 6a:.25 6b:.18 w:.03 |
astrocytes interlaminar | 1:.36 2:.05 |
astrocytes white | 6b:.04 w:.09 d:.11 |
""",
    "oligodendrocytes": """
oligodendrocytes | 1:.03 2:.05 3a:.09 3b:.13 4a:.17 4b:.2 4c:.2 5a:.26 5b:.3 6a:.35 6b:.42 w:.5 d:.48 |
oligodendrocytes new | 3b:.01 4c:.015 5a:.02 5b:.03 6a:.04 6b:.07 w:.1 d:.14 |
""",
    "OPC": """
OPC | 1:.09 2:.09 3a:.09 3b:.09 4a:.09 4b:.09 4c:.09 5a:.09 5b:.09 6a:.09 6b:.08 w:.07 d:.06 |
""",
    "immune": """
microglia | 1:.15 2:.15 3a:.14 3b:.14 4a:.14 4b:.14 4c:.14 5a:.14 5b:.13 6a:.12 6b:.11 w:.1 d:.1 |
macrophages | 1:.04 2:.01 3a:.01 3b:.01 4a:.01 4b:.01 4c:.01 5a:.01 5b:.01 6a:.01 6b:.01 w:.01 d:.01 |
""",
    "vascular": """
endothelium | 1:.1 2:.15 3a:.16 3b:.16 4a:.18 4b:.18 4c:.18 5a:.15 5b:.14 6a:.12 6b:.1 w:.06 d:.05 |
pericytes | 1:.03 2:.05 3a:.05 3b:.05 4a:.06 4b:.06 4c:.06 5a:.05 5b:.05 6a:.04 6b:.03 w:.02 d:.02 |
smooth muscle | 1:.02 2:.01 3a:.01 3b:.01 4a:.01 4b:.01 4c:.01 5a:.01 5b:.01 6a:.01 6b:.01 w:.005 d:.005 |
leptomeningeal | 1:.05 2:.005 3a:.005 3b:.005 4a:.005 4b:.005 4c:.005 5a:.005 5b:.005 6a:.005 6b:.005 w:.004 |
""",
}

TYPES: tuple[CellType, ...] = (
    *_rows(CLASSES[0], _IT), *_rows(CLASSES[1], _ET), *_rows(CLASSES[2], _CT), *_rows(CLASSES[3], _CGE),
    *_rows(CLASSES[4], _MGE), *(row for parent, text in _GLIA.items() for row in _rows(parent, text)),
)  # fmt: skip
"""Every leaf type, by class."""
TYPE_NAMES = tuple(one.name for one in TYPES)
CLASS_OF: NDArray[np.int16] = np.array([CLASSES.index(one.parent) for one in TYPES], dtype=np.int16)
"""Index into `CLASSES` of every type."""
GLUTAMATERGIC, GABAERGIC = CLASS_OF <= 2, (CLASS_OF == 3) | (CLASS_OF == 4)
NEURON = CLASS_OF <= 4

LIBRARY = np.array([390.0, 480.0, 390.0, 310.0, 330.0, 170.0, 210.0, 180.0, 135.0, 155.0])
"""Mean counts of a cell of each class in a panel of 500 genes."""
VOLUME_UM3 = np.array([1500.0, 2600.0, 1300.0, 1000.0, 1100.0, 750.0, 600.0, 650.0, 450.0, 550.0])
"""Mean volume of the segmented profile of each class."""
INHIBITORY = np.array([0.93, 0.27, 0.24, 0.23, 0.18, 0.18, 0.17, 0.21, 0.23, 0.15, 0.17, 0.3, 0.5])
"""Share of GABAergic cells among the neurons of each zone."""
SUPPORT_PER_MM2 = np.array([520.0, 480, 480, 480, 520, 520, 520, 540, 560, 580, 680, 1250, 1150])
"""Glia and vascular cells of each zone per mm2 of a section 10 um thick."""
WHITE_NEURONS_PER_MM2 = np.array([70.0, 15.0])
"""Interstitial neurons of the two depths of white matter, same unit."""


def mixture(zone: int, group: str) -> tuple[Array, Array]:
    """Shares of the types among the neurons, and among all other cells, of a zone and group of areas; (types,) each."""
    weight = np.array([one.weights[zone] for one in TYPES])
    abroad = np.array([bool(one.home) and group not in one.home for one in TYPES])
    weight = weight * np.where(abroad, _ABROAD, 1.0)
    excitatory, inhibitory, rest = (np.where(kind, weight, 0.0) for kind in (GLUTAMATERGIC, GABAERGIC, ~NEURON))
    share = INHIBITORY[zone]
    neurons = (1 - share) * excitatory / excitatory.sum() + share * inhibitory / inhibitory.sum()
    return neurons, rest / rest.sum()
