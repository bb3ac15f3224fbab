"""Kill training and embedding at random moments, many times, and compare every byte with a run left in peace.

    python benchmarks/kill_storm.py --kills 20 --recipe patches-tiny --set fit.steps=300 fit.save_every=10

Only kills that hit a live process past its start-up count. A command that is done before its kills are used up is begun
anew, and every finished run is compared. Exit status 0 if all weights, logs and feature tables are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from brodmann import lock, manifest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))
from harness import Storm, kill_until_done

WHAT = {"fit": ("weights", "metrics.jsonl"), "embed": ("features.zarr",)}


def tree(path: Path) -> str:
    """SHA-256 over names and bytes of a file, or of all files of a folder."""
    names = (
        [""]
        if path.is_file()
        else [*manifest.files(path), *([manifest.NAME] if (path / manifest.NAME).exists() else [])]
    )
    text = "\n".join(f"{name} {manifest.sha256(path / name if name else path)}" for name in names)
    return hashlib.sha256(text.encode()).hexdigest()


def holds_lock(run: Path) -> Callable[[int, float], bool]:
    """Past its start-up: imports done, data open, the run folder's lock taken by this very process."""

    def ready(pid: int, launched: float) -> bool:
        del launched
        try:
            return json.loads((run / lock.NAME).read_text())["pid"] == pid
        except (OSError, ValueError, KeyError):
            return False

    return ready


def has_logged(run: Path) -> Callable[[int, float], bool]:
    """Past its start-up: this launch has logged a training step."""

    def ready(pid: int, launched: float) -> bool:
        log = run / "metrics.jsonl"
        return holds_lock(run)(pid, launched) and log.exists() and log.stat().st_mtime > launched

    return ready


def main() -> int:
    """Run the storm; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="effective kills of training, and again of embedding")
    parser.add_argument("--recipe", default="patches-tiny")
    parser.add_argument("--data", default="phantom")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fit-delay", type=float, default=2.0, metavar="S", help="mean time from a logged step to the kill"
    )
    parser.add_argument(
        "--embed-delay", type=float, default=1.0, metavar="S", help="mean time from the lock to the kill"
    )
    parser.add_argument("--keep", type=Path, help="keep both runs and the log here")
    parser.add_argument("--result", type=Path, help="write the numbers here as JSON")
    given = parser.parse_args()
    out = Console(highlight=False)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="kill-storm-"))
    folder.mkdir(parents=True, exist_ok=True)
    # the bit-identity contract holds for one number of threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    program = str(Path(sys.executable).with_name("brodmann"))
    changes = ["--set", *given.changes] if given.changes else []

    def storm(verb: str, run: Path, kills: int, seed: int) -> Storm:
        words = {"fit": [given.recipe, "--data", given.data, "--out", str(run), *changes], "embed": [str(run)]}
        return kill_until_done(
            [program, verb, *words[verb]],
            kills=kills,
            seed=seed,
            mean_delay_s=given.fit_delay if verb == "fit" else given.embed_delay,
            ready=has_logged(run) if verb == "fit" else holds_lock(run),
            timeout_s=7200,
            log=folder / "log.txt",
        )

    # the same last name everywhere, should a run ever write its own name into a file
    calm = folder / "calm" / "run"
    result: dict[str, Any] = {"date": date.today().isoformat(), "command": " ".join(sys.argv[1:])}
    same = True
    for verb, names in WHAT.items():
        if verb == "embed":
            shutil.copytree(calm, folder / "trained")
        storm(verb, calm, 0, 0)
        wanted = {name: tree(calm / name) for name in names}
        survived = tried = runs = 0
        while survived < given.kills and runs < 10 * given.kills:
            run = folder / f"{verb}-{runs}" / "run"
            if verb == "embed":
                shutil.copytree(folder / "trained", run)
            done = storm(verb, run, given.kills - survived, given.seed + runs)
            survived, tried, runs = survived + done.effective, tried + done.tried, runs + 1
            found = {name: tree(run / name) for name in names}
            same = same and found == wanted
            for name in names:
                verdict = "same" if found[name] == wanted[name] else "DIFFERENT"
                out.print(f"{verb} {runs}: {done.effective:3d} kills  {name:14s} {found[name][:16]} {verdict}")
        out.print(f"{verb}: {survived} kills survived of {tried} tried, in {runs} runs")
        result[verb] = {"survived": survived, "tried": tried, "runs": runs, "sha256": wanted}
    result["same"] = same
    if given.result:
        given.result.write_text(json.dumps(result, indent=1) + "\n")
    if same and not given.keep:
        shutil.rmtree(folder)
    elif not same:
        out.print(f"all runs are in {folder}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
