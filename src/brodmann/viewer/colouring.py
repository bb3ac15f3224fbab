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
            "high": self.high, "about": self.about, "unknown": int(np.count_nonzero(self.values == 0)),
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
    title: str, values: NDArray[np.floating], *, share: tuple[float, float] = (1, 99),
    ends: tuple[float, float] | None = None, about: str = "",
) -> Colouring:  # fmt: skip
    """Colours of a number; the ends of the scale are percentiles, so that a few extremes do not flatten the rest.

    Parameters
    ----------
    values : (n,) float
        NaN where it is not known.
    share : (low, high)
        Percentiles that the first and the last colour stand for.
    ends : (low, high), optional
        What they stand for, instead.
    """
    import matplotlib

    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    scale = "" if ends else f"the ends of the scale are the {share[0]:g} and {share[1]:g} % points"
    low, high = ends or (np.percentile(values[known], share).tolist() if known.any() else (0.0, 1.0))
    if high <= low:
        low, high = low - 0.5, low + 0.5
    step = np.clip((np.where(known, values, low) - low) / (high - low), 0, 1) * (_STEPS - 1)
    ramp = cast("Any", matplotlib).colormaps[SEQUENTIAL](np.linspace(0, 1, _STEPS))[:, :3]
    return Colouring(
        title=title, kind="number", values=np.where(known, 1 + step.round(), 0).astype(np.uint16),
        palette=np.concatenate([_MISSING[None], (ramp * 255).round().astype(np.uint8)]), low=low, high=high,
        about="; ".join(filter(None, (about, scale))),
    )  # fmt: skip


def expression(title: str, values: NDArray[np.floating], *, unit: str) -> Colouring:
    """Colours of one gene: from nothing to the 99 % point of the cells that have any, however few they are."""
    some = values[np.isfinite(values) & (values > 0)]
    top = float(np.percentile(some, 99)) if some.size else 1.0
    about = f"{unit}; counted in {len(some) / max(len(values), 1):.1%} of cells, the scale ends at their 99 % point"
    return numbers(title, values, ends=(0.0, top), about=about)


def angles(title: str, values: NDArray[np.floating], *, period_deg: float, about: str = "") -> Colouring:
    """Colours of an angle on a ring that closes: 0 and the period look the same.

    The ring runs through blue, light green, yellow and dark red, a circle in OKLab whose plane holds the axes of
    lightness and of blue to yellow, which colour-blind eyes keep.

    Parameters
    ----------
    values : (n,) float
        Degrees; NaN where it is not known.
    period_deg : float
        180 for orientations, 360 for directions.
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    step = np.floor(np.where(known, values, 0.0) % period_deg / period_deg * _STEPS).clip(0, _STEPS - 1)
    return Colouring(
        title=title, kind="number", values=np.where(known, 1 + step, 0).astype(np.uint16),
        palette=np.concatenate([_MISSING[None], _ring()]), high=period_deg,
        about="; ".join(filter(None, (about, "an angle: both ends are the same"))),
    )  # fmt: skip


def _ring() -> NDArray[np.uint8]:
    """256 colours (256, 3) of a closed ring; OKLab to sRGB by the matrices of Ottosson (2020)."""
    turn = 2 * np.pi * (np.arange(_STEPS) + 0.5) / _STEPS
    lab = np.column_stack([0.66 + 0.19 * np.sin(turn), -0.07 * np.sin(turn), -0.125 * np.cos(turn)])
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    )
    to_rgb = np.array([[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
                       [-0.0041960863, -0.7034186147, 1.7076147010]])  # fmt: skip
    linear = np.clip((lab @ to_lms.T) ** 3 @ to_rgb.T, 0, 1)
    return (
        (255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))
        .round()
        .astype(np.uint8)
    )


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
