"""What the model predicts for what was never trained on, beside what the neurons did: repeats of test clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.neurons.samples import Clip, Kept, NeuronSamples

Floats = NDArray[np.float32]
Predict = Callable[[Kept, Clip], Floats]
"""Predicted responses (T, n) of a recording's neurons to a clip, in units of their training mean."""


def answers(
    samples: NeuronSamples, predict: Predict, rivals: Mapping[str, Predict] | None = None, *, part: str = "test"
) -> Iterator[dict[str, Any]]:
    """Predicted and observed responses of every recording to every kind of stimulus of one part.

    Every repeat is predicted from what the animal did in it: pupil and running differ though the video is the same.

    Parameters
    ----------
    samples : NeuronSamples
    predict : callable
        The model's prediction.
    rivals : mapping of str to callable, optional
        Other predictions of the same.
    part : str
        Part of the trials.

    Yields
    ------
    dict
        The fields of `brodmann.tasks.responses.Answer`.
    """
    places = samples.places
    for kept in samples.kept:
        trials = kept.recording.trials
        trials = cast("pd.DataFrame", trials[trials["part"] == part])
        ids = places["id"].to_numpy(dtype=object)[kept.first : kept.first + len(kept.columns)]
        for domain in _ordered(kept, trials):
            shown = cast("pd.DataFrame", trials[trials["domain"] == domain])
            repeats = int(shown["clip"].value_counts().max())
            lengths = {str(name): int(one["frames"].min()) for name, one in shown.groupby("clip", sort=False)}
            observed = _blank(lengths, repeats, len(ids))
            found = {name: _blank(lengths, repeats, len(ids)) for name in ("", *(rivals or {}))}
            start = 0
            for name, length in lengths.items():
                for repeat, trial in enumerate(_rows(cast("pd.DataFrame", shown[shown["clip"] == name]))):
                    clip = Clip(kept.recording, int(trial["frame"]), int(trial["video"]), length)
                    at = (repeat, slice(start, start + length))
                    observed[at] = clip.responses()[:, kept.columns]
                    for rival, made in {"": predict, **(rivals or {})}.items():
                        found[rival][at] = made(kept, clip)
                start += length
            yield {
                "subject": kept.recording.subject,
                "recording": kept.recording.id,
                "domain": str(domain),
                "ids": ids,
                "predicted": found.pop(""),
                "observed": observed,
                "clips": lengths,
                "rivals": found,
            }


def _ordered(kept: Kept, trials: pd.DataFrame) -> list[str]:
    """Kinds of stimulus of some trials, those that the recording was trained on most before the others."""
    taught = kept.recording.trials[kept.recording.trials["part"] == "train"].groupby("domain", observed=True)["frames"]
    frames = taught.sum().to_dict()
    return sorted(dict.fromkeys(trials["domain"].astype(str)), key=lambda name: (-frames.get(name, 0), name))


def _blank(lengths: Mapping[str, int], repeats: int, neurons: int) -> Floats:
    return np.full((repeats, sum(lengths.values()), neurons), np.nan, np.float32)


def _rows(trials: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(trials.columns, row, strict=True)) for row in trials.itertuples(index=False)]
