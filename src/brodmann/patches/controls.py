"""Features that stand beside every score: what an untrained encoder and plain statistics of the patch can do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from brodmann import compute
from brodmann.patches import baselines, views
from brodmann.patches.model import CytoNet
from brodmann.patches.recipe import Recipe
from brodmann.patches.samples import PatchSamples
from brodmann.samples import Batch

Control = Callable[[Batch], NDArray[np.float32]]


def controls(recipe: Recipe, samples: PatchSamples) -> dict[str, Control]:
    """Name to a function from patches (as `PatchSamples.read` gives them) to features ``(n, F)``.

    The untrained encoder is the recipe's before its first step, on the device of the trained one: weights as drawn,
    and batch norms with their initial statistics (mean 0, variance 1), never adapted to the data. Intensity profiles
    need a depth axis, so they exist for upright ribbon patches only. ``samples`` are not looked at: no control of
    patches is fitted to data.
    """
    del samples
    untrained = CytoNet(recipe).to(compute.device())
    found: dict[str, Control] = {"untrained": untrained.describe, "statistics": _on_density(baselines.statistics)}
    if recipe.samples.where == "ribbon" and recipe.samples.upright:
        found["profile"] = _on_density(baselines.profile)
        found["profile_sd"] = _on_density(baselines.profile_sd)
        found["profile_shape"] = _shape
    return found


def dark_area(batch: Batch) -> NDArray[np.float32]:
    """Mean density, and fraction of pixels darker than halfway from the ground to the section's mean stain: ``(n, 2)``.

    The least that a count of cells must beat: more cells, more dark. Colours are averaged. Not among `controls`, as
    `baselines.statistics` hold much of it; put it into a table as ``obsm["baseline_dark area"]`` where cells count.

    Parameters
    ----------
    batch : mapping
        As `PatchSamples.read` gives it.
    """
    density = views.density(batch["image"], batch["level"])
    mean, sd = (batch["level"][:, k, :, None, None] for k in (1, 2))
    dark = (density > -0.5 * mean / sd).float()
    return torch.stack([part.mean(dim=(1, 2, 3)) for part in (density, dark)], dim=1).numpy()


def _shape(batch: Batch) -> NDArray[np.float32]:
    """Moments need a density that is 0 on the empty slide; 1 is the section's mean tissue, so that stain drops out."""
    mean, sd = (batch["level"][:, k, :, None, None] for k in (1, 2))
    stained = (views.density(batch["image"], batch["level"]) * sd + mean).mean(dim=1, keepdim=True)
    return baselines.profile_shape((stained / mean.mean(dim=1, keepdim=True).clamp_min(1e-2)).numpy())


def _on_density(describe: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Control:
    """Hand-made features see the section-standardised density, which keeps more than the encoder's own input."""

    def run(batch: Batch) -> NDArray[np.float32]:
        return describe(views.density(batch["image"], batch["level"]).numpy())

    return run
