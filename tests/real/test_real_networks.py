"""BigBrain's surfaces: rows lie where their labels and profiles say, and a wrong order is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

import brodmann
from brodmann.datasets import bigbrain_surfaces as surfaces
from brodmann.errors import Refused
from brodmann.settings import Split
from brodmann.tasks._spin import MIRROR, Sphere, sides
from brodmann.tasks.networks import networks

DATA = os.environ.get("BRODMANN_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="needs public data: set BRODMANN_DATA")


def folder(name: str, *, index: bool = False) -> Path:
    path = Path(str(DATA)) / "surfaces" / name
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    if index and not (path / surfaces._INDEX.format("L")).is_file():
        pytest.skip(f"{surfaces._INDEX.format('?')} of the same origin are not in {name}")
    return path


@pytest.fixture
def parcel_files(tmp_path):
    """The files in a folder that may be spoilt."""
    for file in folder("schaefer400").iterdir():
        if file.suffix != ".npy" or file.stem == "surface_distance":
            shutil.copyfile(file, tmp_path / file.name)
    return tmp_path


def test_rows_of_parcels_belong_together() -> None:
    home = folder("schaefer400")
    table = surfaces.parcels(home)
    obs = table.obs
    assert table.shape == (400, 50)
    assert set(obs["yeo7"]) == set(surfaces.NETWORKS)
    assert (obs["hemisphere"] == np.repeat(["L", "R"], 200)).all()
    # The similarity of profiles that comes with the data, by its makers: the order of rows is that of all matrices.
    upper = np.triu_indices(400, 1)
    theirs = np.load(home / "laminar_similarity.npy")[upper]
    ours = np.corrcoef(surfaces._shape(np.asarray(table.X, dtype=np.float64)))[upper]
    assert np.corrcoef(theirs, ours)[0, 1] > 0.999
    # Parcels of one network are coupled; primary visual and motor cortex have von Economo's classes 5 and 1.
    coupling = np.load(home / "haemodynamic_connectivity.npy")
    same = obs["yeo7"].to_numpy()[:, None] == obs["yeo7"].to_numpy()
    assert coupling[same].mean() > 1.5 * coupling[~same].mean()
    assert (obs["yeo7"][obs["economo"] == "1"] == "SomMot").mean() > 0.8
    assert obs["yeo7"][obs["economo"] == "5"].isin(["Vis", "SomMot"]).mean() > 0.85
    assert len(table.uns["brodmann"]["files"]) == 5


def test_spheres_of_parcels_keep_distances_along_the_cortex() -> None:
    home = folder("schaefer400")
    table = surfaces.parcels(home)
    distance = np.load(home / "surface_distance.npy")
    for rows in (slice(0, 200), slice(200, 400)):
        unit = table.obsm["sphere"][rows]
        angle = np.arccos(np.clip(unit @ unit.T, -1, 1))
        upper = np.triu_indices(200, 1)
        assert np.corrcoef(angle[upper], distance[rows, rows][upper])[0, 1] > 0.95
        near = distance[rows, rows][upper] < 40
        assert np.corrcoef(angle[upper][near], distance[rows, rows][upper][near])[0, 1] > 0.8
    sphere = Sphere.of(table)
    assert sphere is not None
    assert sphere.turned_deg < 5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bigbrain_intensities.csv", "permuted"),
        ("surface_distance.npy", "reversed"),
        ("Schaefer400_coords.txt", "hemispheres"),
    ],
)
def test_parcels_in_another_order_are_refused(parcel_files, name, change) -> None:
    path = parcel_files / name
    if change == "permuted":
        values = np.loadtxt(path, delimiter=",")[:, np.random.default_rng(0).permutation(400)]
        np.savetxt(path, values, delimiter=",")
    elif change == "reversed":
        order = np.random.default_rng(0).permutation(400)
        np.save(path, np.load(path)[np.ix_(order, order)])
    else:
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[200:], *lines[:200]]))
    with pytest.raises(Refused):
        surfaces.parcels(parcel_files)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(Refused, match="order_info"):
        surfaces.parcels(tmp_path)
    with pytest.raises(Refused, match="laminar_thickness"):
        surfaces.vertices(tmp_path)


def test_vertices_without_their_index_have_no_labels(tmp_path) -> None:
    """The first 10,242 of the full surface's labels are those of other places: none at all is right."""
    for file in folder("bigbrain").iterdir():
        if file.suffix != ".mat":
            (tmp_path / file.name).symlink_to(file.resolve())
    table = surfaces.vertices(tmp_path)
    assert table.shape == (20484, 6)
    assert "yeo7" not in table.obs
    assert any("no labels" in text for text in table.uns["brodmann"]["remarks"])
    assert table.X.sum(axis=1).mean() == pytest.approx(2.1, abs=0.1)
    assert np.allclose(np.linalg.norm(table.obsm["sphere"], axis=1), 1)
    with pytest.raises(Refused, match="which vertices belong"):
        surfaces.parcels(folder("schaefer400"), features="both", surface=tmp_path)


def test_labels_of_vertices_lie_where_they_should(tmp_path) -> None:
    home = folder("bigbrain", index=True)
    table = surfaces.vertices(home)
    obs = table.obs
    assert (obs["yeo7"][~obs["measured"]] == "").all()
    assert 900 < (obs["yeo7"] == "").sum() < 1200
    # Visual cortex lies behind, somatomotor above, limbic below; the same in both hemispheres.
    for side in "LR":
        mine = obs[obs["hemisphere"] == side].groupby("yeo7", observed=True)[["y_mm", "z_mm"]].mean()
        assert mine["y_mm"].idxmin() == "Vis"
        assert mine["z_mm"].drop("").idxmin() == "Limbic"
    # Parcels' networks by name, and vertices' networks by their own file, agree.
    names = surfaces.parcels(folder("schaefer400")).obs["yeo7"].to_numpy()
    parcel = obs["schaefer400"].astype(str).to_numpy()
    known = (parcel != "") & (obs["yeo7"] != "").to_numpy()
    assert (names[parcel[known].astype(int) - 1] == obs["yeo7"].to_numpy()[known]).mean() > 0.75
    # The two spheres are not mirror images as they come; turned, they bring like places together.
    sphere, left = Sphere.of(table), sides(table)
    assert sphere is not None
    assert left is not None
    assert 10 < sphere.turned_deg < 25

    def alike(xyz: np.ndarray) -> float:
        near = (xyz[~left] @ MIRROR @ xyz[left].T).argmax(axis=1)
        one, other = obs["yeo7"].to_numpy()[left][near], obs["yeo7"].to_numpy()[~left]
        return float((one == other)[(one != "") & (other != "")].mean())

    assert alike(sphere.xyz) > alike(table.obsm["sphere"]) + 0.1

    for file in home.iterdir():
        (tmp_path / file.name).symlink_to(file.resolve())
    name = surfaces._INDEX.format("L")
    held = scipy.io.loadmat(home / name)
    (tmp_path / name).unlink()
    scipy.io.savemat(tmp_path / name, {"bb_downsample": np.sort(held["bb_downsample"], axis=0), "BB10": held["BB10"]})
    with pytest.raises(Refused, match="neighbours should be alike"):
        surfaces.vertices(tmp_path)


def test_networks_of_parcels_are_named_by_place_and_structure_adds_nothing() -> None:
    """Profiles alone do as known (.505 from left to right); mirrored places on the sheet do far better."""
    table = surfaces.parcels(folder("schaefer400"))
    score = networks(table, "yeo7", Split(by="section", folds=0, fold=1), nulls=39)
    assert score.folds == ("section BigBrain/R held out",) or "BigBrain/R" in score.folds[0]
    assert score.value == pytest.approx(0.5, abs=0.03)
    assert score.baselines["coordinates only"].value > 0.75
    assert score.more["coordinates + features, gain over coordinates only"].low < 0
    assert 0.3 < score.baselines["spatial null"].value < score.value
    assert not any("encoder" in remark for remark in score.remarks)


def test_tables_are_taken_by_the_verbs() -> None:
    score = brodmann.score("areas", surfaces.parcels(folder("schaefer400")), "yeo7", by="section", fold=0)
    # areas leaves out classes of fewer than 30 parcels: 26 are limbic
    assert score.n == 187
    assert "Limbic" not in score.classes
