"""What a source of cells is and what looks odd about it, in words; `brodmann.inspection` puts them on one screen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cells.pictures import pictures
from brodmann.cells.recipe import Cells
from brodmann.cells.samples import FEWEST
from brodmann.cells.source import Source
from brodmann.cells.spacing import median_distance
from brodmann.dots import Dots
from brodmann.errors import Refused

_LOOKED = 60
"""Sections whose spacing and place are measured, evenly chosen."""


@dataclass(frozen=True)
class Measured:
    """One section, measured.

    Parameters
    ----------
    picture : Dots
    cells : int
    nearest_um : float
        Median distance to the nearest cell; NaN for a single cell.
    stretch : tuple of two float
        Length in the space, mm, of 1 mm rightwards and of 1 mm downwards.
    """

    picture: Dots
    cells: int
    nearest_um: float
    stretch: tuple[float, float]


def opened(path: Path) -> tuple[Source, list[Measured]]:
    """Open cells as `brodmann.cells.open` does, and measure them."""
    from brodmann import cells

    source = cells.open(cells.Recipe(), path)
    return source, measured(source)


def measured(source: Source) -> list[Measured]:
    """Sections of a source, at most 60, measured."""
    drawn = pictures(source)
    found: list[Measured] = []
    for at in np.unique(np.linspace(0, len(drawn) - 1, min(len(drawn), _LOOKED)).round().astype(int)):
        rows = source.sections[at].rows
        nearest = median_distance([np.asarray(source.xy_um[rows.start : rows.stop], np.float64)], 1)
        corners = drawn[at].place(np.array([[0.0, 0.0], [1000.0, 0.0], [0.0, 1000.0]]))
        right, down = np.linalg.norm(corners[1:] - corners[0], axis=1).tolist()
        found.append(Measured(drawn[at], len(rows), nearest, (right, down)))
    return found


def facts(source: Source, looked: list[Measured]) -> list[tuple[str, str]]:
    """Label and value, in reading order."""
    sections = source.sections
    animals = Counter(section.subject for section in sections)
    most = ", ".join(f"{name} ({count})" for name, count in animals.most_common(6)) + ", ..." * (len(animals) > 6)
    sizes = sorted(len(section.rows) for section in sections)
    nearest_um = _median([one.nearest_um for one in looked])
    nearest = f"the nearest cell lies {nearest_um:.3g} um away (median)"
    if np.isnan(nearest_um):
        nearest = "no section has two cells"
    trained = "a recipe of cells fits: cells-tiny, cells" if _counted(source) >= FEWEST else "too few to train on"
    um = "um" if source.unit == "um" else "arbitrary: rescaled, not true um"
    width, height = (max(getattr(one.picture, side) for one in looked) / 1000 for side in ("width_um", "height_um"))
    span = np.ptp(np.asarray(source.xyz_mm), axis=0)
    apart = source.space.name == "unregistered"
    found = [
        ("read as", f"cells; {trained}"),
        ("cells", f"{len(source):,}; {' to '.join(f'{n:,}' for n in dict.fromkeys((sizes[0], sizes[-1])))} a section"),
        ("sections", f"{len(sections)} of {len(animals)} animal{'s' * (len(animals) > 1)}: {most}"),
        ("genes", _genes(source)),
        ("counts", _counts(source)),
        ("unit", f"{um}; {nearest}"),
        ("section size", f"up to {width:.3g} x {height:.3g} mm"),
        ("space", f"{source.space.name} (mm, axes {source.space.orientation}); origin: {source.space.origin}"),
        *([] if apart else [("cells span", " x ".join(f"{value:.3g}" for value in span) + " mm")]),
        ("types", _types(source)),
        ("labels", _labels(source.labels)),
        ("fingerprint", source.fingerprint[:16]),
    ]
    if apart:
        found.append(("note", "sections are not registered: distances hold within a section only"))
    if len(animals) == 1 and len(sections) > 1:
        found.append(("note", 'splits by brain need more than one animal; state "subject" if there are more'))
    return found


def refusal(source: Source) -> str:
    """Why no recipe takes these cells, trained or not; empty where one does."""
    if _counted(source):
        return ""
    found = f"0 of {len(source):,}" + ("" if len(source.panel) else ", for no genes were found") + "."
    do = 'name the table (CSV) or the layer (h5ad) in cells.json: "counts": ....'
    return str(Refused("recipes of cells learn from counts: cells should have some.", found=found, do=do))


def doubts(source: Source, looked: list[Measured]) -> list[str]:
    """What the user should know, and what looks odd."""
    found = list(source.remarks)
    if (counted := _counted(source)) < FEWEST:
        found.append(
            f"{counted:,} of {len(source):,} cells have counts, {FEWEST} are needed to train a recipe: give more, or "
            "describe these by a trained run (brodmann embed RUN --data ...)"
        )
    silent = float((source.total_counts == 0).mean())
    if len(source.panel) and silent > 0.2:
        found.append(f"{silent:.0%} of the cells have no counts: other cells, or genes left out?")
    near = {one.picture.id: one.nearest_um for one in looked if one.nearest_um > 0}
    usual = _median(list(near.values()))
    odd = [name for name, um in near.items() if not 1 / 3 < um / usual < 3]
    if odd:
        found.append(
            f"cells are not the usual {usual:.3g} um apart on {len(odd)}: {', '.join(odd)[:120]}. Another unit?"
        )
    if source.space.name != "unregistered":
        slabs = [length for one in looked if one.cells > 50 for length in one.stretch]
        if slabs and (max(slabs) > 1.5 or min(slabs) < 0.67):
            found.append(
                f"registration stretches sections by {min(slabs):.2f} to {max(slabs):.2f}: a wrong unit or transform?"
            )
    return found


def _counted(source: Source) -> int:
    """Cells that recipes take by themselves: those of one count or more."""
    return int((np.asarray(source.total_counts) >= Cells().least_counts).sum())


def _median(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else float("nan")


def _genes(source: Source) -> str:
    if not len(source.panel):
        return "none: types and places only"
    dropped = len(source.panel.dropped)
    return f"{len(source.panel):,}" + (f" ({dropped:,} blank and control probes left out)" if dropped else "")


def _counts(source: Source) -> str:
    if not len(source.panel):
        return "none"
    kinds: NDArray[np.int64] = np.diff(np.asarray(source.indptr))
    silent = int((source.total_counts == 0).sum())
    each = f"{np.median(source.total_counts):,.0f} a cell, of {np.median(kinds):,.0f} genes (medians)"
    return each + (f"; {silent:,} cells have none" if silent else "")


def _types(source: Source) -> str:
    if source.types is None:
        return "none"
    known = np.asarray(source.types)
    count = np.bincount(known[known >= 0], minlength=len(source.type_names))
    first = [source.type_names[at] for at in np.argsort(-count, kind="stable")[:4]]
    more = ", ..." * (len(source.type_names) > 4)
    return f"{len(source.type_names)} for {(known >= 0).mean():.0%} of the cells: {', '.join(first)}{more}"


def _labels(labels: pd.DataFrame) -> str:
    shown = [
        f"{name} ({labels[name].cat.categories.size})" if isinstance(kind, pd.CategoricalDtype) else str(name)
        for name, kind in list(labels.dtypes.items())[:8]
    ]
    return ", ".join(shown) + ", ..." * (len(labels.columns) > 8) if shown else "none"
