"""The verbs that ask and show: score a feature table, map what it says, report the run."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import atomic, features, levels, verbs
from brodmann.errors import Refused, Usage
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.samples import stream
from brodmann.settings import Split
from brodmann.systems import system
from brodmann.tasks import _novelty_score
from brodmann.tasks import areas as areas_task
from brodmann.tasks import domains as domains_task
from brodmann.tasks import novelty as novelty_task
from brodmann.tasks import search as search_task
from brodmann.tasks._score import Score, file_name

Task = Literal["areas", "domains", "novelty", "search"]
_ATLAS_LEVELS = {"ccf": "areas", "ccf-divisions": "divisions", "ccf-layers": "layers"}


def score(
    task: Task,
    run: Run | str | Path | ad.AnnData,
    target: str | None = None,
    *,
    by: Literal["brain", "section", "block"] | None = None,
    fold: int | None = None,
    buffer_mm: float = 0.0,
    probe: Literal["linear", "knn"] | None = None,
    against: Sequence[Run | str | Path] = (),
    atlas: str | Path | None = None,
    fewer_labels: Sequence[int] = (),
    k: Sequence[int] = (),
) -> Score:
    """Ask a question of a feature table; every baseline goes through the same folds and the same read-out.

    Parameters
    ----------
    task : {"areas", "domains", "novelty", "search"}
        ``areas``: can areas be read out of tissue never seen? ``domains``: which regions form, and do they agree with
        the target? (Of the features; below 20,000 rows of their surroundings, by a consensus without the network: the
        score's ``scored`` says which.) ``novelty``: are there borders inside the regions of the target that it does not
        draw? ``search``: do similar features mean the same place?
    run : Run, path or AnnData
        A run with a feature table (the score is kept in its ``scores/``), or a table.
    target : str, optional
        For ``areas``: a label column (by default ``area``), and for ``novelty``; or ``ccf``, ``ccf-divisions``,
        ``ccf-layers`` for tables in CCFv3.
    by : {"brain", "section", "block"}, optional
        Unit that is held out whole; by default that of the recipe.
    fold : int, optional
        The fold to test on; by default the one the encoder never saw, when ``by`` is the recipe's own.
    buffer_mm : float
        Training rows nearer than this to a test row are dropped.
    probe : {"linear", "knn"}, optional
        For ``areas``: read-out of the features; by default linear.
    against : sequence of runs
        Rivals embedded from the same samples.
    atlas : path, optional
        Folder of the atlas annotation, where the target is one; by default where ``BRODMANN_DATA`` points.
    fewer_labels : sequence of int
        For ``areas``: also score with so many training labels.
    k : sequence of int
        For ``domains``: their number, one a level (nested); by default that of the target's classes, else those that
        are stable. The levels are kept in ``domains.zarr`` of the run.

    Returns
    -------
    Score

    Raises
    ------
    Usage
        For a setting that the question does not use, or a target that is neither a column nor an atlas.
    """
    read_out = {"probe": probe, "fewer_labels": fewer_labels or None}
    held_out = {"by": by, "fold": fold, "buffer_mm": buffer_mm or None, "against": against or None}
    idle: dict[Task, dict[str, Any]] = {
        "areas": {"k": k or None},
        "domains": {**held_out, **read_out},
        "novelty": {**held_out, **read_out, "k": k or None},
        "search": {"target": target, "atlas": atlas, **read_out, "k": k or None},
    }
    _unused(task, **idle[task])
    if isinstance(run, str | Path):
        run = verbs.load(run)
    if isinstance(run, Run):
        atomic.admits(run.path / "scores", "the score")
    table = verbs.table(run) if isinstance(run, Run) else run
    if task == "novelty" and target is None:
        raise Usage(
            "novelty looks inside regions that are known.", found="no target.",
            do=f"name their column with --target; here there are {', '.join(verbs.targets(table))}.",
        )  # fmt: skip
    if task == "areas":
        target = target or "area"
    if target is not None:
        label(table, target, atlas=atlas)
    formed: domains_task.Domains | None = None
    if task == "domains":
        formed = domains_task.domains(table, list(k) or None, target=target, say=Say())
        found = formed.score
    elif task == "novelty":
        measured, names = _measured(run, table)
        new = novelty_task.novelty(table, str(target), expression=measured, names=names, say=Say())
        found = _novelty_score.score(table, str(target), new)
    else:
        split = _split(table, by, fold, buffer_mm)
        rivals = {_name(rival): verbs.table(rival) for rival in against}
        if len(rivals) < len(against):
            raise Usage(
                "runs to compare with should have folders of different names.",
                found=", ".join(_name(rival) for rival in against),
            )
        if task == "search":
            found = search_task.retrieval(table, split, extra_tables=rivals)
        else:
            found = areas_task.areas(
                table, str(target), split, probe=probe or "linear", extra_tables=rivals, fewer_labels=fewer_labels
            )
    if isinstance(run, Run):
        with run.lock():
            run.forget(f"scores/{file_name(found.task, found.target)}")
            found.save(run.path)
            if formed is not None:
                levels.write(run, formed, table)
            run.seal()
    return found


_QUESTIONS = {
    "areas": "areas are read out of held-out tissue: their number is that of the labels.",
    "domains": "domains are found without labels, in all tissue: nothing is held out or read out.",
    "novelty": "novelty looks for borders inside known regions: nothing is held out or read out.",
    "search": "search compares features and places: it takes no labels and no read-out.",
}


def _unused(task: Task, **given: Any) -> None:
    """Refuse what the question would not use: an answer must not look as if it had been measured with it."""
    if idle := [name for name, value in given.items() if value is not None]:
        raise Usage(
            _QUESTIONS[task],
            found=f"{', '.join(idle)}.",
            cause="settings of another question.",
            do=f"leave {'it' if len(idle) == 1 else 'them'} out, or ask another question.",
        )


def _opened(run: Run, table: ad.AnnData) -> tuple[Any, Any]:
    """Recipe of a run, and the data that its table describes."""
    recipe, _ = verbs.trained(run)
    about = cast("Mapping[str, Any]", table.uns["brodmann"])
    return recipe, verbs.open_source(recipe, str(about.get("data") or "") or verbs.data_of(run))


def _measured(run: Any, table: ad.AnnData) -> tuple[Callable[[NDArray[np.int64]], NDArray[Any]] | None, Sequence[str]]:
    """Genes of the rows of a table, where its run still has their data; else their types, or nothing."""
    if isinstance(run, Run):
        recipe, source = _opened(run, table)
        samples = system(run.system).samples(source, recipe, part="all")
        if len(genes := getattr(samples, "genes", ())):
            return samples.dense, genes
    obs = cast("pd.DataFrame", table.obs)
    if "type" not in obs:
        return None, ()
    codes, names = pd.factorize(obs["type"].astype("object"), sort=True)
    return lambda rows: codes[rows][:, None] == np.arange(len(names)), [str(name) for name in names]


def _name(rival: Run | str | Path) -> str:
    return (rival.path if isinstance(rival, Run) else Path(rival)).name


def _split(table: ad.AnnData, by: Any, fold: int | None, buffer_mm: float) -> Split:
    """The asked split; on the recipe's own unit, the fold that the encoder never saw."""
    about = cast("Mapping[str, Any]", table.uns["brodmann"])
    own = cast("dict[str, Any]", about["split"])
    chosen = str(own["by"]) if by is None else by
    same = chosen == str(own["by"])
    unseen = int(about["encoder_fold"])
    if fold is None and same and unseen >= 0 and about.get("same_data", True):
        fold = unseen
    return Split(by=cast("Any", chosen), folds=int(own["folds"]) if same else 5, fold=fold, buffer_mm=buffer_mm)


def label(table: ad.AnnData, target: str, *, atlas: str | Path | None = None) -> None:
    """Add an atlas's labels as a column ``target``, if that is what the target names.

    Raises
    ------
    SpaceMismatch
        If the table is not in the atlas's space.
    Usage
        If the target is neither a column nor an atlas, or the atlas's folder is not known.
    """
    obs = cast("pd.DataFrame", table.obs)
    if atlas is not None and target not in _ATLAS_LEVELS:
        raise Usage(
            "an atlas serves the targets that name one.",
            found=f"'{target}' is a column of the table." if target in obs else f"'{target}'.",
            do=f"leave it out, or choose one of {', '.join(_ATLAS_LEVELS)}.",
        )
    if target in obs:
        return
    if target not in _ATLAS_LEVELS:
        near = difflib.get_close_matches(target, [*verbs.targets(table), *_ATLAS_LEVELS], n=1)
        raise Usage(
            f"'{target}' should be a label column or an atlas.",
            found=f"columns {', '.join(verbs.targets(table)) or 'none'}; atlases {', '.join(_ATLAS_LEVELS)}.",
            do=f"did you mean '{near[0]}'?" if near else "name one with --target; without it 'area' is asked for.",
        )
    from brodmann.datasets import ccf
    from brodmann.space import CCF_V3

    CCF_V3.require(features.space_of(table))
    root = os.environ.get("BRODMANN_DATA")
    folder = Path(atlas) if atlas else Path(root) / "sections" / "mouse_glt1" if root else None
    if folder is None:
        raise Usage(
            f"target '{target}' needs the CCFv3 annotation.",
            found="no folder for it.",
            do="pass --atlas FOLDER, or set BRODMANN_DATA.",
        )
    xyz = np.asarray(cast("Any", table.obsm)["xyz"], np.float64)
    obs[target] = pd.Categorical(ccf.areas(xyz, level=cast("Any", _ATLAS_LEVELS[target]), folder=folder))


def map(run: Run | str | Path, target: str = "area", *, out: str | Path | None = None, quiet: bool = False) -> Path:
    """Paint a score's predictions back onto sections and into a volume; draw the figures; write the report.

    Parameters
    ----------
    run : Run or path
        With ``scores/areas-<target>.json``.
    target : str
        The target that was scored; ``domains``, or ``domain_<k>`` for one of their levels; or ``novelty``, which is
        ``novelty-<target>`` where several were.
    out : path, optional
        Folder for ``maps/<task>-<target>/``, ``figures/<task>-<target>/`` and ``report.html``, which shows this map
        first and earlier ones after it; by default the run folder.
    quiet : bool
        Say nothing.

    Returns
    -------
    Path
        Of the report.
    """
    from brodmann.maps import labels, outputs

    run = verbs.load(run) if not isinstance(run, Run) else run
    home = Path(out).absolute() if out else run.path
    atomic.admits(home, "the map")
    found, palette = _scored(run, target)
    if not len(found.predicted):
        raise Refused(f"a map of '{target}' needs rows with a label.", found=f"nothing to paint: {found}")
    table = verbs.table(run)
    label_from(table, found)
    near, among = _neighbours(table, found)
    recipe, source = _opened(run, table)
    module = system(run.system)
    field_mm, crop = module.window(source, recipe)
    places = cast("pd.DataFrame", table.obs)
    at = labels.rows_of(table, [*near, *(name for names in near.values() for name in names)])
    name = file_name(found.task, found.target).removesuffix(".json")
    with run.lock():
        if out is None:
            for written in (f"maps/{name}", f"figures/{name}", "report.html"):
                run.forget(written)
        report = outputs.write(
            home,
            name,
            table=table,
            score=found,
            palette=palette,
            scores=[_plain(file) for file in sorted((run.path / "scores").glob("*.json"))],
            pictures=module.pictures(source),
            recipe_toml=(run.path / "recipe.toml").read_text(),
            environment=json.loads((run.path / "environment.json").read_text())[-1],
            metrics=run.metrics(),
            source_name=source.name,
            remarks=getattr(source, "remarks", ()),
            crop=lambda place: crop(places.iloc[at[place]]),
            field_mm=field_mm,
            neighbours=near,
            among=among,
            say=Say(quiet=quiet),
        )
        if out is None:
            run.seal()
    return report


def _plain(score: Path) -> dict[str, Any]:
    """A saved score without its rows."""
    values = cast("dict[str, Any]", json.loads(score.read_text()))
    return {name: value for name, value in values.items() if name not in {"ids", "predicted", "truth"}}


def _scored(run: Run, target: str) -> tuple[Score, dict[str, str] | None]:
    """The score whose predictions a map shows, and the colours of its classes where they are fixed."""
    if target == "domains" or target.startswith("domain_"):
        column, palette = levels.read(run, target)
        files = sorted((run.path / "scores").glob("domains-*.json"), key=lambda file: file.stat().st_mtime)
        found = Score.load(files[-1])
        column.index.name = "id"
        return replace(
            found, target=str(column.name), classes=tuple(palette), predicted=column, truth=column[:0]
        ), palette
    for task in ("areas", "domains", "novelty"):
        path = run.path / "scores" / file_name(task, target)
        if path.is_file():
            return Score.load(path), None
    new = sorted((run.path / "scores").glob("novelty-*.json"))
    named = [file for file in new if target in {"novelty", file.stem}]
    if len(named) == 1:
        return Score.load(named[0]), None
    if target == "novelty":
        raise Refused(
            "a map of new borders needs one search for them.", found=f"{len(named)} in scores/.",
            do=f"name one: {', '.join(file.stem for file in named)}." if named
            else f"run `brodmann score {run.path} novelty --target COLUMN` first.",
        )  # fmt: skip
    scored = [Score.load(file) for file in sorted((run.path / "scores").glob("*.json"))]
    shown = [f"'{one.target}'" for one in scored if len(one.predicted)]
    raise Refused(
        f"a map of '{target}' needs its score.",
        found=f"scores of {', '.join(shown)}." if shown else "none.",
        do=f"run `brodmann score {run.path} areas --target {target}` first{', or map one of these' if shown else ''}.",
    )


def label_from(table: ad.AnnData, found: Score) -> None:
    """Put a score's truth and predictions into the table, as categories ``truth`` and ``predicted``; else missing."""
    from brodmann.maps import labels

    obs = cast("pd.DataFrame", table.obs)
    for name, values in (("truth", found.truth), ("predicted", found.predicted)):
        missing = pd.Categorical.from_codes(np.full(len(obs), -1, np.int8), categories=[])
        obs[name] = labels.aligned(table, values) if len(values) else missing


_LOOKED = 200_000
"""Rows among which places that look alike are searched: exact search of ten million takes longer than all the rest."""


def _neighbours(table: ad.AnnData, found: Score, *, queries: int = 5, k: int = 6) -> tuple[dict[str, list[str]], str]:
    """Nearest places of a few held-out rows of different areas, from other brains (or sections, if there is one).

    Also where they were looked for, in words, if not among all rows.
    """
    if not len(found.truth):
        return {}, ""
    from brodmann.maps import labels

    truth = pd.Categorical(found.truth)
    areas = [number for number, name in enumerate(truth.categories) if name in found.classes]
    areas = [number for number in areas if (truth.codes == number).any()]
    picked = [np.flatnonzero(truth.codes == number) for number in areas[:: max(1, len(areas) // queries)][:queries]]
    ids = [str(found.truth.index[rows[len(rows) // 2]]) for rows in picked]
    obs, among = cast("pd.DataFrame", table.obs), ""
    across = obs["subject"].nunique() > 1
    if len(obs) > _LOOKED:
        drawn = stream(0, "look alike", len(obs)).choice(len(obs), _LOOKED, replace=False)
        rows = np.union1d(drawn, [*labels.rows_of(table, ids).values()])
        among = f", looked for among {len(rows):,} of {len(obs):,} rows"
        table = ad.AnnData(X=np.asarray(cast("Any", table.X)[rows]), obs=obs.iloc[rows], uns=table.uns)
    near = search_task.search(table, ids, k=k, across=across, exclude_mm=0.5)
    return {query: [str(name) for name in row if name] for query, row in zip(ids, near.ids, strict=True)}, among
