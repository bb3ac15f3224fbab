"""What a mask does not say by itself: where cortex was cut, where banks of a sulcus touch, which holes are vessels."""

from __future__ import annotations

import heapq
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brodmann.cortex._laplace import CORTEX, CUT, OUTSIDE, WHITE, Array, Kinds, Raster

Flags = NDArray[np.bool_]

_AROUND = np.ones((3, 3), dtype=bool)
_FACE_REACH = 4.0
"""A cut face is looked for so many thicknesses along the edge of cortex."""
_FACE_LEAST = 0.25
"""Least gain of a face, in thicknesses; a face across a ribbon of typical thickness gains half a thickness."""
_OPPOSITE, _ASIDE = 2 * np.sin(np.deg2rad(50)), 2 * np.sin(np.deg2rad(32))
"""Two feet on white matter lie so many distances apart when seen at 100 and at 64 degrees."""
_BURIED = 0.7
_SPECK = 0.25


def thickness_px(kind: Kinds) -> float:
    """Typical thickness of cortex in pixels: its area over half its edge towards pia and white matter."""
    edge = 0
    for one, other in ((kind[:, 1:], kind[:, :-1]), (kind[1:], kind[:-1])):
        for side in (OUTSIDE, WHITE):
            edge += int(((one == CORTEX) & (other == side)).sum() + ((one == side) & (other == CORTEX)).sum())
    # Edges of pixels are 4 / pi times as long as the line they follow.
    return float((kind == CORTEX).sum() * 2 * (4 / np.pi) / max(edge, 1))


def fill_specks(kind: Kinds, share: Raster, thick_px: float) -> int:
    """Turn small spots that cortex surrounds (vessels, errors) into cortex; how many."""
    label, count = cast("tuple[NDArray[np.int32], int]", ndimage.label(kind != CORTEX))
    small = np.bincount(label.ravel(), minlength=count + 1) < (_SPECK * thick_px) ** 2
    small[np.concatenate([label[0], label[-1], label[:, 0], label[:, -1], [0]])] = False
    spot = small[label]
    kind[spot] = CORTEX
    share[:, spot] = 0
    share[CORTEX][spot] = 1
    return int(small.sum())


def pieces(kind: Kinds) -> tuple[int, int, int]:
    """Leave out cortex that does not touch both background and white matter.

    Returns
    -------
    tuple of int
        Pieces of cortex, pieces left out, and their pixels.
    """
    label, count = cast("tuple[NDArray[np.int32], int]", ndimage.label(kind == CORTEX))
    whole = np.ones(count + 1, dtype=bool)
    for side in (OUTSIDE, WHITE):
        whole &= np.isin(np.arange(count + 1), np.unique(label[_grown(kind == side)]))
    lost = (label > 0) & np.logical_not(whole[label])
    kind[lost] = CUT
    return count, int((~whole[1:]).sum()), int(lost.sum())


def open_sulci(kind: Kinds, share: Raster, thick_px: float) -> int:
    """Put pia back where two banks of a sulcus touch: midway between white matter on opposite sides.

    Pixels of cortex are opened where a neighbour has its nearest white matter on another side, at 0.7 of the typical
    thickness or farther, as anatomically consistent enhancement does (Han et al. 2004, NeuroImage 23:997): lines seen
    at 64 degrees or more, if at 100 degrees or more somewhere.

    Returns
    -------
    int
        Pixels opened.
    """
    away, foot = cast(
        "tuple[Array, NDArray[np.int32]]", ndimage.distance_transform_edt(kind != WHITE, return_indices=True)
    )
    opened, sure = np.zeros(kind.shape, dtype=bool), np.zeros(kind.shape, dtype=bool)
    inside = (kind == CORTEX) & (away > _BURIED * thick_px)
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        both = inside[one] & (kind == CORTEX)[other]
        apart = np.hypot(*(foot[(slice(None), *_wide(one))] - foot[(slice(None), *_wide(other))]).astype(np.float32))
        opened[one] |= both & (apart > _ASIDE * away[one])
        sure[one] |= both & (apart > _OPPOSITE * away[one])
    label, count = cast("tuple[NDArray[np.int32], int]", ndimage.label(opened, _AROUND))
    opened &= np.isin(np.arange(count + 1), np.unique(label[sure]))[label]
    kind[opened] = OUTSIDE
    share[:, opened] = 0
    share[OUTSIDE][opened] = 1
    return int(opened.sum())


def close_corners(kind: Kinds, share: Raster) -> None:
    """Open one pixel of cortex wherever background touches itself by corners only, lest streamlines slip through."""
    for a, b in ((0, 1), (1, 0)):
        bare, inside = kind == OUTSIDE, kind == CORTEX
        # Background at one corner and its opposite, cortex at the other two; the first of these is opened.
        first, last = inside[:-1, b : b - 1 or None], inside[1:, a : a - 1 or None]
        slip = first & last & bare[:-1, a : a - 1 or None] & bare[1:, b : b - 1 or None]
        spot = np.zeros(kind.shape, dtype=bool)
        spot[:-1, b : b - 1 or None] = slip
        kind[spot] = OUTSIDE
        share[:, spot] = 0
        share[OUTSIDE][spot] = 1


def _wide(cut: Any) -> tuple[Any, ...]:
    return cut if isinstance(cut, tuple) else (cut,)


def cut_faces(kind: Kinds, share: Raster, thick_px: float) -> int:
    """Mark background as a cut where cortex was cut across, from white matter to the pia.

    From a place where cortex, background and white matter meet, the pia keeps its distance from white matter, a face
    gains distance with every step. The face ends where distance less half the way walked is largest.

    Returns
    -------
    int
        Faces found.
    """
    inside, bare = kind == CORTEX, kind == OUTSIDE
    edge = inside & _grown(bare, _AROUND)
    start = edge & _grown(kind == WHITE, _AROUND)
    label, count = cast("tuple[NDArray[np.int32], int]", ndimage.label(start, _AROUND))
    if not count:
        return 0
    away = cast("Array", ndimage.distance_transform_edt(kind != WHITE))
    found, face = 0, np.zeros(kind.shape, dtype=bool)
    for number, box in enumerate(ndimage.find_objects(label), 1):
        rows, columns = np.nonzero(label[box] == number)
        first = list(zip((rows + box[0].start).tolist(), (columns + box[1].start).tolist(), strict=True))
        path = _walk(edge, away, first, thick_px)
        if path:
            found += 1
            face[tuple(np.array(path).T)] = True
    # Background beside a face, unless pia is as near.
    beside = bare & _grown(face, _AROUND)
    beside &= ~_grown(edge & ~face)
    kind[beside] = CUT
    share[CUT][beside] += share[OUTSIDE][beside]
    share[OUTSIDE][beside] = 0
    return found


def _grown(flags: Flags, shape: Flags | None = None) -> Flags:
    """Flags and their neighbours, four of each unless a ``shape`` is given."""
    return cast("Flags", ndimage.binary_dilation(flags, shape))


def _walk(edge: Flags, away: Array, first: list[tuple[int, int]], thick_px: float) -> list[tuple[int, int]]:
    """Pixels of the face that begins at ``first``; empty where there is none."""
    h, w = edge.shape
    way: dict[tuple[int, int], float] = {}
    heap = [(0.0, -np.inf, place) for place in first]
    best, at = 0.0, 0.0
    while heap:
        walked, top, place = heapq.heappop(heap)
        if place in way:
            continue
        way[place] = walked
        gain = float(away[place]) - 0.5 * walked
        top = max(top, gain)
        if gain > best:
            best, at = gain, walked
        if gain < top - 0.4 * thick_px or walked > _FACE_REACH * thick_px:
            continue
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                near = (place[0] + a, place[1] + b)
                if (a or b) and 0 <= near[0] < h and 0 <= near[1] < w and edge[near] and near not in way:
                    heapq.heappush(heap, (walked + float(np.hypot(a, b)), top, near))
    return [place for place, walked in way.items() if walked <= at] if best > _FACE_LEAST * thick_px else []
