"""Domains: planted ones are found, nested, counted and compared; smoothing alone is shown for what it is."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree
from sklearn.metrics import adjusted_rand_score

from brodmann import levels
from brodmann.errors import Refused, Usage
from brodmann.samples import stream
from brodmann.tasks import _agreement, _consensus, _nested, _stability, _surroundings
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._domain_value import Judged
from brodmann.tasks._score import Score
from brodmann.tasks.domains import domains


def tissue(
    seed: int = 0, *, sections: int = 2, cells: int = 400, noise: float = 4.0, offset: float = 1.0
) -> ad.AnnData:
    """Two animals of four bands; a cell says little by itself, its surroundings much; animals differ by an offset."""
    rng = np.random.default_rng(seed)
    look = 2 * rng.standard_normal((4, 12))
    parts, own = [], []
    for s in range(sections):
        xy = rng.uniform(0, 1000, (cells, 2))
        band = np.minimum((xy[:, 1] + 60 * np.sin(xy[:, 0] / 150)) // 250, 3).clip(0).astype(int)
        own.append(look[band] + noise * rng.standard_normal((cells, 12)) + offset * s * rng.standard_normal(12))
        parts.append(
            pd.DataFrame(
                {
                    "id": [f"{s}/{i}" for i in range(cells)],
                    "subject": f"A{s}",
                    "section": f"A{s}_1",
                    "x_um": xy[:, 0],
                    "y_um": xy[:, 1],
                    "x_mm": xy[:, 0] / 1000,
                    "y_mm": xy[:, 1] / 1000,
                    "z_mm": 0.0,
                    "layer": [f"L{b + 1}" for b in band],
                }
            )
        )
    obs = pd.concat(parts, ignore_index=True)
    obs.index = pd.Index(obs["id"].to_numpy())
    values = np.concatenate(own).astype(np.float32)
    return ad.AnnData(
        X=values.astype(np.float16),
        obs=obs,
        obsm={"baseline_own": values},
        uns={"brodmann": {"system": "cells", "recipe_hash": "r", "data_fingerprint": "d"}},
    )


@pytest.fixture(scope="module")
def table():
    made = tissue()
    made.obs.loc[made.obs.index[:50], "layer"] = np.nan
    return made


@pytest.fixture(scope="module")
def found(table):
    return domains(table, [2, 4, 9], target="layer", seeds=2)


def test_surroundings_find_what_single_cells_do_not(found, table):
    score = found.score
    assert score.task == "domains"
    assert score.value > 0.85
    assert score.interval[0] < score.value < score.interval[1]
    assert score.n == table.n_obs - 50
    assert score.baselines["own, k-means"].value < 0.6
    assert score.gains["own, k-means"].low > 0.2
    assert score.more["ARI within sections"].value > 0.85
    single = {name for name in score.more if name.startswith("ARI in ")}
    assert single == {f"ARI in {name}" for name in dict.fromkeys(table.obs["section"])}
    assert score.more["NMI"].value > score.more["AMI"].value - 0.01
    assert (score.predicted == score.truth).mean() > 0.9
    assert any("50 of" in text for text in score.remarks)
    assert score.per_class["L2"]["f1"] > 0.85


def test_an_interval_is_about_its_value():
    """Classes and domains of whole sections, without relation: a section that is drawn twice agrees with itself."""
    rng = np.random.default_rng(0)
    section = np.repeat(np.arange(12), 100)
    truth, said = (rng.integers(0, 6, 12)[section] for _ in range(2))
    judged = Judged(None, np.arange(1200), truth, metrics.Bootstrap.of(section, 0), cast("Any", None))
    drawn = _agreement.drawn(_agreement.counts(truth, said, judged.boot), judged.boot)
    found = judged.measure([said.astype(np.int32)], coherent=False)
    assert np.median(drawn) > found.value + 0.1
    assert np.median(found.draws) == pytest.approx(found.value)
    assert np.std(found.draws) == pytest.approx(np.std(drawn))


def test_smoothed_noise_is_coherent_and_agrees_with_nothing(found):
    assert found.score.baselines["smoothed noise"].value < 0.1
    assert found.score.more["smoothed noise: same-label neighbours"].value > 0.6
    assert "same" in found.score.baselines["features, k-means"].note
    assert "PAS" in found.score.baselines["features, tied mixture"].note


def test_the_score_is_saved_and_loaded_whole(found):
    again = Score.from_json(found.score.to_json())
    assert again.to_json() == found.score.to_json()
    assert found.score.table().row_count > 10


def test_levels_nest_exactly_and_keep_their_names(found, table):
    assert [level.k for level in found.levels] == [2, 4, 9]
    for coarse, fine in zip(found.levels, found.levels[1:], strict=False):
        home = pd.crosstab(fine.labels, coarse.labels)
        assert ((home > 0).sum(axis=1) == 1).all()
        assert set(coarse.ids) < set(fine.ids)
        for domain, name in enumerate(coarse.ids):
            # The name lives on below, in the same colour and inside the same domain.
            at = fine.ids.index(name)
            assert fine.colours[at] == coarse.colours[domain]
            assert home.loc[at, domain] > 0
            assert fine.paths[at] == f"{coarse.paths[domain]}/{name}"
        assert len(set(fine.colours)) == fine.k
    frame = found.frame(table)
    assert list(frame) == ["domain_2", "domain_4", "domain_9"]
    assert (frame.index == table.obs_names).all()
    assert found.levels[0].ids == tuple(frame["domain_2"].cat.categories)


def test_the_same_call_gives_the_same_domains(found, table):
    again = domains(table, [2, 4, 9], target="layer", seeds=2, compare=False)
    assert again.score.value == found.score.value
    assert (again.score.predicted == found.score.predicted).all()
    assert all((a.labels == b.labels).all() for a, b in zip(again.levels, found.levels, strict=True))


def test_labels_take_no_part_in_finding_domains(found, table):
    shuffled = table.copy()
    shuffled.obs["layer"] = np.random.default_rng(0).permutation(shuffled.obs["layer"].to_numpy())
    other = domains(shuffled, [2, 4, 9], target="layer", seeds=1, compare=False)
    assert (other.levels[1].labels == found.levels[1].labels).all()
    assert abs(other.score.value) < 0.05


def test_without_labels_stability_is_the_score(table):
    result = domains(table, path="features", compare=True)
    assert result.curve is not None
    assert result.score.metric == "stability"
    assert tuple(sorted(result.curve.picks)) == tuple(level.k for level in result.levels)
    assert "smoothed noise" in result.score.baselines
    assert Score.from_json(result.score.to_json()).value == result.score.value
    assert domains(table, 3, path="consensus").levels[0].k == 3


def test_a_value_without_the_network_does_not_bear_its_name(found, table):
    noisy = table.copy()
    noisy.X = np.random.default_rng(0).standard_normal(table.shape).astype(np.float16)
    consensus = domains(noisy, [2, 4, 9], target="layer", seeds=2).score
    assert consensus.value == found.score.value, "the features take no part"
    assert consensus.baselines["features, k-means"].value < 0.05
    for score in (consensus, domains(noisy, 3, compare=False).score):
        assert score.scored == "consensus, no network"
        assert str(score).startswith("domains (consensus, no network)  ")
        assert next(iter(score.table().columns[0].cells)) == "consensus, no network"
        assert score.remarks[0].startswith("the features of the network took no part")
    assert "its own rows stand beside it" in consensus.remarks[0]
    assert "beside" not in score.remarks[0], "nothing was compared"
    informed, blind = (
        domains(one, 4, target="layer", path="features", seeds=2, compare=False).score for one in (table, noisy)
    )
    assert informed.scored == blind.scored == "features"
    assert not any("no part in this value" in text for text in informed.remarks)
    # noise that is smoothed is like noise anywhere: its domains are places
    assert blind.value < 0.1 < informed.value


def test_levels_are_kept_without_a_warning(found, table, tmp_path):
    run = SimpleNamespace(path=tmp_path, forget=lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        levels.write(run, found, table)
        column, palette = levels.read(run, "domains")
    assert (tmp_path / "domains.zarr" / "zarr.json").is_file()
    assert column.name == "domain_9"
    assert (column.to_numpy() == found.frame(table)["domain_9"].to_numpy()).all()
    assert tuple(palette.values()) == found.levels[2].colours


def test_wrong_questions_are_refused(table):
    with pytest.raises(Usage, match="not 'nothing'"):
        domains(table, 3, target="nothing")
    for few in (0, 1):
        with pytest.raises(Usage, match="between 2 and"):
            domains(table, few)
    with pytest.raises(Usage, match="at least one"):
        domains(table, 3, seeds=0)
    bare = table.copy()
    del bare.obsm["baseline_own"]
    assert domains(bare, 3, compare=False).path == "k-means of the features, smoothed within sections"
    with pytest.raises(Usage, match="surroundings"):
        domains(bare, 3, path="consensus")
    bare.X[3, 1] = np.inf
    with pytest.raises(Refused, match="finite"):
        domains(bare, 3)
    one = table.copy()
    one.obs["layer"] = "L1"
    with pytest.raises(Refused, match="two classes"):
        domains(one, target="layer")


def test_new_sections_get_domains_without_fitting_again():
    whole = tissue(sections=2, offset=6.0)
    mine = (whole.obs["subject"] == "A0").to_numpy()
    known, parts = None, []
    for part in (whole[mine], whole[~mine]):
        where, section = _surroundings.positions(part), _surroundings.sections(part)
        known = _consensus.describe({"own": np.asarray(part.obsm["baseline_own"])}, where, section, section, like=known)
        parts.append((known, _surroundings.neighbours(where, section, 10)))
    fitted = _consensus.consensus(parts[0][0].blocks, 4, parts[0][1], 0)
    assert (fitted.predict(parts[0][0].blocks, parts[0][1]) == fitted.labels).mean() > 0.98
    said = fitted.predict(parts[1][0].blocks, parts[1][1])
    assert adjusted_rand_score(whole.obs["layer"][~mine], said) > 0.8


def test_agreement_is_that_of_sklearn_and_its_draws_are_recounted():
    rng = np.random.default_rng(0)
    truth, said, cluster = rng.integers(0, 5, 400), rng.integers(0, 7, 400), rng.integers(0, 6, 400)
    said[:200] = truth[:200]
    assert _agreement.ari(truth, said) == pytest.approx(adjusted_rand_score(truth, said), abs=1e-12)
    boot = metrics.Bootstrap.of(cluster.astype(object), 0)
    draws = _agreement.draws(truth, said, boot)
    rows = np.concatenate([np.repeat(np.flatnonzero(boot.cluster == c), int(t)) for c, t in enumerate(boot.times[3])])
    assert draws[3] == pytest.approx(adjusted_rand_score(truth[rows], said[rows]), abs=1e-12)
    assert _agreement.ari(np.zeros(9, int), np.zeros(9, int)) == 1.0


def test_coherence_is_what_its_definition_says():
    rng = np.random.default_rng(1)
    where, section = rng.uniform(0, 9, (60, 2)), np.repeat([0, 1], 30)
    labels = rng.integers(0, 2, 60)
    same, odd, chaos = [], [], []
    for s in (0, 1):
        rows = np.flatnonzero(section == s)
        z = where[rows] - where[rows].mean(axis=0)
        z /= np.sqrt(z.var(axis=0).mean())
        for i in rows:
            order = rows[np.argsort(np.linalg.norm(where[rows] - where[i], axis=1))][1:]
            same += (labels[order[:6]] == labels[i]).tolist()
            odd.append((labels[order[:10]] != labels[i]).sum() >= 6)
        for label in (0, 1):
            own = z[labels[rows] == label]
            chaos += cKDTree(own).query(own, k=2)[0][:, 1].tolist()
    found = _agreement.coherence(labels, where, section)
    assert found["same"] == pytest.approx(np.mean(same))
    assert found["PAS"] == pytest.approx(np.mean(odd))
    assert found["CHAOS"] == pytest.approx(np.mean(chaos))


def test_neighbours_stay_in_their_section_and_bear_coincident_rows():
    where = np.concatenate([np.zeros((9, 2)), np.random.default_rng(0).uniform(0, 1, (20, 2)), np.ones((1, 2))])
    section = np.repeat([0, 1, 2], [9, 20, 1]).astype(np.int64)
    near = _surroundings.neighbours(where, section, 6)
    for i, row in enumerate(near):
        there = row[row >= 0]
        assert i not in there
        assert (section[there] == section[i]).all()
        assert len(set(there.tolist())) == len(there)
    assert (near[-1] == -1).all()
    kernel = _surroundings.kernels(where, section)[0].toarray()
    assert np.allclose(kernel.sum(axis=1), 1)
    assert (kernel[section[:, None] != section[None]] == 0).all()
    distance = np.linalg.norm(where[9:29, None] - where[None, 9:29], axis=2)
    unit = np.median(np.sort(distance, axis=1)[:, 6])
    weight = np.where(distance <= 3 * unit, np.exp(-((distance / unit) ** 2) / 2), 0)
    assert np.allclose(kernel[9:29, 9:29], weight / weight.sum(axis=1, keepdims=True))


def test_ward_merges_as_if_every_row_were_a_leaf():
    from scipy.cluster.hierarchy import fcluster, linkage

    rng = np.random.default_rng(0)
    centres, sizes = rng.standard_normal((8, 3)), rng.integers(1, 12, 8)
    # Ward's tree of the rows themselves, coincident ones first.
    leaf = np.repeat(np.arange(8), sizes)
    tree = linkage(centres[leaf], "ward")
    for k in (2, 3, 5):
        ours = _nested.levels(leaf, centres, [k])[0].labels
        assert adjusted_rand_score(fcluster(tree, k, "maxclust"), ours) == 1.0


def test_stability_picks_what_was_planted_above_smoothed_noise():
    rng = np.random.default_rng(0)
    # Equally far from each other: no two of them belong together.
    x = (8 * np.eye(5)[rng.integers(0, 5, 1500)] + rng.standard_normal((1500, 5))).astype(np.float32)
    where, section = rng.uniform(0, 1, (1500, 2)), np.zeros(1500, dtype=np.int64)
    null = _surroundings.noise(_surroundings.kernels(where, section), 0)
    curve = _stability.stability(x, [2, 3, 4, 5, 6, 8, 11], null=null)
    assert curve.picks[0] == 5
    assert curve.at(5) > 0.97
    assert curve.null[3] < 0.9
    assert all(later < curve.at(5) for later in curve.mean[4:])
    with pytest.raises(Usage, match="between 2 and"):
        _stability.stability(x, [1])


def test_votes_are_counted_in_common_numbers():
    truth = stream(0, "votes").integers(0, 3, 300)
    turned = [np.array(order)[truth] for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0])]
    turned[1][:20] = 0
    votes, numbers = _consensus.vote(turned, 3)
    assert adjusted_rand_score(truth, votes.argmax(axis=1)) == 1.0
    assert np.allclose(votes.sum(axis=1), 1)
    assert all(sorted(number.tolist()) == [0, 1, 2] for number in numbers)


def test_a_domain_that_wins_nowhere_gets_the_rows_it_nearly_won():
    votes = np.array([[0.5, 0.1, 0.4], [0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.9, 0.0, 0.1]], np.float32)
    assert _consensus.settled(votes).tolist() == [2, 0, 1, 0]
    assert _consensus.settled(votes[[0, 2]]).tolist() == [0, 1]


@pytest.mark.parametrize(("name", "bar"), [("STARmap V1", 0.85), ("mPFC BZ5 + BZ9", 0.86), ("BaristaSeq 1-2", 0.68)])
def test_real_sets_with_defaults(name, bar):
    root = os.environ.get("BRODMANN_DATA")
    if not root or not (Path(root) / "cells").is_dir():
        pytest.skip("BRODMANN_DATA has no folder 'cells'")
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import bench_domains as bench

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sections = [bench.counts(Path(root) / "cells" / f"{file}.h5ad") for file in bench.SETS[name]]
    score = domains(bench.table(sections), target="layer", seeds=1, compare=False).score
    assert score.value >= bar
