"""Where it looks: maps of what decides, scored where the truth is known and drawn where it is not.

n patches, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import ndimage

from brodmann.errors import Refused
from brodmann.patches import views
from brodmann.patches.attribution import Method, Question, attribute
from brodmann.patches.model import CytoNet
from brodmann.patches.samples import PatchSamples
from brodmann.samples import Batch, stream
from brodmann.settings import Split
from brodmann.tasks import _rows
from brodmann.tasks._readout import Readout, readout
from brodmann.tasks._score import Score
from brodmann.tasks.explain import explain as score

Maps = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
Reference = Literal["others", "mean"]

REFERENCES = 8
"""Patches of other areas with which one is compared. On the phantom this found the stripe in V1, which a reference of
even density (``"mean"``) missed: the stripe is as pale as the mean of the patch, so that its way there is nought."""
_STEPS = {"others": 4, "mean": 32}


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """Maps of what decides, for some patches.

    Parameters
    ----------
    rows : (n,) int64
        Rows of the table.
    areas : (n,) str
        Whose logit was explained.
    density : (n, H, W) float32
        What the encoder saw: standardised density, mean of its channels.
    maps : (n, H, W) float32
        In the same pixels; what is positive speaks for the area.
    untrained : (n, H, W) float32, optional
        The same of an encoder that learned nothing, where the table holds its features: structure that shows here as
        well comes from how encoders are built.
    pixel_um : float
    score : Score
        Whether the read-out that is explained names held-out patches, over all areas and (``per_class``) each.
    """

    rows: Rows
    areas: NDArray[np.object_]
    density: Maps
    maps: Maps
    untrained: Maps | None
    pixel_um: float
    score: Score


def explain(
    model: CytoNet,
    samples: PatchSamples,
    table: AnnData,
    target: str,
    *,
    split: Split | None = None,
    areas: Sequence[str] | None = None,
    each: int = 4,
    method: Method = "gradients",
    reference: Reference = "others",
    out: str | Path | None = None,
    seed: int = 0,
) -> Explained:
    """Show which pixels of a few typical patches of each area make a linear probe name it.

    Parameters
    ----------
    model : CytoNet
        Trained.
    samples : PatchSamples
        All of them, as the table was made from.
    table : AnnData
        Features that the model gave them; the probe is learned on its training rows.
    target : str
        Column of the table that names areas.
    split : Split, optional
        What neither the probe nor, by default, the encoder saw (the recipe's split); patches shown are of it.
    areas : sequence of str, optional
        By default every area that the probe knows and that is held out.
    each : int
        Patches an area: those whose features lie nearest to the area's mean, of different sections where there are.
    method, reference
        See `maps`.
    out : path, optional
        Also draw ``out`` as PNG and SVG.
    seed : int
        Key of every draw.

    Returns
    -------
    Explained

    Raises
    ------
    Usage
        An area is not known, or the method does not fit the encoder.
    Refused
        No patch is held out, or the table is not of these samples.
    """
    _same(samples, table)
    probe = readout(table, target, split or model.recipe.split, rivals=("untrained",), seed=seed)
    chosen = {area: probe.typical(table, area, each) for area in areas or probe.classes}
    chosen = {area: rows for area, rows in chosen.items() if len(rows)}
    if not chosen:
        raise Refused("patches that are shown should be held out.", found=f"none of {', '.join(areas or ())}.")

    def shown(of: CytoNet, which: str) -> Maps:
        return np.concatenate(
            [
                maps(
                    of,
                    samples,
                    rows,
                    logit(probe, area, which),
                    method=method,
                    references=_references(probe, area, reference, seed),
                )
                for area, rows in chosen.items()
            ]
        )

    rows = np.concatenate([*chosen.values()])
    names = np.repeat(np.array([*chosen], dtype=object), [len(rows) for rows in chosen.values()])
    made = Explained(
        rows=rows,
        areas=names,
        density=densities(model, samples, rows),
        maps=shown(model, "features"),
        untrained=shown(_untrained(model), "untrained") if probe.told else None,
        pixel_um=model.recipe.samples.pixel_um,
        score=probe.score(table, target, seed=seed),
    )
    if out is not None:
        from brodmann.maps import attribution, drawing

        patch = model.recipe.samples
        upright = patch.upright and patch.where != "grid"
        figure = attribution.figure(
            made.density,
            made.maps,
            names,
            pixel_um=made.pixel_um,
            upright=upright,
            beside=made.untrained,
            notes={area: "F1 {f1:.2f}\nn = {n:,}".format(**row) for area, row in made.score.per_class.items()},
            subtitle=str(made.score).partition("\n")[0].partition("  ")[2],
        )
        drawing.save(figure, out)
    return made


def judged(
    model: CytoNet,
    samples: PatchSamples,
    table: AnnData,
    probe: Readout,
    area: str,
    rows: Rows,
    cortex: Mask,
    structure: Mask,
    *,
    name: str,
    layer: Mask | None = None,
    method: Method = "gradients",
    reference: Reference = "others",
    seed: int = 0,
) -> tuple[Score, Maps]:
    """Score whether what makes the probe name an area lies on a structure that is known to be there.

    Beside it stand the same for the untrained encoder, for a probe of shuffled labels, for the logit of the area that
    the probe holds for next likely on these patches, and maps that know no model: density, paleness and edges.

    Parameters
    ----------
    model, samples, table
        See `explain`; the table holds the untrained encoder's features as ``baseline_untrained``.
    probe : Readout
        Learned with ``rivals=("untrained",)``.
    area : str
        Whose logit is explained.
    rows : (n,) int64
        Held-out rows of the area, such as `Readout.held` gives.
    cortex, structure, layer : (n, H, W) bool
        Truth under these patches: see `brodmann.tasks.explain.explain`.
    name : str
        Of the structure.
    method, reference, seed
        See `explain`.

    Returns
    -------
    Score
    maps : (n, H, W) float32

    Raises
    ------
    Refused
        Rows that the probe saw, no patch with the structure, or a table of other samples.
    """
    _same(samples, table)
    if len(seen := np.intersect1d(rows, probe.train)):
        raise Refused("patches should be held out from the probe.", found=f"{len(seen)} that it learned from.")
    number = probe.number(area)
    at = np.searchsorted(probe.test, rows)
    said, second = probe.said[at], probe.second[at]
    next_likely = np.where(said == number, second, said)
    other = probe.classes[int(np.bincount(next_likely[next_likely != number]).argmax())]
    references = _references(probe, area, reference, seed)
    own = maps(model, samples, rows, logit(probe, area), method=method, references=references)
    untrained = _untrained(model)
    shown: dict[str, Maps] = {"features": own}
    if "untrained" in probe.directions:
        ask = logit(probe, area, "untrained")
        shown["untrained"] = maps(untrained, samples, rows, ask, method=method, references=references)
    for title, ask in (
        ("another area's logit", logit(probe, other)),
        ("labels shuffled", logit(probe, area, "labels shuffled")),
    ):
        shown[title] = maps(model, samples, rows, ask, method=method, references=references)
    shown |= plain(samples, rows)
    about = _rows.about(table)
    found = score(
        shown,
        cortex,
        structure,
        _sections(table, rows),
        target=f"{area} {name}",
        layer=layer,
        notes={"another area's logit": f"that of {other}", "labels shuffled": "probe of labels dealt out anew"},
        split=probe.split,
        seed=seed,
        remarks=(f"the probe names {np.mean(said == number):.0%} of these patches rightly", *probe.remarks),
        recipe_hash=str(about.get("recipe_hash", "")),
        data_fingerprint=str(about.get("data_fingerprint", "")),
    )
    return found, own


def logit(probe: Readout, area: str, which: str = "features") -> Question:
    """Ask how far a patch speaks for an area: the probe's logit minus the mean of the other areas'."""
    return Question(area, probe.directions[which][probe.number(area)])


def alike(table: AnnData, row: int) -> Question:
    """Ask how similar a patch is to the place of a row: cosine of features less their mean over the table."""
    features = _rows.features(table)
    return Question(
        f"like {_rows.ids(table)[row]}", features[row], kind="alike", centre=features.mean(axis=0).astype(np.float32)
    )


def maps(
    model: CytoNet,
    samples: PatchSamples,
    rows: Rows,
    question: Question,
    *,
    method: Method = "gradients",
    references: Rows | None = None,
    steps: int | None = None,
    smooth_px: float = 1.0,
) -> Maps:
    """What each pixel of some patches adds to the answer of a question.

    Parameters
    ----------
    model, samples
        See `explain`.
    rows : (n,) int64
        Patches to explain; they are read and explained a block at a time.
    question : Question
        See `logit` and `alike`.
    method : {"gradients", "layercam", "rollout"}
        See `brodmann.patches.attribution.attribute`.
    references : (R,) int64, optional
        For ``gradients``: rows with whose patches these are compared; by default a patch of even density.
    steps : int, optional
        For ``gradients``: points on the line from each reference.
    smooth_px : float
        SD of a Gaussian over each map, 0 for none: gradients of neighbouring pixels alternate in sign.

    Returns
    -------
    (n, H, W) float32
    """
    given = None if references is None else _seen(model, samples.read(references))
    found = [
        attribute(
            model.encoder,
            _seen(model, samples.read(rows[start : start + samples.read_rows])),
            question,
            method=method,
            references=given,
            steps=steps or _STEPS["mean" if references is None else "others"],
        )
        for start in range(0, len(rows), samples.read_rows)
    ]
    made = np.concatenate(found)
    return cast("Any", ndimage).gaussian_filter(made, (0, smooth_px, smooth_px)) if smooth_px > 0 else made


def densities(model: CytoNet, samples: PatchSamples, rows: Rows) -> Maps:
    """What the encoder sees of some patches, mean of its channels: (n, H, W) float32."""
    return _seen(model, samples.read(rows)).mean(dim=1).numpy()


def plain(samples: PatchSamples, rows: Rows) -> dict[str, Maps]:
    """Maps that know no model: optical density, paleness (how much less than the densest pixel) and edges."""
    batch = samples.read(rows)
    _, mean, sd = (batch["level"][:, k, :, None, None] for k in range(3))
    dark = (views.density(batch["image"], batch["level"]) * sd + mean).mean(dim=1).numpy().clip(min=0)
    steep = cast("Any", ndimage).gaussian_gradient_magnitude
    edges = np.stack([steep(one, 1.0) for one in dark])
    top = np.percentile(dark, 99, axis=(1, 2), keepdims=True)
    return {"density": dark, "paleness": (top - dark).clip(min=0).astype(np.float32), "edges": edges.astype(np.float32)}


def _untrained(model: CytoNet) -> CytoNet:
    """The model as it was before it learned."""
    return CytoNet(model.recipe).to(next(model.parameters()).device)


def _seen(model: CytoNet, batch: Batch) -> torch.Tensor:
    return views.standardise(views.density(batch["image"], batch["level"]), model.recipe.samples.standardise)


def _references(probe: Readout, area: str, reference: Reference, seed: int) -> Rows | None:
    """Training rows of other areas, each area as often as any other."""
    if reference == "mean":
        return None
    rng, number = stream(seed, "references", area), probe.number(area)
    others = [
        rng.permutation(probe.train[probe.codes[probe.train] == k]) for k in range(len(probe.classes)) if k != number
    ]
    others = [rows for rows in others if len(rows)]
    order = rng.permutation(len(others))
    turns = [others[order[k % len(order)]] for k in range(REFERENCES)]
    return np.array([rows[(k // len(order)) % len(rows)] for k, rows in enumerate(turns)], dtype=np.int64)


def _sections(table: AnnData, rows: Rows) -> NDArray[np.object_]:
    obs = _rows.places(table).iloc[rows]
    return (obs["subject"].astype(str) + "/" + obs["section"].astype(str)).to_numpy(dtype=object)


def _same(samples: PatchSamples, table: AnnData) -> None:
    mine, theirs = samples.places["id"].astype(str).to_numpy(), _rows.ids(table)
    if len(mine) != len(theirs) or (mine != theirs).any():
        raise Refused(
            "a table should hold the samples that are explained, row by row.",
            found=f"{len(theirs):,} rows, and {len(mine):,} samples.",
            cause="another recipe, other data, or the training part of the samples.",
            do='open samples with part="all" and the recipe of the run.',
        )
