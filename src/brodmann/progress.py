"""What long work says: a bar in a terminal, sparse lines in a log file, an estimate before it starts."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Counts units of work; `advance` may be called thousands of times a second."""

    def __init__(self, console: Console, name: str, start: int, stop: int, *, enabled: bool) -> None:
        self._console, self._name, self._at, self._stop = console, name, start, stop
        self._start, self._begun, self._said = start, time.monotonic(), time.monotonic()
        self._bar: Bar | None = None
        self._enabled = enabled
        if enabled and console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task(name, total=stop, completed=start, note="")

    def advance(self, note: str = "", *, by: int = 1) -> None:
        """Note that ``by`` units are done; several processes may end with more than there were."""
        self._at = min(self._at + by, self._stop)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._at, note=note)
            return
        now = time.monotonic()
        # at most one line per 30 s and per 1 % keeps a cluster's log readable
        if self._enabled and (now - self._said > 30 and (self._at - self._start) * 100 >= self._stop):
            left = (now - self._begun) / (self._at - self._start) * (self._stop - self._at)
            self._console.print(
                f"{self._name} {self._at:,}/{self._stop:,}  {note}  left {duration(left)}", highlight=False
            )
            self._said = now

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


class Say:
    """Where messages of long work go: standard error by default, nowhere if ``quiet``."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)

    def __call__(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, highlight=False, markup=False)

    def estimate(self, numbers: Mapping[str, float]) -> None:
        """Print what is about to be spent."""
        speed = f", {numbers['samples_per_second']:,.0f} samples/s" if "samples_per_second" in numbers else ""
        self(
            f"estimate: {duration(numbers['seconds'])}{speed}, memory {size(numbers['memory_bytes'])} beyond the data,"
            f" disk {size(numbers['disk_bytes'])}"
        )

    @contextmanager
    def progress(self, name: str, start: int, stop: int, *, enabled: bool = True) -> Generator[Progress]:
        """Progress from ``start`` to ``stop``."""
        with Progress(self._console, name, start, stop, enabled=enabled and not self._console.quiet) as progress:
            yield progress


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes as a person would say them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
