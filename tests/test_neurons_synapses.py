"""Synapses of one's own recordings: read strictly from every place they may lie, and asked of to the end."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

import brodmann as bm
import neuronfiles as made
from brodmann import phantom, settings, verbs
from brodmann.errors import Corrupt, Refused, Usage
from brodmann.neurons.recipe import Recipe
from brodmann.tasks.wiring import wiring
from test_wiring import world

pytestmark = pytest.mark.usefixtures("own_cache")
PAIRS = "pre,post,synapses\na/u0,a/u1,2\na/u1,a/u0,0\na/u3,a/u2,1\n"


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "set"
    home.mkdir()
    made.npz(home / "a.npz", made.recording())
    made.npz(home / "b.npz", made.recording(seed=1))
    return home


def synapses(folder, text=PAIRS, name="synapses.csv"):
    (folder / name).write_text(text)
    return made.open_(folder).synapses


def test_a_table_beside_recordings_becomes_their_synapses_with_distances(folder):
    assert made.open_(folder).synapses is None
    before = made.open_(folder).fingerprint
    found = synapses(folder)
    assert found["pre"].tolist() == ["a/u0", "a/u1", "a/u3"]
    assert found["synapses"].tolist() == [2, 0, 1]
    # x 0, 10, 20, 30 and y 0, 3, 12, 27 um
    assert found["distance_um"].tolist() == pytest.approx([109**0.5, 109**0.5, (100 + 225) ** 0.5])
    # they are no part of what is trained on
    assert made.open_(folder).fingerprint == before
    given = "pre,post,synapses,distance_um,exposure,note\na/u0,a/u1,2,7.5,3,x\na/u0,a/u2,0,,1,y\n"
    found = synapses(folder, given)
    assert found["distance_um"].tolist() == pytest.approx([7.5, (400 + 144) ** 0.5])
    assert found["exposure"].tolist() == [3, 1]
    assert any("note of synapses.csv are left out" in text for text in made.open_(folder).remarks)
    told = dict(bm.validate(folder).facts)
    assert told["synapses"] == "2 pairs of 1 pre-synaptic neurons, 1 connected, 2 synapses"


def test_names_within_a_recording_a_named_file_and_one_file_of_a_folder(folder):
    (folder / "synapses.csv").write_text("broken")
    made.say_of(folder, synapses="wires.csv")
    found = synapses(folder, "recording,pre,post,synapses\nb,u0,u1,1\na,u0,u4,0\n", "wires.csv")
    assert found["pre"].tolist() == ["b/u0", "a/u0"]
    alone = made.open_(folder / "b.npz")
    assert alone.synapses["pre"].tolist() == ["b/u0"]
    assert any("1 of 2 pairs" in text for text in alone.remarks)
    (folder / "wires.csv").unlink()
    with pytest.raises(Refused, match="no such file"):
        made.open_(folder)
    made.say_of(folder, synapses="../wires.csv")
    with pytest.raises(Refused, match="stay inside"):
        made.open_(folder)


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_a_file_may_hold_its_own_synapses(kind, tmp_path):
    data = made.recording() | {
        "synapses/pre": np.array(["u0", "u1"]), "synapses/post": np.array(["u4", "u0"]),
        "synapses/synapses": np.array([3, 0]),
    }  # fmt: skip
    write = made.npz if kind == "npz" else made.zarr_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = made.open_(write(tmp_path / f"r.{kind}", data)).synapses
        assert found[["pre", "post"]].to_numpy().tolist() == [["r/u0", "r/u4"], ["r/u1", "r/u0"]]
        assert found["synapses"].tolist() == [3, 0]
        data["synapses/post"] = np.array(["u4", "u9"])
        with pytest.raises(Refused, match="r/u9"):
            made.open_(write(tmp_path / f"s{kind}" / f"r.{kind}" if False else tmp_path / f"r.{kind}", data))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("pre,post\na/u0,a/u1\n", "add synapses"),
        ("pre,post,synapses\na/u0,a/u9,1\n", "'a/u9'"),
        ("pre,post,synapses\nu0,u1,1\n", "recording's name is missing"),
        ("pre,post,synapses\na/u0,c/u1,1\n", "'c/u1'"),
        ("pre,post,synapses\na/u0,a/u1,-1\n", "'-1' from a/u0 to a/u1"),
        ("pre,post,synapses\na/u0,a/u1,0.5\n", "whole numbers"),
        ("pre,post,synapses\na/u0,a/u1,\n", "whole numbers"),
        ("pre,post,synapses\na/u0,a/u1,inf\n", "whole numbers"),
        ("pre,post,synapses,distance_um\na/u0,a/u1,1,far\n", "'far'"),
        ("pre,post,synapses,distance_um\na/u0,a/u1,1,-3\n", "distance_um"),
        ("pre,post,synapses\na/u0,a/u1,1\na/u1,a/u0,1\na/u0,a/u1,2\n", "first a/u0 to a/u1"),
        ("pre,post,synapses\na/u0,b/u1,1\n", "one animal"),
    ],
)
def test_what_cannot_be_is_refused_by_name(folder, text, what):
    with pytest.raises(Refused) as caught:
        synapses(folder, text)
    assert what in str(caught.value), str(caught.value)


def test_no_csv_is_said_and_distances_that_cannot_be_known_are_asked_for(folder):
    (folder / "synapses.csv").write_bytes(b'pre,post,synapses\n"a/u0,a/u1,1\n\xff')
    with pytest.raises(Corrupt, match="CSV"):
        made.open_(folder)
    made.say_of(folder, subject="M")
    with pytest.raises(Refused, match="two recordings"):
        synapses(folder, "pre,post,synapses\na/u0,b/u1,1\n")
    assert synapses(folder, "pre,post,synapses,distance_um\na/u0,b/u1,1,50\n")["distance_um"].tolist() == [50]


def test_a_neuron_that_was_left_out_takes_its_pairs_along(folder):
    data = made.recording()
    data["neurons/x_um"][1] = np.nan
    made.npz(folder / "a.npz", data)
    assert synapses(folder)["pre"].tolist() == ["a/u3"]
    assert any(
        "2 of 3 pairs of synapses.csv have a neuron that was left out" in text for text in made.open_(folder).remarks
    )


def test_wiring_is_asked_of_ones_own_recordings_to_the_end(tmp_path):
    rng = np.random.default_rng(0)
    n, length = 24, 30
    names = [f"u{number}" for number in range(n)]
    clip = np.array([0, 1, 2, 3, 4, 5, 4])
    np.savez(
        tmp_path / "a.npz", video=rng.integers(0, 256, (6 * length, 16, 16), dtype=np.uint8),
        responses=rng.poisson(0.4, (len(clip) * length, n)).astype(np.float32), rate_hz=np.array(30.0),
        **{
            "trials/frame": np.arange(len(clip)) * length, "trials/frames": np.full(len(clip), length),
            "trials/video": clip * length, "neurons/id": np.array(names),
            "trials/part": np.where(clip == 4, "test", np.where(clip == 5, "valid", "train")),
            "neurons/x_um": rng.uniform(0, 300, n), "neurons/y_um": rng.uniform(0, 300, n),
        },
    )  # fmt: skip
    small = {
        "encoder": {"channels": [8, 8], "pools": [2, 1], "layers": 1, "outputs": 8, "modulation": 4},
        "fit": {"steps": 2, "batch": 2}, "samples": {"frames": 30, "height_px": 16, "width_px": 16},
    }  # fmt: skip
    run = bm.fit(settings.build(Recipe, small, where="small"), tmp_path, tmp_path / "run", quiet=True)
    table = bm.embed(run, controls=False, quiet=True)
    with pytest.raises(Usage, match="no synapses"):
        bm.score("wiring", run)
    # who is alike is connected, and nothing else
    x = np.asarray(table.X, np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    order = table.obs["id"].astype(str).tolist()
    like = x @ x.T
    rows = [
        f"{order[i]},{order[j]},{rng.poisson(0.4 * np.exp(like[i, j] / like.std()))}"
        for i in range(n) for j in range(n) if i != j
    ]  # fmt: skip
    (tmp_path / "synapses.csv").write_text("\n".join(["pre,post,synapses", *rows]))
    found = bm.score("wiring", run)
    assert found.n == n * (n - 1)
    assert found.interval[0] > 0
    assert "similarity of coordinates" in found.baselines
    saved = json.loads((run.path / "scores" / "wiring-synapses.json").read_text())
    assert saved["value"] == found.value
    verbs.fit(settings.build(Recipe, small, where="small"), tmp_path, tmp_path / "run", quiet=True)


def test_too_few_pairs_are_refused_with_numbers_and_without_warnings():
    table, frame = world(1.6, pre=20, post=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few = frame.copy()
        few.loc[few[few["synapses"] > 0].groupby("pre").cumcount().pipe(lambda at: at[at > 1]).index, "synapses"] = 0
        left = int((few["synapses"] > 0).sum())
        assert left < 45
        with pytest.raises(Refused, match=r"at least 45 connected pairs, 5 for each of 9") as caught:
            wiring(table, few, shuffles=2)
        assert f"{left} connected pairs of" in str(caught.value)
        assert "synapses of" in str(caught.value)
        with pytest.raises(Refused, match="with 0 synapses"):
            wiring(table, frame[frame["synapses"] > 0].assign(synapses=1), shuffles=2)


def test_a_fit_that_cannot_predict_is_refused_not_printed_as_nan():
    """Neurons of four areas, mm apart: almost all pairs are out of reach, the rest lie within a hundredth of them."""
    given = phantom.recordings(
        animals=3, neurons=40, minutes=0.2, test_clips=1, repeats=1, clip_s=1.0, domain_minutes=0.0, valid_minutes=0.0
    )
    ids = given.neurons["id"].astype(str)
    import anndata as ad

    obs = pd.DataFrame({"id": ids.to_numpy(), "subject": "M", "section": "s"}, index=ids.to_numpy())
    rng = np.random.default_rng(0)
    table = ad.AnnData(X=rng.standard_normal((120, 16)).astype(np.float32), obs=obs, uns={"brodmann": {}})
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(Refused, match="nothing can be predicted") as caught:
            wiring(table, given.synapses, shuffles=2)
    assert "connected pairs of" in str(caught.value)
