"""One run, ready to be looked at: its rows in a fixed shuffled order, its colours, its sections."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from brodmann import features, levels, settings, verbs
from brodmann.dots import BODY_UM, Dots
from brodmann.errors import BrodmannError
from brodmann.maps import colours as colour_of
from brodmann.maps import labels
from brodmann.maps.raster import visible_reach_um
from brodmann.run import Run
from brodmann.samples import stream
from brodmann.systems import system
from brodmann.tasks import _metrics
from brodmann.tasks._score import PROBES, Score
from brodmann.viewer import colouring, plane, scored
from brodmann.viewer.alike import Alike
from brodmann.viewer.colouring import Colouring
from brodmann.viewer.tiles import Absent, Density, Drawn, Pyramid, spot_um

if TYPE_CHECKING:
    from anndata import AnnData

_PLACES = {"id", "x_um", "y_um", "angle_deg", "x_mm", "y_mm", "z_mm", "u_mm", "v_mm"}
_PERIODS_DEG = {"orientation_deg": 180.0, "direction_deg": 360.0}
_GRID = 17
_KEPT = 24


@dataclass(frozen=True)
class Sheet:
    """One section of a scene.

    Parameters
    ----------
    picture : Picture
        See `brodmann.maps.labels.Picture`.
    rows : (m,) int64
        Of the table.
    xy_um : (m, 2) float64
        Their places, from the top left corner.
    pyramid : Pyramid
    reach_um : float
        How far a sample's colour is drawn.
    density : Density, optional
        What is drawn where there is no image.
    """

    picture: Any
    rows: NDArray[np.int64]
    xy_um: NDArray[np.float64]
    pyramid: Pyramid
    reach_um: float
    density: Density | None

    def plain(self) -> dict[str, Any]:
        """What the page needs of it; ``grid`` holds places (mm) of a regular grid of corners, row by row."""
        pyramid, known = self.pyramid, labels.scaled(self.picture)
        width, height = pyramid.size
        return {
            "id": self.picture.id, "subject": self.picture.subject, "rows": len(self.rows), "width": width,
            "height": height, "deepest": pyramid.deepest, "pixel_um": pyramid.finest_um, "scaled": known,
            "reach_um": self.reach_um, "side": len(self.grid), "grid": self.grid.round(5).tolist(),
            "drawn": self.density is not None,
        }  # fmt: skip

    @cached_property
    def grid(self) -> NDArray[np.float64]:
        """Places over the picture, (side, side, 3) mm: of its corners if the map is affine, else of a grid of 17."""
        width, height = (side * self.pyramid.finest_um for side in self.pyramid.size)

        def places(side: int) -> NDArray[np.float64]:
            x, y = np.meshgrid(np.linspace(0, width, side), np.linspace(0, height, side))
            xy = np.column_stack([x.ravel(), y.ravel()])
            return np.asarray(self.picture.place(xy), np.float64).reshape(side, side, 3)

        corners, middle = places(2), places(3)
        return corners if np.abs(middle[1, 1] - corners.mean((0, 1))).max() < 1e-3 else places(_GRID)


class Scene:
    """A run with everything that its page asks for; safe to use from many threads.

    Rows are known to the page by their rank in one shuffled order with a fixed seed, so that the first of them are a
    fair sample of all.

    Parameters
    ----------
    path : Path
        A run folder with a feature table.
    say : callable
        Where doubts go.

    Raises
    ------
    Usage, Refused, Corrupt
        The folder is no run, has no table, or is damaged.
    """

    def __init__(self, path: Path, say: Callable[[str], object]) -> None:
        self.run = Run.load(path)
        self.name, self.system = self.run.path.name, self.run.system
        self.table: AnnData = verbs.table(self.run)
        # the controls of a large table outweigh all the rest, and no view shows them
        for name in [name for name in cast("Any", self.table.obsm) if str(name).startswith("baseline_")]:
            del cast("Any", self.table.obsm)[name]
        self.space = features.space_of(self.table)
        self.remarks: list[str] = []
        self.n = int(self.table.n_obs)
        self.row_of = stream(0, "viewer order", self.n).permutation(self.n).astype(np.uint32)
        self.rank_of = np.empty(self.n, np.uint32)
        self.rank_of[self.row_of] = np.arange(self.n, dtype=np.uint32)
        self.module = system(self.system)
        self._source, self._recipe = self._open(say)
        self._measured = self._reads()
        self.sheets = self._sheets()
        self.xyz = np.asarray(cast("Any", self.table.obsm)["xyz"], np.float32)
        self._made: dict[str, Colouring] = {}
        self._lock = threading.Lock()
        self.colourings = self._colourings()

    # -------------------------------------------------------------------------------------------------- what it holds

    @property
    def obs(self) -> pd.DataFrame:
        """Columns of the table."""
        return cast("pd.DataFrame", self.table.obs)

    def _open(self, say: Callable[[str], object]) -> tuple[Any, Any]:
        """Data of the run and its recipe; without the data sections are drawn from the table's own places."""
        about = cast("Mapping[str, Any]", self.table.uns["brodmann"])
        recipe = settings.build(self.module.Recipe, self.run.recipe_values, where=f"{self.name}/recipe.toml")
        try:
            return verbs.open_source(recipe, str(about.get("data") or "") or verbs.data_of(self.run)), recipe
        except BrodmannError as error:
            self.remarks.append("The images of this run cannot be opened; sections are drawn from the table alone.")
            say(f"{self.name}: sections are drawn from the table alone.\n{error}")
            return None, recipe

    def _reads(self) -> Any:
        """What the system can read of each row beside the table, by name (cells: their genes); None for nothing."""
        measured = getattr(self.module, "measured", None)
        return None if measured is None or self._source is None else measured(self._source, labels.ids(self.table))

    def _sheets(self) -> list[Sheet]:
        obs, xyz = self.obs, np.asarray(cast("Any", self.table.obsm)["xyz"])
        pictures = {} if self._source is None else {str(one.id): one for one in self.module.pictures(self._source)}
        places = obs[["x_um", "y_um"]].to_numpy(np.float64)
        column = labels.column(self.table, "section")
        made: list[Sheet] = []
        number = labels.codes(column)
        order = np.argsort(number, kind="stable")
        starts = np.searchsorted(number[order], np.arange(1, len(column.categories)))
        for name, rows in zip(column.categories, np.split(order, starts), strict=True):
            if not len(rows):
                continue
            xy, subject = places[rows], str(obs["subject"].iloc[rows[0]])
            picture = pictures.get(name) or Drawn(name, subject, xy, xyz[rows])
            drawn = isinstance(picture, Dots | Drawn)
            spacing = labels.spacing_um(xy)
            longer = max(picture.width_um, picture.height_um)
            finest = max(min(spacing / 24, longer / 4096), 1e-3) if drawn else float(picture.native_um)
            pyramid = Pyramid(float(picture.width_um), float(picture.height_um), finest)
            density = None
            if drawn:
                # where the unit is not known, a spot is as large as its neighbours leave room for
                density = Density(xy, body_um=BODY_UM if labels.scaled(picture) else 0.4 * spacing)
            reach = visible_reach_um(xy, picture)
            reach = reach if density is None else min(reach, spot_um(len(rows), density.body_um, longer))
            made.append(Sheet(picture, rows, xy, pyramid, reach, density))
        return sorted(made, key=lambda one: [colour_of.natural(name) for name in (one.picture.subject, one.picture.id)])

    @cached_property
    def window(self) -> tuple[float, Callable[[Any], NDArray[np.uint8]]] | None:
        """Side of a sample's window (mm), and the picture of a row; None without data."""
        return None if self._source is None else self.module.window(self._source, self._recipe)

    @cached_property
    def registered(self) -> bool:
        """Whether sections lie in a common space."""
        return self.space.name != "unregistered"

    @cached_property
    def alike(self) -> Alike:
        """Search; made when first asked."""
        where, _ = _metrics.coordinates(self.obs)
        brain, section = (
            np.asarray(labels.codes(labels.column(self.table, name)), np.int32) for name in ("subject", "section")
        )
        return Alike(cast("Any", self.table.X), where, brain, section, registered=self.registered)

    @cached_property
    def measured(self) -> str:
        """In what distances are measured: ``sheet`` or ``space``."""
        return _metrics.coordinates(self.obs.iloc[:1])[1]

    @cached_property
    def _components(self) -> tuple[NDArray[np.float32], str]:
        return plane.components(cast("Any", self.table.X))

    @cached_property
    def plane(self) -> tuple[NDArray[np.uint16], tuple[float, float, float, float], str]:
        """Steps (n, 2) in order of rank, the frame, and how they were made."""
        for name, words in (("X_umap", "UMAP of the table"), ("X_pca", "PCA of the table")):
            given = cast("Any", self.table.obsm).get(name)
            if given is not None and given.shape[1] >= 2:
                xy, how = np.asarray(given)[:, :2].astype(np.float32), words
                break
        else:
            found, how = self._components
            xy = found[:, :2]
        stepped, frame = plane.steps(xy)
        return stepped[self.row_of], frame, how

    # --------------------------------------------------------------------------------------------------------- colours

    def _colourings(self) -> dict[str, tuple[str, str, Callable[[], Colouring]]]:
        """Title, group and maker of each colouring, by its key in the page's address."""
        obs, made = self.obs, dict[str, tuple[str, Callable[[], Colouring]]]()
        scores = self._scores()
        predicted = [s for s in scores if s.classes and len(s.predicted) and s.task != "domains"]
        named = [str(n) for n in obs.columns if n not in _PLACES and not pd.api.types.is_numeric_dtype(obs[n])]
        for name in sorted(named, key=lambda n: n in {"subject", "section"}):
            column = labels.column(self.table, name)
            if not colouring.few(column):
                self.remarks.append(f"Column {name} has too many names to be coloured.")
                continue
            others = [s.predicted for s in predicted if s.target == name]
            made[name] = (
                "Labels", lambda name=name, others=others: self._classes(name, labels.column(self.table, name), others)
            )  # fmt: skip
        for score in predicted:
            title = f"{score.target}, predicted" if score.task == "areas" else f"{score.task}: {score.target}"
            title += f" ({score.probe})" if score.probe in PROBES else ""
            made[title] = "Scores", lambda title=title, score=score: scored.classes(self.table, title, score)
        for level in self._levels():
            made[level] = "Domains", lambda level=level: self._domains(level)
        for score in scores:
            if not score.classes and len(score.predicted):
                title = f"{score.task}: {score.target}"
                made[title] = "Scores", lambda title=title, score=score: scored.numbers(self.table, title, score)
        for name in [str(n) for n in obs.columns if n not in _PLACES and pd.api.types.is_numeric_dtype(obs[n])]:
            made[name] = "Numbers", lambda name=name: self._number(name)
        made["features"] = "Features and place", self._features
        made["place"] = "Features and place", self._place
        for name in sorted(self._measured.names, key=colour_of.natural) if self._measured else ():
            made[f"gene {name}"] = "Genes", lambda name=name: self._gene(name)
        return {f"c{number}": (title, *found) for number, (title, found) in enumerate(made.items())}

    def colouring(self, key: str) -> Colouring:
        """Colours by their key: ``c<number>`` of `colourings`, or ``a<rank>`` for how like one row all others are.

        Raises
        ------
        Absent
            There is no such key.
        """
        with self._lock:
            if key in self._made:
                return self._made[key]
        if key.startswith("a"):
            rank = int(key[1:])
            if rank >= self.n:
                raise Absent(key)
            cosine = self.alike.cosine(int(self.row_of[rank]))
            found = colouring.numbers("similarity", cosine, share=(2, 99.8), about="cosine of the features")
        elif key in self.colourings:
            found = self.colourings[key][2]()
        else:
            raise Absent(key)
        with self._lock:
            self._made[key] = found
            while len(self._made) > _KEPT:
                del self._made[next(iter(self._made))]
        return found

    def _scores(self) -> list[Score]:
        found: list[Score] = []
        for path in sorted((self.run.path / "scores").glob("*.json")):
            try:
                found.append(Score.load(path))
            except BrodmannError as error:
                self.remarks.append(f"{path.name} cannot be read: {error.asked}")
        return found

    def known(self, chosen: Colouring) -> list[int]:
        """How many rows of each section have a colour."""
        return [int(np.count_nonzero(chosen.values[sheet.rows])) for sheet in self.sheets]

    def _levels(self) -> list[str]:
        path = self.run.path / levels.FOLDER
        if not path.is_dir():
            return []
        columns = cast("Any", zarr).open_group(str(path), mode="r")["obs"].attrs["column-order"]
        found = [str(name) for name in columns if str(name).startswith("domain_")]
        return sorted(found, key=colour_of.natural)

    def _classes(self, name: str, column: pd.Categorical, others: list[pd.Series]) -> Colouring:
        key = labels.Key.of([*labels.used(column), *(str(v) for other in others for v in set(other))])
        return colouring.classes(name, column, key)

    def _domains(self, level: str) -> Colouring:
        column, palette = levels.read(self.run, level)
        names = labels.aligned(self.table, column)
        return colouring.classes(level.replace("_", " "), names, labels.Key.of(names, palette))

    def _number(self, name: str) -> Colouring:
        values = self.obs[name].to_numpy(np.float64, na_value=np.nan)
        if name in _PERIODS_DEG:
            return colouring.angles(name, values, period_deg=_PERIODS_DEG[name])
        return colouring.numbers(name, values)

    def _gene(self, name: str) -> Colouring:
        return colouring.expression(f"gene {name}", self._measured.column(name), unit=self._measured.unit)

    def _features(self) -> Colouring:
        found, _ = self._components
        low, high = np.percentile(found, [2, 98], axis=0)
        return colouring.triples(
            "features", (found - low) / np.maximum(high - low, 1e-9),
            about="first three components as red, green and blue: like colours, like features",
        )  # fmt: skip

    def _place(self) -> Colouring:
        where, measured = _metrics.coordinates(self.obs)
        return colouring.triples(
            "place", colour_of.place_rgb(where),
            about="place on the cortical sheet" if measured == "sheet" else "x, y, z as red, green and blue",
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------- one row

    def row(self, rank: int) -> dict[str, Any]:
        """What is known of one row, in words and numbers.

        Raises
        ------
        Absent
            There is no such row.
        """
        if not 0 <= rank < self.n:
            raise Absent(rank)
        row = int(self.row_of[rank])
        values = self.obs.iloc[row]
        sheet = self.sheet_of(str(values["section"]))
        columns = [str(name) for name in self.obs.columns if name not in _PLACES]
        columns.sort(key=lambda name: pd.api.types.is_numeric_dtype(self.obs[name]))
        shown = {name: _said(values[name]) for name in columns}
        return {
            "rank": rank, "id": str(values["id"]), "sheet": sheet, "x_um": float(values["x_um"]),
            "y_um": float(values["y_um"]), "mm": [round(float(v), 4) for v in self.xyz[row]],
            "plane": self.plane[0][rank].tolist(), "values": {k: v for k, v in shown.items() if v},
        }  # fmt: skip

    def sheet_of(self, section: str) -> int:
        """Number of a section."""
        return self._numbers_of_sheets[section]

    @cached_property
    def _numbers_of_sheets(self) -> dict[str, int]:
        return {str(sheet.picture.id): number for number, sheet in enumerate(self.sheets)}

    def nbytes(self) -> int:
        """Memory held for it, without images: features, places and orders."""
        kept = sum(one.values.nbytes for one in self._made.values())
        rows = self.obs.memory_usage(deep=False).sum() + self.xyz.nbytes + self.row_of.nbytes + self.rank_of.nbytes
        searched = self.alike.nbytes if "alike" in self.__dict__ else 0
        return int(cast("Any", self.table.X).nbytes + rows + kept + searched)


def _said(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.4g}"
    return "" if value is None or value is pd.NA or value != value else str(value)
