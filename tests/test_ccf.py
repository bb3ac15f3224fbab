"""Atlas labels land where the atlas says, whichever way the file stores its axes."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from brodmann.datasets import ccf
from brodmann.errors import Refused

real = Path(os.environ.get("BRODMANN_DATA", "nowhere")) / "sections" / "mouse_glt1"
needs_data = pytest.mark.skipif(not (real / ccf.VOLUME).is_file(), reason="BRODMANN_DATA with sections/mouse_glt1")

ROWS = [
    (997, "root"),
    (688, "Cerebral cortex"),
    *[(number, f"area {name}") for name, number in {"Isocortex": 315, **ccf.CORTEX}.items()],
    (427, "Ectorhinal area/Layer 2/3"),
    (977, "Ectorhinal area/Layer 6a"),
    (810, "Anterior cingulate area, ventral part, 6a"),
    (747, "Infralimbic area, layer 2"),
    *[(number, name) for name, number in ccf.DIVISIONS.items() if name in {"OLF", "HPF", "CTXsp"}],
    (212, "Main olfactory bulb, layer 1"),
    (623, "Cerebral nuclei"),
    *[(number, name) for name, number in ccf.DIVISIONS.items() if name not in {"Isocortex", "OLF", "HPF", "CTXsp"}],
    (1024, "grooves"),
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / ccf.REGIONS
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["idx", "name", "r"])
        writer.writerows((*row, 0) for row in ROWS)
    return path


def test_depth_first_rows_become_classes(table):
    area = ccf.regions(table, level="areas")
    division = ccf.regions(table, level="divisions")
    layer = ccf.regions(table, level="layers")
    assert (area[427], division[427], layer[427]) == ("ECT", "Isocortex", "2/3")
    assert (layer[977], layer[810], layer[747]) == ("6a", "6a", "2/3")
    assert (area[212], division[212], layer[212]) == ("CTXsp", "CTXsp", "")
    assert (area[623], division[623], area[997], area[1024], area[315]) == ("", "", "", "", "")
    assert area[354] == division[354] == "MY"
    finest = ccf.regions(table, level="structures")
    assert (finest[427], finest[977], finest[997]) == ("Ectorhinal area/Layer 2/3", "Ectorhinal area/Layer 6a", "")
    assert len(set(finest.values())) == len(ROWS)


def test_a_table_of_another_ontology_is_refused(table):
    table.write_text("idx,name\n997,root\n")
    with pytest.raises(Refused, match="no rows for ids"):
        ccf.regions(table, level="areas")


def test_labels_at_voxel_borders_and_outside():
    volume = np.arange(1, 2 * 3 * 4 + 1).reshape(2, 3, 4)
    affine = np.array([[0, 0.5, 0, 10.0], [2, 0, 0, -1.0], [0, 0, -1, 5.0], [0, 0, 0, 1]])
    for i, j, k in np.ndindex(2, 3, 4):
        centre = affine[:3, :3] @ (i, j, k) + affine[:3, 3]
        for shift in ((0, 0, 0), (0.24, 0.9, 0.49), (-0.24, -0.9, -0.49)):
            assert ccf.labels_at(volume, affine, np.array([centre + shift]))[0] == volume[i, j, k]
    outside = np.array([[9.7, 0, 4], [10, 4, 4], [10, 0, 5.6], [np.nan, 0, 4]])
    assert ccf.labels_at(volume, affine, outside).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("allen", [False, True])
def test_both_files_give_the_same_labels(tmp_path, table, allen):
    nrrd = pytest.importorskip("nrrd")
    volume = np.zeros((456, 528, 320), np.uint32)
    volume[100:110, 400:410, 200:210] = 212
    volume[300:310, 50:60, 40:50] = 354
    stored = volume[:, ::-1, ::-1].transpose(1, 2, 0) if allen else volume
    nrrd.write(str(tmp_path / ccf.VOLUME), np.ascontiguousarray(stored), compression_level=1)
    xyz = np.array([[105, 405, 205], [305, 55, 45], [105, 55, 45], [100.1, 400.1, 200.1], [109.9, 409.9, 209.9]])
    assert ccf.areas(xyz * 0.025, folder=tmp_path, level="divisions").tolist() == ["CTXsp", "MY", "", "CTXsp", "CTXsp"]


def test_nifti_atlas_round_trip(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "atlas.nii.gz")
    read, transform = ccf.read(tmp_path / "atlas.nii.gz")
    assert ccf.labels_at(read, transform, np.array([[2.0, 4.0, 6.0]])).tolist() == [volume[1, 2, 3]]
    with pytest.raises(Refused, match="no such file"):
        ccf.read(tmp_path / "absent.nii")
    (tmp_path / "atlas.tif").write_bytes(b"")
    with pytest.raises(Refused, match=r"\.nrrd"):
        ccf.read(tmp_path / "atlas.tif")


def test_metres_are_refused(tmp_path):
    with pytest.raises(Refused, match="too large"):
        ccf.areas(np.array([[0, 0, 0], [11400, 5000, 3000.0]]), folder=tmp_path)


@needs_data
def test_real_atlas_has_its_landmarks_where_they_are():
    # Midline x 5.7; places chosen from anatomy: olfactory bulb in front, medulla behind and below, cortex on top.
    places = np.array(
        [[4.7, 11.8, 3.6], [5.7, 1.2, 1.6], [3.0, 7.5, 6.6], [8.4, 7.5, 6.6], [5.7, 5.8, 3.6], [3.4, 8.0, 3.9]]
    )
    assert ccf.areas(places, folder=real, level="divisions").tolist() == [
        "OLF", "MY", "Isocortex", "Isocortex", "TH", "STR",
    ]  # fmt: skip
    assert ccf.areas(places, folder=real).tolist()[2:4] == ["SS", "SS"]


@needs_data
def test_real_sections_tissue_is_inside_the_atlas():
    """Stained pixels of a section, placed by its anchoring, lie in the atlas; empty slide does not."""
    from PIL import Image

    record = json.loads((real / "anchoring.json").read_text())["slices"][15]
    o, u, v = np.array(record["anchoring"]).reshape(3, 3)
    image = np.asarray(Image.open(real / record["filename"]).convert("L"))[::8, ::8]
    rows, columns = np.mgrid[0 : record["height"] : 8, 0 : record["width"] : 8] + 0.5
    voxels = o + columns[..., None] / record["width"] * u + rows[..., None] / record["height"] * v
    named = ccf.areas(voxels.reshape(-1, 3) * 0.025, folder=real, level="divisions").reshape(image.shape) != ""
    stained = image < 200
    assert named[stained].mean() > 0.97
    assert named[~stained].mean() < 0.15
