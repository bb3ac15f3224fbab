"""A picture of recordings: what was shown, and how the neurons answered, with a bar of time."""

from __future__ import annotations

from typing import Any

import numpy as np

from brodmann.neurons.source import Recording, Source

_WINDOW_S, _NEURONS, _FRAMES, _RECORDINGS = 20.0, 100, 6, 3
_BARS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def draw(source: Source) -> Any:
    """Of up to three recordings some frames of video, and a raster of responses below them.

    Parameters
    ----------
    source : Source

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    shown = source.recordings[:_RECORDINGS]
    figure: Any = Figure(figsize=(9.0, 4.0 * len(shown) + 0.4), dpi=120, layout="constrained")
    of = f"{len(shown)} of {len(source.recordings)} recordings" if len(shown) < len(source.recordings) else "recordings"
    figure.suptitle(f"{source.name}: {of}; video above, responses below (dark: strong)", fontsize=9)
    rows = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, recording in zip(rows, shown, strict=True):
        _recording(part, recording)
    return figure


def _recording(figure: Any, one: Recording) -> None:
    """Frames at even distances over the first seconds of training, and what was answered in them."""
    trials = one.trials[one.trials["part"] == "train"]
    trials = trials if len(trials) else one.trials
    trials = trials.iloc[np.argsort(np.asarray(trials["frame"]), kind="stable")]
    wanted = max(round(_WINDOW_S * one.rate_hz), 2)
    spans = [
        (np.arange(frame, frame + count), np.arange(video, video + count))
        for frame, video, count in zip(trials["frame"], trials["video"], trials["frames"], strict=True)
    ]
    edges = np.cumsum([len(frames) for frames, _ in spans])
    # no more trials than fill the window
    spans = spans[: int(np.searchsorted(edges, wanted)) + 1]
    frames = np.concatenate([frames for frames, _ in spans])[:wanted]
    video = np.concatenate([video for _, video in spans])[:wanted]
    seconds = len(frames) / one.rate_hz
    axes: Any = figure.subplot_mosaic(
        [[f"f{number}" for number in range(_FRAMES)], ["raster"] * _FRAMES], height_ratios=(1, 2.2)
    )
    picked = np.linspace(0, len(frames) - 1, _FRAMES + 1)[:-1].astype(np.int64)
    for number, at in enumerate(picked.tolist()):
        axis = axes[f"f{number}"]
        axis.imshow(one.video[video[at]], cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{at / one.rate_hz:.1f} s", fontsize=7)
        axis.set_axis_off()
    n = len(one.rows)
    chosen = np.unique(np.linspace(0, n - 1, min(n, _NEURONS)).round().astype(np.int64))
    answers = np.asarray(one.responses[frames])[:, chosen].T
    strong = np.percentile(answers, 99, axis=1, keepdims=True)
    raster = axes["raster"]
    raster.imshow(
        np.clip(answers / np.where(strong > 0, strong, np.maximum(answers.max(axis=1, keepdims=True), 1e-12)), 0, 1),
        cmap="gray_r", vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=(0, seconds, len(chosen), 0),
    )  # fmt: skip
    for edge in edges[edges < len(frames)] / one.rate_hz:
        raster.axvline(edge, color="#2040c0", linewidth=0.5, alpha=0.6)
    raster.plot(picked / one.rate_hz, np.zeros(len(picked)), "v", color="#c00000", markersize=4, clip_on=False)
    bar = max([length for length in _BARS_S if length <= seconds / 4], default=_BARS_S[0])
    low = len(chosen) * 1.04
    raster.plot([0, bar], [low, low], color="#c00000", linewidth=3, solid_capstyle="butt", clip_on=False)
    raster.text(bar, low, f"  {bar:g} s", color="#c00000", fontsize=8, va="center", clip_on=False)
    raster.set_ylim(len(chosen), 0)
    raster.set_xlim(0, seconds)
    raster.set_xticks([])
    raster.set_yticks([])
    raster.set_ylabel(f"{len(chosen):,} of {n:,} neurons", fontsize=7)
    title = f"{one.id} ({one.subject}): {seconds:.3g} s of training; blue lines part trials, triangles mark the frames"
    raster.set_title(title, fontsize=7)
