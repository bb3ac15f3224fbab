"""Synthetic tissue in memory: planted domains that differ in their mixture of cell types, negative-binomial counts."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from brodmann.cells.panel import Panel
from brodmann.cells.source import CellSection
from brodmann.near.neighbours import morton
from brodmann.space import PHANTOM


@dataclass
class Tissue:
    """The attributes of `brodmann.cells.source.Source` that training needs, without files."""

    xy_um: np.ndarray
    xyz_mm: np.ndarray
    counts: np.ndarray
    sections: list
    panel: Panel
    types: np.ndarray
    type_names: tuple
    domain: np.ndarray
    fingerprint: str = "tissue"
    name: str = "tissue"
    space: object = PHANTOM
    skipped: list = field(default_factory=list)

    def __len__(self):
        return len(self.counts)

    @property
    def total_counts(self):
        return self.counts.sum(1).astype(np.uint32)

    @property
    def labels(self):
        return pd.DataFrame({"domain": self.domain.astype(str)})

    def ids(self, rows=slice(None)):
        return [f"c{row}" for row in np.arange(len(self))[rows]]

    def dense(self, rows):
        return self.counts[rows]


def tissue(cells=3000, sections=2, genes=60, types=6, domains=3, seed=0, mean_library=60, per_mm2=1500.0):
    """Square sections of vertical bands; every type lives in every band, only the mixtures differ."""
    rng = np.random.default_rng(seed)
    side = np.sqrt(cells / per_mm2) * 1000
    profile = rng.gamma(0.5, 1.0, (types, genes)) + 0.02
    profile /= profile.sum(1, keepdims=True)
    mixture = rng.dirichlet(np.ones(types), domains)
    parts, rows = [], 0
    for number in range(sections):
        xy = rng.uniform(0, side, (cells, 2)).astype(np.float32)
        xy = xy[morton(xy)]
        band = xy[:, 0] + 0.1 * side * np.sin(xy[:, 1] / side * 6)
        domain = np.clip((band / side * domains).astype(int), 0, domains - 1)
        kind = np.array([rng.choice(types, p=mixture[d]) for d in domain])
        library = rng.gamma(4.0, mean_library / 4.0, cells)
        mean = profile[kind] * library[:, None]
        counts = rng.poisson(mean * rng.gamma(2.0, 0.5, mean.shape)).astype(np.uint16)
        xyz = np.column_stack([xy / 1000, np.full(cells, 0.1 * number, np.float32)]).astype(np.float32)
        section = CellSection(f"s{number}", f"animal {number // 2}", range(rows, rows + cells))
        parts.append((xy, xyz, counts, section, kind, domain))
        rows += cells
    xy, xyz, counts, listed, kind, domain = zip(*parts, strict=True)
    return Tissue(
        np.concatenate(xy), np.concatenate(xyz), np.concatenate(counts), list(listed),
        Panel(tuple(f"gene{i}" for i in range(genes))), np.concatenate(kind).astype(np.int16),
        tuple(f"type{i}" for i in range(types)), np.concatenate(domain),
    )  # fmt: skip
