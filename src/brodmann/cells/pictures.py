"""Sections of cells as pictures: how densely they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.cells.recipe import Recipe
from brodmann.cells.source import Source
from brodmann.dots import Dots, corner

_WINDOW_PX = 96


def corners_um(source: Source) -> dict[str, NDArray[np.float32]]:
    """Corner of every section's picture: where ``x_um`` and ``y_um`` of a table count from."""
    return {one.id: corner(source.xy_um[one.rows.start : one.rows.stop]) for one in source.sections}


def pictures(source: Source) -> list[Dots]:
    """Sections that a map can paint; drawn when first looked at."""
    return [
        Dots(
            one.id,
            one.subject,
            source.xy_um[one.rows.start : one.rows.stop],
            source.xyz_mm[one.rows.start : one.rows.stop],
            unit=source.unit,
        )
        for one in source.sections
    ]


def window(source: Source, recipe: Recipe) -> tuple[float, Callable[[Any], NDArray[np.uint8]]]:
    """Side of a window in mm, and a function from a row of the table to its cells, as a picture."""
    drawn = {picture.id: picture for picture in pictures(source)}
    side_um = 6 * recipe.samples.radius_um

    def crop(row: Any) -> NDArray[np.uint8]:
        where = float(row["x_um"]), float(row["y_um"])
        return drawn[str(row["section"])].crop(*where, size_px=_WINDOW_PX, pixel_um=side_um / _WINDOW_PX)

    return side_um / 1000, crop
