"""Runs of patches, cells and neurons in a real browser: each shows its own pixels, classes, likenesses and links."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

import systemruns
import viewing
from brodmann.systems import SYSTEMS
from brodmann.viewer.routes import application
from brodmann.viewer.scene import Scene
from viewing import Served, browser, lasso, look, shot, spot, until

__all__ = ["browser"]
pytestmark = viewing.needs_chromium

CONTEXTS = """(() => { const made = window.made = {}, get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  const context = get.call(this, kind, ...more);
  if (context) made[kind] = context;
  return context;
}; })()"""
WITHOUT = """(() => { const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind.startsWith("webgl") ? null : get.call(this, kind, ...more);
}; })()"""
BY = "document.getElementById('plane').dataset.by"
COLOURED = {
    "patches": ["area", "thickness_mm", "features"],
    "cells": ["type", "domain", "gene Pha0001"],
    "neurons": ["domain_4", "orientation_deg", "responses: responses"],
}
"""What each system is asked to be coloured by; the first is a class."""


def test_every_system_is_looked_at():
    assert set(COLOURED) == set(systemruns.GIVEN) == set(SYSTEMS)


@pytest.fixture(scope="module", params=sorted(COLOURED))
def seen(request, tmp_path_factory):
    """System, what was planted, scene, server."""
    planted = systemruns.make(request.param, tmp_path_factory.mktemp(request.param))
    scene = Scene(planted.path, lambda _: None)
    assert not scene.remarks
    served = Served(application([scene], "token"))
    yield request.param, planted, scene, served
    served.stop()


@pytest.fixture
def page(browser, seen):
    with viewing.opened(browser, seen[3].url) as one:
        one.add_init_script(CONTEXTS)
        yield one


@pytest.fixture
def plain(browser, seen):
    """A page in a browser without WebGL."""
    with viewing.opened(browser, seen[3].url) as one:
        one.add_init_script(WITHOUT)
        yield one


def at(page, sheet, x_px: int, y_px: int, level: int) -> tuple[str, int, int]:
    """Fragment that brings a place of a level to the middle, pixel on pixel; and the view's left top pixel."""
    box, um = page.locator("#osd").bounding_box(), sheet.pyramid.pixel_um(level)
    wide, high = int(box["width"]), int(box["height"])
    left, top = x_px - wide // 2, y_px - high // 2
    return f"view={(left + wide / 2) * um},{(top + high / 2) * um},{wide * um}", left, top


def clear(page, sheet, left: int, top: int, level: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Screenshot of the section, and the part of it where the section is, without the labels in its corners."""
    seen = shot(page, "#osd")
    height, width = sheet.pyramid.shape(level)
    rows = slice(max(60, -top), min(seen.shape[0] - 60, height - top))
    columns = slice(max(0, -left), min(seen.shape[1], width - left))
    return seen, (rows, columns)


def test_it_opens_with_webgl2_and_draws(page, seen):
    _, planted, scene, served = seen
    look(page, served.url)
    assert page.evaluate("window.made.webgl2 instanceof WebGL2RenderingContext && !window.made.webgl2.isContextLost()")
    assert page.evaluate(BY) == "graphics"
    assert page.title() == f"{planted.path.name} – Brodmann"
    assert shot(page, "#plane").std() > 3
    assert shot(page, "#osd").std() > 3
    assert int(page.get_attribute("#plane", "data-drawn")) == scene.n


def test_the_processor_draws_the_same_plane_where_there_is_no_webgl(page, plain, seen):
    """Overlapping points, and those of a lasso before the others: within rounding of what the graphics card draws."""
    _, planted, scene, served = seen
    mine = scene.obs["id"].astype(str).isin(planted.cluster).to_numpy()
    pictures = []
    for one in (page, plain):
        look(one, served.url)
        shots = [shot(one, "#plane")]
        lasso(one, scene, mine[scene.row_of])
        one.wait_for_selector("#clear:not([hidden])")
        one.wait_for_timeout(400)
        pictures.append([*shots, shot(one, "#plane")])
    assert page.evaluate(BY) == "graphics"
    assert plain.evaluate(BY) == "processor"
    for card, processor in zip(*pictures, strict=True):
        apart = np.abs(card - processor).max(-1)
        assert apart.max() <= 8
        assert (apart > 2).mean() < 0.01  # faint points, many on one another, round apart
    assert np.abs(pictures[0][0] - pictures[0][1]).max() > 40


def test_a_lost_graphics_card_is_made_up_for(page, seen):
    look(page, seen[3].url)
    before = shot(page, "#plane")
    page.evaluate("window.made.webgl2.getExtension('WEBGL_lose_context').loseContext()")
    until(page, f"{BY} === 'processor'")
    assert np.abs(shot(page, "#plane") - before).max() <= 8


def test_the_finest_pixels_are_those_of_the_section(page, seen):
    """At native zoom a pixel of the screen is one of the image; of drawn sections, of the picture that is drawn."""
    _, _, scene, served = seen
    number = 1
    sheet = scene.sheets[number]
    level, pyramid = sheet.pyramid.deepest, sheet.pyramid
    look(page, served.url)
    x, y = (sheet.xy_um[len(sheet.xy_um) // 2] / pyramid.pixel_um(level)).astype(int)
    view, left, top = at(page, sheet, int(x), int(y), level)
    look(page, served.url, f"#section={sheet.picture.id}&opacity=0&light=1&{view}")
    shown, (rows, columns) = clear(page, sheet, left, top, level)
    part = shown[rows, columns]
    side = 64 * (min(part.shape[:2]) // 64)
    assert side >= 128
    middle = [(part.shape[0] - side) // 2, (part.shape[1] - side) // 2]
    part = part[middle[0] : middle[0] + side, middle[1] : middle[1] + side]
    corner = (rows.start + top + middle[0], columns.start + left + middle[1])
    if sheet.density is None:
        um = pyramid.pixel_um(level)
        centre = (corner[1] + side / 2) * um, (corner[0] + side / 2) * um
        truth = sheet.picture.crop(*centre, size_px=side, pixel_um=um)
    else:
        truth = _drawn(sheet, level, corner, side)[None]
    assert part.std() > 1
    assert np.abs(part - np.moveaxis(truth, 0, -1).astype(int)).max() <= 2


def _drawn(sheet, level: int, corner: tuple[int, int], side: int) -> np.ndarray:
    """Spots of a section's places, added up one by one: the picture that its tiles are parts of."""
    um, density = sheet.pyramid.pixel_um(level), sheet.density
    top = density._darkest(sheet.pyramid, level, density.body_um)
    sigma = max(density.body_um / um, 0.5)
    y, x = (np.arange(side) + start for start in corner)
    total = np.zeros((side, side))
    reach = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    norm = np.exp(-(reach**2) / (2 * sigma**2)).sum()
    for column, row in np.floor(sheet.xy_um / um).astype(int):
        dx, dy = x - column, y - row
        across = np.where(np.abs(dx) <= reach[-1], np.exp(-(dx**2) / (2 * sigma**2)), 0) / norm
        down = np.where(np.abs(dy) <= reach[-1], np.exp(-(dy**2) / (2 * sigma**2)), 0) / norm
        total += down[:, None] * across[None]
    return 255 - 215 * np.clip(total / top, 0, 1)


def test_colours_are_those_of_the_class_table_at_every_level(page, seen):
    """The nearest sample of every pixel, looked up anew: right but within a pixel of a border."""
    system, _, scene, served = seen
    title = COLOURED[system][0]
    key = next(key for key, (name, *_) in scene.colourings.items() if name == title)
    chosen, sheet = scene.colouring(key), scene.sheets[0]
    values = chosen.values[sheet.rows]
    look(page, served.url)
    for level in range(sheet.pyramid.deepest + 1):
        um = sheet.pyramid.pixel_um(level)
        named = sheet.xy_um[values > 0]
        x, y = (named[np.abs(named - named.mean(0)).sum(1).argmin()] / um).astype(int)
        view, left, top = at(page, sheet, int(x), int(y), level)
        look(page, served.url, f"#section={sheet.picture.id}&colour={title}&opacity=1&light=1&{view}")
        shown, (rows, columns) = clear(page, sheet, left, top, level)
        x, y = np.meshgrid(
            (np.arange(columns.start, columns.stop) + left + 0.5) * um,
            (np.arange(rows.start, rows.stop) + top + 0.5) * um,
        )
        away, nearest = cKDTree(sheet.xy_um).query(np.column_stack([x.ravel(), y.ravel()]))
        value = np.where(away < max(sheet.reach_um, 0.75 * um), values[nearest], 0).reshape(x.shape)
        inner = ndimage.maximum_filter(value, 5) == ndimage.minimum_filter(value, 5)
        # what lies beyond the rim of the screenshot is not known
        inner[[0, 1, -2, -1]] = inner[:, [0, 1, -2, -1]] = False
        inner &= value > 0
        if level == sheet.pyramid.deepest or system == "patches":
            assert inner.sum() > 200, level
        wrong = np.abs(shown[rows, columns] - chosen.palette[value].astype(int)).max(2) > 3
        assert not (wrong & inner).any(), (level, np.argwhere(wrong & inner)[:5].tolist())


def test_every_kind_of_colour_is_shown_with_its_legend(page, seen):
    system, _, scene, served = seen
    look(page, served.url)
    for title in COLOURED[system]:
        before = shot(page, "#plane")
        page.locator("#colour").select_option(title)
        words = title.replace("domain_", "domain ")
        until(page, f"document.querySelector('#legend h2').textContent === '{words}'")
        page.wait_for_timeout(500)
        key = next(key for key, (name, *_) in scene.colourings.items() if name == title)
        chosen = scene.colouring(key)
        assert len(np.unique(chosen.values)) > 1
        if title != COLOURED[system][0]:
            assert (shot(page, "#plane") != before).any()
        shades = page.locator("#legend .swatch").count()
        assert shades == (sum(n > 0 for n in chosen.counts) if chosen.kind == "classes" else 0)


def test_a_lasso_takes_the_planted_rows_and_shows_them(page, seen):
    _, planted, scene, served = seen
    identities = scene.obs["id"].astype(str).to_numpy()
    mine = np.isin(identities, list(planted.cluster))
    sheet = max(scene.sheets, key=lambda one: int(mine[one.rows].sum()))
    here = int(mine[sheet.rows].sum())
    look(page, served.url, f"#section={sheet.picture.id}&opacity=0&light=1")
    before = shot(page, ".stage")
    lasso(page, scene, mine[scene.row_of])
    page.wait_for_selector("#clear:not([hidden])")
    sections = sum(bool(mine[one.rows].any()) for one in scene.sheets)
    told = page.locator("#count").text_content()
    assert told == f"{int(mine.sum()):,} chosen, on {sections} section{'s' * (sections > 1)}"
    until(page, f"document.getElementById('marks').dataset.chosen === '{here}'")
    page.wait_for_timeout(800)
    changed = np.abs(shot(page, ".stage") - before).max(2) > 12
    stage = page.locator(".stage").bounding_box()
    # each chosen sample is drawn where it lies, and nothing else on the section changes
    left = np.ones_like(changed)
    for x_um, y_um in sheet.xy_um[mine[sheet.rows]]:
        x, y = (int(v - stage[a]) for v, a in zip(spot(page, x_um, y_um), "xy", strict=True))
        assert changed[y - 3 : y + 4, x - 3 : x + 4].any(), (x, y)
        left[max(0, y - 14) : y + 15, max(0, x - 14) : x + 15] = False
    assert not (changed & left)[60:-100].any()


def test_a_query_finds_every_planted_likeness_first(page, seen):
    """Recall at k is 1, in the page for one query and in the search for all; the address brings it back."""
    _, planted, scene, served = seen
    identities = scene.obs["id"].astype(str)
    for asked, wanted in planted.alike.items():
        row = int(np.flatnonzero(identities == asked)[0])
        found = scene.alike.find(row, k=systemruns.ALIKE, among="all").rows
        assert set(identities.iloc[found]) == wanted
    asked, wanted = next(iter(planted.alike.items()))
    rank = int(scene.rank_of[np.flatnonzero(identities == asked)[0]])
    look(page, served.url, f"#place={rank}&query=1&among=all&radius=0")
    page.wait_for_selector("#found li button")
    titles = [item.get_attribute("title") for item in page.locator("#found li button").all()]
    assert {title.split(": ")[0] for title in titles[: systemruns.ALIKE]} == wanted
    page.locator("#found li button").first.focus()
    page.keyboard.press("Enter")
    home = next(one for one in scene.sheets if titles[0].split(": ")[0] in set(identities.iloc[one.rows]))
    until(page, f"document.getElementById('where').firstChild.textContent === '{home.picture.id}'")
    until(page, f"decodeURIComponent(location.hash).includes('section={home.picture.id}&')")
    look(page, page.url)
    page.wait_for_selector("#found li button")
    assert [item.get_attribute("title") for item in page.locator("#found li button").all()] == titles
    assert page.locator("#card h2").text_content() == asked
    assert page.locator("#where").evaluate("e => e.firstChild.textContent") == home.picture.id
