"""Cells per CPU-second: the public CellTransformer, our neighbourhood form, our tile form; and cost against size.

    python benchmarks/bench_cells_speed.py --public CHECKOUT [--repeats 5] [--batch 256] [--threads 1]

Synthetic tissue of 1,500 cells/mm2, 500 genes and 12 types; every row is measured in this process on the same section,
at about 44 neighbours where a form has neighbourhoods. Training is loss, backward and AdamW step; "with reading" also
counts the way from stored counts to batches. CPU-seconds are those of the process; threads that wait for each other
burn them too, so 1 thread is the fairest. The public code runs as it is configured (float32, 32 neighbourhoods at a
time, gradients summed up to --batch); its likelihood is in scvi-tools, for which ours stands in. Without --public its
rows are left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import types
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from brodmann import compute
from brodmann.cells import cache, model, objective
from brodmann.cells.panel import Panel
from brodmann.cells.recipe import Cells, Counts, Neighbourhood, Recipe, Tile
from brodmann.cells.samples import CellSamples
from brodmann.settings import Fit
from brodmann.space import Space

GENES, KINDS, PER_MM2, SECTION = 500, 12, 1500.0, 50_000
BOX_UM = 170.0
DISC_UM = BOX_UM / np.pi**0.5  # the radius of a disc as large as the public code's box


class Anything:
    """Stands in for jaxtyping, which the public code needs for annotations only."""

    def __class_getitem__(cls, _):
        return cls


def tissue(folder: Path, cells: int, rng: np.random.Generator):
    """A source of ``cells`` cells in sections of 50,000; the sections share their counts, not their places."""
    profile = rng.gamma(0.4, 1.0, (KINDS, GENES)) + 0.01
    profile *= 100 / profile.sum(1, keepdims=True)
    size = min(SECTION, cells)
    kind = rng.integers(0, KINDS, size)
    parts = [rng.poisson(profile[kind[at : at + 5000]]).astype(np.uint16) for at in range(0, size, 5000)]
    row, gene, count = [], [], []
    for number, dense in enumerate(parts):
        r, g = np.nonzero(dense)
        row.append(r + 5000 * number)
        gene.append(g.astype(np.uint16))
        count.append(dense[r, g])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(np.concatenate(row), minlength=size))]).astype(np.int64)
    csr = indptr, np.concatenate(gene), np.concatenate(count)
    names = [f"kind{k}" for k in kind]
    side = (size / PER_MM2) ** 0.5 * 1000
    space = Space(name="unregistered", orientation="xyz", extent_mm=(1e3, 1e3, 1e3), origin="", unit="mm")
    with cache.Writer(folder, Panel(tuple(f"gene{i}" for i in range(GENES))), space, name="synthetic") as writer:
        for number in range(-(-cells // size)):
            ids = np.char.add(f"{number}-", np.arange(size).astype("S8").astype(str)).astype(bytes)
            xy = rng.uniform(0, side, (size, 2))
            writer.section(f"s{number:04d}", f"animal{number % 5}" if cells <= size else "animal", ids=ids, xy_um=xy,
                           csr=csr, types=names)  # fmt: skip
        return writer.close()


def measured(work, repeats: int) -> list[float]:
    """Cells per CPU-second of ``work(number) -> cells``, once for each of ``repeats`` after one to warm up."""
    work(0)
    found = []
    for number in range(1, repeats + 1):
        begun = time.process_time()
        cells = work(number)
        found.append(cells / (time.process_time() - begun))
    return found


def public_code(where: str, source, batch: int, repeats: int) -> dict[str, tuple]:
    """Work of the public code: name to (training, embedding), each a function of the step's number."""
    sys.path.insert(0, where)
    if "jaxtyping" not in sys.modules:
        stand_in = types.ModuleType("jaxtyping")
        stand_in.Float = stand_in.Int = Anything
        sys.modules["jaxtyping"] = stand_in
    import anndata
    from celltransformer.data import CenterMaskSampler, collate
    from celltransformer.model import CellTransformer

    rows = np.arange(min(len(source), SECTION))
    names = source.ids(rows)
    table = anndata.AnnData(np.log1p(source.dense(rows).astype(np.float32)), obs=pd.DataFrame(index=names))
    places = pd.DataFrame({
        "cell_label": names, "cell_type": source.types[rows].astype(np.int64), "brain_section_label": "s",
        "x": source.xy_um[rows, 0], "y": source.xy_um[rows, 1],
    })  # fmt: skip
    sampler = CenterMaskSampler(places, table, (BOX_UM, BOX_UM), max_num_cells=250)
    network = CellTransformer(384, 8, 4, 384, 8, 4, cell_cardinality=384, put_device="cpu", n_genes=GENES, bias=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def read(number: int) -> list[dict]:
        chosen = np.random.default_rng(number).choice(len(rows), batch, replace=False)
        return [collate([sampler[i] for i in chosen[at : at + 32]]) for at in range(0, batch, 32)]

    def train(pieces: list[dict]) -> int:
        for piece in pieces:
            found = network(piece)
            head = found["zinb_params"]
            counts = found["hidden_expression"].expm1().round()
            nats = objective.zinb(counts, head["mu"], head["theta"], head["zi_logits"])
            (-nats.mean() / len(pieces)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return batch

    def embed(pieces: list[dict]) -> int:
        with torch.inference_mode():
            for piece in pieces:
                network(piece)
        return batch

    ready = [read(number) for number in range(repeats + 1)]
    seen = np.mean([size for pieces in ready for piece in pieces for size in piece["observed_neighboorhood_lens"]])
    print(f"public code: {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M weights, {seen:.1f} neighbours")
    return {
        "with reading": (lambda number: train(read(number)), lambda number: embed(read(number))),
        "network alone": (lambda number: train(ready[number]), lambda number: embed(ready[number])),
    }


def our_code(name: str, recipe: Recipe, source, repeats: int) -> dict[str, tuple]:
    """Work of one of our forms, likewise; training counts the cells whose counts are predicted."""
    samples = CellSamples(source, recipe)
    network = model.build(recipe, samples)
    samples = network.suit(samples)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def train(batch: dict) -> int:
        network.loss(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return int(batch["hidden"].sum()) if "hidden" in batch else len(batch["index"])

    def read(number: int) -> dict:
        wanted = samples.read_rows if isinstance(recipe.encoder, Tile) else recipe.fit.batch
        first = int(np.random.default_rng(number).integers(0, len(samples) - wanted + 1))
        return samples.read(np.arange(first, first + wanted))

    def embed(batch: dict) -> int:
        with torch.no_grad():
            network.features(batch)
        return len(batch["index"])

    ready, resting = ([one(number) for number in range(repeats + 1)] for one in (samples.batch, read))
    seen = ""
    if "start" in ready[0]:
        around = (np.diff(batch["start"].numpy()).mean() for batch in (*ready, *resting))
        seen = f", {np.mean(list(around)):.1f} neighbours"
    print(f"{name}: {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M weights{seen}")
    return {
        "with reading": (lambda number: train(samples.batch(number)), lambda number: embed(read(number))),
        "network alone": (lambda number: train(ready[number]), lambda number: embed(resting[number])),
    }


def forms(batch: int) -> dict[str, Recipe]:
    """Our rows of the table: the published size, its precision and ours, the tile form at that width and by default."""
    near = Cells(radius_um=DISC_UM, neighbours=250, types=True)
    published = Recipe(
        samples=near, encoder=Neighbourhood(), objective=Counts(likelihood="zinb"), fit=Fit(batch=batch, lr=1e-3)
    )
    return {
        "neighbourhood, 384": published,
        "neighbourhood, 384, float32": replace(published, fit=replace(published.fit, precision="fp32")),
        "tile, 384": Recipe(encoder=Tile(width=384), fit=Fit(batch=2, lr=1e-3)),
        "tile, default": Recipe(),
    }


def side_by_side(given: argparse.Namespace, source) -> list[str]:
    """The table of forms; ratios are to the public code's row of the same kind."""
    work = {}
    if given.public:
        work["public code, 384"] = public_code(given.public, source, given.batch, given.repeats)
    work |= {
        name: our_code(name, recipe, source, given.repeats)
        for name, recipe in forms(given.batch).items()
        if given.forms is None or name in given.forms
    }
    rows = [
        "| form | counted | n | training, cells/CPU-s | x public | embedding, cells/CPU-s | x public |",
        "|---|---|---|---|---|---|---|",
    ]
    base: dict[str, tuple[float, float]] = {}
    for name, kinds in work.items():
        for kind, pair in kinds.items():
            found = [measured(one, given.repeats) for one in pair]
            middle = tuple(statistics.median(rates) for rates in found)
            base.setdefault(kind, middle)
            ratios = [f"{a / b:.1f}" if given.public else "-" for a, b in zip(middle, base[kind], strict=True)]
            shown = [f"{ranged(rates)} | {ratio}" for rates, ratio in zip(found, ratios, strict=True)]
            rows.append(f"| {name} | {kind} | {given.repeats} | {' | '.join(shown)} |")
            print(rows[-1], flush=True)
    return rows


def ranged(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.1f} ({min(values):,.1f}-{max(values):,.1f})"


def flatness(given: argparse.Namespace) -> list[str]:
    """The default recipe's cost per cell in data of growing size, reading counted."""
    rows = [
        "| cells | opening samples, us/cell | training, us/predicted cell | embedding, us/cell | peak memory, GB |",
        "|---|---|---|---|---|",
    ]
    network = None
    for cells in sorted(given.sizes):
        with tempfile.TemporaryDirectory() as folder:
            source = tissue(Path(folder) / "cells", cells, np.random.default_rng(1))
            begun = time.process_time()
            samples = CellSamples(source, Recipe())
            opened = (time.process_time() - begun) / cells
            network = network or model.build(Recipe(), samples)
            samples = network.suit(samples)
            cost = [[1e6 / rate for rate in measured(work, given.repeats)] for work in _work(network, samples)]
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            rows.append(f"| {cells:,} | {opened * 1e6:.2f} | {ranged(cost[0])} | {ranged(cost[1])} | {memory:.1f} |")
            print(rows[-1], flush=True)
    return rows


def _work(network: torch.nn.Module, samples: CellSamples) -> tuple:
    """Training and embedding at random places of some samples."""

    def train(number: int) -> int:
        batch = samples.batch(number)
        network.loss(batch).total.backward()
        network.zero_grad(set_to_none=True)
        return int(batch["hidden"].sum())

    def embed(number: int) -> int:
        size = min(samples.read_rows, len(samples))
        first = int(np.random.default_rng(number).integers(0, len(samples) - size + 1))
        with torch.no_grad():
            return len(network.features(samples.read(np.arange(first, first + size))))

    return train, embed


def machine() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor()
    return f"{name or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", default=os.environ.get("BRODMANN_PEER_CELLTRANSFORMER"))
    parser.add_argument("--batch", type=int, default=256, help="cells of a step of the neighbourhood forms")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=[50_000, 500_000, 5_000_000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--forms", nargs="*", default=None, help="rows to measure; all by default")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    compute.keep_memory()  # as `fit` and `embed` do; for the public code too
    with tempfile.TemporaryDirectory() as folder:
        source = tissue(Path(folder) / "cells", SECTION, np.random.default_rng(0))
        compared = side_by_side(given, source)
    grown = flatness(given) if given.sizes else []
    about = (
        f"{machine()}, {given.threads} thread(s), load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}; {SECTION:,} cells x {GENES} genes, medians and ranges of "
        f"n repeats, steps of {given.batch} cells"
    )
    print("\n".join(["", about, "", *compared, "", *grown]))


if __name__ == "__main__":
    main()
