"""Raw counts told from everything else: integers are taken, recoverable normalised values knowingly, the rest refused.

Normalising divides the counts of a cell by one number, and a logarithm may follow. Undone, all values of a cell are
whole multiples of the smallest count's share: x = s c, so that x / min(x) = c / min(c). Most cells have a gene counted
once; for the others the divisor is the smallest m for which all m x / min(x) are whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused

How = Literal["counts", "log1p", "log2", "scaled"]
HOW: tuple[How, ...] = ("counts", "log1p", "log2", "scaled")
SAID = {
    "log1p": "values were log1p of normalised counts; counts were recovered as expm1(x) / smallest of the cell",
    "log2": "values were log2(x + 1) of normalised counts; counts were recovered as (2^x - 1) / smallest of the cell",
    "scaled": "values were normalised counts; counts were recovered as x / smallest of the cell",
}
LIMIT_COUNT = 65_535
_NOTHING, _NAN, _NEGATIVE, _FRACTION = range(4)
_FAULTS = ("", "not a number", "negative", "not a whole number")
# what single precision and four digits after the decimal point leave of whole numbers
_SLACK, _RELATIVE = 0.01, 1e-4
_LARGEST_LEAST = 8


@dataclass
class Rows:
    """Rows of a table of counts as stored: CSR with any columns and any numbers."""

    indptr: NDArray[np.int64]
    column: NDArray[np.integer]
    value: NDArray[Any]

    def __len__(self) -> int:
        return len(self.indptr) - 1


@dataclass
class Tally:
    """What happened to the values of one table."""

    clipped: int = 0
    largest: float = 0.0
    merged: int = field(default=0)


def judge(samples: list[Rows]) -> tuple[How | None, str]:
    """Decide from some rows what a table holds.

    Returns
    -------
    (how, reason)
        ``how`` is None when it cannot be used; ``reason`` then says what was found.
    """
    found = [_found(sample, 0) for sample in samples]
    faulty = [part for part in found if part[0]]
    if not faulty:
        return "counts", ""
    fault, value = faulty[0][2:]
    reason = f"{_FAULTS[fault]} ({value:.6g})"
    if any(part[2] in {_NAN, _NEGATIVE} for part in faulty):
        return None, reason
    filled = sum(int((np.diff(sample.indptr) > 0).sum()) for sample in samples)
    # whole numbers with a few faults are damaged counts, not normalised ones
    if sum(part[0] for part in found) < 0.5 * filled:
        return None, f"{reason}, among rows of whole numbers"
    for code, how in enumerate(HOW[1:], 1):
        wrong = sum(_found(sample, code)[0] for sample in samples)
        if wrong <= 0.001 * filled and sum(_evidence(s.indptr, _numbers(s.value), code) for s in samples) >= 20:
            return how, ""
    return None, reason


def clean(
    rows: Rows, columns: NDArray[np.int32], how: How, tally: Tally, where: str, name: Callable[[int], str]
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.uint16]]:
    """Counts of some rows by the panel's columns: controls left out, columns ascending, zeros dropped.

    Parameters
    ----------
    rows : Rows
    columns : ndarray (columns of the table,) int32
        Place of each column in the panel; -1: left out.
    how : How
        What `judge` found.
    tally : Tally
        Grows by what was clipped.
    where : str
        The table, for messages.
    name : callable
        Name of a row, for messages.

    Returns
    -------
    (indptr, gene, count)
        Of types int64, uint16, uint16.

    Raises
    ------
    Refused
        Values that are not a number, negative or fractional, naming the first cell and how many rows there are.
    """
    wrong, first, fault, value = _found(rows, HOW.index(how))
    if wrong:
        raise Refused(
            f"{where} should hold raw counts." if how == "counts" else f"{where} should hold what its first rows hold.",
            found=f"{wrong:,} of {len(rows):,} rows with values that are {_FAULTS[fault]}; the first is cell "
            f"'{name(first)}' ({value:.6g}).",
            cause=_cause(fault),
            do='name the layer of raw counts, "counts": "layers/counts", in cells.json.',
        )
    top = int(rows.column.max()) if len(rows.column) else -1
    if top >= len(columns) or (len(rows.column) and int(rows.column.min()) < 0):
        raise Refused(f"{where} should have {len(columns):,} columns.", found=f"an entry in column {top:,}.")
    indptr, gene, count, clipped, largest = _cleaned(
        rows.indptr, rows.column, _numbers(rows.value), columns, HOW.index(how), int(columns.max(initial=-1)) + 1
    )
    tally.clipped += clipped
    tally.largest = max(tally.largest, largest)
    return indptr, gene, count


def _cause(fault: int) -> str:
    if fault == _FRACTION:
        return "normalised, imputed, corrected or averaged values."
    return "scaled or centred values." if fault == _NEGATIVE else "a table joined from parts with other genes."


def _found(rows: Rows, code: int) -> tuple[int, int, int, float]:
    """How many rows are faulty, the first, its fault, its value."""
    wrong, first, fault, value = _faults(rows.indptr, _numbers(rows.value), code)
    return int(wrong), int(first), int(fault), float(value)


def _numbers(value: NDArray[Any]) -> NDArray[Any]:
    """Few types, so that few versions are compiled; none of them changes a value that could be a count."""
    if value.dtype.kind == "u" and value.dtype.itemsize <= 2:
        return value.astype(np.uint16, copy=False)
    if value.dtype == np.float32 or value.dtype == np.float16:
        return value.astype(np.float32, copy=False)
    return value.astype(np.float64, copy=False)


_compile: Any = numba.njit(cache=True, nogil=True)


@_compile
def _undone(value: float, code: int) -> float:
    if code == 1:
        return math.expm1(value)
    if code == 2:
        return 2.0**value - 1.0
    return value


@_compile
def _least(value: Any, start: int, stop: int, code: int) -> float:
    """What a count of one became in this row; 0 when the row fits no such number."""
    least = math.inf
    for j in range(start, stop):
        x = _undone(float(value[j]), code)
        if 0 < x < least:
            least = x
    if least == math.inf:
        return 1.0
    for m in range(1, _LARGEST_LEAST + 1):
        fits = True
        for j in range(start, stop):
            ratio = m * _undone(float(value[j]), code) / least
            # larger than any count, or too large to be told from a whole number: not normalised like this
            if ratio > 65535.5 or abs(ratio - np.rint(ratio)) > min(_SLACK + _RELATIVE * ratio, 0.1):
                fits = False
                break
        if fits:
            return least / m
    return 0.0


@_compile
def _faults(indptr: Any, value: Any, code: int) -> Any:
    wrong, first, first_fault, first_value = 0, -1, _NOTHING, 0.0
    for i in range(len(indptr) - 1):
        fault, shown = _NOTHING, 0.0
        for j in range(indptr[i], indptr[i + 1]):
            x = float(value[j])
            if not math.isfinite(x):
                fault, shown = _NAN, x
            elif x < 0:
                fault, shown = _NEGATIVE, x
            elif code == 0 and x != np.rint(x):
                fault, shown = _FRACTION, x
            if fault != _NOTHING:
                break
        filled = indptr[i + 1] > indptr[i]
        if fault == _NOTHING and code > 0 and filled and _least(value, indptr[i], indptr[i + 1], code) == 0.0:
            fault, shown = _FRACTION, float(value[indptr[i]])
        if fault != _NOTHING:
            wrong += 1
            if first < 0:
                first, first_fault, first_value = i, fault, shown
    return wrong, first, first_fault, first_value


@_compile
def _evidence(indptr: Any, value: Any, code: int) -> int:
    """Values above a cell's smallest: only these could have failed to be whole."""
    seen = 0
    for i in range(len(indptr) - 1):
        if indptr[i + 1] > indptr[i]:
            least = _least(value, indptr[i], indptr[i + 1], code)
            for j in range(indptr[i], indptr[i + 1]):
                seen += least > 0 and _undone(float(value[j]), code) > 1.5 * least
    return seen


@_compile
def _cleaned(indptr: Any, column: Any, value: Any, columns: Any, code: int, genes: int) -> Any:
    n = len(indptr) - 1
    ends = np.zeros(n + 1, np.int64)
    gene, count = np.empty(len(column), np.uint16), np.empty(len(column), np.uint16)
    row, touched = np.zeros(genes, np.float64), np.empty(genes, np.int64)
    at, clipped, largest = 0, 0, 0.0
    for i in range(n):
        least = _least(value, indptr[i], indptr[i + 1], code) if code > 0 else 1.0
        used, before, ascending = 0, -1, True
        for j in range(indptr[i], indptr[i + 1]):
            place = columns[column[j]]
            x = float(value[j])
            if place < 0 or x == 0:
                continue
            if code > 0:
                x = np.rint(_undone(x, code) / least)
            if row[place] == 0:
                touched[used] = place
                used += 1
                ascending = ascending and place > before
                before = place
            row[place] += x
        if not ascending:
            touched[:used].sort()
        for k in range(used):
            x = row[touched[k]]
            row[touched[k]] = 0
            largest = max(largest, x)
            if x > 65535:
                clipped += 1
                x = 65535.0
            gene[at], count[at] = touched[k], np.uint16(x)
            at += 1
        ends[i + 1] = at
    return ends, gene[:at].copy(), count[:at].copy(), clipped, largest


@_compile
def permuted(order: Any, indptr: Any, gene: Any, count: Any) -> Any:
    """Rows of a CSR matrix in another order, their sums, and whether columns ascend within rows."""
    n = len(order)
    ends, library = np.zeros(n, np.int64), np.zeros(n, np.uint32)
    genes, counts = np.empty(len(gene), np.uint16), np.empty(len(gene), np.uint16)
    at, ordered = 0, True
    for i in range(n):
        total, before = 0, -1
        for j in range(indptr[order[i]], indptr[order[i] + 1]):
            here = np.int64(gene[j])
            if here <= before:
                ordered = False
            before = here
            genes[at], counts[at] = gene[j], count[j]
            total += count[j]
            at += 1
        ends[i], library[i] = at, total
    return ends, genes, counts, library, ordered
