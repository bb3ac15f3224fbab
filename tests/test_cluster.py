"""k-means and mixtures find what was planted, in any block size, precision, shard or engine."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from brodmann.errors import Refused, Usage
from brodmann.tasks import _cluster, _mixture
from brodmann.tasks._cluster import assign, kmeans
from brodmann.tasks._mixture import gmm


def blobs(n: int, k: int, d: int = 8, seed: int = 0, spread: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    x = spread * rng.standard_normal((k, d))[label] + rng.standard_normal((n, d))
    return x.astype(np.float32), label


def test_planted_clusters_are_found_as_well_as_sklearn_finds_them():
    x, label = blobs(3000, 6)
    found = kmeans(x, 6, n_init=5)
    assert adjusted_rand_score(label, found.labels) > 0.99
    assert found.inertia == pytest.approx(KMeans(6, n_init=5, random_state=0).fit(x).inertia_, rel=1e-3)
    assert found.labels.dtype == np.int32
    assert np.allclose(found.centres[found.labels[5]], x[found.labels == found.labels[5]].mean(axis=0), atol=1e-4)


def test_assignment_is_that_of_all_distances(monkeypatch):
    monkeypatch.setattr(_cluster, "_BLOCK_NUMBERS", 1)
    x, _ = blobs(1000, 5)
    x += 1000
    centres = x[:7]
    distance = ((x[:, None].astype(np.float64) - centres[None]) ** 2).sum(axis=2)
    labels, inertia = assign(x, centres)
    assert (labels == distance.argmin(axis=1)).all()
    assert inertia == pytest.approx(distance.min(axis=1).sum(), rel=1e-4)


def test_the_same_seed_gives_the_same_clusters_and_another_other_ones():
    x, _ = blobs(2000, 3, spread=0.2)
    one, two, other = kmeans(x, 9, seed=1), kmeans(x, 9, seed=1), kmeans(x, 9, seed=2)
    assert (one.labels == two.labels).all()
    assert (one.labels != other.labels).any()


def test_half_precision_rows_are_read_from_disk_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(_cluster, "_BLOCK_NUMBERS", 1 << 16)
    x, label = blobs(60_000, 5, d=32)
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    del x
    tracemalloc.start()
    found = kmeans(mapped, 5, rows_per_centre=None, engine="lloyd", iterations=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert adjusted_rand_score(label, found.labels) > 0.98
    # All rows in float32 would be 7.7 MB; a block is a tenth of that.
    assert peak < 2e6 < mapped.size * 4


def test_centres_learned_from_a_sample_serve_all_rows():
    x, label = blobs(50_000, 5)
    before = x.copy()
    found = kmeans(x, 5, rows_per_centre=100)
    assert (x == before).all()
    assert adjusted_rand_score(label, found.labels) > 0.99


def test_bfloat16_iterations_end_where_float32_ones_do(monkeypatch):
    x, label = blobs(4000, 6, d=16)
    plain = kmeans(x, 6, n_init=3, rows_per_centre=None, engine="lloyd")
    monkeypatch.setattr(_cluster, "_HALF_ROWS", 10)
    monkeypatch.setattr(_cluster, "_has_bfloat16", lambda place: True)
    half = kmeans(x, 6, n_init=3, rows_per_centre=None, engine="lloyd")
    assert half.inertia == pytest.approx(plain.inertia, rel=2e-3)
    assert adjusted_rand_score(label, half.labels) > 0.99


def test_empty_clusters_are_put_to_use():
    x, _ = blobs(2000, 6)
    # Half of the starts lie where no row is near.
    start = torch.from_numpy(np.concatenate([x[:3], x[:3] + 1000]))
    _, centres = _cluster._lloyd(x, start, 4)
    labels, _ = assign(x, centres.numpy())
    assert (np.bincount(labels, minlength=6) > 0).all()


def test_faiss_and_our_own_agree():
    pytest.importorskip("faiss", reason="faiss is not installed")
    x, label = blobs(30_000, 8)
    ours, theirs = (kmeans(x, 8, n_init=2, rows_per_centre=None, engine=engine) for engine in ("lloyd", "faiss"))
    assert theirs.by == "faiss"
    assert (x == blobs(30_000, 8)[0]).all()
    assert theirs.inertia == pytest.approx(ours.inertia, rel=1e-2)
    assert adjusted_rand_score(label, theirs.labels) > 0.98


def test_without_faiss_our_own_takes_over_and_says_so(monkeypatch):
    monkeypatch.setattr(_cluster, "find_spec", lambda name: None)
    x, _ = blobs(21_000, 3, d=4)
    assert "faiss is not installed" in kmeans(x, 3, rows_per_centre=None, iterations=3).by
    with pytest.raises(Usage, match="faiss"):
        kmeans(x, 3, engine="faiss")


def test_wrong_rows_are_refused():
    x, _ = blobs(50, 3)
    with pytest.raises(Refused, match="at least as many rows"):
        kmeans(x, 51)
    x[7, 2] = np.nan
    with pytest.raises(Refused, match="finite"):
        kmeans(x, 3)
    with pytest.raises(Refused, match="finite"):
        gmm(x, 3)


SHARDS = """
import sys, numpy as np
from brodmann import compute
from brodmann.tasks._cluster import kmeans
with compute.team():
    x = np.load(sys.argv[1])
    cut = 700
    mine = x[:cut] if compute.rank() == 0 else x[cut:]
    found = kmeans(mine, 6, n_init=4, rows_per_centre=None)
    np.savez(f"{sys.argv[2]}/{compute.rank()}.npz", labels=found.labels, centres=found.centres, inertia=found.inertia)
"""


def test_two_processes_cluster_as_one(tmp_path: Path):
    x, label = blobs(3000, 6)
    np.save(tmp_path / "x.npy", x)
    with __import__("socket").socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SHARDS, str(tmp_path / "x.npy"), str(tmp_path)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        assert [run.wait(timeout=120) for run in runs] == [0, 0]
    finally:
        for run in runs:
            run.kill()
    one, two = (np.load(tmp_path / f"{rank}.npz") for rank in range(2))
    assert (one["centres"] == two["centres"]).all()
    assert len(one["labels"]) == 700
    assert adjusted_rand_score(label, np.concatenate([one["labels"], two["labels"]])) > 0.99
    assert float(one["inertia"]) == pytest.approx(kmeans(x, 6, n_init=4).inertia, rel=1e-3)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_mixtures_are_as_likely_as_sklearns(covariance, monkeypatch):
    monkeypatch.setattr(_mixture, "_BLOCK", 300)
    rng = np.random.default_rng(0)
    x, label = blobs(1500, 4, d=5, seed=3, spread=5)
    x = x @ (np.eye(5) + 0.3 * rng.standard_normal((5, 5))).astype(np.float32)
    ours = gmm(x, 4, covariance=covariance)
    theirs = GaussianMixture(4, covariance_type=covariance, n_init=5, random_state=0).fit(x)
    assert ours.log_likelihood > theirs.score(x) - 0.02
    assert adjusted_rand_score(label, ours.labels) > 0.9
    assert (ours.predict(x) == ours.labels).mean() > 0.995


def test_neighbours_heal_what_noise_breaks():
    side = 40
    i, j = np.divmod(np.arange(side * side), side)
    truth = (j >= side // 2).astype(int)
    x = truth[:, None] + np.random.default_rng(0).standard_normal((side * side, 2))
    shift = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])
    place = np.stack([i, j], axis=1)[:, None] + shift
    inside = ((place >= 0) & (place < side)).all(axis=2)
    near = np.where(inside, place[..., 0] * side + place[..., 1], -1)
    alone = gmm(x, 2, covariance="tied")
    healed = gmm(x, 2, covariance="tied", neighbours=near, beta=3.0)
    assert adjusted_rand_score(truth, alone.labels) < 0.5
    assert adjusted_rand_score(truth, healed.labels) > 0.75
    assert adjusted_rand_score(truth, alone.predict(x, near, beta=3.0)) > 0.6
