"""What each question needs: which settings it uses, what is held out, and the model where a table is not enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import anndata as ad
import numpy as np
import pandas as pd

from brodmann import atlases, features, verbs
from brodmann.atlases import label as label
from brodmann.errors import Usage
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.settings import Split
from brodmann.systems import system
from brodmann.tasks import _numbers as numbers
from brodmann.tasks import responses as responses_task
from brodmann.tasks import tuning as tuning_task
from brodmann.tasks import wiring as wiring_task
from brodmann.tasks._score import Score

Task = Literal[
    "areas", "deviation", "domains", "layers", "networks", "novelty", "properties", "responses", "search", "shortcuts",
    "tuning",
    "wiring",
]  # fmt: skip

_USED: dict[Task, tuple[str, ...]] = {
    "areas": ("target", "by", "fold", "buffer_mm", "probe", "against", "atlas", "fewer_labels"),
    "deviation": ("target", "by", "fold", "buffer_mm"),
    "domains": ("target", "atlas", "k"),
    "layers": ("against",),
    "networks": ("target", "by", "fold", "buffer_mm", "against"),
    "novelty": ("target", "atlas"),
    "properties": ("target", "by", "fold", "buffer_mm", "against"),
    "responses": (),
    "search": ("by", "fold", "buffer_mm", "against"),
    "shortcuts": ("target", "by", "fold", "buffer_mm", "against"),
    "tuning": ("target",),
    "wiring": ("against",),
}
_QUESTIONS: dict[Task, str] = {
    "areas": "areas are read out of held-out tissue: their number is that of the labels.",
    "deviation": "deviation is the error of numbers that ridge regression reads out of held-out rows.",
    "domains": "domains are found without labels, in all tissue: nothing is held out or read out.",
    "layers": "layers are told by the model, on the tissue that its recipe held out.",
    "networks": "networks are read out of held-out cortex, beside place alone and maps moved over it.",
    "novelty": "novelty looks for borders inside known regions: nothing is held out or read out.",
    "properties": "properties are numbers, read out of held-out rows by ridge regression.",
    "responses": "responses are predicted for every neuron, on the clips that the data keep for tests.",
    "search": "search compares features and places: it takes no labels and no read-out.",
    "shortcuts": "shortcuts are vessels, folds, section and brain, read out linearly: less is better.",
    "tuning": "tuning is that of the model's responses to gratings: nothing is held out or read out.",
    "wiring": "wiring compares the features of neurons with their synapses, which come with the data.",
}
_ABOUT = {
    "layers": "layers are told by runs of patches that learned them",
    "responses": "responses are predicted by the neurons system",
    "tuning": "tuning is measured on models of the neurons system",
    "wiring": "wiring is asked of data that tell which neurons are connected",
}
_MOTION = "direction_deg"


def admit(task: Task, **given: Any) -> None:
    """Refuse what a question would not use: an answer must not look as if it had been measured with it."""
    if idle := [name for name, value in given.items() if value is not None and name not in _USED[task]]:
        raise Usage(
            _QUESTIONS[task],
            found=f"{', '.join(idle)}.",
            cause="settings of another question.",
            do=f"leave {'it' if len(idle) == 1 else 'them'} out, or ask another question.",
        )


def needed(task: Task, table: ad.AnnData) -> None:
    """Refuse a question that cannot be asked without a target."""
    if task == "novelty":
        raise Usage(
            "novelty looks inside regions that are known.", found="no target.",
            do=f"name their column with --target; here there are {', '.join(atlases.targets(table))}.",
        )  # fmt: skip
    raise Usage(
        f"{task} should be asked of a number that is known of the rows.", found="no target.",
        do=f"name a numeric column with --target; here there are {', '.join(numbers.columns(_obs(table))) or 'none'}.",
    )  # fmt: skip


def opened(run: Run, table: ad.AnnData) -> tuple[Any, Any]:
    """Recipe of a run, and the data that its table describes."""
    recipe, _ = verbs.trained(run)
    about = cast("Mapping[str, Any]", table.uns["brodmann"])
    return recipe, verbs.open_source(recipe, str(about.get("data") or "") or verbs.data_of(run))


def split(table: ad.AnnData, by: Any, fold: int | None, buffer_mm: float) -> Split:
    """The asked split; on the recipe's own unit, the fold that the encoder never saw."""
    about = cast("Mapping[str, Any]", table.uns["brodmann"])
    own = cast("dict[str, Any]", about["split"])
    chosen = str(own["by"]) if by is None else by
    same = chosen == str(own["by"])
    unseen = int(about["encoder_fold"])
    if fold is None and same and unseen >= 0 and about.get("same_data", True):
        fold = unseen
    return Split(by=cast("Any", chosen), folds=int(own["folds"]) if same else 5, fold=fold, buffer_mm=buffer_mm)


def rivals(against: Sequence[Run | str | Path]) -> dict[str, ad.AnnData]:
    """Tables of other runs, by the names of their folders.

    Raises
    ------
    Usage
        Two folders have one name.
    """
    return {name: verbs.table(rival) for name, rival in zip(distinct(against), against, strict=True)}


def distinct(against: Sequence[Run | str | Path]) -> list[str]:
    """Names of the folders of runs; refused where two have one name."""
    names = [(rival.path if isinstance(rival, Run) else Path(rival)).name for rival in against]
    if len(set(names)) < len(names):
        raise Usage("runs to compare with should have folders of different names.", found=", ".join(names))
    return names


# --------------------------------------------------------------------------------------------- questions about neurons


def responses(run: Run, *, say: Say | None = None) -> Score:
    """How well the run's model predicts responses to clips that were never trained on.

    Recordings that the model does not know are learned first, from their training trials, the core as it is; the score
    says whose they are.

    Parameters
    ----------
    run : Run
        Of a system that offers ``answers(recipe, model, samples)``: fields of `brodmann.tasks.responses.Answer`.
    say : Say, optional

    Returns
    -------
    Score

    Raises
    ------
    Usage
        The run is of another system.
    """
    module = offering(run, "responses", "answers")
    recipe, model, samples, new, remarks = _suited(run, module, say=say)
    said = (responses_task.Answer(**one) for one in module.answers(recipe, model, samples))
    unseen = f"; core never saw: {', '.join(new['animals'])}" if new["animals"] else ""
    found = responses_task.responses(
        said,
        burn_in=int(recipe.samples.burn_in),
        split=f"clips that were never trained on{unseen}",
        seed=int(recipe.seed),
        about={"recipe_hash": run.recipe_hash, "data_fingerprint": samples.fingerprint},
        say=say,
    )
    return _noted(found, remarks)


def tuning(run: Run, target: str | None = None, *, say: Say | None = None) -> Score:
    """Which orientations the run's model prefers, and whether they are those that are known.

    A grating's direction is that of its motion, and the task compares directions modulo 180. Where the data tell the
    orientation of the bars, as columns named ``orientation_deg`` do, it is turned by 90 degrees first: bars move at a
    right angle to themselves. A column named ``direction_deg`` is of motion already.

    Parameters
    ----------
    run : Run
        Of a system that offers ``tunings(recipe, model, samples)``: arguments of `brodmann.tasks.tuning.tuning`.
    target : str, optional
        Numeric column of what is known, degrees; by default ``orientation_deg``, where there is one.
    say : Say, optional

    Returns
    -------
    Score

    Raises
    ------
    Usage
        The run is of another system, or there is no such numeric column.
    """
    module = offering(run, "tuning", "tunings")
    recipe, model, samples, _, remarks = _suited(run, module, target, say=say)
    column = target or ("orientation_deg" if "orientation_deg" in samples.labels else None)
    truth = None
    if column is not None:
        truth = samples.labels[column].to_numpy(dtype=np.float64, na_value=np.nan)
        if column != _MOTION:
            truth = truth + 90
            remarks.append(f"'{column}' is of the bars: turned by 90 degrees, to the direction of their motion")
    found = tuning_task.tuning(
        orientation_deg=truth,
        target=column or "orientation",
        seed=int(recipe.seed),
        about={"recipe_hash": run.recipe_hash, "data_fingerprint": samples.fingerprint},
        **module.tunings(recipe, model, samples),
    )
    return _noted(found, remarks)


def wiring(run: Run | ad.AnnData, table: ad.AnnData, others: Mapping[str, ad.AnnData]) -> Score:
    """Whether neurons with similar features are connected beyond what their distance says.

    Parameters
    ----------
    run : Run
        Whose data have ``synapses``, see `brodmann.tasks.wiring.wiring`.
    table : AnnData
        Its features.
    others : mapping of str to AnnData
        Rivals.

    Returns
    -------
    Score

    Raises
    ------
    Usage
        A table without a run, or data without synapses.
    """
    if not isinstance(run, Run):
        raise Usage(_ABOUT["wiring"] + ".", found="a table, without its data.", do="give the run.")
    _, source = opened(run, table)
    synapses = getattr(source, "synapses", None)
    if synapses is None or not len(synapses):
        raise Usage(
            _ABOUT["wiring"] + ".", found=f"no synapses in '{source.name}'.",
            do="give data with a table of synapses, or ask another question.",
        )  # fmt: skip
    return wiring_task.wiring(table, synapses, extra_tables=others)


def offering(run: Any, task: str, what: str) -> Any:
    """The module of a run's system, if that offers what a question needs; else `Usage`."""
    if not isinstance(run, Run):
        raise Usage(f"{_ABOUT[task]}.", found="a table, without its model.", do="give the run.")
    module = system(run.system)
    if not hasattr(module, what):
        raise Usage(f"{_ABOUT[task]}; this run is of {run.system}.", do="ask it another question.")
    return module


def _suited(
    run: Run, module: Any, target: str | None = None, *, say: Say | None
) -> tuple[Any, Any, Any, dict[str, list[str]], list[str]]:
    """Recipe, model, samples that suit it, what of them the core never saw, and remarks; from the data of the table.

    ``target`` is refused before time is spent, where it is no numeric column.
    """
    path = run.path / "features.zarr"
    about = features.about(path)[0] if path.exists() else {}
    recipe, model = verbs.trained(run)
    source = verbs.open_source(recipe, str(about.get("data") or "") or verbs.data_of(run))
    samples = module.samples(source, recipe, part="all")
    if target is not None and target not in (told := _numeric(samples.labels)):
        raise Usage(
            f"the target should be a numeric column of the data, not '{target}'.",
            found=f"{', '.join(told) or 'none'}.",
        )
    new = module.unseen(model, samples)
    remarks: list[str] = []
    if new["recordings"]:
        remarks.append(
            f"{', '.join(new['recordings'])}: not known to the model; their readouts were solved on their own training "
            "trials with the core as it was"
        )
    if not about.get("same_data", True):
        remarks.append(f"the model was trained on other data than '{source.name}'")
    suited = model.suit(samples, say)
    return recipe, model, suited, new, [*remarks, *suited.remarks]


def _noted(found: Score, remarks: Sequence[str]) -> Score:
    from dataclasses import replace

    return replace(found, remarks=(*found.remarks, *remarks))


def _obs(table: ad.AnnData) -> pd.DataFrame:
    return cast("pd.DataFrame", table.obs)


def _numeric(columns: pd.DataFrame) -> list[str]:
    """Columns of numbers, without places."""
    places = {"x_um", "y_um", "x_mm", "y_mm", "z_mm", "u_mm", "v_mm"}
    kept = [name for name in columns.columns if str(name) not in places]
    return [str(name) for name in kept if pd.api.types.is_numeric_dtype(columns[name])]
