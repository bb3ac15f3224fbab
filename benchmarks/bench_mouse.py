"""One mouse brain against the Allen atlas: areas by fine-tuning, and domains found without labels, by ontology depth.

    python benchmarks/bench_mouse.py --data FOLDER/sections/mouse_glt1 --out FOLDER [--cells 1:0 2:1 3:2] [--steps 600]

For each FOLD:SEED an encoder is trained without labels on four fifths of the sections (`patches-mouse`). Then (1) it
and one from scratch learn the atlas's areas on these sections in as many steps, and a head names patches of the others;
beside them stand the frozen features, hand-made statistics and coordinates, read out linearly. (2) All sections are
clustered, at as many clusters as the atlas has classes at each depth of its ontology, and compared with them: the
encoder's features, what came with the table, coordinates, and the same smoothing applied to noise.
Fold 0 chose the recipe and is in no table. The same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import spread
import torch

from brodmann import atlases, verbs
from brodmann.settings import Split
from brodmann.tasks import areas as areas_task
from brodmann.tasks import domains as domains_task
from brodmann.tasks._score import Score

DEPTHS = {"parts": "ccf-parts", "divisions": "ccf-divisions", "areas": "ccf", "structures": "ccf-structures"}
PARTS = {
    "cortex": ("Isocortex", "OLF", "HPF", "CTXsp"), "nuclei": ("STR", "PAL"), "interbrain": ("TH", "HY"),
    "midbrain": ("MB",), "hindbrain": ("P", "MY"), "cerebellum": ("CB",), "fibres": ("fiber tracts",),
    "ventricles": ("VS",),
}  # fmt: skip
"""Coarsest: children of the ontology's roots."""
FEWEST = 250
"""Patches of a class, below which it is neither learned nor compared."""


def ends(one: Any) -> dict[str, float]:
    return {"value": one.value, "low": one.low, "high": one.high}


def rows_of(score: Score, of: str, name: str) -> list[dict[str, Any]]:
    """The headline, its rivals, what it has over them, and what else was measured."""
    low, high = score.interval
    found = [{"row": name, "value": score.value, "low": low, "high": high}]
    found += [{"row": rival, **ends(one)} for rival, one in score.baselines.items()]
    found += [{"row": f"{name}: minus {rival}", **ends(one)} for rival, one in score.gains.items()]
    found += [{"row": f"{name}: {key}", **ends(one)} for key, one in score.more.items()]
    about = {"n": score.n, "sections": score.n_groups, "classes": len(score.classes)}
    return [{"of": of, **one, **about} for one in found]


def labelled(table: ad.AnnData, folder: Path) -> None:
    """Every depth of the ontology as a column; classes that are too small are empty."""
    for target in DEPTHS.values():
        if target != "ccf-parts":
            atlases.label(table, target, atlas=folder)
    part = {division: name for name, divisions in PARTS.items() for division in divisions}
    table.obs["ccf-parts"] = [part.get(str(name), "") for name in table.obs["ccf-divisions"]]
    for target in DEPTHS.values():
        column = table.obs[target].astype(str)
        table.obs[target] = pd.Categorical(column.where(column.map(column.value_counts()) >= FEWEST, ""))


def taught(given: argparse.Namespace, table: ad.AnnData, fold: int, seed: int) -> list[dict[str, Any]]:
    """Areas of held-out sections: heads of tuned encoders, and read-outs of what was not tuned."""
    what, split = "areas of unseen sections", Split(by="section", folds=5, fold=fold)
    frozen = areas_task.areas(table, "ccf", split, seed=seed, min_per_class=FEWEST)
    found = rows_of(frozen, what, "SpatialNCE, frozen")
    for kind in ("SpatialNCE", "scratch"):
        where = given.out / f"tuned-{kind.lower()}-fold{fold}-seed{seed}"
        recipe = verbs.recipe(
            "patches-mouse-tuned",
            {"split.fold": fold, "seed": seed, "fit.steps": given.steps, "tune.calibrate": 0.0, **given.changes},
        )
        start = None if kind == "scratch" else given.out / f"spatialnce-fold{fold}-seed{seed}"
        run = verbs.fit(recipe, str(given.data), where, start=start, quiet=True)
        own = verbs.embed(run, str(given.data), controls=False, quiet=True)
        own.obs["ccf"] = table.obs.set_index("id")["ccf"].reindex(own.obs["id"]).to_numpy()
        head = areas_task.areas(
            own, "ccf", split, probe="head", seed=seed, min_per_class=FEWEST, extra_tables={"frozen": table}
        )
        gain = head.gains["frozen"]
        found.append(rows_of(head, what, f"{kind}, tuned")[0])
        found.append({**found[-1], "row": f"{kind}, tuned: minus SpatialNCE, frozen"} | ends(gain))
    return found


def untaught(table: ad.AnnData, seed: int) -> list[dict[str, Any]]:
    """Domains of all sections against the atlas."""
    xyz = np.asarray(table.obsm["xyz"], np.float32)
    table.obsm["baseline_coordinates"] = (xyz - xyz.mean(0)) / xyz.std(0).mean()
    found: list[dict[str, Any]] = []
    for depth, target in DEPTHS.items():
        said = domains_task.domains(table, target=target, path="features", seeds=1, seed=seed)
        found += rows_of(said.score, f"domains, {depth}", "SpatialNCE, smoothed")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", nargs="*", default=["1:0", "2:1", "3:2"], help="FOLD:SEED")
    parser.add_argument("--steps", type=int, default=600, help="of fine-tuning, whatever the start")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe that tunes, KEY=JSON")
    given = parser.parse_args()
    os.environ.setdefault("BRODMANN_DATA", str(given.data.resolve().parents[1]))
    given.changes = {key: json.loads(value) for key, _, value in (text.partition("=") for text in given.set)}
    (given.out / "rows").mkdir(parents=True, exist_ok=True)
    for fold, seed in (tuple(int(part) for part in pair.split(":")) for pair in given.cells):
        kept = {name: given.out / "rows" / f"{name}-fold{fold}-seed{seed}.json" for name in ("taught", "untaught")}
        if all(path.exists() for path in kept.values()):
            continue
        begun = time.monotonic()
        recipe = verbs.recipe("patches-mouse", {"split.fold": fold, "seed": seed})
        run = verbs.fit(recipe, str(given.data), given.out / f"spatialnce-fold{fold}-seed{seed}", quiet=True)
        table = verbs.embed(run, str(given.data), quiet=True)
        labelled(table, given.data)
        print(f"fold {fold} seed {seed} trained: {time.monotonic() - begun:.0f} s", flush=True)
        for name, path in kept.items():
            if not path.exists():
                rows = taught(given, table, fold, seed) if name == "taught" else untaught(table, seed)
                path.write_text(json.dumps([{**one, "fold": fold, "seed": seed} for one in rows], indent=1))
                print(f"fold {fold} seed {seed} {name}: {time.monotonic() - begun:.0f} s", flush=True)
    found = [one for path in sorted((given.out / "rows").glob("*.json")) for one in json.loads(path.read_text())]
    print(f"patches-mouse, {given.cells}, fine-tuning {given.steps} steps {given.set}; torch {torch.__version__}\n")
    text = spread.table(pd.DataFrame(found), ["of", "row"], ["classes"])
    print(text)
    (given.out / "table.md").write_text(text)


if __name__ == "__main__":
    main()
