"""A trained run meets other panels: genes in another order, and fewer and fewer of them.

    python benchmarks/bench_panels.py RUN [--cells 5000] [--k 25]

RUN was trained on `phantom:cells=N`. The cells are those of two further animals of that phantom; they are given as an
AnnData, as a user would. Prints Markdown: how far features move, as a share of their spread over cells, and whether
cells stay in the domain (k-means of the features of the whole panel) that they have with the whole panel.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import anndata as ad
import numpy as np
import scipy.sparse

import brodmann
from brodmann import cells, verbs
from brodmann.errors import Refused
from brodmann.phantom import transcripts
from brodmann.tasks import _agreement
from brodmann.tasks._cluster import assign, kmeans

KNOWN, NEW = 5, 2


def study(count: int) -> ad.AnnData:
    """Cells of animals that no run was trained on as a user's own data: counts, places in um, section and animal."""
    source = transcripts(cells=count * (KNOWN + NEW), brains=KNOWN + NEW)
    counts = scipy.sparse.csr_matrix(
        (np.asarray(source.count, np.float32), np.asarray(source.gene, np.int32), np.asarray(source.indptr)),
        shape=(len(source), len(source.panel.genes)),
    )
    table = ad.AnnData(counts)
    table.obs_names, table.var_names = [str(name) for name in source.ids()], list(source.panel.genes)
    for name in ("id", "subject"):
        values = np.repeat([getattr(one, name) for one in source.sections], [len(one.rows) for one in source.sections])
        table.obs["section" if name == "id" else name] = values
    table.obsm["spatial"] = np.asarray(source.xy_um, np.float64)
    return table[table.obs["subject"].isin([f"B{KNOWN + number + 1}" for number in range(NEW)])].copy()


def described(run: object, table: ad.AnnData) -> np.ndarray:
    """Features of a user's data in a trained run."""
    recipe, model = verbs.trained(run)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"BRODMANN_CACHE": folder}):
        with contextlib.redirect_stderr(io.StringIO()):
            source = cells.open(recipe, table)
        samples = model.suit(cells.samples(source, recipe))
        parts = [np.arange(at, min(at + 16_384, len(samples))) for at in range(0, len(samples), 16_384)]
        found = np.concatenate([model.describe(samples.read(rows)) for rows in parts])
        return found[np.argsort(samples.places["id"].to_numpy(str), kind="stable")]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("run", type=Path)
    options.add_argument("--cells", type=int, default=5_000)
    options.add_argument("--k", type=int, default=25)
    asked = options.parse_args()
    warnings.filterwarnings("ignore")
    run, table, rng = verbs.load(asked.run), study(asked.cells), np.random.default_rng(0)
    whole = described(run, table)
    domains = kmeans(whole, asked.k, seed=0, n_init=3)
    print(f"brodmann {brodmann.__version__}, {time.strftime('%Y-%m-%d')}; {len(whole):,} cells of")
    print(f"{table.obs['subject'].nunique()} animals that were not trained on, {table.n_vars} genes.\n")
    print(
        "| panel | features move by (share of their spread) | ARI with the domains of the whole panel |\n|---|---|---|"
    )
    for missing in (None, 0.0, 0.1, 0.25, 0.5, 0.9):
        kept = rng.permutation(table.n_vars)[: round((1 - (missing or 0)) * table.n_vars)]
        name = "the same again" if missing is None else "in another order" if not missing else f"{missing:.0%} missing"
        try:
            found = described(run, table if missing is None else table[:, kept].copy())
        except Refused as error:
            print(f"| {name} | refused: {error.asked} Found {error.found} | |")
            continue
        moved = np.linalg.norm(found - whole) / np.linalg.norm(whole - whole.mean(0))
        same = _agreement.ari(domains.labels.astype(np.int64), assign(found, domains.centres)[0].astype(np.int64))
        print(
            f"| {name} | {'identical' if np.array_equal(found, whole) else f'{moved:.3f}'} | {same:.3f} |", flush=True
        )


if __name__ == "__main__":
    main()
