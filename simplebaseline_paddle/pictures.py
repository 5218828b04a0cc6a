"""The originals' picture of a batch: each person with its heat-maps laid over the image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from common.codecs import decode_maps
from common.files import atomic_write


def heatmap_grid(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """(n*h, (K+1)*w, 3) uint8 BGR: a row a person, first the image with its peaks circled, then 0.7 map (JET) + 0.3 image for every joint.

    `images` (n,H,W,3) uint8, `maps` (n,K,h,w); values are cut to 0 ... 1.
    """
    height, width = maps.shape[-2:]
    peaks = decode_maps(maps, 0.0)[0]
    rows = []
    for image, own, cells in zip(images, maps, peaks):
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        low, high = int(small.min()), int(small.max())
        small = ((small.astype(np.float32) - low) * (255.0 / max(high - low, 1))).astype(np.uint8)
        first = small.copy()
        for x, y in cells:
            cv2.circle(first, (int(x), int(y)), 1, (0, 0, 255), 1)
        coloured = [cv2.applyColorMap((np.clip(m, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET) for m in own]
        rows.append(np.concatenate([first, *[(0.7 * c + 0.3 * small).astype(np.uint8) for c in coloured]], axis=1))
    return np.concatenate(rows)


def save_grid(path: str | Path, grid: np.ndarray) -> None:
    """Write the picture, whole or not at all."""
    encoded = cv2.imencode(Path(path).suffix, grid)[1].tobytes()
    atomic_write(path, lambda temporary: temporary.write_bytes(encoded))
