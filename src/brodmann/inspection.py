"""Look before you leap: what a data set is, said on one screen and shown in one picture."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from brodmann import atomic
from brodmann.errors import BrodmannError, NoRoom, Refused, Unwritable, Usage
from brodmann.opening import kinds, planted, strangers
from brodmann.patches import sheet, tissue
from brodmann.patches.sheet import centre, coarse, directions
from brodmann.patches.source import Section, Source, doubted_size
from brodmann.reasons import told

if TYPE_CHECKING:
    from brodmann.cells.source import Source as Cells
    from brodmann.neurons.source import Source as Recordings

_BELOW = "\n" + 15 * " "
"""Later lines of a finding stand below its first."""


@dataclass
class Report:
    """What `validate` found; ``str(report)`` is one screen.

    Parameters
    ----------
    name, reader : str
        Data set, and the layout that was recognised.
    verdict : {"good", "usable", "refused"}
        Usable: some files are skipped or something looks odd.
    facts : list of (str, str)
        Label and value, in reading order.
    concerns : list of str
        What looks odd, and what to do.
    skipped : list of (str, str)
        Files left out, and why.
    source : Source (of patches, cells or neurons) or None
        The opened data; None when refused.
    """

    name: str
    reader: str
    verdict: str
    facts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    concerns: list[str] = field(default_factory=list[str])
    skipped: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    source: Source | Cells | Recordings | None = None

    @property
    def exit_code(self) -> int:
        """0 nothing skipped, 3 some files skipped, 6 refused."""
        return 6 if self.verdict == "refused" else 3 if self.skipped else 0

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.verdict}"]
        lines.extend(f"  {label:<12} {value}" for label, value in self.facts)
        severity = "error" if self.verdict == "refused" else "warning"
        lines.extend(f"  {severity:<12} {text}".replace("\n", _BELOW) for text in self.concerns[:8])
        if len(self.concerns) > 8:
            lines.append(f"  {severity:<12} and {len(self.concerns) - 8} more")
        lines.extend(f"  skipped      {text}".replace("\n", _BELOW) for text in told(self.skipped, limit=8))
        return "\n".join(lines)

    def picture(self, path: str | Path, *, limit: int = 20) -> Path:
        """Write a contact sheet: sections with outline of tissue, 1-mm bar, and where the space's axes point.

        Cells are drawn by their density; of recordings frames of video and a raster of responses are shown.

        Parameters
        ----------
        path : path
            File to write, .png, .jpg or .pdf. An earlier picture is replaced, nothing else.
        limit : int
            Most sections shown, evenly chosen.

        Raises
        ------
        Refused
            When nothing could be opened.
        Usage
            Another ending, or another file of that name.
        NoRoom, Unwritable
            The picture cannot be written.
        """
        if self.source is None:
            raise Refused(
                f"a picture of {self.name} needs readable data.", found="none.", do=dict(self.facts).get("look", "")
            )
        path = Path(path)
        admit(path)
        if self.reader == "recordings":
            from brodmann.neurons import sheet as recorded

            figure = recorded.draw(cast("Recordings", self.source))
        else:
            drawn: list[Any] = []
            if isinstance(self.source, Source):
                drawn = list(self.source.sections)
            else:
                from brodmann.cells import pictures

                drawn = list(pictures(cast("Cells", self.source)))
            guessed = " (unit arbitrary)" if getattr(self.source, "unit", "um") == "arbitrary" else ""
            figure = sheet.draw(self.source.name + guessed, self.source.space, drawn, limit=limit)
        written = BytesIO()
        figure.savefig(written, format=path.suffix.lower()[1:], dpi="figure", **_SIGNED[path.suffix.lower()])
        atomic.write_bytes(path, written.getvalue())
        return path


_MAKER = "brodmann validate"
_SIGNED: dict[str, dict[str, Any]] = {
    ".png": {"metadata": {"Software": _MAKER}},
    ".jpg": {"pil_kwargs": {"comment": _MAKER}},
    ".jpeg": {"pil_kwargs": {"comment": _MAKER}},
    ".pdf": {"metadata": {"Creator": _MAKER}},
}
"""Endings of a picture, and how each says who made it."""
_ENDS = 1 << 16
"""Bytes at either end of a file in which its maker stands."""


def admit(path: Path) -> None:
    """Refuse a place for a picture before any work: another ending, or something there that is no earlier picture.

    Raises
    ------
    Usage
    Unwritable
        No permission.
    """
    if path.suffix.lower() not in _SIGNED:
        raise Usage(
            "a picture should be PNG, JPEG or PDF.", found=f"'{path.name}'.", do=f"end it in {', '.join(_SIGNED)}."
        )
    if not (path.exists() or path.is_symlink()):
        atomic.admits(path.parent, "the picture")
    elif not _ours(path):
        raise Usage(
            f"{path} should not be there yet.",
            found="it is, and no earlier picture of validate.",
            do="name another file, or remove it yourself.",
        )


def _ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_ENDS)
        file.seek(-min(path.stat().st_size, _ENDS), 2)
        return _MAKER.encode() in head + file.read()


def validate(path: str | Path, *, picture: str | Path | None = None) -> Report:
    """Open a data set as `brodmann.fit` would, and say what it is and what looks odd.

    Every section is read once at low magnification, so files that only break when decoded are found too. Cells and
    recordings are converted into the cache, which `brodmann.fit` then uses.

    Parameters
    ----------
    path : path
        Folder of sections, one image, or ``sections.json``; or cells or recordings in any form that
        `brodmann.cells.open` or `brodmann.neurons.open` reads.
    picture : path, optional
        Where to draw what was found, see `Report.picture`; nothing is drawn of refused data.

    Returns
    -------
    Report
        Bad data are a verdict, not an exception.

    Raises
    ------
    NoRoom, Unwritable
        The cache or the picture cannot be written, which is no fault of the data.
    Usage
        A picture of another ending, or another file at its place: refused before the data are read.
    """
    if picture is not None:
        admit(Path(picture))
    report = _inspected(Path(path))
    if picture is not None:
        drawn = "none: nothing could be read" if report.verdict == "refused" else str(report.picture(picture))
        report.facts.append(("picture", drawn))
    return report


def _inspected(path: Path) -> Report:
    from brodmann.patches import readers

    # "." and "data/.." have names, too
    path = path.absolute() if path.exists() else path
    if path.name.partition(":")[0] == "phantom" and not path.exists():
        return _phantom(path.name)
    try:
        images, cells, recordings = kinds(path).values()
    except OSError as error:
        return Report(path.name, "none", "refused", concerns=[str(error)])
    if recordings:
        return _looked(path, "recordings")
    if cells and not images:
        return _looked(path, "cells")
    try:
        source = readers.read(path)
    except (BrodmannError, OSError) as error:
        if cells and (found := _looked(path, "cells")).source is not None:
            found.facts.append(("note", "images beside the cells are not read as sections; cells are"))
            return found
        return Report(path.name, "none", "refused", concerns=[str(error)])
    report = Report(source.name, source.reader, "good", skipped=list(source.skipped), source=source)
    sections: list[Section] = []
    dark: Counter[bool] = Counter()
    empty: list[str] = []
    for section in source.sections:
        try:
            overview = section.overview(coarse(section, 512))
            dark[section.dark_stain] += 1
        except BrodmannError as error:
            report.skipped.append((section.id, str(error)))
            continue
        if not tissue.mask(overview).any():
            empty.append(section.id)
        sections.append(section)
    source.sections = sections
    if not sections:
        report.verdict, report.source = "refused", None
        report.concerns.append("no section can be decoded.")
        return report
    _describe(report, source, dark)
    _doubt(report, source, dark, empty)
    report.concerns += _beside(path, "patches", report.skipped)
    if report.concerns or report.skipped:
        report.verdict = "usable"
    return report


def _looked(path: Path, what: Literal["cells", "recordings"]) -> Report:
    """Verdict on cells or recordings."""
    verdict: Any = importlib.import_module(f"brodmann.{'cells' if what == 'cells' else 'neurons'}.verdict")
    try:
        source, looked = verdict.opened(path)
        report = Report(source.name, what, "good", skipped=list(source.skipped), source=source)
        report.facts, report.concerns = verdict.facts(source, looked), verdict.doubts(source, looked)
        report.concerns += _beside(path, "cells" if what == "cells" else "neurons", report.skipped)
        if what == "cells" and (why := verdict.refusal(source)):
            report.verdict, report.source, report.concerns = "refused", None, [why]
            return report
    except (NoRoom, Unwritable):
        raise
    except (BrodmannError, OSError) as error:
        return Report(path.name, what, "refused", concerns=[str(error)])
    if report.concerns or report.skipped:
        report.verdict = "usable"
    return report


def _phantom(name: str) -> Report:
    """What to say of the data that the program makes by itself, for the systems that take such settings."""
    refusals = planted(name)
    given = name if ":" in name else ""
    facts = [
        ("made by", "the program, from a seed: no file to check, and all that is planted is known (phantom.truth)"),
        *(
            (label, f"brodmann fit {system}-tiny --data {given or usual} --out RUN ({maker})")
            for system, label, usual, maker in (
                ("patches", "sections", "phantom:brains=4", "phantom.sections has the settings"),
                ("cells", "cells", "phantom:brains=2", "phantom.transcripts"),
                ("neurons", "neurons", "phantom:animals=3", "phantom.recordings"),
            )
            if not refusals[system]
        ),
        ("look", "from brodmann import phantom; phantom.write(phantom.sections(), 'FOLDER'); then validate FOLDER"),
    ]
    if all(refusals.values()):
        return Report(name, "phantom", "refused", concerns=[f"{one}: {why}" for one, why in refusals.items()])
    return Report(name, "phantom", "good", facts)


def _beside(path: Path, system: str, skipped: list[tuple[str, str]]) -> list[str]:
    """What else a folder holds, that another system would read."""
    left = {file for file, _ in skipped}
    names = [name for name in strangers(path, system) if name not in left]
    return [
        f"also here, not looked at: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}; "
        "name one file, or keep each kind in a folder of its own, to have it looked at"
    ] if names else []  # fmt: skip


def _describe(report: Report, source: Source, dark: Counter[bool]) -> None:
    sections = source.sections
    subjects = Counter(section.subject for section in sections)
    sizes = sorted({float(f"{section.native_um:.4g}") for section in sections})
    channels = sorted({section.channels for section in sections})
    span = _span(source)
    points = sum(0 if section.points is None else len(section.points) for section in sections)
    labels = sorted({str(name) for s in sections if s.points is not None for name in s.points.columns} - _OWN)
    width, height = (max(getattr(s, side) for s in sections) / 1000 for side in ("width_um", "height_um"))
    most = ", ".join(f"{name} ({count})" for name, count in subjects.most_common(6)) + ", ..." * (len(subjects) > 6)
    report.facts += [
        ("read as", report.reader),
        ("sections", f"{len(sections)} of {len(subjects)} subject{'s' * (len(subjects) > 1)}: {most}"),
        ("pixel size", " to ".join(f"{size:g}" for size in dict.fromkeys((sizes[0], sizes[-1]))) + " um"),
        ("image size", f"up to {width:.1f} x {height:.1f} mm"),
        ("channels", " and ".join(map(str, channels))),
        ("stain", "dark on bright" if not dark[False] else "bright on dark" if not dark[True] else "mixed"),
        ("space", f"{source.space.name} (mm, axes {source.space.orientation}); origin: {source.space.origin}"),
        ("centres span", " x ".join(f"{value:.1f}" for value in span) + " mm"),
        ("points", f"{points:,}" + (f" with {', '.join(labels[:6])}" if labels else "") if points else "none"),
        ("fingerprint", source.fingerprint[:16]),
    ]
    notes = Counter(note for section in sections for note in cast("list[str]", getattr(section, "notes", [])))
    for note, count in notes.most_common(3):
        report.facts.append(("note", f"{note} ({count} section{'s' * (count > 1)})"))


_OWN = {"x_um", "y_um", "angle_deg", "u_mm", "v_mm"}


def _doubt(report: Report, source: Source, dark: Counter[bool], empty: list[str]) -> None:
    sections = source.sections
    ums = np.array([section.native_um for section in sections])
    odd = np.abs(np.log(ums / np.median(ums))) > math.log(1.5)
    if odd.any():
        names = ", ".join(section.id for section, bad in zip(sections, odd, strict=True) if bad)
        usual = f"{np.median(ums):.4g} um"
        report.concerns.append(f"pixel size is not the usual {usual}: {names[:120]}")
    if dark[True] and dark[False]:
        few = dark[True] < dark[False]
        names = ", ".join(section.id for section in sections if section.dark_stain == few)
        report.concerns.append(f"stain polarity is mixed; {names[:120]} differ. State dark_stain if this is wrong.")
    if empty:
        report.concerns.append(f"no tissue found on {len(empty)}: {', '.join(empty)[:120]}")
    if doubt := doubted_size(sections):
        report.concerns.append(doubt)
    if len({section.subject for section in sections}) == 1 and len(sections) > 1:
        report.facts.append(("note", 'splits by brain need more than one subject; state "subject" if there are more'))
    if source.space.name == "unregistered":
        report.facts.append(("note", "sections are not registered: distances hold within a section only"))
        return
    centres = np.array([centre(section) for section in sections])
    same = [
        (sections[i].id, sections[j].id)
        for i in range(len(sections))
        for j in range(i + 1, min(i + 50, len(sections)))
        if sections[i].subject == sections[j].subject and np.linalg.norm(centres[i] - centres[j]) < 1e-4
    ]
    if same:
        report.concerns.append(
            f"{len(same)} pairs of sections lie at the very same place, e.g. {same[0][0]}, {same[0][1]}"
        )
    slabs = [np.linalg.norm(directions(section)[0]) for section in sections]
    if max(slabs) > 1.25 or min(slabs) < 0.8:
        report.concerns.append(
            f"registration stretches sections by {min(slabs):.2f} to {max(slabs):.2f}: a wrong pixel size or transform?"
        )


def _span(source: Source) -> NDArray[np.float64]:
    return np.ptp(np.array([centre(section) for section in source.sections]), axis=0)
