"""Recipes: frozen, typed, overridden by dotted keys, hashed, and the same after a trip through TOML."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brodmann import verbs
from brodmann.errors import Usage
from brodmann.patches.recipe import ConvNeXt, Partners, Patches, Recipe, ResNet, SpatialNCE, ViT
from brodmann.settings import Fit, Split, _parts, build, diff, digest, override, plain, read_toml, to_toml
from brodmann.settings import settings as part
from brodmann.systems import name_of, system


def again(recipe: Recipe) -> Recipe:
    """A recipe written as TOML and read back."""
    values = read_toml(to_toml(recipe, system="patches"), where="text")
    assert values.pop("system") == "patches"
    return build(Recipe, values, where="text")


@pytest.mark.parametrize("name", verbs.recipe_names())
def test_a_packaged_recipe_survives_toml(name):
    recipe = verbs.recipe(name)
    values = read_toml(to_toml(recipe, system=name_of(recipe)), where="text")
    back = build(system(values.pop("system")).Recipe, values, where="text")
    assert back == recipe
    assert digest(back) == digest(recipe)


encoders = st.one_of(
    st.builds(ResNet, depth=st.sampled_from(["tiny", 50, 101])),
    st.builds(ConvNeXt, size=st.sampled_from(["tiny", "base"])),
    st.builds(ViT, size=st.sampled_from(["tiny", "small", "base"]), patch_px=st.integers(1, 64)),
)
positive = st.floats(1e-12, 1e12, allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(
    encoder=encoders,
    seed=st.integers(-(2**40), 2**40),
    fold=st.none() | st.integers(0, 9),
    limit=st.none() | st.integers(1, 10**9),
    lr=positive,
    spacing=positive,
    same=st.booleans(),
    temperature=positive,
)
def test_any_recipe_survives_toml(encoder, seed, fold, limit, lr, spacing, same, temperature):
    recipe = Recipe(
        encoder=encoder,
        seed=seed,
        split=Split(fold=fold),
        fit=Fit(lr=lr),
        samples=Patches(limit=limit, spacing_mm=spacing),
        partners=Partners(same_section=same),
        objective=SpatialNCE(temperature=temperature),
    )
    assert again(recipe) == recipe
    assert digest(again(recipe)) == digest(recipe)


@pytest.mark.parametrize("kind", _parts(Recipe), ids=lambda kind: kind.__name__)
def test_settings_are_given_by_name(kind):
    """A value by position would land in whatever member comes first."""
    first = dataclasses.fields(kind)[0].name
    value = getattr(kind(), first)
    assert kind(**{first: value}) == kind()
    with pytest.raises(TypeError, match="positional"):
        kind(value)
    with pytest.raises(TypeError, match="positional"):
        kind(3)


def test_a_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().fit.steps = 1


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"fit.stepz": 3}, "fit.stepz", "Did you mean 'steps'?"),
        ({"partner.reach_mm": 3.0}, "partner", "Did you mean 'partners'?"),
        ({"sed": 3}, "sed", "Did you mean 'seed'?"),
        ({"fit.qqqq": 3}, "fit.qqqq", "unknown key"),
        ({"fit.steps": 0}, "fit.steps", "greater than or equal to 1"),
        ({"fit.steps": "many"}, "fit.steps", "integer"),
        ({"fit.batch": 1}, "fit.batch", "greater than or equal to 2"),
        ({"samples.where": "anywhere"}, "samples.where", "'grid', 'ribbon' or 'points'"),
        ({"samples.tissue": 1.5}, "samples.tissue", "less than or equal to 1"),
        ({"split.by": "patch"}, "split.by", "'brain', 'section' or 'block'"),
        ({"encoder": {"kind": "transformer"}}, "encoder", "'resnet', 'convnext', 'vit'"),
        ({"encoder": {"kind": "vit", "depth": 50}}, "encoder.vit.depth", "unknown key"),
        ({"objective.temperature": 0}, "objective.temperature", "greater than 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(changes, path, words):
    with pytest.raises(Usage) as caught:
        verbs.recipe("patches-tiny", changes)
    assert f"{path}: " in caught.value.found
    assert words in caught.value.found
    assert "patches-tiny.toml" in caught.value.asked


def test_every_mistake_is_named_at_once():
    with pytest.raises(Usage) as caught:
        verbs.recipe("patches-tiny", {"fit.stepz": 3, "sed": 1, "fit.lr": -1})
    assert all(path in caught.value.found for path in ("fit.stepz: ", "sed: ", "fit.lr: "))


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(Usage, match="did you mean 'patches-tiny'"):
        verbs.recipe("patches-tinny")
    with pytest.raises(Usage, match=r"choose from cells, .*patches-tiny"):
        verbs.recipe("zzzz")


def test_a_recipe_file_of_ones_own(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(to_toml(verbs.recipe("patches-tiny", {"seed": 5}), system="patches"))
    assert verbs.recipe(own, {"fit.steps": 7}) == verbs.recipe("patches-tiny", {"seed": 5, "fit.steps": 7})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 1\n", r"(?s)should name its system.*found: no 'system'.*one of .*patches.*system = \"patches\""),
        ('system = "spleens"\n', "(?s)should name its system.*found: 'spleens'.*one of .*patches"),
        ("system = 3\n", "(?s)should name its system.*found: '3'"),
        ('system = "patches"\nseed = \n', "should be TOML"),
        ('system = "patches"\nseed = 1\nseed = 2\n', "should be TOML"),
    ],
)
def test_a_broken_recipe_file_is_a_usage_error(tmp_path, text, words):
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(Usage, match=words):
        verbs.recipe(own)


def test_override_reaches_deep_and_leaves_the_original_alone():
    values = {"fit": {"steps": 10, "lr": 0.1}, "seed": 0}
    changed = override(values, {"fit.steps": 3, "split.fold": 1, "seed": 2})
    assert changed == {"fit": {"steps": 3, "lr": 0.1}, "split": {"fold": 1}, "seed": 2}
    assert values == {"fit": {"steps": 10, "lr": 0.1}, "seed": 0}


def test_override_refuses_to_walk_through_a_value():
    with pytest.raises(Usage, match="'seed' is a value"):
        override({"seed": 0}, {"seed.deep": 1})


@part
class Small:
    """Settings whose fields are not in the order of the alphabet."""

    steps: int = 3
    lr: float = 0.5
    inner: Fit | None = None


def test_the_digest_is_that_of_sorted_plain_content():
    """It is written into every run: another form of it would orphan all folders made before."""
    assert digest(Small()) == hashlib.sha256(b'{"lr": 0.5, "steps": 3}').hexdigest()
    assert digest(Small(steps=4)) != digest(Small())


def leaves(values, path=()):
    for key, value in values.items():
        yield from leaves(value, (*path, key)) if isinstance(value, dict) else [((*path, key), value)]


@pytest.mark.parametrize(("path", "value"), list(leaves(plain(Recipe()))), ids=lambda part: str(part))
def test_every_number_of_a_recipe_enters_the_digest(path, value):
    if isinstance(value, str):
        pytest.skip("a word of a closed list: see the test of wrong values")
    other = {bool: not value, int: value + 4, float: value / 2 or 0.5}[type(value)]
    other = 3 if path[-1] == "channels" else other
    changed = build(Recipe, override(plain(Recipe()), {".".join(path): other}), where="text")
    assert digest(changed) != digest(Recipe())
    (line,) = diff(plain(Recipe()), plain(changed))
    assert line == f"{'.'.join(path)}: {value} -> {other}"


def test_plain_leaves_out_what_is_not_set():
    assert "fold" not in plain(Recipe())["split"]
    assert plain(Recipe(split=Split(fold=0)))["split"]["fold"] == 0


def test_diff_names_what_appears_and_disappears():
    assert diff({"a": {"b": 1}}, {"a": {"c": 2}}) == ["a.b: 1 -> (absent)", "a.c: (absent) -> 2"]
    assert diff({"a": 1}, {"a": 1}) == []
