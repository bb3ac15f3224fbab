"""The verbs: recipe, fit, embed, score, map, load. The shell calls these very functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import anndata as ad
import numpy as np
import pandas as pd

from brodmann import atomic, compute, describing, features, origin
from brodmann import settings as recipes
from brodmann import start as starts
from brodmann.card import card
from brodmann.errors import Refused, Usage
from brodmann.ledger import Ledger
from brodmann.opening import open_source as open_source
from brodmann.progress import Say
from brodmann.run import Run
from brodmann.systems import name_of, system

_RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in _RECIPES.glob("*.toml"))


def recipe(name: str | Path, changes: Mapping[str, Any] | None = None) -> Any:
    """A recipe by name or from a TOML file, with dotted changes applied.

    Parameters
    ----------
    name : str or path
        ``"patches-tiny"``, or a file.
    changes : mapping, optional
        For example ``{"fit.steps": 300, "seed": 1}``.

    Returns
    -------
    Recipe
        Of the system that the file names.

    Raises
    ------
    Usage
        For an unknown name, key or value, with the nearest known one.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = _RECIPES / f"{name}.toml"
    if not path.is_file():
        import difflib

        near = difflib.get_close_matches(str(name), recipe_names(), n=1)
        raise Usage(
            f"'{name}' should be a recipe.",
            found="neither a known name nor a .toml file.",
            do=f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(recipe_names())}.",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Usage(f"{path.name} should be TOML.", found="text that is not UTF-8.", do="save it as UTF-8.") from error
    values = recipes.read_toml(text, where=path.name)
    module = system(str(values.pop("system", "")))
    return recipes.build(module.Recipe, recipes.override(values, changes or {}), where=path.name)


def fit(
    recipe: Any, data: Any, out: str | Path, *, start: Run | str | Path | None = None, quiet: bool = False,
    threads: int = 2, until: int | None = None,
) -> Run:  # fmt: skip
    """Train the recipe's model on data; the same call again resumes.

    Parameters
    ----------
    recipe : Recipe or str
        A recipe object, or the name of one.
    data : str, path or Source
        See `open_source`.
    out : str or path
        The run folder.
    start : Run or path, optional
        A trained run, whose weights training begins with; see `brodmann.start`.
    quiet : bool
        Say nothing.
    threads : int
        Threads that read batches ahead.
    until : int, optional
        Stop with a checkpoint after this step; the same call without it goes on.

    Returns
    -------
    Run
        With trained weights; ``skipped`` lists sections that were left out, and why.

    Raises
    ------
    Changed
        If the folder belongs to another recipe, other data or another start.
    """
    from brodmann import train

    if isinstance(recipe, str | Path):
        recipe = globals()["recipe"](recipe)
    say, module = Say(quiet=quiet or not compute.lead()), system(name_of(recipe))
    atomic.admits(Path(out).absolute(), "the run")
    compute.keep_memory()
    with compute.team():
        source = in_turn(lambda: open_source(recipe, data))
        samples = module.samples(source, recipe, part="train")
        begun = starts.read(start, recipe, source, samples, out)
        about = {"system": name_of(recipe), "data_fingerprint": samples.fingerprint, "data": remembered(data)}
        began = None if begun is None else begun.about
        run = in_turn(lambda: Run.open(out, recipe=recipe, **about, start=began, say=say))
        run.skipped = _skipped(samples, say)
        with run.lock() if compute.rank() == 0 else contextlib.nullcontext():
            if run.has("weights"):
                say(f"{run.path} is trained already; nothing to do.")
            else:
                say(f"to train on: {samples.extent}")
                for remark in getattr(samples, "remarks", ()):
                    say(remark)
                model = module.build(recipe, samples)
                for remark in starts.begin(model, begun):
                    say(remark)
                samples = model.suit(samples, say)
                train.fit(model, samples, recipe.fit, run, say=say, threads=threads, until=until)
                if settle := getattr(model, "settle", None):
                    settle(samples, say)
                if compute.rank() == 0:
                    config = {**model.config(), "source": source.fingerprint}
                    run.save_weights(model.state_dict(), config, card(recipe, source, samples, run.start))
            if compute.rank() == 0:
                # also after a kill between the weights and the seal
                run.drop("checkpoints")
                run.seal()
        compute.barrier()
    return run


def in_turn(work: Callable[[], Any]) -> Any:
    """Do something in the first process before the others: what must be made or converted is made once."""
    if compute.rank() > 0:
        compute.barrier()
    made = work()
    if compute.rank() == 0:
        compute.barrier()
    return made


def embed(run: Run | str | Path, data: Any = None, *, controls: bool = True, quiet: bool = False) -> ad.AnnData:
    """One row per sample: features, coordinates, labels and the control features; the same call again resumes.

    Parameters
    ----------
    run : Run or path
        A trained run.
    data : optional
        Defaults to what the run was trained on.
    controls : bool
        Also describe every sample with an untrained encoder and with hand-made statistics.
    quiet : bool
        Say nothing.

    Returns
    -------
    AnnData
        The feature table, as stored in ``features.zarr`` of the run.
    """
    run = load(run) if not isinstance(run, Run) else run
    tabulate(run, data, controls=controls, quiet=quiet)
    return features.read(run.path / "features.zarr")


def tabulate(run: Run, data: Any = None, *, controls: bool = True, quiet: bool = False) -> None:
    """What `embed` does before it reads the table, which only one of several processes needs to do."""
    say = Say(quiet=quiet or not compute.lead())
    recipe, model = trained(run)
    module = system(run.system)
    data = data if data is not None else data_of(run)
    compute.keep_memory()
    with compute.team():
        source = in_turn(lambda: open_source(recipe, data))
        same_data = source.fingerprint == run.weights()[1].get("source")
        samples = module.samples(source, recipe, part="all")
        run.skipped = _skipped(samples, say)
        samples = model.suit(samples, say)
        for remark in samples.remarks:
            say(remark)
        made = module.controls(recipe, samples) if controls else {}
        if _has_table(run, samples.fingerprint, set(made)):
            say(f"{run.path} holds this table already; nothing to do.")
            # every process has looked before the first one seals
            compute.barrier()
            if compute.lead():
                with run.lock():
                    # also after a kill between the table and the seal
                    run.drop("shards")
                    run.seal()
            return
        with run.lock() if compute.rank() == 0 else contextlib.nullcontext():
            key = f"{run.recipe_hash}/{samples.fingerprint}/{'+'.join(sorted(made))}"
            size = {"rows": len(samples), "shard_rows": samples.shard_rows}
            ledger = in_turn(lambda: Ledger(run.path, **size, key=key, say=say))
            todo = ledger.missing()
            makers = {"X": model.describe, **{f"baseline_{name}": describe for name, describe in made.items()}}
            head = getattr(model, "head_config", dict)()
            makers |= {"probability": model.probability} if head else {}
            if compute.rank() == 0 and len(todo) >= _LONG:
                rows = sum(len(ledger.rows(shard)) for shard in todo)
                say(f"{rows:,} of {len(samples):,} rows to describe")
                say.estimate(describing.estimate(samples, makers, rows, world=compute.world()))
            with say.progress("embed", len(ledger) - len(todo), len(ledger), enabled=compute.rank() == 0) as progress:
                for shard in todo[compute.rank() :: compute.world()]:
                    ledger.add(shard, describing.describe(samples, makers, ledger.rows(shard)))
                    progress.advance(by=compute.world())
            compute.barrier()
            if compute.rank() == 0:
                ledger = Ledger(run.path, **size, key=key, say=say)
                _store(run, recipe, samples, ledger, head=head, same_data=same_data, data=remembered(data))
        compute.barrier()


_LONG = 4
"""Shards from which on a pass is announced with an estimate."""


def _has_table(run: Run, fingerprint: str, controls: set[str]) -> bool:
    """Whether the run holds a finished table of these very samples, with these controls."""
    if not run.has("features.zarr") or run.has("ledger.jsonl"):
        return False
    about, names = features.about(run.path / "features.zarr")
    held = {name.removeprefix("baseline_") for name in names if name.startswith("baseline_")}
    return about["data_fingerprint"] == fingerprint and controls <= held


def _store(
    run: Run, recipe: Any, samples: Any, ledger: Ledger, *, head: dict[str, Any], same_data: bool, data: str
) -> None:
    """Join the shards to the feature table and seal the run.

    ``same_data`` says whether the held-out fold of the recipe is the one the encoder was kept from.
    """
    run.forget("features.zarr")
    features.write_pieces(
        run.path / "features.zarr",
        ledger.collect(),
        pd.concat([samples.places, samples.labels.reset_index(drop=True)], axis=1),
        samples.space,
        samples.places[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float32),
        uns={
            "system": run.system,
            "recipe_hash": run.recipe_hash,
            "data_fingerprint": samples.fingerprint,
            "split": recipes.plain(recipe)["split"],
            "encoder_fold": origin.encoder_fold(run, recipe.split, samples.places, same_data=same_data),
            "same_data": same_data,
            **({"head": head} if head else {}),
            **({"start": starts.sentences(run.start)} if run.start else {}),
            "data": data,
            "skipped": run.skipped,
        },
    )
    ledger.clear()
    run.seal()


def skipped(table: ad.AnnData) -> list[str]:
    """What was left out when the table was made."""
    return [str(line) for line in cast("Any", table.uns["brodmann"]).get("skipped", [])]


def trained(run: Run) -> tuple[Any, Any]:
    """Recipe and trained model of a run, ready to describe samples.

    Raises
    ------
    Usage
        If the run was not trained to the end.
    Corrupt
        If a byte of the weights is not the byte that was written.
    """
    module = system(run.system)
    recipe = recipes.build(module.Recipe, run.recipe_values, where=f"{run.path.name}/recipe.toml")
    state, config = run.weights()
    model = module.rebuild(recipe, config)
    model.load_state_dict(state)
    return recipe, model.to(compute.device()).eval()


def load(path: str | Path) -> Run:
    """Open a run folder; every file is checked against the hash that was written with it."""
    return Run.load(path)


def describe_recipes() -> str:
    """A line per recipe: its name and the first comment of its file."""
    return "\n".join(
        f"{name:26s}{(_RECIPES / f'{name}.toml').read_text().splitlines()[0].lstrip('# ')}" for name in recipe_names()
    )


def table(run: Run | str | Path) -> ad.AnnData:
    """The feature table of a run.

    Raises
    ------
    Refused
        If the run has none yet.
    """
    run = load(run) if not isinstance(run, Run) else run
    path = run.path / "features.zarr"
    if not path.exists():
        raise Refused(f"{run.path} should hold a feature table.", found="none.", do=f"run `brodmann embed {run.path}`.")
    return features.read(path)


def remembered(data: Any) -> str:
    """What `embed` opens when no data are named: the phantom's settings, or an absolute path; empty if in memory."""
    if isinstance(data, str) and data.partition(":")[0] == "phantom":
        return data
    return str(Path(data).resolve()) if isinstance(data, str | Path) else ""


def data_of(run: Run) -> str:
    """Where the data of a run lie.

    Raises
    ------
    Usage
        If it was trained from an object in memory.
    """
    if not run.data:
        raise Usage(
            "this verb needs the data of the run.",
            found="a run trained from an object in memory.",
            do="pass data=... again.",
        )
    return run.data


def _skipped(samples: Any, say: Say) -> list[str]:
    """What was left out and why, said and returned."""
    lines = [f"{name}: {reason}" for name, reason in samples.skipped]
    for line in lines:
        say(f"skipped {line}")
    return lines
