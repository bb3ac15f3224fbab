"""QuickNII, DeepSlice and VisuAlign anchoring: images with three corner vectors in an atlas volume.

An anchoring ``[ox, oy, oz, ux, uy, uz, vx, vy, vz]`` puts pixel (px, py) of a W x H image at
``o + px / W u + py / H v`` in voxels of the target volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.space import CCF_V3, Space

TARGETS: dict[str, tuple[Space, float]] = {
    "ABA_Mouse_CCFv3_2017_25um.cutlas": (CCF_V3, 25.0),
    "ABA_Mouse_CCFv3_2015_25um.cutlas": (CCF_V3, 25.0),
    "ABA_Mouse_CCFv3_2017_10um.cutlas": (CCF_V3, 10.0),
    "ABA_Mouse_CCFv3_2015_10um.cutlas": (CCF_V3, 10.0),
}
"""Atlas volumes we can place: space and voxel size in um."""


@dataclass(frozen=True)
class Anchor:
    """Where one image lies.

    Parameters
    ----------
    file : str
    width, height : int
        Size of the image that was registered, in px; the image read may be a scaled copy.
    origin_mm, u_mm, v_mm : (3,) float64
        Top left corner, and the image's whole width and height, as vectors in mm.
    """

    file: str
    width: int
    height: int
    origin_mm: NDArray[np.float64]
    u_mm: NDArray[np.float64]
    v_mm: NDArray[np.float64]

    @property
    def pixel_um(self) -> tuple[float, float]:
        """Registered size of a pixel along the width and the height, in um."""
        width, height = (float(np.linalg.norm(vector)) * 1000 for vector in (self.u_mm, self.v_mm))
        return width / self.width, height / self.height

    def to_mm(self, width_um: float, height_um: float) -> NDArray[np.float64]:
        """(3, 3) map from (x_um, y_um, 1) to mm, for an image that is so many um wide and high on the slide."""
        return np.stack([self.u_mm / width_um, self.v_mm / height_um, self.origin_mm], axis=1)


def is_anchoring(content: Any) -> bool:
    """Whether parsed JSON looks like a QuickNII series."""
    if not isinstance(content, dict):
        return False
    keys = cast("dict[str, Any]", content)
    return "slices" in keys and "target" in keys


def anchors(content: Any, *, where: str) -> tuple[Space, list[Anchor], list[tuple[str, str]]]:
    """Parse a series: its space, an anchor per slice, and the slices left out with the reason.

    Raises
    ------
    Refused
        Unknown target volume, or not a series at all.
    """
    series = cast("dict[str, Any]", content)
    target = str(series["target"])
    if target not in TARGETS:
        raise Refused(
            f"{where} should be registered to a known volume.",
            found=f"target '{target[:80]}'.",
            do=f"known: {', '.join(sorted(TARGETS))}. For another atlas write a sections.json with to_mm.",
        )
    space, voxel_um = TARGETS[target]
    slices: Any = series["slices"]
    if not isinstance(slices, list):
        raise Refused(f"{where} should hold a list of slices.", found=type(slices).__name__)
    good: list[Anchor] = []
    bad: list[tuple[str, str]] = []
    for number, item in enumerate(cast("list[Any]", slices)):
        entry: dict[str, Any] = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        file = str(entry.get("filename", f"slice {number}"))
        try:
            vectors = np.array(entry.get("anchoring", ()), dtype=np.float64)
            width, height = int(entry.get("width", 0)), int(entry.get("height", 0))
        except (TypeError, ValueError, OverflowError):
            bad.append((file, "anchoring, width and height should be numbers"))
            continue
        if vectors.shape != (9,):
            bad.append((file, "no anchoring of nine numbers: the slice was not registered"))
        elif not np.isfinite(vectors).all() or width < 1 or height < 1:
            bad.append((file, "anchoring should be finite, width and height positive"))
        else:
            origin, u, v = (vectors * voxel_um / 1000).reshape(3, 3)
            if np.linalg.norm(np.cross(u, v)) < 0.1 * np.linalg.norm(u) * np.linalg.norm(v) + 1e-12:
                bad.append((file, "anchoring vectors u and v are parallel or zero: no plane"))
            else:
                good.append(Anchor(file, width, height, origin, u, v))
    return space, good, bad


def pixel_um_of(found: list[Anchor]) -> float:
    """Pixel size of a series on the slide: the median over sections of the registered width per pixel, in um.

    Registration stretches each section, and dorsoventrally more than along the width (shrinkage, tilt); the width's
    median is what the slide scanner's value agrees with best. A stated pixel size should be preferred.
    """
    return float(np.median([anchor.pixel_um[0] for anchor in found]))
