"""Domains of three real sets at the true number, defaults only: the path without a network beside every rival.

    python benchmarks/bench_domains.py --data FOLDER/cells

Prints Markdown: adjusted Rand index, mean and sd over 5 seeds, and what another animal or slice gets from domains
fitted without it.
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from brodmann.tasks import _agreement, _consensus, _surroundings
from brodmann.tasks.domains import domains

SETS = {
    "STARmap V1": ("starmap_v1",),
    "mPFC BZ5 + BZ9": ("starmap_mpfc_BZ5", "starmap_mpfc_BZ9"),
    "BaristaSeq 1-2": ("baristaseq_slice1", "baristaseq_slice2"),
}


def counts(file: Path) -> ad.AnnData:
    """One section; log values are turned back into counts: in each cell the smallest value belongs to one count."""
    cells = ad.read_h5ad(file)
    x = np.asarray(cells.X.todense() if hasattr(cells.X, "todense") else cells.X, dtype=np.float64)
    if not np.allclose(x, np.round(x)):
        x = np.expm1(x)
        least = np.where(x > 0, x, np.inf).min(axis=1, keepdims=True)
        x = np.round(x / np.where(np.isfinite(least), least, 1))
    cells.X = x
    return cells


def log_normalised(x: np.ndarray) -> np.ndarray:
    library = x.sum(axis=1, keepdims=True)
    return np.log1p(x / np.maximum(library, 1) * np.median(library[library > 0]))


def table(sections: list[ad.AnnData], fit_on: slice = slice(None), components: int = 20) -> ad.AnnData:
    """Components of log-normalised counts learned from some sections, and Gaussian means of them as controls."""
    obs = pd.concat([part.obs.assign(section=str(i)) for i, part in enumerate(sections)])
    where = np.concatenate([np.asarray(part.obsm["spatial"], float)[:, :2] for part in sections])
    x = [log_normalised(part.X) for part in sections]
    learn = np.concatenate(x[fit_on])
    axes = np.linalg.eigh(np.cov(learn.T))[1][:, ::-1][:, :components]
    own = (np.concatenate(x) - learn.mean(axis=0)) @ axes
    obs["x_um"], obs["y_um"], obs["id"] = where[:, 0], where[:, 1], obs.index.astype(str)
    number = pd.factorize(obs["section"])[0].astype(np.int64)
    around = _surroundings.kernels(where, number)
    obsm = {"baseline_own": own.astype(np.float32), "baseline_means": _surroundings.means(own, around)}
    if "cell_type" in obs:
        kinds = pd.get_dummies(obs["cell_type"].astype(str)).drop(columns="nan", errors="ignore").to_numpy(float)
        obsm["baseline_composition"] = _surroundings.means(kinds, around)
    return ad.AnnData(X=own.astype(np.float16), obs=obs, obsm=obsm, uns={"brodmann": {"system": "cells"}})


def moved(cells: ad.AnnData, train: int, k: int, seed: int) -> float:
    """Agreement on one section of domains that were fitted on the other."""
    mine = cells.obs["section"].to_numpy() == str(train)
    parts, known = [], None
    for rows in (mine, ~mine):
        part = cells[rows]
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
    asked = options.parse_args()
    warnings.filterwarnings("ignore")
    rows: dict[str, dict[str, str]] = {}
    transfers: list[str] = []
    for name, files in SETS.items():
        begun = time.process_time()
        sections = [counts(asked.data / f"{file}.h5ad") for file in files]
        cells = table(sections)
        score = domains(cells, target="layer", seeds=asked.seeds).score
        sd = score.more["sd of ARI over seeds"].value
        own = ", ".join(f"{key} {score.more[long].value:.2f}" for key, long in (("same", "same-label neighbours"),))
        rows.setdefault("default path", {})[name] = f"**{score.value:.3f} ± {sd:.3f}** ({own})"
        for rival, found in score.baselines.items():
            spread, same = re.findall(r"sd ([\d.]+).*same ([\d.]+)", found.note)[0]
            rows.setdefault(rival, {})[name] = f"{found.value:.3f} ± {float(spread):.3f} (same {same})"
        print(
            f"{name}: {len(cells):,} cells, {time.process_time() - begun:.0f} CPU-s, NMI {score.more['NMI'].value:.3f}"
        )
        pairs: list[tuple[float, float]] = []
        for train in range(len(files)) if len(files) > 1 else ():
            alone = table(sections, slice(train, train + 1))
            values = [moved(alone, train, len(score.classes), seed) for seed in range(asked.seeds)]
            joint = score.more[f"ARI in section {2 - train}"].value
            pairs.append((float(np.mean(values)), joint))
            transfers.append(
                f"| {files[train]} | {files[1 - train]} | {np.mean(values):.3f} ± {np.std(values):.3f} | {joint:.3f} |"
            )
        if pairs:
            there, here = np.mean(pairs, axis=0)
            transfers.append(f"| *mean of both ways* | {name} | {there:.3f} | {here:.3f} |")
    print("\n| | " + " | ".join(SETS) + " |\n|---|" + "---|" * len(SETS))
    for rival, found in rows.items():
        print(f"| {rival} | " + " | ".join(found.get(name, "-") for name in SETS) + " |")
    print("\n| fitted on | applied to | ARI | fitted on both, same cells |\n|---|---|---|---|\n" + "\n".join(transfers))


if __name__ == "__main__":
    main()
