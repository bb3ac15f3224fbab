"""Patches as located samples: where they lie, how their pixels are read, which ones make a batch."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brodmann import atlases, splits
from brodmann.errors import Refused
from brodmann.patches import tissue, views
from brodmann.patches.partners import PartnerSampler, coordinates
from brodmann.patches.recipe import Partners, Recipe, Tune
from brodmann.patches.source import Section, Source
from brodmann.samples import Batch, stream
from brodmann.settings import plain

_READERS = 2
_OVERVIEW_PX = 1_100_000
_PLACE = ("id", "subject", "section", "x_um", "y_um", "angle_deg", "x_mm", "y_mm", "z_mm", "u_mm", "v_mm")


class PatchSamples:
    """Located patches of a source.

    Parameters
    ----------
    source : Source
        Sections with pixel size, stain polarity and place in a space.
    recipe : Recipe
        Size, pixel size, sampling, partners, views.
    part : {"all", "train"}
        Every sample, or those outside the recipe's held-out fold.

    Attributes
    ----------
    places, labels, space, fingerprint
        See `brodmann.samples.Samples`.
    skipped : list of (str, str)
        Sections left out, and why.
    read_rows, shard_rows : int
        Rows that one read, and one shard of a feature table, should have.
    """

    read_rows, shard_rows = 64, 512
    remarks: tuple[str, ...] = ()

    def __init__(self, source: Source, recipe: Recipe, *, part: Literal["all", "train"] = "all") -> None:
        self.recipe, self.space = recipe, source.space
        self.skipped = list(source.skipped)
        self._sections: list[Section] = []
        tables: list[pd.DataFrame] = []
        levels: list[NDArray[np.float32]] = []
        ordered = sorted(source.sections, key=lambda s: (s.subject, s.id))
        # sections decode (and are drawn) without the GIL: a few at once, in their order
        with ThreadPoolExecutor(_READERS, thread_name_prefix="section") as pool:
            located = pool.map(lambda section: _locate(section, recipe), ordered)
            for section, (table, level) in zip(ordered, located, strict=True):
                if not len(table):
                    self.skipped.append((section.id, "no tissue, or no points, under these sampling settings"))
                    continue
                self._sections.append(section)
                tables.append(table)
                levels.append(level)
        if not tables:
            raise Refused(
                f"at least one of {len(source.sections)} sections should hold samples.",
                found="none does.",
                cause=f'samples.where = "{recipe.samples.where}" does not fit these data, or the mask finds no tissue.',
                do="look at `brodmann validate`, or choose another samples.where.",
            )
        self._levels = np.stack(levels)
        everything = _thin(pd.concat(tables, ignore_index=True), recipe.samples.limit)
        source.space.check(everything[["x_mm", "y_mm", "z_mm"]].to_numpy(float), what="patch coordinates")
        if part == "train" and recipe.split.fold is not None:
            fold = splits.folds(everything, recipe.split)[0]
            everything = everything.iloc[fold.train].reset_index(drop=True)
        place = [name for name in _PLACE if name in everything]
        self.places: pd.DataFrame = cast("pd.DataFrame", everything[place]).copy()
        self.labels = everything[[name for name in everything if name not in _PLACE and not str(name).startswith("_")]]
        asked = recipe.tune.target if part == "train" and isinstance(recipe.tune, Tune) else ""
        if asked not in self.labels and atlases.named(asked):
            where = everything[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
            self.labels = self.labels.assign(**{asked: atlases.at(where, asked, space=self.space)})
        self._section_of = everything["_section"].to_numpy(np.int64)
        sections, brains = (int(self.places[name].nunique()) for name in ("section", "subject"))
        self.extent = f"{len(self.places):,} patches; sections: {sections}; brains: {brains}"
        self._xy = self.places[["x_um", "y_um", "angle_deg"]].to_numpy(np.float64)
        # only training compares places: those of a grid may be described although no sheet is known of them
        known = part == "train" or "u_mm" in self.places or recipe.partners.metric == "space"
        self._coordinates = coordinates(self.places, recipe.partners if known else Partners())
        self._subject = pd.factorize(self.places["subject"], sort=True)[0]
        self._partners: PartnerSampler | None = None
        key = json.dumps([source.fingerprint, plain(recipe)["samples"], len(everything), part, plain(recipe)["split"]])
        body = cast("Any", pd).util.hash_pandas_object(self.places, index=False).to_numpy().tobytes()
        self.fingerprint = hashlib.sha256(key.encode() + body).hexdigest()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Batch:
        return self.read(np.array([index]))

    def sections(self) -> list[Section]:
        """Sections that hold samples, in the order of the rows."""
        return self._sections

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """Patches as stored: ``image`` (n, C, H, W) uint8 with dark stain, ``level`` (n, 3, C) and their places."""
        settings = self.recipe.samples
        image = np.empty((len(rows), settings.channels, settings.size_px, settings.size_px), np.uint8)
        for slot, row in enumerate(rows):
            section = self._sections[self._section_of[row]]
            x_um, y_um, angle = self._xy[row]
            crop = section.crop(
                x_um,
                y_um,
                size_px=settings.size_px,
                pixel_um=settings.pixel_um,
                angle_deg=angle if settings.upright else 0.0,
            )
            image[slot] = _stain(crop, settings.channels, dark=section.dark_stain)
        where = self._section_of[rows]
        return {
            "image": torch.from_numpy(image),
            "level": torch.from_numpy(self._levels[where]),
            "index": torch.from_numpy(np.asarray(rows, np.int64)),
            "coordinates": torch.from_numpy(self._coordinates[rows]),
            "subject": torch.from_numpy(self._subject[rows].astype(np.int64)),
            "section": torch.from_numpy(where),
        }

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Rows ``rank::world`` of the global batch of ``step``, with the parameters of their views."""
        size = self.recipe.fit.batch
        seed, key = self.recipe.seed, self.fingerprint
        if self._partners is None:
            self._partners = PartnerSampler(self.places, self.recipe.partners)
        index = self._partners.draw(size, stream(seed, key, "batch", step))
        view = views.draw(self.recipe.augment, len(index), stream(seed, key, "views", step))
        mine = np.arange(rank, len(index), world)
        return {
            **self.read(index[mine]),
            "row": torch.from_numpy(mine),
            "view": torch.from_numpy(view[mine]),
        }


def _stain(crop: NDArray[np.uint8], channels: int, *, dark: bool) -> NDArray[np.uint8]:
    """Channels as asked for, dark stain on a bright ground."""
    if not dark:
        crop = 255 - crop
    if channels == len(crop):
        return crop
    if channels == 1:
        return (crop.astype(np.uint16).sum(0, keepdims=True) // len(crop)).astype(np.uint8)
    return np.repeat(crop, channels, axis=0)


def _locate(section: Section, recipe: Recipe) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Sample rows of one section and its staining level."""
    settings = recipe.samples
    coarse_um = max(settings.pixel_um, section.native_um, settings.spacing_mm * 1000 / 8)
    # the mask of a whole human section must not decide how much memory sampling takes
    coarse_um = max(coarse_um, (section.width_um * section.height_um / _OVERVIEW_PX) ** 0.5)
    overview = _stain(section.overview(coarse_um), settings.channels, dark=section.dark_stain)
    mask = tissue.mask(overview)
    if settings.where == "grid":
        points = tissue.grid(mask, pixel_um=coarse_um, spacing_um=settings.spacing_mm * 1000, least=settings.tissue)
    else:
        points = _along(section.points, settings.spacing_mm if settings.where == "ribbon" else 0.0)
    if "angle_deg" not in points:
        points["angle_deg"] = 0.0
    xyz = section.place(points[["x_um", "y_um"]].to_numpy(np.float64))
    points = points.assign(
        id=[f"{section.id}/{number:06d}" for number in range(len(points))],
        subject=section.subject,
        section=section.id,
        x_mm=xyz[:, 0],
        y_mm=xyz[:, 1],
        z_mm=xyz[:, 2],
    )
    return points, views.levels(overview, mask)


def _along(points: pd.DataFrame | None, spacing_mm: float) -> pd.DataFrame:
    """A section's own points; thinned so that neighbours in order lie ``spacing_mm`` apart."""
    if points is None or not len(points):
        return pd.DataFrame({"x_um": [], "y_um": []})
    if spacing_mm <= 0:
        return points.reset_index(drop=True)
    xy = points[["x_um", "y_um"]].to_numpy(np.float64)
    keep, last = [0], xy[0]
    for row in range(1, len(xy)):
        if np.hypot(*(xy[row] - last)) >= spacing_mm * 1000 * 0.999:
            keep.append(row)
            last = xy[row]
    return points.iloc[keep].reset_index(drop=True)


def _thin(table: pd.DataFrame, limit: int | None) -> pd.DataFrame:
    """At most ``limit`` rows, evenly spread over the sections' order; numbers sections as they appear."""
    numbers: Any = pd.factorize(table["section"])[0]
    table = table.assign(_section=numbers)
    if limit is None or len(table) <= limit:
        return table
    return table.iloc[np.linspace(0, len(table) - 1, limit).round().astype(int)].reset_index(drop=True)
