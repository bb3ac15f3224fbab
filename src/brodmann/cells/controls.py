"""Features that stand beside every score: what counts, types and an untrained network say without learning."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from brodmann import compute
from brodmann.cells import baselines, components, model
from brodmann.cells.components import Components
from brodmann.cells.recipe import Recipe
from brodmann.cells.samples import CellSamples
from brodmann.errors import Refused
from brodmann.near import neighbours, smooth
from brodmann.near.smooth import Tissue
from brodmann.samples import Batch, stream

Control = Callable[[Batch], NDArray[np.float32 | np.float16]]

COMPONENTS = 20
"""Components of the rivals; a constant, so that a recipe's knobs cannot weaken them."""
LEARN_FROM = 200_000
"""Cells that these components are fitted to, at most."""
_KEPT = 4


class Section(NamedTuple):
    """One section's cells, ready for any control.

    Attributes
    ----------
    where : Tissue
        Its cells; the fields below are in its order.
    sigma_um : tuple of float
        Widths of the Gaussian means.
    scores : array (n, P) float32 or None
        Components of log-normalised counts; None for data without counts.
    mean : array (P,) float64
        Their mean over the section.
    kinds : array (n,) int64 or None
        Types, -1 unknown.
    """

    where: Tissue
    sigma_um: tuple[float, ...]
    scores: NDArray[np.float32] | None
    mean: NDArray[np.float64]
    kinds: NDArray[np.int64] | None


class Rivals:
    """The baselines of some samples, by rows.

    Everything is computed from whole sections, each when first asked for: what a cell is given does not depend on
    the rows asked for with it. A few sections are in memory at a time. Several threads may ask at once.

    Parameters
    ----------
    samples : CellSamples
    basis : Components or None
        Of the panel of the samples' source; None for data without counts.
    """

    def __init__(self, samples: CellSamples, basis: Components | None) -> None:
        self._source, self._rows, self._basis = samples.source, samples.rows, basis
        edges = [(s.rows.start, s.rows.stop) for s in self._source.sections]
        self._bounds = np.searchsorted(self._rows, np.array(edges, np.int64).reshape(-1, 2))
        self._held: OrderedDict[int, Section] = OrderedDict()
        self._lock = threading.Lock()

    def own(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The cells' own components, (m, P)."""
        assert self._basis is not None
        return baselines.scores(self._source, self._rows[rows], self._basis)

    def neighbour_mean(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mean components of the 30 nearest cells, the cell among them, (m, P)."""
        return self._by_section(rows, lambda section, xy: baselines.neighbour_mean(section.where, _scores(section), xy))

    def means(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Gaussian means of components at three widths, each relative to the section's mean, (m, 3 P)."""

        def of(section: Section, xy: NDArray[np.float32]) -> NDArray[np.float32]:
            # staining and depth differ between sections: what counts is how a place differs from its own section
            centred = (_scores(section) - section.mean).astype(np.float32)
            return smooth.means(section.where, centred, xy, section.sigma_um)

        return self._by_section(rows, of)

    def composition(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Fractions of the cell types around, at three widths, (m, 3 T)."""
        types = len(self._source.type_names)

        def of(section: Section, xy: NDArray[np.float32]) -> NDArray[np.float32]:
            assert section.kinds is not None
            return baselines.composition(section.where, section.kinds, types, xy, section.sigma_um)

        return self._by_section(rows, of)

    def _by_section(
        self, rows: NDArray[np.int64], of: Callable[[Section, NDArray[np.float32]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        parts = [of(self._section(number), self._source.xy_um[self._rows[some]]) for number, some in self._split(rows)]
        return np.concatenate(parts)

    def _split(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Runs of rows of one section, with its number."""
        number = np.searchsorted(self._bounds[:, 1], rows, side="right")
        for some in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(number)) + 1):
            yield int(number[some[0]]), rows[some]

    def _section(self, number: int) -> Section:
        # one lock for all: threads that read ahead nearly always wait for the same section
        with self._lock:
            if number not in self._held:
                self._held[number] = self._prepared(number)
                if len(self._held) > _KEPT:
                    self._held.popitem(last=False)
            self._held.move_to_end(number)
            return self._held[number]

    def _prepared(self, number: int) -> Section:
        source = self._source
        rows = self._rows[slice(*self._bounds[number])]
        xy = source.xy_um[rows]
        spacing_um = neighbours.spacing(xy)
        sigma_um = tuple(width * spacing_um for width in baselines.WIDTHS)
        where = smooth.tissue(xy, reach_um=smooth.CUT * sigma_um[-1])
        rows = rows[where.order]
        scores = None if self._basis is None else baselines.scores(source, rows, self._basis)
        mean = np.zeros(0) if scores is None else scores.mean(0, dtype=np.float64)
        kinds = None if source.types is None else source.types[rows].astype(np.int64)
        return Section(where, sigma_um, scores, mean, kinds)


def controls(recipe: Recipe, samples: CellSamples) -> dict[str, Control]:
    """Name to a function from a batch of `CellSamples.read` to features ``(m, F)`` of the rows it asked for.

    ``means`` are multi-scale Gaussian means of 20 components, ``neighbour_mean`` their plain mean over 30 cells,
    ``own`` the cell's own, ``composition`` the types around, where the data have types, and ``untrained`` the
    recipe's network before its first step. Data without counts have ``composition`` alone. The components are those
    of cells outside the held-out fold.
    """
    found: dict[str, Control] = {}
    basis = None
    if len(samples.source.panel):
        basis = _fitted(recipe, samples)
    rivals = Rivals(samples, basis)
    if basis is not None:
        found |= {"means": _by_rows(rivals.means), "neighbour_mean": _by_rows(rivals.neighbour_mean)}
        found |= {"own": _by_rows(rivals.own), "untrained": _untrained(recipe, samples)}
    if samples.source.types is not None:
        # three digits say all that fractions of a few dozen cells can, in half the space: 168 numbers a cell
        found["composition"] = _by_rows(lambda rows: rivals.composition(rows).astype(np.float16))
    return found


def stratified(samples: CellSamples, most: int, seed: int) -> NDArray[np.int64]:
    """Rows of the source of at most about ``most`` samples, from each section in proportion to its cells, ascending."""
    rows, chosen = samples.rows, [np.zeros(0, np.int64)]
    if len(rows) <= most:
        return rows
    for section in samples.source.sections:
        start, stop = np.searchsorted(rows, [section.rows.start, section.rows.stop])
        if stop > start:
            rng = stream(seed, samples.fingerprint, "stratified", section.id)
            size = max(1, round(most * (stop - start) / len(rows)))
            chosen.append(start + np.sort(rng.choice(stop - start, size, replace=False)))
    return rows[np.concatenate(chosen)]


def _fitted(recipe: Recipe, samples: CellSamples) -> Components:
    """Components of the training cells; of all, where the recipe's split does not fit the data, as with new brains."""
    try:
        train = CellSamples(samples.source, recipe, part="train")
    except Refused:
        train = samples
    return components.fit(samples.source.dense, stratified(train, LEARN_FROM, recipe.seed), COMPONENTS, components.logs)


def _scores(section: Section) -> NDArray[np.float32]:
    assert section.scores is not None
    return section.scores


def _by_rows(describe: Callable[[NDArray[np.int64]], NDArray[np.float32 | np.float16]]) -> Control:
    return lambda batch: describe(batch["index"].cpu().numpy())


def _untrained(recipe: Recipe, samples: CellSamples) -> Control:
    """The network with its weights as drawn, on the device of the trained one."""
    network = model.build(recipe, samples).to(compute.device()).eval()

    def run(batch: Batch) -> NDArray[np.float16]:
        with torch.no_grad():
            found = network.features({name: value.to(compute.device()) for name, value in batch.items()})
            # as the trained network's features are kept
            return found.cpu().numpy().astype(np.float16)

    return run
