"""From stained pixels to what the encoder sees: optical density, random views, standardisation; all on tensors.

B batch, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from brodmann.patches.recipe import Augment

COLUMNS = ("a", "b", "c", "d", "dx", "dy", "gain", "gamma", "blur", "noise", "noise_x", "noise_y")
"""One row of view parameters: inverse affine in normalised coordinates, then photometric changes."""

_IDENTITY = np.array([1, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0], dtype=np.float32)
_NOISE_PX = 256


def draw(augment: Augment, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Parameters of ``n`` random views, one row each (see `COLUMNS`).

    The draws do not depend on the images, so every process can draw the whole batch and use its rows.
    """
    angle = np.deg2rad(rng.uniform(-1, 1, n) * augment.rotate_deg)
    zoom = 1 + rng.uniform(-1, 1, n) * augment.scale
    side = rng.uniform(augment.crop, 1, n)
    shear = np.tan(np.deg2rad(rng.uniform(-1, 1, n) * augment.shear_deg))
    mirror = np.where(rng.random((n, 2)) < 0.5, -1.0, 1.0)
    if augment.flip != "both":
        mirror[:, 1] = 1.0
    if augment.flip == "none":
        mirror[:, 0] = 1.0
    size = side / zoom
    cos, sin = np.cos(angle), np.sin(angle)
    rows = np.tile(_IDENTITY, (n, 1))
    rows[:, 0] = size * mirror[:, 0] * cos
    rows[:, 1] = size * mirror[:, 1] * (shear * cos - sin)
    rows[:, 2] = size * mirror[:, 0] * sin
    rows[:, 3] = size * mirror[:, 1] * (shear * sin + cos)
    rows[:, 4:6] = rng.uniform(-1, 1, (n, 2)) * (1 - side)[:, None]
    rows[:, 6] = np.exp(rng.normal(0, 1, n) * augment.gain)
    rows[:, 7] = np.exp(rng.normal(0, 1, n) * augment.gamma)
    rows[:, 8] = rng.random(n) < augment.blur
    rows[:, 9] = rng.uniform(0, 1, n) * augment.noise
    rows[:, 10:12] = rng.integers(0, _NOISE_PX, (n, 2))
    return rows


def density(image: Tensor, level: Tensor) -> Tensor:
    """Optical density relative to the empty slide (Beer-Lambert), standardised by the section.

    Parameters
    ----------
    image : Tensor
        ``(B, C, H, W)`` uint8, dark stain on a bright slide.
    level : Tensor
        ``(B, 3, C)`` float32: log background, then mean and SD of the section's tissue in optical density.

    Returns
    -------
    Tensor
        ``(B, C, H, W)`` float32; 0 is the section's mean tissue, 1 its SD.
    """
    background, mean, sd = (level[:, k, :, None, None] for k in range(3))
    return (background - (image.float() + 1).log() - mean) / sd


def apply(od: Tensor, rows: Tensor) -> Tensor:
    """Views of standardised density ``(B, C, H, W)`` for parameter rows ``(B, 12)``; reflects at the edges."""
    view = _moved(od, rows, "bilinear")
    gain, gamma, blur, noise = (rows[:, k, None, None, None] for k in (6, 7, 8, 9))
    # gamma acts on a positive density: the shift keeps tissue well inside the curve's steady part
    view = ((view + 4).clamp_min(0.05) / 4).pow(gamma) * 4 - 4
    view = view * gain
    if bool((blur > 0).any()):
        view = torch.where(blur > 0, F.avg_pool2d(view, 3, stride=1, padding=1, count_include_pad=False), view)
    if bool((noise > 0).any()):
        view = view + noise * _noise(od, rows)
    return view


def apply_labels(labels: Tensor, rows: Tensor) -> Tensor:
    """Labels ``(B, H, W)`` uint8 moved as `apply` moves the image under the same rows; nearest, never mixed."""
    return _moved(labels[:, None].float(), rows, "nearest")[:, 0].to(labels.dtype)


def _moved(image: Tensor, rows: Tensor, how: str) -> Tensor:
    theta = torch.stack([rows[:, [0, 1, 4]], rows[:, [2, 3, 5]]], dim=1)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode=how, padding_mode="reflection", align_corners=False)


def _noise(od: Tensor, rows: Tensor) -> Tensor:
    """White noise ``(B, 1, H, W)`` cut from one fixed sheet, so that a row's noise is its own on any device."""
    height, width = od.shape[-2:]
    side = _NOISE_PX + max(height, width)
    generator = torch.Generator().manual_seed(0)
    sheet = torch.randn(side, side, generator=generator).to(od.device)
    y = rows[:, 11, None].long() + torch.arange(height, device=od.device)
    x = rows[:, 10, None].long() + torch.arange(width, device=od.device)
    return sheet[y[:, :, None], x[:, None, :]][:, None]


def standardise(view: Tensor, how: str) -> Tensor:
    """Per patch zero mean and unit SD (``"patch"``), or as the section left it (``"section"``)."""
    if how == "section":
        return view
    mean = view.mean(dim=(1, 2, 3), keepdim=True)
    sd = view.std(dim=(1, 2, 3), keepdim=True, unbiased=False)
    return (view - mean) / (sd + 1e-3)


def levels(overview: NDArray[np.uint8], tissue: NDArray[np.bool_]) -> NDArray[np.float32]:
    """``(3, C)``: log background, mean and SD of tissue density of one section, for `density`."""
    flat = overview.reshape(len(overview), -1).astype(np.float32)
    inside = tissue.ravel()
    empty = flat[:, ~inside] if (~inside).sum() > 100 else flat
    background = np.log(np.percentile(empty, 95 if empty is flat else 50, axis=1) + 1)
    stained = background[:, None] - np.log(flat[:, inside] + 1) if inside.any() else np.zeros_like(flat)
    sd = np.maximum(stained.std(axis=1), 1e-2)
    return np.stack([background, stained.mean(axis=1), sd]).astype(np.float32)
