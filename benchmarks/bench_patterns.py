"""Macaque V1: three neurons in one network with a shared core, against ridge regression and boosted trees of each.

    python benchmarks/bench_patterns.py --data FOLDER/neurons/macaque_v1 [--splits random,last] [--seeds 2]

The network sees whole patterns of 160 x 160 px and predicts the mean of its streams. Boosted trees see 20 x 20 grey
values, as the files give them, and in a row of its own the mean of trees drawn with several seeds is judged as well;
ridge regression sees those and, in a row of its own, patterns averaged over 4 x 4 px. Networks of several seeds are
judged one by one. Prints Markdown: correlation with the responses as the files give them, on 1,900 patterns, drawn at
random or the last in order.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from bench_retina import correlation, trained, untrained
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

import brodmann
from brodmann import neurons
from brodmann.datasets import macaque
from brodmann.neurons.model import NeuronModel
from brodmann.neurons.recipe import Clips, Network, Recipe
from brodmann.neurons.samples import NeuronSamples, clips
from brodmann.neurons.source import Source
from brodmann.samples import stream
from brodmann.settings import Fit

NETWORK = Network(
    perspective=False,
    modulation=0,
    input_kernel=16,
    input_stride=8,
    channels=(16, 32, 64),
    pools=(2, 1, 1),
    layers=2,
    outputs=64,
)
"""The first map reads squares of 16 px, 8 px apart."""
STRENGTHS = (1e4, 1e5, 3e5, 1e6, 3e6)
LEAVES, ROUNDS, FORESTS = (15, 31), 500, 4
"""Of boosted trees; each round sees a fifth of the features, drawn anew for each of several forests."""


def recipe_of(seed: int, steps: int, streams: int) -> Recipe:
    """Streams are trained in turn, so each gets ``steps``."""
    side = macaque.SIDE_PX
    return Recipe(
        samples=Clips(rate_hz=macaque.RATE_HZ, height_px=side, width_px=side, frames=1, burn_in=0),
        encoder=dataclasses.replace(NETWORK, streams=streams),
        fit=Fit(steps=steps * streams, batch=64, lr=4e-3, warmup_steps=50, weight_decay=0.1),
        seed=seed,
    )


def taught(source: Source) -> Source:
    """The validation patterns teach, too, as they teach the rivals: nothing is chosen by them here."""
    recording = source.recordings[0]
    part = recording.trials["part"].replace("valid", "train")
    recording = dataclasses.replace(recording, trials=recording.trials.assign(part=part))
    return dataclasses.replace(source, recordings=[recording], fingerprint=f"{source.fingerprint} taught")


def views(folder: Path) -> dict[str, NDArray[np.float32]]:
    """What rivals may see of every pattern, a row each."""
    whole = macaque.patterns(folder).reshape(macaque.SHOWN, 40, 4, 40, 4).mean((2, 4), dtype=np.float32)
    return {"20 x 20": macaque.small(folder).reshape(macaque.SHOWN, -1).astype(np.float32),
            "40 x 40": whole.reshape(macaque.SHOWN, -1)}  # fmt: skip


def linear(x: NDArray[np.float32], y: NDArray[np.float64], at: dict[str, NDArray[np.int64]]) -> NDArray[np.float64]:
    """Ridge regression of all patterns; strength chosen on the validation patterns, taught by both other parts."""
    scores: list[float] = []
    for strength in STRENGTHS:
        guess = Ridge(strength).fit(x[at["train"]], y[at["train"]]).predict(x[at["valid"]])
        scores.append(float(correlation(guess, y[at["valid"]]).mean()))
    taught = np.concatenate([at["train"], at["valid"]])
    return Ridge(STRENGTHS[int(np.argmax(scores))]).fit(x[taught], y[taught]).predict(x)


def boosted(
    x: NDArray[np.float32], y: NDArray[np.float64], at: dict[str, NDArray[np.int64]]
) -> tuple[list[NDArray[np.float64]], list[str]]:
    """Boosted trees of one neuron after another, drawn several times; leaves chosen on the validation patterns."""
    predictions, said = [np.zeros_like(y) for _ in range(FORESTS)], list[str]()
    taught = np.concatenate([at["train"], at["valid"]])
    for column, unit in enumerate(macaque.UNITS):
        scores: list[float] = []
        for leaves in LEAVES:
            guess = _trees(leaves).fit(x[at["train"]], y[at["train"], column]).predict(x[at["valid"]])
            scores.append(float(correlation(guess[:, None], y[at["valid"], column][:, None])[0]))
        leaves = LEAVES[int(np.argmax(scores))]
        for seed, one in enumerate(predictions):
            one[:, column] = _trees(leaves, seed).fit(x[taught], y[taught, column]).predict(x)
        said.append(f"{leaves} leaves for {unit}")
    return predictions, said


def _trees(leaves: int, seed: int = 0) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        max_iter=ROUNDS,
        learning_rate=0.05,
        max_leaf_nodes=leaves,
        l2_regularization=1.0,
        max_features=0.2,
        random_state=seed,
    )


def predicted(model: NeuronModel, samples: NeuronSamples) -> NDArray[np.float64]:
    """Rates (`macaque.SHOWN`, 3) to the test patterns; NaN elsewhere."""
    kept = samples.kept[0]
    found = np.full((macaque.SHOWN, len(kept.columns)), np.nan)
    for clip in clips(kept.recording, "test"):
        found[clip.frame] = model.predict(kept, clip)[0]
    return found


def gain(
    some: list[NDArray[np.float64]], rivals: list[NDArray[np.float64]], y: NDArray[np.float64], draws: int = 1000
) -> str:
    """How much higher the mean correlation of the networks is than that of rivals, paired over draws of patterns."""
    rows = stream(0, "bench_patterns").integers(len(y), size=(draws, len(y)))

    def ahead(at: NDArray[np.int64] | slice) -> float:
        own, other = (np.mean([correlation(one[at], y[at]).mean() for one in each]) for each in (some, rivals))
        return float(own - other)

    low, high = np.quantile([ahead(one) for one in rows], (0.025, 0.975))
    return f"{ahead(slice(None)):+.3f} [{low:+.3f}, {high:+.3f}]"


def interval(p: NDArray[np.float64], y: NDArray[np.float64], draws: int = 1000) -> tuple[float, float]:
    """95 % interval of a correlation over patterns, which are drawn with replacement."""
    rng = stream(0, "bench_patterns")
    rows = rng.integers(len(y), size=(draws, len(y)))
    low, high = np.quantile(correlation(p[rows].T, y[rows].T), (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--splits", default="random,last")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=1500, help="of each stream")
    options.add_argument("--streams", type=int, default=4)
    asked = options.parse_args()
    warnings.filterwarnings("ignore")
    print(f"brodmann {brodmann.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")  # fmt: skip
    seen, y = views(asked.data), macaque.responses(asked.data)
    for split in asked.splits.split(","):
        source = macaque.open(asked.data, split=split)
        learned = taught(source)
        part = macaque.parts(split)
        at = {name: np.flatnonzero(part == name) for name in ("train", "valid", "test")}
        print(f"\n## {split}\n")
        for remark in source.recordings[0].remarks:
            print(f"- {remark}")
        begun = time.process_time()
        rows: dict[str, list[NDArray[np.float64]]] = {"mean": [np.zeros_like(y)]}
        rows |= {f"ridge, {name}": [linear(x, y, at)] for name, x in seen.items()}
        trees, said = boosted(seen["20 x 20"], y, at)
        rows["boosted trees, 20 x 20"] = trees
        rows["mean of these boosted trees"] = [np.mean(trees, axis=0)]
        print(f"- boosted trees: {', '.join(said)}; {time.process_time() - begun:.0f} CPU s", flush=True)
        plans = [("untrained core, readout solved", 0), *(("one network", seed) for seed in range(asked.seeds))]
        for name, seed in plans:
            recipe = recipe_of(seed, asked.steps, asked.streams)
            samples = neurons.samples(learned, recipe)
            begun = time.process_time()
            model = trained(recipe, learned) if name == "one network" else untrained(recipe, samples)
            found = predicted(model, samples)
            rows.setdefault(name, []).append(found)
            r = ", ".join(f"{value:.3f}" for value in correlation(found[at["test"]], y[at["test"]]))
            print(f"- {name}, seed {seed}: {r}; {time.process_time() - begun:.0f} CPU s", flush=True)
        print(
            f"\n| r on {len(at['test']):,} patterns | {' | '.join(f'neuron {unit}' for unit in macaque.UNITS)} | mean |"
        )
        print("|---|---|---|---|---|")
        judged = y[at["test"]]
        for name, some in rows.items():
            each = [correlation(one[at["test"]], judged) for one in some]
            cells: list[str] = []
            for column in range(y.shape[1]):
                ends = [interval(one[at["test"], column], judged[:, column]) for one in some]
                low, high = np.mean(ends, axis=0)
                cells.append(f"{np.mean(each, axis=0)[column]:.3f} [{low:.3f}, {high:.3f}]")
            print(f"| {name} ({len(some)}) | {' | '.join(cells)} | {np.mean(each):.3f} |")
        own = [one[at["test"]] for one in rows["one network"]]
        print("\nMean r of the three neurons, one network's higher by (95 % over patterns, paired):\n")
        for name in ("boosted trees, 20 x 20", "mean of these boosted trees"):
            print(f"- than that of {name}: {gain(own, [one[at['test']] for one in rows[name]], judged)}")


if __name__ == "__main__":
    main()
