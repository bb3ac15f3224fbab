"""What a mask does not say by itself: where cortex was cut off, where banks of a sulcus touch, which holes are vessels."""

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
_OPPOSITE = 1.53
"""Two feet on white matter lie so many distances apart when seen at 100 degrees: 2 sin(50)."""
_BURIED = 0.5
_SPECK = 0.25


def thickness_px(kind: Kinds) -> float:
    """Typical thickness of cortex in pixels: its area over half the length of its edges towards pia and white matter."""
    edge = 0
    for one, other in ((kind[:, 1:], kind[:, :-1]), (kind[1:], kind[:-1])):
        for side in (OUTSIDE, WHITE):
            edge += int(((one == CORTEX) & (other == side)).sum() + ((one == side) & (other == CORTEX)).sum())
    # Edges of pixels are 4 / pi times as long as the line they follow.
    return float((kind == CORTEX).sum() * 2 * (4 / np.pi) / max(edge, 1))


def fill_specks(kind: Kinds, share: Raster, thick_px: float) -> int:
    """Turn small closed spots of background or white matter within cortex (vessels, errors) into cortex; how many."""
    filled = 0
    for what in (OUTSIDE, WHITE):
        label, count = cast("tuple[NDArray[np.int32], int]", ndimage.label(kind == what))
        if count < 2:
            continue
        size = np.bincount(label.ravel())
        small = size < (_SPECK * thick_px) ** 2
        rim = np.unique(np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]]))
        small[rim] = False
        small[0] = False
        # A speck counts only where nothing but cortex surrounds it.
        beside = ndimage.grey_dilation(np.where((kind != what) & (kind != CORTEX), 1, 0), footprint=_AROUND) > 0
        small[np.unique(label[beside])] = False
        spot = small[label]
        filled += int(small.sum())
        share[CORTEX][spot] += share[what][spot]
        share[what][spot] = 0
        kind[spot] = CORTEX
    return filled


def open_sulci(kind: Kinds, share: Raster, thick_px: float) -> int:
    """Put pia back where two banks of a sulcus touch: midway between white matter on opposite sides.

    A pixel of cortex whose neighbour has its nearest white matter on the other side (seen at 100 degrees or more), not
    nearer than half the typical thickness, is opened, as anatomically consistent enhancement does (Han et al. 2004,
    NeuroImage 23:997).

    Returns
    -------
    int
        Pixels opened.
    """
    away, foot = cast(
        "tuple[Array, NDArray[np.int32]]", ndimage.distance_transform_edt(kind != WHITE, return_indices=True)
    )
    opened = np.zeros(kind.shape, dtype=bool)
    inside = kind == CORTEX
    for one, other in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
    ):
        both = inside[one] & inside[other] & (away[one] > _BURIED * thick_px)
        apart = np.hypot(*(foot[(slice(None), *_wide(one))] - foot[(slice(None), *_wide(other))]).astype(np.float32))
        opened[one] |= both & (apart > _OPPOSITE * away[one])
    kind[opened] = OUTSIDE
    share[:, opened] = 0
    share[OUTSIDE][opened] = 1
    return int(opened.sum())


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
    edge = inside & ndimage.binary_dilation(bare, _AROUND)
    start = edge & ndimage.binary_dilation(kind == WHITE, _AROUND)
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
    beside = bare & ndimage.binary_dilation(face, _AROUND)
    beside &= ~ndimage.binary_dilation(edge & ~face, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool))
    kind[beside] = CUT
    share[CUT][beside] += share[OUTSIDE][beside]
    share[OUTSIDE][beside] = 0
    return found


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
