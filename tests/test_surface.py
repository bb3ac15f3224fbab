"""A surface shows what the table says at its vertices, and nothing where no row is near."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from brodmann import phantom
from brodmann.cortex import gifti
from brodmann.cortex.mesh import Mesh, mesh
from brodmann.errors import Refused, SpaceMismatch, Usage
from brodmann.maps import surface as of
from brodmann.maps.colours import colours, rgb
from brodmann.maps.drawing import save
from brodmann.maps.labels import Key
from brodmann.maps.rendering import FLAT, View, render
from brodmann.phantom import folded
from brodmann.phantom.areas import NAMES
from brodmann.space import CCF_V3, PHANTOM

RED, BLUE = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])


def plane(side_mm: float = 10.0, step_mm: float = 0.5, z_mm: float = 0.0) -> Mesh:
    """A flat square sheet that faces up."""
    at = np.arange(0, side_mm + step_mm / 2, step_mm)
    n = len(at)
    x, y = (axis.ravel() for axis in np.meshgrid(at, at, indexing="ij"))
    number = np.arange(n * n).reshape(n, n)
    a, b, c, d = (one.ravel() for one in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    return mesh(np.column_stack([x, y, np.full(n * n, z_mm)]), np.concatenate([np.c_[a, b, c], np.c_[a, c, d]]))


def rows(count: int = 60, width_mm: float = 6.0) -> ad.AnnData:
    """Rows strewn over a part of the sheet, left half A, right half B, every seventh without a label."""
    draw = np.random.default_rng(0)
    xyz = np.column_stack([draw.uniform(0, width_mm, count), draw.uniform(0, 10, count), draw.normal(0, 0.1, count)])
    names = np.where(xyz[:, 0] < width_mm / 2, "A", "B").astype(object)
    names[::7] = None
    obs = pd.DataFrame({"id": [f"r{i}" for i in range(count)], "subject": "B1", "area": pd.Categorical(names)})
    table = ad.AnnData(X=draw.normal(size=(count, 5)).astype(np.float16), obs=obs.set_index("id", drop=False))
    table.obs.index.name = None
    table.obsm["xyz"] = xyz.astype(np.float32)
    about = {"unit": "mm", "orientation": PHANTOM.orientation, "origin": PHANTOM.origin}
    table.uns["space"] = {"name": PHANTOM.name, "extent_mm": list(PHANTOM.extent_mm), **about}
    return table


@pytest.fixture(scope="module")
def source() -> Any:
    return phantom.sections(brains=1, sections_per_brain=3, native_um=64.0)


# ---------------------------------------------------------------- projection


def test_a_vertex_takes_its_nearest_row_and_stays_blank_beyond_the_distance() -> None:
    table, sheet = rows(), plane()
    found = of.project(table, sheet, PHANTOM, within_mm=0.8)
    away = np.linalg.norm(sheet.vertices[:, None] - np.asarray(table.obsm["xyz"], float)[None], axis=2)
    near = away.min(axis=1) <= 0.8
    assert 0.2 < near.mean() < 0.8
    assert (found.row == np.where(near, away.argmin(axis=1), -1)).all()
    assert np.allclose(found.away_mm[near], away.min(axis=1)[near])
    assert found.covered == near.mean()
    values, key = of.labels_at(table, "area", found)
    said = table.obs["area"].astype(object).where(table.obs["area"].notna(), None).to_numpy()
    names = np.array([None, *key.names], dtype=object)[values]
    assert (names == np.where(near, said[away.argmin(axis=1)], None)).all()
    assert (values[sheet.vertices[:, 0] > 7.5] == 0).all(), "nothing is known there"


def test_a_row_at_exactly_the_distance_counts() -> None:
    table = rows(1)
    table.obsm["xyz"] = np.array([[5.0, 5.0, 2.0]], np.float32)
    assert (of.project(table, plane(), PHANTOM, within_mm=2.0).row >= 0).sum() == 1


def test_rows_of_one_brain_only() -> None:
    table, sheet = rows(), plane()
    some = np.arange(0, 60, 3)
    found = of.project(table, sheet, PHANTOM, within_mm=3.0, rows=some)
    assert set(found.row[found.row >= 0]) <= set(some)
    own = of.project(table[some].copy(), sheet, PHANTOM, within_mm=3.0)
    assert (np.append(some, -1)[own.row] == found.row).all()


def test_a_projection_refuses_other_spaces_no_distance_and_nothing_near() -> None:
    table, sheet = rows(), plane()
    with pytest.raises(SpaceMismatch, match="ccf_v3"):
        of.project(table, sheet, CCF_V3, within_mm=1.0)
    with pytest.raises(Refused, match="positive number of mm"):
        of.project(table, sheet, PHANTOM, within_mm=0.0)
    with pytest.raises(Refused, match="from the surface"):
        of.project(table, plane(z_mm=30.0), PHANTOM, within_mm=1.0)


# ---------------------------------------------------------------- files


def test_labels_come_back_from_gifti_with_names_and_colours(tmp_path: Path) -> None:
    table, sheet = rows(), plane()
    at = of.project(table, sheet, PHANTOM, within_mm=0.8)
    key = Key.of(["A", "B", "C"])
    path = of.write_labels(tmp_path / "area.label.gii", table, "area", at, key=key)
    image: Any = nib.loadsave.load(path)
    held = image.get_arrays_from_intent("NIFTI_INTENT_LABEL")
    assert len(held) == 1
    assert held[0].meta["Name"] == "area"
    names = image.labeltable.get_labels_as_dict()
    nearest = cKDTree(np.asarray(table.obsm["xyz"], float)).query(sheet.vertices)
    said = table.obs["area"].astype(object).to_numpy()
    for value, row, away in zip(held[0].data, nearest[1], nearest[0], strict=True):
        known = away <= 0.8 and isinstance(said[row], str)
        assert names[value] == (said[row] if known else "???")
    colour = {entry.label: entry.rgba for entry in image.labeltable.labels}
    for name, text in key.mapping.items():
        assert np.allclose(colour[name], [*(rgb(text) / 255), 1.0], atol=1e-6)
    assert colour["???"][3] == 0
    values, told = gifti.read_labels(path, sheet)
    assert (values == held[0].data).all()
    assert told == {0: "???", 1: "A", 2: "B", 3: "C"}
    assert pd.read_csv(tmp_path / "area.csv")["name"].tolist() == ["A", "B", "C"]


def test_numbers_come_back_from_gifti_and_blanks_are_nan(tmp_path: Path) -> None:
    table, sheet = rows(), plane()
    at = of.project(table, sheet, PHANTOM, within_mm=0.8)
    depth = np.linspace(1, 2, 60)
    path = of.write_numbers(tmp_path / "x.func.gii", {"depth_mm": depth}, at)
    image: Any = nib.loadsave.load(path)
    assert [part.meta["Name"] for part in image.darrays] == ["depth_mm", "distance_mm"]
    held, away = (part.data for part in image.darrays)
    assert np.isnan(held[at.row < 0]).all()
    assert np.allclose(held[at.row >= 0], depth[at.row[at.row >= 0]], atol=1e-6)
    assert np.allclose(away[at.row >= 0], at.away_mm[at.row >= 0], atol=1e-6)
    with pytest.raises(Refused, match=r"end in \.func\.gii"):
        of.write_numbers(tmp_path / "x.gii", {"depth_mm": depth}, at)
    with pytest.raises(Refused, match="one set of labels"):
        gifti.read_labels(path)


def test_a_label_without_a_name_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="should have a name"):
        gifti.write_labels(tmp_path / "x.label.gii", np.array([0, 3]), {"A": "#FF0000"})


# ---------------------------------------------------------------- the phantom's surface


def test_the_folded_surface_is_where_the_sections_say_and_knows_their_areas(source: Any) -> None:
    whole = folded.surfaces(source)["B1"]
    points = pd.concat([section.points for section in source.sections])
    away, at = cKDTree(whole.mesh.vertices).query(points[["x_mm", "y_mm", "z_mm"]].to_numpy())
    assert away.max() < 0.25, "points on mid-cortex lie on the mesh, to its spacing"
    true = whole.truth.iloc[at]
    inside = points["border_mm"].to_numpy() > 0.6
    assert inside.sum() > 100
    assert (true["area"].to_numpy() == points["area"].to_numpy())[inside].all()
    for name in ("u_true_mm", "v_true_mm", "u_mm", "s_mm", "t_mm"):
        assert np.abs(true[name].to_numpy() - points[name].to_numpy()).max() < 0.35, name
    assert np.abs(true["thickness_mm"].to_numpy() - points["thickness_mm"].to_numpy()).max() < 0.3
    assert set(whole.truth["area"]) == set(NAMES)


def test_the_folded_surface_faces_the_pia_and_unfolds_to_the_sheet(source: Any) -> None:
    whole = folded.surfaces(source, step_mm=0.5)["B1"]
    brain = source.sections[0].brain
    normal = brain.at(brain.surface[..., 9:12], whole.flat_mm)
    assert (whole.mesh.normals * normal).sum(axis=1).min() > 0.8
    assert whole.flat().areas.sum() == pytest.approx(60 * 40)
    assert whole.mesh.areas.sum() > 60 * 40 * 0.95
    assert whole.mesh.euler == 1
    with pytest.raises(Usage, match="multiple"):
        folded.surfaces(source, step_mm=0.7)


def test_a_folded_brain_is_written_and_read(source: Any, tmp_path: Path) -> None:
    whole = folded.surfaces(source, step_mm=1.0)["B1"]
    paths = folded.write(whole, tmp_path / "out", colours=colours(NAMES))
    assert [path.name for path in paths] == [
        "B1.mid.surf.gii", "B1.flat.surf.gii", "B1.area.label.gii", "B1.truth.func.gii",
    ]  # fmt: skip
    back = gifti.read(paths[0])
    assert np.allclose(back.vertices, whole.mesh.vertices, atol=1e-4)
    assert (back.faces == whole.mesh.faces).all()
    values, names = gifti.read_labels(paths[2], back)
    assert [names[value] for value in values.tolist()] == whole.truth["area"].tolist()
    assert np.allclose(gifti.read_values(paths[3], back)[:, 2], whole.truth["thickness_mm"], atol=1e-5)


# ---------------------------------------------------------------- pictures


def test_a_sphere_is_as_large_as_it_is() -> None:
    from scipy.spatial import ConvexHull

    points = np.random.default_rng(0).normal(size=(3000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True) / 5.0
    hull = ConvexHull(points)
    middle = points[hull.simplices].mean(axis=1)
    cross = np.cross(points[hull.simplices[:, 1]] - points[hull.simplices[:, 0]],
                     points[hull.simplices[:, 2]] - points[hull.simplices[:, 0]])  # fmt: skip
    faces = np.where(((cross * middle).sum(axis=1) > 0)[:, None], hull.simplices, hull.simplices[:, ::-1])
    for view in (View(0, 0), View(37, 50), View(-90, 90)):
        drawn = render(points, faces.astype(np.int64), np.tile(RED, (3000, 1)), view, pixel_mm=0.05)
        assert (drawn.vertex >= 0).sum() * 0.05**2 == pytest.approx(np.pi * 25, rel=0.01)
        front = points[drawn.vertex[drawn.vertex >= 0]] @ view.axes[2]
        assert front.min() > -0.5, "the far half of the sphere is hidden"


def test_what_is_in_front_hides_what_is_behind_whatever_their_order() -> None:
    low, high = plane(4.0, z_mm=0.0), plane(4.0, z_mm=2.0)
    both = np.concatenate([low.vertices, high.vertices])
    colour = np.repeat([RED, BLUE], len(low.vertices), axis=0)
    for order in (1, -1):
        faces = np.concatenate([low.faces, high.faces + len(low.vertices)][::order])
        drawn = render(both, faces, colour, FLAT, pixel_mm=0.1, lit=False)
        inner = drawn.image[10:-10, 10:-10]
        assert np.allclose(inner, BLUE)
    below = render(both, faces, colour, View(-90, -90), pixel_mm=0.1, lit=False)
    assert (below.vertex < 0).all(), "from below nothing is painted"
    assert np.allclose(below.image[20, 20], 0.63, atol=0.03)


def test_a_picture_has_its_axes_the_right_way_and_mixes_no_colours() -> None:
    sheet = plane(8.0)
    right = sheet.vertices[:, 0] > 4
    top = sheet.vertices[:, 1] > 4
    colour = np.stack([right, top, np.zeros(len(right))], axis=1).astype(float)
    drawn = render(sheet.vertices, sheet.faces, colour, FLAT, pixel_mm=0.1, lit=False)
    high, wide = drawn.image.shape[:2]
    assert np.allclose(drawn.image[high // 4, 3 * wide // 4], [1, 1, 0]), "right and top"
    assert np.allclose(drawn.image[3 * high // 4, wide // 4], [0, 0, 0]), "left and bottom"
    # seen from behind, the first axis leads to the right; from the front to the left
    upright = mesh(sheet.vertices[:, [0, 2, 1]], sheet.faces)
    for azimuth, mirrored in ((-90, False), (90, True)):
        faces = upright.faces if azimuth == -90 else upright.faces[:, ::-1]
        seen = render(upright.vertices, np.ascontiguousarray(faces), colour, View(azimuth, 0), pixel_mm=0.1, lit=False)
        assert (seen.vertex >= 0).any()
        pick = seen.image[high // 4, wide // 4 if mirrored else 3 * wide // 4]
        assert np.allclose(pick, [1, 1, 0]), azimuth
    fine = render(sheet.vertices, sheet.faces, colour, FLAT, pixel_mm=0.03, lit=False)
    inner = fine.image[20:-20, 20:-20].reshape(-1, 3)
    share = np.isclose(inner, 0) | np.isclose(inner, 1)
    assert share.all(axis=1).mean() > 0.98


def test_a_figure_shows_classes_blanks_and_numbers(tmp_path: Path) -> None:
    table, sheet = rows(), plane()
    at = of.project(table, sheet, PHANTOM, within_mm=0.8)
    values, key = of.labels_at(table, "area", at)
    paintings = [
        of.classes("areas", values, key),
        of.numbers("depth", at.of(np.linspace(1, 2, 60), np.nan), "depth, mm"),
        of.components("components", np.asarray(table.X), at),
    ]
    for painting, blank in zip(paintings, (values == 0, at.row < 0, at.row < 0), strict=True):
        assert np.allclose(painting.rgb[blank] * 255, rgb(of.BLANK))
        assert not np.isclose(painting.rgb[~blank] * 255, rgb(of.BLANK)).all(axis=1).any()
    figure = of.draw(
        sheet, paintings, views=(View(-60, 40, "from above"),), flat=sheet.vertices[:, :2], title="A sheet",
        note=of.summary(at, rows=60),
    )  # fmt: skip
    svg = save(figure, tmp_path / "s.png", dpi=100).with_suffix(".svg").read_text()
    for word in (">A<", ">B<", ">nothing near<", ">depth, mm<", ">A sheet<", ">from above<", ">unfolded<", " mm<"):
        assert word in svg, word
    assert f"{at.covered:.0%} of the vertices have one" in svg
    pixels = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).reshape(-1, 3)
    for colour in (*key.colours, of.BLANK):
        assert (np.abs(pixels.astype(int) - rgb(colour)).max(axis=1) <= 3).sum() > 200, colour
    with pytest.raises(Refused, match="a colour per vertex"):
        of.draw(plane(4.0), paintings)
