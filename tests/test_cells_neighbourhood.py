"""The published form of CellTransformer: against slow formulas, against the public code, and on tissue."""

import os
import sys
import types
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import nn
from torch.nn import functional as F

from brodmann.cells import neighbourhood, published, surroundings
from brodmann.cells.panel import Panel
from brodmann.cells.recipe import Cells, Counts, Neighbourhood, Recipe, Tile
from brodmann.cells.samples import CellSamples
from brodmann.errors import Refused, Usage
from brodmann.settings import Fit, Split
from tissue import tissue

GENES, TYPES = 40, 5
SMALL = Recipe(
    samples=Cells(radius_um=60.0, neighbours=40, types=True),
    encoder=Neighbourhood(width=32, layers=2, decoder_layers=2, heads=4, feed_forward=48),
    objective=Counts(likelihood="zinb"),
    fit=Fit(batch=64, precision="fp32"),
)


def model_of(recipe=SMALL, **encoder):
    recipe = replace(recipe, encoder=replace(recipe.encoder, **encoder))
    model = neighbourhood.NeighbourhoodModel(recipe, [f"g{i}" for i in range(GENES)], [f"t{i}" for i in range(TYPES)])
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            # biases and scales of norms start at 0 and 1, where mistakes would not show
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    return model


def batch_of(sizes, seed=0, cells=120):
    """Neighbourhoods of given sizes, drawn from the last cells; the first are references and nobody's neighbours."""
    rng = np.random.default_rng(seed)
    near = [rng.choice(np.arange(len(sizes), cells), size, replace=False) for size in sizes]
    counts = rng.poisson(rng.gamma(1.0, 1.0, (cells, GENES))).astype(np.uint16)
    return {
        "index": torch.arange(len(sizes)),
        "counts": torch.from_numpy(counts),
        "total_counts": torch.from_numpy(counts.sum(1).astype(np.float32)),
        "type": torch.from_numpy(rng.integers(0, TYPES + 1, cells)),
        "reference": torch.arange(len(sizes)),
        "neighbour": torch.from_numpy(np.concatenate([*near, np.zeros(0, np.int64)]).astype(np.int64)),
        "start": torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)),
    }


SIZES = [0, 5, 17, 44, 44, 1, 30, 0, 80, 44, 43, 2]


# ------------------------------------------------------------------------------- the formulas, one cell at a time


def attend(query, key, value, w_in, b_in, w_out, b_out, heads, extra=None, mask=None):
    """Torch's own multi-head attention, with a zero key and possibly a learned one."""
    width = query.shape[-1]
    bias = torch.zeros(3 * width).to(w_in) if b_in is None else b_in
    extra = (None, None) if extra is None else tuple(part.view(1, 1, width) for part in extra)
    return F.multi_head_attention_forward(
        query, key, value, width, heads, w_in, bias, *extra, True, 0.0, w_out, b_out, attn_mask=mask
    )[0]


def slow_layer(layer, x, mask=None):
    attended = attend(
        x, x, x, layer.qkv.weight, layer.qkv.bias, layer.out.weight, layer.out.bias, layer.heads, mask=mask
    )
    x = layer.norm_attended(x + attended)
    return layer.norm_fed(x + layer.down(F.gelu(layer.up(x))))


def slow(model, batch, entered):
    """Pooled tokens, and both tokens after the decoder, neighbourhood by neighbourhood."""
    pool, pooled, decoded = model.pool, [], []
    for row, reference in enumerate(batch["reference"]):
        cells = batch["neighbour"][batch["start"][row] : batch["start"][row + 1]]
        tokens = torch.cat([model.type_token(batch["type"][cells]), model.expression(entered[cells])], 1)
        x = model.norm_token(torch.cat([model.start[None], tokens]))
        for layer in model.encoder:
            x = slow_layer(layer, x)
        query = pool.norm_query(pool.query)[None]
        key, value = pool.norm_key(x[1:]), pool.norm_value(x[1:])
        extra = (pool.extra_key, pool.extra_value)
        token = attend(query, key, value, pool.qkv, None, pool.out.weight, None, pool.heads, extra=extra)
        pooled.append(pool.norm_pooled(token))
        pair = torch.cat([pooled[-1], model.type_query(batch["type"][reference])[None]])
        for layer in model.decoder:
            pair = slow_layer(layer, pair, mask=torch.eye(2, dtype=torch.bool))
        decoded.append(pair)
    return torch.cat(pooled), torch.stack(decoded)


@pytest.mark.parametrize("entering", ["library", "log1p", "log2"])
def test_all_neighbourhoods_at_once_are_each_alone(entering):
    model, batch = model_of(input=entering).double(), batch_of(SIZES)
    counts = batch["counts"].double()
    share = counts / batch["total_counts"][:, None] * GENES
    entered = {"library": share.log1p(), "log1p": counts.log1p(), "log2": (1 + counts).log2()}[entering]
    pooled, decoded = slow(model, batch, entered)
    # float32 library sizes are scaled before they meet float64 counts
    near = {"rtol": 1e-6, "atol": 1e-6} if entering == "library" else {"rtol": 1e-10, "atol": 1e-10}
    with torch.no_grad():
        torch.testing.assert_close(model.decoded(batch), decoded, **near)
        torch.testing.assert_close(model.features(batch).double(), pooled, rtol=1e-5, atol=1e-5)
        mean, theta, gate = model.predict(batch)
        logit = model.mean(decoded[:, 1])
        wanted = logit.softmax(-1) * counts[: len(SIZES)].sum(1, keepdim=True) if entering == "library" else logit.exp()
        torch.testing.assert_close(mean, wanted, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(theta, model.dispersion(decoded[:, 1]).exp(), rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(gate, model.gate(decoded[:, 1]), **near)
    assert pooled.std(0).mean() > 0.05, "neighbourhoods that all look the same would hide a mistake"


def test_gradients_are_those_of_the_slow_formulas():
    model, batch = model_of(input="log1p").double(), batch_of(SIZES)
    leaves = list(model.parameters())

    def gradients(found):
        direction = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape)
        return torch.autograd.grad((found * direction).sum(), leaves, allow_unused=True)

    ours = gradients(model.decoded(batch))
    wanted = gradients(slow(model, batch, batch["counts"].double().log1p())[1])
    for (name, _), one, other in zip(model.named_parameters(), ours, wanted, strict=True):
        if name.split(".")[0] in {"mean", "dispersion", "gate"}:
            continue
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@pytest.mark.parametrize("sizes", [[0, 0, 0], SIZES], ids=["nobody has neighbours", "mixed"])
def test_every_parameter_learns_also_from_isolated_cells(likelihood, sizes):
    model, batch = model_of(replace(SMALL, objective=Counts(likelihood=likelihood))), batch_of(sizes)
    loss = model.loss(batch)
    loss.total.backward()
    assert set(loss.parts) == {likelihood}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert (model.features(batch_of([])).shape) == (0, 32)


def test_a_cell_without_counts_has_a_finite_loss():
    model, batch = model_of(), batch_of([3, 4])
    batch["counts"] = torch.zeros_like(batch["counts"])
    batch["total_counts"] = torch.zeros_like(batch["total_counts"])
    loss = model.loss(batch).total
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_neighbourhood_is_a_set_and_knows_neither_its_cell_nor_its_company():
    model, batch = model_of(), batch_of(SIZES)
    before = model.features(batch)
    shuffled, start = batch["neighbour"].clone(), batch["start"]
    for row in range(len(SIZES)):
        shuffled[start[row] : start[row + 1]] = shuffled[start[row] : start[row + 1]].flip(0)
    torch.testing.assert_close(model.features({**batch, "neighbour": shuffled}), before, rtol=1e-4, atol=1e-5)
    last = {**batch, "reference": batch["reference"][3:4], "start": start[3:5]}
    torch.testing.assert_close(model.features(last), before[3:4], rtol=1e-4, atol=1e-5)
    counts, kinds = batch["counts"].clone(), batch["type"].clone()
    counts[: len(SIZES)], kinds[: len(SIZES)] = 7, (kinds[: len(SIZES)] + 1) % TYPES
    hidden = {**batch, "counts": counts, "type": kinds}
    torch.testing.assert_close(model.features(hidden), before)
    late = model_of(feature="decoded")
    assert (late.features(hidden) - late.features(batch)).abs().max() > 0.05


def test_low_precision_is_close():
    exact, batch = model_of(), batch_of(SIZES)
    rough = neighbourhood.NeighbourhoodModel(
        replace(exact.recipe, fit=Fit(batch=64, precision="bf16")), exact.genes, exact.types
    )
    rough.load_state_dict(exact.state_dict())
    found, wanted = rough.features(batch), exact.features(batch)
    assert found.dtype == torch.float32
    assert (found - wanted).norm() / wanted.norm() < 0.02


# ----------------------------------------------------------------------------------------------------- surroundings


def by_hand(source, row, radius, limit, among=None):
    """Rows of the nearest cells of the same section, from all distances."""
    section = next(s.rows for s in source.sections if row in s.rows)
    away = np.hypot(*(source.xy_um[section.start : section.stop].astype(np.float64) - source.xy_um[row]).T)
    order = [section.start + i for i in np.argsort(away, kind="stable") if away[i] <= radius]
    return [one for one in order if one != row and (among is None or among[one])][:limit]


@pytest.mark.parametrize("limit", [4, 250])
def test_neighbours_are_the_nearest_of_the_same_section(limit):
    source = tissue(cells=400, sections=3, genes=8)
    rng = np.random.default_rng(0)
    rows = np.concatenate([[399, 400, 0, 1199], rng.choice(1200, 60, replace=False), np.arange(790, 810)])
    among = rng.random(1200) < 0.7
    for allowed in (None, among):
        batch = surroundings.batch(source, rows, radius_um=70.0, limit=limit, types=True, among=allowed)
        assert len(np.unique(batch["counts"].numpy(), axis=0)) > 100
        cells = np.unique(np.concatenate([rows, *[by_hand(source, r, 70.0, limit, allowed) for r in rows]])).astype(int)
        np.testing.assert_array_equal(batch["counts"].numpy(), source.counts[cells])
        np.testing.assert_array_equal(batch["type"].numpy(), source.types[cells])
        np.testing.assert_array_equal(cells[batch["reference"].numpy()], rows)
        for number, row in enumerate(rows):
            found = cells[batch["neighbour"][batch["start"][number] : batch["start"][number + 1]].numpy()]
            assert found.tolist() == by_hand(source, row, 70.0, limit, allowed)
    xy = source.xy_um[:400].astype(np.float64)
    pairs = sum(len(near) - 1 for near in cKDTree(xy).query_ball_point(xy, 70.0))
    assert len(surroundings.batch(source, np.arange(400), radius_um=70.0, limit=999)["neighbour"]) == pairs


def test_genes_and_types_of_another_panel_are_put_in_the_models_order():
    source = tissue(cells=64, sections=1, genes=6, types=3)
    source.types[5] = -1
    columns, codes = np.array([4, -1, 0], np.int32), np.array([2, 0, 1, 7])
    rows = np.arange(64)
    batch = surroundings.batch(source, rows, radius_um=50.0, limit=9, types=True, columns=columns, codes=codes)
    wanted = source.counts[:, [4, 1, 0]] * np.array([1, 0, 1], np.uint16)
    np.testing.assert_array_equal(batch["counts"].numpy(), wanted)
    np.testing.assert_array_equal(batch["total_counts"].numpy(), wanted.sum(1))
    np.testing.assert_array_equal(batch["type"].numpy(), codes[source.types])
    assert batch["type"][5] == 7
    assert not surroundings.batch(source, rows, radius_um=50.0, limit=9)["type"].any()


def described(model, samples, start, stop):
    suited = model.suit(samples)
    cuts = range(start, stop, 100)
    return np.concatenate([model.describe(suited.read(np.arange(at, min(at + 100, stop)))) for at in cuts])


def test_samples_of_another_panel_are_described_by_name():
    recipe = replace(SMALL, split=Split(by="section", fold=None))
    source = tissue(cells=150, sections=2, genes=30, types=4)
    model = neighbourhood.build(recipe, source).train()
    before = described(model, CellSamples(source, recipe), 0, 300)
    assert model.training
    assert before.shape == (300, 32)
    order, kinds = np.random.default_rng(2).permutation(30), np.array([2, 0, 3, 1])
    source.counts, source.panel = source.counts[:, order], Panel(tuple(source.panel.genes[i] for i in order))
    source.types = np.argsort(kinds)[source.types].astype(np.int16)
    source.type_names = tuple(source.type_names[i] for i in kinds)
    after = described(model, CellSamples(source, recipe), 0, 300)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    source.panel = Panel(("other", *source.panel.genes[1:]))
    close = described(model, CellSamples(source, recipe), 0, 300)
    assert 0 < np.abs(close - before).mean() < 0.5
    # read in pieces, from anywhere, a cell is the same
    piece = described(model, CellSamples(source, recipe), 140, 170)
    np.testing.assert_allclose(piece, close[140:170], rtol=1e-4, atol=1e-5)


def test_training_batches_are_functions_of_their_step():
    recipe = replace(SMALL, split=Split(by="section", folds=2, fold=0))
    source = tissue(cells=300, sections=4, genes=30, types=4)
    samples = CellSamples(source, recipe, part="train")
    assert len(samples) == 600
    one, two = samples.batch(3), CellSamples(source, recipe, part="train").batch(3)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["index"], samples.batch(4)["index"])
    halves = [samples.batch(3, rank=rank, world=2)["index"] for rank in range(2)]
    assert sorted(torch.cat(halves).tolist()) == sorted(one["index"].tolist())
    assert len(one["index"]) == recipe.fit.batch
    assert torch.isfinite(neighbourhood.build(recipe, source).loss(one).total)


def test_training_rows_are_runs_of_cells_without_repeats():
    rng = np.random.default_rng(3)
    for cells, size in ((10_003, 256), (40, 256), (5, 2), (10_003, 250)):
        rows = surroundings.draw(cells, size, rng)
        assert len(rows) == min(size, cells) == len(set(rows.tolist()))
        assert rows.min() >= 0
        assert rows.max() < cells
    seen = np.concatenate([surroundings.draw(997, 64, rng) for _ in range(2000)])
    drawn = np.bincount(seen, minlength=997)
    assert drawn.min() > 0.7 * drawn.mean()
    assert drawn.max() < 1.3 * drawn.mean()


def test_it_learns_what_neighbours_say():
    """Counts of a cell are predicted better from its own neighbours than from those of another cell."""
    recipe = replace(SMALL, samples=replace(SMALL.samples, types=False), objective=Counts(likelihood="nb"))
    source, rng = tissue(cells=1500, sections=1, genes=30, types=4, domains=4), np.random.default_rng(1)
    kind = np.where(rng.random(1500) < 0.7, source.domain, source.types)
    profile = rng.dirichlet(np.full(30, 0.5), 4)
    source.counts = rng.poisson(100 * profile[kind]).astype(np.uint16)
    model = neighbourhood.build(recipe, source)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def read(rows):
        return surroundings.batch(source, rows, radius_um=60.0, limit=30)

    for step in range(100):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 20)
        model.loss(read(surroundings.draw(1500, 64, rng))).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    rows, elsewhere = np.arange(1500), rng.permutation(1500)
    batch = read(rows)
    # the same cells and neighbourhoods, dealt out at random
    away = read(elsewhere) | {"reference": torch.from_numpy(rows)}
    assert torch.equal(away["counts"], batch["counts"])
    with torch.no_grad():
        own, other = model.loss(batch).total.item(), model.loss(away).total.item()
    assert own < other - 0.1, f"{own:.4f} with its own neighbours, {other:.4f} with a stranger's"


def test_a_rebuilt_model_is_the_same():
    model, batch = model_of(), batch_of(SIZES)
    other = neighbourhood.rebuild(model.recipe, model.config())
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.features(batch), model.features(batch))
    assert other.types == model.types
    assert other.genes == model.genes
    with pytest.raises(Refused, match="32 features"):
        neighbourhood.rebuild(model.recipe, {**model.config(), "features": 16})


def test_what_does_not_fit_is_said():
    with pytest.raises(Usage, match="neighbourhood"):
        neighbourhood.NeighbourhoodModel(replace(SMALL, encoder=Tile()), ["a"])
    with pytest.raises(Usage, match="multiple"):
        model_of(width=34)
    with pytest.raises(Usage, match="contrast"):
        model_of(replace(SMALL, objective=Counts(contrast=1.0)))
    source = tissue(cells=20, sections=1)
    source.types = None
    with pytest.raises(Refused, match="type"):
        neighbourhood.build(SMALL, source)


# ------------------------------------------------------------------------------------------------ published weights


def layout(genes=GENES, types=TYPES, width=32, layers=2, decoder_layers=3, feed=2048, bias=True, seed=0):
    """Names and shapes of the public checkpoint (github.com/abbasilab/celltransformer, 884c5e3), random values."""
    half = width // 2
    norms = ("proj_norm", "attn_pool.norm", "attn_pool.norm_v", "attn_pool.norm_k", "attn_pool.norm2")
    shapes = {
        "cls_token": (1, width),
        "pooling_token": (1, width),
        "expression_projection.0.weight": (half, genes),
        "expression_projection.3.weight": (half, half),
        **{f"expression_projection.{i}.bias": (half,) for i in (0, 1, 3, 4)},
        **{f"expression_projection.{i}.weight": (half,) for i in (1, 4)},
        "encoder_cell_embed.weight": (types, half),
        "decoder_cell_embed.weight": (types, width),
        **{f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")},
        "attn_pool.query_token": (1, width),
        "attn_pool.attn.in_proj_weight": (3 * width, width),
        "attn_pool.attn.bias_k": (1, 1, width),
        "attn_pool.attn.bias_v": (1, 1, width),
        "attn_pool.attn.out_proj.weight": (width, width),
    }
    for stem in [f"encoder.layers.{i}" for i in range(layers)] + [f"decoder.layers.{i}" for i in range(decoder_layers)]:
        shapes |= {f"{stem}.self_attn.in_proj_weight": (3 * width, width)}
        shapes |= {f"{stem}.self_attn.out_proj.weight": (width, width)}
        if bias:
            shapes |= {f"{stem}.self_attn.in_proj_bias": (3 * width,), f"{stem}.self_attn.out_proj.bias": (width,)}
        shapes |= {f"{stem}.linear1.weight": (feed, width), f"{stem}.linear1.bias": (feed,)}
        shapes |= {f"{stem}.linear2.weight": (width, feed), f"{stem}.linear2.bias": (width,)}
        shapes |= {f"{stem}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
    for head in ("mu", "theta", "scale", "gate_logit"):
        shapes |= {f"zinb_proj.{head}.weight": (genes, width), f"zinb_proj.{head}.bias": (genes,)}
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=rng) * (0.2 if len(shape) == 1 else shape[-1] ** -0.5)
        + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for name, shape in shapes.items()
    }


def names(count, letter):
    return [f"{letter}{i}" for i in range(count)]


def fp32(recipe):
    return replace(recipe, fit=replace(recipe.fit, precision="fp32"))


def test_every_tensor_of_a_published_checkpoint_is_used_or_named():
    state = layout()
    recipe = published.recipe(state, heads=4)
    encoder = recipe.encoder
    assert (encoder.width, encoder.layers, encoder.decoder_layers, encoder.feed_forward) == (32, 2, 3, 2048)
    model = neighbourhood.NeighbourhoodModel(recipe, names(GENES, "g"), names(TYPES, "t"))
    assert sorted(published.load(model, state)) == sorted(published.UNUSED)
    used = [tensor for name, tensor in state.items() if name not in published.UNUSED]
    # all values arrive, each once; the types' tables gain a row, which is the mean of the others
    extra = model.type_token.weight[-1].numel() + model.type_query.weight[-1].numel()
    assert sum(t.numel() for t in used) + extra == sum(p.numel() for p in model.parameters())
    total = sum(t.double().sum() for t in used)
    mean = state["encoder_cell_embed.weight"].mean(0).sum() + state["decoder_cell_embed.weight"].mean(0).sum()
    assert sum(p.double().sum() for p in model.parameters()).item() == pytest.approx((total + mean).item(), abs=1e-4)


def test_prefixes_and_layouts_without_attention_biases_are_understood():
    state = layout(bias=False)
    wrapped = {
        "model." + name.replace("encoder.", "encoder._orig_mod.", 1).replace("decoder.", "decoder._orig_mod.", 1): t
        for name, t in state.items()
    }
    assert published.plain(wrapped).keys() == state.keys()
    recipe = fp32(published.recipe(state, heads=4))
    found = published.model(recipe, published.plain(wrapped), names(GENES, "g"), names(TYPES, "t"))
    zeros = {name: torch.zeros_like(t) for name, t in layout().items() if name not in state}
    wanted = published.model(recipe, state | zeros, names(GENES, "g"), names(TYPES, "t"))
    torch.testing.assert_close(found.features(batch_of(SIZES)), wanted.features(batch_of(SIZES)))


def test_what_does_not_fit_a_published_checkpoint_is_named(tmp_path):
    state = layout()
    recipe = published.recipe(state, heads=4)
    genes, kinds = names(GENES, "g"), names(TYPES, "t")
    for change, said in (
        ({"proj_norm.bias": torch.zeros(7)}, r"proj_norm\.bias is 7, not 32"),
        ({"encoder.layers.1.linear1.weight": torch.zeros(5, 32)}, r"encoder\.layers\.1\.linear1\.weight is 5x32"),
        ({"attn_pool.attn.bias_k": torch.zeros(1, 1, 16)}, "bias_k is 1x1x16, not 32"),
        ({"cls_tokens": torch.zeros(1, 32)}, "cls_tokens is unknown"),
        ({"encoder.layers.5.linear1.bias": torch.zeros(2048)}, r"encoder\.layers\.5\.linear1\.bias is unknown"),
    ):
        with pytest.raises(Refused, match=said):
            published.model(recipe, state | change, genes, kinds)
    for gone in ("cls_token", "zinb_proj.theta.bias", "decoder.layers.2.norm2.weight", "expression_projection.1.bias"):
        less = {name: tensor for name, tensor in state.items() if name != gone}
        with pytest.raises(Refused, match=gone.replace(".", r"\.") + " is missing"):
            published.model(recipe, less, genes, kinds)
    with pytest.raises(Refused, match="39 names of genes"):
        published.model(recipe, state, genes[1:], kinds)
    with pytest.raises(Refused, match="6 of types"):
        published.model(recipe, state, genes, names(6, "t"))
    with pytest.raises(Refused, match="layout"):
        published.recipe({"weight": torch.zeros(3)})
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(Refused, match="pickle"):
        published.read(tmp_path / "weights.pth")


def test_a_refused_checkpoint_changes_nothing():
    model = neighbourhood.NeighbourhoodModel(published.recipe(layout(), heads=4), names(GENES, "g"), names(TYPES, "t"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(Refused):
        published.load(model, layout() | {"odd": torch.zeros(1)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_published_weights_survive_a_file(tmp_path):
    from safetensors.torch import save_file

    state = layout()
    save_file({f"model.{name}": tensor for name, tensor in state.items()}, tmp_path / "w.safetensors")
    read = published.read(tmp_path / "w.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    assert len(read) == len(state)


class _Anything:
    """Stands in for jaxtyping, which the public code needs for its annotations only."""

    def __class_getitem__(cls, _):
        return cls


@pytest.fixture
def public(monkeypatch):
    """The public package, from a checkout that the user points to."""
    where = os.environ.get("BRODMANN_PEER_CELLTRANSFORMER")
    if not where:
        pytest.skip("BRODMANN_PEER_CELLTRANSFORMER is not set: no checkout of the public code to compare with")
    monkeypatch.syspath_prepend(where)
    if "jaxtyping" not in sys.modules:
        stand_in = types.ModuleType("jaxtyping")
        stand_in.Float = stand_in.Int = _Anything
        monkeypatch.setitem(sys.modules, "jaxtyping", stand_in)
    import celltransformer

    return celltransformer


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_public_code_computes_the_same(public, kind):
    state = layout()
    theirs = public.model.CellTransformer(32, 4, 2, 32, 4, 3, 8, TYPES, "cpu", n_genes=GENES, bias=True)
    theirs.attn_pool.attn.num_heads, theirs.attn_pool.attn.head_dim = 4, 8
    theirs.load_state_dict(state)
    theirs.to(kind)
    ours = published.model(fp32(published.recipe(state, heads=4)), state, names(GENES, "g"), names(TYPES, "t")).to(kind)
    batch = batch_of(SIZES)
    batch["type"] %= TYPES
    log = (1 + batch["counts"].double()).log2()
    near = batch["neighbour"].split(torch.diff(batch["start"]).tolist())
    collated = public.data.collate([
        public.data.NeighborhoodMetadata(log[n], log[[i]], batch["type"][n], batch["type"][[i]], len(n))
        for i, n in enumerate(near)
    ])  # fmt: skip
    collated["observed_expression"] = log[batch["neighbour"]].to(kind)
    kept = {}
    theirs.attn_pool.register_forward_hook(lambda _m, _i, out: kept.update(pooled=out))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = theirs(collated)
        decoded = ours.decoded(batch)
        mean, theta, gate = ours.predict(batch)
        pooled = replace_feature(ours, "pooled").features(batch)
    heads = wanted["zinb_params"]
    pairs = {
        "pooled": (pooled.to(kind), kept["pooled"]),
        "decoded": (decoded[:, 0], wanted["neighborhood_repr"]),
        "mean": (mean, heads["mu"]),
        "theta": (theta, heads["theta"]),
        "gate": (gate, heads["zi_logits"]),
    }
    for name, (found, asked) in pairs.items():
        torch.testing.assert_close(found, asked, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert asked.std(0).mean() > 0.01, f"{name} hardly differs between neighbourhoods"


def replace_feature(model, feature):
    """The same weights, another choice of feature."""
    other = neighbourhood.NeighbourhoodModel(
        replace(model.recipe, encoder=replace(model.settings, feature=feature)), model.genes, model.types
    ).to(model.start.dtype)
    other.load_state_dict(model.state_dict())
    return other
