"""Folds keep brains, sections and neighbourhoods apart, and are the same every time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from brodmann import splits
from brodmann.errors import Leak, Refused, Usage
from brodmann.settings import Split


def brains(n_brains: int = 3, n_sections: int = 6, per_section: int = 12, seed: int = 0) -> pd.DataFrame:
    """Brains cut into sections along y, names in an order that is not the order in the brain."""
    rng = np.random.default_rng(seed)
    rows = []
    for brain in range(n_brains):
        names = rng.permutation(n_sections)
        for position in range(n_sections):
            for _ in range(per_section):
                x, z = rng.uniform(0, 8, 2)
                rows.append((f"B{brain}", f"s{names[position]:02d}", x, position * 0.8, z))
    return pd.DataFrame(rows, columns=["subject", "section", "x_mm", "y_mm", "z_mm"])


@pytest.mark.parametrize("by", ["brain", "section", "block"])
def test_test_sets_are_disjoint_and_cover_every_row(by):
    places = brains()
    made = splits.folds(places, Split(by=by, folds=3))
    assert len(made) == 3
    assert sorted(np.concatenate([fold.test for fold in made])) == list(range(len(places)))
    group = splits.groups(places, Split(by=by))
    for fold in made:
        assert not set(group[fold.train]) & set(group[fold.test])
        assert len(fold.train) + len(fold.test) == len(places)


def test_every_fold_of_sections_spans_the_brain():
    places = brains(n_brains=1, n_sections=15)
    for fold in splits.folds(places, Split(by="section", folds=5)):
        position = np.unique(places["y_mm"].to_numpy()[fold.test])
        assert np.allclose(np.diff(position), 5 * 0.8)


def test_folds_do_not_depend_on_the_order_of_rows():
    places = brains()
    shuffled = places.sample(frac=1, random_state=3)
    for by in ("brain", "section", "block"):
        straight = splits.folds(places, Split(by=by, folds=3))
        mixed = splits.folds(shuffled.reset_index(drop=True), Split(by=by, folds=3))
        for a, b in zip(straight, mixed, strict=True):
            assert set(a.test) == set(shuffled.index[b.test])
            assert a.name == b.name


def test_same_section_name_in_two_brains_is_two_groups():
    places = brains(n_brains=2, n_sections=4)
    assert len(np.unique(splits.groups(places, Split(by="section")))) == 8


def test_leave_one_out_and_one_fold():
    places = brains(n_brains=4)
    every = splits.folds(places, Split(by="brain", folds=0))
    assert [fold.name for fold in every] == [f"brain B{i} held out" for i in range(4)]
    one = splits.folds(places, Split(by="brain", folds=0, fold=2))
    assert len(one) == 1
    assert np.array_equal(one[0].test, every[2].test)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    buffer=st.floats(0.05, 0.79),
    by=st.sampled_from(["section", "block"]),
    n_sections=st.integers(3, 7),
)
def test_buffer_drops_exactly_the_close_rows(seed, buffer, by, n_sections):
    places = brains(n_brains=2, n_sections=n_sections, per_section=15, seed=seed)
    split = Split(by=by, folds=3, buffer_mm=buffer, block_mm=3.0)
    plain = splits.folds(places, Split(by=by, folds=3, block_mm=3.0))
    xyz, subject = splits.positions(places), places["subject"].to_numpy()
    for fold, full in zip(splits.folds(places, split), plain, strict=True):
        distance = cdist(xyz[full.train], xyz[fold.test])
        distance[subject[full.train][:, None] != subject[fold.test][None]] = np.inf
        assert np.array_equal(fold.train, full.train[distance.min(axis=1) > buffer])
        assert fold.dropped == len(full.train) - len(fold.train)


def test_a_buffer_between_sections_drops_neighbouring_sections():
    places = brains(n_brains=1, n_sections=10, per_section=200)
    loose = splits.folds(places, Split(by="section", folds=5, buffer_mm=0.0))
    tight = splits.folds(places, Split(by="section", folds=5, buffer_mm=1.0))
    assert all(fold.dropped > 0 for fold in tight)
    assert all(fold.dropped == 0 for fold in loose)


def test_leaks_are_named():
    places = brains()
    rows = np.arange(len(places))
    with pytest.raises(Leak, match="B1"):
        splits.prove(places, splits.Fold(rows[:100], rows[100:], "by hand"), Split(by="brain"))
    with pytest.raises(Leak, match="rows on both sides"):
        splits.prove(places, splits.Fold(rows[:100], rows[99:], "by hand"), Split(by="brain"))
    with pytest.raises(Leak, match="section"):
        splits.prove(places, splits.Fold(rows[::2], rows[1::2], "by hand"), Split(by="section"))
    made = splits.folds(places, Split(by="section", folds=3))[0]
    with pytest.raises(Leak, match="mm from every test row"):
        splits.prove(places, made, Split(by="section", folds=3, buffer_mm=2.0))


def test_too_few_groups_are_refused_with_what_to_do():
    with pytest.raises(Refused, match=r"split\.by = 'section'"):
        splits.folds(brains(n_brains=1), Split(by="brain", folds=5))
    with pytest.raises(Refused, match="at most 3"):
        splits.folds(brains(n_brains=3), Split(by="brain", folds=5))
    with pytest.raises(Usage, match="between 0 and 2"):
        splits.folds(brains(), Split(by="brain", folds=3, fold=3))
    with pytest.raises(Refused, match="leave training rows"):
        splits.folds(brains(), Split(by="section", folds=3, buffer_mm=100.0))
    with pytest.raises(Refused, match="no z_mm"):
        splits.folds(brains().drop(columns="z_mm"), Split(by="section", folds=3))


def test_unregistered_sections_fall_back_to_their_names():
    places = brains(n_brains=1, n_sections=6)
    places[["x_mm", "y_mm", "z_mm"]] = 0.0
    made = splits.folds(places, Split(by="section", folds=3))
    assert made[0].name == "sections B0/s00, B0/s03 held out"
