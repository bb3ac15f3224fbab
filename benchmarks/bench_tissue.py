"""Planted tissue in a run on the phantom's cells: domains, what tells animals apart, and new borders, true and false.

    python benchmarks/bench_tissue.py RUN [--seeds 5] [--sections 1]

RUN was trained on and embedded from `phantom:cells=N`. Prints Markdown. Domains are compared with the planted ones at
their true number; the probe names the animal within planted domains, on sections that it did not learn from; new
borders are looked for inside every region that the phantom's atlas gives, and counted against those that were planted.
With --sections domains and borders are those of so many sections of each animal, the middle ones.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

import brodmann
from brodmann import features
from brodmann.phantom.domains import UNIFORM
from brodmann.progress import Say
from brodmann.tasks import _rows, donors
from brodmann.tasks._inputs import take
from brodmann.tasks.domains import domains
from brodmann.tasks.novelty import novelty


def line(name: str, value: float, low: float, high: float, *more: str) -> str:
    """A row of a table."""
    return " | ".join([f"| {name}", f"{value:.3f}", f"[{low:.3f}, {high:.3f}]", *more]) + " |"


def middle(table: ad.AnnData, sections: int) -> ad.AnnData:
    """Whole sections from the middle of each animal, read into memory."""
    kept: list[str] = []
    for _, own in table.obs.groupby("subject", observed=True)["section"]:
        names = sorted(own.unique())
        first = max((len(names) - sections) // 2, 0)
        kept += names[first : first + sections]
    rows = np.flatnonzero(table.obs["section"].isin(kept).to_numpy())
    obs = table.obs.iloc[rows].copy()
    for name in obs.select_dtypes("category"):
        obs[name] = obs[name].cat.remove_unused_categories()
    held = {name: take(table.obsm[name], rows) for name in table.obsm}
    return ad.AnnData(take(table.X, rows), obs=obs, obsm=held, uns=dict(table.uns))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("run", type=Path)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--sections", type=int, help="of each animal; all by default")
    asked = options.parse_args()
    table = features.read(asked.run / "features.zarr")
    recipe = (asked.run / "recipe.toml").read_text()
    animals, sections = table.obs["subject"].nunique(), table.obs["section"].nunique()
    print(f"brodmann {brodmann.__version__}, {time.strftime('%Y-%m-%d')}; {table.n_obs:,} cells of {sections}")
    print(f"sections, {animals} animals; features of width {table.n_vars}.\n\n```toml\n{recipe.strip()}\n```\n")
    whole = table
    if asked.sections:
        table = middle(whole, asked.sections)
        print(f"Domains and borders: {table.n_obs:,} cells, {asked.sections} sections of each animal.\n")
    begun = time.monotonic()
    score = domains(table, target="domain", path="features", seeds=asked.seeds, say=Say()).score
    print(f"### Domains: {score.metric} with the {len(score.classes)} planted domains\n")
    print(f"n {score.n:,}, mean of {asked.seeds} seeds; {time.monotonic() - begun:.0f} s; interval: bootstrap of")
    print(f"{score.n_groups} {score.cluster}.\n\n| what is clustered | ARI | 95 % | |\n|---|---|---|---|")
    spread = f"sd {score.more['sd of ARI over seeds'].value:.3f} over seeds"
    print(line(f"**features** ({score.probe})", score.value, *score.interval, spread))
    for name, rival in score.baselines.items():
        print(line(name, rival.value, rival.low, rival.high, rival.note))
    told = donors.probe(whole, "domain")
    print(f"\n### Animals: {told.metric} of a linear probe, lower is better\n")
    print(f"n {told.n:,}, {told.n_groups} domains; held out: {told.split}.\n\n| | value | 95 % |\n|---|---|---|")
    print(line("**features**", told.value, *told.interval))
    for name, rival in told.baselines.items():
        print(line(name, rival.value, rival.low, rival.high))
    borders(table)


def borders(table: ad.AnnData) -> None:
    """New borders, true and false; a false one is counted wherever a region without a planted border is called new."""
    begun = time.monotonic()
    found = novelty(table, "known_region", say=Say())
    seconds = time.monotonic() - begun
    planted = table.obs.groupby("known_region", observed=True)["hidden_border"].first().astype(str)
    judged = found.regions.join(planted.rename("planted"))
    truth = pd.Series(table.obs["domain"].astype(str).to_numpy(), index=_rows.ids(table))
    there = (judged["planted"] != "none").to_numpy()
    new = judged["new"].to_numpy(bool)
    print(f"\n### New borders inside known regions ({seconds:.0f} s)\n")
    print(f"{len(judged)} regions had cells enough; planted borders in {there.sum()}, found in {(new & there).sum()}.")
    print(f"Regions called new without a planted border: {(new & ~there).sum()} of {(~there).sum()};")
    print(f"called new where cells were dealt out anew within regions: {found.dealt} of {len(judged)};")
    if UNIFORM in judged.index:
        uniform = judged.loc[UNIFORM]
        print(f"uniform region '{UNIFORM}': {'CALLED NEW' if uniform['new'] else 'no border'} (p {uniform['p']:.3f}).")
    print("\n| region | planted | n | parts | step, SD | p | q | halves agree | new | ARI with planted domains |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, row in judged.sort_values(["new", "p"], ascending=[False, True]).iterrows():
        numbers = f"{row['step']:.3f} +- {row['error']:.3f} | {row['p']:.1e} | {row['q']:.1e} | {row['agreement']:.2f}"
        labels = found.labels[found.labels.str.startswith(f"{name}/")]
        true = truth[labels.index]
        ari = f"{adjusted_rand_score(true, labels):.2f}" if row["new"] and row["planted"] != "none" else ""
        verdict = "yes" if row["new"] else "no"
        print(f"| {name} | {row['planted']} | {row['n']:,} | {row['parts']} | {numbers} | {verdict} | {ari} |")
    print("\n| border | n | length, mm | contiguous | step, SD | animals |\n|---|---|---|---|---|---|")
    for _, row in found.borders.iterrows():
        about = f"{row['length_mm']:.1f} | {row['contiguous']:.2f} | {row['step']:.2f} +- {row['error']:.2f}"
        animals = f"{row['animals']} of {row['of']}"
        print(f"| {row['a']} - {row['b']} | {row['n_a']:,} + {row['n_b']:,} | {about} | {animals} |")


if __name__ == "__main__":
    main()
