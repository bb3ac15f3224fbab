"""What a search for new borders tells, whatever its rows are, and how borders and chances are measured.

n rows of a region, K parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import QhullError, Voronoi

from brodmann.tasks import _borders, _surroundings
from brodmann.tasks._borders import Region

Codes = NDArray[np.int64]

_JAGGED = np.pi / 4


@dataclass(frozen=True, eq=False)
class Novelty:
    """What was found, and how it was judged.

    Parameters
    ----------
    regions : DataFrame
        A row per known region: ``n``; the best border through it, with its ``step`` (how much single rows change at it
        beyond the slopes on both sides, in standard deviations along the direction in which the sides differ) and its
        ``error``, missing where no two large parts can be drawn; ``p``; ``q`` (Benjamini and Hochberg 1995);
        ``agreement`` of what both halves of the rows draw (adjusted Rand index); ``new``, which is whether both admit
        it; and ``parts``, 1 where nothing is new.
    borders : DataFrame
        A row per border inside a region that is ``new``: the two sub-domains, their sizes, ``length_mm`` over all
        sections, ``contiguous`` (share of their rows in the largest piece of each section), ``step``, ``error``,
        ``animals`` that show it by themselves at a level of 0.05, ``of`` those that have the region, and ``differs``:
        the strongest genes or types, with the area under the curve.
    labels : Series
        Sub-domain of each row that took part, ``region/1`` ...; the region itself where nothing is new.
    dealt : int
        Regions that are called new when the rows of each are dealt out anew within its sections: all of them false.
        What it controls is chance; dealt-out tissue has no slow change either.
    small : tuple of str
        Regions with too few rows to be cut.
    without : tuple of str
        Columns whose share in the features was taken out first (patches only).
    """

    regions: pd.DataFrame
    borders: pd.DataFrame
    labels: pd.Series
    dealt: int
    small: tuple[str, ...]
    without: tuple[str, ...] = ()


def discovery(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """False discovery rate at which each test would be accepted (Benjamini and Hochberg 1995)."""
    if not len(p):
        return p
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    result = np.empty_like(p)
    result[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return result


def lengths(region: Region, labels: Codes, parts: int) -> NDArray[np.float64]:
    """Length of the borders between parts over all sections, um: (parts, parts).

    Sides of the Voronoi cells of rows of different parts, no side longer than two spacings, times pi / 4: the mean
    excess of a path along the sides of a random mesh over a straight line.
    """
    total = np.zeros((parts, parts))
    for rows in _surroundings.each(region.section):
        plane = region.where[rows]
        try:
            mesh = Voronoi(plane)
        except (QhullError, ValueError):
            continue
        limit = 2 * _surroundings.spacing(plane)
        for (i, j), side in zip(mesh.ridge_points, mesh.ridge_vertices, strict=True):
            a, b = sorted((int(labels[rows[i]]), int(labels[rows[j]])))
            far = np.linalg.norm(plane[i] - plane[j]) > limit
            if 0 <= a < b and not far and -1 not in side:
                total[a, b] += min(float(np.linalg.norm(np.subtract(*mesh.vertices[side]))), limit)
    return total * _JAGGED


def contiguous(region: Region, labels: Codes, parts: int) -> NDArray[np.float64]:
    """Share of each part's rows that lie in its largest connected piece of their section: (parts,)."""
    piece = _borders.pieces(labels, *_borders.pairs(region))
    result = np.zeros(parts)
    for part in range(parts):
        rows = np.flatnonzero(labels == part)
        largest = sum(int(np.bincount(piece[rows[some]]).max()) for some in _surroundings.each(region.section[rows]))
        result[part] = largest / max(len(rows), 1)
    return result
