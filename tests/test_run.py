"""The run folder: made once, resumed by the same recipe and data, sealed, and never quietly damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from brodmann import features, manifest, weights
from brodmann.errors import Changed, Corrupt, Refused, Usage
from brodmann.ledger import Ledger
from brodmann.patches.recipe import Recipe
from brodmann.run import Run
from brodmann.settings import override, plain
from brodmann.signals import Stop
from brodmann.space import PHANTOM


def opened(path, **changes):
    from brodmann.settings import build

    recipe = build(Recipe, override(plain(Recipe()), changes.pop("recipe", {})), where="test")
    options = {"system": "patches", "data_fingerprint": "f" * 64, "data": "phantom", "say": lambda _: None}
    return Run.open(path, recipe=recipe, **{**options, **changes})


@pytest.fixture
def run(tmp_path):
    return opened(tmp_path / "runs" / "first")


@pytest.fixture
def sealed(run):
    """A run with one of everything."""
    draw = np.random.default_rng(0)
    with run.lock():
        for step in range(5):
            run.log({"step": step, "loss": 1.0 / (step + 1)})
            run.save(step + 1, {"model.w": torch.arange(9.0)}, {"torch": "2"})
        run.save_weights({"w": torch.arange(9.0)}, {"width": 3}, "# card\n")
        ledger = Ledger(run.path, rows=5, shard_rows=2, key="k", say=pytest.fail)
        for shard in ledger.missing():
            ledger.add(shard, {"X": np.full((len(ledger.rows(shard)), 2), shard, np.float16)})
        obs = pd.DataFrame({"id": list("abcde"), "section": list("ppqqq"), "area": ["V1", None, "V1", "V2", "V2"]})
        features.write(run.path / "features.zarr", draw.random((5, 3)), obs, PHANTOM, draw.random((5, 3)))
        run.write_text("scores/areas-area.json", '{"value": 0.5}\n')
        with run.writing("maps") as folder:
            (folder / "p.png").write_bytes(b"picture")
        run.seal()
    return run


def test_the_same_command_comes_back(tmp_path, run):
    again = opened(run.path)
    assert again.recipe_hash == run.recipe_hash
    loaded = Run.load(run.path, verify=False)
    assert loaded.recipe_values == plain(Recipe())
    assert (loaded.system, loaded.data_fingerprint, loaded.data) == ("patches", "f" * 64, "phantom")
    assert json.loads((run.path / "environment.json").read_text())[0]["packages"]["torch"] == torch.__version__


def test_another_recipe_or_other_data_are_refused_with_a_diff(run):
    """F13."""
    run.log({"step": 0, "loss": 1.0})
    before = manifest.files(run.path), (run.path / "recipe.toml").read_bytes()
    with pytest.raises(Changed, match=r"fit\.steps: 1000 -> 300; seed: 0 -> 4") as caught:
        opened(run.path, recipe={"fit.steps": 300, "seed": 4})
    assert caught.value.exit_code == 2
    with pytest.raises(Changed, match="fingerprint ffffffffffff -> eeeeeeeeeeee"):
        opened(run.path, data_fingerprint="e" * 64)
    with pytest.raises(Changed, match="system: patches -> cells"):
        opened(run.path, system="cells")
    assert before == (manifest.files(run.path), (run.path / "recipe.toml").read_bytes())


def test_a_folder_in_which_nothing_was_computed_is_made_anew_with_another_recipe(tmp_path):
    opened(tmp_path / "refused", recipe={"fit.steps": 300})
    run = opened(tmp_path / "refused", recipe={"fit.steps": 200}, data_fingerprint="e" * 64)
    again = Run.load(run.path, verify=False)
    assert again.recipe_values["fit"]["steps"] == 200
    assert again.data_fingerprint == "e" * 64
    run.log({"step": 0, "loss": 1.0})
    with pytest.raises(Changed, match=r"fit\.steps: 200 -> 300"):
        opened(run.path, recipe={"fit.steps": 300}, data_fingerprint="e" * 64)


def test_another_environment_is_noted_and_said(run, monkeypatch):
    said = []
    opened(run.path, say=said.append)
    assert not said
    monkeypatch.setattr("brodmann.environment.platform.python_version", lambda: "3.99")
    opened(run.path, say=said.append)
    assert "not bit-identical" in said[0]
    assert "-> 3.99" in said[0]
    assert [entry["python"] for entry in json.loads((run.path / "environment.json").read_text())][1:] == ["3.99"]


def test_other_folders_are_not_touched(tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(Usage, match="empty or a run folder"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(Usage, match="should be a run folder"):
            Run.load(path)


def test_log_trim_and_torn_line(run):
    for step in range(4):
        run.log({"step": step, "loss": 0.1 * step, "gradient": float("inf"), "note": 'a "quoted"\nline'})
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    assert run.metrics()[3] == {"step": 3, "loss": 0.1 * 3, "gradient": "inf", "note": 'a "quoted"\nline'}
    for cut in range(1, len(whole) // 4):
        path.write_bytes(whole[:-cut])
        assert len(run.metrics()) == (4 if cut == 1 else 3)
        again = opened(run.path)
        again.log({"step": 3, "loss": 1.0})
        assert [record["step"] for record in again.metrics()][-2:] == ([3, 3] if cut == 1 else [2, 3])
    path.write_bytes(whole)
    run.trim(2)
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    damaged = bytearray(whole)
    damaged[whole.index(b'"loss"') + 9] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(Corrupt, match="line 1"):
        run.metrics()


def test_checkpoints_come_back(run):
    assert run.latest() is None
    tensors = {
        "half": torch.randn(3, 2).bfloat16(),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "turned": torch.randn(4, 5).T,
        "flags": torch.tensor([True, False]),
        "count": torch.tensor(7),
    }
    run.save(10, tensors, {"optimizer": "AdamW", "nested": {"a": [1, None]}})
    step, found, extra = run.latest()
    assert (step, extra) == (10, {"optimizer": "AdamW", "nested": {"a": [1, None]}})
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_weights_are_a_bundle(sealed, tmp_path):
    folder = sealed.path / "weights"
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.md", "config.json", "manifest.json", "model.safetensors",
    ]  # fmt: skip
    assert torch.equal(safetensors.torch.load_file(folder / "model.safetensors")["w"], torch.arange(9.0))
    state, config = sealed.weights()
    assert torch.equal(state["w"], torch.arange(9.0))
    assert config == {"width": 3}
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "model.pt").write_bytes(b"")
    with pytest.raises(Corrupt, match=r"model\.pt was added"):
        weights.read_bundle(tmp_path / "copy")
    weights.write_bundle(tmp_path / "nan", {"w": torch.tensor([float("nan")])}, {}, "")
    with pytest.raises(Refused, match="NaN or infinity in 'w'"):
        weights.read_bundle(tmp_path / "nan")
    weights.write_bundle(tmp_path / "new", {"w": torch.ones(1)}, {"format": 2}, "")
    with pytest.raises(Refused, match="format 2"):
        weights.read_bundle(tmp_path / "new")


def test_weights_before_training_ended(run):
    with pytest.raises(Usage, match="training has not finished"):
        run.weights()


def test_one_flipped_bit_anywhere_is_found(sealed):
    """F15: every file, a random bit each, the manifest included."""
    draw = random.Random(15)
    names = [*manifest.files(sealed.path), manifest.NAME]
    assert {"recipe.toml", "run.json", "metrics.jsonl", "ledger.jsonl", "weights/manifest.json"} < set(names)
    assert sum(name.startswith("features.zarr/") and "/c" in name for name in names) > 10
    Run.load(sealed.path)
    for name in names:
        path = sealed.path / name
        whole = path.read_bytes()
        tries = 40 if name == manifest.NAME else 2
        for bit in (draw.randrange(8 * len(whole)) for _ in range(tries if whole else 0)):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bytes(damaged))
            with pytest.raises(Corrupt, match=name.replace(".", r"\.")):
                Run.load(sealed.path)
        path.write_bytes(whole + b"\n")
        with pytest.raises(Corrupt):
            Run.load(sealed.path)
        path.unlink()
        with pytest.raises(Corrupt, match="missing"):
            Run.load(sealed.path)
        path.write_bytes(whole)
    Run.load(sealed.path)


def test_damage_is_named_file_by_file_and_never_sealed_again(sealed):
    (sealed.path / "scores" / "areas-area.json").unlink()
    (sealed.path / "recipe.toml").write_text("seed = 5\n")
    with pytest.raises(Corrupt, match=r"recipe\.toml has 9 bytes .*; scores/areas-area\.json is missing"):
        sealed.verify()
    with pytest.raises(Corrupt, match=r"scores/areas-area\.json is missing; recipe\.toml has another size"):
        sealed.seal()
    with pytest.raises(Corrupt, match=r"recipe\.toml"):
        Run.load(sealed.path)


def test_a_message_names_some_of_many_lost_files():
    from brodmann.run import _damage

    text = str(_damage(Path("run"), [f"file{k} is missing" for k in range(150)]))
    assert "file7 is missing; and 142 more." in text
    assert "file8 " not in text


def test_damage_of_the_same_size_is_not_sealed_either(sealed):
    path = sealed.path / "weights" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    sealed.write_text("scores/areas-area.json", "{}\n")
    sealed.seal()
    with pytest.raises(Corrupt, match=r"weights/model\.safetensors holds other bytes"):
        Run.load(sealed.path)


def test_results_may_be_replaced_after_sealing(sealed):
    kept = manifest.read(sealed.path)["recipe.toml"]
    sealed.write_text("scores/areas-area.json", "{}\n")
    with sealed.writing("maps") as folder:
        (folder / "q.png").write_bytes(b"other")
    sealed.drop("checkpoints")
    # cut short here: what was replaced is not listed, nothing is reported as damaged
    Run.load(sealed.path)
    sealed.seal()
    listed = manifest.read(sealed.path)
    assert listed["recipe.toml"] == kept
    assert "maps/q.png" in listed
    assert "maps/p.png" not in listed
    assert not [name for name in listed if name.startswith("checkpoints")]


def test_a_failed_replacement_leaves_the_old_folder(sealed):
    class Oops(Exception):
        pass

    def draw():
        with sealed.writing("maps") as folder:
            (folder / "half.png").write_bytes(b"")
            raise Oops

    with pytest.raises(Oops):
        draw()
    assert [path.name for path in (sealed.path / "maps").iterdir()] == ["p.png"]


def test_an_unfinished_run_says_so(run):
    with pytest.raises(Usage, match="has not finished training"):
        Run.load(run.path)


def test_ledger_plan_order_and_resume(tmp_path):
    def book(**plan):
        return Ledger(tmp_path, **{"rows": 7, "shard_rows": 3, "key": "a", "say": said.append, **plan})

    said = []
    ledger = book()
    assert (len(ledger), ledger.rows(2), ledger.missing()) == (3, range(6, 7), [0, 1, 2])
    for shard in (2, 0):
        rows = ledger.rows(shard)
        ledger.add(shard, {"X": np.array(rows, np.float16)[:, None], "baseline_u": np.array(rows, np.float64)})
    with pytest.raises(Usage, match="1 still to do"):
        next(ledger.collect())
    with pytest.raises(Usage, match="should have 3 rows"):
        ledger.add(1, {"X": np.zeros((2, 1))})
    again = book()
    assert again.missing() == [1]
    again.add(1, {"X": np.arange(3.0, 6.0, dtype=np.float16)[:, None], "baseline_u": np.arange(3.0, 6.0)})
    parts = list(book().collect())
    assert np.concatenate([part["X"] for part in parts]).ravel().tolist() == list(range(7))
    assert parts[0]["X"].dtype == np.float16
    assert parts[0]["baseline_u"].dtype == np.float64
    with pytest.raises(Changed, match="key: a -> b"):
        book(key="b")
    with pytest.raises(Changed, match="rows: 7 -> 8"):
        book(rows=8)


def test_ledger_torn_line_lost_line_and_rotten_shard(tmp_path):
    said = []

    def book():
        return Ledger(tmp_path, rows=4, shard_rows=2, key="a", say=said.append)

    for shard in (0, 1):
        book().add(shard, {"X": np.full((2, 1), shard)})
    lines = (tmp_path / "ledger.jsonl").read_bytes()
    # killed between rename and append, or while appending: the shard is made again, its line comes once
    for torn in (lines[: lines[:-1].rindex(b"\n") + 1], lines[:-9]):
        (tmp_path / "ledger.jsonl").write_bytes(torn)
        assert book().missing() == [1]
        book().add(1, {"X": np.full((2, 1), 1)})
        assert (tmp_path / "ledger.jsonl").read_bytes() == lines
    path = tmp_path / "shards" / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(Corrupt, match=r"shard-00000\.safetensors holds other bytes"):
        list(book().collect())
    assert book().missing() == [0]
    assert "will be made again" in said[0]
    book().clear()
    assert book().missing() == [0, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_first_signal_asks_second_one_insists(number):
    """F12."""
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
