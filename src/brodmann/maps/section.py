"""Labels back on their sections: pictures to look at, and OME-Zarr labels to compute with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from brodmann import atomic
from brodmann.errors import Refused
from brodmann.maps.colours import ink, rgb
from brodmann.maps.drawing import FAINT, bare, beside, legend, length, save, scale_bar, short, style, thousands
from brodmann.maps.labels import Key, Labels, Picture, aligned, codes, scaled, used
from brodmann.maps.raster import blend, raster, reach_um, samples_of, visible_reach_um

if TYPE_CHECKING:
    from anndata import AnnData


_ROOM = 5.0
"""Points that a region must be deep to carry its name."""
_CROWDED = 5000
"""Samples of a section above which single disagreements are not outlined."""


def overlay(
    table: AnnData,
    labels: Labels,
    picture: Picture,
    *,
    pixel_um: float,
    key: Key | None = None,
    opacity: float | None = None,
    stain: Literal["gray", "colour"] = "gray",
    within_um: float | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """One section's overview under its labels.

    Parameters
    ----------
    opacity : float, optional
        Of the labels; by default what the picture says (``cover``), else 0.5.

    Returns
    -------
    image : (H, W, 3) uint8
    values : (H, W) uint16
        Values of ``key``; 0 is no label.
    """
    names = aligned(table, labels)
    key = key or Key.of(names)
    xy, here = samples_of(table, names, picture)
    under = picture.overview(pixel_um)
    reach = within_um or visible_reach_um(xy, picture)
    values = raster(xy, key.values(here), (under.shape[1], under.shape[2]), pixel_um=pixel_um, reach_um=reach)
    cover = getattr(picture, "cover", 0.5) if opacity is None else opacity
    return blend(under, values, key, opacity=cover, stain=stain), values


def paint(
    table: AnnData,
    labels: Labels,
    picture: Picture,
    *,
    out: Path | str,
    pixel_um: float | None = None,
    truth: Labels | None = None,
    title: str | None = None,
    truth_title: str = "atlas",
    colours: Mapping[str, str] | None = None,
    key: Key | None = None,
    stain: Literal["gray", "colour"] = "gray",
    opacity: float | None = None,
    within_um: float | None = None,
) -> Path:
    """Draw one section: labels over the stain, and with ``truth`` the truth beside them and errors outlined.

    Parameters
    ----------
    table : AnnData
        ``obs`` with ``section``, ``x_um``, ``y_um``.
    labels, truth : Labels
    picture : Picture
        The section of that id.
    out : path
        PNG to write (an SVG of the same name is written too).
    pixel_um : float, optional
        Pixel size of the picture, um; by default the longer side becomes 1,000 pixels.
    colours : mapping, optional
        Name to colour; by default made from the whole table, so that all sections agree.
    key : Key, optional
        Of all sections, made once by a caller that paints many.
    within_um : float, optional
        How far from a sample its label is drawn; see `brodmann.maps.raster.visible_reach_um`.

    Returns
    -------
    Path
        Of the PNG.
    """
    predicted = aligned(table, labels)
    title = title or (labels if isinstance(labels, str) else "predicted")
    true = None if truth is None else aligned(table, truth)
    key = key or Key.of([*used(predicted), *([] if true is None else used(true))], colours)
    pixel = pixel_um or max(picture.width_um, picture.height_um) / 1000
    width, height = picture.width_um / 1000, picture.height_um / 1000
    shown = [(title, predicted)] if true is None else [(title, predicted), (truth_title, true)]
    across = min(5.6, 6.0 * width / height)
    tall = across * height / width
    painted = [
        overlay(table, series, picture, pixel_um=pixel, key=key, opacity=opacity, stain=stain, within_um=within_um)
        for _, series in shown
    ]
    rasters = [values for _, values in painted]
    names = key.present(rasters)
    fit = beside(len(names), tall)
    with style():
        figure, panels, side = frames(len(shown), across=across, tall=tall, side=1.7 * fit["columns"])
        for axes, (name, _), (image, values) in zip(panels, shown, painted, strict=True):
            extent = (0.0, image.shape[1] * pixel / 1000, image.shape[0] * pixel / 1000, 0.0)
            axes.imshow(image, extent=extent, aspect="auto")
            bare(axes)
            axes.set_title(name)
            write_names(axes, values, key, mm_per_pixel=pixel / 1000, inches=tall)
        scale_bar(panels[0], width, known=scaled(picture))
        xy, here = samples_of(table, predicted, picture)
        reach = within_um or visible_reach_um(xy, picture)
        note = thousands(int((codes(here) >= 0).sum()), "samples")
        note += f", drawn up to {length(reach / 1000)} around each" if scaled(picture) else ""
        if true is not None:
            wrong = (rasters[0] != rasters[1]) & (rasters[0] > 0) & (rasters[1] > 0)
            crowded = len(xy) > _CROWDED
            outline(panels[0], _large(wrong) if crowded else wrong, pixel / 1000)
            said, meant = key.values(here), key.values(samples_of(table, true, picture)[1])
            known = (said > 0) & (meant > 0)
            if known.any():
                same, which = float((said[known] == meant[known]).mean()), "larger " if crowded else ""
                note += f"  ·  {same:.0%} of {int(known.sum()):,} labelled agree, {which}disagreement outlined"
        legend(side, names, **fit, loc="upper left", bbox_to_anchor=(0, 1), fontsize=7.5)
        heading = f"{short(picture.id, 48)}  ·  {short(picture.subject, 24)}"
        figure.text(
            0.15 / figure.get_figwidth(),
            1 - 0.22 / figure.get_figheight(),
            heading,
            fontweight="bold",
            fontsize=10.5,
            va="center",
        )
        figure.text(
            0.15 / figure.get_figwidth(), 0.16 / figure.get_figheight(), note, fontsize=8, color=FAINT, va="center"
        )
    return save(figure, out)


def frames(count: int, *, across: float, tall: float, side: float = 1.7) -> tuple[Any, list[Any], Any]:
    """Figure with ``count`` equal image axes in a row (inches) and an empty one for the legend at their right."""
    from matplotlib.figure import Figure

    gap, above, below = 0.15, 0.75, 0.6
    width, height = gap + count * (across + gap) + side, above + tall + below
    figure = Figure(figsize=(width, height))
    panels = [
        figure.add_axes(((gap + i * (across + gap)) / width, below / height, across / width, tall / height))
        for i in range(count)
    ]
    rest = figure.add_axes((1 - side / width, below / height, (side - gap) / width, tall / height))
    rest.axis("off")
    return figure, panels, rest


def write_names(axes: Any, values: NDArray[np.uint16], key: Key, *, mm_per_pixel: float, inches: float) -> None:
    """Write each name where its region is widest, if it fits there: colour is then not the only cue."""
    from matplotlib.patheffects import withStroke
    from scipy.ndimage import distance_transform_edt

    step = max(1, max(values.shape) // 400)
    small = np.pad(values[::step, ::step], 1)
    least = np.pi * (_ROOM * small.shape[0] / inches / 72) ** 2  # pixels of a disc in which a name has room
    size = np.bincount(small.ravel())
    for value in np.flatnonzero(size >= least):
        if not value:
            continue
        depth = cast("Any", distance_transform_edt)(small == value)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        name, room = short(key.names[value - 1], 14), float(depth.max()) / small.shape[0] * inches * 72  # points
        if room < _ROOM or len(name) * 2.6 > room * 1.2:
            continue
        colour = key.colours[value - 1]
        axes.text(
            (column - 0.5) * step * mm_per_pixel, (row - 0.5) * step * mm_per_pixel, name, ha="center", va="center",
            fontsize=7.5, color=ink(colour), path_effects=[withStroke(linewidth=1.8, foreground=colour)],
        )  # fmt: skip


def _large(wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Regions at least nine pixels wide: the border of every single cell would hide the picture."""
    from scipy.ndimage import binary_opening

    return np.asarray(cast("Any", binary_opening)(wrong, np.ones((9, 9))))


def outline(axes: Any, wrong: NDArray[np.bool_], mm_per_pixel: float) -> None:
    """Draw the border of ``wrong`` pixels: black under white, so that it shows on every colour."""
    if not wrong.any():
        return
    x, y = ((np.arange(n) + 0.5) * mm_per_pixel for n in wrong.shape[::-1])
    for colour, thickness in (("#000000", 1.6), ("#FFFFFF", 0.7)):
        axes.contour(x, y, wrong.astype(float), levels=[0.5], colors=colour, linewidths=thickness)


def label_image(
    table: AnnData,
    labels: Labels,
    picture: Picture,
    *,
    out: Path | str,
    pixel_um: float,
    name: str = "labels",
    key: Key | None = None,
    within_um: float | None = None,
) -> Path:
    """Write one section as OME-Zarr 0.5 (zarr v3): its image, and its labels as a pyramid beside it.

    Physical coordinates are um from the section's top left corner, the table's ``x_um`` and ``y_um``. Labels of
    every level are computed from the samples at that level's pixel centres; nothing is averaged.

    Parameters
    ----------
    out : path
        Folder to write, ``<section>.ome.zarr``; an older one is replaced once the new one is complete. The values are
        documented in ``<out stem>-<name>.csv`` beside it (value, name, colour).
    pixel_um : float
        Pixel size of the finest level, um.
    name : str
        Name of the label image, e.g. ``"area"``: the group ``labels/<name>``.
    key : Key, optional
        Shared by all sections of a run; by default made from the whole table.

    Returns
    -------
    Path
        Of the OME-Zarr folder.
    """
    import zarr

    path = Path(out)
    if not name or any(mark in name for mark in "/\\") or name.startswith("."):
        raise Refused("the name of a label image should be one folder name.", found=repr(name))
    names = aligned(table, labels)
    key = key or Key.of(names)
    xy, here = samples_of(table, names, picture)
    values, reach = key.values(here), within_um or reach_um(xy)
    image = picture.overview(pixel_um)
    height, width = image.shape[1:]
    levels = 1
    while max(height, width) / 2 ** (levels - 1) > 512:
        levels += 1
    with atomic.folder(path, what=path.name, need=3 * image.nbytes) as partial:
        root: Any = zarr.open_group(str(partial), mode="w", zarr_format=3)
        group = root.create_group("labels")
        shown = group.create_group(name)
        for level in range(levels):
            size = pixel_um * 2**level
            under = image if not level else picture.overview(size)
            _array(root, level, under, ("c", "y", "x"))
            drawn = raster(xy, values, (under.shape[1], under.shape[2]), pixel_um=size, reach_um=reach)
            _array(shown, level, drawn, ("y", "x"))
        root.attrs["ome"] = {
            "version": "0.5",
            **_multiscales(picture.id, "cyx", pixel_um, levels, known=scaled(picture)),
            "omero": _channels(image),
        }
        group.attrs["ome"] = {"version": "0.5", "labels": [name]}
        shown.attrs["ome"] = {
            "version": "0.5",
            **_multiscales(name, "yx", pixel_um, levels, known=scaled(picture)),
            "image-label": {
                "version": "0.5",
                "colors": [
                    {"label-value": value, "rgba": [*(int(part) for part in rgb(colour)), 255]}
                    for value, colour in enumerate(key.colours, start=1)
                ],
                "properties": [{"label-value": value, "name": text} for value, text in enumerate(key.names, start=1)],
                "source": {"image": "../../"},
            },
        }
    key.write(path.with_name(f"{path.name.removesuffix('.zarr').removesuffix('.ome')}-{name}.csv"))
    return path


def _array(group: Any, level: int, data: NDArray[Any], axes: tuple[str, ...]) -> None:
    """One pyramid level: chunks of 256, gathered in shards of up to 2,048 so that sections stay few files."""
    chunk = tuple(1 if axis == "c" else 256 for axis in axes)
    gathered = tuple(
        n if axis == "c" else min(2048, -(-n // 256) * 256) for axis, n in zip(axes, data.shape, strict=True)
    )
    shards = gathered if gathered != chunk else None
    stored = group.create_array(
        str(level), shape=data.shape, dtype=data.dtype, chunks=chunk, shards=shards, dimension_names=axes
    )
    stored[...] = data


def _multiscales(name: str, axes: str, pixel_um: float, levels: int, *, known: bool) -> dict[str, Any]:
    """OME-NGFF 0.5 ``multiscales``: pixel (i, j) has its centre at ((i + 1/2), (j + 1/2)) pixel sizes.

    The unit is optional there, and left out where the scale is not ``known``.
    """
    unit = {"unit": "micrometer"} if known else {}
    described = [{"name": a, "type": "channel"} if a == "c" else {"name": a, "type": "space", **unit} for a in axes]
    datasets: list[dict[str, Any]] = []
    for level in range(levels):
        size = pixel_um * 2**level
        steps = [
            {"type": "scale", "scale": [1.0 if a == "c" else size for a in axes]},
            {"type": "translation", "translation": [0.0 if a == "c" else size / 2 for a in axes]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    return {"multiscales": [{"name": name, "axes": described, "datasets": datasets}]}


def _channels(image: NDArray[np.uint8]) -> dict[str, Any]:
    """Display settings, so that viewers show the stain as it is."""
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    tones = [("stain", "FFFFFF")] if len(image) == 1 else [("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF")]
    shown = [{"label": label, "color": tone, "window": window, "active": True} for label, tone in tones]
    return {"channels": shown, "rdefs": {"model": "greyscale" if len(shown) == 1 else "color"}}
