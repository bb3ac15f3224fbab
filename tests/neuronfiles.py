"""One small recording, and the files of every format that hold it."""

from __future__ import annotations

import datetime
import json
import warnings

import numpy as np
import pytest
import zarr

from brodmann.neurons import source
from brodmann.neurons.recipe import Clips, Recipe
from brodmann.progress import Say

H, W, N, RATE = 8, 12, 5, 30.0
QUIET = Say(quiet=True)
CLIPS = ("a", "b", "c", "t", "d", "t", "e", "t", "f", "g")
"""What is shown, trial by trial; "t" is repeated."""
TIERS = tuple("oracle" if clip == "t" else "train" for clip in CLIPS)


def recipe(**changes):
    return Recipe(samples=Clips(**({"height_px": H, "width_px": W, "rate_hz": RATE, "gap_s": 0.1} | changes)))


def open_(path, **changes):
    return source.open(recipe(**changes), path, say=QUIET)


def recording(*, clips=CLIPS, frames=20, seed=0):
    """Arrays as ``.npz`` has them, videos stored once."""
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys(clips))
    total = frames * len(clips)
    behaviour = rng.normal(size=(total, 2)).astype(np.float32)
    behaviour[3, 0] = np.nan
    return {
        "video": rng.integers(0, 256, (frames * len(names), H, W), dtype=np.uint8),
        "responses": rng.gamma(1.0, size=(total, N)).astype(np.float32),
        "behaviour": behaviour,
        "pupil": rng.normal(size=(total, 2)).astype(np.float32),
        "rate_hz": np.array(RATE),
        "trials/video": np.array([names.index(clip) * frames for clip in clips]),
        "trials/frame": np.arange(len(clips)) * frames,
        "trials/frames": np.full(len(clips), frames),
        "trials/part": np.array(["test" if clip == "t" else "train" for clip in clips]),
        "neurons/id": np.array([f"u{i}" for i in range(N)]),
        "neurons/x_um": np.arange(N) * 10.0,
        "neurons/y_um": np.arange(N) ** 2 * 3.0,
        "neurons/z_um": np.full(N, 150.0),
    }


@pytest.fixture
def data():
    """The recording, for tests that change it."""
    return recording()


@pytest.fixture
def quiet():
    """Writers of other packages warn of many things."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def shown(data):
    """The video frame by frame, as long as the responses."""
    starts, lengths = data["trials/video"], data["trials/frames"]
    return np.concatenate([data["video"][s : s + k] for s, k in zip(starts, lengths, strict=True)])


def order_of(data):
    """Which frame of the video is shown when; every frame of even number twice, for films at half the rate."""
    return shown(data | {"video": np.arange(len(data["video"]), dtype=np.uint32) // 2 * 2})


def npz(path, data, *, compressed=True):
    (np.savez_compressed if compressed else np.savez)(path, **data)
    return path


def zarr_(path, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(str(path), mode="w")
        for name, values in data.items():
            root.create_array(name, data=values)
    return path


def sensorium(path, data, *, pad=0, kind=np.uint8):
    for name in ("data/videos", "data/responses", "data/behavior", "data/pupil_center", "meta/trials", "meta/neurons"):
        (path / name).mkdir(parents=True)
    keys = {"videos": shown(data), "responses": data["responses"]}
    for name, key in (("behavior", "behaviour"), ("pupil_center", "pupil")):
        if key in data:
            keys[name] = data[key]
    for trial, (start, frames) in enumerate(zip(data["trials/frame"], data["trials/frames"], strict=True)):
        for name, values in keys.items():
            block = np.moveaxis(values[start : start + frames], 0, -1)
            if name == "videos":
                block = block.astype(kind)
            if pad:
                tail = np.full((*block.shape[:-1], pad), np.nan)
                block = np.concatenate([block, tail], -1)
            np.save(path / "data" / name / f"{trial}.npy", block)
    if "trials/part" in data:
        words = np.where(data["trials/part"] == "test", "oracle", data["trials/part"])
        np.save(path / "meta/trials/tiers.npy", words)
    np.save(path / "meta/neurons/unit_ids.npy", data["neurons/id"])
    places = [data[f"neurons/{key}_um"] for key in "xyz"]
    np.save(path / "meta/neurons/cell_motor_coordinates.npy", np.stack(places, 1))
    return path


def nwb(path, data, *, spikes=None, also=(), start_s=0.0, times=None, masks=False, template=False):
    """A file with a stimulus, deconvolved traces (or units), pupil, running and trials."""
    pynwb = pytest.importorskip("pynwb")
    from pynwb import behavior, ophys
    from pynwb.base import ImageReferences, Images
    from pynwb.image import GrayscaleImage, ImageSeries, IndexSeries

    file = pynwb.NWBFile("small", "one", datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    file.subject = pynwb.file.Subject(subject_id=data.get("subject", path.stem))
    if times is None:
        times = start_s + np.arange(len(data["responses"])) / RATE
    if template:
        single = [GrayscaleImage(name=f"frame{9999 - i}", data=frame) for i, frame in enumerate(data["video"])]
        order = ImageReferences(name="order_of_images", data=single)
        frames = Images(name="frames", images=single[::-1], order_of_images=order)
        file.add_stimulus_template(frames)
        index = order_of(data)
        file.add_stimulus(IndexSeries(name="order", data=index, unit="N/A", timestamps=times, indexed_images=frames))
    else:
        file.add_stimulus(ImageSeries(name="movie", data=shown(data), unit="n.a.", timestamps=times))
    if spikes is None:
        device = file.create_device("microscope")
        channel = ophys.OpticalChannel(name="green", description="", emission_lambda=520.0)
        plane = file.create_imaging_plane(
            name="plane",
            optical_channel=channel,
            description="",
            device=device,
            excitation_lambda=920.0,
            indicator="GCaMP6s",
            location="V1" if masks else "unknown",
            **({"grid_spacing": [2e-6, 3e-6], "grid_spacing_unit": "meters"} if masks else {}),
        )
        segments = ophys.PlaneSegmentation(name="cells", description="", imaging_plane=plane)
        for key in ("unit",) if masks else ("unit", "x_um", "y_um", "z_um"):
            segments.add_column(key, key)
        for i in range(N):
            places = {} if masks else {f"{key}_um": float(data[f"neurons/{key}_um"][i]) for key in "xyz"}
            segments.add_roi(pixel_mask=[(i, i, 1.0), (i + 1, i, 3.0)], unit=str(data["neurons/id"][i]), **places)
        module = file.create_processing_module("ophys", "")
        module.add(ophys.ImageSegmentation(plane_segmentations=[segments]))
        region = segments.create_roi_table_region(description="all", region=list(range(N)))
        series = ophys.RoiResponseSeries(
            name="deconvolved", data=data["responses"], rois=region, unit="a.u.", timestamps=times
        )
        raw = [
            ophys.RoiResponseSeries(name=name, data=data["responses"], rois=region, unit="a.u.", timestamps=times)
            for name in also
        ]
        module.add(ophys.Fluorescence(roi_response_series=[series, *raw]))
    else:
        for i, one in enumerate(spikes):
            file.add_unit(spike_times=one, id=i)
    if "behaviour" in data:
        moves = file.create_processing_module("behavior", "")
        eye = behavior.SpatialSeries(name="pupil", data=data["pupil"], reference_frame="", timestamps=times)
        moves.add(behavior.EyeTracking(spatial_series=eye))
        radius = pynwb.TimeSeries(name="pupil_radius", data=data["behaviour"][:, 0], unit="px", timestamps=times)
        moves.add(behavior.PupilTracking(time_series=radius))
        moves.add(pynwb.TimeSeries(name="running_speed", data=data["behaviour"][:, 1], unit="cm/s", timestamps=times))
    if "trials/frame" in data:
        if "trials/part" in data:
            file.add_trial_column("part", "part")
        for row, (start, frames) in enumerate(zip(data["trials/frame"], data["trials/frames"], strict=True)):
            more = {"part": str(data["trials/part"][row])} if "trials/part" in data else {}
            file.add_trial(start_time=start_s + start / RATE, stop_time=start_s + (start + frames) / RATE, **more)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def say_of(folder, **stated):
    """Write a ``recordings.json``."""
    (folder / "recordings.json").write_text(json.dumps(stated))
