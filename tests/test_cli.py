"""The shell: what each command parses, prints and returns; the work itself is tested where it is done."""

from __future__ import annotations

import inspect
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from brodmann import atlases, cli, errors, results, selftest, train, verbs
from brodmann.arguments import together
from brodmann.run import Run
from brodmann.settings import changes
from brodmann.tasks._score import Estimate, Score


def run(*words: str) -> int:
    """Exit code of a command line."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in words])
    return caught.value.code or 0


@pytest.fixture
def sections(tmp_path):
    """Six small images of two brains, with a sidecar: dark stripes on a bright slide."""
    folder = tmp_path / "sections"
    folder.mkdir()
    listed = []
    for number in range(6):
        rng = np.random.default_rng(number)
        image = np.full((96, 128), 240.0)
        image[12:84, 12:116] = 120 + 40 * np.sin(np.arange(104) / (3 + number % 3)) + rng.normal(0, 10, (72, 104))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"s{number}.png")
        to_mm = [[0.001, 0, 0], [0, 0, number * 0.1], [0, -0.001, 5.0]]
        listed.append({"file": f"s{number}.png", "subject": f"B{number % 2}", "to_mm": to_mm})
    (folder / "sections.json").write_text(json.dumps({"space": "ccf_v3", "pixel_um": 50.0, "sections": listed}))
    return folder


SMALL = (
    "samples.where=grid", "samples.size_px=32", "samples.pixel_um=50", "samples.spacing_mm=0.4",
    "partners.metric=space", "partners.reach_mm=0.6", "split.by=section", "split.folds=2", "fit.steps=3", "fit.batch=4",
    "fit.warmup_steps=1",
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ --set


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("fit r --set a=1 --data d --set b=2 c=3 --out o", "fit r --data d --out o --set a=1 b=2 c=3"),
        ("score run areas --k 3 --against x y --k 4", "score run areas --k 3 4 --against x y"),
        ("fit r --set", "fit r --set"),
        ("--help", "--help"),
    ],
)
def test_a_flag_given_twice_means_all_of_its_values(words, meant):
    assert together(words.split()) == meant.split()


def test_changes_given_one_by_one_all_count(sections, tmp_path):
    each = [word for change in SMALL for word in ("--set", change)]
    assert run("fit", "patches-tiny", "--data", sections, "--out", tmp_path / "run", *each) == 0
    assert Run.load(tmp_path / "run").recipe_values["fit"]["steps"] == 3
    assert Run.load(tmp_path / "run").recipe_values["samples"]["size_px"] == 32


def test_changes_are_toml_and_bare_words_are_text():
    given = (
        "fit.steps=300",
        "fit.lr=1e-3",
        "encoder.kind=vit",
        "partners.same_section=true",
        'a = "b=c"',
        "x=[1, 2]",
        "y=",
    )
    assert changes(given) == {
        "fit.steps": 300, "fit.lr": 1e-3, "encoder.kind": "vit", "partners.same_section": True, "a": "b=c", "x": [1, 2],
        "y": "",
    }  # fmt: skip
    assert changes(()) == {}


@pytest.mark.parametrize(("kind", "then"), [("areas", "embed {}"), ("layers", "score {} layers")])
def test_changes_and_paths_reach_the_verb(monkeypatch, tmp_path, capsys, kind, then):
    seen = {}

    def fit(recipe, data, out, **rest):
        seen.update(recipe=recipe, data=data, out=out, **rest)
        return SimpleNamespace(path=out, skipped=(), recipe_values={"tune": {"kind": kind}})

    monkeypatch.setattr(verbs, "fit", fit)
    out = tmp_path / "a run with spaces"
    assert (
        run("fit", "patches-tiny", "--data", "phantom", "--out", out, "--set", "fit.steps=3", "seed=9", "--threads", 1)
        == 0
    )
    assert (seen["recipe"].fit.steps, seen["recipe"].seed) == (3, 9)
    assert (seen["data"], seen["out"], seen["threads"]) == ("phantom", out, 1)
    # what asks the model of each patch needs no table
    assert f"brodmann {then.format(out)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("patches-tinny",), "did you mean 'patches-tiny'"),
        (("patches-tiny", "--set", "fit.stepz=3"), "fit.stepz: unknown key. Did you mean 'steps'?"),
        (("patches-tiny", "--set", "fit.steps"), "KEY=VALUE"),
        (("patches-tiny", "--set", "fit.steps=many"), "fit.steps: "),
        (("patches-tiny", "--set", "fit.steps.deep=1"), "override 'fit.steps.deep'"),
        (("nowhere.toml",), "'nowhere.toml' should be a recipe"),
        (("patches-tiny", "--threads", "0"), "--threads should be at least 1"),
    ],
)
def test_a_wrong_recipe_or_change_is_usage(words, said, tmp_path, capsys):
    assert run("fit", words[0], "--data", "phantom", "--out", tmp_path / "run", *words[1:]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("brain=2", "'brain' should be a setting of the phantom"),
        ("brains=two", "should be a whole number"),
        ("brains=2.5", "should be a whole number"),
        ("native_um=wide", "should be a number"),
    ],
)
def test_a_wrong_phantom_is_usage(asked, said, tmp_path, capsys):
    assert run("fit", "patches-tiny", "--data", f"phantom:{asked}", "--out", tmp_path / "run") == 2
    assert said in capsys.readouterr().err


def test_what_the_system_refuses_is_one_message(sections, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    changes = ("--set", *SMALL)
    assert run("fit", "patches-tiny", "--data", sections, "--out", tmp_path / "file" / "run", *changes) == 4
    assert f"should be written to {tmp_path / 'file' / 'run'}" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["file", "file/deep", "shut/run"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(where, tmp_path, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("the work began")

    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "shut").mkdir()
    made = Run.open(tmp_path / "run", recipe=verbs.recipe("patches-tiny"), system="patches", data_fingerprint="0")
    (made.path / "scores").mkdir()
    (made.path / "scores" / "areas-area.json").write_text("{}")
    with made.lock():
        made.seal()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "shut" not in str(path) and access(path, mode))
    monkeypatch.setattr(verbs, "open_source", work)
    monkeypatch.setattr(Score, "load", work)
    out = tmp_path / where
    for words in (("fit", "patches-tiny", "--data", "phantom", "--out", out), ("map", made.path, "--out", out)):
        assert run(*words) == 4
        assert f"should be written to {out}" in capsys.readouterr().err
    monkeypatch.setattr(verbs, "table", work)
    monkeypatch.setattr(os, "access", lambda path, mode: made.path not in (path, *path.parents))
    assert run("score", made.path) == 4
    assert f"should be written to {made.path}" in capsys.readouterr().err


def test_a_recipe_that_is_not_utf8_is_usage(tmp_path, capsys):
    (tmp_path / "mine.toml").write_bytes(b'# caf\xe9\nsystem = "patches"\n')
    assert run("fit", tmp_path / "mine.toml", "--data", "phantom", "--out", tmp_path / "run") == 2
    assert "not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [(), ("fti",), ("fit",), ("fit", "patches-tiny", "--outt", "x"), ("score", "x", "arias")]
)
def test_a_wrong_command_line_is_usage(words, capsys):
    assert run(*words) == 2
    assert capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- exit codes


def every_error() -> list[type[errors.BrodmannError]]:
    return [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.BrodmannError)][1:]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_an_error_becomes_its_exit_code_and_one_message(error, monkeypatch, tmp_path, capsys):
    def fail(*_, **__):
        raise error("this should be so.", found="that [red].", cause="a cause.", do="do this.")

    monkeypatch.setattr(verbs, "fit", fail)
    assert run("fit", "patches-tiny", "--data", "phantom", "--out", tmp_path) == error.exit_code
    told = capsys.readouterr().err
    assert told.startswith(f"{error.__name__}: this should be so.")
    assert all(part in told for part in ("found: that [red].", "likely cause: a cause.", "what to do: do this."))
    assert "Traceback" not in told


def test_exit_codes_are_the_promised_ones():
    codes = {error.__name__: error.exit_code for error in every_error()}
    assert codes == {
        "Usage": 2, "Changed": 2, "Refused": 6, "Leak": 6, "SpaceMismatch": 6, "Corrupt": 4, "NoRoom": 4,
        "Unwritable": 4, "Diverged": 4, "Locked": 5, "Interrupted": 130,
    }  # fmt: skip


def test_a_second_signal_stops_at_once(monkeypatch, tmp_path, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "fit", stop)
    assert run("fit", "patches-tiny", "--data", "phantom", "--out", tmp_path) == 130
    assert "goes on" in capsys.readouterr().err


def test_an_unknown_failure_is_not_swallowed(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(verbs, "fit", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fit", "patches-tiny", "--data", "phantom", "--out", str(tmp_path)])


@pytest.mark.parametrize(("skipped", "code"), [([], 0), ([("a.png", "damaged")], 3)])
def test_embed_says_that_items_were_skipped(skipped, code, monkeypatch, tmp_path, capsys):
    table = SimpleNamespace(n_obs=1234, n_vars=56)
    monkeypatch.setattr(verbs, "load", lambda path: path)
    monkeypatch.setattr(verbs, "tabulate", lambda *_, **__: None)
    monkeypatch.setattr(verbs, "table", lambda _: table)
    monkeypatch.setattr(atlases, "targets", lambda _: ["area", "layer"])
    monkeypatch.setattr(verbs, "skipped", lambda _: skipped, raising=False)
    assert run("embed", tmp_path) == code
    assert "1,234 rows of 56 features" in capsys.readouterr().out


def test_a_score_says_each_remark_once(monkeypatch, tmp_path, capsys):
    found = Score(
        task="areas", target="area", metric="macro-F1", value=0.4, interval=(0.3, 0.5), n=9, n_groups=3,
        remarks=("one brain",), baselines={"position": Estimate(0.2), "twin": Estimate(0.39)},
        gains={"position": Estimate(0.2, 0.1, 0.3), "twin": Estimate(0.01, -0.1, 0.1)},
    )  # fmt: skip
    monkeypatch.setattr(results, "score", lambda *_, **__: found)
    assert run("score", tmp_path) == 0
    told = capsys.readouterr().out
    assert "Better than position.\nNot told apart from twin." in told
    assert told.count("one brain") == 1
    assert "[0.300, 0.500]" in told


def test_the_self_test_trains_and_resumes_for_real():
    text, healthy = selftest.check()
    assert healthy, text
    assert "bit-identical" in text


def test_a_self_test_that_fails_still_says_what_the_machine_is(monkeypatch):
    def refuse(*_, **__):
        raise errors.Refused("training should work.", found="it does not.")

    monkeypatch.setattr(verbs, "fit", refuse)
    text, healthy = selftest.check()
    assert not healthy
    assert "Refused: training should work." in text
    assert "torch" in text


@pytest.mark.parametrize(("healthy", "code"), [(True, 0), (False, 4)])
def test_check_fails_when_a_resumed_run_differs(healthy, code, monkeypatch, capsys):
    monkeypatch.setattr(selftest, "check", lambda: ("all [that] there is", healthy))
    assert run("check") == code
    assert "all [that] there is" in capsys.readouterr().out


def test_recipes_are_listed_with_what_they_are_for(capsys):
    assert run("recipes") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in listed] == verbs.recipe_names()
    assert all(len(row.split()) > 3 for row in listed)


# ---------------------------------------------------------------------------------------------------- with real files


def fit(sections, out, *more):
    return run("fit", "patches-tiny", "--data", sections, "--out", out, "--threads", 1, "--set", *SMALL, *more)


def test_data_that_are_not_there_are_refused(tmp_path, capsys):
    assert fit(tmp_path / "nothing", tmp_path / "run") == 6
    assert "check the path" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_fit_and_embed_say_how_many_sections_they_went_without(sections, tmp_path, capsys):
    (sections / "s5.png").write_bytes(b"not a picture")
    out = tmp_path / "run"
    for again in (False, True):
        assert fit(sections, out) == 3, again
        told = capsys.readouterr()
        assert "skipped s5.png: " in told.err
        assert told.out.splitlines()[-1].startswith("1 skipped")
    assert run("embed", out, "--no-controls") == 3
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 skipped")


def test_an_interrupted_run_goes_on_and_a_changed_recipe_is_refused(sections, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise errors.Interrupted("stopped after step 1 of 3; checkpoint written.", do="run the same command to go on.")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", interrupt)
        assert fit(sections, out) == 130
    assert "run the same command" in capsys.readouterr().err
    assert run("embed", out) != 0
    assert fit(sections, out) == 0
    assert (out / "weights" / "model.safetensors").is_file()
    assert fit(sections, out) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert fit(sections, out, "fit.steps=4", "seed=1") == 2
    told = capsys.readouterr().err
    assert "Changed" in told
    assert "fit.steps: 3 -> 4; seed: 0 -> 1" in told


def test_other_data_in_the_same_run_are_refused(sections, tmp_path, capsys):
    out = tmp_path / "run"
    assert fit(sections, out) == 0
    (sections / "s3.png").unlink()
    listed = json.loads((sections / "sections.json").read_text())
    listed["sections"] = [entry for entry in listed["sections"] if entry["file"] != "s3.png"]
    (sections / "sections.json").write_text(json.dumps(listed))
    assert fit(sections, out) == 2
    assert "fingerprint" in capsys.readouterr().err


def test_validate_tells_good_usable_and_refused_apart(sections, tmp_path, capsys):
    assert run("validate", sections, "--picture", tmp_path / "sheet.png") == 0
    told = capsys.readouterr().out
    assert "6 of 2 subjects" in told
    assert "ccf_v3" in told
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    whole = (sections / "s0.png").read_bytes()
    (sections / "s0.png").write_bytes(whole[: len(whole) // 2])
    assert run("validate", sections) == 3
    assert "s0.png" in capsys.readouterr().out
    assert run("validate", tmp_path / "nothing") == 6
    assert "refused" in capsys.readouterr().out


def test_a_verb_of_the_shell_is_a_verb_of_python():
    import brodmann

    assert set(cli.VERBS) - {"recipes", "check"} <= set(brodmann.__all__)
