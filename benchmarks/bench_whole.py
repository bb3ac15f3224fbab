"""Ten million cells from counts to maps by one command: time and memory of every stage, rows in and rows out.

    python benchmarks/bench_whole.py --out FOLDER [--cells 10650000] [--k 25 354 670 1300] [--set fit.steps=1000]

Runs `brodmann pipeline cells` on the phantom and prints Markdown. Memory is the proportional set size (each page shared
by m processes counts as 1/m in each) of all its processes together, looked at every second: mapped counts are in it as
far as they are in memory, and could be given back. Of it, anonymous memory could not. Linux only.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import brodmann
from brodmann import features, verbs
from brodmann.phantom import transcripts


@dataclass
class Stage:
    """What one stage took."""

    name: str
    begun: float
    seconds: float = 0.0
    all_gb: float = 0.0
    anonymous_gb: float = 0.0


def descendants(root: int) -> list[int]:
    """Processes that a process started, directly or not."""
    parent = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found, edge = [root], [root]
    while edge:
        edge = [child for child, of in parent.items() if of in edge]
        found += edge
    return found


def memory_gb(root: int) -> tuple[float, float]:
    """Proportional set size of a process and its descendants, and the anonymous part of it."""
    whole = anonymous = 0
    for process in descendants(root):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        numbers = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
        whole += int(numbers.get("Pss", 0))
        anonymous += int(numbers.get("Pss_Anon", 0))
    return whole / 1e6, anonymous / 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--cells", type=int, default=10_650_000)
    options.add_argument("--k", type=int, nargs="+", default=[25, 354, 670, 1300])
    options.add_argument("--set", nargs="*", default=[])
    asked = options.parse_args()
    begun = time.monotonic()
    source = transcripts(cells=asked.cells)
    rendered = time.monotonic() - begun
    command = [sys.executable, "-m", "brodmann.cli", "pipeline", "cells", "--data", f"phantom:cells={asked.cells}"]
    command += ["--out", str(asked.out), "--k", *map(str, asked.k), *(["--set", *asked.set] if asked.set else [])]
    stages: list[Stage] = []
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})

    def watch() -> None:
        while running.poll() is None:
            whole, anonymous = memory_gb(running.pid)
            if stages:
                stages[-1].all_gb = max(stages[-1].all_gb, whole)
                stages[-1].anonymous_gb = max(stages[-1].anonymous_gb, anonymous)
            time.sleep(1)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    assert running.stderr is not None
    for line in running.stderr:
        print(line, end="", file=sys.stderr, flush=True)
        if line.startswith("$ brodmann "):
            stages.append(Stage(" ".join(line.split()[2:4]), time.monotonic()))
        elif stages and not stages[-1].seconds and re.match(r"^(fit|embed|score|map of \w+): ", line):
            stages[-1].seconds = time.monotonic() - stages[-1].begun
    code = running.wait()
    watching.join()
    table = features.read(asked.out / "features.zarr")
    domains = verbs.load(asked.out).path / "domains.zarr" / "obs"
    held = all((domains / f"domain_{k}").exists() for k in asked.k)
    animals = len({one.subject for one in source.sections})
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"brodmann {brodmann.__version__}, {machine}, {time.strftime('%Y-%m-%d')};")
    print(f"recipe {', '.join(['cells', *asked.set])}; exit code {code}\n")
    print(f"Rows in {len(source):,}, rows out {table.n_obs:,}; {len(source.panel)} genes,")
    print(f"{len(source.sections)} sections, {animals} animals. The phantom was rendered before, in {rendered:.0f} s.")
    print(f"Levels {', '.join(map(str, asked.k))}: {'all there' if held else 'MISSING'}.\n")
    print("| stage | wall, s | memory of all processes, GB | of it anonymous, GB |\n|---|---|---|---|")
    for one in stages:
        print(f"| {one.name} | {one.seconds:.0f} | {one.all_gb:.1f} | {one.anonymous_gb:.1f} |")
    print(f"| everything | {sum(one.seconds for one in stages):.0f} | {max(one.all_gb for one in stages):.1f} | "
          f"{max(one.anonymous_gb for one in stages):.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
