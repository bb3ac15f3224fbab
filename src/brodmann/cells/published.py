"""Weights of the public CellTransformer, put into our neighbourhood form by name.

The layout is that of ``celltransformer.model.CellTransformer`` (github.com/abbasilab/celltransformer) and of the files
its authors share: names and shapes of tensors were read there, nothing else is taken from it.

A file that torch has pickled is a program: where you trust it, read it once with ``weights_only=True`` and write its
state dict with ``safetensors.torch.save_file``; only that file is read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from brodmann.cells.neighbourhood import NeighbourhoodModel
from brodmann.cells.recipe import Counts, Neighbourhood, Recipe
from brodmann.errors import Refused

UNUSED = ("pooling_token", "zinb_proj.scale.weight", "zinb_proj.scale.bias")
"""Tensors of the public layout that its own forward pass and likelihood never use."""

_PLAIN = {
    "encoder_cell_embed": "type_token",
    "decoder_cell_embed": "type_query",
    "expression_projection": "expression",
    "proj_norm": "norm_token",
    "attn_pool.norm": "pool.norm_query",
    # the public pool hands its "v" norm's output to attention as keys and its "k" norm's as values
    "attn_pool.norm_v": "pool.norm_key",
    "attn_pool.norm_k": "pool.norm_value",
    "attn_pool.norm2": "pool.norm_pooled",
    "attn_pool.attn.out_proj": "pool.out",
    "zinb_proj.mu": "mean",
    "zinb_proj.theta": "dispersion",
    "zinb_proj.gate_logit": "gate",
}
_LAYER = {
    "self_attn.in_proj_weight": "qkv.weight",
    "self_attn.in_proj_bias": "qkv.bias",
    "self_attn.out_proj.weight": "out.weight",
    "self_attn.out_proj.bias": "out.bias",
    "linear1.weight": "up.weight",
    "linear1.bias": "up.bias",
    "linear2.weight": "down.weight",
    "linear2.bias": "down.bias",
    "norm1.weight": "norm_attended.weight",
    "norm1.bias": "norm_attended.bias",
    "norm2.weight": "norm_fed.weight",
    "norm2.bias": "norm_fed.bias",
}
_SINGLE = {
    "cls_token": "start",
    "attn_pool.query_token": "pool.query",
    "attn_pool.attn.in_proj_weight": "pool.qkv",
    "attn_pool.attn.bias_k": "pool.extra_key",
    "attn_pool.attn.bias_v": "pool.extra_value",
}


class Shape(NamedTuple):
    """What the tensors of a public checkpoint say of its network; the number of heads is not among it."""

    genes: int
    types: int
    width: int
    layers: int
    decoder_layers: int
    feed_forward: int


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, with the prefixes of trainers and compilers taken off their names.

    Raises
    ------
    Refused
        A file of another kind: pickles are not opened.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return plain(load_file(path))
    except SafetensorError as error:
        raise Refused(
            f"{path} should be a safetensors file.",
            found=str(error),
            cause="a file of torch.save, which is a pickle: opening one may run anything.",
            do="convert it where you trust it; the lines are in the documentation of brodmann.cells.published.",
        ) from error


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names in the public module, without ``model.`` (Lightning) and ``_orig_mod.`` (compiled)."""
    return {re.sub(r"_orig_mod\.", "", re.sub(r"^model\.", "", name)): tensor for name, tensor in state.items()}


def shape(state: Mapping[str, Tensor]) -> Shape:
    """Size of the network that a public checkpoint belongs to.

    Raises
    ------
    Refused
        Tensors that give the size are missing: not a checkpoint of this network.
    """
    needed = ("expression_projection.0.weight", "encoder_cell_embed.weight", "proj_norm.weight")
    feed = "encoder.layers.0.linear1.weight"
    missing = [name for name in (*needed, feed) if name not in state]
    if missing:
        raise Refused(
            "weights should have the layout of the public CellTransformer.",
            found=f"{len(state)} tensors, without {', '.join(missing)}.",
            cause="the weights of another network, or only a part of them.",
        )
    depth = {
        part: 1 + max((int(name.split(".")[2]) for name in state if name.startswith(f"{part}.layers.")), default=-1)
        for part in ("encoder", "decoder")
    }
    return Shape(
        genes=state[needed[0]].shape[1],
        types=state[needed[1]].shape[0],
        width=state[needed[2]].shape[0],
        layers=depth["encoder"],
        decoder_layers=depth["decoder"],
        feed_forward=state[feed].shape[0],
    )


def recipe(state: Mapping[str, Tensor], *, heads: int = 8, start: Recipe | None = None) -> Recipe:
    """A recipe of the checkpoint's size, with the published input, likelihood and feature.

    Parameters
    ----------
    state : mapping
        Tensors, as `read` or `plain` give them.
    heads : int
        Attention heads, 8 in every published configuration; the tensors do not tell.
    start : Recipe, optional
        Where all other settings come from.

    Notes
    -----
    The shared weights saw log2(1 + x) of the atlas, hence ``input = "log2"``.
    """
    found, start = shape(state), start or Recipe()
    encoder = Neighbourhood(
        width=found.width,
        layers=found.layers,
        decoder_layers=max(1, found.decoder_layers),
        heads=heads,
        feed_forward=found.feed_forward,
        input="log2",
        feature="decoded",
    )
    return replace(
        start,
        samples=replace(start.samples, types=found.types > 1),
        encoder=encoder,
        objective=Counts(likelihood="zinb"),
    )


def model(
    recipe: Recipe, state: Mapping[str, Tensor], genes: Sequence[str], types: Sequence[str]
) -> NeighbourhoodModel:
    """The neighbourhood form with the weights of a public checkpoint.

    Parameters
    ----------
    recipe : Recipe
        From `recipe`, or one of the same size.
    state : mapping
        Tensors, as `read` or `plain` give them.
    genes, types : sequence of str
        Names in the order of the checkpoint's training data, which the checkpoint does not hold. There may be fewer
        types than rows of its table. A cell of unknown type, which it did not have, gets the mean of the types.

    Raises
    ------
    Refused
        Another number of genes, more types than the checkpoint has, or what `load` refuses.
    """
    found = shape(state)
    if len(genes) != found.genes or len(types) > found.types:
        raise Refused(
            f"the checkpoint reads {found.genes:,} genes and at most {found.types:,} types.",
            found=f"{len(genes):,} names of genes and {len(types):,} of types.",
            do="name the genes and types of its training data, in their order.",
        )
    made = NeighbourhoodModel(recipe, genes, types)
    load(made, state)
    return made


def load(model: NeighbourhoodModel, state: Mapping[str, Tensor]) -> list[str]:
    """Put the weights of a public checkpoint into a model of the same size.

    Parameters
    ----------
    model : NeighbourhoodModel
        Changed in place, and only if every tensor fits.
    state : mapping
        Tensors, as `read` or `plain` give them. A layout without biases in its attention is one whose biases are 0.

    Returns
    -------
    list of str
        Tensors that were not used, each for a known reason: see `UNUSED`; with an ``nb`` likelihood also the zero
        inflation.

    Raises
    ------
    Refused
        Unknown, missing or misshapen tensors, all of them named.
    """
    wanted = model.state_dict()
    given: dict[str, Tensor] = {}
    unused: list[str] = []
    problems: list[str] = []
    for name, tensor in state.items():
        ours = _ours(name)
        if name in UNUSED or ((ours or "").startswith("gate.") and model.gate is None):
            unused.append(name)
            continue
        if ours not in wanted:
            problems.append(f"{name} is unknown")
            continue
        target = wanted[ours]
        fitted = _fit(ours, tensor, target)
        if fitted is None:
            problems.append(f"{name} is {_times(tensor)}, not {_times(target)}")
        else:
            given[ours] = fitted
    missing = {name for name in wanted if name not in given}
    for name in sorted(missing):
        if re.fullmatch(r"(en|de)coder\.\d+\.(qkv|out)\.bias", name):
            given[name] = torch.zeros_like(wanted[name])
        elif not any(_ours(other) == name for other in state):
            problems.append(f"{_theirs(name)} is missing")
    if problems:
        raise Refused(
            "every tensor of the checkpoint should fit the model.",
            found=f"{len(problems)} do not: {'; '.join(problems[:8])}{'; ...' if len(problems) > 8 else ''}.",
            cause="another size, panel or number of types than the recipe's, or a part of a checkpoint.",
            do="let published.recipe(state) make the recipe.",
        )
    model.load_state_dict(given)
    return unused


def _fit(ours: str, tensor: Tensor, target: Tensor) -> Tensor | None:
    """The tensor in our shape, or None."""
    if ours in {"type_token.weight", "type_query.weight"}:
        known = len(target) - 1
        if tensor.shape[1:] != target.shape[1:] or len(tensor) < max(known, 1):
            return None
        unknown = (tensor[:known] if known else tensor).mean(0, keepdim=True)
        return torch.cat([tensor[:known], unknown]).to(target)
    if ours in _SINGLE.values() and tensor.numel() == target.numel() and tensor.shape[-1] == target.shape[-1]:
        return tensor.reshape(target.shape).to(target)
    return tensor.to(target) if tensor.shape == target.shape else None


def _ours(name: str) -> str | None:
    """Our name of a public tensor."""
    if name in _SINGLE:
        return _SINGLE[name]
    layer = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", name)
    if layer:
        return f"{layer[1]}.{layer[2]}.{_LAYER[layer[3]]}" if layer[3] in _LAYER else None
    stem, _, last = name.rpartition(".")
    module, _, number = stem.rpartition(".")
    if stem in _PLAIN:
        return f"{_PLAIN[stem]}.{last}"
    return f"{_PLAIN[module]}.{number}.{last}" if module == "expression_projection" else None


def _theirs(name: str) -> str:
    """The public name of one of our tensors."""
    backwards = {ours: theirs for theirs, ours in {**_PLAIN, **_SINGLE}.items()}
    layer = re.fullmatch(r"(encoder|decoder)\.(\d+)\.(.+)", name)
    if layer:
        return f"{layer[1]}.layers.{layer[2]}." + next(theirs for theirs, ours in _LAYER.items() if ours == layer[3])
    if name in backwards:
        return backwards[name]
    stem, _, last = name.rpartition(".")
    if stem in backwards:
        return f"{backwards[stem]}.{last}"
    return name.replace("expression.", "expression_projection.", 1)


def _times(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
