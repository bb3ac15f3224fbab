"""The verb explain, on a trained run and at the shell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from brodmann import cli, verbs
from brodmann.errors import Usage
from brodmann.explaining import explain

SMALL = {
    "samples.size_px": 32, "samples.pixel_um": 96.0, "samples.spacing_mm": 1.5, "fit.steps": 4, "fit.batch": 16,
    "fit.warmup_steps": 2, "fit.precision": "fp32", "partners.reach_mm": 20.0,
}  # fmt: skip
DATA = "phantom:brains=2,sections_per_brain=3,native_um=64"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = verbs.fit(verbs.recipe("patches-tiny", SMALL), DATA, tmp_path_factory.mktemp("explain") / "run", quiet=True)
    verbs.tabulate(run, controls=False, quiet=True)
    return run


def test_typical_held_out_patches_are_drawn_into_a_sealed_run(trained: Any) -> None:
    areas = verbs.table(trained).obs
    held = areas[(areas["subject"] == "B1") & (areas["area"] != "")]["area"].astype(str)
    some = list(held.value_counts().index[:2])
    made, figure = explain(trained, areas=some, each=2)
    assert figure == trained.path / "figures" / "explain-area.png"
    assert figure.stat().st_size > 10_000
    assert figure.with_suffix(".svg").exists()
    assert made.areas.tolist() == [some[0]] * 2 + [some[1]] * 2
    # of the brain that neither encoder nor read-out has seen
    assert set(areas["subject"].iloc[made.rows]) == {"B1"}
    verbs.load(trained.path).verify()
    again, _ = explain(trained, areas=some, each=2)
    np.testing.assert_array_equal(again.maps, made.maps)
    verbs.load(trained.path).verify()


def test_what_is_explained_is_scored_beside_an_encoder_that_learned_nothing(tmp_path: Any) -> None:
    run = verbs.fit(verbs.recipe("patches-tiny", SMALL), DATA, tmp_path / "run", quiet=True)
    verbs.tabulate(run, quiet=True)
    table = verbs.table(run)
    made, figure = explain(run, each=2)
    known = made.score.classes
    held = ((table.obs["subject"] == "B1") & table.obs["area"].isin(known)).sum()
    assert (made.score.n, made.score.n_groups) == (held, 3)
    assert set(made.score.baselines) == set(made.score.gains) == {"untrained"}
    assert made.untrained is not None
    assert made.untrained.shape == made.maps.shape
    assert not np.allclose(made.untrained, made.maps)
    drawn = figure.with_suffix(".svg").read_text()
    assert "untrained encoder" in drawn
    for row in made.score.per_class.values():
        assert f"n = {row['n']:,}" in drawn
    assert f"macro-F1 {made.score.value:.2f} [" in drawn


def test_at_the_shell(trained: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", str(trained.path), "--each", "1", "--out", str(tmp_path / "looks")])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "looks.png" in said
    assert "explain (read-out)  macro-F1" in said
    with pytest.raises(SystemExit) as ended:
        cli.main(["explain", str(trained.path), "--areas", "V7"])
    assert ended.value.code == 2
    assert "V7" in capsys.readouterr().err


def test_other_systems_have_no_pixels(monkeypatch: pytest.MonkeyPatch, trained: Any) -> None:
    run = verbs.load(trained.path)
    monkeypatch.setattr(run, "system", "cells")
    with pytest.raises(Usage, match="pixels of patches"):
        explain(run)
