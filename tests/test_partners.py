"""Batches hold a positive for every place, and depend on nothing but their key."""

import numpy as np
import pandas as pd
import pytest

from brodmann.errors import Refused, Usage
from brodmann.patches.partners import PartnerSampler
from brodmann.patches.recipe import Partners
from brodmann.samples import stream


def places(brains=2, sections=5, per_section=30, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for brain in range(brains):
        for section in range(sections):
            x = rng.uniform(0, 6, per_section)
            z = rng.uniform(0, 6, per_section)
            rows.extend((f"B{brain}", f"B{brain}/s{section}", a, 0.5 * section, b) for a, b in zip(x, z, strict=True))
    return pd.DataFrame(rows, columns=["subject", "section", "x_mm", "y_mm", "z_mm"])


@pytest.mark.parametrize("scope", ["section", "within", "across", "both"])
@pytest.mark.parametrize("same_section", [False, True])
def test_candidates_are_those_of_a_loop(scope, same_section):
    table, reach = places(), 1.3
    if scope == "section" and not same_section:
        with pytest.raises(Refused, match="should have a partner"):
            PartnerSampler(table, Partners(reach_mm=reach, scope=scope, same_section=same_section))
        return
    sampler = PartnerSampler(table, Partners(reach_mm=reach, scope=scope, same_section=same_section))
    xyz = table[["x_mm", "y_mm", "z_mm"]].to_numpy()
    for anchor in range(0, len(table), 37):
        a = table.iloc[anchor]
        expected = []
        for j, b in table.iterrows():
            same_s, same_b = a.section == b.section, a.subject == b.subject
            fits = {"section": same_s, "within": same_b, "across": not same_b, "both": True}[scope]
            if j != anchor and fits and (same_section or not same_s) and np.linalg.norm(xyz[j] - xyz[anchor]) <= reach:
                expected.append(j)
        assert sampler.candidates(anchor).tolist() == expected


def test_drawn_partners_lie_within_reach_on_other_sections():
    table = places()
    sampler = PartnerSampler(table, Partners(reach_mm=1.5))
    drawn = sampler.draw(64, stream(0, "data", "batch", 7)).reshape(-1, 2)
    xyz = table[["x_mm", "y_mm", "z_mm"]].to_numpy()
    moved = drawn[:, 0] != drawn[:, 1]
    assert moved.mean() > 0.9
    assert (np.linalg.norm(xyz[drawn[:, 0]] - xyz[drawn[:, 1]], axis=1) <= 1.5).all()
    section = table["section"].to_numpy()
    assert (section[drawn[moved, 0]] != section[drawn[moved, 1]]).all()
    assert len(set(drawn[:, 0])) == 32


def test_a_batch_is_a_pure_function_of_its_key():
    sampler = PartnerSampler(places(), Partners(reach_mm=1.5))
    first = sampler.draw(32, stream(0, "data", "batch", 3))
    sampler.draw(32, stream(0, "data", "batch", 4))
    again = PartnerSampler(places(), Partners(reach_mm=1.5)).draw(32, stream(0, "data", "batch", 3))
    np.testing.assert_array_equal(first, again)
    for other in [stream(1, "data", "batch", 3), stream(0, "other data", "batch", 3), stream(0, "data", "batch", 5)]:
        assert not np.array_equal(first, sampler.draw(32, other))


def test_reach_zero_pairs_every_patch_with_itself():
    drawn = PartnerSampler(places(), Partners(reach_mm=0.0)).draw(20, stream(0, "data", 0)).reshape(-1, 2)
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 1])


def test_sheet_metric_needs_a_sheet():
    with pytest.raises(Usage, match="u_mm"):
        PartnerSampler(places(), Partners(metric="sheet"))


def test_a_reach_shorter_than_the_section_spacing_is_refused():
    with pytest.raises(Refused, match="none") as caught:
        PartnerSampler(places(), Partners(reach_mm=0.05))
    assert "raise partners.reach_mm" in str(caught.value)
