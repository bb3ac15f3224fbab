"""What can go wrong, named; every message says what was asked, what was found, why, and what to do."""

from __future__ import annotations


class BrodmannError(Exception):
    """Base of every error a user can trigger; ``exit_code`` is what the shell sees.

    Parameters
    ----------
    asked : str
        What was asked for, as a full sentence.
    found : str
        What was found instead.
    cause : str
        The likely cause.
    do : str
        What the user can do about it.
    """

    exit_code = 1

    def __init__(self, asked: str, *, found: str = "", cause: str = "", do: str = "") -> None:
        self.asked, self.found, self.cause, self.do = asked, found, cause, do
        labelled = (("found", found), ("likely cause", cause), ("what to do", do))
        super().__init__("\n  ".join([asked, *(f"{label}: {text}" for label, text in labelled if text)]))


class Usage(BrodmannError, ValueError):
    """The command or call itself is wrong: an unknown key, a missing argument."""

    exit_code = 2


class Changed(Usage):
    """The run folder belongs to another recipe or other data; the message carries the diff."""


class Refused(BrodmannError, ValueError):
    """The input does not pass the gate."""

    exit_code = 6


class Leak(Refused):
    """Train and test share a brain, a section or a buffered neighbourhood."""


class SpaceMismatch(Refused):
    """Coordinates of two spaces were about to be compared."""


class Corrupt(BrodmannError, RuntimeError):
    """Bytes on disk are not the bytes that were written."""

    exit_code = 4


class NoRoom(BrodmannError, OSError):
    """The disk (or quota) is full; the message names the bytes needed."""

    exit_code = 4


class Unwritable(BrodmannError, OSError):
    """The disk refuses to read or write: no permission, read-only, or an input/output error."""

    exit_code = 4


class Diverged(BrodmannError, RuntimeError):
    """The loss is not finite; the message names the step and the samples."""

    exit_code = 4


class Locked(BrodmannError, RuntimeError):
    """Another live process writes to this run folder."""

    exit_code = 5


class Interrupted(BrodmannError):
    """Stopped by a signal after saving; the same command resumes."""

    exit_code = 130
