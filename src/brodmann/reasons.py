"""Files left out and why: a reason that many share is said once, with how many they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_NAMED = 4


def told(skipped: Sequence[tuple[str, str]], *, limit: int) -> list[str]:
    """A text for each reason, whole, in order of appearance; reasons that differ by a name or a number are one.

    Parameters
    ----------
    skipped : sequence of (str, str)
        What was left out, and why.
    limit : int
        Most texts; a last one then counts what is behind the others.

    Returns
    -------
    list of str
        Such as ``"a.png: ..."``, or ``"a.png (and 59 more: b.png, c.png, ...): ..."`` with the first one's reason.
    """
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, reason in skipped:
        file = PurePosixPath(name)
        own = next((one for one in (name, file.name) if one in reason), file.stem)
        masked = re.sub(rf"(?<!\w){re.escape(own)}(?!\w)", "", reason)
        alike.setdefault(re.sub(r"\d+", "", masked), []).append((name, reason))
    groups = list(alike.values())
    texts = [f"{_names([name for name, _ in group])}: {group[0][1]}" for group in groups[:limit]]
    behind = sum(len(group) for group in groups[limit:])
    return [*texts, f"and {behind:,} more"] if behind else texts


def _names(names: list[str]) -> str:
    first, *others = names
    if not others:
        return first
    return f"{first} (and {len(others):,} more: {', '.join(others[:_NAMED])}{', ...' * (len(others) > _NAMED)})"


def words(error: BaseException) -> str:
    """What another library says went wrong, cut to 200 characters, with a full stop: a cause may follow."""
    return f"{str(error)[:200].rstrip('.') or type(error).__name__}."


def indented(texts: Sequence[str], width: int) -> str:
    """Texts below one another, each on a line of its own that begins after ``width`` blanks, as all their lines do."""
    return "".join("\n" + " " * width + text.replace("\n", "\n" + " " * width) for text in texts)
