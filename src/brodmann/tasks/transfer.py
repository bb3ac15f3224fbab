"""Transfer: what a core learned on other animals is worth when a new animal was recorded for minutes only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._medians import Units, median
from brodmann.tasks._score import Estimate, Score

Real = NDArray[np.float64]
Cell = tuple[str, float, str]
"""Domain, minutes, method."""

MODEL, RIVAL = "foundation", "individual"


@dataclass(frozen=True, eq=False, kw_only=True)
class Point:
    """One model of one new animal, as judged on its held-out clips.

    Parameters
    ----------
    subject : str
        The animal.
    seed : int
        Of the run.
    minutes : float
        Training time in the new animal.
    method : str
        ``foundation``: frozen core of other animals; ``individual``: all trained on this animal; or another name.
    ids : ndarray (n,) of str
        Neurons.
    cc_norm : ndarray (n,) float
        CC_norm of each; NaN where undefined.
    domain : str
        Kind of stimulus it was judged on.
    """

    subject: str
    seed: int
    minutes: float
    method: str
    ids: NDArray[Any]
    cc_norm: NDArray[np.floating[Any]]
    domain: str = "natural"


def transfer(
    points: Iterable[Point],
    *,
    main: str = "natural",
    target: str = "responses",
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> Score:
    """Score how few minutes a new animal needs: median CC_norm by minutes and method, with paired gains.

    A value is the median over neurons of all animals, averaged over seeds. Its interval draws neurons within each
    animal, the same neurons for every seed, method and duration; it says nothing about other animals or seeds, whose
    own values stand in the notes.

    Parameters
    ----------
    points : iterable of Point
        Every (animal, seed, minutes, method, domain) once; "foundation" and "individual" at the same minutes.
    main : str
        Domain that was trained on; the headline is the foundation model's median at the fewest minutes there.
    target : str
        What was predicted, for the name of the score.
    seed : int
        Key of the draws.
    about : mapping, optional
        ``recipe_hash`` and ``data_fingerprint``.

    Returns
    -------
    Score
        ``baselines`` and ``gains`` at the fewest minutes; ``more`` holds ``"foundation, 4 min"``,
        ``"gain over individual, 4 min"``, and with the domain in front what was never trained on.

    Raises
    ------
    Refused
        No point of the foundation model in the main domain, a point given twice, neurons that differ between points
        of one animal, or methods judged on other animals or seeds.
    """
    curves = _gathered(list(points))
    table = curves.values
    # the main domain first, the model before its rivals, short durations before long ones
    cells = sorted(table, key=lambda cell: (cell[0] != main, cell[0], cell[2] != MODEL, cell[2], cell[1]))
    own = [cell for cell in cells if cell[0] == main and cell[2] == MODEL]
    if not own:
        raise Refused(
            f"the {MODEL} model should be judged on '{main}'.",
            found=f"{sorted({f'{method} on {domain}' for domain, _, method in cells})}." if cells else "no points.",
        )
    units = Units.of(curves.subject, seed, whole=False)
    drawn = units.medians({f"{cell} {key}": value for cell, by in table.items() for key, value in by.items()})
    draws = {cell: np.mean([drawn[f"{cell} {key}"] for key in by], axis=0) for cell, by in table.items()}
    values = {cell: float(np.mean([median(value) for value in by.values()])) for cell, by in table.items()}
    more: dict[str, Estimate] = {}
    gains: dict[Cell, Estimate] = {}
    for cell in cells:
        domain, minutes, method = cell
        place, model, home = "" if domain == main else f"{domain}, ", (domain, minutes, MODEL), (main, minutes, method)
        more[f"{place}{method}, {minutes:g} min"] = metrics.estimate(values[cell], draws[cell], _named(curves, cell))
        if method != MODEL and model in values:
            _paired(curves, model, cell)
            gains[cell] = metrics.estimate(values[model] - values[cell], draws[model] - draws[cell])
            more[f"{place}gain over {method}, {minutes:g} min"] = gains[cell]
        if domain != main and values.get(home):
            share = np.divide(draws[cell], draws[home], out=np.full_like(draws[home], np.nan), where=draws[home] != 0)
            ratio = metrics.estimate(values[cell] / values[home], share)
            more[f"{domain}, {method}, fraction of {main}, {minutes:g} min"] = ratio
    first = own[0]
    rivals = {cell: more[f"{cell[2]}, {cell[1]:g} min"] for cell in gains if cell[:2] == first[:2]}
    asked = np.isin(curves.subject.astype(str), [who for who, _ in curves.runs[first]])
    by_neuron = np.mean(list(table[first].values()), axis=0)[asked]
    shown = pd.Series(by_neuron, index=pd.Index(curves.ids[asked], name="id", dtype=object), name="predicted")
    n = int(np.isfinite(by_neuron).sum())
    remarks = [units.remark, f"minutes of {MODEL}: {', '.join(f'{cell[1]:g}' for cell in own)}"]
    if n < len(shown):
        remarks.append(f"{len(shown) - n:,} of {len(shown):,} neurons have no CC_norm and are left out of medians")
    if RIVAL not in {cell[2] for cell in rivals}:
        remarks.append(f"no {RIVAL} model was judged at {first[1]:g} min: what transfer adds is not known")
    overall, made = metrics.estimate(values[first], draws[first]), about or {}
    return Score(
        task="transfer", target=target, metric=f"median CC_norm after {first[1]:g} min", value=values[first],
        interval=(overall.low, overall.high), n=n, n_groups=int(asked.sum()), cluster="neurons", what="neurons",
        scored=MODEL, split=f"held-out clips of animals that the core never saw; {main}", seed=seed,
        baselines={cell[2]: rival for cell, rival in rivals.items()}, gains={cell[2]: gains[cell] for cell in rivals},
        more=more, predicted=shown, truth=shown.head(0), recipe_hash=str(made.get("recipe_hash", "")),
        data_fingerprint=str(made.get("data_fingerprint", "")), remarks=tuple(remarks),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Curves:
    """Points side by side: N neurons of all animals."""

    ids: NDArray[Any]
    subject: NDArray[Any]
    values: dict[Cell, dict[int, Real]]
    """Of each cell and seed, (N,); NaN where undefined, or where the animal has no such point."""
    runs: dict[Cell, set[tuple[str, int]]]
    """Animals and seeds of each cell."""


def _gathered(points: list[Point]) -> _Curves:
    """Sort points into cells; the neurons of an animal must be the same in all of them."""
    homes: dict[str, tuple[int, NDArray[Any]]] = {}
    size = 0
    for point in points:
        ids = np.asarray(point.ids).astype(str)
        start, known = homes.setdefault(point.subject, (size, ids))
        size = max(size, start + len(known))
        if not np.array_equal(known, ids) or len(ids) != len(point.cc_norm):
            raise Refused(
                "the neurons of an animal should be the same in every point, one number each.",
                found=f"{point.subject}: {len(known)} ids, then {len(ids)} with {len(point.cc_norm)} numbers.",
            )
    values: dict[Cell, dict[int, Real]] = {}
    runs: dict[Cell, set[tuple[str, int]]] = {}
    for point in points:
        cell, run = (point.domain, float(point.minutes), point.method), (point.subject, point.seed)
        if run in runs.setdefault(cell, set()):
            raise Refused("a point should be given once.", found=f"{cell} of {run}: twice.")
        runs[cell].add(run)
        row = values.setdefault(cell, {}).setdefault(point.seed, np.full(size, np.nan))
        start, ids = homes[point.subject]
        row[start : start + len(ids)] = point.cc_norm
    for cell, held in runs.items():
        animals, seeds = {who for who, _ in held}, {seed for _, seed in held}
        if len(held) < len(animals) * len(seeds):
            raise Refused("every animal should have the same seeds.", found=f"{cell}: only {sorted(held)}.")
    subject = [np.repeat(np.array([who], dtype=object), len(ids)) for who, (_, ids) in homes.items()]
    ids = [ids.astype(object) for _, ids in homes.values()]
    empty = np.zeros(0, dtype=object)
    return _Curves(np.concatenate([empty, *ids]), np.concatenate([empty, *subject]), values, runs)


def _named(curves: _Curves, cell: Cell) -> str:
    """Medians of each animal and seed, e.g. ``B1 seed 0 0.58, seed 1 0.60``."""
    parts: list[str] = []
    for who in sorted({who for who, _ in curves.runs[cell]}):
        mine = curves.subject == who
        each = [f"seed {seed} {median(row[mine]):.2f}" for seed, row in sorted(curves.values[cell].items())]
        parts.append(f"{who} {', '.join(each)}")
    return "; ".join(parts)


def _paired(curves: _Curves, model: Cell, rival: Cell) -> None:
    """A gain compares the same animals and seeds."""
    if curves.runs[model] != curves.runs[rival]:
        raise Refused(
            "methods that are compared should be judged on the same animals and seeds.",
            found=f"{model}: {sorted(curves.runs[model])}; {rival}: {sorted(curves.runs[rival])}.",
        )
