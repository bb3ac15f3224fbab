"""Files of a chunked volume by name, wherever they lie: a folder here, a server in `remote`."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from brodmann.errors import Corrupt, Refused
from brodmann.sidecar import inside

LIMIT_JSON_BYTES = 10_000_000


class Files(Protocol):
    """Where the files of a volume lie.

    Attributes
    ----------
    name : str
        Path or address, for messages.
    """

    name: str

    def fetch(self, key: str, *, limit: int, span: tuple[int, int] | None = None) -> bytes | None:
        """Bytes of a file, or its bytes ``span`` (start, stop); None if there is no such file. Thread-safe.

        More than ``limit`` bytes, or a span beyond the file's end, are `Corrupt`.
        """
        ...

    def listed(self, key: str) -> Iterator[str] | None:
        """Names of the chunks under a key, all written ``x0-x1_y0-y1_z0-z1``; None where that cannot be asked."""
        ...


class Folder:
    """Files of a volume in a folder; plain or gzipped, flat or nested.

    neuroglancer-scripts writes chunk ``a_b_c`` as ``a/b/c.gz`` by default, and lets the web server translate.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self._folders: dict[str, Path] = {}
        self._forms = [0, 1, 2, 3]

    def fetch(self, key: str, *, limit: int, span: tuple[int, int] | None = None) -> bytes | None:
        """See `Files.fetch`; a whole file is looked for under each of the names it may have."""
        folder, _, name = key.rpartition("/")
        nested = f"{folder}/{name.replace('_', '/')}".removeprefix("/")
        names = (key,) if span is not None else (key, f"{key}.gz", nested, f"{nested}.gz")
        # Chunks of a volume are written in one way: the form found last is tried first.
        for form in self._forms[:] if span is None else (0,):
            found = self._read(names[form], limit, span)
            if found is not None:
                if self._forms[0] != form and span is None and name not in {"info", "transform.json"}:
                    self._forms = [form, *(other for other in range(4) if other != form)]
                return found
        return None

    def _read(self, name: str, limit: int, span: tuple[int, int] | None) -> bytes | None:
        try:
            number = self._open(name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        try:
            about = os.fstat(number)
            if not stat.S_ISREG(about.st_mode):
                return None
            start, stop = span or (0, about.st_size)
            if not 0 <= start <= stop <= about.st_size or stop - start > limit:
                raise Corrupt(
                    f"{name} of {self.name} should hold bytes {start:,} to {stop:,}, at most {limit:,}.",
                    found=f"{about.st_size:,} bytes.",
                    cause="a file cut short, or one that lies about its size.",
                )
            return os.pread(number, stop - start, start)
        finally:
            os.close(number)

    def _open(self, name: str) -> int:
        """Open a file that lies inside; its folder is checked once, a link each time."""
        folder, _, last = name.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = inside(self._path, folder) if folder else self._path
        # Neither a link nor a pipe may be opened unseen: the one leads out, the other waits for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(self._folders[folder] / last, flags)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return os.open(inside(self._path, name).resolve(), flags)

    def listed(self, key: str) -> Iterator[str] | None:
        """See `Files.listed`."""
        return _walk(str(inside(self._path, key)), "", 3)


def _walk(folder: str, before: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    yield before + entry.name.removesuffix(".gz")
                elif depth > 1:
                    yield from _walk(entry.path, f"{before}{entry.name}_", depth - 1)
    except (FileNotFoundError, NotADirectoryError):
        return


def json_of(files: Files, key: str) -> Any:
    """Parse a small JSON file; None if it is not there.

    Raises
    ------
    Refused
        NaN or infinity.
    Corrupt
        Not JSON, or far too large.
    """
    data = files.fetch(key, limit=LIMIT_JSON_BYTES)
    if data is None:
        return None
    name = f"{PurePosixPath(files.name).name}/{key}"

    def refuse(constant: str) -> Any:
        raise Refused(f"{name} should hold finite numbers.", found=constant)

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{name} should be JSON.", found=str(error)[:200], cause="a file cut short or edited.") from error
    except ValueError as error:  # a number of thousands of digits
        raise Corrupt(f"{name} should hold plain numbers.", found=str(error)[:200]) from error
