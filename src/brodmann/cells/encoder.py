"""The tile network: every cell of a piece of tissue attends to its neighbours, nearer ones counted differently.

A pre-norm transformer (Vaswani et al. 2017; Xiong et al. 2020) on the neighbour graph, with one learned bias per head
and class of distance, shared by all layers (as Raffel et al. 2020 do for words). Legend: n cells, d width, H heads,
b blocks, Q cells of a block, K keys of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brodmann.cells.attention import Near, attend
from brodmann.cells.blocks import BINS, NOBODY, QUERIES
from brodmann.errors import Usage

_TOGETHER = 16
_CELLS, _ROWS = 1024, 256
"""Products are of so many rows or multiples: oneDNN keeps code and memory for every size that it has seen."""
_operators: Any = torch.ops.aten


class _Bias(torch.autograd.Function):
    """Bias (H, b, Q, K) from a table (BINS, H); its gradient visits neighbours only, an eighth of the entries."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, bins: Tensor, edge: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(bins, edge)
        full = table.new_full((table.shape[1], NOBODY + 1), -torch.inf)
        full[:, :BINS] = table.T
        return full.index_select(1, bins.reshape(-1).int()).view(-1, *bins.shape).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        bins, edge = ctx.saved_tensors
        grad = cast("Tensor", grads[0]).flatten(1).index_select(1, edge).float()
        which = bins.reshape(-1).index_select(0, edge).long()
        return torch.stack([torch.bincount(which, one, minlength=BINS) for one in grad], 1), None, None, None


class _Attend(torch.autograd.Function):
    """Attention within blocks, some blocks at a time so that their scores stay in the processor's cache.

    Written out because autograd would keep and copy the gathered keys of every block.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key_value: Tensor, bias: Tensor, keys: Tensor) -> Tensor:
        out = torch.zeros_like(query)
        chances: list[Tensor] = []
        for part in _parts(keys):
            q, k, v = _gathered(query, key_value, keys, part, heads=len(bias))
            # made in two steps: a fused product copies the bias first
            chance = torch.bmm(q, k.transpose(1, 2)).add_(bias[:, part].flatten(0, 1)).softmax(-1)
            _scatter(torch.bmm(chance, v), out, part, heads=len(bias))
            if any(ctx.needs_input_grad):
                chances.append(chance)
        ctx.save_for_backward(query, key_value, keys, *chances)
        ctx.heads = len(bias)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key_value, keys, *chances = ctx.saved_tensors
        grad, heads = cast("Tensor", grads[0]), ctx.heads
        (b, most), d = keys.shape, query.shape[1]
        of_query = torch.zeros_like(query)
        of_bias = query.new_empty(heads, b, QUERIES, most)
        of_rows = query.new_empty(b, most, 2, heads, d // heads)
        for part, chance in zip(_parts(keys), chances, strict=True):
            q, k, v = _gathered(query, key_value, keys, part, heads=heads)
            g = _blocked(grad, part, heads=heads)
            score = _operators._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), chance, -1, chance.dtype)
            _scatter(torch.bmm(score, k), of_query, part, heads=heads)
            shape = (heads, part.stop - part.start, most, d // heads)
            of_rows[part, :, 0] = torch.bmm(score.transpose(1, 2), q).view(shape).permute(1, 2, 0, 3)
            of_rows[part, :, 1] = torch.bmm(chance.transpose(1, 2), g).view(shape).permute(1, 2, 0, 3)
            of_bias[:, part] = score.view(heads, -1, QUERIES, most)
        # an embedding's gradient is summed faster than that of an index
        of_keys = _operators.embedding_dense_backward(
            of_rows.view(b, most, 2 * d), keys, num_weights=len(key_value), padding_idx=-1, scale_grad_by_freq=False
        )
        return of_query, of_keys, of_bias, None


@dataclass(frozen=True, eq=False)
class Blocks:
    """Who attends to whom on a device: dense blocks (b, K) of keys, and what distances add to scores (H, b, Q, K)."""

    keys: Tensor
    bias: Tensor

    def attended(self, query: nn.Linear, key_value: Tensor, seen: Tensor, rows: Tensor | None) -> Tensor:
        """What ``rows`` (m,) see, or all cells: (m, d). Blocks hold all cells, so all are computed."""
        asked = query(seen) * _scale(seen, self.bias.shape[0])
        bias = self.bias.to(asked.dtype)
        mixed = cast("Tensor", cast("Any", _Attend).apply(asked, key_value, bias, self.keys))
        return mixed if rows is None else mixed.index_select(0, rows)


@dataclass(frozen=True, eq=False)
class Edges:
    """The same on processors: a graph of neighbours, and what their distances add to scores (BINS, H)."""

    graph: Near
    table: Tensor

    def attended(self, query: nn.Linear, key_value: Tensor, seen: Tensor, rows: Tensor | None) -> Tensor:
        """What ``rows`` (m,) see, or all cells: (m, d)."""
        held = len(self.graph.start) - 1
        asked = query(seen if rows is None else seen.index_select(0, rows)) * _scale(seen, self.table.shape[1])
        some = torch.arange(held) if rows is None else rows
        found = attend(asked[: len(some)].float(), key_value.float(), self.table.float(), self.graph, some)
        # cells beyond the last are there for the size of products
        return F.pad(found, (0, 0, 0, len(asked) - len(some)))


def _scale(x: Tensor, heads: int) -> float:
    return (x.shape[1] // heads) ** -0.5


def _parts(keys: Tensor) -> list[slice]:
    """Blocks that are computed together: few on a processor with caches, all on a device with threads to fill."""
    step = _TOGETHER if keys.device.type == "cpu" else max(len(keys), 1)
    return [slice(at, min(at + step, len(keys))) for at in range(0, len(keys), step)]


def _gathered(query: Tensor, key_value: Tensor, keys: Tensor, part: slice, *, heads: int) -> tuple[Tensor, ...]:
    """Queries (H c, Q, w), keys and values (H c, K, w) of c blocks."""
    found = key_value.index_select(0, keys[part].reshape(-1))
    found = found.view(part.stop - part.start, -1, 2, heads, query.shape[1] // heads).permute(2, 3, 0, 1, 4)
    k, v = found.flatten(1, 2)
    return _blocked(query, part, heads=heads), k, v


def _blocked(x: Tensor, part: slice, *, heads: int) -> Tensor:
    """Rows (n, d) of c blocks as (H c, Q, w); zeros beyond the last cell."""
    here = x[part.start * QUERIES : part.stop * QUERIES]
    here = F.pad(here, (0, 0, 0, (part.stop - part.start) * QUERIES - len(here)))
    return here.view(-1, QUERIES, heads, x.shape[1] // heads).permute(2, 0, 1, 3).flatten(0, 1)


def _scatter(found: Tensor, out: Tensor, part: slice, *, heads: int) -> None:
    """Write (H c, Q, w) into the rows (n, d) of c blocks."""
    here = out[part.start * QUERIES : part.stop * QUERIES]
    rows = found.view(heads, -1, found.shape[-1]).transpose(0, 1)[: len(here)]
    here.view(len(here), heads, -1).copy_(rows)


class Layer(nn.Module):
    """Attention among neighbours, then two dense layers; both on normalised tokens, both added to what they saw."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        # no bias: a bias of keys changes no softmax
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.dense = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        for last in (self.out, cast("nn.Linear", self.dense[3])):
            nn.init.normal_(last.weight, std=0.5 / width**0.5)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, around: Blocks | Edges, rows: Tensor | None) -> Tensor:
        """Tokens (n, d), or (m, d) of ``rows`` (m,) only.

        Parameters
        ----------
        x : Tensor (n, d)
        around : Blocks or Edges
            Who attends to whom, and what distances add to scores.
        rows : Tensor (m,) int64, optional
            Cells whose token is wanted.
        """
        seen = self.norm(x)
        mixed = around.attended(self.query, self.key_value(seen), seen, rows)
        if rows is not None:
            x = x.index_select(0, rows)
        x = x + self.out(mixed)
        return x + self.dense(x)


class TileNetwork(nn.Module):
    """Tokens of cells from their own descriptions and from those of their neighbours.

    Parameters
    ----------
    inputs : int
        Numbers that describe a cell.
    width, layers, head_width : int
        d, number of layers, width of a head.
    types : int
        Cell types, or 0; one more stands for unknown.

    Raises
    ------
    Usage
        If heads do not fill the width.
    """

    def __init__(self, *, inputs: int, width: int, layers: int, head_width: int, types: int = 0) -> None:
        super().__init__()
        if width % head_width:
            raise Usage(
                "encoder.width should be a multiple of encoder.head_width.",
                found=f"{width} and {head_width}.",
                do=f"use a width of {width // head_width * head_width or head_width}.",
            )
        heads = width // head_width
        self.enter = nn.Linear(inputs, width)
        self.kind = nn.Embedding(types + 1, width) if types else None
        self.hidden = nn.Parameter(torch.randn(width))
        self.bias = nn.Parameter(torch.zeros(BINS, heads))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def around(self, batch: Mapping[str, Tensor], *, precision: str) -> Blocks | Edges:
        """Who attends to whom in a batch: `brodmann.cells.blocks.Blocks`, or `brodmann.cells.attention.Near`.

        Parameters
        ----------
        batch : mapping
            With ``keys``, ``bins`` and ``edge``, or ``start``, ``neighbour`` and ``far``.
        precision : {"bf16", "fp32"}
        """
        if "start" in batch:
            return Edges(Near(batch["start"], batch["neighbour"], batch["far"]), self.bias)
        dtype = torch.bfloat16 if precision == "bf16" else self.bias.dtype
        bias = cast("Any", _Bias).apply(self.bias, batch["bins"], batch["edge"], dtype)
        return Blocks(batch["keys"], bias)

    def forward(
        self, described: Tensor, hidden: Tensor, rows: Tensor, around: Blocks | Edges, types: Tensor | None = None
    ) -> Tensor:
        """Tokens (m, d) of ``rows``.

        A hidden cell enters as the same learned token wherever it lies: nothing of it is in any token, in any layer,
        so neither its neighbours nor it itself can tell it what it is.

        Parameters
        ----------
        described : Tensor (n, inputs)
            What is known of each cell.
        hidden : Tensor (n,) bool
            Cells that enter as the learned token.
        rows : Tensor (m,) int64
            Cells whose token is wanted: the last layer is computed for them alone.
        around : Blocks or Edges
            From `around`.
        types : Tensor (n,) int64, optional
        """
        wanted = len(rows)
        described, rows, hidden = filled(described, _CELLS), filled(rows, _ROWS), filled(hidden, _CELLS)
        x = self.enter(described)
        if self.kind is not None and types is not None:
            x = x + self.kind(filled(types, _CELLS))
        x = torch.where(hidden[:, None], self.hidden.to(x.dtype), x)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            x = layer(x, around, rows if number == last else None)
        return self.norm(x)[:wanted]


def filled(x: Tensor, step: int = _ROWS) -> Tensor:
    """Rows of zeros added up to the next multiple of ``step``."""
    more = -len(x) % step
    return x if not more else torch.cat([x, x.new_zeros(more, *x.shape[1:])])
