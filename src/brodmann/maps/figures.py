"""Figures of scores: what is confused with what, what beats which baseline, how training went."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.maps.colours import ink
from brodmann.maps.drawing import ACCENT, FAINT, canvas, series_colours, short, style
from brodmann.maps.labels import categories, codes
from brodmann.maps.numbers import by_step

Interval = tuple[float, float, float]
"""Value, lower and upper end of its interval; NaN ends where none is known."""


def confusion_table(
    truth: Sequence[str] | pd.Series | pd.Categorical, predicted: Sequence[str] | pd.Series | pd.Categorical
) -> pd.DataFrame:
    """Count (true, predicted) pairs, classes ordered so that those confused with one another are neighbours.

    Parameters
    ----------
    truth, predicted : (n,) str
        Pairs in which either is missing are left out.

    Returns
    -------
    DataFrame
        (c, c) int64; rows are true classes, columns predicted ones, in the same order. The order is the optimal leaf
        order of average linkage on ``1 - (p_ij + p_ji) / 2`` with p the row-normalised confusion.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    sides = [labels if isinstance(labels, pd.Categorical) else categories(labels) for labels in (truth, predicted)]
    number = [codes(side).astype(np.int64) for side in sides]
    known = (number[0] >= 0) & (number[1] >= 0)
    wide = len(sides[1].categories)
    pairs = np.bincount(number[0][known] * wide + number[1][known], minlength=len(sides[0].categories) * wide)
    counts = pd.DataFrame(pairs.reshape(-1, wide), index=sides[0].categories, columns=sides[1].categories)
    names = sorted({*counts.index[counts.sum(axis=1) > 0], *counts.columns[counts.sum(axis=0) > 0]})
    if not names:
        raise Refused("a confusion matrix needs samples with a true and a predicted label.", found="none.")
    counts = counts.reindex(index=names, columns=names, fill_value=0)
    if len(names) > 2:
        table = counts.to_numpy(dtype=float)
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        away = 1 - (share + share.T) / 2
        np.fill_diagonal(away, 0)
        flat = squareform(away, checks=False)
        order = cast("Any", leaves_list(optimal_leaf_ordering(linkage(flat, "average"), flat)))
        counts = counts.iloc[order, order]
    counts.index.name, counts.columns.name = "true", "predicted"
    return counts.astype(np.int64)


def confusion(counts: pd.DataFrame, *, title: str = "What is taken for what", what: str = "samples") -> Figure:
    """Row-normalised confusion in percent; each row names its n, of ``what``. Numbers are written up to 20 classes."""
    table = counts.to_numpy(dtype=float)
    total = table.sum(axis=1)
    percent = 100 * table / np.maximum(total[:, None], 1)
    size = float(np.clip(0.34 * len(counts), 2.6, 9))
    with style():
        figure = canvas(size + 2.2, size + 1.5)
        axes = figure.add_subplot()
        cells = [[_shade(value) for value in row] for row in percent]
        axes.imshow(np.array(cells) / 255.0, aspect="equal")
        names = [short(str(name), 18) for name in counts.index]
        small = 7.5 if len(names) <= 25 else 5.5
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=small)
        axes.set_yticks(
            range(len(names)), [f"{n}  ({int(t):,})" for n, t in zip(names, total, strict=True)], fontsize=small
        )
        axes.set_xlabel("predicted")
        axes.set_ylabel(f"true  (n {what})")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.2)
        axes.tick_params(which="minor", length=0)
        if len(names) <= 20:
            for (i, j), value in np.ndenumerate(percent):
                if value >= 0.5:
                    shade = "#{:02X}{:02X}{:02X}".format(*cells[i][j].astype(int))
                    axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink(shade))
        hit = float(np.trace(table) / max(table.sum(), 1))
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=9.5)
        said = f"% of each true class; {hit:.0%} of {int(table.sum()):,} {what} on the diagonal"
        figure.supxlabel(said, x=0.01, ha="left", fontsize=7.5, color=FAINT)
    return figure


def _shade(percent: float) -> NDArray[np.float64]:
    """White to deep blue, in equal steps of lightness, so that print and all eyes read it."""
    stops = np.array([[247, 249, 252], [198, 219, 239], [107, 162, 206], [33, 102, 172], [8, 48, 107]], dtype=float)
    x = np.clip(percent / 100, 0, 1) ** 0.7 * (len(stops) - 1)
    i = min(int(x), len(stops) - 2)
    return stops[i] + (x - i) * (stops[i + 1] - stops[i])


def baselines(
    scores: Mapping[str, Mapping[str, Interval]], *, metric: str, n: str, title: str = "Against every baseline"
) -> Figure:
    """Score and baselines as dots with intervals, one group per question.

    Parameters
    ----------
    scores : mapping
        Question (e.g. ``"area, brain held out"``) to {method: (value, low, high)}; the first method is the one scored.
    metric : str
        Name of the score, with its unit if it has one.
    n : str
        Size of the test, e.g. ``"9,312 patches, 30 sections"``.
    """
    methods = list(dict.fromkeys(name for group in scores.values() for name in group))
    tones = series_colours(methods)
    rows = [(question, name, group[name]) for question, group in scores.items() for name in methods if name in group]
    with style():
        figure = canvas(6.6, 1.1 + 0.3 * len(rows) + 0.35 * len(scores))
        axes = figure.add_subplot()
        y, ticks, labels = 0.0, [], []
        for index, (question, name, (value, low, high)) in enumerate(rows):
            if not index or rows[index - 1][0] != question:
                y += 0.6 if index else 0
                if len(scores) > 1:
                    axes.text(0, y, question, transform=axes.get_yaxis_transform(), fontweight="bold", va="center")
                    y += 0.9
            first = name == methods[0]
            if np.isfinite(low) and np.isfinite(high):
                axes.plot(
                    [low, high], [y, y], color=tones[name], linewidth=2.4 if first else 1.6, solid_capstyle="round"
                )
            axes.plot([value], [y], "o", color=tones[name], markersize=8 if first else 6, markeredgecolor="white")
            edge = high if np.isfinite(high) else value
            axes.annotate(
                f"{value:.3g}", (edge, y), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8,
                fontweight="bold" if first else "normal",
            )  # fmt: skip
            if first:
                axes.axvline(value, color=ACCENT, linewidth=0.8, alpha=0.35, zorder=0) if len(scores) == 1 else None
            ticks.append(y)
            labels.append(short(name, 34))
            y += 1
        axes.set_yticks(ticks, labels)
        axes.set_ylim(y - 0.3, -0.7)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        finite = [v for _, _, interval in rows for v in interval if np.isfinite(v)]
        axes.set_xlim(min(0.0, *finite), max(finite) + 0.14 * (max(finite) - min(0.0, *finite) or 1))
        drawn = any(np.isfinite(end) for _, _, interval in rows for end in interval[1:])
        about = f"n = {n}" + ("; bars: 95 % interval; of a null 5th to 95th percentile" if drawn else "; no intervals")
        # names of methods need room on the left: from the right the words have the whole width
        axes.set_xlabel(metric + "\n" + textwrap.fill(about, 72), loc="right", multialignment="right")
        axes.set_title(title)
    return figure


def learning(records: Sequence[Mapping[str, Any]], *, title: str = "Training") -> Figure:
    """Loss, and under it everything else that was logged, over steps; pale raw lines under a running median.

    Parameters
    ----------
    records : sequence of mappings
        Lines of ``metrics.jsonl``: ``step``, ``loss``, and other numbers such as ``lr``, ``gradient``, ``top1``; parts
        of the loss are a mapping ``parts`` or keys ``loss.<part>`` and share the loss's axes. A step written twice
        (after a resume) counts once, the last time.
    """
    ordered = list(by_step(records).values())
    if not ordered:
        raise Refused("a learning curve needs records with a step.", found=f"{len(records)} records.")
    steps = [int(record["step"]) for record in ordered]
    flat = pd.DataFrame([_flat(record) for record in ordered], index=pd.Index(steps))
    losses = ["loss", *sorted(name for name in flat if str(name).startswith("loss."))]
    others = sorted((str(name) for name in flat if name not in losses), key=lambda name: (name == "lr", name))[-5:]
    losses = [name for name in losses if name in flat]
    with style():
        figure = canvas(6.6, 2.9 + 0.85 * len(others))
        panels = figure.subplots(
            1 + len(others), 1, sharex=True, squeeze=False, height_ratios=[3.2] + [1] * len(others)
        )[:, 0]
        for axes, names in zip(panels, [losses, *([name] for name in others)], strict=True):
            tones = series_colours(names) if names is losses else {names[0]: FAINT}
            for name in names:
                raw = flat[name].astype(float)
                smooth = raw.rolling(max(5, len(raw) // 40), center=True, min_periods=1).median()
                if name != "lr":
                    axes.plot(raw.index, raw, color=tones[name], linewidth=0.6, alpha=0.3)
                shown = raw if name == "lr" else smooth
                axes.plot(raw.index, shown, color=tones[name], linewidth=1.8, label=name.removeprefix("loss."))
            axes.grid(axis="y")
            if names is losses:
                axes.set_ylabel("loss (nats)")
            else:
                axes.set_ylabel({"lr": "learning\nrate", "gradient": "gradient\nnorm"}.get(names[0], names[0]))
                axes.set_ylim(bottom=min(0.0, float(flat[names[0]].min())))
                axes.locator_params(axis="y", nbins=3)
        if len(losses) > 1:
            panels[0].legend()
        last = f", last loss {flat['loss'].tail(max(1, len(flat) // 40)).median():.3g}" if "loss" in flat else ""
        panels[0].set_title(f"{title}: {steps[-1] + 1:,} steps{last}")
        panels[-1].set_xlabel("optimiser step")
        panels[-1].set_xlim(steps[0], max(steps[-1], steps[0] + 1))
        figure.align_ylabels()
    return figure


def _flat(record: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of one record; parts of the loss as ``loss.<part>``."""
    nested = record.get("parts", {})
    parts = (
        {f"loss.{k}": v for k, v in cast("Mapping[str, Any]", nested).items()} if isinstance(nested, Mapping) else {}
    )
    aside = {"step", "crc", "time", "timestamp", "parts", "total"}
    own = {key: value for key, value in record.items() if key not in aside}
    items = {**({"loss": record["total"]} if "total" in record else {}), **own, **parts}
    return {str(k): float(v) for k, v in items.items() if isinstance(v, int | float) and not isinstance(v, bool)}
