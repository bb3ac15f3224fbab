"""The data that a user names, opened by the system of a recipe; and a word where they are another system's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from brodmann.errors import Refused, Usage
from brodmann.systems import name_of, system

_TAKES = {"patches": "images", "cells": "cells", "neurons": "recordings"}


def open_source(recipe: Any, data: Any) -> Any:
    """The data of a recipe's system: a path, an open source, or the embedded phantom (``"phantom"``).

    ``"phantom:brains=5,seed=1"`` passes settings to what renders the phantom for the system: `phantom.sections` for
    patches, `phantom.transcripts` for cells.

    Raises
    ------
    Refused
        What the system's readers refuse; where the data look like another system's, with its name.
    """
    name = name_of(recipe)
    if isinstance(data, str) and data.partition(":")[0] == "phantom":
        from brodmann import phantom

        render = phantom.RENDERED[name]
        return render(**_settings(render, data.partition(":")[2]))
    try:
        return system(name).open(recipe, data)
    except Refused as error:
        if hint := _elsewhere(name, data):
            told = f"{error.do} {hint}".strip()
            raise type(error)(error.asked, found=error.found, cause=error.cause, do=told) from error
        raise


def kinds(path: Path) -> dict[str, bool]:
    """Whether a path holds data of each system, by their names and folders alone.

    Tables beside images are points, and beside recordings synapses.
    """
    from brodmann.cells.readers import SUFFIXES as TABLES
    from brodmann.neurons.readers import holds_recordings
    from brodmann.patches.readers import SUFFIXES as IMAGES
    from brodmann.patches.readers import UNREAD

    def table(path: Path) -> bool:
        if path.is_dir():
            return path.suffix == ".zarr" and any((path / name).is_dir() for name in ("tables", "table", "obs"))
        return path.name.endswith((*(end for end in TABLES if end != ".zarr"), "cells.json"))

    folder = path.is_dir() and path.suffix != ".zarr"
    present = [one for one in (path.iterdir() if folder else [path]) if not one.name.startswith(".")]
    tables = [one for one in present if table(one)]
    endings = {one.suffix.lower() for one in present if one not in tables}
    sections = any(one.name == "sections.json" for one in present)
    images = bool(endings & {*IMAGES, *UNREAD} - {".gz"}) or sections
    recordings = holds_recordings(path) and not sections
    return {
        "patches": images,
        "cells": any(not (images and ".csv" in one.suffixes) for one in tables),
        "neurons": recordings,
    }


def strangers(path: Path, name: str) -> list[str]:
    """Names of what a folder holds for other systems than the one that reads it; CSV files are notes to any."""
    from brodmann.neurons.readers.sensorium import is_folder

    if not path.is_dir() or path.suffix == ".zarr" or is_folder(path):
        return []
    found: list[str] = []
    for one in sorted(path.iterdir()):
        folder = one.is_dir() and one.suffix != ".zarr" and not is_folder(one)
        if folder or one.name.startswith(".") or {".csv", ".json"} & set(one.suffixes):
            continue
        held = kinds(one)
        # a store of responses may also be taken for an image, by its ending
        owner = next((system for system in ("neurons", "cells", "patches") if held[system]), name)
        found.extend([one.name] * (owner != name))
    return found


def planted(data: str) -> dict[str, str]:
    """Why each system's phantom refuses the settings of ``"phantom:..."``; empty where it takes them. Makes nothing."""
    from brodmann import phantom

    found = dict.fromkeys(phantom.RENDERED, "")
    for name, render in phantom.RENDERED.items():
        try:
            phantom.check(name, _settings(render, data.partition(":")[2]))
        except Usage as error:
            found[name] = str(error)
    return found


def _elsewhere(name: str, data: Any) -> str:
    """Which recipe would take data that a system refuses; empty where they may be its own."""
    path = Path(data) if isinstance(data, str | Path) else None
    try:
        found = kinds(path) if path is not None and path.exists() else {}
    except OSError:
        return ""
    if found.get(name):
        return ""
    other = next((one for one in reversed(_TAKES) if found.get(one)), None)
    return f"These are {_TAKES[other]}: take a recipe of {other}, such as {other}-tiny." if other else ""


def _settings(render: Callable[..., Any], text: str) -> dict[str, Any]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    bad = [key for key, equals, _ in pairs if not equals]
    if bad:
        raise Usage("phantom settings should read 'phantom:brains=4,seed=0'.", found=f"'{bad[0]}' without a value.")
    defaults = (cast("Any", render).__kwdefaults__ or {}).items()
    kinds_of = {key: type(value) for key, value in defaults if value is not None}
    found: dict[str, Any] = {}
    for key, _, value in pairs:
        name, kind = key.strip(), kinds_of.get(key.strip())
        if kind is None:
            raise Usage(f"'{name}' should be a setting of the phantom.", found=f"settings {', '.join(kinds_of)}.")
        try:
            found[name] = kind(value)
        except ValueError as error:
            whole = "a whole number" if kind is int else "a number"
            raise Usage(f"'{name}' of a phantom should be {whole}.", found=f"'{value}'.") from error
    return found
