"""Figures of attribution: which pixels of a patch speak for its area, beside a structure known to be there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from brodmann.errors import Usage
from brodmann.maps.drawing import FAINT, INK, bare, round_length, style

Maps = NDArray[np.floating]
Mask = NDArray[np.bool_]

SPEAKS, OUTLINE = "#D55E00", "#0072B2"
_SMOOTH_PX = 1.0
_CELL, _SIDE, _GAP = 1.45, 1.2, 0.07


def figure(
    density: Maps,
    maps: Maps,
    names: NDArray[Any],
    *,
    pixel_um: float,
    upright: bool = True,
    outlines: Mask | None = None,
    outlined: str = "known structure",
    beside: Maps | None = None,
    notes: Mapping[str, str] | None = None,
    subtitle: str = "",
    title: str = "Where it looks: pixels that make a linear probe name the area",
) -> Figure:
    """Patches under what decides: a row of patches an area, tissue in grey, what speaks for the area in colour.

    Parameters
    ----------
    density : ndarray (n, H, W)
        Stain of each patch; more is darker.
    maps : ndarray (n, H, W)
        Attribution; what is positive is shown, smoothed over one pixel, each patch on its own scale: full colour is
        the 99th percentile. The line encloses the pixels that hold the densest half of it.
    names : ndarray (n,) str
        Area of each patch; areas stand in order of appearance.
    pixel_um : float
        For the scale bar.
    upright : bool
        Whether the pia is up: then a last panel shows attribution over depth, mean of the row's patches.
    outlines : ndarray (n, H, W) bool, optional
        A structure that is known to be there.
    outlined : str
        What it is.
    beside : ndarray (n, H, W), optional
        The same by an encoder that learned nothing; shown over depth.
    notes : mapping of str to str, optional
        Lines under the name of an area.
    subtitle, title : str

    Raises
    ------
    Usage
        Shapes differ.
    """
    density, maps = np.asarray(density, dtype=np.float64), np.asarray(maps, dtype=np.float64)
    shapes = {density.shape, maps.shape, density.shape if outlines is None else outlines.shape}
    if len(shapes) > 1 or density.ndim != 3 or len(names) != len(density) or not len(names):
        raise Usage(
            "patches, maps and outlines should have one shape (n, H, W), and each patch a name.", found=f"{shapes}."
        )
    areas = [*dict.fromkeys(str(name) for name in names)]
    rows = [np.flatnonzero(names.astype(str) == area) for area in areas]
    across = max(len(row) for row in rows)
    left, top, bottom = 0.95, 0.62 + (0.2 if subtitle else 0), 0.5
    tall = _CELL * density.shape[1] / density.shape[2]
    wide = left + across * (_CELL + _GAP) + (0.25 + _SIDE if upright else 0) + 0.15
    high = top + len(rows) * (tall + _GAP) + bottom
    strong = smoothed(maps)
    plain = None if beside is None else smoothed(beside)
    # one scale for all areas, so that their peaks can be compared
    peaks = [_lines(mass[row]).mean(axis=0).max() for row in rows for mass in (strong, plain) if mass is not None]
    most = float(max(peaks)) * 1.1
    with style():
        made = Figure(figsize=(wide, high))
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(made)

        def place(x: float, y: float, width: float, height: float) -> Axes:
            return made.add_axes((x / wide, (high - y - height) / high, width / wide, height / high))

        for index, (area, row) in enumerate(zip(areas, rows, strict=True)):
            y = top + index * (tall + _GAP)
            made.text(0.12 / wide, 1 - (y + tall / 2 - 0.08) / high, area, fontweight="bold", fontsize=11, va="center")
            if notes and area in notes:
                made.text(
                    0.12 / wide, 1 - (y + tall / 2 + 0.03) / high, notes[area], fontsize=6.8, va="top", color=FAINT
                )
            for slot, k in enumerate(row):
                axes = place(left + slot * (_CELL + _GAP), y, _CELL, tall)
                _patch(axes, density[k], strong[k], None if outlines is None else outlines[k])
                if not index and not slot:
                    _bar(axes, density.shape, pixel_um)
            if upright:
                axes = place(left + across * (_CELL + _GAP) + 0.18, y, _SIDE, tall)
                part = None if outlines is None else outlines[row]
                other = None if plain is None else plain[row]
                _depths(axes, density[row], strong[row], part, other, most=max(most, 1.5), last=index == len(rows) - 1)
        made.text(0.12 / wide, 1 - 0.2 / high, title, fontweight="bold", fontsize=11, va="center")
        made.text(0.12 / wide, 1 - 0.42 / high, subtitle, fontsize=8, color=FAINT, va="center")
        _key(made, wide, high, outlined if outlines is not None else "", untrained=upright and plain is not None)
        if upright:
            x = left + across * (_CELL + _GAP) + 0.18 + _SIDE / 2
            made.text(x / wide, 1 - (top - 0.1) / high, "over depth", fontsize=8, ha="center", color=FAINT)
    return made


def smoothed(maps: Maps, sigma_px: float = _SMOOTH_PX) -> Maps:
    """What speaks for the answer: signed maps (n, H, W) smoothed, negative values cut, mass 1 in each patch."""
    soft = cast("Any", ndimage).gaussian_filter(np.asarray(maps, dtype=np.float64), (0, sigma_px, sigma_px)).clip(min=0)
    return soft / np.maximum(soft.sum(axis=(1, 2), keepdims=True), 1e-30)


def half(mass: Maps) -> float:
    """Level above which the densest half of the mass (H, W) lies; infinity where there is none."""
    ordered = np.sort(mass.ravel())[::-1]
    total = ordered.cumsum()
    return float(ordered[np.searchsorted(total, total[-1] / 2)]) if total[-1] > 0 else np.inf


def _patch(axes: Axes, density: Maps, mass: Maps, outline: Mask | None) -> None:
    low, high = np.percentile(density, [1, 99.5])
    grey = 0.97 - 0.85 * np.clip((density - low) / max(high - low, 1e-9), 0, 1)
    strength = np.clip(mass / max(float(np.percentile(mass, 99)), 1e-30), 0, 1)[..., None]
    colour = np.array(to_rgb(SPEAKS))
    # multiplied rather than laid over: cells stay visible under the strongest colour
    tint = 1 - 0.95 * strength * (1 - colour)
    axes.imshow(np.clip(grey[..., None] * tint, 0, 1), interpolation="nearest")
    level = half(mass)
    if np.isfinite(level):
        axes.contour(mass, levels=[level], colors=[SPEAKS], linewidths=0.6, alpha=0.9)
    if outline is not None and outline.any():
        edge = outline.astype(float)
        axes.contour(edge, levels=[0.5], colors=["white"], linewidths=1.3, alpha=0.7)
        axes.contour(edge, levels=[0.5], colors=[OUTLINE], linewidths=0.7)
    bare(axes)


def _bar(axes: Axes, shape: tuple[int, ...], pixel_um: float) -> None:
    """Bar of a round length inside the lower left corner."""
    length_um = round_length(shape[2] * pixel_um / 3)
    px, (height, width) = length_um / pixel_um, shape[1:]
    x, y = 0.06 * width, 0.93 * height
    axes.plot([x, x + px], [y, y], color="white", linewidth=4, solid_capstyle="butt")
    axes.plot([x, x + px], [y, y], color=INK, linewidth=2, solid_capstyle="butt")
    axes.text(
        x + px / 2, y - 0.03 * height, f"{length_um:g} µm", ha="center", va="bottom", fontsize=7,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _lines(mass: Maps) -> Maps:
    """Mass of each line of pixels (n, H), in units of what an even map has there."""
    return mass.sum(axis=2) * mass.shape[1]


def _depths(
    axes: Axes, density: Maps, mass: Maps, outline: Mask | None, beside: Maps | None, *, most: float, last: bool
) -> None:
    """Attribution in each line of pixels, mean and spread of patches; the stain beside it, the structure behind it."""
    each = _lines(mass)
    y = np.arange(each.shape[1])
    if outline is not None:
        # small bodies lie on few lines; the eye wants to know the depth they come from
        share = cast("Any", ndimage).gaussian_filter1d(outline.mean(axis=(0, 2)), 2.0)
        band = share / max(float(share.max()), 1e-9)
        axes.imshow(
            np.dstack([np.broadcast_to(to_rgb(OUTLINE), (len(y), 1, 3)), 0.35 * band[:, None]]),
            extent=(0, 1, len(y) - 0.5, -0.5), aspect="auto", transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    stain = density.mean(axis=(0, 2))
    stain = (stain - stain.min()) / max(float(np.ptp(stain)), 1e-9)
    axes.plot(stain * most * 0.9, y, color=FAINT, linewidth=0.7, alpha=0.8)
    low, high = np.percentile(each, [25, 75], axis=0)
    axes.fill_betweenx(y, low, high, color=SPEAKS, alpha=0.25, linewidth=0)
    if beside is not None:
        axes.plot(_lines(beside).mean(axis=0), y, color=INK, linewidth=0.8, linestyle=(0, (1, 1)))
    axes.plot(each.mean(axis=0), y, color=SPEAKS, linewidth=1.5)
    axes.axvline(1, color=FAINT, linewidth=0.6, linestyle=(0, (3, 3)))
    axes.set_ylim(len(y) - 0.5, -0.5)
    axes.set_xlim(0, most)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(labelsize=6.5, length=2, pad=1.5)
    axes.locator_params(axis="x", nbins=3)
    if last:
        axes.set_xlabel("× an even map", fontsize=7, labelpad=1)
    else:
        axes.tick_params(labelbottom=False)


def _key(made: Figure, wide: float, high: float, outlined: str, *, untrained: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=SPEAKS, alpha=0.75, label="speaks for the area"),
        Line2D([], [], color=SPEAKS, linewidth=1.2, label="densest half of it"),
        Line2D([], [], color=FAINT, linewidth=0.8, label="stain"),
    ]
    if untrained:
        handles.append(Line2D([], [], color=INK, linewidth=0.8, linestyle=(0, (1, 1)), label="untrained encoder"))
    if outlined:
        handles.append(Line2D([], [], color=OUTLINE, linewidth=1.2, label=outlined))
    made.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.12 / wide, 0.04 / high), ncols=len(handles), fontsize=7.5,
        handlelength=1.3, columnspacing=1.3, borderaxespad=0,
    )  # fmt: skip
