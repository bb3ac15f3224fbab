"""Domains: regions that features of tissue fall into by themselves, at any number of them, nested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.errors import Refused, Usage
from brodmann.samples import stream
from brodmann.tasks import _consensus, _nested, _rows, _stability, _surroundings
from brodmann.tasks import _domain_score as judged
from brodmann.tasks._cluster import kmeans
from brodmann.tasks._domain_score import Clusterer
from brodmann.tasks._mixture import gmm
from brodmann.tasks._score import Score
from brodmann.tasks._stability import Stability
from brodmann.tasks._surroundings import Tissue

Codes = NDArray[np.int64]
Path = Literal["auto", "consensus", "features"]

SMALL = 20_000
"""Rows below which surroundings without a network are the default path: networks learn little more from so few."""

_GMM_ROWS = 20_000
_BLOCK = 65_536


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
) -> Domains:
    """Find domains, and say how they compare with what needs no network.

    Agreement with a target is measured at its own number of classes, as the mean of ``seeds`` clusterings and never
    the best. Beside it stand: the features and every baseline of the table, each by k-means and by a tied Gaussian
    mixture; smoothed noise, which shows what smoothing alone gives; and coherence in the tissue, which means nothing
    without agreement.

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
        What is clustered: the features by k-means, or the vote of surroundings and clusterers that needs no network.
        ``auto``: the vote below 20,000 rows where the table has what it needs, else the features.
    seeds, seed : int
        Number of repeats, and the key of every draw.
    compare : bool
        False leaves out rivals.

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
    given = _inputs(table, tissue.animal)
    chosen = _path(path, len(tissue.section), given)
    x, found = _clusterer(chosen, given, tissue, seed)
    cluster = cache(found)
    curve: Stability | None = None
    if k == "stability" or (k is None and target is None):
        top = _stability.grid(len(x))
        curve = _stability.stability(x, top, null=_noise(tissue, seed), seed=seed)
        ks: tuple[int, ...] = curve.picks
    else:
        ks = (len(classes),) if k is None else (k,) if isinstance(k, int) else tuple(int(one) for one in cast("Any", k))
    if not ks or min(ks) < 1 or max(ks) > len(x):
        raise Usage(f"numbers of domains should lie between 1 and {len(x):,}.", found=", ".join(map(str, ks)))
    leaves = cluster(max(ks), seed)
    used, leaves = np.unique(leaves, return_inverse=True)
    centres = np.stack([np.asarray(x[leaves == leaf], np.float32).mean(axis=0) for leaf in range(len(used))])
    levels = _nested.levels(leaves, centres, [min(one, len(used)) for one in ks])
    others = _rivals(given, tissue, seed) if compare else {}
    if chosen == "features":
        # it is the value that is scored: no rival of itself
        others.pop("features, k-means", None)
    words = {"consensus": _consensus.WORDS, "features": "k-means of the features"}[chosen]
    scored = {"consensus": judged.CONSENSUS, "features": "features"}[chosen]
    if truth is None:
        score = judged.unlabelled(
            table, levels, x, {name: rival[0] for name, rival in others.items()}, tissue, seed, words, scored
        )
    else:
        score = judged.labelled(
            table, str(target), truth, classes, cluster, levels, others, tissue, seeds, seed, words, scored
        )
    return Domains(levels, score, curve, words)


def _truth(table: AnnData, target: str | None) -> tuple[Codes | None, tuple[str, ...]]:
    """Class of each row (-1 where unlabelled) and names of the classes."""
    if target is None:
        return None, ()
    obs = _rows.places(table)
    if target not in obs:
        raise Usage(f"the target should be a column of the table, not '{target}'.", found=f"{', '.join(obs.columns)}.")
    column = obs[target]
    names = np.where(column.isna(), "", column.astype(str)).astype(object)
    classes = tuple(sorted({str(name) for name in names if name}))
    if len(classes) < 2:
        raise Refused(f"target '{target}' should have at least two classes.", found=", ".join(classes) or "no label.")
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number.get(str(name), -1) for name in names], dtype=np.int64), classes


def _inputs(table: AnnData, animal: Codes) -> dict[str, NDArray[Any]]:
    """Features and baselines of the table by name, centred in each animal."""
    stored = cast("Mapping[str, Any]", table.obsm)
    raw = {"features": table.X} | {
        name.removeprefix("baseline_"): stored[name] for name in sorted(stored) if name.startswith("baseline_")
    }
    found: dict[str, NDArray[Any]] = {}
    for name, values in raw.items():
        values = np.asarray(values)
        # float16 stays float16: ten million rows would not fit twice.
        values = values if len(values) > SMALL else values.astype(np.float32)
        if not all(np.isfinite(values[i : i + _BLOCK]).all() for i in range(0, len(values), _BLOCK)):
            raise Refused(f"'{name}' should be finite.", found="NaN or infinity in the table.")
        found[name] = _consensus.centred(values, animal)
    return found


def _path(path: Path, rows: int, given: Mapping[str, Any]) -> Literal["consensus", "features"]:
    able = bool({"own", "means", "composition"} & set(given))
    if path == "features" or (path == "auto" and (rows >= SMALL or not able)):
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


def _clusterer(
    chosen: str, given: Mapping[str, NDArray[Any]], tissue: Tissue, seed: int
) -> tuple[NDArray[Any], Clusterer]:
    """What is clustered, and a function of (k, seed) that clusters it."""
    if chosen == "features":
        return given["features"], _by_kmeans(given["features"])
    near = tissue.near
    if len(tissue.look) < len(tissue.where):
        near = _surroundings.neighbours(tissue.where, tissue.section, _consensus.NEIGHBOURS)
    made = _consensus.describe(given, tissue.where, tissue.section, tissue.animal, seed=seed).blocks
    return list(made.values())[-1], lambda k, s: _consensus.consensus(made, k, near, s).labels


def _by_kmeans(x: NDArray[Any]) -> Clusterer:
    starts = 10 if len(x) <= SMALL else 1
    return lambda k, s: kmeans(x, k, seed=s, n_init=starts).labels


def _by_mixture(x: NDArray[Any]) -> Clusterer:
    def cluster(k: int, s: int) -> NDArray[np.int32]:
        rows = np.sort(stream(s, "mixture rows", len(x)).permutation(len(x))[:_GMM_ROWS])
        fitted = gmm(np.asarray(x[rows], np.float32), k, covariance="tied", seed=s)
        return fitted.labels if len(rows) == len(x) else fitted.predict(x)

    return cluster


def _rivals(given: Mapping[str, NDArray[Any]], tissue: Tissue, seed: int) -> dict[str, tuple[NDArray[Any], Clusterer]]:
    """Every rival by name: what it clusters, and how."""
    found: dict[str, tuple[NDArray[Any], Clusterer]] = {}
    for name, x in given.items():
        found[f"{name}, k-means"] = x, _by_kmeans(x)
        found[f"{name}, tied mixture"] = x, _by_mixture(x)
    noise = _noise(tissue, seed)
    found["smoothed noise"] = noise, _by_kmeans(noise)
    return found


def _noise(tissue: Tissue, seed: int) -> NDArray[np.float32]:
    """Smoothed noise on the rows whose coherence is measured."""
    around = _surroundings.kernels(tissue.where[tissue.look], tissue.section[tissue.look])
    return _surroundings.noise(around, seed)
