"""Layers told by an encoder and a decoder: what moves with what, what is learned from, and that few labels suffice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brodmann import phantom, splits, train, verbs
from brodmann.errors import Leak, Refused, Usage
from brodmann.patches import layered, views
from brodmann.patches.decoder import Decoder, maps
from brodmann.patches.encoder import Encoder
from brodmann.patches.layered import Layered, answers, soft_dice
from brodmann.patches.layerrows import LayerRows, LayerTruth, few
from brodmann.patches.recipe import Augment, ConvNeXt, Layers, ResNet, ViT
from brodmann.patches.samples import PatchSamples
from brodmann.patches.source import LAYERS, UNLABELLED
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.samples import stream
from brodmann.tasks.layers import Segmented, depth_prior, layers

SMALL = {
    "samples.size_px": 48,
    "samples.pixel_um": 64.0,
    "samples.spacing_mm": 2.0,
    "fit.steps": 60,
    "fit.batch": 8,
    "fit.warmup_steps": 5,
    "fit.lr": 3e-3,
    "fit.precision": "fp32",
    "augment.rotate_deg": 20.0,
}


@pytest.fixture(scope="module")
def source():
    return phantom.sections(brains=2, sections_per_brain=2, native_um=32.0)


@pytest.fixture(scope="module")
def taught(source):
    return PatchSamples(source, verbs.recipe("patches-tiny", SMALL), part="train")


@pytest.fixture(scope="module")
def everything(source):
    return PatchSamples(source, verbs.recipe("patches-tiny", SMALL), part="all")


# ------------------------------------------------------------------------------------------------- views move labels


@pytest.mark.parametrize("changes", [{"flip": "both"}, {"rotate_deg": 60.0}, {"crop": 0.5}, {"shear_deg": 30.0}, {}])
def test_a_view_moves_labels_as_it_moves_the_image(changes):
    """The image is the label plane: after any view each pixel still shows its label."""
    augment = Augment(**{"gain": 0.0, "gamma": 0.0, "noise": 0.0, "scale": 0.3, **changes})
    y, x = np.mgrid[:64, :64]
    plane = (np.sin(x / 9) > 0).astype(np.uint8) + 2 * (np.sin(y / 7 + x / 40) > 0).astype(np.uint8)
    labels = torch.from_numpy(np.tile(plane, (12, 1, 1)))
    rows = torch.from_numpy(views.draw(augment, 12, stream(0, "labels", 1)))
    seen = views.apply(labels[:, None].float(), rows)[:, 0]
    moved = views.apply_labels(labels, rows)
    assert moved.dtype == torch.uint8
    assert not torch.equal(moved, labels)
    # where interpolation mixed no two labels
    alone = (seen - seen.round()).abs() < 1e-3
    assert alone.float().mean() > 0.5
    assert (seen.round() == moved)[alone].float().mean() > 0.995


def test_a_batch_holds_the_labels_of_its_patches(taught):
    rows = LayerRows(taught, taught.recipe, few(taught, 5))
    batch = rows.batch(3)
    assert batch["layer"].shape == batch["image"].shape[:1] + batch["image"].shape[2:]
    truth = LayerTruth(taught).read(batch["index"].numpy())
    np.testing.assert_array_equal(batch["layer"].numpy(), truth)
    assert batch["view"].shape == (8, 12)
    halves = [rows.batch(3, rank=rank, world=2) for rank in range(2)]
    for name in ("index", "view", "layer"):
        assert torch.equal(batch[name][0::2], halves[0][name]), name
        assert torch.equal(batch[name][1::2], halves[1][name]), name
    rows._held = None
    for name, value in rows.batch(3).items():
        assert torch.equal(value, batch[name]), name


# ------------------------------------------------------------------------------------------------- which labels


def test_few_labels_are_of_one_section_and_no_others_are_seen(taught):
    three, eight = few(taught, 3), few(taught, 8)
    assert set(three) < set(eight)
    assert len({name.rpartition("/")[0] for name in eight}) == 1
    assert few(taught, 3) == three
    assert {tuple(few(taught, 3, seed=seed)) for seed in range(5)} != {tuple(three)}
    rows = LayerRows(taught, taught.recipe, three)
    assert len(rows) == 3
    seen = {int(index) for step in range(20) for index in rows.batch(step)["index"]}
    assert set(taught.places["id"].iloc[sorted(seen)]) == set(three)
    assert LayerRows(taught, taught.recipe, eight).fingerprint != rows.fingerprint
    with pytest.raises(Usage, match="in one section"):
        few(taught, 10_000)


def test_labels_of_held_out_tissue_cannot_be_asked_for(taught, everything):
    held = sorted(set(everything.places["id"]) - set(taught.places["id"]))
    assert held
    with pytest.raises(Refused, match="held-out"):
        LayerRows(taught, taught.recipe, [*few(taught, 3), held[0]])


def test_sections_without_layers_are_said(source):
    from dataclasses import replace

    class Bare:
        layer_names = ()

        def __init__(self, section):
            self._section = section

        def __getattr__(self, name):
            return getattr(self._section, name)

    recipe = verbs.recipe("patches-tiny", SMALL)
    with pytest.raises(Refused, match="none has any"):
        LayerTruth(PatchSamples(replace(source, sections=[Bare(s) for s in source.sections]), recipe))
    mixed = PatchSamples(replace(source, sections=[Bare(source.sections[0]), *source.sections[1:]]), recipe)
    truth = LayerTruth(mixed)
    bare = np.flatnonzero(mixed.places["section"] == source.sections[0].id)
    assert not np.isin(bare, truth.rows).any()
    assert (truth.read(bare[:2]) == UNLABELLED).all()


# ------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("settings", "size"),
    [(ResNet(), 36), (ResNet(), 64), (ConvNeXt(), 64), (ViT(size="tiny", patch_px=16), 64)],
    ids=["resnet 36", "resnet 64", "convnext", "vit"],
)
def test_every_encoder_gives_a_class_per_pixel(settings, size, channels):
    torch.manual_seed(0)
    encoder = Encoder(settings, channels=channels, size_px=size)
    decoder = Decoder(encoder, channels=channels, size_px=size, classes=8, width=16)
    assert encoder.training
    image = torch.randn(2, channels, size, size)
    logits = decoder(image, maps(encoder, image))
    assert logits.shape == (2, 8, size, size)
    logits.square().mean().backward()
    blind = [name for name, p in [*encoder.named_parameters(), *decoder.named_parameters()] if p.grad is None]
    # the class token's place is not part of any map, nor is what only it would need
    assert [name for name in blind if "norm" not in name.lower()] == []
    # what a transformer says of a place comes from that place
    last = maps(encoder.eval(), image)[-1]
    pooled = last.mean(dim=(2, 3))
    torch.testing.assert_close(pooled, encoder(image))


def test_soft_dice_is_the_mean_overlap_of_the_classes_that_occur():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 4, 6, 5)).astype(np.float32))
    truth = rng.choice([0, 1, 3, UNLABELLED], (2, 6, 5)).astype(np.uint8)
    p = logits.softmax(1).numpy()
    expected = []
    for k in (0, 1, 3):
        both = told = are = 0.0
        for b in range(2):
            for i in range(6):
                for j in range(5):
                    if truth[b, i, j] == UNLABELLED:
                        continue
                    g = float(truth[b, i, j] == k)
                    both, told, are = both + p[b, k, i, j] * g, told + p[b, k, i, j], are + g
        expected.append(2 * both / (told + are))
    assert float(soft_dice(logits, torch.from_numpy(truth))) == pytest.approx(1 - np.mean(expected), abs=1e-6)
    blank = torch.full((1, 6, 5), UNLABELLED, dtype=torch.uint8)
    assert float(soft_dice(logits[:1], blank)) == 0


def test_unlabelled_pixels_teach_nothing(taught):
    model = Layered(taught.recipe, Layers(), LAYERS).eval()
    batch = LayerRows(taught, taught.recipe, few(taught, 3)).batch(0)
    batch["view"][:, :6] = torch.tensor([1.0, 0, 0, 1, 0, 0])
    batch["layer"][:, :, :24] = UNLABELLED
    logits = model.logits(views.apply(views.density(batch["image"], batch["level"]), batch["view"]))
    logits.retain_grad()
    model.logits = lambda view: logits
    model.loss(batch).total.backward()
    assert (logits.grad[..., :24] == 0).all()
    assert (logits.grad[..., 24:] != 0).any()


def test_a_frozen_encoder_stays_as_it_is_and_a_tuned_one_keeps_its_norms(taught):
    recipe = taught.recipe
    start = Layered(recipe, Layers(), LAYERS).encoder.state_dict()
    start = {name: value + 0.01 if value.is_floating_point() else value for name, value in start.items()}
    batch = LayerRows(taught, recipe, few(taught, 3)).batch(0)
    changed = {}
    for kind, given in (("frozen", start), ("tuned", start), ("tuned", None)):
        model = Layered(recipe, Layers(encoder=kind), LAYERS, given).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        step = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model.loss(batch).total.backward()
        step.step()
        changed[kind, given is None] = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    ran = {name for name in changed["tuned", True] if "running" in name}
    assert ran
    assert not any(name.startswith("encoder") for name in changed["frozen", False])
    assert any(name.startswith("decoder") for name in changed["frozen", False])
    assert any(name.startswith("encoder") for name in changed["tuned", False])
    assert not any("running" in name for name in changed["tuned", False])


def test_a_model_is_rebuilt_from_plain_data(taught):
    model = Layered(taught.recipe, Layers(encoder="frozen", width=16), LAYERS)
    again = layered.rebuild(taught.recipe, model.config())
    again.load_state_dict(model.state_dict())
    batch = taught.read(np.arange(4))
    np.testing.assert_array_equal(again.tell(batch), model.tell(batch))
    assert model.training
    assert again.frozen
    assert again.classes == LAYERS


# ------------------------------------------------------------------------------------------------- the story


def test_layers_of_an_unseen_brain_are_told_from_eight_patches_of_one_section(taught, everything, tmp_path):
    recipe = taught.recipe
    ids = few(taught, 8)
    rows = LayerRows(taught, recipe, ids)
    run = Run.open(tmp_path / "run", recipe=recipe, system="patches", data_fingerprint=rows.fingerprint)
    model = Layered(recipe, Layers(), rows.classes)
    with run.lock():
        train.fit(model, rows, recipe.fit, run, say=Say(quiet=True))
    fold = splits.folds(everything.places, recipe.split)[0]
    prior = depth_prior([rows.truth.read(rows.rows)], len(LAYERS))
    guess = {"depth prior": lambda batch: np.broadcast_to(prior, (len(batch["index"]), *prior.shape))}
    found = [Segmented(**one) for one in answers(everything, fold.test[::3], model.tell, guess)]
    labelled = [(name.partition("/")[0], name.rpartition("/")[0]) for name in ids]
    score = layers(found, classes=LAYERS, taught=labelled)
    assert score.n == len(fold.test[::3])
    assert score.value > score.baselines["depth prior"].value + 0.05
    assert score.gains["depth prior"].low > 0
    assert score.more["border error, um"].value < score.more["border error of depth prior, um"].value
    with pytest.raises(Leak, match="should both give labels"):
        layers(found, classes=LAYERS, taught=[("B1", "B1/s00")])
