"""Where neurons lie: columns of a file become places in a plane and in a space, or a grid where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.neurons.readers.raw import Raw
from brodmann.neurons.readers.sidecar import NAME, Stated
from brodmann.space import Space, unregistered

GRID_UM = 20.0
"""Distance of neighbours on the grid of neurons whose places are not known."""
_XYZ = ("x_mm", "y_mm", "z_mm")
_OWN = ("id", "subject", "section", "x_um", "y_um", *_XYZ)


def placed(raw: Raw, stated: Stated, *, registered: bool) -> tuple[pd.DataFrame, NDArray[np.int64], list[str], bool]:
    """Table of one recording's neurons, as `Source.neurons` wants it.

    Parameters
    ----------
    raw : Raw
    stated : Stated
    registered : bool
        Whether a space was named.

    Returns
    -------
    table : DataFrame
        Ordered by section.
    order : (n,) int64
        Which column of the responses each row is; neurons without a place are left out where others have one.
    remarks : list of str
    known : bool
        Whether places are known.

    Raises
    ------
    Refused
        Names that occur twice; a named space without coordinates in it.
    """
    table = raw.neurons.reset_index(drop=True)
    units = np.array([str(unit) for unit in table["unit"]], object)
    twins = units[pd.Series(units).duplicated().to_numpy()]
    if len(twins):
        raise Refused(
            f"neurons of {raw.file} should have names of their own.",
            found=f"{len(twins):,} names occur more than once, e.g. '{twins[0]}'.",
            cause="units of several planes numbered from 0.",
            do="put the plane in front of the unit's number.",
        )
    n, remarks = len(table), list[str]()
    side = max(math.ceil(math.sqrt(n)), 1)
    grid = np.stack([np.arange(n) % side, np.arange(n) // side], 1).astype(np.float64) * GRID_UM
    xy = _numbers(table, ("x_um", "y_um"))
    keep = np.ones(n, np.bool_) if xy is None else _finite(xy)
    known = xy is not None and bool(keep.any())
    if xy is None or not known:
        xy, keep = grid, np.ones(n, np.bool_)
        remarks.append(f"places of {n:,} neurons are not known: they lie on a grid")
    elif not keep.all():
        some = ", ".join(units[~keep][:3])
        remarks.append(f"{int((~keep).sum()):,} of {n:,} neurons have no place and are left out ({some})")
    depth = _numbers(table, ("z_um",))
    flat = np.zeros(n) if depth is None else np.nan_to_num(depth[:, 0])
    xyz = np.column_stack([xy / 1000, flat / 1000])
    if registered:
        xyz, inside = _registered(raw, stated, table, xy, known=known)
        if not (inside | ~keep).all():
            remarks.append(f"{int((~inside & keep).sum()):,} of {n:,} neurons have no place in the space: left out")
        keep &= inside
    planes = [str(plane) for plane in table["plane"]] if "plane" in table else None
    out = pd.DataFrame(
        {
            "id": [f"{raw.id}/{unit}" for unit in units],
            "subject": raw.subject,
            "section": raw.id if planes is None else [f"{raw.id}/{plane}" for plane in planes],
            "x_um": xy[:, 0],
            "y_um": xy[:, 1],
            **dict(zip(_XYZ, xyz.T, strict=True)),
        }
    )
    for name in table.columns:
        if name not in _OWN:
            out[str(name)] = table[name]
    order = np.argsort(out["section"].to_numpy(str), kind="stable")
    order = order[keep[order]].astype(np.int64)
    return out.iloc[order].reset_index(drop=True), order, remarks, known or registered


def whole(
    tables: Sequence[pd.DataFrame], stated: Stated, *, known: bool, name: str
) -> tuple[pd.DataFrame, Space, Literal["um", "arbitrary"]]:
    """One table of all recordings, the space of its coordinates, and what is known about their scale.

    Raises
    ------
    Refused
        Coordinates that cannot be mm of the space.
    """
    table = pd.concat(tables, ignore_index=True)
    for column in table.columns:
        # text in one recording and numbers in another are text
        if table[column].dtype == object:
            text = table[column].astype(object)
            table[column] = text.where(text.isna(), text.map(str)).where(text.notna(), None)
    xyz = table[list(_XYZ)].to_numpy(np.float64)
    space = stated.named_space()
    if space is None:
        span = np.ptp(xyz, axis=0)
        space = unregistered(float(span[0]), float(span[1]))
    space.check(xyz, what=f"neurons of {name}")
    return table, space, "um" if known else "arbitrary"


def _registered(
    raw: Raw, stated: Stated, table: pd.DataFrame, xy: NDArray[np.float64], *, known: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    entry = stated.entry(raw.file)
    xyz = _numbers(table, _XYZ)
    if entry is not None and entry.to_mm is not None:
        if not known:
            raise Refused(f"neurons of {raw.file} should have x_um and y_um, which to_mm maps.", found="none.")
        flat = np.column_stack([xy, np.ones(len(xy))])
        placed = flat @ np.array(entry.to_mm, np.float64).T
        return np.nan_to_num(placed), _finite(placed)
    if xyz is None:
        raise Refused(
            f"neurons of {raw.file} should have places in the space that {NAME} names.",
            found="neither columns x_mm, y_mm, z_mm nor to_mm.",
            do='give "to_mm" for the recording, or leave "space" out.',
        )
    return np.nan_to_num(xyz), _finite(xyz)


def _finite(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows without NaN."""
    return np.asarray(np.isfinite(rows).all(axis=1), np.bool_)


def _numbers(table: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64] | None:
    """Columns (n, c) as numbers, NaN and infinity as NaN; None if one is absent."""
    if any(name not in table for name in names):
        return None
    values = [cast("pd.Series", pd.to_numeric(table[name], errors="coerce")) for name in names]
    numbers = np.column_stack([one.to_numpy(np.float64, na_value=np.nan) for one in values])
    return np.where(np.isfinite(numbers), numbers, np.nan)
