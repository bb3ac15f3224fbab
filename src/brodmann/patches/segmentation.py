"""What is asked of a run that learned layers: which patches it is judged on, and what its rivals tell of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from brodmann import origin, splits, train
from brodmann.errors import Refused, Usage
from brodmann.patches.layered import PRIORS, Layered, Predict, answers
from brodmann.patches.layerrows import LayerTruth
from brodmann.patches.recipe import Layers, Recipe
from brodmann.patches.samples import PatchSamples
from brodmann.patches.source import Source
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.settings import diff, plain

UNTRAINED = "rivals/untrained"
"""Folder in a run: the untrained encoder with a decoder of its own, a run itself."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Segmentation:
    """A trained run on the tissue that it is judged on.

    Attributes
    ----------
    recipe : Recipe
    model : Layered
    samples : PatchSamples
        All of them.
    truth : LayerTruth
        Where layers are drawn.
    rows : ndarray (m,) int64
        Held out, with or without drawn layers.
    by : {"brain", "section"}
        What is held out whole.
    split : str
        In words.
    taught : list of (str, str)
        Brain and section of every patch of these data that gave labels, to the run or to a rival.
    rivals : dict of str to callable
        Answers to the same patches.
    remarks : list of str
    """

    recipe: Recipe
    model: Layered
    samples: PatchSamples
    truth: LayerTruth
    rows: NDArray[np.int64]
    by: Literal["brain", "section"]
    split: str
    taught: list[tuple[str, str]]
    rivals: dict[str, Predict]
    remarks: list[str]

    def answers(self) -> Iterator[dict[str, Any]]:
        """Told and true layers of the rows that have them: fields of `brodmann.tasks.layers.Segmented`."""
        return answers(self.samples, self.rows, self.model.tell, self.rivals)


def segmentation(
    run: Run,
    recipe: Recipe,
    model: Any,
    source: Source,
    *,
    against: Mapping[str, tuple[Run, Recipe, Any]] | None = None,
    rivals: bool = True,
    say: Say,
) -> Segmentation:
    """A run and its rivals, ready to tell the layers of tissue that gave no labels.

    Parameters
    ----------
    run : Run
        With a model of layers.
    recipe, model
        Of the run, as `brodmann.verbs.trained` gives them.
    source : Source
        What is judged.
    against : mapping of str to (Run, Recipe, model), optional
        Other runs of layers, by name.
    rivals : bool
        Also what labels tell without an image, and the untrained encoder with the same decoder, which learns once,
        from the same labels, and is kept in the run.
    say : Say

    Returns
    -------
    Segmentation

    Raises
    ------
    Usage
        A run that did not learn layers.
    Refused
        Rivals of other data, patches or classes, or no tissue that gave no labels.
    """
    learned = _of_layers(run.path.name, model)
    samples = PatchSamples(source, recipe, part="all")
    truth = LayerTruth(samples)
    if truth.classes != learned.classes:
        raise Refused(
            f"layers should be those that '{run.path.name}' learned: {', '.join(learned.classes)}.",
            found=f"{', '.join(truth.classes)}.", do='name them alike in "layer_labels".',
        )  # fmt: skip
    same = run.weights()[1].get("source") == source.fingerprint
    remarks = [_said(learned)]
    taught = _pairs(learned) if same else []
    tellers: dict[str, Predict] = {}
    for name, (other, theirs, one) in (against or {}).items():
        rival = _of_layers(name, one)
        _comparable(name, other, theirs, rival, recipe, learned, source)
        tellers[name] = rival.tell
        taught += _pairs(rival)
        remarks += [f"{name}: {_said(rival)}"] if rival.taught["ids"] != learned.taught["ids"] else []
    if rivals:
        if same and origin.read(run) is None:
            tellers["untrained encoder"] = untrained(run, recipe, learned, source, say=say).tell
        else:
            remarks.append(
                "no untrained encoder stands beside it: the labels that it would learn are those of another run"
            )
        tellers |= _priors(learned)
    fold = origin.encoder_fold(run, recipe.split, samples.places, same_data=same)
    by: Literal["brain", "section"] = "brain" if recipe.split.by == "brain" else "section"
    if same and fold >= 0:
        held = splits.folds(samples.places, replace(recipe.split, fold=fold))[0]
        rows, words = held.test, held.name
    elif same:
        rows, by = _without(samples, taught), "section"
        words = "sections that gave no labels"
        remarks.append(
            "the encoder was not kept from the judged sections: it may have learned from them, without layers"
        )
    else:
        rows, by, words = np.arange(len(samples)), "section", f"'{source.name}', from which nothing was learned"
        remarks.append(f"trained on other data than '{source.name}': whether those held these brains is not known")
    if not len(rows):
        raise Refused(
            "some section should have given no labels.", found="every section did.",
            do="hold a fold out (split.fold), or learn from some sections only (tune.labels, tune.section).",
        )  # fmt: skip
    return Segmentation(
        recipe=recipe, model=learned, samples=samples, truth=truth, rows=np.asarray(rows, np.int64), by=by, split=words,
        taught=sorted(set(taught)), rivals=tellers, remarks=remarks,
    )  # fmt: skip


def untrained(run: Run, recipe: Recipe, model: Layered, source: Source, *, say: Say) -> Layered:
    """The recipe's encoder as it was drawn, with a decoder that learned from the same labels, steps and views.

    Trained when it is first asked for, into `UNTRAINED` of the run, where it goes on after a kill.
    """
    tune = replace(cast(Layers, recipe.tune), encoder="frozen")
    own = replace(recipe, tune=tune)
    rival = Layered(own, tune, model.classes)
    with run.lock():
        # what is written there is not behind the manifest's back
        run.forget(UNTRAINED)
        home = run.path / UNTRAINED
        if not (home / "weights").exists():
            samples = rival.suit(PatchSamples(source, own, part="train"))
            made = Run.open(
                home, recipe=own, system="patches", data_fingerprint=samples.fingerprint, data=run.data, say=say
            )
            if samples.learned.origin() != model.taught:
                raise Refused(
                    "the untrained encoder should learn from the labels that the run learned from.",
                    found="other patches with layers than then.", cause="layers that were drawn or removed since.",
                    do="fit again, into another folder.",
                )  # fmt: skip
            say("a decoder on the untrained encoder, from the same labels: once, as a rival")
            with made.lock():
                train.fit(rival, samples, own.fit, made, say=say)
                rival.settle(samples, Say(quiet=True))
                card = "The rival of a run: an encoder as it was drawn, and a decoder trained on it.\n"
                made.save_weights(rival.state_dict(), {**rival.config(), "source": source.fingerprint}, card)
                made.drop("checkpoints")
                made.seal()
        else:
            rival.load_state_dict(Run.load(home).weights()[0])
        run.seal()
    return rival.to(next(model.parameters()).device).eval()


def _of_layers(name: str, model: Any) -> Layered:
    if not isinstance(model, Layered):
        raise Usage(
            f"layers are told by runs that learned them; '{name}' did not.",
            found="a run that learned from places."
            if type(model).__name__ == "CytoNet"
            else "a run that learned areas.",
            do="train one: brodmann fit patches-tiny-layers --data ... --out ... --start RUN.",
        )
    if not model.taught:
        raise Refused(f"'{name}' should say which patches gave it labels.", found="nothing.")
    return model


def _comparable(
    name: str, run: Run, theirs: Recipe, rival: Layered, recipe: Recipe, model: Layered, source: Source
) -> None:
    """Refuse a rival that does not answer for the same pixels, or that may have learned from them."""
    ours, there = ({**plain(one)["samples"], "split": plain(one)["split"]} for one in (recipe, theirs))
    wrong = diff({**there, "standardise": ""}, {**ours, "standardise": ""})
    if run.weights()[1].get("source") != source.fingerprint:
        wrong.append("other data")
    if rival.classes != model.classes:
        wrong.append(f"layers {', '.join(rival.classes)} -> {', '.join(model.classes)}")
    if wrong:
        raise Refused(
            f"'{name}' should tell the same layers of the same patches, with the same ones held out.",
            found=f"{'; '.join(wrong)}.", do="compare runs of one recipe on the same data.",
        )  # fmt: skip


def _priors(model: Layered) -> dict[str, Predict]:
    """What labels tell without an image: of upright patches by depth, else the commonest class."""
    plane = dict(zip(PRIORS, model.prior.cpu().numpy(), strict=True))

    def always(one: NDArray[np.uint8]) -> Predict:
        return lambda batch: np.broadcast_to(one, (len(batch["index"]), *one.shape))

    return {name: always(one) for name, one in plane.items() if model.upright or name == "majority"}


def _pairs(model: Layered) -> list[tuple[str, str]]:
    return [(str(subject), str(section)) for subject, section in model.taught["sections"]]


def _without(samples: PatchSamples, taught: list[tuple[str, str]]) -> NDArray[np.int64]:
    """Rows of sections that gave no labels."""
    places, gave = samples.places, set(taught)
    here = zip(places["subject"].astype(str), places["section"].astype(str), strict=True)
    return np.flatnonzero([pair not in gave for pair in here])


def _said(model: Layered) -> str:
    sections = [section for _, section in _pairs(model)]
    of = sections[0] if len(sections) == 1 else f"{len(sections):,} sections"
    count = len(model.taught["ids"])
    how = "stayed as it began" if model.frozen else "was tuned" if model.keeps_norms else "began from scratch"
    return f"labels came from {count:,} patch{'es' * (count != 1)} of {of}; the encoder {how}"
