"""Cortical layers from few labels on the phantom: SpatialNCE, SimCLR and scratch, leave one brain out.

    python benchmarks/bench_layers.py --out runs/bench_layers
    python benchmarks/bench_layers.py --out runs/bench_layers --folds 0 --seeds 0 --counts 3 8
    python benchmarks/bench_layers.py --out runs/b --spatialnce 'runs/nce-fold{fold}-seed{seed}'

An encoder never sees the brain that is judged; labels come from so many patches of one section of the other brains
(0: from every patch). Every row learns with the same decoder, steps and views. What each row told is kept as counts in
its own file, so the same command again goes on where it stopped, and `--summary` prints what there is.
Intervals: 95 % of a bootstrap over held-out sections, paired over rows; over seeds the mean and the range.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from brodmann import splits, train, verbs
from brodmann.errors import Refused
from brodmann.patches.layered import Layered, answers
from brodmann.patches.layerrows import LayerRows, few
from brodmann.patches.recipe import Layers
from brodmann.patches.samples import PatchSamples
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.tasks.layers import Segmented, Tally, depth_prior, judge, majority

PRETRAINED = {"SpatialNCE": "", "SimCLR": "-simclr"}
LEARNED = {
    "SpatialNCE, tuned": ("SpatialNCE", "tuned"),
    "SpatialNCE, frozen": ("SpatialNCE", "frozen"),
    "SimCLR, tuned": ("SimCLR", "tuned"),
    "SimCLR, frozen": ("SimCLR", "frozen"),
    "scratch": (None, "tuned"),
    "untrained, frozen": (None, "frozen"),
}
PRIORS = ("depth prior", "depth prior, rows", "majority")
MAIN = "SpatialNCE, tuned"


def encoder(given: argparse.Namespace, source, kind: str, fold: int, seed: int) -> dict[str, torch.Tensor]:
    """Weights of an encoder that did not see the fold, trained here unless a run is named."""
    named = given.spatialnce if kind == "SpatialNCE" else given.simclr
    if named:
        run = verbs.load(named.format(fold=fold, seed=seed))
    else:
        changes = {**given.changes, "split.fold": fold, "seed": seed}
        recipe = verbs.recipe(f"patches-tiny{PRETRAINED[kind]}", changes)
        run = verbs.fit(recipe, source, given.out / f"encoder-{kind.lower()}-fold{fold}-seed{seed}", quiet=True)
    recipe, model = verbs.trained(run)
    if (recipe.split.by, recipe.split.fold) != ("brain", fold):
        raise Refused(
            f"{run.path.name} should not have seen fold {fold}.", found=f"{recipe.split.by}, fold {recipe.split.fold}."
        )
    return model.encoder.state_dict()


def learned(
    given: argparse.Namespace, source, samples: PatchSamples, rows: LayerRows, name: str, where: Path
) -> Callable:
    """What a trained row tells of a batch."""
    kind, how = LEARNED[name]
    split, seed = samples.recipe.split, samples.recipe.seed
    start = None if kind is None else encoder(given, source, kind, split.fold, seed)
    steps = given.steps if len(rows) < 1000 else given.steps_all
    plan = replace(samples.recipe.fit, steps=steps, batch=given.batch, lr=given.lr, warmup_steps=max(steps // 10, 1))
    recipe = replace(samples.recipe, fit=plan)
    rows.recipe = recipe
    run = Run.open(where, recipe=recipe, system="patches", data_fingerprint=rows.fingerprint)
    model = Layered(recipe, Layers(encoder=how), rows.classes, start)
    with run.lock():
        train.fit(model, rows, plan, run, say=Say(quiet=True))
        run.drop("checkpoints")
    return model.tell


def kept_at(given: argparse.Namespace, name: str, count: int, fold: int, seed: int) -> Path:
    plain = name.lower().replace(", ", "-").replace(" ", "-")
    return given.out / "rows" / f"{plain}-{count or 'all'}-fold{fold}-seed{seed}.npz"


def row(given, source, everything: PatchSamples, taught: PatchSamples, name: str, count: int) -> dict[str, np.ndarray]:
    """Counts of one row of the table on the held-out brain; kept in a file."""
    recipe = taught.recipe
    path = kept_at(given, name, count, recipe.split.fold, recipe.seed)
    begun = time.monotonic()
    ids = few(taught, count, seed=recipe.seed) if count else None
    rows = LayerRows(taught, recipe, ids)
    if name in PRIORS:
        labels = (rows.truth.read(rows.rows[k : k + 256]) for k in range(0, len(rows.rows), 256))
        if name == "majority":
            plane = np.full((recipe.samples.size_px,) * 2, majority(labels, len(rows.classes)), np.uint8)
        else:
            plane = depth_prior(labels, len(rows.classes), by="row" if "rows" in name else "place")

        def tell(batch):
            return np.broadcast_to(plane, (len(batch["index"]), *plane.shape))
    else:
        tell = learned(given, source, taught, rows, name, given.out / "decoders" / path.stem)
    test = splits.folds(everything.places, recipe.split)[0].test[:: given.every]
    parts, section, subject = [], [], []
    for found in (Segmented(**one) for one in answers(everything, test, tell)):
        parts.append(Tally.of(found.predicted, found.truth, len(rows.classes), found.pixel_um, upright=found.upright))
        section += [found.section] * len(found.truth)
        subject += [found.subject] * len(found.truth)
    tally = Tally.joined(parts)
    origin = taught.places.iloc[rows.rows][["subject", "section"]].drop_duplicates().astype(str)
    kept = {
        "confusion": tally.confusion, "away_um": tally.away_um, "columns": tally.columns,
        "section": np.array(section), "subject": np.array(subject), "classes": np.array(rows.classes),
        "taught_subject": origin["subject"].to_numpy(str), "taught_section": origin["section"].to_numpy(str),
        "labels": np.array(len(rows)),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **kept)
    partial.rename(path)
    print(f"{path.stem}: {len(rows)} labelled patches, {time.monotonic() - begun:.0f} s", flush=True)
    return kept


def scored(found: dict[str, dict[str, np.ndarray]], seed: int):
    """One score with every row of one count, fold and seed beside the main one."""
    first = next(iter(found.values()))
    order = [MAIN, *(name for name in found if name != MAIN)] if MAIN in found else list(found)
    tallies = {
        ("" if k == 0 else name): Tally(found[name]["confusion"], found[name]["away_um"], found[name]["columns"])
        for k, name in enumerate(order)
    }
    places = pd.DataFrame({"subject": first["subject"], "section": first["section"]})
    taught = zip(first["taught_subject"].tolist(), first["taught_section"].tolist(), strict=True)
    return order[0], judge(
        tallies, places, classes=first["classes"].tolist(), by="brain", taught=list(taught), seed=seed
    )


def summary(cells: list[tuple[int, int, int, dict]]) -> str:
    """A line per count and row: mean over folds and seeds, the least and most of them, and the gain of the main row."""
    lines: list[dict[str, object]] = []
    for count, fold, seed, found in cells:
        main, score = scored(found, seed)
        off = score.more.get("border error, um")
        lines.append(
            {"labels": count, "row": main, "F1": score.value, "low": score.interval[0], "high": score.interval[1],
             "border": off.value if off else np.nan, "fold": fold, "n": score.n, "sections": score.n_groups}
        )  # fmt: skip
        for name, rival in score.baselines.items():
            gain, off = score.gains[name], score.more.get(f"border error of {name}, um")
            lines.append(
                {"labels": count, "row": name, "F1": rival.value, "low": rival.low, "high": rival.high,
                 "border": off.value if off else np.nan, "fold": fold, "gain": gain.value, "gain low": gain.low,
                 "gain high": gain.high, "n": score.n, "sections": score.n_groups}
            )  # fmt: skip
    table = pd.DataFrame(lines)
    text = [
        "| labels | row | F1 I-VI | least - most | 95 % (mean) | border, um | main minus it | runs |",
        "|" + "---|" * 8,
    ]
    for (count, name), part in table.groupby(["labels", "row"], sort=False):
        gain = part["gain"].mean() if "gain" in part else np.nan
        shown = (
            "" if np.isnan(gain) else f"{gain:+.3f} [{part['gain low'].mean():+.3f}, {part['gain high'].mean():+.3f}]"
        )
        f1, interval = part["F1"], f"[{part['low'].mean():.3f}, {part['high'].mean():.3f}]"
        text.append(
            f"| {count or 'all'} | {name} | {f1.mean():.3f} | {f1.min():.3f} - {f1.max():.3f} | {interval} | "
            f"{part['border'].mean():.0f} | {shown} | {len(part)} |"
        )
    n, sections = table.drop_duplicates("fold")[["n", "sections"]].sum()
    return f"n {n:,} held-out patches, {sections} sections, by brain\n\n" + "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phantom", default="phantom", help="such as phantom:brains=4,sections_per_brain=30")
    parser.add_argument("--spatialnce", help="trained run, with {fold} and {seed}; trained here by default")
    parser.add_argument("--simclr", help="likewise")
    parser.add_argument("--counts", type=int, nargs="*", default=[3, 8, 45, 0], help="labelled patches; 0: all")
    parser.add_argument("--folds", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="*", default=[*LEARNED, *PRIORS])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--steps-all", type=int, default=1000, help="where 1,000 patches or more are labelled")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=1, help="judge every so many held-out patches")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe, KEY=JSON")
    parser.add_argument("--summary", action="store_true", help="print what there is and compute nothing")
    given = parser.parse_args()
    given.changes = {k: json.loads(v) for k, _, v in (text.partition("=") for text in given.set)}
    given.out.mkdir(parents=True, exist_ok=True)
    source = verbs.open_source(verbs.recipe("patches-tiny"), given.phantom)
    cells = []
    for fold in given.folds:
        for seed in given.seeds:
            recipe = verbs.recipe("patches-tiny", {**given.changes, "split.fold": fold, "seed": seed})
            everything = taught = None
            for count in given.counts:
                found = {}
                for name in given.rows:
                    path = kept_at(given, name, count, fold, seed)
                    if path.exists():
                        found[name] = dict(np.load(path, allow_pickle=False))
                    elif not given.summary:
                        if everything is None:
                            everything = PatchSamples(source, recipe, part="all")
                            taught = PatchSamples(source, recipe, part="train")
                        found[name] = row(given, source, everything, taught, name, count)
                if found:
                    cells.append((count, fold, seed, found))
                    text = summary(cells)
                    (given.out / "table.md").write_text(text)
    print(f"{given.phantom}: patches-tiny {given.set}, {given.steps} steps of {given.batch}, lr {given.lr:g}")
    print(summary(cells) if cells else "nothing yet")


if __name__ == "__main__":
    main()
