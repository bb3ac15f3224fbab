"""The phantom's cells keep what they promise: the same bytes, planted means and domains, the sheet's own places."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import KDTree
from scipy.stats import chi2_contingency, pearsonr

from brodmann import phantom
from brodmann.errors import Usage
from brodmann.phantom import block, counts, domains, panel, scatter, transcriptome, types
from brodmann.phantom.cut import solve
from brodmann.phantom.transcriptome import Settings, sections
from brodmann.space import PHANTOM


def _settings(**changed):
    usual = {"seed": 0, "brains": 2, "cells": 40_000, "genes": 500, "sections_per_brain": 30}
    effects = {"domain_effect": 1.0, "batch_effect": 1.0}
    return Settings(**{**usual, **effects, **changed})


@pytest.fixture(scope="module")
def blocks():
    return list(sections(_settings()))


@pytest.fixture(scope="module")
def whole():
    """One section through the middle of a brain, from end to end; few genes, for speed."""
    (one,) = sections(_settings(brains=1, cells=300_000, genes=60, sections_per_brain=1, batch_effect=0.0))
    return one


@pytest.fixture(scope="module")
def plan():
    return domains.plan(0, 1.0)


def _same(a, b):
    for name in ("xy_um", "xyz_mm", "indptr", "gene", "count", "types", "volume_um3"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    pd.testing.assert_frame_equal(a.labels, b.labels)


def _mean(one, genes):
    """Mean counts per type, (types, genes), and cells per type."""
    owner = np.repeat(one.types.astype(np.int64), np.diff(one.indptr))
    total = np.bincount(owner * genes + one.gene, one.count, minlength=len(types.TYPES) * genes)
    n = np.bincount(one.types, minlength=len(types.TYPES))
    return total.reshape(-1, genes) / np.maximum(n, 1)[:, None], n


# ------------------------------------------------------------------------------------------------------- the same bytes


def test_same_bytes_whatever_the_threads_and_the_number_of_brains(blocks):
    again = list(sections(_settings(brains=3, cells=60_000), threads=1))
    assert [one.id for one in again[:2]] == [one.id for one in blocks]
    for a, b in zip(blocks, again, strict=False):
        _same(a, b)


def test_another_seed_is_another_phantom(blocks):
    other = next(sections(_settings(seed=1, brains=1, cells=20_000)))
    assert not np.array_equal(other.xy_um[:500], blocks[0].xy_um[:500])


def test_rows_follow_a_curve_of_neighbours(blocks):
    for one in blocks:
        step = np.linalg.norm(np.diff(one.xy_um, axis=0), axis=1)
        assert np.median(step) < 40
        assert len(set(one.ids())) == len(one)
        assert one.ids()[7] == f"{one.id}/000007".encode()


def test_the_second_call_maps_what_the_first_wrote(tmp_path):
    first = phantom.transcripts(cells=3000, brains=2, genes=60, folder=tmp_path)
    (folder,) = tmp_path.iterdir()
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    second = phantom.transcripts(cells=3000, brains=2, genes=60, folder=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    assert second.fingerprint == first.fingerprint
    assert second.space == PHANTOM
    assert second.type_names == types.TYPE_NAMES
    assert second.panel.genes == panel.panel(0, 60).genes
    assert all(name.startswith("Blank-") for name in second.panel.dropped)
    assert [one.subject for one in second.sections] == ["B1", "B2"]
    rendered = list(sections(_settings(cells=3000, genes=60)))
    rows = second.sections[1].rows
    np.testing.assert_array_equal(second.xy_um[rows.start : rows.stop], rendered[1].xy_um)
    np.testing.assert_array_equal(second.count[second.indptr[rows.start] :], rendered[1].count)
    assert list(second.labels["domain"][rows.start : rows.stop]) == list(rendered[1].labels["domain"])
    assert list(second.labels["type"]) == [second.type_names[k] for k in second.types]
    phantom.transcripts(cells=3000, brains=2, genes=60, batch_effect=0.0, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


# --------------------------------------------------------------------------------------------------------------- counts


def test_counts_are_negative_binomial_with_the_planted_means():
    genes, n = panel.panel(0, 200), 40_000
    perfect = panel.batch(0, "B1", genes, 0.0)
    kind = np.full(n, types.TYPE_NAMES.index("L4 IT visual"), np.int16)
    drawn = counts.draw(genes, perfect, kind, np.full(n, 0.5, np.float32), seed=5, columns=len(genes.names))
    dense = np.zeros((n, len(genes.names)))
    dense[np.repeat(np.arange(n), np.diff(drawn.indptr)), drawn.gene] = drawn.count
    mu, theta, lost = genes.mean[kind[0], 2], genes.dispersion, genes.dropout
    error = dense.std(axis=0) / np.sqrt(n)
    assert np.abs((dense.mean(axis=0) - mu * (1 - lost)) / error).max() < 4.5
    # Law of total variance over the log-normal library (grid of finite steps, hence the tolerance).
    spread = np.exp(counts.LIBRARY_SD**2)
    expected = (1 - lost) * (mu + mu**2 * spread * (1 + 1 / theta)) - (mu * (1 - lost)) ** 2
    common = mu > 0.5
    assert common.sum() > 20
    np.testing.assert_allclose(dense.var(axis=0)[common], expected[common], rtol=0.12)
    z = np.random.default_rng(0).normal(size=4000)
    library = np.exp(counts.LIBRARY_SD * z - counts.LIBRARY_SD**2 / 2)
    empty = ((1 + mu * library[:, None] / theta) ** -theta).mean(axis=0)
    np.testing.assert_allclose((dense > 0).mean(axis=0), (1 - lost) * (1 - empty), atol=0.015)


def test_a_section_holds_the_planted_means_of_its_types():
    one = next(sections(_settings(brains=1, cells=40_000, batch_effect=0.0, genes=300)))
    genes = panel.panel(0, 300)
    seen, n = _mean(one, 300)
    uniform = (one.labels["known_region"] == domains.UNIFORM).to_numpy()
    axis = np.where(uniform, 0.5, one.labels["axis"].to_numpy())
    checked = 0
    for kind in np.flatnonzero(n > 400):
        at = axis[one.types == kind] * (panel.BINS - 1)
        low = np.minimum(at.astype(int), panel.BINS - 2)
        share = (at - low)[:, None]
        mean = genes.mean[kind, :, :300]
        expected = ((1 - share) * mean[low] + share * mean[low + 1]).mean(axis=0) * (1 - genes.dropout[:300])
        high = expected > 0.5
        assert np.median(np.abs(seen[kind][high] / expected[high] - 1)) < 0.06, types.TYPE_NAMES[kind]
        checked += 1
    assert checked > 8


def test_counts_are_as_sparse_as_real_ones(blocks):
    for one in blocks:
        filled = len(one.gene) / len(one) / 500
        assert 0.15 < filled < 0.25
        row = np.repeat(np.arange(len(one)), np.diff(one.indptr))
        assert ((np.diff(one.gene.astype(int)) > 0) | (np.diff(row) > 0)).all(), "columns ascend within a row"


def test_panels_share_genes_of_one_programme():
    small, large = panel.panel(0, 500), panel.panel(0, 1122)
    shared = sorted(set(small.genes) & set(large.genes))
    assert len(large.genes) == 1122
    assert len(shared) == 300
    a, b = ([one.names.index(name) for name in shared] for one in (small, large))
    np.testing.assert_array_equal(small.mean[..., a], large.mean[..., b])
    ours, theirs = (panel.batch(0, "B2", one, 1.0).efficiency for one in (small, large))
    np.testing.assert_array_equal(ours[a], theirs[b])


def test_blank_probes_are_rare_and_of_no_type():
    (one,) = sections(_settings(brains=1, cells=8000, genes=60), blanks=panel.BLANKS)
    blank = one.gene >= 60
    assert 0.005 < one.count[blank].sum() / len(one) / panel.BLANKS < 0.06
    assert one.gene.max() < 60 + panel.BLANKS
    plain = next(sections(_settings(brains=1, cells=8000, genes=60)))
    np.testing.assert_array_equal(plain.count, one.count[~blank])


# -------------------------------------------------------------------------------------------------------------- batches


def test_animals_differ_by_batch_until_it_is_switched_off(blocks):
    def differ(pair):
        a, b = (_mean(one, 500) for one in pair)
        kinds = np.flatnonzero((a[1] > 300) & (b[1] > 300))
        assert len(kinds) >= 4
        high = (a[0][kinds] > 0.5) & (b[0][kinds] > 0.5)
        return np.log(a[0][kinds][high] / b[0][kinds][high]).std()

    perfect = list(sections(_settings(batch_effect=0.0)))
    assert differ(blocks) > 0.35
    assert differ(perfect) < 0.15


# --------------------------------------------------------------------------------------------------------------- places


def test_density_and_number_of_cells(whole, blocks):
    squares = np.unique((whole.xy_um // 200).astype(int), axis=0, return_counts=True)[1]
    inner = squares[squares > 15]
    assert 1200 < inner.mean() / 0.04 < 1800
    nearest = KDTree(whole.xy_um[:20_000]).query(whole.xy_um[:20_000], k=2)[0][:, 1]
    assert nearest.min() > 4.9
    assert 8 < np.median(nearest) < 18
    assert len(whole) == pytest.approx(300_000, rel=0.05)
    assert sum(map(len, blocks)) == pytest.approx(40_000, rel=0.15)
    dense = whole.labels.groupby("layer", observed=True).size()
    assert dense["IV"] > dense["I"]


def test_places_agree_with_the_stained_phantom(whole):
    section = phantom.sections(brains=1, sections_per_brain=1).sections[0]
    assert section.id == whole.id
    rows = np.arange(0, len(whole), 97)
    xy = whole.xy_um[rows].astype(float)
    np.testing.assert_allclose(section.place(xy), whole.xyz_mm[rows], atol=1e-4)
    truth, ours = phantom.truth(section, xy), whole.labels.iloc[rows].reset_index(drop=True)
    away = (truth["border_mm"] > 0.5).to_numpy()
    assert away.mean() > 0.7
    assert (truth["area"] == ours["area"].astype(str))[away].mean() > 0.97
    layer = np.array([0, *range(1, 8)])[1 + ours["layer"].cat.codes]
    assert (truth["layer"] == layer).mean() > 0.95
    # Amid a sulcus either bank may be the nearest.
    assert np.abs(truth["u_true_mm"] - ours["u_true_mm"]).quantile(0.99) < 0.1
    cortical = (truth["layer"] < 7).to_numpy()
    assert np.abs(truth["depth"] - ours["depth"])[cortical].quantile(0.99) < 0.03


def test_layers_and_areas_have_their_own_types(whole):
    share = pd.crosstab(whole.labels["layer"], whole.labels["class"], normalize="index")
    assert share.loc["white matter", "oligodendrocytes"] > 0.4
    assert share.loc["white matter", "IT glutamatergic"] < 0.03
    assert share.loc["I", ["IT glutamatergic", "ET glutamatergic"]].sum() < 0.1
    assert share.loc["I", "CGE GABAergic"] > 2 * share.loc["IV", "CGE GABAergic"]
    assert 0.35 < share.loc["III", "IT glutamatergic"] < 0.7
    visual = pd.crosstab(whole.labels["area"], whole.labels["type"], normalize="index")["L4 IT visual"]
    assert visual["V1"] > 3 * visual.drop("V1").max()


# -------------------------------------------------------------------------------------------------------------- domains


def test_domains_nest_and_some_cross_areas(plan, whole):
    assert 60 <= len(plan.fine) <= 100
    held = whole.labels.groupby("domain", observed=True)
    assert (held["division"].nunique() == 1).all()
    crossing = held["area"].nunique()
    assert crossing["II-III belt"] >= 1
    assert crossing["VI temporo-parietal"] + crossing["white deep"] > 2
    areas_of = {name: set() for name in plan.fine}
    layers_of = {name: set() for name in plan.fine}
    for part, row in enumerate(plan.domain_of):
        for zone, domain in enumerate(row):
            areas_of[plan.fine[domain]].add(int(domains.PARCEL_AREA[part]))
            layers_of[plan.fine[domain]].add(zone)
    assert sum(len(found) > 1 for found in areas_of.values()) > 10
    assert len(areas_of["II-III belt"]) == 4, "a belt crosses areas"
    assert len(layers_of["III-IV P2 patch"]) > 3, "a patch crosses layers"


def test_hidden_borders_lie_inside_known_regions(blocks):
    labels = pd.concat([one.labels for one in blocks], ignore_index=True)
    number = labels.groupby("known_region", observed=True)["domain"].nunique()
    hidden = labels.groupby("known_region", observed=True)["hidden_border"].first()
    assert (number[hidden == "none"] == 1).all()
    assert number["P1 III"] == 2
    assert hidden["P1 III"] == "III P1 | III P1 rostral"
    one = blocks[0]
    inside = np.flatnonzero(one.labels["known_region"] == "P1 III")
    domain = one.labels["domain"].astype(str).to_numpy()[inside]
    near = KDTree(one.xy_um[inside]).query(one.xy_um[inside], k=7)[1][:, 1:]
    across = (domain[near] != domain[:, None]).any(axis=1)
    assert 0 < across.mean() < 0.1, "a border, not a mixture"


def test_what_a_hidden_border_parts_differs_and_the_uniform_region_does_not(blocks):
    """Left and right halves of a known region hold the same types only where it is uniform."""
    labels = pd.concat([one.labels.assign(section=one.id) for one in blocks], ignore_index=True)

    def p_value(region):
        chosen = labels[labels["known_region"] == region]
        assert len(chosen) > 1500
        # By depth and by place along the sheet: a gradient in either direction shows.
        middle = chosen.groupby("section")[["depth", "u_true_mm"]].transform("median")
        half, side = chosen["depth"] > middle["depth"], chosen["u_true_mm"] > middle["u_true_mm"]
        # Walls of vessels are vascular wherever they run, in uniform cortex too.
        plain = (chosen["class"] != "vascular").to_numpy()
        seen = pd.crosstab((2 * half + side)[plain], chosen["type"].astype(str)[plain])
        return chi2_contingency(seen.loc[:, seen.sum() > 40])[1]

    assert p_value(domains.UNIFORM) > 0.01
    assert p_value("P1 III") < 1e-6


def test_expression_follows_the_axis_but_not_in_the_uniform_region(whole):
    genes = panel.panel(0, 60)
    dense = np.zeros((len(whole), 60), np.float32)
    dense[np.repeat(np.arange(len(whole)), np.diff(whole.indptr)), whole.gene] = whole.count
    glutamatergic = np.flatnonzero(types.GLUTAMATERGIC)
    rises = np.log(genes.mean[glutamatergic[0], -1, :60] / genes.mean[glutamatergic[0], 0, :60])
    assert np.abs(rises).max() > 0.5
    # Given its type, nothing but its place on the axis moves a cell's expected counts.
    table = pd.DataFrame({"kind": whole.types, "axis": whole.labels["axis"], "score": dense @ rises})
    table = table[(whole.labels["known_region"] != domains.UNIFORM).to_numpy()]
    table[["axis", "score"]] -= table.groupby("kind")[["axis", "score"]].transform("mean")
    graded, flat = (table[kind[table["kind"]]] for kind in (types.GLUTAMATERGIC, types.GABAERGIC))
    assert len(flat) > 10_000
    assert pearsonr(graded["axis"], graded["score"])[0] > 0.1
    assert abs(pearsonr(flat["axis"], flat["score"])[0]) < 0.03
    drawn = _scattered()
    uniform = drawn.domain == domains.plan(0, 1.0).uniform
    assert uniform.sum() > 1000
    assert (drawn.axis[uniform, 1] == 0.5).all()
    assert (drawn.axis[uniform, 0] != 0.5).any()
    np.testing.assert_array_equal(drawn.axis[~uniform, 0], drawn.axis[~uniform, 1])


def _scattered():
    (job,) = transcriptome._jobs(_settings(brains=1, cells=20_000))
    return scatter.scatter(
        job.brain, solve(job.brain, job.plane), domains.plan(0, 1.0), np.empty((0, 6)), reach_mm=job.reach_mm,
        density=1.0, seed=1, texture_seed=2,
    )  # fmt: skip


def test_without_domain_effect_only_layer_and_area_speak():
    with_effect, without = domains.plan(0, 1.0).mixture, domains.plan(0, 0.0).mixture
    index = domains.plan(0, 1.0).fine.index
    a, b = index("III P1"), index("III P1 rostral")
    apart = [np.abs(m[a].mean(axis=0) - m[b].mean(axis=0)).sum() for m in (without, with_effect)]
    assert apart[0] < 0.2 < apart[1]


# ----------------------------------------------------------------------------------------------------------- the window


@pytest.mark.parametrize("cells", [1, 30])
def test_few_cells_are_a_small_block(cells):
    found = list(sections(_settings(brains=1, cells=cells, genes=20)))
    assert sum(map(len, found)) < 60 + cells


def test_blocks_grow_to_whole_sections(plan):
    from brodmann.phantom.brain import grow
    from brodmann.phantom.cut import planes
    from brodmann.phantom.sheet import LENGTH_MM, Sheet

    brain = grow(Sheet.plant(0), seed=0, index=1, registration_mm=4.0)
    cuts = planes(brain, seed=0, sections=30)
    small = block.windows(brain, cuts, 20_000)
    large = block.windows(brain, cuts, 2_080_000)
    assert len(small) == 1
    assert small[0][2] - small[0][1] < 8
    assert len(large) in {7, 8}
    assert all(last - first > 0.7 * LENGTH_MM for _, first, last in large)
    assert len({k for k, *_ in large}) == len(large)
    with pytest.raises(Usage, match="room for"):
        block.windows(brain, cuts, 1e8)


@pytest.mark.parametrize("wrong", [{"cells": 0}, {"brains": -1}, {"genes": 1123}, {"batch_effect": -1.0}])
def test_settings_out_of_range_are_refused(wrong, tmp_path):
    with pytest.raises(Usage):
        phantom.transcripts(folder=tmp_path, **wrong)
