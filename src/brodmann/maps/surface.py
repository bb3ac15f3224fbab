"""Rows of a table on a cortical surface: each vertex takes its nearest row, or stays blank; GIFTI and pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import spatial

from brodmann.cortex import gifti
from brodmann.cortex.mesh import Mesh
from brodmann.errors import Refused
from brodmann.features import space_of
from brodmann.maps import colours as colour_of
from brodmann.maps.drawing import FAINT, bare, beside, legend, length, round_length, short, style, thousands
from brodmann.maps.labels import Key, Labels, aligned
from brodmann.maps.rendering import FLAT, Drawn, View, render
from brodmann.maps.section import write_names
from brodmann.space import Space

if TYPE_CHECKING:
    from anndata import AnnData

Array = NDArray[np.float64]

_PER_INCH = 180
BLANK = "#DFE2E6"
"""Colour of vertices of which nothing is known."""
SIDES = (View(0.0, 0.0, "from the right"), View(180.0, 0.0, "from the left"))
"""Both sides of a hemisphere, in spaces whose first axis leads to the right."""


@dataclass(frozen=True, eq=False)
class Projection:
    """Which row of a table stands for each vertex.

    Attributes
    ----------
    row : (n,) int64
        Row of the table; -1 where none lies near enough.
    away_mm : (n,) float64
        Distance to that row; infinite where there is none.
    within_mm : float
        Largest distance at which a row may stand for a vertex.
    """

    row: NDArray[np.int64]
    away_mm: Array
    within_mm: float

    @property
    def covered(self) -> float:
        """Share of the vertices that have a row."""
        return float((self.row >= 0).mean())

    def of(self, values: NDArray[Any], blank: Any) -> NDArray[Any]:
        """Values (rows, ...) of a table at the vertices, (n, ...); ``blank`` where there is no row."""
        result = np.asarray(values)[np.maximum(self.row, 0)]
        result[self.row < 0] = blank
        return result


def project(
    table: AnnData, surface: Mesh, space: Space, *, within_mm: float, rows: NDArray[np.int64] | None = None
) -> Projection:
    """Nearest row of a table to every vertex of a surface, within a distance that is stated, not guessed.

    Distances are straight lines: give the mid-cortical surface and rows along mid-cortex, and less than half the
    distance between the banks of a sulcus, or a row may stand for the bank that faces it.

    Parameters
    ----------
    table : AnnData
        ``obsm["xyz"]`` (rows, 3), mm in ``space``.
    surface : Mesh
        Vertices (n, 3), mm in ``space``.
    space : Space
        Of the surface; must be the table's.
    within_mm : float
        A vertex without a row this near stays blank.
    rows : (m,) int64, optional
        Only these rows, e.g. of one brain.

    Returns
    -------
    Projection

    Raises
    ------
    SpaceMismatch
        The table is in another space.
    Refused
        The distance is not positive, sections were never registered, or no vertex has a row.
    """
    space_of(table).require(space)
    if space.name == "unregistered":
        raise Refused("a surface needs rows that share its space.", found="sections that were never registered.")
    if not (np.isfinite(within_mm) and within_mm > 0):
        raise Refused("within_mm should be a positive number of mm.", found=str(within_mm))
    space.check(surface.vertices, what="vertices of the surface")
    some = np.arange(table.n_obs) if rows is None else np.asarray(rows)
    xyz = np.asarray(cast("Any", table.obsm)["xyz"], dtype=np.float64)[some]
    if not len(xyz):
        raise Refused("a surface needs rows to show.", found="none.")
    # the tree's bound is open, ours is closed
    bound = float(np.nextafter(within_mm, np.inf))
    away, nearest = cast("Any", spatial).cKDTree(xyz).query(surface.vertices, distance_upper_bound=bound)
    found = np.isfinite(away)
    if not found.any():
        least = float(cast("Any", spatial).cKDTree(surface.vertices).query(xyz)[0].min())
        raise Refused(
            f"some vertices should have a row within {within_mm:g} mm.",
            found=f"none; the nearest row is {least:.2f} mm from the surface.",
            cause="rows of another brain, a mesh of another space or unit, or too small a reach.",
            do=f"give a mesh in RAS mm about the origin of '{space.name}' ({space.origin}), or a larger reach.",
        )
    return Projection(np.where(found, np.append(some, -1)[np.where(found, nearest, -1)], -1), away, within_mm)


def labels_at(table: AnnData, labels: Labels, at: Projection, key: Key | None = None) -> tuple[NDArray[np.int32], Key]:
    """Value of each vertex in a key, (n,) int32, 0 where it is blank or its row has no label; and the key."""
    names = aligned(table, labels)
    key = key or Key.of(names)
    return at.of(key.values(names).astype(np.int32), 0), key


def write_labels(path: Path | str, table: AnnData, labels: Labels, at: Projection, *, key: Key | None = None) -> Path:
    """Write labels at the vertices as GIFTI (``.label.gii``), with names and colours, and a key beside it.

    Returns
    -------
    Path
    """
    values, key = labels_at(table, labels, at, key)
    out = _ending(path, ".label.gii")
    gifti.write_labels(out, values, key.mapping, name=labels if isinstance(labels, str) else "labels")
    key.write(out.with_name(out.name.removesuffix(".gii").replace(".label", "") + ".csv"))
    return out


def write_numbers(path: Path | str, columns: Mapping[str, NDArray[Any]], at: Projection) -> Path:
    """Write numbers of rows at the vertices as GIFTI (``.func.gii``), a named column each, NaN where blank.

    ``distance_mm`` is added: how far the row that stands for a vertex is from it.
    """
    out = _ending(path, ".func.gii")
    held = {name: at.of(np.asarray(values, np.float64), np.nan) for name, values in columns.items()}
    held["distance_mm"] = np.where(at.row >= 0, at.away_mm, np.nan)
    gifti.write_values(out, np.column_stack(list(held.values())), names=list(held))
    return out


def _ending(path: Path | str, ending: str) -> Path:
    plain = Path(path)
    if not plain.name.endswith(ending):
        raise Refused(f"the name of this file should end in {ending}.", found=plain.name)
    return plain


@dataclass(frozen=True, eq=False)
class Painting:
    """Colours of vertices and what they mean.

    Attributes
    ----------
    title : str
    rgb : (n, 3) float64
        0 to 1.
    legend : mapping of str to str
        Name to colour of classes; empty for numbers.
    region : (n,) int32 or None
        Class of each vertex, between which lines are drawn; values of ``key``.
    key : Key or None
        Names of the classes, written on the flat map where they have room: colour is then not the only cue.
    bar : (low, high, name) or None
        Ends of the scale of numbers, and their name with its unit.
    note : str
        A line under the legend.
    """

    title: str
    rgb: Array
    legend: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())
    region: NDArray[np.int32] | None = None
    key: Key | None = None
    bar: tuple[float, float, str] | None = None
    note: str = ""


def classes(title: str, values: NDArray[np.integer], key: Key, *, note: str = "") -> Painting:
    """Paint values of a key, (n,); 0 is blank."""
    rgb = key.rgb.astype(np.float64) / 255
    rgb[0] = colour_of.rgb(BLANK) / 255
    number = np.asarray(values).astype(np.int32)
    present = key.present([number.astype(np.uint16)])
    return Painting(title, rgb[number], present, number, key, note=note)


def numbers(
    title: str, values: NDArray[np.floating], name: str, *, limits: tuple[float, float] | None = None, note: str = ""
) -> Painting:
    """Paint numbers, (n,), NaN being blank; ``limits`` of the colours are the 2nd and 98th percentile by default."""
    import matplotlib as mpl

    plain = np.asarray(values, np.float64)
    if not np.isfinite(plain).any():
        raise Refused(f"'{name}' should be known of some vertex.", found="no finite number.")
    low, high = limits or tuple(float(v) for v in np.nanpercentile(plain, [2, 98]))
    share = np.clip((plain - low) / max(high - low, 1e-12), 0, 1)
    rgb = np.asarray(mpl.colormaps[colour_of.SEQUENTIAL](np.nan_to_num(share)))[:, :3]
    rgb = np.where(np.isfinite(plain)[:, None], rgb, colour_of.rgb(BLANK) / 255)
    return Painting(title, rgb, bar=(low, high, name), note=note)


def components(title: str, features: NDArray[np.floating], at: Projection, *, note: str = "") -> Painting:
    """Paint the first three principal components of the rows that stand for vertices as red, green and blue.

    Parameters
    ----------
    features : (rows, d) floating
        Of the table.
    """
    picked, where = np.unique(at.row[at.row >= 0], return_inverse=True)
    x = np.asarray(features[picked], dtype=np.float64)
    x -= x.mean(axis=0)
    _, size, axes = np.linalg.svd(x, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    rgb = np.tile(colour_of.rgb(BLANK) / 255, (len(at.row), 1))
    rgb[at.row >= 0] = colour_of.place_rgb(x @ axes[:3].T)[where.reshape(-1)]
    share = float((size[:3] ** 2).sum() / (size**2).sum())
    said = f"Red, green, blue: components 1, 2, 3, with {share:.0%} of the variance."
    return Painting(title, rgb, note=f"{said} {note}".strip())


def draw(
    surface: Mesh,
    paintings: Sequence[Painting],
    *,
    views: Sequence[View] = SIDES,
    flat: Array | None = None,
    flat_name: str = "unfolded",
    relief: Array | None = None,
    title: str = "",
    note: str = "",
    width_in: float = 11.0,
) -> Figure:
    """Draw a surface from its sides and, where it is given, flat: a row a painting, all to one scale.

    Parameters
    ----------
    surface : Mesh
    paintings : sequence of Painting
        With a colour per vertex.
    views : sequence of View
    flat : (n, 2) float64, optional
        Place of each vertex on a plane, mm: the unfolded sheet, or an inflated surface seen from one side.
    relief : (n,) float64, optional
        Mean curvature (1/mm, crowns positive): sulci are drawn darker.
    title, note : str
        Above and below the pictures.

    Returns
    -------
    Figure
    """
    if not paintings or any(len(one.rgb) != len(surface.vertices) for one in paintings):
        raise Refused(
            "every painting should have a colour per vertex.",
            found=f"{[len(one.rgb) for one in paintings]} for {len(surface.vertices)} vertices.",
        )
    shade = None if relief is None else 0.90 + 0.10 * np.tanh(6.0 * np.nan_to_num(relief))
    lines = textwrap.wrap(note, int(width_in * 13.5))
    side, gap, above, below, heading = 1.75, 0.18, 0.62, 0.36 + 0.15 * max(len(lines) - 1, 0), 0.26
    spans = [np.ptp((surface.vertices[surface.used] @ view.axes.T)[:, :2], axis=0) for view in views]
    unfolded = None if flat is None else np.column_stack([flat, np.zeros(len(flat))])
    if unfolded is not None:
        spans.append(np.ptp(unfolded[surface.used][:, :2], axis=0))
    wide = np.array([span[0] + 1.0 for span in spans])
    inches = (width_in - side - gap * (len(spans) + 1)) / wide.sum()  # per mm
    tall = max(span[1] + 1.0 for span in spans) * inches
    height = above + len(paintings) * (tall + heading) + below
    pixel = 1 / (inches * _PER_INCH)
    with style():
        figure = Figure(figsize=(width_in, height))
        if title:
            figure.text(
                gap / width_in, 1 - 0.22 / height, short(title, 120), fontweight="bold", fontsize=11, va="center"
            )
        before: Mapping[str, str] | None = None
        for row, painting in enumerate(paintings):
            top = height - above - row * (tall + heading)
            figure.text(
                gap / width_in, (top + 0.02) / height, painting.title, fontweight="bold", fontsize=9.5, va="center"
            )
            left = gap
            for number, span in enumerate(spans):
                flat_now = number >= len(views)
                drawn = render(
                    unfolded if flat_now and unfolded is not None else surface.vertices, surface.faces, painting.rgb,
                    FLAT if flat_now else views[number], pixel_mm=pixel, shade=shade, region=painting.region,
                    lit=not flat_now,
                )  # fmt: skip
                name = "" if row else flat_name if flat_now else views[number].name
                here = span[0] + 1.0, span[1] + 1.0
                corner = left, top - heading / 2 - tall + (tall - here[1] * inches) / 2
                axes = _panel(figure, drawn, corner, (here[0] * inches, here[1] * inches), name)
                if flat_now and painting.key is not None and painting.region is not None:
                    values = np.where(drawn.vertex >= 0, painting.region[np.maximum(drawn.vertex, 0)], 0)
                    write_names(
                        axes, values.astype(np.uint16), painting.key, mm_per_pixel=pixel, inches=here[1] * inches
                    )
                if not number and row == len(paintings) - 1:
                    _bar(figure, left, below - 0.18, inches, wide[0])
                left += here[0] * inches + gap
            axes = figure.add_axes(
                (1 - side / width_in, (top - heading / 2 - tall) / height, (side - 0.1) / width_in, tall / height)
            )
            axes.axis("off")
            _meaning(figure, axes, painting, tall, said=painting.legend == before and bool(before))
            before = painting.legend or before
        for number, line in enumerate(lines):
            up = below - 0.18 - 0.15 * number
            figure.text((gap + 1.7) / width_in, up / height, line, fontsize=7.5, color=FAINT, va="center")
    return figure


def _panel(figure: Figure, drawn: Drawn, corner: tuple[float, float], size: tuple[float, float], name: str) -> Any:
    """One picture at a corner (inches from the lower left) of a size (inches)."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((corner[0] / width, corner[1] / height, size[0] / width, size[1] / height))
    axes.imshow(drawn.image, extent=drawn.extent, aspect="auto", interpolation="lanczos")
    bare(axes)
    if name:
        axes.set_title(name, fontsize=7.5, fontweight="normal", color=FAINT, pad=2, loc="right")
    return axes


def _bar(figure: Figure, left: float, up: float, inches: float, about_mm: float) -> None:
    """Scale bar of a round length; all panels have one scale."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    bar = round_length(about_mm / 4)
    ends = [left / width, (left + bar * inches) / width]
    figure.add_artist(Line2D(ends, [up / height] * 2, color="#1B1F24", linewidth=2, solid_capstyle="butt"))
    figure.text(ends[1] + 0.06 / width, up / height, length(bar), fontsize=8, va="center")


def _meaning(figure: Figure, axes: Any, painting: Painting, tall: float, *, said: bool) -> None:
    """Legend, scale or note of one painting."""
    del figure
    blank = painting.region is not None and bool((painting.region == 0).any())
    listed = {**({} if said else painting.legend), **({"nothing near": BLANK} if blank else {})}
    if listed:
        fit = beside(len(listed), tall - 0.3)
        fit["columns"] = min(fit["columns"], 2)
        legend(axes, listed, **fit, loc="upper left", bbox_to_anchor=(0, 1), fontsize=7)
    if painting.bar is not None:
        low, high, name = painting.bar
        inner = axes.inset_axes((0.0, 0.35, 0.09, 0.5))
        inner.imshow(
            np.linspace(1, 0, 128)[:, None], cmap=colour_of.SEQUENTIAL, aspect="auto", extent=(0, 1, low, high)
        )
        inner.set_xticks([])
        inner.yaxis.tick_right()
        inner.set_title(name, fontsize=7.5, fontweight="normal", loc="left")
    if painting.note:
        axes.text(
            0,
            0.02,
            "\n".join(textwrap.wrap(painting.note, 30)),
            fontsize=6.8,
            color=FAINT,
            va="bottom",
            transform=axes.transAxes,
            wrap=False,
        )


def summary(at: Projection, *, rows: int) -> str:
    """How a surface was painted, in words."""
    median = float(np.median(at.away_mm[at.row >= 0]))
    return (
        f"each vertex shows its nearest of {thousands(rows, 'patches')}, at most {length(at.within_mm)} away "
        f"(median {length(round(median, 2))}); {at.covered:.0%} of the vertices have one"
    )
