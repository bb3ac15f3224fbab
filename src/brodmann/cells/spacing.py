"""Which unit coordinates are in: cells of tissue lie a few to a few tens of micrometres apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.cells.readers.sidecar import Stated
from brodmann.errors import Refused
from brodmann.samples import stream

PLAUSIBLE_UM = (3.0, 60.0)
"""Median distance to the nearest cell, when every cell of a section was measured."""
POSSIBLE_UM = (0.5, 500.0)
"""The same, with a tenfold margin for sparse or very dense data whose unit is declared."""
SIXTH_UM = 30.0
"""Median distance to the 6th neighbour after rescaling of coordinates in an unknown unit."""
Unit = Literal["um", "mm", "px"]

_SECTIONS, _WHOLE, _WINDOW, _ASKED = 8, 200_000, 20_000, 2_000
_FACTOR = {"um": 1.0, "mm": 1000.0}


def to_um(
    sections: Sequence[NDArray[np.float64]], stated: Stated, hint: Unit | None, *, where: str
) -> tuple[float, Literal["um", "arbitrary"], list[str]]:
    """Factor that turns coordinates into um, what is then known of them, and remarks.

    Parameters
    ----------
    sections : sequence of ndarray (n, 2) float64
        As in the file.
    stated : Stated
        ``unit`` and ``pixel_um`` as declared.
    hint : {"um", "mm", "px"} or None
        Unit by the name of the columns, or by definition of the format.
    where : str
        The data, for messages.

    Raises
    ------
    Refused
        A unit that the spacing of the cells contradicts; most cells at the same place.
    """
    nearest, sixth = median_distance(sections, 1), median_distance(sections, 6)
    if nearest == 0:
        raise Refused(
            f"cells of {where} should have places of their own.",
            found="half of them share theirs with another.",
            cause="coordinates within fields of view, or several sections without a column that tells them apart.",
            do='name the columns in cells.json: "x", "y", "section".',
        )
    unit: str | None = stated.unit or (hint if hint != "px" else None)
    if unit in {"um", "mm", "px"}:
        factor = stated.pixel_um if stated.pixel_um is not None else _FACTOR[unit]
        how = "declared" if stated.unit else "by the name of the columns or the format"
        return factor, "um", _contradicts(nearest * factor, unit, how, where)
    fits = [name for name, factor in _FACTOR.items() if PLAUSIBLE_UM[0] <= nearest * factor <= PLAUSIBLE_UM[1]]
    if stated.unit is None and hint is None and len(fits) == 1:
        said = (
            f"coordinates are taken as {fits[0]}: the nearest cell then lies {nearest * _FACTOR[fits[0]]:.3g} um away"
        )
        return _FACTOR[fits[0]], "um", [f'{said} (median); declare "unit" in cells.json if this is wrong']
    if not (np.isfinite(sixth) and sixth > 0):
        few = "too few cells to tell the unit of their coordinates, which are left as they are: state it in cells.json"
        return 1.0, "arbitrary", [few]
    scale = SIXTH_UM / sixth
    why = "" if stated.unit else _unknown(nearest, hint)
    return (
        scale,
        "arbitrary",
        [
            f"coordinates are in an unknown unit{why}: rescaled by {scale:.4g} so that the 6th neighbour lies "
            f"{SIXTH_UM:g} um away (median); distances in um mean nothing here. "
            'Declare "unit" (and "pixel_um") in cells.json if you know it'
        ],
    )


def median_distance(sections: Sequence[NDArray[np.float64]], neighbour: int) -> float:
    """Median distance to the n-th nearest cell over up to eight sections; NaN when no section is large enough."""
    from scipy.spatial import KDTree

    found: list[NDArray[np.float64]] = []
    large = [xy for xy in sections if len(xy) > neighbour]
    chosen = sorted({round(at) for at in np.linspace(0, len(large) - 1, min(_SECTIONS, len(large)))})
    for xy in [large[at] for at in chosen]:
        draw = stream(0, "spacing", len(xy))
        points = xy
        if len(xy) > _WHOLE:
            # of a very large section the surroundings of one cell: a tree of all of them would take minutes
            away = ((xy - xy[draw.integers(len(xy))]) ** 2).sum(1)
            points = xy[np.argpartition(away, _WINDOW)[:_WINDOW]]
        asked = points if len(points) <= _ASKED else points[draw.choice(len(points), _ASKED, replace=False)]
        distance, _ = cast("Any", KDTree(points)).query(asked, k=[neighbour + 1])
        found.append(np.asarray(distance, np.float64).ravel())
    return float(np.median(np.concatenate(found))) if found else float("nan")


def _unknown(nearest: float, hint: Unit | None) -> str:
    if hint == "px":
        return " (pixels of unknown size)"
    if not np.isfinite(nearest):
        return " (too few cells to tell)"
    return f" (the nearest cell lies {nearest:.3g} away, which is neither um nor mm)"


def _contradicts(nearest_um: float, unit: str, how: str, where: str) -> list[str]:
    """Refuse a unit that cannot be; remark on one that is unusual."""
    low, high = PLAUSIBLE_UM
    if not np.isfinite(nearest_um) or low <= nearest_um <= high:
        return []
    typical = 10.0
    factor = nearest_um / typical
    said = f"the median distance to the nearest cell is {nearest_um:.3g} um"
    if POSSIBLE_UM[0] <= nearest_um <= POSSIBLE_UM[1]:
        return [
            f"{said}, unusual for cells ({low:g} to {high:g}): right for spots or thinned data, else check the unit"
        ]
    if unit == "um" and low <= nearest_um * 1000 <= high:
        cause, do = "coordinates in mm given as um, a factor of 1000.", '"unit": "mm"'
    elif unit == "mm" and low <= nearest_um / 1000 <= high:
        cause, do = "coordinates in um given as mm, a factor of 1000.", '"unit": "um"'
    else:
        off = f"about {factor:,.0f} times too large" if factor > 1 else f"about {1 / factor:,.0f} times too small"
        cause, do = f"pixels or another unit given as {unit}, {off}.", '"unit": "px" with "pixel_um", or "arbitrary"'
    raise Refused(
        f"coordinates of {where}, in {unit} ({how}), should put cells {low:g} to {high:g} um apart.",
        found=f"{said}.",
        cause=cause,
        do=f"state {do} in cells.json.",
    )
