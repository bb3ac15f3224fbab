"""Donors: whether features still tell which animal they come from, and which domains animals share.

n rows, d features, A animals, K domains.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from brodmann.errors import Refused, Usage
from brodmann.samples import stream
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _rows, _surroundings
from brodmann.tasks._inputs import take
from brodmann.tasks._probe import fit_predict
from brodmann.tasks._score import Estimate, Score

Codes = NDArray[np.int64]

_ROWS = 1000
_DOMAINS = 20
_STRIPS = 4
_PENALTY = 1e-2


@dataclass(frozen=True, eq=False)
class Shared:
    """Domains of several animals side by side.

    Parameters
    ----------
    present : DataFrame
        A row per domain: ``n`` of each animal, and ``animals`` in which it has enough rows.
    correlation : dict of (str, str) to float
        For every two animals the mean Pearson correlation of the composition of the domains both have.
    chance : dict of (str, str) to float
        The same with domains dealt out anew, mean of 100.
    """

    present: pd.DataFrame
    correlation: dict[tuple[str, str], float]
    chance: dict[tuple[str, str], float]


def probe(table: AnnData, domain: str, *, least: int = 30, seed: int = 0) -> Score:
    """Score how well a linear probe names the animal within domains that animals share: lower is better.

    Only rows of one domain are compared with each other, so that animals whose sections show different tissue are not
    told apart by that. What is tested lies elsewhere than what is learned: every fourth section of each animal is held
    out, or every fourth strip of tissue where an animal has fewer than four sections.

    Parameters
    ----------
    table : AnnData
    domain : str
        A column of ``obs``.
    least : int
        Rows an animal needs in a domain to take part there.
    seed : int

    Returns
    -------
    Score
        Balanced accuracy, mean over domains; ``baselines`` holds chance and the same of every baseline.

    Raises
    ------
    Usage
        No such column.
    Refused
        No domain with enough rows of two animals.
    """
    codes, names = _column(table, domain)
    animal, who = _animals(table)
    fold, held = _folds(table, animal)
    stored = cast("Mapping[str, Any]", table.obsm)
    # One draw of rows and folds for all, so that features and rivals answer the same question.
    tasks = _tasks(codes, animal, fold, len(names), len(who), least, seed)
    if not tasks:
        raise Refused(
            f"some domain of '{domain}' should have {least} rows of two animals on both sides of the split.",
            found=f"none of {len(names)}; {len(who)} animals.",
        )
    # of a large table only the rows that take part are read
    rows = np.unique(np.concatenate(tasks))
    tasks, animal, fold = [np.searchsorted(rows, task) for task in tasks], animal[rows], fold[rows]
    value, draws, tested = _read_out(take(table.X, rows), tasks, animal, fold, seed)
    chance = float(np.mean([1 / len(np.unique(animal[rows])) for rows in tasks]))
    baselines = {"chance": Estimate(chance, note="one over the number of animals, mean over domains")}
    gains: dict[str, Estimate] = {}
    for name in sorted(name for name in stored if name.startswith("baseline_")):
        other, drawn, _ = _read_out(take(stored[name], rows), tasks, animal, fold, seed)
        short = name.removeprefix("baseline_")
        baselines[short] = metrics.estimate(other, drawn)
        gains[short] = metrics.estimate(value - other, draws - drawn)
    gains["chance"] = metrics.estimate(value - chance, draws - chance)
    overall = metrics.estimate(value, draws)
    about = _rows.about(table)
    return Score(
        task="donors", target=domain, metric="balanced accuracy", value=value, interval=(overall.low, overall.high),
        n=tested, n_groups=len(tasks), cluster="domains", what=str(about.get("system", "rows")), split=held,
        probe="linear", seed=seed, baselines=baselines, gains=gains, recipe_hash=str(about.get("recipe_hash", "")),
        data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=(
            "lower is better: chance means that an animal cannot be told from its features",
            *(("an animal here is also a section or two: staining of sections counts as the animal's",)
              if int(_surroundings.sections(table).max()) + 1 < 4 * len(who) else ()),
        ),
    )  # fmt: skip


def shared(
    table: AnnData, domain: str, composition: NDArray[np.floating[Any]], *, least: int = 30, seed: int = 0
) -> Shared:
    """Compare domains between animals: in how many each is, and whether it is made of the same there.

    Parameters
    ----------
    table : AnnData
    domain : str
        A column of ``obs``.
    composition : ndarray (n, T) floating
        What each row is made of: one-hot types, or features.
    least : int
        Rows that count as present.
    seed : int

    Returns
    -------
    Shared
    """
    codes, names = _column(table, domain)
    animal, who = _animals(table)
    counts = np.zeros((len(names), len(who)), dtype=np.int64)
    known = codes >= 0
    np.add.at(counts, (codes[known], animal[known]), 1)
    frame = cast("Any", pd).DataFrame(counts, index=pd.Index(names, name="domain"), columns=list(who))
    frame["animals"] = (counts >= least).sum(axis=1)
    made = np.stack([centres(composition[animal == a], codes[animal == a], len(names)) for a in range(len(who))])
    correlation: dict[tuple[str, str], float] = {}
    chance: dict[tuple[str, str], float] = {}
    for a, b in itertools.combinations(range(len(who)), 2):
        both = np.flatnonzero((counts[:, a] >= least) & (counts[:, b] >= least))
        table_of = correlations(made[a, both], made[b, both])
        rng = stream(seed, "dealt out", a, b)
        pair = (who[a], who[b])
        correlation[pair] = float(np.diag(table_of).mean()) if len(both) else float("nan")
        dealt = [table_of[np.arange(len(both)), rng.permutation(len(both))].mean() for _ in range(100)]
        chance[pair] = float(np.mean(dealt)) if len(both) else float("nan")
    return Shared(frame, correlation, chance)


def match(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> list[tuple[int, int, float]]:
    """Pair the domains of two animals that were clustered apart, by the correlation of what they are made of.

    Parameters
    ----------
    a, b : ndarray (K_a, T), (K_b, T) floating
        Mean composition or features of each domain.

    Returns
    -------
    list of (int, int, float)
        Domain of ``a``, domain of ``b``, correlation: the assignment of greatest sum (Kuhn 1955).
    """
    table = correlations(a, b)
    rows, columns = linear_sum_assignment(-table)
    return [(int(i), int(j), float(table[i, j])) for i, j in zip(rows, columns, strict=True)]


def centres(x: NDArray[np.floating[Any]], codes: Codes, k: int) -> NDArray[np.float64]:
    """Mean of each domain's rows, zero where it has none: (k, d) float64."""
    known = codes >= 0
    total = np.zeros((k, x.shape[1]))
    np.add.at(total, codes[known], np.asarray(x, dtype=np.float64)[known])
    return total / np.maximum(np.bincount(codes[known], minlength=k), 1)[:, None]


def correlations(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Pearson correlation of each row of ``a`` with each of ``b``; 0 for constant rows."""

    def ready(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        away = np.asarray(rows, dtype=np.float64)
        away = away - away.mean(axis=1, keepdims=True)
        return away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)

    return ready(a) @ ready(b).T


def _column(table: AnnData, domain: str) -> tuple[Codes, tuple[str, ...]]:
    obs = _rows.places(table)
    if domain not in obs:
        raise Usage(f"domains should be a column of the table, not '{domain}'.", found=f"{', '.join(obs.columns)}.")
    codes, names = pd.factorize(obs[domain].astype("object"), sort=True)
    return codes.astype(np.int64), tuple(str(name) for name in names)


def _animals(table: AnnData) -> tuple[Codes, tuple[str, ...]]:
    codes, names = pd.factorize(_rows.brains(table), sort=True)
    if len(names) < 2:
        raise Refused("a donor probe needs at least two animals.", found=f"{len(names)}.")
    return codes.astype(np.int64), tuple(str(name) for name in names)


def _folds(table: AnnData, animal: Codes) -> tuple[Codes, str]:
    """Fold 0 to 3 of each row: sections of the same animal in turn, or strips of a section."""
    section, where = _surroundings.sections(table), _surroundings.positions(table)
    fold = np.zeros(len(section), dtype=np.int64)
    by_strip = 0
    for rows in _surroundings.each(animal):
        own = np.unique(section[rows], return_inverse=True)[1].reshape(-1)
        if own.max() + 1 >= _STRIPS:
            fold[rows] = own % _STRIPS
            continue
        by_strip += 1
        for some in _surroundings.each(section[rows]):
            place = where[rows[some]]
            along = place[:, int(place.var(axis=0).argmax())]
            fold[rows[some]] = np.argsort(np.argsort(along, kind="stable")) * _STRIPS // len(some)
    words = "every fourth section of each animal held out in turn"
    return fold, f"{words}; strips of tissue in {by_strip} animals with fewer than four" if by_strip else words


def _tasks(
    codes: Codes, animal: Codes, fold: Codes, domains: int, animals: int, least: int, seed: int
) -> list[NDArray[np.int64]]:
    """Rows of each domain that takes part: at most 1,000 of each animal that has enough."""
    sizes = np.bincount(codes[codes >= 0], minlength=domains)
    found: list[NDArray[np.int64]] = []
    for domain in np.argsort(-sizes, kind="stable").tolist():
        parts: list[NDArray[np.int64]] = []
        for who in range(animals):
            rows = np.flatnonzero((codes == domain) & (animal == who))
            if len(rows) >= least:
                parts.append(stream(seed, "donor rows", domain, who).permutation(rows)[:_ROWS])
        if len(parts) > 1:
            rows = np.sort(np.concatenate(parts))
            if len(np.unique(fold[rows])) > 1:
                found.append(rows)
        if len(found) == _DOMAINS:
            break
    return found


def _read_out(
    x: NDArray[Any], tasks: list[NDArray[np.int64]], animal: Codes, fold: Codes, seed: int
) -> tuple[float, NDArray[np.float64], int]:
    """Balanced accuracy: mean over domains, bootstrap draws of domains, and rows tested."""
    values: list[float] = []
    tested = 0
    for rows in tasks:
        features = np.asarray(x[rows], dtype=np.float32)
        present, codes = np.unique(animal[rows], return_inverse=True)
        codes = codes.reshape(-1).astype(np.int64)
        matrix = np.zeros((len(present), len(present)), dtype=np.int64)
        for held in np.unique(fold[rows]):
            test = fold[rows] == held
            if len(np.unique(codes[~test])) < len(present):
                continue
            said, _ = fit_predict(
                "linear", features[~test], codes[~test], fold[rows][~test], features[test], seed, penalty=_PENALTY
            )
            matrix += metrics.confusion(codes[test], np.asarray(said, dtype=np.int64), len(present))
        if matrix.sum():
            values.append(float(metrics.balanced_accuracy(matrix)))
            tested += int(matrix.sum())
    every = np.array(values)
    if len(every) < 3:
        return float(every.mean()), np.empty(0), tested
    rng = stream(seed, "donor draws", len(every))
    return float(every.mean()), every[rng.integers(0, len(every), (metrics.DRAWS, len(every)))].mean(axis=1), tested
