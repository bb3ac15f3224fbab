"""Human dorsolateral prefrontal cortex: eight H&E sections of two donors with layer labels per Visium spot.

Images of 600 x 600 px, about 16.2 um per pixel; ``NNNNNN_spots.csv`` lists barcode, position and layer (L1..L6, WM;
empty = not labelled). Spots lie 100 um apart. The sections are not registered to a brain space.

Reference: Maynard et al. 2021, Nature Neuroscience 24:425. Licence: Artistic-2.0 (LieberInstitute/HumanPilot).
"""

from __future__ import annotations

from pathlib import Path

from brodmann.errors import Refused
from brodmann.patches import readers
from brodmann.patches.source import Source

CITATION = "Maynard et al. 2021, https://doi.org/10.1038/s41593-020-00787-0"
LICENSE = "Artistic-2.0"
PIXEL_UM = 16.2
DONORS = {
    **dict.fromkeys(("151507", "151508", "151509", "151510"), "donor1"),
    **dict.fromkeys(("151669", "151670", "151671", "151672"), "donor2"),
}
"""Donor of each section, so that splits by brain keep a donor's sections together."""


def open(folder: str | Path) -> Source:
    """Sections with their spots as points and ``layer`` as label; unregistered (in-plane mm only).

    Parameters
    ----------
    folder : path
        Holds ``NNNNNN.png`` with ``NNNNNN_spots.csv``.

    Raises
    ------
    Refused
        If none of the known sections is there.
    """
    folder = Path(folder)
    there = [name for name in DONORS if (folder / f"{name}.png").is_file()]
    if not there:
        raise Refused(f"{folder.name} should hold sections {', '.join(DONORS)}.", found="none of them.")
    entries = [readers.Entry(file=f"{name}.png", id=name, subject=DONORS[name]) for name in there]
    return readers.read(
        folder, readers.Stated(space="unregistered", pixel_um=PIXEL_UM, dark_stain=True, sections=entries)
    )
