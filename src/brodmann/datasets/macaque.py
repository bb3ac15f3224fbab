"""Macaque V1: responses of three neurons to 7,600 still black-and-white patterns: bars, corners, stars, gratings.

``patterns.npz`` holds ``packed160``, the bits of 9,500 patterns of 160 x 160 px (1 is the ground), and ``small20``,
the same at 20 x 20. ``neu<k>.npy`` hold the responses to the first 7,600 of them. Every pattern is a trial of one
frame: how long it was shown is not in the data, and `RATE_HZ` is a name only. A fifth to a third of the responses are
negative, which a rate cannot be: they are read as 0. `responses` gives them as they are; predictions are judged
against those.

Patterns are ordered by category, and within one by turn and size. A random split asks to fill in between neighbours,
the last ones in order ask for categories never seen: name the split beside every score.

Reference: Tang et al. 2018, Current Biology 28:38; Wu et al. 2020. Files: leelabcnbc/Fixed_Kernel_CNN, no licence
stated: for measuring only.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import caches
from brodmann.errors import Refused
from brodmann.neurons import cache
from brodmann.neurons.source import Source
from brodmann.samples import stream
from brodmann.space import unregistered

CITATION = "Tang et al. 2018, https://doi.org/10.1016/j.cub.2017.11.039"
LICENSE = "none stated"
PATTERNS = "patterns.npz"
UNITS = (75, 255, 381)
"""Numbers of the neurons in the files' names."""
SHOWN, SIDE_PX = 7600, 160
RATE_HZ = 1.0
TEST, VALID = 1900, 380
"""Patterns that judge, and that choose; the others teach."""
GROUND, FIGURE = 128, 255
"""Grey values of the two; the ground is the network's zero. Which of them was brighter is not stated."""

Order = Literal["random", "last"]


def open(folder: str | Path, *, split: Order, seed: int = 0) -> Source:
    """The three neurons as one recording, every pattern a trial of one frame.

    Parameters
    ----------
    folder : path
        Holds ``patterns.npz`` and ``neu<k>.npy``. The cache lies in ``$BRODMANN_CACHE`` or ``~/.cache/brodmann`` and
        takes 195 MB; both splits share it.
    split : {"random", "last"}
        Test patterns: drawn at random, or the last in order.
    seed : int
        Of the draw; validation patterns are drawn in both splits.

    Raises
    ------
    Refused
        A file is missing or is not this set.
    NoRoom
        The cache does not fit on its disk.
    """
    folder = Path(folder)
    names = (PATTERNS, *(f"neu{unit}.npy" for unit in UNITS))
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise Refused(f"{folder.name} should hold {', '.join(names)}.", found=f"no {absent[0]}.")
    content = b"".join((folder / name).read_bytes() for name in names)
    key = hashlib.sha256(content + repr((GROUND, FIGURE, RATE_HZ, cache.VERSION)).encode()).hexdigest()
    where = caches.home() / f"neurons-macaque-{key[:20]}"
    if not (where / caches.MANIFEST).is_file():
        _convert(folder, where)
    source = cache.read(where)
    recording = source.recordings[0]
    said = f"{TEST:,} of {SHOWN:,} patterns are the test: " + (
        f"drawn at random, seed {seed}" if split == "random" else "the last in order"
    )
    recording = dataclasses.replace(
        recording, trials=recording.trials.assign(part=parts(split, seed)), remarks=[*recording.remarks, said]
    )
    fingerprint = hashlib.sha256(f"{source.fingerprint} {split} {seed}".encode()).hexdigest()
    return dataclasses.replace(source, recordings=[recording], fingerprint=fingerprint)


def parts(split: Order, seed: int = 0) -> NDArray[np.str_]:
    """Part of every pattern (`SHOWN`,): "train", "valid" or "test"."""
    order = np.arange(SHOWN)
    rng = stream(seed, "macaque", split)
    test = rng.permutation(order)[:TEST] if split == "random" else order[-TEST:]
    part = np.full(SHOWN, "train")
    part[rng.permutation(np.setdiff1d(order, test))[:VALID]] = "valid"
    part[test] = "test"
    return part


def patterns(folder: str | Path) -> NDArray[np.uint8]:
    """All patterns (`SHOWN`, `SIDE_PX`, `SIDE_PX`) uint8, in the grey values of the video."""
    with np.load(Path(folder) / PATTERNS, allow_pickle=False) as file:
        packed = file["packed160"] if "packed160" in file else np.zeros((0, 0), np.uint8)
    if packed.shape[0] < SHOWN or packed.shape[1] * 8 != SIDE_PX**2:
        raise Refused(
            f"{PATTERNS} should hold packed160, bits of at least {SHOWN:,} patterns of {SIDE_PX} x {SIDE_PX}.",
            found=f"an array {packed.shape}.",
        )
    bits = np.unpackbits(packed[:SHOWN], axis=1).reshape(SHOWN, SIDE_PX, SIDE_PX)
    return np.where(bits > 0, np.uint8(GROUND), np.uint8(FIGURE))


def small(folder: str | Path) -> NDArray[np.uint8]:
    """The patterns (`SHOWN`, 20, 20) uint8 as the files give them, for rivals that cannot read whole ones."""
    with np.load(Path(folder) / PATTERNS, allow_pickle=False) as file:
        return file["small20"][:SHOWN]


def responses(folder: str | Path) -> NDArray[np.float64]:
    """Responses (`SHOWN`, 3) of `UNITS` as the files give them, less a baseline: some are below zero."""
    columns = [np.load(Path(folder) / f"neu{unit}.npy", allow_pickle=False).reshape(-1) for unit in UNITS]
    if wrong := [unit for unit, column in zip(UNITS, columns, strict=True) if len(column) != SHOWN]:
        raise Refused(f"neu{wrong[0]}.npy should hold {SHOWN:,} responses.", found="another number of them.")
    return np.stack(columns, axis=1).astype(np.float64)


def _convert(folder: Path, where: Path) -> None:
    observed, video = responses(folder), patterns(folder)
    below = np.mean(observed < 0)
    with cache.Writer(where, name="macaque", need=SHOWN * (SIDE_PX**2 + 4 * len(UNITS) + 16)) as writer:
        arrays = writer.start(neurons=len(UNITS), height_px=SIDE_PX, width_px=SIDE_PX).arrays
        arrays["video"].add(video)
        arrays["responses"].add(np.maximum(observed, 0))
        for name in ("behaviour", "pupil"):
            arrays[name].add(np.full((SHOWN, 2), np.nan))
        at = np.arange(SHOWN)
        trials = pd.DataFrame({"clip": [f"pattern{k:04d}" for k in at], "video": at, "frame": at, "frames": 1})
        remarks = [
            f"{below:.0%} of responses lie below their baseline; they are read as 0",
            "no pattern comes with repeats: CC_norm cannot be had, scores are of what the files give",
        ]
        trials = trials.assign(domain="patterns", part="train")
        writer.finish("macaque", "macaque", rate_hz=RATE_HZ, trials=trials, remarks=remarks)
        # places are not known: a line
        table = pd.DataFrame({"id": [f"macaque/{unit}" for unit in UNITS], "subject": "macaque", "section": "macaque"})
        table = table.assign(x_um=50.0 * np.arange(len(UNITS)), y_um=0.0)
        table = table.assign(x_mm=table["x_um"] / 1000, y_mm=0.0, z_mm=0.0)
        writer.close(table, space=unregistered(1.0, 1.0), unit="arbitrary")
