"""Arrays of ``.npz`` archives and ``.zarr`` groups by name, none of them loaded yet; what could do harm is refused."""

from __future__ import annotations

import json
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from brodmann import atomic
from brodmann.caches import ELSEWHERE
from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.neurons.readers.raw import check_claim, objects
from brodmann.reasons import words

_CHUNK = 1 << 31
_COPY = 1 << 22
Store = tuple[dict[str, Any], Callable[[], None]]
"""Arrays by name, and how to close their file."""


def group(path: Path, name: str, scratch: Path) -> Store:
    """Arrays of one group of a ``.npz`` or ``.zarr``, without the group's name; see `npz` and `zarr`."""
    store, close = zarr(path, groups=(name,)) if path.is_dir() else npz(path, scratch, under=f"{name}/")
    return {key.removeprefix(f"{name}/"): one for key, one in store.items() if key.startswith(f"{name}/")}, close


def npz(path: Path, scratch: Path, *, under: str = "") -> Store:
    """Arrays of an archive of numpy: mapped in place, or unpacked once into a nameless file if they are compressed.

    Parameters
    ----------
    path : Path
    scratch : Path
        Folder for what has to be unpacked; nothing is left there.
    under : str
        Only arrays whose names begin like this; without it, all but synapses, which are read apart.

    Raises
    ------
    Corrupt
        Cut short, or arrays that contradict the archive.
    Refused
        Python objects inside.
    """
    opened: list[IO[bytes]] = []

    def close() -> None:
        for file in opened:
            file.close()

    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {
                info.filename.removesuffix(".npy"): _member(archive, info, path, scratch, opened)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
                and info.filename.startswith(under)
                and (under or not info.filename.startswith("synapses/"))
            }
        return arrays, close
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        close()
        if isinstance(error, BrodmannError):
            raise
        raise Corrupt(
            f"{path.name} should be an archive of numpy.",
            found=words(error),
            cause="a copy or download cut short.",
        ) from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, scratch: Path, opened: list[Any]) -> Any:
    name = f"{info.filename} of {path.name}"
    check_claim(name, (info.file_size,), 1, info.compress_size)
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = header(member)
        if kind.hasobject:
            raise objects(name)
        start = member.tell()
        if start + int(np.prod(shape, dtype=object)) * kind.itemsize != info.file_size:
            raise ValueError(f"{info.filename} has shape {shape}, but {info.file_size - start:,} bytes")
    if 0 in shape:
        return np.empty(shape, kind)
    if info.compress_type == zipfile.ZIP_STORED:
        file = path.open("rb")
        opened.append(file)
        file.seek(info.header_offset + 26)
        # the lengths of name and extra field stand in the local header, and differ from the directory's
        lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
        start += info.header_offset + 30 + lengths
    else:
        with atomic.guard(f"{info.filename}, unpacked,", scratch, need=info.file_size, do=ELSEWHERE):
            atomic.make(scratch)
            file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed by `close`: the map needs it)
            opened.append(file)
        with archive.open(info) as member:
            while block := member.read(_COPY):
                with atomic.guard(f"{info.filename}, unpacked,", scratch, need=0, do=ELSEWHERE):
                    file.write(block)
        file.flush()
    return np.memmap(file, kind, mode="r", offset=start, shape=shape, order="F" if fortran else "C")


def zarr(path: Path, *, groups: tuple[str, ...] = ("trials", "neurons")) -> Store:
    """Arrays of a zarr group and of some of its groups.

    Raises
    ------
    Corrupt
        Not a zarr group.
    Refused
        Python objects, or a codec that unpickles.
    """
    import zarr as library

    try:
        with warnings.catch_warnings():
            # text of fixed width has no final specification in zarr 3, and is read all the same
            warnings.simplefilter("ignore")
            root: Any = library.open_group(str(path), mode="r")
            found: dict[str, Any] = dict(root.arrays())
            for group in groups:
                if group in root and hasattr(root[group], "arrays"):
                    found |= {f"{group}/{name}": array for name, array in root[group].arrays()}
            for name, array in found.items():
                _check(array, f"{name} of {path.name}")
            # text is small, and numpy is the kind that the tables know
            return {name: array[...] if _is_text(array) else array for name, array in found.items()}, lambda: None
    except (ValueError, KeyError, OSError, TypeError, RuntimeError) as error:
        if isinstance(error, BrodmannError):
            raise
        raise Corrupt(f"{path.name} should be a zarr group.", found=words(error)) from error


def _check(array: Any, name: str) -> None:
    if "pickle" in json.dumps(array.metadata.to_dict(), default=str).lower():
        raise objects(name)
    kind = getattr(array.dtype, "kind", "O")
    if kind not in "biufUSTO" or (kind == "O" and "vlen-utf8" not in json.dumps(array.metadata.to_dict(), default=str)):
        raise Refused(f"{name} should hold numbers or text.", found=f"{array.dtype}.")
    itemsize = max(int(array.dtype.itemsize), 1)
    check_claim(name, tuple(array.shape), itemsize, int(array.nbytes_stored()))
    chunk = int(np.prod(array.chunks, dtype=object)) * itemsize
    if chunk > _CHUNK:
        raise Refused(
            f"chunks of {name} should be small enough to read.",
            found=f"{chunk:,} bytes in one.",
            do="write it again in chunks of some seconds.",
        )


def _is_text(array: Any) -> bool:
    return getattr(array.dtype, "kind", "O") in "USTO"
