"""An encoder and a linear head that learn areas from labels: fine-tuned from a trained run, or from scratch.

B batch, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from brodmann import compute
from brodmann.errors import Refused
from brodmann.patches import calibration, labelled, layered, views
from brodmann.patches.encoder import Encoder
from brodmann.patches.labelled import Labelled
from brodmann.patches.layered import Layered
from brodmann.patches.model import CytoNet, last
from brodmann.patches.model import build as build_cytonet
from brodmann.patches.model import rebuild as rebuild_cytonet
from brodmann.patches.recipe import Layers, Recipe
from brodmann.patches.samples import PatchSamples
from brodmann.progress import Say
from brodmann.samples import Batch, Loss


class Tuned(nn.Module):
    """Encoder and linear head; cross-entropy on class-balanced batches of labelled patches.

    Parameters
    ----------
    recipe : Recipe
        With ``tune``. The encoder's weights are drawn as `CytoNet` draws them, so that both begin alike.
    classes : sequence of str
        What the head can name.
    """

    temperature: Tensor
    threshold: Tensor
    calibrated: Tensor

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        super().__init__()
        self.recipe, self.tune, self.classes = recipe, labelled.asked(recipe), tuple(classes)
        self.frozen = self.tune.encoder == "frozen"
        self.paces: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.encoder = Encoder(recipe.encoder, channels=recipe.samples.channels, size_px=recipe.samples.size_px)
            self.head = nn.Linear(self.encoder.width, len(self.classes))
        self.encoder.requires_grad_(not self.frozen)
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.int64))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def train(self, mode: bool = True) -> Tuned:  # noqa: FBT001, FBT002 - torch's own signature
        """Training mode, in which a frozen encoder keeps the statistics of its norms, too."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def begin(self, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        """What it takes of a trained run, tuned or not: the encoder, which then learns at its own pace."""
        del config
        self.paces = {"encoder": self.tune.encoder_pace}
        return {name: value for name, value in state.items() if name.startswith("encoder.")}

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of one labelled batch (nats), and how much of it the head names rightly."""
        with torch.no_grad():
            view = views.apply(views.density(batch["image"], batch["level"]), batch["view"])
        logits = self.head(self._encoded(view).float())
        right = (logits.argmax(1) == batch["label"]).float().mean()
        total = F.cross_entropy(logits, batch["label"], label_smoothing=self.tune.smoothing)
        return Loss(total, {"accuracy": right})

    def config(self) -> dict[str, Any]:
        """Plain data that, with the recipe, rebuild this model's shape: its classes."""
        return {"system": "patches", "features": self.encoder.width, "classes": list(self.classes)}

    def suit(self, samples: PatchSamples, say: Say | None = None) -> Labelled:
        """Samples whose batches are labelled; what is read to be described is as it was."""
        del say
        return Labelled(samples, self.recipe, self.classes)

    def settle(self, samples: Labelled, say: Say) -> None:
        """After training: fit temperature and threshold to the labelled patches that were set aside.

        Parameters
        ----------
        samples : Labelled
        say : Say
        """
        rows, tune = samples.held, self.tune
        used = f"{len(samples.learned):,} labelled patches were learned"
        if not len(rows):
            say(f"{used}; none were set aside, so probabilities are not calibrated and nothing is 'unsure'")
            return
        found = [
            self.describe(samples.read(rows[at : at + samples.read_rows]))
            for at in range(0, len(rows), samples.read_rows)
        ]
        logits, codes = self._logits(np.concatenate(found)), samples.codes[rows]
        heat = calibration.temperature(logits, codes)
        probability = softmax(logits / heat, axis=1)
        top, right = probability.max(axis=1), probability.argmax(axis=1) == codes
        least = calibration.threshold(top, right, tune.sure)
        self.temperature.fill_(heat)
        self.threshold.fill_(least)
        self.calibrated.fill_(len(rows))
        before, after = calibration.surprise(logits, codes), calibration.surprise(logits, codes, heat)
        named = top >= least
        say(
            f"{used}; on {len(rows):,} others, temperature {heat:.2f} ({before:.3f} -> {after:.3f} nats); named from "
            f"probability {least:.2f} on: {named.mean():.0%} of them, {right[named].mean():.0%} rightly "
            f"({tune.sure:.0%} wanted)"
        )

    def features(self, batch: Batch) -> Tensor:
        """``(B, F)`` float32 features of patches as they are, before the head."""
        return self._encoded(views.density(batch["image"], batch["level"])).float()

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """Features ``(n, F)`` of a batch as `PatchSamples.read` gives it; the model is left as it was found."""
        with compute.resting(self) as where:
            return self.features({key: value.to(where) for key, value in batch.items()}).cpu().numpy()

    def probability(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated probabilities ``(n, K)`` of the classes, from features ``(n, F)`` as `describe` gives them."""
        return softmax(self._logits(features) / float(self.temperature), axis=1).astype(np.float32)

    def head_config(self) -> dict[str, Any]:
        """What a reader of `probability` needs, as plain data: kept in a feature table."""
        return {
            "target": self.tune.target,
            "classes": list(self.classes),
            "temperature": float(self.temperature),
            "threshold": float(self.threshold),
            "calibrated": int(self.calibrated),
            "sure": self.tune.sure,
        }

    def _logits(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        weight, bias = (value.detach().cpu().numpy().astype(np.float64) for value in (self.head.weight, self.head.bias))
        return features.astype(np.float64) @ weight.T + bias

    def _encoded(self, view: Tensor) -> Tensor:
        view = views.standardise(view, self.recipe.samples.standardise)
        with compute.autocast(view.device, self.recipe.fit.precision):
            return self.encoder(last(view))


def build(recipe: Recipe, samples: PatchSamples) -> CytoNet | Tuned | Layered:
    """The recipe's model: self-supervised, or with a head for the classes, or the layers, of the training samples."""
    if recipe.tune is None:
        return build_cytonet(recipe, samples)
    if isinstance(recipe.tune, Layers):
        return layered.build(recipe, samples)
    return Tuned(recipe, labelled.classes(samples, recipe.tune))


def rebuild(recipe: Recipe, config: Mapping[str, Any]) -> CytoNet | Tuned | Layered:
    """The model of a trained run, before its weights are put back."""
    if recipe.tune is None:
        return rebuild_cytonet(recipe, config)
    if isinstance(recipe.tune, Layers):
        return layered.rebuild(recipe, config)
    model = Tuned(recipe, [str(name) for name in config["classes"]])
    if model.encoder.width != config.get("features"):
        raise Refused(
            f"weights should have {model.encoder.width} features, as the recipe says.",
            found=f"{config.get('features')}.",
        )
    return model
