"""Public recordings: the movie is the one that was shown, responses belong to their patterns, splits do not overlap."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from brodmann.datasets import macaque, salamander
from brodmann.errors import Refused

DATA = os.environ.get("BRODMANN_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="needs public data: set BRODMANN_DATA")


def folder(name: str) -> Path:
    path = Path(str(DATA)) / "neurons" / name
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BRODMANN_CACHE", str(tmp_path))


def test_spikes_of_the_retina_follow_light_at_the_listed_centres_of_the_generated_movie():
    pytest.importorskip("retinawhitenoise", reason="needs the package retinawhitenoise")
    home = folder("salamander_rgc")
    counts = np.load(home / "responses_train.npz")["counts"]
    frames, lag, cells = 3000, 4, (10, 63, 30, 123, 19)
    average = np.zeros((len(cells), salamander.HEIGHT, salamander.WIDTH))
    start = 0
    for light in salamander.movie(frames):
        assert light.shape[1:] == (salamander.HEIGHT, salamander.WIDTH)
        assert set(np.unique(light)) == {0, 255}
        answers = counts[start + lag : start + lag + len(light), cells]
        average += np.tensordot(answers.astype(np.float32).T, light.astype(np.float32) - 127.5, 1)
        start += len(light)
    assert start == frames
    # sums over 7 x 7 checkers
    side = 7
    total = np.pad(average, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    box = total[:, side:, side:] - total[:, :-side, side:] - total[:, side:, :-side] + total[:, :-side, :-side]
    for cell, map_, centre in zip(cells, np.abs(box), salamander.centres(home)[list(cells)], strict=True):
        row, column = np.unravel_index(map_.argmax(), map_.shape)
        distance = np.hypot(column + side // 2 - centre[0], row + side // 2 - centre[1])
        assert distance < 8, f"cell {cell}: {distance:.0f} checkers from its listed centre"


def test_trials_of_the_retina_run_in_order_and_the_last_fifth_is_the_test():
    trials = salamander.trials()
    ends = (trials["frame"] + trials["frames"]).to_numpy()
    assert (trials["frame"].to_numpy()[1:] == ends[:-1]).all()
    assert ends[-1] == salamander.FRAMES
    assert list(dict.fromkeys(trials["part"])) == ["train", "valid", "test"]
    assert trials.loc[trials["part"] == "test", "frame"].min() == salamander.FRAMES * 4 // 5
    assert trials.loc[trials["part"] == "test", "frames"].sum() == salamander.FRAMES // 5


def test_listed_centres_of_the_retina_lie_in_what_is_kept_of_the_movie_or_at_its_edge():
    x, y = salamander.centres(folder("salamander_rgc")).T
    rows, columns = salamander.ROWS, salamander.COLUMNS
    inside = (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)
    edge = (x == 0) | (y == 0) | (x == salamander.WIDTH - 1) | (y == salamander.HEIGHT - 1)
    assert len(x) == 177
    assert (inside | edge).all()
    assert inside.sum() == 172


def test_a_folder_without_the_recordings_is_refused_by_name(tmp_path):
    with pytest.raises(Refused, match=r"no responses_train\.npz"):
        salamander.open(tmp_path)
    with pytest.raises(Refused, match=r"no patterns\.npz"):
        macaque.open(tmp_path, split="last")


@pytest.mark.parametrize("split", ["random", "last"])
def test_parts_of_the_patterns_do_not_overlap_and_depend_on_the_seed_as_they_say(split):
    part, again, other = macaque.parts(split), macaque.parts(split), macaque.parts(split, seed=1)
    assert {name: int((part == name).sum()) for name in np.unique(part)} == {"train": 5320, "valid": 380, "test": 1900}
    assert (part == again).all()
    assert ((part == "test") == (other == "test")).all() == (split == "last")
    if split == "last":
        assert (np.flatnonzero(part == "test") == np.arange(5700, 7600)).all()
    else:
        assert np.flatnonzero(part == "test").mean() == pytest.approx(3800, abs=200)


def test_patterns_are_those_of_the_small_copy_and_the_source_shows_each_once():
    home = folder("macaque_v1")
    whole, small = macaque.patterns(home), macaque.small(home)
    means = whole.reshape(macaque.SHOWN, 20, 8, 20, 8).mean((2, 4), dtype=np.float32)
    dark = (means - macaque.FIGURE) / (macaque.GROUND - macaque.FIGURE)
    assert np.corrcoef(dark.ravel(), small.ravel())[0, 1] > 0.98
    source = macaque.open(home, split="random")
    recording = source.recordings[0]
    assert len(source) == 3
    assert recording.video.shape == (7600, 160, 160)
    assert (np.asarray(recording.video[[0, 4000, 7599]]) == whole[[0, 4000, 7599]]).all()
    raw = macaque.responses(home)
    assert (raw < 0).any()
    assert np.allclose(recording.responses, np.maximum(raw, 0))
    trials = recording.trials
    assert (trials["frames"] == 1).all()
    assert trials["clip"].is_unique
    assert (trials["part"].to_numpy() == macaque.parts("random")).all()
    assert source.fingerprint != macaque.open(home, split="last").fingerprint
