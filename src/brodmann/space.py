"""A coordinate is never bare: spaces with a name, a unit and an orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused, SpaceMismatch


@dataclass(frozen=True, kw_only=True)
class Space:
    """A named coordinate space; all coordinates in it are millimetres.

    Parameters
    ----------
    name : str
        Unique name, e.g. ``"ccf_v3"``.
    orientation : str
        Three letters: where each axis points (``"ras"`` = right, anterior, superior).
    extent_mm : tuple of float
        Largest plausible span of a brain along each axis; wrong units show here.
    origin : str
        Where (0, 0, 0) lies, in words.
    """

    name: str
    orientation: str
    extent_mm: tuple[float, float, float]
    origin: str
    unit: str = "mm"

    def check(self, xyz_mm: NDArray[np.floating], *, what: str = "coordinates") -> None:
        """Refuse coordinates that are not finite or cannot be millimetres of this space.

        Raises
        ------
        Refused
            Naming the factor by which the span is off, when it looks like another unit.
        """
        if xyz_mm.ndim != 2 or xyz_mm.shape[1] != 3:
            raise Refused(
                f"{what} should be (n, 3) mm in space '{self.name}'.", found=f"an array of shape {xyz_mm.shape}."
            )
        if not len(xyz_mm):
            return
        bad = ~np.isfinite(xyz_mm).all(axis=1)
        if bad.any():
            raise Refused(
                f"{what} should be finite.", found=f"{int(bad.sum())} of {len(xyz_mm)} rows hold NaN or infinity."
            )
        span = np.ptp(xyz_mm, axis=0)
        over = float((span / np.asarray(self.extent_mm)).max())
        if over > 1.5:
            unit = "um" if over > 100 else "1/10 mm or voxels" if over > 5 else "another space"
            raise Refused(
                f"{what} should span at most {self.extent_mm} mm in space '{self.name}'.",
                found=f"a span of {tuple(round(float(s), 1) for s in span)}, {over:.0f} times too large.",
                cause=f"coordinates given in {unit}.",
                do="convert to mm before opening, or name the right space.",
            )

    def require(self, other: Space) -> None:
        """Raise `SpaceMismatch` unless ``other`` is this space."""
        if self != other:
            raise SpaceMismatch(
                f"both sides should be in space '{self.name}'.",
                found=f"'{other.name}' ({other.orientation}).",
                do="transform one side with its registration first; names alone are never matched.",
            )


CCF_V3 = Space(
    name="ccf_v3",
    orientation="ras",
    extent_mm=(11.4, 13.2, 8.0),
    origin="left, posterior, inferior corner of the 25-um CCFv3 (2017) volume",
)
"""Allen mouse common coordinate framework v3 (Wang et al. 2020), axes as QuickNII and DeepSlice write them."""

PHANTOM = Space(
    name="phantom",
    orientation="ras",
    extent_mm=(160.0, 160.0, 90.0),
    origin="centre of the planted sheet before folding",
)
"""The embedded phantom's common space."""


def unregistered(width_mm: float, height_mm: float) -> Space:
    """Space of sections that were never registered to a brain: in-plane mm, sections not comparable."""
    side = max(width_mm, height_mm, 1.0)
    return Space(
        name="unregistered",
        orientation="xyz",
        extent_mm=(side, side, side),
        origin="top left corner of each section; sections are not aligned with one another",
    )
