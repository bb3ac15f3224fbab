"""Sensorium folders (Turishcheva et al., 2023, arXiv 2305.19654): a file per trial and kind, time along the last axis.

``data/{videos,responses,behavior,pupil_center}/<trial>.npy``: videos (H, W, T), responses (n, T), behavior (2, T) with
dilation of the pupil and speed of the treadmill, pupil_center (2, T); padded with NaN to equal length. ``meta/trials/
tiers.npy`` names a tier per trial, ``meta/neurons/*.npy`` hold a row per neuron.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.neurons import timing
from brodmann.neurons.readers import tables
from brodmann.neurons.readers.raw import Piece, Raw, Trial, arranged, columns, load, names, stated_rate
from brodmann.neurons.readers.sidecar import Stated

RATE_HZ = 30.0
"""Of all sets of the competition."""
_ANIMAL = re.compile(r"(?:dynamic|static)(\d+)-\d+-\d+")
_KINDS = ("videos", "responses", "behavior", "pupil_center")
_COORDINATES = "cell_motor_coordinates"


def is_folder(path: Path) -> bool:
    """Whether a folder is laid out like this."""
    return path.is_dir() and (path / "data").is_dir() and (path / "meta").is_dir()


def read(path: Path, stated: Stated) -> Raw:
    """Open one recording's folder.

    Raises
    ------
    Refused
        No videos; arrays of one trial that differ in length; fewer tiers than trials; Python objects.
    Corrupt
        A file cut short.
    """
    folder = path / "data" / "videos"
    if (path / "data" / "images").is_dir():
        raise Refused(f"{path.name} should hold videos.", found="images: a static set.", do="give a dynamic set.")
    numbers = sorted(int(file.stem) for file in folder.glob("*.npy") if file.stem.isdecimal())
    if not numbers:
        raise Refused(f"{path.name} should hold trials in data/videos/<trial>.npy.", found="none.")
    notes: list[str] = []
    said = tables.words(_trial_columns(path, stated, numbers), numbers[-1] + 1, stated, where=path.name)
    if "part" not in said:
        notes.append("no tiers: parts are dealt")
    trials: list[Trial] = []
    hidden = 0
    neurons = 0
    kept: list[int] = []
    for number in numbers:
        trial, n = _trial(
            path, number, stated, may_hide=not said or said.get("part", [""] * (number + 1))[number] == "test"
        )
        neurons = neurons or n
        if trial is None:
            hidden += 1
            continue
        trials.append(trial)
        kept.append(number)
    if hidden:
        notes.append(f"{hidden:,} trials of hidden tiers have no responses and are left out")
    if not trials:
        raise Refused(f"{path.name} should hold responses.", found=f"none in {len(numbers):,} trials.")
    if not any(trial.behaviour for trial in trials) and not any(trial.pupil for trial in trials):
        notes.append("no behaviour")
    trials = tables.described(trials, said, kept, notes)
    animal = _ANIMAL.match(path.name)
    id, subject = names(path, stated, subject=animal[1] if animal else None)
    rate_hz = stated_rate(path, stated) or RATE_HZ
    return Raw(id, subject, path.name, rate_hz, trials, _neurons(path, neurons, stated, notes), notes=notes)


def _trial_columns(path: Path, stated: Stated, numbers: list[int]) -> dict[str, NDArray[Any]]:
    home = path / "meta" / "trials"
    wanted = {name for name in ("tiers", stated.keys.clip, stated.keys.domain, stated.keys.part) if name}
    found = {file.stem: load(file, mapped=False) for file in sorted(home.glob("*.npy")) if file.stem in wanted}
    short = [name for name, values in found.items() if values.ndim != 1 or len(values) <= numbers[-1]]
    if short:
        raise Refused(
            f"meta/trials/{short[0]}.npy of {path.name} should have a row per trial.",
            found=f"shape {found[short[0]].shape}, but a trial {numbers[-1]:,}.",
        )
    return {name: values[: numbers[-1] + 1] for name, values in found.items()}


def _trial(path: Path, number: int, stated: Stated, *, may_hide: bool) -> tuple[Trial | None, int]:
    """One trial, and its number of neurons; None and 0 if its responses are hidden."""
    files = {kind: path / "data" / kind / f"{number}.npy" for kind in _KINDS}
    where = f"{path.name}, trial {number}"
    if not files["responses"].is_file():
        if may_hide:
            return None, 0
        raise Refused(f"{where} should have responses.", found="no file.", do="remove its video, or add responses.")
    arrays = {kind: load(file) for kind, file in files.items() if file.is_file()}
    for kind, dimensions in (("videos", (3, 4)), ("responses", (2,)), ("behavior", (2,)), ("pupil_center", (2,))):
        if kind in arrays and arrays[kind].ndim not in dimensions:
            raise Refused(
                f"{kind} of {where} should have {dimensions[0]} axes, time last.", found=f"{arrays[kind].shape}."
            )
    timing.check_lengths({kind: int(array.shape[-1]) for kind, array in arrays.items()}, where=where)
    video, responses = arrays["videos"], arrays["responses"]
    frames = int(video.shape[-1])
    if video.dtype.kind == "f" and frames:
        # one pixel tells where the padding begins
        shown = np.flatnonzero(~np.isnan(video[(0,) * (video.ndim - 1)]))
        frames = int(shown[-1]) + 1 if len(shown) else 0
    given = np.asarray(responses[:, :frames], np.float32)
    if may_hide and (not np.nan_to_num(given).any()):
        return None, 0
    behaviour = None
    if "behavior" in arrays:
        order, _ = arranged(arrays["behavior"].T, stated, where=where)
        behaviour = columns(_piece(files["behavior"]), order)
    pupil = _piece(files["pupil_center"]) if "pupil_center" in arrays else None
    trial = Trial(frames, _piece(files["videos"]), _piece(files["responses"]), behaviour, pupil)
    return trial, int(responses.shape[0])


def _piece(file: Path) -> Piece:
    """Pieces of a file whose time runs along the last axis; opened anew, for there are thousands."""
    return lambda start, stop: np.moveaxis(load(file)[..., start:stop], -1, 0)


def _neurons(path: Path, n: int, stated: Stated, notes: list[str]) -> pd.DataFrame:
    found: dict[str, NDArray[Any]] = {}
    for file in sorted((path / "meta" / "neurons").glob("*.npy")):
        try:
            values = load(file, mapped=False)
        except Refused:
            if file.stem in {"unit_ids", _COORDINATES}:
                raise
            notes.append(f"meta/neurons/{file.name} holds Python objects and is left out")
            continue
        if file.stem == _COORDINATES and values.ndim == 2 and values.shape[1] in {2, 3}:
            found |= dict(zip(("x_um", "y_um", "z_um"), np.asarray(values, np.float64).T, strict=False))
        elif values.ndim == 1:
            found[file.stem] = values
    return tables.neurons(found, n, stated, where=path.name)
