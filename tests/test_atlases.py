"""Atlas labels land where the atlas says: BrainGlobe's orientation codes and ontologies, Julich-Brain by siibra."""

from __future__ import annotations

import ast
import importlib.util
import json
import types
from enum import Enum
from itertools import permutations, product
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile

from brodmann import atlases, results
from brodmann.datasets import brainglobe, julich
from brodmann.errors import BrodmannError, Corrupt, Refused, SpaceMismatch, Usage
from brodmann.space import CCF_V3, Space
from brodmann.spaces import BIGBRAIN, COLIN27, MNI152

CODES = ["".join(code) for axes in permutations(("rl", "ap", "si")) for code in product(*axes)]
"""All 48 orientations."""
STRUCTURES = [
    {"acronym": "root", "id": 1, "name": "root", "structure_id_path": [1], "rgb_triplet": [255, 255, 255]},
    {"acronym": "CTX", "id": 5, "name": "Cortex", "structure_id_path": [1, 5], "rgb_triplet": [1, 2, 3]},
    {"acronym": "V1", "id": 70, "name": "Primary, visual", "structure_id_path": [1, 5, 70], "rgb_triplet": [1, 2, 3]},
    {"acronym": "V1-4", "id": 71, "name": "Layer 4", "structure_id_path": [1, 5, 70, 71], "rgb_triplet": [1, 2, 3]},
    {"acronym": "TH", "id": 9, "name": "Thalamus", "structure_id_path": [1, 9], "rgb_triplet": [1, 2, 3]},
]
SHAPE_RAS, UM_RAS = (5, 7, 4), (100.0, 50.0, 200.0)
"""Voxels and their sizes rightwards, forwards, upwards: no two alike."""


def brain() -> np.ndarray:
    """Ids by place (right, front, up); no symmetry."""
    volume = np.zeros(SHAPE_RAS, np.uint32)
    volume[1:, 1:, 1:] = 9
    volume[3:, 2:, 1:3] = 5
    volume[4, 5, 3] = 71
    volume[2, 6, 0] = 70
    return volume


def stored(volume: np.ndarray, code: str) -> np.ndarray:
    """The volume as a file of this orientation holds it: index 0 at the lettered end."""
    axes = {"l": 0, "r": 0, "p": 1, "a": 1, "i": 2, "s": 2}
    turned = volume.transpose([axes[letter] for letter in code])
    return turned[tuple(slice(None, None, -1 if letter in "ras" else 1) for letter in code)]


def about(code: str, *, name: str = "tiny_beast", symmetric: bool = True) -> dict:
    axes = {"l": 0, "r": 0, "p": 1, "a": 1, "i": 2, "s": 2}
    return {
        "name": name, "citation": "Someone 2020", "species": "Bestia minima", "symmetric": symmetric,
        "resolution": [UM_RAS[axes[letter]] for letter in code], "orientation": code, "version": "1.2",
        "shape": [SHAPE_RAS[axes[letter]] for letter in code],
    }  # fmt: skip


def folder(path: Path, code: str, *, halves: np.ndarray | None = None, **more) -> Path:
    """As versions 1 and 2 of BrainGlobe lay an atlas on disk."""
    path.mkdir(exist_ok=True)
    (path / "metadata.json").write_text(json.dumps(about(code, symmetric=halves is None) | more))
    (path / "structures.json").write_text(json.dumps(STRUCTURES))
    tifffile.imwrite(path / "annotation.tiff", np.ascontiguousarray(stored(brain(), code)), compression="zlib")
    if halves is not None:
        tifffile.imwrite(path / "hemispheres.tiff", np.ascontiguousarray(stored(halves, code)))
    return path


def centres() -> np.ndarray:
    """Middle of every voxel (n, 3), mm from the left, posterior, inferior corner."""
    return (np.stack(np.indices(SHAPE_RAS), -1).reshape(-1, 3) + 0.5) * np.array(UM_RAS) / 1000


NAMES = {0: "", **{row["id"]: row["acronym"] for row in STRUCTURES}}


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_gives_the_same_structures(tmp_path, code):
    atlas = brainglobe.open(folder(tmp_path / "a", code))
    assert atlas.space.extent_mm == (0.5, 0.35, 0.8)
    expected = [NAMES[i] for i in brain().ravel()]
    shift = np.array([0.049, -0.024, 0.099])
    for places in (centres(), centres() + shift, centres() - shift):
        assert atlas.regions(places, space=atlas.space).tolist() == expected
    outside = np.array([[-0.01, 0.1, 0.1], [0.51, 0.1, 0.1], [0.25, 0.36, 0.1], [0.25, 0.1, -0.01]])
    assert atlas.regions(outside, space=atlas.space).tolist() == [""] * 4


def test_the_ontology_is_climbed_to_the_level_that_is_asked_for(tmp_path):
    atlas = brainglobe.open(folder(tmp_path / "a", "asr"))
    places = (np.array([[4, 5, 3], [3, 3, 1], [1, 1, 1], [0, 0, 0], [2, 6, 0]]) + 0.5) * np.array(UM_RAS) / 1000

    def at(**more):
        return atlas.regions(places, space=atlas.space, **more).tolist()

    assert at() == ["V1-4", "CTX", "TH", "", "V1"]
    assert at(level=0) == ["root", "root", "root", "", "root"]
    assert at(level=1) == ["CTX", "CTX", "TH", "", "CTX"]
    assert at(level=2) == ["V1", "CTX", "TH", "", "V1"]
    assert at(under=("V1", "CTX")) == ["V1", "CTX", "", "", "V1"]
    columns = atlas.columns(places, space=atlas.space)
    assert columns["structure_path"].tolist() == ["root/CTX/V1/V1-4", "root/CTX", "root/TH", "", "root/CTX/V1"]
    assert columns["structure_name"].tolist()[:2] == ["Layer 4", "Cortex"]
    assert columns["hemisphere"].tolist() == ["right", "right", "left", "", "left"]
    with pytest.raises(Refused, match="no XYZ"):
        at(under=("XYZ",))


@pytest.mark.parametrize("code", ["asr", "lpi", "sra"])
def test_halves_of_an_uneven_brain_are_read(tmp_path, code):
    halves = np.full(SHAPE_RAS, 2, np.uint8)
    halves[:2] = 1
    halves[2, 4:] = 1
    atlas = brainglobe.open(folder(tmp_path / "a", code, halves=halves))
    found = atlas.columns(centres(), space=atlas.space)
    inside = brain().ravel() > 0
    expected = np.where(inside, np.where(halves.ravel() == 1, "left", "right"), "")
    assert found["hemisphere"].tolist() == expected.tolist()


def test_spaces_are_never_mixed_and_the_allen_atlas_is_in_ccf(tmp_path):
    atlas = brainglobe.open(folder(tmp_path / "a", "asr"))
    for other in (CCF_V3, Space(name="tiny", orientation="ras", extent_mm=atlas.space.extent_mm, origin="a corner")):
        with pytest.raises(SpaceMismatch):
            atlas.regions(centres(), space=other)
    with pytest.raises(Refused, match="too large"):
        atlas.regions(centres() * 1000, space=atlas.space)
    # A coarse Allen mouse: anterior, superior, right; its frontal pole must be far along y.
    volume = np.zeros((66, 40, 57), np.uint32)
    volume[2, 20, 10] = 9
    path = folder(tmp_path / "b", "asr", name="allen_mouse", resolution=[200.0] * 3, shape=[66, 40, 57])
    tifffile.imwrite(path / "annotation.tiff", volume)
    atlas = brainglobe.open(path)
    assert atlas.space is CCF_V3
    place = np.array([[(57 - 10.5) * 0.2, (66 - 2.5) * 0.2, (40 - 20.5) * 0.2]])
    assert atlas.regions(place, space=CCF_V3).tolist() == ["TH"]
    assert atlas.columns(place, space=CCF_V3)["hemisphere"].tolist() == ["right"]


def third(root: Path, code: str = "asr", *, chunks: bool = True) -> Path:
    """As version 3 lays an atlas on disk."""
    import zarr

    said = about(code) | {
        "terminology": {"location": "/terminologies/t/1_0"},
        "annotation_set": {"location": "/annotation-sets/s/1_0"},
    }
    for part in ("atlases/tiny/1_0", "terminologies/t/1_0", "annotation-sets/s/1_0"):
        (root / part).mkdir(parents=True)
    (root / "atlases/tiny/1_0/manifest.json").write_text(json.dumps(said))
    rows = [
        {"identifier": row["id"], "abbreviation": row["acronym"], "name": row["name"],
         "root_identifier_path": str(row["structure_id_path"]), "color_hex_triplet": "#ffffff"}
        for row in STRUCTURES
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "terminologies/t/1_0/terminology.csv", index=False)
    path = root / "annotation-sets/s/1_0/annotations_compressed.ome.zarr"
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    scale = [um / 1000 for um in said["resolution"]]
    levels = [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [f * s for s in scale]}]}
        for i, f in enumerate((0.5, 1.0))
    ]
    more = {"ome": {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels, "version": "0.5"}]}}
    group = zarr.open_group(str(path), mode="w", zarr_format=3, attributes=more)
    data = np.ascontiguousarray(stored(brain(), code))
    fine = group.create_array("0", shape=[2 * n for n in data.shape], dtype="uint32", chunks=(4, 4, 4))
    coarse = group.create_array("1", shape=data.shape, dtype="uint32", chunks=(2, 2, 2))
    if chunks:
        fine[...] = 1
        coarse[...] = data
    return root / "atlases/tiny/1_0"


@pytest.mark.parametrize("code", ["asr", "ipl", "rsa"])
def test_version_three_gives_the_same_structures(tmp_path, code):
    atlas = brainglobe.open(third(tmp_path, code))
    assert atlas.regions(centres(), space=atlas.space).tolist() == [NAMES[i] for i in brain().ravel()]
    assert atlas.columns(centres(), space=atlas.space)["structure_path"].iloc[-1] == "root/TH"
    assert brainglobe.open(tmp_path / "atlases/tiny/1_0/manifest.json") is not None


def test_a_description_without_its_volume_is_named(tmp_path):
    with pytest.raises(Refused, match="not yet downloaded"):
        brainglobe.open(third(tmp_path, chunks=False))


def test_folders_that_are_no_atlas_are_named(tmp_path):
    path = folder(tmp_path / "a", "asr")

    def said(match: str, **more) -> None:
        folder(path, "asr", **more)
        with pytest.raises(BrodmannError, match=match):
            brainglobe.open(path)

    with pytest.raises(Refused, match="neither"):
        brainglobe.open(tmp_path / "nowhere")
    for code in ("as", "asx", "aps", "arl", "asrr", "", None, 5):
        said("each of three axes", orientation=code)
    said("sizes in um", resolution=[0, 25, 25])
    said("describe an atlas", resolution=[25, 25])
    said("volume of", shape=[1, 2, 3])
    said("describe an atlas", shape=None)
    folder(path, "asr")
    (path / "structures.json").write_text(json.dumps([STRUCTURES[0], STRUCTURES[3]]))
    with pytest.raises(Refused, match="lead back to its root"):
        brainglobe.open(path)
    folder(path, "asr", version="9")
    (path / "structures.json").write_text(json.dumps([row for row in STRUCTURES if row["id"] != 9]))
    with pytest.raises(Refused, match=r"1 that they lack, e\.g\. \[9\]"):
        brainglobe.open(path).regions(centres(), space=brainglobe.open(path).space)
    for name in ("metadata.json", "structures.json", "annotation.tiff"):
        folder(path, "asr", version=name)
        whole = (path / name).read_bytes()
        for cut in (0, 1, 50, len(whole) // 2):
            (path / name).write_bytes(whole[:cut])
            with pytest.raises(BrodmannError):
                brainglobe.open(path)
        (path / name).unlink()
        with pytest.raises(BrodmannError):
            brainglobe.open(path)


def test_names_in_a_manifest_stay_inside_the_folder(tmp_path):
    path = third(tmp_path / "b")
    manifest = path / "manifest.json"
    said = json.loads(manifest.read_text())
    for part in ("terminology", "annotation_set"):
        manifest.write_text(json.dumps(said | {part: {"location": "/../../etc"}}))
        with pytest.raises(Refused, match="stay inside"):
            brainglobe.open(path)


# ------------------------------------------------------------------------------------------------------ Julich-Brain


class MapType(Enum):
    """As siibra has it."""

    LABELLED = 1
    STATISTICAL = 2


def siibra(volume: np.ndarray, affine: np.ndarray, regions: dict[int, str], values: np.ndarray | None = None):
    """A stand-in with siibra's signatures: ``get_map``, ``PointCloud``, ``Map.assign``."""
    asked = []

    class PointCloud:
        def __init__(self, coordinates, space=None, sigma_mm=0, labels=None):
            self.coordinates, self.space, self.sigma_mm = np.array(coordinates), space, sigma_mm

    class Map:
        def assign(self, item, minsize_voxel=1, lower_threshold=0.0, **kwargs):
            """A row a place and map with a value above the threshold, as siibra gives it."""
            index = np.floor((item.coordinates - affine[:3, 3]) / affine[0, 0] + 0.5).astype(int)
            rows = []
            for place, (i, j, k) in enumerate(index):
                if (index[place] < 0).any() or (index[place] >= volume.shape[:3]).any():
                    continue
                found = [(volume[i, j, k], volume[i, j, k])] if values is None else list(enumerate(values[i, j, k], 1))
                for label, value in found:
                    if value > lower_threshold:
                        region = types.SimpleNamespace(name=regions[int(label)])
                        rows.append({"input structure": place, "region": region, "map value": value})
            return pd.DataFrame(rows, columns=["input structure", "region", "map value"] if rows else ["region"])

    def get_map(parcellation, space, maptype=MapType.LABELLED, spec=""):
        asked.append((parcellation, space, maptype))
        return Map()

    return types.SimpleNamespace(get_map=get_map, PointCloud=PointCloud, MapType=MapType, asked=asked)


REGIONS = {1: "Area hOc1 (V1, 17, CalcS) left", 2: "Area hOc2 (V2, 18) left"}


def human() -> tuple[np.ndarray, np.ndarray]:
    volume = np.zeros((6, 5, 4), np.int16)
    volume[1, 2, 3], volume[4, 1, 0] = 1, 2
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -4, -10, 6
    return volume, affine


def test_siibra_is_asked_in_its_own_terms_and_a_label_map_says_the_same(tmp_path, monkeypatch):
    import nibabel

    volume, affine = human()
    places = np.stack(np.indices(volume.shape), -1).reshape(-1, 3) @ affine[:3, :3] + affine[:3, 3] + 0.9
    expected = [REGIONS.get(int(label), "") for label in volume.ravel()]
    stand_in = siibra(volume, affine, REGIONS)
    monkeypatch.setattr(julich, "AT_ONCE", 7)
    found = julich.areas(places, space=MNI152, siibra=stand_in)
    assert found.tolist() == expected
    assert set(stand_in.asked) == {("julich 3.1", julich.SPACES["mni152"], MapType.LABELLED)}
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "map.nii.gz")
    (tmp_path / "names.json").write_text(json.dumps(REGIONS))
    pd.DataFrame({"label": list(REGIONS), "name": list(REGIONS.values())}).to_csv(tmp_path / "names.csv", index=False)
    for names in ("names.json", "names.csv"):
        found = julich.areas_in(places, space=MNI152, volume=tmp_path / "map.nii.gz", names=tmp_path / names)
        assert found.tolist() == expected


def test_of_probabilities_the_highest_above_the_least_counts():
    volume, affine = human()
    values = np.zeros((*volume.shape, 2))
    values[1, 2, 3], values[4, 1, 0] = (0.3, 0.6), (0.05, 0.0)
    stand_in = siibra(volume, affine, REGIONS, values)
    places = np.array([[-2.0, -6.0, 12.0], [4.0, -8.0, 6.0], [0.0, 0.0, 0.0], [90.0, 90.0, 90.0]])
    more = {"space": COLIN27, "maps": "statistical", "siibra": stand_in}
    assert julich.areas(places, **more).tolist() == [REGIONS[2], REGIONS[1], "", ""]
    assert julich.areas(places, least=0.1, **more).tolist() == [REGIONS[2], "", "", ""]
    assert stand_in.asked[0][2] is MapType.STATISTICAL


def test_spaces_and_failures_of_siibra_are_named(monkeypatch):
    places = np.zeros((2, 3))
    with pytest.raises(Refused, match="mni152, colin27, bigbrain"):
        julich.areas(places, space=CCF_V3)
    with pytest.raises(SpaceMismatch):
        julich.areas(places, space=Space(name="mni152", orientation="lps", extent_mm=(1, 1, 1), origin="x"))
    monkeypatch.setitem(__import__("sys").modules, "siibra", None)
    with pytest.raises(Refused, match=r"brodmann\[siibra\]"):
        julich.areas(places, space=MNI152)

    def offline(*_, **__):
        raise ConnectionError("no route")

    with pytest.raises(Refused, match="ConnectionError: no route"):
        julich.areas(places, space=MNI152, siibra=types.SimpleNamespace(get_map=offline, MapType=MapType))
    missing = type("MapNotFound", (Exception,), {})

    def unmapped(*_):
        raise missing("No map available")

    with pytest.raises(Refused, match=r"labelled map of 'julich 3\.1' in bigbrain"):
        julich.areas(places, space=BIGBRAIN, siibra=types.SimpleNamespace(get_map=unmapped, MapType=MapType))
    none = types.SimpleNamespace(get_map=lambda *_: None, MapType=MapType)
    with pytest.raises(Refused, match="labelled map of 'x'"):
        julich.areas(places, space=MNI152, parcellation="x", siibra=none)


def test_label_maps_that_do_not_fit_are_named(tmp_path):
    import nibabel

    volume, affine = human()
    path, names = tmp_path / "map.nii", tmp_path / "names.json"
    more = {"space": MNI152, "volume": path, "names": names}
    places = np.array([[-2.0, -6.0, 12.0]])
    with pytest.raises(Refused, match="no such file"):
        julich.areas_in(places, **more)
    for text in ("[1, 2]", '{"a": "b"}', "{"):
        names.write_text(text)
        with pytest.raises(BrodmannError, match=r"names\.json"):
            julich.areas_in(places, **more)
    names.write_text('{"2": "other"}')
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    with pytest.raises(Refused, match=r"1 that it lacks, e\.g\. \[1\]"):
        julich.areas_in(places, **more)
    nibabel.save(nibabel.Nifti1Image(volume[..., None].repeat(2, 3), affine), path)
    with pytest.raises(Refused, match="one label a voxel"):
        julich.areas_in(places, **more)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(Corrupt, match=r"map\.nii"):
        julich.areas_in(places, **more)


def test_the_stand_in_has_the_signatures_of_the_library():
    """Read from its source: importing siibra would connect."""
    found = importlib.util.find_spec("siibra")
    if found is None or found.origin is None:
        pytest.skip("siibra is not installed")
    root = Path(found.origin).parent

    def arguments(file: str, name: str, inside: str | None = None) -> list[str]:
        tree = ast.parse((root / file).read_text("utf-8"))
        scope = tree if inside is None else next(n for n in tree.body if getattr(n, "name", None) == inside)
        function = next(n for n in scope.body if getattr(n, "name", None) == name)
        return [argument.arg for argument in function.args.args]

    assert arguments("__init__.py", "get_map")[:3] == ["parcellation", "space", "maptype"]
    assert arguments("__init__.py", "get_map")[3] == "spec"
    assert arguments("locations/pointcloud.py", "__init__", "PointCloud")[1:4] == ["coordinates", "space", "sigma_mm"]
    assert arguments("volumes/parcellationmap.py", "assign", "Map")[1:4] == ["item", "minsize_voxel", "lower_threshold"]
    text = (root / "volumes/parcellationmap.py").read_text("utf-8")
    assert all(f'"{name}"' in text for name in ("input structure", "region", "map value"))


# ---------------------------------------------------------------------------------------------- atlases as targets


def table_in(space: Space, xyz: np.ndarray) -> ad.AnnData:
    obs = pd.DataFrame({"id": [f"r{i}" for i in range(len(xyz))], "area": "A"})
    table = ad.AnnData(X=np.zeros((len(xyz), 2), np.float32), obs=obs.set_index("id", drop=False).rename_axis(None))
    table.obsm["xyz"] = xyz.astype(np.float32)
    about = {"unit": "mm", "orientation": space.orientation, "origin": space.origin}
    table.uns["space"] = {"name": space.name, "extent_mm": list(space.extent_mm), **about}
    return table


def test_a_target_names_an_atlas_of_brainglobe_its_level_and_its_newest_version(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    for version in ("1.2", "1.10"):
        home = folder(tmp_path / "own" / f"tiny_beast_100um_v{version}", "asr", version=version)
    (home.parent / "tiny_beast_100um_v1.2" / "structures.json").write_text("[]")
    space = brainglobe.open(home).space
    expected = [NAMES[i] for i in brain().ravel()]
    monkeypatch.setattr(atlases, "INSTALLED", tmp_path / "own")
    for given in (None, tmp_path / "own", home):
        table = table_in(space, centres())
        atlases.label(table, "brainglobe:tiny_beast_100um", atlas=given)
        assert table.obs["brainglobe:tiny_beast_100um"].tolist() == expected
    atlases.label(table, "brainglobe:tiny_beast_100um:1")
    coarse = brainglobe.open(home).regions(centres(), space=space, level=1)
    assert table.obs["brainglobe:tiny_beast_100um:1"].tolist() == coarse.tolist()
    assert set(coarse) == {"", "CTX", "TH"}
    third(tmp_path / "new")
    for given in (tmp_path / "new", tmp_path / "new" / "atlases" / "tiny" / "1_0"):
        table = table_in(space, centres())
        atlases.label(table, "brainglobe:tiny", atlas=given)
        assert table.obs["brainglobe:tiny"].tolist() == expected


def test_atlases_of_brainglobe_that_do_not_serve_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(atlases, "INSTALLED", tmp_path / "nothing")
    table = table_in(CCF_V3, centres())
    with pytest.raises(
        Usage, match=r"(?s)no atlas\..*pip install brainglobe-atlasapi; brainglobe install -a tiny_beast"
    ):
        atlases.label(table, "brainglobe:tiny_beast")
    home = folder(tmp_path / "tiny_beast_v1.2", "asr")
    with pytest.raises(Usage, match="did you mean 'brainglobe:tiny_beast'"):
        atlases.label(table, "brainglobe:tiny_best", atlas=tmp_path)
    with pytest.raises(SpaceMismatch, match="brainglobe_tiny_beast"):
        atlases.label(table, "brainglobe:tiny_beast", atlas=tmp_path)
    with pytest.raises(Usage, match=r"columns area; atlases ccf, .*brainglobe:NAME, julich"):
        atlases.label(table, "brainglobe:", atlas=None)
    with pytest.raises(Usage, match="column of the table"):
        atlases.label(table, "area", atlas=tmp_path)
    outside = table_in(brainglobe.open(home).space, np.full((3, 3), 0.001))
    with pytest.raises(Refused, match="none of 3"):
        atlases.label(outside, "brainglobe:tiny_beast", atlas=tmp_path)
    assert set(table.obs.columns) == {"id", "area"}


def test_a_target_names_julich_brain_from_files_of_either_hemisphere(tmp_path):
    import nibabel

    volume, affine = human()
    places = np.stack(np.indices(volume.shape), -1).reshape(-1, 3) @ affine[:3, :3] + affine[:3, 3]
    for side, label in (("lh", 1), ("rh", 2)):
        only = np.where(volume == label, volume, 0).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(only, affine), tmp_path / f"julich_{side}_MNI152.nii.gz")
        (tmp_path / f"julich_{side}_MNI152.json").write_text(json.dumps({str(label): REGIONS[label]}))
    nibabel.save(nibabel.Nifti1Image(np.full_like(volume, 7), affine), tmp_path / "julich_lh_Colin27.nii.gz")
    table = table_in(MNI152, places)
    atlases.label(table, "julich", atlas=tmp_path)
    assert table.obs["julich"].tolist() == [REGIONS.get(int(label), "") for label in volume.ravel()]
    with pytest.raises(SpaceMismatch, match=r"bigbrain.*\n.*Colin27.*MNI152"):
        atlases.label(table_in(BIGBRAIN, places), "julich", atlas=tmp_path)
    with pytest.raises(Usage, match="1 label maps of colin27 and 2 lists"):
        atlases.label(table_in(COLIN27, places), "julich", atlas=tmp_path)
    with pytest.raises(Usage, match="0 label maps"):
        atlases.label(table_in(MNI152, places), "julich", atlas=tmp_path / "no")


def test_julich_brain_without_files_needs_siibra_and_a_human_space(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "siibra", None)
    with pytest.raises(Refused, match=r"pip install 'brodmann\[siibra\]'"):
        atlases.label(table_in(MNI152, np.zeros((2, 3))), "julich")
    with pytest.raises(SpaceMismatch, match="mni152, colin27, bigbrain"):
        atlases.label(table_in(CCF_V3, np.zeros((2, 3))), "julich")
    volume, affine = human()
    monkeypatch.setitem(__import__("sys").modules, "siibra", siibra(volume, affine, REGIONS))
    table = table_in(COLIN27, np.array([[-2.0, -6.0, 12.0], [4.0, -8.0, 6.0], [0.0, 0.0, 0.0]]))
    atlases.label(table, "julich")
    assert table.obs["julich"].tolist() == [REGIONS[1], REGIONS[2], ""]


def test_a_score_takes_an_atlas_as_its_target(tmp_path, monkeypatch):
    home = folder(tmp_path / "tiny_beast_v1.2", "asr")
    table = table_in(brainglobe.open(home).space, centres())
    table.uns["brodmann"] = {"split": {"by": "block", "folds": 5}, "encoder_fold": -1}
    asked = []
    monkeypatch.setattr(results.areas_task, "areas", lambda table, target, *_, **__: asked.append(table.obs[target]))
    results.score("areas", table, "brainglobe:tiny_beast:1", atlas=tmp_path)
    assert set(asked[0]) == {"", "CTX", "TH"}
