"""Write a phantom as ordinary files: OME-Zarr images with labels, a sidecar and a table of points per section."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from brodmann.errors import Usage
from brodmann.patches.resample import halve
from brodmann.patches.source import LAYERS, Source
from brodmann.phantom import areas
from brodmann.phantom.draw import Labels
from brodmann.phantom.section import PhantomSection

_CHUNK = 512
_SMALLEST_PX = 256


def write(source: Source, folder: str | Path, *, labels: bool = True) -> Path:
    """Write every section of a phantom, readable like any other data set.

    Per section ``B1_s07.ome.zarr`` (OME-Zarr 0.5, 512-px chunks, pyramid by 2; with ``labels/layers`` and
    ``labels/areas``) and ``B1_s07.csv`` (`PhantomSection.points`); ``sections.json`` ties them together, and names the
    layers, so that they can be learned from.

    Parameters
    ----------
    source : Source
        As made by `phantom.sections`.
    folder : path
        New or empty folder.
    labels : bool
        Also write the label images.

    Returns
    -------
    Path
        Of ``sections.json``, written last.

    Raises
    ------
    Usage
        If the folder holds something, or a section is not a phantom's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Usage("A phantom is written into an empty folder.", found=f"files in {folder}.", do="name a new folder.")
    entries: list[dict[str, Any]] = []
    for section in source.sections:
        if not isinstance(section, PhantomSection):
            raise Usage("Only sections of a phantom can be written.", found=type(section).__name__)
        stem = section.id.replace("/", "_")
        store = folder / f"{stem}.ome.zarr"
        _image(store, stem, section.overview(section.native_um), section.native_um)
        drawn = {"layers": f"{store.name}/labels/layers"} if labels else {}
        if labels:
            _labels(store, section)
        cast("Any", section.points).to_csv(folder / f"{stem}.csv", index=False, float_format="%.6g")
        entries.append(
            {
                "file": store.name, "id": section.id, "subject": section.subject, "pixel_um": section.native_um,
                "dark_stain": section.dark_stain, "to_mm": section.plane.to_mm.tolist(), "points": f"{stem}.csv",
                **drawn,
            }
        )  # fmt: skip
    sidecar = folder / "sections.json"
    sidecar.write_text(json.dumps({"space": source.space.name, "sections": entries}, indent=1) + "\n", "utf-8")
    return sidecar


def _image(store: Path, name: str, image: NDArray[np.uint8], um: float) -> None:
    levels = [image]
    while max(levels[-1].shape) > _SMALLEST_PX:
        levels.append(halve(levels[-1]))
    channel = {"name": "c", "type": "channel"}
    window = {"window": {"start": 0, "end": 255, "min": 0, "max": 255}, "color": "FFFFFF", "active": True}
    extra = {"omero": {"channels": [{"label": "Nissl", **window}], "rdefs": {"model": "greyscale"}}}
    _multiscale(store, name, levels, um, [channel], extra)


def _labels(store: Path, section: PhantomSection) -> None:
    group = cast("Any", zarr).open_group(store / "labels", mode="w", zarr_format=3)
    group.attrs["ome"] = {"version": "0.5", "labels": ["layers", "areas"]}
    kinds: tuple[tuple[Labels, tuple[str, ...]], ...] = (("layers", LAYERS[1:]), ("areas", areas.NAMES))
    for what, names in kinds:
        levels = [section.mask(what)]
        while max(levels[-1].shape) > _SMALLEST_PX:
            # Labels are thinned, never averaged.
            levels.append(np.ascontiguousarray(levels[-1][::2, ::2]))
        properties = [{"label-value": k, "name": name} for k, name in enumerate(names, 1)]
        colors = [
            {"label-value": k, "rgba": [37 * k % 256, 91 * k % 256, 53 * k % 256, 255]}
            for k in range(1, len(names) + 1)
        ]
        extra = {"image-label": {"colors": colors, "properties": properties, "source": {"image": "../../"}}}
        _multiscale(store / "labels" / what, what, levels, section.native_um, [], extra)


def _multiscale(
    store: Path, name: str, levels: list[NDArray[np.uint8]], um: float, leading: list[Any], extra: dict[str, Any]
) -> None:
    """Write a multiscale image; ``leading`` are the axes before y and x."""
    group = cast("Any", zarr).open_group(store, mode="w", zarr_format=3)
    datasets: list[dict[str, Any]] = []
    for k, level in enumerate(levels):
        shape = (*([1] * len(leading)), _CHUNK, _CHUNK)
        # Readers cannot tell an empty chunk from a lost one, so all are written.
        array = group.create_array(
            str(k), shape=level.shape, chunks=shape, dtype="uint8", fill_value=0, config={"write_empty_chunks": True}
        )
        array[...] = level
        scale = [*([1.0] * len(leading)), um * 2**k, um * 2**k]
        datasets.append({"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes = [*leading, *({"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx")]
    image = {"name": name, "axes": axes, "datasets": datasets, "type": "mean" if leading else "nearest"}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image], **extra}
