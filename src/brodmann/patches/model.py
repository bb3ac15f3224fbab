"""CytoNet: an image encoder trained so that near in the brain means similar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from brodmann import compute
from brodmann.errors import Refused
from brodmann.patches import views
from brodmann.patches.encoder import Encoder, Projector
from brodmann.patches.objective import contrast
from brodmann.patches.recipe import Recipe
from brodmann.patches.samples import PatchSamples
from brodmann.progress import Say
from brodmann.samples import Batch, Loss


class CytoNet(nn.Module):
    """Encoder, projection head and the contrast of places.

    Parameters
    ----------
    recipe : Recipe
        Complete after construction; weights are drawn from ``recipe.seed``.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.encoder = Encoder(recipe.encoder, channels=recipe.samples.channels, size_px=recipe.samples.size_px)
            self.projector = Projector(self.encoder.width, recipe.objective.width)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def loss(self, batch: Batch) -> Loss:
        """SpatialNCE of one batch; see `brodmann.patches.objective`."""
        with torch.no_grad():
            view = views.apply(views.density(batch["image"], batch["level"]), batch["view"])
            view = views.standardise(view, self.recipe.samples.standardise)
        with compute.autocast(view.device, self.recipe.fit.precision):
            z = self.projector(self.encoder(last(view)))
        total, parts = contrast(z, batch, self.recipe.partners, self.recipe.objective)
        return Loss(total, parts)

    def config(self) -> dict[str, Any]:
        """Plain data that, with the recipe, rebuild this model's shape: nothing, for patches."""
        return {"system": "patches", "features": self.encoder.width}

    def suit(self, samples: PatchSamples, say: Say | None = None) -> PatchSamples:
        """Samples as this model needs them: patches have one form."""
        del say
        return samples

    def features(self, batch: Batch) -> Tensor:
        """``(B, F)`` float32 features of patches as they are, before the projection."""
        view = views.standardise(views.density(batch["image"], batch["level"]), self.recipe.samples.standardise)
        with compute.autocast(view.device, self.recipe.fit.precision):
            return self.encoder(last(view)).float()

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """Features ``(n, F)`` of a batch as `PatchSamples.read` gives it; the model is left as it was found."""
        with compute.resting(self) as where:
            return self.features({key: value.to(where) for key, value in batch.items()}).cpu().numpy()


def last(image: Tensor) -> Tensor:
    """Channels-last memory: 1.5 times faster convolutions on CPUs, and what tensor cores want."""
    return image.contiguous(memory_format=torch.channels_last)


def build(recipe: Recipe, samples: PatchSamples) -> CytoNet:
    """The recipe's model; its shape depends on the recipe alone, so ``samples`` only proves that there are some."""
    if not len(samples):
        raise Refused("a model should be built for samples.", found="no samples.")
    return CytoNet(recipe)


def rebuild(recipe: Recipe, config: Mapping[str, Any]) -> CytoNet:
    """The model of a trained run, before its weights are put back."""
    model = CytoNet(recipe)
    if model.encoder.width != config.get("features"):
        raise Refused(
            f"weights should have {model.encoder.width} features, as the recipe says.",
            found=f"{config.get('features')}.",
        )
    return model
