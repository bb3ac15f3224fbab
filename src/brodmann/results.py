"""The verbs that ask and show: score a feature table, map what it says, report the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import atlases, atomic, layering, levels, questions, verbs
from brodmann.errors import Refused, Usage
from brodmann.progress import Say
from brodmann.questions import Task, label
from brodmann.run import Run
from brodmann.samples import stream
from brodmann.systems import system
from brodmann.tasks import _novelty_score
from brodmann.tasks import areas as areas_task
from brodmann.tasks import deviation as deviation_task
from brodmann.tasks import domains as domains_task
from brodmann.tasks import networks as networks_task
from brodmann.tasks import novelty as novelty_task
from brodmann.tasks import properties as properties_task
from brodmann.tasks import search as search_task
from brodmann.tasks import shortcuts as shortcuts_task
from brodmann.tasks._score import PROBES, Score, file_name


def score(
    task: Task,
    run: Run | str | Path | ad.AnnData,
    target: str | None = None,
    *,
    by: Literal["brain", "section", "block"] | None = None,
    fold: int | None = None,
    buffer_mm: float = 0.0,
    probe: Literal["linear", "knn", "head"] | None = None,
    against: Sequence[Run | str | Path] = (),
    atlas: str | Path | None = None,
    fewer_labels: Sequence[int] = (),
    k: Sequence[int] = (),
) -> Score:
    """Ask a question of a feature table; every baseline goes through the same folds and the same read-out.

    Parameters
    ----------
    task : {"areas", "deviation", "domains", "layers", "networks", "novelty", "properties", "shortcuts", "search", ...}
        ``areas``: can areas be read out of tissue never seen? ``networks``: can functional networks, beyond what place
        alone tells? (``by="section"`` holds out hemispheres where these are the sections, as in tables of surfaces.)
        ``domains``: which regions form, and do they agree with
        the target? (Of the features; below 20,000 rows of their surroundings, by a consensus without the network: the
        score's ``scored`` says which.) ``novelty``: are there borders inside the regions of the target that it does not
        draw? ``search``: do similar features mean the same place? ``properties``: can a number be read out of rows
        never seen? ``deviation``: by how much is it missed, in its own unit? (Beside other methods' measurements of
        the same rows in Python: `brodmann.tasks.deviation`.) ``shortcuts``: do features tell vessels, folds, section or
        brain, which they should not? ``layers``: is the layer of every pixel told, by a run that learned them? It asks
        the model and needs no table.

        Of neurons: ``responses``: are responses to clips predicted that were never trained on? ``tuning``: does the
        model prefer the orientations that the neurons prefer, when it is shown gratings? ``wiring``: are neurons with
        similar features connected beyond what their distance says? The first two ask the model, which learns the
        recordings that it does not know first, and need no table.
    run : Run, path or AnnData
        A run with a feature table (the score is kept in its ``scores/``), or a table.
    target : str, optional
        For ``areas``: a label column (by default ``area``), for ``networks`` (``network``) and for ``novelty``; or
        an atlas in whose space the table is, see `brodmann.atlases`: ``ccf`` (or ``ccf-divisions``, ``-layers``,
        ``-structures``), ``brainglobe:NAME``, ``julich``. For ``properties`` and ``deviation``: a numeric column. For
        ``shortcuts``: one of them (``vessel``, ``fold``, ``section``, ``brain``) or a numeric column, instead of all
        that the table tells. For ``tuning``: the column with what is known, in degrees (by default
        ``orientation_deg``, of the bars, where there is one).
    by : {"brain", "section", "block"}, optional
        Unit that is held out whole; by default that of the recipe.
    fold : int, optional
        The fold to test on; by default the one the encoder never saw, when ``by`` is the recipe's own.
    buffer_mm : float
        Training rows nearer than this to a test row are dropped.
    probe : {"linear", "knn", "head"}, optional
        For ``areas``: read-out of the features, by default linear; or the head of a model that was tuned on the target.
    against : sequence of runs
        Rivals embedded from the same samples; for ``layers`` other runs that learned them.
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
        For a setting that the question does not use, a target that is neither a column nor an atlas, or a run whose
        system or data do not serve the question.
    """
    questions.admit(
        task, target=target, by=by, fold=fold, buffer_mm=buffer_mm or None, probe=probe, against=against or None,
        atlas=atlas, fewer_labels=fewer_labels or None, k=k or None,
    )  # fmt: skip
    if isinstance(run, str | Path):
        run = verbs.load(run)
    if isinstance(run, Run):
        atomic.admits(run.path / "scores", "the score")
    formed: tuple[domains_task.Domains, ad.AnnData] | None = None
    if task == "responses":
        found = questions.responses(cast("Run", run), say=Say())
    elif task == "layers":
        found = layering.score(cast("Run", run), against, say=Say())
    elif task == "tuning":
        found = questions.tuning(cast("Run", run), target, say=Say())
    else:
        table = verbs.table(run) if isinstance(run, Run) else run
        if target is None and task in {"deviation", "novelty", "properties"}:
            questions.needed(task, table)
        target = target or {"areas": "area", "networks": "network"}.get(task)
        if target is not None and task not in {"deviation", "properties", "shortcuts"}:
            label(table, target, atlas=atlas)
        rivals = questions.rivals(against)
        if task == "domains":
            formed = domains_task.domains(table, list(k) or None, target=target, say=Say()), table
            found = formed[0].score
        elif task == "novelty":
            measured, names = _measured(run, table)
            new = novelty_task.novelty(table, str(target), expression=measured, names=names, say=Say())
            found = _novelty_score.score(table, str(target), new)
        elif task == "networks":
            split = questions.split(table, by, fold, buffer_mm)
            found = networks_task.networks(table, str(target), split, extra_tables=rivals)
        elif task == "wiring":
            found = questions.wiring(run, table, rivals)
        elif task == "search":
            found = search_task.retrieval(table, questions.split(table, by, fold, buffer_mm), extra_tables=rivals)
        elif task == "shortcuts":
            split = questions.split(table, by, fold, buffer_mm)
            found = shortcuts_task.shortcuts(table, split, target=target, extra_tables=rivals)
        elif task == "properties":
            split = questions.split(table, by, fold, buffer_mm)
            found = properties_task.properties(table, str(target), split, extra_tables=rivals)
        elif task == "deviation":
            found = deviation_task.deviation(table, str(target), questions.split(table, by, fold, buffer_mm))
        else:
            split = questions.split(table, by, fold, buffer_mm)
            found = areas_task.areas(
                table, str(target), split, probe=probe or "linear", extra_tables=rivals, fewer_labels=fewer_labels
            )
    if isinstance(run, Run):
        with run.lock():
            run.forget(f"scores/{found.name}.json")
            found.save(run.path)
            if formed is not None:
                levels.write(run, *formed)
            run.seal()
    return found


def _measured(run: Any, table: ad.AnnData) -> tuple[Callable[[NDArray[np.int64]], NDArray[Any]] | None, Sequence[str]]:
    """Genes of the rows of a table, where its run still has their data; else their types, or nothing."""
    if isinstance(run, Run) and run.system != "patches":
        recipe, source = questions.opened(run, table)
        samples = system(run.system).samples(source, recipe, part="all")
        if len(genes := getattr(samples, "genes", ())):
            return samples.dense, genes
    obs = cast("pd.DataFrame", table.obs)
    if "type" not in obs:
        return None, ()
    codes, names = pd.factorize(obs["type"].astype("object"), sort=True)
    return lambda rows: codes[rows][:, None] == np.arange(len(names)), [str(name) for name in names]


def map(
    run: Run | str | Path, target: str = "area", *, out: str | Path | None = None, surface: Sequence[str | Path] = (),
    within_mm: float | None = None, quiet: bool = False,
) -> Path:  # fmt: skip
    """Paint a score's predictions back onto sections, into a volume and onto surfaces; draw figures; write the report.

    Parameters
    ----------
    run : Run or path
        With ``scores/areas-<target>.json``.
    target : str
        The target that was scored (of several read-outs the newest; ``area-head`` is that of the head); ``domains``,
        or ``domain_<k>`` for one of their levels; ``novelty``, which is ``novelty-<target>`` where several were; or
        ``layers`` of a run that learned them: outlines as GeoJSON, too.
    out : path, optional
        Folder for ``maps/<task>-<target>/``, ``figures/<task>-<target>/`` and ``report.html``, which shows this map
        first and earlier ones after it; by default the run folder.
    surface : sequence of path
        Meshes that it is painted onto too: GIFTI files, or folders with ``*.surf.gii``, in RAS mm about the origin of
        the table's space. A mesh shows the brain that its name or folder begins with (``B1.mid.surf.gii``), else each.
    within_mm : float, optional
        How far from a vertex the sample may lie that it shows; by default 0.75 of how far samples lie apart.
    quiet : bool
        Say nothing.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    Refused
        No such score, a score of numbers, a file that is no mesh, or no sample near any vertex.
    Usage
        A reach without a surface.
    """
    from brodmann.maps import meshes, outputs

    if within_mm is not None and not surface:
        raise Usage("within_mm says how far a surface may lie from what it shows.", found="no surface.",
                    do="give one with --surface.")  # fmt: skip
    given, say = meshes.read(surface), Say(quiet=quiet)
    run = verbs.load(run) if not isinstance(run, Run) else run
    home = Path(out).absolute() if out else run.path
    atomic.admits(home, "the map")
    if target == "layers" and layering.learned(run):
        return layering.draw(run, home, [_plain(file) for file in _saved(run)], say=Say(quiet=quiet))
    found, palette = _scored(run, target)
    if not len(found.predicted):
        raise Refused(f"a map of '{target}' needs rows with a label.", found=f"nothing to paint: {found}")
    table = verbs.table(run)
    label_from(table, found)
    # what cannot be seen on a mesh is said before anything is drawn, or taken off the manifest
    seen = meshes.place(table, given, within_mm, say=say)
    near, among = _neighbours(table, found)
    recipe, source = questions.opened(run, table)
    module = system(run.system)
    field_mm, crop = module.window(source, recipe)
    places = cast("pd.DataFrame", table.obs)
    name = found.name
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
            scores=[_plain(file) for file in _saved(run)],
            pictures=module.pictures(source),
            recipe_toml=(run.path / "recipe.toml").read_text(),
            environment=json.loads((run.path / "environment.json").read_text())[-1],
            metrics=run.metrics(),
            source_name=source.name,
            remarks=getattr(source, "remarks", ()),
            crop=lambda row: crop(places.iloc[row]),
            field_mm=field_mm,
            neighbours=near,
            among=among,
            surfaces=seen,
            say=say,
        )
        if out is None:
            run.seal()
    return report


def _saved(run: Run) -> list[Path]:
    return sorted((run.path / "scores").glob("*.json"))


def _plain(score: Path) -> dict[str, Any]:
    """A saved score without its rows."""
    values = cast("dict[str, Any]", json.loads(score.read_text()))
    return {name: value for name, value in values.items() if name not in {"ids", "predicted", "truth"}}


_NUMBERS = ("deviation", "properties", "responses", "shortcuts", "tuning")
"""Questions whose answer is no class of every row; maps paint classes."""


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
    for task in ("areas", "domains", "networks", "novelty"):
        files = [run.path / "scores" / f"{file_name(task, target, probe)}.json" for probe in ("", *PROBES)]
        if there := [path for path in files if path.is_file()]:
            return Score.load(max(there, key=lambda path: path.stat().st_mtime)), None
    own = {file.stem: file for file in _saved(run) if file.stem.partition("-")[0] not in _NUMBERS}
    if stem := next((name for name in (target, f"areas-{target}") if name in own), None):
        return Score.load(own[stem]), None
    named = [file for name, file in own.items() if name.startswith("novelty-")]
    if target == "novelty" and len(named) == 1:
        return Score.load(named[0]), None
    if target == "novelty":
        raise Refused(
            "a map of new borders needs one search for them.", found=f"{len(named)} in scores/.",
            do=f"name one: {', '.join(file.stem for file in named)}." if named
            else f"run `brodmann score {run.path} novelty --target COLUMN` first.",
        )  # fmt: skip
    scored = [Score.load(file) for file in _saved(run)]
    painted = [f"'{one.target}'" for one in scored if len(one.predicted) and one.task not in _NUMBERS]
    shown = list(dict.fromkeys(painted))
    if any(one.task in _NUMBERS and target in {one.task, one.target} for one in scored):
        raise Refused(
            "a map paints classes.", found=f"'{target}' is a number for every row.",
            do=f"map one of {', '.join(shown)}." if shown else "score areas or domains, and map these.",
        )  # fmt: skip
    if asked := [f"'{one.target}'" for one in scored if one.task == target and one.target != target]:
        raise Refused(
            "a map is named by what was scored.", found=f"the question, '{target}'.", do=f"map {', '.join(asked)}.",
        )  # fmt: skip
    known = atlases.targets(verbs.table(run)) if run.has("features.zarr") else []
    if target not in known and not atlases.named(target) and target not in get_args(Task):
        raise Refused(
            f"a map should show something that was scored, not '{target}'.",
            found=f"scores of {', '.join(shown)}." if shown else "no score.",
            do=f"map one of these, or score one of {', '.join(known)} first." if known else "score a target first.",
        )
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
