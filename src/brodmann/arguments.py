"""What the words at the shell mean before they are parsed."""

from __future__ import annotations

from collections.abc import Sequence

MANY = ("--set", "--against", "--k", "--surface", "--areas")
"""Flags that take several values."""


def together(words: Sequence[str]) -> list[str]:
    """Values of a flag that is given several times, as if it were given once: only the last would count otherwise."""
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    into = rest
    for word in words:
        if word in MANY:
            into = values.setdefault(word, [])
        else:
            into = rest if word.startswith("--") else into
            into.append(word)
    return rest + [word for flag, some in values.items() for word in (flag, *some)]
