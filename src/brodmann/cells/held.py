"""Which cells are held out: whole brains and sections without a name per cell, blocks of tissue row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import splits
from brodmann.cells.source import Source
from brodmann.settings import Split


def training(source: Source, rows: NDArray[np.int64], split: Split) -> NDArray[np.int64]:
    """Places in ``rows`` of the cells outside the held-out fold.

    Parameters
    ----------
    source : Source
    rows : array (n,) int64
        Rows of the source that take part, ascending.
    split : Split
        ``split.fold`` is held out.

    Returns
    -------
    array (m,) int64
        Ascending.
    """
    bounds = np.searchsorted(rows, [edge for s in source.sections for edge in (s.rows.start, s.rows.stop)])
    spans = [(s, int(a), int(b)) for s, a, b in zip(source.sections, bounds[::2], bounds[1::2], strict=True) if b > a]
    whole = split.by == "brain" or (split.by == "section" and split.buffer_mm == 0)
    if whole:
        # the folds of whole sections are those of one row per section: no names per cell
        xyz = np.array([source.xyz_mm[rows[a:b]].mean(0, dtype=np.float64) for _, a, b in spans])
        sizes = [1] * len(spans)
    else:
        xyz, sizes = source.xyz_mm[rows], [b - a for _, a, b in spans]
    places = pd.DataFrame(
        {
            "subject": categories([s.subject for s, _, _ in spans], sizes),
            "section": categories([s.id for s, _, _ in spans], sizes),
            **{name: xyz[:, axis] for axis, name in enumerate(splits.AXES)},
        }
    )
    kept = splits.folds(places, split)[0].train
    if not whole:
        return kept
    return np.concatenate([np.arange(spans[number][1], spans[number][2]) for number in kept])


def categories(names: Sequence[str], sizes: Sequence[int]) -> pd.Categorical:
    """A name per section, repeated for its cells; categories in order of first appearance.

    Parameters
    ----------
    names, sizes : sequence of str, sequence of int
        Of each section.
    """
    unique = list(dict.fromkeys(names))
    codes = np.repeat(np.array([unique.index(name) for name in names], np.int32), sizes)
    return cast("Any", pd.Categorical).from_codes(codes, unique)
