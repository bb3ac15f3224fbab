"""Cells: CellTransformer, tissue domains of spatial transcriptomics (Lee et al., Nat Commun 16, 2025)."""

from brodmann.cells.controls import controls
from brodmann.cells.expression import Expression as measured
from brodmann.cells.model import build, rebuild
from brodmann.cells.pictures import pictures, window
from brodmann.cells.recipe import Recipe
from brodmann.cells.samples import CellSamples as samples
from brodmann.cells.source import open

__all__ = ["Recipe", "build", "controls", "measured", "open", "pictures", "rebuild", "samples", "window"]
