"""Names per sample: aligned with the table by id, numbered and coloured once for all maps of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import atomic
from brodmann.errors import Refused
from brodmann.maps import colours as colour_of

if TYPE_CHECKING:
    from anndata import AnnData


class Picture(Protocol):
    """What a map needs of a section: its image and where it lies. Every system's sections satisfy it."""

    @property
    def id(self) -> str:
        """Name of the section, as in the table's ``section``."""
        ...

    @property
    def subject(self) -> str:
        """Brain it belongs to."""
        ...

    @property
    def width_um(self) -> float:
        """Width of the image, um."""
        ...

    @property
    def height_um(self) -> float:
        """Height of the image, um."""
        ...

    def overview(self, pixel_um: float) -> NDArray[np.uint8]:
        """Whole section at ``pixel_um``, (C, H, W) uint8 with C 1 or 3."""
        ...

    def place(self, xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) um from the image's top left corner to (n, 3) mm in the section's space."""
        ...


@dataclass(frozen=True)
class Key:
    """The legend of a label map: value ``i + 1`` is ``names[i]``; 0 is no label.

    Parameters
    ----------
    names, colours : tuple of str
        Sorted names and their ``"#RRGGBB"``.
    """

    names: tuple[str, ...]
    colours: tuple[str, ...]

    @staticmethod
    def of(names: Iterable[object], known: Mapping[str, str] | None = None) -> Key:
        """Key of a vocabulary (missing values are left out); ``known`` fixes colours that others already use."""
        given = used(names) if isinstance(names, pd.Categorical) else names
        present = {str(name) for name in given if isinstance(name, str) or not pd.isna(cast("Any", name))}
        chosen = {**colour_of.colours(present | set(known or {})), **(known or {})}
        ordered = sorted(present, key=colour_of.natural)
        return Key(tuple(ordered), tuple(chosen[name] for name in ordered))

    @property
    def mapping(self) -> dict[str, str]:
        """Name to colour."""
        return dict(zip(self.names, self.colours, strict=True))

    def present(self, rasters: Iterable[NDArray[np.uint16]]) -> dict[str, str]:
        """Name to colour of the values that occur in label rasters: what their legend must list."""
        entries = list(self.mapping.items())
        found = sorted({int(value) for raster in rasters for value in np.unique(raster)} - {0})
        return dict(entries[value - 1] for value in found)

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """(n + 1, 3) uint8 lookup table; row 0 (no label) is black."""
        rows = [np.zeros(3), *(colour_of.rgb(colour) for colour in self.colours)]
        return np.stack(rows).astype(np.uint8)

    def values(self, names: pd.Categorical) -> NDArray[np.int64]:
        """Value of each name, (n,) int64; 0 where it is missing.

        Raises
        ------
        Refused
            A name that the key does not know.
        """
        index = {name: value for value, name in enumerate(self.names, start=1)}
        unknown = sorted(set(used(names)) - set(index))
        if unknown:
            raise Refused(
                "every label should be in the key of the map.",
                found=f"unknown: {', '.join(unknown[:5])}.",
                do="make the key from the whole table and its predictions: Key.of([*truth, *predicted]).",
            )
        # a missing name has the code -1, which is the last entry
        return np.array([*(index.get(str(name), 0) for name in names.categories), 0], np.int64)[codes(names)]

    def frame(self) -> pd.DataFrame:
        """Columns ``value``, ``name``, ``colour``."""
        values = range(1, len(self.names) + 1)
        return pd.DataFrame({"value": list(values), "name": self.names, "colour": self.colours})

    def write(self, path: Path) -> Path:
        """Write `frame` as CSV, whole or not at all."""
        atomic.write_text(path, self.frame().to_csv(index=False, lineterminator="\n"))
        return path


def ids(table: AnnData) -> pd.Index:
    """Id of each row: the ``id`` column if there is one, else the row names."""
    obs = cast("pd.DataFrame", table.obs)
    return pd.Index(obs["id"].astype(str) if "id" in obs else obs.index.astype(str))


def codes(names: pd.Categorical) -> NDArray[np.integer]:
    """Number of each row's category, (n,); -1 where it is missing."""
    return np.asarray(cast("Any", names).codes)


def used(names: pd.Categorical) -> list[str]:
    """Categories that occur, in their order."""
    count = np.bincount(codes(names).astype(np.intp) + 1, minlength=len(names.categories) + 1)[1:]
    return [str(name) for name, times in zip(names.categories, count, strict=True) if times]


def column(table: AnnData, name: str) -> pd.Categorical:
    """A column of ``obs`` as text categories; one that is categorical already is not copied."""
    obs = cast("pd.DataFrame", table.obs)
    if name not in obs:
        raise Refused(
            f"the table should have a label column '{name}'.",
            found=f"columns {', '.join(str(c) for c in obs.columns)}.",
        )
    return categories(cast("pd.Series", obs[name]))


Labels = str | pd.Series | pd.Categorical
"""A column of ``obs``, a Series indexed by id, e.g. ``score.predicted``, or names in the table's row order."""


def aligned(table: AnnData, labels: Labels) -> pd.Categorical:
    """Labels in the table's row order, as text categories; missing stays missing.

    Parameters
    ----------
    table : AnnData
        One row per sample.
    labels : Labels

    Raises
    ------
    Refused
        No such column, ids given twice, no id in common, or names of another number of rows.
    """
    if isinstance(labels, str):
        return column(table, labels)
    if isinstance(labels, pd.Categorical):
        if len(labels) != table.n_obs:
            raise Refused("labels should have a row per row of the table.", found=f"{len(labels)} and {table.n_obs}.")
        return labels
    index, given, names = ids(table), pd.Index(labels.index.astype(str)), categories(labels)
    if given.equals(index):  # ten million ids are not sorted in when they lie in order
        return names
    if given.has_duplicates:
        raise Refused("labels should name each id once.", found=f"{int(given.duplicated().sum())} ids twice.")
    where = np.asarray(given.get_indexer(cast("Any", index)))
    if not (where >= 0).any():
        raise Refused(
            "labels should be indexed by the table's ids.",
            found=f"ids such as '{given[0] if len(given) else '(none)'}'; the table has '{index[0]}'.",
        )
    return _coded(np.append(codes(names), -1)[where], names.categories)


def categories(values: pd.Series | Sequence[object]) -> pd.Categorical:
    """Values as categories whose names are text."""
    plain = cast("Any", values if isinstance(values, pd.Series) else pd.Series(list(values), dtype=object))
    found = cast("pd.Categorical", plain.array if hasattr(plain, "cat") else pd.Categorical(plain.astype(object)))
    if all(isinstance(name, str) for name in found.categories):
        return found
    return _coded(codes(found), [str(name) for name in found.categories])


def _coded(number: NDArray[np.integer], names: Iterable[object]) -> pd.Categorical:
    return pd.Categorical.from_codes(cast("Any", number), categories=cast("Any", list(names)))


def rows_on(table: AnnData, section: str) -> NDArray[np.int64]:
    """Rows of one section."""
    names = column(table, "section")
    at = cast("Any", names.categories).get_indexer([section])[0]
    return np.flatnonzero(codes(names) == at) if at >= 0 else np.zeros(0, np.int64)


def rows_of(table: AnnData, names: Iterable[str]) -> dict[str, int]:
    """Row of each of a few ids, without an index of all of them."""
    index = ids(table)
    rows = np.flatnonzero(index.isin(cast("Any", sorted(set(names)))))
    return {str(index[row]): int(row) for row in rows}


def spacing_um(xy_um: NDArray[np.floating]) -> float:
    """Distance (um) between neighbouring samples of a section: the median of nearest-neighbour distances."""
    return float(distances_um(xy_um, [1])[0]) if len(xy_um) > 1 else 500.0


def distances_um(xy_um: NDArray[np.floating], nearest: Sequence[int]) -> NDArray[np.float64]:
    """Median distance (um) to the k-th neighbour for each k of ``nearest``, over up to 10,000 samples."""
    from scipy import spatial

    some = xy_um[:: -(-len(xy_um) // 10_000)]
    # a tree that is asked a few thousand times need not be a balanced one
    tree = cast("Any", spatial).cKDTree(xy_um, balanced_tree=False, compact_nodes=False)
    away = tree.query(some, k=[k + 1 for k in nearest])[0]
    return np.median(away, axis=0)


def scaled(picture: Picture) -> bool:
    """Whether the picture's um are um; not where it says ``unit = "arbitrary"``, for coordinates of unknown scale."""
    return getattr(picture, "unit", "um") == "um"
