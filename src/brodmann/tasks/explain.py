"""Where it looks: whether the pixels that decide lie on a structure that is known to be there.

n patches, H height, W width, G sections, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from brodmann.errors import Refused, Usage
from brodmann.tasks import _metrics as metrics
from brodmann.tasks._score import Estimate, Score

Maps = NDArray[np.floating]
Mask = NDArray[np.bool_]
Real = NDArray[np.float64]


def explain(
    maps: Mapping[str, Maps],
    cortex: Mask,
    structure: Mask,
    sections: NDArray[Any],
    *,
    target: str,
    layer: Mask | None = None,
    notes: Mapping[str, str] | None = None,
    split: str = "",
    seed: int = 0,
    remarks: Sequence[str] = (),
    recipe_hash: str = "",
    data_fingerprint: str = "",
) -> Score:
    """Score how much of what decides lies inside a structure.

    The headline is the enrichment: the structure's share of the map's mass in cortex over its share of cortex's
    pixels, both summed over patches; 1 is what a map that knows nothing gives. Only what speaks for the answer has
    mass: what is negative counts as 0. Beside it stands the area under the ROC curve that tells the structure's
    pixels from the others of cortex by the map as it is, a patch at a time, averaged. Intervals are over whole
    sections. Two rivals are added: a uniform map, and the maps dealt out anew among the patches, which keep what all
    patches share (where in a patch the layer mostly lies) and lose what is of this one.

    Parameters
    ----------
    maps : mapping of str to ndarray (n, H, W)
        The map that is scored, first, and rivals by name.
    cortex, structure : ndarray (n, H, W) bool
        Pixels of cortex, and those of them in the structure. Patches without the structure, or of nothing else, take
        no part.
    sections : ndarray (n,)
        Section of each patch.
    target : str
        Area and structure, for the name of the score.
    layer : ndarray (n, H, W) bool, optional
        What holds the structure; both measures are then also given among its pixels alone.
    notes : mapping of str to str, optional
        What a rival is, where its name does not say it all.
    split, remarks, recipe_hash, data_fingerprint
        As in `Score`.
    seed : int
        Key of every draw.

    Raises
    ------
    Refused
        No patch shows the structure, or a map is not finite.
    Usage
        Shapes differ, or there is no map.
    """
    _check(maps, cortex, structure, layer)
    structure = structure & cortex
    some: Mask = np.asarray(structure.any(axis=(1, 2)) & (cortex & ~structure).any(axis=(1, 2)))
    if not some.any():
        raise Refused(
            "at least one patch should show the structure in cortex.",
            found=f"none of {len(cortex)}.",
            cause="patches of another area, or pixels too coarse for it.",
        )
    inside, part = cortex[some], structure[some]
    own = next(iter(maps))
    shown = {name: np.asarray(values[some], dtype=np.float32) for name, values in maps.items()}
    shown["maps of other patches"] = _swapped(shown[own], np.asarray(sections)[some])
    shown["uniform map"] = np.ones_like(shown[own])
    boot = metrics.Bootstrap.of(np.asarray(sections)[some].astype(str), seed)
    judged = {name: _Judged.of(values, inside, part, boot) for name, values in shown.items()}
    best = judged[own]
    notes = {
        "uniform map": "every pixel alike: 1 and 0.5 by definition",
        "maps of other patches": "of another section, where there is one",
        **(notes or {}),
    }
    against = {name: one.enrichment(notes.get(name, "")) for name, one in judged.items() if name != own}
    gains = {name: best.gain(one) for name, one in judged.items() if name != own}
    more = {"AUROC": best.auroc("of pixels of the structure among those of cortex")}
    more |= {f"AUROC, {name}": one.auroc() for name, one in judged.items() if name not in {own, "uniform map"}}
    if layer is not None:
        host = layer[some]
        usable = (part & host).any(axis=(1, 2)) & (host & ~part).any(axis=(1, 2))
        if usable.any():
            within = metrics.Bootstrap.of(np.asarray(sections)[some][usable].astype(str), seed)
            kept = {
                name: _Judged.of(v[usable], host[usable], (part & host)[usable], within) for name, v in shown.items()
            }
            count = f"{int(usable.sum()):,} patches"
            more["enrichment within its layer"] = kept[own].enrichment(f"among pixels of the layer alone; {count}")
            more["AUROC within its layer"] = kept[own].auroc()
            for name, one in kept.items():
                if name not in {own, "uniform map"}:
                    more[f"enrichment within its layer, {name}"] = one.enrichment()
    positive = shown[own].clip(min=0)
    mass = positive.sum(axis=(1, 2))
    held = np.divide((positive * inside).sum(axis=(1, 2)), mass, out=inside.mean(axis=(1, 2)), where=mass > 0)
    more["share of mass in cortex"] = Estimate(
        float(held.mean()), note=f"cortex fills {inside.mean():.2f} of the pixels"
    )
    more["share of cortex's pixels"] = Estimate(
        float(best.pixels.mean()), note="that are the structure's, mean of patches"
    )
    overall = best.enrichment()
    said = list(remarks)
    if boot.times.shape[1] < 8:
        said.append(f"an interval from {boot.times.shape[1]} sections is rough")
    if left := int((~some).sum()):
        said.append(f"{left:,} of {len(some):,} patches do not show the structure and take no part")
    return Score(
        task="explain",
        target=target,
        metric="enrichment",
        value=overall.value,
        interval=(overall.low, overall.high),
        n=int(some.sum()),
        n_groups=boot.times.shape[1],
        scored=own,
        cluster="sections",
        what="patches",
        split=split,
        probe="linear",
        seed=seed,
        baselines=against,
        gains=gains,
        more=more,
        recipe_hash=recipe_hash,
        data_fingerprint=data_fingerprint,
        remarks=tuple(said),
    )


@dataclass(frozen=True, eq=False)
class _Judged:
    """Both measures of one map, patch by patch, and the draws they share."""

    mass: Real
    pixels: Real
    ranks: Real
    boot: metrics.Bootstrap

    @classmethod
    def of(cls, maps: Maps, among: Mask, part: Mask, boot: metrics.Bootstrap) -> _Judged:
        mass, pixels = shares(maps, among, part)
        return cls(mass, pixels, auroc(maps, among, part), boot)

    def _sums(self, values: Real) -> tuple[float, Real]:
        size = self.boot.times.shape[1]
        return float(values.sum()), self.boot.times @ np.bincount(self.boot.cluster, values, size)

    def _values(self) -> tuple[float, Real]:
        (mass, drawn_mass), (pixels, drawn_pixels) = self._sums(self.mass), self._sums(self.pixels)
        return mass / pixels, drawn_mass / drawn_pixels

    def enrichment(self, note: str = "") -> Estimate:
        return metrics.estimate(*self._values(), note)

    def gain(self, rival: _Judged) -> Estimate:
        (own, draws), (other, others) = self._values(), rival._values()
        return metrics.estimate(own - other, draws - others)

    def auroc(self, note: str = "") -> Estimate:
        (value, draws), (count, counts) = self._sums(self.ranks), self._sums(np.ones_like(self.ranks))
        return metrics.estimate(value / count, draws / counts, note)


def shares(maps: Maps, among: Mask, part: Mask) -> tuple[Real, Real]:
    """A part's share of the mass of each map and of the pixels, among some of them.

    Parameters
    ----------
    maps : ndarray (n, H, W)
        Negative values count as 0.
    among, part : ndarray (n, H, W) bool
        Pixels that count, and those of the part.

    Returns
    -------
    mass, pixels : ndarray (n,) float64
        Each between 0 and 1; a map without mass counts as uniform.
    """
    positive = np.asarray(maps, dtype=np.float64).clip(min=0) * among
    total = positive.sum(axis=(1, 2))
    pixels = (among & part).sum(axis=(1, 2)) / np.maximum(among.sum(axis=(1, 2)), 1)
    mass = np.divide((positive * part).sum(axis=(1, 2)), total, out=pixels.copy(), where=total > 0)
    return mass, pixels


def auroc(maps: Maps, among: Mask, part: Mask) -> Real:
    """Area under the ROC curve of each map for the pixels of a part among some: (n,) float64; ties count half."""
    found = np.full(len(maps), np.nan)
    for k in range(len(maps)):
        inside = part[k][among[k]]
        ranks = cast("Real", rankdata(maps[k][among[k]]))
        hits, rest = int(inside.sum()), int((~inside).sum())
        if hits and rest:
            found[k] = (ranks[inside].sum() - hits * (hits + 1) / 2) / (hits * rest)
    return found


def _swapped(maps: Maps, sections: NDArray[Any]) -> Maps:
    """Each patch gets the map of another one: half the patches further on, which is mostly another section."""
    order = np.argsort(sections.astype(str), kind="stable")
    back = np.empty_like(order)
    back[order] = np.roll(order, len(order) // 2)
    return maps[back]


def _check(maps: Mapping[str, Maps], cortex: Mask, structure: Mask, layer: Mask | None) -> None:
    if not maps:
        raise Usage("a score of attribution needs the maps that are scored.", found="none.")
    shapes = {name: values.shape for name, values in {**maps, "structure": structure, "cortex": cortex}.items()}
    shapes |= {} if layer is None else {"layer": layer.shape}
    if len(set(shapes.values())) > 1:
        raise Usage("maps and masks should have one shape (n, H, W).", found=f"{shapes}.")
    broken = [name for name, values in maps.items() if not np.isfinite(values).all()]
    if broken:
        raise Refused("maps should be finite.", found=f"NaN or infinity in {', '.join(broken)}.")
