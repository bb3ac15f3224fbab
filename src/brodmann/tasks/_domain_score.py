"""The score of domains: agreement and coherence side by side, rivals beside both, means over seeds, never the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.tasks import _agreement, _consensus, _nested, _rows, _stability, _surroundings
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._score import Estimate, Score
from brodmann.tasks._surroundings import Tissue

Codes = NDArray[np.int64]

Clusterer = Callable[[int, int], NDArray[np.int32]]
"""Cluster of each row, from a number of clusters and a seed."""

CONSENSUS = "consensus, no network"
"""Name of the headline value where the vote of baselines was clustered, and not the features."""

_MIXTURE_MOST = 50
_PER_SECTION = 12


def labelled(
    table: AnnData,
    target: str,
    truth: Codes,
    classes: tuple[str, ...],
    cluster: Clusterer,
    levels: tuple[_nested.Level, ...],
    others: Mapping[str, tuple[NDArray[Any], Clusterer]],
    tissue: Tissue,
    seeds: int,
    seed: int,
    words: str,
    scored: str,
) -> Score:
    """Agreement at the true number of classes.

    Parameters
    ----------
    table : AnnData
    target : str
    truth : ndarray (n,) int64
        Class of each row, -1 where it has none.
    classes : tuple of str
    cluster : callable
        The path that is scored.
    levels : tuple of Level
    others : mapping
        Each rival's rows, and how they are clustered.
    tissue : Tissue
    seeds, seed : int
    words : str
        The path in words.
    scored : str
        What was clustered: "features" or `CONSENSUS`.

    Returns
    -------
    Score
    """
    size = len(classes)
    unit, names = _units(tissue)
    remarks: list[str] = []
    known = np.flatnonzero(truth >= 0)
    if len(known) < len(truth):
        remarks.append(
            f"{len(truth) - len(known):,} of {len(truth):,} rows carry no label and take no part in the score"
        )
    own = [cluster(size, seed + s) for s in range(seeds)]
    value = _measure(own, truth, known, names, tissue, seed)
    more = _more(own, truth, known, tissue, value)
    for level in levels:
        if level.k == size and len(levels) > 1:
            more["ARI of the nested level"] = Estimate(
                _agreement.ari(truth[known], level.labels[known].astype(np.int64))
            )
    against: dict[str, Estimate] = {}
    gains: dict[str, Estimate] = {}
    for name, (x, rival) in others.items():
        if "mixture" in name and size > _MIXTURE_MOST:
            continue
        rows = known if len(x) == len(truth) else np.flatnonzero(truth[tissue.look] >= 0)
        labels = truth if len(x) == len(truth) else truth[tissue.look]
        units = names if len(x) == len(truth) else names[tissue.look]
        said = [rival(size, seed + s) for s in range(seeds)]
        found = _measure(said, labels, rows, units, tissue, seed)
        against[name] = metrics.estimate(found.value, found.draws, found.note)
        drawn = value.draws - found.draws if len(value.draws) == len(found.draws) else np.empty(0)
        if name == "smoothed noise":
            more["smoothed noise: same-label neighbours"] = Estimate(found.whole["same"], note="what smoothing gives")
        gains[name] = metrics.estimate(value.value - found.value, drawn)
    first = own[0].astype(np.int64)[known]
    number = _consensus.match(first, truth[known], size)
    named = np.array(classes, dtype=object)
    ids = pd.Index(_rows.ids(table)[known], name="id")
    matrix = metrics.confusion(truth[known], number[first], size)
    overall = metrics.estimate(value.value, value.draws)
    about = _rows.about(table)
    return Score(
        task="domains", target=target, metric="ARI", scored=scored,
        value=value.value, interval=(overall.low, overall.high),
        n=len(known), n_groups=len(np.unique(names[known])), cluster=unit, what=str(about.get("system", "rows")),
        split=f"nothing held out: {size} domains found without labels; mean of {seeds} seeds",
        probe=words, seed=seed, baselines=against, gains=gains, more=more, classes=classes,
        per_class=_per_class(matrix, classes), confusion=tuple(tuple(int(v) for v in row) for row in matrix),
        predicted=pd.Series(named[number[first]], index=ids, name="predicted", dtype=object),
        truth=pd.Series(named[truth[known]], index=ids, name="truth", dtype=object),
        recipe_hash=str(about.get("recipe_hash", "")), data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=(
            *_apart(scored, against), *remarks, "names of predicted domains are those of the classes they overlap most",
        ),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Value:
    """Agreement of several clusterings: mean, spread, draws, and coherence of the first."""

    value: float
    sd: float
    draws: NDArray[np.float64]
    whole: dict[str, float]

    @property
    def note(self) -> str:
        whole = ", ".join(f"{name} {number:.2f}" for name, number in self.whole.items())
        return f"sd {self.sd:.3f} over seeds; {whole}"


def _measure(
    said: Sequence[NDArray[np.int32]], truth: Codes, known: Codes, units: Codes, tissue: Tissue, seed: int
) -> _Value:
    wide = [labels.astype(np.int64) for labels in said]
    values = [_agreement.ari(truth[known], labels[known]) for labels in wide]
    boot = metrics.Bootstrap.of(units[known].astype(object), seed)
    draws = np.mean([_agreement.draws(truth[known], labels[known], boot) for labels in wide], axis=0)
    seen = wide[0][tissue.look] if len(wide[0]) == len(tissue.where) else wide[0]
    whole = _agreement.coherence(seen, tissue.where[tissue.look], tissue.section[tissue.look], tissue.near)
    return _Value(float(np.mean(values)), float(np.std(values)), draws, whole)


def _more(
    own: Sequence[NDArray[np.int32]], truth: Codes, known: Codes, tissue: Tissue, value: _Value
) -> dict[str, Estimate]:
    shared = np.array([_agreement.information(truth[known], labels[known].astype(np.int64)) for labels in own])
    more = {
        "sd of ARI over seeds": Estimate(value.sd),
        "NMI": Estimate(float(shared[:, 0].mean()), note=f"sd {shared[:, 0].std():.3f} over seeds"),
        "AMI": Estimate(float(shared[:, 1].mean()), note=f"sd {shared[:, 1].std():.3f} over seeds"),
        "same-label neighbours": Estimate(value.whole["same"], note="of the 6 nearest"),
        "PAS": Estimate(value.whole["PAS"], note="lower is smoother"),
        "CHAOS": Estimate(value.whole["CHAOS"], note="lower is smoother"),
    }
    parts = [rows for rows in _surroundings.each(tissue.section) if (truth[rows] >= 0).any()]
    if len(parts) > 1:
        each = [
            np.mean([_agreement.ari(truth[some], labels[some].astype(np.int64)) for labels in own])
            for rows in parts
            for some in [rows[truth[rows] >= 0]]
        ]
        more["ARI within sections"] = Estimate(float(np.mean(each)), note=f"mean of {len(each)} sections")
        for number, single in enumerate(each[:_PER_SECTION], 1):
            more[f"ARI in section {number}"] = Estimate(float(single))
    return more


def _units(tissue: Tissue) -> tuple[str, Codes]:
    """What the bootstrap draws: sections, or sixteen blocks of each where sections are few."""
    if tissue.section.max() >= 7:
        return "sections", tissue.section
    units = np.zeros(len(tissue.section), dtype=np.int64)
    for rows in _surroundings.each(tissue.section):
        plane = tissue.where[rows][:, np.argsort(-tissue.where[rows].var(axis=0), kind="stable")[:2]]
        rank = np.argsort(np.argsort(plane, axis=0, kind="stable"), axis=0) * 4 // len(rows)
        units[rows] = (tissue.section[rows] * 4 + rank[:, 0]) * 4 + rank[:, 1]
    return "blocks", np.unique(units, return_inverse=True)[1].reshape(-1).astype(np.int64)


def unlabelled(
    table: AnnData,
    levels: tuple[_nested.Level, ...],
    x: NDArray[Any],
    others: Mapping[str, NDArray[Any]],
    tissue: Tissue,
    seed: int,
    words: str,
    scored: str,
) -> Score:
    """Stability at each level's number of domains, and coherence in the tissue."""
    tried = [level.k for level in levels if 2 <= level.k <= min(len(x), _stability.ROWS) // 2]
    curve = _stability.stability(x, tried, seed=seed) if tried else None
    finest = levels[-1]
    whole = _agreement.coherence(
        finest.labels[tissue.look], tissue.where[tissue.look], tissue.section[tissue.look], tissue.near
    )
    more = {f"stability at {k}": Estimate(curve.at(k)) for k in tried} if curve else {}
    names = {"same": "same-label neighbours", "PAS": "PAS", "CHAOS": "CHAOS"}
    more |= {names[name]: Estimate(number, note=f"at {finest.k} domains") for name, number in whole.items()}
    against: dict[str, Estimate] = {}
    for name, rival in others.items():
        if curve and "mixture" not in name:
            against[name] = Estimate(_stability.stability(rival, [curve.k[-1]], seed=seed).mean[0])
    about = _rows.about(table)
    return Score(
        task="domains", target=f"{finest.k} domains", metric="stability", scored=scored,
        value=curve.mean[-1] if curve else float("nan"),
        interval=(float("nan"), float("nan")), n=len(x), n_groups=int(tissue.section.max()) + 1,
        what=str(about.get("system", "rows")), split="k-means of random halves, mean pairwise ARI", probe=words,
        seed=seed, baselines=against, more=more, recipe_hash=str(about.get("recipe_hash", "")),
        data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=(
            *_apart(scored, against),
            "no labels to compare with: stability says that domains come back, not that they are right",
        ),
    )  # fmt: skip


def _apart(scored: str, against: Mapping[str, Estimate]) -> tuple[str, ...]:
    """Say that the headline is not of the network, where it is not."""
    if scored == "features":
        return ()
    beside = "; its own rows stand beside it" if any(name.startswith("features") for name in against) else ""
    return (f"the features of the network took no part in this value{beside}",)


def _per_class(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    right, true, said = np.diag(matrix).astype(float), matrix.sum(axis=1), matrix.sum(axis=0)
    f1 = metrics.per_class_f1(matrix)
    return {
        name: {
            "precision": float(right[i] / said[i]) if said[i] else float("nan"),
            "recall": float(right[i] / true[i]) if true[i] else float("nan"),
            "f1": float(f1[i]),
            "n": int(true[i]),
        }
        for i, name in enumerate(classes)
    }
