"""Neurodata Without Borders (Rübel et al., eLife 2022): video, responses, pupil and running found by their kind.

Responses come from a ``RoiResponseSeries`` (deconvolved, if there are several and one is named so), or from
``spike_times`` of ``units``, counted between frames of the video. What is found more than once is to be named in
``recordings.json``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.neurons import timing
from brodmann.neurons.readers import tables
from brodmann.neurons.readers.raw import Piece, Raw, Trial, check_claim, names, picked, rows, stated_rate
from brodmann.neurons.readers.sidecar import NAME, Stated
from brodmann.neurons.readers.views import UM, Indexed, Wide, beside, centres
from brodmann.reasons import words

_MICROSCOPE = {"TwoPhotonSeries", "OnePhotonSeries"}
_DECONVOLVED = re.compile(r"deconv|event|spike|inferred", re.IGNORECASE)
_EYE = re.compile(r"pupil|eye", re.IGNORECASE)
_RADIUS = re.compile(r"radius|diameter|area|size|dilation", re.IGNORECASE)
_RUNNING = re.compile(r"running|speed|treadmill|velocity|wheel|locomotion", re.IGNORECASE)
_CHUNK = 1 << 31


def read(path: Path, stated: Stated) -> Raw:
    """Open an ``.nwb`` file.

    Raises
    ------
    Refused
        No video or no responses, several that fit, time that does not run forward; pynwb is not installed.
    Corrupt
        Not NWB, or cut short.
    """
    try:
        import pynwb
    except ImportError as error:
        raise Refused(
            f"reading {path.name} needs the package pynwb.", found=str(error), do="pip install 'brodmann[nwb]'."
        ) from error
    from hdmf.build.errors import ConstructError

    io: Any = None
    try:
        with warnings.catch_warnings():
            # what a validator would say of other parts of the file is not ours to repeat
            warnings.simplefilter("ignore")
            try:
                io = cast("Any", pynwb).NWBHDF5IO(str(path), "r")
                found = io.read()
            except (AttributeError, TypeError, RuntimeError, ConstructError) as error:
                raise ValueError(f"{type(error).__name__}: {error}") from error
            return _File(path, stated, found).raw(io.close)
    except (OSError, ValueError, KeyError) as error:
        if io is not None:
            io.close()
        if isinstance(error, BrodmannError):
            raise
        raise Corrupt(
            f"{path.name} should be an NWB file.",
            found=words(error),
            cause="a copy or download cut short, or a version that is not known.",
        ) from error


class _File:
    """What lies in one file, by meaning."""

    def __init__(self, path: Path, stated: Stated, nwb: Any) -> None:
        self.path, self.stated, self.nwb = path, stated, nwb
        self.notes: list[str] = []
        self.series = {
            _name(one): one for one in nwb.objects.values() if hasattr(one, "timestamps") and hasattr(one, "data")
        }

    def raw(self, close: Callable[[], None]) -> Raw:
        """The recording; ``close`` closes its file."""
        video, frames = self._video()
        video_s = self._times(video)
        responses, table, clock = self._responses(video_s)
        clock = video_s if clock is None else clock
        spans, said = self._trials(clock)
        shown, which = tables.on_screen(frames, video_s, clock, spans, self.notes, where=self.path.name)
        self.notes.extend(timing.gap_remark(video_s, what="video"))
        self.notes.extend(timing.gap_remark(clock, what="responses"))
        pupil = self._moving("pupil", clock, 2)
        columns = [self._moving("pupil_radius", clock, 1), self._moving("running", clock, 1)]
        behaviour = beside(columns) if any(columns) else None
        trials = [
            Trial(
                stop - start,
                piece,
                _shifted(responses, start),
                _shifted(behaviour, start) if behaviour else None,
                _shifted(pupil, start) if pupil else None,
            )
            for start, stop, piece in shown
        ]
        rate_hz = timing.rate_hz(clock)
        due = stated_rate(self.path, self.stated)
        if due is not None:
            timing.check_rate(rate_hz, due, what=self.path.name)
        subject = getattr(self.nwb.subject, "subject_id", None) if self.nwb.subject is not None else None
        id, subject = names(self.path, self.stated, subject=subject)
        return Raw(
            id,
            subject,
            self.path.name,
            rate_hz,
            tables.described(trials, said, which, self.notes),
            table,
            resampled=len(clock) != len(video_s) or not np.array_equal(clock, video_s),
            notes=self.notes,
            close=close,
        )

    def _one(self, key: str, found: dict[str, Any], *, must: bool) -> Any:
        """The object that is named, or the only one that fits."""
        named = getattr(self.stated.keys, key)
        if named is not None:
            fits = {name: one for name, one in self.series.items() if name == named or name.endswith(f"/{named}")}
            found = {named: fits[named]} if named in fits else fits
        if len(found) > 1:
            raise Refused(
                f"{self.path.name} should hold one object for {key}.",
                found=", ".join(sorted(found)) + ".",
                do=f'name it in {NAME}: "keys": {{"{key}": "{min(found)}"}}.',
            )
        if not found and (must or named is not None):
            what = key if named is None else f"'{named}', which {NAME} names as {key}"
            raise Refused(
                f"{self.path.name} should hold {what}.",
                found=", ".join(sorted(self.series)[:12]) or "no time series.",
                do=f'name it in {NAME}: "keys": {{"{key}": ...}}.',
            )
        return next(iter(found.values()), None)

    def _video(self) -> tuple[Any, Any]:
        """What was shown: the series that says when, and its frames."""
        templates = {id(one) for one in (self.nwb.stimulus_template or {}).values()}
        found = {
            name: one
            for name, one in self.series.items()
            if type(one).__name__ == "IndexSeries"
            or (
                type(one).__name__ not in _MICROSCOPE and len(np.shape(one.data)) in {3, 4} and id(one) not in templates
            )
        }
        shown = {id(one) for one in self.nwb.stimulus.values()}
        first = {name: one for name, one in found.items() if id(one) in shown}
        video = self._one("video", first or found, must=True)
        indexed = type(video).__name__ == "IndexSeries"
        frames = video
        if indexed:
            frames = video.indexed_timeseries if video.indexed_images is None else _Images(video.indexed_images)
        if frames is None or getattr(frames, "external_file", None) is not None or not len(frames.data):
            raise Refused(
                f"{_name(video)} of {self.path.name} should hold its frames.",
                found="the name of another file, or nothing.",
                do="write the frames into the NWB file, or give the recording as .npz.",
            )
        if not isinstance(frames, _Images):
            self._check(frames)
        if not indexed:
            return video, frames.data
        index = np.asarray(video.data[:])
        if index.dtype.kind not in "iu" or index.min() < 0 or index.max() >= len(frames.data):
            last = len(frames.data) - 1
            raise Refused(
                f"{_name(video)} of {self.path.name} should show frames 0 ... {last:,} of its template.",
                found=f"{index.min()} ... {index.max()}.",
            )
        return video, Indexed(frames.data, index.astype(np.int64))

    def _responses(self, video_s: NDArray[np.float64]) -> tuple[Piece, pd.DataFrame, NDArray[np.float64] | None]:
        """Responses, their table of neurons, and their clock (None: that of the video)."""
        found = {name: one for name, one in self.series.items() if type(one).__name__ == "RoiResponseSeries"}
        units = self.nwb.units
        has_units = units is not None and "spike_times" in units.colnames
        named = self.stated.keys.responses
        if named is None and found and has_units:
            raise Refused(
                f"{self.path.name} should hold one object for responses.",
                found=", ".join([*sorted(found), "units"]) + ".",
                do=f'name it in {NAME}: "keys": {{"responses": "units"}}.',
            )
        if has_units and named in {None, "units"}:
            return self._spikes(units, video_s)
        clean = {name: one for name, one in found.items() if _DECONVOLVED.search(name)}
        series = self._one("responses", clean if len(clean) == 1 else found, must=True)
        self._check(series)
        clock = self._times(series)
        n = int(series.data.shape[1]) if len(series.data.shape) == 2 else 1
        return rows(Wide(series.data) if len(series.data.shape) == 1 else series.data), self._rois(series, n), clock

    def _spikes(self, units: Any, video_s: NDArray[np.float64]) -> tuple[Piece, pd.DataFrame, None]:
        spikes = [np.asarray(units.get_unit_spike_times(row), np.float64) for row in range(len(units))]
        for row, times in enumerate(spikes):
            if not np.isfinite(times).all() or (np.diff(times) < 0).any():
                raise Refused(
                    f"spike times of {self.path.name} should be finite and in order.", found=f"others in unit {row:,}."
                )
        step = timing.interval_s(video_s)
        # a frame lasts until the next; before a gap, no longer than it usually does
        ends = np.minimum(np.append(video_s[1:], np.inf), video_s + 1.5 * step)
        ends[-1] = video_s[-1] + step

        def piece(start: int, stop: int) -> NDArray[Any]:
            out = np.empty((stop - start, len(spikes)), np.float32)
            for column, times in enumerate(spikes):
                out[:, column] = np.searchsorted(times, ends[start:stop]) - np.searchsorted(times, video_s[start:stop])
            return out

        plain = self._plain(
            units, np.arange(len(units)), {"spike_times", "obs_intervals", "electrodes", "electrode_group"}
        )
        self.notes.append("responses are spikes counted between frames of the video")
        return piece, tables.neurons(plain, len(units), self.stated, where=self.path.name), None

    def _rois(self, series: Any, n: int) -> pd.DataFrame:
        region, table = np.asarray(series.rois.data[:], np.int64), series.rois.table
        if len(region) != n or (region < 0).any() or (region >= len(table)).any():
            raise Refused(
                f"{_name(series)} of {self.path.name} should have a region of interest per column.",
                found=f"{len(region):,} for {n:,} columns, of a table of {len(table):,}.",
            )
        found = self._plain(table, region, {"image_mask", "pixel_mask", "voxel_mask"})
        plane = getattr(table, "imaging_plane", None)
        spacing = getattr(plane, "grid_spacing", None)
        scale = UM.get(str(getattr(plane, "grid_spacing_unit", "")).lower())
        if "x_um" not in found and spacing is not None and scale is not None and self.stated.keys.x is None:
            found_at = centres(table, region)
            if found_at is not None:
                found["x_um"], found["y_um"] = (found_at * np.asarray(spacing, np.float64)[:2] * scale).T
                self.notes.append("places are centres of the masks of the regions of interest")
        area = str(getattr(plane, "location", "") or "")
        if area and area.lower() not in {"unknown", "n/a"} and "area" not in found:
            found["area"] = np.array([area] * n)
        return tables.neurons(found, n, self.stated, where=self.path.name)

    def _plain(self, table: Any, region: NDArray[np.int64], without: set[str]) -> dict[str, Any]:
        """Columns of one value per row, and the ids."""
        found: dict[str, Any] = {}
        for name in table.colnames:
            column = table[name]
            values = cast("Any", getattr(column, "data", None))
            if name in without or type(column).__name__ == "VectorIndex" or len(np.shape(values)) != 1:
                continue
            values = np.asarray(values[:])
            if values.dtype.kind != "O" or all(isinstance(one, str | bytes) for one in values):
                found[name] = values[region]
        # a column of names goes before the numbers of the rows
        if not any(name in found for name in ("id", "unit", "unit_id")):
            found["id"] = np.asarray(table.id[:])[region]
        return found

    def _trials(self, clock: NDArray[np.float64]) -> tuple[list[tuple[int, int]] | None, dict[str, list[str]]]:
        table = self.nwb.trials
        if table is None or not len(table):
            return None, {}
        start_s = np.asarray(table["start_time"].data[:], np.float64)
        stop_s = np.asarray(table["stop_time"].data[:], np.float64)
        if not (np.isfinite(start_s).all() and np.isfinite(stop_s).all()) or (stop_s <= start_s).any():
            raise Refused(f"trials of {self.path.name} should end after they start.", found="others.")
        slack = 0.01 * timing.interval_s(clock)
        first, last = np.searchsorted(clock, start_s - slack), np.searchsorted(clock, stop_s - slack)
        back = np.flatnonzero(first[1:] < last[:-1])
        if len(back):
            raise Refused(
                f"trials of {self.path.name} should follow one another.",
                found=f"trial {back[0] + 1:,} starts at {start_s[back[0] + 1]:.6g} s, the one before stops at "
                f"{stop_s[back[0]]:.6g} s.",
            )
        columns = self._plain(table, np.arange(len(table)), {"start_time", "stop_time", "timeseries", "tags"})
        spans = [(int(a), int(b)) for a, b in zip(first, last, strict=True)]
        return spans, tables.words(columns, len(spans), self.stated, where=self.path.name)

    def _moving(self, key: str, clock: NDArray[np.float64], width: int) -> Piece | None:
        """Pupil (k, 2), or one column (k, 1) of behaviour, on the clock of the responses."""
        found: dict[str, Any] = {}
        for name, one in self.series.items():
            shape = np.shape(one.data)
            if len(shape) != width and not (width == 1 and len(shape) == 2 and shape[1] == 1):
                continue
            if (
                (key == "pupil" and type(one).__name__ == "SpatialSeries" and _EYE.search(name) and shape[1] == 2)
                or (key == "pupil_radius" and _EYE.search(name) and _RADIUS.search(_last(name)))
                or (key == "running" and _RUNNING.search(_last(name)) and not _EYE.search(name))
            ):
                found[name] = one
        series = self._one(key, found, must=False)
        if series is None:
            return None
        self._check(series)
        times = self._times(series)
        timing.check_clocks(times, clock, what=_name(series), where=self.path.name)
        self.notes.extend(timing.gap_remark(times, what=_name(series)))
        data = series.data if len(np.shape(series.data)) == 2 else Wide(series.data)
        return picked(data, timing.held(times, clock))

    def _times(self, series: Any) -> NDArray[np.float64]:
        n = int(np.shape(series.data)[0])
        where = f"{_name(series)} of {self.path.name}"
        if series.timestamps is None:
            if not series.rate or not np.isfinite(series.rate) or series.rate <= 0:
                raise Refused(f"{where} should have time stamps or a rate.", found=f"rate {series.rate}.")
            return float(series.starting_time or 0.0) + np.arange(n) / float(series.rate)
        times = timing.increasing(np.asarray(series.timestamps[:]), what=f"time stamps of {where}")
        timing.check_lengths({"data": n, "timestamps": len(times)}, where=where)
        return times

    def _check(self, series: Any) -> None:
        data = series.data
        if hasattr(data, "id"):
            name = f"{_name(series)} of {self.path.name}"
            check_claim(name, tuple(data.shape), int(data.dtype.itemsize), int(data.id.get_storage_size()))
            if data.chunks and int(np.prod(data.chunks, dtype=object)) * data.dtype.itemsize > _CHUNK:
                raise Refused(f"chunks of {name} should be small enough to read.", found=f"{data.chunks}.")


class _Images:
    """Single images as the frames of a template."""

    def __init__(self, container: Any) -> None:
        order = container.order_of_images
        images = list(container.images.values()) if order is None else list(order.data[:])
        shapes = {tuple(image.data.shape) for image in images}
        if len(shapes) != 1:
            raise Refused(f"images of {container.name} should have one size.", found=f"{len(shapes)} sizes.")
        for image in images:
            if hasattr(image.data, "id"):
                stored = int(image.data.id.get_storage_size())
                check_claim(str(image.name), tuple(image.data.shape), int(image.data.dtype.itemsize), stored)
        self.data = np.stack([np.asarray(image.data[:]) for image in images])


def _name(series: Any) -> str:
    """Path of an object in the file's tree of containers, without the file."""
    parts = [str(series.name)]
    above = series.parent
    while above is not None and above.parent is not None:
        parts.append(str(above.name))
        above = above.parent
    return "/".join(reversed(parts))


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _shifted(piece: Piece, first: int) -> Piece:
    return lambda start, stop: piece(first + start, first + stop)
