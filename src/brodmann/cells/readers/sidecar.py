"""``cells.json``: what tables of cells do not say (unit, section, animal, place, genes), in one strict file.

It lies in the folder of the data, or beside one file as ``<file>.cells.json``, which goes first. All keys are
optional::

    {"unit": "px", "pixel_um": 0.108,
     "x": "CenterX_global_px", "y": "CenterY_global_px",
     "section": "slide", "subject": "mouse", "type": "subclass", "counts": "layers/counts",
     "space": "ccf_v3",
     "sections": [{"id": "s12", "subject": "M1", "to_mm": [[0.001, 0, 1.2], [0, 0, 4.0], [0, -0.001, 7.5]]}],
     "genes": {"Gad-1": "Gad1"}}

``to_mm`` maps ``(x_um, y_um, 1)`` to mm in ``space``; sections it does not list are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from brodmann import sidecar
from brodmann.errors import Refused
from brodmann.settings import settings
from brodmann.sidecar import NamedSpace, Positive, Row, named_space
from brodmann.space import Space

NAME = "cells.json"
LIMIT_BYTES = 50_000_000


@settings
class Entry:
    """One section."""

    id: str
    """As in the column of sections, or the name of the file without its ending."""
    subject: str | None = None
    """The animal; goes before a column."""
    to_mm: tuple[Row, Row, Row] | None = None
    """(x_um, y_um, 1) -> mm in ``space``."""


@settings
class Stated:
    """Content of a ``cells.json``."""

    files: list[str] | None = None
    """Files to read; all of the folder by default."""
    name: str | None = None
    """Name for messages and reports."""
    unit: Literal["um", "mm", "px", "arbitrary"] | None = None
    """Unit of the coordinates. "arbitrary": rescaled so that the median distance to the 6th neighbour is 30 um."""
    pixel_um: Positive | None = None
    """Size of a pixel; for unit "px"."""
    x: str | None = None
    """Column of the table."""
    y: str | None = None
    coordinates: str | None = None
    """Entry of ``obsm`` instead of two columns; "spatial" by default."""
    id: str | None = None
    """Column with the names of cells, in CSV files."""
    section: str | None = None
    """Column of sections; the name of the file by default."""
    subject: str | None = None
    """Column of animals; or "file": each file is one animal."""
    type: str | None = None
    volume: str | None = None
    """Column of cell volumes, um^3."""
    labels: list[str] | None = None
    """Columns to keep as labels; all by default."""
    counts: str | None = None
    """Where raw counts are: "X", "raw/X", "layers/NAME"; for CSV files the name of a table of cells x genes."""
    gene_column: str | None = None
    """Column of ``var`` with the names of genes; its index by default."""
    genes: dict[str, str] = pydantic.Field(default_factory=dict)
    """Genes to rename: name in the file -> name to use."""
    merge: list[str] = pydantic.Field(default_factory=list)
    """Genes whose columns are added up where they occur more than once."""
    panel: Literal["same", "common"] = "same"
    """Files with different genes are refused, or cut to the genes that all of them have."""
    space: str | NamedSpace | None = None
    """Space of ``to_mm`` and ``xyz``; "unregistered" ignores the coordinates of an atlas that a file holds."""
    xyz: tuple[str, str, str] | None = None
    """Columns with coordinates in ``space``, mm."""
    sections: list[Entry] | None = None

    def entry(self, section: str) -> Entry | None:
        """What is said of a section."""
        return next((entry for entry in self.sections or [] if entry.id == section), None)

    def named_space(self) -> Space | None:
        """Space in which cells are placed; None when they are not registered.

        Raises
        ------
        Refused
            Unknown name, or a known name with another meaning.
        """
        return named_space(self.space, where=NAME)


def stated_for(path: Path) -> tuple[Stated, Path | None]:
    """What is said of a file or folder, and where: ``<file>.cells.json``, else ``cells.json`` of the folder."""
    own = path.with_name(f"{path.name}.{NAME}")
    candidates = [own, path / NAME if path.is_dir() else path.parent / NAME, path.parent / NAME]
    for candidate in candidates:
        if candidate.is_file() and (candidate.parent == path or not _is_plain_folder(path)):
            return read_stated(candidate), candidate
    return Stated(), None


def read_stated(path: Path) -> Stated:
    """Parse and check a ``cells.json``.

    Raises
    ------
    Refused
        Listing each unknown key or wrong value with its path.
    """
    stated = sidecar.read(path, Stated, what="cells", limit_bytes=LIMIT_BYTES)
    check(stated, where=path.name)
    return stated


def check(stated: Stated, *, where: str = NAME) -> None:
    """Refuse statements that do not fit each other."""
    if (stated.pixel_um is not None) != (stated.unit == "px"):
        raise Refused(
            f'{where}: "pixel_um" and unit "px" belong together.', found="one without the other.", do="give both."
        )
    if (stated.x is None) != (stated.y is None):
        raise Refused(f'{where} should name both "x" and "y".', found="one of them.")
    ids = [entry.id for entry in stated.sections or []]
    if len(set(ids)) < len(ids):
        raise Refused(f"{where} should list each section once.", found=f"{next(i for i in ids if ids.count(i) > 1)}.")
    space = stated.named_space()
    placed = [entry for entry in stated.sections or [] if entry.to_mm is not None]
    if (placed or stated.xyz is not None) and space is None:
        raise Refused(f'{where}: "to_mm" and "xyz" need a space.', found="none.", do='name it: "space": "ccf_v3".')
    if placed and stated.xyz is not None:
        raise Refused(f'{where} should place cells once: "to_mm" or "xyz".', found="both.")
    for entry in placed:
        sidecar.check_transform(np.array(entry.to_mm, np.float64), where=entry.id)


def inside(folder: Path, name: str) -> Path:
    """File that lies in a folder; names that lead out of it are refused."""
    path = sidecar.inside(folder, name)
    if not path.exists():
        raise Refused(f"{name} should lie in {folder.name}.", found="no such file.")
    return path


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and path.suffix != ".zarr"
