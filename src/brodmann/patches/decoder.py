"""A small dense decoder: from an encoder's maps of several scales to one class per pixel.

B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brodmann.patches.encoder import Encoder

_TOKEN_MAPS = 4
_DETAIL = 8


def maps(encoder: Encoder, image: Tensor) -> list[Tensor]:
    """What an encoder sees at several scales, finest first: ``(B, F_i, H_i, W_i)`` each.

    The stages of a convolutional network; of a transformer the tokens after every quarter of its layers, laid out as
    they lie in the image. The last is what `Encoder.forward` averages.
    """
    found = cast(Any, encoder.backbone)(image, output_hidden_states=True)
    if encoder.is_map:
        # the stem comes first, and is as fine as the first stage
        return [*found.hidden_states[1:-1], found.feature_maps[-1]]
    depth = len(found.hidden_states) - 1
    steps = [depth * k // _TOKEN_MAPS for k in range(1, _TOKEN_MAPS)]
    tokens = [*(found.hidden_states[k] for k in steps), found.last_hidden_state]
    side = round((tokens[0].shape[1] - 1) ** 0.5)
    return [one[:, 1:].transpose(1, 2).unflatten(2, (side, side)) for one in tokens]


class Decoder(nn.Module):
    """Maps of an encoder and the image itself to the class of every pixel.

    From the coarsest map to the finest: enlarge, join with the next map, mix (U-Net, Ronneberger et al. 2015, with maps
    narrowed to one width first); then the same with two convolutions' worth of the image at half its size. Classes are
    told there and enlarged to full size. Norms are of groups, which a batch of few patches cannot mislead.

    Parameters
    ----------
    encoder : Encoder
        Whose maps come; it is looked at, not kept.
    channels : int
        Of the image.
    size_px : int
        Side of the patches.
    classes : int
    width : int
        Channels at each scale.
    upright : bool
        Patches stand pia up, so that the height of a pixel in its patch hints at its depth: it is given to every scale.
        It is known without any label.
    """

    def __init__(
        self, encoder: Encoder, *, channels: int, size_px: int, classes: int, width: int = 32, upright: bool = True
    ) -> None:
        super().__init__()
        self.upright, more = upright, int(upright)
        with torch.no_grad():
            was_training = encoder.training
            seen = maps(encoder.eval(), torch.zeros(1, channels, size_px, size_px))
            encoder.train(was_training)
        self.narrow = nn.ModuleList(nn.Conv2d(one.shape[1] + more, width, 1) for one in seen)
        self.mix = nn.ModuleList(_mixed(2 * width, width) for _ in seen[1:])
        self.detail = _mixed(channels + more, _DETAIL, stride=2)
        self.last = _mixed(width + _DETAIL, width // 2)
        self.tell = nn.Conv2d(width // 2, classes, 1)

    def forward(self, image: Tensor, seen: list[Tensor]) -> Tensor:
        """Logits ``(B, K, H, W)`` of standardised density ``(B, C, H, W)`` and its `maps`."""
        narrow = [layer(self._placed(one)) for layer, one in zip(self.narrow, seen, strict=True)]
        x = narrow[-1]
        for mix, finer in zip(self.mix, reversed(narrow[:-1]), strict=True):
            x = mix(torch.cat([_enlarged(x, finer), finer], dim=1))
        fine = self.detail(self._placed(image))
        told = self.tell(self.last(torch.cat([_enlarged(x, fine), fine], dim=1)))
        return F.interpolate(told.float(), size=image.shape[-2:], mode="bilinear", align_corners=False)

    def _placed(self, x: Tensor) -> Tensor:
        """With the height of each pixel in its patch, -1 at the top to 1, as one more channel."""
        if not self.upright:
            return x
        high = x.shape[-2]
        height = (torch.arange(high, device=x.device, dtype=x.dtype) * 2 + 1) / high - 1
        return torch.cat([x, height[:, None].expand(len(x), 1, *x.shape[-2:])], dim=1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return x if x.shape[-2:] == like.shape[-2:] else F.interpolate(x, size=like.shape[-2:], mode="nearest")


def _mixed(given: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, width, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(max(1, width // 8), width),
        nn.ReLU(inplace=True),
    )
