"""Units and counts of cells: what is told from the numbers is said, what cannot be right is refused with its reason."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from brodmann.cells import spacing
from brodmann.cells.panel import Panel
from brodmann.errors import Refused
from cellfiles import GENES, cells, frame, read, same, truth

pytestmark = pytest.mark.usefixtures("own_cache")


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
