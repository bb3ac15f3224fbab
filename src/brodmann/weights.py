"""Weights on disk: safetensors streamed and hashed in one pass, and the bundle that others load. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from brodmann import atomic, manifest
from brodmann.errors import Corrupt, Refused

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
FORMAT = 1
"""Version of the bundle; a reader refuses newer ones."""


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes that a file of these tensors takes, to within a few per tensor."""
    return sum(value.numel() * value.element_size() + 160 + len(name) for name, value in tensors.items())


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    """The safetensors file of named tensors as buffers: same tensors, same bytes, and no second copy in memory."""
    # wide types first keeps every tensor aligned, as the safetensors library does
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        value = tensors[name]
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield len(encoded).to_bytes(8, "little") + encoded
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        # a single element may keep any stride, which forbids the view as bytes
        yield flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy()


def read(path: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file, on the CPU.

    Raises
    ------
    Corrupt
        If the file is no complete safetensors file.
    """
    import safetensors
    import safetensors.torch

    try:
        return cast("Any", safetensors.torch).load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise Corrupt(f"{path} should be a safetensors file.", found=str(error)) from error


def write_bundle(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], card: str) -> None:
    """Write a model for others: ``model.safetensors``, ``config.json``, ``card.md``, ``manifest.json``; all or nothing.

    Parameters
    ----------
    path : Path
        The bundle's folder; an older one is replaced.
    state : mapping of str to Tensor
        The model's state dict.
    config : mapping
        Plain data: what rebuilds the model and what input it expects.
    card : str
        The model card, Markdown.
    """
    described = {"format": FORMAT, **config}
    with atomic.folder(path, what="the model bundle", need=size(state)) as partial:
        atomic.fill(partial / "model.safetensors", pieces(state))
        atomic.fill(partial / "config.json", [(json.dumps(described, indent=1, allow_nan=False) + "\n").encode()])
        atomic.fill(partial / "card.md", [card.encode()])
        listed = {name: manifest.entry(partial / name) for name in manifest.files(partial)}
        atomic.fill(partial / manifest.NAME, [manifest.text(listed).encode()])


def read_bundle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a bundle after its hashes have been checked.

    Returns
    -------
    state : dict of str to Tensor
    config : dict

    Raises
    ------
    Corrupt
        Naming each damaged, missing or added file.
    Refused
        If the bundle's format is newer than this version knows, or a weight is not finite.
    """
    if wrong := manifest.problems(path):
        raise Corrupt(
            f"the model bundle {path} should be as it was written.",
            found="; ".join(wrong) + ".",
            cause="an interrupted copy or download, or bits lost on disk.",
            do="copy it again from where it came.",
        )
    config = cast("dict[str, Any]", json.loads((path / "config.json").read_text()))
    found = config.pop("format", None)
    if not isinstance(found, int) or found > FORMAT:
        raise Refused(
            f"the model bundle {path} should have format {FORMAT} or older.",
            found=f"format {found}.",
            cause="it was written by a newer version.",
            do="upgrade brodmann.",
        )
    state = read(path / "model.safetensors")
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise Refused(f"weights of {path} should be finite.", found=f"NaN or infinity in '{name}'.")
    return state, config
