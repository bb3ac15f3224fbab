"""Labelled patches in class-balanced batches: the one place where labels travel into batches.

Everywhere else labels lie apart from samples, so that no self-supervised model can see one by mistake. Here they are
what is learned, and only rows that the recipe's fold leaves to training are ever drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brodmann import atlases
from brodmann.errors import Refused
from brodmann.patches import views
from brodmann.patches.recipe import Recipe, Tune
from brodmann.patches.samples import PatchSamples
from brodmann.samples import Batch, stream

Rows = NDArray[np.int64]

_MOST_HELD = 5000
"""Patches that calibrate at most: a temperature is one number."""
_FEW_SECTIONS = 3
"""With fewer sections none is spared for calibration."""


class Labelled:
    """Samples of which a batch holds labelled patches, every class as often as any other.

    Parameters
    ----------
    samples : PatchSamples
        Those of the training.
    recipe : Recipe
        With ``tune``.
    classes : sequence of str
        Names of the classes, in the order of their numbers.

    Notes
    -----
    Rows are chosen when they are first asked for, so that a model may suit samples without labels, which it only
    describes. Every draw is a pure function of (seed, fingerprint, what is drawn).
    """

    def __init__(self, samples: PatchSamples, recipe: Recipe, classes: Sequence[str]) -> None:
        self.samples, self.recipe, self.classes = samples, recipe, tuple(classes)
        self.places, self.space = samples.places, samples.space
        self.labels: pd.DataFrame = cast("pd.DataFrame", samples.labels)
        self.fingerprint, self.extent = samples.fingerprint, samples.extent
        self.skipped, self.remarks = samples.skipped, samples.remarks
        self.read_rows, self.shard_rows = samples.read_rows, samples.shard_rows

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:
        return self.samples[index]

    def read(self, rows: Rows) -> Batch:
        """Patches as stored, without labels; see `PatchSamples.read`."""
        return self.samples.read(rows)

    @cached_property
    def codes(self) -> Rows:
        """Class number of every row (n,) int64; -1 where there is none."""
        return _codes(self.labels, asked(self.recipe).target, self.classes)

    @property
    def learned(self) -> Rows:
        """Rows that are learned, in order."""
        return self._drawn[0]

    @property
    def held(self) -> Rows:
        """Rows on other sections, in order, that are not learned: they calibrate."""
        return self._drawn[1]

    @cached_property
    def _drawn(self) -> tuple[Rows, Rows]:
        tune, key = asked(self.recipe), (self.recipe.seed, self.fingerprint)
        known = np.flatnonzero(self.codes >= 0)
        if tune.labels is not None and tune.labels > len(known):
            raise Refused(
                f"tune.labels = {tune.labels:,} should not exceed the labelled patches of the training sections.",
                found=f"{len(known):,} with a label in '{tune.target}'.",
                do="leave tune.labels out to use them all.",
            )
        section = self.places["section"].astype(str).to_numpy(dtype=object)[known]
        names = np.unique(section)
        held = np.zeros(len(known), bool)
        if tune.calibrate > 0 and len(names) >= _FEW_SECTIONS:
            count = max(1, round(tune.calibrate * len(names)))
            held = np.isin(section, stream(*key, "sections that calibrate").permutation(names)[:count])
        spare, rest = known[held], known[~held]
        if tune.labels is None:
            return rest, np.sort(stream(*key, "calibrate").permutation(spare)[:_MOST_HELD])
        some = min(round(tune.calibrate * tune.labels), len(spare))
        if tune.labels - some > len(rest):
            some = tune.labels - len(rest)
        chosen = balanced(self.codes, rest, tune.labels - some, stream(*key, "labels", tune.labels))
        return chosen, balanced(self.codes, spare, some, stream(*key, "calibrate", tune.labels))

    @cached_property
    def _pools(self) -> tuple[Rows, Rows, Rows]:
        """Learned rows sorted by class; for each class that has any, its first place there and its number of rows."""
        rows = self.learned[np.argsort(self.codes[self.learned], kind="stable")]
        _, first, size = np.unique(self.codes[rows], return_index=True, return_counts=True)
        if len(size) < 2:
            raise Refused(
                "labels should name at least two classes that are learned.",
                found=f"{len(size)} among {len(rows)} labelled patches.",
                do="raise tune.labels, or lower tune.calibrate.",
            )
        return rows, first, size

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Rows ``rank::world`` of the global batch of ``step``: views of patches, and ``label`` (n,) int64."""
        size, key = self.recipe.fit.batch, (self.recipe.seed, self.fingerprint)
        rows, first, count = self._pools
        rng = stream(*key, "labelled batch", step)
        pool = rng.integers(0, len(count), size)
        index = rows[first[pool] + (rng.random(size) * count[pool]).astype(np.int64)]
        view = views.draw(self.recipe.augment, size, stream(*key, "views", step))
        mine = np.arange(rank, size, world)
        return {
            **self.read(index[mine]),
            "view": torch.from_numpy(view[mine]),
            "label": torch.from_numpy(self.codes[index[mine]]),
        }


def asked(recipe: Recipe) -> Tune:
    """The recipe's settings for labels of patches; it must have some."""
    assert isinstance(recipe.tune, Tune)
    return recipe.tune


def classes(samples: PatchSamples, tune: Tune) -> list[str]:
    """Names of the classes that can be learned, sorted.

    Raises
    ------
    Refused
        No such column, or fewer than two classes with ``min_per_class`` patches.
    """
    if tune.target not in samples.labels:
        raise Refused(
            f"tune.target = '{tune.target}' should be a label of the training sections.",
            found=f"labels {', '.join(map(str, samples.labels.columns)) or '(none)'}.",
            cause='samples.where = "grid" takes no labels from points, or the column has another name.',
            do='name one in tune.target; labels come with points, under samples.where = "points" or "ribbon". Or name '
            f"an atlas: {', '.join(atlases.NAMES)}.",
        )
    share = _names(cast("pd.DataFrame", samples.labels), tune.target).value_counts()
    found = sorted(str(name) for name, count in share.items() if name and count >= tune.min_per_class)
    none = "(no label)"
    if len(found) < 2:
        raise Refused(
            f"'{tune.target}' should have at least two classes with {tune.min_per_class} patches to train on.",
            found=f"{len(found)}; patches per class: "
            f"{', '.join(f'{name or none} {count:,}' for name, count in [*share.items()][:8])}.",
            do="choose another tune.target, or lower tune.min_per_class.",
        )
    return found


def balanced(codes: Rows, rows: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Exactly ``count`` of the rows, as evenly over classes as these allow, in order.

    Parameters
    ----------
    codes : (n,) int64
        Class number of every row.
    rows : (m,) int64
        From which to draw, ``m >= count``.
    count : int
    rng : Generator
    """
    mixed = rng.permutation(rows)
    # the how-manieth of its class each row is: first all firsts, then all seconds ...
    order = np.argsort(codes[mixed], kind="stable")
    _, first, size = np.unique(codes[mixed][order], return_index=True, return_counts=True)
    turn = np.empty(len(mixed), np.int64)
    turn[order] = np.arange(len(mixed)) - np.repeat(first, size)
    return np.sort(mixed[np.argsort(turn, kind="stable")[:count]])


def _names(labels: pd.DataFrame, target: str) -> pd.Series:
    column = cast("pd.Series", labels[target])
    return column.astype(object).where(column.notna(), "").astype(str)


def _codes(labels: pd.DataFrame, target: str, names: Sequence[str]) -> Rows:
    return pd.Categorical(_names(labels, target), categories=list(names)).codes.astype(np.int64)
