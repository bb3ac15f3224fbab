"""A contact sheet: sections with the outline of tissue, a bar, and where the axes of the space point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brodmann.patches import tissue
from brodmann.space import Space

if TYPE_CHECKING:
    from brodmann.maps.labels import Picture

_WORDS = {
    "r": "right",
    "l": "left",
    "a": "anterior",
    "p": "posterior",
    "s": "superior",
    "i": "inferior",
}


def draw(name: str, space: Space, sections: list[Any], *, limit: int) -> Any:
    """Sections side by side, each with its outline of tissue, its own points, a bar and the axes' words.

    Parameters
    ----------
    name : str
        Title.
    space : Space
        Of the sections' places; "unregistered" has no axes to show.
    sections : list
        Sections of stained tissue, or pictures of cells (drawn by their density, without outline).
    limit : int
        Most sections shown, evenly chosen.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    chosen = [
        sections[i] for i in np.unique(np.linspace(0, len(sections) - 1, min(limit, len(sections))).round().astype(int))
    ]
    bar = 1.0 if max(section.width_um for section in chosen) > 1500 else 0.1
    columns = min(5, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure: Any = Figure(figsize=(max(3.0 * columns, 6.0), 2.6 * rows + 0.4), dpi=120, layout="constrained")
    count = (
        f"{len(sections)} sections"
        if len(chosen) == len(sections)
        else (f"{len(chosen)} of {len(sections)} sections, evenly chosen,")
    )
    figure.suptitle(f"{name}: {count} in {space.name}; bar {bar:g} mm", fontsize=9)
    axes: Any = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, section in zip(axes, chosen, strict=False):
        _show(axis, section, space, bar)
    return figure


def coarse(section: Picture, px: int) -> float:
    """Pixel size, um, at which the longer side of a section has so many pixels."""
    return max(section.width_um, section.height_um) / px


def centre(section: Picture) -> NDArray[np.float64]:
    """Middle of a section (3,), mm in its space."""
    return section.place(np.array([[section.width_um / 2, section.height_um / 2]]))[0]


def directions(section: Picture) -> NDArray[np.float64]:
    """Rightwards and upwards on the section, as (2, 3) in the space: mm per mm on the slide."""
    x, y = section.width_um / 2, section.height_um / 2
    at = section.place(np.array([[x, y], [x + 1000, y], [x, y - 1000]]))
    return at[1:] - at[0]


def _axis_word(direction: NDArray[np.float64], space: Space) -> str:
    """Word for where a direction mainly points, e.g. 'left' or '+y'."""
    axis = int(np.argmax(np.abs(direction)))
    letter, forward = space.orientation[axis], bool(direction[axis] > 0)
    if letter not in _WORDS:
        return f"{'+' if forward else '-'}{letter}"
    opposite = {"r": "l", "l": "r", "a": "p", "p": "a", "s": "i", "i": "s"}
    return _WORDS[letter if forward else opposite[letter]]


def _show(axis: Any, section: Any, space: Space, bar: float) -> None:
    """One section: pixels, outline of tissue, own points, bar, axis words."""
    pixel_um = coarse(section, 360)
    overview = section.overview(pixel_um)
    found = tissue.mask(overview) if hasattr(section, "points") else None
    width, height = section.width_um / 1000, section.height_um / 1000
    mm = pixel_um / 1000
    extent = (0, overview.shape[2] * mm, overview.shape[1] * mm, 0)
    picture = np.moveaxis(overview, 0, -1)
    axis.imshow(picture if section.channels == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=255, extent=extent)
    if found is not None and found.any() and not found.all():
        centres = [(np.arange(size) + 0.5) * mm for size in (found.shape[1], found.shape[0])]
        axis.contour(*centres, found.astype(float), levels=[0.5], colors="#00a050", linewidths=0.6)
    points = getattr(section, "points", None)
    if points is not None:
        some = points.iloc[:: max(len(points) // 300, 1)]
        axis.plot(some["x_um"] / 1000, some["y_um"] / 1000, ",", color="#d04000")
    axis.plot(
        [0.04 * width, 0.04 * width + bar], [0.95 * height] * 2, color="#c00000", linewidth=2, solid_capstyle="butt"
    )
    right, up = directions(section)
    through = np.cross(right, up)
    if space.name != "unregistered":
        blue = "#2040c0"
        arrow: dict[str, Any] = {"arrowprops": {"arrowstyle": "<-", "color": blue}, "color": blue, "fontsize": 6}
        arrow |= {"xycoords": "axes fraction", "ha": "center", "va": "center"}
        for word, tip in ((_axis_word(right, space), (0.3, 0.08)), (_axis_word(up, space), (0.08, 0.32))):
            axis.annotate(word, xy=(0.08, 0.08), xytext=tip, **arrow)
        depth = centre(section)[int(np.argmax(np.abs(through)))]
        title = f"{section.id}  ({'xyz'[int(np.argmax(np.abs(through)))]} {depth:.2f} mm)"
    else:
        title = f"{section.id}  ({section.subject})"
    axis.set_title(title, fontsize=6)
    axis.set_axis_off()
