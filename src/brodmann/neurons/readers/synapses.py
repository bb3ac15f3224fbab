"""Synapses that go with recordings: a ``synapses.csv`` beside them, or arrays ``synapses/*`` inside a file.

A row per pair of neurons that was looked at, in ``synapses.csv``::

    pre,post,synapses,distance_um
    M1/scan1/u0,M1/scan1/u4,2,41.5
    M1/scan1/u0,M1/scan1/u7,0,60.2

``pre`` and ``post`` are neurons as the feature table names them, ``recording/neuron``; with a column ``recording``, and
within a file, they are names in that recording. Synapses do not take part in training: they are read anew whenever the
data are opened, and are no part of the data's fingerprint.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brodmann import caches
from brodmann.errors import Corrupt, Refused
from brodmann.neurons.readers import stores
from brodmann.neurons.readers.raw import text
from brodmann.neurons.readers.sidecar import NAME, Stated, inside
from brodmann.neurons.source import Source
from brodmann.reasons import words

FILE = "synapses.csv"
NEEDED = ("pre", "post", "synapses")
NUMBERS = ("distance_um", "rf_distance_deg", "exposure")
"""Columns that may be there, each 0 or more."""
LIMIT_BYTES = 4_000_000_000


def read(source: Source, files: Sequence[Path], home: Path, stated: Stated) -> tuple[pd.DataFrame | None, list[str]]:
    """Synapses of opened recordings, in the form of `Source.synapses`.

    Parameters
    ----------
    source : Source
        The recordings.
    files : sequence of Path
        What they were read from.
    home : Path
        Folder of the data.
    stated : Stated

    Returns
    -------
    synapses : DataFrame or None
        ``pre``, ``post`` (ids of `Source.neurons`), ``synapses`` (int64), ``distance_um``, and what else of `NUMBERS`
        was given; None where nothing tells of synapses.
    remarks : list of str

    Raises
    ------
    Refused
        A missing column; a neuron that is not there; a count that is negative or not whole; a pair given twice; neurons
        of two animals; a distance that is neither given nor to be had.
    Corrupt
        No CSV.
    """
    remarks: list[str] = []
    part = bool(source.skipped) or not _whole(files, home)
    found = [_csv(path, source, remarks, part=part) for path in _tables(files, home, stated)]
    left = {name for name, _ in source.skipped}
    read = [path for path in files if path.suffix in {".npz", ".zarr"} and path.name not in left]
    found += [table for table in (_within(path, source, stated) for path in read) if table is not None]
    if not found:
        return None, remarks
    table = pd.concat(found, ignore_index=True)
    twice = table.duplicated(["pre", "post"])
    if twice.any():
        pre, post = table.loc[twice.idxmax(), ["pre", "post"]]
        raise Refused(
            "a pair of neurons should be given once in each direction.",
            found=f"{int(twice.sum()):,} pairs again, first {pre} to {post}.",
            cause="a row for each synapse instead of one for each pair.",
            do="add up the synapses of each pair.",
        )
    return _placed(table, source, remarks), remarks


def _tables(files: Sequence[Path], home: Path, stated: Stated) -> list[Path]:
    """CSV files that tell of synapses: the one that is named, or those found where the data lie."""
    if stated.synapses is not None:
        path = inside(home, stated.synapses)
        if not path.is_file():
            raise Refused(f"{stated.synapses}, which {NAME} names, should lie in {home.name}.", found="no such file.")
        return [path]
    own = [path / FILE for path in files if path.is_dir() and path.suffix != ".zarr"]
    return [path for path in dict.fromkeys([home / FILE, *own]) if path.is_file()]


def _whole(files: Sequence[Path], home: Path) -> bool:
    """Whether a folder was opened with all its recordings, not one file of it."""
    return len(files) > 1 or not any(path.suffix == files[0].suffix for path in home.iterdir() if path != files[0])


def _csv(path: Path, source: Source, remarks: list[str], *, part: bool) -> pd.DataFrame:
    if path.stat().st_size > LIMIT_BYTES:
        raise Refused(f"{path.name} should have at most {LIMIT_BYTES:,} bytes.", found=f"{path.stat().st_size:,}.")
    names: Any = dict.fromkeys(("pre", "post", "recording"), str)
    try:
        # a neuron may be called NA
        table = pd.read_csv(path, dtype=names, keep_default_na=False)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise Corrupt(
            f"{path.name} should be CSV with a header.",
            found=words(error),
            cause="a file cut short or edited.",
        ) from error
    table.columns = [str(name).strip() for name in table.columns]
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise Refused(
            f"{path.name} should have the columns {', '.join(NEEDED)}.",
            found=", ".join(table.columns) + ".",
            do=f"add {', '.join(missing)}; a row per pair that was looked at, synapses 0 where it is not connected.",
        )
    if "recording" in table:
        for side in ("pre", "post"):
            table[side] = table["recording"] + "/" + table[side]
    other = [name for name in table.columns if name not in {*NEEDED, *NUMBERS, "recording"}]
    if other:
        remarks.append(f"columns {', '.join(other)} of {path.name} are left out")
    return _named(_checked(table, path.name), source, path.name, remarks, part=part)


def _within(path: Path, source: Source, stated: Stated) -> pd.DataFrame | None:
    """Pairs of one recording that its own file holds."""
    arrays, close = stores.group(path, "synapses", caches.home())
    try:
        columns = {name: np.asarray(array[...]) for name, array in arrays.items()}
    finally:
        close()
    if not columns:
        return None
    where = f"synapses of {path.name}"
    missing = [name for name in NEEDED if name not in columns]
    shapes = {np.shape(values) for values in columns.values()}
    if missing or len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise Refused(
            f"{where} should have {', '.join(NEEDED)}, one value per pair.",
            found=", ".join(f"{name} {np.shape(values)}" for name, values in columns.items()) + ".",
        )
    entry = stated.entry(path.name)
    recording = (entry.id if entry else None) or path.name.removesuffix(path.suffix)
    table = pd.DataFrame({name: columns[name] for name in (*NEEDED, *NUMBERS) if name in columns})
    for side in ("pre", "post"):
        table[side] = [f"{recording}/{name}" for name in text(columns[side])]
    return _named(
        _checked(table, where), source, where, [], part=recording not in {one.id for one in source.recordings}
    )


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Numbers that are numbers, 0 or more, and whole where they count."""
    out: dict[str, Any] = {"pre": table["pre"], "post": table["post"]}
    for name in ("synapses", *NUMBERS):
        if name not in table:
            continue
        given = cast("pd.Series", table[name])
        values = cast("pd.Series", pd.to_numeric(given, errors="coerce")).to_numpy(np.float64, na_value=np.nan)
        count = name == "synapses"
        blank = np.array([text.strip() in {"", "nan"} for text in given.astype(str).tolist()], np.bool_)
        wrong = ~np.isfinite(values) & (~blank | count)
        wrong |= values < 0
        if count:
            wrong |= np.isfinite(values) & (values != np.rint(values))
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise Refused(
                f"column '{name}' of {where} should hold "
                + ("whole numbers of synapses, 0 or more." if count else "numbers, 0 or more."),
                found=f"'{table[name].iloc[at]}' from {table['pre'].iloc[at]} to {table['post'].iloc[at]} "
                f"(row {at + 1:,}; {int(wrong.sum()):,} such rows).",
                do="give the number of synapses of the pair; 0 means looked at and not connected." if count else "",
            )
        out[name] = values.astype(np.int64) if count else values
    return pd.DataFrame(out)


def _named(table: pd.DataFrame, source: Source, where: str, remarks: list[str], *, part: bool) -> pd.DataFrame:
    """Pairs of neurons that are there; others are refused, unless it is known why they are missing."""
    known = set(source.neurons["id"].tolist())
    ends = [table[side].astype(str).tolist() for side in ("pre", "post")]
    strange = np.array([not known >= {*pair} for pair in zip(*ends, strict=True)], np.bool_)
    if not strange.any():
        return table
    left = {name for name, _ in source.skipped}
    recordings = tuple(f"{one.id}/" for one in source.recordings)
    absent = [name for name in dict.fromkeys([*ends[0], *ends[1]]) if name not in known and name not in left]
    # of a folder's recordings some may have been skipped, or only one was asked for
    unknown = [name for name in absent if not part or name.startswith(recordings)]
    if unknown:
        first = [str(name) for name in source.neurons["id"].tolist()[:20_000]]
        near = difflib.get_close_matches(unknown[0], first, n=1)
        raise Refused(
            f"neurons of {where} should be neurons of the recordings, written recording/neuron.",
            found=f"{len(unknown):,} that are not there, e.g. '{unknown[0]}'.",
            cause="the recording's name is missing, or its neurons were given no names (neurons/id)."
            if "/" not in unknown[0]
            else "",
            do=f"a neuron's name is its id in the feature table, such as '{near[0] if near else first[0]}'.",
        )
    remarks.append(f"{int(strange.sum()):,} of {len(table):,} pairs of {where} have a neuron that was left out")
    return table.iloc[np.flatnonzero(~strange)].reset_index(drop=True)


def _placed(table: pd.DataFrame, source: Source, remarks: list[str]) -> pd.DataFrame:
    """Distances where they were not given, from the neurons' places; pairs of two animals are refused."""
    rows = {side: pd.Index(source.neurons["id"]).get_indexer(pd.Index(table[side])) for side in ("pre", "post")}
    subject = source.neurons["subject"].astype(str).to_numpy(dtype=object)
    apart = subject[rows["pre"]] != subject[rows["post"]]
    if apart.any():
        at = int(np.flatnonzero(apart)[0])
        raise Refused(
            "synapses should connect neurons of one animal.",
            found=f"{table['pre'].iloc[at]} of {subject[rows['pre'][at]]} and {table['post'].iloc[at]} of "
            f"{subject[rows['post'][at]]} ({int(apart.sum()):,} such pairs).",
            cause="recordings of one animal that do not name the same subject.",
            do=f'name the animal in {NAME}: "recordings": [{{"file": ..., "subject": ...}}].',
        )
    if "distance_um" not in table:
        table["distance_um"] = np.nan
    lost = table["distance_um"].isna().to_numpy()
    if not lost.any():
        return table
    xyz_um = source.neurons[["x_mm", "y_mm", "z_mm"]].to_numpy(np.float64) * 1000
    home: NDArray[np.int64] = np.zeros(len(source.neurons), np.int64)
    for number, one in enumerate(source.recordings):
        home[one.rows.start : one.rows.stop] = number
    # coordinates of two recordings are comparable only in a space that both were registered to
    same = source.space.name != "unregistered" or home[rows["pre"]] == home[rows["post"]]
    fill = lost & same & (source.unit == "um")
    if not fill[lost].all():
        raise Refused(
            "synapses should say how far their neurons lie apart: column distance_um.",
            found=f"no distance for {int((lost & ~fill).sum()):,} of {len(table):,} pairs.",
            cause="places of the neurons are not known."
            if source.unit != "um"
            else "neurons of two recordings, which lie in no common space.",
            do=f"add distance_um (between the cells' bodies), or give places (neurons/x_um ...; a space in {NAME}).",
        )
    table.loc[fill, "distance_um"] = np.linalg.norm(xyz_um[rows["pre"][fill]] - xyz_um[rows["post"][fill]], axis=1)
    remarks.append(f"distances of {int(fill.sum()):,} pairs are those between the neurons' places")
    return table
