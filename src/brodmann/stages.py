"""A study from data to maps as one command: each verb in its own processes, each stage resumed where it stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brodmann.progress import Say, duration
from brodmann.signals import Stop

DONE = (0, 3)
"""Exit codes after which the next stage can begin; 3 says that items were skipped."""
_MOST = 8
_POLL_S = 0.2


def pipeline(
    recipe: str,
    data: str,
    out: str | Path,
    *,
    start: str | Path | None = None,
    changes: Sequence[str] = (),
    target: str | None = None,
    k: Sequence[int] = (),
    processes: int | None = None,
) -> int:
    """Fit, embed, score and map; the same command again goes on where it stopped, and repeats nothing that is done.

    Every stage is a command of its own, printed before it starts, so that it can be repeated by hand; memory is given
    back between stages.

    Parameters
    ----------
    recipe : str
        Name or file.
    data : str
        As `brodmann.fit`.
    out : str or Path
        The run folder.
    start : str or Path, optional
        A trained run, whose weights training begins with, as `brodmann.fit`.
    changes : sequence of str
        ``"fit.steps=300"`` and the like.
    target : str, optional
        A label column. With ``k``: what domains are compared with; alone: areas to read out of unseen tissue.
    k : sequence of int
        Numbers of domains, one a level; each is mapped. Without ``k`` and ``target`` those that are stable.
    processes : int, optional
        That train and embed together; see `share`.

    Returns
    -------
    int
        Exit code of the stage that failed; else 3 if something was skipped, else 0.
    """
    from brodmann import settings, verbs

    chosen = verbs.recipe(recipe, settings.changes(changes))
    count = share(chosen) if processes is None else processes
    home, say, skipped = Path(out), Say(), False
    begun = time.monotonic()
    fit = ["fit", recipe, "--data", data, "--out", str(home), *(["--start", str(start)] if start is not None else [])]
    stages = [
        ("fit", [*fit, *(["--set", *changes] if changes else [])], count, lambda: False),
        ("embed", ["embed", str(home)], count, lambda: False),
        *((name, command, 1, done) for name, command, done in _answers(home, target, tuple(k))),
    ]
    for name, command, together, done in stages:
        if done():
            say(f"{name}: done before")
            continue
        say(f"$ brodmann {' '.join(command)}" + (f"    ({together} processes)" if together > 1 else ""))
        started = time.monotonic()
        code = launch(command, processes=together)
        say(f"{name}: {duration(time.monotonic() - started)}")
        if code not in DONE:
            say(f"{name} ended with exit code {code}; the same command goes on from here.")
            return code
        skipped |= code == 3
    say(f"everything: {duration(time.monotonic() - begun)}    report: {home / 'report.html'}")
    return 3 if skipped else 0


def share(recipe: Any) -> int:
    """Processes that train best together here: one a GPU; on a CPU one a core for cells, else one.

    Networks of cells are many small products, for which threads mostly wait for each other. The batch is divided
    evenly.
    """
    import torch

    if (gpus := torch.cuda.device_count()) > 0:
        most = gpus
    elif hasattr(recipe.samples, "tile_cells"):
        most = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST)
    else:
        most = 1
    return max(count for count in range(1, most + 1) if recipe.fit.batch % count == 0)


def launch(command: Sequence[str], *, processes: int = 1) -> int:
    """Run a verb in so many processes that know each other, as ``torchrun`` would; returns the exit code.

    A signal is passed on once: the stage stops where nothing is lost. If one process fails, the others are ended.
    """
    cores = os.cpu_count() or 1
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // processes)))}
    if processes > 1:
        environment |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_port())}
    started: list[subprocess.Popen[bytes]] = []
    # listening comes first: a signal between the two would leave the processes without a parent
    with Stop() as stop:
        try:
            for i in range(processes):
                own = {"RANK": str(i), "LOCAL_RANK": str(i)} if processes > 1 else {}
                run = [sys.executable, "-m", "brodmann.cli", *command]
                # a signal of the terminal would reach them beside the one that is passed on
                started.append(subprocess.Popen(run, env=environment | own, start_new_session=True))
            codes = _wait(started, stop)
        finally:
            for one in started:
                if one.poll() is None:
                    one.kill()
                    one.wait()
    wrong = [code for code in codes if code not in DONE]
    return abs(wrong[0]) if wrong else max(codes)


def _wait(started: Sequence[subprocess.Popen[bytes]], stop: Stop) -> list[int]:
    """Exit codes; the first to fail comes first."""
    codes: dict[int, int] = {}
    told = False
    while len(codes) < len(started):
        ended = {i: one.returncode for i, one in enumerate(started) if i not in codes and one.poll() is not None}
        codes |= dict(sorted(ended.items(), key=lambda item: item[1] in DONE))
        failed = any(code not in DONE for code in codes.values())
        if (stop.asked or failed) and not told:
            told = True
            for one in started:
                if one.poll() is None:
                    one.send_signal(signal.SIGTERM)
        time.sleep(_POLL_S)
    return list(codes.values())


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(home: Path, target: str | None, k: tuple[int, ...]) -> list[tuple[str, list[str], Any]]:
    """The questions and maps of a study: name, command, and whether it is done."""
    score, scored = ["score", str(home)], home / "features.zarr"
    if target is not None and not k:
        asked = ("score", [*score, "areas", "--target", target], lambda: _newer(home, f"areas-{target}", scored))
        return [asked, ("map", ["map", str(home), target], lambda: False)]
    levels = [f"domain_{one}" for one in sorted(k)] or ["domains"]
    options = [*(["--target", target] if target else []), *(["--k", *map(str, k)] if k else [])]
    asked = ("score", [*score, "domains", *options], lambda: _held(home, levels) and _newer(home, "domains-*", scored))
    return [asked, *((f"map of {one}", ["map", str(home), one], lambda: False) for one in levels)]


def _newer(home: Path, name: str, than: Path) -> bool:
    """Whether the run holds a score of this name that is not older than its table."""
    files = (home / "scores").glob(f"{name}.json")
    return any(file.stat().st_mtime >= than.stat().st_mtime for file in files) and than.exists()


def _held(home: Path, levels: Sequence[str]) -> bool:
    """Whether the run holds these levels of domains."""
    return all((home / "domains.zarr" / "obs" / level).exists() for level in levels)
