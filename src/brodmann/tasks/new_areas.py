"""New areas: borders inside known areas of cortex that an atlas does not draw, found in patches of several brains.

Features of patches vary within an area, with gradients, folds and stain, and any clustering splits that. Here a border
counts when brains that had no part in it agree where it lies, and rows change by a step there.

n rows, p components, B brains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.stats import norm

from brodmann.errors import Refused, Usage
from brodmann.progress import Say
from brodmann.samples import stream
from brodmann.tasks import _evened, _parted, _rows, _surroundings
from brodmann.tasks._borders import Region
from brodmann.tasks._novel import Novelty, contiguous, discovery, lengths
from brodmann.tasks._parted import Area, Parted

Codes = NDArray[np.int64]
Real = NDArray[np.float64]

AGREE = 0.3
"""Adjusted Rand index of what either half of the sections draws, below which they do not draw the same parts."""
_STEP = 0.4
"""Level of the step over that of the agreement: on planted brains, gradients that brains share passed for a step at a
nominal 0.05 in 5 of 24 areas, since what is left of them is alike farther than the blocks of its standard error."""
_LEAST = 50
_MOST = 1500
_RIM, _RIM_SHARE, _RIM_CUT = 0.8, 0.25, 3.0
_RARE = 0.002


def new_areas(
    table: AnnData,
    known: str,
    *,
    least: int = _LEAST,
    level: float = 0.05,
    seed: int = 0,
    say: Say | None = None,
) -> Novelty:
    """Look for areas inside known ones, in tables of patches of at least two brains.

    What folding and the angle of the cut explain is taken out of the features first, where the table tells them
    (`_evened.CUT`), and patches that show much of another area draw and judge no border. What two
    parts differ in is learned in the other brains, the border is drawn by half of a brain's sections and judged by the
    rest (`_parted`). A border is new when brains agree where it lies (chance: maps as patchy that know nothing of each
    other; false discovery rate over areas), rows change by a step there beyond smooth change, and both halves of the
    sections draw the same parts. An area has two parts at most. What one brain shows alone, and a slope that all
    brains share, is not new; so new areas of which a table has one brain cannot be found.

    Parameters
    ----------
    table : AnnData
        Features; places ``u_mm, v_mm`` on the cortical sheet that brains share, else ``x_mm, y_mm, z_mm`` in a common
        space; brains registered to each other to within a fraction of an area.
    known : str
        A column of areas.
    least : int
        Rows that an area needs in a brain to be cut there.
    level : float
        False discovery rate of the agreement between brains; the step has a level of 0.4 times that.
    seed : int
        Key of every draw.
    say : Say, optional
        Told how far it is.

    Returns
    -------
    Novelty
        ``regions`` has, beside what `Novelty` says, ``place`` (correlation between brains) with ``p`` and ``q``, and
        ``p_step``; lengths are over the sheets of all brains. Of an area at most 1,500 rows of each brain take part.

    Raises
    ------
    Usage
        No such column.
    Refused
        No area has rows enough in two brains; features or places that are not finite; brains without a common space.
    """
    obs = _rows.places(table)
    if known not in obs:
        raise Usage(f"'{known}' should be a column of the table.", found=f"{', '.join(map(str, obs.columns))}.")
    if least < _LEAST:
        raise Usage(f"an area of a brain should have {_LEAST} rows or more.", found=f"least = {least}.")
    tissue = _Tissue(table, known, seed)
    chosen = [tissue.rows(number, least) for number in range(len(tissue.names))]
    small = tuple(name for name, rows in zip(tissue.names, chosen, strict=True) if not len(rows))
    if len(small) == len(chosen):
        brains = len(np.unique(tissue.brain))
        raise Refused(
            f"some area of '{known}' should have {least} rows in two brains each.",
            found=f"{len(tissue.names)} areas in {brains} brain{'s' if brains > 1 else ''}.",
            cause="one brain cannot tell a border from a slope." if brains == 1 else "areas are small, or rows sparse.",
            do="add brains, or ask `domains` whether regions fall into parts." if brains == 1
            else "embed more densely, or give fewer and larger areas.",
        )  # fmt: skip
    found: dict[str, tuple[Area, Parted | None]] = {}
    dealt: dict[str, tuple[Area, Parted | None]] = {}
    with (say or Say(quiet=True)).progress("areas", 0, len(chosen) - len(small)) as progress:
        for number, rows in enumerate(chosen):
            if not len(rows):
                continue
            area, name = tissue.area(number, rows), tissue.names[number]
            found[name] = area, _parted.parted(area, seed=seed)
            mixed = replace(area, value=area.value[_dealt(area.brain, stream(seed, "dealt", number))])
            dealt[name] = area, _parted.parted(mixed, seed=seed, unless=_STEP * level)
            progress.advance()
    regions = _judged(found, level)
    labels, borders = tissue.column(), list[dict[str, Any]]()
    read = np.sort(np.concatenate([rows for rows in chosen if len(rows)]))
    for name in regions.index[regions["new"]]:
        area, parted = found[str(name)]
        assert parted is not None
        regions.loc[name, "parts"] = 2
        drawn = parted.part >= 0
        labels[area.rows[drawn]] = [f"{name}/{part + 1}" for part in parted.part[drawn]]
        borders.append(_described(str(name), area, parted, tissue.unit_mm, level))
    columns = ["region", "a", "b", "n_a", "n_b", "length_mm", "contiguous", "step", "error", "animals", "of", "differs"]
    return Novelty(
        regions,
        cast("Any", pd).DataFrame(borders, columns=columns),
        pd.Series(labels[read], index=pd.Index(_rows.ids(table)[read], name="id"), name="novel"),
        int(_judged(dealt, level)["new"].sum()),
        small,
        tissue.told,
    )


class _Tissue:
    """A table made ready: places in spacings, features without what is no cytoarchitecture."""

    def __init__(self, table: AnnData, known: str, seed: int) -> None:
        obs = _rows.places(table)
        flat = {"u_mm", "v_mm"} <= set(obs.columns)
        where = obs[["u_mm", "v_mm"] if flat else ["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
        space = cast("Mapping[str, Any]", table.uns.get("space", {})).get("name")
        if not flat and space == "unregistered":
            raise Refused(
                "brains should lie in one space, or on one sheet (u_mm, v_mm).",
                found="places within each section only.",
                do="register the sections, or ask `domains` whether regions fall into parts.",
            )
        if not np.isfinite(where).all():
            raise Refused("places should be finite.", found="some that are not.", do="drop those rows.")
        self.seed, self.brain = seed, _rows.numbers(obs["subject"])[0]
        self.section = _surroundings.sections(table)
        codes, names = pd.factorize(obs[known].astype("object"), sort=True)
        self.known, self.names = codes.astype(np.int64), tuple(str(name) for name in names)
        self.unit_mm = _unit(where, self.brain, self.section)
        self.where = where / self.unit_mm
        self.shared, self.told = _evened.cut(table)
        own = self.known + (len(names) + 1) * self.brain
        self.value = _evened.evened(_evened.components(_rows.features(table)), own, self.shared)

    def rows(self, number: int, least: int) -> Codes:
        """Rows of an area in brains that have enough of them; none where fewer than two have."""
        rows = np.flatnonzero(self.known == number)
        brains = [rows[some] for some in _surroundings.each(self.brain[rows])]
        brains = [
            np.sort(stream(self.seed, "area", number, b).permutation(some)[:_MOST])
            for b, some in enumerate(brains)
            if len(some) >= least
        ]
        return np.sort(np.concatenate(brains)) if len(brains) > 1 else np.zeros(0, dtype=np.int64)

    def area(self, number: int, rows: Codes) -> Area:
        """What is needed to cut an area; what folding and nearness of other areas explain in it is its own."""
        beside = self._beside(number, rows)
        brain = pd.factorize(self.brain[rows])[0]
        levels = (brain[:, None] == np.arange(brain.max() + 1)).astype(np.float64)
        explained = np.hstack([levels, self.shared[rows], beside[:, beside.mean(axis=0) > _RARE]])
        value = _evened.without(self.value[rows], explained)
        inner = beside.sum(axis=1) < _RIM_SHARE
        return Area(rows, self.where[rows], self.brain[rows], self.section[rows], value, inner)

    def _beside(self, number: int, rows: Codes) -> Real:
        """Share of every other area in the close surroundings of rows of one: (n, areas + 1) float64."""
        shares = np.zeros((len(rows), len(self.names) + 1))
        for some in _surroundings.each(self.brain[rows]):
            every = np.flatnonzero(self.brain == self.brain[rows[some[0]]])
            tree = KDTree(self.where[every])
            near = cast("Any", KDTree(self.where[rows[some]])).sparse_distance_matrix(
                tree, _RIM_CUT * _RIM, output_type="ndarray"
            )
            weight = np.exp(-((near["v"] / _RIM) ** 2) / 2)
            np.add.at(shares, (some[near["i"]], self.known[every[near["j"]]]), weight)
        shares /= shares.sum(axis=1, keepdims=True)
        return np.delete(shares, number, axis=1)

    def column(self) -> NDArray[np.object_]:
        """Name of the known area of every row, None where it has none."""
        return np.array([*self.names, None], dtype=object)[self.known]


def _unit(where: Real, brain: Codes, section: Codes) -> float:
    """Median distance to the sixth neighbour, or to the next section where that is farther, mm."""
    six, across = list[float](), list[float]()
    for rows in _surroundings.each(brain):
        six.append(_surroundings.spacing(where[rows]))
        for some in _surroundings.each(section[rows]):
            there = np.setdiff1d(rows, rows[some])
            if len(there):
                away = cast("Any", KDTree(where[there])).query(where[rows[some]])[0]
                across.append(float(np.median(away)))
    return max(float(np.median(six)), float(np.median(across)) if across else 0.0, 1e-9)


def _dealt(brain: Codes, rng: np.random.Generator) -> Codes:
    """Rows in a random order within each brain: no place is special any more, not even a section."""
    order = np.arange(len(brain))
    for rows in _surroundings.each(brain):
        order[rows] = rng.permutation(rows)
    return order


def _judged(found: dict[str, tuple[Area, Parted | None]], level: float) -> pd.DataFrame:
    """A row per area; one of which no two parts can be drawn has a p of 1."""
    rows: list[dict[str, Any]] = []
    for area, parted in found.values():
        row: dict[str, Any] = {"n": len(area.rows), "parts": 1, "p": 1.0, "p_step": 1.0}
        if parted is not None:
            row |= {
                "step": parted.step, "error": parted.error, "p_step": parted.p, "place": parted.place,
                "p": parted.p_place, "agreement": parted.agreement,
            }  # fmt: skip
        rows.append(row)
    columns = ["n", "parts", "step", "error", "p_step", "place", "p", "agreement"]
    regions = cast("Any", pd).DataFrame(rows, columns=columns, index=pd.Index(list(found), name="region"))
    regions["q"] = discovery(regions["p"].to_numpy(dtype=np.float64))
    stepped = (regions["p_step"] <= _STEP * level) & (regions["agreement"] >= AGREE)
    regions["new"] = (regions["q"] <= level) & stepped
    return regions


def _described(name: str, area: Area, parted: Parted, unit_mm: float, level: float) -> dict[str, Any]:
    """The border between the two parts of an area."""
    kept = np.flatnonzero(parted.part >= 0)
    where, brain = area.where[kept] * unit_mm * 1000, area.brain[kept]
    flat = np.empty((len(kept), 2))
    for rows in _surroundings.each(brain):
        flat[rows] = _surroundings.plane(where[rows])
    none = np.zeros((len(kept), 0))
    sheet, labels = Region(area.rows[kept], flat, brain, brain, none, none), parted.part[kept]
    return {
        "region": name, "a": f"{name}/1", "b": f"{name}/2",
        "n_a": int((labels == 0).sum()), "n_b": int((labels == 1).sum()),
        "length_mm": lengths(sheet, labels, 2)[0, 1] / 1000,
        "contiguous": float(contiguous(sheet, labels, 2).min()), "step": parted.step, "error": parted.error,
        "animals": sum(z > norm.isf(level) for z in parted.brains.values()), "of": len(np.unique(area.brain)),
        "differs": "",
    }  # fmt: skip
