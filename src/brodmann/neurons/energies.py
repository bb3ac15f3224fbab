"""What simple filters see: brightness, contrast along four directions, change and motion, near places of the screen.

Enough to tell where a neuron looks before a network has learned what it looks for, and the trivial rival of a network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COLUMNS = 16
"""Places along the width of the screen; so many along its height that they are square."""
LAGS_S = ((1 / 30, 0.1), (4 / 30, 0.2), (7 / 30, 1 / 3))
"""Spans of the past, seconds, over which each quantity is averaged."""
COUNT = 8 * len(LAGS_S)
"""Quantities at a place."""


def grid_px(height_px: int, width_px: int) -> tuple[int, int]:
    """Rows and columns of places."""
    side = max(1, width_px // COLUMNS)
    return max(1, height_px // side), max(1, width_px // side)


def energies(video: Tensor, rate_hz: float) -> Tensor:
    """Local brightness, contrast and change of a clip.

    Parameters
    ----------
    video : (T, H, W) uint8
    rate_hz : float

    Returns
    -------
    (T, COUNT, rows, columns) float32
        Brightness; root mean squares of differences across, down and along both diagonals, and of the change between
        frames; mean products of the change with the slope across and down; each averaged over three spans of the past.
    """
    light = video.float() / 255 - 0.5
    change = F.pad(light[1:] - light[:-1], (0, 0, 0, 0, 1, 0))
    across = F.pad(light[:, :, 2:] - light[:, :, :-2], (1, 1))
    down = F.pad(light[:, 2:] - light[:, :-2], (0, 0, 1, 1))
    falling = F.pad(light[:, 1:, 1:] - light[:, :-1, :-1], (0, 1, 0, 1))
    rising = F.pad(light[:, 1:, :-1] - light[:, :-1, 1:], (0, 1, 0, 1))
    squares = torch.stack([one.square() for one in (across, down, falling, rising, change)], dim=1)
    signed = torch.stack([light, change * across, change * down], dim=1)
    side = max(1, video.shape[2] // COLUMNS)
    contrast = F.avg_pool2d(squares, side).clamp_min(1e-8).sqrt()
    maps = torch.cat([F.avg_pool2d(signed, side), contrast], dim=1)
    return torch.cat([_recent(maps, *(round(at * rate_hz) for at in span)) for span in LAGS_S], dim=1)


def _recent(maps: Tensor, first: int, last: int) -> Tensor:
    """Mean over the frames ``first .. last`` before each; nothing was shown before the clip."""
    total = F.pad(maps, (0, 0, 0, 0, 0, 0, last + 1, 0)).cumsum(0)
    frames = len(maps)
    return (total[last - first + 1 : last - first + 1 + frames] - total[:frames]) / (last - first + 1)
