"""New areas in patches: a planted pair is split without labels; gradients, folds and single brains split nothing."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from brodmann import results
from brodmann.errors import Refused, Usage
from brodmann.tasks import _evened, _parted
from brodmann.tasks.new_areas import new_areas
from brodmann.tasks.novelty import novelty

FEATURES = 16


@pytest.fixture(autouse=True)
def fewer_maps(monkeypatch):
    monkeypatch.setattr(_parted, "_MAPS", 200)


def waves(rng, place, shortest, longest, outputs):
    """Smooth random functions (n, outputs) of places (n, 2), unit variance."""
    k = rng.standard_normal((2, 12))
    k *= 2 * np.pi / rng.uniform(shortest, longest, 12) / np.linalg.norm(k, axis=0)
    return np.sin(place @ k + rng.uniform(0, 6, 12)) @ rng.standard_normal((12, outputs)) / np.sqrt(6)


def patches(
    seed: int = 0, *, brains: int = 3, planted: float = 3.0, along: bool = True, own: float = 0.5, slope: float = 0.0,
    fold: float = 0.0, mirrored: bool = False, level: float = 0.2,
) -> ad.AnnData:  # fmt: skip
    """Sheets of 30 x 14 mm in three areas, sections 1.2 mm apart, patches of 2 mm every 0.6 mm.

    In area "pair" (8-22 mm) a step of ``planted`` SD lies across (``along=False``) or along the sections; ``own``
    gradients of each brain, a ``slope`` that brains share, levels of sections, and folds whose places differ. If
    ``mirrored``, the parts of every other brain have changed sides.
    """
    rng, common = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    toward, sloping, folding = common.standard_normal((3, FEATURES)) / np.sqrt(FEATURES) * 4
    tables, features = [], []
    for brain in range(brains):
        parts = []
        for number, v in enumerate(np.arange(0.5, 14, 1.2)):
            u = np.arange(0.3, 30, 0.6)
            noise = rng.standard_normal((len(u) + 2, FEATURES))
            # neighbours in a section share tissue
            noise = (noise[:-2] + noise[1:-1] + noise[2:]) / np.sqrt(3)
            place = np.column_stack([u, v + 0.2 * np.sin(u / 3)])
            parts.append((place, noise + level * rng.standard_normal(FEATURES), np.full(len(u), number)))
        place, value, section = (np.concatenate(one) for one in zip(*parts, strict=True))
        phase = rng.uniform(0, 6)
        curvature = 0.2 * np.sin(2 * np.pi * place[:, 0] / 9 + phase) + 0.02 * rng.standard_normal(len(place))
        turn = 1.2 * np.sin(place[:, 0 if along else 1] / 2.5)
        second = (place[:, 1] > 7 + turn) if along else (place[:, 0] > 15 + turn)
        second = ~second if mirrored and brain % 2 else second
        area = np.where(place[:, 0] < 8, "left", np.where(place[:, 0] < 22, "pair", "right"))
        value = value + waves(rng, place, 15, 40, FEATURES) * own
        value += planted * toward[None] / np.linalg.norm(toward) * ((area == "pair") & second)[:, None]
        value += slope * sloping[None] / np.linalg.norm(sloping) * (place[:, 1:] - 7) / 7
        value += fold * folding[None] / np.linalg.norm(folding) * np.tanh(20 * curvature)[:, None]
        name = f"B{brain + 1}"
        tables.append(
            pd.DataFrame(
                {
                    "subject": name, "section": [f"{name}/s{number:02d}" for number in section],
                    "x_um": place[:, 0] * 1000, "y_um": 0.0, "u_mm": place[:, 0], "v_mm": place[:, 1],
                    "curvature": curvature, "known": area,
                    "truth": np.where(second & (area == "pair"), "second", area),
                }
            )
        )  # fmt: skip
        features.append(value)
    obs = pd.concat(tables, ignore_index=True)
    obs.insert(0, "id", [f"{section}/{row:05d}" for row, section in enumerate(obs["section"])])
    obs.index = pd.Index(obs["id"].to_numpy())
    table = ad.AnnData(X=np.concatenate(features).astype(np.float32), obs=obs)
    table.uns["brodmann"] = {"system": "patches"}
    return table


def agreement(table, found):
    pair = (table.obs["known"] == "pair").to_numpy()
    said = found.labels.reindex(table.obs["id"].to_numpy()[pair]).to_numpy()
    return adjusted_rand_score(table.obs["truth"].to_numpy()[pair], said)


@pytest.mark.parametrize("along", [True, False])
def test_a_planted_pair_is_split_where_it_meets(along):
    """Along the sections too, where levels of sections must not take the border with them."""
    table = patches(along=along)
    found = new_areas(table, "known")
    assert found.regions["new"].to_dict() == {"left": False, "pair": True, "right": False}
    assert agreement(table, found) > 0.7
    assert found.dealt == 0
    border = found.borders.iloc[0]
    assert (border["region"], border["of"]) == ("pair", 3)
    assert border["animals"] >= 2
    # 14 mm along the sections or 14 mm across them, and its turns, in each of three brains
    assert border["length_mm"] == pytest.approx(3 * 15.5, rel=0.25)
    assert border["contiguous"] > 0.9
    assert set(found.labels[table.obs["known"].to_numpy() != "pair"]) == {"left", "right"}


def test_uniform_areas_are_not_split_and_chances_are_chances():
    """Eighteen areas with gradients of each brain: at a level of 0.05 on step and place, hardly any is new."""
    regions = [new_areas(patches(seed, planted=0), "known").regions for seed in range(6)]
    every = pd.concat(regions)
    assert len(every) == 18
    assert every["new"].sum() <= 1
    assert (every["p"] <= 0.05).mean() <= 0.2
    assert every["p"].median() > 0.2


def test_rows_that_drew_a_border_do_not_judge_it():
    """In tissue of noise alone a line drawn by some rows means nothing to the others; to themselves it would."""
    areas = pd.concat([new_areas(patches(seed, planted=0, own=0, level=0), "known").regions for seed in range(4)])
    steps = areas["step"].dropna() / areas["error"].dropna()
    assert len(steps) >= 8
    assert abs(steps.mean()) < 1


def test_a_slope_that_brains_share_is_no_border():
    found = new_areas(patches(planted=0, slope=4, own=0.3), "known").regions
    # brains agree where the clusters meet, and yet nothing happens there
    assert found.loc["pair", "p"] < 0.05
    assert found.loc["pair", "agreement"] > 0.3
    assert not found["new"].any()


def test_parts_that_lie_elsewhere_in_other_brains_are_not_new():
    found = new_areas(patches(planted=4, mirrored=True, along=False), "known").regions.loc["pair"]
    assert found["p_step"] < 0.02
    assert found["agreement"] > 0.3
    assert found["p"] > 0.5
    assert not found["new"]


def test_what_folds_explain_is_taken_out_where_the_table_tells_it():
    table = patches(fold=6)
    obs, x = table.obs, np.asarray(table.X, float)
    own = pd.factorize(obs["known"] + obs["subject"])[0]
    bent = np.tanh(20 * obs["curvature"].to_numpy())
    second = (obs["truth"] == "second").to_numpy()
    pair = (obs["known"] == "pair").to_numpy()

    def strongest(values):
        return max(abs(np.corrcoef(bent, column)[0, 1]) for column in values.T)

    shared, told = _evened.cut(table)
    left = _evened.evened(x, own, shared)
    assert told == ("curvature",)
    assert strongest(x) > 0.7
    assert strongest(left) < 0.1
    before, after = (v[second].mean(axis=0) - v[pair & ~second].mean(axis=0) for v in (x, left))
    assert before @ after > 0.8 * before @ before
    del obs["curvature"]
    shared, told = _evened.cut(table)
    assert (shared.shape, told) == ((len(obs), 0), ())


def test_wrong_questions_are_refused():
    table = patches()
    with pytest.raises(Usage, match="'nowhere'"):
        novelty(table, "nowhere")
    with pytest.raises(Usage, match="50 rows or more"):
        new_areas(table, "known", least=5)
    with pytest.raises(Refused, match=r"50 rows in two brains(.|\n)*1 brain\b(.|\n)*domains"):
        novelty(table[(table.obs["subject"] == "B1").to_numpy()].copy(), "known")
    lost, broken = table.copy(), table.copy()
    lost.obs.loc[lost.obs.index[3], "u_mm"] = np.nan
    broken.X[3, 2] = np.nan
    with pytest.raises(Refused, match="places should be finite"):
        novelty(lost, "known")
    with pytest.raises(Refused, match="finite"):
        novelty(broken, "known")
    apart = table.copy()
    apart.uns["space"] = {"name": "unregistered"}
    del apart.obs["u_mm"]
    apart.obs[["x_mm", "y_mm", "z_mm"]] = 0.0
    with pytest.raises(Refused, match="in one space"):
        novelty(apart, "known")
    table.uns["brodmann"] = {"system": "neurons"}
    with pytest.raises(Refused, match="baseline_own"):
        novelty(table, "known")


def test_small_areas_are_named_and_unlabelled_rows_take_no_part():
    table = patches()
    table.obs.loc[(table.obs["known"] == "left") & (table.obs["u_mm"] > 2), "known"] = None
    found = new_areas(table, "known")
    assert found.small == ("left",)
    assert list(found.regions.index) == ["pair", "right"]
    assert found.regions.loc["pair", "new"]
    assert len(found.labels) == table.obs["known"].isin(["pair", "right"]).sum()


def test_the_score_says_what_was_asked_of_patches():
    score = results.score("novelty", patches(), "known")
    assert score.value == pytest.approx(1 / 3)
    assert score.baselines["dealt out"].value == 0
    assert score.remarks[0] == "1 of 3 regions have a new border: pair"
    assert "what curvature tell" in score.remarks[-1]
    step = score.more["pair/1 | pair/2"]
    assert step.low > 0
    assert "3 brains" in step.note or "/3 brains" in step.note
    assert "brains agree" in score.more["left"].note
    assert set(score.predicted) == {"pair/1", "pair/2"}
