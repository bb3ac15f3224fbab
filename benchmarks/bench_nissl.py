"""Cells in crops of rat cortex: counts and areas read out of frozen features, beside two Cellpose models.

    python benchmarks/bench_nissl.py FOLDER/sections/rat_nissl --out runs/nissl [--seeds 0 1 2] [--minutes 5]

For each recipe and seed one encoder is trained per tile, without labels and without that tile; a ridge regression on
its frozen features learns from the other tiles' hand-made outlines and is judged on the tile held out whole. The same
command again goes on where it stopped; with --minutes it stops after so long. Prints Markdown when all runs are there.
Errors and intervals (95 %, bootstrap of whole tiles) are means over seeds; sd is over seeds.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch

import brodmann
from brodmann import verbs
from brodmann.datasets import rat_nissl
from brodmann.patches.controls import dark_area
from brodmann.patches.samples import PatchSamples
from brodmann.patches.source import Source
from brodmann.settings import Split
from brodmann.tasks._score import Estimate, Score
from brodmann.tasks.deviation import deviation

RECIPES = {"SpatialNCE": "patches-nissl", "SimCLR": "patches-nissl-simclr"}
TARGETS = {"count": ("cells", ("count_cyto2", "count_v2")), "area_um2": ("um2", ("area_um2_cyto2", "area_um2_v2"))}
TILE = Split(by="section", folds=0)
NAMES = {f"{target}_{model}": model for target in TARGETS for model in rat_nissl.MODELS}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("data", type=Path)
    options.add_argument("--out", type=Path, default=Path("runs/nissl"))
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--minutes", type=float, default=float("inf"))
    asked = options.parse_args()
    recipe = verbs.recipe("patches-nissl")
    source = rat_nissl.open(asked.data, crop_um=recipe.samples.size_px * recipe.samples.pixel_um)
    tables = trained(source, asked.out, asked.seeds, time.monotonic() + 60 * asked.minutes)
    if tables is None:
        sys.exit("Time is up; the same command goes on.")
    first = tables["SpatialNCE"][0][0]
    about(asked.data, first, asked.seeds)
    for target, (unit, measured) in TARGETS.items():
        scores = {
            name: [deviation(own, target, TILE, measured=measured) for own in every] for name, every in tables.items()
        }
        report(target, unit, scores, first)
    totals(tables, first)


def trained(source: Source, out: Path, seeds: list[int], until: float) -> dict[str, list[list[ad.AnnData]]] | None:
    """Tables by recipe, seed and held-out tile; None when time ran out."""
    samples = PatchSamples(source, verbs.recipe("patches-nissl"))
    dark = np.concatenate([
        dark_area(samples.read(np.arange(start, min(start + 64, len(samples))))) for start in range(0, len(samples), 64)
    ])  # fmt: skip
    ids = samples.places["id"].astype(str).tolist()
    found: dict[str, list[list[ad.AnnData]]] = {}
    for seed in seeds:
        for name, recipe in RECIPES.items():
            own: list[ad.AnnData] = []
            for fold in range(samples.places["section"].nunique()):
                path = out / f"{recipe}-tile{fold}-seed{seed}"
                if time.monotonic() > until and not (path / "features.zarr").exists():
                    return None
                begun = time.monotonic()
                run = verbs.fit(verbs.recipe(recipe, {"split.fold": fold, "seed": seed}), source, path, quiet=True)
                table = verbs.embed(run, source, quiet=True)
                print(f"{path.name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
                row = {one: k for k, one in enumerate(ids)}
                table.obsm["baseline_dark area"] = dark[[row[one] for one in table.obs["id"].astype(str)]]
                own.append(table)
            found.setdefault(name, []).append(own)
    return found


def about(folder: Path, table: ad.AnnData, seeds: list[int]) -> None:
    obs, recipe = table.obs, verbs.recipe("patches-nissl")
    size, fit = recipe.samples, recipe.fit
    print(f"brodmann {brodmann.__version__}, {time.strftime('%Y-%m-%d')}; {platform.machine()}, torch")
    print(f"{torch.__version__}, {torch.get_num_threads()} thread(s). {len(obs)} crops of {obs['section'].nunique()}")
    print(f"tiles ({folder.name}), {size.size_px} px at {size.pixel_um} um; {fit.steps} steps of {fit.batch}.")
    print(f"Seeds {seeds}. Licence of the tiles: {rat_nissl.LICENSE}; {rat_nissl.CITATION}.")
    every = rat_nissl.cells(folder)
    models = [by for by in rat_nissl.MODELS if (every["by"] == by).any()]
    print("\n| tile | cells by hand, mean area | " + " | ".join(f"{by}, mean area" for by in models) + " |")
    print("|---|---|" + "---|" * len(models))
    for name, own in every.groupby("section"):
        shown = []
        for by in (rat_nissl.HAND, *models):
            held = own[own["by"] == by]
            shown.append(f"{len(held)}, {held.loc[held['whole'], 'area_um2'].mean():.0f} um2")
        print(f"| {name} | {' | '.join(shown)} |")


def apart(obs: pd.DataFrame) -> np.ndarray:
    """Crops that lie side by side: the first, and those whole crops away from it."""
    steps = (obs[["x_um", "y_um"]] / rat_nissl.CROP_UM - 0.5).to_numpy()
    return (np.abs(steps - steps.round()) < 1e-6).all(axis=1)


def mean(estimates: list[Estimate]) -> str:
    parts = np.array([[one.value, one.low, one.high] for one in estimates]).mean(axis=0)
    return f"{parts[0]:.2f} | [{parts[1]:.2f}, {parts[2]:.2f}]"


def report(target: str, unit: str, scores: dict[str, list[Score]], first: ad.AnnData) -> None:
    any_ = next(iter(scores.values()))[0]
    print(f"\n### {target}: mean absolute error, {unit}\n")
    truth = f"{any_.truth.mean():.1f}, SD {any_.truth.std():.1f}"
    print(f"n {any_.n:,} held-out crops of {any_.n_groups} tiles; truth {truth}.\n")
    gains = " | ".join(f"{one} minus it" for one in scores)
    print(f"| row | MAE, {unit} | 95 % | sd | MAE, % of truth | 95 % | {gains} |")
    print("|---|---|---|---|---|---|" + "---|" * len(scores))
    for name, own in scores.items():
        value = [Estimate(one.value, *one.interval) for one in own]
        gain = [
            "" if other == name else against(scores[other], own) for other in scores
        ]  # fmt: skip
        print(row(name, value, [one.more["features, %"] for one in own], gain))
    for rival in any_.baselines:
        # an untrained encoder differs between seeds, other rivals do not
        own = scores["SpatialNCE"]
        value, share = [one.baselines[rival] for one in own], [one.more[f"{rival}, %"] for one in own]
        gains = [signed([one.gains[rival] for one in every]) for every in scores.values()]
        print(row(shown(rival), value, share, gains))
    within(target, scores, first)
    for name, own in scores.items():
        told = np.mean([one.more["R^2"].value for one in own])
        print(f"\n{name}: R^2 {told:.2f}; bias | 95 %: {mean([one.more['bias'] for one in own])}.")
    print()
    for remark in dict.fromkeys(text for own in scores.values() for one in own for text in one.remarks):
        print(f"- {remark}")


def within(target: str, scores: dict[str, list[Score]], first: ad.AnnData) -> None:
    """Correlation with the truth inside each held-out tile: what is left when a tile's own level is given away."""
    obs = first.obs.set_index(first.obs["id"].astype(str))
    obs = obs.assign(dark=first.obsm["baseline_dark area"][:, 1])
    said = {name: pd.concat([one.predicted for one in own], axis=1).mean(axis=1) for name, own in scores.items()}
    said |= {"dark area, not fitted": obs["dark"]}
    said |= {NAMES[column]: obs[column] for column in TARGETS[target][1]}
    print(f"\n| correlation inside a tile | {' | '.join(sorted(obs['section'].astype(str).unique()))} |")
    print("|---|" + "---|" * obs["section"].nunique())
    for name, values in said.items():
        pairs = pd.DataFrame({"said": values.loc[obs.index], "truth": obs[target], "tile": obs["section"].astype(str)})
        each = [own["said"].corr(own["truth"]) for _, own in pairs.dropna().groupby("tile")]
        print(f"| {name} | {' | '.join(f'{one:+.2f}' for one in each)} |")


def shown(rival: str) -> str:
    column, comma, rest = rival.partition(", ")
    return NAMES.get(column, column) + comma + rest + (", as it comes" if rival in NAMES else "")


def row(name: str, value: list[Estimate], share: list[Estimate], gains: list[str]) -> str:
    sd = np.std([one.value for one in value], ddof=1) if len(value) > 1 else float("nan")
    return f"| {name} | {mean(value)} | {sd:.2f} | {mean(share)} | {' | '.join(gains)} |"


def signed(estimates: list[Estimate]) -> str:
    parts = np.array([[one.value, one.low, one.high] for one in estimates]).mean(axis=0)
    return f"{parts[0]:+.2f} [{parts[1]:+.2f}, {parts[2]:+.2f}]"


def against(ours: list[Score], theirs: list[Score]) -> str:
    """Error of one recipe minus that of another, paired over crops; drawn over tiles."""
    gains: list[Estimate] = []
    for a, b in zip(ours, theirs, strict=True):
        gap = (a.predicted - a.truth).abs() - (b.predicted - b.truth).abs()
        tiles = gap.groupby(gap.index.str.rpartition("/").get_level_values(0)).mean().to_numpy()
        draws = tiles[np.random.default_rng(0).integers(0, len(tiles), (1000, len(tiles)))].mean(axis=1)
        gains.append(Estimate(float(gap.mean()), *(float(end) for end in np.percentile(draws, [2.5, 97.5]))))
    return signed(gains)


def totals(tables: dict[str, list[list[ad.AnnData]]], first: ad.AnnData) -> None:
    """Cells of whole tiles: the sum over crops that lie side by side."""
    obs = first.obs.set_index(first.obs["id"].astype(str))
    tiled = obs[apart(obs)]
    print("\n### Cells of a whole held-out tile (sum over the 16 crops side by side; mean of seeds)\n")
    columns = {"by hand": "count", "cyto2": "count_cyto2", "v2": "count_v2"}
    sums = {name: tiled.groupby("section", observed=True)[column].sum() for name, column in columns.items()}
    for name, every in tables.items():
        said = pd.concat([deviation(own, "count", TILE).predicted for own in every], axis=1).mean(axis=1)
        sums[name] = said.loc[tiled.index].groupby(tiled["section"], observed=True).sum()
    hand = sums["by hand"]
    # leaving a tile out, the mean of the others
    sums["training mean"] = (hand.sum() - hand) / (len(hand) - 1)
    print("| tile | " + " | ".join(sums) + " |\n|---|" + "---|" * len(sums))
    for tile in hand.index:
        print(f"| {tile} | " + " | ".join(f"{sums[name][tile]:.0f}" for name in sums) + " |")
    off = {name: 100 * ((own - hand).abs() / hand).mean() for name, own in sums.items()}
    print(
        "| mean absolute error, % | "
        + " | ".join(f"{off[name]:.1f}" if name != "by hand" else "" for name in sums)
        + " |"
    )


if __name__ == "__main__":
    main()
