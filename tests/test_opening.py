"""Data of another system are refused with the name of the system that takes them; its own are not sent away."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from brodmann import opening, verbs
from brodmann.errors import BrodmannError, Refused

pytestmark = pytest.mark.usefixtures("own_cache")
FILES = {"patches": "a.png", "cells": "a.h5ad", "neurons": "a.nwb"}


def put(folder, name):
    folder.mkdir(exist_ok=True)
    path = folder / FILES[name]
    if name == "patches":
        Image.fromarray(np.zeros((30, 30), np.uint8)).save(path)
    else:
        path.write_bytes(b"nothing yet")
    return path


@pytest.mark.parametrize("given", FILES)
@pytest.mark.parametrize("name", FILES)
def test_the_system_that_takes_the_data_is_named(name, given, tmp_path):
    path = put(tmp_path / "data", given)
    assert opening.kinds(tmp_path / "data") == {one: one == given for one in FILES}
    for data in (path, tmp_path / "data"):
        with pytest.raises(BrodmannError) as caught:
            opening.open_source(verbs.recipe(f"{name}-tiny"), data)
        assert (f"take a recipe of {given}, such as {given}-tiny" in str(caught.value)) == (name != given)
        assert str(caught.value).count("take a recipe") <= 1


def test_what_also_holds_its_own_data_is_not_sent_away(tmp_path):
    for name in FILES:
        put(tmp_path / "data", name)
    (tmp_path / "data" / "a.png").write_bytes(b"no image")
    with pytest.raises(Refused, match="readable section") as caught:
        opening.open_source(verbs.recipe("patches-tiny"), tmp_path / "data")
    assert "take a recipe" not in str(caught.value)
    with pytest.raises(BrodmannError) as caught:
        opening.open_source(verbs.recipe("patches-tiny"), tmp_path / "absent")
    assert "take a recipe" not in str(caught.value)


def test_folders_of_trials_are_recordings(tmp_path):
    for part in ("data", "meta"):
        (tmp_path / "set" / "mouse" / part).mkdir(parents=True)
    for folder in ("set", "set/mouse"):
        with pytest.raises(Refused, match="neurons-tiny"):
            opening.open_source(verbs.recipe("patches-tiny"), tmp_path / folder)
