"""Which rows are held out: folds by brain, section or block of tissue, and the proof that nothing is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann.errors import Leak, Refused, Usage
from brodmann.settings import Split

AXES = ("x_mm", "y_mm", "z_mm")


@dataclass(frozen=True)
class Fold:
    """Rows to learn from and rows to be judged on.

    Parameters
    ----------
    train, test : ndarray of int64
        Row numbers of the table, ascending.
    name : str
        What is held out, in words.
    dropped : int
        Training rows given up because they lie within the buffer of a test row.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    name: str
    dropped: int = 0


def positions(places: pd.DataFrame) -> NDArray[np.float64]:
    """Coordinates (n, 3) float64, mm."""
    return np.ascontiguousarray(places[list(AXES)].to_numpy(dtype=np.float64))


def groups(places: pd.DataFrame, split: Split) -> NDArray[np.object_]:
    """Name of the unit that is held out whole, for every row: (n,) str.

    A block is a cube of ``block_mm`` within one brain.
    """
    subject = places["subject"].astype(str).to_numpy(dtype=object)
    if split.by == "brain":
        return subject
    if split.by == "section":
        # The brain is part of the name: two brains may both call a section "s004".
        section = places["section"].astype(str).tolist()
        return np.array([f"{who}/{name}" for who, name in zip(subject, section, strict=True)], dtype=object)
    cubes = np.floor(positions(places) / split.block_mm).astype(np.int64)
    return np.array(
        [f"{who}/block {i} {j} {k}" for who, (i, j, k) in zip(subject, cubes.tolist(), strict=True)], dtype=object
    )


def folds(places: pd.DataFrame, split: Split) -> list[Fold]:
    """Divide the rows into folds; a pure function of the places and the split, proven free of leaks.

    Groups are taken in order and dealt out in turn. Sections are ordered by their position along the brain, so that
    every fold spans it; brains and blocks are ordered by name. Dealing is independent of the order of the rows.

    Parameters
    ----------
    places : DataFrame
        Columns ``subject``, ``section``, ``x_mm``, ``y_mm``, ``z_mm``; a row per sample.
    split : Split
        What is held out; ``split.fold`` picks one fold, ``split.folds = 0`` holds out each group once.

    Returns
    -------
    list of Fold
        All folds, or the one that ``split.fold`` names. Test sets are disjoint and cover every row.

    Raises
    ------
    Refused
        Fewer groups than folds, or coordinates missing.
    Usage
        ``split.fold`` does not exist.
    Leak
        A fold shares a group, or a buffered neighbourhood.
    """
    _require_columns(places)
    if split.by == "block" or split.buffer_mm > 0:
        _require_positions(places)
    group = groups(places, split)
    ordered = _order(places, group, split)
    n_folds = split.folds or len(ordered)
    if len(ordered) < max(n_folds, 2):
        finer = {"brain": "section", "section": "block"}.get(split.by)
        instead = f"split.by = '{finer}' (--by {finer} when scoring)" if finer else "a smaller split.block_mm"
        raise Refused(
            f"a split by {split.by} into {max(n_folds, 2)} folds needs at least that many {split.by}s.",
            found=f"{len(ordered)}: {', '.join(ordered) or 'none'}.",
            do=f"set split.folds to at most {len(ordered)}, or {instead}."
            if len(ordered) > 1
            else f"set {instead}, or add data.",
        )
    if split.fold is not None and not 0 <= split.fold < n_folds:
        raise Usage(f"split.fold should be between 0 and {n_folds - 1}.", found=f"{split.fold}.")
    fold_of = {name: i % n_folds for i, name in enumerate(ordered)}
    number = np.array([fold_of[name] for name in group], dtype=np.int64)
    chosen = range(n_folds) if split.fold is None else [split.fold]
    result: list[Fold] = []
    for k in chosen:
        test = np.flatnonzero(number == k)
        train = np.flatnonzero(number != k)
        near = _within_buffer(places, train, test, split.buffer_mm)
        kept = train[~near]
        held = [name for name in ordered if fold_of[name] == k]
        if not len(kept):
            raise Refused(
                f"a buffer of {split.buffer_mm} mm should leave training rows.",
                found=f"none in fold {k} ({_listing(held)} held out).",
                do="use a smaller buffer_mm or hold out larger groups.",
            )
        fold = Fold(kept, test, f"{_listing(held, split.by)} held out", int(near.sum()))
        prove(places, fold, split)
        result.append(fold)
    return result


def prove(places: pd.DataFrame, fold: Fold, split: Split) -> None:
    """Show that a fold shares no row, no group and no buffered neighbourhood.

    Raises
    ------
    Leak
        Naming the groups that are on both sides, or the closest pair within the buffer.
    """
    both = np.intersect1d(fold.train, fold.test)
    if len(both):
        raise Leak(
            "a row should be in train or in test, never in both.",
            found=f"{len(both)} rows on both sides, the first is row {int(both[0])}.",
        )
    group = groups(places, split)
    shared = sorted(set(group[fold.train].tolist()) & set(group[fold.test].tolist()))
    if shared:
        what = f"{split.by}s are" if len(shared) > 1 else f"{split.by} is"
        raise Leak(
            f"no {split.by} should be in both train and test.",
            found=f"{len(shared)} {what} in both: {_listing(shared)}.",
            cause="folds made by hand, or by another split than the one named.",
            do=f"use splits.folds(places, Split(by='{split.by}')), which keeps them apart.",
        )
    near = _within_buffer(places, fold.train, fold.test, split.buffer_mm)
    if near.any():
        raise Leak(
            f"training rows should lie more than {split.buffer_mm} mm from every test row of the same brain.",
            found=f"{int(near.sum())} that do not, the first is row {int(fold.train[near][0])}.",
            do="use splits.folds, which drops them, or a smaller buffer_mm.",
        )


def describe(split: Split, made: Sequence[Fold]) -> str:
    """Say in one phrase what was held out, e.g. ``section, 5 folds, buffer 0.5 mm (312 rows dropped)``."""
    parts = [split.by if split.by != "block" else f"block of {split.block_mm:g} mm"]
    parts.append(f"fold {split.fold}" if split.fold is not None else f"{len(made)} folds")
    if split.buffer_mm > 0 and split.by != "brain":
        parts.append(f"buffer {split.buffer_mm:g} mm ({sum(fold.dropped for fold in made)} training rows dropped)")
    return ", ".join(parts)


def _order(places: pd.DataFrame, group: NDArray[np.object_], split: Split) -> list[str]:
    """Sort groups into the order in which they are dealt to the folds."""
    names = sorted(set(group.tolist()))
    if split.by != "section":
        return names
    xyz = positions(places)
    if not np.isfinite(xyz).all():
        return names
    centre = cast("pd.DataFrame", pd.DataFrame(xyz).groupby(group).mean()).loc[names].to_numpy()
    first = dict(zip(group.tolist(), places["subject"].astype(str), strict=True))
    brain = np.array([first[name] for name in names])
    along = np.zeros(len(names))
    for who in np.unique(brain):
        mine = brain == who
        offset = centre[mine] - centre[mine].mean(axis=0)
        axis = np.linalg.svd(offset, full_matrices=False)[2][0]
        # The sign of a principal axis is arbitrary; fixing it keeps folds the same on every machine.
        axis = axis * np.sign(axis[np.abs(axis).argmax()])
        # Rounded to 1 um: sections that were never registered share one centre and fall back to their names.
        along[mine] = np.round(offset @ axis, 3)
    return [names[i] for i in sorted(range(len(names)), key=lambda i: (brain[i], along[i], names[i]))]


def _within_buffer(
    places: pd.DataFrame, train: NDArray[np.int64], test: NDArray[np.int64], buffer_mm: float
) -> NDArray[np.bool_]:
    """Mark the training rows of the same brain that lie within the buffer of a test row: (n_train,)."""
    near = np.zeros(len(train), dtype=bool)
    if buffer_mm <= 0:
        return near
    subject = places["subject"].astype(str).to_numpy()
    xyz = positions(places)
    for who in np.unique(subject[test]):
        mine = np.flatnonzero(subject[train] == who)
        if len(mine):
            tree = KDTree(xyz[test[subject[test] == who]])
            distance, _ = tree.query(xyz[train[mine]])
            near[mine] = distance <= buffer_mm
    return near


def _require_columns(places: pd.DataFrame) -> None:
    missing = [name for name in ("subject", "section", *AXES) if name not in places]
    if missing:
        raise Refused("places need subject, section and x_mm, y_mm, z_mm.", found=f"no {', '.join(missing)}.")


def _require_positions(places: pd.DataFrame) -> None:
    bad = ~np.isfinite(positions(places)).all(axis=1)
    if bad.any():
        raise Refused(
            "blocks and buffers need a finite position of every row.", found=f"{int(bad.sum())} rows without one."
        )


def _listing(names: Sequence[str], kind: str = "", limit: int = 4) -> str:
    shown = ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
    return f"{kind}{'s' if len(names) != 1 else ''} {shown}" if kind else shown
