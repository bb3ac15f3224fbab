"""Tiles of a section: its image and the colours of its samples, at the same pixels on every level of the pyramid."""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.dots import BODY_UM, Dots
from brodmann.maps.raster import edges, raster

TILE = 256
OVERLAP = 1
"""Pixels that a tile shares with each neighbour: without them the page would stretch tiles by a pixel to hide seams."""
_WHOLE = 1024
"""Levels up to this side are cut from one overview: their tiles would each read most of the section."""
_DEEPEST = 24
_SINGLE = 500
"""Samples below which a section without an image is drawn as single spots."""


class Absent(LookupError):
    """There is no such tile, row or colouring."""


@dataclass(frozen=True)
class Pyramid:
    """Levels of a section: 0 is the coarsest, each has half the pixel size of the one before.

    Parameters
    ----------
    width_um, height_um, finest_um : float
    """

    width_um: float
    height_um: float
    finest_um: float

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finest level, pixels."""
        width, height = (max(1, math.ceil(um / self.finest_um - 1e-6)) for um in (self.width_um, self.height_um))
        return width, height

    @property
    def deepest(self) -> int:
        """Number of the finest level; level 0 is a single tile."""
        return min(_DEEPEST, max(0, math.ceil(math.log2(max(self.size) / TILE))))

    def pixel_um(self, level: int) -> float:
        """Pixel size of a level, um."""
        return self.finest_um * 2.0 ** (self.deepest - level)

    def shape(self, level: int) -> tuple[int, int]:
        """Height and width of a level, pixels."""
        width, height = (max(1, math.ceil(side / 2 ** (self.deepest - level))) for side in self.size)
        return height, width

    def window(self, level: int, column: int, row: int) -> tuple[int, int, int, int] | None:
        """Left, top, width and height of a tile in pixels of its level; None where there is none."""
        if not 0 <= level <= self.deepest or column < 0 or row < 0:
            return None
        height, width = self.shape(level)
        if column * TILE >= width or row * TILE >= height:
            return None
        left, top = max(0, column * TILE - OVERLAP), max(0, row * TILE - OVERLAP)
        right, bottom = (min(side, (at + 1) * TILE + OVERLAP) for side, at in ((width, column), (height, row)))
        return left, top, right - left, bottom - top


def stain(section: Any, pyramid: Pyramid, level: int, column: int, row: int) -> NDArray[np.uint8]:
    """Image under a tile, (C, h, w) uint8; see `patches.source.Section`.

    Raises
    ------
    Absent
        There is no such tile.
    """
    left, top, width, height = _window(pyramid, level, column, row)
    pixel = pyramid.pixel_um(level)
    if max(pyramid.shape(level)) <= _WHOLE:
        whole = section.overview(pixel)[:, top : top + height, left : left + width]
        short = (height - whole.shape[1], width - whole.shape[2])
        return np.pad(whole, ((0, 0), (0, max(short[0], 0)), (0, max(short[1], 0))), mode="edge")
    size = TILE + 2 * OVERLAP
    x, y = ((edge + size / 2) * pixel for edge in (left, top))
    return section.crop(x, y, size_px=size, pixel_um=pixel)[:, :height, :width]


class Drawn(Dots):
    """A section of which nothing but the places of its samples is known."""

    @property
    def _xy(self) -> NDArray[np.float64]:  # type: ignore[override]
        return np.asarray(self._plane, np.float64)


def spot_um(samples: int, body_um: float, longer_um: float) -> float:
    """How far (um) the colour of a sample may reach on a section that is drawn from its samples.

    A few neurons are single things, not samples of an area: they get spots that can be seen, and the tissue between
    them no colour.
    """
    return math.inf if samples >= _SINGLE else max(2.2 * body_um, 0.014 * longer_um)


class Density:
    """Cells or neurons drawn as spots, in one tone over all tiles of a level; dark on white.

    Parameters
    ----------
    xy_um : (n, 2) float
        From the top left corner of the section.
    body_um : float
        SD of a spot.
    """

    def __init__(self, xy_um: NDArray[np.floating], *, body_um: float = BODY_UM) -> None:
        self._xy, self.body_um = np.asarray(xy_um, np.float64), body_um
        self._top: dict[int, float] = {}
        self._lock = threading.Lock()

    def tile(self, pyramid: Pyramid, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """Picture under a tile, (1, h, w) uint8; the 99th percentile of where anything lies is the darkest."""
        left, top, width, height = _window(pyramid, level, column, row)
        pixel, body = pyramid.pixel_um(level), self.body_um
        drawn = _spots(self._xy, left, top, width, height, pixel, body)
        darkest = self._darkest(pyramid, level, body)
        return (255 - 215 * np.clip(drawn / darkest, 0, 1)).astype(np.uint8)[None]

    def _darkest(self, pyramid: Pyramid, level: int, body_um: float) -> float:
        """Density that is drawn darkest on a level: from the whole of it, or from what surrounds some of the cells."""
        with self._lock:
            if level in self._top:
                return self._top[level]
        pixel, (height, width) = pyramid.pixel_um(level), pyramid.shape(level)
        if max(height, width) <= _WHOLE:
            seen = [_spots(self._xy, 0, 0, width, height, pixel, body_um)]
        else:
            some = self._xy[:: max(1, len(self._xy) // 12)][:12] / pixel
            corners = [(max(0, int(x) - 64), max(0, int(y) - 64)) for x, y in some.tolist()]
            seen = [_spots(self._xy, x, y, 128, 128, pixel, body_um) for x, y in corners]
        values = np.concatenate([one.ravel() for one in seen])
        filled = values[values > 0.05 * values.max()] if values.max() > 0 else values
        top = max(float(np.percentile(filled, 99)) if filled.size else 1.0, 1e-6)
        with self._lock:
            self._top[level] = top
        return top


def _spots(
    xy_um: NDArray[np.float64], left: int, top: int, width: int, height: int, pixel: float, body_um: float
) -> NDArray[np.float32]:
    """Spots per pixel of a window, smoothed by the body; spots beyond its rim reach into it."""
    from scipy import ndimage

    sigma = max(body_um / pixel, 0.5)
    rim = math.ceil(4 * sigma) + 1
    column, row = (
        np.floor(xy_um[:, axis] / pixel).astype(np.int64) - edge + rim for axis, edge in ((0, left), (1, top))
    )
    shape = (height + 2 * rim, width + 2 * rim)
    keep = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    count = np.bincount(row[keep] * shape[1] + column[keep], minlength=shape[0] * shape[1]).reshape(shape)
    drawn = cast("Any", ndimage).gaussian_filter(count.astype(np.float32), sigma, mode="constant")
    return drawn[rim:-rim, rim:-rim]


def colours(
    xy_um: NDArray[np.float64],
    values: NDArray[np.uint16],
    palette: NDArray[np.uint8],
    pyramid: Pyramid,
    level: int,
    column: int,
    row: int,
    *,
    reach_um: float,
    outlined: bool,
) -> NDArray[np.uint8]:
    """Colours over a tile, (h, w, 4) uint8: a pixel has the colour of the nearest sample within reach, as in maps.

    Parameters
    ----------
    xy_um : (n, 2)
        Samples of the section.
    values : (n,)
        Rows of ``palette``; 0 stays clear.
    outlined : bool
        Draw borders between different values darker, so that colour is not the only cue; not where neighbours mostly
        differ, as types of single cells do: lines around each would hide their colours.
    """
    left, top, width, height = _window(pyramid, level, column, row)
    pixel = pyramid.pixel_um(level)
    corner = np.array([left - 1, top - 1], np.float64) * pixel
    shifted, shape = xy_um - corner, (height + 2, width + 2)
    reach = max(reach_um, 0.75 * pixel)
    inside = (shifted > -reach) & (shifted < np.array([shape[1], shape[0]]) * pixel + reach)
    near = np.flatnonzero(inside.all(1))
    found = raster(shifted[near], values[near].astype(np.int64), shape, pixel_um=pixel, reach_um=reach)
    inner = (slice(1, -1), slice(1, -1))
    rgba = np.dstack([palette[found[inner]], np.where(found[inner] > 0, 255, 0).astype(np.uint8)])
    if outlined and not mixed(xy_um, values):
        border = edges(found)[inner]
        rgba[border, :3] = (rgba[border, :3] * 0.55).astype(np.uint8)
    return np.ascontiguousarray(rgba)


def mixed(xy_um: NDArray[np.float64], values: NDArray[np.uint16]) -> bool:
    """Whether most neighbours on a section differ; judged on a strip of up to 4,000 samples through its middle."""
    from scipy import spatial

    n = len(xy_um)
    if n < 2:
        return False
    low, high = max(0, n // 2 - 2000), min(n, n // 2 + 2000)
    strip = np.argpartition(xy_um[:, 0], (low, high - 1))[low:high]
    nearest = cast("Any", spatial).cKDTree(xy_um[strip]).query(xy_um[strip], k=2)[1]
    beside = values[strip][nearest]
    known = (beside > 0).all(1)
    return bool(known.any() and (beside[known, 0] != beside[known, 1]).mean() > 0.5)


def _window(pyramid: Pyramid, level: int, column: int, row: int) -> tuple[int, int, int, int]:
    window = pyramid.window(level, column, row)
    if window is None:
        raise Absent(f"no tile {level}/{column}/{row}")
    return window


def png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of (C, h, w) with C 1 or 3, or of (h, w, 4)."""
    from PIL import Image

    if pixels.shape[-1] != 4 or pixels.shape[0] in (1, 3):
        pixels = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "PNG", compress_level=1)
    return stored.getvalue()


class Kept:
    """Encoded tiles, the least recently used dropped when they exceed ``limit_bytes``.

    Parameters
    ----------
    limit_bytes : int
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._size = limit_bytes, 0
        self._held: OrderedDict[object, bytes] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What is held now."""
        return self._size

    def get(self, key: object, make: Callable[[], bytes]) -> bytes:
        """What is kept under ``key``, else made now; two threads may make it twice, and the same."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        made = make()
        with self._lock:
            if key not in self._held:
                self._size += len(made)
            self._held[key] = made
            while self._size > self._limit and self._held:
                self._size -= len(self._held.popitem(last=False)[1])
        return made
