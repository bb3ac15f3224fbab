"""Salamander retina: 177 ganglion cells in one network with a shared core, against ridge regression cell by cell.

    python benchmarks/bench_retina.py --data FOLDER/neurons/salamander_rgc [--seeds 2] [--strongest 24] [--all-ridge]

Trains on the frames before the last fifth and judges on the last fifth; prints Markdown. Single-trial correlation of
predicted rates with spike counts per frame. The strongest cells are those with the highest peak of the spike-triggered
average over training frames, in standard errors; ridge regression sees 11 x 11 checkers around that peak and 13 frames.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import brodmann
from brodmann import compute, neurons, verbs
from brodmann.datasets import salamander
from brodmann.neurons import head, search
from brodmann.neurons.model import NeuronModel
from brodmann.neurons.recipe import Clips, Network, Recipe
from brodmann.neurons.samples import Kept, NeuronSamples, clips
from brodmann.neurons.source import Recording, Source
from brodmann.samples import stream
from brodmann.settings import Fit

SIDE, LAGS = 11, 13
"""Checkers to a side, and frames, that ridge regression sees."""
STRENGTHS = (3e3, 1e4, 3e4, 1e5, 3e5)
NETWORK = Network(
    perspective=False, modulation=0, input_kernel=8, input_stride=4, channels=(16,), pools=(1,), layers=6, outputs=64
)
"""One resolution, and six convolutions in time so that 13 frames of the past are seen."""


def recipe_of(recording: Recording, seed: int, steps: int) -> Recipe:
    height, width = recording.video.shape[1:]
    return Recipe(
        samples=Clips(rate_hz=recording.rate_hz, height_px=height, width_px=width, frames=60, burn_in=LAGS),
        encoder=NETWORK,
        fit=Fit(steps=steps, batch=6, lr=4e-3, warmup_steps=20),
        seed=seed,
    )


def correlation(predicted: NDArray[np.floating], observed: NDArray[np.floating]) -> NDArray[np.float64]:
    """Column by column; 0 where either is constant."""
    p, o = predicted - predicted.mean(0, dtype=np.float64), observed - observed.mean(0, dtype=np.float64)
    scale = np.sqrt((p**2).sum(0) * (o**2).sum(0))
    return (p * o).sum(0) / np.where(scale > 0, scale, 1)


def judged(recording: Recording, part: str) -> NDArray[np.int64]:
    """Frames of a part without the first ones of every trial."""
    return np.concatenate([np.arange(c.frame + min(LAGS, c.frames - 1), c.frame + c.frames)
                           for c in clips(recording, part)])  # fmt: skip


def predicted(model: NeuronModel, kept: Kept, part: str) -> NDArray[np.float32]:
    """Rates at the frames of `judged`."""
    return np.concatenate([model.predict(kept, c)[min(LAGS, c.frames - 1) :] for c in clips(kept.recording, part)])


def fields(recording: Recording) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Peak of every cell's spike-triggered average on training frames, in standard errors, and where: row, column.

    Averages at lags 3 to 6 less those at 8 to 12, smoothed over space (sigma 1.5 checkers).
    """
    frames = recording.frames("train")
    first, stop = int(frames[0]), int(frames[-1]) + 1
    counts = recording.responses[first:stop]
    z = torch.from_numpy((counts - counts.mean(0)) / (counts.std(0) + 1e-9) / np.sqrt(stop - first)).float()
    height, width = recording.video.shape[1:]
    total = torch.zeros(counts.shape[1], height * width)
    for lag, weight in ((3, 1.0), (4, 1.0), (5, 1.0), (6, 1.0), (8, -1.0), (10, -1.0), (12, -1.0)):
        for start in range(first, stop - lag, 1920):
            end = min(start + 1920, stop - lag)
            light = torch.from_numpy(recording.video[start:end].reshape(end - start, -1) / np.float32(127.5) - 1)
            total += weight * (z[start - first + lag : end - first + lag].T @ light)
    one = np.zeros((31, 31))
    one[15, 15] = 1
    noise = np.sqrt(7 * (gaussian_filter(one, 1.5) ** 2).sum())
    smooth = np.stack([gaussian_filter(cell, 1.5) for cell in total.view(-1, height, width).numpy()]) / noise
    flat = np.abs(smooth).reshape(len(smooth), -1)
    return flat.max(1), np.stack(np.unravel_index(flat.argmax(1), (height, width)), 1).astype(np.int64)


def ridge(recording: Recording, cell: int, place: NDArray[np.int64]) -> NDArray[np.float32]:
    """Predictions at the test frames; strength chosen on the validation frames, then fitted on both parts."""
    height, width = recording.video.shape[1:]
    half = SIDE // 2
    row, column = np.clip(place, half, [height - half - 1, width - half - 1])
    near = recording.video[:, row - half : row + half + 1, column - half : column + half + 1]
    near = near.reshape(len(near), -1) / np.float32(127.5) - 1

    def seen(part: str) -> torch.Tensor:
        at = judged(recording, part)
        return torch.from_numpy(np.concatenate([near[at - lag] for lag in range(LAGS)], axis=1))

    y = {part: torch.from_numpy(recording.responses[judged(recording, part), cell]) for part in ("train", "valid")}
    x = {part: seen(part) for part in ("train", "valid")}
    mean, unit = y["train"].mean(), torch.eye(SIDE * SIDE * LAGS)
    gram = {part: x[part].T @ x[part] for part in x}
    cross = {part: x[part].T @ (y[part] - mean) for part in x}
    scores = [
        correlation(
            (x["valid"] @ torch.linalg.solve(gram["train"] + s * unit, cross["train"])).numpy()[:, None],
            y["valid"].numpy()[:, None],
        )[0]
        for s in STRENGTHS
    ]
    best = STRENGTHS[int(np.argmax(scores))]
    weights = torch.linalg.solve(gram["train"] + gram["valid"] + best * unit, cross["train"] + cross["valid"])
    return (seen("test") @ weights).numpy()


def untrained(recipe: Recipe, samples: NeuronSamples) -> NeuronModel:
    """The network before training, with the best readout that its core allows; places as training starts from them."""
    model, kept = neurons.build(recipe, samples), samples.kept[0]
    readout, size_px = model.encoder.readout, model.encoder.core.size_px
    taps, share = search.around(readout.mu.detach().tanh(), *size_px)
    read: list[torch.Tensor] = []
    answers: list[torch.Tensor] = []
    with compute.resting(model):
        for clip in clips(kept.recording, "train"):
            own = min(recipe.samples.burn_in, clip.frames - 1)
            flat = model.features(0, clip)[own:].flatten(2)
            some = sum(flat[:, :, taps[:, k]] * share[:, k].to(flat) for k in range(4))
            read.append(torch.as_tensor(some).permute(2, 0, 1).to(torch.bfloat16))
            answers.append(torch.from_numpy(clip.responses()[own:, kept.columns]))
    features, responses = torch.cat(read, dim=1), torch.cat(answers)
    wide = features.shape[2]
    prior = head.Prior(torch.zeros(wide), 0.1 * torch.eye(wide))
    left_out = torch.arange(len(responses)) // 30 % 5 == 4
    solved = head.solve(head.Evidence(lambda rows: features[rows].float(), responses, left_out, prior))
    streams = readout.weight.shape[1]
    with torch.no_grad():
        readout.weight.copy_((solved.weights * streams).unflatten(1, (streams, -1)))
        readout.bias.copy_(solved.bias[:, None].expand_as(readout.bias))
    return model


def trained(recipe: Recipe, source: Source) -> NeuronModel:
    """The recipe's model after `brodmann.verbs.fit`."""
    with tempfile.TemporaryDirectory() as folder:
        return verbs.trained(verbs.fit(recipe, source, Path(folder) / "run", quiet=True, threads=1))[1]


def spread(values: NDArray[np.floating], draws: int = 2000) -> str:
    """95 % interval of a median over cells, which are drawn with replacement."""
    rng = stream(0, "bench_retina")
    medians = np.median(values[rng.integers(len(values), size=(draws, len(values)))], axis=1)
    return "[{:.3f}, {:.3f}]".format(*np.quantile(medians, (0.025, 0.975)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--strongest", type=int, default=24)
    options.add_argument("--all-ridge", action="store_true", help="ridge regression of all cells: about 6 minutes more")
    asked = options.parse_args()
    warnings.filterwarnings("ignore")
    source = salamander.open(asked.data)
    recording = source.recordings[0]
    print(f"brodmann {brodmann.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")  # fmt: skip
    for remark in recording.remarks:
        print(f"- {remark}")
    strength, places = fields(recording)
    strong = np.argsort(-strength)[: asked.strongest]
    frames = judged(recording, "test")
    observed = recording.responses[frames]
    print(f"- {len(source)} cells in one network; judged on frames {frames[0]:,}-{frames[-1]:,} ({len(frames):,}), the "
          f"last fifth but the first {LAGS} of every trial; {asked.strongest} strongest cells by training frames: "
          f"peaks of {strength[strong].min():.1f} to {strength[strong].max():.1f} standard errors")  # fmt: skip
    begun = time.process_time()
    linear = np.full(len(source), np.nan)
    for cell in range(len(source)) if asked.all_ridge else strong:
        linear[cell] = correlation(ridge(recording, cell, places[cell])[:, None], observed[:, [cell]])[0]
    rows: dict[str, list[NDArray[np.float64]]] = {"mean rate": [np.zeros(len(source))], "ridge": [linear]}
    print(f"- ridge: {time.process_time() - begun:.0f} CPU s", flush=True)
    plans = [("untrained core, readout solved", 0), *(("one network", seed) for seed in range(asked.seeds))]
    for name, seed in plans:
        recipe = recipe_of(recording, seed, asked.steps)
        samples = neurons.samples(source, recipe)
        begun = time.process_time()
        model = trained(recipe, source) if name == "one network" else untrained(recipe, samples)
        found = correlation(predicted(model, samples.kept[0], "test"), observed)
        rows.setdefault(name, []).append(found)
        print(f"- {name}, seed {seed}: {time.process_time() - begun:.0f} CPU s; median r of the strongest "
              f"{np.median(found[strong]):.3f}, of all {np.median(found):.3f}", flush=True)  # fmt: skip
    print(f"\n| | median r, {asked.strongest} strongest | 95 % (cells) | better than ridge | median r, all | seeds |")
    print("|---|---|---|---|---|---|")
    for name, some in rows.items():
        r = np.mean(some, axis=0)
        wins = "" if name == "ridge" else f"{int((r[strong] > linear[strong]).sum())} of {len(strong)}"
        every = f"{np.median(r):.3f}" if np.isfinite(r).all() else ""
        print(f"| {name} | {np.median(r[strong]):.3f} | {spread(r[strong])} | {wins} | {every} | {len(some)} |")
    ahead = np.median(np.mean(rows["one network"], axis=0)[strong]) / np.median(linear[strong])
    print(f"\nThe network's median is {ahead:.2f} times that of ridge regression.")


if __name__ == "__main__":
    main()
