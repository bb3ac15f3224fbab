"""What an interval is over: the units of held-out tissue that a bootstrap draws."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import splits
from brodmann.settings import Split
from brodmann.tasks import _rows, _surroundings

FEW_BRAINS = 5


def drawn(table: AnnData, split: Split, tested: NDArray[np.int64]) -> tuple[NDArray[Any], str, list[str]]:
    """Names of the units that the bootstrap draws, what they are called, and what that limits.

    Units are those of the split; sections, where there are too few brains; blocks, where there is one section.

    Parameters
    ----------
    table : AnnData
    split : Split
    tested : array (n,) int64
        Held-out rows.

    Returns
    -------
    (array (n,), str, list of str)
    """
    obs = _rows.places(table)
    brains, by = obs["subject"].iloc[tested].nunique(), split.by
    remarks: list[str] = []
    if by == "brain" and brains < FEW_BRAINS:
        by = "section"
        remarks.append(f"{brains} held-out brains are too few to draw from: the interval is over their sections")
    elif by != "brain" and brains == 1:
        remarks.append("one brain: nothing here says how the features do on another")
    names = splits.groups(obs, Split(by=by, block_mm=split.block_mm))[tested]
    count = len(np.unique(names.astype(str)))
    if count == 1:
        where, section = _surroundings.positions(table)[tested], _surroundings.sections(table)[tested]
        remarks.append(
            f"one held-out {by}: the interval is over blocks of its tissue (sixteen, if it fills them), not over {by}s"
        )
        return _surroundings.blocks(where, section), "blocks", remarks
    if count < 8:
        remarks.append(f"an interval from {count} {by}s is rough")
    return names, f"{by}s", remarks
