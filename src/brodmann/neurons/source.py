"""Where recordings come from: what animals saw, what they did, how their neurons answered; mapped, not loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.neurons.recipe import Recipe
from brodmann.space import Space

if TYPE_CHECKING:
    from brodmann.progress import Say

BEHAVIOUR = ("pupil_radius", "running")
"""Columns of ``behaviour``; a column that was not recorded is NaN throughout."""
PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Recording:
    """One recording: one animal, one rate, one set of neurons.

    Every array may be memory-mapped. Time runs along axis 0; ``T`` frames of responses, ``F`` frames of video (repeated
    clips are stored once), ``n`` neurons.

    Parameters
    ----------
    id : str
        Unique in its source, such as ``"B1/scan1"``.
    subject : str
        The animal.
    rows : range
        Its neurons' rows in `Source.neurons`.
    rate_hz : float
        Frames per second of video, responses and behaviour alike.
    trials : DataFrame
        A row per trial, in order of time: ``clip`` (str, equal for repeats of one video), ``video`` (first frame in
        ``video``), ``frame`` (first frame in the other arrays), ``frames`` (length), ``domain`` (kind of stimulus),
        ``part`` ("train", "valid", "test"). Trials do not overlap.
    video : (F, H, W) uint8
        Grey values as shown.
    responses : (T, n) float32
        Not negative, in the units of the file; NaN only where ``trials`` do not reach.
    behaviour : (T, 2) float32
        `BEHAVIOUR`; NaN is missing.
    pupil : (T, 2) float32
        Centre of the pupil, x and y in the units of the file; NaN is missing.
    remarks : list of str
        What the user should know about how it was read.
    """

    id: str
    subject: str
    rows: range
    rate_hz: float
    trials: pd.DataFrame
    video: NDArray[np.uint8]
    responses: NDArray[np.float32]
    behaviour: NDArray[np.float32]
    pupil: NDArray[np.float32]
    remarks: list[str] = field(default_factory=list)

    def frames(self, part: str) -> NDArray[np.int64]:
        """Frames (k,) of ``responses`` that belong to one part, ascending."""
        chosen = self.trials[self.trials["part"] == part]
        runs = [
            np.arange(start, start + length) for start, length in zip(chosen["frame"], chosen["frames"], strict=True)
        ]
        return np.concatenate([np.zeros(0, np.int64), *runs])


@dataclass(frozen=True, eq=False)
class Source:
    """Recordings of one data set.

    Parameters
    ----------
    space : Space
        Space of the neurons' ``x_mm, y_mm, z_mm``.
    name : str
        Name for messages and reports.
    fingerprint : str
        Hash of the content.
    recordings : list of Recording
    skipped : list of (str, str)
        Files, recordings and neurons left out, and why.
    neurons : DataFrame
        A row per neuron, recording by recording: ``id`` (str, unique, ``recording/unit``), ``subject``, ``section``
        (the recording, or its imaging plane), ``x_um, y_um`` in the plane, ``x_mm, y_mm, z_mm`` in ``space``; further
        columns are what is known of it (area, type, layer, ...).
    synapses : DataFrame or None
        Where wiring is known: ``pre``, ``post`` (ids), ``synapses`` (count, 0 for pairs that were looked at and are not
        connected), ``distance_um`` and what else is known of a pair.
    unit : {"um", "arbitrary"}
        "arbitrary": the places of the neurons are not known; they lie on a grid, and no map claims a scale.
    remarks : list of str
        What the user should know about how the data were read.
    """

    space: Space
    name: str
    fingerprint: str
    recordings: list[Recording]
    skipped: list[tuple[str, str]]
    neurons: pd.DataFrame
    synapses: pd.DataFrame | None = None
    unit: Literal["um", "arbitrary"] = "um"
    remarks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.neurons)


def open(recipe: Recipe, data: str | Path | Sequence[str | Path] | Source, *, say: Say | None = None) -> Source:
    """Open recordings: converts them once into a chunked cache, afterwards maps that.

    The cache lies in ``$BRODMANN_CACHE`` or ``~/.cache/brodmann``; its name is a hash of the input's bytes and of the
    settings that change what is read. It may be deleted at any time.

    Parameters
    ----------
    recipe : Recipe
        Rate, size of the video, and how time is cut into parts where the data do not say.
    data : path, sequence of paths, or Source
        ``.nwb``; a Sensorium folder (``data/`` and ``meta/``); ``.npz``; ``.zarr``; a folder of these; a
        ``recordings.json`` beside them.
    say : Say, optional
        Where progress and remarks go; standard error by default.

    Raises
    ------
    Refused
        Nothing readable; a wrong rate, size, length or kind of number; time that does not run forward; no training
        frames; negative responses.
    NoRoom
        The cache does not fit on its disk.
    """
    if isinstance(data, Source):
        return data
    from brodmann.neurons import readers
    from brodmann.progress import Say as Speaker

    return readers.read(recipe, cast("Any", data), say=say or Speaker())
