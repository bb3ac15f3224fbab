"""Train, valid and test: no frame that judges is seen, or nearly seen, in training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brodmann.errors import Leak, Refused
from brodmann.neurons import parts

RATE = 10.0


def table(*trials, gap=0):
    """Trials (clip, frames[, part]) one after another; equal clips share their video."""
    rows, at, videos, end = [], 0, {}, 0
    for clip, frames, *part in trials:
        if clip not in videos:
            videos[clip], end = end, end + frames
        rows.append((clip, videos[clip], at, frames, "stimulus", *(part or [""])))
        at += frames + gap
    return pd.DataFrame(rows, columns=["clip", "video", "frame", "frames", "domain", "part"])


def deal(*tables, valid=0.1, test=0.2, gap_s=1.0):
    names = [f"r{i}" for i in range(len(tables))]
    return parts.deal(tables, names, rate_hz=RATE, valid=valid, test=test, gap_s=gap_s)


def of(dealt, part):
    return dealt.loc[dealt["part"] == part, "clip"].tolist()


def share(dealt, part):
    return dealt.loc[dealt["part"] == part, "frames"].sum()


def test_stated_parts_are_kept():
    before = table(("a", 50, "train"), ("b", 50, "valid"), ("c", 50, "test"), ("c", 50, "test"))
    (after,), (said,) = deal(before)
    pd.testing.assert_frame_equal(after, before)
    assert said == []


def test_valid_is_carved_from_the_end_of_training_where_it_is_not_stated():
    (after,), _ = deal(table(*[(f"c{i}", 50, "train") for i in range(10)], ("t", 50, "test"), ("t", 50, "test")))
    assert of(after, "valid") == ["c9"]
    assert of(after, "test") == ["t", "t"]
    assert len(of(after, "train")) == 9


def test_a_stated_training_part_is_never_made_a_test():
    (after,), (said,) = deal(table(*[(f"c{i}", 50, "train") for i in range(10)]))
    assert len(of(after, "train")) == 9
    assert of(after, "valid") == ["c9"]
    assert "no test frames" in said


def test_clips_shown_several_times_are_the_test():
    trials = [(f"c{i}", 50) for i in range(20)]
    (after,), (said,) = deal(table(*trials[:10], ("t", 50), *trials[10:], ("t", 50)))
    assert of(after, "test") == ["t", "t"]
    assert of(after, "valid") == ["c18", "c19"]
    assert "1 clips that are shown several times are the test" in said


def test_where_everything_is_repeated_the_clips_are_dealt_with_all_their_repeats():
    once = [(f"c{i}", 50) for i in range(10)]
    (after,), (said,) = deal(table(*once, *once[::-1], *once))
    assert sorted(set(of(after, "test"))) == ["c8", "c9"]
    assert len(of(after, "test")) == 6
    assert set(of(after, "train")) == {f"c{i}" for i in range(7)}
    assert any("most of the video" in s for s in said)
    (after,), _ = deal(table(("movie", 600), ("movie", 600)))
    assert after["part"].tolist() == ["train", "valid", "test"] * 2
    assert after["clip"].tolist()[:3] == after["clip"].tolist()[3:]


def test_one_long_trial_is_cut_by_time_with_a_gap_on_both_sides():
    (after,), (said,) = deal(table(("movie", 1000)))
    assert after[["clip", "video", "frame", "frames", "part"]].values.tolist() == [
        ["movie[0:710]", 0, 0, 710, "train"],
        ["movie[730:790]", 730, 730, 60, "valid"],
        ["movie[810:1000]", 810, 810, 190, "test"],
    ]
    assert "10 frames left out beside 2 cuts" in said[0]


def test_a_cut_goes_between_trials_where_one_ends_nearby():
    (after,), _ = deal(table(*[(f"c{i}", 47) for i in range(30)]))
    assert after["frames"].tolist() == [47] * 30
    assert len(of(after, "test")) == 6
    assert len(of(after, "valid")) == 2


def test_a_test_clip_of_one_animal_teaches_no_other():
    first = table(*[(f"c{i}", 50) for i in range(10)], ("t", 50), ("t", 50))
    second = table(("t", 50), *[(f"c{i}", 50) for i in range(9, -1, -1)])
    (one, two), _ = deal(first, second)
    assert of(two, "test") == ["t"]
    assert of(one, "valid") == of(two, "valid") == ["c9"]
    first = table(("a", 50, "train"), ("c", 50, "valid"), ("t", 50, "test"), ("t", 50, "test"))
    stated = table(("t", 50, "train"), ("a", 50, "train"), ("b", 50, "valid"))
    (_, two), (_, said) = deal(first, stated)
    assert of(two, "train") == ["a"]
    assert any("1 train trials show clips that another recording keeps" in line for line in said)


def test_one_clip_in_two_parts_is_a_leak_and_unknown_parts_are_refused():
    with pytest.raises(Leak, match="'a' is test and train"):
        deal(table(("a", 50, "train"), ("b", 50, "train"), ("a", 50, "test")))
    with pytest.raises(Refused, match="'exam'"):
        deal(table(("a", 50, "exam")))


def test_no_frames_to_train_on_is_refused():
    with pytest.raises(Refused, match=r"samples\.gap_s"):
        deal(table(("a", 12)), gap_s=2.0)
    with pytest.raises(Refused, match="train on"):
        deal(table(("a", 12, "test")))


def test_without_repeats_in_the_test_it_is_said():
    _, (said,) = deal(table(*[(f"c{i}", 50) for i in range(10)]))
    assert any("CC_norm cannot be had" in line for line in said)


recordings = st.lists(
    st.lists(
        st.tuples(st.sampled_from("abcdefghijkl"), st.sampled_from(["", "", "train", "valid", "test"])),
        min_size=1,
        max_size=14,
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(
    recordings,
    st.dictionaries(st.sampled_from("abcdefghijkl"), st.integers(1, 400)),
    st.booleans(),
    st.floats(0.01, 0.49),
    st.floats(0.01, 0.49),
    st.floats(0, 3),
)
def test_whatever_is_dealt_no_two_parts_share_or_touch_a_clip(given_, lengths, stated, valid, test, gap_s):
    # one part per clip and recording: two are a leak, which has a test of its own
    tables = []
    for trials in given_:
        words = dict(trials) if stated else {}
        tables.append(table(*[(clip, lengths.get(clip, 60), words.get(clip, "")) for clip, _ in trials], gap=3))
    before = [one.copy() for one in tables]
    try:
        dealt, _ = deal(*tables, valid=valid, test=test, gap_s=gap_s)
    except Refused:
        return
    for one, was in zip(tables, before, strict=True):
        pd.testing.assert_frame_equal(one, was)
    held = {"train": {}, "valid": {}, "test": {}}
    for after, was in zip(dealt, before, strict=True):
        assert set(after["part"]) <= set(held)
        taken = np.zeros(int((was["frame"] + was["frames"]).max()), int)
        for row in after.itertuples():
            taken[row.frame : row.frame + row.frames] += 1
            (home,) = [
                t for t in was.itertuples() if t.frame <= row.frame and row.frame + row.frames <= t.frame + t.frames
            ]
            offset = row.frame - home.frame
            assert row.video == home.video + offset
            assert row.frames > 0
            if home.part == "test":
                assert row.part == "test"
            held[row.part].setdefault(home.clip, set()).update(range(offset, offset + row.frames))
        assert taken.max(initial=0) <= 1
    gap = 2 * int(np.ceil(gap_s * RATE - 1e-9))
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        for clip in held[a].keys() & held[b].keys():
            mine, others = np.array(sorted(held[a][clip])), np.array(sorted(held[b][clip]))
            # frames between two of different parts: at least the gap of both sides
            assert np.abs(mine[:, None] - others[None]).min() > gap


@settings(max_examples=100, deadline=None)
@given(st.integers(300, 5000), st.floats(0.05, 0.3), st.floats(0.05, 0.3))
def test_shares_of_a_long_trial_are_those_that_were_asked_for(frames, valid, test):
    (after,), _ = deal(table(("movie", frames)), valid=valid, test=test, gap_s=0.1)
    assert abs(share(after, "test") - test * frames) <= 3
    assert abs(share(after, "valid") - valid * (1 - test) * frames) <= 4
