"""Clocks: which frame was on the screen when a response was sampled, and whether time runs as it should.

Video and behaviour that carry time stamps are brought to the clock of the responses by the nearest *preceding* frame
or sample, as Wang et al. (Nature 640, 2025, Methods) do for the monitor: what comes later has not caused a response.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused

_TOLERANCE = 0.01
"""Rates that differ by less are equal; time stamps that differ by less of an interval are, too (rounding of a file)."""
_HELD = 2.0
"""Intervals for which a frame or sample is held at most; longer is a gap."""

_FINER = {1000: "ms", 1_000_000: "us"}
"""Units of time that stamps are written in by mistake, by their number in a second."""


def increasing(times_s: NDArray[np.floating], *, what: str) -> NDArray[np.float64]:
    """Time stamps (n,) in seconds, refused unless they are finite and strictly increase.

    Raises
    ------
    Refused
        Naming the first place where they do not.
    """
    times = np.asarray(times_s, np.float64)
    if times.ndim != 1 or not len(times):
        raise Refused(f"{what} should be one row of time stamps.", found=f"shape {times.shape}.")
    wrong = np.flatnonzero(~np.isfinite(times))
    if len(wrong):
        raise Refused(
            f"{what} should be finite.", found=f"{len(wrong):,} of {len(times):,}, the first at {wrong[0]:,}."
        )
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back):
        at = int(back[0])
        raise Refused(
            f"{what} should run forward.",
            found=f"{times[at]:.6g} s, then {times[at + 1]:.6g} s at sample {at + 1:,} ({len(back):,} such places).",
            cause="several recordings in one array, a clock that was reset, or stamps rounded too far.",
            do="give each recording a file of its own, or mend the time stamps.",
        )
    return times


def preceding(times_s: NDArray[np.float64], at_s: NDArray[np.floating]) -> NDArray[np.int64]:
    """Index (k,) of the last of ``times_s`` (n,) that is not later than each of ``at_s`` (k,); -1 before the first."""
    return np.searchsorted(times_s, at_s, side="right").astype(np.int64) - 1


def interval_s(times_s: NDArray[np.float64]) -> float:
    """Median time between samples; infinite for fewer than two."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else np.inf


def held(times_s: NDArray[np.float64], at_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """As `preceding`, but -1 also where the preceding sample is older than two intervals: nothing is known there.

    Time stamps that are later by less than 1 % of an interval count as equal, so that rounding in a file does not
    choose the frame before.

    Parameters
    ----------
    times_s : (n,) float64
        When frames or samples were taken, strictly increasing.
    at_s : (k,) float64
        The clock to bring them to, strictly increasing.
    """
    mine, others = interval_s(times_s), interval_s(at_s)
    step = mine if np.isfinite(mine) else others if np.isfinite(others) else 1.0
    index = preceding(times_s, at_s + _TOLERANCE * step)
    longest = _HELD * max(step, others if np.isfinite(others) else step)
    age = at_s - times_s[np.maximum(index, 0)]
    return np.where((index >= 0) & (age < longest * (1 - _TOLERANCE)), index, -1)


def check_clocks(times_s: NDArray[np.float64], clock_s: NDArray[np.float64], *, what: str, where: str) -> None:
    """Refuse time stamps that never meet the clock of the responses, or are of another unit.

    Parameters
    ----------
    times_s : (n,) float64
        Time stamps of the video, or of behaviour, strictly increasing.
    clock_s : (k,) float64
        Those of the responses.
    what, where : str
        What has the time stamps, and the file, for messages.

    Raises
    ------
    Refused
        Naming both spans, and the factor where it is that of ms.
    """
    span, due = (float(one[-1] - one[0]) for one in (times_s, clock_s))
    step = interval_s(times_s)
    odd: tuple[str, str, int] | None = None
    if span > 0 and due > 0:
        longer, slower = span / due, step / interval_s(clock_s)
        for per_s, unit in _FINER.items():
            for times, steps, whose in ((longer, slower, what), (1 / longer, 1 / slower, "the responses")):
                # still pictures change slowly, but do not last a thousand times longer than the responses
                if 0.1 < times / per_s < 10 and steps > per_s / 100:
                    odd = whose, unit, per_s
    if odd is None and times_s[-1] + _HELD * (step if span > 0 else 0) >= clock_s[0] and times_s[0] <= clock_s[-1]:
        return
    raise Refused(
        f"{what} and responses of {where} should be on one clock, in seconds.",
        found=f"{what} from {times_s[0]:.6g} to {times_s[-1]:.6g}, responses from {clock_s[0]:.6g} to "
        f"{clock_s[-1]:.6g}.",
        cause=f"time stamps of {odd[0]} in {odd[1]}." if odd else "two clocks that started at different times.",
        do=f"give them in seconds: divide those of {odd[0]} by {odd[2]}."
        if odd
        else f"find the lag between the two clocks (from a trigger that both recorded), and add it to those of {what}.",
    )


def gaps(times_s: NDArray[np.float64]) -> list[tuple[int, float]]:
    """Places where samples are missing: (index of the sample before, seconds to the next)."""
    steps = np.diff(times_s)
    places = np.flatnonzero(steps > 1.5 * interval_s(times_s))
    return [(int(at), float(steps[at])) for at in places]


def gap_remark(times_s: NDArray[np.float64], *, what: str) -> list[str]:
    """What to tell the user about missing samples; empty if there are none."""
    found = gaps(times_s)
    if not found:
        return []
    longest = max(seconds for _, seconds in found)
    return [f"{what}: {len(found):,} gaps, the longest of {longest:.3g} s (first after sample {found[0][0]:,})"]


def rate_hz(times_s: NDArray[np.float64]) -> float:
    """Samples per second: one over the median interval."""
    return 1 / interval_s(times_s)


def check_rate(found_hz: float, wanted_hz: float, *, what: str) -> None:
    """Refuse a rate that differs from the recipe's by more than 1 %.

    Raises
    ------
    Refused
        Naming the factor, and the setting that would fit.
    """
    if found_hz > 0 and abs(found_hz / wanted_hz - 1) <= _TOLERANCE:
        return
    factor = found_hz / wanted_hz
    asked = f"{what} should have {wanted_hz:g} frames per second, as the recipe says."
    found = f"{found_hz:.4g} per second, {factor:.3g} times as many."
    for per_s, unit in _FINER.items():
        if 0.2 < factor * per_s < 5:
            raise Refused(
                asked, found=found, cause=f"time stamps in {unit}.", do=f"give them in seconds: divide by {per_s}."
            )
    raise Refused(
        asked,
        found=found,
        do=f"resample the recording, or take a recipe of its rate: --set samples.rate_hz={found_hz:.4g}. Video and "
        "behaviour of another rate than the responses need time stamps.",
    )


def check_lengths(lengths: Mapping[str, int], *, where: str) -> None:
    """Refuse arrays of one trial or recording that differ in length: nothing is ever cut silently.

    Parameters
    ----------
    lengths : mapping of str to int
        Frames of each array; the first is what the others should have.
    where : str
        The trial or recording, for messages.
    """
    (first, due), *others = lengths.items()
    wrong = [f"{name} {length:,}" for name, length in others if length != due]
    if wrong:
        raise Refused(
            f"arrays of {where} should be equally long.",
            found=f"{first} {due:,} frames, but {', '.join(wrong)}.",
            cause="arrays at different rates, or one that was cut short.",
            do="fill what was not recorded with NaN (behaviour and pupil only), or give time stamps "
            "(video_time_s, response_time_s, behaviour_time_s).",
        )
