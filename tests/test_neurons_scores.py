"""Questions asked of a run of the neurons system, its rival, and physiology on models whose answer is known."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import brodmann.neurons
from brodmann import cli, results, settings, verbs
from brodmann.errors import Refused, Usage
from brodmann.neurons import adopt, energies, insilico, rivals, search
from brodmann.neurons.answers import answers
from brodmann.neurons.recipe import Recipe
from brodmann.neurons.samples import clips
from brodmann.tasks._score import Score
from brodmann.tasks._tuning import circular_error, fields, selectivity, triggered

PHANTOM = (
    "phantom:animals=3,neurons=24,minutes=0.5,test_clips=1,repeats=3,clip_s=3.0,domain_minutes=0.05,valid_minutes=0.05"
)
TINY = {
    "encoder": {"channels": [8, 8], "pools": [2, 1], "layers": 1, "outputs": 16, "modulation": 4},
    "fit": {"steps": 2, "batch": 3},
    "samples": {"frames": 30},
    "split": {"by": "brain", "folds": 0, "fold": 2},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trained for two steps on two of three animals, and embedded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRODMANN_CACHE", str(tmp_path_factory.mktemp("cache")))
        recipe = settings.build(Recipe, TINY, where="tiny")
        made = verbs.fit(recipe, PHANTOM, tmp_path_factory.mktemp("neurons") / "run", quiet=True)
        verbs.embed(made, controls=False, quiet=True)
        yield made


@pytest.fixture(scope="module")
def answered(run):
    """The run after its responses were scored."""
    return results.score("responses", run.path)


@pytest.fixture(scope="module")
def samples(run):
    recipe, model = verbs.trained(run)
    found = brodmann.neurons.samples(verbs.open_source(recipe, run.data), recipe)
    return model.suit(found)


def test_a_table_holds_the_neurons_plane_by_plane_and_each_barcode_stands_by_its_neuron(run):
    recipe, model = verbs.trained(run)
    table = verbs.table(run)
    sections = table.obs["section"].astype(str).tolist()
    assert len(set(sections)) == 1 + sum(a != b for a, b in itertools.pairwise(sections)) == 12
    at = {name: i for i, name in enumerate(table.obs["id"].astype(str))}
    weight = (model.encoder.readout.weight.detach().flatten(1) @ model.spread).numpy()
    for known, rows in zip(model.known, model.slices, strict=True):
        own = np.asarray(table.X)[[at[name] for name in known.neurons]].astype(np.float32)
        assert np.abs(own - weight[rows] / np.linalg.norm(weight[rows], axis=1, keepdims=True)).max() < 2e-3
    source = verbs.open_source(recipe, run.data)
    place = source.neurons.set_index("id")["x_mm"].loc[table.obs["id"].astype(str)]
    assert np.allclose(place, np.asarray(table.obsm["xyz"])[:, 0], atol=1e-5)


def test_responses_are_scored_beside_the_rival_and_say_which_animals_the_core_never_saw(run, answered):
    found = answered
    assert found.target == "responses"
    assert found.metric == "median CC_norm"
    assert found.split == "clips that were never trained on; core never saw: B3; natural"
    assert list(found.baselines) == ["linear filters"]
    assert {"dots", "gabors", "noise", "rdk", "static", "animal B3"} <= set(found.more)
    assert any("B3/scan1" in text and "core as it was" in text for text in found.remarks)
    assert not any("B1/scan1: not known" in text or "B2/scan1: not known" in text for text in found.remarks)
    assert len(found.predicted) == 72
    saved = Score.load(run.path / "scores" / "responses-responses.json")
    assert saved.value == found.value
    assert saved.recipe_hash == run.recipe_hash


def test_a_run_without_a_table_answers_too_and_the_whole_data_leave_nobody_unseen(tmp_path):
    recipe = settings.build(Recipe, {**TINY, "split": {}}, where="tiny")
    small = "phantom:animals=1,neurons=4,minutes=0.2,test_clips=1,repeats=2,clip_s=2,domain_minutes=0,valid_minutes=0"
    made = verbs.fit(recipe, small, tmp_path / "run", quiet=True)
    found = results.score("responses", made)
    assert found.split == "clips that were never trained on; natural"
    assert not any("not known" in text for text in found.remarks)


def test_the_headline_is_the_domain_that_was_trained_on_though_another_is_shown_first(samples):
    order = [one["domain"] for one in answers(samples, lambda kept, clip: clip.responses()[:, kept.columns])]
    shown = samples.kept[0].recording.trials
    assert shown.loc[shown["part"] == "test", "domain"].iloc[0] != "natural"
    assert order[::6] == ["natural"] * 3


def test_properties_are_read_out_of_the_fold_that_the_core_never_saw(run):
    read = results.score("properties", run, "rate_hz")
    assert read.n == 24
    assert read.split == "brain, fold 2"
    assert read.metric == "R^2"
    assert results.score("properties", run, "rate_hz", by="section").n == 72
    assert (run.path / "scores" / "properties-rate_hz.json").is_file()


def test_wiring_takes_the_synapses_of_the_data_and_finds_that_alike_neurons_were_wired(run, monkeypatch):
    """Two dozen neurons have too few synapses of their own: others are drawn for them."""
    table, opened = verbs.table(run), verbs.open_source
    x = np.asarray(table.X, np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    pre, post = np.nonzero(~np.eye(len(x), dtype=bool))
    rng = np.random.default_rng(0)
    like = (x @ x.T)[pre, post]
    drawn = pd.DataFrame({
        "pre": table.obs["id"].astype(str).to_numpy()[pre], "post": table.obs["id"].astype(str).to_numpy()[post],
        "synapses": rng.poisson(0.5 * np.exp(like / like.std())), "distance_um": rng.uniform(0, 500, len(pre)),
    })  # fmt: skip
    monkeypatch.setattr(verbs, "open_source", lambda *given: replace(opened(*given), synapses=drawn))
    found = results.score("wiring", run)
    assert found.n == 72 * 71
    assert found.interval[0] > 0.05
    assert {"similarity of coordinates", "node features alone", "rewired"} == set(found.baselines)
    assert (run.path / "scores" / "wiring-synapses.json").is_file()


def test_curves_at_the_planted_direction_of_motion_agree_with_the_planted_orientation_of_bars(run, monkeypatch):
    """The phantom plants bars; a grating is told by its motion: without turning by 90 degrees the error would be 90."""

    def planted(recipe: Any, model: Any, samples: Any) -> dict[str, Any]:
        angles = np.arange(16) * 22.5
        motion = np.concatenate(
            [kept.recording.planted["direction_deg"].to_numpy()[kept.columns] for kept in samples.kept]
        )
        curves = 1 + np.cos(2 * np.radians(angles - motion[:, None]))
        places = samples.places
        ids, subjects = places["id"].to_numpy(), places["subject"].astype(str).to_numpy()
        return {"curves": curves, "directions_deg": angles, "ids": ids, "subjects": subjects}

    monkeypatch.setattr(brodmann.neurons, "tunings", planted)
    found = results.score("tuning", run)
    assert found.target == "orientation_deg"
    assert found.value < 1
    assert any("turned by 90 degrees" in text for text in found.remarks)
    moving = results.score("tuning", run, "direction_deg")
    assert moving.value < 1
    assert not any("turned" in text for text in moving.remarks)


def test_questions_refuse_what_they_do_not_use(run):
    for task, given in {
        "responses": {"target": "area"}, "tuning": {"fold": 1}, "wiring": {"by": "brain"}, "properties": {"k": (3,)},
    }.items():  # fmt: skip
        with pytest.raises(Usage, match=f"^{task} (are|is|compares)"):
            results.score(task, run, **given)
    with pytest.raises(Usage, match=r"no target(.|\n)*sf_cpd, tf_hz"):
        results.score("properties", run)
    with pytest.raises(Usage, match=r"numeric column(.|\n)*depth_um"):
        results.score("tuning", run, "area")


def test_a_run_of_another_system_says_who_predicts_responses(run, monkeypatch):
    monkeypatch.setattr(type(run), "system", "cells", raising=False)
    monkeypatch.setitem(run.__dict__, "system", "cells")
    with pytest.raises(Usage, match="responses are predicted by the neurons system; this run is of cells"):
        results.score("responses", run)
    with pytest.raises(Usage, match="tuning is measured on models of the neurons system; this run is of cells"):
        results.score("tuning", run)


@pytest.mark.parametrize("task", ["responses", "tuning", "wiring"])
def test_a_table_alone_does_not_answer_for_its_neurons(run, task):
    with pytest.raises(Usage, match="give the run"):
        results.score(task, verbs.table(run))


def test_data_without_synapses_are_refused(run, monkeypatch):
    monkeypatch.setattr("brodmann.questions.opened", lambda *_: (None, SimpleNamespace(synapses=None, name="own data")))
    with pytest.raises(Usage, match="no synapses in 'own data'"):
        results.score("wiring", run)


@pytest.mark.usefixtures("answered")
def test_a_map_says_that_it_paints_classes(run):
    with pytest.raises(Refused, match=r"a map paints classes(.|\n)*'responses' is a number"):
        results.map(run, "responses")


def test_the_shell_asks_the_same_question(run, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["score", str(run.path), "properties", "--target", "tf_hz"])
    assert left.value.code == 0
    assert "properties  R^2" in capsys.readouterr().out
    kept = json.loads((run.path / "scores" / "properties-tf_hz.json").read_text())
    assert kept["task"] == "properties"


# ------------------------------------------------------------------------------------------------------------ the rival


def test_the_rival_reads_the_energies_at_the_place_that_was_found_and_never_falls_below_zero(samples):
    kept = samples.kept[1]
    clip = clips(kept.recording, "test")[0]
    said = rivals.linear(samples)(kept, clip)
    assert said.shape == (90, 24)
    assert said.min() >= rivals.LEAST
    found, _ = adopt.seen(kept, samples.recipe.samples.burn_in, samples.where(kept))
    maps = energies.energies(torch.from_numpy(np.array(clip.inputs()["video"])), 30.0)
    height, width = maps.shape[2:]
    for neuron in (0, 7, 23):
        # 31 places along the width: two steps to a pixel of the filters' grid
        row, column = divmod(int(found.place[neuron]), 2 * (width - 1) + 1)
        y, x = row / 2, column / 2
        around = [(int(y), int(x)), (min(int(y) + 1, height - 1), int(x)), (int(y), min(int(x) + 1, width - 1))]
        around.append((around[1][0], around[2][1]))
        shares = [(1 - y % 1) * (1 - x % 1), (y % 1) * (1 - x % 1), (1 - y % 1) * (x % 1), (y % 1) * (x % 1)]
        here = sum(share * maps[:, :, j, i] for share, (j, i) in zip(shares, around, strict=True))
        expected = (here @ found.weights[neuron] + found.intercept[neuron]).clamp_min(0.01)
        assert np.allclose(said[:, neuron], expected, atol=1e-4)


def test_the_rival_is_fitted_once_and_tells_clips_apart(samples, monkeypatch):
    times = []

    def seen(kept: Any, burn_in: int, where: Any) -> tuple[search.Found, Tensor]:
        times.append(kept.recording.id)
        n, c = len(kept.columns), energies.COUNT
        place = torch.zeros(n, dtype=torch.int64)
        zeros = torch.zeros(n)
        return search.Found(place, torch.ones(n, c), zeros, zeros, zeros, torch.ones(c)), torch.zeros(1, 2)

    monkeypatch.setattr(adopt, "seen", seen)
    predict, kept = rivals.linear(samples), samples.kept[0]
    some = clips(kept.recording, "test")
    other = next(clip for clip in some if clip.video != some[0].video)
    first = predict(kept, some[0])
    assert not np.allclose(first, predict(kept, other))
    assert np.array_equal(first, predict(kept, some[0]))
    predict(samples.kept[1], clips(samples.kept[1].recording, "test")[0])
    assert times == ["B1/scan1", "B2/scan1"]


# ------------------------------------------------------------------------------------------------- physiology on models


class Energy(nn.Module):
    """Stands in for the encoder: pairs of Gabors of known place, direction and frequencies; rates are known."""

    def __init__(self, motion_deg: list[float], cycles: list[float], drift_hz: list[float], size_px: tuple[int, int]):
        super().__init__()
        height, width = size_px
        y, x = np.mgrid[:height, :width]
        found = []
        for angle, sf in zip(np.radians(motion_deg), cycles, strict=True):
            along = (x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle)
            window = np.exp(-((x - width / 2) ** 2 + (y - height / 2) ** 2) / (2 * 6.0**2))
            found.append(window * np.exp(2j * np.pi * sf / width * along))
        self.filters = torch.from_numpy(np.stack(found)).to(torch.complex64)
        self.drift = torch.tensor(drift_hz)
        self.weight = nn.Parameter(torch.ones(()))
        self.given: list[tuple[Tensor, Tensor]] = []

    def features(self, video: Tensor, pupil: Tensor, behaviour: Tensor, animal: Tensor) -> Tensor:
        self.given.append((pupil, behaviour))
        light = (video.float() - 127.5) / 127.5
        seen = torch.einsum("bthw,nhw->btn", light.to(torch.complex64), self.filters)
        # a leaky memory that turns with the grating: only motion in the filter's direction builds up
        turn = torch.exp(2j * np.pi * self.drift / 30)
        memory, kept = torch.zeros_like(seen[:, 0]), []
        for frame in seen.unbind(1):
            memory = 0.8 * turn * memory + 0.2 * frame
            kept.append(memory.abs())
        return torch.stack(kept, 1)[..., None, None]

    def log_rates(self, features: Tensor, rows: slice) -> Tensor:
        return (0.05 * self.weight * features[:, :, rows, 0, 0] + 0.05).log()


class Model(nn.Module):
    """What `insilico` uses of a model."""

    def __init__(self, encoder: nn.Module, neurons: int):
        super().__init__()
        self.encoder, self.slices = encoder, [slice(0, neurons)]
        self.known = (SimpleNamespace(id="one"),)
        self.recipe = settings.build(Recipe, {"fit": {"precision": "fp32"}}, where="tiny")


MOTION, CYCLES, DRIFT = [0.0, 40.0, 100.0, 222.0, 300.0], [6.0, 3.0, 12.0, 6.0, 6.0], [4.0, 2.0, 4.0, 2.0, 8.0]


@pytest.fixture
def planted() -> Model:
    return Model(Energy(MOTION, CYCLES, DRIFT, (36, 64)), len(MOTION))


def test_gratings_find_the_direction_and_the_frequencies_that_were_planted(planted):
    shown = insilico.gratings(planted, 0)
    assert shown.rates.shape == (3, 3, 16, 5)
    best = shown.best()
    assert [shown.cycles[i] for i in best[:, 0]] == CYCLES
    assert [shown.drift_hz[i] for i in best[:, 1]] == DRIFT
    curves = shown.curves()
    assert curves.shape == (5, 16)
    assert np.array_equal(curves[2], shown.rates[best[2, 0], best[2, 1], :, 2])
    found = selectivity(curves, shown.directions_deg)
    assert circular_error(found.direction, np.array(MOTION), period_deg=360).max() < 4
    for pupil, behaviour in planted.encoder.given:
        assert not pupil.any()
        assert not behaviour.any()


def test_a_grating_moves_towards_its_direction_with_its_frequencies():
    given = {"frames": 30, "size_px": (36, 64), "rate_hz": 30.0}
    right = insilico.grating(0, 4, 7.5, **given)
    assert np.allclose(right[1, :, 4:], right[0, :, :-4], atol=1e-3)
    down = insilico.grating(90, 4, 7.5, **given)
    assert np.allclose(down[1, 4:], down[0, :-4], atol=1e-3)
    assert 0 <= right.min() < right.max() <= 255


def test_flashing_dots_show_where_a_neuron_looks(planted):
    planted.encoder.filters = torch.zeros(2, 36, 64, dtype=torch.complex64)
    planted.encoder.filters[0, 10:13, 40:43] = 1
    planted.encoder.filters[1, 24:27, 12:15] = 1
    planted.encoder.drift = torch.zeros(2)
    planted.slices = [slice(0, 2)]
    # rates that rise with light, not with contrast
    planted.encoder.log_rates = lambda features, rows: features[:, :, rows, 0, 0]
    shown = insilico.receptive_fields(planted, 0, frames=900)
    assert shown.stimulus.shape == (900, 36, 64)
    assert shown.responses.shape == (900, 2)
    maps = triggered(shown.stimulus.astype(np.float32) ** 2, shown.responses, lags=range(4))
    found = fields(maps - np.median(maps, axis=(1, 2), keepdims=True))
    assert np.abs(np.array([found.x, found.y]).T - [[41, 11], [13, 25]]).max() < 3
    again = insilico.receptive_fields(planted, 0, frames=900)
    assert np.array_equal(again.stimulus, shown.stimulus)


@pytest.mark.parametrize("neuron", [0, 3])
def test_the_most_exciting_video_drives_a_neuron_more_than_the_best_grating_at_no_more_contrast(planted, neuron):
    shown = insilico.gratings(planted, 0)
    found = insilico.most_exciting(planted, 0, neuron, shown=shown)
    assert found.video.shape == (30, 36, 64)
    assert found.video.dtype == np.uint8
    assert found.grating == pytest.approx(shown.rates[..., neuron].max(), rel=1e-4)
    assert found.rate > 1.2 * found.grating
    sf, tf, direction = shown.best()[neuron]
    first = insilico.grating(
        shown.directions_deg[direction], shown.cycles[sf], shown.drift_hz[tf], frames=30, size_px=(36, 64), rate_hz=30.0
    )
    # rounding to grey values adds at most half a step
    assert np.linalg.norm(found.video - 127.5) < np.linalg.norm(first - 127.5) + 0.5 * np.sqrt(first.size)
    assert planted.encoder.weight.grad is None


def test_a_neuron_that_is_not_there_is_refused(planted):
    with pytest.raises(Usage, match="one of the 5 of one"):
        insilico.most_exciting(planted, 0, 5)


def test_a_trained_network_is_shown_gratings_and_climbs(run, samples):
    _, model = verbs.trained(run)
    suited = model.suit(samples)
    number = suited.order[2]
    shown = insilico.gratings(model, number, directions=8, cycles=(6.0,), drift_hz=(4.0,))
    assert shown.curves().shape == (24, 8)
    assert (shown.curves() > 0).all()
    neuron = int(shown.rates.std(axis=2)[0, 0].argmax())
    found = insilico.most_exciting(model, number, neuron, shown=shown, steps=5)
    assert found.rate > found.grating
    assert not any(value.grad is not None for value in model.parameters())


def test_tunings_stand_in_the_order_of_the_neurons(run, samples, monkeypatch):
    recipe, model = verbs.trained(run)
    suited = model.suit(samples)

    def named(model: Any, number: int) -> insilico.Gratings:
        code = np.array([float(name[1] + name[-4:]) for name in model.known[number].neurons], np.float32)
        return insilico.Gratings(np.tile(code, (1, 1, 16, 1)), np.arange(16) * 22.5, (6.0,), (4.0,))

    monkeypatch.setattr(insilico, "gratings", named)
    given = insilico.tunings(recipe, model, suited)
    assert given["curves"][:, 0].tolist() == [float(name[1] + name[-4:]) for name in given["ids"]]
    assert given["subjects"].tolist() == [name[:2] for name in given["ids"]]
