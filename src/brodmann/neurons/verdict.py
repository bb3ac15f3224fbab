"""What recordings are and what looks odd about them, in words; `brodmann.inspection` puts them on one screen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from brodmann.errors import Refused
from brodmann.neurons import readers, statistics
from brodmann.neurons.readers import Look
from brodmann.neurons.recipe import Clips, Recipe
from brodmann.neurons.source import BEHAVIOUR, PARTS, Recording, Source
from brodmann.neurons.source import open as open_source
from brodmann.progress import Say

_BLOCKS, _FRAMES = 64, 256
"""Responses are described from so many blocks of so many frames."""
_SAME, _SLOWEST_HZ = 0.01, 0.2
_OWN = {"id", "subject", "section", "unit", "x_um", "y_um", "x_mm", "y_mm", "z_mm"}
_ODD = re.compile(
    r"^(?!.*dealt by time).*(gap|missing|not recorded|left out|cannot be had|no (train|valid|test) frames|not known|"
    r"several videos|cut to it)"
)
"""Remarks that matter; others are notes."""
_REPEATS, _MINUTES = 4, 5.0
"""Showings of a clip, and minutes of training, below which scores are rough."""


@dataclass(frozen=True)
class Measured:
    """One recording, measured.

    Parameters
    ----------
    recording : Recording
    head : Look or None
        What its file says of itself.
    dead : int
        Neurons that never answer in the training frames.
    mean, peak : float
        Of the responses, in the units of the file.
    zeros : float
        Share of responses that are 0.
    whole : bool
        Whether responses are whole numbers.
    known : dict of str to float
        Share of frames in which each behaviour was recorded.
    changes : bool
        Whether the video changes at all.
    """

    recording: Recording
    head: Look | None
    dead: int
    mean: float
    peak: float
    zeros: float
    whole: bool
    known: dict[str, float]
    changes: bool


def opened(path: Path) -> tuple[Source, list[Measured]]:
    """Open recordings at their own rate and size, as `brodmann.neurons.open` does, and measure them.

    Parameters
    ----------
    path : Path

    Raises
    ------
    Refused, Corrupt, NoRoom
        See `brodmann.neurons.source.open`; recordings of several rates or sizes.
    """
    heads, wanted = readers.look(path), Clips()
    if heads:
        kinds = [(_rate(one.rate_hz), *one.size) for one in heads]
        if len(set(kinds)) > 1:
            told = [f"{n} of {hz:g} Hz and {h} x {w} px" for (hz, h, w), n in Counter(kinds).most_common(4)]
            rare = [
                one.file for one, kind in zip(heads, kinds, strict=True) if kind != Counter(kinds).most_common(1)[0][0]
            ]
            raise Refused(
                "recordings of one set should have one rate and one size of video.",
                found=f"{', '.join(told)}; not the usual: {', '.join(rare[:5])}.",
                do='resample the others, or list those to read in recordings.json: "files": [...].',
            )
        rate_hz, height, width = kinds[0]
        if min(height, width) < 8:
            raise Refused("videos should have at least 8 x 8 px.", found=f"{height} x {width} in {heads[0].file}.")
        # slower than any microscope: time stamps of another unit, which the reader refuses with the remedy
        rate_hz = rate_hz if rate_hz > _SLOWEST_HZ else wanted.rate_hz
        wanted = Clips(rate_hz=rate_hz, height_px=height, width_px=width)
    source = open_source(Recipe(samples=wanted), path, say=Say(quiet=True))
    named = {one.file: one for one in heads}
    order = [one for one in heads if one.file not in {name for name, _ in source.skipped}]
    same = len(order) == len(source.recordings)
    return source, [
        _measured(one, order[at] if same else named.get(one.id)) for at, one in enumerate(source.recordings)
    ]


def facts(source: Source, looked: Sequence[Measured]) -> list[tuple[str, str]]:
    """Label and value, in reading order."""
    recordings = source.recordings
    animals = Counter(one.subject for one in recordings)
    most = ", ".join(f"{name} ({count})" for name, count in animals.most_common(6)) + ", ..." * (len(animals) > 6)
    heads = [one.head for one in looked if one.head is not None]
    kinds = ", ".join(f"{kind} ({n})" for kind, n in Counter(one.kind for one in heads).items())
    sizes = sorted(len(one.rows) for one in recordings)
    dead = sum(one.dead for one in looked)
    minutes = {part: sum(len(one.frames(part)) / one.rate_hz / 60 for one in recordings) for part in PARTS}
    rates = ", ".join(f"{rate:g}" for rate in sorted({_rate(one.rate_hz) for one in recordings}))
    known = ", ".join(dict.fromkeys(one.rate_from for one in heads))
    stated = "as the data say" if any(one.named_parts for one in heads) else "dealt, for the data do not say"
    found = [
        ("read as", f"recordings: {kinds}; a recipe of neurons fits: neurons-tiny, neurons-sensorium"),
        ("recordings", f"{len(recordings)} of {len(animals)} animal{'s' * (len(animals) > 1)}: {most}"),
        ("neurons", f"{len(source):,}; {_range(sizes)} a recording; {dead:,} dead (never answer in training frames)"),
        ("minutes", f"{', '.join(f'{part} {time:.3g}' for part, time in minutes.items())}; parts {stated}"),
        ("rate", f"{rates} per second, {known}"),
        ("video", _video(source)),
        ("clock", "time stamps: video is brought to the responses" if any(one.stamped for one in heads) else
         "one: frame by frame, video beside responses"),
        ("behaviour", _behaviour(looked)),
        ("repeats", _repeats(recordings, heads)),
        ("responses", _responses(looked)),
        ("places", _places(source)),
        ("space", f"{source.space.name} (mm, axes {source.space.orientation}); origin: {source.space.origin}"),
        ("labels", _labels(source.neurons)),
        ("synapses", _synapses(source.synapses)),
        ("fingerprint", source.fingerprint[:16]),
    ]  # fmt: skip
    notes = [text for text in _remarks(source) if not _ODD.search(text)]
    found += [("note", text) for text in notes[:4]]
    if len(animals) == 1 and len(recordings) > 1:
        found.append(("note", 'to hold out an animal more than one is needed; state "subject" if there are more'))
    return found


def doubts(source: Source, looked: Sequence[Measured]) -> list[str]:
    """What the user should know, and what looks odd."""
    found = [text for text in _remarks(source) if _ODD.search(text)]
    silent = [one.recording.id for one in looked if one.dead == len(one.recording.rows)]
    if silent:
        found.append(f"no neuron ever answers in {', '.join(silent)[:120]}: training skips it. The wrong array?")
    for one in looked:
        if one.dead and one.recording.id not in silent:
            names = np.flatnonzero(statistics.of(one.recording).dead)[:5] + one.recording.rows.start
            some = ", ".join(str(source.neurons["id"].iloc[row]) for row in names)
            found.append(f"{one.dead:,} neurons of {one.recording.id} are dead: {some}. Nothing can be learned of them")
        if not one.changes:
            found.append(f"video of {one.recording.id} never changes. The wrong array?")
    longest = {
        one.id: max(one.trials.loc[one.trials["part"] == "train", "frames"].tolist(), default=0)
        for one in source.recordings
    }
    due = Clips().frames
    short = min(longest.values())
    if short < due:
        found.append(
            f"training trials have at most {short} frames, recipes take clips of {due}: --set samples.frames={short}"
        )
    least = {one.id: len(one.frames("train")) / one.rate_hz / 60 for one in source.recordings}
    few = [name for name, minutes in least.items() if minutes < _MINUTES]
    if few:
        found.append(f"less than {_MINUTES:g} minutes of training in {', '.join(few)[:120]}: readouts will be rough")
    shown = _shown(source.recordings)
    if 1 < shown < _REPEATS:
        found.append(f"test clips are shown {shown} times: CC_norm will be rough with fewer than {_REPEATS}")
    if source.synapses is not None and len(source.synapses) and (source.synapses["synapses"] > 0).all():
        found.append("all pairs of synapses are connected: add those that were looked at and are not, with 0")
    return found


def _measured(one: Recording, head: Look | None) -> Measured:
    total = len(one.responses)
    starts = np.unique(np.linspace(0, max(total - _FRAMES, 0), _BLOCKS).astype(np.int64))
    size = mean = zeros = 0.0
    peak, whole = 0.0, True
    for start in starts.tolist():
        block = np.asarray(one.responses[start : start + _FRAMES])
        size, mean, zeros = (
            size + block.size,
            mean + float(block.sum(dtype=np.float64)),
            zeros + float((block == 0).sum()),
        )
        peak, whole = max(peak, float(block.max(initial=0))), whole and bool((block == np.rint(block)).all())
    known = {
        name: float(np.isfinite(values).mean())
        for name, values in zip(
            (*BEHAVIOUR, "gaze"), (*np.asarray(one.behaviour).T, np.asarray(one.pupil)[:, 0]), strict=True
        )
    }
    some = np.asarray(one.video[np.linspace(0, len(one.video) - 1, 32).astype(np.int64)])
    dead = int(statistics.of(one).dead.sum()) if len(one.frames("train")) else 0
    size = max(size, 1.0)
    return Measured(one, head, dead, mean / size, peak, zeros / size, whole, known, bool(some.min() < some.max()))


def _rate(rate_hz: float) -> float:
    """The default rate where it is that, else the rate to four digits."""
    return Clips().rate_hz if abs(rate_hz / Clips().rate_hz - 1) <= _SAME else float(f"{rate_hz:.4g}")


def _range(values: Sequence[int]) -> str:
    return " to ".join(f"{value:,}" for value in dict.fromkeys((values[0], values[-1])))


def _video(source: Source) -> str:
    height, width = source.recordings[0].video.shape[1:]
    rate, due = _rate(source.recordings[0].rate_hz), Clips()
    frames = sum(len(one.video) for one in source.recordings)
    wrong = [
        f"samples.{name}={value:g}"
        for name, value, wanted in (
            ("height_px", height, due.height_px), ("width_px", width, due.width_px), ("rate_hz", rate, due.rate_hz),
        )
        if value != wanted
    ]  # fmt: skip
    takes = f"neurons-tiny needs --set {' '.join(wrong)}" if wrong else "neurons-tiny takes it as it is"
    return f"{height} x {width} px (height x width), {frames:,} frames; {takes}"


def _behaviour(looked: Sequence[Measured]) -> str:
    said: list[str] = []
    for name in (*BEHAVIOUR, "gaze"):
        have = [one.known[name] for one in looked if one.known[name]]
        if not have:
            said.append(f"{name} missing")
            continue
        of = f" of {len(have)} of {len(looked)} recordings" if len(have) < len(looked) else ""
        lost = 1 - float(np.mean(have))
        said.append(f"{name}{of}" + (f" ({lost:.2%} NaN)" if lost else ""))
    return ", ".join(said)


def _shown(recordings: Sequence[Recording]) -> int:
    """How often a test clip is shown, median; 0 without test."""
    counts = [one.trials.loc[one.trials["part"] == "test", "clip"].value_counts() for one in recordings]
    every = np.concatenate([np.zeros(0, np.int64), *(one.to_numpy(np.int64) for one in counts)])
    return int(np.median(every)) if len(every) else 0


def _repeats(recordings: Sequence[Recording], heads: Sequence[Look]) -> str:
    clips = {str(clip) for one in recordings for clip in one.trials.loc[one.trials["part"] == "test", "clip"]}
    how = "named by the data and compared" if any(one.named_clips for one in heads) else "recognised by their frames"
    domains = sorted({str(name) for one in recordings for name in one.trials["domain"]})
    kinds = f"; kinds of stimulus: {', '.join(domains[:6])}" if domains != ["stimulus"] else ""
    return f"{len(clips):,} test clips, each shown {_shown(recordings):,} times (median), {how}{kinds}"


def _responses(looked: Sequence[Measured]) -> str:
    mean, zeros = (float(np.mean([getattr(one, name) for one in looked])) for name in ("mean", "zeros"))
    kind = "whole numbers: counts" if all(one.whole for one in looked) else "not whole: deconvolved activity or rates"
    return f"mean {mean:.3g}, largest {max(one.peak for one in looked):.4g}, {zeros:.0%} zeros, no NaN; {kind}"


def _places(source: Source) -> str:
    planes = source.neurons["section"].nunique()
    if source.unit != "um":
        return f"not known: neurons lie on a grid; {planes:,} planes"
    sides = [np.ptp(plane[["x_um", "y_um"]].to_numpy(), axis=0) for _, plane in source.neurons.groupby("section")]
    width, height = np.max(sides, axis=0).tolist()
    return f"um, in {planes:,} plane{'s' * (planes > 1)} of up to {width:,.0f} x {height:,.0f} um"


def _labels(neurons: pd.DataFrame) -> str:
    names = [str(name) for name in neurons.columns if name not in _OWN]
    shown = [
        name if pd.api.types.is_numeric_dtype(neurons[name]) else f"{name} ({neurons[name].nunique()})"
        for name in names[:10]
    ]
    return ", ".join(shown) + ", ..." * (len(names) > 10) if shown else "none"


def _synapses(pairs: pd.DataFrame | None) -> str:
    if pairs is None:
        return "none"
    connected = pairs["synapses"] > 0
    return (
        f"{len(pairs):,} pairs of {pairs['pre'].nunique():,} pre-synaptic neurons, {int(connected.sum()):,} connected, "
        f"{int(pairs['synapses'].sum()):,} synapses"
    )


def _remarks(source: Source) -> list[str]:
    """Remarks on the set, and those on recordings: equal ones once, with how many say so."""
    own: dict[str, list[str]] = {}
    for one in source.recordings:
        for text in one.remarks:
            own.setdefault(text, []).append(one.id)
    every = len(source.recordings)
    said = [
        f"{ids[0]}: {text}"
        if len(ids) == 1 and every > 1
        else f"{text} ({len(ids)} recordings)"
        if len(ids) > 1
        else text
        for text, ids in own.items()
    ]
    return [*source.remarks, *said]
