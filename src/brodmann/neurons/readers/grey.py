"""Grey values of a video as uint8: other kinds are refused with what to do, or converted knowingly and said so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brodmann.errors import Refused
from brodmann.neurons.recipe import Clips

_LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B (ITU-R BT.601)."""
_COLOURS = (3, 4)


class WrongSize(Refused):
    """Video of another size than the recipe asks for: the recipe may be wrong as well as the file."""


class Grey:
    """Turns blocks of one recording's video into uint8 of the recipe's size.

    Parameters
    ----------
    wanted : Clips
        Height and width.
    where : str
        The recording, for messages.
    luminance : bool
        Colour may be turned into grey.
    """

    def __init__(self, wanted: Clips, *, where: str, luminance: bool) -> None:
        self._wanted, self._where, self._luminance = wanted, where, luminance
        self._converted, self._peak = "", 0
        self.notes: list[str] = []

    def __call__(self, block: NDArray[Any]) -> NDArray[np.uint8]:
        """Frames (k, H, W) uint8 of a block (k, H, W) or (k, H, W, C).

        Raises
        ------
        Refused
            Another size, colour without leave, numbers that are not grey values of 0 ... 255.
        """
        if block.dtype.kind not in "uif":
            raise self._refused("numbers", f"{block.dtype}", "save it as uint8.")
        if block.ndim == 4 and block.shape[3] == 1:
            block = block[..., 0]
        channels = 1
        if block.ndim == 4:
            last, first = block.shape[3] in _COLOURS, block.shape[1] in _COLOURS
            if not (last or first):
                raise self._refused("frames x height x width", f"shape {block.shape}", "save it in that order.")
            block = block if last else np.moveaxis(block, 1, 3)
            channels = block.shape[3]
        if block.ndim != 3 + (channels > 1):
            raise self._refused("frames x height x width", f"shape {block.shape}", "save it in that order.")
        self.check_size((int(block.shape[1]), int(block.shape[2])))
        if channels > 1 and not self._luminance:
            raise self._refused(
                "grey",
                f"{channels} colours",
                'state "rgb": "luminance" in recordings.json to turn colour into grey, or save it as grey.',
            )
        grey = self._values(block)
        if channels > 1:
            self._note("colour is turned into luminance (Rec. 601)")
            grey = np.rint(grey[..., :3] @ _LUMINANCE).astype(np.uint8)
        return grey

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse frames of another height and width than the recipe's."""
        due = (self._wanted.height_px, self._wanted.width_px)
        if size == due:
            return
        raise WrongSize(
            f"video of {self._where} should be {due[0]} x {due[1]} pixels (height x width), as the recipe says.",
            found=f"{size[0]} x {size[1]}.",
            cause="height and width are swapped." if size == due[::-1] else "",
            do=f"resize the video, or: --set samples.height_px={size[0]} --set samples.width_px={size[1]}"
            + (" (and save it turned)." if size == due[::-1] else "."),
        )

    def close(self) -> None:
        """Refuse a video of 0 and 1 only, which was converted as if it were of 0 ... 255."""
        if self._converted and self._peak <= 1:
            raise self._refused(
                "grey values of 0 ... 255 (uint8)",
                f"{self._converted} of at most {self._peak}",
                "multiply by 255 and save as uint8.",
            )

    def _values(self, block: NDArray[Any]) -> NDArray[np.uint8]:
        if block.dtype == np.uint8 or not block.size:
            return block.astype(np.uint8, copy=False)
        low, high = block.min(), block.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise self._refused("finite grey values", "NaN or infinity", "fill missing frames, or leave them out.")
        whole = block.dtype.kind in "iu" or bool((block == np.rint(block)).all())
        if low < 0 or high > 255 or not whole:
            raise self._refused(
                "grey values of 0 ... 255 (uint8)",
                f"{block.dtype} of {low:.4g} ... {high:.4g}" + ("" if whole else ", with fractions"),
                "multiply by 255, round and save as uint8."
                if low >= 0 and high <= 1
                else "bring it back to the grey values that were shown, round and save as uint8.",
            )
        self._converted, self._peak = str(block.dtype), max(self._peak, int(high))
        self._note(f"video is {block.dtype} of whole numbers of 0 ... 255: turned into uint8")
        return block.astype(np.uint8)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _refused(self, due: str, found: str, do: str) -> Refused:
        return Refused(f"video of {self._where} should be {due}.", found=f"{found}.", do=do)
