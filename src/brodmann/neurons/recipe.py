"""Knobs of the model of neural activity: which clips it learns from, which network, which likelihood."""

from __future__ import annotations

from typing import Literal

import pydantic

from brodmann.settings import Fit, Split, settings


@settings
class Clips:
    """What the network sees of a recording, and which frames teach it."""

    rate_hz: float = pydantic.Field(default=30.0, gt=0)
    """Frames per second; recordings at another rate are refused."""
    height_px: int = pydantic.Field(default=36, ge=8)
    width_px: int = pydantic.Field(default=64, ge=8)
    """Size of the video; recordings of another size are refused."""
    frames: int = pydantic.Field(default=60, ge=1)
    """Length of a training clip; 1 for still pictures."""
    burn_in: int = pydantic.Field(default=10, ge=0)
    """Frames at the start of every clip and trial that are predicted but not judged: the network fills its memory."""
    valid: float = pydantic.Field(default=0.1, gt=0, lt=0.5)
    """Share of the training time kept for choosing the best checkpoint, where a recording does not say."""
    test: float = pydantic.Field(default=0.2, gt=0, lt=0.5)
    """Share of the time, at the end, kept for scores, where a recording has neither parts nor repeats."""
    gap_s: float = pydantic.Field(default=1.0, ge=0)
    """Time left out on both sides of a cut between parts within one trial."""


@settings
class Network:
    """Eye, body, core and readout; the defaults are a small core for a small screen."""

    streams: int = pydantic.Field(default=1, ge=1)
    """Parallel copies of core and readout weights, trained in turn and averaged when asked: a built-in ensemble."""
    perspective: bool = True
    """Follow the eye: cast rays from a turning retina onto the monitor."""
    retina_px: tuple[int, int] = (36, 64)
    """Height and width of the retina in rays."""
    monitor_jitter: float = pydantic.Field(default=0.05, ge=0)
    """How far the monitor is moved (half widths) and turned (radians) at random while training."""
    view_deg: float = pydantic.Field(default=75.0, gt=0, lt=180)
    """Angle that the retina's width spans."""
    input_kernel: int = pydantic.Field(default=6, ge=1)
    input_stride: int = pydantic.Field(default=2, ge=1)
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels of the blocks of the feed-forward core, causal in time."""
    pools: tuple[int, ...] = (2, 2, 1)
    """By how much each block shrinks the image."""
    layers: int = pydantic.Field(default=2, ge=1)
    """Convolutions of a block."""
    groups: int = pydantic.Field(default=1, ge=1)
    """Groups of the convolutions within a block."""
    recurrent: Literal["none", "conv-lstm", "cvt-lstm"] = "none"
    hidden: int = pydantic.Field(default=256, ge=8)
    """Channels of the recurrent state."""
    common: int = pydantic.Field(default=512, ge=8)
    """Channels that the groups of the recurrent core exchange."""
    recurrent_groups: int = pydantic.Field(default=8, ge=1)
    outputs: int = pydantic.Field(default=64, ge=8)
    """Channels that a neuron reads: the length of its barcode per stream."""
    modulation: int = pydantic.Field(default=16, ge=0)
    """Width of what behaviour says, recurrent in time; 0 leaves behaviour out."""


@settings
class Responses:
    """Likelihood of the responses, given the predicted rate."""

    likelihood: Literal["poisson", "nb"] = "poisson"
    position_jitter: bool = True
    """Draw a neuron's position from its Gaussian while training, so that it can move towards where it predicts best."""
    solve_first: int = pydantic.Field(default=0, ge=0)
    """Steps after which all readouts are solved on the core as it then is, places searched anew, and again whenever
    training has become twice as long; 0 leaves them to gradient steps."""


@settings
class Recipe:
    """A foundation model of neural activity: one core for all animals, a barcode for each neuron."""

    samples: Clips = Clips()
    encoder: Network = Network()
    objective: Responses = Responses()
    split: Split = Split(by="brain", folds=0)
    fit: Fit = Fit(batch=8, lr=6e-3)
    seed: int = 0
