"""CytoNet asked for layers: an encoder and a dense decoder, trained on few labelled patches.

B batch, K classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from brodmann import compute
from brodmann.errors import Changed, Refused, Usage
from brodmann.patches import views
from brodmann.patches.decoder import Decoder, maps
from brodmann.patches.encoder import Encoder
from brodmann.patches.layerrows import LayerRows, LayerSamples, LayerTruth
from brodmann.patches.model import last
from brodmann.patches.recipe import Layers, Recipe
from brodmann.patches.samples import PatchSamples
from brodmann.patches.source import UNLABELLED
from brodmann.progress import Say
from brodmann.samples import Batch, Loss
from brodmann.tasks.layers import depth_prior, majority

Predict = Callable[[Batch], NDArray[np.uint8]]
"""Classes (n, H, W) of what `PatchSamples.read` gave."""
_READ = 64
PRIORS = ("depth prior", "depth prior, rows", "majority")
"""What the labels tell without any image: the commonest class at each place of a patch, in each row, and of all."""


class Layered(nn.Module):
    """Encoder and decoder; one class per pixel.

    Parameters
    ----------
    recipe : Recipe
        Patches, encoder, seed and precision.
    layers : Layers
    classes : sequence of str
        In the order of depth, "background" first.
    start : mapping of str to Tensor, optional
        ``state_dict`` of a trained encoder. Its batch norms then keep their statistics: few patches of one section
        would give others. None: weights are drawn from ``recipe.seed``.

    Attributes
    ----------
    taught : dict
        ``ids`` of the patches that gave labels and their ``sections`` (pairs of brain and section); empty before the
        end of training.
    prior : Tensor (3, H, W) uint8
        What `PRIORS` tell, from the same labels.
    """

    prior: Tensor
    drawn: Tensor

    def __init__(
        self, recipe: Recipe, layers: Layers, classes: Sequence[str], start: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.recipe, self.layers, self.classes = recipe, layers, tuple(classes)
        patch = recipe.samples
        self.upright = patch.upright and patch.where != "grid"
        self.paces: dict[str, float] = {}
        self.taught: dict[str, Any] = {}
        self._learned_from: LayerRows | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.encoder = Encoder(recipe.encoder, channels=patch.channels, size_px=patch.size_px)
            self.decoder = Decoder(
                self.encoder, channels=patch.channels, size_px=patch.size_px, classes=len(self.classes),
                width=layers.width, upright=self.upright,
            )  # fmt: skip
        if start is not None:
            self.encoder.load_state_dict(start)
        self.frozen = layers.encoder == "frozen"
        self.keeps_norms = self.frozen or start is not None
        self.encoder.requires_grad_(not self.frozen)
        self.register_buffer("prior", torch.zeros(len(PRIORS), patch.size_px, patch.size_px, dtype=torch.uint8))
        self.register_buffer("drawn", torch.zeros(32, dtype=torch.uint8))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def train(self, mode: bool = True) -> Layered:  # noqa: FBT001, FBT002 - torch's own signature
        """Learn, or not; a frozen encoder never does, and kept batch norms stay as they are."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        elif self.keeps_norms:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                    module.eval()
        return self

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy and soft Dice of one batch, of views that move image and labels alike."""
        with torch.no_grad():
            view = views.apply(views.density(batch["image"], batch["level"]), batch["view"])
            truth = views.apply_labels(batch["layer"], batch["view"])
        logits = self.logits(view)
        known = (truth != UNLABELLED).sum().clamp_min(1)
        entropy = F.cross_entropy(logits, truth.long(), ignore_index=UNLABELLED, reduction="sum") / known
        dice = soft_dice(logits, truth)
        right = (logits.argmax(1) == truth).sum() / known
        parts = {"entropy": entropy.detach(), "dice": dice.detach(), "accuracy": right}
        return Loss(entropy + self.layers.dice * dice, parts)

    def logits(self, view: Tensor) -> Tensor:
        """``(B, K, H, W)`` float32 of density ``(B, C, H, W)`` in units of its section."""
        view = views.standardise(view, self.recipe.samples.standardise).contiguous(memory_format=torch.channels_last)
        with compute.autocast(view.device, self.recipe.fit.precision):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                seen = maps(self.encoder, view)
            return self.decoder(view, seen)

    def tell(self, batch: Batch) -> NDArray[np.uint8]:
        """Classes (n, H, W) of a batch as `PatchSamples.read` gives it; the model is left as it was found."""
        with compute.resting(self) as where:
            found = self.logits(views.density(batch["image"].to(where), batch["level"].to(where)))
            return found.argmax(1).to(torch.uint8).cpu().numpy()

    def features(self, batch: Batch) -> Tensor:
        """``(B, F)`` float32 features of patches as they are: the encoder's, without the decoder."""
        view = views.standardise(views.density(batch["image"], batch["level"]), self.recipe.samples.standardise)
        with compute.autocast(view.device, self.recipe.fit.precision):
            return self.encoder(last(view)).float()

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """Features ``(n, F)`` of a batch as `PatchSamples.read` gives it; the model is left as it was found."""
        with compute.resting(self) as where:
            return self.features({key: value.to(where) for key, value in batch.items()}).cpu().numpy()

    def begin(self, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        """What it takes of a trained run: the encoder, which keeps the statistics of its norms and its own pace."""
        del config
        self.paces, self.keeps_norms = {"encoder": self.layers.encoder_pace}, True
        return {name: value for name, value in state.items() if name.startswith("encoder.")}

    def suit(self, samples: PatchSamples, say: Say | None = None) -> LayerSamples:
        """Samples whose batches are labelled; what is read to be described is as it was."""
        del say
        return LayerSamples(samples, self.recipe)

    def renew(self, samples: LayerSamples, step: int, say: Say) -> bool:
        """Before a step: refuse to go on where labels were drawn anew since training began; no weight is changed."""
        del step, say
        if self._learned_from is samples.learned:
            return False
        self._learned_from = samples.learned
        now = torch.frombuffer(bytearray.fromhex(samples.learned.fingerprint), dtype=torch.uint8).to(self.drawn.device)
        if bool(self.drawn.any()) and not torch.equal(now, self.drawn):
            raise Changed(
                "layers should be drawn as they were when training began.", found="other labels under these patches.",
                do="use another folder, or put the old label images back.",
            )  # fmt: skip
        self.drawn.copy_(now)
        return False

    def settle(self, samples: LayerSamples, say: Say) -> None:
        """After training: remember which patches gave labels, and what these tell without any image."""
        rows, count = samples.learned, len(self.classes)
        self.taught = rows.origin()
        places = [depth_prior(_labels(rows), count, by=by) for by in ("place", "row")]
        most = np.full_like(places[0], majority(_labels(rows), count))
        self.prior.copy_(torch.from_numpy(np.stack([*places, most])))
        say(f"{len(rows):,} labelled patches of {len(self.taught['sections']):,} sections were learned")

    def config(self) -> dict[str, Any]:
        """Plain data that, with the recipe, rebuild this model's shape."""
        own = {"encoder": self.layers.encoder, "width": self.layers.width, "dice": self.layers.dice}
        return {
            "system": "patches", "features": self.encoder.width, "layers": own, "classes": list(self.classes),
            "keeps_norms": self.keeps_norms, "upright": self.upright, "taught": self.taught,
        }  # fmt: skip


def build(recipe: Recipe, samples: PatchSamples) -> Layered:
    """The model of a recipe that asks for layers.

    Raises
    ------
    Usage
        A split by blocks, which would cut sections in two.
    Refused
        No section has layers.
    """
    assert isinstance(recipe.tune, Layers)
    if recipe.split.by == "block":
        raise Usage(
            "layers are judged on whole sections or brains.", found='split.by = "block".',
            do='set split.by = "section" or "brain".',
        )  # fmt: skip
    return Layered(recipe, recipe.tune, LayerTruth(samples).classes)


def rebuild(recipe: Recipe, config: Mapping[str, Any]) -> Layered:
    """The model of a trained run, before its weights are put back."""
    if "layers" not in config:
        raise Refused("weights should be of a model of layers.", found=f"{', '.join(config)}.")
    model = Layered(recipe, Layers(**config["layers"]), config["classes"])
    if config["upright"] != model.upright:
        raise Refused(
            f"patches should {'' if config['upright'] else 'not '}stand pia up, as those that were learned from.",
            found=f'samples.where = "{recipe.samples.where}".', cause="a run derived with another samples.where.",
            do="leave samples.where as it was trained.",
        )  # fmt: skip
    model.keeps_norms, model.taught = bool(config["keeps_norms"]), dict(config["taught"])
    return model


def _labels(rows: LayerRows) -> Iterator[NDArray[np.uint8]]:
    """Labels that were learned, a part at a time."""
    return (rows.truth.read(rows.rows[k : k + _READ]) for k in range(0, len(rows.rows), _READ))


def soft_dice(logits: Tensor, truth: Tensor) -> Tensor:
    r"""One minus the mean Dice overlap of the classes that occur in the truth.

    .. math:: 1 - \frac{1}{|P|} \sum_{k \in P} \frac{2 \sum_i p_{ik} g_{ik}}{\sum_i p_{ik} + \sum_i g_{ik}}

    Milletari et al. (2016) with plain sums in place of their squares, over all known pixels of the batch together.

    Parameters
    ----------
    logits : (B, K, H, W) float32
    truth : (B, H, W) uint8
        `UNLABELLED` takes no part.

    Returns
    -------
    Tensor
        Scalar; 0 where nothing is known.
    """
    known = (truth != UNLABELLED)[:, None]
    probability = logits.softmax(1) * known
    code = torch.where(truth == UNLABELLED, 0, truth).long()[:, None]
    true = torch.zeros_like(probability).scatter_(1, code, 1.0) * known
    axes = (0, 2, 3)
    both, told, are = ((a).sum(axes) for a in (probability * true, probability, true))
    here = are > 0
    dice = 2 * both / (told + are).clamp_min(1e-6)
    return ((1 - dice) * here).sum() / here.sum().clamp_min(1)


def answers(
    samples: PatchSamples, rows: NDArray[np.int64], predict: Predict, rivals: Mapping[str, Predict] | None = None
) -> Iterator[dict[str, Any]]:
    """Told and true layers of held-out patches, a part of a section at a time.

    Parameters
    ----------
    samples : PatchSamples
        All of them.
    rows : ndarray (n,) int64
        Patches to judge; those without layers are left out.
    predict : callable
        The model's answer, such as `Layered.tell`.
    rivals : mapping of str to callable, optional
        Other answers to the same.

    Yields
    ------
    dict
        The fields of `brodmann.tasks.layers.Segmented`.
    """
    truth, places, patch = LayerTruth(samples), samples.places, samples.recipe.samples
    rows = np.sort(rows[np.isin(rows, truth.rows)])
    section = places["section"].astype(str).to_numpy(object)
    subject = places["subject"].astype(str).to_numpy(object)
    for name in dict.fromkeys(section[rows].tolist()):
        mine = rows[section[rows] == name]
        for start in range(0, len(mine), _READ):
            some = mine[start : start + _READ]
            batch = samples.read(some)
            yield {
                "subject": str(subject[some[0]]),
                "section": name,
                "ids": places["id"].to_numpy(object)[some],
                "predicted": predict(batch),
                "truth": truth.read(some),
                "pixel_um": patch.pixel_um,
                "rivals": {rival: answer(batch) for rival, answer in (rivals or {}).items()},
                "upright": patch.upright and patch.where != "grid",
            }
