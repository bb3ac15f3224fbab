"""BigBrain's sections and slices lie where its numbers say, whichever way they are opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import images
from brodmann.datasets import bigbrain
from brodmann.errors import Refused
from test_precomputed import server  # noqa: F401  a fixture

TRANSFORM = [[1, 0, 0, -70677184], [0, 1, 0, -70010000], [0, 0, 1, -58788284], [0, 0, 0, 1]]


def section(folder: Path, number: int, *, y: int | None = None) -> Path:
    """A small piece of a section, as the server names and places it."""
    path = images.write_precomputed(
        folder / f"B20_{number:04d}" / "precomputed", images.reduced(images.blob(120, 160), 2), 40.0, thin="y"
    )
    rows = [list(row) for row in TRANSFORM]
    rows[1][3] += 20000 * ((number if y is None else y) - 1)
    (path / "transform.json").write_text(json.dumps(rows))
    return path


def test_sections_lie_at_the_published_bounds(tmp_path):
    """Section 3905 is published with bounds (-70.677, 8.07, -58.788) to (.., 8.09, ..) mm."""
    section(tmp_path, 3905)
    section(tmp_path, 102)
    source = bigbrain.sections(tmp_path)
    assert (source.space.name, source.skipped) == ("bigbrain", [])
    first, last = source.sections
    assert (first.id, last.id, last.subject, last.dark_stain) == ("B20_0102", "B20_3905", "BigBrain", True)
    np.testing.assert_allclose(last.place(np.zeros((1, 2))), [[-70.677184, 8.08, -58.788284]], atol=1e-6)
    # Columns to the right, rows upwards in the brain.
    np.testing.assert_allclose(last.place(np.array([[1000.0, 500.0]])), [[-69.677184, 8.08, -58.288284]], atol=1e-6)
    assert bigbrain.y_mm(3905) == pytest.approx(8.08)
    assert (bigbrain.y_mm(1), bigbrain.y_mm(7404)) == (pytest.approx(-70.0), pytest.approx(78.06))


def test_a_section_at_another_place_is_refused(tmp_path):
    section(tmp_path, 3905, y=3908)
    with pytest.raises(Refused, match=r"8\.08 mm"):
        bigbrain.sections(tmp_path)
    with pytest.raises(Refused, match="numbered 1 to 7404"):
        bigbrain.y_mm(0)
    with pytest.raises(Refused, match=r"were scanned(.|\n)*3906"):
        bigbrain.served([3906])
    assert (len(bigbrain.SECTIONS), len(set(bigbrain.SECTIONS))) == (145, 145)
    apart_mm = np.diff([bigbrain.y_mm(number) for number in bigbrain.SECTIONS])
    assert apart_mm.min() > 0.5
    assert np.median(apart_mm) == pytest.approx(1.0, abs=0.01)
    with pytest.raises(Refused, match="B20_NNNN"):
        bigbrain.sections(tmp_path / "B20_3905")


def test_sections_of_a_server_are_those_of_the_folder(tmp_path, server, monkeypatch):  # noqa: F811
    section(tmp_path, 3905)
    monkeypatch.setattr(bigbrain, "ADDRESS_SECTIONS", server.address + "/B20_{:04d}/precomputed")
    (there,), (here,) = bigbrain.served([3905]).sections, bigbrain.sections(tmp_path).sections
    assert there.id == here.id
    np.testing.assert_array_equal(there.place(np.eye(2) * 500), here.place(np.eye(2) * 500))
    np.testing.assert_array_equal(there.overview(80.0), here.overview(80.0))


def test_slices_of_the_volume(tmp_path):
    """A volume of the true size whose chunks are not there: header, place and size are read without them."""
    path = tmp_path / "8bit"
    path.mkdir()
    scale = {
        "chunk_sizes": [[64, 64, 64]],
        "encoding": "raw",
        "key": "20um",
        "resolution": [21166.6666666666666, 20000, 21166.6666666666666],
        "size": [6572, 7404, 5711],
        "voxel_offset": [0, 0, 0],
    }
    info = {"type": "image", "data_type": "uint8", "num_channels": 1}
    coarse = scale | {"key": "40um", "resolution": [42333.3, 40000, 42333.3], "size": [3286, 3702, 2856]}
    (path / "info").write_text(json.dumps(info | {"scales": [scale, coarse]}))
    with pytest.raises(Refused, match=r"9270 absent, e\.g\. 20um/0-64_3904-3968_0-64"):
        bigbrain.slices(path, [3905])
    (path / "20um").mkdir()
    for x in range(0, 6572, 64):
        for z in range(0, 5711, 64):
            (path / "20um" / f"{x}-{min(x + 64, 6572)}_3904-3968_{z}-{min(z + 64, 5711)}").touch()
    source = bigbrain.slices(path, [3905, 3910])
    first, second = source.sections
    assert (first.width_um, first.height_um) == (pytest.approx(139107.3, abs=0.1), pytest.approx(120882.8, abs=0.1))
    assert second.place(np.zeros((1, 2)))[0].tolist() == [-70.677184, bigbrain.y_mm(3910), -58.788284]
    assert any("40" not in note and "42.3333 um left out" in note for note in first.notes), first.notes
    (path / "info").write_text(json.dumps(info | {"scales": [scale | {"size": [6572, 7404, 5000]}]}))
    with pytest.raises(Refused, match=r"139\.3 x 121\.0 mm|absent"):
        bigbrain.slices(path, [3905])
