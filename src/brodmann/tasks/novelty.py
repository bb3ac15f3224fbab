"""Novelty: borders inside known regions that an atlas does not draw, with what differs across them.

A clustering splits anything, uniform tissue too, and genes chosen to split cells then differ by construction. So the
whole procedure is repeated on tissue whose cells were dealt out anew within each region and section: a border counts
when it tells more about single cells than the borders found there.

n rows, p components, G genes or types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import QhullError, Voronoi
from scipy.special import ndtr
from scipy.stats import rankdata

from brodmann.errors import Refused, Usage
from brodmann.samples import stream
from brodmann.tasks import _rows, _stability, _surroundings, donors
from brodmann.tasks._cluster import kmeans
from brodmann.tasks._consensus import centred

Codes = NDArray[np.int64]

DRAWS = 99
_MOST_ROWS = 10_000
_PARTS = (2, 3, 4)
_JAGGED = np.pi / 4
_EFFECTS = 8


@dataclass(frozen=True, eq=False)
class Novelty:
    """What was found, and how it was judged.

    Parameters
    ----------
    regions : DataFrame
        A row per known region: ``n``, ``parts`` (sub-domains it is best split into), ``explained`` (share of single
        cells' variance), ``null`` (95th percentile of the same where cells were dealt out anew), ``p``, ``q``
        (Benjamini and Hochberg 1995), ``stability``, ``new``.
    borders : DataFrame
        A row per border inside a region that is ``new``: the two sub-domains, their sizes, ``length_mm`` over all
        sections, ``contiguous`` (share of their rows in the largest piece of each section), ``animals`` in which it
        was found, and ``differs``: the strongest genes or types, with the area under the curve.
    labels : Series
        Sub-domain of each row, ``region/1`` ...; the region itself where nothing is new.
    """

    regions: pd.DataFrame
    borders: pd.DataFrame
    labels: pd.Series


def novelty(
    table: AnnData,
    known: str,
    *,
    domain: str | None = None,
    expression: NDArray[Any] | csr_matrix | None = None,
    names: Sequence[str] = (),
    least: int = 100,
    level: float = 0.05,
    draws: int = DRAWS,
    seed: int = 0,
) -> Novelty:
    """Look for borders inside known regions.

    Parameters
    ----------
    table : AnnData
        With ``obsm["baseline_own"]``, what is known of each row by itself (not of its surroundings).
    known : str
        A column of regions.
    domain : str, optional
        A column of domains found elsewhere, such as `Domains.frame` gives: its borders are judged. By default each
        region is split anew into two to four, by its cells' surroundings.
    expression : ndarray or csr_matrix (n, G), optional
        Genes or types of each row, to say what differs.
    names : sequence of str
        Names of its columns.
    least : int
        Rows of a sub-domain, and half of those of a region.
    level : float
        False discovery rate over regions, and over genes.
    draws : int
        Repetitions on tissue that was dealt out anew; at most 10,000 rows of whole sections of a region take part.
    seed : int

    Returns
    -------
    Novelty

    Raises
    ------
    Usage
        No such column, or as many names as there are not columns.
    Refused
        The table does not hold rows' own values.
    """
    obs = _rows.places(table)
    for column in (known, *((domain,) if domain else ())):
        if column not in obs:
            raise Usage(f"'{column}' should be a column of the table.", found=f"{', '.join(obs.columns)}.")
    stored = cast("Any", table.obsm)
    if "baseline_own" not in stored:
        raise Refused(
            "novelty needs what each row shows by itself.", found="no baseline_own.", do="embed with controls."
        )
    if expression is not None and len(names) != cast("Any", expression).shape[1]:
        raise Usage("every column of the expression should have a name.", found=f"{len(names)} names.")
    where, section = _surroundings.positions(table), _surroundings.sections(table)
    brain = _rows.brains(table).astype(str)
    region = np.where(obs[known].isna(), "", obs[known].astype(str)).astype(str)
    given = None if domain is None else pd.factorize(obs[domain].astype("object"), sort=True)[0].astype(np.int64)
    every = np.asarray(stored["baseline_own"])
    labels, found, splits = region.astype(object), list[dict[str, Any]](), dict[str, _Split]()
    for number, name in enumerate(sorted(set(region.tolist()) - {""})):
        rows = _whole_sections(np.flatnonzero(region == name), section, stream(seed, "region", number))
        if len(rows) < 2 * least:
            continue
        own = every[rows].astype(np.float32)
        tissue = _Region(rows, where[rows], section[rows], brain[rows], own)
        split = _judge(tissue, None if given is None else given[rows], least, draws, seed)
        if split is not None:
            found.append({"region": name, "n": len(rows), **split.row})
            splits[name] = split
    columns = ["region", "n", "parts", "explained", "null", "p", "stability"]
    regions = cast("Any", pd).DataFrame(found, columns=columns).set_index("region")
    regions["q"] = _discovery(regions["p"].to_numpy(dtype=np.float64))
    regions["new"] = regions["q"] <= level
    borders: list[dict[str, Any]] = []
    for name in regions.index[regions["new"]]:
        split = splits[str(name)]
        labels[split.tissue.rows] = [f"{name}/{part + 1}" if part >= 0 else name for part in split.labels]
        shown = None if expression is None else expression[split.tissue.rows]
        borders += _borders(str(name), split, shown, names, least, level, seed)
    frame = cast("Any", pd).DataFrame(
        borders, columns=["region", "a", "b", "n_a", "n_b", "length_mm", "contiguous", "animals", "of", "differs"]
    )
    return Novelty(regions, frame, pd.Series(labels, index=pd.Index(_rows.ids(table), name="id"), name="novel"))


@dataclass(frozen=True, eq=False)
class _Region:
    """Rows of one known region."""

    rows: Codes
    where: NDArray[np.float64]
    section: Codes
    brain: NDArray[Any]
    own: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Split:
    """A region's best split, and the table row that judges it."""

    tissue: _Region
    labels: Codes
    around: NDArray[np.float32]
    row: dict[str, Any]


def _judge(tissue: _Region, given: Codes | None, least: int, draws: int, seed: int) -> _Split | None:
    """The split that stands out most from those of dealt-out tissue; None if no split leaves two large parts."""
    kernels = _surroundings.kernels(tissue.where, tissue.section)
    # Levels of whole sections are staining, not borders.
    own = centred(tissue.own, tissue.section)
    around = _surroundings.means(own, kernels)

    def cut(x: NDArray[np.float32], parts: int) -> Codes:
        return kmeans(x, parts, seed=seed, n_init=3).labels.astype(np.int64)

    if given is None:
        tried = {parts: cut(around, parts) for parts in _PARTS}
    else:
        kept = _large(given, least)
        tried = {int(kept.max()) + 1: kept} if kept.max() > 0 else {}
    tried = {parts: labels for parts, labels in tried.items() if np.bincount(labels[labels >= 0]).min() >= least}
    if not tried:
        return None
    value = {parts: _explained(own, labels) for parts, labels in tried.items()}
    null = {parts: np.empty(draws) for parts in tried}
    for draw in range(draws):
        order = _dealt(tissue.section, stream(seed, "dealt", draw, len(own)))
        again = _surroundings.means(own[order], kernels)
        for parts in tried:
            null[parts][draw] = _explained(own[order], cut(again, parts))
    # Each number of parts is measured in its own null; the best of all is compared with the best of each draw.
    scores = np.stack([_standard(np.append(null[parts], value[parts])) for parts in tried])
    most = scores.max(axis=0)
    best = list(tried)[int(scores[:, -1].argmax())]
    p = _chance(most[:-1], float(most[-1]))
    steady = _stability.stability(around, [best], seed=seed).mean[0] if best >= 2 else float("nan")
    row = {
        "parts": best,
        "explained": value[best],
        "null": float(np.percentile(null[best], 95)),
        "p": p,
        "stability": steady,
    }
    return _Split(tissue, tried[best], around, row)


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values about the mean of all but the last, in their standard deviations."""
    return (values - values[:-1].mean()) / (values[:-1].std() + 1e-9)


def _chance(null: NDArray[np.float64], value: float) -> float:
    """Share of draws that reach a value; beyond all of them, the tail of a Gumbel fit (as in Winkler et al. 2016).

    The fit is for maxima, and its tail is heavier than the normal: many regions are tested with few draws.
    """
    share = (1 + int((null >= value).sum())) / (1 + len(null))
    if share > 1 / (1 + len(null)):
        return share
    scale = max(float(null.std()) * np.sqrt(6) / np.pi, 1e-9)
    return min(share, float(-np.expm1(-np.exp(-(value - null.mean()) / scale - np.euler_gamma))))


def _large(given: Codes, least: int) -> Codes:
    """Domains with enough rows, numbered anew; -1 elsewhere."""
    names, count = np.unique(given[given >= 0], return_counts=True)
    number = {int(name): i for i, name in enumerate(names[count >= least])}
    return np.array([number.get(int(name), -1) for name in given], dtype=np.int64)


def _explained(own: NDArray[np.float32], labels: Codes) -> float:
    """Share of the variance of single rows that lies between parts."""
    some = labels >= 0
    x, codes = own[some].astype(np.float64), labels[some]
    middle = donors.centres(x, codes, int(codes.max()) + 1)
    within = ((x - middle[codes]) ** 2).sum()
    return 1 - float(within / max(((x - x.mean(axis=0)) ** 2).sum(), 1e-12))


def _dealt(section: Codes, rng: np.random.Generator) -> Codes:
    """Rows in a random order within each section: no place is special any more."""
    order = np.arange(len(section))
    for rows in _surroundings.each(section):
        order[rows] = rng.permutation(rows)
    return order


def _whole_sections(rows: Codes, section: Codes, rng: np.random.Generator) -> Codes:
    """Rows of whole random sections, some 10,000 at most."""
    if len(rows) <= _MOST_ROWS:
        return rows
    kept: list[Codes] = []
    order = rng.permutation(np.unique(section[rows]))
    for name in order.tolist():
        kept.append(rows[section[rows] == name])
        if sum(map(len, kept)) >= _MOST_ROWS:
            break
    return np.sort(np.concatenate(kept))


def _discovery(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """False discovery rate at which each test would be accepted (Benjamini and Hochberg 1995)."""
    if not len(p):
        return p
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    result = np.empty_like(p)
    result[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return result


def _borders(
    region: str,
    split: _Split,
    expression: Any,
    names: Sequence[str],
    least: int,
    level: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Every two sub-domains that touch."""
    tissue, labels = split.tissue, split.labels
    parts = int(labels.max()) + 1
    length = _lengths(tissue, labels, parts)
    whole = _contiguous(tissue, labels, parts)
    seen = {who: _found_alone(split, tissue.brain == who, parts, least, seed) for who in np.unique(tissue.brain)}
    result: list[dict[str, Any]] = []
    for a in range(parts):
        for b in range(a + 1, parts):
            if length[a, b] <= 0:
                continue
            result.append(
                {
                    "region": region,
                    "a": f"{region}/{a + 1}",
                    "b": f"{region}/{b + 1}",
                    "n_a": int((labels == a).sum()),
                    "n_b": int((labels == b).sum()),
                    "length_mm": length[a, b] / 1000,
                    "contiguous": float(min(whole[a], whole[b])),
                    "animals": sum(bool(alone[a] and alone[b]) for alone in seen.values()),
                    "of": len(seen),
                    "differs": _differs(expression, labels == a, labels == b, names, level),
                }
            )
    return result


def _found_alone(split: _Split, mine: NDArray[np.bool_], parts: int, least: int, seed: int) -> NDArray[np.bool_]:
    """Which sub-domains an animal shows when clustered without the others: (parts,) bool."""
    x, joint = split.around[mine], split.labels[mine]
    found = np.zeros(parts, dtype=bool)
    if len(x) < parts * least // 2:
        return found
    alone = kmeans(x, parts, seed=seed, n_init=3).labels.astype(np.int64)
    pairs = donors.match(donors.centres(x, joint, parts), donors.centres(x, alone, parts))
    for a, b, _ in pairs:
        both, either = ((joint == a) & (alone == b)).sum(), ((joint == a) | (alone == b)).sum()
        # Half of the union: the same piece of tissue, found twice.
        found[a] = (joint == a).sum() >= least // 2 and both >= 0.5 * either
    return found


def _lengths(tissue: _Region, labels: Codes, parts: int) -> NDArray[np.float64]:
    """Length of the borders between parts over all sections, um: (parts, parts).

    Sides of the Voronoi cells of rows of different parts, no side longer than two spacings, times pi / 4: the mean
    excess of a path along the sides of a random mesh over a straight line.
    """
    total = np.zeros((parts, parts))
    for rows in _surroundings.each(tissue.section):
        plane = _plane(tissue.where[rows])
        try:
            mesh = Voronoi(plane)
        except (QhullError, ValueError):
            continue
        limit = 2 * _surroundings.spacing(plane)
        for (i, j), side in zip(mesh.ridge_points, mesh.ridge_vertices, strict=True):
            a, b = sorted((int(labels[rows[i]]), int(labels[rows[j]])))
            far = np.linalg.norm(plane[i] - plane[j]) > limit
            if 0 <= a < b and not far and -1 not in side:
                total[a, b] += min(float(np.linalg.norm(np.subtract(*mesh.vertices[side]))), limit)
    return total * _JAGGED


def _plane(where: NDArray[np.float64]) -> NDArray[np.float64]:
    """The two axes along which a section lies."""
    return where[:, np.sort(np.argsort(-where.var(axis=0), kind="stable")[:2])]


def _contiguous(tissue: _Region, labels: Codes, parts: int) -> NDArray[np.float64]:
    """Share of each part's rows that lie in its largest connected piece of their section: (parts,)."""
    near = _surroundings.neighbours(tissue.where, tissue.section, 6)
    n = len(labels)
    i, j = np.repeat(np.arange(n), near.shape[1]), near.ravel()
    linked = (j >= 0) & (labels[i] == labels[j])
    graph = csr_matrix((np.ones(int(linked.sum())), (i[linked], j[linked])), shape=(n, n))
    piece = np.asarray(cast("Any", connected_components)(graph, directed=False)[1])
    result = np.zeros(parts)
    for part in range(parts):
        rows = np.flatnonzero(labels == part)
        largest = sum(int(np.bincount(piece[rows[some]]).max()) for some in _surroundings.each(tissue.section[rows]))
        result[part] = largest / max(len(rows), 1)
    return result


def _differs(expression: Any, a: NDArray[np.bool_], b: NDArray[np.bool_], names: Sequence[str], level: float) -> str:
    """The strongest genes or types across a border: ``name 0.81`` is the chance that a row of b shows more than of a.

    Mann and Whitney's test with ties, false discovery rate over genes.
    """
    if expression is None:
        return ""
    rows = np.flatnonzero(a | b)
    x = expression[rows]
    x = np.asarray(x.toarray() if issparse(x) else x, dtype=np.float64)
    second = b[rows]
    m, n = int((~second).sum()), int(second.sum())
    rank = rankdata(x, axis=0)
    area = (rank[second].sum(axis=0) - n * (n + 1) / 2) / (m * n)
    ties = np.array([(t**3 - t).sum() for t in (np.unique(column, return_counts=True)[1] for column in x.T)])
    variance = m * n / 12 * ((m + n + 1) - ties / max((m + n) * (m + n - 1), 1))
    z = (area - 0.5) * m * n / np.sqrt(np.maximum(variance, 1e-12))
    q = _discovery(2 * ndtr(-np.abs(z)))
    order = [i for i in np.argsort(-np.abs(area - 0.5)) if q[i] <= level][:_EFFECTS]
    return ", ".join(f"{names[i]} {area[i]:.2f}" for i in order)
