"""The model of neural activity: batches, training, kills, adoption, and what it makes of animals that are not right."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import nbinom

from brodmann import settings, train, verbs
from brodmann.errors import Interrupted, Refused, Usage
from brodmann.neurons import adopt, answers, controls, energies, retinotopy
from brodmann.neurons.model import Known, NeuronModel
from brodmann.neurons.readout import Readout
from brodmann.neurons.recipe import Recipe
from brodmann.neurons.samples import NeuronSamples, clips
from brodmann.neurons.source import Recording, Source
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.space import PHANTOM
from brodmann.tasks.responses import Answer, responses

QUIET = Say(quiet=True)

SMALL: dict[str, Any] = {
    "samples": {"height_px": 8, "width_px": 12, "frames": 20, "burn_in": 3},
    "encoder": {
        "perspective": False, "input_kernel": 4, "channels": [8], "pools": [1], "layers": 1, "outputs": 8,
        "modulation": 4,
    },
    "fit": {"steps": 6, "batch": 4, "warmup_steps": 2, "save_every": 2, "precision": "fp32", "lr": 1e-2},
    "split": {"by": "brain", "folds": 0},
}  # fmt: skip


def small(**parts: Any) -> Recipe:
    """The recipe of these tests, with some values of some parts changed."""
    values = {name: {**SMALL.get(name, {}), **part} if isinstance(part, dict) else part for name, part in parts.items()}
    return settings.build(Recipe, {**SMALL, **values}, where="small")


def recording(name: str, first: int, *, neurons: int = 5, frames: tuple[int, ...] = (40,) * 8) -> Recording:
    """Neurons that answer to light, or to darkness, at a place each: training trials, one to choose by, a repeat."""
    rng = np.random.default_rng(sum(name.encode()))
    parts = ["train"] * len(frames) + ["valid", "test", "test"]
    clips = [f"{name}/{i}" for i in range(len(frames))] + [f"{name}/valid", "shared", "shared"]
    lengths = np.array([*frames, 40, 40, 40])
    starts = np.cumsum([0, *lengths])
    videos = starts[:-1].copy()
    videos[-1] = videos[-2]  # a repeat shows the same video
    coarse = rng.random((starts[-2], 4, 6)).repeat(2, 1).repeat(2, 2)
    sky = np.convolve(rng.normal(size=len(coarse) + 8), np.ones(9) / 3, "valid")[:, None, None]
    video = (127 + 100 * np.tanh(sky + coarse - 0.5)).astype(np.uint8)
    shown = np.concatenate([np.arange(v, v + n) for v, n in zip(videos, lengths, strict=True)])
    y, x = rng.integers(0, 8, neurons), rng.integers(0, 12, neurons)
    seen = np.roll(video[shown][:, y, x].astype(np.float32) / 255, 1, axis=0)
    rate = np.exp(3 * (seen - 0.5) * np.where(np.arange(neurons) % 2, 1, -1))
    trials = pd.DataFrame({
        "clip": clips, "video": videos, "frame": starts[:-1], "frames": lengths, "domain": "natural", "part": parts,
    })  # fmt: skip
    total = int(starts[-1])
    return Recording(
        id=f"{name}/scan", subject=name, rows=range(first, first + neurons), rate_hz=30.0, trials=trials, video=video,
        responses=rng.poisson(rate).astype(np.float32), behaviour=rng.random((total, 2)).astype(np.float32),
        pupil=rng.normal(size=(total, 2)).astype(np.float32),
    )  # fmt: skip


def source(*recordings: Recording) -> Source:
    """A data set of some recordings, of two planes each."""
    rows = [
        {"id": f"{one.id}/{n}", "subject": one.subject, "section": f"{one.id}/{n % 2}", "x_um": 10.0 * n,
         "y_um": 7.0 * n * n % 50, "x_mm": 1.0 + 0.01 * n, "y_mm": 2.0, "z_mm": 3.0}
        for one in recordings for n in range(len(one.rows))
    ]  # fmt: skip
    return Source(PHANTOM, "small", "small", list(recordings), [], pd.DataFrame(rows))


def three() -> Source:
    """Three animals of 5, 4 and 6 neurons; the second one's trials are longer."""
    return source(
        recording("A", 0), recording("B", 5, neurons=4, frames=(60, 20, 30, 90, 25)), recording("C", 9, neurons=6)
    )


def taught(path: Path, recipe: Recipe, data: Source, kind: type[NeuronModel] = NeuronModel, **more: Any):
    """Trained by the loop alone: positions are not searched before, readouts not solved after."""
    samples = NeuronSamples(data, recipe, part="train")
    model = kind(recipe, [Known(kept.recording.id, samples.named(kept)) for kept in samples.kept])
    about = {"system": "neurons", "data_fingerprint": samples.fingerprint}
    run = Run.open(path, recipe=recipe, **about, say=QUIET)
    return train.fit(model, samples, recipe.fit, run, say=QUIET, **more), run


def same(one: Any, other: Any) -> bool:
    """Whether two state dicts hold the same bits."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


QUICK = ((adopt, "FINER", 1), (energies, "COLUMNS", 6), (retinotopy, "ROUNDS", 6))
"""Fewer places to try than a screen of twelve pixels has: these tests ask that neurons are placed, not how well."""


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        for one in QUICK:
            patch.setattr(*one)
        yield


def small_fit(out: Path, **parts: Any) -> Run:
    """Used here and, in several processes, by the programs below."""
    for one in QUICK:
        setattr(*one)
    return verbs.fit(small(**parts), three(), out, quiet=True)


# -------------------------------------------------------------------------------------------------------------- batches


def test_a_batch_is_a_pure_function_of_seed_step_and_data():
    samples, again = NeuronSamples(three(), small()), NeuronSamples(three(), small())
    first = samples.batch(3)
    again.batch(7)
    assert same(first, again.batch(3))
    for other in (samples.batch(4), NeuronSamples(three(), small(seed=1)).batch(3),
                  NeuronSamples(replace(three(), fingerprint="other"), small()).batch(3)):  # fmt: skip
        assert not torch.equal(other["index"], first["index"])
        assert other["seed"] != first["seed"]


def test_recordings_are_dealt_evenly_whatever_the_size_of_a_batch():
    samples = NeuronSamples(three(), small())
    counts, beside = np.zeros(3, int), set()
    for step in range(30):
        animal = samples.batch(step)["animal"].tolist()
        assert animal == sorted(animal)
        counts += np.bincount(animal, minlength=3)
        beside.add(tuple(animal))
        assert counts.max() - counts.min() <= 1
    assert counts.tolist() == [40, 40, 40]
    assert len(beside) > 1


def test_every_window_of_a_training_trial_is_drawn_the_first_and_the_last_included():
    data = source(recording("A", 0, frames=(22, 10, 20, 21)))
    samples = NeuronSamples(data, small())
    drawn = [int(one) for step in range(60) for one in samples.batch(step)["index"]]
    # a trial of ten frames holds no clip of twenty
    assert sorted(set(drawn)) == [0, 1, 2, 32, 52, 53]
    assert np.bincount(drawn)[sorted(set(drawn))].min() > 20


def test_a_clip_brings_the_frames_of_video_behaviour_and_responses_that_belong_together():
    data = three()
    samples = NeuronSamples(data, small())
    batch = samples.batch(5)
    start = 0
    for clip, (animal, frame) in enumerate(zip(batch["animal"].tolist(), batch["index"].tolist(), strict=True)):
        one = data.recordings[animal]
        train_rows = one.frames("train")
        mean = one.responses[train_rows].mean(0)
        size = 20 * len(mean)
        answered = batch["responses"][start : start + size].view(20, -1).numpy()
        start += size
        # the planes of a recording lie beside each other
        columns = np.argsort(np.arange(len(mean)) % 2, kind="stable")
        assert np.allclose(answered, (one.responses[frame : frame + 20] / mean)[:, columns], rtol=1e-5)
        assert np.array_equal(batch["video"][clip], one.video[frame : frame + 20])  # shown once, in order
        scored = (one.behaviour - one.behaviour[train_rows].mean(0)) / one.behaviour[train_rows].std(0)
        assert np.allclose(batch["behaviour"][clip], scored[frame : frame + 20], atol=1e-4)
    assert start == len(batch["responses"])


@pytest.mark.parametrize("world", [2, 3])
def test_the_pieces_of_several_processes_join_to_the_global_batch(world: int):
    samples = NeuronSamples(three(), small(fit={"batch": 6}))
    whole = samples.batch(2)
    pieces = [samples.batch(2, rank=rank, world=world) for rank in range(world)]
    for name in ("video", "pupil", "behaviour"):
        joined = torch.cat([piece[name] for piece in pieces]).flatten(1)
        assert sorted(map(tuple, joined.tolist())) == sorted(map(tuple, whole[name].flatten(1).tolist())), name
    assert sorted(torch.cat([p["responses"] for p in pieces]).tolist()) == sorted(whole["responses"].tolist())
    assert len({int(piece["seed"]) for piece in pieces}) == world


@pytest.mark.parametrize(("size", "copies"), [(6, 3), (5, 2), (2, 4)])
def test_clips_of_every_step_are_dealt_evenly_to_the_copies_of_the_core(size: int, copies: int):
    samples = NeuronSamples(three(), small(fit={"batch": size}, encoder={"streams": copies}))
    batches = [samples.batch(step) for step in range(200)]
    for batch in batches:
        counts = torch.bincount(batch["stream"], minlength=copies)
        assert counts.max() - counts.min() <= 1
        assert batch["stream"].tolist() == sorted(batch["stream"].tolist())
        for stream in range(copies):
            own = batch["animal"][batch["stream"] == stream]
            assert own.tolist() == sorted(own.tolist())
    # no copy is that of an animal
    met = torch.zeros(copies, 3)
    for batch in batches:
        met.index_put_((batch["stream"], batch["animal"]), torch.ones(size), accumulate=True)
    assert met.min() > 0.5 * met.mean()


def test_each_clip_teaches_its_copy_of_the_core_and_no_other():
    data, recipe = three(), small(fit={"batch": 6}, encoder={"streams": 2}, objective={"position_jitter": False})
    samples = NeuronSamples(data, recipe)
    model = NeuronModel(recipe, [Known(one.id, tuple(map(str, one.rows))) for one in data.recordings]).train()
    batch = samples.batch(0)
    sizes = [20 * len(data.recordings[n].rows) for n in batch["animal"].tolist()]
    answers = batch["responses"].split(sizes)

    def only(wanted: int) -> dict[str, torch.Tensor]:
        kept = [clip for clip, stream in enumerate(batch["stream"].tolist()) if stream == wanted]
        part = {name: batch[name][kept] for name in ("video", "pupil", "behaviour", "animal", "stream")}
        return {**part, "responses": torch.cat([answers[clip] for clip in kept]), "seed": batch["seed"]}

    weight = model.encoder.core.out.weight
    losses = []
    for stream in range(2):
        loss = model.loss(only(stream)).total
        (slope,) = torch.autograd.grad(loss, weight)
        assert slope[stream].abs().max() > 0
        assert slope[1 - stream].abs().max() == 0
        losses.append(loss)
    (both,) = torch.autograd.grad(model.loss(batch).total, weight)
    assert (both.flatten(1).abs().amax(1) > 0).all()
    assert torch.allclose(model.loss(batch).total, sum(losses) / 2, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------- training


def test_thirty_steps_predict_validation_trials_better_than_a_constant(tmp_path):
    recipe = small(fit={"steps": 30, "lr": 3e-2})
    model, run = taught(tmp_path, recipe, three())
    losses = [record["loss"] for record in run.metrics()]
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.05
    samples = NeuronSamples(three(), recipe)
    fresh = NeuronModel(recipe, model.known)
    assert model.eval().judge(samples) < fresh.eval().judge(samples) - 0.05


class Worse(NeuronModel):
    """Judged by how far its readout has moved from where it began, which training makes worse."""

    def judge(self, samples: NeuronSamples) -> float:
        fresh = NeuronModel(self.recipe, self.known).encoder.readout.weight
        return float((self.encoder.readout.weight - fresh).norm())


PLANS: list[dict[str, Any]] = [
    {"steps": 7, "save_every": 3},
    {"steps": 7, "save_every": 3, "keep": "best", "judge_every": 2},
    {"steps": 12, "save_every": 3, "keep": "best", "judge_every": 2, "patience": 3},
]


@pytest.mark.parametrize(
    ("plan", "kind"), zip(PLANS, [NeuronModel, NeuronModel, Worse], strict=True), ids=["last", "best", "patience"]
)
def test_interrupted_and_resumed_training_ends_with_the_same_bits(tmp_path, plan, kind):
    recipe = small(fit=plan)
    whole, run = taught(tmp_path / "whole", recipe, three(), kind)
    for stop in (1, 5):
        with pytest.raises(Interrupted):
            taught(tmp_path / "parts", recipe, three(), kind, until=stop)
    resumed, parts = taught(tmp_path / "parts", recipe, three(), kind)
    assert same(whole.state_dict(), resumed.state_dict())
    assert run.metrics() == parts.metrics()
    # asked again after the end, it is still the same
    again, _ = taught(tmp_path / "parts", recipe, three(), kind)
    assert same(whole.state_dict(), again.state_dict())


def test_the_weights_that_did_best_are_kept_and_training_stops_when_they_are_not_beaten(tmp_path):
    plan = {"steps": 20, "save_every": 2, "keep": "best", "judge_every": 2, "patience": 3}
    model, run = taught(tmp_path / "run", small(fit=plan), three(), Worse)
    looks = [record for record in run.metrics() if "valid" in record]
    assert [record["step"] for record in looks] == [1, 3, 5, 7]
    assert all(a["valid"] < b["valid"] for a, b in itertools.pairwise(looks))
    assert max(record["step"] for record in run.metrics()) == 7
    with pytest.raises(Interrupted):
        taught(tmp_path / "two", small(fit=plan), three(), Worse, until=2)
    fingerprint = NeuronSamples(three(), small(fit=plan), part="train").fingerprint
    two = Run.open(tmp_path / "two", recipe=small(fit=plan), system="neurons", data_fingerprint=fingerprint, say=QUIET)
    _, tensors, _ = two.latest()
    assert same(model.state_dict(), {name[6:]: v for name, v in tensors.items() if name.startswith("model.")})
    last, _ = taught(tmp_path / "last", small(fit={**plan, "keep": "last"}), three(), Worse)
    assert not same(model.state_dict(), last.state_dict())


def test_after_training_barcodes_are_in_units_of_what_the_features_vary_by():
    data, recipe = three(), small()
    samples = NeuronSamples(data, recipe)
    model = NeuronModel(recipe, [Known(kept.recording.id, samples.named(kept)) for kept in samples.kept])
    assert torch.equal(model.spread, torch.eye(len(model.spread)))
    with torch.no_grad():
        model.encoder.core.out.gain[0, 0] = 1e-3
    model.settle(samples, Say(quiet=True))
    shown = [
        model.features(number, clip)[recipe.samples.burn_in :].permute(0, 2, 3, 1).flatten(0, 2)
        for number, kept in enumerate(samples.kept)
        for clip in clips(kept.recording, "train")
    ]
    covariance = torch.cov(torch.cat(shown).float().T)
    assert torch.allclose(model.spread @ model.spread, covariance, rtol=0.3, atol=0.05 * float(covariance.abs().max()))
    batch = samples.read(np.arange(len(samples)))
    made = torch.from_numpy(model.describe(batch))
    assert torch.allclose(made.norm(dim=1), torch.ones(len(made)), atol=1e-5)
    weights = model.encoder.readout.weight.detach().flatten(1).clone()
    drives = torch.cat(shown).float() @ weights.T
    # neurons of like barcodes would be driven alike, were they to look at one place
    assert np.corrcoef((made @ made.T).flatten(), np.corrcoef(drives.T.numpy()).flatten())[0, 1] > 0.97
    # weights of a feature that hardly varies do not count
    with torch.no_grad():
        model.encoder.readout.weight[:, 0, 0] += 5 * torch.randn(
            len(weights), generator=torch.Generator().manual_seed(0)
        )
    assert np.abs(model.describe(batch) - made.numpy()).max() < 0.1
    plain = torch.nn.functional.normalize(model.encoder.readout.weight.detach().flatten(1), dim=1)
    assert (plain - torch.nn.functional.normalize(weights, dim=1)).abs().max() > 0.5


def test_weights_are_judged_on_validation_trials_alone(tmp_path):
    data = three()
    recipe = small()
    model = NeuronModel(recipe, [Known(one.id, tuple(map(str, one.rows))) for one in data.recordings]).eval()
    before = model.judge(NeuronSamples(data, recipe))

    def spoiled(part: str) -> Source:
        found = []
        for one in data.recordings:
            values = one.responses.copy()
            values[one.frames(part)] = values[one.frames(part)][::-1] + (1 if part == "valid" else 0)
            found.append(replace(one, responses=values))
        return replace(data, recordings=found)

    assert model.judge(NeuronSamples(spoiled("test"), recipe)) == before
    assert model.judge(NeuronSamples(spoiled("train"), recipe)) == pytest.approx(before, rel=1e-5)
    assert abs(model.judge(NeuronSamples(spoiled("valid"), recipe)) - before) > 1e-3


ASIDE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_neurons_model as small
from brodmann.neurons.readout import Readout
from brodmann.run import Run

out = Path(sys.argv[1])
if not os.fork():
    log = Run.log
    def dying(self, record):
        log(self, record)
        if record["step"] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    Run.log = dying
    small.small_fit(out / "killed")
    os._exit(0)
_, status = os.wait()
(out / "status").write_text(str(os.waitstatus_to_exitcode(status)))

other = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if other else "1"
os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29547"}
Readout.positions = small.at_rest
if not other:
    # the second process solves nothing: it is given the first one's readouts
    small.adopt.renew = lambda *_: None
small.small_fit(out / "two", objective={"solve_first": 3})
if other:
    assert os.waitpid(other, 0)[1] == 0
"""


def at_rest(readout: Readout, rows: slice, _: int) -> torch.Tensor:
    """Stands in for `Readout.positions`, whose draws differ between processes; the spread stays in the graph."""
    return (readout.mu[rows] + 0 * readout.sigma[rows].sum(2)).tanh()[None]


@pytest.fixture(scope="module")
def aside(tmp_path_factory) -> Path:
    """Folder of a run that was killed by SIGKILL after its fifth step, and of one that two processes trained.

    One program forks them all before its first computation: Python and PyTorch are imported once.
    """
    out = tmp_path_factory.mktemp("aside")
    (out / "program.py").write_text(ASIDE)
    # as many threads as here, for the same bits
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, out / "program.py", out, Path(__file__).parent]
    subprocess.run(command, env=env, timeout=300, check=True)
    return out


def test_a_killed_run_resumes_to_the_sha256_of_one_that_was_not(aside, tmp_path, monkeypatch):
    assert int((aside / "status").read_text()) == -signal.SIGKILL
    assert [path.name for path in (aside / "killed").rglob("weights*")] == []
    # and once more, while the readouts are solved after the last step

    class Dead(BaseException):
        """A kill that pytest survives."""

    def dying(*_: Any) -> None:
        raise Dead

    with monkeypatch.context() as patch:
        patch.setattr(adopt, "read_out", dying)
        with pytest.raises(Dead):
            small_fit(aside / "killed")
    resumed, whole = small_fit(aside / "killed"), small_fit(tmp_path / "whole")
    steps = [[record["step"] for record in run.metrics()] for run in (resumed, whole)]
    assert steps[0] == steps[1] == list(range(6))
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(run.path.glob("weights/*.safetensors"))]
        for run in (resumed, whole)
    ]
    assert digests[0] == digests[1] != []


def test_two_processes_follow_the_curve_of_one(aside, tmp_path, monkeypatch):
    """Same global batch, and the same readouts when they are solved anew: losses agree but for the order of sums."""
    monkeypatch.setattr(Readout, "positions", at_rest)
    made = [Run.load(aside / "two"), small_fit(tmp_path / "one", objective={"solve_first": 3})]
    curves = [[record["loss"] for record in run.metrics()] for run in made]
    assert len(curves[0]) == 6
    assert np.allclose(curves[0], curves[1], rtol=1e-4)
    assert np.ptp(curves[0]) > 0.01
    weights = [run.weights()[0]["encoder.readout.weight"] for run in made]
    assert torch.allclose(*weights, atol=0.02)


# ------------------------------------------------------------------------------------------------------------- adoption


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Trained on two of three animals, with eyes."""
    recipe = small(encoder={"perspective": True, "retina_px": (8, 12)}, split={"fold": 2})
    return verbs.fit(recipe, three(), tmp_path_factory.mktemp("neurons") / "run", quiet=True)


def test_another_recording_of_a_known_name_is_told(run):
    recipe, model = verbs.trained(run)
    data = three()
    first = data.recordings[0]

    def remarks(responses: np.ndarray) -> tuple[str, ...]:
        one = replace(first, responses=responses)
        return model.suit(NeuronSamples(replace(data, recordings=[one, *data.recordings[1:]]), recipe)).remarks

    assert remarks(first.responses) == ()
    # what comes after the beginning may change: trials were added
    later = first.responses.copy()
    later[250:] += 1
    assert len(later) > 250
    assert remarks(later) == ()
    (said,) = remarks(first.responses[::-1].copy())
    assert "A/scan" in said
    assert "another id" in said


def test_a_held_out_animal_teaches_nothing(run, tmp_path):
    recipe, _ = verbs.trained(run)
    data = three()

    def trained(changed: int) -> Run:
        one = data.recordings[changed]
        other = replace(
            one, responses=one.responses[::-1] + 1, video=one.video[::-1].copy(),
            behaviour=one.behaviour[::-1].copy(), pupil=one.pupil[::-1].copy(),
        )  # fmt: skip
        recordings = [other if number == changed else one for number, one in enumerate(data.recordings)]
        return verbs.fit(recipe, replace(data, recordings=recordings), tmp_path / str(changed), quiet=True)

    state, config = run.weights()
    assert [one["id"] for one in config["recordings"]] == ["A/scan", "B/scan"]
    assert same(state, trained(2).weights()[0])
    assert not same(state, trained(1).weights()[0])


def test_an_unknown_recording_is_adopted_and_nothing_that_was_known_changes(run):
    recipe, model = verbs.trained(run)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    samples = model.suit(NeuronSamples(three(), recipe))
    after = model.state_dict()
    assert before.keys() == after.keys()
    grown = set()
    for name, value in before.items():
        assert torch.equal(after[name][: len(value)], value), name
        if after[name].shape != value.shape:
            grown.add(name.split(".")[1])
            assert after[name].isfinite().all()
            own = after[name][len(value) :]
            if not name.startswith("encoder.readout"):
                assert torch.allclose(own, value.mean(0).expand_as(own), atol=1e-6), name
    assert grown == {"perspective", "modulation", "readout"}
    assert [one.id for one in model.known] == ["A/scan", "B/scan", "C/scan"]
    assert model.encoder.readout.weight[9:].flatten(1).norm(dim=1).min() > 0
    # what is known is not learned again
    model.suit(samples)
    assert same(after, model.state_dict())


def test_an_adopted_animal_is_predicted_better_than_by_a_constant_on_what_taught_it(run):
    recipe, model = verbs.trained(run)
    samples = model.suit(NeuronSamples(three(), recipe))
    kept = samples.kept[2]
    some = clips(kept.recording, "train")
    predicted = np.concatenate([model.predict(kept, clip)[3:] for clip in some])
    observed = np.concatenate([clip.responses()[3:, kept.columns] for clip in some])
    # a constant rate of one has a loss of one
    assert (predicted - observed * np.log(predicted)).mean() < 0.9


def test_barcodes_are_unit_vectors_in_the_order_of_the_samples(run):
    """The same neurons, their recordings the other way round: each keeps its own barcode."""
    recipe, model = verbs.trained(run)
    turned = source(
        recording("C", 0, neurons=6), recording("B", 6, neurons=4, frames=(60, 20, 30, 90, 25)), recording("A", 10)
    )
    samples = model.suit(NeuronSamples(turned, recipe))
    assert samples.order == (2, 1, 0)
    rows = np.random.default_rng(0).permutation(len(samples))
    found = model.describe(samples.read(rows))
    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    weight = (model.encoder.readout.weight.detach().flatten(1) @ model.spread).numpy()
    at = {name: number for number, name in enumerate(sum((one.neurons for one in model.known), ()))}
    named = [weight[at[str(name)]] for name in samples.places["id"].iloc[rows]]
    assert np.allclose(found, named / np.linalg.norm(named, axis=1, keepdims=True), atol=1e-5)


def test_known_recordings_with_other_neurons_are_refused(run):
    recipe, model = verbs.trained(run)
    data = source(recording("A", 0, neurons=4))
    with pytest.raises(Refused, match="neurons of A/scan should be those that the model was trained on"):
        model.suit(NeuronSamples(data, recipe))


def test_controls_describe_rows_of_several_recordings_in_any_order():
    samples = NeuronSamples(three(), small())
    made = controls(small(), samples)
    assert set(made) == {"untrained", "statistics", "filters", "position"}
    rows = np.random.default_rng(1).permutation(15)
    for name, describe in made.items():
        whole = describe(samples.read(np.arange(15)))
        assert whole.shape[0] == 15
        assert np.isfinite(whole).all(), name
        assert len(np.unique(whole, axis=0)) >= (2 if name == "position" else 12), name
        assert np.array_equal(describe(samples.read(rows)), whole[rows]), name
    # each recording is described as if it were alone
    alone = NeuronSamples(source(recording("A", 0)), small())
    for name in ("statistics", "filters", "position"):
        found = controls(small(), alone)[name](alone.read(np.arange(5)))
        assert np.allclose(found, made[name](samples.read(np.arange(5)))), name


# --------------------------------------------------------------------------------------------------- kinds of the model


def test_the_loss_of_a_negative_binomial_is_that_of_scipy_up_to_a_constant():
    recipe = small(objective={"likelihood": "nb"})
    samples = NeuronSamples(three(), recipe)
    model = NeuronModel(recipe, [Known(kept.recording.id, samples.named(kept)) for kept in samples.kept]).eval()
    with torch.no_grad():
        model.dispersion.copy_(torch.linspace(-1, 2, 15))
    batch = samples.batch(0)
    batch["responses"] = batch["responses"].round()
    with torch.no_grad():
        found = float(model.loss(batch).total)
    expected, start = [], 0
    for clip, number in enumerate(batch["animal"].tolist()):
        own = model.slices[number]
        given = [batch[name][clip : clip + 1] for name in ("video", "pupil", "behaviour", "animal")]
        with torch.no_grad():
            rate = model.encoder(*given, own)[0].double().exp().numpy()
        counts = batch["responses"][start : start + rate.size].view(rate.shape).double()
        start += rate.size
        size = model.dispersion.detach()[own].double().exp().numpy()
        surprise = -nbinom.logpmf(counts.numpy(), size, size / (size + rate)) - torch.lgamma(counts + 1).numpy()
        expected.append(surprise[3:].mean())
    assert found == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"objective": {"likelihood": "nb"}}, 8),
        ({"encoder": {"streams": 2}}, 16),
        ({"encoder": {"recurrent": "conv-lstm", "hidden": 8, "common": 8, "recurrent_groups": 2}}, 8),
    ],
    ids=["nb", "streams", "conv-lstm"],
)
def test_each_kind_of_model_trains_all_its_weights_and_describes_neurons(tmp_path, changes, width):
    recipe = small(**changes, fit={"steps": 8, "weight_decay": 0.0, "batch": 6})
    model, run = taught(tmp_path, recipe, three())
    fresh = NeuronModel(recipe, model.known).state_dict()
    still = [name for name, value in model.state_dict().items() if torch.equal(value, fresh[name])]
    assert still == ["spread"]  # known once the readouts are solved
    assert all(np.isfinite(record["loss"]) for record in run.metrics())
    found = model.describe(NeuronSamples(three(), recipe).read(np.arange(15)))
    assert found.shape == (15, width)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


# ----------------------------------------------------------------------------------- animals that are not right


def without_behaviour(one: Recording) -> Recording:
    return replace(one, behaviour=one.behaviour * np.nan, pupil=one.pupil * np.nan)


def with_gaps(one: Recording) -> Recording:
    pupil, behaviour = one.pupil.copy(), one.behaviour.copy()
    pupil[np.random.default_rng(0).random(len(pupil)) < 0.2] = np.nan
    behaviour[:, 1] = np.nan
    return replace(one, pupil=pupil, behaviour=behaviour)


def with_dead(one: Recording) -> Recording:
    values = one.responses.copy()
    values[:, [1, 3]] = 0
    return replace(one, responses=values)


def without_repeats(one: Recording) -> Recording:
    return replace(one, trials=one.trials.iloc[:-1])


def test_animals_that_lack_something_are_learned_described_and_scored_all_the_same(tmp_path):
    spoiled = (without_behaviour, with_gaps, with_dead, without_repeats)
    data = source(*(spoil(recording(name, 5 * i)) for i, (name, spoil) in enumerate(zip("ABCD", spoiled, strict=True))))
    recipe = small(encoder={"perspective": True, "retina_px": (8, 12)})
    made = verbs.fit(recipe, data, tmp_path / "run", quiet=True)
    state, _ = made.weights()
    assert all(value.isfinite().all() for value in state.values())
    table = verbs.embed(made, data, quiet=True)
    assert len(table) == 20
    for rows in (table.X, *(table.obsm[name] for name in table.obsm)):
        assert np.isfinite(np.asarray(rows)).all()
    _, model = verbs.trained(made)
    said = list(answers(recipe, model, model.suit(NeuronSamples(data, recipe))))
    assert all(np.isfinite(one["predicted"]).all() for one in said)
    assert [one["observed"].shape[0] for one in said] == [2, 2, 2, 1]
    found = responses((Answer(**one) for one in said), burn_in=3, split="all", seed=0, about={})
    assert np.isfinite(found.value)
    assert any("no signal power or constant responses" in text for text in found.remarks)
    assert any("1/2 rep" in text for text in found.remarks)
    # what cannot be learned of the dead is not made up: they are predicted to stay silent
    dead = said[2]["predicted"][:, 5:, samples_of(data, 2, [1, 3])]
    assert dead.max() < 0.05


def samples_of(data: Source, number: int, columns: list[int]) -> list[int]:
    """Where some neurons of a recording stand among its samples."""
    kept = NeuronSamples(data, small()).kept[number]
    return [kept.columns.tolist().index(column) for column in columns]


def test_a_recording_whose_training_trials_are_too_short_is_refused_by_name(tmp_path):
    data = source(recording("A", 0), recording("B", 5, neurons=4, frames=(19,) * 8))
    with pytest.raises(Refused, match=r"training trials of B/scan should hold clips of 20 frames(.|\n)*at most 19"):
        verbs.fit(small(), data, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "weights").exists()


def test_the_best_weights_cannot_be_chosen_without_validation_trials(tmp_path):
    one = recording("A", 0)
    data = source(replace(one, trials=one.trials[one.trials["part"] != "valid"]))
    with pytest.raises(Refused, match=r'fit.keep = "best" needs validation trials'):
        taught(tmp_path / "run", small(fit={"keep": "best"}), data)
    # one recording that has some is enough
    both = source(data.recordings[0], recording("B", 5))
    model, _ = taught(tmp_path / "both", small(fit={"keep": "best"}), both)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_responses_that_are_not_finite_are_refused_before_training(tmp_path):
    one = recording("A", 0)
    values = one.responses.copy()
    values[:300:7, 2] = np.nan
    with pytest.raises(Refused, match="zero or more"):
        taught(tmp_path / "run", small(), source(replace(one, responses=values)))


@pytest.mark.parametrize("frames", [(200,), (200, 200), (50,) * 4], ids=str)
def test_a_recording_with_few_trials_is_cut_into_enough_pieces(tmp_path, frames):
    run = verbs.fit(small(), source(recording("A", 0, frames=frames)), tmp_path / "run", quiet=True)
    assert run.has("weights")


def test_neurons_are_held_out_with_their_animal(tmp_path):
    recipe = small(split={"by": "section", "folds": 0, "fold": 2})
    with pytest.raises(Usage, match="with their animal"):
        verbs.fit(recipe, three(), tmp_path / "run", quiet=True)


def _slow(one):
    return replace(one, rate_hz=10.0)


def _narrow(one):
    return replace(one, video=one.video[:, :, :10])


def _negative(one):
    return replace(one, responses=one.responses - 1)


def _untaught(one):
    return replace(one, trials=one.trials[one.trials.part != "train"])


@pytest.mark.parametrize("spoil", [_slow, _narrow, _negative, _untaught])
def test_recordings_in_memory_pass_the_same_gate_as_files(tmp_path, spoil):
    with pytest.raises(Refused):
        verbs.fit(small(), source(spoil(recording("A", 0))), tmp_path / "run", quiet=True)


class _NeverBest(NeuronModel):
    def judge(self, samples):
        return float("nan")


def test_patience_survives_a_resume_when_nothing_was_ever_best(tmp_path):
    recipe = small(fit={"steps": 12, "save_every": 2, "keep": "best", "judge_every": 2, "patience": 3})
    _, whole = taught(tmp_path / "whole", recipe, three(), _NeverBest)
    with pytest.raises(Interrupted):
        taught(tmp_path / "parts", recipe, three(), _NeverBest, until=4)
    _, parts = taught(tmp_path / "parts", recipe, three(), _NeverBest)
    assert len(whole.metrics()) == len(parts.metrics())
