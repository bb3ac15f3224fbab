"""A run whose answers are known, for tests of the viewer: four small sections, a border, planted likenesses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from brodmann import features, verbs
from brodmann.run import Run
from brodmann.space import PHANTOM
from brodmann.tasks._score import Score

EVIL = "<img src=x onerror=\"document.title='canary'\">"
WIDTH_PX, HEIGHT_PX, PIXEL_UM, STEP_UM = 900, 700, 10.0, 200.0
BORDER_UM = 4370.0
"""Where the image and the labels change at once."""
SECTIONS = ("B1_s0", "B1_s1", "B2_s0", "B2_s1")
DARK, BRIGHT = 70, 190


def picture() -> np.ndarray:
    """Dark left of the border, bright right of it, with a slope and a pattern that no two pixels apart share."""
    y, x = np.mgrid[:HEIGHT_PX, :WIDTH_PX]
    side = np.where((x + 0.5) * PIXEL_UM < BORDER_UM, DARK, BRIGHT)
    return (side + 30 * y / HEIGHT_PX + (7 * x + 13 * y) % 11).astype(np.uint8)


def places() -> tuple[np.ndarray, np.ndarray]:
    """Samples of a section (n, 2) um, the border midway between two columns; and their number in the grid."""
    x = np.concatenate(
        [np.arange(BORDER_UM - STEP_UM / 2, 0, -STEP_UM)[::-1], np.arange(BORDER_UM + STEP_UM / 2, 9000, STEP_UM)]
    )
    xy = np.stack(np.meshgrid(x, np.arange(STEP_UM, 6900, STEP_UM)), -1).reshape(-1, 2)
    return xy, np.arange(len(xy))


def make(folder: Path, *, data: bool = True) -> Path:
    """Sections and a run with a feature table, one score and no weights; returns the run folder."""
    images, run_path = folder / "sections", folder / "planted"
    images.mkdir(parents=True, exist_ok=True)
    to_mm = {name: [[0.001, 0, -4.0], [0, 0, 2.0 * i], [0, -0.001, 3.0]] for i, name in enumerate(SECTIONS)}
    entries = []
    for name in SECTIONS:
        Image.fromarray(picture()).save(images / f"{name}.png")
        entries.append(
            {"file": f"{name}.png", "id": name, "subject": name[:2], "pixel_um": PIXEL_UM, "to_mm": to_mm[name]}
        )
    (images / "sections.json").write_text(json.dumps({"space": "phantom", "sections": entries}))
    recipe = verbs.recipe(
        "patches-tiny", {"samples.where": "grid", "samples.spacing_mm": 0.2, "partners.metric": "space"}
    )
    run = Run.open(
        run_path, recipe=recipe, system="patches", data_fingerprint="planted",
        data=str(images if data else folder / "gone"), say=lambda _: None,
    )  # fmt: skip
    xy, number = places()
    rng = np.random.default_rng(5)
    kind = rng.normal(size=(len(xy), 16))
    kind[xy[:, 0] < 1000] += 9.0  # a cluster of its own
    tables, found = [], []
    for i, name in enumerate(SECTIONS):
        mm = np.column_stack([xy, np.ones(len(xy))]) @ np.array(to_mm[name]).T
        tables.append(
            pd.DataFrame(
                {
                    "id": [f"{name}/{k:05d}" for k in number], "subject": name[:2], "section": name,
                    "x_um": xy[:, 0], "y_um": xy[:, 1], "angle_deg": 0.0,
                    "x_mm": mm[:, 0], "y_mm": mm[:, 1], "z_mm": mm[:, 2],
                    "area": np.where(xy[:, 0] < BORDER_UM, EVIL, "V1"), "depth_um": xy[:, 1],
                }
            )
        )  # fmt: skip
        # the same place on another section looks the same, but for a little noise of its own
        found.append(kind + 0.02 * np.random.default_rng(i).normal(size=kind.shape))
    obs = pd.concat(tables, ignore_index=True)
    obs.loc[::50, "area"] = None
    X = np.concatenate(found).astype(np.float16)
    features.write(
        run_path / "features.zarr", X, obs, PHANTOM, obs[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float32),
        obsm={"baseline_statistics": X[:, :3].astype(np.float32)},
        uns={"system": "patches", "data": "", "split": {"by": "brain", "folds": 0}, "encoder_fold": 0},
    )  # fmt: skip
    held = obs["subject"] == "B2"
    said = np.where(obs["x_um"] < 600, "A0", np.where(obs["x_um"] < BORDER_UM + 400, EVIL, "V1"))
    predicted = pd.Series(said, index=pd.Index(obs["id"], name="id"))
    score = Score(
        task="areas", target="area", metric="macro-F1", value=0.9, interval=(0.8, 1.0), n=int(held.sum()), n_groups=1,
        classes=("A0", *sorted({EVIL, "V1"})), predicted=predicted[held.to_numpy()].astype(object),
        truth=obs["area"][held].fillna("V1").set_axis(obs["id"][held]).astype(object), split="brain B2",
    )  # fmt: skip
    with run.lock():
        score.save(run_path)
        run.seal()
    return run_path
