"""Sections of the phantom: drawn when first looked at, kept while there is room, known everywhere."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Usage
from brodmann.patches.resample import crop_affine, crop_labels, halve
from brodmann.patches.source import LAYERS
from brodmann.phantom import cells, draw, known, stain
from brodmann.phantom.brain import Brain
from brodmann.phantom.cut import Geometry, Plane, solve
from brodmann.phantom.draw import Labels
from brodmann.samples import stream

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


class Rasters:
    """Drawn images of many sections, the least recently used dropped when they exceed ``limit_mb``."""

    def __init__(self, limit_mb: float) -> None:
        self._limit = limit_mb * 1e6
        self._held: OrderedDict[object, list[Image]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object) -> list[Image] | None:
        """Levels drawn under ``key``, or None."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: object, levels: list[Image]) -> None:
        """Keep ``levels``; drop the oldest until all fit, never the newest."""
        with self._lock:
            self._held[key] = levels
            while len(self._held) > 1 and sum(a.nbytes for held in self._held.values() for a in held) > self._limit:
                self._held.popitem(last=False)


@dataclass(eq=False)
class PhantomSection:
    """One stained section of a planted brain, with its truth; satisfies the `Section` protocol.

    Attributes
    ----------
    points : DataFrame
        Places along the mid-cortical line; see `known.table` for the columns.
    """

    id: str
    subject: str
    native_um: float
    brain: Brain
    plane: Plane
    seed: int
    nuisance: float
    dye: float
    rasters: Rasters
    points: pd.DataFrame
    ribbon: stain.Ribbon
    vessels: Array
    channels: int = 1
    dark_stain: bool = True
    background: tuple[int, ...] = (stain.SLIDE,)
    layer_names: tuple[str, ...] = LAYERS
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    @property
    def width_um(self) -> float:
        """Width of the image."""
        return self.plane.width_um

    @property
    def height_um(self) -> float:
        """Height of the image."""
        return self.plane.height_um

    def place(self, xy_um: NDArray[np.floating]) -> Array:
        """Section coordinates (n, 2) um -> (n, 3) mm in `space.PHANTOM`."""
        return self.plane.place(np.asarray(xy_um, dtype=np.float64))

    def crop(self, x_um: float, y_um: float, *, size_px: int, pixel_um: float, angle_deg: float = 0.0) -> Image:
        """Image around a place, (1, size_px, size_px) uint8; see `patches.source.Section.crop`."""
        return _cut(self._image(), self.native_um, x_um, y_um, size_px, pixel_um, angle_deg, self.background)

    def overview(self, pixel_um: float) -> Image:
        """Whole section at ``pixel_um``, (1, h, w) uint8."""
        level, um = _level(self._image(), self.native_um, pixel_um)
        size = max(int(np.ceil(self.width_um / pixel_um)), int(np.ceil(self.height_um / pixel_um)))
        centre = size * pixel_um / 2 / um
        fill = np.asarray(self.background, dtype=np.uint8)
        whole = crop_affine(level, centre, centre, size, pixel_um / um, 0.0, fill)
        return whole[:, : int(np.ceil(self.height_um / pixel_um)), : int(np.ceil(self.width_um / pixel_um))]

    def mask(self, what: Labels = "layers", pixel_um: float | None = None) -> Image:
        """Label image (h, w) uint8 of the whole section.

        ``"layers"``: 0 background, 1-6 layers, 7 white matter. ``"areas"``: 0 outside cortex, else 1 + the area's
        index in `areas.NAMES`.
        """
        um = self.native_um if pixel_um is None else pixel_um
        key = (self.id, what, um)
        with self._lock:
            held = self.rasters.get(key)
            if held is None:
                held = [draw.labels(self._geometry(), self.brain, self._shape(um), um, what)]
                self.rasters.put(key, held)
        return held[0]

    def crop_mask(
        self, x_um: float, y_um: float, *, size_px: int, pixel_um: float, angle_deg: float = 0.0,
        what: Labels = "layers",
    ) -> Image:  # fmt: skip
        """Labels (size_px, size_px) uint8 under the patch that `crop` gives for the same arguments."""
        um = self.native_um
        scale = pixel_um / um
        return crop_labels(self.mask(what), x_um / um, y_um / um, size_px, (scale, scale), angle_deg)

    def cells(self) -> cells.Cells:
        """Every cell of the section; see `cells.Cells` for the columns."""
        texture = int(stream(self.seed, "phantom", self.subject, "texture").integers(1 << 62))
        return cells.place(self.brain, self._geometry(), self._chance("cells"), texture)

    def _geometry(self) -> Geometry:
        return solve(self.brain, self.plane)

    def _chance(self, what: str) -> int:
        return int(stream(self.seed, "phantom", self.id, what).integers(1 << 62))

    def _shape(self, um: float) -> tuple[int, int]:
        return int(np.ceil(self.height_um / um)), int(np.ceil(self.width_um / um))

    def _image(self) -> list[Image]:
        """Pyramid by 2 of the whole section, drawn once."""
        held = self.rasters.get(self.id)
        if held is None:
            with self._lock:
                held = self.rasters.get(self.id)
                if held is None:
                    held = [self._draw()[None]]
                    while max(held[-1].shape) > 128:
                        held.append(halve(held[-1]))
                    self.rasters.put(self.id, held)
        return held

    def _draw(self) -> Image:
        geometry, um = self._geometry(), self.native_um
        texture = int(stream(self.seed, "phantom", self.subject, "texture").integers(1 << 62))
        bodies = cells.place(self.brain, geometry, self._chance("cells"), texture)
        od = draw.density(geometry, bodies, self.vessels, self._shape(um), um, self._chance("neuropil"))
        rng = stream(self.seed, "phantom", self.id, "stain")
        return cast("Image", stain.spoil(od, um, rng, self.dye, self.nuisance))


def _level(levels: list[Image], native_um: float, pixel_um: float) -> tuple[Image, float]:
    """Coarsest level at least as fine as ``pixel_um``, and its pixel size."""
    if pixel_um <= 0:
        raise Usage("A pixel size should be positive.", found=f"pixel_um = {pixel_um}.", do="give micrometres.")
    k = int(np.clip(np.floor(np.log2(pixel_um / native_um) + 1e-9), 0, len(levels) - 1))
    return levels[k], native_um * 2**k


def _cut(
    levels: list[Image], native_um: float, x_um: float, y_um: float, size_px: int, pixel_um: float, angle_deg: float,
    background: tuple[int, ...],
) -> Image:  # fmt: skip
    level, um = _level(levels, native_um, pixel_um)
    fill = np.asarray(background, dtype=np.uint8)
    return crop_affine(level, x_um / um, y_um / um, size_px, pixel_um / um, angle_deg, fill)


def mount(
    brain: Brain, plane: Plane, k: int, *, seed: int, native_um: float, nuisance: float, rasters: Rasters,
    spacing_mm: float,
) -> PhantomSection:  # fmt: skip
    """Mount cut ``k`` of a brain: its line, vessels and points are known at once, its image when asked for."""
    name = f"{brain.name}/s{k:02d}"
    line = stain.ribbon(brain, plane)
    tubes = stain.vessels(line, stream(seed, "phantom", name, "vessels"), nuisance)
    dye = float(stream(seed, "phantom", brain.name, "dye").normal(0, 0.12 * nuisance))
    points = known.table(brain, plane, line, tubes, spacing_mm)
    return PhantomSection(
        id=name, subject=brain.name, native_um=native_um, brain=brain, plane=plane, seed=seed, nuisance=nuisance,
        dye=dye, rasters=rasters, points=points, ribbon=line, vessels=tubes,
    )  # fmt: skip
