"""Sheets of small pictures: all sections of a map, and what the features call similar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.maps.drawing import ACCENT, FAINT, bare, beside, legend, scale_bar, short, style, thousands
from brodmann.maps.labels import Key, Labels, Picture, aligned, codes, column, rows_of, scaled, used
from brodmann.maps.section import overlay

if TYPE_CHECKING:
    from anndata import AnnData


def contact(
    table: AnnData,
    labels: Labels,
    pictures: Sequence[Picture],
    *,
    colours: Mapping[str, str] | None = None,
    key: Key | None = None,
    title: str = "",
    limit: int = 30,
    columns: int = 6,
    stain: Literal["gray", "colour"] = "gray",
) -> Figure:
    """Sections of a map on one sheet, at one scale, with one legend; brains of several sections begin their own rows.

    Parameters
    ----------
    labels : Labels
    pictures : sequence of Picture
        Sections in the order to show; those without samples are left out. More than ``limit`` are thinned evenly,
        within each brain, and the title says so.
    key : Key, optional
        Of all sections, made once by a caller that draws many sheets.
    """
    names = aligned(table, labels)
    key = key or Key.of(names, colours)
    known = set(used(column(table, "section")))
    usable = [picture for picture in pictures if picture.id in known]
    if not usable:
        raise Refused(
            "a contact sheet needs sections with samples.", found=f"{len(pictures)} sections, none in the table."
        )
    rows = _rows(usable, limit, columns)
    chosen = [picture for _, row in rows for picture in row]
    titles = _titles(chosen, int(9.2 / min(columns, len(chosen)) * 11), named=any(brain for brain, _ in rows))
    across = max(len(row) for _, row in rows)
    width_um, height_um = max(p.width_um for p in chosen), max(p.height_um for p in chosen)
    cell = min(2.4, 9.2 / across)
    tall = cell * height_um / width_um
    pixel = width_um / (cell * 170)
    gap, above, below, caption, heading = 0.1, 0.5, 0.45, 0.2, 0.27
    pitch = tall + caption + gap
    high = len(rows) * pitch + heading * sum(bool(brain) for brain, _ in rows)
    painted = {one.id: overlay(table, names, one, pixel_um=pixel, key=key, stain=stain) for one in chosen}
    listed = key.present(values for _, values in painted.values())
    fit = beside(len(listed), high)
    side = 1.7 * fit["columns"]
    width, height = gap + across * (cell + gap) + side, above + high + below
    with style():
        figure = Figure(figsize=(width, height))
        top = height - above
        for brain, row in rows:
            if brain:
                figure.text(gap / width, (top - 0.13) / height, short(brain, 60), fontweight="bold", va="center")
                top -= heading
            for index, picture in enumerate(row):
                image = painted[picture.id][0]
                size = cell * image.shape[1] * pixel / width_um, tall * image.shape[0] * pixel / height_um
                corner = gap + index * (cell + gap), top - caption - size[1]
                axes = figure.add_axes((corner[0] / width, corner[1] / height, size[0] / width, size[1] / height))
                extent = (0, image.shape[1] * pixel / 1000, image.shape[0] * pixel / 1000, 0)
                axes.imshow(image, extent=extent, aspect="auto")
                bare(axes)
                axes.set_title(short(titles[picture.id], int(cell * 13)), fontsize=7, fontweight="normal", pad=3)
                if row is rows[-1][1] and not index:
                    scale_bar(axes, image.shape[1] * pixel / 1000, known=scaled(picture))
            top -= pitch
        rest = figure.add_axes(
            (1 - (side - gap) / width, below / height, (side - gap) / width, 1 - (above + below + caption) / height)
        )
        rest.axis("off")
        legend(rest, listed, **fit, loc="upper left", bbox_to_anchor=(0, 1), fontsize=7.5)
        some = (
            thousands(len(usable), "sections")
            if len(chosen) == len(usable)
            else f"{len(chosen)} of {len(usable)} sections"
        )
        held = thousands(int((codes(names) >= 0).sum()), "samples") if len(usable) == len(known) else ""
        said = ", ".join(part for part in (some, held) if part)
        text = f"{title or (labels if isinstance(labels, str) else 'labels')}  ·  {said}"
        figure.text(gap / width, 1 - 0.2 / height, short(text, 110), fontweight="bold", fontsize=10, va="center")
    return figure


def _rows(pictures: Sequence[Picture], limit: int, columns: int) -> list[tuple[str, list[Picture]]]:
    """Rows of a sheet, each with its heading: the brain, where brains of several sections begin rows of their own."""

    def thinned(some: Sequence[Picture], most: int) -> list[Picture]:
        return [some[i] for i in np.unique(np.linspace(0, len(some) - 1, min(most, len(some))).round().astype(int))]

    brains: dict[str, list[Picture]] = {}
    for picture in pictures:
        brains.setdefault(picture.subject, []).append(picture)
    each = limit // len(brains)
    each -= each % columns if each > columns else 0
    rows: list[tuple[str, list[Picture]]] = []
    if len(brains) > 1 and min(each, len(pictures) // len(brains)) >= columns // 2:
        for brain, mine in brains.items():
            kept = thinned(mine, each)
            rows += [("" if i else brain, kept[i : i + columns]) for i in range(0, len(kept), columns)]
        return rows
    kept = thinned(pictures, limit)
    return [("", kept[i : i + columns]) for i in range(0, len(kept), columns)]


def _titles(pictures: Sequence[Picture], room: int, *, named: bool) -> dict[str, str]:
    """Titles of sections by id; they name the brain, where there are several and neither id nor heading does."""
    several = len({picture.subject for picture in pictures}) > 1 and not named
    plain = all(picture.subject in picture.id for picture in pictures)
    short_of = _endings([picture.id for picture in pictures], room)
    return {
        picture.id: f"{picture.subject} · {short_of[picture.id]}" if several and not plain else short_of[picture.id]
        for picture in pictures
    }


def _endings(names: Sequence[str], room: int) -> dict[str, str]:
    """Names as they are, or, where one has no room, without the beginning that all share."""
    if max(map(len, names)) <= room or len(names) < 2:
        return {name: name for name in names}
    low, high = min(names), max(names)  # what these two share, all share
    shared = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    while shared and any(name[shared - 1].isalnum() for name in names):
        shared -= 1  # whole words only: "s004" and "s014" must not become "04" and "14"
    return {name: f"…{name[shared:]}" if shared else name for name in names}


def strips(
    table: AnnData,
    neighbours: Mapping[str, Sequence[str]],
    crop: Callable[[int], NDArray[np.uint8]],
    *,
    label: str | None = None,
    field_mm: float | None = None,
    title: str = "Query, and its nearest in feature space in other brains",
) -> Figure:
    """Each query patch with its nearest patches; a frame says whether the label agrees.

    Parameters
    ----------
    table : AnnData
    neighbours : mapping
        Id of the query to ids of its nearest, nearest first.
    crop : callable
        Row of the table to its patch, (C, H, W) or (H, W) uint8.
    label : str, optional
        Column of ``obs`` written under each patch.
    field_mm : float, optional
        Side of a patch, mm, for the title; left out where the scale is not known.
    """
    brains = cast("pd.DataFrame", table.obs)["subject"]
    at = rows_of(table, [*neighbours, *(name for found in neighbours.values() for name in found)])
    every = None if label is None else aligned(table, label)
    names = None if every is None else {one: every[row] for one, row in at.items()}
    apart = cast("Mapping[str, Any]", table.uns.get("space", {})).get("name") == "unregistered"
    xyz = None if apart or "xyz" not in table.obsm else np.asarray(cast("Any", table.obsm["xyz"]))
    k = max((len(found) for found in neighbours.values()), default=0)
    if not k:
        raise Refused("strips need at least one query with a neighbour.", found="none.")
    cell, caption, gap, left, above = 1.25, 0.42, 0.1, 0.15, 0.75
    width, height = left + (k + 1) * (cell + gap) + 0.25, above + len(neighbours) * (cell + caption)
    with style():
        figure = Figure(figsize=(width, height))
        for row, (query, found) in enumerate(neighbours.items()):
            for index, sample in enumerate([query, *found]):
                x = left + index * (cell + gap) + (0.2 if index else 0)
                y = height - above - row * (cell + caption) - cell
                axes = figure.add_axes((x / width, y / height, cell / width, cell / height))
                patch(axes, crop(at[sample]))
                same = names is None or names[sample] == names[query]
                tone, thick = (ACCENT, 2.4) if not index else (FAINT, 0.8) if same else ("#D55E00", 2.0)
                for spine in axes.spines.values():
                    spine.set(visible=True, color=tone, linewidth=thick, linestyle="-" if same else (0, (3, 1.5)))
                lines = [] if names is None else [short(str(names[sample]), 20)]
                where = short(str(brains.iloc[at[sample]]), 14)
                if index and xyz is not None:
                    away = float(np.linalg.norm(xyz[at[sample]].astype(float) - xyz[at[query]]))
                    where += f", {away:.1f} mm"
                axes.set_xlabel("\n".join([*lines, where]), fontsize=6.8, labelpad=3)
        note = [f"patch {field_mm:g} mm wide"] if field_mm else []
        note += ["dashed: another label"] if names is not None else []
        note += ["mm: distance from the query in the common space"] if xyz is not None else []
        figure.text(
            left / width, 1 - 0.2 / height, short(title, int(width * 11)), fontweight="bold", fontsize=10, va="center"
        )
        figure.text(left / width, 1 - 0.43 / height, "  ·  ".join(note), fontsize=7.5, color=FAINT, va="center")
        for x, text in ((left, "query"), (left + cell + gap + 0.2, "nearest →")):
            figure.text(x / width, 1 - 0.65 / height, text, fontsize=7.5, color=FAINT, va="center")
    return figure


def patch(axes: Any, image: NDArray[np.uint8]) -> None:
    """Draw what a model was shown, (C, H, W) or (H, W) uint8, without ticks."""
    plain = np.asarray(image)
    if plain.ndim == 3:
        plain = plain[0] if plain.shape[0] == 1 else np.moveaxis(plain[:3], 0, -1)
    axes.imshow(plain, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="bilinear")
    axes.set_xticks([])
    axes.set_yticks([])
