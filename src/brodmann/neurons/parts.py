"""Which trials teach and which judge: parts that the data name are kept, the rest is dealt by clips and by time.

What is dealt is the *clip*, not the trial, and in all recordings at once: the core is shared between animals, so a clip
that judges one of them must teach none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from brodmann.errors import Leak, Refused
from brodmann.neurons.source import PARTS

_SNAP = 0.25
"""A cut moves to the nearest edge of a trial if that costs no part more than this share of the smallest."""


@dataclass(frozen=True)
class Piece:
    """Frames ``start .. stop - 1`` of a clip, and their part."""

    start: int
    stop: int
    part: str


def deal(
    tables: Sequence[pd.DataFrame], names: Sequence[str], *, rate_hz: float, valid: float, test: float, gap_s: float
) -> tuple[list[pd.DataFrame], list[list[str]]]:
    """Deal the trials of all recordings into train, valid and test.

    1. Parts that the data state are kept. If they name no "valid", it is the last ``valid`` share of the training.
    2. Without stated parts, clips shown several times are the test, unless they hold most of the video.
    3. Where nothing is stated and that gives no test, it is the last ``test`` share of the time; before it a ``valid``
       share of the training time. A cut that falls far inside a clip divides it, ``gap_s`` left out on both sides.
    4. A clip has one part in all recordings; training trials that show another recording's test clip are left out.

    Parameters
    ----------
    tables : sequence of DataFrame
        Per recording the trials of `Recording`; ``part`` is "" where the data do not say.
    names : sequence of str
        Names of the recordings, for messages.
    rate_hz : float
        Frames per second.
    valid, test : float
        Shares of time.
    gap_s : float
        Time left out on both sides of a cut within a clip.

    Returns
    -------
    tables : list of DataFrame
        With ``part`` "train", "valid" or "test" throughout. Pieces of a divided clip are trials of their own, named
        ``clip[start:stop]``.
    remarks : list of list of str
        Per recording, what was done.

    Raises
    ------
    Leak
        One recording states two parts for one clip.
    Refused
        An unknown part; no training frames.
    """
    length: dict[str, int] = {}
    for table, name in zip(tables, names, strict=True):
        _check_stated(table, name)
        for clip, frames in zip(table["clip"], table["frames"], strict=True):
            length[clip] = min(length.get(clip, int(frames)), int(frames))
    decided = _stated(tables, length)
    remarks: list[list[str]] = [[] for _ in tables]
    for table, said in zip(tables, remarks, strict=True):
        if (table["part"] == "").all():
            _repeated(table, length, decided, said)
    gap = math.ceil(gap_s * rate_hz - 1e-9)
    for table, said in zip(tables, remarks, strict=True):
        _by_time(table, length, decided, said, shares=(valid, test), gap=gap)
    dealt = [_applied(table, decided, said) for table, said in zip(tables, remarks, strict=True)]
    if not any((table["part"] == "train").any() for table in dealt):
        seconds = sum(float(table["frames"].sum()) for table in tables) / rate_hz
        raise Refused(
            "recordings should leave frames to train on.",
            found=f"none of {seconds:,.0f} s" + (f", {gap_s:g} s left out beside each cut." if gap else "."),
            cause="a recording too short to cut, or parts that are all test.",
            do="give more time, name the parts, or leave out less: --set samples.gap_s=0.",
        )
    for table, said in zip(dealt, remarks, strict=True):
        counts = table.loc[table["part"] == "test", "clip"].value_counts()
        if not (counts > 1).any():
            said.append("no test clip is shown more than once: CC_norm cannot be had, scores are of single trials")
        said.extend(f"no {part} frames" for part in PARTS if not (table["part"] == part).any())
    return dealt, remarks


def _check_stated(table: pd.DataFrame, name: str) -> None:
    unknown = sorted(set(table["part"]) - {"", *PARTS})
    if unknown:
        raise Refused(f"parts of {name} should be {', '.join(PARTS)}.", found=f"'{unknown[0]}'.")
    stated = table[table["part"] != ""]
    words: dict[str, set[str]] = {}
    for clip, part in zip(stated["clip"], stated["part"], strict=True):
        words.setdefault(str(clip), set()).add(str(part))
    several = [(clip, sorted(found)) for clip, found in words.items() if len(found) > 1]
    if several:
        clip, found = several[0]
        raise Leak(
            f"trials of {name} that show one clip should have one part.",
            found=f"clip '{clip}' is {' and '.join(found)}; {len(several):,} such clips.",
            cause="parts drawn by trial, so that repeats of a clip fell into several.",
            do="give all repeats of a clip the same part.",
        )


def _stated(tables: Sequence[pd.DataFrame], length: dict[str, int]) -> dict[str, list[Piece]]:
    """Parts that the data name; "train" only where they name a "valid", too, or else it is to be carved from it."""
    decided: dict[str, list[Piece]] = {}
    # the stricter part goes last and wins
    for part in PARTS:
        for table in tables:
            if part == "train" and not (table["part"] == "valid").any():
                continue
            for clip in table.loc[table["part"] == part, "clip"]:
                decided[clip] = [Piece(0, length[clip], part)]
    return decided


def _repeated(table: pd.DataFrame, length: dict[str, int], decided: dict[str, list[Piece]], said: list[str]) -> None:
    """Clips shown several times become the test, unless too little would be left to learn from."""
    shown = table["clip"].value_counts()
    repeats = [clip for clip in table["clip"].unique() if shown[clip] > 1]
    if not repeats:
        return
    time = sum(length[clip] for clip in repeats)
    if 2 * time > sum(length[clip] for clip in table["clip"].unique()):
        said.append("most of the video is shown several times: the test is cut from its end, not made of all repeats")
        return
    for clip in repeats:
        decided.setdefault(clip, [Piece(0, length[clip], "test")])
    said.append(f"{len(repeats):,} clips that are shown several times are the test")


def _by_time(
    table: pd.DataFrame,
    length: dict[str, int],
    decided: dict[str, list[Piece]],
    said: list[str],
    *,
    shares: tuple[float, float],
    gap: int,
) -> None:
    """Deal the clips of one recording that have no part yet, in the order in which they were first shown."""
    clips = list(table.sort_values("frame", kind="stable")["clip"].unique())
    known = {piece.part for clip in clips for piece in decided.get(clip, [])}
    clips = [clip for clip in clips if clip not in decided]
    total = sum(length[clip] for clip in clips)
    if not total:
        return
    stated = bool((table["part"] != "").any())
    test = 0.0 if stated or "test" in known else shares[1] * total
    valid = 0.0 if "valid" in known else shares[0] * (total - test)
    bounds = [(total - test - valid, "valid"), (total - test, "test")]
    bounds = [(at, part) for (at, part), size in zip(bounds, (valid, test), strict=True) if size]
    edges: list[int] = [0]
    for clip in clips:
        edges.append(edges[-1] + length[clip])
    smallest = min([size for size in (valid, test) if size], default=0.0)
    cuts: list[tuple[int, str]] = []
    for at, part in bounds:
        near = min(edges[1:-1], key=lambda edge: abs(edge - at), default=-1)
        taken = near in {cut for cut, _ in cuts}
        cuts.append((near if near > 0 and not taken and abs(near - at) <= _SNAP * smallest else round(at), part))
    inside = 0
    for clip, begin, end in zip(clips, edges[:-1], edges[1:], strict=True):
        part = next((part for cut, part in reversed(cuts) if cut <= begin), "train")
        pieces: list[Piece] = []
        start = begin
        for cut, following in cuts:
            if begin < cut < end:
                pieces.append(Piece(start - begin, cut - gap - begin, part))
                start, part, inside = cut + gap, following, inside + 1
        pieces.append(Piece(start - begin, end - begin, part))
        decided[clip] = [piece for piece in pieces if piece.stop > piece.start]
    shares_said = [f"{part} from {cut / total:.0%}" for cut, part in cuts]
    if shares_said:
        within = f", {gap:,} frames left out beside {inside} cuts within clips" if inside else ""
        said.append(f"{len(clips):,} clips are dealt by time: train, {', '.join(shares_said)}{within}")


def _applied(table: pd.DataFrame, decided: dict[str, list[Piece]], said: list[str]) -> pd.DataFrame:
    """Trials with the parts of their clips; what would contradict a stated part is left out."""
    rows: list[dict[Any, Any]] = []
    left: dict[str, int] = {}
    for trial in table.to_dict("records"):
        clip, frames, given = str(trial["clip"]), int(trial["frames"]), str(trial["part"])
        for piece in decided[clip]:
            stop = min(piece.stop, frames)
            if stop <= piece.start:
                continue
            if given not in {"", piece.part} and not (given == "train" and piece.part == "valid"):
                left[given] = left.get(given, 0) + 1
                continue
            whole = len(decided[clip]) == 1 and piece.start == 0 and stop == frames
            rows.append(
                trial
                | {
                    "clip": clip if whole else f"{clip}[{piece.start}:{stop}]",
                    "video": int(trial["video"]) + piece.start,
                    "frame": int(trial["frame"]) + piece.start,
                    "frames": stop - piece.start,
                    "part": piece.part,
                }
            )
    said.extend(
        f"{count:,} {part} trials show clips that another recording keeps for judging; they are left out"
        for part, count in left.items()
    )
    return pd.DataFrame(rows, columns=table.columns).astype({"video": int, "frame": int, "frames": int})
