"""Attention over a neighbour graph on processors: every cell weighs its neighbours, and nothing else is computed.

Dense blocks (`brodmann.cells.blocks`) suit devices, whose products are cheap; of their scores five in six are of
strangers. Here an edge costs two products of a head's width. Compiled for each width of a head, which unrolls them.

Legend: n cells, m asked cells, E edges of the asked cells, d width, H heads, w width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brodmann.cells.blocks import BINS

_compile: Any = numba.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
_inline: Any = numba.njit(nogil=True, fastmath=True, error_model="numpy", inline="always")
_word: Any = np.uint64  # of unsigned numbers the compiler need not ask whether they count from the end
_real: Any = np.float32
_KEY, _VALUE, _ONLY = _word(0), _word(1), _word(0)


class Near(NamedTuple):
    """Who attends to whom.

    Attributes
    ----------
    start : (n + 1,) int64
        Edges of cell ``i`` are ``start[i] : start[i + 1]``; the first is the cell itself.
    neighbour : (edges,) int32
    far : (edges,) uint8
        Class of the distance, below `blocks.BINS`.
    """

    start: Any
    neighbour: Any
    far: Any


def near(
    indptr: NDArray[np.int64], index: NDArray[np.int32], distance_um: NDArray[np.float32], *, radius_um: float
) -> Near:
    """A neighbour graph with classes of distance, as `blocks.blocks` makes them; every cell is its own neighbour."""
    start = indptr + np.arange(len(indptr))
    neighbour, far = np.empty(start[-1], np.int32), np.zeros(start[-1], np.uint8)
    _with_self(indptr, index, distance_um, np.float32((BINS - 1) / radius_um), start, neighbour, far)
    return Near(start, neighbour, far)


@_compile
def _with_self(indptr: Any, index: Any, distance: Any, scale: Any, start: Any, neighbour: Any, far: Any) -> None:
    for i in range(len(indptr) - 1):
        at = start[i]
        neighbour[at] = i
        for e in range(indptr[i], indptr[i + 1]):
            at += 1
            neighbour[at] = index[e]
            far[at] = 1 + min(int(distance[e] * scale), BINS - 2)


class _Kernels(NamedTuple):
    forward: Any
    backward: Any
    collect: Any


@lru_cache
def _kernels(head_width: int) -> _Kernels:
    """The three passes for heads of one width. Arrays of rows are (rows, 1 or 2, H, w): queries; keys beside values."""
    w = _word(head_width)
    one, two, three, four = _word(1), _word(2), _word(3), _word(4)

    @_inline
    def products(row: Any, r: Any, many: Any, side: Any, h: Any, near: Any, begin: Any, n: Any, found: Any) -> None:
        """``found[e]``: product of row ``r`` and of the row of neighbour ``e``, four at a time."""
        full = n - n % four
        for e in range(_word(0), full, four):
            i, j = _word(near[begin + e]), _word(near[begin + e + one])
            k, o = _word(near[begin + e + two]), _word(near[begin + e + three])
            a, b, c, d = _real(0), _real(0), _real(0), _real(0)
            for x in range(w):
                value = row[r, _ONLY, h, x]
                a += value * many[i, side, h, x]
                b += value * many[j, side, h, x]
                c += value * many[k, side, h, x]
                d += value * many[o, side, h, x]
            found[e], found[e + one], found[e + two], found[e + three] = a, b, c, d
        for e in range(full, n):
            i, a = _word(near[begin + e]), _real(0)
            for x in range(w):
                a += row[r, _ONLY, h, x] * many[i, side, h, x]
            found[e] = a

    @_inline
    def mix(
        weight: Any, many: Any, side: Any, h: Any, near: Any, begin: Any, n: Any, out: Any, r: Any, place: Any
    ) -> None:
        """Put the weighted sum of neighbours' rows into ``out[r, place, h]``."""
        full = n - n % four
        for x in range(w):
            out[r, place, h, x] = _real(0)
        for e in range(_word(0), full, four):
            i, j = _word(near[begin + e]), _word(near[begin + e + one])
            k, o = _word(near[begin + e + two]), _word(near[begin + e + three])
            a, b, c, d = weight[e], weight[e + one], weight[e + two], weight[e + three]
            for x in range(w):
                pair = a * many[i, side, h, x] + b * many[j, side, h, x]
                out[r, place, h, x] += pair + (c * many[k, side, h, x] + d * many[o, side, h, x])
        for e in range(full, n):
            i, a = _word(near[begin + e]), weight[e]
            for x in range(w):
                out[r, place, h, x] += a * many[i, side, h, x]

    @_compile
    def forward(
        query: Any, key_value: Any, table: Any, rows: Any, start: Any, neighbour: Any, far: Any, at: Any, first: int,
        last: int, longest: int, chance: Any, out: Any,
    ) -> None:  # fmt: skip
        score = np.empty(longest, np.float32)
        keep = len(chance) > 0
        for index in range(first, last):
            r = _word(index)
            begin = _word(start[rows[r]])
            n = _word(start[rows[r] + 1]) - begin
            for head in range(query.shape[2]):
                h = _word(head)
                products(query, r, key_value, _KEY, h, neighbour, begin, n, score)
                top = _real(-1e30)
                for e in range(n):
                    score[e] += table[_word(far[begin + e]), h]
                    top = max(top, score[e])
                total = _real(0)
                for e in range(n):
                    # exp(t) is p(t / 256)^256 with the Taylor polynomial of degree 4: eight at once, right to 7e-6
                    t = max(score[e] - top, _real(-20)) * _real(1 / 256)
                    p = _real(1) + t * (_real(1) + t * (_real(1 / 2) + t * (_real(1 / 6) + t * _real(1 / 24))))
                    p *= p
                    p *= p
                    p *= p
                    p *= p
                    p *= p
                    p *= p
                    p *= p
                    p *= p
                    score[e] = p
                    total += p
                for e in range(n):
                    score[e] /= total
                    if keep:
                        chance[_word(at[r]) + e, h] = score[e]
                mix(score, key_value, _VALUE, h, neighbour, begin, n, out, r, _ONLY)

    @_compile
    def backward(
        key_value: Any, grad: Any, rows: Any, start: Any, neighbour: Any, far: Any, at: Any, first: int, last: int,
        longest: int, chance: Any, of_score: Any, of_query: Any, of_table: Any,
    ) -> None:  # fmt: skip
        score = np.empty(longest, np.float32)
        for index in range(first, last):
            r = _word(index)
            begin, kept = _word(start[rows[r]]), _word(at[r])
            n = _word(start[rows[r] + 1]) - begin
            for head in range(grad.shape[2]):
                h = _word(head)
                products(grad, r, key_value, _VALUE, h, neighbour, begin, n, score)
                mean = _real(0)
                for e in range(n):
                    mean += score[e] * chance[kept + e, h]
                for e in range(n):
                    score[e] = chance[kept + e, h] * (score[e] - mean)
                    of_score[kept + e, h] = score[e]
                for e in range(n):
                    of_table[_word(far[begin + e]), h] += score[e]
                mix(score, key_value, _KEY, h, neighbour, begin, n, of_query, r, _ONLY)

    @_compile
    def collect(
        query: Any, grad: Any, chance: Any, of_score: Any, start: Any, asker: Any, edge: Any, first: int, last: int,
        longest: int, of_key_value: Any,
    ) -> None:  # fmt: skip
        """What each cell owes to all who looked at it, so that no two threads write to one row."""
        weight = np.empty(longest, np.float32)
        for index in range(first, last):
            j = _word(index)
            begin = _word(start[j])
            n = _word(start[j + one]) - begin
            for head in range(query.shape[2]):
                h = _word(head)
                for e in range(n):
                    weight[e] = of_score[_word(edge[begin + e]), h]
                mix(weight, query, _ONLY, h, asker, begin, n, of_key_value, j, _KEY)
                for e in range(n):
                    weight[e] = chance[_word(edge[begin + e]), h]
                mix(weight, grad, _ONLY, h, asker, begin, n, of_key_value, j, _VALUE)

    return _Kernels(forward, backward, collect)


@_compile
def _turned(rows: Any, start: Any, neighbour: Any, cells: int) -> Any:
    """Edges by the cell that is looked at: first edge of each cell (cells + 1,), who looks, number of the edge."""
    first = np.zeros(cells + 1, np.int64)
    for r in range(len(rows)):
        for e in range(start[rows[r]], start[rows[r] + 1]):
            first[neighbour[e] + 1] += 1
    for j in range(cells):
        first[j + 1] += first[j]
    place = first[:-1].copy()
    asker, edge = np.empty(first[-1], np.int32), np.empty(first[-1], np.int32)
    count = 0
    for r in range(len(rows)):
        for e in range(start[rows[r]], start[rows[r] + 1]):
            j = neighbour[e]
            asker[place[j]], edge[place[j]] = r, count
            place[j] += 1
            count += 1
    return first, asker, edge


class _Attend(torch.autograd.Function):
    """`attend`, and its gradient."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key_value: Tensor, table: Tensor, graph: Near, rows: Tensor) -> Tensor:
        heads, (m, d) = table.shape[1], query.shape
        around = Near(*(cast("Tensor", part).numpy() for part in graph))
        asked = rows.numpy()
        at = np.concatenate([[0], np.cumsum(around.start[asked + 1] - around.start[asked])])
        keep = any(ctx.needs_input_grad)
        chance = query.new_empty(int(at[-1]) if keep else 0, heads)
        out = query.new_empty(m, d)
        given = _rows(query, heads), _rows(key_value, heads, 2), table.detach().numpy(), asked, *around, at
        longest = int(np.diff(at).max(initial=0))
        _spread(m, lambda a, b: _kernels(d // heads).forward(*given, a, b, longest, chance.numpy(), _rows(out, heads)))
        ctx.save_for_backward(query, key_value, chance, rows)
        ctx.around, ctx.at, ctx.table = around, at, table.shape
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key_value, chance, rows = ctx.saved_tensors
        around, at, heads = cast("Near", ctx.around), ctx.at, ctx.table[1]
        kernels, asked = _kernels(query.shape[1] // heads), rows.numpy()
        grad = _rows(cast("Tensor", grads[0]).contiguous(), heads)
        of_query, of_key_value, of_score = (torch.empty_like(one) for one in (query, key_value, chance))
        given = _rows(key_value, heads, 2), grad, asked, *around, at
        found = chance.numpy(), of_score.numpy(), _rows(of_query, heads)
        tables: list[NDArray[np.float32]] = []
        longest = int(np.diff(at).max(initial=0))

        def back(a: int, b: int) -> None:
            tables.append(np.zeros(ctx.table, np.float32))
            kernels.backward(*given, a, b, longest, *found, tables[-1])

        _spread(len(asked), back)
        first, asker, edge = _turned(asked, around.start, around.neighbour, len(key_value))
        most = int(np.diff(first).max(initial=0))
        looked = _rows(query, heads), grad, *found[:2], first, asker, edge
        _spread(len(key_value), lambda a, b: kernels.collect(*looked, a, b, most, _rows(of_key_value, heads, 2)))
        return of_query, of_key_value, torch.from_numpy(np.sum(tables, axis=0, dtype=np.float32)), None, None


def attend(query: Tensor, key_value: Tensor, table: Tensor, graph: Near, rows: Tensor) -> Tensor:
    """What asked cells see of their neighbours, float32 on the CPU.

    Parameters
    ----------
    query : Tensor (m, d) float32
        Of the asked cells, scaled.
    key_value : Tensor (n, 2 d) float32
        Keys beside values.
    table : Tensor (BINS, H) float32
        What a class of distance adds to the scores of each head.
    graph : Near
        Of tensors.
    rows : Tensor (m,) int64
        The asked cells.

    Returns
    -------
    Tensor (m, d) float32
    """
    return cast("Any", _Attend).apply(query, key_value, table, graph, rows)


def _rows(x: Tensor, heads: int, sides: int = 1) -> NDArray[np.float32]:
    """(rows, d), or (rows, 2 d) of keys beside values, as (rows, sides, H, w): the same memory."""
    return x.detach().numpy().reshape(len(x), sides, heads, x.shape[1] // (sides * heads))


def _spread(count: int, work: Callable[[int, int], None]) -> None:
    """Do ``work(first, last)`` for all rows, in as many threads as torch has."""
    threads = min(torch.get_num_threads(), max(count, 1))
    bounds = [count * part // threads for part in range(threads + 1)]
    if threads == 1:
        work(0, count)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))
