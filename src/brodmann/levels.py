"""Domains of a run, kept beside its feature table: one column a level, in colours that scanpy reads too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import anndata
import numpy as np
import pandas as pd
import zarr

from brodmann import atomic, features
from brodmann.errors import Refused
from brodmann.run import Run

if TYPE_CHECKING:
    from brodmann.tasks.domains import Domains

_read: Any = cast("Any", anndata).io.read_elem

FOLDER = "domains.zarr"


def write(run: Run, found: Domains, table: anndata.AnnData) -> None:
    """Keep every level: ``obs["domain_<k>"]``, ``uns["domain_<k>_colors"]`` and ``uns["domain_<k>_paths"]``.

    Parameters
    ----------
    run : Run
        Locked by the caller; an older set of levels is replaced.
    found : Domains
    table : AnnData
        The feature table whose rows were divided.
    """
    obs, colours = cast("pd.DataFrame", table.obs), dict[str, Any]()
    columns = found.frame(table).set_axis(obs.index, axis=0)
    for level in found.levels:
        colours[f"domain_{level.k}_colors"] = np.array(level.colours, dtype=object)
        colours[f"domain_{level.k}_paths"] = np.array(level.paths, dtype=object)
    kept = pd.concat([obs[["id", "subject", "section"]], columns], axis=1)
    run.forget(FOLDER)
    with atomic.folder(run.path / FOLDER, what="the domains") as partial, features.zarr_v3():
        cast("Any", anndata.AnnData(obs=kept, uns=colours)).write_zarr(partial)


def read(run: Run, name: str) -> tuple[pd.Series, dict[str, str]]:
    """Domain of each row, in the order of the table, and the colour of each domain.

    Parameters
    ----------
    run : Run
    name : str
        ``domain_<k>``, or ``domains`` for the finest level that a legend can hold.

    Raises
    ------
    Refused
        If the run has no such level.
    """
    path = run.path / FOLDER
    if not path.is_dir():
        raise Refused(
            f"{run.path} should hold domains.", found="none.", do=f"run `brodmann score {run.path} domains` first."
        )
    # one level of ten million rows is read, and not the others with it
    kept = cast("Any", zarr.open_group(str(path), mode="r"))
    columns = [str(column) for column in kept["obs"].attrs["column-order"]]
    levels = sorted((c for c in columns if c.startswith("domain_")), key=lambda c: int(c.rpartition("_")[2]))
    if name == "domains":
        legible = [level for level in levels if int(level.rpartition("_")[2]) <= _LEGIBLE]
        name = legible[-1] if legible else levels[0]
    if name not in levels:
        raise Refused(f"'{name}' should be a level of the domains.", found=f"levels {', '.join(levels)}.")
    index = _read(kept["obs"][kept["obs"].attrs["_index"]])
    column = pd.Series(_read(kept["obs"][name]), index=pd.Index(index), name=name)
    palette = [str(colour) for colour in _read(kept["uns"][f"{name}_colors"])]
    return column, dict(zip([str(c) for c in cast("Any", column).cat.categories], palette, strict=True))


_LEGIBLE = 60
