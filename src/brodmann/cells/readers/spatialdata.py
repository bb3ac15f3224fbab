"""SpatialData: the tables of a ``.zarr`` store, read as AnnData; images and shapes are not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brodmann.cells.readers import h5ad
from brodmann.cells.readers.part import Part
from brodmann.cells.readers.sidecar import Stated
from brodmann.errors import Corrupt, Refused

_GROUPS = ("tables", "table")


def read(path: Path, stated: Stated, skipped: list[tuple[str, str]]) -> list[Part]:
    """Open a store: an AnnData group, or SpatialData with one or several tables.

    Raises
    ------
    Refused
        No table, or none with coordinates.
    """
    import zarr

    try:
        root: Any = zarr.open_group(str(path), mode="r")
    except (ValueError, KeyError, OSError) as error:
        raise Corrupt(f"{path.name} should be a zarr group.", found=str(error)[:200]) from error
    if "obs" in root:
        return [h5ad.group(root, path, stated, stem=path.stem)]
    names = [f"{group}/{name}" for group in _GROUPS if group in root for name in sorted(root[group].group_keys())]
    parts: list[Part] = []
    for name in names:
        if "obs" not in root[name]:
            skipped.append((f"{path.name}/{name}", "is not a table of AnnData"))
            continue
        part = h5ad.group(root[name], path, stated, stem=f"{path.stem}-{name.split('/')[1]}")
        part.stem = path.stem if len(names) == 1 else part.stem
        said: Any = root[name].get("uns", {})
        key = _text(said["spatialdata_attrs/region_key"]) if "spatialdata_attrs/region_key" in said else None
        if key in part.columns and stated.section is None and part.columns[key].nunique() > 1:
            # the region a cell was segmented in is its section, whatever the column is called
            part.columns = part.columns.rename(columns={key: "section"}) if key else part.columns
        parts.append(part)
    if not parts:
        raise Refused(
            f"{path.name} should hold a table.",
            found=f"groups {', '.join(sorted(map(str, root.group_keys()))) or 'none'}.",
            do="give SpatialData with tables, or AnnData written by write_zarr.",
        )
    placed = [part for part in parts if part.arrays or stated.x is not None or "x" in part.columns]
    if placed:
        skipped.extend((f"{path.name}/{p.stem}", "no coordinates") for p in parts if p not in placed)
    return placed or parts


def _text(stored: Any) -> str:
    from anndata.io import read_elem

    return str(read_elem(stored))
