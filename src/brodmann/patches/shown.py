"""What maps show of patches: their sections, and the patch of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.patches.recipe import Recipe
from brodmann.patches.source import Section, Source


def pictures(source: Source) -> list[Section]:
    """Sections that a map can paint."""
    return source.sections


def window(source: Source, recipe: Recipe) -> tuple[float, Callable[[Any], NDArray[np.uint8]]]:
    """Side of a patch in mm, and a function from a row of the table to the pixels that the encoder was given."""
    settings, sections = recipe.samples, {section.id: section for section in source.sections}

    def crop(row: Any) -> NDArray[np.uint8]:
        return sections[str(row["section"])].crop(
            float(row["x_um"]),
            float(row["y_um"]),
            size_px=settings.size_px,
            pixel_um=settings.pixel_um,
            angle_deg=float(row["angle_deg"]) if settings.upright else 0.0,
        )

    return settings.size_px * settings.pixel_um / 1000, crop
