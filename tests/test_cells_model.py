"""The tile network: what a hidden cell can know, batches and reads as promised, other panels, and that it learns."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from brodmann import train, verbs
from brodmann.cells import animals, attention, components, encoder, objective
from brodmann.cells import blocks as block
from brodmann.cells.model import build, rebuild
from brodmann.cells.panel import Panel
from brodmann.cells.recipe import Cells, Counts, Recipe, Tile
from brodmann.cells.samples import CellSamples
from brodmann.dots import MARGIN_UM
from brodmann.errors import Refused, Usage
from brodmann.near.neighbours import graph, morton
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.settings import Fit, Split
from brodmann.space import unregistered
from tissue import tissue


def small(**changes):
    settings = {
        "samples": Cells(tile_cells=256, components=8),
        "encoder": Tile(width=32, layers=2, head_width=16),
        "fit": Fit(batch=2, lr=3e-3, precision="fp32", steps=2, warmup_steps=1),
    }
    return Recipe(**{**settings, **changes})


@pytest.fixture(scope="module")
def source():
    return tissue(cells=700, sections=4, genes=30)


@pytest.fixture(scope="module")
def samples(source):
    return CellSamples(source, small())


def trained(recipe, samples, steps):
    model = build(recipe, samples)
    suited = model.suit(samples)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.fit.lr)
    for step in range(steps):
        model.loss(suited.batch(step)).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def described(model, samples, start=0, stop=None):
    suited, stop = samples if samples.factors is not None else model.suit(samples), stop or len(samples)
    cuts = range(start, stop, samples.read_rows)
    return np.concatenate([model.describe(suited.read(np.arange(a, min(a + samples.read_rows, stop)))) for a in cuts])


# --------------------------------------------------------------------------------------------------------- attention


def slowly(query, key_value, table, near, rows):
    """Attention written down: cell after cell, each beside itself at distance zero."""
    heads, found = table.shape[1], []
    width = query.shape[1] // heads
    for place, i in enumerate(rows):
        seen = slice(near.indptr[i], near.indptr[i + 1])
        others = [i, *near.index[seen].tolist()]
        far = [0, *(1 + np.minimum((near.distance_um[seen] * np.float32(32 / 80)).astype(int), 31)).tolist()]
        k, v = key_value[others].view(-1, 2, heads, width).unbind(1)
        score = torch.einsum("hw,jhw->jh", query[place].view(heads, width), k) + table[far]
        found.append(torch.einsum("jh,jhw->hw", score.softmax(0), v).flatten())
    return torch.stack(found)


def scattered(n, dtype, heads=2, width=4):
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 300, (n, 2))
    near = graph(xy[morton(xy)], radius_um=80, limit=6)
    shapes = (n, heads * width), (n, 2 * heads * width), (block.BINS, heads)
    return near, [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def same_gradients(found, slow, leaves, tolerance):
    torch.testing.assert_close(found, slow, rtol=tolerance, atol=tolerance)
    weight = torch.randn_like(found)
    for ours, theirs in zip(*(torch.autograd.grad((y * weight).sum(), leaves) for y in (found, slow)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_block_attention_is_attention_over_neighbours():
    near, leaves = scattered(150, torch.float64)
    made = block.blocks(near.indptr, near.index, near.distance_um, radius_um=80, neighbours=6)
    keys, bins, edge = (torch.from_numpy(array) for array in made)
    assert len(edge) == len(near.index) + 150 + (-150 % block.QUERIES)
    query, key_value, table = leaves
    bias = encoder._Bias.apply(table, bins, edge, torch.float64)
    found = encoder._Attend.apply(query, key_value, bias, keys)
    same_gradients(found, slowly(*leaves, near, range(150)), leaves, 1e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", [4, 32])
def test_attention_on_edges_is_attention_over_neighbours(threads, width, monkeypatch):
    """Of all cells; of some in any order, one of them twice; of none."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    near, leaves = scattered(150, torch.float32, width=width)
    query, key_value, table = leaves
    edges = attention.near(near.indptr, near.index, near.distance_um, radius_um=80)
    edges = attention.Near(*(torch.from_numpy(array) for array in edges))
    for rows in (torch.arange(150), torch.tensor([7, 140, 3, 3, 90]), torch.zeros(0, dtype=torch.int64)):
        asked = query[: len(rows)]
        found = attention.attend(asked, key_value, table, edges, rows)
        if len(rows):
            same_gradients(found, slowly(asked, key_value, table, near, rows.tolist()), leaves, 1e-4)
        assert found.shape == asked.shape


def test_a_lone_cell_and_large_scores_are_attended_to():
    one = attention.near(np.array([0, 0]), np.zeros(0, np.int32), np.zeros(0, np.float32), radius_um=80)
    one = attention.Near(*(torch.from_numpy(array) for array in one))
    value = torch.randn(1, 16)
    found = attention.attend(torch.full((1, 8), 1e4), value, torch.zeros(block.BINS, 2), one, torch.arange(1))
    torch.testing.assert_close(found, value[:, 8:])


def test_devices_and_processors_attend_alike(samples, monkeypatch):
    """A model gives the same tokens whether its batch holds blocks or edges."""
    model = build(small(), samples)
    suited = model.suit(samples)
    by_edges = model.describe(suited.read(np.arange(300)))
    monkeypatch.setattr("brodmann.compute.device", lambda: torch.device("meta"))
    batch = suited.read(np.arange(300))
    assert "keys" in batch
    np.testing.assert_allclose(model.describe(batch), by_edges, rtol=1e-4, atol=1e-4)


def test_crowded_blocks_lose_the_farthest_neighbours_only():
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 100, (2000, 2))
    near = graph(xy, radius_um=60, limit=20)
    made = block.blocks(near.indptr, near.index, near.distance_um, radius_um=60, neighbours=20)
    held = (made.bins != block.NOBODY).reshape(-1, made.bins.shape[2]).sum(1)[: len(xy)]
    assert made.keys.shape[1] == 160
    assert held.min() >= 1
    assert (held < 21).any()
    first = near.index[near.indptr[:-1]]
    for cell in range(0, 2000, 97):
        row, slot = divmod(cell, block.QUERIES)
        assert first[cell] in made.keys[row][made.bins[row, slot] != block.NOBODY]


def test_a_handful_of_cells_is_embedded_but_not_trained_on(samples):
    few = tissue(cells=30, sections=2, genes=30)
    with pytest.raises(Refused, match="100 cells to train on"):
        CellSamples(few, small(), part="train")
    model = build(small(), samples)
    assert described(model, CellSamples(few, small())).shape == (60, 32)


# ------------------------------------------------------------------------------------------------- what is not known


def test_a_hidden_cell_is_predicted_without_its_own_counts(samples):
    """Its prediction has no derivative by its own description, through any layer or neighbour; visible ones have."""
    model = build(small(encoder=Tile(width=32, layers=3, head_width=16)), samples)
    batch = samples.batch(0)
    described = model._described(batch, batch["counts"].float()).requires_grad_()
    cell = int(torch.nonzero(batch["hidden"])[5, 0])
    row = torch.tensor([cell])
    token = model._tokens(batch, described, batch["hidden"], row, model._around(batch))
    slope = torch.autograd.grad(model._logits(token).square().sum(), described)[0].abs().sum(1)
    assert not slope[batch["hidden"]].any()
    assert slope[~batch["hidden"]].any()
    shown = batch["hidden"].clone()
    shown[cell] = False
    token = model._tokens(batch, described, shown, row, model._around(batch))
    assert torch.autograd.grad(model._logits(token).square().sum(), described)[0][cell].abs().sum() > 0


def test_features_do_not_contain_the_own_counts(source, samples):
    model = trained(small(), samples, 3)
    before = described(model, samples, 0, 700)
    other = dataclasses.replace(source, counts=source.counts.copy())
    other.counts[123] = other.counts[123][::-1] * 3 + 1
    changed = CellSamples(other, small())
    changed = model.suit(changed)
    # one cell is also a little of its animal's factors
    changed.factors = model.suit(samples).factors
    after = described(model, changed, 0, 700)
    np.testing.assert_array_equal(before[123], after[123])
    moved = np.flatnonzero(np.abs(before - after).max(1) > 1e-6)
    away = np.linalg.norm(source.xy_um[moved] - source.xy_um[123], axis=1)
    assert 5 < len(moved) < 400
    assert away.max() <= 2 * 80


# ------------------------------------------------------------------------------------------------------------ samples


def test_a_batch_depends_on_its_step_alone_and_processes_share_it(samples):
    first, again, next_ = samples.batch(3), CellSamples(samples.source, small()).batch(3), samples.batch(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["index"], next_["index"])
    split = [samples.batch(3, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(torch.cat([one["index"] for one in split]), first["index"])
    assert torch.equal(torch.cat([one["hidden"] for one in split]), first["hidden"])
    hidden = torch.cat([samples.batch(step)["hidden"] for step in range(10)]).float().mean()
    assert 0.25 < hidden < 0.35


def test_tiles_are_runs_of_one_section_and_reach_every_cell(samples):
    seen = np.zeros(len(samples), int)
    for step in range(60):
        tiles = samples.batch(step)["index"].numpy().reshape(-1, 256)
        assert (np.diff(tiles, axis=1) == 1).all()
        assert (tiles[:, 0] // 700 == tiles[:, -1] // 700).all()
        np.add.at(seen, tiles.ravel(), 1)
    assert (seen > 0).mean() > 0.99


def test_sections_smaller_than_a_tile_and_lone_cells_are_learned_from():
    source = tissue(cells=1, sections=3, genes=20)
    other = tissue(cells=40, sections=3, genes=20, per_mm2=30.0)
    for data in (source, other):
        recipe = small(samples=Cells(components=2))
        samples = CellSamples(data, recipe)
        model = trained(recipe, samples, 2)
        assert np.isfinite(described(model, samples)).all()


def test_rows_cells_and_places_agree(source):
    recipe = small(samples=Cells(least_counts=40, components=4))
    samples = CellSamples(source, recipe)
    kept = np.flatnonzero(source.total_counts >= 40)
    assert 0 < len(kept) < len(source)
    assert samples.places["id"].tolist() == [f"c{row}" for row in kept]
    assert samples.places["section"].is_monotonic_increasing
    for one in source.sections:
        # um from the corner of the section's picture, which all of its cells decide
        here = (kept >= one.rows.start) & (kept < one.rows.stop)
        own = source.xy_um[one.rows.start : one.rows.stop]
        expected = source.xy_um[kept[here]] - (own.min(0) - MARGIN_UM)
        np.testing.assert_allclose(samples.places.loc[here, ["x_um", "y_um"]], expected, atol=1e-2)
    assert samples.labels["domain"].tolist() == source.domain[kept].astype(str).tolist()
    assert any("fewer than 40" in reason for _, reason in samples.skipped)
    batch = samples.read(np.arange(500, 900))
    np.testing.assert_array_equal(batch["counts"].numpy()[batch["asked"]], source.counts[kept[500:900]])


@pytest.mark.parametrize("by", ["brain", "section", "block"])
def test_the_held_out_fold_is_nowhere_in_training(source, by):
    split = Split(by=by, folds=0 if by == "brain" else 2, fold=0, block_mm=0.2)
    everything, training = (CellSamples(source, small(split=split), part=part) for part in ("all", "train"))
    assert 0 < len(training) < len(everything)
    from brodmann import splits

    fold = splits.folds(everything.places, split)[0]
    np.testing.assert_array_equal(training.rows, everything.rows[fold.train])
    assert training.fingerprint != everything.fingerprint
    assert set(training.places["id"]) == set(everything.places["id"].iloc[fold.train])


def test_reads_do_not_depend_on_how_rows_are_cut(source):
    recipe = small(encoder=Tile(width=32, layers=4, head_width=16))
    data = tissue(cells=3000, sections=2, genes=30)
    samples = CellSamples(data, recipe)
    model = trained(recipe, samples, 5)
    whole = described(model, samples)
    samples.read_rows = 500
    cut = described(model, samples)
    assert np.abs(cut - whole).max() < 1e-2 * np.sqrt(whole.var(0).sum())
    pieces = [described(model, samples, start, start + 1500) for start in range(0, 6000, 1500)]
    np.testing.assert_array_equal(np.concatenate(pieces), cut)
    # the second section by itself
    alone = dataclasses.replace(
        data,
        sections=[dataclasses.replace(data.sections[1], rows=range(3000))],
        **{name: getattr(data, name)[3000:] for name in ("counts", "xy_um", "xyz_mm", "types", "domain")},
    )
    samples.read_rows = 3000
    second = CellSamples(alone, recipe)
    second = model.suit(second)
    second.factors = model.suit(samples).factors[[samples.subjects.index(second.subjects[0])]]
    np.testing.assert_array_equal(described(model, samples, 3000, 6000), described(model, second))


# ------------------------------------------------------------------------------------------------------------ animals


def kinds_of_tissue(mixtures, factors, cells=4000, genes=30, seed=0):
    """Counts of animals with cells of three kinds, mixed and seen differently; animal of each cell."""
    rng = np.random.default_rng(seed)
    profile = rng.dirichlet(np.full(genes, 0.5), 3)
    animal = np.repeat(np.arange(len(mixtures)), cells)
    kind = np.concatenate([rng.choice(3, cells, p=mixture) for mixture in mixtures])
    return rng.poisson(150 * profile[kind] * np.exp(factors)[animal]).astype(np.uint16), animal


def test_factors_are_those_that_were_planted_also_where_animals_show_different_tissue():
    log = np.random.default_rng(1).normal(0, 0.3, (2, 30))
    log -= log.mean(0)
    counts, animal = kinds_of_tissue([[0.6, 0.2, 0.2], [0.2, 0.2, 0.6]], log)
    basis, groups = animals.learn(counts, animal, 6, seed=0)
    torch.testing.assert_close(groups.shares.sum(1), torch.ones(len(groups.shares)))
    drawn, present = [np.flatnonzero(animal == number) for number in range(2)], torch.ones(30, dtype=torch.bool)
    found = animals.log_factors(lambda rows: counts[rows], drawn, basis, groups, present).numpy()
    assert animals.log_factors(lambda rows: counts[rows], drawn[1:], basis, groups, present).shape == (1, 30)
    # only what differs between genes can be known, not how deeply an animal was read
    off = [(one - one.mean()) - (true - true.mean()) for one, true in zip(found, log, strict=True)]
    seen = counts.sum(0) > 2000
    assert np.std(np.array(off)[:, seen]) < 0.06
    shares = [counts[rows].sum(0) / counts[rows].sum() for rows in drawn]
    plain = np.log(shares[0][seen] / shares[1][seen]) - (log[0] - log[1])[seen]
    assert np.std(plain) > 0.25, "the totals of these animals should mislead, or there is nothing to show"
    present[7] = False
    some = animals.log_factors(lambda rows: counts[rows], drawn, basis, groups, present)
    assert (some[:, 7] == 0).all()
    assert np.std((some.numpy() - found)[:, present.numpy()]) < 0.03


def test_few_cells_say_little_of_their_animal_and_one_animal_has_nothing_to_be_compared_with():
    log = np.random.default_rng(1).normal(0, 0.5, (2, 30))
    counts, animal = kinds_of_tissue([[0.4, 0.3, 0.3]] * 2, log)
    basis, groups = animals.learn(counts, animal, 6, seed=0)
    present = torch.ones(30, dtype=torch.bool)
    # one pair of cells may be an odd one: what pairs say on average
    pairs = list(np.arange(100).reshape(50, 2))
    few = animals.log_factors(lambda rows: counts[rows], pairs, basis, groups, present)
    many = animals.log_factors(lambda rows: counts[rows], [np.arange(4000)], basis, groups, present)
    assert few.abs().mean() < 0.4 * many.abs().mean()
    basis, groups = animals.learn(counts[:4000], animal[:4000], 6, seed=0)
    assert animals.log_factors(lambda rows: counts[rows], [np.arange(4000)], basis, groups, present).abs().max() < 0.05


def test_cells_are_drawn_from_their_own_animal(samples):
    assert samples.subjects == tuple(dict.fromkeys(section.subject for section in samples.source.sections))
    drawn = animals.draw(samples.animal_runs, seed=0)
    for number, rows in enumerate(drawn):
        assert (samples.animal(rows) == number).all()
        assert (np.diff(rows) > 0).all()
    assert sum(len(rows) for rows in drawn) == len(samples)
    assert samples.batch(0).keys().isdisjoint({"animal", "factors"})
    suited = build(small(), samples).suit(samples)
    assert suited.batch(0)["factors"].shape == (len(samples.subjects), 30)


def test_an_experiment_that_sees_genes_differently_changes_features_little(source):
    """The second half of the sections loses up to 70 % of some genes; equalised, features hardly notice."""
    rng = np.random.default_rng(5)
    half = source.sections[2].rows.start
    counts = source.counts.copy()
    counts[half:] = rng.binomial(counts[half:], np.where(rng.random(30) < 0.5, 0.3, 0.9))
    sections = [
        dataclasses.replace(one, subject="first" if number < 2 else "second")
        for number, one in enumerate(source.sections)
    ]
    moved = {}
    for equalise in (True, False):
        recipe = small(samples=Cells(tile_cells=256, components=8, equalise=equalise))
        model = trained(recipe, CellSamples(dataclasses.replace(source, sections=sections), recipe), 60)
        before = described(model, CellSamples(dataclasses.replace(source, sections=sections), recipe), half)
        lost = CellSamples(dataclasses.replace(source, sections=sections, counts=counts), recipe)
        after = described(model, lost, half)
        moved[equalise] = np.linalg.norm(after.mean(0) - before.mean(0)) / np.sqrt(before.var(0).sum())
    assert moved[True] < 0.4 * moved[False]


def test_products_come_in_few_sizes(samples):
    """oneDNN keeps what it compiled for every size it has seen: 30 MB for each shard of cells, without end."""
    model = build(small(), samples)
    sizes = set()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, given: sizes.add(len(given[0])))
    for start in (0, 301, 700, 1123):
        model.describe(samples.read(np.arange(start, start + 90)))
    model.loss(samples.batch(0)).total.backward()
    assert sizes
    assert all(size % 256 == 0 for size in sizes)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# ------------------------------------------------------------------------------------------------------------- panels


def repanelled(source, columns):
    genes = tuple(source.panel.genes[column] for column in columns)
    return dataclasses.replace(source, counts=source.counts[:, columns], panel=Panel(genes))


def test_a_model_takes_other_panels_by_name(source, samples):
    model = trained(small(), samples, 20)
    whole = described(model, samples)
    rng = np.random.default_rng(0)
    permuted = repanelled(source, rng.permutation(30))
    np.testing.assert_array_equal(described(model, CellSamples(permuted, small())), whole)
    fewer = described(model, CellSamples(repanelled(source, np.sort(rng.permutation(30)[:27])), small()))
    assert 0 < np.linalg.norm(fewer - whole) < 0.5 * np.linalg.norm(whole - whole.mean(0))
    with pytest.raises(Refused, match="genes"):
        described(model, CellSamples(repanelled(source, np.arange(3)), small()))


def test_components_of_fewer_genes_are_a_least_squares_fit(source):
    basis = components.fit(source.dense, np.arange(len(source)), 5, components.logs)
    axes = basis.axes.numpy().astype(float)
    np.testing.assert_allclose(axes @ axes.T, np.eye(5), atol=1e-5)
    log = np.log1p(source.counts * (float(basis.median) / np.maximum(source.total_counts, 1))[:, None])
    centred = (log - log.mean(0))[source.total_counts > 0]
    variance = np.linalg.svd(centred, compute_uv=False)[:5] ** 2 / len(centred)
    np.testing.assert_allclose(basis.scale.numpy() ** 2, variance, rtol=1e-3)
    present = torch.arange(30) % 10 > 0
    counts = torch.from_numpy(source.counts.astype(np.float32))
    found = components.project(counts, basis, components.logs, present).numpy()
    kept = present.numpy()
    size = counts.numpy()[:, kept].sum(1, keepdims=True)
    x = np.log1p(counts.numpy()[:, kept] * (basis.median * basis.profile[present].sum()).numpy() / np.maximum(size, 1))
    expected = np.linalg.lstsq(axes[:, kept].T, (x - basis.mean.numpy()[kept]).T, rcond=None)[0].T
    np.testing.assert_allclose(found[size[:, 0] > 0], expected[size[:, 0] > 0], atol=2e-4)


def test_types_are_matched_by_name(source):
    recipe = small(samples=Cells(types=True, components=4))
    renamed = dataclasses.replace(source, types=source.types.copy(), type_names=(*source.type_names[::-1], "new"))
    renamed.types[:] = 5 - source.types
    renamed.types[:2] = 6, -1
    ours = CellSamples(source, recipe)
    found = CellSamples(renamed, recipe).aligned(ours.genes, ours.type_names)
    rows = np.arange(len(source))
    np.testing.assert_array_equal(found.types(rows)[2:], ours.types(rows)[2:])
    assert found.types(rows)[:2].tolist() == [6, 6]


def test_genes_that_were_not_measured_are_not_in_the_likelihood(source, samples):
    model = build(small(), samples)
    part = CellSamples(repanelled(source, np.arange(25)), small()).aligned(samples.genes)
    batch = part.batch(0)
    assert batch["present"].sum() == 25
    model.loss(batch).total.backward()
    assert not model.log_theta.grad[25:].any()
    assert not model.head.weight.grad[25:].any()
    assert model.log_theta.grad[:25].all()


# -------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": Counts(likelihood="zinb", contrast=0.5)},
        {"samples": Cells(types=True, tile_cells=256, components=8)},
    ],
    ids=["nb", "zinb-contrast", "types"],
)
def test_every_weight_learns_and_a_model_comes_back(source, changes):
    recipe = small(**changes)
    samples = CellSamples(source, recipe)
    model = build(recipe, samples)
    loss = model.loss(samples.batch(0))
    loss.total.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # the first step of a gate and of a table of biases is not zero either
    assert not idle
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    again = rebuild(recipe, model.config())
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(described(model, samples), described(again, samples))
    assert model.training
    other = build(recipe, samples)
    fresh = build(recipe, CellSamples(source, recipe))
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in other.state_dict().items())


def test_partners_of_the_contrast_lie_within_reach(source):
    recipe = small(objective=Counts(contrast=1.0, reach_mm=0.15), fit=Fit(batch=4))
    batch = CellSamples(source, recipe).batch(0)
    assert len(batch["anchor"]) == 4 * 64
    assert batch["hidden"][batch["anchor"]].all()
    tile = batch["index"].numpy().reshape(4, -1)
    apart = np.linalg.norm(source.xyz_mm[tile[0]].mean(0) - source.xyz_mm[tile[1]].mean(0))
    assert tile[0, 0] // 700 != tile[1, 0] // 700
    assert apart < 0.6
    model = build(recipe, CellSamples(source, recipe))
    near = torch.nn.functional.normalize(batch["coordinates"].float() @ torch.randn(3, 64) * 3, dim=1)
    shuffled = near[torch.randperm(len(near))]
    assert model._contrast(near, batch) < model._contrast(shuffled, batch)
    apart = dataclasses.replace(source, space=unregistered(3, 3))
    assert len(CellSamples(apart, recipe).batch(0)["frame"].unique()) > 1


def test_widths_that_no_head_fits_and_data_without_counts_are_refused(source, samples):
    with pytest.raises(Usage, match="head_width"):
        build(small(encoder=Tile(width=40, head_width=32)), samples)
    nothing = dataclasses.replace(source, counts=source.counts[:, :0], panel=Panel(()))
    recipe = small(samples=Cells(least_counts=0))
    with pytest.raises(Refused, match="counts to learn from"):
        build(recipe, CellSamples(nothing, recipe))


@pytest.mark.parametrize("name", ["cells", "cells-tiny"])
def test_recipes_build(name, source):
    from brodmann import settings

    values = settings.read_toml((verbs._RECIPES / f"{name}.toml").read_text(), where=name)
    assert values.pop("system") == "cells"
    recipe = settings.build(Recipe, values, where=name)
    assert build(recipe, CellSamples(source, recipe)).head.out_features == 30


# -------------------------------------------------------------------------------------------------------------- story


def agreement(features, source):
    return adjusted_rand_score(source.domain, KMeans(3, n_init=4, random_state=0).fit_predict(features))


def test_planted_domains_are_learned_from_counts_alone(tmp_path):
    """After a minute's training, features show the domains better than untrained ones, and predict unseen cells."""
    source = tissue(cells=2500, sections=4, seed=3)
    recipe = small(
        samples=Cells(tile_cells=1024, components=12),
        fit=Fit(steps=150, batch=2, lr=3e-3, warmup_steps=10, save_every=150),
        split=Split(by="brain", folds=0, fold=1),
    )
    training, everything = CellSamples(source, recipe, part="train"), CellSamples(source, recipe)
    run = Run.open(
        tmp_path / "run",
        recipe=recipe,
        system="cells",
        data_fingerprint=training.fingerprint,
        data="",
        say=Say(quiet=True),
    )
    untrained = build(recipe, training)
    model = build(recipe, training)
    with run.lock():
        train.fit(model, training, recipe.fit, run, say=Say(quiet=True))
    before, after = (agreement(described(one, everything), source) for one in (untrained, model))
    assert after > before + 0.2
    assert after > 0.6
    # animal 1 was never seen
    unseen = everything.read(np.arange(5000, 10_000))
    unseen["hidden"] = torch.zeros(len(unseen["counts"]), dtype=torch.bool)
    unseen["hidden"][unseen["asked"]] = unseen["pass"][unseen["asked"]] == 0
    with torch.no_grad():
        nats = float(model.loss(unseen).total)
        x = unseen["counts"][unseen["hidden"]].float()
        log_mean = model.profile.log() + x.sum(1, keepdim=True).log()
        dispersions = [untrained.log_theta, model.log_theta, *(torch.full((60,), t) for t in np.linspace(-2, 3, 26))]
        profile = min(float(-objective.total(x, log_mean, theta) / x.numel()) for theta in dispersions)
    # the best dispersion for these very cells is given to the mean profile, and does not save it
    assert nats < profile - 0.002
