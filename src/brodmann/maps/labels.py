"""Names per sample: aligned with the table by id, numbered and coloured once for all maps of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        present = {str(name) for name in names if isinstance(name, str) or not pd.isna(cast("Any", name))}
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

    def values(self, names: pd.Series) -> NDArray[np.int64]:
        """Value of each name, (n,) int64; 0 where it is missing.

        Raises
        ------
        Refused
            A name that the key does not know.
        """
        index = {name: value for value, name in enumerate(self.names, start=1)}
        plain: list[Any] = names.astype(object).tolist()
        unknown = {str(name) for name in plain if not pd.isna(name) and str(name) not in index}
        if unknown:
            raise Refused(
                "every label should be in the key of the map.",
                found=f"unknown: {', '.join(sorted(unknown)[:5])}.",
                do="make the key from the whole table and its predictions: Key.of([*truth, *predicted]).",
            )
        return np.array([0 if pd.isna(name) else index[str(name)] for name in plain], dtype=np.int64)

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


def aligned(table: AnnData, labels: str | pd.Series) -> pd.Series:
    """Labels in the table's row order, index = id; missing stays missing.

    Parameters
    ----------
    table : AnnData
        One row per sample.
    labels : str or Series
        A column of ``obs``, or a Series indexed by id, e.g. ``score.predicted``.

    Raises
    ------
    Refused
        No such column, ids given twice, or no id in common.
    """
    obs, index = cast("pd.DataFrame", table.obs), ids(table)
    if isinstance(labels, str):
        if labels not in obs:
            raise Refused(
                f"the table should have a label column '{labels}'.",
                found=f"columns {', '.join(str(c) for c in obs.columns)}.",
            )
        return pd.Series(cast("Any", obs[labels].astype(object).to_numpy()), index=index, name=labels)
    series = pd.Series(cast("Any", labels.astype(object).to_numpy()), index=labels.index.astype(str), name=labels.name)
    if series.index.has_duplicates:
        raise Refused("labels should name each id once.", found=f"{int(series.index.duplicated().sum())} ids twice.")
    found = int(series.index.isin(index).sum())
    if not found:
        raise Refused(
            "labels should be indexed by the table's ids.",
            found=f"ids such as '{series.index[0] if len(series) else '(none)'}'; the table has '{index[0]}'.",
        )
    return series.reindex(index)


def spacing_um(xy_um: NDArray[np.floating]) -> float:
    """Distance (um) between neighbouring samples of a section: the median of nearest-neighbour distances."""
    from scipy import spatial

    if len(xy_um) < 2:
        return 500.0
    nearest = cast("Any", spatial).cKDTree(xy_um).query(xy_um, k=2)[0][:, 1]
    return float(np.median(nearest))
