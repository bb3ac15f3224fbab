"""Every system, in each of its forms, answers the same questions."""

import numpy as np
import pytest
import torch

from brodmann import verbs
from brodmann.ledger import Ledger
from brodmann.systems import SYSTEMS, system

_CELLS = "phantom:brains=2,sections_per_brain=2,cells=2000,genes=60"
TINY = {
    "patches-tiny": {
        "data": "phantom:brains=2,sections_per_brain=2,native_um=64",
        "changes": {
            "samples.size_px": 32,
            "samples.pixel_um": 96.0,
            "samples.spacing_mm": 2.0,
            "partners.reach_mm": 30.0,
            "fit.steps": 2,
            "fit.batch": 8,
        },
    },
    "patches-tiny-tuned": {
        "data": "phantom:brains=3,sections_per_brain=2,native_um=64",
        "changes": {
            "samples.size_px": 32,
            "samples.pixel_um": 96.0,
            "samples.spacing_mm": 2.0,
            "tune.min_per_class": 2,
            "fit.steps": 2,
            "fit.batch": 8,
        },
    },
    "patches-tiny-layers": {
        "data": "phantom:brains=2,sections_per_brain=2,native_um=96",
        "changes": {
            "samples.size_px": 32,
            "samples.pixel_um": 96.0,
            "samples.spacing_mm": 2.0,
            "fit.steps": 2,
            "fit.batch": 4,
        },
    },
    "cells-tiny": {
        "data": _CELLS,
        "changes": {"encoder.width": 32, "samples.tile_cells": 256, "fit.steps": 2, "fit.batch": 2, "split.fold": 0},
    },
    "neurons-tiny": {
        "data": "phantom:animals=2,neurons=16,minutes=0.5,test_clips=1,repeats=2,clip_s=3.0,domain_minutes=0.05",
        "changes": {
            "encoder.channels": [8, 8],
            "encoder.pools": [2, 1],
            "encoder.layers": 1,
            "encoder.outputs": 16,
            "encoder.modulation": 4,
            "samples.frames": 30,
            "fit.steps": 2,
            "fit.batch": 4,
            "fit.judge_every": 1,
            "split.fold": 0,
        },
    },
    "cells-neighbourhood": {
        "data": _CELLS,
        "changes": {
            "encoder.width": 32,
            "encoder.layers": 1,
            "encoder.decoder_layers": 1,
            "encoder.feed_forward": 64,
            "samples.neighbours": 10,
            "fit.steps": 2,
            "fit.batch": 16,
            "fit.accumulate": 1,
            "split.fold": 0,
        },
    },
}


def test_every_system_is_asked():
    assert {name.split("-")[0] for name in TINY} == set(SYSTEMS)


@pytest.fixture(scope="module", params=TINY)
def opened(request):
    name = request.param
    recipe = verbs.recipe(name, TINY[name]["changes"])
    return system(name.split("-")[0]), recipe, verbs.open_source(recipe, TINY[name]["data"])


def test_samples_are_located(opened):
    module, recipe, source = opened
    samples = module.samples(source, recipe, part="all")
    places = samples.places
    assert {"id", "subject", "section", "x_mm", "y_mm", "z_mm"} <= set(places.columns)
    assert places["id"].is_unique
    assert places["section"].is_monotonic_increasing
    assert len(samples.labels) == len(samples) == len(places)
    assert not set(samples.labels.columns) & set(places.columns)
    samples.space.check(places[["x_mm", "y_mm", "z_mm"]].to_numpy())
    assert module.samples(source, recipe, part="all").fingerprint == samples.fingerprint


def test_held_out_rows_are_not_among_the_training_rows(opened):
    module, recipe, source = opened
    everything = module.samples(source, recipe, part="all")
    training = module.samples(source, recipe, part="train")
    assert 0 < len(training) < len(everything)
    assert set(training.places["id"]) < set(everything.places["id"])
    assert training.fingerprint != everything.fingerprint


def test_a_model_learns_describes_and_comes_back(opened):
    module, recipe, source = opened
    samples = module.samples(source, recipe, part="all")
    model = module.build(recipe, samples)
    samples = model.suit(samples)
    loss = model.loss(samples.batch(0))
    loss.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    patches = samples.read(np.arange(10))
    rows = model.describe(patches)
    assert model.training
    again = module.rebuild(recipe, model.config())
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(rows, again.eval().describe(patches))
    assert len(rows) == 10
    assert rows.dtype == np.float32


def test_controls_describe_what_the_model_describes(opened):
    module, recipe, source = opened
    samples = module.samples(source, recipe, part="all")
    made = module.controls(recipe, samples)
    assert "untrained" in made
    samples = module.build(recipe, samples).suit(samples)
    batch = samples.read(np.arange(4))
    for name, describe in made.items():
        assert describe(batch).shape[0] == 4, name


def test_the_same_seed_builds_the_same_weights(opened):
    module, recipe, source = opened
    samples = module.samples(source, recipe, part="all")
    a, b = (module.build(recipe, samples).state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_embedding_reads_each_sample_once_and_resumes_to_the_same_bytes(opened, tmp_path, monkeypatch):
    module, recipe, source = opened
    samples = module.samples(source, recipe, part="all")
    monkeypatch.setattr(type(samples), "shard_rows", len(samples) // 3 + 1)
    kind, asked = type(samples), []
    read = kind.read

    def counted(self, rows):
        asked.extend(int(row) for row in rows)
        return read(self, rows)

    def stopped(self, shard, arrays):
        add(self, shard, arrays)
        raise KeyboardInterrupt

    tables = []
    add = Ledger.add
    for name in ("whole", "stopped"):
        run = verbs.fit(recipe, source, tmp_path / name, quiet=True)
        asked.clear()
        monkeypatch.setattr(kind, "read", counted)
        if name == "stopped":
            monkeypatch.setattr(Ledger, "add", stopped)
            with pytest.raises(KeyboardInterrupt):
                verbs.embed(run, source, quiet=True)
            monkeypatch.setattr(Ledger, "add", add)
        tables.append(verbs.embed(run, source, quiet=True))
        assert sorted(asked) == list(range(len(samples)))
        monkeypatch.setattr(kind, "read", read)
    whole, resumed = tables
    np.testing.assert_array_equal(whole.X, resumed.X)
    assert {f"baseline_{name}" for name in module.controls(recipe, samples)} <= set(whole.obsm)
    for name in whole.obsm:
        np.testing.assert_array_equal(whole.obsm[name], resumed.obsm[name])
