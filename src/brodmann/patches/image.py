"""Images as pyramids, and the section that reads them: one code path for every file format.

Legend: C channels (1 or 3), H rows, W columns; level 0 is the finest. A level's factor is how many level-0 pixels one
of its pixels covers along each side.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.patches.resample import Pixels, crop_affine

if TYPE_CHECKING:
    from brodmann.patches.readers.layermap import LayerMap

OVERVIEW_LIMIT_PX = 100_000_000
"""Largest overview; beyond it a wrong pixel size is the likely cause."""


class Image(Protocol):
    """Pixels of one section, finest level first.

    Attributes
    ----------
    name : str
        File or store, for messages.
    channels : int
        1 or 3.
    sizes : list of (int, int)
        Rows and columns of each level.
    factors : list of float
        Level-0 pixels per pixel of the level; ``factors[0] == 1``.
    pixel_um : float or None
        Pixel size that the file states for level 0; None if it states none.
    notes : list of str
        What a reader decided and a user should know (scaling of 16-bit values, absent tiles).
    """

    name: str
    channels: int
    sizes: list[tuple[int, int]]
    factors: list[float]
    pixel_um: float | None
    notes: list[str]

    def window(self, level: int, x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, int, int]:
        """Pixels of a level that hold at least columns ``x0:x1`` and rows ``y0:y1`` (inside the level).

        Returns the array (C, h, w) and the column and row of its first pixel. Thread-safe.
        """
        ...


class Cache:
    """Least-recently-used store of arrays with a limit in bytes; threads never decode the same thing twice at once.

    Parameters
    ----------
    limit_mb : int
        Megabytes kept; a single larger item is handed out but not kept.
    """

    def __init__(self, limit_mb: int) -> None:
        self._limit = limit_mb * 1_000_000
        self._items: OrderedDict[Hashable, list[Pixels]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], list[Pixels]]) -> list[Pixels]:
        """Arrays under ``key``, made by ``make`` when absent."""
        with self._lock:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
                return found
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                found = self._items.get(key)
            if found is not None:
                return found
            try:
                made = make()
                with self._lock:
                    self._keep(key, made)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return made

    def _keep(self, key: Hashable, made: list[Pixels]) -> None:
        size = sum(array.nbytes for array in made)
        if size > self._limit:
            return
        while self._items and self._bytes + size > self._limit:
            _, old = self._items.popitem(last=False)
            self._bytes -= sum(array.nbytes for array in old)
        self._items[key] = made
        self._bytes += size

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes


@dataclass
class ImageSection:
    """One section: an image, its pixel size and its place in a space; satisfies `brodmann.patches.source.Section`.

    Parameters
    ----------
    id, subject : str
        Unique name of the section, and the brain it comes from.
    image : Image
    native_um : float
        Side of a level-0 pixel in micrometres on the slide.
    to_mm : (3, 3) float64
        ``[[ax, bx, ox], [ay, by, oy], [az, bz, oz]]``: maps ``(x_um, y_um, 1)`` to mm in the source's space.
    points : DataFrame or None
        Own sample points: ``x_um``, ``y_um``, optional ``angle_deg``, labels.
    stated_dark : bool or None
        Polarity a sidecar states; None measures it.
    notes : list of str
        Remarks that `brodmann.inspection` prints.
    layers : LayerMap or None
        Which cortical layer every place of the section is in.
    """

    id: str
    subject: str
    image: Image
    native_um: float
    to_mm: NDArray[np.float64]
    points: pd.DataFrame | None = None
    stated_dark: bool | None = None
    notes: list[str] = field(default_factory=list[str])
    layers: LayerMap | None = None

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (red, green, blue)."""
        return self.image.channels

    @property
    def width_um(self) -> float:
        """Width of the image on the slide."""
        return self.image.sizes[0][1] * self.native_um

    @property
    def height_um(self) -> float:
        """Height of the image on the slide."""
        return self.image.sizes[0][0] * self.native_um

    @cached_property
    def _ground(self) -> tuple[tuple[int, ...], bool]:
        """Empty slide and polarity, measured on an overview of about 256 px."""
        coarse = max(self.width_um, self.height_um) / 256
        return ground(self._read(coarse, np.zeros(self.channels, np.uint8)))

    @property
    def background(self) -> tuple[int, ...]:
        """Value of the empty slide per channel: the commonest value along the border of the image."""
        return self._ground[0]

    @property
    def dark_stain(self) -> bool:
        """True: stain is darker than the slide. Stated by the sidecar, else measured."""
        return self._ground[1] if self.stated_dark is None else self.stated_dark

    def level_for(self, pixel_um: float) -> int:
        """Coarsest level that is at least as fine as ``pixel_um``; level 0 if none is."""
        # 0.01 % of slack: a level of 4.0002 um serves 4 um, which no eye and no test can tell from exact.
        limit = pixel_um / self.native_um * 1.0001
        return max((level for level, factor in enumerate(self.image.factors) if factor <= limit), default=0)

    def crop(self, x_um: float, y_um: float, *, size_px: int, pixel_um: float, angle_deg: float = 0.0) -> Pixels:
        """Square patch centred on ``(x_um, y_um)`` at exactly ``pixel_um``.

        Parameters
        ----------
        x_um, y_um : float
            Right and down from the top left corner of the image.
        size_px : int
            Side of the patch.
        pixel_um : float
            Pixel size of the patch. Shrinking averages over area, enlarging interpolates linearly.
        angle_deg : float
            Patch "up" points along ``(sin a, -cos a)`` of the section (x right, y down).

        Returns
        -------
        (C, size_px, size_px) uint8; outside the image it is `background`.
        """
        if not (math.isfinite(x_um) and math.isfinite(y_um) and math.isfinite(angle_deg) and pixel_um > 0):
            raise Refused(
                "a patch needs a finite centre and angle and a positive pixel size.",
                found=f"x {x_um} um, y {y_um} um, angle {angle_deg} deg, pixel {pixel_um} um on section {self.id}.",
            )
        return self._cut(x_um, y_um, size_px, pixel_um, angle_deg, np.array(self.background, np.uint8))

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Classes of `crop_mask`, from the slide above the pia to white matter; empty where no layers are drawn."""
        return () if self.layers is None else self.layers.names

    def crop_mask(self, x_um: float, y_um: float, *, size_px: int, pixel_um: float, angle_deg: float = 0.0) -> Pixels:
        """Layers (size_px, size_px) under the patch that `crop` gives for the same arguments.

        Returns
        -------
        uint8 : index into `layer_names`, or `source.UNLABELLED`
            Of the label that lies at each pixel's centre; outside the image it is 0.
        """
        if self.layers is None:
            raise Refused(f"{self.id} should have layers.", found="none.", do='state "layers" in sections.json.')
        return self.layers.crop(x_um, y_um, size_px=size_px, pixel_um=pixel_um, angle_deg=angle_deg)

    def _cut(self, x_um: float, y_um: float, size_px: int, pixel_um: float, angle_deg: float, fill: Pixels) -> Pixels:
        level = self.level_for(pixel_um)
        level_um = self.native_um * self.image.factors[level]
        scale = pixel_um / level_um
        x, y = x_um / level_um, y_um / level_um
        turn = math.radians(angle_deg)
        reach = 0.5 * size_px * scale * (abs(math.cos(turn)) + abs(math.sin(turn))) + 1.0
        height, width = self.image.sizes[level]
        x0, x1 = max(math.floor(x - reach), 0), min(math.ceil(x + reach), width)
        y0, y1 = max(math.floor(y - reach), 0), min(math.ceil(y + reach), height)
        if x0 >= x1 or y0 >= y1:
            return np.broadcast_to(fill[:, None, None], (self.channels, size_px, size_px)).copy()
        pixels, left, top = self.image.window(level, x0, y0, x1, y1)
        return crop_affine(pixels, x - left, y - top, size_px, scale, float(angle_deg), fill)

    def overview(self, pixel_um: float) -> Pixels:
        """Whole section at ``pixel_um``: (C, ceil(height), ceil(width)) uint8; pixel (0, 0) starts at the corner."""
        return self._read(pixel_um, np.array(self.background, np.uint8))

    def _read(self, pixel_um: float, fill: Pixels) -> Pixels:
        rows, columns = (max(math.ceil(um / pixel_um - 1e-6), 1) for um in (self.height_um, self.width_um))
        if rows * columns > OVERVIEW_LIMIT_PX:
            raise Refused(
                f"an overview of {self.id} at {pixel_um:g} um should have at most {OVERVIEW_LIMIT_PX:,} pixels.",
                found=f"{columns:,} x {rows:,} pixels.",
                cause="an overview finer than needed, or a section whose stated pixel size is too large.",
                do="ask for a coarser overview.",
            )
        level_um = self.native_um * self.image.factors[self.level_for(pixel_um)]
        # Tile by tile, so that memory does not grow with the section.
        side = int(min(max(2048 * level_um / pixel_um, 8), 512))
        out = np.empty((self.channels, rows, columns), np.uint8)
        for top in range(0, rows, side):
            for left in range(0, columns, side):
                middle = ((left + 0.5 * side) * pixel_um, (top + 0.5 * side) * pixel_um)
                tile = self._cut(*middle, side, pixel_um, 0.0, fill)
                out[:, top : top + side, left : left + side] = tile[:, : rows - top, : columns - left]
        return out

    def place(self, xy_um: NDArray[np.floating]) -> NDArray[np.float64]:
        """Positions on the section (n, 2) in um -> (n, 3) mm in the source's space."""
        xy = np.asarray(xy_um, np.float64)
        return xy @ self.to_mm[:, :2].T + self.to_mm[:, 2]


def ground(overview: Pixels) -> tuple[tuple[int, ...], bool]:
    """Value of the empty slide, and whether the stain is darker than it.

    The commonest grey along the border is the slide; the stain lies on the side where more of the image's summed
    difference from the slide lies.

    Parameters
    ----------
    overview : (C, H, W) uint8
    """
    grey = overview.astype(np.float32).mean(0)
    height, width = grey.shape
    edge = max(min(height, width) // 32, 1)
    border = np.ones((height, width), bool)
    if height > 2 * edge and width > 2 * edge:
        border[edge:-edge, edge:-edge] = False
    values = grey[border]
    counts = np.bincount(values.round().astype(np.int64), minlength=256).astype(np.float64)
    smooth = np.convolve(counts, np.ones(7), mode="same")
    mode = int(np.argmax(smooth + 1e-9 * counts))
    near = np.abs(values - mode) <= 6
    slide = tuple(round(float(np.median(channel[border][near]))) for channel in overview)
    away = grey - np.float32(np.mean(slide))
    away[np.abs(away) < 8] = 0.0
    return slide, bool(away.sum() <= 0)
