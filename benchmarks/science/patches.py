"""The claims of the patches system on the phantom, as one table: seeds x folds, leave one brain out.

    python benchmarks/science/patches.py --out FOLDER
    python benchmarks/science/patches.py --out FOLDER --folds 0 --seeds 0 --pieces areas properties
    python benchmarks/science/patches.py --out FOLDER --summary

C1 SpatialNCE before SimCLR before untrained, frozen and fine-tuned, wider on an unknown brain than on known ones; C2
numbers of cortex better than from intensity profiles; C4 fewer shortcuts than SimCLR; C5 errors between neighbours; C6
pairs of areas under one label split without labels, uniform areas not; C7 networks beyond place. C3, layers from few
labels, is `bench_layers.py`, which takes the encoders trained here. An encoder never sees the brain that is judged;
what a piece found is kept in a file of its own, so the same command again goes on where it stopped. Table and figure
are `table.md` and `claims.png` of the folder.
Intervals: mean over runs of the 95 % intervals over held-out sections; least and most over runs stand beside the mean.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from brodmann import splits, verbs
from brodmann.patches.explain import judged
from brodmann.patches.samples import PatchSamples
from brodmann.phantom.areas import TWINS
from brodmann.phantom.sheet import NETWORKS
from brodmann.phantom.structures import structures
from brodmann.settings import Split
from brodmann.tasks import _agreement, _metrics
from brodmann.tasks import areas as areas_task
from brodmann.tasks import networks as networks_task
from brodmann.tasks import new_areas as novelty_task
from brodmann.tasks import properties as properties_task
from brodmann.tasks import shortcuts as shortcuts_task
from brodmann.tasks._readout import readout
from brodmann.tasks._score import Score

sys.path.insert(0, str(Path(__file__).parents[1]))
import figures
import spread
from promises import verdicts

RECIPES = {"SpatialNCE": "patches-tiny", "SimCLR": "patches-tiny-simclr"}
COUNTS = (60, 240, 1000)
TILT_DEG = 40
LOOKED = 24
"""Patches of an area whose attribution is judged: each takes seconds."""
NUMBERS = ("thickness_mm", "curvature", "cutting_angle_deg", "density_L2", "density_L3", "density_L4", "density_L5")

Row = dict[str, Any]


class Cell:
    """One fold and seed: its encoders and their tables, made when first asked for."""

    def __init__(self, given: argparse.Namespace, source: Any, fold: int, seed: int) -> None:
        self.given, self.source, self.fold, self.seed = given, source, fold, seed
        self._tables: dict[str, ad.AnnData] = {}

    def where(self, name: str) -> Path:
        """Folder of a run."""
        return self.given.out / f"{name.lower().replace(', ', '-').replace(' ', '-')}-fold{self.fold}-seed{self.seed}"

    def changes(self, **more: Any) -> Row:
        """Changes to a recipe."""
        return {**self.given.changes, "split.fold": self.fold, "seed": self.seed, **more}

    def table(self, kind: str) -> ad.AnnData:
        """Features of every patch by an encoder that did not see the fold."""
        if kind not in self._tables:
            recipe = verbs.recipe(RECIPES[kind], self.changes())
            run = verbs.fit(recipe, self.source, self.where(kind), quiet=True, threads=1)
            self._tables[kind] = verbs.embed(run, self.source, controls=kind == "SpatialNCE", quiet=True)
        return self._tables[kind].copy()

    @property
    def split(self) -> Split:
        """The brain that is held out."""
        return Split(by="brain", folds=0, fold=self.fold)


def rows_of(score: Score, claim: str, name: str) -> list[Row]:
    """The headline, every rival and every gain of a score."""
    low, high = score.interval
    found = [row(claim, name, score.value, low, high, score)]
    for rival, value in score.baselines.items():
        found.append(row(claim, f"{name}: {rival}", value.value, value.low, value.high, score))
    for rival, gain in score.gains.items():
        found.append(row(claim, f"{name}: gain over {rival}", gain.value, gain.low, gain.high, score))
    return found


def row(claim: str, name: str, value: float, low: float, high: float, score: Any) -> Row:
    numbers = {"value": value, "low": low, "high": high}
    kept = {
        key: None if number is None or not np.isfinite(number) else float(number) for key, number in numbers.items()
    }
    return {"claim": claim, "row": name, **kept, "n": score.n, "sections": score.n_groups}


def frozen(cell: Cell) -> list[Row]:
    """C1: linear read-out of the unknown brain and, of the same encoders, of unknown sections of known brains; C5."""
    nce, other = cell.table("SpatialNCE"), cell.table("SimCLR")
    score = areas_task.areas(
        nce, "area", cell.split, extra_tables={"SimCLR": other}, fewer_labels=COUNTS, seed=cell.seed
    )
    found = rows_of(score, "C1", "frozen, unknown brain")
    for name, value in score.more.items():
        if name.endswith("labels"):
            found.append(row("C1", f"frozen, {name}", value.value, value.low, value.high, score))
    held = str(nce.obs["subject"].iloc[splits.folds(nce.obs, cell.split)[0].test[0]])
    known = (nce.obs["subject"].astype(str) != held).to_numpy()
    inside = areas_task.areas(
        nce[known].copy(), "area", Split(by="section", folds=5, fold=0),
        extra_tables={"SimCLR": other[known].copy()}, seed=cell.seed,
    )  # fmt: skip
    found += rows_of(inside, "C1", "frozen, known brains")
    truth, said = score.truth.to_numpy(str), score.predicted.to_numpy(str)
    touching = neighbours(cell.source, held)
    wrong = truth != said
    near = np.array([frozenset(pair) in touching for pair in zip(truth[wrong], said[wrong], strict=True)])
    pairs = len(set(truth)) * (len(set(truth)) - 1) / 2
    found.append(row("C5", "share of errors between neighbours", float(near.mean()), np.nan, np.nan, score))
    found.append(row("C5", "share of pairs that are neighbours", len(touching) / pairs, np.nan, np.nan, score))
    return found


def neighbours(source: Any, subject: str) -> set[frozenset[str]]:
    """Pairs of areas with a common border on the planted sheet of a brain."""
    from brodmann.phantom import areas

    table = next(section.brain.area for section in source.sections if section.subject == subject)
    names = np.array(areas.NAMES)
    sides = [(table[1:], table[:-1]), (table[:, 1:], table[:, :-1])]
    return {
        frozenset((str(names[a]), str(names[b])))
        for one, two in sides
        for a, b in np.unique(np.stack([one.ravel(), two.ravel()], axis=1), axis=0)
        if a != b
    }


def tuned(cell: Cell) -> list[Row]:
    """C1: fine-tuned and from scratch, with equal steps; the model's own head names the unknown brain."""
    found: list[Row] = []
    for kind in ("SpatialNCE", "SimCLR", "scratch"):
        if kind != "scratch":
            cell.table(kind)
        for count in (*COUNTS, None):
            asked = {"tune.calibrate": 0.0, "fit.steps": cell.given.steps}
            asked |= {} if count is None else {"tune.labels": count}
            recipe = verbs.recipe("patches-tiny-tuned", cell.changes(**asked))
            where = cell.where(f"tuned, {kind}, {count or 'all'}")
            start = None if kind == "scratch" else cell.where(kind)
            run = verbs.fit(recipe, cell.source, where, start=start, quiet=True, threads=1)
            table = verbs.embed(run, cell.source, controls=False, quiet=True)
            score = areas_task.areas(table, "area", cell.split, probe="head", compare=False, seed=cell.seed)
            low, high = score.interval
            found.append(row("C1", f"fine-tuned from {kind}, {count or 'all'} labels", score.value, low, high, score))
    return found


def numbers(cell: Cell) -> list[Row]:
    """C2: numbers of cortex by ridge regression."""
    nce, others = cell.table("SpatialNCE"), {"SimCLR": cell.table("SimCLR")}
    found: list[Row] = []
    for name in NUMBERS:
        score = properties_task.properties(nce, name, cell.split, extra_tables=others, seed=cell.seed)
        found += rows_of(score, "C2", name)
    return found


def angles(cell: Cell) -> list[Row]:
    """C2: cutting angle of the same brains cut obliquely, which no encoder has seen; usual cuts hardly vary in it."""
    data = cell.given.phantom + ("," if ":" in cell.given.phantom else ":") + f"tilt_deg={TILT_DEG}"
    tables: dict[str, ad.AnnData] = {}
    for kind in RECIPES:
        cell.table(kind)
        again = cell.where(f"{kind}, oblique")
        if not again.exists():
            shutil.copytree(cell.where(kind), again)
        tables[kind] = verbs.embed(again, data, controls=kind == "SpatialNCE", quiet=True)
    score = properties_task.properties(
        tables["SpatialNCE"], "cutting_angle_deg", cell.split, extra_tables={"SimCLR": tables["SimCLR"]}, seed=cell.seed
    )
    return rows_of(score, "C2", f"cutting_angle_deg, tilt {TILT_DEG}")


def shortcuts(cell: Cell) -> list[Row]:
    """C4: what should not be known; lower is better."""
    others = {"SimCLR": cell.table("SimCLR")}
    score = shortcuts_task.shortcuts(cell.table("SpatialNCE"), cell.split, extra_tables=others, seed=cell.seed)
    found = rows_of(score, "C4", "shortcuts, mean")
    found += [row("C4", name, one.value, one.low, one.high, score) for name, one in score.more.items()]
    return found


def networks(cell: Cell) -> list[Row]:
    """C7: planted networks beside place and maps moved over cortex, and networks that follow place alone."""
    others, found = {"SimCLR": cell.table("SimCLR")}, list[Row]()
    table = cell.table("SpatialNCE")
    # the same sections, whose networks know nothing of what cortex looks like
    data = cell.given.phantom + ("," if ":" in cell.given.phantom else ":") + "networks=place"
    bare = {
        section.subject: section.brain for section in verbs.open_source(verbs.recipe("patches-tiny"), data).sections
    }
    place = np.empty(len(table), object)
    for subject, brain in bare.items():
        rows = (table.obs["subject"] == subject).to_numpy()
        place[rows] = np.array(NETWORKS)[brain.nearest(brain.network, table.obs.loc[rows, ["s_mm", "t_mm"]].to_numpy())]
    table.obs["network of place"] = pd.Categorical(place)
    for target, name in (("network", "networks"), ("network of place", "networks that follow place alone")):
        score = networks_task.networks(table, target, cell.split, extra_tables=others, seed=cell.seed)
        found += rows_of(score, "C7", name)
        found += [
            row("C7", f"{name}: {which}", one.value, one.low, one.high, score) for which, one in score.more.items()
        ]
    return found


@dataclass(frozen=True)
class Counted:
    """Rows and sections that a number is of."""

    n: int
    n_groups: int


def novelty(cell: Cell) -> list[Row]:
    """C6: each planted pair under one label, all five at once, and twelve areas that hold nothing new."""
    table, found = cell.table("SpatialNCE"), list[Row]()
    held = (
        table.obs["subject"] == table.obs["subject"].iloc[splits.folds(table.obs, cell.split)[0].test[0]]
    ).to_numpy()
    sections = pd.factorize(table.obs["section"])[0]
    area = table.obs["area"].astype(str).to_numpy()
    merged = {"+".join(pair): [pair] for pair in TWINS} | {"all pairs": list(TWINS)}
    for features in ("SpatialNCE", "statistics"):
        if features != "SpatialNCE":
            other = np.asarray(table.obsm[f"baseline_{features}"], np.float32)
            table = ad.AnnData(X=other, obs=table.obs, uns=table.uns)
        for what, pairs in merged.items():
            known = area.astype(object)
            for pair in pairs:
                known[np.isin(area, pair)] = "+".join(pair)
            table.obs["known"] = pd.Categorical(known)
            said = novelty_task.new_areas(table, "known", seed=cell.seed)
            parts = said.labels.reindex(table.obs["id"]).to_numpy()
            for pair in pairs:
                name = f"{features}, {'+'.join(pair)}" + (", all pairs merged" if len(pairs) > 1 else "")
                new = float(said.regions.loc["+".join(pair), "new"])
                for where, some in (("held-out brain", held), ("all brains", held | True)):
                    rows = np.isin(area, pair) & some & ~pd.isna(parts)
                    about = Counted(int(rows.sum()), len(np.unique(sections[rows])))
                    ends = rand(area[rows], parts[rows], sections[rows], cell.seed)
                    found.append(row("C6", f"{name}: ARI, {where}", *ends, about))
                found.append(row("C6", f"{name}: found", new, np.nan, np.nan, about))
            if len(pairs) == 1:
                rest = said.regions.drop(index="+".join(pairs[0]))["new"]
                found.append(share(f"{features}, {what} merged: other areas called split", rest, table))
        alone = novelty_task.new_areas(table, "area", seed=cell.seed).regions
        found.append(share(f"{features}: uniform areas called split", alone["new"], table))
        found.append(share(f"{features}: uniform areas, step p <= 0.05", alone["p_step"] <= 0.05, table))
        found.append(share(f"{features}: uniform areas, brains agree p <= 0.05", alone["p"] <= 0.05, table))
    return found


def rand(truth: Any, said: Any, section: Any, seed: int) -> tuple[float, float, float]:
    """Adjusted Rand index with its 95 % interval over sections."""
    a, b = (pd.factorize(one)[0].astype(np.int64) for one in (truth, said))
    boot = _metrics.Bootstrap.of(section, seed)
    each = _agreement.counts(a, b, boot)
    low, high = np.percentile(_agreement.rand_index(np.tensordot(boot.times, each, axes=1)), [2.5, 97.5])
    return _agreement.ari(a, b), float(low), float(high)


def share(name: str, found: Any, table: ad.AnnData) -> Row:
    """Share of areas, with its exact 95 % interval."""
    ends = binomtest(int(found.sum()), len(found)).proportion_ci()
    about = Counted(len(found), table.obs["section"].nunique())
    return row("C6", name, float(found.mean()), ends.low, ends.high, about)


def looks(cell: Cell) -> list[Row]:
    """Where it looks: times as much of what names V1 and M1 on the stripe and on the giant cells as an even map has."""
    table, found = cell.table("SpatialNCE"), list[Row]()
    _, model = verbs.trained(verbs.load(cell.where("SpatialNCE")))
    samples = PatchSamples(cell.source, model.recipe, part="all")
    size = {"size_px": model.recipe.samples.size_px, "pixel_um": model.recipe.samples.pixel_um}
    probe = readout(table, "area", cell.split, rivals=("untrained",), seed=cell.seed)
    for area, what in (("V1", "stripe"), ("M1", "giants")):
        rows = probe.held(area, LOOKED)
        known = structures(cell.source.sections, table.obs.iloc[rows], what, **size)
        score, _ = judged(
            model, samples, table, probe, area, rows, known.cortex, known.structure, name=what, layer=known.layer,
            seed=cell.seed,
        )  # fmt: skip
        found += rows_of(score, "looks", f"{what} of {area}, times an even map")
        found += [
            row("looks", f"{what}: {name}", one.value, one.low, one.high, score) for name, one in score.more.items()
        ]
    return found


PIECES: dict[str, Callable[[Cell], list[Row]]] = {
    "areas": frozen, "properties": numbers, "angles": angles, "shortcuts": shortcuts, "networks": networks,
    "novelty": novelty, "tuned": tuned, "looks": looks,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phantom", default="phantom")
    parser.add_argument("--folds", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--pieces", nargs="*", default=[*PIECES], choices=[*PIECES])
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning, whatever the labels and the start")
    parser.add_argument("--set", nargs="*", default=[], help="changes to every recipe, KEY=JSON")
    parser.add_argument("--summary", action="store_true", help="print what there is and compute nothing")
    given = parser.parse_args()
    given.changes = {key: json.loads(value) for key, _, value in (text.partition("=") for text in given.set)}
    (given.out / "rows").mkdir(parents=True, exist_ok=True)
    source = verbs.open_source(verbs.recipe("patches-tiny"), given.phantom)
    for fold in given.folds:
        for seed in given.seeds:
            cell = Cell(given, source, fold, seed)
            for piece in given.pieces:
                path = given.out / "rows" / f"{piece}-fold{fold}-seed{seed}.json"
                if path.exists() or given.summary:
                    continue
                begun = time.monotonic()
                rows = [{**one, "fold": fold, "seed": seed} for one in PIECES[piece](cell)]
                partial = path.with_suffix(".partial")
                partial.write_text(json.dumps(rows, indent=1))
                partial.rename(path)
                print(f"fold {fold} seed {seed} {piece}: {time.monotonic() - begun:.0f} s", flush=True)
    kept = [one for path in sorted((given.out / "rows").glob("*.json")) for one in json.loads(path.read_text())]
    print(f"{given.phantom}, patches-tiny {given.set}, fine-tuning {given.steps} steps; torch {torch.__version__}\n")
    told = pd.DataFrame(kept)
    text = f"{verdicts(told)}\n{spread.table(told, ['claim', 'row'])}" if kept else "nothing yet\n"
    print(text)
    (given.out / "table.md").write_text(text)
    if kept:
        print(f"figure: {figures.draw(told, given.out / 'claims.png')}")


if __name__ == "__main__":
    main()
