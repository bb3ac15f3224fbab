"""Rat somatosensory cortex, Nissl: tiles of 177 um with every cell outlined by hand, and by two Cellpose models.

RGB TIFFs of 512 x 512 px from slides scanned at 20x; the same names in ``Raw`` (images), ``GT`` (labels drawn by hand,
0 is no cell), ``cyto2`` and ``v2`` (labels by Cellpose). A pixel is 0.346 um by the files' own tags. Small dark
cells (glia, some in vessel walls) are outlined as neurons are: the counts are of all cells.

Not stated with the data, and so not claimed here: which rat a slide is of and how many rats there are (all tiles have
one subject, and a split by brain is refused), the layer, the section thickness, who drew the outlines. Tiles are not
registered: each lies in its own plane. **The tile is what a split must hold out whole** (``by = "section"``); some are
of one slide, so another slide is not promised.

``cyto2`` is the generalist model of Cellpose, as it comes: trained on cells of many kinds, not on these (Stringer et
al. 2021, Nature Methods 18:100; its code BSD-3-Clause). ``v2`` is a model of the tiles' authors; what it was trained on
is not stated with the tiles, so it may have seen tissue like this or even these tiles. Neither learns anything here.

Reference: Meystre et al. 2024, Frontiers in Neuroanatomy 18:1463632 describes such images (cresyl violet, 14-day-old
rats, 0.346 um per pixel); that these tiles are of its slides is inferred from owner, stain and pixel size.
Licence: none stated, neither for the images nor for the labels: for measuring only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.near.squares import tally
from brodmann.patches import readers
from brodmann.patches.image import ImageSection
from brodmann.patches.source import Source

CITATION = "Meystre et al. 2024, https://doi.org/10.3389/fnana.2024.1463632"
LICENSE = "none stated"
URL = "https://github.com/jacquemi-bbp/rat_sscx_nissl_analysis"
"""Folder ``Notebooks/Cellpose_Quality_Control/QC``, as of commit b21dda6f; spaces in names may be left out."""
PIXEL_UM = 0.346
CROP_UM = 128 * PIXEL_UM
"""Side of a crop: a quarter of a tile, 44.3 um, about eight cells."""
SUBJECT = "rat not stated"
HAND = "GT"
MODELS = {
    "cyto2": "Cellpose cyto2, as it comes: Stringer et al. 2021, https://doi.org/10.1038/s41592-020-01018-x",
    "v2": "a Cellpose model of the tiles' authors; its training tiles and licence are not stated",
}
"""Folders with labels that were not drawn by hand."""
FILE = re.compile(r"(?P<slide>\w+)\.vsi ?- ?20x_(?P<scan>\d+)_Region_(?P<region>\d+)_Labels_(?P<tile>t\d+)\.tif")
SHA256 = {
    "SLD_0000404.vsi-20x_01_Region_1_Labels_t2.tif": {
        "GT": "a6326e1a736f4cb55243de51e20e57f4516005857fa085b2ff315c75d3c424eb",
        "Raw": "8c8bf107f8e5bace722ffcb206b3600896f73dcb1e08e9c1e0c62a54ea95ff19",
        "cyto2": "870cc1eb8437ad2a5f02f3f2988bfd155e3018dda8308197024d9c31a43e76c5",
        "v2": "735195af9e1e08c41ca584c0fbe4059cf3985ec70f850d9f85da06832aaad76b",
    },
    "SLD_0000406.vsi-20x_01_Region_1_Labels_t1.tif": {
        "GT": "cc0b32a40c83a948d2d0d94a28c9331ce00dd1d4955bdcc22170d1cc44644854",
        "Raw": "bfddbb68131345c19819aba2c587a23c0679b976eb1069f754c3b0317f8ffda4",
        "cyto2": "01992ed8e749346c1b33059e7a79eb600ff421472a1f4c4063f6578063dc4921",
        "v2": "28da1e49d84bbb5be0319598575cd4b07b9c2ca4d61cb070af8122e5f4ada564",
    },
    "SLD_0000406.vsi-20x_01_Region_1_Labels_t2.tif": {
        "GT": "a193b8ac5315cff5d0cfc37bd19a0c8057d08aaac41e7b81d36ddf6d8bb8085c",
        "Raw": "453fb307044bd210e93e381121a9fbee10712ae9eac3b6e4ebab5a84bb82f291",
        "cyto2": "20eb59c8e1db001697ab245aa28cc6b44ea0219a6223f04933f8243b56ddc8c7",
        "v2": "f9b74431d81e590a8c0b578a711226da49ce2c71c4d74e541f72dbe227ee2ca3",
    },
    "SLD_0000406.vsi-20x_01_Region_2_Labels_t1.tif": {
        "GT": "a0462ac13a49045f4d091972c08437689f8845b89dc75ba97bd6a3b8e89db54f",
        "Raw": "fe791e696dc91ec1cd797e9c22d15d97aeba622c5bafddc3f0250248ee4647ed",
        "cyto2": "039d153e211c6c70aa154f50137d57fcf504a9ffb19d70f079872ec774cceb59",
        "v2": "62bb541ebe4fc3918dabd9d91b74f6276a5fc210a917c0ea6763fae28b154f59",
    },
}
"""Of the files that were looked at; a file of another name is read, but not verified."""


def open(folder: str | Path, *, crop_um: float = CROP_UM, step_um: float | None = None) -> Source:
    """Tiles with a grid of crops as points, and what is known of each crop as labels.

    Labels: ``count`` (cells whose centre lies in the crop), ``area_um2`` (their mean area; NaN where none is whole) and
    ``density_per_mm2`` of the hand-made outlines; ``count_cyto2``, ``area_um2_cyto2`` and so on of the models. A cell
    that the tile's edge cuts counts, but has no area. A recipe needs ``samples.where = "points"``, ``upright = false``
    and ``size_px * pixel_um = crop_um``, and ``split.by = "section"``.

    Parameters
    ----------
    folder : path
        Holds ``Raw`` and ``GT``, and ``cyto2`` and ``v2`` if they are wanted.
    crop_um : float
        Side of the crops, which lie within the tiles; at most a tile.
    step_um : float, optional
        Distance between neighbouring crops; by default a quarter of their side, so that they overlap.

    Returns
    -------
    Source
        Unregistered; one section a tile.

    Raises
    ------
    Refused
        The folder holds something else, a label image does not fit its tile, or crops do not.
    Corrupt
        A file is not the one that was published, or cannot be read.
    """
    folder = Path(folder)
    names = _tiles(folder)
    entries = [readers.Entry(file=name, id=_id(name), subject=SUBJECT) for name in names]
    stated = readers.Stated(space="unregistered", pixel_um=PIXEL_UM, dark_stain=True, sections=entries)
    source = readers.read(folder / "Raw", stated)
    source.name, source.reader = folder.resolve().name, "rat_nissl"
    every = cells(folder)
    digest = hashlib.sha256(source.fingerprint.encode())
    for section in cast("list[ImageSection]", source.sections):
        own = cast("pd.DataFrame", every[every["section"] == section.id])
        points = _crops(section, own, crop_um, step_um or crop_um / 4)
        digest.update(points.to_csv(index=False).encode())
        section.points = points
    source.fingerprint = digest.hexdigest()
    return source


def cells(folder: str | Path) -> pd.DataFrame:
    """Every outlined cell of every tile.

    Parameters
    ----------
    folder : path
        As in `open`.

    Returns
    -------
    DataFrame
        ``section`` (the tile), ``by`` (``"GT"``: by hand, or the model), ``x_um, y_um`` (centre of the outline, from
        the tile's corner), ``area_um2``, and ``whole``: False where the tile's edge cuts the cell.

    Raises
    ------
    Refused
        As `open`.
    Corrupt
        As `open`.
    """
    folder = Path(folder)
    found: list[pd.DataFrame] = []
    for name in _tiles(folder):
        _verify(folder, "Raw", name)
        with _page(folder / "Raw" / name) as page:
            shape = tuple(page.shape[:2])
        for by in (HAND, *(model for model in MODELS if (folder / model).is_dir())):
            _verify(folder, by, name)
            found.append(_measured(_labels(folder / by / name, shape)).assign(section=_id(name), by=by))
    return pd.concat(found, ignore_index=True)


def _tiles(folder: Path) -> list[str]:
    """Names of the tiles, sorted."""
    raw = folder / "Raw"
    names = sorted(path.name for path in raw.iterdir() if FILE.fullmatch(path.name)) if raw.is_dir() else []
    if not names or not (folder / HAND).is_dir():
        raise Refused(
            f"{folder.name} should hold Raw and {HAND} with <slide>.vsi-20x_<scan>_Region_<n>_Labels_t<n>.tif.",
            found=f"{len(names)} such tiles in Raw, " + ("and" if (folder / HAND).is_dir() else "no") + f" {HAND}.",
            do="name the folder that holds both.",
        )
    return names


def _id(name: str) -> str:
    part = cast("re.Match[str]", FILE.fullmatch(name))
    return f"{part['slide']}_{part['scan']}_R{part['region']}_{part['tile']}"


def _verify(folder: Path, by: str, name: str) -> None:
    path = folder / by / name
    if not path.is_file():
        raise Refused(f"{by} should hold a label image of every tile.", found=f"none for {name}.")
    expected = SHA256.get(name.replace(" ", ""), {}).get(by)
    found = hashlib.sha256(path.read_bytes()).hexdigest() if expected else None
    if found != expected:
        raise Corrupt(
            f"{by}/{name} should have SHA-256 {str(expected)[:16]}...", found=f"{str(found)[:16]}...",
            cause="a damaged or edited copy, or another version.", do="copy it again.",
        )  # fmt: skip


@contextmanager
def _page(path: Path) -> Generator[Any, None, None]:
    """First page of a TIFF; whatever the decoder finds wrong with it is damage."""
    try:
        with tifffile.TiffFile(path) as file:
            yield file.pages[0]
    except BrodmannError:
        raise
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, OSError, RuntimeError) as error:
        raise Corrupt(
            f"{path.parent.name}/{path.name} should be a whole TIFF.", found=f"{error}.", do="copy it again."
        ) from error


def _labels(path: Path, shape: tuple[int, ...]) -> NDArray[np.integer]:
    """Label image (h, w); its shape is compared with the tile's before anything is allocated."""
    with _page(path) as page:
        if tuple(page.shape) != shape or page.dtype is None or page.dtype.kind not in "ui":
            raise Refused(
                f"{path.parent.name}/{path.name} should hold whole numbers, {shape[1]} x {shape[0]} px as its tile.",
                found=f"shape {tuple(page.shape)}, {page.dtype}.",
                cause="labels of another tile, or a picture of them in colours.",
            )
        return page.asarray()


def _measured(labels: NDArray[np.integer]) -> pd.DataFrame:
    """Centre, area and wholeness of each label; a label is a cell, whatever its number and its pieces."""
    names, number = np.unique(labels, return_inverse=True)
    number = number.reshape(labels.shape)
    pixels = np.bincount(number.ravel(), minlength=len(names))
    row, column = (axis.ravel() for axis in np.indices(labels.shape))
    x, y = (np.bincount(number.ravel(), axis + 0.5, len(names)) / pixels for axis in (column, row))
    edge = np.unique(np.concatenate([number[0], number[-1], number[:, 0], number[:, -1]]))
    whole = ~np.isin(np.arange(len(names)), edge)
    table = pd.DataFrame({
        "x_um": x * PIXEL_UM, "y_um": y * PIXEL_UM, "area_um2": pixels * PIXEL_UM**2, "whole": whole
    })  # fmt: skip
    return cast("pd.DataFrame", table[names > 0])


def _crops(section: ImageSection, held: pd.DataFrame, crop_um: float, step_um: float) -> pd.DataFrame:
    """Grid of crops within a tile, row by row, with what lies in each."""
    limit = min(section.width_um, section.height_um)
    if not (0 < crop_um <= limit * (1 + 1e-6) and step_um > 0):
        raise Refused(
            f"crops should fit into a tile of {limit:.0f} um, a positive step apart.",
            found=f"{crop_um:g} um wide, {step_um:g} um apart.",
        )
    # a grid that ends exactly at the edge must not lose its last crop to rounding
    along = [
        crop_um / 2 + step_um * np.arange(int((size - crop_um) / step_um + 1e-6) + 1)
        for size in (section.height_um, section.width_um)
    ]
    y, x = (axis.ravel() for axis in np.meshgrid(*along, indexing="ij"))
    points = pd.DataFrame({"x_um": x, "y_um": y})
    for by in held["by"].unique():
        own = cast("pd.DataFrame", held[held["by"] == by])
        area = np.where(own["whole"].to_numpy(bool), own["area_um2"].to_numpy(np.float64), np.nan)
        xy = own[["x_um", "y_um"]].to_numpy(np.float64)
        count, mean = tally(xy, area, np.column_stack([x, y]), side_um=crop_um)
        suffix = "" if by == HAND else f"_{by}"
        points[f"count{suffix}"], points[f"area_um2{suffix}"] = count.astype(np.float64), mean
    points["density_per_mm2"] = points["count"] / (crop_um / 1000) ** 2
    return points
