"""From a planted brain to a map of its areas.

A phantom is a cortical sheet with twelve areas, folded, cut and stained as several brains. Everything about it is
known, so every step below can be compared with the truth. With the settings as they stand this takes a quarter of an
hour on a laptop; ``python examples/01_phantom_to_map.py --quick`` runs the same steps at once, too briefly to learn.
"""

# %% 1. Settings
import sys
from pathlib import Path

import brodmann as bm
from brodmann import phantom
from brodmann.phantom import files

quick = "--quick" in sys.argv
out = Path("runs/example-quick" if quick else "runs/example")
size = {"brains": 3, "sections_per_brain": 2, "native_um": 64} if quick else {}
short = {"fit.steps": 4, "fit.warmup_steps": 1, "samples.size_px": 48, "samples.pixel_um": 64} if quick else {}
near = {"partners.reach_mm": 6.0} if quick else {}

# %% 2. Plant brains and write their sections as files, as a microscope would: OME-Zarr, with sections.json beside them
data = out.with_name(f"{out.name}-sections")
if not (data / "sections.json").exists():
    files.write(phantom.sections(**size), data, labels=False)
print(bm.validate(data))

# %% 3. A recipe says which patches, which partners, which encoder, which loss, which split
recipe = bm.recipe("patches-tiny", short | near)
print(recipe.partners)  # who counts as the same place
print(recipe.split)  # one whole brain is kept from training

# %% 4. Train; stop it with Ctrl-C and run it again: it goes on where it stopped
run = bm.fit(recipe, data, out)

# %% 5. Train its twin without places, which is SimCLR: same encoder, same loss, no partners but a patch's own crops
twin = bm.fit(bm.recipe("patches-tiny-simclr", short), data, out.with_name(f"{out.name}-simclr"))

# %% 6. Describe every patch: one row each, with coordinates, labels and control features
table = bm.embed(run)
bm.embed(twin)
print(table)

# %% 7. Can areas be read out of the brain that the encoder never saw? Look at the rivals before the value
score = bm.score("areas", run, target="area", against=[twin])
print(score)
for name, gain in score.gains.items():
    print(f"{name:22s} gain {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")

# %% 8. Do similar features mean the same place?
print(bm.score("search", run))

# %% 9. Paint the predicted areas back onto the sections, and report
print(f"open {bm.map(run, 'area')}")
