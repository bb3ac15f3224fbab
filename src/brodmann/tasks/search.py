"""Search: places that look like this one, and how near in the brain the most alike places are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import splits
from brodmann.errors import Refused, Usage
from brodmann.samples import stream
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _rows
from brodmann.tasks._drawn import drawn
from brodmann.tasks._score import Estimate, Score

_BLOCK = 8192
_ASK = 256
_QUERIES = 2000
_DRAWS = 400


@dataclass(frozen=True)
class SearchResult:
    """Most similar rows of each query, best first.

    Parameters
    ----------
    query : ndarray (q,) of str
        Ids that were asked for.
    ids : ndarray (q, k) of str
        Ids found; empty where fewer than k rows were allowed.
    similarity : ndarray (q, k) float32
        Cosine of the features, -1 to 1; NaN where empty.
    distance_mm : ndarray (q, k) float32
        How far from the query the row found lies, mm; NaN where empty.
    measured : str
        ``sheet`` (along the cortex) or ``space``.
    """

    query: NDArray[np.object_]
    ids: NDArray[np.object_]
    similarity: NDArray[np.float32]
    distance_mm: NDArray[np.float32]
    measured: str

    def frame(self) -> pd.DataFrame:
        """One row per row found: query, rank, id, similarity, distance_mm."""
        found = [
            (query, rank + 1, name, float(self.similarity[i, rank]), float(self.distance_mm[i, rank]))
            for i, query in enumerate(self.query)
            for rank, name in enumerate(self.ids[i])
            if name
        ]
        columns = cast("Any", ["query", "rank", "id", "similarity", "distance_mm"])
        return pd.DataFrame(found, columns=columns)


def search(
    table: AnnData,
    query: str | Sequence[str],
    *,
    k: int = 20,
    exclude_mm: float = 0.0,
    across: bool = True,
) -> SearchResult:
    """Find the places whose features are most like those of the query.

    Exact cosine similarity of every row, in blocks; the features stay float16 in memory.

    Parameters
    ----------
    table : AnnData
        Feature table.
    query : str or sequence of str
        Ids of rows.
    k : int
        How many to find.
    exclude_mm : float
        Leave out rows of the query's own brain that are this near.
    across : bool
        Look in other brains only; in other sections only when the table holds one brain.

    Returns
    -------
    SearchResult
        Best first.

    Raises
    ------
    Usage
        An id is not in the table, or k is below 1.
    """
    if k < 1:
        raise Usage("k should be at least 1.", found=f"{k}.")
    names = _rows.ids(table)
    asked = np.array([query] if isinstance(query, str) else list(query), dtype=object)
    row_of = {name: i for i, name in enumerate(names.tolist())}
    absent = [str(name) for name in asked if name not in row_of]
    if absent:
        raise Usage(
            "every query should be the id of a row of the table.",
            found=f"no row '{absent[0]}'" + (f" and {len(absent) - 1} more." if len(absent) > 1 else "."),
            do=f"ids look like '{names[0]}'.",
        )
    rows = np.array([row_of[name] for name in asked], dtype=np.int64)
    obs, brain = _rows.places(table), _rows.brains(table)
    home = brain if len(np.unique(brain.astype(str))) > 1 else splits.groups(obs, Split(by="section"))
    brain, home = (np.unique(names.astype(str), return_inverse=True)[1].reshape(-1) for names in (brain, home))
    where, measured = metrics.coordinates(obs)

    def forbidden(some: slice, block: NDArray[np.int64]) -> NDArray[np.bool_]:
        mine = rows[some, None]
        # A row never finds itself.
        hidden = home[mine] == home[None, block] if across else mine == block[None]
        if exclude_mm > 0:
            away = np.linalg.norm(where[mine] - where[None, block], axis=2)
            hidden |= (brain[mine] == brain[None, block]) & (away <= exclude_mm)
        return hidden

    best, cosine = _nearest(cast("Any", table.X), rows, np.arange(len(names)), k, forbidden)
    there = best >= 0
    away = np.linalg.norm(where[rows][:, None] - where[best], axis=2)
    return SearchResult(
        asked,
        np.where(there, names[best], ""),
        np.where(there, cosine, np.nan).astype(np.float32),
        np.where(there, away, np.nan).astype(np.float32),
        measured,
    )


def retrieval(
    table: AnnData,
    split: Split,
    *,
    seed: int = 0,
    queries: int = _QUERIES,
    extra_tables: Mapping[str, AnnData] | None = None,
    truth: Sequence[str] | None = None,
) -> Score:
    """Score how far from a held-out place its most similar place elsewhere lies: median, mm; lower is better.

    Queries are held-out rows, candidates the training rows of the same fold. Rivals: the nearest row in registered
    coordinates (the least that can be had), the features that came with the table, other tables, a random row.

    Parameters
    ----------
    table : AnnData
        Feature table in a common space.
    split : Split
        What the queries are kept apart from: ``brain`` asks across brains, ``section`` within them.
    seed : int
        Key of every draw.
    queries : int
        Most held-out rows to ask, drawn evenly over the folds.
    extra_tables : mapping of str to AnnData, optional
        Rivals embedded from the same samples, by name.
    truth : sequence of str, optional
        Columns that hold better coordinates than the registered ones (a phantom's own), mm; distances are measured in
        them.

    Returns
    -------
    Score
        ``predicted`` holds the distance of each query, mm; ``truth`` zeros.

    Raises
    ------
    Refused
        The sections are not in a common space.
    Leak
        The folds share a group or neighbourhood.
    """
    obs = _rows.places(table)
    if cast("Mapping[str, Any]", table.uns.get("space", {})).get("name") == "unregistered":
        raise Refused(
            "retrieval measures distances between sections, so they should be in a common space.",
            found="sections that were never registered.",
            do="register them first, or ask what needs no distances between sections: areas or domains.",
        )
    registered, measured = metrics.coordinates(obs)
    where = registered
    if truth is not None:
        missing = [name for name in truth if name not in obs]
        if missing:
            raise Usage(f"truth should name columns of the table, not '{missing[0]}'.")
        where, measured = obs[list(truth)].to_numpy(dtype=np.float64), " ".join(truth)
    made = splits.folds(obs, split)
    asked = _ask(made, queries, seed)
    every = np.concatenate(asked)

    def error(features: NDArray[Any]) -> NDArray[np.float64]:
        found = [_nearest(features, rows, fold.train, 1)[0][:, 0] for rows, fold in zip(asked, made, strict=True)]
        return np.linalg.norm(where[every] - where[np.concatenate(found)], axis=1)

    given: dict[str, NDArray[Any]] = {**_rows.baselines(table)}
    given |= {name: _rows.aligned(table, other, name) for name, other in (extra_tables or {}).items()}
    own = error(_rows.features(table))
    rng = stream(seed, "random row")
    rivals = {"coordinates only": _by_place(registered, where, asked, made)}
    rivals |= {name: error(features) for name, features in given.items()}
    anyone = np.concatenate([rng.choice(fold.train, len(rows)) for rows, fold in zip(asked, made, strict=True)])
    rivals["random"] = np.linalg.norm(where[every] - where[anyone], axis=1)
    units, unit, limits = drawn(table, split, every)
    boot = metrics.Bootstrap.of(units, seed)
    draws = {name: _medians(boot, values) for name, values in {"": own, **rivals}.items()}
    value = float(np.median(own))
    head = metrics.estimate(value, draws[""])
    notes = {
        "coordinates only": "nearest row in registered coordinates: the least that can be had",
        "random": "any training row",
    }
    about = _rows.about(table)
    index = pd.Index(_rows.ids(table)[every], name="id")
    low, high = np.percentile(own, [25, 75])
    remarks = [_rows.exposure(table, split), "lower is better", *limits]
    return Score(
        task="search",
        target="place",
        metric="median mm",
        value=value,
        interval=(head.low, head.high),
        n=len(every),
        n_groups=boot.times.shape[1],
        cluster=unit,
        what=str(about.get("system", "rows")),
        split=splits.describe(split, made),
        folds=tuple(fold.name for fold in made),
        probe="nearest by cosine",
        seed=seed,
        baselines={
            name: metrics.estimate(float(np.median(values)), draws[name], notes.get(name, ""))
            for name, values in rivals.items()
        },
        gains={
            name: metrics.estimate(value - float(np.median(values)), draws[""] - draws[name])
            for name, values in rivals.items()
        },
        more={
            "quartiles, mm": Estimate(value, float(low), float(high), f"of single queries, measured in: {measured}"),
            "mean, mm": Estimate(float(own.mean())),
        },
        predicted=pd.Series(own, index=index, name="predicted"),
        truth=pd.Series(np.zeros(len(own)), index=index, name="truth"),
        recipe_hash=str(about.get("recipe_hash", "")),
        data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=tuple(text for text in remarks if text),
    )


def _nearest(
    features: NDArray[Any], rows: NDArray[np.int64], among: NDArray[np.int64], k: int, forbidden: Any = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of ``among`` with the largest cosine to each of ``rows``: (q, k) row numbers, -1 where none; and cosines."""
    best = np.full((len(rows), k), -1, dtype=np.int64)
    cosine = np.full((len(rows), k), -np.inf, dtype=np.float32)
    for start in range(0, len(among), _BLOCK):
        block = among[start : start + _BLOCK]
        candidates = _unit(np.asarray(features[block], dtype=np.float32)).T
        keep = min(k, len(block))
        for first in range(0, len(rows), _ASK):
            some = slice(first, min(first + _ASK, len(rows)))
            similar = _unit(np.asarray(features[rows[some]], dtype=np.float32)) @ candidates
            if forbidden is not None:
                similar[forbidden(some, block)] = -np.inf
            top = np.argpartition(similar, -keep, axis=1)[:, -keep:]
            joined = np.concatenate([cosine[some], np.take_along_axis(similar, top, axis=1)], axis=1)
            order = np.argsort(-joined, axis=1, kind="stable")[:, :k]
            cosine[some] = np.take_along_axis(joined, order, axis=1)
            best[some] = np.take_along_axis(np.concatenate([best[some], block[top]], axis=1), order, axis=1)
    best[~np.isfinite(cosine)] = -1
    return best, cosine


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _ask(made: list[Fold], queries: int, seed: int) -> list[NDArray[np.int64]]:
    """Held-out rows to ask about, an even share from each fold."""
    share = max(queries // len(made), 1)
    return [np.sort(stream(seed, "queries", i).permutation(fold.test)[:share]) for i, fold in enumerate(made)]


def _by_place(
    registered: NDArray[np.float64], where: NDArray[np.float64], asked: list[NDArray[np.int64]], made: list[Fold]
) -> NDArray[np.float64]:
    """Distance to the training row that is nearest in registered coordinates."""
    from scipy.spatial import KDTree

    away: list[NDArray[np.float64]] = []
    for rows, fold in zip(asked, made, strict=True):
        found = fold.train[KDTree(registered[fold.train]).query(registered[rows])[1]]
        away.append(np.linalg.norm(where[rows] - where[found], axis=1))
    return np.concatenate(away)


def _medians(boot: metrics.Bootstrap, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each draw of clusters: the value at which half of the draw's weight is reached."""
    order = np.argsort(values)
    weight = boot.times[:_DRAWS, boot.cluster[order]]
    reached = np.cumsum(weight, axis=1)
    return values[order][(reached < reached[:, -1:] / 2).sum(axis=1)]
