"""One HTML file about a run: what was asked, what came out against which baselines, and what it cannot say."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from brodmann import atomic, manifest
from brodmann.errors import Refused
from brodmann.maps import numbers
from brodmann.maps.methods import methods
from brodmann.maps.page import document, encode, figure, table, text
from brodmann.maps.shown import Shown, Value, digits, dots, listed, plain

LARGEST = 8 * 1024 * 1024
"""Bytes a report may have: what mail servers and browsers take without complaint."""
Picture = tuple[str, str, Path | str]
"""Title, caption, path of a PNG."""


def write(
    run_path: Path | str,
    *,
    title: str,
    recipe_toml: str = "",
    environment: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    scores: Sequence[Mapping[str, Any]] = (),
    figures: Sequence[Picture] = (),
    maps: Sequence[Picture] = (),
    earlier: Sequence[Picture] = (),
    asked: str = "",
    data: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
    beside: str = "",
    limit_bytes: int = LARGEST,
) -> Path:
    """Write ``report.html`` into the run folder; self-contained, no script, nothing remote.

    Parameters
    ----------
    run_path : path
        Run folder.
    title : str
    recipe_toml : str
        The recipe as it was run.
    environment : mapping or sequence of mappings
        ``environment.json``: versions, machine, one mapping per session; nested values are flattened.
    metrics : sequence of mappings
        Records of ``metrics.jsonl``.
    scores : sequence of mappings
        Plain scores, the headline first: ``task``, ``target``, ``metric``, ``value``, ``interval`` (or ``low``,
        ``high``), ``n``, ``split``, ``baselines`` {name: number, (value, low, high) or mapping}, ``null``, ``remarks``.
    figures, maps : sequence of (title, caption, png path)
        The first map is shown large on the first screen.
    earlier : sequence of (title, caption, png path)
        Other maps of the run, shown small.
    asked : str, optional
        The question in a sentence; by default made from the headline score.
    data : mapping, optional
        For the methods paragraph and the table of data: ``name``, ``brains``, ``sections``, ``samples``, ``space``,
        ``noun``; ``by_brain``: sections and samples of each brain; and ``remarks``: what the reader should know about
        how the data were read.
    files : mapping, optional
        Relative path to SHA-256; by default read from ``manifest.json`` where it knows them, else computed.
    beside : str
        Folder with the figures as PNG and SVG and their numbers as CSV, as the run folder has it.
    limit_bytes : int
        Cap of the file's size; pictures shrink to fit.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    Refused
        Even the smallest pictures do not fit.
    """
    folder = Path(run_path)
    shown = [Shown.of(score) for score in scores]
    listed = _files(folder) if files is None else dict(files)
    curve = _curve(metrics, figures)
    plot = ("Learning curves", "What was logged at each step; pale: every record, strong: running median.", curve)
    learned = [picture for picture in figures if "learning" in picture[0].lower()] + ([plot] if curve else [])
    figures = [picture for picture in figures if picture not in learned]
    content = b""
    for widest, quality in ((1800, 86), (1400, 80), (1000, 72), (720, 60), (480, 45)):

        def draw(picture: tuple[str, str, Any], kind: str = "", most: int = widest, best: int = quality) -> str:
            source, size = encode(picture[2], widest=most, quality=best)
            kind = kind or ("wide" if size[0] > 1.6 * size[1] and 2 * size[0] >= min(most, 1500) else "")
            return figure(picture[0], picture[1], source, size=size, kind=kind)

        body = [
            _first(title, asked, shown, "".join(draw(p, "wide") for p in maps[:1])),
            "<main>",
            _scores(shown),
            _section("Maps", "".join(draw(p, "wide") for p in maps[1:])),
            _section("Other maps of this run", _pairs([draw(p, "", widest // 2) for p in earlier])),
            _section("Figures", _pairs([draw(p) for p in figures])),
            _section("Training", _pairs([*(draw(p) for p in learned), *filter(None, [_training(metrics)])])),
            _section("What this does not show", _remarks(shown)),
            _section("Data", _data(data or {}), _bullets((data or {}).get("remarks", ()))),
            _section("Methods", _methods(recipe_toml, data or {}, shown, metrics)),
            _section("Recipe, environment, files", _folds(recipe_toml, _sessions(environment), listed)),
            "</main>",
            _footer(beside),
        ]
        content = document(title, "\n".join(part for part in body if part)).encode()
        if len(content) <= limit_bytes:
            target = folder / "report.html"
            atomic.write_bytes(target, content)
            return target
    raise Refused(
        f"a report should have at most {limit_bytes / 1e6:.1f} MB.",
        found=f"{len(content) / 1e6:.1f} MB with {len(maps) + len(figures)} pictures at their smallest.",
        do="give fewer figures; the files stay in the run folder.",
    )


def _footer(beside: str) -> str:
    more = f" Its figures as PNG and SVG, and their numbers as CSV, lie in {text(beside)}." if beside else ""
    said = f"Written by brodmann {text(_version())}. Its numbers are those of the run folder."
    return f"<footer>{said}{more}</footer>"


_BRAINS = 40
"""Brains that the table of data lists one by one."""


def _data(data: Mapping[str, Any]) -> str:
    """What was analysed: sections and samples of each brain, and of all."""
    if not data.get("samples"):
        return ""
    brains = cast("Mapping[str, tuple[int, int]]", data.get("by_brain") or {})
    rows = [[name, f"{sections:,}", f"{samples:,}"] for name, (sections, samples) in [*brains.items()][:_BRAINS]]
    rest = len(brains) - _BRAINS
    rows += [[f"{rest:,} more brains", "", ""]] if rest > 0 else []
    rows.append(
        ["All" if brains else str(data.get("name", "")), f"{data.get('sections', 0):,}", f"{data['samples']:,}"]
    )
    where = [str(data.get("name") or ""), f"space '{data['space']}'" if data.get("space") else ""]
    return table(
        ["Brain", "Sections", str(data.get("noun") or "samples").capitalize()], rows,
        caption=", ".join(part for part in where if part), ours=len(rows) - 1,
    )  # fmt: skip


def _section(name: str, *parts: str) -> str:
    inside = "".join(parts)
    return f"<section><h2>{text(name)}</h2>{inside}</section>" if inside else ""


def _first(title: str, asked: str, shown: Sequence[Shown], picture: str) -> str:
    """First screen: question, headline score with its baselines, the large map."""
    top = f"<h1>{text(title)}</h1>"
    if not shown:
        return f'<header>{top}<p class="asked">{text(asked)}</p>{picture}</header>'
    head = shown[0]
    facts = [("n", head.n), ("Split", head.split)]
    told = "".join(f'<p class="fact"><b>{name}</b> {text(value)}</p>' for name, value in facts if value)
    told += "".join(f'<p class="fact"><b>{text(said)}</b></p>' for said in head.verdict)
    between = f"95 % interval {head.score.between}" if head.score.between else "no interval"
    number = (
        f'<div><div class="what">{text(head.name)}, {text(head.metric)}</div>'
        f'<div class="big">{digits(head.score.value)}</div><div class="between">{text(between)}</div>{told}</div>'
    )
    return (
        f'<header>{top}<p class="asked">{text(asked or _question(head))}</p>'
        f'<div class="hero">{number}<div>{dots(head)}</div></div>'
        f"{picture}</header>"
    )


def _question(head: Shown) -> str:
    """What was asked, from the headline score."""
    if head.task == "domains":
        form = "do the features form" if head.scored == "features" else f"form without the features, by {head.whose}"
        also = "do they come back" if head.metric == "stability" else "do they agree with the labels"
        return f"Which regions {form}, and {also}?"
    if head.task == "novelty":
        return (
            f"Are there borders inside the regions of '{head.target}' that it does not draw, and do single rows agree?"
        )
    if head.task == "layers":
        return "Can the layer of every pixel be told on tissue that gave no labels, better than by simpler means?"
    of = f" ({head.target})" if head.target else ""
    return f"Can {head.task}{of} be read from {head.whose}, on tissue that was held out, better than by simpler means?"


_INTERVAL = "95 % interval, or as noted"
_OTHER = {
    "novelty": "Step at each border",
    "domains": "Other numbers of the same domains (PAS: share of rows most of whose neighbours differ; CHAOS: mean "
    "distance to the nearest row of the same domain; less is smoother)",
}
"""What a table of further numbers holds, by task."""


def _scores(shown: Sequence[Shown]) -> str:
    """Every score with every baseline, as tables."""
    parts: list[str] = []
    for score in shown:
        notes = any(item.note for item in score.baselines.values())
        rows: list[list[object]] = [[score.scored, digits(score.score.value, 3), score.score.interval(3), ""]]
        for name, item in score.baselines.items():
            gain = score.gains.get(name, Value(score.score.value - item.value))
            gained = f"{gain.value:+.3f} {gain.interval(3, sign=True)}" if math.isfinite(gain.value) else ""
            rows.append(
                [name, digits(item.value, 3), item.interval(3), gained.strip(), *([item.note] if notes else [])]
            )
        words = ", ".join(part for part in (f"n = {score.n}" if score.n else "", score.split, score.probe) if part)
        source = {"domains": "Clustered", "novelty": "Judged by"}.get(score.task, "Read from")
        minus = f"{score.whose.removeprefix('the ')} minus this"
        head = [source, score.metric, _INTERVAL, minus, *(["note"] if notes else [])]
        rows[0] += [""] if notes else []
        parts.append(f"<h3>{text(score.name)}</h3>" + table(head, rows, caption=words, ours=0))
        if score.more:
            said = any(item.note for item in score.more.values())
            also = [
                [name, digits(item.value, 3), item.interval(3), *([item.note] if said else [])]
                for name, item in score.more.items()
            ]
            columns = [
                _OTHER.get(score.task, "Other numbers of the same predictions"),
                "value",
                _INTERVAL,
                *(["note"] if said else []),
            ]
            parts.append(table(columns, also))
        if score.per_class:
            measures = list(next(iter(score.per_class.values())))
            each = [
                [name, *(f"{row[m]:,.0f}" if m == "n" else digits(_float(row.get(m)), 3) for m in measures)]
                for name, row in score.per_class.items()
            ]
            parts.append(f"<details><summary>Each class</summary>{table(['Class', *measures], each)}</details>")
    return _section("Scores", *parts)


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _pairs(drawn: Sequence[str]) -> str:
    return f'<div class="pair">{"".join(drawn)}</div>' if drawn else ""


def _training(metrics: Sequence[Mapping[str, Any]]) -> str:
    """First and last logged numbers, for those who do not see the curve."""
    if not metrics:
        return ""
    skipped = {"step", "crc", "time", "timestamp"}
    ordered = list(numbers.by_step(metrics).values())
    if not ordered:
        return ""
    last = ordered[-1]
    # what was judged now and then stands beside what every step logs
    first = {name: value for record in reversed(ordered) for name, value in record.items()} | ordered[0]
    rows = [
        [plain(name), f"{float(first[name]):.4g}", f"{float(value):.4g}"]
        for name, value in last.items()
        if name not in skipped and isinstance(value, int | float) and isinstance(first.get(name), int | float)
    ]
    head = ["Logged", f"step {first.get('step', '?')}", f"step {last.get('step', '?')}"]
    return table(head, rows) if rows else ""


def _remarks(shown: Sequence[Shown]) -> str:
    """List what the scores say of themselves, and what their numbers give away."""
    own: list[str] = []
    for score in shown:
        own += [f"{score.name}: {remark}" for remark in score.remarks]
        _, unclear, better = score.rivals()
        if better:
            own.append(f"{score.name}: {listed(better)} did as well as {score.whose} or better.")
        if unclear:
            own.append(f"{score.name}: {score.whose} cannot be told apart from {listed(unclear)} by these intervals.")
        if score.undecided:
            own.append(f"{score.name}: no interval tells {score.whose} apart from {listed(score.undecided)}.")
        if not score.baselines:
            own.append(f"{score.name}: no baseline was computed, so the number alone says little.")
        if not score.score.between:
            own.append(f"{score.name}: no interval is known.")
    return f'<div class="limits">{_bullets(own)}</div>' if own else ""


def _bullets(said: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(item)}</li>' for item in said)}</ul>" if said else ""


def _methods(
    recipe_toml: str, data: Mapping[str, Any], shown: Sequence[Shown], metrics: Sequence[Mapping[str, Any]]
) -> str:
    try:
        recipe = tomllib.loads(recipe_toml)
    except tomllib.TOMLDecodeError:
        recipe = {}
    logged = [int(record["step"]) for record in metrics if isinstance(record.get("step"), int)]
    said = methods(recipe, data, shown, steps=max(logged) + 1 if logged else None)
    return f'<p class="methods">{text(said)}</p>' if said else ""


def _folds(recipe_toml: str, environment: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Fold away what few will read."""
    parts: list[str] = []
    if recipe_toml:
        parts.append(f"<details><summary>Recipe</summary><pre>{text(recipe_toml)}</pre></details>")
    if environment:
        rows = [[name, value] for name, value in _flat(environment)]
        parts.append(f"<details><summary>Environment</summary>{table(['What', 'Value'], rows)}</details>")
    if files:
        rows = [[name, value] for name, value in sorted(files.items())]
        summary = f"Files of the run ({len(files):,}), with SHA-256"
        inner = table(["File", "SHA-256"], rows[:400]).replace("<td>", "<td><code>").replace("</td>", "</code></td>")
        more = f"<p>{len(rows) - 400:,} more in manifest.json.</p>" if len(rows) > 400 else ""
        parts.append(f"<details><summary>{text(summary)}</summary>{inner}{more}</details>")
    return "".join(parts)


def _flat(value: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """Nested settings as ``torch.version``, value."""
    rows: list[tuple[str, str]] = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            rows += _flat(cast("Mapping[str, Any]", item), f"{path}{name}.")
        else:
            rows.append((f"{path}{name}", str(item)))
    return rows


def _curve(metrics: Sequence[Mapping[str, Any]], figures: Sequence[Picture]) -> bytes | None:
    """Learning curves as PNG, unless the caller brings them or nothing was logged."""
    if not any("step" in record for record in metrics) or any("learning" in str(p[0]).lower() for p in figures):
        return None
    import io

    from brodmann.maps.drawing import style
    from brodmann.maps.figures import learning

    stored = io.BytesIO()
    with style():
        learning(metrics).savefig(stored, format="png", dpi=190)
    return stored.getvalue()


def _sessions(environment: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> Mapping[str, Any]:
    """One mapping: of a run's only session, or of each by number."""
    if environment is None or isinstance(environment, Mapping):
        return environment or {}
    if len(environment) == 1:
        return environment[0]
    return {f"session {number}": session for number, session in enumerate(environment, start=1)}


def _files(folder: Path) -> dict[str, str]:
    """Hashes of the run's files, from its manifest where that knows them; a zarr store is one entry."""
    sealed = manifest.read(folder) or {}
    stores: dict[str, list[str]] = {}
    result: dict[str, str] = {}
    for name in manifest.files(folder, skip=("report.html", "run.lock")):
        path = folder / name
        known = sealed.get(name, {})
        same = known.get("bytes") == path.stat().st_size
        found = str(known["sha256"]) if same else manifest.sha256(path)
        parts = Path(name).parts
        store = next((i for i, part in enumerate(parts[:-1], start=1) if part.endswith(".zarr")), 0)
        if store:
            stores.setdefault("/".join(parts[:store]), []).append(f"{name} {found}")
        else:
            result[name] = found
    for store, lines in stores.items():
        result[f"{store}/ ({len(lines)} files)"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return result


def _version() -> str:
    from importlib.metadata import version

    return version("brodmann")
