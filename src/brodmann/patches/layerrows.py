"""Patches whose layers are drawn: which they are, what is under each pixel, and batches of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from brodmann.errors import Refused, Usage
from brodmann.patches import views
from brodmann.patches.recipe import Layers, Recipe
from brodmann.patches.samples import PatchSamples
from brodmann.patches.source import UNLABELLED, LayeredSection
from brodmann.samples import Batch, stream

_HELD_BYTES = 256_000_000
_HASHED = 64


class LayerSamples:
    """Samples whose batches are labelled patches; what is read to be described is as it was.

    Parameters
    ----------
    samples : PatchSamples
    recipe : Recipe
        With ``tune`` of kind "layers".

    Notes
    -----
    Labels are looked for when the first batch is asked for, so that sections without layers can be described.
    """

    def __init__(self, samples: PatchSamples, recipe: Recipe) -> None:
        self.samples, self.recipe = samples, recipe
        self.places, self.space = samples.places, samples.space
        self.labels: pd.DataFrame = cast("pd.DataFrame", samples.labels)
        self.fingerprint, self.extent = samples.fingerprint, samples.extent
        self.skipped, self.remarks = samples.skipped, samples.remarks
        self.read_rows, self.shard_rows = samples.read_rows, samples.shard_rows

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:
        return self.samples[index]

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """Patches as stored, without labels; see `PatchSamples.read`."""
        return self.samples.read(rows)

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Labelled patches; see `LayerRows.batch`."""
        return self.learned.batch(step, rank=rank, world=world)

    @cached_property
    def learned(self) -> LayerRows:
        """The patches that are learned from, as the recipe asks."""
        tune = self.recipe.tune
        assert isinstance(tune, Layers)
        if tune.labels is not None:
            ids = few(self.samples, tune.labels, seed=self.recipe.seed, section=tune.section)
        elif tune.section is not None:
            ids = few(self.samples, None, section=tune.section)
        else:
            ids = None
        return LayerRows(self.samples, self.recipe, ids)


class LayerRows:
    """The patches of ``PatchSamples`` whose labels may be learned from.

    Parameters
    ----------
    samples : PatchSamples
        Those of the training part, so that no label of held-out tissue can be among them.
    recipe : Recipe
        Batch size, augmentation, seed.
    ids : sequence of str, optional
        The only patches whose labels are used, such as `few` names; every patch with layers by default.

    Attributes
    ----------
    classes : tuple of str
        In the order of depth, "background" first.
    rows : ndarray (m,) int64
        Rows of ``samples`` that have labels.

    Raises
    ------
    Refused
        No section has layers, sections name different ones, or a patch that was asked for has none.
    """

    remarks: tuple[str, ...] = ()

    def __init__(self, samples: PatchSamples, recipe: Recipe, ids: Sequence[str] | None = None) -> None:
        self.samples, self.recipe = samples, recipe
        self.places, self.labels, self.space = samples.places, samples.labels, samples.space
        self.read_rows, self.shard_rows = samples.read_rows, samples.shard_rows
        self.truth = LayerTruth(samples)
        self.classes = self.truth.classes
        self.rows = self.truth.rows if ids is None else _rows(samples, self.truth, ids)
        sections = samples.places["section"].iloc[self.rows].nunique()
        self.extent = f"{len(self.rows):,} patches with layers; sections: {sections}"
        some = self.rows[np.unique(np.linspace(0, len(self.rows) - 1, _HASHED).round().astype(int))]
        key = json.dumps([samples.fingerprint, self.classes, samples.places["id"].iloc[self.rows].tolist()])
        self.fingerprint = hashlib.sha256(key.encode() + self.truth.read(some).tobytes()).hexdigest()
        one = self._read(self.rows[:1])
        small = sum(value.nbytes for value in one.values()) * len(self.rows) <= _HELD_BYTES
        # few patches are seen again and again
        self._held = self._read(self.rows) if small else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        return self._read(self.rows[index : index + 1])

    @property
    def learned(self) -> LayerRows:
        """These, as `LayerSamples.learned` are."""
        return self

    def origin(self) -> dict[str, Any]:
        """Which patches gave labels, as plain data: ``ids``, and ``sections`` as pairs of brain and section."""
        here = cast("pd.DataFrame", self.places.iloc[self.rows]).astype({"subject": str, "section": str})
        pairs = here[["subject", "section"]].drop_duplicates().to_numpy(object)
        return {"ids": [str(name) for name in here["id"]], "sections": [[str(a), str(b)] for a, b in pairs]}

    def read(self, rows: NDArray[np.int64]) -> Batch:
        """Patches as stored, without labels; rows are those of ``samples``."""
        return self.samples.read(rows)

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Rows ``rank::world`` of the batch of ``step``: patches, views, and ``layer`` (n, H, W) uint8 as stored."""
        size = self.recipe.fit.batch
        seed, key = self.recipe.seed, self.fingerprint
        chosen = stream(seed, key, "batch", step).integers(0, len(self.rows), size)
        view = views.draw(self.recipe.augment, size, stream(seed, key, "views", step))
        mine = np.arange(rank, size, world)
        if self._held is None:
            found = self._read(self.rows[chosen[mine]])
        else:
            found = {name: value[torch.from_numpy(chosen[mine])] for name, value in self._held.items()}
        return {**found, "view": torch.from_numpy(view[mine])}

    def _read(self, rows: NDArray[np.int64]) -> Batch:
        return {**self.samples.read(rows), "layer": torch.from_numpy(self.truth.read(rows))}


class LayerTruth:
    """Which patches have layers, and what they are.

    Attributes
    ----------
    classes : tuple of str
    rows : ndarray (m,) int64
        Patches of sections whose layers are drawn.

    Raises
    ------
    Refused
        No section has layers, or sections name different ones.
    """

    def __init__(self, samples: PatchSamples) -> None:
        drawn = {s.id: cast(LayeredSection, s) for s in samples.sections() if getattr(s, "layer_names", ())}
        names = {section.layer_names for section in drawn.values()}
        if len(names) != 1:
            raise Refused(
                "sections should have layers, and the same ones.",
                found="none has any." if not names else f"{len(names)} different lists of layers.",
                do='give sections a "layers" image in sections.json.',
            )
        self.classes = names.pop()
        self._settings, self._sections = samples.recipe.samples, drawn
        self._name = [str(name) for name in samples.places["section"]]
        self._xy = samples.places[["x_um", "y_um", "angle_deg"]].to_numpy(np.float64)
        known: Any = samples.places["section"].astype(str).isin(list(drawn))
        self.rows = np.flatnonzero(known.to_numpy(bool))

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Classes (n, H, W) uint8 under the patches that `PatchSamples.read` gives; `UNLABELLED` where unknown."""
        size, upright = self._settings.size_px, self._settings.upright
        found = np.full((len(rows), size, size), UNLABELLED, np.uint8)
        for slot, row in enumerate(rows):
            if (section := self._sections.get(self._name[row])) is None:
                continue
            x_um, y_um, angle = self._xy[row]
            found[slot] = section.crop_mask(
                x_um, y_um, size_px=size, pixel_um=self._settings.pixel_um, angle_deg=angle if upright else 0.0
            )
        return found


def few(samples: PatchSamples, count: int | None, *, seed: int = 0, section: str | None = None) -> list[str]:
    """Patches that a person might label first: ``count`` of one section, at random.

    Parameters
    ----------
    samples : PatchSamples
        Of the training part.
    count : int or None
        None: all of the section, which is then to be named.
    seed : int
        Key of the draw; a larger ``count`` of the same section holds the smaller one's patches.
    section : str, optional
        Which section; by default one of those with enough patches, drawn.

    Returns
    -------
    list of str
        Their ids.

    Raises
    ------
    Usage
        No section has so many patches with layers.
    """
    truth = LayerTruth(samples)
    places = cast("pd.DataFrame", samples.places.iloc[truth.rows])
    sizes = Counter(str(name) for name in places["section"])
    if section is not None and section not in sizes:
        raise Usage(
            f"'{section}' should be a training section whose layers are drawn.",
            found=f"{len(sizes)} such: {', '.join(sorted(sizes)[:6])}{', ...' if len(sizes) > 6 else ''}.",
            do="name one of them in tune.section, or leave it out.",
        )
    count = sizes[section] if count is None and section is not None else count or 0
    if section is None:
        # drawn before the count is looked at, so that the same section serves more labels where it can
        order = stream(seed, samples.fingerprint, "layer section").permutation(sorted(sizes))
        section = next((str(name) for name in order if sizes[str(name)] >= count), None)
    if count < 1 or section is None or sizes[section] < count:
        raise Usage(
            f"{count} patches with layers should lie in one section.",
            found=f"at most {max(sizes.values())}." if section is None else f"{sizes[section]} in {section}.",
        )
    ids = places.loc[places["section"].astype(str) == section, "id"].to_numpy(object)
    return [str(name) for name in stream(seed, samples.fingerprint, "few layers", section).permutation(ids)[:count]]


def _rows(samples: PatchSamples, truth: LayerTruth, ids: Sequence[str]) -> NDArray[np.int64]:
    """Rows of ids, ascending."""
    wanted = pd.Index(samples.places["id"]).get_indexer(pd.Index(list(dict.fromkeys(ids))))
    found = np.sort(wanted[np.isin(wanted, truth.rows)]).astype(np.int64)
    if len(found) < len(wanted) or not len(found):
        raise Refused(
            "patches to learn layers from should be samples whose section has layers.",
            found=f"{len(wanted) - len(found)} of {len(wanted)} are not.",
            cause="ids of another data set, or of held-out tissue.",
        )
    return found
