"""Every named space that files may speak of: the animals' and the phantom's, and the templates of the human brain."""

from __future__ import annotations

from brodmann.space import CCF_V3, PHANTOM, Space

MNI152 = Space(
    name="mni152",
    orientation="ras",
    extent_mm=(193.0, 229.0, 193.0),
    origin="anterior commissure, as in ICBM 152 2009c nonlinear asymmetric",
)
"""MNI ICBM 152 2009c nonlinear asymmetric; the extent is that of its template."""
COLIN27 = Space(
    name="colin27", orientation="ras", extent_mm=(181.0, 217.0, 181.0), origin="anterior commissure, as in MNI Colin 27"
)
"""MNI Colin 27; the extent is that of its template."""
BIGBRAIN = Space(
    name="bigbrain",
    orientation="ras",
    extent_mm=(139.3, 148.1, 121.0),
    origin="as in the BigBrain release of 2015 (histological space): 70.677, 70.01 and 58.788 mm from the corner of "
    "the volume that is most left, posterior and inferior",
)
"""BigBrain histological space: 6572 x 7404 x 5711 voxels of 21.167 x 20 x 21.167 um."""

HUMAN = (MNI152, COLIN27, BIGBRAIN)
SPACES = {space.name: space for space in (CCF_V3, PHANTOM, *HUMAN)}
"""By name: what ``sections.json`` and tables may call a space without describing it."""
