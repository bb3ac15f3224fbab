"""Readers: from a path or an AnnData to a `Source`. Each file format is one file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from brodmann import atomic, caches
from brodmann.cells import cache
from brodmann.cells.readers import abc, h5ad, loom, sidecar, spatialdata, table
from brodmann.cells.readers.part import Part
from brodmann.cells.readers.sidecar import Entry, Stated
from brodmann.cells.source import Source
from brodmann.errors import BrodmannError, Refused
from brodmann.progress import Say
from brodmann.reasons import indented, told

__all__ = ["Entry", "Stated", "read"]

SUFFIXES = (".h5ad", ".zarr", ".loom", ".csv", ".csv.gz")


def read(data: Any, *, stated: Stated | None = None, say: Say) -> Source:
    """Open what `brodmann.cells.source.open` names, through the cache."""
    from brodmann.cells.convert import convert

    if stated is not None:
        sidecar.check(stated)
    if hasattr(data, "obs_names"):
        stated = stated or Stated()
        part = h5ad.memory(data)
        folder = _cached(hashlib.sha256(_state_of(part).encode()), stated)
        found = caches.found(folder, cache.read, say)
        return found if found is not None else convert([part], stated, folder, name=stated.name or part.name, say=say)
    files, home, stated = _resolve(data, stated)
    digest = hashlib.sha256()
    for path in (*files, *_beside(home, files, stated)):
        digest.update(caches.state(path, home).encode())
    folder = _cached(digest, stated)
    found = caches.found(folder, cache.read, say)
    if found is not None:
        return found
    skipped: list[tuple[str, str]] = []
    parts = _parts(files, home, stated, skipped)
    name = stated.name or (files[0].name if len(files) == 1 else home.name)
    try:
        return convert(parts, stated, folder, name=name, skipped=skipped, say=say)
    finally:
        for part in parts:
            part.close()


def _resolve(data: str | Path | Sequence[str | Path], stated: Stated | None) -> tuple[list[Path], Path, Stated]:
    """Files to read, the folder they are named from, and what is said of them."""
    if not isinstance(data, str | Path):
        paths = [Path(path) for path in data]
    elif not Path(data).exists() and any(sign in str(data) for sign in "*?["):
        paths = sorted(Path(data).parent.glob(Path(data).name))
    else:
        paths = [Path(data)]
    absent = [path for path in paths if not path.exists()]
    if not paths or absent:
        raise Refused(f"there should be data at {absent[0] if absent else data}.", found="nothing.", do="check it.")
    first = paths[0]
    if len(paths) > 1:
        whole = [path.resolve() for path in paths]
        home = next(up for up in whole[0].parents if all(path.is_relative_to(up) for path in whole))
        return paths, home, stated or sidecar.stated_for(first)[0]
    if first.is_file() and first.name.endswith(sidecar.NAME):
        stated = stated or sidecar.read_stated(first)
        own = first.name.removesuffix(f".{sidecar.NAME}")
        if stated.files is None and own != first.name:
            return [sidecar.inside(first.parent, own)], first.parent, stated
        first = first.parent
    stated = stated or sidecar.stated_for(first)[0]
    if first.is_file() or _is_store(first):
        return [first], first.parent, stated
    if stated.files is not None:
        return [sidecar.inside(first, name) for name in stated.files], first, stated
    present = sorted(path for path in first.iterdir() if _readable(path))
    if abc.is_atlas(first):
        present = [path for path in present if path.suffix == ".h5ad"]
    counts = {path for path in present if path.name == stated.counts}
    tables = [path for path in present if ".csv" in path.suffixes]
    # beside AnnData, CSV files are somebody's notes
    present = [path for path in present if path not in counts and (path not in tables or len(tables) == len(present))]
    if not present:
        raise Refused(
            f"{first.name} should hold cells.",
            found=", ".join(sorted(path.name for path in first.iterdir())[:8]) or "nothing.",
            do=f"give {', '.join(SUFFIXES)} files.",
        )
    return present, first, stated


def _readable(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".")


def _is_store(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup"))


def _beside(home: Path, files: list[Path], stated: Stated) -> list[Path]:
    """Further files that decide the result: the atlas' tables, a table of counts."""
    if abc.is_atlas(home) and all(path.suffix == ".h5ad" for path in files):
        return sorted({*home.glob("*.csv"), *home.glob("*.csv.gz")})
    if stated.counts is not None and files[0].name.endswith((".csv", ".csv.gz")):
        return [sidecar.inside(files[0].parent, stated.counts)]
    return []


def _parts(files: list[Path], home: Path, stated: Stated, skipped: list[tuple[str, str]]) -> list[Part]:
    if abc.is_atlas(home) and all(path.suffix == ".h5ad" for path in files):
        return abc.read(home, files, stated, skipped)
    parts: list[Part] = []
    for path in files:
        try:
            if _is_store(path):
                parts.extend(spatialdata.read(path, stated, skipped))
            elif path.name.endswith((".csv", ".csv.gz")):
                parts.append(table.read(path, stated))
            elif path.suffix == ".loom":
                parts.append(loom.read(path, stated))
            elif path.suffix == ".h5ad":
                parts.append(h5ad.read(path, stated))
            else:
                raise Refused(
                    f"{path.name} should end in {', '.join(SUFFIXES)}.",
                    found=f"'{path.suffix}'.",
                )
        except BrodmannError as error:
            if len(files) == 1:
                raise
            skipped.append((path.name, str(error)))
    if not parts:
        reasons = indented(told(skipped, limit=5), 4)
        raise Refused(
            f"{home.name} should hold at least one readable file.",
            found=f"{len(skipped):,} files, none of which passes.{reasons}",
        )
    return parts


def _cached(digest: Any, stated: Stated) -> Path:
    """Folder of the cache: named by the bytes of the input, how they are read, and the version that read them."""
    digest.update(atomic.dumps(asdict(stated)).encode())
    digest.update(f"version {cache.VERSION}".encode())
    return caches.home() / f"cells-{digest.hexdigest()[:32]}"


def _state_of(part: Part) -> str:
    """Hash of cells in memory."""
    digest = hashlib.sha256()
    digest.update(part.ids.tobytes())
    for name in part.columns:
        digest.update(f"{name};".encode())
        values = part.columns[name]
        if hasattr(values, "cat"):
            digest.update(repr(list(values.cat.categories)).encode())
            values = values.cat.codes
        digest.update(np.ascontiguousarray(values.to_numpy(np.float64, na_value=np.nan)).tobytes())
    for name, array in part.arrays.items():
        digest.update(name.encode() + array.tobytes())
    for name, (counts, var) in part.tables.items():
        digest.update(f"{name};{list(var.index)};".encode())
        start = 0
        while start < len(counts):
            stop = counts.stop(start)
            block = counts.rows(start, stop)
            for values in (block.indptr, block.column, block.value):
                digest.update(np.ascontiguousarray(values).tobytes())
            start = stop
    return digest.hexdigest()
