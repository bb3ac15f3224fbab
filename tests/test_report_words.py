"""What a report says in words and in curves, of each system."""

from __future__ import annotations

from brodmann import verbs
from brodmann.maps import figures, numbers
from brodmann.maps.methods import methods
from brodmann.settings import plain


def test_what_was_judged_and_what_trained_stand_side_by_side() -> None:
    lines = [{"step": s, "loss": 2.0 - s, "lr": 0.1} for s in range(2)] + [
        {"step": s, "valid": 3.0 - s} for s in range(2)
    ]
    frame = numbers.learning(lines)
    assert frame["loss"].tolist() == [2.0, 1.0]
    assert frame["valid"].tolist() == [3.0, 2.0]
    assert any(len(line.get_xdata()) == 2 for line in figures.learning(lines).axes[0].lines)


def test_methods_tell_each_system() -> None:
    said = {
        name: methods(
            {**plain(verbs.recipe(name)), "system": name.partition("-")[0]},
            {"samples": 9, "sections": 2, "brains": 1, "space": "unregistered"},
            [],
        )
        for name in ("patches-tiny", "cells-tiny", "neurons-tiny")
    }
    assert "by SpatialNCE" in said["patches-tiny"]
    assert (
        "predict the counts of cells from their surroundings, by the negative binomial likelihood" in said["cells-tiny"]
    )
    assert "3-D convolutions (16-32-64 channels), shared by all animals" in said["neurons-tiny"]
    for text in said.values():
        assert " a ." not in text
        assert "not registered to a common space" in text
