"""What the page may ask; every answer is computed from a scene, and no request names a file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import BrodmannError
from brodmann.viewer import alike, plane, tiles
from brodmann.viewer.guard import Guard
from brodmann.viewer.scene import Scene

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

TILES_BYTES = 256 << 20
"""Memory for encoded tiles."""
MOST_POINTS = 1_000_000
"""Points that one answer holds."""
MOST_FOUND = 200
_CORNERS = 2000

_STATIC = Path(__file__).parent / "static"
_KINDS = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
_AMONG: dict[str, alike.Among] = {"brains": "brains", "sections": "sections", "all": "all"}
_KEY = re.compile(r"c\d{1,5}|a\d{1,9}")
_LASTING = {"cache-control": "private, max-age=3600, immutable"}
_FRESH = {"cache-control": "no-store"}


class Asked(Exception):
    """A request that cannot be answered as it stands; told to the page in words."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


def application(scenes: Sequence[Scene], token: str) -> Any:
    """The ASGI application for some runs, behind its guard.

    Parameters
    ----------
    scenes : sequence of Scene
    token : str
        First part of every path.

    Returns
    -------
    Guard
        Answers in threads: what numpy does for one request does not hold up another.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response
    from starlette.routing import Route

    asks = Answers(scenes)
    static = {name: (_STATIC / name).read_bytes() for name in ("index.html", "app.js", "app.css")}

    def page(name: str) -> Callable[[Request], Response]:
        body, kind = static[name], _KINDS[name.rpartition(".")[2]]
        return lambda _: Response(body, media_type=kind, headers=_FRESH)

    def answered(make: Callable[..., tuple[bytes, str, Mapping[str, str]]]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            body = await request.body() if request.method == "POST" else b""
            given = {**request.query_params, **request.path_params}
            try:
                content, kind, headers = await run_in_threadpool(make, given, body)
            except Asked as asked:
                return Response(asked.reason + "\n", asked.status, headers=_FRESH, media_type="text/plain")
            except tiles.Absent:
                return Response("there is no such thing\n", 404, headers=_FRESH, media_type="text/plain")
            except BrodmannError as error:
                return Response(f"{error}\n", 422, headers=_FRESH, media_type="text/plain")
            return Response(content, headers=dict(headers), media_type=kind)

        return endpoint

    at = "/r/{run}"
    routes = [
        Route("/", page("index.html")),
        Route("/app.js", page("app.js")),
        Route("/app.css", page("app.css")),
        Route("/runs", answered(asks.runs)),
        Route(at, answered(asks.scene)),
        Route(f"{at}/colouring/{{key}}", answered(asks.colouring)),
        Route(f"{at}/points/{{start}}", answered(asks.points)),
        Route(f"{at}/values/{{key}}/{{start}}", answered(asks.values)),
        Route(f"{at}/within/{{key}}", answered(asks.within)),
        Route(f"{at}/lasso", answered(asks.lasso), methods=["POST"]),
        Route(f"{at}/row/{{rank}}", answered(asks.row)),
        Route(f"{at}/thumb/{{rank}}", answered(asks.thumb)),
        Route(f"{at}/alike/{{rank}}", answered(asks.alike)),
        Route(f"{at}/section/{{sheet}}", answered(asks.places)),
        Route(f"{at}/section/{{sheet}}/{{key}}", answered(asks.colours)),
        Route(f"{at}/image/{{sheet}}/{{level}}/{{column}}/{{row}}", answered(asks.image)),
        Route(f"{at}/over/{{sheet}}/{{key}}/{{level}}/{{column}}/{{row}}", answered(asks.over)),
    ]
    return Guard(Starlette(routes=routes), token)


Given = Mapping[str, str]
Answer = tuple[bytes, str, Mapping[str, str]]


class Answers:
    """Answers by name; each takes what the address gave, checked here, and the body.

    Parameters
    ----------
    scenes : sequence of Scene
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._scenes = list(scenes)
        self.tiles = tiles.Kept(TILES_BYTES)

    def runs(self, given: Given, body: bytes) -> Answer:
        """Names of the runs."""
        del given, body
        return _json([{"name": scene.name, "system": scene.system, "rows": scene.n} for scene in self._scenes])

    def scene(self, given: Given, body: bytes) -> Answer:
        """Sections, colours and the frame of one run."""
        del body
        scene, _ = self._scene(given)
        _, frame, method = scene.plane
        return _json(
            {
                "name": scene.name, "system": scene.system, "rows": scene.n, "space": scene.space.name,
                "orientation": scene.space.orientation, "registered": scene.registered, "measured": scene.measured,
                "sheets": [sheet.plain() for sheet in scene.sheets], "frame": frame, "method": method,
                "colourings": [{"key": key, "title": t, "group": g} for key, (t, g, _) in scene.colourings.items()],
                "field_mm": None if scene.window is None else scene.window[0], "remarks": scene.remarks,
                "most": MOST_POINTS,
            }
        )  # fmt: skip

    def colouring(self, given: Given, body: bytes) -> Answer:
        """Palette and legend, and how many rows of each section have a colour."""
        del body
        scene, _ = self._scene(given)
        found = scene.colouring(_key(given))
        return _json(found.plain() | {"known": scene.known(found)})

    def points(self, given: Given, body: bytes) -> Answer:
        """Places in the plane, uint16 pairs in order of rank."""
        del body
        scene, _ = self._scene(given)
        start = _whole(given, "start", scene.n)
        return _bytes(scene.plane[0][start : start + MOST_POINTS])

    def values(self, given: Given, body: bytes) -> Answer:
        """Rows of the palette, uint16 in order of rank."""
        del body
        scene, _ = self._scene(given)
        start = _whole(given, "start", scene.n)
        rows = scene.row_of[start : start + MOST_POINTS]
        return _bytes(scene.colouring(_key(given)).values[rows])

    def within(self, given: Given, body: bytes) -> Answer:
        """Points of a part of the plane from a rank on: count, ranks uint32, places uint16 pairs, values uint16."""
        del body
        scene, _ = self._scene(given)
        x0, y0, x1, y1 = (_number(given, name, -1e6, 1e6) for name in ("x0", "y0", "x1", "y1"))
        start = _whole(given, "start", scene.n + 1)
        xy = scene.plane[0][start:]
        here = (xy[:, 0] >= x0) & (xy[:, 0] <= x1) & (xy[:, 1] >= y0) & (xy[:, 1] <= y1)
        ranks = (np.flatnonzero(here)[:MOST_POINTS] + start).astype(np.uint32)
        values = scene.colouring(_key(given)).values[scene.row_of[ranks]]
        parts = (np.array([len(ranks)], np.uint32), ranks, scene.plane[0][ranks], values)
        return b"".join(np.ascontiguousarray(part).tobytes() for part in parts), "application/octet-stream", _FRESH

    def lasso(self, given: Given, body: bytes) -> Answer:
        """What lies inside an outline: how many per section (uint32), then a bit per point in order of rank."""
        scene, _ = self._scene(given)
        try:
            polygon = np.asarray(json.loads(body.decode()), np.float64)
        except (ValueError, RecursionError, TypeError):
            raise Asked(400, "an outline is a list of corners") from None
        if polygon.ndim != 2 or polygon.shape[1] != 2 or not 3 <= len(polygon) <= _CORNERS:
            raise Asked(400, f"an outline has 3 to {_CORNERS:,} corners")
        if not (np.isfinite(polygon).all() and np.abs(polygon).max() < 1e6):
            raise Asked(400, "corners should be places in the plane")
        inside = plane.inside(polygon, scene.plane[0])
        per_sheet = [int(inside[scene.rank_of[sheet.rows]].sum()) for sheet in scene.sheets]
        bits = np.packbits(inside, bitorder="little")
        return np.array(per_sheet, np.uint32).tobytes() + bits.tobytes(), "application/octet-stream", _FRESH

    def row(self, given: Given, body: bytes) -> Answer:
        """What is known of one row."""
        del body
        scene, _ = self._scene(given)
        return _json(scene.row(_whole(given, "rank", scene.n)))

    def thumb(self, given: Given, body: bytes) -> Answer:
        """The window of a row as the encoder was given it, or the section around it."""
        del body
        scene, number = self._scene(given)
        rank = _whole(given, "rank", scene.n)

        def draw() -> bytes:
            if scene.window is None:
                raise Asked(404, "no images")
            return tiles.png(scene.window[1](scene.obs.iloc[int(scene.row_of[rank])]))

        return self.tiles.get((number, "thumb", rank), draw), "image/png", _LASTING

    def alike(self, given: Given, body: bytes) -> Answer:
        """Rows most like one, best first."""
        del body
        scene, _ = self._scene(given)
        rank, k = _whole(given, "rank", scene.n), _whole(given, "k", MOST_FOUND + 1, 24)
        radius = _number(given, "radius", 0, 1000, 0.0)
        among = _AMONG.get(given.get("among", "all"))
        if among is None or k < 1:
            raise Asked(400, "look among brains, sections or all")
        found = scene.alike.find(
            int(scene.row_of[rank]), k=k, exclude_mm=radius, among=among, apart=given.get("apart") == "1"
        )
        listed: list[dict[str, Any]] = []
        for row, cosine, away in zip(found.rows.tolist(), found.cosine.tolist(), found.away_mm.tolist(), strict=True):
            one = scene.row(int(scene.rank_of[row]))
            one |= {"cosine": round(cosine, 4), "away_mm": round(away, 3) if math.isfinite(away) else None}
            listed.append(one)
        return _json({"found": listed, "measured": scene.measured})

    def places(self, given: Given, body: bytes) -> Answer:
        """Samples of a section: x and y (um) float32 pairs, then ranks uint32."""
        del body
        scene, _ = self._scene(given)
        sheet = scene.sheets[_whole(given, "sheet", len(scene.sheets))]
        parts = (sheet.xy_um.astype(np.float32), scene.rank_of[sheet.rows])
        return b"".join(np.ascontiguousarray(part).tobytes() for part in parts), "application/octet-stream", _FRESH

    def colours(self, given: Given, body: bytes) -> Answer:
        """Rows of the palette of a section's samples, uint16."""
        del body
        scene, _ = self._scene(given)
        sheet = scene.sheets[_whole(given, "sheet", len(scene.sheets))]
        return _bytes(scene.colouring(_key(given)).values[sheet.rows])

    def image(self, given: Given, body: bytes) -> Answer:
        """Tile of a section's image."""
        del body
        scene, number = self._scene(given)
        at = sheet, level, column, row = self._tile(scene, given)
        one, invert = scene.sheets[sheet], given.get("invert") == "1"

        def draw() -> bytes:
            drawn = (
                tiles.stain(one.picture, one.pyramid, level, column, row)
                if one.density is None
                else one.density.tile(one.pyramid, level, column, row)
            )
            return tiles.png(255 - drawn if invert else drawn)

        return self.tiles.get((number, "image", invert, at), draw), "image/png", _LASTING

    def over(self, given: Given, body: bytes) -> Answer:
        """Tile of the colours over a section; of one class alone with ``only``."""
        del body
        scene, number = self._scene(given)
        at = sheet, level, column, row = self._tile(scene, given)
        one, key, only = scene.sheets[sheet], _key(given), _whole(given, "only", 1 << 16, 0)

        def draw() -> bytes:
            chosen = scene.colouring(key)
            values = chosen.values[one.rows]
            values = np.where(values == only, values, 0) if only else values
            return tiles.png(
                tiles.colours(
                    one.xy_um, values, chosen.palette, one.pyramid, level, column, row,
                    reach_um=one.reach_um, outlined=chosen.kind == "classes",
                )
            )  # fmt: skip

        return self.tiles.get((number, key, only, at), draw), "image/png", _LASTING

    def _scene(self, given: Given) -> tuple[Scene, int]:
        number = _whole(given, "run", len(self._scenes))
        return self._scenes[number], number

    def _tile(self, scene: Scene, given: Given) -> tuple[int, int, int, int]:
        sheet = _whole(given, "sheet", len(scene.sheets))
        level, column, row = (_whole(given, name, 1 << 31) for name in ("level", "column", "row"))
        if scene.sheets[sheet].pyramid.window(level, column, row) is None:
            raise tiles.Absent("no such tile")
        return sheet, level, column, row


def _whole(given: Given, name: str, below: int, default: int | None = None) -> int:
    """A number from 0 to below ``below``."""
    text = given.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= below:
        raise Asked(404, f"{name} should be a number that exists")
    return int(text)


def _number(given: Given, name: str, low: float, high: float, default: float | None = None) -> float:
    text = given.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
        raise Asked(400, f"{name} should be a number from {low:g} to {high:g}")
    return float(text)


def _key(given: Given) -> str:
    if not _KEY.fullmatch(given["key"]):
        raise tiles.Absent(given["key"])
    return given["key"]


def _json(value: Any) -> Answer:
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.encode(), "application/json", _FRESH


def _bytes(array: NDArray[Any]) -> Answer:
    return np.ascontiguousarray(array).tobytes(), "application/octet-stream", _FRESH
