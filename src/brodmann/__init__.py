"""Brodmann: from raw brain data to maps of brain organisation, with foundation models that anyone can train and check.

The verbs are the same in Python and at the shell::

    import brodmann as bm
    run = bm.fit("patches-tiny", data="phantom", out="runs/first")
    table = bm.embed(run)
    score = bm.score("areas", run, target="area")
    bm.map(run, "area")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brodmann.conversion import convert
    from brodmann.explaining import explain
    from brodmann.exports import export
    from brodmann.inspection import validate
    from brodmann.results import map, score
    from brodmann.stages import pipeline
    from brodmann.verbs import embed, fit, load, recipe, recipe_names, table
    from brodmann.viewer.serve import view

__version__ = "0.1.0"

__all__ = [
    "convert", "embed", "explain", "export", "fit", "load", "map", "pipeline", "recipe", "recipe_names", "score",
    "table", "validate", "view",
]  # fmt: skip

_HOME = {
    **dict.fromkeys(("embed", "fit", "load", "recipe", "recipe_names", "table"), "verbs"),
    **dict.fromkeys(("map", "score"), "results"),
    "convert": "conversion",
    "explain": "explaining",
    "export": "exports",
    "pipeline": "stages",
    "validate": "inspection",
    "view": "viewer.serve",
}


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used: `import brodmann` itself takes no time."""
    if name not in _HOME:
        raise AttributeError(f"module 'brodmann' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"brodmann.{_HOME[name]}"), name)
