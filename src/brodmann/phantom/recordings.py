"""The planted brains' neurons while the animals watch videos, the whole truth beside it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from brodmann import atomic, caches
from brodmann.errors import Usage
from brodmann.neurons.source import Recording, Source
from brodmann.phantom import population, responding, wiring
from brodmann.phantom.brain import grow
from brodmann.phantom.sheet import Sheet
from brodmann.phantom.videos import DOMAINS, UNSEEN, Screen
from brodmann.samples import stream
from brodmann.space import Space, unregistered

_VERSION = 1
"""Of what is rendered; part of the name of every cache."""
_SPACE: Space = replace(
    unregistered(40.0, 40.0),
    origin="a corner of each animal's imaging window; animals are not aligned with one another",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class PhantomRecording(Recording):
    """A recording whose truth is known.

    Attributes
    ----------
    expected : (k, n) float16
        Rows ``frames("test")``: the response that is expected given video, gaze and behaviour; what chance, slow shared
        noise and the observation add is left out. Mapped.
    planted : DataFrame
        What every neuron is, see `population.plant`.
    """

    expected: NDArray[np.float16]
    planted: pd.DataFrame


@dataclass(frozen=True)
class Settings:
    """Everything that the rendering depends on; see `recordings`."""

    seed: int
    animals: int
    neurons: int
    minutes: float
    valid_minutes: float
    test_clips: int
    repeats: int
    clip_s: float
    domain_minutes: float
    height_px: int
    width_px: int
    rate_hz: float
    noise: float

    def __post_init__(self) -> None:
        least = {
            "animals": 1, "neurons": 4, "minutes": 0.01, "valid_minutes": 0.0, "test_clips": 0, "repeats": 1,
            "clip_s": 0.5, "domain_minutes": 0.0, "height_px": 16, "width_px": 16, "rate_hz": 10.0, "noise": 0.0,
        }  # fmt: skip
        most = {"neurons": 20_000, "rate_hz": 240.0, "noise": 5.0, "height_px": 512, "width_px": 512}
        for name, low in least.items():
            value, high = getattr(self, name), most.get(name, np.inf)
            if not low <= value <= high:
                limits = f"at least {low:g}" if high == np.inf else f"{low:g} to {high:g}"
                raise Usage(f"'{name}' of a phantom's recordings should be {limits}.", found=f"{name} = {value}.")

    @property
    def screen(self) -> Screen:
        """Size and rate of the video."""
        return Screen(self.height_px, self.width_px, self.rate_hz)

    @property
    def clip_frames(self) -> int:
        """Frames of one clip."""
        return round(self.clip_s * self.rate_hz)

    def clips(self, minutes: float) -> int:
        """Clips that fill so many minutes; at least one, unless there are none."""
        return max(1, round(minutes * 60 / self.clip_s)) if minutes else 0


def recordings(
    *,
    seed: int = 0,
    animals: int = 6,
    neurons: int = 250,
    minutes: float = 16.0,
    valid_minutes: float = 1.0,
    test_clips: int = 6,
    repeats: int = 10,
    clip_s: float = 10.0,
    domain_minutes: float = 0.5,
    height_px: int = 36,
    width_px: int = 64,
    rate_hz: float = 30.0,
    noise: float = 1.0,
    folder: str | Path | None = None,
) -> Source:
    """Recordings of planted neurons that answer to videos.

    Animal ``"B1"`` has the brain ``"B1"`` of `phantom.sections` of the same seed. Neurons lie in four imaging fields,
    600 um wide, one in each of V1, T1, P1 and P2. The areas prefer other spatial and temporal frequencies, sizes and
    directions, and overlap: see `population.AREAS`. A tenth of the neurons answers to no video. How they answer is told
    in `responding`, how they are wired in `wiring`.

    Training, validation and test clips are mixed in time. Each trial follows a grey screen, whose frames are not kept.
    Test clips and those of the unseen domains are the same for all animals; training clips are each animal's own.
    Eye and behaviour differ in every repeat.

    Parameters
    ----------
    neurons : int
        Neurons of each animal.
    minutes, valid_minutes : float
        Natural video to train on, and to choose a checkpoint with, each clip shown once.
    test_clips, repeats : int
        Clips of natural video to judge with, and how often each is shown.
    clip_s : float
        Length of a clip.
    domain_minutes : float
        Video of each domain of `videos.UNSEEN`, each clip shown ``repeats`` times.
    height_px, width_px : int
        The screen; its width spans 120 degrees (`videos.VIEW_DEG`).
    noise : float
        Scales chance: the variance of spike counts (1: Poisson), shared slow noise, noise of the observation. 0
        switches all off.
    folder : path, optional
        Where the cache lies: ``$BRODMANN_CACHE`` or ``~/.cache/brodmann`` by default. Its name is a hash of the
        settings; the second call maps it at once.

    Returns
    -------
    Source
        Its recordings, named ``"B1/scan1"``, are `PhantomRecording`. Coordinates lie in a frame of each animal's own.
        Labels: ``area, layer, type, driven``; ``depth_um``; ``orientation_deg, direction_deg, direction_selectivity,
        sf_cpd, tf_hz, rf_x_deg, rf_y_deg, rf_deg`` (NaN where a neuron has none); ``rate_hz, running_gain,
        pupil_gain, dendrite_um, apical_um``; see `population.plant`.

    Raises
    ------
    Usage
        If a setting is out of range.
    NoRoom
        If the cache does not fit on its disk.
    """
    settings = Settings(
        seed, animals, neurons, float(minutes), float(valid_minutes), test_clips, repeats, float(clip_s),
        float(domain_minutes), height_px, width_px, float(rate_hz), float(noise),
    )  # fmt: skip
    key = hashlib.sha256(f"phantom recordings {_VERSION} {settings}".encode()).hexdigest()
    root = Path(folder) if folder else caches.home()
    where = root / f"neurons-phantom-{key[:20]}"
    if not (where / caches.MANIFEST).exists():
        _write(settings, where)
    return _read(settings, where, key)


def _write(settings: Settings, where: Path) -> None:
    """Render all animals under a name of their own, then take the place; another process may do the same at once."""
    plan = _plan(settings, 0)
    frames, shown = int(plan["frames"].sum()), int(plan.drop_duplicates("clip")["frames"].sum())
    need = settings.animals * (frames * (6 * settings.neurons + 16) + shown * settings.height_px * settings.width_px)
    with atomic.guard(f"recordings of {settings.animals} planted animals", where.parent, need=need):
        own = caches.begin(where)
        try:
            about = {
                "settings": asdict(settings),
                "animals": [_render(settings, k, own) for k in range(settings.animals)],
            }
            atomic.write_text(own / caches.MANIFEST, json.dumps(about))
            caches.keep(own, where)
        finally:
            atomic.remove_quietly(own)


def _plan(settings: Settings, index: int) -> pd.DataFrame:
    """Trials of animal ``index`` in order of time, see `Recording`; the video holds clips in order of the plan."""
    clips = [("natural", "train", f"B{index + 1}/train/{k:04d}") for k in range(settings.clips(settings.minutes))]
    clips += [
        ("natural", "valid", f"B{index + 1}/valid/{k:04d}") for k in range(settings.clips(settings.valid_minutes))
    ]
    clips += [("natural", "test", f"natural/{k:02d}") for k in range(settings.test_clips)]
    each = settings.clips(settings.domain_minutes)
    clips += [(domain, "test", f"{domain}/{k:02d}") for domain in UNSEEN for k in range(each)]
    plan = pd.DataFrame(dict(zip(("domain", "part", "clip"), zip(*clips, strict=True), strict=True)))
    plan["frames"] = settings.clip_frames
    plan["video"] = np.arange(len(plan)) * settings.clip_frames
    plan = plan.loc[plan.index.repeat(np.where(plan["part"] == "test", settings.repeats, 1))]
    order = stream(settings.seed, "phantom", f"B{index + 1}", "trials").permutation(len(plan))
    plan = plan.iloc[order].reset_index(drop=True)
    plan["frame"] = np.arange(len(plan)) * settings.clip_frames
    return plan[["clip", "video", "frame", "frames", "domain", "part"]]


def _render(settings: Settings, index: int, root: Path) -> dict[str, Any]:
    """Write the arrays of one animal; returns its tables for the manifest."""
    name, seed, screen = f"B{index + 1}", settings.seed, settings.screen
    folder = root / name
    atomic.make(folder)
    # The registration error does not touch tissue; any length gives the same brain.
    brain = grow(Sheet.plant(seed), seed=seed, index=index, registration_mm=4.0)
    rng = stream(seed, "phantom", name, "neurons")
    planted = population.plant(rng, population.fields(brain, rng), settings.neurons, screen)
    ids = np.array([f"{name}/scan1/{k:04d}" for k in range(len(planted))], dtype=object)
    trials, cells = _plan(settings, index), responding.Neurons(planted, screen, seed=seed)

    clips = trials.drop_duplicates("clip").sort_values("video")
    frames, length = int(trials["frames"].sum()), settings.clip_frames
    film = _empty(folder / "video.npy", np.uint8, (len(clips) * length, screen.height_px, screen.width_px))
    for clip, domain, start in zip(clips["clip"], clips["domain"], clips["video"], strict=True):
        film[start : start + length] = DOMAINS[domain](stream(seed, "phantom", "clip", clip), length, screen)

    # Before every trial the animal looks at grey for as long as neurons and trace remember.
    lasts = responding.kernel(settings.rate_hz)
    lead = cells.memory + len(lasts)
    total = frames + len(trials) * lead
    life = responding.behave(stream(seed, "phantom", name, "behaviour"), total, settings.rate_hz)
    slow = responding.drift(stream(seed, "phantom", name, "shared"), total, settings.rate_hz)
    loads = planted[[f"shared_{k}" for k in (1, 2, 3)]].to_numpy(np.float32).T * np.float32(settings.noise)
    unit, blur = planted["unit"].to_numpy(), planted["blur"].to_numpy()
    chance = stream(seed, "phantom", name, "spikes").integers(1 << 62, size=len(trials), dtype=np.uint64)
    answers = _empty(folder / "responses.npy", np.float32, (frames, len(planted)))
    judged = int(trials.loc[trials["part"] == "test", "frames"].sum())
    expected, at = _empty(folder / "expected.npy", np.float16, (judged, len(planted))), 0
    trace = np.empty((lead + length, len(planted)), np.float32)
    seen = np.full((lead + length, screen.height_px, screen.width_px), 127, np.uint8)
    for k, (start, shown, part) in enumerate(zip(trials["frame"], trials["video"], trials["part"], strict=True)):
        now = slice(k * (lead + length), (k + 1) * (lead + length))
        seen[lead:] = film[shown : shown + length]
        rates = cells.rates(seen, life.gaze_deg[now], life.state[now])
        if part == "test":
            responding.observe(rates, unit, blur, lasts, 1 / settings.rate_hz, 0.0, chance[k], trace)
            expected[at : at + length], at = trace[lead:], at + length
        rates *= np.exp(slow[now] @ loads)
        responding.observe(rates, unit, blur, lasts, 1 / settings.rate_hz, settings.noise, chance[k], trace)
        answers[start : start + length] = trace[lead:]
    kept = (np.arange(total) % (lead + length)) >= lead
    _empty(folder / "behaviour.npy", np.float32, (frames, 2))[:] = np.stack([life.radius, life.running], 1)[kept]
    _empty(folder / "pupil.npy", np.float32, (frames, 2))[:] = life.pupil[kept]

    told = population.labels(planted)
    told.insert(0, "id", ids)
    told.insert(1, "subject", name)
    told.insert(2, "section", np.array([f"{name}/scan1/f{k}" for k in planted["field"]], dtype=object))
    wired = wiring.wire(stream(seed, "phantom", name, "synapses"), planted, ids)
    tables = {"trials": trials, "planted": planted, "neurons": told, "synapses": wired}
    return {"name": name, **{key: _packed(table) for key, table in tables.items()}}


def _read(settings: Settings, where: Path, key: str) -> Source:
    try:
        about = cast("dict[str, Any]", json.loads((where / caches.MANIFEST).read_text("utf-8")))
        found: list[Recording] = []
        for k, one in enumerate(about["animals"]):
            arrays = {
                name: np.load(where / one["name"] / f"{name}.npy", mmap_mode="r")
                for name in ("video", "responses", "behaviour", "pupil", "expected")
            }
            rows = range(k * settings.neurons, (k + 1) * settings.neurons)
            found.append(
                PhantomRecording(
                    id=f"{one['name']}/scan1", subject=one["name"], rows=rows, rate_hz=settings.rate_hz,
                    trials=_unpacked(one["trials"]), planted=_unpacked(one["planted"]), **arrays,
                )
            )  # fmt: skip
        tables = {
            name: pd.concat([_unpacked(one[name]) for one in about["animals"]], ignore_index=True)
            for name in ("neurons", "synapses")
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise caches.damaged(where, error) from error
    return Source(
        space=_SPACE, name=f"phantom-{settings.seed}-neurons", fingerprint=key, recordings=found, skipped=[],
        neurons=tables["neurons"], synapses=tables["synapses"],
    )  # fmt: skip


def _empty(path: Path, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """A new ``.npy`` file, mapped; a file of no rows cannot be mapped and is written as it is."""
    if 0 in shape:
        np.save(path, np.zeros(shape, kind))
        return np.zeros(shape, kind)
    return open_memmap(path, mode="w+", dtype=kind, shape=shape)


def _packed(table: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON: numbers to the last bit, NaN as null, categories beside their codes."""
    columns: dict[str, Any] = {}
    for name, values in table.items():
        kind, rows = str(values.dtype), values
        if isinstance(values.dtype, pd.CategoricalDtype):
            kind, rows = "category", values.cat.codes
            columns[str(name)] = {"kind": kind, "of": values.cat.categories.tolist(), "rows": rows.tolist()}
            continue
        listed = [None if value != value else value for value in rows.tolist()]
        columns[str(name)] = {"kind": kind, "rows": listed}
    return columns


def _unpacked(columns: dict[str, Any]) -> pd.DataFrame:
    table: dict[str, Any] = {}
    for name, said in columns.items():
        if said["kind"] == "category":
            table[name] = pd.Categorical.from_codes(said["rows"], categories=said["of"])
        else:
            table[name] = np.array(said["rows"], dtype=said["kind"])
    return pd.DataFrame(table)
