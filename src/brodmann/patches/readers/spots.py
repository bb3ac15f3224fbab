"""Spot tables beside images (``NAME.png`` + ``NAME_spots.csv``): sample points with labels, and a ruler.

The spots of the array lie 100 um apart, so an image without a stated pixel size can be measured with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import spatial

from brodmann.errors import Refused

PITCH_UM = 100.0
"""Distance between neighbouring spots, centre to centre (10x Genomics Visium)."""


def table_of(image: Path) -> Path | None:
    """Spot table that belongs to an image file, if there is one."""
    path = image.with_name(image.stem + "_spots.csv")
    return path if path.is_file() else None


def pixel_um_from(path: Path) -> float:
    """Pixel size from the spots' pitch: 100 um over the mean distance (px) between neighbours.

    Raises
    ------
    Refused
        Too few spots, or spots that do not form an even array.
    """
    try:
        table = cast("pd.DataFrame", cast("Any", pd).read_csv(path))
        xy = table[["x_px", "y_px"]].to_numpy(np.float64)
    except (ValueError, KeyError, OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path.name} should be a table with x_px and y_px.", found=str(error)) from error
    xy = xy[np.isfinite(xy).all(1)]
    if len(xy) < 20:
        raise Refused(
            f"{path.name} should hold at least 20 spots to measure the pixel size.",
            found=f"{len(xy)}.",
            do="state pixel_um in sections.json.",
        )
    tree = cast("Any", spatial).cKDTree(xy)
    distances = np.asarray(tree.query(xy, k=7)[0])[:, 1:]
    nearest = distances[:, 0]
    pitch = float(np.median(nearest))
    even = float(np.mean(np.abs(nearest - pitch) < 0.15 * pitch)) if pitch > 0 else 0.0
    if even < 0.8:
        raise Refused(
            f"spots of {path.name} should form an even array to measure the pixel size.",
            found=f"only {even:.0%} have their nearest neighbour at the common distance.",
            do="state pixel_um in sections.json.",
        )
    # All six neighbours, since positions rounded to pixels make the nearest of them too near.
    return PITCH_UM / float(distances[distances < 1.3 * pitch].mean())
