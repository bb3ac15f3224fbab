"""Where there is tissue on a section, and a grid of points on it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
_image: Any = ndimage


def mask(overview: NDArray[np.uint8]) -> Mask:
    """Tissue on an overview of a section.

    The absolute optical density against the slide (the commonest border value) is smoothed, and cut where Otsu's
    criterion separates it best, or lower where the slide's own spread allows: faint tissue beside dense tissue
    still counts. Small islands (fiducial dots, dust) go, small holes are filled.

    Parameters
    ----------
    overview : (C, H, W) uint8
        Dark stain on a bright slide, or the reverse; 1 or 3 channels.

    Returns
    -------
    (H, W) bool
    """
    from brodmann.patches.image import ground

    slide, _ = ground(overview)
    # in place, because the overviews of a few sections at once are the largest arrays of sampling
    ratio = overview.astype(np.float32)
    ratio += 1.0
    ratio /= np.array(slide, np.float32)[:, None, None] + 1.0
    density = np.abs(np.log(ratio, out=ratio), out=ratio)
    density = density[0] if len(density) == 1 else density.max(0)
    del ratio
    shape, side = density.shape, max(density.shape)
    smooth = cast("NDArray[np.float32]", _image.gaussian_filter(density, max(side / 256, 0.5)))
    del density
    cut = _otsu(smooth)
    dense = float(np.median(smooth[smooth > cut])) if (smooth > cut).any() else 0.0
    if dense < 0.03:
        return np.zeros(shape, bool)
    # Otsu's cut lies halfway between slide and dense tissue and would lose white matter in strong stains; on a
    # clean slide the cut may go down to an eighth of the dense tissue, on a dirty one to the slide's own spread.
    empty = smooth[smooth < 0.5 * cut]
    spread = float(np.quantile(empty, 0.9)) if empty.size else 0.0
    cut = min(cut, max(dense / 8, 2.5 * spread))
    found = smooth > cut
    found = cast("Mask", _image.binary_opening(found, iterations=max(side // 200, 1)))
    least = 0.002 * found.size
    found = _keep(found, least)
    return ~_keep(~found, 0.1 * least)


def _keep(found: Mask, least: float) -> Mask:
    """Keep connected pieces of at least ``least`` pixels."""
    labels, count = _image.label(found)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    large = sizes >= least
    large[0] = False
    return large[labels]


def _otsu(values: NDArray[np.float32]) -> float:
    """Threshold that separates two classes with the largest variance between them (Otsu 1979)."""
    top = float(np.quantile(values, 0.999)) or 1e-6
    counts, edges = np.histogram(np.clip(values, 0, top), bins=256)
    share = counts / counts.sum()
    centres = 0.5 * (edges[1:] + edges[:-1])
    below = np.cumsum(share)
    mean = np.cumsum(share * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean[-1] * below - mean) ** 2 / (below * (1 - below))
    return float(centres[int(np.nanargmax(np.where(np.isfinite(between), between, -1)))])


def tissue_fraction(
    found: Mask, x_um: NDArray[np.floating], y_um: NDArray[np.floating], *, pixel_um: float, side_um: float
) -> NDArray[np.float64]:
    """Fraction of tissue in upright squares.

    Parameters
    ----------
    found : (H, W) bool
        Mask whose pixel (0, 0) starts at the section's corner.
    x_um, y_um : (n,) float
        Centres.
    pixel_um : float
        Pixel size of the mask.
    side_um : float
        Side of the squares; what lies outside the image is not tissue.

    Returns
    -------
    (n,) float64 between 0 and 1
    """
    height, width = found.shape
    table = np.zeros((height + 1, width + 1), np.float64)
    np.cumsum(np.cumsum(found, 0), 1, out=table[1:, 1:])
    half = max(side_um / pixel_um, 1.0) / 2
    x, y = np.asarray(x_um, np.float64) / pixel_um, np.asarray(y_um, np.float64) / pixel_um

    def area(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
        # The table of sums, interpolated linearly, integrates the mask exactly over fractions of pixels.
        at = np.stack([np.clip(rows, 0, height), np.clip(columns, 0, width)])
        return cast("NDArray[np.float64]", _image.map_coordinates(table, at, order=1, mode="nearest"))

    total = area(y + half, x + half) - area(y - half, x + half) - area(y + half, x - half) + area(y - half, x - half)
    return np.clip(total / (2 * half) ** 2, 0.0, 1.0)


def grid(found: Mask, *, pixel_um: float, spacing_um: float, least: float = 0.5) -> pd.DataFrame:
    """Points of a square grid on tissue.

    Parameters
    ----------
    found : (H, W) bool
        Tissue at ``pixel_um``.
    spacing_um : float
        Distance between neighbours; the square of this side around a point must hold ``least`` tissue.
    least : float
        Least fraction of tissue, 0 to 1.

    Returns
    -------
    DataFrame
        ``x_um``, ``y_um`` from the section's top left corner, row by row.
    """
    height_um, width_um = found.shape[0] * pixel_um, found.shape[1] * pixel_um
    xs = np.arange(spacing_um / 2, width_um, spacing_um)
    ys = np.arange(spacing_um / 2, height_um, spacing_um)
    y, x = (axis.ravel() for axis in np.meshgrid(ys, xs, indexing="ij"))
    inside = tissue_fraction(found, x, y, pixel_um=pixel_um, side_um=spacing_um) >= max(least, 1e-9)
    return pd.DataFrame({"x_um": x[inside], "y_um": y[inside]})
