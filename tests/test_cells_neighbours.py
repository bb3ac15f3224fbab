"""Neighbours on a grid are the neighbours that scipy finds, whatever the cells look like."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from brodmann.errors import Refused
from brodmann.near import grid, neighbours


def reference(xy, radius_um, limit=None):
    """Sets by scipy; nearest first, ties by row, cut at ``limit``."""
    xy = np.asarray(xy, np.float64)
    tree = cKDTree(xy)
    for row, near in enumerate(tree.query_ball_point(xy, radius_um)):
        near = np.array(sorted(set(near) - {row}), np.int64)
        squared = ((xy[near] - xy[row]) ** 2).sum(1)
        yield near[np.lexsort((near, squared))][:limit]


def check(xy, radius_um, limit=None):
    found = neighbours.graph(xy, radius_um=radius_um, limit=limit)
    assert found.indptr.dtype == np.int64
    assert found.index.dtype == np.int32
    assert found.distance_um.dtype == np.float32
    assert len(found.indptr) == len(xy) + 1
    assert found.indptr[-1] == len(found.index) == len(found.distance_um)
    for row, near in enumerate(reference(xy, radius_um, limit)):
        mine = slice(found.indptr[row], found.indptr[row + 1])
        np.testing.assert_array_equal(found.index[mine], near)
        away = np.linalg.norm(np.asarray(xy, np.float64)[near] - np.asarray(xy, np.float64)[row], axis=1)
        np.testing.assert_allclose(found.distance_um[mine], away, rtol=1e-6)
    return found


@pytest.mark.parametrize("limit", [None, 1, 7, 30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_sets_as_scipy(limit, dtype):
    rng = np.random.default_rng(0)
    even = rng.uniform(0, 900, (1200, 2))
    clumped = np.concatenate([rng.normal(centre, 12, (150, 2)) for centre in rng.uniform(-2000, 3000, (6, 2))])
    line = np.column_stack([rng.uniform(0, 5000, 400), np.full(400, 17.0)])
    for xy in (even, clumped, line, line[:, ::-1], even + 1e6):
        check(xy.astype(dtype), 80.0, limit)


def test_every_radius():
    xy = np.random.default_rng(1).uniform(0, 100, (300, 2))
    for radius_um in (0.0, 1e-9, 0.1, 3.0, 49.99, 70.0, 1e3, 1e6):
        check(xy, radius_um)


@pytest.mark.parametrize("limit", [None, 4])
def test_lattice_is_all_boundary_and_ties(limit):
    side = np.arange(12) * 20.0
    xy = np.array([(x, y) for y in side for x in side])
    xy = xy[np.random.default_rng(2).permutation(len(xy))]
    for radius_um in (20.0, 40.0, np.nextafter(40.0, 0), 20 * np.sqrt(2)):
        check(xy, radius_um, limit)
    check(xy.astype(np.float32), 60.0, limit)


def test_distances_are_compared_in_float64():
    """80 um and 10^-6 um more are different distances; in float32 they are the same."""
    xy = np.array([[0.0, 0.0], [80.0, 0.0], [80.0 + 1e-6, 0.0], [0.0, 80.0 - 1e-6], [-80.0, 0.0]])
    found = check(xy, 80.0)
    assert set(found.index[: found.indptr[1]]) == {1, 3, 4}
    assert list(found.index[: found.indptr[1]]) == [3, 1, 4]
    check(xy + 30_000.0, 80.0)
    tiny = np.random.default_rng(3).integers(0, 50, (200, 2)) * 1e-6
    check(tiny, 9e-6, 12)
    check(np.concatenate([tiny, tiny + 12_000.0]), 9e-6)


def test_cells_at_one_place():
    rng = np.random.default_rng(4)
    xy = np.repeat(rng.uniform(0, 200, (40, 2)), 9, axis=0)[rng.permutation(360)]
    check(xy, 30.0)
    check(xy, 30.0, 5)
    check(np.zeros((300, 2)), 1.0)
    check(np.zeros((300, 2)), 0.0, 3)


def test_lone_cells_and_almost_none():
    for n in (0, 1):
        found = neighbours.graph(np.zeros((n, 2), np.float32), radius_um=80.0)
        np.testing.assert_array_equal(found.indptr, np.zeros(n + 1))
        assert len(found.index) == len(found.distance_um) == 0
    xy = np.array([[0.0, 0.0], [1e5, 3.0], [1e5 + 10, 3.0], [-4e6, 7.0]])
    found = check(xy, 80.0)
    np.testing.assert_array_equal(np.diff(found.indptr), [0, 1, 1, 0])
    assert neighbours.graph(xy, radius_um=80.0, limit=0).indptr[-1] == 0


def test_room_grows_where_tissue_is_dense():
    """A sparse beginning misleads the first guess of how many edges there are."""
    rng = np.random.default_rng(5)
    xy = np.concatenate([rng.uniform(0, 40_000, (1500, 2)), rng.uniform(0, 40, (600, 2))])
    check(xy, 30.0)


def test_not_numbers_and_wrong_units_are_refused():
    xy = np.zeros((5, 2))
    xy[3, 1] = np.nan
    with pytest.raises(Refused, match="row 3"):
        neighbours.graph(xy, radius_um=80.0)
    mm = np.random.default_rng(6).uniform(0, 9, (200_000, 2))
    with pytest.raises(Refused, match="unit"):
        neighbours.graph(mm, radius_um=80.0, limit=30)


def test_morton_puts_neighbours_beside_each_other():
    rng = np.random.default_rng(7)
    xy = rng.uniform(0, 1600, (4096, 2)).astype(np.float32)
    order = neighbours.morton(xy)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(len(xy)))
    moved = xy[order]
    # 64 consecutive cells are 1 / 64 of the area: 200 um wide if compact; chance would span the whole section
    spans = [np.ptp(moved[i : i + 64], axis=0).max() for i in range(0, len(xy), 64)]
    assert np.median(spans) < 480
    # the four quarters follow each other: exactly Z
    quarter = (xy[order] - xy.min(0)) // 800
    np.testing.assert_array_equal(np.unique(np.diff(quarter[:, 0] + 2 * quarter[:, 1])), [0, 1])
    # cells of one square keep their order, and moving everything changes nothing
    np.testing.assert_array_equal(neighbours.morton(np.full((50, 2), 3.0)), np.arange(50))
    np.testing.assert_array_equal(neighbours.morton(xy.astype(np.float64) + 4096.0), order)
    assert len(neighbours.morton(np.zeros((0, 2)))) == 0


@pytest.mark.parametrize("k", [1, 6, 30])
def test_nearest_however_far(k):
    rng = np.random.default_rng(8)
    xy = np.concatenate([rng.uniform(0, 500, (400, 2)), rng.normal(5e4, 3, (50, 2)), [[1e6, 1e6]]])
    found, away = neighbours.nearest(grid.sort(xy, 40.0), xy, k)
    expected = np.reshape(cKDTree(xy).query(xy, k)[0], (len(xy), k))
    np.testing.assert_allclose(away, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(xy[found] - xy[:, None], axis=2), expected, rtol=1e-12)
    np.testing.assert_array_equal(found[:, 0], np.arange(len(xy)))
    some, _ = neighbours.nearest(grid.sort(xy, 40.0), xy[100:117], k)
    np.testing.assert_array_equal(some, found[100:117])


def test_nearest_of_few_and_of_equals():
    found, _ = neighbours.nearest(grid.sort(np.zeros((3, 2)), 1.0), np.ones((2, 2)), 30)
    np.testing.assert_array_equal(found, [[0, 1, 2]] * 2)
    xy = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(neighbours.nearest(grid.sort(xy, 1.0), xy[:1], 3)[0], [[0, 1, 2]])


def test_spacing_is_the_distance_to_the_sixth():
    xy = np.random.default_rng(9).uniform(0, 2000, (3000, 2))
    expected = np.median(cKDTree(xy).query(xy, 7)[0][:, 6])
    np.testing.assert_allclose(neighbours.spacing(xy), expected, rtol=1e-6)
    assert abs(neighbours.spacing(xy, most=500) / expected - 1) < 0.1
    assert neighbours.spacing(np.zeros((9, 2))) > 0
    assert neighbours.spacing(np.zeros((1, 2))) == 1.0
