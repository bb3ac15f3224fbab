"""What the ``info`` of a neuroglancer precomputed volume says, checked, and how its chunks are decoded.

Format: https://neuroglancer-docs.web.app/datasource/precomputed/volume.html.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin, PngImagePlugin

from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.patches.readers.blocks import LIMIT_BLOCK_BYTES
from brodmann.patches.readers.files import Files, json_of
from brodmann.patches.readers.shards import Shards, gunzip, sharding

Triple = tuple[int, int, int]
ENCODINGS = ("raw", "jpeg", "png")
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32")
LIMIT_SIZE = 10_000_000
"""Most voxels along an axis."""
_MODES = {
    ("jpeg", "L"): 1,
    ("jpeg", "RGB"): 3,
    ("png", "L"): 1,
    ("png", "LA"): 2,
    ("png", "RGB"): 3,
    ("png", "RGBA"): 4,
    ("png", "I;16"): 1,
}
"""Channels of the pixel types that a chunk may be stored in."""
_NAME = re.compile(r"(-?\d{1,15})-(-?\d{1,15})_(-?\d{1,15})-(-?\d{1,15})_(-?\d{1,15})-(-?\d{1,15})")
_LAST = {"jpeg": b"\xff\xd9", "png": b"IEND"}


@dataclass(frozen=True)
class Scale:
    """One level of a volume; triples are along x, y, z.

    Parameters
    ----------
    key : str
        Folder of its chunks.
    size, offset, chunk : (int, int, int)
        In voxels of this level.
    nm : (float, float, float)
        Size of a voxel.
    encoding : str
        One of `ENCODINGS`.
    shards : Shards or None
    """

    key: str
    size: Triple
    offset: Triple
    chunk: Triple
    nm: tuple[float, float, float]
    encoding: str
    shards: Shards | None

    def bounds(self, place: Triple) -> list[tuple[int, int]]:
        """Where a chunk starts and stops along x, y, z, without the offset."""
        return [(p * c, min((p + 1) * c, s)) for p, c, s in zip(place, self.chunk, self.size, strict=True)]

    def file(self, place: Triple) -> str:
        """Name of a chunk."""
        ends = zip(self.bounds(place), self.offset, strict=True)
        return "_".join(f"{start + offset}-{stop + offset}" for (start, stop), offset in ends)

    def place(self, file: str) -> Triple | None:
        """Which chunk a file name means; None if it is none of this level's."""
        found = _NAME.fullmatch(file)
        if found is None:
            return None
        x, y, z = ((int(found[2 * axis + 1]) - self.offset[axis]) // self.chunk[axis] for axis in range(3))
        fits = all(0 <= p < count for p, count in zip((x, y, z), self.grid, strict=True))
        return (x, y, z) if fits and self.file((x, y, z)) == file else None

    @property
    def grid(self) -> Triple:
        """Number of chunks along x, y, z."""
        x, y, z = (-(-size // chunk) for size, chunk in zip(self.size, self.chunk, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Volume:
    """What an ``info`` file says.

    Parameters
    ----------
    dtype : dtype
        Little endian.
    channels : int
    scales : list of Scale
        In the file's order.
    """

    dtype: np.dtype[Any]
    channels: int
    scales: list[Scale]


def volume(files: Files, *, title: str) -> Volume:
    """Read and check ``info``.

    Raises
    ------
    Refused
        Not an image, or sizes, names and encodings that are not read.
    Corrupt
        No ``info``, or not what the format says.
    """
    content = json_of(files, "info")
    if content is None:
        raise Corrupt(f"{title} should hold a file 'info'.", found="none.")
    try:
        kind = content.get("type")
        if kind != "image":
            raise Refused(
                f"{title} should be an image.",
                found=f"type {kind!r}"[:100],
                cause="labels, which cannot be averaged; or meshes or annotations." if kind else "not a volume.",
            )
        if content["data_type"] not in DTYPES:
            raise Refused(f"{title} should hold numbers.", found=f"data type {content['data_type']!r}"[:100])
        dtype = np.dtype(content["data_type"]).newbyteorder("<")
        channels = _whole(content["num_channels"], 1, 1000)
        scales = [_scale(item, dtype.itemsize * channels, title) for item in content["scales"][:64]]
    except BrodmannError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise Corrupt(f"info of {title} should follow the precomputed format.", found=repr(error)[:200]) from error
    if not scales:
        raise Refused(f"{title} should list scales.", found="none.")
    for scale in scales:
        _encodable(scale, dtype, channels, title)
    return Volume(dtype, channels, scales)


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or value != int(value) or not low <= value <= high:
        raise ValueError(f"{str(value)[:40]} is no whole number from {low} to {high}")
    return int(value)


def _triple(values: Any, low: int, high: int) -> Triple:
    x, y, z = (_whole(value, low, high) for value in values)
    return x, y, z


def _scale(item: Any, voxel_bytes: int, title: str) -> Scale:
    key = item["key"]
    pure = PurePosixPath(key)
    if not key or pure.is_absolute() or ".." in pure.parts or set(key) & set("\\\0?#%:"):
        raise Refused(f"keys of {title} should be plain names of folders in it.", found=repr(key)[:100])
    x, y, z = (float(nm) for nm in item["resolution"])
    if not all(math.isfinite(nm) and 1e-3 <= nm <= 1e9 for nm in (x, y, z)):
        raise Refused(f"voxels of {title} should have sizes in nm.", found=f"{item['resolution']}"[:100])
    chunk = _triple(item["chunk_sizes"][0], 1, LIMIT_SIZE)
    if math.prod(chunk) * voxel_bytes > LIMIT_BLOCK_BYTES:
        raise Refused(
            f"{title} should have chunks of at most {LIMIT_BLOCK_BYTES / 1e6:g} MB.", found=f"chunks of {chunk}."
        )
    size = _triple(item["size"], 1, LIMIT_SIZE)
    offset = _triple(item.get("voxel_offset", (0, 0, 0)), -(2**40), 2**40)
    packed = sharding(item.get("sharding"), name=title)
    return Scale(pure.as_posix(), size, offset, chunk, (x, y, z), str(item["encoding"]), packed)


def _encodable(scale: Scale, dtype: np.dtype[Any], channels: int, title: str) -> None:
    """Refuse encodings that hold no pixels, or not these."""
    if scale.encoding not in ENCODINGS:
        raise Refused(
            f"chunks of {title} should be encoded as {', '.join(ENCODINGS)}.",
            found=f"'{scale.encoding[:40]}'.",
            cause="labels." if "seg" in scale.encoding or "compresso" in scale.encoding else "a newer encoding.",
        )
    fits = {
        "raw": True,
        "jpeg": dtype == np.uint8 and channels in {1, 3},
        "png": (dtype == np.uint8 and channels <= 4) or (dtype == np.dtype("<u2") and channels == 1),
    }
    if not fits[scale.encoding]:
        raise Refused(
            f"{title} should hold what {scale.encoding} can.",
            found=f"{channels} channels of {dtype.name}.",
            do="write it as raw chunks." if scale.encoding == "png" else "",
        )


def decoded(
    data: bytes, encoding: str, shape: tuple[int, int, int, int], dtype: np.dtype[Any], *, where: str
) -> NDArray[Any]:
    """Values (x, y, z, channels) of a chunk, whether gzipped or not.

    Parameters
    ----------
    data : bytes
    encoding : str
    shape : (int, int, int, int)
        What the chunk must hold; checked before anything is decoded.
    dtype : dtype
    where : str
        The chunk, for messages.

    Raises
    ------
    Corrupt
        Another number of bytes or pixels, or bytes that do not decode.
    """
    size = math.prod(shape) * dtype.itemsize
    # Raw pixels may happen to start like gzip: then their number tells.
    if data[:2] == b"\x1f\x8b" and not (encoding == "raw" and len(data) == size):
        data = gunzip(data, limit=size if encoding == "raw" else picture_limit(size), where=where)
    if encoding == "raw":
        if len(data) != size:
            raise Corrupt(
                f"{where} should hold {size:,} bytes.",
                found=f"{len(data):,}.",
                cause="a file cut short, or an info file that does not belong to it.",
            )
        return np.frombuffer(data, dtype).reshape(shape, order="F")
    return _picture(data, encoding, shape, dtype, where)


def picture_limit(size: int) -> int:
    """Most bytes of a compressed picture: noise grows a little when compressed, and headers come on top."""
    return 2 * size + 100_000


def _picture(
    data: bytes, encoding: str, shape: tuple[int, int, int, int], dtype: np.dtype[Any], where: str
) -> NDArray[Any]:
    """Decode JPEG or PNG of any width: its pixels, row by row, are the chunk's in Fortran order."""
    try:
        plugin: Any = JpegImagePlugin.JpegImageFile if encoding == "jpeg" else PngImagePlugin.PngImageFile
        picture: Any = plugin(BytesIO(data))
        mode, (wide, high) = str(picture.mode), picture.size
        channels = _MODES.get((encoding, mode)) if (mode == "I;16") == (dtype.itemsize == 2) else None
        if channels != shape[3] or wide * high != math.prod(shape[:3]):
            raise Corrupt(
                f"{where} should hold {math.prod(shape[:3]):,} pixels of {shape[3]} channels of {dtype.name}.",
                found=f"{wide} x {high} pixels of type {mode}.",
            )
        values = np.asarray(picture).reshape(-1, shape[3])
    except BrodmannError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        raise Corrupt(
            f"{where} should decode as {encoding}.",
            found=str(error)[:200],
            cause="damaged bytes.",
            do="copy it again.",
        ) from error
    # Decoders are content when the last pixel is there; what comes behind it says that the file is whole.
    if _LAST[encoding] not in data[-4096:]:
        raise Corrupt(f"{where} should end as {encoding} does.", found="no end marker.", cause="a copy cut short.")
    return values.reshape(shape[2], shape[1], shape[0], shape[3]).transpose(2, 1, 0, 3)
