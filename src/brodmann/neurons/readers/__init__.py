"""Readers: from paths to a `Source` of recordings. Each file format is one file."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brodmann import atomic, caches
from brodmann.errors import Corrupt, Refused
from brodmann.neurons import cache, parts
from brodmann.neurons.readers import arrays, nwb, sensorium, sidecar, synapses
from brodmann.neurons.readers.raw import Raw
from brodmann.neurons.readers.sidecar import Stated
from brodmann.neurons.recipe import Recipe
from brodmann.neurons.source import Source
from brodmann.progress import Say

__all__ = ["read"]

SUFFIXES = (".nwb", ".npz", ".zarr")


def read(recipe: Recipe, data: str | Path | Sequence[str | Path], *, say: Say) -> Source:
    """Open what `brodmann.neurons.source.open` names, through the cache; then deal the parts that the data leave open.

    Parameters
    ----------
    recipe : Recipe
        Rate, size of the video, shares of the parts.
    data : path or sequence of paths
    say : Say

    Raises
    ------
    Refused, Corrupt, NoRoom
        See `brodmann.neurons.source.open`.
    """
    files, home, stated = _resolve(data)
    wanted = recipe.samples
    digest = hashlib.sha256()
    for path in files:
        digest.update(caches.state(path, home).encode())
    folder = _cached(digest, stated, (wanted.rate_hz, wanted.height_px, wanted.width_px))
    known = caches.found(folder, cache.read, say)
    found = known
    if found is None:
        found = _converted(files, home, stated, recipe, folder, say)
    tables, remarks = parts.deal(
        [one.trials for one in found.recordings],
        [one.id for one in found.recordings],
        rate_hz=wanted.rate_hz,
        valid=wanted.valid,
        test=wanted.test,
        gap_s=wanted.gap_s,
    )
    recordings = [
        dataclasses.replace(one, trials=table, remarks=[*one.remarks, *said])
        for one, table, said in zip(found.recordings, tables, remarks, strict=True)
    ]
    # the parts are content, too: what is drawn from one dealing is not drawn from another
    dealt = atomic.dumps([found.fingerprint, [table.to_dict("list") for table in tables]])
    fingerprint = hashlib.sha256(dealt.encode()).hexdigest()
    source = dataclasses.replace(found, recordings=recordings, fingerprint=fingerprint)
    wired, said = synapses.read(source, files, home, stated)
    source = dataclasses.replace(source, synapses=wired, remarks=[*source.remarks, *said])
    if known is None:
        for line in [*source.remarks, *(f"{one.id}: {text}" for one in recordings for text in one.remarks)]:
            say(line)
    return source


def _converted(files: list[Path], home: Path, stated: Stated, recipe: Recipe, folder: Path, say: Say) -> Source:
    from brodmann.neurons.convert import convert

    raws: list[Raw] = []
    skipped: list[tuple[str, str]] = []
    try:
        for path in files:
            try:
                raws.append(_opened(path, stated, folder.parent))
            except (Refused, Corrupt) as error:
                if len(files) == 1:
                    raise
                skipped.append((path.name, str(error)))
                say(f"{path.name} is left out: {error}")
        if not raws:
            reasons = "\n    ".join(f"{name}: {reason}" for name, reason in skipped[:10])
            raise Refused(f"{home.name} should hold at least one readable recording.", found=reasons)
        name = stated.name or (files[0].name if len(files) == 1 else home.name)
        return convert(raws, stated, recipe.samples, folder, name=name, skipped=skipped, say=say)
    finally:
        for raw in raws:
            raw.close()


def _opened(path: Path, stated: Stated, scratch: Path) -> Raw:
    if sensorium.is_folder(path):
        return sensorium.read(path, stated)
    if path.suffix == ".nwb" and path.is_file():
        return nwb.read(path, stated)
    if path.suffix in {".npz", ".zarr"}:
        return arrays.read(path, stated, scratch)
    raise Refused(
        f"{path.name} should be a recording.",
        found=f"'{path.suffix}'." if path.is_file() else "a folder without data/ and meta/.",
        do=f"give {', '.join(SUFFIXES)}, or a Sensorium folder.",
    )


def _resolve(data: str | Path | Sequence[str | Path]) -> tuple[list[Path], Path, Stated]:
    """Recordings to read, the folder they are named from, and what is said of them."""
    paths = [Path(data)] if isinstance(data, str | Path) else [Path(path) for path in data]
    absent = [path for path in paths if not path.exists()]
    if not paths or absent:
        raise Refused(f"there should be data at {absent[0] if absent else data}.", found="nothing.", do="check it.")
    first = paths[0]
    if len(paths) > 1:
        whole = [path.resolve() for path in paths]
        home = next(up for up in whole[0].parents if all(path.is_relative_to(up) for path in whole))
        return paths, home, sidecar.stated_for(first)
    if first.is_file() and first.name.endswith(sidecar.NAME):
        own = first.name.removesuffix(f".{sidecar.NAME}")
        stated = sidecar.read_stated(first)
        if own != first.name:
            return [_there(first.parent, own)], first.parent, stated
        first = first.parent
    else:
        stated = sidecar.stated_for(first)
    if _is_recording(first):
        return [first], first.parent, stated
    if first.is_file():
        # refused by name, with what could be given instead
        return [first], first.parent, stated
    named = stated.files or [entry.file for entry in stated.recordings]
    found = [_there(first, name) for name in named] or sorted(path for path in first.iterdir() if _is_recording(path))
    if not found:
        raise Refused(
            f"{first.name} should hold recordings.",
            found=", ".join(sorted(path.name for path in first.iterdir())[:8]) or "nothing.",
            do=f"give {', '.join(SUFFIXES)}, or Sensorium folders with data/ and meta/.",
        )
    return found, first, stated


def _is_recording(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.suffix in SUFFIXES or sensorium.is_folder(path)


def _there(folder: Path, name: str) -> Path:
    path = sidecar.inside(folder, name)
    if not path.exists():
        raise Refused(f"{name} should lie in {folder.name}.", found="no such file.")
    return path


def _cached(digest: Any, stated: Stated, wanted: tuple[float, int, int]) -> Path:
    """Folder of the cache: named by the bytes of the input, how they are read, and the version that read them."""
    about = dataclasses.asdict(stated)
    # synapses are read apart from what is cached
    del about["synapses"]
    digest.update(atomic.dumps([about, wanted, cache.VERSION]).encode())
    return caches.home() / f"neurons-{digest.hexdigest()[:32]}"
