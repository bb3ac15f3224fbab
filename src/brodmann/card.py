"""The model card: what weights were trained on, how, what they expect, and what they do not know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from brodmann import settings as recipes
from brodmann.start import sentences
from brodmann.systems import name_of


def card(recipe: Any, source: Any, samples: Any, start: Mapping[str, Any] | None = None) -> str:
    """Markdown that goes with the weights of a run.

    Parameters
    ----------
    recipe : Recipe
        Of any system.
    source : Source
        The data that it was trained on.
    samples : Samples
        Those of the training, see `brodmann.samples.Samples`.
    start : mapping, optional
        Whose weights it began with, as in ``run.json``.
    """
    system = name_of(recipe)
    trained, limits = _SAID[system](recipe, samples)
    lines = [
        f"# {system} model",
        "",
        f"Trained on {trained} of '{source.name}', in space '{samples.space.name}'.",
        *sentences(start or {}),
        "",
        "## Input contract",
        *(f"- {key}: {value}" for key, value in recipes.plain(recipe.samples).items()),
        "",
        "## Limits",
        *(f"- {limit}" for limit in [*limits, _held_out(recipe, source, samples)]),
    ]
    return "\n".join(lines) + "\n"


def _brains(samples: Any) -> str:
    subjects = samples.places["subject"].nunique()
    return f"{samples.places['section'].nunique():,} sections and {subjects:,} brain{'s' * (subjects > 1)}"


def _held_out(recipe: Any, source: Any, samples: Any) -> str:
    unit = {"brain": "animal"}.get(recipe.split.by, recipe.split.by)
    if recipe.split.fold is None:
        return f"Nothing was held out: a score on these data is not one of {unit}s that the weights never saw."
    if recipe.split.by != "brain":
        return f"Fold {recipe.split.fold} of {recipe.split.folds}, by {unit}, was held out."
    every = {str(one.subject) for one in getattr(source, "recordings", None) or source.sections}
    unseen = sorted(every - set(samples.places["subject"].astype(str)))
    return f"Held out whole, never seen: {', '.join(unseen)}."


def _patches(recipe: Any, samples: Any) -> tuple[str, list[str]]:
    untested = "Other stains, species or pixel sizes than above are untested; embed refuses none of them."
    if (tune := recipe.tune) and tune.kind == "layers":
        origin, encoder = (
            samples.learned.origin(),
            "fitted to labels" if tune.encoder == "tuned" else "kept as it began",
        )
        learned, drawn = len(origin["ids"]), len(origin["sections"])
        return f"{learned:,} labelled patches of {drawn:,} section{'s' * (drawn > 1)}", [
            f"Supervised by drawn layers ({', '.join(samples.learned.classes)}): the encoder was {encoder}, its "
            "decoder learned the class of every pixel. config.json names the patches.",
            "It tells no layer that it was not taught, and says nothing of how sure it is.",
            untested,
        ]
    if tune:
        learned, checked, names = len(samples.learned), len(samples.held), len(samples.classes)
        encoder = "fitted to labels" if tune.encoder == "tuned" else "kept as it began"
        return f"{learned:,} labelled patches of {_brains(samples)}", [
            f"Supervised by the column '{tune.target}' ({names} classes): the encoder was {encoder}, its head learned "
            f"from these labels, and {checked:,} more on other sections set its temperature and threshold.",
            "The head names no class that it was not taught; its probabilities are calibrated on brains it knows.",
            untested,
        ]
    return f"{len(samples):,} patches of {_brains(samples)}", [
        "Self-supervised on places: features are meant to differ where the brain differs, not to be anatomy.",
        untested,
    ]


def _cells(recipe: Any, samples: Any) -> tuple[str, list[str]]:
    genes = f", {len(samples.genes):,} genes" if len(samples.genes) else ""
    return f"{len(samples):,} cells{genes} of {_brains(samples)}", [
        "Self-supervised on counts: a cell's own are hidden and predicted from its neighbours; no label took part.",
        "Genes are known by name: data with less than half of them are refused, what is missing is said.",
        "Other species, platforms or kinds of tissue are untested; embed refuses none of them.",
    ]


def _neurons(recipe: Any, samples: Any) -> tuple[str, list[str]]:
    kept = [one.recording for one in samples.kept]
    animals = len({one.subject for one in kept})
    minutes = sum(len(one.frames("train")) / one.rate_hz for one in kept) / 60
    known = {name for one in kept for name, share in _recorded(one).items() if share}
    size = recipe.samples
    return (
        f"{len(samples):,} neurons in {len(kept):,} recording{'s' * (len(kept) > 1)} of {animals:,} "
        f"animal{'s' * (animals > 1)}, {minutes:,.1f} minutes of training trials in all,"
    ), [
        "Supervised by responses: weights were found that predict what the neurons answered. Tuning, area and wiring "
        "took no part.",
        f"Videos of {size.height_px} x {size.width_px} px at {size.rate_hz:g} frames per second; others are refused.",
        f"Behaviour that it has seen: {', '.join(sorted(known)) or 'none'}. What is missing is taken as its mean.",
        "New animals are adopted: the core is kept, each neuron's place and readout are solved from its own training "
        "trials.",
        "Stimuli unlike those it was trained on, other species, indicators or units of response are untested.",
    ]


def _recorded(recording: Any) -> dict[str, bool]:
    """Which behaviour a recording has; a look at every hundredth frame."""
    found = {name: recording.behaviour[::100, at] for at, name in enumerate(("pupil radius", "running"))}
    return {
        name: bool((values == values).any()) for name, values in {**found, "gaze": recording.pupil[::100, 0]}.items()
    }


_SAID: dict[str, Callable[[Any, Any], tuple[str, list[str]]]] = {
    "patches": _patches,
    "cells": _cells,
    "neurons": _neurons,
}
