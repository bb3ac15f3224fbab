"""Labels that leave the table must land where they were, under their own names and colours."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from brodmann.errors import Refused, SpaceMismatch
from brodmann.maps import colours as of
from brodmann.maps.drawing import LEGIBLE, canvas, round_length, save
from brodmann.maps.embedding import embedding, plane
from brodmann.maps.figures import baselines, confusion, confusion_table, learning
from brodmann.maps.labels import Key, aligned
from brodmann.maps.section import label_image, overlay, paint
from brodmann.maps.sheets import contact, strips
from brodmann.maps.volume import affine, volume
from brodmann.space import PHANTOM, Space, unregistered

NAMES = ["V1", "V2", "S1", "M1", "<img src=x onerror=alert(1)>"]


@dataclass
class Sheet:
    """A section whose pixels count columns, so that a shifted overview is seen."""

    id: str
    subject: str
    y_mm: float
    width_um: float = 6000.0
    height_um: float = 4000.0

    def overview(self, pixel_um: float) -> NDArray[np.uint8]:
        width, height = round(self.width_um / pixel_um), round(self.height_um / pixel_um)
        return np.broadcast_to((np.arange(width) * 200 // width + 40).astype(np.uint8), (1, height, width)).copy()

    def place(self, xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([xy_um[:, 0] / 1000 - 3, np.full(len(xy_um), self.y_mm), 2 - xy_um[:, 1] / 1000])


def brain(names: list[str] = NAMES, spacing_um: float = 250.0) -> tuple[ad.AnnData, list[Sheet]]:
    """Four sections of two brains in vertical stripes of areas; the table's rows and the sections."""
    generator = np.random.default_rng(0)
    sections = [Sheet(f"B{b}_s{s}", f"B{b}", 1.5 * s) for b in range(2) for s in range(2)]
    rows: list[pd.DataFrame] = []
    for section in sections:
        x, y = np.meshgrid(np.arange(500, 5600, spacing_um), np.arange(500, 3600, spacing_um))
        xy = np.column_stack([x.ravel(), y.ravel()])
        stripe = (xy[:, 0] * len(names) / section.width_um).astype(int)
        place = section.place(xy)
        frame = {"subject": section.subject, "section": section.id, "x_um": xy[:, 0], "y_um": xy[:, 1]}
        rows.append(pd.DataFrame({**frame, "x_mm": place[:, 0], "y_mm": place[:, 1], "z_mm": place[:, 2], "k": stripe}))
    obs = pd.concat(rows, ignore_index=True)
    obs["id"] = [f"{s}/{i:05d}" for i, s in enumerate(obs["section"])]
    obs["area"] = pd.Categorical(np.array(names)[obs["k"]])
    x = (np.eye(len(names))[obs.pop("k")] @ generator.normal(size=(len(names), 12))) * 2
    obs.index = pd.Index(obs["id"].to_numpy())
    table = ad.AnnData(X=(x + generator.normal(size=x.shape)).astype(np.float16), obs=obs)
    table.obsm["xyz"] = obs[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float32)
    table.uns["space"] = {"name": PHANTOM.name, "unit": "mm", "orientation": PHANTOM.orientation}
    return table, sections


@pytest.fixture(scope="module")
def found() -> tuple[ad.AnnData, list[Sheet]]:
    return brain()


# ---------------------------------------------------------------- colours


def test_colours_depend_on_the_set_of_names_only() -> None:
    names = [f"area {i}" for i in range(40)]
    shuffled = [*reversed(names), *names[:5]]
    assert of.colours(names) == of.colours(shuffled)
    assert len(set(of.colours(names).values())) == 40
    assert len(set(of.colours([f"r{i}" for i in range(120)]).values())) == 120


def test_a_figure_of_few_names_keeps_the_colours_of_the_run() -> None:
    run = of.colours(["M1", "S1", "V1", "V2"])
    assert Key.of(["V1", "M1"], run).mapping == {"M1": run["M1"], "V1": run["V1"]}
    assert of.colours(["V1", "M1"])["V1"] != run["V1"], "the mapping of the run matters, or the test shows nothing"


def test_first_colours_are_apart_for_all_eyes() -> None:
    deuteranope = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    protanope = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    linear = np.array([of.rgb(c) / 255 for c in of.PALETTE[:20]]) ** 2.2
    for sight in (np.eye(3), deuteranope, protanope):
        seen = np.clip(linear @ sight.T, 0, 1) ** (1 / 2.2)
        closest = min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))
        assert closest > 0.06


def test_ink_reads_on_every_colour() -> None:
    for colour in [*of.PALETTE, *of.NETWORKS.values()]:
        lights = sorted([of.luminance(colour), of.luminance(of.ink(colour))])
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


def test_names_sort_as_people_count() -> None:
    assert sorted(["L10", "L2", "L1", "WM"], key=of.natural) == ["L1", "L2", "L10", "WM"]


# ---------------------------------------------------------------- alignment


def test_predictions_are_joined_by_id_not_by_order(found: tuple[ad.AnnData, list[Sheet]]) -> None:
    table, _ = found
    shuffled = table.obs["area"].astype(object).sample(frac=1, random_state=1)
    assert (aligned(table, shuffled).to_numpy() == table.obs["area"].to_numpy()).all()
    with pytest.raises(Refused, match="indexed by the table's ids"):
        aligned(table, pd.Series(["V1"], index=["nobody"]))
    with pytest.raises(Refused, match="label column 'arae'"):
        aligned(table, "arae")


# ---------------------------------------------------------------- sections


def test_overlay_has_the_colour_of_the_sample_at_the_sample(found: tuple[ad.AnnData, list[Sheet]]) -> None:
    table, sections = found
    section, pixel = sections[1], 25.0
    key = Key.of(table.obs["area"])
    image, values = overlay(table, "area", section, pixel_um=pixel, opacity=0.5)
    stain = section.overview(pixel)[0]
    here = table.obs[table.obs["section"] == section.id]
    for _, row in here.iterrows():
        i, j = int(row["y_um"] / pixel), int(row["x_um"] / pixel)
        assert key.names[values[i, j] - 1] == row["area"]
        expected = 0.5 * stain[i, j] + 0.5 * of.rgb(key.mapping[row["area"]])
        assert np.abs(image[i, j] - expected).max() <= 1
    assert (values[0] == 0).all(), "no label farther than the reach from a sample"
    assert (image[0, :, 0] == stain[0]).all(), "no colour where there is no label"


def test_samples_outside_the_image_are_refused(found: tuple[ad.AnnData, list[Sheet]]) -> None:
    table = found[0].copy()
    table.obs["x_um"] *= 1000
    with pytest.raises(Refused, match="should lie on section"):
        overlay(table, "area", found[1][0], pixel_um=50)


def test_paint_writes_png_and_svg_with_text(found: tuple[ad.AnnData, list[Sheet]], tmp_path: Path) -> None:
    table, sections = found
    wrong = table.obs["area"].astype(object).copy()
    wrong.iloc[::7] = "V1"
    before = dict(mpl.rcParams)
    path = paint(table, wrong, sections[0], out=tmp_path / "s.png", truth="area", pixel_um=20)
    with Image.open(path) as image:
        assert min(image.size) > 400
    svg = path.with_suffix(".svg").read_text()
    assert ">M1</text>" in svg, "names are editable text"
    assert "&lt;img src=x" in svg
    assert "<img" not in svg
    here = table.obs["section"] == sections[0].id
    assert f"{(wrong[here] == table.obs['area'][here].astype(object)).mean():.0%} of {here.sum()}" in svg
    assert {k: v for k, v in mpl.rcParams.items() if before[k] != v} == {}


def test_ome_zarr_reopens_with_scale_values_and_names(found: tuple[ad.AnnData, list[Sheet]], tmp_path: Path) -> None:
    import zarr

    table, sections = found
    section, pixel = sections[2], 8.0
    path = label_image(table, "area", section, out=tmp_path / "s.ome.zarr", pixel_um=pixel, name="area")
    assert json.loads((path / "zarr.json").read_text())["zarr_format"] == 3
    root: Any = zarr.open_group(str(path), mode="r")
    assert root["labels"].attrs["ome"] == {"version": "0.5", "labels": ["area"]}
    group = root["labels/area"]
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert [axis["unit"] for axis in ome["multiscales"][0]["axes"]] == ["micrometer"] * 2
    names = {item["label-value"]: item["name"] for item in ome["image-label"]["properties"]}
    tones = {item["label-value"]: item["rgba"] for item in ome["image-label"]["colors"]}
    documented = pd.read_csv(tmp_path / "s-area.csv")
    assert dict(zip(documented["value"], documented["name"], strict=True)) == names
    assert {
        v: [*of.rgb(c).astype(int), 255] for v, c in zip(documented["value"], documented["colour"], strict=True)
    } == tones
    here = table.obs[table.obs["section"] == section.id]
    levels = ome["multiscales"][0]["datasets"]
    assert len(levels) > 1
    for level in levels:
        scale, shift = (step[step["type"]] for step in level["coordinateTransformations"])
        values = group[level["path"]][...]
        assert values.dtype == np.uint16
        assert values.shape == tuple(round(side / scale[0]) for side in (section.height_um, section.width_um))
        at = np.rint((here[["y_um", "x_um"]].to_numpy() - shift) / scale).astype(int)
        assert [names[v] for v in values[tuple(at.T)]] == list(here["area"])
        image = root[level["path"]]
        assert image.shape == (1, *values.shape)
        middle = values[np.rint((2000 - shift[0]) / scale[0]).astype(int)]
        steps = np.flatnonzero((middle[1:] != middle[:-1]) & (middle[1:] > 0) & (middle[:-1] > 0))
        borders = shift[1] + scale[1] * (steps + 0.5)  # halfway between samples, 250 um apart from 500 um on
        assert len(borders) == len(NAMES) - 1
        assert np.abs((borders - 625 + 125) % 250 - 125).max() <= scale[1] / 2 + 1e-6
    outer = root.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert outer == [1.0, pixel, pixel]
    again = label_image(table, "area", section, out=path, pixel_um=pixel, name="area")
    assert [p for p in tmp_path.iterdir() if "partial" in p.name] == []
    assert again == path


# ---------------------------------------------------------------- volumes


def test_nifti_finds_each_label_at_its_place(found: tuple[ad.AnnData, list[Sheet]], tmp_path: Path) -> None:
    import nibabel as nib

    table, _ = found
    path = tmp_path / "areas.nii.gz"
    volume(table, "area", PHANTOM, 0.25, out=path)
    image: Any = nib.loadsave.load(path)
    assert nib.orientations.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_intent()[0] == "label"
    assert image.get_data_dtype() == np.uint16
    key = pd.read_csv(tmp_path / "areas.csv").set_index("value")["name"]
    data = np.asarray(image.dataobj)
    xyz = np.asarray(table.obsm["xyz"], dtype=float)
    index = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), xyz)).astype(int)
    at = nib.affines.apply_affine(image.affine, index)
    assert np.abs(at - xyz).max() <= 0.125 + 1e-5, "a voxel's centre is within half a voxel of its sample"
    # the float32 place may round to the next voxel exactly on a border: look at the voxel that holds it
    inside = np.floor((xyz + 1e-6 - (image.affine[:3, 3] - 0.125)) / 0.25).astype(int)
    assert [key[v] for v in data[tuple(inside.T)]] == list(table.obs["area"])
    assert (data > 0).sum() == len(np.unique(inside, axis=0)), "no voxel without a sample"


def test_volume_takes_the_majority_and_fills_within_reach() -> None:
    table = ad.AnnData(X=np.zeros((5, 2), dtype=np.float16))
    table.obs["area"] = ["A", "B", "B", "A", "B"]
    table.obsm["xyz"] = np.array([[0.5, 0.5, 0.5], [0.1, 0.1, 0.1], [0.9, 0.9, 0.2], [1.5, 0.5, 0.5], [1.9, 0.1, 0.1]])
    data = np.asarray(volume(table, "area", PHANTOM, 1.0).dataobj)
    assert data[:, 0, 0].tolist() == [2, 1], "majority; in a tie the sample nearest to the centre wins"
    wide = volume(table, "area", PHANTOM, 1.0, reach_mm=1.0)
    assert np.asarray(wide.dataobj)[1, 1, 2] == 1
    assert np.asarray(wide.dataobj)[0, 0, 0] == 0
    assert wide.affine[:3, 3].tolist() == [-0.5, -0.5, -0.5]


def test_other_orientations_lead_to_ras() -> None:
    import nibabel as nib

    asr = Space(name="x", orientation="pir", extent_mm=(9, 9, 9), origin="corner")
    found = affine(asr, np.array([1.0, 2.0, 3.0]), 0.5)
    assert nib.orientations.aff2axcodes(found) == ("P", "I", "R")
    assert (found @ [0, 0, 0, 1])[:3].tolist() == [3.0, -1.0, -2.0]


def test_volume_refuses_other_spaces_unregistered_sections_and_giants(found: tuple[ad.AnnData, list[Sheet]]) -> None:
    table, _ = found
    with pytest.raises(SpaceMismatch, match="phantom"):
        volume(table, "area", Space(name="ccf_v3", orientation="ras", extent_mm=(9, 9, 9), origin=""), 0.5)
    with pytest.raises(Refused, match="at most"):
        volume(table, "area", PHANTOM, 0.002)
    loose = table.copy()
    del loose.uns["space"]
    with pytest.raises(Refused, match="never registered"):
        volume(loose, "area", unregistered(10, 10), 0.5)


# ---------------------------------------------------------------- figures


def test_confusion_counts_and_puts_the_confused_side_by_side(tmp_path: Path) -> None:
    truth = ["A"] * 10 + ["B"] * 10 + ["C"] * 10 + ["D"] * 10 + [None]
    predicted = ["A"] * 6 + ["D"] * 4 + ["B"] * 7 + ["C"] * 3 + ["C"] * 8 + ["B"] * 2 + ["D"] * 5 + ["A"] * 5 + ["A"]
    counts = confusion_table(pd.Series(truth), pd.Series(predicted))
    assert counts.loc["A", "D"] == 4
    assert counts.loc["B", "C"] == 3
    assert counts.loc["D"].sum() == 10
    assert int(counts.to_numpy().sum()) == 40
    assert list(counts.index) == list(counts.columns)
    order = list(counts.index)
    assert abs(order.index("A") - order.index("D")) == 1
    assert abs(order.index("B") - order.index("C")) == 1
    svg = save(confusion(counts), tmp_path / "c.png", dpi=60).with_suffix(".svg").read_text()
    assert ">A  (10)<" in svg
    for percent in (60, 40, 70, 30, 80, 20, 50):
        assert f">{percent}<" in svg
    assert "65% of 40" in svg


def test_figures_say_their_numbers(tmp_path: Path) -> None:
    n = "9,312 patches, 30 sections"
    bars = baselines(
        {"areas": {"features": (0.512, 0.47, 0.55), "untrained": (0.144, 0.1, 0.2)}}, metric="macro-F1", n=n
    )
    svg = save(bars, tmp_path / "b.png", dpi=60).with_suffix(".svg").read_text()
    assert all(word in svg for word in (">0.512<", ">0.144<", "untrained", "macro-F1", n))


def test_learning_counts_a_repeated_step_once() -> None:
    records = [{"step": s, "loss": 5.0 - s, "lr": 0.1, "top1": 0.5} for s in (0, 1, 2)]
    records.append({"step": 1, "loss": 1.25, "lr": 0.1, "top1": 0.5})
    figure = learning(records)
    raw = figure.axes[0].lines[0]
    assert list(raw.get_xdata()) == [0, 1, 2]
    assert list(raw.get_ydata()) == [5.0, 1.25, 3.0]
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss (nats)", "top1", "learning\nrate"]


def test_plane_is_the_same_again_and_says_how_it_was_made(
    found: tuple[ad.AnnData, list[Sheet]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table, _ = found
    first, again = plane(table, limit=300, method="pca"), plane(table, limit=300, method="pca")
    assert (first.xy == again.xy).all()
    assert len(first.rows) == 300
    assert f"300 of {table.n_obs:,} rows" in first.method
    assert (plane(table, limit=300, method="pca", seed=1).rows != first.rows).any()
    monkeypatch.setattr("brodmann.maps.embedding.find_spec", lambda name: None)
    assert "umap-learn is not installed" in plane(table).method
    with pytest.raises(Refused, match="umap-learn"):
        plane(table, method="umap")
    svg = save(embedding(table, first, labels=["area"]), tmp_path / "e.png", dpi=60).with_suffix(".svg").read_text()
    assert "area  (n = 300)" in svg
    assert "brain  (n = 300)" in svg
    assert "PCA of 300" in svg


def test_sheets_show_every_section_and_mark_other_labels(found: tuple[ad.AnnData, list[Sheet]], tmp_path: Path) -> None:
    table, sections = found
    sheet = contact(table, "area", sections, limit=3)
    assert [axes.get_title(loc="left") for axes in sheet.axes if axes.images] == ["B0_s0", "B1_s0", "B1_s1"]
    assert "3 of 4 sections" in save(sheet, tmp_path / "c.png", dpi=60).with_suffix(".svg").read_text()
    ids = table.obs["id"].tolist()
    same = table.obs.index[table.obs["area"] == table.obs["area"].iloc[0]].tolist()
    other = table.obs.index[table.obs["area"] != table.obs["area"].iloc[0]].tolist()
    drawn = strips(table, {ids[0]: [same[5], other[0]]}, lambda _: np.zeros((1, 16, 16), np.uint8), label="area")
    styles = [axes.spines["left"].get_linestyle() for axes in drawn.axes]
    assert styles[0] == styles[1] == "-"
    assert styles[2] != "-"


@pytest.mark.parametrize("count", [12, 30, 55, 150])
def test_a_legend_shows_every_class_or_says_how_many_it_leaves_out(count: int, tmp_path: Path) -> None:
    table, sections = brain()
    names = np.array([f"area{k:03d}" for k in range(count)])
    table.obs["area"] = pd.Categorical(names[np.arange(table.n_obs) % count])
    paint(table, "area", sections[0], out=tmp_path / "p.png")
    plane_of = plane(table, method="pca")
    drawn = {
        "contact": save(contact(table, "area", sections), tmp_path / "c.png", dpi=60),
        "paint": tmp_path / "p.png",
        "embedding": save(embedding(table, plane_of, labels=["area"]), tmp_path / "e.png", dpi=60),
    }
    for name, path in drawn.items():
        svg = path.with_suffix(".svg").read_text()
        shown = {area for area in names if f">{area}<" in svg}
        more = re.findall(r">and (\d+) more<", svg)
        counted = re.findall(r">(\d+) classes,<", svg)
        assert counted == (["150"] if count > LEGIBLE else []), name
        assert count > LEGIBLE or len(shown) + sum(map(int, more)) == count, name
        assert len(more) == 0 or (count == 55 and len(more) == 1), name


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    contents: list[bytes] = []
    for name in ("a", "b"):
        figure = canvas(2, 1)
        figure.add_subplot().plot([0, 1])
        path = save(figure, tmp_path / f"{name}.png", dpi=50)
        contents += [path.read_bytes(), path.with_suffix(".svg").read_bytes()]
    assert contents[0] == contents[2]
    assert contents[1] == contents[3]


@pytest.mark.parametrize(("about", "length"), [(1.0, 1), (4.9, 2), (5, 5), (0.37, 0.2), (99, 50)])
def test_scale_bars_are_round(about: float, length: float) -> None:
    assert round_length(about) == pytest.approx(length)
