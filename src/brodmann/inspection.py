"""Look before you leap: what a data set is, said on one screen and shown in one picture."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import BrodmannError, NoRoom, Unwritable
from brodmann.opening import kinds
from brodmann.patches import tissue
from brodmann.patches.source import Section, Source, doubted_size
from brodmann.space import Space

if TYPE_CHECKING:
    from brodmann.cells.source import Source as Cells
    from brodmann.maps.labels import Picture
    from brodmann.neurons.source import Source as Recordings

_WORDS = {
    "r": "right",
    "l": "left",
    "a": "anterior",
    "p": "posterior",
    "s": "superior",
    "i": "inferior",
}


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
        shown = [text.replace("\n", "\n" + 15 * " ") for text in self.concerns[:8]]
        lines.extend(f"  {severity:<12} {text}" for text in shown)
        if len(self.concerns) > 8:
            lines.append(f"  {severity:<12} and {len(self.concerns) - 8} more")
        lines.extend(f"  skipped      {file}: {_short(reason)}" for file, reason in self.skipped[:8])
        if len(self.skipped) > 8:
            lines.append(f"  skipped      and {len(self.skipped) - 8} more")
        return "\n".join(lines)

    def picture(self, path: str | Path, *, limit: int = 20) -> Path:
        """Write a contact sheet: sections with outline of tissue, 1-mm bar, and where the space's axes point.

        Cells are drawn by their density; of recordings frames of video and a raster of responses are shown.

        Parameters
        ----------
        path : path
            PNG to write.
        limit : int
            Most sections shown, evenly chosen.

        Raises
        ------
        Refused
            When nothing could be opened.
        """
        from brodmann.errors import Refused

        if self.source is None:
            raise Refused(
                f"a picture of {self.name} needs readable data.", found="none.", do=dict(self.facts).get("look", "")
            )
        if self.reader == "recordings":
            from brodmann.neurons import sheet

            return sheet.draw(cast("Recordings", self.source), Path(path))
        drawn: list[Any] = []
        if isinstance(self.source, Source):
            drawn = list(self.source.sections)
        else:
            from brodmann.cells import pictures

            drawn = list(pictures(cast("Cells", self.source)))
        guessed = " (unit arbitrary)" if getattr(self.source, "unit", "um") == "arbitrary" else ""
        return _contact_sheet(self.source.name + guessed, self.source.space, drawn, Path(path), limit)


def validate(path: str | Path) -> Report:
    """Open a data set as `brodmann.fit` would, and say what it is and what looks odd.

    Every section is read once at low magnification, so files that only break when decoded are found too. Cells and
    recordings are converted into the cache, which `brodmann.fit` then uses.

    Parameters
    ----------
    path : path
        Folder of sections, one image, or ``sections.json``; or cells or recordings in any form that
        `brodmann.cells.open` or `brodmann.neurons.open` reads.

    Returns
    -------
    Report
        Bad data are a verdict, not an exception.

    Raises
    ------
    NoRoom, Unwritable
        The cache cannot be written, which is no fault of the data.
    """
    from brodmann.patches import readers

    # "." and "data/.." have names, too
    path = Path(path).absolute() if Path(path).exists() else Path(path)
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
            overview = section.overview(_coarse(section, 512))
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
    except (NoRoom, Unwritable):
        raise
    except (BrodmannError, OSError) as error:
        return Report(path.name, what, "refused", concerns=[str(error)])
    if report.concerns or report.skipped:
        report.verdict = "usable"
    return report


def _phantom(name: str) -> Report:
    """What to say of the data that the program makes by itself."""
    facts = [
        ("made by", "the program, from a seed: no file to check, and all that is planted is known (phantom.truth)"),
        ("sections", "brodmann fit patches-tiny --data phantom:brains=4 --out RUN (phantom.sections has the settings)"),
        ("cells", "brodmann fit cells-tiny --data phantom:brains=2 --out RUN (phantom.transcripts)"),
        ("neurons", "brodmann fit neurons-tiny --data phantom:animals=3 --out RUN (phantom.recordings)"),
        ("look", "from brodmann import phantom; phantom.write(phantom.sections(), 'FOLDER'); then validate FOLDER"),
    ]
    return Report(name, "phantom", "good", facts)


def _describe(report: Report, source: Source, dark: Counter[bool]) -> None:
    sections = source.sections
    subjects = Counter(section.subject for section in sections)
    sizes = sorted({float(f"{section.native_um:.4g}") for section in sections})
    channels = sorted({section.channels for section in sections})
    span = _span(source)
    points = sum(0 if section.points is None else len(section.points) for section in sections)
    labels = sorted({str(name) for s in sections if s.points is not None for name in s.points.columns} - _OWN)
    width, height = (max(getattr(s, side) for s in sections) / 1000 for side in ("width_um", "height_um"))
    most = ", ".join(f"{name} ({count})" for name, count in subjects.most_common(6))
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
    centres = np.array([_centre(section) for section in sections])
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
    slabs = [np.linalg.norm(_directions(section)[0]) for section in sections]
    if max(slabs) > 1.25 or min(slabs) < 0.8:
        report.concerns.append(
            f"registration stretches sections by {min(slabs):.2f} to {max(slabs):.2f}: a wrong pixel size or transform?"
        )


def _short(reason: str) -> str:
    """First lines of a reason, on one line."""
    text = " ".join(part.strip() for part in reason.splitlines())
    return text if len(text) <= 160 else text[:157] + "..."


def _coarse(section: Picture, px: int) -> float:
    return max(section.width_um, section.height_um) / px


def _centre(section: Picture) -> NDArray[np.float64]:
    return section.place(np.array([[section.width_um / 2, section.height_um / 2]]))[0]


def _span(source: Source) -> NDArray[np.float64]:
    return np.ptp(np.array([_centre(section) for section in source.sections]), axis=0)


def _directions(section: Picture) -> NDArray[np.float64]:
    """Rightwards and upwards on the section, as (2, 3) in the space: mm per mm on the slide."""
    x, y = section.width_um / 2, section.height_um / 2
    at = section.place(np.array([[x, y], [x + 1000, y], [x, y - 1000]]))
    return at[1:] - at[0]


def _axis_word(direction: NDArray[np.float64], space: Space) -> str:
    """Word for where a direction mainly points, e.g. 'left' or '+y'."""
    axis = int(np.argmax(np.abs(direction)))
    letter, forward = space.orientation[axis], bool(direction[axis] > 0)
    if letter not in _WORDS:
        return f"{'+' if forward else '-'}{letter}"
    opposite = {"r": "l", "l": "r", "a": "p", "p": "a", "s": "i", "i": "s"}
    return _WORDS[letter if forward else opposite[letter]]


def _contact_sheet(name: str, space: Space, sections: list[Any], path: Path, limit: int) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = [
        sections[i] for i in np.unique(np.linspace(0, len(sections) - 1, min(limit, len(sections))).round().astype(int))
    ]
    bar = 1.0 if max(section.width_um for section in chosen) > 1500 else 0.1
    columns = min(5, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure: Any = Figure(figsize=(max(3.0 * columns, 6.0), 2.6 * rows + 0.4), dpi=120, layout="constrained")
    count = (
        f"{len(sections)} sections"
        if len(chosen) == len(sections)
        else (f"{len(chosen)} of {len(sections)} sections, evenly chosen,")
    )
    figure.suptitle(f"{name}: {count} in {space.name}; bar {bar:g} mm", fontsize=9)
    axes: Any = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, section in zip(axes, chosen, strict=False):
        _show(axis, section, space, bar)
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def _show(axis: Any, section: Any, space: Space, bar: float) -> None:
    """One section: pixels, outline of tissue, own points, bar, axis words."""
    pixel_um = _coarse(section, 360)
    overview = section.overview(pixel_um)
    found = tissue.mask(overview) if hasattr(section, "points") else None
    width, height = section.width_um / 1000, section.height_um / 1000
    mm = pixel_um / 1000
    extent = (0, overview.shape[2] * mm, overview.shape[1] * mm, 0)
    picture = np.moveaxis(overview, 0, -1)
    axis.imshow(picture if section.channels == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=255, extent=extent)
    if found is not None and found.any() and not found.all():
        centres = [(np.arange(size) + 0.5) * mm for size in (found.shape[1], found.shape[0])]
        axis.contour(*centres, found.astype(float), levels=[0.5], colors="#00a050", linewidths=0.6)
    points = getattr(section, "points", None)
    if points is not None:
        some = points.iloc[:: max(len(points) // 300, 1)]
        axis.plot(some["x_um"] / 1000, some["y_um"] / 1000, ",", color="#d04000")
    axis.plot(
        [0.04 * width, 0.04 * width + bar], [0.95 * height] * 2, color="#c00000", linewidth=2, solid_capstyle="butt"
    )
    right, up = _directions(section)
    through = np.cross(right, up)
    if space.name != "unregistered":
        blue = "#2040c0"
        arrow: dict[str, Any] = {"arrowprops": {"arrowstyle": "<-", "color": blue}, "color": blue, "fontsize": 6}
        arrow |= {"xycoords": "axes fraction", "ha": "center", "va": "center"}
        for word, tip in ((_axis_word(right, space), (0.3, 0.08)), (_axis_word(up, space), (0.08, 0.32))):
            axis.annotate(word, xy=(0.08, 0.08), xytext=tip, **arrow)
        depth = _centre(section)[int(np.argmax(np.abs(through)))]
        title = f"{section.id}  ({'xyz'[int(np.argmax(np.abs(through)))]} {depth:.2f} mm)"
    else:
        title = f"{section.id}  ({section.subject})"
    axis.set_title(title, fontsize=6)
    axis.set_axis_off()
