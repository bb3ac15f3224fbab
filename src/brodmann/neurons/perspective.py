"""What falls onto the retina of an animal that looks at a monitor.

The centre of the pupil turns the eye; rays of a retina (azimuthal equidistant) turn with it and meet a monitor plane,
whose brightness is sampled there (Wang et al., 2025, Methods, "Perspective module"). B clips, T frames, A animals.

Coordinates are those of the published model: x to the right, y down, z ahead; lengths in half widths of the monitor.
The sampler keeps the published one's scale: it takes the number of pixels from the retina, not from the monitor, so
that weights mean the same here and there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brodmann.neurons.standardised import Standardised

GELU_GAIN = 1.7015043497085571
"""Keeps the variance of a standard normal number through GELU."""
_WIDTH, _HIDDEN = 16, 3  # layers between the pupil and the eye's angles
_GAMMA, _EPSILON = 1.7, 1e-5


class Perspective(nn.Module):
    """From the monitor to the retina; every animal has an eye, a monitor and a contrast of its own.

    Parameters
    ----------
    animals : int
    retina_px : tuple of int
        Height and width of the retina in rays.
    view_deg : float
        Angle from the middle of the retina to its left and right edge.
    contrast, offset : float
        Initial scale and offset of what the retina passes on.
    jitter : float
        Of the monitor's place (half widths) and angles (radians), while training.
    """

    rays: Tensor

    def __init__(
        self,
        animals: int,
        retina_px: tuple[int, int],
        view_deg: float,
        *,
        contrast: float = 4.0,
        offset: float = -1.4,
        jitter: float = 0.05,
    ) -> None:
        super().__init__()
        self.jitter = jitter
        self.retina_px = retina_px
        # the eye looks straight ahead at first, whatever the pupil says
        self.eye = nn.ModuleList(
            [Standardised((animals, _WIDTH), (2,), standardise=False, zero=True)]
            + [_alike(Standardised((animals, _WIDTH), (_WIDTH,))) for _ in range(_HIDDEN - 1)]
            + [_alike(Standardised((animals, 3), (_WIDTH,)))]
        )
        self.centre = nn.Parameter(torch.tensor([0.0, 0.0, 0.5]).repeat(animals, 1))
        self.tilt = nn.Parameter(torch.zeros(animals, 3))
        self.logit = nn.Parameter(torch.zeros(animals))
        self.contrast = nn.Parameter(torch.full((animals,), contrast))
        self.offset = nn.Parameter(torch.full((animals,), offset))
        self.register_buffer("rays", retina_rays(retina_px, view_deg).to(self.centre.dtype))

    def place(self, animal: Tensor) -> Tensor:
        """Where each clip's monitor stands: centre and angles, (B, 6); jittered while training."""
        place = torch.cat([self.centre, self.tilt], dim=1)[animal]
        return place + self.jitter * torch.randn_like(place) if self.training else place

    def forward(self, video: Tensor, pupil: Tensor, animal: Tensor, place: Tensor | None = None) -> Tensor:
        """Images on the retina.

        Parameters
        ----------
        video : (B, T, H, W) uint8, or floating point from 0 to 255
        pupil : (B, T, 2) float
            Centre of the pupil in units of its spread; 0 where it is not known.
        animal : (B,) int64
        place : (B, 6) float, optional
            From `place`, for a clip that is seen in pieces.

        Returns
        -------
        (B, T, h, w), in the precision of the weights
        """
        clips, frames, height, width = video.shape
        grid = self.meet(pupil, animal, self.place(animal) if place is None else place)
        rows, columns = self.retina_px
        scale = width / (width - 1)
        stretch = grid.new_tensor([scale * (columns - 1) / columns, width / height * scale * (rows - 1) / rows])
        shown = F.grid_sample(
            luminance(video, self.centre.dtype).reshape(clips * frames, 1, height, width),
            (grid * stretch).reshape(clips * frames, rows, columns, 2),
            mode="bilinear", padding_mode="zeros", align_corners=False,
        ).reshape(clips, frames, rows, columns)  # fmt: skip
        power, contrast, offset = (
            one[animal, None, None, None] for one in (self.logit.sigmoid(), self.contrast, self.offset)
        )
        return (shown + _EPSILON).pow(power) * contrast + offset

    def meet(self, pupil: Tensor, animal: Tensor, place: Tensor) -> Tensor:
        """Where the rays of the retina meet the monitor, (B, T, h, w, 2), in its half widths from its middle."""
        turned = pupil.to(self.centre.dtype)
        for number, layer in enumerate(self.eye):
            assert isinstance(layer, Standardised)
            turned = torch.einsum("bti,boi->bto", turned, layer.ready(animal)) + layer.shift(animal)[:, None]
            turned = F.gelu(turned) * GELU_GAIN if number < _HIDDEN else turned
        centre, axes = place[:, :3], rotation(place[:, 3:])  # columns of axes: right, down, ahead of the monitor
        # a ray's components along the monitor's axes: one product for turning the eye and for the projection
        along = torch.einsum("bcd,btce,hwe->btdhw", axes, rotation(turned), self.rays)
        middle = torch.einsum("bc,bcd->bd", centre, axes)[:, None, :, None, None]
        reach = middle[:, :, 2] / along[:, :, 2].clamp_min(_EPSILON)
        return (along[:, :, :2] * reach[:, :, None] - middle[:, :, :2]).permute(0, 1, 3, 4, 2)


def luminance(video: Tensor, dtype: torch.dtype) -> Tensor:
    """Light of grey values from 0 to 255, relative to white; bytes are looked up in a table."""
    if video.dtype == torch.uint8:
        table = (torch.arange(256, dtype=dtype, device=video.device) / 255).pow(_GAMMA)
        return table[video.int()]
    return (video.to(dtype) / 255).pow(_GAMMA)


def retina_rays(retina_px: tuple[int, int], view_deg: float) -> Tensor:
    """Directions of the rays of a resting retina, (h, w, 3) float64 unit vectors.

    A ray's angle from straight ahead grows with its distance from the middle, ``view_deg`` at a distance of half the
    retina's width, 90 degrees at most.
    """
    height, width = retina_px
    down, right = torch.meshgrid(
        torch.linspace(-1, 1, height, dtype=torch.float64) * height / width,
        torch.linspace(-1, 1, width, dtype=torch.float64),
        indexing="ij",
    )
    right, down = (one * (width - 1) / width for one in (right, down))
    angle = (torch.hypot(right, down) * math.radians(view_deg)).clamp(0, math.pi / 2)
    around = torch.atan2(down, right)
    return torch.stack([angle.sin() * around.cos(), angle.sin() * around.sin(), angle.cos()], dim=2)


def rotation(angles: Tensor) -> Tensor:
    """Matrices (..., 3, 3) that turn about x, then y, then z, of angles (..., 3) in radians."""
    (cx, cy, cz), (sx, sy, sz) = (part.unbind(-1) for part in (angles.cos(), angles.sin()))
    return torch.stack([
        cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx,
        sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx,
        -sy, cy * sx, cy * cx,
    ], dim=-1).unflatten(-1, (3, 3))  # fmt: skip


def _alike(layer: Standardised) -> Standardised:
    """All animals start from one animal's weights: what sets them apart is learned."""
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1].clone().expand_as(layer.weight))
    return layer
