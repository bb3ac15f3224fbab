"""What a cell says in a few numbers: principal components of its normalised counts.

Two ways to normalise: `logs`, as is usual, for the plain statistics that every network is compared with; `residuals`
for what a network is given. Legend: n cells, G genes, P components.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brodmann.errors import Refused

Normal = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Normalised counts (n, G) of counts (n, G), libraries (n, 1), the median library (), and expected counts (G,)."""

_CHUNK = 8192
_RARE = 0.05
_POOR = 0.1
_FAR = 10.0


class Components(NamedTuple):
    """A basis of normalised expression.

    Attributes
    ----------
    mean : Tensor (G,) float32
        Mean normalised expression.
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


def logs(counts: Tensor, library: Tensor, median: Tensor, _expected: Tensor) -> Tensor:
    """log(1 + count x median library / library)."""
    return torch.log1p(counts * (median / library.clamp_min(1)))


def residuals(counts: Tensor, library: Tensor, median: Tensor, expected: Tensor) -> Tensor:
    """How far counts in a median library are from the mean profile, over their spread by chance.

    They are linear in the composition, so their mean over cells does not tell how deeply the cells were read. That of
    logarithms does, the more so the fewer the counts (Townes et al. 2019): a network that is given logarithms learns
    to tell experiments by it. The spread is that of Poisson counts, and never that of the rarest; cells with less than
    a tenth of the median library are drawn towards the mean, since they say little.
    """
    weight = (library / (_POOR * median)).clamp(max=1)
    away = counts * (median / library.clamp_min(1)) - expected
    return weight * away / torch.sqrt(expected + _RARE)


def fit(
    dense: Callable[[NDArray[np.int64]], NDArray[np.uint16 | np.float32]],
    rows: NDArray[np.int64],
    components: int,
    normal: Normal,
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
    normal : callable
        `logs` or `residuals`.

    Returns
    -------
    Components

    Raises
    ------
    Refused
        If no cell has counts.
    """
    chunks = [rows[at : at + _CHUNK] for at in range(0, len(rows), _CHUNK)]
    genes = dense(rows[:1]).shape[1]
    totals, libraries = np.zeros(genes), [np.zeros(0)]
    for chunk in chunks:
        counts = dense(chunk)
        totals += counts.sum(0, dtype=np.float64)
        libraries.append(counts.sum(1, dtype=np.float64))
    library = np.concatenate(libraries)
    if not (library > 0).any():
        raise Refused("some cells should have counts.", found=f"{len(rows):,} cells without any.")
    median = torch.tensor(float(np.median(library[library > 0])))
    profile = torch.from_numpy(((totals + 0.5) / (totals.sum() + 0.5 * genes)).astype(np.float32))
    sums, moment, n = np.zeros(genes), np.zeros((genes, genes)), 0
    for chunk in chunks:
        counts = torch.from_numpy(dense(chunk)).float()
        # cells without counts have no composition
        counts = counts[counts.sum(1) > 0]
        x = normal(counts, counts.sum(1, keepdim=True), median, median * profile).numpy()
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
    as_float = [torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (mean, axes, scale)]
    return Components(as_float[0], as_float[1], as_float[2], profile, median)


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


def project(counts: Tensor, basis: Components, normal: Normal, present: Tensor | None = None) -> Tensor:
    """Coordinates of cells along the components, centred, not scaled.

    Parameters
    ----------
    counts : Tensor (n, G)
        Raw or corrected counts as floats; columns of absent genes are ignored.
    basis : Components
    normal : callable
        What the basis was fitted with.
    present : Tensor (G,) bool, optional
        Genes that were measured; all, if not given. With some absent, coordinates are the least-squares fit to the
        others, and the library that cells are normalised to is the share that the others hold of it on average.

    Returns
    -------
    Tensor (n, P)
    """
    counts, mean, expected, median, back = _measured(counts, basis, present)
    library = counts.sum(1, keepdim=True)
    x = normal(counts, library, median, expected) - mean
    # cells without counts lie at the mean, not at zero expression
    return torch.where(library > 0, x, 0.0) @ back


def _measured(counts: Tensor, basis: Components, present: Tensor | None) -> tuple[Tensor, ...]:
    """Measured columns of the counts, their means, what is expected of them, the library, the way to components."""
    mean, median, expected = basis.mean, basis.median, basis.median * basis.profile
    if present is None or bool(present.all()):
        return counts, mean, expected, median, basis.axes.T
    # float64: the fewer genes, the nearer to singular
    back = torch.linalg.pinv(basis.axes[:, present].double()).to(counts.dtype)
    return counts[:, present], mean[present], expected[present], median * basis.profile[present].sum(), back


def describe(
    counts: Tensor, basis: Components, present: Tensor | None = None, efficiency: Tensor | None = None
) -> Tensor:
    """What a network is given of cells: standardised components of `residuals`, (n, P), none beyond 10 SD.

    Residuals are linear in the counts, so that one product with the counts is enough: no table of them is made.

    Parameters
    ----------
    counts, basis, present
        As for `project`.
    efficiency : Tensor (G,), optional
        How well each gene is read in these cells: divided out.
    """
    counts, mean, expected, median, back = _measured(counts, basis, present)
    if efficiency is None:
        even = torch.ones_like(expected)
    else:
        even = 1 / (efficiency if present is None else efficiency[present])
    per_spread = back / torch.sqrt(expected + _RARE)[:, None]
    product = counts @ torch.cat([even[:, None] * per_spread, even[:, None]], 1)
    library = product[:, -1:]
    weight = (library / (_POOR * median)).clamp(max=1)
    found = weight * (median / library.clamp_min(1)) * product[:, :-1] - weight * (expected @ per_spread) - mean @ back
    # cells without counts lie at the mean, not at zero expression
    return torch.where(library > 0, found / basis.scale, 0.0).clamp(-_FAR, _FAR)
