"""Formats of cells: each gives the same cells, in sections, in order; folders and tables of several files."""

from __future__ import annotations

import shutil

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from brodmann.cells import convert
from brodmann.cells.panel import Panel
from brodmann.errors import Refused
from brodmann.space import CCF_V3
from cellfiles import GENES, cells, frame, read, same, truth

pytestmark = pytest.mark.usefixtures("own_cache")


def write_loom(path, data):
    with h5py.File(path, "w") as file:
        file["matrix"] = np.asarray(data.X.todense()).T
        file["row_attrs/Gene"] = np.array(list(data.var_names), "S")
        file["col_attrs/CellID"] = np.array(list(data.obs_names), "S")
        file["col_attrs/X"], file["col_attrs/Y"] = data.obsm["spatial"].T
        for name in ("section", "subject", "cell_type", "layer"):
            file[f"col_attrs/{name}"] = np.array(data.obs[name].astype(str), "S")
        file["col_attrs/volume"] = data.obs["volume"].to_numpy()
        file.create_group("layers")


def write_spatialdata(path, data):
    import zarr

    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    root.create_group("images")
    data = data.copy()
    data.obs = data.obs.rename(columns={"section": "region"})
    data.uns["spatialdata_attrs"] = {"region_key": "region", "instance_key": "id", "region": ["s1", "s2"]}
    anndata.io.write_elem(root, "tables/cells", data)


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
@pytest.mark.parametrize(
    "form", ["csr", "csc", "dense", "uint16", "gzip", "loom", "zarr", "spatialdata", "csv", "memory"]
)
def test_every_format_gives_the_same_cells(form, tmp_path):
    data = cells()
    path = tmp_path / f"data.{'h5ad' if form in {'csr', 'csc', 'dense', 'uint16', 'gzip'} else form}"
    written = data.copy()
    if form == "csc":
        written.X = data.X.tocsc()
    elif form == "dense":
        written.X = np.asarray(data.X.todense())
    elif form == "uint16":
        written.X = data.X.astype(np.uint16)
    stated = {}
    if form == "memory":
        path = written
    elif form == "loom":
        write_loom(path, data)
    elif form == "zarr":
        import zarr

        anndata.io.write_elem(zarr.open_group(str(path), mode="w", zarr_format=3), "/", written)
    elif form == "spatialdata":
        path = tmp_path / "data.zarr"
        write_spatialdata(path, data)
    elif form == "csv":
        table = data.obs.assign(center_x=data.obsm["spatial"][:, 0], center_y=data.obsm["spatial"][:, 1])
        table.rename_axis("cell_id").to_csv(path)
        order = np.random.default_rng(1).permutation(data.n_obs)
        data.to_df().iloc[order].astype(int).rename_axis("cell").to_csv(tmp_path / "counts.csv")
        stated = {"counts": "counts.csv"}
    else:
        written.write_h5ad(path, compression="gzip" if form == "gzip" else None)
    found = read(path, **stated)
    same(found, data)
    assert found.unit == "um"
    assert found.total_counts.tolist() == found.dense(slice(None)).sum(1).tolist()
    by_name = data.obs.loc[found.ids()]
    assert [found.type_names[code] for code in found.types] == by_name["cell_type"].astype(str).tolist()
    assert np.allclose(found.volume_um3, by_name["volume"])
    assert found.labels["layer"].astype(str).tolist() == by_name["layer"].astype(str).tolist()
    assert {"section", "subject", "x", "y", "center_x"}.isdisjoint(found.labels.columns)


def test_rows_are_sections_in_order_and_neighbours_beside_each_other():
    from brodmann.near.neighbours import morton

    data = cells(300, sections=("s2", "s10", "s1"))
    found = read(data)
    assert [section.id for section in found.sections] == ["s1", "s10", "s2"]
    assert [section.rows for section in found.sections] == [range(300), range(300, 600), range(600, 900)]
    for section in found.sections:
        xy = found.xy_um[section.rows.start : section.rows.stop]
        order = morton(xy)
        # cells of one square keep their order, so that ordering again changes nothing
        assert np.array_equal(order, np.arange(len(xy)))
        steps = np.linalg.norm(np.diff(xy, axis=0), axis=1)
        assert (
            np.median(steps)
            < 20
            < np.median(np.linalg.norm(xy[np.random.default_rng(0).permutation(300)] - xy, axis=1))
        )
    assert found.space.name == "unregistered"
    assert np.allclose(found.xyz_mm, np.column_stack([found.xy_um / 1000, np.zeros(900)]))
    assert found.labels["layer"].cat.categories.tolist() == ["L5", "L1"]
    rows = np.array([5, 899, 0, 5])
    assert found.ids(rows) == [found.ids()[row] for row in rows]
    assert np.array_equal(found.dense(rows), found.dense(slice(None))[rows])
    with pytest.raises(IndexError):
        found.dense(np.array([900]))


def test_sections_apart_and_interleaved_give_the_same_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("brodmann.cells.readers.part._ENTRIES", 3_000)
    data = cells(3000, sections=("a", "b", "c"), shuffle=False)
    rng = np.random.default_rng(3)
    mixed = data[rng.permutation(data.n_obs)].copy()
    data.write_h5ad(tmp_path / "apart.h5ad")
    mixed.write_h5ad(tmp_path / "mixed.h5ad")
    spilled = []
    spill = convert._Gather._spill
    monkeypatch.setattr(convert._Gather, "_spill", lambda self: (spilled.append(1), spill(self)))
    apart = read(tmp_path / "apart.h5ad")
    assert not spilled
    found = read(tmp_path / "mixed.h5ad")
    assert spilled == [1]
    pd.testing.assert_frame_equal(frame(apart), frame(found))
    same(found, data)
    assert not list(found.folder.glob("spill*"))


def test_memory_is_one_section_not_the_file(tmp_path):
    """40 sections of 25,000 values each: what is held at once must not grow with their number."""
    import tracemalloc

    peaks = []
    for sections in (4, 40):
        names = tuple(f"s{i:02d}" for i in range(sections))
        data = cells(500, sections=names, genes=[f"G{i}" for i in range(200)])
        data.obs = data.obs[["section", "subject"]]
        data.write_h5ad(tmp_path / f"{sections}.h5ad")
        del data
        read(tmp_path / f"{sections}.h5ad") if not peaks else None
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        tracemalloc.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("brodmann.cells.readers.part._ENTRIES", 30_000)
            read(tmp_path / f"{sections}.h5ad")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    whole = 40 * 500 * 200 * 0.55 * 8
    assert peaks[1] - peaks[0] < 0.35 * whole, peaks


def test_folder_of_sections_and_of_animals(tmp_path):
    both = [cells(sections=("s1",), subject=who, seed=seed) for seed, who in enumerate(("m1", "m2"))]
    for data in both:
        data.write_h5ad(tmp_path / f"{data.obs['subject'].iloc[0]}.h5ad")
    (tmp_path / "notes.csv").write_text("nothing,of,interest\n")
    found = read(tmp_path)
    # section s1 of two animals gets two names
    assert [(s.subject, s.id) for s in found.sections] == [("m1", "m1/s1"), ("m2", "m2/s1")]
    assert len(found) == 400
    bare = tmp_path / "bare"
    bare.mkdir()
    for data in both:
        name = data.obs["subject"].iloc[0]
        data.obs = data.obs[["layer"]]
        data.write_h5ad(bare / f"{name}.h5ad")
    found = read(bare)
    assert [(s.subject, s.id) for s in found.sections] == [("bare", "m1"), ("bare", "m2")]
    assert any("no column names the animal" in remark for remark in found.remarks)
    found = read(bare, subject="file")
    assert [(s.subject, s.id) for s in found.sections] == [("m1", "m1"), ("m2", "m2")]
    found = read(str(bare / "m*.h5ad"))
    assert len(found.sections) == 2
    found = read([bare / "m2.h5ad", bare / "m1.h5ad"])
    assert [s.id for s in found.sections] == ["m1", "m2"]


def test_files_with_other_gene_orders_and_panels(tmp_path):
    first, second = cells(sections=("s1",)), cells(sections=("s2",), seed=1)
    first.write_h5ad(tmp_path / "a.h5ad")
    second[:, ::-1].copy().write_h5ad(tmp_path / "b.h5ad")
    found = read(tmp_path)
    assert found.panel.genes == tuple(GENES)
    same(found, anndata.concat([first, second]))
    second[:, 3:].copy().write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(Refused, match="9 genes in common of panels of 9, 12"):
        read(tmp_path)
    found = read(tmp_path, panel="common")
    same(found, anndata.concat([first, second])[:, 3:].copy(), gene_order=GENES[3:])


def abc_folder(folder, *, ccf=True):
    folder.mkdir(exist_ok=True)
    data = cells(150, sections=("C57.01", "C57.02"), subject="donor")
    data.obs_names = [f"10152216401004704{i:02d}" if i < 100 else f"1020402056711709{i}" for i in range(300)]
    meta = pd.DataFrame(
        {
            "brain_section_label": data.obs["section"].astype(str),
            "cluster_alias": np.arange(300) % 3 + 10,
            "donor_label": "donor",
            "x": data.obsm["spatial"][:, 0] / 1000,
            "y": data.obsm["spatial"][:, 1] / 1000,
            "z": 4.2,
        },
        index=data.obs_names,
    ).rename_axis("cell_label")
    meta.iloc[np.random.default_rng(5).permutation(300)].to_csv(folder / "cell_metadata.csv")
    pd.DataFrame({"cluster_alias": [10, 11, 12], "class": ["g", "g", "i"], "subclass": ["g1", "g2", "i1"]}).to_csv(
        folder / "cluster_to_cluster_annotation_membership_pivoted.csv", index=False
    )
    if ccf:
        place = pd.DataFrame(
            {"x": np.linspace(5, 6, 300), "y": np.linspace(2, 3, 300), "z": np.linspace(4, 5, 300)}, index=meta.index
        )
        place["parcellation_index"] = np.where(np.arange(300) % 2, 7, 9)
        place.iloc[:290].to_csv(folder / "ccf_coordinates.csv")
        pd.DataFrame({"parcellation_index": [7, 9], "division": ["Isocortex", "TH"]}).to_csv(
            folder / "parcellation_to_parcellation_term_membership_acronym.csv", index=False
        )
    blank = sp.csr_matrix(np.full((300, 2), 3, np.float32))
    for label in ("C57.01", "C57.02"):
        mine = (data.obs["section"] == label).to_numpy()
        var = pd.DataFrame(
            {"gene_symbol": [*GENES, "Blank-0", "Blank-1"]}, index=[f"ENSMUSG{i:011d}" for i in range(14)]
        )
        obs = pd.DataFrame(index=data.obs_names[mine].append(pd.Index([f"unknown-{label}"])))
        rows = sp.vstack([sp.hstack([data.X, blank])[np.flatnonzero(mine)], np.full((1, 14), 0.5)], format="csr")
        anndata.AnnData(rows, obs=obs, var=var).write_h5ad(folder / f"{label}-raw.h5ad")
        logged = rows.copy()
        logged.data = np.log2(logged.data + 1)
        anndata.AnnData(logged, obs=obs, var=var).write_h5ad(folder / f"{label}-log2.h5ad")
    return data, place if ccf else None


def test_abc_atlas(tmp_path):
    data, place = abc_folder(tmp_path / "abc")
    found = read(tmp_path / "abc")
    assert found.space == CCF_V3
    assert found.panel == Panel(tuple(GENES), ("Blank-0", "Blank-1"))
    assert len(found) == 290
    assert sum("no place in the atlas" in remark for remark in found.remarks) >= 1
    assert sum("not in the table of cells" in remark for remark in found.remarks) == 2
    assert sorted(name for name, _ in found.skipped) == ["C57.01-log2.h5ad", "C57.02-log2.h5ad"]
    names = found.ids()
    same_cells = truth(data).loc[sorted(names)]
    pd.testing.assert_frame_equal(frame(found), same_cells, check_names=False, rtol=1e-5)
    at = place.loc[names]
    # Allen volumes: x to posterior, y to inferior, z to the right; CCF_V3: right, anterior, superior
    assert np.allclose(found.xyz_mm, np.column_stack([at["z"], 13.2 - at["x"], 8.0 - at["y"]]), atol=1e-5)
    row = names.index(data.obs_names[1])
    assert found.labels["division"].iloc[row] == "Isocortex"
    assert found.labels["subclass"].iloc[row] == "g2"
    assert found.type_names[found.types[row]] == "g2"
    flat = read(tmp_path / "abc", space="unregistered")
    assert len(flat) == 300
    pd.testing.assert_frame_equal(frame(flat), truth(data), check_names=False, rtol=1e-5)
    # the tables of the folder decide the result as much as the matrices
    text = (tmp_path / "abc" / "cell_metadata.csv").read_text()
    (tmp_path / "abc" / "cell_metadata.csv").write_text(
        text.replace("donor\n", "donor\n").replace(",donor,", ",other,")
    )
    assert read(tmp_path / "abc").sections[0].subject == "other"


def test_single_cell_portal_table_has_types_and_no_counts(tmp_path):
    data = cells(sections=("s1",))
    lines = ["NAME,X,Y,Z,Tissue,Subtype_Symbol", "TYPE,numeric,numeric,numeric,group,group"]
    lines += [
        f"{name},{x},{y},1.5,{i % 2},{kind}"
        for i, (name, (x, y), kind) in enumerate(
            zip(data.obs_names, data.obsm["spatial"], data.obs["cell_type"], strict=True)
        )
    ]
    (tmp_path / "cells.csv").write_text("\n".join(lines))
    found = read(tmp_path / "cells.csv")
    assert len(found) == 200
    assert len(found.panel) == 0
    assert found.dense(slice(0, 5)).shape == (5, 0)
    assert found.type_names == ("A", "B", "C")
    assert found.labels["Tissue"].cat.categories.tolist() == ["0", "1"]
    assert found.labels["Z"].unique().tolist() == [1.5]
    assert "no counts: types and places only" in found.remarks
