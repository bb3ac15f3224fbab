"""``recordings.json``: what files of recordings do not say, in one strict file.

It lies in the folder of the data, or beside one file as ``<file>.recordings.json``, which goes first. All keys are
optional::

    {"rate_hz": 30, "rgb": "luminance", "space": "ccf_v3",
     "recordings": [{"file": "a.npz", "id": "M1/scan1", "subject": "M1", "to_mm": [[0.001, 0, 1.2], ...]}],
     "behaviour_columns": ["running", "pupil_radius"],
     "parts": {"oracle": "test", "bonus": "none"},
     "keys": {"video": "movie", "video_time": "flips", "clip": "movie_name"}}

``keys`` says which array (``.npz``, ``.zarr``), object (NWB) or column is which; ``to_mm`` maps ``(x_um, y_um, 1)`` to
mm in ``space``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from brodmann import sidecar
from brodmann.errors import Refused
from brodmann.neurons.source import BEHAVIOUR
from brodmann.settings import settings
from brodmann.sidecar import NamedSpace, Positive, Row, inside, named_space
from brodmann.space import Space

NAME = "recordings.json"
LIMIT_BYTES = 10_000_000
Part = Literal["train", "valid", "test", "none"]
TIERS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
    "oracle": "test",
    "none": "none",
}
"""Words that data sets use for parts; ``live_test...`` and ``final_test...`` of Sensorium are test, too."""

__all__ = ["LIMIT_BYTES", "NAME", "Entry", "Keys", "Stated", "check", "inside", "read_stated", "stated_for"]


@settings
class Entry:
    """One recording."""

    file: str
    """Name of its file or folder."""
    id: str | None = None
    """Its name; that of the file without its ending by default."""
    subject: str | None = None
    """The animal; files of one animal name the same."""
    rate_hz: Positive | None = None
    to_mm: tuple[Row, Row, Row] | None = None
    """(x_um, y_um, 1) -> mm in ``space``."""


@settings
class Keys:
    """Names of arrays, of objects in NWB, and of columns; what is not named is looked for."""

    video: str | None = None
    responses: str | None = None
    pupil: str | None = None
    """Position of the pupil."""
    pupil_radius: str | None = None
    """In NWB; elsewhere a column of ``behaviour``."""
    running: str | None = None
    """In NWB; elsewhere a column of ``behaviour``."""
    behaviour: str | None = None
    video_time: str | None = None
    """Array of time stamps in seconds; so the next two."""
    response_time: str | None = None
    behaviour_time: str | None = None
    """Of behaviour and pupil."""
    clip: str | None = None
    """Column of trials: equal for repeats of one video."""
    domain: str | None = None
    """Column of trials: the kind of stimulus."""
    part: str | None = None
    """Column of trials: train, valid or test."""
    unit: str | None = None
    """Column of neurons: their names, unique in the recording."""
    x: str | None = None
    """Column of neurons: place in the plane, um; so ``y`` and ``z`` (depth)."""
    y: str | None = None
    z: str | None = None
    plane: str | None = None
    """Column of neurons: the imaging plane."""


@settings
class Stated:
    """Content of a ``recordings.json``."""

    files: list[str] | None = None
    """Files to read; all of the folder by default."""
    name: str | None = None
    """Name for messages and reports."""
    rate_hz: Positive | None = None
    """Frames per second, where the file does not say; goes before what it says."""
    subject: str | None = None
    """The animal of all recordings; or "file": each file is one animal."""
    rgb: Literal["luminance"] | None = None
    """What to do with colour: "luminance" keeps 0.299 R + 0.587 G + 0.114 B (Rec. 601)."""
    behaviour_columns: list[str] | None = None
    """What the columns of ``behaviour`` are: "pupil_radius", "running"; other names are left out."""
    parts: dict[str, Part] = pydantic.Field(default_factory=dict)
    """Words of the data for parts -> train, valid, test, none (left out)."""
    space: str | NamedSpace | None = None
    """Space of ``to_mm`` and of columns ``x_mm, y_mm, z_mm`` of neurons."""
    synapses: str | None = None
    """CSV of synapses in the folder; ``synapses.csv`` by default, if it is there. See `synapses`."""
    keys: Keys = Keys()
    recordings: list[Entry] = pydantic.Field(default_factory=list)

    def entry(self, file: str) -> Entry | None:
        """What is said of a file."""
        return next((entry for entry in self.recordings if entry.file == file), None)

    def named_space(self) -> Space | None:
        """Space in which neurons are placed; None when they are not registered.

        Raises
        ------
        Refused
            Unknown name, or a known name with another meaning.
        """
        return named_space(self.space, where=NAME)

    def part(self, word: str, *, where: str) -> Part | Literal[""]:
        """Part that a word of the data stands for; "" if it is empty.

        Raises
        ------
        Refused
            A word that nobody explained.
        """
        if word in self.parts:
            return self.parts[word]
        plain = word.strip().lower()
        if plain in {"", "nan"}:
            return ""
        if plain.startswith(("live_test", "final_test")):
            return "test"
        if plain not in TIERS:
            raise Refused(
                f"parts of {where} should be known words: {', '.join(TIERS)}.",
                found=f"'{word}'.",
                do=f'say what it means in {NAME}: "parts": {{"{word}": "test"}}.',
            )
        return TIERS[plain]


def stated_for(path: Path) -> Stated:
    """What is said of a file or folder: ``<file>.recordings.json``, else ``recordings.json`` of its folder."""
    candidates = [path.with_name(f"{path.name}.{NAME}"), path / NAME, path.parent / NAME]
    return next((read_stated(candidate) for candidate in candidates if candidate.is_file()), Stated())


def read_stated(path: Path) -> Stated:
    """Parse and check a ``recordings.json``.

    Raises
    ------
    Refused
        Listing each unknown key or wrong value with its path.
    """
    stated = sidecar.read(path, Stated, what="recordings", limit_bytes=LIMIT_BYTES)
    check(stated, where=path.name)
    return stated


def check(stated: Stated, *, where: str = NAME) -> None:
    """Refuse statements that do not fit each other."""
    for key in ("file", "id"):
        named = [getattr(entry, key) for entry in stated.recordings if getattr(entry, key) is not None]
        if len(set(named)) < len(named):
            twin = next(one for one in named if named.count(one) > 1)
            raise Refused(f"{where} should list each {key} once.", found=f"'{twin}' twice.")
    columns = stated.behaviour_columns or []
    if stated.behaviour_columns is not None and (len(set(columns)) < len(columns) or not set(columns) & set(BEHAVIOUR)):
        raise Refused(
            f'"behaviour_columns" of {where} should name {" and ".join(BEHAVIOUR)}, each once.',
            found=", ".join(columns) or "nothing.",
        )
    placed = [entry for entry in stated.recordings if entry.to_mm is not None]
    if placed and stated.named_space() is None:
        raise Refused(f'{where}: "to_mm" needs a space.', found="none.", do='name it: "space": "ccf_v3".')
    for entry in placed:
        sidecar.check_transform(np.array(entry.to_mm, np.float64), where=entry.file)
