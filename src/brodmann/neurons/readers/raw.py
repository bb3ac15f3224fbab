"""One recording as every format gives it: trials whose frames are read in pieces, and a table of its neurons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Corrupt, Refused
from brodmann.neurons.readers.sidecar import Stated
from brodmann.neurons.source import BEHAVIOUR
from brodmann.reasons import words

Piece = Callable[[int, int], NDArray[Any]]
"""Frames ``start .. stop - 1`` of a trial, time along the first axis."""
LIMIT_CLAIM = 1 << 30
"""Arrays that claim fewer bytes are read without a look at the size of their file."""
_RATIO = 1100
"""No codec in use packs numbers further than this."""


@dataclass
class Trial:
    """A run of frames without a break.

    Parameters
    ----------
    frames : int
    video : Piece
        (k, H, W) or (k, H, W, C).
    responses : Piece
        (k, n).
    behaviour, pupil : Piece or None
        (k, 2); None where they were not recorded.
    clip : str or None
        Name of the video; found by its content if None.
    domain : str
        Kind of stimulus.
    part : str
        "train", "valid", "test", or "" where the data do not say.
    """

    frames: int
    video: Piece
    responses: Piece
    behaviour: Piece | None = None
    pupil: Piece | None = None
    clip: str | None = None
    domain: str = "stimulus"
    part: str = ""


@dataclass
class Raw:
    """One recording.

    Parameters
    ----------
    id, subject : str
    file : str
        For messages.
    rate_hz : float
        Of the responses.
    trials : list of Trial
        In order of time.
    neurons : DataFrame
        A row per column of the responses: ``unit`` (str, unique); where known ``x_um, y_um, z_um``, ``x_mm, y_mm,
        z_mm``, ``plane``, and what else is known.
    resampled : bool
        Video was brought to the clock of the responses, so that repeats of a clip may differ by a frame here and there.
    notes : list of str
        What the user should know about how it was read.
    close : callable
        Closes the file.
    """

    id: str
    subject: str
    file: str
    rate_hz: float
    trials: list[Trial]
    neurons: pd.DataFrame
    resampled: bool = False
    notes: list[str] = field(default_factory=list)
    close: Callable[[], None] = lambda: None


def names(path: Path, stated: Stated, *, subject: str | None = None) -> tuple[str, str]:
    """Name of the recording and of its animal: as stated, else the file's name and what the file says."""
    entry = stated.entry(path.name)
    stem = path.name.removesuffix(path.suffix) if path.suffix in {".npz", ".zarr", ".nwb"} else path.name
    id = (entry.id if entry else None) or stem
    said = (entry.subject if entry else None) or (None if stated.subject == "file" else stated.subject)
    return id, said or (stem if stated.subject == "file" else subject or stem)


def stated_rate(path: Path, stated: Stated) -> float | None:
    """Rate that the sidecar names for a file."""
    entry = stated.entry(path.name)
    return (entry.rate_hz if entry else None) or stated.rate_hz


def load(path: Path, *, mapped: bool = True) -> NDArray[Any]:
    """A ``.npy`` file, mapped; numbers or fixed-width text, never pickles.

    Raises
    ------
    Corrupt
        Cut short, or not ``.npy``.
    Refused
        Python objects inside.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(file)
            if kind.hasobject:
                raise objects(path.name)
            claimed = int(np.prod(shape, dtype=object)) * kind.itemsize
            if file.tell() + claimed > path.stat().st_size:
                raise ValueError(f"shape {shape} claims {claimed:,} bytes of a file of {path.stat().st_size:,}")
        return np.load(path, mmap_mode="r" if mapped and claimed else None, allow_pickle=False)
    except Refused:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise Corrupt(
            f"{path.name} should be an array of numpy.",
            found=words(error),
            cause="a copy or download cut short.",
        ) from error


def objects(name: str) -> Refused:
    """What to say of arrays of Python objects."""
    return Refused(
        f"{name} should hold numbers or text of fixed width.",
        found="Python objects, which can only be unpickled, and pickles can run any program.",
        do="save it again as numbers, or as text: array.astype(str).",
    )


def check_claim(name: str, shape: tuple[int, ...], itemsize: int, stored: int) -> None:
    """Refuse an array that claims far more than its file can hold, before anything is allocated.

    Raises
    ------
    Corrupt
        Naming the claim.
    """
    claimed = int(np.prod(shape, dtype=object)) * itemsize
    if claimed > LIMIT_CLAIM and claimed > _RATIO * stored:
        raise Corrupt(
            f"{name} should hold the numbers that it claims.",
            found=f"shape {tuple(shape)}, {claimed:,} bytes, in {stored:,} bytes of file.",
            cause="a file cut short, or made to do harm.",
        )


def rows(array: Any, first: int = 0) -> Piece:
    """Pieces of an array whose time runs along the first axis."""
    return lambda start, stop: np.asarray(array[first + start : first + stop])


def picked(array: Any, index: NDArray[np.int64]) -> Piece:
    """Pieces of an array by ascending rows; rows of -1 are NaN (numbers with a fraction only)."""

    def piece(start: int, stop: int) -> NDArray[Any]:
        wanted = index[start:stop]
        known = wanted[wanted >= 0]
        if not len(known):
            return np.full((len(wanted), *array.shape[1:]), np.nan, np.float32)
        # one slice, then rows of it: stores on disk are slow at, or unable of, repeated rows
        block = np.asarray(array[int(known.min()) : int(known.max()) + 1])[np.maximum(wanted - known.min(), 0)]
        if len(known) < len(wanted):
            block = block.astype(np.float32)
            block[wanted < 0] = np.nan
        return block

    return piece


def arranged(array: Any, stated: Stated, *, where: str) -> tuple[list[int | None], list[str]]:
    """Which column of a behaviour array (T, c) is which of `BEHAVIOUR`; and a note of what is left out.

    Raises
    ------
    Refused
        Not two columns, and no word of which is which.
    """
    width = int(array.shape[1]) if len(array.shape) == 2 else 0
    said = stated.behaviour_columns or (list(BEHAVIOUR) if width == len(BEHAVIOUR) else [])
    if len(said) != width or not width:
        raise Refused(
            f"behaviour of {where} should have the columns {' and '.join(BEHAVIOUR)}, time along the first axis.",
            found=f"shape {tuple(array.shape)}"
            + (f" for {len(said)} named columns." if stated.behaviour_columns else "."),
            do='name its columns in recordings.json: "behaviour_columns": ["pupil_radius", ...].',
        )
    other = [name for name in said if name not in BEHAVIOUR]
    notes = [f"columns {', '.join(other)} of behaviour are left out"] if other else []
    return [said.index(name) if name in said else None for name in BEHAVIOUR], notes


def columns(piece: Piece, order: list[int | None]) -> Piece:
    """Columns of pieces in another order; None is NaN throughout."""

    def ordered(start: int, stop: int) -> NDArray[Any]:
        block = piece(start, stop)
        out = np.full((len(block), len(order)), np.nan, np.float32)
        for to, of in enumerate(order):
            if of is not None:
                out[:, to] = block[:, of]
        return out

    return ordered


def text(values: Any) -> list[str]:
    """Names as str: bytes are UTF-8, whole numbers have no point."""
    array = np.asarray(values)
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.round(array)).all():
        array = array.astype(np.int64)
    return [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in array.tolist()]
