"""Paint a planted brain on its folded surface: true areas, areas predicted at dense places, and the features.

    python benchmarks/paint_phantom.py --out FOLDER [--sections 16] [--spacing 0.25] [--within 1.5]
        [--set fit.steps=100 ...]

Trains on all brains but one, describes places along the cortex of every section, reads areas out of the training
brains' labels, predicts them in the brain that neither the encoder nor the read-out saw, and shows each vertex of its
folded mid-surface the nearest place. Writes GIFTI files and ``surface.png``; the same command again goes on where it
stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from brodmann import dense, origin, settings, verbs
from brodmann.maps import surface
from brodmann.maps.colours import colours
from brodmann.maps.drawing import save
from brodmann.maps.labels import Key, aligned
from brodmann.maps.rendering import View
from brodmann.phantom import folded, sections
from brodmann.phantom.areas import NAMES
from brodmann.run import Run
from brodmann.space import PHANTOM
from brodmann.tasks._score import Score

VIEWS = (View(-62.0, 42.0, "from behind, above"), View(118.0, 42.0, "from the front, above"))


def draw(home: Path, source: Any, run: Run, found: Score, number: Score, *, within_mm: float, note: str) -> None:
    """Files and the picture of the brain whose areas were predicted."""
    table, held_out = verbs.table(run), (origin.read(run) or {})["held_out"]
    places = cast("Any", table.obs)
    # every brain is painted by labels of the others; shown is the one that the encoder was kept from, too
    subject = held_out[0]
    said, told = aligned(table, found.predicted), places["id"].map(number.predicted).to_numpy(float)
    held = np.flatnonzero((places["subject"] == subject).to_numpy())
    whole = folded.surfaces(source)[subject]
    at = surface.project(table, whole.mesh, PHANTOM, within_mm=within_mm, rows=held)
    key = Key.of(NAMES, colours(NAMES))
    files = home / "surface"
    folded.write(whole, files, colours=key.mapping)
    surface.write_labels(files / f"{subject}.predicted.label.gii", table, said, at, key=key)
    surface.write_numbers(files / f"{subject}.predicted.func.gii", {"thickness_mm": told}, at)
    true = np.array([key.names.index(name) + 1 for name in whole.truth["area"].tolist()], dtype=np.int32)
    predicted, _ = surface.labels_at(table, said, at, key)
    thick = whole.truth["thickness_mm"].to_numpy(float)
    limits = tuple(float(v) for v in np.percentile(thick, [2, 98]))
    paintings = [
        surface.classes("True areas (planted)", true, key),
        surface.classes("Areas predicted from the features", predicted, key),
        surface.components("The features themselves", np.asarray(table.X), at),
        surface.numbers("True thickness (planted)", thick, "mm", limits=limits),
        surface.numbers("Thickness predicted from the features", at.of(told, np.nan), "mm", limits=limits),
    ]
    rival = found.baselines["coordinates only"]
    text = (
        f"areas: macro-F1 {found.value:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}] on {found.n:,} labelled "
        f"{found.what} of {subject}, coordinates only {rival.value:.2f}; thickness: R² {number.value:.2f}"
    )
    for part, some in (("surface", paintings[:3]), ("thickness", paintings[3:])):
        figure = surface.draw(
            whole.mesh, some, views=VIEWS, flat=whole.flat_mm, relief=whole.truth["curvature"].to_numpy(float),
            title=f"Planted brain {subject}, unseen by encoder and read-out  ·  {note}",
            note=f"{text}  ·  {surface.summary(at, rows=len(held))}",
        )  # fmt: skip
        path = save(figure, home / f"{part}.png", dpi=110)
        # for a page, half the size: steps of six in 255 are not seen
        pixels = np.asarray(cast("Any", Image).open(path).convert("RGB"), dtype=np.float64)
        coarse = np.clip(np.round(pixels / 6) * 6, 0, 255).astype(np.uint8)
        cast("Any", Image).fromarray(coarse).save(home / f"{part}-small.png", optimize=True)
    print(f"{text}\n{surface.summary(at, rows=len(held))}\n{home / 'surface.png'}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--brains", type=int, default=2)
    options.add_argument("--sections", type=int, default=16)
    options.add_argument("--spacing", type=float, default=0.25, help="mm between places along the cortex")
    options.add_argument("--within", type=float, default=1.5, help="mm, farthest place that a vertex shows")
    options.add_argument("--set", nargs="*", default=[])
    asked = options.parse_args()
    source = sections(brains=asked.brains, sections_per_brain=asked.sections, native_um=32)
    recipe = verbs.recipe("patches-tiny", settings.changes(asked.set))
    run = verbs.fit(recipe, source, asked.out / "run", threads=1)
    verbs.tabulate(run, source, controls=False)
    changes = {"samples.spacing_mm": asked.spacing}
    painted = dense.embed(run, asked.out / "dense", changes=changes, data=source, controls=False)
    found = dense.spread("areas", run, painted, "area")
    number = dense.spread("properties", run, painted, "thickness_mm")
    print(found)
    others = f"{asked.brains - 1} other brain{'s' * (asked.brains > 2)}"
    note = f"trained on {others}, {asked.sections} sections, {recipe.fit.steps} steps"
    draw(asked.out, source, painted, found, number, within_mm=asked.within, note=note)


if __name__ == "__main__":
    main()
