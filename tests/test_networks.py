"""Networks that depend on structure are told from those that depend on place; broken tables stop the score."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

import brodmann as bm
from brodmann import results, splits
from brodmann.errors import Leak, Refused, Usage
from brodmann.phantom import areas as planted_areas
from brodmann.phantom import brain as planted_brain
from brodmann.phantom import sheet
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks import _null as null_task
from brodmann.tasks._score import Estimate
from brodmann.tasks.networks import _verdict, networks
from test_spin import MIRROR, points, waves

BRAIN = Split(by="brain", folds=0)
SIDES = Split(by="section", folds=0)


def surface(seed: int = 0, *, n: int = 120, share: float = 0.0, rough: float = 0.5, names: int = 4) -> ad.AnnData:
    """Two hemispheres with like maps; ``share`` of the features are the map's own functions, partly rough."""
    rng = np.random.default_rng(seed)
    sphere = np.vstack([points(rng, n), points(rng, n)])
    left = np.arange(2 * n) < n
    folded = np.where(left[:, None], sphere, sphere @ MIRROR)
    height = waves(folded, rng, names, 0.5) + rough * rng.standard_normal((2 * n, names))
    network = np.char.add("net", height.argmax(axis=1).astype(str)).astype(object)
    x = (1 - share) * waves(folded, rng, 6, 0.5) + share * height @ rng.standard_normal((names, 6))
    side = np.where(left, "L", "R")
    ids = [f"B1/{s}/{k}" for k, s in enumerate(side)]
    obs = pd.DataFrame({"id": ids, "subject": "B1", "section": side, "hemisphere": side, "network": network}, index=ids)
    xyz = sphere * [30, 60, 45] + np.where(left, -35, 35)[:, None] * [1, 0, 0]
    obs = obs.assign(x_mm=xyz[:, 0] - 3, y_mm=xyz[:, 1], z_mm=xyz[:, 2])
    return ad.AnnData(
        X=x.astype(np.float32),
        obs=obs,
        obsm={"sphere": 100 * sphere, "baseline_untrained": rng.standard_normal((2 * n, 3)).astype(np.float32)},
        uns={"space": {"name": "bigbrain"}, "brodmann": {"system": "surfaces", "what": "rows", "trained": False}},
    )


def phantom(kind: str, *, brains: int = 5, n: int = 140, registration_mm: float = 0.0) -> ad.AnnData:
    """Planted brains described by their own cell densities and sizes, with noise; networks made in one of two ways.

    ``place``: one map of the template for all brains. ``structure``: what the place prefers, and how this brain's
    cytoarchitecture differs there from that of the others.
    """
    template, rng = sheet.Sheet.plant(0), np.random.default_rng(0)
    common = np.stack([taste(*sheet.grid()) for taste in template.tastes])
    grown = [
        planted_brain.grow(template, seed=0, index=k, registration_mm=registration_mm, ) for k in range(brains)
    ]  # fmt: skip
    frames, features = [], []
    scale = planted_areas.rows().std(axis=0) + 1e-3
    mean = np.mean([one.cyto for one in grown], axis=0)
    for k, brain in enumerate(grown):
        own = ((brain.cyto - mean) / scale)[..., [0, 13, 16, 20, 27, 30]]
        own = np.stack([ndimage.gaussian_filter(own[..., i], 4) for i in range(len(common))])
        own = (own - own.mean(axis=(1, 2), keepdims=True)) / own.std(axis=(1, 2), keepdims=True)
        st = rng.uniform(0, 1, (n, 2)) * [sheet.LENGTH_MM, sheet.WIDTH_MM]
        true, registered = brain.at(brain.true_mm, st), brain.at(brain.registered_mm, st)
        node = np.rint((true + sheet.MARGIN_MM) / sheet.STEP_MM).astype(int)
        score = common[:, node[:, 0].clip(0, common.shape[1] - 1), node[:, 1].clip(0, common.shape[2] - 1)]
        if kind == "structure":
            score = score + 1.5 * np.stack([brain.at(part, st) for part in own])
        x = brain.at(brain.cyto, st) / scale
        features.append(x + 0.15 * rng.standard_normal(x.shape))
        xyz = brain.at(brain.surface[..., :3], st)
        frames.append(
            pd.DataFrame({
                "id": [f"B{k}/{i}" for i in range(n)], "subject": f"B{k}",
                "section": [f"B{k}_s{int(v // 8)}" for v in st[:, 1]],
                "u_mm": registered[:, 0], "v_mm": registered[:, 1],
                "x_mm": xyz[:, 0], "y_mm": xyz[:, 1], "z_mm": xyz[:, 2],
                "network": np.array(sheet.NETWORKS)[score.argmax(axis=0)],
            })
        )  # fmt: skip
    obs = pd.concat(frames)
    obs.index = pd.Index(obs["id"].to_numpy())
    made = {"system": "patches", "encoder_fold": -1}
    return ad.AnnData(
        X=np.vstack(features).astype(np.float32), obs=obs, uns={"space": {"name": "phantom"}, "brodmann": made}
    )


def says(score, text: str) -> bool:
    return any(text in remark for remark in score.remarks)


GAIN = "coordinates + features, gain over coordinates only"


def test_networks_of_structure_and_of_place_are_told_apart():
    """Both phantoms: unseen brains, true places. Features add in the one, and do not in the other."""
    structure = networks(phantom("structure"), "network", BRAIN, nulls=19)
    place = networks(phantom("place"), "network", BRAIN, nulls=19)
    assert structure.more[GAIN].low > 0
    assert structure.more["p, gain over coordinates"].value == 0.05
    assert says(structure, "features add to position")
    assert place.baselines["coordinates only"].value > 0.85
    assert place.more[GAIN].high < 0.03
    assert place.more[GAIN].low <= 0
    assert says(place, "nothing shows that the features add to position")
    # features alone do well in both, which is why they are not the answer
    assert place.value > 0.4
    assert place.value > place.baselines["chance"].high
    assert says(place, "position alone names these networks")
    assert (structure.n, structure.n_groups, structure.cluster) == (700, 5, "brains")


def test_a_planted_relation_is_seen_from_left_to_right():
    score = networks(surface(share=0.9, rough=1.0), "network", SIDES, nulls=39)
    assert score.more["p, features"].value == 0.025
    assert score.more[GAIN].low > 0
    assert score.more["p, gain over coordinates"].value == 0.025
    assert score.baselines["spatial null"].low < score.baselines["spatial null"].value < score.value
    assert score.gains["untrained"].low > 0.2
    assert "labels spun on the sphere (nearest), 39 times" in score.baselines["spatial null"].note
    assert "mirrored" in score.baselines["coordinates only"].note
    assert (score.n, score.n_groups, score.cluster) == (240, 32, "blocks")
    assert score.interval[0] < score.value < score.interval[1]
    assert score.to_json() == networks(surface(share=0.9, rough=1.0), "network", SIDES, nulls=39).to_json()


def test_smooth_features_without_a_relation_add_nothing():
    score = networks(surface(3), "network", SIDES, nulls=39)
    assert score.more["p, features"].value > 0.05
    assert score.more[GAIN].low <= 0
    assert score.gains["coordinates only"].high < 0
    assert says(score, "nothing shows that the features add to position")


@pytest.mark.parametrize(
    ("gain", "p", "said"),
    [
        (Estimate(0.05, 0.01, 0.09), 0.01, "features add to position"),
        (Estimate(0.05, -0.01, 0.11), 0.01, "the interval of what they add holds 0 (+0.050 [-0.010, +0.110])"),
        (Estimate(-0.02, -0.05, 0.01), 0.02, "add to position: they add -0.020 [-0.050, +0.010]"),
        (Estimate(0.05, 0.01, 0.09), 0.3, "position: they add as much to maps as smooth that they know nothing of"),
        (Estimate(0.05, -0.01, 0.11), 0.3, "holds 0 (+0.050 [-0.010, +0.110]), and they add as much to maps as smooth"),
    ],
)  # fmt: skip
def test_why_nothing_is_shown_is_said(gain, p, said):
    null = SimpleNamespace(p_gain=p, p=0.01)
    (remark,) = _verdict(0.5, {"coordinates only": Estimate(0.4)}, gain, null)
    assert said in remark
    assert remark.startswith("nothing shows") == (gain.low <= 0 or p > 0.05)


def test_the_gain_is_calibrated():
    """Unrelated smooth features: their gain over coordinates is as large as one null in ten says, one time in ten."""
    below = 0
    for trial in range(40):
        table = surface(100 + trial, n=80)
        y = np.unique(table.obs["network"], return_inverse=True)[1]
        parts = [(np.arange(80), np.arange(80, 160))]
        found = null_task.null(
            np.asarray(table.X), table.obs[["x_mm", "y_mm", "z_mm"]].abs().to_numpy(), y, parts,
            null_task.maps(table, null_task.Sphere.of(table), np.empty((0, 3)), y, 0),
            size=4, repeats=9, seed=trial,
        )  # fmt: skip
        below += found.p_gain <= 0.1
    # binomial (40, .1): 11 or more have probability .001
    assert below <= 10


def test_hemispheres_can_be_asked_for():
    """Tables whose sections are sections: all left hemispheres, then all right ones; each is named."""
    table = surface(share=0.8)
    table.obs["section"] = [f"s{k % 10}" for k in range(len(table))]
    score = networks(table, "network", BRAIN, hemispheres=True, compare=False)
    assert score.folds == ("right -> left hemisphere", "left -> right hemisphere")
    assert score.split.startswith("hemisphere")
    same = networks(surface(share=0.8), "network", SIDES, compare=False)
    assert score.value == pytest.approx(same.value, abs=0.03)
    one = networks(table, "network", Split(by="brain", fold=1), hemispheres=True, compare=False)
    assert one.folds == ("left -> right hemisphere",)
    assert set(one.truth.index) == set(table.obs["id"][table.obs["hemisphere"] == "R"])


def test_one_hemisphere_is_scored_in_blocks_and_refused_across():
    table = surface(share=0.8, n=200)[:200].copy()
    with pytest.raises(Refused, match=r"right|takes both"):
        networks(table, "network", SIDES, hemispheres=True)
    with pytest.raises(Refused, match="2 folds"):
        networks(table, "network", SIDES)
    blocked = Split(by="block", folds=4, block_mm=25, buffer_mm=6)
    score = networks(table, "network", blocked, nulls=9)
    assert score.n == 200
    assert "training rows dropped" in score.split
    assert "mirrored" not in score.baselines["coordinates only"].note.replace("sphere, mirrored", "")
    del table.obs["hemisphere"]
    with pytest.raises(Refused, match="hemisphere"):
        networks(table, "network", blocked)


def test_without_a_sphere_surrogates_take_its_place():
    table = surface(share=0.9, rough=1.0)
    del table.obsm["sphere"]
    score = networks(table, "network", SIDES, nulls=19)
    assert "as patchy as the labels" in score.baselines["spatial null"].note
    assert score.more["p, features"].value == 0.05
    assert "(space, mirrored)" in score.baselines["coordinates only"].note


def test_the_verb_asks_it_of_a_table(monkeypatch):
    monkeypatch.setattr(results.networks_task, "networks", partial(networks, nulls=9))
    table = surface(share=0.7)
    table.uns["brodmann"] |= {"split": {"by": "section", "folds": 0, "fold": None}, "encoder_fold": -1}
    score = bm.score("networks", table, "network")
    assert score.task == "networks"
    assert score.n == 240
    assert says(score, "(p = 0.1)")
    with pytest.raises(Usage, match="networks are read out"):
        bm.score("networks", table, "network", k=[3])


def test_the_medial_wall_is_no_network():
    """Wall rows are neither learned, tested nor predicted, whatever they are called; the score counts them."""
    table = surface(share=0.8)
    wall = table.obsm["sphere"][:, 2] < -80
    for name in ("unknown", "Medial_Wall", "???", "FreeSurfer_Defined_Medial_Wall", None):
        table.obs["network"] = np.where(wall, name, surface(share=0.8).obs["network"])
        score = networks(table, "network", SIDES, nulls=9, compare=name == "unknown")
        assert score.n == int((~wall).sum())
        assert set(score.classes) == {"net0", "net1", "net2", "net3"}
        assert not set(score.truth.index) & set(table.obs["id"][wall])
        assert says(score, f"{int(wall.sum())} of 240 rows carry no label")
        assert says(score, "no network") == (name is not None)
        if name == "unknown":
            assert "of rows left without a label" in score.baselines["spatial null"].note
    # their features must not matter at all
    table.X[wall] = 1e4
    assert networks(table, "network", SIDES, compare=False).value == score.value


def test_coordinates_of_the_other_hemisphere_are_mirrored():
    """A map that is alike in both hemispheres is named by mirrored places, and not by places as they are."""
    table = surface(rough=0.0)
    mirrored = networks(table, "network", SIDES, nulls=1).baselines["coordinates only"].value
    assert mirrored > 0.7
    plain = table.copy()
    del plain.obs["hemisphere"], plain.obsm["sphere"]
    assert networks(plain, "network", SIDES, nulls=1).baselines["coordinates only"].value < mirrored - 0.2


def test_bad_tables_are_refused_with_a_reason():
    table = surface()
    with pytest.raises(Usage, match="not 'yeo'"):
        networks(table, "yeo", SIDES)
    one = surface()
    one.obs["network"] = "net0"
    with pytest.raises(Refused, match="at least two classes"):
        networks(one, "network", SIDES)
    holes = surface()
    holes.X[5, 2] = np.nan
    with pytest.raises(Refused, match="1 of 240 rows hold NaN"):
        networks(holes, "network", SIDES)
    lost = surface()
    lost.obs.loc[lost.obs.index[3], "y_mm"] = np.nan
    with pytest.raises(Refused, match="1 of 240 rows without one"):
        networks(lost, "network", SIDES)
    both = [Fold(np.arange(0, 130), np.arange(120, 240), "by hand")]
    with pytest.raises(Leak):
        networks(table, "network", SIDES, folds=both)


def test_a_class_that_was_never_learned_counts_as_missed():
    """Two blocks have it, both in one fold: it is tested without a training row, and the score says so."""
    table = surface(share=0.8)
    split = Split(by="block", folds=2, block_mm=20)
    folds = splits.folds(table.obs, split)
    names = table.obs["network"].to_numpy(object).copy()
    names[folds[0].test[:30]] = "rare"
    table.obs["network"] = names
    score = networks(table, "network", split, compare=False)
    assert score.per_class["rare"]["recall"] == 0
    assert says(score, "counted as missed: rare (30 rows)")


def test_balanced_accuracy_is_the_mean_recall():
    score = networks(surface(share=0.8), "network", SIDES, compare=False)
    recall = [(score.predicted[score.truth == name] == name).mean() for name in score.classes]
    assert score.value == pytest.approx(np.mean(recall))
    assert score.metric == "balanced accuracy"
    assert score.more["accuracy"].value == pytest.approx((score.predicted == score.truth).mean())
