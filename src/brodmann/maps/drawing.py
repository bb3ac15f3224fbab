"""One hand for all figures: size, type, spines, saving; nothing of matplotlib's global state is kept changed."""

from __future__ import annotations

import io
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from brodmann import atomic
from brodmann.maps.colours import MISSING

INK, FAINT, GRID = "#1B1F24", "#6A7280", "#E4E7EB"
ACCENT = "#0072B2"
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "brodmann",
    "image.interpolation": "nearest",
    "text.parse_math": False,  # a label such as "$V_1$" is a name, not a formula
}


@contextmanager
def style() -> Generator[None]:
    """Our typography while a figure is made or saved, and matplotlib's own afterwards."""
    with mpl.rc_context(cast("Any", STYLE)):
        yield


def canvas(width_in: float, height_in: float) -> Figure:
    """Empty figure on the Agg canvas (inches), without pyplot."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path | str, *, dpi: int = 200, svg: bool = True) -> Path:
    """Write ``path`` (PNG) and, beside it, an SVG whose text stays text; returns the PNG's path.

    The same figure gives the same bytes: no dates, fixed element ids.
    """
    png = Path(path).with_suffix(".png")
    with style():
        for target in [png, *([png.with_suffix(".svg")] if svg else [])]:
            content = io.BytesIO()
            plain: dict[str, Any] = {"Date": None} if target.suffix == ".svg" else {"Software": None}
            figure.savefig(content, format=target.suffix[1:], dpi=dpi, metadata=plain)
            atomic.write_bytes(target, content.getvalue())
    return png


LEGIBLE = 60
"""Names that a legend can hold; eyes tell fewer colours apart."""


def legend(axes: Axes, colours: Mapping[str, str], *, columns: int = 1, most: int = 40, **place: Any) -> Any:
    """Legend of squares, one per name; of more than ``most`` names the last entry says how many are left out.

    More than `LEGIBLE` names are counted instead.
    """
    from matplotlib.patches import Patch

    listed = list(colours.items()) if len(colours) <= most else list(colours.items())[: most - 1]
    if len(colours) > LEGIBLE:
        listed = []
    handles = [
        Patch(facecolor=colour, edgecolor="#00000055", linewidth=0.5, label=short(name, 26)) for name, colour in listed
    ]
    if len(colours) > LEGIBLE:
        said = f"{len(colours):,} classes,\ntoo many for a legend"
        return axes.legend(handles=[Patch(visible=False, label=said)], handlelength=0, borderaxespad=0, **place)
    if len(listed) < len(colours):
        handles.append(Patch(visible=False, label=f"and {len(colours) - len(listed)} more"))
    return axes.legend(
        handles=handles, ncols=columns, handlelength=1.0, handleheight=1.0, labelspacing=0.35, columnspacing=1.2,
        borderaxespad=0, **place,
    )  # fmt: skip


def beside(count: int, height_in: float) -> dict[str, int]:
    """``columns`` (at most three) and ``most`` of a `legend` of ``count`` names beside pictures of that height."""
    rows = max(4, int(height_in / 0.17))
    columns = 1 if count > LEGIBLE else min(3, -(-count // rows)) or 1
    return {"columns": columns, "most": columns * rows}


def short(text: str, limit: int) -> str:
    """Text cut to ``limit`` characters, with an ellipsis where something is gone; line breaks become spaces."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def scale_bar(axes: Axes, width_mm: float, *, colour: str = INK, known: bool = True) -> float:
    """Bar of a round length (about a fifth of ``width_mm``) under the lower left of axes in mm; returns its length.

    Where the scale is not ``known``, words stand in for the bar, and its length is NaN.
    """
    bar = round_length(width_mm / 5)
    below = axes.get_xaxis_transform()  # x in mm, y as a fraction of the axes' height
    left = min(axes.get_xlim())
    inches = cast("Any", axes.figure).get_figheight() * axes.get_position().height
    y = -0.14 / max(inches, 0.1)
    if not known:
        axes.text(left, y, "scale not known", color=colour, va="center", fontsize=8, transform=below)
        return math.nan
    axes.plot(
        [left, left + bar], [y, y], color=colour, linewidth=2, solid_capstyle="butt", clip_on=False, transform=below
    )
    axes.text(left + bar + 0.012 * width_mm, y, length(bar), color=colour, va="center", fontsize=8, transform=below)
    return bar


def length(mm: float) -> str:
    """``0.5 mm``, ``20 µm``."""
    return f"{mm * 1000:.3g} µm" if mm < 0.1 else f"{mm:.3g} mm"


def round_length(about: float) -> float:
    """Round down to 1, 2 or 5 x 10^k."""
    power = 10.0 ** math.floor(math.log10(max(about, 1e-6)))
    return max(step * power for step in (1, 2, 5) if step * power <= about * 1.0001)


def bare(axes: Axes) -> None:
    """Axes without ticks and frame, for images and embeddings."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def thousands(count: int, noun: str) -> str:
    """``9,312 patches``; one is singular."""
    return f"{count:,} {noun if count != 1 else noun.removesuffix('s')}"


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """Colours of methods in line and bar charts: what is scored in the accent colour, baselines in quieter tones."""
    tones = ("#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#904701", "#354478")
    return {
        name: ACCENT if not i else tones[(i - 1) % len(tones)] if i <= len(tones) else MISSING
        for i, name in enumerate(names)
    }
