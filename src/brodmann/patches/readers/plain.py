"""PNG and JPEG: decoded once, kept with a pyramid in a bounded cache."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import JpegImagePlugin, PngImagePlugin

from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.patches.image import Cache
from brodmann.patches.resample import Pixels, halve

LIMIT_PX = 200_000_000
"""Largest image that is decoded whole; in colour and with its pyramid it still fits the cache."""
DECODED = Cache(limit_mb=1000)
"""Decoded images and their reduced levels, shared by all sections of the process."""
_PNG = b"\x89PNG\r\n\x1a\n"
_MODES = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3}


class Plain:
    """A PNG or JPEG as an `Image`; the header is read at once, the pixels when first asked for.

    Parameters
    ----------
    path : Path

    Raises
    ------
    Refused
        Not a PNG or JPEG, too large, or a pixel type without a plain meaning (CMYK, 16 bit, float).
    Corrupt
        Cut short.
    """

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self.pixel_um: float | None = None
        self.notes: list[str] = []
        with path.open("rb") as file:
            head = file.read(8)
            if head == _PNG:
                _walk_png(path, file)
            elif head[:3] != b"\xff\xd8\xff":
                raise Refused(
                    f"{path.name} should be a PNG or JPEG.",
                    found=f"first bytes {head!r}.",
                    cause="a wrong file ending, or an empty or damaged file.",
                )
            else:
                file.seek(-min(path.stat().st_size, 4096), 2)
                if b"\xff\xd9" not in file.read():
                    raise Corrupt(f"{path.name} should end with a JPEG end marker.", found="none.", cause=_SHORT)
            file.seek(0)
            picture = _plugin(path, file, head)
            width, height = picture.size
            mode = str(picture.mode)
        if mode not in _MODES:
            raise Refused(
                f"{path.name} should be 8-bit grey or colour.",
                found=f"pixel type {mode}.",
                do="convert to 8-bit grey or RGB, or to a tiled TIFF or OME-Zarr, whose 16-bit values are scaled.",
            )
        if width * height > LIMIT_PX:
            raise Refused(
                f"{path.name} should have at most {LIMIT_PX:,} pixels, since PNG and JPEG are decoded whole.",
                found=f"{width:,} x {height:,}.",
                do="convert it to OME-Zarr or tiled TIFF, which are read in pieces.",
            )
        self.channels = _MODES[mode]
        self.sizes, self.factors = [(height, width)], [1.0]
        while min(self.sizes[-1]) > 64:
            rows, columns = self.sizes[-1]
            self.sizes.append(((rows + 1) // 2, (columns + 1) // 2))
            self.factors.append(2 * self.factors[-1])

    def window(self, level: int, x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, int, int]:
        """Whole level: it is in memory anyway."""
        return DECODED.get(self, self._decode)[level], 0, 0

    def _decode(self) -> list[Pixels]:
        try:
            data = self._path.read_bytes()
            picture = _plugin(self._path, BytesIO(data), data[:8])
            if (picture.height, picture.width) != self.sizes[0]:
                raise Corrupt(f"{self.name} should not change while it is read.", found="another size than at opening.")
            picture.load()
            array = _as_channels(picture, self.channels)
        except BrodmannError:
            raise
        except Exception as error:
            raise Corrupt(f"{self.name} should decode.", found=str(error), cause=_SHORT, do=_AGAIN) from error
        levels = [array]
        for _ in self.sizes[1:]:
            levels.append(halve(levels[-1]))
        return levels


_SHORT = "a copy that was cut short or damaged."
_AGAIN = "copy the file again from its origin."


def _plugin(path: Path, file: Any, head: bytes) -> Any:
    """Pillow's parser for exactly this format; its own size check is replaced by ours, made before decoding."""
    try:
        plugin = PngImagePlugin.PngImageFile if head == _PNG else JpegImagePlugin.JpegImageFile
        return plugin(file)
    except Exception as error:
        raise Corrupt(f"{path.name} should have a readable header.", found=str(error), cause=_SHORT) from error


def _as_channels(picture: Any, channels: int) -> Pixels:
    """Grey or RGB, channels first; transparency is laid over white."""
    if picture.mode in {"RGBA", "LA"} or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"), np.float32)
        alpha = rgba[..., 3:] / 255
        array = np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
        array = array[..., :channels]
    else:
        array = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    if array.ndim == 2:
        array = array[..., None]
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _walk_png(path: Path, file: Any) -> None:
    """Follow the chunks of a PNG to its end, so that a file cut short is known at opening.

    Damage inside is found when decoding: the compressed pixels carry a checksum (Adler-32), which Pillow verifies.
    """
    file.seek(0, 2)
    end = file.tell()
    at = 8
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            raise Corrupt(
                f"{path.name} should end with a PNG end chunk.", found=f"nothing at byte {at:,}.", cause=_SHORT
            )
        length, kind = struct.unpack(">I4s", head)
        if at + 12 + length > end:
            raise Corrupt(
                f"{path.name} should hold {at + 12 + length:,} bytes or more.", found=f"{end:,} bytes.", cause=_SHORT
            )
        if kind == b"IEND":
            return
        at += 12 + length
