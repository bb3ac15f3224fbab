"""A spin test says yes to unrelated smooth maps one time in twenty, and to related ones most of the time."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from brodmann.errors import Refused
from brodmann.tasks._spin import MIRROR, Sphere, carried, p_value, rotation
from brodmann.tasks._surrogate import Surrogate


def waves(where: np.ndarray, rng: np.random.Generator, size: int, length: float) -> np.ndarray:
    """Independent smooth random functions of place: (n, size)."""
    angle = where @ rng.standard_normal((where.shape[1], 200)) / length
    both = np.hstack([np.cos(angle), np.sin(angle)])
    return both @ rng.standard_normal((400, size)) / np.sqrt(200)


def points(rng: np.random.Generator, n: int, *, wall: bool = False) -> np.ndarray:
    """Places spread over the sphere without a rule, and without a cap of 29 degrees where the wall is."""
    xyz = rng.standard_normal((n, 3))
    xyz /= np.linalg.norm(xyz, axis=1, keepdims=True)
    return xyz[xyz[:, 2] > -0.875] if wall else xyz


def two(xyz: np.ndarray) -> tuple[Sphere, np.ndarray]:
    """A left hemisphere and its mirror image; and every row's place on the left one."""
    n = len(xyz)
    left = np.arange(2 * n) < n
    both = np.vstack([xyz, xyz @ MIRROR])
    return Sphere(both, left, (np.arange(n), np.arange(n, 2 * n)), 0.35), np.vstack([xyz, xyz])


def agreement(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Balanced accuracy of least squares on class indicators: any read-out serves, this one takes no time."""
    a, b = train[y[train] >= 0], test[y[test] >= 0]
    size = int(y.max()) + 1
    one = np.column_stack([np.ones(len(x)), x])
    hot = np.eye(size)[y[a]]
    hot /= np.maximum(hot.sum(axis=0), 1)
    said = (one[b] @ np.linalg.solve(one[a].T @ one[a] + 0.1 * np.eye(one.shape[1]), one[a].T @ hot)).argmax(axis=1)
    return float(np.mean([(said[y[b] == k] == k).mean() for k in np.unique(y[b])]))


def on_spheres(trials: int, null, *, nulls: int = 39, n: int = 150, wall: bool = False, share: float = 0.0):
    """P values of features from left to right; ``share`` of them is the map's own functions, 0 is independence."""
    found = []
    for trial in range(trials):
        rng = np.random.default_rng([trial, 1])
        sphere, folded = two(points(rng, n, wall=wall))
        height = waves(folded, rng, 4, 0.5)
        y = np.unique(height.argmax(axis=1), return_inverse=True)[1]
        x = (1 - share) * waves(folded, rng, 6, 0.5) + share * height @ rng.standard_normal((4, 6)) / 2
        draws = [agreement(x, null(sphere, y, rng), *sphere.parts) for _ in range(nulls)]
        found.append(p_value(agreement(x, y, *sphere.parts), np.array(draws)))
    return np.array(found)


def spun(sphere, y, rng):
    return carried(y, sphere.spin(rng))


def assigned(sphere, y, rng):
    return carried(y, sphere.spin(rng, "assigned"))


def shuffled(sphere, y, rng):
    return rng.permutation(y)


def one_side_only(sphere, y, rng):
    """Broken: the right hemisphere turns as the left one does, and not as its mirror image."""
    turn = rotation(rng)
    owner = np.empty(len(y), dtype=np.int64)
    for rows in sphere.parts:
        near = (sphere.xyz[rows] @ turn) @ sphere.xyz[rows].T
        owner[rows] = rows[near.argmax(axis=1)]
    return y[owner]


def test_rotations_are_uniform_and_no_reflections():
    """Any direction goes anywhere equally often, and angles have the density (1 - cos a) / pi of the uniform law."""
    rng = np.random.default_rng(0)
    turns = np.array([rotation(rng) for _ in range(4000)])
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3))
    assert np.allclose(np.linalg.det(turns), 1)
    for place in (np.eye(3)[0], np.eye(3)[2], np.ones(3) / np.sqrt(3)):
        for axis in range(3):
            # heights of uniform places on a sphere are uniform (Archimedes)
            assert stats.kstest((turns @ place)[:, axis], "uniform", (-1, 2)).pvalue > 0.001
    angle = np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert stats.kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 0.001


def test_hemispheres_turn_as_mirror_images():
    rng = np.random.default_rng(1)
    sphere, _ = two(points(rng, 300))
    for how in ("nearest", "assigned"):
        owner = sphere.spin(np.random.default_rng(2), how)
        assert (owner[:300] + 300 == owner[300:]).all()
        assert (owner[:300] < 300).all()
        assert (owner != np.arange(600)).mean() > 0.9
    assert len(np.unique(sphere.spin(rng, "assigned"))) == 600
    assert len(np.unique(sphere.spin(rng, "nearest"))) < 600


def test_places_that_land_on_the_wall_have_no_label():
    """The share of rows left out is that of the wall's area, seen from the rest of the sphere."""
    rng = np.random.default_rng(3)
    xyz = points(rng, 4000, wall=True)
    sphere = Sphere(xyz, np.ones(len(xyz), dtype=bool), (np.arange(len(xyz)),), 0.1)
    lost = [float((sphere.spin(rng) < 0).mean()) for _ in range(60)]
    # a rim of 0.1 around the hole is within reach: the cap is 29 degrees, less 5.7
    assert np.mean(lost) == pytest.approx((1 - np.cos(np.deg2rad(29 - 5.7))) / 2, abs=0.01)
    owner = sphere.spin(rng)
    assert (carried(np.zeros(len(xyz), dtype=np.int64), owner)[owner < 0] == -1).all()


@pytest.mark.parametrize("wall", [False, True])
def test_the_spin_is_calibrated_on_independent_smooth_maps(wall):
    p = on_spheres(120, spun, wall=wall)
    # 120 draws at .05: 6 expected, 13 or more have probability .007; at .5 60 expected
    assert (p <= 0.05).sum() <= 12
    assert 42 <= (p <= 0.5).sum() <= 78


def test_plain_permutation_is_not():
    """What the spin is for: shuffled labels are not smooth, and every smooth feature beats them."""
    assert (on_spheres(40, shuffled) <= 0.05).mean() > 0.9


def test_without_mirroring_it_is_not_either():
    """Features and map are alike in both hemispheres; null maps that are not are too easy to beat."""
    assert (on_spheres(60, one_side_only) <= 0.05).mean() > 0.2


def test_assignment_tears_maps_where_rows_are_dense():
    """Why `nearest` is the default: pairing without repeats lets too many unrelated maps pass."""
    p = on_spheres(40, assigned)
    assert (p <= 0.2).mean() > (on_spheres(40, spun) <= 0.2).mean()


def test_a_planted_relation_is_found():
    assert (on_spheres(40, spun, share=0.75) <= 0.05).mean() > 0.8


def shifted(where: np.ndarray, brain: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Broken: labels of the sheet moved around its edges, where maps are torn."""
    low, span = where.min(axis=0), np.ptp(where, axis=0)
    moved = ((where - low) / span + rng.uniform(0.2, 0.8, 2)) % 1 * span + low
    return np.concatenate([
        y[brain == b][np.linalg.norm(moved[brain == b][:, None] - where[brain == b], axis=2).argmin(axis=1)]
        for b in (0, 1)
    ])  # fmt: skip


def test_surrogates_are_calibrated_on_a_sheet_where_shifted_labels_are_not():
    """Two brains on one sheet: surrogates as patchy as the map against the map shifted around the edges."""
    by_surrogate, by_shift, by_shuffle = [], [], []
    for trial in range(60):
        rng = np.random.default_rng([trial, 2])
        where = rng.uniform(0, 1, (240, 2)) * [60, 40]
        brain = np.repeat([0, 1], 120)
        y = np.unique(waves(where, rng, 4, 6.0).argmax(axis=1), return_inverse=True)[1]
        x = waves(where, rng, 6, 6.0)
        parts = np.flatnonzero(brain == 0), np.flatnonzero(brain == 1)
        surrogate = Surrogate.fit(where, y, brain, trial)
        value = agreement(x, y, *parts)
        for found, make in (
            (by_surrogate, surrogate.draw),
            (by_shift, lambda r, w=where, b=brain, y=y: shifted(w, b, y, r)),
            (by_shuffle, lambda r, y=y: r.permutation(y)),
        ):
            found.append(p_value(value, np.array([agreement(x, make(rng), *parts) for _ in range(39)])))
    assert (np.array(by_surrogate) <= 0.05).sum() <= 8
    assert 18 <= (np.array(by_surrogate) <= 0.5).sum() <= 42
    assert (np.array(by_shuffle) <= 0.05).mean() > 0.8
    assert (np.array(by_shift) <= 0.2).mean() > (np.array(by_surrogate) <= 0.2).mean()


def test_surrogates_have_the_classes_and_the_patchiness_of_the_truth():
    rng = np.random.default_rng(5)
    where = rng.uniform(0, 1, (1500, 2)) * [60, 40]
    y = np.digitize(waves(where, rng, 1, 7.0)[:, 0], [-1.0, 0.2])
    y[rng.random(1500) < 0.1] = -1
    surrogate = Surrogate.fit(where, y, np.zeros(1500, dtype=np.int64), 0)
    drawn = [surrogate.draw(np.random.default_rng(k)) for k in range(10)]
    near = np.argsort(np.linalg.norm(where[:, None] - where, axis=2), axis=1)[:, 1:6]

    def alike(labels: np.ndarray) -> float:
        ok = (labels[:, None] >= 0) & (labels[near] >= 0)
        return float((labels[:, None] == labels[near])[ok].mean())

    assert np.mean([alike(one) for one in drawn]) == pytest.approx(alike(y), abs=0.06)
    share = np.bincount(y[y >= 0]) / (y >= 0).sum()
    for one in drawn:
        assert ((one >= 0) == (y >= 0)).all()
        assert np.abs(np.bincount(one[one >= 0], minlength=3) / (one >= 0).sum() - share).max() < 0.06
    # chance agreement with the truth: they know nothing of it
    known = y >= 0
    assert np.mean([(one == y)[known].mean() for one in drawn]) == pytest.approx(float((share**2).sum()), abs=0.12)


def test_the_p_value_counts_ties_and_the_map_itself():
    assert p_value(0.5, np.array([0.1, 0.2, 0.3])) == 0.25
    assert p_value(0.2, np.array([0.1, 0.2, 0.3])) == 0.75


def table(sphere: np.ndarray, side: list[str], xyz: np.ndarray | None = None) -> ad.AnnData:
    xyz = sphere * 50 if xyz is None else xyz
    names = [f"r{k}" for k in range(len(sphere))]
    obs = pd.DataFrame({"id": names, "subject": "B1", "section": side, "hemisphere": side}, index=names)
    return ad.AnnData(obs=obs.assign(x_mm=xyz[:, 0], y_mm=xyz[:, 1], z_mm=xyz[:, 2]), obsm={"sphere": sphere})


def test_right_spheres_are_turned_until_they_mirror_the_left_ones():
    """Frames that differ by 17 degrees are found from places alone."""
    rng = np.random.default_rng(6)
    left = points(rng, 800)
    turn = np.linalg.qr(np.eye(3) + 0.2 * np.array([[0, 1, -0.5], [-1, 0, 0.8], [0.5, -0.8, 0]]))[0]
    turn *= np.sign(np.diag(turn))
    bumpy = left * (50 + 8 * waves(left, rng, 1, 0.6))
    moved = table(
        np.vstack([left, left @ MIRROR @ turn]), ["L"] * 800 + ["R"] * 800, np.vstack([bumpy, bumpy @ MIRROR])
    )
    found = Sphere.of(moved)
    assert found is not None
    off = np.rad2deg(np.arccos(np.clip((found.xyz[:800] * (found.xyz[800:] @ MIRROR)).sum(axis=1), -1, 1)))
    before = np.rad2deg(np.arccos(np.clip((left * (left @ MIRROR @ turn @ MIRROR)).sum(axis=1), -1, 1)))
    assert np.median(before) > 10
    assert np.median(off) < 3
    assert found.turned_deg == pytest.approx(np.rad2deg(np.arccos((np.trace(turn) - 1) / 2)), abs=3)


def test_bad_spheres_are_refused():
    rng = np.random.default_rng(4)
    xyz = points(rng, 40)
    assert Sphere.of(ad.AnnData(obs=pd.DataFrame(index=["a"]))) is None
    with pytest.raises(Refused, match="one sphere"):
        Sphere.of(table(xyz * rng.uniform(1, 2, (40, 1)), ["L"] * 40))
    with pytest.raises(Refused, match="one sphere"):
        Sphere.of(table(np.where(np.arange(40)[:, None] == 3, np.nan, xyz), ["L"] * 40))
    with pytest.raises(Refused, match="'L' or 'R'"):
        Sphere.of(table(xyz, ["L"] * 39 + ["M"]))
    bare = table(xyz, ["L"] * 40)
    del bare.obs["hemisphere"]
    with pytest.raises(Refused, match="hemisphere"):
        Sphere.of(bare)
