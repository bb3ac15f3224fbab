"""Mouse brain, 30 coronal sections, GLT1 immunostain, registered to CCFv3 with DeepSlice and QuickNII.

Thirty RGB images of 1024 x 670 px of one adult mouse brain; the brown stain shows the glutamate transporter GLT1, not
cell bodies. Pixels are 12.3 um on the slide. ``anchoring.json`` places every section in the 25-um CCFv3 (2017) volume.

References: Carey et al. 2023, Nature Communications 14:5884 (DeepSlice); Wang et al. 2020, Cell 181:936 (CCFv3).
Licence: images and anchoring MIT (PolarBean/DeepSlice, Neural-Systems-at-UIO/PyNutil); annotation under Allen terms.
"""

from __future__ import annotations

from pathlib import Path

from brodmann.patches import readers
from brodmann.patches.source import Source

CITATION = "Carey et al. 2023, https://doi.org/10.1038/s41467-023-41645-4"
LICENSE = "MIT (images, anchoring)"
PIXEL_UM = 12.3
"""Stated pixel size; the registration's own estimate is 12.25 um along the width and 14.3 um along the height."""
SUBJECT = "mouse1"


def open(folder: str | Path) -> Source:
    """Sections of the folder with ``anchoring.json``, in space ``ccf_v3``.

    Parameters
    ----------
    folder : path
        Holds ``641_2002_2568_NM01_s*.png`` and ``anchoring.json``.

    Raises
    ------
    Refused
        If the folder holds something else.
    """
    stated = readers.Stated(pixel_um=PIXEL_UM, subject=SUBJECT, dark_stain=True, anchoring="anchoring.json")
    return readers.read(Path(folder), stated)
