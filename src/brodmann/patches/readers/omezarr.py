"""OME-Zarr images, version 0.4 (zarr v2) and 0.5 (zarr v3), read chunk by chunk.

Absent chunks: zarr writers leave out chunks that hold nothing but the fill value, and a lost file looks just the same.
So an absent chunk is an error that names it, unless the user states what it means (``absent_value``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.patches.readers.blocks import LIMIT_BLOCK_BYTES, Blocks, picked, reductions, scaling, side_um
from brodmann.patches.readers.chunks import Absent, Header, Read, header, opener
from brodmann.patches.resample import Pixels
from brodmann.sidecar import inside, strict_json

_MICRONS = {
    "meter": 1e6,
    "centimeter": 1e4,
    "millimeter": 1e3,
    "micrometer": 1.0,
    "nanometer": 1e-3,
    "angstrom": 1e-4,
    "picometer": 1e-6,
}


class OmeZarr:
    """An OME-Zarr store on disk as an `Image`.

    Parameters
    ----------
    path : Path
        Folder of the multiscale image; with several series, the series' folder.
    channel : int, optional
        Which channel to read; needed when there are several that are not three of colour.
    span : (low, high), optional
        Values that become 0 and 255.
    absent : int, optional
        Grey value of chunks that the writer left out; without it they are an error.
    opened : function (Header) -> Read, optional
        How to read the chunks of an array when they lie elsewhere; absent ones are then found when they are read.

    Raises
    ------
    Refused
        No multiscale image, axes or units missing, levels that do not match, unsafe paths or data types.
    Corrupt
        Metadata cut short, or chunks absent.
    """

    def __init__(
        self,
        path: Path,
        *,
        channel: int | None = None,
        span: tuple[float, float] | None = None,
        absent: int | None = None,
        opened: Callable[[Header], Read] | None = None,
    ) -> None:
        self.name, self._path, self._absent = str(path), path, absent
        self.notes: list[str] = []
        axes, datasets = _multiscale(path)
        kinds = [axis for axis, _ in axes]
        self._y, self._x = kinds.index("y"), kinds.index("x")
        self._c = kinds.index("c") if "c" in kinds else None
        self._headers = [header(inside(path, where), store=path.name) for where, _ in datasets]
        for head in self._headers:
            self._fits(head, axes)
        self.sizes = [(head.shape[self._y], head.shape[self._x]) for head in self._headers]
        self.factors = reductions(self.sizes, name=path.name)
        self.pixel_um: float | None = self._pixel_um(axes, [scale for _, scale in datasets])
        many = 1 if self._c is None else self._headers[0].shape[self._c]
        self._pick = picked(channel, many, colour=many == 3, name=path.name)
        self.channels = len(self._pick)
        self._arrays: list[Callable[[tuple[int, ...]], NDArray[Any]]] = [
            (opened or opener)(head) for head in self._headers
        ]
        lost = [] if opened else [name for head in self._headers for name in head.absent()]
        if lost and absent is None:
            raise Corrupt(
                f"{path.name} should hold all of its chunks.",
                found=f"{len(lost)} absent, e.g. {lost[0]}.",
                cause="files lost in a copy, an interrupted writer, or a writer that leaves out chunks of fill value.",
                do='write it again with write_empty_chunks=True, or state what absent means: "absent_value": 0 in '
                "sections.json.",
            )
        if lost:
            self.notes.append(f"{len(lost)} absent chunk files read as {absent}")
        shapes = [(head.chunk[self._y], head.chunk[self._x]) for head in self._headers]
        self._blocks = Blocks(self.sizes, shapes, self.channels, self._load)
        self._scale, said = scaling(
            self._headers[0].dtype, span, lambda: self._blocks.sample(self._raw), name=path.name
        )
        self.notes.extend(said)

    def window(self, level: int, x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, int, int]:
        """See `brodmann.patches.image.Image.window`."""
        return self._blocks.window(level, x0, y0, x1, y1)

    def _fits(self, head: Header, axes: list[tuple[str, float | None]]) -> None:
        """Refuse an array that contradicts the axes, or the other levels, or that has too large chunks."""
        if len(head.shape) != len(axes) or head.dtype != self._headers[0].dtype:
            raise Refused(
                f"{head.name} should have {len(axes)} axes and the data type of level 0.",
                found=f"shape {head.shape}, {head.dtype}.",
            )
        deep = [
            kind for (kind, _), size in zip(axes, head.shape, strict=True) if kind not in {"y", "x", "c"} and size > 1
        ]
        if deep or (self._c is not None and head.shape[self._c] != self._headers[0].shape[self._c]):
            raise Refused(
                f"{head.name} should hold one plane per channel.",
                found=f"shape {head.shape} along {''.join(kind for kind, _ in axes)}.",
                do="write one store per section.",
            )
        if math.prod(head.chunk) * head.dtype.itemsize > LIMIT_BLOCK_BYTES:
            raise Refused(
                f"{head.name} should have chunks of at most {LIMIT_BLOCK_BYTES / 1e6:g} MB.",
                found=f"chunks of {head.chunk}.",
            )

    def _pixel_um(self, axes: list[tuple[str, float | None]], scales: list[list[float]]) -> float:
        micron_y, micron_x = axes[self._y][1], axes[self._x][1]
        if micron_x is None or micron_y is None:
            raise Refused(
                f"axes y and x of {self._path.name} should have a unit of length.",
                found="none.",
                cause="a writer that left the unit out: the scale could be um or px.",
                do='add "unit": "micrometer" to both axes in the store\'s metadata.',
            )
        across, down = scales[0][self._x] * micron_x, scales[0][self._y] * micron_y
        side = side_um(across, down, name=self._path.name, source="multiscales")
        for level, (scale, factor) in enumerate(zip(scales, self.factors, strict=True)):
            for axis in (self._x, self._y):
                said = scale[axis] / scales[0][axis]
                # One pixel of rounding in the size of a small level is no contradiction.
                slack = 0.02 + 1.5 / min(self.sizes[level])
                if not said > 0 or abs(math.log(said / factor)) > slack:
                    raise Refused(
                        f"scale and size of level {level} of {self._path.name} should agree.",
                        found=f"scale {said:.3f} times level 0, size reduced by {factor:.3f}.",
                        cause="a wrong multiscale factor.",
                    )
        return side

    def _raw(self, level: int, row: int, column: int) -> NDArray[Any] | None:
        """Read stored values of one block (C, h, w); None if a chunk is absent and may be."""
        head = self._headers[level]
        at = [0] * len(head.shape)
        at[self._y], at[self._x] = row, column
        parts: dict[int, NDArray[Any]] = {}
        per_chunk = 1 if self._c is None else head.chunk[self._c]
        planes: list[NDArray[Any]] = []
        for channel in self._pick:
            group = channel // per_chunk
            if self._c is not None:
                at[self._c] = group
            if group not in parts:
                try:
                    parts[group] = self._arrays[level](tuple(at))
                except Absent as error:
                    if self._absent is None:
                        raise Corrupt(
                            f"{head.name} should hold chunk {tuple(at)}.",
                            found=str(error)[:300],
                            cause="a file lost after opening, or an inner chunk that the writer left out.",
                            do='copy the store again, or state "absent_value" in sections.json.',
                        ) from error
                    return None
            values = parts[group]
            order = [self._y, self._x] if self._c is None else [self._c, self._y, self._x]
            plane = values.transpose([*(a for a in range(values.ndim) if a not in order), *order])
            plane = plane.reshape(plane.shape[-len(order) :])
            planes.append(plane if self._c is None else plane[channel % per_chunk])
        return np.stack(planes)

    def _load(self, level: int, row: int, column: int) -> Pixels:
        values = self._raw(level, row, column)
        if values is None:
            return np.full((self.channels, *self._blocks.shapes[level]), self._absent, np.uint8)
        return self._scale(values)


def _multiscale(path: Path) -> tuple[list[tuple[str, float | None]], list[tuple[str, list[float]]]]:
    """Axes as (name, um per unit) and data sets as (path, scale per axis), finest first."""
    modern, old = path / "zarr.json", path / ".zattrs"
    if modern.is_file() and old.is_file():
        raise Refused(f"{path.name} should be zarr v2 or v3.", found="metadata of both.", do="remove the stale one.")
    content = _object(strict_json(modern if modern.is_file() else old) if modern.is_file() or old.is_file() else {})
    attributes = _object(content.get("attributes")) if modern.is_file() else content
    listed: Any = _object(attributes.get("ome")).get("multiscales") or attributes.get("multiscales")
    if not isinstance(listed, list) or not listed:
        raise Refused(
            f"{path.name} should be an OME-Zarr image.",
            found="no multiscales in its metadata.",
            cause="a plate, a bare array, or a group of several series.",
            do="open the folder of one series.",
        )
    image = _object(cast("list[Any]", listed)[0])
    try:
        axes = [_axis(axis) for axis in cast("list[Any]", image.get("axes") or [])]
        names = [name for name, _ in axes]
        if sorted(set(names)) != sorted(names) or not {"x", "y"} <= set(names):
            raise Refused(
                f"{path.name} should name its axes, y and x among them.",
                found=", ".join(names) or "none.",
                cause="a version before 0.4." if not names else "",
            )
        datasets = [_dataset(_object(item), _object(image), len(axes)) for item in cast("list[Any]", image["datasets"])]
    except BrodmannError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"multiscales of {path.name} should follow OME-Zarr 0.4 or 0.5.", found=repr(error)) from error
    if not datasets:
        raise Refused(f"{path.name} should list data sets.", found="none.")
    return axes, datasets


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _axis(axis: Any) -> tuple[str, float | None]:
    if isinstance(axis, str):
        return axis, None
    entry = _object(axis)
    unit = entry.get("unit")
    if unit is not None and entry.get("type", "space") == "space" and unit not in _MICRONS:
        raise Refused("an axis of space should have a unit of length.", found=repr(unit)[:40], do='write "micrometer".')
    return str(entry["name"]).lower(), None if unit is None else _MICRONS.get(unit)


def _dataset(item: dict[str, Any], image: dict[str, Any], count: int) -> tuple[str, list[float]]:
    """Path and total scale of a level; shifts between levels of more than a pixel are refused."""
    total = [1.0] * count
    for entry in [*(item.get("coordinateTransformations") or []), *(image.get("coordinateTransformations") or [])]:
        step = _object(entry)
        if step.get("type") == "scale":
            scale = [float(value) for value in step["scale"]]
            if len(scale) != count:
                raise Refused("a scale should have a value per axis.", found=f"{len(scale)} for {count} axes.")
            total = [a * b for a, b in zip(total, scale, strict=True)]
        elif step.get("type") == "translation":
            shift = [abs(float(value)) for value in step["translation"]]
            # Writers shift reduced levels by half a pixel to say where centres lie; positions here are edge based.
            if len(shift) != count or any(a > abs(b) for a, b in zip(shift, total, strict=True)):
                raise Refused(
                    "levels should start at the same corner.",
                    found=f"a translation of {step['translation']}.",
                    do="crop or pad the store so that it starts at 0; put the shift into to_mm.",
                )
        elif step.get("type") != "identity":
            raise Refused("levels should be related by scale and translation.", found=repr(step.get("type"))[:40])
    return str(item["path"]), total
