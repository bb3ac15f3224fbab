"""Cells as located samples: where they lie, which tiles of tissue make a batch, what a cell's surroundings are."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from brodmann import compute, splits
from brodmann.cells import panel, surroundings
from brodmann.cells.attention import near
from brodmann.cells.blocks import blocks
from brodmann.cells.held import categories, training
from brodmann.cells.pictures import corners_um
from brodmann.cells.recipe import Neighbourhood, Recipe, Tile
from brodmann.cells.source import Source
from brodmann.errors import Refused
from brodmann.near import neighbours
from brodmann.samples import Batch, stream
from brodmann.settings import plain

HALO = 3
"""Context of a read, in radii; see `CellSamples.read` for what it leaves out."""
PASSES = 4
"""A cell belongs to one of so many classes, which are hidden in turn when features are made."""
FEWEST = 100
"""Cells from which a network can be trained at all; it is of use from many thousands on."""
ANCHORS = 64
"""Hidden cells of a tile that take part in the contrast of places."""


class _Part(NamedTuple):
    """One section's share of the samples."""

    section: str
    subject: str
    start: int
    stop: int
    first: int
    """The section's first row in the source."""


class CellSamples:
    """Located cells of a source.

    Parameters
    ----------
    source : Source
        Sections of cells with raw counts; see `brodmann.cells.source`.
    recipe : Recipe
        What a cell sees, which cells take part, the split.
    part : {"all", "train"}
        Every sample, or those outside the recipe's held-out fold. The fold is left out of everything: its cells are
        not context of training cells either. A split by block cuts sections; tiles then are runs of what remains.

    Attributes
    ----------
    places, labels, space, fingerprint
        See `brodmann.samples.Samples`; made when first asked for, since ids are Python strings.
    skipped : list of (str, str)
        Sections left out, and why.
    extent : str
        Cells, sections and animals with samples.
    factors : Tensor (A, G) or None
        How much more often each animal's experiment sees each gene, as a logarithm; given by the model that the samples
        suit.
    read_rows, shard_rows : int
        Rows that one read, and one shard of a feature table, should have.
    """

    shard_rows = 65_536
    remarks: tuple[str, ...] = ()

    def __init__(self, source: Source, recipe: Recipe, *, part: Literal["all", "train"] = "all") -> None:
        self.source, self.recipe, self.space = source, recipe, source.space
        self.read_rows = 16_384 if recipe.encoder.kind == "tile" else 1024
        self.skipped = list(source.skipped)
        self.genes = source.panel.genes
        self.type_names = source.type_names
        self.present: NDArray[np.bool_] = np.ones(len(self.genes), bool)
        self._columns: NDArray[np.int32] | None = None
        # an unknown type is -1 in the source, which is the last code
        self._codes = np.arange(len(source.type_names) + 1)
        least = recipe.samples.least_counts
        rows = np.flatnonzero(np.asarray(source.total_counts) >= least)
        if few := len(source.total_counts) - len(rows):
            self.skipped.append((source.name, f"{few:,} cells have fewer than {least} counts"))
        if part == "train" and recipe.split.fold is not None:
            rows = rows[training(source, rows, recipe.split)]
        if len(rows) < (FEWEST if part == "train" else 1):
            raise Refused(
                f"{f'{FEWEST} cells to train on' if part == 'train' else 'a cell'} should have {least} counts or more.",
                found=f"{len(rows)} of {len(source.total_counts):,}.",
                cause='too few cells, or an empty layer; "counts" in cells.json names another.',
                do="give more, lower samples.least_counts, or look at the data with `brodmann validate`.",
            )
        self.rows: NDArray[np.int64] = rows
        bounds = np.searchsorted(rows, [edge for s in source.sections for edge in (s.rows.start, s.rows.stop)])
        self.parts = [
            _Part(section.id, section.subject, int(start), int(stop), section.rows.start)
            for section, start, stop in zip(source.sections, bounds[::2], bounds[1::2], strict=True)
            if stop > start
        ]
        self.subjects = tuple(dict.fromkeys(one.subject for one in self.parts))
        self.extent = f"{len(rows):,} cells; sections: {len(self.parts)}; animals: {len(self.subjects)}"
        self._animals = np.array([self.subjects.index(one.subject) for one in self.parts], np.int64)
        self.factors: Tensor | None = None
        self._stops = np.array([one.stop for one in self.parts], np.int64)
        key = [source.fingerprint, plain(recipe)["samples"], plain(recipe)["split"], part, len(rows)]
        self.fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self.read(np.array([index]))

    @cached_property
    def places(self) -> pd.DataFrame:
        """A row per sample: id, subject, section, x_um, y_um (in its picture), x_mm, y_mm, z_mm (in ``space``)."""
        sizes = [one.stop - one.start for one in self.parts]
        xy, xyz = np.array(self.source.xy_um[self.rows]), self.source.xyz_mm[self.rows]
        corners = corners_um(self.source)
        for one in self.parts:
            xy[one.start : one.stop] -= corners[one.section]
        frame: dict[str, Any] = {
            "id": self.source.ids(self.rows),
            "subject": categories([one.subject for one in self.parts], sizes),
            "section": categories([one.section for one in self.parts], sizes),
            **{name: xy[:, axis] for axis, name in enumerate(("x_um", "y_um"))},
            **{name: xyz[:, axis] for axis, name in enumerate(splits.AXES)},
        }
        return pd.DataFrame(frame)

    @cached_property
    def labels(self) -> pd.DataFrame:
        """A row per sample: what the data say of it."""
        known = {"id", "subject", "section", "x_um", "y_um", *splits.AXES}
        columns = [name for name in self.source.labels.columns if name not in known]
        labels = cast("pd.DataFrame", self.source.labels[columns])
        return labels if len(self) == len(labels) else labels.iloc[self.rows].reset_index(drop=True)

    def aligned(self, genes: Sequence[str], type_names: Sequence[str] = ()) -> CellSamples:
        """These samples with the genes and types of a trained model, in its order; rows and places are the same.

        Raises
        ------
        Refused
            If too few of the genes were measured; see `brodmann.cells.panel.match`.
        """
        if tuple(genes) == self.genes and tuple(type_names) in {(), self.type_names}:
            return self
        other = copy.copy(self)
        other.factors = None
        found = panel.match(panel.Panel(tuple(genes)), self.source.panel)
        other.genes, other.present, other._columns = tuple(genes), found.columns >= 0, found.columns
        other.remarks = (found.remark,) if found.remark else ()
        if type_names:
            code = {name: number for number, name in enumerate(type_names)}
            other.type_names = tuple(type_names)
            codes = [code.get(name, len(code)) for name in self.source.type_names]
            other._codes = np.array([*codes, len(code)], np.int64)
        return other

    def dense(self, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Raw counts (n, G) of sample rows; zero where a gene was not measured."""
        counts = self.source.dense(self.rows[rows])
        if self._columns is None:
            return counts
        counts = np.take(counts, self._columns, axis=1)
        counts[:, ~self.present] = 0
        return counts

    @property
    def animal_runs(self) -> list[list[range]]:
        """Sample rows of each of ``subjects``, section by section."""
        return [[range(p.start, p.stop) for p in self.parts if p.subject == name] for name in self.subjects]

    def animal(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Animal (n,) of sample rows, a number in ``subjects``."""
        return self._animals[np.searchsorted(self._stops, rows, side="right")]

    def types(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Types (n,) of sample rows as numbers of ``type_names``; their count stands for an unknown type."""
        if self.source.types is None:
            return np.full(len(rows), self._codes[-1])
        return self._codes[self.source.types[self.rows[rows]]]

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """Cells in a run of rows, with the tissue around them.

        Context is what lies within `HALO` times the radius of a run's cells, to the next square of that size. With
        as many radii as layers nothing would be cut off. With 3 radii and 4 layers, features differ from those of an
        uncut section by at most 0.2 % of their spread over cells, the rounding of bfloat16 included (16,384 cells in
        runs of 1,024; 4 % with 2 radii, 80 % with 1).

        Parameters
        ----------
        rows : array (m,) int64
            Consecutive sample rows; `read_rows` of them make good use of the context.

        Returns
        -------
        Batch
            ``index`` (m,) int64 the rows; ``asked`` (m,) int64 their places among the n cells of the batch;
            ``pass`` (n,) uint8 the class in which a cell is hidden; and what `batch` gives, without ``hidden``.
        """
        rows = np.asarray(rows, np.int64)
        if isinstance(self.recipe.encoder, Neighbourhood):
            return self._surroundings(rows)
        pieces = [self._around(one, rows) for one in self._touched(rows)]
        cells = np.concatenate([np.zeros(0, np.int64), *pieces])
        batch = self._assemble(pieces)
        batch["index"] = torch.from_numpy(rows)
        batch["asked"] = torch.from_numpy(np.searchsorted(cells, rows))
        # counted from the section's first row, so that a section's features do not depend on what else was opened
        within = self.rows[cells] - np.repeat([self._part(piece).first for piece in pieces], [len(p) for p in pieces])
        batch["pass"] = torch.from_numpy(_classes(within))
        return batch

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Tiles ``rank::world`` of the global batch of ``step``; which cells of them are hidden is drawn likewise.

        A tile is a run of consecutive rows around a random cell, so a section is drawn in proportion to its cells.

        Returns
        -------
        Batch
            Of n cells: ``counts`` (n, G) uint16, ``hidden`` (n,) bool, ``present`` (G,) bool; the parts of an
            `attention.Near`, or for a device of `blocks.Blocks`; ``index`` (n,) int64 sample rows; ``type`` (n,) int64
            where the recipe wants types; ``animal`` (n,) int64 and ``factors`` (A, G) where a model gave some. With a
            contrast: ``anchor`` (a,) int64 hidden cells among the n, as many of each tile; ``itself`` (a,) int64 equal
            for an anchor drawn twice; ``coordinates`` (a, 3) float64 mm; ``frame`` (a,) int64 equal where coordinates
            can be compared.
        """
        seed, key, encoder = self.recipe.seed, self.fingerprint, self.recipe.encoder
        rng = stream(seed, key, "batch", step)
        if not isinstance(encoder, Tile):
            return self._surroundings(surroundings.draw(len(self), self.recipe.fit.batch, rng)[rank::world])
        starts = self._tiles(rng)[rank::world]
        pieces = [np.arange(start, min(start + self.recipe.samples.tile_cells, self._stop(start))) for start in starts]
        # each tile's own stream, so that processes need not draw each other's
        draws = [stream(seed, key, "hidden", step, rank + world * i) for i in range(len(pieces))]
        hidden = [_hide(len(piece), encoder.hidden, draw) for piece, draw in zip(pieces, draws, strict=True)]
        batch = self._assemble(pieces)
        batch["index"] = torch.from_numpy(np.concatenate(pieces))
        batch["hidden"] = torch.from_numpy(np.concatenate(hidden))
        if self.recipe.objective.contrast > 0:
            batch |= self._anchors(pieces, [_some(mask, draw) for mask, draw in zip(hidden, draws, strict=True)])
            batch["itself"] += rank << 48
        return batch

    def _assemble(self, pieces: Sequence[NDArray[np.int64]]) -> Batch:
        """Counts and attention blocks of pieces of sections; cells of two pieces never see each other."""
        settings = self.recipe.samples
        cells = np.concatenate([np.zeros(0, np.int64), *pieces])
        xy, radius = self.source.xy_um, settings.radius_um
        graphs = [neighbours.graph(xy[self.rows[p]], radius_um=radius, limit=settings.neighbours) for p in pieces]
        offsets = np.cumsum([0, *(len(piece) for piece in pieces)])
        ends = np.cumsum([0, *(len(graph.index) for graph in graphs)])
        indptr = np.concatenate([[0], *(graph.indptr[1:] + end for graph, end in zip(graphs, ends, strict=False))])
        index = [graph.index + np.int32(offset) for graph, offset in zip(graphs, offsets, strict=False)]
        graph = (
            indptr.astype(np.int64),
            np.concatenate([np.zeros(0, np.int32), *index]),
            np.concatenate([np.zeros(0, np.float32), *(graph.distance_um for graph in graphs)]),
        )
        if compute.device().type == "cpu":
            around = near(*graph, radius_um=radius)._asdict()
        else:
            around = blocks(*graph, radius_um=radius, neighbours=settings.neighbours)._asdict()
        batch: Batch = {
            "counts": torch.from_numpy(self.dense(cells)),
            "present": torch.from_numpy(self.present.copy()),
            **{name: torch.from_numpy(array) for name, array in around.items()},
        }
        if settings.types:
            batch["type"] = torch.from_numpy(self.types(cells))
        if self.factors is not None:
            batch |= {"animal": torch.from_numpy(self.animal(cells)), "factors": self.factors.clone()}
        return batch

    def _surroundings(self, rows: NDArray[np.int64]) -> Batch:
        """A batch of the neighbourhood form; ``index`` are sample rows."""
        settings = self.recipe.samples
        among = None
        if len(self) < len(self.source.total_counts):
            among = np.zeros(len(self.source.total_counts), bool)
            among[self.rows] = True
        batch = surroundings.batch(
            self.source,
            self.rows[rows],
            radius_um=settings.radius_um,
            limit=settings.neighbours,
            types=settings.types,
            columns=self._columns,
            codes=self._codes,
            among=among,
        )
        return {**batch, "index": torch.from_numpy(rows)}

    def _tiles(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """First sample rows of the tiles of a batch; with a contrast, every second lies beside the one before."""
        count, size = self.recipe.fit.batch, self.recipe.samples.tile_cells
        centre = rng.integers(len(self), size=count)
        if self.recipe.objective.contrast > 0 and self.space.name != "unregistered":
            for number in range(1, count, 2):
                centre[number] = self._beside(int(centre[number - 1]), rng, instead=int(centre[number]))
        part = np.searchsorted(self._stops, centre, side="right")
        first = np.array([self.parts[one].start for one in part], np.int64)
        last = np.maximum(self._stops[part] - size, first)
        return np.clip(centre - rng.integers(0, size, count), first, last)

    def _beside(self, row: int, rng: np.random.Generator, *, instead: int) -> int:
        """The cell nearest to a cell in another section, of any brain, that comes within reach of the contrast."""
        here = self.source.xyz_mm[self.rows[row]]
        reach, own = self.recipe.objective.reach_mm, self._part(np.array([row]))
        within = ((here >= self._boxes[:, 0] - reach) & (here <= self._boxes[:, 1] + reach)).all(1)
        for number in rng.permutation(np.flatnonzero(within)):
            other = self.parts[number]
            if other is own:
                continue
            away = np.linalg.norm(self.source.xyz_mm[self.rows[other.start : other.stop]] - here, axis=1)
            if away.min() <= reach:
                return other.start + int(away.argmin())
        return instead

    @cached_property
    def _boxes(self) -> NDArray[np.float32]:
        """Corners (sections, 2, 3) of the sections in space, mm."""
        places = (self.source.xyz_mm[self.rows[one.start : one.stop]] for one in self.parts)
        return np.array([(xyz.min(0), xyz.max(0)) for xyz in places])

    def _anchors(self, pieces: Sequence[NDArray[np.int64]], chosen: Sequence[NDArray[np.int64]]) -> Batch:
        """Where the anchors of the contrast lie; sections that were never registered are frames of their own."""
        first = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
        anchor = np.concatenate([at + some for at, some in zip(first, chosen, strict=True)])
        rows = np.concatenate(pieces)[anchor]
        part = np.searchsorted(self._stops, rows, side="right")
        found = {
            "anchor": anchor,
            "itself": anchor.copy(),
            "coordinates": self.source.xyz_mm[self.rows[rows]].astype(np.float64),
            "frame": part if self.space.name == "unregistered" else np.zeros_like(part),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}

    def _part(self, rows: NDArray[np.int64]) -> _Part:
        return self.parts[int(np.searchsorted(self._stops, rows[0], side="right"))]

    def _stop(self, row: int) -> int:
        return int(self._stops[np.searchsorted(self._stops, row, side="right")])

    def _touched(self, rows: NDArray[np.int64]) -> list[_Part]:
        """Sections that hold some of a run of rows."""
        first, last = np.searchsorted(self._stops, [rows[0], rows[-1]], side="right")
        return self.parts[first : last + 1]

    def _around(self, part: _Part, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample rows of a section, ascending, that lie in or near the squares which hold asked rows."""
        xy = self.source.xy_um[self.rows[part.start : part.stop]]
        square = np.floor((xy - xy.min(0)) / self.recipe.samples.radius_um).astype(np.int64)
        start, stop = max(int(rows[0]) - part.start, 0), min(int(rows[-1]) + 1, part.stop) - part.start
        low, high = square[start:stop].min(0) - HALO, square[start:stop].max(0) + HALO
        near = ((square >= low) & (square <= high)).all(1)
        held = np.zeros(high - low + 1, bool)
        held[tuple((square[start:stop] - low).T)] = True
        grown = scipy.ndimage.binary_dilation(held, np.ones((3, 3), bool), iterations=HALO)
        near[near] = grown[tuple((square[near] - low).T)]
        return np.flatnonzero(near) + part.start


def _hide(cells: int, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which cells of a tile are hidden; one at least, or there were nothing to learn from."""
    hidden = rng.random(cells) < fraction
    hidden[rng.integers(cells)] = True
    return hidden


def _some(hidden: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    places = np.flatnonzero(hidden)
    return np.sort(rng.choice(places, ANCHORS, replace=len(places) < ANCHORS))


def _classes(number: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A fair class 0 .. `PASSES` - 1 of each number: the finalizer of SplitMix64 (Steele et al. 2014)."""
    x = number.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(PASSES)).astype(np.uint8)
