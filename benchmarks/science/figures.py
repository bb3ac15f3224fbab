"""The claims of the patches system as one figure: a dot a run, a bar at the mean over brains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from brodmann.maps.drawing import FAINT, INK, canvas, save, style

COLOURS = {
    "SpatialNCE": "#D55E00", "SimCLR": "#0072B2", "scratch": "#009E73", "statistics": "#CC79A7",
    "profile_sd": "#E69F00", "profile": "#56B4E9", "untrained": "#8A939E", "coordinates only": INK,
}  # fmt: skip
WORDS = {"profile_sd": "mean and SD profile", "profile": "mean profile", "statistics": "hand-made statistics"}
NUMBERS = {
    "thickness_mm": "thickness", "curvature": "curvature", "cutting_angle_deg, tilt 40": "cutting\nangle",
    "density_L2": "density\nL II", "density_L3": "L III", "density_L4": "L IV", "density_L5": "L V",
}  # fmt: skip
SHORTCUTS = {
    "vessel": "vessel\n(R²)", "section": "section", "section, among neighbours": "section, of\nthree beside",
    "brain": "brain, of\nfour",
}  # fmt: skip
CHANCE = (0.0, None, 1 / 3, 1 / 4)
PAIRS = ("P1+P2", "S1+S2", "T1+T2", "F1+F2", "Fp1+Fp2")


def draw(rows: pd.DataFrame, path: Path) -> Path:
    """Six panels from the rows of all runs; what was not measured is left empty."""
    wide = rows.pivot_table(index=["fold", "seed"], columns="row", values="value")
    with style():
        figure = canvas(12.6, 7.4)
        places = figure.subplots(2, 3, width_ratios=[1, 1, 1.3])
        _brains(places[0, 0], wide)
        _labels(places[0, 1], wide)
        _numbers(places[0, 2], wide)
        _shortcuts(places[1, 0], wide)
        _networks(places[1, 1], wide)
        _pairs(places[1, 2], wide)
        runs, brains = len(wide), wide.index.get_level_values("fold").nunique()
        figure.suptitle(
            f"Claims of the patches system on planted brains: {brains} brains held out in turn, {runs} runs; a dot a "
            "run, a bar the mean over brains", x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        return save(figure, path)


def _dots(axes: Axes, x: float, each: pd.Series, colour: str, label: str | None = None, wide: float = 0.2) -> None:
    """Runs as dots in the order of brains, and the mean over brains."""
    each = each.dropna()
    if each.empty:
        return
    shift = np.linspace(-0.35, 0.35, len(each)) * wide if len(each) > 1 else np.zeros(1)
    axes.scatter(x + shift, each, s=11, color=colour, alpha=0.65, linewidth=0)
    mean = float(each.groupby("fold").mean().mean())
    axes.plot(
        [x - wide / 2, x + wide / 2], [mean, mean], color=colour, linewidth=2.2, label=label, solid_capstyle="butt"
    )


def _groups(
    axes: Axes, wide: pd.DataFrame, ticks: Mapping[str, str], methods: Sequence[str], row: str = "{}: {}"
) -> None:
    """A group of methods at every tick; ours has the row's bare name."""
    step = 0.8 / len(methods)
    for at, name in enumerate(ticks):
        for k, method in enumerate(methods):
            column = name if method == "SpatialNCE" else row.format(name, method)
            if column in wide:
                x = at + (k - (len(methods) - 1) / 2) * step
                label = WORDS.get(method, method) if at == 0 else None
                _dots(axes, x, wide[column], COLOURS[method], label, 0.85 * step)
    axes.set_xticks(range(len(ticks)), list(ticks.values()))
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.grid(axis="y")


def _brains(axes: Axes, wide: pd.DataFrame) -> None:
    ticks = {"frozen, known brains": "unknown sections\nof known brains", "frozen, unknown brain": "unknown brain"}
    _groups(axes, wide, ticks, ("SpatialNCE", "SimCLR", "statistics", "coordinates only", "untrained"))
    axes.set_ylim(0, 1)
    axes.set_title("C1  Areas, frozen features")
    axes.set_ylabel("macro-F1 of 12 areas")
    axes.legend(loc="lower left", ncols=2, fontsize=7, handlelength=1, bbox_to_anchor=(0, 0.02))


def _labels(axes: Axes, wide: pd.DataFrame) -> None:
    counts = (60, 240, 1000, "all")
    lines = {
        "fine-tuned from SpatialNCE": ("fine-tuned from SpatialNCE, {} labels", "SpatialNCE", "-"),
        "fine-tuned from SimCLR": ("fine-tuned from SimCLR, {} labels", "SimCLR", "-"),
        "from scratch": ("fine-tuned from scratch, {} labels", "scratch", "-"),
        "SpatialNCE, frozen": ("frozen, macro-F1 from {} labels", "SpatialNCE", ":"),
        "SimCLR, frozen": ("frozen, SimCLR from {} labels", "SimCLR", ":"),
    }
    bare = {"SpatialNCE": "frozen, unknown brain", "SimCLR": "frozen, unknown brain: SimCLR"}
    for label, (row, method, dash) in lines.items():
        named = [bare[method] if count == "all" and dash == ":" else row.format(count) for count in counts]
        known = [(x, wide[name].dropna()) for x, name in enumerate(named) if name in wide]
        for x, each in known:
            axes.scatter(np.full(len(each), x), each, s=9, color=COLOURS[method], alpha=0.4, linewidth=0)
        means = [(x, each.groupby("fold").mean().mean()) for x, each in known if len(each)]
        if means:
            axes.plot(*zip(*means, strict=True), color=COLOURS[method], linestyle=dash, linewidth=1.8, label=label)
    axes.set_xticks(range(4), ["60", "240", "1,000", "all"])
    axes.set_xlabel("labelled patches of known brains")
    axes.set_ylabel("macro-F1, unknown brain")
    axes.set_title("C1  Few labels")
    axes.grid(axis="y")
    axes.legend(loc="lower right", fontsize=7)


def _numbers(axes: Axes, wide: pd.DataFrame) -> None:
    _groups(axes, wide, NUMBERS, ("SpatialNCE", "SimCLR", "profile_sd", "profile"))
    axes.set_ylim(-0.22, 1)
    axes.set_title("C2  Numbers of cortex")
    axes.set_ylabel("R² on the unknown brain")
    axes.legend(loc="lower right", ncols=2, fontsize=7, handlelength=1)


def _shortcuts(axes: Axes, wide: pd.DataFrame) -> None:
    _groups(axes, wide, SHORTCUTS, ("SpatialNCE", "SimCLR", "untrained", "statistics"))
    for at, chance in enumerate(CHANCE):
        if chance is not None:
            axes.plot([at - 0.42, at + 0.42], [chance] * 2, color=FAINT, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_title("C4  What should not be told (less is better)")
    axes.set_ylabel("balanced accuracy, or R²; dashed: chance")
    axes.legend(loc="upper left", fontsize=7, handlelength=1)


def _networks(axes: Axes, wide: pd.DataFrame) -> None:
    gain = "coordinates + features, gain over coordinates only"
    for x, name in enumerate(("networks", "networks that follow place alone")):
        if (column := f"{name}: {gain}") in wide:
            _dots(axes, x, wide[column], COLOURS["SpatialNCE"])
    axes.axhline(0, color=FAINT, linewidth=0.7)
    axes.set_xticks([0, 1], ["planted on\nstructure", "planted on\nplace alone"])
    axes.set_xlim(-0.6, 1.6)
    axes.set_title("C7  What features add to place")
    axes.set_ylabel("gain in balanced accuracy")
    axes.grid(axis="y")


def _pairs(axes: Axes, wide: pd.DataFrame) -> None:
    for x, pair in enumerate(PAIRS):
        for method, shift in (("SpatialNCE", -0.16), ("statistics", 0.16)):
            column = f"{method}, {pair}: ARI, held-out brain"
            if column in wide:
                label = WORDS.get(method, method) if x == 0 else None
                _dots(axes, x + shift, wide[column], COLOURS[method], label)
    axes.axhline(0.7, color=FAINT, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xticks(range(len(PAIRS)), [pair.replace("+", " + ") for pair in PAIRS])
    axes.set_ylim(-0.05, 1.05)
    axes.set_title("C6  Pairs of areas under one label, split without labels")
    axes.set_ylabel("ARI on the held-out brain")
    axes.grid(axis="y")
    axes.legend(loc="lower left", fontsize=7, handlelength=1)
