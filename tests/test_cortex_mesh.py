"""Cortical surfaces: spheres, tori and planes with closed forms, and meshes that are not what they should be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from brodmann import phantom
from brodmann.cortex import bending, feet, geodesic, gifti, sheets, slices
from brodmann.cortex.mesh import mesh
from brodmann.errors import Corrupt, Refused, Usage
from brodmann.phantom.sheet import STEP_MM


def icosphere(times=4):
    """Unit sphere of 10 * 4**times + 2 vertices."""
    g = (1 + 5**0.5) / 2
    v = np.array([(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0)], dtype=float)
    v = np.concatenate([v, np.roll(v, 1, axis=1)[:, [0, 1, 2]], np.roll(v, 2, axis=1)])
    f = outward(v, ConvexHull(v).simplices.astype(np.int64))
    for _ in range(times):
        sides = np.sort(np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]]), axis=1)
        edge, where = np.unique(sides, axis=0, return_inverse=True)
        a, b, c = len(v) + where.reshape(3, -1)
        v = np.concatenate([v, v[edge].mean(axis=1)])
        f = np.concatenate(
            [np.stack(t, axis=1) for t in ((f[:, 0], a, c), (f[:, 1], b, a), (f[:, 2], c, b), (a, b, c))]
        )
    return v / np.linalg.norm(v, axis=1)[:, None], f


def outward(v, f):
    side = (np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]) * v[f[:, 0]]).sum(axis=1)
    return np.where(side[:, None] < 0, f[:, ::-1], f)


def grid(rows, columns, *, closed=False):
    """Triangles on a lattice of vertices."""
    i, j = np.meshgrid(np.arange(rows - (not closed)), np.arange(columns - (not closed)), indexing="ij")

    def number(a, b):
        return ((a % rows) * columns + b % columns).ravel()

    one = np.stack([number(i, j), number(i + 1, j), number(i + 1, j + 1)], axis=1)
    other = np.stack([number(i, j), number(i + 1, j + 1), number(i, j + 1)], axis=1)
    return np.concatenate([one, other])


def torus(nu, nv, big=3.0, small=1.0):
    """A jittered torus with its mean and Gaussian curvature."""
    rng = np.random.default_rng(0)
    i, k = np.meshgrid(np.arange(nu), np.arange(nv), indexing="ij")
    u, v = ((n + rng.uniform(-0.25, 0.25, n.shape)) * 2 * np.pi / m for n, m in ((i, nu), (k, nv)))
    ring = big + small * np.cos(v)
    xyz = np.stack([ring * np.cos(u), ring * np.sin(u), small * np.sin(v)], axis=-1).reshape(-1, 3)
    mean = (big + 2 * small * np.cos(v)) / (2 * small * ring)
    return mesh(xyz, grid(nu, nv, closed=True)), mean.ravel(), (np.cos(v) / (small * ring)).ravel()


@pytest.fixture(scope="module")
def ball():
    v, f = icosphere(4)
    return mesh(v * 10, f)


# ------------------------------------------------------------------------------------------------------ closed forms


def test_areas_normals_and_curvature_of_a_sphere(ball):
    bend = bending.curvature(ball)
    assert ball.remarks == ()
    assert ball.euler == 2
    assert ball.areas.sum() == pytest.approx(400 * np.pi, rel=0.003)
    np.testing.assert_allclose(ball.normals, ball.vertices / 10, atol=0.003)
    np.testing.assert_allclose(bend.mean, 0.1, rtol=0.03)
    np.testing.assert_allclose(bend.gaussian, 0.01, rtol=0.03)
    assert bending.defect(ball).sum() == pytest.approx(4 * np.pi, rel=1e-9)
    assert (bend.mean > 0).all()  # crowns are positive


@pytest.mark.parametrize(("nu", "nv", "median"), [(150, 60, 0.01), (36, 12, 0.025)])
def test_curvature_of_a_torus(nu, nv, median):
    ring, mean, gaussian = torus(nu, nv)
    bend = bending.curvature(ring)
    assert ring.euler == 0
    assert bending.defect(ring).sum() == pytest.approx(0, abs=1e-8)
    assert np.median(np.abs(bend.mean - mean)) < median
    assert np.median(np.abs(bend.gaussian - gaussian)) < median
    assert np.quantile(np.abs(bend.mean - mean), 0.95) < 4 * median
    assert (np.sign(bend.gaussian) == np.sign(gaussian))[np.abs(gaussian) > 0.1].all()
    own = bending.curvature(ring, rings=0)
    assert (own.mean * ring.areas).sum() == pytest.approx(2 * np.pi**2 * 3, rel=0.001)
    with pytest.raises(Usage, match="rings = -1"):
        bending.curvature(ring, rings=-1)


def test_a_plane_is_flat_and_its_distances_are_straight():
    x, y = np.meshgrid(np.arange(30) * 0.5, np.arange(40) * 0.5, indexing="ij")
    flat = mesh(np.stack([x.ravel(), y.ravel(), np.zeros(1200)], axis=1), grid(30, 40))
    bend = bending.curvature(flat)
    assert np.isnan(bend.mean[flat.rim]).all()
    assert flat.rim.sum() == 136
    np.testing.assert_allclose(bend.mean[~flat.rim], 0, atol=1e-9)
    np.testing.assert_allclose(bend.gaussian[~flat.rim], 0, atol=1e-9)
    assert bending.defect(flat).sum() == pytest.approx(2 * np.pi)
    true = np.hypot(x.ravel() - x.ravel()[417], y.ravel() - y.ravel()[417])
    away = geodesic.Geodesics(flat).away(417)
    assert (away - true).min() > -1e-9
    assert np.max(away[true > 1] / true[true > 1]) < 1.015


def test_distances_on_a_sphere_are_arcs(ball):
    ways = geodesic.Geodesics(ball)
    for source in (0, 700):
        true = 10 * np.arccos(np.clip(ball.vertices @ ball.vertices[source] / 100, -1, 1))
        far = true > 1
        off = ways.away(source)[far] / true[far] - 1
        assert np.median(np.abs(off)) < 0.005
        assert np.abs(off).max() < 0.012
        assert ways.away(source)[source] == 0
        # Along edges alone they would be several percent too long.
        assert np.median(geodesic.Geodesics(ball, points=0).away(source)[far] / true[far]) > 1.04
    both = ways.away(np.array([0, 700]))
    np.testing.assert_allclose(both, np.minimum(ways.away(0), ways.away(700)))
    assert np.isinf(ways.away(0, limit_mm=5.0)).mean() > 0.5


@pytest.mark.parametrize("bad", [-1, 99_999, 0.5, []])
def test_distances_start_at_vertices(ball, bad):
    with pytest.raises(Refused, match="numbers of vertices"):
        geodesic.Geodesics(ball, points=0).away(bad)


def test_surfaces_of_equal_volume_between_spheres(ball):
    white = ball.moved(ball.vertices * 0.75)
    np.testing.assert_allclose(sheets.thickness(ball, white), 2.5)
    for depth in (0.0, 0.1, 0.5, 0.9, 1.0):
        radius = np.linalg.norm(sheets.equivolumetric(ball, white, depth).vertices, axis=1)
        np.testing.assert_allclose(radius, (1000 - depth * (1000 - 7.5**3)) ** (1 / 3), atol=1e-6)
        radius = np.linalg.norm(sheets.equidistant(ball, white, depth).vertices, axis=1)
        np.testing.assert_allclose(radius, 10 - 2.5 * depth)
    with pytest.raises(Usage, match="share from 0"):
        sheets.equivolumetric(ball, white, 1.2)
    v, f = icosphere(2)
    with pytest.raises(Refused, match="same triangles"):
        sheets.thickness(ball, mesh(v, f))


TILTED = np.array([[0.001, 0, -12], [0, 0.0008, -11], [0, 0.0006, 3.0]])


def test_a_section_crosses_a_sphere_in_a_circle(ball):
    crossed = slices.cross(ball, TILTED)
    normal = np.cross(TILTED[:, 0], TILTED[:, 1])
    normal /= np.linalg.norm(normal)
    high = float(normal @ TILTED[:, 2])
    radius = np.sqrt(100 - high**2)
    assert set(crossed["line"]) == {0}
    assert crossed["closed"].all()
    assert crossed["along_mm"].max() == pytest.approx(2 * np.pi * radius, rel=0.004)
    line = slices.midline(ball, TILTED, {"height": ball.vertices @ normal}, spacing_mm=0.5)
    xyz = np.column_stack([line["x_um"], line["y_um"], np.ones(len(line))]) @ TILTED.T
    np.testing.assert_allclose(xyz @ normal, high, atol=1e-9)
    np.testing.assert_allclose(line["height"], high, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(xyz, axis=1), 10, atol=0.02)
    np.testing.assert_allclose(line["cutting_angle_deg"], np.rad2deg(np.arcsin(abs(high) / 10)), atol=0.6)
    up = (xyz - high * normal) @ TILTED[:, :2] / np.linalg.norm(TILTED[:, :2], axis=0)
    turn = np.rad2deg(np.arctan2(up[:, 0], -up[:, 1]))
    assert np.abs((line["angle_deg"] - turn + 180) % 360 - 180).max() < 1.5
    # Outside to the left when walking, y down.
    step, a = np.diff(line[["x_um", "y_um"]].to_numpy(), axis=0), np.deg2rad(line["angle_deg"].to_numpy()[:-1])
    assert ((step[:, 0] * -np.cos(a) - step[:, 1] * np.sin(a)) < 0).all()


def test_sections_that_miss_and_sections_that_are_none(ball):
    beside = TILTED + np.array([[0, 0, 0], [0, 0, 0], [0, 0, 99.0]])
    assert len(slices.cross(ball, beside)) == 0
    assert len(slices.midline(ball, beside)) == 0
    for bad in (np.eye(3) * 0, np.full((3, 3), np.nan), np.eye(4), TILTED[:, [0, 0, 2]]):
        with pytest.raises(Refused, match=r"affine \(3, 3\)"):
            slices.cross(ball, bad)
    with pytest.raises(Usage, match="value per vertex"):
        slices.midline(ball, TILTED, {"short": np.zeros(3)})
    with pytest.raises(Usage, match="positive"):
        slices.midline(ball, TILTED, spacing_mm=0)


def test_the_foot_of_a_place_lies_inside_triangles(ball):
    rng = np.random.default_rng(0)
    way = rng.normal(size=(300, 3))
    way /= np.linalg.norm(way, axis=1)[:, None]
    radius = rng.uniform(8, 14, 300)
    found = feet.feet(ball, way * radius[:, None])
    np.testing.assert_allclose(found.away_mm, np.abs(radius - 10), atol=0.02)
    np.testing.assert_allclose(found.share.sum(axis=1), 1)
    assert (found.share > -1e-9).all()
    np.testing.assert_allclose(found.carry(ball, ball.vertices), found.xyz_mm)
    # Brute force over every triangle, on a coarse and ragged surface.
    v, f = icosphere(1)
    rough = mesh(v * rng.uniform(0.5, 3, (len(v), 1)), f)
    places = rng.normal(size=(50, 3)) * 2
    share = rng.dirichlet([0.5] * 3, 4000)
    dense = np.einsum("sk,fkx->sfx", share, rough.vertices[rough.faces]).reshape(-1, 3)
    near = np.array([np.linalg.norm(dense - place, axis=1).min() for place in places])
    got = feet.feet(rough, places).away_mm
    assert (got <= near + 1e-9).all()
    np.testing.assert_allclose(got, near, atol=0.08)
    with pytest.raises(Refused, match="finite"):
        feet.feet(ball, np.full((2, 3), np.nan))


# ------------------------------------------------------------------------------------------------- the phantom's truth


def test_the_phantom_cut_through_its_middle_surface():
    """The planted mid-surface as a mesh, cut by the phantom's own planes: places, angles and curvature as planted."""
    source = phantom.sections(seed=2, brains=1, sections_per_brain=6, nuisance=0.0)
    brain = source.sections[0].brain
    table = brain.surface[..., :3]
    middle = mesh(np.ascontiguousarray(table.reshape(-1, 3)), grid(*table.shape[:2]))
    np.testing.assert_allclose((middle.normals * brain.surface[..., 9:12].reshape(-1, 3)).sum(axis=1), 1, atol=2e-3)
    bend = bending.curvature(middle)
    inner = ~middle.rim
    known = brain.curvature.reshape(-1, 2)
    assert np.median(np.abs(bend.mean - known[:, 0])[inner]) < 0.01
    assert np.corrcoef(bend.mean[inner], known[inner, 0])[0, 1] > 0.99
    # Millimetres of the sheet are millimetres of the surface along its folds.
    assert middle.areas.sum() == pytest.approx((np.array(table.shape[:2]) - 1).prod() * STEP_MM**2, rel=0.2)
    n = 0
    for section in source.sections:
        thick = brain.cyto[..., 0].ravel()
        line = slices.midline(middle, section.plane.to_mm, {"thickness_mm": thick, "curvature": known[:, 0]})
        truth = phantom.truth(section, line[["x_um", "y_um"]].to_numpy())
        ok = truth["s_mm"].between(-2, 62) & truth["t_mm"].between(-2, 42)
        line, truth = line[ok], truth[ok]
        assert set(line["line"]) == {0}
        away = np.abs((line["angle_deg"] - truth["angle_deg"] + 180) % 360 - 180)
        assert np.median(away) < 0.5
        assert np.quantile(away, 0.95) < 3
        assert np.median(np.abs(line["cutting_angle_deg"] - truth["cutting_angle_deg"])) < 0.5
        np.testing.assert_allclose(line["thickness_mm"], truth["thickness_mm"], atol=0.05)
        np.testing.assert_allclose(line["curvature"], truth["curvature"], atol=0.05)
        n += len(line)
    assert n > 1000


# ---------------------------------------------------------------------------------------------------------- bad meshes


def tetra():
    v = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float)
    return v, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def changed(array, where, value):
    out = array.copy()
    out[where] = value
    return out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v, f: (changed(v, 1, np.nan), f), "1 of 4 are not"),
        (lambda v, f: (changed(v, (2, 0), np.inf), f), "should be finite"),
        (lambda v, f: (v[:, :2], f), r"shapes \(4, 2\)"),
        (lambda v, f: (v, f[:, :2]), "shapes"),
        (lambda v, f: (v, f.astype(float)), "whole numbers as faces"),
        (lambda v, f: (f, v), "whole numbers as faces"),
        (lambda v, f: (v, f + 1), "numbers from 1 to 4 for 4 vertices"),
        (lambda v, f: (v, f - 1), "numbers from -1"),
        (lambda v, f: (v, f[:0]), "no faces"),
        (lambda v, f: (v, changed(f, 0, [0, 0, 1])), "Every triangle"),
        (lambda v, f: (changed(v, 3, v[2]), f), "Every triangle"),
        (lambda v, f: (np.vstack([v, [[1, 1, 1]]]), np.vstack([f, [[1, 2, 4]]])), "edges belong to more"),
        (lambda v, f: (v, changed(f, 3, f[3, ::-1])), "run the same way"),
    ],
)
def test_bad_meshes_are_refused_with_what_is_wrong(change, said):
    with pytest.raises(Refused, match=said):
        mesh(*change(*tetra()))


def test_holes_pieces_and_unused_vertices_are_named_and_unknown(ball):
    v, f = ball.vertices, ball.faces
    top = v[f].mean(axis=1)[:, 2] > 9
    n = len(v)
    both = mesh(
        np.concatenate([v, v / 2 + 40, [[0, 0, 0]]]), np.concatenate([f[~top], f[:, ::-1] + n])
    )  # a holed ball, a ball inside out, a vertex on its own
    lonely = np.setdiff1d(np.arange(n), f[~top])
    assert both.remarks[0] == "1 closed pieces faced inwards and were turned"
    assert both.remarks[1] == "2 pieces that do not touch"
    assert both.remarks[2].startswith("open edges along")
    assert both.remarks[3].startswith(f"{len(lonely) + 1} vertices without triangles")
    assert both.piece[n] == 0
    assert both.piece[-1] == -1
    bend = bending.curvature(both)
    assert np.isnan(bend.mean[both.rim | ~both.used]).all()
    np.testing.assert_allclose(bend.mean[n:-1], 0.2, rtol=0.04)
    assert np.isfinite(bend.mean[both.used & ~both.rim]).all()
    away = geodesic.Geodesics(both, points=2).away(n + 5)
    assert np.isnan(away[~both.used]).all()
    assert np.isinf(away[:n][both.used[:n]]).all()
    assert away[n:-1].max() == pytest.approx(5 * np.pi, rel=0.03)
    with pytest.raises(Refused, match="no triangle"):
        geodesic.Geodesics(both, points=0).away(2 * n)
    assert bending.defect(both).sum() == pytest.approx(2 * np.pi * both.euler)
    assert slices.cross(both, TILTED)["line"].nunique() >= 1


def test_fins_and_doubles_are_left_out(ball):
    n, (a, b, _) = len(ball.vertices), ball.faces[7]
    fin = np.array([[a, b, n], [b, a, n]])
    v = np.vstack([ball.vertices, ball.vertices[a] * 1.1])
    found = mesh(v, np.concatenate([ball.faces, fin, ball.faces[:3]]))
    assert found.remarks[0] == "5 triangles listed twice were left out"
    assert found.euler == 2
    np.testing.assert_array_equal(np.sort(np.sort(found.faces, 1), 0), np.sort(np.sort(ball.faces, 1), 0))
    np.testing.assert_allclose(found.areas[:n], ball.areas)


# --------------------------------------------------------------------------------------------------------------- GIFTI


def test_gifti_there_and_back(ball, tmp_path):
    gifti.write(tmp_path / "ball.surf.gii", ball)
    again = gifti.read(tmp_path / "ball.surf.gii")
    np.testing.assert_allclose(again.vertices, ball.vertices, atol=1e-5)
    np.testing.assert_array_equal(again.faces, ball.faces)
    values = np.stack([ball.areas, ball.vertices[:, 0]], axis=1)
    gifti.write_values(tmp_path / "ball.shape.gii", values)
    np.testing.assert_allclose(gifti.read_values(tmp_path / "ball.shape.gii", ball), values, atol=1e-5)
    with pytest.raises(Refused, match="one surface"):
        gifti.read(tmp_path / "ball.shape.gii")
    with pytest.raises(Refused, match="a value for each vertex"):
        gifti.read_values(tmp_path / "ball.surf.gii")
    v, f = icosphere(1)
    with pytest.raises(Refused, match="for each vertex of 42"):
        gifti.read_values(tmp_path / "ball.shape.gii", mesh(v, f))


def test_bad_gifti(ball, tmp_path):
    with pytest.raises(Refused, match="no such file"):
        gifti.read(tmp_path / "none.gii")
    gifti.write(tmp_path / "ball.gii", ball)
    whole = (tmp_path / "ball.gii").read_bytes()
    (tmp_path / "cut.gii").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other.gii").write_bytes(b"\x00not xml at all")
    (tmp_path / "away.gii").write_bytes(whole.replace(b"GZipBase64Binary", b"ExternalFileBinary"))
    for name in ("cut.gii", "other.gii"):
        with pytest.raises(Corrupt, match="GIFTI file"):
            gifti.read(tmp_path / name)
    with pytest.raises(Refused, match="another file"):
        gifti.read(tmp_path / "away.gii")
