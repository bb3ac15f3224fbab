"""What is claimed of the patches system, as differences of measured rows with a bar each.

A claim is judged over brains: seeds of one held-out brain are averaged, and the 95 % interval is Student's over brains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student


@dataclass(frozen=True)
class Promise:
    """A row, minus another where one is named, should be above the bar (``sign`` -1: below it).

    ``unless``: it holds as long as nothing else is shown, which says something only where what does differ is found.
    """

    claim: str
    words: str
    row: str
    minus: str = ""
    bar: float = 0.0
    sign: int = 1
    unless: bool = False


def _all() -> list[Promise]:
    frozen, found = "frozen, unknown brain", list[Promise]()
    found += [
        Promise("C1", f"frozen, unknown brain: SpatialNCE minus {rival}", f"{frozen}: gain over {rival}")
        for rival in ("SimCLR", "untrained", "statistics", "coordinates only")
    ]
    found.append(Promise("C1", "frozen: SimCLR minus untrained", f"{frozen}: SimCLR", f"{frozen}: untrained"))
    found.append(
        Promise(
            "C1", "frozen: lead over SimCLR on the unknown brain minus that on known ones",
            f"{frozen}: gain over SimCLR", "frozen, known brains: gain over SimCLR",
        )
    )  # fmt: skip
    scratch = "fine-tuned from scratch, {} labels"
    found.append(
        Promise(
            "C1", "240 labels: SpatialNCE frozen minus scratch", "frozen, macro-F1 from 240 labels", scratch.format(240)
        )
    )
    for count in (60, 240, 1000, "all"):
        own = f"fine-tuned from SpatialNCE, {count} labels"
        for rival in ("scratch", "SimCLR"):
            words = f"fine-tuned, {count} labels: from SpatialNCE minus {'from ' * (rival != 'scratch')}{rival}"
            found.append(Promise("C1", words, own, f"fine-tuned from {rival}, {count} labels"))
    angle = "cutting_angle_deg, tilt 40"
    for name in ("thickness_mm", "curvature", angle, *(f"density_L{layer}" for layer in range(2, 6))):
        found += [
            Promise("C2", f"R2 of {name}: SpatialNCE minus {rival}", f"{name}: gain over {rival}")
            for rival in ("profile", "profile_sd", "SimCLR")
        ]
    for name in ("vessel", "section", "section, among neighbours", "brain"):
        found.append(Promise("C4", f"{name}: SpatialNCE minus SimCLR", name, f"{name}: SimCLR", sign=-1))
    found.append(Promise("C5", "share of errors between neighbours", "share of errors between neighbours", bar=0.8))
    for pair in ("P1+P2", "S1+S2", "Fp1+Fp2", "F1+F2", "T1+T2"):
        row = f"SpatialNCE, {pair}: ARI, held-out brain"
        found.append(Promise("C6", f"{pair} under one label, split: ARI on the held-out brain", row, bar=0.7))
    found.append(
        Promise("C6", "uniform areas called split", "SpatialNCE: uniform areas called split", bar=0.05, sign=-1)
    )
    gain = "coordinates + features, gain over coordinates only"
    found.append(Promise("C7", "networks that follow structure: gain over place", f"networks: {gain}"))
    row = f"networks that follow place alone: {gain}"
    found.append(Promise("C7", "networks that follow place: no gain over place", row, sign=-1, unless=True))
    return found


PROMISES = _all()


def verdicts(rows: pd.DataFrame) -> str:
    """Markdown: each claim with its mean over brains, its interval, and in how many runs it holds."""
    wide = rows.pivot_table(index=["fold", "seed"], columns="row", values="value")
    lines = [
        "| | claim | bar | mean | 95 % over brains | least - most | runs that hold | said |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in PROMISES:
        if one.row not in wide or (one.minus and one.minus not in wide):
            continue
        each = (wide[one.row] - wide[one.minus] if one.minus else wide[one.row]).dropna()
        if each.empty:
            continue
        brains = each.groupby("fold").mean()
        half = np.nan
        if len(brains) > 1:
            half = float(student.ppf(0.975, len(brains) - 1) * brains.std(ddof=1) / np.sqrt(len(brains)))
        mean, ahead = float(brains.mean()), one.sign * (each - one.bar)
        said = "open"
        if np.isfinite(half):
            low, high = sorted(one.sign * (mean + side * half - one.bar) for side in (-1, 1))
            # what never varies is on the bar or off it
            holds = low > 0 or (half == 0 and high >= 0) or (one.unless and high >= 0)
            said = "yes" if holds else "no" if high < 0 else "not told"
        ends = "" if np.isnan(half) else f"[{mean - half:+.3f}, {mean + half:+.3f}]"
        lines.append(
            f"| {one.claim} | {one.words} | {'<' if one.sign < 0 else '>'} {one.bar:g} | {mean:+.3f} | {ends} "
            f"| {each.min():+.3f} - {each.max():+.3f} | {int((ahead > 0).sum())} of {len(each)} | {said} |"
        )
    return "\n".join(lines) + "\n"
