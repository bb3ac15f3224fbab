"""All pictures, volumes and figures of one score, and the report that shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.atomic import folder
from brodmann.features import space_of
from brodmann.maps import drawing, embedding, figures, report, section, sheets, volume
from brodmann.maps.colours import colours
from brodmann.maps.labels import Picture, spacing_um

_PAINTED = 8
"""Sections drawn large; the contact sheet and the label images hold all of them."""


def write(
    out: Path,
    *,
    table: AnnData,
    score: Any,
    palette: Mapping[str, str] | None = None,
    scores: Sequence[Mapping[str, Any]],
    pictures: Sequence[Picture],
    recipe_toml: str,
    environment: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    source_name: str,
    crop: Callable[[str], NDArray[np.uint8]],
    field_mm: float,
    neighbours: Mapping[str, Sequence[str]],
) -> Path:
    """Write ``maps/``, ``figures/`` and ``report.html`` under ``out``.

    Parameters
    ----------
    out : Path
        Usually the run folder.
    table : AnnData
        With columns ``truth`` and ``predicted``, NaN where a row was not held out or has no label.
    score : Score
        Whose predictions are mapped; without truth (domains that no label names), errors are not drawn.
    palette : mapping, optional
        Colour of each class; by default made from their names.
    scores : sequence of mappings
        All scores of the run, as saved, for the report.
    pictures : sequence of Picture
        Sections of the source.
    recipe_toml, environment, metrics, source_name
        Of the run, for the report.
    crop : callable
        Id to the patch's pixels.
    field_mm : float
        Side of a patch.
    neighbours : mapping
        Query ids to the ids of the places most like them.

    Returns
    -------
    Path
        The report.
    """
    obs = cast("pd.DataFrame", table.obs)
    tested = obs["predicted"].notna()
    shown = set(obs.loc[tested, "section"].astype(str))
    held = [picture for picture in pictures if picture.id in shown]
    palette = dict(palette or colours([*score.classes]))
    with folder(out / "maps") as partial:
        pages = _sections(partial, table, held, palette, score)
        _volume(partial, table[tested.to_numpy()], score)
    with folder(out / "figures") as partial:
        drawn = _figures(partial, table, score, palette, crop, field_mm, neighbours)
    ordered = sorted(scores, key=lambda item: (item.get("task") != score.task, item.get("target") != score.target))
    return report.write(
        out,
        title=f"{score.task}: {score.target} on {source_name}",
        recipe_toml=recipe_toml,
        environment=environment,
        metrics=metrics,
        scores=ordered,
        figures=[(title, caption, out / "figures" / name) for title, caption, name in drawn],
        maps=[(title, caption, out / "maps" / name) for title, caption, name in pages],
        data={
            "name": source_name,
            "brains": obs["subject"].nunique(),
            "sections": obs["section"].nunique(),
            "samples": len(obs),
            "space": space_of(table).name,
            "noun": score.what,
        },
    )


def _sections(
    out: Path, table: AnnData, held: Sequence[Picture], palette: Mapping[str, str], score: Any
) -> list[tuple[str, str, str]]:
    """Contact sheet of all sections with predictions, some of them one by one, and label images of each."""
    obs = cast("pd.DataFrame", table.obs)
    spacing = spacing_um(obs[["x_um", "y_um"]].to_numpy(float)[(obs["section"].astype(str) == held[0].id).to_numpy()])
    judged = len(score.truth) > 0
    found = score.task == "domains"
    which = "all sections" if found else "held-out sections"
    what = f"domain found by {score.probe}" if found else "area predicted from features alone"
    caption = f"{score.split}. Colour: the {what}, nearest sample within reach."
    title = f"Domains ({score.target}), {which}" if found else f"Predicted {score.target}, {which}"
    beside = "Predicted beside the truth; errors are outlined."
    if found:
        beside = "Domains, named by the labels they overlap most, beside the labels; differences are outlined."
    sheet = sheets.contact(table, "predicted", held, colours=palette, title=title)
    drawing.save(sheet, out / "contact.png")
    pages = [(f"{len(held)} {which.removeprefix('all ')}", caption, "contact.png")]
    chosen = {held[k].id for k in np.linspace(0, len(held) - 1, min(_PAINTED, len(held))).round().astype(int)}
    for picture in held:
        name = picture.id.replace("/", "_")
        section.label_image(
            table, "predicted", picture, out=out / f"{name}.ome.zarr", pixel_um=spacing / 4, name="predicted"
        )
        if picture.id in chosen:
            section.paint(
                table,
                "predicted",
                picture,
                out=out / f"{name}.png",
                truth="truth" if judged else None,
                colours=palette,
                title="domains" if found else None,
                truth_title="labels" if found else "truth",
            )
            pages.append((picture.id, beside if judged else "Nearest sample within reach.", f"{name}.png"))
    return pages


def _volume(out: Path, tested: AnnData, score: Any) -> None:
    """Predictions as a label volume, one file per brain, where sections share a space."""
    space = space_of(tested)
    if space.name == "unregistered":
        return
    obs = cast("pd.DataFrame", tested.obs)
    for brain in sorted(set(obs["subject"].astype(str))):
        rows = (obs["subject"].astype(str) == brain).to_numpy()
        name = "".join(c if c.isalnum() else "_" for c in f"{score.target}_{brain}")
        span = np.ptp(np.asarray(cast("Any", tested.obsm)["xyz"], float)[rows], axis=0).max()
        voxel = float(np.clip(np.round(span / 120, 2), 0.05, 1.0))
        volume.volume(tested[rows], "predicted", space, voxel, reach_mm=voxel, out=out / f"{name}.nii.gz")


def _figures(
    out: Path,
    table: AnnData,
    score: Any,
    palette: Mapping[str, str],
    crop: Callable[[str], NDArray[np.uint8]],
    field_mm: float,
    neighbours: Mapping[str, Sequence[str]],
) -> list[tuple[str, str, str]]:
    """Figures as (title, caption, file name)."""
    found: list[tuple[str, str, str]] = []

    def keep(figure: Any, name: str, title: str, caption: str) -> None:
        drawing.save(figure, out / name)
        found.append((title, caption, name))

    size = f"{score.n:,} {score.what}, {score.n_groups} {score.cluster}"
    bars = {score.scored: (score.value, *score.interval)}
    bars |= {name: (rival.value, rival.low, rival.high) for name, rival in score.baselines.items()}
    keep(
        figures.baselines({"": bars}, metric=score.metric, n=size),
        "baselines.png",
        "Against every baseline",
        f"{score.metric} with 95 % intervals over {score.cluster}; {score.split}.",
    )
    if len(score.truth):
        keep(
            figures.confusion(figures.confusion_table(score.truth, score.predicted)),
            "confusion.png",
            "What is taken for what",
            "Rows are the labels, columns the domains by the label they overlap most."
            if score.task == "domains"
            else "Rows are the truth; classes that are confused lie beside each other.",
        )
    plane = embedding.plane(table)
    target = (
        "predicted"
        if not len(score.truth)
        else "truth"
        if score.target not in cast("pd.DataFrame", table.obs)
        else score.target
    )
    keep(
        embedding.embedding(table, plane, labels=(target, "subject"), known=palette),
        "embedding.png",
        "The feature table in two dimensions",
        f"{plane.method}; coloured by {score.target}, by brain and by place. Distances between islands mean little.",
    )
    if neighbours:
        keep(
            sheets.strips(table, neighbours, crop, label=target, field_mm=field_mm),
            "neighbours.png",
            "Places that look like this one",
            "Left the query; then its nearest in feature space. The frame says whether the label agrees.",
        )
    return found
