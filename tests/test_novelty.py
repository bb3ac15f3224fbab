"""New borders: planted ones are found, none in uniform tissue; donors are told apart only if they differ."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

from brodmann import results, verbs
from brodmann.errors import Refused, Usage
from brodmann.tasks import _novel, donors
from brodmann.tasks import novelty as module
from brodmann.tasks._borders import Region
from brodmann.tasks._score import Score
from brodmann.tasks.novelty import novelty


def brain(
    seed: int = 0, *, animals: int = 2, cells: int = 900, planted: bool = True, effect: float = 1.2, batch: float = 1.0
) -> ad.AnnData:
    """Two regions, left and right of x = 500; in the right one a border at y = 400 that no atlas draws."""
    rng = np.random.default_rng(seed)
    change = rng.standard_normal(8)
    change *= effect * np.sqrt(8) / np.linalg.norm(change)
    rows, own = [], []
    for a in range(animals):
        xy = rng.uniform(0, 1000, (cells, 2))
        below = (xy[:, 0] > 500) & (xy[:, 1] < 400) & planted
        value = rng.standard_normal((cells, 8)) + np.where(below[:, None], change, 0)
        own.append(value + batch * rng.standard_normal(8))
        rows += [
            (f"{a}/{i}", f"A{a}", f"A{a}_1", x, y, "right" if x > 500 else "left", "lower" if new else "rest")
            for i, (x, y, new) in enumerate(zip(*xy.T, below, strict=True))
        ]
    obs = pd.DataFrame(rows, columns=["id", "subject", "section", "x_um", "y_um", "region", "truth"])
    obs.index = pd.Index(obs["id"].to_numpy())
    values = np.concatenate(own).astype(np.float32)
    return ad.AnnData(X=values, obs=obs, obsm={"baseline_own": values})


@pytest.fixture(scope="module")
def found():
    table = brain()
    genes = [f"g{i}" for i in range(8)]
    return table, novelty(table, "region", expression=np.asarray(table.X).__getitem__, names=genes)


def test_a_planted_border_is_found_where_it_lies(found):
    table, result = found
    assert result.regions.loc["right", "new"]
    assert not result.regions.loc["left", "new"]
    assert result.regions.loc["right", "parts"] == 2
    assert result.regions.loc["right", "agreement"] > 0.8
    assert result.dealt == 0
    border = result.borders.iloc[0]
    assert len(result.borders) == 1
    # 0.5 mm in each of two sections.
    assert border["length_mm"] == pytest.approx(1.0, rel=0.25)
    assert border["contiguous"] > 0.9
    assert (border["animals"], border["of"]) == (2, 2)
    right = (table.obs["region"] == "right").to_numpy()
    side = pd.crosstab(table.obs["truth"][right], result.labels[right])
    assert side.max(axis=1).sum() / side.to_numpy().sum() > 0.9
    assert set(result.labels[~right]) == {"left"}


def test_genes_that_differ_are_named_with_their_effect(found):
    table, result = found
    change = np.random.default_rng(0).standard_normal(8)
    strongest = int(np.abs(change).argmax())
    named = result.borders.iloc[0]["differs"].split(", ")
    assert named[0].split()[0] == f"g{strongest}"
    a, b = (result.labels == f"right/{part}" for part in (1, 2))
    x = np.asarray(table.X)[:, strongest]
    area = mannwhitneyu(x[b], x[a]).statistic / (a.sum() * b.sum())
    assert float(named[0].split()[1]) == pytest.approx(area, abs=0.006)


def test_uniform_tissue_has_no_new_borders():
    """False discoveries counted in 16 uniform regions; at a level of 0.05 one of four brains may show some."""
    false = 0
    for seed in range(4):
        table = brain(seed, planted=False, cells=500)
        table.obs["region"] = [
            f"{region} {'up' if y > 500 else 'down'}"
            for region, y in zip(table.obs["region"], table.obs["y_um"], strict=True)
        ]
        result = novelty(table, "region", least=40)
        assert len(result.regions) == 4
        false += int(result.regions["new"].sum())
    assert false <= 1


def test_chances_in_uniform_tissue_are_chances():
    """Rows that drew a border and also judged it would reach p < 0.05 nearly always."""
    p = [
        chance
        for seed in range(12)
        for chance in novelty(brain(seed, planted=False), "region", least=40).regions["p"].tolist()
    ]
    assert len(p) == 24
    assert np.mean(np.array(p) < 0.05) <= 0.2
    assert 0.25 < np.median(p) < 0.75


def slope(table: ad.AnnData, size: float) -> None:
    """Add a change along y that is the same everywhere."""
    along = (table.obs["y_um"].to_numpy() - 500) / 500
    change = np.random.default_rng(9).standard_normal(8)
    values = np.asarray(table.X) + size * along[:, None] * (change / np.linalg.norm(change))
    table.X = table.obsm["baseline_own"] = values.astype(np.float32)


def test_a_gradient_is_no_border_and_hides_none():
    uniform, planted = brain(planted=False), brain(cells=1500)
    slope(uniform, 1.0)
    slope(planted, 1.0)
    smooth = novelty(uniform, "region").regions
    # The halves draw the same line across the slope, and yet nothing happens there.
    assert smooth["agreement"].min() > module.AGREE
    assert not smooth["new"].any()
    assert novelty(planted, "region").regions["new"].to_dict() == {"left": False, "right": True}


def test_what_strays_over_a_known_border_is_neither_drawn_nor_new():
    table = brain(planted=False, cells=3000)
    rng = np.random.default_rng(3)
    strayed = table.obs["x_um"].to_numpy() + 40 * rng.standard_normal(table.n_obs) > 500
    table.obsm["baseline_own"] = (np.asarray(table.X) + strayed[:, None] * np.linspace(-4, 4, 8)).astype(np.float32)
    regions = novelty(table, "region").regions
    assert not regions["new"].any()
    # Halves that drew the rim would agree on it.
    assert regions["agreement"].max() < module.AGREE


def test_an_animal_without_the_border_is_counted():
    table, bare = brain(cells=1500, animals=3), brain(cells=1500, animals=3, planted=False)
    only = (table.obs["subject"] == "A0").to_numpy()[:, None]
    table.obsm["baseline_own"] = np.where(only, np.asarray(table.X), np.asarray(bare.X))
    border = novelty(table, "region").borders.iloc[0]
    assert (border["animals"], border["of"]) == (1, 3)


def test_constant_rows_and_rows_on_a_grid_are_searched():
    table = brain(cells=1500)
    table.obs[["x_um", "y_um"]] = np.floor(table.obs[["x_um", "y_um"]] / 100) * 100 + 50
    assert novelty(table, "region").regions.loc["right", "new"]
    table.obsm["baseline_own"][:] = 1
    assert not novelty(table, "region").regions["new"].any()


def test_a_second_border_is_found_within_a_part():
    table = brain(cells=2500, effect=1.5)
    third = (table.obs["region"] == "right") & (table.obs["y_um"] > 750)
    away = np.random.default_rng(5).standard_normal(8) * third.to_numpy()[:, None]
    table.obsm["baseline_own"] = (np.asarray(table.X) + 1.5 * away).astype(np.float32)
    found = novelty(table, "region")
    assert found.regions.loc["right", "parts"] == 3
    assert set(found.labels) == {"left", "right/1", "right/2", "right/3"}
    # Both borders are lines of 0.5 mm in two sections; the outer parts do not touch.
    assert found.borders["length_mm"].tolist() == pytest.approx([1.0, 1.0], rel=0.3)


def test_wrong_questions_are_refused():
    table = brain(cells=50)
    with pytest.raises(Usage, match="'nowhere'"):
        novelty(table, "nowhere")
    with pytest.raises(Refused, match="should have 200 rows"):
        novelty(table, "region")
    with pytest.raises(Usage, match="10 rows or more"):
        novelty(table, "region", least=1)
    table.obsm["baseline_own"][3, 2] = np.nan
    with pytest.raises(Refused, match="finite"):
        novelty(table, "region", least=20)
    with pytest.raises(Usage, match="regions that are known"):
        results.score("novelty", table)
    del table.obsm["baseline_own"]
    with pytest.raises(Refused, match="baseline_own"):
        novelty(table, "region")


def test_the_length_of_a_straight_border_is_measured():
    rng = np.random.default_rng(0)
    where = rng.uniform(0, 1000, (4000, 2))
    none = np.zeros((4000, 0))
    zero = np.zeros(4000, dtype=np.int64)
    region = Region(np.arange(4000), where, zero, zero, none, none)
    labels = (where @ [0.6, 0.8] > 700).astype(np.int64)
    # The line 0.6 x + 0.8 y = 700 crosses the square from (1000, 125) to (0, 875).
    assert _novel.lengths(region, labels, 2)[0, 1] == pytest.approx(1250, rel=0.08)


def test_discovery_rates_are_those_of_benjamini_and_hochberg():
    from scipy.stats import false_discovery_control

    p = np.random.default_rng(0).uniform(0, 1, 40) ** 3
    assert np.allclose(_novel.discovery(p), false_discovery_control(p))


def test_donors_are_told_apart_only_if_they_differ():
    table = brain(batch=0.0, cells=800)
    table.obsm["baseline_shifted"] = brain(batch=1.0, cells=800).obsm["baseline_own"]
    score = donors.probe(table, "truth")
    assert score.value == pytest.approx(0.5, abs=0.06)
    assert score.baselines["chance"].value == 0.5
    assert score.baselines["shifted"].value > 0.75
    assert "strips of tissue in 2 animals" in score.split
    assert Score.from_json(score.to_json()).to_json() == score.to_json()


def test_the_donor_probe_is_not_fooled_by_animals_that_show_other_tissue():
    """One animal shows mostly the lower part: across domains it is told apart at once, within them it is not."""
    table = brain(batch=0.0, cells=1500, effect=3.0)
    drop = (table.obs["subject"] == "A0") & (table.obs["truth"] == "rest") & (np.arange(table.n_obs) % 10 > 0)
    table = table[~drop.to_numpy()].copy()
    table.obs["all"] = "everything"
    assert donors.probe(table, "all").value > 0.6
    assert donors.probe(table, "truth").value < 0.58


def test_the_donor_probe_is_blocked_in_space():
    """Features that only vary smoothly in each animal name it from the cells next door, not from other tissue."""
    table = brain(batch=0.0, cells=1500)
    table.obs["all"] = "everything"
    place = table.obs[["x_um", "y_um"]].to_numpy()
    rng = np.random.default_rng(3)
    smooth = [np.cos(place @ rng.normal(0, 0.02, (2, 60)) + rng.uniform(0, 6, 60)) for _ in range(2)]
    waves = np.where((table.obs["subject"] == "A0").to_numpy()[:, None], *smooth).astype(np.float32)
    assert donors.probe(ad.AnnData(X=waves, obs=table.obs), "all").value < 0.7


def test_one_animal_cannot_be_probed():
    table = brain(animals=1)
    with pytest.raises(Refused, match="two animals"):
        donors.probe(table, "truth")


def test_domains_are_matched_and_counted_between_animals():
    table = brain(batch=0.0)
    kinds = np.eye(2)[(table.obs["truth"] == "lower").to_numpy(int)]
    table.obs.loc[(table.obs["subject"] == "A1") & (table.obs["truth"] == "lower"), "truth"] = "rest"
    shared = donors.shared(table, "truth", kinds)
    assert shared.present.loc["lower", "animals"] == 1
    assert shared.present.loc["rest", ["A0", "A1"]].sum() == (table.obs["truth"] == "rest").sum()
    made = np.random.default_rng(0).dirichlet(np.ones(6), 5)
    order = [3, 0, 4, 1, 2]
    pairs = donors.match(made, made[order] + 0.01)
    assert [(a, b) for a, b, _ in pairs] == [(i, order.index(i)) for i in range(5)]
    assert all(strength > 0.99 for *_, strength in pairs)


def test_the_score_names_regions_and_borders_and_comes_back():
    table = brain(cells=1500)
    table.obs["type"] = np.where(np.asarray(table.X)[:, 0] > 0, "high", "low")
    score = results.score("novelty", table, "region")
    assert (score.value, score.baselines["dealt out"].value) == (0.5, 0.0)
    assert score.remarks[0] == "1 of 2 regions have a new border: right"
    step = score.more["right/1 | right/2"]
    assert step.low > 0
    assert "2/2 animals" in step.note
    assert "high 0." in step.note
    again = Score.from_json(score.to_json())
    assert again.to_json() == score.to_json()
    assert set(again.predicted) == {"right/1", "right/2"}
    assert len(again.truth) == 0
    with pytest.raises(Usage, match="nothing is held out"):
        results.score("novelty", table, "region", by="section")


def test_genes_of_a_run_are_those_of_its_rows(tmp_path):
    changes = {"encoder.width": 32, "samples.tile_cells": 256, "fit.steps": 2, "fit.batch": 2}
    data = "phantom:brains=2,sections_per_brain=2,cells=4000,genes=60"
    recipe = verbs.recipe("cells-tiny", changes)
    run = verbs.fit(recipe, data, tmp_path / "run", quiet=True)
    table = verbs.embed(run, quiet=True)
    measured, names = results._measured(run, table)
    source = verbs.open_source(recipe, data)
    rows = np.array([3, 70, 1500])
    at = np.array([source.ids().index(name) for name in table.obs["id"].to_numpy()[rows]])
    assert (measured(rows) == source.dense(at)).all()
    assert tuple(names) == tuple(source.panel.genes)
    assert results.score("novelty", run, "layer").n_groups > 3
    assert (tmp_path / "run" / "scores" / "novelty-layer.json").is_file()
    with pytest.raises(Refused, match="nothing to paint"):
        results.map(run, "novelty", quiet=True)
    results.score("novelty", run, "class")
    with pytest.raises(Refused, match="novelty-class, novelty-layer"):
        results.map(run, "novelty", quiet=True)
    with pytest.raises(Refused, match="nothing to paint"):
        results.map(run, "novelty-class", quiet=True)
