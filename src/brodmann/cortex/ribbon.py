"""Cortex in one section: a field between pia and white matter that tells depth, thickness and which way is up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from brodmann.cortex import _faces, _laplace
from brodmann.cortex._laplace import CORTEX, CUT, OUTSIDE, WHITE, Array, Field, Kinds, Raster
from brodmann.errors import Refused, Usage

LAYERS = {"cortex": (1, 2, 3, 4, 5, 6), "white": (7,)}
"""Labels of masks that tell layers: ``ribbon(mask, pixel_um, **LAYERS)``."""

_PIXELS_ACROSS = 60
_LEAST_ACROSS = 4.0
_PLAUSIBLE_MM = (0.1, 15.0)
_SOFT_PX = 0.7
_ASIDE_PX = 4.0


@dataclass(frozen=True, eq=False)
class Ribbon:
    """The cortex of one section with its Laplace field; make one with `ribbon`.

    Attributes
    ----------
    kind : (h, w) uint8
        0 outside, 1 cortex, 2 white matter, 3 cut off or left out, on a grid of ``step_um``.
    field : Field
    step_um : float
        Spacing of the grid; the centre of its first pixel lies at half of it.
    typical_mm : float
        Typical thickness: area over length.
    remarks : tuple of str
        What was done to the mask: specks filled, sulci opened, faces found, pieces left out.
    """

    kind: Kinds
    field: Field
    step_um: float
    typical_mm: float
    remarks: tuple[str, ...]

    @property
    def most(self) -> int:
        """Points that one streamline may have."""
        return int(12 * self.typical_mm * 1000 / self.step_um / _laplace._STEP) + 64  # pyright: ignore[reportPrivateUsage]

    def to_px(self, xy_um: NDArray[np.floating]) -> Array:
        """Section places (n, 2) um -> places on the grid, (n, 2) px."""
        xy = np.asarray(xy_um, dtype=np.float64)
        if xy.ndim != 2 or xy.shape[1] != 2:
            raise Usage("Places on a section should be (n, 2) um.", found=f"an array of shape {xy.shape}.")
        return np.ascontiguousarray(xy / self.step_um - 0.5)

    def to_um(self, xy_px: Array) -> Array:
        """Places on the grid (..., 2) px -> section places, um."""
        return (xy_px + 0.5) * self.step_um

    def inside(self, xy_um: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Whether places (n, 2) um lie on pixels of cortex."""
        at = np.rint(self.to_px(xy_um))
        within = np.isfinite(at) & (at >= 0) & (at < self.kind.shape[::-1])
        ok = cast("NDArray[np.bool_]", within.all(axis=1))
        column, row = np.where(ok[:, None], at, 0).astype(int).T
        return ok & (self.kind[row, column] == CORTEX)

    def places(self, xy_um: NDArray[np.floating]) -> pd.DataFrame:
        """What is known of any places on the section.

        Parameters
        ----------
        xy_um : (n, 2) float
            Places, um from the section's top left corner.

        Returns
        -------
        DataFrame
            A row per place, NaN outside cortex and where no streamline leads from pia to white matter: ``depth``
            (equi-area: the share of the area between neighbouring streamlines that lies above; 0 pia, 1 white matter),
            ``depth_length`` (share of the streamline's length), ``thickness_mm`` (length of the streamline, Jones et
            al. 2000) and ``angle_deg`` (turns a patch pia up).

        Notes
        -----
        Between two streamlines flux is the same at every depth, so their distance is proportional to one over the
        gradient, and the area above a place to the integral of that along the streamline. In a plane this is the
        equivolumetric depth of Waehnert et al. (2014), NeuroImage 93:210, of a fold that does not change along the
        third axis.
        """
        ok = self.inside(xy_um)
        found = np.full((len(ok), 6), np.nan)
        found[ok] = _laplace.feet(*self.field, self.to_px(xy_um)[ok], self.most)
        length, content = found[:, 0] + found[:, 2], found[:, 1] + found[:, 3]
        return pd.DataFrame(
            {
                "depth": found[:, 1] / content,
                "depth_length": found[:, 0] / length,
                "thickness_mm": length * self.step_um / 1000,
                "angle_deg": np.where(np.isfinite(length), self._upright(xy_um, ok, found[:, 4:6]), np.nan),
            }
        )

    def _upright(self, xy_um: NDArray[np.floating], ok: NDArray[np.bool_], slope: Array) -> Array:
        """Angles of the mid-cortical line where the streamlines of places cross it; of the streamline where unknown."""
        turn = upright(slope[:, 0], slope[:, 1])
        px, way = self.to_px(xy_um)[ok], slope[ok] / np.hypot(*slope[ok].T)[:, None]
        aside = _ASIDE_PX * np.column_stack([way[:, 1], -way[:, 0]])
        one, other = (
            _laplace.lines(*self.field, px + sign * aside, np.array([0.5]), 2, self.most)[0][:, 0]
            for sign in (1.0, -1.0)
        )
        across = one - other
        # White matter lies to the same side of the mid-line as it does of the step aside.
        found = upright(-across[:, 1], across[:, 0])
        turn[ok] = np.where(np.isfinite(found), found, turn[ok])
        return turn

    def depth(self) -> Raster:
        """Equi-area depth of every pixel of ``kind``: (h, w) float32, NaN outside cortex; see `places`."""
        return cast("Raster", _laplace.depths(*self.field, self.kind, self.most))

    def streamlines(self, xy_um: NDArray[np.floating], *, points: int = 50, equal: str = "length") -> Array:
        """Streamlines through places, from the pia to white matter.

        Parameters
        ----------
        xy_um : (n, 2) float
        points : int
            Points per streamline, at the middle of as many equal parts.
        equal : str
            ``"length"``, or ``"area"`` for equi-area depths.

        Returns
        -------
        (n, points, 2) float64
            Section um; NaN where a place has no streamline.

        Raises
        ------
        Usage
            For another ``equal``, or fewer than two points.
        """
        if equal not in ("length", "area") or points < 2:
            raise Usage(
                "streamlines should have two points or more, spaced by equal 'length' or 'area'.",
                found=f"points = {points}, equal = {equal!r}.",
            )
        at = (np.arange(points) + 0.5) / points
        ok = self.inside(xy_um)
        out = np.full((len(ok), points, 2), np.nan)
        out[ok] = _laplace.lines(*self.field, self.to_px(xy_um)[ok], at, 3 if equal == "area" else 2, self.most)[0]
        return self.to_um(out)


def upright(right: Array, down: Array) -> Array:
    """Angle in degrees that turns a patch pia up where the potential grows along (right, down), towards white matter.

    A patch of 0 deg has the top of the picture at its top; angles grow as `patches.source.Section.crop` turns.
    """
    return np.rad2deg(np.arctan2(-right, down))


def ribbon(
    mask: NDArray[np.integer],
    pixel_um: float,
    *,
    cortex: Sequence[int] = (1,),
    white: Sequence[int] = (2,),
    cut: Sequence[int] = (),
    open_sulci: bool = True,
    grid_um: float | None = None,
) -> Ribbon:
    """Laplace field between pia and white matter of one section (Jones et al. 2000, Hum Brain Mapp 11:12).

    The edge of the picture and faces where cortex was cut across are neither pia nor white matter: streamlines run
    along them. Faces are found where cortex, background and white matter meet.

    Parameters
    ----------
    mask : (h, w) integer
        Labels of the whole section; 0 is outside.
    pixel_um : float
        Pixel size of the mask.
    cortex, white : sequence of int
        Labels of cortex and white matter; see `LAYERS`.
    cut : sequence of int
        Labels that are neither outside nor white matter: lost tissue, hippocampus, what cortex merely ends at.
    open_sulci : bool
        Put pia back where banks of a sulcus touch.
    grid_um : float or None
        Spacing of the working grid, a whole number of pixels; None: about 60 across cortex.

    Raises
    ------
    Usage
        If ``pixel_um`` or ``grid_um`` is no positive number, or labels are given twice.
    Refused
        If the mask is not a plane of integers, holds other labels, lacks cortex, white matter or background, if no
        piece of cortex lies between pia and white matter, or if cortex is too thin or implausibly thick.
    """
    kind_of = _kinds(mask, pixel_um, cortex, white, cut)
    fine = kind_of[mask]
    thick = _faces.thickness_px(fine)
    typical_mm = thick * pixel_um / 1000
    if not _PLAUSIBLE_MM[0] <= typical_mm <= _PLAUSIBLE_MM[1]:
        raise Refused(
            f"Cortex should be {_PLAUSIBLE_MM[0]} to {_PLAUSIBLE_MM[1]} mm thick.",
            found=f"about {typical_mm:.3g} mm: {thick:.0f} pixels of {pixel_um:g} um.",
            cause="a wrong pixel size, or labels that are not cortex and white matter.",
            do="give pixel_um of the mask, not of the image it was drawn on.",
        )
    k = max(1, round(thick / _PIXELS_ACROSS)) if grid_um is None else max(1, round(_positive(grid_um) / pixel_um))
    if thick / k < _LEAST_ACROSS:
        raise Refused(
            f"Cortex should be {_LEAST_ACROSS:.0f} or more pixels of the working grid thick.",
            found=f"{thick / k:.1f} of {k * pixel_um:g} um.",
            do="give a finer mask or a smaller grid_um.",
        )
    share = _laplace.shares(mask, kind_of, k)
    for plane in share:
        ndimage.gaussian_filter(plane, _SOFT_PX, output=plane, mode="nearest")
    kind = share.argmax(axis=0).astype(np.uint8)
    remarks = _repair(kind, share, thick / k, k * pixel_um, open_sulci=open_sulci)
    return Ribbon(kind, _laplace.solve(share, kind, thick / k), k * pixel_um, typical_mm, remarks)


def _repair(kind: Kinds, share: Raster, thick: float, step_um: float, *, open_sulci: bool) -> tuple[str, ...]:
    """Fill specks, open sulci, find faces and leave out cortex without both sides; says what was done."""
    done: list[str] = []
    if specks := _faces.fill_specks(kind, share, thick):
        done.append(f"{specks} small holes and spots within cortex filled")
    # Before sulci are opened: cortex without any pia has none to be put back.
    count, lost, pixels = _faces.pieces(kind)
    if lost == count:
        raise Refused(
            "Some cortex should lie between pia and white matter.",
            found=f"{count} pieces of cortex, none that touches both background and white matter.",
            cause="labels of cortex and white matter swapped, or a mask of cortex alone.",
            do="name the labels: ribbon(mask, pixel_um, cortex=..., white=...).",
        )
    if lost:
        done.append(f"{pixels * (step_um / 1000) ** 2:.2f} mm2 of cortex without pia or white matter left out")
    if open_sulci and (opened := _faces.open_sulci(kind, share, thick)):
        done.append(f"{opened * step_um / 1000:.1f} mm of touching sulcal banks opened")
    _faces.close_corners(kind, share)
    if faces := _faces.cut_faces(kind, share, thick):
        done.append(f"{faces} cut faces found")
    return tuple(done)


def _positive(value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise Usage("grid_um should be a positive number.", found=f"{value}.")
    return float(value)


def _kinds(
    mask: NDArray[np.integer], pixel_um: float, cortex: Sequence[int], white: Sequence[int], cut: Sequence[int]
) -> Kinds:
    """Kind of every label as a table, or an error that says what the mask lacks."""
    size = cast("object", pixel_um)
    if isinstance(size, bool) or not isinstance(size, int | float | np.number) or not np.isfinite(size) or size <= 0:
        raise Usage(
            "A mask should come with its pixel size, a positive number of micrometres.",
            found=f"pixel_um = {size!r}.",
            do="give pixel_um=; 20 for a mask with 50 pixels per millimetre.",
        )
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise Refused(
            "A mask of cortex should be a plane (h, w) of whole numbers.",
            found=f"shape {mask.shape}, {mask.dtype}.",
            cause="a picture or a probability instead of labels, or a mask that cannot tell white matter from outside.",
            do="label each pixel: 0 outside, 1 cortex, 2 white matter.",
        )
    named = [*cortex, *white, *cut]
    if len(set(named)) < len(named) or 0 in named or min(named, default=1) < 0 or max(named, default=1) > 65535:
        raise Usage(
            "Labels of cortex, white matter and cuts should be different numbers from 1 to 65535; 0 is outside.",
            found=f"cortex {tuple(cortex)}, white {tuple(white)}, cut {tuple(cut)}.",
        )
    if min(mask.shape) < 3:
        raise Refused("A mask should be three pixels wide and high or more.", found=f"shape {mask.shape}.")
    low, high = int(mask.min()), int(mask.max())
    kind_of = np.full(max(high, *named, 0) + 1, 255, dtype=np.uint8) if high <= 65535 else np.empty(0, dtype=np.uint8)
    strange = [] if len(kind_of) and low >= 0 else [low if low < 0 else high]
    if not strange:
        kind_of[0] = OUTSIDE
        for labels, kind in ((cortex, CORTEX), (white, WHITE), (cut, CUT)):
            kind_of[list(labels)] = kind
        there = _laplace.counts(mask, len(kind_of)) > 0
        strange = np.flatnonzero(there & (kind_of == 255)).tolist()
        for labels, what in (((0,), "background"), (cortex, "cortex"), (white, "white matter")):
            if not strange and not there[list(labels)].any():
                raise Refused(
                    f"A mask should hold {what}.",
                    found=f"no pixel of label {', '.join(map(str, labels))}; the mask holds {np.flatnonzero(there)}.",
                    cause="a mask of one tissue, or other labels than named.",
                    do="name the labels: ribbon(mask, pixel_um, cortex=..., white=...).",
                )
    if strange:
        raise Refused(
            "Every label of a mask should be named as cortex, white matter or cut.",
            found=f"unnamed labels {strange[:8]}.",
            do="name them; what cortex merely ends at is cut=(...).",
        )
    return np.where(kind_of == 255, OUTSIDE, kind_of).astype(np.uint8)
