"""Label masks of cortex beside images: sample points along the middle of cortex, upright, from what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cortex.lines import midline
from brodmann.cortex.ribbon import ribbon
from brodmann.errors import Refused

SPACING_MM = 0.1
"""Distance between points; a recipe's ``samples.spacing_mm`` thins them."""
LARGEST_PX = 400_000_000
_TIFF = {".tif", ".tiff"}
_GREY = {"L", "I;16", "P"}


def points(
    path: Path, cortex: tuple[int, ...], white: tuple[int, ...], *, width_um: float, height_um: float
) -> tuple[pd.DataFrame, list[str]]:
    """Points every `SPACING_MM` along the mid-cortical line of a mask that covers the whole image, and remarks.

    Parameters
    ----------
    path : Path
        PNG or TIFF of labels, or an OME-Zarr label image; any pixel size.
    cortex, white : tuple of int
        Labels of cortex (layers, for example) and of white matter; 0 is outside, others are cut-off tissue.
    width_um, height_um : float
        Size of the image on the slide.

    Returns
    -------
    DataFrame
        ``x_um, y_um, angle_deg, thickness_mm, bend`` (curvature of the line in the section, 1/mm, crowns positive),
        ``line, along_mm``; see `brodmann.cortex.lines.midline`.
    list of str

    Raises
    ------
    Refused
        No such file, not a plane of labels, another shape than the image, or no cortex between pia and white matter.
    """
    mask = plane(path)
    across, down = pixel(path, mask.shape, width_um=width_um, height_um=height_um)
    pixel_um = (across * down) ** 0.5
    other = [int(label) for label in np.unique(mask) if label not in {0, *cortex, *white}]
    field = ribbon(mask, pixel_um, cortex=cortex, white=white, cut=other)
    table = midline(field, spacing_mm=SPACING_MM)
    table["x_um"] *= across / pixel_um
    table["y_um"] *= down / pixel_um
    # in the section, where planted and measured curvatures are those of the surface
    table["bend"] = table["curvature"]
    kept = ["x_um", "y_um", "angle_deg", "thickness_mm", "bend", "line", "along_mm"]
    said = [f"mask: {remark}" for remark in field.remarks]
    said += [f"mask: labels {', '.join(map(str, other))} are taken for cut-off tissue"] if other else []
    return table.loc[:, kept], said


def pixel(path: Path, shape: tuple[int, ...], *, width_um: float, height_um: float) -> tuple[float, float]:
    """Width and height (um) of a pixel of a label plane (rows, columns) that covers the whole image.

    Raises
    ------
    Refused
        The plane has another shape than the image.
    """
    across, down = width_um / shape[1], height_um / shape[0]
    # one pixel more or less is what rounding a smaller copy's size leaves
    if abs(across - down) > 1.5 * max(across, down) / min(shape):
        raise Refused(
            f"{path.name} should have the shape of its image, {width_um:,.0f} x {height_um:,.0f} um.",
            found=f"{shape[1]} x {shape[0]} pixels, {across:.3g} um wide and {down:.3g} um high.",
            cause="a mask of another section, or a cropped or turned copy.",
        )
    return across, down


def plane(path: Path) -> NDArray[np.integer[Any]]:
    """The label plane (h, w) of a file.

    Raises
    ------
    Refused
        No such file, not a plane of whole numbers, or one of more than `LARGEST_PX` pixels.
    """
    if not path.exists():
        raise Refused(f"mask {path.name} should exist.", found="no such file.")
    try:
        found = _zarr(path) if path.is_dir() else _image(path)
    except (OSError, ValueError, KeyError) as error:
        raise Refused(
            f"mask {path.name} should be a PNG, a TIFF or an OME-Zarr label image.", found=f"{error}."
        ) from error
    if found.ndim != 2 or found.dtype.kind not in "ui":
        raise Refused(
            f"mask {path.name} should be one plane of whole numbers.", found=f"shape {found.shape}, {found.dtype}.",
            cause="a picture of the mask in colours, or probabilities.", do="save the labels themselves, 8 or 16 bit.",
        )  # fmt: skip
    return found


def shape(path: Path) -> tuple[int, int]:
    """Rows and columns of a label plane; only its header is read.

    Raises
    ------
    Refused
        As `plane`.
    """
    if not path.exists():
        raise Refused(f"mask {path.name} should exist.", found="no such file.")
    try:
        if path.is_dir():
            found = _array(path).shape
        elif path.suffix.lower() in _TIFF:
            import tifffile

            with tifffile.TiffFile(path) as file:
                found = file.pages[0].shape
        else:
            from PIL import Image

            with Image.open(path) as file:
                found = (file.height, file.width, *([3] if file.mode not in _GREY else []))
    except (OSError, ValueError, KeyError) as error:
        raise Refused(
            f"mask {path.name} should be a PNG, a TIFF or an OME-Zarr label image.", found=f"{error}."
        ) from error
    _bounded(path, found)
    flat = tuple(size for size in found if size != 1) if len(found) > 2 else found
    if len(flat) != 2:
        raise Refused(
            f"mask {path.name} should be one plane of whole numbers.", found=f"shape {found}.",
            cause="a picture of the mask in colours, or probabilities.", do="save the labels themselves, 8 or 16 bit.",
        )  # fmt: skip
    return int(flat[0]), int(flat[1])


def _image(path: Path) -> NDArray[Any]:
    if path.suffix.lower() in _TIFF:
        import tifffile

        with tifffile.TiffFile(path) as file:
            _bounded(path, file.pages[0].shape)
            return np.squeeze(file.pages[0].asarray())
    from PIL import Image

    # sizes are bounded here, so Pillow need not
    with Image.open(path) as file:
        _bounded(path, (file.height, file.width))
        return np.asarray(file if file.mode in _GREY else file.convert("RGB"))


def _zarr(path: Path) -> NDArray[Any]:
    array = _array(path)
    _bounded(path, array.shape)
    return np.squeeze(np.asarray(array[...]))


def _array(path: Path) -> Any:
    """Finest level of an OME-Zarr label image."""
    import zarr

    group = cast("Any", zarr).open_group(path, mode="r")
    ome = group.attrs.get("ome", group.attrs)
    return group[ome["multiscales"][0]["datasets"][0]["path"]]


def _bounded(path: Path, shape: tuple[int, ...]) -> None:
    if int(np.prod(shape)) > LARGEST_PX:
        raise Refused(
            f"mask {path.name} should have at most {LARGEST_PX:,} pixels.", found=f"{' x '.join(map(str, shape))}.",
            do="a pixel of 10 to 20 um is fine enough: save a smaller copy.",
        )  # fmt: skip
