"""Ways to die: at every system call, on a disk that says no, and by SIGKILL at a random moment."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

CALLS = ("open", "write", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir")
"""Every function of ``os`` through which the package changes a disk."""
GROWING = ("open", "write", "fsync", "rename", "replace", "mkdir")
"""Those that may need room."""


class Killed(BaseException):
    """The process is dead: nothing after this may touch the disk, clean-up code included."""


@dataclass
class Disk:
    """Counts calls; fails from the ``at``-th on (1-based; 0 never)."""

    at: int
    error: int | None
    forever: bool
    count: int = 0
    failed: str = ""

    def call(self, name: str, real: Callable[..., object], *args: object, **options: object) -> object:
        """Do one call, or fail."""
        if self.error is not None and (name == "open" and not int(args[1]) & os.O_CREAT) and self.error == errno.ENOSPC:
            return real(*args, **options)
        if self.error == errno.ENOSPC and name not in GROWING:
            return real(*args, **options)
        self.count += 1
        dead = self.at and (self.count == self.at or (self.count > self.at and self.forever))
        if not dead:
            return real(*args, **options)
        self.failed = self.failed or name
        if name == "write" and self.count == self.at:
            # a write dies halfway: some bytes are on the disk
            data = memoryview(args[1])
            real(args[0], data[: len(data) // 2])
        if self.error is None:
            raise Killed
        raise OSError(self.error, os.strerror(self.error))


@contextmanager
def disk(at: int = 0, *, error: int | None = None, forever: bool = True) -> Iterator[Disk]:
    """A disk whose ``at``-th call kills the process (``error=None``) or fails with ``error``."""
    state = Disk(at, error, forever or error is None)

    def patched(name: str) -> Callable[..., object]:
        real = getattr(os, name)
        return lambda *args, **options: state.call(name, real, *args, **options)

    patches = [mock.patch.object(os, name, patched(name)) for name in CALLS]
    for patch in patches:
        patch.start()
    try:
        yield state
    finally:
        for patch in patches:
            patch.stop()


@dataclass(frozen=True)
class Storm:
    """What `kill_until_done` did."""

    effective: int
    """Kills that hit a live process past its start-up."""
    tried: int
    """Launches that were meant to be killed."""
    launches: int
    seconds: float


def kill_until_done(
    command: Sequence[str],
    *,
    kills: int,
    seed: int,
    mean_delay_s: float,
    ready: Callable[[int, float], bool],
    timeout_s: float = 600.0,
    log: Path | None = None,
) -> Storm:
    """Run a command, SIGKILL it at a random moment, run it again ...; after ``kills`` effective kills let it finish.

    Parameters
    ----------
    command : sequence of str
        Resumes by being run again.
    kills : int
        Effective kills wanted.
    seed : int
        Of the delays, uniform between 0 and twice the mean.
    mean_delay_s : float
        Mean time between `ready` and the kill.
    ready : callable (pid, launched_at) -> bool
        Whether the process is past its start-up.
    timeout_s : float
        Longest time for one launch.
    log : Path, optional
        Where the output of all launches goes.

    Raises
    ------
    RuntimeError
        If the command fails by itself or hangs. Being done before it was killed often enough is no error: look at
        ``effective``.
    """
    draw, begun = random.Random(seed), time.monotonic()
    effective = tried = launches = 0
    with (log or Path(os.devnull)).open("ab") as out:
        while True:
            launched = time.time()
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
            launches += 1
            try:
                if effective == kills:
                    code = process.wait(timeout_s)
                    if code:
                        raise RuntimeError(f"exit {code} after {effective} kills; see {log}")
                    return Storm(effective, tried, launches, time.monotonic() - begun)
                tried += 1
                while process.poll() is None and not ready(process.pid, launched):
                    if time.time() - launched > timeout_s:
                        raise RuntimeError(f"not past its start-up after {timeout_s} s; see {log}")
                    time.sleep(0.002)
                deadline = time.monotonic() + draw.uniform(0, 2 * mean_delay_s)
                while process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.001)
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    # -9 only if our signal ended it, not if it finished an instant before
                    effective += process.wait() == -signal.SIGKILL
                elif process.returncode:
                    raise RuntimeError(f"exit {process.returncode} by itself after {effective} kills; see {log}")
                else:
                    return Storm(effective, tried, launches, time.monotonic() - begun)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
