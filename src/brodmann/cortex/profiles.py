"""Intensity profiles from the pia to white matter, and the ten numbers that describe their shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from brodmann.cortex._laplace import Array
from brodmann.cortex.ribbon import Ribbon
from brodmann.errors import Refused, Usage

SHAPE = ("mean", "centroid", "sd", "skewness", "kurtosis")
"""What is taken of a profile, and with ``d_`` before it of the size of its derivative."""

_LEAST = 0.5
_SIDE = 8192


@dataclass(frozen=True, eq=False)
class Profiles:
    """Profiles of n places.

    Attributes
    ----------
    mean, sd : (n, points) float64
        Over the width of the traverse, from the pia to white matter; NaN where fewer than half its streamlines exist.
    """

    mean: Array
    sd: Array


def profiles(
    ribbon: Ribbon,
    image: NDArray[np.integer] | NDArray[np.floating],
    pixel_um: float,
    places: pd.DataFrame,
    *,
    points: int = 50,
    width_um: float = 500.0,
    equal: str = "length",
) -> Profiles:
    """Read an image along streamlines through places of the mid-line.

    Parameters
    ----------
    ribbon : Ribbon
        Of the same section.
    image : (h, w) integer or floating
        The section from its top left corner; take optical density or a grey level index, so that more is more.
    pixel_um : float
        Its pixel size.
    places : DataFrame
        ``x_um, y_um, angle_deg``, as `lines.midline` gives them.
    points : int
        Depths, at the middle of as many equal parts.
    width_um : float
        Width of the traverse at mid-cortex; a streamline every pixel.
    equal : str
        ``"length"`` of the streamline, as in Schleicher et al., or ``"area"``: equi-area depths, which do not shift
        between crowns and fundi (Waehnert et al. 2014, NeuroImage 93:210).

    Raises
    ------
    Refused
        If the image is not a plane, or not as large as the section.
    Usage
        If a size is not positive.
    """
    if image.ndim != 2:
        raise Refused(
            "Profiles should be read from one channel, (h, w).",
            found=f"shape {image.shape}.",
            do="take one channel, or their mean.",
        )
    if not (np.isfinite(pixel_um) and pixel_um > 0 and np.isfinite(width_um) and width_um > 0):
        raise Usage("Sizes should be positive micrometres.", found=f"pixel_um = {pixel_um}, width_um = {width_um}.")
    size, own = np.array(image.shape) * pixel_um, np.array(ribbon.kind.shape) * ribbon.step_um
    if (np.abs(size - own) > max(2 * ribbon.step_um, 2 * pixel_um)).any():
        raise Refused(
            "Image and mask should show the same section.",
            found=f"{size[1]:.0f} x {size[0]:.0f} um and {own[1]:.0f} x {own[0]:.0f} um.",
            cause="another pixel size than stated, or a cropped picture.",
            do="give pixel_um of the image as it is passed.",
        )
    beside = np.arange(max(int(width_um / pixel_um), 1)) * pixel_um
    beside -= beside.mean()
    xy, turn = places[["x_um", "y_um"]].to_numpy(np.float64), np.deg2rad(places["angle_deg"].to_numpy(np.float64))
    across = np.column_stack([np.cos(turn), np.sin(turn)])
    grey = np.asarray(image, dtype=np.float64)
    mean, sd = (np.full((len(xy), points), np.nan) for _ in range(2))
    # In pieces, so that memory does not grow with the number of places.
    step = max(_SIDE // len(beside), 1)
    for first in range(0, len(xy), step):
        part = slice(first, first + step)
        start = xy[part, None] + beside[:, None] * across[part, None]
        path = ribbon.streamlines(start.reshape(-1, 2), points=points, equal=equal) / pixel_um - 0.5
        value = map_coordinates(grey, [path[..., 1], path[..., 0]], order=1, mode="nearest")
        value = np.where(np.isfinite(path[..., 0]), value, np.nan).reshape(-1, len(beside), points)
        there = np.isfinite(value)
        count = there.sum(axis=1)
        ok = count >= _LEAST * len(beside)
        filled = np.where(there, value, 0)
        average = filled.sum(axis=1) / np.maximum(count, 1)
        spread = (np.where(there, value - average[:, None], 0) ** 2).sum(axis=1) / np.maximum(count, 1)
        mean[part], sd[part] = np.where(ok, average, np.nan), np.where(ok, np.sqrt(spread), np.nan)
    return Profiles(mean, sd)


def shape(profile: Array) -> pd.DataFrame:
    """Ten numbers of each profile: mean, and centroid, SD, skewness and kurtosis as if it were a distribution of depth.

    The same of the absolute first derivative. See Schleicher et al. (1999), NeuroImage 9:165, and Zilles et al. (2002),
    in Brain Mapping: The Methods, p 573; together they tell areas apart by Mahalanobis distance.

    Parameters
    ----------
    profile : (n, points) float64
        Not negative; the first value lies at the pia.

    Returns
    -------
    DataFrame
        `SHAPE`, and each with ``d_`` before it. Depth counts from 0 at the pia to 1, the derivative is per depth;
        kurtosis is 3 for a normal curve. NaN where a profile is not finite, or 0 everywhere.

    Raises
    ------
    Refused
        If a value is negative, or a profile has fewer than three points.
    """
    y = np.asarray(profile, dtype=np.float64)
    if y.ndim != 2 or y.shape[1] < 3:
        raise Refused("Profiles should be (n, points) with three points or more.", found=f"shape {y.shape}.")
    if (y < 0).any():
        raise Refused(
            "Profiles should not be negative: their shape is that of a distribution over depth.",
            found=f"{int((y < 0).any(axis=1).sum())} of {len(y)} with negative values.",
            do="take optical density or a grey level index.",
        )
    depth = (np.arange(y.shape[1]) + 0.5) / y.shape[1]
    slope = np.abs(np.diff(y, axis=1)) * y.shape[1]
    rows = [*_moments(y, depth), *_moments(slope, (depth[1:] + depth[:-1]) / 2)]
    return pd.DataFrame(dict(zip([*SHAPE, *(f"d_{name}" for name in SHAPE)], rows, strict=True)))


def _moments(y: Array, x: Array) -> tuple[Array, Array, Array, Array, Array]:
    total = y.sum(axis=1)
    weight = y / np.where(total > 0, total, np.nan)[:, None]
    centre = weight @ x
    away = x - centre[:, None]
    second, third, fourth = ((weight * away**k).sum(axis=1) for k in (2, 3, 4))
    # A profile that is one single peak has no width, hence no skewness.
    wide = np.where(second > 1e-12, second, np.nan)
    return y.mean(axis=1), centre, np.sqrt(second), third / wide**1.5, fourth / wide**2
