"""What is known of every place on a phantom's section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann.phantom import areas
from brodmann.phantom.brain import Brain
from brodmann.phantom.cut import Plane, feet
from brodmann.phantom.sheet import LENGTH_MM, NETWORKS, WIDTH_MM
from brodmann.phantom.stain import Ribbon

if TYPE_CHECKING:
    from brodmann.phantom.section import PhantomSection

Array = NDArray[np.float64]
_REACH_UM = 1500.0


def truth(section: PhantomSection, xy_um: Array) -> pd.DataFrame:
    """Everything known of places on a section, cortical or not.

    Parameters
    ----------
    section : PhantomSection
    xy_um : (n, 2) float
        Places on the section, um from its top left corner.

    Returns
    -------
    DataFrame
        The columns of `PhantomSection.points` (see `table`), and ``layer`` (0 outside, 1-6, 7 white matter) and
        ``depth`` (equivolumetric, 0 pia to 1 white matter). Columns that describe cortex hold the values of the
        nearest cortex where ``layer`` is 7, and mean nothing where it is 0.
    """
    xy = np.asarray(xy_um, dtype=np.float64).reshape(-1, 2)
    field = feet(section.brain, section.plane, xy)
    here = section.brain.at(section.brain.surface[..., 9:12], field[:, :2])
    normal = here / np.linalg.norm(here, axis=1, keepdims=True)
    sine = np.clip(np.abs(normal @ section.plane.normal), 0, 1)
    known = describe(section.brain, section.plane, field[:, :2], xy, field[:, 5:7], sine, section.vessels)
    edges = section.brain.at(section.brain.cyto[..., areas.EDGES], field[:, :2])
    layer = areas.LAYER_OF[np.minimum((field[:, 4:5] > edges).sum(axis=1), len(areas.LAYER_OF) - 1)]
    layer = np.where(field[:, 2] < -field[:, 3], 7, layer)
    known["layer"] = np.where((field[:, 2] > field[:, 3]) | (field[:, 7] < 0), 0, layer)
    known["depth"] = field[:, 4]
    return known


def table(brain: Brain, plane: Plane, line: Ribbon, tubes: Array, spacing_mm: float) -> pd.DataFrame:
    """Points every ``spacing_mm`` along the mid-cortical line, within the sheet, with everything known of them.

    Columns: ``x_um, y_um, angle_deg`` (turns a patch pia up), ``u_mm, v_mm`` (registered), ``u_true_mm, v_true_mm``,
    ``s_mm, t_mm`` (the brain's own sheet), ``x_mm, y_mm, z_mm``, ``area, network, axis, thickness_mm``,
    ``curvature`` (mean, 1/mm, crowns positive), ``cutting_angle_deg`` (0: cortical normal in the section),
    ``border_mm`` (to the nearest other area), ``vessel`` (area fraction within 1.5 mm),
    ``density_L1 ... L6`` (cells per mm2 of section; 0 where a layer is absent) and ``size_L1 ... L6`` (mean diameter,
    um; NaN where a layer is absent).
    """
    pick = np.arange(0, len(line.xy_um), max(1, round(spacing_mm / 0.05)))
    st = line.line_mm[pick]
    pick = pick[(st[:, 0] >= 0) & (st[:, 0] <= LENGTH_MM) & (st[:, 1] >= 0) & (st[:, 1] <= WIDTH_MM)]
    sine = np.sqrt(1 - np.clip(line.cosine[pick], 0, 1) ** 2)
    return describe(brain, plane, line.line_mm[pick], line.xy_um[pick], line.up[pick], sine, tubes)


def describe(brain: Brain, plane: Plane, st: Array, xy: Array, up: Array, sine: Array, tubes: Array) -> pd.DataFrame:
    """Columns of `table` for places ``xy`` (n, 2) um whose foot points on the sheet are ``st`` (n, 2) mm."""
    registered, true, xyz = brain.at(brain.registered_mm, st), brain.at(brain.true_mm, st), plane.place(xy)
    columns: dict[str, object] = {
        "x_um": xy[:, 0], "y_um": xy[:, 1], "angle_deg": np.rad2deg(np.arctan2(up[:, 0], -up[:, 1])),
        "u_mm": registered[:, 0], "v_mm": registered[:, 1], "u_true_mm": true[:, 0], "v_true_mm": true[:, 1],
        "s_mm": st[:, 0], "t_mm": st[:, 1], "x_mm": xyz[:, 0], "y_mm": xyz[:, 1], "z_mm": xyz[:, 2],
        "area": np.asarray(areas.NAMES)[brain.nearest(brain.area, st)],
        "network": np.asarray(NETWORKS)[brain.nearest(brain.network, st)],
        "axis": brain.at(brain.axis, st),
        "curvature": brain.at(brain.curvature[..., 0], st),
        "cutting_angle_deg": np.rad2deg(np.arcsin(sine)),
        "border_mm": brain.at(brain.border_mm, st),
        "vessel": _vessel_fraction(xy, tubes),
    }  # fmt: skip
    columns.update(layers(brain.at(brain.cyto, st)))
    return pd.DataFrame(columns)


def layers(cyto: Array) -> dict[str, Array]:
    """Thickness, and local cell density and mean size of each layer, from rows (n, parameters) of `Brain.cyto`."""
    edges = cyto[:, areas.EDGES]
    share = np.diff(edges, axis=1, prepend=0.0)
    spread, grain = cyto[:, areas.TEXTURE][:, 3], cyto[:, areas.TEXTURE][:, 4]
    density = np.exp(cyto[:, areas.DENSITY]) / grain[:, None]
    size = np.exp(cyto[:, areas.SIZE]) * (np.sqrt(grain) * np.exp(-(spread**2) / 2))[:, None]
    out: dict[str, Array] = {"thickness_mm": cyto[:, 0]}
    for layer in range(1, 7):
        part = layer == areas.LAYER_OF
        width = share[:, part].sum(axis=1)
        cells = (share * density)[:, part].sum(axis=1)
        there = width > 0.01
        safe = np.where(there, cells, 1.0)
        out[f"density_L{layer}"] = np.where(there, cells / np.maximum(width, 1e-9), 0.0)
        out[f"size_L{layer}"] = np.where(there, (share * density * size)[:, part].sum(axis=1) / safe, np.nan)
    return out


def _vessel_fraction(xy_um: Array, tubes: Array) -> Array:
    """Area of vessels within 1.5 mm of each place over the area of that disc."""
    if not len(tubes):
        return np.zeros(len(xy_um))
    middle = (tubes[:, :2] + tubes[:, 2:4]) / 2
    outer = tubes[:, 4] + tubes[:, 5]
    length = np.linalg.norm(tubes[:, 2:4] - tubes[:, :2], axis=1)
    # A lone piece has two round ends; pieces of a chain, 45 um or longer, share theirs.
    size = 2 * outer * length + np.where(length >= 45, 0.0, np.pi * outer**2)
    hits = KDTree(middle).query_ball_point(xy_um, _REACH_UM)
    return np.array([size[hit].sum() for hit in hits]) / (np.pi * _REACH_UM**2)
