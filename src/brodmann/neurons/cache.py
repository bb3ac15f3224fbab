"""The cache of recordings: ``.npy`` arrays per recording and one manifest in a folder, mapped when read.

A folder comes into being whole, see `brodmann.caches`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import atomic, caches
from brodmann.neurons.source import Recording, Source
from brodmann.space import Space

VERSION = 1
"""Of the layout on disk and of what conversion does; part of the name of every cache."""
TRIALS = ("clip", "video", "frame", "frames", "domain", "part")


class Stream:
    """One ``.npy`` file that grows along its first axis; the hash of its content grows with it.

    Parameters
    ----------
    path : Path
    kind : dtype
    shape : tuple of int
        Of one row.
    """

    def __init__(self, path: Path, kind: Any, shape: tuple[int, ...] = ()) -> None:
        self.path, self._kind, self._shape = path, np.dtype(kind), shape
        self._file = path.open("wb")
        self._hash = hashlib.blake2b(digest_size=16)
        self.rows = 0
        self._header()
        self._start = self._file.tell()

    def add(self, values: NDArray[Any]) -> None:
        """Append rows."""
        block = np.ascontiguousarray(values, self._kind)
        if block.shape[1:] != self._shape:
            raise ValueError(f"rows of {self.path.name} should have shape {self._shape}, found {block.shape[1:]}")
        if block.size:
            view = memoryview(cast("Any", block)).cast("B")
            self._file.write(view)
            self._hash.update(view)
        self.rows += len(block)

    def mark(self) -> tuple[int, Any]:
        """The end, to come `back` to."""
        return self.rows, self._hash.copy()

    def back(self, mark: tuple[int, Any]) -> None:
        """Forget what was appended after a mark."""
        self.rows, self._hash = mark[0], mark[1].copy()
        self._file.seek(self._start + self.rows * self._kind.itemsize * int(np.prod(self._shape)))
        self._file.truncate()

    def close(self) -> None:
        """Write the length into the header, and finish the file."""
        if not self._file.closed:
            self._file.seek(0)
            self._header()
            if self._file.tell() != self._start:
                raise ValueError(f"the header of {self.path.name} outgrew its place")
            self._file.close()

    def about(self) -> list[Any]:
        """Type, shape and hash, for the manifest."""
        return [self._kind.str, [self.rows, *self._shape], self._hash.hexdigest()]

    def _header(self) -> None:
        # numpy pads headers so that the length may grow to 21 digits in place
        shape = (self.rows, *self._shape)
        header = {"descr": np.lib.format.dtype_to_descr(self._kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, cast("Any", header))


class Growing:
    """Arrays of one recording while they are written; see `Recording` for what they hold."""

    def __init__(self, folder: Path, *, neurons: int, height_px: int, width_px: int) -> None:
        folder.mkdir()
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            "video": (np.uint8, (height_px, width_px)),
            "responses": (np.float32, (neurons,)),
            "behaviour": (np.float32, (2,)),
            "pupil": (np.float32, (2,)),
        }
        self.arrays = {key: Stream(folder / f"{key}.npy", kind, shape) for key, (kind, shape) in shapes.items()}
        self.folder = folder


class Writer:
    """Writes a cache, one recording at a time; nothing larger than a block of frames is held in memory.

    Use as a context: leaving it with an error removes what was written.

    Parameters
    ----------
    folder : Path
        Where the cache shall be; appears when `close` is called. If it is already there then, it is kept.
    name : str
        Name for messages and reports.
    need : int
        Bytes that it will take at most.

    Raises
    ------
    NoRoom
        The disk has less.
    """

    def __init__(self, folder: Path, *, name: str, need: int) -> None:
        self._folder, self._name = folder, name
        self._recordings: list[dict[str, Any]] = []
        self._rows = 0
        self._open: list[Growing] = []
        with atomic.guard(f"the cache of {name}", folder.parent, need=need, do=caches.ELSEWHERE):
            self.working = caches.begin(folder)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for stream in self._streams():
            stream.close()
        atomic.remove_quietly(self.working)

    def start(self, *, neurons: int, height_px: int, width_px: int) -> Growing:
        """Files of the next recording; fill them, then call `finish`."""
        # the number, not the name: names come from outside
        folder = self.working / f"{len(self._open):04d}"
        self._open.append(Growing(folder, neurons=neurons, height_px=height_px, width_px=width_px))
        return self._open[-1]

    def finish(
        self, id: str, subject: str, *, rate_hz: float, trials: pd.DataFrame, remarks: Sequence[str] = ()
    ) -> None:
        """Say what the files of the last `start` hold.

        Parameters
        ----------
        id, subject : str
        rate_hz : float
        trials : DataFrame
            Columns `TRIALS`; ``part`` may be "" where the data do not say.
        remarks : sequence of str
        """
        growing = self._open[-1]
        for stream in growing.arrays.values():
            stream.close()
        neurons = growing.arrays["responses"].about()[1][1]
        self._recordings.append(
            {
                "id": id,
                "subject": subject,
                "rows": [self._rows, self._rows + neurons],
                "rate_hz": rate_hz,
                "folder": growing.folder.name,
                "arrays": {key: stream.about() for key, stream in growing.arrays.items()},
                "trials": {key: trials[key].tolist() for key in TRIALS},
                "remarks": list(remarks),
            }
        )
        self._rows += neurons

    def drop(self) -> None:
        """Remove the files of the last `start`: they will not be finished."""
        growing = self._open.pop()
        for stream in growing.arrays.values():
            stream.close()
        atomic.remove(growing.folder)

    def close(
        self,
        neurons: pd.DataFrame,
        *,
        space: Space,
        unit: Literal["um", "arbitrary"],
        skipped: Sequence[tuple[str, str]] = (),
        remarks: Sequence[str] = (),
    ) -> Source:
        """Write the table of neurons, give the folder its name, and open it.

        Parameters
        ----------
        neurons : DataFrame
            A row per neuron, as in `Source.neurons`; text and numbers only.
        space : Space
            Of ``x_mm, y_mm, z_mm``.
        unit : {"um", "arbitrary"}
        skipped : sequence of (str, str)
        remarks : sequence of str
        """
        numbers = [str(name) for name in neurons.columns if pd.api.types.is_numeric_dtype(neurons[name].dtype)]
        with atomic.guard(f"the cache of {self._name}", self.working, need=64 * neurons.size, do=caches.ELSEWHERE):
            columns: list[list[Any]] = []
            for place, name in enumerate(map(str, neurons.columns)):
                if name in numbers:
                    stream = Stream(self.working / f"neurons-{place:03d}.npy", np.float64)
                    stream.add(neurons[name].to_numpy(np.float64, na_value=np.nan))
                    stream.close()
                    columns.append([name, stream.path.stem, stream.about()])
                else:
                    columns.append([name, None, [None if pd.isna(value) else str(value) for value in neurons[name]]])
            about: dict[str, Any] = {
                "version": VERSION,
                "name": self._name,
                "space": list(astuple(space)),
                "unit": unit,
                "recordings": self._recordings,
                "neurons": columns,
            }
            content = {key: value for key, value in about.items() if key not in {"name", "version"}}
            content["recordings"] = [
                {key: value for key, value in one.items() if key != "remarks"} for one in self._recordings
            ]
            about["fingerprint"] = hashlib.sha256(atomic.dumps(content).encode()).hexdigest()
            about["skipped"], about["remarks"] = list(skipped), list(remarks)
            atomic.write_text(self.working / caches.MANIFEST, json.dumps(about, sort_keys=True))
            caches.keep(self.working, self._folder)
        return read(self._folder)

    def _streams(self) -> Iterator[Stream]:
        for growing in self._open:
            yield from growing.arrays.values()


def read(folder: Path, *, verify: bool = False) -> Source:
    """Map a cache folder; parts that the data do not say are still "".

    Parameters
    ----------
    folder : Path
    verify : bool
        Compare every array with its checksum; without it only types and sizes are compared.

    Raises
    ------
    Corrupt
        An array or the manifest is missing, cut short, or (``verify``) altered.
    """
    try:
        about = cast("dict[str, Any]", json.loads((folder / caches.MANIFEST).read_text("utf-8")))
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']}")
        name, orientation, extent, origin, unit = about["space"]
        table: dict[str, Any] = {}
        for column, key, said in about["neurons"]:
            table[column] = said if key is None else _mapped(folder / f"{key}.npy", said, verify=verify)
        recordings = [
            Recording(
                id=one["id"],
                subject=one["subject"],
                rows=range(*one["rows"]),
                rate_hz=one["rate_hz"],
                trials=pd.DataFrame({key: one["trials"][key] for key in TRIALS}),
                remarks=list(one["remarks"]),
                **{
                    key: _mapped(folder / one["folder"] / f"{key}.npy", said, verify=verify)
                    for key, said in one["arrays"].items()
                },
            )
            for one in about["recordings"]
        ]
        return Source(
            space=Space(name=name, orientation=orientation, extent_mm=tuple(extent), origin=origin, unit=unit),
            name=about["name"],
            fingerprint=about["fingerprint"],
            recordings=recordings,
            skipped=[(item, reason) for item, reason in about["skipped"]],
            neurons=pd.DataFrame(table),
            unit=about["unit"],
            remarks=list(about["remarks"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise caches.damaged(folder, error) from error


def _mapped(path: Path, said: list[Any], *, verify: bool) -> NDArray[Any]:
    kind, shape, expected = np.dtype(said[0]), tuple(map(int, said[1])), str(said[2])
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        found_shape, _, found_kind = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        due = start + kind.itemsize * int(np.prod(shape))
        if (found_shape, found_kind) != (shape, kind) or path.stat().st_size != due:
            raise ValueError(f"{path.name} has {path.stat().st_size:,} of {due:,} bytes, shape {found_shape}")
        if verify:
            digest = hashlib.blake2b(digest_size=16)
            while block := file.read(1 << 24):
                digest.update(block)
            if digest.hexdigest() != expected:
                raise ValueError(f"{path.name} does not match its checksum")
    if not all(shape):
        return np.empty(shape, kind)
    return np.asarray(np.memmap(path, kind, mode="r", offset=start, shape=shape))
