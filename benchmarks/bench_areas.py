"""Area scores over seeds: SpatialNCE beside SimCLR, untrained, statistics, profiles, coordinates, supervision.

    python benchmarks/bench_areas.py mouse   --data FOLDER/sections/mouse_glt1 --out runs/bench_mouse
    python benchmarks/bench_areas.py phantom --out runs/bench_phantom
    python benchmarks/bench_areas.py dlpfc   --data FOLDER/sections/human_dlpfc_he --out runs/bench_dlpfc

The same command again goes on where it stopped. Every row is read out by the same probe on the same tissue.
Intervals: 95 % of a bootstrap over held-out sections, joint for all rows and averaged over seeds; sd: over seeds.
`--cells 1:0 2:1 3:2` judges seed 0 on fold 1 and so on: as many trainings, three times as many held-out sections.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch

from brodmann import results, splits, verbs
from brodmann.settings import Split
from brodmann.tasks.areas import areas


@dataclass
class Study:
    """One data set: its recipe, target, folds and what differs between rows."""

    name: str
    recipe: str
    target: str
    folds: tuple[int, ...]
    data: object
    changes: dict = field(default_factory=dict)
    supervised: bool = False
    min_per_class: int = 30
    shuffled: bool = False
    methods: tuple[str, ...] = ("SpatialNCE", "SimCLR, crops", "SimCLR, no crops")


METHODS = {
    "SpatialNCE": ("", {}),
    "SimCLR, crops": ("-simclr", {}),
    "SimCLR, no crops": ("-simclr", {"augment.crop": 1.0}),
}


def study(name: str, data: str | None) -> Study:
    if name == "mouse":
        return Study(name, "patches-mouse", "ccf", (0,), data, min_per_class=250)
    if name == "dlpfc":
        from brodmann.datasets import dlpfc

        return Study(name, "patches-dlpfc", "layer", (0, 1), dlpfc.open(data), methods=("SpatialNCE", "SimCLR, crops"))
    from brodmann import phantom

    return Study(
        name,
        "patches-tiny",
        "area",
        (0, 1, 2, 3),
        phantom.sections(cache_mb=2000),
        supervised=True,
        shuffled=True,
        methods=("SpatialNCE", "SimCLR, crops"),
    )


def with_features(table: ad.AnnData, features: np.ndarray) -> ad.AnnData:
    return ad.AnnData(X=np.asarray(features, np.float32), obs=table.obs, obsm={"xyz": table.obsm["xyz"]}, uns=table.uns)


def beside(*arrays: np.ndarray) -> np.ndarray:
    parts = [np.asarray(array, np.float32) for array in arrays]
    return np.concatenate([(a - a.mean(0)) / (a.std(0) + 1e-6) for a in parts], axis=1)


def train_one(
    plan: Study, source: object, method: str, fold: int, seed: int, out: Path, *, controls: bool, shuffle: bool
):
    """Feature table of one method, trained without the fold."""
    suffix, changes = METHODS[method]
    if f"{plan.recipe}{suffix}" not in verbs.recipe_names():
        suffix, changes = (
            "",
            {**changes, "partners.reach_mm": 0.0, "partners.scope": "both", **({"augment.crop": 0.5} | changes)},
        )
    recipe = verbs.recipe(f"{plan.recipe}{suffix}", {**plan.changes, **changes, "split.fold": fold, "seed": seed})
    name = (
        f"{method.lower().replace(', ', '-').replace(' ', '-')}{'-shuffled' if shuffle else ''}-fold{fold}-seed{seed}"
    )
    data = shuffled(source, seed) if shuffle else source
    run = verbs.fit(recipe, data, out / name, quiet=True)
    return recipe, verbs.embed(run, data, controls=controls, quiet=True)


def shuffled(source, seed: int):
    """The same sections with every brain's places dealt out anew: the training signal is gone, the images are not."""
    from dataclasses import replace

    rng = np.random.default_rng(seed)

    class Moved:
        def __init__(self, section, points):
            self._section, self.points = section, points

        def __getattr__(self, name):
            return getattr(self._section, name)

    everything = pd.concat([s.points.assign(_s=k) for k, s in enumerate(source.sections)], ignore_index=True)
    order = rng.permutation(len(everything))
    for column in ("u_mm", "v_mm"):
        everything[column] = everything[column].to_numpy()[order]
    parts = [
        everything[everything["_s"] == k].drop(columns="_s").reset_index(drop=True) for k in range(len(source.sections))
    ]
    moved = [Moved(s, p) for s, p in zip(source.sections, parts, strict=True)]
    return replace(source, sections=moved, fingerprint=f"{source.fingerprint}/shuffled {seed}")


def cell(plan: Study, source, fold: int, seed: int, out: Path) -> pd.DataFrame:
    """Held-out predictions of every row of the table: columns truth, section, brain and one per row; cached."""
    path = out / f"predictions-fold{fold}-seed{seed}.csv.gz"
    if path.exists():
        return pd.read_csv(path, index_col=0, dtype=str, keep_default_na=False)
    found: dict[str, pd.Series] = {}
    tables: dict[str, ad.AnnData] = {}
    for method in plan.methods:
        begun = time.monotonic()
        recipe, tables[method] = train_one(
            plan, source, method, fold, seed, out, controls=method == "SpatialNCE", shuffle=False
        )
        print(f"fold {fold} seed {seed} {method}: {time.monotonic() - begun:.0f} s", flush=True)
    main = tables["SpatialNCE"]
    results.label(main, plan.target)
    split = Split(by=recipe.split.by, folds=recipe.split.folds, fold=fold)

    def read_out(features) -> pd.Series:
        score = areas(
            with_features(main, features),
            plan.target,
            split,
            compare=False,
            seed=seed,
            min_per_class=plan.min_per_class,
        )
        found["truth"] = score.truth
        return score.predicted

    for method, table in tables.items():
        found[method] = read_out(table.X)
    for name in sorted(key for key in main.obsm if key.startswith("baseline_")):
        found[name.removeprefix("baseline_")] = read_out(main.obsm[name])
    found["statistics + SpatialNCE"] = read_out(beside(main.obsm["baseline_statistics"], main.X))
    where = main.obs[["u_mm", "v_mm"]].to_numpy(float) if "u_mm" in main.obs else np.asarray(main.obsm["xyz"])
    found["coordinates only"] = coordinates_only(main, plan, split, where)
    if plan.shuffled and fold == plan.folds[0]:
        _, table = train_one(plan, source, "SpatialNCE", fold, seed, out, controls=False, shuffle=True)
        found["SpatialNCE, shuffled places"] = read_out(table.X)
    if plan.supervised:
        start = out / f"spatialnce-fold{fold}-seed{seed}"
        for kind, begun in (("supervised", None), ("SpatialNCE, tuned", start), ("SpatialNCE, frozen", start)):
            for count in (None, 240):
                found[f"{kind}, {count or 'all'} labels"] = own_head(plan, source, kind, begun, count, fold, seed, out)
    table = pd.DataFrame(found)
    places = main.obs.set_index(main.obs["id"].astype(str))
    table["section"], table["brain"] = places["section"].astype(str), places["subject"].astype(str)
    table.to_csv(path)
    return table.astype(str)


def own_head(plan: Study, source, kind: str, start: Path | None, count: int | None, fold: int, seed: int, out: Path):
    """What a head says that learned the labels, with an encoder from scratch or from SpatialNCE, in as many steps."""
    labels = {"tune.target": plan.target, "tune.calibrate": 0.0, **({} if count is None else {"tune.labels": count})}
    labels["tune.encoder"] = "frozen" if kind.endswith("frozen") else "tuned"
    steps = {"fit.steps": 400 if count is None else 200, "split.fold": fold, "seed": seed}
    recipe = verbs.recipe(plan.recipe, {**plan.changes, **labels, **steps})
    name = f"{kind.lower().replace(', ', '-')}-{count or 'all'}-fold{fold}-seed{seed}"
    begun = time.monotonic()
    run = verbs.fit(recipe, source, out / name, start=start, quiet=True)
    table = verbs.embed(run, source, controls=False, quiet=True)
    print(f"fold {fold} seed {seed} {name}: {time.monotonic() - begun:.0f} s", flush=True)
    results.label(table, plan.target)
    split = Split(by=recipe.split.by, folds=recipe.split.folds, fold=fold)
    score = areas(table, plan.target, split, probe="head", compare=False, min_per_class=plan.min_per_class)
    return score.predicted


def coordinates_only(table: ad.AnnData, plan: Study, split: Split, where: np.ndarray) -> pd.Series:
    """15 nearest training places vote."""
    from sklearn.neighbors import KNeighborsClassifier

    score = areas(with_features(table, where), plan.target, split, compare=False, min_per_class=plan.min_per_class)
    fold = splits.folds(table.obs, split)[0]
    labels = table.obs[plan.target].astype(str).to_numpy()
    train = fold.train[np.isin(labels[fold.train], score.classes)]
    ids = table.obs["id"].astype(str).to_numpy()
    test = np.flatnonzero(np.isin(ids, score.truth.index))
    model = KNeighborsClassifier(15).fit(where[train], labels[train])
    return pd.Series(model.predict(where[test]), index=ids[test])


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Macro-F1 of confusion counts (..., K, K); classes without truth in a draw are left out of its mean."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    truth, said = counts.sum(-1), counts.sum(-2)
    f1 = np.where(truth > 0, 2 * hit / np.maximum(truth + said, 1), np.nan)
    return np.nanmean(f1, axis=-1)


def confusions(table: pd.DataFrame, row: str, classes: list[str], sections: list[str]) -> np.ndarray:
    """(sections, K, K) counts."""
    known = table[row].isin(classes) & table["truth"].isin(classes)
    a = pd.Categorical(table.loc[known, "truth"], classes).codes
    b = pd.Categorical(table.loc[known, row], classes).codes
    s = pd.Categorical(table.loc[known, "section"], sections).codes
    counts = np.zeros((len(sections), len(classes), len(classes)))
    np.add.at(counts, (s, a, b), 1)
    return counts


def balanced(counts: np.ndarray) -> float:
    truth = counts.sum(-1)
    return float(
        np.nanmean(np.where(truth > 0, np.diagonal(counts, axis1=-2, axis2=-1) / np.maximum(truth, 1), np.nan))
    )


def summary(parts: list[pd.DataFrame], draws: int = 1000) -> pd.DataFrame:
    """Mean and sd over parts (a seed, or a seed on its own fold), interval, paired difference from SpatialNCE."""
    rows = [c for c in parts[0] if c not in {"truth", "section", "brain"}]
    rng = np.random.default_rng(0)
    held = [tuple(sorted(set(part["section"]))) for part in parts]
    # parts judged on the same sections share their draws
    weights = {s: rng.multinomial(len(s), np.full(len(s), 1 / len(s)), draws) for s in dict.fromkeys(held)}

    def counted(row: str, asked: str) -> list[np.ndarray]:
        """(sections, K, K) of ``row`` per part, on the patches for which ``asked`` has an answer."""
        return [
            confusions(part[part[asked] != ""], row, sorted(set(part["truth"])), list(sections))
            for part, sections in zip(parts, held, strict=True)
        ]

    def bootstrapped(counts: list[np.ndarray]) -> np.ndarray:
        return np.mean([macro_f1(np.tensordot(weights[s], c, 1)) for s, c in zip(held, counts, strict=True)], 0)

    lines = []
    for row in rows:
        # a row made for some folds only (shuffled places) is judged on those alone, and so is its difference
        mine, ours = counted(row, row), counted("SpatialNCE", row)
        value, best = (np.array([macro_f1(c.sum(0)) for c in counts]) for counts in (mine, ours))
        boot = bootstrapped(mine)
        gap = bootstrapped(ours) - boot
        mean_gap = best.mean() - value.mean()
        low, high, a, b = *np.nanpercentile(boot, [2.5, 97.5]), *np.nanpercentile(gap, [2.5, 97.5])
        lines.append(
            {
                "row": row,
                "macro-F1": f"{value.mean():.3f}",
                "95 %": f"[{low:.3f}, {high:.3f}]",
                "sd": f"{value.std(ddof=1) if len(value) > 1 else 0:.3f}",
                "balanced accuracy": f"{np.mean([balanced(c.sum(0)) for c in mine]):.3f}",
                "SpatialNCE minus it": "" if row == "SpatialNCE" else f"{mean_gap:+.3f} [{a:+.3f}, {b:+.3f}]",
            }
        )
    lines.sort(key=lambda line: -float(line["macro-F1"]))
    return pd.DataFrame(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["mouse", "phantom", "dlpfc"])
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, nargs="*", help="only these folds (to share the work between processes)")
    parser.add_argument("--only-seeds", type=int, nargs="*", help="only these seeds (likewise)")
    parser.add_argument("--cells", nargs="*", help="FOLD:SEED pairs: each seed on its own fold, the mean over pairs")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe, KEY=JSON")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    plan = study(given.name, given.data)
    plan.changes = {k: json.loads(v) for k, _, v in (text.partition("=") for text in given.set)}
    source = verbs.open_source(verbs.recipe(plan.recipe), plan.data) if isinstance(plan.data, str) else plan.data
    given.out.mkdir(parents=True, exist_ok=True)
    if given.cells:
        chosen = [tuple(int(part) for part in pair.split(":")) for pair in given.cells]
        parts = [cell(plan, source, fold, seed, given.out).fillna("") for fold, seed in chosen]
        first, how = pd.concat(parts), f"fold:seed {' '.join(given.cells)}"
    else:
        seeds, folds = given.only_seeds or list(range(given.seeds)), tuple(given.folds) if given.folds else plan.folds
        parts = [pd.concat([cell(plan, source, fold, seed, given.out) for fold in folds]).fillna("") for seed in seeds]
        first, how = parts[0], f"folds {folds}, {len(seeds)} seeds"
    print(f"{plan.name}: recipe {plan.recipe} {given.set}, target {plan.target}, {how}")
    print(
        f"n {len(first):,} held-out patches, {first['section'].nunique()} sections, {first['brain'].nunique()} brains, "
        f"{first['truth'].nunique()} classes; {platform.processor() or platform.machine()}, torch {torch.__version__}"
    )
    table = summary(parts)
    text = "| " + " | ".join(table.columns) + " |\n|" + "---|" * len(table.columns) + "\n"
    text += "\n".join("| " + " | ".join(line) + " |" for line in table.astype(str).to_numpy())
    print(text)
    (given.out / "table.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
