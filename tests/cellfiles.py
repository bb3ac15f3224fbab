"""Cells as the files that users have hold them, and what should come out when they are read."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from brodmann.cells import source
from brodmann.cells.readers import Stated
from brodmann.cells.recipe import Recipe
from brodmann.progress import Say

GENES = [f"Gene{i}" for i in range(12)]
QUIET = Say(quiet=True)


def cells(n=200, *, sections=("s1", "s2"), subject="m1", seed=0, shuffle=True, genes=GENES):
    """An AnnData of cells about 10 um apart, several sections in one."""
    rng = np.random.default_rng(seed)
    total = n * len(sections)
    side = int(np.ceil(np.sqrt(n)))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:n] * 10.0
    xy = np.concatenate([grid + rng.uniform(-2, 2, grid.shape) for _ in sections])
    counts = rng.poisson(0.8, (total, len(genes)))
    obs = pd.DataFrame(
        {
            "section": pd.Categorical(np.repeat(sections, n)),
            "subject": pd.Categorical([subject] * total),
            "cell_type": pd.Categorical(rng.choice(["A", "B", "C"], total)),
            "layer": pd.Categorical(rng.choice(["L1", "L5"], total), categories=["L5", "L1"]),
            "volume": rng.uniform(100, 900, total),
        },
        index=[f"{subject}-{seed}-{i}" for i in range(total)],
    )
    data = anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=list(genes)))
    data.obsm["spatial"] = xy
    return data[rng.permutation(total)].copy() if shuffle else data


def read(data, **stated):
    return source.open(Recipe(), data, stated=Stated(**stated) if stated else None, say=QUIET)


def frame(found):
    """All that is known of each cell, by name."""
    table = pd.DataFrame(found.dense(slice(None)), index=found.ids(), columns=list(found.panel.genes))
    table["x"], table["y"] = np.asarray(found.xy_um).T
    table["section"] = [s.id for s in found.sections for _ in s.rows]
    table["subject"] = [s.subject for s in found.sections for _ in s.rows]
    return table.sort_index()


def truth(data, gene_order=GENES):
    table = pd.DataFrame(np.asarray(sp.csr_matrix(data.X).todense()), index=data.obs_names, columns=data.var_names)
    table = table[list(gene_order)].astype(np.uint16)
    table["x"], table["y"] = data.obsm["spatial"].astype(np.float32).T
    table["section"], table["subject"] = data.obs["section"].astype(str), data.obs["subject"].astype(str)
    return table.sort_index()


def same(found, data, **how):
    pd.testing.assert_frame_equal(frame(found), truth(data, **how), check_names=False)
