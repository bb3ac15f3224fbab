"""A map of millions of rows reads each once; it keeps what was drawn before, and claims no scale that is not known."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from brodmann import results, verbs
from brodmann.dots import Dots
from brodmann.errors import Refused
from brodmann.maps import outputs
from brodmann.maps.labels import Key, aligned, rows_of
from brodmann.maps.raster import raster, reach_um, visible_reach_um
from brodmann.maps.section import label_image, paint
from brodmann.maps.sheets import contact
from brodmann.patches.recipe import Recipe
from brodmann.run import Run
from brodmann.space import PHANTOM
from brodmann.tasks._score import Estimate, Score

AREAS = ("A", "B", "C")


@dataclass
class Sheet:
    """A blank section."""

    id: str
    subject: str
    width_um: float = 2000.0
    height_um: float = 1500.0

    def overview(self, pixel_um: float) -> NDArray[np.uint8]:
        return np.full((1, round(self.height_um / pixel_um), round(self.width_um / pixel_um)), 200, np.uint8)

    def place(self, xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([xy_um / 1000, np.zeros(len(xy_um))])


def cells(sections: int = 4, brains: int = 2, each: int = 150) -> tuple[ad.AnnData, list[Sheet]]:
    """Samples strewn over sections, their area by x; ids are not in alphabetical order."""
    draw = np.random.default_rng(0)
    sheets = [Sheet(f"B{s * brains // sections}/s{s:02d}", f"B{s * brains // sections}") for s in range(sections)]
    xy = draw.uniform(0, 1, (sections * each, 2)) * (2000, 1500)
    area = np.minimum((xy[:, 0] / 2000 * 3).astype(int), 2)
    obs = pd.DataFrame(
        {
            "id": [f"{7919 * i % 10007:05d}" for i in range(len(xy))],
            "subject": pd.Categorical(np.repeat([one.subject for one in sheets], each)),
            "section": pd.Categorical(np.repeat([one.id for one in sheets], each)),
            "x_um": xy[:, 0].astype(np.float32),
            "y_um": xy[:, 1].astype(np.float32),
            "area": pd.Categorical.from_codes(area, list(AREAS)),
        }
    )
    xyz = np.column_stack([xy / 1000, np.repeat(np.arange(sections), each)]).astype(np.float32)
    obs = obs.assign(x_mm=xyz[:, 0], y_mm=xyz[:, 1], z_mm=xyz[:, 2])
    x = np.eye(3)[area] + draw.normal(0, 0.2, (len(xy), 3))
    table = ad.AnnData(X=x.astype(np.float16), obs=obs.set_index("id", drop=False).rename_axis(None))
    table.obsm["xyz"] = xyz
    about = {"unit": "mm", "orientation": PHANTOM.orientation, "origin": PHANTOM.origin}
    table.uns["space"] = {"name": PHANTOM.name, "extent_mm": list(PHANTOM.extent_mm), **about}
    table.uns["brodmann"] = {"system": "patches", "data": "somewhere", "skipped": []}
    return table, sheets


def scored(table: ad.AnnData, target: str = "area") -> Score:
    """A score of the areas in the second half of the table, one row in ten wrong."""
    half = table.obs.iloc[table.n_obs // 2 :]
    truth = pd.Series(half["area"].astype(object).to_numpy(), index=pd.Index(half["id"], name="id"))
    said = truth.copy()
    said.iloc[::10] = "A"
    return Score(
        task="areas", target=target, metric="macro-F1", value=0.5, interval=(0.4, 0.6), n=len(half), n_groups=2,
        what="patches", split="by brain", classes=AREAS, predicted=said, truth=truth, baselines={"null": Estimate(0.1)},
    )  # fmt: skip


def drawn(out: Path, name: str, table: ad.AnnData, sheets: list[Sheet], **change: Any) -> Path:
    found = scored(table, name)
    results.label_from(table, found)
    given: dict[str, Any] = {
        "table": table, "score": found, "scores": [json.loads(found.to_json())], "pictures": sheets, "recipe_toml": "",
        "environment": {}, "metrics": [], "source_name": "somewhere", "field_mm": 0.5, "neighbours": {},
        "crop": lambda _: np.zeros((1, 8, 8), np.uint8),
    }  # fmt: skip
    return outputs.write(out, f"areas-{name}", **(given | change))


@pytest.fixture(autouse=True)
def no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brodmann.maps.embedding.find_spec", lambda _: None)


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("pixel", [3.0, 11.0, 40.0])
def test_a_pixel_has_the_label_of_the_nearest_sample_within_reach(pixel: float) -> None:
    draw = np.random.default_rng(1)
    xy, values, reach = draw.uniform(-20, 620, (500, 2)), draw.integers(0, 9, 500), 33.0
    shape = int(590 / pixel), int(600 / pixel)
    x, y = np.meshgrid((np.arange(shape[1]) + 0.5) * pixel, (np.arange(shape[0]) + 0.5) * pixel)
    away, nearest = cKDTree(xy).query(np.column_stack([x.ravel(), y.ravel()]))
    expected = np.where(away < reach, values[nearest], 0).reshape(shape)
    assert 0.02 < (expected == 0).mean() < 0.6
    assert (raster(xy, values, shape, pixel_um=pixel, reach_um=reach) == expected).all()


def test_labels_reach_as_far_as_samples_lie_apart() -> None:
    draw = np.random.default_rng(2)
    strewn = draw.uniform(0, 1000, (4000, 2))
    inside = draw.uniform(60, 940, (20_000, 2))
    away = cKDTree(strewn).query(inside)[0]
    assert 0.98 < (away < reach_um(strewn)).mean() < 0.9999, "cells cover their tissue, and little beyond it"
    sheet = Sheet("a", "b", 1000, 1000)
    assert visible_reach_um(strewn, sheet) == reach_um(strewn)
    grid = np.stack(np.meshgrid(np.arange(0, 900, 30.0), np.arange(0, 900, 30.0)), -1).reshape(-1, 2)
    assert reach_um(grid) == pytest.approx(22.5)
    assert visible_reach_um(grid, sheet) == pytest.approx(22.5)
    line = np.column_stack([np.arange(0, 900, 10.0), np.full(90, 300.0)])
    assert reach_um(line) == pytest.approx(7.5)
    assert visible_reach_um(line, sheet) == pytest.approx(20), "a ribbon must be seen"


# ---------------------------------------------------------------- rows


def test_scores_come_to_their_rows_as_categories() -> None:
    table, _ = cells()
    found = scored(table)
    mixed = replace(found, predicted=found.predicted.sample(frac=1, random_state=0))
    results.label_from(table, mixed)
    half = table.n_obs // 2
    for name, values in (("truth", found.truth), ("predicted", found.predicted)):
        assert isinstance(table.obs[name].dtype, pd.CategoricalDtype)
        assert table.obs[name].iloc[:half].isna().all()
        assert (table.obs[name].iloc[half:].astype(object).to_numpy() == values.to_numpy()).all()
    results.label_from(table, replace(found, truth=found.truth[:0]))
    assert table.obs["truth"].isna().all()
    with pytest.raises(Refused, match="a row per row"):
        aligned(table, pd.Categorical(["A"]))
    ids = table.obs["id"].tolist()
    assert rows_of(table, [ids[5], ids[2], "nobody"]) == {ids[2]: 2, ids[5]: 5}


def test_places_that_look_alike_are_sought_among_a_sample_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    table, _ = cells()
    near, among = results._neighbours(table, scored(table))
    assert among == ""
    assert len(near) == 3
    monkeypatch.setattr(results, "_LOOKED", 200)
    some, among = results._neighbours(table, scored(table))
    assert list(some) == list(near)
    assert all(len(found) == 6 for found in some.values())
    assert some != near
    assert among.endswith("of 600 rows")
    whose = table.obs.set_index("id")["subject"]
    assert all(whose[query] != whose[name] for query, found in some.items() for name in found)
    assert results._neighbours(table, replace(scored(table), truth=pd.Series(dtype=object))) == ({}, "")


def test_a_map_copies_no_table_and_reads_no_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nibabel as nib
    import zarr

    table, sheets = cells(sections=6, brains=3)
    control = zarr.create_array(tmp_path / "c.zarr", shape=(table.n_obs, 4), dtype="f4")
    table.obsm["baseline_means"] = control

    def refuse(*_: object) -> None:
        raise AssertionError("the features were copied, or a control was read")

    monkeypatch.setattr(ad.AnnData, "__getitem__", refuse)
    monkeypatch.setattr(ad.AnnData, "copy", refuse)
    monkeypatch.setattr(zarr.Array, "__getitem__", refuse)
    monkeypatch.setattr(zarr.Array, "__array__", refuse)
    report = drawn(tmp_path, "area", table, sheets)
    folder = tmp_path / "maps" / "areas-area"
    assert report == tmp_path / "report.html"
    volumes = {path.name: nib.loadsave.load(path).header["dim"][3] for path in folder.glob("*.nii.gz")}
    assert set(volumes) == {"area_B1.nii.gz", "area_B2.nii.gz"}, "only what was held out"
    assert volumes["area_B1.nii.gz"] < volumes["area_B2.nii.gz"], "one section of the first, two of the second"
    assert {path.name for path in folder.glob("*.ome.zarr")} == {
        f"{s.id.replace('/', '_')}.ome.zarr" for s in sheets[3:]
    }
    assert pd.read_csv(folder / "legend.csv")["name"].tolist() == list(AREAS)


# ---------------------------------------------------------------- sheets


def test_each_brain_has_its_rows_and_pages_hold_what_the_sheet_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, sheets = cells(sections=16, each=10)
    sheet = contact(table, "area", sheets, limit=8, columns=4)
    assert [text.get_text() for text in sheet.texts] == ["B0", "B1", "area · 8 of 16 sections, 160 samples"]
    shown = [axes for axes in sheet.axes if axes.images]
    titles = [axes.get_title(loc="left") for axes in shown]
    assert titles == [f"B{b}/s{s:02d}" for b in range(2) for s in np.linspace(8 * b, 8 * b + 7, 4).round().astype(int)]
    heights = [round(axes.get_position().y0, 4) for axes in shown]
    assert len(set(heights[:4])) == len(set(heights[4:])) == 1
    assert heights[0] > heights[4]
    monkeypatch.setattr(outputs, "_PAGE", 6)
    pages = outputs._pages(tmp_path, table, aligned(table, "area"), sheets, Key.of(AREAS), "Areas")
    assert pages == ["contact-B0-1.png", "contact-B0-2.png", "contact-B1-1.png", "contact-B1-2.png"]
    assert all((tmp_path / page).is_file() for page in pages)


# ---------------------------------------------------------------- scale


@pytest.mark.parametrize("unit", ["um", "arbitrary"])
def test_no_scale_is_claimed_where_none_is_known(unit: Any, tmp_path: Path) -> None:
    import zarr

    table, _ = cells(sections=1, brains=1)
    xy = table.obs[["x_um", "y_um"]].to_numpy()
    picture = Dots("B0/s00", "B0", xy, np.column_stack([xy, xy[:, 0]]) / 1000, unit=unit)
    for axis, low in zip(("x_um", "y_um"), xy.min(axis=0), strict=True):
        table.obs[axis] += 50 - low
    words = paint(table, "area", picture, out=tmp_path / "p.png").with_suffix(".svg").read_text()
    sheet = contact(table, "area", [picture])
    words += " ".join(text.get_text() for axes in sheet.axes for text in axes.texts)
    assert ("mm<" in words, "mm around" in words) == ((unit == "um"),) * 2
    assert words.count("scale not known") == (0 if unit == "um" else 2)
    path = label_image(table, "area", picture, out=tmp_path / "s.ome.zarr", pixel_um=20)
    ome = zarr.open_group(str(path), mode="r")["labels/labels"].attrs["ome"]
    assert [axis.get("unit") for axis in ome["multiscales"][0]["axes"]] == ["micrometer" if unit == "um" else None] * 2


# ---------------------------------------------------------------- runs


def test_a_second_map_keeps_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, sheets = cells()
    run = Run.open(
        tmp_path / "run", recipe=Recipe(), system="patches", data_fingerprint="f" * 64, data="d", say=lambda _: None
    )
    with run.lock():
        for name in ("area", "layer"):
            scored(table, name).save(run.path)
        run.seal()
    source = SimpleNamespace(name="somewhere", remarks=["y was turned <upside> down"])
    shown = SimpleNamespace(pictures=lambda _: sheets, window=lambda *_: (0.5, lambda _: np.zeros((1, 8, 8), np.uint8)))
    monkeypatch.setattr(verbs, "table", lambda _: table)
    monkeypatch.setattr(verbs, "trained", lambda _: (Recipe(), None))
    monkeypatch.setattr(verbs, "open_source", lambda *_: source)
    monkeypatch.setattr(results, "system", lambda _: shown)
    monkeypatch.setattr(outputs, "_PAINTED", 1)
    monkeypatch.setattr(outputs, "_figures", lambda out, *_, **__: (out / "embedding.png").write_bytes(b"f") and [])
    report = results.map(run, "area", quiet=True)
    first = (run.path / "maps/areas-area/contact.png").read_bytes()
    assert "Other maps" not in report.read_text()
    assert results.map(run, "layer", quiet=True) == report
    page = report.read_text()
    assert "<title>areas: layer on somewhere</title>" in page
    assert page.index("maps/areas-area.") > page.index("Other maps of this run")
    assert "y was turned &lt;upside&gt; down" in page
    assert (run.path / "maps/areas-area/contact.png").read_bytes() == first
    run.verify()
    results.map(run, "area", quiet=True)
    assert "maps/areas-layer." in report.read_text()
    run.verify()
    listed = json.loads((run.path / "manifest.json").read_text())["files"]
    for name in ("area", "layer"):
        assert f"maps/areas-{name}/contact.png" in listed
        assert f"figures/areas-{name}/embedding.png" in listed
