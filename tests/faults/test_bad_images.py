"""Damaged, lying and hostile images: a named error or a documented skip, never silently wrong numbers."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.patches import readers
from brodmann.patches.readers.blocks import CACHED

sys.path.insert(0, str(Path(__file__).parents[1]))
import images

SIZE = 200


def everything(path: Path) -> list[NDArray[np.uint8]]:
    """Pixels of every section, read whole; nothing comes from the cache of an earlier opening."""
    source = readers.read(path)
    if source.skipped:
        raise AssertionError(f"skipped: {source.skipped}")
    return [section.overview(section.native_um) for section in source.sections]


def outcome(path: Path, truth: NDArray[np.uint8]) -> str:
    """'same', 'named' or 'WRONG' for a file that was tampered with."""
    try:
        (found,) = everything(path)
    except BrodmannError as error:
        return "named" if path.name in str(error) else f"NAMELESS {error}"
    return "same" if found.shape[1:] == truth.shape and bool((found[0] == truth).all()) else "WRONG"


@pytest.fixture(name="truth")
def _truth() -> NDArray[np.uint8]:
    return images.noise(SIZE, SIZE)


def test_png_cut_short_anywhere_is_named(tmp_path: Path, truth: NDArray[np.uint8]) -> None:
    images.write_sidecar(tmp_path, pixel_um=2.0)
    path = images.write_png(tmp_path / "a.png", truth)
    whole = path.read_bytes()
    for cut in np.linspace(0, len(whole) - 1, 50).astype(int):
        path.write_bytes(whole[:cut])
        assert outcome(path, truth) == "named", cut


def test_png_with_changed_bytes_is_never_read_wrong(tmp_path: Path, truth: NDArray[np.uint8]) -> None:
    images.write_sidecar(tmp_path, pixel_um=2.0)
    path = images.write_png(tmp_path / "a.png", truth)
    whole = path.read_bytes()
    results = []
    for at in np.random.default_rng(0).integers(8, len(whole), 60):
        data = bytearray(whole)
        data[at] ^= 0x10
        path.write_bytes(data)
        results.append(outcome(path, truth))
    assert "WRONG" not in results
    assert results.count("named") > 50


def test_png_that_claims_terapixels_is_refused_before_decoding(tmp_path: Path) -> None:
    images.write_sidecar(tmp_path, pixel_um=2.0)
    head = struct.pack(">IIBBBBB", 2_000_000, 2_000_000, 8, 0, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(Refused, match=r"bomb\.png should have at most"):
        readers.read(tmp_path)


def test_jpeg_cut_short_is_named(tmp_path: Path) -> None:
    from PIL import Image

    images.write_sidecar(tmp_path, pixel_um=2.0)
    path = tmp_path / "a.jpg"
    Image.fromarray(images.blob()).save(path, quality=90)
    assert len(everything(tmp_path)) == 1
    whole = path.read_bytes()
    for cut in np.linspace(0, len(whole) - 2, 20).astype(int):
        path.write_bytes(whole[:cut])
        with pytest.raises(BrodmannError, match=r"a\.jpg"):
            everything(path)


def test_cmyk_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    images.write_sidecar(tmp_path, pixel_um=2.0)
    Image.fromarray(images.blob()).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(Refused, match="CMYK"):
        readers.read(tmp_path)


@pytest.mark.parametrize("codec", [None, "zlib", "lzw", "zstd", "jpeg"])
def test_tiff_cut_short_at_fifty_places_is_named(tmp_path: Path, truth: NDArray[np.uint8], codec: str | None) -> None:
    path = images.write_tiff(tmp_path / "a.tif", images.reduced(truth, 2), 2.0, codec=codec)
    whole = path.read_bytes()
    results = []
    for cut in np.linspace(0, len(whole) - 1, 50).astype(int):
        path.write_bytes(whole[:cut])
        results.append(outcome(path, truth))
    assert set(results) == {"named"}


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_changed_bytes_in_compressed_tiles_are_named(tmp_path: Path, truth: NDArray[np.uint8], codec: str) -> None:
    path = images.write_tiff(tmp_path / "a.tif", [truth], 2.0, codec=codec)
    with tifffile.TiffFile(path) as tif:
        page: Any = tif.pages[0]
        offsets, counts = page.dataoffsets, page.databytecounts
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    results = []
    for tile in range(len(offsets)):
        data = bytearray(whole)
        at = offsets[tile] + counts[tile] // 2
        data[at : at + 8] = rng.integers(0, 256, 8).astype(np.uint8).tobytes()
        path.write_bytes(data)
        results.append(outcome(path, truth))
    if codec == "zlib":  # carries a checksum of its own
        assert set(results) == {"named"}
    # zstd written by tifffile carries none: only the recorded hash helps, as for JPEG and raw tiles.
    assert len(results) == 16


@pytest.mark.parametrize("codec", [None, "jpeg", "zstd"])
def test_a_recorded_hash_protects_tiles_without_checksums(
    tmp_path: Path, truth: NDArray[np.uint8], codec: str | None
) -> None:
    import hashlib

    path = images.write_tiff(tmp_path / "a.tif", [truth], 2.0, codec=codec)
    whole = path.read_bytes()
    digest = hashlib.sha256(whole).hexdigest()
    images.write_sidecar(tmp_path, sections=[{"file": "a.tif", "sha256": digest}])
    assert len(everything(tmp_path)) == 1
    for at in np.linspace(0, len(whole) - 1, 20).astype(int):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(BrodmannError, match=r"a\.tif should have SHA-256"):
            readers.read(tmp_path)


def patched(path: Path, tag: str, change: Any) -> None:
    """Overwrite the value of a tag of the first page in place."""
    with tifffile.TiffFile(path, mode="r+b") as tif:
        page: Any = tif.pages[0]
        page.tags[tag].overwrite(change(page.tags[tag].value))


@pytest.mark.parametrize("codec", [None, "zlib", "jpeg"])
def test_missing_tile_is_an_error_not_zeros(tmp_path: Path, truth: NDArray[np.uint8], codec: str | None) -> None:
    path = images.write_tiff(tmp_path / "a.tif", [truth], 2.0, codec=codec)
    patched(path, "TileByteCounts", lambda counts: (*counts[:5], 0, *counts[6:]))
    with pytest.raises(BrodmannError, match=r"1 are missing"):
        readers.read(path)
    images.write_sidecar(tmp_path, absent_value=255)
    section = readers.read(path).sections[0]
    assert (section.overview(2.0)[0, 64:128, 64:128] == 255).all()
    assert section.overview(2.0)[0, :64, :64].std() > 20
    assert any("1 absent tiles read as 255" in note for note in getattr(section, "notes", []))


@pytest.mark.parametrize(
    ("tag", "change"),
    [
        ("ImageWidth", lambda value: 2_000_000),
        ("ImageLength", lambda value: 2_000_000),
        ("ImageWidth", lambda value: 300),
        ("TileWidth", lambda value: 32),
        ("TileOffsets", lambda value: (*value[:-1], 2**31)),
        ("TileByteCounts", lambda value: (value[0] // 2, *value[1:])),
        ("TileByteCounts", lambda value: tuple(65535 for _ in value)),
        ("TileOffsets", lambda value: (*value[1:], value[0] + 3)),
    ],
)
def test_lying_headers_are_named(tmp_path: Path, truth: NDArray[np.uint8], tag: str, change: Any) -> None:
    path = images.write_tiff(tmp_path / "a.tif", [truth], 2.0)
    patched(path, tag, change)
    # Swapped offsets with the counts of other tiles do not decode; the rest contradicts itself.
    assert outcome(path, truth) == "named"


def test_ifd_loop_ends(tmp_path: Path, truth: NDArray[np.uint8]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, truth, tile=(64, 64), compression="zlib", resolution=(5000, 5000), resolutionunit=3)
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    path.write_bytes(data)
    assert outcome(path, truth) in {"same", "named"}


@pytest.mark.parametrize("um", [1e-6, 5e6])
def test_absurd_pixel_size_is_refused(tmp_path: Path, truth: NDArray[np.uint8], um: float) -> None:
    more = {f"PhysicalSize{a}": um for a in "XY"} | {f"PhysicalSize{a}Unit": "µm" for a in "XY"}
    tifffile.imwrite(tmp_path / "a.ome.tif", truth, tile=(64, 64), metadata={"axes": "YX", **more})
    with pytest.raises(Refused, match=r"a\.ome\.tif should have pixels of 0\.01 to 1000 um"):
        readers.read(tmp_path)
    images.write_sidecar(tmp_path, pixel_um=2.0)
    with pytest.raises(Refused, match="does not silence"):
        readers.read(tmp_path)


@pytest.mark.parametrize(("unit", "size"), [("nm", 500.0), ("mm", 0.0005), ("µm", 0.5)])
def test_units_of_ome_xml_are_obeyed(tmp_path: Path, truth: NDArray[np.uint8], unit: str, size: float) -> None:
    more = {f"PhysicalSize{a}": size for a in "XY"} | {f"PhysicalSize{a}Unit": unit for a in "XY"}
    tifffile.imwrite(tmp_path / "a.ome.tif", truth, tile=(64, 64), metadata={"axes": "YX", **more})
    assert readers.read(tmp_path).sections[0].native_um == pytest.approx(0.5)


def test_printers_resolution_is_not_a_pixel_size(tmp_path: Path, truth: NDArray[np.uint8]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", truth, tile=(64, 64), resolution=(72, 72), resolutionunit=2)
    with pytest.raises(Refused, match="pixel size"):
        readers.read(tmp_path)


def test_hostile_xml_reaches_no_parser(tmp_path: Path, truth: NDArray[np.uint8]) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><OME xmlns="x">&b;</OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", truth, tile=(64, 64), description=bomb, metadata=None)
    with pytest.raises(Refused, match="entities"):
        readers.read(tmp_path)


def test_other_files_named_in_ome_xml_are_not_opened(tmp_path: Path, truth: NDArray[np.uint8]) -> None:
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="200" SizeY="200" '
        'SizeZ="1" SizeC="2" SizeT="1" '
        'PhysicalSizeX="2" PhysicalSizeY="2"><Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>'
        '<TiffData FirstC="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID FileName="../../secret.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", truth, tile=(64, 64), description=xml, metadata=None)
    opened: list[str] = []
    watching = [True]  # an audit hook cannot be taken off again
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if watching and event == "open" else None)
    assert outcome(tmp_path / "a.ome.tif", truth) in {"same", "named"}
    watching.clear()
    assert any("a.ome.tif" in name for name in opened)
    assert not any("secret" in name for name in opened)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("library", ["tensorstore", "zarr"])
@pytest.mark.parametrize("shard", [None, 128])
def test_deleted_truncated_and_damaged_chunks_are_named(
    tmp_path: Path,
    truth: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    library: str,
    shard: int | None,
) -> None:
    if version == 2 and shard:
        pytest.skip("zarr v2 has no shards")
    if library == "zarr":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = images.write_zarr(tmp_path / "a.zarr", [truth], 2.0, version=version, shard=shard)
    chunk = path / "0" / ("0.1" if version == 2 else "c/0/1")
    if not chunk.exists():
        chunk = path / "0" / "0" / "1"
    whole = chunk.read_bytes()
    assert outcome(path, truth) == "same"
    for cut in np.linspace(0, len(whole) - 1, 12).astype(int):
        chunk.write_bytes(whole[:cut])
        assert outcome(path, truth) == "named", cut
    chunk.unlink()
    with pytest.raises(BrodmannError, match=r"1 absent, e\.g\. 0/"):
        readers.read(path)
    images.write_sidecar(tmp_path, absent_value=9)
    found = readers.read(path).sections[0].overview(2.0)[0]
    side = shard or 64
    assert (found[:side, side : 2 * side] == 9).all()
    assert (found[:side, :side] == truth[:side, :side]).all()


@pytest.mark.parametrize("library", ["tensorstore", "zarr"])
def test_chunk_that_disappears_after_opening_is_named(
    tmp_path: Path, truth: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    if library == "zarr":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = images.write_zarr(tmp_path / "a.zarr", [truth], 2.0)
    section = readers.read(path).sections[0]
    (path / "0" / "c" / "2" / "3").unlink()
    with pytest.raises(Corrupt, match=r"a\.zarr/0 should hold chunk \(2, 3\)"):
        section.overview(2.0)


@pytest.mark.parametrize("library", ["tensorstore", "zarr"])
def test_inner_chunk_left_out_of_a_shard_is_named(
    tmp_path: Path, truth: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    truth = truth.copy()
    truth[:64, :64] = 0  # the fill value: zarr leaves the chunk out
    path = images.write_zarr(tmp_path / "a.zarr", [truth], 2.0, shard=128, empty=False)
    if library == "zarr":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert outcome(path, truth) == "named"
    images.write_sidecar(tmp_path, absent_value=0)
    assert outcome(path, truth) == "same"


def test_a_flipped_bit_is_found_where_chunks_carry_a_checksum(tmp_path: Path, truth: NDArray[np.uint8]) -> None:
    path = images.write_zarr(tmp_path / "a.zarr", [truth], 2.0, crc=True)
    chunk = path / "0" / "c" / "0" / "0"
    whole = chunk.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(whole), 30):
        data = bytearray(whole)
        data[at] ^= 0x04
        chunk.write_bytes(data)
        assert outcome(path, truth) == "named"


def edited(path: Path, change: Any) -> None:
    """Edit a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


SHIFT = {"type": "translation", "translation": [900, 0]}


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("unit of length", lambda m: [axis.pop("unit") for axis in m["axes"]]),
        ("unit of length", lambda m: m["axes"][0].update(unit="pixel")),
        ("name its axes", lambda m: m.pop("axes")),
        ("stay inside", lambda m: m["datasets"][0].update(path="../../etc")),
        ("stay inside", lambda m: m["datasets"][0].update(path="/etc")),
        ("scale and size of level 1", lambda m: m["datasets"][1]["coordinateTransformations"][0].update(scale=[8, 8])),
        ("square pixels", lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[2, 3])),
        ("0.01 to 1000 um", lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[2e6, 2e6])),
        ("0.01 to 1000 um", lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[0, 0])),
        ("same corner", lambda m: m["datasets"][1]["coordinateTransformations"].append(SHIFT)),
        ("reduced copy", lambda m: m["datasets"].reverse()),
        ("follow OME-Zarr|list data sets", lambda m: m.update(datasets=[{}])),
    ],
)
def test_wrong_multiscale_descriptions_are_refused(
    tmp_path: Path, truth: NDArray[np.uint8], message: str, change: Any
) -> None:
    for version in (2, 3):
        path = images.write_zarr(tmp_path / f"a{version}.zarr", images.reduced(truth, 2), 2.0, version=version)
        if version == 2:
            edited(path / ".zattrs", lambda content: change(content["multiscales"][0]))
        else:
            edited(path / "zarr.json", lambda content: change(content["attributes"]["ome"]["multiscales"][0]))
        with pytest.raises(Refused, match=message):
            readers.read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(shape=[10**7, 10**7]),
        lambda m: m.update(shape=[10**9, 200]),
        lambda m: m.update(shape=[400, 400]),
        lambda m: m.update(data_type="string", dtype="|O"),
        lambda m: m.update(data_type={"name": "struct"}, dtype=[["a", "<u1"]]),
        lambda m: m.update(codecs=[{"name": "mystery"}], compressor={"id": "mystery"}),
        lambda m: m.update(filters=[{"id": "pickle"}], codecs=[]),
        lambda m: (m.pop("chunk_grid", None), m.pop("chunks", None)),
        lambda m: m.update(chunks=[0, 0], chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0, 0]}}),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_lying_array_metadata_is_named(tmp_path: Path, truth: NDArray[np.uint8], version: int, change: Any) -> None:
    path = images.write_zarr(tmp_path / "a.zarr", [truth], 2.0, version=version)
    edited(path / "0" / (".zarray" if version == 2 else "zarr.json"), change)
    with pytest.raises(BrodmannError, match=r"a\.zarr"):
        readers.read(path)


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_cut_short_is_named(tmp_path: Path, truth: NDArray[np.uint8], version: int) -> None:
    path = images.write_zarr(tmp_path / "a.zarr", [truth], 2.0, version=version)
    for name in (".zattrs", "0/.zarray") if version == 2 else ("zarr.json", "0/zarr.json"):
        whole = (path / name).read_bytes()
        for cut in (0, 1, len(whole) // 2, len(whole) - 2):
            (path / name).write_bytes(whole[:cut])
            with pytest.raises(BrodmannError, match=r"a\.zarr|json|zattrs|zarray"):
                readers.read(path)
        (path / name).write_bytes(whole)
    assert outcome(path, truth) == "same"


def test_links_out_of_a_store_are_refused(tmp_path: Path, truth: NDArray[np.uint8]) -> None:
    images.write_zarr(tmp_path / "other.zarr", [truth], 2.0)
    path = images.write_zarr(tmp_path / "deep" / "a.zarr", [truth], 2.0)
    chunk = path / "0" / "c" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to(tmp_path / "other.zarr" / "0" / "c" / "0" / "0")
    with pytest.raises(Refused, match="link"):
        readers.read(path)


def test_one_bad_section_does_not_stop_the_others(tmp_path: Path, truth: NDArray[np.uint8]) -> None:
    for name in ("a", "b", "c"):
        images.write_tiff(tmp_path / f"{name}.tif", [truth], 2.0)
    (tmp_path / "b.tif").write_bytes((tmp_path / "b.tif").read_bytes()[:5000])
    found = readers.read(tmp_path)
    assert [section.id for section in found.sections] == ["a", "c"]
    assert found.skipped[0][0] == "b.tif"
    CACHED.get("unrelated", lambda: [truth])
