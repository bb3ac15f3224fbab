"""The science in small: planted areas are recovered on a brain never seen, and only because places were right."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from brodmann import phantom, results, verbs
from brodmann.errors import Leak
from brodmann.settings import Split
from brodmann.splits import Fold
from brodmann.tasks.areas import areas

SMALL = {
    "samples.size_px": 48,
    "samples.pixel_um": 64.0,
    "samples.spacing_mm": 0.5,
    "fit.steps": 200,
    "fit.warmup_steps": 20,
}


class Moved:
    """A section whose points carry other sheet coordinates."""

    def __init__(self, section, points):
        self._section, self.points = section, points

    def __getattr__(self, name):
        return getattr(self._section, name)


def shuffled(source):
    """The same images, with every place dealt out anew."""
    points = pd.concat([s.points.assign(_s=k) for k, s in enumerate(source.sections)], ignore_index=True)
    order = np.random.default_rng(0).permutation(len(points))
    points[["u_mm", "v_mm"]] = points[["u_mm", "v_mm"]].to_numpy()[order]
    parts = [part.drop(columns="_s").reset_index(drop=True) for _, part in points.groupby("_s")]
    sections = [Moved(s, p) for s, p in zip(source.sections, parts, strict=True)]
    return replace(source, sections=sections, fingerprint=f"{source.fingerprint}/shuffled")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    source = phantom.sections(brains=3, sections_per_brain=6, native_um=32.0)
    folder = tmp_path_factory.mktemp("story")
    recipe = verbs.recipe("patches-tiny", SMALL)
    found = {}
    for name, data in (("places", source), ("shuffled", shuffled(source))):
        run = verbs.fit(recipe, data, folder / name, quiet=True)
        found[name] = verbs.embed(run, data, controls=name == "places", quiet=True)
    return found


def test_areas_of_an_unseen_brain_are_recovered_above_every_cheap_rival(tables):
    score = results.score("areas", tables["places"], "area")
    print(score)
    assert score.n > 300
    assert score.baselines["spatial null"].high < score.more["features, as the null"].value
    for rival in ("untrained", "profile", "chance"):
        assert score.gains[rival].low > 0, rival


def test_shuffled_places_fall_back(tables):
    split = Split(by="brain", folds=0, fold=0)
    right = areas(tables["places"], "area", split, compare=False)
    wrong = areas(tables["shuffled"], "area", split, compare=False)
    untrained = results.score("areas", tables["places"], "area").baselines["untrained"]
    print(right.value, wrong.value, untrained.value)
    assert right.value > wrong.value + 0.15
    assert wrong.value < untrained.value + 0.15


def test_a_leaky_split_raises(tables):
    table = tables["places"]
    rows = np.arange(table.n_obs)
    leaky = [Fold(rows[::2], rows[1::2], "every other patch")]
    with pytest.raises(Leak, match="brain"):
        areas(table, "area", Split(by="brain", folds=0), folds=leaky)
