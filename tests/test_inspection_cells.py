"""A look at cells before time is spent: one screen, one picture, a reason where they are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image

import brodmann as bm
from brodmann import cli
from brodmann.errors import NoRoom, Refused


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BRODMANN_CACHE", str(tmp_path / "cache"))


def cells(seed=0, n=400, genes=("Gad1", "Slc17a7", "Blank-1"), **columns):
    """Two sections of one animal, cells on a jittered grid of 10 um."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(n // 20)), -1).reshape(-1, 2) * 10.0
    obs = {"section": np.repeat(["s1", "s2"], n), "mouse": f"m{seed}", "cell_type": rng.choice(["A", "B"], 2 * n)}
    obs |= {"layer": rng.choice(["L1", "L5", "L6"], 2 * n), **columns}
    data = anndata.AnnData(
        sp.csr_matrix(rng.poisson(3.0, (2 * n, len(genes))).astype(np.float32)),
        obs=pd.DataFrame(obs, index=[f"{seed}-{i}" for i in range(2 * n)]),
        var=pd.DataFrame(index=list(genes)),
    )
    data.obsm["spatial"] = np.concatenate([grid + rng.uniform(-2, 2, grid.shape) for _ in range(2)])
    return data


def write(folder: Path, data, name="a.h5ad", **stated):
    folder.mkdir(exist_ok=True)
    data.write_h5ad(folder / name)
    if stated:
        (folder / "cells.json").write_text(json.dumps(stated))
    return folder


def test_good_cells_fit_on_one_screen(tmp_path):
    folder = write(tmp_path / "good", cells(genes=("Gad1", "Slc17a7")), unit="um", type="cell_type")
    report = bm.validate(folder)
    assert (report.verdict, report.exit_code, report.reader) == ("good", 0, "cells"), str(report)
    facts = dict(report.facts)
    assert facts["cells"] == "800; 400 a section"
    assert facts["sections"] == "2 of 1 animal: m0 (2)"
    assert facts["genes"] == "2"
    assert facts["counts"].startswith("6 a cell, of 2 genes")
    nearest = float(facts["unit"].split("lies ")[1].split(" um")[0])
    assert facts["unit"].startswith("um; ")
    assert 6 < nearest < 10
    assert facts["types"].startswith("2 for 100% of the cells: ")
    assert facts["labels"] == "cell_type (2), layer (3)"
    assert facts["space"].startswith("unregistered")
    assert "cells span" not in facts
    text = str(report)
    assert len(text.splitlines()) <= 24
    sheet = report.picture(tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(sheet).convert("L"))
    assert pixels.shape[1] == 720
    assert (pixels < 128).mean() > 0.05


def test_numbers_are_those_of_the_cells(tmp_path):
    data = cells()
    report = bm.validate(write(tmp_path / "d", data, unit="um"))
    real = np.asarray(data.X.todense())[:, :2]
    assert f"{np.median(real.sum(1)):.0f} a cell" in dict(report.facts)["counts"]
    assert dict(report.facts)["genes"] == "2 (1 blank and control probes left out)"
    assert report.verdict == "usable"
    assert any("control probes" in text for text in report.concerns)


def test_a_wrong_unit_is_refused_with_the_right_one_and_an_unstated_one_is_said(tmp_path):
    data = cells(genes=("A", "B"))
    data.obsm["spatial"] = data.obsm["spatial"] / 1000
    report = bm.validate(write(tmp_path / "declared", data, unit="um"))
    assert (report.verdict, report.exit_code) == ("refused", 6)
    assert '"unit": "mm"' in str(report)
    with pytest.raises(Refused):
        report.picture(tmp_path / "none.png")
    report = bm.validate(write(tmp_path / "guessed", data))
    assert report.verdict == "usable"
    assert any("taken as mm" in text for text in report.concerns)
    data.obsm["spatial"] = data.obsm["spatial"] * 77_000
    report = bm.validate(write(tmp_path / "unknown", data))
    assert dict(report.facts)["unit"].startswith("arbitrary")


def test_one_section_in_another_unit_is_named(tmp_path):
    data = cells(genes=("A", "B"))
    data.obsm["spatial"][400:] *= 5
    report = bm.validate(write(tmp_path / "d", data, unit="um"))
    assert any("not the usual" in text for text in report.concerns)


def test_missing_places_are_counted_and_many_are_refused(tmp_path):
    data = cells(genes=("A", "B"))
    data.obsm["spatial"][3] = np.nan
    report = bm.validate(write(tmp_path / "few", data, unit="um"))
    assert report.verdict == "usable"
    assert any("1 cells without coordinates" in text for text in report.concerns)
    data.obsm["spatial"][:600] = np.nan
    report = bm.validate(write(tmp_path / "many", data, unit="um"))
    assert report.verdict == "refused"
    assert "600 of 800" in str(report)


@pytest.mark.parametrize("kind", ["cells", "folder", "cut", "text", "nan", "normalised"])
def test_bad_cells_are_a_verdict_not_an_exception(kind, tmp_path):
    folder, data = tmp_path / "bad", cells(genes=("A", "B"))
    if kind == "cells":
        data = data[:0].copy()
    elif kind in {"nan", "normalised"}:
        data.X = data.X * np.float32(np.nan if kind == "nan" else 0.37)
        data.X.data += np.random.default_rng(0).uniform(0, 1, data.X.nnz).astype(np.float32)
    write(folder, data)
    file = folder / "a.h5ad"
    if kind == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif kind == "text":
        file.write_text("no HDF5")
    elif kind == "folder":
        file.unlink()
    report = bm.validate(folder if kind == "folder" else file)
    assert report.verdict == "refused", str(report)
    assert report.concerns
    assert report.exit_code == 6


def test_a_bad_file_of_several_is_skipped(tmp_path):
    folder = write(tmp_path / "d", cells(genes=("A", "B")), unit="um")
    (folder / "b.h5ad").write_text("no HDF5")
    report = bm.validate(folder)
    assert (report.verdict, report.exit_code) == ("usable", 3)
    assert [name for name, _ in report.skipped] == ["b.h5ad"]


def test_images_go_first_and_tables_beside_them_are_no_cells(tmp_path):
    folder = write(tmp_path / "both", cells(genes=("A", "B")))
    (folder / "points.csv").write_text("x_um,y_um\n1,2\n")
    noise = np.random.default_rng(0).normal(200, 20, (60, 80)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    # without a pixel size the image is refused, and the cells are what can be read
    report = bm.validate(folder)
    assert report.reader == "cells"
    assert any("images beside" in value for _, value in report.facts)
    (folder / "sections.json").write_text('{"pixel_um": 10.0}')
    assert bm.validate(folder).reader != "cells"
    (folder / "a.h5ad").unlink()
    (folder / "sections.json").unlink()
    assert (bm.validate(folder).reader, bm.validate(folder).verdict) == ("none", "refused")


def test_a_full_disk_is_no_fault_of_the_data(tmp_path, monkeypatch):
    from brodmann import cells as system

    def full(*_):
        raise NoRoom("the cache should fit.")

    monkeypatch.setattr(system, "open", full)
    with pytest.raises(NoRoom):
        bm.validate(write(tmp_path / "d", cells()))


def test_the_other_system_is_named(tmp_path):
    folder = write(tmp_path / "cells", cells())
    for data in (folder, folder / "a.h5ad"):
        with pytest.raises(Refused, match="cells-tiny"):
            bm.fit("patches-tiny", data, tmp_path / "run", quiet=True)
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(images / "a.png")
    for data in (images, images / "a.png"):
        with pytest.raises(Refused, match="patches-tiny"):
            bm.fit("cells-tiny", data, tmp_path / "run", quiet=True)


def test_at_the_shell(tmp_path, capsys):
    folder = write(tmp_path / "d", cells(genes=("A", "B")), unit="um")
    assert cli.validate(folder / "a.h5ad", picture=tmp_path / "sheet.png") == 0
    assert "a.h5ad: usable" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()


def test_published_cells(tmp_path):
    """STARmap of mouse visual cortex (Wang et al. 2018): pixels of a size that the file does not state."""
    path = Path(os.environ.get("BRODMANN_DATA", "absent")) / "cells" / "starmap_v1.h5ad"
    if not path.is_file():
        pytest.skip("needs public data: set BRODMANN_DATA")
    report = bm.validate(path)
    print(report)
    assert report.verdict == "usable"
    facts = dict(report.facts)
    assert facts["cells"].startswith("1,549")
    assert facts["genes"].startswith("1,020")
    assert facts["unit"].startswith("arbitrary")
    assert report.picture(tmp_path / "sheet.png").stat().st_size > 5_000
