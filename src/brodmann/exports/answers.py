"""What a run has found for each row of its table: classes or numbers, their colours, and the scores behind them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from brodmann import features, levels, questions
from brodmann.errors import BrodmannError, Refused, Usage
from brodmann.maps import labels
from brodmann.maps.colours import colours
from brodmann.maps.labels import Key, Picture
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.space import Space
from brodmann.systems import system
from brodmann.tasks._score import Score

if TYPE_CHECKING:
    from anndata import AnnData

_PLAIN = ("areas", "networks", "properties")
"""Questions whose answers go by the name of their target; others carry the question in it."""
_UNITS = ("mm", "um", "deg", "hz", "ms", "um3", "mm2", "mm3")
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answer:
    """One value for each row of a table.

    Parameters
    ----------
    name : str
        Of its columns and files: ``area``, ``domain_12``, ``novelty-area``.
    task : str
    values : Categorical or (n,) float64
        In the table's order; missing where nothing was predicted.
    truth : Categorical, (n,) float64 or None
        What is known of the rows that were judged.
    palette : mapping
        Class to ``"#RRGGBB"``; empty for numbers.
    score : mapping
        Value, interval, n, split and baselines of the score that it comes from; plain data.
    """

    name: str
    task: str
    values: pd.Categorical | Numbers
    truth: pd.Categorical | Numbers | None
    palette: Mapping[str, str]
    score: Mapping[str, Any]

    @property
    def numeric(self) -> bool:
        """Whether it is a number for every row, and not a class."""
        return isinstance(self.values, np.ndarray)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the table that have a value."""
        return np.flatnonzero(known(self.values))

    @cached_property
    def key(self) -> Key:
        """Values, names and colours of its classes, the same in every file of the run."""
        return Key.of(self.palette, self.palette)

    @property
    def unit(self) -> str:
        """Unit of numbers, as the end of their name says; empty where it says none."""
        ending = self.name.rpartition("_")[2]
        return ending if self.numeric and ending in _UNITS else ""

    def classes(self, format: str) -> pd.Categorical:
        """Its classes; refused for numbers, which ``format`` cannot hold."""
        if isinstance(self.values, np.ndarray):
            raise Refused(
                f"{format} holds classes.", found=f"'{self.name}' is a number for every row.",
                do="take csv, parquet, h5ad, nifti or ome-zarr for it, or name another target.",
            )  # fmt: skip
        return self.values


def known(values: pd.Categorical | Numbers) -> NDArray[np.bool_]:
    """Which rows have a value, (n,)."""
    return np.isfinite(values) if isinstance(values, np.ndarray) else labels.codes(values) >= 0


@dataclass(frozen=True, eq=False)
class Found:
    """A run, its table, and the answers that are exported.

    Parameters
    ----------
    run : Run
    table : AnnData
        Its feature table.
    answers : list of Answer
    say : Say
    """

    run: Run
    table: AnnData
    answers: list[Answer]
    say: Say

    @property
    def obs(self) -> pd.DataFrame:
        """Columns of the table."""
        return cast("pd.DataFrame", self.table.obs)

    @cached_property
    def space(self) -> Space:
        """Of ``xyz``."""
        return features.space_of(self.table)

    @property
    def xyz(self) -> NDArray[np.float32]:
        """(n, 3) mm in ``space``."""
        return np.asarray(cast("Any", self.table.obsm)["xyz"])

    def one(self) -> Answer:
        """The answer, for formats that hold one."""
        return self.answers[0]

    def brains(self) -> list[tuple[str, NDArray[np.int64]]]:
        """Each brain and its rows that have a value; refused where sections share no space."""
        if self.space.name == "unregistered":
            raise Refused(
                "places should be registered to a brain.", found="space 'unregistered': sections are not aligned.",
                do="take ome-zarr or geojson, which are made section by section, or register the sections first.",
            )  # fmt: skip
        rows, subject = self.one().rows, labels.column(self.table, "subject")
        return [
            (str(name), rows[here])
            for number, name in enumerate(subject.categories)
            if (here := labels.codes(subject)[rows] == number).any()
        ]

    @cached_property
    def pictures(self) -> list[Picture]:
        """Sections of the run's data on which a row has a value; opens the data."""
        shown = set(labels.used(labels.column(self.table, "section")[self.one().rows]))
        _, source = questions.opened(self.run, self.table)
        return [one for one in system(self.run.system).pictures(source) if one.id in shown]

    @cached_property
    def plane_unit(self) -> str:
        """Unit of ``x_um`` and ``y_um``: of cells without a known scale it is none."""
        if self.run.system == "patches":
            return "um"
        try:
            return "um" if all(map(labels.scaled, self.pictures)) else "arbitrary"
        except BrodmannError:
            return "um, unless the data came without a unit; they are not at hand"


def listed(run: Run) -> dict[str, str]:
    """Names of what a run can export, and the score of each; empty for levels of domains."""
    found: dict[str, str] = {}
    for stem in sorted(file.stem for file in (run.path / "scores").glob("*.json")):
        task, _, target = stem.partition("-")
        if task not in {"domains", "layers", "wiring"}:
            bare = (task in _PLAIN or task == target) and target not in found
            found[target if bare else stem] = stem
    path = run.path / levels.FOLDER
    if path.is_dir():
        columns = cast("Any", zarr.open_group(str(path), mode="r"))["obs"].attrs["column-order"]
        found |= {str(name): "" for name in columns if str(name).startswith("domain_")}
    return found


def chosen(run: Run, table: AnnData, target: str | None, *, one: bool, say: Say) -> list[Answer]:
    """Answers to export: the named one, or all.

    Parameters
    ----------
    target : str, optional
        A name of `listed`, a score (``areas-area``), or ``domains``.
    one : bool
        The format holds one: refuse several.

    Raises
    ------
    Usage
        No such answer, or several for a format that holds one.
    Refused
        None at all, or a score of another table.
    """
    there = listed(run)
    if not there:
        raise Refused(
            "an export needs a score with predictions.", found="none.", do=f"run `brodmann score {run.path}` first."
        )
    if target is None:
        if one and len(there) > 1:
            raise Usage("this format holds one target.", found=", ".join(there), do="name one with --target.")
        made = [answer for name, stem in there.items() if (answer := _answer(run, table, name, stem, say))]
        if not made:
            raise Refused("an export needs predictions.", found=f"none in {', '.join(there)}.")
        return made
    stems = {stem: name for name, stem in there.items() if stem}
    name = stems.get(target, target)
    if name == "domains" and name not in there:
        name = str(levels.read(run, "domains")[0].name)
    if name not in there:
        near = difflib.get_close_matches(target, [*there, *stems], n=1)
        raise Usage(
            f"'{target}' should have a score.", found=f"scores of {', '.join(there)}.",
            do=f"did you mean '{near[0]}'?" if near else f"run `brodmann score {run.path} areas --target {target}`.",
        )  # fmt: skip
    answer = _answer(run, table, name, there[name], None)
    return [answer] if answer else []


def _answer(run: Run, table: AnnData, name: str, stem: str, say: Say | None) -> Answer | None:
    """One answer; what does not belong to the table is refused, or, with ``say``, left out aloud."""
    scores = run.path / "scores"
    # the levels of domains are those of the newest score
    files = [] if stem else sorted(scores.glob("domains-*.json"), key=lambda file: file.stat().st_mtime)
    found = Score.load(files[-1] if files else scores / f"{stem}.json")
    of, made = found.data_fingerprint, cast("Mapping[str, Any]", table.uns["brodmann"])["data_fingerprint"]
    # levels of domains are values themselves, whatever their score predicts
    empty = bool(stem) and not len(found.predicted)
    wrong = "it has no predictions." if empty else "it is of another table." if of != made else ""
    if wrong and say is None:
        raise Refused(
            f"'{name}' should be predicted for rows of the table.", found=wrong, do=f"run `brodmann score {run.path}`."
        )
    if wrong:
        cast("Say", say)(f"left out {name}: {wrong}")
        return None
    if not stem:
        column, palette = levels.read(run, name)
        return Answer(name, "domains", labels.aligned(table, column), None, palette, about(found))
    values, truth = (_values(table, series, found.classes) for series in (found.predicted, found.truth))
    palette = colours(found.classes) if found.classes else {}
    return Answer(name, found.task, cast("Any", values), truth, palette, about(found))


def _values(table: AnnData, series: pd.Series, classes: tuple[str, ...]) -> pd.Categorical | Numbers | None:
    if not len(series):
        return None
    if classes:
        return labels.aligned(table, series)
    index = labels.ids(table)
    if series.index.has_duplicates or not series.index.isin(cast("Any", index)).any():
        raise Refused("predictions should be indexed by the table's ids.", found=f"ids such as '{series.index[0]}'.")
    return series.reindex(index).to_numpy(np.float64)


def about(score: Score) -> dict[str, Any]:
    """What a reader must know before believing a prediction: value, interval, n, split, baselines, remarks."""

    def number(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    return {
        "task": score.task, "target": score.target, "metric": score.metric, "value": number(score.value),
        "interval_95": [number(end) for end in score.interval], "n": score.n, "what": score.what,
        "n_groups": score.n_groups, "cluster": score.cluster, "split": score.split, "scored": score.scored,
        "baselines": {name: number(rival.value) for name, rival in score.baselines.items()},
        "remarks": list(score.remarks), "recipe_hash": score.recipe_hash, "data_fingerprint": score.data_fingerprint,
    }  # fmt: skip
