"""One loop: resumes bit for bit, stops politely, says when it diverges, and is the same in two processes as in one."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from brodmann import train
from brodmann.errors import Diverged, Interrupted
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.samples import Loss, stream
from brodmann.settings import Fit, settings
from brodmann.space import PHANTOM

QUIET = Say(quiet=True)


@settings
class Toy:
    """A recipe for a model that needs no data."""

    fit: Fit = Fit(steps=12, batch=8, warmup_steps=3, save_every=4, lr=1e-2)
    seed: int = 0


class Points:
    """Samples without images: two numbers and a target each."""

    fingerprint = "points"
    space = PHANTOM

    def __init__(self, plan, poison=None):
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(100, 2)).astype(np.float32)
        self.y = (self.x @ [[1.0], [-2.0]]).astype(np.float32)
        self.plan, self.poison, self.asked = plan, poison, []
        self.places = pd.DataFrame({"id": [f"p{i}" for i in range(100)], "section": "s"})

    def __len__(self):
        return 100

    def batch(self, step, *, rank=0, world=1):
        self.asked.append(step)
        index = stream(0, self.fingerprint, step).choice(100, self.plan.batch)[rank::world]
        x = torch.from_numpy(self.x[index])
        if step == self.poison:
            x = x * float("nan")
        return {"x": x, "y": torch.from_numpy(self.y[index]), "index": torch.from_numpy(index)}


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def loss(self, batch):
        error = (self.layers(batch["x"]) - batch["y"]).square().mean()
        return Loss(error, {"root": error.sqrt()})


def open_run(path, toy):
    return Run.open(path, recipe=toy, system="patches", data_fingerprint="points", say=QUIET)


def train_toy(path, toy=None, **more):
    toy = toy or Toy()
    run = open_run(path, toy)
    samples = more.pop("samples", Points(toy.fit))
    model = train.fit(Line(), samples, toy.fit, run, say=QUIET, **more)
    return model, run


def weights(model):
    return torch.cat([value.double().ravel() for value in model.state_dict().values()])


@pytest.mark.parametrize("stops", [[4], [5], [1, 2, 11], [8, 9]])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, stops):
    whole, _ = train_toy(tmp_path / "whole")
    for stop in stops:
        with pytest.raises(Interrupted, match="same command"):
            train_toy(tmp_path / "parts", until=stop)
    parts, run = train_toy(tmp_path / "parts")
    assert torch.equal(weights(whole), weights(parts))
    assert [record["step"] for record in run.metrics()] == list(range(12))


def test_a_signal_saves_and_stops(tmp_path):
    toy = Toy()

    class Slow(Points):
        def batch(self, step, *, rank=0, world=1):
            if step == 5 and threading.current_thread() is not threading.main_thread():
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step, rank=rank, world=world)

    with pytest.raises(Interrupted):
        train_toy(tmp_path / "run", toy, samples=Slow(toy.fit))
    resumed, _ = train_toy(tmp_path / "run", toy)
    whole, _ = train_toy(tmp_path / "whole", toy)
    assert torch.equal(weights(resumed), weights(whole))


def test_a_loss_that_is_not_finite_names_the_samples_and_keeps_the_checkpoint(tmp_path):
    toy = Toy()
    with pytest.raises(Diverged, match="step 9") as caught:
        train_toy(tmp_path, toy, samples=Points(toy.fit, poison=9))
    assert "from samples [" in str(caught.value)
    assert open_run(tmp_path, toy).latest()[0] == 8


def test_the_rate_warms_up_and_falls_to_zero():
    plan = Fit(steps=100, warmup_steps=10, lr=1.0)
    rates = [train.learning_rate(plan, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 1e-3
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_accumulated_batches_are_averaged(tmp_path):
    """Two accumulated copies of one batch step as that batch alone does."""

    class Twice(Points):
        def batch(self, step, *, rank=0, world=1):
            return super().batch(step // 2, rank=rank, world=world)

    plain, _ = train_toy(tmp_path / "a", Toy(fit=Fit(steps=5, batch=8, warmup_steps=1)))
    two = Toy(fit=Fit(steps=5, batch=8, warmup_steps=1, accumulate=2))
    doubled, _ = train_toy(tmp_path / "b", two, samples=Twice(two.fit))
    a, b = dict(plain.named_parameters()), dict(doubled.named_parameters())
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)


def test_an_estimate_leaves_the_model_as_it_was():
    model, plan = Line(), Toy().fit
    before = weights(model)
    numbers = train.estimate(model, Points(plan), plan, steps=10)
    assert torch.equal(before, weights(model))
    assert numbers["seconds"] > 0
    assert numbers["disk_bytes"] > 0


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_patches_train import small_fit
small_fit(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("processes", [2])
def test_two_processes_follow_the_curve_of_one(tmp_path, processes):
    """Same global batch: losses agree to 1e-3 relative in fp32 (sums are taken in another order)."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    tests = Path(__file__).parent
    subprocess.run([sys.executable, script, tmp_path / "one", tests], check=True, env=env, timeout=900)
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port=29513"),
            *(script, tmp_path / "two", tests),
        ],
        check=True,
        env=env,
        timeout=900,
    )
    curves = []
    for name in ("one", "two"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        curves.append([json.loads(line)["loss"] for line in lines])
    assert len(curves[0]) == 6
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-3)
    assert not np.allclose(curves[0], curves[0][0], rtol=1e-2)
