"""Damaged, lying and hostile precomputed volumes: a named error, before memory is taken, never wrong pixels."""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.patches import readers
from brodmann.patches.readers import shards
from brodmann.patches.readers.blocks import CACHED
from brodmann.patches.readers.precomputed import Precomputed

sys.path.insert(0, str(Path(__file__).parents[1]))
import images

SIZE = (100, 150)


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return images.write_precomputed(tmp_path / "v", images.reduced(images.noise(*SIZE), 2), 2.0)


def change(path: Path, **values: Any) -> None:
    """Edit ``info``; keys of a scale change the first scale."""
    info = json.loads((path / "info").read_text())
    for key, value in values.items():
        (info if key in info or key == "type" else info["scales"][0])[key] = value
    (path / "info").write_text(json.dumps(info))


def everything(path: Path) -> np.ndarray:
    """All pixels of the one section, not from a cache."""
    CACHED._items.clear()
    shards.INDICES._items.clear()
    source = readers.read(path)
    return source.sections[0].overview(2.0)[0]


HUGE = 2**62
LIES = [
    ({"key": "../v/2000_2000_20000"}, "plain names"),
    ({"key": "/etc"}, "plain names"),
    ({"key": "a\\b"}, "plain names"),
    ({"key": "http://x"}, "plain names"),
    ({"key": ""}, "plain names"),
    ({"key": 7}, "precomputed format"),
    ({"size": [HUGE, 10, 1]}, "precomputed format"),
    ({"size": [10_000_000, 10_000_000, 1]}, "reduced copy"),
    ({"size": [150, 100]}, "precomputed format"),
    ({"size": [-1, 100, 1]}, "precomputed format"),
    ({"size": [150.5, 100, 1]}, "precomputed format"),
    ({"size": [True, 100, 1]}, "precomputed format"),
    ({"chunk_sizes": [[100_000, 100_000, 1]]}, "at most 256 MB"),
    ({"chunk_sizes": [[0, 64, 64]]}, "precomputed format"),
    ({"chunk_sizes": []}, "precomputed format"),
    ({"num_channels": 10**9}, "precomputed format"),
    ({"num_channels": 4}, "one channel should be named"),
    ({"data_type": "object"}, "should hold numbers"),
    ({"data_type": ["uint8"]}, "should hold numbers"),
    ({"resolution": [2000, 4000, 20000]}, "square pixels"),
    ({"resolution": [0, 0, 0]}, "sizes in nm"),
    ({"resolution": [2, 2, 20]}, "0.01 to 1000 um"),
    ({"resolution": [2000, 2000, "x"]}, "precomputed format"),
    ({"voxel_offset": [2**60, 0, 0]}, "precomputed format"),
    ({"encoding": "compressed_segmentation"}, "labels"),
    ({"encoding": "jxl"}, "newer encoding"),
    ({"type": "segmentation"}, "labels, which cannot be averaged"),
    ({"type": None}, "not a volume"),
    ({"scales": []}, "list scales"),
    ({"scales": 3}, "precomputed format"),
    (
        {"sharding": {"@type": "x", "hash": "identity", "preshift_bits": 0, "minishard_bits": 0, "shard_bits": 0}},
        "known",
    ),
    ({"sharding": {"@type": "neuroglancer_uint64_sharded_v1"}}, "precomputed format"),
]


@pytest.mark.parametrize(("lie", "said"), LIES, ids=lambda value: str(value)[:40])
def test_an_info_file_that_lies_is_refused_before_memory_is_taken(path, lie, said):
    change(path, **lie)
    tracemalloc.start()
    with pytest.raises(BrodmannError, match=said):
        readers.read(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_volume_of_a_hundred_terapixels_is_refused_before_memory_is_taken(path):
    info = json.loads((path / "info").read_text())
    change(path, scales=[info["scales"][0] | {"size": [10_000_000, 10_000_000, 1]}])
    tracemalloc.start()
    with pytest.raises(BrodmannError, match="plausible size"):
        readers.read(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_claim_of_millions_of_chunks_takes_no_memory_for_their_names(path):
    info = json.loads((path / "info").read_text())
    change(path, scales=[info["scales"][0] | {"size": [3000, 3000, 1], "chunk_sizes": [[1, 1, 1]]}])
    tracemalloc.start()
    with pytest.raises(BrodmannError, match="9000000 absent"):
        readers.read(path)
    assert tracemalloc.get_traced_memory()[1] < 25_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"type": "image"}', '{"scales": [NaN]}', "[" * 100_000, "\xff"])
def test_an_info_file_that_is_none_is_named(path, text):
    (path / "info").write_bytes(text.encode("latin1"))
    with pytest.raises(BrodmannError, match=r"info of v|v/info|type None|OME-Zarr|data files"):
        readers.read(path)
    images.write_sidecar(path.parent, sections=[{"file": "v"}])
    with pytest.raises(BrodmannError, match=r"v"):
        readers.read(path.parent)


def test_links_that_lead_out_are_refused(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64 * 64))
    chunk = path / "2000_2000_20000" / "0-64_0-64_0-1"
    chunk.unlink()
    chunk.symlink_to(secret)
    with pytest.raises(Refused, match="a link"):
        readers.read(path)
    with pytest.raises(Refused, match="leads out"):
        Precomputed(path).window(0, 0, 0, 10, 10)


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_chunks_cut_short_or_grown_are_named(tmp_path, encoding):
    path = images.write_precomputed(tmp_path / "v", [images.noise(*SIZE)], 2.0, encoding=encoding)
    chunk = path / "2000_2000_20000" / "64-128_0-64_0-1"
    whole = chunk.read_bytes()
    assert everything(path).shape == SIZE
    for cut in np.linspace(0, len(whole) - (1 if encoding == "raw" else 20), 25).astype(int):
        chunk.write_bytes(whole[:cut])
        with pytest.raises(Corrupt, match="chunk 2000_2000_20000/64-128_0-64_0-1"):
            everything(path)
    chunk.write_bytes(whole * 1000)
    with pytest.raises(Corrupt, match="64-128"):
        everything(path)
    chunk.unlink()
    with pytest.raises(Refused, match=r"1 absent, e\.g\. 2000_2000_20000/64-128_0-64_0-1"):
        everything(path)
    images.write_sidecar(tmp_path, absent_value=200)
    found = everything(path)
    assert (found[:64, 64:128] == 200).all()
    assert found[:, :64].std() > 20


def test_gzip_that_is_cut_damaged_or_a_bomb_is_named(tmp_path):
    path = images.write_precomputed(tmp_path / "v", [images.noise(*SIZE)], 2.0, zipped=True)
    chunk = path / "2000_2000_20000" / "64-128_0-64_0-1.gz"
    whole = chunk.read_bytes()
    bomb = gzip.compress(bytes(50_000_000))
    flipped = bytearray(whole)
    flipped[-6] ^= 1
    for data in (whole[:-1], whole[: len(whole) // 2], whole + b"more", bytes(flipped), gzip.compress(b"few"), bomb):
        chunk.write_bytes(data)
        tracemalloc.start()
        with pytest.raises(Corrupt, match="64-128"):
            everything(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()
    assert len(bomb) < 2 * 64 * 64 + 100_000


def test_pictures_of_another_size_are_refused_before_decoding(tmp_path):
    path = images.write_precomputed(tmp_path / "v", [images.noise(*SIZE)], 2.0, encoding="png")
    chunk = path / "2000_2000_20000" / "64-128_0-64_0-1"
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    piece = b"IHDR" + head
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:12] + piece + struct.pack(">I", zlib.crc32(piece)) + whole[33:])
    tracemalloc.start()
    with pytest.raises(Corrupt, match=r"4,096 pixels(.|\n)*60000 x 60000"):
        everything(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    from PIL import Image

    for mode in ("RGB", "P", "I;16", "1"):
        out = io.BytesIO()
        Image.new(mode, (64, 64)).save(out, "png")
        chunk.write_bytes(out.getvalue())
        with pytest.raises(Corrupt, match="pixels"):
            everything(path)


def test_raw_pixels_that_start_like_gzip_are_pixels(tmp_path):
    image = images.noise(*SIZE)
    image[0, :2] = 0x1F, 0x8B
    np.testing.assert_array_equal(everything(images.write_precomputed(tmp_path / "v", [image], 2.0)), image)


def test_changed_bytes_anywhere_give_named_errors_only(tmp_path):
    """Raw chunks carry no checksum: there a changed pixel is a changed pixel. Nothing else may pass or crash."""
    rng = np.random.default_rng(0)
    outcomes = []
    for encoding, zipped in (("raw", False), ("raw", True), ("png", False), ("jpeg", False)):
        path = images.write_precomputed(
            tmp_path / f"{encoding}{zipped}", [images.noise(*SIZE)], 2.0, encoding=encoding, zipped=zipped
        )
        truth = everything(path)
        files = [path / "info", *sorted((path / "2000_2000_20000").iterdir())[:2]]
        for file in files:
            whole = file.read_bytes()
            for _ in range(40):
                data = bytearray(whole)
                for at in rng.integers(0, len(data), rng.integers(1, 4)):
                    data[at] = rng.integers(0, 256)
                file.write_bytes(data)
                try:
                    same = everything(path).shape == truth.shape and (everything(path) == truth).all()
                    outcomes.append((encoding, zipped, file.name == "info", "same" if same else "other"))
                except BrodmannError as error:
                    outcomes.append(
                        (encoding, zipped, file.name == "info", "named" if path.name in str(error) else "NAMELESS")
                    )
            file.write_bytes(whole)
    assert "NAMELESS" not in {last for *_, last in outcomes}
    checked = [last for encoding, zipped, info, last in outcomes if (encoding == "png" or zipped) and not info]
    assert "other" not in checked
    assert checked.count("named") > 0.9 * len(checked)
    assert sum(last == "named" for *_, info, last in outcomes if info) > 40


@pytest.mark.parametrize("packed", ["raw", "gzip"])
def test_damaged_shards_are_named(tmp_path, packed):
    ts = pytest.importorskip("tensorstore")
    split = {"preshift_bits": 0, "minishard_bits": 1, "shard_bits": 1, "hash": "identity"}
    form = {"@type": "neuroglancer_uint64_sharded_v1", "minishard_index_encoding": packed, "data_encoding": packed}
    scale = {"key": "s", "size": [150, 100, 1], "resolution": [2000, 2000, 20000], "chunk_size": [32, 32, 1]}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": str(tmp_path / "v")},
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
        "scale_metadata": scale | {"encoding": "raw", "sharding": form | split},
    }
    truth = images.noise(*SIZE)
    ts.open(spec, create=True).result()[..., 0, 0] = truth.T
    path = tmp_path / "v"
    np.testing.assert_array_equal(everything(path), truth)
    rng = np.random.default_rng(1)
    file = path / "s" / "1.shard"
    whole = file.read_bytes()
    head, ends = 32, np.frombuffer(whole[:32], "<u8")
    index = [*range(head), *range(head + int(ends[0]), head + int(ends[1])), *range(head + int(ends[2]), len(whole))]
    outcomes = []
    for number in range(120):
        data = bytearray(whole[: rng.integers(0, len(whole))] if number % 4 == 0 else whole)
        for at in rng.choice([at for at in index if at < len(data)] or [0], 2) if number % 4 and data else []:
            data[at] = rng.integers(0, 256)
        file.write_bytes(data)
        try:
            outcomes.append("same" if (everything(path) == truth).all() else "other")
        except BrodmannError as error:
            outcomes.append("named" if str(path) in str(error) else f"NAMELESS {error}")
    assert set(outcomes) <= {"same", "other", "named"}
    assert outcomes.count("named") > 80
    # A raw index that points at other pixels of the right number cannot be told; gzip's checksum tells.
    assert packed == "raw" or "other" not in outcomes
    file.unlink()
    with pytest.raises(Corrupt, match="should be there"):
        everything(path)


def test_a_minishard_index_that_is_a_bomb_is_named(tmp_path):
    path = tmp_path / "v"
    (path / "s").mkdir(parents=True)
    kind = {"@type": "neuroglancer_uint64_sharded_v1", "hash": "identity", "minishard_index_encoding": "gzip"}
    bits = {"preshift_bits": 0, "minishard_bits": 0, "shard_bits": 0}
    scale = {"key": "s", "size": [64, 64, 1], "resolution": [2000, 2000, 20000], "chunk_sizes": [[64, 64, 1]]}
    info = {"type": "image", "data_type": "uint8", "num_channels": 1}
    (path / "info").write_text(json.dumps(info | {"scales": [scale | {"encoding": "raw", "sharding": kind | bits}]}))
    bomb = gzip.compress(bytes(100_000_000))
    (path / "s" / "0.shard").write_bytes(struct.pack("<QQ", 0, len(bomb)) + bomb)
    tracemalloc.start()
    with pytest.raises(Corrupt, match="at most 24,000,000 bytes"):
        everything(path)
    assert tracemalloc.get_traced_memory()[1] < 80_000_000
    tracemalloc.stop()
