"""What the viewer's page says when something is not there, and that it can be used in a small window and by keys."""

from __future__ import annotations

import numpy as np
import pytest

import viewerruns as planted
import viewing
from brodmann.viewer.routes import application
from brodmann.viewer.scene import Scene
from viewing import Served, browser, look, shot, until

__all__ = ["browser"]

pytestmark = viewing.needs_chromium

WHERE = "document.getElementById('where').firstChild.textContent"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(planted.make(tmp_path_factory.mktemp("care")), lambda _: None)


@pytest.fixture(scope="module")
def served(scene):
    """The run, twice."""
    one = Served(application([scene, scene], "token"))
    yield one
    one.stop()


@pytest.fixture
def page(browser, served):
    with viewing.opened(browser, served.url) as one:
        yield one


@pytest.fixture
def small(browser, served):
    with viewing.opened(browser, served.url, width=900, height=600) as one:
        yield one


def address(page) -> str:
    return page.evaluate("new Promise(r => setTimeout(() => r(decodeURIComponent(location.hash)), 700))")


def test_held_out_rows_are_shown_where_they_are(page, served):
    """The score is of B2: a fresh page opens there; on B1, which has none, the legend says so and leads there."""
    look(page, served.url, "#colour=area%2C+predicted")
    assert page.locator("#where").text_content().startswith("B2_s")
    assert "held-out rows of B2: brain B2" in page.locator("#legend").text_content()
    assert page.locator("#legend .bare").count() == 0
    look(page, served.url, "#section=B1_s0")
    assert page.locator("#legend .bare").count() == 0
    page.locator("#colour").select_option("area, predicted")
    page.wait_for_selector("#legend .bare")
    assert page.locator("#legend .bare").text_content().startswith("None of the patches of B1_s0 has a value.")
    page.locator("#legend .bare button").click()
    until(page, f"{WHERE}.startsWith('B2_s')")
    assert page.locator("#legend .bare").count() == 0


def test_rows_without_a_value_are_in_the_legend(page, served, scene):
    look(page, served.url)
    unknown = int(scene.obs["area"].isna().sum())
    assert page.locator("#legend .unknown").text_content().startswith(f"{unknown} not known")
    look(page, served.url, "#colour=depth_um")
    assert page.locator("#legend .unknown").count() == 0


def test_the_place_under_a_resting_mouse_is_that_of_the_section_that_is_seen(page, served):
    look(page, served.url, "#section=B1_s0")
    box = page.locator("#osd").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    until(page, "document.getElementById('cursor').textContent.includes('mm')")
    first = page.locator("#cursor").text_content()
    page.keyboard.press("]")
    until(page, f"{WHERE} === 'B1_s1'")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(900)
    resting = page.locator("#cursor").text_content()
    page.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_timeout(200)
    assert resting == page.locator("#cursor").text_content()
    assert resting != first  # the second section lies 2 mm away


@pytest.mark.parametrize("width", [900, 720])
def test_in_a_small_window_everything_is_there_in_one_line(small, served, width):
    small.set_viewport_size({"width": width, "height": 600})
    look(small, served.url, "#place=7&query=1")
    small.wait_for_selector("#found li button")
    assert small.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("header > *", ".asked > *", ".main"):
        for part in small.locator(name).all():
            box = part.bounding_box()
            if box is None:  # the strip's heading makes room
                continue
            assert box["x"] >= 0, name
            assert box["x"] + box["width"] <= width, name
            assert box["height"] <= 30, name
    inside = "e => e.scrollWidth <= e.clientWidth && e.getBoundingClientRect().right <= "
    assert small.locator(".main").evaluate(f"{inside} e.closest('#card').getBoundingClientRect().right")
    small.locator("#help").click()
    assert small.locator("#keys").evaluate("d => d.open")


def test_keys_work_while_a_menu_has_the_focus(page, served):
    look(page, served.url, "#section=B1_s0")
    page.locator("#colour").focus()
    page.keyboard.press("]")
    until(page, f"{WHERE} === 'B1_s1'")
    page.keyboard.press("t")
    assert page.get_attribute("html", "data-theme") == "light"
    assert page.locator("#colour").input_value() == "area"
    # arrows step on through the menu, which keeps the focus for the next
    page.keyboard.press("ArrowDown")
    until(page, "document.querySelector('#legend h2').textContent !== 'area'")
    assert page.evaluate("document.activeElement.id") == "colour"
    page.locator("#colour").dispatch_event("pointerdown")
    page.locator("#colour").select_option("features")
    assert page.evaluate("document.activeElement === document.body")


def test_a_key_that_needs_a_place_says_so(page, served):
    look(page, served.url)
    for key, words in (("f", "Mark a place first"), ("m", "Find similar places first")):
        page.keyboard.press(key)
        page.wait_for_selector("#notice:not([hidden])")
        assert page.locator("#notice span").text_content().startswith(words)
        page.keyboard.press("Escape")
        assert page.locator("#notice").is_hidden()


def test_similarity_is_named_in_the_menu_and_ends_with_its_search(page, served):
    look(page, served.url, "#place=7&query=1")
    page.wait_for_selector("#found li button")
    shown = "document.getElementById('colour').selectedOptions[0].textContent"
    assert page.evaluate(shown) == "area"
    page.locator("#asmap").check()
    until(page, "document.querySelector('#legend h2').textContent === 'similarity'")
    assert page.evaluate(shown) == "similarity"
    assert "the 2 and 99.8 % points" in page.locator("#legend").text_content()
    assert "asmap=1" in address(page)
    page.locator("#run").select_option("1")
    until(page, "document.querySelector('#legend h2').textContent === 'area'")
    assert page.evaluate(shown) == "area"
    assert not page.locator("#asmap").is_checked()
    assert "asmap" not in address(page)
    page.locator("#run").select_option("0")
    look(page, served.url, "#place=7&query=1&asmap=1")
    page.wait_for_selector("#found li button")
    assert page.evaluate(shown) == "similarity"
    page.locator("#colour").select_option("area")
    until(page, "document.querySelector('#legend h2').textContent === 'area'")
    assert not page.locator("#asmap").is_checked()
    page.locator("#asmap").check()
    page.keyboard.press("Escape")
    until(page, "document.querySelector('#legend h2').textContent === 'area'")
    assert "asmap" not in address(page)


@pytest.mark.parametrize("light", [0, 1])
def test_the_marked_place_is_a_ring_that_hides_nothing(page, served, scene, light):
    rank = 11
    x, y = scene.plane[0][rank].tolist()
    plain = f"#section=B1_s0&light={light}&plane={x},{y},9000"
    look(page, served.url, plain)
    before = shot(page, "#plane")
    look(page, served.url, f"{plain}&place={rank}")
    after = shot(page, "#plane")
    middle = np.array(after.shape[:2]) // 2
    rows, columns = np.mgrid[: after.shape[0], : after.shape[1]] - middle[:, None, None]
    away = np.hypot(rows, columns)
    changed = np.abs(after - before).max(2) > 12
    corners = np.zeros_like(changed)
    corners[-50:] = corners[:50] = True
    assert not changed[(away < 6) | ((away > 14) & ~corners)].any()
    ring = np.abs(away - 10) < 0.7
    tone = after[ring].mean()
    assert tone < 70 if light else tone > 180


def test_a_link_to_what_is_not_here_says_so(page, served):
    look(page, served.url, "#run=9&section=nope&colour=nope&place=99999999&query=1&asmap=1")
    page.wait_for_selector("#notice:not([hidden])")
    told = page.locator("#notice span").text_content()
    for words in ("run 9", "section nope", "colour nope", "place 99999999", "planted"):
        assert words in told
    now = address(page)
    assert not any(name in now for name in ("run=", "nope", "place", "query", "asmap"))
    assert page.locator("#strip").is_hidden()
    page.locator("#notice button").click()
    assert page.locator("#notice").is_hidden()
    look(page, served.url, "#section=B1_s1&place=7")
    assert page.locator("#notice").is_hidden()


def test_the_distance_that_is_used_is_the_one_in_the_box(page, served):
    look(page, served.url, "#place=7&query=1&among=all")
    page.wait_for_selector("#found li button")
    assert page.locator(".asked").text_content().count("on the same brain") == 1
    for typed, used in (("-3", "0"), ("250", "100"), ("1.25", "1.25"), ("", "1.25")):
        page.locator("#radius").fill(typed)
        page.locator("#radius").press("Tab")
        assert page.locator("#radius").input_value() == used
        assert f"radius={used}&" in address(page) + "&"
