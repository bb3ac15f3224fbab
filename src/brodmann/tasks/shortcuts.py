"""Shortcuts: how much of what features should not know can be read out of them; lower is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import splits
from brodmann.errors import Refused, Usage
from brodmann.settings import Split
from brodmann.tasks import _identity, _rows, _surroundings
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _numbers as numbers
from brodmann.tasks import _rivals as rivals
from brodmann.tasks._probe import fit_predict
from brodmann.tasks._score import Estimate, Score

Codes = NDArray[np.int64]
Real = NDArray[np.float64]
Features = NDArray[np.float32]

METRIC = "share read out, lower is better"
FOLD = ("angle_deg", "cutting_angle_deg")
"""Columns that tell how cortex is folded under the knife: the first that varies is asked for."""
NEAR = "section, among neighbours"
_FEW_SECTIONS = 8


@dataclass(frozen=True, eq=False)
class _Answer:
    """What was said of some rows: error and the error of knowing nothing, summed over each unit of the bootstrap.

    The share read out is one minus their ratio: R^2 of numbers, balanced accuracy between chance (0) and 1 of names.
    """

    error: Real
    base: Real
    note: str = ""

    @classmethod
    def of(cls, error: Real, base: Real, unit: Codes, size: int, note: str) -> _Answer:
        """Sum what is known of rows over their units."""
        left, whole = (np.bincount(unit, values, size).astype(np.float64) for values in (error, base))
        return cls(left, whole, note)

    @property
    def share(self) -> float:
        return 1 - float(self.error.sum() / self.base.sum())

    def draws(self, times: Real) -> Real:
        whole = times @ self.base
        return 1 - np.divide(times @ self.error, whole, out=np.full(len(whole), np.nan), where=whole > 0)


@dataclass(frozen=True, eq=False)
class _Shortcut:
    """One thing that features should not tell, and how it is read out of features and of places."""

    name: str
    read_out: Callable[[Features], dict[str, _Answer]]
    """Answers by name: its own and, of sections, that among neighbours."""
    place: Callable[[], _Answer] | None
    chance: _Answer
    tested: Codes
    classes: Mapping[str, int]
    """Number of classes, by the name of the answer; 0 for numbers."""
    note: str
    remarks: tuple[str, ...] = ()


def shortcuts(
    table: AnnData,
    split: Split,
    *,
    target: str | None = None,
    seed: int = 0,
    compare: bool = True,
    extra_tables: Mapping[str, AnnData] | None = None,
) -> Score:
    """Score how much of vessels, folds, section and brain a linear readout finds in the features.

    Asked are ``vessel`` (how much of the tissue around is vessel; R^2 of ridge regression), ``fold`` (the angle at
    which cortex lies on the slide, `FOLD`; R^2 of its sine and cosine together), ``section`` and ``brain`` (balanced
    accuracy of multinomial regression). Numbers are read out of what ``split`` holds out. Every class of the others has
    to be on both sides: of each section a quarter (cut across its long axis) is held out in turn, of each brain a
    quarter of its sections (side by side), and training rows near a test row are dropped, so that neighbours do not
    give it away. What the table does not tell is not asked, and said.

    The headline is the mean share read out: R^2 of numbers, and balanced accuracy scaled from chance (0) to 1, each at
    least 0. **Lower is better**, and a gain below 0 says that the features know less than the rival. Untrained encoder,
    hand-made statistics and other tables (SimCLR) stand beside it, and beside each shortcut in ``more``; so does
    position: sections lie elsewhere, too, so that features which know the place tell sections that are far apart.
    ``section, among neighbours`` therefore asks for the right one of three that lie side by side (chance 1/3).

    Parameters
    ----------
    table : AnnData
        Feature table; ``obs`` with id, subject, section, x_mm, y_mm, z_mm.
    split : Split
        What is held out whole for numbers; its buffer is the gap for sections and brains, too (by default four times
        the median distance between neighbouring rows: give the width of a patch).
    target : str, optional
        One shortcut only: ``vessel``, ``fold``, ``section``, ``brain``, or a numeric column (an angle if it ends in
        ``_deg``).
    seed : int
        Key of every draw.
    compare : bool
        False leaves out the rivals.
    extra_tables : mapping of str to AnnData, optional
        Rivals embedded from the same samples, by name.

    Returns
    -------
    Score
        ``more`` holds a value for each shortcut and, as ``<shortcut>: <rival>``, for each rival; ``gains`` the same
        names, features minus rival, in the measure of the row, paired over the same draws.

    Raises
    ------
    Refused
        Nothing can be asked of this table, features that are not finite, or a rival that lacks rows.
    Usage
        The target is neither a shortcut nor a column of numbers.
    Leak
        Train and test share a group or a buffered neighbourhood.
    """
    x = _rows.features(table)
    cluster, unit, limits = _units(table)
    boot = metrics.Bootstrap.of(cluster, seed)
    asked, missing = _asked(table, split, target, boot, seed)
    if not asked:
        raise Refused(
            "shortcuts are asked of what a table tells of its rows.", found=f"nothing: {'; '.join(missing)}.",
            do="give sections and brains, or columns such as 'vessel' and 'angle_deg'.",
        )  # fmt: skip
    given: dict[str, Features] = {}
    remarks = [METRIC.split(", ")[1], *limits, *(f"not asked: {text}" for text in missing)]
    if compare:
        given = {**_rows.baselines(table)}
        for name, other in (extra_tables or {}).items():
            given[name] = _rows.aligned(table, other, name)
            remarks.append(_rows.exposure(other, split, f"the encoder of '{name}'"))
    said = {one.name: {"features": one.read_out(x)} for one in asked}
    for one in asked:
        if compare and one.place is not None:
            said[one.name]["coordinates only"] = {one.name: one.place()}
        said[one.name] |= {name: one.read_out(features) for name, features in given.items()}
        if compare:
            said[one.name]["chance"] = {one.name: one.chance}
    own, draws = _mean(asked, said, "features", boot)
    against: dict[str, Estimate] = {}
    gains: dict[str, Estimate] = {}
    for name in dict.fromkeys(rival for one in asked for rival in said[one.name] if rival != "features"):
        if any(name not in said[one.name] for one in asked):
            continue
        value, drawn = _mean(asked, said, name, boot)
        against[name], gains[name] = metrics.estimate(value, drawn), metrics.estimate(own - value, draws - drawn)
    more: dict[str, Estimate] = {}
    for one in asked:
        rows, paired = _rows_of(one, said[one.name], boot)
        more |= rows
        gains |= paired
        remarks += one.remarks
    if NEAR in more and "coordinates only" in against:
        remarks.append(
            f"sections differ in place, too: what is told beyond coordinates, and '{NEAR}', is of the slide itself"
        )
    remarks.append(_rows.exposure(table, split))
    overall, about = metrics.estimate(own, draws), _rows.about(table)
    tested = np.unique(np.concatenate([one.tested for one in asked]))
    return Score(
        task="shortcuts", target=target or "all", metric=METRIC, value=own, interval=(overall.low, overall.high),
        n=len(tested), n_groups=len(np.unique(cluster[tested])), cluster=unit,
        what=str(about.get("system", "rows")), split="; ".join(f"{one.name}: {one.note}" for one in asked),
        probe="linear", seed=seed, baselines=against, gains=gains, more=more,
        recipe_hash=str(about.get("recipe_hash", "")), data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=tuple(text for text in remarks if text),
    )  # fmt: skip


def _units(table: AnnData) -> tuple[Codes, str, list[str]]:
    """Units of the bootstrap, the same for every shortcut: sections, or sixteen blocks of each where they are few."""
    obs = _rows.places(table)
    section = _rows.numbers(pd.Series(splits.groups(obs, Split(by="section"))))[0]
    if section.max() + 1 >= _FEW_SECTIONS:
        return section, "sections", []
    few = f"{section.max() + 1} sections are too few to draw from: the interval is over sixteen blocks of each"
    return _surroundings.blocks(_surroundings.positions(table), section), "blocks", [few]


def _asked(
    table: AnnData, split: Split, target: str | None, boot: metrics.Bootstrap, seed: int
) -> tuple[list[_Shortcut], list[str]]:
    """Shortcuts that can be asked of a table, and why the others cannot."""
    obs = _rows.places(table)
    told = numbers.columns(obs, wrapped=True)
    fold = next((name for name in FOLD if name in told), None)
    if target is not None and target not in {"vessel", "fold", "section", "brain", *told}:
        raise Usage(
            "a shortcut is vessel, fold, section, brain, or a column of numbers that vary.", found=f"'{target}'.",
            do=f"here there are {', '.join(['section', 'brain', *told])}.",
        )  # fmt: skip
    found: list[_Shortcut] = []
    missing: list[str] = []
    for name, column in (("vessel", "vessel"), ("fold", fold)):
        if target in {None, name}:
            if column is None or column not in told:
                wanted = " or ".join(f"'{text}'" for text in (FOLD if name == "fold" else ("vessel",)))
                missing.append(f"{name} (no column {wanted} of numbers that vary)")
            else:
                found.append(_number(table, name, column, split, boot, seed))
    if target is not None and target in told and target != "vessel":
        found.append(_number(table, target, target, split, boot, seed))
    for name, make in (("section", _identity.of_sections), ("brain", _identity.of_brains)):
        if target in {None, name}:
            one = make(table, split.buffer_mm, seed)
            if isinstance(one, str):
                missing.append(f"{name} ({one})")
            else:
                found.append(_name(table, name, one, boot, seed))
    return found, missing


def _number(
    table: AnnData, name: str, column: str, split: Split, boot: metrics.Bootstrap, seed: int
) -> _Shortcut:  # fmt: skip
    """A number, or the sine and cosine of an angle, read out by ridge regression."""
    obs = _rows.places(table)
    y, remarks = numbers.known(obs, column)
    made = splits.folds(obs, split)
    parts, inner = numbers.parts(made, y), numbers.inner(obs, split)
    turn = np.deg2rad(y)
    wanted = [np.sin(turn), np.cos(turn)] if column.endswith("_deg") else [y]
    tested = np.concatenate([test for _, test in parts])
    size = boot.times.shape[1]
    level = [np.concatenate([np.full(len(b), one[a].mean()) for a, b in parts]) for one in wanted]

    def answer(said: list[Real], note: str = "") -> _Answer:
        error, base = (
            sum(((one[tested] - other) ** 2 for one, other in zip(wanted, others, strict=True)), np.zeros(len(tested)))
            for others in (said, level)
        )
        units = boot.cluster[tested]
        return _Answer.of(error, base, units, size, note)

    def read_out(x: Features) -> dict[str, _Answer]:
        said = [
            np.concatenate([fit_predict("ridge", x[a], one[a], inner(a), x[b], seed)[0] for a, b in parts])
            for one in wanted
        ]
        return {name: answer(said)}

    def place() -> _Answer:
        where, kind = metrics.coordinates(obs)
        forms = [numbers.from_position(where, kind, one, parts, inner, seed) for one in wanted]
        answers = [answer([form[key] for form in forms], f"best form: {key}") for key in forms[0]]
        return max(answers, key=lambda one: one.share)

    what = "sine and cosine of " if column.endswith("_deg") else ""
    text = f"R^2, {what}{column}" if what or column != name else "R^2"
    return _Shortcut(
        name, read_out, place if _placed(obs) else None, answer(level), tested, {name: 0},
        splits.describe(split, made), (*remarks, f"{name}: {text}") if text != "R^2" else tuple(remarks),
    )  # fmt: skip


def _name(
    table: AnnData, name: str, one: _identity.Identity, boot: metrics.Bootstrap, seed: int
) -> _Shortcut:  # fmt: skip
    """Sections or brains, read out by multinomial regression."""
    obs = _rows.places(table)
    tested, count = one.tested, len(one.classes)
    truth, size = one.codes[tested], boot.times.shape[1]
    weight = 1 / np.bincount(truth, minlength=count)[truth]

    def answer(right: NDArray[np.bool_], of: int, note: str = "") -> _Answer:
        # balanced accuracy weighs a row by one over the size of its class; chance is then 1, right 0
        error = np.where(right, 0.0, weight * of / (of - 1))
        units = boot.cluster[tested]
        return _Answer.of(error, weight, units, size, note)

    def read_out(x: Features) -> dict[str, _Answer]:
        sure = one.read_out(x, seed)
        found = {name: answer(sure.argmax(axis=1) == truth, count)}
        if len(one.near):
            among = np.take_along_axis(sure, one.near[truth], axis=1)
            found[NEAR] = answer(among[:, 0] > among[:, 1:].max(axis=1), 3)
        return found

    def place() -> _Answer:
        where, kind = metrics.coordinates(obs)
        forms = one.from_position({kind: where}, seed)
        answers = [answer(said == truth, count, f"best form: {key}") for key, said in forms.items()]
        return max(answers, key=lambda other: other.share)

    drawn = rivals.chance(one.codes, one.parts, seed)
    return _Shortcut(
        name, read_out, place if _placed(obs) else None, answer(drawn == truth, count), tested,
        {name: count, NEAR: 3}, one.held, one.remarks,
    )  # fmt: skip


def _placed(obs: pd.DataFrame) -> bool:
    where, _ = metrics.coordinates(obs)
    return bool(np.isfinite(where).all() and np.ptp(where, axis=0).any())


def _mean(
    asked: list[_Shortcut], said: Mapping[str, Mapping[str, Mapping[str, _Answer]]], rival: str, boot: metrics.Bootstrap
) -> tuple[float, Real]:
    """Mean share that a contender reads out, and its draws; nothing is less than nothing."""
    answers = [said[one.name][rival][one.name] for one in asked]
    # a read-out that is worse than knowing nothing knows nothing: it must not make up for another shortcut
    value = float(np.mean([max(answer.share, 0.0) for answer in answers]))
    return value, np.mean([np.maximum(answer.draws(boot.times), 0.0) for answer in answers], axis=0)


def _rows_of(
    one: _Shortcut, said: Mapping[str, Mapping[str, _Answer]], boot: metrics.Bootstrap
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Rows of one shortcut in its own measure, features first, and what features have over each rival."""
    rows: dict[str, Estimate] = {}
    gains: dict[str, Estimate] = {}
    for key, own in said["features"].items():
        of = one.classes[key]

        def measured(share: float | Real, of: int = of) -> Real:
            return np.asarray(share) * (1 - 1 / of) + 1 / of if of else np.asarray(share)

        mine, drawn = float(measured(own.share)), measured(own.draws(boot.times))
        text = f"balanced accuracy, chance {1 / of:.2f}" if of else "R^2"
        rows[key] = metrics.estimate(mine, drawn, text)
        for rival, answers in said.items():
            if rival in {"features", "chance"} or key not in answers:
                continue
            other = answers[key]
            value, others = float(measured(other.share)), measured(other.draws(boot.times))
            name = f"{key}: {rival}"
            gains[name] = metrics.estimate(mine - value, drawn - others)
            rows[name] = metrics.estimate(value, others, other.note)
    return rows, gains
