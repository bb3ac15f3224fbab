"""The score of domains: agreement and coherence side by side, rivals beside both, means over seeds, never the best."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.progress import Progress, Say
from brodmann.tasks import _agreement, _consensus, _contenders, _inputs, _nested, _rows, _stability, _surroundings
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._cluster import ROWS_PER_CENTRE, Rows, assign
from brodmann.tasks._contenders import MEANS, MIXTURE, NOISE, SMOOTHED, Clusterer, contenders
from brodmann.tasks._domain_value import Judged, Value, inside
from brodmann.tasks._inputs import Inputs
from brodmann.tasks._score import Estimate, Score
from brodmann.tasks._surroundings import Tissue

Codes = NDArray[np.int64]

CONSENSUS = "consensus, no network"
"""Name of the headline value where the vote of baselines was clustered, and not the features."""

_MIXTURE_MOST = 50
_PER_SECTION = 12
_ROUNDS = 25
_TRIAL = 32_768


@dataclass(frozen=True, eq=False)
class Ground:
    """What a score is measured on.

    Parameters
    ----------
    table : AnnData
    tissue : Tissue
    given : Inputs
        Features and baselines, each read when its turn comes.
    x : array (n, d)
        What was clustered.
    words : str
        How, in words.
    own : bool
        Whether it was the features.
    seed : int
    compare : bool
        Whether rivals are measured.
    each : float
        Seconds that smoothing took, per row; rivals take about as long.
    """

    table: AnnData
    tissue: Tissue
    given: Inputs
    x: Rows
    words: str
    own: bool
    seed: int
    compare: bool
    each: float

    @property
    def scored(self) -> str:
        """What the headline value is of."""
        return "features" if self.own else CONSENSUS

    def names(self, kinds: Sequence[str]) -> list[str]:
        """Rivals in order."""
        return _contenders.names(self.given, own=self.own, kinds=kinds) if self.compare else []


@contextmanager
def work(ground: Ground, say: Say, ks: Sequence[int], classes: int, seeds: int) -> Generator[Progress]:
    """Say how long it will take where rows are many, then count clusterings.

    Parameters
    ----------
    ground : Ground
    say : Say
    ks : sequence of int
        Numbers of domains.
    classes : int
        Of the target; 0 without one.
    seeds : int
    """
    rivals = ground.names(_kinds(classes) if classes else (MEANS,))
    steps = 1 + (seeds * (1 + len(rivals)) if classes else len(tried(ground, ks)) + len(rivals))
    rows = len(ground.x)
    if rows > _stability.ROWS:
        few = np.asarray(ground.x[:_TRIAL], np.float32)
        # once for what is compiled and loaded, once for the clock
        assign(few, few[:100])
        begun = time.monotonic()
        assign(few, few[: min(max(ks), len(few))])
        each = (time.monotonic() - begun) / (len(few) * min(max(ks), len(few)))
        # clusters, rows that are given one, rows that clusters are learned from, times
        asked, smoothing = [(max(ks), rows, ROWS_PER_CENTRE * max(ks), 1)], 0.0
        if classes:
            told = min(rows, _inputs.MANY)
            asked += [(classes, rows, ROWS_PER_CENTRE * classes, seeds)]
            asked += [(classes, told, ROWS_PER_CENTRE * classes, seeds * len(rivals))]
            smoothing = ground.each * told * sum(SMOOTHED in rival for rival in rivals)
        else:
            half = _stability.ROWS // 2
            asked += [(k, 3 * half, half, _stability.REPEATS) for k in tried(ground, ks)]
            asked += [(max(ks), 3 * half, half, _stability.REPEATS * len(rivals))]
        seconds = smoothing + sum(
            each * k * times * (told + _ROUNDS * min(learned, rows)) for k, told, learned, times in asked
        )
        memory = rows * (4 * (seeds + len(ks)) + 48) + min(rows, 2 * _inputs.MANY) * 4 * 200
        say(f"domains of {rows:,} rows: {steps:,} clusterings")
        say.estimate({"seconds": seconds, "memory_bytes": memory, "disk_bytes": rows * (40 + 4 * len(ks))})
    with say.progress("domains", 0, steps) as progress:
        yield progress


def _kinds(classes: int) -> tuple[str, ...]:
    """Clusterers of rivals: a covariance for more than fifty mixtures would be learned from too few rows."""
    return (MEANS, MIXTURE, SMOOTHED) if classes <= _MIXTURE_MOST else (MEANS, SMOOTHED)


def tried(ground: Ground, ks: Sequence[int]) -> list[int]:
    """Numbers of domains that halves of the rows can hold: those of which stability is measured."""
    return sorted({k for k in ks if 2 <= k <= min(len(ground.x), _stability.ROWS) // 2})


def labelled(
    ground: Ground,
    target: str,
    truth: Codes,
    classes: tuple[str, ...],
    cluster: Clusterer,
    levels: tuple[_nested.Level, ...],
    seeds: int,
    progress: Progress,
) -> Score:
    """Agreement at the true number of classes.

    Parameters
    ----------
    ground : Ground
    target : str
    truth : ndarray (n,) int64
        Class of each row, -1 where it has none.
    classes : tuple of str
    cluster : callable
        The path that is scored.
    levels : tuple of Level
    seeds : int
    progress : Progress
        Told of each clustering.

    Returns
    -------
    Score
    """
    size, tissue, seed = len(classes), ground.tissue, ground.seed
    unit, units = _units(tissue)
    remarks: list[str] = []
    everywhere = Judged.of(None, truth, units, tissue, seed)
    assert everywhere is not None
    known = everywhere.at
    if len(known) < len(truth):
        remarks.append(
            f"{len(truth) - len(known):,} of {len(truth):,} rows carry no label and take no part in the score"
        )
    own: list[NDArray[np.int32]] = []
    for s in range(seeds):
        own.append(cluster(size, seed + s))
        progress.advance(ground.scored)
    value = everywhere.measure(own)
    more = _more(own, truth, everywhere, value, _rows.numbers(_rows.places(ground.table)["section"])[1])
    for level in levels:
        if level.k == size and len(levels) > 1:
            more["ARI of the nested level"] = Estimate(
                _agreement.ari(everywhere.truth, level.labels[known].astype(np.int64))
            )
    against, gains = _against(ground, everywhere, value, own, truth, units, size, progress, more, remarks)
    first = own[0].astype(np.int64)[known]
    number = _consensus.match(first, everywhere.truth, size)
    named = np.array(classes, dtype=object)
    ids = pd.Index(_rows.ids(ground.table)[known], name="id")
    matrix = metrics.confusion(everywhere.truth, number[first], size)
    overall = metrics.estimate(value.value, value.draws)
    about = _rows.about(ground.table)
    return Score(
        task="domains", target=target, metric="ARI", scored=ground.scored,
        value=value.value, interval=(overall.low, overall.high),
        n=len(known), n_groups=everywhere.boot.times.shape[1], cluster=unit, what=str(about.get("system", "rows")),
        split=f"nothing held out: {size} domains found without labels; mean of {seeds} seeds",
        probe=ground.words, seed=seed, baselines=against, gains=gains, more=more, classes=classes,
        per_class=metrics.per_class(matrix, classes),
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
        predicted=pd.Series(named[number[first]], index=ids, name="predicted", dtype=object),
        truth=pd.Series(named[everywhere.truth], index=ids, name="truth", dtype=object),
        recipe_hash=str(about.get("recipe_hash", "")), data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=(
            *_apart(ground.scored, against), *remarks,
            "names of predicted domains are those of the classes they overlap most",
        ),
    )  # fmt: skip


def _against(
    ground: Ground,
    everywhere: Judged,
    value: Value,
    own: Sequence[NDArray[np.int32]],
    truth: Codes,
    units: Codes,
    size: int,
    progress: Progress,
    more: dict[str, Estimate],
    remarks: list[str],
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Each rival's agreement, and what the value gains over it on the same rows and draws."""
    against: dict[str, Estimate] = {}
    gains: dict[str, Estimate] = {}
    if not ground.compare:
        return against, gains
    tissue, seed = ground.tissue, ground.seed
    compared = _contenders.sections(tissue, truth, seed) if len(truth) > _inputs.MANY else None
    places: dict[int, tuple[Judged | None, Value | None]] = {0: (everywhere, value)}
    for rival in contenders(
        ground.given, tissue, seed, own=ground.own, kinds=_kinds(size), size=size, judged=compared,
    ):  # fmt: skip
        key = 0 if rival.rows is None else len(rival.rows)
        if key not in places:
            here = Judged.of(rival.rows, truth, units, tissue, seed)
            # the value on the same rows, so that gains are paired
            same = None if here is None else here.measure((here.told(labels) for labels in own), coherent=False)
            places[key] = here, same
        here, same = places[key]
        if here is None or same is None:
            against[rival.name] = Estimate(float("nan"), note="none of the rows it was measured on carries a label")
            progress.advance(rival.name, by=len(own))
            continue
        said: list[NDArray[np.int32]] = []
        for s in range(len(own)):
            said.append(rival.cluster(size, seed + s))
            progress.advance(rival.name)
        found = here.measure(said)
        note = "" if rival.rows is None else f"; on {len(here.at):,} rows of {here.sections} sections"
        against[rival.name] = metrics.estimate(found.value, found.draws, found.note + note)
        drawn = same.draws - found.draws if len(same.draws) == len(found.draws) else np.empty(0)
        if rival.name == NOISE:
            more["smoothed noise: same-label neighbours"] = Estimate(found.whole["same"], note="what smoothing gives")
        gains[rival.name] = metrics.estimate(same.value - found.value, drawn)
        if compared is not None and rival.rows is compared and len(against) == 1:
            where = f"{len(here.at):,} labelled rows of {here.sections} whole random sections"
            more["ARI on the rows of rivals"] = Estimate(same.value, note=f"{where}: gains start from here")
            remarks.append(f"rivals are compared on {where}, and gains over them with the value on the same rows")
    return against, gains


def _more(
    own: list[NDArray[np.int32]], truth: Codes, everywhere: Judged, value: Value, names: Sequence[str]
) -> dict[str, Estimate]:
    shared = np.array(
        [_agreement.information(everywhere.truth, labels[everywhere.at].astype(np.int64)) for labels in own]
    )
    more = {
        "sd of ARI over seeds": Estimate(value.sd),
        "NMI": Estimate(float(shared[:, 0].mean()), note=f"sd {shared[:, 0].std():.3f} over seeds"),
        "AMI": Estimate(float(shared[:, 1].mean()), note=f"sd {shared[:, 1].std():.3f} over seeds"),
        "same-label neighbours": Estimate(value.whole["same"], note="of the 6 nearest"),
        "PAS": Estimate(value.whole["PAS"], note="lower is smoother"),
        "CHAOS": Estimate(value.whole["CHAOS"], note="lower is smoother"),
    }
    each = inside(truth, own, everywhere.tissue.section)
    if len(each) > 1:
        more["ARI within sections"] = Estimate(float(np.mean([*each.values()])), note=f"mean of {len(each)} sections")
        for number in [*each][:_PER_SECTION]:
            more[f"ARI in {names[number]}"] = Estimate(each[number])
    return more


def _units(tissue: Tissue) -> tuple[str, Codes]:
    """What the bootstrap draws: sections, or sixteen blocks of each where sections are few."""
    if tissue.section.max() >= 7:
        return "sections", tissue.section
    return "blocks", _surroundings.blocks(tissue.where, tissue.section)


def unlabelled(ground: Ground, levels: tuple[_nested.Level, ...], progress: Progress) -> Score:
    """Stability at each level's number of domains, and coherence in the tissue."""
    x, tissue, seed = ground.x, ground.tissue, ground.seed
    several = tried(ground, [level.k for level in levels])
    curve = _stability.stability(x, several, seed=seed, done=progress.advance) if several else None
    finest = levels[-1]
    whole = _agreement.coherence(
        finest.labels[tissue.look], tissue.where[tissue.look], tissue.section[tissue.look], tissue.near
    )
    more = {f"stability at {k}": Estimate(curve.at(k)) for k in several} if curve else {}
    names = {"same": "same-label neighbours", "PAS": "PAS", "CHAOS": "CHAOS"}
    more |= {names[name]: Estimate(number, note=f"at {finest.k} domains") for name, number in whole.items()}
    against: dict[str, Estimate] = {}
    if curve and ground.compare:
        most = curve.k[-1]
        for rival in contenders(
            ground.given, tissue, seed, own=ground.own, kinds=(MEANS,), size=1, judged=tissue.look[:0]
        ):
            against[rival.name] = Estimate(_stability.stability(rival.x, [most], seed=seed).mean[0])
            progress.advance(rival.name)
    about = _rows.about(ground.table)
    return Score(
        task="domains", target=f"{finest.k} domains", metric="stability", scored=ground.scored,
        value=curve.mean[-1] if curve else float("nan"),
        interval=(float("nan"), float("nan")), n=len(x), n_groups=int(tissue.section.max()) + 1,
        what=str(about.get("system", "rows")), split="k-means of random halves, mean pairwise ARI", probe=ground.words,
        seed=seed, baselines=against, more=more, recipe_hash=str(about.get("recipe_hash", "")),
        data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=(
            *_apart(ground.scored, against),
            "no labels to compare with: stability says that domains come back, not that they are right",
        ),
    )  # fmt: skip


def _apart(scored: str, against: Mapping[str, Estimate]) -> tuple[str, ...]:
    """Say what the headline is of, if not of the features as they are."""
    if scored == "features":
        return ("features were smoothed within their sections before they were clustered",)
    beside = "; its own rows stand beside it" if any(name.startswith("features") for name in against) else ""
    return (f"the features of the network took no part in this value{beside}",)
