"""Pictures of told layers: sections and patches beside what was drawn, and how well each layer was told.

H and W pixels of a section at the patches' pixel size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brodmann.maps.colours import PALETTE
from brodmann.maps.drawing import ACCENT, FAINT, bare, canvas, legend, save, scale_bar, short, style, thousands
from brodmann.maps.labels import Key, Picture
from brodmann.tasks.layers import NO_LAYER

Image = NDArray[np.uint8]
Plane = NDArray[np.uint8]
Values = NDArray[np.uint16]
Shown = tuple[str, Image, Plane, Plane]
"""A patch: words, image (C, H, W), told and true classes (H, W)."""

_WHITE = "#D9D4C7"


@dataclass(frozen=True, eq=False, kw_only=True)
class Told:
    """One section whose layers were told.

    Parameters
    ----------
    picture : Picture
    classes : tuple of str
        In the order of depth.
    predicted : ndarray (H, W) uint8
        255 where no patch lies.
    truth : ndarray (H, W) uint8, optional
        Drawn layers under the same patches; None where they are not drawn.
    pixel_um : float
        Of both.
    patches : int
        How many told it.
    """

    picture: Picture
    classes: tuple[str, ...]
    predicted: Plane
    truth: Plane | None
    pixel_um: float
    patches: int


def depth_key(classes: Sequence[str]) -> Key:
    """Colours of layers in the order of depth; what lies above the pia has none, white matter a pale one."""
    layers = [name for name in classes if name not in NO_LAYER]
    colour = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(layers)}
    if "white matter" in classes:
        colour["white matter"] = _WHITE
    return Key(tuple(colour), tuple(colour.values()))


def values(plane: Plane, classes: Sequence[str], key: Key) -> Values:
    """Values of the key (H, W): 0 where nothing is told, or what is told is no layer and no white matter."""
    number = {name: value for value, name in enumerate(key.names, start=1)}
    table = np.zeros(256, np.uint16)
    table[: len(classes)] = [number.get(name, 0) for name in classes]
    return table[plane]


def page(
    path: Path,
    told: Told,
    image: Image,
    said: Values,
    true: Values | None,
    key: Key,
) -> None:
    """One section: what was told, with the drawn borders as lines, beside what was drawn, or above it."""
    window = _window(said if true is None else np.maximum(said, true))
    image, said = image[:, *window], said[window]
    panels = [("predicted", filled(image, said, key))]
    if true is not None:
        true = true[window]
        panels[0] = ("predicted; lines: the drawn borders", panels[0][1])
        panels.append(("drawn", filled(image, true, key)))
    count = sum(name not in NO_LAYER for name in key.names)
    mm, (high, wide) = told.pixel_um / 1000, said.shape
    stacked = wide > 1.5 * high
    across = 9.5 if stacked else min(5.6, 6.5 * wide / high)
    tall = across * high / wide
    gap, above, below, side, caption = 0.15, 0.4, 0.5, 1.4, 0.3
    columns, rows = (1, len(panels)) if stacked else (len(panels), 1)
    width, height = gap + columns * (across + gap) + side, above + rows * (tall + caption) + below
    with style():
        figure = Figure(figsize=(width, height))
        drawn: list[Any] = []
        for number, (title, shown) in enumerate(panels):
            row, column = (number, 0) if stacked else (0, number)
            x, y = gap + column * (across + gap), height - above - (row + 1) * (tall + caption)
            axes = figure.add_axes((x / width, y / height, across / width, tall / height))
            axes.imshow(shown, extent=(0.0, wide * mm, high * mm, 0.0), aspect="auto", interpolation="antialiased")
            bare(axes)
            axes.set_title(title, pad=4)
            drawn.append(axes)
        if true is not None:
            _borders(drawn[0], np.where(true <= count, true, 0), mm)
        scale_bar(drawn[-1 if stacked else 0], wide * mm)
        rest = figure.add_axes((1 - side / width, 0, (side - gap) / width, 1 - (above + caption) / height))
        rest.axis("off")
        legend(rest, key.present([said] if true is None else [said, true]), loc="upper left", bbox_to_anchor=(0, 1))
        one = told.picture
        heading = short(one.id if one.subject in one.id else f"{one.id}  ·  {one.subject}", 72)
        figure.text(gap / width, 1 - 0.2 / height, heading, fontweight="bold", fontsize=10.5, va="center")
        note = f"told by {told.patches:,} patches"
        if true is not None:
            inside = (true > 0) & (true <= count) & (said > 0)
            same = float((said == true)[inside].mean()) if inside.any() else float("nan")
            note += f"  ·  the drawn layer is told at {same:.0%} of {int(inside.sum()):,} cortical pixels"
        figure.text(gap / width, 0.14 / height, note, fontsize=8, color=FAINT, va="center")
    save(figure, path, svg=False)


def filled(image: Image, plane: Values, key: Key, opacity: float = 0.5) -> Image:
    """Stain in grey under translucent layers, (H, W, 3) uint8; borders are where colours meet."""
    under = image.astype(np.float32).mean(axis=0)[:, :, None]
    share = np.where(plane > 0, opacity, 0.0)[:, :, None]
    return ((1 - share) * under + share * key.rgb[plane]).round().astype(np.uint8)


def _borders(axes: Any, plane: Values, mm: float) -> None:
    """Lines around every value but 0 of a label image whose pixels are ``mm`` wide."""
    x, y = ((np.arange(size) + 0.5) * mm for size in plane.shape[::-1])
    for value in np.unique(plane):
        if value:
            axes.contour(x, y, (plane == value).astype(np.float32), levels=[0.5], colors="#000000", linewidths=0.45)


def _window(values: Values) -> tuple[slice, slice]:
    """The part of a section where something is told, with a rim."""
    spans: list[slice] = []
    for axis in (1, 0):
        at = np.flatnonzero((values > 0).any(axis=axis))
        size = values.shape[1 - axis]
        rim = max(4, size // 40)
        spans.append(slice(max(at[0] - rim, 0), min(at[-1] + rim + 1, size)) if len(at) else slice(0, size))
    return spans[0], spans[1]


def contact(small: Sequence[tuple[str, Image, float]], key: Key, count: int) -> Figure:
    """All sections, or the first of them, at one scale."""
    columns = min(4, len(small))
    rows = -(-len(small) // columns)
    wide, high = (max(one.shape[axis] * um for _, one, um in small) / 1000 for axis in (1, 0))
    across, gap, above, below, side = 9.0 / columns, 0.12, 0.5, 0.35, 1.7
    across = min(across, 4.2)
    tall = across * high / wide
    width, height = gap + columns * (across + gap) + side, above + rows * (tall + 0.28) + below
    with style():
        figure = Figure(figsize=(width, height))
        for number, (name, image, um) in enumerate(small):
            row, column = divmod(number, columns)
            size = across * image.shape[1] * um / 1000 / wide, tall * image.shape[0] * um / 1000 / high
            x, y = gap + column * (across + gap), height - above - row * (tall + 0.28) - 0.2 - size[1]
            axes = figure.add_axes((x / width, y / height, size[0] / width, size[1] / height))
            extent = (0.0, image.shape[1] * um / 1000, image.shape[0] * um / 1000, 0.0)
            axes.imshow(image, extent=extent, aspect="auto", interpolation="antialiased")
            bare(axes)
            axes.set_title(short(name, int(across * 13)), fontsize=7, fontweight="normal", pad=3)
            if row == rows - 1 and not column:
                scale_bar(axes, image.shape[1] * um / 1000)
        rest = figure.add_axes((1 - side / width, below / height, (side - gap) / width, 1 - (above + below) / height))
        rest.axis("off")
        legend(rest, key.mapping, loc="upper left", bbox_to_anchor=(0, 1))
        some = f"{len(small)} of {count}" if len(small) < count else f"{count}"
        heading = f"Layers as told  ·  {thousands(count, 'sections') if some == f'{count}' else f'{some} sections'}"
        figure.text(gap / width, 1 - 0.2 / height, heading, fontweight="bold", fontsize=10, va="center")
    return figure


def each(score: Any, key: Key) -> Figure:
    """Dice of each class and the error of each border, with intervals."""
    dice = [(name, score.more[f"Dice, {name}"]) for name in key.names if f"Dice, {name}" in score.more]
    ends = ("border ", ", um")
    off = [
        (name.removeprefix(ends[0]).removesuffix(ends[1]), item)
        for name, item in score.more.items()
        if name.startswith(ends[0]) and " to " in name and name.endswith(ends[1])
    ]
    with style():
        figure = canvas(7.6, 1.1 + 0.3 * max(len(dice), len(off), 3))
        panels = figure.subplots(1, 2 if off else 1, squeeze=False)[0]
        for axes, rows, label in zip(panels, (dice, off), ("Dice", "distance of the border (µm)"), strict=False):
            for y, (name, item) in enumerate(rows):
                tone = key.mapping.get(name, ACCENT) if rows is dice else ACCENT
                tone = FAINT if tone == _WHITE else tone
                if np.isfinite(item.low):
                    axes.plot([item.low, item.high], [y, y], color=tone, linewidth=2.4, solid_capstyle="round")
                axes.plot([item.value], [y], "o", color=tone, markersize=7, markeredgecolor="white", clip_on=False)
                far = item.high if np.isfinite(item.high) else item.value
                axes.annotate(
                    f"{item.value:.2f}" if rows is dice else f"{item.value:.0f}", (far, y), xytext=(7, 0),
                    textcoords="offset points", va="center", fontsize=8,
                )  # fmt: skip
            axes.set_yticks(range(len(rows)), [short(name, 28) for name, _ in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            most = max((v for _, item in rows for v in (item.value, item.high) if np.isfinite(v)), default=1.0)
            axes.set_xlim(0, 1.08 if rows is dice else 1.18 * most)
            axes.set_xlabel(label)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        if off and "border error, um" in score.more:
            panels[1].axvline(score.more["border error, um"].value, color=FAINT, linewidth=1, linestyle=(0, (4, 2)))
    return figure


def strip(patches: Sequence[Shown], classes: Sequence[str], key: Key, field_mm: float) -> Figure:
    """A column for each patch: its stain, what was told, what was drawn."""
    cell, gap, left, above, side = 1.5, 0.08, 0.35, 0.68, 1.4
    width, height = left + len(patches) * (cell + gap) + side, above + 3 * (cell + gap) + 0.1
    with style():
        figure = Figure(figsize=(width, height))
        for column, (words, image, told, true) in enumerate(patches):
            gray = image if image.shape[0] == 1 else image[:3]
            rows = [gray[0] if len(gray) == 1 else np.moveaxis(gray, 0, -1)]
            rows += [filled(gray, values(plane, classes, key), key) for plane in (told, true)]
            for row, shown in enumerate(rows):
                x, y = left + column * (cell + gap), height - above - (row + 1) * (cell + gap)
                axes = figure.add_axes((x / width, y / height, cell / width, cell / height))
                axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                bare(axes)
                if not row:
                    axes.set_title(words, fontsize=6.8, fontweight="normal", pad=3)
                if not column:
                    axes.set_ylabel(("stain", "predicted", "drawn")[row], fontsize=8.5, fontweight="bold")
        rest = figure.add_axes((1 - (side - 0.1) / width, 0, (side - 0.1) / width, 1 - above / height))
        rest.axis("off")
        legend(rest, key.mapping, loc="upper left", bbox_to_anchor=(0, 1))
        title = f"Held-out patches, {field_mm:.3g} mm wide"
        figure.text(0.1 / width, 1 - 0.2 / height, title, fontweight="bold", fontsize=10, va="center")
    return figure
