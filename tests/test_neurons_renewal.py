"""Readouts that are solved while the core learns, and places of new neurons that are found in two ways."""

from __future__ import annotations

import pytest
import torch

from brodmann.errors import Interrupted
from brodmann.neurons import adopt, head, kin
from brodmann.neurons.model import Known, NeuronModel
from brodmann.neurons.samples import NeuronSamples
from test_neurons_model import QUIET, quick, same, small, taught, three

__all__ = ["quick"]

RENEWED = {"objective": {"solve_first": 3}, "fit": {"steps": 8, "save_every": 2}}


def fresh(**parts: object) -> tuple[NeuronModel, NeuronSamples]:
    """An untrained model of three animals, and their samples."""
    recipe = small(**parts)
    samples = NeuronSamples(three(), recipe)
    return NeuronModel(recipe, [Known(kept.recording.id, samples.named(kept)) for kept in samples.kept]), samples


def test_training_that_stops_beside_a_renewal_ends_with_the_same_bits(tmp_path):
    recipe = small(**RENEWED)
    whole, run = taught(tmp_path / "whole", recipe, three())
    for stop in (3, 4, 6):  # before, after and before a renewal
        with pytest.raises(Interrupted):
            taught(tmp_path / "parts", recipe, three(), until=stop)
    resumed, parts = taught(tmp_path / "parts", recipe, three())
    assert same(whole.state_dict(), resumed.state_dict())
    assert run.metrics() == parts.metrics()


def test_readouts_are_renewed_when_it_is_time_and_only_then(tmp_path, monkeypatch):
    done: list[int] = []
    real = NeuronModel.renew

    def noted(model: NeuronModel, samples: NeuronSamples, step: int, say: object) -> bool:
        now = real(model, samples, step, QUIET)
        done.extend([step] if now else [])
        return now

    monkeypatch.setattr(NeuronModel, "renew", noted)
    taught(tmp_path / "some", small(**RENEWED | {"fit": {"steps": 13}}), three())
    assert done == [3, 6, 12]
    taught(tmp_path / "none", small(fit=RENEWED["fit"]), three())
    assert done == [3, 6, 12]


def test_settled_readouts_are_solved_again_before_the_first_step(monkeypatch):
    done: list[int] = []
    monkeypatch.setattr(adopt, "renew", lambda *_: done.append(1))
    first, samples = fresh(**RENEWED)
    more, _ = fresh(**RENEWED)
    assert not more.renew(samples, 0, QUIET)
    more.load_state_dict(more.begin(first.state_dict(), first.config()))
    assert [step for step in range(7) if more.renew(samples, step, QUIET)] == [0, 3, 6]
    assert len(done) == 3


def test_renewed_readouts_predict_better_and_leave_the_core_alone(tmp_path):
    model, _ = taught(tmp_path / "run", small(), three())
    samples = NeuronSamples(three(), model.recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = model.eval().judge(samples)
    adopt.renew(model, samples, QUIET)
    assert model.judge(samples) < loss - 0.02
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"encoder.readout.{name}" for name in ("mu", "weight", "bias")}


def test_renewed_readouts_bear_noise_in_the_features():
    model, samples = fresh()
    with torch.no_grad():
        model.encoder.core.out.gain[0, 1:] *= 1e-2  # all but one feature hardly vary
    kept = samples.kept[0]
    shown = adopt.recalled(model, 0, kept, adopt.pieces(kept, 3))
    noise = (adopt.NOISE * float(adopt._covariance(shown.features).diagonal().mean())) ** 0.5
    adopt.renew(model, samples, QUIET)
    rows = model.slices[0]

    def unrest() -> float:
        """How far the noise that must be borne moves log rates."""
        return float(noise * model.encoder.readout.weight[rows, 0].detach().norm(dim=1).max())

    calm = unrest()
    width = shown.features.shape[2]
    prior = head.Prior(torch.zeros(width), torch.eye(width) / noise)
    adopt.read_out(model, 0, shown, model.encoder.readout.mu[rows].detach().tanh(), prior, strengths=(0.01,))
    assert calm < 0.3
    assert unrest() > 3 * calm


@pytest.mark.parametrize("spoiled", ["kin", "search", "neither"])
def test_new_neurons_are_placed_in_the_way_that_predicts_left_out_frames_better(monkeypatch, tmp_path, spoiled):
    model, _ = taught(tmp_path / "run", small(fit={"steps": 60}), three())
    model.settle(NeuronSamples(three(), model.recipe), QUIET)
    again = NeuronSamples(_renamed(), model.recipe)
    corner = torch.zeros(5, dtype=torch.int64)
    tried: dict[str, torch.Tensor] = {}
    recognised, look_up = kin.recognised, adopt.look_up

    def by_kin(*given: object, **named: object) -> kin.Kin:
        found = recognised(*given, **named)
        return found._replace(place=corner) if spoiled == "kin" else found

    def by_search(*given: object) -> torch.Tensor:
        places = look_up(*given)
        tried["search"] = -torch.ones_like(places) if spoiled == "search" else places
        return tried["search"]

    monkeypatch.setattr(kin, "recognised", by_kin)
    monkeypatch.setattr(adopt, "look_up", by_search)
    model.suit(again)
    found = model.encoder.readout.mu[model.slices[3]].detach().tanh()
    # in the corner, where one of the two was sent, no neuron looks
    assert not torch.allclose(found[:, 0].max(), found[:, 0].min())
    if spoiled == "kin":
        size = torch.tensor([12.0, 8.0]) / 2
        limit = 1 - 1 / size
        expected = tried["search"].clamp(-limit, limit)
        assert (found - expected).abs().max() < 0.2


def _renamed():
    """The first animal under another name."""
    from dataclasses import replace

    data = three()
    one = replace(data.recordings[0], id="D/scan", subject="D")
    return replace(data, recordings=[one], neurons=data.neurons.iloc[:5].reset_index(drop=True))
