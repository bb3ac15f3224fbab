"""Kill training and embedding at random moments, many times, and compare every byte with a run left in peace.

    python benchmarks/kill_storm.py --kills 20 --recipe patches-tiny --set fit.steps=300 fit.save_every=10

Only kills that hit a live process past its start-up count. Exit status 0 if weights and feature table are the same.
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
        "--embed-delay", type=float, default=2.0, metavar="S", help="mean time from the lock to the kill"
    )
    parser.add_argument("--keep", type=Path, help="keep both runs and the log here")
    parser.add_argument("--result", type=Path, help="write the numbers here as JSON")
    given = parser.parse_args()
    out = Console(highlight=False)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="kill-storm-"))
    # the same last name in both, should a run ever write its own name into a file
    calm, stormy, log = folder / "calm" / "run", folder / "stormy" / "run", folder / "log.txt"
    folder.mkdir(parents=True, exist_ok=True)
    # the bit-identity contract holds for one number of threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    program = [str(Path(sys.executable).with_name("brodmann"))]
    changes = ["--set", *given.changes] if given.changes else []

    def command(verb: str, run: Path) -> list[str]:
        if verb == "fit":
            return [*program, "fit", given.recipe, "--data", given.data, "--out", str(run), *changes]
        return [*program, "embed", str(run)]

    storms: dict[str, Storm] = {}
    for verb, delay, ready in (
        ("fit", given.fit_delay, has_logged(stormy)),
        ("embed", given.embed_delay, holds_lock(stormy)),
    ):
        kill_until_done(command(verb, calm), kills=0, seed=0, mean_delay_s=0, ready=ready, timeout_s=7200, log=log)
        storms[verb] = kill_until_done(
            command(verb, stormy), kills=given.kills, seed=given.seed, mean_delay_s=delay, ready=ready,
            timeout_s=7200, log=log,
        )  # fmt: skip
        storm = storms[verb]
        out.print(f"{verb}: {storm.effective} kills survived of {storm.tried} tried, {storm.seconds:.0f} s")
    hashes = {name: (tree(calm / name), tree(stormy / name)) for names in WHAT.values() for name in names}
    for name, (left, right) in hashes.items():
        out.print(f"{name:14s} {left[:16]} {right[:16]} {'same' if left == right else 'DIFFERENT'}")
    same = all(left == right for left, right in hashes.values())
    if given.result:
        given.result.write_text(
            json.dumps(
                {
                    "date": date.today().isoformat(),
                    "command": " ".join(sys.argv[1:]),
                    "kills": {verb: storm.effective for verb, storm in storms.items()},
                    "sha256": {name: {"calm": left, "stormy": right} for name, (left, right) in hashes.items()},
                    "same": same,
                },
                indent=1,
            )
            + "\n"
        )
    if not given.keep and same:
        shutil.rmtree(folder)
    elif not same:
        out.print(f"both runs are in {folder}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
