"""Who a row is of: section and brain as classes, held out by place so that both sides of a fold know every class.

n rows of a table, K classes, m test rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree

from brodmann import splits
from brodmann.samples import stream
from brodmann.settings import Split
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _rivals as rivals
from brodmann.tasks import _rows, _surroundings
from brodmann.tasks._classes import Parts
from brodmann.tasks._probe import fit_predict

Codes = NDArray[np.int64]
Real = NDArray[np.float64]

PIECES = 4
MOST, ROWS = 40, 4000
"""Sections that are told apart, and rows that take part: drawn beyond that."""
_EACH = 5
"""Training rows, and test rows, that a class needs in every fold."""
_APART = 4.0
"""Default gap between training and test rows, in median distances to the nearest row."""


@dataclass(frozen=True, eq=False)
class Identity:
    """Classes of rows, and folds in each of which a piece of every class is held out.

    Parameters
    ----------
    codes : ndarray (n,) int64
        Class number; -1 where a row takes no part.
    classes : tuple of str
    piece : ndarray (n,) int64
        Which of the `PIECES` pieces of its class a row belongs to.
    parts : list of (train, test)
        Rows of each fold.
    near : ndarray (K, 3) int64
        Each class and the two of its brain that lie nearest; (0, 3) where that is not known.
    held : str
        What is held out, in words.
    remarks : tuple of str
        What was left out.
    """

    codes: Codes
    classes: tuple[str, ...]
    piece: Codes
    parts: Parts
    near: Codes
    held: str
    remarks: tuple[str, ...]

    @property
    def tested(self) -> Codes:
        """Test rows (m,), folds after one another."""
        return np.concatenate([test for _, test in self.parts])

    def read_out(self, x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """Probabilities (m, K) of the test rows, from features (n, d); the penalty is chosen on pieces left out."""
        return np.concatenate([
            fit_predict("linear", x[train], self.codes[train], self.piece[train], x[test], seed)[1]
            for train, test in self.parts
        ])  # fmt: skip

    def from_position(self, where: dict[str, Real], seed: int) -> dict[str, Codes]:
        """Classes (m,) of the test rows from places alone, in every form that is tried."""
        return rivals.from_position(where, self.codes, self.piece.astype(object), self.parts, len(self.classes), seed)


def of_sections(table: AnnData, buffer_mm: float, seed: int) -> Identity | str:
    """Sections: a quarter of each, cut across its long axis, is held out in turn; or why that cannot be asked."""
    obs = _rows.places(table)
    number, names = _numbered(splits.groups(obs, Split(by="section")))
    where = _surroundings.positions(table) / 1000
    if len(names) < 2:
        return "there is one section"
    if not np.isfinite(where).all():
        return "not all places in the section are known"
    piece = np.zeros(len(where), dtype=np.int64)
    for rows in _surroundings.each(number):
        piece[rows] = _ranked(_along(where[rows])) * PIECES // len(rows)
    brain, centre = _brain_of(number, _rows.brains(table)), _centres(splits.positions(obs), number)
    remarks: list[str] = []
    chosen = np.arange(len(names))
    if len(names) > MOST:
        order = np.lexsort((_within(centre, brain), brain))
        chosen = np.sort(order[np.linspace(0, len(names) - 1, MOST).round().astype(int)])
        remarks.append(f"{MOST} of {len(names):,} sections, spread over their brains, are told apart")
    gap = _gap(where, number, buffer_mm)
    found = _folded(number, names, chosen, piece, (where, gap), seed)
    if found is None:
        return f"fewer than two sections have {_EACH} rows on both sides of every fold, {gap:.2g} mm apart"
    codes, kept, parts, left_out = found
    near = _nearest_two(centre[kept], brain[kept])
    held = f"a quarter of every section held out in turn, {gap:.2g} mm from what is learned"
    if left_out:
        remarks.append(f"{left_out} sections with too few rows are not told apart")
    return Identity(codes, tuple(names[k] for k in kept), piece, parts, near, held, tuple(remarks))


def of_brains(table: AnnData, buffer_mm: float, seed: int) -> Identity | str:
    """Brains: a quarter of the sections of each, side by side, is held out in turn; or why that cannot be asked."""
    obs = _rows.places(table)
    number, names = _numbered(splits.groups(obs, Split(by="brain")))
    if len(names) < 2:
        return "there is one brain"
    section, _ = _numbered(splits.groups(obs, Split(by="section")))
    where = splits.positions(obs)
    apart = bool(np.isfinite(where).all())
    owner, centre = _brain_of(section, number), _centres(where, section)
    counts = np.bincount(owner)
    if counts.min() < PIECES:
        return f"{names[int(counts.argmin())]} has {counts.min()} sections, and {PIECES} of every brain are needed"
    turn = np.zeros(len(owner), dtype=np.int64)
    along = _within(centre, owner)
    for k in range(len(names)):
        mine = owner == k
        turn[mine] = _ranked(along[mine]) * PIECES // int(mine.sum())
    piece = turn[section]
    gap = _gap(where, number, buffer_mm) if apart else 0.0
    found = _folded(number, names, np.arange(len(names)), piece, (where, gap), seed)
    if found is None:
        return f"fewer than two brains have {_EACH} rows on both sides of every fold, {gap:.2g} mm apart"
    codes, kept, parts, left_out = found
    held = "a quarter of every brain's sections held out in turn" + (f", {gap:.2g} mm away" if gap > 0 else "")
    remarks = (f"{left_out} brains with too few rows are not told apart",) if left_out else ()
    return Identity(
        codes, tuple(names[k] for k in kept), piece, parts, np.empty((0, 3), dtype=np.int64), held, remarks
    )  # fmt: skip


def _folded(
    number: Codes, names: tuple[str, ...], chosen: Codes, piece: Codes, apart: tuple[Real, float], seed: int
) -> tuple[Codes, Codes, Parts, int] | None:
    """Codes, classes kept, folds and the number of classes left out for want of rows; None if fewer than two stay."""
    where, gap = apart
    rng = stream(seed, "identity rows", len(number), len(chosen))
    each = max(ROWS // (len(chosen) * PIECES), _EACH)
    take = np.zeros(len(number), dtype=bool)
    for k in chosen:
        for p in range(PIECES):
            rows = np.flatnonzero((number == k) & (piece == p))
            take[rng.permutation(rows)[:each]] = True
    parts: Parts = []
    fewest = np.full(len(names), len(number))
    for p in range(PIECES):
        test, train = np.flatnonzero(take & (piece == p)), np.flatnonzero(take & (piece != p))
        if gap > 0:
            train = train[~_close(where, number, train, test, gap)]
        for rows in (train, test):
            fewest = np.minimum(fewest, np.bincount(number[rows], minlength=len(names)))
        parts.append((train, test))
    kept = chosen[fewest[chosen] >= _EACH]
    if len(kept) < 2:
        return None
    to_code = np.full(len(names), -1, dtype=np.int64)
    to_code[kept] = np.arange(len(kept))
    codes = np.where(take, to_code[number], -1)
    return codes, kept, [(a[codes[a] >= 0], b[codes[b] >= 0]) for a, b in parts], len(chosen) - len(kept)


def _close(where: Real, owner: Codes, train: Codes, test: Codes, gap: float) -> NDArray[np.bool_]:
    """Training rows within the gap of a test row of the same owner."""
    near = np.zeros(len(train), dtype=bool)
    for who in np.unique(owner[test]):
        mine = np.flatnonzero(owner[train] == who)
        if len(mine):
            near[mine] = KDTree(where[test[owner[test] == who]]).query(where[train[mine]])[0] <= gap
    return near


def _gap(where: Real, owner: Codes, buffer_mm: float) -> float:
    return buffer_mm if buffer_mm > 0 else _APART * metrics.spacing(where, owner.astype(str).astype(object))


def _numbered(names: NDArray[np.object_]) -> tuple[Codes, tuple[str, ...]]:
    held, number = np.unique(names.astype(str), return_inverse=True)
    return number.reshape(-1).astype(np.int64), tuple(held.tolist())


def _brain_of(section: Codes, brain: NDArray[Any]) -> NDArray[Any]:
    """Brain of each section."""
    return brain[np.unique(section, return_index=True)[1]]


def _centres(where: Real, section: Codes) -> Real:
    count = np.maximum(np.bincount(section), 1)
    return np.column_stack([np.bincount(section, where[:, axis]) / count for axis in range(where.shape[1])])


def _along(where: Real) -> Real:
    """Position of each place along the longest axis of all; its sign is fixed, so that it is the same everywhere."""
    away = where - where.mean(axis=0)
    axis = np.linalg.eigh(away.T @ away)[1][:, -1]
    return away @ (axis * np.sign(axis[np.abs(axis).argmax()]))


def _within(centre: Real, brain: NDArray[Any]) -> Real:
    """Position of each section along its brain; its number where places are not known."""
    result = np.arange(len(centre), dtype=np.float64)
    if np.isfinite(centre).all():
        for who in np.unique(brain):
            mine = brain == who
            if np.ptp(centre[mine], axis=0).max() > 0:
                # rounded to 1 um: sections that were never registered share a centre, and keep their order
                result[mine] = np.round(_along(centre[mine]), 3)
    return result


def _ranked(values: Real) -> Codes:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.int64)


def _nearest_two(centre: Real, brain: NDArray[Any]) -> Codes:
    """Each section and the two nearest ones of its brain: (K, 3); (0, 3) where some brain has fewer, or no places."""
    none = np.empty((0, 3), dtype=np.int64)
    if not np.isfinite(centre).all() or np.ptp(centre, axis=0).max() < 1e-3:
        return none
    found = np.empty((len(centre), 3), dtype=np.int64)
    for who in np.unique(brain):
        mine = np.flatnonzero(brain == who)
        if len(mine) < 3:
            return none
        index = cast("Codes", cast("Any", KDTree(centre[mine])).query(centre[mine], k=[1, 2, 3])[1])
        # of sections with one centre another may come before itself
        index[:, 0] = np.where((index == np.arange(len(mine))[:, None]).any(axis=1), index[:, 0], np.arange(len(mine)))
        found[mine] = mine[index]
    return found
