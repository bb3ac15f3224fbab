"""What benchmarks of several runs share: one table of means, ranges and intervals, a line per row that was measured."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def table(rows: pd.DataFrame, by: Sequence[str], heads: Sequence[str] = ()) -> str:
    """Markdown of rows with ``value``, ``low``, ``high``, ``n`` and ``sections``, a line for each of ``by``.

    Intervals are the mean over runs of theirs; ``heads`` are columns whose mean is shown before the name.
    """
    cells = [*by[:-1], *heads, by[-1], "mean", "least - most", "95 % (mean of runs)", "runs", "n a run"]
    lines = [f"| {' | '.join(cells)} |", "|" + "---|" * len(cells)]
    for names, part in rows.groupby(list(by), sort=False):
        value, (low, high) = part["value"].astype(float), part[["low", "high"]].astype(float).mean()
        ends = "" if pd.isna(low) or pd.isna(high) else f"[{low:.3f}, {high:.3f}]"
        said = [
            *names[:-1], *(f"{part[head].mean():.0f}" for head in heads), names[-1], f"{value.mean():.3f}",
            f"{value.min():.3f} - {value.max():.3f}", ends, str(len(part)),
            f"{part['n'].mean():,.0f} in {part['sections'].mean():.0f} sections",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, said))} |")
    return "\n".join(lines) + "\n"
