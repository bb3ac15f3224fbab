"""What lies beside every export: where its numbers come from, in which space and unit; and what may be replaced."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from brodmann import atomic
from brodmann.errors import Usage
from brodmann.exports.answers import Found
from brodmann.maps.labels import Picture

FORMAT = 1
NAME = "brodmann.json"
_MAKER = "brodmann export"
_ENOUGH = 1 << 24
"""Bytes of a record; a larger file under its name is none of ours."""


def beside(out: Path) -> Path:
    """Record of an export: in a folder, or next to a file."""
    return out / NAME if out.is_dir() else out.with_name(f"{out.name}.json")


def admit(out: Path, *, folder: bool, replace: bool) -> None:
    """Refuse to write over anything but an earlier export, and over that unless asked to.

    Raises
    ------
    Usage
        Something is there already; or a folder is named like a file.
    Unwritable
        No permission.
    """
    if folder and out.suffix in {".nii", ".gz", ".gii", ".geojson", ".json", ".h5ad", ".csv"}:
        raise Usage(
            "this format is written as a folder: a file for each brain or section.", found=f"--out {out.name}.",
            do="name a folder.",
        )  # fmt: skip
    atomic.settle(out)
    if not out.exists():
        atomic.admits(out.parent, "the export")
        return
    if not replace:
        raise Usage(f"{out} should not be there yet.", found="it is.", do="name another place, or pass --replace.")
    if _ours(out) is not folder:
        raise Usage(
            f"{out} should be an earlier export, to be replaced.", found=f"no record of one at {beside(out).name}.",
            do="name another place, or remove it yourself.",
        )  # fmt: skip


def _ours(out: Path) -> bool | None:
    """Whether an export made this, as a folder (True) or a file (False); None if none did."""
    path = beside(out)
    try:
        said = json.loads(path.read_text("utf-8")) if path.stat().st_size < _ENOUGH else {}
    except (OSError, ValueError):
        return None
    made = isinstance(said, dict) and cast("Mapping[str, Any]", said).get("made_by") == _MAKER
    return out.is_dir() if made else None


@contextmanager
def file(out: Path, *, what: str, need: int = 0) -> Generator[Path, None, None]:
    """A temporary file to write; it becomes ``out`` at the end, whole or not at all, and its old record goes."""
    temporary = out.with_name(out.name + atomic.PARTIAL)
    with atomic.guard(what, out.parent, need=need):
        atomic.make(out.parent)
        try:
            yield temporary
            atomic.sync(temporary)
            beside(out).unlink(missing_ok=True)
            temporary.replace(out)
        except Exception:
            atomic.remove_quietly(temporary)
            raise
        atomic.sync(out.parent)


def record(found: Found, to: str, details: Mapping[str, Any]) -> str:
    """Text of a record: the run, the space with its unit and orientation, and each answer with its score."""
    made = cast("Mapping[str, Any]", found.table.uns["brodmann"])
    space = found.space
    answers = {
        answer.name: {
            "rows": len(answer.rows),
            **({"unit": answer.unit} if answer.numeric else {"colours": dict(answer.palette)}),
            "score": answer.score,
        }
        for answer in found.answers
    }
    said = {
        "made_by": _MAKER, "format": FORMAT, "version": importlib.metadata.version("brodmann"), "to": to,
        "run": {
            "name": found.run.path.name, "system": found.run.system, "recipe_hash": found.run.recipe_hash,
            "data_fingerprint": str(made["data_fingerprint"]), "rows": int(found.table.n_obs),
        },
        "space": {
            "name": space.name, "unit": space.unit, "orientation": space.orientation, "origin": space.origin,
            "extent_mm": list(space.extent_mm),
        },
        "answers": answers,
        **details,
    }  # fmt: skip
    return json.dumps(said, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def stems(names: Iterable[str]) -> dict[str, str]:
    """File names of sections or brains: characters that every file system takes, each name its own."""
    made: dict[str, str] = {}
    for name in names:
        plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).lstrip(".") or "_"
        number, stem = 1, plain
        while stem.lower() in {other.lower() for other in made.values()}:
            number += 1
            stem = f"{plain}_{number}"
        made[name] = stem
    return made


def to_mm(picture: Picture, origin_um: tuple[float, float] = (0.0, 0.0)) -> list[list[float]]:
    """(3, 3) map from (x_um, y_um, 1) to mm, as ``sections.json`` states it; um count from ``origin_um``."""
    x, y = origin_um
    corner, right, down = picture.place(np.array([[-x, -y], [1000 - x, -y], [-x, 1000 - y]], np.float64))
    return np.column_stack([(right - corner) / 1000, (down - corner) / 1000, corner]).tolist()


def positive(value: float | None, name: str, unit: str) -> None:
    """Refuse a size that is none."""
    if value is not None and not (np.isfinite(value) and value > 0):
        raise Usage(f"{name} should be a positive number of {unit}.", found=f"{value}.")
