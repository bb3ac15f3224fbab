"""Tiled TIFF, OME-TIFF, BigTIFF and SVS: pyramids read tile by tile, never whole.

`tifffile` parses the headers and `imagecodecs` decodes; which tile is needed, and what a missing or damaged one means,
is decided here: a tile that is not there is an error, never zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.patches.readers.blocks import LIMIT_BLOCK_BYTES, Blocks, picked, reductions, scaling, side_um
from brodmann.patches.resample import Pixels

LIMIT_XML_BYTES = 20_000_000
_MICRONS = {"m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3, "": 1.0}
_GREY_INVERTED, _GREY, _RGB, _YCBCR = 0, 1, 2, 6


@dataclass(frozen=True)
class _Plane:
    """Tiles of one IFD: where they lie in the file and how they are decoded."""

    number: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    across: int
    per_sample: int
    decode: Callable[..., Any]
    tables: bytes | None
    header: bytes | None


class Tiff:
    """A TIFF as an `Image`.

    Parameters
    ----------
    path : Path
    channel : int, optional
        Which sample or channel plane to read; needed when there are several that are not a colour picture.
    span : (low, high), optional
        Values that become 0 and 255.
    absent : int, optional
        Grey value of tiles that the writer left out; without it they are an error.

    Raises
    ------
    Refused
        No single plane, a pixel type or layout without a plain meaning, absurd pixel size, unsafe XML.
    Corrupt
        Cut short, tiles missing, or headers that contradict each other.
    """

    def __init__(
        self,
        path: Path,
        *,
        channel: int | None = None,
        span: tuple[float, float] | None = None,
        absent: int | None = None,
    ) -> None:
        self.name, self._path, self._absent = str(path), path, absent
        self.notes: list[str] = []
        try:
            with tifffile.TiffFile(path, _multifile=False) as tif:
                self._parse(tif, channel, span)
        except BrodmannError:
            raise
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise Corrupt(
                f"{path.name} should be a readable TIFF.", found=str(error)[:300], cause="damaged or cut short."
            ) from error

    def window(self, level: int, x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, int, int]:
        """See `brodmann.patches.image.Image.window`."""
        return self._blocks.window(level, x0, y0, x1, y1)

    def _parse(self, tif: Any, channel: int | None, span: tuple[float, float] | None) -> None:
        first = tif.pages[0]
        description = str(first.description or "")
        # Before tifffile looks at the XML: an entity bomb must not reach any parser.
        refuse_unsafe_xml(description, name=self._path.name)
        series = tif.series
        levels = _levels(series, self._path.name)
        self.pixel_um = self._pixel_um(first, description, tif)
        page = levels[0][0]
        colour = page.photometric in {_RGB, _YCBCR} and page.samplesperpixel >= 3
        if page.photometric not in {_GREY_INVERTED, _GREY, _RGB, _YCBCR}:
            raise Refused(
                f"{self._path.name} should be grey or RGB.",
                found=f"photometric interpretation {page.photometric!s}.",
                do="convert it to RGB.",
            )
        kinds = {
            (plane.samplesperpixel, str(plane.dtype), int(plane.photometric)) for planes in levels for plane in planes
        }
        if len(kinds) > 1:
            raise Refused(f"all levels of {self._path.name} should hold the same kind of pixels.", found=str(kinds))
        several = page.samplesperpixel if page.samplesperpixel > 1 else len(levels[0])
        # A stated channel reads one plane, a colour picture its first three samples.
        self._pick = picked(channel, several, colour=colour, name=self._path.name)
        self._alpha = colour and channel is None and page.samplesperpixel == 4
        self._contiguous = page.planarconfig == 1 and page.samplesperpixel > 1
        self.channels = len(self._pick)
        self.sizes = [(int(planes[0].imagelength), int(planes[0].imagewidth)) for planes in levels]
        self.factors = reductions(self.sizes, name=self._path.name)
        shapes = [_block_shape(planes[0]) for planes in levels]
        size = self._path.stat().st_size
        separate = page.samplesperpixel == 1
        self._planes = [
            [self._plane(planes[index], size) for index in (self._pick if separate else [0])] for planes in levels
        ]
        missing = sum(count == 0 for planes in self._planes for plane in planes for count in plane.counts)
        if missing and self._absent is None:
            raise Corrupt(
                f"{self._path.name} should hold all of its tiles.",
                found=f"{missing} are missing (byte count 0).",
                cause="an interrupted copy or conversion, or a writer that leaves empty slide out.",
                do='convert it again; if they were left out on purpose, state "absent_value": 255 in sections.json.',
            )
        if missing:
            self.notes.append(f"{missing} absent tiles read as {self._absent}")
        self._blocks = Blocks(self.sizes, shapes, self.channels, self._load)
        bits = _significant_bits(description) if page.dtype == np.uint16 else None
        self._scale, said = scaling(
            np.dtype(page.dtype),
            span,
            lambda: self._blocks.sample(self._raw),
            name=self._path.name,
            bits=bits,
            inverted=page.photometric == _GREY_INVERTED,
        )
        self.notes.extend(said)

    def _plane(self, page: Any, size: int) -> _Plane:
        high, wide = _block_shape(page)
        across, down = math.ceil(page.imagewidth / wide), math.ceil(page.imagelength / high)
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        offsets, counts = tuple(map(int, page.dataoffsets)), tuple(map(int, page.databytecounts))
        name = f"{self._path.name}, page {page.index}"
        if len(offsets) != across * down * planes or len(counts) != len(offsets):
            raise Corrupt(
                f"{name} should list {across * down * planes:,} tiles for {page.imagewidth} x {page.imagelength} px.",
                found=f"{len(offsets):,} offsets and {len(counts):,} byte counts.",
                cause="a header that lies about the size of the image.",
            )
        block = high * wide * (page.samplesperpixel if planes == 1 else 1) * page.dtype.itemsize
        if block > LIMIT_BLOCK_BYTES:
            raise Refused(
                f"{name} should be cut into tiles.",
                found=f"blocks of {block / 1e6:,.0f} MB.",
                do="write it as a tiled pyramid (QuPath, bioformats2raw, vips tiffsave --tile --pyramid).",
            )
        short = [number for number, (at, count) in enumerate(zip(offsets, counts, strict=True)) if at + count > size]
        if short:
            raise Corrupt(
                f"{name} should be a whole file.",
                found=f"{len(short)} of {len(offsets)} tiles lie beyond its end at byte {size:,}.",
                cause="a copy that was cut short.",
                do="copy the file again from its origin.",
            )
        return _Plane(
            int(page.index), offsets, counts, across, across * down, page.decode, page.jpegtables, page.jpegheader
        )

    def _raw(self, level: int, row: int, column: int) -> NDArray[Any] | None:
        """Read stored values of one block (C, h, w); None if the tile is absent."""
        planes = self._planes[level]
        parts: list[NDArray[Any]] = []
        for position, sample in enumerate(self._pick):
            plane = planes[position if len(planes) > 1 else 0]
            index = row * plane.across + column
            if not self._contiguous and len(planes) == 1 and len(plane.offsets) > plane.per_sample:
                index += sample * plane.per_sample
            if plane.counts[index] == 0:
                return None
            values = self._tile(plane, index)
            if self._contiguous:
                wanted = (
                    values[..., : 4 if self._alpha else 3] if len(self._pick) == 3 else values[..., sample : sample + 1]
                )
                return np.moveaxis(wanted, -1, 0)
            parts.append(values[..., 0])
        return np.stack(parts)

    def _tile(self, plane: _Plane, index: int) -> NDArray[Any]:
        with self._path.open("rb", buffering=0) as file:
            file.seek(plane.offsets[index])
            data = file.read(plane.counts[index])
        where = f"tile {index} of page {plane.number} in {self.name}"
        try:
            if len(data) < plane.counts[index]:
                raise ValueError(f"{len(data)} of {plane.counts[index]} bytes")
            decoded, _, _ = plane.decode(data, index, jpegtables=plane.tables, jpegheader=plane.header)
            return cast("NDArray[Any]", decoded)[0]
        except MemoryError:
            raise
        except Exception as error:
            raise Corrupt(
                f"{where} should decode.", found=str(error)[:300], cause="damaged bytes.", do="copy the file again."
            ) from error

    def _load(self, level: int, row: int, column: int) -> Pixels:
        values = self._raw(level, row, column)
        high, wide = self._blocks.shapes[level]
        if values is None:
            return np.full((self.channels, high, wide), self._absent, np.uint8)
        out = self._scale(values)
        if self._alpha:
            alpha = out[3:].astype(np.float32) / 255
            out = (out[:3] * alpha + 255 * (1 - alpha) + np.float32(0.5)).astype(np.uint8)
        return out

    def _pixel_um(self, page: Any, description: str, tif: Any) -> float | None:
        name = self._path.name
        pair: tuple[float, float] | None = None
        source = ""
        if tif.is_ome:
            pair, source = _ome_pixel_um(description, name=name), "OME-XML"
        if pair is None and (found := re.search(r"\bMPP\s*=\s*([0-9.eE+-]+)", description)):
            try:
                pair, source = (float(found[1]), float(found[1])), "MPP"
            except ValueError:
                raise Refused(f"MPP of {name} should be a number.", found=found[1][:40]) from None
        if pair is None:
            pair, source = _tag_pixel_um(page, description), "resolution tags"
            # 72 to 300 dots per inch are what printers' software writes when it knows nothing: 85 to 353 um.
            if pair is not None and min(pair) > 50:
                self.notes.append(f"resolution tags say {pair[0]:.4g} um, a printer's default: ignored")
                pair = None
        if pair is None:
            return None
        return side_um(*pair, name=name, source=source)


def refuse_unsafe_xml(text: str, *, name: str) -> None:
    """Refuse XML that could expand (document types, entities) or is far larger than a description."""
    if len(text) > LIMIT_XML_BYTES or re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise Refused(
            f"the description of {name} should be plain XML.",
            found="a document type or entities." if len(text) <= LIMIT_XML_BYTES else f"{len(text):,} characters.",
            cause="a file made to attack its reader.",
        )


def _levels(series: Any, name: str) -> list[list[Any]]:
    """Pages of each level; several pages per level are channels."""
    first = series[0]
    axes = str(first.axes)
    sizes = dict(zip(axes, first.shape, strict=True))
    deep = {axis: size for axis, size in sizes.items() if axis not in "YXSC" and size > 1}
    if "Y" not in sizes or "X" not in sizes or deep:
        raise Refused(
            f"{name} should hold one plane per channel.",
            found=f"axes {axes} of sizes {tuple(first.shape)}.",
            do="write one file per section.",
        )
    groups = [list(level.pages) for level in first.levels]
    if len(groups) == 1 and len(series) > 1:
        groups.extend(_loose_levels(first, series))
    if any(page is None for group in groups for page in group):
        raise Corrupt(f"{name} should hold all planes its OME-XML lists.", found="planes in other or absent files.")
    return [[page.aspage() for page in group] for group in groups]


def _loose_levels(first: Any, series: Any) -> list[list[Any]]:
    """Reduced copies that a writer put behind the image without linking them."""
    found: list[list[Any]] = []
    page = first.pages[0]
    last = 1
    for other in series[1:]:
        small = other.pages[0]
        factor = max(round(page.imagewidth / small.imagewidth), 1)
        fits = all(
            abs(big / factor - size) <= 1.0
            for big, size in ((page.imagewidth, small.imagewidth), (page.imagelength, small.imagelength))
        )
        if factor <= last or not fits or other.axes != first.axes or len(other.pages) != len(first.pages):
            break
        found.append(list(other.pages))
        last = factor
    return found


def _block_shape(page: Any) -> tuple[int, int]:
    """Rows and columns of a tile, or of a strip."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return int(min(page.rowsperstrip, page.imagelength)), int(page.imagewidth)


def _pixels_element(description: str, *, name: str) -> dict[str, str]:
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError as error:
        raise Corrupt(f"the OME-XML of {name} should be well formed.", found=str(error)) from error
    found = next((item for item in root.iter() if item.tag.rpartition("}")[2] == "Pixels"), None)
    return {} if found is None else dict(found.attrib)


def _ome_pixel_um(description: str, *, name: str) -> tuple[float, float] | None:
    pixels = _pixels_element(description, name=name)
    pair: list[float] = []
    for axis in "XY":
        value, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if value is None:
            return None
        if unit not in _MICRONS:
            raise Refused(
                f"the pixel size of {name} should have a unit of length.", found=f"'{unit[:20]}'.", do="write µm."
            )
        try:
            pair.append(float(value) * _MICRONS[unit])
        except ValueError:
            raise Refused(f"the pixel size of {name} should be a number.", found=value[:40]) from None
    return pair[0], pair[1]


def _significant_bits(description: str) -> int | None:
    found = re.search(r'\bSignificantBits="(\d{1,2})"', description)
    bits = int(found[1]) if found else 0
    return bits if 8 < bits <= 16 else None


def _tag_pixel_um(page: Any, description: str) -> tuple[float, float] | None:
    """Pixel size from XResolution and YResolution: pixels per inch, cm, or ImageJ's unit."""
    tags = page.tags
    if "XResolution" not in tags or "YResolution" not in tags:
        return None
    unit_um = {2: 25400.0, 3: 10000.0}.get(int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2)
    if unit_um is None:
        said = re.search(r"^unit=(.+)$", description, re.MULTILINE)
        named = said[1].strip().replace("\\u00B5m", "um").replace("micron", "um") if said else "none"
        unit_um = _MICRONS.get(named.replace("ums", "um"))
    if unit_um is None:
        return None
    pair: list[float] = []
    for tag in ("XResolution", "YResolution"):
        above, below = tags[tag].value
        if above <= 0 or below <= 0:
            return None
        pair.append(unit_um * below / above)
    return pair[0], pair[1]
