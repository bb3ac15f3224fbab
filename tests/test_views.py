"""Views of a patch: pure functions of their parameters, on any device and in any process."""

import numpy as np
import torch

from brodmann.patches import views
from brodmann.patches.recipe import Augment
from brodmann.samples import stream

STILL = Augment(flip="none", rotate_deg=0, scale=0, shear_deg=0, gain=0, gamma=0, noise=0)


def patches(n=4, size=32, seed=0):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(20, 250, (n, 1, size, size)).astype(np.uint8))
    level = torch.tensor([[[5.5], [0.5], [0.3]]]).repeat(n, 1, 1)
    return image, level


def test_no_augmentation_changes_nothing():
    od = views.density(*patches())
    rows = torch.from_numpy(views.draw(STILL, 4, stream(0, "data", 0)))
    torch.testing.assert_close(views.apply(od, rows), od, atol=1e-4, rtol=1e-4)


def test_a_flip_mirrors_left_and_right():
    od = views.density(*patches())
    rows = torch.from_numpy(views.draw(STILL, 4, stream(0, "data", 0)))
    rows[:, 0] = -1
    torch.testing.assert_close(views.apply(od, rows), od.flip(-1), atol=1e-4, rtol=1e-4)


def test_a_quarter_turn_is_a_quarter_turn():
    od = views.density(*patches())
    rows = torch.from_numpy(views.draw(STILL, 4, stream(0, "data", 0)))
    rows[:, :4] = torch.tensor([0.0, -1.0, 1.0, 0.0])
    torch.testing.assert_close(views.apply(od, rows), od.rot90(1, (2, 3)), atol=1e-4, rtol=1e-4)


def test_rotation_keeps_lengths_and_crop_shrinks_the_field():
    rows = views.draw(Augment(rotate_deg=180, shear_deg=0, scale=0, crop=1.0), 50, stream(0, "data", 1))
    np.testing.assert_allclose(abs(rows[:, 0] * rows[:, 3] - rows[:, 1] * rows[:, 2]), 1, rtol=1e-5)
    cropped = views.draw(Augment(rotate_deg=0, shear_deg=0, scale=0, crop=0.5, flip="none"), 200, stream(0, "data", 2))
    assert 0.5 <= cropped[:, 0].min() < 0.55
    # a crop never leaves the patch
    assert (abs(cropped[:, 4]) + cropped[:, 0] <= 1 + 1e-5).all()


def test_rows_are_drawn_and_applied_independently_of_their_batch():
    image, level = patches(8)
    od = views.density(image, level)
    rows = torch.from_numpy(views.draw(Augment(blur=0.5, noise=0.3), 8, stream(3, "data", 5)))
    together = views.apply(od, rows)
    apart = torch.cat([views.apply(od[i::2], rows[i::2]) for i in range(2)])
    torch.testing.assert_close(together[[0, 2, 4, 6, 1, 3, 5, 7]], apart)
    assert not torch.equal(together, od)


def test_density_is_beer_lambert_in_units_of_the_section():
    image = torch.full((1, 1, 4, 4), 99, dtype=torch.uint8)
    level = torch.tensor([[[np.log(200.0)], [0.5], [0.25]]], dtype=torch.float32)
    expected = (np.log(200.0) - np.log(100.0) - 0.5) / 0.25
    torch.testing.assert_close(views.density(image, level), torch.full((1, 1, 4, 4), float(expected)))


def test_levels_find_slide_and_tissue():
    overview = np.full((1, 60, 60), 240, np.uint8)
    overview[:, 20:40, 20:40] = 100
    tissue = np.zeros((60, 60), bool)
    tissue[20:40, 20:40] = True
    background, mean, sd = views.levels(overview, tissue)[:, 0]
    assert np.isclose(background, np.log(241))
    assert np.isclose(mean, np.log(241 / 101), atol=1e-5)
    assert sd > 0
