"""Imaging planes as pictures: how densely their neurons lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.dots import Dots, corner
from brodmann.neurons.recipe import Recipe
from brodmann.neurons.source import Source

_WINDOW_PX = 96
_WINDOW_UM = 200.0


def corners_um(source: Source) -> dict[str, NDArray[np.float32]]:
    """Corner of every plane's picture: where ``x_um`` and ``y_um`` of a table count from."""
    return {name: corner(plane[["x_um", "y_um"]].to_numpy(np.float32)) for name, plane in _planes(source)}


def pictures(source: Source) -> list[Dots]:
    """Imaging planes that a map can paint; drawn when first looked at."""
    return [
        Dots(
            name,
            str(plane["subject"].iloc[0]),
            plane[["x_um", "y_um"]].to_numpy(np.float32),
            plane[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float32),
            unit=source.unit,
        )
        for name, plane in _planes(source)
    ]


def window(source: Source, recipe: Recipe) -> tuple[float, Callable[[Any], NDArray[np.uint8]]]:
    """Side of a window in mm, and a function from a row of the table to the neurons around it, as a picture."""
    del recipe
    drawn = {picture.id: picture for picture in pictures(source)}

    def crop(row: Any) -> NDArray[np.uint8]:
        where = float(row["x_um"]), float(row["y_um"])
        return drawn[str(row["section"])].crop(*where, size_px=_WINDOW_PX, pixel_um=_WINDOW_UM / _WINDOW_PX)

    return _WINDOW_UM / 1000, crop


def _planes(source: Source) -> list[tuple[str, pd.DataFrame]]:
    return [(str(name), plane) for name, plane in source.neurons.groupby("section", observed=True)]
