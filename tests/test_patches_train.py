"""Patches end to end on a few phantom sections: samples, batches, training, description."""

import re

import numpy as np
import pytest
import torch

from brodmann import patches, verbs
from brodmann.errors import Refused, Usage
from brodmann.patches.encoder import Encoder
from brodmann.patches.recipe import ConvNeXt, ResNet, ViT

SMALL = {
    "samples.size_px": 32,
    "samples.pixel_um": 96.0,
    "samples.spacing_mm": 1.5,
    "fit.steps": 6,
    "fit.batch": 16,
    "fit.warmup_steps": 2,
    "fit.precision": "fp32",
    "partners.reach_mm": 20.0,
}


def small_source():
    from brodmann import phantom

    return phantom.sections(brains=2, sections_per_brain=3, native_um=64.0)


def small_fit(out):
    """Used here and, in several processes, by test_train."""
    return verbs.fit(verbs.recipe("patches-tiny", SMALL), small_source(), out, quiet=True)


@pytest.fixture(scope="module")
def source():
    return small_source()


@pytest.fixture(scope="module")
def samples(source):
    return patches.samples(source, verbs.recipe("patches-tiny", SMALL), part="all")


def test_places_are_unique_sorted_and_in_space(samples):
    places = samples.places
    assert places["id"].is_unique
    assert places["section"].is_monotonic_increasing
    assert len(places) == len(samples.labels) == len(samples)
    samples.space.check(places[["x_mm", "y_mm", "z_mm"]].to_numpy())


def test_training_rows_leave_out_the_held_out_brain(source):
    train = patches.samples(source, verbs.recipe("patches-tiny", SMALL), part="train")
    assert train.places["subject"].unique().tolist() == ["B2"]


def test_a_batch_is_a_pure_function_of_seed_step_and_data(source, samples):
    again = patches.samples(source, verbs.recipe("patches-tiny", SMALL), part="all")
    first = samples.batch(3)
    again.batch(7)
    for name, value in again.batch(3).items():
        assert torch.equal(value, first[name]), name
    other = patches.samples(source, verbs.recipe("patches-tiny", {**SMALL, "seed": 1}), part="all")
    assert not torch.equal(other.batch(3)["index"], first["index"])


def test_ranks_share_one_global_batch(samples):
    whole = samples.batch(2)
    halves = [samples.batch(2, rank=rank, world=2) for rank in range(2)]
    for name in ("index", "image", "view"):
        assert torch.equal(whole[name][0::2], halves[0][name])
        assert torch.equal(whole[name][1::2], halves[1][name])


def test_describe_leaves_the_model_as_it_was(source, samples):
    model = patches.build(verbs.recipe("patches-tiny", SMALL), samples)
    batch = samples.read(np.arange(8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = model.describe(batch)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    np.testing.assert_array_equal(found, model.eval().describe(batch))


def test_the_untrained_control_is_the_recipes_model_before_its_first_step(samples):
    recipe = verbs.recipe("patches-tiny", SMALL)
    batch = samples.read(np.arange(8))
    untrained = patches.controls(recipe, samples)["untrained"]
    np.testing.assert_array_equal(untrained(batch), patches.build(recipe, samples).describe(batch))


def test_controls_have_a_row_per_patch(samples):
    made = patches.controls(verbs.recipe("patches-tiny", SMALL), samples)
    batch = samples.read(np.arange(5))
    assert set(made) == {"untrained", "statistics", "profile", "profile_sd", "profile_shape"}
    for name, describe in made.items():
        found = describe(batch)
        assert found.shape[0] == 5, name
        assert np.isfinite(found).all(), name


def test_the_shape_of_the_profile_does_not_know_how_strongly_a_section_is_stained(samples):
    describe = patches.controls(verbs.recipe("patches-tiny", SMALL), samples)["profile_shape"]
    batch = samples.read(np.arange(5))
    # Beer-Lambert: twice the stain squares what passes through; the section's level is measured on the same image
    level = batch["level"].clone()
    through = ((batch["image"].float() + 1).log() - level[:, 0, :, None, None]) * 2 + level[:, 0, :, None, None]
    twice = {**batch, "image": through.exp() - 1, "level": torch.cat([level[:, :1], 2 * level[:, 1:]], dim=1)}
    once = describe(batch)
    assert np.allclose(describe(twice), once, rtol=1e-2, atol=1e-3)
    assert once.std(axis=0).min() > 0


def test_a_source_without_points_cannot_be_sampled_along_the_ribbon(source):
    from dataclasses import replace

    class Bare:
        def __init__(self, section):
            self._section = section

        points = None

        def __getattr__(self, name):
            return getattr(self._section, name)

    bare = replace(source, sections=[Bare(section) for section in source.sections[:1]])
    with pytest.raises(Refused, match="none does"):
        patches.samples(bare, verbs.recipe("patches-tiny", SMALL), part="all")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("settings", "size_px", "millions"),
    [
        (ResNet(depth="tiny"), 96, 0.9),
        (ResNet(depth=50), 64, 23.5),
        (ResNet(depth=101), 64, 42.5),
        (ConvNeXt(size="tiny"), 64, 27.8),
        (ViT(size="tiny"), 64, 5.4),
        (ViT(size="small"), 64, 21.4),
    ],
)
def test_encoders_have_their_published_size_and_one_vector_per_patch(settings, size_px, millions, channels):
    encoder = Encoder(settings, channels=channels, size_px=size_px).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(2, channels, size_px, size_px)).shape == (2, encoder.width)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.parametrize("settings", [ResNet(depth="tiny"), ResNet(depth=50), ConvNeXt(size="tiny")])
def test_the_smallest_patch_has_gradients_that_no_stray_memory_enters(settings):
    """Below 32 px torch's bf16 convolution left part of a gradient uninitialised: NaN in freed memory came back."""
    with pytest.raises(Usage, match="uninitialised memory"):
        Encoder(settings, channels=1, size_px=16)
    torch.manual_seed(0)
    encoder = Encoder(settings, channels=1, size_px=32).train()
    image = torch.randn(8, 1, 32, 32)
    for _ in range(5):
        poison = [torch.full((size,), torch.nan) for size in (10_000, 200_000, 400_000)]
        del poison
        encoder.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encoder(image).square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [name for name in verbs.recipe_names() if re.match(r"patches(?!.*-tuned$)", name)])
def test_every_recipe_makes_a_step_at_its_own_patch_size(name):
    """A shape test of each recipe as written, with a batch of four."""
    recipe = verbs.recipe(name, {"fit.batch": 4})
    model = patches.model.CytoNet(recipe)
    size, channels = recipe.samples.size_px, recipe.samples.channels
    from brodmann.patches import views

    batch = {
        "image": torch.randint(0, 255, (4, channels, size, size), dtype=torch.uint8),
        "level": torch.tensor([[[5.5], [0.5], [0.3]]]).expand(4, 3, channels),
        "view": torch.from_numpy(views.draw(recipe.augment, 4, np.random.default_rng(0))),
        "row": torch.arange(4),
        "index": torch.tensor([0, 0, 1, 1]),
        "coordinates": torch.tensor([[0.0, 0, 0], [0, 0, 0], [50, 0, 0], [50, 0, 0]], dtype=torch.float64),
        "subject": torch.tensor([0, 1, 0, 1]),
        "section": torch.tensor([0, 1, 2, 3]),
    }
    loss = model.loss(batch)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
