"""The numbers behind a report's figures, as tables for other tools."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from brodmann.maps.shown import Shown, Value


def scores(given: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Every number of every score: a row for what is scored, each baseline, each further measure and each class.

    Parameters
    ----------
    given : sequence of mappings
        Plain scores, as `brodmann.maps.report.write` takes them.

    Returns
    -------
    DataFrame
        ``task``, ``target``, ``probe``, ``split``, ``n``, ``metric``, ``name``, ``value``, ``low``, ``high`` (95 %
        interval; of a null 5th to 95th percentile), and of baselines ``gain``, ``gain_low``, ``gain_high``: what is
        scored minus it.
    """
    rows: list[dict[str, Any]] = []
    for score in map(Shown.of, given):
        about = {"task": score.task, "target": score.target, "probe": score.probe, "split": score.split, "n": score.n}

        def add(metric: str, name: str, item: Value, gain: Value | None = None, about: Any = about) -> None:
            row = {**about, "metric": metric, "name": name, "value": item.value, "low": item.low, "high": item.high}
            if gain is not None:
                row |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
            rows.append(row)

        add(score.metric, score.scored, score.score)
        for name, item in score.baselines.items():
            add(score.metric, name, item, score.gains.get(name, Value(score.score.value - item.value)))
        for name, item in score.more.items():
            add(name, score.scored, item)
        for name, measures in score.per_class.items():
            for measure, value in measures.items():
                add(f"{measure} of a class", name, Value(float(value)))
    heads = ["task", "target", "probe", "split", "n", "metric", "name", "value", "low", "high"]
    return pd.DataFrame(rows, columns=pd.Index([*heads, "gain", "gain_low", "gain_high"]))


def by_step(metrics: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Everything that was logged of each step, in order: what trained and what was judged are lines of their own.

    Of a line written twice, after a resume, the last one counts.
    """
    found: dict[int, dict[str, Any]] = {}
    for record in metrics:
        if isinstance(step := record.get("step"), int):
            found.setdefault(step, {}).update(record)
    return dict(sorted(found.items()))


def learning(metrics: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What was logged, a row per step; parts of the loss as ``loss.<part>``."""
    rows: list[dict[str, Any]] = []
    for record in by_step(metrics).values():
        parts = record.get("parts")
        nested = {f"loss.{name}": value for name, value in parts.items()} if isinstance(parts, Mapping) else {}
        plain = {name: value for name, value in {**record, **nested}.items() if _number(value) and name != "crc"}
        rows.append(plain)
    return pd.DataFrame(rows)


def save(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, UTF-8, without an index."""
    frame.to_csv(path, index=False, lineterminator="\n")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
