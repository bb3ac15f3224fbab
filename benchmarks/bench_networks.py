"""Yeo-7 networks from BigBrain's structure: profiles, layer thicknesses, place, and what one adds to the other.

    python benchmarks/bench_networks.py --data FOLDER --nulls 200 --out runs/bench_networks

FOLDER holds ``surfaces/bigbrain`` and ``surfaces/schaefer400``. Rows with thicknesses need the index of the decimated
vertices beside the surfaces (see `brodmann.datasets.bigbrain_surfaces`); without it they are left out, and said to be.
Every row: balanced accuracy with its interval (bootstrap of blocks of held-out cortex), beside coordinates only in the
strongest of all forms, features and coordinates together, their paired gain, and spins of the labels.
``--out`` also gets the null's distribution and, with the index, the predicted networks of vertices on the inflated
surface, each vertex held out once.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from brodmann.datasets import bigbrain_surfaces as surfaces
from brodmann.errors import Refused
from brodmann.settings import Split
from brodmann.tasks import _null
from brodmann.tasks._spin import Sphere
from brodmann.tasks.networks import networks

SPLITS = {
    "left -> right": Split(by="section", folds=0, fold=1),
    "right -> left": Split(by="section", folds=0, fold=0),
    "blocks": Split(by="block", folds=5, block_mm=30.0, buffer_mm=10.0),
}
COLUMNS = (
    "rows", "features", "split", "n", "units", "features alone [95 %]", "coordinates only", "both", "gain [95 %]",
    "null", "p", "p of gain", "s",
)  # fmt: skip
GAIN = "coordinates + features, gain over coordinates only"
COLOURS = {
    "Vis": "#781286", "SomMot": "#4682b4", "DorsAttn": "#00760e", "SalVentAttn": "#c43afa", "Limbic": "#dcf8a4",
    "Cont": "#e69422", "Default": "#cd3e4e", "": "#d0d0d0",
}  # fmt: skip


def tables(data: Path):
    """Every table there is data for: (what rows are, which features, table)."""
    fine, coarse = data / "surfaces" / "bigbrain", data / "surfaces" / "schaefer400"
    yield "parcels", "profiles", surfaces.parcels(coarse)
    try:
        for features in ("thickness", "both"):
            yield "parcels", features, surfaces.parcels(coarse, features=features, surface=fine)
        yield "vertices", "thickness", surfaces.vertices(fine)
    except Refused as error:
        print(f"without thicknesses: {error.found} {error.do}")


def line(rows: str, features: str, name: str, score, seconds: float) -> list[str]:
    more, null, best = score.more, score.baselines["spatial null"], score.baselines["coordinates only"]
    gain = more[GAIN]
    return [
        rows, features, name, f"{score.n:,}", f"{score.n_groups} {score.cluster}",
        f"{score.value:.3f} [{score.interval[0]:.3f}, {score.interval[1]:.3f}]", f"{best.value:.3f}",
        f"{more['coordinates + features'].value:.3f}", f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
        f"{null.value:.3f} [{null.low:.3f}, {null.high:.3f}]", f"{more['p, features'].value:.3f}",
        f"{more['p, gain over coordinates'].value:.3f}", f"{seconds:.0f}",
    ]  # fmt: skip


def draw_null(table, path: Path, nulls: int) -> None:
    """Distribution under spins, of features and of their gain over smooth functions of place; left to right."""
    sphere = Sphere.of(table)
    left = table.obs["hemisphere"].to_numpy() == "L"
    names, codes = np.unique(table.obs["yeo7"].to_numpy(object).astype(str), return_inverse=True)
    where = np.where(left[:, None], sphere.xyz * [-1, 1, 1], sphere.xyz)
    parts = [(np.flatnonzero(left), np.flatnonzero(~left))]
    found = _null.null(
        np.asarray(table.X), where, codes, parts, _null.maps(table, sphere, where, codes, 0), size=len(names),
        repeats=nulls, seed=0,
    )  # fmt: skip
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    rows = (
        (found.values, found.observed, found.p, "balanced accuracy of profiles"),
        (found.gains, found.observed_gain, found.p_gain, "gain of profiles over place"),
    )
    for axis, (values, observed, p, title) in zip(axes, rows, strict=True):
        axis.hist(values, bins=25, color="0.75")
        axis.axvline(observed, color="#cd3e4e", lw=2)
        axis.set(xlabel=title, ylabel="spins", title=f"p = {p:.3f} ({nulls} spins)")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_map(data: Path, table, said, title: str, path: Path) -> None:
    """True and predicted networks on the inflated surface, lateral and medial, of both hemispheres."""
    home = data / "surfaces" / "bigbrain"
    figure, axes = plt.subplots(2, 4, figsize=(12, 5.2), layout="constrained")
    said = said.reindex(table.obs["id"]).fillna("").to_numpy(object)
    for row, (name, labels) in enumerate((("Yeo-7", table.obs["yeo7"].to_numpy(object)), (title, said))):
        for column, (side, medial) in enumerate((("L", False), ("L", True), ("R", True), ("R", False))):
            xyz, faces = surfaces.mesh(home, side, "inflated")
            mine = labels[table.obs["hemisphere"].to_numpy() == side]
            outward = -1 if (side == "L") != medial else 1
            corners = xyz[faces]
            normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            centre = corners.mean(axis=1)
            if (normal * (centre - xyz.mean(axis=0))).sum() < 0:
                normal = -normal
            length = np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
            light = outward * normal[:, 0] / length
            seen = np.flatnonzero(light > 0)
            seen = seen[np.argsort(outward * centre[seen, 0])]
            votes = mine[faces[seen]]
            face = np.where((votes[:, 1] == votes[:, 2]), votes[:, 1], votes[:, 0])
            colour = np.array([mpl.colors.to_rgb(COLOURS[str(one)]) for one in face])
            flat = np.stack([-outward * corners[..., 1], corners[..., 2]], axis=-1)
            # seen from the left, anterior is at the left
            shade = (0.55 + 0.45 * light[seen])[:, None]
            patches = mpl.collections.PolyCollection(flat[seen] * [-1, 1], facecolors=colour * shade, edgecolors="none")
            patches.set_antialiased(False)
            axis = axes[row, column]
            axis.add_collection(patches)
            axis.autoscale()
            axis.set_aspect("equal")
            axis.axis("off")
            axis.set_title(f"{name}, {side} {'medial' if medial else 'lateral'}", fontsize=8)
    handles = [mpl.patches.Patch(color=colour, label=name or "none") for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nulls", type=int, default=200)
    parser.add_argument("--rows", nargs="*", default=("parcels", "vertices"))
    parser.add_argument("--features", nargs="*", default=("profiles", "thickness", "both"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    print(" | ".join(COLUMNS))
    forms: dict[str, str] = {}
    for rows, features, table in tables(asked.data):
        if rows not in asked.rows or features not in asked.features:
            continue
        said = []
        for name, split in SPLITS.items():
            start = time.perf_counter()
            score = networks(table, "yeo7", split, nulls=asked.nulls)
            print(" | ".join(line(rows, features, name, score, time.perf_counter() - start)), flush=True)
            forms[f"{rows}, {features}, {name}"] = "; ".join(
                [score.baselines["coordinates only"].note, score.baselines["spatial null"].note, score.split]
            )
            if split.by == "section":
                said.append(score.predicted)
        if asked.out:
            asked.out.mkdir(parents=True, exist_ok=True)
            if rows == "parcels" and features == "profiles":
                draw_null(table, asked.out / "null.png", asked.nulls)
            if rows == "vertices":
                import pandas as pd

                draw_map(
                    asked.data, table, pd.concat(said), "six layers of the other side",
                    asked.out / "map.png",
                )  # fmt: skip
    for name, note in forms.items():
        print(f"{name}: {note}")


if __name__ == "__main__":
    main()
