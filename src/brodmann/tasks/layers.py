"""Layers: how well the layer of every pixel is told on sections that gave no labels.

n patches, K classes in the order of depth, H and W pixels, G sections or brains, B draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Leak, Refused
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._drawn import FEW_BRAINS
from brodmann.tasks._pixels import Plane, Tally, depth_prior, majority
from brodmann.tasks._score import Estimate, Score

if TYPE_CHECKING:
    from brodmann.progress import Say

__all__ = ["NO_LAYER", "Segmented", "Tally", "cortical", "depth_prior", "judge", "layers", "majority", "patch_f1"]

Real = NDArray[np.float64]

NO_LAYER = ("background", "white matter")
"""Classes that are told and judged, but are no layers of cortex: the headline is over the others."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Segmented:
    """Told and true layers of patches of one section.

    Parameters
    ----------
    subject, section : str
        The brain, and the section (unique in its brain).
    ids : ndarray (n,) of str
    predicted, truth : ndarray (n, H, W) uint8
        Index of the class; 255 in ``truth`` is not judged.
    pixel_um : float
    rivals : mapping of str to ndarray (n, H, W) uint8
        Other answers to the same.
    upright : bool
        Patches stand pia up about the middle of cortex, so that borders can be followed along their columns.
    """

    subject: str
    section: str
    ids: NDArray[Any]
    predicted: Plane
    truth: Plane
    pixel_um: float
    rivals: Mapping[str, Plane] = field(default_factory=lambda: dict[str, Plane]())
    upright: bool = True


def layers(
    answers: Iterable[Segmented],
    *,
    classes: Sequence[str],
    target: str = "layers",
    by: Literal["brain", "section"] = "brain",
    split: str = "",
    taught: Iterable[tuple[str, str]] = (),
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    say: Say | None = None,
) -> Score:
    """Score told layers: macro-F1 over layers, Dice of each class, how far borders are off; see `judge`.

    Parameters
    ----------
    answers : iterable of Segmented
        Taken one at a time, so that they may be computed as they are asked for.
    classes : sequence of str
        In the order of depth; those of `NO_LAYER` are judged but stay out of the headline.
    target : str
        What was told, for the name of the score.
    by : {"brain", "section"}
        What was held out whole.
    split : str
        What was held out, in words.
    taught : iterable of (str, str)
        Brain and section of every patch that gave labels.
    seed : int
        Key of every draw.
    about : mapping, optional
        ``recipe_hash`` and ``data_fingerprint`` of what told.
    say : Say, optional
        Where it is said which section is done.

    Returns
    -------
    Score

    Raises
    ------
    Leak
        A judged section (or brain) gave labels.
    Refused
        No answers, rivals missing in a part, or arrays that do not fit.
    """
    tallies: dict[str, list[Tally]] = {}
    subject: list[str] = []
    section: list[str] = []
    names: set[str] | None = None
    for answer in answers:
        told = {"": answer.predicted, **answer.rivals}
        names = set(told) if names is None else names
        if set(told) != names:
            raise Refused("rivals should answer for every section.", found=f"{sorted(told)}, before {sorted(names)}.")
        for name, one in told.items():
            tally = Tally.of(one, answer.truth, len(classes), answer.pixel_um, upright=answer.upright)
            tallies.setdefault(name, []).append(tally)
        subject += [answer.subject] * len(answer.truth)
        section += [answer.section] * len(answer.truth)
        if say is not None:
            say(f"{answer.section}: layers of {len(answer.truth)} patches judged")
    joined = {name: Tally.joined(parts) for name, parts in tallies.items()}
    places = pd.DataFrame({"subject": subject, "section": section})
    return judge(
        joined, places, classes=classes, target=target, by=by, split=split, taught=taught, seed=seed, about=about
    )


def judge(
    tallies: Mapping[str, Tally],
    places: pd.DataFrame,
    *,
    classes: Sequence[str],
    target: str = "layers",
    by: Literal["brain", "section"] = "brain",
    split: str = "",
    taught: Iterable[tuple[str, str]] = (),
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> Score:
    """What `layers` makes of its answers, from tallies that may have been kept; "" is the answer that is scored.

    The headline is the mean F1 over cortical layers, each over all judged pixels together, where F1 and the Dice
    overlap are one number. ``more`` has the Dice of each class so, the mean Dice of the layers in a patch, and how far
    told borders are from true ones along the columns of patches (`_columns.border_errors`). Intervals draw held-out
    brains whole, or their sections where brains are few.

    Parameters
    ----------
    tallies : mapping of str to Tally
    places : DataFrame
        ``subject`` and ``section`` of each patch.
    classes, target, by, split, taught, seed, about
        As in `layers`.

    Returns
    -------
    Score
        ``per_class`` and ``confusion`` count pixels, ``n`` patches; ``predicted`` and ``truth`` are empty.

    Raises
    ------
    Leak
        A judged section (or brain) gave labels.
    Refused
        No answers.
    """
    if not tallies or not len(places):
        raise Refused("some patch with layers should be held out.", found="none.")
    _apart(places, by, list(taught))
    main, size = tallies[""], len(classes)
    core = cortical(classes)
    unit, remarks = _units(places, by)
    boot = metrics.Bootstrap.of(unit[1], seed)
    if boot.times.shape[1] == 1:
        # one unit drawn again and again would seem to have no spread at all
        boot = replace(boot, times=np.full_like(boot.times, np.nan))
    drawn = {name: _Drawn.of(tally, boot, core) for name, tally in tallies.items()}
    own = drawn[""]
    overall = own.headline
    matrix = main.confusion.sum(0)
    f1 = metrics.per_class_f1(matrix)
    more = {f"Dice, {name}": metrics.estimate(float(f1[k]), own.f1[:, k]) for k, name in enumerate(classes)}
    more["mean Dice in a patch"] = own.patch
    more["macro-F1 with background and white matter"] = metrics.estimate(
        float(_mean(f1)), _mean(own.f1), f"{size} classes"
    )
    more["accuracy"] = metrics.estimate(
        float(metrics.accuracy(matrix)), metrics.accuracy(boot.times @ _grouped(main.confusion, boot)), "of pixels"
    )
    more |= _borders(drawn, classes)
    here = [name for k, name in enumerate(classes) if k in core and matrix[k].sum()]
    absent = [name for k, name in enumerate(classes) if k in core and not matrix[k].sum()]
    untold = [name for k, name in enumerate(classes) if matrix[k].sum() and not matrix[:, k].sum()]
    remarks.append(f"macro-F1 is of pixels, mean of {', '.join(here)}")
    if untold:
        remarks.append(
            f"never told: {', '.join(untold)}; other classes are painted in their place, and their borders lie at the "
            "ends of what was told"
        )
    if absent:
        remarks.append(f"no judged pixel is of {', '.join(absent)}: left out of means")
    if not own.columns.any():
        remarks.append("no column of an upright patch crosses a border: distances of borders are not known")
    made = about or {}
    held = places["section" if by == "section" else "subject"].nunique()
    return Score(
        task="layers",
        target=target,
        metric="macro-F1 of layers",
        value=overall.value,
        interval=(overall.low, overall.high),
        n=len(places),
        n_groups=boot.times.shape[1],
        cluster=unit[0],
        what="patches",
        scored="model",
        split=split or f"{by}, {held} held out",
        probe="decoder",
        seed=seed,
        baselines={name: one.headline for name, one in drawn.items() if name},
        gains={
            name: metrics.estimate(overall.value - one.headline.value, own.macro - one.macro)
            for name, one in drawn.items()
            if name
        },
        more=more,
        classes=tuple(classes),
        per_class=metrics.per_class(matrix, tuple(classes)),
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
        recipe_hash=str(made.get("recipe_hash", "")),
        data_fingerprint=str(made.get("data_fingerprint", "")),
        remarks=tuple(remarks),
    )


def cortical(classes: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of the classes that are layers of cortex."""
    return np.array([k for k, name in enumerate(classes) if name not in NO_LAYER], dtype=np.int64)


def patch_f1(tally: Tally, core: NDArray[np.int64]) -> Real:
    """Mean F1 in each patch, over the layers ``core`` that it holds or is told to hold: (n,); NaN where none."""
    return _mean(metrics.per_class_f1(tally.confusion)[:, core])


@dataclass(frozen=True, eq=False)
class _Drawn:
    """One answer over the draws of a bootstrap.

    ``f1`` is (B, K) and ``macro`` (B,); ``off_um`` and ``off_draws`` are the borders' mean distances, (K - 1,) and
    (B, K - 1); ``columns`` (K - 1,) counts columns, ``off`` is the mean over all of them.
    """

    headline: Estimate
    f1: Real
    macro: Real
    patch: Estimate
    off: Estimate
    off_um: Real
    off_draws: Real
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, tally: Tally, boot: metrics.Bootstrap, core: NDArray[np.int64]) -> _Drawn:
        size = tally.confusion.shape[1]
        f1 = metrics.per_class_f1((boot.times @ _grouped(tally.confusion, boot)).reshape(-1, size, size))
        macro = _mean(f1[:, core])
        value = float(_mean(metrics.per_class_f1(tally.confusion.sum(0))[core]))
        each = patch_f1(tally, core)
        known = np.isfinite(each)
        sums = boot.times @ _grouped(np.stack([np.where(known, each, 0), known], axis=1), boot)
        patch = float(each[known].mean()) if known.any() else np.nan
        away, columns = (boot.times @ _grouped(part, boot) for part in (tally.away_um, tally.columns))
        total, count = tally.away_um.sum(0), tally.columns.sum(0)
        return cls(
            headline=metrics.estimate(value, macro),
            f1=f1,
            macro=macro,
            patch=metrics.estimate(patch, _ratio(sums[:, 0], sums[:, 1]), "over the layers that it holds"),
            off=metrics.estimate(
                float(_ratio(total.sum(), count.sum())), _ratio(away.sum(1), columns.sum(1)),
                f"mean over {int(count.sum()):,} crossings of borders by columns",
            ),
            off_um=_ratio(total, count),
            off_draws=_ratio(away, columns),
            columns=count,
        )  # fmt: skip


def _borders(drawn: Mapping[str, _Drawn], classes: Sequence[str]) -> dict[str, Estimate]:
    """How far borders are off: all, each, and all of each rival."""
    own = drawn[""]
    if not own.columns.any():
        return {}
    found = {"border error, um": own.off}
    for k in np.flatnonzero(own.columns).tolist():
        found[f"border {classes[k]} to {classes[k + 1]}, um"] = metrics.estimate(
            float(own.off_um[k]), own.off_draws[:, k], f"{int(own.columns[k]):,} columns"
        )
    return found | {f"border error of {name}, um": one.off for name, one in drawn.items() if name}


def _apart(places: pd.DataFrame, by: str, taught: list[tuple[str, str]]) -> None:
    """Refuse to judge what gave labels."""
    if by == "brain":
        shared = set(places["subject"].astype(str)) & {subject for subject, _ in taught}
    else:
        held = set(zip(places["subject"].astype(str), places["section"].astype(str), strict=True))
        shared = {section for subject, section in taught if (subject, section) in held}
    if shared:
        raise Leak(
            f"no {by} should both give labels and be judged.",
            found=f"{len(shared)}: {', '.join(sorted(shared)[:5])}.",
            do="judge the held-out fold alone.",
        )


def _units(places: pd.DataFrame, by: str) -> tuple[tuple[str, NDArray[np.int64]], list[str]]:
    """What a bootstrap draws: its name, the unit of each patch, and what that limits."""
    brains, remarks = places["subject"].nunique(), list[str]()
    word = by
    if by == "brain" and brains < FEW_BRAINS:
        word = "section"
        remarks.append(f"{brains} held-out brains are too few to draw from: the interval is over their sections")
    elif by != "brain" and brains == 1:
        remarks.append("one brain: nothing here says how layers are told in another")
    who, what = places["subject"].astype(str), places["section"].astype(str)
    number = pd.factorize(who if word == "brain" else who + "/" + what, sort=True)[0]
    count = int(number.max()) + 1
    if count == 1:
        remarks.append(f"one held-out {word}: there is no interval")
    elif count < 8:
        remarks.append(f"an interval from {count} {word}s is rough")
    return (f"{word}s", np.asarray(number, np.int64)), remarks


def _grouped(values: NDArray[Any], boot: metrics.Bootstrap) -> Real:
    """Sums over the rows of each unit: (G, everything else flat)."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    out = np.zeros((boot.times.shape[1], flat.shape[1]))
    np.add.at(out, boot.cluster, flat)
    return out


def _mean(values: Real) -> Real:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.where(known.any(axis=-1), total / np.maximum(known.sum(axis=-1), 1), np.nan)


def _ratio(total: Any, count: Any) -> Real:
    return np.where(np.asarray(count) > 0, total / np.maximum(count, 1e-12), np.nan)
