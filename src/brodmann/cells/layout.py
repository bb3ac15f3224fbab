"""Which columns mean what, and where every cell lies: sections, animals, coordinates, space."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.cells import spacing
from brodmann.cells.columns import MISSING, is_number
from brodmann.cells.readers.part import Part
from brodmann.cells.readers.sidecar import Stated
from brodmann.errors import Refused
from brodmann.space import CCF_V3, Space, unregistered

SECTION = ("brain_section_label", "section", "section_id", "section_label", "slice", "slice_id", "brain_section",
           "tissue_section", "bregma", "library_id")  # fmt: skip
SUBJECT = ("subject", "subject_id", "donor_label", "donor", "donor_id", "mouse", "mouse_id", "animal", "animal_id",
           "brain", "sample", "sample_id")  # fmt: skip
TYPE = ("cell_type", "celltype", "cell_type_name", "subclass", "subclass_name", "subclass_label", "class",
        "class_name", "class_label", "cell_class", "subtype_symbol", "maintype_symbol", "supertype", "clustername",
        "type")  # fmt: skip
VOLUME = ("volume_um3", "volume", "cell_volume")
PAIRS = (("x_um", "y_um"), ("x_mm", "y_mm"), ("x", "y"), ("center_x", "center_y"), ("centroid_x", "centroid_y"),
         ("x_centroid", "y_centroid"), ("x_section", "y_section"), ("x_slide_mm", "y_slide_mm"),
         ("centerx_global_px", "centery_global_px"), ("x_px", "y_px"), ("x_coord", "y_coord"))  # fmt: skip
CCF = ("x_ccf", "y_ccf", "z_ccf")
"""Columns of the ABC Atlas: mm, x to posterior, y to inferior, z to the right, from the front upper left corner."""
MOST_LEFT_OUT = 0.01
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")


@dataclass
class Laid:
    """One section of one file."""

    id: str
    subject: str
    part: int
    rows: NDArray[np.int64]
    place: Callable[[NDArray[np.float64]], NDArray[np.float64] | None]


@dataclass
class Layout:
    """Every cell's place.

    Parameters
    ----------
    sections : list of Laid
        In the order in which they are written.
    xy_um : list of ndarray (n, 2) float64
        Per file.
    used : set of str
        Columns that say where a cell is, and are no labels.
    """

    space: Space
    unit: Literal["um", "arbitrary"]
    sections: list[Laid]
    xy_um: list[NDArray[np.float64]]
    types: str | None
    volume: str | None
    used: set[str]
    skipped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    remarks: list[str] = field(default_factory=list[str])


def lay(parts: list[Part], stated: Stated, *, name: str) -> Layout:
    """Find coordinates, sections and animals of all files.

    Raises
    ------
    Refused
        No coordinates; more than 1 % of the rows without one; a section in two files; no place in the stated space.
    """
    remarks: list[str] = []
    used: set[str] = set()
    skipped: list[tuple[str, str]] = []
    places = [_coordinates(part, stated, used, remarks) for part in parts]
    hints = {hint for _, hint in places}
    if len(hints) > 1:
        raise Refused(f"files of {name} should have coordinates of one kind.", found=", ".join(map(str, hints)))
    xyz, space = _in_space(parts, stated, used)
    groups = [
        _sections(part, xy, place, stated, used, remarks)
        for part, (xy, _), place in zip(parts, places, xyz, strict=True)
    ]
    if not any(map(_subject_column, parts, [stated] * len(parts))) and stated.subject != "file":
        entries = [entry.subject for entry in stated.sections or []]
        if not any(entries):
            remarks.append(
                f"no column names the animal: all cells count as one, '{_whole(parts, name)}'; "
                'declare "subject" in cells.json'
            )
    owners: dict[str, set[str]] = {}
    homes: dict[str, set[int]] = {}
    for number, group in enumerate(groups):
        for section, subject in group:
            owners.setdefault(section, set()).add(subject or _whole(parts, name))
            homes.setdefault(section, set()).add(number)
    sections: list[Laid] = []
    listed = {entry.id for entry in stated.sections or [] if entry.to_mm is not None}
    for number, group in enumerate(groups):
        for (section, subject), rows in group.items():
            id = section
            if len(owners[section]) > 1:
                id = f"{subject or _whole(parts, name)}/{section}"
            elif len(homes[section]) > 1 and subject is None:
                id = f"{parts[number].stem}/{section}"
            elif len(homes[section]) > 1:
                files = ", ".join(parts[at].name for at in sorted(homes[section]))
                raise Refused(
                    f"section {section} of {subject} should lie in one file.",
                    found=files,
                    cause="the same cells twice, or sections of different animals under one name.",
                    do='declare "section" and "subject" columns that tell them apart.',
                )
            if listed and section not in listed:
                skipped.append((id, f"no to_mm in cells.json, so no place in space '{space.name if space else ''}'"))
                continue
            entry = stated.entry(section)
            place = _placed(xyz[number], rows, None if entry is None else entry.to_mm)
            sections.append(Laid(id, subject or _whole(parts, name), number, rows, place))
    known = {section for group in groups for section, _ in group}
    skipped.extend((entry.id, "no cells") for entry in stated.sections or [] if entry.id not in known)
    if not sections:
        reasons = "; ".join(f"{who}: {why}" for who, why in skipped[:5])
        raise Refused(f"{name} should hold cells with a place.", found=reasons or "none.")
    sections.sort(key=lambda section: (section.subject, section.id))
    factor, unit, said = spacing.to_um([places[s.part][0][s.rows] for s in sections], stated, places[0][1], where=name)
    xy_um = [xy * factor for xy, _ in places]
    if space is None:
        spans = [np.ptp(xy_um[s.part][s.rows], axis=0) / 1000 for s in sections]
        low = np.min([xy_um[s.part][s.rows].min(0) for s in sections], axis=0)
        high = np.max([xy_um[s.part][s.rows].max(0) for s in sections], axis=0)
        # sections keep their own coordinates; where these begin far apart, the space must span them all
        width, height = np.maximum(np.max(spans, axis=0), (high - low) / 1000)
        space = unregistered(float(width), float(height))
    elif unit == "arbitrary":
        raise Refused(
            f"cells of {name} should be in a known unit to be placed in space '{space.name}'.",
            found="coordinates in an unknown unit.",
            do='declare "unit" in cells.json.',
        )
    types = _named(parts, stated.type, TYPE, "type")
    if types is not None and stated.type is None:
        remarks.append(f"cell types are those of column '{types}'")
    volume = _named(parts, stated.volume, VOLUME, "volume")
    notes = [note for part in parts for note in part.notes]
    return Layout(space, unit, sections, xy_um, types, volume, used, skipped, [*said, *notes, *remarks])


def genes(var: pd.DataFrame, stated: Stated, part: Part) -> list[str]:
    """Names of the columns: the declared column, the index, or symbols beside an index of Ensembl ids."""
    index = list(map(str, var.index))
    if stated.gene_column is not None and stated.gene_column in var:
        return list(map(str, var[stated.gene_column]))
    if stated.gene_column is not None and stated.gene_column != var.index.name and not part.name.endswith(".loom"):
        raise Refused(f"genes of {part.name} should have column '{stated.gene_column}'.", found=_some(var.columns))
    symbols = next((name for name in ("gene_symbol", "gene_name", "gene_symbols", "SYMBOL") if name in var), None)
    if symbols is not None and sum(map(bool, map(_ENSEMBL.match, index))) > 0.5 * len(index):
        named = list(map(str, var[symbols]))
        twice = set(cast("Any", pd.Series(named))[pd.Series(named).duplicated(keep=False)])
        part.notes.append(f"{part.name}: genes go by column '{symbols}' instead of Ensembl ids")
        return [old if name in twice or name in MISSING else name for old, name in zip(index, named, strict=True)]
    return index


def controls(var: pd.DataFrame) -> list[bool] | None:
    """Columns that the file itself declares not to be genes (10x: ``feature_types``)."""
    column = next((name for name in ("feature_types", "feature_type") if name in var), None)
    if column is None:
        return None
    kinds = [str(value).lower().replace("_", " ") for value in var[column]]
    return [kind not in {"gene expression", "gene", *MISSING} for kind in kinds] if "gene expression" in kinds else None


def _whole(parts: list[Part], name: str) -> str:
    return parts[0].stem if len(parts) == 1 else name


def _find(columns: Iterable[Any], known: Iterable[str]) -> str | None:
    """First known name among the columns; case does not count."""
    lower = {str(name).lower(): str(name) for name in columns}
    return next((lower[name] for name in known if name in lower), None)


def _require(part: Part, name: str, what: str) -> str:
    if name not in part.columns:
        raise Refused(
            f"{part.name} should have column '{name}' ({what} in cells.json).",
            found=_some(part.columns),
        )
    return name


def _named(parts: list[Part], asked: str | None, known: Iterable[str], what: str) -> str | None:
    if asked is not None:
        if not any(asked in part.columns for part in parts):
            _require(parts[0], asked, what)
        return asked
    found = (_find(part.columns, known) for part in parts)
    return next((name for name in found if name is not None), None)


def _subject_column(part: Part, stated: Stated) -> str | None:
    if stated.subject == "file" and "file" not in part.columns:
        return None
    return _require(part, stated.subject, "subject") if stated.subject else _find(part.columns, SUBJECT)


def _coordinates(
    part: Part, stated: Stated, used: set[str], remarks: list[str]
) -> tuple[NDArray[np.float64], spacing.Unit | None]:
    """Coordinates (n, 2) as they stand, and the unit that their name tells."""
    if stated.coordinates is not None:
        if stated.coordinates not in part.arrays:
            raise Refused(
                f"{part.name} should have obsm['{stated.coordinates}'].", found=_some(part.arrays) or "no such arrays."
            )
        return part.arrays[stated.coordinates][:, :2], part.hint
    if stated.x is not None and stated.y is not None:
        pair = _require(part, stated.x, "x"), _require(part, stated.y, "y")
    elif part.arrays:
        key, array = next(iter(part.arrays.items()))
        if len(part.arrays) > 1 and key != "spatial":
            remarks.append(f"{part.name}: coordinates are those of '{key}'; others: {_some(list(part.arrays)[1:])}")
        if array.shape[1] > 2 and len(array) and np.ptp(np.nan_to_num(array[:, 2])) > 0:
            remarks.append(f"{part.name}: the third coordinate of '{key}' is not used; a section is a plane")
        return array[:, :2], part.hint or _unit_in(key)
    else:
        lower = {str(name).lower(): str(name) for name in part.columns}
        pair = next(((lower[x], lower[y]) for x, y in PAIRS if x in lower and y in lower), None)
    if pair is None:
        raise Refused(
            f"{part.name} should hold coordinates of cells.",
            found=f"columns {_some(part.columns)}." if len(part.columns.columns) else "no columns.",
            do='put them into obsm["spatial"], or name the columns in cells.json: "x", "y".',
        )
    used.update(pair)
    numbers = [pd.to_numeric(cast("Any", part.columns[name]).astype(object), errors="coerce") for name in pair]
    xy = np.column_stack([np.asarray(values, np.float64) for values in numbers])
    return xy, part.hint or _unit_in(pair[0])


def _unit_in(name: str) -> spacing.Unit | None:
    found = re.search(r"_(um|mm|px)$", name.lower())
    return cast("spacing.Unit", found[1]) if found else None


def _in_space(
    parts: list[Part], stated: Stated, used: set[str]
) -> tuple[list[NDArray[np.float64] | None], Space | None]:
    """Coordinates in the stated space or in the atlas that the files name, and the space."""
    space = stated.named_space()
    columns = stated.xyz
    if columns is not None:
        used.update(columns)
        return [_columns(part, [_require(part, name, "xyz") for name in columns]) for part in parts], space
    if any(entry.to_mm is not None for entry in stated.sections or []):
        return [None] * len(parts), space
    found = all(all(name in part.columns for name in CCF) for part in parts)
    if stated.space == "unregistered" or (space is None and not found):
        return [None] * len(parts), None
    if not found or (space is not None and space != CCF_V3):
        raise Refused(
            f"cells should be placed in space '{space.name if space else ''}'.",
            found='neither "to_mm" of sections nor "xyz".',
            do='add one of them to cells.json, or set "space": "unregistered".',
        )
    used.update(CCF)
    # Allen volumes count from the front upper left corner, `CCF_V3` from the left rear lower one
    across, front, up = CCF_V3.extent_mm
    own = [_columns(part, CCF) for part in parts]
    return [np.column_stack([at[:, 2], front - at[:, 0], up - at[:, 1]]) for at in own if across], CCF_V3


def _columns(part: Part, names: Iterable[str]) -> NDArray[np.float64]:
    return np.column_stack([part.columns[name].to_numpy(np.float64, na_value=np.nan) for name in names])


def _placed(xyz: NDArray[np.float64] | None, rows: NDArray[np.int64], to_mm: Any) -> Any:
    if to_mm is not None:
        matrix = np.array(to_mm, np.float64)
        return lambda xy: xy @ matrix[:, :2].T + matrix[:, 2]
    return lambda _: None if xyz is None else xyz[rows]


def _sections(
    part: Part,
    xy: NDArray[np.float64],
    xyz: NDArray[np.float64] | None,
    stated: Stated,
    used: set[str],
    remarks: list[str],
) -> dict[tuple[str, str | None], NDArray[np.int64]]:
    """Rows of each (section, animal) of a file, in the file's order; None: the animal is not told."""
    n = len(part)
    keep = np.ones(n, bool) if part.keep is None else part.keep.copy()
    asked = max(int(keep.sum()), 1)
    section = _require(part, stated.section, "section") if stated.section else _find(part.columns, SECTION)
    subject = _subject_column(part, stated)
    used.update(name for name in (section, subject) if name is not None)
    labels = [_codes(part, name) for name in (section, subject)]
    lacking = {"coordinates": ~np.isfinite(xy).all(1)}
    lacking |= {f"'{name}'": codes < 0 for name, (codes, _) in zip((section, subject), labels, strict=True) if name}
    for what, bad in lacking.items():
        count = int((bad & keep).sum())
        if count > MOST_LEFT_OUT * asked:
            raise Refused(
                f"at most {MOST_LEFT_OUT:.0%} of the cells of {part.name} should lack {what}.",
                found=f"{count:,} of {asked:,}, the first is '{part.ids[np.argmax(bad & keep)].decode()}'.",
                do="leave these cells out of the file, or name another column in cells.json.",
            )
        if count:
            remarks.append(f"{part.name}: {count:,} cells without {what} are left out")
        keep &= ~bad
    if xyz is not None:
        away = keep & ~np.isfinite(xyz).all(1)
        if away.any():
            remarks.append(
                f"{part.name}: {int(away.sum()):,} of {asked:,} cells have no place in the atlas and are left out; "
                '"space": "unregistered" keeps them'
            )
        keep &= ~away
    (sections, names), (subjects, animals) = labels
    pair = np.where(keep, sections * np.int64(len(animals)) + subjects, -1)
    order = np.argsort(pair, kind="stable")
    found, starts = np.unique(pair[order], return_index=True)
    groups: dict[tuple[str, str | None], NDArray[np.int64]] = {}
    # splitting nothing would still give one piece
    for code, rows in zip(found.tolist(), np.split(order, starts[1:]) if n else [], strict=True):
        if code < 0:
            continue
        name, animal = names[code // len(animals)] or part.stem, animals[code % len(animals)]
        entry = stated.entry(name)
        if entry is not None and entry.subject is not None:
            animal = entry.subject
        elif animal is None and stated.subject == "file":
            animal = part.stem
        known = groups.get((name, animal))
        groups[name, animal] = rows if known is None else np.sort(np.concatenate([known, rows]))
    if not groups:
        remarks.append(f"{part.name}: no cells")
    return groups


def _codes(part: Part, name: str | None) -> tuple[NDArray[np.int64], list[str | None]]:
    """A column as codes and names; without a column one code for all."""
    if name is None:
        return np.zeros(len(part), np.int64), [None]
    column: Any = part.columns[name]
    if is_number(column):
        column = column.astype(object).where(column.notna(), None).map(_number, na_action="ignore")
    held = column.astype("category").cat
    codes = np.asarray(held.codes, np.int64)
    names = [str(value) for value in held.categories]
    unknown = [at for at, value in enumerate(names) if value in MISSING]
    return np.where(np.isin(codes, unknown), -1, codes), cast("list[str | None]", names) or [None]


def _number(value: Any) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def _some(names: Iterable[Any], limit: int = 12) -> str:
    listed = list(map(str, names))
    return ", ".join(listed[:limit]) + (" ..." if len(listed) > limit else "")
