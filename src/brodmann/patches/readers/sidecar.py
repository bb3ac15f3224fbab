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

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, cast

import numpy as np
import pandas as pd
import pydantic
from numpy.typing import NDArray

from brodmann.errors import Corrupt, Refused
from brodmann.settings import settings
from brodmann.space import SPACES, Space

LIMIT_BYTES = 200_000_000
Row = tuple[float, float, float]
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]


@settings
class NamedSpace:
    """A space of the user's own."""

    name: str
    orientation: Annotated[str, pydantic.Field(pattern="^[a-z]{3}$")]
    extent_mm: tuple[Positive, Positive, Positive]
    origin: str


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
    channel: Annotated[int, pydantic.Field(ge=0)] | None = None
    """Which channel of a multi-channel image."""
    range: tuple[float, float] | None = None
    """Values that become 0 and 255, for 16-bit and floating point images."""
    absent_value: Annotated[int, pydantic.Field(ge=0, le=255)] | None = None
    """Grey value of tiles that the writer left out on purpose; without it a missing tile is an error."""
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
    sections: list[Entry] | None = None

    def of(
        self, entry: Entry, key: Literal["subject", "pixel_um", "dark_stain", "channel", "range", "absent_value"]
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
        if self.space is None or self.space == "unregistered":
            return None
        if isinstance(self.space, str):
            if self.space not in SPACES:
                raise Refused(
                    "sections.json should name a known space.",
                    found=f"'{self.space}'.",
                    do=f"known: {', '.join(sorted(SPACES))}, unregistered; or describe your own with name, "
                    "orientation, extent_mm and origin.",
                )
            return SPACES[self.space]
        own = self.space
        space = Space(name=own.name, orientation=own.orientation, extent_mm=own.extent_mm, origin=own.origin)
        if SPACES.get(own.name, space) != space:
            raise Refused(
                f"space '{own.name}' has a fixed meaning.",
                found="another one in sections.json.",
                do="use another name.",
            )
        return space


def strict_json(path: Path) -> Any:
    """Parse JSON; NaN, infinity, huge files and damage are refused by name."""
    if path.stat().st_size > LIMIT_BYTES:
        raise Refused(f"{path.name} should be a small JSON file.", found=f"{path.stat().st_size:,} bytes.")

    def refuse(constant: str) -> Any:
        raise Refused(f"{path.name} should hold finite numbers.", found=constant)

    try:
        return json.loads(path.read_text("utf-8"), parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{path.name} should be JSON.", found=str(error), cause="a file cut short or edited.") from error


def read_stated(path: Path) -> Stated:
    """Parse and check a ``sections.json``.

    Raises
    ------
    Refused
        Listing each unknown key or wrong value with its path.
    """
    try:
        stated = pydantic.TypeAdapter(Stated).validate_python(strict_json(path))
    except pydantic.ValidationError as error:
        known = "NamedSpace"
        lines = [
            f"{'.'.join(str(part) for part in item['loc'] if part != known)}: {item['msg']}" for item in error.errors()
        ]
        raise Refused(f"{path.name} should describe sections.", found="; ".join(lines[:8])) from error
    files = [entry.file for entry in stated.sections or []]
    if len(set(files)) < len(files):
        twice = sorted({file for file in files if files.count(file) > 1})
        raise Refused(f"{path.name} should list each file once.", found=f"twice: {', '.join(twice[:5])}.")
    return stated


def inside(folder: Path, name: str) -> Path:
    """File of a folder; names that lead out of it are refused."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise Refused(
            f"file names should stay inside {folder.name}.", found=repr(name), do="use a plain relative name."
        )
    path = folder.joinpath(*pure.parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise Refused(f"{name} should lie inside {folder.name}.", found="a link that leads out of it.")
    return path


def check_transform(to_mm: NDArray[np.float64], *, where: str) -> None:
    """Refuse a map that cannot be um -> mm of a section: wrong unit, mirrored beyond use, collapsed.

    Registration shrinks or stretches by less than a factor of two; wrong units are off by far more.
    """
    if not np.isfinite(to_mm).all():
        raise Refused(f"to_mm of {where} should be finite.", found="NaN or infinity.")
    lengths = np.linalg.norm(to_mm[:, :2], axis=0) * 1000
    worst = float(lengths[np.argmax(np.abs(np.log(lengths + 1e-300)))])
    if not 0.5 <= worst <= 2.0:
        raise Refused(
            f"to_mm of {where} should turn 1000 um into about 1 mm.",
            found=f"{worst:.4g} mm.",
            cause="a map to um instead of mm." if 500 < worst < 2000 else "a map from pixels, or to voxels.",
            do="write to_mm as mm per um.",
        )
    cosine = abs(float(to_mm[:, 0] @ to_mm[:, 1])) / float(np.prod(lengths / 1000))
    if cosine > 0.5:
        raise Refused(
            f"to_mm of {where} should keep x and y about square to each other.",
            found=f"an angle of {np.degrees(np.arccos(min(cosine, 1.0))):.0f} degrees.",
            cause="rows and columns of the matrix swapped: each of the three rows gives one axis of the space.",
        )


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
