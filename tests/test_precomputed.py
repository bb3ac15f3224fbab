"""neuroglancer precomputed: the same pixels in the same places as any other format, from a folder and from a server."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import images
from brodmann.errors import BrodmannError, Corrupt, Refused, Unwritable
from brodmann.patches import readers
from brodmann.patches.readers import remote
from brodmann.patches.readers.files import Folder
from brodmann.patches.readers.precomputed import Precomputed
from brodmann.patches.readers.shards import morton
from brodmann.patches.readers.sidecar import Entry, Stated

SIZE = (200, 300)


def smooth(height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    """An image that has no symmetry and that JPEG keeps."""
    y, x = np.mgrid[:height, :width]
    return (60 + 100 * (x / width) ** 2 + 60 * np.sin(y / 23) ** 2).astype(np.uint8)


def one(path: Path) -> Any:
    (section,) = readers.read(path).sections
    return section


@pytest.mark.parametrize("thin", ["x", "y", "z"])
@pytest.mark.parametrize(("encoding", "zipped", "nested"), [
    ("raw", False, False), ("raw", True, True), ("png", False, False), ("png", True, False), ("jpeg", False, True),
])  # fmt: skip
def test_crops_equal_those_of_the_same_image_in_another_format(tmp_path, thin, encoding, zipped, nested):
    levels = images.reduced(smooth(), 3)
    images.write_tiff(tmp_path / "t.tif", levels, 2.0)
    images.write_precomputed(
        tmp_path / "p", levels, 2.0, encoding=encoding, thin=thin, zipped=zipped, nested=nested, offset=(8, 16, 24)
    )
    tiff, ours = one(tmp_path / "t.tif"), one(tmp_path / "p")
    assert (ours.native_um, ours.width_um, ours.height_um, ours.image.factors) == (2.0, 600.0, 400.0, [1.0, 2.0, 4.0])
    for x, y, pixel_um, angle in ((300, 200, 2, 0), (251.3, 177.7, 2.7, 33), (300, 180, 4, -120), (333, 222, 9.1, 7)):
        cut = {"size_px": 32, "pixel_um": pixel_um, "angle_deg": angle}
        a, b = tiff.crop(x, y, **cut).astype(int), ours.crop(x, y, **cut).astype(int)
        assert np.abs(a - b).max() <= (3 if encoding == "jpeg" else 0)
    assert tiff.background == ours.background or encoding == "jpeg"


def test_colour_and_sixteen_bits(tmp_path):
    colour = np.stack([smooth(), smooth()[::-1], smooth()[:, ::-1]])
    for encoding in ("raw", "png", "jpeg"):
        images.write_precomputed(tmp_path / encoding, [colour], 2.0, encoding=encoding)
        found = one(tmp_path / encoding).overview(2.0).astype(int)
        assert np.abs(found - colour).max() <= (25 if encoding == "jpeg" else 0), encoding
    deep = (smooth().astype(np.uint16) << 4) + 5
    for encoding in ("raw", "png"):
        images.write_precomputed(tmp_path / f"{encoding}16", [deep], 2.0, encoding=encoding)
        images.write_sidecar(tmp_path, range=[0, 4095])
        assert np.abs(one(tmp_path / f"{encoding}16").overview(2.0)[0] - deep / 4095 * 255).max() <= 0.51


def test_a_level_is_read_that_is_no_finer_than_asked(tmp_path, monkeypatch):
    path = images.write_precomputed(tmp_path / "p", images.reduced(smooth(), 3), 1.0)
    section = one(path)
    assert section.background
    read: list[str] = []
    fetch = Folder.fetch
    monkeypatch.setattr(Folder, "fetch", lambda self, key, **more: read.append(key) or fetch(self, key, **more))
    for asked, folder in ((1.0, "1000_"), (1.9, "1000_"), (2.0, "2000_"), (3.9, "2000_"), (4.0, "4000_")):
        read.clear()
        readers.blocks.CACHED._items.clear()
        section.crop(150.0, 100.0, size_px=8, pixel_um=asked)
        assert read, asked
        assert {key.startswith(folder) for key in read} == {True}, (asked, read)


@pytest.mark.parametrize("thin", ["y", "z"])
def test_slices_of_one_volume_are_sections(tmp_path, thin):
    levels = images.reduced(smooth(), 2)
    path = images.write_precomputed(tmp_path / "v", levels, 2.0, thin=thin, depth=5, number=3, chunk=4 * 16)
    with pytest.raises(Refused, match='"slice": 0'):
        readers.read(tmp_path)
    axis = {"axis": thin}
    images.write_sidecar(tmp_path, sections=[{"file": "v", "slice": k} | axis for k in (3, 0)])
    third, other = readers.read(tmp_path).sections
    assert (third.id, other.id) == ("v_0003", "v_0000")
    np.testing.assert_array_equal(third.overview(2.0)[0], smooth())
    np.testing.assert_array_equal(third.overview(4.0)[0], levels[1])
    np.testing.assert_array_equal(other.overview(2.0)[0], smooth()[::-1, ::-1])
    images.write_sidecar(tmp_path, sections=[{"file": "v", "slice": 5} | axis])
    with pytest.raises(Refused, match="should have slice 5"):
        readers.read(tmp_path)
    images.write_sidecar(tmp_path, sections=[{"file": "v", "slice": 1} | axis] * 2)
    with pytest.raises(Refused, match="twice: v"):
        readers.read(tmp_path)
    assert path.is_dir()


def test_a_flat_image_has_no_slices(tmp_path):
    images.write_png(tmp_path / "a.png", smooth())
    images.write_sidecar(tmp_path, pixel_um=2.0, sections=[{"file": "a.png", "slice": 0}])
    with pytest.raises(Refused, match="flat image"):
        readers.read(tmp_path)


def change(path: Path, edit: Any) -> None:
    info = json.loads((path / "info").read_text())
    edit(info)
    (path / "info").write_text(json.dumps(info))


def test_levels_that_are_no_copies_of_the_slice_are_left_out(tmp_path):
    path = images.write_precomputed(tmp_path / "v", images.reduced(smooth(), 3), 2.0, depth=4, number=1)
    change(path, lambda info: info["scales"][2].update(resolution=[8000, 8000, 40000], size=[75, 50, 2]))
    found = Precomputed(path, axis="z", number=1)
    assert (len(found.sizes), next(n for n in found.notes if "neighbouring" in n)[:13]) == (2, "level of 8 um")
    path = images.write_precomputed(tmp_path / "o", images.reduced(smooth(), 3), 2.0, offset=(2, 4, 0))
    found = Precomputed(path)
    assert found.factors == [1.0, 2.0]
    assert any("0.5 of its pixels off" in note for note in found.notes)


MATRIX = [[0, 0, 1, -7e6], [1, 0, 0, 2e6], [0, 1, 0, 3e6], [0, 0, 0, 1]]
SPACE = {"name": "test", "orientation": "ras", "extent_mm": [200, 200, 200], "origin": "a corner"}


def test_transform_json_places_a_section_in_the_space_that_is_named(tmp_path):
    path = images.write_precomputed(tmp_path / "v", [smooth()], 2.0, thin="y", depth=3, number=2, offset=(10, 7, 30))
    (path / "transform.json").write_text(json.dumps(MATRIX))
    entry = {"file": "v", "axis": "y", "slice": 2}
    images.write_sidecar(tmp_path, sections=[entry])
    loose = readers.read(tmp_path)
    assert loose.space.name == "unregistered"
    np.testing.assert_allclose(loose.sections[0].place(np.array([[1000.0, 500.0]])), [[1.0, 0.5, 0.0]])
    images.write_sidecar(tmp_path, space=SPACE, sections=[entry])
    source = readers.read(tmp_path)
    corner, far = source.sections[0].place(np.array([[0.0, 0.0], [100.0, 40.0]]))
    # nm in the volume: x 10 voxels of 2 um, y the middle of the slice at 7 + 2 of 20 um, z 30 voxels of 2 um
    np.testing.assert_allclose(corner, [0.060 - 7, 0.020 + 2, 0.190 + 3], atol=1e-12)
    np.testing.assert_allclose(far - corner, [0.040, 0.100, 0.0], atol=1e-12)
    mine = [[0.001, 0, 1], [0, 0.001, 2], [0, 0, 3]]
    images.write_sidecar(tmp_path, space=SPACE, sections=[entry | {"to_mm": mine}])
    np.testing.assert_allclose(readers.read(tmp_path).sections[0].place(np.zeros((1, 2))), [[1, 2, 3]])
    (path / "transform.json").unlink()
    images.write_sidecar(tmp_path, space=SPACE, sections=[entry])
    with pytest.raises(Refused, match="no to_mm"):
        readers.read(tmp_path)
    for bad in (
        "[[1, 2], [3, 4]]",
        '{"a": 1}',
        "[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]",
        "[",
        "[[null]]",
    ):
        (path / "transform.json").write_text(bad)
        with pytest.raises(Refused, match=r"transform\.json"):
            readers.read(tmp_path)


def test_fingerprint_follows_slices_and_content(tmp_path):
    prints = []
    for name, number, seed in (("a", 0, 0), ("b", 0, 0), ("c", 1, 0), ("d", 0, 1)):
        folder = tmp_path / name / "brain"
        images.write_precomputed(folder / "v", [images.noise(60, 70, seed)], 2.0, depth=2)
        images.write_sidecar(folder, axis="z", sections=[{"file": "v", "slice": number, "id": "s"}])
        prints.append(readers.read(folder).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_folder_of_images_with_a_note_called_info_still_opens(tmp_path):
    images.write_png(tmp_path / "a.png", smooth())
    images.write_sidecar(tmp_path, pixel_um=2.0)
    (tmp_path / "info").write_text("scanned in spring")
    assert [section.id for section in readers.read(tmp_path).sections] == ["a"]


# ------------------------------------------------------------------------------- another reader of the same format


@pytest.mark.parametrize("thin", ["x", "z"])
@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_tensorstore_reads_the_fixture_alike(tmp_path, encoding, thin):
    ts = pytest.importorskip("tensorstore")
    levels = images.reduced(smooth(), 2)
    path = images.write_precomputed(
        tmp_path / "v", levels, 2.0, encoding=encoding, thin=thin, depth=3, number=1, offset=(4, 8, 12)
    )
    ours = Precomputed(path, axis=thin, number=1)
    for scale in range(2):
        spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": str(path)}}
        theirs = ts.open(spec | {"scale_index": scale}).result().read().result()
        plane = np.moveaxis(theirs[..., 0], "xyz".index(thin), 2)[:, :, 1].T
        found, x, y = ours.window(scale, 0, 0, *ours.sizes[scale][::-1])
        assert (x, y) == (0, 0)
        # Two JPEG decoders may differ by rounding.
        assert np.abs(found[0].astype(int) - plane).max() <= (1 if encoding == "jpeg" else 0)


def sharded(
    path: Path, image: np.ndarray, *, hashed: str, packed: str, bits: tuple[int, int, int], encoding: str = "raw"
) -> Path:
    """Written by tensorstore: x, y, z = image transposed, three slices."""
    ts = pytest.importorskip("tensorstore")
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": str(path)},
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
        "scale_metadata": {
            "key": "s", "size": [*image.shape[::-1], 3], "resolution": [2000, 2000, 20000], "voxel_offset": [3, 5, 7],
            "chunk_size": [32, 16, 2], "encoding": encoding,
            "sharding": {
                "@type": "neuroglancer_uint64_sharded_v1", "hash": hashed, "preshift_bits": bits[0],
                "minishard_bits": bits[1], "shard_bits": bits[2], "minishard_index_encoding": packed,
                "data_encoding": packed,
            },
        },
    }  # fmt: skip
    array = ts.open(spec, create=True).result()
    array[..., 0] = np.stack([image.T, image.T[::-1], image.T[:, ::-1]], axis=2)
    return path


@pytest.mark.parametrize("bits", [(0, 0, 0), (1, 3, 2), (3, 1, 5)])
@pytest.mark.parametrize(("hashed", "packed"), [("identity", "raw"), ("murmurhash3_x86_128", "gzip")])
def test_shards_that_tensorstore_wrote_are_read(tmp_path, hashed, packed, bits):
    image = images.noise(*SIZE)
    path = sharded(tmp_path / "v", image, hashed=hashed, packed=packed, bits=bits)
    for number, expected in enumerate((image, image[:, ::-1], image[::-1])):
        found = Precomputed(path, axis="z", number=number)
        np.testing.assert_array_equal(found.window(0, 0, 0, 300, 200)[0][0], expected)


def test_chunks_are_numbered_by_the_bits_of_their_places_by_turns():
    """Written by hand; the hash is held to tensorstore's above."""
    places = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 0, 2), (4, 0, 0))
    assert [morton(place, (8, 2, 3)) for place in places] == [1, 2, 4, 8, 16, 32]
    assert morton((7, 1, 2), (8, 2, 3)) == 1 + 8 + 32 + 2 + 16


# ---------------------------------------------------------------------------------------------------------- servers


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves ranges, compresses when asked, and keeps what was asked for."""

    asked: list[tuple[str, str | None]]

    def log_message(self, *_: Any) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        path, part = Path(self.translate_path(self.path)), self.headers.get("Range")
        self.asked.append((self.path, part))
        if not path.is_file():
            self.send_error(404)
            return
        data, more = path.read_bytes(), {}
        if part is not None:
            start, stop = map(int, part.removeprefix("bytes=").split("-"))
            more = {"Content-Range": f"bytes {start}-{min(stop + 1, len(data)) - 1}/{len(data)}"}
            data = data[start : stop + 1]
        elif "gzip" in self.headers.get("Accept-Encoding", ""):
            data, more = gzip.compress(data), {"Content-Encoding": "gzip"}
        self.send_response(200 if part is None else 206)
        for key, value in {**more, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(data)


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("tensorstore")
    handler = type("Own", (Handler,), {"asked": []})
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path)))
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    served.asked = handler.asked
    served.address = f"http://127.0.0.1:{served.server_port}"
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.mark.parametrize("kind", ["raw", "jpeg", "zarr2", "zarr3", "shards"])
def test_a_server_gives_the_same_crops_as_the_folder(tmp_path, server, kind):
    levels = images.reduced(smooth(), 2)
    if kind.startswith("zarr"):
        path = images.write_zarr(tmp_path / "v.zarr", levels, 2.0, version=int(kind[-1]))
    elif kind == "shards":
        path = sharded(tmp_path / "v", smooth(), hashed="murmurhash3_x86_128", packed="gzip", bits=(1, 2, 2))
        images.write_sidecar(tmp_path, axis="z", sections=[{"file": "v", "slice": 1}])
    else:
        path = images.write_precomputed(tmp_path / "v", levels, 2.0, encoding=kind)
    address = f"{server.address}/{path.name}"
    stated = Stated(sections=[Entry(file=address, axis="z", slice=1)]) if kind == "shards" else None
    here, there = one(path), remote.read(address, stated).sections[0]
    assert (here.native_um, here.width_um, here.id) == (there.native_um, there.width_um, there.id)
    for cut in ((300, 200, 2.0, 0), (222.2, 111.1, 3.3, 40), (300, 200, 9.0, 10)):
        x, y, um, angle = cut
        more = {"size_px": 24, "pixel_um": um, "angle_deg": angle}
        np.testing.assert_array_equal(here.crop(x, y, **more), there.crop(x, y, **more))
    assert (kind != "shards") or any(part for _, part in server.asked)


def test_several_sections_from_a_server(tmp_path, server):
    names = ("B20_0001", "B20_0002")
    for seed, name in enumerate(names):
        path = images.write_precomputed(tmp_path / name / "precomputed", [images.noise(60, 70, seed)], 2.0)
        (path / "transform.json").write_text(json.dumps(MATRIX))
    addresses = [f"precomputed://{server.address}/{name}/precomputed" for name in (*names, "gone")]
    source = remote.read(addresses, Stated(space=readers.sidecar.NamedSpace(**SPACE), subject="BigBrain"))
    assert [section.id for section in source.sections] == list(names)
    assert (source.space.name, source.skipped[0][0][-16:]) == ("test", "gone/precomputed")
    again = remote.read(addresses, Stated(space=readers.sidecar.NamedSpace(**SPACE), subject="BigBrain"))
    assert source.fingerprint == again.fingerprint != remote.read(addresses[0]).fingerprint
    np.testing.assert_allclose(source.sections[0].place(np.zeros((1, 2))), [[0.010 - 7, 2, 3]])


def test_what_a_server_lacks_is_named(tmp_path, server, monkeypatch):
    path = images.write_precomputed(tmp_path / "v", [images.noise(60, 130)], 2.0)
    next(path.glob("2000*/64-128*")).unlink()
    section = remote.read(f"{server.address}/v").sections[0]
    np.testing.assert_array_equal(section.image.window(0, 0, 0, 64, 60)[0][0], images.noise(60, 130)[:, :64])
    with pytest.raises(Corrupt, match="chunk 2000_2000_20000/64-128_0-60_0-1"):
        section.overview(2.0)
    filled = remote.read(f"{server.address}/v", Stated(absent_value=9)).sections[0]
    assert set(np.unique(filled.overview(2.0)[0, :, 64:128])) == {9}
    server.shutdown()
    server.server_close()
    monkeypatch.setattr(remote, "WAIT_S", 1)
    with pytest.raises(Refused, match="should be read"):
        remote.read(f"{server.address}/v")
    with pytest.raises(Unwritable, match="should be read"):
        remote.Server(f"{server.address}/v").fetch("info", limit=100)


def test_addresses_that_are_none_are_refused_and_files_are_opened(tmp_path, monkeypatch):
    for wrong in ("ftp://x/y", "v", "https://a/b?token=c", "https://me:secret@a/b"):
        with pytest.raises(Refused, match="named by an address") as error:
            remote.Server(wrong)
        assert "secret" not in str(error.value)
        with pytest.raises(Refused, match="named by an address") as error:
            remote.read(wrong)
        assert "secret" not in str(error.value)
    images.write_precomputed(tmp_path / "v v", [smooth()], 2.0)
    section = remote.read((tmp_path / "v v").as_uri()).sections[0]
    np.testing.assert_array_equal(section.overview(2.0)[0], smooth())
    assert not any("server" in note for note in section.notes)
    monkeypatch.setitem(__import__("sys").modules, "tensorstore", None)
    with pytest.raises(Refused, match=r"brodmann\[fast\]"):
        remote.read("https://example.org/v")


def test_no_sidecar_opens_a_connection(tmp_path, server):
    images.write_precomputed(tmp_path / "v", [smooth()], 2.0)
    for name in (f"{server.address}/v", f"precomputed://{server.address}/v"):
        images.write_sidecar(tmp_path, sections=[{"file": name}])
        with pytest.raises(BrodmannError):
            readers.read(tmp_path)
    assert server.asked == []
