"""AnnData: ``.h5ad`` files, the groups of a ``.zarr`` store, and objects in memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cells.columns import as_bytes
from brodmann.cells.readers.part import Dense, Loaded, Part, Sparse, Table, tidy, turned
from brodmann.cells.readers.sidecar import Stated
from brodmann.errors import Corrupt, Refused
from brodmann.reasons import words

_COUNTS = re.compile(r"count|raw|umi|spots", re.IGNORECASE)
_PLACES = re.compile(r"spatial|coord|xy|position|centroid", re.IGNORECASE)
_NAMES_AT_ONCE = 1 << 20


def read(path: Path, stated: Stated, *, stem: str | None = None) -> Part:
    """Open a ``.h5ad``: columns are loaded, counts stay on disk.

    Raises
    ------
    Corrupt
        Not an AnnData file, or one that contradicts itself.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise Corrupt(
            f"{path.name} should be an HDF5 file.",
            found=words(error),
            cause="a copy or download cut short.",
        ) from error
    try:
        part = group(file, path, stated, stem=stem or path.stem)
    except BaseException:
        file.close()
        raise
    part.close = file.close
    return part


def group(root: Any, path: Path, stated: Stated, *, stem: str) -> Part:
    """Open an AnnData group of an h5 file or zarr store."""
    if "obs" not in root or "var" not in root:
        raise Refused(f"{path.name} should hold AnnData.", found=f"groups {', '.join(sorted(root)[:8]) or 'none'}.")
    from anndata.io import read_elem

    notes: list[str] = []
    try:
        if hasattr(root["obs"], "keys"):
            ids, columns = _observations(root["obs"], notes, path.name)
        else:
            # files of before anndata 0.7 hold obs as one compound array
            import anndata

            old = anndata.read_h5ad(path, backed="r")
            ids, columns = as_bytes(list(map(str, old.obs_names))), {str(k): old.obs[k] for k in old.obs}
            old.file.close()
        arrays: dict[str, NDArray[np.float64]] = {}
        stored = root.get("obsm", {})
        for key in sorted(stored if hasattr(stored, "keys") else (), key=_likely):
            if key == stated.coordinates or _PLACES.search(key):
                values = np.asarray(read_elem(stored[key]))
                if values.ndim == 2 and values.shape[1] >= 2 and values.dtype.kind in "fiu":
                    arrays[key] = values.astype(np.float64)
        tables = _tables(root, path.name, stated, n=len(ids))
    except (KeyError, ValueError, TypeError, OSError) as error:
        if isinstance(error, Refused):
            raise
        raise Corrupt(
            f"{path.name} should be readable as AnnData.",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            cause="a file cut short, or of a version that is not known.",
            do="open it with anndata.read_h5ad and write it again.",
        ) from error
    return Part(path.name, stem, ids, tidy(columns, notes, name=path.name, n=len(ids)), arrays, tables, notes=notes)


def memory(data: Any) -> Part:
    """Open an AnnData object."""
    notes: list[str] = []
    arrays = {
        str(key): np.asarray(data.obsm[key], np.float64)
        for key in sorted(data.obsm, key=_likely)
        if np.ndim(data.obsm[key]) == 2 and np.shape(data.obsm[key])[1] >= 2
    }
    candidates: dict[str, tuple[Any, pd.DataFrame]] = {}
    if data.X is not None:
        candidates["X"] = data.X, data.var
    for key in sorted(data.layers, key=lambda key: not _COUNTS.search(key)):
        candidates[f"layers/{key}"] = data.layers[key], data.var
    if data.raw is not None:
        candidates["raw/X"] = data.raw.X, data.raw.var
    tables: dict[str, tuple[Table, pd.DataFrame]] = {
        key: (Dense(matrix) if isinstance(matrix, np.ndarray) else Loaded(matrix), var)
        for key, (matrix, var) in candidates.items()
        if matrix.shape[1]
    }
    ids = as_bytes(list(map(str, data.obs_names)))
    columns = {str(key): data.obs[key] for key in data.obs}
    table = tidy(columns, notes, name="obs", n=len(ids))
    return Part("AnnData", "section", ids, table, arrays, tables, notes=notes)


def _likely(key: str) -> tuple[bool, str]:
    return key != "spatial", key


def _observations(obs: Any, notes: list[str], name: str) -> tuple[NDArray[np.bytes_], dict[str, Any]]:
    from anndata.io import read_elem

    index = str(obs.attrs.get("_index", "_index"))
    names = obs[index]
    if hasattr(names, "shape"):
        pieces = [_names(names[at : at + _NAMES_AT_ONCE]) for at in range(0, int(names.shape[0]), _NAMES_AT_ONCE)]
        ids = np.concatenate(pieces) if pieces else np.zeros(0, "S1")
    else:
        ids = _names(np.asarray(read_elem(names)))
    columns: dict[str, Any] = {}
    for key in map(str, obs.attrs.get("column-order", [])):
        if key not in obs:
            raise KeyError(f"obs/{key}")
        try:
            columns[key] = read_elem(obs[key])
        except (ValueError, TypeError, RuntimeError) as error:
            notes.append(f"{name}: column '{key}' cannot be read ({type(error).__name__}); left out")
    return ids, columns


def _names(values: Any) -> NDArray[np.bytes_]:
    array = np.asarray(values)
    if array.dtype.kind == "S":
        return array
    if array.dtype.kind == "O" and len(array) and isinstance(array[0], bytes):
        return array.astype(np.bytes_)
    return as_bytes(cast("Any", array).tolist())


def _tables(root: Any, name: str, stated: Stated, *, n: int) -> dict[str, tuple[Table, pd.DataFrame]]:
    from anndata.io import read_elem

    stored = root.get("layers", {})
    layers = sorted(stored if hasattr(stored, "keys") else (), key=lambda key: not _COUNTS.search(key))
    places = ["X", *(f"layers/{key}" for key in layers), "raw/X"]
    if stated.counts is not None:
        place = "raw/X" if stated.counts in {"raw", "raw.X"} else stated.counts
        if place not in places or place not in root:
            raise Refused(
                f"{name} should hold counts at '{stated.counts}'.",
                found=", ".join(key for key in places if key in root) or "no matrix at all.",
            )
        places = [place]
    found: dict[str, tuple[Table, pd.DataFrame]] = {}
    for place in places:
        if place not in root:
            continue
        var = root["raw/var"] if place == "raw/X" else root["var"]
        if not hasattr(var, "keys"):
            import h5py

            rows = cast("Any", h5py.Dataset.__getitem__(var, slice(None)))
            genes = pd.DataFrame(index=pd.Index([_decoded(row[0]) for row in rows]))
        else:
            genes = cast("pd.DataFrame", read_elem(var))
        if len(genes):
            found[place] = _matrix(root[place], f"{place} of {name}", (n, len(genes))), genes
    return found


def _matrix(stored: Any, name: str, shape: tuple[int, int]) -> Table:
    if not hasattr(stored, "keys"):
        return Dense(stored)
    kind = str(stored.attrs.get("encoding-type", stored.attrs.get("h5sparse_format", "")))
    parts = stored["indptr"], stored["indices"], stored["data"]
    if kind.startswith("csr"):
        said = stored.attrs.get("shape", stored.attrs.get("h5sparse_shape", shape))
        return Sparse(*parts, width=int(said[1]), name=name)
    if kind.startswith("csc"):
        return turned(*parts, shape=shape, name=name)
    raise Refused(f"{name} should be dense, CSR or CSC.", found=f"'{kind}'.")


def _decoded(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
