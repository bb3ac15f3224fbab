"""The features as a plane for the page: components that come out the same every time, in 16-bit steps."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from brodmann.samples import stream

_FITTED = 200_000
_BLOCK = 65_536
STEPS = 65_535


def components(features: Any, count: int = 3) -> tuple[NDArray[np.float32], str]:
    """First principal components of standardised features.

    The axes come from the covariance of up to 200,000 rows, drawn once with a fixed seed; the longest tail of each
    points up and right, as in the figures of a report.

    Parameters
    ----------
    features : array (n, d), sliced in blocks
    count : int
        How many; fewer columns than that give zeros.

    Returns
    -------
    (n, count) float32
    method : str
        In words, with the share of variance of the first two.
    """
    n, width = features.shape
    drawn = np.arange(n) if n <= _FITTED else np.sort(stream(0, "viewer plane", n).choice(n, _FITTED, replace=False))
    total, squares, products = np.zeros(width), np.zeros(width), np.zeros((width, width))
    for start in range(0, len(drawn), _BLOCK):
        x = np.asarray(features[drawn[start : start + _BLOCK]], np.float64)
        total += x.sum(0)
        squares += (x**2).sum(0)
        products += x.T @ x
    mean = total / len(drawn)
    spread = np.sqrt(np.maximum(squares / len(drawn) - mean**2, 0))
    spread = np.maximum(spread, 1e-6)
    covariance = (products / len(drawn) - np.outer(mean, mean)) / np.outer(spread, spread)
    values, vectors = np.linalg.eigh(covariance)
    kept = min(count, width)
    axes = (vectors[:, ::-1][:, :kept] / spread[:, None]).astype(np.float32)
    result = np.zeros((n, count), np.float32)
    for start in range(0, n, _BLOCK):
        x = np.asarray(features[start : start + _BLOCK], np.float32) - mean.astype(np.float32)
        result[start : start + _BLOCK, :kept] = x @ axes
    signs = np.sign(np.take_along_axis(result, np.abs(result).argmax(0)[None], 0))
    result *= np.where(signs == 0, 1, signs)
    share = values[::-1][:2].clip(0).sum() / max(values.clip(0).sum(), 1e-12)
    fitted = "" if n <= _FITTED else f", axes from {_FITTED:,} of {n:,} rows"
    return result, f"PCA, {share:.0%} of variance{fitted}"


def steps(xy: NDArray[np.floating]) -> tuple[NDArray[np.uint16], tuple[float, float, float, float]]:
    """A plane in 16-bit steps, both axes at one scale, and the frame to look at first.

    Parameters
    ----------
    xy : (n, 2) float

    Returns
    -------
    (n, 2) uint16
        The second axis points down, as pixels do.
    frame : (left, top, right, bottom)
        In steps: what holds all but the farthest 0.2 %, so that outliers do not shrink the rest.
    """
    low, high = xy.min(0), xy.max(0)
    side = max(float((high - low).max()), 1e-9)
    middle = (low + high) / 2
    unit = (xy - middle) / side + 0.5
    unit[:, 1] = 1 - unit[:, 1]
    stepped = (unit * STEPS).round().clip(0, STEPS).astype(np.uint16)
    ends = np.percentile(stepped, [0.1, 99.9], axis=0)
    half = max(float((ends[1] - ends[0]).max()) * 0.53, 64.0)
    centre = ends.mean(0)
    frame = (centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)
    return stepped, cast("tuple[float, float, float, float]", tuple(float(v) for v in frame))


def inside(polygon: NDArray[np.floating], xy: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which points lie inside a closed polygon (even-odd rule).

    Parameters
    ----------
    polygon : (v, 2) float
    xy : (n, 2) uint16
        Both in steps.
    """
    from matplotlib.path import Path

    result = np.zeros(len(xy), bool)
    low, high = polygon.min(0), polygon.max(0)
    near = np.flatnonzero(((xy >= np.floor(low)) & (xy <= np.ceil(high))).all(1))
    closed = Path(np.concatenate([polygon, polygon[:1]]))
    for start in range(0, len(near), _BLOCK):
        rows = near[start : start + _BLOCK]
        result[rows] = closed.contains_points(xy[rows].astype(np.float64))
    return result
