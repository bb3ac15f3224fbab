"""Small synthetic sections on disk, for tests of readers."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image


def stripes(height: int, width: int, period_px: float) -> NDArray[np.uint8]:
    """Vertical grating: 128 + 100 sin, sampled as the mean over each pixel."""
    edges = np.arange(width + 1)
    integral = -np.cos(2 * np.pi * edges / period_px) * period_px / (2 * np.pi)
    row = 128 + 100 * np.diff(integral)
    return np.broadcast_to(np.round(row).astype(np.uint8), (height, width)).copy()


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """White noise from 0 to 255."""
    return np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)


def blob(height: int = 300, width: int = 400, *, dark: bool = True) -> NDArray[np.uint8]:
    """An ellipse of tissue on an empty slide."""
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2) / (0.35 * width)) ** 2 + ((y - height / 2) / (0.35 * height)) ** 2 < 1
    image = np.where(inside, 120 if dark else 160, 240 if dark else 10).astype(np.float64)
    image += np.random.default_rng(1).normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def reduced(image: NDArray[Any], levels: int) -> list[NDArray[Any]]:
    """Pyramid by means of 2 x 2 pixels."""
    out = [image]
    for _ in range(levels - 1):
        a = out[-1]
        a = a[: a.shape[0] // 2 * 2, : a.shape[1] // 2 * 2].astype(np.float64)
        mean = (a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4
        out.append(np.round(mean).astype(image.dtype))
    return out


def write_zarr(
    path: Path,
    levels: list[NDArray[Any]],
    um: float | None,
    *,
    version: int = 3,
    chunk: int = 64,
    shard: int | None = None,
    unit: str | None = "micrometer",
    empty: bool = True,
    crc: bool = False,
) -> Path:
    """OME-Zarr 0.4 (v2) or 0.5 (v3) with axes y, x or c, y, x."""
    names = ["c", "y", "x"] if levels[0].ndim == 3 else ["y", "x"]
    axes: list[dict[str, str]] = [{"name": n, "type": "channel" if n == "c" else "space"} for n in names]
    for axis in axes[-2:]:
        if unit is not None:
            axis["unit"] = unit
    first = [1.0] * (len(names) - 2)
    datasets = [
        {
            "path": str(i),
            "coordinateTransformations": [{"type": "scale", "scale": [*first, (um or 1) * 2**i, (um or 1) * 2**i]}],
        }
        for i in range(len(levels))
    ]
    scales = [{"axes": axes, "datasets": datasets, "version": "0.4"}]
    attributes = {"multiscales": scales} if version == 2 else {"ome": {"version": "0.5", "multiscales": scales}}
    zarr.open_group(str(path), mode="w", zarr_format=version, attributes=attributes)
    group = zarr.open_group(str(path), mode="r+")
    for i, level in enumerate(levels):
        more: dict[str, Any] = {} if shard is None else {"shards": (*first_int(level), shard, shard)}
        if crc:
            more["compressors"] = (zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec())
        array = group.create_array(
            str(i),
            shape=level.shape,
            dtype=level.dtype,
            chunks=(*first_int(level), chunk, chunk),
            config={"write_empty_chunks": empty},
            **more,
        )
        array[...] = level
    return path


def write_precomputed(
    path: Path,
    levels: list[NDArray[Any]],
    um: float,
    *,
    encoding: str = "raw",
    thin: str = "z",
    chunk: int = 64,
    offset: tuple[int, int, int] = (0, 0, 0),
    nested: bool = False,
    zipped: bool = False,
    depth: int = 1,
    number: int = 0,
    **more: Any,
) -> Path:
    """neuroglancer precomputed volume, byte for byte as its specification has it; the image is one slice of it.

    Other slices hold the image turned by half a circle. Columns run along the first axis that is not ``thin``.
    """
    axis = "xyz".index(thin)
    scales = []
    for i, level in enumerate(levels):
        planes = level[None] if level.ndim == 2 else level
        volume = np.empty((planes.shape[2], planes.shape[1], depth, len(planes)), level.dtype)
        volume[:] = planes.transpose(2, 1, 0)[::-1, ::-1, None]
        volume[:, :, number] = planes.transpose(2, 1, 0)
        volume = np.moveaxis(volume, 2, axis)
        size = list(volume.shape[:3])
        shift = [o if a == axis else o // 2**i for a, o in enumerate(offset)]
        sides = [chunk] * 3
        nm = [um * 2**i * 1000] * 3
        nm[axis] = 20000
        key = "_".join(f"{round(n)}" for n in nm)
        folder = path / key
        folder.mkdir(parents=True)
        for place in np.ndindex(*(-(-s // c) for s, c in zip(size, sides, strict=True))):
            ends = [(p * c, min((p + 1) * c, s)) for p, c, s in zip(place, sides, size, strict=True)]
            block = volume[tuple(slice(*end) for end in ends)]
            name = "_".join(f"{a + o}-{b + o}" for (a, b), o in zip(ends, shift, strict=True))
            data = encoded(block, encoding)
            file = folder / (name.replace("_", "/") if nested else name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file = file.with_name(file.name + ".gz") if zipped else file
            file.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
        scales.append(
            {
                "key": key,
                "size": size,
                "resolution": nm,
                "voxel_offset": shift,
                "chunk_sizes": [sides],
                "encoding": encoding,
            }
        )
    info = {
        "@type": "neuroglancer_multiscale_volume",
        "type": "image",
        "data_type": str(levels[0].dtype),
        "num_channels": 1 if levels[0].ndim == 2 else len(levels[0]),
        "scales": scales,
    }
    (path / "info").write_text(json.dumps(info | more))
    return path


def encoded(block: NDArray[Any], encoding: str) -> bytes:
    """A chunk (x, y, z, channels) as its file's bytes."""
    if encoding == "raw":
        return block.astype(block.dtype.newbyteorder("<")).tobytes(order="F")
    x, y, z, channels = block.shape
    rows = block.transpose(2, 1, 0, 3).reshape(z * y, x, channels)
    out = io.BytesIO()
    Image.fromarray(rows[..., 0] if channels == 1 else rows).save(
        out, encoding, **({"quality": 95} if encoding == "jpeg" else {})
    )
    return out.getvalue()


def first_int(level: NDArray[Any]) -> tuple[int, ...]:
    """Chunk of the channel axis, if there is one."""
    return (1,) * (level.ndim - 2)


def write_tiff(
    path: Path, levels: list[NDArray[Any]], um: float | None, *, codec: str | None = "zlib", tile: int = 64
) -> Path:
    """Tiled pyramid with reduced levels in SubIFDs; pixel size in the resolution tags."""
    photometric = "rgb" if levels[0].ndim == 3 else "minisblack"
    more: dict[str, Any] = {"tile": (tile, tile), "compression": codec, "photometric": photometric, "metadata": None}
    if um is not None:
        more |= {"resolution": (1e4 / um, 1e4 / um), "resolutionunit": 3}
    with tifffile.TiffWriter(path) as tif:
        tif.write(levels[0], subifds=len(levels) - 1, **more)
        for level in levels[1:]:
            tif.write(level, subfiletype=1, **more)
    return path


def write_png(path: Path, image: NDArray[np.uint8]) -> Path:
    """PNG, grey or RGB."""
    Image.fromarray(image).save(path)
    return path


def write_sidecar(folder: Path, **content: Any) -> Path:
    """``sections.json``."""
    path = folder / "sections.json"
    path.write_text(json.dumps(content))
    return path
