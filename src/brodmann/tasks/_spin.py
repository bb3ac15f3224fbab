"""The spin test: labels turned around the sphere, so that they stay as smooth as they are and lie elsewhere.

n rows. A hemisphere is a closed sheet, and a sphere is the one closed surface that can be turned on itself.

References: Alexander-Bloch et al. 2018, NeuroImage 178:540 (vertices; one rotation, mirrored for the other hemisphere);
Vazquez-Rodriguez et al. 2019, PNAS 116:21219 (parcels, by nearest centre); Markello & Misic 2021, NeuroImage 236:118052
(comparison; assignment without repeats keeps the number of parcels of each class).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, minimize
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from brodmann.errors import Refused
from brodmann.tasks import _rows

Codes = NDArray[np.int64]
Real = NDArray[np.float64]
Matching = Literal["nearest", "assigned"]

MIRROR = np.diag([-1.0, 1.0, 1.0])
"""From one hemisphere's sphere to the other's: left and right change places."""
_FAR_MM, _MIRRORED = 30.0, 1500
_SIDES = {"l": True, "left": True, "lh": True, "r": False, "right": False, "rh": False}


@dataclass(frozen=True, eq=False)
class Sphere:
    """Rows of a table on the spheres of their hemispheres.

    Parameters
    ----------
    xyz : ndarray (n, 3) float64
        Places on the unit sphere; axes left-right, posterior-anterior, inferior-superior in both hemispheres.
    left : ndarray (n,) bool
        Rows of left hemispheres.
    parts : tuple of ndarray of int64
        Rows of each hemisphere of each brain.
    reach : float
        Chord beyond which a place has no row: the medial wall, where the table leaves it out.
    turned_deg : float
        Largest angle by which a right sphere was turned to be the mirror image of its left one.
    """

    xyz: Real
    left: NDArray[np.bool_]
    parts: tuple[NDArray[np.int64], ...]
    reach: float
    turned_deg: float = 0.0

    @classmethod
    def of(cls, table: AnnData) -> Sphere | None:
        """Spheres of a table with ``obsm["sphere"]`` (n, 3) and ``obs["hemisphere"]``; None where it has none.

        Frames of the two hemispheres need not be mirror images (those of BigBrain are 15 degrees off). If they are
        not, mirrored rotations tear maps that are alike in both, and the null is too low: so right spheres are turned
        until places that mirror each other in space do so on the spheres.

        Raises
        ------
        Refused
            Places that are not finite or not on one sphere, or hemispheres that are not known.
        """
        held = cast("Any", table.obsm)
        if "sphere" not in held:
            return None
        xyz = np.asarray(held["sphere"], dtype=np.float64)
        radius = np.linalg.norm(xyz, axis=1) if xyz.ndim == 2 and xyz.shape[1] == 3 else np.full(len(xyz), np.nan)
        if not np.isfinite(radius).all() or radius.min() < 0.9 * radius.max() or radius.max() == 0:
            raise Refused(
                "obsm['sphere'] should hold a place on one sphere around (0, 0, 0) for every row.",
                found=f"an array of shape {xyz.shape}, radius {np.nanmin(radius):.3g} to {np.nanmax(radius):.3g}.",
                cause="another surface (inflated, pial), or a sphere that was moved.",
                do="leave obsm['sphere'] out to be tested against surrogate labels instead.",
            )
        left = sides(table)
        if left is None:
            raise Refused(
                "places on spheres need obs['hemisphere'], 'L' or 'R', of every row.",
                found="no such column.",
                do="add it: the two hemispheres have a sphere each, which turn as mirror images.",
            )
        brain = pd.factorize(_rows.brains(table))[0]
        key = brain * 2 + left
        parts = tuple(np.flatnonzero(key == k) for k in np.unique(key))
        unit = xyz / radius[:, None]
        near = [cast("Any", KDTree(unit[rows])).query(unit[rows], k=[2])[0][:, 0] for rows in parts if len(rows) > 1]
        if not near:
            raise Refused("a spin needs hemispheres with more than one row.", found=f"{len(xyz)} rows.")
        turned = 0.0
        space = _rows.places(table)[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
        for number in np.unique(brain):
            one, other = (np.flatnonzero((brain == number) & (left == side)) for side in (True, False))
            if len(one) and len(other) and np.isfinite(space[np.r_[one, other]]).all():
                turn = _mirroring(unit[one], space[one], unit[other], space[other])
                unit[other] = unit[other] @ MIRROR @ turn.as_matrix() @ MIRROR
                turned = max(turned, float(np.rad2deg(turn.magnitude())))
        return cls(unit, left, parts, 2 * float(np.percentile(np.concatenate(near), 99)), turned)

    def spin(self, rng: np.random.Generator, matching: Matching = "nearest") -> Codes:
        """Turn all hemispheres by one random rotation, right ones as mirror images of left ones.

        Parameters
        ----------
        rng : Generator
        matching : {"nearest", "assigned"}
            Every place takes the nearest turned row, so that some rows are taken twice and some places find none; or
            places and turned rows are paired so that the sum of great-circle distances is smallest (their number
            cubed). Pairing keeps the number of rows of each class, but tears maps where rows are denser than elsewhere:
            with evenly spread rows it is calibrated, with unevenly spread ones it finds too much
            (``tests/test_spin.py``).

        Returns
        -------
        ndarray (n,) int64
            For each row the row whose label it takes; -1 where the turned sheet has a hole.
        """
        turn = rotation(rng)
        owner = np.full(len(self.xyz), -1, dtype=np.int64)
        for rows in self.parts:
            own = self.xyz[rows]
            # a place asks what was there before the turn: the inverse of a random rotation is one, too
            asked = own @ (turn if self.left[rows[0]] else MIRROR @ turn @ MIRROR)
            if matching == "assigned":
                angle = np.arccos(np.clip(asked @ own.T, -1, 1))
                owner[rows] = rows[cast("Any", linear_sum_assignment(angle))[1]]
            else:
                far, index = cast("Any", KDTree(own)).query(asked)
                owner[rows] = np.where(far <= self.reach, rows[index], -1)
        return owner


def _mirroring(left: Real, left_mm: Real, right: Real, right_mm: Real) -> Rotation:
    """The turn of the mirrored right sphere that brings places together which mirror each other in space.

    Minimises the mean distance (at most 30 mm each) between a right place, mirrored, and the left place that is nearest
    to it on the sphere. No label takes part.
    """
    own, other = left_mm - left_mm.mean(axis=0), (right_mm - right_mm.mean(axis=0)) @ MIRROR
    some = np.arange(0, len(right), max(1, len(right) // _MIRRORED))
    mirrored, tree = right @ MIRROR, KDTree(left)

    def apart(vector: Real) -> float:
        at = cast("Any", tree).query(mirrored[some] @ Rotation.from_rotvec(vector).as_matrix())[1]
        return float(np.minimum(np.linalg.norm(own[at] - other[some], axis=1), _FAR_MM).mean())

    start = np.vstack([np.zeros(3), 0.3 * np.eye(3)])
    options = {"initial_simplex": start, "xatol": 1e-3, "fatol": 1e-3}
    found = cast("Any", minimize)(apart, start[0], method="Nelder-Mead", options=options)
    return Rotation.from_rotvec(np.asarray(found.x, dtype=np.float64))


def rotation(rng: np.random.Generator) -> Real:
    """A rotation (3, 3) drawn uniformly from all rotations of space, reflections excluded.

    The orthogonal factor of a matrix of normal deviates, signs fixed by its triangular factor (Stewart 1980); half of
    these are reflections, which exchanging two axes makes rotations of the same distribution.
    """
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q[:, [1, 0, 2]]


def carried(codes: Codes, owner: Codes) -> Codes:
    """Labels (n,) after a spin: those of each row's owner, -1 where there is none or where it has no label."""
    return np.where(owner >= 0, codes[owner], -1)


def p_value(observed: float, null: Real) -> float:
    """One-sided p = (1 + b) / (1 + n), where b of n null values are as large as the observed (Phipson & Smyth 2010)."""
    return float((1 + np.count_nonzero(null >= observed)) / (1 + len(null)))


def sides(table: AnnData) -> NDArray[np.bool_] | None:
    """Which rows are of left hemispheres, from ``obs["hemisphere"]``; None without that column.

    Raises
    ------
    Refused
        A hemisphere is neither left nor right.
    """
    obs = _rows.places(table)
    if "hemisphere" not in obs:
        return None
    names = obs["hemisphere"].astype(str).str.lower()
    known = names.map(_SIDES)
    if known.isna().any():
        strange = sorted(set(names[known.isna()].tolist()))
        raise Refused("a hemisphere should be 'L' or 'R'.", found=f"'{strange[0]}' in {int(known.isna().sum())} rows.")
    return known.to_numpy(dtype=bool)
