"""CellTransformer, tile form: what the tissue around a cell says of the cell."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from brodmann import compute
from brodmann.cells import animals, components, neighbourhood, objective
from brodmann.cells.animals import Groups
from brodmann.cells.components import Components
from brodmann.cells.encoder import Blocks, Edges, TileNetwork, filled
from brodmann.cells.panel import same_panel
from brodmann.cells.recipe import Neighbourhood, Recipe, Tile
from brodmann.cells.samples import PASSES, CellSamples
from brodmann.contrast import Pairs, spatial_nce
from brodmann.errors import Refused, Usage
from brodmann.progress import Say
from brodmann.samples import Batch, Loss, stream

_LEARN_FROM = 100_000
_PROJECTED = 64
_RARE_ZEROS = -3.0


class TileModel(nn.Module):
    """A network that predicts the counts of hidden cells from the cells around them.

    Parameters
    ----------
    recipe : Recipe
        With ``encoder.kind = "tile"``; weights are drawn from ``recipe.seed``.
    genes : sequence of str
        The panel, in the order of the columns of counts.
    basis : Components
        Of the training cells. Part of the state, so a model carries its input with it.
    groups : Groups
        Like cells among them, with which those of any animal are compared.
    types : sequence of str
        Cell types that describe a visible cell beside its counts; none by default.
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor
    profile: Tensor
    median: Tensor
    centres: Tensor
    shares: Tensor

    def __init__(
        self, recipe: Recipe, genes: Sequence[str], basis: Components, groups: Groups, types: Sequence[str] = ()
    ) -> None:
        super().__init__()
        encoder = recipe.encoder
        if not isinstance(encoder, Tile):
            raise Usage('this form needs encoder.kind = "tile".', found=f'"{encoder.kind}".')
        self.recipe, self.genes, self.types = recipe, tuple(genes), tuple(types)
        for name, value in {**basis._asdict(), **groups._asdict()}.items():
            self.register_buffer(name, value)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = TileNetwork(
                inputs=len(basis.axes),
                width=encoder.width,
                layers=encoder.layers,
                head_width=encoder.head_width,
                types=len(self.types),
            )
            self.head = nn.Linear(encoder.width, len(self.genes), bias=False)
            # the first step starts at the mean profile, the best guess that knows no neighbour
            nn.init.normal_(self.head.weight, std=0.02 / encoder.width**0.5)
            self.log_share = nn.Parameter(basis.profile.log())
            self.log_theta = nn.Parameter(torch.zeros(len(self.genes)))
            inflated = recipe.objective.likelihood == "zinb"
            self.gate = nn.Linear(encoder.width, len(self.genes)) if inflated else None
            if self.gate is not None:
                nn.init.zeros_(self.gate.weight)
                nn.init.constant_(self.gate.bias, _RARE_ZEROS)
            contrasted = recipe.objective.contrast > 0
            self.projector = nn.Linear(encoder.width, _PROJECTED) if contrasted else None

    @property
    def basis(self) -> Components:
        """Components of normalised expression: what the network is given of a cell."""
        return Components(self.mean, self.axes, self.scale, self.profile, self.median)

    def loss(self, batch: Batch) -> Loss:
        """Negative log likelihood of the hidden cells' counts, mean over cells and measured genes, in nats.

        A contrast of places, if the recipe asks for one, is added with its weight.
        """
        counts, present = batch["counts"].float(), batch["present"]
        rows = torch.nonzero(batch["hidden"])[:, 0]
        token = self._tokens(batch, self._described(batch, counts), batch["hidden"], rows, self._around(batch))
        hidden, logits = counts[rows], self._logits(token)
        if "animal" in batch:
            logits = logits + batch["factors"][batch["animal"][rows]]
        gate = None if self.gate is None else self._gate(token)
        log_theta = self.log_theta
        if not bool(present.all()):
            hidden, logits, log_theta = hidden[:, present], logits[:, present], log_theta[present]
            gate = None if gate is None else gate[:, present]
        library = hidden.sum(1, keepdim=True)
        # a cell without counts is predicted to have none, and says nothing
        log_mean = logits.log_softmax(-1) + library.clamp_min(1e-6).log()
        nats = -objective.total(hidden, log_mean, log_theta, gate) / max(hidden.numel(), 1)
        total, parts = nats, {self.recipe.objective.likelihood: nats.detach()}
        if self.projector is not None:
            slot = torch.searchsorted(rows, batch["anchor"])
            near = self._contrast(self.projector(token.float()[slot]), batch)
            total, parts["contrast"] = nats + self.recipe.objective.contrast * near, near.detach()
        return Loss(total, parts)

    def features(self, batch: Batch) -> Tensor:
        """What the tissue around says of each asked cell, its own counts hidden: ``(m, width)`` float32.

        Cells are hidden in `PASSES` classes, one after the other, so each is described from what is left of all
        others. The feature is the token from which the counts are predicted, before the linear map to genes.
        """
        counts = batch["counts"].float()
        described, asked = self._described(batch, counts), batch["asked"]
        wanted = torch.zeros(len(counts), dtype=torch.bool, device=counts.device)
        wanted[asked] = True
        found, around = counts.new_zeros(len(counts), self.head.in_features), self._around(batch)
        for number in range(PASSES):
            hidden = batch["pass"] == number
            rows = torch.nonzero(hidden & wanted)[:, 0]
            if len(rows):
                found[rows] = self._tokens(batch, described, hidden, rows, around).float()
        return found[asked]

    def suit(self, samples: CellSamples, say: Say | None = None) -> CellSamples:
        """Samples with this model's genes and types, matched by name, and each animal's factors against its groups.

        Genes that the data lack count as not measured.

        Raises
        ------
        Refused
            If the data lack too many of the genes.
        """
        suited = copy.copy(samples.aligned(self.genes, self.types))
        if self.recipe.samples.equalise:
            drawn = animals.draw(suited.animal_runs, seed=self.recipe.seed)
            groups = Groups(self.centres.cpu(), self.shares.cpu())
            basis = Components(*(value.cpu() for value in self.basis))
            suited.factors = animals.log_factors(suited.dense, drawn, basis, groups, torch.from_numpy(suited.present))
        return suited

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """Features ``(m, width)`` float32 of what suited samples read; the model is left as it was found."""
        with compute.resting(self) as where:
            return self.features({name: value.to(where) for name, value in batch.items()}).cpu().numpy()

    def config(self) -> dict[str, Any]:
        """Plain data that, with the recipe, rebuild this model's shape: its panel, types and components."""
        return {
            "system": "cells",
            "form": "tile",
            "genes": list(self.genes),
            "types": list(self.types),
            "components": len(self.axes),
            "groups": len(self.centres),
        }

    def begin(self, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
        """What it takes of a trained run: everything, its components and groups of like cells among it.

        Raises
        ------
        Refused
            The run knows other genes or types.
        """
        same_panel(config, self.genes, self.types)
        for name in (*Components._fields, *Groups._fields):
            self.register_buffer(name, torch.zeros_like(state[name]))
        return dict(state)

    def _described(self, batch: Batch, counts: Tensor) -> Tensor:
        """Standardised components (n, P) of cells, as if all animals had gone through one experiment."""
        if "animal" not in batch:
            return components.describe(counts, self.basis, batch["present"])
        animal, count = torch.unique_consecutive(batch["animal"], return_counts=True)
        runs = zip(animal.tolist(), counts.split(count.tolist()), strict=True)
        factors = batch["factors"].exp()
        found = [components.describe(run, self.basis, batch["present"], factors[one]) for one, run in runs]
        return torch.cat([*found, counts.new_zeros(0, len(self.axes))])

    def _around(self, batch: Batch) -> Blocks | Edges:
        return self.network.around(batch, precision=self.recipe.fit.precision)

    def _tokens(self, batch: Batch, described: Tensor, hidden: Tensor, rows: Tensor, around: Blocks | Edges) -> Tensor:
        with compute.autocast(described.device, self.recipe.fit.precision):
            return self.network(described, hidden, rows, around, batch.get("type"))

    def _logits(self, token: Tensor) -> Tensor:
        """Logits (m, G) float32; only the difference to the mean profile passes through low precision."""
        with compute.autocast(token.device, self.recipe.fit.precision):
            return self.head(filled(token))[: len(token)].float() + self.log_share

    def _gate(self, token: Tensor) -> Tensor:
        assert self.gate is not None
        return self.gate(token.float())

    def _contrast(self, projected: Tensor, batch: Batch) -> Tensor:
        """SpatialNCE of hidden cells: partners lie within reach, on any section whose place is known."""
        settings = self.recipe.objective
        z = F.normalize(projected, dim=1)
        own = {name: batch[name] for name in ("coordinates", "frame", "itself")}
        others = {name: compute.gather(value) for name, value in own.items()}
        distance = torch.cdist(own["coordinates"], others["coordinates"])
        comparable = own["frame"][:, None] == others["frame"]
        comparable &= own["itself"][:, None] != others["itself"]
        pair = Pairs(((distance <= settings.reach_mm) & comparable).double(), comparable)
        return spatial_nce(z, compute.gather(z), pair, settings.temperature)


def build(recipe: Recipe, samples: CellSamples) -> TileModel | neighbourhood.NeighbourhoodModel:
    """The recipe's model for the panel of some samples; components are those of at most 100,000 of their cells.

    Raises
    ------
    Refused
        Data without counts, or types asked for where there are none.
    """
    if isinstance(recipe.encoder, Neighbourhood):
        return neighbourhood.build(recipe, samples.source)
    if not samples.genes:
        raise Refused(
            "a network should have counts to learn from.",
            found=f"{samples.source.name}, which holds cell types only.",
            do="use the features that need no training, such as the composition of types.",
        )
    if recipe.samples.types and samples.source.types is None:
        raise Refused(
            "samples.types = true needs a cell type for each cell.",
            found="data without types.",
            do="set samples.types = false, or name the column of the types.",
        )
    rng = stream(recipe.seed, samples.fingerprint, "components")
    rows = np.sort(rng.choice(len(samples), min(_LEARN_FROM, len(samples)), replace=False))
    counts = samples.dense(rows)
    animal = samples.animal(rows) if recipe.samples.equalise else np.zeros(len(rows), np.int64)
    basis, groups = animals.learn(counts, animal, recipe.samples.components, seed=recipe.seed)
    model = TileModel(recipe, samples.genes, basis, groups, samples.type_names if recipe.samples.types else ())
    with torch.no_grad():
        model.log_theta.copy_(components.dispersion(lambda some: counts[some], np.arange(len(counts)), basis.profile))
    return model


def rebuild(recipe: Recipe, config: Mapping[str, Any]) -> TileModel | neighbourhood.NeighbourhoodModel:
    """The model of a trained run, before its weights are put back."""
    if isinstance(recipe.encoder, Neighbourhood):
        return neighbourhood.rebuild(recipe, config)
    genes, count = list(config["genes"]), int(config["components"])
    if not 1 <= count <= recipe.samples.components:
        raise Refused(
            f"weights should have at most {recipe.samples.components} components, as the recipe says.",
            found=f"{count}.",
        )
    empty = Components(
        torch.zeros(len(genes)),
        torch.zeros(count, len(genes)),
        torch.ones(count),
        torch.ones(len(genes)) / max(len(genes), 1),
        torch.tensor(1.0),
    )
    groups = Groups(torch.zeros(int(config["groups"]), count), torch.zeros(int(config["groups"]), len(genes)))
    return TileModel(recipe, genes, empty, groups, config["types"])
