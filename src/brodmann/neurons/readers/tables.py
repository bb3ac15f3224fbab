"""Tables of neurons and of trials: which column is which, and trials that make sense."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.neurons import timing
from brodmann.neurons.readers.raw import Trial, picked, text
from brodmann.neurons.readers.sidecar import NAME, Stated

_NEURONS = {
    "unit": ("id", "unit", "unit_id", "unit_ids"),
    "x": ("x_um",),
    "y": ("y_um",),
    "z": ("z_um",),
    "plane": ("plane",),
}
_TRIALS = {
    "clip": ("clip", "stimulus_name", "stimulus", "condition_hash"),
    "domain": ("domain", "stimulus_type"),
    "part": ("part", "tier", "tiers", "split"),
}
_OURS = {"unit": "unit", "x": "x_um", "y": "y_um", "z": "z_um", "plane": "plane"}


def neurons(columns: Mapping[str, Any], n: int, stated: Stated, *, where: str) -> pd.DataFrame:
    """Table of n neurons with our names for the columns that we know.

    Parameters
    ----------
    columns : mapping of str to (n,) array
    n : int
        Columns of the responses.
    stated : Stated
    where : str
        The file, for messages.

    Raises
    ------
    Refused
        A column of another length, or one that is named and absent.
    """
    wrong = [f"{name} {np.shape(values)}" for name, values in columns.items() if np.shape(values) != (n,)]
    if wrong:
        raise Refused(
            f"columns of neurons of {where} should have {n:,} rows, one per column of the responses.",
            found=", ".join(wrong[:5]) + ".",
        )
    named = {key: _which(columns, key, candidates, stated, where) for key, candidates in _NEURONS.items()}
    found = named["unit"]
    table: dict[str, Any] = {"unit": [str(row) for row in range(n)] if found is None else text(columns[found])}
    for name, values in columns.items():
        key = next((key for key, at in named.items() if at == name), None)
        if key != "unit":
            numeric = np.asarray(values).dtype.kind in "uif"
            words = np.asarray(values) if numeric else text(values)
            table[_OURS[key] if key else str(name)] = text(values) if key == "plane" else words
    return pd.DataFrame(table, index=range(n))


def words(columns: Mapping[str, Any], n: int, stated: Stated, *, where: str) -> dict[str, list[str]]:
    """Clip, domain and part of n trials, as far as the columns say.

    Raises
    ------
    Refused
        A column that is named and absent, or a part that nobody explained.
    """
    out: dict[str, list[str]] = {}
    for key, candidates in _TRIALS.items():
        name = _which(columns, key, candidates, stated, where)
        if name is not None:
            out[key] = text(columns[name])
            if len(out[key]) != n:
                raise Refused(f"trials of {where} should have {n:,} rows.", found=f"{len(out[key]):,} in {name}.")
    if "part" in out:
        known = {word: stated.part(word, where=where) for word in dict.fromkeys(out["part"])}
        out["part"] = [known[word] for word in out["part"]]
    return out


def described(trials: list[Trial], said: Mapping[str, list[str]], rows: list[int], notes: list[str]) -> list[Trial]:
    """Trials with what the table says of them; those of part "none" are left out."""
    out: list[Trial] = []
    left = 0
    for trial, row in zip(trials, rows, strict=True):
        part = said["part"][row] if "part" in said else ""
        if part == "none":
            left += 1
            continue
        clip = said["clip"][row] if "clip" in said else ""
        domain = (said["domain"][row] if "domain" in said else "") or "stimulus"
        out.append(replace(trial, clip=clip or None, domain=domain, part=part))
    if left:
        notes.append(f"{left:,} trials belong to no part and are left out")
    return out


def runs(good: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches (start, stop) of two or more samples that are good."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]


def on_screen(
    video: Any,
    video_s: NDArray[np.float64],
    response_s: NDArray[np.float64],
    spans: list[tuple[int, int]] | None,
    notes: list[str],
    *,
    where: str,
) -> tuple[list[tuple[int, int, Any]], list[int]]:
    """Trials on the clock of the responses, each with its pieces of the video.

    Parameters
    ----------
    video : array (F, ...)
    video_s : (F,) float64
    response_s : (T,) float64
    spans : list of (start, stop) or None
        Samples of the responses that make a trial; stretches without a gap if None.
    notes : list of str
        What is left out is added here.
    where : str
        The file, for messages.

    Returns
    -------
    pieces : list of (start, stop, Piece)
    rows : list of int
        Which of ``spans`` each is.

    Raises
    ------
    Refused
        Clocks that never meet, or of different units.
    """
    timing.check_clocks(video_s, response_s, what="video", where=where)
    index = timing.held(video_s, response_s)
    broken = np.zeros(len(response_s), np.bool_)
    broken[[at + 1 for at, _ in timing.gaps(response_s)]] = True
    if spans is None:
        # a stretch ends where the video has a hole, and where the responses have one
        cuts = [0, *np.flatnonzero(broken).tolist(), len(response_s)]
        spans = [(a + s, a + t) for a, b in itertools.pairwise(cuts) for s, t in runs(index[a:b] >= 0)]
    out: list[tuple[int, int, Any]] = []
    rows: list[int] = []
    left, trimmed = 0, 0
    for row, (start, stop) in enumerate(spans):
        shown = np.flatnonzero(index[start:stop] >= 0)
        if len(shown) < 2 or broken[start + 1 + shown[0] : start + shown[-1] + 1].any():
            left += 1
            continue
        first, last = start + int(shown[0]), start + int(shown[-1]) + 1
        if len(shown) < last - first:
            left += 1
            continue
        trimmed += (first > start) or (last < stop)
        out.append((first, last, picked(video, index[first:last])))
        rows.append(row)
    if left:
        notes.append(f"{left:,} trials have a gap in video or responses, or no video, and are left out")
    if trimmed:
        notes.append(f"{trimmed:,} trials reach beyond the video and are cut to it")
    return out, rows


def _which(columns: Mapping[str, Any], key: str, candidates: tuple[str, ...], stated: Stated, where: str) -> str | None:
    named = getattr(stated.keys, key)
    if named is None:
        return next((name for name in candidates if name in columns), None)
    if named not in columns:
        raise Refused(
            f"{where} should have the column '{named}', which {NAME} names as {key}.",
            found=", ".join(map(str, columns)) or "no columns.",
        )
    return named
