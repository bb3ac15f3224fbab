"""All pictures, volumes and figures of one score, and the report that shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann.atomic import folder
from brodmann.features import space_of
from brodmann.maps import drawing, embedding, failures, figures, meshes, numbers, report, section, sheets, volume
from brodmann.maps.colours import colours
from brodmann.maps.labels import Key, Picture, codes, column, scaled, spacing_um, used
from brodmann.maps.raster import samples_of
from brodmann.progress import Say

_PAINTED = 8
"""Sections drawn large; the contact sheets and the label images hold all of them."""
_PAGE = 48
"""Sections on one sheet of a brain."""
_PIXELS = 1_200_000
"""Most pixels of a label image at its finest level, where samples lie denser than that shows."""
_AT_ONCE = 2
_EARLIER = 4
"""Maps drawn before that a report shows small; it names all of them."""


def write(
    out: Path,
    name: str,
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
    remarks: Sequence[str] = (),
    crop: Callable[[int], NDArray[np.uint8]],
    field_mm: float,
    neighbours: Mapping[str, Sequence[str]],
    among: str = "",
    surfaces: Sequence[meshes.Seen] = (),
    say: Say | None = None,
) -> Path:
    """Write ``maps/<name>/``, ``figures/<name>/`` and ``report.html`` under ``out``.

    Parameters
    ----------
    out : Path
        Usually the run folder.
    name : str
        Of the map: one folder name.
    table : AnnData
        With columns ``truth`` and ``predicted``, missing where a row was not held out or has no label.
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
    remarks : sequence of str
        What the source says of how it was read.
    crop : callable
        Row of the table to the patch's pixels.
    field_mm : float
        Side of a patch.
    neighbours : mapping
        Query ids to the ids of the places most like them.
    among : str
        Among which rows those were looked for, where it was not all.
    surfaces : sequence of meshes.Seen
        Onto which predictions are painted too; see `meshes.place`.
    say : Say, optional
        Where progress goes; nowhere by default.

    Returns
    -------
    Path
        The report.
    """
    say = say or Say(quiet=True)
    obs = cast("pd.DataFrame", table.obs)
    rows = np.flatnonzero(codes(column(table, "predicted")) >= 0)
    shown = set(used(column(table, "section")[rows]))
    held = [picture for picture in pictures if picture.id in shown]
    palette = dict(palette or colours([*score.classes]))
    key = Key.of([*used(column(table, "predicted")), *used(column(table, "truth"))], palette)
    with folder(out / "maps" / name) as partial:
        key.write(partial / "legend.csv")
        pages = _sections(partial, table, held, key, score, say, f"maps/{name}")
        _volume(partial, table, rows, key, score, say)
        meshes.write(partial, table, score, key, surfaces)
    ordered = sorted(scores, key=lambda item: [item.get(one) != getattr(score, one) for one in _WHOSE])
    with folder(out / "figures" / name) as partial:
        say(f"drawing the features of {len(obs):,} rows")
        drawn = _figures(partial, table, score, palette, crop, field_mm, neighbours, among, known=scaled(held[0]))
        title = _WORDS.get(score.task, _PREDICTED)[1].format(score.target)
        drawn += meshes.draw(partial, table, score, key, surfaces, title=title, home=f"maps/{name}")
        drawn += _logged(partial, metrics)
        numbers.save(numbers.scores(ordered), partial / "scores.csv")
    return report.write(
        out,
        title=f"{score.task}: {score.target} on {source_name}",
        recipe_toml=recipe_toml,
        environment=environment,
        metrics=metrics,
        scores=ordered,
        figures=[(title, caption, out / "figures" / name / file) for title, caption, file in drawn],
        maps=[(title, caption, out / "maps" / name / file) for title, caption, file in pages],
        earlier=earlier(out, name),
        data={
            "name": source_name,
            "brains": obs["subject"].nunique(),
            "sections": obs["section"].nunique(),
            "samples": len(obs),
            "space": space_of(table).name,
            "noun": score.what,
            "remarks": list(remarks),
            "by_brain": _by_brain(obs),
        },
        beside=f"figures/{name}",
    )


def _by_brain(obs: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Sections and samples of each brain."""
    counted = obs.groupby("subject", observed=True, sort=True)["section"].agg(["nunique", "size"])
    return {str(brain): (int(row["nunique"]), int(row["size"])) for brain, row in counted.iterrows()}


def _logged(out: Path, metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Learning curves as a figure of its own, and what was logged."""
    if not any("step" in record for record in metrics):
        return []
    drawing.save(figures.learning(metrics), out / "learning.png")
    numbers.save(numbers.learning(metrics), out / "learning.csv")
    return [
        ("Learning curves", "What was logged at each step; pale: every record, strong: running median.", "learning.png")
    ]


def earlier(out: Path, name: str) -> list[tuple[str, str, Path]]:
    """Title, caption and path of the contact sheets of other maps than ``name`` in this folder, newest first."""
    found = [path for path in (out / "maps").glob("*/contact.png") if path.parent.name != name]
    found.sort(key=lambda path: (-path.stat().st_mtime, path.parent.name))
    rest = ", ".join(f"maps/{path.parent.name}" for path in found[_EARLIER:])
    also = f" Not shown: {rest}." if rest else ""
    return [
        (path.parent.name.replace("-", ": ", 1), f"Drawn earlier; all of it in maps/{path.parent.name}.{also}", path)
        for path in found[:_EARLIER]
    ]


_WHOSE = ("task", "target", "probe")
"""What tells scores of a run apart."""
_PREDICTED = ("held-out sections", "Predicted {}", "the area predicted from features alone", "predicted", "truth")
_WORDS = {
    "domains": ("all sections", "Domains ({})", "the domain found by {}", "domains", "labels"),
    "novelty": ("all sections", "New borders inside {}", "parts of a region on either side", "parts", ""),
}
"""By task: which sections are drawn, title of the sheet, what colour means, title of a map and of its labels."""


def _sections(
    out: Path, table: AnnData, held: Sequence[Picture], key: Key, score: Any, say: Say, home: str
) -> list[tuple[str, str, str]]:
    """Contact sheet of sections with predictions, some of them one by one, and label images of each."""
    judged = len(score.truth) > 0
    which, title, what, pane, true = _WORDS.get(score.task, _PREDICTED)
    caption = (
        f"{score.split[:1].upper()}{score.split[1:]}. Colour: {what.format(score.probe)}, nearest sample within reach."
    )
    # at other places nothing is known to be right: every section is painted by a read-out of others
    others = not judged and which == _PREDICTED[0]
    title = f"{title.format(score.target)}, {'each section by a read-out of others' if others else which}"
    beside = "Predicted beside the truth; errors are outlined."
    if score.task == "domains":
        beside = "Domains, named by the labels they overlap most, beside the labels; differences are outlined."
    beside = beside if judged else "Nearest sample within reach."
    names, truth = column(table, "predicted"), column(table, "truth") if judged else None
    sheet = sheets.contact(table, names, held, key=key, title=title)
    drawing.save(sheet, out / "contact.png")
    drawn = sum(bool(axes.images) for axes in sheet.axes)
    if drawn < len(held):
        pages = _pages(out, table, names, held, key, title)
        caption += f" {drawn} of them are shown; all are on the {len(pages)} sheets {home}/contact-*.png."
    shown = [(f"{len(held)} {'sections' if others else which.removeprefix('all ')}", caption, "contact.png")]
    chosen = {held[k].id for k in np.linspace(0, len(held) - 1, min(_PAINTED, len(held))).round().astype(int)}
    finest = max(spacing_um(samples_of(table, names, held[0])[0]) / 4, _coarsest(held))

    def label(picture: Picture) -> None:
        path = out / f"{_plain(picture.id)}.ome.zarr"
        section.label_image(table, names, picture, out=path, pixel_um=finest, name="predicted", key=key)

    with say.progress("map", 0, len(held)) as progress, ThreadPoolExecutor(_AT_ONCE) as pool:
        # drawing stays in this thread: matplotlib's settings are global
        for picture, _ in zip(held, pool.map(label, held), strict=True):
            if picture.id in chosen:
                file = f"{_plain(picture.id)}.png"
                section.paint(
                    table, names, picture, out=out / file, truth=truth, key=key,
                    title=pane, truth_title=true,
                )  # fmt: skip
                shown.append((picture.id, beside, file))
            progress.advance(picture.id)
    return shown


def _coarsest(held: Sequence[Picture]) -> float:
    """Pixel size (um, two digits) at which the largest section has `_PIXELS` pixels."""
    pixel = float(np.sqrt(max(one.width_um * one.height_um for one in held) / _PIXELS))
    return float(f"{pixel:.2g}")


def _pages(
    out: Path, table: AnnData, names: pd.Categorical, held: Sequence[Picture], key: Key, title: str
) -> list[str]:
    """Sheets that hold every section, brain by brain; their file names."""
    pages: list[str] = []
    for brain in dict.fromkeys(picture.subject for picture in held):
        mine = [picture for picture in held if picture.subject == brain]
        for first in range(0, len(mine), _PAGE):
            number = f"-{first // _PAGE + 1}" if len(mine) > _PAGE else ""
            pages.append(f"contact-{_plain(brain)}{number}.png")
            sheet = sheets.contact(
                table,
                names,
                mine[first : first + _PAGE],
                key=key,
                title=f"{title.partition(',')[0]}, {brain}",
                limit=_PAGE,
            )
            drawing.save(sheet, out / pages[-1], svg=False)
    return pages


def _plain(name: str) -> str:
    return name.replace("/", "_")


def _volume(out: Path, table: AnnData, tested: NDArray[np.int64], key: Key, score: Any, say: Say) -> None:
    """Predictions as a label volume, one file per brain, where sections share a space."""
    space = space_of(table)
    if space.name == "unregistered":
        return
    brains = column(table, "subject")[tested]
    for number, brain in enumerate(brains.categories):
        rows = tested[codes(brains) == number]
        if not len(rows):
            continue
        say(f"volume of {brain}: {len(rows):,} samples")
        name = "".join(c if c.isalnum() else "_" for c in f"{score.target}_{brain}")
        span = np.ptp(np.asarray(cast("Any", table.obsm)["xyz"])[rows].astype(float), axis=0).max()
        voxel = float(np.clip(np.round(span / 120, 2), 0.05, 1.0))
        path = out / f"{name}.nii.gz"
        volume.volume(table, "predicted", space, voxel, reach_mm=voxel, rows=rows, key=key, out=path)


def _figures(
    out: Path,
    table: AnnData,
    score: Any,
    palette: Mapping[str, str],
    crop: Callable[[int], NDArray[np.uint8]],
    field_mm: float,
    neighbours: Mapping[str, Sequence[str]],
    among: str,
    *,
    known: bool,
) -> list[tuple[str, str, str]]:
    """Figures as (title, caption, file name)."""
    found: list[tuple[str, str, str]] = []

    def keep(figure: Any, name: str, title: str, caption: str) -> None:
        drawing.save(figure, out / name)
        found.append((title, caption, name))

    size = score.size
    bars = {score.scored: (score.value, *score.interval)}
    bars |= {name: (rival.value, rival.low, rival.high) for name, rival in score.baselines.items()}
    keep(
        figures.baselines({"": bars}, metric=score.metric, n=size),
        "baselines.png",
        "Against every baseline",
        score.metric
        + (f" with 95 % intervals over {score.cluster}; " if np.isfinite(score.interval).all() else "; ")
        + f"{score.split}.",
    )
    if len(score.truth):
        counts = figures.confusion_table(column(table, "truth"), column(table, "predicted"))
        numbers.save(counts.rename_axis(index="true", columns=None).reset_index(), out / "confusion.csv")
        keep(
            figures.confusion(counts),
            "confusion.png",
            "What is taken for what",
            "Rows are the labels, columns the domains by the label they overlap most."
            if score.task == "domains"
            else "Rows are the truth; classes that are confused lie beside each other.",
        )
        wrong = failures.mistaken(table)
        numbers.save(failures.listed(table, wrong), out / "failures.csv")
        if len(wrong):
            keep(
                failures.failures(table, wrong, crop, field_mm=field_mm if known else None),
                "failures.png",
                "Failure cases",
                "What the labels and the domains disagree on: the pairs that share most of a label."
                if score.task == "domains"
                else "The classes that lost most of their rows to another, and some of those rows.",
            )
    plane = embedding.plane(table)
    obs = cast("pd.DataFrame", table.obs).iloc[plane.rows]
    axes = {"first": plane.xy[:, 0], "second": plane.xy[:, 1]}
    numbers.save(pd.DataFrame({"id": obs["id"].to_numpy(), **axes}), out / "embedding.csv")
    target = (
        "predicted"
        if not len(score.truth)
        else "truth"
        if score.target not in cast("pd.DataFrame", table.obs)
        else score.target
    )
    keep(
        embedding.embedding(table, plane, labels=(target,), known=palette, titles=(score.target,)),
        "embedding.png",
        "The feature table in two dimensions",
        f"{plane.method}; coloured by {score.target}, by brain and by place. Distances between islands mean little.",
    )
    if neighbours:
        listed = [(query, rank, name) for query, near in neighbours.items() for rank, name in enumerate(near, start=1)]
        numbers.save(pd.DataFrame(listed, columns=pd.Index(["query", "rank", "id"])), out / "neighbours.csv")
        keep(
            sheets.strips(table, neighbours, crop, label=target, field_mm=field_mm if known else None),
            "neighbours.png",
            "Places that look like this one",
            f"Left the query; then its nearest in feature space{among}. The frame says whether the label agrees.",
        )
    return found
