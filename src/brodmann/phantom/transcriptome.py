"""The planted brains as spatial transcriptomics: typed cells with counts, in the planes of the stained sections."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import atomic, caches
from brodmann.cells.source import Source
from brodmann.errors import Usage
from brodmann.phantom import areas, counts, domains, scatter, stain, types
from brodmann.phantom.block import windows
from brodmann.phantom.brain import Brain, grow
from brodmann.phantom.cut import Plane, planes, solve
from brodmann.phantom.domains import Plan
from brodmann.phantom.panel import LARGEST, Genes, batch, panel
from brodmann.phantom.sheet import Sheet
from brodmann.samples import stream
from brodmann.space import PHANTOM

_VERSION = 1
"""Of what is rendered; part of the name of every cache."""


@dataclass(frozen=True, eq=False)
class Rendered:
    """One imaged section; rows follow a Morton curve of 25 um.

    Attributes
    ----------
    id, subject : str
        As of the stained section in the same plane, such as ``"B1/s07"`` and ``"B1"``.
    xy_um : (n, 2) float32
        Places in the section's plane, from the same corner as in the stained section.
    xyz_mm : (n, 3) float32
        The same in `space.PHANTOM`.
    indptr, gene, count : (n + 1,) int64, (nnz,) uint16, (nnz,) uint16
        Counts as CSR.
    types : (n,) int16
        Index into `types.TYPE_NAMES`.
    volume_um3 : (n,) float32
    labels : DataFrame
        The truth: ``type, class, area, layer, domain, division, known_region, hidden_border`` (categorical), and
        ``axis, depth, u_true_mm, v_true_mm`` (float32).
    """

    id: str
    subject: str
    xy_um: NDArray[np.float32]
    xyz_mm: NDArray[np.float32]
    indptr: NDArray[np.int64]
    gene: NDArray[np.uint16]
    count: NDArray[np.uint16]
    types: NDArray[np.int16]
    volume_um3: NDArray[np.float32]
    labels: pd.DataFrame

    def __len__(self) -> int:
        return len(self.types)

    def ids(self) -> NDArray[np.bytes_]:
        """Name of each cell, (n,): section and number, such as ``b"B1/s07/000123"``."""
        head = np.frombuffer(f"{self.id}/".encode(), np.uint8)
        digits = np.arange(len(self))[:, None] // 10 ** np.arange(5, -1, -1) % 10 + ord("0")
        whole = np.concatenate([np.broadcast_to(head, (len(self), len(head))), digits.astype(np.uint8)], axis=1)
        return np.ascontiguousarray(whole).view(f"S{whole.shape[1]}")[:, 0]


@dataclass(frozen=True)
class _Job:
    brain: Brain
    plane: Plane
    k: int
    reach_mm: tuple[float, float]


@dataclass(frozen=True)
class Settings:
    """Everything that the rendering depends on; see `transcripts`."""

    seed: int
    brains: int
    cells: int
    genes: int
    sections_per_brain: int
    domain_effect: float
    batch_effect: float

    def __post_init__(self) -> None:
        for name in ("brains", "cells", "genes", "sections_per_brain"):
            if getattr(self, name) <= 0:
                found = f"{name} = {getattr(self, name)}."
                raise Usage(f"'{name}' of a phantom should be positive.", found=found, do="give more.")
        if self.genes > LARGEST:
            raise Usage(f"A phantom's panel has at most {LARGEST:,} genes.", found=f"{self.genes:,}.")
        for name in ("domain_effect", "batch_effect"):
            if not 0 <= getattr(self, name) < 10:
                found = f"{name} = {getattr(self, name)}."
                raise Usage(f"'{name}' should be 0 (off) or a factor near 1.", found=found)


def transcripts(
    *,
    seed: int = 0,
    brains: int = 5,
    cells: int = 100_000,
    genes: int = 500,
    sections_per_brain: int = 30,
    domain_effect: float = 1.0,
    batch_effect: float = 1.0,
    folder: str | Path | None = None,
    threads: int = 2,
) -> Source:
    """Spatial transcriptomics of the planted brains, the whole truth beside it.

    Brain ``"B1"`` here is brain ``"B1"`` of `phantom.sections` of the same seed: same sheet, folds, areas, vessels and
    columns. Section ``"B1/s07"`` lies in the plane of the stained section of that name (for the same
    ``sections_per_brain``), cut right beside it, 10 um thick instead of 20. A thinner section holds fewer profiles
    (2/3 of the neurons, see `domains.SEEN`), but here glia and vascular cells are told apart and all called: about
    1,400 cells per mm2, from 700 in layer I to 3,400 in layer IVc of V1. Cortex and 0.6 mm of white matter are imaged.

    Each cell has one of 56 types; the mixture depends on its domain alone (61 planted domains in 9 divisions, see
    `domains.Plan`), and shifts along the sensory-association axis, as does expression in glutamatergic cells and
    astrocytes. Types stray over borders by 0.03 mm in depth and 0.12 mm along the sheet (SD). Not in `domains.UNIFORM`:
    there every cell is drawn from one mixture and one expression. Counts are negative binomial with a dispersion per
    gene, log-normal library sizes, 5 % dropout, 3 % ambient RNA; about 20 % of entries are not zero.

    Parameters
    ----------
    cells : int
        About so many in total, the same in every brain. They fill a block of cortex cut around one place of the
        template, beside a hidden border, a known border and the uniform region. Up to 20,000 cells a brain it is a
        piece of one section about 4 mm wide; it then grows along and across sections, until from about 2.1 million
        cells a brain whole sections are imaged, evenly spread (300,000 cells each, 9 million in 30).
    genes : int
        Up to 1,122. Panels of 500 and 1,122 genes share 300 names; genes of one name are the same gene.
    sections_per_brain : int
        Planes into which each brain is cut; of these, as many are imaged as ``cells`` asks for.
    domain_effect : float
        How much mixtures differ between domains beyond what layer and area explain; 0 leaves that.
    batch_effect : float
        Scales what differs between animals' experiments: efficiency per gene (35 %), library (25 %, and 8 % between
        sections), density (6 %); 0 switches all off. The animals' own warp and folds stay.
    folder : path, optional
        Where the cache lies: ``$BRODMANN_CACHE`` or ``~/.cache/brodmann`` by default. Its name is a hash of the
        settings; the second call maps it at once.
    threads : int
        Sections rendered at the same time. They change nothing but the time.

    Returns
    -------
    Source
        In `space.PHANTOM`, blanks left out; ``labels`` as in `Rendered`.

    Raises
    ------
    Usage
        If a setting is out of range, or the brains hold fewer cells in so many sections.
    NoRoom
        If the cache does not fit on its disk.
    """
    from brodmann.cells import cache
    from brodmann.cells.panel import Panel

    settings = Settings(seed, brains, cells, genes, sections_per_brain, domain_effect, batch_effect)
    key = hashlib.sha256(f"phantom {_VERSION} {cache.VERSION} {settings}".encode()).hexdigest()[:20]
    root = Path(folder) if folder else caches.home()
    where = root / f"cells-phantom-{key}"
    if (where / caches.MANIFEST).exists():
        return cache.read(where)
    names = panel(seed, genes)
    chosen = Panel(names.genes, names.names[len(names.genes) :])
    with (
        atomic.guard(f"phantom of {cells:,} cells", root, need=int(cells * (110 + 0.22 * 4 * genes))),
        cache.Writer(where, chosen, PHANTOM, name=f"phantom-{seed}-cells") as writer,
    ):
        for one in sections(settings, threads=threads):
            writer.section(
                one.id, one.subject, ids=one.ids(), xy_um=one.xy_um, xyz_mm=one.xyz_mm,
                csr=(one.indptr, one.gene, one.count), labels=one.labels, types=one.labels["type"],
                volume_um3=one.volume_um3,
            )  # fmt: skip
        return writer.close()


def sections(settings: Settings, *, blanks: int = 0, threads: int = 2) -> Iterator[Rendered]:
    """Render one section after the other; each depends on the settings and its name alone.

    Parameters
    ----------
    blanks : int
        Blank probes to render behind the genes (at most `panel.BLANKS`).
    threads : int
        Sections rendered at the same time; also the number held in memory, beside the one being used.
    """
    plan, genes = domains.plan(settings.seed, settings.domain_effect), panel(settings.seed, settings.genes)
    jobs = _jobs(settings)
    with ThreadPoolExecutor(threads, thread_name_prefix="phantom") as pool:
        waiting: deque[Future[Rendered]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(_render, job, plan, genes, settings, settings.genes + blanks))
                if len(waiting) >= threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _jobs(settings: Settings) -> Iterator[_Job]:
    template, genes = Sheet.plant(settings.seed), panel(settings.seed, settings.genes)
    for index in sorted(range(settings.brains), key=lambda k: f"B{k + 1}"):
        # The registration error does not touch tissue; any length gives the same brain.
        brain = grow(template, seed=settings.seed, index=index, registration_mm=4.0)
        cuts = planes(brain, seed=settings.seed, sections=settings.sections_per_brain)
        crowd = batch(settings.seed, brain.name, genes, settings.batch_effect).density
        for k, first, last in windows(brain, cuts, settings.cells / settings.brains, crowd):
            yield _Job(brain, cuts[k], k, (first, last))


def _render(job: _Job, plan: Plan, genes: Genes, settings: Settings, columns: int) -> Rendered:
    brain, plane, seed = job.brain, job.plane, settings.seed
    name = f"{brain.name}/s{job.k:02d}"
    rng = stream(seed, "phantom", name, "transcripts")
    chance = [int(word) for word in rng.integers(1 << 62, size=2)]
    # Vessels and columns are those of the stained section: this one was cut beside it.
    tubes = stain.vessels(stain.ribbon(brain, plane), stream(seed, "phantom", name, "vessels"), 1.0)
    texture = int(stream(seed, "phantom", brain.name, "texture").integers(1 << 62))
    own = batch(seed, brain.name, genes, settings.batch_effect)
    found = scatter.scatter(
        brain, solve(brain, plane), plan, tubes, reach_mm=job.reach_mm, density=own.density, seed=chance[0],
        texture_seed=texture,
    )  # fmt: skip
    found = scatter.take(found, scatter.morton(found.xy_um))
    own = replace(own, depth=own.depth * float(np.exp(settings.batch_effect * rng.normal(0, 0.08))))
    drawn = counts.draw(genes, own, found.kind, found.axis[:, 1], seed=chance[1], columns=columns)
    xyz = plane.place(found.xy_um.astype(np.float64)).astype(np.float32)
    return Rendered(
        id=name, subject=brain.name, xy_um=found.xy_um, xyz_mm=xyz, indptr=drawn.indptr, gene=drawn.gene,
        count=drawn.count, types=found.kind, volume_um3=drawn.volume_um3, labels=_labels(found, plan),
    )  # fmt: skip


def _labels(found: scatter.Scatter, plan: Plan) -> pd.DataFrame:
    known = plan.known_of[found.area, found.layer]
    named: dict[str, tuple[Any, tuple[str, ...]]] = {
        "type": (found.kind, types.TYPE_NAMES),
        "class": (types.CLASS_OF[found.kind], types.CLASSES),
        "area": (found.area, areas.NAMES),
        "layer": (found.layer, domains.LAYERS),
        "domain": (found.domain, plan.fine),
        "division": (plan.division_of[found.domain], plan.divisions),
        "known_region": (known, plan.known),
        "hidden_border": (plan.hidden_of[known], plan.hidden),
    }
    columns: dict[str, Any] = {
        name: pd.Categorical.from_codes(codes, categories=list(categories))
        for name, (codes, categories) in named.items()
    }
    columns["axis"] = found.axis[:, 0]
    columns["depth"] = found.place[:, 2]
    columns["u_true_mm"], columns["v_true_mm"] = found.place[:, 3], found.place[:, 4]
    return pd.DataFrame(columns)
