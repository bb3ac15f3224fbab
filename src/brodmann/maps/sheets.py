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
from brodmann.maps.labels import Key, Picture, aligned, ids
from brodmann.maps.section import overlay

if TYPE_CHECKING:
    from anndata import AnnData


def contact(
    table: AnnData,
    labels: str | pd.Series,
    pictures: Sequence[Picture],
    *,
    colours: Mapping[str, str] | None = None,
    title: str = "",
    limit: int = 24,
    columns: int = 6,
    stain: Literal["gray", "colour"] = "gray",
) -> Figure:
    """All sections of a map on one sheet, at one scale, with one legend.

    Parameters
    ----------
    labels : column of ``obs`` or Series indexed by id
    pictures : sequence of Picture
        Sections in the order to show; those without samples are left out. More than ``limit`` are thinned evenly, and
        the title says so.
    """
    names = aligned(table, labels)
    key = Key.of(names, colours)
    known = set(cast("pd.DataFrame", table.obs)["section"].astype(str))
    usable = [picture for picture in pictures if picture.id in known]
    if not usable:
        raise Refused(
            "a contact sheet needs sections with samples.", found=f"{len(pictures)} sections, none in the table."
        )
    chosen = [
        usable[i] for i in np.unique(np.linspace(0, len(usable) - 1, min(limit, len(usable))).round().astype(int))
    ]
    titles = _endings([picture.id for picture in chosen], int(9.2 / min(columns, len(chosen)) * 11))
    across, down = min(columns, len(chosen)), -(-len(chosen) // columns)
    width_um, height_um = max(p.width_um for p in chosen), max(p.height_um for p in chosen)
    cell = min(2.4, 9.2 / across)
    tall = cell * height_um / width_um
    pixel = width_um / (cell * 170)
    painted = [overlay(table, names, picture, pixel_um=pixel, key=key, stain=stain) for picture in chosen]
    listed = key.present(values for _, values in painted)
    gap, above, below, caption = 0.1, 0.5, 0.45, 0.2
    fit = beside(len(listed), down * (tall + caption + gap))
    side = 1.7 * fit["columns"]
    width, height = gap + across * (cell + gap) + side, above + down * (tall + caption + gap) + below
    with style():
        figure = Figure(figsize=(width, height))
        for index, (picture, (image, _)) in enumerate(zip(chosen, painted, strict=True)):
            row, column = divmod(index, across)
            top = height - above - row * (tall + caption + gap) - caption
            box = (
                gap + column * (cell + gap),
                top - tall,
                cell * image.shape[1] * pixel / width_um,
                tall * image.shape[0] * pixel / height_um,
            )
            axes = figure.add_axes((box[0] / width, (box[1] + tall - box[3]) / height, box[2] / width, box[3] / height))
            axes.imshow(
                image, extent=(0, image.shape[1] * pixel / 1000, image.shape[0] * pixel / 1000, 0), aspect="auto"
            )
            bare(axes)
            axes.set_title(short(titles[picture.id], int(cell * 13)), fontsize=7, fontweight="normal", pad=3)
            if row == down - 1 and not column:
                scale_bar(axes, image.shape[1] * pixel / 1000)
        rest = figure.add_axes(
            (1 - (side - gap) / width, below / height, (side - gap) / width, 1 - (above + below + caption) / height)
        )
        rest.axis("off")
        legend(rest, listed, **fit, loc="upper left", bbox_to_anchor=(0, 1), fontsize=7.5)
        held = int((names.notna() & (names.astype(str) != "")).sum())
        some = (
            thousands(len(usable), "sections")
            if len(chosen) == len(usable)
            else f"{len(chosen)} of {len(usable)} sections"
        )
        text = f"{title or str(names.name or 'labels')}  ·  {some}, {thousands(held, 'samples')}"
        figure.text(gap / width, 1 - 0.2 / height, short(text, 110), fontweight="bold", fontsize=10, va="center")
    return figure


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
    crop: Callable[[str], NDArray[np.uint8]],
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
        Id to its patch, (C, H, W) or (H, W) uint8.
    label : str, optional
        Column of ``obs`` written under each patch.
    field_mm : float, optional
        Side of a patch, mm, for the title.
    """
    obs = cast("pd.DataFrame", table.obs).set_axis(ids(table))
    names = None if label is None else aligned(table, label)
    xyz = None
    if "xyz" in table.obsm:
        xyz = pd.DataFrame(np.asarray(cast("Any", table.obsm["xyz"]), dtype=float), index=obs.index)
    k = max((len(found) for found in neighbours.values()), default=0)
    if not k:
        raise Refused("strips need at least one query with a neighbour.", found="none.")
    cell, caption, gap, left, above = 1.25, 0.42, 0.1, 0.15, 0.75
    width, height = left + (k + 1) * (cell + gap) + 0.25, above + len(neighbours) * (cell + caption)
    with style():
        figure = Figure(figsize=(width, height))
        for row, (query, found) in enumerate(neighbours.items()):
            for column, sample in enumerate([query, *found]):
                x = left + column * (cell + gap) + (0.2 if column else 0)
                y = height - above - row * (cell + caption) - cell
                axes = figure.add_axes((x / width, y / height, cell / width, cell / height))
                _patch(axes, crop(sample))
                same = names is None or names[sample] == names[query]
                tone, thick = (ACCENT, 2.4) if not column else (FAINT, 0.8) if same else ("#D55E00", 2.0)
                for spine in axes.spines.values():
                    spine.set(visible=True, color=tone, linewidth=thick, linestyle="-" if same else (0, (3, 1.5)))
                lines = [] if names is None else [short(str(names[sample]), 20)]
                where = short(str(obs.loc[sample, "subject"]), 14)
                if column and xyz is not None:
                    away = float(np.linalg.norm(xyz.loc[sample].to_numpy() - xyz.loc[query].to_numpy()))
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


def _patch(axes: Any, image: NDArray[np.uint8]) -> None:
    plain = np.asarray(image)
    if plain.ndim == 3:
        plain = plain[0] if plain.shape[0] == 1 else np.moveaxis(plain[:3], 0, -1)
    axes.imshow(plain, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="bilinear")
    axes.set_xticks([])
    axes.set_yticks([])
