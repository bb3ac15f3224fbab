"""``brodmann check``: is this machine ready, and does a small run come back bit for bit."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from brodmann.errors import BrodmannError, Interrupted

_PACKAGES = ("torch", "transformers", "numpy", "zarr", "anndata", "numba", "tensorstore", "umap-learn", "pynrrd")


def check() -> tuple[str, bool]:
    """One screen of text, and whether all is well."""
    import torch

    lines = [f"brodmann {version('brodmann')}, Python {platform.python_version()}, {platform.system()}"]
    lines += [f"  {name:13s}{_version(name)}" for name in _PACKAGES]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (CPU)"
    free = shutil.disk_usage(Path.cwd()).free
    lines.append(
        f"GPU {device}; {os.cpu_count()} cores, {torch.get_num_threads()} threads; {free / 1e9:.0f} GB free here"
    )
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            healthy, verdict = _resumes(Path(folder))
        except BrodmannError as error:
            # what was found out about the machine is worth most when something does not work
            healthy, verdict = False, f"{type(error).__name__}: {error}"
    lines.append(f"self-test ({time.monotonic() - begun:.0f} s): {verdict}")
    return "\n".join(lines), healthy


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed (optional)"


def _resumes(folder: Path) -> tuple[bool, str]:
    """Train six steps at once, and four then two; the weights must be equal."""
    from brodmann import phantom, verbs

    source = phantom.sections(brains=2, sections_per_brain=2)
    fit = {"fit.steps": 6, "fit.save_every": 2, "fit.batch": 16, "fit.warmup_steps": 2}
    # two sections of one brain remain to train on, far apart
    recipe = verbs.recipe("patches-tiny", {**fit, "samples.spacing_mm": 1.0, "partners.reach_mm": 30.0})
    whole = verbs.fit(recipe, source, folder / "whole", quiet=True)
    with contextlib.suppress(Interrupted):
        verbs.fit(recipe, source, folder / "parts", quiet=True, until=4)
    parts = verbs.fit(recipe, source, folder / "parts", quiet=True)
    (a, _), (b, _) = whole.weights(), parts.weights()
    same = all(bool((a[name] == b[name]).all()) for name in a)
    return (
        same,
        "trained, stopped, resumed: bit-identical" if same else "a resumed run differs from an uninterrupted one",
    )
