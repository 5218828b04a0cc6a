"""Joints <-> Gaussian belief maps, vectorised over joints (numpy)."""

from __future__ import annotations

import numpy as np


def gaussian_maps(
    points: np.ndarray, present: np.ndarray, shape: tuple[int, int], sigma: float, threshold: float = 0.01, out=None
) -> np.ndarray:
    """(...,J,2) points in cells -> (...,J,H,W) float32 maps exp(-d^2 / 2 sigma^2), values below `threshold` set to 0.

    A joint whose `present` (...,J) is false, or whose coordinates are NaN, has an all-zero map. `out`: float32, for them.
    """
    height, width = shape
    shown = present & np.isfinite(points).all(-1)
    safe = np.where(shown[..., None], points, 0.0)
    # a Gaussian is separable: two short exponentials instead of one a cell
    columns = np.exp(-((np.arange(width) - safe[..., 0:1]) ** 2) / (2 * sigma**2)).astype(np.float32)
    rows = (np.exp(-((np.arange(height) - safe[..., 1:2]) ** 2) / (2 * sigma**2)) * shown[..., None]).astype(np.float32)
    maps = np.multiply(rows[..., :, None], columns[..., None, :], out=out)
    return np.multiply(maps, maps >= threshold, out=maps)


def decode_maps(maps: np.ndarray, offset: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """(...,J,H,W) maps -> (...,J,2) points in cells and (...,J) peak values.

    The first highest cell in row order, moved by `offset` towards the larger neighbour on each axis (not where both are
    equal) when 1 < x < W-1 and 1 < y < H-1: the decoders of Hourglass, Simple Baselines and MobilePose do this with
    0.25, and all leave out column and row 1 too. A map without a positive value gives (0, 0), as theirs do.
    """
    height, width = maps.shape[-2:]
    flat = maps.reshape(*maps.shape[:-2], height * width)
    index = flat.argmax(-1)
    peak = np.take_along_axis(flat, index[..., None], -1)[..., 0]
    x, y = index % width, index // width
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)

    def neighbour(dx: int, dy: int) -> np.ndarray:
        moved = np.clip(y + dy, 0, height - 1) * width + np.clip(x + dx, 0, width - 1)
        return np.take_along_axis(flat, moved[..., None], -1)[..., 0]

    shift = np.stack([np.sign(neighbour(1, 0) - neighbour(-1, 0)), np.sign(neighbour(0, 1) - neighbour(0, -1))], -1)
    points = np.stack([x, y], -1) + offset * np.where(inside[..., None], shift, 0)
    return np.where((peak > 0)[..., None], points, 0.0), peak
