"""One writer per run folder: a lock file with a heartbeat, and ``flock`` where the file system has it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from brodmann.errors import Locked

NAME = "run.lock"
BEAT_S = 30.0
STALE_S = 600.0


class Lock:
    """Held by one process; a lock left by a dead one is taken over with a message.

    Parameters
    ----------
    folder : Path
        The run folder.
    say : callable
        Where the message of a takeover goes.
    """

    def __init__(self, folder: Path, *, say: Callable[[str], object]) -> None:
        self._path, self._say = folder / NAME, say
        self._handle: int | None = None
        self._depth = 0
        self._token = ""
        self._stop = threading.Event()

    def __enter__(self) -> Lock:
        if self._depth == 0:
            self._acquire()
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._release()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._depth > 0

    def check(self) -> None:
        """Raise `Locked` if another process has taken the lock over since (this one slept too long)."""
        if self.held and (_read(self._path) or {}).get("token") != self._token:
            raise Locked(
                f"the lock of {self._path.parent} should still be ours.",
                found="another process has taken it over.",
                cause=f"this process showed no sign of life for {STALE_S / 60:.0f} minutes (suspended?).",
                do="let the other process go on; nothing was written after it took over.",
            )

    def _acquire(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(20):
            if self._try():
                self._stop = threading.Event()
                threading.Thread(target=self._beat, args=(self._stop,), name="heartbeat", daemon=True).start()
                return
            time.sleep(0.05)
        raise self._locked(_read(self._path))

    def _try(self) -> bool:
        """One attempt; False means: the file changed under us, look again."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            created = True
        except FileExistsError:
            created = False
            try:
                handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        try:
            if not self._claim(handle, created=created):
                os.close(handle)
                return False
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return True

    def _claim(self, handle: int, *, created: bool) -> bool:
        exclusive = _flock(handle)
        holder = _read(self._path)
        if exclusive is False:
            if holder is None:
                return False
            raise self._locked(holder)
        try:
            if os.fstat(handle).st_ino != self._path.stat().st_ino:
                return False
        except FileNotFoundError:
            return False
        if not created:
            if holder is None and exclusive is None and _age(self._path) < 5:
                # without flock: somebody may be between creating and filling it
                return False
            if holder is not None and _alive(holder, _age(self._path)):
                raise self._locked(holder)
            self._say(f"taking over the lock of {_name(holder)}, which is gone")
        self._token = secrets.token_hex(8)
        _write(handle, self._token)
        if exclusive is None:
            # without flock the last writer wins; give a rival the time to overwrite us, then look
            time.sleep(0.3)
            return (_read(self._path) or {}).get("token") == self._token
        return True

    def _locked(self, holder: dict[str, Any] | None) -> Locked:
        return Locked(
            f"{self._path.parent} should have no other writer.",
            found=f"{_name(holder)} writes to it.",
            cause="the same command is still running.",
            do="wait for it or stop it; one folder takes one command at a time.",
        )

    def _release(self) -> None:
        self._stop.set()
        handle, self._handle = self._handle, None
        if handle is not None:
            if (_read(self._path) or {}).get("token") == self._token:
                self._path.unlink(missing_ok=True)
            os.close(handle)

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_S):
            handle = self._handle
            if handle is None:
                return
            try:
                os.utime(handle)
            except OSError:
                return


def _write(handle: int, token: str) -> None:
    about = {"host": socket.gethostname(), "pid": os.getpid(), "start": _status(os.getpid())[1], "token": token}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(about).encode(), 0)
    os.fsync(handle)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text())
        return cast("dict[str, Any]", about) if isinstance(about, dict) and "pid" in about else None
    except (OSError, ValueError):
        return None


def _flock(handle: int) -> bool | None:
    """True: ours; False: somebody alive holds it; None: this file system has no ``flock``."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}:
            return None
        raise
    return True


def _age(path: Path) -> float:
    """Seconds since the last heartbeat, by the file system's own clock, so that skewed hosts agree."""
    probe = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _alive(holder: dict[str, Any], age_s: float) -> bool:
    if holder.get("host") != socket.gethostname():
        return age_s < STALE_S
    pid = int(holder["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    state, start = _status(pid)
    # a process number is used again after a while; the start time tells the two apart
    return state not in {"Z", "X"} and (start == holder.get("start") if start else age_s < STALE_S)


def _status(pid: int) -> tuple[str, str]:
    """State of a process and when it began, in the kernel's own ticks; empty where that is unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""


def _name(holder: dict[str, Any] | None) -> str:
    return f"process {holder['pid']} on {holder.get('host')}" if holder else "an unknown process"
