"""k-means from a thousand rows to tens of millions: whole, on a sample, or sharded over processes.

n rows, d features, k clusters. Rows may be a memory-mapped float16 array: they are read in blocks, never copied whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brodmann import compute
from brodmann.errors import Refused, Usage
from brodmann.samples import stream
from brodmann.tasks import _nearest

Engine = Literal["auto", "faiss", "lloyd"]


class Rows(Protocol):
    """What is clustered: an array, or what can be read like one, by slices and by sorted row numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    def __len__(self) -> int:
        """Rows."""
        ...

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Rows of a slice, or with sorted numbers."""
        ...


ROWS_PER_CENTRE = 256
"""Rows per cluster that centres are learned from: faiss's own default, beyond which they hardly move."""

_SEED_ROWS = 32
_SMALL = 20_000
_BLOCK_NUMBERS = 1 << 22
_FAISS_ROWS = 1_000_000
_HALF_ROWS = 100_000
_PLAIN = 8_192
_MANY_CENTRES = 16
_OURS = 200
_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Clusters:
    """A k-means clustering.

    Parameters
    ----------
    labels : ndarray (n,) int32
        Cluster of each row (of this process's rows).
    centres : ndarray (k, d) float32
        Means.
    inertia : float
        Sum of squared distances to the nearest centre, over the rows of all processes.
    by : str
        What did the work, in words.
    """

    labels: NDArray[np.int32]
    centres: NDArray[np.float32]
    inertia: float
    by: str = ""


def kmeans(
    x: Rows,
    k: int,
    *,
    seed: int = 0,
    n_init: int = 1,
    iterations: int | None = None,
    rows_per_centre: int | None = ROWS_PER_CENTRE,
    engine: Engine = "auto",
) -> Clusters:
    """Cluster rows around k means; the best of ``n_init`` starts, the same for the same seed.

    Starts are k-means++ (Arthur and Vassilvitskii 2007). Under ``torch.distributed`` each process gives its own rows;
    centres are common, and an iteration costs one sum of k x (d + 1) numbers.

    Parameters
    ----------
    x : ndarray (n, d) floating
        Rows, float16 or float32, possibly memory-mapped.
    k : int
        Number of clusters.
    seed : int
        Key of every draw.
    n_init : int
        Starts; the one of least inertia is kept.
    iterations : int, optional
        At most so many per start; by default 100, and 25 from 20,000 rows on.
    rows_per_centre : int, optional
        Centres are learned from at most so many random rows per cluster (and from all of 20,000), then every row is
        assigned once; None learns from all rows.
    engine : {"auto", "faiss", "lloyd"}
        ``auto``: faiss (Douze et al. 2024) between 20,000 and a million rows if it is installed, else our own Lloyd;
        our own for 200 clusters and more where the processor has bfloat16 products, with which it is faster.

    Returns
    -------
    Clusters

    Raises
    ------
    Refused
        Fewer rows than clusters, or rows that are not finite.
    Usage
        ``engine="faiss"`` without faiss, or under several processes.
    """
    total = _sum(torch.tensor([float(len(x))], dtype=torch.float64))
    if k < 1 or int(total) < k:
        raise Refused(f"{k} clusters should have at least as many rows.", found=f"{int(total):,} rows.")
    rng = stream(seed, "k-means", k, n_init)
    train, share = _training_rows(x, k, rows_per_centre, int(total), stream(seed, "rows", k, compute.rank()))
    chosen = _engine(engine, len(train), k)
    rounds = iterations or (100 if total <= _SMALL else 25)
    best: tuple[float, Tensor] | None = None
    for _ in range(n_init):
        start = _plus_plus(*_candidates(train, k, share, rng), k, rng)
        inertia, centres = _faiss(train, start, rounds) if chosen == "faiss" else _lloyd(train, start, rounds)
        if best is None or inertia < best[0]:
            best = inertia, centres
    assert best is not None
    labels, squared = assign(x, best[1].cpu().numpy())
    inertia = float(_sum(torch.tensor([squared], dtype=torch.float64)))
    by = {"faiss": "faiss", "lloyd": "Lloyd in torch"}[chosen]
    if engine == "auto" and chosen == "lloyd" and _SMALL < len(train) <= _FAISS_ROWS and find_spec("faiss") is None:
        by += " (faiss is not installed; `pip install faiss-cpu` for larger sets)"
    return Clusters(labels, best[1].cpu().numpy(), inertia, by)


def assign(x: Rows, centres: NDArray[np.float32]) -> tuple[NDArray[np.int32], float]:
    """Nearest centre of every row, and the sum of squared distances.

    Nearest by float32 distances, whatever is used to find it: of centres that are equally near within rounding (one
    part in a million) either may be told. Ten million rows of 128 numbers and 1,300 centres take 41 CPU seconds with
    bfloat16 products (AMD EPYC, AVX-512; 0.39 s for 100,000 rows, against 1.8 s for float32 products and argmin).

    Parameters
    ----------
    x : ndarray (n, d) floating
    centres : ndarray (k, d) float32

    Returns
    -------
    labels : ndarray (n,) int32
    inertia : float
        Over the given rows.
    """
    table = torch.from_numpy(np.ascontiguousarray(centres, dtype=np.float32)).to(compute.device())
    labels, inertia = np.empty(len(x), dtype=np.int32), 0.0
    shift = table.mean(dim=0)
    # Distances are differences of large numbers: around their common mean float32 has digits to spare.
    for part, _, near, squared in _sweep(x, table - shift, shift, torch.float32, len(x)):
        labels[part] = near.to(torch.int32).cpu().numpy()
        inertia += float(squared.sum(dtype=torch.float64))
    return labels, inertia


def _sweep(
    x: Rows, centres: Tensor, shift: Tensor, kind: torch.dtype, total: float
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Blocks of rows less the shift, the nearest of the shifted centres to each, and the squared distance to it.

    By products of ``kind``; for many rows on a processor by whatever is fast, and float32 is then exact nonetheless.
    """
    k = len(centres)
    if centres.device.type != "cpu" or total <= _PLAIN or k < _MANY_CENTRES:
        for part, rows in _blocks(x, k):
            rows.sub_(shift)
            yield part, rows, *_closest(rows, centres, kind)
        return
    fast = torch.bfloat16 if _has_bfloat16(centres.device) else torch.float32
    search = _nearest.Nearest(centres, fast, exact=kind == torch.float32)
    for part, rows, near, squared in _nearest.sweep(x, shift, search, _size(x, k)):
        yield part, rows, torch.from_numpy(near), torch.from_numpy(squared)


def means(x: Rows, labels: NDArray[np.integer[Any]], k: int) -> NDArray[np.float32]:
    """Mean of the rows of each cluster, in one pass: (k, d) float32.

    Parameters
    ----------
    x : array (n, d)
    labels : ndarray (n,) int
        Every one of 0 to k - 1 occurs.
    k : int
    """
    sums = np.zeros((k, x.shape[1]))
    for part, rows in _blocks(x, x.shape[1]):
        _nearest.add(sums, labels[part], rows.cpu().numpy())
    return (sums / np.maximum(np.bincount(labels, minlength=k), 1)[:, None]).astype(np.float32)


def _engine(asked: Engine, n: int, k: int) -> Literal["faiss", "lloyd"]:
    if asked == "auto" and n > _SMALL and k >= _OURS and _has_bfloat16(compute.device()):
        return "lloyd"
    if asked == "lloyd" or (asked == "auto" and (compute.world() > 1 or not _SMALL < n <= _FAISS_ROWS)):
        return "lloyd"
    if compute.world() > 1:
        raise Usage("faiss clusters in one process.", found=f"{compute.world()} processes.", do="use engine='lloyd'.")
    if find_spec("faiss") is not None:
        return "faiss"
    if asked == "auto":
        return "lloyd"
    raise Usage("engine 'faiss' needs faiss.", found="not installed.", do="pip install faiss-cpu.")


def _training_rows(
    x: Rows, k: int, rows_per_centre: int | None, total: int, rng: np.random.Generator
) -> tuple[Rows, float]:
    """Rows to learn centres from, and how many rows of the whole each of them stands for."""
    if rows_per_centre is None or total <= (wanted := max(rows_per_centre * k, _SMALL)):
        return x, 1.0
    mine = max(1, round(wanted * len(x) / total)) if len(x) else 0
    rows = np.sort(rng.choice(len(x), size=min(mine, len(x)), replace=False))
    return x[rows], len(x) / max(len(rows), 1)


def _candidates(x: Rows, k: int, share: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Rows among which starts are drawn, the same on every process, and the weight of each."""
    world = compute.world()
    want = max(_SEED_ROWS * k, 2048)
    if world == 1 and len(x) <= want:
        rows, weight = np.arange(len(x)), np.ones(len(x))
    else:
        # With replacement and weighted: processes may hold any number of rows, but send equally many.
        size = -(-want // world)
        rows = rng.integers(0, max(len(x), 1), size=size) if world > 1 else rng.choice(len(x), want, replace=False)
        weight = np.full(len(rows), share * len(x) / len(rows))
        rows = rows % max(len(x), 1)
    block = np.zeros((len(rows), x.shape[1]), np.float32) if not len(x) else x[np.sort(rows)].astype(np.float32)
    place = compute.device()
    pool = compute.gather(torch.from_numpy(np.ascontiguousarray(block)).to(place))
    return pool, compute.gather(torch.from_numpy(weight).to(place))


def _plus_plus(x: Tensor, weight: Tensor, k: int, rng: np.random.Generator) -> Tensor:
    """k-means++: starts are drawn with chance proportional to the squared distance to those before.

    Of 2 + ln k draws the one that leaves least is kept, the greedy form that the authors use: a plain draw more often
    puts two starts into one cluster.
    """
    if x.device.type == "cpu" and len(x) > _PLAIN:
        return x[torch.from_numpy(_nearest.starts(x.numpy(), weight.numpy(), k, rng))]
    x = x - (middle := x.mean(dim=0))
    norm = x.square().sum(dim=1)
    tries = 2 + int(np.log(k))

    def draw(chance: Tensor, count: int) -> Tensor:
        reached = chance.cumsum(0)
        at = torch.from_numpy(rng.random(count)).to(reached.device) * reached[-1]
        # The last row, should rounding put the target beyond the end.
        return torch.searchsorted(reached, at).clamp_max(len(x) - 1)

    chosen = draw(weight, 1)
    gap = (norm - 2 * (x @ x[chosen[0]]) + norm[chosen[0]]).clamp_min(0)
    for _ in range(k - 1):
        chance = gap.double() * weight
        new = draw(chance if float(chance.sum()) > 0 else weight, tries)
        left = torch.minimum(gap, (norm[new, None] - 2 * (x[new] @ x.T) + norm).clamp_min(0))
        left[torch.arange(tries), new] = 0
        best = int((left.double() @ weight).argmin())
        gap = left[best]
        chosen = torch.cat([chosen, new[best : best + 1]])
    return x[chosen] + middle


def _lloyd(x: Rows, centres: Tensor, iterations: int) -> tuple[float, Tensor]:
    """Lloyd's iterations in blocks of rows: (inertia, centres)."""
    k, d = centres.shape
    place = centres.device
    total = float(_sum(torch.tensor([float(len(x))], dtype=torch.float64)))
    # One precision for all processes, whatever their shares.
    kind = torch.bfloat16 if total > _HALF_ROWS and _has_bfloat16(place) else torch.float32
    previous, inertia = torch.inf, torch.inf
    for _ in range(iterations):
        sums = torch.zeros(k * (d + 1) + 1, dtype=torch.float64, device=place)
        shift = centres.mean(dim=0)
        table = centres - shift
        for _, rows, near, squared in _sweep(x, table, shift, kind, total):
            if place.type == "cpu":
                _nearest.add(sums[: k * d].view(k, d).numpy(), near.numpy(), rows.numpy())
            else:
                part = torch.zeros((k, d), device=place).index_add_(0, near, rows)
                sums[: k * d] += part.double().flatten()
            sums[k * d : -1] += torch.bincount(near, minlength=k)
            sums[-1] += squared.sum(dtype=torch.float64)
        sums = _sum(sums)
        count = sums[k * d : -1]
        inertia = float(sums[-1])
        moved = (sums[: k * d].view(k, d) / count.clamp_min(1)[:, None]).float()
        centres = _fill(moved, count, (inertia / max(total, 1)) ** 0.5) + shift
        if not np.isfinite(inertia):
            raise Refused("rows to cluster should be finite.", found="NaN or infinity among them.")
        if previous - inertia <= _TOLERANCE * inertia and bool((count > 0).all()):
            break
        previous = inertia
    return inertia, centres


def _fill(centres: Tensor, count: Tensor, radius: float) -> Tensor:
    """Put empty clusters beside the largest ones, which they then share; no process needs to be asked."""
    empty = torch.nonzero(count == 0).flatten()
    if not len(empty):
        return centres
    centres = centres.clone()
    largest = torch.argsort(count, descending=True, stable=True)[: max(int((count > 0).sum()), 1)]
    away = stream(0, "empty", *centres.shape).standard_normal((len(empty), centres.shape[1]))
    away *= 0.1 * radius / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    nudges = torch.from_numpy(away.astype(np.float32)).to(centres.device)
    for i, slot in enumerate(empty.tolist()):
        centres[slot] = centres[largest[i % len(largest)]] + nudges[i]
    return centres


def _closest(rows: Tensor, centres: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Nearest centre of each row by ``|c|^2 - 2 x.c``, and the squared distance to it."""
    norm = centres.square().sum(dim=1)
    score = (rows.to(kind) @ centres.to(kind).T).float().mul_(-2).add_(norm)
    near = score.argmin(dim=1)
    return near, (rows - centres[near]).square().sum(dim=1)


def _faiss(x: Rows, start: Tensor, iterations: int) -> tuple[float, Tensor]:
    import faiss

    # A copy, for it is shifted in place.
    whole = np.array(x[:], dtype=np.float32, order="C")
    if not np.isfinite(whole).all():
        raise Refused("rows to cluster should be finite.", found="NaN or infinity among them.")
    shift = whole.mean(axis=0)
    whole -= shift
    k, d = start.shape
    # Rows were already drawn: faiss must neither drop some nor warn that there are few.
    run: Any = cast("Any", faiss).Kmeans(
        d, k, niter=iterations, seed=1, max_points_per_centroid=len(x), min_points_per_centroid=1
    )
    run.train(whole, init_centroids=np.ascontiguousarray(start.cpu().numpy() - shift))
    return float(run.obj[-1]), torch.from_numpy(np.asarray(run.centroids) + shift).to(start.device)


def _blocks(x: Rows, k: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows in blocks small enough that their k scores stay in cache-sized memory: float32 on this process's device."""
    size = _size(x, k)
    place = compute.device()
    for start in range(0, len(x), size):
        part = slice(start, min(start + size, len(x)))
        # a copy, for it is changed in place; torch widens halves several times faster than numpy
        yield part, torch.from_numpy(np.array(x[part])).to(place).float()


def _size(x: Rows, k: int) -> int:
    return max(256, _BLOCK_NUMBERS // max(k, x.shape[1], 1))


def _sum(values: Tensor) -> Tensor:
    """Sum over processes."""
    if compute.world() == 1:
        return values
    return (compute.average(values.to(compute.device())) * compute.world()).to(values.device)


def _has_bfloat16(place: torch.device) -> bool:
    """Whether bfloat16 products are faster here than float32 ones."""
    if place.type != "cpu":
        return True
    return bool(cast("Any", torch.ops.mkldnn)._is_mkldnn_bf16_supported())
