"""Conversion of recordings into a cache: every frame is read once, checked, and written; memory stays at one block."""

from __future__ import annotations

import copy
import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import atomic, caches
from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.neurons import cache, places, timing
from brodmann.neurons.cache import Growing
from brodmann.neurons.readers.grey import Grey, WrongSize
from brodmann.neurons.readers.raw import Piece, Raw, Trial
from brodmann.neurons.readers.sidecar import Stated
from brodmann.neurons.recipe import Clips
from brodmann.neurons.source import BEHAVIOUR, Source
from brodmann.progress import Say
from brodmann.reasons import indented, told, words

_BYTES = 1 << 25
"""A block of frames, about."""
_EQUAL = 1e-4
_SAME = 0.9
"""Share of frames that two showings of one clip have in common, if they were resampled."""


class Shown:
    """Names of clips over all recordings: equal for equal videos, whatever the data call them."""

    def __init__(self) -> None:
        self._by_content: dict[str, str] = {}
        self._by_name: dict[str, list[tuple[str, NDArray[np.uint64]]]] = {}
        self.shared: set[str] = set()

    def name(self, content: str, given: str | None, frames: NDArray[np.uint64], *, resampled: bool) -> str:
        """Name of a clip.

        Parameters
        ----------
        content : str
            Hash of the video.
        given : str or None
            What the data call it.
        frames : (k,) uint64
            Hashes of its frames.
        resampled : bool
            Showings of one clip may differ by a frame here and there.
        """
        if content in self._by_content:
            return self._by_content[content]
        if given is None:
            return self._by_content.setdefault(content, f"clip-{content[:12]}")
        namesakes = self._by_name.setdefault(given, [])
        for name, others in namesakes:
            alike = abs(len(others) - len(frames)) <= 1 and float(np.isin(frames, others).mean()) >= _SAME
            if resampled and alike:
                return self._by_content.setdefault(content, name)
        name = given if not namesakes else f"{given}#{len(namesakes) + 1}"
        if namesakes:
            self.shared.add(given)
        namesakes.append((name, frames))
        return self._by_content.setdefault(content, name)


def convert(
    raws: Sequence[Raw],
    stated: Stated,
    wanted: Clips,
    folder: Path,
    *,
    name: str,
    skipped: Sequence[tuple[str, str]] = (),
    say: Say,
) -> Source:
    """Write recordings into a cache folder and map it.

    Parameters
    ----------
    raws : sequence of Raw
    stated : Stated
    wanted : Clips
        Rate and size that recordings should have.
    folder : Path
        Where the cache shall be.
    name : str
        Name for messages and reports.
    skipped : sequence of (str, str)
    say : Say

    Raises
    ------
    Refused
        Whatever `brodmann.neurons.source.open` refuses but the lack of training frames. Of several recordings one whose
        content is refused is left out; a rate or size that is not the wanted one refuses all.
    """
    raws = sorted(raws, key=lambda raw: (raw.subject, raw.id))
    ids = [raw.id for raw in raws]
    if len(set(ids)) < len(ids):
        twin = next(id for id in ids if ids.count(id) > 1)
        files = ", ".join(raw.file for raw in raws if raw.id == twin)
        raise Refused(
            "recordings should have names of their own.",
            found=f"'{twin}' twice ({files}).",
            do='name them in recordings.json: "recordings": [{"file": ..., "id": ...}].',
        )
    registered = stated.named_space() is not None
    found = [places.placed(raw, stated, registered=registered) for raw in raws]
    for raw in raws:
        timing.check_rate(raw.rate_hz, wanted.rate_hz, what=raw.file)
    size = wanted.height_px * wanted.width_px
    need = sum(trial.frames * (size + 4 * len(raw.neurons) + 16) for raw in raws for trial in raw.trials)
    shown, left, kept = Shown(), list(skipped), list[tuple[Any, ...]]()
    with cache.Writer(folder, name=name, need=need) as writer:
        with say.progress("reading recordings", 0, sum(len(raw.trials) for raw in raws)) as progress:
            for raw, (table, order, remarks, at_home) in zip(raws, found, strict=True):
                growing = writer.start(neurons=len(table), height_px=wanted.height_px, width_px=wanted.width_px)
                before = copy.deepcopy(shown)
                try:
                    trials, said = _Filling(raw, growing, stated, wanted, order, shown).fill(progress.advance)
                except (Refused, Corrupt) as error:
                    if isinstance(error, WrongSize) or len(raws) + len(skipped) == 1:
                        raise
                    # names of clips are those of the recordings that are kept
                    writer.drop()
                    shown = before
                    left.append((raw.file, str(error)))
                    say(f"{raw.file} is left out: {error}")
                    continue
                kept.append((table, at_home))
                notes = [*raw.notes, *remarks, *said]
                # time stamps give 29.99999; one rate for all, where that is all the difference
                rate_hz = wanted.rate_hz if abs(raw.rate_hz / wanted.rate_hz - 1) < _EQUAL else raw.rate_hz
                writer.finish(raw.id, raw.subject, rate_hz=rate_hz, trials=trials, remarks=notes)
                lost = np.setdiff1d(np.arange(len(raw.neurons)), order)
                left.extend((f"{raw.id}/{unit}", "no place") for unit in raw.neurons["unit"].iloc[lost])
        if not kept:
            raise none_left(name, left)
        known = all(at_home for _, at_home in kept)
        table, space, unit = places.whole([table for table, _ in kept], stated, known=known, name=name)
        remarks = [f"several videos are called '{clip}': they are told apart as {clip}#2, ..." for clip in shown.shared]
        return writer.close(table, space=space, unit=unit, skipped=left, remarks=sorted(remarks))


def none_left(name: str, skipped: Sequence[tuple[str, str]]) -> Refused:
    """Refusal of a set whose recordings were all left out, with why."""
    found = f"{len(skipped):,} left out.{indented(told(skipped, limit=5), 4)}"
    return Refused(f"{name} should hold at least one readable recording.", found=found)


class _Filling:
    """Writes one recording's trials."""

    def __init__(
        self, raw: Raw, growing: Growing, stated: Stated, wanted: Clips, order: NDArray[np.int64], shown: Shown
    ) -> None:
        self._raw, self._arrays, self._order, self._shown = raw, growing.arrays, order, shown
        self._grey = Grey(wanted, where=raw.file, luminance=stated.rgb == "luminance")
        self._step = max(_BYTES // (wanted.height_px * wanted.width_px + 8 * len(raw.neurons)), 1)
        self._homes: dict[str, int] = {}
        self._recorded = {"behaviour": np.zeros(2, np.int64), "pupil": np.zeros(2, np.int64)}

    def fill(self, advance: Any) -> tuple[pd.DataFrame, list[str]]:
        """Read, check and write every trial; returns the table of trials and what to say of it."""
        if not self._raw.trials or not len(self._order):
            raise Refused(
                f"{self._raw.file} should hold trials and neurons.",
                found=f"{len(self._raw.trials):,} trials, {len(self._order):,} neurons.",
            )
        rows: list[dict[str, Any]] = []
        for number, trial in enumerate(self._raw.trials):
            where = f"{self._raw.file}, trial {number:,}"
            frame = self._arrays["responses"].rows
            clip, video = self._video(trial, where)
            for start in range(0, trial.frames, self._step):
                stop = min(start + self._step, trial.frames)
                self._responses(_read(trial.responses, start, stop, f"responses of {where}"), frame + start)
                for key, piece in (("behaviour", trial.behaviour), ("pupil", trial.pupil)):
                    self._moves(key, piece, start, stop, where)
            about = {"clip": clip, "video": video, "frame": frame, "frames": trial.frames}
            rows.append(about | {"domain": trial.domain, "part": trial.part})
            advance()
        self._grey.close()
        trials = pd.DataFrame({key: [row[key] for row in rows] for key in cache.TRIALS})
        # resampled repeats may end one frame apart
        trials["frames"] = trials.groupby("clip")["frames"].transform("min").astype(int)
        return trials, [*self._grey.notes, *self._missing()]

    def _video(self, trial: Trial, where: str) -> tuple[str, int]:
        """Append a video unless it is there; returns the clip's name and its first frame."""
        stream = self._arrays["video"]
        mark, digest, hashes = stream.mark(), hashlib.sha256(), list[bytes]()
        for start in range(0, trial.frames, self._step):
            block = self._grey(_read(trial.video, start, min(start + self._step, trial.frames), f"video of {where}"))
            digest.update(np.ascontiguousarray(block).tobytes())
            if trial.clip is not None:
                hashes.extend(hashlib.blake2b(frame.tobytes(), digest_size=8).digest() for frame in block)
            self._add("video", block)
        content = digest.hexdigest()
        frames = np.frombuffer(b"".join(hashes), np.uint64)
        name = self._shown.name(content, trial.clip, frames, resampled=self._raw.resampled)
        if content in self._homes:
            stream.back(mark)
        return name, self._homes.setdefault(content, mark[0])

    def _responses(self, block: NDArray[Any], frame: int) -> None:
        raw, n = self._raw, len(self._raw.neurons)
        if block.ndim != 2 or block.shape[1] != n or block.dtype.kind not in "uif":
            raise Refused(
                f"responses of {raw.file} should be frames x {n:,} neurons.", found=f"{block.dtype} {block.shape}."
            )
        # neurons without a place are left out, whatever their responses are
        values = np.asarray(block[:, self._order], np.float32)
        for wrong, what, cause, do in (
            (
                ~np.isfinite(values),
                "be finite",
                "NaN or infinity",
                "leave out the trials or the neurons that lack them.",
            ),
            (values < 0, "not be negative", "negative", "give deconvolved activity or counts of spikes, not dF/F."),
        ):
            if wrong.any():
                at, neuron = (int(one[0]) for one in np.nonzero(wrong))
                unit = raw.neurons["unit"].iloc[int(self._order[neuron])]
                raise Refused(
                    f"responses of {raw.file} should {what}.",
                    found=f"{cause} in {int(wrong.any(0).sum()):,} neurons, first in '{unit}' at frame {frame + at:,}.",
                    do=do,
                )
        self._add("responses", values)

    def _moves(self, key: str, piece: Piece | None, start: int, stop: int, where: str) -> None:
        values = np.full((stop - start, 2), np.nan, np.float32)
        if piece is not None:
            block = _read(piece, start, stop, f"{key} of {where}")
            if block.shape[1:] != (2,) or block.dtype.kind not in "uif":
                raise Refused(f"{key} of {where} should be frames x 2.", found=f"{block.dtype} {block.shape}.")
            # a value beyond float32 becomes infinity, and that is missing
            with np.errstate(over="ignore"):
                values = block.astype(np.float32)
            values[~np.isfinite(values)] = np.nan
        self._recorded[key] += np.isfinite(values).sum(0)
        self._add(key, values)

    def _missing(self) -> list[str]:
        total = max(self._arrays["responses"].rows, 1)
        names = {"behaviour": BEHAVIOUR, "pupil": ("pupil x", "pupil y")}
        shares = {
            name: 1 - at / total for key, of in names.items() for name, at in zip(of, self._recorded[key], strict=True)
        }
        never = [name for name, share in shares.items() if share == 1]
        said = [f"{', '.join(never)} not recorded: masked"] if never else []
        return said + [f"{name} is missing in {s:.2%} of frames: masked" for name, s in shares.items() if 0 < s < 1]

    def _add(self, key: str, block: NDArray[Any]) -> None:
        stream = self._arrays[key]
        with atomic.guard(f"the cache of {self._raw.file}", stream.path.parent, need=0, do=caches.ELSEWHERE):
            stream.add(block)


def _read(piece: Piece, start: int, stop: int, where: str) -> NDArray[Any]:
    """Frames of a trial; what a damaged file raises becomes `Corrupt`."""
    try:
        block = np.asarray(piece(start, stop))
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        if isinstance(error, BrodmannError):
            raise
        raise Corrupt(
            f"{where} should be readable.",
            found=words(error),
            cause="a copy or download cut short.",
        ) from error
    if len(block) != stop - start:
        raise Corrupt(f"{where} should have frames {start:,} ... {stop - 1:,}.", found=f"{len(block):,} of them.")
    return block
