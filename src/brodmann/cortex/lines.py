"""The line midway between pia and white matter, from end to end, with what is known of every place on it."""

from __future__ import annotations

from typing import cast

import contourpy
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from brodmann.cortex import _laplace
from brodmann.cortex._laplace import CORTEX, Array
from brodmann.cortex.ribbon import Ribbon, upright
from brodmann.errors import Refused, Usage

_STEEP = 0.5
"""Least slope of the potential at mid-cortex, as a share of one over the thickness; less where white matter is far."""
_GAP_MM = 0.3


def midline(
    ribbon: Ribbon, *, spacing_mm: float = 0.25, smooth_mm: float = 0.1, bend_mm: float = 0.4, least_mm: float = 1.0
) -> pd.DataFrame:
    """Places along the middle of cortex, halfway along the streamlines.

    Parameters
    ----------
    ribbon : Ribbon
    spacing_mm : float
        Distance between places along the line.
    smooth_mm : float
        SD of the Gaussian along the line that places, thickness and angle are smoothed with.
    bend_mm : float
        SD of the Gaussian along the line that curvature is smoothed with.
    least_mm : float
        Shorter lines are left out.

    Returns
    -------
    DataFrame
        ``x_um, y_um``; ``angle_deg`` (turns a patch pia up); ``thickness_mm`` (length of the streamline in the
        section: an oblique cut lengthens it by one over the cosine of the cutting angle); ``curvature``
        (of the line in the section, 1/mm, crowns positive: twice the mean curvature of a fold that is straight along
        the third axis); ``line`` (number, longest first); ``along_mm`` (geodesic position on it, pia to the left
        when walking); ``end_mm`` (to the nearer end; infinite on closed lines). Rows are sorted by line and position.

    Raises
    ------
    Usage
        If a length is not a positive number.
    Refused
        If no line is as long as ``least_mm``.
    """
    for name, value in (("spacing_mm", spacing_mm), ("smooth_mm", smooth_mm), ("bend_mm", bend_mm)):
        if not (np.isfinite(value) and value > 0):
            raise Usage(f"{name} should be a positive number of millimetres.", found=f"{value}.")
    found = [
        line
        for contour in _contours(ribbon)
        for piece, closed in _pieces(ribbon, contour)
        if (line := _described(ribbon, piece, spacing_mm, smooth_mm, bend_mm, least_mm, closed=closed)) is not None
    ]
    if not found:
        raise Refused(
            f"A section should hold a piece of cortex {least_mm} mm long or more.",
            found="none with both pia and white matter.",
            cause="a mask of scraps, or a wrong pixel size.",
            do="look at the mask and at ribbon.remarks; or lower least_mm.",
        )
    found.sort(key=lambda line: -float(line["along_mm"].iloc[-1]))
    return pd.concat([line.assign(line=number) for number, line in enumerate(found)], ignore_index=True)


def _contours(ribbon: Ribbon) -> list[Array]:
    """Polylines (n, 2) px where the potential is one half, white matter to the right when walking along."""
    u = np.ma.masked_array(ribbon.field.u, mask=ribbon.kind != CORTEX)
    lines = contourpy.contour_generator(z=u, line_type=contourpy.LineType.Separate).lines(0.5)
    return [np.asarray(line, dtype=np.float64) for line in cast("list[Array]", lines) if len(line) > 3]


def _pieces(ribbon: Ribbon, contour: Array) -> list[tuple[Array, bool]]:
    """Middles of streamlines along one contour, (n, 6): x, y (px), thickness (px), white-ward unit vector, slope."""
    closed = bool(np.allclose(contour[0], contour[-1]))
    places = _even(contour, 1.0)
    middle, thick, _, slope = _laplace.lines(*ribbon.field, places, np.array([0.5]), 2, ribbon.most)
    at = middle[:, 0]
    good = np.isfinite(thick) & (slope * thick > _STEEP)
    way = np.full((len(at), 2), np.nan)
    way[good] = _laplace.feet(*ribbon.field, np.ascontiguousarray(at[good]), ribbon.most)[:, 4:6]
    size = np.hypot(way[:, 0], way[:, 1])
    good &= np.isfinite(size)
    rows = np.column_stack([at, thick, way / np.where(good, size, 1)[:, None]])
    if closed and good.all():
        return [(rows[:-1], True)]
    if closed and not good.all():
        # A ring with a gap is a line that begins after the gap.
        turn = int(np.argmin(good))
        rows, good = np.roll(rows[:-1], -turn, axis=0), np.roll(good[:-1], -turn)
    keep = np.flatnonzero(good)
    if len(keep) < 2:
        return []
    cuts = np.flatnonzero(np.diff(keep) * ribbon.step_um / 1000 > _GAP_MM) + 1
    return [(rows[part], False) for part in np.split(keep, cuts)]


def _even(line: Array, step: float) -> Array:
    """Polyline (n, 2) resampled at equal steps of about ``step``."""
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.linspace(0, length[-1], max(round(float(length[-1]) / step), 3) + 1)
    return np.stack([np.interp(at, length, line[:, k]) for k in range(line.shape[1])], axis=1)


def _described(
    ribbon: Ribbon, rows: Array, spacing_mm: float, smooth_mm: float, bend_mm: float, least_mm: float, *, closed: bool
) -> pd.DataFrame | None:
    """Table of one line, or None where it is too short."""
    mm = ribbon.step_um / 1000
    if closed:
        rows = np.concatenate([rows, rows[:1]])
    if len(rows) < 4:
        return None
    rows = _by_length(rows)
    step = float(np.hypot(*np.diff(rows[:, :2], axis=0).T).mean()) * mm
    rows = _smooth(rows, smooth_mm / step, closed=closed)
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(rows[:, :2], axis=0).T))]) * mm
    total = float(length[-1])
    if total < least_mm:
        return None
    way = _gradient(rows[:, :2], closed=closed)
    # Up is across the line: streamlines lean where thickness changes.
    white = np.column_stack([-way[:, 1], way[:, 0]])
    white *= np.sign(np.median((white * rows[:, 3:5]).sum(1)))
    bend = _bend(way, white, bend_mm / step, step, closed=closed)
    count = max(int(np.floor(total / spacing_mm + 1e-9)), 1)
    # Places are set around the middle, so that both ends are as far from their first place.
    at = (np.arange(count) + (0.0 if closed else (total / spacing_mm - count + 1) / 2)) * spacing_mm
    x, y, thick, right, down, curvature = (np.interp(at, length, c) for c in (*rows[:, :3].T, *white.T, bend))
    place = ribbon.to_um(np.column_stack([x, y]))
    return pd.DataFrame(
        {
            "x_um": place[:, 0], "y_um": place[:, 1], "angle_deg": upright(right, down), "thickness_mm": thick * mm,
            "curvature": curvature, "line": 0, "along_mm": at,
            "end_mm": np.inf if closed else np.minimum(at, total - at),
        }
    )  # fmt: skip


def _by_length(rows: Array) -> Array:
    """Rows resampled at equal steps of the line they describe."""
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(rows[:, :2], axis=0).T))])
    at = np.linspace(0, length[-1], max(len(rows), int(np.ceil(length[-1])) + 1))
    return np.stack([np.interp(at, length, rows[:, k]) for k in range(rows.shape[1])], axis=1)


def _smooth(rows: Array, sigma: float, *, closed: bool) -> Array:
    """Gaussian mean along a line; open ones go on beyond their ends, turned about them, so that ends stay in place."""
    if closed:
        smooth = gaussian_filter1d(rows[:-1], sigma, axis=0, mode="wrap")
        return np.concatenate([smooth, smooth[:1]])
    reach = min(int(4 * sigma + 1), len(rows) - 1)
    before, after = 2 * rows[0] - rows[reach:0:-1], 2 * rows[-1] - rows[-2 : -reach - 2 : -1]
    return gaussian_filter1d(np.concatenate([before, rows, after]), sigma, axis=0)[reach : reach + len(rows)]


def _gradient(values: Array, *, closed: bool) -> Array:
    """Difference per step along a line, (n, k)."""
    if closed:
        around = np.concatenate([values[-2:-1], values, values[1:2]])
        return (around[2:] - around[:-2]) / 2
    return np.gradient(values, axis=0)


def _bend(way: Array, white: Array, sigma: float, step_mm: float, *, closed: bool) -> NDArray[np.float64]:
    """Curvature of the line, 1/mm, positive where it turns around white matter."""
    unit = way / np.hypot(*way.T)[:, None]
    turn = (_gradient(unit, closed=closed) * white).sum(1) / np.hypot(*white.T)
    return _smooth(turn[:, None], sigma, closed=closed)[:, 0] / step_mm
