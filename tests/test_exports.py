"""Exports: a label at a known place, in mm or um, is at that place when the tool of its field reads the file."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
import zarr
from matplotlib.path import Path as Outline

import brodmann as bm
from brodmann import cli, exports, levels, phantom
from brodmann.cortex import gifti
from brodmann.cortex.mesh import mesh
from brodmann.errors import Refused, Usage
from brodmann.exports import geojson, h5ad, tables
from brodmann.maps.colours import colours, rgb
from brodmann.phantom import files
from brodmann.run import Run
from brodmann.tasks._score import Estimate, Score
from cellfiles import cells

QUARTERS = ("NE", "NW", "SE", "SW")
SMALL = {
    "fit.steps": 2, "fit.warmup_steps": 1, "fit.batch": 4, "samples.size_px": 32, "samples.pixel_um": 128,
    "partners.reach_mm": 8, "partners.same_section": True,
}  # fmt: skip


def planted(run: Run, task: str, target: str, values: pd.Series, **more) -> None:
    """Keep a score whose predictions are known."""
    about = bm.table(run).uns["brodmann"]
    score = Score(
        task=task, target=target, metric="macro-F1", value=0.5, interval=(0.4, 0.6), n=len(values), n_groups=2,
        split="brain B0 held out", baselines={"coordinates only": Estimate(0.7)}, predicted=values,
        truth=values if task != "domains" else values[:0], data_fingerprint=more.pop("of", about["data_fingerprint"]),
        **more,
    )  # fmt: skip
    with run.lock():
        score.save(run.path)
        run.seal()


def quarters(obs: pd.DataFrame) -> pd.Series:
    """Which quarter of its section's bounding box a row lies in."""
    middle = obs.groupby("section", observed=True)[["x_um", "y_um"]].transform(lambda v: (v.min() + v.max()) / 2)
    name = np.where(obs["y_um"] < middle["y_um"], "N", "S").astype(object)
    name += np.where(obs["x_um"] < middle["x_um"], "W", "E").astype(object)
    return pd.Series(name, index=pd.Index(obs["id"], name="id"), dtype=object)


def levelled(run: Run, table: ad.AnnData, names: pd.Series) -> None:
    """Keep the quarters as domains too, in colours of their own."""
    frame = pd.DataFrame({"domain_4": pd.Categorical(names.to_numpy())})
    level = SimpleNamespace(k=4, colours=("#010203", "#040506", "#070809", "#0A0B0C"), paths=("1", "2", "3", "4"))
    with run.lock():
        levels.write(run, SimpleNamespace(frame=lambda _: frame, levels=(level,)), table)
        run.seal()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Two brains of two sections: predicted quarters (of all but every tenth row), domains, and a number."""
    home = tmp_path_factory.mktemp("patches")
    files.write(phantom.sections(brains=2, sections_per_brain=2, native_um=128), home / "sections", labels=False)
    made = bm.fit(bm.recipe("patches-tiny", SMALL), home / "sections", home / "run", quiet=True)
    table = bm.embed(made, controls=False, quiet=True)
    names = quarters(table.obs)
    some = names.drop(names.index[::10])
    planted(made, "areas", "quarter", some, classes=QUARTERS)
    planted(made, "domains", "quarter", names, classes=QUARTERS)
    levelled(made, table, names)
    number = pd.Series(number_at(table.obsm["xyz"]), index=names.index)
    planted(made, "properties", "depth_mm", number)
    return made


def number_at(xyz):
    """A number that changes along every axis, and differently."""
    return np.asarray(xyz, float) @ (1.0, 0.1, 10.0)


@pytest.fixture(scope="module")
def table(run) -> ad.AnnData:
    return bm.table(run)


def predicted(table, row) -> str:
    return quarters(table.obs).iloc[row]


def said(run: Run, row: int) -> bool:
    return row % 10 != 0


def record(path: Path) -> dict:
    return json.loads((path / "brodmann.json" if path.is_dir() else path.with_name(path.name + ".json")).read_text())


def rows_of(table, section) -> np.ndarray:
    return np.flatnonzero((table.obs["section"] == section).to_numpy() & (np.arange(table.n_obs) % 10 != 0))


def test_domains_without_labels_and_measures_of_responses_are_exported(run, table, tmp_path):
    """A score of stability predicts nothing; the domains that it is of are there all the same."""
    copy = Run.load(shutil.copytree(run.path, tmp_path / "run"))
    names = quarters(table.obs)
    copy.forget("scores/domains-quarter.json")
    planted(copy, "domains", "4 domains", names[:0])
    planted(copy, "responses", "responses", pd.Series(0.5, index=names.index))
    out = bm.export(copy, "csv", tmp_path / "all.csv", quiet=True)
    frame = pd.read_csv(out)
    assert (frame["predicted_domain_4"] == names.to_numpy()).all()
    assert (frame["measured_responses"] == 0.5).all()


# ---------------------------------------------------------------------------------------------------------- sections


def at(path: Path, level: str, um: np.ndarray, group: str = "") -> np.ndarray:
    """Values of an OME-Zarr at (x, y) um, by its own transformations."""
    root = zarr.open_group(str(path / group), mode="r")
    said = root.attrs["ome"]["multiscales"][0]
    assert [(axis["name"], axis["unit"]) for axis in said["axes"]] == [("y", "micrometer"), ("x", "micrometer")]
    steps = next(d for d in said["datasets"] if d["path"] == level)["coordinateTransformations"]
    index = (um[:, ::-1] - steps[1]["translation"]) / steps[0]["scale"]
    row, column = np.round(index).astype(int).T
    return np.asarray(root[level])[row, column]


def test_ome_zarr_has_each_label_at_its_place(run, table, tmp_path):
    out = bm.export(run, "ome-zarr", tmp_path / "zarr", target="quarter", pixel_um=40, quiet=True)
    about = record(out)
    assert len(about["sections"]) == 4
    for section, where in about["sections"].items():
        rows = rows_of(table, section)
        um = table.obs[["x_um", "y_um"]].to_numpy(float)[rows]
        group = "labels/quarter"
        shown = zarr.open_group(str(out / where["file"] / group), mode="r").attrs["ome"]["image-label"]
        names = {one["label-value"]: one["name"] for one in shown["properties"]}
        for level in ("0", "1"):
            found = [names.get(int(value)) for value in at(out / where["file"], level, um, group)]
            assert np.mean([a == predicted(table, r) for a, r in zip(found, rows, strict=True)]) > 0.97
        assert {one["label-value"]: one["rgba"] for one in shown["colors"]} == {
            value: [*rgb(colours(QUARTERS)[name]).astype(int), 255] for value, name in names.items()
        }
        # the record leads on to the space
        mm = np.column_stack([um, np.ones(len(um))]) @ np.array(where["to_mm"]).T
        assert np.abs(mm - table.obsm["xyz"][rows]).max() < 2e-3
    assert about["space"] == {**about["space"], "name": "phantom", "unit": "mm", "orientation": "ras"}
    assert about["answers"]["quarter"]["score"]["baselines"] == {"coordinates only": 0.7}
    assert about["answers"]["quarter"]["score"]["interval_95"] == [0.4, 0.6]


def test_ome_zarr_holds_numbers_as_an_image(run, table, tmp_path):
    out = bm.export(run, "ome-zarr", tmp_path / "zarr", target="depth_mm", pixel_um=40, quiet=True)
    for section, where in record(out)["sections"].items():
        rows = rows_of(table, section)
        um = table.obs[["x_um", "y_um"]].to_numpy(float)[rows]
        for level in ("0", "1"):
            found, true = at(out / where["file"], level, um), number_at(table.obsm["xyz"])[rows]
            assert np.median(np.abs(found - true)) < 1e-4
        assert np.isnan(np.asarray(zarr.open_group(str(out / where["file"]), mode="r")["0"])[0, 0])
    assert record(out)["answers"]["depth_mm"]["unit"] == "mm"


def test_ome_zarr_py_reads_the_labels(run, table, tmp_path):
    reader = pytest.importorskip("ome_zarr.reader", reason="ome-zarr is not installed")
    from ome_zarr.io import parse_url

    out = bm.export(run, "ome-zarr", tmp_path / "zarr", target="quarter", quiet=True)
    section, where = next(iter(record(out)["sections"].items()))
    image, *_, label = reader.Reader(parse_url(str(out / where["file"])))()
    meta = label.metadata
    assert [axis.get("unit") for axis in meta["axes"]] == ["micrometer", "micrometer"]
    scale, shift = (meta["coordinateTransformations"][0][k] for k in (0, 1))
    row = rows_of(table, section)[0]
    um = table.obs[["y_um", "x_um"]].to_numpy(float)[row]
    where = tuple(np.round((um - shift["translation"]) / scale["scale"]).astype(int))
    value = int(np.asarray(label.data[0][where]))
    assert meta["properties"][value]["name"] == predicted(table, row)
    assert len(image.data) == len(label.data)


def inside(feature: dict, xy: np.ndarray) -> np.ndarray:
    """Which points lie in a feature: in its outer rings, and not in its holes."""
    shape = feature["geometry"]
    parts = [shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"]
    found = np.zeros(len(xy), bool)
    for outer, *holes in parts:
        here = Outline(outer).contains_points(xy)
        for hole in holes:
            here &= ~Outline(hole).contains_points(xy)
        found |= here
    return found


def test_geojson_has_each_label_at_its_pixel(run, table, tmp_path):
    out = bm.export(run, "geojson", tmp_path / "qupath", target="domains", quiet=True)
    for section, where in record(out)["sections"].items():
        content = json.loads((out / where["file"]).read_text())
        assert content["type"] == "FeatureCollection"
        assert content["properties"]["pixel_um"] == 128
        rows = np.flatnonzero(table.obs["section"] == section)
        pixel = table.obs[["x_um", "y_um"]].to_numpy(float)[rows] / 128
        names = [feature["properties"]["classification"]["name"] for feature in content["features"]]
        assert sorted(names) == sorted(set(names))
        hit = np.stack([inside(feature, pixel) for feature in content["features"]])
        assert (hit.sum(0) <= 1).all()
        right = [names[k] == predicted(table, r) for k, r in zip(hit.argmax(0), rows, strict=True)]
        assert (np.array(right) & hit.any(0)).mean() > 0.95
        for feature in content["features"]:
            made = feature["properties"]
            assert made["objectType"] == "annotation"
            assert made["classification"]["color"] == [3 * QUARTERS.index(made["name"]) + k for k in (1, 2, 3)]


def rings(feature):
    shape = feature["geometry"]
    for part in [shape["coordinates"]] if shape["type"] == "Polygon" else shape["coordinates"]:
        yield from enumerate(part)


def test_polygons_are_valid(run, tmp_path):
    """Closed, no point twice, outer rings one way round and holes the other, none touching another."""
    draw = np.random.default_rng(0)
    mask = draw.random((40, 50)) < 0.55  # holes, islands in holes, and pixels that touch at corners
    found = geojson.polygons(mask)
    assert sum(len(part) > 1 for part in found)
    points = np.concatenate([ring[:-1] for part in found for ring in part])
    assert len(np.unique(points.round(6), axis=0)) == len(points)
    for part in found:
        for number, ring in enumerate(part):
            assert (ring[0] == ring[-1]).all()
            x, y = ring.T
            assert ((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0) == (number == 0)
    centres = np.stack(np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5), -1).reshape(-1, 2)
    drawn = sum(inside({"geometry": {"type": "Polygon", "coordinates": part}}, centres) for part in found)
    assert (drawn.reshape(40, 50) == mask).all()
    square = geojson.polygons(np.ones((3, 4), bool))[0][0]
    assert square.min() == 0
    assert square.max(0).tolist() == [4, 3]


def test_shapely_calls_the_polygons_valid():
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    draw = np.random.default_rng(1)
    mask = draw.random((60, 60)) < 0.5
    whole = shapely.MultiPolygon([(part[0], part[1:]) for part in geojson.polygons(mask)])
    assert whole.is_valid
    assert abs(whole.area - mask.sum()) < 0.6 * mask.sum()


def test_numbers_are_no_polygons(run, tmp_path):
    with pytest.raises(Refused, match="number for every row"):
        bm.export(run, "geojson", tmp_path / "g", target="depth_mm", quiet=True)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------ brains


def share(table, values, rows) -> float:
    return float(np.mean([a == predicted(table, r) for a, r in zip(values, rows, strict=True)]))


def test_nifti_has_each_label_at_its_mm(run, table, tmp_path):
    out = bm.export(run, "nifti", tmp_path / "nii", target="quarter", voxel_mm=0.5, quiet=True)
    for brain, where in record(out)["brains"].items():
        image = nib.load(out / where["file"])
        assert image.header.get_xyzt_units()[0] == "mm"
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        with (out / where["lookup"]).open() as handle:
            names = {int(row["value"]): row["name"] for row in csv.DictReader(handle)}
        rows = np.flatnonzero((table.obs["subject"] == brain).to_numpy() & (np.arange(table.n_obs) % 10 != 0))
        voxel = np.floor(nib.affines.apply_affine(np.linalg.inv(image.affine), table.obsm["xyz"][rows]) + 0.5)
        values = np.asarray(image.dataobj)[tuple(voxel.astype(int).T)]
        assert share(table, [names.get(int(value)) for value in values], rows) > 0.9
    assert set(record(out)["brains"]) == set(table.obs["subject"])


def test_nifti_holds_numbers(run, table, tmp_path):
    out = bm.export(run, "nifti", tmp_path / "nii", target="depth_mm", voxel_mm=0.25, quiet=True)
    for brain, where in record(out)["brains"].items():
        image = nib.load(out / where["file"])
        rows = np.flatnonzero(table.obs["subject"] == brain)
        voxel = np.floor(nib.affines.apply_affine(np.linalg.inv(image.affine), table.obsm["xyz"][rows]) + 0.5)
        values = np.asarray(image.dataobj)[tuple(voxel.astype(int).T)]
        assert np.median(np.abs(values - number_at(table.obsm["xyz"][rows]))) < 0.3
        assert np.isnan(np.asarray(image.dataobj)).any()


def precomputed(folder: Path, level: int) -> ts.TensorStore:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/", "scale_index": level}
    return ts.open(spec, open=True).result()


def test_precomputed_has_each_label_at_its_nm(run, table, tmp_path):
    out = bm.export(run, "precomputed", tmp_path / "ng", target="quarter", voxel_mm=0.5, url="http://h:1/x", quiet=True)
    for brain, where in record(out)["brains"].items():
        folder = out / where["folder"]
        info = json.loads((folder / "info").read_text())
        assert info["type"] == "segmentation"
        assert info["scales"][0]["resolution"] == [500_000] * 3
        assert len(info["scales"]) > 1
        said = json.loads((folder / info["segment_properties"] / "info").read_text())["inline"]
        names = dict(zip(said["ids"], said["properties"][0]["values"], strict=True))
        rows = np.flatnonzero((table.obs["subject"] == brain).to_numpy() & (np.arange(table.n_obs) % 10 != 0))
        for level, scale in enumerate(info["scales"]):
            store = precomputed(folder, level)
            nm = np.array([float(unit.multiplier) for unit in store.dimension_units[:3]])
            voxel = np.floor(table.obsm["xyz"][rows].astype(float) * 1e6 / nm + 1e-4).astype(int)
            values = store[ts.d["channel"][0]].read().result()
            values = values[tuple((voxel - scale["voxel_offset"]).T)]
            assert share(table, [names.get(str(value)) for value in values], rows) > (0.9 if not level else 0.75)
            grid = np.ceil(np.array(scale["size"]) / 64).prod()
            assert len(list((folder / scale["key"]).iterdir())) == grid
        state = json.loads((out / where["state"]).read_text())
        layer = state["layers"][0]
        assert layer["source"] == f"precomputed://http://h:1/x/{where['folder']}"
        assert layer["segmentColors"] == {value: colours(QUARTERS)[name] for value, name in names.items()}
        low, high = table.obsm["xyz"][rows].min(0), table.obsm["xyz"][rows].max(0)
        assert (state["position"] >= low).all()
        assert (state["position"] <= high).all()
        assert state["dimensions"]["x"] == [1e-3, "m"]


def test_precomputed_holds_numbers(run, table, tmp_path):
    out = bm.export(run, "precomputed", tmp_path / "ng", target="depth_mm", voxel_mm=0.5, quiet=True)
    where = next(iter(record(out)["brains"].values()))
    store = precomputed(out / where["folder"], 0)
    assert store.dtype.name == "float32"
    brain = next(iter(record(out)["brains"]))
    rows = np.flatnonzero(table.obs["subject"] == brain)
    voxel = np.floor(table.obsm["xyz"][rows].astype(float) / 0.5 + 1e-4).astype(int)
    info = json.loads((out / where["folder"] / "info").read_text())["scales"][0]
    values = store.read().result()[..., 0][tuple((voxel - info["voxel_offset"]).T)]
    assert np.median(np.abs(values - number_at(table.obsm["xyz"][rows]))) < 0.6


def test_gifti_has_each_label_on_its_vertex(run, table, tmp_path):
    brain = table.obs["subject"].iloc[0]
    rows = np.flatnonzero((table.obs["subject"] == brain).to_numpy() & (np.arange(table.n_obs) % 10 != 0))[:40]
    far = table.obsm["xyz"].max(0) + np.array([[50, 0, 0], [51, 0, 0], [50, 1, 0]])
    vertices = np.concatenate([table.obsm["xyz"][rows].astype(float), far])
    n = len(rows)
    gifti.write(tmp_path / "m.surf.gii", mesh(vertices, np.array([[n, n + 1, n + 2]])))
    out = bm.export(
        run, "gifti", tmp_path / "gii", target="quarter", onto=tmp_path / "m.surf.gii", within_mm=40, quiet=True
    )
    where = record(out)["brains"][brain]
    image = nib.load(out / where["file"])
    names, tints = image.labeltable.get_labels_as_dict(), {one.label: one.rgba for one in image.labeltable.labels}
    values = image.darrays[0].data
    assert [names[value] for value in values[:n]] == [predicted(table, r) for r in rows]
    assert values[n:].tolist() == [0, 0, 0]
    assert where["blank"] == 3
    assert np.allclose(np.array(tints["NE"][:3]) * 255, rgb(colours(QUARTERS)["NE"]), atol=0.5)
    numbers = bm.export(
        run, "gifti", tmp_path / "num", target="depth_mm", onto=tmp_path / "m.surf.gii", within_mm=40, quiet=True
    )
    shown = nib.load(numbers / record(numbers)["brains"][brain]["file"]).darrays[0].data
    assert np.allclose(shown[:n], number_at(table.obsm["xyz"][rows]), atol=1e-3)
    assert np.isnan(shown[n:]).all()
    with pytest.raises(Usage, match="how far"):
        bm.export(run, "gifti", tmp_path / "no", target="quarter", onto=tmp_path / "m.surf.gii", quiet=True)
    gifti.write(tmp_path / "far.surf.gii", mesh(far + 500, np.array([[0, 1, 2]])))
    with pytest.raises(Refused, match="mesh of another space"):
        bm.export(
            run, "gifti", tmp_path / "no", target="quarter", onto=tmp_path / "far.surf.gii", within_mm=1, quiet=True
        )


# ------------------------------------------------------------------------------------------------------------ tables


def test_csv_holds_every_row_with_its_units(run, table, tmp_path):
    out = bm.export(run, "csv", tmp_path / "t.csv", features=True, quiet=True)
    read = pd.read_csv(out, dtype=dict.fromkeys(("x_um", "y_um", "x_mm", "y_mm", "z_mm"), np.float32))
    assert read["id"].tolist() == table.obs["id"].astype(str).tolist()
    assert (read[["x_mm", "y_mm", "z_mm"]].to_numpy() == table.obsm["xyz"]).all()
    assert (read[["x_um", "y_um"]].to_numpy() == table.obs[["x_um", "y_um"]].to_numpy(np.float32)).all()
    names = quarters(table.obs).to_numpy()
    assert read["predicted_quarter"].isna().to_numpy().nonzero()[0].tolist() == list(range(0, table.n_obs, 10))
    assert (read["predicted_quarter"].dropna().to_numpy() == np.delete(names, np.s_[::10])).all()
    assert (read["predicted_domain_4"].to_numpy() == names).all()
    assert np.allclose(read["predicted_depth_mm"], number_at(table.obsm["xyz"]))
    assert np.allclose(read.filter(like="feature_").to_numpy(), np.asarray(table.X, float), rtol=1e-6)
    about = record(out)
    assert set(about["columns"]) == set(read.columns)
    assert about["columns"]["z_mm"] == {"unit": "mm", "space": "phantom", "axis": "s"}
    assert about["columns"]["x_um"]["unit"] == "um"
    assert about["columns"]["predicted_depth_mm"]["unit"] == "mm"


def test_a_table_is_the_same_in_blocks(run, tmp_path, monkeypatch):
    whole = bm.export(run, "csv", tmp_path / "a.csv", features=True, quiet=True).read_bytes()
    monkeypatch.setattr(tables, "_ROWS", 7)
    assert bm.export(run, "csv", tmp_path / "b.csv", features=True, quiet=True).read_bytes() == whole


def test_parquet_needs_its_library(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "find_spec", lambda _: None)
    with pytest.raises(Usage, match=r"brodmann\[parquet\]"):
        bm.export(run, "parquet", tmp_path / "t.parquet", quiet=True)


def test_parquet_is_the_table(run, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    out = bm.export(run, "parquet", tmp_path / "t.parquet", quiet=True)
    other = pd.read_csv(bm.export(run, "csv", tmp_path / "t.csv", quiet=True))
    read = pd.read_parquet(out)
    assert list(read.columns) == list(other.columns)
    assert (
        read["predicted_quarter"].astype(object).fillna("").tolist() == other["predicted_quarter"].fillna("").tolist()
    )
    assert np.allclose(read["z_mm"], other["z_mm"])


def test_vitessce_leads_to_what_it_shows(run, table, tmp_path):
    out = bm.export(run, "vitessce", tmp_path / "v", url="http://h:1", quiet=True)
    config, about = json.loads((out / "vitessce.json").read_text()), record(out)
    (file,) = config["datasets"][0]["files"]
    assert (file["fileType"], file["url"]) == ("anndata.zarr", "http://h:1/rows.zarr")
    store = ad.read_zarr(out / "rows.zarr")
    assert zarr.open_group(str(out / "rows.zarr"), mode="r").metadata.zarr_format == 2
    assert store.obs_names.tolist() == table.obs["id"].astype(str).tolist()
    shift = np.array([about["spatial"]["shift_um"][name] for name in store.obs["section"]])
    assert np.allclose(store.obsm["spatial"] - shift, table.obs[["x_um", "y_um"]], atol=0.5)
    assert about["spatial"]["unit"] == "um"
    boxes = [
        (p.min(0), p.max(0))
        for s in store.obs["section"].unique()
        for p in [store.obsm["spatial"][store.obs["section"] == s]]
    ]
    assert all((a[1] < b[0]).any() or (b[1] < a[0]).any() for k, a in enumerate(boxes) for b in boxes[:k]), (
        "sections overlap"
    )
    assert (store.obsm["xyz"] == table.obsm["xyz"]).all()
    options = file["options"]
    for path in (
        options["obsLocations"]["path"],
        options["obsEmbedding"][0]["path"],
        options["obsFeatureMatrix"]["path"],
    ):
        assert (out / "rows.zarr" / path).is_dir()
    sets = {one["name"]: store.obs[one["path"].removeprefix("obs/")] for one in options["obsSets"]}
    assert sets["quarter"].iloc[0] == "not predicted"
    assert (sets["domain_4"].to_numpy() == quarters(table.obs).to_numpy()).all()
    assert np.allclose(store[:, "depth_mm"].X.ravel(), number_at(table.obsm["xyz"]), atol=1e-3)
    tints = {tuple(one["path"]): one["color"] for one in config["coordinationSpace"]["obsSetColor"]["A"]}
    assert tints["domain_4", "NE"] == [1, 2, 3]
    assert set(tints) == {(name, str(one)) for name, column in sets.items() for one in column.cat.categories}
    for view in config["layout"]:
        for kind, scope in view["coordinationScopes"].items():
            assert scope in config["coordinationSpace"][kind]


def test_vitessce_itself_takes_the_config(run, tmp_path):
    vitessce = pytest.importorskip("vitessce", reason="vitessce is not installed", exc_type=ImportError)
    out = bm.export(run, "vitessce", tmp_path / "v", quiet=True)
    config = json.loads((out / "vitessce.json").read_text())
    assert vitessce.VitessceConfig.from_dict(config).to_dict()["layout"]


# ------------------------------------------------------------------------------------------------------------- cells


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A file of cells, and a run of it in which the first cell is named."""
    home = tmp_path_factory.mktemp("cells")
    patch = pytest.MonkeyPatch()
    patch.setenv("BRODMANN_CACHE", str(home / "cache"))
    data = cells(150)
    data.obs["kind"] = pd.Categorical(["x"] * data.n_obs)
    data.write_h5ad(home / "own.h5ad")
    recipe = bm.recipe("cells-tiny", {"fit.steps": 1, "fit.warmup_steps": 1, "fit.batch": 2, "samples.components": 4})
    run = bm.fit(recipe, home / "own.h5ad", home / "run", quiet=True)
    found = bm.embed(run, controls=False, quiet=True)
    planted(run, "areas", "quarter", quarters(found.obs).drop(found.obs["id"].iloc[0]), classes=QUARTERS)
    yield run, home / "own.h5ad"
    patch.undo()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_h5ad_is_a_copy_with_the_results_by_name(measured, tmp_path):
    run, own = measured
    new = ad.read_h5ad(own)[:3].copy()
    new.obs_names = ["new1", "new2", "new3"]
    extra = ad.concat([ad.read_h5ad(own), new])
    extra = extra[np.random.default_rng(3).permutation(extra.n_obs)].copy()  # another order, and cells of its own
    extra.uns["mine"] = "kept"
    extra.write_h5ad(tmp_path / "more.h5ad")
    before = digest(tmp_path / "more.h5ad")
    out = bm.export(run, "h5ad", tmp_path / "out.h5ad", onto=tmp_path / "more.h5ad", quiet=True)
    assert digest(tmp_path / "more.h5ad") == before
    read, table = ad.read_h5ad(out), bm.table(run)
    assert read.obs_names.tolist() == extra.obs_names.tolist()
    assert (read.X != extra.X).nnz == 0
    assert read.uns["mine"] == "kept"
    names = quarters(table.obs)
    row = {name: k for k, name in enumerate(table.obs["id"])}
    for k, name in enumerate(read.obs_names):
        if name in row:
            assert (read.obsm["X_brodmann"][k] == np.asarray(table.X[row[name]], np.float32)).all()
            if row[name]:
                assert read.obs["brodmann_quarter"].iloc[k] == names[name]
        else:
            assert np.isnan(read.obsm["X_brodmann"][k]).all()
    blank = set(read.obs_names[read.obs["brodmann_quarter"].isna()])
    assert blank == {"new1", "new2", "new3", table.obs["id"].iloc[0]}
    about = record(out)
    assert (about["cells"], about["cells_with_row"], about["cells_without_row"]) == (303, 300, 3)
    assert json.loads(read.uns["brodmann"]["record"])["space"]["name"] == about["space"]["name"]
    tints = dict(zip(read.obs["brodmann_quarter"].cat.categories, read.uns["brodmann_quarter_colors"], strict=True))
    assert tints == colours(QUARTERS)
    with pytest.raises(Usage, match="not hold an export yet"):
        bm.export(run, "h5ad", tmp_path / "again.h5ad", onto=out, quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"more.h5ad", "out.h5ad", "out.h5ad.json"}


def test_counts_are_never_read(measured, tmp_path, monkeypatch):
    """Only the names of the cells are; the file is the run's own, where none is named."""
    run, own = measured
    asked, read = [], h5ad._read
    monkeypatch.setattr(h5ad, "_read", lambda element: asked.append(element.name) or read(element))
    with h5py.File(own) as file:
        index = file["obs"].attrs["_index"]
    monkeypatch.setattr(ad, "read_h5ad", None)
    bm.export(run, "h5ad", tmp_path / "out.h5ad", quiet=True)
    assert asked == [f"/obs/{index}"]
    with h5py.File(own) as a, h5py.File(tmp_path / "out.h5ad") as b:
        for name in ("data", "indices", "indptr"):
            assert a[f"X/{name}"].id.get_offset() == b[f"X/{name}"].id.get_offset()


def test_cells_of_other_names_are_refused(measured, tmp_path):
    run, _ = measured
    other = cells(150, subject="another")
    other.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(Refused, match="should have the names"):
        bm.export(run, "h5ad", tmp_path / "out.h5ad", onto=tmp_path / "other.h5ad", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["other.h5ad"]


def test_numbers_as_names_must_lie_where_the_run_has_them(measured, tmp_path):
    table = bm.table(measured[0]).copy()
    table.obs["id"] = [str(k) for k in range(table.n_obs)]
    found = SimpleNamespace(table=table, obs=table.obs, say=lambda _: None)
    xy = table.obs[["x_um", "y_um"]].to_numpy(float) * 0.001 + 7  # another unit and corner are no other place
    for name, places in (("same", xy), ("other", np.random.default_rng(0).permutation(xy))):
        some = ad.AnnData(obs=pd.DataFrame(index=table.obs["id"]), obsm={"spatial": places})
        some.write_h5ad(tmp_path / f"{name}.h5ad")
    own = h5ad.names(tmp_path / "same.h5ad")
    assert (h5ad.rows(found, own, tmp_path / "same.h5ad") == np.arange(table.n_obs)).all()
    with pytest.raises(Refused, match="numbers as names"):
        h5ad.rows(found, own, tmp_path / "other.h5ad")


def test_a_file_that_leads_elsewhere_is_refused(measured, tmp_path):
    run, own = measured
    for kind in ("link", "dataset"):
        shutil.copy(own, tmp_path / f"{kind}.h5ad")
    with h5py.File(tmp_path / "link.h5ad", "r+") as file:
        del file["obs"]
        file["obs"] = h5py.ExternalLink(str(own), "/obs")
    with h5py.File(tmp_path / "dataset.h5ad", "r+") as file:
        index = file["obs"].attrs["_index"]
        del file["obs"][index]
        file["obs"].create_dataset(index, shape=(300,), dtype="S1", external=[(str(own), 0, 300)])
    for kind in ("link", "dataset"):
        with pytest.raises(Refused, match="own data"):
            bm.export(run, "h5ad", tmp_path / "out.h5ad", onto=tmp_path / f"{kind}.h5ad", quiet=True)


def test_cells_are_placed_by_their_own_coordinates(measured, tmp_path):
    """Polygons count from where the file's coordinates do; volumes are refused without a common space."""
    run, own = measured
    out = bm.export(run, "geojson", tmp_path / "g", quiet=True, pixel_um=0.5)
    data = ad.read_h5ad(own)
    names, hits = quarters(bm.table(run).obs), []
    for section, where in record(out)["sections"].items():
        mine = data[data.obs["section"] == section]
        content = json.loads((out / where["file"]).read_text())
        for feature in content["features"]:
            here = inside(feature, mine.obsm["spatial"] / 0.5)
            hits += [names[name] == feature["properties"]["name"] for name in mine.obs_names[here]]
    assert len(hits) > 280
    assert np.mean(hits) > 0.95
    with pytest.raises(Refused, match="unregistered"):
        bm.export(run, "nifti", tmp_path / "n", quiet=True)


def test_h5ad_is_for_cells(run, tmp_path):
    with pytest.raises(Usage, match="runs of cells"):
        bm.export(run, "h5ad", tmp_path / "out.h5ad", quiet=True)


# ----------------------------------------------------------------------------------------------- what goes for each


def test_only_an_earlier_export_is_replaced(run, tmp_path, monkeypatch):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "text").write_text("years")
    for replace in (False, True):
        with pytest.raises(Usage):
            bm.export(run, "nifti", precious, target="quarter", replace=replace, quiet=True)
    (tmp_path / "notes.csv").write_text("years")
    with pytest.raises(Usage, match="earlier export"):
        bm.export(run, "csv", tmp_path / "notes.csv", replace=True, quiet=True)
    assert (precious / "text").read_text() == (tmp_path / "notes.csv").read_text() == "years"
    out = bm.export(run, "nifti", tmp_path / "nii", target="quarter", quiet=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(Usage, match="should not be there yet"):
        bm.export(run, "nifti", out, target="quarter", quiet=True)

    def fail(*_, **__):
        raise Refused("no.")

    with monkeypatch.context() as patch:
        patch.setattr("brodmann.exports.record.record", fail)
        with pytest.raises(Refused):
            bm.export(run, "nifti", out, target="domains", replace=True, quiet=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    bm.export(run, "nifti", out, target="domains", replace=True, quiet=True)
    assert set(record(out)["answers"]) == {"domain_4"}
    assert not list(tmp_path.glob("*.partial"))
    table = bm.export(run, "csv", tmp_path / "t.csv", target="quarter", quiet=True)
    bm.export(run, "csv", table, target="domains", replace=True, quiet=True)
    assert set(record(table)["answers"]) == {"domain_4"}


def test_what_a_format_cannot_hold_is_refused_with_what_to_do(run, tmp_path):
    with pytest.raises(Usage, match="--target"):
        bm.export(run, "nifti", tmp_path / "n", quiet=True)
    with pytest.raises(Usage, match="did you mean 'quarter'"):
        bm.export(run, "nifti", tmp_path / "n", target="quartr", quiet=True)
    with pytest.raises(Usage, match="voxel_mm"):
        bm.export(run, "csv", tmp_path / "n", voxel_mm=1, quiet=True)
    with pytest.raises(Usage, match="positive"):
        bm.export(run, "nifti", tmp_path / "n", target="quarter", voxel_mm=-1, quiet=True)
    with pytest.raises(Usage, match="name a folder"):
        bm.export(run, "nifti", tmp_path / "n.nii.gz", target="quarter", quiet=True)
    with pytest.raises(Usage, match="format"):
        bm.export(run, "tiff", tmp_path / "n", quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_score_of_another_table_is_not_exported(run, tmp_path, capsys):
    names = quarters(bm.table(run).obs)
    planted(run, "networks", "stale", names, classes=QUARTERS, of="other")
    try:
        with pytest.raises(Refused, match="another table"):
            bm.export(run, "nifti", tmp_path / "n", target="stale", quiet=True)
        out = bm.export(run, "csv", tmp_path / "t.csv")
        assert "left out stale" in capsys.readouterr().err
        assert "predicted_stale" not in pd.read_csv(out)
    finally:
        with run.lock():
            run.forget("scores/networks-stale.json")
            (run.path / "scores/networks-stale.json").unlink()
            run.seal()


def test_every_question_has_a_name(run, tmp_path):
    """Novelty and a second question about one target stand beside the first."""
    names = quarters(bm.table(run).obs)
    for task, more in (("novelty", {"classes": QUARTERS}), ("networks", {"classes": QUARTERS})):
        planted(run, task, "quarter", names, **more)
    try:
        read = pd.read_csv(bm.export(run, "csv", tmp_path / "t.csv", quiet=True))
        assert [name for name in read if name.startswith("predicted_")] == [
            "predicted_quarter", "predicted_networks-quarter", "predicted_novelty-quarter", "predicted_depth_mm",
            "predicted_domain_4",
        ]  # fmt: skip
        out = bm.export(run, "nifti", tmp_path / "n", target="novelty-quarter", quiet=True)
        assert record(out)["answers"]["novelty-quarter"]["score"]["task"] == "novelty"
    finally:
        with run.lock():
            for task in ("novelty", "networks"):
                run.forget(f"scores/{task}-quarter.json")
                (run.path / f"scores/{task}-quarter.json").unlink()
            run.seal()


def test_the_shell_exports_too(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(run.path), "--to", "csv", "--out", str(tmp_path / "t.csv"), "--target", "quarter"])
    assert not caught.value.code
    assert str(tmp_path / "t.csv") in capsys.readouterr().out
    assert set(record(tmp_path / "t.csv")["answers"]) == {"quarter"}
    assert cli.Format == exports.Format
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(run.path), "--to", "nifti", "--out", str(tmp_path / "n"), "--target", "nothing"])
    assert caught.value.code == 2


def test_names_from_files_stay_in_their_folder():
    from brodmann.exports.record import stems

    made = stems(["../../etc/passwd", ".hidden", "a/b", "a_b", "A_B", "", "é"])
    assert len({name.lower() for name in made.values()}) == len(made)
    assert not any("/" in name or name.startswith(".") or not name for name in made.values())
