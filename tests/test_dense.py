"""A trained run describes other places into a run of its own; what was read out of labels is predicted there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from brodmann import cli, dense, origin, phantom, results, splits, verbs
from brodmann.errors import Changed, Leak, Refused, SpaceMismatch, Usage
from brodmann.ledger import Ledger
from brodmann.manifest import sha256
from brodmann.patches.samples import PatchSamples
from brodmann.settings import Split
from brodmann.tasks import elsewhere
from brodmann.tasks._probe import fit_predict

SMALL = {
    "samples.size_px": 32, "samples.pixel_um": 96.0, "samples.spacing_mm": 1.5, "fit.steps": 4, "fit.batch": 16,
    "fit.warmup_steps": 2, "fit.precision": "fp32", "partners.reach_mm": 20.0,
}  # fmt: skip
FINER = {"samples.spacing_mm": 0.75}


def source() -> Any:
    return phantom.sections(brains=2, sections_per_brain=3, native_um=64.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder, data = tmp_path_factory.mktemp("dense"), source()
    run = verbs.fit(verbs.recipe("patches-tiny", SMALL), data, folder / "run", quiet=True)
    verbs.tabulate(run, data, controls=False, quiet=True)
    return run, data


@pytest.fixture(scope="module")
def finer(trained: tuple[Any, Any]) -> Any:
    run, data = trained
    return dense.embed(run, run.path.with_name("finer"), changes=FINER, data=data, controls=False, quiet=True)


# ---------------------------------------------------------------- the derived run


def test_a_derived_run_has_the_weights_more_places_and_leaves_the_first_table_alone(
    trained: tuple[Any, Any], finer: Any
) -> None:
    run, _ = trained
    before, after = verbs.table(run), verbs.table(finer)
    assert after.n_obs > 1.8 * before.n_obs
    assert origin.weights_of(finer) == origin.weights_of(run)
    verbs.load(run.path).verify()
    verbs.load(finer.path).verify()
    assert finer.recipe_values["samples"]["spacing_mm"] == 0.75
    assert run.recipe_values["samples"]["spacing_mm"] == 1.5
    where = ["section", "x_um", "y_um"]
    both = pd.merge(
        before.obs[where].assign(a=range(before.n_obs)),
        after.obs[where].assign(b=range(after.n_obs)),
        on=where,
    )
    assert len(both) > 40, "the first point of every section, and others, are in both"
    one, other = np.asarray(before.X)[both["a"]], np.asarray(after.X)[both["b"]]
    assert np.allclose(one.astype(float), other.astype(float), atol=2e-3), "one place, one description"
    assert np.abs(one.astype(float) - np.roll(other, 1, axis=0)).max() > 0.05


def test_the_same_call_again_changes_nothing(trained: tuple[Any, Any], finer: Any) -> None:
    run, data = trained
    before = (finer.path / "manifest.json").read_bytes()
    dense.embed(run, finer.path, changes=FINER, data=data, controls=False, quiet=True)
    assert (finer.path / "manifest.json").read_bytes() == before


def test_only_places_may_differ(trained: tuple[Any, Any], tmp_path: Path) -> None:
    run, data = trained
    with pytest.raises(Usage, match=r"samples\.size_px"):
        dense.embed(run, tmp_path / "a", changes={"samples.size_px": 64}, data=data, quiet=True)
    with pytest.raises(Usage, match="should differ"):
        dense.embed(run, tmp_path / "a", changes={"samples.spacing_mm": 1.5}, quiet=True)
    with pytest.raises(Usage, match="folder of its own"):
        dense.embed(run, run.path, changes=FINER, data=data, quiet=True)
    with pytest.raises(Usage, match="without --out"):
        cli.embed(run.path, set=("samples.spacing_mm=0.75",))
    assert not (tmp_path / "a").exists()


def test_a_folder_of_other_weights_is_refused(trained: tuple[Any, Any], finer: Any, tmp_path: Path) -> None:
    run, data = trained
    other = verbs.fit(verbs.recipe("patches-tiny", {**SMALL, "fit.steps": 2}), data, tmp_path / "other", quiet=True)
    with pytest.raises(Changed, match=r"fit\.steps"):
        dense.derive(other, finer.path, changes=FINER, data=data, quiet=True)
    noted = json.loads((finer.path / origin.NAME).read_text())
    derived = dense.derive(run, tmp_path / "d", changes=FINER, data=data, quiet=True)
    derived.write_text(origin.NAME, json.dumps({**noted, "weights": "0" * 64}))
    with pytest.raises(Changed, match="should hold the weights"):
        dense.derive(run, tmp_path / "d", changes=FINER, data=data, quiet=True)
    with pytest.raises(Usage, match="should be derived from"):
        dense.spread("areas", run, tmp_path / "d", "area")


def test_a_grid_needs_no_sheet(trained: tuple[Any, Any], tmp_path: Path) -> None:
    """The recipe's partners lie near along the sheet, of which places of a grid know nothing."""
    run, data = trained
    changes = {"samples.where": "grid", "samples.spacing_mm": 4.0}
    made = dense.embed(run, tmp_path / "grid", changes=changes, data=data, controls=False, quiet=True)
    table = verbs.table(made)
    assert "u_mm" not in table.obs
    assert table.n_obs > 100
    with pytest.raises(Usage, match="sheet coordinates"):
        verbs.fit(verbs.recipe("patches-tiny", {**SMALL, **changes}), data, tmp_path / "no", quiet=True)


def test_an_interrupted_dense_table_is_the_uninterrupted_one(
    trained: tuple[Any, Any], finer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run, data = trained
    monkeypatch.setattr(PatchSamples, "shard_rows", 64)
    whole = dense.embed(run, tmp_path / "whole", changes=FINER, data=data, controls=False, quiet=True)
    add, read, done, seen = Ledger.add, PatchSamples.read, [], []

    def stopping(self: Ledger, shard: int, arrays: Any) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        add(self, shard, arrays)
        done.append(shard)

    monkeypatch.setattr(Ledger, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        dense.embed(run, tmp_path / "cut", changes=FINER, data=data, controls=False, quiet=True)
    assert not (tmp_path / "cut/features.zarr").exists()
    monkeypatch.setattr(Ledger, "add", add)
    monkeypatch.setattr(PatchSamples, "read", lambda self, rows: (seen.append(rows), read(self, rows))[1])
    made = dense.embed(run, tmp_path / "cut", changes=FINER, data=data, controls=False)
    rows = verbs.table(made).n_obs
    described = np.concatenate([one for one in seen if len(one) > 0])
    assert described.min() >= 192 or (np.sort(described)[:1] >= 192).all(), "finished shards are not made again"
    told = capsys.readouterr().err
    assert f"{rows - 192:,} of {rows:,} rows to describe" in told
    assert "estimate: " in told
    files = sorted(path.relative_to(whole.path) for path in (whole.path / "features.zarr").rglob("*") if path.is_file())
    assert files
    for name in files:
        assert sha256(whole.path / name) == sha256(made.path / name), name
    assert np.array_equal(np.asarray(verbs.table(finer).X), np.asarray(verbs.table(made).X)), "whatever the shards"


def test_a_fold_is_unseen_only_while_it_holds_the_same_tissue(trained: tuple[Any, Any], finer: Any) -> None:
    table = verbs.table(finer)
    assert int(table.uns["brodmann"]["encoder_fold"]) == 0
    assert json.loads((finer.path / origin.NAME).read_text())["held_out"] == ["B1"]
    split, places = Split(by="brain", folds=0, fold=0), table.obs
    assert origin.encoder_fold(finer, split, places, same_data=True) == 0
    other = places[places["subject"] != "B1"]
    third = pd.concat([other, other.assign(subject="B3", section="B3/s00")])
    assert origin.encoder_fold(finer, split, third, same_data=True) == -1, "fold 0 would now be B2, that was trained on"
    assert origin.encoder_fold(finer, split, other, same_data=True) == -1
    by_block = Split(by="block", folds=5, fold=0, block_mm=5.0)
    assert origin.encoder_fold(finer, by_block, places, same_data=True) == -1


# ---------------------------------------------------------------- what stands on it


def test_scores_search_and_maps_work_on_a_derived_run(trained: tuple[Any, Any], finer: Any) -> None:
    found = results.score("search", finer)
    assert found.n > 100
    found = results.score("areas", finer, "area")
    assert set(found.folds) == {"brain B1 held out"}
    assert not any("trained on the held-out rows" in remark for remark in found.remarks)


def test_labels_spread_to_the_places_of_the_held_out_brain(
    trained: tuple[Any, Any], finer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = trained
    found = dense.spread("areas", run, finer, "area")
    table, there = verbs.table(run), verbs.table(finer)
    assert found.predicted.index.tolist() == there.obs["id"].tolist(), "every brain by the labels of the other"
    assert not len(found.truth)
    assert found.folds == ("brain B1 held out",), "the value is that of the fold that the encoder never saw"
    assert found.n < (table.obs["subject"] == "B1").sum() + 1
    assert any(f"{there.n_obs:,} of {there.n_obs:,} places of finer" in remark for remark in found.remarks)
    assert any("and saw the rest" in remark for remark in found.remarks)
    # denser, but along the ribbon as before; on a grid names outside of cortex would be no finding
    assert not any("no finding" in remark for remark in found.remarks)
    assert dense.astray(["samples.spacing_mm: 0.5 -> 0.1", "samples.where: ribbon -> grid"])
    known = np.isin(table.obs["area"].astype(str), found.classes)
    x, names = np.asarray(table.X, np.float32), table.obs["area"].astype(object).to_numpy()
    section = table.obs["section"].astype(str).to_numpy()
    for brain in ("B1", "B2"):
        train = known & (table.obs["subject"] != brain).to_numpy()
        held = (there.obs["subject"] == brain).to_numpy()
        at = np.asarray(there.X, np.float32)[held]
        said, _ = fit_predict("linear", x[train], names[train], section[train], at, found.seed)
        assert (found.predicted.to_numpy()[held] == said).all(), brain
    one = dense.spread("areas", run, finer, "area", fold=0)
    assert one.predicted.index.tolist() == there.obs["id"][(there.obs["subject"] == "B1").to_numpy()].tolist()
    dense.spread("areas", run, finer, "area")
    monkeypatch.setattr("brodmann.maps.embedding.find_spec", lambda _: None)
    monkeypatch.setattr(verbs, "open_source", lambda recipe, _: data)
    finer.data = "in memory"
    report = results.map(finer, "area", quiet=True)
    assert report.is_file()
    maps = finer.path / "maps" / "areas-area"
    assert (maps / "contact.png").is_file()
    assert list(maps.glob("*.nii.gz"))
    assert len(list(maps.glob("*.ome.zarr"))) == 6
    with pytest.raises(Usage, match="can be asked at other places"):
        dense.spread("domains", run, finer)


def test_numbers_spread_too(trained: tuple[Any, Any], finer: Any) -> None:
    run, _ = trained
    found = dense.spread("properties", run, finer, "thickness_mm")
    assert found.predicted.dtype == np.float64
    assert len(found.predicted) == verbs.table(finer).n_obs
    assert 1.5 < found.predicted.median() < 5


# ---------------------------------------------------------------- read-outs at other places


def tables(spacing_mm: float = 0.5, brains: int = 2) -> tuple[ad.AnnData, ad.AnnData]:
    """Rows whose features tell x, with areas by x; and places between them, whose areas are not told."""
    draw = np.random.default_rng(0)

    def made(at: np.ndarray, name: str) -> ad.AnnData:
        x, y = (axis.ravel() for axis in np.meshgrid(at, at))
        parts = []
        for b in range(brains):
            frame = {"x_mm": x, "y_mm": y, "z_mm": float(b), "subject": f"B{b}", "section": f"B{b}/s{b}"}
            parts.append(pd.DataFrame(frame))
        obs = pd.concat(parts, ignore_index=True)
        obs["id"] = [f"{name}{i}" for i in range(len(obs))]
        features = np.column_stack([obs["x_mm"], np.sin(obs["x_mm"]), draw.normal(size=len(obs))])
        table = ad.AnnData(X=features.astype(np.float16), obs=obs.set_index("id", drop=False))
        table.obs.index.name = None
        table.uns["space"] = {"name": "phantom"}
        return table

    table, at = made(np.arange(0, 10, spacing_mm), "r"), made(np.arange(0.25, 10, spacing_mm / 2), "p")
    table.obs["area"] = np.where(table.obs["x_mm"] < 5, "low", "high")
    table.obs["depth"] = table.obs["x_mm"] * 2.0
    return table, at


def test_every_place_is_told_by_rows_of_other_brains_only() -> None:
    table, at = tables()
    at = at[np.random.default_rng(1).permutation(at.n_obs)].copy()
    split = Split(by="brain", folds=0)
    said = elsewhere.predict(table, "area", split, at)
    true = np.where(at.obs["x_mm"] < 5, "low", "high")
    assert said.predicted.index.tolist() == at.obs["id"].tolist()
    assert (said.predicted.to_numpy() == true).mean() > 0.97
    assert said.sure.min() >= 0.5
    assert said.learned == "400 labelled rows"
    poisoned = table.copy()
    own = (poisoned.obs["subject"] == "B0").to_numpy()
    swapped = poisoned.obs["area"].map({"low": "high", "high": "low"})
    poisoned.obs["area"] = np.where(own, swapped, poisoned.obs["area"])
    again = elsewhere.predict(poisoned, "area", split, at).predicted
    there = (at.obs["subject"] == "B0").to_numpy()
    assert (again[there] == said.predicted[there]).all(), "labels of B0 say nothing of places in B0"
    assert (again[~there] != said.predicted[~there]).mean() > 0.97, "and are all that is known of B1"
    one = elsewhere.predict(table, "area", Split(by="brain", folds=0, fold=1), at)
    assert set(at.obs["subject"][one.predicted.index]) == {"B1"}


def test_numbers_are_told_at_places() -> None:
    table, at = tables()
    said = elsewhere.predict(table, "depth", Split(by="brain", folds=0), at, probe="ridge")
    assert np.abs(said.predicted.to_numpy() - 2 * at.obs["x_mm"].to_numpy()).max() < 0.2
    assert np.isnan(said.sure).all()
    with pytest.raises(Refused, match="column of numbers"):
        elsewhere.predict(table, "area", Split(by="brain", folds=0), at, probe="ridge")


def test_a_buffer_keeps_rows_away_from_the_places_that_are_asked() -> None:
    table, at = tables(brains=1)
    split = Split(by="block", folds=2, block_mm=2.5, buffer_mm=0.4)
    seen: list[np.ndarray] = []
    prove = splits.prove

    def looked(places: pd.DataFrame, fold: splits.Fold, split: Split) -> None:
        if len(places) > table.n_obs:
            xyz = splits.positions(places)
            gap = np.linalg.norm(xyz[fold.train][:, None] - xyz[fold.test][None], axis=2)
            seen.append(gap.min())
        prove(places, fold, split)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elsewhere.splits, "prove", looked)
        found = elsewhere.predict(table, "area", split, at)
    assert len(seen) == 2
    assert min(seen) > 0.4
    # as many as splits give up for the rows themselves, and more: places lie nearer to the border of a block
    own = sum(len(fold.train) for fold in splits.folds(table.obs, split))
    assert int(found.learned.split()[0].replace(",", "")) * 2 <= own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elsewhere, "_apart", lambda both, train, asked, buffer: train)
        with pytest.raises(Leak):
            elsewhere.predict(table, "area", split, at)


def test_other_encoders_spaces_and_brains_are_refused() -> None:
    table, at = tables()
    split = Split(by="brain", folds=0)
    with pytest.raises(Refused, match="2 features"):
        elsewhere.predict(table, "area", split, at[:, :2].copy())
    other = at.copy()
    other.uns["space"] = {"name": "ccf_v3"}
    with pytest.raises(SpaceMismatch):
        elsewhere.predict(table, "area", split, other)
    strange = at.copy()
    strange.obs["subject"] = "B9"
    with pytest.raises(Refused, match="held out"):
        elsewhere.predict(table, "area", split, strange)
