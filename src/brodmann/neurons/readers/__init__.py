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
from brodmann.neurons.readers.raw import Raw, stated_rate
from brodmann.neurons.readers.sidecar import Stated
from brodmann.neurons.recipe import Recipe
from brodmann.neurons.source import Source
from brodmann.progress import Say

__all__ = ["SUFFIXES", "Look", "holds_recordings", "look", "read"]

SUFFIXES = (".nwb", ".npz", ".zarr")


@dataclasses.dataclass(frozen=True)
class Look:
    """What the head of a recording's file says, before anything is converted.

    Parameters
    ----------
    file : str
    kind : str
        Such as "npz".
    rate_hz : float
    rate_from : str
        How it is known, in words.
    size : tuple of int
        Height and width of the video, px.
    named_clips, named_parts : bool
        Whether the data say which trials show one video, and which part a trial has.
    stamped : bool
        Whether video was brought to the clock of the responses by time stamps.
    """

    file: str
    kind: str
    rate_hz: float
    rate_from: str
    size: tuple[int, int]
    named_clips: bool
    named_parts: bool
    stamped: bool


def look(data: str | Path) -> list[Look]:
    """Heads of the recordings of a path, without those that cannot be opened.

    Raises
    ------
    Refused
        Nothing there, or no recordings.
    """
    files, _, stated = _resolve(data)
    found: list[Look] = []
    for path in files:
        try:
            raw = _opened(path, stated, caches.home())
        except (Refused, Corrupt):
            continue
        try:
            if not raw.trials:
                continue
            shape = raw.trials[0].video(0, 1).shape[1:]
            # colours may come first
            height, width = shape[1:] if len(shape) == 3 and shape[-1] > 4 else shape[:2]
            stamps = raw.resampled or path.suffix == ".nwb"
            says = "from its time stamps" if stamps else "rate_hz in the file"
            says = "that of all Sensorium sets" if sensorium.is_folder(path) else says
            says = says if stated_rate(path, stated) is None else f"stated in {sidecar.NAME}"
            named = (any(trial.clip for trial in raw.trials), any(trial.part for trial in raw.trials))
            kind = path.suffix.removeprefix(".") or "Sensorium"
            found.append(Look(path.name, kind, raw.rate_hz, says, (int(height), int(width)), *named, raw.resampled))
        except (OSError, ValueError, RuntimeError):
            # reading it all names the damage
            continue
        finally:
            raw.close()
    return found


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
    from brodmann.neurons.convert import convert, none_left

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
            raise none_left(home.name, skipped)
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


def holds_recordings(path: Path) -> bool:
    """Whether a path is a recording, or a folder of such; a ``.zarr`` may also hold images or cells."""

    def one(path: Path) -> bool:
        if path.suffix != ".zarr" or not path.is_dir():
            return _is_recording(path)
        names = {entry.name for entry in path.iterdir()}
        return "responses" in names or ("video" in names and not names & {"obs", "tables", "table"})

    if path.name.endswith(sidecar.NAME):
        return path.is_file()
    if not path.is_dir() or one(path):
        return path.exists() and one(path)
    if path.suffix == ".zarr":
        return False
    return (path / sidecar.NAME).is_file() or any(one(entry) for entry in path.iterdir())


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
