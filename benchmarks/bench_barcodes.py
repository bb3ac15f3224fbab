"""What the barcodes of a trained core tell: type, area and layer of neurons, their wiring, their preferred orientation.

    python benchmarks/bench_barcodes.py --out FOLDER [--seeds 0 1 2]

Uses the cores that `bench_transfer.py --out FOLDER` has trained on some animals of the phantom; the others are learned
with the core kept, from all of their minutes. Classes are read out on animals left out one after the other, beside what
position, response statistics, simple filters and an untrained core tell; wiring beside its rewired control; orientation
in gratings that nothing was trained on. Scores are kept in the folder, so that the same command goes on.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from brodmann import results, verbs

QUESTIONS = (("areas", "type"), ("areas", "area"), ("areas", "layer"), ("wiring", None), ("tuning", "orientation_deg"))

DATA = "phantom:animals=8,neurons=1000,minutes=16,test_clips=2,domain_minutes=0"


def asked(run: Path, task: str, target: str | None) -> pd.DataFrame:
    """A score and its rivals, a row each; from the folder, if it was asked before."""
    kept = run / f"bench-{task}-{target or ''}.csv"
    if not kept.exists():
        score = results.score(task, run, target, **({"by": "brain"} if task == "areas" else {}))
        print(score, flush=True)
        rows = [("value", score.value, *score.interval, score.n)]
        rows += [(name, one.value, one.low, one.high, np.nan) for name, one in {**score.baselines, **score.more}.items()
                 if hasattr(one, "value")]  # fmt: skip
        frame = pd.DataFrame(rows, columns=["of", "value", "low", "high", "n"])
        frame.insert(0, "score", f"{score.target}: {score.metric}")
        frame.to_csv(kept, index=False)
    return pd.read_csv(kept)


def main() -> None:
    """Ask, or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", default=DATA, help="as the cores' own, or more")
    given = parser.parse_args()
    found: list[pd.DataFrame] = []
    for seed in given.seeds:
        run = given.out / f"barcodes-{seed}"
        if not run.exists():
            shutil.copytree(given.out / f"core-{seed}", run)
        if not (run / "features.zarr").exists():
            verbs.embed(run, given.data)
        found += [asked(run, task, target).assign(seed=seed) for task, target in QUESTIONS]
    table = Table("score", "of", "mean over seeds", "of each seed, with 95 %", "n")
    for (score, of), own in pd.concat(found).groupby(["score", "of"], sort=False):
        each = "; ".join(f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in own.itertuples())
        count = "" if own["n"].isna().all() else f"{int(own['n'].iloc[0]):,}"
        table.add_row(str(score), str(of), f"{own['value'].mean():.3f}", each, count)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
