"""Zarr arrays by the chunk, v2 and v3: header checked before any library opens it, absent and damaged chunks named.

tensorstore reads when it is installed (several times faster from threads), zarr-python otherwise.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.sidecar import strict_json

LIMIT_CHUNKS = 20_000_000
POOL_BYTES = 16_000_000
"""tensorstore's own cache: holds shard indices; decoded blocks are cached by `blocks`."""
Read = Callable[[tuple[int, ...]], NDArray[Any]]


class Absent(Exception):
    """A chunk is not in the store."""


@dataclass(frozen=True)
class Header:
    """What a zarr array says of itself.

    Parameters
    ----------
    path : Path
    name : str
        Store and array, for messages.
    version : int
        2 or 3.
    shape, chunk : tuple of int
        Size of the array and of the smallest piece that is decoded (the inner chunk of a shard).
    file : tuple of int
        Size of the piece that is one file (the shard).
    dtype : dtype
    key : function (chunk indices) -> str
        Name of a file under ``path``.
    index_at : {"", "start", "end"}
        Where a shard's index lies; empty without shards.
    blosc : bool
        Whether chunks are blosc buffers, whose stated length must be checked before decoding.
    """

    path: Path
    name: str
    version: int
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    file: tuple[int, ...]
    dtype: np.dtype[Any]
    key: Callable[[tuple[int, ...]], str]
    index_at: str
    blosc: bool

    def absent(self) -> Iterator[str]:
        """Names of chunk (or shard) files that do not exist."""
        counts = [math.ceil(size / side) for size, side in zip(self.shape, self.file, strict=True)]
        for place in itertools.product(*map(range, counts)):
            name = self.key(place)
            if not (self.path / name).is_file():
                yield f"{self.path.name}/{name}"


def header(path: Path, *, store: str) -> Header:
    """Read and check the metadata of an array.

    Raises
    ------
    Refused
        Object or structured types, irregular chunks, absurd sizes, links that lead out of the store.
    Corrupt
        Metadata absent or cut short.
    """
    name = f"{store}/{path.name}"
    modern, old = path / "zarr.json", path / ".zarray"
    if modern.is_file() == old.is_file():
        found = "neither zarr.json nor .zarray." if not old.is_file() else "both zarr.json and .zarray."
        raise Corrupt(f"{name} should hold the metadata of one array.", found=found)
    content: Any = strict_json(modern if modern.is_file() else old)
    try:
        result = (_v3 if modern.is_file() else _v2)(path, name, content)
    except BrodmannError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Corrupt(f"{name} should have valid array metadata.", found=repr(error)[:200]) from error
    sides = (*result.shape, *result.chunk, *result.file)
    ranks = {len(result.shape), len(result.chunk), len(result.file)}
    if (
        min(sides, default=0) < 1
        or len(ranks) > 1
        or any(f % c for f, c in zip(result.file, result.chunk, strict=True))
    ):
        raise Corrupt(
            f"{name} should have matching positive sizes.", found=f"shape {result.shape}, chunks {result.chunk}."
        )
    count = math.prod(math.ceil(size / side) for size, side in zip(result.shape, result.file, strict=True))
    if count > LIMIT_CHUNKS or max(result.shape) > 10_000_000:
        raise Refused(f"{name} should have a plausible size.", found=f"{result.shape}: {count:,} chunk files.")
    return result


def _v3(path: Path, name: str, content: Any) -> Header:
    if content.get("node_type") != "array" or content["chunk_grid"]["name"] != "regular":
        raise Refused(f"{name} should be an array with a regular grid.", found=repr(content.get("node_type")))
    file = tuple(map(int, content["chunk_grid"]["configuration"]["chunk_shape"]))
    chunk, index_at = file, ""
    codecs: list[Any] = content["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        chunk = tuple(map(int, inner["chunk_shape"]))
        index_at = str(inner.get("index_location", "end"))
        index = [codec["name"] for codec in inner["index_codecs"]]
        if index != ["bytes", "crc32c"] or len(codecs) > 1:
            raise Refused(f"{name} should have a plain, checksummed shard index.", found=f"index codecs {index}.")
    encoding = content["chunk_key_encoding"]
    separator = str(encoding.get("configuration", {}).get("separator", "/" if encoding["name"] == "default" else "."))
    if separator not in {"/", "."} or encoding["name"] not in {"default", "v2"}:
        raise Refused(f"{name} should name its chunks in a standard way.", found=repr(encoding)[:100])
    prefix = ["c"] if encoding["name"] == "default" else []

    def key(place: tuple[int, ...]) -> str:
        return separator.join([*prefix, *map(str, place)])

    kind = _plain_dtype(content["data_type"], name)
    inside: list[Any] = codecs[0]["configuration"]["codecs"] if index_at else codecs
    blosc = any(codec["name"] == "blosc" for codec in inside)
    return Header(path, name, 3, tuple(map(int, content["shape"])), chunk, file, kind, key, index_at, blosc)


def _v2(path: Path, name: str, content: Any) -> Header:
    kind = _plain_dtype(content["dtype"], name)
    if content.get("filters"):
        bad = [
            codec.get("id")
            for codec in content["filters"]
            if codec.get("id") not in {"delta", "shuffle", "fixedscaleoffset"}
        ]
        if bad:
            raise Refused(f"{name} should have plain filters.", found=repr(bad)[:100])
    separator = str(content.get("dimension_separator", "."))
    if separator not in {"/", "."}:
        raise Refused(f"{name} should name its chunks in a standard way.", found=repr(separator)[:20])
    chunk = tuple(map(int, content["chunks"]))

    def key(place: tuple[int, ...]) -> str:
        return separator.join(map(str, place))

    blosc = (content.get("compressor") or {}).get("id") == "blosc"
    return Header(path, name, 2, tuple(map(int, content["shape"])), chunk, chunk, kind, key, "", blosc)


def _plain_dtype(said: Any, name: str) -> np.dtype[Any]:
    """Parse a number type; objects (which would need pickle), strings and structures are refused unread."""
    try:
        kind = np.dtype(said) if isinstance(said, str) else np.dtype(object)
    except TypeError:
        kind = np.dtype(object)
    if kind.kind not in "uif":
        raise Refused(f"{name} should hold numbers.", found=f"data type {said!r}"[:100], do="convert it.")
    return kind


def opener(head: Header) -> Read:
    """Make the function that reads one chunk, given its indices; thread-safe.

    It raises `Absent` for a chunk that is not there and `Corrupt` for one that does not decode.
    """
    fast = importlib.util.find_spec("tensorstore") is not None
    try:
        return (_tensorstore if fast else _zarr)(head)
    except BrodmannError:
        raise
    except Exception as error:
        raise Corrupt(
            f"{head.name} should open.", found=str(error)[:300], cause="an unknown codec or damaged metadata."
        ) from error


def _bounds(head: Header, place: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(at * side, min((at + 1) * side, size))
        for at, side, size in zip(place, head.chunk, head.shape, strict=True)
    )


def _damaged(head: Header, place: tuple[int, ...], error: Exception) -> Corrupt:
    return Corrupt(
        f"chunk {place} of {head.name} should decode.",
        found=str(error)[:300],
        cause=f"a damaged or truncated file {head.key(_file_of(head, place))}.",
        do="copy the store again from its origin.",
    )


def _file_of(head: Header, place: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(at * c // f for at, c, f in zip(place, head.chunk, head.file, strict=True))


@cache
def _pool() -> Any:
    import tensorstore

    # Copying and decoding are short; two threads of each keep the pool from competing with the caller's.
    limits = {"cache_pool": {"total_bytes_limit": POOL_BYTES}, "data_copy_concurrency": {"limit": 2}}
    return cast("Any", tensorstore).Context(limits)


def _tensorstore(head: Header) -> Read:
    kvstore = {"driver": "file", "path": str(head.path.resolve())}
    return _stored(head, kvstore, _pool())


def remote_opener(head: Header, address: str, context: Any) -> Read:
    """As `opener`, of an array whose header lies here and whose chunks lie at an address."""
    try:
        return _stored(head, address, context)
    except Exception as error:
        raise Corrupt(f"{head.name} should open.", found=str(error)[:300]) from error


def _stored(head: Header, kvstore: Any, context: Any) -> Read:
    import tensorstore

    spec = {
        "driver": "zarr3" if head.version == 3 else "zarr",
        "kvstore": kvstore,
        "fill_missing_data_reads": False,
        "recheck_cached_data": "open",
    }
    array: Any = cast("Any", tensorstore).open(spec, context=context, read=True).result()

    def read(place: tuple[int, ...]) -> NDArray[Any]:
        try:
            values = np.asarray(array[_bounds(head, place)].read().result())
        except Exception as error:
            if "NOT_FOUND" in str(error):
                raise Absent(str(error)) from error
            raise _damaged(head, place, error) from error
        return values

    return read


def _zarr(head: Header) -> Read:
    import zarr

    array: Any = cast("Any", zarr).open_array(store=str(head.path), mode="r", zarr_format=head.version)

    def read(place: tuple[int, ...]) -> NDArray[Any]:
        if not _present(head, place):
            raise Absent(f"{head.path.name}/{head.key(_file_of(head, place))}, chunk {place}")
        try:
            return np.asarray(array[_bounds(head, place)])
        except Exception as error:
            raise _damaged(head, place, error) from error

    return read


def _present(head: Header, place: tuple[int, ...]) -> bool:
    """Whether a chunk was written: its file exists, and its shard's index knows it.

    Raises
    ------
    Corrupt
        The file is shorter than the chunk says: zarr-python's blosc would read past the end of the buffer.
    """
    path = head.path / head.key(_file_of(head, place))
    if not path.is_file():
        return False
    size = path.stat().st_size
    offset, length = 0, size
    with path.open("rb") as file:
        if head.index_at:
            counts = [f // c for f, c in zip(head.file, head.chunk, strict=True)]
            number = 0
            for at, count in zip(place, counts, strict=True):
                number = number * count + at % count
            index = 16 * math.prod(counts) + 4
            if size < index:
                raise _damaged(head, place, ValueError(f"{size} bytes, less than the shard's index"))
            file.seek((size - index if head.index_at == "end" else 0) + 16 * number)
            offset, length = struct.unpack("<QQ", file.read(16))
            if (offset, length) == (2**64 - 1, 2**64 - 1):
                return False
        if head.blosc:
            file.seek(offset)
            start = file.read(16)
            stated = struct.unpack("<I", start[12:])[0] if len(start) == 16 else 16
            if stated > length or len(start) < 16:
                raise _damaged(head, place, ValueError(f"{length} bytes where blosc states {stated}"))
    if offset + length > size:
        raise _damaged(head, place, ValueError(f"ends at byte {offset + length}, the file at {size}"))
    return True
