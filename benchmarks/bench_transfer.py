"""A new animal with minutes of data: a core trained on other animals against a network of the animal's own.

    python benchmarks/bench_transfer.py --out FOLDER [--seeds 0 1 2] [--minutes 1 2 4 8 16] [--recipe neurons-tiny]

Planted recordings (`brodmann.phantom.recordings`): the core is trained on all animals but the targets, of which more
neurons were recorded. On a target, the core is kept and only where neurons look and what they read is found
(`brodmann.neurons.adopt`); the rival is the same recipe trained on the same minutes of the target alone, with the same
search for places, the same solved readouts, and early stopping on a sixth of the minutes. Test clips are the same in
all rows: natural video, and five kinds of stimuli that nothing was trained on. Every piece is kept in the folder, so
that the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

import brodmann as bm
from brodmann import phantom, verbs
from brodmann.neurons.answers import answers
from brodmann.neurons.samples import NeuronSamples
from brodmann.neurons.source import Recording, Source
from brodmann.progress import Say
from brodmann.tasks import transfer
from brodmann.tasks._reliability import reliability

LOOKS = {"judge_every": 100, "patience": 5, "keep": "best"}
"""How the animal's own network is stopped: after five looks, a hundred steps apart, without a new best."""


def chosen(source: Source, ids: list[int]) -> Source:
    """Some recordings of a source."""
    recordings: list[Recording] = []
    tables: list[pd.DataFrame] = []
    first = 0
    for number in ids:
        one = source.recordings[number]
        tables.append(source.neurons.iloc[one.rows.start : one.rows.stop])
        recordings.append(dataclasses.replace(one, rows=range(first, first + len(one.rows))))
        first += len(one.rows)
    name = f"{source.fingerprint}{ids}"
    return dataclasses.replace(
        source, recordings=recordings, neurons=pd.concat(tables, ignore_index=True), fingerprint=name
    )


def limited(source: Source, minutes: float, *, judged: bool) -> Source:
    """The first minutes of training; ``judged`` keeps every sixth clip of them to choose when to stop."""
    cut: list[Recording] = []
    for one in source.recordings:
        trials = one.trials
        train = trials[trials["part"] == "train"]
        kept = train[train["frames"].cumsum() <= minutes * 60 * one.rate_hz + 1e-6]
        apart = kept.index[5::6] if judged else kept.index[:0]
        others = trials[trials["part"] == "test"]
        both = pd.concat([kept, others]).sort_values("frame")
        both.loc[apart, "part"] = "valid"
        cut.append(dataclasses.replace(one, trials=both))
    return dataclasses.replace(source, recordings=cut, fingerprint=f"{source.fingerprint}/{minutes}/{judged}")


def judged(model: Any, samples: NeuronSamples) -> dict[str, np.ndarray]:
    """CC_norm of each neuron for each kind of stimulus, and CC_max for natural video."""
    found: dict[str, np.ndarray] = {}
    burn = samples.recipe.samples.burn_in
    for one in answers(samples, model.predict):
        value = reliability(one["predicted"], one["observed"], clips=list(one["clips"].values()), burn_in=burn)
        found[one["domain"]] = value.normalised
        found[f"{one['domain']} CC_max"] = value.maximum
    found["ids"] = one["ids"].astype(str)
    return found


def main() -> None:
    """Run, or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="neurons-tiny")
    parser.add_argument("--animals", type=int, default=8)
    parser.add_argument("--targets", type=int, default=2)
    parser.add_argument("--neurons", type=int, default=250, help="of a target")
    parser.add_argument("--known", type=int, default=1000, help="neurons of an animal that the core is trained on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--methods", nargs="+", default=["foundation", "individual"])
    parser.add_argument("--steps", type=int, default=4800, help="of the core")
    parser.add_argument("--again", type=int, default=0, help="steps that each core learns more, from half the rate")
    parser.add_argument("--own-steps", type=int, default=2400, help="of a target's own network, at most")
    parser.add_argument("--set", nargs="*", default=[], help="changes of the recipe, such as fit.steps=300")
    asked = parser.parse_args()
    changes = dict(text.split("=", 1) for text in asked.set)
    values = {key: (int(value) if value.isdigit() else value) for key, value in changes.items()}
    source = phantom.recordings(animals=asked.animals, neurons=asked.neurons, minutes=max(16.0, *asked.minutes))
    large = phantom.recordings(
        animals=asked.animals, neurons=asked.known, minutes=max(16.0, *asked.minutes), test_clips=2, domain_minutes=0
    )
    known = list(range(asked.animals - asked.targets))
    targets = list(range(len(known), asked.animals))
    points: list[transfer.Point] = []
    ceilings: list[float] = []
    for seed in asked.seeds:
        own = bm.recipe(asked.recipe, {"fit.steps": asked.own_steps, **values, "seed": seed})
        core = asked.out / f"core-{seed}"
        if {"foundation", "tuned"} & set(asked.methods):
            recipe = bm.recipe(asked.recipe, {"fit.steps": asked.steps, **values, "seed": seed})
            verbs.fit(recipe, chosen(large, known), core)
            if asked.again:
                fit = dataclasses.replace(recipe.fit, steps=asked.again, lr=recipe.fit.lr / 2)
                # what was learned before changes slowly: readouts stay right twice as long
                objective = dataclasses.replace(recipe.objective, solve_first=2 * recipe.objective.solve_first)
                recipe = dataclasses.replace(recipe, fit=fit, objective=objective)
                begun, core = core, asked.out / f"core-{seed}-again"
                verbs.fit(recipe, chosen(large, known), core, start=begun)
        for target in targets:
            for minutes in asked.minutes:
                for method in asked.methods:
                    name = "again" if asked.again and method == "foundation" else method
                    kept = asked.out / f"{name}-{seed}-{target}-{minutes:g}.npz"
                    if not kept.exists():
                        begun = time.process_time()
                        found = (
                            foundation(core, source, target, minutes)
                            if method == "foundation"
                            else individual(own, asked.out, source, target, minutes, core=core, method=method)
                        )
                        np.savez_compressed(kept, cpu_s=time.process_time() - begun, **found)
                    with np.load(kept) as found:
                        subject = source.recordings[target].subject
                        print(
                            f"seed {seed} {subject} {minutes:g} min {method}: median CC_norm "
                            f"{np.nanmedian(found['natural']):.3f}, {float(found['cpu_s']):.0f} CPU s",
                            flush=True,
                        )
                        ceilings.append(float(np.nanmedian(found["natural CC_max"])))
                        domains = [name for name in found.files if f"{name} CC_max" in found.files]
                        points += [
                            transfer.Point(
                                subject=subject, seed=seed, minutes=minutes, method=method, ids=found["ids"],
                                cc_norm=found[domain], domain=domain,
                            )
                            for domain in domains
                        ]  # fmt: skip
    if "foundation" not in asked.methods:
        return
    score = transfer.transfer(points)
    score.save(asked.out)
    Console(width=140).print(score.table())
    print(score)
    print(f"median CC_max of natural video: {np.median(ceilings):.2f}")


def foundation(core: Path, source: Source, target: int, minutes: float) -> dict[str, np.ndarray]:
    """The target's readouts on the kept core."""
    recipe, model = verbs.trained(verbs.load(core))
    samples = NeuronSamples(limited(chosen(source, [target]), minutes, judged=False), recipe)
    return judged(model, model.suit(samples))


def individual(
    recipe: Any, out: Path, source: Source, target: int, minutes: float, *, core: Path, method: str
) -> dict[str, np.ndarray]:
    """A network of the target's own, from the same minutes; ``tuned`` begins with the core's weights."""
    plan = dataclasses.replace(recipe.fit, **LOOKS)
    start = core if method == "tuned" else None
    if start:
        plan = dataclasses.replace(plan, lr=plan.lr / 2)
    own = dataclasses.replace(recipe, fit=plan)
    data = limited(chosen(source, [target]), minutes, judged=True)
    folder = out / f"{'tuned' if start else 'own'}-{recipe.seed}-{target}-{minutes:g}"
    verbs.fit(own, data, folder, start=start, quiet=True)
    _, model = verbs.trained(verbs.load(folder))
    # the readouts are solved on all of the minutes, as the foundation's are
    samples = model.suit(NeuronSamples(limited(chosen(source, [target]), minutes, judged=False), own))
    model.settle(samples, Say(quiet=True))
    return judged(model, samples)


if __name__ == "__main__":
    main()
