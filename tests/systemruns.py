"""Runs of every system, trained for a moment, with likenesses planted in their tables: for tests of the viewer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brodmann import features, results, verbs
from brodmann.run import Run

EVIL = '<b onmouseover="document.title=\'canary\'">V1</b> & "x"'
ALIKE = 5
"""Rows that are planted as likenesses of each query."""
GIVEN = {
    "patches": (
        "patches-tiny",
        "phantom:brains=2,sections_per_brain=2,native_um=64",
        {
            "samples.size_px": 32, "samples.pixel_um": 96.0, "samples.spacing_mm": 1.2, "partners.reach_mm": 30.0,
            "fit.steps": 2, "fit.batch": 8,
        },
        (),
    ),
    "cells": (
        "cells-tiny",
        "phantom:brains=2,sections_per_brain=2,cells=6000,genes=40",
        {"encoder.width": 32, "samples.tile_cells": 256, "fit.steps": 2, "fit.batch": 2, "split.fold": 0},
        (),
    ),
    "neurons": (
        "neurons-tiny",
        "phantom:animals=2,neurons=60,minutes=0.5,test_clips=1,repeats=2,clip_s=3.0,domain_minutes=0.05",
        {
            "encoder.channels": [8, 8], "encoder.pools": [2, 1], "encoder.layers": 1, "encoder.outputs": 16,
            "encoder.modulation": 4, "samples.frames": 30, "fit.steps": 2, "fit.batch": 4, "fit.judge_every": 1,
            "split.fold": 0,
        },
        (2, 4),
    ),
}  # fmt: skip
"""Recipe, data, changes, numbers of domains."""


@dataclass(frozen=True)
class Planted:
    """A run and what was planted in it, by the ids of its rows."""

    path: Path
    cluster: set[str]
    alike: dict[str, set[str]]


def make(system: str, folder: Path) -> Planted:
    """Train, embed, plant, and look for domains."""
    recipe, data, changes, k = GIVEN[system]
    path = folder / f"{system}-run"
    verbs.fit(verbs.recipe(recipe, changes), data, path, quiet=True)
    verbs.embed(path, quiet=True)
    planted = _plant(path)
    if k:
        results.score("domains", path, k=k)
    if system == "neurons":
        results.score("responses", path)
    return planted


def _plant(path: Path) -> Planted:
    """A cluster far from all others, and rows that are alike but for their length; one name is markup."""
    table = features.read(path / "features.zarr")
    rng = np.random.default_rng(8)
    n, width = table.X.shape
    X = np.asarray(table.X, np.float32)
    size = max(6, n // 40)
    drawn = rng.permutation(n)
    cluster, rest = drawn[:size], drawn[size:]
    far = X.mean(0) + 14 * X.std(0)
    X[cluster] = far + 0.05 * X.std(0) * rng.normal(size=(size, width))
    alike: dict[str, set[str]] = {}
    ids = table.obs["id"].astype(str).to_numpy()
    length = float(np.linalg.norm(X, axis=1).mean())
    for first in range(4):
        group = rest[first * (ALIKE + 1) : (first + 1) * (ALIKE + 1)]
        one = rng.normal(size=width)
        X[group] = one / np.linalg.norm(one) * length * rng.uniform(0.8, 1.2, (len(group), 1))
        alike[ids[group[0]]] = set(ids[group[1:]])
    obs = table.obs.copy()
    obs["note"] = np.where(np.arange(n) % 3, "plain", EVIL)
    about = dict(table.uns["brodmann"])
    run = Run.load(path)
    with run.lock():
        run.forget("features.zarr")
        features.write(
            path / "features.zarr", X, obs, features.space_of(table), np.asarray(table.obsm["xyz"]),
            obsm={name: np.asarray(table.obsm[name]) for name in table.obsm if name != "xyz"},
            uns={name: value for name, value in about.items() if name != "format"},
        )  # fmt: skip
        run.seal()
    return Planted(path, set(ids[cluster]), alike)
