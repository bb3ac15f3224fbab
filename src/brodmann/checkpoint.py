"""Checkpoints that survive a kill at any instruction, a full disk and lost bits.

``ckpt-N.partial/`` is written, hashed and fsynced; renamed to ``ckpt-N/``; only then does ``LATEST`` name it and are
older ones pruned, never below two that verify. Tensors are safetensors, the rest is JSON; nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from brodmann import atomic, manifest, weights
from brodmann.errors import Corrupt

KEEP = 2


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
    """Write checkpoint ``step``; returns when it would survive a power cut.

    Parameters
    ----------
    folder : Path
        Where checkpoints live.
    step : int
        Steps done so far; sorts the checkpoints. An intact one of the same step is kept as it is.
    tensors : mapping of str to Tensor
    extra : mapping
        Plain JSON data.

    Raises
    ------
    NoRoom
        Naming bytes needed and free; older checkpoints stay.
    Unwritable
        On any other refusal of the disk; older checkpoints stay.
    """
    last = max(steps(folder), default=None)
    kept = f"checkpoint {last:,} is untouched" if last is not None else "no checkpoint was written yet"
    target = folder / f"ckpt-{step:09d}"
    if target.exists() and not manifest.problems(target):
        return
    described = json.dumps({"step": step, "extra": extra}, allow_nan=False).encode()
    need = weights.size(tensors) + len(described) + 1000
    advice = f"free space or mend the disk, then run the same command again: {kept}."
    with atomic.guard(target.name, folder, need=0, do=advice):
        _retire(target)
    with atomic.folder(target, what=f"checkpoint {step:,}", need=need, do=advice) as partial:
        listed: manifest.Files = {}
        for name, pieces in (("tensors.safetensors", weights.pieces(tensors)), ("extra.json", [described])):
            count, digest = atomic.fill(partial / name, pieces)
            listed[name] = {"bytes": count, "sha256": digest}
        atomic.fill(partial / manifest.NAME, [manifest.text(listed).encode()])
    atomic.write_text(folder / "LATEST", target.name + "\n")
    with atomic.guard("pruning of old checkpoints", folder, need=0, do=advice):
        _prune(folder)


def load(folder: Path, *, say: Callable[[str], object]) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """Newest checkpoint whose manifest verifies, as (step, tensors, extra); None if none was ever finished.

    Raises
    ------
    Corrupt
        If there are checkpoints and none verifies: starting over would be a silent loss.
    """
    damaged: list[str] = []
    for step in sorted(steps(folder), reverse=True):
        path = folder / f"ckpt-{step:09d}"
        if wrong := manifest.problems(path):
            damaged.append(f"{path.name}: {'; '.join(wrong)}")
            say(f"checkpoint {step:,} is damaged ({'; '.join(wrong)}); trying the one before")
            continue
        described = json.loads((path / "extra.json").read_text())
        return step, weights.read(path / "tensors.safetensors"), cast("dict[str, Any]", described["extra"])
    if damaged:
        raise Corrupt(
            f"one checkpoint in {folder} should verify.",
            found=". ".join(damaged) + ".",
            cause="bits lost on disk, or files edited by hand.",
            do="restore one from a backup, or delete the folder to start from step 0.",
        )
    return None


def steps(folder: Path) -> list[int]:
    """Steps that have a finished (not necessarily intact) checkpoint."""
    found = (path.name.removeprefix("ckpt-") for path in folder.glob("ckpt-*"))
    return sorted(int(name) for name in found if name.isdecimal())


def _prune(folder: Path) -> None:
    for partial in folder.glob(f"*{atomic.PARTIAL}"):
        atomic.remove(partial)
    valid = 0
    for step in sorted(steps(folder), reverse=True):
        path = folder / f"ckpt-{step:09d}"
        if valid < KEEP:
            # read back, not assumed: the one we fall back on may have rotted since it was written
            valid += not manifest.problems(path)
            continue
        _retire(path)


def _retire(path: Path) -> None:
    """Delete a checkpoint; renamed first, so that a kill halfway leaves none with missing files."""
    if path.exists():
        doomed = path.with_name(f"{path.name}.old{atomic.PARTIAL}")
        atomic.remove(doomed)
        path.rename(doomed)
        atomic.remove(doomed)
