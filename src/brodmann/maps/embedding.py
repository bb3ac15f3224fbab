"""The feature table as a plane: UMAP or PCA, coloured by area, by brain, and by place in the brain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.maps.colours import MISSING, colours, natural, place_rgb
from brodmann.maps.drawing import FAINT, LEGIBLE, bare, legend, short, style, thousands
from brodmann.maps.labels import aligned, codes, column, used
from brodmann.samples import stream

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Plane:
    """Two dimensions of a table.

    Parameters
    ----------
    xy : (m, 2) float32
        Coordinates without unit.
    rows : (m,) int64
        Their rows in the table, increasing.
    method : str
        How they were made, in words for the caption.
    """

    xy: NDArray[np.float32]
    rows: NDArray[np.int64]
    method: str


def plane(
    table: AnnData, *, seed: int = 0, limit: int = 20_000, method: Literal["auto", "umap", "pca"] = "auto"
) -> Plane:
    """Two-dimensional view of the features; the same table and seed give the same plane.

    Parameters
    ----------
    table : AnnData
        ``X`` (n, d) float16.
    limit : int
        At most this many rows, drawn once with the seed, so that 10^7 rows cost no more than 20,000.
    method : {"auto", "umap", "pca"}
        ``auto``: UMAP (McInnes et al. 2018) if umap-learn is installed, else PCA.

    Raises
    ------
    Refused
        UMAP asked for by name and not installed, or fewer than 3 rows.
    """
    from sklearn.decomposition import PCA

    n = int(table.n_obs)
    if n < 3:
        raise Refused("a plane needs at least 3 rows.", found=f"{n}.")
    if method == "umap" and find_spec("umap") is None:
        raise Refused("UMAP was asked for.", found="umap-learn is not installed.", do="pip install 'brodmann[umap]'.")
    rows = np.arange(n) if n <= limit else np.sort(stream(seed, "plane", n).choice(n, limit, replace=False))
    x = np.asarray(cast("Any", table.X)[rows], dtype=np.float32)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    reduced = cast(
        "Any",
        PCA(
            n_components=min(50, *x.shape), svd_solver="full" if min(x.shape) < 200 else "randomized", random_state=seed
        ),
    )
    x = reduced.fit_transform(x)
    drawn = "" if n <= limit else f" of {len(rows):,} of {n:,} rows (seed {seed})"
    if method == "pca" or find_spec("umap") is None:
        share = float(reduced.explained_variance_ratio_[:2].sum())
        missing = "" if method == "pca" else "; umap-learn is not installed"
        return Plane(_upright(x[:, :2]), rows, f"PCA{drawn}, {share:.0%} of variance{missing}")
    import warnings

    neighbours = min(30, len(rows) - 1)
    with warnings.catch_warnings():
        # at import it warns that TensorFlow is missing, which nothing here needs
        warnings.simplefilter("ignore", ImportWarning)
        import umap

        warnings.simplefilter("ignore")  # it warns that a seed means one thread, which is what we want
        fitted = cast("Any", umap).UMAP(
            n_neighbors=neighbours, min_dist=0.15, metric="cosine", random_state=seed, n_jobs=1, init="pca"
        )
        xy = fitted.fit_transform(x)
    return Plane(np.asarray(xy, dtype=np.float32), rows, f"UMAP{drawn}, {neighbours} neighbours, cosine, seed {seed}")


def _upright(xy: NDArray[np.floating]) -> NDArray[np.float32]:
    """Fix the signs of principal components: the longest tail points up and right."""
    signs = np.sign(np.take_along_axis(xy, np.abs(xy).argmax(axis=0)[None], axis=0))
    return (xy * np.where(signs == 0, 1, signs)).astype(np.float32)


def embedding(
    table: AnnData,
    shown: Plane,
    *,
    labels: Sequence[str | pd.Series] = (),
    known: Mapping[str, str] | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Panels of one plane: each of ``labels``, the brain, and the place (sheet if known, else 3-D).

    Parameters
    ----------
    labels : columns of ``obs`` or Series indexed by id
    known : mapping, optional
        Colours of label names shared with the run's other figures.
    titles : sequence of str, optional
        Of the label panels; by default the names of the columns.
    """
    obs = cast("pd.DataFrame", table.obs)
    panels: list[tuple[str, pd.Categorical, Mapping[str, str]]] = [
        (str(title), aligned(table, label), known or {})
        for label, title in zip(labels, titles or [_title(label) for label in labels], strict=True)
    ]
    if obs["subject"].nunique() > 1:
        panels.append(("brain", column(table, "subject"), {}))
    place, where, view = _places(table, shown.rows)
    order = stream(0, "draw order", len(shown.rows)).permutation(len(shown.rows))  # no class hides another
    keys = [_legend(names[shown.rows], names, chosen) for _, names, chosen in panels]
    with style():
        figure, cells = _grid(
            len(panels) + (place is not None),
            max([8, *(min(len(k), 40) // _columns(k) + 1 for k in keys if len(k) <= LEGIBLE)]),
        )
        for axes, (title, names, _), tones in zip(cells, panels, keys, strict=False):
            here = codes(names[shown.rows])
            missing = here < 0
            paints = np.array([*(tones.get(str(name), MISSING) for name in names.categories), MISSING])[here]
            sequence = np.concatenate([order[missing[order]], order[~missing[order]]])
            _dots(axes, shown.xy, sequence, paints)
            axes.set_title(f"{short(title, 30)}  (n = {int((~missing).sum()):,})")
            legend(axes, tones, columns=_columns(tones), loc="upper left", bbox_to_anchor=(0, -0.03), fontsize=7)
        if place is not None:
            axes, tint = cells[len(panels)], place_rgb(place)
            _dots(axes, shown.xy, order, tint)
            axes.set_title(where)
            inset = axes.inset_axes((0.0, -0.42, 0.45, 0.38))
            inset.scatter(view[:, 0], view[:, 1], s=1.0, c=tint, linewidths=0, rasterized=True)
            inset.set_aspect("equal", anchor="NW")
            bare(inset)
            words = "the brain in\nthe same colours"
            axes.text(0.48, -0.23, words, transform=axes.transAxes, va="center", fontsize=7, color=FAINT)
        note = f"{shown.method}  ·  {thousands(len(shown.rows), 'samples')}"
        figure.text(
            0.15 / figure.get_figwidth(), 0.16 / figure.get_figheight(), note, fontsize=8, color=FAINT, va="center"
        )
    return figure


def _grid(count: int, lines: int) -> tuple[Figure, list[Any]]:
    """Square panels, three to a row, each with room for a legend of so many lines below (inches)."""
    side, gap, above, below = 3.3, 0.25, 0.4, max(1.45, 0.2 + 0.148 * lines)
    across, down = min(count, 3), -(-count // 3)
    width, height = gap + across * (side + gap), down * (above + side + below) + 0.3
    figure = Figure(figsize=(width, height))
    return figure, [
        figure.add_axes(
            (
                (gap + column * (side + gap)) / width,
                1 - (row + 1) * (above + side) / height - row * below / height,
                side / width,
                side / height,
            )
        )
        for row, column in (divmod(index, 3) for index in range(count))
    ]


def _legend(shown: pd.Categorical, names: pd.Categorical, known: Mapping[str, str]) -> dict[str, str]:
    """Names that are shown, in natural order, with the colours they have among all names."""
    tones = {**colours(used(names)), **known}
    return {name: tones[name] for name in sorted(used(shown), key=natural)}


def _columns(names: Mapping[str, str]) -> int:
    longest = max(map(len, names), default=1)
    return 4 if longest <= 7 else 3 if longest <= 13 else 2 if longest <= 22 else 1


def _title(label: str | pd.Series) -> str:
    return label if isinstance(label, str) else str(label.name or "label")


def _places(table: AnnData, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64] | None, str, NDArray[np.float64]]:
    """Places of rows to colour by, what they are called, and a flat view (n, 2) of them for the key."""
    obs = cast("pd.DataFrame", table.obs)
    if {"u_mm", "v_mm"} <= set(obs.columns):
        sheet = np.column_stack([np.asarray(obs[axis])[rows] for axis in ("u_mm", "v_mm")]).astype(np.float64)
        if np.isfinite(sheet).all():
            return sheet, "place on the cortical sheet", sheet
    if "xyz" not in table.obsm:
        return None, "", np.zeros((0, 2))
    xyz = np.asarray(np.asarray(cast("Any", table.obsm["xyz"]))[rows], dtype=np.float64)
    widest = np.sort(np.argsort(np.ptp(xyz, axis=0))[1:])
    return xyz, "place (x, y, z: red, green, blue)", xyz[:, widest]


def _dots(axes: Any, xy: NDArray[np.float32], order: NDArray[np.int64], paints: Any) -> None:
    """Scatter in random order; the frame leaves out the farthest 0.2 %, so that outliers do not shrink the rest."""
    size = float(np.clip(16_000 / max(len(xy), 1), 0.8, 14))
    axes.scatter(xy[order, 0], xy[order, 1], s=size, c=paints[order], linewidths=0, alpha=0.85, rasterized=True)
    low, high = np.percentile(xy, [0.1, 99.9], axis=0)
    middle, half = (low + high) / 2, max(float((high - low).max()) * 0.53, 1e-6)
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    bare(axes)
