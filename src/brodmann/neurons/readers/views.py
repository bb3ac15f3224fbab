"""Views of what NWB holds: a row as a column, frames by their index, columns side by side, centres of masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.neurons.readers.raw import Piece

UM = {
    "meters": 1e6,
    "metres": 1e6,
    "m": 1e6,
    "millimeters": 1e3,
    "mm": 1e3,
    "micrometers": 1.0,
    "microns": 1.0,
    "um": 1.0,
}
"""Micrometres in a unit of length, as NWB files write it."""


class Wide:
    """One row of numbers seen as a column."""

    def __init__(self, data: Any) -> None:
        self._data, self.shape = data, (*np.shape(data), 1)

    def __getitem__(self, key: slice) -> NDArray[Any]:
        return np.asarray(self._data[key])[:, None]


class Indexed:
    """Frames of a template in the order in which they were shown."""

    def __init__(self, template: Any, index: NDArray[np.int64]) -> None:
        self._template, self._index, self.shape = template, index, (len(index), *template.shape[1:])

    def __getitem__(self, key: slice) -> NDArray[Any]:
        wanted = self._index[key]
        low = int(wanted.min())
        return np.asarray(self._template[low : int(wanted.max()) + 1])[wanted - low]


def centres(table: Any, region: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Weighted centres (n, 2) of masks, x and y in pixels."""
    out = np.empty((len(region), 2))
    for row, at in enumerate(region.tolist()):
        if "pixel_mask" in table.colnames:
            mask = np.asarray([tuple(pixel) for pixel in table["pixel_mask"][at]], np.float64)
            x, y, weight = mask[:, 0], mask[:, 1], mask[:, 2]
        elif "image_mask" in table.colnames:
            image = np.asarray(table["image_mask"][at], np.float64)
            # NWB: the first axis of a mask is x
            x, y = np.nonzero(image)
            weight = image[x, y]
        else:
            return None
        total = weight.sum()
        out[row] = (np.nan, np.nan) if total <= 0 else ((x * weight).sum() / total, (y * weight).sum() / total)
    return out


def beside(pieces: list[Piece | None]) -> Piece:
    """Columns from different series, NaN where there is none."""

    def piece(start: int, stop: int) -> NDArray[Any]:
        blank = np.full((stop - start, 1), np.nan, np.float32)
        return np.hstack([blank if one is None else one(start, stop) for one in pieces]).astype(np.float32)

    return piece
