"""Chunks packed into shards: the "uint64 sharded" layout of neuroglancer precomputed volumes.

A chunk's number is the compressed Morton code of its place in the grid. Its hash names a shard file and a minishard in
it; the file starts with the bounds of each minishard's index, and that index gives the bounds of the chunk.
Layout: https://neuroglancer-docs.web.app/datasource/precomputed/sharded.html.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Corrupt, Refused
from brodmann.patches.image import Cache
from brodmann.patches.readers.files import Files

LIMIT_INDEX_BYTES = 24_000_000
"""Largest index of one minishard, decoded: a million chunks."""
INDICES = Cache(limit_mb=32)
"""Decoded indices of minishards of all volumes of the process."""
Triple = tuple[int, int, int]
_WORD = 2**32 - 1


def gunzip(data: bytes, *, limit: int, where: str) -> bytes:
    """Decompress gzip to at most ``limit`` bytes; memory never grows beyond them.

    Raises
    ------
    Corrupt
        Cut short, damaged (gzip carries a checksum), or larger than that.
    """
    engine = zlib.decompressobj(wbits=31)
    try:
        out = engine.decompress(data, limit + 1)
    except zlib.error as error:
        raise Corrupt(f"{where} should be gzip.", found=str(error), cause="a damaged file.") from error
    if len(out) > limit:
        raise Corrupt(
            f"{where} should unpack to at most {limit:,} bytes.", found="more.", cause="a file made to fill memory."
        )
    if not engine.eof or engine.unused_data:
        raise Corrupt(f"{where} should be one whole gzip stream.", found="an early end, or more behind it.")
    return out


def murmur(number: int) -> int:
    """Low 64 bits of MurmurHash3_x86_128 of a number's eight bytes, seed 0 (Appleby, public domain)."""
    low, high = number & _WORD, number >> 32
    h1 = _rotated(low * 0x239B961B & _WORD, 15) * 0xAB0E9789 & _WORD
    h2 = _rotated(high * 0xAB0E9789 & _WORD, 16) * 0x38B34AE5 & _WORD
    h1, h2, h3, h4 = h1 ^ 8, h2 ^ 8, 8, 8
    h1 = h1 + h2 + h3 + h4 & _WORD
    h2, h3, h4 = h2 + h1 & _WORD, h3 + h1 & _WORD, h4 + h1 & _WORD
    h1, h2, h3, h4 = _mixed(h1), _mixed(h2), _mixed(h3), _mixed(h4)
    h1 = h1 + h2 + h3 + h4 & _WORD
    return h1 | (h2 + h1 & _WORD) << 32


def _rotated(word: int, by: int) -> int:
    return (word << by | word >> 32 - by) & _WORD


def _mixed(word: int) -> int:
    word = (word ^ word >> 16) * 0x85EBCA6B & _WORD
    word = (word ^ word >> 13) * 0xC2B2AE35 & _WORD
    return word ^ word >> 16


def morton(place: Triple, grid: Triple) -> int:
    """Compressed Morton code: bits of x, y, z by turns, each axis as long as its grid needs."""
    code = at = 0
    bits = [(count - 1).bit_length() for count in grid]
    for bit in range(max(bits)):
        for axis in range(3):
            if bit < bits[axis]:
                code |= (place[axis] >> bit & 1) << at
                at += 1
    return code


@dataclass(frozen=True)
class Shards:
    """How chunks are packed.

    Parameters
    ----------
    preshift, minishard_bits, shard_bits : int
    hashed : bool
        By `murmur`; otherwise the number itself decides.
    index_gzip, data_gzip : bool
    """

    preshift: int
    minishard_bits: int
    shard_bits: int
    hashed: bool
    index_gzip: bool
    data_gzip: bool

    def fetch(self, files: Files, key: str, place: Triple, grid: Triple, *, limit: int, where: str) -> bytes | None:
        """Bytes of one chunk, unpacked to at most ``limit``; None if the writer left it out.

        Raises
        ------
        Corrupt
            An index that points outside the file, is not sorted or does not unpack.
        """
        number = morton(place, grid)
        code = number >> self.preshift
        code = murmur(code) if self.hashed else code
        minishard = code & (1 << self.minishard_bits) - 1
        shard = code >> self.minishard_bits & (1 << self.shard_bits) - 1
        name = f"{key}/{shard:0{-(-self.shard_bits // 4)}x}.shard"
        index = INDICES.get((files, name, minishard), lambda: [self._index(files, name, minishard, where)])[0]
        row = np.searchsorted(index[0], np.uint64(number))
        if row == index.shape[1] or int(index[0, row]) != number:
            return None
        start, stop = int(index[1, row]), int(index[2, row])
        data = files.fetch(name, limit=limit, span=(start, stop))
        return gunzip(data, limit=limit, where=where) if data is not None and self.data_gzip else data

    def _index(self, files: Files, name: str, minishard: int, where: str) -> NDArray[Any]:
        """Numbers, starts and ends of a minishard's chunks, (3, n) uint64, by number."""
        bounds = files.fetch(name, limit=16, span=(16 * minishard, 16 * minishard + 16))
        empty = np.zeros((3, 0), np.uint64)
        if bounds is None:
            return empty
        head = 16 << self.minishard_bits
        start, stop = np.frombuffer(bounds, "<u8").tolist()
        if start == stop:
            return empty
        data = files.fetch(name, limit=LIMIT_INDEX_BYTES, span=(head + start, head + stop)) or b""
        if self.index_gzip:
            data = gunzip(data, limit=LIMIT_INDEX_BYTES, where=f"index of {where}")
        if len(data) % 24:
            raise Corrupt(f"the shard index of {where} should hold 24 bytes a chunk.", found=f"{len(data)} bytes.")
        numbers, gaps, sizes = np.frombuffer(data, "<u8").reshape(3, -1).astype(object)
        numbers = np.cumsum(numbers)
        starts = head + np.cumsum(gaps) + np.concatenate([[0], np.cumsum(sizes)[:-1]])
        table = np.stack([numbers, starts, starts + sizes])
        if (table >= 2**63).any() or (np.diff(numbers) < 1).any():
            raise Corrupt(f"the shard index of {where} should rise.", found="numbers out of order or absurd.")
        return table.astype(np.uint64)


def sharding(content: Any, *, name: str) -> Shards | None:
    """Parse the ``sharding`` of a scale.

    Raises
    ------
    Refused
        Another layout or hash, or more bits than a number has.
    """
    if content is None:
        return None
    kinds = (content["@type"], content["hash"])
    index, data = (content.get(f"{part}_encoding", "raw") for part in ("minishard_index", "data"))
    bits = [content["preshift_bits"], content["minishard_bits"], content["shard_bits"]]
    known = kinds[0] == "neuroglancer_uint64_sharded_v1" and kinds[1] in {"identity", "murmurhash3_x86_128"}
    if not known or not {index, data} <= {"raw", "gzip"}:
        raise Refused(f"shards of {name} should be of a known kind.", found=f"{kinds}, {index}, {data}"[:200])
    if not all(type(value) is int and 0 <= value <= 64 for value in bits) or bits[1] > 32 or bits[1] + bits[2] > 64:
        raise Refused(f"shards of {name} should split at most 64 bits.", found=f"{bits}"[:200])
    return Shards(*bits, hashed=kinds[1] != "identity", index_gzip=index == "gzip", data_gzip=data == "gzip")
