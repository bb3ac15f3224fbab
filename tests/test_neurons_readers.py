"""Recordings from files: the same numbers from every format, and a clear word for each thing that is wrong."""

from __future__ import annotations

import json
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import neuronfiles as made
from brodmann.errors import Corrupt, NoRoom, Refused
from brodmann.neurons import cache, statistics, timing

pytestmark = pytest.mark.usefixtures("own_cache")
data, quiet = made.data, made.quiet


def opened(tmp_path, data, **changes):
    return made.open_(made.npz(tmp_path / "r.npz", data), **changes)


def without(data, *keys):
    return {key: value for key, value in data.items() if key not in keys}


def remarks(source):
    return " | ".join([*source.remarks, *(text for one in source.recordings for text in one.remarks)])


# what is read


def test_the_same_recording_of_four_formats_opens_to_equal_arrays_trials_and_neurons(tmp_path, data, quiet):
    writers = {"npz": made.npz, "zarr": made.zarr_, "sensorium": made.sensorium, "nwb": made.nwb}
    ends = {"npz": "r.npz", "zarr": "r.zarr", "sensorium": "r", "nwb": "r.nwb"}
    sources = {}
    for name, write in writers.items():
        (tmp_path / name).mkdir()
        sources[name] = made.open_(write(tmp_path / name / ends[name], data))
    truth = sources["npz"].recordings[0]
    starts = zip(truth.trials["video"], truth.trials["frame"], truth.trials["frames"], strict=True)
    for video, frame, frames in starts:
        assert np.array_equal(truth.video[video : video + frames], made.shown(data)[frame : frame + frames])
    for key in ("responses", "behaviour", "pupil"):
        assert np.array_equal(getattr(truth, key), data[key], equal_nan=True)
    for source in sources.values():
        (found,) = source.recordings
        for key in ("video", "responses", "behaviour", "pupil"):
            assert np.array_equal(getattr(found, key), getattr(truth, key), equal_nan=True), key
        pd.testing.assert_frame_equal(found.trials, truth.trials)
        pd.testing.assert_frame_equal(source.neurons, sources["npz"].neurons)
        assert (source.unit, found.rate_hz, found.subject, source.fingerprint) == (
            "um",
            30.0,
            "r",
            sources["npz"].fingerprint,
        )
    neurons = sources["npz"].neurons
    assert list(neurons["id"]) == [f"r/u{i}" for i in range(made.N)]
    assert np.allclose(neurons[["x_um", "y_um"]], np.stack([data["neurons/x_um"], data["neurons/y_um"]], 1))
    assert np.allclose(neurons[["x_mm", "z_mm"]], [[i / 100, 0.15] for i in range(made.N)])


def test_repeats_are_stored_once_and_named_alike(tmp_path, data):
    source = opened(tmp_path, data)
    trials = source.recordings[0].trials
    assert len(source.recordings[0].video) == 8 * 20
    tests = trials[trials["part"] == "test"]
    assert tests["clip"].nunique() == tests["video"].nunique() == 1
    assert len(tests) == 3
    assert "CC_norm" not in remarks(source)


def test_a_set_is_converted_once_and_again_when_its_bytes_change(tmp_path, data, monkeypatch):
    path = made.npz(tmp_path / "r.npz", data)
    first = made.open_(path)
    monkeypatch.setattr(cache, "Writer", None)
    again = made.open_(path)
    assert again.fingerprint == first.fingerprint
    other = made.open_(path, valid=0.3)
    assert other.fingerprint != first.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("BRODMANN_CACHE", str(tmp_path / "cache"))
    data["responses"] = data["responses"] + 1
    changed = made.open_(made.npz(path, data))
    assert changed.recordings[0].responses[0, 0] == data["responses"][0, 0]


def test_a_damaged_cache_is_noticed_and_made_anew(tmp_path, data):
    path = made.npz(tmp_path / "r.npz", data)
    made.open_(path)
    (folder,) = (tmp_path / "cache").iterdir()
    file = folder / "0000" / "responses.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(Corrupt, match=r"responses\.npy"):
        cache.read(folder)
    assert np.array_equal(made.open_(path).recordings[0].responses, data["responses"])
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(bytes(whole))
    cache.read(folder)
    with pytest.raises(Corrupt, match="checksum"):
        cache.read(folder, verify=True)


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path, data):
    data["responses"][-1, 0] = np.nan
    with pytest.raises(Refused, match="finite"):
        opened(tmp_path, data)
    assert not list((tmp_path / "cache").iterdir())


def test_blocks_of_frames_give_what_whole_trials_give(tmp_path, data, monkeypatch):
    whole = opened(tmp_path, data)
    monkeypatch.setattr("brodmann.neurons.convert._BYTES", 7 * (made.H * made.W + 8 * made.N))
    monkeypatch.setenv("BRODMANN_CACHE", str(tmp_path / "other"))
    parts = made.open_(tmp_path / "r.npz")
    assert parts.fingerprint == whole.fingerprint


def test_a_folder_of_recordings_is_read_whole_and_says_what_it_left_out(tmp_path, data):
    folder = tmp_path / "set"
    folder.mkdir()
    made.npz(folder / "b.npz", data)
    made.npz(folder / "a.npz", made.recording(seed=1))
    (folder / "c.npz").write_bytes(b"no archive")
    made.say_of(
        folder, recordings=[{"file": "a.npz", "id": "M1/scan1", "subject": "M1"}, {"file": "b.npz", "subject": "M1"}]
    )
    source = made.open_(folder)
    assert [(one.id, one.subject, one.rows) for one in source.recordings] == [
        ("M1/scan1", "M1", range(5)),
        ("b", "M1", range(5, 10)),
    ]
    assert list(source.neurons["id"][4:6]) == ["M1/scan1/u4", "b/u0"]
    made.say_of(folder, subject="M2")
    source = made.open_(folder)
    assert {one.subject for one in source.recordings} == {"M2"}
    assert [name for name, _ in source.skipped] == ["c.npz"]


def test_planes_are_sections_and_responses_follow_their_neurons(tmp_path, data):
    data["neurons/plane"] = np.array(["p2", "p1", "p2", "p1", "p1"])
    data["neurons/area"] = np.array(["V1", "LM", "V1", "V1", "AL"])
    source = opened(tmp_path, data)
    assert list(source.neurons["section"]) == ["r/p1"] * 3 + ["r/p2"] * 2
    assert list(source.neurons["unit"]) == ["u1", "u3", "u4", "u0", "u2"]
    assert list(source.neurons["area"]) == ["LM", "V1", "AL", "V1", "V1"]
    assert np.array_equal(source.recordings[0].responses, data["responses"][:, [1, 3, 4, 0, 2]])


def test_neurons_are_placed_in_a_named_space(tmp_path, data):
    to_mm = [[0.001, 0, 2.0], [0, 0.001, 5.0], [0, 0, 3.0]]
    made.say_of(tmp_path, space="ccf_v3", recordings=[{"file": "r.npz", "to_mm": to_mm}])
    source = opened(tmp_path, data)
    assert source.space.name == "ccf_v3"
    assert np.allclose(source.neurons[["x_mm", "y_mm", "z_mm"]].iloc[2], [2.02, 5.012, 3.0])
    made.say_of(tmp_path, space="ccf_v3")
    with pytest.raises(Refused, match="neither columns"):
        opened(tmp_path, data)
    for axis in "xyz":
        data[f"neurons/{axis}_mm"] = np.arange(made.N) + 1.5
    data["neurons/z_mm"][1] = np.nan
    source = opened(tmp_path, data)
    assert source.neurons["x_mm"].tolist() == [1.5, 3.5, 4.5, 5.5]
    assert ("r/u1", "no place") in source.skipped


def test_neurons_without_a_place_lie_on_a_grid_or_are_left_out(tmp_path, data):
    source = opened(tmp_path, without(data, "neurons/x_um"))
    assert source.unit == "arbitrary"
    assert "grid" in remarks(source)
    assert not source.neurons[["x_um", "y_um"]].duplicated().any()
    data["neurons/x_um"][2] = np.nan
    source = opened(tmp_path, data)
    assert list(source.neurons["unit"]) == ["u0", "u1", "u3", "u4"]
    assert source.unit == "um"
    assert source.skipped == [("r/u2", "no place")]
    assert np.array_equal(source.recordings[0].responses, data["responses"][:, [0, 1, 3, 4]])


# numbers that are wrong


def test_missing_pupil_and_behaviour_are_masked_and_nothing_else_leaves(tmp_path, data):
    data["pupil"][5:9, 1] = np.nan
    data["pupil"][9, 0] = np.inf
    data["behaviour"][:, 1] = np.nan
    source = opened(tmp_path, data)
    (one,) = source.recordings
    assert np.isnan(one.pupil[5:9, 1]).all()
    assert np.isnan(one.pupil[9, 0])
    assert "running not recorded" in remarks(source)
    assert "pupil y is missing in 2.00% of frames" in remarks(source)
    behaviour, pupil = statistics.standardised(one, np.arange(200))
    assert np.isfinite(behaviour).all()
    assert np.isfinite(pupil).all()
    assert (pupil[5:9, 1] == 0).all()
    assert (behaviour[:, 1] == 0).all()
    frames = one.frames("train")
    known, _ = statistics.recorded(one, frames)
    kept = behaviour[frames][known[:, 0], 0]
    assert abs(kept.mean()) < 1e-5
    assert abs(kept.std() - 1) < 1e-5


def test_statistics_do_not_see_the_test_and_name_the_dead(tmp_path, data):
    test = np.repeat(data["trials/part"] == "test", 20)
    data["responses"][~test, 3] = 0
    (one,) = opened(tmp_path, data).recordings
    before = statistics.of(one)
    assert before.dead.tolist() == [False, False, False, True, False]
    assert before.scale[3] == 1
    assert "1 of 5 neurons never respond" in before.remarks[0]
    data["responses"][test] *= 50
    data["behaviour"][test] += 1e4
    data["pupil"][test] += 1e4
    (changed,) = opened(tmp_path, data).recordings
    after = statistics.of(changed)
    assert np.array_equal(before.mean, after.mean)
    assert np.array_equal(before.behaviour, after.behaviour)
    assert np.array_equal(before.pupil, after.pupil)
    scored, _ = statistics.standardised(changed, changed.frames("test"))
    assert (scored == statistics.LIMIT_SD).all()
    train = changed.frames("train")
    assert np.allclose(statistics.responses(changed, train).mean(0), [1, 1, 1, 0, 1], atol=1e-4)


def test_an_animal_without_behaviour_opens_masked(tmp_path, data):
    source = opened(tmp_path, without(data, "behaviour", "pupil"))
    (one,) = source.recordings
    assert np.isnan(one.behaviour).all()
    assert np.isnan(one.pupil).all()
    assert "pupil_radius, running, pupil x, pupil y not recorded" in remarks(source)
    behaviour, pupil = statistics.standardised(one, np.arange(10))
    assert not behaviour.any()
    assert not pupil.any()


def test_behaviour_columns_are_taken_by_name(tmp_path, data):
    data["behaviour"] = np.column_stack([data["behaviour"][:, 1], np.zeros(200), data["behaviour"][:, 0]])
    with pytest.raises(Refused, match="behaviour_columns"):
        opened(tmp_path, data)
    made.say_of(tmp_path, behaviour_columns=["running", "slope", "pupil_radius"])
    (one,) = opened(tmp_path, data).recordings
    assert np.array_equal(one.behaviour, data["behaviour"][:, [2, 0]], equal_nan=True)
    assert "slope" in " ".join(one.remarks)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: d | {"video": d["video"] / 255}, "multiply by 255"),
        (lambda d: d | {"video": (d["video"] / 255).round()}, "multiply by 255"),
        (lambda d: d | {"video": d["video"] / 2}, "with fractions"),
        (lambda d: d | {"video": d["video"].astype(np.uint16) * 200}, "uint16 of"),
        (lambda d: d | {"video": d["video"] > 3}, "found: bool"),
        (lambda d: d | {"video": np.where(d["video"] > 250, np.nan, d["video"])}, "NaN"),
        (lambda d: d | {"video": np.repeat(d["video"][..., None], 3, -1)}, '"rgb": "luminance"'),
        (lambda d: d | {"video": d["video"][:, :, :10]}, "--set samples.height_px=8 --set samples.width_px=10"),
        (lambda d: d | {"video": np.swapaxes(d["video"], 1, 2)}, "swapped"),
        (lambda d: d | {"video": d["video"][:-1]}, "should lie in the 159 frames of the video"),
        (lambda d: d | {"behaviour": d["behaviour"][:-1]}, "behaviour 199"),
        (lambda d: d | {"pupil": d["pupil"][:100]}, "pupil 100"),
        (lambda d: d | {"rate_hz": np.array(60.0)}, "2 times as many"),
        (lambda d: without(d, "rate_hz"), '"rate_hz": 30'),
        (lambda d: d | {"responses": d["responses"] - 1}, "not dF/F"),
        (lambda d: d | {"responses": np.where(d["responses"] > 3, np.inf, d["responses"])}, "NaN or infinity"),
        (lambda d: d | {"neurons/id": np.array(["u0", "u1", "u1", "u3", "u4"])}, "'u1'"),
        (lambda d: d | {"neurons/id": np.array(["u0", "u1"])}, "5 rows"),
        (lambda d: d | {"trials/frame": d["trials/frame"] + 1}, "frames 181 ... 200 in trial 9"),
        (lambda d: d | {"trials/frame": d["trials/frame"] // 2}, "follow one another"),
        (lambda d: d | {"trials/video": d["trials/video"] // 2}, "whole clips"),
        (lambda d: d | {"trials/part": np.array(["exam"] * 10)}, '"parts": {"exam": "test"}'),
        (lambda d: d | {"trials/part": np.array(["test"] * 10)}, "frames to train on"),
        (lambda d: without(d, "video"), "should hold 'video'"),
        (lambda d: d | {"responses": d["responses"].astype(object)}, "pickles can run any program"),
    ],
)
def test_each_thing_that_is_wrong_is_refused_by_name(tmp_path, data, change, what):
    with pytest.raises(Refused) as caught:
        opened(tmp_path, change(data))
    assert what in str(caught.value), str(caught.value)


def test_whole_numbers_stored_as_floats_are_converted_with_a_remark(tmp_path, data):
    plain = opened(tmp_path, data)
    for kind in (np.float32, np.int64):
        source = opened(tmp_path, data | {"video": data["video"].astype(kind)})
        assert np.array_equal(source.recordings[0].video, plain.recordings[0].video)
        assert f"video is {np.dtype(kind)}" in remarks(source)


def test_colour_becomes_luminance_when_it_is_said(tmp_path, data):
    colour = np.repeat(data["video"][..., None], 3, -1)
    colour[..., 2] = 0
    made.say_of(tmp_path, rgb="luminance")
    source = opened(tmp_path, data | {"video": colour})
    due = data["video"][0] * (0.299 + 0.587)
    assert np.allclose(source.recordings[0].video[0], due, atol=0.5001)
    assert "luminance" in remarks(source)


def test_without_repeats_it_opens_and_says_what_cannot_be_had(tmp_path):
    data = made.recording(clips=tuple("abcdefghij"))
    source = opened(tmp_path, without(data, "trials/part"))
    assert "CC_norm cannot be had" in remarks(source)
    assert set(source.recordings[0].trials["part"]) == {"train", "valid", "test"}


# names of clips


def test_equal_videos_are_one_clip_whatever_they_are_called_and_different_ones_never(tmp_path, data):
    names = np.array(["a", "b", "a", "t", "d", "u", "e", "t", "f", "g"])
    data["trials/clip"] = names
    source = opened(tmp_path, data)
    clips = [clip.split("[")[0] for clip in source.recordings[0].trials["clip"]]
    assert clips[:8] == ["a", "b", "a#2", "t", "d", "t", "e", "t"]
    assert "'a'" in remarks(source)


def test_a_repeat_cannot_be_moved_into_training(tmp_path, data):
    data["trials/part"][5] = "train"
    with pytest.raises(Refused, match="test and train"):
        opened(tmp_path, data)


# time stamps


def test_preceding_is_the_last_frame_that_is_not_later():
    times = np.array([0.0, 1.0, 2.0])
    assert timing.preceding(times, np.array([-0.1, 0.0, 0.9, 1.0, 5.0])).tolist() == [-1, 0, 0, 1, 2]


@given(st.lists(st.floats(0.001, 5), min_size=2, max_size=40), st.lists(st.floats(-3, 100), min_size=1, max_size=40))
def test_preceding_agrees_with_the_definition(steps, at):
    times = np.cumsum(steps)
    found = timing.preceding(times, np.array(at))
    for moment, index in zip(at, found, strict=True):
        assert index == max((i for i, t in enumerate(times) if t <= moment), default=-1)


def test_time_runs_forward_or_the_first_place_is_named():
    with pytest.raises(Refused, match=r"1\.5 s, then 1\.5 s at sample 3 \(2 such places\)"):
        timing.increasing(np.array([0.0, 1.0, 1.5, 1.5, 3.0, 2.0]), what="stamps")
    with pytest.raises(Refused, match="the first at 1"):
        timing.increasing(np.array([0.0, np.nan]), what="stamps")


def test_a_held_frame_grows_stale_and_gaps_are_found():
    times = np.array([0.0, 1.0, 2.0, 7.0, 8.0])
    at = np.arange(0.5, 10)
    assert timing.held(times, at).tolist() == [0, 1, 2, 2, -1, -1, -1, 3, 4, 4]
    assert timing.gaps(times) == [(2, 5.0)]
    # stamps that were rounded do not choose the frame before
    assert timing.held(np.array([0.0, 1.000001, 2.0]), np.array([0.0, 1.0, 2.0])).tolist() == [0, 1, 2]
    with pytest.raises(Refused, match="2 times"):
        timing.check_rate(60, 30, what="video")
    timing.check_rate(30.2, 30, what="video")


def stamped(data, *, video_hz, start_s=0.0):
    """One long trial: video at its own rate, behaviour at 10 per second that ends a second early."""
    total = len(data["responses"])
    seconds = total / made.RATE
    frames = int(seconds * video_hz)
    rng = np.random.default_rng(5)
    keep = without(data, *[key for key in data if key.startswith("trials/")], "pupil", "rate_hz")
    return keep | {
        "video": rng.integers(0, 256, (frames, made.H, made.W), dtype=np.uint8),
        "video_time_s": start_s + np.arange(frames) / video_hz,
        "response_time_s": np.arange(total) / made.RATE,
        "behaviour": np.arange(int((seconds - 1) * 10))[:, None] * np.ones(2),
        "behaviour_time_s": np.arange(int((seconds - 1) * 10)) / 10.0,
    }


@pytest.mark.parametrize("video_hz", [60.0, 25.0])
def test_video_and_behaviour_of_other_rates_are_brought_to_the_responses(tmp_path, data, video_hz):
    data = stamped(data, video_hz=video_hz)
    source = opened(tmp_path, data)
    (one,) = source.recordings
    assert set(one.trials["part"]) == {"train", "valid", "test"}
    for trial in one.trials.itertuples():
        for at in range(trial.frames):
            moment = (trial.frame + at) / made.RATE
            due = int(np.floor(moment * video_hz + 1e-6))
            assert np.array_equal(one.video[trial.video + at], data["video"][due])
    assert one.behaviour[:9, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.isnan(one.behaviour[-20:, 0]).all()
    assert "is missing in" in remarks(source)


def test_responses_before_the_video_belong_to_no_trial_and_holes_end_one(tmp_path, data):
    data = stamped(data, video_hz=30.0, start_s=0.5)
    data["video"], data["video_time_s"] = (np.delete(data[key], slice(60, 80), 0) for key in ("video", "video_time_s"))
    source = opened(tmp_path, data)
    trials = source.recordings[0].trials
    # 15 responses come before the video; each frame is held for two intervals at most
    assert trials["frame"].min() == 0
    assert len(source.recordings[0].responses) == 200 - 15 - 20 + 1
    assert "video: 1 gaps" in remarks(source)
    with pytest.raises(Refused, match="time stamps of both"):
        opened(tmp_path, without(data, "response_time_s"))
    data["video_time_s"][4] = data["video_time_s"][3]
    with pytest.raises(Refused, match="run forward"):
        opened(tmp_path, data)


def test_showings_of_one_clip_that_differ_by_a_frame_are_repeats_and_gaps_leave_a_trial_out(tmp_path):
    rng = np.random.default_rng(0)
    movies = {name: rng.integers(0, 256, (60, made.H, made.W), dtype=np.uint8) for name in "abcdx"}
    order = "xabcxd"
    video = np.concatenate([movies[name] for name in order])
    clock = np.arange(360) / made.RATE
    shown = clock.copy()
    # the second showing of x drops behind by half a frame at its 30th
    shown[240 + 30 : 300] += 0.5 / made.RATE
    data = {
        "video": video,
        "responses": rng.gamma(1.0, size=(360, 3)),
        "video_time_s": shown,
        "response_time_s": clock,
        "trials/frame": np.arange(6) * 60,
        "trials/frames": np.full(6, 60),
        "trials/clip": np.array(list(order)),
    }
    source = opened(tmp_path, data)
    trials = source.recordings[0].trials
    assert trials.loc[trials["part"] == "test", "clip"].tolist() == ["x", "x"]
    assert trials.loc[trials["part"] == "test", "video"].nunique() == 2
    data["response_time_s"] = clock + 0.2 * (np.arange(360) > 90) / made.RATE
    data["response_time_s"][100:] += 1.4 / made.RATE
    data |= {"video": video[:350], "video_time_s": shown[:350]}
    source = opened(tmp_path, data)
    assert "a" not in {clip.split("[")[0] for clip in source.recordings[0].trials["clip"]}
    assert "1 trials have a gap" in remarks(source)
    assert "1 trials reach beyond the video" in remarks(source)


# formats


def test_sensorium_padding_is_cut_and_hidden_trials_are_left_out(tmp_path, data):
    folder = made.sensorium(tmp_path / "dynamic29515-10-12-Video-9b", data, pad=4, kind=np.float32)
    tiers = np.array([*made.TIERS[:-1], "live_test_main"])
    np.save(folder / "meta/trials/tiers.npy", tiers)
    (folder / "data/responses/9.npy").unlink()
    source = made.open_(folder)
    (one,) = source.recordings
    assert one.subject == "29515"
    assert len(one.responses) == 180
    assert np.array_equal(one.responses, data["responses"][:180])
    assert "1 trials of hidden tiers" in remarks(source)
    (folder / "data/responses/0.npy").unlink()
    with pytest.raises(Refused, match="trial 0 should have responses"):
        made.open_(folder)


def test_sensorium_without_tiers_is_dealt_and_with_too_few_refused(tmp_path, data):
    folder = made.sensorium(tmp_path / "m1", data)
    (folder / "meta/trials/tiers.npy").unlink()
    source = made.open_(folder)
    trials = source.recordings[0].trials
    assert "no tiers" in remarks(source)
    assert trials.loc[trials["part"] == "test", "frame"].tolist() == [60, 100, 140]
    np.save(folder / "meta/trials/tiers.npy", np.array(["train"] * 9))
    with pytest.raises(Refused, match="row per trial"):
        made.open_(folder)
    np.save(folder / "meta/trials/tiers.npy", np.array(made.TIERS, object), allow_pickle=True)
    with pytest.raises(Refused, match="Python objects"):
        made.open_(folder)


def test_sensorium_arrays_of_a_trial_are_equally_long_and_whole(tmp_path, data):
    folder = made.sensorium(tmp_path / "m1", data)
    file = folder / "data/behavior/3.npy"
    whole = np.load(file)
    np.save(file, whole[:, :-1])
    with pytest.raises(Refused, match="behavior 19"):
        made.open_(folder)
    np.save(file, whole)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(Corrupt, match="claims"):
        made.open_(folder)


def test_nwb_spikes_are_counted_between_frames_and_not_in_gaps(tmp_path, data, quiet):
    step = 1 / made.RATE
    data = without(data, *[key for key in data if key.startswith("trials/")]) | {
        "trials/video": np.array([0]),
        "trials/frames": np.array([160]),
        "trials/frame": np.array([0]),
    }
    for key in ("responses", "behaviour", "pupil"):
        data[key] = data[key][:160]
    moments = (0.0, 0.1, 1.5, 159.9, 160.2, 161.5)
    spikes = [np.array(moments) * step, np.arange(160) * step + step / 2]
    source = made.open_(made.nwb(tmp_path / "r.nwb", data, spikes=spikes))
    (one,) = source.recordings
    assert one.responses[:3, 0].tolist() == [2, 1, 0]
    assert one.responses[:, 0].sum() == 4
    assert (one.responses[:, 1] == 1).all()
    assert source.unit == "arbitrary"
    assert list(source.neurons["id"]) == ["r/0", "r/1"]
    # a second of nothing after frame 80
    times = np.arange(160) * step + (np.arange(160) > 80)
    spikes = [np.array([80.2, 80.9, 90.0, 95.0]) * step]
    del data["trials/frame"], data["behaviour"]
    (one,) = made.open_(made.nwb(tmp_path / "gap.nwb", data, spikes=spikes, times=times)).recordings
    assert one.responses.sum() == 2
    assert one.trials["frame"].tolist()[0] == 0


def test_nwb_frames_of_a_template_are_shown_in_the_order_of_their_index(tmp_path, data, quiet):
    data["video"][1::2] = data["video"][::2]
    plain = made.open_(made.nwb(tmp_path / "r.nwb", data))
    (tmp_path / "images").mkdir()
    source = made.open_(made.nwb(tmp_path / "images" / "r.nwb", data, template=True))
    assert source.fingerprint == plain.fingerprint
    # files of older versions name a series, which pynwb no longer writes
    path = tmp_path / "r.nwb"
    index = made.order_of(data)
    with h5py.File(path, "a") as file:
        file.copy("stimulus/presentation/movie", "stimulus/templates/frames")
        file["stimulus/templates/frames"].attrs["object_id"] = "2f1d8a0e-0000-4000-8000-000000000001"
        for home, values in (("stimulus/templates/frames", data["video"]), ("stimulus/presentation/movie", index)):
            attributes = dict(file[home]["data"].attrs)
            del file[home]["data"]
            file[home].create_dataset("data", data=values).attrs.update(attributes)
        file["stimulus/presentation/movie"].attrs["neurodata_type"] = "IndexSeries"
        file["stimulus/presentation/movie/indexed_timeseries"] = h5py.SoftLink("/stimulus/templates/frames")
    assert made.open_(path).fingerprint == plain.fingerprint
    with h5py.File(path, "a") as file:
        file["stimulus/presentation/movie/data"][3] = 10**6
    with pytest.raises(Refused, match=r"0 \.\.\. 159 of its template"):
        made.open_(path)


def test_nwb_places_are_centres_of_masks_where_nothing_else_is_known(tmp_path, data, quiet):
    source = made.open_(made.nwb(tmp_path / "r.nwb", data, masks=True))
    assert np.allclose(source.neurons[["x_um", "y_um"]], [[(i + 0.75) * 2, i * 3] for i in range(made.N)])
    assert set(source.neurons["area"]) == {"V1"}


def test_nwb_with_several_candidates_lists_them_until_one_is_named(tmp_path, data, quiet):
    path = made.nwb(tmp_path / "r.nwb", data, also=("inferred",))
    with pytest.raises(Refused, match="ophys/Fluorescence/deconvolved, ophys/Fluorescence/inferred"):
        made.open_(path)
    made.say_of(tmp_path, keys={"responses": "inferred"})
    assert np.array_equal(made.open_(path).recordings[0].responses, data["responses"])
    made.say_of(tmp_path, keys={"responses": "absent"})
    with pytest.raises(Refused, match="'absent', which"):
        made.open_(path)


def test_nwb_without_pynwb_says_what_to_install(tmp_path, data, quiet, monkeypatch):
    path = made.nwb(tmp_path / "r.nwb", data)
    monkeypatch.setitem(__import__("sys").modules, "pynwb", None)
    with pytest.raises(Refused, match=r"brodmann\[nwb\]"):
        made.open_(path)


# files that are broken or hostile


def test_truncated_files_and_empty_folders(tmp_path, data, quiet):
    for name, write in (("r.npz", made.npz), ("r.nwb", made.nwb)):
        path = write(tmp_path / name, data)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(Corrupt, match="cut short"):
            made.open_(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="should hold recordings"):
        made.open_(tmp_path / "empty")
    with pytest.raises(Refused, match="nothing"):
        made.open_(tmp_path / "absent.npz")
    (tmp_path / "r.txt").write_text("no")
    with pytest.raises(Refused, match=r"'\.txt'"):
        made.open_(tmp_path / "r.txt")
    (tmp_path / "s" / "data").mkdir(parents=True)
    (tmp_path / "s" / "meta").mkdir()
    with pytest.raises(Refused, match="should hold trials"):
        made.open_(tmp_path / "s")


def header(shape, kind="<f4"):
    text = str({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_claims_of_size_are_checked_before_anything_is_allocated(tmp_path, data, quiet):
    path = made.npz(tmp_path / "r.npz", without(data, "responses"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("responses.npy", header((10**14, 5)))
    with pytest.raises(Corrupt, match="has shape"):
        made.open_(path)
    store = made.zarr_(tmp_path / "r.zarr", without(data, "responses"))
    group = zarr.open_group(str(store), mode="a")
    group.create_array("responses", shape=(10**14, 5), chunks=(1000, 5), dtype="f4")
    with pytest.raises(Corrupt, match="should hold the numbers that it claims"):
        made.open_(store)
    path = made.nwb(tmp_path / "r.nwb", data)
    with h5py.File(path, "a") as file:
        at = file["processing/ophys/Fluorescence/deconvolved"]
        attributes = dict(at["data"].attrs)
        del at["data"]
        at.create_dataset("data", (10**13, 5), "f4", chunks=(1000, 5)).attrs.update(attributes)
    with pytest.raises(Corrupt, match="should hold the numbers that it claims"):
        made.open_(path)


@pytest.mark.parametrize("where", ["filters", "compressor"])
def test_a_zarr_codec_that_unpickles_is_refused_before_it_runs(tmp_path, data, quiet, where):
    store = tmp_path / "two.zarr"
    group = zarr.open_group(str(store), mode="w", zarr_format=2)
    for name, values in data.items():
        group.create_array(name, data=values)
    about = json.loads((store / "trials/frame/.zarray").read_text())
    codec = {"id": "pickle", "protocol": 5}
    about |= {"filters": None, "compressor": None} | {where: [codec] if where == "filters" else codec}
    (store / "trials/frame/.zarray").write_text(json.dumps(about))
    (store / "trials/frame/0").write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises((Refused, Corrupt), match="pickle"):
        made.open_(store)


def test_a_cache_that_does_not_fit_is_said_before_it_is_written(tmp_path, data, monkeypatch):
    import shutil

    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1000))
    with pytest.raises(NoRoom, match="BRODMANN_CACHE"):
        opened(tmp_path, data, height_px=8)


def test_the_sidecar_is_strict_and_its_names_stay_inside(tmp_path, data):
    (tmp_path / "set").mkdir()
    made.npz(tmp_path / "set" / "r.npz", data)
    for stated, what in (
        ({"rate": 30}, "rate"),
        ({"files": ["../r.npz"]}, "stay inside"),
        ({"files": ["gone.npz"]}, "no such file"),
        ({"space": "mni"}, "known space"),
        ({"recordings": [{"file": "r.npz"}, {"file": "r.npz"}]}, "twice"),
        ({"recordings": [{"file": "r.npz", "to_mm": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}]}, "needs a space"),
        ({"behaviour_columns": ["a", "b"]}, "pupil_radius and running"),
        ({"keys": {"video": "gone"}}, "'gone'"),
        ({"keys": {"clip": "gone"}}, "'gone'"),
        ({"rate_hz": 60}, "2 times"),
    ):
        made.say_of(tmp_path / "set", **stated)
        with pytest.raises(Refused) as caught:
            made.open_(tmp_path / "set")
        assert what in str(caught.value)
    made.say_of(tmp_path / "set", keys={"video": "movie"}, rate_hz=30.0)
    data["movie"] = data.pop("video")
    made.npz(tmp_path / "set" / "r.npz", without(data, "rate_hz"), compressed=False)
    assert made.open_(tmp_path / "set" / "recordings.json").recordings[0].rate_hz == 30
