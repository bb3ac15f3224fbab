"""The viewer's page in a real browser: pixels, links between the views, the address, keys, and a server that dies."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import viewerruns as planted
import viewing
from brodmann.maps.colours import luminance
from brodmann.viewer.routes import application
from brodmann.viewer.scene import Scene
from viewing import Served, browser, lasso, look, shot, spot, until, view

__all__ = ["browser"]

pytestmark = viewing.needs_chromium

CSS = (Path(__file__).parents[1] / "viewer/src/app.css").read_text()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(planted.make(tmp_path_factory.mktemp("page")), lambda _: None)


@pytest.fixture(scope="module")
def served(scene):
    one = Served(application([scene], "token"))
    yield one
    one.stop()


@pytest.fixture
def page(browser, served):
    """A page of 1280 x 720."""
    with viewing.opened(browser, served.url) as one:
        yield one


def test_the_page_opens_whole_and_names_stay_text(page, served, scene):
    look(page, served.url, "#section=B1_s0")
    assert page.title() == "planted – Brodmann"
    assert page.locator("#legend .name").all_text_contents() == [planted.EVIL, "V1"]
    assert page.locator("#count").text_content() == f"{scene.n:,} patches"
    assert page.evaluate("document.documentElement.scrollHeight <= 720 && document.documentElement.scrollWidth <= 1280")
    for name in ("#osd", "#plane", "#legend", "#card", "#slide", "#colour", "#theme"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 1280, name
        assert box["y"] + box["height"] <= 720.5, name
        assert min(box["width"], box["height"]) > 10, name
    assert page.evaluate("[...document.querySelectorAll('img,canvas:not(#osd canvas),[role=img]')].every("
                         "e => e.alt || e.getAttribute('aria-label') || e.getAttribute('aria-hidden'))")  # fmt: skip


def test_native_pixels_are_those_of_the_file(page, served):
    look(page, served.url)
    box = page.locator("#osd").bounding_box()
    wide, high = int(box["width"]), int(box["height"])
    # the left top pixel of the view is pixel (100, 90) of the image
    middle = (100 + wide / 2) * planted.PIXEL_UM, (90 + high / 2) * planted.PIXEL_UM
    look(page, served.url, f"#section=B1_s1&opacity=0&view={middle[0]},{middle[1]},{wide * planted.PIXEL_UM}")
    seen, truth = shot(page, "#osd"), planted.picture().astype(int)
    for x, y in ((200, 150), (333, 201), (500, 300), (611, 333)):
        part = seen[y : y + 20, x : x + 20]
        assert np.abs(part - truth[90 + y : 110 + y, 100 + x : 120 + x, None]).max() <= 2


@pytest.mark.parametrize("um_per_px", [4.0, 10.0, 20.0, 33.0])
def test_colours_lie_on_the_image_at_every_zoom(page, served, scene, um_per_px):
    """The planted border in screenshots of image and colours: less than a pixel (of file or screen) apart."""
    look(page, served.url)
    at = view(page, planted.BORDER_UM, 2000, um_per_px)
    found, chosen = {}, scene.colouring("c0")
    for opacity in (0, 1):
        look(page, served.url, f"#section=B1_s0&opacity={opacity}&{at}")
        seen = shot(page, "#osd")
        middle = seen.shape[1] / 2
        rows = seen[seen.shape[0] // 2 - 40 : seen.shape[0] // 2 + 40]
        if not opacity:
            first = (rows[:, :, 0] > 140).argmax(1)
            found[0] = float(np.median(first)) - middle
            continue
        right = chosen.palette[chosen.names.index("V1") + 1].astype(int)
        left = chosen.palette[chosen.names.index(planted.EVIL) + 1].astype(int)
        match = (np.abs(rows - right).max(2) <= 3) & (np.arange(rows.shape[1]) > middle - 12)
        found[1] = float(np.median(match.argmax(1)[match.any(1)])) - middle
        away = int(400 / um_per_px)
        votes = [
            np.abs(rows[:, int(middle) + side * away] - tone).max(1) <= 2 for side, tone in ((-1, left), (1, right))
        ]
        assert all(vote.mean() > 0.5 for vote in votes)
    allowed = max(1.0, planted.PIXEL_UM / um_per_px) + 0.6
    assert abs(found[0]) <= allowed
    assert abs(found[1]) <= allowed
    assert abs(found[0] - found[1]) <= allowed


def test_a_lasso_marks_exactly_its_rows_on_the_sections(page, served, scene):
    look(page, served.url, "#section=B2_s0")
    assert shot(page, "#plane").std() > 5
    cluster = scene.obs["x_um"].to_numpy()[scene.row_of] < 1000
    lasso(page, scene, cluster)
    page.wait_for_selector("#clear:not([hidden])")
    assert page.locator("#count").text_content() == f"{int(cluster.sum()):,} chosen, on 4 sections"
    until(page, f"document.getElementById('marks').dataset.chosen === '{int(cluster.sum()) // 4}'")
    page.keyboard.press("Escape")
    page.wait_for_selector("#clear", state="hidden")


def test_a_click_marks_the_place_and_its_likes_are_the_planted_ones(page, served, scene):
    look(page, served.url, "#section=B1_s1&radius=0.5")
    sheet = scene.sheets[1]
    number = int(np.abs(sheet.xy_um - [6000, 3000]).sum(1).argmin())
    identity = str(scene.obs["id"].iloc[sheet.rows[number]])
    page.mouse.click(*spot(page, *sheet.xy_um[number]))
    until(page, f"document.querySelector('#card h2')?.textContent === '{identity}'")
    page.keyboard.press("f")
    page.wait_for_selector("#found li button")
    titles = [item.get_attribute("title") for item in page.locator("#found li button").all()]
    likes = {title.split(":")[0] for title in titles[:2]}
    assert likes == {identity.replace("B1_s1", "B2_s0"), identity.replace("B1_s1", "B2_s1")}
    page.locator("#found li button").first.click()
    until(page, f"document.getElementById('where').firstChild.textContent === '{titles[0].split('/')[0]}'")
    page.locator("#asmap").check()
    until(page, "document.querySelector('#legend h2').textContent === 'similarity'")
    assert "asmap=1" in page.evaluate("new Promise(r => setTimeout(() => r(location.hash), 600))")


def test_the_address_brings_everything_back(page, served, scene):
    look(page, served.url, "#section=B2_s1&colour=depth_um&opacity=0.35&light=1&dots=1&radius=1.5")
    cluster = scene.obs["x_um"].to_numpy()[scene.row_of] < 1000
    lasso(page, scene, cluster)
    page.wait_for_selector("#clear:not([hidden])")
    page.mouse.move(300, 300)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(900)
    page.mouse.click(350, 320)
    page.wait_for_selector("#card dl")
    page.keyboard.press("f")
    page.wait_for_selector("#found li button")
    page.wait_for_timeout(900)
    parts = ("#count", "#card h2", "#found", "#legend h2", "#where")

    def told():
        words = [page.locator(name).text_content() for name in parts]
        return words, page.locator("#opacity").input_value(), page.get_attribute("html", "data-theme"), page.url

    before = told()
    assert before[0][0] == f"{int(cluster.sum()):,} chosen, on 4 sections"
    look(page, page.url)
    page.wait_for_selector("#found li button")
    page.wait_for_timeout(900)
    after = told()
    assert after[:3] == before[:3]

    def numbers(url):
        return np.array(re.search(r"view=([^&]+)", url.replace("%2C", ","))[1].split(","), float)

    np.testing.assert_allclose(numbers(after[3]), numbers(before[3]), rtol=0.01, atol=20)


def test_everything_can_be_done_with_keys(page, served):
    look(page, served.url, "#section=B1_s0")
    page.keyboard.press("]")
    until(page, "document.getElementById('where').firstChild.textContent === 'B1_s1'")
    page.keyboard.press("c")
    until(page, "document.querySelector('#legend h2').textContent !== 'area'")
    page.keyboard.press("t")
    assert page.get_attribute("html", "data-theme") == "light"
    page.keyboard.press("d")
    assert page.get_attribute("#dots", "aria-pressed") == "true"
    page.locator("#plane").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#card dl")
    page.keyboard.press("f")
    page.wait_for_selector("#found li button")
    page.keyboard.press("Escape")
    page.wait_for_selector("#strip", state="hidden")
    page.keyboard.press("?")
    assert page.locator("#keys").evaluate("d => d.open")
    page.keyboard.press("Escape")
    assert not page.locator("#keys").evaluate("d => d.open")


def test_a_server_that_dies_leaves_a_word_and_comes_back(browser, scene):
    one = Served(application([scene], "token"))
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_default_timeout(viewing.WAIT_MS)
    try:
        look(page, one.url, "#section=B1_s0")
        one.stop()
        page.keyboard.press("]")
        page.wait_for_selector("#banner:not([hidden])")
        assert "does not answer" in page.locator("#banner").text_content()
        assert page.locator("#legend .name").count() == 2
        one.start()
        page.wait_for_selector("#banner", state="hidden")
        page.keyboard.press("]")
        until(page, "document.getElementById('where').firstChild.textContent === 'B2_s0'")
        page.wait_for_timeout(2500)
        assert shot(page, "#osd").std() > 20
    finally:
        page.close()
        one.stop()


@pytest.mark.parametrize("theme", [":root{", ":root[data-theme=light]{"])
def test_words_can_be_read_in_both_themes(theme):
    """WCAG 2: 4.5 between words and ground."""
    block = CSS[CSS.index(theme) :].partition("}")[0]
    tone = {name: value if len(value) == 7 else "#" + "".join(c * 2 for c in value[1:])
            for name, value in re.findall(r"--(\w+):(#[0-9a-fA-F]+)", block)}  # fmt: skip
    for words in ("ink", "soft", "accent"):
        for ground in ("panel", "raised", "paper"):
            light, dark = sorted((luminance(tone[words]), luminance(tone[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (words, ground)
