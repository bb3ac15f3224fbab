"""Colours of names: the same name has the same colour in every picture of a run, for colour-blind readers too."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#811044", "#F9D8FC", "#241BC5",
    "#4BDBA0", "#B155FC", "#904701", "#354478", "#7E5C78", "#C1F5BF", "#8CB278", "#6B3AE7", "#7D83D4", "#B82853",
    "#90C9D1", "#F3C26A", "#B732A8", "#7B0B9F", "#D0BFFF", "#693B02", "#216D4E", "#CC8642", "#A16C97", "#A67BF8",
    "#AA714B", "#F281E1", "#3DFE92", "#70F1DA", "#405D90", "#64335C", "#06AAC7", "#D2A2AF", "#058D1D", "#4E8070",
)  # fmt: skip
"""Okabe and Ito's seven, continued greedily: each next colour is the one farthest (OKLab) from all before it, the
distance being the smallest of normal, deuteranope and protanope sight (Machado et al. 2009)."""

NETWORKS = {
    "Visual": "#781286",
    "Somatomotor": "#4682B4",
    "Dorsal Attention": "#00760E",
    "Ventral Attention": "#C43AFA",
    "Limbic": "#DCF8A4",
    "Frontoparietal": "#E69422",
    "Default": "#CD3E4E",
}
"""The colours in which the seven networks of Yeo et al. (2011) are published; readers know them by heart."""

UNSURE = {"unsure": "#E4E1DC"}
"""Colour of patches that a model would rather not name."""

MISSING = "#B8B8B8"
"""Colour of samples without a name."""

SEQUENTIAL = "cividis"
"""Matplotlib's map for quantities: monotone in lightness and equal for deuteranopes."""


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``L2`` before ``L10``."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def colours(names: Iterable[str]) -> dict[str, str]:
    """Assign a colour to every name of a vocabulary; it depends on the set of names only, not on order or counts.

    Parameters
    ----------
    names : iterable of str
        All names that any figure of the run may show; a figure of a few of them is given the whole mapping.

    Returns
    -------
    dict
        Name to ``"#RRGGBB"``. Beyond 40 names the palette repeats, darker and then lighter.
    """
    every = set(names)
    vocabulary = sorted(every - set(UNSURE), key=natural)
    if vocabulary and set(vocabulary) <= set(NETWORKS):
        return {name: NETWORKS[name] for name in vocabulary}
    return {name: _nth(index) for index, name in enumerate(vocabulary)} | (UNSURE if set(UNSURE) <= every else {})


def _nth(index: int) -> str:
    """Colour ``index`` of the palette; later rounds are mixed with black, then white."""
    cycle, slot = divmod(index, len(PALETTE))
    if not cycle:
        return PALETTE[slot]
    amount = min(0.2 * (cycle + 1), 0.8)
    mixed = rgb(PALETTE[slot]) * (1 - amount) + (0.0 if cycle % 2 else 255.0) * amount
    return "#{:02X}{:02X}{:02X}".format(*mixed.round().astype(int))


def rgb(colour: str) -> NDArray[np.float64]:
    """``"#RRGGBB"`` as three floats, 0 to 255."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2), 0 black to 1 white."""
    linear = np.where((c := rgb(colour) / 255) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def ink(colour: str) -> str:
    """Black or white, whichever is easier to read on ``colour`` (WCAG contrast, always >= 4.5)."""
    light = luminance(colour)
    return "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#FFFFFF"


def place_rgb(places: NDArray[np.floating]) -> NDArray[np.float64]:
    """Colours of places, so that neighbours in the brain look alike.

    Parameters
    ----------
    places : (n, 2) or (n, 3) float
        Sheet (mm) or space (mm) coordinates.

    Returns
    -------
    (n, 3) float64
        RGB, 0 to 1: three axes become red, green and blue; two become hue-like corners of a square.
    """
    low, high = np.nanpercentile(places, [1, 99], axis=0)
    unit = np.clip((places - low) / np.maximum(high - low, 1e-9), 0, 1)
    if places.shape[1] == 3:
        return 0.12 + 0.83 * unit
    u, v = unit[:, :1], unit[:, 1:]
    corners = [rgb(c) / 255 for c in ("#1B3A8C", "#E8443A", "#22B5A0", "#FFD84D")]
    return (1 - u) * (1 - v) * corners[0] + u * (1 - v) * corners[1] + (1 - u) * v * corners[2] + u * v * corners[3]
