"""Files that are old or new, never half: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from brodmann.errors import BrodmannError, Corrupt, NoRoom, Unwritable

PARTIAL = ".partial"
"""Ending of everything that is being written; safe to delete when no process writes."""
REPLACED = ".replaced" + PARTIAL
"""Ending of a folder whose successor is just taking its place."""
_SLICE = 1 << 26


@contextmanager
def guard(what: str, where: Path, *, need: int, do: str = "") -> Generator[None, None, None]:
    """Turn what the disk says into `NoRoom` or `Unwritable`; ``need`` is the size in bytes of ``what``.

    Raises
    ------
    NoRoom
        Before or while writing, naming the bytes needed and the bytes free.
    Unwritable
        For every other refusal: no permission, read-only, input/output error.
    """
    there = where
    try:
        there = _nearest(where)
        if (free := shutil.disk_usage(there).free) < need:
            raise NoRoom(*_room(what, where, need), found=f"{free:,} bytes free.", do=do or _FREE)
        yield
    except OSError as error:
        if isinstance(error, BrodmannError):
            raise
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            left = f"{shutil.disk_usage(there).free:,} bytes free" if there.exists() else "unknown"
            full = NoRoom(*_room(what, where, need), found=f"{error.strerror}; {left} after clean-up.", do=do or _FREE)
            full.errno = error.errno
            raise full from error
        refused = Unwritable(
            f"{what} should be written to {where}.",
            found=f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}.",
            cause="no permission, a read-only disk, or failing hardware.",
            do=do or "check the disk and its permissions, then run the same command again.",
        )
        refused.errno = error.errno
        raise refused from error


def admits(path: Path, what: str) -> None:
    """Refuse a folder in which nothing can be written, before the work whose result it is to hold; makes nothing.

    Raises
    ------
    Unwritable
        For a file in the way, or no permission.
    """
    there = _nearest(path)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return
    raise Unwritable(
        f"{what} should be written to {path}.",
        found=f"no permission in {there}." if there.is_dir() else f"{there}, a file.",
        do="name another folder, or mend this one; nothing was done yet.",
    )


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


_FREE = "free space or write elsewhere, then run the same command again."


def _room(what: str, where: Path, need: int) -> tuple[str]:
    return (f"{what} needs {need:,} bytes in {where}.",)


def fill(path: Path, pieces: Iterable[Any]) -> tuple[int, str]:
    """Write buffers to ``path`` in place and fsync; returns (bytes, SHA-256). Use inside `folder`."""
    digest, count = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        for piece in pieces:
            whole = memoryview(piece)
            if not whole.nbytes:
                continue
            view = whole.cast("B")
            digest.update(view)
            count += view.nbytes
            _all(handle, view)
        os.fsync(handle)
    finally:
        os.close(handle)
    return count, digest.hexdigest()


def _all(handle: int, view: memoryview) -> None:
    """Write every byte: ``os.write`` may stop early, on a full disk or a signal."""
    while view.nbytes:
        written = os.write(handle, view[:_SLICE])
        if written <= 0:
            raise OSError(errno.EIO, "write accepted no bytes")
        view = view[written:]


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, whole or not at all, and keep it through a power cut."""
    temporary = path.with_name(path.name + PARTIAL)
    with guard(path.name, path.parent, need=len(data)):
        make(path.parent)
        try:
            fill(temporary, [data])
            temporary.replace(path)
        except OSError:
            remove_quietly(temporary)
            raise
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


@contextmanager
def folder(path: Path, *, what: str = "", need: int = 0, do: str = "") -> Generator[Path, None, None]:
    """A temporary folder to write into; it becomes ``path`` at the end, whole or not at all.

    A folder that is already there is replaced; on any error it stays as it was.
    """
    temporary, replaced = path.with_name(path.name + PARTIAL), path.with_name(path.name + REPLACED)
    with guard(what or path.name, path.parent, need=need, do=do):
        settle(path)
        remove(temporary)
        try:
            make(temporary)
            yield temporary
            sync_tree(temporary)
            if path.exists():
                path.rename(replaced)
            temporary.rename(path)
        except Exception:
            with suppress(OSError):
                settle(path)
                remove(temporary)
            raise
        sync(path.parent)
        remove(replaced)


def make(path: Path) -> None:
    """Make a folder and its parents; their names survive a power cut too."""
    if not path.exists():
        make(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def settle(path: Path) -> None:
    """Put back a folder whose replacement was cut short between its two renames."""
    replaced = path.with_name(path.name + REPLACED)
    if replaced.exists():
        if path.exists():
            remove(replaced)
        else:
            replaced.rename(path)


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_quietly(path: Path) -> None:
    """Delete what a failed write left, if the disk lets us: its own error is the one to report."""
    with suppress(OSError):
        remove(path)


def sync(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems know no fsync of folders; nothing more can be done there
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def sync_tree(root: Path) -> None:
    """Make every file and folder below ``root`` survive a power cut."""
    for path in sorted(root.rglob("*")):
        sync(path)
    sync(root)


def dumps(value: Any) -> str:
    """JSON with sorted keys and no NaN: equal values are equal text."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def append(path: Path, record: Mapping[str, Any], *, durable: bool) -> None:
    """Add one JSON line that carries the crc32 of its own text; ``durable`` adds an fsync."""
    body = dumps(record)
    line = f'{{"crc":"{zlib.crc32(body.encode()):08x}",{body[1:]}\n'.encode()
    with guard(path.name, path.parent, need=len(line)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            _all(handle, memoryview(line))
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)


def lines(path: Path) -> list[dict[str, Any]]:
    """Records of a file of `append`; a torn last line is left out.

    Raises
    ------
    Corrupt
        If any line but the last does not match its crc32.
    """
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    rows = path.read_bytes().split(b"\n")
    last = len(rows) - 1 if rows[-1] else len(rows) - 2
    for number, row in enumerate(rows[: last + 1]):
        crc, body = row[8:16], b"{" + row[18:]
        if row[:8] == b'{"crc":"' and row[16:18] == b'",' and crc == f"{zlib.crc32(body):08x}".encode():
            found.append(cast("dict[str, Any]", json.loads(body)))
        elif number < last:
            raise Corrupt(
                f"every line of {path} should match its crc32.",
                found=f"line {number + 1} does not.",
                cause="the file was edited, or the disk lost bits.",
                do="restore the file, or delete it if its history is not needed.",
            )
    return found


def rewrite(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of lines, atomically."""
    bodies = [dumps(record) for record in records]
    write_text(path, "".join(f'{{"crc":"{zlib.crc32(body.encode()):08x}",{body[1:]}\n' for body in bodies))


def mend(path: Path) -> None:
    """Cut a torn last line off, so that the next `append` starts on a line of its own."""
    if path.exists() and path.stat().st_size:
        records = lines(path)
        if path.read_bytes().count(b"\n") != len(records) or not path.read_bytes().endswith(b"\n"):
            rewrite(path, records)
