"""Training that begins with the weights of a trained run: which of them fit, and what that run must not have seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import Tensor, nn

from brodmann import manifest, splits
from brodmann import settings as recipes
from brodmann.errors import Changed, Leak, Refused, Usage
from brodmann.run import Run
from brodmann.settings import plain
from brodmann.splits import Fold
from brodmann.systems import name_of, system

_INPUT = {
    "patches": ("size_px", "pixel_um", "channels", "standardise"),
    "cells": ("components", "equalise", "types"),
    "neurons": ("rate_hz", "height_px", "width_px"),
}
"""Settings of samples that decide what an encoder sees: its weights mean nothing under others."""


@dataclass(frozen=True, eq=False)
class Start:
    """What a run begins with.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights of the trained run.
    config : mapping
        What rebuilds its model beside the recipe.
    about : mapping
        What the new run keeps in ``run.json``: ``run`` (path), ``weights`` (SHA-256), ``recipe_hash``, ``source``
        (fingerprint of its data), ``split`` and ``samples`` (its settings), ``other_data`` (whether these are not the
        new run's), ``before`` (what it began with itself).
    """

    state: Mapping[str, Tensor]
    config: Mapping[str, Any]
    about: Mapping[str, Any]


def read(start: Run | str | Path | None, recipe: Any, source: Any, samples: Any, out: str | Path) -> Start | None:
    """The weights that a run begins with, once it is proven that they may be used; None without a start.

    Parameters
    ----------
    start : Run, path or None
        A trained run of the same system.
    recipe : Recipe
        Of the new run.
    source, samples
        Its data and its training samples.
    out : path
        Its folder.

    Raises
    ------
    Changed
        The folder belongs to a run with another start, or with none.
    Refused
        Another architecture or input, or a start that has learned from tissue that the new run holds out.
    Usage
        A frozen encoder without a start, or a start of another system.
    """
    found = None if start is None else _opened(start, recipe, source, samples)
    _unchanged(Path(out), None if found is None else found.about)
    if found is None and getattr(getattr(recipe, "tune", None), "encoder", "") == "frozen":
        raise Usage(
            'tune.encoder = "frozen" keeps the weights of a trained run.', found="no start.",
            do='name one with --start, or set tune.encoder = "tuned".',
        )  # fmt: skip
    return found


def begin(model: nn.Module, start: Start | None) -> list[str]:
    """Give a new model the weights of its start; returns what should be said of it.

    A model may offer ``begin(state, config)``, which gives the tensors that it takes over, by its own names; otherwise
    these are all of its encoder's.

    Raises
    ------
    Refused
        Tensors that it does not have, or has in another shape.
    """
    if start is None:
        return []
    own = model.state_dict()
    if taking := getattr(model, "begin", None):
        taken = cast("dict[str, Tensor]", taking(start.state, start.config))
        # a model may have changed its shape to that of the start
        own = model.state_dict()
    else:
        taken = {name: value for name, value in start.state.items() if name.startswith("encoder.")}
    wrong = [f"{name} is missing" for name in own if name.startswith("encoder.") and name not in start.state]
    wrong += [f"{name} is unknown" for name in taken if name not in own]
    wrong += [
        f"{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in taken.items()
        if name in own and own[name].shape != value.shape
    ]
    if wrong or not taken:
        raise Refused(
            "weights to begin with should have the names and shapes of this recipe's.",
            found=f"{len(wrong)} differ: {'; '.join(wrong[:4])}{'; ...' if len(wrong) > 4 else ''}.",
            cause="a start with another architecture, or of other data.",
        )
    model.load_state_dict(taken, strict=False)
    return sentences(start.about)


def sentences(about: Mapping[str, Any]) -> list[str]:
    """What a reader should know of a start as it stands in ``run.json``: for the model card, and before training."""
    if not about:
        return []
    said = f"Its weights began as those of run '{Path(str(about['run'])).name}' (SHA-256 {str(about['weights'])[:12]})"
    split, shared = cast("Mapping[str, Any]", about["split"]), "trained on the same data"
    held = f"with fold {split['fold']} by {split['by']} held out" if "fold" in split else "with nothing held out"
    lines = [f"{said}, {'trained on other data' if about['other_data'] else f'{shared}, {held}'}."]
    if unknown(about):
        lines.append("Whether data seen by that run, or by one before it, hold what is held out here is not known.")
    return lines


def unknown(about: Mapping[str, Any]) -> bool:
    """Whether a start, or one before it, has learned from other data than the run that began with it."""
    return any(bool(one["other_data"]) for one in _line(about))


def _opened(start: Run | str | Path, recipe: Any, source: Any, samples: Any) -> Start:
    run = start if isinstance(start, Run) else Run.load(start)
    if run.system != name_of(recipe):
        raise Usage(
            f"a run of {name_of(recipe)} should begin with one of {name_of(recipe)}.",
            found=f"'{run.path.name}' is of {run.system}.",
        )
    theirs = recipes.build(system(run.system).Recipe, run.recipe_values, where=f"{run.path.name}/recipe.toml")
    _same_input(run, recipe, theirs)
    state, config = run.weights()
    listed = manifest.read(run.path / "weights") or {}
    origin = str(config.get("source", ""))
    about: dict[str, Any] = {
        "run": str(run.path),
        "weights": str(listed["model.safetensors"]["sha256"]),
        "recipe_hash": run.recipe_hash,
        "source": origin,
        "split": plain(theirs)["split"],
        "samples": plain(theirs)["samples"],
        "other_data": origin != source.fingerprint,
        **({"before": json.loads(json.dumps(run.start))} if run.start else {}),
    }
    # each start before this one was compared with its own successor's data, which may not have been these
    for before in _line(about.get("before")):
        before["other_data"] = before["source"] != source.fingerprint
    if recipe.split.fold is not None:
        _unseen(run, recipe, theirs, source, samples, about)
    return Start(state, config, about)


def _same_input(run: Run, recipe: Any, theirs: Any) -> None:
    """Refuse a start with another architecture, or one that was shown something else."""
    ours, there = plain(recipe), plain(theirs)
    keys = _INPUT[run.system]
    lines = recipes.diff(
        {"encoder": there["encoder"], "samples": {key: there["samples"].get(key) for key in keys}},
        {"encoder": ours["encoder"], "samples": {key: ours["samples"].get(key) for key in keys}},
    )
    if lines:
        raise Refused(
            f"the recipe should have the encoder and the input of '{run.path.name}', whose weights it begins with.",
            found=f"{'; '.join(lines)}.",
            cause="a start that was trained with another recipe.",
            do="set these keys to the start's values, or begin with another run.",
        )


def _unseen(run: Run, recipe: Any, theirs: Any, source: Any, samples: Any, about: Mapping[str, Any]) -> None:
    """Refuse a start that learned from rows, or from their neighbourhood, that the new run holds out."""
    ours = plain(recipe)
    for number, one in enumerate(_line(about)):
        if one["other_data"] or (one["split"] == ours["split"] and one["samples"] == ours["samples"]):
            continue
        if number:
            # its recipe is not at hand any more, so that its rows cannot be listed
            raise _leak(
                run, recipe, f"an earlier start, '{Path(str(one['run'])).name}', had another split of these data"
            )
        everything = system(run.system).samples(source, recipe, part="all")
        learned = system(run.system).samples(source, theirs, part="train").places
        held = everything.places.iloc[splits.folds(everything.places, recipe.split)[0].test]
        both = pd.concat([learned, held], ignore_index=True)
        fold = Fold(np.arange(len(learned)), np.arange(len(learned), len(both)), "held out")
        try:
            splits.prove(both, fold, recipe.split)
        except Leak as error:
            raise _leak(run, recipe, error.found) from error


def _leak(run: Run, recipe: Any, found: str) -> Refused:
    return Refused(
        f"'{run.path.name}' should not have learned from what this run holds out (fold {recipe.split.fold} by "
        f"{recipe.split.by}).",
        found=found,
        cause="it was trained on everything, or with another fold held out.",
        do="begin with a run of the same split.fold, or hold the same fold out here.",
    )


def _line(about: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A start, the start of that start, and so on."""
    one = cast("dict[str, Any] | None", about or None)
    while one:
        yield one
        one = cast("dict[str, Any] | None", one.get("before"))


def _unchanged(out: Path, about: Mapping[str, Any] | None) -> None:
    """Refuse to go on with a run that began with something else."""
    try:
        known = cast("dict[str, Any]", json.loads((out / "run.json").read_text()))
    except (OSError, ValueError):
        return  # no run yet, or one whose damage is told when it is opened
    before = cast("Mapping[str, Any]", known.get("start") or {})
    ours = about or {}
    if before.get("weights") != ours.get("weights"):
        raise Changed(
            f"the start should be the one that {out} was made with.",
            found=f"start: {_named(before)} -> {_named(ours)}.",
            do="use another folder, or name the same start again.",
        )


def _named(about: Mapping[str, Any]) -> str:
    if not about:
        return "(none)"
    return f"'{Path(str(about['run'])).name}' (weights {str(about['weights'])[:12]})"
