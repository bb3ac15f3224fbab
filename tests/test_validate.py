"""What `validate` promises: it harms no file, leaves nothing unsaid, and refuses what training would refuse."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image

import brodmann as bm
import images
import neuronfiles as made
from brodmann import cli, phantom
from brodmann.errors import Refused, Usage
from brodmann.reasons import told

pytestmark = pytest.mark.usefixtures("own_cache")


def run(*words):
    """Exit code of a command line."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in words])
    return caught.value.code or 0


def sections(folder, count=3, **stated):
    """PNG of tissue with a pixel size; ``stated`` goes into the sidecar."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        images.write_png(folder / f"s{number}.png", images.blob(60, 80))
    (folder / "sections.json").write_text(json.dumps({"pixel_um": 40.0, **stated}))
    return folder


def cells(path, n, *, counts=True):
    """So many cells in two sections, a row of them each."""
    table = pd.DataFrame({"section": np.arange(n) % 2, "x": np.arange(n) // 2 * 10.0, "y": 0.0})
    table["section"] = "s" + table["section"].astype(str)
    table["mouse"] = "m1"
    if not counts:
        table.to_csv(path, index_label="cell")
        return path
    data = anndata.AnnData(sp.csr_matrix(np.full((n, 2), 3.0, np.float32)), table[["section", "mouse"]].set_index(
        np.array([f"c{i}" for i in range(n)])), pd.DataFrame(index=["Gad1", "Slc17a7"]))  # fmt: skip
    data.obsm["spatial"] = table[["x", "y"]].to_numpy()
    data.write_h5ad(path)
    return path


# ------------------------------------------------------------------------------------------------------- the picture


def test_a_picture_never_takes_the_place_of_a_file(tmp_path, capsys):
    folder = sections(tmp_path / "good")
    before = (folder / "s1.png").read_bytes()
    assert run("validate", folder, "--picture", folder / "s1.png") == 2
    told = capsys.readouterr()
    assert "should not be there yet" in told.err
    assert told.out == "", "the place of the picture is looked at before the data are"
    with pytest.raises(Usage, match="should not be there yet"):
        bm.validate(folder).picture(folder / "s1.png")
    assert (folder / "s1.png").read_bytes() == before
    for blank in (b"", b"\0"):
        (tmp_path / "notes.pdf").write_bytes(blank)
        assert run("validate", folder, "--picture", tmp_path / "notes.pdf") == 2
        assert (tmp_path / "notes.pdf").read_bytes() == blank
    (tmp_path / "folder.png").mkdir()
    assert run("validate", folder, "--picture", tmp_path / "folder.png") == 2


@pytest.mark.parametrize(
    ("end", "first"), [("png", b"\x89PNG"), ("jpg", b"\xff\xd8\xff"), ("JPEG", b"\xff\xd8\xff"), ("pdf", b"%PDF")]
)
def test_a_picture_is_what_its_ending_says_and_an_earlier_one_is_replaced(end, first, tmp_path, capsys):
    folder, out = sections(tmp_path / "good"), tmp_path / f"sheet.{end}"
    assert run("validate", folder, "--picture", out) == 0
    assert f"picture      {out}" in capsys.readouterr().out
    assert out.read_bytes().startswith(first)
    size = out.stat().st_size
    (folder / "s2.png").unlink()
    assert run("validate", folder, "--picture", out) == 0
    assert out.stat().st_size != size


def test_another_ending_is_refused_before_the_data_are_read(tmp_path, capsys):
    for name in ("p.xyz", "p", "p.tif"):
        assert run("validate", tmp_path / "nothing", "--picture", tmp_path / name) == 2
        said = capsys.readouterr()
        assert "PNG, JPEG or PDF" in said.err
        assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_is_refused_once_and_no_picture_is_drawn(tmp_path, capsys):
    assert run("validate", tmp_path / "nothing", "--picture", tmp_path / "p.png") == 6
    said = capsys.readouterr()
    assert "refused" in said.out
    assert "none: nothing could be read" in said.out
    assert said.err == ""
    assert not (tmp_path / "p.png").exists()
    assert run("validate", "phantom", "--picture", tmp_path / "p.png") == 6
    said = capsys.readouterr()
    assert "good" not in said.out
    assert "phantom.write(" in said.err


# ------------------------------------------------------------------------------------------- nothing is left unsaid


def test_settings_of_the_phantom_are_those_that_fit_takes(tmp_path):
    for bad in (
        "foo=2",
        "brains=x",
        "brains",
        "brains=0",
        "tilt_deg=90",
        "animals=0",
        "genes=9000",
        "brains=2,animals=2",
    ):
        report = bm.validate(f"phantom:{bad}")
        assert (report.verdict, report.exit_code) == ("refused", 6), bad
        assert [text.partition(":")[0] for text in report.concerns] == ["patches", "cells", "neurons"]
        for name in ("patches", "cells", "neurons"):
            with pytest.raises(Usage):
                bm.fit(f"{name}-tiny", f"phantom:{bad}", tmp_path / "run", quiet=True)
    for good, systems in (
        ("", {"sections", "cells", "neurons"}),
        (":brains=3,seed=1", {"sections", "cells"}),
        (":animals=3", {"neurons"}),
        (":tilt_deg=40", {"sections"}),
    ):
        report = bm.validate(f"phantom{good}")
        assert report.verdict == "good", str(report)
        facts = dict(report.facts)
        assert {"sections", "cells", "neurons"} & set(facts) == systems
        assert all(f"--data phantom{good or ':'}" in facts[name] for name in systems)


def test_every_system_of_the_phantom_is_checked():
    for name in phantom.RENDERED:
        with pytest.raises(Usage):
            phantom.check(name, {"brains": 0, "animals": 0})


def test_what_another_system_would_read_is_named(tmp_path):
    folder = sections(tmp_path / "mixed", subject="B1")
    (folder / "points.csv").write_text("x_um,y_um\n1,2\n")
    (folder / "readme.txt").write_text("notes")
    assert bm.validate(folder).verdict == "good"
    cells(folder / "slides.h5ad", 300)
    (folder / "cells.json").write_text("{}")
    made.npz(folder / "M1.npz", made.recording())
    made.npz(folder / "M2.npz", made.recording())
    (folder / "recordings.json").write_text("{}")
    report = bm.validate(folder)
    assert report.reader == "sections.json" or report.reader == "images"
    assert (report.verdict, report.exit_code) == ("usable", 0)
    assert any("not looked at: M1.npz, M2.npz, slides.h5ad; name" in text for text in report.concerns), str(report)
    (folder / "sections.json").unlink()
    report = bm.validate(folder)
    assert report.reader == "recordings"
    assert any("not looked at: s0.png, s1.png, s2.png, slides.h5ad; name" in text for text in report.concerns)
    assert not any("not looked at" in text for text in bm.validate(folder / "M1.npz").concerns)


def test_many_brains_are_said_to_be_more(tmp_path):
    listed = [{"file": f"s{n}.png", "subject": f"B{n}"} for n in range(8)]
    facts = dict(bm.validate(sections(tmp_path / "many", 8, sections=listed)).facts)
    assert facts["sections"].startswith("8 of 8 subjects: ")
    assert facts["sections"].endswith("(1), ...")
    for n in (6, 7):
        listed[n]["subject"] = "B5"
    facts = dict(bm.validate(sections(tmp_path / "few", 8, sections=listed)).facts)
    assert facts["sections"].startswith("8 of 6 subjects: B5 (3)")
    assert not facts["sections"].endswith("...")


# ----------------------------------------------------------------------------------------- too little to learn from


def test_cells_without_counts_are_refused_as_fit_refuses_them(tmp_path):
    path = cells(tmp_path / "cells.csv", 600, counts=False)
    report = bm.validate(path)
    assert (report.verdict, report.exit_code) == ("refused", 6), str(report)
    assert "found: 0 of 600, for no genes were found." in str(report)
    assert '"counts"' in str(report)
    assert dict(report.facts)["cells"].startswith("600; ")
    with pytest.raises(Refused):
        bm.fit("cells-tiny", path, tmp_path / "run", quiet=True)


@pytest.mark.parametrize(("n", "verdict"), [(2, "usable"), (4, "usable"), (99, "usable"), (100, "good")])
def test_so_few_cells_that_nothing_can_be_trained_are_not_good(n, verdict, tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    cells(folder / "a.h5ad", n)
    (folder / "cells.json").write_text('{"unit": "um"}')
    report = bm.validate(folder)
    assert report.verdict == verdict, str(report)
    assert "nan" not in str(report)
    few = verdict == "usable"
    assert any("100 are needed to train" in text for text in report.concerns) == few
    assert ("too few" in dict(report.facts)["read as"]) == few
    assert ("a recipe of cells fits" in dict(report.facts)["read as"]) != few


# ------------------------------------------------------------------------------------------- many files, few reasons


def test_a_reason_that_many_files_share_is_said_once():
    skipped = [(f"s{n}.png", f"s{n}.png should be whole.\n  found: {n} bytes.") for n in range(60)]
    skipped[7] = ("other.czi", "format is not read")
    assert told(skipped, limit=8) == [
        "s0.png (and 58 more: s1.png, s2.png, s3.png, s4.png, ...): s0.png should be whole.\n  found: 0 bytes.",
        "other.czi: format is not read",
    ]
    kinds = [(f"{letter}.png", f"trouble {letter * 3}") for letter in "abcdefgh"]
    assert told(kinds, limit=5)[-2:] == ["e.png: trouble eee", "and 3 more"]
    assert told(kinds, limit=8)[-1] == "h.png: trouble hhh"


def test_a_set_of_which_every_file_is_refused_says_why_once_and_no_idle_advice(tmp_path):
    wrong = [[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]
    listed = [{"file": f"s{n}.png", "to_mm": wrong} for n in range(60)]
    folder = sections(tmp_path / "all", 60, space="ccf_v3", sections=listed)
    text = str(bm.validate(folder))
    lines = text.splitlines()
    assert len(lines) < 12, text
    assert "60 files, none of which passes" in text
    assert "s0.png (and 59 more: s1.png" in text
    assert "give PNG" not in text
    at = next(number for number, line in enumerate(lines) if "s0.png (and 59" in line)
    depth = [len(line) - len(line.lstrip()) for line in lines]
    assert min(depth[at + 1 :]) > depth[at], text


def test_a_file_that_is_no_image_is_refused_in_its_own_words(tmp_path):
    (tmp_path / "mk.py").write_text("print('hello')\n")
    report = bm.validate(tmp_path / "mk.py")
    assert report.verdict == "refused"
    assert report.concerns[0].startswith("mk.py should be a PNG or JPEG.")
    assert "give PNG" in report.concerns[0]
    assert "1 files" not in str(report)
    (tmp_path / "mk.py").unlink()
    assert "give PNG" in str(bm.validate(tmp_path)), "an empty folder"


@pytest.mark.parametrize("kind", ["npz", "h5ad"])
def test_reasons_keep_cause_and_remedy_and_every_sentence_ends(kind, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.{kind}").write_text("no archive")
    text = str(bm.validate(tmp_path))
    assert f"a.{kind} (and 1 more: b.{kind})" in text
    assert "likely cause: a copy or download cut short." in text
    found = next(line for line in text.splitlines() if line.strip().startswith("found:") and "left out" not in line)
    assert found.endswith("."), text


def test_a_skipped_file_keeps_its_remedy(tmp_path):
    folder = sections(tmp_path / "some")
    Image.fromarray(np.zeros((60, 80), np.uint16)).save(folder / "deep.png")
    text = str(bm.validate(folder))
    assert "skipped      deep.png: deep.png should be 8-bit" in text
    assert "what to do: convert to 8-bit grey or RGB, or to a tiled TIFF or OME-Zarr, whose 16-bit values" in text
    assert "..." not in text


# -------------------------------------------------------------------------------------------- one bad recording of many


@pytest.mark.parametrize("kind", ["nan", "negative", "short", "empty"])
def test_one_bad_recording_is_left_out_whatever_ails_it(kind, tmp_path):
    named = {"trials/clip": np.array(made.CLIPS)}
    folder, one = tmp_path / "set", made.recording() | named
    folder.mkdir()
    made.npz(folder / "M1.npz", made.recording(seed=1) | named)
    made.npz(folder / "M3.npz", made.recording(seed=3) | named)
    alone = made.open_(folder)
    assert "t#2" in set(alone.recordings[1].trials["clip"])
    if kind == "short":
        one["responses"] = one["responses"][:-7]
    elif kind == "empty":
        one |= {key: value[:0] for key, value in one.items() if key.startswith("trials/")}
    else:
        one["responses"][50, 2] = np.nan if kind == "nan" else -1
    made.npz(folder / "M2.npz", one)
    report = bm.validate(folder)
    assert (report.verdict, report.exit_code) == ("usable", 3), str(report)
    assert [name for name, _ in report.skipped] == ["M2.npz"]
    assert dict(report.facts)["recordings"].startswith("2 of 2 animals: M1 (1), M3 (1)")
    due = {"nan": "should be finite", "negative": "not dF/F"}.get(kind, "M2.npz")
    assert due in str(report)
    source = made.open_(folder)
    assert source.skipped == report.skipped
    assert source.fingerprint == alone.fingerprint, "what is left out leaves no trace in what is kept"
    assert {len(list(cache.glob("0*"))) for cache in (tmp_path / "cache").glob("neurons-*")} == {2}
    for kept, other in zip(source.recordings, alone.recordings, strict=True):
        pd.testing.assert_frame_equal(kept.trials, other.trials)
        np.testing.assert_array_equal(kept.responses, other.responses)
    made.npz(folder / "M1.npz", one)
    made.npz(folder / "M3.npz", one)
    with pytest.raises(
        Refused, match=r"at least one readable recording(.|\n)*M1\.npz \(and 2 more: M2\.npz, M3\.npz\)"
    ):
        made.open_(folder)


def test_video_of_another_size_than_asked_for_still_refuses_the_set(tmp_path):
    made.npz(tmp_path / "M1.npz", made.recording())
    one = made.recording(seed=2)
    made.npz(tmp_path / "M2.npz", one | {"video": one["video"].repeat(2, axis=1)})
    with pytest.raises(Refused, match=r"video of M2\.npz.* as the recipe says"):
        made.open_(tmp_path)
