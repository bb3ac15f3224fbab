"""Plain arrays in a ``.npz`` or ``.zarr``: the format to write when there is no other.

Time runs along the first axis; text is of fixed width. Only ``video`` and ``responses`` must be there, and a rate::

    video (F, H, W) uint8          responses (T, n)                 rate_hz ()
    behaviour (T, 2)               pupil radius, running            pupil (T, 2)   x, y
    trials/frame, trials/frames    first response and length of each trial; trials/video its first frame of video
    trials/clip, trials/domain, trials/part
    neurons/id, neurons/x_um, neurons/y_um, neurons/z_um, neurons/plane, and what else is known, such as neurons/area
    subject ()                     the animal

Instead of a rate: ``video_time_s`` (F,), ``response_time_s`` (T,) and ``behaviour_time_s`` (B,); video and behaviour
are then brought to the clock of the responses, and ``trials/video`` is not needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.neurons import timing
from brodmann.neurons.readers import stores, tables
from brodmann.neurons.readers.raw import Piece, Raw, Trial, arranged, columns, names, picked, rows, stated_rate, text
from brodmann.neurons.readers.sidecar import NAME, Stated

_ALSO = {"behaviour": "behavior", "behaviour_time_s": "behavior_time_s"}


def read(path: Path, stated: Stated, scratch: Path) -> Raw:
    """Open a ``.npz`` or ``.zarr``.

    Parameters
    ----------
    path : Path
    stated : Stated
    scratch : Path
        Folder for compressed arrays that have to be unpacked.

    Raises
    ------
    Refused
        No video or responses, no rate, lengths that differ, trials that overlap or lead out of the arrays.
    Corrupt
        Cut short.
    """
    store, close = stores.zarr(path) if path.is_dir() else stores.npz(path, scratch)
    try:
        return _Arrays(path, stated, store).raw(close)
    except BaseException:
        close()
        raise


class _Arrays:
    """Arrays of one file by meaning."""

    def __init__(self, path: Path, stated: Stated, store: Mapping[str, Any]) -> None:
        self.path, self.stated, self.store, self.file = path, stated, store, path.name
        self.video, self.responses = self.need("video"), self.need("responses")
        if len(self.responses.shape) != 2 or len(self.video.shape) < 3:
            raise Refused(
                f"{self.file} should hold video (F, H, W) and responses (T, n).",
                found=f"video {tuple(self.video.shape)}, responses {tuple(self.responses.shape)}.",
            )
        self.frames, self.length = int(self.video.shape[0]), int(self.responses.shape[0])
        self.notes: list[str] = []

    def get(self, key: str) -> Any:
        """Array that the sidecar names, or the one of our own name; None if it is absent."""
        named = getattr(self.stated.keys, key.removesuffix("_s"), None)
        if named is not None and named not in self.store:
            raise Refused(
                f"{self.file} should hold '{named}', which {NAME} names as {key}.",
                found=", ".join(sorted(self.store)[:12]) or "nothing.",
            )
        candidates = [name for name in (named, key, _ALSO.get(key)) if name is not None]
        return next((self.store[name] for name in candidates if name in self.store), None)

    def need(self, key: str) -> Any:
        """As `get`, refused if it is absent."""
        found = self.get(key)
        if found is None:
            raise Refused(
                f"{self.file} should hold '{key}'.",
                found=", ".join(sorted(self.store)[:12]) or "nothing.",
                do=f'name it in {NAME}: "keys": {{"{key}": ...}}.',
            )
        return found

    def raw(self, close: Any) -> Raw:
        """The recording; ``close`` closes its file."""
        table = {name.removeprefix("trials/"): np.asarray(self.store[name][:]) for name in self._under("trials")}
        self._check_turned(table)
        clock, video_s = self._clock()
        spans = self._spans(table)
        behaviour, pupil = self._moves(clock, "behaviour"), self._moves(clock, "pupil")
        if clock is not None and video_s is not None:
            shown, which = tables.on_screen(self.video, video_s, clock, spans, self.notes, where=self.file)
            self.notes.extend(timing.gap_remark(video_s, what="video"))
            self.notes.extend(timing.gap_remark(clock, what="responses"))
        else:
            shown, which = self._direct(table, spans)
        trials = [
            Trial(
                stop - start,
                video,
                rows(self.responses, start),
                _shifted(behaviour, start),
                _shifted(pupil, start),
            )
            for start, stop, video in shown
        ]
        said = tables.words(table, len(spans or []), self.stated, where=self.file) if spans else {}
        trials = tables.described(trials, said, which, self.notes)
        cells = {name.removeprefix("neurons/"): np.asarray(self.store[name][:]) for name in self._under("neurons")}
        subject = text(np.asarray(self.store["subject"][...]).reshape(-1))[0] if "subject" in self.store else None
        id, subject = names(self.path, self.stated, subject=subject)
        return Raw(
            id,
            subject,
            self.file,
            self._rate(clock),
            trials,
            tables.neurons(cells, int(self.responses.shape[1]), self.stated, where=self.file),
            resampled=video_s is not None,
            notes=self.notes,
            close=close,
        )

    def _under(self, group: str) -> list[str]:
        return [name for name in sorted(self.store) if name.startswith(f"{group}/")]

    def _times(self, key: str, due: int, of: str) -> NDArray[np.float64] | None:
        found = self.get(key)
        if found is None:
            return None
        times = timing.increasing(np.asarray(found[:]), what=f"{key} of {self.file}")
        timing.check_lengths({of: due, key: len(times)}, where=self.file)
        return times

    def _clock(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """Time stamps of the responses and of the video: both, or none."""
        clock = self._times("response_time_s", self.length, "responses")
        video_s = self._times("video_time_s", self.frames, "video")
        if (clock is None) != (video_s is None):
            raise Refused(
                f"{self.file} should hold time stamps of both video and responses, or of none.",
                found="response_time_s only." if video_s is None else "video_time_s only.",
            )
        return clock, video_s

    def _check_turned(self, table: Mapping[str, Any]) -> None:
        """Refuse responses (n, T), before anything else is said of their length."""
        stamps = self.get("response_time_s")
        ends = [0]
        if {"frame", "frames"} <= set(table) and np.shape(table["frame"]) == np.shape(table["frames"]):
            ends = np.add(table["frame"], table["frames"]).tolist() if len(table["frame"]) else [0]
        due, of = (self.frames, "frames of video") if stamps is None else (len(stamps), "time stamps")
        if stamps is None and "video" in table:
            due, of = int(max(ends)), "frames that trials name"
        other, cells = int(self.responses.shape[1]), self._under("neurons")
        listed = int(np.shape(self.store[cells[0]])[0]) if cells and np.shape(self.store[cells[0]]) else -1
        turned = self.length != due == other if of != "frames that trials name" else self.length < due <= other
        if turned or (listed == self.length != other):
            raise Refused(
                f"responses of {self.file} should have time along the first axis.",
                found=f"{tuple(self.responses.shape)} for {due:,} {of}"
                + (f" and {listed:,} neurons." if listed >= 0 else "."),
                do="save them transposed.",
            )

    def _rate(self, clock: NDArray[np.float64] | None) -> float:
        said = stated_rate(self.path, self.stated)
        if said is None and "rate_hz" in self.store:
            said = float(np.asarray(self.store["rate_hz"][...]).reshape(-1)[0])
        if clock is not None:
            found = timing.rate_hz(clock)
            if said is not None:
                timing.check_rate(found, said, what=f"response_time_s of {self.file}")
            return found if said is None else said
        if said is None or not np.isfinite(said) or said <= 0:
            raise Refused(
                f"{self.file} should say its rate.",
                found="no rate_hz, no time stamps." if said is None else f"rate_hz {said}.",
                do=f'state it in {NAME}: "rate_hz": 30.',
            )
        return said

    def _spans(self, table: Mapping[str, Any]) -> list[tuple[int, int]] | None:
        """First and last response of each trial, in order of time."""
        if not table:
            return None
        if "frame" not in table or "frames" not in table:
            raise Refused(f"trials of {self.file} should have 'frame' and 'frames'.", found=", ".join(sorted(table)))
        lengths = {len(values) for values in table.values()}
        whole = [table[key].astype(np.int64) for key in ("frame", "frames") if table[key].dtype.kind in "iu"]
        if len(lengths) != 1 or len(whole) != 2:
            raise Refused(f"columns of trials of {self.file} should be whole numbers, equally long.", found="others.")
        start, stop = whole[0], whole[0] + whole[1]
        wrong = np.flatnonzero((start < 0) | (stop <= start) | (stop > self.length))
        if len(wrong):
            at = int(wrong[0])
            raise Refused(
                f"trials of {self.file} should lie in the {self.length:,} frames of the responses.",
                found=f"frames {start[at]:,} ... {stop[at] - 1:,} in trial {at:,}.",
            )
        if (start[1:] < stop[:-1]).any():
            at = int(np.flatnonzero(start[1:] < stop[:-1])[0])
            raise Refused(
                f"trials of {self.file} should follow one another.",
                found=f"trial {at + 1:,} begins at frame {start[at + 1]:,}, trial {at:,} ends at {stop[at]:,}.",
            )
        return [(int(a), int(b)) for a, b in zip(start, stop, strict=True)]

    def _direct(
        self, table: Mapping[str, Any], spans: list[tuple[int, int]] | None
    ) -> tuple[list[tuple[int, int, Piece]], list[int]]:
        """Trials without time stamps: frame by frame as the arrays have them."""
        if spans is None or "video" not in table:
            timing.check_lengths({"video": self.frames, "responses": self.length}, where=self.file)
            spans = spans or [(0, self.length)]
            first = [start for start, _ in spans]
        else:
            first = [int(at) for at in table["video"]]
        windows = sorted({(at, at + stop - start) for at, (start, stop) in zip(first, spans, strict=True)})
        if windows and (windows[0][0] < 0 or max(stop for _, stop in windows) > self.frames):
            raise Refused(
                f"trials of {self.file} should lie in the {self.frames:,} frames of the video.",
                found=f"frames {windows[0][0]:,} ... {max(stop for _, stop in windows) - 1:,}.",
            )
        for (start, stop), (following, _) in itertools.pairwise(windows):
            if following < stop:
                raise Refused(
                    f"trials of {self.file} should show whole clips: two show the same frames, or none in common.",
                    found=f"frames {start:,} ... {stop - 1:,} and others from {following:,}.",
                    cause="repeats of different length, or a window that slides.",
                    do="cut repeats of a clip to one length.",
                )
        return [(start, stop, rows(self.video, at)) for at, (start, stop) in zip(first, spans, strict=True)], list(
            range(len(spans))
        )

    def _moves(self, clock: NDArray[np.float64] | None, key: str) -> Piece | None:
        """Behaviour or pupil on the clock of the responses."""
        array = self.get(key)
        if array is None:
            return None
        if len(array.shape) != 2:
            raise Refused(f"{key} of {self.file} should be (T, 2).", found=f"shape {tuple(array.shape)}.")
        times = self._times("behaviour_time_s", int(array.shape[0]), key)
        if times is not None and clock is not None:
            timing.check_clocks(times, clock, what=key, where=self.file)
            piece = picked(array, timing.held(times, clock))
            self.notes.extend(timing.gap_remark(times, what=key))
        else:
            timing.check_lengths({"responses": self.length, key: int(array.shape[0])}, where=self.file)
            piece = rows(array)
        if key == "behaviour":
            order, notes = arranged(array, self.stated, where=self.file)
            self.notes.extend(notes)
            piece = columns(piece, order)
        return piece


def _shifted(piece: Piece | None, first: int) -> Piece | None:
    """Pieces of a trial that begins at ``first``."""
    return None if piece is None else lambda start, stop: piece(first + start, first + stop)
