"""Cells of the phantom's sections counted in patches: the truth that hand-made outlines are in real tissue."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd

from brodmann.errors import Usage
from brodmann.near.squares import tally
from brodmann.patches.source import Section, Source
from brodmann.phantom.section import PhantomSection


def counted(source: Source, *, side_um: float) -> Source:
    """The same sections, with the neurons in the patch around each point as columns.

    Every cell of every section is placed for it, which takes seconds a section: done only when asked for. Densities and
    sizes per layer (``density_L1 ... size_L6``) come with every phantom.

    Parameters
    ----------
    source : Source
        Made by `phantom.sections`; left as it was.
    side_um : float
        Side of the patches: ``size_px * pixel_um`` of the recipe. They are turned as upright patches are.

    Returns
    -------
    Source
        With another fingerprint. Its points have ``count`` (neurons whose centre lies in the patch; glia are drawn, but
        not counted), ``size_um`` (their mean diameter; NaN where there is none) and ``count_per_mm2`` (of the whole
        patch, white matter and empty slide included).

    Raises
    ------
    Usage
        The source is not the phantom's.
    Refused
        The side is not positive.
    """
    if not all(isinstance(section, PhantomSection) for section in source.sections):
        raise Usage("cells are counted in sections of the phantom.", found=f"'{source.name}', which has others.")
    sections = [_counted(section, side_um) for section in cast("list[PhantomSection]", source.sections)]
    digest = hashlib.sha256(f"{source.fingerprint} counted {side_um!r}".encode())
    return replace(source, sections=cast("list[Section]", sections), fingerprint=digest.hexdigest())


def _counted(section: PhantomSection, side_um: float) -> PhantomSection:
    bodies = section.cells()
    neurons = bodies[bodies[:, 7] >= 0]
    points = section.points
    count, size = tally(
        neurons[:, :2],
        2 * neurons[:, 2],
        points[["x_um", "y_um"]].to_numpy(np.float64),
        side_um=side_um,
        angle_deg=points["angle_deg"].to_numpy(np.float64),
    )
    known = pd.DataFrame(
        {"count": count.astype(np.float64), "size_um": size, "count_per_mm2": count / (side_um / 1000) ** 2}
    )
    return replace(section, points=pd.concat([points.reset_index(drop=True), known], axis=1))
