"""Dense embedding by one command: patches per second and peak memory, for a quarter of the rows and for all of them.

    python benchmarks/bench_dense.py [--rows 100000] [--recipe patches-tiny] [--size-px 128] [--sections 4]

A run is trained for two steps on the phantom (how well it describes does not matter here), then `brodmann embed --set
samples.where=grid samples.spacing_mm=... --out ...` describes as many places as asked, in a process of its own. Memory
is that process's largest resident set, with the drawn sections of the phantom, which are the same in both.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import brodmann
from brodmann import patches, verbs


def command(words: list[str]) -> tuple[float, float, str]:
    """Run a verb; seconds, largest resident set in MB, and what it said."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as told:
        child = subprocess.Popen([sys.executable, "-m", "brodmann.cli", *words], stdout=told, stderr=told)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        text = told.read()
    if child.returncode not in (0, 3):
        raise SystemExit(f"brodmann {' '.join(words)} ended with exit code {child.returncode}\n{text}")
    unit = 1 if platform.system() == "Darwin" else 1024
    return time.monotonic() - begun, used.ru_maxrss * unit / 1e6, text


def per_mm2(recipe: str, data: str, changes: dict) -> int:
    """Places of a grid of 1 mm: as many as there are mm2 of tissue."""
    coarse = verbs.recipe(recipe, {**changes, "samples.where": "grid", "samples.spacing_mm": 1.0})
    return len(patches.samples(verbs.open_source(coarse, data), coarse, part="all"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--recipe", default="patches-tiny")
    options.add_argument("--size-px", type=int, default=128)
    options.add_argument("--sections", type=int, default=4)
    options.add_argument("--out", type=Path)
    asked = options.parse_args()
    data = f"phantom:brains=2,sections_per_brain={asked.sections},native_um=32"
    changes = {"samples.size_px": asked.size_px, "partners.reach_mm": 8.0}
    settings = [f"{key}={value}" for key, value in changes.items()]
    with tempfile.TemporaryDirectory() as folder:
        home = asked.out or Path(folder)
        run = home / "run"
        short = ["partners.same_section=true", "fit.steps=2", "fit.warmup_steps=1", "fit.batch=16"]
        command(["fit", asked.recipe, "--data", data, "--out", str(run), "--set", *settings, *short])
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        machine += f" (OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}), load {os.getloadavg()[0]:.1f}"
        print(f"brodmann {brodmann.__version__}, {machine}, {time.strftime('%Y-%m-%d')};")
        print(f"{asked.recipe}, {asked.size_px} px, {data}\n")
        print("| rows | grid, mm | wall, s | patches/s of the whole command | peak memory, MB | table, MB |")
        print("|---|---|---|---|---|---|", flush=True)
        there = per_mm2(asked.recipe, data, changes)
        for rows in (asked.rows // 4, asked.rows):
            step = float(f"{(there / rows) ** 0.5:.3g}")
            dense = home / f"dense-{rows}"
            words = ["embed", str(run), "--out", str(dense), "--no-controls"]
            words += ["--set", "samples.where=grid", f"samples.spacing_mm={step}"]
            seconds, memory, told = command(words)
            made = verbs.table(dense).n_obs
            size = sum(path.stat().st_size for path in (dense / "features.zarr").rglob("*") if path.is_file()) / 1e6
            print(
                f"| {made:,} | {step} | {seconds:.0f} | {made / seconds:,.0f} | {memory:,.0f} | {size:.1f} |",
                flush=True,
            )
            for line in told.splitlines():
                if line.startswith(("estimate", f"{made:,} of")):
                    print(f"said before: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
