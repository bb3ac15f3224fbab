"""Frames per CPU-second and memory: the public foundation model of neural activity and ours, of the same size.

    python benchmarks/bench_neurons_speed.py --public CHECKOUT [--neurons 8000] [--frames 60] [--repeats 3]

The published network (144 x 256 pixels, four streams, recurrent core with attention) with random weights and a screen
of noise. Forward: responses to a clip by all streams, as the public code makes them frame by frame; ours of the whole
clip at once, or frame by frame. Training: loss and gradients of one clip of 100 frames through one stream, without the
optimiser's step, which is the same for both. Every row is a process of its own, so that its memory is its own, and runs
once to warm up (training on 10 frames); rows take turns, repeat by repeat. CPU-seconds are those of the process.
Without --public its rows are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from brodmann import compute
from brodmann.neurons import published

TRAINED = 100
BARS = {
    "batched, bfloat16": 2.5,
    "batched, float32": 1.4,
    "frame by frame, bfloat16": 1.3,
    "training, bfloat16": 2.5,
}
"""How many times the public code's rate is asked for; training also at a third of its memory."""
ROWS = {
    "forward": [
        "public, float32", "batched, bfloat16", "batched, float32", "frame by frame, bfloat16",
        "frame by frame, float32",
    ],
    "training": ["public training, float32", "training, bfloat16", "training, float32"],
}  # fmt: skip


def shown(frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Video (T, H, W), pupil (T, 2) and behaviour (T, 2) of a clip."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (frames, published.HEIGHT_PX, published.WIDTH_PX), dtype=np.uint8)
    return video, rng.normal(size=(frames, 2)), rng.normal(size=(frames, 2))


def public_work(where: str, row: str, neurons: int) -> Callable[[int], None]:
    """Work of the public code on a clip of some frames."""
    sys.path.insert(0, where)
    network = public_network(neurons)

    def forward(frames: int) -> None:
        video, pupil, behaviour = shown(frames)
        for _ in network.generate_response(video[..., None], pupil, behaviour):
            pass

    def train(frames: int) -> None:
        video, pupil, behaviour = shown(frames)
        answers = np.random.default_rng(1).random((frames, neurons))
        losses = network.generate_loss(answers, video[..., None], pupil, behaviour, stream=0, training=True)
        torch.stack(list(losses)).mean().backward()

    return train if "training" in row else forward


def public_network(neurons: int) -> torch.nn.Module:
    """The public code's default network."""
    from fnn.model import (
        bounds,
        cores,
        features,
        feedforwards,
        modulations,
        monitors,
        networks,
        perspectives,
        pixels,
        positions,
        readouts,
        recurrents,
        reductions,
        retinas,
        units,
    )

    ours = published.NETWORK
    blocks = len(ours.channels)
    made = networks.Visual(
        core=cores.FeedforwardRecurrent(
            feedforwards.InputDense(
                input_spatial=ours.input_kernel, input_stride=ours.input_stride, block_channels=ours.channels,
                block_groups=[channels // ours.channels[0] for channels in ours.channels],
                block_layers=[ours.layers] * blocks, block_temporals=[3] * blocks, block_spatials=[3] * blocks,
                block_pools=ours.pools, out_channels=ours.outputs, nonlinear="gelu",
            ),
            recurrents.CvtLstm(
                in_channels=ours.hidden, out_channels=ours.outputs, hidden_channels=ours.hidden,
                common_channels=ours.common, groups=ours.recurrent_groups, spatial=3,
            ),
        ),
        perspective=perspectives.MlpMonitorRetina(
            mlp_features=16, mlp_layers=3, mlp_nonlinear="gelu", height=ours.retina_px[0], width=ours.retina_px[1],
            monitor=monitors.Plane(), monitor_pixel=pixels.StaticPower(power=1.7),
            retina=retinas.Angular(ours.view_deg), retina_pixel=pixels.SigmoidPower(),
        ),
        modulation=modulations.MlpLstm(
            mlp_features=ours.modulation, mlp_layers=1, mlp_nonlinear="gelu", lstm_features=ours.modulation
        ),
        readout=readouts.PositionFeature(positions.Gaussian(), bounds.Tanh(), features.Vanilla()),
        reduce=reductions.Mean(),
        unit=units.Poisson(),
    )  # fmt: skip
    made._init(stimuli=1, perspectives=2, modulations=2, units=neurons, streams=ours.streams)
    with torch.no_grad():
        made.readout.position.mu.normal_(0, 0.6)
        for weight in made.readout.feature.weights:
            weight.normal_(0, 0.01)  # zero weights would leave the core without a gradient
    return made


def our_work(row: str, neurons: int) -> Callable[[int], None]:
    """Work of ours on a clip of some frames."""
    compute.keep_memory()  # as `fit` and `embed` do
    network = published.build(published.NETWORK, neurons)
    with torch.no_grad():
        network.readout.mu.normal_(0, 0.6)
    precision = "bf16" if "bfloat16" in row else "fp32"
    animal = torch.zeros(1, dtype=torch.int64)

    def clip(frames: int) -> list[torch.Tensor]:
        video, pupil, behaviour = shown(frames)
        return [torch.from_numpy(video)[None], *(torch.from_numpy(one)[None].float() for one in (pupil, behaviour))]

    def forward(frames: int) -> None:
        with compute.resting(network), compute.autocast(torch.device("cpu"), precision):
            network(*clip(frames), animal).exp()

    def stream(frames: int) -> None:
        video, pupil, behaviour = clip(frames)
        with compute.resting(network), compute.autocast(torch.device("cpu"), precision):
            prepared, state = network.prepare(animal, rows=slice(None)), network.start()
            for at in range(frames):
                given = video[:, at], pupil[:, at], behaviour[:, at]
                rates, state = network.step(*given, state, animal=animal, prepared=prepared)
                rates.exp()

    def train(frames: int) -> None:
        network.train()
        answers = torch.from_numpy(np.random.default_rng(1).random((1, frames, neurons), dtype=np.float32))
        with compute.autocast(torch.device("cpu"), precision):
            rates = network.log_rates(network.features(*clip(frames), animal, stream=0), stream=0)
        (rates.exp() - rates * answers).mean().backward()
        network.zero_grad(set_to_none=True)

    return train if "training" in row else stream if "frame by frame" in row else forward


def one_row(given: argparse.Namespace) -> None:
    """Measure one row in this process; its numbers go to standard output."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    work = (
        public_work(given.public, given.row, given.neurons)
        if "public" in given.row
        else our_work(given.row, given.neurons)
    )
    frames = TRAINED if "training" in given.row else given.frames
    work(10 if "training" in given.row else frames)
    begun = time.process_time()
    work(frames)
    rate = frames / (time.process_time() - begun)
    print(json.dumps([rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9]))


def measured(row: str, given: argparse.Namespace) -> tuple[float, float]:
    """Frames per CPU-second and peak memory (GB) of one row, in a process of its own."""
    command = [sys.executable, __file__, "--row", row, "--neurons", str(given.neurons), "--frames", str(given.frames)]
    command += ["--public", given.public] if given.public else []
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=alone, check=False)
    if done.returncode:
        sys.exit(f"{row} failed:\n{done.stderr}")
    rate, memory = json.loads(done.stdout.splitlines()[-1])
    return rate, memory


def side_by_side(kind: str, given: argparse.Namespace) -> list[str]:
    """The table of one kind of work."""
    rows = [row for row in ROWS[kind] if given.public or "public" not in row]
    found: dict[str, list[tuple[float, float]]] = {row: [] for row in rows}
    for _ in range(given.repeats):
        for row in rows:
            found[row].append(measured(row, given))
    lines = [
        f"| {kind} | n | frames per CPU-second | x public | asked | peak memory, GB | of public |",
        "|---|---|---|---|---|---|---|",
    ]
    base = None
    for row, pairs in found.items():
        rates, memory = [pair[0] for pair in pairs], max(pair[1] for pair in pairs)
        middle = statistics.median(rates)
        base = base or ((middle, memory) if given.public else None)
        times, share = (f"{middle / base[0]:.2f}", f"{memory / base[1]:.2f}") if base else ("-", "-")
        about = f"{middle:.1f} ({min(rates):.1f}-{max(rates):.1f})"
        lines.append(f"| {row} | {len(rates)} | {about} | {times} | {BARS.get(row, '-')} | {memory:.2f} | {share} |")
    return lines


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
    parser.add_argument("--public", default=os.environ.get("BRODMANN_FNN"), help="a checkout of github.com/cajal/fnn")
    parser.add_argument("--neurons", type=int, default=8000)
    parser.add_argument("--frames", type=int, default=60, help="length of the clip of the forward rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        one_row(given)
        return
    tables = [side_by_side(kind, given) for kind in given.kinds]
    about = (
        f"{machine()}, 1 thread, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, torch "
        f"{torch.__version__}; {given.neurons:,} neurons, clips of {given.frames} frames forward and {TRAINED} in "
        "training; medians and ranges of n"
    )
    print("\n".join([about, *("\n" + "\n".join(table) for table in tables)]))


if __name__ == "__main__":
    main()
