"""Gene panels: which columns are genes, and how a model's genes are found again in other data."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused

LIMIT_GENES = 65_535
"""Columns are stored as uint16."""
LEAST_SHARED = 0.5
"""Smallest part of a model's genes that data must hold."""

_CONTROLS = re.compile(
    r"""^(
      blank ([-_.\ ]?\d+ | [-_.\ ].*)?                              # Vizgen, ABC Atlas: Blank-12; Xenium: BLANK_0006
    | neg (ative)? [-_.\ ]? (control|ctrl|prb|probe|codeword|cw) .*  # Xenium: NegControlProbe_00042; CosMx: NegPrb07
    | negative [-_.\ ]? \d+                                         # CosMx: Negative12
    | antisense_.+                                                  # Xenium: antisense_ADCY4
    | (unassigned|deprecated) ([-_.\ ]? (codeword|probe|gene) .*)?  # Xenium: UnassignedCodeword_0001
    | (false|system|sys) [-_.\ ]? (code|control|ctrl) .*            # CosMx: FalseCode3, SystemControl17
    | (intergenic [-_.\ ]? region | genomic [-_.\ ]? control) .*    # Xenium Prime
    )$""",
    re.IGNORECASE | re.VERBOSE,
)
_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")


@dataclass(frozen=True)
class Panel:
    """The genes that were counted.

    Parameters
    ----------
    genes : tuple of str
        In the order of the count columns; unique.
    dropped : tuple of str
        Blanks and control probes that were left out.
    """

    genes: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.genes)


@dataclass(frozen=True, eq=False)
class Match:
    """Where a model's genes are in the columns of other data.

    Parameters
    ----------
    columns : ndarray (G_model,) int32
        Column of the data for each gene of the model; -1 where the data lack it.
    missing : tuple of str
        Genes of the model that the data lack.
    extra : tuple of str
        Genes of the data that the model does not know; they are not used.
    remark : str
        What to tell the user; empty when every gene was found.
    """

    columns: NDArray[np.int32]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    remark: str = ""


def is_control(name: str) -> bool:
    """Whether a column is a blank or control probe, as Vizgen, Xenium, CosMx and the ABC Atlas name them."""
    return _CONTROLS.match(name.strip()) is not None


def select(
    names: Sequence[str],
    *,
    rename: Mapping[str, str] | None = None,
    controls: Sequence[bool] | None = None,
    merge: Sequence[str] = (),
    where: str = "the data",
) -> tuple[Panel, NDArray[np.int32]]:
    """Sort a file's columns into genes and controls.

    Parameters
    ----------
    names : sequence of str
        Columns of the file.
    rename : mapping, optional
        Name in the file -> name to use.
    controls : sequence of bool, optional
        Columns that the file itself declares to be something other than genes.
    merge : sequence of str
        Genes that may occur more than once; their counts are added.
    where : str
        The file, for messages.

    Returns
    -------
    (Panel, ndarray (len(names),) int32)
        The panel, and for each column of the file its place in the panel; -1 where it is left out.

    Raises
    ------
    Refused
        Names that occur twice, renaming of names that are not there, no gene left, or more than 65,535.
    """
    rename = dict(rename or {})
    names = [str(name).strip() for name in names]
    rule = f'"genes" should rename columns of {where}.'
    _require(rename.keys(), names, rule, do="write the names as they stand in the file.")
    places: dict[str, int] = {}
    columns = np.full(len(names), -1, np.int32)
    dropped: list[str] = []
    twice: list[str] = []
    for column, old in enumerate(names):
        name = rename.get(old, old)
        if is_control(name) or (controls is not None and controls[column]):
            dropped.append(old)
            continue
        if not name:
            raise Refused(f"every gene of {where} should have a name.", found=f"none in column {column}.")
        if name in places and name not in merge:
            twice.append(name)
        columns[column] = places.setdefault(name, len(places))
    if twice:
        raise Refused(
            f"genes of {where} should be named once.",
            found=f"more than once: {_some(sorted(set(twice)))}.",
            cause="isoforms or Ensembl genes under one symbol, or two panels put side by side.",
            do=f'to add their counts, declare "merge": ["{twice[0]}"]; to tell them apart, declare "gene_column".',
        )
    if names and not places:
        raise Refused(f"{where} should count genes.", found=f"{len(dropped)} blank and control probes only.")
    if len(places) > LIMIT_GENES:
        raise Refused(f"{where} should hold at most {LIMIT_GENES:,} genes.", found=f"{len(places):,}.")
    return Panel(tuple(places), tuple(dropped)), columns


def match(model: Panel, data: Panel, mapping: Mapping[str, str] | None = None) -> Match:
    """Find the genes of a trained model in the columns of other data.

    Names are compared letter by letter; what differs (case, a new symbol) is bridged by ``mapping`` only, and the
    messages suggest what it might hold.

    Parameters
    ----------
    model, data : Panel
    mapping : mapping, optional
        Name in the data -> name in the model.

    Raises
    ------
    Refused
        The mapping names genes that do not exist or gives a gene twice, or less than half of the model's genes are
        there.
    """
    mapping = dict(mapping or {})
    for asked, there, whose in ((mapping.keys(), data.genes, "data"), (mapping.values(), model.genes, "model")):
        rule = f"the mapping of genes should hold names of the {whose}."
        _require(asked, there, rule, do="map the name in the data to the name in the model.")
    places: dict[str, int] = {}
    for column, name in enumerate(data.genes):
        used = mapping.get(name, name)
        if used in places:
            raise Refused(
                f"each gene of the model should come from one column; {used} has two.",
                found=f"{data.genes[places[used]]} and {name}.",
                do="take one of them out of the mapping or out of the data.",
            )
        places[used] = column
    columns = np.array([places.get(name, -1) for name in model.genes], np.int32)
    missing = tuple(name for name in model.genes if name not in places)
    known = set(model.genes)
    extra = tuple(name for name in data.genes if mapping.get(name, name) not in known)
    if not missing:
        return Match(columns, missing, extra)
    found = f"{len(missing):,} of {len(model):,} genes are missing: {_some(missing)}.{_near(missing, extra)}"
    if len(model) - len(missing) < LEAST_SHARED * len(model):
        raise Refused(
            f"data should hold at least {LEAST_SHARED:.0%} of the model's {len(model):,} genes.",
            found=found,
            cause=_why(model.genes, data.genes),
            do="give a mapping from the data's names to the model's, or train a model on this panel.",
        )
    return Match(columns, missing, extra, f"{found} They count as not measured.")


def _require(asked: Iterable[str], there: Sequence[str], rule: str, *, do: str) -> None:
    """Refuse names that are not there, and suggest those that differ little."""
    unknown = sorted(set(asked) - set(there))
    if unknown:
        raise Refused(rule, found=f"{_some(unknown)}, unknown there.{_near(unknown, there)}", do=do)


def _why(model: Sequence[str], data: Sequence[str]) -> str:
    ensembl = [sum(map(bool, map(_ENSEMBL.match, names))) > 0.5 * len(names) for names in (model, data)]
    if ensembl[0] != ensembl[1]:
        return "Ensembl ids on one side and gene symbols on the other."
    if 2 * len({name.lower() for name in model} & {name.lower() for name in data}) >= len(model):
        return "the same names in other letters, as of another species (Gad1, GAD1)."
    return "another gene panel."


def same_panel(config: Mapping[str, Any], genes: Sequence[str], types: Sequence[str]) -> None:
    """Refuse weights of a run whose genes or types are not, in order, those of the model that begins with them."""
    for kind, ours, theirs in (("genes", genes, config["genes"]), ("types", types, config["types"])):
        if list(ours) != list(theirs):
            found = [name for name in ours if name not in theirs]
            raise Refused(
                f"a run to begin with should know the same {kind}, in the same order.",
                found=f"{len(theirs):,} {kind} there, {len(ours):,} here, {len(found):,} of these unknown"
                f"{f': {_some(found)}' if found else ''}.",
                cause="another panel.",
                do="embed these data with that run, which finds its genes by name, or train without a start.",
            )


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def _near(asked: Sequence[str], there: Sequence[str], limit: int = 3) -> str:
    """Names that differ by their case, or by little."""
    lower = {name.lower(): name for name in there}
    pairs: list[str] = []
    for name in asked[:200]:
        near = lower.get(name.lower())
        if near is None and len(there) <= 5000:
            near = next(iter(difflib.get_close_matches(name, there, n=1, cutoff=0.85)), None)
        if near is not None:
            pairs.append(f"{near} for {name}")
        if len(pairs) == limit:
            break
    return f" Perhaps {', '.join(pairs)}." if pairs else ""
