"""What a search for new borders found, as a score: how many regions have one, beside tissue dealt out anew."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
from anndata import AnnData

from brodmann.tasks import _rows
from brodmann.tasks._score import Estimate, Score
from brodmann.tasks.novelty import Novelty

_WITHIN = 1.96
_NAMED = 3


def score(table: AnnData, known: str, found: Novelty) -> Score:
    """Share of regions with a new border; each border's step, and that of regions where none is new, beside it."""
    about = _rows.about(table)
    new = found.regions.index[found.regions["new"]]
    borders = cast("list[dict[str, Any]]", found.borders.to_dict("records"))
    shown = {f"{one['a']} | {one['b']}": _step(one) for one in borders}
    old = cast("pd.DataFrame", found.regions[~found.regions["new"]]).sort_values("p")
    for name, row in zip(old.index, cast("list[dict[str, Any]]", old.to_dict("records")), strict=True):
        note = f"not new: p {row['p']:.2g}, q {row['q']:.2g}, halves agree {row['agreement']:.2f}; n {row['n']:,}"
        shown[str(name)] = _within(row["step"], row["error"], note)
    parted = cast("pd.Series", found.labels[found.labels.isin({*found.borders["a"], *found.borders["b"]})])
    regions = len(found.regions)
    remarks = (
        f"{len(new)} of {regions} regions have a new border" + (f": {', '.join(map(str, new))}" if len(new) else ""),
        f"new: a step that single {_word(about)} show (false discovery rate over regions at most 0.05), drawn in the "
        "same place by both halves of them; a change from one level to another within about a millimetre is one too",
        "of a border: the step, in SD of single rows along the direction in which its sides differ; rows on either "
        "side, length, animals that show it alone of those with the region, genes or types by the chance that a row of "
        "the second side shows more",
        *([f"too few rows to be cut: {', '.join(found.small)}"] if found.small else []),
    )
    return Score(
        task="novelty", target=known, metric="share of regions with a new border", value=len(new) / regions,
        interval=(float("nan"), float("nan")), n=len(found.labels), n_groups=regions, cluster="regions",
        what=_word(about), scored="single rows", split="borders drawn by one half of the rows, judged by the other",
        baselines={"dealt out": Estimate(found.dealt / regions, note="the same, rows dealt out anew: chance alone")},
        more=shown, classes=tuple(sorted(set(parted))), predicted=parted, truth=parted.head(0),
        recipe_hash=str(about.get("recipe_hash", "")), data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=remarks,
    )  # fmt: skip


def _word(about: Any) -> str:
    return str(about.get("system", "rows"))


def _step(border: dict[str, Any]) -> Estimate:
    """Step at a border with rows, length, animals and what differs most."""
    sizes = f"{border['n_a']:,} + {border['n_b']:,}; {border['length_mm']:.1f} mm"
    strongest = border["differs"].split(", ")[:_NAMED]
    note = f"{sizes}; {border['animals']}/{border['of']} animals; {', '.join(strongest)}"
    return _within(border["step"], border["error"], note)


def _within(step: float, error: float, note: str) -> Estimate:
    return Estimate(step, step - _WITHIN * error, step + _WITHIN * error, note)
