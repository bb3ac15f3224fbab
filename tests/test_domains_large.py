"""Domains of tables too large to copy: read in blocks, one baseline at a time, and counted to the same numbers."""

from __future__ import annotations

import io
import json
import math

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from rich.console import Console

from brodmann.errors import Refused
from brodmann.progress import Say
from brodmann.tasks import (
    _agreement,
    _cluster,
    _consensus,
    _contenders,
    _inputs,
    _nearest,
    _rows,
    _smoothed,
    _surroundings,
)
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._cluster import assign, kmeans
from brodmann.tasks._inputs import Inputs
from brodmann.tasks._mixture import gmm
from brodmann.tasks._score import Score, _strict
from brodmann.tasks.domains import domains
from test_domains import tissue


def on_disk(table: ad.AnnData) -> ad.AnnData:
    """The same table with baselines that are read when they are asked for, in chunks that divide nothing evenly."""
    lazy = table.copy()
    for name in list(lazy.obsm):
        values = np.asarray(lazy.obsm[name])
        lazy.obsm[name] = zarr.array(values, chunks=(257, values.shape[1]))
    return lazy


@pytest.fixture
def small(monkeypatch):
    """Tables of 1,500 rows count as large."""
    monkeypatch.setattr(_inputs, "MANY", 1500)
    monkeypatch.setattr(_inputs, "SMALL", 300)
    monkeypatch.setattr(_inputs, "LEARN", 800)
    monkeypatch.setattr(_inputs, "_BLOCK", 500)
    monkeypatch.setattr(_surroundings, "_LOOK", 500)


@pytest.fixture(scope="module")
def table():
    made = tissue(sections=10, cells=300, noise=2.0)
    made.obs["layer"] = pd.Categorical(made.obs["layer"])
    made.obs.loc[made.obs.index[300:400], "layer"] = np.nan
    made.obsm["baseline_noise"] = np.random.default_rng(1).standard_normal((3000, 5)).astype(np.float32)
    return made


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("mixed", [False, True])
def test_what_is_centred_as_it_is_read_has_the_bits_of_what_was_centred_whole(kind, mixed, small):
    rng = np.random.default_rng(0)
    animal = rng.integers(0, 3, 2000) if mixed else np.repeat([0, 1, 2], [700, 800, 500])
    values = (rng.standard_normal((2000, 6)) + 3 * animal[:, None]).astype(kind)
    wanted = _consensus.centred(values, animal)
    rows = np.sort(rng.choice(2000, 400, replace=False))
    for raw in (values, zarr.array(values, chunks=(300, 6))):
        made = ad.AnnData(X=values)
        made.obsm["baseline_own"] = raw
        given = Inputs(made, animal)
        x = given["own"]
        assert isinstance(x, _inputs.Centred)
        assert x[:].dtype == kind
        assert (x[:] == wanted).all()
        assert (x[650:1555] == wanted[650:1555]).all()
        assert (x[rows] == wanted[rows]).all()
        assert (given.some("own", rows) == wanted[rows]).all()
    values[1999, 5] = np.nan
    broken = Inputs(ad.AnnData(X=values), animal)
    with pytest.raises(Refused, match="'features' should be finite"):
        broken["features"]
    with pytest.raises(Refused, match="'features' should be finite"):
        broken.some("features", rows)


def test_a_large_table_is_scored_over_all_rows_and_rivals_over_whole_sections(table, small, monkeypatch):
    lazy = on_disk(table)

    def whole(*_, **__):
        raise AssertionError("a baseline was read whole")

    monkeypatch.setattr(zarr.Array, "__array__", whole)
    found = domains(lazy, [4, 9], target="layer", seeds=2)
    score = found.score
    assert score.n == 2900
    assert sum(len(level.labels) == 3000 for level in found.levels) == 2
    lie = _surroundings.Tissue.of(table, 10)
    calm = _smoothed.smoothed(Inputs(table, _animal(table))["features"], lie.where, lie.section, seed=0)
    assert score.value == pytest.approx(np.mean([_ari(table, kmeans(calm, 4, seed=s).labels) for s in (0, 1)]))
    (remark,) = [text for text in score.remarks if text.startswith("rivals are compared on")]
    assert "5 whole random sections" in remark
    same = score.more["ARI on the rows of rivals"]
    for name in ("own, k-means", "own, tied mixture", "noise, k-means", "features, tied mixture"):
        rival, gain = score.baselines[name], score.gains[name]
        assert rival.note.endswith("rows of 5 sections")
        assert gain.value == pytest.approx(same.value - rival.value)
        assert gain.low < gain.value < gain.high
    assert "rows of 2 sections" in score.baselines["smoothed noise"].note
    assert abs(score.baselines["noise, k-means"].value) < 0.03
    plain, calm = (score.baselines[f"own, {kind}"].value for kind in ("k-means", "smoothed k-means"))
    assert plain == pytest.approx(score.baselines["features, k-means"].value, abs=0.03), "the same numbers, on disk"
    assert calm == pytest.approx(same.value, abs=0.06), "learned from the rows that are compared"
    stable = domains(lazy, [2, 4]).score
    assert list(stable.baselines) == ["features, k-means", "noise, k-means", "own, k-means", "smoothed noise"]


def _animal(table: ad.AnnData) -> np.ndarray:
    return pd.factorize(table.obs["subject"])[0]


def _ari(table: ad.AnnData, labels: np.ndarray) -> float:
    from sklearn.metrics import adjusted_rand_score

    there = table.obs["layer"].notna().to_numpy()
    return float(adjusted_rand_score(table.obs["layer"].astype(str)[there], labels[there]))


def test_one_baseline_is_held_at_a_time(table, small, monkeypatch):
    held: list[str] = []
    read = Inputs.some

    def some(self, name, rows):
        import gc
        import weakref

        gc.collect()
        assert not held, f"{held} still there when {name} is read"
        values = read(self, name, rows)
        held.append(name)
        weakref.finalize(values, held.remove, name)
        return values

    monkeypatch.setattr(Inputs, "some", some)
    assert len(domains(on_disk(table), 4, target="layer", seeds=1).score.baselines) == 9


def test_work_is_said_step_by_step_and_nothing_in_quiet(table, small, capsys):
    said: list[str] = []
    text = io.StringIO()

    class Loud(Say):
        def __init__(self):
            super().__init__()
            self._console = Console(file=text, force_terminal=True, width=150)

        def __call__(self, message):
            said.append(message)

    domains(table, 4, target="layer", seeds=2, say=Loud())
    # leaves, two seeds of the features, and of eight rivals and noise: all are done
    assert "21/21" in text.getvalue()
    assert "smoothed noise" in text.getvalue()
    domains(table, 4, say=Say(quiet=True))
    domains(table, 4)
    assert capsys.readouterr() == ("", "")


def test_many_rows_are_announced_with_an_estimate(table, small, monkeypatch):
    from brodmann.tasks import _stability

    monkeypatch.setattr(_stability, "ROWS", 1000)
    said: list[str] = []
    say = Say(quiet=True)
    monkeypatch.setattr(Say, "__call__", lambda self, message: said.append(message))
    domains(table, 4, target="layer", seeds=1, compare=False, say=say)
    assert said[0] == "features of 3,000 rows are smoothed within their sections"
    assert said[1] == "domains of 3,000 rows: 2 clusterings"
    assert said[2].startswith("estimate: ")


def test_numbers_of_texts_are_those_of_the_texts_spelt_out():
    texts = pd.Series(["b", "a", None, "b", "c", "a"])
    for column in (texts, pd.Series(pd.Categorical(texts)), pd.Series(pd.Categorical(texts, categories=list("xcab")))):
        numbers, names = _rows.numbers(column)
        assert numbers.tolist() == [0, 1, 2, 0, 3, 1]
        assert (names[0], names[1], names[3]) == ("b", "a", "c")


def test_units_by_number_are_drawn_as_units_by_text():
    units = np.random.default_rng(0).integers(0, 13, 500)
    units[units == 4] = 5
    by_number, by_text = metrics.Bootstrap.of(units, 3), metrics.Bootstrap.of(units.astype(object), 3)
    assert (by_number.cluster == by_text.cluster).all()
    assert (by_number.times == by_text.times).all()
    truth, said = np.random.default_rng(1).integers(0, 4, (2, 500))
    counted = _agreement.counts(truth, said, by_number)
    assert float(_agreement.rand_index(counted.sum(axis=0))) == _agreement.ari(truth, said)


def test_noise_smoothed_section_by_section_is_that_of_all_kernels():
    where, section = np.random.default_rng(0).uniform(0, 9, (120, 2)), np.tile([0, 1, 2], 40)
    whole = _surroundings.noise(_surroundings.kernels(where, section), 5)
    assert (_surroundings.smoothed_noise(where, section, 5) == whole).all()


def test_noise_of_large_sections_is_made_without_pairs(monkeypatch):
    where, section = np.random.default_rng(0).uniform(0, 9, (400, 2)), np.repeat([0, 1], 200)
    whole = _surroundings.smoothed_noise(where, section, 5)
    monkeypatch.setattr(_surroundings, "_PAIRS_ROWS", 100)
    monkeypatch.setattr(_surroundings, "kernels", None)
    np.testing.assert_allclose(_surroundings.smoothed_noise(where, section, 5), whole, atol=1e-4)


def test_compared_sections_are_whole_and_carry_labels(table, small):
    layers = _surroundings.Tissue.of(table, 10)
    truth = np.where(layers.section < 8, 0, -1)
    rows = _contenders.sections(layers, truth, 0)
    chosen = set(layers.section[rows].tolist())
    assert len(rows) == 300 * len(chosen) == 1500
    assert set(layers.section[layers.look].tolist()) < chosen
    assert (truth[np.setdiff1d(rows, layers.look)] == 0).all()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("spread", [0.02, 0.3, 3.0])
def test_the_fast_search_finds_the_nearest_of_all(kind, spread, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(_cluster, "_PLAIN", 100)
    monkeypatch.setattr(_cluster, "_has_bfloat16", lambda place: kind == torch.bfloat16)
    centres = (50 + spread * rng.standard_normal((60, 24))).astype(np.float32)
    x = (centres[rng.integers(0, 60, 3000)] + rng.standard_normal((3000, 24))).astype(np.float16)
    distance = ((x[:, None].astype(np.float64) - centres[None]) ** 2).sum(axis=2)
    labels, inertia = assign(x, centres)
    told, least = distance[np.arange(3000), labels], distance.min(axis=1)
    assert (told <= least * (1 + 1e-5)).all()
    assert (labels == distance.argmin(axis=1)).mean() > 0.999
    assert inertia == pytest.approx(least.sum(), rel=1e-5)


def test_many_starts_are_spread_as_few_are(monkeypatch):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 30, 6000)
    x = (20 * rng.standard_normal((30, 8))[label] + rng.standard_normal((6000, 8))).astype(np.float32)
    chosen = _nearest.starts(x, np.ones(6000), 30, np.random.default_rng(1))
    assert len(set(label[chosen].tolist())) >= 29
    monkeypatch.setattr(_cluster, "_SMALL", 1000)
    monkeypatch.setattr(_cluster, "_PLAIN", 500)
    monkeypatch.setattr(_cluster, "_OURS", 20)
    found = kmeans(x, 30, seed=0, rows_per_centre=None)
    assert found.by.startswith("Lloyd")
    assert metrics.confusion(label, found.labels.astype(np.int64), 30).max(axis=1).sum() > 0.95 * 6000


def test_means_of_clusters_are_means_of_their_rows():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((500, 7)).astype(np.float16), rng.integers(0, 4, 500).astype(np.int32)
    wanted = [x[labels == i].astype(np.float64).mean(axis=0) for i in range(4)]
    assert np.allclose(_cluster.means(x, labels, 4), wanted, atol=1e-6)


def test_a_mixture_predicts_in_blocks_what_it_predicts_whole(monkeypatch):
    from brodmann.tasks import _mixture

    x = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    fitted = gmm(x, 3, covariance="tied", n_init=1)
    wanted = fitted.log_joint(x).argmax(axis=1)
    monkeypatch.setattr(_mixture, "_BLOCK", 37)
    assert (fitted.predict(x) == wanted).all()


@pytest.mark.parametrize("classes", [("a", 'b "1"'), ()])
def test_a_long_score_is_written_in_blocks_to_the_same_text(classes, monkeypatch):
    from brodmann.tasks import _score

    monkeypatch.setattr(_score, "_BLOCK", 3)
    ids = pd.Index([f"é{i}" for i in range(8)], name="id")
    values = [classes[i % 2] for i in range(8)] if classes else [0.5, math.nan, 2.0, 3.0, 4.0, math.inf, 6.0, 7.0]
    kept = pd.Series(values, index=ids, dtype=object if classes else float, name="predicted")
    score = Score(
        task="t", target="x", metric="m", value=math.nan, interval=(0.0, 1.0), n=8, n_groups=1,
        classes=classes, predicted=kept, truth=kept.rename("truth"),
    )  # fmt: skip
    read = json.loads(score.to_json())
    assert read["ids"] == ids.tolist()
    assert read["predicted"] == ([i % 2 for i in range(8)] if classes else _strict(values))
    assert list(read)[-5:] == ["truth", "recipe_hash", "data_fingerprint", "remarks", "ids"]
    assert score.to_json() == json.dumps(read, separators=(",", ":"))
    assert Score.from_json(score.to_json()).to_json() == score.to_json()


# ---------------------------------------------------------------------------------------------------------- smoothing


def test_smoothed_features_are_gaussian_means_of_components_within_sections():
    rng = np.random.default_rng(0)
    where, section = rng.uniform(0, 400, (500, 2)), np.repeat([0, 1], [300, 200])
    x = rng.standard_normal((500, 6)) * [3, 2, 1.5, 1, 0.7, 0.3]
    found = _smoothed.smoothed((x - x.mean(0)).astype(np.float32), where, section, seed=0, width=1.5)
    turn = _consensus.principal((x - x.mean(0)).astype(np.float32))
    wanted = np.zeros((500, 6))
    for rows in (slice(0, 300), slice(300, 500)):
        apart = np.linalg.norm(where[rows, None] - where[None, rows], axis=2)
        sigma = 1.5 * np.median(np.sort(apart, axis=1)[:, 6])
        weight = np.exp(-(apart**2) / 2 / sigma**2) * (apart <= 3 * sigma)
        wanted[rows] = weight @ ((x - x.mean(0))[rows] @ turn) / weight.sum(axis=1, keepdims=True)
    wanted /= np.sqrt(wanted.std(axis=0))
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    tilted = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    raised = np.column_stack([where, np.zeros(500)]) @ tilted + 50
    again = _smoothed.smoothed((x - x.mean(0)).astype(np.float32), raised, section, seed=0, width=1.5)
    np.testing.assert_allclose(again, found, atol=2e-3)
    order = rng.permutation(500)
    mixed = _smoothed.smoothed(
        (x - x.mean(0)).astype(np.float32)[order], where[order], section[order], seed=0, width=1.5
    )
    np.testing.assert_allclose(mixed, found[order], atol=2e-3)


def test_what_cannot_be_smoothed_stays_as_it_is():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 4)).astype(np.float32)
    x -= x.mean(0)
    alone = np.arange(40)
    place = np.zeros((40, 2))
    plain = _smoothed.smoothed(x, rng.uniform(0, 9, (40, 2)), np.zeros(40, int), seed=0, width=0)
    np.testing.assert_allclose(_smoothed.smoothed(x, rng.uniform(0, 9, (40, 2)), alone, seed=0), plain, rtol=1e-4)
    np.testing.assert_allclose(_smoothed.smoothed(x, place, alone // 20, seed=0), plain, rtol=1e-4)
    x[:, 2:] = 0
    assert np.isfinite(_smoothed.smoothed(x, place, alone // 20, seed=0)).all()


def test_smoothing_finds_domains_that_single_rows_hide():
    rng = np.random.default_rng(2)
    where = rng.uniform(0, 1000, (4000, 2))
    truth = (where[:, 0] // 334).astype(np.int64)
    x = (rng.standard_normal((3, 10))[truth] + 3 * rng.standard_normal((4000, 10))).astype(np.float32)
    x -= x.mean(0)
    calm = _smoothed.smoothed(x, where, np.zeros(4000, np.int64), seed=0)
    plain, found = (_agreement.ari(truth, kmeans(one, 3, seed=0).labels.astype(np.int64)) for one in (x, calm))
    assert plain < 0.2
    assert found > 0.7
