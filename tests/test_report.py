"""A report is forwarded: it holds every number, runs nothing, loads nothing and tells nothing about the machine."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brodmann import manifest
from brodmann.errors import Refused
from brodmann.maps.methods import methods
from brodmann.maps.page import private
from brodmann.maps.report import write
from brodmann.maps.shown import Shown
from brodmann.tasks._score import Score

EVIL = ["<script>document.title='canary'</script>", "<img src=x onerror=\"document.title='canary'\">", '" onload="x\'']
RECIPE = """system = "patches"
seed = 3
[samples]
size_px = 96
pixel_um = 24.6
where = "grid"
spacing_mm = 0.2
[partners]
reach_mm = 0.5
scope = "within"
same_section = false
[encoder]
kind = "resnet"
depth = "tiny"
[objective]
temperature = 0.1
[fit]
steps = 1500
batch = 64
lr = 2e-3
"""
SCORES: list[dict[str, Any]] = [
    {
        "task": "areas",
        "target": "ccf",
        "metric": "macro-F1",
        "value": 0.4123,
        "interval": [0.3611, 0.4622],
        "n": {"patches": 9312, "sections": 30},
        "split": {"by": "section", "folds": 5, "buffer_mm": 0.5},
        "baselines": {"coordinates_only": [0.3012, 0.2811, 0.3234], "untrained": {"value": 0.1212, "interval": None}},
        "null": 0.0534,
        "more": {"balanced_accuracy": 0.4444, "names": "text"},
        "remarks": ["One seed.", f"label {EVIL[1]}", "see https://example.org/a and file:///root/secret/key.txt"],
    },
    {
        "task": "properties",
        "target": EVIL[0],
        "metric": "R2",
        "value": 0.25,
        "n": 77,
        "split": "by brain",
        "baselines": {"profile": 0.3517},
    },
]


class Reader(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def picture(path: Path, *, width: int = 900, noise: bool = False) -> Path:
    generator = np.random.default_rng(0)
    pixels = (
        generator.integers(0, 255, (width * 2 // 3, width, 3)) if noise else np.full((width * 2 // 3, width, 3), 99)
    )
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def written(folder: Path, **change: Any) -> tuple[Path, str]:
    (folder / "maps").mkdir(exist_ok=True)
    (folder / "recipe.toml").write_text(RECIPE)
    given: dict[str, Any] = {
        "title": "First run",
        "recipe_toml": RECIPE,
        "environment": {
            "python": "3.11.2",
            "argv": "/home/ada/lab/venv/bin/brodmann",
            "where": {"home": "/Users/ada/x"},
        },
        "metrics": [{"step": s, "loss": 4.0 - s / 100, "lr": 1e-3} for s in range(0, 200, 10)],
        "scores": SCORES,
        "figures": [(EVIL[1], EVIL[2], picture(folder / "f.png"))],
        "maps": [("Areas", f"caption {EVIL[0]}", picture(folder / "maps" / "m.png"))],
        "data": {"name": "mouse", "brains": 1, "sections": 30, "samples": 9312, "space": "ccf_v3"},
    } | change
    path = write(folder, **given)
    return path, path.read_text()


def test_every_number_is_there(tmp_path: Path) -> None:
    _, content = written(tmp_path)
    seen = " ".join(Reader(content).words)
    numbers = ["0.412", "[0.361, 0.462]", "0.301", "[0.281, 0.323]", "0.121", "0.053", "0.444", "0.250", "0.352", "77"]
    assert [number for number in numbers if number not in seen] == []
    assert "n = 9,312 patches, 30 sections, by section, 5 folds, buffer 0.5 mm" in seen
    for name in ("coordinates only", "untrained", "spatial null", "profile"):
        assert name in seen
    assert "+0.111" in seen, "difference to the coordinates"
    assert "no interval tells the features apart from profile" in seen, "a report says what it did not show"


def test_headline_and_map_come_first(tmp_path: Path) -> None:
    _, content = written(tmp_path)
    first = content[: content.index("<main>")]
    assert ">0.41<" in first
    assert "Better than coordinates only, untrained, spatial null." in first
    assert first.count("<img ") == 1
    _, content = written(tmp_path, scores=[{**SCORES[0], "baselines": {"coordinates_only": 0.7}}])
    assert "Not better than coordinates only." in content[: content.index("<main>")]


def test_paired_gains_decide_what_is_better(tmp_path: Path) -> None:
    from brodmann.tasks._score import Estimate, Score

    score = Score(
        task="areas",
        target="ccf",
        metric="macro-F1",
        value=0.5,
        interval=(0.4, 0.6),
        n=9312,
        n_groups=30,
        what="patches",
        baselines={
            "coordinates": Estimate(0.49, note="position alone"),
            "profile": Estimate(0.45),
            "chance": Estimate(0.1),
        },
        gains={
            "coordinates": Estimate(0.01, -0.02, 0.04),
            "profile": Estimate(0.05, 0.012, 0.09),
            "chance": Estimate(0.4),
        },
        per_class={
            "V1": {"precision": 0.5, "recall": 0.75, "f1": 0.6, "n": 1234},
            "never named": {"precision": float("nan"), "recall": 0.0, "f1": 0.0, "n": 7},
        },
        remarks=("One fold only.",),
    )
    _, content = written(tmp_path, scores=[json.loads(score.to_json())])
    first, seen = content[: content.index("<main>")], " ".join(Reader(content).words)
    assert "Better than profile, chance." in first
    assert "Not told apart from coordinates." in first
    for part in ("+0.050 [+0.012, +0.090]", "+0.010 [-0.020, +0.040]", "position alone", "9,312 patches, 30 sections"):
        assert part in seen
    assert "areas (ccf): One fold only." in seen
    assert "1,234" in seen
    assert "0.750" in seen


def test_domains_without_the_network_are_not_called_features(tmp_path: Path) -> None:
    score: dict[str, Any] = {
        "task": "domains",
        "target": "layer",
        "metric": "ARI",
        "value": 0.8,
        "interval": [0.7, 0.9],
        "n": 800,
        "scored": "consensus, no network",
        "split": "nothing held out: 4 domains found without labels; mean of 5 seeds",
        "probe": "vote of baselines",
        "baselines": {"features, k-means": 0.1, "own, k-means": 0.95},
    }
    _, content = written(tmp_path, scores=[score])
    first, seen = content[: content.index("<main>")], " ".join(Reader(content).words)
    assert "form without the features, by the consensus (no network), and do they agree with the labels?" in first
    assert "The consensus (no network): better than features, k-means." in first
    assert "The consensus (no network): not better than own, k-means." in first
    assert "tissue that was held out" not in seen
    assert "consensus (no network) minus this" in seen
    assert "own, k-means did as well as the consensus (no network) or better" in seen
    assert "Domains (layer), found by vote of baselines, reached ARI 0.80" in seen
    assert "the features or better" not in seen
    assert "ARI of the consensus (no network) and of every baseline" in content
    _, content = written(tmp_path, scores=[{**score, "scored": "features"}])
    assert "Which regions do the features form, and do they agree with the labels?" in content
    assert "Better than features, k-means." in content
    _, content = written(tmp_path, scores=[{**score, "metric": "stability"}])
    assert "and do they come back?" in content


def test_names_stay_text_and_nothing_runs(tmp_path: Path) -> None:
    _, content = written(tmp_path, title=EVIL[0], asked=EVIL[1])
    page = Reader(content)
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"script", "iframe", "object", "embed", "link", "form", "base", "a"}
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert all((attributes["src"] or "").startswith("data:image/") for tag, attributes in page.tags if tag == "img")
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3
    assert EVIL[0] in " ".join(page.words), "shown as it is, as text"
    policy = next(a["content"] or "" for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_nothing_remote_and_nothing_private(tmp_path: Path) -> None:
    _, content = written(tmp_path)
    outside = re.sub(r"data:image/[a-z]+;base64,[^\"]*", "", content)
    assert re.findall(r"[a-z]+://|url\(|@import", outside) == []
    assert not re.search(r"/home/|/Users/|/root/|\bada\b|" + re.escape(str(tmp_path)), outside)
    assert "…/brodmann" in content


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/home/ada/runs/x.toml", "…/x.toml"),
        ("in '/root/a b/c.txt'.", "in '…/c.txt'."),
        (r"C:\Users\ada\run\x.zarr", "…/x.zarr"),
        ("features/area 0.5 mm/px, 1/2", "features/area 0.5 mm/px, 1/2"),
        ("https://doi.org/10.1/abc", "doi.org/10.1/abc"),
        ("~/data/x.h5ad", "…/x.h5ad"),
    ],
)
def test_paths_lose_their_folders(given: str, kept: str) -> None:
    assert private(given) == kept


def test_size_stays_under_the_cap(tmp_path: Path) -> None:
    noisy = [("noise", "", picture(tmp_path / f"{i}.png", width=600, noise=True)) for i in range(2)]
    path, _ = written(tmp_path, figures=noisy, metrics=[])
    assert path.stat().st_size <= 8 * 1024 * 1024
    large = path.stat().st_size
    path, _ = written(tmp_path, figures=noisy, metrics=[], limit_bytes=large * 2 // 3)
    assert path.stat().st_size <= large * 2 // 3
    with pytest.raises(Refused, match="at their smallest"):
        written(tmp_path, figures=noisy, metrics=[], limit_bytes=5000)
    assert path.stat().st_size > 5000, "the old report stays when a new one is refused"


def test_files_are_listed_with_their_hashes(tmp_path: Path) -> None:
    import hashlib

    store = tmp_path / "features.zarr" / "X"
    store.mkdir(parents=True)
    (store / "c0").write_bytes(b"1")
    _, content = written(tmp_path)
    assert hashlib.sha256(RECIPE.encode()).hexdigest() in content
    assert "features.zarr/ (1 files)" in content
    assert "features.zarr/X" not in content
    sealed = {"recipe.toml": {"bytes": len(RECIPE), "sha256": "feed"}, "f.png": {"bytes": 1, "sha256": "beef"}}
    (tmp_path / "manifest.json").write_text(manifest.text(sealed))
    _, content = written(tmp_path)
    assert ">feed<" in content, "sealed hashes are not computed again"
    assert ">beef<" not in content, "a file of another size than was sealed is"


def test_methods_say_what_was_done() -> None:
    import tomllib

    data = {"name": "mouse", "brains": 1, "sections": 30, "samples": 9312, "space": "ccf_v3"}
    said = methods(tomllib.loads(RECIPE), data, [Shown.of(SCORES[0])], steps=1200)
    for part in (
        "9,312 patches on 30 sections from 1 brain of mouse",
        "96 x 96 pixels of 24.6 µm, a field of 2.4 mm",
        "0.2 mm apart",
        "SpatialNCE",
        "temperature of 0.1",
        "patches of the same brain within 0.5 mm in space, never on the same section",
        "1,200 steps of 64 samples with AdamW, peak learning rate 0.002; seed 3",
        "macro-F1 0.41 (95% interval 0.36, 0.46) on n = 9,312 patches",
        "coordinates only 0.30",
    ):
        assert part in said
    alone = methods({**tomllib.loads(RECIPE), "partners": {"reach_mm": 0}}, {}, [])
    assert "SimCLR" in alone
    assert "of other" not in alone
    assert methods({}, {}, []) == ""


def test_a_run_without_scores_still_has_a_report(tmp_path: Path) -> None:
    path = write(tmp_path, title="Only features")
    assert "Only features" in path.read_text()
    assert "nan" not in path.read_text().lower()


def test_the_page_is_accessible(tmp_path: Path) -> None:
    _, content = written(tmp_path)
    page = Reader(content)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") in {"col", "row"} for tag, attributes in page.tags if tag == "th")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert ("html", {"lang": "en"}) in page.tags


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium to open the page")
def test_chromium_shows_the_page_and_no_canary(tmp_path: Path) -> None:
    path, _ = written(tmp_path, title="First run")
    shot = tmp_path / "shot.png"
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --window-size=1200,900"
    )
    common = ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    opened = subprocess.run(
        [*common, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    assert "<title>First run</title>" in opened.stdout, "a script would have changed the title"
    subprocess.run([*common, f"--screenshot={shot}", path.as_uri()], capture_output=True, timeout=60, check=True)
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (np.abs(pixels.astype(int) - [99, 99, 99]).max(axis=1) < 3).mean() > 0.05, "the map is drawn, not blocked"
    assert len(np.unique(pixels, axis=0)) > 20


def test_a_null_is_beaten_at_its_95th_percentile_and_nothing_is_beaten_without_an_interval(tmp_path: Path) -> None:
    score: dict[str, Any] = {
        "task": "areas", "target": "area", "metric": "macro-F1", "value": 0.58, "interval": [0.55, 0.6], "n": 32,
        "baselines": {"spatial null": {"value": 0.52, "low": 0.34, "high": 0.77}, "apart": [0.4, 0.3, 0.5]},
        "more": {"features, as the null": 0.58},
    }  # fmt: skip
    assert Shown.of(score).rivals() == (["apart"], ["spatial null"], [])
    assert Shown.of({**score, "more": {"features, as the null": 0.8}}).rivals() == (
        ["apart", "spatial null"][::-1],
        [],
        [],
    )
    # the reading that the null is compared with counts, not the headline
    assert Shown.of({**score, "value": 0.9, "interval": [0.88, 0.93]}).rivals()[1] == ["spatial null"]
    bare = {**score, "task": "domains", "metric": "stability", "interval": [None, None], "baselines": {"k-means": 0.5}}
    assert Shown.of(bare).rivals() == ([], [], [])
    assert Shown.of(bare).undecided == ["k-means"]
    _, content = written(tmp_path, scores=[bare])
    first = content[: content.index("<main>")]
    assert "Not decided, as no interval is known, against k-means." in first
    assert "Better than" not in first


def test_a_smaller_distance_is_the_better_one():
    score = {"task": "search", "metric": "median mm", "value": 1.0, "baselines": {"random": 5.0, "coordinates": 0.5}}
    score["gains"] = {
        "random": {"value": -4.0, "interval": [-4.5, -3.5]},
        "coordinates": {"value": 0.5, "low": 0.3, "high": 0.7},
    }
    assert Shown.of(score).rivals() == (["random"], [], ["coordinates"])
    assert Shown.of({**score, "metric": "median orientation error, deg"}).rivals() == (["random"], [], ["coordinates"])
    assert Shown.of({**score, "metric": "macro-F1"}).rivals() == (["coordinates"], [], ["random"])


def test_a_map_without_its_score_names_the_scores_there_are(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from brodmann import atlases, results, verbs

    monkeypatch.setattr(verbs, "table", lambda _: None)
    monkeypatch.setattr(atlases, "targets", lambda _: ["area", "layer"])
    run = SimpleNamespace(path=tmp_path, has=lambda _: True)
    with pytest.raises(Refused, match=r"(?s)found: none.*areas --target area"):
        results._scored(run, "area")
    for task, target in (("areas", "layer"), ("networks", "network")):
        Score(
            task=task, target=target, metric="macro-F1", value=0.5, interval=(0.4, 0.6), n=1, n_groups=1,
            classes=("a",), predicted=pd.Series(["a"], index=["r1"]), truth=pd.Series(["a"], index=["r1"]),
        ).save(tmp_path)  # fmt: skip
    with pytest.raises(Refused, match="found: scores of 'layer', 'network'"):
        results._scored(run, "area")
    with pytest.raises(Refused, match="map 'network'"):
        results._scored(run, "networks")
    with pytest.raises(Refused, match=r"(?s)not 'nope'.*score one of area, layer first"):
        results._scored(run, "nope")
