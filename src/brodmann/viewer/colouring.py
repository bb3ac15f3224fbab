"""One colour per row: classes, numbers, places or features, as numbers into a palette that server and page share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.maps.colours import MISSING, SEQUENTIAL, rgb
from brodmann.maps.labels import Key

_STEPS = 256
_SHADES = 32
_MOST = 4096
"""Classes beyond which a legend, a palette and a reader are all lost."""


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """Colours of all rows.

    Parameters
    ----------
    title : str
        Of the legend.
    kind : {"classes", "number", "rgb"}
        What the values stand for; ``rgb`` has no legend but its words.
    values : (n,) uint16
        Row of the palette for each row of the table; 0 where nothing is known.
    palette : (m, 3) uint8
        RGB; row 0 is for what is not known.
    names : tuple of str
        Of classes: name of palette row ``i + 1``.
    counts : tuple of int
        Of classes: how many rows.
    low, high : float
        Of numbers: what the first and the last colour stand for.
    about : str
        What a reader must know, in words.
    """

    title: str
    kind: Literal["classes", "number", "rgb"]
    values: NDArray[np.uint16]
    palette: NDArray[np.uint8]
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 1.0
    about: str = ""

    def plain(self) -> dict[str, Any]:
        """What the page needs for palette and legend; the values go as bytes."""
        return {
            "title": self.title, "kind": self.kind, "names": self.names, "counts": self.counts, "low": self.low,
            "high": self.high, "about": self.about,
            "palette": [
                "#{:02X}{:02X}{:02X}".format(*row) for row in ([] if self.kind == "rgb" else self.palette.tolist())
            ],
        }  # fmt: skip


def classes(title: str, names: pd.Categorical, key: Key, *, about: str = "") -> Colouring:
    """Colours of named classes, as every other picture of the run gives them.

    Parameters
    ----------
    names : Categorical (n,)
    key : Key
        Names and colours; may know more names than occur here, so that a truth and its prediction share colours.
    """
    values = key.values(names)
    counts = np.bincount(values, minlength=len(key.names) + 1)[1:]
    palette = np.concatenate([_MISSING[None], key.rgb[1:]])
    return Colouring(
        title=title, kind="classes", values=values.astype(np.uint16), palette=palette, names=key.names,
        counts=tuple(counts.tolist()), about=about,
    )  # fmt: skip


def numbers(
    title: str, values: NDArray[np.floating], *, share: tuple[float, float] = (1, 99), about: str = ""
) -> Colouring:
    """Colours of a number; the ends of the scale are percentiles, so that a few extremes do not flatten the rest.

    Parameters
    ----------
    values : (n,) float
        NaN where it is not known.
    share : (low, high)
        Percentiles that the first and the last colour stand for.
    """
    import matplotlib

    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    low, high = np.percentile(values[known], share).tolist() if known.any() else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, low + 0.5
    step = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1) * (_STEPS - 1)
    ramp = cast("Any", matplotlib).colormaps[SEQUENTIAL](np.linspace(0, 1, _STEPS))[:, :3]
    return Colouring(
        title=title, kind="number", values=np.where(known, 1 + step.round(), 0).astype(np.uint16),
        palette=np.concatenate([_MISSING[None], (ramp * 255).round().astype(np.uint8)]), low=low, high=high,
        about=about or f"the ends of the scale are the {share[0]:g} and {share[1]:g} % points",
    )  # fmt: skip


def triples(title: str, colours: NDArray[np.floating], *, about: str = "") -> Colouring:
    """Colours given as such, in 32 shades of each.

    Parameters
    ----------
    colours : (n, 3) float
        RGB, 0 to 1; NaN where not known.
    """
    known = np.asarray(np.isfinite(colours).all(axis=1), bool)
    shade = (np.clip(np.where(known[:, None], colours, 0), 0, 1) * (_SHADES - 1)).round().astype(np.int64)
    values = np.where(known, 1 + (shade[:, 0] * _SHADES + shade[:, 1]) * _SHADES + shade[:, 2], 0)
    cube = np.stack(np.meshgrid(*[np.linspace(0, 255, _SHADES)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return Colouring(
        title=title, kind="rgb", values=values.astype(np.uint16), about=about,
        palette=np.concatenate([_MISSING[None], cube.round().astype(np.uint8)]),
    )  # fmt: skip


def few(names: pd.Categorical) -> bool:
    """Whether classes are few enough to be told apart at all."""
    return len(names.categories) <= _MOST


_MISSING = rgb(MISSING).astype(np.uint8)
