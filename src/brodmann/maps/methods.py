"""The methods paragraph, from the recipe and the data: for a paper, to copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from brodmann.maps.shown import Shown, plain

LABELS = {
    "areas": "It and a linear head learned '{target}' from {some} by cross-entropy, in batches of evenly drawn classes",
    "layers": (
        "It and a decoder of its maps learned the layer of every pixel from {some} by cross-entropy and soft Dice "
        "(weight {dice:g})"
    ),
}
"""What a model learned from labels, in words, by the kind of the recipe's ``tune``."""

LOSSES = {
    "spatialnce": (
        "the encoder was trained without labels by SpatialNCE: for each patch, the negative mean log-probability of "
        "its partners under a softmax over the other patches of the batch, of cosine similarities divided by a "
        "temperature of {temperature}"
    ),
}
"""Losses in words, by the name of the recipe's objective."""


def methods(
    recipe: Mapping[str, Any], data: Mapping[str, Any], scores: Sequence[Shown], *, steps: int | None = None
) -> str:
    """Paragraph on data, samples, model, training and evaluation; says nothing that it does not know.

    Parameters
    ----------
    recipe : mapping
        Parsed recipe (plain values).
    data : mapping
        Any of ``name``, ``brains``, ``sections``, ``samples``, ``space``, ``fingerprint``, ``noun`` ("patches").
    scores : sequence of Shown
    steps : int, optional
        Steps really done, from the log.
    """
    system = str(recipe.get("system", "samples"))
    noun = str(data.get("noun", system if system in {"patches", "cells", "neurons"} else "samples"))
    said = [_data(data, noun), *_samples(_part(recipe, "samples"), noun), *_model(recipe, steps)]
    said += [_score(score) for score in scores]
    return " ".join(sentence for sentence in said if sentence)


def _part(recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = recipe.get(name, {})
    return dict(cast("Mapping[str, Any]", part)) if isinstance(part, Mapping) else {}


def _data(data: Mapping[str, Any], noun: str) -> str:
    counted = [("samples", noun), ("sections", "sections"), ("brains", "brains")]
    found = [
        f"{int(data[key]):,} {word if int(data[key]) != 1 else word[:-1]}" for key, word in counted if data.get(key)
    ]
    if not found:
        return ""
    of = f" of {data['name']}" if data.get("name") else ""
    where = f", placed in the space '{data['space']}' (mm)" if data.get("space") else ""
    where = ", not registered to a common space" if data.get("space") == "unregistered" else where
    listed = found[0] + (f" on {found[1]} from {found[2]}" if len(found) == 3 else "".join(f", {f}" for f in found[1:]))
    return f"We analysed {listed}{of}{where}."


def _samples(part: Mapping[str, Any], noun: str) -> list[str]:
    size, pixel = part.get("size_px"), part.get("pixel_um")
    if not (isinstance(size, int | float) and isinstance(pixel, int | float)):
        return []
    field = f"{size:g} x {size:g} pixels of {pixel:g} µm, a field of {size * pixel / 1000:.2g} mm"
    where = {"grid": "on a grid over tissue", "ribbon": "along the cortical ribbon", "points": "at given points"}
    placed = where.get(str(part.get("where")), "")
    spacing = f", {part['spacing_mm']:g} mm apart" if isinstance(part.get("spacing_mm"), int | float) else ""
    upright = " and turned so that the pia is up" if part.get("where") == "ribbon" and part.get("upright", True) else ""
    return [f"{noun.capitalize()} ({field}) were taken {placed or 'from the sections'}{spacing}{upright}."]


def _model(recipe: Mapping[str, Any], steps: int | None) -> list[str]:
    encoder, objective, partners, fit = (_part(recipe, name) for name in ("encoder", "objective", "partners", "fit"))
    said: list[str] = []
    network = NETWORKS.get(str(recipe.get("system")))
    if network:
        said += network(recipe)
    elif encoder:
        detail = "-".join(str(encoder[key]) for key in ("kind", "depth", "size") if key in encoder)
        for kind, name in (("resnet", "ResNet"), ("convnext", "ConvNeXt"), ("vit", "ViT")):
            detail = detail.replace(kind, name)
        said.append(f"The encoder was a {detail}.")
    kind = str(objective.get("kind", "spatialnce" if partners and objective else "")).lower()
    if tune := _part(recipe, "tune"):
        some = f"{tune['labels']:,} labelled" if isinstance(tune.get("labels"), int) else "labelled"
        some = f"{some} patches of its training sections"
        what = LABELS[str(tune.get("kind", "areas"))].format(
            some=some, target=tune.get("target"), dice=tune.get("dice", 0)
        )
        kept = tune.get("encoder") == "frozen"
        said.append(what.replace("It and", "It stayed as it began, and") + "." if kept else f"{what}.")
    elif kind in LOSSES:
        sentence = LOSSES[kind].format(temperature=objective.get("temperature", "0.1"))
        reach = partners.get("reach_mm")
        if reach == 0:
            sentence += "; the only partner of a patch was its own second augmented view (SimCLR)"
        elif isinstance(reach, int | float):
            along = "along the cortical sheet" if partners.get("metric") == "sheet" else "in space"
            scope = {"within": "of the same brain", "across": "of other brains", "both": "of the same or other brains"}
            whose = scope.get(str(partners.get("scope")), "")
            other = "" if partners.get("same_section") else ", never on the same section"
            sentence += f"; partners were patches {whose} within {reach:g} mm {along}{other}".replace("  ", " ")
        said.append(sentence[0].upper() + sentence[1:] + ".")
    elif kind and not network:
        said.append(f"It was trained with the objective {plain(kind)}.")
    count = steps or fit.get("steps")
    if isinstance(count, int):
        batch = f" of {fit['batch']:,} samples" if isinstance(fit.get("batch"), int) else ""
        rate = f", peak learning rate {fit['lr']:g}" if isinstance(fit.get("lr"), int | float) else ""
        name = (
            f" with {'AdamW' if fit.get('optimizer', 'adamw') == 'adamw' else fit['optimizer'].upper()}" if fit else ""
        )
        seed = f"; seed {recipe['seed']}" if "seed" in recipe else ""
        said.append(f"Training took {count:,} steps{batch}{name}{rate}{seed}.")
    return said


def _cells(recipe: Mapping[str, Any]) -> list[str]:
    samples, encoder, objective = (_part(recipe, name) for name in ("samples", "encoder", "objective"))
    drawn = f"up to {samples['neighbours']} neighbours " if samples.get("neighbours") else "its neighbours "
    within = f"within {samples['radius_um']:g} µm" if "radius_um" in samples else "around it"
    size = [f"{encoder[key]:g} {word}" for key, word in (("layers", "layers"), ("width", "channels")) if key in encoder]
    hidden = f", a share of {encoder['hidden']:g} of the cells hidden" if encoder.get("hidden") else ""
    law = {"nb": "negative binomial", "zinb": "zero-inflated negative binomial"}.get(
        str(objective.get("likelihood")), ""
    )
    said = [
        f"The encoder was a transformer over each cell and {drawn}{within}" + f" ({', '.join(size)})" * bool(size) + "."
    ]
    if law:
        said.append(
            f"It was trained without labels to predict the counts of cells from their surroundings, by the {law} "
            f"likelihood{hidden}."
        )
    if objective.get("contrast"):
        said.append(
            f"Nearby cells (within {objective.get('reach_mm', 0):g} mm) were drawn together by a contrastive term of "
            f"weight {objective['contrast']:g}."
        )
    return said


def _neurons(recipe: Mapping[str, Any]) -> list[str]:
    samples, encoder, objective = (_part(recipe, name) for name in ("samples", "encoder", "objective"))
    screen = ", ".join(
        f"{samples[key]:g} {unit}"
        for key, unit in (("height_px", "px high"), ("width_px", "px wide"), ("rate_hz", "Hz"))
        if key in samples
    )
    wide = "-".join(map(str, cast("Sequence[Any]", encoder.get("channels") or ())))
    recurrent = str(encoder.get("recurrent", "none"))
    over = "" if recurrent == "none" else f", followed by a {recurrent}"
    eye = " after a model of gaze and screen" if encoder.get("perspective") else ""
    gain = " and modulated by behaviour" if encoder.get("modulation") else ""
    law = {"poisson": "Poisson", "nb": "negative binomial"}.get(str(objective.get("likelihood")), "")
    said = [
        f"A core of 3-D convolutions{f' ({wide} channels)' * bool(wide)}{over}, shared by all animals{eye}{gain}, "
        "read video" + f" ({screen})" * bool(screen) + "; each neuron had a place in its maps and weights of its own."
    ]
    if law:
        said.append(f"Core and readouts were trained to predict responses by the {law} likelihood.")
    return said


NETWORKS = {"cells": _cells, "neurons": _neurons}
"""What was trained to do what, by the recipe's system; patches are told of below, by their objective."""


def _score(shown: Shown) -> str:
    from brodmann.maps.shown import digits

    between = f" (95% interval {shown.score.between[1:-1]})" if shown.score.between else ""
    n = f" on n = {shown.n}" if shown.n else ""
    found = shown.task == "domains"
    how = "" if found else "on " if shown.split.startswith("clips") else "split "
    split = f", {how}{shown.split}" if shown.split else ""
    rivals = ", ".join(f"{name} {digits(item.value)}" for name, item in shown.baselines.items())
    against = f"; baselines: {rivals}" if rivals else ""
    by = (
        f", found by {shown.probe},"
        if shown.probe and found
        else f" with a {shown.probe} probe"
        if shown.probe and "probe" not in shown.probe
        else f" with {shown.probe}" * bool(shown.probe)
    )
    said = f"{shown.name[0].upper()}{shown.name[1:]}{by} reached {shown.metric} {digits(shown.score.value)}"
    return f"{said}{between}{n}{split}{against}."
