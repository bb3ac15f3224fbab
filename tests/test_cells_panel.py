"""Gene panels: controls told from genes, and a model's genes found again."""

from __future__ import annotations

import numpy as np
import pytest

from brodmann.cells.panel import Panel, is_control, match, select
from brodmann.errors import Refused


@pytest.mark.parametrize(
    "name",
    [
        "Blank-12", "Blank-1", "blank_3", "BLANK_0006", "Blank", "NegControlProbe_00042", "NegControlCodeword_0500",
        "antisense_ADCY4", "UnassignedCodeword_0001", "DeprecatedCodeword_0321", "NegPrb07", "Negative12",
        "FalseCode3", "SystemControl17", "Intergenic_Region_10", "negative_control_2",
    ],
)  # fmt: skip
def test_controls_are_recognised(name):
    assert is_control(name)


@pytest.mark.parametrize(
    "name", ["Negr1", "Gad1", "Sys1", "Blnk", "Neg", "Antxr1", "False", "Unc5d", "Depdc1a", "Intu", "Falz", "Assigned"]
)
def test_genes_are_no_controls(name):
    assert not is_control(name)


def test_select_keeps_order_and_lists_what_it_drops():
    panel, columns = select(["Gad1", "Blank-1", "Slc17a7", "Pvalb"], controls=[False, False, False, True])
    assert panel == Panel(("Gad1", "Slc17a7"), ("Blank-1", "Pvalb"))
    assert columns.tolist() == [0, -1, 1, -1]
    renamed, columns = select(["gad", "Vip"], rename={"gad": "Gad1"})
    assert renamed.genes == ("Gad1", "Vip")
    assert columns.tolist() == [0, 1]


def test_select_refuses_twins_unless_they_are_to_be_added():
    with pytest.raises(Refused, match="more than once: Gad1"):
        select(["Gad1", "Vip", "Gad1"])
    panel, columns = select(["Gad1", "Vip", "Gad1"], merge=["Gad1"])
    assert panel.genes == ("Gad1", "Vip")
    assert columns.tolist() == [0, 1, 0]
    with pytest.raises(Refused, match="Perhaps Gad1 for gad1"):
        select(["Gad1"], rename={"gad1": "Gad"})
    with pytest.raises(Refused, match="65,535"):
        select([f"G{i}" for i in range(65_536)])
    assert len(select([f"G{i}" for i in range(65_535)])[0]) == 65_535
    with pytest.raises(Refused, match="control probes only"):
        select(["Blank-1", "Blank-2"])


def test_match_orders_renames_and_marks_missing():
    model = Panel(tuple("abcdefghij"))
    found = match(model, Panel(tuple("jihgfedcba")))
    assert found.columns.tolist() == list(range(9, -1, -1))
    assert found.columns.dtype == np.int32
    assert (found.missing, found.extra, found.remark) == ((), (), "")
    found = match(model, Panel(("x", "b", "c", "d", "e", "f", "g", "h", "i", "new")), {"x": "a"})
    assert found.columns.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, -1]
    assert (found.missing, found.extra) == (("j",), ("new",))
    assert "1 of 10 genes are missing: j" in found.remark


def test_match_never_guesses_names_but_suggests_them():
    model, data = Panel(("Gad1", "Vip", "Sst", "Pvalb")), Panel(("GAD1", "Vip", "Sst", "Pvalb"))
    found = match(model, data)
    assert found.columns.tolist() == [-1, 1, 2, 3]
    assert "Perhaps GAD1 for Gad1" in found.remark
    assert match(model, data, {"GAD1": "Gad1"}).columns.tolist() == [0, 1, 2, 3]


def test_match_refuses_what_is_too_little_or_contradictory():
    model = Panel(tuple("abcdefghij"))
    assert len(match(model, Panel(tuple("abcde"))).missing) == 5
    with pytest.raises(Refused, match="at least 50%"):
        match(model, Panel(tuple("abcd")))
    with pytest.raises(Refused, match="other letters"):
        match(model, Panel(tuple("ABCDEFGHIJ")))
    with pytest.raises(Refused, match="Ensembl"):
        match(model, Panel(tuple(f"ENSMUSG{i:011d}" for i in range(10))))
    with pytest.raises(Refused, match="a has two"):
        match(model, model, {"b": "a"})
    with pytest.raises(Refused, match="unknown there"):
        match(model, model, {"b": "q"})
