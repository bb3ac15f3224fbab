"""Agreement of several clusterings with labels on some rows, counted once per unit: all else comes from the counts.

n rows of which m are judged, K classes, k clusters, U units of the bootstrap, B draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brodmann.tasks import _agreement, _surroundings
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._surroundings import Tissue

Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Value:
    """Agreement of several clusterings: mean, spread, draws, and coherence of the first."""

    value: float
    sd: float
    draws: NDArray[np.float64]
    whole: dict[str, float]

    @property
    def note(self) -> str:
        """Spread and coherence in words."""
        whole = ", ".join(f"{name} {number:.2f}" for name, number in self.whole.items())
        return f"sd {self.sd:.3f} over seeds" + (f"; {whole}" if whole else "")


@dataclass(frozen=True, eq=False)
class Judged:
    """Labelled rows among those that clusterings tell of.

    Parameters
    ----------
    rows : ndarray (m,) int64 or None
        Rows of the table that a clustering tells of, in order; None: all.
    at : ndarray (j,) int64
        Which of these carry labels.
    truth : ndarray (j,) int64
        Their classes.
    boot : Bootstrap
        Draws of their units.
    tissue : Tissue
    """

    rows: NDArray[np.int64] | None
    at: NDArray[np.int64]
    truth: Codes
    boot: metrics.Bootstrap
    tissue: Tissue

    @classmethod
    def of(cls, rows: NDArray[np.int64] | None, truth: Codes, units: Codes, tissue: Tissue, seed: int) -> Judged | None:
        """Judged rows with their bootstrap; None where none of the rows carries a label."""
        told = truth if rows is None else truth[rows]
        at = np.flatnonzero(told >= 0)
        if not len(at):
            return None
        unit = units[at] if rows is None else units[rows[at]]
        return cls(rows, at, told[at], metrics.Bootstrap.of(unit, seed), tissue)

    @property
    def sections(self) -> int:
        """Sections that the rows come from."""
        section = self.tissue.section if self.rows is None else self.tissue.section[self.rows]
        return int((np.bincount(section) > 0).sum())

    def measure(self, said: Iterable[NDArray[np.int32]], *, coherent: bool = True) -> Value:
        """Measure clusterings of ``rows``; those of all rows are told by `told` first.

        Parameters
        ----------
        said : iterable of ndarray (m,) int32
            Held one at a time if it is a generator.
        coherent : bool
            Whether coherence is measured too.
        """
        values: list[float] = []
        draws: list[NDArray[np.float64]] = []
        whole: dict[str, float] = {}
        for labels in said:
            if not values and coherent:
                whole = self._coherence(labels)
            counted = _agreement.counts(self.truth, labels[self.at], self.boot)
            values.append(float(_agreement.rand_index(counted.sum(axis=0))))
            draws.append(_agreement.drawn(counted, self.boot))
        value, drawn = float(np.mean(values)), np.mean(draws, axis=0)
        # a section that is drawn twice agrees with itself: draws lie above the value, and only their spread is taken
        return Value(value, float(np.std(values)), drawn - np.median(drawn) + value, whole)

    def told(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Clusters of ``rows``, of a clustering of all rows."""
        return labels if self.rows is None else labels[self.rows]

    def _coherence(self, labels: NDArray[np.int32]) -> dict[str, float]:
        look = self.tissue.look
        seen = labels[look] if self.rows is None else labels[np.searchsorted(self.rows, look)]
        return _agreement.coherence(seen, self.tissue.where[look], self.tissue.section[look], self.tissue.near)


def inside(truth: Codes, own: list[NDArray[np.int32]], section: NDArray[np.int64]) -> dict[int, float]:
    """Agreement in each section that carries labels, mean over clusterings."""
    found: dict[int, float] = {}
    for rows in _surroundings.each(section):
        some = rows[truth[rows] >= 0]
        if len(some):
            here = truth[some]
            each = [_agreement.ari(here, labels[some].astype(np.int64)) for labels in own]
            found[int(section[rows[0]])] = float(np.mean(each))
    return found
