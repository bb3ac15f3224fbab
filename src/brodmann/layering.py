"""Layers told by a run that learned them: their score, and their outlines on sections that gave no labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann import questions, verbs
from brodmann.errors import Refused
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.tasks import layers as task
from brodmann.tasks._score import Score, file_name

NAME = file_name("layers", "layers")
_READ = 64
_SHOWN = (95, 75, 50, 25, 5)
"""Percentiles of the patches' own scores that are shown one by one: not the best alone."""


def learned(run: Run) -> bool:
    """Whether the run learned layers."""
    return run.recipe_values.get("tune", {}).get("kind") == "layers"


def score(run: Run, against: Sequence[Run | str | Path] = (), *, say: Say) -> Score:
    """How well the run's model tells the layer of every pixel of tissue that it was kept from.

    Beside it stand what its labels tell without an image, the untrained encoder with the same decoder (trained when it
    is first asked for, and kept in the run), and other runs.

    Parameters
    ----------
    run : Run
        Of a system that offers ``segmentation``, see `brodmann.patches.segmentation`.
    against : sequence of runs
        Rivals that learned the same layers.
    say : Say

    Returns
    -------
    Score

    Raises
    ------
    Usage
        The run learned no layers.
    """
    module, recipe, model = _told_by(run)
    others = [other if isinstance(other, Run) else verbs.load(other) for other in against]
    names = questions.distinct(others)
    theirs = {name: (other, *_told_by(other)[1:]) for name, other in zip(names, others, strict=True)}
    source = _source(run, recipe)
    made = module.segmentation(run, recipe, model, source, against=theirs, say=say)
    found = task.layers(
        (task.Segmented(**one) for one in made.answers()),
        classes=made.model.classes,
        by=made.by,
        split=made.split,
        taught=made.taught,
        seed=int(recipe.seed),
        about={"recipe_hash": run.recipe_hash, "data_fingerprint": made.samples.fingerprint},
        say=say,
    )
    return replace(found, remarks=(*found.remarks, *made.remarks))


def draw(run: Run, home: Path, scores: Sequence[dict[str, Any]], *, say: Say) -> Path:
    """Outlines of the layers on every section that gave no labels, as GeoJSON and pictures, and the report.

    Sections whose layers are not drawn are told, too; where they are drawn, they stand beside what was told.

    Parameters
    ----------
    run : Run
        With a score of its layers.
    home : Path
        The run folder, or another for ``maps/``, ``figures/`` and ``report.html``.
    scores : sequence of dict
        All scores of the run, for the report.
    say : Say

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    Refused
        The layers were not scored yet.
    """
    from brodmann.maps import layers as layers_map

    path = run.path / "scores" / f"{NAME}.json"
    if not path.is_file():
        raise Refused(
            "a map of layers needs their score.", found="none.", do=f"run `brodmann score {run.path} layers` first."
        )
    module, recipe, model = _told_by(run)
    source = _source(run, recipe)
    made = module.segmentation(run, recipe, model, source, rivals=False, say=say)
    field_mm, crop = module.window(source, recipe)
    patches = _Patches(made, {str(one.id): one for one in module.pictures(source)})
    with run.lock():
        if home == run.path:
            for written in (f"maps/{NAME}", f"figures/{NAME}", "report.html"):
                run.forget(written)
        report = layers_map.write(
            home,
            NAME,
            score=Score.load(path),
            scores=scores,
            sections=patches.sections(),
            patches=lambda: patches.shown(crop),
            field_mm=field_mm,
            recipe_toml=(run.path / "recipe.toml").read_text(),
            environment=json.loads((run.path / "environment.json").read_text())[-1],
            metrics=run.metrics(),
            data={
                "name": source.name,
                "brains": made.samples.places["subject"].nunique(),
                "sections": int(made.samples.places["section"].nunique()),
                "samples": len(made.samples),
                "space": made.samples.space.name,
                "noun": "patches",
                "remarks": list(getattr(source, "remarks", ())),
            },
            say=say,
        )
        if home == run.path:
            run.seal()
    return report


def _told_by(run: Any) -> tuple[Any, Any, Any]:
    """System, recipe and model of a run that may have learned layers."""
    return questions.offering(run, "layers", "segmentation"), *verbs.trained(run)


def _source(run: Run, recipe: Any) -> Any:
    return verbs.open_source(recipe, verbs.data_of(run))


class _Patches:
    """Told layers of patches, joined on their sections; and how well each patch was told.

    Parameters
    ----------
    made : Segmentation
    pictures : dict
        Sections by id.
    """

    def __init__(self, made: Any, pictures: dict[str, Any]) -> None:
        self.made, self.pictures = made, pictures
        self.truth = made.truth
        self.rows: list[int] = []
        self.f1: list[float] = []

    def sections(self) -> Iterator[Any]:
        """Each section, as `brodmann.maps.layerfigures.Told`."""
        from brodmann.maps.layerfigures import Told
        from brodmann.maps.outlines import joined

        made, places = self.made, self.made.samples.places
        settings, names = made.recipe.samples, places["section"].astype(str).to_numpy(object)
        core = task.cortical(made.model.classes)
        for name in dict.fromkeys(names[made.rows].tolist()):
            rows = made.rows[names[made.rows] == name]
            parts = [rows[start : start + _READ] for start in range(0, len(rows), _READ)]
            told = np.concatenate([made.model.tell(made.samples.read(some)) for some in parts])
            true = self.truth.read(rows) if np.isin(rows, self.truth.rows).all() else None
            picture = self.pictures[name]
            where = places.iloc[rows][["x_um", "y_um", "angle_deg"]].to_numpy(np.float64)
            if not settings.upright:
                where[:, 2] = 0.0
            size = {"pixel_um": settings.pixel_um, "width_um": picture.width_um, "height_um": picture.height_um}
            if true is not None:
                tally = task.Tally.of(told, true, len(made.model.classes), settings.pixel_um, upright=False)
                self.rows += rows.tolist()
                self.f1 += task.patch_f1(tally, core).tolist()
            yield Told(
                picture=picture,
                classes=made.model.classes,
                predicted=joined(told, where, **size),
                truth=None if true is None else joined(true, where, **size),
                pixel_um=settings.pixel_um,
                patches=len(rows),
            )

    def shown(self, crop: Any) -> list[tuple[str, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]]:
        """Some judged patches: what they are in words, image (C, H, W), told and true layers (H, W)."""
        f1, rows = np.array(self.f1), np.array(self.rows, np.int64)
        order = np.argsort(np.where(np.isfinite(f1), f1, np.inf), kind="stable")[: int(np.isfinite(f1).sum())]
        if not len(order):
            return []
        found: list[Any] = []
        for share in _SHOWN:
            at = order[round(share / 100 * (len(order) - 1))]
            row = rows[at : at + 1]
            place = self.made.samples.places.iloc[int(row[0])]
            words = f"{share}th percentile: F1 {f1[at]:.2f}\n{place['id']}"
            told, true = self.made.model.tell(self.made.samples.read(row))[0], self.truth.read(row)[0]
            found.append((words, crop(place), told, true))
        return found
