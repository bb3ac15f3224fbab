"""Where a score was wrong: the classes most often taken for others, with what the model was shown there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brodmann.maps.drawing import FAINT, short, style
from brodmann.maps.labels import codes, column
from brodmann.maps.sheets import patch


def mistaken(table: AnnData, *, pairs: int = 5, each: int = 6) -> pd.DataFrame:
    """Rows that were taken for another class, of the pairs that lost most of their class.

    Parameters
    ----------
    table : AnnData
        With columns ``truth`` and ``predicted``, missing where a row was not judged.
    pairs : int
        At most so many (truth, predicted) pairs, by the share of the true class that was lost; a share counts in
        full from five rows on.
    each : int
        Rows of a pair, evenly spread over the table and so over its sections.

    Returns
    -------
    DataFrame
        ``row``, ``truth``, ``predicted``, ``lost`` (rows of the pair), ``of`` (judged rows of the true class); best
        known pair first. Empty where nothing was wrong.
    """
    truth, predicted = column(table, "truth"), column(table, "predicted")
    names = sorted({*map(str, truth.categories), *map(str, predicted.categories)})
    true, said = (codes(side.set_categories(names)).astype(np.int64) for side in (truth, predicted))
    rows = np.flatnonzero((true >= 0) & (said >= 0))
    counts = np.bincount(true[rows] * len(names) + said[rows], minlength=len(names) ** 2).reshape(len(names), -1)
    total = counts.sum(1)
    lost = counts / np.maximum(total, 5)[:, None]
    np.fill_diagonal(lost, 0)
    listed: list[pd.DataFrame] = []
    for pair in np.argsort(-lost.ravel(), kind="stable")[:pairs].tolist():
        t, p = divmod(pair, len(names))
        if not lost[t, p]:
            break
        found = rows[(true[rows] == t) & (said[rows] == p)]
        some = found[np.unique(np.linspace(0, len(found) - 1, min(each, len(found))).round().astype(int))]
        listed.append(
            pd.DataFrame(
                {"row": some, "truth": names[t], "predicted": names[p], "lost": len(found), "of": int(total[t])}
            )
        )
    heads = ["row", "truth", "predicted", "lost", "of"]
    return pd.concat(listed, ignore_index=True) if listed else pd.DataFrame(columns=pd.Index(heads))


def failures(
    table: AnnData, found: pd.DataFrame, crop: Callable[[int], NDArray[np.uint8]], *, field_mm: float | None = None
) -> Figure:
    """Mistaken rows as their pictures, a line per pair of classes.

    Parameters
    ----------
    table : AnnData
    found : DataFrame
        Of `mistaken`; not empty.
    crop : callable
        Row to its picture, (C, H, W) or (H, W) uint8.
    field_mm : float, optional
        Side of a picture, mm, for the title; left out where the scale is not known.
    """
    obs = cast("pd.DataFrame", table.obs)
    lines = [mine for _, mine in found.groupby(["truth", "predicted"], sort=False)]
    most = max(len(mine) for mine in lines)
    cell, above, words, gap, left = 1.2, 0.62, 0.5, 0.1, 0.15
    width = max(left + most * (cell + gap) + 0.15, 5.2)
    height = above + len(lines) * (cell + words)
    with style():
        figure = Figure(figsize=(width, height))
        for line, mine in enumerate(lines):
            top = height - above - line * (cell + words)
            one = mine.iloc[0]
            said = f"{short(str(one['truth']), 26)}  taken for  {short(str(one['predicted']), 26)}"
            figure.text(left / width, (top - 0.06) / height, said, fontweight="bold", fontsize=8.5, va="center")
            share = f"{one['lost']:,} of {one['of']:,} rows"
            figure.text(
                1 - 0.15 / width, (top - 0.06) / height, share, fontsize=7.5, color=FAINT, va="center", ha="right"
            )
            for index, row in enumerate(mine["row"].astype(int).tolist()):
                x, y = left + index * (cell + gap), top - 0.18 - cell
                axes = figure.add_axes((x / width, y / height, cell / width, cell / height))
                patch(axes, crop(row))
                for spine in axes.spines.values():
                    spine.set(visible=True, color="#D55E00", linewidth=1.4, linestyle=(0, (3, 1.5)))
                axes.set_xlabel(short(str(obs["section"].iloc[row]), 17), fontsize=6.8, labelpad=2)
        note = f"  ·  {field_mm:.3g} mm wide" if field_mm else ""
        figure.text(left / width, 1 - 0.2 / height, "Failure cases", fontweight="bold", fontsize=10, va="center")
        figure.text(
            left / width, 1 - 0.4 / height, f"pairs that lost most of a class; rows spread over the sections{note}",
            fontsize=7.5, color=FAINT, va="center",
        )  # fmt: skip
    return figure


def listed(table: AnnData, found: pd.DataFrame) -> pd.DataFrame:
    """The mistaken rows by id and place, for a table beside the figure."""
    obs = cast("Any", table.obs)
    rows = found["row"].astype(int).to_numpy()
    known = [name for name in ("id", "subject", "section", "x_um", "y_um", "x_mm", "y_mm", "z_mm") if name in obs]
    return pd.concat([obs[known].iloc[rows].reset_index(drop=True), found.drop(columns="row")], axis=1)
