"""Made-up tiles in the layout of `brodmann.datasets.rat_nissl`: discs as cells, labels by hand and by two models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

SIDE, PIXEL_UM = 512, 0.346


@dataclass
class Tile:
    """Planted discs: row, column and radius in pixels."""

    name: str
    row: np.ndarray
    column: np.ndarray
    radius: np.ndarray


def write(folder: Path, *, tiles: int = 4, models: bool = True, seed: int = 0) -> list[Tile]:
    """Tiles whose cells grow in number, with gradients of density inside; cyto2 finds each second cell, v2 all."""
    planted: list[Tile] = []
    for number in range(tiles):
        rng = np.random.default_rng([seed, number])
        name = f"FAKE_000{number // 2}.vsi-20x_01_Region_1_Labels_t{number % 2 + 1}.tif"
        row, column, radius = _place(rng, 60 + 30 * number)
        planted.append(Tile(name, row, column, radius))
        labels = draw(row, column, radius)
        grey = 225.0 - 120 * ndimage.gaussian_filter((labels > 0).astype(float), 1.0)
        grey += rng.normal(0, 4, grey.shape)
        rgb = np.clip(np.stack([grey - 15, grey - 25, grey], axis=-1), 0, 255).astype(np.uint8)
        save(folder / "Raw" / name, rgb)
        save(folder / "GT" / name, labels * 7)  # numbers with gaps, as in the real ones
        if models:
            save(folder / "cyto2" / name, draw(row[::2], column[::2], radius[::2] * 1.5))
            save(folder / "v2" / name, draw(row, column, radius))
    return planted


def _place(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Discs apart from one another, denser and smaller towards the bottom."""
    found = np.empty((0, 3))
    while len(found) < count:
        radius = rng.uniform(7, 14)
        row, column = 18 + (SIDE - 36) * rng.beta(1.6, 1.0), rng.uniform(18, SIDE - 18)
        radius *= 1.3 - 0.6 * row / SIDE
        if not len(found) or (np.hypot(found[:, 0] - row, found[:, 1] - column) > found[:, 2] + radius + 2).all():
            found = np.vstack([found, [row, column, radius]])
    return found[:, 0], found[:, 1], found[:, 2]


def draw(row: np.ndarray, column: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Label image of discs, 1, 2, 3 ..."""
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for number, (r, c, size) in enumerate(zip(row, column, radius, strict=True), 1):
        top, left = (max(int(at - size) - 1, 0) for at in (r, c))
        part = labels[top : int(r + size) + 2, left : int(c + size) + 2]
        y, x = np.indices(part.shape) + 0.5
        part[np.hypot(y + top - r, x + left - c) < size] = number
    return labels


def save(path: Path, image: np.ndarray) -> None:
    """TIFF with the pixel size in ImageJ's form, as the real ones have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, image, resolution=(1 / PIXEL_UM, 1 / PIXEL_UM), photometric="rgb" if image.ndim == 3 else "minisblack",
        metadata=None, description="ImageJ=1.53i\nunit=\\u00B5m\n", resolutionunit=1,
    )  # fmt: skip
