"""Sidecars: small JSON files of the user's that say what data files do not, such as their place in a space."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

import numpy as np
import pydantic
from numpy.typing import NDArray

from brodmann.errors import Corrupt, Refused
from brodmann.settings import problems, settings
from brodmann.space import Space
from brodmann.spaces import SPACES

LIMIT_BYTES = 200_000_000
Row = tuple[float, float, float]
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
T = TypeVar("T")


@settings
class NamedSpace:
    """A space of the user's own."""

    name: str
    orientation: Annotated[str, pydantic.Field(pattern="^[a-z]{3}$")]
    extent_mm: tuple[Positive, Positive, Positive]
    origin: str


def named_space(stated: str | NamedSpace | None, *, where: str) -> Space | None:
    """Space in which sections are placed; None when they are not registered.

    Parameters
    ----------
    stated : str, NamedSpace or None
        Name of a known space, a description of another, or "unregistered".
    where : str
        The sidecar, for messages.

    Raises
    ------
    Refused
        Unknown name, or a known name with another meaning.
    """
    if stated is None or stated == "unregistered":
        return None
    if isinstance(stated, str):
        if stated not in SPACES:
            raise Refused(
                f"{where} should name a known space.",
                found=f"'{stated}'.",
                do=f"known: {', '.join(sorted(SPACES))}, unregistered; or describe your own with name, "
                "orientation, extent_mm and origin.",
            )
        return SPACES[stated]
    space = Space(name=stated.name, orientation=stated.orientation, extent_mm=stated.extent_mm, origin=stated.origin)
    if SPACES.get(space.name, space) != space:
        raise Refused(
            f"space '{space.name}' has a fixed meaning.", found=f"another one in {where}.", do="use another name."
        )
    return space


def strict_json(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> Any:
    """Parse JSON; NaN, infinity, huge files and damage are refused by name."""
    if path.stat().st_size > limit_bytes:
        raise Refused(f"{path.name} should be a small JSON file.", found=f"{path.stat().st_size:,} bytes.")

    def refuse(constant: str) -> Any:
        raise Refused(f"{path.name} should hold finite numbers.", found=constant)

    try:
        return json.loads(path.read_text("utf-8"), parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{path.name} should be JSON.", found=str(error), cause="a file cut short or edited.") from error


def read(path: Path, kind: type[T], *, what: str, limit_bytes: int = LIMIT_BYTES) -> T:
    """Parse a sidecar into its settings class.

    Parameters
    ----------
    path : Path
    kind : type
        Made by `brodmann.settings.settings`.
    what : str
        What it describes, for messages.
    limit_bytes : int
        Larger files are refused.

    Raises
    ------
    Refused
        Listing each unknown key or wrong value with its path.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(strict_json(path, limit_bytes=limit_bytes))
    except pydantic.ValidationError as error:
        raise Refused(f"{path.name} should describe {what}.", found=" ".join(problems(error, kind)[:8])) from error


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
    """Refuse a (3, 3) map that cannot be um -> mm of a section: wrong unit, mirrored beyond use, collapsed.

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
            cause="a map to um instead of mm." if 500 < worst < 2000 else "a map from mm, from pixels, or to voxels.",
            do="write to_mm as mm per um.",
        )
    cosine = abs(float(to_mm[:, 0] @ to_mm[:, 1])) / float(np.prod(lengths / 1000))
    if cosine > 0.5:
        raise Refused(
            f"to_mm of {where} should keep x and y about square to each other.",
            found=f"an angle of {np.degrees(np.arccos(min(cosine, 1.0))):.0f} degrees.",
            cause="rows and columns of the matrix swapped: each of the three rows gives one axis of the space.",
        )
