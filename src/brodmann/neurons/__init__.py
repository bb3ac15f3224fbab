"""Neurons: video and behaviour in, responses out; a core shared by animals, a functional barcode for each neuron."""

from brodmann.neurons.asked import answers, unseen
from brodmann.neurons.controls import controls
from brodmann.neurons.insilico import tunings
from brodmann.neurons.model import build, rebuild
from brodmann.neurons.pictures import pictures, window
from brodmann.neurons.recipe import Recipe
from brodmann.neurons.samples import NeuronSamples as samples
from brodmann.neurons.source import open

__all__ = [
    "Recipe",
    "answers",
    "build",
    "controls",
    "open",
    "pictures",
    "rebuild",
    "samples",
    "tunings",
    "unseen",
    "window",
]
