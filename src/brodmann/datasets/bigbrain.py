"""BigBrain: one whole human brain, cell-body stained sections; 1-um scans of 145 of them, and the 20-um volume.

A 65-year-old man's brain, 7,404 coronal sections of 20 um, silver stained for cell bodies (Merker): cells are dark, the
slide is light. Two data sets, both neuroglancer precomputed, 8-bit grey:

- *Sections at 1 um*, one volume a section, thin along y, about 1 mm apart, registered to the volume
  (https://1um.brainatlas.eu/registered_sections/bigbrain/B20_NNNN/precomputed). `sections` opens copies in a folder,
  `served` those of the server.
- *The volume* of the release of 2015, 6572 x 7404 x 5711 voxels of 21.167 x 20 x 21.167 um
  (https://neuroglancer.humanbrainproject.eu/precomputed/BigBrainRelease.2015/8bit). `slices` opens coronal slices.
  Its coarser levels average over neighbouring sections and are left out: an overview reads a whole slice.

An image's columns run to the right hemisphere, its rows upwards in the brain: it stands on its head on the screen.
Terabytes: nothing is downloaded, and no checksum is published. Sizes are checked instead.

References: Amunts et al. 2013, Science 340:1472; sections: Schiffer et al. 2022, EBRAINS, 10.25493/JWTF-PAB.
Licence: CC BY-NC-SA 4.0, of both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brodmann.errors import Refused
from brodmann.patches import readers
from brodmann.patches.source import Source
from brodmann.sidecar import NamedSpace, Row
from brodmann.spaces import BIGBRAIN

CITATION = "Amunts et al. 2013, https://doi.org/10.1126/science.1235381"
CITATION_SECTIONS = "Schiffer et al. 2022, https://doi.org/10.25493/JWTF-PAB"
LICENSE = "CC-BY-NC-SA-4.0"
ADDRESS_SECTIONS = "https://1um.brainatlas.eu/registered_sections/bigbrain/B20_{:04d}/precomputed"
ADDRESS_VOLUME = "https://neuroglancer.humanbrainproject.eu/precomputed/BigBrainRelease.2015/8bit"
PIXEL_UM = {"sections": 1.0, "volume": 21.1667}
"""Of the finest level, in the coronal plane; every file states its own."""
COUNT = 7404
"""Sections of the brain; they are numbered from 1, from the back to the front."""
SECTIONS = (
    47, 102, 150, 199, 251, 300, 350, 400, 454, 500, 549, 600, 648, 700, 750, 798, 847, 900, 951, 1001, 1049, 1100,
    1151, 1205, 1255, 1307, 1345, 1402, 1454, 1499, 1561, 1600, 1649, 1697, 1749, 1801, 1842, 1901, 1952, 1998,
    2056, 2105, 2150, 2206, 2251, 2313, 2393, 2447, 2494, 2560, 2591, 2653, 2757, 2803, 2845, 2896, 2956, 2999,
    3045, 3096, 3146, 3196, 3254, 3305, 3348, 3407, 3458, 3500, 3556, 3601, 3645, 3698, 3750, 3797, 3856, 3905,
    3954, 4003, 4050, 4100, 4156, 4248, 4311, 4342, 4401, 4449, 4497, 4549, 4599, 4651, 4708, 4751, 4800, 4844,
    4900, 4950, 5001, 5048, 5102, 5149, 5201, 5252, 5301, 5356, 5401, 5447, 5511, 5550, 5602, 5661, 5702, 5745,
    5798, 5851, 5890, 5943, 6000, 6049, 6101, 6152, 6199, 6249, 6297, 6350, 6400, 6450, 6495, 6549, 6599, 6647,
    6700, 6748, 6800, 6853, 6899, 6951, 7001, 7050, 7103, 7150, 7200, 7250, 7300, 7350, 7400,
)  # fmt: skip
"""Those that were scanned at 1 um, as siibra's configuration lists them."""
THICK_UM = 20.0
CORNER_MM = (-70.677184, -70.010, -58.788284)
"""Left, posterior, inferior corner of the volume in `brodmann.spaces.BIGBRAIN`."""
SUBJECT = "BigBrain"
SPACE = NamedSpace(
    name=BIGBRAIN.name, orientation=BIGBRAIN.orientation, extent_mm=BIGBRAIN.extent_mm, origin=BIGBRAIN.origin
)
_FOLDER = re.compile(r"B20_(\d{4})")


def y_mm(section: int) -> float:
    """Where the middle of a section lies along y, mm in the BigBrain space (posterior to anterior).

    Raises
    ------
    Refused
        No such section.
    """
    if not 1 <= section <= COUNT:
        raise Refused(f"sections of BigBrain should be numbered 1 to {COUNT}.", found=f"{section}.")
    return CORNER_MM[1] + (section - 0.5) * THICK_UM / 1000


def sections(folder: str | Path) -> Source:
    """1-um sections of a folder, in the BigBrain space.

    Parameters
    ----------
    folder : path
        Holds ``B20_NNNN/precomputed`` (or ``B20_NNNN``) with ``info`` and ``transform.json``, as the server has them.

    Raises
    ------
    Refused
        None of them, or one that does not lie where its number says.
    """
    folder = Path(folder)
    found = {int(match[1]): path for path in sorted(folder.iterdir()) if (match := _FOLDER.fullmatch(path.name))}
    if not found:
        raise Refused(f"{folder.name} should hold folders B20_NNNN.", found="none of them.")
    entries = [
        readers.Entry(
            file=f"{path.name}/precomputed" if (path / "precomputed").is_dir() else path.name,
            id=path.name,
            axis="y",
        )
        for path in found.values()
    ]
    stated = readers.Stated(space=SPACE, subject=SUBJECT, dark_stain=True, sections=entries)
    return _checked(readers.read(folder, stated))


def served(numbers: Sequence[int] = SECTIONS) -> Source:
    """1-um sections on the EBRAINS server, in the BigBrain space; this opens a connection.

    Parameters
    ----------
    numbers : sequence of int
        Of `SECTIONS`; by default all.

    Raises
    ------
    Refused
        No such section, no connection, or none of them is there.
    """
    if strange := sorted(set(numbers) - set(SECTIONS)):
        raise Refused(
            "sections at 1 um should be among those that were scanned.",
            found=f"{strange[:5]}.",
            do="see bigbrain.SECTIONS; slices opens any section at 20 um.",
        )
    from brodmann.patches.readers import remote

    where = {ADDRESS_SECTIONS.format(number): f"B20_{number:04d}" for number in numbers}
    entries = [readers.Entry(file=address, id=name, axis="y") for address, name in where.items()]
    stated = readers.Stated(space=SPACE, subject=SUBJECT, dark_stain=True, sections=entries)
    return _checked(remote.read(list(where), stated))


def _checked(source: Source) -> Source:
    """Refuse sections that do not lie where their numbers say."""
    for section in source.sections:
        lies, due = float(section.place(np.zeros((1, 2)))[0, 1]), y_mm(int(section.id[-4:]))
        if abs(lies - due) > THICK_UM / 1000:
            raise Refused(
                f"{section.id} should lie at y = {due:.2f} mm of the BigBrain space.",
                found=f"{lies:.2f} mm.",
                cause="transform.json of another section, or folders that were renamed.",
            )
    return source


def slices(folder: str | Path, numbers: Sequence[int]) -> Source:
    """Coronal slices of the volume, in the BigBrain space.

    Parameters
    ----------
    folder : path
        Holds ``info`` of the 8-bit volume.
    numbers : sequence of int
        Sections, 1 to `COUNT`.

    Raises
    ------
    Refused
        Another volume, or no such section.
    """
    folder = Path(folder)
    entries = [
        readers.Entry(file=folder.name, id=f"B20_{number:04d}", axis="y", slice=number - 1, to_mm=_to_mm(y_mm(number)))
        for number in numbers
    ]
    stated = readers.Stated(space=SPACE, subject=SUBJECT, dark_stain=True, sections=entries)
    source = readers.read(folder.parent, stated)
    for section in source.sections:
        size = (section.width_um / 1000, section.height_um / 1000)
        due = (BIGBRAIN.extent_mm[0], BIGBRAIN.extent_mm[2])
        if not np.allclose(size, due, atol=0.5):
            raise Refused(
                f"slices of {folder.name} should be {due[0]:.1f} x {due[1]:.1f} mm large.",
                found=f"{size[0]:.1f} x {size[1]:.1f} mm.",
                cause="another volume than that of the release of 2015.",
            )
    return source


def _to_mm(y: float) -> tuple[Row, Row, Row]:
    """Columns along x, rows along z."""
    return (0.001, 0.0, CORNER_MM[0]), (0.0, 0.0, y), (0.0, 0.001, CORNER_MM[2])
