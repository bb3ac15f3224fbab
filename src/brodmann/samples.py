"""The samples contract: located samples, and batches that depend on nothing but (seed, step, data)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from brodmann.space import Space

Batch = dict[str, Tensor]


class Loss(NamedTuple):
    """What a model's ``loss`` returns: the scalar to minimise, and named scalars to log."""

    total: Tensor
    parts: dict[str, Tensor]


class Samples(Protocol):
    """Located samples of one system.

    Attributes
    ----------
    places : DataFrame
        A row per sample: ``id`` (str, unique), ``subject``, ``section`` (categorical), ``x_mm, y_mm, z_mm`` in
        ``space``; further columns are the system's own. Rows are sorted by section.
    labels : DataFrame
        A row per sample, same order: what is known of it (area, layer, thickness_mm ...); may have no columns.
    space : Space
        Where the coordinates live.
    fingerprint : str
        Hash of the data and of what was drawn from it; part of the key of every random draw.
    extent : str
        What the samples are, counted in the system's own words.
    remarks : tuple of str
        What differs from the data that a model was trained on, once they suit it.
    read_rows, shard_rows : int
        Rows that one read, and one shard of a feature table, should have.
    """

    places: pd.DataFrame
    labels: pd.DataFrame
    space: Space
    fingerprint: str
    extent: str
    remarks: tuple[str, ...]
    read_rows: int
    shard_rows: int

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Batch: ...
    def read(self, rows: NDArray[np.int64]) -> Batch:
        """What the model and the controls need to describe consecutive rows."""
        ...

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Rows ``rank::world`` of the global batch of ``step``; a pure function of (seed, step, fingerprint)."""
        ...


def stream(seed: int, fingerprint: str, *key: int | str) -> np.random.Generator:
    """Independent random stream for a key such as ``("batch", step)``.

    Counter-based (Philox): resuming needs no saved generator state.
    """
    text = "/".join([str(seed), fingerprint, *(str(part) for part in key)])
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words))


def prefetch(
    samples: Samples, start: int, stop: int, *, threads: int = 2, ahead: int = 4, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Batches of steps ``start .. stop - 1`` in order, made ahead of time by threads.

    Readers release the GIL (numba, tensorstore, decoders), so threads suffice and nothing is pickled.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="batch") as pool:
        waiting: deque[Future[Batch]] = deque()
        upcoming = iter(range(start, stop))
        try:
            for step in upcoming:
                waiting.append(pool.submit(samples.batch, step, rank=rank, world=world))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
