"""Which piece of a brain is imaged when only so many cells are asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Usage
from brodmann.phantom import areas, domains, scatter, stain
from brodmann.phantom.brain import Brain
from brodmann.phantom.cut import Plane
from brodmann.phantom.sheet import LENGTH_MM, WIDTH_MM

Array = NDArray[np.float64]

_HOME_V_MM, _HOME_BEFORE_MM = 20.0, 1.0
"""Every block is cut around a place in P1, so far before S2: a hidden border, a known one and the uniform region."""
_FULL = 7
"""Sections of a brain before sections are imaged from end to end."""
_PER_SECTION = 10_000


def windows(brain: Brain, cuts: list[Plane], quota: float, crowd: float = 1.0) -> list[tuple[int, float, float]]:
    """Which sections hold ``quota`` cells, and from where to where (sheet s, mm) each is imaged.

    A block of cortex around one place that grows along the sections and across them until it is the whole brain.

    Parameters
    ----------
    crowd : float
        Density of the animal's cells over that of the others.

    Raises
    ------
    Usage
        If all sections together hold fewer.
    """
    lines = [_line(brain, plane) * [1.0, crowd, 1.0, 1.0] for plane in cuts]
    whole = np.array([line[:, 1].sum() for line in lines])
    if quota > whole.sum():
        raise Usage(
            f"{quota:,.0f} cells of one brain should lie in {len(cuts)} sections.",
            found=f"room for {whole.sum():,.0f}.",
            do="ask for fewer cells, more brains, or more sections per brain.",
        )
    # How far each place of a line is from being home, were it only for its distance from S2.
    away = [np.abs(line[:, 2] - _HOME_BEFORE_MM) for line in lines]
    home = int(
        np.argmin([(one + np.abs(line[:, 3] - _HOME_V_MM)).min() for one, line in zip(away, lines, strict=True)])
    )
    part = min(1.0, float((quota / (_FULL * np.median(whole / crowd))) ** 0.25))
    number = int(np.clip(np.rint(np.sqrt(quota / _PER_SECTION)), 1, min(_FULL, len(cuts))))
    while True:
        band = min(max(number, round(part * len(cuts))), len(cuts))
        low = int(np.clip(home - band // 2, 0, len(cuts) - band))
        chosen = low + np.unique(np.rint((np.arange(number) + 0.5) * band / number - 0.5).astype(int))
        if whole[chosen].sum() >= quota:
            break
        number += 1
    out: list[tuple[int, float, float]] = []
    shares = _fill(whole[chosen], quota)
    for k, share in zip(chosen.tolist(), shares, strict=True):
        s, total = lines[k][:, 0], np.concatenate([[0.0], np.cumsum(lines[k][:, 1])])
        middle = total[int(np.argmin(away[k]))]
        start = float(np.clip(middle - share / 2, 0, max(whole[k] - share, 0)))
        edge = np.append(s - 0.5 * np.gradient(s), LENGTH_MM) if len(s) > 1 else np.array([0.0, LENGTH_MM])
        out.append((k, float(np.interp(start, total, edge)), float(np.interp(start + share, total, edge))))
    return out


def _fill(room: Array, quota: float) -> Array:
    """Share ``quota`` evenly among sections, none above its room."""
    level = quota / len(room)
    for _ in range(len(room)):
        free = room > level
        if not free.any() or np.isclose(np.minimum(room, level).sum(), quota):
            break
        level = (quota - room[~free].sum()) / free.sum()
    return np.minimum(room, level)


def _line(brain: Brain, plane: Plane) -> Array:
    """Along the cortical line within the sheet, every 50 um: s (mm), cells expected, mm of P1 from S2, template v."""
    st = plane.line_mm
    inside = (st[:, 0] >= 0) & (st[:, 0] <= LENGTH_MM) & (st[:, 1] >= 0) & (st[:, 1] <= WIDTH_MM)
    cosine = stain.ribbon(brain, plane).cosine
    expected = scatter.per_mm(brain, st) * 0.05 / cosine
    # Outside P1, and beyond S2, distances count in full, so that a plane without P1 still has a nearest place.
    near = brain.at(domains.margin(brain), st) + 100.0 * (brain.nearest(brain.area, st) != areas.NAMES.index("P1"))
    return np.column_stack([st[:, 0], expected, near, brain.at(brain.true_mm, st)[:, 1]])[inside]
