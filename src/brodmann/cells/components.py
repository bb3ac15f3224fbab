"""What a cell says in a few numbers: principal components of its log-normalised counts.

The same components are the network's input and the metric of its features. Legend: n cells, G genes, P components.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brodmann.errors import Refused

_CHUNK = 8192


class Components(NamedTuple):
    """A basis of log-normalised expression, log(1 + count x median library / library).

    Attributes
    ----------
    mean : Tensor (G,) float32
        Mean log-normalised expression.
    axes : Tensor (P, G) float32
        Orthonormal rows, in order of variance; the largest entry of each is positive.
    scale : Tensor (P,) float32
        Standard deviation along each axis.
    profile : Tensor (G,) float32
        Share of each gene in all counts, never zero; sums to 1.
    median : Tensor () float32
        Median library.
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor
    profile: Tensor
    median: Tensor


def fit(
    dense: Callable[[NDArray[np.int64]], NDArray[np.uint16 | np.float32]], rows: NDArray[np.int64], components: int
) -> Components:
    """Principal components of some cells, read in chunks; memory does not grow with their number.

    Parameters
    ----------
    dense : callable
        Counts (m, G) of m rows, raw or corrected.
    rows : array (n,) int64
        Cells to learn from.
    components : int
        P; fewer if there are fewer genes or cells.

    Returns
    -------
    Components

    Raises
    ------
    Refused
        If no cell has counts.
    """
    chunks = [rows[at : at + _CHUNK] for at in range(0, len(rows), _CHUNK)]
    library = np.concatenate([np.zeros(0), *(dense(chunk).sum(1, dtype=np.float64) for chunk in chunks)])
    if not (library > 0).any():
        raise Refused("some cells should have counts.", found=f"{len(rows):,} cells without any.")
    median = float(np.median(library[library > 0]))
    genes = dense(rows[:1]).shape[1]
    sums, moment, totals, n = np.zeros(genes), np.zeros((genes, genes)), np.zeros(genes), 0
    for chunk in chunks:
        counts = dense(chunk)
        totals += counts.sum(0, dtype=np.float64)
        size = counts.sum(1, dtype=np.float64)
        # cells without counts have no composition
        x = np.log1p(counts[size > 0] * (median / size[size > 0])[:, None]).astype(np.float32)
        sums += x.sum(0, dtype=np.float64)
        moment += x.T @ x
        n += len(x)
    mean = sums / n
    covariance = moment / n - np.outer(mean, mean)
    values, vectors = np.linalg.eigh(covariance)
    keep = min(components, genes, max(n - 1, 1))
    axes = vectors.T[::-1][:keep]
    # the sign of an axis is arbitrary: fixed, or two machines would differ
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))
    scale = np.sqrt(np.maximum(values[::-1][:keep], 1e-6))
    profile = (totals + 0.5) / (totals.sum() + 0.5 * genes)
    as_float = [torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (mean, axes, scale, profile)]
    return Components(as_float[0], as_float[1], as_float[2], as_float[3], torch.tensor(median))


def dispersion(
    dense: Callable[[NDArray[np.int64]], NDArray[np.uint16]], rows: NDArray[np.int64], profile: Tensor
) -> Tensor:
    """Inverse dispersion of each gene about the mean profile, by moments: where the likelihood starts.

    Parameters
    ----------
    dense, rows
        As for `fit`.
    profile : Tensor (G,)
        Share of each gene.

    Returns
    -------
    Tensor (G,) float32
        Logarithm of theta in var = mu + mu^2 / theta, within 0.05 .. 100.
    """
    share = profile.numpy().astype(np.float64)
    excess, squares = np.zeros(len(share)), np.full(len(share), 1e-12)
    for at in range(0, len(rows), _CHUNK):
        counts = dense(rows[at : at + _CHUNK]).astype(np.float64)
        mean = counts.sum(1, keepdims=True) * share
        excess += ((counts - mean) ** 2 - mean).sum(0)
        squares += (mean**2).sum(0)
    theta = squares / np.maximum(excess, squares / 100)
    return torch.from_numpy(np.log(np.clip(theta, 0.05, 100)).astype(np.float32))


def project(counts: Tensor, basis: Components, present: Tensor | None = None) -> Tensor:
    """Coordinates of cells along the components, centred, not scaled.

    Parameters
    ----------
    counts : Tensor (n, G)
        Raw counts as floats; columns of absent genes are ignored.
    basis : Components
    present : Tensor (G,) bool, optional
        Genes that were measured; all, if not given. With some absent, coordinates are the least-squares fit to the
        others, and the library that cells are normalised to is the share that the others hold of it on average.

    Returns
    -------
    Tensor (n, P)
    """
    mean, axes, median = basis.mean, basis.axes, basis.median
    whole = present is None or bool(present.all())
    if not whole:
        counts, mean = counts[:, present], mean[present]
        median = median * basis.profile[present].sum()
    library = counts.sum(1, keepdim=True)
    x = torch.log1p(counts * (median / library.clamp_min(1))) - mean
    # cells without counts lie at the mean, not at zero expression
    x = torch.where(library > 0, x, 0.0)
    if whole:
        return x @ axes.T
    # float64: the fewer genes, the nearer to singular
    return x @ torch.linalg.pinv(axes[:, present].double()).to(x.dtype)
