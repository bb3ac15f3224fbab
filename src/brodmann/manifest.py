"""Manifests: the SHA-256 and size of every file of a folder, and a digest of the list itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from brodmann import atomic

NAME = "manifest.json"
Files = dict[str, dict[str, Any]]
"""Relative path -> ``{"bytes": int, "sha256": str}``."""


def sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def files(root: Path, *, skip: Iterable[str] = ()) -> list[str]:
    """Relative paths of all files below ``root``, sorted; manifest at the top, ``skip`` and partial files left out."""
    omitted = {NAME, *skip}
    found = (path.relative_to(root) for path in root.rglob("*") if not path.is_dir())
    return sorted(
        str(path)
        for path in found
        if str(path) not in omitted and not any(part.endswith(atomic.PARTIAL) for part in path.parts)
    )


def text(listed: Mapping[str, Mapping[str, Any]]) -> str:
    """The manifest's exact text; there is one text for one list."""
    body = {name: dict(listed[name]) for name in sorted(listed)}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": body, "sha256": digest}, indent=1) + "\n"


def read(root: Path) -> Files | None:
    """The list in ``root/manifest.json``; None if its text is not exactly what `text` writes."""
    try:
        raw = (root / NAME).read_bytes()
        listed = cast(Files, json.loads(raw)["files"])
        return listed if text(listed).encode() == raw else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def problems(root: Path, *, complete: bool = True) -> list[str]:
    """What differs between a folder and its manifest, one line per file; empty if nothing.

    Parameters
    ----------
    root : Path
    complete : bool
        Also name files that the manifest does not list.
    """
    if not (root / NAME).is_file():
        return [f"{NAME} is missing"]
    before = (root / NAME).read_bytes()
    wrong = _differences(root, complete=complete)
    # a writer takes files off the list before it changes them; then ours is outdated, and nothing is damaged
    while wrong and (root / NAME).is_file() and (now := (root / NAME).read_bytes()) != before:
        before, wrong = now, _differences(root, complete=complete)
    return wrong


def _differences(root: Path, *, complete: bool) -> list[str]:
    listed = read(root)
    if listed is None:
        return [f"{NAME} is damaged"]
    wrong: list[str] = []
    for name, expected in listed.items():
        path = root / name
        if not path.is_file() or path.is_symlink() or ".." in path.parts:
            wrong.append(f"{name} is missing")
        elif (size := path.stat().st_size) != expected["bytes"]:
            wrong.append(f"{name} has {size:,} bytes instead of {expected['bytes']:,}")
        elif sha256(path) != expected["sha256"]:
            wrong.append(f"{name} holds other bytes")
    if complete:
        wrong += [f"{name} was added" for name in files(root) if name not in listed]
    return wrong
