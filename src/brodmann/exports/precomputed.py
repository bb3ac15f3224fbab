"""neuroglancer precomputed: a volume for each brain at several scales, its names, and a state that opens it.

Format: https://neuroglancer-docs.web.app/datasource/precomputed/volume.html and segment_properties.html. Its axes are
those of the space, in the order of the space's orientation; position 0 is the space's origin.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from brodmann.exports import record, voxels
from brodmann.exports.answers import Answer, Found

CHUNK = 64
VIEWER = "https://neuroglancer-demo.appspot.com/#!"
SERVED = "http://localhost:8000"


def write(found: Found, out: Path, *, voxel_mm: float | None, url: str | None) -> dict[str, Any]:
    """Write ``<brain>/`` with ``info`` into a folder, and ``<brain>.json``, the state that shows it.

    Every scale is made from the samples, and every chunk is written: an absent one would read as no label.

    Parameters
    ----------
    found : Found
        With one answer: classes become a segmentation, numbers a float32 image.
    out : Path
    voxel_mm : float, optional
        By default the brain's longest side in 120.
    url : str, optional
        Where the folder will be served; by default ``http://localhost:8000``.
    """
    answer, listed = found.one(), dict[str, Any]()
    base = (url or SERVED).rstrip("/")
    brains = found.brains()
    names = record.stems(brain for brain, _ in brains)
    for brain, rows in brains:
        mm, folder = voxels.side_mm(found, rows, voxel_mm), out / names[brain]
        found.say(f"{folder.name}: {len(rows):,} samples, voxels of {mm:g} mm")
        folder.mkdir()
        scales: list[dict[str, Any]] = []
        first = voxels.filled(found, answer, rows, mm, reach_mm=mm)
        made = first
        while True:
            scales.append(_scale(folder, made))
            if max(made.data.shape) <= CHUNK:
                break
            made = voxels.filled(found, answer, rows, made.mm * 2, reach_mm=mm)
        info: dict[str, Any] = {
            "@type": "neuroglancer_multiscale_volume", "type": "image" if answer.numeric else "segmentation",
            "data_type": str(first.data.dtype), "num_channels": 1, "scales": scales,
        }  # fmt: skip
        if not answer.numeric:
            info["segment_properties"] = "segment_properties"
            _dump(folder / "segment_properties" / "info", _properties(answer))
        _dump(folder / "info", info)
        state = _state(answer, first, f"precomputed://{base}/{quote(names[brain])}", brain)
        _dump(out / f"{names[brain]}.json", state)
        link = VIEWER + quote(json.dumps(state, separators=(",", ":")), safe="")
        (out / f"{names[brain]}.url.txt").write_text(link + "\n", encoding="utf-8")
        listed[brain] = {
            "folder": names[brain], "state": f"{names[brain]}.json", "voxel_mm": mm, "reach_mm": mm,
            "axes": dict(zip("xyz", found.space.orientation, strict=True)), "unit": "nm", "served_at": base,
        }  # fmt: skip
    return {"brains": listed}


def _scale(folder: Path, made: voxels.Voxels) -> dict[str, Any]:
    """Write one scale as raw chunks (x runs fastest, little endian) and return its entry of ``info``."""
    nm = round(made.mm * 1e6)
    key, data = f"{nm}nm", made.data
    little = data.astype(data.dtype.newbyteorder("<"), copy=False)
    home = folder / key
    home.mkdir()
    for x in range(0, data.shape[0], CHUNK):
        for y in range(0, data.shape[1], CHUNK):
            for z in range(0, data.shape[2], CHUNK):
                piece = little[x : x + CHUNK, y : y + CHUNK, z : z + CHUNK]
                ends = zip((x, y, z), piece.shape, made.low.tolist(), strict=True)
                name = "_".join(f"{low + start}-{low + start + side}" for start, side, low in ends)
                (home / name).write_bytes(piece.tobytes(order="F"))
    return {
        "key": key, "size": list(data.shape), "resolution": [nm] * 3, "voxel_offset": made.low.tolist(),
        "chunk_sizes": [[CHUNK] * 3], "encoding": "raw",
    }  # fmt: skip


def _properties(answer: Answer) -> dict[str, Any]:
    """Names of the segments."""
    ids = [str(value) for value in range(1, len(answer.key.names) + 1)]
    shown = [{"id": "label", "type": "label", "values": list(answer.key.names)}]
    return {"@type": "neuroglancer_segment_properties", "inline": {"ids": ids, "properties": shown}}


def _state(answer: Answer, made: voxels.Voxels, source: str, brain: str) -> dict[str, Any]:
    """State of the viewer: all classes in their colours, in the middle of the volume; places are in mm."""
    middle = (made.low + np.array(made.data.shape) / 2) * made.mm
    layer: dict[str, Any] = {"name": f"{answer.name} {brain}", "source": source}
    if answer.numeric:
        low, high = (float(end) for end in np.nanpercentile(made.data, [0, 100]))
        layer |= {"type": "image", "shaderControls": {"normalized": {"range": [low, high]}}}
    else:
        ids = {str(value): colour for value, colour in enumerate(answer.key.colours, start=1)}
        layer |= {"type": "segmentation", "segments": list(ids), "segmentColors": ids}
    return {
        "dimensions": {axis: [1e-3, "m"] for axis in "xyz"}, "position": middle.tolist(),
        "crossSectionScale": float(max(made.data.shape) * made.mm / 500),
        "projectionScale": float(max(made.data.shape) * made.mm * 1.5), "layers": [layer], "layout": "4panel",
    }  # fmt: skip


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
