"""Directions that name areas: what a linear probe, learned on training rows alone, weighs in a feature.

n rows, K classes, d features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import splits
from brodmann.errors import Usage
from brodmann.samples import stream
from brodmann.settings import Split
from brodmann.tasks import _classes, _rows
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._classes import Judge
from brodmann.tasks._probe import directions, fit_predict
from brodmann.tasks._score import Score

Real = NDArray[np.float32]
_PENALTY = 1e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class Readout:
    """A probe of one fold, and the rows that neither it nor its penalty saw.

    Parameters
    ----------
    classes : tuple of str
        Names, sorted.
    codes : ndarray (n,) int64
        Class of every row of the table; -1 where it takes no part.
    train, test : ndarray of int64
        Rows learned from, and rows held out.
    said : ndarray (test,) int64
        Class that the probe gives each held-out row; ``second``: the class it holds for next likely.
    told : mapping of str to (test,) int64
        The same of the probe of each rival.
    directions : mapping of str to (K, d) float32
        For ``features`` and each rival of the table by name, and for ``labels shuffled``: features whose training
        labels were dealt out anew.
    middle : (d,) float32
        Mean feature of the training rows.
    split, remarks : str, tuple of str
        What was held out, in words, and what a reader must know of it.
    """

    classes: tuple[str, ...]
    codes: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    said: NDArray[np.int64]
    second: NDArray[np.int64]
    told: Mapping[str, NDArray[np.int64]]
    directions: Mapping[str, Real]
    middle: Real
    split: str
    remarks: tuple[str, ...]

    def number(self, area: str) -> int:
        """Class number of an area.

        Raises
        ------
        Usage
            The probe does not know it.
        """
        if area not in self.classes:
            raise Usage(f"'{area}' should be an area that the probe knows.", found=f"{', '.join(self.classes)}.")
        return self.classes.index(area)

    def score(self, table: AnnData, target: str, *, seed: int = 0) -> Score:
        """How well the probe names the held-out rows, beside the probes of rivals; intervals over sections."""
        truth = self.codes[self.test]
        sections = pd.factorize(_rows.places(table)["section"].iloc[self.test])[0]
        boot = metrics.Bootstrap.of(sections, seed)
        judge = Judge(truth, len(self.classes), boot, metrics.macro_f1)
        whole, matrix = judge.estimate(self.said), metrics.confusion(truth, self.said, judge.size)
        return Score(
            task="explain",
            target=target,
            metric="macro-F1",
            value=whole.value,
            interval=(whole.low, whole.high),
            n=len(truth),
            n_groups=boot.times.shape[1],
            scored="read-out",
            what="patches",
            split=self.split,
            probe="linear",
            seed=seed,
            baselines={name: judge.estimate(said) for name, said in self.told.items()},
            gains={name: judge.gain(self.said, said) for name, said in self.told.items()},
            classes=self.classes,
            per_class=metrics.per_class(matrix, self.classes),
            remarks=self.remarks,
        )

    def held(self, area: str, limit: int | None = None) -> NDArray[np.int64]:
        """Held-out rows of an area; at most ``limit`` of them, evenly from all its sections."""
        mine = self.test[self.codes[self.test] == self.number(area)]
        if limit is None or len(mine) <= limit:
            return mine
        return mine[np.linspace(0, len(mine) - 1, limit).round().astype(int)]

    def typical(self, table: AnnData, area: str, count: int) -> NDArray[np.int64]:
        """Held-out rows of an area whose features lie nearest to the area's mean, from as many sections as can be."""
        mine = self.held(area)
        x = _rows.features(table)[mine]
        sections = _rows.places(table)["section"].astype(str).to_numpy()[mine]
        order = np.argsort(np.linalg.norm(x - x.mean(axis=0), axis=1), kind="stable")
        turn = pd.Series(sections[order]).groupby(sections[order]).cumcount().to_numpy()
        return mine[order[np.argsort(turn, kind="stable")[:count]]]


def readout(
    table: AnnData, target: str, split: Split, *, rivals: Sequence[str] = (), seed: int = 0, min_per_class: int = 30
) -> Readout:
    """Learn the probe of the first fold of a split, and those of its rivals.

    Parameters
    ----------
    table : AnnData
        Feature table; ``obs`` with id, subject, section, x_mm, y_mm, z_mm and the target.
    target : str
        A column of ``obs`` that names areas.
    split : Split
        What is held out whole; of several folds the first is taken.
    rivals : sequence of str
        Features that came with the table (``untrained`` ...), for which probes are learned too.
    seed : int
        Key of every draw.
    min_per_class : int
        Classes with fewer rows are left out.

    Raises
    ------
    Refused
        Too few groups or classes.
    Usage
        No such target.
    """
    made = _rows.check_folds(table, split, None)[:1]
    known = _rows.labelled(table, target, split, min_per_class=min_per_class)
    (train, test), size = _classes.parts(made, known.codes)[0], len(known.classes)
    group, codes = splits.groups(_rows.places(table), split)[train], known.codes[train]
    x = _rows.features(table)
    held = _rows.baselines(table) if rivals else {}
    given = {"features": x, **{name: held[name] for name in rivals if name in held}}
    found = {name: directions(values[train], codes, size, group, seed) for name, values in given.items()}
    dealt = stream(seed, "labels shuffled", len(train)).permutation(codes)
    # nothing can be learned from these labels, so no strength is better than another
    found["labels shuffled"] = directions(x[train], dealt, size, group, seed, penalty=_PENALTY)
    learned, chance = fit_predict("linear", x[train], codes, group, x[test], seed)
    told = {
        name: fit_predict("linear", values[train], codes, group, values[test], seed)[0].astype(np.int64)
        for name, values in given.items()
        if name != "features"
    }
    order = np.argsort(chance, axis=1)
    present = np.unique(codes)
    return Readout(
        classes=known.classes,
        codes=known.codes,
        train=train,
        test=test,
        said=learned.astype(np.int64),
        second=present[order[:, -2]].astype(np.int64),
        told=told,
        directions=found,
        middle=x[train].mean(axis=0),
        split=splits.describe(split, made),
        remarks=tuple(text for text in (*known.remarks, _rows.exposure(table, split)) if text),
    )
