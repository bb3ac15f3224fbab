"""One planted cortical sheet with twelve areas, folded into many brains, with the whole truth beside it."""

from __future__ import annotations

import hashlib

from brodmann.patches.source import Section, Source
from brodmann.phantom.asked import check, stained
from brodmann.phantom.brain import grow
from brodmann.phantom.cut import planes
from brodmann.phantom.files import write
from brodmann.phantom.known import truth
from brodmann.phantom.recordings import PhantomRecording, recordings
from brodmann.phantom.section import PhantomSection, Rasters, mount
from brodmann.phantom.sheet import Sheet
from brodmann.phantom.transcriptome import transcripts
from brodmann.space import PHANTOM

__all__ = ["PhantomRecording", "PhantomSection", "check", "recordings", "sections", "transcripts", "truth", "write"]

_VERSION = 1


def sections(
    *,
    seed: int = 0,
    brains: int = 4,
    sections_per_brain: int = 30,
    native_um: float = 16.0,
    registration_mm: float = 4.0,
    nuisance: float = 1.0,
    spacing_mm: float = 0.25,
    cache_mb: float = 1024.0,
    networks: str = "areas",
    gradients: float = 1.0,
    tilt_deg: float = 14.0,
) -> Source:
    """Cell-stained sections of planted brains.

    All brains share one template sheet (60 x 40 mm, twelve areas); each has its own warp, area sizes, folding and
    stain. A section is drawn when first looked at. Everything depends on ``seed`` alone, in whatever order it is drawn.

    Parameters
    ----------
    native_um : float
        Pixel size of the drawn images, um; cells keep their places at any size.
    registration_mm : float
        Length (rms, mm) of the smooth error of ``u_mm, v_mm`` against the template.
    nuisance : float
        Scales vessels, folds, tears, uneven stain, blur and noise; 0 switches them off.
    spacing_mm : float
        Distance between sample points along the cortical line of a section.
    cache_mb : float
        Drawn images kept in memory.
    networks : {"areas", "place"}
        Functional networks follow areas in part, or place alone: then nothing seen in cortex tells them beyond where it
        lies. All else is the same.
    gradients : float
        Scales smooth change of cells and thickness within areas; at 0 areas are uniform, and only folds bend them.
    tilt_deg : float
        Largest tilt of a brain's section planes in both directions, 0 to 45. Cutting angles have a median of 8 deg at
        14, and of 19 deg at 40.

    Returns
    -------
    Source
        Sections named ``"B1/s07"`` of subject ``"B1"`` in `space.PHANTOM`; each is a `PhantomSection`.

    Raises
    ------
    Usage
        If a count or size is not positive, networks follow something else, or sections are tilted too far.
    """
    settings: dict[str, float | str] = {
        "seed": seed, "brains": brains, "sections_per_brain": sections_per_brain, "native_um": native_um,
        "registration_mm": registration_mm, "nuisance": nuisance, "spacing_mm": spacing_mm,
    }  # fmt: skip
    stained({**settings, "networks": networks, "tilt_deg": tilt_deg})
    # data that were described before there was a choice keep their fingerprint
    settings |= {"networks": networks} if networks != "areas" else {}
    settings |= {"gradients": gradients} if gradients != 1 else {}
    settings |= {"tilt_deg": tilt_deg} if tilt_deg != 14 else {}
    template, rasters = Sheet.plant(seed), Rasters(cache_mb)
    cut: list[Section] = []
    for index in range(brains):
        brain = grow(
            template, seed=seed, index=index, registration_mm=registration_mm, networks=networks, gradients=gradients
        )
        for k, plane in enumerate(planes(brain, seed=seed, sections=sections_per_brain, tilt_deg=tilt_deg)):
            cut.append(
                mount(
                    brain, plane, k, seed=seed, native_um=native_um, nuisance=nuisance, rasters=rasters,
                    spacing_mm=spacing_mm,
                )
            )  # fmt: skip
    fingerprint = hashlib.sha256(f"phantom {_VERSION} {sorted(settings.items())}".encode()).hexdigest()
    return Source(space=PHANTOM, sections=cut, fingerprint=fingerprint, name=f"phantom-{seed}", skipped=[])


RENDERED = {"patches": sections, "cells": transcripts, "neurons": recordings}
"""What ``data="phantom"`` means to each system."""
