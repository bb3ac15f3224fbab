"""Which pixels of a patch decide: what they add to the answer of a question that is asked of its feature.

B batch, C channels, H height, W width, F feature width, R references, T tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from brodmann import compute
from brodmann.errors import Usage
from brodmann.patches.encoder import Encoder

Method = Literal["gradients", "layercam", "rollout"]

_PASS_PX = 600_000
"""Pixels of one pass through the encoder: bounds memory, whatever the size of patches and batch."""


@dataclass(frozen=True, eq=False)
class Question:
    """A number that is read off a feature f.

    Parameters
    ----------
    name : str
        In words, for figures.
    direction : (F,) float32
        ``along``: the number is ``direction . f``, such as the logit of an area minus the mean of the others'.
        ``alike``: it is the cosine of ``f - centre`` and ``direction - centre``, the similarity to another place.
    kind : {"along", "alike"}
    centre : (F,) float32, optional
        Mean feature, for ``alike``; without it all patches look alike in what all of them share.
    """

    name: str
    direction: NDArray[np.float32]
    kind: Literal["along", "alike"] = "along"
    centre: NDArray[np.float32] | None = None

    def ask(self, feature: Tensor) -> Tensor:
        """Answers (B,) for features (B, F)."""
        towards = torch.as_tensor(self.direction, device=feature.device)
        if self.kind == "along":
            return feature @ towards
        if self.centre is not None:
            middle = torch.as_tensor(self.centre, device=feature.device)
            feature, towards = feature - middle, towards - middle
        return F.cosine_similarity(feature, towards[None], dim=1)


def attribute(
    encoder: Encoder,
    image: Tensor,
    question: Question,
    *,
    method: Method = "gradients",
    references: Tensor | None = None,
    steps: int = 32,
    stage: int = 0,
) -> NDArray[np.float32]:
    """How much each pixel of each patch decides the answer to a question.

    ``gradients``: integrated gradients (Sundararajan et al. 2017, eq. 1): gradients of the answer, averaged along
    the straight line from a reference to the patch (midpoint rule), times the way. They are signed, and sum up to
    the answer for the patch minus that for the reference. With several references their maps are averaged
    (expected gradients, Erion et al. 2021): each then stands for what other patches show in this place.
    ``layercam``: the maps of a stage of a convolutional encoder, each weighted pixel by pixel with its own positive
    gradient, summed and cut at 0 (Jiang et al. 2021, eqs. 5-7). ``rollout``: attention of a vision transformer,
    followed through its layers (Abnar and Zuidema 2020); it does not depend on the question.

    Parameters
    ----------
    encoder : Encoder
        Left as found; parameters get no gradients.
    image : (B, C, H, W) float32
        As the encoder sees it: standardised density.
    question : Question
    method : {"gradients", "layercam", "rollout"}
    references : (R, C, H, W) float32, optional
        For ``gradients``; by default one of 0 everywhere, the mean density of a patch.
    steps : int
        For ``gradients``: points on each line.
    stage : int
        For ``layercam``: 0 is the finest stage.

    Returns
    -------
    (B, H, W) float32
        Summed over channels; the same input gives the same numbers.

    Raises
    ------
    Usage
        The method does not fit the encoder, or sizes do not fit.
    """
    size = image.shape[-1]
    if image.ndim != 4 or not len(image):
        raise Usage("patches should be (B, C, H, W), at least one.", found=f"{tuple(image.shape)}.")
    if steps < 1:
        raise Usage("integrated gradients need at least one step.", found=f"steps = {steps}.")
    _fits(encoder, method)
    towards = references if references is not None else torch.zeros_like(image[:1])
    if towards.shape[1:] != image.shape[1:] or not len(towards):
        raise Usage("references should be as large as the patches.", found=f"{tuple(towards.shape)}.")
    block = max(1, _PASS_PX // (image.shape[-2] * size))
    found: list[NDArray[np.float32]] = []
    with compute.resting(encoder) as where, torch.enable_grad():
        for start in range(0, len(image), block):
            # channels last: 1.5 times faster convolutions on CPUs
            part = image[start : start + block].to(where).contiguous(memory_format=torch.channels_last)
            if method == "gradients":
                made = _gradients(encoder, part, question, towards.to(where), steps)
            elif method == "layercam":
                made = _layercam(encoder, part, question, stage)
            else:
                made = _followed(encoder, part)
            found.append(made.detach().float().cpu().numpy())
    return np.concatenate(found)


def rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Attention followed through all layers: how much of each input token is in each output token.

    Each layer's attention is averaged over heads and mixed with the residual path, ``0.5 A + 0.5 I``; layers are
    multiplied, the first rightmost (Abnar and Zuidema 2020, eq. 1).

    Parameters
    ----------
    attentions : sequence of (B, heads, T, T)
        First layer first; each row sums to 1.

    Returns
    -------
    (B, T, T)
        Row: output token, column: input token. Rows sum to 1.
    """
    through: Tensor | None = None
    for layer in attentions:
        mean = layer.mean(dim=1)
        mixed = 0.5 * mean + 0.5 * torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        through = mixed if through is None else mixed @ through
    if through is None:
        raise Usage("attention should come from at least one layer.", found="none.")
    return through


def _fits(encoder: Encoder, method: Method) -> None:
    needs_map = {"gradients": None, "layercam": True, "rollout": False}
    if method not in needs_map:
        raise Usage(f"'{method}' should be a way of attribution.", found=f"{', '.join(needs_map)} are known.")
    if needs_map[method] not in (None, encoder.is_map):
        raise Usage(
            "layercam reads the maps of a convolutional encoder, rollout the attention of a vision transformer.",
            found=f"{method} of {type(encoder.backbone).__name__}.",
            do='take method="gradients", which fits every encoder.',
        )


def _gradients(encoder: Encoder, image: Tensor, question: Question, references: Tensor, steps: int) -> Tensor:
    total = torch.zeros_like(image)
    for reference in references:
        way = image - reference
        slope = torch.zeros_like(image)
        for k in range(steps):
            at = (reference + (k + 0.5) / steps * way).detach().requires_grad_()
            slope += torch.autograd.grad(question.ask(encoder(at).float()).sum(), at)[0]
        total += way * slope / steps
    return (total / len(references)).sum(dim=1)


def _layercam(encoder: Encoder, image: Tensor, question: Question, stage: int) -> Tensor:
    stages = cast("nn.ModuleList", cast(Any, encoder.backbone).encoder.stages)
    if not 0 <= stage < len(stages):
        raise Usage(f"stage should be between 0 and {len(stages) - 1}.", found=f"{stage}.")
    held: list[Tensor] = []

    def keep(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        del module, given
        # as a leaf, so that the gradient is asked for here whatever came before
        held.append(out.detach().requires_grad_())
        return held[-1]

    hook = stages[stage].register_forward_hook(keep)
    try:
        answer = question.ask(encoder(image).float()).sum()
    finally:
        hook.remove()
    slope = torch.autograd.grad(answer, held[0])[0]
    cam = (slope.clamp_min(0) * held[0]).sum(dim=1, keepdim=True).clamp_min(0)
    return F.interpolate(cam.float(), size=image.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def _followed(encoder: Encoder, image: Tensor) -> Tensor:
    """What each input token gives to the mean of the output tokens, which is the feature; spread over its pixels."""
    backbone = cast(Any, encoder.backbone)
    with torch.no_grad(), _told(backbone):
        through = rollout(backbone(image, output_attentions=True).attentions)
    share = through[:, 1:, 1:].mean(dim=1)
    side = int(backbone.config.patch_size)
    grid = share.reshape(len(image), image.shape[-2] // side, image.shape[-1] // side)
    return grid.repeat_interleave(side, 1).repeat_interleave(side, 2) / side**2


@contextmanager
def _told(backbone: Any) -> Generator[None]:
    """Within: attention is computed in the form that also gives its weights."""
    before = backbone.config._attn_implementation
    backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        backbone.set_attn_implementation(before)
