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
    """Share of regions with a new border; each border's step with its interval among the further measures."""
    about = _rows.about(table)
    new = found.regions.index[found.regions["new"]]
    borders = cast("list[dict[str, Any]]", found.borders.sort_values("step", ascending=False).to_dict("records"))
    shown = {f"{one['a']} | {one['b']}": _step(one) for one in borders}
    parted = cast("pd.Series", found.labels[found.labels.isin({*found.borders["a"], *found.borders["b"]})])
    regions = max(len(found.regions), 1)
    remarks = (
        f"{len(new)} of {len(found.regions)} regions have a new border" + (f": {', '.join(new)}" if len(new) else ""),
        f"new: a step that single {_word(about)} show (false discovery rate over regions at most 0.05), drawn "
        "in the same place by both halves of them",
    )
    return Score(
        task="novelty", target=known, metric="share of regions with a new border", value=len(new) / regions,
        interval=(float("nan"), float("nan")), n=len(found.labels), n_groups=len(found.regions), cluster="regions",
        what=_word(about), scored="single rows", split="borders drawn by one half of the rows, judged by the other",
        baselines={"dealt out": Estimate(found.dealt / regions, note="the same, rows dealt out anew: all false")},
        gains={"dealt out": Estimate((len(new) - found.dealt) / regions)}, more=shown,
        classes=tuple(sorted(set(parted))), predicted=parted, truth=parted.head(0),
        recipe_hash=str(about.get("recipe_hash", "")), data_fingerprint=str(about.get("data_fingerprint", "")),
        remarks=remarks,
    )  # fmt: skip


def _word(about: Any) -> str:
    return str(about.get("system", "rows"))


def _step(border: dict[str, Any]) -> Estimate:
    """Step at a border, SD, with its interval; rows, length, animals that show it alone, what differs most."""
    step, away = border["step"], _WITHIN * border["error"]
    sizes = f"SD; {border['n_a']:,} + {border['n_b']:,}; {border['length_mm']:.1f} mm"
    strongest = border["differs"].split(", ")[:_NAMED]
    return Estimate(
        step, step - away, step + away, f"{sizes}; {border['animals']}/{border['of']} animals; {', '.join(strongest)}"
    )
