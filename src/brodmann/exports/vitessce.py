"""Vitessce: a view config in plain JSON, and beside it the rows as AnnData on zarr, version 2, which it reads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.exports.answers import Found
from brodmann.maps import embedding, labels
from brodmann.maps.colours import MISSING, colours, rgb
from brodmann.samples import stream

if TYPE_CHECKING:
    from brodmann.exports.answers import Answer

SCHEMA = "1.0.16"
STORE, CONFIG = "rows.zarr", "vitessce.json"
SERVED = "http://localhost:8000"
NONE = "not predicted"
_MOST = 2_000_000
"""Rows that Vitessce has been shown to draw."""


def write(found: Found, out: Path, *, url: str | None) -> dict[str, Any]:
    """Write ``vitessce.json`` and ``rows.zarr`` into a folder.

    Sections lie side by side in ``obsm["spatial"]`` (um, y down), shifted by what the record says; ``obsm["xyz"]``
    holds mm in the space. Classes become sets in the colours of the run, numbers columns of ``X``.

    Parameters
    ----------
    found : Found
    out : Path
    url : str, optional
        Where the folder will be served; by default ``http://localhost:8000``.
    """
    n = int(found.table.n_obs)
    rows = np.arange(n) if n <= _MOST else np.sort(stream(0, "vitessce", n).choice(n, _MOST, replace=False))
    section = labels.column(found.table, "section")[rows]
    xy = np.column_stack([np.asarray(found.obs[axis])[rows] for axis in ("x_um", "y_um")]).astype(np.float64)
    shift = _side_by_side(xy, section)
    spatial = xy + np.array([shift[str(name)] for name in section.categories])[labels.codes(section)]
    some = found.table[rows] if len(rows) < n else found.table
    # principal components: the same rows give the same picture, whatever is installed
    plane = embedding.plane(some, limit=len(rows), method="pca")
    kind = plane.method.partition(",")[0].partition(" ")[0]
    sets = {"section": section, "subject": labels.column(found.table, "subject")[rows]}
    palettes = {name: colours(labels.used(values)) for name, values in sets.items()}
    for answer in found.answers:
        if not isinstance(answer.values, np.ndarray):
            sets[answer.name] = _whole(answer.values[rows])
            palettes[answer.name] = {**answer.palette, NONE: MISSING}
    sets = {name: values.remove_unused_categories() for name, values in sets.items()}
    numbers = [answer for answer in found.answers if answer.numeric]
    table = _table(found, rows, sets, numbers, spatial, plane.xy, kind)
    with anndata.settings.override(zarr_write_format=2), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Writing zarr v2 data")
        table.write_zarr(out / STORE)
    spacing = labels.spacing_um(xy[labels.codes(section) == labels.codes(section)[0]])
    said = f"{len(rows):,} of {n:,} rows" if len(rows) < n else f"{n:,} rows"
    base = (url or SERVED).rstrip("/")
    config = _config(found, sets, palettes, kind, bool(numbers), radius=spacing / 2, rows=said, url=f"{base}/{STORE}")
    (out / CONFIG).write_text(json.dumps(config, indent=1, allow_nan=False, ensure_ascii=False), encoding="utf-8")
    found.say(f"{CONFIG}: {said}; serve the folder at {base} with CORS and open it at https://vitessce.io")
    return {
        "config": CONFIG, "store": STORE, "served_at": base, "rows": len(rows), "embedding": plane.method,
        "spatial": {"unit": found.plane_unit, "shift_um": {name: list(by) for name, by in shift.items()}},
    }  # fmt: skip


def _side_by_side(xy: NDArray[np.float64], section: pd.Categorical) -> dict[str, tuple[float, float]]:
    """How far (um) each section is moved so that none overlaps: rows of a square, in the order of the table."""
    code = labels.codes(section)
    ends = {
        str(name): xy[code == number].max(0) for number, name in enumerate(section.categories) if (code == number).any()
    }
    across = int(np.ceil(np.sqrt(len(ends))))
    width, height = 1.1 * np.max(list(ends.values()), axis=0)
    order = sorted(ends, key=lambda name: int(np.argmax(code == section.categories.get_loc(name))))
    moved = {name: (float(k % across * width), float(k // across * height)) for k, name in enumerate(order)}
    return {str(name): moved.get(str(name), (0.0, 0.0)) for name in section.categories}


def _whole(values: pd.Categorical) -> pd.Categorical:
    """Classes with a class for rows that have none: Vitessce knows no missing value."""
    code = labels.codes(values)
    names = [*map(str, values.categories), NONE]
    return pd.Categorical.from_codes(np.where(code < 0, len(names) - 1, code).tolist(), categories=cast("Any", names))


def _table(
    found: Found,
    rows: NDArray[np.int64],
    sets: dict[str, pd.Categorical],
    numbers: list[Answer],
    spatial: NDArray[np.float64],
    plane: NDArray[np.float32],
    kind: str,
) -> Any:
    obs = pd.DataFrame({name.replace("/", "_"): values for name, values in sets.items()})
    obs.index = pd.Index(labels.ids(found.table)[rows].astype(object))
    held = [cast("NDArray[np.float64]", answer.values)[rows].astype(np.float32) for answer in numbers]
    obsm = {"spatial": spatial.astype(np.float32), "xyz": found.xyz[rows], f"X_{kind.lower()}": plane}
    return anndata.AnnData(
        X=np.column_stack(held) if held else np.zeros((len(rows), 1), np.float32),
        obs=obs,
        var=pd.DataFrame(index=pd.Index([answer.name for answer in numbers] or ["none"])),
        obsm=cast("Any", obsm),
    )


def _config(
    found: Found,
    sets: dict[str, pd.Categorical],
    palettes: dict[str, dict[str, str]],
    kind: str,
    numeric: bool,  # noqa: FBT001
    *,
    radius: float,
    rows: str,
    url: str,
) -> dict[str, Any]:
    """View config: sections, embedding and sets, linked."""
    first = next((answer.name for answer in found.answers if answer.name in sets), "section")
    tinted = [
        {"path": [name, str(one)], "color": rgb(palettes[name][str(one)]).astype(int).tolist()}
        for name, values in sets.items()
        for one in values.categories
    ]
    options: dict[str, Any] = {
        "obsLocations": {"path": "obsm/spatial"},
        "obsEmbedding": [{"path": f"obsm/X_{kind.lower()}", "embeddingType": kind}],
        "obsSets": [{"name": name, "path": f"obs/{name.replace('/', '_')}"} for name in sets],
    }
    if numeric:
        options["obsFeatureMatrix"] = {"path": "X"}
    space: dict[str, dict[str, Any]] = {
        "dataset": {"A": "A"},
        "embeddingType": {"A": kind},
        "obsColorEncoding": {"A": "cellSetSelection"},
        "obsSetSelection": {"A": [[first, str(one)] for one in sets[first].categories]},
        "obsSetColor": {"A": tinted},
        "spatialSegmentationLayer": {"A": {"radius": radius, "stroked": False, "visible": True, "opacity": 1}},
    }
    shared = dict.fromkeys(("dataset", "obsColorEncoding", "obsSetSelection", "obsSetColor"), "A")
    views = [
        ("spatial", {**shared, "spatialSegmentationLayer": "A"}, (0, 0, 6, 8)),
        ("scatterplot", {**shared, "embeddingType": "A"}, (6, 0, 4, 8)),
        ("obsSets", shared, (10, 0, 2, 6 if numeric else 8)),
        ("description", {"dataset": "A"}, (0, 8, 12, 2)),
    ]
    if numeric:
        views.append(("featureList", {"dataset": "A", "obsColorEncoding": "A"}, (10, 6, 2, 2)))
    layout = [
        {"component": view, "coordinationScopes": scopes, **dict(zip("xywh", place, strict=True))}
        for view, scopes, place in views
    ]
    told = ", ".join(
        f"{a.name}: {a.score.get('metric')} {_three(a.score.get('value'))}" for a in found.answers if a.score
    )
    return {
        "version": SCHEMA, "name": f"{found.run.path.name}: {', '.join(answer.name for answer in found.answers)}",
        "description": f"{rows}; x and y in {found.plane_unit}, sections side by side; {kind}. {told}",
        "datasets": [
            {
                "uid": "A", "name": found.run.path.name,
                "files": [{"fileType": "anndata.zarr", "url": url, "options": options}],
            }
        ],
        "coordinationSpace": space, "layout": layout, "initStrategy": "auto",
    }  # fmt: skip


def _three(value: Any) -> str:
    """Three decimals, or that there is none."""
    return f"{value:.3f}" if isinstance(value, float) else "not known"
