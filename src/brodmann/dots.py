"""Places as a picture: how densely they lie, dark on white, so that every map shows cells and neurons too."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

MARGIN_UM = 50.0
"""Empty rim around the cells of a section."""
BODY_UM = 6.0
"""SD of the spot that stands for a cell."""


class Dots:
    """One section's cells or neurons drawn as spots; satisfies `brodmann.maps.labels.Picture`.

    Parameters
    ----------
    id, subject : str
        Name of the section and of its animal.
    xy_um : array (n, 2)
        Positions in the section's plane, um, at any origin; the picture's own origin is its top left corner, which is
        where ``x_um`` and ``y_um`` of a table count from.
    xyz_mm : array (n, 3)
        The same cells in the space.
    unit : {"um", "arbitrary"}
        "arbitrary": the scale of the coordinates is not known, and no picture of them may claim one.
    """

    channels, dark_stain, background = 1, True, (255,)
    cover = 0.8
    """Opacity of labels on it: of density, the outline of tissue is what a map needs."""

    def __init__(
        self,
        id: str,
        subject: str,
        xy_um: NDArray[np.floating],
        xyz_mm: NDArray[np.floating],
        *,
        unit: Literal["um", "arbitrary"] = "um",
    ) -> None:
        self.id, self.subject, self.native_um, self.unit = id, subject, BODY_UM, unit
        self._plane, self._mm = xy_um, xyz_mm

    @cached_property
    def _xy(self) -> NDArray[np.float64]:
        """Positions (n, 2), um from the top left corner."""
        return np.asarray(self._plane, np.float64) - corner(self._plane)

    @property
    def origin_um(self) -> NDArray[np.float32]:
        """Where the picture's top left corner lies in the section's own plane, (2,) um."""
        return corner(self._plane)

    @property
    def width_um(self) -> float:
        """Width of the picture, um."""
        return float(self._xy[:, 0].max() + MARGIN_UM)

    @property
    def height_um(self) -> float:
        """Height of the picture, um."""
        return float(self._xy[:, 1].max() + MARGIN_UM)

    def place(self, xy_um: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, 2) um from the top left corner to (n, 3) mm in the section's space.

        A section is a plane, so the affine map that fits its own cells best says where any place on it lies.
        """
        plane = np.column_stack([self._xy, np.ones(len(self._xy))])
        to_mm = np.linalg.lstsq(plane, np.asarray(self._mm, np.float64), rcond=None)[0]
        return np.column_stack([np.asarray(xy_um, np.float64), np.ones(len(xy_um))]) @ to_mm

    def overview(self, pixel_um: float) -> NDArray[np.uint8]:
        """Whole section (1, H, W) uint8 at ``pixel_um``; the 99th percentile of density is black."""
        shape = tuple(max(1, int(np.ceil(side / pixel_um))) for side in (self.height_um, self.width_um))
        return _drawn(self._xy, shape, pixel_um)

    def crop(
        self, x_um: float, y_um: float, *, size_px: int, pixel_um: float, angle_deg: float = 0.0
    ) -> NDArray[np.uint8]:
        """Window (1, size_px, size_px) centred on (x_um, y_um), turned by ``angle_deg``."""
        turn = np.deg2rad(angle_deg)
        x, y = (self._xy - (x_um, y_um)).T
        across, down = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        half = size_px * pixel_um / 2
        inside = (np.abs(across) < half) & (np.abs(down) < half)
        return _drawn(np.column_stack([across, down])[inside] + half, (size_px, size_px), pixel_um)


def corner(xy_um: NDArray[np.floating]) -> NDArray[np.float32]:
    """Top left corner (2,) of a section's picture, um in the section's own plane."""
    return np.asarray(xy_um).min(0).astype(np.float32) - np.float32(MARGIN_UM)


def _drawn(xy_um: NDArray[np.float64], shape: tuple[int, ...], pixel_um: float) -> NDArray[np.uint8]:
    from scipy import ndimage

    column, row = (xy_um / pixel_um).astype(np.int64).T
    keep = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    count = np.bincount(row[keep] * shape[1] + column[keep], minlength=shape[0] * shape[1]).reshape(shape)
    density = cast("NDArray[Any]", cast("Any", ndimage).gaussian_filter(count.astype(np.float32), BODY_UM / pixel_um))
    filled = density[density > 0.05 * density.max()] if density.any() else density
    top = max(float(np.percentile(filled, 99)) if filled.size else 1.0, 1e-6)
    return (255 - 215 * np.clip(density / top, 0, 1)).astype(np.uint8)[None]
