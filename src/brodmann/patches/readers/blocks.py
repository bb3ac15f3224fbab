"""Large images read in blocks: only what a crop touches is decoded, and a bounded cache holds what was decoded.

Legend: C channels, h rows and w columns of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.patches.image import Cache
from brodmann.patches.resample import Pixels

LIMIT_BLOCK_BYTES = 256_000_000
"""Largest decoded block; an image in one strip is not read in pieces at all."""
CACHED = Cache(limit_mb=32)
"""Decoded blocks of all sections of the process."""
Load = Callable[[int, int, int], Pixels]


@dataclass(eq=False)
class Blocks:
    """A pyramid cut into blocks.

    Parameters
    ----------
    sizes : list of (int, int)
        Rows and columns of each level.
    shapes : list of (int, int)
        Rows and columns of a block, for each level.
    channels : int
    load : function (level, row, column) -> (C, h, w) uint8
        Decodes one block; must be thread-safe. Blocks at the lower and right border may be larger than the image.
    """

    sizes: list[tuple[int, int]]
    shapes: list[tuple[int, int]]
    channels: int
    load: Load

    def window(self, level: int, x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, int, int]:
        """See `brodmann.patches.image.Image.window`."""
        high, wide = self.shapes[level]
        rows, columns = range(y0 // high, (y1 - 1) // high + 1), range(x0 // wide, (x1 - 1) // wide + 1)
        whole = (rows[0] + 1) * high <= self.sizes[level][0] and (columns[0] + 1) * wide <= self.sizes[level][1]
        if len(rows) == 1 and len(columns) == 1 and whole:
            # Inside one whole block: no copy.
            return self._block(level, rows[0], columns[0]), columns[0] * wide, rows[0] * high
        out = np.empty((self.channels, y1 - y0, x1 - x0), np.uint8)
        for row in rows:
            for column in columns:
                block = self._block(level, row, column)
                top, left = row * high, column * wide
                a, b = max(y0, top), min(y1, top + high)
                c, d = max(x0, left), min(x1, left + wide)
                out[:, a - y0 : b - y0, c - x0 : d - x0] = block[:, a - top : b - top, c - left : d - left]
        return out, x0, y0

    def sample(self, raw: Callable[[int, int, int], NDArray[Any] | None]) -> NDArray[Any]:
        """Stored values of up to 16 blocks of the coarsest level, for the range of 16-bit values; ``raw`` as `load`."""
        level = len(self.sizes) - 1
        (height, width), (high, wide) = self.sizes[level], self.shapes[level]
        places = [(r, c) for r in range(-(-height // high)) for c in range(-(-width // wide))]
        chosen = places[:: max(len(places) // 16, 1)]
        found = [values.ravel() for place in chosen if (values := raw(level, *place)) is not None]
        return np.concatenate(found) if found else np.zeros(1)

    def _block(self, level: int, row: int, column: int) -> Pixels:
        return CACHED.get((self, level, row, column), lambda: [self.load(level, row, column)])[0]


def reductions(sizes: list[tuple[int, int]], *, name: str) -> list[float]:
    """Reduction factor of each level from its size; whole numbers where the size allows.

    Raises
    ------
    Refused
        Levels that are not reduced copies of the first: rows and columns shrink differently, or the order is wrong.
    """
    height, width = sizes[0]
    factors = [1.0]
    for level, (rows, columns) in enumerate(sizes[1:], 1):
        along = height / rows, width / columns
        whole = max(round((along[0] * along[1]) ** 0.5), 1)
        fits = all(abs(size / whole - small) <= 1.0 for size, small in ((height, rows), (width, columns)))
        # Rounding moves a size by one pixel at most.
        square = abs(height / along[1] - rows) <= 1.0 or abs(width / along[0] - columns) <= 1.0
        if not (fits or square) or max(along) < factors[-1] * 1.05:
            raise Refused(
                f"level {level} of {name} should be a reduced copy of level 0 ({width} x {height}).",
                found=f"{columns} x {rows}: reduced by {along[1]:.3f} along x and {along[0]:.3f} along y.",
                cause="a wrong multiscale description, or unrelated images in one file.",
            )
        factors.append(float(whole) if fits else (along[0] * along[1]) ** 0.5)
    return factors


def picked(channel: int | None, several: int, *, colour: bool, name: str) -> list[int]:
    """Which of several channels to read: the stated one, else the only one, else the first three of a colour picture.

    Raises
    ------
    Refused
        The stated one is not there, or several that are no colour picture and none is stated.
    """
    if channel is not None and channel >= several:
        raise Refused(f"{name} should have channel {channel}.", found=f"{several} channels.")
    if channel is None and several != 1 and not colour:
        raise Refused(
            f"{name} should be grey or RGB, or one channel should be named.",
            found=f"{several} channels.",
            do='state "channel": 0 (or another) in sections.json.',
        )
    return [channel or 0] if channel is not None or not colour else [0, 1, 2]


def side_um(across: float, down: float, *, name: str, source: str) -> float:
    """Side of a square pixel from the two sizes that ``source``, a part of the file, gives.

    Raises
    ------
    Refused
        Sizes that no microscope has, or pixels that are not square.
    """
    found = f"{across:g} x {down:g} um ({source})."
    if not all(math.isfinite(um) and 0.01 <= um <= 1000 for um in (across, down)):
        raise Refused(
            f"{name} should have pixels of 0.01 to 1000 um.",
            found=found,
            cause="nm or mm given as um, or an empty field.",
            do="correct the file's metadata; a stated pixel_um does not silence a wrong one.",
        )
    if abs(math.log(across / down)) > 0.01:
        raise Refused(f"{name} should have square pixels.", found=found, do="resample it to square pixels.")
    return math.sqrt(across * down)


@dataclass(frozen=True)
class Scaling:
    """How stored values become 0..255: linearly from ``low``..``high``, clipped; equal for every block."""

    low: float
    high: float
    inverted: bool = False

    def __call__(self, values: NDArray[Any]) -> Pixels:
        """Scaled copy, rounded to the nearest; NaN becomes 0."""
        if values.dtype == np.uint8 and (self.low, self.high) == (0.0, 255.0):
            scaled = values
        else:
            unit = (values.astype(np.float32) - np.float32(self.low)) * np.float32(255.0 / (self.high - self.low))
            scaled = (np.clip(np.nan_to_num(unit), 0, 255) + np.float32(0.5)).astype(np.uint8)
        if self.inverted:
            scaled = 255 - scaled
        return np.ascontiguousarray(scaled)


def scaling(
    dtype: np.dtype[Any],
    span: tuple[float, float] | None,
    sample: Callable[[], NDArray[Any]],
    *,
    name: str,
    bits: int | None = None,
    inverted: bool = False,
) -> tuple[Scaling, list[str]]:
    """Decide how values become 8 bit, and say so.

    8-bit values stay as they are. Others are scaled from the range that the user states; else from the bits that
    the file calls significant; else from 0 to the 99.9th percentile of the coarsest level, as integers only.

    Raises
    ------
    Refused
        Floating point or signed values without a stated range, or a range that is empty.
    """
    if span is not None:
        low, high = float(span[0]), float(span[1])
        if not (np.isfinite([low, high]).all() and high > low):
            raise Refused(f"range for {name} should be two rising numbers.", found=f"{low}, {high}.")
        return Scaling(low, high, inverted), [f"values {low:g} to {high:g} scaled to 0..255 (stated)"]
    if dtype == np.uint8:
        return Scaling(0.0, 255.0, inverted), []
    if dtype not in (np.dtype(np.uint16), np.dtype(np.uint32)):
        raise Refused(
            f"{name} should hold unsigned integers, or come with a stated range.",
            found=f"{dtype} values.",
            do='state which values become black and white: "range": [0, 1] in sections.json.',
        )
    if bits is not None:
        return Scaling(0.0, 2.0**bits - 1, inverted), [f"{bits} significant bits scaled to 0..255"]
    high = float(np.quantile(sample(), 0.999))
    high = high if high > 0 else float(cast("Any", np.iinfo(dtype)).max)
    note = f"{dtype} values 0 to {high:g} (99.9th percentile of the coarsest level) scaled; state range to fix it"
    return Scaling(0.0, high, inverted), [note]
