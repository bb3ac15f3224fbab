"""The one training loop: a model with ``loss(batch)``, samples with ``batch(step)``, a run folder.

Same command again resumes; the batch of a step depends on (seed, step, data) alone, so no loader state is saved.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from brodmann import compute
from brodmann.errors import Diverged, Interrupted
from brodmann.progress import Progress, Say
from brodmann.run import Run
from brodmann.samples import Batch, Loss, Samples, prefetch
from brodmann.settings import Fit
from brodmann.signals import Stop


class Model(Protocol):
    """What the loop needs of a model, besides being an ``nn.Module``."""

    def loss(self, batch: Batch) -> Loss:
        """The scalar to minimise, and what to log."""
        ...


class _Step(nn.Module):
    """The loss as a forward pass, which is what ``DistributedDataParallel`` wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return tuple(cast(Model, self.model).loss(batch))  # pyright: ignore[reportReturnType]


def fit(
    model: nn.Module, samples: Samples, plan: Fit, run: Run, *, say: Say, threads: int = 2, until: int | None = None
) -> nn.Module:
    """Minimise ``model.loss`` over the batches of ``samples``; leave checkpoints and a log in ``run``.

    Parameters
    ----------
    model : nn.Module with ``loss(batch) -> Loss``
        Complete; moved to the process's device. ``renew(samples, step, say)``, if any, changes it before a step;
        ``paces``, if any, are fractions of the learning rate by the first name of parameters.
    samples : Samples
        ``batch(step)`` is called for steps ``0 .. plan.steps * plan.accumulate - 1``.
    plan : Fit
        Steps, batch, optimiser, schedule.
    run : Run
        Open for writing; holds the checkpoints.
    say : callable
        Where messages and progress go.
    threads : int
        Threads that read batches ahead.
    until : int, optional
        Stop with a checkpoint after this step, as a signal would.

    Returns
    -------
    nn.Module
        The trained model.

    Raises
    ------
    Diverged
        On a loss that is not finite; the last checkpoint stays.
    Interrupted
        After a signal; a checkpoint was written.
    """
    device, lead = compute.device(), compute.rank() == 0
    model = compute.share_norms(model.to(device)).train()
    optimizer = _optimizer(model, plan)
    best = Best(plan)
    first = _resume(model, optimizer, best, run, say)
    if first < plan.steps and lead:
        say.estimate(estimate(model, samples, plan, steps=plan.steps - first))
    step_module: nn.Module = _Step(model)
    if compute.world() > 1:
        step_module = nn.parallel.DistributedDataParallel(step_module)
    span = first * plan.accumulate, plan.steps * plan.accumulate
    batches = prefetch(samples, *span, threads=threads, rank=compute.rank(), world=compute.world())
    with Stop() as stop, say.progress("fit", first, plan.steps, enabled=lead) as progress:
        for step in range(first, plan.steps):
            # asked here, so that a run resumed from its last checkpoint stops there too
            if best.waited_enough:
                say(f"no better on the validation part for {plan.patience} looks: stopped after step {step:,}")
                break
            if (renew := getattr(model, "renew", None)) and renew(samples, step, say):
                compute.same(model)
            rate = learning_rate(plan, step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["pace"]
            total, parts = _accumulate(step_module, batches, plan, step, device)
            norm = nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if lead:
                _log(run, progress, step, total, parts, lr=rate, norm=norm)
            done = step + 1
            if plan.keep == "best" and (done % plan.judge_every == 0 or done == plan.steps):
                best.look(model, samples, step, run if lead else None)
            asked = compute.any_rank(stop.asked or done == until)
            if done % plan.save_every == 0 or done == plan.steps or asked:
                if lead:
                    run.save(done, _tensors(model, optimizer) | best.tensors(), _counters(optimizer) | best.counters())
                compute.barrier()
            if asked and done < plan.steps:
                raise Interrupted(
                    f"stopped after step {done:,} of {plan.steps:,}; checkpoint written.",
                    do="run the same command to go on.",
                )
    best.put_back(model)
    return model


class Best:
    """The weights that did best on the validation part so far, and how often they have not been beaten since.

    Parameters
    ----------
    plan : Fit
    """

    def __init__(self, plan: Fit) -> None:
        self.plan, self.loss, self.since = plan, math.inf, 0
        self.state: dict[str, Tensor] = {}

    @property
    def waited_enough(self) -> bool:
        """Whether training should stop early."""
        return 0 < self.plan.patience <= self.since

    def look(self, model: nn.Module, samples: Samples, step: int, run: Run | None) -> None:
        """Judge the model; keep a copy of its weights if they are the best so far, and log the loss."""
        with compute.alone(), compute.resting(model):
            loss = float(cast(Any, model).judge(samples))
        self.since = 0 if loss < self.loss else self.since + 1
        if loss < self.loss:
            self.loss = loss
            self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        if run is not None:
            run.log({"step": step, "valid": loss})

    def put_back(self, model: nn.Module) -> None:
        """Give the model its best weights, if any were kept."""
        if self.state:
            model.load_state_dict(self.state)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {f"best.{name}": value for name, value in self.state.items()}

    def counters(self) -> dict[str, Any]:
        """For a checkpoint: plain JSON."""
        return {"best": {"loss": self.loss if self.state else None, "since": self.since}}

    def restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Put back what a checkpoint held."""
        self.state = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
        if "best" in extra:
            loss, self.since = extra["best"]["loss"], int(extra["best"]["since"])
            self.loss = math.inf if loss is None else float(loss)


def _accumulate(
    module: nn.Module, batches: Any, plan: Fit, step: int, device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of one optimiser step; loss and parts averaged over its batches."""
    totals: list[Tensor] = []
    parts: dict[str, Tensor] = {}
    for part in range(plan.accumulate):
        batch = {key: value.to(device, non_blocking=True) for key, value in next(batches).items()}
        # gradients travel between processes once per step, with the last batch
        quiet = part + 1 < plan.accumulate and isinstance(module, nn.parallel.DistributedDataParallel)
        with module.no_sync() if quiet else contextlib.nullcontext():  # pyright: ignore[reportCallIssue]
            total, named = module(batch)
            if not torch.isfinite(total):
                rows = batch.get("index", torch.empty(0)).tolist()
                raise Diverged(
                    f"the loss of step {step:,} should be finite.",
                    found=f"{total.item()} from samples {rows[:8]}... ({', '.join(named)}).",
                    cause="a learning rate too high, or blank or damaged input.",
                    do="lower fit.lr, or look at these samples; the last checkpoint is untouched.",
                )
            (total / plan.accumulate).backward()
        totals.append(total.detach())
        for name, value in named.items():
            parts[name] = parts.get(name, torch.zeros((), device=device)) + value.detach() / plan.accumulate
    names = sorted(parts)
    # each process saw its own anchors; what is logged is the mean of the global batch
    values = compute.average(torch.stack([torch.stack(totals).mean(), *(parts[name].float() for name in names)]))
    return values[0], dict(zip(names, values[1:], strict=True))


def learning_rate(plan: Fit, step: int) -> float:
    """Linear warm-up, then a half cosine to zero (Loshchilov & Hutter 2017); a pure function of the step."""
    if step < plan.warmup_steps:
        return plan.lr * (step + 1) / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return plan.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def estimate(model: nn.Module, samples: Samples, plan: Fit, *, steps: int, trial: int = 2) -> dict[str, float]:
    """Seconds, bytes of memory and bytes of disk that training will take, from ``trial`` real steps on a copy.

    Returns
    -------
    dict
        ``seconds``, ``memory_bytes`` (weights, gradients, optimiser, activations), ``disk_bytes`` (two checkpoints
        and one being written), ``samples_per_second``.
    """
    device = compute.device()
    trial_model = copy.deepcopy(model)
    count = sum(p.numel() for p in model.parameters())
    before = _memory(device)
    clock = 0.0
    for number in range(trial + 1):
        batch = {key: value.to(device) for key, value in samples.batch(number).items()}
        begun = time.perf_counter()
        # alone on purpose: other processes are not called, so the gathered terms are left out of the trial
        with compute.alone():
            cast(Model, trial_model).loss(batch).total.backward()
        trial_model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        clock += (time.perf_counter() - begun) if number else 0.0
    per_step = clock / trial * plan.accumulate / compute.world()
    return {
        "seconds": per_step * steps,
        "memory_bytes": float(max(0, _memory(device) - before) + 16 * count),
        "disk_bytes": float(3 * 12 * count),
        "samples_per_second": plan.batch * plan.accumulate / per_step,
    }


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _optimizer(model: nn.Module, plan: Fit) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels only: norms, biases and ``model.undecayed`` have no scale to shrink."""
    kept = cast("tuple[str, ...]", getattr(model, "undecayed", ()))
    paces = cast("dict[str, float]", getattr(model, "paces", {}))
    trained: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            decays = name.rpartition(".")[2] not in kept and p.ndim > 1
            trained.setdefault((paces.get(name.partition(".")[0], 1.0), decays), []).append(p)
    decay = {True: plan.weight_decay, False: 0.0}
    groups = [{"params": own, "pace": pace, "weight_decay": decay[wide]} for (pace, wide), own in trained.items()]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=plan.lr)


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that a step changes, flat and by name."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, slots in cast("dict[int, dict[str, Any]]", optimizer.state_dict()["state"]).items():
        for name, value in slots.items():
            state[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    return state


def _counters(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"optimizer": type(optimizer).__name__, "torch": torch.__version__}


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, best: Best, run: Run, say: Say) -> int:
    """Put back the newest valid checkpoint; returns the step to do next."""
    found = run.latest()
    if found is None:
        return 0
    step, tensors, extra = found
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, slot = name.split(".", 2)
            slots.setdefault(int(number), {})[slot] = value
    state = optimizer.state_dict()
    optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
    best.restore(tensors, extra)
    if compute.rank() == 0:
        run.trim(step)
        say(f"going on from step {step:,}")
        if extra.get("torch") != torch.__version__:
            say(f"not bit-identical: the checkpoint is of torch {extra.get('torch')}, this is {torch.__version__}")
    return step


def _log(
    run: Run, progress: Progress, step: int, total: Tensor, parts: dict[str, Tensor], *, lr: float, norm: Tensor
) -> None:
    record = {"step": step, "loss": total.item(), "lr": lr, "gradient": norm.item()}
    record.update({name: value.item() for name, value in parts.items()})
    run.log(record)
    progress.advance(f"loss {record['loss']:.3f}")
