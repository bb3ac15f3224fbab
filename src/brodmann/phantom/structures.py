"""Structures that name an area to the eye, as masks under patches: the stripe of Gennari, and Betz's giant cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Usage
from brodmann.patches.source import Section
from brodmann.phantom import areas
from brodmann.phantom.cells import between, cyto_at
from brodmann.phantom.chance import compiled
from brodmann.phantom.cut import STEP_UM, solve
from brodmann.phantom.section import PhantomSection
from brodmann.phantom.sheet import MARGIN_MM, STEP_MM

Mask = NDArray[np.bool_]
Structure = Literal["stripe", "giants"]

OWNER: dict[Structure, str] = {"stripe": "V1", "giants": "M1"}
"""The area that holds each structure."""
_WHITE = len(areas.SUBLAYERS) + 1
_WIDEST_UM = 20.0
"""Largest radius of an ordinary cell; nearly all giants are larger, and nothing else is."""
_FINE = 4


class Structures(NamedTuple):
    """Masks (n, size_px, size_px) bool under n patches; each lies inside the one before it.

    Attributes
    ----------
    cortex : from pia to white matter
    layer : what holds the structure: layer IV of the striate area, or sublayer Vb of the motor area
    structure : the pale sublayer IVb of the striate area, or the bodies of giant cells
    """

    cortex: Mask
    layer: Mask
    structure: Mask


def structures(
    sections: Sequence[Section], places: pd.DataFrame, what: Structure, *, size_px: int, pixel_um: float
) -> Structures:
    """Rasterise a structure under patches, pixel by pixel as `PhantomSection.crop` draws them.

    Parameters
    ----------
    sections : sequence of PhantomSection
        A phantom's, such as ``source.sections``.
    places : DataFrame
        ``section``, centres ``x_um``, ``y_um`` and turn ``angle_deg`` of the patches (0 where they are not upright).
    what : {"stripe", "giants"}
        ``stripe``: pixels whose centre lies in sublayer IVb of V1, pale between the dense IVa and IVc, as the stripe
        of Gennari parts the layer. ``giants``: pixels of which a giant cell's disc (its own radius, in sublayer Vb of
        M1) covers a quarter.
    size_px, pixel_um : int, float
        Of the patches.

    Returns
    -------
    Structures
        In the order of ``places``.

    Raises
    ------
    Usage
        For another structure, or a place on a section that is not a phantom's.
    """
    if what not in OWNER:
        raise Usage(f"'{what}' should be a structure of the phantom.", found=f"{', '.join(OWNER)} are known.")
    drawn = {section.id: section for section in sections if isinstance(section, PhantomSection)}
    names = places["section"].astype(str).to_numpy()
    if unknown := sorted(set(names) - set(drawn)):
        raise Usage("structures are known of a phantom's sections.", found=f"{unknown[0]} is none of {len(drawn)}.")
    where = places[["x_um", "y_um", "angle_deg"]].to_numpy(np.float64)
    made = np.zeros((3, len(names), size_px, size_px), bool)
    for name in dict.fromkeys(names.tolist()):
        rows = np.flatnonzero(names == name)
        made[:, rows] = _under(drawn[name], where[rows], what, size_px, pixel_um)
    return Structures(*made)


def _under(
    section: PhantomSection, where: NDArray[np.float64], what: Structure, size_px: int, pixel_um: float
) -> Structures:
    """Masks under patches (n, 3) of one section: x and y (um), turn (deg)."""
    xy, turn = where[:, :2], np.deg2rad(where[:, 2])
    found = _layers(section, xy, turn, size_px, pixel_um)
    sublayer, owner = found[..., 0], found[..., 1] == 1 + areas.NAMES.index(OWNER[what])
    cortex = (sublayer > 0) & (sublayer < _WHITE)
    if what == "stripe":
        layer = owner & np.isin(sublayer, 1 + np.flatnonzero(areas.LAYER_OF == 4))
        return Structures(cortex, layer, owner & (sublayer == 1 + areas.SUBLAYERS.index("IVb")))
    layer = owner & (sublayer == 1 + areas.SUBLAYERS.index("Vb"))
    bodies = giants(section)
    covered = np.stack([_discs(bodies, *place, size_px, pixel_um) for place in zip(xy, turn, strict=True)])
    return Structures(cortex, layer, layer & (covered >= 0.25))


def giants(section: PhantomSection) -> NDArray[np.float32]:
    """Giant cells of a section: (n, 3) centre (um) and radius (um)."""
    key = (section.id, "giants")
    held = section.rasters.get(key)
    if held is None:
        bodies = section.cells()
        held = [bodies[bodies[:, 2] > _WIDEST_UM, :3]]
        section.rasters.put(key, cast("Any", held))
    return cast("NDArray[np.float32]", held[0])


def _layers(
    section: PhantomSection, xy: NDArray[np.float64], turn: NDArray[np.float64], size_px: int, pixel_um: float
) -> NDArray[np.uint8]:
    """Sublayer (0 outside, 1-11, 12 white matter) and 1 + area of every pixel: (n, size_px, size_px, 2)."""
    brain = section.brain
    geometry = solve(brain, section.plane)
    args = (geometry.field, brain.cyto, areas.EDGES.start, len(areas.SUBLAYERS), brain.area, xy, turn)
    return cast("NDArray[np.uint8]", _name(*args, size_px, pixel_um))


@compiled
def _name(
    field: Any, cyto: Any, edge0: int, count: int, area: Any, xy: Any, turn: Any, size_px: int, pixel_um: float
) -> Any:
    out = np.zeros((xy.shape[0], size_px, size_px, 2), np.uint8)
    q = np.empty(8)
    row = np.empty(cyto.shape[2])
    for n in range(xy.shape[0]):
        cos, sin = np.cos(turn[n]), np.sin(turn[n])
        for y in range(size_px):
            down = (y + 0.5 - size_px / 2) * pixel_um
            for x in range(size_px):
                right = (x + 0.5 - size_px / 2) * pixel_um
                x_um = xy[n, 0] + right * cos - down * sin
                y_um = xy[n, 1] + right * sin + down * cos
                if x_um < 0 or y_um < 0:
                    continue
                fx, fy = x_um / STEP_UM, y_um / STEP_UM
                if fx > field.shape[1] - 1 or fy > field.shape[0] - 1:
                    continue
                between(field, fx, fy, q)
                if q[7] < 0 or q[2] > q[3]:
                    continue
                i = min(max(int((q[0] + MARGIN_MM) / STEP_MM + 0.5), 0), area.shape[0] - 1)
                j = min(max(int((q[1] + MARGIN_MM) / STEP_MM + 0.5), 0), area.shape[1] - 1)
                out[n, y, x, 1] = 1 + area[i, j]
                if q[2] < -q[3]:
                    out[n, y, x, 0] = count + 1
                    continue
                cyto_at(cyto, q[0], q[1], row)
                k = 0
                while k < count - 1 and q[4] > row[edge0 + k]:
                    k += 1
                out[n, y, x, 0] = 1 + k
    return out


def _discs(
    cells: NDArray[np.float32], centre: NDArray[np.float64], turn: float, size_px: int, pixel_um: float
) -> NDArray[np.float64]:
    """Share of each pixel of one patch that discs cover: (size_px, size_px)."""
    dx, dy = (cells[:, :2] - centre).T
    column = (dx * np.cos(turn) + dy * np.sin(turn)) / pixel_um + size_px / 2
    row = (-dx * np.sin(turn) + dy * np.cos(turn)) / pixel_um + size_px / 2
    radius = cells[:, 2] / pixel_um
    cover = np.zeros((size_px * _FINE, size_px * _FINE), bool)
    near = (np.minimum(column, row) > -radius) & (np.maximum(column, row) < size_px + radius)
    for x, y, r in zip(column[near], row[near], radius[near], strict=True):
        first = [max(int((at - r) * _FINE), 0) for at in (y, x)]
        last = [min(int((at + r) * _FINE) + 1, size_px * _FINE) for at in (y, x)]
        down, right = ((np.arange(a, b) + 0.5) / _FINE for a, b in zip(first, last, strict=True))
        disc = (down[:, None] - y) ** 2 + (right[None] - x) ** 2 <= r * r
        cover[first[0] : last[0], first[1] : last[1]] |= disc
    return cover.reshape(size_px, _FINE, size_px, _FINE).mean(axis=(1, 3))
