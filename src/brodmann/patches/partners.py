"""Who is trained beside whom: places and, for each, a partner within reach."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann.errors import Refused, Usage
from brodmann.patches.recipe import Partners


class PartnerSampler:
    """Draws batches of sample numbers in which every place has a positive.

    Parameters
    ----------
    places : DataFrame
        Rows of training samples, with ``x_mm, y_mm, z_mm`` (or ``u_mm, v_mm`` for the metric ``"sheet"``),
        ``subject`` and ``section``.
    partners : Partners
        Reach (mm), metric, scope, same_section.

    Raises
    ------
    Refused
        If the metric is ``"sheet"`` and the data know no sheet, or if too few places have any partner.
    """

    def __init__(self, places: pd.DataFrame, partners: Partners) -> None:
        from scipy import spatial

        self.partners = partners
        self.coordinates = coordinates(places, partners)
        self.subject = codes(places["subject"])
        self.section = codes(places["section"])
        self._tree: Any = cast("Any", spatial).cKDTree(self.coordinates) if partners.reach_mm > 0 else None
        if partners.reach_mm > 0:
            self._prove_reach(places)

    def _prove_reach(self, places: pd.DataFrame) -> None:
        probe = np.linspace(0, len(places) - 1, min(200, len(places))).astype(int)
        alone = np.mean([len(self.candidates(int(i))) == 0 for i in probe])
        if alone > 0.5:
            raise Refused(
                f"most of {len(places):,} places should have a partner within {self.partners.reach_mm} mm"
                f" (scope {self.partners.scope}, same_section {str(self.partners.same_section).lower()}).",
                found=f"{alone:.0%} of places have none.",
                cause="sections lie farther apart than the reach, or coordinates are not in mm.",
                do="raise partners.reach_mm, or allow partners.same_section.",
            )

    def candidates(self, anchor: int) -> NDArray[np.int64]:
        """Sample numbers that may be the partner of ``anchor``."""
        found = np.asarray(
            self._tree.query_ball_point(self.coordinates[anchor], self.partners.reach_mm), dtype=np.int64
        )
        found.sort()
        keep = found != anchor
        same_section = self.section[found] == self.section[anchor]
        same_subject = self.subject[found] == self.subject[anchor]
        if not self.partners.same_section:
            keep &= ~same_section
        scope = self.partners.scope
        if scope == "section":
            keep &= same_section
        elif scope == "within":
            keep &= same_subject
        elif scope == "across":
            keep &= ~same_subject
        return found[keep]

    def draw(self, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Sample numbers ``(batch,)``: place, partner, place, partner ...; a place without a partner is its own.

        Places are drawn without replacement inside a batch; with the scope ``"section"`` they come from few
        sections, because only pairs of one section can be compared.
        """
        n = len(self.coordinates)
        pairs = batch // 2
        if self.partners.scope == "section":
            sections = rng.permutation(np.unique(self.section))[: max(1, pairs // 16)]
            pool = np.flatnonzero(np.isin(self.section, sections))
            anchors = rng.choice(pool, pairs, replace=len(pool) < pairs)
        else:
            anchors = rng.choice(n, pairs, replace=n < pairs)
        chosen = np.empty((pairs, 2), dtype=np.int64)
        for row, anchor in enumerate(anchors):
            found = self.candidates(int(anchor)) if self._tree is not None else []
            # the draw is made even when there is no candidate, so that streams do not depend on the data's gaps
            pick = rng.random()
            partner = found[int(pick * len(found))] if len(found) else anchor
            chosen[row] = anchor, partner
        return chosen.ravel()


def codes(column: Any) -> NDArray[np.int64]:
    """Integer codes of a column of names, in sorted order of the names."""
    return np.asarray(pd.factorize(column, sort=True)[0], dtype=np.int64)


def coordinates(places: pd.DataFrame, partners: Partners) -> NDArray[np.float64]:
    """``(n, 3)`` mm in the recipe's metric; sheet coordinates get a third axis of zeros."""
    if partners.metric == "space":
        return places[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float64)
    if "u_mm" not in places or "v_mm" not in places:
        raise Usage(
            'partners.metric = "sheet" needs sheet coordinates.',
            found="samples without u_mm and v_mm.",
            cause="the sections carry no surface registration.",
            do='set partners.metric = "space".',
        )
    uv = cast("NDArray[np.float64]", places[["u_mm", "v_mm"]].to_numpy(np.float64))
    return np.column_stack([uv, np.zeros(len(uv))])
