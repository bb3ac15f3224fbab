"""Domains of three real sets at the true number, defaults only: the path without a network beside every rival.

    python benchmarks/bench_domains.py --data FOLDER/cells [--networks 3 --steps 300]

Prints Markdown: adjusted Rand index, mean and sd over 5 seeds, and what another animal or slice gets from domains
fitted without it. With --networks so many networks (recipe `cells`, --steps long, no labels) are trained on each set;
their rows are means over networks, and sd over them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import anndata as ad
import numpy as np
import pandas as pd

from brodmann import cells, train, verbs
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.settings import Split
from brodmann.tasks import _agreement, _consensus, _surroundings
from brodmann.tasks.domains import domains

SETS = {
    "STARmap V1": ("starmap_v1",),
    "mPFC BZ5 + BZ9": ("starmap_mpfc_BZ5", "starmap_mpfc_BZ9"),
    "BaristaSeq 1-2": ("baristaseq_slice1", "baristaseq_slice2"),
}


def counts(file: Path) -> ad.AnnData:
    """One section; log values are turned back into counts: in each cell the smallest value belongs to one count."""
    read = ad.read_h5ad(file)
    x = np.asarray(read.X.todense() if hasattr(read.X, "todense") else read.X, dtype=np.float64)
    if not np.allclose(x, np.round(x)):
        x = np.expm1(x)
        least = np.where(x > 0, x, np.inf).min(axis=1, keepdims=True)
        x = np.round(x / np.where(np.isfinite(least), least, 1))
    read.X = x
    return read


def table(sections: list[ad.AnnData], held_out: int | None = None) -> ad.AnnData:
    """What the cells system says of these sections without a network; components not learned from the one held out."""
    split = Split(by="section", folds=0, fold=held_out)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"BRODMANN_CACHE": folder}):
        with contextlib.redirect_stderr(io.StringIO()):
            source = cells.open(cells.Recipe(split=split), ad.concat(sections))
        samples = cells.samples(source, cells.Recipe(split=split))
        batch = samples.read(np.arange(len(samples)))
        named = ("own", "means", "neighbour_mean", "composition")
        given = cells.controls(cells.Recipe(split=split), samples)
        obsm = {f"baseline_{name}": np.array(given[name](batch)) for name in named if name in given}
        obs = pd.concat([samples.places, samples.labels], axis=1).set_index("id", drop=False)
        obs.index.name = None
    return ad.AnnData(
        X=obsm["baseline_neighbour_mean"].astype(np.float16), obs=obs, obsm=obsm, uns={"brodmann": {"system": "cells"}}
    )


def network(sections: list[ad.AnnData], steps: int, seed: int) -> np.ndarray:
    """Features (n, 128) of a network trained on these sections alone."""
    changes = {"fit.steps": steps, "fit.warmup_steps": min(100, steps // 5), "seed": seed, "fit.save_every": steps}
    recipe = verbs.recipe("cells", changes)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"BRODMANN_CACHE": f"{folder}/cache"}):
        with contextlib.redirect_stderr(io.StringIO()):
            source = cells.open(recipe, ad.concat(sections))
        samples = cells.samples(source, recipe)
        model = cells.build(recipe, samples)
        about = {"system": "cells", "data_fingerprint": samples.fingerprint, "data": "", "say": Say(quiet=True)}
        run = Run.open(f"{folder}/run", recipe=recipe, **about)
        with run.lock():
            suited = model.suit(samples)
            train.fit(model, suited, recipe.fit, run, say=Say(quiet=True))
        return model.describe(suited.read(np.arange(len(samples))))


def moved(whole: ad.AnnData, train: str, k: int, seed: int) -> float:
    """Agreement on one section of domains that were fitted on the other."""
    mine = whole.obs["section"].to_numpy() == train
    parts, known = [], None
    for rows in (mine, ~mine):
        part = whole[rows]
        where, section = _surroundings.positions(part), _surroundings.sections(part)
        given = {name.removeprefix("baseline_"): np.asarray(part.obsm[name]) for name in part.obsm}
        known = _consensus.describe(given, where, section, section, seed=seed, like=known)
        parts.append((part, known, _surroundings.neighbours(where, section, _consensus.NEIGHBOURS)))
    (_, learned, near), (other, described, around) = parts
    said = _consensus.consensus(learned.blocks, k, near, seed).predict(described.blocks, around)
    truth, _ = pd.factorize(other.obs["layer"])
    return _agreement.ari(truth[truth >= 0].astype(np.int64), said[truth >= 0].astype(np.int64))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--networks", type=int, default=0)
    options.add_argument("--steps", type=int, default=300)
    asked = options.parse_args()
    warnings.filterwarnings("ignore")
    rows: dict[str, dict[str, str]] = {}
    transfers: list[str] = []
    for name, files in SETS.items():
        begun = time.process_time()
        sections = [counts(asked.data / f"{file}.h5ad") for file in files]
        whole = table(sections)
        score = domains(whole, target="layer", seeds=asked.seeds).score
        sd = score.more["sd of ARI over seeds"].value
        own = ", ".join(f"{key} {score.more[long].value:.2f}" for key, long in (("same", "same-label neighbours"),))
        rows.setdefault("default path", {})[name] = f"**{score.value:.3f} ± {sd:.3f}** ({own})"
        # There is no network here: the features of the table are the plain mean of the neighbours.
        found: dict[str, list[float]] = {}
        for seed in range(asked.networks):
            features = network(sections, asked.steps, seed).astype(np.float16)
            learned = ad.AnnData(features, obs=whole.obs, obsm=dict(whole.obsm), uns=whole.uns)
            against = domains(learned, target="layer", seeds=asked.seeds).score.baselines
            for rival in (one for one in against if one.startswith("features, ")):
                longer = rival.replace("features", f"network of {asked.steps} steps")
                found.setdefault(longer, []).append(against[rival].value)
        for rival, values in found.items():
            rows.setdefault(rival, {})[name] = f"{np.mean(values):.3f} ± {np.std(values):.3f}"
        for rival, known in ((key, value) for key, value in score.baselines.items() if "features" not in key):
            spread, same = re.findall(r"sd ([\d.]+).*same ([\d.]+)", known.note)[0]
            rows.setdefault(rival, {})[name] = f"{known.value:.3f} ± {float(spread):.3f} (same {same})"
        print(
            f"{name}: {len(whole):,} cells, {time.process_time() - begun:.0f} CPU-s, NMI {score.more['NMI'].value:.3f}"
        )
        pairs: list[tuple[float, float]] = []
        for first in range(len(files)) if len(files) > 1 else ():
            alone = table(sections, held_out=1 - first)
            values = [
                moved(alone, str(whole.obs["section"].unique()[first]), len(score.classes), seed)
                for seed in range(asked.seeds)
            ]
            joint = score.more[f"ARI in section {2 - first}"].value
            pairs.append((float(np.mean(values)), joint))
            transfers.append(
                f"| {files[first]} | {files[1 - first]} | {np.mean(values):.3f} ± {np.std(values):.3f} | {joint:.3f} |"
            )
        if pairs:
            there, here = np.mean(pairs, axis=0)
            transfers.append(f"| *mean of both ways* | {name} | {there:.3f} | {here:.3f} |")
    print("\n| | " + " | ".join(SETS) + " |\n|---|" + "---|" * len(SETS))
    for rival, shown in rows.items():
        print(f"| {rival} | " + " | ".join(shown.get(name, "-") for name in SETS) + " |")
    print("\n| fitted on | applied to | ARI | fitted on both, same cells |\n|---|---|---|---|\n" + "\n".join(transfers))


if __name__ == "__main__":
    main()
