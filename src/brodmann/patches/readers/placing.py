"""From an image to a section: its pixel size, and where it lies."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.patches.image import Image, ImageSection
from brodmann.patches.readers import quicknii, spots
from brodmann.patches.readers.sidecar import Entry, Stated
from brodmann.sidecar import check_transform
from brodmann.space import Space


def placed(
    picture: Image,
    entry: Entry,
    stated: Stated,
    *,
    name: str,
    space: Space | None,
    anchor: quicknii.Anchor | None = None,
    table: Path | None = None,
    series_um: float | None = None,
) -> ImageSection:
    """Make a section of an image.

    Its place is the stated one, else the registration's, else its own (`precomputed.Precomputed.to_mm`); without a
    space it lies in its own plane.

    Parameters
    ----------
    picture : Image
    entry : Entry
    stated : Stated
    name : str
        Id of the section where none is stated.
    space : Space or None
        None: unregistered.
    anchor : Anchor, optional
        Registration of this image.
    table : Path, optional
        Spots that measure the pixel size.
    series_um : float, optional
        Pixel size that the registration implies.

    Returns
    -------
    ImageSection
        With an empty subject and without points.

    Raises
    ------
    Refused
        No pixel size or two that contradict, no place in the space, or one that cannot be.
    """
    height, width = picture.sizes[0]
    if anchor is not None and series_um is not None:
        # The series' value holds for the image that was registered; the one read here may be a scaled copy.
        series_um *= anchor.width / width
    pixel_um, notes = _pixel_um(picture, stated.of(entry, "pixel_um"), table, series_um)
    width_um, height_um = width * pixel_um, height * pixel_um
    to_mm: NDArray[np.float64]
    if entry.to_mm is not None:
        to_mm = np.array(entry.to_mm, np.float64)
    elif anchor is not None:
        if abs(np.log(width / height * anchor.height / anchor.width)) > 0.02:
            raise Refused(
                f"{entry.file} should have the shape of the registered image, {anchor.width} x {anchor.height}.",
                found=f"{width} x {height}.",
                cause="a cropped or turned copy.",
            )
        to_mm = anchor.to_mm(width_um, height_um)
        across, down = anchor.pixel_um
        if abs(np.log(down / across)) > 0.05:
            notes.append("registration stretches height and width differently, by more than 5 %")
    elif space is not None and (own := _own_place(picture, width_um, height_um)) is not None:
        to_mm = own
    elif space is not None:
        raise Refused(
            f"{entry.file} should have a place in space '{space.name}'.",
            found="no to_mm and no anchoring.",
            do='add to_mm, or set "space": "unregistered".',
        )
    else:
        to_mm = np.array([[0.001, 0, 0], [0, 0.001, 0], [0, 0, 0]], np.float64)
    check_transform(to_mm, where=entry.file)
    return ImageSection(
        id=entry.id or (name if entry.slice is None else f"{name}_{entry.slice:04d}"),
        subject="",
        image=picture,
        native_um=pixel_um,
        to_mm=to_mm,
        stated_dark=stated.of(entry, "dark_stain"),
        notes=[*picture.notes, *notes],
    )


def _own_place(picture: Image, width_um: float, height_um: float) -> NDArray[np.float64] | None:
    from brodmann.patches.readers.precomputed import Precomputed

    return picture.to_mm(width_um, height_um) if isinstance(picture, Precomputed) else None


def _pixel_um(
    picture: Image, stated: float | None, table: Path | None, series_um: float | None
) -> tuple[float, list[str]]:
    """Pixel size: stated, else the file's own, else from the spots' pitch, else from the registration."""
    if stated is not None and picture.pixel_um is not None and abs(np.log(stated / picture.pixel_um)) > 0.02:
        raise Refused(
            f"{Path(picture.name).name}: stated pixel size and the file's own should agree within 2 %.",
            found=f"{stated:g} um stated, {picture.pixel_um:g} um in the file.",
            do="correct the one that is wrong; the file's wins nothing by itself.",
        )
    pixel_um, note = stated or picture.pixel_um, ""
    if pixel_um is None and table is not None:
        pixel_um = spots.pixel_um_from(table)
        note = f"pixel size measured from the spots' pitch of {spots.PITCH_UM:g} um"
    if pixel_um is None and series_um is not None:
        pixel_um = series_um
        note = "pixel size derived from the registration (median over the series' widths)"
    if pixel_um is None:
        raise Refused(
            f"{Path(picture.name).name} should have a pixel size.",
            found="none in the file.",
            do='state it in sections.json: {"pixel_um": 2.0}.',
        )
    if not 0.01 <= pixel_um <= 1000:
        raise Refused(
            f"{Path(picture.name).name} should have pixels of 0.01 to 1000 um.",
            found=f"{pixel_um:g} um.",
            cause="nm or mm given as um.",
        )
    return float(pixel_um), [note] if note else []


def content_of(folder: Path, path: Path) -> Any:
    """Hash of the sizes and ends of an image's files, named by their places in ``folder``; still open for more."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    # Reading the ends of every chunk of a large store would take minutes: all sizes, but the bytes of 64 files.
    every = max(len(files) // 64, 1)
    for number, file in enumerate(files):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()}:{size};".encode())
        if number % every == 0 or file.suffix == ".json" or file.name.startswith(".z") or file.name == "info":
            with file.open("rb") as handle:
                digest.update(handle.read(65536))
                handle.seek(max(size - 65536, 0))
                digest.update(handle.read(65536))
    return digest
