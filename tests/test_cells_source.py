"""Sources of cells: every format gives the same cells; what cannot be right is refused with its reason."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from brodmann.cells import cache, convert, source, spacing
from brodmann.cells.panel import Panel
from brodmann.cells.readers import Entry, Stated
from brodmann.cells.recipe import Recipe
from brodmann.errors import BrodmannError, Corrupt, Refused
from brodmann.progress import Say
from brodmann.space import CCF_V3, PHANTOM

GENES = [f"Gene{i}" for i in range(12)]
QUIET = Say(quiet=True)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BRODMANN_CACHE", str(tmp_path / "cache"))


def cells(n=200, *, sections=("s1", "s2"), subject="m1", seed=0, shuffle=True, genes=GENES):
    """An AnnData of cells about 10 um apart, several sections in one."""
    rng = np.random.default_rng(seed)
    total = n * len(sections)
    side = int(np.ceil(np.sqrt(n)))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:n] * 10.0
    xy = np.concatenate([grid + rng.uniform(-2, 2, grid.shape) for _ in sections])
    counts = rng.poisson(0.8, (total, len(genes)))
    obs = pd.DataFrame(
        {
            "section": pd.Categorical(np.repeat(sections, n)),
            "subject": pd.Categorical([subject] * total),
            "cell_type": pd.Categorical(rng.choice(["A", "B", "C"], total)),
            "layer": pd.Categorical(rng.choice(["L1", "L5"], total), categories=["L5", "L1"]),
            "volume": rng.uniform(100, 900, total),
        },
        index=[f"{subject}-{seed}-{i}" for i in range(total)],
    )
    data = anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=list(genes)))
    data.obsm["spatial"] = xy
    return data[rng.permutation(total)].copy() if shuffle else data


def read(data, **stated):
    return source.open(Recipe(), data, stated=Stated(**stated) if stated else None, say=QUIET)


def frame(found):
    """All that is known of each cell, by name."""
    table = pd.DataFrame(found.dense(slice(None)), index=found.ids(), columns=list(found.panel.genes))
    table["x"], table["y"] = np.asarray(found.xy_um).T
    table["section"] = [s.id for s in found.sections for _ in s.rows]
    table["subject"] = [s.subject for s in found.sections for _ in s.rows]
    return table.sort_index()


def truth(data, gene_order=GENES):
    table = pd.DataFrame(np.asarray(sp.csr_matrix(data.X).todense()), index=data.obs_names, columns=data.var_names)
    table = table[list(gene_order)].astype(np.uint16)
    table["x"], table["y"] = data.obsm["spatial"].astype(np.float32).T
    table["section"], table["subject"] = data.obs["section"].astype(str), data.obs["subject"].astype(str)
    return table.sort_index()


def same(found, data, **how):
    pd.testing.assert_frame_equal(frame(found), truth(data, **how), check_names=False)


# formats


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
    from brodmann.cells.neighbours import morton

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


# units


def test_unit_is_inferred_only_where_one_fits():
    data = cells()
    assert read(data).unit == "um"
    same(read(data), data)
    data.obsm["spatial"] = data.obsm["spatial"] / 1000
    found = read(data)
    assert found.unit == "um"
    assert any("taken as mm" in remark for remark in found.remarks)
    assert np.isclose(spacing.median_distance([np.asarray(found.xy_um[:200])], 1), 8, atol=2)
    data.obsm["spatial"] = data.obsm["spatial"] * 1000 * 14
    found = read(data)
    assert found.unit == "arbitrary"
    assert np.isclose(
        spacing.median_distance([np.asarray(found.xy_um[s.rows]) for s in found.sections], 6), 30, atol=0.5
    )
    assert any("unknown unit" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("scale", "stated", "words"),
    [
        (1e-3, {"unit": "um"}, "mm given as um, a factor of 1000"),
        (1.0, {"unit": "mm"}, "um given as mm, a factor of 1000"),
        (1.0, {"unit": "px", "pixel_um": 1e-3}, "pixels or another unit given as px"),
    ],
)
def test_unit_that_contradicts_the_spacing_is_refused(scale, stated, words):
    data = cells()
    data.obsm["spatial"] = data.obsm["spatial"] * scale
    with pytest.raises(Refused, match=words):
        read(data, **stated)


def test_declared_units_are_followed():
    data = cells()
    px = data.copy()
    px.obsm["spatial"] = data.obsm["spatial"] / 0.108
    pd.testing.assert_frame_equal(frame(read(px, unit="px", pixel_um=0.108)), truth(data), check_names=False, rtol=1e-5)
    sparse = data.copy()
    sparse.obsm["spatial"] = data.obsm["spatial"] * 10
    found = read(sparse, unit="um")
    assert found.unit == "um"
    assert any("unusual for cells" in remark for remark in found.remarks)
    assert read(data, unit="arbitrary").unit == "arbitrary"
    pixels = data.copy()
    del pixels.obsm["spatial"]
    pixels.obs["CenterX_global_px"], pixels.obs["CenterY_global_px"] = data.obsm["spatial"].T
    assert read(pixels).unit == "arbitrary"
    with pytest.raises(Refused, match="belong together"):
        read(data, unit="px")


# counts


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.5, "not a whole number"), (-1.0, "negative"), (np.nan, "not a number"), (np.inf, "not a number")],
)
@pytest.mark.parametrize("row", [3, 2_700])
def test_what_is_no_count_is_refused_with_its_row(value, words, row, tmp_path):
    """Also where the first, middle and last 500 rows, from which the kind is told, are clean (row 2,700 of 4,000)."""
    data = cells(2000)
    data.X = np.asarray(data.X.todense())
    data.X[row, 4] = value
    data.write_h5ad(tmp_path / "bad.h5ad")
    with pytest.raises(Refused, match=words) as caught:
        read(tmp_path / "bad.h5ad")
    if row > 1000:
        assert f"'{data.obs_names[row]}'" in str(caught.value)
    assert not list((tmp_path / "cache").glob("cells-*"))


@pytest.mark.parametrize("how", ["log1p", "log2", "scaled"])
def test_counts_are_recovered_from_normalised_values_knowingly(how):
    data = cells()
    dense = np.asarray(data.X.todense())
    norm = dense / np.maximum(dense.sum(1, keepdims=True), 1) * 80
    data.X = sp.csr_matrix({"log1p": np.log1p(norm), "log2": np.log2(norm + 1), "scaled": norm}[how].astype(np.float32))
    found = read(data)
    said = {"log1p": "expm1(x)", "log2": "2^x - 1", "scaled": "recovered as x /"}[how]
    assert any(said in remark for remark in found.remarks)
    wanted = pd.DataFrame(dense, index=data.obs_names).loc[found.ids()].to_numpy()
    # a cell whose counts share a divisor (2, 4) loses it; nothing in the file could tell
    unit = np.gcd.reduce(wanted.astype(int), axis=1)
    assert np.array_equal(found.dense(slice(None)), wanted // np.maximum(unit, 1)[:, None])
    assert (unit == 1).mean() > 0.9


def test_scaled_and_noisy_values_are_refused():
    data = cells()
    rng = np.random.default_rng(0)
    data.X = rng.gamma(1.0, 1.0, data.shape).astype(np.float32)
    with pytest.raises(Refused, match="whole numbers, none negative"):
        read(data)
    data.X = rng.normal(size=data.shape).astype(np.float32)
    with pytest.raises(Refused, match="negative"):
        read(data)


def test_raw_counts_are_found_in_layers_and_raw(tmp_path):
    data = cells()
    raw = data.copy()
    logged = np.log1p(np.asarray(data.X.todense()) * np.random.default_rng(0).uniform(1, 2, data.shape))
    data.layers["counts"] = data.X.copy()
    data.X = logged.astype(np.float32)
    data.write_h5ad(tmp_path / "layer.h5ad")
    found = read(tmp_path / "layer.h5ad")
    same(found, raw)
    assert any("layers/counts" in remark for remark in found.remarks)
    del data.layers["counts"]
    data.raw = raw
    data.write_h5ad(tmp_path / "raw.h5ad")
    same(read(tmp_path / "raw.h5ad"), raw)
    same(read(data), raw)
    same(read(tmp_path / "raw.h5ad", counts="raw"), raw)
    with pytest.raises(Refused, match=r"X, raw/X"):
        read(tmp_path / "raw.h5ad", counts="layers/counts")
    with pytest.raises(Refused, match="raw counts"):
        read(tmp_path / "raw.h5ad", counts="X")


def test_large_counts_are_clipped_aloud_and_controls_dropped():
    data = cells(genes=[*GENES[:10], "Blank-1", "NegControlProbe_3"])
    data.X = np.asarray(data.X.todense())
    data.X[7, 2] = 70_000
    found = read(data)
    assert found.dense(slice(None)).max() == 65_535
    assert any("1 counts above 65,535 (largest 70,000)" in remark for remark in found.remarks)
    assert found.panel == Panel(tuple(GENES[:10]), ("Blank-1", "NegControlProbe_3"))
    assert any("2 blank and control probes" in remark for remark in found.remarks)
    assert found.total_counts.max() < 66_000


def test_genes_named_twice_are_added_only_when_asked():
    data = cells()
    wanted = np.asarray(data.X.todense())
    data.var_names = [*GENES[:11], GENES[0]]
    with pytest.raises(Refused, match="more than once: Gene0"):
        read(data)
    found = read(data, merge=["Gene0"])
    rows = data.obs_names.get_indexer(found.ids())
    assert np.array_equal(found.dense(slice(None))[:, 0], wanted[rows, 0] + wanted[rows, 11])
    assert (np.diff(found.gene.astype(int))[np.diff(np.repeat(np.arange(400), np.diff(found.indptr))) == 0] > 0).all()


# cells and sections


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


# cache


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
