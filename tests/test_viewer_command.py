"""`brodmann view` as people start it: it says its address, answers, and ends at Ctrl-C with its port free."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import viewerruns as planted
from brodmann.viewer import serve

pytest.importorskip("starlette", reason="the extra 'view' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'view' is not installed")

WAIT_S = 180


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return planted.make(tmp_path_factory.mktemp("command"))


def _hear_ctrl_c() -> None:
    """A shell's background jobs are started deaf to it, and pass that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(*words: object) -> subprocess.Popen[str]:
    found = shutil.which("brodmann", path=str(Path(sys.executable).parent))
    command = [found] if found else [sys.executable, "-m", "brodmann.cli"]
    return subprocess.Popen(
        [*command, "view", *map(str, words), "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, "COLUMNS": "200"}, preexec_fn=_hear_ctrl_c,
    )  # fmt: skip


def address(process: subprocess.Popen[str]) -> str:
    """What it says, read until the address; a process that says none is ended."""
    late = threading.Timer(WAIT_S, process.kill)
    late.start()
    said = ""
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", said)):
            line = process.stdout.readline()
            assert line, f"ended without an address: {said}"
            said += line
    finally:
        late.cancel()
    return found[0]


def test_it_says_its_address_answers_and_ends_at_ctrl_c_with_the_port_free(run):
    with started(run) as process:
        try:
            url = urlsplit(address(process))
            asked = http.client.HTTPConnection(url.hostname, url.port, timeout=WAIT_S)
            for path, status in ((url.path, 200), (f"{url.path}runs", 200), ("/", 403), ("/runs", 403)):
                asked.request("GET", path)
                answer = asked.getresponse()
                body = answer.read()
                assert answer.status == status, path
                assert (b"<!doctype html>" in body) == (path == url.path)
            # the connection stays open, as a browser's does
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
        assert "Traceback" not in process.stdout.read()
        asked.close()
    again = serve.bound(url.port)
    again.close()


def test_a_taken_port_and_a_folder_without_a_run_are_told(run, tmp_path):
    taken = serve.bound(0)
    try:
        for words, told in (
            ((run, "--port", taken.getsockname()[1]), "should be free"),
            ((tmp_path,), "run folder"),
        ):
            with started(*words) as process:
                said, _ = process.communicate(timeout=WAIT_S)
            assert process.returncode == 2, said
            assert told in said
            assert "Traceback" not in said
    finally:
        taken.close()


def test_ctrl_c_while_it_opens_ends_it(run):
    with started(run) as process:
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        try:
            # before Python listens to signals it dies of this one; afterwards it ends as any command does
            assert process.wait(WAIT_S) in {0, 130, -signal.SIGINT}
        finally:
            process.kill()
