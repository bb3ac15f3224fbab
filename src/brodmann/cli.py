"""The verbs at the shell: parses, calls, prints.

Exit codes: 0 done, 2 usage, 3 done but items were skipped, 4 disk or data damaged, 5 locked, 6 input refused,
130 interrupted and resumable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from brodmann.arguments import together
from brodmann.errors import BrodmannError, Unwritable, Usage

Positional = tyro.conf.Positional
Format = Literal["csv", "geojson", "gifti", "h5ad", "nifti", "ome-zarr", "parquet", "precomputed", "vitessce"]
Asked = Literal[
    "areas", "deviation", "domains", "layers", "networks", "novelty", "properties", "responses", "search", "shortcuts",
    "tuning",
    "wiring",
]  # fmt: skip
Changes = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE ...")]

_out = Console(soft_wrap=True, highlight=False, markup=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def _done(skipped: Sequence[str]) -> int:
    """Exit code of finished work, after saying how much it went without."""
    if skipped:
        _out.print(f"{len(skipped)} skipped, as listed above")
    return 3 if skipped else 0


def recipes() -> int:
    """List the recipes that come with the package."""
    from brodmann.verbs import describe_recipes

    _out.print(describe_recipes())
    return 0


def fit(
    recipe: Positional[str], *, data: str, out: Path, start: Path | None = None, set: Changes = (), threads: int = 2
) -> int:
    """Train a recipe on data; the same command again resumes.

    Args:
        recipe: Name (see `brodmann recipes`) or a .toml file.
        data: Folder or file of sections, cells or recordings, or 'phantom'.
        out: Run folder.
        start: A trained run, whose weights training begins with: other data, or labels to tune on.
        set: Changes to the recipe, e.g. fit.steps=300 seed=1.
        threads: Threads that read batches ahead.
    """
    from brodmann import layering, verbs
    from brodmann.settings import changes

    if threads < 1:
        raise Usage("--threads should be at least 1.", found=f"{threads}.")
    run = verbs.fit(verbs.recipe(recipe, changes(set)), data, out, start=start, threads=threads)
    then = f"score {run.path} layers" if layering.learned(run) else f"embed {run.path}"
    _out.print(f"trained: {run.path}    next: brodmann {then}")
    return _done(run.skipped)


def embed(
    run: Positional[Path], *, data: str | None = None, set: Changes = (), out: Path | None = None, controls: bool = True
) -> int:
    """Describe every sample by the trained model: the feature table of the run, or of one derived from it.

    Args:
        run: A trained run folder.
        data: Other sections, cells or recordings than the run was trained on, in any form that `fit` takes.
        set: Where patches lie, e.g. samples.spacing_mm=0.1 samples.where=grid; with --out.
        out: Folder of a run derived from this one, for a table at other places or of other data beside its own.
        controls: Also make the control features (untrained encoder, hand-made statistics, profiles).
    """
    from brodmann import atlases, dense, verbs
    from brodmann.compute import lead
    from brodmann.settings import changes

    if set and out is None:
        raise Usage("a table at other places needs a folder of its own.", found="--set without --out.")
    if out is not None:
        run = dense.embed(run, out, changes=changes(set), data=data, controls=controls).path
    else:
        verbs.tabulate(verbs.load(run), data, controls=controls)
    if not lead():
        return 0
    table = verbs.table(run)
    _out.print(f"{table.n_obs:,} rows of {table.n_vars} features: {run / 'features.zarr'}")
    _out.print(f"next: brodmann score {run} areas --target ...  (columns: {', '.join(atlases.targets(table))})")
    return _done(verbs.skipped(table))


def score(
    run: Positional[Path],
    task: Positional[Asked] = "areas",
    *,
    target: str | None = None,
    by: Literal["brain", "section", "block"] | None = None,
    fold: int | None = None,
    buffer_mm: float = 0.0,
    probe: Literal["linear", "knn", "head"] | None = None,
    against: tuple[Path, ...] = (),
    atlas: Path | None = None,
    k: tuple[int, ...] = (),
    at: Path | None = None,
) -> int:
    """Ask a question of the feature table; prints value, interval, n, split and every baseline.

    Args:
        run: A run folder with a feature table.
        task: areas: can areas be read out of unseen tissue? networks: beyond place? domains: which regions form?
            novelty: are there borders inside known regions? search: do similar features mean the same place?
            properties: can numbers be read out? deviation: by how much are they missed (less is better)?
            shortcuts: are vessels, folds, section or brain told (less is better)?
            layers: are cortical layers told, by a run that learned them (it needs no table)?
            Of neurons, responses: are they predicted? tuning: as in the model? wiring: are similar ones connected?
        target: For areas, networks, a label column (area, network if not given); for novelty, the known regions; for
            domains, labels to compare with; for properties, deviation, tuning, a numeric column; for shortcuts, one of
            them. An atlas also: ccf, ccf-divisions, -layers, -structures, brainglobe:NAME, julich.
        by: Unit held out whole; defaults to the recipe's split.
        fold: Fold that is tested; defaults to the fold the encoder never saw, or all folds.
        buffer_mm: Training rows nearer than this to a test row are dropped.
        probe: For areas: read-out of the features (linear if not given); head: the model's own, of a tuned run.
        against: Other runs on the same samples, to stand beside this one (SimCLR, for example).
        atlas: Folder with the atlas annotation, where the target needs one.
        k: For domains: their number, one or several levels; those that are stable if not given.
        at: For areas, properties: a run derived by `embed --out`, whose places are predicted too, for its maps.
    """
    from brodmann import dense, results
    from brodmann.maps.shown import Shown

    asked: dict[str, Any] = {
        "by": by,
        "fold": fold,
        "buffer_mm": buffer_mm,
        "probe": probe,
        "against": against,
        "atlas": atlas,
        "k": k,
    }
    found = results.score(task, run, target, **asked) if at is None else dense.spread(task, run, at, target, **asked)
    _out.print(found.table())
    _out.print("\n".join([str(found), *Shown.of_score(found).verdict]))
    return 0


def map(
    run: Positional[Path], target: Positional[str] = "area", *, out: Path | None = None,
    surface: tuple[Path, ...] = (), within_mm: float | None = None,
) -> int:  # fmt: skip
    """Paint predicted labels back onto sections, into a volume and onto surfaces; write figures and the report.

    Args:
        run: A run folder with a score of this target.
        target: The target that was scored; or domains, domain_<k>, novelty, layers.
        out: Folder for maps and figures; defaults to the run folder.
        surface: Meshes (.surf.gii) or folders of them that are painted too; one named after a brain shows only it.
        within_mm: How far from a vertex the sample may lie that it shows; from their spacing if not given.
    """
    from brodmann import results

    written = results.map(run, target, out=out, surface=surface, within_mm=within_mm)
    _out.print(f"report: {written}")
    return 0


def explain(
    run: Positional[Path],
    target: Positional[str] = "area",
    *,
    areas: tuple[str, ...] = (),
    each: int = 4,
    out: Path | None = None,
) -> int:
    """Show which pixels make a read-out name an area: maps over typical held-out patches, as one figure.

    Args:
        run: A run of patches with a feature table.
        target: A label column, or an atlas.
        areas: Only these; all if not given.
        each: Patches of each area.
        out: Figure without ending; defaults to figures/explain-<target> of the run.
    """
    from brodmann.explaining import explain as show

    if each < 1:
        raise Usage("--each should be at least 1.", found=f"{each}.")
    made, figure = show(run, target, areas=areas, each=each, out=out)
    _out.print(str(made.score))
    _out.print(f"figure: {figure}")
    return 0


def export(
    run: Positional[Path],
    *,
    to: Format,
    out: Path,
    target: str | None = None,
    onto: Path | None = None,
    pixel_um: float | None = None,
    voxel_mm: float | None = None,
    within_mm: float | None = None,
    features: bool = False,
    url: str | None = None,
    replace: bool = False,
) -> int:
    """Write what a run has found in a form that other tools read, with its space, units and scores beside it.

    Args:
        run: A run folder with a score.
        to: ome-zarr, geojson (QuPath): each section. nifti, precomputed (neuroglancer), gifti: each brain. h5ad: a copy
            of the file of cells. csv, parquet, vitessce: a row per sample.
        out: A file for csv, parquet and h5ad, else a folder.
        target: What was scored, domains, domain_<k>, novelty-<label>; all if not given, where a format holds several.
        onto: h5ad: the file to copy; the run's own if not given. gifti: the mesh.
        pixel_um: ome-zarr: finest pixels. geojson: pixel size of the image that the polygons are for.
        voxel_mm: nifti, precomputed: side of a voxel.
        within_mm: gifti: how far from a vertex the place may lie whose value it takes.
        features: csv, parquet: also a column for each feature.
        url: precomputed, vitessce: where the folder will be served; http://localhost:8000 if not given.
        replace: Replace an earlier export; anything else is never touched.
    """
    from brodmann import exports

    written = exports.export(
        run, to, out, target=target, onto=onto, pixel_um=pixel_um, voxel_mm=voxel_mm, within_mm=within_mm,
        features=features, url=url, replace=replace,
    )  # fmt: skip
    _out.print(f"exported: {written}")
    return 0


def pipeline(
    recipe: Positional[str],
    *,
    data: str,
    out: Path,
    start: Path | None = None,
    set: Changes = (),
    target: str | None = None,
    k: tuple[int, ...] = (),
    processes: int | None = None,
) -> int:
    """Fit, embed, score and map in one; the same command again goes on where it stopped.

    Args:
        recipe: Name (see `brodmann recipes`) or a .toml file.
        data: Folder or file of sections, cells or recordings, or 'phantom'.
        out: Run folder.
        start: A trained run, whose weights training begins with, as in fit.
        set: Changes to the recipe, e.g. fit.steps=300 seed=1.
        target: A label column: areas to read out of unseen tissue; with --k, what domains are compared with.
        k: Numbers of domains, one or several levels; each is mapped.
        processes: Processes that train and embed together; chosen for this machine if not given.
    """
    from brodmann.stages import pipeline as run

    return run(recipe, data, out, start=start, changes=set, target=target, k=k, processes=processes)


def view(runs: Positional[tuple[Path, ...]], *, port: int = 0, browser: bool = True) -> int:
    """Open runs in the browser: sections under their labels, features as a plane, places that look alike; Ctrl-C ends.

    Args:
        runs: Run folders with feature tables; the page switches between them.
        port: Of this machine, which alone can open the page; any free one if not given.
        browser: Also open the page.
    """
    from brodmann.viewer.serve import view as serve

    serve(runs, port=port, browser=browser)
    return 0


def convert(layout: Positional[Literal["fnn"]], file: Positional[Path], *, out: Path) -> int:
    """Make a run of published weights, whose core then serves other animals: brodmann embed RUN --data ...

    Args:
        layout: Whose weights: fnn is github.com/cajal/fnn, version 2.
        file: The state dict as .safetensors or .npz.
        out: Run folder.
    """
    from brodmann.conversion import convert as make

    run = make(layout, file, out)
    _out.print(f"converted: {run.path}    next: brodmann embed {run.path} --data ...")
    return 0


def validate(data: Positional[Path], *, picture: Path | None = None) -> int:
    """Inspect data before spending time: sections (pixels, space, stain), cells, recordings; damage; one screen.

    Args:
        data: Folder or file of sections, cells or recordings.
        picture: Contact sheet with scale bar (.png, .jpg, .pdf); of recordings frames of video and responses.
    """
    from brodmann.inspection import validate as inspect

    report = inspect(data, picture=picture)
    _out.print(str(report), markup=False)
    return report.exit_code


def check() -> int:
    """Versions, devices, disk, and a self-test that trains and resumes on the phantom."""
    from brodmann.selftest import check as test

    text, healthy = test()
    _out.print(text, markup=False)
    return 0 if healthy else 4


VERBS = {
    verb.__name__: verb
    for verb in (recipes, fit, embed, score, map, explain, export, view, pipeline, convert, validate, check)
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command ``brodmann``; of several processes the first speaks."""
    _out.quiet = os.environ.get("RANK", "0") != "0"
    given = together(sys.argv[1:] if arguments is None else arguments)
    try:
        code = tyro.extras.subcommand_cli_from_dict(
            VERBS, prog="brodmann", description="From raw brain data to maps of brain organisation.", args=given
        )
    except BrodmannError as error:
        _err.print(f"{type(error).__name__}: {error}")
        code = error.exit_code
    except OSError as error:
        # what no verb has named: a file where a folder should be, no permission, a file that vanished
        refused = Unwritable(
            "files should be readable and writable.",
            found=f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}.",
            do="check the path and its permissions.",
        )
        _err.print(f"{type(refused).__name__}: {refused}")
        code = refused.exit_code
    except KeyboardInterrupt:
        _err.print("Interrupted at once; a checkpoint, if there was one, stands. The same command goes on.")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
