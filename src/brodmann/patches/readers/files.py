"""Files of a chunked volume by name, wherever they lie: a folder here, a server in `remote`."""

from __future__ import annotations

import json
import os
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

    def listed(self, key: str) -> set[str] | None:
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

    def fetch(self, key: str, *, limit: int, span: tuple[int, int] | None = None) -> bytes | None:
        """See `Files.fetch`; a whole file is looked for under each of the names it may have."""
        folder, _, name = key.rpartition("/")
        nested = f"{folder}/{name.replace('_', '/')}".removeprefix("/")
        for candidate in (key,) if span is not None else dict.fromkeys((key, f"{key}.gz", nested, f"{nested}.gz")):
            path = inside(self._path, candidate)
            try:
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    start, stop = span or (0, size)
                    if not 0 <= start <= stop <= size or stop - start > limit:
                        raise Corrupt(
                            f"{candidate} of {self.name} should hold bytes {start:,} to {stop:,}, at most {limit:,}.",
                            found=f"{size:,} bytes.",
                            cause="a file cut short, or one that lies about its size.",
                        )
                    file.seek(start)
                    return file.read(stop - start)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
        return None

    def listed(self, key: str) -> set[str] | None:
        """See `Files.listed`."""
        found: set[str] = set()
        _walk(str(inside(self._path, key)), "", 3, found)
        return found


def _walk(folder: str, before: str, depth: int, found: set[str]) -> None:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    found.add(before + entry.name.removesuffix(".gz"))
                elif depth > 1:
                    _walk(entry.path, f"{before}{entry.name}_", depth - 1, found)
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
