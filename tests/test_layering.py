"""Layers through the verbs: fit a recipe that learns them, score it on tissue that gave no labels, draw outlines."""

import json

import numpy as np
import pytest
import torch

from brodmann import layering, patches, phantom, results, verbs
from brodmann.errors import Changed, Interrupted, Leak, Refused, Usage
from brodmann.patches.layered import Layered
from brodmann.patches.layerrows import LayerTruth, few
from brodmann.patches.segmentation import segmentation
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.tasks import layers as task
from brodmann.tasks._score import Score

DATA = "phantom:brains=2,sections_per_brain=2,native_um=96"
SMALL = {
    "samples.size_px": 32,
    "samples.pixel_um": 96.0,
    "samples.spacing_mm": 2.5,
    "fit.batch": 6,
    "fit.warmup_steps": 2,
    "fit.precision": "fp32",
}
AFTER = {**SMALL, "fit.steps": 40, "fit.lr": 4e-3, "fit.save_every": 3, "tune.labels": 6, "tune.width": 16}
QUIET = Say(quiet=True)


def asked(**more):
    return verbs.recipe("patches-tiny-layers", {**AFTER, **{k.replace("__", "."): v for k, v in more.items()}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module", autouse=True)
def source():
    """The phantom, rendered once for all runs that name it."""
    made, render = verbs.open_source(asked(), DATA), verbs.open_source
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "open_source", lambda recipe, data: made if data == DATA else render(recipe, data))
        yield made


@pytest.fixture(scope="module")
def start(folder):
    """A self-supervised run that was kept from brain 0."""
    recipe = verbs.recipe("patches-tiny", {**SMALL, "fit.steps": 3, "partners.reach_mm": 20.0})
    return verbs.fit(recipe, DATA, folder / "start", quiet=True)


@pytest.fixture(scope="module")
def learned(start, folder):
    return verbs.fit(asked(), DATA, folder / "learned", start=start, quiet=True)


@pytest.fixture(scope="module")
def scratch(folder):
    return verbs.fit(asked(fit__steps=2), DATA, folder / "scratch", quiet=True)


@pytest.fixture(scope="module")
def scored(learned, scratch):
    return results.score("layers", learned, against=[scratch])


def test_a_recipe_says_which_labels_it_learns():
    assert asked().tune.kind == "layers"
    assert verbs.recipe("patches-tiny-tuned").tune.kind == "areas"
    assert verbs.recipe("patches-tiny", {"tune.target": "gyrus"}).tune.kind == "areas"
    assert verbs.recipe("patches-tiny", {"tune.kind": "layers"}).tune.labels is None
    for changes, words in (
        ({"tune.kind": "cells"}, "'areas', 'layers'"),
        ({"tune.target": "area"}, "tune.layers.target: unknown key"),
    ):
        with pytest.raises(Usage) as caught:
            verbs.recipe("patches-tiny-layers", changes)
        assert words in caught.value.found


def test_a_run_begins_with_the_start_and_remembers_what_taught_it(source, start, learned, scratch):
    state, config = learned.weights()
    assert config["keeps_norms"] is True
    assert scratch.weights()[1]["keeps_norms"] is False
    norms = [name for name in state if name.startswith("encoder.") and "running" in name]
    assert norms
    assert all(torch.equal(state[name], start.weights()[0][name]) for name in norms)
    samples = patches.samples(source, asked(), part="train")
    assert sorted(config["taught"]["ids"]) == sorted(few(samples, 6))
    (pair,) = config["taught"]["sections"]
    assert pair[0] != "B1"
    card = (learned.path / "weights/card.md").read_text()
    assert "6 labelled patches of 1 section" in card
    assert "Its weights began as those of run 'start'" in card
    # every labelled patch of one section, and of all
    whole = Layered(asked(), asked().tune, LayerTruth(samples).classes)
    for changes, rows in (({"tune__section": pair[1], "tune__labels": None}, samples.places["section"] == pair[1]),
                          ({"tune__labels": None}, samples.places["section"] != "")):  # fmt: skip
        whole.recipe = asked(**{key: value for key, value in changes.items() if value is not None})
        whole.recipe = _without(whole.recipe, changes)
        assert len(whole.suit(samples).learned) == rows.sum()
    whole.recipe = asked(tune__section="B9/s00")
    with pytest.raises(Usage, match="should be a training section"):
        _ = whole.suit(samples).learned


def _without(recipe, changes):
    from dataclasses import replace

    return replace(recipe, tune=replace(recipe.tune, labels=changes["tune__labels"]))


def test_a_killed_run_ends_with_the_same_weights(start, folder, tmp_path):
    recipe = asked(fit__steps=5)
    whole = verbs.fit(recipe, DATA, tmp_path / "whole", start=start, quiet=True)
    with pytest.raises(Interrupted):
        verbs.fit(recipe, DATA, tmp_path / "halves", start=start, quiet=True, until=2)
    halves = verbs.fit(recipe, DATA, tmp_path / "halves", start=start, quiet=True)
    (one, told), (other, also) = whole.weights(), halves.weights()
    assert told == also
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_labels_drawn_anew_while_training_stops_are_refused(source, tmp_path, monkeypatch):
    recipe = asked(fit__steps=5)
    with pytest.raises(Interrupted):
        verbs.fit(recipe, source, tmp_path / "run", quiet=True, until=2)
    read = LayerTruth.read
    monkeypatch.setattr(LayerTruth, "read", lambda self, rows: np.minimum(read(self, rows), 6))
    with pytest.raises(Changed, match="drawn as they were"):
        verbs.fit(recipe, source, tmp_path / "run", quiet=True)
    monkeypatch.undo()
    verbs.fit(recipe, source, tmp_path / "run", quiet=True)


def test_a_frozen_encoder_stays_as_the_start_has_it(start, folder, tmp_path):
    recipe = asked(fit__steps=2, tune__encoder="frozen")
    state = verbs.fit(recipe, DATA, tmp_path / "run", start=start, quiet=True).weights()[0]
    for name, value in start.weights()[0].items():
        if name.startswith("encoder."):
            assert torch.equal(value, state[name]), name
    with pytest.raises(Usage, match="keeps the weights of a trained run"):
        verbs.fit(recipe, DATA, tmp_path / "other", quiet=True)
    with pytest.raises(Usage, match="whole sections or brains"):
        verbs.fit(asked(split__by="block", split__folds=5), DATA, tmp_path / "blocks", quiet=True)


# ------------------------------------------------------------------------------------------------------------- score


def test_layers_of_a_brain_that_gave_no_labels_are_told_and_stand_beside_rivals(learned, scored):
    assert (scored.task, scored.target, scored.n_groups, scored.cluster) == ("layers", "layers", 2, "sections")
    assert scored.split == "brain B1 held out"
    assert set(scored.baselines) == {
        "untrained encoder", "scratch", "depth prior", "depth prior, rows", "majority",
    }  # fmt: skip
    # a gain is that over the rival
    for name, rival in scored.baselines.items():
        assert scored.gains[name].value == pytest.approx(scored.value - rival.value)
    assert scored.gains["majority"].low > 0
    assert scored.gains["scratch"].value > 0
    assert {f"Dice, {name}" for name in ("I", "II", "III", "IV", "V", "VI")} <= set(scored.more)
    assert scored.more["border error, um"].value > 0
    assert any("labels came from 6 patches of" in line for line in scored.remarks)
    again = Score.load(learned.path / "scores/layers-layers.json")
    assert again.value == scored.value
    assert again.baselines.keys() == scored.baselines.keys()


def test_the_score_is_that_of_the_model_on_held_out_patches(source, learned, scored):
    _, model = verbs.trained(learned)
    samples = patches.samples(source, asked(), part="all")
    truth = LayerTruth(samples)
    held = np.flatnonzero(samples.places["subject"].astype(str) == "B1")
    assert scored.n == len(held)
    told, true = model.tell(samples.read(held)), truth.read(held)
    f1 = []
    for k in range(1, 7):
        both, either = ((told == k) & (true == k)).sum(), (told == k).sum() + (true == k).sum()
        f1.append(2 * both / either)
        assert scored.more[f"Dice, {truth.classes[k]}"].value == pytest.approx(f1[-1])
    assert scored.value == pytest.approx(np.mean(f1))
    # the priors are those of the labels that were learned
    rows = samples.places["id"].isin(model.taught["ids"]).to_numpy()
    prior = task.depth_prior([truth.read(np.flatnonzero(rows))], 8)
    np.testing.assert_array_equal(model.prior[0].numpy(), prior)


def test_the_untrained_encoder_learns_once_from_the_same_labels(source, learned, scored, monkeypatch):
    rival = Run.load(learned.path / "rivals/untrained")
    state, config = rival.weights()
    assert config["taught"] == learned.weights()[1]["taught"]
    assert not rival.has("checkpoints")
    drawn = Layered(asked(), asked().tune, config["classes"]).state_dict()
    for name, value in drawn.items():
        if name.startswith("encoder."):
            assert torch.equal(value, state[name]), name
    assert not torch.equal(drawn["decoder.tell.weight"], state["decoder.tell.weight"])
    Run.load(learned.path)  # sealed, and whole
    monkeypatch.setattr("brodmann.train.fit", lambda *_, **__: pytest.fail("it was trained before"))
    recipe, model = verbs.trained(learned)
    made = segmentation(learned, recipe, model, source, say=QUIET)
    assert "untrained encoder" in made.rivals


def test_what_taught_is_never_judged(source, learned, scored, monkeypatch):
    recipe, model = verbs.trained(learned)
    made = segmentation(learned, recipe, model, source, rivals=False, say=QUIET)
    ids = set(made.samples.places["id"].iloc[made.rows])
    assert not ids & set(model.taught["ids"])
    assert set(made.taught) == {("B2", model.taught["sections"][0][1])}
    # an answer about a taught section is a leak, whoever was taught there
    answers = [task.Segmented(**one) for one in made.answers()]
    with pytest.raises(Leak, match="both give labels"):
        task.layers(answers, classes=model.classes, by=made.by, taught=[*made.taught, ("B1", "B1/s00")])
    # nothing held out: only sections that gave no label are judged
    everything = verbs.recipe("patches-tiny-layers", AFTER)
    from dataclasses import replace

    everything = replace(everything, split=replace(everything.split, fold=None))
    free = segmentation(learned, everything, model, source, rivals=False, say=QUIET)
    sections = set(free.samples.places["section"].astype(str).iloc[free.rows])
    assert len(sections) == 3
    assert model.taught["sections"][0][1] not in sections
    assert free.by == "section"
    assert any("was not kept from" in line for line in free.remarks)
    model.taught["sections"] = [[one.subject, one.id] for one in source.sections]
    with pytest.raises(Refused, match="should have given no labels"):
        segmentation(learned, everything, model, source, rivals=False, say=QUIET)


def test_other_data_are_judged_whole_and_remarked(learned):
    other = phantom.sections(brains=1, sections_per_brain=1, native_um=96.0, seed=3)
    recipe, model = verbs.trained(learned)
    made = segmentation(learned, recipe, model, other, say=QUIET)
    assert len(made.rows) == len(made.samples)
    assert made.taught == []
    assert "untrained encoder" not in made.rivals
    assert any("whether those held these brains is not known" in line for line in made.remarks)


def test_runs_that_learned_no_layers_are_refused(learned, start, tmp_path):
    with pytest.raises(Usage, match="'start' did not") as caught:
        results.score("layers", start)
    assert "learned from places" in caught.value.found
    with pytest.raises(Usage, match="'start' did not"):
        results.score("layers", learned, against=[start])
    with pytest.raises(Usage, match="runs of patches that learned them"):
        results.score("layers", verbs.table(learned) if learned.has("features.zarr") else object())
    with pytest.raises(Usage, match="told by the model"):
        results.score("layers", learned, "area")
    # of another run "layers" is a label like any other
    with pytest.raises(Refused, match=r"map of 'layers' needs its score"):
        results.map(start, "layers", quiet=True)


def test_rivals_answer_for_the_same_pixels(learned, scored, tmp_path):
    other = verbs.fit(asked(fit__steps=1, samples__spacing_mm=3.0), DATA, tmp_path / "other", quiet=True)
    with pytest.raises(Refused, match="same patches") as caught:
        results.score("layers", learned, against=[other])
    assert "spacing_mm: 3.0 -> 2.5" in caught.value.found


# --------------------------------------------------------------------------------------------------------------- map


def test_a_map_draws_outlines_of_every_held_out_section(source, learned, scored):
    report = results.map(learned, "layers", quiet=True)
    home = learned.path / "maps/layers-layers"
    assert {path.stem for path in home.glob("*.geojson")} == {"B1_s00", "B1_s01"}
    assert {"B1_s00.png", "B1_s01.png", "contact.png", "legend.csv"} <= {path.name for path in home.iterdir()}
    drawn = {path.name for path in (learned.path / "figures/layers-layers").glob("*.png")}
    assert drawn == {"baselines.png", "layers.png", "confusion.png", "patches.png"}
    text = report.read_text()
    assert "Layers on phantom-0" in text
    assert text.count("<img") >= 7
    assert "a decoder of its maps learned the layer of every pixel from 6 labelled patches" in text
    assert "SpatialNCE" not in text.partition("Recipe</summary>")[0]
    assert f"{scored.value:.2f}" in text
    Run.load(learned.path)
    # what is outlined is what was told: an area for each layer, where the tissue is
    made = json.loads((home / "B1_s00.geojson").read_text())
    section = next(one for one in source.sections if one.id == "B1/s00")
    names = [feature["properties"]["layer"] for feature in made["features"]]
    assert "background" not in names
    assert made["properties"]["section"] == "B1/s00"
    for feature in made["features"]:
        assert feature["properties"]["classification"]["name"] == feature["properties"]["layer"]
        corner = np.concatenate([np.array(rings[0]) for rings in feature["geometry"]["coordinates"]])
        assert (corner.min(0) >= 0).all()
        assert corner[:, 0].max() <= section.width_um + 96
    _, model = verbs.trained(learned)
    samples = patches.samples(source, asked(), part="all")
    rows = np.flatnonzero(samples.places["section"].astype(str) == "B1/s00")
    told = np.unique(model.tell(samples.read(rows)))
    assert set(names) <= {model.classes[k] for k in told}


def test_a_map_needs_the_score(scratch):
    with pytest.raises(Refused, match="map of layers needs their score"):
        results.map(scratch, "layers", quiet=True)


def test_sections_without_drawn_layers_are_told_too_in_another_folder(source, learned, scored, tmp_path, monkeypatch):
    from dataclasses import replace

    bare = next(one for one in source.sections if one.id == "B1/s01")
    sections = [replace(one, layer_names=()) if one is bare else one for one in source.sections]
    monkeypatch.setattr(verbs, "open_source", lambda *_: replace(source, sections=sections))
    before = (learned.path / "manifest.json").read_bytes()
    assert results.map(learned, "layers", out=tmp_path, quiet=True) == tmp_path / "report.html"
    assert (learned.path / "manifest.json").read_bytes() == before
    assert (tmp_path / "maps/layers-layers/B1_s01.geojson").is_file()
    assert "none are drawn here" in (tmp_path / "report.html").read_text()


def test_the_features_of_a_run_of_layers_are_its_encoders(source, learned):
    recipe, model = verbs.trained(learned)
    batch = patches.samples(source, recipe, part="all").read(np.arange(3))
    found = model.describe(batch)
    assert found.shape == (3, model.encoder.width)
    with torch.no_grad():
        np.testing.assert_array_equal(found, model.features(batch).numpy())
    assert layering.learned(learned)
