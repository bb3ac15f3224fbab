"""Published peers for tissue domains, run beside ours on the three real sets of `bench_domains.py`.

    python benchmarks/bench_peers.py --data FOLDER/cells --python PEERS/bin/python [--public CELLTRANSFORMER]

Peers live in an environment of their own: each is started in that interpreter by `peers.py`, gets a set as one h5ad
file (counts, places in um, section, types where the set has them; never the layer) and the true number of domains,
and gives labels back. Those that are not there are named, those that fail are shown with their last line. Prints
Markdown: adjusted Rand index with the layer over the labelled cells, mean and sd over seeds; seconds of the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import anndata as ad
import numpy as np
import pandas as pd
from bench_domains import SETS, counts, table
from peers import PEERS
from scipy.sparse import csr_matrix

import brodmann
from brodmann import cells
from brodmann.tasks import _agreement
from brodmann.tasks.domains import domains

NAMES = {
    "banksy": "BANKSY",
    "cellcharter": "CellCharter, PCA",
    "cellcharter-scvi": "CellCharter, scVI",
    "mender": "MENDER",
    "graphst": "GraphST",
    "celltransformer": "CellTransformer",
}


def written(sections: list[ad.AnnData], file: Path) -> ad.AnnData:
    """What peers are given of a set; rows as in our table, and the layer in what is returned alone."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"BRODMANN_CACHE": folder}):
        with contextlib.redirect_stderr(io.StringIO()):
            source = cells.open(cells.Recipe(), ad.concat(sections))
        samples = cells.samples(source, cells.Recipe())
        rows = np.arange(len(source))
        obs = pd.concat([samples.places, samples.labels], axis=1).set_index("id")
        obs.index.name = None
        layer = obs["layer"].astype(object).to_numpy()
        given = pd.DataFrame({"section": pd.Categorical(obs["section"].astype(str))}, index=obs.index)
        if source.types is not None:
            names = np.array([*source.type_names, "unknown"])
            given["type"] = pd.Categorical(names[np.asarray(source.types[rows])])
        var = pd.DataFrame(index=list(source.panel.genes))
        dense = source.dense(rows).astype(np.float32)
        where = np.array(source.xy_um[rows], dtype=np.float64)
    peers = ad.AnnData(X=csr_matrix(dense), obs=given, var=var, obsm={"spatial": where})
    peers.write_h5ad(file)
    peers.obs["layer"] = layer
    return peers


def agreement(layer: np.ndarray, labels: np.ndarray) -> float:
    """Adjusted Rand index over the cells that have a layer."""
    truth, _ = pd.factorize(layer)
    said, _ = pd.factorize(labels)
    return _agreement.ari(truth[truth >= 0].astype(np.int64), said[truth >= 0].astype(np.int64))


def started(peer: str, file: Path, folder: Path, k: int, asked: argparse.Namespace) -> str:
    """Run one peer on one set; nothing if all went well, else why it did not."""
    runner = [str(asked.python), str(Path(__file__).with_name("peers.py")), peer, str(file), str(folder)]
    runner += ["--k", str(k), "--seeds", str(asked.seeds), "--budget", str(asked.budget)]
    if peer in asked.checkout:
        runner += ["--checkout", asked.checkout[peer]]
    # A path that was set for our interpreter would bring its packages into theirs.
    given = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"MPLBACKEND": "Agg"}
    try:
        ended = subprocess.run(runner, capture_output=True, text=True, check=False, timeout=asked.limit, env=given)
    except subprocess.TimeoutExpired:
        return f"stopped after {asked.limit:.0f} s"
    except OSError as failure:
        return str(failure)
    said = [line for line in ended.stderr.splitlines() if line.strip()] or [f"exit status {ended.returncode}"]
    if ended.returncode == 3:
        return said[-1]
    return f"failed: {said[-1].strip()[:200]}" if ended.returncode else ""


def results(folder: Path, layer: np.ndarray) -> Iterator[tuple[str, list[float], list[int], float]]:
    """Each row that a peer has written: its name, agreement and number of domains of each seed, seconds of all."""
    about = folder / "about.json"
    for row, seconds in json.loads(about.read_text())["seconds"].items() if about.exists() else ():
        said = [np.load(folder / f"{row}.{seed}.npy") for seed in range(len(seconds))]
        yield row, [agreement(layer, one) for one in said], [int(one.max()) + 1 for one in said], sum(seconds)


def cell(values: list[float], found: list[int], k: int, asked: argparse.Namespace) -> str:
    """One field of the table of agreement."""
    other = f", {min(found)}-{max(found)} domains" if {*found} != {k} else ""
    fewer = f", n {len(values)}" if len(values) != asked.seeds else ""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}{other}{fewer}"


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter that has the peers")
    options.add_argument("--public", default=os.environ.get("BRODMANN_PEER_CELLTRANSFORMER"),
                         help="checkout of the public CellTransformer")  # fmt: skip
    options.add_argument(
        "--checkout", nargs="*", default=[], metavar="PEER=FOLDER", help="instead of what is installed"
    )
    options.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    options.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--budget", type=float, default=150, help="CPU-seconds of training of the CellTransformer")
    options.add_argument("--limit", type=float, default=3600, help="seconds for one peer and set")
    asked = options.parse_args()
    asked.checkout = dict(one.split("=", 1) for one in asked.checkout)
    if asked.public:
        asked.checkout["celltransformer"] = asked.public
    return asked


def main() -> None:
    asked = arguments()
    warnings.filterwarnings("ignore")
    agreed: dict[str, dict[str, str]] = {}
    seconds: dict[str, dict[str, str]] = {}
    abouts: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, name in enumerate(asked.sets):
            begun = time.process_time()
            sections = [counts(asked.data / f"{file}.h5ad") for file in SETS[name]]
            score = domains(table(sections), target="layer", seeds=asked.seeds, compare=False).score
            used = time.process_time() - begun
            row, k = f"brodmann {brodmann.__version__}, default path", len(score.classes)
            sd = score.more["sd of ARI over seeds"].value
            agreed.setdefault(row, {})[name] = f"{score.value:.3f} ± {sd:.3f}"
            seconds.setdefault(row, {})[name] = f"{used:.0f}"
            file = Path(temporary) / f"{number}.h5ad"
            layer = written(sections, file).obs["layer"].to_numpy()
            labelled = pd.notna(layer)
            if labelled.sum() != score.n or len({*layer[labelled]}) != k:
                raise SystemExit(f"{name}: {labelled.sum()} labelled cells are given to peers, ours has {score.n}")
            print(f"{name}: {len(layer):,} cells, {score.n:,} labelled, k {k}", flush=True)
            for peer in asked.peers:
                folder = Path(temporary) / f"{number}-{peer}"
                why = started(peer, file, folder, k, asked)
                if (folder / "about.json").exists():
                    about = json.loads((folder / "about.json").read_text())
                    abouts[f"{NAMES[peer]} {about['version']}"] = about["settings"]
                if why:
                    agreed.setdefault(NAMES[peer], {})[name] = why
                    print(f"  {NAMES[peer]}: {why}", flush=True)
                for row, values, found, used in results(folder, layer):
                    agreed.setdefault(row, {})[name] = cell(values, found, k, asked)
                    seconds.setdefault(row, {})[name] = f"{used:.0f}"
                    print(f"  {row}: {agreed[row][name]}; {used:.0f} CPU-s", flush=True)
    about = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"\n{time.strftime('%Y-%m-%d')}, {about}, OMP_NUM_THREADS {threads}; {asked.seeds} seeds.")
    for title, rows in (("adjusted Rand index", agreed), (f"CPU-s, {asked.seeds} seeds together", seconds)):
        print(f"\n| {title} | " + " | ".join(asked.sets) + " |\n|---|" + "---|" * len(asked.sets))
        for row, shown in rows.items():
            print(f"| {row} | " + " | ".join(shown.get(name, "-") for name in asked.sets) + " |")
    print("\nSettings, one for all sets:\n" + "".join(f"\n- {peer}. {text}" for peer, text in abouts.items()))


if __name__ == "__main__":
    main()
