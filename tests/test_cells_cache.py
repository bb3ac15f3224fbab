"""The cache of converted cells: used again, found when damaged, whole whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time

import h5py
import numpy as np
import pandas as pd
import pytest

from brodmann.cells import cache, convert
from brodmann.cells.panel import Panel
from brodmann.errors import Corrupt, Refused
from brodmann.space import PHANTOM
from cellfiles import cells, frame, read

pytestmark = pytest.mark.usefixtures("own_cache")


def test_cache_is_used_again_and_follows_the_content(tmp_path, monkeypatch):
    data = cells()
    path = tmp_path / "d.h5ad"
    data.write_h5ad(path)
    first = read(path)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(path, moved / "d.h5ad")
    monkeypatch.setattr(convert, "convert", None)
    again = read(moved / "d.h5ad")
    assert again.folder == first.folder
    assert again.fingerprint == first.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("BRODMANN_CACHE", str(tmp_path / "cache"))
    with h5py.File(path, "a") as file:
        file["X/data"][3] += 1
    changed = read(path)
    assert changed.folder != first.folder
    assert changed.fingerprint != first.fingerprint
    assert read(data).fingerprint == first.fingerprint


def test_damaged_cache_is_found_and_made_anew(tmp_path):
    data = cells()
    data.write_h5ad(tmp_path / "d.h5ad")
    found = read(tmp_path / "d.h5ad")
    folder, wanted = found.folder, frame(found)
    counts = folder / "count.bin"
    whole = counts.read_bytes()
    counts.write_bytes(whole[:-2])
    with pytest.raises(Corrupt, match="bytes"):
        cache.read(folder)
    pd.testing.assert_frame_equal(frame(read(tmp_path / "d.h5ad")), wanted)
    counts.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    cache.read(folder)
    with pytest.raises(Corrupt, match="checksum"):
        cache.read(folder, verify=True)
    (folder / "manifest.json").write_text("{")
    pd.testing.assert_frame_equal(frame(read(tmp_path / "d.h5ad")), wanted)


def _convert(path, home, queue):
    os.environ["BRODMANN_CACHE"] = str(home)
    queue.put(read(path).fingerprint)


def test_concurrent_and_killed_conversions(tmp_path):
    cells(3000, sections=tuple("abcdefgh")).write_h5ad(tmp_path / "d.h5ad")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_convert, args=(tmp_path / "d.h5ad", tmp_path / "c", queue)) for _ in range(2)]
    for process in both:
        process.start()
    prints = {queue.get(timeout=60) for _ in both}
    for process in both:
        process.join()
    assert len(prints) == 1
    assert [path.name.count(".partial") for path in (tmp_path / "c").iterdir()] == [0]
    # a process killed in the middle leaves a folder of its own, which the next one sweeps
    killed = context.Process(target=_convert_slowly, args=(tmp_path / "d.h5ad", tmp_path / "k"))
    killed.start()
    until = time.monotonic() + 30
    while not list((tmp_path / "k").glob("*.partial/gene.bin")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert list((tmp_path / "k").glob("*.partial"))
    os.environ["BRODMANN_CACHE"] = str(tmp_path / "k")
    assert read(tmp_path / "d.h5ad").fingerprint in prints
    assert not list((tmp_path / "k").glob("*.partial"))


def _convert_slowly(path, home):
    os.environ["BRODMANN_CACHE"] = str(home)
    add = cache.Writer.section

    def slow(self, *args, **kwargs):
        add(self, *args, **kwargs)
        time.sleep(5)

    cache.Writer.section = slow
    read(path)


def test_writer_checks_what_it_is_given(tmp_path):
    def csr(n, genes=2):
        return np.arange(n + 1), np.full(n, genes - 1, np.uint16), np.ones(n, np.uint16)

    xy = np.random.default_rng(0).uniform(0, 100, (5, 2))
    space = PHANTOM
    with cache.Writer(tmp_path / "w", Panel(("a", "b")), space, name="made") as writer:
        writer.section("s1", "m1", ids=list("abcde"), xy_um=xy, csr=csr(5), labels=pd.DataFrame({"t": range(5)}))
        writer.section("s2", "m1", ids=[], xy_um=xy[:0])
        labels = pd.DataFrame({"u": ["p", "q", None, "p", "nan"]})
        writer.section("s3", "m1", ids=list("fghij"), xy_um=xy, xyz_mm=np.ones((5, 3)), csr=csr(5), labels=labels)
        with pytest.raises(Refused, match="ordered"):
            writer.section("s0", "m1", ids=list("xyzuv"), xy_um=xy, csr=csr(5))
        with pytest.raises(Refused, match="below 2"):
            writer.section("s4", "m1", ids=list("xyzuv"), xy_um=xy, csr=csr(5, genes=3))
        assert not (tmp_path / "w").exists()
    with cache.Writer(tmp_path / "w", Panel(("a", "b")), space, name="made") as writer:
        writer.section("s1", "m1", ids=list("abcde"), xy_um=xy, csr=csr(5), labels=pd.DataFrame({"t": range(5)}))
        writer.section("s2", "m1", ids=[], xy_um=xy[:0])
        writer.section("s3", "m1", ids=list("fghij"), xy_um=xy, xyz_mm=np.ones((5, 3)), csr=csr(5), labels=labels)
        made = writer.close(remarks=["said"])
    assert made.remarks == ["said"]
    assert made.skipped == [("s2", "no cells")]
    assert sorted(made.ids()) == list("abcdefghij")
    assert made.labels["t"].isna().tolist() == [False] * 5 + [True] * 5
    assert made.labels["u"].isna().sum() == 7
    assert np.array_equal(made.xyz_mm[5:], np.ones((5, 3)))
    assert made.types is None
    assert made.volume_um3 is None
