"""The systems, by name; imported when first asked for."""

from __future__ import annotations

import importlib
from typing import Any

from brodmann.errors import Usage

SYSTEMS = ("patches", "cells", "neurons")


def system(name: str) -> Any:
    """The module of a system.

    It has ``Recipe``, ``open``, ``samples``, ``build``, ``rebuild``, ``controls``, ``pictures``, ``window``; one that
    predicts responses also ``answers``, ``tunings``, ``unseen``: see `brodmann.questions`; one that tells layers also
    ``segmentation``: see `brodmann.layering`.
    """
    if name not in SYSTEMS:
        raise Usage(
            "a recipe should name its system.",
            found=f"'{name}'." if name else "no 'system' in it.",
            do=f'name one of {", ".join(SYSTEMS)} in its first line: system = "{SYSTEMS[0]}".',
        )
    return importlib.import_module(f"brodmann.{name}")


def name_of(recipe: Any) -> str:
    """The system that a recipe object belongs to."""
    return type(recipe).__module__.split(".")[1]
