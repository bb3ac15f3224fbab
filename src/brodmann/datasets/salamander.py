"""Salamander retina: 177 ganglion cells under binary white noise, spikes per frame of a movie that is generated anew.

One isolated retina, 28,800 frames of 200 x 150 checkers, each black or white by chance. ``responses_train.npz`` holds
``counts``, spikes (frames x cells); ``centers.txt`` a receptive-field centre per cell, x and y in checkers. The movie
is not stored: the package ``retinawhitenoise`` makes the random numbers of the experiment from their seed. Nothing was
shown twice, so that scores are correlations with single trials.

The files state neither the frame rate nor the size of a checker nor where cells lie: `RATE_HZ` is assumed, it names
frames and changes no number; places are receptive-field centres in checkers, a unit of their own.

Reference: Liu et al. 2017, Nature Communications 8:149. Responses: huangziwei/data_RFEst, no licence stated: for
measuring only. Generator: MIT (Gollisch laboratory).
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import caches
from brodmann.errors import Refused
from brodmann.neurons import cache
from brodmann.neurons.source import Source
from brodmann.space import unregistered

CITATION = "Liu et al. 2017, https://doi.org/10.1038/s41467-017-00156-9"
LICENSE = "none stated (responses), MIT (generator of the movie)"
RESPONSES, CENTRES = "responses_train.npz", "centers.txt"
RATE_HZ = 30.0
"""Assumed: the files do not state it."""
SEED, WIDTH, HEIGHT, RUN = -10_000, 200, 150, 1000
"""Of the movie: seed, checkers along x and y, frames that are generated at a time."""
FRAMES = 28_800
ROWS, COLUMNS = slice(18, 122), slice(54, 150)
"""What is kept of the movie. It holds the listed centres of all cells but five at its edges, which have no field."""
TEST, VALID = 0.2, 1 / 12
"""The last fifth of the frames is the test; before it a twelfth of what is left chooses."""
TRIAL = 960
"""Frames of a trial: the movie ran on, but a network that remembers is not asked to remember for minutes."""


def open(folder: str | Path) -> Source:
    """The recording, with the part of the movie that lies around the cells' fields; generated once, then mapped.

    Parameters
    ----------
    folder : path
        Holds ``responses_train.npz`` and ``centers.txt``. The cache lies in ``$BRODMANN_CACHE`` or
        ``~/.cache/brodmann`` and takes 310 MB.

    Raises
    ------
    Refused
        A file is missing or is not this set; the package that generates the movie is missing.
    NoRoom
        The cache does not fit on its disk.
    """
    folder = Path(folder)
    for name in (RESPONSES, CENTRES):
        if not (folder / name).is_file():
            raise Refused(f"{folder.name} should hold {RESPONSES} and {CENTRES}.", found=f"no {name}.")
    content = b"".join((folder / name).read_bytes() for name in (RESPONSES, CENTRES))
    settings = (SEED, WIDTH, HEIGHT, FRAMES, ROWS, COLUMNS, TEST, VALID, TRIAL, RATE_HZ, cache.VERSION)
    key = hashlib.sha256(content + repr(settings).encode()).hexdigest()
    where = caches.home() / f"neurons-salamander-{key[:20]}"
    if not (where / caches.MANIFEST).is_file():
        _convert(folder, where)
    return cache.read(where)


def centres(folder: str | Path) -> NDArray[np.float64]:
    """Listed receptive-field centres (n, 2), x and y in checkers of the whole movie."""
    return np.loadtxt(Path(folder) / CENTRES, ndmin=2)


def movie(frames: int = FRAMES) -> Iterator[NDArray[np.uint8]]:
    """The movie from its start, some frames at a time: (k, `HEIGHT`, `WIDTH`) uint8, 0 black, 255 white.

    Raises
    ------
    Refused
        The package that generates it is missing.
    """
    try:
        binarystimulus = importlib.import_module("retinawhitenoise.binarystimulus")
    except ImportError as error:
        raise Refused(
            "the movie of the salamander set needs the package retinawhitenoise.",
            found=str(error),
            do="pip install 'brodmann[retina]'.",
        ) from error
    runs = binarystimulus.recreate(SEED, (WIDTH, HEIGHT), RUN, -(-frames // RUN))
    for number, run in enumerate(runs):
        # x, y, time, of -1 and 1
        some = np.asarray(run)[:, :, : frames - number * RUN].transpose(2, 1, 0)
        yield np.where(some > 0, np.uint8(255), np.uint8(0))


def trials() -> pd.DataFrame:
    """Trials in order of time, see `brodmann.neurons.source.Recording`: train, valid, test, one after the other."""
    start = np.arange(0, FRAMES, TRIAL)
    test = FRAMES - round(TEST * FRAMES)
    valid = test - round(VALID * test)
    part = np.where(start >= test, "test", np.where(start >= valid, "valid", "train"))
    return pd.DataFrame(
        {
            "clip": [f"noise[{at}:{at + TRIAL}]" for at in start],
            "video": start,
            "frame": start,
            "frames": np.minimum(TRIAL, FRAMES - start),
            "domain": "noise",
            "part": part,
        }
    )


def _convert(folder: Path, where: Path) -> None:
    with np.load(folder / RESPONSES, allow_pickle=False) as file:
        counts = file["counts"] if "counts" in file else np.zeros((0, 0))
    xy = centres(folder)
    if counts.ndim != 2 or len(counts) != FRAMES or len(xy) != counts.shape[1]:
        raise Refused(
            f"{RESPONSES} should hold counts of {FRAMES:,} frames for the cells of {CENTRES}.",
            found=f"counts {counts.shape}, {len(xy)} centres.",
        )
    height, width, cells = ROWS.stop - ROWS.start, COLUMNS.stop - COLUMNS.start, counts.shape[1]
    need = FRAMES * (height * width + 4 * cells + 16)
    with cache.Writer(where, name="salamander", need=need) as writer:
        arrays = writer.start(neurons=cells, height_px=height, width_px=width).arrays
        for some in movie():
            arrays["video"].add(some[:, ROWS, COLUMNS])
        arrays["responses"].add(counts)
        for name in ("behaviour", "pupil"):
            arrays[name].add(np.full((FRAMES, 2), np.nan))
        inside = (xy >= (COLUMNS.start, ROWS.start)) & (xy < (COLUMNS.stop, ROWS.stop))
        remarks = [
            f"rows {ROWS.start}-{ROWS.stop - 1} and columns {COLUMNS.start}-{COLUMNS.stop - 1} of {HEIGHT} x {WIDTH} "
            f"checkers are used: {int(inside.all(1).sum())} of {cells} listed centres",
            f"the frame rate is not stated; {RATE_HZ:g} Hz is assumed",
            "no clip is shown more than once: CC_norm cannot be had, scores are of single trials",
        ]
        writer.finish("salamander", "salamander", rate_hz=RATE_HZ, trials=trials(), remarks=remarks)
        table = pd.DataFrame({"id": [f"salamander/{cell:03d}" for cell in range(cells)]})
        table = table.assign(subject="salamander", section="salamander", x_um=xy[:, 0], y_um=xy[:, 1])
        table = table.assign(x_mm=xy[:, 0] / 1000, y_mm=xy[:, 1] / 1000, z_mm=0.0)
        writer.close(table, space=unregistered(1.0, 1.0), unit="arbitrary")
