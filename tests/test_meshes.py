"""A map is painted onto a user's meshes: each vertex shows its brain's nearest prediction, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from brodmann import cli, results, verbs
from brodmann.cortex import gifti
from brodmann.cortex.mesh import Mesh, mesh
from brodmann.errors import Corrupt, Refused, Usage
from brodmann.maps import meshes, outputs
from brodmann.maps.colours import colours, rgb
from brodmann.patches.recipe import Recipe
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.space import PHANTOM, Space
from brodmann.tasks._score import Estimate, Score

HALVES = ("back", "front")
WITHIN_MM = 1.2


def sheet(up_mm: float, *, flat: bool = False) -> Mesh:
    """A wavy sheet of 20 x 12 mm that faces up; or the same, unfolded."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(0, 20.1, 0.5), np.arange(0, 12.1, 0.5), indexing="ij"))
    number = np.arange(41 * 25).reshape(41, 25)
    a, b, c, d = (one.ravel() for one in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    z = 0 * x if flat else up_mm + np.sin(x)
    return mesh(np.column_stack([x, y, z]), np.concatenate([np.c_[a, b, c], np.c_[a, c, d]]))


def strewn() -> ad.AnnData:
    """Rows of two brains on their sheets, on sections 2 mm apart, none beyond x = 14 mm."""
    draw = np.random.default_rng(0)
    y = np.repeat(np.arange(1.0, 12, 2), 60)
    parts = []
    for brain, up in (("B1", 0.0), ("B2", 0.8)):
        x = draw.uniform(0, 14, len(y))
        parts.append(
            pd.DataFrame({
                "subject": brain, "section": [f"{brain}/s{one:02.0f}" for one in y], "x_um": x * 1000, "y_um": 0.0,
                "x_mm": x, "y_mm": y, "z_mm": up + np.sin(x) + draw.normal(0, 0.05, len(y)),
            })
        )  # fmt: skip
    obs = pd.concat(parts, ignore_index=True)
    obs["id"] = [f"r{7919 * i % 10007:05d}" for i in range(len(obs))]
    table = ad.AnnData(
        X=draw.normal(size=(len(obs), 3)).astype(np.float16), obs=obs.set_index("id", drop=False).rename_axis(None)
    )
    table.obsm["xyz"] = obs[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float32)
    about = {"unit": "mm", "orientation": PHANTOM.orientation, "origin": PHANTOM.origin}
    table.uns["space"] = {"name": PHANTOM.name, "extent_mm": list(PHANTOM.extent_mm), **about}
    table.uns["brodmann"] = {"system": "patches", "data": "somewhere", "skipped": []}
    return table


def keep(run: Run, target: str, said: pd.Series, truth: pd.Series) -> None:
    Score(
        task="areas", target=target, metric="macro-F1", value=0.5, interval=(0.4, 0.6), n=len(said), n_groups=2,
        what="patches", split="brain B2 held out", classes=HALVES, predicted=said, truth=truth,
        baselines={"coordinates only": Estimate(0.7)},
    ).save(run.path)  # fmt: skip


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshes, "draw", lambda *_, **__: [])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Path]:
    """A run of two brains with scores of halves (``half``: of both brains; ``one``: of B2 alone), and their meshes."""
    table = strewn()
    run = Run.open(
        tmp_path / "run", recipe=Recipe(), system="patches", data_fingerprint="f" * 64, data="d", say=lambda _: None
    )
    obs = table.obs
    names = np.where(obs["x_mm"] < 7, *HALVES).astype(object)
    truth = pd.Series(names, index=pd.Index(obs["id"], name="id"), dtype=object)
    said = truth.copy()
    said.iloc[::5] = "back"
    rows = np.arange(len(said)) % 10 != 3
    own = (obs["subject"] == "B2").to_numpy()
    with run.lock():
        keep(run, "half", said[rows], truth[rows])
        keep(run, "one", said[own], truth[own])
        run.seal()
    home = tmp_path / "meshes"
    home.mkdir()
    for brain, up in (("B1", 0.0), ("B2", 0.8)):
        gifti.write(home / f"{brain}.mid.surf.gii", sheet(up))
        gifti.write(home / f"{brain}.flat.surf.gii", sheet(up, flat=True))
    gifti.write_labels(home / "B1.area.label.gii", np.zeros(9, np.int32), {"x": "#FF0000"})
    pictures = [SimpleNamespace(id=name, subject=name[:2]) for name in obs["section"].unique()]
    shown = SimpleNamespace(pictures=lambda _: pictures, window=lambda *_: (0.5, lambda _: np.zeros((1, 8, 8))))
    source = SimpleNamespace(name="somewhere", remarks=[])
    monkeypatch.setattr(verbs, "table", lambda _: table)
    monkeypatch.setattr(verbs, "trained", lambda _: (Recipe(), None))
    monkeypatch.setattr(verbs, "open_source", lambda *_: source)
    monkeypatch.setattr(results, "system", lambda _: shown)
    for name in ("_sections", "_figures"):
        monkeypatch.setattr(outputs, name, lambda *_, **__: [])
    return run, home


def planted(run: Run, target: str, brain: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, predictions and truth of the rows of a brain that were predicted."""
    table, score = verbs.table(run), Score.load(run.path / "scores" / f"areas-{target}.json")
    obs = table.obs
    some = (obs["subject"] == brain).to_numpy() & obs["id"].astype(str).isin(score.predicted.index).to_numpy()
    ids = obs["id"].astype(str)[some]
    xyz = np.asarray(table.obsm["xyz"], float)[some]
    return xyz, score.predicted[ids].to_numpy(), score.truth[ids].to_numpy()


def held(path: Path) -> tuple[list[str], dict[str, str], Any]:
    """Names on the vertices, what the file says of itself, and the image."""
    image: Any = nib.loadsave.load(path)
    names = image.labeltable.get_labels_as_dict()
    return [names[value] for value in image.darrays[0].data.tolist()], dict(image.darrays[0].meta), image


def due(run: Run, target: str, brain: str, surface: Mesh, within: float) -> tuple[list[str], np.ndarray, np.ndarray]:
    """What each vertex should show, whether it is wrong, and how far it is, by brute force."""
    xyz, said, truth = planted(run, target, brain)
    away, row = cKDTree(xyz).query(surface.vertices)
    near = away <= within
    return (
        np.where(near, said[row], "???").tolist(),
        np.where(near, said[row] != truth[row], np.nan),
        np.where(near, away, np.nan),
    )


# ---------------------------------------------------------------- the verb


def test_each_mesh_shows_the_predictions_of_its_own_brain(made: tuple[Run, Path], tmp_path: Path) -> None:
    run, home = made
    report = results.map(run, "half", surface=[home], within_mm=WITHIN_MM, quiet=True)
    folder = run.path / "maps" / "areas-half"
    assert {path.name for path in folder.glob("*.gii")} == {
        f"half_{brain}.mid.{kind}.gii" for brain in ("B1", "B2") for kind in ("label", "func")
    }, "flat meshes are left out"
    for brain in ("B1", "B2"):
        surface = gifti.read(home / f"{brain}.mid.surf.gii")
        names, wrong, away = due(run, "half", brain, surface, WITHIN_MM)
        found, about, image = held(folder / f"half_{brain}.mid.label.gii")
        assert 0.2 < np.mean([name == "???" for name in names]) < 0.6
        assert found == names
        assert about["space"] == "phantom"
        assert about["within_mm"] == "1.2"
        assert about["brain"] == brain
        assert about["score"].startswith("areas  macro-F1 0.50 [0.40, 0.60]")
        assert "coordinates only 0.70" in about["score"]
        tints = {entry.label: entry.rgba for entry in image.labeltable.labels}
        assert np.allclose(np.array(tints["front"][:3]) * 255, rgb(colours(HALVES)["front"]), atol=0.5)
        numbers: Any = nib.loadsave.load(folder / f"half_{brain}.mid.func.gii")
        assert [part.meta["Name"] for part in numbers.darrays] == ["error", "distance_mm"]
        assert np.array_equal(numbers.darrays[0].data, wrong.astype(np.float32), equal_nan=True)
        assert 0.02 < np.nanmean(wrong) < 0.3
        assert np.allclose(numbers.darrays[1].data, away, atol=1e-4, equal_nan=True)
        picture = run.path / "figures" / "areas-half" / f"surface-{brain}.mid.png"
        pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3).astype(int)
        for name in HALVES:
            near = np.abs(pixels - rgb(colours(HALVES)[name])).max(axis=1) <= 40
            assert near.sum() > 2000, f"{name} is seen"
    page = report.read_text()
    for brain in ("B1", "B2"):
        assert f"{brain} on its surface: {brain}.mid.surf.gii" in page
    assert "of the vertices have one" in page
    run.verify()
    listed = json.loads((run.path / "manifest.json").read_text())["files"]
    assert "maps/areas-half/half_B1.mid.label.gii" in listed
    assert "figures/areas-half/surface-B2.mid.png" in listed
    results.map(run, "half", out=tmp_path / "plain", quiet=True)
    assert not list((tmp_path / "plain").rglob("*.gii")), "without a surface nothing of the kind is written"


@pytest.mark.usefixtures("undrawn")
def test_a_mesh_of_no_brain_shows_every_brain_and_the_reach_follows_from_the_rows(
    made: tuple[Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, home = made
    for side in ("lh", "rh"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "mid.surf.gii").write_bytes((home / "B1.mid.surf.gii").read_bytes())
    with pytest.raises(SystemExit) as ended:
        cli.main([
            "map", str(run.path), "half", "--out", str(tmp_path / "out"),
            "--surface", str(tmp_path / "lh/mid.surf.gii"), "--surface", str(tmp_path / "rh/mid.surf.gii"),
        ])  # fmt: skip
    assert ended.value.code == 0
    capsys.readouterr()
    folder = tmp_path / "out" / "maps" / "areas-half"
    assert {path.name for path in folder.glob("*.label.gii")} == {
        f"half_{brain}_{side}_mid.label.gii" for brain in ("B1", "B2") for side in ("lh", "rh")
    }
    table, surface = verbs.table(run), gifti.read(home / "B1.mid.surf.gii")
    score = Score.load(run.path / "scores" / "areas-half.json")
    told = table.obs["id"].astype(str).isin(score.predicted.index).to_numpy()
    shown = []
    for brain in ("B1", "B2"):
        names, about, _ = held(folder / f"half_{brain}_rh_mid.label.gii")
        own = np.flatnonzero((table.obs["subject"] == brain).to_numpy() & told)
        within = meshes.reach_mm(table, own)
        assert about["within_mm"] == f"{within:g}"
        assert names == due(run, "half", brain, surface, within)[0]
        shown.append(names)
    assert shown[0] != shown[1]


@pytest.mark.usefixtures("undrawn")
def test_a_mesh_of_a_brain_that_was_not_held_out_is_left_out(made: tuple[Run, Path], tmp_path: Path) -> None:
    run, home = made
    results.map(run, "one", out=tmp_path, surface=[home], within_mm=WITHIN_MM, quiet=True)
    assert {path.name for path in (tmp_path / "maps").rglob("*.label.gii")} == {"one_B2.mid.label.gii"}
    with pytest.raises(Refused, match="none in B1"):
        results.map(run, "one", out=tmp_path / "no", surface=[home / "B1.mid.surf.gii"], quiet=True)
    assert not list((tmp_path / "no").rglob("*.png"))


@pytest.mark.usefixtures("undrawn")
def test_what_is_no_mesh_of_these_rows_is_refused_before_anything_is_drawn(
    made: tuple[Run, Path], tmp_path: Path
) -> None:
    run, home = made
    good, sealed = gifti.read(home / "B1.mid.surf.gii"), (run.path / "manifest.json").read_bytes()

    def refused(error: type[Exception], match: str, *surface: Path, within: float | None = None) -> None:
        with pytest.raises(error, match=match):
            results.map(run, "half", surface=surface, within_mm=within, quiet=True)
        assert not (run.path / "maps").exists()
        assert (run.path / "manifest.json").read_bytes() == sealed

    (tmp_path / "note.surf.gii").write_text("not a mesh")
    refused(Corrupt, "should be a GIFTI file", tmp_path / "note.surf.gii")
    refused(Refused, "should hold one surface", home / "B1.area.label.gii")
    refused(Refused, "no such file", tmp_path / "absent.surf.gii")
    refused(Refused, "'flat' in its name", home / "B1.flat.surf.gii")
    (tmp_path / "empty").mkdir()
    refused(Refused, "should hold meshes", tmp_path / "empty")
    (tmp_path / "empty" / "B1.inflated.surf.gii").write_bytes((home / "B1.flat.surf.gii").read_bytes())
    refused(Refused, "unfolded ones", tmp_path / "empty")
    gifti.write(tmp_path / "um.surf.gii", mesh(good.vertices * 1000, good.faces))
    refused(Refused, "coordinates given in um", tmp_path / "um.surf.gii", within=WITHIN_MM)
    gifti.write(tmp_path / "other.surf.gii", mesh(good.vertices + 400, good.faces))
    refused(
        Refused, r"other\.surf\.gii, B2: .*\n.*nearest row is .*\n.*mesh of another space", tmp_path / "other.surf.gii"
    )
    refused(Refused, "positive number of mm", home / "B1.mid.surf.gii", within=0.0)
    refused(Usage, "no surface", within=1.0)
    refused(Usage, "given once", home / "B1.mid.surf.gii", home)


# ---------------------------------------------------------------- parts


def table_of(xyz: np.ndarray, section: list[str], space: Space = PHANTOM) -> ad.AnnData:
    obs = pd.DataFrame({"id": [str(i) for i in range(len(xyz))], "subject": "B", "section": section, "predicted": "x"})
    table = ad.AnnData(X=np.zeros((len(xyz), 2), np.float16), obs=obs.set_index("id", drop=False).rename_axis(None))
    table.obsm["xyz"] = xyz.astype(np.float32)
    about = {"unit": "mm", "orientation": space.orientation, "origin": space.origin}
    table.uns["space"] = {"name": space.name, "extent_mm": list(space.extent_mm), **about}
    return table


@pytest.mark.parametrize("code", ["ras", "lps", "las", "asr", "lpi"])
def test_a_mesh_in_ras_is_turned_to_the_axes_of_the_rows(code: str) -> None:
    draw = np.random.default_rng(0)
    ras = draw.uniform(-20, 20, (40, 3))
    signs = {"r": (0, 1), "l": (0, -1), "a": (1, 1), "p": (1, -1), "s": (2, 1), "i": (2, -1)}
    own = np.column_stack([signs[letter][1] * ras[:, signs[letter][0]] for letter in code])
    space = Space(name="mine", orientation=code, extent_mm=(60.0, 60.0, 60.0), origin="somewhere")
    table = table_of(own, ["s"] * 40, space)
    surface = mesh(ras[:9] + 0.01, np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]]))
    at = meshes.project(table, surface, np.arange(40), 0.1, what="a mesh")
    assert at.row.tolist() == list(range(9))
    turned = meshes.turned(surface, space)
    assert (turned.faces == surface.faces).all() == (code not in ("las", "lpi"))
    free = table_of(own, ["s"] * 40, Space(name="unregistered", orientation="xyz", extent_mm=(60,) * 3, origin="x"))
    with pytest.raises(Refused, match=r"a mesh: .*share its space"):
        meshes.project(free, surface, np.arange(40), 0.1, what="a mesh")


def test_the_reach_is_three_quarters_of_how_far_rows_lie_apart() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    x, y, z = (one.ravel() for one in np.meshgrid(np.arange(0, 20, 0.5), np.arange(0, 20, 0.5), [0.0, 2.0, 4.0, 9.0]))
    names = [f"s{one:g}" for one in z]
    rows = np.arange(len(x))
    assert meshes.reach_mm(table_of(np.column_stack([x, y, z]) @ turn, names), rows) == pytest.approx(
        0.75 * np.hypot(0.5, 2.0), abs=0.06
    )
    alone = np.flatnonzero(z == 2)
    assert meshes.reach_mm(table_of(np.column_stack([x, y, z]) @ turn, names), alone) == pytest.approx(0.375, abs=0.006)
    with pytest.raises(Refused, match="a single row"):
        meshes.reach_mm(table_of(np.zeros((1, 3)), ["s"]), np.arange(1))


@pytest.mark.parametrize(
    ("path", "brain"),
    [
        ("B1.mid.surf.gii", "B1"), ("B10.mid.surf.gii", "B10"), ("sub-B1_hemi-L_mid.surf.gii", "B1"),
        ("B1/lh.mid.surf.gii", "B1"), ("sub-B10/lh.mid.surf.gii", "B10"), ("lh.B1.surf.gii", None),
        ("B123.surf.gii", None), ("B1 late.surf.gii", "B1 late"),
    ],
)  # fmt: skip
def test_a_mesh_is_of_the_brain_that_its_name_begins_with(path: str, brain: str | None) -> None:
    surface = mesh(np.eye(3), np.array([[0, 1, 2]]))
    assert meshes.Given(Path("home") / path, "x", surface).brain(["B1", "B10", "B1 late"]) == brain


def test_a_sheet_is_seen_from_its_outside_and_a_closed_surface_from_both_sides() -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(9.0), np.arange(9.0), indexing="ij"))
    number = np.arange(81).reshape(9, 9)
    a, b, c, d = (one.ravel() for one in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]))
    faces = np.concatenate([np.c_[a, b, c], np.c_[a, c, d]])
    for places, towards in (((x, y, 0 * x), (0, 0, 1)), ((0 * x, x, y), (1, 0, 0)), ((y, 0 * x, x), (0, 1, 0))):
        sheet = mesh(np.column_stack(places), faces)
        straight, aslant = meshes.views(sheet)
        assert np.allclose(straight.axes[2], towards, atol=1e-6)
        assert 0.3 < aslant.axes[2] @ np.array(towards) < 0.95, "still its outside"
    ball = phantom_ball()
    assert [view.name for view in meshes.views(ball)] == ["from the right", "from the left"]


def phantom_ball() -> Mesh:
    from scipy.spatial import ConvexHull

    points = np.random.default_rng(0).normal(size=(300, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    hull = ConvexHull(points)
    cross = np.cross(points[hull.simplices[:, 1]] - points[hull.simplices[:, 0]],
                     points[hull.simplices[:, 2]] - points[hull.simplices[:, 0]])  # fmt: skip
    out = (cross * points[hull.simplices].mean(axis=1)).sum(axis=1) > 0
    return mesh(points, np.where(out[:, None], hull.simplices, hull.simplices[:, ::-1]).astype(np.int64))


def test_a_brain_far_from_a_mesh_is_left_out_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = (one.ravel() for one in np.meshgrid(np.arange(0, 9, 0.5), np.arange(0, 9, 0.5)))
    near = np.column_stack([x, y, 0 * x])
    table = table_of(np.concatenate([near, near + 50]), ["s"] * len(x) + ["t"] * len(x))
    table.obs["subject"] = ["B"] * len(x) + ["C"] * len(x)
    sheet = mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [30, 0, 0.0]]), np.array([[0, 1, 2], [1, 3, 2]]))
    given = [meshes.Given(Path("m.surf.gii"), "m", sheet)]
    (seen,) = meshes.place(table, given, None, say=Say())
    assert seen.at.covered == 0.75
    assert (seen.name, seen.rows) == ("B_m", len(x))
    said = " ".join(capsys.readouterr().err.split())
    assert "75% of the vertices have one" in said
    assert "m.surf.gii: left out for C" in said
