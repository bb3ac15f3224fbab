"""The verb explain: which pixels of a few typical patches make a read-out name their area."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from brodmann import atomic, questions, verbs
from brodmann.errors import Usage
from brodmann.run import Run
from brodmann.systems import system
from brodmann.tasks._score import file_name

if TYPE_CHECKING:
    from brodmann.patches.explain import Explained


def explain(
    run: Run | str | Path,
    target: str = "area",
    *,
    areas: Sequence[str] = (),
    each: int = 4,
    out: str | Path | None = None,
) -> tuple[Explained, Path]:
    """Show where a trained encoder looks: maps of what speaks for each area, over held-out patches.

    A linear read-out is learned on the training rows of the run's table; what is shown is how each pixel changes its
    answer, see `brodmann.patches.explain`.

    Parameters
    ----------
    run : Run or path
        Of patches, with a feature table.
    target : str
        A label column, or an atlas's name, as `brodmann.score` takes them.
    areas : sequence of str
        By default all that are held out.
    each : int
        Patches of each area: the most typical ones, of different sections where there are.
    out : path, optional
        Figure without ending, written as PNG and SVG; by default ``figures/explain-<target>`` of the run.

    Returns
    -------
    Explained, Path
        The maps, and the figure's PNG.

    Raises
    ------
    Usage
        The run is of another system, or an area is not known.
    Refused
        There is no table, or nothing is held out.
    """
    run = verbs.load(run) if not isinstance(run, Run) else run
    if run.system != "patches":
        raise Usage("explain shows pixels of patches.", found=f"a run of {run.system}.", do="ask it of patches.")
    from brodmann.patches.explain import explain as patches_explain

    table = verbs.table(run)
    questions.label(table, target)
    recipe, source = questions.opened(run, table)
    _, model = verbs.trained(run)
    samples = system(run.system).samples(source, recipe, part="all")
    own = f"figures/{file_name('explain', target)}"
    figure = Path(out).absolute() if out is not None else run.path / own
    atomic.admits(figure.parent, "the figure")
    figure.parent.mkdir(parents=True, exist_ok=True)
    split = questions.split(table, None, None, 0.0)
    with run.lock():
        if out is None:
            for ending in ("png", "svg"):
                run.forget(f"{own}.{ending}")
        made = patches_explain(
            model, samples, table, target, split=split, areas=list(areas) or None, each=each, out=figure
        )
        if out is None:
            run.seal()
    return made, figure.with_suffix(".png")
