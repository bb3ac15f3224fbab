"""Fine-tuning with labels: an encoder that begins with a trained run, a head that learns areas, how sure it may be."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from brodmann import patches, phantom, results, verbs
from brodmann.errors import Changed, Interrupted, Leak, Refused, SpaceMismatch, Usage
from brodmann.patches import calibration
from brodmann.patches.labelled import Labelled, balanced
from brodmann.run import Run
from brodmann.samples import stream
from brodmann.settings import digest
from brodmann.tasks import _classes, _head
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._metrics import Bootstrap

SMALL = {
    "samples.size_px": 32,
    "samples.pixel_um": 96.0,
    "samples.spacing_mm": 1.0,
    "fit.batch": 32,
    "fit.warmup_steps": 2,
    "fit.precision": "fp32",
}
BEFORE = {**SMALL, "fit.steps": 6, "partners.reach_mm": 20.0}
AFTER = {
    **SMALL,
    "fit.steps": 8,
    "fit.save_every": 3,
    "tune.min_per_class": 5,
    "tune.calibrate": 0.2,
    "tune.encoder_pace": 0.1,
}


def tuned(**more):
    changes = {name.replace("__", "."): value for name, value in more.items()}
    return verbs.recipe("patches-tiny-tuned", {**AFTER, **changes})


@pytest.fixture(scope="module")
def source():
    return phantom.sections(brains=3, sections_per_brain=3, native_um=96.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(scope="module")
def start(source, folder):
    """A self-supervised run that was kept from brain 0."""
    return verbs.fit(verbs.recipe("patches-tiny", BEFORE), source, folder / "start", quiet=True)


@pytest.fixture(scope="module")
def learned(source, start, folder):
    """A run that learned areas, with its table and its scores."""
    recipe = tuned(fit__steps=150, fit__lr=4e-3, tune__encoder_pace=1.0, samples__spacing_mm=0.5)
    run = verbs.fit(recipe, source, folder / "learned", start=start, quiet=True)
    return run, verbs.embed(run, source, controls=False, quiet=True)


@pytest.fixture
def samples(source):
    return patches.samples(source, tuned(), part="train")


def state(run):
    return run.weights()[0]


# ------------------------------------------------------------------------------------------------------------- start


def test_an_encoder_begins_with_the_weights_of_the_start(source, start, folder):
    """One step at a rate of almost nothing leaves them where they began; without a start they are the seed's."""
    still = {"fit.steps": 1, "fit.lr": 1e-12, "seed": 5}
    recipe = verbs.recipe("patches-tiny", {**BEFORE, **still})
    begun = state(verbs.fit(recipe, source, folder / "still", start=start, quiet=True))
    drawn = state(verbs.fit(recipe, source, folder / "drawn", quiet=True))
    weights = [name for name, value in begun.items() if name.startswith("encoder.") and value.ndim > 1]
    assert weights
    for name in weights:
        torch.testing.assert_close(begun[name], state(start)[name], atol=1e-6, rtol=0)
        assert (begun[name] - drawn[name]).abs().max() > 1e-3, name
    torch.testing.assert_close(begun["projector.0.weight"], drawn["projector.0.weight"], atol=1e-6, rtol=0)


def test_a_run_says_what_it_began_with(source, start, folder, learned):
    run, table = learned
    about = json.loads((run.path / "run.json").read_text())["start"]
    assert about["run"] == str(start.path)
    assert about["weights"] == json.loads((start.path / "manifest.json").read_text())["files"][
        "weights/model.safetensors"]["sha256"]  # fmt: skip
    card = (run.path / "weights/card.md").read_text()
    assert f"Its weights began as those of run 'start' (SHA-256 {about['weights'][:12]}), trained on the same" in card
    assert "Supervised by the column 'area'" in card
    assert "Self-supervised" not in card
    assert "began as those" in str(table.uns["brodmann"]["start"][0])
    assert "start" not in json.loads((start.path / "run.json").read_text())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": {"kind": "convnext"}}, "encoder.kind: resnet -> convnext"),
        ({"samples.size_px": 64}, "samples.size_px: 32 -> 64"),
        ({"samples.pixel_um": 64.0}, "samples.pixel_um: 96.0 -> 64.0"),
        ({"samples.channels": 3}, "samples.channels: 1 -> 3"),
        ({"samples.standardise": "section"}, "samples.standardise: patch -> section"),
    ],
)
def test_another_architecture_or_input_is_refused_with_both_values(source, start, tmp_path, changes, words):
    recipe = verbs.recipe("patches-tiny-tuned", {**AFTER, **changes})
    with pytest.raises(Refused, match="encoder and the input") as caught:
        verbs.fit(recipe, source, tmp_path / "run", start=start, quiet=True)
    assert words in caught.value.found
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fold", [None, 1])
def test_a_start_that_has_seen_the_held_out_brain_is_refused(source, folder, tmp_path, fold):
    name = f"seen-{fold}"
    recipe = verbs.recipe("patches-tiny", {**BEFORE, "fit.steps": 1})
    from dataclasses import replace

    recipe = replace(recipe, split=replace(recipe.split, fold=fold))
    seen = verbs.fit(recipe, source, folder / name, quiet=True)
    with pytest.raises(Refused, match=f"'{name}' should not have learned") as caught:
        verbs.fit(tuned(), source, tmp_path / "run", start=seen, quiet=True)
    assert "B1" in caught.value.found
    # nothing is held out: nothing can have been seen
    everything = replace(tuned(fit__steps=1), split=replace(recipe.split, fold=None))
    verbs.fit(everything, source, tmp_path / "everything", start=seen, quiet=True)


def test_the_same_fold_under_another_spacing_is_proven_and_taken(source, start, tmp_path):
    run = verbs.fit(tuned(fit__steps=1, samples__spacing_mm=1.5), source, tmp_path / "run", start=start, quiet=True)
    assert run.start["other_data"] is False


def test_a_start_on_other_data_is_taken_and_remarked_even_two_steps_back(source, start, folder, tmp_path):
    other = phantom.sections(brains=2, sections_per_brain=3, native_um=96.0, seed=3)
    recipe = verbs.recipe("patches-tiny", {**BEFORE, "fit.steps": 1})
    between = verbs.fit(recipe, other, folder / "between", start=start, quiet=True)
    run = verbs.fit(tuned(fit__steps=1), source, tmp_path / "run", start=between, quiet=True)
    assert run.start["other_data"] is True
    assert run.start["before"]["other_data"] is False
    card = (run.path / "weights/card.md").read_text()
    assert "trained on other data" in card
    assert "is not known" in card
    verbs.embed(run, source, controls=False, quiet=True)
    score = results.score("areas", run, "area")
    assert any("is not known" in remark for remark in score.remarks)
    # the first start was kept from brain 0 of these data: what holds out another one is refused, two steps later
    with pytest.raises(Refused, match="should not have learned") as caught:
        verbs.fit(tuned(split__fold=1), source, tmp_path / "other", start=between, quiet=True)
    assert "earlier start" in caught.value.found


def test_going_on_with_another_start_is_refused(source, start, folder, tmp_path):
    with pytest.raises(Interrupted):
        verbs.fit(tuned(), source, tmp_path / "run", start=start, quiet=True, until=3)
    recipe = verbs.recipe("patches-tiny", {**BEFORE, "fit.steps": 2})
    second = verbs.fit(recipe, source, folder / "second", quiet=True)
    with pytest.raises(Changed, match="start should be the one") as caught:
        verbs.fit(tuned(), source, tmp_path / "run", start=second, quiet=True)
    assert "'start'" in caught.value.found
    assert "'second'" in caught.value.found
    with pytest.raises(Changed, match="start"):
        verbs.fit(tuned(), source, tmp_path / "run", quiet=True)
    with pytest.raises(Interrupted):
        verbs.fit(tuned(), source, tmp_path / "scratch", quiet=True, until=3)
    with pytest.raises(Changed, match="start"):
        verbs.fit(tuned(), source, tmp_path / "scratch", start=start, quiet=True)


def test_a_damaged_or_foreign_start_is_refused(source, start, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(start.path, copy)
    weights = copy / "weights/model.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(bytes(body))
    from brodmann.errors import Corrupt

    with pytest.raises(Corrupt, match="hold what was written"):
        verbs.fit(tuned(), source, tmp_path / "run", start=copy, quiet=True)
    unfinished = Run.open(tmp_path / "unfinished", recipe=tuned(), system="patches", data_fingerprint="x")
    with pytest.raises(Usage, match="should hold weights"):
        verbs.fit(tuned(), source, tmp_path / "run", start=unfinished, quiet=True)


@pytest.mark.parametrize("with_start", [True, False])
def test_stopped_and_resumed_gives_the_same_bytes(source, start, tmp_path, with_start):
    begun = start if with_start else None
    whole = verbs.fit(tuned(), source, tmp_path / "whole", start=begun, quiet=True)
    for stop in (2, 5):
        with pytest.raises(Interrupted):
            verbs.fit(tuned(), source, tmp_path / "parts", start=begun, quiet=True, until=stop)
    parts = verbs.fit(tuned(), source, tmp_path / "parts", start=begun, quiet=True)
    one, other = ((run.path / "weights/model.safetensors").read_bytes() for run in (whole, parts))
    assert one == other


def test_an_encoder_that_began_elsewhere_learns_at_its_own_pace(source, start, tmp_path):
    """One Adam step moves every weight by the rate: a tenth of it in the encoder, the whole in the head."""
    once = {"fit.steps": 1, "fit.warmup_steps": 0, "fit.weight_decay": 0.0, "fit.lr": 1e-3}
    recipe = verbs.recipe("patches-tiny-tuned", {**AFTER, **once})
    begun = state(verbs.fit(recipe, source, tmp_path / "begun", start=start, quiet=True))
    stem = "encoder.backbone.embedder.mix.1.weight"
    moved = (begun[stem] - state(start)[stem]).abs()
    assert float(moved.median()) == pytest.approx(1e-4, rel=0.05)
    fresh = patches.build(recipe, patches.samples(source, recipe, part="train")).state_dict()
    scratch = state(verbs.fit(recipe, source, tmp_path / "scratch", quiet=True))
    for name, after in (("head.weight", begun), (stem, scratch)):
        assert float((after[name] - fresh[name]).abs().median()) == pytest.approx(1e-3, rel=0.05), name


# ------------------------------------------------------------------------------------------------------------ labels


def test_a_frozen_encoder_keeps_every_byte(source, start, tmp_path):
    run = verbs.fit(tuned(tune__encoder="frozen"), source, tmp_path / "run", start=start, quiet=True)
    before, after = state(start), state(run)
    held = [name for name in after if name.startswith("encoder.")]
    assert any("running_mean" in name for name in held)
    assert all(torch.equal(before[name], after[name]) for name in held)
    fresh = patches.build(tuned(), patches.samples(source, tuned(), part="train"))
    assert not torch.equal(after["head.weight"], fresh.head.weight)
    moved = state(verbs.fit(tuned(), source, tmp_path / "moved", start=start, quiet=True))
    assert not all(torch.equal(before[name], moved[name]) for name in held)


def test_a_frozen_encoder_needs_a_start(source, tmp_path):
    with pytest.raises(Usage, match="no start"):
        verbs.fit(tuned(tune__encoder="frozen"), source, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("count", [30, 61])
def test_so_many_labels_are_used_and_no_more(samples, count):
    recipe = tuned(tune__labels=count)
    model = patches.build(recipe, samples)
    suited = model.suit(samples)
    assert len(suited.learned) + len(suited.held) == count
    assert len(suited.held) == round(0.2 * count)
    sections = samples.places["section"].to_numpy()
    assert not set(sections[suited.learned]) & set(sections[suited.held])
    seen = np.concatenate([suited.batch(step)["index"].numpy() for step in range(60)])
    assert set(seen) == set(suited.learned)
    share = np.bincount(suited.codes[suited.learned], minlength=len(model.classes))
    rest = suited.codes[~np.isin(sections, sections[suited.held])]
    most = np.bincount(rest[rest >= 0], minlength=len(share))
    assert (share >= np.minimum(most, share.max() - 1)).all()


def test_all_labels_are_used_if_no_number_is_given(samples):
    suited = patches.build(tuned(tune__calibrate=0.0), samples).suit(samples)
    assert len(suited.held) == 0
    assert set(suited.learned) == set(np.flatnonzero(suited.codes >= 0))
    held = patches.build(tuned(), samples).suit(samples)
    sections = samples.places["section"].to_numpy()
    assert len(set(sections[held.held])) == round(0.2 * len(set(sections)))
    assert len(held.held) + len(held.learned) == len(suited.learned)


def test_more_labels_than_there_are_are_refused(samples):
    suited = patches.build(tuned(tune__labels=100_000), samples).suit(samples)
    with pytest.raises(Refused, match="100,000 should not exceed"):
        suited.batch(0)


def test_drawn_rows_are_as_even_as_classes_allow():
    codes = np.repeat([0, 1, 2], [2, 50, 50])
    for count in (3, 9, 40, 102):
        rows = balanced(codes, np.arange(102), count, stream(0, "x", count))
        share = np.bincount(codes[rows], minlength=3)
        assert len(np.unique(rows)) == share.sum() == count
        assert share[0] == min(2, share.max())
        assert abs(share[1] - share[2]) <= 1


def test_batches_hold_every_class_alike_and_are_pure(source, samples):
    model = patches.build(tuned(), samples)
    suited = model.suit(samples)
    labels = np.concatenate([suited.batch(step)["label"].numpy() for step in range(40)])
    share = np.bincount(labels, minlength=len(model.classes)) / len(labels)
    assert share.max() < 2 * share[share > 0].min()
    again = Labelled(patches.samples(source, tuned(), part="train"), tuned(), model.classes)
    again.batch(9)
    first = suited.batch(4)
    assert all(torch.equal(first[name], value) for name, value in again.batch(4).items())
    halves = [suited.batch(4, rank=rank, world=2) for rank in range(2)]
    for name in ("index", "label", "view"):
        assert torch.equal(first[name][0::2], halves[0][name])
        assert torch.equal(first[name][1::2], halves[1][name])


def test_labels_travel_in_labelled_batches_only(source, samples):
    plain = patches.samples(source, verbs.recipe("patches-tiny", BEFORE), part="train")
    suited = patches.build(tuned(), samples).suit(samples)
    assert "label" in suited.batch(0)
    assert "label" not in suited.read(np.arange(3))
    assert "label" not in plain.batch(0)
    assert set(suited.places["subject"]) == {"B2", "B3"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tune.target": "gyrus"}, "'gyrus' should be a label"),
        ({"tune.min_per_class": 100_000}, "at least two classes with 100000"),
    ],
)
def test_labels_that_are_not_there_are_refused(source, tmp_path, changes, words):
    recipe = verbs.recipe("patches-tiny-tuned", {**AFTER, **changes})
    with pytest.raises(Refused, match=words):
        verbs.fit(recipe, source, tmp_path / "run", quiet=True)


def test_an_atlas_can_be_what_is_learned(source, tmp_path, monkeypatch):
    asked = []

    def areas(xyz, *, level, folder):
        asked.append((len(xyz), level, str(folder)))
        return np.where(xyz[:, 2] > np.median(xyz[:, 2]), "above", np.where(xyz[:, 0] > 1, "right", "")).astype(object)

    monkeypatch.setattr("brodmann.datasets.ccf.areas", areas)
    monkeypatch.setenv("BRODMANN_DATA", str(tmp_path))
    there = replace(source, space=replace(source.space, name="ccf_v3"))
    monkeypatch.setattr("brodmann.atlases.CCF_V3", there.space)
    recipe = tuned(tune__target="ccf-divisions")
    with pytest.raises(Usage, match="BRODMANN_DATA"):
        patches.samples(there, recipe, part="train")
    (tmp_path / "sections" / "mouse_glt1").mkdir(parents=True)
    (tmp_path / "sections" / "mouse_glt1" / "ccfv3_2017_regions.csv").touch()
    taught = patches.samples(there, recipe, part="train")
    where = taught.places[["x_mm", "y_mm", "z_mm"]].to_numpy()
    assert taught.labels["ccf-divisions"].tolist() == areas(where, level="", folder="").tolist()
    assert set(taught.places["subject"]) == {"B2", "B3"}
    assert asked[0] == (len(where), "divisions", str(tmp_path / "sections" / "mouse_glt1"))
    run = verbs.fit(recipe, there, tmp_path / "run", quiet=True)
    assert verbs.trained(run)[1].classes == ("above", "right")
    asked.clear()
    table = verbs.embed(run, there, controls=False, quiet=True)
    assert not asked
    assert "ccf-divisions" not in table.obs
    with pytest.raises(SpaceMismatch, match="ccf_v3"):
        verbs.fit(tuned(tune__target="ccf"), source, tmp_path / "other", quiet=True)


def test_what_is_wrong_with_a_head_is_said():
    rng = np.random.default_rng(0)
    top, right = rng.uniform(0.5, 0.7, 400), rng.random(400) < 0.9
    head = _head.Head(
        said=right.astype(np.int64), top=top, plain=top + 0.2, right=right, sure=np.ones(400, bool), temperature=2.0,
        threshold=0.0, calibrated=24, wanted=0.95,
    )  # fmt: skip
    judge = _classes.Judge(np.ones(400, np.int64), 2, Bootstrap.of(np.arange(400) // 40, 0), metrics.macro_f1)
    few, missed, modest = head.remarks(head.measures(judge))
    assert "from 24 rows" in few
    assert missed.startswith(f"{right.mean():.0%} of the named rows")
    assert "too modest, by 0.3" in modest
    fine = replace(head, calibrated=400, wanted=0.8, plain=top, top=top + 0.28)
    assert fine.remarks(fine.measures(judge)) == []
    assert replace(head, calibrated=0).remarks({}) == []


# ----------------------------------------------------------------------------------------------------------- answers


def test_planted_areas_are_learned_above_chance(learned):
    run, _ = learned
    losses = [record["loss"] for record in run.metrics()]
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:5])
    score = results.score("areas", run, "area")
    own, chance = score.baselines["own head"], score.baselines["chance"]
    assert own.value > chance.value + 0.1
    assert own.low > chance.value
    text = str(score)
    assert "own head" in text
    assert "own head, where sure" in score.more
    assert 0 < score.more["own head, coverage"].value <= 1


def test_the_head_itself_can_be_scored_and_says_when_it_is_unsure(learned):
    run, table = learned
    beside, own = results.score("areas", run, "area"), results.score("areas", run, "area", probe="head")
    assert own.value == beside.baselines["own head"].value
    assert own.baselines["linear probe"].value == beside.value
    assert (own.scored, beside.scored) == ("own head", "features")
    assert str(own).startswith("areas (own head)  macro-F1")
    head = table.uns["brodmann"]["head"]
    assert head["threshold"] > 0
    probability = pd.DataFrame(table.obsm["probability"], index=table.obs["id"]).loc[own.predicted.index]
    unsure = probability.max(axis=1) < head["threshold"] - 1e-6
    assert 0 < unsure.sum() < len(unsure)
    assert (own.predicted[unsure] == "unsure").all()
    assert (own.predicted[~unsure] != "unsure").all()
    assert own.classes[-1] == "unsure"
    assert np.array(own.confusion)[:, -1].sum() == unsure.sum()
    assert own.more["own head, coverage"].value == pytest.approx(1 - unsure.mean())
    right = own.truth[~unsure] == own.predicted[~unsure]
    named = own.more["own head, accuracy where sure"]
    assert named.value == pytest.approx(right.mean())
    assert "0.90 is wanted" in named.note
    assert any("90% were wanted" in text for text in own.remarks) == (named.value < 0.9)
    again = type(own).from_json(own.to_json())
    assert again.predicted.equals(own.predicted)
    # neither score takes the place of the other
    kept = {path.stem: type(own).load(path) for path in (run.path / "scores").glob("areas-*.json")}
    assert {name: one.value for name, one in kept.items()} == {"areas-area": beside.value, "areas-area-head": own.value}
    # what a map paints
    results.label_from(table, own)
    assert (table.obs["predicted"] == "unsure").sum() == unsure.sum()
    from brodmann.maps.colours import UNSURE, colours

    assert colours(own.classes)["unsure"] == UNSURE["unsure"]
    without = colours(own.classes[:-1])
    assert all(colours(own.classes)[name] == without[name] for name in without)


def test_a_table_holds_what_the_model_says(source, learned):
    run, table = learned
    recipe, model = verbs.trained(run)
    samples = patches.samples(source, recipe, part="all")
    features = model.describe(samples.read(np.arange(20)))
    np.testing.assert_allclose(table.obsm["probability"][:20], model.probability(features), atol=1e-5)
    np.testing.assert_allclose(table.obsm["probability"].sum(axis=1), 1, atol=1e-5)
    with torch.no_grad():
        logits = model.head(torch.from_numpy(features)) / float(model.temperature)
    np.testing.assert_allclose(logits.softmax(1).numpy(), model.probability(features), atol=1e-5)
    assert list(table.uns["brodmann"]["head"]["classes"]) == list(model.classes)


def test_labels_that_were_learned_are_never_scored(learned):
    run, _ = learned
    with pytest.raises(Leak, match="labels of 'area' it has learned"):
        results.score("areas", run, "area", fold=1)
    with pytest.raises(Leak, match="learned"):
        results.score("areas", run, "area", by="section")


def test_a_map_shows_the_newest_read_out_or_the_one_that_is_named(learned, source, tmp_path, monkeypatch):
    run, _ = learned
    monkeypatch.setattr(results.questions, "opened", lambda run, _: (verbs.trained(run)[0], source))
    monkeypatch.setattr("brodmann.maps.outputs._figures", lambda *_, **__: [])
    results.score("areas", run, "area", probe="head")
    beside = results.score("areas", run, "area")
    for asked, name in (
        ("area", "areas-area"),
        ("area-head", "areas-area-head"),
        ("areas-area-head", "areas-area-head"),
    ):
        page = results.map(run, asked, out=tmp_path / asked, quiet=True).read_text()
        assert (tmp_path / asked / "maps" / name / "contact.png").exists()
        numbers = pd.read_csv(tmp_path / asked / "figures" / name / "scores.csv")
        assert set(numbers["probe"]) == {"linear", "head"}
        # the one that is drawn comes first
        assert numbers["probe"][0] == ("head" if "head" in name else "linear")
        assert "areas (area, head)" in page
    results.score("areas", run, "area", probe="head")
    results.map(run, "area", out=tmp_path / "newest", quiet=True)
    assert (tmp_path / "newest" / "maps" / "areas-area-head").is_dir()
    assert type(beside).load(run.path / "scores" / "areas-area.json").value == beside.value


def test_a_model_without_a_head_has_no_head_to_ask(source, start):
    verbs.embed(start, source, controls=False, quiet=True)
    with pytest.raises(Refused, match="model with a head"):
        results.score("areas", start, "area", probe="head")


# ------------------------------------------------------------------------------------------------------- calibration


def overconfident(seed=0, n=4000, classes=4, factor=3.0):
    """Logits whose softmax is the truth, and the same ones times a factor."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, (n, classes))
    share = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    codes = (rng.random((n, 1)) > share.cumsum(1)).sum(1)
    return true, true * factor, codes


def test_the_temperature_is_found_and_never_makes_it_worse():
    true, logits, codes = overconfident()
    found = calibration.temperature(logits, codes)
    assert found == pytest.approx(3.0, rel=0.1)
    assert calibration.temperature(true, codes) == pytest.approx(1.0, rel=0.1)
    for seed, factor in itertools.product(range(3), (0.1, 1.0, 50.0)):
        _, some, names = overconfident(seed, n=60, factor=factor)
        heat = calibration.temperature(some, names)
        assert calibration.surprise(some, names, heat) <= calibration.surprise(some, names)
    assert calibration.temperature(np.empty((0, 3)), np.empty(0, np.int64)) == 1.0


def test_surprise_is_torchs_cross_entropy():
    _, logits, codes = overconfident(n=50)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits) / 2, torch.from_numpy(codes))
    assert calibration.surprise(logits, codes, 2.0) == pytest.approx(float(expected))


def test_a_trained_run_is_less_surprised_on_what_was_set_aside(source, learned):
    run, _ = learned
    recipe, model = verbs.trained(run)
    suited = model.suit(patches.samples(source, recipe, part="train"))
    assert int(model.calibrated) == len(suited.held) > 0
    features = model.describe(suited.read(suited.held))
    with torch.no_grad():
        logits, codes = model.head(torch.from_numpy(features)).numpy(), suited.codes[suited.held]
    heat = float(model.temperature)
    assert heat != 1.0
    assert calibration.surprise(logits, codes, heat) < calibration.surprise(logits, codes)


def test_the_threshold_gives_the_accuracy_that_is_wanted():
    rng = np.random.default_rng(0)
    top = rng.uniform(0.2, 1, 5000)
    right = rng.random(5000) < top
    least = calibration.threshold(top, right, 0.9)
    assert right[top >= least].mean() >= 0.9
    assert right[top >= least].mean() < 0.91
    assert calibration.threshold(top, np.ones(5000, bool), 0.9) == 0.0
    wrong = calibration.threshold(top, np.zeros(5000, bool), 0.9)
    assert (top >= wrong).mean() >= 0.1
    assert calibration.threshold(np.empty(0), np.empty(0, bool), 0.9) == 0.0


def test_the_calibration_error_is_that_of_a_loop():
    _, logits, codes = overconfident(n=300)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    top, right = share.max(1), share.argmax(1) == codes
    cluster = np.arange(300) % 7
    boot = Bootstrap.of(cluster, 0)
    value, draws = _head.calibration_error(top, right, boot.cluster, boot.times)

    def loop(top, right):
        total = 0.0
        for low in np.arange(15) / 15:
            inside = (top > low) & (top <= low + 1 / 15)
            total += abs(right[inside].sum() - top[inside].sum()) if inside.any() else 0.0
        return total / len(top)

    assert value == pytest.approx(loop(top, right))
    rows = np.concatenate([np.flatnonzero(boot.cluster == c).repeat(int(t)) for c, t in enumerate(boot.times[5])])
    assert draws[5] == pytest.approx(loop(top[rows], right[rows]))
    heat = calibration.temperature(logits, codes)
    cool = np.exp(logits / heat) / np.exp(logits / heat).sum(1, keepdims=True)
    assert _head.calibration_error(cool.max(1), right, boot.cluster, boot.times)[0] < value


# ----------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", ["patches-tiny", "patches-cytonet", "patches-mouse"])
def test_a_tuned_recipe_can_begin_with_its_base(name):
    base, after = verbs.recipe(name), verbs.recipe(f"{name}-tuned")
    assert (after.samples, after.encoder, after.split) == (base.samples, base.encoder, base.split)
    assert base.tune is None
    assert digest(base) != digest(after)


def test_thirty_epochs_are_thirty_epochs():
    fit = verbs.recipe("patches-cytonet-tuned").fit
    assert fit.steps / (20_000 // fit.batch) == 30
