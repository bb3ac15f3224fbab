"""Conversion: cells of any files, laid out in sections, written section by section into the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import atomic
from brodmann.cells import counts as reading
from brodmann.cells import layout
from brodmann.cells.cache import Csr, Writer
from brodmann.cells.columns import is_number
from brodmann.cells.counts import How, Rows, Tally, permuted
from brodmann.cells.layout import Layout
from brodmann.cells.panel import Panel, select
from brodmann.cells.readers.part import Part, Table
from brodmann.cells.readers.sidecar import Stated
from brodmann.cells.source import Source
from brodmann.errors import Refused
from brodmann.progress import Progress, Say

_JUDGED = 500


@dataclass
class Counted:
    """Where one file's raw counts are and how they are read."""

    table: Table
    names: list[str]
    controls: list[bool] | None
    how: How
    where: str
    columns: NDArray[np.int32]


def convert(
    parts: list[Part],
    stated: Stated,
    folder: Path,
    *,
    name: str,
    say: Say,
    skipped: list[tuple[str, str]] | None = None,
) -> Source:
    """Lay cells out in sections, check their counts, write the cache.

    Memory holds the columns of all cells and the counts of one section.

    Raises
    ------
    Refused
        See `brodmann.cells.source.open`.
    """
    chosen = [_choose(part, stated) for part in parts]
    laid = layout.lay(parts, stated, name=name)
    panel, remarks = _panel(chosen, stated, name)
    remarks = [*laid.remarks, *remarks]
    total = sum(map(len, parts))
    say(f"converting {total:,} cells of {name} into {folder}")
    tally = Tally()
    with Writer(folder, panel, laid.space, name=name, unit=laid.unit) as writer:
        for left_out, reason in [*(skipped or []), *laid.skipped]:
            writer.skip(left_out, reason)
        with say.progress("cells", 0, total) as progress:
            readers = [
                None if how is None else _Gather(part, how, laid, number, writer.working, tally, progress)
                for number, (part, how) in enumerate(zip(parts, chosen, strict=True))
            ]
            columns = _labels(parts, laid, stated)
            for section in laid.sections:
                part, rows = parts[section.part], section.rows
                reader = readers[section.part]
                writer.section(
                    section.id,
                    section.subject,
                    ids=part.ids[rows],
                    xy_um=laid.xy_um[section.part][rows],
                    xyz_mm=section.place(laid.xy_um[section.part][rows]),
                    csr=None if reader is None else reader.section(rows),
                    labels=columns[section.part].iloc[rows],
                    types=_column(part, laid.types, rows),
                    volume_um3=_numbers(part, laid.volume, rows),
                )
                if reader is None:
                    progress.advance(by=len(rows))
        if tally.clipped:
            remarks.append(f"{tally.clipped:,} counts above 65,535 (largest {tally.largest:,.0f}) are stored as 65,535")
        for remark in remarks:
            say(remark)
        return writer.close(remarks=remarks)


class _Gather:
    """Counts of one file by section: read in place where sections lie together, else sorted through a spill on disk."""

    def __init__(
        self, part: Part, how: Counted, laid: Layout, number: int, working: Path, tally: Tally, progress: Progress
    ) -> None:
        self._part, self._how, self._tally, self._progress = part, how, tally, progress
        mine = [section.rows for section in laid.sections if section.part == number]
        self._together = all(rows[-1] - rows[0] < 2 * len(rows) + 1000 for rows in mine)
        self._spilled = False
        self._folder = working / f"spill-{number}"
        self._section = np.full(len(part), -1, np.int32)
        for at, rows in enumerate(mine):
            self._section[rows] = at

    def section(self, rows: NDArray[np.int64]) -> Csr:
        """Counts of a section's rows."""
        number = int(self._section[rows[0]])
        if not self._together:
            if not self._spilled:
                self._spill()
            return self._read(number, len(rows))
        first, last = int(rows[0]), int(rows[-1]) + 1
        blocks = list(self._blocks(first, last, number))
        lengths = np.concatenate([np.diff(indptr) for _, (indptr, _, _) in blocks])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        gene = np.concatenate([csr[1] for _, csr in blocks])
        count = np.concatenate([csr[2] for _, csr in blocks])
        del blocks
        if len(rows) < last - first:
            return _taken(rows - first, indptr, gene, count)
        return indptr, gene, count

    def _blocks(self, start: int, last: int, number: int | None = None) -> Iterator[tuple[int, Csr]]:
        how = self._how
        while start < last:
            stop = min(how.table.stop(start), last)
            stored = how.table.rows(start, stop)
            mine = self._section[start:stop]
            used = mine >= 0 if number is None else mine == number

            def name(row: int, at: int = start) -> str:
                return self._part.ids[at + row].decode(errors="replace")

            if not used.all():
                stored = _emptied(stored, used)
            yield start, reading.clean(stored, how.columns, how.how, self._tally, how.where, name)
            self._progress.advance(by=int(used.sum()))
            start = stop

    def _spill(self) -> None:
        self._folder.mkdir()
        for start, (indptr, gene, count) in self._blocks(0, len(self._part)):
            at = self._section[start : start + len(indptr) - 1]
            for number in np.unique(at[at >= 0]):
                ends, genes, held = _taken(np.flatnonzero(at == number), indptr, gene, count)
                for key, values in (("n", np.diff(ends)), ("gene", genes), ("count", held)):
                    with (self._folder / f"{number}.{key}").open("ab") as file:
                        file.write(np.ascontiguousarray(values).data)
        self._spilled = True

    def _read(self, number: int, n: int) -> Csr:
        lengths = np.fromfile(self._folder / f"{number}.n", np.int64)
        if len(lengths) != n:
            raise RuntimeError(f"{len(lengths):,} rows of a section of {n:,} were read")
        gene, count = (np.fromfile(self._folder / f"{number}.{key}", np.uint16) for key in ("gene", "count"))
        for key in ("n", "gene", "count"):
            atomic.remove(self._folder / f"{number}.{key}")
        if not any(self._folder.iterdir()):
            self._folder.rmdir()
        return np.concatenate([[0], np.cumsum(lengths)]), gene, count


def _taken(rows: NDArray[np.int64], indptr: Any, gene: Any, count: Any) -> Csr:
    ends, genes, counts, _, _ = permuted(rows, indptr, gene, count)
    return np.concatenate([[0], ends]), genes[: ends[-1]].copy(), counts[: ends[-1]].copy()


def _emptied(rows: Rows, used: NDArray[np.bool_]) -> Rows:
    """Rows that are left out lose their values: what is wrong with them is nobody's concern."""
    lengths = np.diff(rows.indptr)
    held = np.repeat(used, lengths)
    indptr = np.concatenate([[0], np.cumsum(np.where(used, lengths, 0))])
    return Rows(indptr, rows.column[held], rows.value[held])


def _choose(part: Part, stated: Stated) -> Counted | None:
    """Take the first matrix that holds raw counts; else the first from which they can be recovered."""
    found: list[tuple[str, How]] = []
    reasons: list[str] = []
    for key, (table, _) in part.tables.items():
        how, reason = reading.judge(_judged(table, part.keep))
        if how is None:
            reasons.append(f"{key}: {reason}")
        else:
            found.append((key, how))
            if how == "counts":
                break
            reasons.append(f"{key}: recoverable {how}")
    if not part.tables:
        return None
    if not found:
        raise Refused(
            f"{part.name} should hold raw counts: whole numbers, none negative.",
            found="; ".join(reasons) + ".",
            cause="normalised, scaled or imputed values.",
            do="put raw counts into layers['counts'] of the file.",
        )
    key, how = next((item for item in found if item[1] == "counts"), found[0])
    table, var = part.tables[key]
    if how != "counts":
        part.notes.append(f"{part.name}: {reading.SAID[how]}")
    elif key != next(iter(part.tables)):
        part.notes.append(f"{part.name}: raw counts are taken from {key}")
    return Counted(table, layout.genes(var, stated, part), layout.controls(var), how, f"{key} of {part.name}", _NONE)


_NONE = np.zeros(0, np.int32)


def _judged(table: Table, keep: NDArray[np.bool_] | None) -> list[Rows]:
    """Rows at the beginning, in the middle and at the end."""
    n = len(table)
    starts = sorted({0, max(n // 2 - _JUDGED // 2, 0), max(n - _JUDGED, 0)})
    stops = [min(start + _JUDGED, n, table.stop(start)) if start < n else start for start in starts]
    pairs = [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]
    if keep is None:
        return [table.rows(start, stop) for start, stop in pairs]
    return [_emptied(table.rows(start, stop), keep[start:stop]) for start, stop in pairs]


def _panel(chosen: list[Counted | None], stated: Stated, name: str) -> tuple[Panel, list[str]]:
    """One panel for all files; each file's columns then lead into it."""
    counted = [how for how in chosen if how is not None]
    if not counted:
        return Panel(()), ["no counts: types and places only"]
    if len(counted) < len(chosen):
        raise Refused(f"all files of {name} should hold counts, or none.", found="some of each.")
    panels = [
        select(how.names, rename=stated.genes, controls=how.controls, merge=stated.merge, where=how.where)
        for how in counted
    ]
    first = panels[0][0].genes
    common = set(first).intersection(*(panel.genes for panel, _ in panels))
    genes = tuple(gene for gene in first if gene in common)
    remarks: list[str] = []
    largest = max(len(panel) for panel, _ in panels)
    if len(genes) < largest:
        if stated.panel == "same" or not genes:
            sizes = sorted({len(panel) for panel, _ in panels})
            raise Refused(
                f"files of {name} should count the same genes.",
                found=f"{len(genes):,} genes in common of panels of {', '.join(f'{size:,}' for size in sizes)}.",
                cause="data sets of different panels, or names that differ.",
                do='open them one by one; or declare "panel": "common", or "genes" to rename, in cells.json.',
            )
        remarks.append(f"{len(genes):,} genes are common to all files; the others are left out")
    places = {gene: place for place, gene in enumerate(genes)}
    for how, (panel, columns) in zip(counted, panels, strict=True):
        moved = np.array([*(places.get(gene, -1) for gene in panel.genes), -1], np.int32)
        how.columns = moved[columns]
    dropped = tuple(dict.fromkeys(item for panel, _ in panels for item in panel.dropped))
    if dropped:
        some = ", ".join(dropped[:3]) + (" ..." if len(dropped) > 3 else "")
        remarks.append(f"{len(dropped):,} blank and control probes are left out ({some})")
    return Panel(genes, dropped), remarks


def _labels(parts: list[Part], laid: Layout, stated: Stated) -> list[pd.DataFrame]:
    """Columns that become labels, of one kind in all files."""
    names = dict.fromkeys(str(name) for part in parts for name in part.columns)
    if stated.labels is not None:
        absent = [name for name in stated.labels if name not in names]
        if absent:
            raise Refused('"labels" should name columns.', found=f"{', '.join(absent)} in no file.")
    kept = [name for name in stated.labels or names if name not in laid.used]
    text = {name for name in kept if any(name in part.columns and not is_number(part.columns[name]) for part in parts)}
    tables: list[pd.DataFrame] = []
    for part in parts:
        table = cast("pd.DataFrame", part.columns[[name for name in kept if name in part.columns]])
        wrong = [name for name in table if name in text and is_number(table[name])]
        for name in wrong:
            values = table[name].astype(object).map(str, na_action="ignore").astype("category")
            table = table.assign(**{str(name): values})
        tables.append(table)
    return tables


def _column(part: Part, name: str | None, rows: NDArray[np.int64]) -> Any:
    if name is None:
        return None
    if name not in part.columns:
        return pd.Series([None] * len(rows), dtype="category")
    return part.columns[name].iloc[rows].astype("category")


def _numbers(part: Part, name: str | None, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
    if name is None:
        return None
    if name not in part.columns:
        return np.full(len(rows), np.nan, np.float32)
    return part.columns[name].iloc[rows].to_numpy(np.float32, na_value=np.nan)
