"""CytoNet's knobs: which patches, which partners, which augmentation, which encoder, which loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from brodmann.settings import Fit, Split, settings

PLACING = ("samples.where", "samples.spacing_mm", "samples.tissue", "samples.limit")
"""Settings that only say where patches lie: a trained model describes patches at other places as it does its own."""


@settings
class Patches:
    """Which pieces of tissue become samples."""

    size_px: int = pydantic.Field(default=128, ge=16, le=4096)
    """Side of the square patch."""
    pixel_um: float = pydantic.Field(default=16.0, gt=0)
    """Pixel size of the patch; images are resampled to exactly this."""
    channels: Literal[1, 3] = 1
    """1: mean optical density of the stain; 3: optical density per colour."""
    standardise: Literal["patch", "section"] = "patch"
    """Per patch (staining level is lost) or per section (a patch darker than its section stays darker)."""
    where: Literal["grid", "ribbon", "points"] = "grid"
    """On a grid in tissue, along the cortical ribbon (patches upright), or at the sections' own points."""
    spacing_mm: float = pydantic.Field(default=0.5, gt=0)
    """Distance between neighbouring samples on a section."""
    tissue: float = pydantic.Field(default=0.5, ge=0, le=1)
    """Least fraction of a patch's centre that must be tissue."""
    upright: bool = True
    """Turn ribbon patches so that the pia is up."""
    limit: int | None = pydantic.Field(default=None, ge=1)
    """Keep at most this many samples, drawn evenly over sections."""


@settings
class Partners:
    """Which other patch counts as the same place."""

    reach_mm: float = pydantic.Field(default=1.0, ge=0)
    """Distance up to which two patches are partners; 0 leaves only a patch's own second view (SimCLR)."""
    metric: Literal["space", "sheet"] = "space"
    """Measure distance in 3-D space, or along the cortical sheet where the data know it."""
    scope: Literal["section", "within", "across", "both"] = "both"
    """Partners from the same section (sections that were never registered), the same brain, other brains, either."""
    same_section: bool = False
    """Allow the partner on the same section (easier: staining, vessels and folds leak)."""


@settings
class Augment:
    """Changes that must not matter; drawn per (seed, step, row)."""

    flip: Literal["none", "horizontal", "both"] = "horizontal"
    rotate_deg: float = pydantic.Field(default=10.0, ge=0, le=180)
    scale: float = pydantic.Field(default=0.1, ge=0, lt=1)
    """Zoom is drawn from 1 - scale to 1 + scale."""
    shear_deg: float = pydantic.Field(default=5.0, ge=0, le=45)
    crop: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Least side of the random crop, as a fraction of the patch; 1 means no crops."""
    gain: float = pydantic.Field(default=0.1, ge=0)
    """SD of the multiplicative change of contrast."""
    gamma: float = pydantic.Field(default=0.1, ge=0)
    """SD of log gamma on optical density."""
    blur: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Probability of a slight blur."""
    noise: float = pydantic.Field(default=0.05, ge=0)
    """Largest SD of white noise (in units of the patch's own SD)."""


@settings
class ResNet:
    """Residual network through transformers' backbone; the tiny one trains on a laptop."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal["tiny", 50, 101] = "tiny"


@settings
class ConvNeXt:
    """ConvNeXt through transformers' backbone (Liu et al. 2022)."""

    kind: Literal["convnext"] = "convnext"
    size: Literal["tiny", "base"] = "tiny"


@settings
class ViT:
    """Vision transformer through transformers' backbone (Dosovitskiy et al. 2021)."""

    kind: Literal["vit"] = "vit"
    size: Literal["tiny", "small", "base"] = "small"
    patch_px: int = 16


@settings
class SpatialNCE:
    """Contrast of places: near in the brain = similar."""

    temperature: float = pydantic.Field(default=0.1, gt=0)
    kernel: Literal["hard", "soft"] = "hard"
    exclusion_mm: float = pydantic.Field(default=0.0, ge=0)
    """Patches farther than the reach but nearer than this are neither partners nor strangers; 0 switches it off."""
    width: int = pydantic.Field(default=128, ge=2)
    """Dimensions of the projection that the loss compares."""


@settings
class Tune:
    """Learn areas from labels: an encoder, from scratch or from a trained run (``fit --start``), and a linear head."""

    kind: Literal["areas"] = "areas"
    target: str = "area"
    """What names a patch's class: a column of the labels, or an atlas (``ccf``, ``brainglobe:NAME``, ``julich``)."""
    labels: int | None = pydantic.Field(default=None, ge=4)
    """Labelled patches that training may look at, those that calibrate among them, drawn evenly over classes; without
    a number, all."""
    min_per_class: int = pydantic.Field(default=10, ge=1)
    """Classes with fewer labelled training patches are not learned."""
    encoder: Literal["tuned", "frozen"] = "tuned"
    """Let the encoder learn, too, or keep it as it began."""
    encoder_pace: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Learning rate of an encoder that began with a trained run, as a fraction of the head's; from scratch both learn
    at ``fit.lr``. Slower keeps more of what the start knew, and needs more steps."""
    smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Label smoothing (Szegedy et al. 2016)."""
    calibrate: float = pydantic.Field(default=0.1, ge=0, le=0.5)
    """Share of the sections, and of ``labels``, that is not learned but calibrates the probabilities; 0 uses all to
    learn, and leaves probabilities as they come."""
    sure: float = pydantic.Field(default=0.9, gt=0, lt=1)
    """Accuracy that is wanted of patches with a name; those below the probability that gives it are unsure."""


@settings
class Layers:
    """Learn the layer of every pixel: an encoder, from scratch or from a trained run, and a dense decoder."""

    kind: Literal["layers"] = "layers"
    labels: int | None = pydantic.Field(default=None, ge=1)
    """Labelled patches that training may look at, drawn from one section, as a person would begin; without a number,
    all."""
    section: str | None = None
    """The only section that gives labels; by default any whose layers are drawn."""
    encoder: Literal["tuned", "frozen"] = "tuned"
    """Let the encoder learn, too, or keep it as it began."""
    encoder_pace: float = pydantic.Field(default=1.0, gt=0, le=1)
    """As of `Tune`: learning rate of an encoder that began with a trained run, as a fraction of the decoder's."""
    width: int = pydantic.Field(default=32, ge=8)
    """Channels of the decoder at each scale."""
    dice: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the soft Dice loss beside the cross-entropy."""


@settings
class Recipe:
    """CytoNet: learn cortical architecture from where patches lie."""

    samples: Patches = Patches()
    partners: Partners = Partners()
    augment: Augment = Augment()
    encoder: ResNet | ConvNeXt | ViT = pydantic.Field(default=ResNet(), discriminator="kind")
    objective: SpatialNCE = SpatialNCE()
    tune: Tune | Layers | None = pydantic.Field(default=None, discriminator="kind")
    """With it the model learns labels (``kind``: "areas", or "layers"); partners and objective then take no part."""
    split: Split = Split()
    fit: Fit = Fit()
    seed: int = 0

    @pydantic.field_validator("tune", mode="before")
    @classmethod
    def _areas_unless_said(cls, value: Any) -> Any:
        return {"kind": "areas", **value} if isinstance(value, Mapping) else value
