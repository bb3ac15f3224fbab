"""``sections.json``: what image files do not know (pixel size, brain, place, points), in one strict file.

::

    {"space": "ccf_v3",
     "pixel_um": 2.0,
     "sections": [{"file": "a.tif", "id": "B1_s001", "subject": "B1",
                   "to_mm": [[0.001, 0, 1.2], [0, 0, 4.0], [0, -0.001, 7.5]], "points": "a_points.csv"}]}

``to_mm`` maps ``(x_um, y_um, 1)``, right and down from the image's top left corner, to mm in ``space``.
Keys beside ``sections`` are defaults for every section.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import pandas as pd
import pydantic
from numpy.typing import NDArray

from brodmann import sidecar
from brodmann.errors import Refused
from brodmann.settings import settings
from brodmann.sidecar import NamedSpace, Positive, Row, named_space
from brodmann.space import Space


@settings
class Entry:
    """One section."""

    file: str
    id: str | None = None
    subject: str | None = None
    pixel_um: Positive | None = None
    dark_stain: bool | None = None
    to_mm: tuple[Row, Row, Row] | None = None
    points: str | None = None
    """Table of places to sample."""
    mask: str | None = None
    """Labels of cortex and white matter of the whole section: places are taken along the middle of cortex, upright."""
    layers: str | None = None
    """Label image of cortical layers of the whole section, at any pixel size: what layer segmentation learns from."""
    channel: Annotated[int, pydantic.Field(ge=0)] | None = None
    """Which channel of a multi-channel image."""
    range: tuple[float, float] | None = None
    """Values that become 0 and 255, for 16-bit and floating point images."""
    absent_value: Annotated[int, pydantic.Field(ge=0, le=255)] | None = None
    """Grey value of tiles that the writer left out on purpose; without it a missing tile is an error."""
    axis: Literal["x", "y", "z"] | None = None
    """Along which axis of a volume sections are thin; needed when its size there is not 1."""
    slice: Annotated[int, pydantic.Field(ge=0)] | None = None
    """Which slice of a volume along ``axis``, from 0; a volume may be listed once for each."""
    sha256: str | None = None
    """Hash of the file, verified at opening: the only protection for JPEG tiles, which carry no checksum."""


@settings
class Stated:
    """Content of a ``sections.json``."""

    space: str | NamedSpace | None = None
    anchoring: str | None = None
    """QuickNII series in the same folder; found by itself when there is exactly one."""
    subject: str | None = None
    pixel_um: Positive | None = None
    dark_stain: bool | None = None
    channel: Annotated[int, pydantic.Field(ge=0)] | None = None
    range: tuple[float, float] | None = None
    absent_value: Annotated[int, pydantic.Field(ge=0, le=255)] | None = None
    axis: Literal["x", "y", "z"] | None = None
    cortex_labels: tuple[int, ...] = (1,)
    """Labels of cortex in every ``mask``, such as those of its layers."""
    white_labels: tuple[int, ...] = (2,)
    """Labels of white matter."""
    layer_labels: dict[str, tuple[int, ...]] | None = None
    """Which values of every ``layers`` image are which layer, from the pia down; see `layermap.coded`."""
    sections: list[Entry] | None = None

    def of(
        self,
        entry: Entry,
        key: Literal["subject", "pixel_um", "dark_stain", "channel", "range", "absent_value", "axis"],
    ) -> Any:
        """Value of a section, or the default of the file."""
        own = getattr(entry, key)
        return getattr(self, key) if own is None else own

    def named_space(self) -> Space | None:
        """Name the space in which sections are placed; None when they are not registered.

        Raises
        ------
        Refused
            Unknown name, or a known name with another meaning.
        """
        return named_space(self.space, where="sections.json")


def read_stated(path: Path) -> Stated:
    """Parse and check a ``sections.json``.

    Raises
    ------
    Refused
        Listing each unknown key or wrong value with its path.
    """
    stated = sidecar.read(path, Stated, what="sections")
    files = [(entry.file, entry.slice) for entry in stated.sections or []]
    if len(set(files)) < len(files):
        twice = sorted({file for file, number in files if files.count((file, number)) > 1})
        raise Refused(f"{path.name} should list each file once.", found=f"twice: {', '.join(twice[:5])}.")
    return stated


def read_points(path: Path, *, pixel_um: float, width_um: float, height_um: float) -> pd.DataFrame:
    """Sample points of a section: ``x_um, y_um`` (or ``x_px, y_px`` of level 0), optional columns, labels.

    Raises
    ------
    Refused
        No coordinates, not finite, or more than 1 % outside the image.
    """
    if not path.is_file():
        raise Refused(f"points file {path.name} should exist.", found="no such file.")
    try:
        table: Any = cast("Any", pd).read_csv(path)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path.name} should be a CSV table.", found=str(error)) from error
    for axis in "xy":
        if f"{axis}_um" not in table:
            if f"{axis}_px" not in table:
                raise Refused(
                    f"{path.name} should have columns x_um and y_um, or x_px and y_px.",
                    found=", ".join(map(str, table.columns[:12])),
                )
            table[f"{axis}_um"] = _numbers(table[f"{axis}_px"]) * pixel_um
    numbers = [name for name in ("x_um", "y_um", "angle_deg", "u_mm", "v_mm") if name in table]
    for name in numbers:
        table[name] = _numbers(table[name])
        if not np.isfinite(table[name].to_numpy()).all():
            bad = int((~np.isfinite(table[name].to_numpy())).sum())
            raise Refused(f"{path.name}: column {name} should hold finite numbers.", found=f"{bad} rows do not.")
    x, y = table["x_um"].to_numpy(), table["y_um"].to_numpy()
    outside = (x < 0) | (y < 0) | (x > width_um) | (y > height_um)
    if len(table) and outside.mean() > 0.01:
        swapped = ((y < 0) | (x < 0) | (y > width_um) | (x > height_um)).mean() <= 0.01
        raise Refused(
            f"points of {path.name} should lie inside the image ({width_um:,.0f} x {height_um:,.0f} um).",
            found=f"{int(outside.sum())} of {len(table)} do not; x spans {x.min():,.1f} to {x.max():,.1f}.",
            cause="x and y swapped." if swapped else "pixels given as um, mm given as um, or another image.",
        )
    others = [name for name in table.columns if name not in {*numbers, "x_px", "y_px"}]
    return table[[*numbers, *others]]


def _numbers(column: Any) -> NDArray[np.float64]:
    """Column as float64; what is not a number becomes NaN."""
    values: Any = pd.to_numeric(column, errors="coerce")
    return cast("NDArray[np.float64]", values.to_numpy(np.float64))
