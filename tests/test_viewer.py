"""The viewer's server: tiles show the pixels and labels that are there, search is exact, and strangers get nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import socket
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import brodmann
import viewerruns as planted
from brodmann.errors import Refused, Usage
from brodmann.maps import labels
from brodmann.progress import Say
from brodmann.tasks.search import search
from brodmann.viewer import alike, colouring, plane, serve, tiles
from brodmann.viewer.guard import CSP, LARGEST
from brodmann.viewer.routes import application
from brodmann.viewer.scene import Scene

pytest.importorskip("starlette", reason="the extra 'view' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'view' is not installed")


ROOT = Path(__file__).parents[1]
STATIC = ROOT / "src/brodmann/viewer/static"
TOKEN = "a-token_0"
HOST = (b"host", b"127.0.0.1:8000")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return planted.make(tmp_path_factory.mktemp("viewer"))


@pytest.fixture(scope="module")
def scene(run):
    return Scene(run, lambda _: None)


@pytest.fixture(scope="module")
def app(scene):
    return application([scene], TOKEN)


def ask(app, path, *, method="GET", headers=(HOST,), body=b"", token=TOKEN, raw=None):
    """Status, headers and body of one request; ``raw`` is a path as it stands, without a token."""
    target = raw if raw is not None else f"/{token}/{path}".encode()
    where, _, query = target.partition(b"?")
    given = [*headers, (b"content-length", str(len(body)).encode())] if method == "POST" else list(headers)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": urllib.parse.unquote(where.decode("latin-1")), "raw_path": where, "query_string": query,
        "root_path": "", "headers": given, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    sent: list[dict] = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])


def got(app, path, **more):
    status, _, body = ask(app, path, **more)
    assert status == 200, body
    return body


def pixels(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body)))


# ------------------------------------------------------------------------------------------------------------ strangers


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([HOST], "x"), ([HOST], "a-token_"), ([HOST], TOKEN + "x"), ([HOST], "A-TOKEN_0"),
        ([(b"host", b"evil.example")], TOKEN), ([(b"host", b"127.0.0.1.evil.example")], TOKEN), ([], TOKEN),
        ([(b"host", b"192.168.1.7:8000")], TOKEN), ([HOST, HOST], TOKEN),
        ([HOST, (b"origin", b"http://evil.example")], TOKEN), ([HOST, (b"origin", b"null")], TOKEN),
        ([HOST, (b"origin", b"http://127.0.0.1:9999")], TOKEN), ([HOST, (b"sec-fetch-site", b"cross-site")], TOKEN),
        ([HOST, (b"sec-fetch-site", b"same-site")], TOKEN),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["", "runs", "r/0/image/0/0/0/0"])
def test_strangers_are_refused(app, headers, token, path):
    status, answered, body = ask(app, path, headers=headers, token=token)
    assert status == 403
    assert answered["content-security-policy"] == CSP
    assert len(body) < 100


@pytest.mark.parametrize(
    "headers",
    [[HOST], [(b"host", b"localhost:9")], [(b"host", b"[::1]:9")], [HOST, (b"origin", b"http://127.0.0.1:8000")],
     [HOST, (b"sec-fetch-site", b"same-origin")], [HOST, (b"sec-fetch-site", b"none")]],
)  # fmt: skip
def test_the_page_itself_is_answered(app, headers):
    status, answered, _ = ask(app, "", headers=headers)
    assert status == 200
    assert answered["content-security-policy"] == CSP
    assert answered["x-content-type-options"] == "nosniff"
    assert "unsafe" not in CSP
    assert "default-src 'none'" in CSP


HOSTILE = [
    b"/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/..%2f..%2fetc%2fpasswd", b"//etc/passwd", b"/etc/passwd\x00",
    b"/%00", b"/..\\..\\windows", b"/%5c%5cserver%5cshare", b"/static/../scene.py", b"/app.js/..", b"/app.js%00.html",
    b"/r/0/image/0/-1/0/0", b"/r/0/image/0/0/-1/0", b"/r/0/image/0/99/0/0", b"/r/0/image/0/0/99999999999999999999/0",
    b"/r/0/image/0/0/0/4294967296", b"/r/-1", b"/r/1", b"/r/99999999999", b"/r/0x0", b"/r/0/image/9/0/0/0",
    b"/r/0/over/0/c99/0/0/0", b"/r/0/over/0/a999999999/0/0/0", b"/r/0/over/0/c0/0/0/0?only=99999999",
    b"/r/0/colouring/area", b"/r/0/colouring/c-1", b"/r/0/row/999999999", b"/r/0/alike/0?k=0", b"/r/0/alike/0?k=1e9",
    b"/r/0/alike/0?radius=nan", b"/r/0/alike/0?radius=-1", b"/r/0/alike/0?among=__class__", b"/r/0/thumb/99999999",
    b"/r/0/within/c0?start=0&x0=inf&y0=0&x1=1&y1=1", b"/r/0/points/-5", b"/" + b"9" * 400, b"/" + b"a/" * 400,
    b"/r/0/row/5?" + b"x" * 600, b"/r/0/row/%35",
]  # fmt: skip

_opened: list[str] = []
_watching = threading.Event()


def _hear(event, arguments):
    if _watching.is_set() and event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode())


@pytest.fixture
def heard():
    """Files opened while a test runs; a hook cannot be taken back, so it is silenced afterwards."""
    if not getattr(sys, "_viewer_hook", False):
        sys.addaudithook(_hear)
        sys._viewer_hook = True
    _opened.clear()
    _watching.set()
    yield _opened
    _watching.clear()


@pytest.mark.parametrize("path", HOSTILE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_hostile_addresses_get_4xx_and_open_nothing(app, heard, path, method):
    status, _, body = ask(app, "", raw=b"/" + TOKEN.encode() + path, method=method)
    assert 400 <= status < 500
    assert not heard
    assert b"root:" not in body
    assert len(body) < 300


def test_the_hook_hears_what_is_opened(heard, tmp_path):
    (tmp_path / "x").write_text("x")
    assert str(tmp_path / "x") in heard


def test_work_opens_nothing_beyond_the_run_and_its_data(app, heard, run):
    for path in (
        "",
        "app.js",
        "r/0",
        "r/0/row/3",
        "r/0/image/2/1/0/0",
        "r/0/over/2/c1/1/0/0",
        "r/0/thumb/7",
        "r/0/alike/7",
    ):
        got(app, path)
    code = (sys.prefix, sys.base_prefix, str(ROOT / "src"), str(Path(np.__file__).parents[1]), "<", "/proc", "/dev")
    # numba names the files that it compiles from where the process stands
    whole = [name if name.startswith("<") else str(Path(name).absolute()) for name in heard if "/" in name]
    assert not [name for name in whole if not name.startswith((str(run.parent), *code))]


def test_methods_and_bodies_are_limited(app):
    assert ask(app, "runs", method="DELETE")[0] == 405
    assert ask(app, "runs", method="PUT")[0] == 405
    assert ask(app, "r/0/lasso", method="POST", body=b"[" * (LARGEST + 1))[0] == 413
    assert ask(app, "r/0/lasso", raw=f"/{TOKEN}/r/0/lasso".encode(), method="POST", body=b"")[0] == 400
    for body in (b"nonsense", b"[" * 5000, b"{}", b"[[0,0],[1,1]]", b"[[0,0],[1,1],[1,NaN]]", b"[[0,0],[1,1],[1,1e99]]",
                 b"[[[0,0]]]", b'["a","b","c"]', json.dumps([[0, 0]] * 2500).encode(), b"\xff\xfe"):  # fmt: skip
        assert ask(app, "r/0/lasso", method="POST", body=body)[0] == 400, body[:40]


def test_only_this_machine_is_listened_to():
    listening = serve.bound(0)
    try:
        assert listening.getsockname()[0] == "127.0.0.1"
        with pytest.raises(Usage, match="should be free"):
            serve.bound(listening.getsockname()[1])
    finally:
        listening.close()
    with pytest.raises(Usage, match="port"):
        serve.bound(70000)


def test_a_server_answers_over_a_socket_and_refuses_raw_nonsense(app):
    """The same through uvicorn: what its parser lets pass, the guard refuses."""
    import uvicorn

    listening = serve.bound(0)
    config = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    while not server.started:
        time.sleep(0.05)

    def send(line: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as one:
            one.sendall(line + f"\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while more := one.recv(65536):
                answer += more
        return answer

    try:
        assert send(f"GET /{TOKEN}/runs HTTP/1.1".encode()).startswith(b"HTTP/1.1 200")
        for path in (b"/../../../../etc/passwd", b"/%2e%2e%2fetc%2fpasswd", b"/app.js%00"):
            answer = send(f"GET /{TOKEN}".encode() + path + b" HTTP/1.1")
            assert re.match(rb"HTTP/1.1 4\d\d", answer), answer[:60]
            assert b"root:" not in answer
        assert send(b"GET /runs HTTP/1.1").startswith(b"HTTP/1.1 403")
        assert send(b"GET /wrong/runs HTTP/1.1").startswith(b"HTTP/1.1 403")
    finally:
        server.should_exit = True
        thread.join(30)


# ---------------------------------------------------------------------------------------------------------------- tiles


def whole(app, what: str, level: int, shape: tuple[int, int]) -> np.ndarray:
    """A level put together from its tiles."""
    across, down = (-(-side // tiles.TILE) for side in shape[::-1])

    def core(column: int, row: int) -> np.ndarray:
        # a tile without what it shares with its neighbours
        tile = pixels(got(app, f"{what}/{level}/{column}/{row}"))
        return tile[min(row, 1) :, min(column, 1) :][: tiles.TILE, : tiles.TILE]

    return np.concatenate([np.concatenate([core(c, r) for c in range(across)], 1) for r in range(down)])


def edge_px(line: np.ndarray) -> float:
    """Where a line of values changes most, in pixels from its start; between two pixels is a whole number."""
    step = np.abs(np.diff(line.astype(float)))
    return float((np.arange(1, len(line)) * step).sum() / step.sum())


@pytest.mark.parametrize("whole_px", [1024, 0])
def test_the_finest_level_is_the_image_itself(scene, whole_px, monkeypatch):
    """Cut from one overview, or tile by tile, as large sections are."""
    monkeypatch.setattr(tiles, "_WHOLE", whole_px)
    app = application([scene], TOKEN)
    pyramid = scene.sheets[0].pyramid
    shown = whole(app, "r/0/image/0", pyramid.deepest, pyramid.shape(pyramid.deepest))
    np.testing.assert_array_equal(shown, planted.picture())
    inverted = pixels(got(app, f"r/0/image/0/{pyramid.deepest}/1/1?invert=1"))
    np.testing.assert_array_equal(inverted, 255 - planted.picture()[255:513, 255:513])


@pytest.mark.parametrize("whole_px", [1024, 0])
def test_image_and_colours_lie_on_each_other_at_every_level(scene, whole_px, monkeypatch):
    """The planted border, found in the image and in the labels of every level, within half a pixel of where it is."""
    monkeypatch.setattr(tiles, "_WHOLE", whole_px)
    app = application([scene], TOKEN)
    sheet, chosen = scene.sheets[0], scene.colouring("c0")
    pyramid, names, palette = sheet.pyramid, chosen.names, chosen.palette
    assert pyramid.deepest == 2
    # a line of samples that are all named beside the border
    near = np.abs(sheet.xy_um[:, 0] - planted.BORDER_UM) < 500
    heights = sheet.xy_um[near, 1]
    y_um = next(y for y in np.unique(heights)[10:] if (chosen.values[sheet.rows[near]][heights == y] > 0).all())
    for level in range(pyramid.deepest + 1):
        shape, at = pyramid.shape(level), planted.BORDER_UM / pyramid.pixel_um(level)
        image = whole(app, "r/0/image/0", level, shape)
        over = whole(app, "r/0/over/0/c0", level, shape)
        assert image.shape[:2] == shape == over.shape[:2]
        row = int(y_um / pyramid.pixel_um(level))
        assert abs(edge_px(np.where(image[row] > 140, 1.0, 0.0)) - at) <= 0.51
        left, right = (palette[names.index(name) + 1] for name in (planted.EVIL, "V1"))
        span = range(int(at) - 4, int(at) + 5)
        assert (over[row, span[0], :3] == left).all()
        assert (over[row, span[-1], :3] == right).all()
        first = next(column for column in span if (over[row, column, :3] == right).all())
        assert abs(first - at) <= 0.51


def test_a_sample_has_the_colour_of_its_class_at_every_level(app, scene):
    sheet, chosen = scene.sheets[1], scene.colouring("c0")
    deepest = sheet.pyramid.deepest
    drawn = {level: whole(app, "r/0/over/1/c0", level, sheet.pyramid.shape(level)) for level in range(deepest + 1)}
    away = np.abs(sheet.xy_um[:, 0] - planted.BORDER_UM) > 300
    value = chosen.values[sheet.rows]
    unknown = np.flatnonzero(value == 0)
    assert len(unknown) > 10
    for level, over in drawn.items():
        # not beside a row without a name, where a darker line may run
        clear = [i for i in np.flatnonzero(away & (value > 0)) if np.abs(unknown - i).min() > 60][:40]
        for i in clear:
            x, y = (sheet.xy_um[i] / sheet.pyramid.pixel_um(level)).astype(int)
            np.testing.assert_array_equal(over[y, x], [*chosen.palette[value[i]], 255])
    x, y = (sheet.xy_um[unknown[3]] / sheet.pyramid.pixel_um(deepest)).astype(int)
    assert drawn[deepest][y, x, 3] == 0


def test_lines_part_areas_and_not_single_cells():
    rng = np.random.default_rng(3)
    xy = rng.uniform(0, 2000, (9000, 2))
    areas, cells = (1 + (xy[:, 0] > 700)).astype(np.uint16), rng.integers(1, 9, 9000).astype(np.uint16)
    assert not tiles.mixed(xy, areas)
    assert tiles.mixed(xy, cells)
    assert not tiles.mixed(xy, np.zeros(9000, np.uint16))
    assert not tiles.mixed(xy[:1], cells[:1])
    pyramid, palette = tiles.Pyramid(2000.0, 2000.0, 4.0), np.full((9, 3), 200, np.uint8)
    for values, lined in ((areas, True), (cells, False)):
        over = tiles.colours(xy, values, palette, pyramid, 1, 0, 0, reach_um=60.0, outlined=True)
        assert (over[..., 0] == 110).any() == lined


def test_few_neurons_are_spots_and_many_cells_an_area():
    assert tiles.spot_um(499, 6.0, 600.0) == pytest.approx(13.2)
    assert tiles.spot_um(499, 6.0, 6000.0) == pytest.approx(84.0)
    assert tiles.spot_um(500, 6.0, 600.0) == np.inf


def test_a_gene_is_read_for_the_rows_of_the_table_in_any_order():
    """Against the dense counts; cells that the source does not hold, and cells without counts, are not known."""
    from brodmann import verbs
    from brodmann.cells.expression import Expression

    source = verbs.open_source(
        verbs.recipe("cells-tiny", {}), "phantom:brains=1,sections_per_brain=1,cells=900,genes=40"
    )
    known = source.ids()
    rows = np.random.default_rng(0).permutation(len(known))[:200]
    for ids, at in ((known, np.arange(len(known))), ([known[row] for row in rows], rows)):
        found = Expression(source, pd.Index([*ids, "nowhere"]) if len(ids) == 200 else pd.Index(ids))
        for gene in found.names[:3]:
            counts = source.dense(slice(None))[:, source.panel.genes.index(gene)].astype(float)
            with np.errstate(invalid="ignore"):
                wanted = np.log1p(1000 * counts / source.total_counts)[at]
            np.testing.assert_allclose(found.column(gene)[: len(at)], wanted, rtol=1e-5)
            assert np.isnan(found.column(gene)[len(at) :]).all()


def test_one_class_can_be_shown_alone(app, scene):
    chosen = scene.colouring("c0")
    value = chosen.names.index("V1") + 1
    over = pixels(got(app, f"r/0/over/0/c0/0/0/0?only={value}"))
    assert {tuple(c) for c in over[over[..., 3] > 0][:, :3].tolist()} <= {
        tuple(chosen.palette[value].tolist()), tuple((chosen.palette[value] * 0.55).astype(np.uint8).tolist())
    }  # fmt: skip
    assert not over[:, : int(0.4 * over.shape[1]), 3].any()


def test_a_pyramid_covers_its_section_and_no_more():
    pyramid = tiles.Pyramid(104_000.0, 96_000.0, 1.0)
    assert pyramid.size == (104_000, 96_000)
    assert pyramid.shape(0)[1] <= tiles.TILE
    assert pyramid.pixel_um(pyramid.deepest) == 1.0
    assert pyramid.window(0, 0, 0) is not None
    assert pyramid.window(0, 1, 0) is None
    assert pyramid.window(pyramid.deepest, 406, 0) == (406 * 256 - 1, 0, 104_000 - 406 * 256 + 1, 257)
    assert pyramid.window(pyramid.deepest, 407, 0) is None
    assert pyramid.window(pyramid.deepest + 1, 0, 0) is None


def test_density_has_no_seams():
    rng = np.random.default_rng(0)
    xy = rng.uniform(50, 4000, (3000, 2))
    pyramid, one = tiles.Pyramid(4050.0, 4050.0, 4.0), tiles.Density(xy)
    level = pyramid.deepest
    left, right = one.tile(pyramid, level, 0, 0)[0], one.tile(pyramid, level, 1, 0)[0]
    joint = tiles._spots(xy, 0, 0, 513, 256, 4.0, 6.0)
    # the second tile reaches one pixel beyond
    expected = (255 - 215 * np.clip(joint / one._darkest(pyramid, level, 6.0), 0, 1)).astype(np.uint8)
    assert np.abs(left[:256].astype(int) - expected[:, :257]).max() <= 1
    assert np.abs(right[:256].astype(int) - expected[:, 255:]).max() <= 1
    assert expected.min() < 120


def test_tiles_are_kept_up_to_a_limit():
    kept = tiles.Kept(1000)
    made: list[int] = []
    for name in (1, 2, 1, 3, 4, 1):
        assert kept.get(name, lambda name=name: made.append(name) or bytes([name]) * 300) == bytes([name]) * 300
    assert made == [1, 2, 3, 4, 1][: len(made)]
    assert kept.nbytes <= 1000
    kept.get(9, lambda: b"x" * 5000)
    assert kept.nbytes <= 1000


# --------------------------------------------------------------------------------------------------------- the plane


def test_the_plane_is_that_of_principal_components():
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(1)
    x = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 12)) + rng.normal(size=12)).astype(np.float16)
    found, method = plane.components(x)
    z = x.astype(np.float64)
    wanted = PCA(3).fit_transform((z - z.mean(0)) / z.std(0))
    for axis in range(3):
        assert abs(np.corrcoef(found[:, axis], wanted[:, axis])[0, 1]) > 0.9999
        np.testing.assert_allclose(found[:, axis].std(), wanted[:, axis].std(), rtol=1e-3)
        assert found[np.abs(found[:, axis]).argmax(), axis] > 0
    np.testing.assert_array_equal(found, plane.components(x)[0])
    assert re.fullmatch(r"PCA, \d+% of variance", method)


def test_points_are_sent_in_one_shuffled_order(app, scene):
    xy = np.frombuffer(got(app, "r/0/points/0"), np.uint16).reshape(-1, 2)
    values = np.frombuffer(got(app, "r/0/values/c0/0"), np.uint16)
    assert len(xy) == len(values) == scene.n
    assert sorted(scene.row_of.tolist()) == list(range(scene.n))
    assert (scene.row_of != np.arange(scene.n)).any()
    stepped, _ = plane.steps(plane.components(scene.table.X)[0][:, :2])
    np.testing.assert_array_equal(xy, stepped[scene.row_of])
    chosen = scene.colouring("c0")
    for rank in range(0, scene.n, 997):
        row = json.loads(got(app, f"r/0/row/{rank}"))
        assert row["plane"] == xy[rank].tolist()
        name = row["values"].get("area")
        assert values[rank] == (chosen.names.index(name) + 1 if name else 0)
    later = np.frombuffer(got(app, "r/0/points/100"), np.uint16).reshape(-1, 2)
    np.testing.assert_array_equal(later, xy[100:])


def test_a_part_of_the_plane_is_sent_from_a_rank_on(app, scene):
    xy = scene.plane[0]
    low, high = np.percentile(xy, [30, 60], axis=0)
    box = f"start=50&x0={low[0]:.1f}&y0={low[1]:.1f}&x1={high[0]:.1f}&y1={high[1]:.1f}"
    body = got(app, f"r/0/within/c0?{box}")
    n = int(np.frombuffer(body[:4], np.uint32)[0])
    ranks = np.frombuffer(body[4 : 4 + 4 * n], np.uint32)
    inside = ((xy >= low.round(1)) & (xy <= high.round(1))).all(1)
    np.testing.assert_array_equal(ranks, np.flatnonzero(inside & (np.arange(scene.n) >= 50)))
    np.testing.assert_array_equal(np.frombuffer(body[4 + 4 * n : 4 + 8 * n], np.uint16).reshape(-1, 2), xy[ranks])
    np.testing.assert_array_equal(
        np.frombuffer(body[4 + 8 * n :], np.uint16), scene.colouring("c0").values[scene.row_of[ranks]]
    )


def test_a_lasso_takes_the_planted_cluster_and_counts_it_per_section(app, scene):
    x_um = scene.obs["x_um"].to_numpy()[scene.row_of]
    cluster = x_um < 1000
    xy = scene.plane[0].astype(float)
    low, high = xy[cluster].min(0) - 40, xy[cluster].max(0) + 40
    assert not (((xy >= low) & (xy <= high)).all(1) & ~cluster).any(), "the cluster should lie apart"
    outline = [[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]]
    body = got(app, "r/0/lasso", method="POST", body=json.dumps(outline).encode())
    per_sheet = np.frombuffer(body[:16], np.uint32)
    bits = np.unpackbits(np.frombuffer(body[16:], np.uint8), bitorder="little")[: scene.n].astype(bool)
    np.testing.assert_array_equal(bits, cluster)
    assert per_sheet.sum() == cluster.sum()
    assert set(per_sheet.tolist()) == {int(cluster.sum()) // 4}
    arrow = [[0, 0], [65535, 0], [32768, 20000], [0, 65535]]  # not convex
    body = got(app, "r/0/lasso", method="POST", body=json.dumps(arrow).encode())
    from matplotlib.path import Path as Outline

    wanted = Outline([*arrow, arrow[0]]).contains_points(xy)
    np.testing.assert_array_equal(
        np.unpackbits(np.frombuffer(body[16:], np.uint8), bitorder="little")[: scene.n] > 0, wanted
    )


# --------------------------------------------------------------------------------------------------------------- search


def test_planted_likenesses_are_found_first(app, scene):
    """The same grid place on the two sections of the other brain, for every one of 60 queries."""
    for rank in range(0, 600, 10):
        asked = json.loads(got(app, f"r/0/row/{rank}"))
        found = json.loads(got(app, f"r/0/alike/{rank}?k=2&among=brains"))["found"]
        place = asked["id"].split("/")[1]
        other = {"B1": "B2", "B2": "B1"}[asked["values"]["subject"]]
        assert {one["id"] for one in found} == {f"{other}_s0/{place}", f"{other}_s1/{place}"}
        assert all(one["cosine"] > 0.99 for one in found)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("exclude", [0.0, 1.3])
def test_search_is_that_of_the_package(scene, held, exclude, monkeypatch):
    if not held:
        monkeypatch.setattr(alike, "_HELD_BYTES", 0)
    monkeypatch.setattr(alike, "_BLOCK", 1000)
    obs = scene.obs
    brain, section = (np.asarray(labels.codes(labels.column(scene.table, n))) for n in ("subject", "section"))
    looks = alike.Alike(scene.table.X, obs[["x_mm", "y_mm", "z_mm"]].to_numpy(), brain, section)
    for row in (3, 700, 2500):
        for across, among in ((True, "brains"), (False, "all")):
            wanted = search(scene.table, str(obs["id"].iloc[row]), k=12, exclude_mm=exclude, across=across)
            found = looks.find(row, k=12, exclude_mm=exclude, among=among)
            np.testing.assert_allclose(found.cosine, wanted.similarity[0], atol=2e-4)
            assert len(set(obs["id"].iloc[found.rows]) & set(wanted.ids[0])) >= 11  # ties of float16 may change places
            np.testing.assert_allclose(np.sort(found.away_mm)[:6], np.sort(wanted.distance_mm[0])[:6], atol=0.3)


def test_the_surroundings_of_the_query_are_left_out_and_places_lie_apart(scene):
    where = scene.obs[["x_mm", "y_mm", "z_mm"]].to_numpy()
    row, looks = 900, scene.alike
    assert row not in looks.find(row, k=50, among="all").rows
    found = looks.find(row, k=30, exclude_mm=1.0, among="all", apart=True)
    brains = scene.obs["subject"].to_numpy()
    own = brains[found.rows] == brains[row]
    assert (np.linalg.norm(where[found.rows[own]] - where[row], axis=1) > 1.0).all()
    for brain in ("B1", "B2"):
        places = where[found.rows[brains[found.rows] == brain]]
        apart = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(len(places), 1)]
        assert (apart > 1.0).all()
    assert (np.diff(found.cosine) <= 0).all()
    other = looks.find(row, k=30, among="sections").rows
    assert (scene.obs["section"].to_numpy()[other] != scene.obs["section"].to_numpy()[row]).all()


def test_a_map_of_likeness_is_a_colouring(app, scene):
    values = np.frombuffer(got(app, "r/0/values/a5/0"), np.uint16)
    cosine = scene.alike.cosine(int(scene.row_of[5]))[scene.row_of]
    assert values[5] == 256
    order = np.argsort(cosine)
    assert (np.diff(values[order].astype(int)) >= 0).all()
    assert json.loads(got(app, "r/0/colouring/a5"))["title"] == "similarity"
    assert pixels(got(app, "r/0/over/0/a5/0/0/0")).shape[2] == 4


# -------------------------------------------------------------------------------------------------------------- colours


def test_truth_and_prediction_share_colours(scene):
    titles = {title: key for key, (title, *_) in scene.colourings.items()}
    truth, said = scene.colouring(titles["area"]), scene.colouring(titles["area, predicted"])
    assert dict(zip(truth.names, truth.palette[1:].tolist(), strict=True)) == dict(
        zip(said.names, said.palette[1:].tolist(), strict=True)
    )
    assert "A0" in truth.names
    assert truth.counts[truth.names.index("A0")] == 0
    assert set(np.unique(said.values[(scene.obs["subject"] == "B1").to_numpy()])) == {0}
    assert sum(truth.counts) == int(scene.obs["area"].notna().sum())
    assert {"features", "place", "depth_um", "subject", "section"} <= set(titles)
    assert not {"x_um", "x_mm", "id"} & set(titles)


def test_numbers_keep_their_order_and_gaps():
    values = np.array([3.0, np.nan, -1.0, 1e9, 2.0, np.inf, 0.0, 1.0])
    found = colouring.numbers("x", values, share=(0, 70))
    assert found.values[[1, 5]].tolist() == [0, 0]
    assert (np.diff(found.values[[2, 6, 7, 4, 0]].astype(int)) > 0).all()
    assert found.values[0] == found.values[3] == 256
    flat = colouring.numbers("x", np.ones(4))
    assert flat.low < 1 < flat.high
    assert colouring.numbers("x", np.full(3, np.nan)).values.tolist() == [0, 0, 0]


def test_angles_come_round_and_stay_apart_for_all_eyes():
    """0 and the period have one colour; a quarter turn is far from its opposite in normal and colour-blind sight."""
    values = np.array([0.0, 179.9, 180.0, -0.1, 45.0, 135.0, np.nan, 90.0])
    found = colouring.angles("x", values, period_deg=180.0)
    assert found.values[0] == found.values[2]
    assert found.values[1] == found.values[3]
    assert found.values[6] == 0
    colours = found.palette[found.values].astype(float)
    assert np.abs(colours[0] - colours[1]).max() < 8
    ring = found.palette[1:].astype(float) / 255
    assert np.abs(np.diff(ring, axis=0, append=ring[:1])).max() < 0.05
    deuteranope = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    protanope = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    for sight in (np.eye(3), deuteranope, protanope):
        seen = np.clip(ring**2.2 @ sight.T, 0, 1) ** (1 / 2.2)
        assert np.linalg.norm(seen - np.roll(seen, 128, axis=0), axis=1).min() > 0.35


def test_a_rare_gene_is_not_flattened():
    values = np.zeros(10_000, np.float32)
    values[:20] = np.linspace(1, 3, 20)
    found = colouring.expression("gene X", values, unit="log")
    assert found.low == 0
    assert 2.9 < found.high <= 3
    assert found.values[-1] == 1
    assert found.values[10] > 100
    assert "0.2%" in found.about


def test_free_colours_survive_their_steps():
    rgb = np.random.default_rng(0).uniform(size=(200, 3))
    found = colouring.triples("x", rgb)
    assert np.abs(found.palette[found.values] / 255 - rgb).max() <= 0.5 / 31 + 0.003
    assert colouring.triples("x", np.full((2, 3), np.nan)).values.tolist() == [0, 0]


# ------------------------------------------------------------------------------------------------------------- the rest


def test_coordinates_of_the_page_are_those_of_the_section(app, scene):
    for number, told in enumerate(json.loads(got(app, "r/0"))["sheets"]):
        sheet = scene.sheets[number]
        corner = sheet.picture.place(np.array([[told["width"] * told["pixel_um"], told["height"] * told["pixel_um"]]]))
        np.testing.assert_allclose(told["grid"][-1][-1], corner[0], atol=1e-4)
        assert told["id"] == sheet.picture.id
        body = got(app, f"r/0/section/{number}")
        xy = np.frombuffer(body[: 8 * told["rows"]], np.float32).reshape(-1, 2)
        ranks = np.frombuffer(body[8 * told["rows"] :], np.uint32)
        np.testing.assert_array_equal(scene.row_of[ranks], sheet.rows)
        np.testing.assert_allclose(xy, sheet.xy_um, rtol=1e-6)


def test_names_stay_names(app):
    """What a file calls its areas reaches the page as JSON, whose strings are put there as text alone."""
    told = json.loads(got(app, "r/0/colouring/c0"))
    assert planted.EVIL in told["names"]
    source = "".join(path.read_text() for path in (ROOT / "viewer/src").glob("*.ts"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", source)


def test_without_its_images_a_run_is_drawn_from_its_table(tmp_path):
    said: list[str] = []
    scene = Scene(planted.make(tmp_path, data=False), said.append)
    app = application([scene], TOKEN)
    assert "table alone" in said[0]
    assert json.loads(got(app, "r/0"))["field_mm"] is None
    shown = pixels(got(app, "r/0/image/0/0/0/0"))
    assert shown.min() < 200 < shown.max()
    assert ask(app, "r/0/thumb/0")[0] == 404


def test_thumbnails_are_what_the_encoder_was_given(app, scene):
    row = scene.obs.iloc[int(scene.row_of[11])]
    side, size_um = 96, 96 * 32.0
    shown = pixels(got(app, "r/0/thumb/11"))
    section = scene.sheets[scene.sheet_of(row["section"])].picture
    np.testing.assert_array_equal(
        shown, section.crop(row["x_um"], row["y_um"], size_px=side, pixel_um=size_um / side)[0]
    )


def test_many_ask_at_once_and_get_their_own_answers(scene):
    app = application([scene], TOKEN)
    paths = [f"r/0/over/{s}/c{k}/{level}/0/0" for s in range(4) for k in range(3) for level in range(3)]
    alone = [got(app, path) for path in paths]
    again = application([scene], TOKEN)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda path: got(again, path), paths)) == alone


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(Usage, match="run folder"):
        serve.opened([tmp_path], TOKEN, Say(quiet=True))
    with pytest.raises(Usage, match="at least one"):
        serve.opened([], TOKEN, Say(quiet=True))


def test_without_the_extra_the_error_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(Refused, match=r"brodmann\[view\]"):
        serve.opened([run], TOKEN, Say(quiet=True))


def test_the_bundle_is_that_of_its_sources():
    """Whoever changes the page's sources runs `make viewer`, and nobody edits what it writes."""

    def digest(names, folder):
        found = hashlib.sha256()
        for name in sorted(names):
            found.update(f"{name}\0".encode() + (folder / name).read_bytes())
        return found.hexdigest()

    told = json.loads((STATIC / "hashes.json").read_text())
    viewer = ROOT / "viewer"
    sources = ["build.mjs", "package-lock.json", "package.json", "tsconfig.json"]
    sources += [f"src/{path.name}" for path in (viewer / "src").iterdir()]
    assert told["sources"] == digest(sources, viewer), "run `make viewer` and commit what it writes"
    assert told["built"] == digest(["THIRD_PARTY.txt", "app.css", "app.js", "index.html"], STATIC)


def test_the_page_loads_nothing_from_elsewhere():
    for name in ("index.html", "app.css"):
        text = (STATIC / name).read_text()
        assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not re.search(r"<[a-z]+[^>]* on[a-z]+=", (STATIC / "index.html").read_text())
    assert (STATIC / "app.js").stat().st_size < 600_000


def test_the_verb_in_python_is_that_of_the_shell():
    assert brodmann.view is serve.view


def test_tables_of_a_run_are_not_changed(scene):
    assert isinstance(scene.obs, pd.DataFrame)
    assert not [name for name in scene.table.obsm if name.startswith("baseline_")]
