"""Crops lie where they say, at the pixel size they say, from every format."""

from __future__ import annotations

import hashlib
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import images
from brodmann.datasets import _template
from brodmann.errors import Corrupt, Refused, SpaceMismatch
from brodmann.inspection import validate
from brodmann.patches import readers, source, tissue
from brodmann.patches.image import Cache, ImageSection
from brodmann.patches.readers.blocks import CACHED
from brodmann.patches.recipe import Patches, Recipe
from brodmann.patches.resample import crop_affine, halve
from brodmann.space import CCF_V3

FORMATS = ("png", "tiff", "zarr2", "zarr3", "sharded", "precomputed")


def slow_crop(
    image: NDArray[np.uint8], x: float, y: float, size: int, scale: float, angle: float, fill: int
) -> NDArray[np.float64]:
    """What a crop should be, in float64: box integral when upright and shrinking, else mean of bilinear samples."""
    height, width = image.shape
    wide = np.full((height + 400, width + 400), float(fill))
    wide[200 : 200 + height, 200 : 200 + width] = image
    out = np.empty((size, size))
    turn = math.radians(angle)
    for i in range(size):
        for j in range(size):
            if angle == 0 and scale >= 1:
                weights: list[NDArray[np.float64]] = []
                for centre, index, n in ((y, i, wide.shape[0]), (x, j, wide.shape[1])):
                    lo = centre + (index - size / 2) * scale + 200
                    cells = np.arange(n)
                    weights.append(np.clip(np.minimum(cells + 1, lo + scale) - np.maximum(cells, lo), 0, None) / scale)
                out[i, j] = weights[0] @ wide @ weights[1]
                continue
            n = max(math.ceil(scale), 1)
            values: list[float] = []
            for down in (np.arange(n) + 0.5) / n:
                for right in (np.arange(n) + 0.5) / n:
                    a, b = (j - size / 2 + right) * scale, (i - size / 2 + down) * scale
                    px = x + a * math.cos(turn) - b * math.sin(turn) - 0.5 + 200
                    py = y + a * math.sin(turn) + b * math.cos(turn) - 0.5 + 200
                    c, r = math.floor(px), math.floor(py)
                    u, v = px - c, py - r
                    row0 = wide[r, c] * (1 - u) + wide[r, c + 1] * u
                    row1 = wide[r + 1, c] * (1 - u) + wide[r + 1, c + 1] * u
                    values.append(row0 * (1 - v) + row1 * v)
            out[i, j] = float(np.mean(values))
    return out


@pytest.mark.parametrize("angle", [0.0, 90.0, -33.0, 180.0])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.5, 2.0, 3.7])
@pytest.mark.parametrize("centre", [(40.0, 31.0), (40.37, 31.81), (2.0, 3.0), (-150.0, 10.0)])
def test_crop_equals_the_slow_float64_reference(angle: float, scale: float, centre: tuple[float, float]) -> None:
    image = images.noise(60, 80)
    fast = crop_affine(image[None], *centre, 12, scale, angle, np.array([77], np.uint8))[0]
    slow = slow_crop(image, *centre, 12, scale, angle, 77)
    # Half a grey value of rounding, plus float32.
    assert np.abs(fast - slow).max() <= 0.51


def test_aligned_crop_at_scale_one_is_the_image_itself() -> None:
    image = images.noise(64, 64)
    crop = crop_affine(image[None], 20.0, 30.0, 16, 1.0, 0.0, np.array([0], np.uint8))[0]
    np.testing.assert_array_equal(crop, image[22:38, 12:28])


def test_up_points_along_sin_a_minus_cos_a() -> None:
    image = np.zeros((100, 100), np.uint8)
    image[45:55, 80:90] = 255
    # a = 90: up is (+1, 0), so what lies to the right of the centre is at the top of the patch.
    patch = crop_affine(image[None], 50.0, 50.0, 80, 1.0, 90.0, np.array([0], np.uint8))[0]
    rows, columns = np.nonzero(patch > 128)
    assert rows.mean() == pytest.approx(39.5 - 34.5, abs=0.6)
    assert columns.mean() == pytest.approx(39.5, abs=0.6)


def test_halving_is_the_mean_of_two_by_two_and_keeps_odd_edges() -> None:
    image = images.noise(7, 9)
    small = halve(image[None])[0]
    assert small.shape == (4, 5)
    assert abs(int(small[1, 2]) - image[2:4, 4:6].mean()) <= 0.5
    assert abs(int(small[3, 4]) - int(image[6, 8])) == 0


def written(folder: Path, kind: str, levels: list[NDArray[np.uint8]], um: float) -> Path:
    """One section in one format."""
    if kind == "png":
        images.write_png(folder / "s.png", levels[0])
        images.write_sidecar(folder, pixel_um=um)
        return folder
    if kind == "tiff":
        return images.write_tiff(folder / "s.tif", levels, um)
    if kind == "precomputed":
        return images.write_precomputed(folder / "s.precomputed", levels, um, offset=(16, 32, 5))
    if kind not in {"zarr2", "zarr3", "sharded"}:
        raise AssertionError(f"write '{kind}' here: a format without a writer would be tested as another one")
    version = 2 if kind == "zarr2" else 3
    return images.write_zarr(folder / "s.zarr", levels, um, version=version, shard=128 if kind == "sharded" else None)


def opened(path: Path) -> ImageSection:
    section = readers.read(path).sections[0]
    assert isinstance(section, ImageSection)
    return section


@pytest.mark.parametrize("kind", FORMATS)
def test_a_grating_keeps_its_period_at_every_pixel_size(tmp_path: Path, kind: str) -> None:
    period_um = 96.0
    image = images.stripes(512, 640, period_um / 2.0)
    section = opened(written(tmp_path, kind, images.reduced(image, 4), 2.0))
    for asked in (1.5, 2.0, 3.1, 4.0, 7.9, 8.0, 16.0, 20.0):
        patch = section.crop(640.0, 512.0, size_px=24, pixel_um=asked)[0].astype(float)
        assert np.ptp(patch, axis=0).max() <= 1
        x_um = 640.0 + (np.arange(24) - 11.5) * asked
        waves = np.stack([np.sin(2 * np.pi * x_um / period_um), np.cos(2 * np.pi * x_um / period_um), np.ones(24)], 1)
        fit, *_ = np.linalg.lstsq(waves, patch[0], rcond=None)
        # Right period and right phase: what remains is rounding, linear interpolation's ripple, and
        # at 20 um the ripple of averaging 16-um pixels unevenly.
        assert np.abs(waves @ fit - patch[0]).max() < 7.0, asked
        assert abs(fit[1]) < 2.0, asked
        # A box of the asked width damps a sine by exactly sinc(width / period); a coarser level would damp it more.
        # 20 um come from whole 16-um pixels, whose own width costs up to a tenth of the contrast at this fine period.
        expected = 100 * np.sinc(asked / period_um)
        assert fit[0] == pytest.approx(expected, rel=0.02 if asked <= 16 else 0.1), (asked, fit[0] / expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_asking_for_16_um_of_a_2_um_pyramid_gives_the_area_mean(tmp_path: Path, kind: str) -> None:
    image = images.noise(512, 512)
    section = opened(written(tmp_path, kind, images.reduced(image, 3), 2.0))
    patch = section.crop(512.0, 512.0, size_px=16, pixel_um=16.0)[0]
    mean = image[192:320, 192:320].astype(float).reshape(16, 8, 16, 8).mean((1, 3))
    assert np.abs(patch - mean).max() <= 1.5  # two roundings of stored levels
    assert mean.std() > 4  # a subsampled level would differ by tens


@pytest.mark.parametrize("kind", FORMATS)
def test_all_formats_place_native_pixels_exactly(tmp_path: Path, kind: str) -> None:
    image = images.noise(200, 300)
    section = opened(written(tmp_path, kind, images.reduced(image, 2), 2.0))
    patch = section.crop(200.0, 160.0, size_px=40, pixel_um=2.0)[0]
    np.testing.assert_array_equal(patch, image[60:100, 80:120])
    edge = section.crop(0.0, 0.0, size_px=8, pixel_um=2.0)[0]
    assert set(np.unique(edge[:4])) == {section.background[0]}
    np.testing.assert_array_equal(edge[4:, 4:], image[:4, :4])


@pytest.mark.parametrize("dtype", ["rgb", "palette", "rgba"])
def test_colour_png_comes_back_as_colour(tmp_path: Path, dtype: str) -> None:
    from PIL import Image

    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[:, :25] = (200, 30, 60)
    picture = Image.fromarray(pixels)
    picture = {"rgb": picture, "palette": picture.quantize(4), "rgba": picture.convert("RGBA")}[dtype]
    picture.save(tmp_path / "c.png")
    images.write_sidecar(tmp_path, pixel_um=5.0)
    patch = opened(tmp_path).crop(50.0, 50.0, size_px=4, pixel_um=5.0)
    assert patch.shape == (3, 4, 4)
    np.testing.assert_array_equal(patch[:, 0, 0], (200, 30, 60))


@pytest.mark.parametrize("dark", [True, False])
def test_polarity_and_background_are_measured(tmp_path: Path, *, dark: bool) -> None:
    images.write_png(tmp_path / "b.png", images.blob(dark=dark))
    images.write_sidecar(tmp_path, pixel_um=10.0)
    section = opened(tmp_path)
    assert section.dark_stain is dark
    assert section.background[0] == pytest.approx(240 if dark else 10, abs=3)
    mask = tissue.mask(section.overview(20.0))
    truth = (math.pi * 0.35**2) * mask.size
    assert mask.sum() == pytest.approx(truth, rel=0.06)
    points = tissue.grid(mask, pixel_um=20.0, spacing_um=200.0, least=0.5)
    inside = ((points["x_um"] / 2000 - 1) / 0.7) ** 2 + ((points["y_um"] / 1500 - 1) / 0.7) ** 2
    assert 100 < len(points) < 150
    assert (inside < 1.25).all()


def test_an_empty_slide_has_no_tissue() -> None:
    slide = np.random.default_rng(0).normal(230, 1.5, (1, 200, 200)).astype(np.uint8)
    assert not tissue.mask(slide).any()


def test_tissue_fraction_is_exact_for_fractions_of_pixels() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:, 5:] = True
    found = tissue.tissue_fraction(
        mask, np.array([50.0, 55.0, 45.0, 95.0]), np.full(4, 50.0), pixel_um=10.0, side_um=20.0
    )
    np.testing.assert_allclose(found, [0.5, 0.75, 0.25, 0.75], atol=1e-9)


def series(folder: Path, *, target: str = "ABA_Mouse_CCFv3_2017_25um.cutlas", voxels: float = 1.0) -> Path:
    """Two small anchored sections, 8 um pixels, 0.5 mm apart."""
    import json

    slices = []
    for number, y in enumerate((200, 220)):
        images.write_png(folder / f"m_s{number}.png", images.blob(300, 400))
        u, v = 400 * 8 / 25 * voxels, 300 * 8 / 25 * voxels
        slices.append(
            {
                "filename": f"m_s{number}.png",
                "width": 800,
                "height": 600,
                "anchoring": [300 * voxels, y * voxels, 250 * voxels, -u, 0, 0, 0, 0, -v],
            }
        )
    path = folder / "anchoring.json"
    path.write_text(json.dumps({"target": target, "slices": slices}))
    return path


def test_anchoring_places_pixels_in_mm(tmp_path: Path) -> None:
    series(tmp_path)
    found = readers.read(tmp_path)
    assert found.space is CCF_V3 or found.space == CCF_V3
    section = found.sections[1]
    assert section.native_um == pytest.approx(16.0 / 2)
    corner, far = section.place(np.array([[0.0, 0.0], [section.width_um, section.height_um]]))
    np.testing.assert_allclose(corner, [7.5, 5.5, 6.25])
    np.testing.assert_allclose(far, [7.5 - 3.2, 5.5, 6.25 - 2.4])


def test_a_stated_pixel_size_wins_over_the_registration(tmp_path: Path) -> None:
    series(tmp_path)
    images.write_sidecar(tmp_path, pixel_um=8.4, subject="mouse7")
    section = readers.read(tmp_path).sections[0]
    assert (section.native_um, section.subject) == (8.4, "mouse7")
    # The corners stay where the registration puts them.
    np.testing.assert_allclose(section.place(np.array([[section.width_um, 0.0]]))[0], [7.5 - 3.2, 5.0, 6.25])


def test_unknown_atlas_and_contradicting_space_are_refused(tmp_path: Path) -> None:
    series(tmp_path, target="WHS_Rat_v4_39um.cutlas")
    with pytest.raises(Refused, match=r"WHS_Rat.*\n.*ABA_Mouse_CCFv3_2017_25um"):
        readers.read(tmp_path)
    series(tmp_path)
    images.write_sidecar(tmp_path, space="phantom", anchoring="anchoring.json")
    with pytest.raises(SpaceMismatch):
        readers.read(tmp_path)


UM_TO_MM = [[0.001, 0, 1.0], [0, 0, 2.0], [0, -0.001, 3.0]]


def test_sidecar_places_points_and_refuses_nonsense(tmp_path: Path) -> None:
    images.write_png(tmp_path / "a.png", images.blob())
    (tmp_path / "p.csv").write_text("x_px,y_px,angle_deg,area\n10,20,5,V1\n30,40,0,V2\n")
    entry = {"file": "a.png", "id": "B1_s1", "subject": "B1", "pixel_um": 10.0, "to_mm": UM_TO_MM, "points": "p.csv"}
    images.write_sidecar(tmp_path, space="phantom", sections=[entry])
    section = readers.read(tmp_path).sections[0]
    assert section.points is not None
    assert section.points.to_dict("list") == {
        "x_um": [100.0, 300.0],
        "y_um": [200.0, 400.0],
        "angle_deg": [5.0, 0.0],
        "area": ["V1", "V2"],
    }
    np.testing.assert_allclose(section.place(np.array([[1000.0, 500.0]])), [[2.0, 2.0, 2.5]])

    def refused(message: str, **change: object) -> None:
        images.write_sidecar(tmp_path, space=change.pop("space", "phantom"), sections=[{**entry, **change}])
        with pytest.raises(Refused, match=message):
            readers.read(tmp_path)

    refused("map to um instead of mm", to_mm=[[1.0, 0, 0], [0, 0, 0], [0, -1.0, 0]])
    refused("from pixels", to_mm=[[0.01, 0, 0], [0, 0, 0], [0, -0.01, 0]])
    refused("swapped", to_mm=[[0.001, 0.001, 0], [0, 0, 0], [0, 0.0001, 0]])
    refused("stay inside", file="../a.png")
    refused("stay inside", points="/etc/passwd")
    refused("known space", space="mni")
    refused("need a space", space=None)
    refused("no to_mm", to_mm=None)
    refused("pixl", pixl=3)
    refused("0.01 to 1000 um", pixel_um=12300.0)
    refused("SHA-256", sha256="00" * 32)
    good = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    images.write_sidecar(tmp_path, space="phantom", sections=[{**entry, "sha256": good}])
    assert len(readers.read(tmp_path).sections) == 1
    (tmp_path / "p.csv").write_text("x_um,y_um\n" + "3900,2900\n" * 5 + "2900,3900\n")
    refused("inside the image")


def test_pixel_size_of_file_and_sidecar_must_agree(tmp_path: Path) -> None:
    images.write_tiff(tmp_path / "a.tif", [images.blob()], 2.0)
    images.write_sidecar(tmp_path, pixel_um=2.02)
    assert readers.read(tmp_path).sections[0].native_um == 2.02
    images.write_sidecar(tmp_path, pixel_um=2.1)
    with pytest.raises(Refused, match="agree within 2 %"):
        readers.read(tmp_path)


def test_spot_pitch_measures_the_pixel_size(tmp_path: Path) -> None:
    images.write_png(tmp_path / "s.png", images.blob(300, 400))
    rows = []
    for r in range(12):
        y = 50 + 100 / 16 * 0.8660254 * r
        rows += [f"b{r}_{c},{50 + 100 / 16 * (c + 0.5 * (r % 2)):.2f},{y:.2f},L{r % 3}" for c in range(12)]
    (tmp_path / "s_spots.csv").write_text("barcode,x_px,y_px,layer\n" + "\n".join(rows) + "\n")
    section = readers.read(tmp_path).sections[0]
    assert section.native_um == pytest.approx(16.0, rel=2e-3)
    assert section.points is not None
    assert list(section.points["layer"].unique()) == ["L0", "L1", "L2"]
    text = str(validate(tmp_path))
    assert "spots' pitch" in text
    assert "144 with barcode, layer" in text


def test_missing_pixel_size_says_what_to_do(tmp_path: Path) -> None:
    images.write_png(tmp_path / "a.png", images.blob())
    with pytest.raises(Refused, match=r'pixel size(.|\n)*"pixel_um": 2\.0'):
        readers.read(tmp_path)


def test_bad_files_are_skipped_by_name_and_good_ones_open(tmp_path: Path) -> None:
    images.write_png(tmp_path / "good.png", images.blob())
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "scan.czi").write_bytes(b"ZISRAW")
    images.write_sidecar(tmp_path, pixel_um=4.0)
    found = source.open(Recipe(), tmp_path)
    assert [section.id for section in found.sections] == ["good"]
    assert {name for name, _ in found.skipped} == {"empty.png", "text.tif", "scan.czi"}
    report = validate(tmp_path)
    assert (report.verdict, report.exit_code) == ("usable", 3)
    assert "scan.czi: format is not read" in str(report)
    assert source.open(Recipe(), found) is found


def test_wishes_that_the_data_cannot_serve_are_refused(tmp_path: Path) -> None:
    images.write_png(tmp_path / "a.png", images.blob())
    images.write_sidecar(tmp_path, pixel_um=40.0)
    with pytest.raises(Refused, match="detail of 16 um"):
        source.open(Recipe(), tmp_path)
    images.write_sidecar(tmp_path, pixel_um=10.0)
    with pytest.raises(Refused, match="own points"):
        source.open(Recipe(samples=Patches(where="points")), tmp_path)


@pytest.mark.parametrize(
    ("pixel_um", "said"), [(0.0105, "0.0042 mm"), (0.49, "0.196 mm"), (0.5, ""), (625.0, ""), (626.0, "250 mm")]
)
def test_fit_doubts_a_size_that_no_section_has_in_the_words_of_validate(
    pixel_um: float, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after 0.0105 (mm) given for 10.5 (um); an image of 400 pixels."""
    images.write_png(tmp_path / "a.png", images.blob())
    images.write_sidecar(tmp_path, pixel_um=pixel_um)
    source.open(Recipe(samples=Patches(pixel_um=1000.0)), tmp_path)
    heard = " ".join(capsys.readouterr().err.split())
    doubts = [f"sections are {said} wide: is the pixel size in um?"] if said else []
    assert heard == "".join(f"{tmp_path.name}: {doubt}" for doubt in doubts)
    assert [concern for concern in validate(tmp_path).concerns if "wide" in concern] == doubts


def test_fingerprint_follows_content_not_time_or_place(tmp_path: Path) -> None:
    prints = []
    for name, um, seed in (("a", 4.0, 0), ("b", 4.0, 0), ("c", 4.1, 0), ("d", 4.0, 1)):
        folder = tmp_path / name / "brain"
        folder.mkdir(parents=True)
        images.write_png(folder / "s.png", images.noise(50, 50, seed))
        images.write_sidecar(folder, pixel_um=um)
        prints.append(readers.read(folder).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_sixteen_bits_are_scaled_knowingly(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 4095, 256).astype(np.uint16)[None], 128, axis=0)
    images.write_tiff(tmp_path / "r.tif", [ramp], 2.0)
    images.write_sidecar(tmp_path, range=[0, 4095])
    patch = opened(tmp_path).crop(256.0, 128.0, size_px=100, pixel_um=2.0)[0]
    expected = np.round(ramp[0, 78:178] / 4095 * 255)
    assert np.abs(patch[0] - expected).max() <= 1
    (tmp_path / "sections.json").unlink()
    assert any("99.9th percentile" in note for note in opened(tmp_path).notes)
    images.write_zarr(tmp_path / "f.zarr", [ramp.astype(np.float32)], 2.0)
    with pytest.raises(Refused, match="stated range"):
        readers.read(tmp_path / "f.zarr")


def test_channels_of_fluorescence_are_named_not_guessed(tmp_path: Path) -> None:
    stack = np.stack([images.noise(100, 120, seed) for seed in range(4)])
    images.write_zarr(tmp_path / "c.zarr", [stack], 2.0)
    with pytest.raises(Refused, match="one channel should be named"):
        readers.read(tmp_path)
    images.write_sidecar(tmp_path, channel=2)
    np.testing.assert_array_equal(opened(tmp_path).overview(2.0)[0], stack[2])
    tifffile.imwrite(
        tmp_path / "c.ome.tif", stack, tile=(64, 64), metadata={"axes": "CYX", "PhysicalSizeX": 2, "PhysicalSizeY": 2}
    )
    section = next(s for s in readers.read(tmp_path).sections if s.id == "c.ome")
    np.testing.assert_array_equal(section.overview(2.0)[0], stack[2])


def test_both_zarr_libraries_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = images.noise(150, 170)
    for name, version, shard in (("a.zarr", 2, None), ("b.zarr", 3, None), ("c.zarr", 3, 128)):
        images.write_zarr(tmp_path / name, [image], 2.0, version=version, shard=shard)
    fast = [section.overview(2.0) for section in readers.read(tmp_path).sections]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    slow = [section.overview(2.0) for section in readers.read(tmp_path).sections]
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(a[0], image)
        np.testing.assert_array_equal(b[0], image)


def test_cache_is_bounded_and_decodes_once_across_threads() -> None:
    cache, made = Cache(limit_mb=1), []

    def make(key: int) -> list[NDArray[np.uint8]]:
        made.append(key)
        return [np.full(300_000, key, np.uint8)]

    def work() -> None:
        for key in range(3):
            assert cache.get(key, lambda key=key: make(key))[0][0] == key

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [0, 1, 2]
    for key in range(20):
        cache.get(key, lambda key=key: make(key))
        assert cache.nbytes <= 1_000_000


def test_crops_from_many_threads_equal_crops_from_one(tmp_path: Path) -> None:
    image = images.noise(600, 600)
    images.write_zarr(tmp_path / "z.zarr", images.reduced(image, 2), 2.0)
    images.write_tiff(tmp_path / "t.tif", images.reduced(image, 2), 2.0)
    places = np.random.default_rng(0).uniform(0, 1200, (60, 2))
    for section in readers.read(tmp_path).sections:
        alone = [section.crop(x, y, size_px=32, pixel_um=3.0) for x, y in places]
        found: dict[int, bool] = {}

        def work(
            start: int, section: source.Section = section, found: dict[int, bool] = found, alone: list = alone
        ) -> None:
            for n in range(start, len(places), 4):
                found[n] = bool((section.crop(*places[n], size_px=32, pixel_um=3.0) == alone[n]).all())

        threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 60
        assert all(found.values())


def test_reading_a_large_section_keeps_memory_bounded(tmp_path: Path) -> None:
    image = np.tile(images.noise(512, 512), (8, 8))
    images.write_zarr(tmp_path / "z.zarr", [image], 2.0, chunk=512)
    section = opened(tmp_path / "z.zarr")
    for x, y in np.random.default_rng(0).uniform(0, 8192, (200, 2)):
        section.crop(x, y, size_px=64, pixel_um=4.0)
    assert CACHED.nbytes <= 64_000_000


def test_report_and_picture(tmp_path: Path) -> None:
    series(tmp_path)
    report = validate(tmp_path)
    text = str(report)
    assert report.exit_code == 0
    assert len(text.splitlines()) < 25
    for part in ("2 of 1 subject", "8 um", "ccf_v3", "dark on bright", "0.0 x 0.5 x 0.0 mm"):
        assert part in text, part
    from PIL import Image

    with Image.open(report.picture(tmp_path / "sheet.png")) as sheet:
        assert min(sheet.size) > 200
        assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 100


def test_wrong_units_of_a_whole_series_are_refused(tmp_path: Path) -> None:
    series(tmp_path, voxels=1000.0)
    with pytest.raises(Refused, match=r"(too large|0\.01 to 1000 um|about 1 mm)"):
        readers.read(tmp_path)


def test_a_damaged_sidecar_is_named(tmp_path: Path) -> None:
    images.write_png(tmp_path / "a.png", images.blob())
    (tmp_path / "sections.json").write_text('{"pixel_um": 2.0, "sections": [')
    with pytest.raises(Corrupt, match=r"sections\.json"):
        readers.read(tmp_path)
    (tmp_path / "sections.json").write_text('{"pixel_um": NaN}')
    with pytest.raises(Refused, match="finite"):
        readers.read(tmp_path)


def test_the_form_for_a_data_set_opens_what_it_describes(tmp_path):
    for brain, section in (("stripes1", "s001"), ("stripes1", "s002"), ("stripes2", "s001")):
        images.write_png(tmp_path / f"{brain}_{section}.png", images.blob())
    (tmp_path / "notes.txt").write_text("not an image")
    found = _template.open(tmp_path)
    assert [section.subject for section in found.sections] == ["stripes1", "stripes1", "stripes2"]
    assert {section.native_um for section in found.sections} == {_template.PIXEL_UM}
    assert (found.space.name, found.skipped) == ("unregistered", [])
    with pytest.raises(Refused, match="none of them"):
        _template.open(Path(__file__).parent)
