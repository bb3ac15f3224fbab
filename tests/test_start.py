"""Weights to begin with, in the other systems: which tensors are taken over, which panels and shapes are refused."""

import pytest
import torch

from brodmann import start, verbs
from brodmann.cells.animals import Groups
from brodmann.cells.components import Components
from brodmann.cells.model import TileModel
from brodmann.cells.neighbourhood import NeighbourhoodModel
from brodmann.errors import Refused
from brodmann.neurons.model import Known, NeuronModel

ABOUT = {"run": "runs/first", "weights": "0" * 64, "split": {"by": "brain", "fold": 0}, "other_data": False}


def moved(model):
    """Its state, every number changed."""
    return {name: value + 1 for name, value in model.state_dict().items()}


def begin(model, other, state):
    return start.begin(model, start.Start(state, other.config(), ABOUT))


# ----------------------------------------------------------------------------------------------------------- neurons

NETWORK = {"encoder.channels": [8, 8], "encoder.pools": [2, 1], "encoder.layers": 1, "encoder.outputs": 16}


def neurons(*known, **more):
    changes = {**NETWORK, "encoder.modulation": 4, **{name.replace("__", "."): value for name, value in more.items()}}
    return NeuronModel(verbs.recipe("neurons-tiny", changes), [Known(*one) for one in known])


FIRST = (("a", ("a/1", "a/2"), "x"), ("b", ("b/1", "b/2", "b/3"), "y"))
OTHERS = (("c", ("c/1", "c/2", "c/3"), "z"), ("d", ("d/1", "d/2"), "w"))


def test_the_same_recordings_begin_with_everything():
    model, other = neurons(*FIRST), neurons(*FIRST)
    begin(model, other, moved(other))
    assert all(torch.equal(value, moved(other)[name]) for name, value in model.state_dict().items())


def test_other_recordings_keep_their_readouts_though_they_are_as_many():
    model, other = neurons(*OTHERS), neurons(*FIRST)
    built, state = {name: value.clone() for name, value in model.state_dict().items()}, moved(other)
    state["encoder.perspective.logit"] = torch.tensor([1.0, 3.0])
    begin(model, other, state)
    for name, value in model.state_dict().items():
        own = name.startswith("encoder.readout.")
        if not name.startswith(("encoder.perspective.", "encoder.modulation.read.")):
            assert torch.equal(value, built[name] if own else state[name]), name
    assert model.state_dict()["encoder.perspective.logit"].tolist() == [2.0, 2.0]
    # an animal more is no other shape
    more = neurons(*OTHERS, ("e", ("e/1",), "v"))
    begin(more, other, state)
    assert more.state_dict()["encoder.perspective.logit"].tolist() == [2.0, 2.0, 2.0]


def test_another_core_is_refused_by_name():
    model, other = neurons(*OTHERS), neurons(*FIRST, encoder__channels=[8, 16])
    with pytest.raises(Refused, match="names and shapes") as caught:
        begin(model, other, other.state_dict())
    assert "encoder.core" in caught.value.found


# ------------------------------------------------------------------------------------------------------------- cells


def basis(genes, components=4, groups=3):
    return Components(
        torch.rand(genes), torch.rand(components, genes), torch.rand(components), torch.full((genes,), 1 / genes),
        torch.tensor(100.0),
    ), Groups(torch.rand(groups, components), torch.rand(groups, genes))  # fmt: skip


def tiles(names, groups=3):
    return TileModel(verbs.recipe("cells-tiny", {"encoder.width": 32}), names, *basis(len(names), groups=groups))


@pytest.mark.parametrize("form", ["tile", "neighbourhood"])
def test_cells_begin_with_the_whole_network_of_the_same_genes(form):
    genes = [f"g{number}" for number in range(10)]
    changes = {"encoder.width": 32, "encoder.layers": 1, "encoder.decoder_layers": 1, "encoder.feed_forward": 64}
    small = verbs.recipe("cells-neighbourhood", changes)

    def made(names, groups):
        return tiles(names, groups) if form == "tile" else NeighbourhoodModel(small, names, ())

    # groups of like cells are those of the data, and come along
    model, other = made(genes, 3), made(genes, 5)
    state = moved(other)
    begin(model, other, state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(Refused, match="same genes") as caught:
        begin(made(["h", *genes[1:]], 3), other, state)
    assert "1 of these unknown: h" in caught.value.found
    with pytest.raises(Refused, match="same genes"):
        begin(made(genes[::-1], 3), other, state)
