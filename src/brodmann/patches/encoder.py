"""Image encoders: transformers' backbones with stems for one or three stain channels, pooled to one vector.

B batch, C channels, H height, W width, F feature width.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from brodmann.errors import Usage
from brodmann.patches.recipe import ConvNeXt, ResNet, ViT

_CONVNEXT = {
    "tiny": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "base": ((128, 256, 512, 1024), (3, 3, 27, 3)),
}
STRIDE_PX = 32
"""Pixels between neighbours of a convolutional encoder's last map."""
_VIT = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


class UnshuffleStem(nn.Module):
    """Fold 4 x 4 pixels into channels, then mix them: keeps every pixel and is fast on a CPU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(16 * channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, width, H / 4, W / 4)``."""
        return self.mix(pixel_values)


class Encoder(nn.Module):
    """Images to feature vectors.

    Parameters
    ----------
    settings : ResNet, ConvNeXt or ViT
        Architecture.
    channels : int
        1 or 3.
    size_px : int
        Side of the patches; a vision transformer needs a multiple of its token size.
    """

    def __init__(self, settings: ResNet | ConvNeXt | ViT, *, channels: int, size_px: int) -> None:
        super().__init__()
        self.is_map = not isinstance(settings, ViT)
        self.backbone, self.width = _backbone(settings, channels, size_px)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` standardised density to ``(B, F)``: mean over the last map, or over tokens."""
        if self.is_map:
            last = cast(Any, self.backbone)(image).feature_maps[-1]
            return last.mean(dim=(2, 3))
        tokens = cast(Any, self.backbone)(image).last_hidden_state
        return tokens[:, 1:].mean(dim=1)


def _backbone(settings: ResNet | ConvNeXt | ViT, channels: int, size_px: int) -> tuple[nn.Module, int]:
    import transformers

    library = cast(Any, transformers)
    if not isinstance(settings, ViT) and size_px < STRIDE_PX:
        raise Usage(
            f"samples.size_px should be at least {STRIDE_PX}, the pixels that one step of the last map spans.",
            found=f"{size_px}.",
            cause="a stage would shrink a map of one pixel; torch's bf16 gradient of that is uninitialised memory.",
            do="raise samples.size_px.",
        )
    if isinstance(settings, ResNet):
        if settings.depth == "tiny":
            widths, depths, layer, stem = (32, 64, 128, 192), (1, 1, 1, 1), "basic", 32
        else:
            widths, layer, stem = (256, 512, 1024, 2048), "bottleneck", 64
            depths = (3, 4, 6, 3) if settings.depth == 50 else (3, 4, 23, 3)
        config = library.ResNetConfig(
            num_channels=channels,
            embedding_size=stem,
            hidden_sizes=list(widths),
            depths=list(depths),
            layer_type=layer,
            out_features=["stage4"],
        )
        model = library.ResNetBackbone(config)
        if settings.depth == "tiny":
            _multiple(size_px, 4, "the tiny ResNet's stem")
            model.embedder = UnshuffleStem(channels, stem)
        return model, widths[-1]
    if isinstance(settings, ConvNeXt):
        widths, depths = _CONVNEXT[settings.size]
        config = library.ConvNextConfig(
            num_channels=channels, hidden_sizes=list(widths), depths=list(depths), out_features=["stage4"]
        )
        return library.ConvNextBackbone(config), widths[-1]
    width, heads = _VIT[settings.size]
    _multiple(size_px, settings.patch_px, "encoder.patch_px")
    config = library.ViTConfig(
        num_channels=channels,
        image_size=size_px,
        patch_size=settings.patch_px,
        hidden_size=width,
        num_hidden_layers=12,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    return library.ViTModel(config, add_pooling_layer=False), width


def _multiple(size_px: int, unit: int, who: str) -> None:
    if size_px % unit:
        raise Usage(f"samples.size_px should be a multiple of {unit} ({who}).", found=f"{size_px}.")


class Projector(nn.Sequential):
    """Two-layer head whose output the loss compares; dropped after training."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, out))
