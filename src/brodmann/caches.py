"""Where converted data lie between two runs: a folder for each content, which is there whole or not at all.

A folder is written under a name of its own and renamed at the end, so that two processes may convert the same data at
once and a killed one leaves nothing that could be mistaken for a result.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from brodmann import atomic
from brodmann.errors import Corrupt
from brodmann.progress import Say

MANIFEST = "manifest.json"
"""The file that is written last: a folder that has it is whole."""
ELSEWHERE = "free space, or name another folder in the environment variable BRODMANN_CACHE."
"""What to do when the disk is full."""
_PIECE, _PIECES = 1 << 16, 64
T = TypeVar("T")


def home() -> Path:
    """``$BRODMANN_CACHE``, or ``~/.cache/brodmann``."""
    root = os.environ.get("BRODMANN_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "brodmann"


def state(path: Path, home: Path) -> str:
    """Hash of a file or folder: all of a small file; of a large one its size, its time and pieces all over it.

    Parameters
    ----------
    path : Path
    home : Path
        Folder that names are counted from, so that moved data are the same data.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    every = max(len(files) // 256, 1)
    for number, file in enumerate(files):
        about = file.stat()
        name = file.relative_to(home) if file.is_relative_to(home) else Path(file.name)
        digest.update(f"{name.as_posix()}:{about.st_size};".encode())
        small = about.st_size <= _PIECE * _PIECES
        if not small or number % every:
            # bytes between the pieces may change without a change of size
            digest.update(f"{about.st_mtime_ns};".encode())
        if number % every and not file.name.startswith((".z", "zarr.")):
            continue
        with file.open("rb") as handle:
            if small:
                digest.update(handle.read())
                continue
            for at in np.linspace(0, about.st_size - _PIECE, _PIECES).astype(np.int64):
                handle.seek(int(at))
                digest.update(handle.read(_PIECE))
    return digest.hexdigest()


def found(folder: Path, read: Callable[[Path], T], say: Say) -> T | None:
    """What a folder holds, or None where it is not there, or damaged and therefore removed."""
    if not folder.exists():
        return None
    try:
        return read(folder)
    except Corrupt as error:
        say(f"the cache in {folder} is damaged and is made anew ({error.found})")
        shutil.rmtree(folder, ignore_errors=True)
        return None


def begin(folder: Path) -> Path:
    """An empty folder beside ``folder``, to be filled and `keep`-ed; what killed processes left there is removed."""
    atomic.make(folder.parent)
    _sweep(folder)
    working = folder.with_name(f"{folder.name}.{_host()}-{os.getpid()}.{secrets.token_hex(4)}{atomic.PARTIAL}")
    working.mkdir()
    return working


def keep(working: Path, folder: Path) -> None:
    """Give a filled folder its name; if another process was faster, its folder is as good and stays."""
    atomic.sync_tree(working)
    try:
        working.rename(folder)
    except OSError:
        if not (folder / MANIFEST).is_file():
            raise
    atomic.sync(folder.parent)


def damaged(folder: Path, error: Any) -> Corrupt:
    """What to raise when a folder does not hold what its manifest lists."""
    return Corrupt(
        f"{folder} should hold the arrays its {MANIFEST} lists.",
        found=str(error),
        cause="a copy or a disk that lost files, or another version of the package.",
        do="delete the folder; it is made anew from the data.",
    )


def _host() -> str:
    return socket.gethostname().replace(".", "-")


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left of the same cache."""
    for left in folder.parent.glob(f"{folder.name}.{_host()}-*{atomic.PARTIAL}"):
        pid = left.name.removeprefix(f"{folder.name}.{_host()}-").split(".")[0]
        if pid.isdigit() and int(pid) != os.getpid() and not _runs(int(pid)):
            atomic.remove_quietly(left)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
