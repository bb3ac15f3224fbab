"""BigBrain's cortex on its surface: layer thicknesses at 2 x 10,242 vertices, staining profiles of 400 parcels.

One human brain, cell bodies stained (Merker), 20-um volume. `vertices` are those of the pial surface after decimation:
six layer thicknesses (mm, smoothed over a disc of 10 mm), the Yeo-7 network and Schaefer-400 parcel of each.
`parcels` are the 400 of Schaefer's parcellation: profiles of staining intensity at 50 depths from pia to white matter,
von Economo class, Yeo-7 network.

The order of rows cannot be guessed, and a wrong one gives silent nonsense. Labels and myelin come with 163,842 values a
hemisphere, for the vertices of the full surface; the decimated surface has its own order (by x), and which full vertex
each one is stands in ``tpl-bigbrain_hemi-?_desc-pial_downsampled.mat`` alone. With these two files vertices have labels
(and parcels layer thicknesses); without them they do not. Every join is checked for what only the right order gives:
neighbours on the mesh share labels, the medial wall lies where thickness is 0, neighbouring parcels have like profiles.

References: Amunts et al. 2013, Science 340:1472 (BigBrain); Wagstyl et al. 2020, PLOS Biology 18:e3000678 (layers);
Saberi et al. 2023, PLOS Biology 21:e3002365 (decimated surface); Hansen et al. 2023, PLOS Biology 21:e3002314
(profiles of parcels); Yeo et al. 2011; Schaefer et al. 2018; von Economo & Koskinas 1925. Licence: BigBrain and what is
derived from it CC BY-NC-SA 4.0; the repositories amnsbr/laminar_organization and netneurolab/hansen_many_networks state
none. For measuring only; never part of the package.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, cast

import nibabel
import numpy as np
import pandas as pd
import scipy.io
from anndata import AnnData
from numpy.typing import NDArray
from scipy.optimize import minimize

from brodmann.errors import Refused
from brodmann.space import Space
from brodmann.spaces import BIGBRAIN

CITATION = "Amunts et al. 2013, https://doi.org/10.1126/science.1235381; Wagstyl et al. 2020; Hansen et al. 2023"
LICENSE = "CC BY-NC-SA 4.0 (BigBrain)"
MNI = Space(name="mni", orientation="ras", extent_mm=(150.0, 190.0, 130.0), origin="anterior commissure")
"""The space of the parcels' centres (Schaefer's parcellation)."""

NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
"""Yeo-7 in the order of their numbers, as Schaefer's parcellation abbreviates them."""
LAYERS = ("I", "II", "III", "IV", "V", "VI")
DEPTHS = 50
FULL, DECIMATED, PARCELS = 163_842, 10_242, 400
_SUBJECT = "BigBrain"
_SURFACE = "tpl-bigbrain_hemi-{}_desc-pial_downsampled_{}.surf.gii"
_INDEX = "tpl-bigbrain_hemi-{}_desc-pial_downsampled.mat"
_LABEL = "tpl-bigbrain_hemi-{}_desc-{}.label.gii"
_THICKNESS = "tpl-bigbrain_desc-laminar_thickness_exc-None_smooth-10_approach-euclidean.npz"

Features = Literal["profiles", "thickness", "both"]
Real = NDArray[np.float64]


class _Files:
    """Files of a folder, and the checksum of each that was read."""

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.sums = Path(folder), dict[str, str]()

    def path(self, name: str, *, why: str = "") -> Path:
        path = self.folder / name
        if not path.is_file():
            raise Refused(f"{self.folder.name} should hold {name}.", found="no such file.", do=why)
        self.sums[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return path

    def arrays(self, name: str) -> list[NDArray[Any]]:
        image = cast("Any", nibabel).load(self.path(name))
        return [np.asarray(array.data) for array in image.darrays]

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(self.sums.items())).encode()).hexdigest()


def mesh(
    folder: str | Path, hemisphere: Literal["L", "R"], surface: Literal["orig", "inflated", "sphere"]
) -> tuple[Real, NDArray[np.int64]]:
    """Decimated surface of a hemisphere: vertices (10242, 3) mm, and triangles (20480, 3) by their numbers.

    ``orig`` is the pial surface in `brodmann.spaces.BIGBRAIN`; ``sphere`` was turned onto fsaverage's by its makers.

    Raises
    ------
    Refused
        No such file, or another surface.
    """
    return _mesh(_Files(folder), hemisphere, surface)


def vertices(folder: str | Path) -> AnnData:
    """Layer thicknesses of 2 x 10,242 vertices as a feature table in `brodmann.spaces.BIGBRAIN`.

    Parameters
    ----------
    folder : path
        ``surfaces/bigbrain``. With the files ``tpl-bigbrain_hemi-?_desc-pial_downsampled.mat`` of the same origin in
        it, rows have labels.

    Returns
    -------
    AnnData
        ``X`` (20484, 6) float32, mm, columns I to VI; ``obs`` id, subject, section and hemisphere ('L' before 'R'),
        x_mm, y_mm, z_mm, ``measured`` (False where all layers are 0 mm thick: part of the medial wall) and, with the
        index, ``yeo7`` and ``schaefer400`` ("" on the medial wall); ``obsm["xyz"]``, ``obsm["sphere"]`` (unit sphere).

    Raises
    ------
    Refused
        A file is missing, is another, or files do not fit together.
    """
    files = _Files(folder)
    frames: list[pd.DataFrame] = []
    where: list[Real] = []
    spheres: list[Real] = []
    thickness: list[Real] = []
    indexed = all((files.folder / _INDEX.format(side)).is_file() for side in "LR")
    with np.load(files.path(_THICKNESS), allow_pickle=False) as held:
        layers = {side: np.asarray(held[side], dtype=np.float64) for side in "LR"}
    for side in "LR":
        xyz, faces = _mesh(files, side, "orig")
        edges = _edges(faces)
        if layers[side].shape != (DECIMATED, len(LAYERS)):
            raise Refused(f"{_THICKNESS} should hold ({DECIMATED}, 6).", found=f"{layers[side].shape}.")
        total = layers[side].sum(axis=1)
        _ordered(float(np.corrcoef(total[edges[:, 0]], total[edges[:, 1]])[0, 1]), 0.8, f"thickness, {side}")
        columns: dict[str, Any] = {"measured": total > 0}
        if indexed:
            columns |= _labels(files, side, xyz, edges, total)
        names = [f"{_SUBJECT}/{side}/{number:05d}" for number in range(DECIMATED)]
        frames.append(_frame(names, np.full(DECIMATED, side), xyz, columns))
        where.append(xyz)
        spheres.append(_mesh(files, side, "sphere")[0])
        thickness.append(layers[side])
    remarks = (
        "profiles and layers are of one brain; thickness was smoothed over 10 mm by its makers",
        "" if indexed else f"{_INDEX.format('?')} is absent: no labels, since their order is that of another surface",
    )
    sphere = np.concatenate(spheres)
    return _table(
        np.concatenate(thickness), pd.concat(frames), np.concatenate(where), BIGBRAIN, files, remarks,
        [f"thickness_{layer}" for layer in LAYERS], sphere / np.linalg.norm(sphere, axis=1, keepdims=True),
    )  # fmt: skip


def parcels(folder: str | Path, *, features: Features = "profiles", surface: str | Path | None = None) -> AnnData:
    """The 400 parcels of Schaefer's parcellation as a feature table in `MNI`.

    Places on spheres are found from the distances along the cortex that come with the data: in each hemisphere those
    whose great circles agree best with them (stress weighted by one over distance), turned towards the centres' own
    directions, so that axes mean the same in both hemispheres.

    Parameters
    ----------
    folder : path
        ``surfaces/schaefer400``.
    features : {"profiles", "thickness", "both"}
        Staining intensity at 50 depths; mean thickness of the six layers; or both.
    surface : path, optional
        ``surfaces/bigbrain`` with its index, which thicknesses are taken from.

    Returns
    -------
    AnnData
        ``X`` (400, 50, 6 or 56) float32; ``obs`` id, subject, section and hemisphere, x_mm, y_mm, z_mm, ``parcel``
        (1-400), ``yeo7``, ``economo`` (class 1-7, as text); ``obsm["xyz"]``, ``obsm["sphere"]``.

    Raises
    ------
    Refused
        A file is missing, is another, or rows do not fit together.
    """
    files = _Files(folder)
    text = files.path("Schaefer400_7Networks_order_info.txt").read_text(encoding="utf-8").split()
    names = [word for word in text if word.startswith("7Networks_")]
    centres = pd.read_csv(files.path("Schaefer400_coords.txt"), sep=r"\s+", header=None, index_col=0)
    xyz = centres.to_numpy(dtype=np.float64)
    profile = pd.read_csv(files.path("bigbrain_intensities.csv"), header=None).to_numpy(dtype=np.float64)
    economo = pd.read_csv(files.path("voneconomo_Schaefer400.csv"), header=None).to_numpy().reshape(-1)
    distance = np.asarray(np.load(files.path("surface_distance.npy"), allow_pickle=False), dtype=np.float64)
    shapes = (len(names), xyz.shape, profile.shape, economo.shape, distance.shape)
    if shapes != (PARCELS, (PARCELS, 3), (DEPTHS, PARCELS), (PARCELS,), (PARCELS, PARCELS)):
        raise Refused("the files should describe 400 parcels, profiles at 50 depths.", found=f"{shapes}.")
    left = np.array([name.split("_")[1] == "LH" for name in names])
    if (left != (xyz[:, 0] < 0)).any() or (left != np.char.startswith(centres.index.to_numpy(str), "L_")).any():
        raise Refused("names and centres should have left parcels in the same rows.", found="another order.")
    distance = (distance + distance.T) / 2
    sphere = np.empty((PARCELS, 3))
    for rows in (np.flatnonzero(left), np.flatnonzero(~left)):
        own = distance[np.ix_(rows, rows)]
        _ordered(_correlation(own, np.linalg.norm(xyz[rows][:, None] - xyz[rows], axis=2)), 0.6, "distances")
        alike = np.asarray(np.corrcoef(_shape(profile.T[rows])), dtype=np.float64)
        _ordered(-_correlation(own, alike), 0.15, "profiles")
        sphere[rows] = on_sphere(own, xyz[rows] - xyz[rows].mean(axis=0))
    blocks: list[Real] = [profile.T] if features != "thickness" else []
    columns = [f"depth_{k:02d}" for k in range(DEPTHS)] if features != "thickness" else []
    if features != "profiles":
        if surface is None:
            raise Refused("thicknesses of parcels are means over vertices.", found="no surface.", do="give surface=.")
        fine = vertices(surface)
        blocks.append(_means(fine))
        columns += [f"thickness_{layer}" for layer in LAYERS]
        files.sums |= dict(fine.uns["brodmann"]["files"])
    obs = _frame(
        [f"{_SUBJECT}/{name.removeprefix('7Networks_')}" for name in names], np.where(left, "L", "R"), xyz,
        {"parcel": np.arange(1, PARCELS + 1), "yeo7": [name.split("_")[2] for name in names],
         "economo": economo.astype(int).astype(str)},
    )  # fmt: skip
    remarks = (
        "profiles and layers are of one brain, networks of 1,000 others",
        "profiles are raw intensities: dark is low",
    )
    return _table(np.hstack(blocks), obs, xyz, MNI, files, remarks, columns, sphere)


def on_sphere(distance: Real, towards: Real) -> Real:
    """Places on the unit sphere whose great circles agree best with distances along a closed sheet.

    Minimises sum_ij (r a_ij - d_ij)^2 / d_ij over places and radius r, a_ij the angle between i and j.

    Parameters
    ----------
    distance : ndarray (n, n) float64
        Symmetric, mm.
    towards : ndarray (n, 3) float64
        First guess of their directions, and what the result is turned towards.

    Returns
    -------
    ndarray (n, 3) float64
    """
    start = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    weight = 1 / np.maximum(distance, 1.0)
    np.fill_diagonal(weight, 0.0)
    # stress as a share of the whole: the optimiser's tolerances are absolute
    whole = float((weight * distance**2).sum())

    def stress(flat: Real) -> tuple[float, Real]:
        x = flat.reshape(-1, 3)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        unit = x / length
        cosine = np.clip(unit @ unit.T, -1 + 1e-9, 1 - 1e-9)
        angle = np.arccos(cosine)
        radius = float((weight * angle * distance).sum() / (weight * angle**2).sum())
        off = radius * angle - distance
        # the radius is at its optimum for these places, so that its own change does not enter
        by_cosine = -2 * weight * off * radius / np.sqrt(1 - cosine**2)
        slope = 2 * by_cosine @ unit
        slope = (slope - (slope * unit).sum(axis=1, keepdims=True) * unit) / length
        return float((weight * off**2).sum()) / whole, slope.ravel() / whole

    found = cast("Any", minimize)(stress, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    x = np.asarray(found.x, dtype=np.float64).reshape(-1, 3)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    u, _, v = np.linalg.svd(x.T @ start)
    return x @ u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v


def _mesh(files: _Files, side: str, surface: str) -> tuple[Real, NDArray[np.int64]]:
    name = _SURFACE.format(side, surface)
    xyz, faces = files.arrays(name)[:2]
    if xyz.shape != (DECIMATED, 3) or faces.ndim != 2 or faces.shape[1] != 3 or int(faces.max()) >= DECIMATED:
        raise Refused(f"{name} should be a surface of {DECIMATED:,} vertices.", found=f"{xyz.shape}, {faces.shape}.")
    return xyz.astype(np.float64), faces.astype(np.int64)


def _edges(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of vertices (m, 2) that share a triangle, each once."""
    return np.unique(np.sort(np.vstack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [0, 2]]]), axis=1), axis=0)


def _labels(files: _Files, side: str, xyz: Real, edges: NDArray[np.int64], total: Real) -> dict[str, Any]:
    """Networks and parcels of the decimated vertices, through the index of the full ones."""
    held = scipy.io.loadmat(files.path(_INDEX.format(side)), variable_names=["bb_downsample", "BB10"])
    index = np.asarray(held["bb_downsample"]).reshape(-1).astype(np.int64) - 1
    place = np.asarray(held["BB10"]["coord"][0, 0], dtype=np.float64).T
    if index.shape != (DECIMATED,) or not 0 <= index.min() <= index.max() < FULL or place.shape != xyz.shape:
        raise Refused(f"{_INDEX.format(side)} should hold {DECIMATED:,} vertices of {FULL:,}.", found="others.")
    if not np.allclose(place, xyz, atol=1e-3):
        raise Refused(f"{_INDEX.format(side)} should belong to the surface beside it.", found="other vertices.")
    number: dict[str, NDArray[np.int64]] = {}
    for name, least in (("Yeo2011_7Networks_N1000", 0.7), ("schaefer400_parcellation", 0.6)):
        full = files.arrays(_LABEL.format(side, name))[0]
        if full.shape != (FULL,):
            raise Refused(f"{_LABEL.format(side, name)} should hold {FULL:,} labels.", found=f"{full.shape}.")
        number[name] = full.astype(np.int64)[index]
        _ordered(float((number[name][edges[:, 0]] == number[name][edges[:, 1]]).mean()), least, f"{name}, {side}")
    network, parcel = number["Yeo2011_7Networks_N1000"], number["schaefer400_parcellation"]
    _ordered(float((network[total == 0] == 0).mean()), 0.9, f"the medial wall, {side}")
    shift = 0 if side == "L" else PARCELS // 2
    return {
        "yeo7": np.array(["", *NETWORKS], dtype=object)[network],
        "schaefer400": np.where(parcel > 0, (parcel + shift).astype(str), ""),
    }


def _means(fine: AnnData) -> Real:
    """Mean thickness of the layers over the measured vertices of each parcel: (400, 6)."""
    obs = cast("pd.DataFrame", fine.obs)
    if "schaefer400" not in obs:
        raise Refused(
            "thicknesses of parcels need to know which vertices belong to them.",
            found=f"no {_INDEX.format('?')}.",
            do="put both files, which are of the same origin, beside the surfaces.",
        )
    used = obs["measured"].to_numpy(dtype=bool)
    parcel = obs["schaefer400"].astype(str).to_numpy(dtype=object)
    number = np.array([int(name) if ok and name else 0 for name, ok in zip(parcel, used, strict=True)])
    count = np.bincount(number, minlength=PARCELS + 1)[1:]
    if count.min() == 0:
        raise Refused("every parcel should have vertices.", found=f"{int((count == 0).sum())} without.")
    layers = np.asarray(fine.X, dtype=np.float64)
    return np.column_stack([np.bincount(number, column, PARCELS + 1)[1:] / count for column in layers.T])


def _shape(profile: Real) -> Real:
    """Profiles without what the mean profile explains of each: their similarity is then of their own shape."""
    basis = np.column_stack([profile.mean(axis=0), np.ones(profile.shape[1])])
    return profile - (basis @ np.linalg.lstsq(basis, profile.T, rcond=None)[0]).T


def _correlation(a: Real, b: Real) -> float:
    upper = np.triu_indices(len(a), 1)
    return float(np.corrcoef(a[upper], b[upper])[0, 1])


def _ordered(value: float, least: float, what: str) -> None:
    """Refuse rows in an order that makes neighbours differ."""
    if not value >= least:
        raise Refused(
            f"neighbours should be alike: {what}.", found=f"agreement {value:.2f} instead of {least} or more.",
            cause="rows in another order than their places.", do="take files of one origin, as they are.",
        )  # fmt: skip


def _frame(names: list[str], side: NDArray[Any], xyz: Real, columns: dict[str, Any]) -> pd.DataFrame:
    places = {"id": names, "subject": _SUBJECT, "section": side, "hemisphere": side}
    return pd.DataFrame({**places, "x_mm": xyz[:, 0], "y_mm": xyz[:, 1], "z_mm": xyz[:, 2], **columns})


def _table(
    x: Real, obs: pd.DataFrame, xyz: Real, space: Space, files: _Files, remarks: tuple[str, ...], columns: list[str],
    sphere: Real,
) -> AnnData:  # fmt: skip
    space.check(xyz)
    if not np.isfinite(x).all():
        raise Refused(
            "features should be finite.", found=f"{int((~np.isfinite(x).all(axis=1)).sum())} rows that are not."
        )
    obs = obs.set_axis(pd.Index(obs["id"].to_numpy()), axis=0)
    obs["section"] = pd.Categorical(obs["section"])
    about = {
        # nothing was trained: no encoder has seen a row
        "system": "surfaces", "what": "rows", "trained": False, "encoder_fold": -1, "same_data": True,
        "split": {"by": "section", "folds": 0}, "recipe_hash": "", "data_fingerprint": files.fingerprint(),
        "files": dict(files.sums), "license": LICENSE, "citation": CITATION,
        "remarks": [text for text in remarks if text],
    }  # fmt: skip
    held = {
        "name": space.name, "unit": space.unit, "orientation": space.orientation,
        "extent_mm": list(space.extent_mm), "origin": space.origin,
    }  # fmt: skip
    return cast("Any", AnnData)(
        X=x.astype(np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(columns)),
        obsm={"xyz": xyz.astype(np.float32), "sphere": sphere}, uns={"space": held, "brodmann": about},
    )  # fmt: skip
