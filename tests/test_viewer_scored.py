"""What the viewer says of numbers and classes of a score: a value is called what it is, and of which brains it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from brodmann.tasks._score import Score
from brodmann.viewer import colouring, scored

IDS = [f"n{number}" for number in range(8)]
BARS = np.array([0.0, 30, 60, 90, 120, 150, 179, 45])


def table(*, brains: int = 2) -> AnnData:
    """Eight rows with an orientation, of so many brains, dealt in turn."""
    subject = [f"B{1 + number % brains}" for number in range(8)]
    obs = pd.DataFrame({"id": IDS, "subject": subject, "orientation_deg": BARS}, index=IDS)
    return AnnData(X=np.zeros((8, 2), np.float32), obs=obs)


def score(
    task: str, values, *, target: str = "orientation_deg", metric: str = "median x", truth=(), classes=()
) -> Score:
    """A score whose first rows have values."""
    index = pd.Index(IDS[: len(values)], name="id")
    return Score(
        task=task, target=target, metric=metric, value=1.0, interval=(0.5, 1.5), n=len(values), n_groups=1,
        split="by some rule", classes=tuple(classes), predicted=pd.Series(values, index=index),
        truth=pd.Series(truth, index=index[: len(truth)]),
    )  # fmt: skip


def test_a_fitted_orientation_has_the_colour_of_the_measured_one():
    """The score speaks of motion; 90 degrees off the bars of the column, both get one colour on the ring."""
    motion = (BARS + 90) % 180
    said = scored.numbers(table(), "t", score("tuning", motion, truth=motion, metric="median orientation error, deg"))
    measured = colouring.angles("orientation_deg", BARS, period_deg=180.0)
    np.testing.assert_array_equal(said.palette[said.values], measured.palette[measured.values])
    assert (said.low, said.high) == (0, 180)
    assert "error" not in said.about
    assert "of the bars, deg" in said.about
    assert "both ends are the same" in said.about


@pytest.mark.parametrize(("target", "truth"), [("direction_deg", BARS), ("orientation", ())])
def test_an_orientation_of_motion_stays_one(target, truth):
    said = scored.numbers(table(), "t", score("tuning", BARS, target=target, truth=truth))
    measured = colouring.angles("x", BARS, period_deg=180.0)
    np.testing.assert_array_equal(said.values, measured.values)
    assert "of motion" in said.about


@pytest.mark.parametrize(
    ("task", "metric", "words"),
    [
        ("responses", "median CC_norm", "CC_norm of each neuron"),
        ("transfer", "median CC_norm after 4 min", "CC_norm after 4 min of each neuron"),
        ("properties", "R^2", "depth, predicted for held-out rows"),
        ("deviation", "mean absolute error", "depth, predicted for held-out rows"),
        ("search", "median mm", "mm from each held-out row"),
        ("a later task", "median x", "a number of the score for each of its rows"),
    ],
)
def test_a_number_is_that_of_its_row_and_no_median(task, metric, words):
    found = scored.numbers(table(), "t", score(task, BARS, target="depth", metric=metric))
    assert found.about.startswith(words)
    assert "median" not in found.about
    assert "mean absolute" not in found.about
    assert "the ends of the scale are the 1 and 99 % points" in found.about
    assert "by some rule" in found.about


@pytest.mark.parametrize(
    ("brains", "rows", "words"),
    [(2, 1, " of B1: "), (8, 3, " of B1, B2, B3: "), (8, 6, " of 6 of 8 brains: "), (2, 2, " of both brains: "),
     (3, 3, " of all 3 brains: "), (1, 1, "rows: ")],
)  # fmt: skip
def test_the_brains_that_were_held_out_are_named(brains, rows, words):
    many = table(brains=brains)
    assert words in scored.classes(many, "t", score("areas", ["V1"] * rows, target="area", classes=["V1"])).about
    assert words in scored.numbers(many, "t", score("properties", BARS[:rows], target="depth")).about


def test_a_row_without_a_value_names_no_brain_and_is_counted():
    found = scored.numbers(table(), "t", score("properties", [1.0, np.nan, 2.0], target="depth"))
    assert " of B1: " in found.about
    assert found.plain()["unknown"] == 6


def test_what_a_scale_is_of_does_not_hide_where_it_ends():
    found = colouring.numbers("similarity", np.arange(9.0), share=(2, 99.8), about="cosine of the features")
    assert found.about == "cosine of the features; the ends of the scale are the 2 and 99.8 % points"
    assert colouring.numbers("x", np.arange(9.0), ends=(0.0, 1.0), about="log").about == "log"
