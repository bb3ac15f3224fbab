"""Where patches come from: sections with a pixel size, a stain polarity and a place in a space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.patches.recipe import Recipe
from brodmann.space import Space

if TYPE_CHECKING:
    from brodmann.progress import Say

PLAUSIBLE_MM = (0.2, 250.0)
"""Longer side of the largest section: from a scrap of tissue to a slide of a whole human brain."""

LAYERS = ("background", "I", "II", "III", "IV", "V", "VI", "white matter")
"""Classes of `LayeredSection.crop_mask` where a sidecar names no others, in the order of depth."""
UNLABELLED = 255
"""Class of a place of which nothing is known: it is neither learned from nor judged."""


class Section(Protocol):
    """One section of one brain; reads pixels only when asked, from any thread.

    Attributes
    ----------
    id : str
        Unique in its source.
    subject : str
        The brain.
    width_um, height_um : float
        Size of the image on the slide.
    native_um : float
        Finest pixel size.
    channels : int
        1 or 3.
    dark_stain : bool
        True: stain darker than the slide (brightfield); False: bright on dark.
    background : tuple of int
        Value of the empty slide, used outside the image.
    points : DataFrame or None
        Own sample points: ``x_um``, ``y_um``, optional ``angle_deg``, ``u_mm``, ``v_mm``, label columns.
    """

    @property
    def id(self) -> str:
        """Unique name in its source."""
        ...

    @property
    def subject(self) -> str:
        """The brain."""
        ...

    @property
    def width_um(self) -> float:
        """Width of the image on the slide."""
        ...

    @property
    def height_um(self) -> float:
        """Height of the image on the slide."""
        ...

    @property
    def native_um(self) -> float:
        """Finest pixel size."""
        ...

    @property
    def channels(self) -> int:
        """1 or 3."""
        ...

    @property
    def dark_stain(self) -> bool:
        """Whether stain is darker than the slide."""
        ...

    @property
    def background(self) -> tuple[int, ...]:
        """Value of the empty slide per channel."""
        ...

    @property
    def points(self) -> pd.DataFrame | None:
        """Own sample points, or None."""
        ...

    def crop(
        self, x_um: float, y_um: float, *, size_px: int, pixel_um: float, angle_deg: float = 0.0
    ) -> NDArray[np.uint8]:
        """Patch (C, size_px, size_px) centred on (x_um, y_um), at exactly ``pixel_um``, turned by ``angle_deg``."""
        ...

    def overview(self, pixel_um: float) -> NDArray[np.uint8]:
        """Whole section (C, H, W) at ``pixel_um``."""
        ...

    def place(self, xy_um: NDArray[np.floating]) -> NDArray[np.float64]:
        """Positions (n, 2) in um from the top left corner -> (n, 3) mm in the source's space."""
        ...


class LayeredSection(Section, Protocol):
    """A section that knows which cortical layer its places are in."""

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Classes in the order of depth, "background" first; empty where this section's layers are not drawn."""
        ...

    def crop_mask(
        self, x_um: float, y_um: float, *, size_px: int, pixel_um: float, angle_deg: float = 0.0
    ) -> NDArray[np.uint8]:
        """Classes (size_px, size_px) under the patch that `crop` gives; `UNLABELLED` where nothing is known."""
        ...


@dataclass
class Source:
    """Sections of one data set in one space.

    Parameters
    ----------
    space : Space
        Where `Section.place` leads.
    sections : list of Section
    fingerprint : str
        Hash of the files (sizes, first and last bytes, metadata) and of the transforms; times do not count.
    name : str
        Name for messages and reports.
    skipped : list of (str, str)
        Files left out, and why.
    reader : str
        Which layout was recognised.
    """

    space: Space
    sections: list[Section]
    fingerprint: str
    name: str
    skipped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    reader: str = "memory"


def open(recipe: Recipe, data: str | Path | Source, *, say: Say | None = None) -> Source:
    """Open sections: a folder with a sidecar, a folder of images, one image, or a ready `Source`.

    Nothing but headers is read. A file that does not pass the gate is left out and listed in ``skipped``.

    Parameters
    ----------
    recipe : Recipe
        Says which pixel size and channels will be asked for, so that impossible wishes are refused here.
    data : path or Source
    say : Say, optional
        Where doubts go; standard error by default.

    Raises
    ------
    Refused
        If nothing readable is found, or the sections cannot serve the recipe.
    """
    if isinstance(data, Source):
        return data
    from brodmann.patches import readers
    from brodmann.progress import Say as Speaker

    source = readers.read(Path(data))
    if doubt := doubted_size(source.sections):
        (say or Speaker())(f"{source.name}: {doubt}")
    _serves(recipe, source)
    return source


def doubted_size(sections: Sequence[Section]) -> str:
    """What to ask when sections are of a size that no brain has, as after mm given for um; else empty."""
    low, high = PLAUSIBLE_MM
    widest = max(max(section.width_um, section.height_um) for section in sections) / 1000
    return "" if low <= widest <= high else f"sections are {widest:.3g} mm wide: is the pixel size in um?"


def _serves(recipe: Recipe, source: Source) -> None:
    """Refuse a recipe whose detail or points the sections do not hold."""
    asked = recipe.samples.pixel_um
    coarse = [section for section in source.sections if section.native_um > 2 * asked]
    if coarse:
        raise Refused(
            f"sections should hold detail of {asked:g} um (samples.pixel_um).",
            found=f"{len(coarse)} of {len(source.sections)} have larger pixels, e.g. {coarse[0].id}: "
            f"{coarse[0].native_um:g} um.",
            cause="a wrong pixel size, or images too coarse for this recipe.",
            do=f"correct the pixel size, or set samples.pixel_um to {coarse[0].native_um:.3g} or more.",
        )
    if recipe.samples.where != "grid" and all(section.points is None for section in source.sections):
        raise Refused(
            f'samples.where = "{recipe.samples.where}" needs sections with their own points.',
            found=f"none of the {len(source.sections)} sections in {source.name} has any.",
            do='give "points" in sections.json, or set samples.where = "grid".',
        )
