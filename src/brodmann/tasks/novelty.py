"""Novelty: borders inside known regions that an atlas does not draw, with what differs across them.

A clustering splits anything, uniform tissue and slow gradients too, and what was chosen to split cells then differs by
construction. So a border is drawn by one half of the rows and judged by the other (`_borders`), and it counts when
they change by a step there, and when both halves draw it in the same place.

n rows, p components, G genes or types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import norm, rankdata

from brodmann.errors import Refused, Usage
from brodmann.progress import Say
from brodmann.samples import stream
from brodmann.tasks import _borders, _rows, _surroundings
from brodmann.tasks._borders import Border, Cut, Region
from brodmann.tasks._inputs import take
from brodmann.tasks._novel import Novelty, contiguous, discovery, lengths
from brodmann.tasks.new_areas import new_areas

Codes = NDArray[np.int64]

AGREE = 0.3
"""Adjusted Rand index of what the two halves draw, below which they do not draw the same parts.

Set on the planted brains' cells, at a hundred thousand: without a planted border at most .16, with one that is found at
least .47.
"""
_MOST_ROWS = 100_000
_PARTS = (3, 4)
_EFFECTS = 8
_COMPARED = 5000
_LEAST = 10


def novelty(
    table: AnnData,
    known: str,
    *,
    expression: Callable[[Codes], NDArray[Any]] | None = None,
    names: Sequence[str] = (),
    least: int = 100,
    level: float = 0.05,
    seed: int = 0,
    say: Say | None = None,
) -> Novelty:
    """Look for borders inside known regions.

    Each region is cut in two; where that border is new, three and four parts are tried as long as every border between
    them holds too, and half of the animals show it by themselves.

    Parameters
    ----------
    table : AnnData
        With ``obsm["baseline_own"]``, what is known of each row by itself (not of its surroundings); or of patches,
        which `new_areas` answers for: only ``known``, ``level`` and ``seed`` count there.
    known : str
        A column of regions.
    expression : callable, optional
        Gives genes or types, (m, G), for sorted rows (m,): to say what differs.
    names : sequence of str
        Names of their columns.
    least : int
        Rows of a sub-domain and of each of its pieces, and half of those of a region. Smaller pieces are not drawn:
        vessels and the like are not domains.
    level : float
        False discovery rate over regions, and over genes; level of each border beyond a region's first.
    seed : int
    say : Say, optional
        Told how far it is.

    Returns
    -------
    Novelty
        Of a region at most some 100,000 rows take part, in whole sections of each animal in turn.

    Raises
    ------
    Usage
        No such column.
    Refused
        The table does not hold rows' own values, some are not finite, or no region has rows enough.
    """
    obs = _rows.places(table)
    if known not in obs:
        raise Usage(f"'{known}' should be a column of the table.", found=f"{', '.join(obs.columns)}.")
    stored = cast("Any", table.obsm)
    if "baseline_own" not in stored and _rows.about(table).get("system") == "patches":
        return new_areas(table, known, level=level, seed=seed, say=say)
    if "baseline_own" not in stored:
        controls = sorted(name for name in stored if str(name).startswith("baseline_"))
        raise Refused(
            "novelty needs what each row shows by itself, in baseline_own.",
            found=f"controls {', '.join(controls)}." if controls else "a table without controls.",
            cause="cells have such a control, and patches need none; neurons have not."
            if controls
            else "it was embedded without them.",
            do="ask `domains` whether regions fall into parts." if controls else "embed with controls.",
        )
    if least < _LEAST:
        raise Usage(f"a sub-domain should have {_LEAST} rows or more.", found=f"least = {least}.")
    tissue = _Tissue.of(table, known)
    chosen = [tissue.rows(number, seed) for number in range(len(tissue.names))]
    small = tuple(name for name, rows in zip(tissue.names, chosen, strict=True) if len(rows) < 2 * least)
    chosen = [rows for rows in chosen if len(rows) >= 2 * least]
    if not chosen:
        raise Refused(
            f"some region of '{known}' should have {2 * least} rows.",
            found=f"{len(tissue.names)} regions, all smaller.",
            do="give fewer and larger regions, or a smaller `least`.",
        )
    read = np.unique(np.concatenate(chosen))
    own = take(stored["baseline_own"], read)
    if not (np.isfinite(own).all() and np.isfinite(tissue.where[read]).all()):
        raise Refused(
            "rows' own values and places should be finite.",
            found="some that are not.",
            do="drop those rows, or embed again.",
        )
    cuts: dict[str, tuple[Region, Cut | None]] = {}
    dealt: dict[str, tuple[Region, Cut | None]] = {}
    with (say or Say(quiet=True)).progress("regions", 0, len(chosen)) as progress:
        for rows in chosen:
            region = tissue.region(rows, own[np.searchsorted(read, rows)])
            order = _dealt(region.section, stream(seed, "dealt", int(rows[0])))
            for kept, one in ((cuts, region), (dealt, replace(region, own=region.own[order]))):
                kept[tissue.names[tissue.known[rows[0]]]] = one, _borders.cut(one, 2, least=least, seed=seed)
            progress.advance()
    regions = _judged(cuts, level)
    labels, borders = tissue.column(), list[dict[str, Any]]()
    for name in regions.index:
        region, found = cuts[str(name)]
        if found is not None and regions.loc[name, "new"]:
            found = _finer(region, found, least, level, seed)
            regions.loc[name, "parts"] = int(found.labels.max()) + 1
            labels[region.rows] = [f"{name}/{part + 1}" for part in found.labels]
            borders += _described(str(name), region, found, expression, names, level, seed)
    columns = ["region", "a", "b", "n_a", "n_b", "length_mm", "contiguous", "step", "error", "animals", "of", "differs"]
    return Novelty(
        regions,
        cast("Any", pd).DataFrame(borders, columns=columns),
        pd.Series(labels[read], index=pd.Index(_rows.ids(table)[read], name="id"), name="novel"),
        int(_judged(dealt, level)["new"].sum()),
        small,
    )


@dataclass(frozen=True, eq=False)
class _Tissue:
    """Where all rows of a table lie: places (N, 2) um; numbers of section, animal and known region, -1 where none."""

    where: NDArray[np.float64]
    section: Codes
    animal: Codes
    known: Codes
    names: tuple[str, ...]
    sections: dict[int, Codes]

    @classmethod
    def of(cls, table: AnnData, known: str) -> _Tissue:
        obs = _rows.places(table)
        section = _surroundings.sections(table)
        sections = {int(section[rows[0]]): rows for rows in _surroundings.each(section)}
        where = _surroundings.positions(table)
        flat = np.empty((len(where), 2))
        for rows in sections.values():
            flat[rows] = _surroundings.plane(where[rows])
        codes, names = pd.factorize(obs[known].astype("object"), sort=True)
        animal = _rows.numbers(obs["subject"])[0]
        return cls(flat, section, animal, codes.astype(np.int64), tuple(str(name) for name in names), sections)

    def rows(self, number: int, seed: int) -> Codes:
        """Rows of a region: all, or those of whole random sections of each animal in turn, some 100,000."""
        rows = np.flatnonzero(self.known == number)
        if len(rows) <= _MOST_ROWS:
            return rows
        rng, turns = stream(seed, "region", number), list[tuple[int, Codes]]()
        for mine in _surroundings.each(self.animal[rows]):
            parts = list(_surroundings.each(self.section[rows[mine]]))
            turns += [(turn, rows[mine[parts[int(part)]]]) for turn, part in enumerate(rng.permutation(len(parts)))]
        kept, count = list[Codes](), 0
        for _, part in sorted(turns, key=lambda turn: turn[0]):
            kept.append(part)
            count += len(part)
            if count >= _MOST_ROWS:
                break
        return np.sort(np.concatenate(kept))

    def region(self, rows: Codes, own: NDArray[np.floating[Any]]) -> Region:
        """What is needed to cut it."""
        section = self.section[rows]
        around = [self.sections[int(name)] for name in np.unique(section)]
        beside = _borders.beside(self.where, self.known, rows, around)
        return Region(rows, self.where[rows], section, self.animal[rows], own.astype(np.float64), beside)

    def column(self) -> NDArray[np.object_]:
        """Name of the known region of every row, None where it has none."""
        return np.array([*self.names, None], dtype=object)[self.known]


def _judged(cuts: dict[str, tuple[Region, Cut | None]], level: float) -> pd.DataFrame:
    """A row per region; one of which no two large parts can be drawn has a p of 1."""
    found: list[dict[str, Any]] = []
    for region, cut in cuts.values():
        row: dict[str, Any] = {"n": len(region.rows), "parts": 1, "p": 1.0}
        if cut is not None and cut.borders:
            border = cut.borders[0, 1]
            row |= {"step": border.step, "error": border.error, "p": border.p, "agreement": cut.agreement}
        found.append(row)
    columns = ["n", "parts", "step", "error", "p", "agreement"]
    regions = cast("Any", pd).DataFrame(found, columns=columns, index=pd.Index(list(cuts), name="region"))
    regions["q"] = discovery(regions["p"].to_numpy(dtype=np.float64))
    regions["new"] = (regions["q"] <= level) & (regions["agreement"] >= AGREE)
    return regions


def _finer(region: Region, found: Cut, least: int, level: float, seed: int) -> Cut:
    """More parts, as long as both halves draw them, and each border is a step, also in half of the animals alone."""
    for parts in _PARTS:
        tried = _borders.cut(region, parts, least=least, seed=seed)
        if tried is None or tried.agreement < AGREE:
            return found
        borders = tried.borders.values()
        judged = {part for pair in tried.borders for part in pair}
        shown = [2 * _shown(border, level) >= len(np.unique(region.animal)) for border in borders]
        if len(judged) < parts or not all(shown) or any(border.p > level for border in borders):
            return found
        found = tried
    return found


def _dealt(section: Codes, rng: np.random.Generator) -> Codes:
    """Rows in a random order within each section: no place is special any more."""
    order = np.arange(len(section))
    for rows in _surroundings.each(section):
        order[rows] = rng.permutation(rows)
    return order


def _described(
    name: str, region: Region, found: Cut, expression: Any, names: Sequence[str], level: float, seed: int
) -> list[dict[str, Any]]:
    """Every two sub-domains that touch."""
    labels = found.labels
    parts = int(labels.max()) + 1
    length, whole = lengths(region, labels, parts), contiguous(region, labels, parts)
    return [
        {
            "region": name,
            "a": f"{name}/{a + 1}",
            "b": f"{name}/{b + 1}",
            "n_a": int((labels == a).sum()),
            "n_b": int((labels == b).sum()),
            "length_mm": length[a, b] / 1000,
            "contiguous": float(min(whole[a], whole[b])),
            "step": border.step,
            "error": border.error,
            "animals": _shown(border, level),
            "of": len(np.unique(region.animal)),
            "differs": ""
            if expression is None
            else _differs(expression, [region.rows[labels == side] for side in (a, b)], names, level, seed),
        }
        for (a, b), border in found.borders.items()
        if length[a, b] > 0
    ]


def _shown(border: Border, level: float) -> int:
    """Animals in which the step stands out by itself."""
    return int((border.animals[np.isfinite(border.animals)] > norm.isf(level)).sum())


def _differs(
    expression: Callable[[Codes], NDArray[Any]], sides: Sequence[Codes], names: Sequence[str], level: float, seed: int
) -> str:
    """The strongest genes or types across a border: ``name 0.81`` is the chance that a row of b shows more than of a.

    Mann and Whitney's test with ties on at most 5,000 random rows of each side, false discovery rate over genes.
    """
    rng = stream(seed, "compared", *(int(side[0]) for side in sides))
    some = [np.sort(rng.permutation(side)[:_COMPARED]) for side in sides]
    x = np.concatenate([np.asarray(expression(side), dtype=np.float64) for side in some])
    m, n = map(len, some)
    rank = rankdata(x, axis=0)
    area = (rank[m:].sum(axis=0) - n * (n + 1) / 2) / (m * n)
    ties = np.array([(t**3 - t).sum() for t in (np.unique(column, return_counts=True)[1] for column in x.T)])
    variance = m * n / 12 * ((m + n + 1) - ties / max((m + n) * (m + n - 1), 1))
    z = (area - 0.5) * m * n / np.sqrt(np.maximum(variance, 1e-12))
    q = discovery(2 * ndtr(-np.abs(z)))
    order = [i for i in np.argsort(-np.abs(area - 0.5)) if q[i] <= level][:_EFFECTS]
    return ", ".join(f"{names[i]} {area[i]:.2f}" for i in order)
