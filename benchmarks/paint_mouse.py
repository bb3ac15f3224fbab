"""Paint a mouse brain densely: train on its sections, read areas out of them, predict every 100 um, draw all sections.

    python benchmarks/paint_mouse.py --data FOLDER/sections/mouse_glt1 --out FOLDER [--sections 30] [--spacing 0.1]
        [--target ccf] [--set KEY=VALUE ...]

The sections are GLT1 immunostain of one mouse (Carey et al. 2023), registered to CCFv3. The read-out of the atlas's
areas is learned on the training sections, every section being painted by a read-out of other sections (`--fold 0`
paints the sections that the encoder never saw, and no others). The same command again goes on where it stopped.
Sections (with fewer than 30, those in the middle) are copied to a folder of their own, with their stated pixel size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
from pathlib import Path

from brodmann import dense, results, settings, verbs


def some(folder: Path, home: Path, count: int) -> Path:
    """A folder with a copy of ``count`` neighbouring sections, their anchoring, and their stated pixel size."""
    from brodmann.datasets import glt1

    anchoring = json.loads((folder / "anchoring.json").read_text())
    slices = sorted(anchoring["slices"], key=lambda one: one["nr"])
    first = max(len(slices) - count, 0) // 2
    kept = slices[first : first + count]
    part = home / f"sections-{len(kept)}"
    part.mkdir(parents=True, exist_ok=True)
    for one in kept:
        if not (part / one["filename"]).exists():
            shutil.copy(folder / one["filename"], part)
    (part / "anchoring.json").write_text(json.dumps({**anchoring, "slices": kept}))
    stated = {"pixel_um": glt1.PIXEL_UM, "subject": glt1.SUBJECT, "dark_stain": True, "anchoring": "anchoring.json"}
    (part / "sections.json").write_text(json.dumps(stated))
    return part


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    default = Path(os.environ.get("BRODMANN_DATA", "")) / "sections" / "mouse_glt1"
    options.add_argument("--data", type=Path, default=default)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--sections", type=int, default=30)
    options.add_argument("--spacing", type=float, default=0.1, help="mm between places")
    options.add_argument("--target", default="ccf", choices=["ccf", "ccf-divisions", "ccf-layers"])
    options.add_argument("--fold", type=int)
    options.add_argument("--set", nargs="*", default=[])
    asked = options.parse_args()
    data = some(asked.data, asked.out, asked.sections)
    begun = time.monotonic()
    run = verbs.fit(verbs.recipe("patches-mouse", settings.changes(asked.set)), data, asked.out / "run")
    verbs.tabulate(run, controls=False)
    trained = time.monotonic() - begun
    begun = time.monotonic()
    changes = {"samples.spacing_mm": asked.spacing}
    painted = dense.embed(run, asked.out / "dense", changes=changes, controls=False)
    seconds = time.monotonic() - begun
    rows = verbs.table(painted).n_obs
    split = {"by": "section", "fold": asked.fold}
    found = dense.spread("areas", run, painted, asked.target, atlas=asked.data, **split)
    print(found)
    begun = time.monotonic()
    report = results.map(painted, asked.target)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{asked.sections} sections; trained and described in {trained:.0f} s; {rows:,} places every "
        f"{asked.spacing:g} mm in {seconds:.0f} s ({rows / max(seconds, 1e-9):,.0f}/s); drawn in "
        f"{time.monotonic() - begun:.0f} s; peak memory {peak:,.0f} MB; {report}"
    )


if __name__ == "__main__":
    main()
