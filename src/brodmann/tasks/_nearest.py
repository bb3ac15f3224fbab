"""Nearest centre of each row: products in bfloat16 say which centres may be nearest, float32 says which one is.

A bfloat16 number keeps 8 bits, so that a product of rows of length a and b is wrong by at most a b / 128 and a bit
more; every centre that might be nearest within that error is measured again, whatever their number. n rows, d columns,
k centres.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_compile: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc", "nnan"})

HALF = 3 * 2.0**-8 + 2.0**-12
"""Error of |c|^2 - 2 x.c in units of |x| |c|: twice that of the product, 2^-8 by rounded factors and 2^-9 by itself."""


class Nearest:
    """Finds the nearest of some centres, block by block, on the processor.

    Parameters
    ----------
    centres : Tensor (k, d) float32
    kind : torch.dtype
        Of the products: bfloat16 where the processor has them, else float32.
    exact : bool
        False takes the nearest by the products alone, which is enough to learn from.
    """

    def __init__(self, centres: Tensor, kind: torch.dtype, *, exact: bool) -> None:
        self._turned, self._kind = centres.to(kind).T.contiguous(), kind
        self._centres = np.ascontiguousarray(centres.numpy())
        self._norm = (self._centres.astype(np.float64) ** 2).sum(axis=1).astype(np.float32)
        # the norm is rounded as well, and so are differences of scores
        error = HALF if kind == torch.bfloat16 else (centres.shape[1] + 8) * 2.0**-23
        self._reach = ((error if exact else 0.0) * np.sqrt(self._norm)).astype(np.float32)

    def __call__(self, rows: Tensor) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Nearest centre of each row (n, d) float32, the first of equally near ones, and the squared distance."""
        half = self._kind == torch.bfloat16
        product = (rows.to(self._kind) @ self._turned).view(torch.uint16 if half else torch.int32).numpy()
        values, shift = rows.numpy(), np.uint32(16 if half else 0)
        labels, squared = np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=np.float32)

        _settle(product, shift, values, self._centres, self._norm, self._reach, labels, squared)
        return labels, squared


def sweep(
    x: Any, shift: Tensor, search: Nearest, size: int
) -> Iterator[tuple[slice, Tensor, NDArray[np.int32], NDArray[np.float32]]]:
    """Rows in blocks, in order: which, less the shift, their nearest centres, and the squared distances to these.

    Each block is one thread's from reading to the end: threads that shared each small step would wait for each other,
    for most of the time where other programs run.
    """
    with _threads() as pool:

        def one(start: int) -> tuple[slice, Tensor, NDArray[np.int32], NDArray[np.float32]]:
            part = slice(start, min(start + size, len(x)))
            # a copy, for it is changed in place
            rows = torch.from_numpy(np.array(x[part])).float().sub_(shift)
            return part, rows, *search(rows)

        # as many blocks ahead as keep threads busy, and no more: results are large
        ahead: deque[Future[tuple[slice, Tensor, NDArray[np.int32], NDArray[np.float32]]]] = deque()
        for start in range(0, len(x), size):
            ahead.append(pool.submit(one, start))
            if len(ahead) > 2 * torch.get_num_threads():
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextmanager
def _threads() -> Generator[ThreadPoolExecutor]:
    """As many threads as torch has, in each of which torch has one."""
    count = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # what a thread sets is the default of threads to come
        torch.set_num_threads(count)


@_compile
def _settle(
    product: Any, shift: Any, rows: Any, centres: Any, norm: Any, reach: Any, labels: Any, squared: Any
) -> None:
    n, k = product.shape
    d = rows.shape[1]
    wide = np.empty(k, dtype=np.uint32)
    score = wide.view(np.float32)
    for i in range(n):
        length = np.float32(0)
        for j in range(d):
            length += rows[i, j] * rows[i, j]
        length = np.sqrt(length)
        # the upper half of a float32 is a bfloat16
        for c in range(k):
            wide[c] = np.uint32(product[i, c]) << shift
        # no centre is nearer than its score less its error, and one is no farther than the least score with its error
        most = np.float32(np.inf)
        for c in range(k):
            score[c] = norm[c] - np.float32(2) * score[c]
            most = min(most, score[c] + length * reach[c])
        best, found = np.float32(np.inf), 0
        for c in range(k):
            if score[c] - length * reach[c] <= most:
                away = np.float32(0)
                for j in range(d):
                    step = rows[i, j] - centres[c, j]
                    away += step * step
                if away < best:
                    best, found = away, c
        labels[i], squared[i] = found, best


def starts(x: NDArray[np.float32], weight: NDArray[np.float64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows that greedy k-means++ starts from, as `_cluster` draws them, in one pass over the rows for each: (k,).

    Without torch, whose threads would wait at every one of k small steps.

    Parameters
    ----------
    x : ndarray (n, d) float32
    weight : ndarray (n,) float64
    k : int
    rng : Generator
    """
    tries, threads = 2 + int(np.log(k)), torch.get_num_threads()
    edges = np.linspace(0, len(x), threads + 1).astype(int).tolist()
    parts = [slice(low, high) for low, high in itertools.pairwise(edges)]
    chosen = np.empty(k, dtype=np.int64)
    gap = np.full(len(x), np.inf, dtype=np.float32)
    left = np.empty((tries, len(x)), dtype=np.float32)

    def leave(drawn: NDArray[np.int64]) -> int:
        rows = x[drawn]

        def reduce(part: slice) -> NDArray[np.float64]:
            return _reduce(x[part], rows, gap[part], weight[part], left[:, part])

        return int(np.sum(list(pool.map(reduce, parts)), axis=0).argmin())

    with ThreadPoolExecutor(threads) as pool:
        for number in range(k):
            chance = weight if number == 0 else gap * weight
            reached = np.cumsum(chance if chance.any() else weight)
            at = rng.random(1 if number == 0 else tries) * reached[-1]
            # the last row, should rounding put the target beyond the end
            drawn = np.minimum(np.searchsorted(reached, at), len(x) - 1)
            best = leave(drawn)
            gap[:] = left[best]
            chosen[number] = drawn[best]
    return chosen


def add(sums: NDArray[np.float64], labels: NDArray[np.integer[Any]], rows: NDArray[np.float32]) -> None:
    """Add rows (n, d) to the sums (k, d) of their clusters."""
    _add(sums, labels, rows)


@_compile
def _add(sums: Any, labels: Any, rows: Any) -> None:
    for i in range(len(rows)):
        for j in range(rows.shape[1]):
            sums[labels[i], j] += rows[i, j]


@_compile
def _reduce(x: Any, rows: Any, gap: Any, weight: Any, left: Any) -> Any:
    total = np.zeros(len(rows), dtype=np.float64)
    d = x.shape[1]
    for i in range(len(x)):
        for t in range(len(rows)):
            away = np.float32(0)
            for j in range(d):
                step = x[i, j] - rows[t, j]
                away += step * step
            away = min(away, gap[i])
            left[t, i] = away
            total[t] += away * weight[i]
    return total
