"""Domains: regions that features of tissue fall into by themselves, at any number of them, nested."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.errors import Refused, Usage
from brodmann.progress import Say
from brodmann.tasks import _consensus, _inputs, _nested, _rows, _stability, _surroundings
from brodmann.tasks import _domain_score as judged
from brodmann.tasks._cluster import Rows, means
from brodmann.tasks._contenders import Clusterer, by_kmeans, noise
from brodmann.tasks._inputs import Inputs
from brodmann.tasks._score import Score
from brodmann.tasks._smoothed import smoothed
from brodmann.tasks._stability import Stability
from brodmann.tasks._surroundings import Tissue

Codes = NDArray[np.int64]
Path = Literal["auto", "consensus", "features"]

_SURROUNDINGS = ("composition", "means", "own")
"""Baselines that the path without a network takes; below `_inputs.SMALL` rows networks learn little more."""


@dataclass(frozen=True, eq=False)
class Domains:
    """Domains of every row, at one or several levels.

    Parameters
    ----------
    levels : tuple of Level
        Coarsest first; every domain is a union of domains of the next level.
    score : Score
        How far to believe them: agreement with labels where there are any, else stability.
    curve : Stability or None
        Stability over numbers of domains, where it was asked for.
    path : str
        What was clustered, and how.
    """

    levels: tuple[_nested.Level, ...]
    score: Score
    curve: Stability | None
    path: str

    def frame(self, table: AnnData) -> pd.DataFrame:
        """Columns ``domain_<k>``, categories in order of size: a row per row of the table."""
        columns = {
            f"domain_{level.k}": pd.Categorical.from_codes(level.labels, categories=list(level.ids))
            for level in self.levels
        }
        return pd.DataFrame(columns, index=_rows.places(table).index)


def domains(
    table: AnnData,
    k: int | Sequence[int] | Literal["stability"] | None = None,
    *,
    target: str | None = None,
    path: Path = "auto",
    seeds: int = 5,
    seed: int = 0,
    compare: bool = True,
    say: Say | None = None,
) -> Domains:
    """Find domains, and say how they compare with what needs no network.

    Agreement with a target is measured at its own number of classes, as the mean of ``seeds`` clusterings and never
    the best. Beside it stand: the features and every baseline of the table, each by k-means, by a tied Gaussian
    mixture, and by k-means after the same smoothing; smoothed noise, which shows what smoothing alone gives; and
    coherence in the tissue, which means nothing without agreement.

    Of more than a million rows all are given domains, and the value is over all that are labelled. Rivals learn from
    random rows of the whole table, as k-means of the features does, and are compared on whole random sections of a
    million rows together; gains over them take the value on the same rows, and the score says on which.

    Parameters
    ----------
    table : AnnData
        Feature table; ``obs`` with id, subject, section and places; ``obsm["baseline_means"]``,
        ``["baseline_composition"]`` and ``["baseline_own"]`` are used where they are.
    k : int, sequence of int, "stability" or None
        Numbers of domains, one a level; or those that stability offers. None: the target's own, else "stability".
    target : str, optional
        A column of labels to compare with; it takes no part in finding domains.
    path : {"auto", "consensus", "features"}
        What is clustered: the features by k-means, smoothed within sections, or the vote of surroundings and
        clusterers that needs no network. ``auto``: the vote below 20,000 rows where the table has what it needs, else
        the features.
    seeds, seed : int
        Number of repeats, and the key of every draw.
    compare : bool
        False leaves out rivals.
    say : Say, optional
        Where progress and an estimate go; nowhere by default.

    Returns
    -------
    Domains

    Raises
    ------
    Usage
        No such target or path, or a number of domains out of range.
    Refused
        Features that are not finite, fewer than two classes.
    """
    if seeds < 1:
        raise Usage("domains need at least one clustering.", found=f"seeds={seeds}.")
    truth, classes = _truth(table, target)
    tissue = Tissue.of(table, _consensus.NEIGHBOURS)
    given = Inputs(table, tissue.animal)
    chosen = _path(path, len(tissue.section), given)
    say = say or Say(quiet=True)
    begun = time.monotonic()
    if chosen == "features" and len(tissue.section) > _stability.ROWS:
        say(f"features of {len(tissue.section):,} rows are smoothed within their sections")
    x, found = _clusterer(chosen, given, tissue, seed)
    each = (time.monotonic() - begun) / len(x)
    cluster = cache(found)
    curve: Stability | None = None
    if k == "stability" or (k is None and target is None):
        top = _stability.grid(len(x))
        curve = _stability.stability(x, top, null=noise(tissue, seed), seed=seed)
        ks: tuple[int, ...] = curve.picks
    else:
        ks = (len(classes),) if k is None else (k,) if isinstance(k, int) else tuple(int(one) for one in cast("Any", k))
    if not ks or min(ks) < 2 or max(ks) > len(x):
        raise Usage(f"numbers of domains should lie between 2 and {len(x):,}.", found=", ".join(map(str, ks)))
    words = {"consensus": _consensus.WORDS, "features": "k-means of the features, smoothed within sections"}[chosen]
    ground = judged.Ground(table, tissue, given, x, words, chosen == "features", seed, compare, each)
    with judged.work(ground, say, ks, len(classes), seeds) as progress:
        leaves = cluster(max(ks), seed)
        progress.advance(f"{max(ks):,} domains")
        used = np.flatnonzero(np.bincount(leaves))
        if len(used) <= int(leaves.max()):
            leaves = np.searchsorted(used, leaves).astype(np.int32)
        levels = _nested.levels(leaves, means(x, leaves, len(used)), [min(one, len(used)) for one in ks])
        del leaves
        if truth is None:
            score = judged.unlabelled(ground, levels, progress)
        else:
            score = judged.labelled(ground, str(target), truth, classes, cluster, levels, seeds, progress)
    return Domains(levels, score, curve, words)


def _truth(table: AnnData, target: str | None) -> tuple[Codes | None, tuple[str, ...]]:
    """Class of each row (-1 where unlabelled) and names of the classes."""
    if target is None:
        return None, ()
    obs = _rows.places(table)
    if target not in obs:
        raise Usage(f"the target should be a column of the table, not '{target}'.", found=f"{', '.join(obs.columns)}.")
    column = cast("pd.Series", obs[target])
    number, texts = _rows.numbers(column)
    # an empty text is no label, and of a missing one the text says nothing
    there = ~column.isna().to_numpy() & ~np.isin(number, [i for i, text in enumerate(texts) if not text])
    held = np.bincount(number[there], minlength=len(texts)) > 0
    classes = tuple(sorted({text for text, some in zip(texts, held, strict=True) if some}))
    if len(classes) < 2:
        raise Refused(f"target '{target}' should have at least two classes.", found=", ".join(classes) or "no label.")
    rank = {name: i for i, name in enumerate(classes)}
    return np.where(there, np.array([rank.get(text, -1) for text in texts], dtype=np.int64)[number], -1), classes


def _path(path: Path, rows: int, given: Inputs) -> Literal["consensus", "features"]:
    able = any(name in given for name in _SURROUNDINGS)
    if path == "features" or (path == "auto" and (rows >= _inputs.SMALL or not able)):
        return "features"
    if path not in {"auto", "consensus"}:
        raise Usage("the path should be 'auto', 'consensus' or 'features'.", found=repr(path))
    if not able:
        raise Usage(
            "the consensus needs surroundings in the table.",
            found="no baseline_means, baseline_composition or baseline_own.",
            do="embed with controls, or use path='features'.",
        )
    return "consensus"


def _clusterer(chosen: str, given: Inputs, tissue: Tissue, seed: int) -> tuple[Rows, Clusterer]:
    """What is clustered, and a function of (k, seed) that clusters it."""
    if chosen == "features":
        x = smoothed(given["features"], tissue.where, tissue.section, seed=seed)
        return x, by_kmeans(x)
    near = tissue.near
    if len(tissue.look) < len(tissue.where):
        near = _surroundings.neighbours(tissue.where, tissue.section, _consensus.NEIGHBOURS)
    read = {name: np.asarray(given[name][:]) for name in _SURROUNDINGS if name in given}
    made = _consensus.describe(read, tissue.where, tissue.section, tissue.animal, seed=seed).blocks
    return list(made.values())[-1], lambda k, s: _consensus.consensus(made, k, near, s).labels
