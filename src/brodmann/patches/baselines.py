"""Hand-made features of patches: what texture and intensity profiles say without any training.

They stand beside every learned feature. Images may be stored intensities (uint8: turned into optical density first, so
that stain adds) or float arrays that already are optical density or standardised.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from brodmann.cortex.profiles import shape

OCTAVES = 4
ORIENTATIONS = 8
EDGE_CELLS = 3
TONE_CELLS = 4
DEPTHS = 32
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STATISTICS = (
    1
    + OCTAVES * (3 + len(QUANTILES))
    + (EDGE_CELLS**2 + OCTAVES - 2) * ORIENTATIONS
    + (1 + OCTAVES - 1) * TONE_CELLS**2
)
"""Length of `statistics`: 185."""

_BLOCK = 64
_SAMPLE = 32


def statistics(images: NDArray[Any]) -> NDArray[np.float32]:
    """Describe texture and layout: moments and quantiles at four scales, where edges point, where it is dark or rough.

    Parameters
    ----------
    images : ndarray (n, C, H, W) uint8 or float
        Patches; colours are averaged. H and W at least 32.

    Returns
    -------
    ndarray (n, 185) float32
        ====  =========================================================================================
        1     mean
        32    4 octaves x (SD, skewness, excess kurtosis, quantiles .05 .25 .5 .75 .95 minus the mean)
        72    3 x 3 cells x 8 edge orientations at full resolution
        16    2 octaves (second, third) x 8 edge orientations of the whole patch
        16    4 x 4 cells: mean
        48    3 octaves (first to third) x 4 x 4 cells: SD
        ====  =========================================================================================

        Cells run row by row from the top left. An edge orientation holds the root of the mean gradient magnitude that
        points there, modulo 180 degrees.
    """
    return _in_blocks(images, _statistics, STATISTICS)


def profile(images: NDArray[Any]) -> NDArray[np.float32]:
    """Mean intensity per depth: the laminar profile of an upright patch.

    Parameters
    ----------
    images : ndarray (n, C, H, W) uint8 or float
        Patches with the pia up; colours are averaged.

    Returns
    -------
    ndarray (n, 32) float32
        Mean optical density over the columns of each of 32 equal depths, top first.
    """
    return _in_blocks(images, lambda density: _depths(density)[0], DEPTHS)


def profile_sd(images: NDArray[Any]) -> NDArray[np.float32]:
    """Mean and spread of intensity per depth: the profile that also sees texture.

    Parameters
    ----------
    images : ndarray (n, C, H, W) uint8 or float
        Patches with the pia up; colours are averaged.

    Returns
    -------
    ndarray (n, 64) float32
        32 means, then 32 standard deviations over the pixels of each depth.
    """

    def both(density: Tensor) -> Tensor:
        mean, square = _depths(density)
        return torch.cat([mean, (square - mean.square()).clamp_min(0).sqrt()], dim=1)

    return _in_blocks(images, both, 2 * DEPTHS)


def profile_shape(images: NDArray[Any]) -> NDArray[np.float32]:
    """Shape of the laminar profile: ten numbers, as cytoarchitecture has long been measured (`cortex.profiles.shape`).

    Parameters
    ----------
    images : ndarray (n, C, H, W) uint8 or float
        Patches with the pia up; colours are averaged. Floats should be density that is 0 on the empty slide: the
        profile is treated as a distribution over depth, and what is below 0 counts as empty.

    Returns
    -------
    ndarray (n, 10) float32
        Mean, centroid, SD, skewness and kurtosis of the profile and of its absolute derivative; 0 where an empty patch
        has none.
    """
    found = shape(np.maximum(profile(images).astype(np.float64), 0)).to_numpy()
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def _in_blocks(images: NDArray[Any], describe: Any, width: int) -> NDArray[np.float32]:
    if images.ndim != 4 or min(images.shape[2:]) < 32:
        raise ValueError(f"images should be (n, C, H, W) with sides of at least 32 px; found shape {images.shape}.")
    out = np.empty((len(images), width), dtype=np.float32)
    for start in range(0, len(images), _BLOCK):
        out[start : start + _BLOCK] = describe(_density(images[start : start + _BLOCK])).numpy()
    return out


def _density(images: NDArray[Any]) -> Tensor:
    """Optical density of the stain, (n, H, W) float32; colours averaged after the logarithm."""
    block = torch.from_numpy(np.ascontiguousarray(images))
    if block.dtype == torch.uint8:
        # A table of 256 logarithms is several times faster than a logarithm per pixel.
        table = -torch.log((torch.arange(256, dtype=torch.float32) + 1) / 256)
        density = table[block.int()]
    else:
        density = block.float()
    return density[:, 0] if density.shape[1] == 1 else density.mean(dim=1)


def _statistics(density: Tensor) -> Tensor:
    n = len(density)
    mean = density.mean(dim=(1, 2)).unsqueeze(1)
    moments: list[Tensor] = []
    edges: list[Tensor] = []
    tones: list[Tensor] = []
    scale = density
    for octave in range(OCTAVES):
        if octave:
            scale = functional.avg_pool2d(scale.unsqueeze(1), 2).squeeze(1)
        centred = scale - mean.unsqueeze(2)
        square = centred.square()
        sd = square.mean(dim=(1, 2)).sqrt().clamp_min(1e-6)
        skew = (square * centred).mean(dim=(1, 2)) / sd**3
        kurtosis = square.square().mean(dim=(1, 2)) / sd**4 - 3
        # Quantiles from at most 32 x 32 pixels: sorting every pixel would cost more than all the rest.
        rows, columns = (max(side // _SAMPLE, 1) for side in scale.shape[1:])
        thin = np.sort(centred[:, ::rows, ::columns].reshape(n, -1).numpy(), axis=1)
        at = [round(q * (thin.shape[1] - 1)) for q in QUANTILES]
        moments += [
            torch.stack([sd, skew.clamp(-10, 10), kurtosis.clamp(-10, 50)], dim=1),
            torch.from_numpy(thin[:, at]),
        ]
        if octave < OCTAVES - 1:
            edges.append(_orientations(scale, EDGE_CELLS if octave == 0 else 1))
            level, power = (functional.adaptive_avg_pool2d(x, TONE_CELLS).reshape(n, -1) for x in (centred, square))
            if octave == 0:
                tones.append(level + mean)
            tones.append((power - level.square()).clamp_min(0).sqrt())
    return torch.cat([mean, *moments, *edges, *tones], dim=1)


def _orientations(scale: Tensor, side: int) -> Tensor:
    """Root of the mean gradient magnitude per cell and orientation: (n, side * side * 8)."""
    across = scale[:, 1:-1, 2:] - scale[:, 1:-1, :-2]
    down = scale[:, 2:, 1:-1] - scale[:, :-2, 1:-1]
    size = (across.square() + down.square()).sqrt()
    turn = torch.atan2(down, across) * (ORIENTATIONS / torch.pi) % ORIENTATIONS
    n, height, width = size.shape
    rows, columns = (torch.arange(length) * side // length for length in (height, width))
    cell = rows[:, None] * side + columns
    into = cell * ORIENTATIONS + turn.long().clamp_max(ORIENTATIONS - 1)
    total = size.new_zeros(n, side * side * ORIENTATIONS)
    total.scatter_add_(1, into.reshape(n, -1), size.reshape(n, -1))
    area = torch.bincount(cell.reshape(-1)).to(size.dtype)
    return (total / area.repeat_interleave(ORIENTATIONS)).sqrt()


def _depths(density: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square per depth, each (n, 32)."""
    rows = torch.stack([density.mean(dim=2), density.square().mean(dim=2)], dim=1)
    pooled = functional.adaptive_avg_pool1d(rows, DEPTHS)
    return pooled[:, 0], pooled[:, 1]
