"""Maps of told layers: outlines as GeoJSON, sections with what was told beside what was drawn, figures, report.

H and W pixels of a section at the patches' pixel size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brodmann import atomic
from brodmann.atomic import folder
from brodmann.maps import figures, outputs, report
from brodmann.maps.colours import rgb
from brodmann.maps.drawing import save
from brodmann.maps.labels import Key
from brodmann.maps.layerfigures import Shown, Told, contact, depth_key, each, filled, page, strip, values
from brodmann.maps.outlines import UNTOLD, outlines
from brodmann.progress import Say

_PAINTED = 8
_SMALL = 24
_SPECK_MM2 = 0.002
"""Smaller pieces are no outline of a layer: a square of 45 um."""


def write(
    out: Path,
    name: str,
    *,
    score: Any,
    scores: Sequence[Mapping[str, Any]],
    sections: Iterable[Told],
    patches: Callable[[], Sequence[Shown]],
    field_mm: float,
    recipe_toml: str,
    environment: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    say: Say,
) -> Path:
    """Write ``maps/<name>/`` (a GeoJSON a section, pictures), ``figures/<name>/`` and ``report.html`` under ``out``.

    Parameters
    ----------
    out : Path
        Usually the run folder.
    name : str
        Of the map: one folder name.
    score : Score
        Of the layers.
    scores : sequence of mappings
        All scores of the run, as saved.
    sections : iterable of Told
        Taken one at a time.
    patches : callable
        Judged patches to show one by one; called after the last section.
    field_mm : float
        Side of a patch.
    recipe_toml, environment, metrics, data
        Of the run, as of `brodmann.maps.report.write`.
    say : Say

    Returns
    -------
    Path
        Of the report.
    """
    key = depth_key(score.classes)
    with folder(out / "maps" / name) as partial:
        key.write(partial / "legend.csv")
        pages = _sections(partial, sections, key, score, say, f"maps/{name}")
    with folder(out / "figures" / name) as partial:
        drawn = _figures(partial, patches(), key, score, field_mm)
    ordered = sorted(scores, key=lambda item: item.get("task") != score.task)
    return report.write(
        out,
        title=f"Layers on {data['name']}",
        recipe_toml=recipe_toml,
        environment=environment,
        metrics=metrics,
        scores=ordered,
        figures=[(title, caption, out / "figures" / name / file) for title, caption, file in drawn],
        maps=[(title, caption, out / "maps" / name / file) for title, caption, file in pages],
        earlier=outputs.earlier(out, name),
        data=data,
    )


def _sections(
    out: Path, sections: Iterable[Told], key: Key, score: Any, say: Say, home: str
) -> list[tuple[str, str, str]]:
    """Outlines and pictures of each section, and the contact sheet; titles, captions and files of the pictures."""
    shown: list[tuple[str, str, str]] = []
    small: list[tuple[str, NDArray[np.uint8], float]] = []
    count = 0
    for told in sections:
        count += 1
        stem = told.picture.id.replace("/", "_")
        image, said, true = _painted(told, key)
        atomic.write_text(out / f"{stem}.geojson", json.dumps(_polygons(told, key), allow_nan=False))
        say(f"{told.picture.id}: outlines from {told.patches:,} patches")
        if len(small) < _SMALL:
            step = max(1, max(image.shape[:2]) // 400)
            small.append((told.picture.id, filled(image, said, key, 0.6)[::step, ::step], told.pixel_um * step))
        if len(shown) < _PAINTED:
            page(out / f"{stem}.png", told, image, said, true, key)
            words = f"Layers as told from {told.patches:,} patches"
            words += ", beside those that are drawn." if true is not None else "; none are drawn here."
            shown.append((told.picture.id, words, f"{stem}.png"))
    save(contact(small, key, count), out / "contact.png", svg=False)
    caption = (
        f"Split: {score.split}. Each pixel is told by the patch whose middle is nearest; blank where none lies. "
        f"Outlines of all {count} sections are in {home}/*.geojson, in um of each section."
    )
    return [(f"{count} sections, as told", caption, "contact.png"), *shown]


def _painted(told: Told, key: Key) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint16] | None]:
    """The section's image (C, H, W), and values of the key on it."""
    image = told.picture.overview(told.pixel_um)
    high, wide = (min(a, b) for a, b in zip(image.shape[1:], told.predicted.shape, strict=True))
    true = None if told.truth is None else values(told.truth[:high, :wide], told.classes, key)
    return image[:, :high, :wide], values(told.predicted[:high, :wide], told.classes, key), true


def _polygons(told: Told, key: Key) -> dict[str, Any]:
    """GeoJSON of one section, with the names and colours that QuPath reads."""
    about = {"section": told.picture.id, "subject": told.picture.subject, "told": "predicted"}
    plane = np.where(
        np.isin(told.predicted, [k for k, n in enumerate(told.classes) if n in key.names]), told.predicted, UNTOLD
    )
    made = outlines(
        plane.astype(np.uint8), told.classes, pixel_um=told.pixel_um, least_mm2=_SPECK_MM2, properties=about
    )  # fmt: skip
    for feature in made["features"]:
        name = feature["properties"]["layer"]
        colour = [int(part) for part in rgb(key.mapping[name])]
        feature["properties"]["classification"] = {"name": name, "color": colour}
    unit = "um from the section's top left corner, x right, y down"
    return {**made, "properties": {**about, "unit": unit, "traced_at_um": told.pixel_um}}


def _figures(out: Path, patches: Sequence[Shown], key: Key, score: Any, field_mm: float) -> list[tuple[str, str, str]]:
    """Figures as (title, caption, file name)."""
    found: list[tuple[str, str, str]] = []

    def keep(figure: Figure, name: str, title: str, caption: str) -> None:
        save(figure, out / name)
        found.append((title, caption, name))

    size = score.size
    bars = {score.scored: (score.value, *score.interval)}
    bars |= {name: (rival.value, rival.low, rival.high) for name, rival in score.baselines.items()}
    keep(
        figures.baselines({"": bars}, metric=score.metric, n=size), "baselines.png", "Against every baseline",
        f"{score.metric} with 95 % intervals over {score.cluster}; {score.split}.",
    )  # fmt: skip
    keep(
        each(score, key), "layers.png", "Each layer, each border",
        "Left: overlap of told and drawn layer over all pixels. Right: how far a told border lies from the drawn one "
        "along the columns of upright patches; dashed: the mean of all borders. Bars: 95 % intervals.",
    )  # fmt: skip
    names = pd.Index(list(score.classes))
    counts = pd.DataFrame(np.array(score.confusion, np.int64), index=names, columns=names)
    keep(
        figures.confusion(counts, what="pixels"), "confusion.png", "What is taken for what",
        "Rows are the drawn layers, from the slide above the pia to white matter; columns what was told.",
    )  # fmt: skip
    if patches:
        keep(
            strip(patches, score.classes, key, field_mm), "patches.png", "Patches, from well to badly told",
            "Judged patches at percentiles of their own mean F1 over layers, so that neither the best nor the worst is "
            "picked by hand: the stain, what was told, what was drawn.",
        )  # fmt: skip
    return found
