"""The cache of a `Source`: raw arrays and one manifest in a folder, written section by section, mapped when read.

A folder comes into being whole, see `brodmann.caches`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import atomic, caches
from brodmann.cells.columns import Column, Names, Stream, as_bytes, hashed
from brodmann.cells.counts import permuted
from brodmann.cells.panel import Panel
from brodmann.cells.source import CellSection, Source
from brodmann.errors import Refused
from brodmann.near.neighbours import morton
from brodmann.space import Space

VERSION = 2
"""Of the layout on disk and of what conversion does; part of the name of every cache."""
Csr = tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.uint16]]
"""indptr (n + 1,), gene (nnz,) ascending within a row, count (nnz,)."""


class Writer:
    """Writes a cache, one section at a time; peak memory is that of one section.

    Use as a context: leaving it with an error removes what was written.

    Parameters
    ----------
    folder : Path
        Where the cache shall be; appears when `close` is called. If it is already there then, it is kept.
    panel : Panel
        Genes of the count columns.
    space : Space
        Space of ``xyz_mm``.
    name : str
        Name for messages and reports.
    unit : {"um", "arbitrary"}
        What is known about the scale of ``xy_um``.
    """

    def __init__(
        self, folder: Path, panel: Panel, space: Space, *, name: str, unit: Literal["um", "arbitrary"] = "um"
    ) -> None:
        self._folder, self._panel, self._space, self._name, self._unit = folder, panel, space, name, unit
        self._sections: list[CellSection] = []
        self._skipped: list[tuple[str, str]] = []
        self._rows = 0
        self._entries = 0
        self._low, self._high = np.full(3, np.inf), np.full(3, -np.inf)
        self._hashes: list[NDArray[np.uint64]] = []
        self._types, self._volume = Names(), False
        self._labels: dict[str, Column] = {}
        with atomic.guard(f"the cache of {name}", folder.parent, need=0, do=caches.ELSEWHERE):
            self.working = caches.begin(folder)
        kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
            "xy_um": (np.float32, (2,)),
            "xyz_mm": (np.float32, (3,)),
            "indptr": (np.int64, ()),
            "gene": (np.uint16, ()),
            "count": (np.uint16, ()),
            "total_counts": (np.uint32, ()),
            "volume_um3": (np.float32, ()),
            "types": (np.int16, ()),
            "id_bytes": (np.uint8, ()),
            "id_starts": (np.int64, ()),
        }
        self._streams = {key: Stream(self.working, key, kind, shape) for key, (kind, shape) in kinds.items()}
        for key in ("indptr", "id_starts"):
            self._streams[key].add(np.zeros(1, np.int64))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for stream in self._open_streams():
            stream.close()
        atomic.remove_quietly(self.working)

    def skip(self, name: str, reason: str) -> None:
        """Note a file or section that is left out."""
        self._skipped.append((name, reason))

    def section(
        self,
        id: str,
        subject: str,
        *,
        ids: Sequence[str] | NDArray[np.bytes_],
        xy_um: NDArray[np.floating],
        xyz_mm: NDArray[np.floating] | None = None,
        csr: Csr | None = None,
        labels: pd.DataFrame | None = None,
        types: Any = None,
        volume_um3: NDArray[np.floating] | None = None,
    ) -> None:
        """Append a section; its rows are brought into Morton order here.

        Sections come ordered by (subject, id). One without cells is skipped.

        Parameters
        ----------
        id, subject : str
        ids : n str, or ndarray (n,) of bytes (UTF-8)
            Names of the cells.
        xy_um : ndarray (n, 2)
            In the section's plane, um.
        xyz_mm : ndarray (n, 3), optional
            In the writer's space, mm; without it the section lies in its own plane, at (x, y, 0).
        csr : Csr, optional
            Raw counts; none for data that hold types only.
        labels : DataFrame of n rows, optional
            Categorical, text or numeric columns.
        types : Categorical, or n str, optional
            Cell types; all sections or none.
        volume_um3 : ndarray (n,), optional
            All sections or none.

        Raises
        ------
        Refused
            Wrong order, lengths that differ, positions that are not finite.
        """
        names = as_bytes(ids)
        n = len(names)
        if not n:
            self.skip(id, "no cells")
            return
        xy = np.asarray(xy_um, np.float64)
        xyz = np.column_stack([xy / 1000, np.zeros(n)]) if xyz_mm is None else np.asarray(xyz_mm, np.float64)
        parts = (xy, xyz, labels, types, volume_um3)
        if {len(part) for part in parts if part is not None} != {n} or (csr is not None and len(csr[0]) != n + 1):
            raise Refused(f"all arrays of section {id} should have {n:,} rows.", found="other lengths.")
        if not (np.isfinite(xy).all() and np.isfinite(xyz).all()):
            raise Refused(f"positions of section {id} should be finite.", found="NaN or infinity.")
        if self._sections:
            last = self._sections[-1]
            if (last.subject, last.id) >= (subject, id) or any(section.id == id for section in self._sections):
                raise Refused("sections should come once, ordered by (subject, id).", found=f"{id} after {last.id}.")
            if (types is None) != (not self._types.asked) or (volume_um3 is None) == self._volume:
                raise Refused("types and volumes should be given for all sections or none.", found=f"{id} differs.")
        need = 100 * n + (0 if csr is None else 4 * len(csr[1]))
        with atomic.guard(f"the cache of {self._name}", self.working, need=need, do=caches.ELSEWHERE):
            order = morton(xy)
            self._add("xy_um", xy[order])
            self._add("xyz_mm", xyz[order])
            self._low, self._high = np.minimum(self._low, xyz.min(0)), np.maximum(self._high, xyz.max(0))
            self._counts(id, csr, order)
            self._names(names[order])
            if types is not None:
                self._add("types", self._types.codes(pd.Series(types))[order])
            if volume_um3 is not None:
                self._volume = True
                self._add("volume_um3", np.asarray(volume_um3)[order])
            self._describe(labels, order, n)
        self._sections.append(CellSection(id, subject, range(self._rows, self._rows + n)))
        self._rows += n

    def close(self, *, remarks: Sequence[str] = ()) -> Source:
        """Check the whole, give the folder its name, and open it.

        Raises
        ------
        Refused
            No cells, no counts, cells named twice, or coordinates that cannot be mm of the space.
        """
        if not self._rows:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._skipped[:5])
            raise Refused(f"{self._name} should hold cells.", found=reasons or "none.")
        if self._panel.genes and not self._streams["count"].rows:
            raise Refused(
                f"cells of {self._name} should have counts.",
                found=f"{self._rows:,} cells, {len(self._panel):,} genes, every count 0.",
                do="look whether raw counts lie in a layer, and name it in cells.json.",
            )
        self._space.check(np.array([self._low, self._high]), what=f"cells of {self._name}")
        for stream in self._open_streams():
            stream.close()
        self._refuse_twins()
        streams = dict(self._streams)
        if not self._types.asked:
            del streams["types"]
        if not self._volume:
            del streams["volume_um3"]
        about: dict[str, Any] = {
            "version": VERSION,
            "name": self._name,
            "space": list(astuple(self._space)),
            "unit": self._unit,
            "genes": self._panel.genes,
            "dropped": self._panel.dropped,
            "sections": [[s.id, s.subject, s.rows.start, s.rows.stop] for s in self._sections],
            "type_names": list(self._types.known),
            "labels": [[name, column.about()] for name, column in self._labels.items()],
            "arrays": {key: stream.about() for key, stream in streams.items()},
        }
        content = {key: value for key, value in about.items() if key not in {"name", "version"}}
        about["fingerprint"] = hashlib.sha256(atomic.dumps(content).encode()).hexdigest()
        about["skipped"], about["remarks"] = self._skipped, list(remarks)
        with atomic.guard(f"the cache of {self._name}", self._folder.parent, need=1 << 20, do=caches.ELSEWHERE):
            for key in {"types", "volume_um3"} - set(streams):
                atomic.remove(self.working / f"{key}.bin")
            atomic.write_text(self.working / caches.MANIFEST, json.dumps(about, sort_keys=True))
            caches.keep(self.working, self._folder)
        return read(self._folder)

    def _add(self, key: str, values: NDArray[Any]) -> None:
        self._streams[key].add(values)

    def _open_streams(self) -> Iterator[Stream]:
        yield from self._streams.values()
        yield from (column.stream for column in self._labels.values())

    def _counts(self, id: str, csr: Csr | None, order: NDArray[np.int64]) -> None:
        n = len(order)
        if csr is None:
            csr = np.zeros(n + 1, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.uint16)
        indptr, gene, count = (np.ascontiguousarray(part, kind) for part, kind in zip(csr, _CSR, strict=True))
        if indptr[0] != 0 or indptr[-1] != len(gene) or len(gene) != len(count) or (np.diff(indptr) < 0).any():
            raise Refused(f"counts of section {id} should be CSR.", found="indptr does not fit its entries.")
        ends, genes, counts, library, ordered = permuted(order, indptr, gene, count)
        if len(gene) and (not ordered or int(gene.max()) >= len(self._panel)):
            raise Refused(
                f"counts of section {id} should have ascending columns below {len(self._panel):,}.",
                found="columns out of order, twice, or beyond the panel.",
            )
        self._add("indptr", ends + self._entries)
        self._entries += len(genes)
        self._add("gene", genes)
        self._add("count", counts)
        self._add("total_counts", library)

    def _names(self, names: NDArray[np.bytes_]) -> None:
        wide = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), -1)
        lengths = np.asarray(np.char.str_len(names), np.int64)
        self._hashes.append(hashed(wide, lengths))
        start = self._streams["id_bytes"].rows
        self._add("id_bytes", wide[np.arange(wide.shape[1])[None] < lengths[:, None]])
        self._add("id_starts", start + np.cumsum(lengths))

    def _describe(self, labels: pd.DataFrame | None, order: NDArray[np.int64], n: int) -> None:
        table = pd.DataFrame(index=range(n)) if labels is None else labels
        for name in table.columns:
            values = table[name].iloc[order]
            if str(name) not in self._labels:
                self._labels[str(name)] = Column(self.working, len(self._labels), values, missing=self._rows)
            self._labels[str(name)].add(values)
        for name in set(self._labels) - set(map(str, table.columns)):
            self._labels[name].absent(n)

    def _refuse_twins(self) -> None:
        """Names that occur twice: equal hashes are found first, then compared letter by letter."""
        hashes = np.concatenate(self._hashes)
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(np.diff(hashes[order]) == 0)
        if not len(same):
            return
        text, starts = (self._streams[key].map() for key in ("id_bytes", "id_starts"))

        def name(row: int) -> str:
            return bytes(text[starts[row] : starts[row + 1]]).decode(errors="replace")

        twins = [(order[at], order[at + 1]) for at in same if name(order[at]) == name(order[at + 1])]
        if twins:
            homes = [next(s.id for s in self._sections if row in s.rows) for row in twins[0]]
            raise Refused(
                f"cells of {self._name} should have names of their own.",
                found=f"{len({name(a) for a, _ in twins}):,} names occur more than once, e.g. '{name(twins[0][0])}' "
                f"(sections {homes[0]} and {homes[1]}).",
                cause="files put together without marking their cells, or the same cells in two files.",
                do="make names unique (obs_names_make_unique, or the section's name in front).",
            )


_CSR = (np.int64, np.uint16, np.uint16)


def read(folder: Path, *, verify: bool = False) -> Source:
    """Map a cache folder.

    Parameters
    ----------
    folder : Path
    verify : bool
        Compare every array with its checksum; without it only sizes are compared.

    Raises
    ------
    Corrupt
        An array or the manifest is missing, cut short, or (``verify``) altered.
    """
    try:
        about = cast("dict[str, Any]", json.loads((folder / caches.MANIFEST).read_text("utf-8")))
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']}")
        arrays = {key: Stream.read(folder, key, said, verify=verify) for key, said in about["arrays"].items()}
        columns = {name: Column.read(folder, said, verify=verify) for name, said in about["labels"]}
        cells = len(arrays["total_counts"])
        name, orientation, extent, origin, unit = about["space"]
        space = Space(name=name, orientation=orientation, extent_mm=tuple(extent), origin=origin, unit=unit)
        sections = [CellSection(id, subject, range(start, stop)) for id, subject, start, stop in about["sections"]]
        return Source(
            space=space,
            name=about["name"],
            fingerprint=about["fingerprint"],
            sections=sections,
            skipped=[(name, reason) for name, reason in about["skipped"]],
            panel=Panel(tuple(about["genes"]), tuple(about["dropped"])),
            volume_um3=arrays.pop("volume_um3", None),
            types=arrays.pop("types", None),
            type_names=tuple(about["type_names"]),
            unit=about["unit"],
            remarks=list(about["remarks"]),
            folder=folder,
            read_labels=lambda: pd.DataFrame(
                {name: column() for name, column in columns.items()}, index=range(cells), copy=False
            ),
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise caches.damaged(folder, error) from error
