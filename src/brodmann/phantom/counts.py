"""Draw counts that touch non-zeros only: the negative binomial as a Poisson number of logarithmic clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.phantom import types
from brodmann.phantom.chance import compiled, normal, uniform
from brodmann.phantom.panel import BINS, Batch, Genes

LIBRARY_SD = 0.45
"""SD of the log library size of cells of one type."""
_STEPS, _STEP = 25, 0.25
"""Library sizes are drawn from a grid of so many values, so many SD apart."""


@dataclass(frozen=True)
class Counts:
    """Counts of n cells as CSR: indptr (n + 1,) int64; gene, count (nnz,) uint16; volume_um3 (n,) float32."""

    indptr: NDArray[np.int64]
    gene: NDArray[np.uint16]
    count: NDArray[np.uint16]
    volume_um3: NDArray[np.float32]


def draw(
    genes: Genes, batch: Batch, kind: NDArray[np.int16], axis: NDArray[np.float32], *, seed: int, columns: int
) -> Counts:
    """Draw the counts of cells of types ``kind`` (n,) at ``axis`` (n,); columns from ``columns`` on are left out.

    With mu the mean and theta the dispersion, NB(mu, theta) is a Poisson(theta log(1 + mu / theta)) number of clusters
    with logarithmic sizes of parameter mu / (mu + theta) (Quenouille 1949). All genes of a cell share one Poisson
    draw; an alias table (Walker 1977; Vose 1991) says to which gene each cluster belongs. Cells of one type, step of
    the axis and library size share that table.
    """
    mean = (genes.mean * batch.efficiency * batch.depth).reshape(-1, len(genes.names))
    z = (np.arange(_STEPS) - _STEPS // 2) * _STEP
    grid = np.exp(LIBRARY_SD * z)
    # The mean over the grid is one, as drawn.
    chance = np.exp(-(z**2) / 2)
    grid *= chance.sum() / (grid * chance).sum()
    volume = types.VOLUME_UM3[types.CLASS_OF]
    args = (kind, axis, volume, mean, grid, genes.dispersion, genes.dropout, np.uint64(seed), columns)
    drawn = _draw(*args)
    return Counts(*drawn)


@compiled
def _alias(weight: Any, keep: Any, other: Any, small: Any, large: Any) -> float:
    """Vose's alias table of ``weight``, which it overwrites; returns its sum."""
    columns = len(weight)
    total = weight.sum()
    ns, nl = 0, 0
    for g in range(columns):
        weight[g] *= columns / total
        if weight[g] < 1.0:
            small[ns] = g
            ns += 1
        else:
            large[nl] = g
            nl += 1
    while ns and nl:
        ns -= 1
        low, high = small[ns], large[nl - 1]
        keep[low], other[low] = weight[low], high
        weight[high] -= 1.0 - weight[low]
        if weight[high] < 1.0:
            nl -= 1
            small[ns] = high
            ns += 1
    for k in range(nl):
        keep[large[k]], other[large[k]] = 1.0, large[k]
    for k in range(ns):
        keep[small[k]], other[small[k]] = 1.0, small[k]
    return total


@compiled
def poisson(state: Any, mean: float) -> int:
    """Poisson number: products of uniforms below 12, else transformed rejection (Hoermann 1993, PTRS)."""
    if mean < 12.0:
        limit, k, product = np.exp(-mean), 0, uniform(state)
        while product > limit:
            k += 1
            product *= uniform(state)
        return k
    root = np.sqrt(mean)
    b = 0.931 + 2.53 * root
    a = -0.059 + 0.02483 * b
    inverse = 1.1239 + 1.1328 / (b - 3.4)
    wide = 0.9277 - 3.6224 / (b - 2.0)
    log_mean = np.log(mean)
    while True:
        u, v = uniform(state) - 0.5, uniform(state)
        us = 0.5 - abs(u)
        k = int(np.floor((2.0 * a / us + b) * u + mean + 0.43))
        if us >= 0.07 and v <= wide:
            return k
        if k < 0 or (us < 0.013 and v > us):
            continue
        if np.log(v) + np.log(inverse) - np.log(a / (us * us) + b) <= k * log_mean - mean - math.lgamma(k + 1.0):
            return k


@compiled
def _cluster(state: Any, p: float, log_rest: float) -> int:
    """Size of a cluster: logarithmic distribution of parameter ``p`` (Kemp 1981); ``log_rest`` is log(1 - p)."""
    v = uniform(state)
    if v >= p:
        return 1
    q = 1.0 - np.exp(log_rest * uniform(state))
    if v > q:
        return 1
    if v > q * q:
        return 2
    return int(1.0 + np.log(v) / np.log(q)) if v > 0.0 else 1


@compiled
def _draw(
    kind: Any, axis: Any, volume: Any, mean: Any, grid: Any, dispersion: Any, dropout: Any, seed: Any, columns: int
) -> Any:
    n, every, steps = len(kind), mean.shape[1], len(grid)
    state = np.zeros(1, np.uint64)
    state[0] = seed
    table, size = np.empty(n, np.int32), np.empty(n, np.float32)
    first = np.zeros(mean.shape[0] * steps + 1, np.int64)
    for c in range(n):
        step = min(max(int(np.rint(normal(state) / _STEP)) + steps // 2, 0), steps - 1)
        # Big cells hold more RNA; both vary in their own right too.
        size[c] = volume[kind[c]] * np.exp(0.5 * LIBRARY_SD * (step - steps // 2) * _STEP + 0.2 * normal(state) - 0.04)
        # Between two steps of the axis chance decides, so that means change linearly.
        table[c] = (kind[c] * BINS + min(int(axis[c] * (BINS - 1) + uniform(state)), BINS - 1)) * steps + step
        first[table[c] + 1] += 1
    first = np.cumsum(first)
    # Cells are drawn table by table, and put back into their order at the end.
    order, at = np.empty(n, np.int32), first.copy()
    for c in range(n):
        order[at[table[c]]] = c
        at[table[c]] += 1
    held = np.zeros(every, np.uint32)
    begin, length = np.zeros(n, np.int64), np.zeros(n, np.int64)
    limit = n * every // 4 + every
    gene, count = np.empty(limit, np.uint16), np.empty(limit, np.uint16)
    weight, keep, log_rest, p = np.empty(every), np.empty(every), np.empty(every), np.empty(every)
    other, small, large = np.empty(every, np.int64), np.empty(every, np.int64), np.empty(every, np.int64)
    filled = 0
    for r in range(len(first) - 1):
        if first[r] == first[r + 1]:
            continue
        t, step = r // steps, r % steps
        for g in range(every):
            odds = mean[t, g] * grid[step] / dispersion[g]
            log_rest[g] = -np.log1p(odds)
            p[g] = odds / (1.0 + odds)
            weight[g] = -dispersion[g] * log_rest[g]
        clusters = _alias(weight, keep, other, small, large)
        for i in range(first[r], first[r + 1]):
            c = order[i]
            for _ in range(poisson(state, clusters)):
                u = uniform(state) * every
                g = int(u)
                if u - g > keep[g]:
                    g = other[g]
                held[g] += np.uint32(_cluster(state, p[g], log_rest[g]))
            if filled + every > limit:
                limit *= 2
                wide_gene, wide_count = np.empty(limit, np.uint16), np.empty(limit, np.uint16)
                wide_gene[:filled], wide_count[:filled] = gene[:filled], count[:filled]
                gene, count = wide_gene, wide_count
            begin[c] = filled
            for g in range(every):
                if held[g]:
                    if uniform(state) >= dropout[g] and g < columns:
                        gene[filled], count[filled] = g, min(held[g], np.uint32(65535))
                        filled += 1
                    held[g] = 0
            length[c] = filled - begin[c]
    indptr = np.zeros(n + 1, np.int64)
    indptr[1:] = np.cumsum(length)
    out_gene, out_count = np.empty(filled, np.uint16), np.empty(filled, np.uint16)
    for c in range(n):
        for k in range(length[c]):
            out_gene[indptr[c] + k], out_count[indptr[c] + k] = gene[begin[c] + k], count[begin[c] + k]
    return indptr, out_gene, out_count, size
