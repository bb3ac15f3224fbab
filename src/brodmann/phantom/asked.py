"""What may be asked of the phantom: settings are refused before anything is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from brodmann.errors import Usage
from brodmann.phantom.recordings import Settings as Recorded
from brodmann.phantom.recordings import recordings
from brodmann.phantom.transcriptome import Settings as Counted
from brodmann.phantom.transcriptome import transcripts

_NETWORKS = ("areas", "place")


def stained(settings: Mapping[str, Any]) -> None:
    """Refuse settings of `phantom.sections`, which may lack some.

    Raises
    ------
    Usage
        If a count or size is not positive, networks follow something else, or sections are tilted too far.
    """
    for name in ("brains", "sections_per_brain", "native_um", "spacing_mm"):
        if float(settings.get(name, 1)) <= 0:
            raise Usage(f"'{name}' of a phantom should be positive.", found=f"{settings[name]}.", do="give more.")
    if (networks := settings.get("networks", "areas")) not in _NETWORKS:
        raise Usage(f"networks of a phantom should follow one of {', '.join(_NETWORKS)}.", found=f"'{networks}'.")
    if not 0 <= (tilt_deg := settings.get("tilt_deg", 0.0)) <= 45:
        raise Usage("'tilt_deg' of a phantom should be 0 to 45.", found=f"{tilt_deg:g}.")


def check(system: str, settings: Mapping[str, Any]) -> None:
    """Refuse what the phantom of a system refuses, without rendering it.

    Parameters
    ----------
    system : {"patches", "cells", "neurons"}
    settings : mapping
        Those that are not the usual ones, by name; names and kinds are right.

    Raises
    ------
    Usage
        A setting out of range.
    """
    if system == "patches":
        stained(settings)
        return
    kind, render = (Counted, transcripts) if system == "cells" else (Recorded, recordings)
    every: dict[str, Any] = {**(render.__kwdefaults__ or {}), **settings}
    kind(**{field.name: every[field.name] for field in fields(kind)})
