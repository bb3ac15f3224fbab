"""Scores as a report shows them: one shape, whatever a task adds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from brodmann.maps.drawing import short
from brodmann.maps.page import text
from brodmann.tasks._score import PROBES, Score, size, smaller


@dataclass(frozen=True)
class Value:
    """A number with its interval; ends are NaN where none is known."""

    value: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""

    @staticmethod
    def of(given: Any) -> Value:
        """From a number, (value, low, high), or a mapping with ``value`` and ``interval`` or ``low``, ``high``."""
        if isinstance(given, Mapping):
            item = cast("Mapping[str, Any]", given)
            low, high = item.get("interval") or (item.get("low"), item.get("high"))
            return Value(_number(item.get("value")), _number(low), _number(high), str(item.get("note") or ""))
        if isinstance(given, Sequence) and not isinstance(given, str):
            value, low, high = [*map(_number, cast("Sequence[Any]", given)), math.nan, math.nan][:3]
            return Value(value, low, high)
        return Value(_number(given))

    @property
    def between(self) -> str:
        """``[0.36, 0.46]`` or nothing."""
        return self.interval(2)

    def interval(self, places: int, *, sign: bool = False) -> str:
        """Write the interval with so many decimals."""
        ends = [f"{'+' * (sign and end > 0)}{digits(end, places)}" for end in (self.low, self.high)]
        return f"[{', '.join(ends)}]" if math.isfinite(self.low + self.high) else ""


_ESTIMATES = ("baselines", "gains", "more")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One score, ready to show.

    Parameters
    ----------
    task, target, metric, n, split, probe : str
        In words; empty where not given.
    scored : str
        What the score is of; the features where nothing else is said.
    score : Value
    baselines, gains : dict
        Name to `Value`, in the order given: rivals and nulls; and the score minus each, where that was computed.
    more : dict
        Other numbers of the same predictions, e.g. balanced accuracy.
    per_class : dict
        Class to {measure: number}.
    remarks : tuple of str
    """

    task: str
    target: str
    metric: str
    n: str
    split: str
    probe: str
    scored: str
    score: Value
    baselines: dict[str, Value]
    gains: dict[str, Value]
    more: dict[str, Value]
    per_class: dict[str, dict[str, float]]
    remarks: tuple[str, ...]

    @staticmethod
    def of_score(found: Score) -> Shown:
        """From a score itself, without its rows."""
        parts = {name: {key: vars(one) for key, one in getattr(found, name).items()} for name in _ESTIMATES}
        return Shown.of({**vars(found), **parts})

    @staticmethod
    def of(given: Mapping[str, Any]) -> Shown:
        """From a score's plain form (``scores/<task>-<target>.json``, or its fields as a mapping)."""
        baselines = _values(given.get("baselines"))
        null = given.get("null")
        if null is not None and not any("null" in name for name in baselines):
            baselines["spatial null"] = Value.of(null)
        n, what, groups = given.get("n", ""), given.get("what"), given.get("n_groups")
        if isinstance(n, int) and what and groups:
            n = size(n, what, groups, given.get("cluster", "groups"))
        else:
            n = words(n) + (f" {what}" if what else "")
            n += f", {words(groups)} {given.get('cluster', 'groups')}" if groups else ""
        return Shown(
            task=plain(given.get("task", "score")),
            target=str(given.get("target", "")),
            metric=str(given.get("metric", "score")),
            n=n,
            split=words(given.get("split", "")),
            probe=plain(given.get("probe") or ""),
            scored=plain(given.get("scored") or "features"),
            score=Value.of(given),
            baselines=baselines,
            gains=_values(given.get("gains")),
            more={name: item for name, item in _values(given.get("more")).items() if math.isfinite(item.value)},
            # a class that is never named has no precision
            per_class={
                str(k): {one: math.nan if number is None else float(number) for one, number in v.items()}
                for k, v in (given.get("per_class") or {}).items()
            },
            remarks=tuple(str(item) for item in given.get("remarks") or ()),
        )

    @property
    def name(self) -> str:
        """``areas (ccf)``; with a probe that is not the usual one ``areas (ccf, head)``."""
        also = [self.target] if self.target not in {"", self.task} else []
        also += [self.probe] if self.probe in PROBES else []
        return f"{self.task} ({', '.join(also)})" if also else self.task

    @property
    def whose(self) -> str:
        """What the score is of, inside a sentence."""
        return f"the {self.scored}" if "," not in self.scored else f"the {self.scored.replace(', ', ' (', 1)})"

    def rivals(self) -> tuple[list[str], list[str], list[str]]:
        """Baselines that the score beats, that it cannot be told from, and that beat it.

        Decided by the interval of the paired gain; of a null by its 5th and 95th percentile, which the score must pass
        as its own procedure has it; else by intervals that lie apart. Where there is none, nothing is decided, and the
        baseline is in no list.
        """
        sign = -1.0 if smaller(self.metric) else 1.0
        beaten: list[str] = []
        unclear: list[str] = []
        better: list[str] = []
        for name, item in self.baselines.items():
            paired = self.gains.get(name)
            gain = paired if paired and paired.between else self._unpaired(name, item)
            low, high = sorted((sign * gain.low, sign * gain.high))
            if math.isfinite(low + high):
                (beaten if low > 0 else better if high < 0 else unclear).append(name)
        return beaten, unclear, better

    def _unpaired(self, name: str, item: Value) -> Value:
        """The score minus a baseline of which no paired gain is known; ends that overlap hold 0."""
        # a rival without an interval is taken as exact
        low, high = (item.low, item.high) if item.between else (item.value, item.value)
        if "null" in name:
            own = self.more.get("features, as the null", self.score).value
            return Value(own - item.value, own - high, own - low)
        return Value(self.score.value - item.value, self.score.low - high, self.score.high - low)

    @property
    def undecided(self) -> list[str]:
        """Baselines of which no interval tells whether the score beats them."""
        told = {name for names in self.rivals() for name in names}
        return [name for name in self.baselines if name not in told]

    @property
    def verdict(self) -> list[str]:
        """What the intervals say of the score beside its baselines, a sentence each."""
        beaten, unclear, better = self.rivals()
        who = "" if self.scored == "features" else f"{self.whose[0].upper()}{self.whose[1:]}: "
        said = [
            f"{who}{words.lower() if who else words} {listed(names)}."
            for words, names in (("Better than", beaten), ("Not told apart from", unclear), ("Not better than", better))
            if names
        ]
        if self.undecided:
            said.append(f"Not decided, as no interval is known, against {listed(self.undecided)}.")
        return said


def _values(given: Any) -> dict[str, Value]:
    items = cast("Mapping[str, Any]", given or {})
    return {plain(name): Value.of(item) for name, item in items.items()}


def _number(given: Any) -> float:
    return float(given) if isinstance(given, int | float) and not isinstance(given, bool) else math.nan


def listed(names: Sequence[str]) -> str:
    """Names one after the other; some hold commas themselves."""
    return ("; " if any("," in name for name in names) else ", ").join(names)


def plain(name: object) -> str:
    """``coordinates_only`` as ``coordinates only``."""
    return str(name).removeprefix("baseline_").replace("_", " ")


def words(given: Any) -> str:
    """Say counts and splits in words: ``9,312``, ``by brain, 5 folds``, ``patches 9,312, sections 30``."""
    if isinstance(given, Mapping):
        items = cast("Mapping[str, Any]", given)
        if "by" in items:
            kept = [f"by {items['by']}"]
            if items.get("fold") is not None:
                kept.append(f"fold {items['fold']}")
            if items.get("folds"):
                kept.append(f"{items['folds']} folds")
            elif items.get("folds") == 0:
                kept.append(f"every {items['by']} left out once")
            kept += [f"buffer {items['buffer_mm']} mm"] if items.get("buffer_mm") else []
            return ", ".join(kept)
        return ", ".join(f"{words(value)} {plain(key)}" for key, value in items.items())
    if isinstance(given, int):
        return f"{given:,}"
    if isinstance(given, Sequence) and not isinstance(given, str):
        return ", ".join(words(part) for part in cast("Sequence[Any]", given))
    return str(given)


def digits(value: float, places: int = 2) -> str:
    """Write a number with fixed decimals (fewer above ten, more where nothing would be left); a dash for none."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 100 or (abs(value) >= 2 and value.is_integer()):
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2g}" if 0 < abs(value) < 0.5 * 10**-places else f"{value:.{places}f}"


def dots(shown: Shown) -> str:
    """Inline SVG of the score and its baselines as dots with intervals; the table beside it holds the numbers."""
    rows = [(shown.scored, shown.score), *shown.baselines.items()]
    known = [v for _, item in rows for v in (item.value, item.low, item.high) if math.isfinite(v)]
    if not known:
        return ""
    low, high = min(0.0, *known), max(known)
    high = low + 1.0 if high - low > 0.55 and high <= 1 and low >= 0 else high + 0.08 * ((high - low) or 1)
    left, right, step, width = 192, 62, 30, 634
    height = step * len(rows) + 40

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    parts: list[str] = []
    for tick in _ticks(low, high):
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="6" y2="{height - 30}" stroke="var(--line)"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 14}" text-anchor="middle">{tick:g}</text>')
    for index, (name, item) in enumerate(rows):
        y, ours = 20 + step * index, not index
        tone = "var(--accent)" if ours else "var(--soft)"
        bold = ' font-weight="700"' if ours else ""
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end"{bold}>{text(short(name, 25))}</text>')
        if not math.isfinite(item.value):
            parts.append(f'<text class="tick" x="{left}" y="{y + 4}">not known</text>')
            continue
        if item.between:
            ends = f'x1="{x(item.low):.1f}" x2="{x(item.high):.1f}" y1="{y}" y2="{y}"'
            parts.append(f'<line {ends} stroke="{tone}" stroke-width="{4 if ours else 2.5}" stroke-linecap="round"/>')
        parts.append(f'<circle cx="{x(item.value):.1f}" cy="{y}" r="{7 if ours else 5}" fill="{tone}"/>')
        edge = max(v for v in (item.value, item.high) if math.isfinite(v))
        parts.append(f'<text class="num" x="{x(edge) + 12:.1f}" y="{y + 4}"{bold}>{digits(item.value)}</text>')
    said = text(f"{shown.metric} of {shown.whose} and of every baseline, as in the table")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """Round ticks between, about five."""
    from brodmann.maps.drawing import round_length

    step = round_length((high - low) / 4)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
