"""neuroglancer precomputed images: one slice of a volume as a section, read chunk by chunk.

The slice: the axis along which a section is thin is the one of size 1, or the stated one; columns run along the first
of the other two axes, rows along the second (thin y: x to the right, z downwards), both upwards in voxels.

Levels that would mix neighbouring slices, or that start elsewhere than level 0, are left out, and a note says so: a
coarser pixel is then averaged from finer ones.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Corrupt, Refused
from brodmann.patches.readers.blocks import Blocks, picked, reductions, scaling, side_um
from brodmann.patches.readers.chunks import LIMIT_CHUNKS
from brodmann.patches.readers.files import Files, Folder, json_of
from brodmann.patches.readers.volume import Scale, Triple, decoded, picture_limit, volume
from brodmann.patches.resample import Pixels

Axis = Literal["x", "y", "z"]


class Precomputed:
    """A slice of a precomputed volume as an `Image`.

    Parameters
    ----------
    source : Path or Files
        Folder with ``info``, or what serves its files.
    channel : int, optional
        Which channel to read; needed when there are several that are not three of colour.
    span : (low, high), optional
        Values that become 0 and 255.
    absent : int, optional
        Grey value of chunks that the writer left out; without it they are an error.
    axis : {"x", "y", "z"}, optional
        Along which a section is thin; by default the axis of size 1.
    number : int, optional
        Which slice along ``axis``, from 0; needed when there are several.

    Raises
    ------
    Refused
        Labels instead of an image, an encoding without pixels, no single slice, unsafe names, absurd sizes.
    Corrupt
        ``info`` cut short, or chunks absent. (Those of shards and of servers are found when they are read.)
    """

    def __init__(
        self,
        source: Path | Files,
        *,
        channel: int | None = None,
        span: tuple[float, float] | None = None,
        absent: int | None = None,
        axis: Axis | None = None,
        number: int | None = None,
    ) -> None:
        self._files: Files = Folder(source) if isinstance(source, Path) else source
        self.name, self._absent = self._files.name, absent
        self._title = PurePosixPath(self.name).name
        self.notes: list[str] = []
        self._volume = volume(self._files, title=self._title)
        first = self._volume.scales[0]
        self._thin, self._number = _slice(first, axis, number, self._title)
        self._right, self._down = (a for a in range(3) if a != self._thin)
        self._levels = [scale for scale in self._volume.scales if scale is first or self._shows(scale, first)]
        self.sizes = [(scale.size[self._down], scale.size[self._right]) for scale in self._levels]
        self.factors = reductions(self.sizes, name=self._title)
        self.pixel_um: float | None = self._pixel_um()
        many = self._volume.channels
        self._pick = picked(channel, many, colour=many == 3, name=self._title)
        self.channels = len(self._pick)
        self._complete()
        shapes = [(scale.chunk[self._down], scale.chunk[self._right]) for scale in self._levels]
        self._blocks = Blocks(self.sizes, shapes, self.channels, self._load)
        kind = self._volume.dtype.newbyteorder("=")
        self._scale, said = scaling(kind, span, lambda: self._blocks.sample(self._raw), name=self._title)
        self.notes.extend(said)

    def window(self, level: int, x0: int, y0: int, x1: int, y1: int) -> tuple[Pixels, int, int]:
        """See `brodmann.patches.image.Image.window`."""
        return self._blocks.window(level, x0, y0, x1, y1)

    def to_mm(self, width_um: float, height_um: float) -> NDArray[np.float64] | None:
        """(3, 3) map from (x_um, y_um, 1) to mm by ``transform.json``, for an image that wide and high; or None.

        That file, which EBRAINS lays beside ``info``, holds a (4, 4) matrix from nm in the volume (0 at the outer
        corner of voxel 0) to nm in a space; which space it is, the sidecar must name. The place of a slice is that of
        its middle.

        Raises
        ------
        Corrupt
            A file that holds no such matrix.
        """
        content = json_of(self._files, "transform.json")
        if content is None:
            return None
        try:
            matrix = np.array(content, np.float64)
        except (TypeError, ValueError) as error:
            raise Corrupt(f"transform.json of {self._title} should hold numbers.", found=str(error)[:200]) from error
        if matrix.shape not in {(3, 4), (4, 4)} or (len(matrix) == 4 and matrix[3].tolist() != [0, 0, 0, 1]):
            raise Corrupt(f"transform.json of {self._title} should be a (4, 4) affine.", found=f"shape {matrix.shape}.")
        first = self._levels[0]
        nm = np.array(first.nm)
        columns = np.zeros((3, 3))
        columns[self._right, 0] = first.size[self._right] * nm[self._right] / width_um
        columns[self._down, 1] = first.size[self._down] * nm[self._down] / height_um
        columns[:, 2] = np.array(first.offset) * nm
        columns[self._thin, 2] += (self._number + 0.5) * nm[self._thin]
        placed = matrix[:3, :3] @ columns
        placed[:, 2] += matrix[:3, 3]
        return placed / 1e6

    def _shows(self, scale: Scale, first: Scale) -> bool:
        """Whether a level shows the slice and nothing else, from the same corner."""
        thin, um = self._thin, scale.nm[self._right] / 1000
        single = first.size[thin] == scale.size[thin] == 1
        if not single and abs(scale.nm[thin] / first.nm[thin] - 1) > 1e-3:
            self.notes.append(f"level of {um:g} um left out: it mixes neighbouring slices")
            return False
        starts = [abs(scale.offset[a] - first.offset[a] * first.nm[a] / scale.nm[a]) for a in (self._right, self._down)]
        if max(starts) > 0.01:
            self.notes.append(f"level of {um:g} um left out: it starts {max(starts):.2g} of its pixels off")
            return False
        if not single and (scale.size[thin], scale.offset[thin]) != (first.size[thin], first.offset[thin]):
            self.notes.append(f"level of {um:g} um left out: it holds other slices")
            return False
        return True

    def _pixel_um(self) -> float:
        across, down = (self._levels[0].nm[axis] / 1000 for axis in (self._right, self._down))
        side = side_um(across, down, name=self._title, source="info")
        for level, (scale, factor) in enumerate(zip(self._levels, self.factors, strict=True)):
            for axis in (self._right, self._down):
                said = scale.nm[axis] / self._levels[0].nm[axis]
                # One pixel of rounding in the size of a small level is no contradiction.
                if abs(math.log(said / factor)) > 0.02 + 1.5 / min(self.sizes[level]):
                    raise Refused(
                        f"resolution and size of level {level} of {self._title} should agree.",
                        found=f"resolution {said:.3f} times level 0, size reduced by {factor:.3f}.",
                        cause="a wrong info file.",
                    )
        return side

    def _place(self, level: int, row: int, column: int) -> Triple:
        at = [0, 0, 0]
        at[self._right], at[self._down] = column, row
        at[self._thin] = self._number // self._levels[level].chunk[self._thin]
        return at[0], at[1], at[2]

    def _complete(self) -> None:
        """Refuse a volume that lacks chunks of this slice, where files can be listed."""
        lost, example = 0, ""
        for level, scale in enumerate(self._levels):
            rows, columns = scale.grid[self._down], scale.grid[self._right]
            if rows * columns > LIMIT_CHUNKS:
                raise Refused(f"{self._title} should have a plausible size.", found=f"{rows * columns:,} chunks.")
            names = None if scale.shards else self._files.listed(scale.key)
            if names is None:
                continue
            # One byte a chunk: what an info file claims must not fill memory with names.
            there = np.zeros((rows, columns), bool)
            at = self._number // scale.chunk[self._thin]
            for place in map(scale.place, names):
                if place is not None and place[self._thin] == at:
                    there[place[self._down], place[self._right]] = True
            if not there.all():
                row, column = np.unravel_index(int(np.argmin(there)), there.shape)
                example = example or f"{scale.key}/{scale.file(self._place(level, int(row), int(column)))}"
                lost += int((~there).sum())
        if lost and self._absent is None:
            raise Corrupt(
                f"{self._title} should hold all chunks of its slice.",
                found=f"{lost} absent, e.g. {example}.",
                cause="files lost in a copy, an interrupted download, or a writer that leaves out empty chunks.",
                do='copy it again, or state what absent means: "absent_value": 255 in sections.json.',
            )
        if lost:
            self.notes.append(f"{lost} absent chunk files read as {self._absent}")

    def _raw(self, level: int, row: int, column: int) -> NDArray[Any] | None:
        """Read stored values of one block (C, h, w); None if the chunk is absent and may be."""
        scale, place = self._levels[level], self._place(level, row, column)
        x, y, z = (stop - start for start, stop in scale.bounds(place))
        shape, dtype = (x, y, z, self._volume.channels), self._volume.dtype
        key = f"{scale.key}/{scale.file(place)}"
        where = f"chunk {key} of {self.name}"
        limit = picture_limit(math.prod(shape) * dtype.itemsize)
        if scale.shards is None:
            data = self._files.fetch(key, limit=limit)
        else:
            data = scale.shards.fetch(self._files, scale.key, place, scale.grid, limit=limit, where=where)
        if data is None and self._absent is None:
            raise Corrupt(
                f"{where} should be there.",
                found="nothing.",
                cause="a file lost after opening, or a chunk that the writer left out.",
                do='copy it again, or state "absent_value" in sections.json.',
            )
        if data is None:
            return None
        values = decoded(data, scale.encoding, shape, dtype, where=where)
        # Without the thin axis: columns, rows, channels.
        plane = values.take(self._number % scale.chunk[self._thin], axis=self._thin)
        return plane.transpose(2, 1, 0)[self._pick]

    def _load(self, level: int, row: int, column: int) -> Pixels:
        values = self._raw(level, row, column)
        if values is None:
            return np.full((self.channels, *self._blocks.shapes[level]), self._absent, np.uint8)
        return self._scale(values)


def _slice(first: Scale, axis: Axis | None, number: int | None, title: str) -> tuple[int, int]:
    """Thin axis and number of the slice."""
    single = [a for a in range(3) if first.size[a] == 1]
    if axis is None and len(single) != 1:
        raise Refused(
            f"{title} should be one section thick along one axis, or the axis should be named.",
            found=f"{' x '.join(map(str, first.size))} voxels.",
            do='state which slice is the section: "axis": "z", "slice": 0 in sections.json.',
        )
    thin = single[0] if axis is None else "xyz".index(axis)
    if number is None and first.size[thin] > 1:
        raise Refused(
            f"the section of {title} should be named by its slice.",
            found=f"{first.size[thin]} slices along {'xyz'[thin]}.",
            do='state "slice": 0 (or another) in sections.json.',
        )
    if (number or 0) >= first.size[thin]:
        raise Refused(f"{title} should have slice {number}.", found=f"{first.size[thin]} slices.")
    return thin, number or 0
