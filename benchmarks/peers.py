"""One published peer on one set, in the interpreter where that peer is installed; `bench_peers.py` starts it.

    python benchmarks/peers.py banksy SET.h5ad FOLDER --k 7 --seeds 5 [--checkout FOLDER]

SET.h5ad has counts in X, places in um in obsm["spatial"], and `section`, perhaps `type`, in obs. Labels of each seed
are written to FOLDER as ROW.SEED.npy, what was done to FOLDER/about.json. Nothing of brodmann is imported here. Exit
status 3: the peer is not installed. Settings are those that the peer's own pages give, the same for every set; each
function's own text says them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import anndata as ad
import numpy as np

Labels = Iterator[tuple[str, int, np.ndarray]]  # row of the table, seed, labels (n,)
BOX_UM = 170  # of CellTransformer: 17 units of 10 um in its configuration for the Allen data


def seeded(seed: int) -> None:
    """Peers draw from numpy's one hidden generator."""
    np.random.seed(seed)  # noqa: TID251


def apart(table: ad.AnnData) -> np.ndarray:
    """Places with sections side by side, further from each other than any neighbour: (n, 2)."""
    where = np.asarray(table.obsm["spatial"], dtype=np.float64).copy()
    at = 0.0
    for name in table.obs["section"].cat.categories:
        rows = (table.obs["section"] == name).to_numpy()
        where[rows] += (at - where[rows, 0].min(), 0)
        at = where[rows, 0].max() + 1000
    return where


def normalised(table: ad.AnnData, components: int) -> ad.AnnData:
    """Logarithm of counts per 10,000 and its principal components, as scanpy's tutorials have it."""
    import scanpy as sc

    new = table.copy()
    new.layers["counts"] = new.X.copy()
    sc.pp.normalize_total(new, target_sum=1e4)
    sc.pp.log1p(new)
    sc.pp.pca(new, n_comps=components, random_state=0)
    return new


def kinds(table: ad.AnnData) -> np.ndarray:
    """Types of cells as they are given, or clusters of expression (Leiden, resolution 2)."""
    if "type" in table.obs:
        return table.obs["type"].astype(str).to_numpy()
    import scanpy as sc

    new = normalised(table, 50)
    sc.pp.neighbors(new)
    sc.tl.leiden(new, resolution=2, random_state=0)
    return new.obs["leiden"].astype(str).to_numpy()


def banksy(table: ad.AnnData, k: int, seeds: int, asked: argparse.Namespace) -> Labels:
    """BANKSY by its Python package.

    Notebook DLPFC_concatenate_multisample (normalize_total; a matrix of each section by itself, all put together, 20
    components) with the settings of notebook starmap_analysis, which are those for domains (lambda 0.8, k_geom 15,
    AGF, scaled Gaussian); Leiden at the resolution its own search finds for k, labels not refined.
    """
    import scanpy as sc
    from banksy.cluster_methods import run_Leiden_partition
    from banksy.embed_banksy import generate_banksy_matrix
    from banksy.initialize_banksy import initialize_banksy
    from banksy_utils.umap_pca import pca_umap

    parts = []
    for name in table.obs["section"].cat.categories:
        part = table[table.obs["section"] == name].copy()
        sc.pp.normalize_total(part)
        part.obs["x"], part.obs["y"] = part.obsm["spatial"].T
        drawn = dict.fromkeys(("plt_edge_hist", "plt_nbr_weights", "plt_agf_angles", "plt_theta"), False)
        graph = initialize_banksy(part, ("x", "y", "spatial"), 15, nbr_weight_decay="scaled_gaussian", max_m=1, **drawn)
        graph, _ = generate_banksy_matrix(part, graph, [0.8], max_m=1, verbose=False)
        parts.append(graph["scaled_gaussian"][0.8]["adata"])
    joint = ad.concat(parts)[table.obs_names].copy()
    for seed in range(seeds):
        seeded(seed)
        given = {"scaled_gaussian": {0.8: {"adata": joint.copy()}}}
        pca_umap(given, pca_dims=[20], plt_remaining_var=False)
        found, _ = run_Leiden_partition(given, [], max_labels=k, partition_seed=seed, match_labels=False)
        yield "BANKSY", seed, np.asarray(found["labels"].iloc[0].dense)


def cellcharter(table: ad.AnnData, k: int, seeds: int, asked: argparse.Namespace) -> Labels:
    """CellCharter on principal components.

    Its tutorial of CosMx lung cancer (Delaunay graph of each section, long links removed, 3 rings, tl.Cluster), but 10
    principal components of log counts for scVI's latent space, as many as that has by default.
    """
    yield from ringed(table, k, seeds, lambda new, seed: new.obsm["X_pca"], "CellCharter, PCA")


def cellcharter_scvi(table: ad.AnnData, k: int, seeds: int, asked: argparse.Namespace) -> Labels:
    """CellCharter on scVI.

    Its tutorial of CosMx lung cancer: scVI on counts, a batch for each section, early stopping; then the same.
    """
    import scvi

    def latent(new: ad.AnnData, seed: int) -> np.ndarray:
        scvi.settings.seed = seed
        scvi.model.SCVI.setup_anndata(new, layer="counts", batch_key="section")
        model = scvi.model.SCVI(new)
        model.train(early_stopping=True, accelerator="cpu", enable_progress_bar=False)
        return model.get_latent_representation(new).astype(np.float32)

    yield from ringed(table, k, seeds, latent, "CellCharter, scVI")


def ringed(table: ad.AnnData, k: int, seeds: int, embed: Callable[..., np.ndarray], row: str) -> Labels:
    """CellCharter's rings and mixture on an embedding."""
    import cellcharter as cc
    import squidpy as sq
    import torch

    new = normalised(table, 10)
    sq.gr.spatial_neighbors(new, library_key="section", coord_type="generic", delaunay=True)
    cc.gr.remove_long_links(new)
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    for seed in range(seeds):
        new.obsm["embedding"] = embed(new, seed)
        cc.gr.aggregate_neighbors(new, n_layers=3, use_rep="embedding", out_key="rings", sample_key="section")
        torch.manual_seed(seed)
        seeded(seed)
        mixture = cc.tl.Cluster(n_clusters=k, random_state=seed, trainer_params=trainer)
        mixture.fit(new, use_rep="rings")
        yield row, seed, np.asarray(mixture.predict(new, use_rep="rings"))


def mender(table: ad.AnnData, k: int, seeds: int, asked: argparse.Namespace) -> Labels:
    """MENDER on several sections.

    Tutorial of MERFISH: 6 scales of 15 um, run_clustering_normal at the resolution its own search finds for k; types
    as given, else Leiden at resolution 2 of all sections together.
    """
    import MENDER

    new = table.copy()
    new.obs["ct"] = kinds(table)
    new.obs["ct"] = new.obs["ct"].astype("category")
    for seed in range(seeds):
        model = MENDER.MENDER(new, batch_obs="section", ct_obs="ct", random_seed=seed)
        model.prepare()
        model.set_MENDER_para(n_scales=6, nn_mode="radius", nn_para=15)
        model.run_representation()
        model.adata_MENDER = ad.concat(model.adata_MENDER_list)
        model.run_clustering_normal(k)
        yield "MENDER", seed, model.adata_MENDER.obs["MENDER"].astype(str)[new.obs_names].to_numpy()


def graphst(table: ad.AnnData, k: int, seeds: int, asked: argparse.Namespace) -> Labels:
    """GraphST on all sections in one table.

    Tutorials 1 and 4: defaults (600 epochs), 20 components, labels not refined; sections lie side by side, not
    aligned. For mclust EEE, which needs R, the same model (Gaussians of one covariance) by scikit-learn, 10 starts.
    """
    import torch
    from GraphST import GraphST
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    new = table.copy()
    new.obsm["spatial"] = apart(table)
    for seed in range(seeds):
        learned = GraphST.GraphST(new, device=torch.device("cpu"), random_seed=seed).train()
        small = PCA(n_components=20, random_state=42).fit_transform(learned.obsm["emb"])
        mixture = GaussianMixture(k, covariance_type="tied", n_init=10, random_state=seed)
        yield "GraphST", seed, mixture.fit_predict(small.astype(np.float64))


def celltransformer(table: ad.AnnData, k: int, seeds: int, asked: argparse.Namespace) -> Labels:
    """The public CellTransformer, trained small.

    Network of its README (384 wide, 4 + 4 layers), boxes of 170 um, batches of 32, Adam 1e-4; one network for each set,
    so that seeds are those of k-means (3 starts, as scripts/cluster.py) on its embedding, plain or smoothed as
    scripts/smooth.py does (500 neighbours; 40 um full width at half maximum, the paper's); types as given, else Leiden
    at resolution 2.
    """
    if "jaxtyping" not in sys.modules and importlib.util.find_spec("jaxtyping") is None:
        anything = type("Anything", (), {"__class_getitem__": classmethod(lambda cls, _: cls)})
        sys.modules["jaxtyping"] = types.ModuleType("jaxtyping")
        sys.modules["jaxtyping"].Float = sys.modules["jaxtyping"].Int = anything
    import pandas as pd
    import torch
    from celltransformer.data import CenterMaskSampler, collate
    from celltransformer.model import CellTransformer
    from scipy.spatial import KDTree
    from scvi.distributions import ZeroInflatedNegativeBinomial
    from sklearn.cluster import KMeans

    torch.manual_seed(0)
    kind = np.unique(kinds(table), return_inverse=True)[1]
    where = np.asarray(table.obsm["spatial"], dtype=np.float64)
    section = table.obs["section"].astype(str).to_numpy()
    about = {"cell_label": table.obs_names, "cell_type": kind, "brain_section_label": section}
    places = pd.DataFrame({**about, "x": where[:, 0], "y": where[:, 1]})
    expression = ad.AnnData(np.log1p(table.X.toarray().astype(np.float32)), obs=pd.DataFrame(index=table.obs_names))
    reads = CenterMaskSampler(places, expression, (BOX_UM, BOX_UM), max_num_cells=250)
    size = {"cell_cardinality": 384, "put_device": "cpu", "n_genes": table.n_vars, "bias": True}
    network = CellTransformer(384, 8, 4, 384, 8, 4, **size)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    draw, begun = np.random.default_rng(0), time.process_time()
    while time.process_time() - begun < asked.budget:
        found = network(collate([reads[i] for i in draw.choice(len(places), 32, replace=False)]))
        counts = found["hidden_expression"].expm1().round()
        loss = -ZeroInflatedNegativeBinomial(**found["zinb_params"]).log_prob(counts).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        batches = [range(at, min(at + 32, len(places))) for at in range(0, len(places), 32)]
        found = [network(collate([reads[i] for i in rows])) for rows in batches]
        embedding = np.concatenate([one["neighborhood_repr"] for one in found])
    smooth, sigma = np.empty_like(embedding), 40 / math.sqrt(8 * math.log(2))
    for name in np.unique(section):
        rows = np.flatnonzero(section == name)
        far, near = KDTree(where[rows]).query(where[rows], k=min(500, len(rows)))
        weight = np.exp(-(far**2) / (2 * sigma**2))
        weight /= weight.sum(axis=1, keepdims=True)
        smooth[rows] = [share @ embedding[rows[one]] for share, one in zip(weight, near, strict=True)]
    for row, given in (("CellTransformer, raw", embedding), ("CellTransformer, smoothed", smooth)):
        for seed in range(seeds):
            yield row, seed, KMeans(k, n_init=3, random_state=seed).fit_predict(given)


# Name: what runs it, its distribution, and what must be importable for it.
PEERS: dict[str, tuple[Callable[..., Labels], str, tuple[str, ...]]] = {
    "banksy": (banksy, "pybanksy", ("banksy", "banksy_utils")),
    "cellcharter": (cellcharter, "cellcharter", ("cellcharter",)),
    "cellcharter-scvi": (cellcharter_scvi, "cellcharter", ("cellcharter", "scvi")),
    "mender": (mender, "SOMENDER", ("MENDER",)),
    "graphst": (graphst, "GraphST", ("GraphST", "ot")),
    "celltransformer": (celltransformer, "celltransformer", ("celltransformer", "scvi")),
}


def version(distribution: str, checkout: Path | None) -> str:
    """Of what is installed, or the commit of a checkout."""
    if checkout is None:
        return metadata.version(distribution)
    asked = ["git", "-C", str(checkout), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "a folder"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("peer", choices=PEERS)
    options.add_argument("table", type=Path)
    options.add_argument("folder", type=Path)
    options.add_argument("--k", type=int, required=True)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--checkout", type=Path)
    options.add_argument("--budget", type=float, default=150, help="CPU-seconds of training where a peer has no end")
    asked = options.parse_args()
    warnings.filterwarnings("ignore")
    run, distribution, needed = PEERS[asked.peer]
    if asked.checkout:
        sys.path[:0] = [str(asked.checkout), str(asked.checkout / "src")]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        raise SystemExit(3)
    asked.folder.mkdir(parents=True, exist_ok=True)
    settings = " ".join(run.__doc__.split("\n\n")[1].split())
    about: dict = {"version": version(distribution, asked.checkout), "settings": settings}
    seconds, begun = about.setdefault("seconds", {}), time.process_time()
    for row, seed, labels in run(ad.read_h5ad(asked.table), asked.k, asked.seeds, asked):
        # What is common to all seeds (a graph, one network) counts with the first.
        seconds.setdefault(row, []).append(time.process_time() - begun)
        np.save(asked.folder / f"{row}.{seed}.npy", np.unique(labels, return_inverse=True)[1])
        (asked.folder / "about.json").write_text(json.dumps(about))
        begun = time.process_time()


if __name__ == "__main__":
    main()
