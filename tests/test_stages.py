"""One command for a whole study: its stages, what it leaves out when called again, and processes that work together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from brodmann import cli, stages, verbs


@pytest.fixture
def launched(monkeypatch):
    """Commands that would have been launched; answers exit codes by the name of the verb."""
    found, codes = [], {}

    def launch(command, *, processes=1):
        found.append((list(command), processes))
        return codes.get(command[0], 0)

    monkeypatch.setattr(stages, "launch", launch)
    return found, codes


def study(tmp_path, **asked):
    return stages.pipeline("cells", "phantom:cells=20000", tmp_path / "run", changes=("seed=1",), **asked)


def test_stages_come_in_order_and_only_training_and_embedding_share_the_work(launched, tmp_path):
    assert study(tmp_path, target="domain", k=(354, 25), processes=2) == 0
    run = str(tmp_path / "run")
    assert launched[0] == [
        (["fit", "cells", "--data", "phantom:cells=20000", "--out", run, "--set", "seed=1"], 2),
        (["embed", run], 2),
        (["score", run, "domains", "--target", "domain", "--k", "354", "25"], 1),
        (["map", run, "domain_25"], 1),
        (["map", run, "domain_354"], 1),
    ]


def test_a_study_begins_with_a_trained_run_and_goes_on_as_any_other(launched, tmp_path):
    found, codes = launched
    trained, run = str(tmp_path / "trained"), str(tmp_path / "run")
    for code in (130, 0):
        codes["fit"] = code
        assert study(tmp_path, start=tmp_path / "trained", target="area", processes=1) == code
    began = ["fit", "cells", "--data", "phantom:cells=20000", "--out", run, "--start", trained, "--set", "seed=1"]
    assert [command for command, _ in found] == [
        began, began, ["embed", run], ["score", run, "areas", "--target", "area"], ["map", run, "area"],
    ]  # fmt: skip


def test_the_shell_hands_the_start_on(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(stages, "pipeline", lambda *_, **more: given.update(more) or 0)
    with pytest.raises(SystemExit) as ended:
        cli.main(["pipeline", "cells", "--data", "d", "--out", str(tmp_path), "--start", "trained", "--target", "x"])
    assert ended.value.code == 0
    assert str(given["start"]) == "trained"


@pytest.mark.parametrize(
    ("asked", "score", "mapped"),
    [
        ({"target": "area"}, ["areas", "--target", "area"], "area"),
        ({}, ["domains"], "domains"),
    ],
)
def test_the_question_follows_from_what_was_asked(launched, tmp_path, asked, score, mapped):
    study(tmp_path, **asked)
    run = str(tmp_path / "run")
    assert [command for command, _ in launched[0][2:]] == [["score", run, *score], ["map", run, mapped]]


def test_a_failed_stage_ends_the_study_with_its_code_and_skipped_items_do_not(launched, tmp_path, capsys):
    found, codes = launched
    codes |= {"fit": 3, "embed": 130}
    assert study(tmp_path) == 130
    assert [command[0] for command, _ in found] == ["fit", "embed"]
    assert "the same command goes on from here" in " ".join(capsys.readouterr().err.split())
    codes["embed"] = 0
    assert study(tmp_path) == 3


def test_what_is_scored_already_is_not_scored_again_unless_the_table_is_newer(launched, tmp_path):
    run = tmp_path / "run"
    for level in ("domain_25", "domain_354"):
        (run / "domains.zarr" / "obs" / level).mkdir(parents=True)
    (run / "features.zarr").mkdir()
    (run / "scores").mkdir()
    (run / "scores" / "domains-354_domains.json").write_text("{}")

    def verbs_of(k):
        launched[0].clear()
        study(tmp_path, k=k)
        return [command[0] for command, _ in launched[0]]

    assert verbs_of((25, 354)) == ["fit", "embed", "map", "map"]
    assert verbs_of((25, 354, 670)) == ["fit", "embed", "score", "map", "map", "map"]
    later = time.time() + 100
    os.utime(run / "features.zarr", (later, later))
    assert verbs_of((25, 354)) == ["fit", "embed", "score", "map", "map"]


def test_processes_divide_the_batch_and_patches_train_alone_on_a_processor(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert stages.share(verbs.recipe("cells", {"fit.batch": 8})) == 4
    assert stages.share(verbs.recipe("cells", {"fit.batch": 7})) == 1
    assert stages.share(verbs.recipe("cells", {"fit.batch": 12})) == 6
    assert stages.share(verbs.recipe("patches-tiny")) == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert stages.share(verbs.recipe("patches-tiny", {"fit.batch": 64})) == 4


def test_launched_processes_speak_once_and_a_failure_is_everyones(capfd):
    assert stages.launch(["recipes"], processes=2) == 0
    assert capfd.readouterr().out.count("cells-neighbourhood ") == 1
    assert stages.launch(["fit", "nothing", "--data", "phantom", "--out", "x"], processes=2) == 2


WAITS = """
import signal, sys, time
def told(number, frame):
    print("told", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, told)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_signal_is_passed_on_once_and_everyone_is_waited_for(tmp_path):
    """The processes of a stage hear of a Ctrl-C through their parent, which stays until they have stopped."""
    program = (
        "import subprocess, sys\nfrom brodmann import stages\n"
        "Popen = subprocess.Popen\n"
        f"stages.subprocess.Popen = lambda command, **more: Popen([sys.executable, '-c', {WAITS!r}], **more)\n"
        "sys.exit(stages.launch(['fit'], processes=2))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        heard = ""
        # two processes may write at once
        while heard.count("ready") < 2:
            heard += parent.stdout.read(1)
        parent.send_signal(signal.SIGINT)
        said = parent.stdout.read()
        assert parent.wait(timeout=30) == 130
    assert said.count("told") == 2
