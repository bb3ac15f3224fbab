"""Weights that others have published, as runs: what `brodmann embed` and `score` take."""

from __future__ import annotations

from pathlib import Path

from brodmann.errors import Usage
from brodmann.progress import Say
from brodmann.run import Run

LAYOUTS = ("fnn",)


def convert(layout: str, file: str | Path, out: str | Path, *, quiet: bool = False) -> Run:
    """Make a run of published weights; its core then serves other animals: ``embed(run, data)``.

    Parameters
    ----------
    layout : {"fnn"}
        Whose names the weights have: ``fnn`` is github.com/cajal/fnn, version 2 (Wang et al., Nature 640, 2025).
    file : path
        ``.safetensors`` or ``.npz`` of the state dict.
    out : path
        The run folder.
    quiet : bool
        Say nothing.

    Returns
    -------
    Run

    Raises
    ------
    Usage
        For an unknown layout.
    Refused
        For weights that do not fit it, or a file of another format.
    """
    if layout not in LAYOUTS:
        raise Usage(f"'{layout}' should be a known layout of weights.", found=f"known: {', '.join(LAYOUTS)}.")
    from brodmann.neurons import published

    model = published.public_model(Path(file))
    about = {"system": "neurons", "data_fingerprint": "public", "data": ""}
    run = Run.open(out, recipe=model.recipe, **about, start=None, say=Say(quiet=quiet))
    with run.lock():
        if not run.has("weights"):
            run.save_weights(model.state_dict(), {**model.config(), "source": "public"}, published.card(model.encoder))
        run.seal()
    return run
