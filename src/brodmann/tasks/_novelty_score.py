"""What a search for new borders found, as a score: how many regions have one, beside tissue dealt out anew."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
from anndata import AnnData

from brodmann.tasks import _evened, _rows
from brodmann.tasks._novel import Novelty
from brodmann.tasks._score import Estimate, Score

_WITHIN = 1.96
_NAMED = 3


def score(table: AnnData, known: str, found: Novelty) -> Score:
    """Share of regions with a new border; each border's step, and that of regions where none is new, beside it."""
    about = _rows.about(table)
    between = "place" in found.regions
    new = found.regions.index[found.regions["new"]]
    borders = cast("list[dict[str, Any]]", found.borders.to_dict("records"))
    shown = {f"{one['a']} | {one['b']}": _step(one, found.regions) for one in borders}
    old = cast("pd.DataFrame", found.regions[~found.regions["new"]]).sort_values("p")
    for name, row in zip(old.index, cast("list[dict[str, Any]]", old.to_dict("records")), strict=True):
        why = f"not new: {_chances(row)}" if row["step"] == row["step"] else "not tested: no two large parts in it"
        shown[str(name)] = _within(row["step"], row["error"], f"{why}; n {row['n']:,}")
    parted = cast("pd.Series", found.labels[found.labels.isin({*found.borders["a"], *found.borders["b"]})])
    regions = len(found.regions)
    remarks = (
        f"{len(new)} of {regions} regions have a new border" + (f": {', '.join(map(str, new))}" if len(new) else ""),
        *(_between_brains(found) if between else _within_animals(about)),
        *([f"too few rows to be cut: {', '.join(found.small)}"] if found.small else []),
    )
    return Score(
        task="novelty", target=known, metric="share of regions with a new border", value=len(new) / regions,
        interval=(float("nan"), float("nan")), n=len(found.labels), n_groups=regions, cluster="regions",
        what=_word(about), scored="single rows",
        split="parts told apart by other brains, drawn by half of a brain's sections, judged by the rest" if between
        else "borders drawn by one half of the rows, judged by the other",
        baselines={"dealt out": Estimate(found.dealt / regions, note="the same, rows dealt out anew: chance alone")},
        more=shown, classes=tuple(sorted(set(parted))), predicted=parted, truth=parted.head(0),
        recipe_hash=str(about.get("recipe_hash", "")), data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=remarks,
    )  # fmt: skip


def _within_animals(about: Any) -> tuple[str, ...]:
    """What makes a border new where single rows are judged by their neighbours."""
    return (
        f"new: a step that single {_word(about)} show (false discovery rate over regions at most 0.05), drawn in the "
        "same place by both halves of them; a change from one level to another within about a millimetre is one too",
        "of a border: the step, in SD of single rows along the direction in which its sides differ; rows on either "
        "side, length, animals that show it alone of those with the region, genes or types by the chance that a row of "
        "the second side shows more",
    )


def _between_brains(found: Novelty) -> tuple[str, ...]:
    """What makes a border new where other brains judge."""
    told = ", ".join(found.without)
    return (
        "new: brains agree where the border lies (false discovery rate over regions at most 0.05; chance: maps as "
        "patchy that know nothing of each other), single patches change by a step there beyond smooth change, "
        "and both halves of a brain's sections draw the same parts",
        "of a border: the step, in SD of single patches within parts; patches on either side, length on the sheets of "
        "all brains, brains that show the step alone of those with the region, mean correlation between brains",
        f"taken out of the features first: what {told} tell of folds and cuts" if told
        else f"no column tells how cortex is folded and cut ({', '.join(_evened.CUT)}): its traces may hide borders",
    )  # fmt: skip


def _chances(row: dict[str, Any]) -> str:
    beside = f", of the step {row['p_step']:.2g}; brains agree {row['place']:.2f}" if "place" in row else ""
    return f"p {row['p']:.2g}, q {row['q']:.2g}{beside}, halves agree {row['agreement']:.2f}"


def _word(about: Any) -> str:
    return str(about.get("system", "rows"))


def _step(border: dict[str, Any], regions: pd.DataFrame) -> Estimate:
    """Step at a border with rows, length, animals and what differs most."""
    sizes = f"{border['n_a']:,} + {border['n_b']:,}; {border['length_mm']:.1f} mm"
    if "place" in regions:
        row = cast("Any", regions.loc[border["region"]])
        note = f"{sizes}; {border['animals']}/{border['of']} brains; q {row['q']:.2g}, they agree {row['place']:.2f}"
    else:
        strongest = border["differs"].split(", ")[:_NAMED]
        note = f"{sizes}; {border['animals']}/{border['of']} animals; {', '.join(strongest)}"
    return _within(border["step"], border["error"], note)


def _within(step: float, error: float, note: str) -> Estimate:
    return Estimate(step, step - _WITHIN * error, step + _WITHIN * error, note)
