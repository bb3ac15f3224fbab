"""The planted neurons that answer to videos: where they lie, what each prefers, and how that differs between areas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.phantom import areas
from brodmann.phantom.brain import Brain
from brodmann.phantom.sheet import MARGIN_MM, STEP_MM
from brodmann.phantom.videos import VIEW_DEG, Screen

Array = NDArray[np.float64]

FIELD_UM = 600.0
"""Side of the square that is imaged in each area."""
UNDRIVEN = 0.1
"""Share of neurons that no video drives."""
TYPES = ("simple", "complex", "broad")
"""Excitatory simple cells, excitatory complex cells, and broadly tuned inhibitory cells."""
LAYERS = ("II", "III", "IV", "V")
DEPTHS_UM = (100.0, 190.0, 330.0, 430.0, 620.0)
"""Bounds of the layers below the pia: the same in all areas, so that depth does not tell them apart."""
_FWHM = 2 * np.sqrt(2 * np.log(2))
_MEETING_MM = (16.0, 20.0)
_SHARES = np.array([[0.40, 0.40, 0.20], [0.42, 0.38, 0.20], [0.62, 0.20, 0.18], [0.30, 0.52, 0.18]])


@dataclass(frozen=True)
class Tuning:
    """What an area prefers: medians over its neurons, of which each differs.

    Attributes
    ----------
    sf_cpd, tf_hz : float
        Spatial and temporal frequency.
    cycles : float
        SD of the receptive field times spatial frequency.
    direction : float
        Mean selectivity for direction, 0 to 1.
    pooling : float
        Complex cells per simple cell, relative to the layer's.
    deg_per_mm : float
        How far the receptive field moves per mm of cortex.
    """

    sf_cpd: float
    tf_hz: float
    cycles: float
    direction: float
    pooling: float
    deg_per_mm: float


AREAS: dict[str, Tuning] = {
    "V1": Tuning(0.050, 2.2, 0.30, 0.25, 0.6, 28.0),
    "T1": Tuning(0.092, 1.8, 0.48, 0.20, 1.0, 40.0),
    "P1": Tuning(0.036, 4.4, 0.30, 0.50, 1.2, 45.0),
    "P2": Tuning(0.062, 1.15, 0.56, 0.38, 1.6, 50.0),
}
"""Areas that are imaged. Their preferences overlap: one neuron does not tell its area, a hundred do."""
_SPREAD = {"sf_cpd": 0.35, "tf_hz": 0.42, "cycles": 0.30}


def fields(brain: Brain, rng: np.random.Generator) -> Array:
    """Middle of one imaging field per area of `AREAS` on the brain's sheet, (areas, 2) mm.

    Each lies at least 1 mm from the area's border, near the place where the four areas face one another.
    """
    middles = np.zeros((len(AREAS), 2))
    for row, name in enumerate(AREAS):
        inside = (brain.area == areas.NAMES.index(name)) & (brain.border_mm > 1.0)
        away = np.hypot(*(brain.true_mm[inside] - _MEETING_MM).T)
        near = np.argwhere(inside)[away < away.min() + 2.5]
        middles[row] = near[rng.integers(len(near))] * STEP_MM - MARGIN_MM
    return middles


def plant(rng: np.random.Generator, middles: Array, count: int, screen: Screen) -> pd.DataFrame:
    """Draw the neurons of one animal.

    Parameters
    ----------
    middles : (areas, 2) float64
        Where the fields lie, see `fields`.
    count : int
        Neurons in total, spread over the areas in random order.

    Returns
    -------
    DataFrame
        A row per neuron. ``area, layer, type`` (categorical); ``driven`` (bool); ``field`` (int, numbered at random);
        ``x_um, y_um, depth_um``; ``x_mm, y_mm, z_mm`` in a frame of the animal's own; ``rf_x_deg, rf_y_deg`` (y down),
        ``rf_deg`` (full width of the envelope at half its height), ``orientation_deg`` (0 to 180, of the bars),
        ``direction_deg`` (0 to 360, of their motion, at a right angle to the bars), ``direction_selectivity`` (0 to 1),
        ``sf_cpd, tf_hz``; ``phase``, ``threshold``, ``power``, ``saturation`` (contrast at which normalisation takes
        over), ``spontaneous`` (share of the rate that is always there), ``rate_hz`` (mean to natural video),
        ``running_gain, pupil_gain``, ``shared_1 ... shared_3`` (loadings on slow noise), ``unit`` (response per spike),
        ``blur`` (SD of the noise of observation, units per frame), ``dendrite_um, apical_um``. What an undriven neuron
        would prefer is drawn, and does nothing.
    """
    names = list(AREAS)
    area = rng.permutation(np.arange(count) % len(names))
    number = rng.permutation(len(names))[area]
    depth = rng.uniform(DEPTHS_UM[0], DEPTHS_UM[-1], count)
    layer = np.searchsorted(DEPTHS_UM[1:-1], depth)
    tuning = pd.DataFrame([vars(AREAS[name]) for name in names])
    share = _SHARES[layer].copy()
    share[:, 1] *= tuning["pooling"].to_numpy()[area]
    share[:, :2] *= (1 - share[:, 2:]) / share[:, :2].sum(axis=1, keepdims=True)
    kind = (rng.random(count)[:, None] > np.cumsum(share, axis=1)[:, :2]).sum(axis=1)
    simple, broad = kind == 0, kind == 2
    near = rng.uniform(0, FIELD_UM, (count, 2))

    drawn = {
        name: tuning[name].to_numpy()[area] * np.exp(rng.normal(0, spread, count)) for name, spread in _SPREAD.items()
    }
    # Nothing finer than three pixels is drawn, so that every neuron can be driven.
    sf = np.clip(drawn["sf_cpd"], 0.012, screen.degree_px / 3)
    tf = np.clip(drawn["tf_hz"], 0.4, min(9.0, screen.rate_hz / 3.3))
    sd = np.clip(drawn["cycles"] / sf, 2.2, 15.0) * np.where(kind == 1, 1.12, np.where(broad, 1.3, 1.0))
    sd *= np.where(layer == 3, 1.12, np.where(layer == 2, 0.93, 1.0))
    selectivity = rng.beta(*_beta(np.where(broad, 0.06, tuning["direction"].to_numpy()[area])))
    direction = rng.uniform(0, 360, count)
    columns: dict[str, object] = {
        "area": pd.Categorical.from_codes(area, names),
        "layer": pd.Categorical.from_codes(layer, list(LAYERS)),
        "type": pd.Categorical.from_codes(kind, list(TYPES)),
        "driven": rng.random(count) >= UNDRIVEN,
        "field": number + 1,
        "x_um": near[:, 0], "y_um": near[:, 1], "depth_um": depth,
    }  # fmt: skip
    sheet = middles[area] + (near - FIELD_UM / 2) / 1000
    columns |= dict(zip(("x_mm", "y_mm"), _placed(rng, sheet).T, strict=True), z_mm=-depth / 1000)
    columns |= dict(zip(("rf_x_deg", "rf_y_deg"), _retinotopy(rng, near, area, screen).T, strict=True))
    columns |= {
        "rf_deg": _FWHM * sd,
        "orientation_deg": (direction + 90) % 180,
        "direction_deg": direction,
        "direction_selectivity": selectivity,
        "sf_cpd": sf, "tf_hz": tf,
        "phase": rng.uniform(0, 2 * np.pi, count),
        "threshold": np.where(broad, 0.0, rng.uniform(0.2, 1.0, count)),
        "power": np.where(broad, 1.0, rng.uniform(1.2, 2.0, count)),
        "saturation": np.where(broad, 0.08, rng.uniform(0.15, 0.45, count)),
        "spontaneous": np.where(broad, 0.3, rng.uniform(0.03, 0.2, count)),
        "rate_hz": np.exp(rng.normal(np.log(np.where(broad, 4.5, np.where(simple, 1.1, 1.5))), 0.6)),
        "running_gain": rng.normal(0.10, 0.22, count),
        "pupil_gain": rng.normal(0.08, 0.16, count),
        **{f"shared_{k}": rng.normal(0.12 if k == 1 else 0.0, 0.2, count) for k in (1, 2, 3)},
        "unit": np.exp(rng.normal(0, 0.3, count)),
    }  # fmt: skip
    columns["blur"] = 0.06 * np.exp(rng.normal(0, 0.4, count)) * np.asarray(columns["unit"])
    columns["dendrite_um"] = (
        240 * (_FWHM * sd / 15) ** 0.45 * np.where(broad, 0.75, np.where(simple, 0.95, 1.1))
        * np.exp(rng.normal(0, 0.10, count))
    )  # fmt: skip
    # Only pyramidal cells have an apical dendrite.
    apical = 0.8 * depth * (tf / 2) ** 0.25 * np.exp(rng.normal(0, 0.10, count))
    columns["apical_um"] = np.where(broad, np.nan, apical)
    return pd.DataFrame(columns)


def _beta(mean: Array) -> tuple[Array, Array]:
    """Parameters of beta distributions of the given means and six pseudo-counts."""
    return 6 * mean, 6 * (1 - mean)


def _placed(rng: np.random.Generator, sheet_mm: Array) -> Array:
    """Turn and shift the sheet at random, (n, 2) mm: the animal's own frame, registered to nothing."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = sheet_mm @ turn.T
    return moved - moved.min(axis=0) + rng.uniform(0.5, 3.0, 2)


def _retinotopy(rng: np.random.Generator, near_um: Array, area: NDArray[np.int64], screen: Screen) -> Array:
    """Middle of every receptive field, (n, 2) degrees: smooth along cortex, with scatter; the areas see one region."""
    half = np.array([VIEW_DEG / 2, screen.height_px / screen.degree_px / 2])
    seen = rng.normal(0, 1, 2) * (8.0, 4.0)
    places = np.zeros((len(area), 2))
    for k, tuning in enumerate(AREAS.values()):
        angle, own = rng.uniform(0, 2 * np.pi), area == k
        # Neighbouring areas are mirror images of each other.
        mirror = 1 if k % 2 else -1
        turn = np.array([[np.cos(angle), -mirror * np.sin(angle)], [np.sin(angle), mirror * np.cos(angle)]])
        along = (near_um[own] - FIELD_UM / 2) / 1000 * tuning.deg_per_mm
        places[own] = seen + rng.normal(0, 4, 2) + along @ turn.T
    places += rng.normal(0, 3.5, places.shape)
    return np.clip(places, -0.85 * half, 0.85 * half)


def labels(planted: pd.DataFrame) -> pd.DataFrame:
    """What is told of every neuron: places and labels; preferences are NaN where a neuron has none."""
    undriven = ~planted["driven"].to_numpy(dtype=bool)
    none = {
        "orientation_deg": undriven | (planted["type"] == "broad").to_numpy(),
        "direction_deg": undriven | (planted["direction_selectivity"] < 0.3).to_numpy(),
        **dict.fromkeys(("direction_selectivity", "sf_cpd", "tf_hz", "rf_x_deg", "rf_y_deg", "rf_deg"), undriven),
    }
    kept = ["x_um", "y_um", "x_mm", "y_mm", "z_mm", "depth_um", "area", "layer", "type"]
    told = cast("pd.DataFrame", planted[kept]).copy()
    told["driven"] = pd.Categorical.from_codes((~undriven).astype(int), ["no", "yes"])
    for name, missing in none.items():
        told[name] = np.where(missing, np.nan, planted[name].to_numpy())
    for name in ("rate_hz", "running_gain", "pupil_gain", "dendrite_um", "apical_um"):
        told[name] = planted[name]
    return told
