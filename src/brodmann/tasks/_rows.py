"""What tasks read from a feature table: places, features, labels, and what its maker knew of the held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import splits
from brodmann.errors import Refused, Usage
from brodmann.settings import Split, plain
from brodmann.splits import Fold

_ORDER = ("untrained", "statistics", "profile", "profile_sd", "profile_shape")


@dataclass(frozen=True)
class Labelled:
    """Rows that take part in a classification.

    Parameters
    ----------
    codes : ndarray (n,) int64
        Class number of every row of the table; -1 where it takes no part.
    classes : tuple of str
        Names, sorted.
    remarks : tuple of str
        What was left out, and why.
    """

    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    remarks: tuple[str, ...]


def ids(table: AnnData) -> NDArray[np.object_]:
    """Name every row: (n,) str, unique."""
    obs = places(table)
    names = obs["id"] if "id" in obs else obs.index.to_series()
    return names.astype(str).to_numpy(dtype=object)


def places(table: AnnData) -> pd.DataFrame:
    """Places and labels, a row per row of the table."""
    return cast("pd.DataFrame", table.obs)


def brains(table: AnnData) -> NDArray[np.object_]:
    """Brain of every row: (n,) str."""
    return places(table)["subject"].astype(str).to_numpy(dtype=object)


def numbers(column: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number of each row's text, by first appearance, and the texts; the texts of a categorical are not spelt out."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        known = column.cat
        codes, held = pd.factorize(np.asarray(known.codes))
        texts = [str(name) for name in known.categories]
        # code -1 is a missing text
        return codes.astype(np.int64), tuple("nan" if code < 0 else texts[code] for code in held.tolist())
    codes, held = pd.factorize(column.astype(str).to_numpy(dtype=object))
    return codes.astype(np.int64), tuple(str(name) for name in held)


def features(table: AnnData) -> NDArray[np.float32]:
    """Features (n, d) float32.

    Raises
    ------
    Refused
        Some are not finite.
    """
    return _finite(np.asarray(table.X, dtype=np.float32), "features")


def baselines(table: AnnData) -> dict[str, NDArray[np.float32]]:
    """Rival features that came with the table, by name: each (n, k) float32."""
    stored = cast("Mapping[str, Any]", table.obsm)
    found = {name.removeprefix("baseline_"): stored[name] for name in stored if name.startswith("baseline_")}
    order = {name: i for i, name in enumerate(_ORDER)}
    return {
        name: _finite(np.asarray(found[name], dtype=np.float32), name)
        for name in sorted(found, key=lambda name: (order.get(name, 9), name))
    }


def aligned(table: AnnData, other: AnnData, name: str) -> NDArray[np.float32]:
    """Features of another table in the row order of this one.

    Raises
    ------
    Refused
        The other table lacks some of the rows, or has them elsewhere.
    """
    where = {row: i for i, row in enumerate(ids(other).tolist())}
    mine = ids(table).tolist()
    missing = [row for row in mine if row not in where]
    if missing:
        raise Refused(
            f"table '{name}' should hold every row of the table it is compared with.",
            found=f"{len(missing)} of {len(mine)} ids missing, e.g. '{missing[0]}'.",
            do="embed both from the same samples.",
        )
    rows = [where[row] for row in mine]
    here, there = (cast("Any", one.obsm).get("xyz") for one in (table, other))
    if here is not None and there is not None and not np.allclose(here, np.asarray(there)[rows], atol=1e-3):
        raise Refused(
            f"table '{name}' should hold the same places as the table it is compared with.",
            found="equal ids at other coordinates.",
            cause="another phantom, or another registration.",
            do="embed both from the same samples.",
        )
    return features(other)[rows]


def labelled(table: AnnData, target: str, split: Split, *, min_per_class: int) -> Labelled:
    """Class of every row, without the classes too rare to be judged.

    A class needs ``min_per_class`` rows and two groups of the split: with one, it could never be both learned and
    tested. The rule looks at labels only, never at features.

    Raises
    ------
    Usage
        There is no such column.
    Refused
        Fewer than two classes remain.
    """
    obs = places(table)
    if target not in obs:
        columns = [str(name) for name in obs.columns if name not in {"id", "subject", "section"}]
        raise Usage(f"the target should be a column of the table, not '{target}'.", found=f"{', '.join(columns)}.")
    column = obs[target]
    names = np.where(column.isna(), "", column.astype(str)).astype(object)
    group = splits.groups(obs, split)
    rows: dict[str, int] = {}
    homes: dict[str, set[str]] = {}
    for name, home in zip(names.tolist(), group.tolist(), strict=True):
        rows[name] = rows.get(name, 0) + 1
        homes.setdefault(name, set()).add(home)
    unlabelled = rows.pop("", 0)
    classes = tuple(sorted(name for name in rows if rows[name] >= min_per_class and len(homes[name]) >= 2))
    if len(classes) < 2 and pd.api.types.is_numeric_dtype(column):
        raise Refused(
            f"target '{target}' should name classes.", found=f"numbers, such as {', '.join(sorted(rows)[:2])}.",
            do=f"ask for numbers: brodmann score RUN properties --target {target}.",
        )  # fmt: skip
    if len(classes) < 2:
        raise Refused(
            f"target '{target}' should have at least two classes with {min_per_class} rows in two {split.by}s.",
            found=f"{len(classes)}; rows per class: {dict(sorted(rows.items())[:8])}.",
            do="choose another target, a lower min_per_class, or a finer split.",
        )
    number = {name: i for i, name in enumerate(classes)}
    codes = np.array([number.get(str(name), -1) for name in names], dtype=np.int64)
    remarks: list[str] = []
    rare = [f"{name} ({rows[name]})" for name in sorted(rows) if rows[name] < min_per_class]
    alone = [f"{name} ({rows[name]})" for name in sorted(rows) if rows[name] >= min_per_class and name not in classes]
    if rare:
        remarks.append(f"too rare to be judged and left out: {', '.join(rare)}")
    if alone:
        remarks.append(f"in one {split.by} only, so never both learned and tested, and left out: {', '.join(alone)}")
    if unlabelled:
        remarks.append(f"{unlabelled:,} of {len(names):,} rows carry no label")
    return Labelled(codes, classes, tuple(remarks))


def about(table: AnnData) -> dict[str, Any]:
    """Provenance of the table; empty when it was not made here."""
    return dict(cast("Mapping[str, Any]", table.uns.get("brodmann", {})))


def exposure(table: AnnData, split: Split, name: str = "the encoder") -> str:
    """Say whether the encoder saw the held-out rows (never their labels); empty when it did not, or was not trained."""
    made = about(table)
    if not made.get("system"):
        return f"it is not known what {name} was trained on"
    if not made.get("trained", True):
        return ""  # measured, not learned
    if not made.get("same_data", True):
        return f"{name} was trained on other data than this table; whether it saw these rows is not known"
    fold = made.get("encoder_fold")
    head = cast("Mapping[str, Any]", made.get("head") or {})
    labels = f"with their labels of '{head['target']}'" if head else "without their labels"
    if fold is None or int(fold) < 0:
        return f"{name} was trained on the held-out rows too, {labels}"
    if kept_apart(table, split):
        # what it began with may have seen them: whatever is not certain of that stands among the sentences
        return " ".join([str(line) for line in made.get("start", ())][1:])
    return (
        f"{name} was kept from fold {int(fold)} of its own split only; this score tests other rows as well"
        f"{f', which it saw {labels}' if head else ''}"
    )


def kept_apart(table: AnnData, split: Split) -> bool:
    """Whether the split tests the very fold that the encoder was kept from."""
    made = about(table)
    fold = made.get("encoder_fold")
    if fold is None or int(fold) < 0:
        return False
    trained = dict(cast("Mapping[str, Any]", made.get("split") or {}))
    asked = plain(split)
    # A buffer of the probe does not move rows between folds, so it may differ from the encoder's.
    keys = ("by", "folds", *(("block_mm",) if split.by == "block" else ()))
    return split.fold == int(fold) and all(trained.get(key) == asked.get(key) for key in keys)


def check_folds(table: AnnData, split: Split, given: list[Fold] | None) -> list[Fold]:
    """Folds of the split, or given ones once they are proven free of leaks."""
    if given is None:
        return splits.folds(places(table), split)
    for fold in given:
        splits.prove(places(table), fold, split)
    tested = np.concatenate([fold.test for fold in given])
    if len(np.unique(tested)) < len(tested):
        raise Refused("a row should be tested in one fold only.", found="folds whose test rows overlap.")
    return given


def _finite(array: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise Refused(f"{name} should be finite.", found=f"{int(bad.sum())} of {len(array)} rows hold NaN or infinity.")
    return array
