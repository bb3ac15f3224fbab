"""Surfaces and values on them, read from and written to GIFTI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.gifti.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable
from nibabel.nifti1 import intent_codes
from numpy.typing import NDArray

from brodmann import atomic
from brodmann.cortex.mesh import Array, Mesh, mesh
from brodmann.errors import Corrupt, Refused

_PLACES, _TRIANGLES, _SHAPE = "NIFTI_INTENT_POINTSET", "NIFTI_INTENT_TRIANGLE", "NIFTI_INTENT_SHAPE"
_LABEL, _NONE = "NIFTI_INTENT_LABEL", "???"


def read(path: str | Path) -> Mesh:
    """Read a surface (``.surf.gii``), mm as the file states them, and check it; see `mesh.mesh`.

    Raises
    ------
    Refused
        If there is no such file, it holds no surface, or its surface does not pass.
    Corrupt
        If it cannot be read.
    """
    image = _load(Path(path))
    places, faces = (image.get_arrays_from_intent(intent) for intent in (_PLACES, _TRIANGLES))
    if len(places) != 1 or len(faces) != 1:
        raise Refused(
            f"{path} should hold one surface.",
            found=f"{len(places)} sets of places and {len(faces)} sets of triangles.",
            cause="a file of values (.shape.gii, .label.gii), or several surfaces in one.",
            do="give the .surf.gii.",
        )
    return mesh(np.asarray(places[0].data, dtype=np.float64), np.asarray(faces[0].data))


def read_values(path: str | Path, surface: Mesh | None = None) -> NDArray[Any]:
    """Values of vertices (``.shape.gii``, ``.func.gii``, ``.label.gii``): (n, k) in the file's type.

    Raises
    ------
    Refused
        If there is no such file, it holds no values, or not as many as ``surface`` has vertices.
    Corrupt
        If it cannot be read.
    """
    image = _load(Path(path))
    kept = [part for part in image.darrays if part.intent not in _codes(_PLACES, _TRIANGLES)]
    sizes = {len(np.atleast_1d(part.data)) for part in kept}
    wanted = sizes if surface is None else {len(surface.vertices)}
    if len(sizes) != 1 or sizes != wanted:
        raise Refused(
            f"{path} should hold a value for each vertex" + ("." if surface is None else f" of {wanted.pop()}."),
            found=f"{len(kept)} sets of {sorted(sizes)} values.",
            cause="values of another surface, or a file without values.",
        )
    return np.concatenate([np.asarray(part.data).reshape(sizes.copy().pop(), -1) for part in kept], axis=1)


def write(path: str | Path, surface: Mesh) -> None:
    """Write a surface; places are kept as float32, as the format's readers expect."""
    parts = [(surface.vertices.astype(np.float32), _PLACES), (surface.faces.astype(np.int32), _TRIANGLES)]
    _save(path, parts)


def write_values(
    path: str | Path, values: Array, *, names: Sequence[str] = (), meta: Mapping[str, str] | None = None
) -> None:
    """Write values of vertices, (n,) or (n, k), as float32; ``names`` are those of the k columns.

    NaN stays NaN: a vertex of which nothing is known. ``meta`` is kept with every column.
    """
    columns = np.asarray(values, dtype=np.float32).reshape(len(values), -1)
    if names and len(names) != columns.shape[1]:
        raise Refused("Every column of values should have a name.", found=f"{columns.shape[1]} and {len(names)}.")
    _save(path, [(np.ascontiguousarray(column), _SHAPE) for column in columns.T], names, meta=meta)


def write_labels(
    path: str | Path, values: NDArray[np.integer], colours: Mapping[str, str], *, name: str = "",
    meta: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write labels of vertices (``.label.gii``) with their names and colours.

    Parameters
    ----------
    path : path
    values : (n,) integer
        ``i + 1`` is the i-th name of ``colours``; 0 is no label, and transparent.
    colours : mapping
        Name to ``"#RRGGBB"``, in the order of the values.
    name : str
        Of the map, as viewers list it.
    meta : mapping of str to str, optional
        What the file should say of itself beside that: its space, how far a value was carried.

    Raises
    ------
    Refused
        If a value has no name.
    """
    given = np.asarray(values)
    if len(given) and (given.min() < 0 or given.max() > len(colours)):
        raise Refused(
            "Every label of a surface should have a name.",
            found=f"values from {given.min()} to {given.max()} and {len(colours)} names.",
        )
    table = GiftiLabelTable()
    for key, (text, colour) in enumerate({_NONE: None, **colours}.items()):
        red, green, blue = (0.0, 0.0, 0.0) if colour is None else (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        entry: Any = GiftiLabel(key, red, green, blue, 0.0 if colour is None else 1.0)
        entry.label = text
        table.labels.append(entry)
    _save(path, [(given.astype(np.int32), _LABEL)], [name] if name else (), table, meta)


def read_labels(path: str | Path, surface: Mesh | None = None) -> tuple[NDArray[np.int32], dict[int, str]]:
    """Labels of vertices (n,) int32, and the name of each value, from a ``.label.gii``.

    Raises
    ------
    Refused
        If there is no such file, it holds no labels, several sets of them, or not as many as ``surface`` has vertices.
    Corrupt
        If it cannot be read.
    """
    values = read_values(path, surface)
    table = _load(Path(path)).labeltable.get_labels_as_dict()
    if values.shape[1] != 1 or not np.issubdtype(values.dtype, np.integer) or not table:
        raise Refused(
            f"{path} should hold one set of labels.",
            found=f"{values.shape[1]} sets of {values.dtype} and {len(table)} names.",
            cause="a file of measured values (.func.gii, .shape.gii).",
        )
    return values[:, 0].astype(np.int32), {int(key): str(text) for key, text in table.items()}


def _save(
    path: str | Path,
    parts: list[tuple[NDArray[Any], str]],
    names: Sequence[str] = (),
    table: GiftiLabelTable | None = None,
    meta: Mapping[str, str] | None = None,
) -> None:
    arrays = [GiftiDataArray(data, intent=intent) for data, intent in parts]
    for array in arrays:
        array.meta.update(meta or {})
    for array, name in zip(arrays, names, strict=False):
        array.meta["Name"] = name
    image = GiftiImage(darrays=arrays, labeltable=table)
    atomic.write_bytes(Path(path), image.to_bytes())


def _codes(*names: str) -> set[Any]:
    return {intent_codes[name] for name in names}


def _load(path: Path) -> Any:
    if not path.is_file():
        raise Refused(f"{path} should be a GIFTI file.", found="no such file.")
    data = path.read_bytes()
    if b"ExternalFileBinary" in data:
        raise Refused(
            f"{path} should hold its own data.",
            found="a reference to another file.",
            do="save it again with its data inside (base64).",
        )
    try:
        return GiftiImage.from_bytes(data)
    except Exception as error:  # the parser raises whatever its XML or zlib raises
        raise Corrupt(
            f"{path} should be a GIFTI file.",
            found=f"{type(error).__name__}: {error}",
            cause="another format under this name, or a file cut short.",
        ) from error
