"""Patches: CytoNet, self-supervised features of stained cortex (Schiffer et al., arXiv 2511.01870)."""

from brodmann.patches.controls import controls
from brodmann.patches.recipe import PLACING, Recipe
from brodmann.patches.samples import PatchSamples as samples
from brodmann.patches.segmentation import segmentation
from brodmann.patches.shown import pictures, window
from brodmann.patches.source import open
from brodmann.patches.tuned import build, rebuild

__all__ = ["PLACING", "Recipe", "build", "controls", "open", "pictures", "rebuild", "samples", "segmentation", "window"]
