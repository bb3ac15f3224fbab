"""The published form of CellTransformer: the cells around a cell, as a set, say what that cell expresses.

Lee et al., Nat Commun 16 (2025), s41467-025-64259-4. A neighbour becomes a token (its type and its expression), a
set transformer lets the tokens of a neighbourhood see each other, a learned query pools them, and a decoder predicts
the counts of the cell in the middle from the pooled token and its type.

Legend: R reference cells, U cells read (the union of their neighbourhoods), L tokens of a neighbourhood, D width,
H heads, G genes.

The same function as the published network (`brodmann.cells.published` loads its weights), computed otherwise: what
depends on one cell alone (expression network, queries, keys and values of the first layer) is computed once per cell
and not once per neighbourhood; neighbourhoods of like size are padded together instead of masked out of one long
sequence; the pool, whose query is one learned vector, needs no key or value per token; attention between the two
tokens of the decoder is one sigmoid. What differs on purpose: the neighbours are the nearest within a radius, not a
random choice from a box; counts are raw, and a cell's library size scales the predicted mean; the default feature is
the pooled token before the decoder, which knows nothing of the cell's own type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from brodmann import compute
from brodmann.cells import objective
from brodmann.cells.panel import same_panel
from brodmann.cells.recipe import Neighbourhood, Recipe
from brodmann.cells.source import Source
from brodmann.cells.surroundings import batch as batch
from brodmann.cells.surroundings import draw as draw
from brodmann.errors import Refused, Usage
from brodmann.progress import Say
from brodmann.samples import Batch, Loss

if TYPE_CHECKING:
    from brodmann.cells.samples import CellSamples

_TOGETHER = 32  # neighbourhoods computed at once: their activations stay in a CPU's cache
_SLACK = 1.15  # a group's longest neighbourhood over its shortest: at most so much padding
_LEAST = 1e-12  # keeps logarithms finite


class Layer(nn.Module):
    """Transformer layer, norms after the sums, with one more key that is zero: a token may attend to nothing.

    Parameters
    ----------
    width, heads, feed_forward : int
        ``width`` is a multiple of ``heads``.
    """

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_attended = nn.LayerNorm(width)
        self.up = nn.Linear(width, feed_forward)
        self.down = nn.Linear(feed_forward, width)
        self.norm_fed = nn.LayerNorm(width)
        for linear in (self.qkv, self.out, self.up, self.down):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, absent: Tensor | None, qkv: Tensor | None = None) -> Tensor:
        """Tokens ``(n, L, D)`` after one layer.

        Parameters
        ----------
        x : (n, L, D)
        absent : (n, 1, 1, L + 1), optional
            Added to the scores of the keys: minus infinity where a key is padding; the last key is the zero.
        qkv : (n, L, 3 D), optional
            Queries, keys and values of ``x`` where they are known already.
        """
        n, length, width = x.shape
        projected: Tensor = self.qkv(x) if qkv is None else qkv
        q, k, v = projected.view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # plain products: at 30-50 keys they are four times faster in bf16 on CPUs than torch's fused backward
        scores = F.pad((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), (0, 1))
        weights = (scores if absent is None else scores + absent).softmax(-1)[..., :-1]
        return self._rest(x, (weights @ v).transpose(1, 2).reshape(n, length, width))

    def pair(self, x: Tensor) -> Tensor:
        """Two tokens ``(n, 2, D)``, each of which sees only the other and the zero key.

        Softmax over a score s and 0 is a sigmoid of s, and the zero key's value is zero.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        score = (q * k.flip(1)).sum(-1, keepdim=True) * q.shape[-1] ** -0.5
        return self._rest(x, (score.sigmoid() * v.flip(1)).flatten(-2))

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.norm_attended(x + self.out(attended))
        return self.norm_fed(x + self.down(F.gelu(self.up(x))))


class Pool(nn.Module):
    """Attention of one learned query over a neighbourhood's cells, a learned key and the zero key."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.norm_query, self.norm_key = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm_value, self.norm_pooled = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.extra_key = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, width))[0])
        self.extra_value = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, width))[0])
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, absent: Tensor | None) -> Tensor:
        """Pooled token ``(n, D)`` of cells ``x`` (n, L, D); ``absent`` (n, 1, L) is added to their scores.

        The query is the same everywhere, so it is carried through the key matrix once: a cell's score is one product
        with its normalised token. Values are summed before, not after, their matrix, which is linear.
        """
        width, heads = x.shape[-1], self.heads
        w_query, w_key, w_value = self.qkv.view(3, heads, width // heads, width)
        query = (w_query @ self.norm_query(self.query)) * (width // heads) ** -0.5
        probe = torch.einsum("hk,hkd->hd", query, w_key)
        unit = F.layer_norm(x, (width,))
        scores = (probe * self.norm_key.weight) @ unit.transpose(1, 2) + (probe @ self.norm_key.bias)[:, None]
        scores = scores if absent is None else scores + absent
        extra = (query * self.extra_key.view(heads, -1)).sum(-1)
        others = torch.stack([extra, torch.zeros_like(extra)], -1).expand(len(x), heads, 2)
        weights = torch.cat([scores.to(x), others.to(x)], -1).softmax(-1)
        known = weights[..., :-2]
        mean = (known @ unit) * self.norm_value.weight + known.sum(-1, keepdim=True) * self.norm_value.bias
        value = torch.einsum("nhd,hkd->nhk", mean, w_value)
        value = value + weights[..., -2, None] * self.extra_value.view(heads, -1)
        return self.norm_pooled(self.out(value.flatten(1)))


class NeighbourhoodModel(nn.Module):
    """CellTransformer in its published form.

    Parameters
    ----------
    recipe : Recipe
        With ``encoder.kind = "neighbourhood"``; weights are drawn from ``recipe.seed``.
    genes : sequence of str
        The panel, in the order of the columns of counts.
    types : sequence of str
        Cell types that describe a cell beside its counts; without any, all cells are of one unnamed type.

    Raises
    ------
    Usage
        A width that does not divide into two halves and into heads, or an objective of the other form.
    """

    def __init__(self, recipe: Recipe, genes: Sequence[str], types: Sequence[str] = ()) -> None:
        super().__init__()
        encoder = recipe.encoder
        if not isinstance(encoder, Neighbourhood):
            raise Usage('this form needs encoder.kind = "neighbourhood".', found=f'"{encoder.kind}".')
        width, heads = encoder.width, encoder.heads
        if width % 2 or width % heads:
            raise Usage(
                "encoder.width should be even and a multiple of encoder.heads.",
                found=f"{width} and {heads}.",
                do=f"choose {max(2, width // (2 * heads)) * 2 * heads}, for example.",
            )
        if recipe.objective.contrast > 0:
            raise Usage(
                "a contrast of places is an objective of the tile form.",
                found=f"objective.contrast = {recipe.objective.contrast:g} with a neighbourhood encoder.",
                do='set objective.contrast = 0, or encoder.kind = "tile".',
            )
        self.recipe, self.settings = recipe, encoder
        self.genes, self.types = tuple(genes), tuple(types)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self._lay(encoder, len(self.genes), len(self.types) + 1)

    def _lay(self, encoder: Neighbourhood, genes: int, types: int) -> None:
        """Layers; the last type is that of cells whose type is not known."""
        width, half = encoder.width, encoder.width // 2
        layer = (width, encoder.heads, encoder.feed_forward)
        self.type_token = nn.Embedding(types, half)
        self.expression = nn.Sequential(
            nn.Linear(genes, half), nn.LayerNorm(half), nn.GELU(), nn.Linear(half, half), nn.LayerNorm(half)
        )
        self.start = nn.Parameter(torch.randn(width) * 0.1)
        self.norm_token = nn.LayerNorm(width)
        self.encoder = nn.ModuleList(Layer(*layer) for _ in range(encoder.layers))
        self.pool = Pool(width, encoder.heads)
        self.type_query = nn.Embedding(types, width)
        self.decoder = nn.ModuleList(Layer(*layer) for _ in range(encoder.decoder_layers))
        self.mean, self.dispersion = nn.Linear(width, genes), nn.Linear(width, genes)
        self.gate = nn.Linear(width, genes) if self.recipe.objective.likelihood == "zinb" else None

    def loss(self, batch: Batch) -> Loss:
        """Negative log likelihood of the reference cells' counts given their neighbours, mean over cells and genes."""
        counts = batch["counts"].to(torch.int32)[batch["reference"]]
        mean, dispersion, gate = self.predict(batch)
        if gate is None:
            found = objective.nb(counts, mean, dispersion)
        else:
            found = objective.zinb(counts, mean, dispersion, gate)
        total = -found.mean()
        return Loss(total, {self.recipe.objective.likelihood: total.detach()})

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean, dispersion and logit of zero inflation ``(R, G)`` of the reference cells, float32.

        The mean is ``library * softmax`` over genes; with the published inputs it is ``exp``, whatever the library.
        """
        query = self.decoded(batch)[:, 1].to(self.start.dtype)
        with torch.autocast(query.device.type, enabled=False):
            logit = self.mean(query)
            if self.settings.input == "library":
                mean = logit.softmax(-1) * batch["total_counts"][batch["reference"]][:, None]
            else:
                mean = logit.exp()
            gate = None if self.gate is None else self.gate(query)
            return mean + _LEAST, self.dispersion(query).exp() + _LEAST, gate

    def features(self, batch: Batch) -> Tensor:
        """``(R, D)`` float32: pooled token of each reference cell, before or after the decoder as the recipe asks."""
        if self.settings.feature == "decoded":
            return self.decoded(batch)[:, 0].float()
        with compute.autocast(batch["counts"].device, self.recipe.fit.precision):
            return self._pooled(batch).float()

    def decoded(self, batch: Batch) -> Tensor:
        """``(R, 2, D)``: pooled token and query, each after all layers of the decoder."""
        with compute.autocast(batch["counts"].device, self.recipe.fit.precision):
            x = torch.stack([self._pooled(batch), self.type_query(batch["type"][batch["reference"]])], 1)
            for layer in self.decoder:
                x = cast(Layer, layer).pair(x)
            return x

    def _tokens(self, batch: Batch) -> Tensor:
        """``(U + 1, D)``: a token per cell, and the start token of every neighbourhood."""
        counts = batch["counts"].to(self.start.dtype)
        if self.settings.input == "library":
            scale = len(self.genes) / batch["total_counts"].clamp_min(1)
            entered = torch.log1p(counts * scale[:, None])
        else:
            entered = torch.log1p(counts) if self.settings.input == "log1p" else torch.log2(1 + counts)
        cells = torch.cat([self.type_token(batch["type"]), self.expression(entered).to(self.start)], 1)
        return self.norm_token(torch.cat([cells, self.start[None]]))

    def _pooled(self, batch: Batch) -> Tensor:
        """``(R, D)``: pooled tokens, in the order of the batch."""
        tokens = self._tokens(batch)
        first = cast(Layer, self.encoder[0]).qkv(tokens)
        size, order = torch.diff(batch["start"]).sort(stable=True)
        pooled: list[Tensor] = []
        for begin, end in _groups(size.tolist()):
            slot, absent = _slots(batch, order[begin:end], size[begin:end], start=len(tokens) - 1)
            x, qkv = F.embedding(slot, tokens), F.embedding(slot, first)
            bias = None if absent is None else F.pad(absent, (1, 1))[:, None, None]
            for number, layer in enumerate(self.encoder):
                x = layer(x, bias, None if number else qkv)
            pooled.append(self.pool(x[:, 1:], None if absent is None else absent[:, None]).to(tokens))
        return torch.cat([*pooled, tokens[:0]])[torch.argsort(order)]

    def suit(self, samples: CellSamples, say: Say | None = None) -> CellSamples:
        """Samples with this model's genes and types, matched by name; genes that the data lack count as zero.

        Raises
        ------
        Refused
            If the data lack too many of the genes.
        """
        return samples.aligned(self.genes, self.types)

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """Features ``(m, D)`` float32 of what suited samples read; the model is left as it was found."""
        with compute.resting(self) as where:
            return self.features({name: value.to(where) for name, value in batch.items()}).cpu().numpy()

    def config(self) -> dict[str, Any]:
        """Plain data that, with the recipe, rebuild this model: panel, types, width of the features."""
        return {
            "system": "cells",
            "form": "neighbourhood",
            "genes": list(self.genes),
            "types": list(self.types),
            "features": self.settings.width,
        }

    def begin(self, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        """What it takes of a trained run: everything, if that knows the same genes and types."""
        same_panel(config, self.genes, self.types)
        return dict(state)


def _groups(size: list[int]) -> list[tuple[int, int]]:
    """Ranges of ascending sizes that are computed together: few enough, and alike enough to be padded."""
    bounds = [0]
    for at in range(1, len(size)):
        if at - bounds[-1] >= _TOGETHER or size[at] > size[bounds[-1]] * _SLACK + 2:
            bounds.append(at)
    return list(zip(bounds, [*bounds[1:], len(size)], strict=True)) if size else []


def _slots(batch: Batch, rows: Tensor, size: Tensor, *, start: int) -> tuple[Tensor, Tensor | None]:
    """Cells of some neighbourhoods, padded to the largest.

    Returns
    -------
    slot : (n, 1 + longest) int64
        Rows of the tokens: the start token, then the neighbours.
    absent : (n, longest) float32 or None
        Minus infinity where there is no neighbour; None where nothing is padded.
    """
    longest = int(size[-1])
    column = torch.arange(longest, device=size.device)
    here = column < size[:, None]
    edge = (batch["start"][rows][:, None] + column).where(here, 0)
    slot = batch["neighbour"][edge].where(here, start) if longest else here.long()
    alike = int(size[0]) == longest
    absent = None if alike else torch.zeros(here.shape, device=size.device).masked_fill(~here, -torch.inf)
    return F.pad(slot, (1, 0), value=start), absent


def build(recipe: Recipe, source: Source) -> NeighbourhoodModel:
    """The recipe's model for the panel, and the types if the recipe wants them, of a source.

    Raises
    ------
    Refused
        Data without counts, or types asked for where there are none.
    """
    types = source.type_names if recipe.samples.types else ()
    if not source.panel.genes:
        raise Refused(
            "a network should have counts to learn from.",
            found=f"{source.name}, which holds cell types only.",
            do="use the features that need no training, such as the composition of types.",
        )
    if recipe.samples.types and source.types is None:
        raise Refused(
            "samples.types = true needs a cell type for each cell.",
            found="data without types.",
            do="set samples.types = false, or name the column of the types.",
        )
    return NeighbourhoodModel(recipe, source.panel.genes, types)


def rebuild(recipe: Recipe, config: Mapping[str, Any]) -> NeighbourhoodModel:
    """The model of a trained run, before its weights are put back."""
    model = NeighbourhoodModel(recipe, config["genes"], config["types"])
    if model.settings.width != config.get("features"):
        raise Refused(
            f"weights should have {model.settings.width} features, as the recipe says.",
            found=f"{config.get('features')}.",
        )
    return model
