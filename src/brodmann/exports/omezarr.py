"""OME-Zarr 0.5: each section's image with the predicted classes as labels beside it, or with numbers as an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann import atomic
from brodmann.exports import record
from brodmann.exports.answers import Answer, Found
from brodmann.maps import section
from brodmann.maps.labels import Picture, rows_on, scaled, spacing_um
from brodmann.maps.raster import reach_um

_PIXELS = 1_200_000
"""Most pixels of the finest level, unless a pixel size is asked for."""
_CHUNK = 256


def write(found: Found, out: Path, *, pixel_um: float | None) -> dict[str, Any]:
    """Write ``<section>.ome.zarr`` for each section into a folder; returns what lies where, for the record.

    Physical coordinates are um from the section's top left corner; ``to_mm`` of the record leads on to the space.

    Parameters
    ----------
    found : Found
        With one answer.
    out : Path
    pixel_um : float, optional
        Pixel size of the finest level; by default a quarter of the samples' spacing.
    """
    answer, listed = found.one(), dict[str, Any]()
    names = record.stems(picture.id for picture in found.pictures)
    for picture in found.pictures:
        pixel = pixel_um or finest(found, picture)
        path = out / f"{names[picture.id]}.ome.zarr"
        found.say(f"{path.name}: {pixel:g} um")
        if answer.numeric:
            _numbers(found, answer, picture, path, pixel)
        else:
            values = answer.classes("OME-Zarr labels")
            section.label_image(
                found.table, values, picture, out=path, pixel_um=pixel, name=answer.name, key=answer.key
            )
        listed[picture.id] = {
            "file": path.name, "subject": picture.subject, "pixel_um": pixel, "to_mm": record.to_mm(picture),
            "unit": "micrometer" if scaled(picture) else "arbitrary",
        }  # fmt: skip
    return {"sections": listed}


def finest(found: Found, picture: Picture) -> float:
    """Pixel size (um, two digits): a quarter of the spacing, or where that is too fine, what `_PIXELS` allow."""
    fine = spacing_um(_places(found, rows_on(found.table, picture.id))) / 4
    return float(f"{max(fine, float(np.sqrt(picture.width_um * picture.height_um / _PIXELS))):.2g}")


def _places(found: Found, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.column_stack([np.asarray(found.obs[axis])[rows] for axis in ("x_um", "y_um")]).astype(np.float64)


def _numbers(found: Found, answer: Answer, picture: Picture, path: Path, pixel_um: float) -> None:
    """Numbers as a float32 image (y, x): that of the nearest sample within reach, NaN elsewhere."""
    import zarr
    from scipy import spatial

    rows = rows_on(found.table, picture.id)
    xy, values = _places(found, rows), cast("NDArray[np.float64]", answer.values)[rows].astype(np.float32)
    reach, tree = reach_um(xy), cast("Any", spatial).cKDTree(xy)
    padded = np.append(values, np.float32(np.nan))
    levels = 1
    while max(picture.width_um, picture.height_um) / pixel_um / 2 ** (levels - 1) > 2 * _CHUNK:
        levels += 1
    low, high = (float(end) for end in np.nanpercentile(values, [0, 100]))
    datasets: list[dict[str, Any]] = []
    with atomic.folder(path) as partial:
        root: Any = zarr.open_group(str(partial), mode="w", zarr_format=3)
        for level in range(levels):
            size = pixel_um * 2**level
            shape = [max(1, int(np.ceil(side / size - 1e-6))) for side in (picture.height_um, picture.width_um)]
            down, right = ((np.arange(n) + 0.5) * size for n in shape)
            centres = np.stack(np.meshgrid(right, down), -1).reshape(-1, 2)
            nearest = tree.query(centres, distance_upper_bound=reach)[1]
            stored = root.create_array(
                str(level), shape=shape, dtype=np.float32, chunks=(_CHUNK, _CHUNK), fill_value=np.nan,
                dimension_names=("y", "x"), config={"write_empty_chunks": True},
            )  # fmt: skip
            stored[...] = padded[nearest].reshape(shape)
            steps = [{"type": "scale", "scale": [size] * 2}, {"type": "translation", "translation": [size / 2] * 2}]
            datasets.append({"path": str(level), "coordinateTransformations": steps})
        unit = {"unit": "micrometer"} if scaled(picture) else {}
        axes = [{"name": axis, "type": "space", **unit} for axis in "yx"]
        window = {"min": low, "max": high, "start": low, "end": high}
        named = f"{answer.name} ({answer.unit})" if answer.unit else answer.name
        root.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [{"name": f"{picture.id} {answer.name}", "axes": axes, "datasets": datasets}],
            "omero": {"channels": [{"label": named, "color": "FFFFFF", "window": window, "active": True}]},
        }
