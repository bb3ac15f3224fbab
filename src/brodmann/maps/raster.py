"""Samples to pixels: the nearest sample within reach gives a pixel its label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.maps.labels import Key, Picture, column, distances_um, rows_on, spacing_um, used

if TYPE_CHECKING:
    from anndata import AnnData

REACH = 0.75
"""A label is drawn up to this many sampling spacings from its sample: just over half a grid cell's diagonal."""
SCATTER = 1.25
"""The same for samples that lie anyhow, in distances to the fourth neighbour."""


def samples_of(table: AnnData, names: pd.Categorical, picture: Picture) -> tuple[NDArray[np.float64], pd.Categorical]:
    """Positions (n, 2) um and names of the samples on one section.

    Raises
    ------
    Refused
        The table has no sample on this section, or samples outside its image.
    """
    obs, here = cast("pd.DataFrame", table.obs), rows_on(table, picture.id)
    if not len(here):
        raise Refused(
            f"the table should have samples on section '{picture.id}'.",
            found=f"sections such as {', '.join(sorted(used(column(table, 'section')))[:3])}.",
        )
    xy = np.column_stack([np.asarray(obs[axis])[here] for axis in ("x_um", "y_um")]).astype(np.float64)
    slack = 1.02 * max(picture.width_um, picture.height_um)
    if xy.min() < -slack / 50 or xy.max() > slack:
        raise Refused(
            f"samples should lie on section '{picture.id}' ({picture.width_um:.0f} x {picture.height_um:.0f} um).",
            found=f"x_um up to {xy[:, 0].max():.0f}, y_um up to {xy[:, 1].max():.0f}.",
            cause="coordinates in pixels or mm, or a table of other images.",
        )
    return xy, names[here]


def reach_um(xy_um: NDArray[np.float64]) -> float:
    """How far (um) a sample's label is drawn.

    `REACH` spacings on a grid or a line; `SCATTER` distances to the fourth neighbour where samples lie anyhow, as
    cells do: discs of that radius cover 99 % of a Poisson process.
    """
    return _reach_and_line(xy_um)[0]


def visible_reach_um(xy_um: NDArray[np.float64], picture: Picture) -> float:
    """Reach (um) for pictures: `reach_um`; for samples along a line, at least 2 % of the picture's longer side.

    A ribbon of samples 0.2 mm apart would otherwise be a hair on a section of 40 mm.
    """
    reach, line = _reach_and_line(xy_um)
    return max(reach, 0.02 * max(picture.width_um, picture.height_um) if line else 0.0)


def _reach_and_line(xy_um: NDArray[np.float64]) -> tuple[float, bool]:
    """`reach_um`, and whether the samples lie along a line."""
    if len(xy_um) < 5:
        return REACH * spacing_um(xy_um), False
    far = min(16, len(xy_um) - 1)
    first, fourth, last = distances_um(xy_um, [1, 4, far]).tolist()
    if fourth <= 1.6 * first:  # on a grid the fourth neighbour is as near as the first
        return REACH * first, False
    # the distance to the k-th neighbour grows as the root of k in a plane, and as k along a line
    line = far < 16 or last > (far / 4) ** 0.75 * fourth
    return (REACH * first if line else SCATTER * fourth), line


def raster(
    xy_um: NDArray[np.float64],
    values: NDArray[np.int64],
    shape: tuple[int, int],
    *,
    pixel_um: float,
    reach_um: float,
) -> NDArray[np.uint16]:
    """Value of the nearest sample within reach of each pixel's centre, 0 elsewhere.

    Each sample is offered to the pixels around it, so the work is samples times pixels in reach, not pixels times a
    search; of samples equally near, the first wins.

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
    result = np.zeros(shape, dtype=np.uint16)
    away = np.full(shape, float(reach_um) ** 2)
    _offer(np.ascontiguousarray(xy_um, np.float64), values.astype(np.uint16), float(pixel_um), reach_um, result, away)
    return result


@numba.njit(cache=True, nogil=True)
def _offer(xy: Any, values: Any, pixel: float, reach: float, result: Any, away: Any) -> None:
    """Give each pixel the value of the nearest sample; ``away`` holds squared distances, um2."""
    height, width = result.shape
    for i in range(len(xy)):
        x, y = xy[i, 0], xy[i, 1]
        left, right = max(int(np.floor((x - reach) / pixel)), 0), min(int(np.ceil((x + reach) / pixel)), width)
        top, bottom = max(int(np.floor((y - reach) / pixel)), 0), min(int(np.ceil((y + reach) / pixel)), height)
        for row in range(top, bottom):
            down = ((row + 0.5) * pixel - y) ** 2
            for col in range(left, right):
                squared = ((col + 0.5) * pixel - x) ** 2 + down
                if squared < away[row, col]:
                    away[row, col] = squared
                    result[row, col] = values[i]


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
