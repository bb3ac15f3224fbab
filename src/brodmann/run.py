"""The run folder: recipe, environment, log, checkpoints, weights, results, and a manifest that seals them.

A sealed file is never changed behind the manifest's back: whoever rewrites one goes through `Run`, which first takes
it off the list. So a kill leaves an unlisted file, never a false alarm, and damage is never sealed as if it were new.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from brodmann import atomic, checkpoint, environment, manifest, weights
from brodmann import lock as locks
from brodmann.errors import Changed, Corrupt, Usage
from brodmann.progress import Say
from brodmann.settings import diff, digest, plain, read_toml, to_toml

FORMAT = 1
_FIRST = {locks.NAME, "recipe.toml", "environment.json", "run.json"}
"""What a folder may hold whose making was cut short."""


class Run:
    """A run folder; made by `open` or `load`.

    Attributes
    ----------
    path : Path
    system : str
        ``"patches"``, ``"cells"`` ...
    recipe_values : dict
        The recipe as plain data, without ``system``.
    recipe_hash : str
    data_fingerprint : str
    data : str
        Where the data were when the run was last opened for writing; empty if unknown.
    start : dict
        Whose weights training began with, see `brodmann.start`; empty if they were drawn.
    skipped : list of str
        What `fit` or `embed` last left out of the data, and why; empty when loaded.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], recipe_values: dict[str, Any], say: Callable[..., object]):
        self.path = path
        self.system = str(about["system"])
        self.recipe_values = recipe_values
        self.recipe_hash = str(about["recipe_hash"])
        self.data_fingerprint = str(about["data_fingerprint"])
        self.data = str(about.get("data", ""))
        self.start = dict(about.get("start") or {})
        self.skipped: list[str] = []
        self._say = say
        self._lock = locks.Lock(path, say=say)
        self._logging = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        recipe: Any,
        system: str,
        data_fingerprint: str,
        data: str = "",
        start: Mapping[str, Any] | None = None,
        say: Callable[..., object] | None = None,
    ) -> Run:
        """Create a run folder, or come back to one that was made with the same recipe and data.

        Parameters
        ----------
        path : str or Path
        recipe : Recipe
            Of the system.
        system : str
        data_fingerprint : str
            Hash of the data.
        data : str
            Where the data lie; remembered, not compared.
        start : mapping, optional
            Whose weights training begins with; compared by `brodmann.start`.
        say : callable
            Where messages go; standard error if not given.

        Raises
        ------
        Changed
            With a line per key, if something was computed there with another recipe or other data.
        """
        path, say = Path(path).absolute(), say or Say()
        about: dict[str, Any] = {"format": FORMAT, "system": system, "recipe_hash": digest(recipe), "data": data}
        about |= {"data_fingerprint": data_fingerprint, **({"start": dict(start)} if start else {})}
        run = cls(path, about, plain(recipe), say)
        there = {item.name.removesuffix(atomic.PARTIAL) for item in path.iterdir()} if path.is_dir() else set[str]()
        if (path / "run.json").exists():
            before = cls._found(path, say)
            try:
                run._same_as(before)
                run._note_environment()
                if before.data != data and data:
                    run.write_text("run.json", json.dumps(about, indent=1) + "\n")
                return run
            except Changed:
                # of what was refused before its first step nothing would be lost
                if not there <= _FIRST:
                    raise
        elif path.exists() and not there <= _FIRST:
            raise Usage(
                f"{path} should be empty or a run folder.", found="other files.",
                do="name a new folder; nothing in this one was touched.",
            )  # fmt: skip
        with run.lock():
            run.write_text("recipe.toml", to_toml(recipe, system=system))
            run.write_text("environment.json", json.dumps([environment.describe()], indent=1) + "\n")
            # last, because it is what makes the folder a run
            run.write_text("run.json", json.dumps(about, indent=1) + "\n")
        return run

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = True, say: Callable[..., object] | None = None) -> Run:
        """Read a run folder.

        Raises
        ------
        Usage
            If there is no run there.
        Corrupt
            Naming each damaged or missing file, unless ``verify`` is False.
        """
        path = Path(path).absolute()
        if not path.is_dir():
            raise Usage(f"{path} should be a run folder.", found="no such folder.")
        if verify and ((path / manifest.NAME).exists() or (path / "run.json").exists()):
            _verify(path)
        return cls._found(path, say or Say())

    @classmethod
    def _found(cls, path: Path, say: Callable[..., object]) -> Run:
        if not (path / "run.json").exists():
            raise Usage(f"{path} should be a run folder.", found="no run.json in it.", do="make one: 'brodmann fit'.")
        try:
            about = cast("dict[str, Any]", json.loads((path / "run.json").read_text()))
            values = read_toml((path / "recipe.toml").read_text(), where=str(path / "recipe.toml"))
            if about["format"] > FORMAT:
                raise Usage(
                    f"{path} should have format {FORMAT} or older.", found=f"format {about['format']}.",
                    do="upgrade brodmann.",
                )  # fmt: skip
            values.pop("system")
            return cls(path, about, values, say)
        except (ValueError, KeyError, OSError, TypeError) as error:
            if isinstance(error, Usage):
                raise
            raise Corrupt(
                f"run.json and recipe.toml of {path} should be readable.", found=f"{type(error).__name__}: {error}."
            ) from error

    def _same_as(self, before: Run) -> None:
        changes = diff({"system": before.system, **before.recipe_values}, {"system": self.system, **self.recipe_values})
        if changes:
            raise Changed(
                f"the recipe should be the one that {self.path} was made with.",
                found="; ".join(changes) + ".",
                do="use another folder, or go back to the old recipe.",
            )
        if before.recipe_hash != self.recipe_hash:
            raise Corrupt(f"recipe.toml of {self.path} should match the hash in run.json.", found="another hash.")
        if before.data_fingerprint != self.data_fingerprint:
            raise Changed(
                f"the data should be those that {self.path} was made with.",
                found=f"fingerprint {before.data_fingerprint[:12]} -> {self.data_fingerprint[:12]}.",
                cause="files were added, removed or changed since.",
                do="use another folder, or put the old data back.",
            )

    def _note_environment(self) -> None:
        """Add this session's environment if it differs, and say that bits may differ too."""
        path = self.path / "environment.json"
        try:
            known = cast("list[dict[str, Any]]", json.loads(path.read_text()))
        except (OSError, ValueError):
            known = []
        now = environment.describe()
        changes = diff({**(known or [{}])[-1], "date": ""}, {**now, "date": ""})
        if not changes:
            return
        if known:
            self._say(f"not bit-identical to an uninterrupted run, perhaps: {'; '.join(changes)}")
        with self.lock():
            self.write_text("environment.json", json.dumps([*known, now], indent=1) + "\n")

    def lock(self) -> locks.Lock:
        """Context in which this process is the only writer; may be nested.

        Raises
        ------
        Locked
            If another live process writes here.
        """
        return self._lock

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a record with ``step`` to ``metrics.jsonl``; numbers that are not finite are kept as text."""
        path = self.path / "metrics.jsonl"
        if not self._logging:
            self.forget(path.name)
            atomic.mend(path)
            self._logging = True
        atomic.append(path, {key: _finite(value) for key, value in record.items()}, durable=False)

    def metrics(self) -> list[dict[str, Any]]:
        """Records of `log`; a torn last line is left out, damage elsewhere raises `Corrupt`."""
        return atomic.lines(self.path / "metrics.jsonl")

    def trim(self, step: int) -> None:
        """Drop log records of ``step`` and later: they are about to be written again."""
        records = self.metrics()
        kept = [record for record in records if record["step"] < step]
        if len(kept) < len(records):
            self.forget("metrics.jsonl")
            atomic.rewrite(self.path / "metrics.jsonl", kept)

    def save(self, step: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Write a checkpoint that survives whatever happens next; see `checkpoint.save`."""
        self._lock.check()
        if (log := self.path / "metrics.jsonl").exists():
            atomic.sync(log)
        self.forget("checkpoints")
        checkpoint.save(self.path / "checkpoints", step, tensors, extra)

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Newest intact checkpoint as (step, tensors, extra), or None; see `checkpoint.load`."""
        return checkpoint.load(self.path / "checkpoints", say=self._say)

    def drop(self, name: str) -> None:
        """Delete a file or folder of the run that is no longer needed, such as ``"checkpoints"``."""
        self.forget(name)
        atomic.remove(self.path / name)

    def save_weights(self, state: Mapping[str, Tensor], config: Mapping[str, Any], card: str) -> None:
        """Write ``weights/``, a bundle that loads on its own; see `weights.write_bundle`."""
        self._lock.check()
        self.forget("weights")
        weights.write_bundle(self.path / "weights", state, config, card)

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """State dict and config of ``weights/`` after checking their hashes.

        Raises
        ------
        Usage
            If training has not finished.
        """
        if not self.has("weights"):
            raise Usage(
                f"{self.path} should hold weights.", found="none.", cause="training has not finished.",
                do="run the 'brodmann fit' command again; it goes on where it stopped.",
            )  # fmt: skip
        return weights.read_bundle(self.path / "weights")

    def has(self, name: str) -> bool:
        """Whether a file or folder of the run is there and finished."""
        return (self.path / name).exists()

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run, whole or not at all."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file of the run, whole or not at all."""
        self.forget(name)
        atomic.write_bytes(self.path / name, data)

    @contextmanager
    def writing(self, name: str) -> Generator[Path, None, None]:
        """A temporary folder that becomes ``name`` (``"maps"``, ``"figures"``) at the end, whole or not at all."""
        self.forget(name)
        with atomic.folder(self.path / name) as partial:
            yield partial

    def forget(self, name: str) -> None:
        """Take a file, or all files of a folder, off the manifest; needed before changing it by other means."""
        if (listed := self._listed()) is None:
            return
        kept = {key: value for key, value in listed.items() if key != name and not key.startswith(f"{name}/")}
        if len(kept) < len(listed):
            atomic.write_text(self.path / manifest.NAME, manifest.text(kept))

    def seal(self) -> None:
        """Add every new file to ``manifest.json``; called at the end of every verb.

        Raises
        ------
        Corrupt
            If a file sealed earlier has gone or changed its size: it is not sealed as if it were new.
        """
        self._lock.check()
        for partial in [*self.path.rglob(f"*{atomic.PARTIAL}")]:
            atomic.remove(partial)
        listed = self._listed() or {}
        present = manifest.files(self.path, skip=(locks.NAME,))
        gone = sorted(set(listed) - set(present))
        changed = [name for name in present if name in listed and self._size(name) != listed[name]["bytes"]]
        if gone or changed:
            raise _damage(self.path, [f"{n} is missing" for n in gone] + [f"{n} has another size" for n in changed])
        for name in present:
            if name not in listed:
                atomic.sync(self.path / name)
                listed[name] = manifest.entry(self.path / name)
        atomic.write_text(self.path / manifest.NAME, manifest.text(listed))

    def verify(self) -> None:
        """Hash every sealed file.

        Raises
        ------
        Corrupt
            Naming damaged or missing files, up to eight.
        """
        _verify(self.path)

    def _size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def _listed(self) -> manifest.Files | None:
        if not (self.path / manifest.NAME).exists():
            return None
        if (listed := manifest.read(self.path)) is None:
            raise _damage(self.path, [f"{manifest.NAME} is damaged"])
        return listed


def _verify(path: Path) -> None:
    wrong = manifest.problems(path, complete=False)
    if wrong == [f"{manifest.NAME} is missing"] and not (path / "weights").exists():
        raise Usage(
            f"{path} should be a trained run.", found="one that has not finished training.",
            do="run the 'brodmann fit' command again; it goes on where it stopped.",
        )  # fmt: skip
    if wrong:
        raise _damage(path, wrong)


def _damage(path: Path, wrong: list[str]) -> Corrupt:
    unfinished = wrong == [f"{manifest.NAME} is missing"]
    return Corrupt(
        f"{path} should hold what was written to it.",
        found="; ".join(wrong[:8]) + (f"; and {len(wrong) - 8:,} more." if len(wrong) > 8 else "."),
        cause="the last command was cut short." if unfinished else "bits lost on disk, or files edited by hand.",
        do="run that command again; it goes on where it stopped." if unfinished else "restore these files.",
    )


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
