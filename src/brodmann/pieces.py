"""Arrays of a table on disk: in which chunks they lie, and how they are filled when rows come in pieces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from brodmann.errors import Refused

_CHUNK_BYTES = 6 << 20
_BLOCK = 65_536


def layout(shape: tuple[int, ...], kind: np.dtype[Any]) -> dict[str, Any]:
    """Options of a new array: chunks of a few MB of whole rows, compressed, each with a crc32c."""
    row = max(1, kind.itemsize * math.prod(shape[1:]))
    return {
        "chunks": (max(1, min(shape[0], _CHUNK_BYTES // row)), *shape[1:]),
        "compressors": [ZstdCodec(level=3), Crc32cCodec()],
    }


def finite(array: NDArray[Any], name: str) -> None:
    """Refuse numbers that are not finite, looked through in blocks.

    Raises
    ------
    Refused
        Naming how many rows hold one.
    """
    if not np.issubdtype(array.dtype, np.floating):
        return
    wide = array.reshape(len(array), -1)
    blocks = (wide[start : start + _BLOCK] for start in range(0, len(wide), _BLOCK))
    bad = sum(int((~np.isfinite(block).all(axis=1)).sum()) for block in blocks)
    if bad:
        raise Refused(
            f"{name} should be finite.",
            found=f"{bad} of {len(array)} rows hold NaN, infinity or a value too large for the type.",
            cause="a model that diverged, or features that were never normalised.",
        )


class Column:
    """An array of a table that is filled from the top, by whole chunks."""

    def __init__(self, group: Any, name: str, like: NDArray[Any], rows: int) -> None:
        kind = np.dtype(np.float16) if name == "X" else like.dtype
        shape = (rows, *like.shape[1:])
        self._name, self._held, self._at = name, list[NDArray[Any]](), 0
        key = name if name == "X" else f"obsm/{name}"
        if key in group:
            del group[key]
        self._array = group.create_array(
            key,
            shape=shape,
            dtype=kind,
            attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
            **layout(shape, kind),
        )

    def add(self, piece: NDArray[Any]) -> None:
        """Add rows; they are written as soon as they fill a chunk."""
        with np.errstate(over="ignore"):
            piece = piece.astype(self._array.dtype, copy=False)
        finite(piece, "features in float16" if self._name == "X" else f"'{self._name}'")
        self._held.append(piece)
        chunk = self._array.chunks[0]
        if sum(map(len, self._held)) >= chunk:
            rows = np.concatenate(self._held)
            whole = len(rows) // chunk * chunk
            self._put(rows[:whole])
            self._held = [rows[whole:]]

    def close(self) -> None:
        """Write what is left."""
        self._put(np.concatenate(self._held))
        if self._at != self._array.shape[0]:
            raise Refused(
                f"'{self._name}' should have a row per row of obs.",
                found=f"{self._at} and {self._array.shape[0]} rows.",
            )

    def _put(self, rows: NDArray[Any]) -> None:
        self._array[self._at : self._at + len(rows)] = rows
        self._at += len(rows)
