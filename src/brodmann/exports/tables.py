"""CSV and Parquet: a row per sample, its place with units, and every answer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from brodmann.errors import Usage
from brodmann.exports import record
from brodmann.exports.answers import Answer, Found, Numbers
from brodmann.maps import labels

_ROWS = 100_000
_READERS = ("pyarrow", "fastparquet")


def write(found: Found, out: Path, to: Literal["csv", "parquet"], *, features: bool) -> dict[str, Any]:
    """Write one file; returns what each column is, with its unit, for the record.

    Parameters
    ----------
    found : Found
    out : Path
    to : {"csv", "parquet"}
    features : bool
        Also a column for each feature.

    Raises
    ------
    Usage
        Parquet without a library that writes it.
    """
    if to == "parquet" and not any(find_spec(name) for name in _READERS):
        raise Usage(
            "Parquet needs pyarrow or fastparquet.", found="neither is installed.",
            do="pip install 'brodmann[parquet]', or take csv.",
        )  # fmt: skip
    table, about = columns(found)
    x = cast("Any", found.table.X)
    names = [f"feature_{number}" for number in range(x.shape[1])] if features else []
    about |= {name: {"unit": ""} for name in names}
    per_row = 60 + 12 * len(about)
    with record.file(out, what=f"the {to} table", need=per_row * len(table)) as temporary:
        if to == "parquet":
            wide = pd.DataFrame(np.asarray(x[:], np.float32), columns=cast("Any", names)) if features else None
            whole = table if wide is None else pd.concat([table, wide], axis=1)
            whole.to_parquet(temporary, index=False)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as handle:
                for start in range(0, max(len(table), 1), _ROWS):
                    block = table.iloc[start : start + _ROWS]
                    if features:
                        some = np.asarray(x[start : start + _ROWS], np.float32)
                        block = pd.concat(
                            [block, pd.DataFrame(some, columns=cast("Any", names), index=block.index)], axis=1
                        )
                    block.to_csv(handle, index=False, header=not start, lineterminator="\n")
    return {"columns": about}


def columns(found: Found) -> tuple[pd.DataFrame, dict[str, dict[str, str]]]:
    """Identity, place and answers of each row, and what each column is."""
    obs, xyz = found.obs, found.xyz
    made: dict[str, Any] = {"id": labels.ids(found.table)}
    about: dict[str, dict[str, str]] = {"id": {"unit": ""}}
    for name in ("subject", "section"):
        made[name], about[name] = labels.column(found.table, name), {"unit": ""}
    for name in ("x_um", "y_um"):
        made[name] = np.asarray(obs[name])
        about[name] = {"unit": found.plane_unit, "from": "top left corner of the section, right and down"}
    for number, name in enumerate(("x_mm", "y_mm", "z_mm")):
        made[name] = xyz[:, number]
        about[name] = {"unit": "mm", "space": found.space.name, "axis": found.space.orientation[number]}
    for answer in found.answers:
        # of responses there is one measure a neuron, which nobody predicted
        for what, values in (
            ("measured" if answer.task == "responses" else "predicted", answer.values),
            ("truth", answer.truth),
        ):
            if values is not None:
                made[f"{what}_{answer.name}"] = values
                about[f"{what}_{answer.name}"] = {"unit": answer.unit, "answer": answer.name}
    return pd.DataFrame(made), about


def series(answer: Answer) -> pd.Categorical | Numbers:
    """Values of an answer as a column of AnnData: categories that occur, or float32."""
    if isinstance(answer.values, np.ndarray):
        return cast("Any", answer.values.astype(np.float32))
    return answer.values.remove_unused_categories()
