"""What lies between a pial and a white surface whose vertices correspond: thickness, and surfaces of equal depth."""

from __future__ import annotations

import numpy as np

from brodmann.cortex.mesh import Array, Mesh
from brodmann.errors import Refused, Usage

_STEPS = 40


def thickness(pial: Mesh, white: Mesh) -> Array:
    """Distance between corresponding vertices, mm, (n,); NaN where a vertex belongs to no triangle.

    Raises
    ------
    Refused
        If the surfaces do not have the same triangles.
    """
    _together(pial, white)
    return np.where(pial.used, np.linalg.norm(pial.vertices - white.vertices, axis=1), np.nan)


def equivolumetric(pial: Mesh, white: Mesh, depth: float | Array) -> Mesh:
    """Surface with a given share of the volume of cortex above it.

    As Waehnert et al. (2014), NeuroImage 93:210, but for how area grows between the surfaces: there along a straight
    line (equation 10), here along the parabola through the area halfway, which is right for spheres too.

    Parameters
    ----------
    pial, white : Mesh
        Surfaces with the same triangles, outwards.
    depth : float or (n,) float64
        0 at the pia, 1 at white matter.

    Raises
    ------
    Usage
        If a depth is not within 0 and 1.
    Refused
        If the surfaces do not have the same triangles.
    """
    share = _share(pial, white, depth)
    return pial.moved(white.vertices + share[:, None] * (pial.vertices - white.vertices))


def equidistant(pial: Mesh, white: Mesh, depth: float | Array) -> Mesh:
    """Surface at a given share of the way from the pia to white matter; parameters as of `equivolumetric`."""
    _together(pial, white)
    share = 1 - _depths(depth, len(pial.vertices))
    return pial.moved(white.vertices + share[:, None] * (pial.vertices - white.vertices))


def _share(pial: Mesh, white: Mesh, depth: float | Array) -> Array:
    """Share of the way from white matter to the pia below which 1 - depth of the volume lies, (n,)."""
    _together(pial, white)
    wanted = 1 - _depths(depth, len(pial.vertices))
    half = Mesh((pial.vertices + white.vertices) / 2, pial.faces)
    low, middle, high = (np.where(pial.used, surface.areas, 1.0) for surface in (white, half, pial))
    # Area at share s: low + b s + c s2; the volume below is its integral.
    c = 2 * (low + high) - 4 * middle
    b = high - low - c
    whole = low + b / 2 + c / 3
    # Areas are positive at three places, and nearly always between them; bisection does not mind where they are not.
    bottom, top = np.zeros_like(wanted), np.ones_like(wanted)
    for _ in range(_STEPS):
        s = (bottom + top) / 2
        below = s * (low + s * (b / 2 + s * c / 3)) < wanted * whole
        bottom, top = np.where(below, s, bottom), np.where(below, top, s)
    return np.where(wanted <= 0, 0.0, np.where(wanted >= 1, 1.0, (bottom + top) / 2))


def _depths(depth: float | Array, n: int) -> Array:
    values = np.broadcast_to(np.asarray(depth, dtype=np.float64), (n,))
    if not ((values >= 0) & (values <= 1)).all():
        raise Usage(
            "A depth should be a share from 0 (pia) to 1 (white matter).",
            found=f"values from {np.min(values)} to {np.max(values)}.",
        )
    return values


def _together(pial: Mesh, white: Mesh) -> None:
    if pial.faces.shape != white.faces.shape or not (np.sort(pial.faces, 1) == np.sort(white.faces, 1)).all():
        raise Refused(
            "Pial and white surface should have the same triangles.",
            found=f"{len(pial.vertices)} vertices and {len(pial.faces)} triangles, and {len(white.vertices)} and "
            f"{len(white.faces)}."
            + ("" if pial.faces.shape != white.faces.shape else " They join different vertices."),
            cause="surfaces of two hemispheres, of two resolutions, or made by programs that do not keep vertices.",
            do="resample one onto the other first.",
        )
