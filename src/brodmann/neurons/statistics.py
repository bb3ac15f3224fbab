"""Statistics of the training frames, and what the network is given by them: no number of a test frame enters.

Responses are divided by their mean over the training frames, behaviour is z-scored on them (Wang et al., Nature 640,
2025, Methods). What was not recorded becomes 0, the mean: NaN and infinity never leave this module.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.neurons.source import BEHAVIOUR, Recording

LIMIT_SD = 10.0
"""Standardised behaviour is clipped here: a lost pupil or a wheel that slips is not an event of the brain."""
NEVER = "never respond in the training frames"
"""Words of the remark on dead neurons."""
_BYTES = 1 << 26
_COLUMNS = (*BEHAVIOUR, "pupil_x", "pupil_y")


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the training frames of a recording say; n neurons.

    Parameters
    ----------
    mean : (n,) float32
        Mean response; NaN where there is no training frame.
    dead : (n,) bool
        Neurons that never respond in the training frames: they stay rows, and their responses are divided by 1.
    scale : (n,) float32
        What responses are divided by: ``mean``, or 1 for the dead.
    behaviour, pupil : (2, 2) float32
        Mean (row 0) and standard deviation (row 1) of each column over its finite values. A column that never changes
        has SD 1, one that was never recorded mean 0 and SD 1, one that was recorded only in other parts SD infinity.
    remarks : list of str
        What the user should know of it.
    """

    mean: NDArray[np.float32]
    dead: NDArray[np.bool_]
    scale: NDArray[np.float32]
    behaviour: NDArray[np.float32]
    pupil: NDArray[np.float32]
    remarks: list[str]


_known: weakref.WeakKeyDictionary[Recording, Statistics] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def of(recording: Recording) -> Statistics:
    """Statistics over the training frames of a recording; computed once, in blocks of at most 64 MB."""
    with _lock:
        if recording not in _known:
            _known[recording] = _computed(recording)
        return _known[recording]


def standardised(recording: Recording, frames: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Behaviour (k, 2) and pupil (k, 2) float32 at k frames: z-scored on training frames, missing 0, at most 10 SD."""
    known = of(recording)
    return _scored(recording.behaviour[frames], known.behaviour), _scored(recording.pupil[frames], known.pupil)


def recorded(recording: Recording, frames: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where behaviour (k, 2) and pupil (k, 2) were recorded: the mask of `standardised`."""
    return np.isfinite(recording.behaviour[frames]), np.isfinite(recording.pupil[frames])


def responses(recording: Recording, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """Responses (k, n) float32 at k frames, in units of each neuron's mean over the training frames."""
    return np.asarray(recording.responses[frames] / of(recording).scale, np.float32)


def _scored(values: NDArray[np.float32], moments: NDArray[np.float32]) -> NDArray[np.float32]:
    # in float64: a finite float32 less its mean may overflow
    scored = (np.asarray(values, np.float64) - moments[0]) / moments[1]
    clipped = np.clip(scored, -LIMIT_SD, LIMIT_SD)
    return np.where(np.isfinite(values), clipped, 0).astype(np.float32)


def _computed(recording: Recording) -> Statistics:
    frames = recording.frames("train")
    n = recording.responses.shape[1]
    total = np.zeros(n)
    step = max(_BYTES // max(8 * n, 1), 1)
    for start in range(0, len(frames), step):
        block = recording.responses[frames[start : start + step]]
        if block.size and not block.min() >= 0:
            raise Refused(
                f"responses of {recording.id} should be rates or counts, zero or more.",
                found="negative values, or NaN, within training trials.",
                cause="traces that were not deconvolved, or trials where nothing was recorded.",
                do="deconvolve them, or leave those trials out.",
            )
        total += block.sum(0, dtype=np.float64)
    mean = (total / len(frames) if len(frames) else np.full(n, np.nan)).astype(np.float32)
    dead = ~(mean > 0)
    remarks: list[str] = []
    if len(frames) and dead.any():
        some = ", ".join(f"{row:,}" for row in np.flatnonzero(dead)[:5])
        remarks.append(
            f"{recording.id}: {int(dead.sum()):,} of {n:,} neurons {NEVER} "
            f"(columns {some}{' ...' if dead.sum() > 5 else ''}); they stay, but nothing can be learned of them"
        )
    moments: list[NDArray[np.float32]] = []
    columns = iter(_COLUMNS)
    for array in (recording.behaviour, recording.pupil):
        found = np.array([[0.0, 0.0], [1.0, 1.0]])
        values: NDArray[Any] = np.asarray(array[frames], np.float64)
        for at in range(2):
            name, finite = next(columns), values[np.isfinite(values[:, at]), at]
            if not len(finite):
                remarks.append(
                    f"{recording.id}: {name} was not recorded in the training frames; the network is given 0"
                )
                # values elsewhere have nothing to be compared with: a scale of infinity makes them 0, too
                found[1, at] = np.inf if np.isfinite(array[:, at]).any() else 1.0
                continue
            deviation = float(finite.std())
            found[:, at] = finite.mean(), deviation if deviation > 1e-6 * abs(float(finite.mean())) else 1.0
        moments.append(found.astype(np.float32))
    return Statistics(mean, dead, np.where(dead, 1, mean).astype(np.float32), moments[0], moments[1], remarks)
