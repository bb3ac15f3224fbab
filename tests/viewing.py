"""The viewer in a real browser, for tests: a server in a thread, a page that must not go wrong, where things are."""

from __future__ import annotations

import io
import os
import re
import shutil
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from brodmann.viewer import serve

pytest.importorskip("starlette", reason="the extra 'view' is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra 'view' is not installed")
driver = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
WAIT_MS = 120_000


class Served:
    """A server in a thread, which can be stopped and started again at the same port."""

    def __init__(self, app):
        self.app, self.port = app, 0
        self.start()

    def start(self):
        listening = serve.bound(self.port)
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(self.app, log_level="critical", access_log=False, lifespan="off", ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.05)

    def stop(self):
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(60)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/token/"


@pytest.fixture(scope="module")
def browser():
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with driver.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield one
        one.close()


@contextmanager
def opened(browser, url: str, *, width: int = 1280, height: int = 720):
    """A page of a size; what goes wrong in it, or leaves the machine, fails the test."""
    wrong: list[str] = []
    one = browser.new_page(viewport={"width": width, "height": height})
    one.set_default_timeout(WAIT_MS)
    # OpenSeadragon warns of a tile that came after its section was left; WebGL without a card, of its own slowness
    known = re.compile("Ignoring tile|.*GPU stall due to ReadPixels")
    one.on(
        "console",
        lambda m: wrong.append(m.text) if m.type in {"error", "warning"} and not known.match(m.text) else None,
    )
    one.on("pageerror", lambda error: wrong.append(str(error)))
    one.on("request", lambda r: None if r.url.startswith((url, "data:")) else wrong.append(r.url))
    one.wrong = wrong
    yield one
    one.close()
    assert not wrong


def look(page, url: str, fragment: str = "") -> None:
    page.goto("about:blank")
    page.goto(url + fragment)
    page.wait_for_selector("body[data-ready='1']")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(600)


def until(page, expression: str, *, seconds: float = WAIT_MS / 1000) -> None:
    """Wait for something to be so; the page's policy forbids the driver's own way, which evaluates text in it."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(100)


def shot(page, selector: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)


def view(page, x_um: float, y_um: float, um_per_px: float) -> str:
    """Fragment that brings a place to the middle of the section view, at a scale."""
    width = page.locator("#osd").bounding_box()["width"]
    return f"view={x_um},{y_um},{width * um_per_px}"


def spot(page, x_um: float, y_um: float) -> tuple[float, float]:
    """Where a place of the section lies on the screen, from the state in the address."""
    x, y, width = map(float, re.search(r"view=([^&]+)", page.url.replace("%2C", ","))[1].split(","))
    box = page.locator("#osd").bounding_box()
    um = width / box["width"]
    return box["x"] + box["width"] / 2 + (x_um - x) / um, box["y"] + box["height"] / 2 + (y_um - y) / um


def lasso(page, scene, rows: np.ndarray) -> None:
    """Draw around rows of the plane with the mouse."""
    page.locator("#home").click()
    page.wait_for_timeout(500)
    left, top, right, _ = scene.plane[1]
    box = page.locator("#plane").bounding_box()
    half = (right - left) / 2
    scale = min(box["width"], box["height"]) / (2 * half)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    xy = scene.plane[0][rows].astype(float)
    low = [(v - c) * scale + m for v, c, m in zip(xy.min(0), (left + half, top + half), middle, strict=True)]
    high = [(v - c) * scale + m for v, c, m in zip(xy.max(0), (left + half, top + half), middle, strict=True)]
    low, high = [max(low[0] - 6, box["x"] + 1), max(low[1] - 6, box["y"] + 1)], [high[0] + 6, high[1] + 6]
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1]), (low[0], low[1] + 2)]
    page.keyboard.down("Shift")
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner, steps=6)
    page.mouse.up()
    page.keyboard.up("Shift")
