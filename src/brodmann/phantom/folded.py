"""A planted brain's folded mid-surface as a triangle mesh, with what is true of every vertex."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cortex import gifti
from brodmann.cortex.mesh import Mesh, mesh
from brodmann.errors import Usage
from brodmann.patches.source import Source
from brodmann.phantom import areas, known
from brodmann.phantom.brain import Brain
from brodmann.phantom.section import PhantomSection
from brodmann.phantom.sheet import LENGTH_MM, MARGIN_MM, NETWORKS, STEP_MM, WIDTH_MM

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Folded:
    """A brain's mid-cortical surface within the planted sheet, margin left out.

    Attributes
    ----------
    subject : str
        The brain.
    mesh : Mesh
        Vertices (n, 3) mm in `space.PHANTOM`, n = n_s * n_t, the second sheet axis fastest; triangles face the pia.
    flat_mm : (n, 2) float64
        Place of each vertex on the brain's own sheet, unfolded: ``s_mm``, ``t_mm``.
    truth : DataFrame, n rows
        ``u_mm, v_mm`` (registered), ``u_true_mm, v_true_mm``, ``s_mm, t_mm``, ``area``, ``network``, ``axis``,
        ``border_mm``, ``curvature`` (mean, 1/mm, crowns positive), and of each layer what `phantom.known.layers` tells.
    """

    subject: str
    mesh: Mesh
    flat_mm: Array
    truth: pd.DataFrame

    def flat(self) -> Mesh:
        """The same triangles, unfolded: (s, t, 0) mm."""
        return self.mesh.moved(np.column_stack([self.flat_mm, np.zeros(len(self.flat_mm))]))


def fold(brain: Brain, *, step_mm: float = STEP_MM) -> Folded:
    """Mesh of a brain's mid-surface: a regular grid on its sheet, two triangles a square.

    Parameters
    ----------
    brain : Brain
        As sections hold it (``section.brain``).
    step_mm : float
        Distance between neighbouring vertices on the sheet; rounded to a multiple of `STEP_MM` that divides the sheet.

    Raises
    ------
    Usage
        If the step is not positive or leaves less than two vertices along a side.
    """
    stride = round(step_mm / STEP_MM) if step_mm > 0 else 0
    counts = [round(side / STEP_MM) for side in (LENGTH_MM, WIDTH_MM)]
    if stride < 1 or any(count % stride for count in counts):
        raise Usage(
            f"the step of a mesh should be {STEP_MM} mm, or a multiple of it that divides {LENGTH_MM:g} x "
            f"{WIDTH_MM:g} mm.",
            found=f"{step_mm:g} mm.",
            do="choose 0.25, 0.5, 1 or 2.5.",
        )
    margin = round(MARGIN_MM / STEP_MM)
    pick = [margin + np.arange(0, count + 1, stride) for count in counts]
    rows, columns = (len(one) for one in pick)
    number = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (one.ravel() for one in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    at = np.ix_(*pick)

    def table(values: NDArray[np.floating]) -> Array:
        return np.asarray(values[at], dtype=np.float64).reshape(rows * columns, *values.shape[2:])

    st = np.stack(np.meshgrid(*((one - margin) * STEP_MM for one in pick), indexing="ij"), axis=-1).reshape(-1, 2)
    registered, true = table(brain.registered_mm), table(brain.true_mm)
    truth = pd.DataFrame(
        {
            "u_mm": registered[:, 0], "v_mm": registered[:, 1], "u_true_mm": true[:, 0], "v_true_mm": true[:, 1],
            "s_mm": st[:, 0], "t_mm": st[:, 1],
            "area": np.asarray(areas.NAMES)[brain.area[at].ravel()],
            "network": np.asarray(NETWORKS)[brain.network[at].ravel()],
            "axis": table(brain.axis), "border_mm": table(brain.border_mm), "curvature": table(brain.curvature)[:, 0],
            **known.layers(table(brain.cyto)),
        }
    )  # fmt: skip
    return Folded(brain.name, mesh(table(brain.surface)[:, :3], faces), np.asarray(st, dtype=np.float64), truth)


def surfaces(source: Source, *, step_mm: float = STEP_MM) -> dict[str, Folded]:
    """Folded surface of every brain of a phantom's sections, by subject.

    Raises
    ------
    Usage
        If the source is no phantom in memory.
    """
    brains = {one.subject: one.brain for one in source.sections if isinstance(one, PhantomSection)}
    if not brains:
        raise Usage("a folded surface is known of planted brains only.", found=f"sections of '{source.name}'.")
    return {name: fold(brain, step_mm=step_mm) for name, brain in sorted(brains.items())}


def write(surface: Folded, folder: str | Path, *, colours: Mapping[str, str]) -> list[Path]:
    """Write a folded brain as GIFTI.

    ``<subject>.mid.surf.gii`` and ``.flat.surf.gii`` hold the same triangles folded and unfolded,
    ``.area.label.gii`` the true areas, ``.truth.func.gii`` u_true, v_true (mm), thickness (mm) and curvature (1/mm).

    Parameters
    ----------
    surface : Folded
    folder : path
        Made if it is not there.
    colours : mapping
        ``"#RRGGBB"`` of each area, e.g. `brodmann.maps.colours.colours`.

    Returns
    -------
    list of Path
    """
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    names = sorted(colours)
    paths = [home / f"{surface.subject}.{what}.gii" for what in ("mid.surf", "flat.surf", "area.label", "truth.func")]
    gifti.write(paths[0], surface.mesh)
    gifti.write(paths[1], surface.flat())
    number = {name: value for value, name in enumerate(names, start=1)}
    values = np.array([number[name] for name in surface.truth["area"].tolist()], dtype=np.int32)
    gifti.write_labels(paths[2], values, dict(zip(names, (colours[name] for name in names), strict=True)), name="area")
    told = ["u_true_mm", "v_true_mm", "thickness_mm", "curvature"]
    gifti.write_values(paths[3], surface.truth[told].to_numpy(np.float64), names=told)
    return paths
