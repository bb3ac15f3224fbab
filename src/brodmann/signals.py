"""Signals ask for a stop; the loop stops where nothing is lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""SLURM sends the first and the last ahead of a time limit; Ctrl-C is the second."""


class Stop:
    """While entered, a first signal sets `asked`; a second one raises ``KeyboardInterrupt`` at once.

    Signals reach only the main thread; entered from another thread, `asked` stays False.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self.asked = False
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in ASKS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
