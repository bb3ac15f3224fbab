"""A trained model at other places than it was trained on: a run of its own, so that the first table stays.

A derived run is a run folder like any other: it has the weights, its own recipe (the same but for where samples lie)
and its own feature table, so that `score`, `map` and `search` work on it as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd

from brodmann import atomic, compute, origin, questions, results, verbs
from brodmann import settings as recipes
from brodmann.errors import Changed, Usage
from brodmann.progress import Say
from brodmann.questions import Task
from brodmann.run import Run
from brodmann.systems import system
from brodmann.tasks import elsewhere
from brodmann.tasks._score import Score


def embed(
    run: Run | str | Path,
    out: str | Path,
    *,
    changes: Mapping[str, Any] | None = None,
    data: Any = None,
    controls: bool = True,
    quiet: bool = False,
) -> Run:
    """Describe other places by a trained run, into a run folder of its own; the same call again resumes.

    Parameters
    ----------
    run : Run or path
        A trained run; nothing of it is changed.
    out : str or path
        Folder of the derived run.
    changes : mapping, optional
        Settings that say where samples lie, e.g. ``{"samples.spacing_mm": 0.1, "samples.where": "grid"}``.
    data : optional
        Defaults to what the run was trained on.
    controls : bool
        Also describe every sample with the controls, see `brodmann.embed`.
    quiet : bool
        Say nothing.

    Returns
    -------
    Run
        With a feature table; ``skipped`` lists sections that were left out, and why.

    Raises
    ------
    Usage
        For a setting that is about more than where samples lie, or nothing that differs.
    Changed
        If the folder holds a run of other weights or settings.
    """
    parent = verbs.load(run) if not isinstance(run, Run) else run
    with compute.team():
        made = verbs.in_turn(lambda: derive(parent, out, changes=changes, data=data, quiet=quiet))
        verbs.tabulate(made, data, controls=controls, quiet=quiet)
    return made


def derive(
    run: Run, out: str | Path, *, changes: Mapping[str, Any] | None = None, data: Any = None, quiet: bool = False
) -> Run:
    """Make the folder of a derived run, without its table; parameters as of `embed`."""
    module, changes = system(run.system), dict(changes or {})
    placing: tuple[str, ...] = getattr(module, "PLACING", ())
    if wrong := [key for key in changes if key not in placing]:
        raise Usage(
            "a trained model may be asked about other places, and about nothing else that it was not trained for.",
            found=f"{', '.join(wrong)}.",
            do=f"change {', '.join(placing)}, or train with other settings."
            if placing
            else f"leave them out: places of {run.system} are those of the data.",
        )
    own = recipes.build(module.Recipe, run.recipe_values, where=f"{run.path.name}/recipe.toml")
    recipe = recipes.build(module.Recipe, recipes.override(run.recipe_values, changes), where="--set")
    path, say = Path(out).absolute(), Say(quiet=quiet or not compute.lead())
    if path == run.path:
        raise Usage("a table at other places needs a folder of its own.", found=f"{path}, the run itself.")
    if recipe == own and data is None:
        raise Usage(
            "a derived run should differ from the first in where its samples lie, or in its data.",
            found="the same settings and the same data.",
            do=f"name settings to change ({', '.join(placing)}), or run `brodmann embed {run.path}`.",
        )
    atomic.admits(path, "the derived run")
    state, config = run.weights()
    about = {"system": run.system, "data_fingerprint": run.data_fingerprint}
    made = Run.open(
        path, recipe=recipe, **about, start=None, data=verbs.remembered(data) if data is not None else run.data, say=say
    )
    noted = origin.read(made)
    if noted is not None and noted["weights"] != origin.weights_of(run):
        raise Changed(
            f"{path} should hold the weights of {run.path}.",
            found=f"those of {noted['run']}, as they were then.",
            cause="the first run was trained anew, or is another one.",
            do="use another folder.",
        )
    lines = recipes.diff(recipes.plain(own), recipes.plain(recipe))
    if astray(lines):
        say(f"warning: {_ASTRAY}")
    if lines:
        say(f"described at other places than trained on: {'; '.join(lines)}")
    if noted is None or not made.has("weights"):
        with made.lock():
            origin.note(made, run, lines, _held_out(run, own, module, quiet=quiet))
            made.save_weights(state, config, (run.path / "weights" / "card.md").read_text(encoding="utf-8"))
            # only now: later the folder may hold shards that go again
            made.seal()
    return made


def _held_out(run: Run, recipe: Any, module: Any, *, quiet: bool) -> list[str]:
    """Units that the weights were kept from, as they were when the run was trained."""
    if recipe.split.fold is None:
        return []
    if run.has("features.zarr"):
        table = verbs.table(run)
        if table.uns["brodmann"]["same_data"]:
            return origin.held_out(cast("pd.DataFrame", table.obs), recipe.split)
    Say(quiet=quiet)("looking up which tissue the weights were kept from")
    samples = module.samples(verbs.open_source(recipe, verbs.data_of(run)), recipe, part="all")
    return origin.held_out(samples.places, recipe.split)


_ASTRAY = (
    "samples lie where none was trained or judged: what is named outside of cortex, or turned another way, is the "
    "nearest name and no finding"
)


def astray(changes: Sequence[str]) -> bool:
    """Whether a derived run looks where its model was not trained to, as on a grid instead of along the ribbon."""
    return any(line.startswith("samples.where:") for line in changes)


_SEEN = "every {0} is predicted by a read-out of others; the encoder was kept from fold {1} only, and saw the rest"


def spread(
    task: Task,
    run: Run | str | Path,
    at: Run | str | Path,
    target: str | None = None,
    *,
    by: Literal["brain", "section", "block"] | None = None,
    fold: int | None = None,
    buffer_mm: float = 0.0,
    probe: Literal["linear", "knn"] | None = None,
    atlas: str | Path | None = None,
    **rest: Any,
) -> Score:
    """Read a target out of a labelled run, and predict it at the places of a derived one, whose maps then show it.

    Read-outs are learned on the labelled rows of ``run`` alone, and each predicts the places of units (brains,
    sections, blocks) that none of its training rows come from; without ``fold`` every unit is held out in turn, so that
    the whole brain is painted. The score is that of the labelled rows, as `brodmann.score` gives it (of the fold that
    the encoder never saw, if there is one); it is kept in ``scores/`` of both runs, in the derived one with the
    predictions of its own places.

    Parameters
    ----------
    task : {"areas", "properties"}
        Classes or numbers.
    run : Run or path
        With labels.
    at : Run or path
        Derived from it (`embed`), with a table.
    target, by, fold, buffer_mm, probe, atlas, rest
        As of `brodmann.score`, which is called with them.

    Returns
    -------
    Score
        With ``predicted`` at the places of ``at`` and no truth.

    Raises
    ------
    Usage
        For another question, or if the runs do not have the same weights.
    """
    if task not in ("areas", "properties"):
        raise Usage("read-outs that are learned can be asked at other places: areas and properties.", found=f"{task}.")
    home, there = (one if isinstance(one, Run) else verbs.load(one) for one in (run, at))
    noted = origin.read(there)
    if noted is None or noted["weights"] != origin.weights_of(home):
        raise Usage(
            f"{there.path} should be derived from {home.path}: a read-out fits one encoder only.",
            found="no derived run." if noted is None else f"weights of {noted['run']}.",
            do=f"make it with `brodmann embed {home.path} --set ... --out ...`.",
        )
    found = results.score(task, home, target, by=by, fold=fold, buffer_mm=buffer_mm, probe=probe, atlas=atlas, **rest)
    table, dense = verbs.table(home), verbs.table(there)
    if task == "areas":
        questions.label(table, found.target, atlas=atlas)
    split = questions.split(table, by, fold, buffer_mm)
    kind = "ridge" if task == "properties" else probe or "linear"
    every = replace(split, fold=fold)
    said = elsewhere.predict(table, found.target, every, dense, probe=kind, seed=found.seed)
    seen = fold is None and split.fold is not None
    remarks = (
        f"value, interval and baselines are those of {found.n:,} labelled {found.what} of {home.path.name}; predicted "
        f"are {len(said.predicted):,} of {dense.n_obs:,} places of {there.path.name}, by read-outs of {said.learned}",
        *([_SEEN.format(split.by, split.fold)] if seen else []),
        *(["not predicted: places of units that are not held out"] if len(said.predicted) < dense.n_obs else []),
        *([_ASTRAY] if astray(noted["changes"]) else []),
        *(f"not as trained: {line}" for line in noted["changes"]),
    )
    words = f"{found.split}; painted: every {split.by}, by a read-out of others" if seen else found.split
    shown = replace(
        found, predicted=said.predicted, truth=found.truth[:0], split=words, remarks=(*found.remarks, *remarks)
    )
    with there.lock():
        there.forget(f"scores/{shown.name}.json")
        shown.save(there.path)
        there.seal()
    return shown
