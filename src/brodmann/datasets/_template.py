"""A form to fill in for a new data set: copy it to ``<citation>.py`` and replace every line that speaks of stripes.

In the copy, say here what it is: species, number of brains and sections, stain, image size, pixel size, registered to
which space or not, what is known of each place. For example: "Two striped brains, four sections, Nissl".

Reference: authors, year, journal, DOI. Licence: of images, and of anything else in the folder, with its holder.
"""

from __future__ import annotations

import re
from pathlib import Path

from brodmann.errors import Refused
from brodmann.patches import readers
from brodmann.patches.source import Source

CITATION = "Author et al. year, https://doi.org/..."
"""What a user must cite."""
LICENSE = "CC-BY-4.0"
"""As its holder names it; data are never part of the package, whatever it says."""
PIXEL_UM = 16.0
"""Pixel size of the images on the slide, um; leave it out below if every file states its own."""
DARK_STAIN = True
"""Stain darker than the slide (brightfield), or False: bright on dark (fluorescence)."""
SPACE = "unregistered"
"""Or a name in `brodmann.spaces.SPACES`; then every entry needs ``to_mm``, or the folder a QuickNII ``anchoring``."""
FILE = re.compile(r"(?P<brain>stripes\d+)_(?P<section>s\d{3})\.png")
"""Names of the images, and where they say the brain: splits by brain hold out whole subjects."""


def open(folder: str | Path) -> Source:
    """Sections of the folder, in `SPACE`; nothing but headers is read.

    Parameters
    ----------
    folder : path
        Holds ``stripes<brain>_s<section>.png``.

    Raises
    ------
    Refused
        If the folder holds something else.
    """
    folder = Path(folder)
    found = [match for path in sorted(folder.iterdir()) if (match := FILE.fullmatch(path.name))]
    if not found:
        raise Refused(f"{folder.name} should hold stripes<brain>_s<section>.png.", found="none of them.")
    entries = [
        readers.Entry(
            file=match[0],
            subject=match["brain"],
            # registered by affine: (x_um, y_um, 1), right and down from the image's top left corner, to mm in SPACE
            # to_mm=((0.001, 0.0, 1.2), (0.0, 0.0, 4.0), (0.0, -0.001, 7.5)),
            # places of interest and what is known of them, in columns x_um, y_um and one per label
            # points=f"{match['brain']}_{match['section']}_points.csv",
        )
        for match in found
    ]
    return readers.read(folder, readers.Stated(space=SPACE, pixel_um=PIXEL_UM, dark_stain=DARK_STAIN, sections=entries))
