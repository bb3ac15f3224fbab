"""Spaces: coordinates carry a name and a unit, and what cannot be millimetres of a space is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from brodmann.errors import Refused, SpaceMismatch
from brodmann.space import CCF_V3, PHANTOM, Space, unregistered
from brodmann.spaces import SPACES


@pytest.fixture
def mouse():
    """Places all over a mouse brain, mm."""
    places = np.random.default_rng(0).uniform((0, 0, 0), CCF_V3.extent_mm, (200, 3))
    return np.vstack([places[:-2], (0, 0, 0), CCF_V3.extent_mm])


def test_plausible_coordinates_pass(mouse):
    CCF_V3.check(mouse)
    CCF_V3.check(mouse.astype(np.float32))
    CCF_V3.check(np.empty((0, 3)))
    PHANTOM.check(mouse * 10)


@pytest.mark.parametrize(
    ("factor", "cause"),
    [(1000, "given in um"), (10, "1/10 mm or voxels"), (40, "1/10 mm or voxels"), (2, "another space")],
)
def test_a_wrong_unit_is_named(mouse, factor, cause):
    with pytest.raises(Refused) as caught:
        CCF_V3.check(mouse * factor, what="centres of sections")
    assert cause in caught.value.cause
    assert f"{factor} times too large" in caught.value.found
    assert caught.value.asked.startswith("centres of sections")
    assert "'ccf_v3'" in caught.value.asked


def test_one_far_place_is_enough(mouse):
    mouse[17, 2] = 300.0
    with pytest.raises(Refused, match="times too large"):
        CCF_V3.check(mouse)


def test_the_origin_does_not_matter(mouse):
    """Only the span is tested: nobody's origin is a mistake."""
    CCF_V3.check(mouse - 500)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite_are_counted(mouse, bad):
    mouse[[3, 9], 1] = bad
    with pytest.raises(Refused, match="2 of 200 rows"):
        CCF_V3.check(mouse)


@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 4), (2, 3, 3)])
def test_another_shape_is_refused(shape):
    with pytest.raises(Refused, match="an array of shape"):
        CCF_V3.check(np.zeros(shape))


def test_a_space_matches_itself_only():
    CCF_V3.require(dataclasses.replace(CCF_V3))
    with pytest.raises(SpaceMismatch, match="'phantom'"):
        CCF_V3.require(PHANTOM)
    # The same name with other axes is another space: names alone are never matched.
    turned = dataclasses.replace(CCF_V3, orientation="asr")
    with pytest.raises(SpaceMismatch, match="asr"):
        CCF_V3.require(turned)


def test_unregistered_space_is_as_large_as_its_sections():
    space = unregistered(30.0, 20.0)
    space.check(np.array([[0.0, 0, 0], [30, 20, 0]]))
    with pytest.raises(Refused):
        space.check(np.array([[0.0, 0, 0], [30_000, 20_000, 0]]))
    assert unregistered(0.1, 0.2).extent_mm == (1.0, 1.0, 1.0)
    assert space.name not in SPACES


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_a_known_space_says_all_of_itself(space):
    assert SPACES[space.name] is space
    assert space.unit == "mm"
    assert len(space.orientation) == 3
    assert len({letter for pair in ("lr", "ap", "is") for letter in pair if letter in space.orientation}) == 3
    assert min(space.extent_mm) > 0
    assert space.origin


def test_a_space_is_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CCF_V3.name = "mni"
    with pytest.raises(TypeError):
        Space("mni", "ras", (1.0, 1.0, 1.0), "somewhere")
