"""Colours of what a score says of its rows, and the words that say what a reader sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.maps import labels
from brodmann.tasks._score import Score
from brodmann.viewer import colouring
from brodmann.viewer.colouring import Colouring

if TYPE_CHECKING:
    from anndata import AnnData

_NAMED = 4
"""Brains that are named one by one."""
_MOTION = "direction_deg"
"""The column that tells the direction of motion; others tell the orientation of bars, at a right angle to it."""


def classes(table: AnnData, title: str, score: Score) -> Colouring:
    """Predicted classes, in the colours of their truth.

    Parameters
    ----------
    table : AnnData
        Feature table (n rows).
    title : str
    score : Score
        With classes and predictions.
    """
    known = list(score.classes)
    if score.target in cast("pd.DataFrame", table.obs):
        known += labels.used(labels.column(table, score.target))
    names = labels.aligned(table, score.predicted)
    about = f"held-out rows{_brains(table, labels.codes(names) >= 0)}: {score.split}"
    return colouring.classes(title, names, labels.Key.of(known), about=about)


def numbers(table: AnnData, title: str, score: Score) -> Colouring:
    """Numbers of single rows, by what they are: a task's headline is a median or an error of them, or of their error.

    Fitted orientations are angles: on the ring, and turned back to the bars where the column that they were compared
    with is of bars, so that both have the same colours.

    Parameters
    ----------
    table : AnnData
        Feature table (n rows).
    title : str
    score : Score
        With numbers as predictions.
    """
    values = score.predicted.reindex(labels.ids(table)).to_numpy(np.float64)
    of, one = _brains(table, np.isfinite(values)), score.metric.removeprefix("median ")
    if score.task == "tuning":
        # without a known orientation the score speaks of motion, too
        bars = len(score.truth) > 0 and score.target != _MOTION
        about = f"orientation of {'the bars' if bars else 'motion'}, deg, fitted to the model's answers to gratings"
        about += f", for neurons{of}"
        return colouring.angles(title, values - 90 * bars, period_deg=180.0, about=f"{about}: {score.split}")
    about = {
        "properties": f"{score.target}, predicted for held-out rows{of}",
        "deviation": f"{score.target}, predicted for held-out rows{of}",
        "responses": f"{one} of each neuron{of}",
        "transfer": f"{one} of each neuron{of}",
        "search": f"mm from each held-out row{of} to the place that looks most like it",
    }.get(score.task, f"a number of the score for each of its rows{of}")
    return colouring.numbers(title, values, about=f"{about}: {score.split}")


def _brains(table: AnnData, known: NDArray[np.bool_]) -> str:
    """Of which brains the rows are that have a value, in words that follow 'rows'."""
    column = labels.column(table, "subject")
    every, here = labels.used(column), np.unique(labels.codes(column)[known])
    names = [str(column.categories[code]) for code in here if code >= 0]
    if not names or len(every) == 1:
        return ""
    if len(names) == len(every):
        return " of both brains" if len(every) == 2 else f" of all {len(every)} brains"
    return f" of {', '.join(names)}" if len(names) <= _NAMED else f" of {len(names)} of {len(every)} brains"
