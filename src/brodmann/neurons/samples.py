"""Neurons as located samples: where they lie, which clips of which animals make a batch, what describes a neuron."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brodmann import splits
from brodmann.errors import Refused, Usage
from brodmann.neurons import statistics
from brodmann.neurons.pictures import corners_um
from brodmann.neurons.recipe import Recipe
from brodmann.neurons.retinotopy import Where
from brodmann.neurons.source import Recording, Source
from brodmann.samples import Batch, stream
from brodmann.settings import plain

_BEGINNING = 200
"""Frames that tell a recording from another one of its name."""
_PLACES = ("id", "subject", "section", "x_um", "y_um", "x_mm", "y_mm", "z_mm")


class Clip(NamedTuple):
    """A run of frames of one trial."""

    recording: Recording
    frame: int
    """First frame of responses and behaviour."""
    video: int
    """First frame of the video."""
    frames: int

    def inputs(self) -> dict[str, NDArray[np.generic]]:
        """What the network is shown: ``video`` (T, H, W) uint8; standardised ``pupil, behaviour`` (T, 2) float32."""
        span = np.arange(self.frame, self.frame + self.frames)
        behaviour, pupil = statistics.standardised(self.recording, span)
        video = np.asarray(self.recording.video[self.video : self.video + self.frames])
        return {"video": video, "behaviour": behaviour, "pupil": pupil}

    def responses(self) -> NDArray[np.float32]:
        """(T, n) in units of each neuron's training mean."""
        return statistics.responses(self.recording, np.arange(self.frame, self.frame + self.frames))


class Kept(NamedTuple):
    """A recording's share of the samples."""

    recording: Recording
    columns: NDArray[np.int64]
    """Its neurons that take part, columns of its responses."""
    first: int
    """Its first row of the samples."""


class NeuronSamples:
    """Located neurons of a source, and clips of what their animals saw.

    Parameters
    ----------
    source : Source
        Recordings; see `brodmann.neurons.source`.
    recipe : Recipe
        Length of clips, the split.
    part : {"all", "train"}
        Every neuron, or those outside the recipe's held-out fold. A held-out animal is left out whole: its video and
        behaviour teach nothing either.

    Attributes
    ----------
    places, labels, space, fingerprint
        See `brodmann.samples.Samples`.
    skipped : list of (str, str)
        What the source left out, and recordings in which no neuron answers.
    remarks : tuple of str
        Neurons that never answer while the network learns.
    extent : str
        Neurons, recordings and animals with samples.
    kept : list of Kept
        Recordings with samples.
    rows : (N,) int64
        Rows of `Source.neurons` that are samples.
    order : tuple of int
        For each of ``kept``, its number in the model that the samples suit.
    read_rows, shard_rows : int
        Rows that one read, and one shard of a feature table, should have.
    """

    shard_rows = 65_536
    read_rows = 4096

    def __init__(self, source: Source, recipe: Recipe, *, part: Literal["all", "train"] = "all") -> None:
        self.source, self.recipe, self.space, self.part = source, recipe, source.space, part
        self.skipped = list(source.skipped)
        for one in source.recordings:
            _fits(one, recipe)
        rows = np.arange(len(source.neurons))
        if recipe.split.fold is not None and recipe.split.by != "brain":
            raise Usage(
                "neurons are held out with their animal: its video and behaviour teach the core, too.",
                found=f"split.by = '{recipe.split.by}'.", do="set split.by = 'brain', or split.fold to none.",
            )  # fmt: skip
        if part == "train" and recipe.split.fold is not None:
            rows = splits.folds(source.neurons, recipe.split)[0].train
        rows = rows[~np.isin(rows, self._silent(rows))]
        section = pd.factorize(source.neurons["section"], sort=True)[0]
        self.kept: list[Kept] = []
        for recording in source.recordings:
            bounds = np.searchsorted(rows, [recording.rows.start, recording.rows.stop])
            if bounds[1] > bounds[0]:
                # a feature table holds plane by plane, and data may list the neurons of several planes in any order
                own = rows[bounds[0] : bounds[1]]
                own[:] = own[np.argsort(section[own], kind="stable")]
                self.kept.append(Kept(recording, own - recording.rows.start, int(bounds[0])))
        self.rows: NDArray[np.int64] = rows
        self.order: tuple[int, ...] = tuple(range(len(self.kept)))
        self._told: tuple[str, ...] = ()
        animals = len({one.recording.subject for one in self.kept})
        self.extent = f"{len(rows):,} neurons; recordings: {len(self.kept)}; animals: {animals}"
        key = [source.fingerprint, plain(recipe)["samples"], plain(recipe)["split"], part, len(rows)]
        self.fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def _silent(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of recordings in which no neuron answers: they teach nothing, and are listed as skipped."""
        found: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        asked = [one for one in self.source.recordings if np.isin(one.rows, rows).any()]
        for one in asked:
            if len(one.frames("train")) and statistics.of(one).dead.all():
                found.append(np.asarray(one.rows))
                self.skipped.append((one.id, "no neuron ever answers in its training frames: all responses are 0"))
        if asked and len(found) > len(asked):
            raise Refused(
                "recordings should hold responses.",
                found=f"zeros only in the training frames of {', '.join(one.id for one in asked[:5])}.",
                cause="an array that was allocated and never filled, or the wrong one.",
                do='name the right one in recordings.json: "keys": {"responses": ...}.',
            )
        return np.concatenate(found)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Neurons that never answer while the network learns, recording by recording; then what a model remarked."""
        every = [text for one in self.kept for text in statistics.of(one.recording).remarks]
        return (*(text for text in every if statistics.NEVER in text), *self._told)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.read(np.array([index]))

    @cached_property
    def places(self) -> pd.DataFrame:
        """A row per neuron: id, subject, section, x_um, y_um (in its plane), x_mm, y_mm, z_mm (in ``space``)."""
        frame = self.source.neurons.loc[:, list(_PLACES)].iloc[self.rows].reset_index(drop=True)
        corners = corners_um(self.source)
        corner = np.stack([corners[str(name)] for name in frame["section"]])
        frame["x_um"], frame["y_um"] = (frame[["x_um", "y_um"]].to_numpy(np.float32) - corner).T
        return frame.assign(**{name: pd.Categorical(frame[name]) for name in ("subject", "section")})

    @cached_property
    def labels(self) -> pd.DataFrame:
        """A row per neuron: what the data say of it."""
        columns = [name for name in self.source.neurons.columns if name not in _PLACES]
        return self.source.neurons.loc[:, columns].iloc[self.rows].reset_index(drop=True)

    def named(self, kept: Kept) -> tuple[str, ...]:
        """Names of a recording's neurons that take part."""
        ids = self.source.neurons["id"].to_numpy(dtype=object)
        return tuple(ids[kept.recording.rows.start + kept.columns].tolist())

    def known(self, kept: Kept) -> tuple[str, tuple[str, ...], str]:
        """What a model remembers of a recording: its id, its neurons, and a hash of how their responses begin.

        The last tells another animal's recording of the same name apart; trials added at the end do not change it.
        """
        first = np.ascontiguousarray(kept.recording.responses[:_BEGINNING][:, kept.columns], dtype=np.float32)
        return kept.recording.id, self.named(kept), hashlib.sha256(first.tobytes()).hexdigest()[:16]

    def where(self, kept: Kept) -> Where:
        """Where a recording's neurons lie, plane by plane."""
        rows = slice(kept.first, kept.first + len(kept.columns))
        plane = torch.from_numpy(pd.factorize(self.places["section"])[0].astype(np.int64)[rows])
        if self.source.unit == "arbitrary":
            return Where(torch.zeros_like(plane), None)
        return Where(plane, torch.from_numpy(self.places[["x_um", "y_um"]].to_numpy(np.float32)[rows]))

    def ordered(self, order: Sequence[int], remarks: Sequence[str] = ()) -> NeuronSamples:
        """These samples, with the numbers that a model gives to their recordings, and what it remarks on them."""
        other = copy.copy(self)
        other.order, other._told = tuple(order), (*self._told, *remarks)
        return other

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """``index`` (m,) int64 the rows asked for: a neuron's description lies in the model's readout."""
        return {"index": torch.from_numpy(np.asarray(rows, np.int64))}

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Clips ``rank::world`` of the global batch of ``step``, dealt evenly to the recordings.

        Every window that lies within a training trial is equally likely, the first and the last included.

        Returns
        -------
        Batch
            Of B clips of T frames: ``video`` (B, T, H, W) uint8; ``pupil``, ``behaviour`` (B, T, 2) float32; ``animal``
            (B,) int64, the recording's number in the model; ``responses`` (sum of T n_b,) float32, clip by clip, in
            units of the training mean; ``stream`` (B,) int64, which copy of the core learns from a clip; ``seed`` ()
            int64 of what the network draws.
        """
        rng = stream(self.recipe.seed, self.fingerprint, "batch", step)
        size, count, copies = self.recipe.fit.batch, len(self.kept), self.recipe.encoder.streams
        dealt = [self._order(number // count)[number % count] for number in range(step * size, (step + 1) * size)]
        draws = rng.random(size)
        # every copy of the core learns at every step, as far as clips reach: none drifts on its momentum
        copy_of = rng.permutation((np.arange(size) + rng.integers(copies)) % copies)
        # clips of one copy and recording beside each other, so that neurons are read once
        mine = sorted(range(rank, size, world), key=lambda i: (copy_of[i], self.order[dealt[i]]))
        clips = [self._window(dealt[i], float(draws[i])) for i in mine]
        shown = [clip.inputs() for clip in clips]
        batch: Batch = {
            name: torch.from_numpy(np.stack([one[name] for one in shown])) for name in ("video", "pupil", "behaviour")
        }
        answers = [
            clip.responses()[:, self.kept[dealt[i]].columns].ravel() for clip, i in zip(clips, mine, strict=True)
        ]
        batch["responses"] = torch.from_numpy(np.concatenate(answers))
        batch["animal"] = torch.tensor([self.order[dealt[i]] for i in mine])
        batch["index"] = torch.tensor([clip.frame for clip in clips])
        batch["seed"] = torch.tensor(
            int(stream(self.recipe.seed, self.fingerprint, "jitter", step, rank).integers(2**31))
        )
        batch["stream"] = torch.from_numpy(copy_of[mine])
        return batch

    def _order(self, turn: int) -> list[int]:
        """Recordings in a new order at every turn, so that none is always beside the same other one."""
        rng = stream(self.recipe.seed, self.fingerprint, "turn", turn)
        return rng.permutation(len(self.kept)).tolist()

    def _window(self, number: int, draw: float) -> Clip:
        trials, ends = self._windows[number]
        total = int(ends[-1])
        at = min(int(draw * total), total - 1)
        trial = int(np.searchsorted(ends, at, side="right"))
        offset = at - (int(ends[trial - 1]) if trial else 0)
        frame, video = trials[trial]
        return Clip(self.kept[number].recording, frame + offset, video + offset, self.recipe.samples.frames)

    @cached_property
    def _windows(self) -> list[tuple[list[tuple[int, int]], NDArray[np.int64]]]:
        """Of every recording its training trials (frame, video), and the running count of windows within them."""
        found: list[tuple[list[tuple[int, int]], NDArray[np.int64]]] = []
        length = self.recipe.samples.frames
        for one in self.kept:
            trials = one.recording.trials
            trials = trials[(trials["part"] == "train") & (trials["frames"] >= length)]
            if not len(trials):
                longest = int(one.recording.trials.loc[one.recording.trials["part"] == "train", "frames"].max())
                raise Refused(
                    f"training trials of {one.recording.id} should hold clips of {length} frames.",
                    found=f"trials of at most {longest}.",
                    do=f"set samples.frames to {longest} or fewer.",
                )
            pairs = list(zip(trials["frame"].tolist(), trials["video"].tolist(), strict=True))
            found.append((pairs, np.cumsum(np.asarray(trials["frames"]) - length + 1)))
        return found


def _fits(recording: Recording, recipe: Recipe) -> None:
    """Refuse a recording of another rate or size than the recipe's."""
    wanted = recipe.samples
    shape = tuple(recording.video.shape[1:])
    if abs(recording.rate_hz / wanted.rate_hz - 1) > 0.01:
        raise Refused(
            f"{recording.id} should have {wanted.rate_hz:g} frames per second, as the recipe says.",
            found=f"{recording.rate_hz:g}.", do=f"set samples.rate_hz={recording.rate_hz:g}, or resample it.",
        )  # fmt: skip
    if shape != (wanted.height_px, wanted.width_px):
        raise Refused(
            f"video of {recording.id} should be {wanted.height_px} x {wanted.width_px} px, as the recipe says.",
            found=f"{' x '.join(map(str, shape))}.",
            do=f"set samples.height_px={shape[0]} and samples.width_px={shape[1]}, or scale it.",
        )


def clips(recording: Recording, part: str, *, longest: int = 0) -> list[Clip]:
    """Trials of one part as clips, in order of time; at most ``longest`` frames each, where that is given."""
    found: list[Clip] = []
    chosen = recording.trials[recording.trials["part"] == part]
    for frame, video, frames in zip(chosen["frame"], chosen["video"], chosen["frames"], strict=True):
        step = longest or int(frames)
        found += [
            Clip(recording, int(frame) + start, int(video) + start, min(step, int(frames) - start))
            for start in range(0, int(frames), step)
        ]
    return found
