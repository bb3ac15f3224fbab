"""A look at recordings before time is spent: one screen, one picture, a reason where they are refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import brodmann as bm
import neuronfiles as made
from brodmann import cli, settings, verbs
from brodmann.card import card
from brodmann.errors import NoRoom, Refused
from brodmann.neurons import samples as samples_of
from brodmann.neurons import sheet, statistics
from brodmann.neurons.readers import sidecar
from brodmann.neurons.recipe import Recipe

pytestmark = pytest.mark.usefixtures("own_cache")
data, quiet = made.data, made.quiet
PAGE = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text("utf-8").partition("## 11. ")[2]


def facts(path):
    report = bm.validate(path)
    assert report.source is not None, str(report)
    return dict(report.facts)


@pytest.mark.parametrize("kind", ["npz", "zarr", "sensorium", "nwb"])
def test_every_format_is_inspected_alone_and_in_a_folder(kind, tmp_path, data, quiet):
    end = {"sensorium": ""}.get(kind, f".{kind}")
    write = {"zarr": made.zarr_}.get(kind) or getattr(made, kind)
    home = tmp_path / "set"
    home.mkdir()
    for name in ("a", "b"):
        write(home / f"{name}{end}", data)
    for path, count in ((home / f"a{end}", 1), (home, 2)):
        report = bm.validate(path)
        assert (report.verdict, report.exit_code, report.reader) == ("usable", 0, "recordings"), str(report)
        told = dict(report.facts)
        assert told["recordings"].startswith(f"{count} of {count} animal")
        assert told["neurons"].startswith(f"{5 * count}; 5 a recording; 0 dead")
        assert told["minutes"].startswith(
            f"train {120 * count / 30 / 60:.3g}, valid 0, test {60 * count / 30 / 60:.3g}"
        )
        assert told["video"].startswith(f"8 x 12 px (height x width), {160 * count} frames; ")
        assert "--set samples.height_px=8 samples.width_px=12" in told["video"]
        assert "rate_hz" not in told["video"]
        assert told["repeats"].startswith("1 test clips, each shown 3 times")
        assert told["synapses"] == "none"
        assert len(str(report).splitlines()) <= 28
    assert told["rate"] == "30 per second, " + {
        "sensorium": "that of all Sensorium sets", "nwb": "from its time stamps"
    }.get(kind, "rate_hz in the file")  # fmt: skip


def test_numbers_are_those_of_the_recording(tmp_path, data):
    data["responses"] = np.rint(data["responses"] * 3).astype(np.float32)
    data["responses"][:, 2] = 0
    data["neurons/area"] = np.array(["V1", "LM", "V1", "V1", "AL"])
    data["neurons/orientation_deg"] = np.arange(5) * 20.0
    report = bm.validate(made.npz(tmp_path / "r.npz", data))
    told = dict(report.facts)
    assert "1 dead" in told["neurons"]
    assert any("1 neurons of r are dead: r/u2" in text for text in report.concerns)
    assert told["responses"].startswith(f"mean {data['responses'].mean():.3g}, largest {data['responses'].max():.4g}, ")
    assert f"{(data['responses'] == 0).mean():.0%} zeros" in told["responses"]
    assert told["responses"].endswith("whole numbers: counts")
    assert told["labels"] == "area (3), orientation_deg, z_um"
    assert told["behaviour"] == "pupil_radius (0.50% NaN), running, gaze"
    assert told["places"] == "um, in 1 plane of up to 40 x 48 um"
    short = {key: value for key, value in data.items() if key not in {"behaviour", "pupil", "neurons/x_um"}}
    told = facts(made.npz(tmp_path / "s.npz", short))
    assert told["behaviour"] == "pupil_radius missing, running missing, gaze missing"
    assert told["places"].startswith("not known")


def test_another_rate_is_said_with_the_setting_and_recordings_that_differ_are_refused(tmp_path, data):
    slow = data | {"rate_hz": np.array(10.0)}
    folder = tmp_path / "set"
    folder.mkdir()
    told = facts(made.npz(folder / "a.npz", slow))
    assert told["rate"] == "10 per second, rate_hz in the file"
    assert "samples.rate_hz=10" in told["video"]
    made.say_of(folder, rate_hz=10)
    assert facts(folder)["rate"] == "10 per second, stated in recordings.json"
    made.say_of(folder)
    made.npz(folder / "b.npz", data)
    made.npz(folder / "c.npz", data)
    report = bm.validate(folder)
    assert (report.verdict, report.exit_code) == ("refused", 6)
    assert "not the usual: a.npz" in str(report)


@pytest.mark.parametrize("kind", ["cut", "text", "negative", "nan", "turned", "ms", "apart", "silent"])
def test_bad_recordings_are_a_verdict_that_names_the_file_and_the_remedy(kind, tmp_path, data):
    stamped = data | {
        "video": made.shown(data), "video_time_s": np.arange(200) / 30, "response_time_s": np.arange(200) / 30,
    }  # fmt: skip
    change = {
        "cut": lambda: data,
        "text": lambda: data,
        "negative": lambda: data | {"responses": data["responses"] - 1},
        "nan": lambda: data | {"responses": np.where(data["responses"] > 3, np.nan, data["responses"])},
        "turned": lambda: data | {"responses": data["responses"].T},
        "ms": lambda: stamped | {"video_time_s": np.arange(200) / 0.03, "response_time_s": np.arange(200) / 0.03},
        "apart": lambda: stamped | {"video_time_s": 500 + np.arange(200) / 30},
        "silent": lambda: data | {"responses": data["responses"] * 0},
    }[kind]()
    if kind in {"ms", "apart"}:
        change.pop("rate_hz")
    path = made.npz(tmp_path / "bad.npz", change)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "text":
        path.write_text("no archive")
    report = bm.validate(path)
    text = str(report)
    assert "bad" in text
    due = {
        "cut": "cut short", "text": "archive of numpy", "negative": "should not be negative", "nan": "should be finite",
        "turned": "save them transposed", "ms": "in seconds: divide by 1000", "apart": "two clocks that started",
        "silent": "no neuron ever answers in bad",
    }[kind]  # fmt: skip
    assert due in text, text
    assert (report.verdict, report.exit_code) == (("usable", 0) if kind == "silent" else ("refused", 6))


def test_one_clock_in_ms_and_one_in_seconds_are_told_apart_and_still_pictures_pass(tmp_path, data):
    clock = np.arange(200) / 30
    base = {key: value for key, value in data.items() if not key.startswith(("trials/", "rate"))}
    base |= {"video": made.shown(data), "response_time_s": clock, "behaviour_time_s": clock}
    with pytest.raises(Refused, match="divide those of video by 1000"):
        made.open_(made.npz(tmp_path / "v.npz", base | {"video_time_s": clock * 1000}))
    with pytest.raises(Refused, match="divide those of the responses by 1000"):
        made.open_(
            made.npz(tmp_path / "r.npz", base | {"video_time_s": clock, "response_time_s": clock * 1000}), rate_hz=0.03
        )
    with pytest.raises(Refused, match=r"behaviour and responses of b\.npz should be on one clock"):
        made.open_(made.npz(tmp_path / "b.npz", base | {"video_time_s": clock, "behaviour_time_s": clock + 900}))
    still = base | {"video": base["video"][::50], "video_time_s": clock[::50]}
    assert len(made.open_(made.npz(tmp_path / "s.npz", still)).recordings[0].trials)


def test_turned_responses_are_recognised_with_trials_and_with_more_neurons_than_frames(tmp_path, data):
    many = {key: value for key, value in data.items() if not key.startswith(("trials/", "neurons/"))}
    many |= {"video": made.shown(data), "responses": np.ones((300, 200), np.float32)}
    for name, given in (
        ("a", data | {"responses": data["responses"].T}),
        ("b", many),
        ("c", data | {"responses": np.ones((300, 200)), "neurons/id": np.arange(300).astype(str)}),
    ):
        with pytest.raises(Refused, match="save them transposed"):
            made.open_(made.npz(tmp_path / f"{name}.npz", given))


def test_a_silent_recording_is_skipped_and_dead_neurons_are_said(tmp_path, data):
    folder = tmp_path / "set"
    folder.mkdir()
    made.npz(folder / "a.npz", data | {"responses": data["responses"] * [1, 0, 1, 1, 0]})
    made.npz(folder / "b.npz", data | {"responses": data["responses"] * 0})
    recipe = made.recipe()
    found = samples_of(made.open_(folder), recipe)
    assert [kept.recording.id for kept in found.kept] == ["a"]
    assert len(found) == 5
    assert found.skipped == [("b", "no neuron ever answers in its training frames: all responses are 0")]
    assert len(found.remarks) == 1
    assert statistics.NEVER in found.remarks[0]
    assert "2 of 5 neurons" in found.remarks[0]
    report = bm.validate(folder)
    assert any("no neuron ever answers in b" in text for text in report.concerns)
    (folder / "a.npz").unlink()
    with pytest.raises(Refused, match="never filled"):
        samples_of(made.open_(folder), recipe)


def test_a_damaged_file_of_several_is_skipped_by_name(tmp_path, data):
    made.npz(tmp_path / "a.npz", data)
    (tmp_path / "b.npz").write_text("no archive")
    report = bm.validate(tmp_path)
    assert (report.verdict, report.exit_code) == ("usable", 3)
    assert [name for name, _ in report.skipped] == ["b.npz"]
    assert "\n  skipped      b.npz: " in str(report)


def test_a_relative_path_has_a_name_in_every_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plain.npz").write_text("no archive")
    Path("plain.png").write_text("no image")
    for name in ("plain.npz", "plain.png", "."):
        text = str(bm.validate(name))
        assert not re.search(r"^\W*(?:error\s*)?should hold|: refused\n  error\s+should", text, re.M), text
        assert not text.startswith(":")
        assert "\n  error        " in text


def test_pictures_beside_recordings_and_tables_of_synapses_are_neither_sections_nor_cells(tmp_path, data):
    made.npz(tmp_path / "a.npz", data)
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "figure.png")
    (tmp_path / "notes.csv").write_text("x,y\n1,2\n")
    assert bm.validate(tmp_path).reader == "recordings"


def test_the_picture_shows_video_responses_and_a_bar_of_time(tmp_path, data):
    report = bm.validate(made.npz(tmp_path / "r.npz", data))
    pixels = np.asarray(Image.open(report.picture(tmp_path / "a.png")).convert("RGB")).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 40) & (pixels[..., 2] < 40)
    wide = red.sum(axis=1).max()
    # the bar is 1 s of 4.67 s of training
    assert wide / (pixels.shape[1] * 0.95) == pytest.approx(1 / 4.67, rel=0.25)
    below = slice(pixels.shape[0] * 2 // 5, None)
    dark = np.asarray(Image.open(tmp_path / "a.png").convert("L"))[below] < 100
    data["responses"][:, 1:] = 0
    sheet.draw(made.open_(made.npz(tmp_path / "s.npz", data))).savefig(tmp_path / "b.png")
    sparse = np.asarray(Image.open(tmp_path / "b.png").convert("L"))[below] < 100
    assert sparse.mean() < 0.7 * dark.mean()


def test_the_phantom_says_who_makes_it_and_how_to_look_at_it(tmp_path, capsys):
    assert cli.validate(Path("phantom:animals=2")) == 0
    told = capsys.readouterr().out
    assert "made by      the program" in told
    assert "phantom.write(" in told
    with pytest.raises(Refused, match=r"phantom\.write"):
        bm.validate("phantom").picture(tmp_path / "none.png")


def test_a_full_disk_is_no_fault_of_the_data(tmp_path, data, monkeypatch):
    from brodmann.neurons import verdict

    def full(*_, **__):
        raise NoRoom("the cache should fit.")

    monkeypatch.setattr(verdict, "open_source", full)
    with pytest.raises(NoRoom):
        bm.validate(made.npz(tmp_path / "r.npz", data))


def test_every_key_of_the_sidecar_stands_in_the_page():
    names = [
        *sidecar.Stated.__dataclass_fields__,
        *sidecar.Entry.__dataclass_fields__,
        *sidecar.Keys.__dataclass_fields__,
    ]
    assert len(names) > 25
    assert [name for name in names if name not in re.findall(r"\w+", PAGE)] == []


def test_the_card_says_how_each_system_was_trained(tmp_path, data):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in "ab":
        made.npz(folder / f"{name}.npz", data)
    recipe = settings.build(
        Recipe,
        {"samples": {"height_px": 8, "width_px": 12}, "split": {"by": "brain", "folds": 0, "fold": 1}},
        where="t",
    )
    source = verbs.open_source(recipe, folder)
    text = card(recipe, source, samples_of(source, recipe, part="train"))
    assert "Trained on 5 neurons in 1 recording of 1 animal, 0.1 minutes" in text
    assert "Supervised by responses" in text
    assert "Self-supervised" not in text
    assert "Videos of 8 x 12 px at 30 frames per second; others are refused." in text
    assert "Behaviour that it has seen: gaze, pupil radius, running." in text
    assert "Held out whole, never seen: b." in text
    for name, what, due in (
        ("patches-tiny", "phantom:brains=2,sections_per_brain=2,native_um=64", "Self-supervised on places"),
        ("cells-tiny", "phantom:brains=2,sections_per_brain=2,cells=2000,genes=60", "Self-supervised on counts"),
    ):
        other = verbs.recipe(name, {"split.fold": None})
        source = verbs.open_source(other, what)
        text = card(other, source, verbs.system(name.partition("-")[0]).samples(source, other, part="train"))
        assert due in text
        assert "Nothing was held out" in text
