"""CellTransformer's knobs: which cells see each other, which network, which likelihood."""

from __future__ import annotations

from typing import Literal

import pydantic

from brodmann.settings import Fit, Split, settings


@settings
class Cells:
    """Which cells become samples, and what a cell sees of its tissue."""

    radius_um: float = pydantic.Field(default=80.0, gt=0)
    """Cells farther apart than this do not see each other; 85 um in the published system."""
    neighbours: int = pydantic.Field(default=30, ge=1, le=250)
    """At most so many neighbours of a cell, the nearest."""
    tile_cells: int = pydantic.Field(default=2048, ge=64)
    """Cells of a training tile: neighbours in space, of one section."""
    least_counts: int = pydantic.Field(default=1, ge=0)
    """Cells with fewer counts take part in nothing; how many is said."""
    components: int = pydantic.Field(default=20, ge=2, le=200)
    """Principal components of normalised counts that describe a cell."""
    equalise: bool = True
    """Take from every gene how much more often an animal's experiment sees it in like cells (tile form)."""
    types: bool = False
    """Use the data's cell types as input, beside the components."""


@settings
class Tile:
    """Every cell of a tile attends to its neighbours; hidden cells are predicted from those around them."""

    kind: Literal["tile"] = "tile"
    width: int = pydantic.Field(default=128, ge=32)
    layers: int = pydantic.Field(default=4, ge=1)
    head_width: int = pydantic.Field(default=32, ge=8)
    hidden: float = pydantic.Field(default=0.3, gt=0, lt=1)
    """Fraction of cells whose counts are hidden and predicted."""


@settings
class Neighbourhood:
    """The published form: a set transformer over a cell's neighbours predicts the cell (Lee et al. 2025)."""

    kind: Literal["neighbourhood"] = "neighbourhood"
    width: int = pydantic.Field(default=384, ge=16)
    layers: int = pydantic.Field(default=4, ge=1)
    decoder_layers: int = pydantic.Field(default=4, ge=1)
    heads: int = pydantic.Field(default=8, ge=1)
    feed_forward: int = pydantic.Field(default=2048, ge=16)
    input: Literal["library", "log1p", "log2"] = "library"
    """How counts enter: scaled by the library, which also scales the predicted mean; or log1p(x), log2(1 + x) as
    published, where the mean knows no library."""
    feature: Literal["pooled", "decoded"] = "pooled"
    """The token of a neighbourhood before the decoder, or after it as published, where it knows the cell's own type."""


@settings
class Counts:
    """Likelihood of a hidden cell's counts, given its library size; optionally a contrast of places."""

    likelihood: Literal["nb", "zinb"] = "nb"
    contrast: float = pydantic.Field(default=0.0, ge=0)
    """Weight of SpatialNCE on places, the objective of patches; 0 switches it off."""
    reach_mm: float = pydantic.Field(default=0.2, gt=0)
    """Distance up to which two cells are partners in that contrast."""
    temperature: float = pydantic.Field(default=0.1, gt=0)


@settings
class Recipe:
    """CellTransformer: learn tissue from what a cell's neighbours say of it."""

    samples: Cells = Cells()
    encoder: Tile | Neighbourhood = pydantic.Field(default=Tile(), discriminator="kind")
    objective: Counts = Counts()
    split: Split = Split(by="brain", folds=0)
    fit: Fit = Fit(batch=8, lr=1e-3)
    seed: int = 0
