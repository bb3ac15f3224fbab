"""Samples to pixels: the nearest sample within reach gives a pixel its label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.maps.labels import Key, Picture, spacing_um

if TYPE_CHECKING:
    from anndata import AnnData

REACH = 0.75
"""A label is drawn up to this many sampling spacings from its sample: just over half a grid cell's diagonal."""


def samples_of(table: AnnData, names: pd.Series, picture: Picture) -> tuple[NDArray[np.float64], pd.Series]:
    """Positions (n, 2) um and names of the samples on one section.

    Raises
    ------
    Refused
        The table has no sample on this section, or samples outside its image.
    """
    obs = cast("pd.DataFrame", table.obs)
    here = (obs["section"].astype(str) == picture.id).to_numpy()
    if not here.any():
        raise Refused(
            f"the table should have samples on section '{picture.id}'.",
            found=f"sections such as {', '.join(sorted({str(s) for s in obs['section']})[:3])}.",
        )
    xy = obs.loc[here, ["x_um", "y_um"]].to_numpy(dtype=np.float64)
    slack = 1.02 * max(picture.width_um, picture.height_um)
    if xy.min() < -slack / 50 or xy.max() > slack:
        raise Refused(
            f"samples should lie on section '{picture.id}' ({picture.width_um:.0f} x {picture.height_um:.0f} um).",
            found=f"x_um up to {xy[:, 0].max():.0f}, y_um up to {xy[:, 1].max():.0f}.",
            cause="coordinates in pixels or mm, or a table of other images.",
        )
    return xy, cast("pd.Series", names[here])


def visible_reach_um(xy_um: NDArray[np.float64], picture: Picture) -> float:
    """Reach (um) for pictures: `REACH` spacings; for samples along a line, at least 2 % of the picture's longer side.

    A ribbon of samples 0.2 mm apart would otherwise be a hair on a section of 40 mm.
    """
    from scipy import spatial

    spacing = spacing_um(xy_um)
    if len(xy_um) < 5:
        return REACH * spacing
    fourth = float(np.median(cast("Any", spatial).cKDTree(xy_um).query(xy_um, k=5)[0][:, 4]))
    along_a_line = fourth > 1.6 * spacing  # on a grid the fourth neighbour is as near as the first
    return max(REACH * spacing, 0.02 * max(picture.width_um, picture.height_um) if along_a_line else 0.0)


def raster(
    xy_um: NDArray[np.float64],
    values: NDArray[np.int64],
    shape: tuple[int, int],
    *,
    pixel_um: float,
    reach_um: float,
) -> NDArray[np.uint16]:
    """Value of the nearest sample within reach of each pixel's centre, 0 elsewhere.

    Parameters
    ----------
    xy_um : (n, 2) float64
        Samples, um from the top left corner.
    values : (n,) int64
        Their values; samples of value 0 take part, so that a hole stays a hole.
    shape : (height, width) of the result, pixels.
    pixel_um, reach_um : float
        Pixel size and the largest distance, um.

    Returns
    -------
    (height, width) uint16
    """
    from scipy import spatial

    tree: Any = cast("Any", spatial).cKDTree(xy_um)
    padded = np.append(values, 0).astype(np.uint16)  # the tree answers n where nothing is in reach
    result = np.zeros(shape, dtype=np.uint16)
    low = np.maximum(np.floor((xy_um.min(0) - reach_um) / pixel_um).astype(int), 0)
    high = np.ceil((xy_um.max(0) + reach_um) / pixel_um).astype(int) + 1
    columns = np.arange(low[0], min(high[0], shape[1]))
    rows = np.arange(low[1], min(high[1], shape[0]))
    step = max(1, 1_000_000 // max(len(columns), 1))
    for start in range(0, len(rows), step):  # in bands, so that memory does not grow with the section
        band = rows[start : start + step]
        x, y = np.meshgrid((columns + 0.5) * pixel_um, (band + 0.5) * pixel_um)
        nearest = tree.query(np.column_stack([x.ravel(), y.ravel()]), distance_upper_bound=reach_um)[1]
        if len(columns) and len(band):
            result[band[0] : band[-1] + 1, columns[0] : columns[-1] + 1] = padded[nearest].reshape(x.shape)
    return result


def blend(
    picture: NDArray[np.uint8], labels: NDArray[np.uint16], key: Key, *, opacity: float, stain: str = "gray"
) -> NDArray[np.uint8]:
    """Stain under translucent labels, (H, W, 3) uint8; borders between labels are drawn more opaque.

    A labelled pixel off a border is exactly ``(1 - opacity) * stain + opacity * colour``.
    """
    if stain == "gray" or len(picture) == 1:
        weights = np.array([0.299, 0.587, 0.114]) if len(picture) == 3 else np.array([1.0])
        flat = np.tensordot(weights, picture.astype(np.float32), axes=1)
        under = np.repeat(flat[:, :, None], 3, axis=2)
    else:
        under = np.moveaxis(picture, 0, -1).astype(np.float32)
    share = np.where(labels > 0, opacity, 0.0)
    share[edges(labels)] = min(1.0, opacity + 0.4)
    share = share[:, :, None]
    return ((1 - share) * under + share * key.rgb[labels]).round().astype(np.uint8)


def edges(labels: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Labelled pixels whose right or lower neighbour has another value."""
    result = np.zeros(labels.shape, dtype=bool)
    result[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    result[:-1] |= labels[:-1] != labels[1:]
    return result & (labels > 0)
