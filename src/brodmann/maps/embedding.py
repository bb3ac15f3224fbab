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
from brodmann.maps.drawing import FAINT, bare, canvas, legend, short, style, thousands
from brodmann.maps.labels import aligned
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
    reduced = cast("Any", PCA(n_components=min(50, *x.shape), svd_solver="full" if min(x.shape) < 200 else "randomized", random_state=seed))
    x = reduced.fit_transform(x)
    drawn = "" if n <= limit else f" of {len(rows):,} of {n:,} rows (seed {seed})"
    if method == "pca" or find_spec("umap") is None:
        share = float(reduced.explained_variance_ratio_[:2].sum())
        missing = "" if method == "pca" else "; umap-learn is not installed"
        return Plane(_upright(x[:, :2]), rows, f"PCA{drawn}, {share:.0%} of variance{missing}")
    import warnings

    import umap

    neighbours = min(30, len(rows) - 1)
    with warnings.catch_warnings():
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
    labels: Sequence[str | pd.Series[Any]] = (),
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
    panels = [
        (str(title), aligned(table, label), known)
        for label, title in zip(labels, titles or [_title(label) for label in labels], strict=True)
    ]
    if obs["subject"].nunique() > 1:
        panels.append(("brain", pd.Series(obs["subject"].astype(str).to_numpy()), None))
    place, where, key = _places(table)
    count = len(panels) + (place is not None)
    across = min(count, 3)
    down = -(-count // across)
    dots = float(np.clip(16_000 / max(len(shown.rows), 1), 0.8, 14))
    order = stream(0, "draw order", len(shown.rows)).permutation(len(shown.rows))  # no class hides another
    with style():
        figure = canvas(3.75 * across, 4.05 * down + 0.3)
        grid = figure.add_gridspec(down, across)
        for index, (title, names, chosen) in enumerate(panels):
            axes = figure.add_subplot(grid[index // across, index % across])
            text = names.iloc[shown.rows]
            tones = {**colours([str(v) for v in names if not pd.isna(v)]), **(chosen or {})}
            missing = text.isna().to_numpy()
            paints = np.array([MISSING if pd.isna(v) else tones[str(v)] for v in text])
            sequence = np.concatenate([order[missing[order]], order[~missing[order]]])
            _dots(axes, shown.xy[sequence], paints[sequence], dots)
            axes.set_title(f"{short(title, 30)}  (n = {int((~missing).sum()):,})")
            present = sorted({str(v) for v in text if not pd.isna(v)}, key=natural)
            if len(present) <= 40:
                columns = 3 if max(map(len, present), default=0) < 12 else 2
                legend(
                    axes, {name: tones[name] for name in present}, columns=columns, loc="upper left",
                    bbox_to_anchor=(0, -0.03), fontsize=7,
                )  # fmt: skip
        if place is not None:
            index = len(panels)
            axes = figure.add_subplot(grid[index // across, index % across])
            tint = place_rgb(place)[shown.rows]
            _dots(axes, shown.xy[order], tint[order], dots)
            axes.set_title(where)
            inset = axes.inset_axes((0.62, -0.36, 0.38, 0.34))
            inset.scatter(key[shown.rows, 0], key[shown.rows, 1], s=1.2, c=tint, linewidths=0, rasterized=True)
            inset.set_aspect("equal")
            bare(inset)
            axes.text(0.6, -0.2, "the brain,\nsame colours", transform=axes.transAxes, ha="right", va="center", fontsize=7, color=FAINT)
        figure.supxlabel(f"{shown.method}  ·  {thousands(len(shown.rows), 'samples')}", fontsize=8, color=FAINT, x=0.01, ha="left")
    return figure


def _title(label: str | pd.Series[Any]) -> str:
    return label if isinstance(label, str) else str(label.name or "label")


def _places(table: AnnData) -> tuple[NDArray[np.float64] | None, str, NDArray[np.float64]]:
    """Places to colour by, what they are called, and a flat view (n, 2) of them for the key."""
    obs = cast("pd.DataFrame", table.obs)
    if {"u_mm", "v_mm"} <= set(obs.columns) and np.isfinite(obs[["u_mm", "v_mm"]].to_numpy(dtype=float)).all():
        sheet = obs[["u_mm", "v_mm"]].to_numpy(dtype=np.float64)
        return sheet, "place on the cortical sheet", sheet
    if "xyz" not in table.obsm:
        return None, "", np.zeros((0, 2))
    xyz = np.asarray(cast("Any", table.obsm["xyz"]), dtype=np.float64)
    widest = np.sort(np.argsort(np.ptp(xyz, axis=0))[1:])
    return xyz, "place (x, y, z: red, green, blue)", xyz[:, widest]


def _dots(axes: Any, xy: NDArray[np.float32], paints: Any, size: float) -> None:
    axes.scatter(xy[:, 0], xy[:, 1], s=size, c=paints, linewidths=0, alpha=0.85, rasterized=True)
    axes.set_aspect("equal", adjustable="datalim")
    bare(axes)
