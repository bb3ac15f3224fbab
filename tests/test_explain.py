"""Where it looks: maps find what was planted, keep what they promise, and are judged by more than their looks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch import nn

from brodmann import patches, verbs
from brodmann.errors import Refused, Usage
from brodmann.maps import attribution as drawing
from brodmann.patches.attribution import Question, attribute, rollout
from brodmann.patches.encoder import Encoder
from brodmann.patches.explain import alike, explain, judged, logit, maps
from brodmann.patches.recipe import ConvNeXt, ResNet, ViT
from brodmann.patches.resample import crop_affine
from brodmann.patches.source import Source
from brodmann.phantom.structures import giants, structures
from brodmann.settings import Split
from brodmann.space import PHANTOM
from brodmann.tasks._probe import directions, fit_predict
from brodmann.tasks._readout import readout
from brodmann.tasks._score import Score
from brodmann.tasks.explain import auroc, shares
from brodmann.tasks.explain import explain as score

SPOT = slice(8, 14), slice(18, 26)


class Planted(nn.Module):
    """Its first feature is the squared contrast of one spot; its second, of the whole patch's first line."""

    is_map = True

    def __init__(self):
        super().__init__()
        self.backbone, self.gain = nn.Identity(), nn.Parameter(torch.ones(1))

    def forward(self, image):
        spot = image[:, :, SPOT[0], SPOT[1]].square().mean(dim=(1, 2, 3))
        line = image[:, :, 0].mean(dim=(1, 2))
        return self.gain * torch.stack([spot, line], dim=1)


def noise(n=3, size=32, channels=1, seed=0):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def along(*direction):
    return Question("planted", np.array(direction, np.float32))


def encoder(settings, *, channels=1, size_px=32, seed=3):
    torch.manual_seed(seed)
    return Encoder(settings, channels=channels, size_px=size_px).eval()


# ------------------------------------------------------------------------------------------------------- integration


def test_only_the_spot_that_matters_has_attribution():
    found = attribute(Planted(), noise(), along(1, 0))
    inside = np.zeros((32, 32), bool)
    inside[SPOT] = True
    assert (found[:, ~inside] == 0).all()
    assert (found[:, inside] > 0).all()
    line = attribute(Planted(), noise(), along(0, 1))
    assert (line[:, 1:] == 0).all()
    assert np.abs(line[:, 0]).min() > 0


def test_gradients_of_a_square_are_exact():
    """f = mean of x^2 over the spot: from 0, integrated gradients of pixel i are x_i^2 / n, whatever the steps."""
    image = noise(2)
    found = attribute(Planted(), image, along(1, 0), steps=3)
    expected = np.zeros((2, 32, 32), np.float32)
    expected[:, SPOT[0], SPOT[1]] = image[:, 0, SPOT[0], SPOT[1]].numpy() ** 2 / 48
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("settings", [ResNet(), ViT(size="tiny", patch_px=8)])
@pytest.mark.parametrize("references", [None, 2])
def test_gradients_are_complete(settings, references):
    """Maps sum up to the answer for the patch minus the (mean) answer for the reference."""
    net, image = encoder(settings, channels=3), noise(2, channels=3)
    question = Question("q", np.random.default_rng(0).normal(size=net.width).astype(np.float32))
    given = None if references is None else noise(references, channels=3, seed=9)
    found = attribute(net, image, question, references=given, steps=24)
    with torch.no_grad():
        base = torch.zeros_like(image[:1]) if given is None else given
        change = question.ask(net(image)) - question.ask(net(base)).mean()
    np.testing.assert_allclose(found.sum(axis=(1, 2)), change.numpy(), rtol=0.03, atol=0.03 * float(change.abs().max()))


def test_a_patch_is_like_itself_where_it_differs_from_the_mean():
    net, image = Planted(), noise(2)
    with torch.no_grad():
        feature = net(image).numpy()
    question = Question("place", feature[0], kind="alike", centre=np.array([-1.0, 0.0], np.float32))
    assert question.ask(torch.from_numpy(feature))[0] == pytest.approx(1.0, abs=1e-6)
    assert question.ask(torch.from_numpy(feature))[1] < 1
    found = attribute(net, image, question)
    used = np.zeros((32, 32), bool)
    used[SPOT] = used[0] = True
    assert (found[:, ~used] == 0).all()
    assert (found[:, used] != 0).any()


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        (ResNet(), "gradients"),
        (ResNet(), "layercam"),
        (ConvNeXt(), "layercam"),
        (ViT(size="tiny", patch_px=8), "rollout"),
    ],
)
def test_maps_have_the_pixels_of_the_patch_and_do_not_depend_on_company(settings, method, monkeypatch):
    net, image = encoder(settings), noise(5)
    question = along(*np.random.default_rng(0).normal(size=net.width))
    whole = attribute(net, image, question, method=method, steps=4)
    assert whole.shape == (5, 32, 32)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, attribute(net, image, question, method=method, steps=4))
    monkeypatch.setattr("brodmann.patches.attribution._PASS_PX", 2 * 32 * 32)
    pieces = attribute(net, image, question, method=method, steps=4)
    np.testing.assert_allclose(pieces, whole, atol=1e-5 * np.abs(whole).max())
    assert all(p.grad is None for p in net.parameters())


def test_memory_is_bounded_by_the_pass(monkeypatch):
    seen = []
    net = encoder(ResNet())
    net.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    monkeypatch.setattr("brodmann.patches.attribution._PASS_PX", 4 * 32 * 32)
    attribute(net, noise(10), along(*np.ones(net.width)), steps=2)
    assert max(seen) == 4


def test_the_encoder_is_left_as_it_was():
    net = encoder(ViT(size="tiny", patch_px=8)).train()
    before = net.backbone.config._attn_implementation
    attribute(net, noise(), along(*np.ones(net.width)), method="rollout")
    assert net.training
    assert net.backbone.config._attn_implementation == before


@pytest.mark.parametrize(("settings", "method"), [(ResNet(), "rollout"), (ViT(size="tiny", patch_px=8), "layercam")])
def test_a_method_that_does_not_fit_is_refused(settings, method):
    net = encoder(settings)
    with pytest.raises(Usage, match="found: " + method):
        attribute(net, noise(), along(*np.ones(net.width)), method=method)


# ----------------------------------------------------------------------------------------------------------- layercam


def test_layercam_is_the_papers_formula(monkeypatch):
    """Against the loop of eqs. 5-7 on the maps and gradients of one stage, taken by other means."""
    net, image = encoder(ResNet(), size_px=64), noise(2, size=64)
    question = along(*np.random.default_rng(1).normal(size=net.width))
    kept = []

    def keep(module, given, out):
        out.retain_grad()
        kept.append(out)

    hook = net.backbone.encoder.stages[1].register_forward_hook(keep)
    question.ask(net(image)).sum().backward()
    hook.remove()
    maps_, slopes = kept[0].detach().numpy(), kept[0].grad.numpy()
    expected = np.zeros((2, 8, 8))
    for b in range(2):
        for i in range(8):
            for j in range(8):
                weighted = [max(slopes[b, k, i, j], 0) * maps_[b, k, i, j] for k in range(maps_.shape[1])]
                expected[b, i, j] = max(sum(weighted), 0)
    found = attribute(net, image, question, method="layercam", stage=1)
    up = nn.functional.interpolate(torch.from_numpy(expected)[:, None], size=64, mode="bilinear")[:, 0].numpy()
    assert expected.max() > 0
    np.testing.assert_allclose(found, up, rtol=1e-3, atol=1e-5 * up.max())


# ------------------------------------------------------------------------------------------------------------ rollout


def test_rows_of_rollout_sum_to_one_and_it_follows_the_path():
    rng = torch.Generator().manual_seed(0)
    layers = [torch.rand(2, 3, 5, 5, generator=rng).softmax(dim=-1) for _ in range(4)]
    found = rollout(layers)
    np.testing.assert_allclose(found.sum(dim=-1), 1, rtol=1e-5)
    # token 0 reads 1 in the second layer, 1 reads 2 in the first: so 0 has read 2, and 2 has not read 0
    first, second = torch.eye(3).repeat(1, 1, 1, 1), torch.eye(3).repeat(1, 1, 1, 1)
    first[0, 0, 1] = torch.tensor([0.0, 0, 1])
    second[0, 0, 0] = torch.tensor([0.0, 1, 0])
    np.testing.assert_allclose(rollout([first, second])[0, 0], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(rollout([first, second])[0, 2], [0, 0, 1])


def test_rollout_finds_the_token_that_every_token_reads():
    """All tokens are made to attend to one: queries are constant, and the key of its place agrees with them."""
    net = encoder(ViT(size="tiny", patch_px=8))
    chosen = 6
    with torch.no_grad():
        table = net.backbone.embeddings.position_embeddings
        table.zero_()
        table[0, 1 + chosen, 0] = 50
        for layer in net.backbone.layers:
            layer.attention.q_proj.weight.zero_()
            layer.attention.q_proj.bias.fill_(1)
            layer.attention.k_proj.weight.zero_()
            layer.attention.k_proj.weight[:, 0] = 1
    found = attribute(net, noise(), along(*np.ones(net.width)), method="rollout")
    assert found.shape == (3, 32, 32)
    row, column = divmod(chosen, 4)
    mass = found.reshape(3, 4, 8, 4, 8).sum(axis=(2, 4))
    assert (mass.reshape(3, -1).argmax(axis=1) == row * 4 + column).all()
    assert (mass[:, row, column] > 0.5).all()
    # the class token holds the rest of what the patch tokens read
    assert (mass.sum(axis=(1, 2)) <= 1 + 1e-5).all()


# ---------------------------------------------------------------------------------------------------------- the score


def masks(n=12, size=20):
    cortex = np.zeros((n, size, size), bool)
    cortex[:, 2:18] = True
    structure = np.zeros_like(cortex)
    structure[:, 8:10] = True
    return cortex, structure, np.repeat([f"s{k}" for k in range(n // 3)], 3)


def test_a_uniform_map_is_worth_one_and_a_half():
    cortex, structure, sections = masks()
    found = score({"features": np.full(cortex.shape, 3.0)}, cortex, structure, sections, target="t")
    assert found.value == pytest.approx(1.0)
    assert found.more["AUROC"].value == pytest.approx(0.5)
    assert found.baselines["uniform map"].value == pytest.approx(1.0)


def test_a_map_of_the_structure_has_all_its_mass_there():
    cortex, structure, sections = masks()
    mixed = np.where(structure, 1.0, -1.0)
    # what lies outside cortex counts nowhere
    mixed[:, :2] = 100.0
    found = score({"features": mixed, "rival": np.ones(cortex.shape)}, cortex, structure, sections, target="t")
    assert found.value == pytest.approx(16 / 2)
    assert found.more["AUROC"].value == pytest.approx(1.0)
    assert found.gains["rival"].value == pytest.approx(7.0)
    assert found.n == 12
    assert found.n_groups == 4
    assert found.more["share of mass in cortex"].value < 0.05


def test_measures_agree_with_a_loop_and_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 9, 9)).round(1)
    among, part = rng.random((2, 4, 9, 9)) < np.array([0.8, 0.3])[:, None, None, None]
    part &= among
    mass, pixels = shares(values, among, part)
    ranks = auroc(values, among, part)
    for k in range(4):
        positive = values[k].clip(min=0)
        assert mass[k] == pytest.approx(positive[part[k]].sum() / positive[among[k]].sum())
        assert pixels[k] == pytest.approx(part[k].sum() / among[k].sum())
        assert ranks[k] == pytest.approx(roc_auc_score(part[k][among[k]], values[k][among[k]]))


def test_the_interval_is_over_sections_not_patches():
    """Patches of one section that are copies of one another must not narrow the interval."""
    rng = np.random.default_rng(0)
    cortex, structure, _ = masks(n=6)
    values = rng.random(cortex.shape) + structure * rng.random((6, 1, 1)) * 4
    names = np.array([f"s{k}" for k in range(6)])
    once = score({"features": values}, cortex, structure, names, target="t")
    again = [np.repeat(x, 5, axis=0) for x in (values, cortex, structure, names)]
    copied = score({"features": again[0]}, again[1], again[2], again[3], target="t")
    assert copied.value == pytest.approx(once.value)
    assert copied.interval == pytest.approx(once.interval)
    assert copied.n_groups == once.n_groups == 6


def test_maps_dealt_out_anew_keep_only_what_all_patches_share():
    """Where each patch's structure lies elsewhere, maps of other patches miss it."""
    n = 12
    cortex, structure = np.ones((n, 24, 6), bool), np.zeros((n, 24, 6), bool)
    for k in range(n):
        structure[k, 2 * k : 2 * k + 2] = True
    found = score({"features": structure * 1.0}, cortex, structure, np.arange(n).astype(str), target="t")
    assert found.value == pytest.approx(12)
    assert found.baselines["maps of other patches"].value == pytest.approx(0)


def test_looking_at_the_layer_is_not_looking_at_what_it_holds():
    cortex, structure, sections = masks()
    structure[:, :, 10:] = False
    layer = np.zeros_like(cortex)
    layer[:, 8:10] = True
    found = score({"features": layer * 1.0}, cortex, structure, sections, target="t", layer=layer)
    assert found.value > 4
    assert found.more["enrichment within its layer"].value == pytest.approx(1.0)
    assert found.more["AUROC within its layer"].value == pytest.approx(0.5)


def test_a_score_is_saved_and_read_back(tmp_path):
    cortex, structure, sections = masks()
    found = score({"features": structure * 1.0 + 0.1}, cortex, structure, sections, target="V1 stripe")
    path = found.save(tmp_path)
    assert path.name == "explain-V1_stripe.json"
    assert Score.load(path).value == found.value
    assert "enrichment" in str(found)


def test_bad_maps_are_refused():
    cortex, structure, sections = masks()
    with pytest.raises(Usage, match="one shape"):
        score({"features": np.ones((12, 3, 3))}, cortex, structure, sections, target="t")
    with pytest.raises(Refused, match="finite"):
        score({"features": np.full(cortex.shape, np.nan)}, cortex, structure, sections, target="t")
    with pytest.raises(Refused, match="at least one patch"):
        score({"features": np.ones(cortex.shape)}, cortex, structure & False, sections, target="t")


# --------------------------------------------------------------------------------------------------------- directions


def test_directions_are_those_of_the_probe():
    """Differences of logits along the directions are those of the probabilities that the probe gives."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(3), 60)
    x = rng.normal(size=(180, 6)) * np.array([1, 5, 0.1, 1, 1, 1]) + 7
    x[:, 0] += 2.0 * codes
    x[:, 2] += 0.2 * (codes == 1)
    group = np.tile(np.array(["a", "b", "c"]), 60)
    found = directions(x, codes, 3, group, 0, penalty=1e-2)
    assert found.shape == (3, 6)
    _, chance = fit_predict("linear", x, codes, group, x[:20], 0, penalty=1e-2)
    logs = np.log(chance)
    centred = logs - logs.mean(axis=1, keepdims=True)
    mine = x[:20] @ found.T * 2 / 3
    np.testing.assert_allclose(np.diff(mine, axis=0), np.diff(centred, axis=0), atol=0.02)


# -------------------------------------------------------------------------------------------- truth under the patches


@pytest.fixture(scope="module")
def clean():
    from brodmann import phantom

    return phantom.sections(brains=1, sections_per_brain=6, native_um=16.0, nuisance=0.0)


def amid(source, area, count=6):
    """Sections of places well inside an area, where the cut is square."""
    for section in source.sections:
        p = section.points
        p = p[(p.area == area) & (p.border_mm > 1.5) & (p.cutting_angle_deg < 25)]
        if len(p) >= count:
            yield section, p.iloc[:: len(p) // count][:count].assign(section=section.id)


def tissue(section, places, size_px, pixel_um):
    crops = [
        section.crop(r.x_um, r.y_um, size_px=size_px, pixel_um=pixel_um, angle_deg=r.angle_deg)[0]
        for r in places.itertuples()
    ]
    return -np.log((np.stack(crops) + 1.0) / 239)


def test_the_stripe_is_paler_than_the_layer_around_it(clean):
    section, places = next(amid(clean, "V1"))
    known = structures([section], places, "stripe", size_px=192, pixel_um=16.0)
    dark = tissue(section, places, 192, 16.0)
    assert (known.structure <= known.layer).all()
    assert (known.layer <= known.cortex).all()
    for k in range(len(places)):
        stripe, rest = dark[k][known.structure[k]], dark[k][known.layer[k] & ~known.structure[k]]
        assert stripe.mean() < 0.65 * rest.mean(), k
        # a stripe runs across the patch in the middle of cortex, about 0.10 of its thickness
        assert 0.06 < known.structure[k].sum() / known.cortex[k].sum() < 0.15


def test_giants_are_darker_than_what_surrounds_them(clean):
    from scipy import ndimage

    section, places = next(amid(clean, "M1"))
    known = structures([section], places, "giants", size_px=192, pixel_um=16.0)
    dark = tissue(section, places, 192, 16.0)
    assert known.structure.any(axis=(1, 2)).all()
    for k in range(len(places)):
        near = ndimage.binary_dilation(known.structure[k], iterations=4) & known.layer[k]
        ring = near & ~ndimage.binary_dilation(known.structure[k], iterations=2)
        assert dark[k][known.structure[k]].mean() > 2.0 * dark[k][ring].mean(), k
    # 16 a mm2 of layer Vb were planted, where no giant lies over another
    many = [ndimage.label(one)[1] for one in known.structure]
    per_mm2 = sum(many) / (known.layer.sum() * 0.016**2)
    assert 9 < per_mm2 < 20


def test_masks_lie_where_the_crop_is_drawn(clean):
    """As `crop_mask` of whole sections, which is drawn by other code; the turn of the patch counts."""
    section, places = next(amid(clean, "V1"))
    known = structures([section], places, "stripe", size_px=64, pixel_um=40.0)
    for k, r in enumerate(places.itertuples()):
        drawn = section.crop_mask(r.x_um, r.y_um, size_px=64, pixel_um=40.0, angle_deg=r.angle_deg)
        cortex = (drawn > 0) & (drawn < 7)
        assert (cortex == known.cortex[k]).mean() > 0.99
        four = drawn == 4
        assert (four & known.layer[k]).sum() / (four | known.layer[k]).sum() > 0.9


def test_only_its_own_area_holds_a_structure(clean):
    section, places = next(amid(clean, "F1"))
    known = structures([section], places, "stripe", size_px=64, pixel_um=20.0)
    assert known.cortex.any()
    assert not known.structure.any()
    assert giants(section).shape[1] == 3
    with pytest.raises(Usage, match="stripe, giants"):
        structures([section], places, "barrels", size_px=64, pixel_um=20.0)
    with pytest.raises(Usage, match="none of 1"):
        structures([section], places.assign(section="B9/s00"), "stripe", size_px=64, pixel_um=20.0)


# ------------------------------------------------------------------------------------------------- a run, end to end

SMALL = {
    "samples.size_px": 32, "samples.pixel_um": 10.0, "samples.where": "points", "fit.precision": "fp32",
    "partners.metric": "space",
}  # fmt: skip
PITCH_UM = 400.0


class Slide:
    """Noise with a dark bar in some patches: high up in area A, low down in area C, none in area B."""

    native_um, channels, dark_stain, background = 10.0, 1, True, (240,)

    def __init__(self, subject, number):
        rng = np.random.default_rng(100 * number + len(subject) + ord(subject[-1]))
        self.id, self.subject, self.number = f"{subject}/s{number}", subject, number
        column, row = (axis.ravel() for axis in np.meshgrid(np.arange(6), np.arange(3)))
        area = np.array(["A", "B", "C"])[(column + row + number) % 3]
        density = 0.5 + 0.15 * rng.random((int(3 * PITCH_UM / 10), int(6 * PITCH_UM / 10)))
        for x, y, name in zip(column * 40 + 20, row * 40 + 20, area, strict=True):
            if name != "B":
                at = y - 9 if name == "A" else y + 5
                density[at : at + 4, x - 16 : x + 16] += 0.5
        self.image = (240 * np.exp(-density)).astype(np.uint8)[None]
        centres = {"x_um": (column + 0.5) * PITCH_UM, "y_um": (row + 0.5) * PITCH_UM}
        self.points = pd.DataFrame({**centres, "angle_deg": 0.0, "area": area})
        self.height_um, self.width_um = (10.0 * side for side in self.image.shape[1:])

    def crop(self, x_um, y_um, *, size_px, pixel_um, angle_deg=0.0):
        return crop_affine(
            self.image, x_um / 10, y_um / 10, size_px, pixel_um / 10, angle_deg, np.array([240], np.uint8)
        )

    def overview(self, pixel_um):
        step = max(int(pixel_um / 10), 1)
        return np.ascontiguousarray(self.image[:, ::step, ::step])

    def place(self, xy_um):
        return np.column_stack([np.asarray(xy_um) / 1000, np.full(len(xy_um), float(self.number))])


def bar(areas):
    """Where each patch's bar lies."""
    found = np.zeros((len(areas), 32, 32), bool)
    for k, name in enumerate(areas):
        at = {"A": 7, "C": 21}.get(name)
        if at is not None:
            found[k, at : at + 4] = True
    return found


@pytest.fixture(scope="module")
def run():
    """A model with weights as drawn, samples of two brains, and the table it makes; another such model as control."""
    recipe = verbs.recipe("patches-tiny", SMALL)
    slides = [Slide(subject, number) for subject in ("B1", "B2") for number in range(3)]
    samples = patches.samples(Source(PHANTOM, slides, "slides", "slides"), recipe, part="all")
    model = patches.build(verbs.recipe("patches-tiny", {**SMALL, "seed": 5}), samples).eval()
    batch = samples.read(np.arange(len(samples)))
    obs = pd.concat([samples.places, samples.labels.reset_index(drop=True)], axis=1)
    table = AnnData(X=model.describe(batch), obs=obs.set_index(obs["id"].to_numpy()))
    table.obsm["baseline_untrained"] = patches.controls(recipe, samples)["untrained"](batch)
    return samples, model, table


@pytest.fixture(scope="module")
def probe(run):
    return readout(run[2], "area", Split(by="brain", folds=0, fold=0), rivals=("untrained",))


def test_a_readout_learns_from_training_rows_alone(run, probe):
    table = run[2]
    assert set(table.obs["subject"].iloc[probe.test]) == {"B1"}
    assert set(probe.directions) == {"features", "untrained", "labels shuffled"}
    other = table.copy()
    other.X[probe.test] = 3.0
    again = readout(other, "area", Split(by="brain", folds=0, fold=0))
    np.testing.assert_array_equal(again.directions["features"], probe.directions["features"])
    assert not np.allclose(probe.directions["features"], probe.directions["labels shuffled"])
    with pytest.raises(Usage, match="an area that the probe knows"):
        probe.number("V7")


def test_typical_patches_come_from_different_sections(run, probe):
    area = "B"
    rows = probe.typical(run[2], area, 3)
    sections = run[2].obs["section"].iloc[rows]
    assert sections.nunique() == 3
    assert len(probe.held(area, 4)) == 4


def test_a_planted_bar_is_found_and_judged_against_its_rivals(run, probe):
    samples, model, table = run
    rows = probe.held("A")
    cortex = np.ones((len(rows), 32, 32), bool)
    # the bar is where the tissue is dark
    dark = samples.read(rows)["image"][:, 0].numpy()
    assert (dark[bar(["A"] * len(rows))].mean()) < 0.8 * dark[~bar(["A"] * len(rows))].mean()
    found, made = judged(model, samples, table, probe, "A", rows, cortex, bar(["A"] * len(rows)), name="bar")
    assert made.shape == (len(rows), 32, 32)
    assert (found.task, found.target, found.n, found.n_groups) == ("explain", "A bar", 18, 3)
    assert set(found.baselines) == {
        "untrained", "another area's logit", "labels shuffled", "density", "paleness", "edges",
        "maps of other patches", "uniform map",
    }  # fmt: skip
    assert found.interval[0] > 1.3
    for name in ("another area's logit", "labels shuffled", "paleness"):
        assert found.gains[name].low > 0, name
    # all bars of an area lie in one place, so maps of other patches do as well
    assert found.baselines["maps of other patches"].value == pytest.approx(found.value, rel=0.2)
    with pytest.raises(Refused, match="held out from the probe"):
        judged(model, samples, table, probe, "A", probe.train[:6], cortex[:6], cortex[:6], name="bar")


def test_maps_of_rows_do_not_depend_on_how_they_are_read(run, probe, monkeypatch):
    samples, model, _ = run
    rows = probe.held("C", 5)
    whole = maps(model, samples, rows, logit(probe, "C"), steps=4)
    monkeypatch.setattr(type(samples), "read_rows", 2)
    np.testing.assert_allclose(maps(model, samples, rows, logit(probe, "C"), steps=4), whole, atol=1e-6)


def test_a_place_is_most_like_itself(run):
    samples, model, table = run
    question = alike(table, 7)
    with torch.no_grad():
        answers = question.ask(torch.as_tensor(np.asarray(table.X, np.float32)))
    assert int(answers.argmax()) == 7
    assert maps(model, samples, np.array([7, 9]), question, steps=4).shape == (2, 32, 32)


def test_explain_draws_a_few_patches_of_each_area(run, tmp_path):
    samples, model, table = run
    split = Split(by="brain", folds=0, fold=0)
    found = explain(model, samples, table, "area", split=split, areas=["A", "C"], each=2, out=tmp_path / "looks")
    assert found.areas.tolist() == ["A", "A", "C", "C"]
    assert found.maps.shape == found.density.shape == (4, 32, 32)
    assert set(table.obs["area"].iloc[found.rows[:2]]) == {"A"}
    assert (tmp_path / "looks.png").stat().st_size > 10_000
    assert "µm" in (tmp_path / "looks.svg").read_text()
    again = explain(model, samples, table, "area", split=split, areas=["A", "C"], each=2)
    np.testing.assert_array_equal(again.maps, found.maps)
    with pytest.raises(Refused, match="row by row"):
        explain(model, samples, table[:-1], "area", split=split)


# ---------------------------------------------------------------------------------------------------------- the figure


def test_the_line_encloses_half_of_what_speaks():
    mass = drawing.smoothed(np.random.default_rng(0).normal(size=(3, 20, 20)))
    np.testing.assert_allclose(mass.sum(axis=(1, 2)), 1)
    assert (mass >= 0).all()
    for one in mass:
        assert one[one >= drawing.half(one)].sum() == pytest.approx(0.5, abs=0.02)
    assert drawing.half(np.zeros((4, 4))) == np.inf


def test_a_figure_needs_patches_and_maps_of_one_shape():
    ones = np.ones((2, 8, 8))
    with pytest.raises(Usage, match="one shape"):
        drawing.figure(ones, np.ones((2, 9, 9)), np.array(["a", "b"]), pixel_um=10.0)


def test_a_figure_names_areas_and_the_structure_it_outlines(tmp_path):
    from brodmann.maps.drawing import save

    values = np.random.default_rng(0).random((3, 16, 16))
    made = drawing.figure(
        values,
        values,
        np.array(["V1", "V1", "M1"]),
        pixel_um=30.0,
        outlines=values > 0.9,
        outlined="the stripe",
        notes={"V1": "2.3×"},
    )
    save(made, tmp_path / "figure")
    text = (tmp_path / "figure.svg").read_text()
    for said in ("V1", "M1", "the stripe", "2.3×", "100 µm", "over depth"):
        assert said in text, said
    # a panel for each patch, and one of depth for each area
    assert len(made.axes) == 5
