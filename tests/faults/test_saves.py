"""Whatever the disk or the power does during a save, an intact checkpoint loads afterwards."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import Killed, disk, kill_until_done

from brodmann import atomic, checkpoint, lock, manifest, weights
from brodmann.errors import BrodmannError, Corrupt, Locked, NoRoom, Unwritable
from brodmann.ledger import Ledger
from brodmann.patches.recipe import Recipe
from brodmann.run import Run


@pytest.fixture
def tmp_path(tmp_path):
    """A folder in memory where there is one: thousands of fsyncs on a disk take minutes."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="brodmann-") as folder:
        yield Path(folder)


def state(step):
    draw = torch.Generator().manual_seed(step)
    return {"model.w": torch.randn(50, 7, generator=draw), "optimizer.0.step": torch.tensor(float(step))}


def save(folder, step):
    checkpoint.save(folder, step, state(step), {"at": step})


def same(found, step):
    return (
        found is not None
        and found[0] == step
        and found[2] == {"at": step}
        and all(torch.equal(found[1][name], value) for name, value in state(step).items())
    )


def failure(folder, step):
    """The named error that a save ends in; None if it passes."""
    try:
        save(folder, step)
    except BrodmannError as error:
        return error


def quiet(_):
    pass


def started(folder, saved):
    for step in range(1, saved + 1):
        save(folder, step)
    return folder


@pytest.mark.parametrize("saved", [0, 1, 2, 3])
def test_killed_at_every_call_of_a_save(tmp_path, saved):
    """F2: SQLite's loop over all points of death, until a save passes untouched."""
    k, points = 0, set()
    while True:
        k += 1
        folder = started(tmp_path / str(k), saved)
        with disk(k) as state_of_disk:
            try:
                save(folder, saved + 1)
                clean = True
            except Killed:
                clean = False
        if clean:
            break
        points.add(state_of_disk.failed)
        found = checkpoint.load(folder, say=pytest.fail)
        assert (found is None and saved == 0) or same(found, saved) or same(found, saved + 1), (k, found)
        assert not any(manifest.problems(folder / f"ckpt-{step:09d}") for step in checkpoint.steps(folder))
        # the next life saves that step, and the one after, and leaves no debris
        save(folder, saved + 1)
        save(folder, saved + 2)
        assert same(checkpoint.load(folder, say=pytest.fail), saved + 2)
        assert checkpoint.steps(folder)[-2:] == ([saved + 1, saved + 2])
        assert not list(folder.glob("*.partial"))
        shutil.rmtree(folder)
    assert k > 15
    assert points >= {"open", "write", "fsync", "mkdir", "rename", "replace"} | (
        {"unlink", "rmdir"} if saved > 1 else set()
    )


@pytest.mark.parametrize("forever", [True, False], ids=["stays_full", "freed_at_once"])
def test_full_disk_at_every_write(tmp_path, forever):
    """F6: the error names the bytes; the last checkpoint is untouched; afterwards the same save works."""
    k = 0
    while True:
        k += 1
        folder = started(tmp_path / str(k), 2)
        with disk(k, error=errno.ENOSPC, forever=forever):
            error = failure(folder, 3)
        if error is None:
            break
        assert isinstance(error, NoRoom)
        assert (error.exit_code, error.errno) == (4, errno.ENOSPC)
        assert "bytes in" in str(error)
        assert "bytes free" in str(error)
        found = checkpoint.load(folder, say=pytest.fail)
        assert same(found, 2) or same(found, 3), (k, found)
        assert not list(folder.glob("ckpt-*.partial"))
        save(folder, 3)
        assert same(checkpoint.load(folder, say=pytest.fail), 3)
    assert k > 8


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EROFS, errno.ESTALE])
def test_refusing_disk_at_every_call(tmp_path, code):
    """F7: never swallowed, exit 4, last checkpoint untouched."""
    k = 0
    while True:
        k += 1
        folder = started(tmp_path / str(k), 2)
        with disk(k, error=code, forever=False):
            error = failure(folder, 3)
        if error is None:
            break
        assert isinstance(error, Unwritable)
        assert (error.exit_code, error.errno) == (4, code)
        assert os.strerror(code) in str(error)
        found = checkpoint.load(folder, say=pytest.fail)
        assert same(found, 2) or same(found, 3), (k, found)
        save(folder, 3)
        assert same(checkpoint.load(folder, say=pytest.fail), 3)
    assert k > 20


def test_quota_and_short_writes(tmp_path, monkeypatch):
    folder = started(tmp_path, 1)
    with disk(6, error=errno.EDQUOT), pytest.raises(NoRoom, match=r"needs [\d,]+ bytes"):
        save(folder, 2)
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, memoryview(data)[: max(1, len(data) // 3)]))
    save(folder, 2)
    assert same(checkpoint.load(folder, say=pytest.fail), 2)


def test_room_is_checked_before_writing(tmp_path, monkeypatch):
    folder = started(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    with disk() as counted, pytest.raises(NoRoom, match="checkpoint 1 is untouched") as caught:
        save(folder, 2)
    assert f"{weights.size(state(2)):,}"[:2] in str(caught.value)
    assert "1,000 bytes free" in str(caught.value)
    assert counted.count == 0


def test_really_full_disk(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.strip()}")
    try:
        folder = tmp_path / "checkpoints"
        big = {"w": torch.ones(20_000)}
        checkpoint.save(folder, 1, big, {})
        checkpoint.save(folder, 2, big, {})
        for usage in (shutil.disk_usage, lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9)):
            # second turn: the check beforehand is fooled, as by another process that writes meanwhile
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(shutil, "disk_usage", usage)
                with pytest.raises(NoRoom, match=r"needs 8\d,\d\d\d bytes"):
                    checkpoint.save(folder, 3, big, {})
            assert checkpoint.load(folder, say=pytest.fail)[0] == 2
            assert not list(folder.glob("*.partial"))
        shutil.rmtree(folder / "ckpt-000000001")
        checkpoint.save(folder, 3, big, {})
        assert checkpoint.load(folder, say=pytest.fail)[0] == 3
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_without_permission(tmp_path):
    (tmp_path / "plain").write_text("a file where the folder should be")
    with pytest.raises(Unwritable, match="should be written"):
        save(tmp_path / "plain" / "checkpoints", 1)


def test_damaged_newest_falls_back_and_says_so(tmp_path):
    folder = started(tmp_path, 3)
    flip(folder / "ckpt-000000003" / "tensors.safetensors", 300)
    said = []
    assert same(checkpoint.load(folder, say=said.append), 2)
    assert "checkpoint 3 is damaged" in said[0]
    save(folder, 3)
    assert same(checkpoint.load(folder, say=pytest.fail), 3)
    for step in (2, 3):
        flip(folder / f"ckpt-{step:09d}" / "extra.json", 3)
    with pytest.raises(Corrupt, match=r"ckpt-000000003.*ckpt-000000002"):
        checkpoint.load(folder, say=quiet)


def test_pruning_counts_only_intact_checkpoints(tmp_path):
    folder = started(tmp_path, 2)
    flip(folder / "ckpt-000000002" / "tensors.safetensors", 300)
    save(folder, 3)
    assert checkpoint.steps(folder) == [1, 2, 3]
    assert (folder / "LATEST").read_text() == "ckpt-000000003\n"


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def every_death(tmp_path, prepare, act, check):
    """Kill ``act`` at every call; ``check`` after each death, and that acting again gives the clean run's bytes."""
    folder = tmp_path / "clean"
    prepare(folder)
    act(folder)
    wanted = {name: manifest.sha256(folder / name) for name in manifest.files(folder)}
    k = 0
    while True:
        k += 1
        folder = tmp_path / f"k{k}"
        prepare(folder)
        with disk(k):
            try:
                act(folder)
                return k
            except Killed:
                pass
        check(folder)
        act(folder)
        assert {name: manifest.sha256(folder / name) for name in manifest.files(folder)} == wanted, k


def test_killed_while_a_shard_is_kept(tmp_path):
    arrays = [{"X": np.full((3, 2), shard, np.float16), "baseline_u": np.ones((3, 1))} for shard in range(3)]

    def ledger(folder):
        return Ledger(folder, rows=9, shard_rows=3, key="k", say=pytest.fail)

    def prepare(folder):
        folder.mkdir()
        ledger(folder).add(0, arrays[0])

    def act(folder):
        book = ledger(folder)
        for shard in book.missing():
            book.add(shard, arrays[shard])

    def check(folder):
        assert 0 not in ledger(folder).missing()

    assert every_death(tmp_path, prepare, act, check) > 15
    got = list(ledger(tmp_path / "clean").collect())
    assert all((got[shard]["X"] == shard).all() for shard in range(3))


def test_killed_while_a_bundle_is_replaced(tmp_path):
    old, new = {"w": torch.zeros(9)}, {"w": torch.ones(9)}

    def check(folder):
        # a bundle is old or new; between its two renames it is set aside, whole, and put back by the next writer
        atomic.settle(folder / "weights")
        read, _ = weights.read_bundle(folder / "weights")
        assert torch.equal(read["w"], old["w"]) or torch.equal(read["w"], new["w"])

    every_death(
        tmp_path,
        lambda folder: weights.write_bundle(folder / "weights", old, {"a": 1}, "card"),
        lambda folder: weights.write_bundle(folder / "weights", new, {"a": 2}, "card"),
        check,
    )


def test_killed_while_a_run_is_made_logged_and_sealed(tmp_path, monkeypatch):
    monkeypatch.setattr("brodmann.environment.describe", lambda: {"python": "3"})

    def act(folder):
        run = Run.open(folder, recipe=Recipe(), system="patches", data_fingerprint="f", say=quiet)
        with run.lock():
            run.trim(1)
            run.log({"step": 1, "loss": 0.5})
            run.write_text("scores/areas.json", "{}")
            run.seal()

    def check(folder):
        if (folder / "run.json").exists():
            assert Run.load(folder, verify=False).metrics() in ([], [{"step": 1, "loss": 0.5}])
            if (folder / manifest.NAME).exists():
                Run.load(folder)

    # the locks of the dead belong to this very process, whose number is alive
    monkeypatch.setattr(lock, "_alive", lambda *_: False)
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)
    assert every_death(tmp_path, lambda folder: folder.mkdir(), act, check) > 40


HOLD = """
import sys, time
from pathlib import Path
from brodmann.lock import Lock
with Lock(Path(sys.argv[1]), say=print):
    print("held", flush=True)
    time.sleep(60)
"""


def held(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("has_flock", [True, False])
def test_one_writer_and_a_stale_lock(tmp_path, monkeypatch, has_flock):
    """F9."""
    if not has_flock:

        def refuse(*_):
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr(lock.fcntl, "flock", refuse)
    process = held(tmp_path)
    said = []
    try:
        with pytest.raises(Locked, match=f"process {process.pid}") as caught, lock.Lock(tmp_path, say=said.append):
            pass
        assert caught.value.exit_code == 5
        assert not said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with lock.Lock(tmp_path, say=said.append) as mine:
        assert "taking over" in said[0]
        assert str(process.pid) in said[0]
        mine.check()
    assert not (tmp_path / lock.NAME).exists()


@pytest.mark.parametrize(("age_s", "host", "live"), [(30, "elsewhere", True), (700, "elsewhere", False)])
def test_heartbeat_of_another_host(tmp_path, age_s, host, live):
    path = tmp_path / lock.NAME
    path.write_text(f'{{"host": "{host}", "pid": 1, "start": "1", "token": "t"}}')
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))
    mine = lock.Lock(tmp_path, say=quiet)
    if live:
        with pytest.raises(Locked, match="process 1 on elsewhere"), mine:
            pass
    else:
        with mine:
            mine.check()


def test_flock_outweighs_what_the_file_says(tmp_path):
    path = tmp_path / lock.NAME
    path.write_text('{"host": "elsewhere", "pid": 1, "start": "1", "token": "t"}')
    os.utime(path, (1, 1))
    with path.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Locked), lock.Lock(tmp_path, say=pytest.fail):
            pass


def test_a_number_used_again_is_not_the_writer(tmp_path):
    import socket

    (tmp_path / lock.NAME).write_text(
        f'{{"host": "{socket.gethostname()}", "pid": {os.getpid()}, "start": "before", "token": "t"}}'
    )
    with lock.Lock(tmp_path, say=quiet) as mine, mine:
        mine.check()
        (tmp_path / lock.NAME).write_text('{"host": "x", "pid": 1, "start": "", "token": "theirs"}')
        with pytest.raises(Locked, match="taken it over"):
            mine.check()


RACE = """
import errno, fcntl, os, sys, time
from pathlib import Path
from brodmann import lock
from brodmann.errors import Locked
folder, has_flock = Path(sys.argv[1]), sys.argv[2] == "True"
def refuse(*_):
    raise OSError(errno.ENOLCK, "no locks")
if not has_flock:
    fcntl.flock = refuse
while not (folder / "go").exists():
    time.sleep(0.001)
try:
    with lock.Lock(folder, say=lambda _: None):
        handle = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)
        time.sleep(1.5)
        os.unlink(folder / "inside")
        print("won")
except Locked:
    print("lost")
except FileExistsError:
    print("two inside")
"""


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_crowd_takes_over_one_stale_lock(tmp_path, has_flock):
    (tmp_path / lock.NAME).write_text('{"host": "elsewhere", "pid": 1, "start": "1", "token": "t"}')
    os.utime(tmp_path / lock.NAME, (1, 1))
    crowd = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), str(has_flock)], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=60)[0].strip() for process in crowd]
    assert sorted(said) == ["lost"] * 5 + ["won"]


WORK = """
import sys, zlib
from pathlib import Path
from brodmann import atomic
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
log, total = folder / "log.jsonl", folder / "total"
atomic.mend(log)
start = int(total.read_text().split()[0]) if total.exists() else 0
value = int(total.read_text().split()[1]) if total.exists() else 0
atomic.rewrite(log, [r for r in atomic.lines(log) if r["step"] < start])
(folder / "pid").write_text(str(__import__("os").getpid()))
for step in range(start, 20000):
    value = zlib.crc32(f"{value}/{step}".encode())
    atomic.append(log, {"step": step, "value": value}, durable=False)
    if (step + 1) % 5 == 0:
        atomic.write_text(total, f"{step + 1} {value}")
"""


def test_a_storm_of_kills_changes_nothing(tmp_path):
    """F1 in small: the protocol of the run folder, without a model, under real SIGKILL."""

    def ready(pid, _):
        path = tmp_path / "stormy" / "pid"
        return path.exists() and path.read_text() == str(pid)

    def command(name):
        return [sys.executable, "-c", WORK, str(tmp_path / name)]

    subprocess.run(command("calm"), check=True)
    storm = kill_until_done(command("stormy"), kills=8, seed=3, mean_delay_s=0.015, ready=ready, timeout_s=60)
    assert storm.effective == 8
    for name in ("log.jsonl", "total"):
        assert (tmp_path / "calm" / name).read_bytes() == (tmp_path / "stormy" / name).read_bytes()
