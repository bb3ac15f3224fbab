"""Recipes: frozen, typed, read from TOML, overridden from the shell, hashed; no paths and no devices inside."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, cast, dataclass_transform

import pydantic

from brodmann.errors import Usage

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class a recipe part: frozen, keyword-only, unknown keys refused."""
    wrap = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid"))
    made = cast("type[T]", wrap(cls))
    given = made.__init__

    @functools.wraps(given)
    def by_name(self: T, **values: Any) -> None:
        given(self, **values)

    # pydantic takes members declared with a Field by position, in spite of kw_only
    made.__init__ = by_name
    return made


@settings
class Split:
    """Which rows are held out. Groups are never shared between train and test."""

    by: Literal["brain", "section", "block"] = "section"
    """The unit that is held out whole: a brain (subject), a section, or a cube of tissue."""
    folds: int = pydantic.Field(default=5, ge=0)
    """Number of folds; 0 means one per group (leave one out)."""
    fold: int | None = None
    """The fold kept out of pre-training and used as test; None trains on everything."""
    buffer_mm: float = pydantic.Field(default=0.0, ge=0)
    """Training rows closer than this to a test row (same brain) are dropped."""
    block_mm: float = pydantic.Field(default=2.0, gt=0)
    """Side of the cubes when ``by = "block"``."""


@settings
class Fit:
    """How long and how fast to train."""

    steps: int = pydantic.Field(default=1000, ge=1)
    batch: int = pydantic.Field(default=64, ge=2)
    """Samples per optimiser step over all processes, before accumulation."""
    accumulate: int = pydantic.Field(default=1, ge=1)
    """Batches whose gradients are summed before one optimiser step; each is its own contrast set."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = pydantic.Field(default=2e-3, gt=0)
    warmup_steps: int = pydantic.Field(default=100, ge=0)
    weight_decay: float = pydantic.Field(default=1e-4, ge=0)
    clip: float = pydantic.Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    precision: Literal["bf16", "fp32"] = "bf16"
    save_every: int = pydantic.Field(default=200, ge=1)
    """Steps between checkpoints: the most that a power cut can cost."""
    keep: Literal["last", "best"] = "last"
    """Weights to keep: the last, or those that did best on the data's own validation part (neurons)."""
    judge_every: int = pydantic.Field(default=200, ge=1)
    """Steps between two looks at the validation part; with keep = "best"."""
    patience: int = pydantic.Field(default=0, ge=0)
    """Stop after so many looks in a row without a new best; 0 never stops early."""


def plain(recipe: Any) -> dict[str, Any]:
    """Recipe as nested plain data, TOML-ready: ``None`` values are left out."""

    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            items = cast("Mapping[str, Any]", value).items()
            return {key: strip(item) for key, item in items if item is not None}
        if isinstance(value, tuple | list):
            return [strip(item) for item in cast("tuple[Any, ...]", value)]
        return value

    return strip(dataclasses.asdict(recipe))


def digest(recipe: Any) -> str:
    """SHA-256 of the recipe's content (hex), independent of the order of keys."""
    return hashlib.sha256(json.dumps(plain(recipe), sort_keys=True).encode()).hexdigest()


def to_toml(recipe: Any, *, system: str) -> str:
    """Recipe as TOML text that `build` reads back to an equal recipe."""
    lines = [f"system = {json.dumps(system)}"]

    def emit(table: Mapping[str, Any], path: str) -> None:
        for key, value in table.items():
            if not isinstance(value, Mapping):
                lines.append(f"{key} = {json.dumps(value)}")
        for key, value in table.items():
            if isinstance(value, Mapping):
                lines.append(f"\n[{path}{key}]")
                emit(cast("Mapping[str, Any]", value), f"{path}{key}.")

    emit(plain(recipe), "")
    return "\n".join(lines) + "\n"


def read_toml(text: str, *, where: str) -> dict[str, Any]:
    """Parse TOML; errors name the file and line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Usage(f"{where} should be TOML.", found=str(error)) from error


def build(kind: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Validate plain values into a recipe; every wrong key or value is named with its path.

    Raises
    ------
    Usage
        Listing each problem as ``samples.pixel_um: ...``, with the nearest known key for a typo.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(dict(values))
    except pydantic.ValidationError as error:
        raise Usage(f"{where} should be a valid recipe.", found="; ".join(problems(error, kind))) from error


def problems(error: pydantic.ValidationError, kind: Any) -> list[str]:
    """What is wrong with values given for ``kind``: a path each, with the nearest known key for a typo."""
    import difflib

    parts = _parts(kind)
    keys, classes = {field.name for part in parts for field in dataclasses.fields(part)}, {p.__name__ for p in parts}
    found: list[str] = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"] if part not in classes)
        near = difflib.get_close_matches(str(item["loc"][-1]) if item["loc"] else "", keys, n=1)
        unknown = item["type"] in {"unexpected_keyword_argument", "extra_forbidden"}
        hint = f" Did you mean '{near[0]}'?" if unknown and near else ""
        found.append(f"{path}: {'unknown key.' if unknown else item['msg'] + '.'}{hint}")
    return found


def _parts(kind: Any) -> list[Any]:
    """All settings classes reachable from ``kind``."""
    import typing

    found: list[Any] = []

    def walk(cls: Any) -> None:
        for arg in typing.get_args(cls):
            walk(arg)
        if dataclasses.is_dataclass(cls) and cls not in found:
            found.append(cls)
            for hint in typing.get_type_hints(cls, include_extras=True).values():
                walk(hint)

    walk(kind)
    return found


def changes(texts: Sequence[str]) -> dict[str, Any]:
    """``("fit.steps=300",)`` as ``{"fit.steps": 300}``; values are TOML, bare words are text.

    Raises
    ------
    Usage
        For a text without ``=``.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise Usage("--set takes KEY=VALUE, for example fit.steps=300.", found=f"'{text}'.")
        try:
            found[key.strip()] = read_toml(f"value = {value}", where=text)["value"]
        except Usage:
            found[key.strip()] = value.strip()
    return found


def override(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with dotted ``changes`` applied: ``{"fit.steps": 300}``."""
    result = json.loads(json.dumps(dict(values)))
    for path, value in changes.items():
        *parents, last = path.split(".")
        table = result
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise Usage(f"override '{path}' should name a table.", found=f"'{parent}' is a value.")
        table[last] = value
    return result


def diff(old: Any, new: Any) -> list[str]:
    """Lines ``fit.steps: 1000 -> 300`` for every leaf that differs."""

    def leaves(value: Any, path: str = "") -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {
                key: leaf
                for name, item in cast("Mapping[str, Any]", value).items()
                for key, leaf in leaves(item, f"{path}.{name}" if path else str(name)).items()
            }
        return {path: value}

    a, b = leaves(old), leaves(new)
    return [
        f"{key}: {a.get(key, '(absent)')} -> {b.get(key, '(absent)')}"
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key)
    ]
