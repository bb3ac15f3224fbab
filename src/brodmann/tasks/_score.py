"""A score is a value with its interval, its split and its rivals; it prints, saves and loads as one thing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from brodmann import atomic
from brodmann.errors import Corrupt, Usage

PROBES = ("head", "knn")
"""Read-outs that are asked for beside the usual one, whose score they leave alone."""

_BLOCK = 100_000


@dataclass(frozen=True)
class Estimate:
    """A value and where it comes from.

    Parameters
    ----------
    value : float
        The estimate; NaN when it cannot be had.
    low, high : float
        Ends of the 95 % interval (for a null: 5th and 95th percentile of its draws).
    note : str
        What it is, when the name does not say it all.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""

    def __str__(self) -> str:
        """Value and interval, e.g. ``0.41 [0.36, 0.46]``."""
        if math.isnan(self.low):
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a question is answered on held-out rows, with everything needed to judge the number.

    Parameters
    ----------
    task, target, metric : str
        The question, what was predicted, and the measure of the headline value.
    value : float
        Headline value, over all held-out rows together.
    interval : (float, float)
        95 % interval from a bootstrap of whole ``cluster`` units.
    n, n_groups : int
        Held-out rows, and held-out units among which the bootstrap draws.
    scored : str
        What the headline value is of: the features, unless a question was answered without them.
    cluster, what : str
        Name of those units (``sections``, ``brains``, ``blocks``) and of a row (``patches``, ``cells``).
    split : str
        What was held out, in words; ``folds`` names each fold.
    baselines : mapping of str to Estimate
        Rivals under the same folds and the same probe, and nulls.
    gains : mapping of str to Estimate
        Headline value minus each rival, paired over the same bootstrap draws: decided when the interval excludes 0.
    more : mapping of str to Estimate
        Further measures.
    classes : tuple of str
        Classes in sorted order; empty for a numeric target.
    per_class : mapping
        For each class precision, recall, f1 and n.
    confusion : tuple of tuples of int
        Rows truth, columns predicted, in the order of ``classes``.
    predicted, truth : Series
        Held-out rows only, indexed by id.
    recipe_hash, data_fingerprint : str
        What made the table.
    remarks : tuple of str
        What a reader must know before believing the number.
    """

    task: str
    target: str
    metric: str
    value: float
    interval: tuple[float, float]
    n: int
    n_groups: int
    scored: str = "features"
    cluster: str = "sections"
    what: str = "rows"
    split: str = ""
    folds: tuple[str, ...] = ()
    probe: str = ""
    seed: int = 0
    baselines: Mapping[str, Estimate] = field(default_factory=lambda: dict[str, Estimate]())
    gains: Mapping[str, Estimate] = field(default_factory=lambda: dict[str, Estimate]())
    more: Mapping[str, Estimate] = field(default_factory=lambda: dict[str, Estimate]())
    classes: tuple[str, ...] = ()
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: dict[str, dict[str, float]]())
    confusion: tuple[tuple[int, ...], ...] = ()
    predicted: pd.Series = field(default_factory=lambda: pd.Series(dtype=object), repr=False)
    truth: pd.Series = field(default_factory=lambda: pd.Series(dtype=object), repr=False)
    recipe_hash: str = ""
    data_fingerprint: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file: ``areas-area``; of another probe than the linear one ``areas-area-head``: both are kept."""
        return file_name(self.task, self.target, self.probe)

    @property
    def size(self) -> str:
        """What was judged, in words: ``3,020 patches, 30 sections``, or ``60 of 120 neurons``."""
        return size(self.n, self.what, self.n_groups, self.cluster)

    def __str__(self) -> str:
        """One line: value, interval, size, rivals; then the remarks."""
        of = "" if self.scored == "features" else f" ({self.scored})"
        head = f"{self.task}{of}  {self.metric} {Estimate(self.value, *self.interval)}"
        size = f"n {self.size}"
        rivals = [f"{name} {rival.value:.2f}" for name, rival in self.baselines.items()]
        return "\n  ".join([" | ".join([f"{head}  {size}", *rivals]), *(f"note: {text}" for text in self.remarks)])

    def table(self) -> Table:
        """Rich table of the value beside its rivals and further measures, notes below it; eighty columns are enough.

        Remarks come with the text form.
        """
        noted: dict[str, list[str]] = {}
        for name, one in {**self.baselines, **self.more}.items():
            noted.setdefault(one.note, []).append(name)
        below = [f"{_several(names)}: {note}" for note, names in noted.items() if note]
        table = Table(
            title=f"{self.task}: {self.target}\n{self.size}; {self.split}", title_justify="left", title_style="bold",
            caption="\n".join(below), caption_justify="left", box=SIMPLE_HEAD, pad_edge=False,
        )  # fmt: skip
        beside = "gain over it" if not smaller(self.metric) else "more than it"
        for name in ("", self.metric, "95 %", beside):
            table.add_column(name, justify="right" if name else "left", no_wrap=name in {"95 %", beside})
        table.columns[0].min_width = 18
        table.add_row(self.scored, f"{self.value:.3f}", _interval(*self.interval), style="bold")
        for rows in (self.baselines, self.more):
            for name, one in rows.items():
                whole, _, part = name.partition(": ")
                value = f"{one.value:,.0f}" if name.startswith("undefined") else _number(one.value)
                gain = self.gains.get(name)
                more = f"{gain.value:+.3f} {_interval(gain.low, gain.high)}" if gain else ""
                # what belongs to the row above is set in
                shown = f"  {part}" if part and whole in rows else name
                table.add_row(shown, value, _interval(one.low, one.high), more)
            table.add_section()
        return table

    def to_json(self) -> str:
        """Strict JSON (no NaN: missing numbers are null); `from_json` gives an equal score back."""
        values: dict[str, Any] = {"format": 1}
        for name in self.__dataclass_fields__:
            values[name] = getattr(self, name)
        for name in ("baselines", "gains", "more"):
            rivals = cast("Mapping[str, Estimate]", values[name])
            values[name] = {key: {**rival.__dict__} for key, rival in rivals.items()}
        values["ids"] = ()
        text: list[str] = []
        for name, value in values.items():
            # what has a number per row is written block by block: ten million are not held as objects of json
            if name == "ids":
                parts = ["[", ",".join(_blocks(self.predicted.index.to_numpy(object), _texts)), "]"]
            elif name in {"predicted", "truth"}:
                coded = _encode(value, self.classes)
                parts = ["[", ",".join(_blocks(coded, lambda part: cast("list[Any]", _strict(part.tolist())))), "]"]
            else:
                parts = [_dumps(_strict(value))]
            text += [",", _dumps(name), ":", *parts]
        return "".join(["{", *text[1:], "}"])

    @classmethod
    def from_json(cls, text: str, *, where: str = "the score") -> Score:
        """Read what `to_json` wrote.

        Raises
        ------
        Corrupt
            The text is not a score.
        """
        try:
            values = cast("dict[str, Any]", json.loads(text))
            if values.pop("format") != 1:
                raise Corrupt(f"{where} should be of format 1.", do="read it with the version that wrote it.")
            for name in ("baselines", "gains", "more"):
                values[name] = {key: Estimate(**_numbers(rival)) for key, rival in values[name].items()}
            ids = pd.Index(values.pop("ids"), dtype=object, name="id")
            for name in ("classes", "folds", "remarks"):
                values[name] = tuple(values[name])
            for name in ("predicted", "truth"):
                values[name] = _decode(values[name], ids, values["classes"], name)
            values["interval"] = tuple(math.nan if end is None else end for end in values["interval"])
            values["confusion"] = tuple(tuple(row) for row in values["confusion"])
            values["per_class"] = {key: _numbers(row) for key, row in values["per_class"].items()}
            values["value"] = math.nan if values["value"] is None else values["value"]
            return cls(**values)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Corrupt(f"{where} should be a saved score.", found=f"{type(error).__name__}: {error}.") from error

    def save(self, run: str | Path) -> Path:
        """Write ``scores/<name>.json`` in a run folder and return its path."""
        path = Path(run) / "scores" / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, self.to_json())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Score:
        """Read a saved score.

        Raises
        ------
        Usage
            There is no such file.
        Corrupt
            The file is not a score.
        """
        path = Path(path)
        if not path.is_file():
            raise Usage(f"a saved score should be at {path}.", found="no such file.")
        return cls.from_json(path.read_text(encoding="utf-8"), where=str(path))


def smaller(metric: str) -> bool:
    """Whether a smaller value is a better one: distances, angles of error, shortcuts."""
    return metric.endswith(("mm", "deg", "lower is better"))


def size(n: int, what: str, n_groups: int, cluster: str) -> str:
    """Rows and the groups that intervals are drawn from; once where rows are these groups."""
    if what != cluster:
        return f"{n:,} {what}, {n_groups:,} {cluster}"
    return f"{n:,} {what}" if n == n_groups else f"{n:,} of {n_groups:,} {what}"


def file_name(task: str, target: str, probe: str = "") -> str:
    """``<task>-<target>``, and the probe where it is one of `PROBES`, in characters that every file system takes."""
    name = f"{task}-{target}-{probe}" if probe in PROBES else f"{task}-{target}"
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def _several(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} ... {names[-1]}"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{low:.3f}, {high:.3f}]"


def _strict(value: Any) -> Any:
    """Plain JSON types, with null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in cast("list[Any]", value)]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _blocks(values: NDArray[Any], plain: Callable[[NDArray[Any]], list[Any]]) -> Iterator[str]:
    """Text of a long list without its brackets."""
    for start in range(0, len(values), _BLOCK):
        yield _dumps(plain(values[start : start + _BLOCK]))[1:-1]


def _texts(values: NDArray[Any]) -> list[Any]:
    return [str(name) for name in values]


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in row.items()}


def _encode(values: pd.Series, classes: tuple[str, ...]) -> NDArray[Any]:
    """Class numbers for classes (a tenth of the size of names), plain numbers otherwise."""
    if not classes:
        return values.to_numpy(dtype=np.float64)
    number = {name: i for i, name in enumerate(classes)}
    return np.fromiter((number[str(name)] for name in values.to_numpy(object)), np.int32, len(values))


def _decode(values: list[Any], ids: pd.Index, classes: tuple[str, ...], name: str) -> pd.Series:
    # what was found without labels has predictions, and no truth
    ids = ids if values else ids[:0]
    if classes:
        return pd.Series([classes[i] for i in values], index=ids, dtype=object, name=name)
    array: NDArray[np.float64] = np.array([math.nan if v is None else v for v in values], dtype=np.float64)
    return pd.Series(array, index=ids, name=name)
