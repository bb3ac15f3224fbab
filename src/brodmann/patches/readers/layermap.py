"""Label images of cortical layers beside images: which layer lies under every pixel of a patch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.patches.image import Cache
from brodmann.patches.readers import masks
from brodmann.patches.resample import Pixels, crop_labels
from brodmann.patches.source import LAYERS, UNLABELLED

PLANES = Cache(limit_mb=400)
_LARGEST_VALUE = 65535


class LayerMap:
    """Layers of one whole section; its pixels are read when first asked for, from any thread.

    Parameters
    ----------
    path : Path
        PNG or TIFF of labels, or an OME-Zarr label image; any pixel size.
    stated : mapping of str to tuple of int, or None
        Values of each layer, from the pia down; see `coded`.
    width_um, height_um : float
        Size of the image on the slide, which the labels must cover.

    Attributes
    ----------
    names : tuple of str
        Classes in the order of depth, "background" first.

    Raises
    ------
    Refused
        No such file, another shape than the image, or values that name no layer.
    """

    def __init__(
        self, path: Path, stated: Mapping[str, tuple[int, ...]] | None, *, width_um: float, height_um: float
    ) -> None:
        self.path = path
        self.names, self._code = coded(stated)
        self._across_um, self._down_um = masks.pixel(path, masks.shape(path), width_um=width_um, height_um=height_um)
        # a label image that is drawn on while the program runs is read anew
        self._key = (str(path), path.stat().st_mtime_ns, path.stat().st_size)

    def crop(self, x_um: float, y_um: float, *, size_px: int, pixel_um: float, angle_deg: float = 0.0) -> Pixels:
        """Classes (size_px, size_px) uint8, index into ``names`` or `UNLABELLED`; geometry of `ImageSection.crop`."""
        step = pixel_um / self._across_um, pixel_um / self._down_um
        at = x_um / self._across_um, y_um / self._down_um
        return crop_labels(PLANES.get(self._key, self._read)[0], *at, size_px, step, angle_deg)

    def _read(self) -> list[Pixels]:
        found = masks.plane(self.path)
        if int(found.min(initial=0)) < 0 or int(found.max(initial=0)) > _LARGEST_VALUE:
            raise Refused(
                f"layers of {self.path.name} should be labels from 0 to {_LARGEST_VALUE}.",
                found=f"{found.min()} to {found.max()}.",
            )
        return [cast("Pixels", self._code[found])]


def coded(stated: Mapping[str, tuple[int, ...]] | None) -> tuple[tuple[str, ...], NDArray[Any]]:
    """Names of classes, and the class of every label value.

    Parameters
    ----------
    stated : mapping or None
        ``layer_labels`` of a ``sections.json``: name of a layer to its values, in the order of depth from the pia.
        "background" is 0 unless it is named; "white matter" counts as no layer of cortex. Values that are not named
        are `UNLABELLED`. None: 1 to 6 are I to VI, 7 is white matter.

    Returns
    -------
    names : tuple of str
    code : (65536,) uint8

    Raises
    ------
    Refused
        A value that belongs to two layers or cannot be one, or nothing but background.
    """
    if stated is None:
        stated = {name: (value,) for value, name in enumerate(LAYERS)}
    values = {"background": tuple(stated.get("background", (0,)))}
    values |= {name: tuple(own) for name, own in stated.items() if name != "background"}
    code = np.full(_LARGEST_VALUE + 1, UNLABELLED, np.uint8)
    if not 2 <= len(values) < UNLABELLED:
        raise Refused("layer_labels should name at least one layer, and fewer than 255.", found=f"{len(values) - 1}.")
    for number, (name, own) in enumerate(values.items()):
        for value in own:
            if not 0 <= value <= _LARGEST_VALUE or code[value] != UNLABELLED:
                before = "" if not 0 <= value <= _LARGEST_VALUE else ", named before"
                raise Refused(
                    f"layer_labels: each value from 0 to {_LARGEST_VALUE} should belong to one layer.",
                    found=f"{value} of '{name}'{before}.",
                    do='where 0 is a layer, name the background: "background": [].',
                )  # fmt: skip
            code[value] = number
    return tuple(values), code
