"""Rival with labels: the same encoder trained from scratch on area labels, through the same loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from brodmann import compute, train
from brodmann.patches import views
from brodmann.patches.encoder import Encoder
from brodmann.patches.recipe import Recipe
from brodmann.patches.samples import PatchSamples
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.samples import Batch, Loss, stream


class Labelled:
    """The rows of ``PatchSamples`` that have a label, in class-balanced batches."""

    def __init__(self, samples: PatchSamples, recipe: Recipe, codes: np.ndarray, count: int | None) -> None:
        self.samples, self.recipe, self.codes = samples, recipe, codes
        self.places, self.labels, self.space = samples.places, samples.labels, samples.space
        self.fingerprint = f"{samples.fingerprint}/labels {count or 'all'}"
        rng = stream(recipe.seed, samples.fingerprint, "labels", count or 0)
        classes = np.unique(codes[codes >= 0])
        self.pools = []
        for number in classes:
            rows = np.flatnonzero(codes == number)
            self.pools.append(rng.permutation(rows)[: max(1, count // len(classes))] if count else rows)

    def __len__(self) -> int:
        return sum(len(pool) for pool in self.pools)

    def __getitem__(self, index: int) -> Batch:
        return self.samples[index]

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        size, key = self.recipe.fit.batch, self.fingerprint
        rng = stream(self.recipe.seed, key, "batch", step)
        rows = np.array([rng.choice(self.pools[k]) for k in rng.integers(0, len(self.pools), size)])
        view = views.draw(self.recipe.augment, size, stream(self.recipe.seed, key, "views", step))
        mine = np.arange(rank, size, world)
        return {
            **self.samples.read(rows[mine]),
            "view": torch.from_numpy(view[mine]),
            "label": torch.from_numpy(self.codes[rows[mine]]),
        }


class Classifier(nn.Module):
    """Encoder and a linear layer; cross-entropy."""

    def __init__(self, recipe: Recipe, classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.encoder = Encoder(recipe.encoder, channels=recipe.samples.channels, size_px=recipe.samples.size_px)
        self.head = nn.Linear(self.encoder.width, classes)
        self.to(memory_format=torch.channels_last)

    def logits(self, view: torch.Tensor) -> torch.Tensor:
        view = views.standardise(view, self.recipe.samples.standardise).contiguous(memory_format=torch.channels_last)
        with compute.autocast(view.device, self.recipe.fit.precision):
            return self.head(self.encoder(view)).float()

    def loss(self, batch: Batch) -> Loss:
        with torch.no_grad():
            view = views.apply(views.density(batch["image"], batch["level"]), batch["view"])
        logits = self.logits(view)
        right = (logits.argmax(1) == batch["label"]).float().mean()
        return Loss(F.cross_entropy(logits, batch["label"]), {"accuracy": right})


def predict(
    recipe: Recipe,
    train_samples: PatchSamples,
    train_labels: pd.Series,
    test_samples: PatchSamples,
    rows: np.ndarray,
    classes: tuple[str, ...],
    out: Path,
    *,
    labels: int | None,
) -> pd.Series:
    """Train on the labels of ``train_samples`` and name the classes of ``rows`` of ``test_samples``, by id."""
    codes = pd.Categorical(train_labels, categories=list(classes)).codes.astype(np.int64)
    data = Labelled(train_samples, recipe, codes, labels)
    run = Run.open(out, recipe=recipe, system="patches", data_fingerprint=data.fingerprint)
    with run.lock():
        model = train.fit(Classifier(recipe, len(classes)), data, recipe.fit, run, say=Say(quiet=True)).eval()
    found: list[np.ndarray] = []
    with torch.no_grad():
        for start in range(0, len(rows), 128):
            batch = test_samples.read(rows[start : start + 128])
            found.append(model.logits(views.density(batch["image"], batch["level"])).argmax(1).numpy())
    ids = test_samples.places["id"].iloc[rows]
    return pd.Series(np.array(classes, object)[np.concatenate(found)], index=ids.to_numpy())
