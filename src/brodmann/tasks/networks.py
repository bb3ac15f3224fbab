"""Networks: whether a functional parcellation can be read out of structure, beyond what place alone allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import splits
from brodmann.errors import Refused, Usage
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks import _classes, _head, _rows, _surroundings
from brodmann.tasks import _metrics as metrics
from brodmann.tasks import _null as nulls_
from brodmann.tasks import _rivals as rivals
from brodmann.tasks._drawn import drawn
from brodmann.tasks._probe import fit_predict
from brodmann.tasks._score import Estimate, Score
from brodmann.tasks._spin import MIRROR, Matching, Sphere, sides

Codes = NDArray[np.int64]
Real = NDArray[np.float64]

NULLS = 200
NOT_CORTEX = (
    "", "???", "unknown", "none", "nan", "0", "background", "medial wall", "medial_wall", "corpuscallosum",
    "freesurfer_defined_medial_wall", "background+freesurfer_defined_medial_wall",
)  # fmt: skip
"""Names (in small letters) that parcellations give to places without one: no class, and never predicted."""
_FEW_UNITS, _TURNED_DEG = 8, 3.0


def networks(
    table: AnnData,
    target: str,
    split: Split,
    *,
    hemispheres: bool = False,
    seed: int = 0,
    min_per_class: int = 10,
    nulls: int = NULLS,
    matching: Matching = "nearest",
    compare: bool = True,
    extra_tables: Mapping[str, AnnData] | None = None,
    folds: Sequence[Fold] | None = None,
) -> Score:
    """Score how well multinomial regression on the features names the functional network of held-out cortex.

    The headline is balanced accuracy (mean recall) over the held-out rows of all folds. Brains are smooth, so that
    place alone names networks well: the question is what structure adds. Beside the headline stand, through the same
    folds, place alone in several forms (nearest places and smooth functions; the strongest is the rival), the features
    that came with the table, other tables, and a spatial null with its p value. The gain of features and coordinates
    together over the strongest form of coordinates is paired over the same bootstrap draws, and has a p value of its
    own: features that are merely smooth add to coordinates, too. It is a gain over registered places: where these err,
    features that know the place better gain even if networks depend on place alone.

    Parameters
    ----------
    table : AnnData
        Feature table; ``obs`` with id, subject, section, x_mm, y_mm, z_mm and the target; optionally ``hemisphere``
        ('L' or 'R') and ``obsm["sphere"]`` (n, 3), places on the sphere of each hemisphere.
    target : str
        A column of ``obs`` with names of networks. Rows with names in `NOT_CORTEX` take no part.
    split : Split
        What is held out whole.
    hemispheres : bool
        Hold out hemispheres instead of the split's unit, all left ones and all right ones in turn; its buffer and fold
        (0 for the left hemispheres) are kept. (Where sections are hemispheres, ``Split(by="section")`` is the same.)
    seed : int
        Key of every draw.
    min_per_class : int
        Classes with fewer rows are left out.
    nulls : int
        Number of null maps; the least p value is 1 / (1 + nulls).
    matching : {"nearest", "assigned"}
        Of spins, see `_spin.Sphere.spin`.
    compare : bool
        False computes the headline alone.
    extra_tables : mapping of str to AnnData, optional
        Rivals embedded from the same samples, by name.
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
        Too few groups or classes, features or places that are not finite, one hemisphere where two are asked for.
    Usage
        No such target.
    """
    obs = _rows.places(table)
    left = sides(table)
    if hemispheres:
        obs, split = _by_hemisphere(obs, left, split)
    bare = AnnData(obs=_named(obs, target))
    made = _rows.check_folds(bare, split, None if folds is None else list(folds))
    if hemispheres:
        made = [Fold(one.train, one.test, _side(obs, one), one.dropped) for one in made]
    _head.refuse_seen(table, target, split, extra_tables)
    known = _rows.labelled(bare, target, split, min_per_class=min_per_class)
    codes, size = known.codes, len(known.classes)
    parts = _classes.parts(made, codes)
    tested = np.concatenate([test for _, test in parts])
    x = _rows.features(table)
    sphere = Sphere.of(table)
    where = _where(table, left, sphere)
    if left is not None and "space, mirrored" in where and not any(_shared(left, *pair) for pair in parts):
        # across the midline unmirrored places are far from all that was learned
        del where["space"]
    group = _inner(table, splits.groups(obs, split))

    def read_out(features: NDArray[np.float32]) -> tuple[Codes, Real]:
        return _read_out(features, codes, parts, group, size, seed)

    said, probability = read_out(x)
    truth = codes[tested]
    cluster, unit, remarks = _units(table, split, tested)
    judge = _classes.Judge(truth, size, metrics.Bootstrap.of(cluster, seed), metrics.balanced_accuracy)
    f1 = _classes.Judge(truth, size, judge.boot, metrics.macro_f1)
    right = _classes.Judge(truth, size, judge.boot, metrics.accuracy)
    matrix = metrics.confusion(truth, said, size)
    more = {"macro-F1": f1.estimate(said, f"chance {1 / size:.2f}"), "accuracy": right.estimate(said)}
    remarks = [*known.remarks, *_wall(obs, target), *_unlearned(parts, codes, known.classes), *remarks]
    remarks += _caveats(table, split, extra_tables or {})
    against: dict[str, Estimate] = {}
    gains: dict[str, Estimate] = {}
    if compare:
        given = {**_rows.baselines(table)}
        given |= {name: _rows.aligned(table, other, name) for name, other in (extra_tables or {}).items()}
        forms = {
            name: said_
            for kind, xyz in where.items()
            for name, said_ in rivals.from_position({kind: xyz}, codes, group, parts, size, seed).items()
        }
        form = judge.best(forms)
        found = {"coordinates only": forms[form]}
        found |= {name: read_out(features)[0] for name, features in given.items()}
        found["chance"] = rivals.chance(codes, parts, seed)
        notes = {
            "coordinates only": f"best of {len(forms)} forms on the held-out rows: {form}",
            "chance": "labels drawn with the class shares of the training rows",
        }
        for name, rival in found.items():
            against[name], gains[name] = judge.estimate(rival, notes.get(name, "")), judge.gain(said, rival)
        pairs = _together(x, probability, where, codes, group, parts, forms, judge, seed)
        both = judge.best(pairs)
        gain = judge.gain(pairs[both], forms[form], f"{both}; over {form}")
        more["coordinates + features"] = judge.estimate(pairs[both], f"best of {len(pairs)} forms: {both}")
        more["coordinates + features, gain over coordinates only"] = gain
        smooth = _smoothest(where, forms, judge)
        moved = nulls_.maps(table, sphere, where[smooth], codes, seed, matching)
        null = nulls_.null(x, where[smooth], codes, parts, moved, size=size, repeats=nulls, seed=seed)
        estimates = null.estimates()
        against["spatial null"] = estimates.pop("spatial null")
        more |= estimates
        if sphere is not None and sphere.turned_deg > _TURNED_DEG:
            remarks.append(f"right spheres were turned by {sphere.turned_deg:.0f} degrees to mirror the left ones")
        remarks += _verdict(judge.value(said), against, gain, null)
    names, about, overall = _rows.ids(table)[tested], _rows.about(table), judge.estimate(said)
    return Score(
        task="networks", target=target, metric="balanced accuracy", value=overall.value,
        interval=(overall.low, overall.high), n=len(tested), n_groups=judge.boot.times.shape[1], cluster=unit,
        what=str(about.get("what", about.get("system", "rows"))),
        split=_described(split, made, hemispheres=hemispheres), folds=tuple(fold.name for fold in made),
        probe="linear", seed=seed, baselines=against, gains=gains, more=more, classes=known.classes,
        per_class=metrics.per_class(matrix, known.classes),
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
        predicted=_classes.series(known.classes, said, names, "predicted"),
        truth=_classes.series(known.classes, truth, names, "truth"),
        recipe_hash=str(about.get("recipe_hash", "")), data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=tuple(text for text in remarks if text),
    )  # fmt: skip


def _named(obs: pd.DataFrame, target: str) -> pd.DataFrame:
    """Places with the target's names, empty where they are no network."""
    if target not in obs:
        columns = [str(name) for name in obs.columns if name not in {"id", "subject", "section"}]
        raise Usage(f"the target should be a column of the table, not '{target}'.", found=f"{', '.join(columns)}.")
    column = obs[target]
    names = column.astype(str).where(~column.isna(), "").astype(object)
    return obs.assign(**{target: names.where(~names.str.lower().isin(NOT_CORTEX), "")})


def _by_hemisphere(obs: pd.DataFrame, left: NDArray[np.bool_] | None, split: Split) -> tuple[pd.DataFrame, Split]:
    """Places whose sections are the hemispheres of all brains together, and a split by them."""
    if left is None or left.all() or not left.any():
        raise Refused(
            "from one hemisphere to the other takes both.",
            found="no column 'hemisphere'." if left is None else f"{'left' if left.all() else 'right'} ones only.",
            do="add the other, or hold out blocks: Split(by='block', block_mm=20, buffer_mm=5).",
        )
    changed = obs.assign(subject="all", section=np.where(left, "L", "R"))
    return changed, Split(by="section", folds=0, fold=split.fold, buffer_mm=split.buffer_mm)


def _side(obs: pd.DataFrame, fold: Fold) -> str:
    held = str(obs["section"].iloc[int(fold.test[0])])
    return f"{'right -> left' if held == 'L' else 'left -> right'} hemisphere"


def _shared(left: NDArray[np.bool_], train: NDArray[np.int64], test: NDArray[np.int64]) -> bool:
    """Whether a side is both learned and tested."""
    return bool(set(left[train].tolist()) & set(left[test].tolist()))


def _described(split: Split, made: Sequence[Fold], *, hemispheres: bool) -> str:
    text = splits.describe(split, made)
    return text.replace("section", "hemisphere", 1) if hemispheres else text


def _where(table: AnnData, left: NDArray[np.bool_] | None, sphere: Sphere | None) -> dict[str, Real]:
    """Every set of coordinates there is, by name; hemispheres folded onto each other where both are there.

    Raises
    ------
    Refused
        Places that are not finite.
    """
    obs = _rows.places(table)
    best, name = metrics.coordinates(obs)
    found = {name: best}
    space = splits.positions(obs)
    if not np.isfinite(best).all():
        raise Refused(
            "networks are compared with place alone, which needs a finite place of every row.",
            found=f"{int((~np.isfinite(best).all(axis=1)).sum())} of {len(best)} rows without one.",
        )
    if left is not None and left.any() and not left.all():
        # halfway between the hemispheres: what is as far from it on either side is the same place
        middle = (space[left, 0].mean() + space[~left, 0].mean()) / 2
        folded = space.copy()
        folded[:, 0] = np.where(left, middle - space[:, 0], space[:, 0] - middle)
        found["space, mirrored"] = folded
    elif name == "sheet" and np.isfinite(space).all():
        found["space"] = space
    if sphere is not None:
        found["sphere, mirrored"] = np.where(sphere.left[:, None], sphere.xyz @ MIRROR, sphere.xyz)
    return found


def _inner(table: AnnData, group: NDArray[np.object_]) -> NDArray[np.object_]:
    """Groups on which penalties are chosen: those of the split, or blocks of tissue where the split has few."""
    if len(set(group.tolist())) >= _FEW_UNITS:
        return group
    return _surroundings.blocks(_surroundings.positions(table), _surroundings.sections(table)).astype(object)


def _units(table: AnnData, split: Split, tested: NDArray[np.int64]) -> tuple[NDArray[Any], str, list[str]]:
    """Units of the bootstrap: those of the split, or sixteen blocks of every section where they are few."""
    names, unit, remarks = drawn(table, split, tested)
    if unit != "sections" or len(np.unique(names.astype(str))) >= _FEW_UNITS:
        return names, unit, remarks
    where, section = _surroundings.positions(table)[tested], _surroundings.sections(table)[tested]
    remarks = [text for text in remarks if "is rough" not in text and "interval is over" not in text]
    remarks.append(f"few {unit} are held out: the interval is over sixteen blocks of each, and says less than it seems")
    return _surroundings.blocks(where, section), "blocks", remarks


def _wall(obs: pd.DataFrame, target: str) -> list[str]:
    names = obs[target].astype(str).str.lower()
    wall = names[names.isin(NOT_CORTEX) & (names != "") & (names != "nan") & ~obs[target].isna()]
    return [f"{len(wall):,} rows are named {', '.join(sorted(set(wall)))}: no network"] if len(wall) else []


def _unlearned(parts: _classes.Parts, codes: Codes, classes: tuple[str, ...]) -> list[str]:
    """Say which classes are tested in a fold that cannot teach them: they count as missed."""
    missed = {
        classes[k]: int((codes[test] == k).sum())
        for train, test in parts
        for k in np.setdiff1d(codes[test], codes[train]).tolist()
    }
    text = ", ".join(f"{name} ({count} rows)" for name, count in sorted(missed.items()))
    return [f"tested without a training row, and so counted as missed: {text}"] if missed else []


def _caveats(table: AnnData, split: Split, extra_tables: Mapping[str, AnnData]) -> list[str]:
    remarks = [_rows.exposure(table, split)]
    remarks += [_rows.exposure(other, split, f"the encoder of '{name}'") for name, other in extra_tables.items()]
    if split.by == "block" and split.buffer_mm == 0:
        remarks.append("blocks touch: what is smooth crosses their borders; set split.buffer_mm")
    if cast("Mapping[str, Any]", table.uns.get("space", {})).get("name") == "unregistered":
        remarks.append("sections are not registered: 'coordinates only' means the position within a section")
    return remarks


def _read_out(
    features: NDArray[np.float32],
    codes: Codes,
    parts: _classes.Parts,
    group: NDArray[np.object_],
    size: int,
    seed: int,
) -> tuple[Codes, Real]:
    """Class numbers (m,) and probabilities (m, K) of the held-out rows, folds after one another."""
    said: list[Codes] = []
    sure: list[Real] = []
    for train, test in parts:
        one, probability = fit_predict("linear", features[train], codes[train], group[train], features[test], seed)
        every = np.zeros((len(test), size))
        every[:, np.unique(codes[train])] = probability
        said.append(one)
        sure.append(every)
    return np.concatenate(said), np.concatenate(sure)


def _smoothest(where: Mapping[str, Real], forms: Mapping[str, Codes], judge: _classes.Judge) -> str:
    """Coordinates whose smooth functions do best."""
    return max(where, key=lambda kind: judge.value(forms[rivals.SMOOTH.format(kind)]))


def _together(
    x: NDArray[np.float32],
    probability: Real,
    where: Mapping[str, Real],
    codes: Codes,
    group: NDArray[np.object_],
    parts: _classes.Parts,
    forms: Mapping[str, Codes],
    judge: _classes.Judge,
    seed: int,
) -> dict[str, Codes]:
    """Predictions from features and coordinates, joined before the read-out and after it.

    After it: votes of the 15 nearest places times the features' probability of each class over its prior there (the
    probe weighs a row by one over the root of its class's size), as if both were independent given the class.
    """
    kind = _smoothest(where, forms, judge)
    joined: list[Codes] = []
    for train, test in parts:
        both = np.hstack([rivals.place_features(where[kind], train, seed), x])
        joined.append(fit_predict("linear", both[train], codes[train], group[train], both[test], seed)[0])
    near = max(where, key=lambda name: judge.value(forms[f"15 nearest places ({name})"]))
    fused: list[Codes] = []
    at = 0
    for train, test in parts:
        share = np.sqrt(np.maximum(np.bincount(codes[train], minlength=judge.size), 1))
        own = probability[at : at + len(test)] / share
        votes = rivals.votes(where[near], codes, train, test, 15, judge.size) + 1 / (15 * judge.size)
        fused.append((votes * own).argmax(axis=1).astype(np.int64))
        at += len(test)
    return {
        f"{rivals.SMOOTH.format(kind)} and features in one read-out": np.concatenate(joined),
        f"15 nearest places ({near}) times the features' probabilities": np.concatenate(fused),
    }


def _verdict(value: float, against: Mapping[str, Estimate], gain: Estimate, null: nulls_.Null) -> list[str]:
    """What the numbers together allow to be said."""
    remarks: list[str] = []
    if against["coordinates only"].value >= value:
        remarks.append("position alone names these networks at least as well as the features do")
    if gain.low > 0 and null.p_gain <= 0.05:
        remarks.append(
            "features add to position as it was registered: where that is wrong, they may only know the place better"
        )
    else:
        found = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        why = [f"the interval of what they add holds 0 ({found})" if gain.value > 0 else f"they add {found}"]
        why = why if gain.low <= 0 else []
        if null.p_gain > 0.05:
            why.append(f"they add as much to maps as smooth that they know nothing of (p = {null.p_gain:.3g})")
        remarks.append(f"nothing shows that the features add to position: {', and '.join(why)}")
    if null.p > 0.05:
        remarks.append(f"unrelated maps as smooth as this one are named as well (p = {null.p:.3g})")
    return remarks
