"""How well a prediction agrees with responses that differ from repeat to repeat (Schoppe et al. 2016).

R repeats as given and N as used, T frames (clips one after another), C clips, n neurons. Every variance divides by the
number of frames (ddof 0): a formula that mixes two kinds is wrong by a few per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused

Real = NDArray[np.float64]

_VALUES = 2**23
_FLAT = 1e-6
"""Standard deviation over mean below which numbers differ by rounding only."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Agreement of each neuron; NaN where it is undefined.

    Parameters
    ----------
    single : ndarray (n,) float64
        Single-trial correlation: over all frames of all repeats together; NaN where the responses are constant.
    absolute : ndarray (n,) float64
        CC_abs, the correlation of the mean prediction with the mean response ("correlation to average").
    maximum : ndarray (n,) float64
        CC_max = sqrt(SP / Var(mean response)), what the true rate would reach; NaN where SP is not positive.
    normalised : ndarray (n,) float64
        CC_norm = CC_abs / CC_max; not clipped, so that noise may lift single neurons above 1.
    signal_power : ndarray (n,) float64
        SP = (N Var(mean response) - mean of Var(response of one repeat)) / (N - 1); NaN with one repeat.
    flat : ndarray (n,) bool
        The prediction does not vary: it explains nothing, and its correlations count as 0.
    """

    single: Real
    absolute: Real
    maximum: Real
    normalised: Real
    signal_power: Real
    flat: NDArray[np.bool_]

    @property
    def undefined(self) -> NDArray[np.bool_]:
        """Neurons (n,) whose CC_norm cannot be had: no signal power, constant responses, or one repeat."""
        return np.isnan(self.normalised)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the frames of each clip, from which agreement follows for any choice of clips.

    Parameters
    ----------
    frames : ndarray (C,) float64
        Frames of each clip that are judged.
    prediction, response : ndarray (C, 5, n), (C, 2, N, n) float64
        Sums of p, p p, p ybar, ybar, ybar ybar with p the mean prediction and ybar the mean response; and of y and
        y y of each repeat; about an arbitrary level of each neuron.
    trials : ndarray (C, 3, n) float64
        Sums over repeats as well: q, q q and q y with q the prediction for that repeat.
    levels : ndarray (2, n) float64
        The levels taken off the responses and off the predictions.
    clips : tuple of int
        Numbers of the clips that are judged.
    remarks : tuple of str
        Trials that were left out, and why.
    """

    frames: Real
    prediction: Real
    response: Real
    trials: Real
    levels: Real
    clips: tuple[int, ...]
    remarks: tuple[str, ...]

    @property
    def repeats(self) -> int:
        """N."""
        return self.response.shape[2]

    def reliability(self, times: NDArray[Any] | None = None) -> Reliability:
        """Agreement over all clips, or with clip c taken ``times[c]`` times: (C,), not all zero."""
        weight = np.ones(len(self.frames)) if times is None else np.asarray(times, np.float64)
        total, n = float(weight @ self.frames), self.repeats
        p, pp, pb, b, bb = np.tensordot(weight, self.prediction, 1) / total
        y, yy = np.tensordot(weight, self.response, 1) / total
        q, qq, qy = np.tensordot(weight, self.trials, 1) / (total * n)
        response, prediction = b + self.levels[0], p + self.levels[1]
        average = _varies(bb - b * b, response)
        each = yy - y * y
        pooled = _varies(yy.mean(axis=0) - b * b, response)
        explained, apart = _varies(pp - p * p, prediction), _varies(qq - q * q, prediction)
        absolute = _correlation(pb - p * b, explained, average)
        one = _correlation(qy - q * b, apart, pooled)
        power = (n * average - each.mean(axis=0)) / (n - 1) if n > 1 else np.full(len(average), np.nan)
        # equal repeats give a power of zero but for rounding
        defined = (average > 0) & (power > 1e-12 * average)
        maximum = np.sqrt(np.divide(power, average, out=np.full_like(average, np.nan), where=defined))
        return Reliability(one, absolute, maximum, absolute / maximum, power, explained == 0)


def reliability(
    predicted: NDArray[np.floating[Any]],
    observed: NDArray[np.floating[Any]],
    *,
    clips: Sequence[int] | None = None,
    burn_in: int = 0,
) -> Reliability:
    """Agreement over the frames of all clips together; parameters as in `moments`.

    Clips are put one after another before anything is correlated: a mean of correlations of clips is another number.
    """
    return moments(predicted, observed, clips=clips, burn_in=burn_in).reliability()


def moments(
    predicted: NDArray[np.floating[Any]],
    observed: NDArray[np.floating[Any]],
    *,
    clips: Sequence[int] | None = None,
    burn_in: int = 0,
) -> Moments:
    """Sums of predictions and responses over the frames of each clip.

    All clips are judged on equally many repeats N, because the formulas know one N: trials that are missing are left
    out, and N is chosen so that most frames of most repeats stay.

    Parameters
    ----------
    predicted : ndarray (T, n) or (R, T, n) floating
        One prediction for all repeats, or one for each, where behaviour differs between them: its mean is judged, and
        each by its own repeat in the single-trial correlation.
    observed : ndarray (R, T, n) floating
        Responses; NaN in all neurons where a repeat is missing.
    clips : sequence of int, optional
        Length of each clip, in frames; by default T is one clip.
    burn_in : int
        Frames at the start of each clip that are not judged.

    Returns
    -------
    Moments

    Raises
    ------
    Refused
        Shapes that do not fit, predictions that are not finite, responses missing in single neurons, no complete
        trial, or no frame after the burn-in.
    """
    _fits(predicted, observed)
    frames, n = observed.shape[1:]
    lengths = [frames] if clips is None else [int(length) for length in clips]
    if sum(lengths) != frames or min(lengths, default=0) < 1:
        raise Refused(
            "the lengths of the clips should add up to the frames.", found=f"{sum(lengths)} of {frames} frames."
        )
    ends = np.cumsum(lengths)
    parts = [slice(int(end - length + burn_in), int(end)) for end, length in zip(ends, lengths, strict=True)]
    there = np.array([_complete(observed, part) for part in parts])
    n_repeats, judged, remarks = _balanced(there, np.array(lengths) - burn_in, burn_in)
    kept = {c: np.flatnonzero(there[c])[:n_repeats] for c in judged}
    size = len(judged)
    prediction, response = np.empty((size, 5, n)), np.empty((size, 2, n_repeats, n))
    trials, levels = np.empty((size, 3, n)), np.empty((2, n))
    step = max(1, _VALUES // (n_repeats * max(lengths)))
    for start in range(0, n, step):
        some = slice(start, start + step)
        for i, c in enumerate(judged):
            y = np.asarray(observed[kept[c], parts[c], some], np.float64)
            q = np.asarray(predicted[kept[c], parts[c], some] if predicted.ndim == 3 else predicted[parts[c], some])
            q = q.astype(np.float64)
            # sums about a level near the mean do not cancel
            if i == 0:
                levels[:, some] = y.mean(axis=(0, 1)), q.reshape(-1, q.shape[-1]).mean(axis=0)
            y, q = y - levels[0, some], q - levels[1, some]
            p, b = q.mean(axis=0) if q.ndim == 3 else q, y.mean(axis=0)
            prediction[i, :, some] = [v.sum(axis=0) for v in (p, p * p, p * b, b, b * b)]
            response[i, :, :, some] = y.sum(axis=1), (y * y).sum(axis=1)
            both = (q, q * q, q * y) if q.ndim == 3 else (n_repeats * q, n_repeats * q * q, n_repeats * q * b)
            trials[i, :, some] = [v.reshape(-1, v.shape[-1]).sum(axis=0) for v in both]
    used = np.array([parts[c].stop - parts[c].start for c in judged], np.float64)
    return Moments(used, prediction, response, trials, levels, tuple(judged), tuple(remarks))


def _varies(variance: Real, mean: Real) -> Real:
    """Variance, or 0 where numbers differ by rounding only."""
    return np.where(variance > (_FLAT * mean) ** 2, variance, 0.0)


def _correlation(shared: Real, predicted: Real, measured: Real) -> Real:
    """Correlation from a covariance and two variances: 0 where the prediction is flat, NaN where the response is."""
    result = np.where(measured > 0, 0.0, np.nan)
    np.divide(shared, np.sqrt(predicted * measured), out=result, where=predicted * measured > 0)
    return result


def _fits(predicted: NDArray[np.floating[Any]], observed: NDArray[np.floating[Any]]) -> None:
    right = observed.ndim == 3 and predicted.shape in {observed.shape, observed.shape[1:]}
    if not right or not observed.size:
        raise Refused(
            "predictions (T, n) or (R, T, n) should fit responses (R, T, n).",
            found=f"predictions {predicted.shape}, responses {observed.shape}.",
        )
    if not np.isfinite(predicted).all():
        raise Refused("predictions should be finite.", found=f"{int((~np.isfinite(predicted)).sum())} that are not.")


def _complete(observed: NDArray[np.floating[Any]], part: slice) -> list[bool]:
    """Whether each repeat of a clip is there: (R,)."""
    found: list[bool] = []
    for trial in observed:
        missing = ~np.isfinite(trial[part])
        whole = missing.all(axis=1)
        if (missing.any(axis=1) & ~whole).any():
            raise Refused(
                "a missing repeat should be missing for all neurons.",
                found=f"{int(missing.any(axis=0).sum())} of {missing.shape[1]} neurons hold NaN in one trial.",
                do="leave these neurons out.",
            )
        found.append(not whole.any())
    return found


def _balanced(there: NDArray[np.bool_], lengths: NDArray[np.int64], burn_in: int) -> tuple[int, list[int], list[str]]:
    """Repeats that all judged clips have, these clips, and what was left out."""
    held, remarks = there.sum(axis=1), list[str]()
    long = lengths > 0
    if not long.all():
        remarks.append(f"{int((~long).sum())} clips are not longer than the burn-in of {burn_in} frames")
    # more than one repeat wherever there is: with one, nothing can be said about noise
    counts = sorted({int(n) for n in held[long] if n > 0}, key=lambda n: (n > 1, n * lengths[long & (held >= n)].sum()))
    if not counts:
        raise Refused("some clip should have a complete repeat and frames after the burn-in.", found="none.")
    n = counts[-1]
    judged = np.flatnonzero(long & (held >= n))
    if (held[judged] > n).any():
        remarks.append(f"{int((held[judged] - n).sum())} trials left out: clips are judged on {n} repeats each")
    if short := int((long & (held < n)).sum()):
        remarks.append(f"{short} clips left out: they have fewer than {n} complete repeats")
    return n, [int(c) for c in judged], remarks
