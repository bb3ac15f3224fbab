"""The one feature store: AnnData on zarr v3; a row per place, float16 features, sections contiguous.

Every chunk carries a crc32c and every chunk is written, so a flipped bit or a lost file is an error, never a zero.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anndata
import numpy as np
import pandas as pd
import scipy.spatial
import zarr
from anndata import AnnData
from numpy.typing import NDArray

from brodmann import atomic
from brodmann.errors import Corrupt, Refused, Usage
from brodmann.pieces import Column, finite, layout
from brodmann.space import Space
from brodmann.spaces import SPACES

# libraries without (complete) types: untyped here, at the edge, and nowhere further in
_anndata, _pandas, _scipy, _zarr = cast(Any, anndata), cast(Any, pd), cast(Any, scipy.spatial), cast(Any, zarr)

FORMAT = 1
"""Version of the table; a reader refuses newer ones."""
_HELD_BYTES = 512 << 20
"""Controls larger than this stay on disk when a table is read: those of ten million rows outgrow a workstation."""


def write(
    path: str | Path,
    X: NDArray[np.floating],
    obs: pd.DataFrame,
    space: Space,
    xyz: NDArray[np.floating],
    *,
    obsm: Mapping[str, NDArray[Any]] | None = None,
    uns: Mapping[str, Any] | None = None,
) -> AnnData:
    """Write a feature table, whole or not at all; the same table gives the same bytes.

    Parameters
    ----------
    path : str or Path
        Folder of the zarr store; an older table there is replaced.
    X : array (n, d), floating
        Features; kept as float16.
    obs : DataFrame, n rows
        ``id`` (str, unique), ``section``, further columns of the places, and labels.
    space : Space
    xyz : array (n, 3)
        Coordinates in ``space``, mm; kept as float32.
    obsm : mapping of str to array (n, k), optional
        Further arrays per row, such as ``"baseline_profile"``; kept in their own type.
    uns : mapping, optional
        Provenance, kept as ``uns["brodmann"]`` with the format's version.

    Returns
    -------
    AnnData
        The table as written; rows of a section are brought together if they were not, in stable order.

    Raises
    ------
    Refused
        If ids repeat, lengths differ, a number is not finite, or a feature does not fit into float16.
    """
    table = _table(X, obs, space, xyz, obsm or {}, uns or {})
    size = sum(int(np.asarray(array).nbytes) for array in [*cast(Any, table).obsm.values(), cast(Any, table).X])
    with atomic.folder(Path(path), what="the feature table", need=size // 2) as partial, zarr_v3():
        group = _zarr.open_group(str(partial), mode="a", zarr_format=3)
        _anndata.experimental.write_dispatched(group, "/", table, callback=_write_element)
    return table


def write_pieces(
    path: str | Path,
    pieces: Iterable[Mapping[str, NDArray[Any]]],
    obs: pd.DataFrame,
    space: Space,
    xyz: NDArray[np.floating],
    *,
    uns: Mapping[str, Any] | None = None,
) -> None:
    """Write a feature table whose arrays come in pieces, of which one at a time is in memory.

    Parameters
    ----------
    path, obs, space, xyz, uns
        As in `write`; rows must be sorted by section already.
    pieces : iterable of mappings
        Runs of rows in order: ``"X"`` and further arrays, the same names and types in each.

    Raises
    ------
    Refused
        As `write`; also if sections are not contiguous, or the pieces have other rows than ``obs``.
    """
    coming = iter(pieces)
    first = next(coming, None)
    if first is None:
        raise Refused("a table should have rows.", found="none.")
    table = _table(None, obs, space, xyz, {}, uns or {}, width=first["X"].shape[1])
    if (np.asarray(table.obs["id"], object) != np.asarray(obs["id"], object)).any():
        raise Refused("rows that come in pieces should be sorted by section.", found="sections that begin twice.")
    per_row = sum(array.nbytes for array in first.values()) / max(len(first["X"]), 1)
    with atomic.folder(Path(path), what="the feature table", need=int(per_row * len(obs)) // 2) as partial, zarr_v3():
        group = _zarr.open_group(str(partial), mode="a", zarr_format=3)
        _anndata.experimental.write_dispatched(group, "/", table, callback=_write_element)
        columns = {name: Column(group, name, array, len(obs)) for name, array in first.items()}
        for piece in itertools.chain([first], coming):
            for name, array in piece.items():
                columns[name].add(array)
        for column in columns.values():
            column.close()


def read(path: str | Path) -> AnnData:
    """Read a feature table.

    Controls (``obsm["baseline_*"]``) of more than half a gigabyte stay on disk, as ``zarr.Array``: slice them, or take
    the whole with ``np.asarray``. Everything else is in memory.

    Raises
    ------
    Usage
        If there is none.
    Refused
        If it is of a newer format or no feature table.
    Corrupt
        If a chunk is missing or does not match its crc32c.
    """
    path = Path(path)
    group = _open(path)
    with _damage(path):
        for name, member in group.members(max_depth=None):
            if isinstance(member, zarr.Array):
                _complete(member, path, name)
        table = _anndata.experimental.read_dispatched(group, callback=_read_element)
    # one object per name, not two
    if "id" in table.obs and (index := table.obs_names).equals(_pandas.Index(table.obs["id"])):
        table.obs["id"] = index.to_numpy()
    return table


def about(path: str | Path) -> tuple[Mapping[str, Any], set[str]]:
    """Provenance of a stored table (``uns["brodmann"]``) and the names in its ``obsm``; no row is read.

    Raises
    ------
    Usage, Refused, Corrupt
        As `read`.
    """
    path = Path(path)
    group = _open(path)
    with _damage(path):
        return _anndata.io.read_elem(group["uns/brodmann"]), set(group["obsm"].keys())


def space_of(table: AnnData) -> Space:
    """The space of a table's ``obsm["xyz"]``."""
    about = cast(Any, table).uns.get("space")
    if not isinstance(about, Mapping):
        raise Refused("a table should name its space.", found="no uns['space'].", do="make it with brodmann.embed.")
    about = cast("Mapping[str, Any]", about)
    extent = tuple(float(value) for value in about["extent_mm"])
    space = Space(
        name=str(about["name"]),
        orientation=str(about["orientation"]),
        extent_mm=cast("tuple[float, float, float]", extent),
        origin=str(about["origin"]),
        unit=str(about["unit"]),
    )
    if space.name in SPACES:
        SPACES[space.name].require(space)
    return space


def join(a: AnnData, b: AnnData, *, within_mm: float) -> AnnData:
    """Bring two tables of one space together by place, so that one's features can be asked about the other's labels.

    Parameters
    ----------
    a, b : AnnData
        Feature tables in the same registered space.
    within_mm : float
        Rows of ``a`` with no row of ``b`` this near are left out; ``uns["joined"]`` says how many.

    Returns
    -------
    AnnData
        Rows of ``a``; ``obsm["X_joined"]`` (n, d_b) float16 holds the features of the nearest row of ``b``, its
        columns are ``joined_*`` in ``obs``, and ``joined_mm`` is the distance.

    Raises
    ------
    SpaceMismatch
        If the spaces differ.
    Refused
        If the sections were never registered, or nothing lies within reach.
    """
    space = space_of(a)
    space.require(space_of(b))
    if space.name == "unregistered":
        raise Refused(
            "tables should be registered to be joined by place.",
            found="space 'unregistered', where sections are not aligned.",
            do="register the sections to an atlas, and embed again.",
        )
    tree = _scipy.cKDTree(np.asarray(b.obsm["xyz"], np.float64))
    found = tree.query(np.asarray(a.obsm["xyz"], np.float64), k=1)
    distance, nearest = cast("tuple[NDArray[np.float64], NDArray[np.int64]]", found)
    near = distance <= within_mm
    if not near.any():
        raise Refused(
            f"some places of both tables should lie within {within_mm:g} mm.",
            found=f"the nearest two are {float(distance.min()):.2f} mm apart.",
        )
    result, other, partner = cast(Any, a[near].copy()), cast(Any, b), nearest[near]
    result.obsm["X_joined"] = np.asarray(other.X[partner])
    for column in other.obs.columns:
        values = other.obs[column].iloc[partner]
        result.obs[f"joined_{column}"] = values.set_axis(result.obs_names)
    result.obs["joined_mm"] = distance[near].astype(np.float32)
    result.uns["joined"] = {"within_mm": within_mm, "kept": int(near.sum()), "left_out": int((~near).sum())}
    return result


def _table(
    X: NDArray[np.floating] | None,
    obs: pd.DataFrame,
    space: Space,
    xyz: NDArray[np.floating],
    obsm: Mapping[str, NDArray[Any]],
    uns: Mapping[str, Any],
    *,
    width: int = 0,
) -> AnnData:
    rows = len(obs)
    for name, array in {**({} if X is None else {"X": X}), "xyz": xyz, **obsm}.items():
        if len(array) != rows:
            raise Refused(f"'{name}' should have a row per row of obs.", found=f"{len(array)} and {rows} rows.")
    frame = cast(Any, obs)
    ids = frame["id"].astype(str)
    if ids.duplicated().any():
        raise Refused("ids should be unique.", found=f"'{ids[ids.duplicated()].iloc[0]}' more than once.")
    space.check(np.asarray(xyz), what="coordinates of the table")
    names = frame["section"].astype(str)
    section = _pandas.Categorical(names, categories=_pandas.unique(names))
    number = np.asarray(section.codes)
    # rows that are in order already are not copied: a table of ten million is gigabytes
    sorted_already = bool((np.diff(number) >= 0).all())
    order: Any = slice(None) if sorted_already else np.argsort(number, kind="stable")
    half: NDArray[np.float16] | None = None
    if X is not None:
        with np.errstate(over="ignore"):
            half = np.asarray(X).astype(np.float16, copy=False)
        finite(half, "features in float16")
    for name, array in obsm.items():
        finite(array, f"'{name}'")
    columns = frame.assign(id=ids, section=section).iloc[order].set_axis(_pandas.Index(ids.iloc[order]), axis=0)
    columns.index.name = None
    table = _anndata.AnnData(
        X=None if half is None else half[order],
        obs=columns,
        var=_pandas.DataFrame(index=[str(i) for i in range(width)]) if half is None else None,
        obsm={
            **{name: np.asarray(array)[order] for name, array in obsm.items()},
            "xyz": np.asarray(xyz, np.float32)[order],
        },
        uns={
            "space": {
                "name": space.name,
                "unit": space.unit,
                "orientation": space.orientation,
                "extent_mm": list(space.extent_mm),
                "origin": space.origin,
            },
            "brodmann": {**uns, "format": FORMAT},
        },
    )
    # all but ids: a column of text takes a byte or two per row as categories
    table.strings_to_categoricals()
    return table


def _write_element(func: Any, store: Any, key: str, element: Any, dataset_kwargs: Any, iospec: Any) -> None:
    """An element as anndata writes it, in our chunks."""
    del iospec
    options = dict(dataset_kwargs)
    if isinstance(element, np.ndarray) and element.ndim:
        array = cast("NDArray[Any]", element)
        options |= layout(array.shape, array.dtype)
    func(store, key, element, dataset_kwargs=options)


def _read_element(func: Any, key: str, element: Any, iospec: Any) -> Any:
    """Everything into memory, except large controls."""
    del iospec
    large = isinstance(element, zarr.Array) and cast(Any, element).nbytes > _HELD_BYTES
    return element if large and key.startswith("/obsm/baseline_") else func(element)


@contextmanager
def zarr_v3() -> Generator[None, None, None]:
    """Write zarr v3, every chunk; without two notices that are about other people's choices."""
    with (
        _anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False),
        _zarr.config.set({"array.write_empty_chunks": True}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        yield


def _open(path: Path) -> Any:
    if not path.is_dir():
        raise Usage(f"{path} should be a feature table.", found="nothing there.", do="make one with 'brodmann embed'.")
    with _damage(path):
        # not the consolidated copy of the metadata: what is read must be what is checked
        group = _zarr.open_group(str(path), mode="r", zarr_format=3, use_consolidated=False)
        if "uns/brodmann/format" not in group:
            raise Refused(f"{path} should be a feature table.", found="a zarr store without uns['brodmann'].")
        found = int(group["uns/brodmann/format"][()])
    if found > FORMAT:
        raise Refused(
            f"{path} should have format {FORMAT} or older.",
            found=f"format {found}.",
            cause="it was written by a newer version.",
            do="upgrade brodmann.",
        )
    return group


@contextmanager
def _damage(path: Path) -> Generator[None, None, None]:
    """Name the store when zarr or anndata stumble over it."""
    try:
        yield
    except (Usage, Refused, Corrupt):
        raise
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise Corrupt(
            f"{path} should be readable.",
            found=f"{type(error).__name__}: {error}",
            cause="bits lost on disk, or an interrupted copy.",
            do="run 'brodmann embed' again, or restore the folder.",
        ) from error


def _complete(array: Any, path: Path, name: str) -> Any:
    """Refuse an array with absent chunks: zarr would read them as zeros."""
    # counted here and not by zarr, which visits every chunk that the metadata claim: hours, if they lie
    claimed = math.prod(-(-side // chunk) for side, chunk in zip(array.shape, array.chunks, strict=True))
    present = sum(file.is_file() for file in (path / name / "c").rglob("*")) if array.ndim else claimed
    if present != claimed:
        raise Corrupt(
            f"{path} should be complete.",
            found=f"{present:,} of {claimed:,} chunks of '{name}'.",
            cause="an interrupted copy, or files deleted by hand.",
            do="run 'brodmann embed' again, or restore the folder.",
        )
    return array
