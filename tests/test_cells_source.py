"""Sources of cells: who and where each cell is, what the sidecar says, and real sets read whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from brodmann.cells.readers import Entry
from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.space import PHANTOM
from cellfiles import cells, read

pytestmark = pytest.mark.usefixtures("own_cache")


def test_lone_cells_empty_sections_and_missing_places():
    data = cells(1000)
    lone = cells(1, sections=("lone",), seed=9)
    data = anndata.concat([data, lone])
    data.obsm["spatial"][[4, 9]] = np.nan
    lost = data.obs_names[[4, 9]]
    stated = {"sections": [Entry(id="gone")]}
    found = read(data, **stated)
    assert (found.sections[0].id, len(found.sections[0].rows)) == ("lone", 1)
    assert len(found) == 1999
    assert not set(lost) & set(found.ids())
    assert ("gone", "no cells") in found.skipped
    assert any("2 cells without coordinates are left out" in remark for remark in found.remarks)
    data.obsm["spatial"][:30] = np.nan
    with pytest.raises(Refused, match="30 of 2,001"):
        read(data)


def test_cells_named_twice_are_refused_with_an_example(tmp_path):
    first, second = cells(sections=("s1",)), cells(sections=("s2",), seed=1)
    second.obs_names = [first.obs_names[17], *second.obs_names[1:]]
    first.write_h5ad(tmp_path / "a.h5ad")
    second.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(Refused, match=f"'{first.obs_names[17]}'") as caught:
        read(tmp_path)
    assert "1 names occur more than once" in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_cells_at_one_place_and_nothing_at_all(tmp_path):
    data = cells()
    data.obsm["spatial"][:] = 5.0
    with pytest.raises(Refused, match="places of their own"):
        read(data)
    del data.obsm["spatial"]
    with pytest.raises(Refused, match="should hold coordinates"):
        read(data)
    with pytest.raises(Refused, match="nothing"):
        read(tmp_path / "absent.h5ad")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="should hold cells"):
        read(tmp_path / "empty")
    (tmp_path / "broken.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(Corrupt):
        read(tmp_path / "broken.h5ad")
    cells().write_h5ad(tmp_path / "none.h5ad")
    with h5py.File(tmp_path / "none.h5ad", "a") as file:
        file["X/indptr"][5] = 10**9
    with pytest.raises(BrodmannError, match="CSR"):
        read(tmp_path / "none.h5ad")


def test_sections_are_placed_in_a_space():
    data = cells()
    to_mm = ((0.001, 0.0, 1.0), (0.0, 0.0, 4.0), (0.0, -0.001, 3.0))
    entries = [Entry(id="s1", subject="m9", to_mm=to_mm)]
    found = read(data, space="phantom", sections=entries)
    assert found.space == PHANTOM
    assert [(s.id, s.subject) for s in found.sections] == [("s1", "m9")]
    assert found.skipped[0][0] == "s2"
    xy = np.asarray(found.xy_um, np.float64)
    wanted = np.column_stack([xy[:, 0] / 1000 + 1, np.full(200, 4.0), 3 - xy[:, 1] / 1000])
    assert np.allclose(found.xyz_mm, wanted, atol=1e-5)
    with pytest.raises(Refused, match="need a space"):
        read(data, sections=entries)
    with pytest.raises(Refused, match="about 1 mm"):
        read(data, space="phantom", sections=[Entry(id="s1", to_mm=((1.0, 0.0, 1.0), *to_mm[1:]))])


def test_sidecar_is_read_checked_and_part_of_the_key(tmp_path):
    data = cells()
    data.obs["kind"] = data.obs["cell_type"]
    data.write_h5ad(tmp_path / "d.h5ad")
    before = read(tmp_path / "d.h5ad")
    (tmp_path / "cells.json").write_text(json.dumps({"section": "layer", "type": "kind", "labels": ["kind"]}))
    found = read(tmp_path / "d.h5ad")
    assert [s.id for s in found.sections] == ["L1", "L5"]
    assert list(found.labels) == ["kind"]
    assert found.folder != before.folder
    (tmp_path / "d.h5ad.cells.json").write_text(json.dumps({"genes": {"Gene0": "Gad1"}}))
    assert read(tmp_path / "d.h5ad").panel.genes[0] == "Gad1"
    assert read(tmp_path / "d.h5ad.cells.json").panel.genes[0] == "Gad1"
    assert [s.id for s in read(tmp_path / "cells.json").sections] == ["L1", "L5"]
    (tmp_path / "d.h5ad.cells.json").write_text('{"unitt": "um"}')
    with pytest.raises(Refused, match="unitt"):
        read(tmp_path / "d.h5ad")
    (tmp_path / "d.h5ad.cells.json").write_text('{"section": "slab"}')
    with pytest.raises(Refused, match="slab"):
        read(tmp_path / "d.h5ad")
    with pytest.raises(Refused, match="stay inside"):
        read(tmp_path, files=["../x.h5ad"])


# real sets


def real(name):
    home = os.environ.get("BRODMANN_DATA")
    path = Path(home or "") / "cells" / name
    if home is None or not path.exists():
        pytest.skip("BRODMANN_DATA does not hold the real sets of cells")
    return path


def test_real_starmap():
    found = read(real("starmap_v1.h5ad"))
    assert (len(found), len(found.panel), found.unit) == (1549, 1020, "arbitrary")
    assert int(found.labels["layer"].notna().sum()) == 1207
    assert found.labels["layer"].nunique() == 7
    assert len(found.type_names) == 16
    data = anndata.read_h5ad(real("starmap_v1.h5ad"))
    assert int(found.total_counts.sum()) == int(data.X.sum())


def test_real_baristaseq_counts_are_recovered():
    found = read([real("baristaseq_slice1.h5ad"), real("baristaseq_slice2.h5ad")])
    assert [(s.subject, s.id, len(s.rows)) for s in found.sections] == [
        ("mouse1", "slice1", 1525),
        ("mouse1", "slice2", 2042),
    ]
    assert sum("log1p of normalised counts" in remark for remark in found.remarks) == 2
    data = anndata.read_h5ad(real("baristaseq_slice1.h5ad")).to_df().loc[found.ids(slice(0, 1525))].to_numpy()
    counts = found.dense(slice(0, 1525)).astype(np.float64)
    scale = np.expm1(data).sum(1) / np.maximum(counts.sum(1), 1)
    assert np.allclose(np.log1p(counts * scale[:, None]), data, atol=2e-3)


def test_real_mpfc_and_types_only():
    found = read(real("starmap_mpfc_BZ5.h5ad").parent / "starmap_mpfc_BZ*.h5ad")
    assert [(s.subject, len(s.rows)) for s in found.sections] == [("BZ5", 1049), ("BZ9", 1053)]
    assert len(found.panel) == 166
    found = read(real("starmap_plus_cns_types.csv.gz"))
    assert (len(found), len(found.panel), len(found.type_names)) == (43_341, 0, 216)
    assert found.labels["Tissue_Symbol"].nunique() == 39
    assert found.labels["Maintype_Symbol"].nunique() == 26
