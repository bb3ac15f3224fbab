"""One section of which only cell types are known: domains, and read-out of regions from unseen blocks of tissue.

    python benchmarks/bench_types.py --data FOLDER/cells/starmap_plus_cns_types.csv.gz [--seeds 5] [--block-mm 1.0]

What describes a cell is the composition of types around it, at three widths: nothing is trained. Prints Markdown, for
each column of types. Regions of the file are the target; places and blocks beside every value. A file without a stated
unit has distances in its own unit, scaled so that the sixth neighbour lies 30 um away.
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
import pandas as pd

import brodmann
from brodmann import cells
from brodmann.cells.recipe import Cells
from brodmann.settings import Split
from brodmann.tasks.areas import areas
from brodmann.tasks.domains import domains

LEAST = 100
"""Cells of a region that takes part in the read-out."""


def described(path: Path, column: str, folder: str) -> ad.AnnData:
    """Composition around every cell, from one column of types."""
    frame = pd.read_csv(path, skiprows=[1], dtype=str)
    kept = frame[["NAME", "X", "Y", "Tissue_Symbol", column]].rename(
        columns={"NAME": "cell", "X": "x", "Y": "y", "Tissue_Symbol": "region", column: "cell_type"}
    )
    file = Path(folder) / f"{column}.csv"
    kept.to_csv(file, index=False)
    recipe = cells.Recipe(samples=Cells(least_counts=0))
    with mock.patch.dict(os.environ, {"BRODMANN_CACHE": folder}), contextlib.redirect_stderr(io.StringIO()):
        source = cells.open(recipe, file)
    samples = cells.samples(source, recipe)
    composition = cells.controls(recipe, samples)["composition"](samples.read(np.arange(len(samples))))
    obs = pd.concat([samples.places, samples.labels], axis=1).set_index("id", drop=False)
    obs.index.name = None
    print(f"\n## {column}: {len(source.type_names)} types, {len(obs):,} cells; unit {source.unit}")
    for remark in source.remarks:
        print(f"- {remark}")
    about = {"system": "cells", "split": {"by": "block", "folds": 5}, "encoder_fold": -1}
    places = samples.places[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float32)
    return ad.AnnData(
        X=composition.astype(np.float16),
        obs=obs,
        obsm={"baseline_composition": composition, "xyz": places},
        uns={"brodmann": about},
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--block-mm", type=float, default=1.0)
    asked = options.parse_args()
    warnings.filterwarnings("ignore")
    print(f"brodmann {brodmann.__version__}, {time.strftime('%Y-%m-%d')}, {asked.data.name}")
    for column in ("Maintype_Symbol", "Subtype_Symbol"):
        with tempfile.TemporaryDirectory() as folder:
            table = described(asked.data, column, folder)
        found = domains(table, target="region", path="features", seeds=asked.seeds).score
        print(f"\n{len(found.classes)} regions. Domains at their number, mean of {asked.seeds} seeds:\n")
        print("| what is clustered | ARI | 95 % | |\n|---|---|---|---|")
        rows = {found.probe: (found.value, *found.interval, f"NMI {found.more['NMI'].value:.3f}")}
        rows |= {name: (one.value, one.low, one.high, one.note) for name, one in found.baselines.items()}
        for name, (value, low, high, note) in rows.items():
            print(f"| {name} | {value:.3f} | [{low:.3f}, {high:.3f}] | {note} |")
        some = table[table.obs["region"].map(table.obs["region"].value_counts()).to_numpy(float) >= LEAST].copy()
        some.obs["region"] = some.obs["region"].astype(str)
        read = areas(some, "region", Split(by="block", folds=5, block_mm=asked.block_mm), probe="linear")
        print(f"\nRegions of at least {LEAST} cells read out of unseen blocks: {read.split}; n {read.n:,}, "
              f"{read.n_groups} {read.cluster}.\n")  # fmt: skip
        print(f"| | {read.metric} | 95 % |\n|---|---|---|")
        rivals = {"composition": (read.value, *read.interval)}
        rivals |= {name: (one.value, one.low, one.high) for name, one in read.baselines.items()}
        for name, (value, low, high) in rivals.items():
            print(f"| {name} | {value:.3f} | [{low:.3f}, {high:.3f}] |")


if __name__ == "__main__":
    main()
