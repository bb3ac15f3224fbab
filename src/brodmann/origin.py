"""Where the weights of a derived run come from, and which tissue they were kept from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from brodmann import manifest, splits
from brodmann.errors import Refused
from brodmann.run import Run
from brodmann.settings import Split

NAME = "origin.json"


def weights_of(run: Run) -> str:
    """SHA-256 of the list of a run's weights: equal for equal weights, whatever folder they lie in."""
    return manifest.sha256(run.path / "weights" / manifest.NAME)


def held_out(places: pd.DataFrame, split: Split) -> list[str]:
    """Names of the units (brains, sections, blocks) in the fold that the split keeps from training; sorted."""
    if split.fold is None:
        return []
    fold = splits.folds(places, split)[0]
    return sorted(set(splits.groups(places, split)[fold.test].tolist()))


def note(run: Run, parent: Run, changes: Sequence[str], held: Sequence[str]) -> None:
    """Write down, in a derived run, whose weights it has, what differs, and what they were kept from."""
    values = {"run": str(parent.path), "weights": weights_of(parent), "changes": [*changes], "held_out": [*held]}
    run.write_text(NAME, json.dumps(values, indent=1) + "\n")


def read(run: Run) -> dict[str, Any] | None:
    """What `note` wrote; None for a run that was trained itself."""
    path = run.path / NAME
    return cast("dict[str, Any]", json.loads(path.read_text())) if path.is_file() else None


def encoder_fold(run: Run, split: Split, places: pd.DataFrame, *, same_data: bool) -> int:
    """Fold of these places that the run's encoder never saw; -1 if there is none.

    The folds of other places may be dealt otherwise, where a section or a block has places now and had none before.
    Then no fold is held out, which is what scores will say. Of other data (not ``same_data``) nothing is known, which
    the table says itself.
    """
    noted = read(run)
    if split.fold is None or noted is None or not same_data:
        return -1 if split.fold is None else split.fold
    units = set(splits.groups(places, split).tolist())
    try:
        return split.fold if set(held_out(places, split)) == set(noted["held_out"]) & units else -1
    except Refused:  # fewer units than folds
        return -1
