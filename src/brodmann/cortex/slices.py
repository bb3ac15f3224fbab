"""Where a section crosses a surface: lines on the section, with what the surface knows of every place on them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from brodmann.cortex._laplace import compiled
from brodmann.cortex.mesh import Array, Index, Mesh
from brodmann.cortex.ribbon import upright
from brodmann.errors import Refused, Usage


def cutting_angle_deg(normals: Array, to_mm: Array) -> Array:
    """Angle between normals (n, 3) of cortex and a section, degrees, (n,): 0 where the normal lies in the section.

    Parameters
    ----------
    normals : (n, 3) float64
        Of any length.
    to_mm : (3, 3) float64
        (x_um, y_um, 1) of the section -> mm; see `cross`.
    """
    plane = np.cross(to_mm[:, 0], to_mm[:, 1])
    sine = normals @ plane / (np.linalg.norm(normals, axis=1) * np.linalg.norm(plane))
    return np.rad2deg(np.arcsin(np.clip(np.abs(sine), 0, 1)))


def cross(mesh: Mesh, to_mm: Array) -> pd.DataFrame:
    """Lines on which a section crosses a surface.

    Parameters
    ----------
    mesh : Mesh
    to_mm : (3, 3) float64
        Affine of the section: (x_um, y_um, 1) -> mm in the space of the mesh.

    Returns
    -------
    DataFrame
        A row per edge crossed, in order along the lines, the longest first: ``line``, ``x_um, y_um``, ``along_mm``,
        ``closed``; and ``vertex, other, share``: the place lies on the edge between two vertices, at so much of the way
        from the first. Closed lines end where they begin. The outside of the surface lies to the left when walking,
        y down. No rows where nothing is crossed.

    Raises
    ------
    Refused
        If ``to_mm`` is no affine of a plane.
    """
    origin, back, normal = _plane(to_mm)
    height = (mesh.vertices - origin) @ normal
    above = height >= 0
    tail, head = _links(mesh, above)
    lines: list[pd.DataFrame] = []
    n = len(mesh.vertices)
    for chain, closed in _chains(tail, head):
        one, other = chain // n, chain % n
        share = height[one] / (height[one] - height[other])
        xyz = mesh.vertices[one] + share[:, None] * (mesh.vertices[other] - mesh.vertices[one])
        xy = (xyz - origin) @ back.T
        step = np.hypot(*np.diff(xy, axis=0).T)
        along = np.concatenate([[0], np.cumsum(step)]) / 1000
        lines.append(
            pd.DataFrame(
                {
                    "line": 0, "x_um": xy[:, 0], "y_um": xy[:, 1], "along_mm": along, "closed": closed,
                    "vertex": one, "other": other, "share": share,
                }
            )
        )  # fmt: skip
    if not lines:
        columns = ["line", "x_um", "y_um", "along_mm", "closed", "vertex", "other", "share"]
        return pd.DataFrame({name: np.empty(0) for name in columns})
    lines.sort(key=lambda line: -float(line["along_mm"].iloc[-1]))
    return pd.concat([line.assign(line=number) for number, line in enumerate(lines)], ignore_index=True)


def midline(
    mesh: Mesh,
    to_mm: Array,
    values: dict[str, Array] | None = None,
    *,
    spacing_mm: float = 0.25,
    smooth_mm: float = 0.5,
    least_mm: float = 1.0,
) -> pd.DataFrame:
    """Places every ``spacing_mm`` where a section crosses a surface, upright: what patches need.

    Parameters
    ----------
    mesh : Mesh
        The middle of cortex, as `sheets.equidistant` gives it.
    to_mm : (3, 3) float64
        See `cross`.
    values : dict of (n,) float64
        Values of vertices to be carried along: ``{"thickness_mm": ..., "curvature": ...}``.
    smooth_mm : float
        SD along the line of the Gaussian that normals are smoothed with: triangles are coarser than sections.
    least_mm : float
        Shorter lines are left out.

    Returns
    -------
    DataFrame
        ``x_um, y_um``, ``angle_deg`` (turns a patch pia up), ``cutting_angle_deg`` (0: the normal of cortex lies in the
        section), ``line``, ``along_mm``, ``vertex`` (the nearer one), and a column for each of ``values``.

    Raises
    ------
    Usage
        If a length is not positive, or values are not one per vertex.
    """
    given = {} if values is None else values
    if not spacing_mm > 0 or not smooth_mm > 0:
        raise Usage("Lengths should be positive.", found=f"spacing_mm = {spacing_mm}, smooth_mm = {smooth_mm}.")
    for name, value in given.items():
        if np.shape(value) != (len(mesh.vertices),):
            raise Usage(f"'{name}' should be a value per vertex.", found=f"shape {np.shape(value)}.")
    crossed = cross(mesh, to_mm)
    axes = np.asarray(to_mm)[:, :2] / np.linalg.norm(np.asarray(to_mm)[:, :2], axis=0)
    out: list[pd.DataFrame] = []
    for _, line in crossed.groupby("line"):
        total = float(line["along_mm"].iloc[-1])
        if total < least_mm:
            continue
        closed = bool(line["closed"].iloc[0])
        one, other, share = (line[name].to_numpy() for name in ("vertex", "other", "share"))
        # Normals are evened out along the line at steps shorter than the places'.
        fine = np.linspace(0, total, max(int(np.ceil(total / (spacing_mm / 4))), 8) + 1)
        along = line["along_mm"].to_numpy()

        edge = (along, one, other, share)
        normal = np.stack([_carried(edge, mesh.normals[:, k], fine) for k in range(3)], axis=1)
        normal = gaussian_filter1d(normal, smooth_mm / fine[1], axis=0, mode="wrap" if closed else "nearest")
        count = max(int(np.floor(total / spacing_mm + 1e-9)), 1)
        start = 0.0 if closed else (total / spacing_mm - count + 1) / 2
        at: Array = np.asarray(spacing_mm * (np.arange(count) + start), dtype=np.float64)
        upward = np.stack([np.interp(at, fine, normal[:, k]) for k in range(3)], axis=1)
        flat = upward @ axes
        nearer = np.where(share < 0.5, one, other)
        columns: dict[str, Any] = {
            "x_um": np.interp(at, along, line["x_um"]), "y_um": np.interp(at, along, line["y_um"]),
            "angle_deg": upright(-flat[:, 0], -flat[:, 1]), "cutting_angle_deg": cutting_angle_deg(upward, to_mm),
            "line": len(out), "along_mm": at,
            "vertex": nearer[np.clip(np.searchsorted(along, at), 0, len(along) - 1)],
        }  # fmt: skip
        columns.update({name: _carried(edge, np.asarray(value), at) for name, value in given.items()})
        out.append(pd.DataFrame(columns))
    if not out:
        names = ["x_um", "y_um", "angle_deg", "cutting_angle_deg", "line", "along_mm", "vertex", *given]
        return pd.DataFrame({name: np.empty(0) for name in names})
    return pd.concat(out, ignore_index=True)


def _carried(edge: tuple[Array, Index, Index, Array], value: Array, at: Array) -> Array:
    """Values of vertices at positions along a line of crossed edges."""
    along, one, other, share = edge
    return np.interp(at, along, (1 - share) * value[one] + share * value[other])


def _plane(to_mm: Array) -> tuple[Array, Array, Array]:
    """Origin of a section, the way back from mm to um (2, 3), and its unit normal."""
    affine = np.asarray(to_mm, dtype=np.float64)
    if affine.shape != (3, 3) or not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:, :2] * 1000) < 2:
        raise Refused(
            "A section should come with an affine (3, 3): (x_um, y_um, 1) -> mm.",
            found=f"shape {affine.shape}." if affine.shape != (3, 3) else f"{affine.tolist()}, which spans no plane.",
        )
    normal = np.cross(affine[:, 0], affine[:, 1])
    back: Array = np.linalg.pinv(affine[:, :2]).astype(np.float64)
    return affine[:, 2], back, normal / np.linalg.norm(normal)


def _links(mesh: Mesh, above: NDArray[np.bool_]) -> tuple[Index, Index]:
    """For each triangle crossed, the edge on which a line enters and the one on which it leaves, as codes."""
    n = len(mesh.vertices)
    sign = above[mesh.faces]
    cut = mesh.faces[sign.any(axis=1) & ~sign.all(axis=1)]
    sign = above[cut]
    enter, leave = np.empty(len(cut), dtype=np.int64), np.empty(len(cut), dtype=np.int64)
    for k in range(3):
        one, other = cut[:, k], cut[:, (k + 1) % 3]
        code = np.minimum(one, other) * n + np.maximum(one, other)
        rise, fall = ~sign[:, k] & sign[:, (k + 1) % 3], sign[:, k] & ~sign[:, (k + 1) % 3]
        enter[fall], leave[rise] = code[fall], code[rise]
    return enter, leave


def _chains(tail: Index, head: Index) -> list[tuple[Index, bool]]:
    """Codes in order along each line, and whether it is closed; each code leads to one other and from one other."""
    codes, number = np.unique(np.concatenate([tail, head]), return_inverse=True)
    after = np.full(len(codes), -1, dtype=np.int64)
    begins = np.ones(len(codes), dtype=bool)
    after[number[: len(tail)]] = number[len(tail) :]
    begins[number[len(tail) :]] = False
    order, start = _walk(after, np.concatenate([np.flatnonzero(begins), np.flatnonzero(~begins)]))
    out: list[tuple[Index, bool]] = []
    for first, last in pairwise(start.tolist()):
        chain = order[first:last]
        closed = bool(after[chain[-1]] == chain[0])
        out.append((codes[np.append(chain, chain[0]) if closed else chain], closed))
    return out


@compiled
def _walk(after: Any, first: Any) -> Any:
    """Codes in the order of their lines, and where each line begins among them."""
    order, start = np.empty(len(after), np.int64), np.zeros(len(after) + 1, np.int64)
    seen = np.zeros(len(after), np.uint8)
    count, lines = 0, 0
    for begin in first:
        here = begin
        if seen[here] == 1:
            continue
        while here >= 0 and seen[here] == 0:
            seen[here] = 1
            order[count] = here
            count += 1
            here = after[here]
        lines += 1
        start[lines] = count
    return order, start[: lines + 1]
