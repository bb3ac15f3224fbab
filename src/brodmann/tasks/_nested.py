"""Domains within domains: the finest level is clustered, coarser ones are unions of it, so that levels nest exactly.

K leaves, d features.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Usage


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a hierarchy of domains.

    Parameters
    ----------
    k : int
        Number of domains.
    labels : ndarray (n,) int32
        Domain of each row, 0 to k - 1.
    ids : tuple of str
        Name of each domain: that of its largest leaf, so that a domain that does not split keeps its name.
    paths : tuple of str
        Ids from the coarsest level down to this one, such as ``D3/D3/D17``.
    colours : tuple of str
        ``#RRGGBB``, that of the largest leaf: relatives have neighbouring hues.
    """

    k: int
    labels: NDArray[np.int32]
    ids: tuple[str, ...]
    paths: tuple[str, ...]
    colours: tuple[str, ...]


def merges(centres: NDArray[np.floating[Any]], sizes: NDArray[Any]) -> list[tuple[int, int]]:
    """Ward's merges of weighted centres (Ward 1963; sizes as in Murtagh and Legendre 2014, eq. 3).

    Parameters
    ----------
    centres : ndarray (K, d)
    sizes : ndarray (K,)

    Returns
    -------
    list of (int, int)
        K - 1 pairs of leaves' representatives, in order; the second joins the first.
    """
    mass = np.maximum(np.asarray(sizes, dtype=np.float64), 1e-9)
    place = np.asarray(centres, dtype=np.float64).copy()
    norm = (place**2).sum(axis=1)
    square = np.maximum(norm[:, None] + norm - 2 * place @ place.T, 0)
    cost = mass[:, None] * mass / (mass[:, None] + mass) * square
    np.fill_diagonal(cost, np.inf)
    joined: list[tuple[int, int]] = []
    for _ in range(len(place) - 1):
        a, b = sorted(int(i) for i in np.unravel_index(int(cost.argmin()), cost.shape))
        joined.append((a, b))
        place[a] = (mass[a] * place[a] + mass[b] * place[b]) / (mass[a] + mass[b])
        mass[a] += mass[b]
        alive = np.isfinite(cost).any(axis=1)
        alive[[a, b]] = False
        row = mass * mass[a] / (mass + mass[a]) * ((place - place[a]) ** 2).sum(axis=1)
        cost[a] = cost[:, a] = np.where(alive, row, np.inf)
        cost[b] = cost[:, b] = np.inf
    return joined


def levels(
    labels: NDArray[np.integer[Any]], centres: NDArray[np.floating[Any]], ks: Sequence[int]
) -> tuple[Level, ...]:
    """Cut one tree of domains at several numbers of them.

    Parameters
    ----------
    labels : ndarray (n,) int
        Leaf of each row.
    centres : ndarray (K, d)
        Mean of each leaf.
    ks : sequence of int
        Numbers of domains, at most K.

    Returns
    -------
    tuple of Level
        Coarsest first.

    Raises
    ------
    Usage
        A number out of range.
    """
    leaves = len(centres)
    asked = sorted({int(k) for k in ks})
    if not asked or asked[0] < 1 or asked[-1] > leaves:
        raise Usage(f"levels should have between 1 and {leaves} domains.", found=", ".join(map(str, asked)) or "none.")
    labels = np.asarray(labels)
    sizes = np.bincount(labels, minlength=leaves)
    joined = merges(centres, sizes)
    rank = np.empty(leaves, dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(leaves)
    shades = _colours(joined, sizes)
    found: list[Level] = []
    above: list[tuple[int, str]] | None = None
    for k in asked:
        owner = np.arange(leaves)
        for a, b in joined[: leaves - k]:
            owner[owner == b] = a
        roots = np.unique(owner)
        # A domain is known by its largest leaf; equal leaves are told apart by their order.
        heads = [int(min(np.flatnonzero(owner == root), key=lambda leaf: rank[leaf])) for root in roots]
        order = np.argsort([rank[head] for head in heads])
        number = np.empty(leaves, dtype=np.int32)
        number[roots[order]] = np.arange(k, dtype=np.int32)
        ids = [f"D{rank[heads[i]] + 1}" for i in order]
        home = number[owner]
        paths = ids if above is None else [f"{_parent(home, i, above)}/{name}" for i, name in enumerate(ids)]
        above = [(int(home[leaf]), paths[int(home[leaf])]) for leaf in range(leaves)]
        colours = tuple(shades[heads[i]] for i in order)
        found.append(Level(k, home[labels].astype(np.int32), tuple(ids), tuple(paths), colours))
    return tuple(found)


def _parent(home: NDArray[np.int32], domain: int, above: list[tuple[int, str]]) -> str:
    return above[int(np.flatnonzero(home == domain)[0])][1]


def _colours(joined: list[tuple[int, int]], sizes: NDArray[np.int64]) -> list[str]:
    """Hues by position in the tree (after Tennekes and de Jonge 2014), lightness alternating between siblings."""
    members = {leaf: [leaf] for leaf in range(len(sizes))}
    for a, b in joined:
        members[a] = members[a] + members.pop(b)
    order = next(iter(members.values()))
    # The root of the size, so that a giant does not take the whole wheel.
    width = np.sqrt(np.maximum(sizes[order], 1).astype(np.float64))
    middle = (np.cumsum(width) - width / 2) / width.sum()
    shades = [""] * len(sizes)
    for position, (leaf, hue) in enumerate(zip(order, middle, strict=True)):
        light, rich = ((0.45, 0.75), (0.62, 0.6), (0.36, 0.5), (0.74, 0.7))[position % 4]
        red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(0.92 * float(hue), light, rich))
        shades[leaf] = f"#{red:02X}{green:02X}{blue:02X}"
    return shades
