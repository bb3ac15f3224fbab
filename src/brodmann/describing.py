"""One pass over rows: what the makers of features say of them, and what a long pass will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Makers = Mapping[str, Callable[[Any], Any]]
"""Name in the table (``X``, ``baseline_untrained``) to a function from a batch to features (n, F)."""

_TRIAL = 16
"""Rows described once to compile what is compiled, before a batch is timed."""


def describe(samples: Any, makers: Makers, rows: range) -> dict[str, NDArray[Any]]:
    """Features of one shard by name; each sample is read once, in batches so that memory does not grow with the shard.

    Batches are cut from the start of the shard, so that its bytes do not depend on where a run was interrupted.
    """
    arrays: dict[str, list[Any]] = {name: [] for name in makers}
    for start in range(rows.start, rows.stop, samples.read_rows):
        batch, first = samples.read(np.arange(start, min(start + samples.read_rows, rows.stop))), None
        for name, make in makers.items():
            # a head reads what the encoder said of the batch, before it is rounded
            found = make(first if name == "probability" else batch)
            first = found if name == "X" else first
            arrays[name].append(found.astype(np.float16) if name == "X" else found)
    return {name: np.concatenate(pieces) for name, pieces in arrays.items()}


def estimate(samples: Any, makers: Makers, rows: int, *, world: int = 1) -> dict[str, float]:
    """Seconds and bytes that describing ``rows`` rows will take, from one batch in the middle of the samples.

    Sections are read one after another, so that opening one is paid once for many rows; it is left out.

    Returns
    -------
    dict
        ``seconds``, ``samples_per_second``, ``memory_bytes`` (a shard and its places; it does not grow with the rows
        but for their places), ``disk_bytes`` (the table, and the shards that become it).
    """
    first = len(samples) // 2
    describe(samples, makers, range(first, min(first + _TRIAL, len(samples))))
    stop = min(first + samples.read_rows, len(samples))
    begun = time.perf_counter()
    made = describe(samples, makers, range(first, stop))
    speed = (stop - first) / max(time.perf_counter() - begun, 1e-9) * world
    per_row = sum(array.nbytes for array in made.values()) / (stop - first)
    places = 1000.0  # names and numbers of a row, as pandas holds them
    return {
        "seconds": rows / speed,
        "samples_per_second": speed,
        "memory_bytes": 3 * per_row * samples.shard_rows + places * len(samples),
        "disk_bytes": 2 * per_row * len(samples),
    }
