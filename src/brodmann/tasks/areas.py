"""Areas: whether they can be read out of features of tissue that the readout never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import splits
from brodmann.errors import Refused
from brodmann.samples import stream
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks import _classes, _head, _rows
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _rivals as rivals
from brodmann.tasks import _unrelated as unrelated
from brodmann.tasks._drawn import drawn
from brodmann.tasks._probe import fit_predict
from brodmann.tasks._score import Estimate, Score

Codes = NDArray[np.int64]

_DRAWS = 5
_FIXED_PENALTY = 1e-2


def areas(
    table: AnnData,
    target: str,
    split: Split,
    *,
    probe: Literal["linear", "knn", "head"] = "linear",
    seed: int = 0,
    min_per_class: int = 30,
    compare: bool = True,
    extra_tables: Mapping[str, AnnData] | None = None,
    fewer_labels: Sequence[int] = (),
    border_mm: float | None = None,
    folds: Sequence[Fold] | None = None,
) -> Score:
    """Score how well a simple readout of the features names the area of held-out tissue.

    The headline is macro-F1 over all held-out rows of all folds. Every rival goes through the same folds and the same
    probe: position alone, the features that came with the table (untrained encoder, statistics, profiles), other
    tables, chance, and a spatial null.

    Parameters
    ----------
    table : AnnData
        Feature table; ``obs`` with id, subject, section, x_mm, y_mm, z_mm and the target.
    target : str
        A column of ``obs``; empty and missing values take no part.
    split : Split
        What is held out whole.
    probe : {"linear", "knn", "head"}
        Multinomial logistic regression, or 15 nearest rows by cosine; or the model's own head, if it was tuned on this
        target: rivals are then read out linearly, and rows that it is unsure of are ``"unsure"`` in ``predicted``.
    seed : int
        Key of every draw.
    min_per_class : int
        Classes with fewer rows are left out.
    compare : bool
        False computes the headline alone.
    extra_tables : mapping of str to AnnData, optional
        Rivals embedded from the same samples (SimCLR, from scratch ...), by name.
    fewer_labels : sequence of int
        Also give macro-F1 from so many training labels (balanced over classes, mean of 5 draws).
    border_mm : float, optional
        A wrong answer that is true within this distance counts as right in the border-tolerant accuracy; by default
        twice the median distance between neighbouring rows.
    folds : sequence of Fold, optional
        Use these folds; they are proven against ``split`` first.

    Returns
    -------
    Score
        With predictions for the held-out rows.

    Raises
    ------
    Leak
        Train and test share a group or a buffered neighbourhood, or a model was tuned on labels that are tested.
    Refused
        Too few groups or classes, features that are not finite, a rival that lacks rows, a head that is not there.
    Usage
        No such target.
    """
    obs = _rows.places(table)
    _head.refuse_seen(table, target, split, extra_tables)
    made = _rows.check_folds(table, split, None if folds is None else list(folds))
    known = _rows.labelled(table, target, split, min_per_class=min_per_class)
    codes, size = known.codes, len(known.classes)
    parts = _classes.parts(made, codes)
    tested = np.concatenate([test for _, test in parts])
    group = splits.groups(obs, split)
    brain = _rows.brains(table)
    x = _rows.features(table)
    head = _head.of(table, target, known.classes, tested, codes[tested])
    if probe == "head" and head is None:
        raise Refused(
            f"probe 'head' needs a model with a head for '{target}'.", found=_head.whose(table),
            do="tune one (the recipe's [tune]), embed, and score again; or leave the probe out.",
        )  # fmt: skip
    simple = "linear" if probe == "head" else probe

    def read_out(features: NDArray[np.float32]) -> Codes:
        return np.concatenate(
            [fit_predict(simple, features[a], codes[a], group[a], features[b], seed)[0] for a, b in parts]
        )

    said = head.said if head is not None and probe == "head" else read_out(x)
    truth = codes[tested]
    cluster, unit, remarks = drawn(table, split, tested)
    boot = metrics.Bootstrap.of(cluster, seed)
    matrix = metrics.confusion(truth, said, size)
    judge = _classes.Judge(truth, size, boot, metrics.macro_f1)
    recall = _classes.Judge(truth, size, boot, metrics.balanced_accuracy)
    right = _classes.Judge(truth, size, boot, metrics.accuracy)
    value, overall = judge.value(said), judge.estimate(said)
    more = {
        "balanced accuracy": recall.estimate(said, f"chance {1 / size:.2f}"),
        "accuracy": right.estimate(said),
        **_borders(obs, brain, codes, tested, said, border_mm),
        **({} if head is None else head.measures(judge)),
    }
    remarks = [
        *known.remarks,
        *remarks,
        *([] if head is None else head.remarks(more)),
        *_caveats(table, split, extra_tables or {}),
    ]
    found: dict[str, Codes] = {}
    against: dict[str, Estimate] = {}
    gains: dict[str, Estimate] = {}
    if compare:
        if head is not None:
            found |= {"linear probe": read_out(x)} if probe == "head" else {_head.ROW: head.said}
        given = {**_rows.baselines(table)}
        given |= {name: _rows.aligned(table, other, name) for name, other in (extra_tables or {}).items()}
        coordinates = _where(obs)
        forms = rivals.from_position(coordinates, codes, group, parts, size, seed)
        form = judge.best(forms)
        found["coordinates only"] = forms[form]
        found |= {name: read_out(features) for name, features in given.items()}
        found["chance"] = rivals.chance(codes, parts, seed)
        notes = {
            "coordinates only": f"best form on the held-out rows: {form}",
            "chance": "labels drawn with the class shares of the training rows",
            _head.ROW: "what the model itself says, without any read-out",
            "linear probe": "of the same features, as rivals are read out",
        }
        for name, rival in found.items():
            against[name], gains[name] = judge.estimate(rival, notes.get(name, "")), judge.gain(said, rival)
        more |= _together(x, given, coordinates, codes, group, parts, found, judge, seed, read_out)
        null = unrelated.of_classes(
            x, next(iter(coordinates.values())), _rows.numbers(obs["subject"])[0], codes, parts,
            probe=simple, measure=metrics.macro_f1, seed=seed,
        )  # fmt: skip
        estimates = null.estimates()
        against["spatial null"] = estimates.pop("spatial null")
        more |= estimates
        remarks += null.remarks()
        if against["coordinates only"].value >= value:
            remarks.append(
                "position alone names these areas at least as well as the features do; an atlas's labels are "
                "a function of position"
            )
        for count in fewer_labels:
            more[f"macro-F1 from {count} labels"] = _few(x, codes, parts, size, count, simple, seed)
            for name, features in given.items():
                more[f"{name} from {count} labels"] = _few(features, codes, parts, size, count, simple, seed)
    names, classes, shown = _rows.ids(table)[tested], known.classes, said
    if probe == "head" and head is not None and head.calibrated:
        classes, shown = (*classes, _head.UNSURE), np.where(head.sure, said, size)
        matrix = metrics.confusion(truth, shown, size + 1)
        remarks.append(
            "macro-F1 takes the most probable class of every row; in the matrix and on maps "
            f"{(~head.sure).sum():,} rows are '{_head.UNSURE}'"
        )
    about = _rows.about(table)
    return Score(
        task="areas",
        target=target,
        metric="macro-F1",
        value=value,
        interval=(overall.low, overall.high),
        n=len(tested),
        n_groups=boot.times.shape[1],
        cluster=unit,
        what=str(about.get("system", "rows")),
        split=splits.describe(split, made),
        folds=tuple(fold.name for fold in made),
        probe=probe,
        scored=_head.ROW if probe == "head" else "features",
        seed=seed,
        baselines=against,
        gains=gains,
        more=more,
        classes=classes,
        per_class=metrics.per_class(matrix, known.classes),
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
        predicted=_classes.series(classes, shown, names, "predicted"),
        truth=_classes.series(known.classes, truth, names, "truth"),
        recipe_hash=str(about.get("recipe_hash", "")),
        data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=tuple(remarks),
    )


def _caveats(table: AnnData, split: Split, extra_tables: Mapping[str, AnnData]) -> list[str]:
    remarks = [_rows.exposure(table, split)]
    remarks += [_rows.exposure(other, split, f"the encoder of '{name}'") for name, other in extra_tables.items()]
    if split.by == "block" and split.buffer_mm == 0:
        remarks.append("blocks touch: images at their borders overlap training images; set split.buffer_mm")
    if cast("Mapping[str, Any]", table.uns.get("space", {})).get("name") == "unregistered":
        remarks.append("sections are not registered: 'coordinates only' means the position within a section")
    return [text for text in remarks if text]


def _where(obs: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Every set of coordinates there is, by name."""
    best, name = metrics.coordinates(obs)
    return {name: best} | ({"space": splits.positions(obs)} if name == "sheet" else {})


def _together(
    x: NDArray[np.float32],
    given: Mapping[str, NDArray[np.float32]],
    where: Mapping[str, NDArray[np.float64]],
    codes: Codes,
    group: Any,
    parts: _classes.Parts,
    found: Mapping[str, Codes],
    judge: _classes.Judge,
    seed: int,
    read_out: Any,
) -> dict[str, Estimate]:
    """Features joined with statistics and with position, and what they add to each."""
    pairs: dict[str, tuple[Codes, str]] = {}
    if "statistics" in given:
        pairs["statistics + features"] = read_out(np.hstack([x, given["statistics"]])), "statistics"
    forms: dict[str, Codes] = {}
    for kind, xy in where.items():
        joined: list[Codes] = []
        for train, test in parts:
            both = np.hstack([rivals.place_features(xy, train, seed), x])
            joined.append(fit_predict("linear", both[train], codes[train], group[train], both[test], seed)[0])
        forms[kind] = np.concatenate(joined)
    # as of coordinates alone, the better form on the held-out rows counts
    pairs["coordinates + features"] = forms[judge.best(forms)], "coordinates only"
    result: dict[str, Estimate] = {}
    for name, (said, without) in pairs.items():
        gain = judge.gain(said, found[without])
        note = (
            f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over {without} ({judge.value(found[without]):.3f})"
        )
        result[name] = judge.estimate(said, note)
    return result


def _few(
    x: NDArray[np.float32],
    codes: Codes,
    parts: _classes.Parts,
    size: int,
    count: int,
    probe: Literal["linear", "knn"],
    seed: int,
) -> Estimate:
    """Macro-F1 from few labels, balanced over classes: mean, least and most of the draws."""
    values: list[float] = []
    for draw in range(_DRAWS):
        matrix = np.zeros((size, size), dtype=np.int64)
        for number, (train, test) in enumerate(parts):
            rng = stream(seed, "few labels", count, draw, number)
            mixed = rng.permutation(train)
            order = codes[mixed]
            each = max(count // size, 1)
            some = np.concatenate([mixed[order == k][:each] for k in range(size)])
            said, _ = fit_predict(probe, x[some], codes[some], some, x[test], seed, penalty=_FIXED_PENALTY)
            matrix += metrics.confusion(codes[test], said, size)
        values.append(float(metrics.macro_f1(matrix)))
    return Estimate(
        float(np.mean(values)), min(values), max(values), f"mean, least and most of {_DRAWS} balanced draws"
    )


def _borders(
    obs: pd.DataFrame,
    brain: NDArray[np.object_],
    codes: Codes,
    tested: NDArray[np.int64],
    said: Codes,
    border_mm: float | None,
) -> dict[str, Estimate]:
    """Border-tolerant accuracy, and how near to a border the errors lie."""
    where, kind = metrics.coordinates(obs)
    known = np.flatnonzero(codes >= 0)
    at = np.searchsorted(known, tested)
    where, owner, labels = where[known], brain[known], codes[known]
    reach = 2 * metrics.spacing(where, owner) if border_mm is None else border_mm
    wrong = said != labels[at]
    near = np.zeros(len(at), dtype=bool)
    near[wrong] = metrics.class_distance(where, owner, labels, at[wrong], said[wrong]) <= reach
    result = {
        "border-tolerant accuracy": Estimate(
            float((near | ~wrong).mean()), note=f"right, or true within {reach:.2g} mm (in the {kind})"
        )
    }
    distance = metrics.border_distance(where, owner, labels, at)
    for name, some in (("errors to border, mm", distance[wrong]), ("all rows to border, mm", distance)):
        some = some[np.isfinite(some)]
        if len(some):
            low, middle, high = np.percentile(some, [25, 50, 75])
            result[name] = Estimate(float(middle), float(low), float(high), "median and quartiles")
    return result
