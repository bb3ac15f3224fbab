"""The feature store gives back what was put in, by section too, in the same bytes every time, or says what is wrong."""

from __future__ import annotations

import json
import random
import warnings
from itertools import pairwise

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr

from brodmann import features, manifest, pieces
from brodmann.errors import Corrupt, NoRoom, Refused, SpaceMismatch, Usage
from brodmann.space import CCF_V3, PHANTOM, unregistered

N = 60


def rows(n=N, sections=3):
    draw = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "id": [f"n{i}" for i in range(n)],
            "subject": pd.Categorical(["B1"] * n),
            "section": pd.Categorical([f"B1_s{i * sections // n}" for i in range(n)]),
            "x_um": draw.random(n) * 1e4,
            "inside": draw.random(n) > 0.5,
            "area": [None if i % 7 == 0 else f"A{i % 3}" for i in range(n)],
            "layer": draw.integers(1, 7, n),
        }
    )
    return obs, draw.standard_normal((n, 5)).astype(np.float32), draw.random((n, 3)) * 20


def write(path, n=N, space=PHANTOM, **changes):
    obs, X, xyz = rows(n)
    given = {"X": X, "obs": obs, "space": space, "xyz": xyz, "obsm": {"baseline_profile": X[:, :2] * 1e6}, **changes}
    return features.write(path, **given, uns={"system": "patches", "encoder_fold": -1, "split": {"by": "brain"}})


def test_there_and_back(tmp_path):
    obs, X, xyz = rows()
    write(tmp_path / "t.zarr")
    table = features.read(tmp_path / "t.zarr")
    assert table.X.dtype == np.float16
    assert np.array_equal(table.X, X.astype(np.float16))
    assert table.obsm["xyz"].dtype == np.float32
    assert np.array_equal(table.obsm["xyz"], xyz.astype(np.float32))
    assert np.array_equal(table.obsm["baseline_profile"], X[:, :2] * np.float32(1e6))
    assert list(table.obs_names) == list(obs["id"])
    for column in obs:
        assert [str(v) for v in table.obs[column].astype(object).where(table.obs[column].notna(), None)] == [
            str(v) for v in obs[column]
        ]
    assert features.space_of(table) == PHANTOM
    assert table.uns["brodmann"]["format"] == 1
    assert table.uns["brodmann"]["split"] == {"by": "brain"}


def test_rows_of_a_section_are_brought_together(tmp_path):
    obs, X, xyz = rows()
    order = np.random.default_rng(5).permutation(N)
    table = write(tmp_path / "t.zarr", obs=obs.iloc[order], X=X[order], xyz=xyz[order], obsm={})
    sections = table.obs["section"].astype(str).tolist()
    assert sum(a != b for a, b in pairwise(sections)) == 2
    back = [int(name[1:]) for name in table.obs_names]
    assert np.array_equal(table.X, X[back].astype(np.float16))
    assert np.array_equal(table.obsm["xyz"], xyz[back].astype(np.float32))


def test_same_table_same_bytes_and_no_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a", "b"):
            write(tmp_path / name)
            features.read(tmp_path / name)
    files = manifest.files(tmp_path / "a")
    assert files == manifest.files(tmp_path / "b")
    assert [
        name for name in files if (tmp_path / "a" / name).read_bytes() != (tmp_path / "b" / name).read_bytes()
    ] == []
    assert not anndata.settings.auto_shard_zarr_v3
    assert not zarr.config.get("array.write_empty_chunks")


def test_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write(tmp_path / "t.zarr")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(features._anndata.experimental, "write_dispatched", full)
        with pytest.raises(NoRoom, match="the feature table needs"):
            write(tmp_path / "t.zarr", n=30)
    assert features.read(tmp_path / "t.zarr").n_obs == N
    assert [path.name for path in tmp_path.iterdir()] == ["t.zarr"]
    write(tmp_path / "t.zarr", n=30)
    assert features.read(tmp_path / "t.zarr").n_obs == 30


def test_what_is_refused_at_the_door(tmp_path):
    obs, X, xyz = rows()
    X[3, 1] = 1e6
    with pytest.raises(Refused, match="1 of 60 rows hold NaN, infinity or a value too large"):
        write(tmp_path / "t", X=X)
    with pytest.raises(Refused, match="'n0' more than once"):
        write(tmp_path / "t", obs=obs.assign(id="n0"))
    with pytest.raises(Refused, match="'xyz' should have a row per row"):
        write(tmp_path / "t", xyz=xyz[:5])
    with pytest.raises(Refused, match="too large"):
        write(tmp_path / "t", xyz=xyz * 1000)
    assert not list(tmp_path.iterdir())


def test_newer_and_foreign_tables_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(features, "FORMAT", 2)
        write(tmp_path / "new.zarr")
    with pytest.raises(Refused, match="format 2"):
        features.read(tmp_path / "new.zarr")
    zarr.open_group(str(tmp_path / "foreign.zarr"), mode="w")
    with pytest.raises(Refused, match="without uns"):
        features.read(tmp_path / "foreign.zarr")
    with pytest.raises(Usage, match="nothing there"):
        features.read(tmp_path / "absent.zarr")


def test_damaged_and_missing_chunks_are_errors_never_zeros(tmp_path, monkeypatch):
    """The library's own defaults read a lost chunk as zeros and a flipped bit as another number."""
    monkeypatch.setattr(pieces, "_CHUNK_BYTES", 400)
    _, X, _ = rows()
    write(tmp_path / "t.zarr", X=np.where(np.arange(N)[:, None] < 30, 0, X))
    draw = random.Random(3)
    arrays = [p for p in (tmp_path / "t.zarr").rglob("c/**/*") if p.is_file() and "uns" not in p.parts]
    assert len(arrays) > 20
    for path in arrays:
        whole = path.read_bytes()
        for _ in range(2):
            damaged, bit = bytearray(whole), draw.randrange(8 * len(whole))
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bytes(damaged))
            with pytest.raises(Corrupt, match="should be readable"):
                features.read(tmp_path / "t.zarr")
        path.unlink()
        with pytest.raises(Corrupt, match=r"\d of \d+ chunks of '"):
            features.read(tmp_path / "t.zarr")
        path.write_bytes(whole)
    meta = tmp_path / "t.zarr" / "X" / "zarr.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "shape": [10**7, 10**7]}))
    with pytest.raises(Corrupt, match="chunks of 'X'"):
        features.read(tmp_path / "t.zarr")


def in_pieces(path, X, obs, xyz, at=25, **more):
    found = ({"X": X[i : i + at], "baseline_profile": X[i : i + at, :2] * 1e6} for i in range(0, len(X), at))
    given = {"system": "patches", "encoder_fold": -1, "split": {"by": "brain"}}
    features.write_pieces(path, found, obs, PHANTOM, xyz, uns=given, **more)


def test_pieces_give_the_bytes_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "_CHUNK_BYTES", 90)
    obs, X, xyz = rows()
    write(tmp_path / "whole")
    for at in (1, 7, 60):
        in_pieces(tmp_path / f"{at}", X, obs, xyz, at)
        assert manifest.files(tmp_path / "whole") == manifest.files(tmp_path / f"{at}")
        for name in manifest.files(tmp_path / "whole"):
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / f"{at}" / name).read_bytes(), name


def test_pieces_are_refused_like_the_whole(tmp_path):
    obs, X, xyz = rows()
    with pytest.raises(Refused, match="sections that begin twice"):
        in_pieces(tmp_path / "t", X, obs.iloc[::-1].assign(section=[f"s{i % 2}" for i in range(N)]), xyz)
    with pytest.raises(Refused, match="55 and 60 rows"):
        in_pieces(tmp_path / "t", X[:55], obs, xyz)
    X[40, 0] = np.nan
    with pytest.raises(Refused, match="features in float16 should be finite"):
        in_pieces(tmp_path / "t", X, obs, xyz)
    assert not list(tmp_path.iterdir())


def test_large_arrays_stay_on_disk_until_they_are_asked_for(tmp_path, monkeypatch):
    _, X, _ = rows()
    write(tmp_path / "t.zarr")
    monkeypatch.setattr(features, "_HELD_BYTES", N * 2 * 4 - 1)
    table = features.read(tmp_path / "t.zarr")
    stored = table.obsm["baseline_profile"]
    assert isinstance(stored, zarr.Array)
    assert isinstance(table.obsm["xyz"], np.ndarray)
    assert np.array_equal(np.asarray(stored), X[:, :2] * np.float32(1e6))
    assert np.array_equal(table[10:20].copy().obsm["baseline_profile"], X[10:20, :2] * np.float32(1e6))
    monkeypatch.setattr(features, "_HELD_BYTES", N * 2 * 4)
    assert isinstance(features.read(tmp_path / "t.zarr").obsm["baseline_profile"], np.ndarray)


def test_what_a_table_is_of_is_known_without_reading_it(tmp_path):
    write(tmp_path / "t.zarr")
    for chunk in (tmp_path / "t.zarr" / "X" / "c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    about, names = features.about(tmp_path / "t.zarr")
    assert about["system"] == "patches"
    assert about["split"] == {"by": "brain"}
    assert names == {"baseline_profile", "xyz"}
    with pytest.raises(Usage, match="nothing there"):
        features.about(tmp_path / "absent.zarr")


def test_join_by_place(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", n=30)
    b.obsm["xyz"][:] = a.obsm["xyz"][:30][::-1]
    b.obsm["xyz"][0] += 0.4
    joined = features.join(a, b, within_mm=1e-3)
    assert list(joined.obs_names) == [f"n{i}" for i in range(29)]
    assert joined.obs["joined_id"].tolist() == [f"n{29 - i}" for i in range(29)]
    assert np.array_equal(joined.obsm["X_joined"], b.X[::-1][:29])
    assert joined.uns["joined"] == {"within_mm": 1e-3, "kept": 29, "left_out": 31}
    assert "joined_mm" in joined.obs
    assert "X_joined" not in a.obsm


def test_join_only_within_one_registered_space(tmp_path):
    a = write(tmp_path / "a")
    _, _, xyz = rows()
    with pytest.raises(SpaceMismatch, match="ccf_v3"):
        features.join(a, write(tmp_path / "b", space=CCF_V3, xyz=xyz / 4), within_mm=1)
    loose = write(tmp_path / "c", space=unregistered(30, 20))
    with pytest.raises(Refused, match="not aligned"):
        features.join(loose, loose, within_mm=1)
    far = write(tmp_path / "d", xyz=xyz + 60)
    with pytest.raises(Refused, match=r"the nearest two are \d+\.\d+ mm apart"):
        features.join(a, far, within_mm=1)
