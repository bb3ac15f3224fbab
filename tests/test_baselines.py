"""Hand-made features say what they claim to say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from brodmann.patches import baselines


def textures(n: int, side: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 240, (n, 1, side, side), dtype=np.uint8)


def od(images: np.ndarray) -> np.ndarray:
    return -np.log((images.astype(np.float64) + 1) / 256)


def test_moments_are_scipys():
    images = textures(3)
    density = od(images).reshape(3, -1)
    found = baselines.statistics(images)
    assert found.shape == (3, baselines.STATISTICS) == (3, 185)
    assert np.allclose(found[:, 0], density.mean(axis=1), atol=1e-4)
    assert np.allclose(found[:, 1], density.std(axis=1), atol=1e-4)
    assert np.allclose(found[:, 2], stats.skew(density, axis=1), atol=1e-3)
    assert np.allclose(found[:, 3], stats.kurtosis(density, axis=1), atol=1e-3)
    expected = np.quantile(density - density.mean(axis=1, keepdims=True), baselines.QUANTILES, axis=1).T
    assert np.allclose(found[:, 4:9], expected, atol=0.1)


def test_tone_cells_are_cell_means_and_spreads():
    images = textures(2)
    density = od(images)[:, 0].reshape(2, 4, 16, 4, 16)
    found = baselines.statistics(images)
    assert np.allclose(found[:, 121:137], density.mean(axis=(2, 4)).reshape(2, -1), atol=1e-4)
    assert np.allclose(found[:, 137:153], density.std(axis=(2, 4)).reshape(2, -1), atol=1e-3)


def test_edges_turn_with_the_image():
    ramp = np.tile(np.linspace(0, 3, 64, dtype=np.float32), (64, 1))[None, None]
    upright = baselines.statistics(ramp)[0, 33:105].reshape(9, 8)
    turned = baselines.statistics(np.ascontiguousarray(np.rot90(ramp, axes=(2, 3))))[0, 33:105].reshape(9, 8)
    assert (upright.argmax(axis=1) == 0).all()
    assert (turned.argmax(axis=1) == 4).all()
    half = ramp.copy()
    half[..., :32] = 0
    cells = baselines.statistics(half)[0, 33:105].reshape(3, 3, 8)[..., 0]
    assert (cells[:, 0] == 0).all()
    assert (cells[:, 2] > 0.1).all()


def test_profiles_follow_depth():
    rows = np.repeat(np.arange(32, dtype=np.float32), 3)
    image = np.broadcast_to(rows[None, None, :, None], (2, 1, 96, 80)).copy()
    assert np.allclose(baselines.profile(image), np.arange(32))
    image[:, :, :, ::2] += 1
    image[:, :, :, 1::2] -= 1
    both = baselines.profile_sd(image)
    assert both.shape == (2, 64)
    assert np.allclose(both[:, :32], np.arange(32), atol=1e-4)
    assert np.allclose(both[:, 32:], 1, atol=1e-3)


def test_mean_profile_cannot_tell_textures_that_the_spread_can():
    flat = np.full((1, 1, 64, 64), 1.0, np.float32)
    rough = flat + np.where(np.arange(64) % 2, 0.5, -0.5).astype(np.float32)
    assert np.allclose(baselines.profile(flat), baselines.profile(rough), atol=1e-5)
    assert np.abs(baselines.profile_sd(flat) - baselines.profile_sd(rough)).max() > 0.4


def test_colours_are_averaged_and_blocks_do_not_matter():
    images = textures(130)
    assert np.allclose(baselines.statistics(np.repeat(images, 3, axis=1)), baselines.statistics(images), atol=1e-5)
    assert np.array_equal(baselines.statistics(images)[100], baselines.statistics(images[100:101])[0])
    assert np.isfinite(baselines.statistics(np.full((2, 1, 40, 33), 255, np.uint8))).all()


def test_small_or_flat_arrays_are_refused():
    with pytest.raises(ValueError, match="at least 32 px"):
        baselines.statistics(np.zeros((1, 1, 16, 16), np.uint8))
    with pytest.raises(ValueError, match="C, H, W"):
        baselines.profile(np.zeros((64, 64), np.uint8))


def test_the_shape_of_a_profile_is_its_moments_over_depth():
    """Stain over depth as a distribution: a low narrow layer has a deep centroid and a small spread."""
    depth = (np.arange(32) + 0.5) / 32
    layer = np.exp(-((depth - 0.7) ** 2) / (2 * 0.1**2)).astype(np.float32)
    image = np.broadcast_to(np.repeat(layer, 3)[None, None, :, None], (1, 1, 96, 64)).copy()
    found = baselines.profile_shape(np.concatenate([image, 3 * image, np.zeros_like(image)]))
    weight = layer / layer.sum()
    assert found.shape == (3, 10)
    assert found[0, 0] == pytest.approx(layer.mean(), abs=1e-4)
    assert found[0, 1] == pytest.approx(weight @ depth, abs=1e-4)
    assert found[0, 2] == pytest.approx(np.sqrt(weight @ (depth - weight @ depth) ** 2), abs=1e-4)
    # more stain of the same layers changes the two means alone
    assert np.allclose(found[1, [0, 5]], 3 * found[0, [0, 5]], rtol=1e-4)
    assert np.allclose(found[1, [1, 2, 3, 4, 6, 7, 8, 9]], found[0, [1, 2, 3, 4, 6, 7, 8, 9]], atol=1e-3)
    assert (found[2] == 0).all()
