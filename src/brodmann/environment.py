"""What a run ran on: versions, machine, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    "brodmann", "torch", "transformers", "numpy", "pandas", "scipy", "scikit-learn", "numba", "anndata", "zarr",
    "safetensors", "tifffile", "imagecodecs", "tensorstore",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Python, package versions, platform, processor, threads, commit of a checkout, and the date (UTC)."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count()),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _commit() -> str:
    """Commit of the checkout this package is imported from, with a mark for local changes; empty elsewhere."""
    here = Path(__file__).parent
    if not (here.parents[1] / ".git").exists():
        return ""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.SubprocessError):
        return ""
