"""Long passes over all rows in pieces: a fixed plan of shards, each finished one noted with its hash.

A shard is written whole (temporary name, fsync, rename) before its line is added to ``ledger.jsonl``; a kill between
the two costs that shard, never a wrong row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from brodmann import atomic, manifest, weights
from brodmann.errors import Changed, Corrupt, Usage
from brodmann.settings import diff


class Ledger:
    """The shards of a pass over ``rows`` rows.

    Parameters
    ----------
    folder : Path
        The run folder; holds ``ledger.jsonl`` and ``shards/``.
    rows : int
        Rows of the pass.
    shard_rows : int
        Rows of a shard; the last may have fewer.
    key : str
        Hash of everything that decides the content: data, weights, recipe.
    say : callable
        Where the message of a damaged shard goes.

    Raises
    ------
    Changed
        If the folder holds shards of another plan.
    """

    def __init__(self, folder: Path, *, rows: int, shard_rows: int, key: str, say: Callable[[str], object]) -> None:
        self._path, self._shards, self._say = folder / "ledger.jsonl", folder / "shards", say
        self._plan: dict[str, Any] = {"rows": rows, "shard_rows": shard_rows, "key": key}
        atomic.mend(self._path)
        records = atomic.lines(self._path)
        if records and records[0] != self._plan:
            raise Changed(
                f"shards in {folder} should belong to this pass.",
                found="; ".join(diff(records[0], self._plan)) + ".",
                cause="the weights or the data changed since the pass began.",
                do=f"delete {self._path.name} and {self._shards.name}/ to begin again.",
            )
        if not records:
            atomic.append(self._path, self._plan, durable=True)
            atomic.sync(folder)
        self._known: dict[int, dict[str, Any]] = {int(record["shard"]): record for record in records[1:]}

    def __len__(self) -> int:
        """Shards of the plan."""
        return -(-self._plan["rows"] // self._plan["shard_rows"])

    def rows(self, shard: int) -> range:
        """Rows of a shard."""
        if not 0 <= shard < len(self):
            raise Usage(f"shard {shard} should be one of the plan.", found=f"{len(self)} shards.")
        start = shard * self._plan["shard_rows"]
        return range(start, min(start + self._plan["shard_rows"], self._plan["rows"]))

    def missing(self) -> list[int]:
        """Shards still to do; finished ones are hashed again, and a damaged one counts as missing."""
        todo: list[int] = []
        for shard in range(len(self)):
            if shard not in self._known:
                todo.append(shard)
            elif wrong := self._wrong(shard):
                self._say(f"{wrong}; it will be made again")
                del self._known[shard]
                todo.append(shard)
        return todo

    def add(self, shard: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep the arrays of a shard.

        Parameters
        ----------
        shard : int
        arrays : mapping of str to array
            Each with one row per row of the shard.

        Raises
        ------
        NoRoom
            Naming bytes needed and free.
        """
        expected = len(self.rows(shard))
        for name, array in arrays.items():
            if len(array) != expected:
                raise Usage(f"'{name}' of shard {shard} should have {expected} rows.", found=f"{len(array)} rows.")
        tensors = {name: cast(Any, torch).from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        path = self._file(shard)
        partial = path.with_name(path.name + atomic.PARTIAL)
        with atomic.guard(f"shard {shard}", self._shards, need=weights.size(tensors)):
            atomic.make(self._shards)
            try:
                count, digest = atomic.fill(partial, weights.pieces(tensors))
                partial.replace(path)
                atomic.sync(self._shards)
            except OSError:
                atomic.remove_quietly(partial)
                raise
        record = {"shard": shard, "rows": expected, "bytes": count, "sha256": digest}
        atomic.append(self._path, record, durable=True)
        self._known[shard] = record

    def collect(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the arrays of every shard in order.

        Raises
        ------
        Usage
            If the pass is not complete.
        Corrupt
            If a shard is damaged.
        """
        if todo := [shard for shard in range(len(self)) if shard not in self._known]:
            raise Usage(f"all {len(self)} shards should be done.", found=f"{len(todo)} still to do.")
        for shard in range(len(self)):
            if wrong := self._wrong(shard):
                raise Corrupt(
                    f"shard {shard} should be as it was written.",
                    found=f"{wrong}.",
                    do="run the same command again: only this shard is made anew.",
                )
            yield {name: value.numpy() for name, value in weights.read(self._file(shard)).items()}

    def clear(self) -> None:
        """Delete shards and ledger, once their content lives elsewhere; the ledger goes first."""
        atomic.remove(self._path)
        atomic.remove(self._shards)

    def _file(self, shard: int) -> Path:
        return self._shards / f"shard-{shard:05d}.safetensors"

    def _wrong(self, shard: int) -> str:
        path, record = self._file(shard), self._known[shard]
        if not path.is_file():
            return f"{path.name} is missing"
        return "" if manifest.sha256(path) == record["sha256"] else f"{path.name} holds other bytes"
