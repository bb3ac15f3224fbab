"""Readers: from a path to a `Source`. Each file format or layout is one file."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from brodmann.errors import BrodmannError, Refused
from brodmann.patches.image import Image, ImageSection
from brodmann.patches.readers import layermap, masks, quicknii, sidecar, spots
from brodmann.patches.readers.placing import content_of, placed
from brodmann.patches.readers.sidecar import Entry, Stated
from brodmann.patches.source import Source
from brodmann.reasons import indented, told
from brodmann.sidecar import inside, strict_json
from brodmann.space import Space, unregistered

__all__ = ["Entry", "Stated", "image", "read"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".btf", ".svs", ".zarr", ".precomputed")
"""Endings of images that are opened; what a file is, its first bytes decide. A precomputed volume needs no ending."""
UNREAD = (
    ".czi",
    ".vsi",
    ".nd2",
    ".lif",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".jp2",
    ".bmp",
    ".gif",
    ".webp",
    ".dcm",
    ".nii",
    ".gz",
)
"""Endings of images that are named as skipped rather than passed over in silence."""


def read(path: Path, stated: Stated | None = None) -> Source:
    """Open a folder, an image, or a ``sections.json``.

    Parameters
    ----------
    path : Path
    stated : Stated, optional
        Stands in for the folder's ``sections.json``.

    Raises
    ------
    Refused
        Nothing there, or no file passes the gate; every file's reason is in the message.
    """
    if not path.exists():
        raise Refused(f"there should be data at {path}.", found="nothing.", do="check the path.")
    if path.name.endswith(".json") and path.is_file() and not _is_store(path.parent):
        folder, file = path.parent, None
        content = strict_json(path)
        if quicknii.is_anchoring(content):
            stated = stated or Stated(anchoring=path.name)
        else:
            stated = stated or sidecar.read_stated(path)
    elif path.is_file() or _is_store(path):
        folder, file = path.parent, path.name
    else:
        folder, file = path, None
    if stated is None:
        beside = folder / "sections.json"
        stated = sidecar.read_stated(beside) if beside.is_file() else Stated()
    return _assemble(folder, file, stated)


def image(path: Path, entry: Entry, stated: Stated) -> Image:
    """Open one image by what it is, not by what it is called."""
    channel, span, absent = (stated.of(entry, key) for key in ("channel", "range", "absent_value"))
    if _is_precomputed(path):
        _refuse_links(path)
        from brodmann.patches.readers.precomputed import Precomputed

        return Precomputed(
            path, channel=channel, span=span, absent=absent, axis=stated.of(entry, "axis"), number=entry.slice
        )
    if entry.slice is not None:
        raise Refused(f"{path.name} should be a volume to have slices.", found="a flat image.", do='leave "slice" out.')
    if path.is_dir():
        _refuse_links(path)
        from brodmann.patches.readers.omezarr import OmeZarr

        return OmeZarr(path, channel=channel, span=span, absent=absent)
    with path.open("rb") as handle:
        head = handle.read(4)
    if head in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        from brodmann.patches.readers.tiff import Tiff

        return Tiff(path, channel=channel, span=span, absent=absent)
    from brodmann.patches.readers.plain import Plain

    return Plain(path)


def _refuse_links(store: Path) -> None:
    """Refuse links that lead out: a stranger's store must not show files of this machine as pixels."""
    home = store.resolve()
    for path in store.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise Refused(f"{store.name} should hold its own files.", found=f"a link: {path.relative_to(store)}.")


def _is_store(path: Path) -> bool:
    zarr = path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"))
    if zarr or not _is_precomputed(path):
        return zarr
    # A folder of images may hold a note called "info".
    with (path / "info").open("rb") as file:
        return file.read(100).lstrip()[:1] == b"{"


def _is_precomputed(path: Path) -> bool:
    return path.is_dir() and (path / "info").is_file()


def _assemble(folder: Path, file: str | None, stated: Stated) -> Source:
    skipped: list[tuple[str, str]] = []
    space, anchors = _anchors(folder, stated, skipped)
    entries = _entries(folder, file, stated, anchors, skipped)
    series_um = quicknii.pixel_um_of(list(anchors.values())) if anchors else None
    sections: list[ImageSection] = []
    digest = hashlib.sha256()
    contents: dict[Path, Any] = {}
    names: set[str] = set()
    only: BrodmannError | None = None
    for entry in entries:
        try:
            section = _section(folder, entry, stated, anchors.get(entry.file), space, series_um)
            if section.id in names:
                raise Refused(f"section ids should be unique; '{section.id}' occurs twice.", do="state id.")
            state = _state(contents, folder, entry, section)
        except BrodmannError as error:
            skipped.append((entry.file, str(error)))
            only = error
            continue
        except OSError as error:
            skipped.append((entry.file, f"cannot be read: {error.strerror or error}"))
            continue
        names.add(section.id)
        digest.update(state)
        sections.append(section)
    if not sections:
        give = f"give PNG, JPEG, TIFF or OME-Zarr ({', '.join(SUFFIXES)}), or a sections.json;"
        give += " of cells h5ad, loom, CSV or SpatialData."
        if file is not None and only is not None and len(skipped) == 1:
            raise Refused(only.asked, found=only.found, cause=only.cause, do=only.do or give) from only
        reasons = indented(told(skipped, limit=5), 4)
        raise Refused(
            f"{folder.name} should hold at least one readable section.",
            found=f"{len(skipped):,} files, none of which passes.{reasons}" if skipped else "no data files.",
            do="" if skipped else give,
        )
    if space is None:
        space = unregistered(max(s.width_um for s in sections) / 1000, max(s.height_um for s in sections) / 1000)
    else:
        centres = [s.place(np.array([[s.width_um / 2, s.height_um / 2]]))[0] for s in sections]
        space.check(np.array(centres), what=f"centres of the sections of {folder.name}")
    digest.update(repr(dataclasses.astuple(space)).encode())
    how = "QuickNII anchoring" if anchors else "sections.json" if stated.sections else "images"
    return Source(
        space=space,
        sections=list(sections),
        fingerprint=digest.hexdigest(),
        name=folder.name if file is None else file,
        skipped=skipped,
        reader=how,
    )


def _anchors(
    folder: Path, stated: Stated, skipped: list[tuple[str, str]]
) -> tuple[Space | None, dict[str, quicknii.Anchor]]:
    """Space of the sections (None: unregistered), and the anchoring per file where a series lies in the folder."""
    space = stated.named_space()
    own = stated.sections is not None and any(entry.to_mm for entry in stated.sections)
    if own and space is None:
        raise Refused('sections with "to_mm" need a space.', found="none.", do='name it: "space": "ccf_v3".')
    if own or (stated.space is not None and stated.anchoring is None):
        return space, {}
    if stated.anchoring is not None:
        found = [inside(folder, stated.anchoring)]
    else:
        listed = [path for path in sorted(folder.glob("*.json")) if path.name != "sections.json"]
        found = [path for path in listed if quicknii.is_anchoring(_try_json(path))]
    if not found:
        return space, {}
    if len(found) > 1:
        raise Refused(
            f"{folder.name} should hold one QuickNII series.",
            found=", ".join(path.name for path in found),
            do="open the one you mean by its path.",
        )
    target, anchors, bad = quicknii.anchors(strict_json(found[0]), where=found[0].name)
    if space is not None:
        space.require(target)
    skipped.extend(bad)
    return target, {anchor.file: anchor for anchor in anchors}


def _try_json(path: Path) -> object:
    try:
        return strict_json(path)
    except BrodmannError:
        return None


def _entries(
    folder: Path,
    file: str | None,
    stated: Stated,
    anchors: dict[str, quicknii.Anchor],
    skipped: list[tuple[str, str]],
) -> list[Entry]:
    """List what to open: what the sidecar lists, else what is anchored, else every image of the folder."""
    known: dict[str, list[Entry]] = {}
    for entry in stated.sections or []:
        known.setdefault(entry.file, []).append(entry)
    if file is not None:
        return known.get(file, [Entry(file=file)])
    listed = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    present = [p.name for p in listed if p.suffix.lower() in SUFFIXES or _is_precomputed(p)]
    wanted = list(known) or list(anchors) or present
    skipped.extend(
        (name, "is not listed in sections.json or the series") for name in present if name not in set(wanted)
    )
    unread = "format is not read; convert it to OME-Zarr or OME-TIFF (QuPath, bioformats2raw)"
    skipped.extend((path.name, unread) for path in sorted(folder.iterdir()) if path.suffix.lower() in UNREAD)
    return [entry for name in wanted for entry in known.get(name, [Entry(file=name)])]


def _section(
    folder: Path,
    entry: Entry,
    stated: Stated,
    anchor: quicknii.Anchor | None,
    space: Space | None,
    series_um: float | None,
) -> ImageSection:
    path = inside(folder, entry.file)
    if not path.exists():
        raise Refused(f"{entry.file} should exist.", found="no such file.", cause="listed, but moved or not copied.")
    if entry.sha256 is not None:
        _verify(path, entry.sha256)
    picture = image(path, entry, stated)
    table = spots.table_of(path)
    section = placed(
        picture, entry, stated, name=path.stem, anchor=anchor, space=space, table=table, series_um=series_um
    )
    section.subject = stated.of(entry, "subject") or folder.resolve().name
    points = inside(folder, entry.points) if entry.points is not None else table
    size = {"width_um": section.width_um, "height_um": section.height_um}
    if points is not None:
        section.points = sidecar.read_points(points, pixel_um=section.native_um, **size)
    elif entry.mask is not None:
        mask, labels = inside(folder, entry.mask), (stated.cortex_labels, stated.white_labels)
        section.points, notes = masks.points(mask, *labels, **size)
        section.notes += notes
    if entry.layers is not None:
        file = inside(folder, entry.layers)
        _refuse_links(file)
        section.layers = layermap.LayerMap(file, stated.layer_labels, **size)
    return section


def _verify(path: Path, expected: str) -> None:
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected.lower():
        from brodmann.errors import Corrupt

        raise Corrupt(
            f"{path.name} should have SHA-256 {expected[:16]}...", found=f"{found[:16]}...", do="copy it again."
        )


def _state(contents: dict[Path, Any], folder: Path, entry: Entry, section: ImageSection) -> bytes:
    """Hash of one section: its content, its place, its points; ``contents`` keeps what several slices share."""
    path = inside(folder, entry.file)
    if path not in contents:
        contents[path] = content_of(folder, path)
    digest = contents[path].copy()
    said = (section.id, section.subject, section.native_um, section.stated_dark, section.image.sizes)
    digest.update(repr(said).encode())
    digest.update(repr((entry.slice, entry.axis)).encode() if entry.slice is not None else b"")
    digest.update(section.to_mm.tobytes())
    if section.points is not None:
        digest.update(section.points.to_csv(index=False).encode())
    return digest.digest()
